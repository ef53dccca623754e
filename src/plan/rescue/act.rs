//! Who acts on what is next, and what comes of it.

use std::time::Duration;

use super::before::{self, How};
use super::next::worthwhile;
use super::{
    COMPACT_AGAIN, COMPACT_WHEN_STUCK, Call, Compaction, LOOK_EVERY, Next, PER_RANK, Permit, Phase, Rescue, STILL_FOR,
    Stuck, Trouble, stand_back,
};
use crate::plan::cautions::of_guards;
use crate::plan::cluster::{Look, MemberLook, describe, transferee};
use crate::plan::guard;
use crate::plan::member::MemberId;
use crate::plan::reason::{Blocked, Failure, Outcome, Reason};
use crate::plan::release;
use crate::plan::round::Ended;
use crate::plan::step::{Action, Answer, Hashes, Sent, Settle, Step};
use crate::plan::time::{Mono, Now};

/// How often leadership is looked at while a member is defragmented.
const LOOKOUT_EVERY: Duration = Duration::from_secs(1);
/// A transfer through a member in mid-defrag works at once or (with auth on) not at all.
const HAND_ON: Duration = Duration::from_secs(2);
/// First wait after a defrag that failed; it doubles.
const TROUBLE_WAIT: Duration = Duration::from_secs(60);
/// Longest wait after defrags that failed.
const TROUBLE_LONGEST: Duration = Duration::from_secs(600);
/// Wait before something is tried again that etcd refused.
const AGAIN: Duration = Duration::from_secs(10);
/// How often the proof and the records are tried.
const ATTEMPTS: u32 = 5;
/// How often figures are made fresh after a compaction. One write is not always enough: met on 3.5.30, likely
/// for a reader. bbolt frees pages when a write begins and no reader needs them, and etcd counts them when one ends.
const REFRESHES: u8 = 3;

impl Rescue {
    /// Acts on what is next if it is ours to act and was the same for long enough. Answers what is in the way.
    pub(super) fn act(
        &mut self,
        look: &Look,
        next: Next,
        since: Mono,
        now: Now,
        steps: &mut Vec<Step>,
    ) -> Result<(), Blocked> {
        let (leader, _) = look.leader()?;
        let leads = leader == self.me.member;
        // At once: what a compaction frees is what the defrags give back, and the others wait for still figures.
        if leads && self.wants_first_compaction(now) {
            self.compact(steps);
            return Ok(());
        }
        let actor = match &next {
            Next::Defragment(member) => *member,
            Next::MoveLeader { from, .. } => *from,
            Next::Disarm(_) | Next::Stuck(_) => leader,
        };
        let still = look.begun.mono.since(since);
        // Whose turn it is has to wait, too, after a defrag that failed.
        let waits = match &next {
            Next::Defragment(member) => self.trouble.get(member).map_or(Duration::ZERO, |trouble| trouble.wait),
            _ => Duration::ZERO,
        };
        let deputy_after = STILL_FOR + self.deputy_after() + PER_RANK * self.rank(look, actor) + waits;
        let ours = actor == self.me.member || still >= deputy_after;
        if let Next::Stuck(too_large) = &next {
            let begun = Stuck { since: look.begun.mono, compacted: None };
            let stuck = *self.stuck.get_or_insert(begun);
            // Its age, not that of the calm: whoever deletes or compacts meanwhile makes it no less of a dead end.
            let young = look.begun.mono.since(stuck.since) < STILL_FOR;
            if ours && self.try_to_get_unstuck(look, stuck, still, now, steps) || young {
                return Ok(());
            }
            return Err(self.dead_end(look, too_large, leads, now));
        }
        self.stuck = None;
        self.refreshes = 0;
        if still < STILL_FOR || !ours {
            return Ok(());
        }
        match next {
            Next::Defragment(member) => self.defragment(look, member, now, steps),
            Next::MoveLeader { from, to } => {
                self.may_be_defragmented(look, from)?;
                self.say(
                    format!("only {} is left, which leads: leadership goes to {}", name(look, from), name(look, to)),
                    steps,
                );
                self.phase = Phase::Moving;
                self.story.moved(look, to);
                self.send(Action::MoveLeader { from, to, deadline: self.policy.request_timeout }, steps);
                Ok(())
            }
            Next::Disarm(members) => {
                if self.policy.dry_run {
                    return Err(Blocked::new(Reason::DryRun, "every member has room: would clear NOSPACE"));
                }
                if self.policy.verify_hash && !self.compared {
                    self.phase = Phase::Comparing;
                    self.send(Action::CompareHash, steps);
                    return Ok(());
                }
                self.say("every member has room: clears NOSPACE", steps);
                self.phase = Phase::Disarming;
                self.disarmed = true;
                self.send(Action::Disarm { members: members.into_iter().collect() }, steps);
                Ok(())
            }
            Next::Stuck(_) => Ok(()),
        }
    }

    /// Janitors that may act for another one, in the order of their members' ids.
    fn rank(&self, look: &Look, actor: MemberId) -> u32 {
        let before = look.voters().filter(|member| member.id != actor && member.id < self.me.member).count();
        u32::try_from(before).unwrap_or(u32::MAX)
    }

    /// The guards: all but rule, schedule and window.
    fn may_be_defragmented(&self, look: &Look, member: MemberId) -> Result<(), Blocked> {
        guard::cluster_size(look, self.policy.allow_small_cluster)?;
        let target = look.member(member);
        let Some(status) = target.and_then(|member| member.status.as_ref().ok()) else {
            return Err(Blocked::new(Reason::MemberDown, format!("{} does not answer", name(look, member))));
        };
        guard::allowed(look)?;
        release::judge(&status.version, self.policy.allow_unsafe_versions)?;
        // Seen on the local volume only. A deputy that has no room on its own takes the other for as full: pods of a set
        // have equal volumes, and the owner may be silent because it has refused.
        guard::enough_space(look, status)?;
        guard::short_enough(look, member, status.db_size_in_use, &self.policy)?;
        if self.policy.dry_run {
            return Err(Blocked::new(Reason::DryRun, format!("would defragment {} next", name(look, member))));
        }
        Ok(())
    }

    fn defragment(&mut self, look: &Look, member: MemberId, now: Now, steps: &mut Vec<Step>) -> Result<(), Blocked> {
        self.may_be_defragmented(look, member)?;
        if let Some(trouble) = self.trouble.get(&member)
            && now.mono < trouble.not_before
        {
            return Err(trouble.blocked.clone());
        }
        if self.call.is_some() {
            return Ok(());
        }
        let local = member == self.me.member;
        if local && !self.policy.drain.is_zero() && !self.draining {
            self.draining = true;
            steps.push(Step::Drain(true));
            self.phase = Phase::Draining;
            self.at = now.mono + self.policy.drain;
            return Ok(());
        }
        let target = look.member(member);
        let (Some(status), Some(scrape)) = (
            target.and_then(|target| target.status.as_ref().ok()),
            target.and_then(|target| target.scrape.as_ref().ok()),
        ) else {
            return Ok(());
        };
        let permit = Permit { member, look_begun: look.begun, send_until: None };
        if permit.check(now).is_err() {
            self.at = now.mono;
            return Ok(());
        }
        let for_whom = if local { "" } else { " for its janitor, which does not" };
        let text = format!(
            "defragments {}{for_whom}: {} bytes, {} in use",
            name(look, member),
            status.db_size,
            status.db_size_in_use
        );
        self.say(text, steps);
        for caution in of_guards(look, member, &self.policy) {
            self.say(caution, steps);
        }
        self.call = Some(Call {
            member,
            size: status.db_size,
            count: scrape.defrag_count,
            process_start: scrape.process_start,
            answer: None,
        });
        self.called = Some(member);
        self.compared = false;
        self.phase = Phase::Sent;
        self.lookout_at = now.mono + LOOKOUT_EVERY;
        self.send(Action::Defragment { permit, timeout: self.policy.timeout, remote: !local }, steps);
        Ok(())
    }

    fn wants_first_compaction(&self, now: Now) -> bool {
        if self.policy.dry_run {
            return false;
        }
        match &self.compaction {
            None => true,
            // Something else than the age of the revisions was in the way.
            Some((done, at)) => {
                !matches!(done.outcome, Outcome::Done | Outcome::Skipped(Reason::NotNeeded))
                    && now.mono.since(*at) >= COMPACT_AGAIN
            }
        }
    }

    fn compact(&mut self, steps: &mut Vec<Step>) {
        self.phase = Phase::Compacting;
        self.send(Action::CompactForRescue, steps);
    }

    /// No defrag helps. More may be old enough to be compacted by now, or the figures may be stale.
    fn try_to_get_unstuck(
        &mut self,
        look: &Look,
        stuck: Stuck,
        still: Duration,
        now: Now,
        steps: &mut Vec<Step>,
    ) -> bool {
        if self.policy.dry_run {
            return false;
        }
        let rested = |at: Mono| now.mono.since(at) >= COMPACT_WHEN_STUCK;
        let due = match &self.compaction {
            None => true,
            Some((done, at)) => {
                // At once when it becomes possible. While somebody deletes, more is possible every few seconds.
                let possible = done.possible_at.is_some_and(|possible| now.mono >= possible.mono);
                let first = stuck.compacted.is_none_or(|(_, newest)| rested(newest));
                rested(*at) || possible && first && now.mono.since(*at) >= LOOK_EVERY
            }
        };
        if due {
            self.compact(steps);
            return true;
        }
        if self.refreshes >= REFRESHES || still < STILL_FOR {
            return false;
        }
        self.refreshes += 1;
        let alarms = look.alarms();
        let has = |id: MemberId| alarms.iter().any(|alarm| alarm.member == id);
        let lacking = look.members.iter().map(|member| member.id).find(|id| !has(*id));
        // With one alarm only, clearing it would open the cluster for an instant.
        let (raise, clear_first) = match lacking {
            Some(member) => (member, false),
            None if alarms.len() > 1 => (self.me.member, true),
            None => return false,
        };
        self.phase = Phase::Refreshing;
        self.send(Action::Refresh { raise, clear_first }, steps);
        true
    }

    /// Takes the answer to anything but a look.
    pub(super) fn acted(&mut self, answer: Answer, now: Now, steps: &mut Vec<Step>) {
        match answer {
            Answer::Compacted(compaction) => self.compacted(compaction, now, steps),
            Answer::Sent(sent) => self.sent(sent, now, steps),
            Answer::LeaderMoved(moved) => {
                self.look_again(now);
                if let Err(blocked) = moved {
                    self.block(Blocked::new(Reason::LeaderNotMoved, blocked.to_string()), steps);
                    self.at = now.mono + AGAIN;
                }
            }
            Answer::Refreshed(result) => {
                let text = match result {
                    Ok(()) => "etcd was made to count its free pages anew".to_owned(),
                    Err(blocked) => format!("the figures could not be made fresh: {blocked}"),
                };
                self.say(text, steps);
                self.look_again(now);
            }
            Answer::Compared(compared) => self.compared(compared, now, steps),
            Answer::Disarmed(Ok(())) => {
                self.phase = Phase::Proving { attempts: 0 };
                self.at = now.mono;
            }
            Answer::Disarmed(Err(blocked)) => {
                self.block(
                    Blocked::new(blocked.reason, format!("NOSPACE could not be cleared: {}", blocked.detail)),
                    steps,
                );
                // It may have been cleared all the same: the next look tells.
                self.phase = Phase::Looking;
                self.at = now.mono + AGAIN;
            }
            Answer::Proved(result) => self.proved(result, now, steps),
            Answer::Settled(result) => self.recorded(result, now, steps),
            _ => self.look_again(now),
        }
    }

    fn compacted(&mut self, compaction: Compaction, now: Now, steps: &mut Vec<Step>) {
        if compaction.outcome == Outcome::Done {
            self.say(compaction.detail.clone(), steps);
            self.story.compacted(compaction.revision);
            // What it frees is not in the figures of the look that asked for it, nor surely in the next one's.
            self.calm.disturb();
            self.refreshes = 0;
            if let Some(stuck) = &mut self.stuck {
                let (first, _) = stuck.compacted.unwrap_or((now.mono, now.mono));
                stuck.compacted = Some((first, now.mono));
            }
        }
        self.compaction = Some((compaction, now.mono));
        self.look_again(now);
    }

    fn compared(&mut self, compared: Result<Hashes, Blocked>, now: Now, steps: &mut Vec<Step>) {
        match compared {
            Ok(Hashes::Equal) => self.compared = true,
            Ok(Hashes::Differ(detail)) => {
                self.block(Blocked::new(Reason::Corrupt, format!("HashKV DIFFERS, NOSPACE stays: {detail}")), steps);
                self.at = now.mono + TROUBLE_WAIT;
                self.phase = Phase::Looking;
                return;
            }
            Err(blocked) => {
                self.say(format!("HashKV could not be compared: {blocked}"), steps);
                self.compared = true;
            }
        }
        self.look_again(now);
        self.at = now.mono;
    }

    fn sent(&mut self, sent: Sent, now: Now, steps: &mut Vec<Step>) {
        self.look_again(now);
        self.at = now.mono;
        let Some(call) = &mut self.call else { return };
        match sent {
            Sent::NotSent(blocked) => {
                self.call = None;
                if blocked.reason != Reason::TurnTimeout {
                    self.at = now.mono + LOOK_EVERY;
                    self.block(blocked, steps);
                }
            }
            Sent::Done { seconds } => call.answer = Some(Ok(seconds)),
            Sent::Refused { text, auth } => {
                let member = call.member;
                self.call = None;
                if let Some(before) = &mut self.before {
                    before.forget(member);
                }
                let failure = if auth { Failure::Auth } else { Failure::Refused };
                self.failed(member, failure, &text, now, steps);
            }
            Sent::Unclear(text) => {
                call.answer = Some(Err(text));
                self.at = now.mono + LOOK_EVERY;
            }
        }
    }

    /// How the call that was sent ended, as the member itself shows it.
    pub(super) fn account(&mut self, look: &Look, now: Now, steps: &mut Vec<Step>) {
        let Some(call) = &self.call else { return };
        let Some(answer) = call.answer.clone() else { return };
        let Some(target) = look.member(call.member) else {
            self.call = None;
            return;
        };
        let (Ok(status), Ok(scrape)) = (&target.status, &target.scrape) else { return };
        if scrape.defrags_open > 0 {
            return;
        }
        let call = call.clone();
        let restarted = (scrape.process_start - call.process_start).abs() > 0.5;
        let text = answer.as_ref().err().cloned().unwrap_or_default();
        self.call = None;
        if !restarted && scrape.defrag_count > call.count {
            let seconds = answer.as_ref().ok().copied();
            let reclaimed = call.size.saturating_sub(status.db_size);
            self.done(look, call.member, Some(reclaimed), now);
            self.stop_draining(steps);
            steps.push(Step::Ended(Ended {
                round: self.id,
                outcome: Outcome::Done,
                detail: format!("{}: {} bytes before, {} after", describe(target), call.size, status.db_size),
                seconds,
                reclaimed: Some(reclaimed),
            }));
        } else if restarted {
            self.failed(call.member, Failure::Restarted, "its process restarted", now, steps);
        } else {
            self.failed(call.member, Failure::Refused, &text, now, steps);
        }
    }

    /// A defrag of ours failed.
    fn failed(&mut self, member: MemberId, failure: Failure, text: &str, now: Now, steps: &mut Vec<Step>) {
        self.stop_draining(steps);
        // All others count from here, too: sooner it would look like somebody else's.
        self.calm.disturb();
        let (reason, advice) = match failure {
            Failure::Auth => (Reason::Auth, ""),
            _ if text.contains("no space left") => (Reason::DiskSpace, ": free space on its volume"),
            _ => (Reason::MemberDown, ": see its own log"),
        };
        let detail = self.in_trouble(member, failure, reason, &format!("{text}{advice}"), now);
        steps.push(Step::Ended(Ended {
            round: self.id,
            outcome: Outcome::Failed(failure),
            detail,
            seconds: None,
            reclaimed: None,
        }));
    }

    /// A defrag of somebody else's. All wait for its member alike, else each would try it again in its turn.
    pub(super) fn take_note(&mut self, look: &Look, ended: &before::Ended, now: Now) {
        // Deputies count from here.
        self.calm.disturb();
        let failure = match ended.how {
            How::Done(gave_back) => return self.done(look, ended.member, gave_back, now),
            How::Failed => Failure::Refused,
            How::Restarted => Failure::Restarted,
        };
        self.in_trouble(ended.member, failure, Reason::MemberDown, "as its metrics tell: see its own log", now);
    }

    /// A defrag that gives hardly anything back would be named again and again.
    fn done(&mut self, look: &Look, member: MemberId, gave_back: Option<u64>, now: Now) {
        match gave_back {
            Some(bytes) if bytes < worthwhile(look.quota(member, self.policy.quota)) => {
                self.wait_for(member, Reason::Nospace, now, false, |times| {
                    format!("{times} defrag(s) of {member} gave hardly anything back, the newest {bytes} bytes")
                });
            }
            _ => drop(self.trouble.remove(&member)),
        }
    }

    /// Once it is tried again soon; a member that fails again has a reason that waiting may cure.
    fn in_trouble(&mut self, member: MemberId, failure: Failure, reason: Reason, text: &str, now: Now) -> String {
        let soon = failure == Failure::Restarted;
        self.wait_for(member, reason, now, soon, |times| {
            format!("the defrag of {member} failed {times} time(s), {}: {text}", failure.name())
        })
    }

    fn wait_for(
        &mut self,
        member: MemberId,
        reason: Reason,
        now: Now,
        soon: bool,
        detail: impl FnOnce(u32) -> String,
    ) -> String {
        let times = self.trouble.get(&member).map_or(0, |trouble| trouble.times) + 1;
        let wait = match times {
            1 if soon => Duration::ZERO,
            _ => (TROUBLE_WAIT * 2u32.pow((times - 1).min(8))).min(TROUBLE_LONGEST),
        };
        let detail = detail(times);
        let blocked = Blocked::new(reason, detail.clone());
        self.trouble.insert(member, Trouble { times, wait, not_before: now.mono + wait, blocked });
        detail
    }

    /// In mid-defrag a member can be elected; then no lease in the whole cluster can be renewed until it ends.
    pub(super) fn look_out(&mut self, now: Now, steps: &mut Vec<Step>) {
        if self.phase == Phase::Sent && self.lookout.is_none() && now.mono >= self.lookout_at {
            let ticket = self.tickets.next();
            self.lookout = Some(ticket);
            steps.push(Step::Do { ticket, action: Action::Look { round: self.id } });
        }
    }

    pub(super) fn looked_out(&mut self, answer: Answer, now: Now, steps: &mut Vec<Step>) {
        self.lookout = None;
        self.lookout_at = now.mono + LOOKOUT_EVERY;
        let (Answer::Looked(look), Phase::Sent, Some(call)) = (answer, &self.phase, &self.call) else { return };
        let from = call.member;
        let ended = |member: &MemberLook| member.scrape.as_ref().is_ok_and(|scrape| scrape.defrag_count > call.count);
        if stand_back::open(&look).any(|member| member.id == from) {
            self.calm.is_nobodys(&look);
        } else if look.member(from).is_some_and(ended) {
            // A janitor that stood still: its answer is there and was not read yet.
            return;
        }
        let leads = look.leader().is_ok_and(|(leader, _)| leader == from);
        if look.voter_count() < 2 || !leads {
            return;
        }
        let Some(to) = transferee(&look, from) else { return };
        self.say(format!("{} became leader in mid-defrag; moves leadership to {to}", name(&look, from)), steps);
        let ticket = self.tickets.next();
        self.lookout = Some(ticket);
        steps.push(Step::Do { ticket, action: Action::MoveLeader { from, to, deadline: HAND_ON } });
    }

    fn proved(&mut self, result: Result<(), Blocked>, now: Now, steps: &mut Vec<Step>) {
        let Phase::Proving { attempts } = self.phase else { return };
        match result {
            Ok(()) => {
                let left = self.story.records(self.id, &self.me, now);
                self.phase = Phase::Recording { left };
                self.at = now.mono;
            }
            Err(blocked) if blocked.reason != Reason::Nospace && attempts < ATTEMPTS => {
                self.block(blocked, steps);
                self.phase = Phase::Proving { attempts: attempts + 1 };
                self.at = now.mono + LOOK_EVERY;
            }
            Err(blocked) => {
                self.disarmed = false;
                let text = format!("NOSPACE was cleared, and etcd still refuses a write: {}", blocked.detail);
                self.block(Blocked::new(blocked.reason, text), steps);
                self.calm.disturb();
                self.look_again(now);
            }
        }
        if matches!(&self.phase, Phase::Recording { left } if left.is_empty()) {
            self.close_story(now, steps);
        }
    }

    pub(super) fn next_record(&self) -> Option<Action> {
        let Phase::Recording { left } = &self.phase else { return None };
        let record = left.first()?.clone();
        Some(Action::Settle(Settle { record: Some(record), intent: None, owner: false }))
    }

    fn recorded(&mut self, result: Result<(), Blocked>, now: Now, steps: &mut Vec<Step>) {
        if let Err(blocked) = result {
            self.say(format!("an outcome could not be recorded: {blocked}"), steps);
        }
        let Phase::Recording { left } = &mut self.phase else { return };
        if !left.is_empty() {
            left.remove(0);
        }
        self.at = now.mono;
        if left.is_empty() {
            self.close_story(now, steps);
        }
    }

    fn close_story(&mut self, now: Now, steps: &mut Vec<Step>) {
        self.blocked = None;
        self.say(format!("rescued: etcd takes writes again after {}", self.story.told(now)), steps);
        self.finish(steps);
    }
}

pub(super) fn name(look: &Look, member: MemberId) -> String {
    look.member(member).map_or_else(|| member.to_string(), describe)
}
