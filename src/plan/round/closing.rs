//! Leaving nothing behind: drain off, intent cleared, outcome recorded, queue left.

use super::{Ended, Phase, QUEUE_EVERY, Round, Then};
use crate::plan::reason::{Blocked, Outcome, Reason};
use crate::plan::record::{RoundRecord, VERSION};
use crate::plan::step::{Action, Settle, Step};
use crate::plan::time::Now;

/// How often clearing an intent that was never sent is tried before it is left to whoever sees it.
const CLEAR_ATTEMPTS: u32 = 5;

impl Round {
    /// Gives the turn up and approaches again after a while; the reason may pass.
    pub(super) fn retry_later(&mut self, now: Now, steps: &mut Vec<Step>) {
        self.close(Then::Retry, now, steps);
    }

    pub(super) fn close(&mut self, then: Then, now: Now, steps: &mut Vec<Step>) {
        self.stop_draining(steps);
        self.go(Phase::Closing { then, cleared: false, recorded: false, attempts: 0 }, now.mono);
    }

    /// After the rest the turn goes to the next.
    pub(super) fn rested(&mut self, now: Now, steps: &mut Vec<Step>) {
        let then = if self.unrecorded { Then::Record } else { self.worked() };
        self.go(Phase::Closing { then, cleared: true, recorded: true, attempts: 0 }, now.mono);
        steps.extend(self.tick(now));
    }

    /// The end of a round in which a defrag was sent.
    fn worked(&self) -> Then {
        let (outcome, detail) = self.work.result.clone().unwrap_or((Outcome::Unknown, String::new()));
        Then::End { outcome, detail }
    }

    /// The outcome that NOSPACE kept from being recorded was tried again. Without the turn: a rescue waits for that.
    pub(super) fn owed(&mut self, settled: Result<(), Blocked>, now: Now, steps: &mut Vec<Step>) {
        match settled {
            Err(blocked) if self.withdrawn.is_none() && now.mono < self.ends => {
                self.block(blocked, steps);
                self.go(Phase::Owing, now.mono + self.policy.retry_every);
            }
            other => {
                if let Err(blocked) = other {
                    self.say(format!("the outcome could not be recorded: {blocked}"), steps);
                }
                let then = self.worked();
                self.go(Phase::Closing { then, cleared: true, recorded: true, attempts: 0 }, now.mono);
            }
        }
    }

    /// The next thing to tidy up; none when all is done, and the round has ended or approaches again.
    pub(super) fn next_closing(&mut self, now: Now, steps: &mut Vec<Step>) -> Option<Action> {
        let Phase::Closing { then, cleared, recorded, .. } = self.phase.clone() else { return None };
        let record = match &then {
            Then::End { outcome, detail } if !recorded && self.worth_recording(*outcome) => {
                Some(self.record(*outcome, detail.clone(), now))
            }
            _ => None,
        };
        let intent = if cleared { None } else { self.own_intent() };
        if record.is_some() || intent.is_some() {
            return Some(Action::Settle(Settle { record, intent, owner: true }));
        }
        if let Some(lease) = self.lease() {
            self.held = None;
            return Some(Action::Leave { lease });
        }
        match then {
            Then::Retry => self.go(Phase::Approaching, now.mono + self.policy.retry_every),
            Then::Record => self.go(Phase::Owing, now.mono),
            Then::End { outcome, detail } => self.end(outcome, detail, steps),
        }
        None
    }

    /// A member that had work and did not get it done is on record; one that had none leaves no trace, nor does a dry
    /// run.
    fn worth_recording(&self, outcome: Outcome) -> bool {
        let skipped = matches!(outcome, Outcome::Skipped(reason) if reason != Reason::Quiesced);
        self.needed && skipped && !self.policy.dry_run
    }

    pub(super) fn closing_settled(&mut self, settled: Result<(), Blocked>, now: Now, steps: &mut Vec<Step>) {
        let Phase::Closing { then, attempts, .. } = self.phase.clone() else { return };
        match settled {
            Err(blocked) if self.intent.is_some() && attempts < CLEAR_ATTEMPTS => {
                self.block(blocked, steps);
                let phase = Phase::Closing { then, cleared: false, recorded: false, attempts: attempts + 1 };
                self.go(phase, now.mono + QUEUE_EVERY);
            }
            other => {
                if let Err(blocked) = other {
                    self.say(format!("the outcome could not be recorded: {blocked}"), steps);
                }
                self.intent = None;
                self.go(Phase::Closing { then, cleared: true, recorded: true, attempts }, now.mono);
            }
        }
    }

    pub(super) fn left(&mut self, now: Now, steps: &mut Vec<Step>) {
        let _ = steps;
        self.at = now.mono;
    }

    fn end(&mut self, outcome: Outcome, detail: String, steps: &mut Vec<Step>) {
        let reclaimed = match (outcome, self.work.size_before, self.work.size_after) {
            (Outcome::Done, Some(before), Some(after)) => Some(before.saturating_sub(after)),
            _ => None,
        };
        self.phase = Phase::Over;
        steps.push(Step::Ended(Ended { round: self.id, outcome, detail, seconds: self.work.seconds, reclaimed }));
    }

    /// Write the outcome of what was sent.
    pub(super) fn settle_action(&self, now: Now) -> Action {
        let (outcome, detail) = self.work.result.clone().unwrap_or((Outcome::Unknown, String::new()));
        let record = Some(self.record(outcome, detail, now));
        Action::Settle(Settle { record, intent: self.own_intent(), owner: true })
    }

    fn record(&self, outcome: Outcome, mut detail: String, now: Now) -> RoundRecord {
        // Details are for people and may carry etcd's words; a record must stay below the size that is read back.
        if detail.len() > 1024 {
            let cut = (0..=1024).rev().find(|at| detail.is_char_boundary(*at)).unwrap_or(0);
            detail.truncate(cut);
        }
        RoundRecord {
            v: VERSION,
            round: self.id,
            member: self.me.member,
            name: self.me.name.clone(),
            outcome,
            detail,
            started_at: self.work.sent_at.map(|sent| sent.wall),
            ended_at: now.wall,
            seconds: self.work.seconds,
            size_before: self.work.size_before,
            in_use_before: self.work.in_use_before,
            size_after: self.work.size_after,
            leader_moved_to: self.work.moved_to,
        }
    }
}
