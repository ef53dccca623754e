//! What a plan asks for and what it is told: the whole traffic between decisions and the world.

use std::time::Duration;

use super::cluster::Look;
use super::forecast::Rates;
use super::member::{MemberId, RoundId};
use super::reason::{Blocked, Reason};
use super::record::{Intent, RoundRecord};
use super::rescue::Compaction;
use super::round::{Ended, Permit};
use super::rule::{Figures, Rule};
use super::time::{Mono, Now};

/// Joins an action to its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Where tickets come from: no two are equal within one janitor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tickets(u64);

impl Tickets {
    /// A source of its own for the `serial`-th round, so that no two rounds of one janitor share a ticket.
    pub const fn of_round(serial: u32) -> Self {
        Tickets((serial as u64 + 1) << 32)
    }

    /// A new one.
    #[expect(clippy::should_implement_trait, reason = "a source of tickets is no iterator")]
    pub fn next(&mut self) -> Ticket {
        self.0 += 1;
        Ticket(self.0)
    }
}

/// Who this janitor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Me {
    /// The local member.
    pub member: MemberId,
    /// Its name.
    pub name: String,
    /// This start of this process.
    pub instance: String,
    /// Name for people in records: the pod, the host or `cli@host`.
    pub holder: String,
}

/// The part of the configuration that rounds are decided by.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Decide and say everything, send nothing.
    pub dry_run: bool,
    /// Whether a defrag pays.
    pub rule: Rule,
    /// Quota in bytes where etcd does not tell it.
    pub quota: Option<u64>,
    /// A round ends this long after it was due.
    pub window: Duration,
    /// How long figures must have been still before the rule is evaluated.
    pub still_for: Duration,
    /// For how long leader and members must have been the same before a defrag is sent.
    pub settled_for: Duration,
    /// How often a reason that stands in the way is looked at afresh.
    pub retry_every: Duration,
    /// How long the leader's janitor gives the others to queue.
    pub leader_head_start: Duration,
    /// How long it waits at most while others queue.
    pub leader_wait: Duration,
    /// How long clients are turned away before the defrag.
    pub drain: Duration,
    /// Rest after a defrag, with the turn held.
    pub pause_between: Duration,
    /// How long a defrag is waited for before its outcome is unknown.
    pub timeout: Duration,
    /// Deadline of one small request.
    pub request_timeout: Duration,
    /// Time to live of the lease under a turn.
    pub lease_ttl: Duration,
    /// Whether one and two voters are defragmented.
    pub allow_small_cluster: bool,
    /// Whether releases with dangerous defects are defragmented.
    pub allow_unsafe_versions: bool,
    /// Longest forecast that is accepted.
    pub liveness_budget: Option<Duration>,
    /// What the records tell of how fast defrags go.
    pub recorded: Rates,
    /// Compare HashKV afterwards.
    pub verify_hash: bool,
    /// NOSPACE is cleared when every member is below this share of its quota.
    pub disarm_below: f64,
    /// Whether the cluster is brought back from NOSPACE outside of rounds.
    pub rescue: bool,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Carry this out and answer it exactly once.
    Do {
        /// Goes back with the answer.
        ticket: Ticket,
        /// What to do.
        action: Action,
    },
    /// Tell the operator.
    Say(Say),
    /// Make `/etcd/readyz` fail, or succeed again.
    Drain(bool),
    /// The turn was reached after this long in the queue.
    TurnReached(Duration),
    /// The lease under the turn is gone though it was not given up.
    TurnLost,
    /// A round is over.
    Ended(Ended),
    /// An intent of another instance was settled.
    Adopted(RoundRecord),
    /// A rescue is over: the alarm is gone.
    RescueOver,
}

/// One thing to do on etcd. Each is one conversation with a deadline of its own.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Read the local member's sizes and quota. Answer: [`Answer::Figures`].
    Figures,
    /// Read all members and the records, and the outcomes of this round. Answer: [`Answer::Looked`].
    Look {
        /// Whose outcomes to read.
        round: RoundId,
    },
    /// Put a key on a lease of its own into the queue. Answer: [`Answer::Joined`].
    Join {
        /// Written into the key.
        round: RoundId,
        /// Time to live of its lease. With the action, since the configuration may change in mid-round.
        ttl: Duration,
    },
    /// Renew the lease through another member, the local one only when no other answers. Answer: [`Answer::Renewed`].
    Renew {
        /// Which lease.
        lease: i64,
        /// What it was granted with, at least.
        ttl: Duration,
    },
    /// Revoke the lease, and the key with it, through another member. Answer: [`Answer::Left`].
    Leave {
        /// Which lease.
        lease: i64,
    },
    /// Ask the leader to hand leadership over. Answer: [`Answer::LeaderMoved`].
    MoveLeader {
        /// Who leads.
        from: MemberId,
        /// To whom.
        to: MemberId,
        /// How long to wait.
        deadline: Duration,
    },
    /// In one transaction: turn ours, no intent, hold as seen, then write the intent. Answer: [`Answer::IntentWritten`].
    WriteIntent {
        /// What to write.
        intent: Intent,
        /// The turn that must be ours; none with one voter.
        turn: Option<Turn>,
        /// Revision of the (expired) hold that was seen; 0 for none.
        hold_seen: i64,
    },
    /// Send `Defragment` to the permit's member if the permit still holds at that instant. Answer: [`Answer::Sent`].
    Defragment {
        /// To another member's address, because its own janitor does not; else the member must be the local one.
        remote: bool,
        /// The proof that it may be sent.
        permit: Permit,
        /// How long to wait for the end.
        timeout: Duration,
    },
    /// Compare HashKV of all voters at one revision. Answer: [`Answer::Compared`].
    CompareHash,
    /// Write the outcome and clear the intent. Answer: [`Answer::Settled`].
    Settle(Settle),
    /// Clear NOSPACE of these members. Answer: [`Answer::Disarmed`].
    Disarm {
        /// Whose alarms.
        members: Vec<MemberId>,
    },
    /// Compact what a rescue may. Answer: [`Answer::Compacted`].
    CompactForRescue,
    /// Raise NOSPACE, which is up, in the name of one more member. It is the one write that etcd always takes under
    /// NOSPACE, and up to 3.5.1 a member counts the pages that a compaction freed only with its next write, and sometimes
    /// (3.5.30) the one after that. Answer: [`Answer::Refreshed`].
    Refresh {
        /// In whose name.
        raise: MemberId,
        /// It has raised it already: clear its own first.
        clear_first: bool,
    },
    /// Write a key under the prefix and delete it. Answer: [`Answer::Proved`].
    Prove,
}

/// The key that must still be there for an intent to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Its lease, which names the key.
    pub lease: i64,
    /// The revision at which it was made.
    pub create_revision: i64,
}

/// Write the outcome, clear the intent. `skipped` and `unknown` never replace an outcome that is on record: whoever
/// settled the intent meanwhile knows more.
#[derive(Debug, Clone, PartialEq)]
pub struct Settle {
    /// The outcome to record; none to clear only.
    pub record: Option<RoundRecord>,
    /// Clear the intent if it still stands at this revision.
    pub intent: Option<i64>,
    /// Write the record even when the intent is no longer there: the owner knows more than who settled it.
    pub owner: bool,
}

/// What came of an action.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Of [`Action::Figures`].
    Figures(Result<Figures, Blocked>),
    /// Of [`Action::Look`].
    Looked(Box<Look>),
    /// Of [`Action::Join`]. After an error nothing is left behind (the lease was revoked or runs out).
    Joined(Result<Joined, Blocked>),
    /// Of [`Action::Renew`].
    Renewed(Renewal),
    /// Of [`Action::Leave`]. When it could not be revoked it runs out.
    Left,
    /// Of [`Action::MoveLeader`]. An error does not prove that leadership stayed.
    LeaderMoved(Result<(), Blocked>),
    /// Of [`Action::WriteIntent`].
    IntentWritten(Written),
    /// Of [`Action::Defragment`].
    Sent(Sent),
    /// Of [`Action::CompareHash`].
    Compared(Result<Hashes, Blocked>),
    /// Of [`Action::Settle`].
    Settled(Result<(), Blocked>),
    /// Of [`Action::Disarm`].
    Disarmed(Result<(), Blocked>),
    /// Of [`Action::CompactForRescue`].
    Compacted(Compaction),
    /// Of [`Action::Refresh`].
    Refreshed(Result<(), Blocked>),
    /// Of [`Action::Prove`].
    Proved(Result<(), Blocked>),
}

/// A new place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    /// The lease.
    pub lease: i64,
    /// The order in the queue.
    pub create_revision: i64,
    /// Instant before the grant was sent, plus the TTL granted.
    pub valid_until: Mono,
}

/// How a renewal went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// Renewed: instant before it was sent, plus the TTL answered.
    Until(Mono),
    /// The lease is gone.
    Gone,
    /// No answer; the lease may live or not.
    Unclear,
}

/// How the write of an intent went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// Written at this revision.
    At(i64),
    /// A compare failed: nothing was written.
    Refused(String),
    /// Nothing was written, because etcd did not let us.
    Failed(Blocked),
    /// It may have been written.
    Unclear(String),
}

/// How the send of a defrag went.
#[derive(Debug, Clone, PartialEq)]
pub enum Sent {
    /// Nothing was sent.
    NotSent(Blocked),
    /// etcd answered that it is done.
    Done {
        /// From the send to the answer.
        seconds: f64,
    },
    /// etcd answered that it did not do it.
    Refused {
        /// Its words.
        text: String,
        /// Whether it was about credentials.
        auth: bool,
    },
    /// Nobody knows: deadline, connection lost.
    Unclear(String),
}

/// What a comparison of hashes showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hashes {
    /// All equal.
    Equal,
    /// They differ.
    Differ(String),
}

/// Something the operator should be told: one log event, one line of the decision trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Say {
    /// About which round.
    pub round: Option<RoundId>,
    /// One sentence.
    pub text: String,
    /// Why something is not done, if that is what this is about.
    pub blocked: Option<Blocked>,
}

impl Say {
    /// Something that happened.
    pub fn info(round: RoundId, text: impl Into<String>) -> Self {
        Say { round: Some(round), text: text.into(), blocked: None }
    }

    /// Something in the way.
    pub fn blocked(round: RoundId, blocked: Blocked) -> Self {
        Say { round: Some(round), text: format!("waiting: {blocked}"), blocked: Some(blocked) }
    }
}

/// Something that happened, for the janitor's plan.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// A schedule fired, or a missed firing is caught up.
    Due {
        /// Which round.
        round: RoundId,
        /// How long to wait after the due instant.
        jitter: Duration,
    },
    /// An action was carried out.
    Answered {
        /// Of the step.
        ticket: Ticket,
        /// What came of it.
        answer: Answer,
    },
    /// There may be an intent under the prefix.
    IntentSeen,
    /// A key in the queue changed.
    QueueChanged,
    /// The local member tells of NOSPACE.
    NospaceSeen,
    /// Start nothing new.
    Quiesce,
    /// Rounds are switched off for this reason: the one under way is dropped while it may be.
    Withdraw(Reason),
    /// The configuration changed; a round under way keeps the one it began with.
    Policy(Box<Policy>),
}

/// Both clocks, moved on by `span`: what the wall clock would show if nobody set it.
pub fn later(now: Now, span: Duration) -> Now {
    let wall = chrono::Duration::from_std(span).ok().and_then(|span| now.wall.checked_add_signed(span));
    Now { mono: now.mono + span, wall: wall.unwrap_or(now.wall) }
}
