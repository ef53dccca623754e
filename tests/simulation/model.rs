//! The cluster as it really is: members, leadership, and the store that a quorum keeps.

use std::collections::{BTreeMap, VecDeque};

use etcd_janitor::plan::member::{MemberId, RoundId};
use etcd_janitor::plan::reason::Outcome;
use etcd_janitor::plan::record::{Hold, Intent, RoundRecord, TurnRecord};
use etcd_janitor::plan::step::{Settle, Ticket, Turn};

/// Microseconds since the world began.
pub type Us = u64;
pub const MS: Us = 1_000;
pub const SEC: Us = 1_000_000;

/// Who sent a `Defragment`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Operator,
    Janitor(Call),
}

/// A call of a janitor, and what is known of how it came to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub janitor: usize,
    /// The member that it is for: another one's when its own janitor does not act.
    pub target: usize,
    /// Sent by a rescue: without turn and intent.
    pub rescue: bool,
    pub epoch: u32,
    pub ticket: Ticket,
    pub round: RoundId,
    pub look_begun: Us,
    pub sent: Us,
    /// Which process of the member it was sent to.
    pub generation: u32,
    /// The process was paused between the permit's check and the arrival.
    pub paused_in_window: bool,
    /// Its answer will not reach the janitor.
    pub answer_lost: bool,
}

/// A `Defragment` that began and was not handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    pub serial: u64,
    pub by: By,
    pub begun: Us,
}

#[derive(Debug, Clone)]
pub struct Member {
    pub id: MemberId,
    pub name: String,
    pub learner: bool,
    pub listed: bool,
    pub up: bool,
    /// Cut off from the other members, not from its clients.
    pub isolated: bool,
    pub paused_until: Us,
    /// Since when it has not been both up and running.
    pub away_since: Option<Us>,
    pub generation: u32,
    pub process_start: f64,
    pub defrag_count: u64,
    /// When it last ended a defrag that no janitor sent.
    pub foreign_ended: Us,
    /// In the order of arrival; the first one runs if `running`.
    pub open: VecDeque<Open>,
    pub running: Option<Us>,
    /// Calls that wait in the socket of a paused process.
    pub unread: Vec<Open>,
    pub snapshots: u64,
    pub leader_seen: Option<usize>,
    pub term_seen: u64,
    pub db_size: u64,
    pub db_size_in_use: u64,
    pub lag: u64,
    pub nospace: bool,
    pub corrupt: bool,
    /// Since when it has been answering reads.
    pub serving_since: Us,
}

impl Member {
    /// Its process does. One that was removed runs on for a while.
    pub fn runs(&self, now: Us) -> bool {
        self.up && self.paused_until <= now
    }

    /// In raft: the others hear it.
    pub fn takes_part(&self, now: Us) -> bool {
        self.runs(now) && self.listed && !self.isolated
    }

    /// Answers requests: a member in its defrag does not, though it still takes part in raft.
    pub fn serves(&self, now: Us) -> bool {
        self.runs(now) && self.running.is_none()
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Lease {
    pub ttl: Us,
    pub expires: Us,
}

#[derive(Debug, Clone)]
pub struct QueueKey {
    pub lease: i64,
    pub create_revision: i64,
    pub record: TurnRecord,
}

#[derive(Debug, Clone, Default)]
pub struct Store {
    pub revision: i64,
    pub index: u64,
    pub leases: BTreeMap<i64, Lease>,
    pub turns: Vec<QueueKey>,
    pub intent: Option<(i64, Intent)>,
    pub hold: Option<(i64, Hold)>,
    pub hold_since: Us,
    pub outcomes: BTreeMap<RoundId, Vec<(MemberId, Outcome, Us)>>,
}

impl Store {
    fn commit(&mut self) -> i64 {
        self.revision += 1;
        self.index += 1;
        self.revision
    }

    pub fn grant(&mut self, lease: i64, ttl: Us, now: Us) {
        self.index += 1;
        self.leases.insert(lease, Lease { ttl, expires: now + ttl });
    }

    pub fn queue(&mut self, lease: i64, record: TurnRecord) -> i64 {
        let create_revision = self.commit();
        self.turns.push(QueueKey { lease, create_revision, record });
        create_revision
    }

    /// True if there was a key on it.
    pub fn revoke(&mut self, lease: i64) -> bool {
        self.leases.remove(&lease);
        let before = self.turns.len();
        self.turns.retain(|key| key.lease != lease);
        self.commit();
        self.turns.len() < before
    }

    /// The transaction that writes an intent.
    pub fn write_intent(
        &mut self,
        intent: Intent,
        turn: Option<Turn>,
        hold_seen: i64,
        over: bool,
    ) -> Result<i64, String> {
        let ours = |turn: Turn| {
            self.turns.iter().any(|key| key.lease == turn.lease && key.create_revision == turn.create_revision)
        };
        if turn.is_some_and(|turn| !ours(turn)) {
            return Err("the key in the queue is gone".to_owned());
        }
        if self.intent.is_some() && !over {
            return Err("there is an intent".to_owned());
        }
        if self.hold.as_ref().map_or(0, |(revision, _)| *revision) > hold_seen {
            return Err("the hold changed".to_owned());
        }
        let revision = self.commit();
        self.intent = Some((revision, intent));
        Ok(revision)
    }

    /// A round that sent nothing has nothing to say about one that did: `skipped` and `unknown` are only put where no record is. (An
    /// earlier instance's defrag may have been settled while this one was paused at the end of the window.)
    pub fn already_better(&self, record: &RoundRecord) -> bool {
        matches!(record.outcome, Outcome::Skipped(_) | Outcome::Unknown)
            && self.outcome(record.round, record.member).is_some()
    }

    /// The transaction that records an outcome and clears an intent. The intent that was cleared, if one was.
    pub fn settle(&mut self, settle: &Settle, now: Us) -> Option<Intent> {
        let matches = settle.intent.is_some() && self.intent.as_ref().map(|(revision, _)| *revision) == settle.intent;
        if (matches || settle.owner || settle.intent.is_none())
            && let Some(record) = &settle.record
            && !self.already_better(record)
        {
            self.commit();
            let of_round = self.outcomes.entry(record.round).or_default();
            of_round.retain(|(member, _, _)| *member != record.member);
            of_round.push((record.member, record.outcome, now));
        }
        if !matches {
            return None;
        }
        self.commit();
        self.intent.take().map(|(_, intent)| intent)
    }

    pub fn outcome(&self, round: RoundId, member: MemberId) -> Option<(Outcome, Us)> {
        let of_round = self.outcomes.get(&round)?;
        of_round.iter().find(|(who, _, _)| *who == member).map(|(_, outcome, at)| (*outcome, *at))
    }
}

#[derive(Debug, Clone)]
pub struct Cluster {
    pub members: Vec<Member>,
    pub leader: Option<usize>,
    pub term: u64,
    /// Since when the leader has been the leader.
    pub leader_since: Us,
    /// When there was last no quorum or no leader.
    pub last_unavailable: Us,
    pub list_changed: Us,
    /// Until when members give different lists: one has kept somebody who is long gone.
    pub lists_differ_until: Us,
    pub store: Store,
}

impl Cluster {
    /// Spares are members that are not in the list yet.
    pub fn new(voters: usize, learners: usize, spares: usize) -> Self {
        let members = (0..voters + learners + spares)
            .map(|index| Member {
                id: MemberId(0x8e9e_05c5_0000_0000 + index as u64 * 0x0101),
                name: format!("m{index}"),
                learner: index >= voters,
                listed: index < voters + learners,
                up: index < voters + learners,
                isolated: false,
                paused_until: 0,
                away_since: None,
                generation: 0,
                process_start: 1000.0 + index as f64,
                defrag_count: 0,
                foreign_ended: 0,
                open: VecDeque::new(),
                running: None,
                unread: Vec::new(),
                snapshots: 0,
                leader_seen: Some(0),
                term_seen: 2,
                db_size: 1 << 30,
                db_size_in_use: 200 << 20,
                lag: 0,
                nospace: false,
                corrupt: false,
                serving_since: 0,
            })
            .collect();
        let store = Store { revision: 100, index: 100, ..Store::default() };
        Cluster {
            members,
            leader: Some(0),
            term: 2,
            leader_since: 0,
            last_unavailable: 0,
            list_changed: 0,
            lists_differ_until: 0,
            store,
        }
    }

    pub fn voters(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.members.len()).filter(|index| !self.members[*index].learner && self.members[*index].listed)
    }

    pub fn quorum(&self, now: Us) -> bool {
        let (mut all, mut running) = (0, 0);
        for index in self.voters() {
            all += 1;
            running += usize::from(self.members[index].takes_part(now));
        }
        running * 2 > all
    }

    /// Whether proposals are committed.
    pub fn commits(&self, now: Us) -> bool {
        self.quorum(now) && self.leader.is_some_and(|leader| self.members[leader].takes_part(now))
    }

    /// Whether lease renewals succeed: the leader answers them, and does not while it is defragmented.
    pub fn renews(&self, now: Us) -> bool {
        self.commits(now) && self.leader.is_some_and(|leader| self.members[leader].running.is_none())
    }

    /// Whether somebody who reaches the members in `reach` can read and write.
    pub fn available(&self, reach: &[Option<Us>], now: Us) -> bool {
        let useful = |index: usize| self.members[index].serves(now) && self.members[index].takes_part(now);
        self.commits(now) && self.voters().any(|index| reach[index].is_none() && useful(index))
    }

    pub fn nospace(&self) -> bool {
        self.members.iter().any(|member| member.nospace && member.listed)
    }

    pub fn index_of(&self, id: MemberId) -> Option<usize> {
        self.members.iter().position(|member| member.id == id)
    }

    /// Every lease lives its whole time again: a new leader knows only the time granted.
    pub fn lead(&mut self, leader: usize, now: Us) {
        self.leader = Some(leader);
        self.term += 1;
        self.leader_since = now;
        self.store.index += 1;
        for lease in self.store.leases.values_mut() {
            lease.expires = lease.expires.max(now + lease.ttl);
        }
    }
}
