//! One look: what a fresh reading of every member showed, and what may be concluded from it.
//!
//! A look is a value. It says of each answer whether it came, from whom, and what was in it; it never fills a gap with
//! an older answer. The instant that counts is the one at which the reading began.

use std::collections::BTreeSet;

use super::member::MemberId;
use super::reason::{Blocked, Outcome, Reason};
use super::record::{Hold, Intent, TurnRecord, Unreadable};
use super::release::{self, Class};
use super::time::Now;

/// A fresh reading of all members and of the records.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// Both clocks just before the first question was sent.
    pub begun: Now,
    /// Whether the member list is known and agreed on.
    pub listing: Listing,
    /// Every listed member, in the order of the ids.
    pub members: Vec<MemberLook>,
    /// What is stored under the prefix; the reason why it could not be read otherwise.
    pub records: Result<Records, Blocked>,
    /// The volume under the local member's data; none where it is not mounted here.
    pub disk: Option<Result<Disk, Blocked>>,
    /// An error when etcd surely does not let our user defragment, as tried on the local member.
    pub rights: Result<(), Blocked>,
}

/// A volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that a process without privileges may still write.
    pub free: u64,
}

/// Bytes that must be free beside the copy: etcd preallocates its next WAL segment in pieces of this size.
const WAL_SEGMENT: u64 = 64 << 20;

impl Disk {
    /// Bytes that must be free for a defrag: the copy has the bytes in use, writes go on meanwhile.
    pub const fn needed(in_use: u64) -> u64 {
        in_use.saturating_add(in_use / 10).saturating_add(WAL_SEGMENT)
    }
}

/// Whether the member list is known and agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// At least two members (one, where there is only one voter) gave the same list and none another.
    Agreed,
    /// Some gave another list.
    Disagreed(String),
    /// Too few answered.
    Unknown(String),
}

/// One listed member.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberLook {
    /// Its id.
    pub id: MemberId,
    /// Its `--name`; empty until it has joined.
    pub name: String,
    /// Whether the list has it as a learner.
    pub learner: bool,
    /// Its answer to Status within a second, by a connection whose `header.member_id` is its own.
    pub status: Result<Status, Blocked>,
    /// Its metrics, with its own `etcd_server_id`.
    pub scrape: Result<Scrape, Blocked>,
}

/// What Status says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// etcd's release, such as `3.5.30`.
    pub version: String,
    /// Bytes of the file.
    pub db_size: u64,
    /// Bytes in use in it.
    pub db_size_in_use: u64,
    /// Quota in bytes; none before 3.6.
    pub quota: Option<QuotaBytes>,
    /// The member it takes for the leader; none when it knows none.
    pub leader: Option<MemberId>,
    /// Raft term.
    pub term: u64,
    /// Newest raft index it knows to be committed.
    pub index: u64,
    /// Newest raft index it has applied.
    pub applied: u64,
    /// Newest key-value revision.
    pub revision: i64,
    /// Alarms, from `errors`.
    pub alarms: BTreeSet<Alarm>,
    /// Whether it takes itself for a learner.
    pub learner: bool,
}

/// A quota that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaBytes {
    /// This many bytes.
    Bytes(u64),
    /// Switched off.
    Disabled,
}

/// What the metrics say.
#[derive(Debug, Clone, PartialEq)]
pub struct Scrape {
    /// Defragment calls that were begun and not handled.
    pub defrags_open: u64,
    /// Snapshot streams that were begun and not handled.
    pub snapshots_open: u64,
    /// Defrags that ended since the process started.
    pub defrag_count: u64,
    /// Defragment calls that were answered with an error since then.
    pub defrags_failed: u64,
    /// Seconds that they took together.
    pub defrag_seconds: f64,
    /// `process_start_time_seconds`.
    pub process_start: f64,
    /// Quota, where the release exports it.
    pub quota: Option<QuotaBytes>,
    /// The highest compacted revision, where exported.
    pub compact_revision: Option<i64>,
    /// Members whose process this one has connections with.
    pub active_peers: BTreeSet<MemberId>,
}

/// An alarm and the member that raised it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Alarm {
    /// Who.
    pub member: MemberId,
    /// What.
    pub kind: AlarmKind,
}

/// The alarms that etcd has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlarmKind {
    /// The quota was reached.
    Nospace,
    /// Members' data differ.
    Corrupt,
}

impl AlarmKind {
    /// As etcd writes it.
    pub const fn name(self) -> &'static str {
        match self {
            AlarmKind::Nospace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
        }
    }
}

/// Reads one entry of `Status.errors`: `memberID:<decimal> alarm:<KIND>`, with any number of spaces between
/// (one up to 3.6, two on 3.7). None for an entry that is no alarm, such as `etcdserver: no leader`.
pub fn parse_alarm(text: &str) -> Option<Alarm> {
    let (mut member, mut kind) = (None, None);
    for word in text.split_whitespace() {
        if let Some(id) = word.strip_prefix("memberID:") {
            member = id.parse().ok().map(MemberId);
        } else if let Some(name) = word.strip_prefix("alarm:") {
            kind = match name {
                "NOSPACE" => Some(AlarmKind::Nospace),
                "CORRUPT" => Some(AlarmKind::Corrupt),
                _ => None,
            };
        }
    }
    Some(Alarm { member: member?, kind: kind? })
}

/// A stored value and where it stands in etcd's history.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored<T> {
    /// Revision of its newest change: what a compare-and-delete names.
    pub mod_revision: i64,
    /// The value, or why it cannot be read. An unreadable one blocks as a readable one does.
    pub value: Result<T, Unreadable>,
}

/// What is stored under the prefix.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Records {
    /// The open intent.
    pub intent: Option<Stored<Intent>>,
    /// The operator's pause.
    pub hold: Option<Stored<Hold>>,
    /// The queue, holder first.
    pub turns: Vec<Place>,
    /// Outcomes of the round that was asked about.
    pub outcomes: Vec<(MemberId, Outcome)>,
}

/// One place in the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// The lease that its key hangs on.
    pub lease: i64,
    /// Revision at which the key was made: the order of the queue.
    pub create_revision: i64,
    /// Whose it is.
    pub value: Result<TurnRecord, Unreadable>,
}

/// How far a member may be behind in applying before it counts as lagging, in raft entries. etcd itself refuses
/// requests at 5000; members asked a few milliseconds apart under heavy writes differ by some hundreds.
pub const MAX_LAG: u64 = 1000;

impl Look {
    /// The member with this id, if it is listed.
    pub fn member(&self, id: MemberId) -> Option<&MemberLook> {
        self.members.iter().find(|member| member.id == id)
    }

    /// Members that vote.
    pub fn voters(&self) -> impl Iterator<Item = &MemberLook> {
        self.members.iter().filter(|member| !member.learner)
    }

    /// How many members vote.
    pub fn voter_count(&self) -> usize {
        self.voters().count()
    }

    /// Every alarm that any member tells of.
    pub fn alarms(&self) -> BTreeSet<Alarm> {
        self.members.iter().filter_map(|m| m.status.as_ref().ok()).flat_map(|s| s.alarms.iter().copied()).collect()
    }

    /// The one leader and term on which every voter that answered agrees.
    pub fn leader(&self) -> Result<(MemberId, u64), Blocked> {
        let mut agreed: Option<(MemberId, u64, &MemberLook)> = None;
        for member in self.voters() {
            let Ok(status) = &member.status else { continue };
            let Some(leader) = status.leader else {
                return Err(Blocked::new(Reason::NoLeader, format!("{} knows no leader", describe(member))));
            };
            match agreed {
                None => agreed = Some((leader, status.term, member)),
                Some((first, term, who)) if (first, term) != (leader, status.term) => {
                    return Err(Blocked::new(
                        Reason::LeaderDisagreement,
                        format!(
                            "{} says leader {first} in term {term}, {} says leader {leader} in term {}",
                            describe(who),
                            describe(member),
                            status.term
                        ),
                    ));
                }
                Some(_) => {}
            }
        }
        match agreed {
            Some((leader, term, _)) => Ok((leader, term)),
            None => Err(Blocked::new(Reason::EtcdUnavailable, "no voter answers")),
        }
    }

    /// The records, or why they could not be read.
    pub fn records(&self) -> Result<&Records, Blocked> {
        self.records.as_ref().map_err(Clone::clone)
    }

    /// The quota of a member: what Status says, else its metrics, else what the operator configured.
    pub fn quota(&self, id: MemberId, configured: Option<u64>) -> Option<QuotaBytes> {
        let member = self.member(id)?;
        let told = member.status.as_ref().ok().and_then(|status| status.quota);
        let scraped = member.scrape.as_ref().ok().and_then(|scrape| scrape.quota);
        told.or(scraped).or(configured.map(QuotaBytes::Bytes))
    }
}

/// `name (id)`, for people.
pub fn describe(member: &MemberLook) -> String {
    if member.name.is_empty() { member.id.to_string() } else { format!("{} ({})", member.name, member.id) }
}

/// Every other voter and the local member answer, agree on one leader and term, keep up, and nobody anywhere is being
/// defragmented or streams a snapshot. The proof that guarantees 1 and 3 ask for; the intent is judged by the caller,
/// who knows whether it is its own.
///
/// An answer counts only from the member that was asked (the connection checks `header.member_id` and
/// `etcd_server_id`), and a missing metrics page counts as a member that is down: without it an open Defragment would
/// go unseen. A learner that is away does not block: it has no vote and refuses a Defragment.
pub fn all_well(look: &Look, me: MemberId) -> Result<(), Blocked> {
    listed(look, me)?;
    // First of all: a member in mid-defrag answers its metrics and nothing else, and is not down.
    for member in &look.members {
        if let Ok(scrape) = &member.scrape
            && scrape.defrags_open > 0
        {
            return Err(Blocked::new(
                Reason::ForeignDefrag,
                format!("{} has {} open Defragment call(s)", describe(member), scrape.defrags_open),
            ));
        }
    }
    for member in &look.members {
        if let Err(blocked) = &member.status
            && !member.learner
        {
            return Err(about(member, blocked));
        }
    }
    look.leader()?;
    no_alarm(look)?;
    for member in look.voters() {
        alive(member)?;
    }
    no_open_snapshot(look)?;
    keeping_up(look)
}

/// It answers Status, and its metrics can be read.
pub fn alive(member: &MemberLook) -> Result<(), Blocked> {
    member.status.as_ref().map_err(|blocked| about(member, blocked))?;
    member.scrape.as_ref().map_err(|blocked| about(member, blocked))?;
    Ok(())
}

/// No member is known to stream a snapshot.
pub fn no_open_snapshot(look: &Look) -> Result<(), Blocked> {
    for member in &look.members {
        if let Ok(scrape) = &member.scrape
            && scrape.snapshots_open > 0
        {
            let version = member.status.as_ref().map_or("", |status| &status.version);
            let defect = release::and_on(version, Class::OpenSnapshot);
            let text = format!("{} streams {} snapshot(s){defect}", describe(member), scrape.snapshots_open);
            return Err(Blocked::new(Reason::SnapshotOpen, text));
        }
    }
    Ok(())
}

/// The list is agreed on and has the local member.
pub fn listed(look: &Look, me: MemberId) -> Result<(), Blocked> {
    match &look.listing {
        Listing::Agreed => {}
        Listing::Disagreed(detail) => return Err(Blocked::new(Reason::MemberChanged, detail.clone())),
        Listing::Unknown(detail) => {
            // With two voters the one that is down is the reason, not the list that it did not give.
            let down = look.members.iter().filter(|member| !member.learner && member.id != me);
            let down =
                down.filter_map(|member| member.status.as_ref().err().map(|blocked| about(member, blocked))).next();
            return Err(down.unwrap_or_else(|| Blocked::new(Reason::EtcdUnavailable, detail.clone())));
        }
    }
    if look.member(me).is_none() {
        return Err(Blocked::new(Reason::MemberChanged, format!("the local member {me} is not in the member list")));
    }
    Ok(())
}

/// Whether this member surely is in the list no more.
pub fn has_left(look: &Look, member: MemberId) -> bool {
    matches!(look.listing, Listing::Agreed) && look.member(member).is_none()
}

/// No CORRUPT and no NOSPACE.
pub fn no_alarm(look: &Look) -> Result<(), Blocked> {
    let alarms = look.alarms();
    // CORRUPT first: it forbids everything, NOSPACE only what needs a write.
    for (kind, reason) in [(AlarmKind::Corrupt, Reason::Corrupt), (AlarmKind::Nospace, Reason::Nospace)] {
        if let Some(alarm) = alarms.iter().find(|alarm| alarm.kind == kind) {
            return Err(Blocked::new(reason, format!("{} raised by {}", kind.name(), alarm.member)));
        }
    }
    Ok(())
}

/// No voter that answers is far behind in applying.
pub fn keeping_up(look: &Look) -> Result<(), Blocked> {
    let newest = look.voters().filter_map(|m| m.status.as_ref().ok()).map(|s| s.index).max().unwrap_or(0);
    for member in look.voters() {
        let Ok(status) = &member.status else { continue };
        let behind = newest.saturating_sub(status.applied);
        if behind > MAX_LAG {
            return Err(Blocked::new(
                Reason::MemberLagging,
                format!("{} is {behind} raft entries behind (at most {MAX_LAG})", describe(member)),
            ));
        }
    }
    Ok(())
}

/// Puts the member's name before what kept it from answering. Credentials and certificates stay what they are; that
/// nobody answers means that this member is down.
fn about(member: &MemberLook, blocked: &Blocked) -> Blocked {
    let reason = if blocked.reason == Reason::EtcdUnavailable { Reason::MemberDown } else { blocked.reason };
    Blocked::new(reason, format!("{}: {}", describe(member), blocked.detail))
}

/// Who is on record as done in the round that the look asked about.
pub fn done(look: &Look) -> BTreeSet<MemberId> {
    let outcomes = look.records.iter().flat_map(|records| &records.outcomes);
    outcomes.filter(|(_, outcome)| *outcome == Outcome::Done).map(|(member, _)| *member).collect()
}

/// To whom leadership goes before the local member's turn: a healthy voter, one already done in this round where there
/// is one (it will not need the leadership moved away again), the lowest id among equals so that every janitor would
/// choose the same.
pub fn transferee(look: &Look, me: MemberId) -> Option<MemberId> {
    let done = done(look);
    look.voters()
        .filter(|member| member.id != me && member.status.is_ok())
        .filter(|member| member.scrape.as_ref().is_ok_and(|scrape| scrape.defrags_open == 0))
        .map(|member| member.id)
        .min_by_key(|id| (!done.contains(id), *id))
}

/// Members that must be named to clear NOSPACE, when that is proven safe: every member, learners too, answers and is
/// below `disarm_below` of its quota, none is in a defrag, and no CORRUPT is up, under which nothing is touched. An empty
/// list: no NOSPACE is up.
pub fn disarmable(look: &Look, disarm_below: f64, configured: Option<u64>) -> Result<Vec<MemberId>, Blocked> {
    let nospace: Vec<MemberId> =
        look.alarms().into_iter().filter(|alarm| alarm.kind == AlarmKind::Nospace).map(|alarm| alarm.member).collect();
    if nospace.is_empty() {
        return Ok(nospace);
    }
    if let Some(alarm) = look.alarms().iter().find(|alarm| alarm.kind == AlarmKind::Corrupt) {
        let text = format!("CORRUPT raised by {}: nothing is touched, NOSPACE neither", alarm.member);
        return Err(Blocked::new(Reason::Corrupt, text));
    }
    if !matches!(look.listing, Listing::Agreed) {
        return Err(Blocked::new(Reason::MemberChanged, "the member list is not agreed on"));
    }
    for member in &look.members {
        if member.scrape.as_ref().is_ok_and(|scrape| scrape.defrags_open > 0) {
            return Err(Blocked::new(Reason::ForeignDefrag, format!("{} is in a defrag", describe(member))));
        }
        let status = member.status.as_ref().map_err(|blocked| about(member, blocked))?;
        let quota = match look.quota(member.id, configured) {
            Some(QuotaBytes::Bytes(bytes)) => bytes,
            Some(QuotaBytes::Disabled) => continue,
            None => {
                return Err(Blocked::new(
                    Reason::Nospace,
                    format!("{}: quota unknown; set alarms.quota to have NOSPACE cleared", describe(member)),
                ));
            }
        };
        let share = status.db_size as f64 / quota.max(1) as f64;
        if share >= disarm_below {
            return Err(Blocked::new(
                Reason::Nospace,
                format!(
                    "{} uses {:.0} % of its quota of {quota} bytes; NOSPACE is cleared below {:.0} %",
                    describe(member),
                    share * 100.0,
                    disarm_below * 100.0
                ),
            ));
        }
    }
    Ok(nospace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_read_whatever_the_spaces() {
        let expected = Some(Alarm { member: MemberId(10276657743932975437), kind: AlarmKind::Nospace });
        for text in ["memberID:10276657743932975437 alarm:NOSPACE ", "memberID:10276657743932975437  alarm:NOSPACE"] {
            assert_eq!(parse_alarm(text), expected);
        }
        for text in ["etcdserver: no leader", "memberID:x alarm:NOSPACE", "memberID:1 alarm:OTHER", "", "alarm:CORRUPT"]
        {
            assert_eq!(parse_alarm(text), None, "{text}");
        }
    }
}
