//! What a look shows, as few bits, and the look that a plan is given for it.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use etcd_janitor::plan::cluster::{
    Alarm, Listing, Look, MemberLook, Place as QueuePlace, QuotaBytes, Records, Scrape, Status, Stored,
};
use etcd_janitor::plan::member::{MemberId, RoundId, RoundKind};
use etcd_janitor::plan::reason::{Blocked, Outcome, Reason};
use etcd_janitor::plan::record::{Intent as IntentRecord, TurnRecord, VERSION};
use etcd_janitor::plan::time::Now;

use super::scope::{Mutant, Scope};
use super::world::{Etcd, Intent, Made, Proc};

/// What one look shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seen {
    /// None: not reached.
    pub members: [Option<SeenMember>; 3],
    pub queue: Vec<Made>,
    pub intent: Option<Intent>,
    pub outcomes: [Option<Outcome>; 3],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SeenMember {
    pub answers: bool,
    pub leader: u8,
    pub term: u8,
    pub open: u8,
    pub count: u8,
    pub start: u8,
}

const SIZE: u64 = 1 << 30;
/// What a round's members show: bytes of the file, and of them in use.
const HALF_FREE: (u64, u64) = (SIZE, SIZE / 8);
pub const QUOTA: u64 = 8 * SIZE;

pub fn wall() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH
}

pub fn round() -> RoundId {
    RoundId { kind: RoundKind::Cron, due: wall() }
}

pub fn id(member: usize) -> MemberId {
    MemberId(member as u64 + 1)
}

pub fn instance(by: u8, epoch: u8) -> String {
    format!("j{by}.{epoch}")
}

impl Seen {
    /// What `reader` sees at this instant.
    pub fn now(etcd: &Etcd, reader: usize, proc: &Proc, scope: &Scope, last: bool) -> Self {
        let blind = last && scope.has(Mutant::NoLastLook);
        let member = |index: usize| {
            let member = &etcd.members[index];
            let reached = proc.cut != Some(index as u8);
            if !reached && !blind && !scope.has(Mutant::SilentLookWell) {
                return None;
            }
            let hidden = blind || !reached || scope.has(Mutant::DefragsHidden);
            let leader = if blind || scope.has(Mutant::LeaderHidden) {
                (0..3).find(|other| *other != reader).unwrap_or_default() as u8
            } else {
                etcd.leader
            };
            Some(SeenMember {
                answers: hidden || member.serves(),
                leader,
                term: etcd.term,
                open: if hidden { 0 } else { member.open.len() as u8 },
                count: member.count,
                start: member.start,
            })
        };
        let own = |made: &Made| usize::from(made.by) == reader && made.epoch == proc.epoch;
        let mut queue: Vec<Made> = etcd.queue.iter().map(|place| place.made).collect();
        if scope.has(Mutant::NoTurn) {
            queue.sort_by_key(|made| !own(made));
        }
        let shown = |intent: &Intent| !scope.has(Mutant::NoIntent) || own(&intent.made);
        Seen {
            members: [member(0), member(1), member(2)],
            queue,
            intent: etcd.intent.filter(shown),
            outcomes: etcd.outcomes.map(|recorded| recorded.map(|recorded| recorded.outcome)),
        }
    }

    /// The members of one instant and the records of another.
    pub fn join(members: &Seen, records: Seen) -> Self {
        Seen { members: members.members, ..records }
    }

    /// The look that a plan is given.
    pub fn look(&self, begun: Now, asked_about: RoundId) -> Look {
        let quiet = |index: usize| member(index, self.members[index], HALF_FREE, BTreeSet::new());
        let members = (0..3).map(quiet).collect();
        let place = |made: &Made| QueuePlace {
            lease: made.number(),
            create_revision: made.number(),
            value: Ok(TurnRecord {
                v: VERSION,
                member: id(made.by.into()),
                instance: instance(made.by, made.epoch),
                holder: format!("pod-{}", made.by),
                round: round(),
                at: wall(),
                extra: Default::default(),
            }),
        };
        let outcomes = self.outcomes.iter().enumerate();
        let outcomes = outcomes.filter_map(|(member, outcome)| outcome.map(|outcome| (id(member), outcome)));
        let records = Records {
            intent: self
                .intent
                .map(|intent| Stored { mod_revision: intent.made.number(), value: Ok(announced(intent)) }),
            hold: None,
            turns: self.queue.iter().map(place).collect(),
            outcomes: if asked_about == round() { outcomes.collect() } else { Vec::new() },
        };
        Look { begun, listing: Listing::Agreed, members, records: Ok(records), disk: None, rights: Ok(()) }
    }
}

/// What a look tells of one member with a file of so many bytes, of which so many are in use.
pub fn member(index: usize, seen: Option<SeenMember>, bytes: (u64, u64), alarms: BTreeSet<Alarm>) -> MemberLook {
    let silent = || Blocked::new(Reason::EtcdUnavailable, "no answer within a second");
    let status = seen.filter(|seen| seen.answers).map(|seen| Status {
        version: "3.5.30".to_owned(),
        db_size: bytes.0,
        db_size_in_use: bytes.1,
        quota: None,
        leader: Some(id(seen.leader.into())),
        term: seen.term.into(),
        index: 100,
        applied: 100,
        revision: 100,
        alarms,
        learner: false,
    });
    let scrape = seen.map(|seen| Scrape {
        defrags_open: seen.open.into(),
        snapshots_open: 0,
        defrag_count: seen.count.into(),
        defrags_failed: 0,
        defrag_seconds: 0.0,
        process_start: start(seen.start),
        quota: Some(QuotaBytes::Bytes(QUOTA)),
        compact_revision: None,
        active_peers: BTreeSet::new(),
    });
    MemberLook {
        id: id(index),
        name: format!("m{index}"),
        learner: false,
        status: status.ok_or_else(silent),
        scrape: scrape.ok_or_else(silent),
    }
}

fn start(which: u8) -> f64 {
    1000.0 + 100.0 * f64::from(which)
}

/// The record as its writer wrote it.
fn announced(intent: Intent) -> IntentRecord {
    IntentRecord {
        v: VERSION,
        member: id(intent.made.by.into()),
        instance: instance(intent.made.by, intent.made.epoch),
        holder: format!("pod-{}", intent.made.by),
        round: round(),
        target_start: start(intent.start),
        target_count: intent.count.into(),
        db_size: SIZE,
        db_size_in_use: SIZE / 8,
        at: wall(),
        extra: Default::default(),
    }
}

/// What of a record the model keeps.
pub fn kept(record: &IntentRecord, made: Made) -> Intent {
    let start = ((record.target_start - start(0)) / 100.0).round() as u8;
    Intent { made, count: record.target_count as u8, start }
}
