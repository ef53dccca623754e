//! The janitors' real plans. Each distinct one is kept once and known by its number; each event that it is told is
//! worked out once, however many worlds it happens in.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_janitor::plan::janitor::Janitor;
use etcd_janitor::plan::member::{MemberId, RoundKind};
use etcd_janitor::plan::reason::{Blocked, Failure, Outcome, Reason};
use etcd_janitor::plan::record::Intent as IntentRecord;
use etcd_janitor::plan::rescue::Compaction;
use etcd_janitor::plan::rule::{Figures, Quota};
use etcd_janitor::plan::step::{
    Action, Answer, Event, Joined, Me, Policy, Renewal, Sent, Settle, Step, Ticket, Written,
};
use etcd_janitor::plan::time::{Mono, Now};

use super::identity;
use super::rescue;
use super::scope::{Ms, TTL};
use super::seen::{Seen, id, instance, round, wall};

/// One distinct plan.
pub type PlanId = u32;

/// What happens to a plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Told {
    Tick,
    QueueChanged,
    IntentSeen,
    /// Time passes, and it is not told.
    Passed(Ms),
    /// Of the action in this place.
    Answer(u8, Reply),
}

/// An answer, in the model's words.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reply {
    Figures,
    /// Begun this long ago.
    Looked(Box<Seen>, Ms),
    /// Begun now, while NOSPACE is up or has just gone.
    LookedInRescue(Box<rescue::Seen>),
    /// On this lease; none: no answer.
    Joined(Option<i64>),
    Renewed,
    RenewGone,
    RenewUnclear,
    Left,
    LeaderMoved(bool),
    Written(i64),
    WriteRefused,
    WriteUnclear,
    NotSent,
    Done,
    Unclear,
    Settled(bool),
    Compacted(bool),
    Disarmed(bool),
    Proved(bool),
}

/// What a plan is waiting for, in the model's words.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    Figures,
    /// For a round, or only for the watch over intents.
    Look {
        of_round: bool,
    },
    Join,
    Renew(i64),
    Leave(i64),
    MoveLeader {
        from: u8,
        to: u8,
    },
    WriteIntent {
        intent: Box<IntentRecord>,
        turn: Option<i64>,
    },
    Defragment,
    Settle {
        made: Option<i64>,
        record: Option<(u8, Outcome)>,
        owner: bool,
    },
    Compact,
    Disarm,
    Prove,
}

/// What the model needs to know of a plan.
#[derive(Debug)]
pub struct View {
    /// Actions under way.
    pub asks: Vec<Ask>,
    /// Zero: it wants a tick now.
    pub wakes_in: Option<Ms>,
    /// The age of its look if the permit of its `Defragment` holds.
    pub permit: Option<Ms>,
    /// The age of its look, whether the permit holds or not.
    pub look_age: Ms,
    pub last_look: bool,
    /// Whom its `Defragment` is for.
    pub target: Option<u8>,
    /// It stands in the queue, has written an intent or has sent.
    pub at_stake: bool,
    pub own_intent: Option<i64>,
    /// It leaves somebody alone who is at it by hand.
    pub stands_back: bool,
    /// Where its round or rescue stands, for people.
    pub phase: &'static str,
}

struct Entry {
    janitor: Janitor,
    now: Mono,
    asks: Vec<(Ticket, Action)>,
    view: Arc<View>,
}

#[derive(Default)]
struct Known {
    entries: Vec<Entry>,
    by_identity: HashMap<String, PlanId>,
    worked_out: HashMap<(PlanId, Told), PlanId>,
}

/// All plans of one run.
#[derive(Default)]
pub struct Plans {
    known: Mutex<Known>,
}

/// Long after the origin, so that no age is cut short by it.
const START: Mono = Mono::new(Duration::from_secs(100_000));

fn span(ms: Ms) -> Duration {
    Duration::from_millis(u64::from(ms))
}

impl Plans {
    /// A process that has just started. With a round, its figures are in.
    pub fn start(&self, by: usize, epoch: u8, policy: Policy, works: bool) -> PlanId {
        let mut janitor = Janitor::new(me(by, epoch), policy);
        let now = Now { mono: START, wall: wall() };
        let event = if works { Event::Due { round: round(), jitter: Duration::ZERO } } else { Event::Tick };
        let asks = actions(janitor.on(event, now));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = known.keep(janitor, START, asks);
        drop(known);
        match self.view(plan).asks.iter().position(|ask| *ask == Ask::Figures) {
            Some(place) => self.tell(plan, Told::Answer(place as u8, Reply::Figures)),
            None => plan,
        }
    }

    /// A process that has just started and sees NOSPACE.
    pub fn start_rescue(&self, by: usize, epoch: u8, policy: Policy) -> PlanId {
        let mut janitor = Janitor::new(me(by, epoch), policy);
        let now = Now { mono: START, wall: wall() };
        let asks = actions(janitor.on(Event::NospaceSeen, now));
        self.known.lock().unwrap_or_else(PoisonError::into_inner).keep(janitor, START, asks)
    }

    pub fn view(&self, plan: PlanId) -> Arc<View> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&known.entries[plan as usize].view)
    }

    /// What becomes of a plan that is told something.
    pub fn tell(&self, plan: PlanId, told: Told) -> PlanId {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let question = (plan, told);
        if let Some(next) = known.worked_out.get(&question) {
            return *next;
        }
        let next = known.work_out(plan, &question.1);
        known.worked_out.insert(question, next);
        next
    }

    /// How many distinct plans there are, and how many events they were told.
    pub fn count(&self) -> (usize, usize) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        (known.entries.len(), known.worked_out.len())
    }
}

fn me(by: usize, epoch: u8) -> Me {
    let name = format!("m{by}");
    Me { member: id(by), name, instance: instance(by as u8, epoch), holder: format!("pod-{by}") }
}

impl Known {
    fn keep(&mut self, janitor: Janitor, now: Mono, asks: Vec<(Ticket, Action)>) -> PlanId {
        let tickets: Vec<String> = asks.iter().map(|(ticket, _)| format!("{ticket:?}")).collect();
        let actions: Vec<&Action> = asks.iter().map(|(_, action)| action).collect();
        let leave = if janitor.rescue().is_some() { &identity::IN_RESCUES } else { &identity::IN_ROUNDS };
        let identity = identity::of(&without_policies(&format!("{janitor:?} {actions:?}")), now, &tickets, leave);
        if let Some(plan) = self.by_identity.get(&identity) {
            return *plan;
        }
        let plan = PlanId::try_from(self.entries.len()).expect("fewer plans");
        let view = Arc::new(view(&janitor, now, &asks));
        self.entries.push(Entry { janitor, now, asks, view });
        self.by_identity.insert(identity, plan);
        plan
    }

    fn work_out(&mut self, plan: PlanId, told: &Told) -> PlanId {
        let entry = &self.entries[plan as usize];
        let (mut janitor, mut asks) = (entry.janitor.clone(), entry.asks.clone());
        let now = Now { mono: entry.now, wall: wall() };
        let event = match told {
            Told::Passed(ms) => return self.keep(janitor, now.mono + span(*ms), asks),
            Told::Tick => Event::Tick,
            Told::QueueChanged => Event::QueueChanged,
            Told::IntentSeen => Event::IntentSeen,
            Told::Answer(place, reply) => {
                let (ticket, action) = asks.remove(usize::from(*place));
                Event::Answered { ticket, answer: answer(reply, &action, now) }
            }
        };
        asks.extend(actions(janitor.on(event, now)));
        self.keep(janitor, now.mono, asks)
    }
}

/// Both policies of a plan never change and are long.
fn without_policies(shown: &str) -> String {
    let mut text = String::with_capacity(shown.len());
    let mut rest = shown;
    while let Some((before, after)) = rest.split_once("policy: Policy {") {
        text.push_str(before);
        rest = after.split_once("rescue: ").expect("the last field of a policy").1;
        // Janitors with another lease_ttl than others must stay apart.
        text.push_str(after.split_once("lease_ttl: ").and_then(|(_, ttl)| ttl.split(',').next()).unwrap_or_default());
    }
    text.push_str(rest);
    text
}

fn actions(steps: Vec<Step>) -> Vec<(Ticket, Action)> {
    let action = |step| match step {
        Step::Do { ticket, action } => Some((ticket, action)),
        _ => None,
    };
    steps.into_iter().filter_map(action).collect()
}

fn view(janitor: &Janitor, now: Mono, asks: &[(Ticket, Action)]) -> View {
    let permit = asks.iter().find_map(|(_, action)| match action {
        Action::Defragment { permit, .. } => Some(permit),
        _ => None,
    });
    let age = |age: Duration| identity::millis(age) as Ms;
    let checked = permit.and_then(|permit| permit.check(Now { mono: now, wall: permit.look_begun.wall }).ok());
    let stands =
        janitor.round().is_some_and(|round| round.lease().is_some() || round.own_intent().is_some() || round.is_sent());
    let by_hand = |blocked: &Blocked| blocked.reason == Reason::ForeignDefrag;
    let stands_back = janitor.rescue().is_some_and(|state| state.blocked.is_some_and(by_hand));
    let rescue = janitor.rescue().map(|state| match state.phase {
        Cow::Borrowed(phase) => phase,
        Cow::Owned(_) => "waiting for a defrag",
    });
    View {
        asks: asks.iter().map(|(_, action)| ask(action)).collect(),
        wakes_in: janitor.wake_at().map(|at| age(at.since(now))),
        permit: checked.map(age),
        look_age: permit.map_or(0, |permit| age(now.since(permit.look_begun.mono))),
        last_look: janitor.round().is_some_and(|round| round.phase() == "taking the last look"),
        at_stake: stands,
        own_intent: janitor.round().and_then(|round| round.own_intent()),
        target: permit.map(|permit| number(permit.member)),
        stands_back,
        phase: janitor.round().map(|round| round.phase()).or(rescue).unwrap_or("nothing under way"),
    }
}

fn number(member: MemberId) -> u8 {
    (member.0 - 1) as u8
}

fn ask(action: &Action) -> Ask {
    match action {
        Action::Figures => Ask::Figures,
        Action::Look { round } => Ask::Look { of_round: round.kind != RoundKind::Manual },
        Action::Join { .. } => Ask::Join,
        Action::Renew { lease, .. } => Ask::Renew(*lease),
        Action::Leave { lease } => Ask::Leave(*lease),
        Action::MoveLeader { from, to, .. } => Ask::MoveLeader { from: number(*from), to: number(*to) },
        Action::WriteIntent { intent, turn, .. } => {
            Ask::WriteIntent { intent: Box::new(intent.clone()), turn: turn.map(|turn| turn.lease) }
        }
        Action::Defragment { .. } => Ask::Defragment,
        Action::Settle(Settle { record, intent, owner }) => {
            let record = record.as_ref().map(|record| (number(record.member), record.outcome));
            Ask::Settle { made: *intent, record, owner: *owner }
        }
        Action::CompactForRescue => Ask::Compact,
        Action::Disarm { .. } => Ask::Disarm,
        Action::Prove => Ask::Prove,
        Action::CompareHash | Action::Refresh { .. } => panic!("{action:?} is no part of the model"),
    }
}

fn answer(reply: &Reply, action: &Action, now: Now) -> Answer {
    let silent = || Blocked::new(Reason::EtcdUnavailable, "no answer");
    let until = now.mono + span(TTL);
    let compacted = |outcome| {
        Answer::Compacted(Compaction {
            outcome,
            detail: String::new(),
            revision: None,
            possible_at: None,
            kept_for: Default::default(),
        })
    };
    match reply {
        Reply::Figures => {
            let quota = Quota::Bytes(8 << 30);
            Answer::Figures(Ok(Figures { db_size: 1 << 30, db_size_in_use: 1 << 27, quota }))
        }
        Reply::Looked(seen, age) => {
            let Action::Look { round } = action else { panic!("{action:?} is no look") };
            let begun = Now { mono: now.mono.back(span(*age)), wall: now.wall };
            Answer::Looked(Box::new(seen.look(begun, *round)))
        }
        Reply::LookedInRescue(seen) => Answer::Looked(Box::new(seen.look(now))),
        Reply::Compacted(true) => compacted(Outcome::Done),
        Reply::Compacted(false) => compacted(Outcome::Failed(Failure::Refused)),
        Reply::Disarmed(true) => Answer::Disarmed(Ok(())),
        Reply::Disarmed(false) => Answer::Disarmed(Err(silent())),
        Reply::Proved(true) => Answer::Proved(Ok(())),
        Reply::Proved(false) => Answer::Proved(Err(silent())),
        Reply::Joined(Some(lease)) => {
            Answer::Joined(Ok(Joined { lease: *lease, create_revision: *lease, valid_until: until }))
        }
        Reply::Joined(None) => Answer::Joined(Err(silent())),
        Reply::Renewed => Answer::Renewed(Renewal::Until(until)),
        Reply::RenewGone => Answer::Renewed(Renewal::Gone),
        Reply::RenewUnclear => Answer::Renewed(Renewal::Unclear),
        Reply::Left => Answer::Left,
        Reply::LeaderMoved(true) => Answer::LeaderMoved(Ok(())),
        Reply::LeaderMoved(false) => Answer::LeaderMoved(Err(silent())),
        Reply::Written(revision) => Answer::IntentWritten(Written::At(*revision)),
        Reply::WriteRefused => Answer::IntentWritten(Written::Refused("a compare failed".to_owned())),
        Reply::WriteUnclear => Answer::IntentWritten(Written::Unclear("no answer".to_owned())),
        Reply::NotSent => {
            Answer::Sent(Sent::NotSent(Blocked::new(Reason::TurnTimeout, "the permit does not hold any more")))
        }
        Reply::Done => Answer::Sent(Sent::Done { seconds: 1.0 }),
        Reply::Unclear => Answer::Sent(Sent::Unclear("the connection was lost".to_owned())),
        Reply::Settled(true) => Answer::Settled(Ok(())),
        Reply::Settled(false) => Answer::Settled(Err(silent())),
    }
}
