//! What to do about what the snapshot shows: one sentence each, the gravest first.

use chrono::{DateTime, TimeDelta, Utc};

use super::page::text::span;
use crate::plan::reason::{Outcome, Reason};
use crate::plan::record::RoundRecord;
use crate::plan::snapshot::{Member, Snapshot, TaskKind};

/// A certificate that ends sooner wants attention.
const SOON: TimeDelta = TimeDelta::days(30);

/// A remedy for one thing that is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// What it is about and what to do; not escaped.
    pub text: String,
    /// Where docs/operating.md says more.
    pub anchor: String,
}

impl Hint {
    fn new(text: String, anchor: &str) -> Self {
        Hint { text, anchor: anchor.to_owned() }
    }

    fn of(about: &str, reason: Reason) -> Self {
        Hint { text: format!("{about}: {}", reason.remedy()), anchor: reason.name().to_owned() }
    }
}

/// Everything that wants somebody's attention, without saying anything twice.
pub fn hints(snapshot: &Snapshot, now: DateTime<Utc>) -> Vec<Hint> {
    let mut found = Vec::new();
    if !snapshot.config.valid || !snapshot.config.last_reload_successful {
        found.push(Hint::of("configuration", Reason::ConfigInvalid));
    }
    if let Some(problem) = snapshot.trouble() {
        found.push(Hint::of(problem.reason.name(), problem.reason));
    }
    if snapshot.missing_right.is_some() {
        found.push(Hint::of("rights", Reason::Auth));
    }
    for alarm in &snapshot.alarms {
        found.push(match alarm.alarm.as_str() {
            "CORRUPT" => Hint::of(&alarm.alarm, Reason::Corrupt),
            _ => Hint::new(format!("{}: {}", alarm.alarm, nospace(snapshot)), Reason::Nospace.name()),
        });
    }
    if snapshot.hold.is_some() || snapshot.hold_unreadable.is_some() {
        found.push(Hint::of("hold", Reason::Hold));
    }
    if snapshot.quiesced {
        found.push(Hint::of("quiesced", Reason::Quiesced));
    }
    if snapshot.intent_unreadable.is_some() {
        let text =
            "intent: let a janitor of the release that wrote it settle it, or delete the key v1/intent".to_owned();
        found.push(Hint::new(text, "intent_open"));
    }
    for member in &snapshot.members {
        if snapshot.in_defrag(member) {
            continue;
        }
        // Of the local one the line above says it.
        if let Some(problem) = member.problem.as_ref().filter(|_| !member.local || snapshot.problem.is_none()) {
            found.push(Hint::of(&member.name, about(problem)));
        }
    }
    for task in &snapshot.tasks {
        let name = task.task.name();
        match (&task.waiting_for, task.last_outcome) {
            (Some(blocked), _) if !is_plan(blocked.reason) => found.push(Hint::of(name, blocked.reason)),
            (_, Some(Outcome::Skipped(reason))) if !is_plan(reason) => {
                found.push(Hint::of(&format!("the last {name} was skipped, {reason}"), reason));
            }
            (_, Some(Outcome::Failed(failure))) => {
                let text = format!(
                    "the last {name} failed ({}): `etcd-janitor explain {name}` has etcd's words",
                    failure.name()
                );
                found.push(Hint::new(text, "failed"));
            }
            (_, Some(Outcome::Unknown)) => {
                let text = format!(
                    "the last {name}: nobody knows how it ended; `etcd-janitor explain {name}` has what was seen"
                );
                found.push(Hint::new(text, "unknown"));
            }
            _ => {}
        }
    }
    for certificate in snapshot.certificates.iter().filter(|certificate| certificate.not_after - now < SOON) {
        let left = certificate.not_after - now;
        let usage = &certificate.usage;
        found.push(Hint::new(
            match left > TimeDelta::zero() {
                true => format!(
                    "the {usage} certificate ends in {}: renew it; a new file is read without a restart",
                    span(left)
                ),
                false => format!("the {usage} certificate has expired: renew it; a new file is read without a restart"),
            },
            "etcdjanitorcertificate",
        ));
    }
    if snapshot.growth.as_ref().is_some_and(|growth| growth.before_next_round) {
        let text = "growth: raise the quota, shorten the retention, or find out who writes so much".to_owned();
        found.push(Hint::new(text, "etcdjanitorquotasoon"));
    }
    found.extend(snapshot.members.iter().filter_map(|member| without_janitor(snapshot, member)));
    found.dedup();
    found
}

/// The reason that a member's problem begins with. That nobody answers means that this member is down.
pub fn about(problem: &str) -> Reason {
    let name = problem.split(':').next().unwrap_or_default();
    let named = Reason::ALL.iter().copied().find(|reason| reason.name() == name);
    named.filter(|reason| *reason != Reason::EtcdUnavailable).unwrap_or(Reason::MemberDown)
}

/// What becomes of NOSPACE, and what to do where the janitors cannot.
fn nospace(snapshot: &Snapshot) -> String {
    let Some(rescue) = &snapshot.rescue else {
        let why = match (snapshot.config.dry_run, snapshot.quiesced) {
            (true, _) => "nothing is sent in a dry run",
            (_, true) => "this janitor is quiesced",
            _ => "no rescue is under way here, as long as etcd does not answer or with `alarms.rescue: false`",
        };
        return format!("{why}: by hand, compact, defragment member by member, then `etcdctl alarm disarm`");
    };
    match &rescue.waiting_for {
        None => format!("nothing; the rescue works on it ({})", rescue.phase),
        // These say themselves what would help.
        Some(blocked) if matches!(blocked.reason, Reason::Nospace | Reason::NotNeeded) => blocked.detail.clone(),
        Some(blocked) => format!("the rescue waits for {}: {}", blocked.reason, blocked.reason.remedy()),
    }
}

/// What the operator wanted, or what is as it should be.
pub(super) const fn is_plan(reason: Reason) -> bool {
    matches!(reason, Reason::Disabled | Reason::NotNeeded | Reason::DryRun | Reason::Hold | Reason::Quiesced)
}

/// A member that the rule would have defragmented, and that took no part in the newest round in which others did. A member
/// that needs nothing writes no record, so without the rule nothing can be told.
pub(super) fn without_janitor(snapshot: &Snapshot, member: &Member) -> Option<Hint> {
    let newest: &RoundRecord = snapshot.history.first()?;
    let rounds = snapshot.tasks.iter().any(|task| task.task == TaskKind::Defrag && task.in_progress);
    let idle = snapshot.intent.is_none() && snapshot.queue.is_empty() && !rounds;
    let took_part = snapshot.history.iter().any(|record| record.round == newest.round && record.member == member.id);
    if took_part || member.local || !idle || member.pays != Some(true) {
        return None;
    }
    let text = format!(
        "{}: the rule would defragment it, and {} has no record of it: is a janitor running beside it, with the same schedule?",
        member.name, newest.round
    );
    Some(Hint::new(text, "a-janitor-is-missing"))
}
