//! What one look names as the next thing to do.
//!
//! A function of the look and of the configuration alone: janitors that see the same figures name the same member, with
//! no lock between them. That is what keeps two of them from sending at once when etcd refuses every write.

use std::collections::BTreeSet;

use crate::plan::cluster::{
    AlarmKind, Look, MemberLook, QuotaBytes, Status, alive, describe, keeping_up, listed, no_open_snapshot,
};
use crate::plan::hold::no_hold;
use crate::plan::member::MemberId;
use crate::plan::reason::{Blocked, Reason};
use crate::plan::step::Policy;
use crate::plan::time::Now;

/// With less than this free in the file, a defrag is not worth its cost. Of a small quota a twentieth counts.
const WORTHWHILE: u64 = 32 << 20;

/// The next thing to do. Whoever carries it out, it is about the same members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// The lowest id among the voters that a defrag would help and that do not lead.
    Defragment(MemberId),
    /// Only the leader is left: leadership goes to the lowest id among the other voters.
    MoveLeader {
        /// Who leads.
        from: MemberId,
        /// Who should.
        to: MemberId,
    },
    /// Every member has room: the alarms of these are cleared.
    Disarm(BTreeSet<MemberId>),
    /// No defrag helps any more and somebody is still too large.
    Stuck(Vec<TooLarge>),
}

/// A member that stands in the way of clearing NOSPACE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooLarge {
    /// Which.
    pub member: MemberId,
    /// Its name, for people.
    pub name: String,
    /// Why no defrag helps.
    pub why: Why,
    /// Bytes of its file.
    pub size: u64,
    /// Bytes in use in it.
    pub in_use: u64,
    /// Its quota in bytes; 0 when it is not known.
    pub quota: u64,
}

/// Why no defrag helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It refuses a defrag.
    Learner,
    /// What is in use is too much, or all of the file is in use.
    InUse,
    /// Nobody told its quota.
    QuotaUnknown,
}

/// What the figures of one member say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    /// Below the threshold.
    Enough,
    /// A defrag would bring it below the threshold, or nearer to it.
    AfterDefrag,
    /// A defrag would not help.
    None(Why),
}

/// What comes next, or what is in the way of anything.
///
/// # Errors
///
/// Anything but a cluster that answers, agrees and is left alone. With five or more voters one may be down, if the leader
/// misses it, too.
pub fn next(look: &Look, me: MemberId, policy: &Policy, now: Now) -> Result<Next, Blocked> {
    listed(look, me)?;
    if let Some(alarm) = look.alarms().iter().find(|alarm| alarm.kind == AlarmKind::Corrupt) {
        return Err(Blocked::new(Reason::Corrupt, format!("CORRUPT raised by {}: nothing is touched", alarm.member)));
    }
    if let Some((member, open)) = open_defrag(look) {
        return Err(Blocked::new(
            Reason::ForeignDefrag,
            format!("{} has {open} open Defragment call(s)", describe(member)),
        ));
    }
    let down = down(look)?;
    let (leader, _) = look.leader()?;
    no_open_snapshot(look)?;
    keeping_up(look)?;
    left_alone(look, now)?;

    let room = |member: &MemberLook, status: &Status| room(member, status, look.quota(member.id, policy.quota), policy);
    let up = || look.members.iter().filter(|member| Some(member.id) != down);
    let answering = || up().filter_map(|member| Some((member, member.status.as_ref().ok()?)));
    let helped = |(member, status): &(&MemberLook, &Status)| room(member, status) == Room::AfterDefrag;
    let mut voters: Vec<MemberId> =
        answering().filter(|(member, _)| !member.learner).filter(helped).map(|(member, _)| member.id).collect();
    voters.sort_unstable();
    if let Some(lowest) = voters.iter().find(|id| **id != leader || look.voter_count() == 1) {
        return Ok(Next::Defragment(*lowest));
    }
    if !voters.is_empty() {
        let others = up().filter(|member| !member.learner && member.id != leader);
        return match others.map(|member| member.id).min() {
            Some(to) => Ok(Next::MoveLeader { from: leader, to }),
            None => Err(Blocked::new(Reason::LeaderNotMoved, "no other voter answers that could lead")),
        };
    }
    let too_large: Vec<TooLarge> = answering()
        .filter_map(|(member, status)| match room(member, status) {
            Room::None(why) => Some(too_large(member, status, look.quota(member.id, policy.quota), why)),
            _ => None,
        })
        .collect();
    if !too_large.is_empty() {
        return Ok(Next::Stuck(too_large));
    }
    // A voter that may be down is excused here as it was before: with it the cluster would stay closed for as long as it
    // is away. A learner that is down is not: nobody would ever defragment it.
    for member in up() {
        alive(member)?;
    }
    let nospace = look.alarms().into_iter().filter(|alarm| alarm.kind == AlarmKind::Nospace);
    Ok(Next::Disarm(nospace.map(|alarm| alarm.member).collect()))
}

/// The first member with an open Defragment, and how many.
fn open_defrag(look: &Look) -> Option<(&MemberLook, u64)> {
    let open = |member: &MemberLook| member.scrape.as_ref().map_or(0, |scrape| scrape.defrags_open);
    look.members.iter().map(|member| (member, open(member))).find(|(_, open)| *open > 0)
}

/// Whether `open`, which is in a defrag and may answer nothing, is what would have been named.
pub fn would_be_next(look: &Look, open: MemberId, policy: &Policy) -> bool {
    let leader = look.leader().ok().map(|(leader, _)| leader);
    let lower = look.voters().filter(|member| member.id < open && Some(member.id) != leader);
    let needs = |member: &MemberLook| {
        member
            .status
            .as_ref()
            .is_ok_and(|status| room(member, status, look.quota(member.id, policy.quota), policy) == Room::AfterDefrag)
    };
    let voter = look.voters().any(|member| member.id == open);
    voter && (leader != Some(open) || look.voter_count() == 1) && !lower.into_iter().any(needs)
}

/// The one voter that may be down: there are five or more, and those that answer are a quorum even without the one that
/// is being defragmented.
///
/// That it does not answer *here* is not enough. A janitor that is cut off from one member would name another one than
/// all the others do. So there must be a second witness: the leader has no connection with that member's process either,
/// by its own metrics.
fn down(look: &Look) -> Result<Option<MemberId>, Blocked> {
    let mut silent = None;
    for member in look.voters() {
        let Err(blocked) = alive(member) else { continue };
        // Its Status came: it runs, and in an open Defragment that cannot be seen for all that is known.
        if silent.is_some() || member.status.is_ok() || look.voter_count() < 5 {
            return Err(blocked);
        }
        silent = Some((member.id, blocked));
    }
    let Some((silent, blocked)) = silent else { return Ok(None) };
    let (leader, _) = look.leader()?;
    if silent == leader {
        return Err(Blocked::new(Reason::NoLeader, format!("the leader {leader} does not answer here")));
    }
    let peers = look.member(leader).and_then(|leader| leader.scrape.as_ref().ok()).map(|scrape| &scrape.active_peers);
    // Of five the leader has at least two: without any, it does not tell.
    if peers.is_some_and(|peers| !peers.is_empty() && !peers.contains(&silent)) {
        return Ok(Some(silent));
    }
    let text = format!("{}; it is not down: the leader has connections with it", blocked.detail);
    Err(Blocked::new(blocked.reason, text))
}

/// Nobody holds, queues for or announces anything.
fn left_alone(look: &Look, now: Now) -> Result<(), Blocked> {
    let records = look.records()?;
    no_hold(records.hold.as_ref(), now.wall)?;
    if let Some(place) = records.turns.first() {
        let who = place.value.as_ref().map_or("somebody", |turn| turn.holder.as_str());
        let text =
            format!("{who} still stands in the queue of a round; waits until the place is given up or its lease ends");
        return Err(Blocked::new(Reason::IntentOpen, text));
    }
    if records.intent.is_some() {
        return Err(Blocked::new(Reason::IntentOpen, "a defrag of a round is not settled yet"));
    }
    Ok(())
}

/// Whether this member's file is below the threshold.
pub fn has_room(look: &Look, member: &MemberLook, status: &Status, policy: &Policy) -> bool {
    room(member, status, look.quota(member.id, policy.quota), policy) == Room::Enough
}

/// How much a defrag must give back to be worth its cost.
pub fn worthwhile(quota: Option<QuotaBytes>) -> u64 {
    match quota {
        Some(QuotaBytes::Bytes(bytes)) => WORTHWHILE.min(bytes / 20),
        _ => WORTHWHILE,
    }
}

fn room(member: &MemberLook, status: &Status, quota: Option<QuotaBytes>, policy: &Policy) -> Room {
    let (size, in_use) = (status.db_size, status.db_size_in_use);
    let free = size.saturating_sub(in_use);
    let quota = match quota {
        Some(QuotaBytes::Disabled) => return Room::Enough,
        Some(QuotaBytes::Bytes(bytes)) => bytes.max(1),
        // It cannot be said what is enough, but what is free can be had.
        None if free >= WORTHWHILE && !member.learner => return Room::AfterDefrag,
        None => return Room::None(Why::QuotaUnknown),
    };
    let threshold = policy.disarm_below * quota as f64;
    if (size as f64) < threshold {
        Room::Enough
    } else if member.learner {
        Room::None(Why::Learner)
    } else if in_use as f64 >= threshold || free < worthwhile(Some(QuotaBytes::Bytes(quota))) {
        Room::None(Why::InUse)
    } else {
        Room::AfterDefrag
    }
}

fn too_large(member: &MemberLook, status: &Status, quota: Option<QuotaBytes>, why: Why) -> TooLarge {
    let quota = match quota {
        Some(QuotaBytes::Bytes(bytes)) => bytes,
        _ => 0,
    };
    TooLarge {
        member: member.id,
        name: describe(member),
        why,
        size: status.db_size,
        in_use: status.db_size_in_use,
        quota,
    }
}
