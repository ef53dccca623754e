//! Rescue: what happens while NOSPACE is up.
//!
//! etcd refuses every put and every lease then, so there is no queue and no intent. Every janitor looks at all members
//! and computes the same [`Next`] from the same figures; the janitor of the member that it names acts, after it has
//! seen nothing else for [`STILL_FOR`]. If that one does not, another acts on the very same member.
//!
//! Its danger is two members in a defrag at once. Against it stand, besides `Next` being a function of the look: the
//! stillness (`Calm`), an open Defragment anywhere blocks, and a call leaves within a second of its look
//! ([`Permit`]). Nothing is remembered that the choice of the member depends on: a janitor that was just started names
//! the same one.

mod act;
mod calm;
mod next;
mod stand_back;
mod story;

use std::collections::BTreeMap;
use std::time::Duration;

use super::cluster::{AlarmKind, Look};
use super::member::{MemberId, RoundId, RoundKind};
use super::reason::{Blocked, Outcome, Reason};
use super::record::RoundRecord;
use super::round::Permit;
use super::step::{Action, Answer, Me, Policy, Say, Step, Ticket, Tickets};
use super::time::{Mono, Now};

use calm::Calm;
use stand_back::StandBack;
use story::Story;

pub use calm::STILL_FOR;
pub use next::{Next, TooLarge, Why, next};

/// How often the members are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long whoever should act is waited for, beyond [`STILL_FOR`].
const DEPUTY_AFTER: Duration = Duration::from_secs(60);
/// How much longer each further janitor waits.
const PER_RANK: Duration = Duration::from_secs(30);
/// How often a compaction is tried again that something was in the way of.
const COMPACT_AGAIN: Duration = Duration::from_secs(10);
/// How often it is asked whether there is something new to compact when nothing else helps.
const COMPACT_WHEN_STUCK: Duration = Duration::from_secs(30);

/// What a compaction for a rescue came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Compaction {
    /// How it ended.
    pub outcome: Outcome,
    /// Numbers, for people.
    pub detail: String,
    /// The revision that was compacted to.
    pub revision: Option<i64>,
    /// When more will be old enough.
    pub possible_at: Option<Now>,
}

/// What is shown of a rescue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State<'a> {
    /// Its name.
    pub id: RoundId,
    /// What it does, in words.
    pub phase: &'static str,
    /// What is in its way.
    pub blocked: Option<&'a Blocked>,
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Looking,
    Draining,
    Compacting,
    Moving,
    Sent,
    Refreshing,
    Comparing,
    Disarming,
    Proving { attempts: u32 },
    Recording { left: Vec<RoundRecord> },
    Over,
}

/// A call that was sent and is not accounted for yet.
#[derive(Debug, Clone, PartialEq)]
struct Call {
    member: MemberId,
    size: u64,
    count: u64,
    process_start: f64,
    /// What etcd answered, or what came instead.
    answer: Option<Result<f64, String>>,
}

/// A member whose defrags fail.
#[derive(Debug, Clone, PartialEq)]
struct Trouble {
    times: u32,
    not_before: Mono,
    blocked: Blocked,
}

/// The plan of one janitor while NOSPACE is up.
#[derive(Debug, Clone, PartialEq)]
pub struct Rescue {
    id: RoundId,
    me: Me,
    policy: Policy,
    tickets: Tickets,
    phase: Phase,
    /// When the next look is due; means nothing while an answer is awaited.
    at: Mono,
    awaiting: Option<Ticket>,
    /// While a defrag runs: the look after leadership.
    lookout: Option<Ticket>,
    lookout_at: Mono,
    calm: Calm,
    stand_back: StandBack,
    compaction: Option<(Compaction, Mono)>,
    /// The figures were made fresh since they last changed.
    refreshed: bool,
    /// HashKV was compared since the last defrag.
    compared: bool,
    draining: bool,
    call: Option<Call>,
    trouble: BTreeMap<MemberId, Trouble>,
    blocked: Option<Blocked>,
    story: Story,
    disarmed: bool,
    quiesced: bool,
}

impl Rescue {
    /// Begins now. `not_before`: somebody cleared the alarm by hand a while ago, and is left alone until then.
    pub fn new(me: Me, policy: Policy, tickets: Tickets, not_before: Option<Mono>, now: Now) -> Self {
        let due = chrono::DateTime::from_timestamp(now.wall.timestamp(), 0).unwrap_or(now.wall);
        Rescue {
            id: RoundId { kind: RoundKind::Rescue, due },
            me,
            policy,
            tickets,
            phase: Phase::Looking,
            at: now.mono,
            awaiting: None,
            lookout: None,
            lookout_at: now.mono,
            calm: Calm::default(),
            stand_back: StandBack::until(not_before),
            compaction: None,
            refreshed: false,
            compared: false,
            draining: false,
            call: None,
            trouble: BTreeMap::new(),
            blocked: None,
            story: Story::new(now),
            disarmed: false,
            quiesced: false,
        }
    }

    /// What is shown of it.
    pub fn state(&self) -> State<'_> {
        let phase = match self.phase {
            Phase::Looking if self.blocked.is_some() => "waiting for a reason to pass",
            Phase::Looking => "watching for still figures and for its turn",
            Phase::Draining => "draining clients",
            Phase::Compacting => "compacting",
            Phase::Moving => "moving leadership",
            Phase::Sent => "defragmenting",
            Phase::Refreshing => "making etcd count its free pages",
            Phase::Comparing => "comparing HashKV",
            Phase::Disarming => "clearing NOSPACE",
            Phase::Proving { .. } => "proving that etcd takes writes",
            Phase::Recording { .. } => "recording the outcome",
            Phase::Over => "over",
        };
        State { id: self.id, phase, blocked: self.blocked.as_ref() }
    }

    /// Whether the alarm is gone and nothing is left to do.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether a `Defragment` of the local member is under way, which answers nothing then.
    pub fn is_sent(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.member == self.me.member)
    }

    /// Somebody who is at it by hand is left alone until then.
    pub fn stand_back_until(&self) -> Option<Mono> {
        self.stand_back.ends()
    }

    /// When [`Rescue::tick`] has something to do next.
    pub fn wake_at(&self) -> Option<Mono> {
        let main = (self.awaiting.is_none() && !self.is_over()).then_some(self.at);
        let lookout = (self.phase == Phase::Sent && self.lookout.is_none()).then_some(self.lookout_at);
        main.into_iter().chain(lookout).min()
    }

    /// Takes over the configuration. Unlike a round it has no end of its own: what the operator changes to help it must
    /// count at once.
    pub fn configure(&mut self, policy: &Policy) {
        self.policy = policy.clone();
    }

    /// Starts nothing new.
    pub fn quiesce(&mut self, now: Now) -> Vec<Step> {
        self.quiesced = true;
        self.at = self.at.min(now.mono);
        let mut steps = Vec::new();
        self.stop_draining(&mut steps);
        steps
    }

    /// Does what the clock makes due.
    pub fn tick(&mut self, now: Now) -> Vec<Step> {
        let mut steps = Vec::new();
        self.look_out(now, &mut steps);
        if self.awaiting.is_none() && !self.is_over() && now.mono >= self.at {
            let action = match &self.phase {
                Phase::Proving { .. } => Action::Prove,
                Phase::Recording { .. } => match self.next_record() {
                    Some(action) => action,
                    None => return steps,
                },
                _ => Action::Look { round: self.id },
            };
            self.send(action, &mut steps);
        }
        steps
    }

    /// Whether this is the answer to one of its actions.
    pub fn awaits(&self, ticket: Ticket) -> bool {
        self.awaiting == Some(ticket) || self.lookout == Some(ticket)
    }

    /// Takes the answer to an action.
    pub fn answer(&mut self, ticket: Ticket, answer: Answer, now: Now) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.lookout == Some(ticket) {
            self.looked_out(answer, now, &mut steps);
        } else if self.awaiting == Some(ticket) {
            self.awaiting = None;
            match answer {
                Answer::Looked(look) => self.looked(&look, now, &mut steps),
                other => self.acted(other, now, &mut steps),
            }
        }
        steps.extend(self.tick(now));
        steps
    }

    fn send(&mut self, action: Action, steps: &mut Vec<Step>) {
        let ticket = self.tickets.next();
        self.awaiting = Some(ticket);
        steps.push(Step::Do { ticket, action });
    }

    /// Looks again after a while.
    fn look_again(&mut self, now: Now) {
        self.phase = if self.draining { Phase::Draining } else { Phase::Looking };
        self.at = now.mono + LOOK_EVERY;
    }

    fn looked(&mut self, look: &Look, now: Now, steps: &mut Vec<Step>) {
        self.story.saw(look);
        self.account(look, now, steps);
        if self.alarm_is_gone(look) {
            return self.gone(now, steps);
        }
        self.look_again(now);
        // What was in the way then still is, until something else comes next.
        let mut stuck = false;
        let judged = match self.judge(look, now) {
            Ok(next) => {
                stuck = matches!(next, Next::Stuck(_));
                let since = self.calm.observe(look, &next);
                if next != Next::Defragment(self.me.member) {
                    self.stop_draining(steps);
                }
                self.act(look, next, since, now, steps)
            }
            Err(blocked) => {
                self.calm.disturb();
                Err(blocked)
            }
        };
        match judged {
            Ok(()) if stuck => {}
            Ok(()) => self.blocked = None,
            Err(blocked) => {
                self.stop_draining(steps);
                self.block(blocked, steps);
            }
        }
    }

    /// No member that answers tells of NOSPACE any more, and the local one or a leader is among them.
    fn alarm_is_gone(&self, look: &Look) -> bool {
        let nospace = look.alarms().iter().any(|alarm| alarm.kind == AlarmKind::Nospace);
        !nospace && look.voters().any(|member| member.status.as_ref().is_ok_and(|status| status.leader.is_some()))
    }

    /// What comes next, when nothing forbids to do anything at all.
    fn judge(&mut self, look: &Look, now: Now) -> Result<Next, Blocked> {
        if self.quiesced {
            return Err(Blocked::new(Reason::Quiesced, "told to start nothing new"));
        }
        self.stand_back.notice(look, self.call.as_ref().map(|call| call.member), &self.policy, now)?;
        let next = next(look, self.me.member, &self.policy, now)?;
        self.stand_back.expect(&next, now);
        let local = look.member(self.me.member);
        if local.is_some_and(|member| member.learner) {
            return Err(Blocked::new(Reason::Learner, "the local member is a learner: its janitor looks on"));
        }
        Ok(next)
    }

    /// The alarm is gone, by us or by somebody else.
    fn gone(&mut self, now: Now, steps: &mut Vec<Step>) {
        self.stop_draining(steps);
        if self.disarmed {
            // Cleared by us, though the answer was lost.
            self.phase = Phase::Proving { attempts: 0 };
            self.at = now.mono;
            return;
        }
        if self.stand_back.disarmed_by_hand(now) {
            let text = "NOSPACE was cleared by somebody else before every member had room; stands back for 10 minutes \
                        if it comes again";
            self.say(text, steps);
        } else {
            self.say(format!("NOSPACE is gone after {}", self.story.told(now)), steps);
        }
        self.finish(steps);
    }

    fn finish(&mut self, steps: &mut Vec<Step>) {
        self.stop_draining(steps);
        self.phase = Phase::Over;
        steps.push(Step::RescueOver);
    }

    /// Something is in the way. Said when it is something else than before; numbers may move.
    fn block(&mut self, blocked: Blocked, steps: &mut Vec<Step>) {
        let words = |blocked: &Blocked| blocked.detail.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
        let same = |before: &Blocked| before.reason == blocked.reason && words(before) == words(&blocked);
        if !self.blocked.as_ref().is_some_and(same) {
            steps.push(Step::Say(Say::blocked(self.id, blocked.clone())));
        }
        self.blocked = Some(blocked);
    }

    fn say(&self, text: impl Into<String>, steps: &mut Vec<Step>) {
        steps.push(Step::Say(Say::info(self.id, text)));
    }

    fn stop_draining(&mut self, steps: &mut Vec<Step>) {
        if std::mem::take(&mut self.draining) {
            steps.push(Step::Drain(false));
            if self.phase == Phase::Draining {
                self.phase = Phase::Looking;
            }
        }
    }
}

#[cfg(test)]
mod tests;
