//! What the look before showed, and what happened until this one: defrags that ended, alarms that were cleared.
//!
//! Looks are seconds apart. A defrag that is shorter is never seen open, but it is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::next::has_room;
use crate::plan::cluster::{AlarmKind, Look, MemberLook};
use crate::plan::member::MemberId;
use crate::plan::step::Policy;
use crate::plan::time::Mono;

/// What was seen longer ago than this says nothing about who did what since.
const RECENT: Duration = Duration::from_secs(10);

/// The newest look.
#[derive(Debug, Clone, PartialEq)]
pub struct Before {
    /// When it began.
    pub begun: Mono,
    defrags: BTreeMap<MemberId, Defrags>,
    /// Who had NOSPACE: in this look, and while some are silent in those since the newest that showed every member.
    nospace: BTreeSet<MemberId>,
    /// A member lacks room, or is in a defrag: no janitor clears NOSPACE.
    short: bool,
    /// A round may be at work: somebody stands in the queue, an intent is open, or neither could be read.
    of_a_round: bool,
}

/// One member's counts.
#[derive(Debug, Clone, PartialEq)]
struct Defrags {
    seen: Mono,
    open: u64,
    count: u64,
    failed: u64,
    process_start: f64,
    /// Of its file, from when it last answered.
    size: Option<u64>,
}

/// A defrag that ended between two looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ended {
    /// Of which member.
    pub member: MemberId,
    /// How.
    pub how: How,
    /// It began after the look before, too, a moment ago, and no round was about.
    pub unseen: bool,
}

/// How a defrag ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum How {
    /// With this much less in the file, where both sizes were told.
    Done(Option<u64>),
    /// etcd answered with an error.
    Failed,
    /// Its process ended.
    Restarted,
}

impl Before {
    /// What is remembered of this look. Of a member whose metrics did not come, what the look before it showed.
    pub fn new(look: &Look, before: Option<&Before>, policy: &Policy) -> Self {
        let begun = look.begun.mono;
        let defrags = look.members.iter().filter_map(|member| {
            let old = before.and_then(|before| before.defrags.get(&member.id));
            let size = member.status.as_ref().map(|status| status.db_size).ok();
            let defrags = match &member.scrape {
                Ok(scrape) => Defrags {
                    seen: begun,
                    open: scrape.defrags_open,
                    count: scrape.defrag_count,
                    failed: scrape.defrags_failed,
                    process_start: scrape.process_start,
                    size: size.or(old.and_then(|old| old.size)),
                },
                Err(_) => old.cloned()?,
            };
            Some((member.id, defrags))
        });
        let short = |member: &MemberLook| {
            member.scrape.as_ref().is_ok_and(|scrape| scrape.defrags_open > 0)
                || member.status.as_ref().is_ok_and(|status| !has_room(look, member, status, policy))
        };
        // While one is silent (in its defrag) it is not judged who cleared what: that is for the first look that shows all.
        let mut nospace = nospace(look);
        if !everybody_tells(look) {
            nospace.extend(before.iter().flat_map(|before| &before.nospace));
        }
        Before {
            begun,
            defrags: defrags.collect(),
            nospace,
            short: look.members.iter().any(short),
            of_a_round: of_a_round(look),
        }
    }

    /// Defrags that have ended since.
    pub fn ended(&self, look: &Look) -> Vec<Ended> {
        let quiet = !self.of_a_round && !of_a_round(look);
        let ended = |member: &MemberLook| {
            let (old, new) = (self.defrags.get(&member.id)?, member.scrape.as_ref().ok()?);
            let recent = look.begun.mono.since(old.seen) <= RECENT;
            let unseen = old.open == 0 && recent && quiet;
            let how = if (new.process_start - old.process_start).abs() > 0.5 {
                (old.open > 0).then_some(How::Restarted)?
            } else if new.defrag_count > old.count {
                let size = member.status.as_ref().ok().map(|status| status.db_size);
                How::Done(old.size.zip(size).map(|(before, after)| before.saturating_sub(after)))
            } else {
                (new.defrags_failed > old.failed).then_some(How::Failed)?
            };
            Some(Ended { member: member.id, how, unseen })
        };
        look.members.iter().filter_map(ended).collect()
    }

    /// What came of its defrag is known and must not be taken for another one's.
    pub fn forget(&mut self, member: MemberId) {
        self.defrags.remove(&member);
    }

    /// It was seen a moment ago without an open Defragment, and no round was about.
    pub fn was_idle(&self, member: MemberId) -> bool {
        !self.of_a_round
            && self.defrags.get(&member).is_some_and(|defrags| defrags.open == 0 && defrags.seen == self.begun)
    }

    /// Whether NOSPACE was cleared since though a member lacked room: for all that had it (it is `gone`), or for one of
    /// them. For that every member must answer: one alone may be behind, and what nobody tells of may still be up.
    pub fn cleared_too_early(&self, look: &Look, gone: bool) -> bool {
        let recent = look.begun.mono.since(self.begun) <= RECENT;
        let now = nospace(look);
        let told = gone || everybody_tells(look);
        self.short && !self.of_a_round && recent && told && !self.nospace.is_subset(&now)
    }
}

fn everybody_tells(look: &Look) -> bool {
    look.members.iter().all(|member| member.status.is_ok())
}

fn nospace(look: &Look) -> BTreeSet<MemberId> {
    let nospace = |alarm: &crate::plan::cluster::Alarm| alarm.kind == AlarmKind::Nospace;
    look.alarms().into_iter().filter(nospace).map(|alarm| alarm.member).collect()
}

fn of_a_round(look: &Look) -> bool {
    look.records.as_ref().map_or(true, |records| records.intent.is_some() || !records.turns.is_empty())
}
