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
mod before;
mod calm;
mod next;
mod stand_back;
mod story;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use super::cluster::{AlarmKind, Look};
use super::member::{MemberId, RoundId, RoundKind};
use super::reason::{Blocked, Outcome, Reason};
use super::record::RoundRecord;
use super::round::Permit;
use super::step::{Action, Answer, Me, Policy, Say, Step, Ticket, Tickets};
use super::time::{Mono, Now};

use before::Before;
use calm::Calm;
use stand_back::{Own, StandBack};
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
    /// For whom that is kept until then.
    pub kept_for: KeptFor,
}

/// Why history is not compacted at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeptFor {
    /// `alarms.rescue_retention` asks for it, and `alarms.compact_to_head` would not.
    #[default]
    Retention,
    /// A kube-apiserver needs its five minutes.
    Kubernetes,
    /// Nobody: it may be compacted to the head.
    Nobody,
}

/// What is shown of a rescue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State<'a> {
    /// Its name.
    pub id: RoundId,
    /// What it does, in words.
    pub phase: Cow<'static, str>,
    /// What is in its way.
    pub blocked: Option<&'a Blocked>,
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Looking,
    /// For a defrag, of the member with this name.
    Waiting(String),
    Draining,
    Compacting,
    Moving,
    Sent,
    Refreshing,
    Comparing,
    Disarming,
    Proving {
        attempts: u32,
    },
    Recording {
        left: Vec<RoundRecord>,
    },
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
    wait: Duration,
    not_before: Mono,
    blocked: Blocked,
}

/// No defrag helps.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stuck {
    since: Mono,
    /// The first compaction that did something and was no help, and the newest.
    compacted: Option<(Mono, Mono)>,
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
    before: Option<Before>,
    compaction: Option<(Compaction, Mono)>,
    stuck: Option<Stuck>,
    /// How often the figures were made fresh since the last compaction, or since something else could be done.
    refreshes: u8,
    /// HashKV was compared since the last defrag.
    compared: bool,
    draining: bool,
    call: Option<Call>,
    /// Whom a Defragment was sent to last.
    called: Option<MemberId>,
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
            before: None,
            compaction: None,
            stuck: None,
            refreshes: 0,
            compared: false,
            draining: false,
            call: None,
            called: None,
            trouble: BTreeMap::new(),
            blocked: None,
            story: Story::new(now),
            disarmed: false,
            quiesced: false,
        }
    }

    /// What is shown of it.
    pub fn state(&self) -> State<'_> {
        let phase = match &self.phase {
            Phase::Waiting(name) => {
                return State { id: self.id, phase: format!("waits for {name}'s defrag").into(), blocked: None };
            }
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
        State { id: self.id, phase: phase.into(), blocked: self.blocked.as_ref() }
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
    pub fn configure(&mut self, policy: &Policy, now: Now) {
        self.policy = policy.clone();
        if !policy.rescue {
            self.at = self.at.min(now.mono);
        }
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

    /// How long whoever should act is waited for, beyond [`STILL_FOR`]: it may drain its clients before.
    fn deputy_after(&self) -> Duration {
        DEPUTY_AFTER + self.policy.drain
    }

    /// Looks again after a while.
    fn look_again(&mut self, now: Now) {
        self.phase = if self.draining { Phase::Draining } else { Phase::Looking };
        self.at = now.mono + LOOK_EVERY;
    }

    fn looked(&mut self, look: &Look, now: Now, steps: &mut Vec<Step>) {
        self.story.saw(look);
        let own = self.call.as_ref().map(|call| call.member);
        self.account(look, now, steps);
        let newest = Before::new(look, self.before.as_ref(), &self.policy);
        let before = self.before.replace(newest);
        let ended = before.as_ref().map(|before| before.ended(look)).unwrap_or_default();
        for ended in ended.iter().filter(|ended| Some(ended.member) != own) {
            self.take_note(look, ended, now);
        }
        if self.alarm_is_gone(look) {
            let by_hand = !self.disarmed && before.is_some_and(|before| before.cleared_too_early(look, true));
            return self.gone(by_hand, now, steps);
        }
        if !self.policy.rescue && self.call.is_none() {
            self.say("alarms.rescue is false now: the rescue ends, and NOSPACE stays", steps);
            return self.finish(steps);
        }
        self.look_again(now);
        // What was in the way then still is, until something else comes next.
        let mut stuck = false;
        let judged = match self.judge(look, before.as_ref().map(|before| (before, &ended[..])), now) {
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
                let open = stand_back::open(look).next();
                if open.is_some() {
                    self.calm.is_nobodys(look);
                }
                // Of a janitor or of a round: an operator's was noticed as such.
                if let Some(member) = open
                    && blocked.reason == Reason::ForeignDefrag
                    && self.stand_back.ends().is_none()
                {
                    self.stop_draining(steps);
                    self.phase = Phase::Waiting(member.name.clone());
                    Ok(())
                } else {
                    Err(blocked)
                }
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
    fn judge(&mut self, look: &Look, before: Option<(&Before, &[before::Ended])>, now: Now) -> Result<Next, Blocked> {
        if self.quiesced {
            return Err(Blocked::new(Reason::Quiesced, "told to start nothing new"));
        }
        let own = Own {
            member: self.me.member,
            called: self.called,
            deputy_after: self.deputy_after(),
            changed_after: self.calm.changed_after,
        };
        self.stand_back.notice(look, before, own, &self.policy, now)?;
        let next = next(look, self.me.member, &self.policy, now)?;
        self.calm.changed_after = self.stand_back.expect(&next, look).max(self.calm.changed_after);
        let local = look.member(self.me.member);
        if local.is_some_and(|member| member.learner) {
            return Err(Blocked::new(Reason::Learner, "the local member is a learner: its janitor looks on"));
        }
        Ok(next)
    }

    /// The alarm is gone, by us or by somebody else.
    fn gone(&mut self, by_hand: bool, now: Now, steps: &mut Vec<Step>) {
        self.stop_draining(steps);
        if self.disarmed {
            // Cleared by us, though the answer was lost.
            self.phase = Phase::Proving { attempts: 0 };
            self.at = now.mono;
            return;
        }
        if by_hand {
            self.stand_back.cleared_by_hand(now);
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
