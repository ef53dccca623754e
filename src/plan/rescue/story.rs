//! What is told of a rescue: its story in numbers, its records, and why there is no way out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::next::{TooLarge, Why};
use super::{COMPACT_WHEN_STUCK, Compaction, KeptFor, Rescue};
use crate::plan::cluster::{Look, describe};
use crate::plan::hold::instant;
use crate::plan::member::{MemberId, RoundId};
use crate::plan::reason::{Blocked, Outcome, Reason};
use crate::plan::record::{RoundRecord, VERSION};
use crate::plan::step::Me;
use crate::plan::time::Now;

/// What happened, as far as this janitor saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Story {
    began: Now,
    members: BTreeMap<MemberId, Seen>,
    compacted: Option<i64>,
    moved: Option<(MemberId, String)>,
}

/// One member, at first and at last.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    name: String,
    shown: String,
    size: (u64, u64),
    in_use: u64,
    count: (u64, u64),
    seconds: (f64, f64),
}

impl Story {
    pub(super) fn new(now: Now) -> Self {
        Story { began: now, members: BTreeMap::new(), compacted: None, moved: None }
    }

    pub(super) fn compacted(&mut self, revision: Option<i64>) {
        self.compacted = revision.max(self.compacted);
    }

    pub(super) fn moved(&mut self, look: &Look, to: MemberId) {
        self.moved = Some((to, super::act::name(look, to)));
    }

    /// Takes note of what each member shows.
    pub(super) fn saw(&mut self, look: &Look) {
        for member in &look.members {
            let (Ok(status), Ok(scrape)) = (&member.status, &member.scrape) else { continue };
            let (count, seconds) = (scrape.defrag_count, scrape.defrag_seconds);
            let seen = self.members.entry(member.id).or_insert_with(|| Seen {
                name: member.name.clone(),
                shown: describe(member),
                size: (status.db_size, status.db_size),
                in_use: status.db_size_in_use,
                count: (count, count),
                seconds: (seconds, seconds),
            });
            if count < seen.count.1 {
                // Restarted: it counts from nothing again.
                (seen.count.0, seen.seconds.0) = (0, 0.0);
            }
            (seen.size.1, seen.count.1, seen.seconds.1) = (status.db_size, count, seconds);
        }
    }

    /// The story in one sentence that goes on from "after".
    pub(super) fn told(&self, now: Now) -> String {
        let mut text = format!("{} s", now.mono.since(self.began.mono).as_secs());
        if let Some(revision) = self.compacted {
            let _ = write!(text, "; compacted to revision {revision}");
        }
        for seen in self.members.values() {
            let (before, after) = seen.size;
            if seen.was_defragmented() {
                let seconds = seen.seconds.1 - seen.seconds.0;
                let _ = write!(text, "; {} {before} to {after} bytes in {seconds:.1} s", seen.shown);
            } else {
                let _ = write!(text, "; {} {after} bytes, not defragmented", seen.shown);
            }
        }
        if let Some((_, name)) = &self.moved {
            let _ = write!(text, "; leadership was moved to {name}");
        }
        text
    }

    /// One record for each member that was defragmented meanwhile.
    pub(super) fn records(&self, round: RoundId, me: &Me, now: Now) -> Vec<RoundRecord> {
        let defragmented = self.members.iter().filter(|(_, seen)| seen.was_defragmented());
        let record = |(member, seen): (&MemberId, &Seen)| RoundRecord {
            v: VERSION,
            round,
            member: *member,
            name: seen.name.clone(),
            outcome: Outcome::Done,
            detail: format!("rescue from NOSPACE, recorded by {}", me.holder),
            started_at: Some(self.began.wall),
            ended_at: now.wall,
            seconds: Some(seen.seconds.1 - seen.seconds.0),
            size_before: Some(seen.size.0),
            in_use_before: Some(seen.in_use),
            size_after: Some(seen.size.1),
            leader_moved_to: self.moved.as_ref().map(|(to, _)| *to),
        };
        defragmented.map(record).collect()
    }
}

impl Seen {
    fn was_defragmented(&self) -> bool {
        self.count.1 > self.count.0
    }
}

impl Rescue {
    /// No defrag helps: what would, and the numbers. The remedy comes first, since a page cuts long sentences.
    pub(super) fn dead_end(&self, look: &Look, too_large: &[TooLarge], leads: bool, now: Now) -> Blocked {
        let numbers = |member: &TooLarge| {
            let share = |bytes: u64| bytes as f64 * 100.0 / member.quota.max(1) as f64;
            format!(
                "{}: file {} bytes ({:.0} % of the quota of {}), in use {} ({:.0} %)",
                member.name,
                member.size,
                share(member.size),
                member.quota,
                member.in_use,
                share(member.in_use)
            )
        };
        let told = |why: Why| {
            let members: Vec<String> = too_large.iter().filter(|m| m.why == why).map(numbers).collect();
            (!members.is_empty()).then(|| members.join("; "))
        };
        if let Some(members) = told(Why::QuotaUnknown) {
            let text = format!("nobody tells the quota: set alarms.quota to have NOSPACE cleared; {members}");
            return Blocked::new(Reason::Nospace, text);
        }
        if let Some(members) = told(Why::InUse) {
            let (reason, text) = match self.compaction.as_ref().map(|(done, _)| done) {
                Some(done) => self.after_compaction(done, now),
                None if leads => (Reason::NotNeeded, "nothing is compacted yet".to_owned()),
                None => {
                    let leader =
                        look.leader().map_or_else(|_| "the leader".to_owned(), |(id, _)| super::act::name(look, id));
                    let text = format!("too much is in use; the janitor of {leader} compacts and says what would help");
                    (Reason::Nospace, text)
                }
            };
            let below = self.policy.disarm_below * 100.0;
            return Blocked::new(reason, format!("{text}. NOSPACE is cleared below {below:.0} %; {members}"));
        }
        let members = told(Why::Learner).unwrap_or_default();
        let text = format!(
            "etcd refuses to defragment a learner, and it would raise the alarm again: promote it, or remove it and add \
             it again; {members}"
        );
        Blocked::new(Reason::Learner, text)
    }

    fn after_compaction(&self, done: &Compaction, now: Now) -> (Reason, String) {
        // Compactions that do something, and still nothing helps: what they free is what was just deleted.
        let in_vain = self.stuck.and_then(|stuck| stuck.compacted);
        let in_vain = in_vain.is_some_and(|(first, _)| now.mono.since(first) >= COMPACT_WHEN_STUCK);
        if let Some(possible) = done.possible_at.filter(|_| !in_vain) {
            let why = match done.kept_for {
                KeptFor::Retention => {
                    "; alarms.compact_to_head: true would not wait for alarms.rescue_retention, at the cost of watchers \
                     that resume and of paginated lists"
                }
                KeptFor::Kubernetes => "; a kube-apiserver's watchers and lists need five minutes of history",
                KeptFor::Nobody => "",
            };
            let text = format!(
                "more can be compacted at {} (in {} s){why}",
                instant(possible.wall),
                possible.mono.since(now.mono).as_secs(),
            );
            return (Reason::NotNeeded, text);
        }
        match done.outcome {
            Outcome::Skipped(reason) if reason != Reason::NotNeeded => {
                (reason, format!("not compacted: {}", done.detail))
            }
            Outcome::Failed(_) => (Reason::EtcdUnavailable, format!("the compaction failed: {}", done.detail)),
            _ => {
                let text = "live data fills the quota: raise --quota-backend-bytes on every member, or delete keys (what \
                            is deleted is compacted after alarms.rescue_retention)";
                (Reason::Nospace, text.to_owned())
            }
        }
    }
}
