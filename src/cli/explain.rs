//! `etcd-janitor explain`: why it did or did not run, with the numbers, and what would have to change.

use std::io::{self, Write};

use chrono::{DateTime, Utc};

use super::screen::{Cell, Screen, column, columns, optional, wrap};
use super::seen::{Seen, see};
use super::{WELL, printable, refused};
use crate::config::Config;
use crate::etcd::Clock;
use crate::http::{Level, about, ago, bytes, span};
use crate::plan::hold::instant;
use crate::plan::reason::{Outcome, Reason};
use crate::plan::rule::Condition;
use crate::plan::snapshot::{Decision, Role, RuleState, Snapshot, Task, TaskKind};
use crate::plan::zone::Zone;

/// What is to be explained.
#[derive(Debug, Clone, clap::Args)]
pub struct Order {
    /// Which task
    #[arg(value_enum, default_value_t)]
    task: Which,
    /// How many decisions
    #[arg(long, default_value_t = 10, value_name = "NUMBER")]
    limit: usize,
    /// How to write it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Compaction or defrag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Which {
    /// Of the local member
    #[default]
    Defrag,
    /// Of the whole cluster
    Compaction,
}

/// How to write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Sentences
    #[default]
    Text,
    /// The rule, the task and its decisions
    Json,
}

impl Which {
    const fn kind(self) -> TaskKind {
        match self {
            Which::Defrag => TaskKind::Defrag,
            Which::Compaction => TaskKind::Compaction,
        }
    }
}

/// Explains. Exit code 0: there is something to tell by; 1: a daemon answers and cannot be understood; 3: nobody answers.
pub fn explain(config: &Config, order: &Order, clock: &Clock, out: &mut impl Write) -> u8 {
    match see(config) {
        Ok(seen) => {
            let screen = Screen::of_stdout();
            let now = clock.now().wall;
            let _ = match order.output {
                Format::Text => write(&seen, order.task, order.limit, screen, now, out),
                Format::Json => json(&seen.snapshot, order.task.kind(), order.limit, out),
            };
            WELL
        }
        Err((code, text)) => {
            refused(&text, order.output == Format::Json, out);
            code
        }
    }
}

fn newest(snapshot: &Snapshot, kind: TaskKind, limit: usize) -> Vec<&Decision> {
    snapshot.decisions.iter().rev().filter(|decision| decision.task == kind).take(limit).collect()
}

fn json(snapshot: &Snapshot, kind: TaskKind, limit: usize, out: &mut impl Write) -> io::Result<()> {
    let rule = snapshot.rule.as_ref().filter(|_| kind == TaskKind::Defrag);
    let task = snapshot.tasks.iter().find(|task| task.task == kind);
    let value = serde_json::json!({
        "api_version": snapshot.api_version,
        "rule": rule,
        "task": task,
        "decisions": newest(snapshot, kind, limit),
    });
    writeln!(out, "{value}")
}

/// Writes the explanation for people.
///
/// # Errors
///
/// `out` cannot be written.
pub fn write(
    seen: &Seen,
    which: Which,
    limit: usize,
    screen: Screen,
    now: DateTime<Utc>,
    out: &mut impl Write,
) -> io::Result<()> {
    let snapshot = &seen.snapshot;
    if let Some(why) = &seen.without_daemon {
        let text = format!("{why} Only what etcd itself shows is explained, by this command's configuration.");
        let word = screen.paint(Level::Attention, "NO JANITOR");
        writeln!(out, "{word}  {}\n", wrap(screen, 12, &printable(&text)))?;
    }
    let kind = which.kind();
    if kind == TaskKind::Defrag {
        standing(snapshot, screen, out)?;
    }
    if let Some(task) = snapshot.tasks.iter().find(|task| task.task == kind) {
        next(task, screen, now, out)?;
    }
    obstacles(snapshot, kind, screen, out)?;
    decisions(&newest(snapshot, kind, limit), screen, now, out)
}

/// The local member's figures, and what the rule says of them.
pub(super) fn standing(snapshot: &Snapshot, screen: Screen, out: &mut impl Write) -> io::Result<()> {
    member(snapshot, screen, out)?;
    match &snapshot.rule {
        Some(state) => rule(state, screen, out),
        None => writeln!(out, "RULE  the local member's figures are not known yet\n"),
    }
}

fn member(snapshot: &Snapshot, screen: Screen, out: &mut impl Write) -> io::Result<()> {
    let Some(member) = snapshot.members.iter().find(|member| member.local) else { return Ok(()) };
    let (Some(size), Some(in_use)) = (member.db_size, member.db_size_in_use) else { return Ok(()) };
    let quota = match member.quota {
        Some(0) => "no quota".to_owned(),
        Some(quota) => format!("quota {}", bytes(quota)),
        None => "quota unknown".to_owned(),
    };
    let free = bytes(size.saturating_sub(in_use));
    let forecast = snapshot.forecast_seconds.map(|seconds| format!(", forecast {seconds:.1} s")).unwrap_or_default();
    let text = format!("{}: {}, {} in use, {free} free, {quota}{forecast}", member.name, bytes(size), bytes(in_use));
    writeln!(out, "MEMBER  {}\n", wrap(screen, 8, &printable(&text)))
}

fn rule(state: &RuleState, screen: Screen, out: &mut impl Write) -> io::Result<()> {
    let says = match state.holds {
        Some(true) => "is true: a defrag pays",
        Some(false) => "is false: a defrag would not pay",
        None => "has no answer",
    };
    writeln!(out, "RULE  {}\n", wrap(screen, 6, &printable(&format!("{} {says}", state.text))))?;
    if state.conditions.is_empty() {
        return writeln!(out, "{}\n", wrap(screen, 0, &printable(&state.told)));
    }
    let mut rows = Vec::new();
    let mut before = None;
    for condition in &state.conditions {
        let word = match before {
            None => "",
            Some(alternative) if alternative == condition.alternative => "and",
            Some(_) => "or",
        };
        before = Some(condition.alternative);
        let answer = match condition.holds {
            Some(true) => Cell::marked(Level::Well, "true"),
            Some(false) => Cell::marked(Level::Attention, "false"),
            None => Cell::marked(Level::Bad, "no answer"),
        };
        rows.push(vec![
            format!("  {word}").into(),
            printable(&condition.text).into(),
            printable(&condition.values).into(),
            answer,
        ]);
    }
    columns(screen, &[column(""), column("CONDITION"), column("NOW"), column("IS")], &rows, out)?;
    writeln!(out)?;
    if state.holds == Some(false) {
        writeln!(out, "{}\n", wrap(screen, 0, &printable(&missing(state))))?;
    }
    Ok(())
}

/// What would have to change: each alternative that lacks the fewest conditions.
fn missing(state: &RuleState) -> String {
    let last = state.conditions.iter().map(|condition| condition.alternative).max().unwrap_or_default();
    let lacking = |alternative| {
        let of = state.conditions.iter().filter(move |condition| condition.alternative == alternative);
        of.filter(|condition| condition.holds != Some(true)).collect::<Vec<_>>()
    };
    let least = (0..=last).map(|alternative| lacking(alternative).len()).min().unwrap_or_default();
    let told = |one: &&Condition| format!("{} (now {})", one.text, one.values);
    let nearest = (0..=last).map(lacking).filter(|of| of.len() == least);
    let texts: Vec<String> = nearest.map(|of| of.iter().map(told).collect::<Vec<_>>().join(" and ")).collect();
    format!("To have it true: {}.", texts.join(", or "))
}

fn next(task: &Task, screen: Screen, now: DateTime<Utc>, out: &mut impl Write) -> io::Result<()> {
    let schedule = format!("schedule {:?} in {}", task.schedule, task.time_zone);
    let text = match task.next_run {
        None => format!("nothing is scheduled ({schedule})"),
        Some(at) => {
            let left = if at > now { format!("in {}", span(at - now)) } else { "now".to_owned() };
            let local = task.time_zone.parse::<Zone>().ok().map(|zone| at.with_timezone(&zone));
            let local = local.map(|at| format!(" = {}", at.format("%a %Y-%m-%d %H:%M:%S %Z"))).unwrap_or_default();
            format!("{left}, at {}{local} ({schedule})", instant(at))
        }
    };
    writeln!(out, "NEXT  {}\n", wrap(screen, 6, &printable(&text)))
}

/// What keeps it from running besides the rule, each with its remedy.
fn obstacles(snapshot: &Snapshot, kind: TaskKind, screen: Screen, out: &mut impl Write) -> io::Result<()> {
    let mut found: Vec<(Reason, String)> = Vec::new();
    if !snapshot.config.valid {
        found.push((Reason::ConfigInvalid, snapshot.config.problems.join("; ")));
    }
    if let Some(problem) = snapshot.trouble() {
        found.push((problem.reason, problem.detail.clone()));
    }
    if let Some(why) = &snapshot.missing_right {
        found.push((Reason::Auth, why.clone()));
    }
    for alarm in &snapshot.alarms {
        let reason = if alarm.alarm == "CORRUPT" { Reason::Corrupt } else { Reason::Nospace };
        found.push((reason, format!("{} raised by {}", alarm.alarm, snapshot.name_of(alarm.member))));
    }
    if let Some(blocked) = snapshot.rescue.as_ref().and_then(|rescue| rescue.waiting_for.as_ref()) {
        found.push((blocked.reason, format!("the rescue waits: {}", blocked.detail)));
    }
    if let Some(hold) = &snapshot.hold {
        found.push((Reason::Hold, hold.told()));
    }
    if let Some(why) = &snapshot.hold_unreadable {
        found.push((Reason::Hold, format!("the hold cannot be read: {why}")));
    }
    if snapshot.quiesced {
        found.push((Reason::Quiesced, String::new()));
    }
    if snapshot.config.dry_run {
        found.push((Reason::DryRun, String::new()));
    }
    if let (TaskKind::Defrag, Some(why)) = (kind, &snapshot.intent_unreadable) {
        found.push((Reason::IntentOpen, format!("the intent cannot be read: {why}")));
    }
    for task in snapshot.tasks.iter().filter(|task| task.task == kind) {
        match (&task.waiting_for, task.last_outcome) {
            (Some(blocked), _) => found.push((blocked.reason, blocked.detail.clone())),
            (None, Some(Outcome::Skipped(reason))) if reason != Reason::NotNeeded => {
                found.push((reason, format!("the last run was skipped: {}", reason.meaning())));
            }
            _ => {}
        }
    }
    if kind == TaskKind::Defrag {
        let told = others(snapshot).into_iter().filter(|(reason, _)| !found.iter().any(|(known, _)| known == reason));
        let told: Vec<_> = told.collect();
        found.extend(told);
    }
    if found.is_empty() {
        return writeln!(out, "IN THE WAY  nothing that is known\n");
    }
    writeln!(out, "IN THE WAY")?;
    for (reason, detail) in found {
        let detail = if detail.is_empty() { reason.meaning().to_owned() } else { detail };
        let what = screen.paint(Level::Attention, reason.name());
        writeln!(out, "  {what}: {}", wrap(screen, reason.name().len() + 4, &printable(&detail)))?;
        writeln!(out, "    {}", wrap(screen, 4, &format!("{} (docs/operating.md#{reason})", reason.remedy())))?;
    }
    writeln!(out)
}

/// What is in the way of a defrag at the members, whether or not a round has met it yet.
fn others(snapshot: &Snapshot) -> Vec<(Reason, String)> {
    let mut found = Vec::new();
    let ours = snapshot.tasks.iter().any(|task| task.task == TaskKind::Defrag && task.in_progress);
    for member in &snapshot.members {
        if member.local && member.role == Role::Learner {
            found.push((Reason::Learner, String::new()));
        }
        if member.local && (ours || snapshot.trouble().is_some()) {
            continue;
        }
        if snapshot.in_defrag(member) {
            // Its janitor's, the rescue's, another tool's.
            found.push((Reason::ForeignDefrag, format!("{} is being defragmented", member.name)));
        } else if let Some(problem) = member.problem.as_ref().filter(|_| member.role != Role::Learner) {
            found.push((about(problem), format!("{}: {problem}", member.name)));
        }
    }
    if let Some(intent) = snapshot.intent.as_ref().filter(|_| !ours && snapshot.running_intent().is_none()) {
        let who = snapshot.name_of(intent.member);
        let text = format!("{} announced a defrag of {who} in {}, and left it open", intent.holder, intent.round);
        found.push((Reason::IntentOpen, text));
    }
    found
}

fn decisions(decisions: &[&Decision], screen: Screen, now: DateTime<Utc>, out: &mut impl Write) -> io::Result<()> {
    if decisions.is_empty() {
        return writeln!(
            out,
            "DECISIONS  none is remembered: the janitor keeps the newest 25 of each task since it started"
        );
    }
    let rows: Vec<Vec<Cell>> = decisions
        .iter()
        .map(|decision| {
            let reason = decision.blocked.as_ref().map(|blocked| blocked.reason);
            let text = match reason {
                Some(reason) if !decision.text.contains(reason.name()) => format!("{} [{reason}]", decision.text),
                _ => decision.text.clone(),
            };
            vec![
                ago(now - decision.at).into(),
                decision.round.map_or_else(|| "-".to_owned(), |round| round.to_string()).into(),
                printable(&text).into(),
            ]
        })
        .collect();
    // What was decided is the answer: it is never cut.
    let screen = Screen { width: None, ..screen };
    columns(screen, &[column("DECIDED"), optional("ROUND", 1), column("WHAT AND WHY")], &rows, out).map(drop)
}
