//! The whole plan of one janitor: the round under way, intents that others left open, and the rescue from NOSPACE.

use std::time::Duration;

use super::cluster::{Look, disarmable, has_left};
use super::hold::no_hold;
use super::intent::{Resolution, Resolver, owner_in_queue, target_name};
use super::member::{MemberId, RoundId, RoundKind};
use super::reason::{Blocked, Outcome, Reason};
use super::record::{Intent, RoundRecord, VERSION};
use super::rescue::{self, Rescue};
use super::round::{Ended, Round, Start};
use super::step::{Action, Answer, Event, Me, Policy, Say, Settle, Step, Ticket, Tickets};
use super::time::{Mono, Now};

/// How often an open intent is looked at.
const INTENT_EVERY: Duration = Duration::from_secs(2);
/// How often it is asked whether NOSPACE may be cleared.
const NOSPACE_EVERY: Duration = Duration::from_secs(10);

/// The plan of one janitor.
#[derive(Debug, Clone, PartialEq)]
pub struct Janitor {
    me: Me,
    policy: Policy,
    tickets: Tickets,
    rounds_begun: u32,
    round: Option<Round>,
    rescue: Option<Rescue>,
    /// An operator cleared NOSPACE by hand: a rescue leaves them alone until then.
    stand_back_until: Option<Mono>,
    watch: Watch,
    quiesced: bool,
}

/// Looks that no round asked for: after intents whose owner is gone, and after NOSPACE.
#[derive(Debug, Clone, PartialEq, Default)]
struct Watch {
    intent: bool,
    /// It was told of after the look under way had begun, which need not show it.
    again: bool,
    nospace: bool,
    resolver: Resolver,
    next: Mono,
    awaiting: Option<(Ticket, Asked)>,
    said: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
enum Asked {
    Look,
    Settle(Box<RoundRecord>),
    Clear,
    Disarm,
}

impl Janitor {
    /// A plan with nothing under way. Its first look is for an intent that an earlier instance may have left.
    pub fn new(me: Me, policy: Policy) -> Self {
        let watch = Watch { intent: true, ..Watch::default() };
        Janitor {
            me,
            policy,
            tickets: Tickets::default(),
            rounds_begun: 0,
            round: None,
            rescue: None,
            stand_back_until: None,
            watch,
            quiesced: false,
        }
    }

    /// Who this is.
    pub fn me(&self) -> &Me {
        &self.me
    }

    /// The round under way.
    pub fn round(&self) -> Option<&Round> {
        self.round.as_ref()
    }

    /// The rescue under way.
    pub fn rescue(&self) -> Option<rescue::State<'_>> {
        self.rescue.as_ref().map(Rescue::state)
    }

    /// Whether a `Defragment` of the local member has no known outcome yet.
    pub fn is_sent(&self) -> bool {
        self.round.as_ref().is_some_and(Round::is_sent) || self.rescue.as_ref().is_some_and(Rescue::is_sent)
    }

    /// Whether a `Defragment` of this janitor runs, or ended in a way that nobody knows yet.
    pub fn is_unsettled(&self) -> bool {
        self.round.as_ref().is_some_and(Round::is_unsettled)
    }

    /// Whether it has nothing left to do or to leave behind. A rescue leaves nothing behind.
    pub fn is_idle(&self) -> bool {
        self.round.is_none()
    }

    /// When [`Event::Tick`] is wanted next.
    pub fn wake_at(&self) -> Option<Mono> {
        // In a dry run nothing is watched: waking for it would never end.
        let watching = self.watch.awaiting.is_none() && self.watch.is_on() && !self.policy.dry_run;
        let watch = watching.then_some(self.watch.next);
        let round = self.round.as_ref().and_then(Round::wake_at);
        let rescue = self.rescue.as_ref().and_then(Rescue::wake_at);
        round.into_iter().chain(rescue).chain(watch).min()
    }

    /// What to do about what happened.
    pub fn on(&mut self, event: Event, now: Now) -> Vec<Step> {
        let mut steps = match event {
            Event::Tick => self.tick(now),
            Event::Due { round, jitter } => self.due(round, jitter, now),
            Event::Answered { ticket, answer } => self.answered(ticket, answer, now),
            Event::IntentSeen => {
                self.intent_seen();
                Vec::new()
            }
            Event::NospaceSeen => self.nospace_seen(now),
            Event::QueueChanged => self.with_round(|round| round.queue_changed(now)),
            Event::Quiesce => {
                self.quiesced = true;
                let mut steps = self.with_round(|round| round.quiesce(now));
                steps.extend(self.rescue.as_mut().map(|rescue| rescue.quiesce(now)).unwrap_or_default());
                steps
            }
            Event::Withdraw(reason) => self.with_round(|round| round.withdraw(reason, now)),
            Event::Policy(policy) => {
                // A round keeps the configuration that it began with. What is known of the world is another matter.
                if let Some(round) = &mut self.round {
                    round.learn(policy.recorded);
                }
                self.policy = *policy;
                if let Some(rescue) = &mut self.rescue {
                    rescue.configure(&self.policy, now);
                }
                Vec::new()
            }
        };
        if self.round.as_ref().is_some_and(Round::is_over) {
            self.round = None;
        }
        if let Some(over) = self.rescue.take_if(|rescue| rescue.is_over()) {
            self.stand_back_until = over.stand_back_until();
        }
        self.keep_watch(now, &mut steps);
        steps
    }

    fn with_round(&mut self, act: impl FnOnce(&mut Round) -> Vec<Step>) -> Vec<Step> {
        self.round.as_mut().map(act).unwrap_or_default()
    }

    fn tick(&mut self, now: Now) -> Vec<Step> {
        let mut steps = self.with_round(|round| round.tick(now));
        steps.extend(self.rescue.as_mut().map(|rescue| rescue.tick(now)).unwrap_or_default());
        steps
    }

    /// NOSPACE is up: a rescue begins, if the configuration allows one.
    fn nospace_seen(&mut self, now: Now) -> Vec<Step> {
        // Another member's janitor may rescue, and waits for our place in the queue.
        let mut steps = self.with_round(|round| round.nospace_seen(now));
        if !self.policy.rescue {
            self.watch.nospace = true;
            return steps;
        }
        if self.rescue.is_none() {
            let mut rescue =
                Rescue::new(self.me.clone(), self.policy.clone(), self.next_tickets(), self.stand_back_until, now);
            if self.quiesced {
                steps.extend(rescue.quiesce(now));
            }
            steps.push(Step::Say(Say::info(rescue.state().id, "NOSPACE is up: the rescue begins")));
            steps.extend(rescue.tick(now));
            self.rescue = Some(rescue);
        }
        steps
    }

    /// A source of tickets that nobody else draws from.
    fn next_tickets(&mut self) -> Tickets {
        let tickets = Tickets::of_round(self.rounds_begun);
        self.rounds_begun = self.rounds_begun.wrapping_add(1);
        tickets
    }

    fn due(&mut self, id: RoundId, jitter: Duration, now: Now) -> Vec<Step> {
        let refuse = |reason: Reason, detail: &str| {
            let ended = Ended {
                round: id,
                outcome: Outcome::Skipped(reason),
                detail: detail.to_owned(),
                seconds: None,
                reclaimed: None,
            };
            vec![Step::Ended(ended)]
        };
        if self.quiesced {
            return refuse(Reason::Quiesced, "told to start nothing new");
        }
        if let Some(round) = &self.round {
            // Never two runs of a task at once: the earlier round is still inside its window.
            let detail = format!("{} is still under way", round.id());
            return refuse(Reason::TurnTimeout, &detail);
        }
        let late = (now.wall - id.due).to_std().unwrap_or_default();
        if late >= self.policy.window {
            return refuse(Reason::WindowOver, "due longer ago than the window");
        }
        let tickets = self.next_tickets();
        let start = Start { id, late, jitter };
        let mut round = Round::new(start, self.me.clone(), self.policy.clone(), tickets, now);
        let steps = round.tick(now);
        self.round = Some(round);
        steps
    }

    fn answered(&mut self, ticket: Ticket, answer: Answer, now: Now) -> Vec<Step> {
        let ours = self.watch.awaiting.take_if(|(awaited, _)| *awaited == ticket);
        if let Some((_, asked)) = ours {
            return self.watched(asked, answer, now);
        }
        // Any look may show an intent that nobody looks after, and a round may be over before it was settled.
        if let Answer::Looked(look) = &answer
            && self.foreign_intent(look).is_some()
        {
            self.intent_seen();
        }
        if let Some(rescue) = self.rescue.as_mut().filter(|rescue| rescue.awaits(ticket)) {
            return rescue.answer(ticket, answer, now);
        }
        self.with_round(|round| round.answer(ticket, answer, now))
    }

    fn intent_seen(&mut self) {
        self.watch.intent = true;
        self.watch.again = self.watch.awaiting.is_some();
    }

    /// An intent that no round of ours owns and whose writer does not stand in the queue. One for a member that has left
    /// is nobody's, wherever its writer stands.
    fn foreign_intent<'a>(&self, look: &'a Look) -> Option<(i64, &'a Intent)> {
        let stored = look.records.as_ref().ok()?.intent.as_ref()?;
        let intent = stored.value.as_ref().ok()?;
        let own = self.round.as_ref().and_then(Round::own_intent) == Some(stored.mod_revision);
        let in_hand = self.round.as_ref().is_some_and(|round| round.id() == intent.round);
        let being_written = in_hand && intent.instance == self.me.instance;
        let orphaned = has_left(look, intent.member) || !owner_in_queue(look, intent);
        (!own && !being_written && orphaned).then_some((stored.mod_revision, intent))
    }

    fn keep_watch(&mut self, now: Now, steps: &mut Vec<Step>) {
        if !self.watch.is_on() || self.watch.awaiting.is_some() || now.mono < self.watch.next || self.policy.dry_run {
            return;
        }
        // A look that belongs to no round asks about one that cannot have outcomes.
        let round = RoundId { kind: RoundKind::Manual, due: chrono::DateTime::UNIX_EPOCH };
        self.ask(Action::Look { round }, Asked::Look, steps);
    }

    fn ask(&mut self, action: Action, asked: Asked, steps: &mut Vec<Step>) {
        let ticket = self.tickets.next();
        self.watch.awaiting = Some((ticket, asked));
        steps.push(Step::Do { ticket, action });
    }

    fn watched(&mut self, asked: Asked, answer: Answer, now: Now) -> Vec<Step> {
        let mut steps = Vec::new();
        self.watch.next = now.mono + INTENT_EVERY;
        match (asked, answer) {
            (Asked::Look, Answer::Looked(look)) => self.watch_look(&look, now, &mut steps),
            (Asked::Settle(record), Answer::Settled(Ok(()))) => {
                self.watch.resolver.reset();
                steps.push(Step::Adopted(*record));
            }
            (Asked::Settle(record), Answer::Settled(Err(blocked))) if blocked.reason == Reason::Nospace => {
                self.watch.resolver.reset();
                let (round, outcome) = (record.round, record.outcome);
                let text = format!("NOSPACE is up: {outcome} of {} in {round} is not on record", record.name);
                steps.push(Step::Say(Say { round: None, text, blocked: None }));
                steps.push(Step::Adopted(*record));
            }
            (Asked::Disarm, Answer::Disarmed(result)) => {
                self.watch.next = now.mono + NOSPACE_EVERY;
                let text = match result {
                    Ok(()) => "every member is below the threshold: NOSPACE was cleared".to_owned(),
                    Err(blocked) => format!("NOSPACE could not be cleared: {blocked}"),
                };
                steps.push(Step::Say(Say { round: None, text, blocked: None }));
            }
            // Tried again at the next look.
            _ => {}
        }
        steps
    }

    fn watch_look(&mut self, look: &Look, now: Now, steps: &mut Vec<Step>) {
        let Ok(records) = look.records() else {
            // etcd is away, or lets us read nothing.
            self.watch.next = now.mono + self.policy.retry_every;
            return;
        };
        let again = std::mem::take(&mut self.watch.again);
        if self.watch.intent {
            if let Some((revision, intent)) = self.foreign_intent(look) {
                let intent = intent.clone();
                return self.resolve(look, revision, &intent, now, steps);
            }
            self.watch.resolver.reset();
            // One whose owner stands in the queue is its owner's, until the owner's lease runs out: look again.
            self.watch.intent = records.intent.is_some() || again;
            if records.intent.as_ref().is_some_and(|stored| stored.value.is_err()) {
                // Nobody of this release can settle it; it blocks until somebody who can read it does.
                self.watch.next = now.mono + self.policy.retry_every;
            }
        }
        if self.watch.nospace {
            self.clear_nospace(look, now, steps);
            self.watch.next = now.mono + NOSPACE_EVERY;
        }
    }

    /// Settles an intent by what its target shows, without needing the turn; adoption after a restart is the same.
    fn resolve(&mut self, look: &Look, revision: i64, intent: &Intent, now: Now, steps: &mut Vec<Step>) {
        let settle_after = self.policy.lease_ttl;
        let Some(resolution) = self.watch.resolver.assess(look, revision, intent, settle_after, now.mono) else {
            let text = format!(
                "{} announced a defrag of {} in {} and is not in the queue; waits for its outcome",
                intent.holder,
                target_name(look, intent.member),
                intent.round
            );
            return self.say_once(text, steps);
        };
        let (outcome, detail) = match resolution {
            Resolution::Void => {
                let text = format!("clears the intent for {}, which is no member any more", intent.member);
                self.say_once(text, steps);
                let settle = Settle { record: None, intent: Some(revision), owner: false };
                return self.ask(Action::Settle(settle), Asked::Clear, steps);
            }
            Resolution::Ended { outcome, detail } => (outcome, detail),
        };
        let target = look.member(intent.member);
        let record = RoundRecord {
            v: VERSION,
            round: intent.round,
            member: intent.member,
            name: target.map(|member| member.name.clone()).unwrap_or_default(),
            outcome,
            detail: format!("settled by {}: {detail}", self.me.holder),
            started_at: Some(intent.at),
            ended_at: now.wall,
            seconds: None,
            size_before: Some(intent.db_size),
            in_use_before: Some(intent.db_size_in_use),
            size_after: target.and_then(|member| member.status.as_ref().ok()).map(|status| status.db_size),
            leader_moved_to: None,
        };
        let settle = Settle { record: Some(record.clone()), intent: Some(revision), owner: false };
        self.ask(Action::Settle(settle), Asked::Settle(Box::new(record)), steps);
    }

    /// Where rescues are switched off, the leader's janitor still clears NOSPACE outside of rounds when that is safe and
    /// nothing is held.
    fn clear_nospace(&mut self, look: &Look, now: Now, steps: &mut Vec<Step>) {
        let leads = look.leader().is_ok_and(|(leader, _)| leader == self.me.member);
        let free = look.records().and_then(|records| no_hold(records.hold.as_ref(), now.wall));
        let clearable = disarmable(look, self.policy.disarm_below, self.policy.quota);
        match clearable.and_then(|members| if members.is_empty() { Ok(members) } else { free.map(|()| members) }) {
            Ok(members) if members.is_empty() || !leads || self.quiesced => {
                self.watch.nospace = false;
                self.watch.said = None;
            }
            Ok(members) => self.ask(Action::Disarm { members }, Asked::Disarm, steps),
            Err(blocked) => {
                self.watch.nospace = leads;
                self.say_once(format!("NOSPACE stays: {blocked}"), steps);
            }
        }
    }

    fn say_once(&mut self, text: String, steps: &mut Vec<Step>) {
        if self.watch.said.as_ref() != Some(&text) {
            self.watch.said = Some(text.clone());
            steps.push(Step::Say(Say { round: None, text, blocked: None }));
        }
    }

    /// Whether the local member is still the one that this plan was made for.
    pub fn is_for(&self, member: MemberId) -> bool {
        self.me.member == member
    }

    /// What the round under way waits for.
    pub fn blocked(&self) -> Option<&Blocked> {
        self.round.as_ref().and_then(Round::blocked)
    }
}

impl Watch {
    fn is_on(&self) -> bool {
        self.intent || self.nospace
    }
}

#[cfg(test)]
mod tests;
