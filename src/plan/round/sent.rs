//! From the send to the record: a deadline is not an end.

use std::time::Duration;

use super::judge::{nospace, status_table};
use super::{Held, Permit, Phase, QUEUE_EVERY, Round, STALE_LOOKS, Then};
use crate::plan::cluster::{Look, all_well, describe, disarmable, transferee};
use crate::plan::hold::no_hold;
use crate::plan::intent::{Resolution, Resolver};
use crate::plan::reason::{Blocked, Failure, Outcome, Reason};
use crate::plan::step::{Action, Answer, Hashes, Sent, Step, Ticket};
use crate::plan::time::{Mono, Now};

/// How often leadership is looked at while the local member is defragmented.
const LOOKOUT_EVERY: Duration = Duration::from_secs(1);
/// A transfer through a member in mid-defrag works at once or (with auth on) not at all.
const RESCUE_LEADERSHIP: Duration = Duration::from_secs(2);
/// How often the member is asked whether it has caught up.
const RECOVER_EVERY: Duration = Duration::from_millis(500);
/// How long a member may take to catch up before the outcome is recorded without its figures.
const RECOVER_PATIENCE: Duration = Duration::from_secs(120);
/// How often the outcome is tried to be recorded before the intent is left to whoever sees it.
const RECORD_ATTEMPTS: u32 = 15;

/// Watches, while the local member is defragmented, whether it becomes leader.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Lookout {
    next: Mono,
    awaiting: Option<Ticket>,
    resolver: Resolver,
}

impl Lookout {
    pub(super) fn awaits(&self, ticket: Ticket) -> bool {
        self.awaiting == Some(ticket)
    }

    pub(super) fn wake_at(&self, phase: &Phase) -> Option<Mono> {
        (matches!(phase, Phase::Sent) && self.awaiting.is_none()).then_some(self.next)
    }
}

impl Round {
    /// The call leaves. From here on nothing may be dropped before it is known how it ended.
    pub(super) fn send_defrag(&mut self, permit: Permit, stale: u32, now: Now, steps: &mut Vec<Step>) {
        self.stale = stale;
        self.work.sent_at = Some(now);
        self.lookout.next = now.mono + LOOKOUT_EVERY;
        self.go(Phase::Sent, now.mono);
        self.send(Action::Defragment { permit, timeout: self.policy.timeout, remote: false }, steps);
    }

    /// In mid-defrag a member can be elected. Then no lease in the whole cluster can be renewed until it ends, so
    /// leadership is moved on at once, through the busy member itself.
    pub(super) fn look_out(&mut self, now: Now, steps: &mut Vec<Step>) {
        if self.phase != Phase::Sent || self.lookout.awaiting.is_some() || now.mono < self.lookout.next {
            return;
        }
        let ticket = self.tickets.next();
        self.lookout.awaiting = Some(ticket);
        steps.push(Step::Do { ticket, action: Action::Look { round: self.id } });
    }

    pub(super) fn looked_out(&mut self, answer: Answer, now: Now, steps: &mut Vec<Step>) {
        self.lookout.awaiting = None;
        self.lookout.next = now.mono + LOOKOUT_EVERY;
        let Answer::Looked(look) = answer else { return };
        self.no_longer_listed(&look, now, steps);
        if self.phase == Phase::Sent {
            self.hand_leadership_on(&look, steps);
        }
    }

    fn hand_leadership_on(&mut self, look: &Look, steps: &mut Vec<Step>) {
        if look.voter_count() < 2 || !self.leads(look) || self.lookout.awaiting.is_some() {
            return;
        }
        let Some(to) = transferee(look, self.me.member) else { return };
        self.say(format!("became leader in mid-defrag; moves leadership to {to}"), steps);
        let ticket = self.tickets.next();
        self.lookout.awaiting = Some(ticket);
        steps.push(Step::Do {
            ticket,
            action: Action::MoveLeader { from: self.me.member, to, deadline: RESCUE_LEADERSHIP },
        });
    }

    pub(super) fn sent(&mut self, sent: Sent, now: Now, steps: &mut Vec<Step>) {
        if self.phase != Phase::Sent {
            return;
        }
        match sent {
            Sent::NotSent(blocked) => {
                self.work.sent_at = None;
                // The proof had grown old: start over with a new look. Anything else is looked at afresh later.
                if blocked.reason == Reason::TurnTimeout && self.stale < STALE_LOOKS {
                    return self.go(Phase::LastLook { stale: self.stale + 1 }, now.mono);
                }
                self.go(Phase::LastLook { stale: STALE_LOOKS }, now.mono);
                self.block(blocked, steps);
                self.retry_later(now, steps);
            }
            Sent::Done { seconds } => {
                self.work.seconds = Some(seconds);
                self.work.result = Some((Outcome::Done, String::new()));
                self.say(format!("etcd finished the defrag after {seconds:.1} s"), steps);
                self.go(Phase::Recovering { since: now.mono }, now.mono);
            }
            Sent::Refused { text, auth } => {
                let failure = if auth { Failure::Auth } else { Failure::Refused };
                self.say(format!("etcd refused the defrag: {text}"), steps);
                self.work.result = Some((Outcome::Failed(failure), text));
                self.go(Phase::Recovering { since: now.mono }, now.mono);
            }
            Sent::Unclear(text) => {
                self.say(format!("how the defrag ended is not known yet: {text}"), steps);
                self.work.unclear = Some(text);
                self.lookout.resolver.reset();
                self.go(Phase::Unclear, now.mono);
            }
        }
    }

    /// The answer was lost. The target itself shows what became of it.
    pub(super) fn find_out(&mut self, look: &Look, now: Now, steps: &mut Vec<Step>) {
        let Some((revision, intent)) = self.intent.clone() else {
            self.work.result = Some((Outcome::Unknown, "the intent was lost".to_owned()));
            return self.go(Phase::Recovering { since: now.mono }, now.mono);
        };
        if let Some(outcome) = self.settled_by_another(look, revision) {
            self.work.result = Some((outcome, "settled by another janitor".to_owned()));
            return self.go(Phase::Recovering { since: now.mono }, now.mono);
        }
        match self.lookout.resolver.assess(look, revision, &intent, self.policy.lease_ttl, now.mono) {
            None => {
                if self.local(look).is_ok_and(|me| me.scrape.as_ref().is_ok_and(|scrape| scrape.defrags_open > 0)) {
                    self.hand_leadership_on(look, steps);
                }
                self.go(Phase::Unclear, now.mono + QUEUE_EVERY);
            }
            Some(Resolution::Ended { outcome, mut detail }) => {
                // A full disk, say: of all that is known the one thing that helps.
                if let (Outcome::Unknown, Some(text)) = (outcome, &self.work.unclear) {
                    detail = format!("{detail}; the call ended with: {text}");
                }
                self.say(format!("the defrag ended: {outcome}: {detail}"), steps);
                self.work.result = Some((outcome, detail));
                self.go(Phase::Recovering { since: now.mono }, now.mono);
            }
            Some(Resolution::Void) => {
                let detail = "the member was removed".to_owned();
                self.close(Then::End { outcome: Outcome::Unknown, detail }, now, steps);
            }
        }
    }

    /// What was recorded by whoever settled our intent while we were held up. The member may have restarted or left
    /// since; what it shows now says nothing about a defrag that has long ended.
    fn settled_by_another(&self, look: &Look, revision: i64) -> Option<Outcome> {
        let records = look.records.as_ref().ok()?;
        if records.intent.as_ref().map(|stored| stored.mod_revision) == Some(revision) {
            return None;
        }
        records.outcomes.iter().find(|(member, _)| *member == self.me.member).map(|(_, outcome)| *outcome)
    }

    /// Nobody else starts before the member answers reads and has caught up.
    pub(super) fn recover(&mut self, look: Box<Look>, since: Mono, now: Now, steps: &mut Vec<Step>) {
        let ready = match all_well(&look, self.me.member) {
            Ok(()) => true,
            // What others do and whether an alarm is up has no bearing on whether this member is back.
            Err(blocked) => {
                matches!(
                    blocked.reason,
                    Reason::Corrupt | Reason::Nospace | Reason::ForeignDefrag | Reason::SnapshotOpen
                ) && self.local(&look).is_ok_and(|me| me.status.is_ok())
            }
        };
        if !ready && now.mono.since(since) < RECOVER_PATIENCE {
            return self.go(Phase::Recovering { since }, now.mono + RECOVER_EVERY);
        }
        if let Ok(me) = self.local(&look)
            && let Ok(status) = &me.status
        {
            self.work.size_after = Some(status.db_size);
            self.say(
                format!(
                    "{}: {} bytes before, {} after, {} in use",
                    describe(me),
                    self.work.size_before.unwrap_or(0),
                    status.db_size,
                    status.db_size_in_use
                ),
                steps,
            );
        }
        self.stop_draining(steps);
        let done = matches!(self.work.result, Some((Outcome::Done, _)));
        let next = if self.policy.verify_hash && done { Phase::Comparing } else { Phase::Recording { attempts: 0 } };
        self.go(next, now.mono);
    }

    pub(super) fn compared(&mut self, compared: Result<Hashes, Blocked>, now: Now, steps: &mut Vec<Step>) {
        match compared {
            Ok(Hashes::Equal) => self.say("HashKV of all voters is equal", steps),
            Ok(Hashes::Differ(detail)) => {
                self.say(format!("HashKV DIFFERS after the defrag: {detail}"), steps);
                self.work.result = Some((Outcome::Failed(Failure::HashMismatch), detail));
            }
            Err(blocked) => self.say(format!("HashKV could not be compared: {blocked}"), steps),
        }
        self.go(Phase::Recording { attempts: 0 }, now.mono);
    }

    pub(super) fn settled(&mut self, settled: Result<(), Blocked>, now: Now, steps: &mut Vec<Step>) {
        match self.phase {
            Phase::Recording { attempts } => match settled {
                Ok(()) => {
                    self.intent = None;
                    self.go(Phase::Caring, now.mono);
                }
                // The alarm rose in mid-defrag. The intent is gone all the same; the record waits until the alarm is.
                Err(blocked) if blocked.reason == Reason::Nospace => {
                    self.intent = None;
                    self.unrecorded = true;
                    self.go(Phase::Caring, now.mono);
                }
                Err(blocked) if attempts < RECORD_ATTEMPTS => {
                    self.block(blocked, steps);
                    self.go(Phase::Recording { attempts: attempts + 1 }, now.mono + QUEUE_EVERY);
                }
                // Any janitor that sees the intent settles it: the member's own count says that the defrag ended.
                Err(_) => self.go(Phase::Caring, now.mono),
            },
            Phase::Owing => self.owed(settled, now, steps),
            Phase::Closing { .. } => self.closing_settled(settled, now, steps),
            _ => {}
        }
    }

    /// What the CronJob did after each defrag: the status of the cluster, the alarms, and clearing NOSPACE if that is safe.
    pub(super) fn care(&mut self, look: &Look, now: Now, steps: &mut Vec<Step>) {
        self.blocked = None;
        self.say(format!("cluster after the defrag: {}", status_table(look)), steps);
        let disarm = || {
            self.may_disarm(look, now)?;
            disarmable(look, self.policy.disarm_below, self.policy.quota)
        };
        match if nospace(look) { disarm() } else { Ok(Vec::new()) } {
            Ok(members) if !members.is_empty() => {
                self.say("every member is below the threshold: clears NOSPACE", steps);
                self.go(Phase::Disarming, now.mono);
                self.send(Action::Disarm { members }, steps);
            }
            Ok(_) => self.rest(now),
            Err(blocked) => {
                self.say(format!("NOSPACE stays: {blocked}"), steps);
                self.rest(now);
            }
        }
    }

    /// Clearing an alarm is maintenance like any other.
    fn may_disarm(&self, look: &Look, now: Now) -> Result<(), Blocked> {
        if let Some(reason) = self.withdrawn {
            return Err(Blocked::new(reason, "nothing new is started"));
        }
        no_hold(look.records()?.hold.as_ref(), now.wall)
    }

    pub(super) fn disarmed(&mut self, result: Result<(), Blocked>, now: Now, steps: &mut Vec<Step>) {
        match result {
            Ok(()) => self.say("NOSPACE was cleared", steps),
            Err(blocked) => self.say(format!("NOSPACE could not be cleared: {blocked}"), steps),
        }
        self.rest(now);
    }

    fn rest(&mut self, now: Now) {
        self.go(Phase::Resting, now.mono + self.policy.pause_between);
    }

    pub(super) fn stop_draining(&mut self, steps: &mut Vec<Step>) {
        if std::mem::take(&mut self.draining) {
            steps.push(Step::Drain(false));
        }
    }

    /// The lease of the place in the queue, if it is held.
    pub fn lease(&self) -> Option<i64> {
        self.held.as_ref().map(|held: &Held| held.lease)
    }
}
