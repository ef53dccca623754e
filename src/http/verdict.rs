//! The one sentence that says how things are.

use chrono::{DateTime, TimeDelta, Utc};

use super::hints::{is_plan, without_janitor};
use super::page::growing;
use super::page::text::{ago, bytes, span};
use crate::plan::reason::{Blocked, Outcome};
use crate::plan::snapshot::{Member, Snapshot, Task, TaskKind};

/// Since the newest record of a round; who has none by then, is late. `defrag.leader_wait` by default.
const AFTER_ROUND: TimeDelta = TimeDelta::minutes(30);

/// How much attention the sentence wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing to do for anybody.
    Well,
    /// Maintenance is under way.
    Working,
    /// Maintenance is held back, or something should be looked at.
    Attention,
    /// etcd refuses writes, is corrupt or away, or nothing can be done.
    Bad,
}

impl Level {
    /// One word, also the page's class.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Well => "well",
            Level::Working => "working",
            Level::Attention => "attention",
            Level::Bad => "bad",
        }
    }
}

/// A sentence and its weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How much attention it wants.
    pub level: Level,
    /// What there is to say; not escaped.
    pub text: String,
}

/// How things are: the gravest of what `snapshot` shows.
pub fn verdict(snapshot: &Snapshot, now: DateTime<Utc>) -> Verdict {
    let (level, text) = grave(snapshot)
        .or_else(|| held(snapshot, now))
        .or_else(|| working(snapshot, TaskKind::Defrag))
        .or_else(|| worrying(snapshot, now))
        // For hours a compaction may wait for another janitor's: what worries comes first.
        .or_else(|| defragmented(snapshot))
        .or_else(|| working(snapshot, TaskKind::Compaction))
        .unwrap_or_else(|| match snapshot.janitor.instance.as_str() {
            "" => (
                Level::Attention,
                "Nothing is known to be wrong with etcd; no janitor answers here that would look after it.".to_owned(),
            ),
            _ => (Level::Well, idle(snapshot, now)),
        });
    Verdict { level, text }
}

fn grave(snapshot: &Snapshot) -> Option<(Level, String)> {
    if !snapshot.config.valid {
        let why = snapshot.config.problems.first().map(String::as_str).unwrap_or("none could be loaded");
        return Some((Level::Bad, format!("The configuration is not valid and nothing is done: {why}")));
    }
    if let Some(alarm) = snapshot.alarms.iter().max_by_key(|alarm| alarm.alarm == "CORRUPT") {
        let name = snapshot.name_of(alarm.member);
        let effect = if alarm.alarm == "NOSPACE" { ": etcd refuses writes" } else { "" };
        let rescue = snapshot.rescue.as_ref().filter(|_| alarm.alarm == "NOSPACE");
        let rescue = rescue.map(|rescue| format!(" Rescue: {}.", rescue.told())).unwrap_or_default();
        return Some((Level::Bad, format!("The {} alarm is up on {name}{effect}.{rescue}", alarm.alarm)));
    }
    if let Some(problem) = snapshot.trouble() {
        let detail = if problem.detail.is_empty() { String::new() } else { format!(" ({})", problem.detail) };
        return Some((Level::Bad, format!("Nothing can be done. {}{detail}", problem.reason.meaning())));
    }
    match snapshot.etcd_up {
        Some(true) => None,
        Some(false) if snapshot.is_local_busy() => None,
        Some(false) => Some((Level::Bad, "The local member does not answer.".to_owned())),
        None => Some((Level::Attention, "Starting: the local member was not asked yet.".to_owned())),
    }
}

fn held(snapshot: &Snapshot, now: DateTime<Utc>) -> Option<(Level, String)> {
    if let Some(hold) = &snapshot.hold {
        let left = span(hold.until - now);
        return Some((Level::Attention, format!("Held by {} for another {left}: {}", hold.by, hold.reason)));
    }
    if let Some(why) = &snapshot.hold_unreadable {
        let text = format!("Held by a record that cannot be read ({why}); `etcd-janitor release` removes it.");
        return Some((Level::Attention, text));
    }
    if let Some(why) = &snapshot.intent_unreadable {
        return Some((Level::Attention, format!("No defrag starts: the intent cannot be read ({why}).")));
    }
    snapshot.quiesced.then(|| (Level::Attention, "Quiesced: nothing new is started.".to_owned()))
}

fn working(snapshot: &Snapshot, kind: TaskKind) -> Option<(Level, String)> {
    let task = snapshot.tasks.iter().find(|task| task.in_progress && task.task == kind)?;
    if let Some(blocked) = &task.waiting_for {
        // It tries again and again for as long as the window is open, and gets nowhere: hours, perhaps.
        return Some((Level::Attention, waits(task.task, blocked)));
    }
    let phase = if task.phase.is_empty() { String::new() } else { format!(": {}", task.phase) };
    Some((Level::Working, format!("{} under way{phase}.", title(task.task))))
}

/// Whoever sent it: another janitor, its rescue, another tool.
fn defragmented(snapshot: &Snapshot) -> Option<(Level, String)> {
    let member = snapshot.members.iter().find(|member| snapshot.in_defrag(member))?;
    Some((Level::Working, format!("{} is being defragmented.", member.name)))
}

fn worrying(snapshot: &Snapshot, now: DateTime<Utc>) -> Option<(Level, String)> {
    let attention = |text: String| Some((Level::Attention, text));
    let away = snapshot.members.iter().filter(|member| !snapshot.in_defrag(member));
    if let Some((member, problem)) = away.into_iter().find_map(|m| Some((m, m.problem.as_ref()?))) {
        return attention(format!("{} is not well: {problem}", member.name));
    }
    if let Some(intent) = snapshot.intent.as_ref().filter(|_| snapshot.running_intent().is_none())
        && !snapshot.members.iter().any(|member| snapshot.in_defrag(member))
    {
        let member = snapshot.name_of(intent.member);
        return attention(format!("The outcome of a defrag of {member} by {} is not resolved yet.", intent.holder));
    }
    if let Some(why) = &snapshot.missing_right {
        return attention(format!("etcd does not let it do all of its work: {why}"));
    }
    if !snapshot.config.last_reload_successful {
        let why = snapshot.config.problems.first().map(|why| format!(": {why}")).unwrap_or_default();
        return attention(format!("The newest configuration was refused and the one before is in force{why}"));
    }
    let soon = TimeDelta::days(7);
    if let Some(certificate) = snapshot.certificates.iter().find(|c| c.not_after - now < soon) {
        let left = certificate.not_after - now;
        return attention(match left > TimeDelta::zero() {
            true => format!("The {} certificate ends in {}.", certificate.usage, span(left)),
            false => format!("The {} certificate has expired.", certificate.usage),
        });
    }
    if let Some(growth) = snapshot.growth.as_ref().filter(|growth| growth.before_next_round) {
        return attention(format!("At its growth {}.", growing(growth, now)));
    }
    // What is switched off waits for nothing.
    for task in snapshot.tasks.iter().filter(|task| task.enabled) {
        if let Some(outcome @ (Outcome::Failed(_) | Outcome::Unknown)) = task.last_outcome {
            return attention(format!("The last {} ended as {outcome}.", task.task.name()));
        }
        if let Some(blocked) = task.waiting_for.as_ref().filter(|_| !task.in_progress) {
            return attention(waits(task.task, blocked));
        }
        if let (TaskKind::Defrag, Some(Outcome::Skipped(reason))) = (task.task, task.last_outcome)
            && !is_plan(reason)
        {
            return attention(format!("The last defrag was skipped, {reason}. {}", reason.meaning()));
        }
    }
    // A round may still be going on: the leader's janitor lets the others go first.
    let over = snapshot.history.first().is_some_and(|newest| now - newest.ended_at > AFTER_ROUND);
    let missing = snapshot.members.iter().filter(|_| over).find_map(|member| without_janitor(snapshot, member));
    missing.and_then(|hint| attention(hint.text))
}

/// What a member is doing, or what is wrong with it; not escaped.
pub fn doing(snapshot: &Snapshot, member: &Member) -> (Level, String) {
    if snapshot.in_defrag(member) {
        return (Level::Working, "defrag under way".to_owned());
    }
    if let Some(problem) = &member.problem {
        return (Level::Bad, problem.clone());
    }
    if snapshot.intent.as_ref().is_some_and(|intent| intent.member == member.id) {
        return (Level::Attention, "a defrag's outcome is not resolved yet".to_owned());
    }
    match member.place {
        Some(0) => return (Level::Working, "has the turn".to_owned()),
        Some(place) => return (Level::Working, format!("in the queue, {place} before it")),
        None => {}
    }
    let newest = snapshot.history.iter().find(|record| record.member == member.id);
    match newest.map(|record| record.outcome) {
        Some(outcome @ (Outcome::Failed(_) | Outcome::Unknown | Outcome::Skipped(_))) => {
            (Level::Attention, format!("last round {outcome}"))
        }
        _ if member.pays == Some(true) => (Level::Well, "idle, a defrag pays".to_owned()),
        _ => (Level::Well, "idle".to_owned()),
    }
}

fn waits(task: TaskKind, blocked: &Blocked) -> String {
    format!("{} waits: {blocked}", title(task))
}

fn idle(snapshot: &Snapshot, now: DateTime<Utc>) -> String {
    let Some(task) = snapshot.tasks.iter().find(|task| task.task == TaskKind::Defrag) else {
        return "Idle.".to_owned();
    };
    let dry = if snapshot.config.dry_run { "Dry run, nothing is sent. " } else { "" };
    format!("{dry}Idle: {}{}.", next(task, now), last(snapshot, task, now))
}

fn next(task: &Task, now: DateTime<Utc>) -> String {
    match task.next_run {
        _ if !task.enabled => "defrag is switched off".to_owned(),
        Some(at) if at > now => format!("next defrag due in {}", span(at - now)),
        Some(_) => "the next defrag is due now".to_owned(),
        None => "no defrag is scheduled".to_owned(),
    }
}

fn last(snapshot: &Snapshot, task: &Task, now: DateTime<Utc>) -> String {
    let Some(at) = task.last_success else { return String::new() };
    let ours = snapshot.history.iter().find(|r| Some(r.member) == snapshot.local && r.outcome == Outcome::Done);
    let freed = ours.and_then(|record| record.size_before?.checked_sub(record.size_after?));
    match freed {
        Some(freed) => format!("; the last one, {}, freed {}", ago(now - at), bytes(freed)),
        None => format!("; the last one was {}", ago(now - at)),
    }
}

fn title(task: TaskKind) -> &'static str {
    match task {
        TaskKind::Compaction => "Compaction",
        TaskKind::Defrag => "Defrag",
    }
}
