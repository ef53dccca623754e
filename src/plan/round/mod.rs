//! One round of one member: from the firing of the schedule to its recorded outcome.
//!
//! A state machine that is told what happened and answers what to do next. It has at most one action of its own under
//! way (the *main lane*); the renewal of the lease and, while a defrag runs, the lookout for leadership have lanes of
//! their own. Every action is answered exactly once. The daemon carries the actions out on etcd, the simulation on a
//! model of it.
//!
//! Its danger is sending `Defragment` on a proof that has grown old: that is checked last, by [`Permit::check`], right
//! before the bytes leave.

mod answers;
mod calm;
mod closing;
mod judge;
mod lease;
mod sent;

use std::time::Duration;

use super::forecast::Rates;
use super::member::{MemberId, RoundId};
use super::reason::{Blocked, Outcome, Reason};
use super::record::Intent;
use super::rule::Figures;
use super::step::{Action, Answer, Me, Policy, Say, Step, Ticket, Tickets};
use super::time::{Mono, Now};

pub use lease::{Held, LOOK_TO_SEND, Permit};

/// Figures count as still when they moved by no more than this much, or one percent of the file, whichever is more.
const STILL_BYTES: u64 = 1 << 20;
/// How often the local figures are read until they are still.
const FIGURES_EVERY: Duration = Duration::from_secs(2);
/// Constant writes may keep the figures moving for ever; after this long they are taken as they are.
const STILL_PATIENCE: Duration = Duration::from_secs(300);
/// How often an open intent or the cluster's health is looked at while the turn is held or a defrag is to be settled.
const QUEUE_EVERY: Duration = Duration::from_secs(2);
/// How often the queue is looked at while others are before us. What happens in it is noticed by a watch; this is for
/// when the watch is silent.
const QUEUED_EVERY: Duration = Duration::from_secs(10);
/// How often the leader's janitor looks whether the others are through. The watch says that sooner.
const OTHERS_EVERY: Duration = Duration::from_secs(5);
/// How often leadership is looked at after it was moved.
const SETTLE_EVERY: Duration = Duration::from_millis(500);
/// How long moved leadership may take to settle.
const SETTLE_PATIENCE: Duration = Duration::from_secs(10);
/// How often the last look is taken again because it had grown old before the call could be sent.
const STALE_LOOKS: u32 = 5;

/// Where a round stands. The words are shown to people by [`Round::phase`].
#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Delayed,
    Arriving,
    Measuring { still: Option<(Mono, Figures)>, began: Mono },
    Approaching,
    LettingOthersGo { since: Mono },
    Joining,
    Queued,
    Judging { since: Mono },
    Moving { to: MemberId },
    Settling { since: Mono, seen: Option<(MemberId, u64)> },
    Draining,
    Intending { intent: Box<Intent> },
    Doubting,
    LastLook { stale: u32 },
    Sent,
    Unclear,
    Recovering { since: Mono },
    Comparing,
    Recording { attempts: u32 },
    Caring,
    Disarming,
    Resting,
    Owing,
    Closing { then: Then, cleared: bool, recorded: bool, attempts: u32 },
    Over,
}

/// What follows when queue and intent are left behind.
#[derive(Debug, Clone, PartialEq)]
enum Then {
    /// Approach again: the reason may pass inside the window.
    Retry,
    /// The outcome is known and not on record yet.
    Record,
    /// The round is over.
    End { outcome: Outcome, detail: String },
}

/// How the defrag itself went.
#[derive(Debug, Clone, PartialEq, Default)]
struct Work {
    size_before: Option<u64>,
    in_use_before: Option<u64>,
    sent_at: Option<Now>,
    seconds: Option<f64>,
    size_after: Option<u64>,
    moved_to: Option<MemberId>,
    result: Option<(Outcome, String)>,
    /// What came instead of an answer, in etcd's words or the connection's.
    unclear: Option<String>,
}

/// A defrag that ended, for metrics and log.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// Which round.
    pub round: RoundId,
    /// How it ended.
    pub outcome: Outcome,
    /// Numbers and names, for people.
    pub detail: String,
    /// How long the defrag took, when one was sent.
    pub seconds: Option<f64>,
    /// Bytes given back.
    pub reclaimed: Option<u64>,
}

/// Which round begins, and when it was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Its name.
    pub id: RoundId,
    /// How long ago it was due.
    pub late: Duration,
    /// How long after the due instant it starts.
    pub jitter: Duration,
}

/// One round of one member.
#[derive(Debug, Clone, PartialEq)]
pub struct Round {
    id: RoundId,
    me: Me,
    policy: Policy,
    tickets: Tickets,
    phase: Phase,
    /// When the phase's next timed action is due; means nothing while an answer is awaited.
    at: Mono,
    started: Mono,
    ends: Mono,
    awaiting: Option<Ticket>,
    lookout: sent::Lookout,
    held: Option<Held>,
    queued_since: Option<Mono>,
    /// The lease of whoever was the head of the queue when it was last said.
    behind: Option<i64>,
    calm: Option<calm::Calm>,
    intent: Option<(i64, Intent)>,
    blocked: Option<Blocked>,
    needed: bool,
    /// Why nothing new is started, when that is so.
    withdrawn: Option<Reason>,
    draining: bool,
    cautioned: bool,
    /// NOSPACE kept the outcome from being recorded.
    unrecorded: bool,
    /// How many last looks had grown old before the send.
    stale: u32,
    work: Work,
}

impl Round {
    /// A round that begins now, or was due a while ago.
    pub fn new(start: Start, me: Me, policy: Policy, tickets: Tickets, now: Now) -> Self {
        let Start { id, late, jitter } = start;
        let starts = now.mono + jitter.saturating_sub(late);
        let ends = now.mono + policy.window.saturating_sub(late);
        Round {
            id,
            me,
            policy,
            tickets,
            phase: Phase::Delayed,
            at: starts,
            started: starts,
            ends,
            awaiting: None,
            lookout: sent::Lookout::default(),
            held: None,
            queued_since: None,
            behind: None,
            calm: None,
            intent: None,
            blocked: None,
            needed: false,
            withdrawn: None,
            draining: false,
            cautioned: false,
            unrecorded: false,
            stale: 0,
            work: Work::default(),
        }
    }

    /// Its name.
    pub fn id(&self) -> RoundId {
        self.id
    }

    /// What it waits for, if something is in its way.
    pub fn blocked(&self) -> Option<&Blocked> {
        self.blocked.as_ref()
    }

    /// Whether it has the turn: its key is the head of the queue.
    pub fn has_turn(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.head)
    }

    /// Whether a `Defragment` was sent and its outcome is not on record.
    pub fn is_sent(&self) -> bool {
        self.is_unsettled() || matches!(self.phase, Phase::Recording { .. })
    }

    /// Whether a `Defragment` was sent and nobody knows yet how it ended: waiting a moment longer changes nothing.
    pub fn is_unsettled(&self) -> bool {
        matches!(self.phase, Phase::Sent | Phase::Unclear | Phase::Recovering { .. } | Phase::Comparing)
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// The revision of the intent that this round wrote and still owns.
    pub fn own_intent(&self) -> Option<i64> {
        self.intent.as_ref().map(|(revision, _)| *revision)
    }

    /// Where it stands, in words.
    pub fn phase(&self) -> &'static str {
        match self.phase {
            Phase::Delayed => "waiting for the jitter to pass",
            Phase::Arriving | Phase::Measuring { .. } => "waiting for still figures",
            Phase::Approaching if self.blocked.is_some() => "waiting for a reason to pass",
            Phase::Approaching => "waiting to queue",
            Phase::LettingOthersGo { .. } => "leads: waiting for the others to be through",
            Phase::Joining => "joining the queue",
            Phase::Queued => "in the queue",
            Phase::Judging { .. } => "has the turn, judging the cluster",
            Phase::Moving { .. } | Phase::Settling { .. } => "moving leadership away",
            Phase::Draining => "draining clients",
            Phase::Intending { .. } | Phase::Doubting => "writing the intent",
            Phase::LastLook { .. } => "taking the last look",
            Phase::Sent => "defragmenting",
            Phase::Unclear => "finding out how the defrag ended",
            Phase::Recovering { .. } => "waiting for the member to catch up",
            Phase::Comparing => "comparing HashKV",
            Phase::Recording { .. } => "recording the outcome",
            Phase::Caring | Phase::Disarming => "looking after alarms",
            Phase::Resting => "resting before the next member",
            Phase::Owing => "waiting for NOSPACE to pass, to record the outcome",
            Phase::Closing { .. } => "leaving the queue",
            Phase::Over => "over",
        }
    }

    /// When [`Round::tick`] has something to do next.
    pub fn wake_at(&self) -> Option<Mono> {
        if self.is_over() {
            return None;
        }
        let main = self.awaiting.is_none().then_some(self.at);
        let window = (self.awaiting.is_none() && self.may_still_be_dropped()).then_some(self.ends);
        [main, window, self.held.as_ref().and_then(Held::wake_at), self.lookout.wake_at(&self.phase)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Takes over what the records tell of how fast defrags go.
    pub fn learn(&mut self, recorded: Rates) {
        self.policy.recorded = recorded;
    }

    /// Starts nothing new. A defrag that was sent is waited for all the same.
    pub fn quiesce(&mut self, now: Now) -> Vec<Step> {
        self.withdraw(Reason::Quiesced, now)
    }

    /// The same for another reason.
    pub fn withdraw(&mut self, reason: Reason, now: Now) -> Vec<Step> {
        self.withdrawn = Some(reason);
        self.at = self.at.min(now.mono);
        self.tick(now)
    }

    /// Looks at the queue now: a key in it changed.
    pub fn queue_changed(&mut self, now: Now) -> Vec<Step> {
        if matches!(self.phase, Phase::Queued | Phase::LettingOthersGo { .. }) {
            self.at = self.at.min(now.mono);
        }
        self.tick(now)
    }

    /// NOSPACE is up: gives its place in the queue up, which a rescue waits for (of whichever janitor). Nothing new can be sent anyway; a defrag
    /// that was sent is waited for all the same.
    pub fn nospace_seen(&mut self, now: Now) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.awaiting.is_none() && self.held.is_some() {
            if matches!(self.phase, Phase::Resting) {
                self.at = self.at.min(now.mono);
            } else if self.may_still_be_dropped() {
                self.block(
                    Blocked::new(Reason::Nospace, "NOSPACE is up: the place in the queue is given up"),
                    &mut steps,
                );
                self.retry_later(now, &mut steps);
            }
        }
        steps.extend(self.tick(now));
        steps
    }

    /// Does what the clock makes due.
    pub fn tick(&mut self, now: Now) -> Vec<Step> {
        let mut steps = Vec::new();
        self.keep_lease(now, &mut steps);
        self.look_out(now, &mut steps);
        if self.awaiting.is_none() && !self.is_over() {
            if self.must_drop_out(now) {
                self.drop_out(now, &mut steps);
            }
            if now.mono >= self.at {
                self.act(now, &mut steps);
            }
        }
        steps
    }

    /// Takes the answer to an action of this round; answers to others are left alone.
    pub fn answer(&mut self, ticket: Ticket, answer: Answer, now: Now) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.held.as_ref().is_some_and(|held| held.renewing == Some(ticket)) {
            self.renewed(answer, now, &mut steps);
        } else if self.lookout.awaits(ticket) {
            self.looked_out(answer, now, &mut steps);
        } else if self.awaiting == Some(ticket) {
            self.awaiting = None;
            // The last look sends: what was withdrawn while it was taken is not sent any more.
            if self.withdrawn.is_none() || !matches!(self.phase, Phase::LastLook { .. }) {
                self.main_answer(answer, now, &mut steps);
            }
        }
        steps.extend(self.tick(now));
        steps
    }

    /// Nothing was sent and nothing is being tidied up.
    fn may_still_be_dropped(&self) -> bool {
        !self.is_sent()
            && !matches!(
                self.phase,
                Phase::Caring | Phase::Disarming | Phase::Resting | Phase::Owing | Phase::Closing { .. } | Phase::Over
            )
    }

    fn must_drop_out(&self, now: Now) -> bool {
        self.may_still_be_dropped() && (self.withdrawn.is_some() || now.mono >= self.ends)
    }

    /// The window is over, or nothing new may start.
    fn drop_out(&mut self, now: Now, steps: &mut Vec<Step>) {
        if let Some(reason) = self.withdrawn {
            return self.close(Then::End { outcome: Outcome::Skipped(reason), detail: String::new() }, now, steps);
        }
        let last = self.blocked.clone().unwrap_or_else(|| match self.phase {
            Phase::Delayed => Blocked::new(Reason::WindowOver, "the window ended before the round could start"),
            _ => Blocked::new(Reason::TurnTimeout, "the turn was not reached inside the window"),
        });
        self.close(Then::End { outcome: Outcome::Skipped(last.reason), detail: last.detail }, now, steps);
    }

    /// The timed action of the phase.
    fn act(&mut self, now: Now, steps: &mut Vec<Step>) {
        let action = match &self.phase {
            Phase::Delayed => {
                // The first look: what it shows must be the same when the figures have been still.
                self.phase = Phase::Arriving;
                Action::Look { round: self.id }
            }
            Phase::Measuring { .. } => Action::Figures,
            Phase::Draining => {
                self.phase = Phase::Judging { since: now.mono };
                Action::Look { round: self.id }
            }
            Phase::Arriving
            | Phase::Approaching
            | Phase::LettingOthersGo { .. }
            | Phase::Queued
            | Phase::Judging { .. }
            | Phase::Settling { .. }
            | Phase::Doubting
            | Phase::LastLook { .. }
            | Phase::Unclear
            | Phase::Recovering { .. }
            | Phase::Caring => Action::Look { round: self.id },
            Phase::Joining => Action::Join { round: self.id, ttl: self.policy.lease_ttl },
            Phase::Moving { to } => {
                Action::MoveLeader { from: self.me.member, to: *to, deadline: self.policy.request_timeout }
            }
            Phase::Comparing => Action::CompareHash,
            Phase::Recording { .. } | Phase::Owing => self.settle_action(now),
            Phase::Resting => return self.rested(now, steps),
            Phase::Closing { .. } => match self.next_closing(now, steps) {
                Some(action) => action,
                None => return,
            },
            // These wait for an answer, never for the clock.
            Phase::Intending { .. } | Phase::Sent | Phase::Disarming | Phase::Over => return,
        };
        self.send(action, steps);
    }

    fn send(&mut self, action: Action, steps: &mut Vec<Step>) {
        let ticket = self.tickets.next();
        self.awaiting = Some(ticket);
        steps.push(Step::Do { ticket, action });
    }

    fn go(&mut self, phase: Phase, at: Mono) {
        self.phase = phase;
        self.at = at;
    }

    /// Something is in the way. Said when it is another reason than before.
    fn block(&mut self, blocked: Blocked, steps: &mut Vec<Step>) {
        if self.blocked.as_ref().map(|before| before.reason) != Some(blocked.reason) {
            steps.push(Step::Say(Say::blocked(self.id, blocked.clone())));
        }
        self.blocked = Some(blocked);
    }

    fn say(&self, text: impl Into<String>, steps: &mut Vec<Step>) {
        steps.push(Step::Say(Say::info(self.id, text)));
    }
}
