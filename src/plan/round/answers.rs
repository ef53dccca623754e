//! From the rule to the send: what each answer leads to.

use super::judge::{Approach, Standing};
use super::{
    FIGURES_EVERY, Held, OTHERS_EVERY, Permit, Phase, QUEUE_EVERY, QUEUED_EVERY, Round, SETTLE_EVERY, SETTLE_PATIENCE,
    STALE_LOOKS, STILL_BYTES, STILL_PATIENCE, Then,
};
use crate::plan::cautions::{of_guards, of_turn};
use crate::plan::cluster::{Look, done, has_left, transferee};
use crate::plan::intent::is_current;
use crate::plan::member::MemberId;
use crate::plan::reason::{Blocked, Outcome, Reason};
use crate::plan::record::{Intent, VERSION};
use crate::plan::rule::{Figures, Quota};
use crate::plan::step::{Action, Answer, Joined, Step, Turn, Written};
use crate::plan::time::{Mono, Now};

impl Round {
    /// The answer that the phase has been waiting for.
    pub(super) fn main_answer(&mut self, answer: Answer, now: Now, steps: &mut Vec<Step>) {
        match answer {
            Answer::Figures(figures) => self.measured(figures, now, steps),
            Answer::Looked(look) => self.looked(look, now, steps),
            Answer::Joined(joined) => self.joined(joined, now, steps),
            Answer::LeaderMoved(moved) => self.leader_moved(moved, now, steps),
            Answer::IntentWritten(written) => self.intent_written(written, now, steps),
            Answer::Sent(sent) => self.sent(sent, now, steps),
            Answer::Compared(compared) => self.compared(compared, now, steps),
            Answer::Settled(settled) => self.settled(settled, now, steps),
            Answer::Disarmed(result) => self.disarmed(result, now, steps),
            Answer::Left => self.left(now, steps),
            // Renewals have a lane of their own, the others are of a rescue.
            Answer::Renewed(_) | Answer::Compacted(_) | Answer::Refreshed(_) | Answer::Proved(_) => {}
        }
    }

    fn looked(&mut self, look: Box<Look>, now: Now, steps: &mut Vec<Step>) {
        if self.no_longer_listed(&look, now, steps) {
            return;
        }
        // Before the others: whatever they decide, what is ours must be cleared.
        let landed = self.adopt_late_intent(&look);
        if self.already_recorded(&look, now, steps) {
            return;
        }
        // It may have been on its way when the window ended or when we were told to stop.
        if self.must_drop_out(now) {
            return self.drop_out(now, steps);
        }
        if landed {
            self.block(Blocked::new(Reason::EtcdUnavailable, "an intent landed after it was given up"), steps);
            return self.retry_later(now, steps);
        }
        self.notice(&look);
        match self.phase.clone() {
            Phase::Arriving => self.go(Phase::Measuring { still: None, began: now.mono }, now.mono),
            Phase::Approaching | Phase::LettingOthersGo { .. } => self.approach(&look, now, steps),
            Phase::Queued => self.queued(&look, now, steps),
            Phase::Judging { since } => self.judge(&look, since, now, steps),
            Phase::Settling { since, seen } => self.settle_leader(&look, since, seen, now, steps),
            Phase::Doubting => self.doubt(&look, now, steps),
            Phase::LastLook { stale } => self.last_look(&look, stale, now, steps),
            Phase::Unclear => self.find_out(&look, now, steps),
            Phase::Recovering { since } => self.recover(look, since, now, steps),
            Phase::Caring => self.care(&look, now, steps),
            _ => {}
        }
    }

    /// Evaluates the rule once the figures have been still: in use is stale after a compaction until the member commits
    /// again, and falls while the compaction runs.
    fn measured(&mut self, figures: Result<Figures, Blocked>, now: Now, steps: &mut Vec<Step>) {
        let Phase::Measuring { still, began } = self.phase.clone() else { return };
        let figures = match figures {
            Ok(figures) => figures,
            Err(blocked) => {
                self.block(blocked, steps);
                return self.go(Phase::Measuring { still: None, began }, now.mono + self.policy.retry_every);
            }
        };
        // The first of a run of equal figures, and since when they have been equal.
        let (since, first) = match still {
            Some((since, first)) if unmoved(&first, &figures) => (since, first),
            _ => (now.mono, figures),
        };
        let waited_long = now.mono.since(began) >= STILL_PATIENCE;
        if now.mono.since(since) < self.policy.still_for && !waited_long {
            return self.go(Phase::Measuring { still: Some((since, first)), began }, now.mono + FIGURES_EVERY);
        }
        self.blocked = None;
        self.apply_rule(&figures, now, steps);
    }

    fn apply_rule(&mut self, figures: &Figures, now: Now, steps: &mut Vec<Step>) {
        if figures.quota == Quota::Unknown {
            let text = "neither Status nor metrics tell the quota: the rule takes 2 GiB, and NOSPACE is never cleared; \
                        set alarms.quota";
            self.say(text, steps);
        }
        match self.evaluate(figures) {
            Err(blocked) => {
                self.block(blocked.clone(), steps);
                let then = Then::End { outcome: Outcome::Skipped(blocked.reason), detail: blocked.detail };
                self.close(then, now, steps);
            }
            Ok(false) => {
                let detail = self.policy.rule.explain(figures);
                self.say(format!("a defrag would not pay: {detail}"), steps);
                self.close(Then::End { outcome: Outcome::Skipped(Reason::NotNeeded), detail }, now, steps);
            }
            Ok(true) => {
                self.needed = true;
                self.say(format!("a defrag pays: {}", self.policy.rule.explain(figures)), steps);
                self.go(Phase::Approaching, now.mono);
            }
        }
    }

    fn approach(&mut self, look: &Look, now: Now, steps: &mut Vec<Step>) {
        match self.judge_approach(look, now) {
            Approach::Blocked(blocked) => {
                // An intent is settled within seconds of its member's answer; the others may wait longer.
                let again = if blocked.reason == Reason::IntentOpen { QUEUE_EVERY } else { self.policy.retry_every };
                self.block(blocked, steps);
                self.go(Phase::Approaching, now.mono + again);
            }
            Approach::LetOthersGo => {
                self.blocked = None;
                let since = match self.phase {
                    Phase::LettingOthersGo { since } => since,
                    _ => now.mono,
                };
                self.go(Phase::LettingOthersGo { since }, now.mono + OTHERS_EVERY);
            }
            Approach::Clear if self.policy.dry_run => {
                let moves =
                    if self.leads(look) && look.voter_count() > 1 { ", after moving leadership away" } else { "" };
                let detail = format!("would defragment the local member now{moves}");
                self.say(format!("dry run: {detail}"), steps);
                self.needed = false;
                self.close(Then::End { outcome: Outcome::Skipped(Reason::DryRun), detail }, now, steps);
            }
            Approach::Clear => {
                self.blocked = None;
                if look.voter_count() > 1 {
                    self.go(Phase::Joining, now.mono);
                } else {
                    // One voter: there is nobody to take turns with.
                    self.go(Phase::Judging { since: now.mono }, now.mono);
                }
            }
        }
    }

    fn joined(&mut self, joined: Result<Joined, Blocked>, now: Now, steps: &mut Vec<Step>) {
        match joined {
            Ok(joined) => {
                self.held = Some(Held::new(joined, self.policy.lease_ttl, now));
                self.queued_since.get_or_insert(now.mono);
                self.go(Phase::Queued, now.mono);
            }
            Err(blocked) => {
                self.block(blocked, steps);
                self.go(Phase::Approaching, now.mono + self.policy.retry_every);
            }
        }
    }

    fn queued(&mut self, look: &Look, now: Now, steps: &mut Vec<Step>) {
        match self.standing(look) {
            Ok(Standing::Head) => {
                let waited = self.queued_since.take().map_or(std::time::Duration::ZERO, |since| now.mono.since(since));
                steps.push(Step::TurnReached(waited));
                self.say(format!("has the turn after {:.1} s in the queue", waited.as_secs_f64()), steps);
                self.set_head(true);
                self.go(Phase::Judging { since: now.mono }, now.mono);
            }
            Ok(Standing::Behind) => {
                self.say_who_is_before_us(look, steps);
                self.go(Phase::Queued, now.mono + QUEUED_EVERY);
            }
            Ok(Standing::Gone) => self.lost_place(now, steps),
            // The queue cannot be read; the lease says when to give up.
            Err(_) => self.go(Phase::Queued, now.mono + QUEUE_EVERY),
        }
    }

    /// Said when it is somebody else than before.
    fn say_who_is_before_us(&mut self, look: &Look, steps: &mut Vec<Step>) {
        let Some(first) = look.records.as_ref().ok().and_then(|records| records.turns.first()) else { return };
        if self.behind.replace(first.lease) == Some(first.lease) {
            return;
        }
        let who = match &first.value {
            Ok(turn) => format!("{} for {}", turn.holder, crate::plan::intent::target_name(look, turn.member)),
            Err(unreadable) => format!("a key on lease {:016x} that cannot be read: {unreadable}", first.lease),
        };
        self.say(format!("in the queue; the turn is held by {who}"), steps);
    }

    fn judge(&mut self, look: &Look, since: Mono, now: Now, steps: &mut Vec<Step>) {
        if !self.still_head(look, now, steps) {
            return;
        }
        if let Err(blocked) = self.judge_turn(look, now) {
            if blocked.reason == Reason::NotNeeded {
                return self.no_longer_needed(blocked, now, steps);
            }
            let patient = self.patience(&blocked).is_some_and(|patience| now.mono.since(since) < patience);
            self.block(blocked, steps);
            if patient {
                return self.go(Phase::Judging { since }, now.mono + QUEUE_EVERY);
            }
            return self.retry_later(now, steps);
        }
        self.blocked = None;
        if look.voter_count() > 1 && self.leads(look) {
            return self.move_leader(look, now, steps);
        }
        if !self.policy.drain.is_zero() && !self.draining {
            self.draining = true;
            steps.push(Step::Drain(true));
            self.say(format!("draining clients for {} s", self.policy.drain.as_secs()), steps);
            return self.go(Phase::Draining, now.mono + self.policy.drain);
        }
        self.write_intent(look, now, steps);
    }

    /// Somebody else defragmented it, or its clients wrote: another round will tell.
    fn no_longer_needed(&mut self, blocked: Blocked, now: Now, steps: &mut Vec<Step>) {
        self.needed = false;
        let then = Then::End { outcome: Outcome::Skipped(Reason::NotNeeded), detail: blocked.detail };
        self.close(then, now, steps);
    }

    fn move_leader(&mut self, look: &Look, now: Now, steps: &mut Vec<Step>) {
        let to = transferee(look, self.me.member);
        // Once to anybody who is well, then only to one that has no work left in this round: any other may have to hand
        // leadership on itself, and to us again, for as long as the window is open.
        let again = self.work.moved_to.is_some();
        let blocked = if again && !to.is_some_and(|to| done(look).contains(&to)) {
            Blocked::new(Reason::LeaderNotMoved, "leadership was moved away once in this round and came back")
        } else if let Some(to) = to {
            self.say(format!("moves leadership to {}", crate::plan::intent::target_name(look, to)), steps);
            return self.go(Phase::Moving { to }, now.mono);
        } else {
            Blocked::new(Reason::LeaderNotMoved, "no healthy voter to move leadership to")
        };
        self.block(blocked, steps);
        self.retry_later(now, steps);
    }

    fn leader_moved(&mut self, moved: Result<(), Blocked>, now: Now, steps: &mut Vec<Step>) {
        let Phase::Moving { to } = self.phase else { return };
        match moved {
            Ok(()) => self.work.moved_to = Some(to),
            // It may have moved all the same: the looks will tell.
            Err(blocked) => self.say(format!("moving leadership: {blocked}"), steps),
        }
        self.go(Phase::Settling { since: now.mono, seen: None }, now.mono);
    }

    /// Two looks in a row must agree on a leader that is not the local member, in one term.
    fn settle_leader(
        &mut self,
        look: &Look,
        since: Mono,
        seen: Option<(MemberId, u64)>,
        now: Now,
        steps: &mut Vec<Step>,
    ) {
        if !self.still_head(look, now, steps) {
            return;
        }
        let sees = look.leader().ok().filter(|(leader, _)| *leader != self.me.member);
        if let Some((leader, term)) = sees.filter(|_| sees == seen) {
            self.expect_leader(leader, term);
            return self.go(Phase::Judging { since: now.mono }, now.mono);
        }
        if now.mono.since(since) < SETTLE_PATIENCE {
            return self.go(Phase::Settling { since, seen: sees }, now.mono + SETTLE_EVERY);
        }
        let reason = if sees.is_some() { Reason::LeaderChanged } else { Reason::LeaderNotMoved };
        let detail = format!("leadership did not settle within {} s", SETTLE_PATIENCE.as_secs());
        self.block(Blocked::new(reason, detail), steps);
        self.retry_later(now, steps);
    }

    fn write_intent(&mut self, look: &Look, now: Now, steps: &mut Vec<Step>) {
        if !std::mem::replace(&mut self.cautioned, true) {
            let me = self.me.member;
            for caution in [of_guards(look, me, &self.policy), of_turn(look, me, &self.policy)].concat() {
                self.say(caution, steps);
            }
        }
        match self.draft_intent(look, now) {
            Ok((intent, action)) => {
                self.work.size_before = Some(intent.db_size);
                self.work.in_use_before = Some(intent.db_size_in_use);
                self.go(Phase::Intending { intent: Box::new(intent) }, now.mono);
                self.send(action, steps);
            }
            Err(blocked) => {
                self.block(blocked, steps);
                self.retry_later(now, steps);
            }
        }
    }

    fn draft_intent(&self, look: &Look, now: Now) -> Result<(Intent, Action), Blocked> {
        let me = self.local(look)?;
        let scrape = me.scrape.as_ref().map_err(Clone::clone)?;
        let status = me.status.as_ref().map_err(Clone::clone)?;
        let intent = Intent {
            v: VERSION,
            member: self.me.member,
            instance: self.me.instance.clone(),
            holder: self.me.holder.clone(),
            round: self.id,
            target_start: scrape.process_start,
            target_count: scrape.defrag_count,
            db_size: status.db_size,
            db_size_in_use: status.db_size_in_use,
            at: now.wall,
            extra: Default::default(),
        };
        let turn = self.held.as_ref().map(|held| Turn { lease: held.lease, create_revision: held.create_revision });
        if turn.is_none() && look.voter_count() > 1 {
            return Err(Blocked::new(Reason::TurnTimeout, "the turn was lost before the intent was written"));
        }
        let hold_seen = look.records()?.hold.as_ref().map_or(0, |hold| hold.mod_revision);
        Ok((intent.clone(), Action::WriteIntent { intent, turn, hold_seen }))
    }

    fn intent_written(&mut self, written: Written, now: Now, steps: &mut Vec<Step>) {
        let Phase::Intending { intent } = self.phase.clone() else { return };
        match written {
            Written::At(revision) => {
                self.intent = Some((revision, *intent));
                self.go(Phase::LastLook { stale: 0 }, now.mono);
            }
            Written::Unclear(text) => {
                self.say(format!("whether the intent was written is unclear: {text}"), steps);
                self.go(Phase::Doubting, now.mono + SETTLE_EVERY);
            }
            Written::Refused(text) => {
                self.block(Blocked::new(Reason::TurnTimeout, format!("the intent was refused: {text}")), steps);
                self.retry_later(now, steps);
            }
            Written::Failed(blocked) => {
                self.block(blocked, steps);
                self.retry_later(now, steps);
            }
        }
    }

    /// An intent that this round wrote without being told so: the answer was lost, or etcd applied it long after the
    /// deadline. Nothing was sent under it. Only this round can know that; to everybody else it is an open intent.
    fn adopt_late_intent(&mut self, look: &Look) -> bool {
        let stored = look.records.as_ref().ok().and_then(|records| records.intent.as_ref());
        if let Some(stored) = stored
            && let Ok(intent) = &stored.value
            && self.intent.is_none()
            && self.may_still_be_dropped()
            && intent.instance == self.me.instance
            && intent.round == self.id
        {
            self.intent = Some((stored.mod_revision, intent.clone()));
            return true;
        }
        false
    }

    /// The write of the intent had no answer, and the look does not show it. It may still land.
    fn doubt(&mut self, look: &Look, now: Now, steps: &mut Vec<Step>) {
        if look.records().is_err() {
            // Whoever can read it settles it; our own turn ends with the lease.
            return self.go(Phase::Doubting, now.mono + QUEUE_EVERY);
        }
        self.block(Blocked::new(Reason::EtcdUnavailable, "the intent could not be written for certain"), steps);
        self.retry_later(now, steps);
    }

    /// Guarantee 1: with the turn and the intent ours, one more look; if it is clean, the call leaves at once.
    fn last_look(&mut self, look: &Look, stale: u32, now: Now, steps: &mut Vec<Step>) {
        if !self.still_head(look, now, steps) {
            return;
        }
        let ours = look.records.as_ref().ok().and_then(|records| records.intent.as_ref()).map(|i| i.mod_revision);
        let judged = if ours.is_none() || ours != self.own_intent() {
            Err(Blocked::new(Reason::IntentOpen, "the intent was cleared or replaced by somebody else"))
        } else {
            self.judge_turn(look, now).and_then(|()| self.as_announced(look))
        };
        let judged = judged.and_then(|()| {
            if look.voter_count() > 1 && self.leads(look) {
                Err(Blocked::new(Reason::LeaderChanged, "the local member became leader before the send"))
            } else if look.voter_count() > 1 && self.held.is_none() {
                Err(Blocked::new(Reason::TurnTimeout, "the turn was lost before the send"))
            } else {
                Ok(())
            }
        });
        let send_until = self.held.as_ref().map_or(self.ends, |held| held.send_until().min(self.ends));
        let permit = Permit { member: self.me.member, look_begun: look.begun, send_until: Some(send_until) };
        match judged {
            Err(blocked) if blocked.reason == Reason::NotNeeded => self.no_longer_needed(blocked, now, steps),
            Err(blocked) => {
                self.block(blocked, steps);
                self.retry_later(now, steps);
            }
            Ok(()) if permit.check(now).is_err() && stale < STALE_LOOKS => {
                self.go(Phase::LastLook { stale: stale + 1 }, now.mono);
            }
            Ok(()) => match permit.check(now) {
                Err(blocked) => {
                    self.block(blocked, steps);
                    self.retry_later(now, steps);
                }
                Ok(_) => self.send_defrag(permit, stale, now, steps),
            },
        }
    }

    /// The local member is the process that the intent was written for, and was not defragmented since.
    fn as_announced(&self, look: &Look) -> Result<(), Blocked> {
        let Some((_, intent)) = &self.intent else { return Ok(()) };
        let scrape = self.local(look)?.scrape.as_ref().map_err(Clone::clone)?;
        if is_current(intent, scrape) {
            return Ok(());
        }
        let text = "the local member restarted or was defragmented after the intent was written";
        Err(Blocked::new(Reason::MemberChanged, text))
    }

    /// False, with the consequence drawn, when the look does not show our key as the head of the queue.
    fn still_head(&mut self, look: &Look, now: Now, steps: &mut Vec<Step>) -> bool {
        if look.voter_count() < 2 && self.held.is_none() {
            return true;
        }
        match self.standing(look) {
            Ok(Standing::Head) => true,
            Ok(Standing::Behind) => {
                self.set_head(false);
                self.block(Blocked::new(Reason::TurnTimeout, "another key is before ours in the queue"), steps);
                self.retry_later(now, steps);
                false
            }
            Ok(Standing::Gone) => {
                self.lost_place(now, steps);
                false
            }
            Err(blocked) => {
                self.block(blocked, steps);
                self.retry_later(now, steps);
                false
            }
        }
    }

    fn lost_place(&mut self, now: Now, steps: &mut Vec<Step>) {
        if self.held.is_some() {
            self.lose_turn(now, "its key is not in the queue any more", steps);
        } else {
            self.retry_later(now, steps);
        }
    }

    /// A member that was removed has no business in the queue. What was sent to it is waited for without the turn: the
    /// cluster has nothing to lose by it any more.
    pub(super) fn no_longer_listed(&mut self, look: &Look, now: Now, steps: &mut Vec<Step>) -> bool {
        if !has_left(look, self.me.member) {
            return false;
        }
        if !self.may_still_be_dropped() {
            if let Some(held) = self.held.take() {
                self.say("the local member is no longer in the member list: leaves the queue", steps);
                let ticket = self.tickets.next();
                steps.push(Step::Do { ticket, action: Action::Leave { lease: held.lease } });
            }
            return false;
        }
        self.needed = false;
        let detail = format!("the local member {} is no longer in the member list", self.me.member);
        self.close(Then::End { outcome: Outcome::Skipped(Reason::MemberChanged), detail }, now, steps);
        true
    }

    /// A round with an outcome on record never runs again. It may come to be there while we queue: an earlier instance
    /// sent the defrag and the intent that it left was settled since.
    fn already_recorded(&mut self, look: &Look, now: Now, steps: &mut Vec<Step>) -> bool {
        let recorded = look
            .records
            .as_ref()
            .is_ok_and(|records| records.outcomes.iter().any(|(member, _)| *member == self.me.member));
        if !recorded || !self.may_still_be_dropped() {
            return false;
        }
        self.needed = false;
        let detail = "this member's outcome of this round is on record".to_owned();
        self.close(Then::End { outcome: Outcome::Skipped(Reason::NotNeeded), detail }, now, steps);
        true
    }

    fn set_head(&mut self, head: bool) {
        if let Some(held) = &mut self.held {
            held.head = head;
        }
    }
}

/// Whether the figures are the same for the purpose of the rule.
fn unmoved(first: &Figures, now: &Figures) -> bool {
    let slack = STILL_BYTES.max(first.db_size / 100);
    first.db_size.abs_diff(now.db_size) <= slack && first.db_size_in_use.abs_diff(now.db_size_in_use) <= slack
}
