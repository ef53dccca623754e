//! Carries actions out as the daemon's executors would: one conversation each, with a deadline of its own.

use std::time::Duration;

use etcd_janitor::plan::member::MemberId;
use etcd_janitor::plan::reason::{Blocked, Failure, Outcome, Reason};
use etcd_janitor::plan::record::{TurnRecord, VERSION};
use etcd_janitor::plan::rescue::Compaction;
use etcd_janitor::plan::rule::{Figures, Quota};
use etcd_janitor::plan::step::{Action, Answer, Event, Hashes, Joined, Renewal, Sent, Settle, Ticket, Written};

use super::model::{By, Call, MS, Open, SEC, Us};
use super::setup::{Mutant, QUOTA};
use super::tally::Fault;
use super::world::{Ev, Request, World};

/// etcd gives up on a proposal after this long, and may apply it all the same.
const PROPOSAL: Us = 8 * SEC;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Arrives,
    Lost,
    AnswerLost,
    Late,
}

fn away(text: &str) -> Blocked {
    Blocked::new(Reason::EtcdUnavailable, text)
}

/// What an executor answers when it was told nothing.
fn unanswered(action: &Action) -> Answer {
    let text = "no answer within the deadline";
    refused(action, away(text)).unwrap_or_else(|| match action {
        Action::WriteIntent { .. } => Answer::IntentWritten(Written::Unclear(text.to_owned())),
        _ => Answer::Sent(Sent::Unclear(text.to_owned())),
    })
}

/// What an executor answers when nothing was done, where that can be told from no answer at all.
fn refused(action: &Action, blocked: Blocked) -> Option<Answer> {
    Some(match action {
        Action::Figures => Answer::Figures(Err(blocked)),
        Action::Join { .. } => Answer::Joined(Err(blocked)),
        Action::Renew { .. } => Answer::Renewed(Renewal::Unclear),
        Action::Leave { .. } => Answer::Left,
        Action::MoveLeader { .. } => Answer::LeaderMoved(Err(blocked)),
        Action::CompareHash => Answer::Compared(Err(blocked)),
        Action::Settle(_) => Answer::Settled(Err(blocked)),
        Action::Disarm { .. } => Answer::Disarmed(Err(blocked)),
        Action::Refresh { .. } => Answer::Refreshed(Err(blocked)),
        Action::Prove => Answer::Proved(Err(blocked)),
        Action::CompactForRescue => Answer::Compacted(Compaction {
            outcome: Outcome::Failed(Failure::Unavailable),
            detail: blocked.detail,
            revision: None,
            possible_at: None,
            kept_for: Default::default(),
        }),
        Action::WriteIntent { .. } | Action::Defragment { .. } | Action::Look { .. } => return None,
    })
}

impl World {
    pub fn execute(&mut self, janitor: usize, ticket: Ticket, action: Action) {
        let epoch = self.procs[janitor].epoch;
        let sent = self.clock(janitor).mono;
        let request = Request { janitor, epoch, ticket, action, lease: 0, sent, awaited: true };
        if let Action::Look { round } = request.action {
            return self.start_look(janitor, ticket, round);
        }
        if let Some(reason) = self.procs[janitor].refusal {
            let blocked = Blocked::new(reason, "refused");
            let answer = refused(&request.action, blocked.clone()).unwrap_or(match request.action {
                Action::WriteIntent { .. } => Answer::IntentWritten(Written::Failed(blocked)),
                _ => Answer::Sent(Sent::NotSent(blocked)),
            });
            if matches!(request.action, Action::Defragment { .. }) {
                self.procs[janitor].pending_defrag = Some(ticket);
            }
            return self.answer(&request, 3 * MS, answer);
        }
        match request.action {
            Action::Defragment { .. } => self.send_defrag(request),
            _ => self.dispatch(request),
        }
    }

    fn dispatch(&mut self, mut request: Request) {
        if matches!(request.action, Action::Join { .. }) {
            self.next_lease += 1;
            request.lease = self.next_lease;
        }
        let timeout = self.timeout(&request.action);
        let fate = self.fate(request.janitor, &request.action);
        let slow = if self.faulty && self.rng.per_mille(30) { 700 * MS } else { 15 * MS };
        let span = self.rng.within(MS, slow);
        match fate {
            Fate::Arrives => return self.after(span, Ev::Arrive(Box::new(request))),
            Fate::Lost => self.fault(Fault::RequestLost),
            Fate::AnswerLost => self.fault(Fault::AnswerLost),
            Fate::Late => self.fault(Fault::AppliedLate),
        }
        self.answer(&request, timeout, unanswered(&request.action));
        let mut unheard = Request { awaited: false, ..request };
        // A join that was not answered is undone by revoking the lease; that may be lost as well.
        if matches!(unheard.action, Action::Join { .. }) && fate != Fate::Lost {
            if self.rng.per_mille(700) {
                self.fault(Fault::RevokeLost);
            } else if fate == Fate::Late {
                // The lease is gone before the key arrives: the put is refused.
                return;
            } else {
                let lease = unheard.lease;
                let revoke = Request { action: Action::Leave { lease }, ..unheard.clone() };
                self.after(timeout + 5 * MS, Ev::Arrive(Box::new(revoke)));
            }
        }
        match fate {
            Fate::AnswerLost => self.after(span, Ev::Arrive(Box::new(unheard))),
            Fate::Late => {
                let late = timeout + self.rng.within(MS, PROPOSAL);
                unheard.awaited = false;
                self.after(late, Ev::Arrive(Box::new(unheard)));
            }
            _ => {}
        }
    }

    fn timeout(&self, action: &Action) -> Us {
        let span = match action {
            Action::MoveLeader { deadline, .. } => *deadline,
            _ => self.setup.policy.request_timeout,
        };
        span.as_micros() as Us
    }

    fn fate(&mut self, janitor: usize, action: &Action) -> Fate {
        if matches!(action, Action::WriteIntent { .. }) && self.setup.late_intents > 0 {
            self.setup.late_intents -= 1;
            return Fate::Late;
        }
        let reading = matches!(action, Action::Figures | Action::CompareHash);
        if !self.faulty || reading && !self.procs[janitor].is_deaf() {
            return Fate::Arrives;
        }
        let dear = matches!(action, Action::Join { .. } | Action::WriteIntent { .. } | Action::Settle(_));
        let chance = if dear { 35 } else { 12 };
        // Through the first that takes it; its answer may be one that is not heard.
        let deaf = self.procs[janitor].deaf.iter().filter(|deaf| **deaf).count();
        if deaf > 0 && self.rng.index(self.procs.len()) < deaf {
            return Fate::AnswerLost;
        }
        match self.rng.below(1000) {
            lot if lot < chance => Fate::Lost,
            lot if lot < 2 * chance => Fate::AnswerLost,
            lot if lot < 3 * chance && !matches!(action, Action::MoveLeader { .. }) => Fate::Late,
            _ => Fate::Arrives,
        }
    }

    /// A request reaches etcd.
    pub fn arrive(&mut self, request: Request) {
        let answer = match self.carry_out(&request) {
            Some(answer) => answer,
            None => {
                // What could not be committed in time may be committed once there is a leader again.
                let may_apply = matches!(request.action, Action::WriteIntent { .. } | Action::Settle(_));
                if may_apply && self.faulty && self.rng.per_mille(300) {
                    self.fault(Fault::AppliedLate);
                    let late = self.timeout(&request.action) + self.rng.within(MS, PROPOSAL);
                    self.after(late, Ev::Arrive(Box::new(Request { awaited: false, ..request.clone() })));
                }
                if request.awaited {
                    let timeout = self.timeout(&request.action);
                    self.answer(&request, timeout, unanswered(&request.action));
                }
                return;
            }
        };
        if request.awaited {
            let span = self.rng.within(MS, 8 * MS);
            self.answer(&request, span, answer);
        }
    }

    /// None: nobody answers.
    fn carry_out(&mut self, request: &Request) -> Option<Answer> {
        let (janitor, now) = (request.janitor, self.now);
        let available = self.cluster.available(&self.procs[janitor].cut, now);
        let local = self.procs[janitor].cut[janitor].is_none() && self.cluster.members[janitor].serves(now);
        match &request.action {
            Action::Figures if local => {
                let member = &self.cluster.members[janitor];
                let (db_size, db_size_in_use) = (member.db_size, member.db_size_in_use);
                Some(Answer::Figures(Ok(Figures { db_size, db_size_in_use, quota: Quota::Bytes(QUOTA) })))
            }
            Action::Join { round, .. } if available => {
                if self.cluster.nospace() {
                    let blocked = Blocked::new(Reason::Nospace, "mvcc: database space exceeded");
                    return Some(Answer::Joined(Err(blocked)));
                }
                let record = TurnRecord {
                    v: VERSION,
                    member: self.member_id(janitor),
                    instance: World::instance(janitor, request.epoch),
                    holder: format!("pod-m{janitor}"),
                    round: *round,
                    at: self.clock(janitor).wall,
                    extra: Default::default(),
                };
                let (ttl, lease) = (self.setup.ttl, request.lease);
                self.cluster.store.grant(lease, ttl.as_micros() as Us, now);
                let create_revision = self.cluster.store.queue(lease, record);
                self.after(ttl.as_micros() as Us, Ev::LeaseEnds(lease));
                let valid_until = request.sent + ttl + self.trusted();
                Some(Answer::Joined(Ok(Joined { lease, create_revision, valid_until })))
            }
            Action::Renew { lease, .. } => self.renew(request, *lease),
            Action::Leave { lease } if available => {
                if self.setup.mutant != Some(Mutant::LeaveIgnored) && self.cluster.store.revoke(*lease) {
                    self.queue_changed();
                }
                Some(Answer::Left)
            }
            Action::MoveLeader { from, to, .. } => {
                let from = self.cluster.index_of(*from)?;
                Some(Answer::LeaderMoved(self.move_leader(janitor, from, *to)?))
            }
            Action::WriteIntent { intent, turn, hold_seen } if available => {
                if self.cluster.nospace() {
                    let blocked = Blocked::new(Reason::Nospace, "mvcc: database space exceeded");
                    return Some(Answer::IntentWritten(Written::Failed(blocked)));
                }
                let over = self.setup.mutant == Some(Mutant::IntentOverwritten);
                let turn = turn.filter(|_| self.setup.mutant != Some(Mutant::TurnNotCompared));
                let uncompared = self.setup.mutant == Some(Mutant::HoldNotCompared);
                let hold_seen = if uncompared { i64::MAX } else { *hold_seen };
                Some(Answer::IntentWritten(
                    match self.cluster.store.write_intent(intent.clone(), turn, hold_seen, over) {
                        Err(text) => Written::Refused(text),
                        Ok(revision) => {
                            self.judge_intent_written(janitor, request.epoch);
                            self.intent_written(revision);
                            Written::At(revision)
                        }
                    },
                ))
            }
            Action::CompareHash => {
                let running = self.cluster.voters().all(|voter| self.cluster.members[voter].serves(now));
                if !running {
                    return None;
                }
                let differ = self.faulty && self.rng.per_mille(10);
                let hashes = if differ { Hashes::Differ("m0 1, m1 2".to_owned()) } else { Hashes::Equal };
                Some(Answer::Compared(Ok(hashes)))
            }
            Action::Settle(settle) if available => {
                if self.cluster.nospace() && settle.intent.is_none() {
                    return Some(Answer::Settled(Err(Blocked::new(Reason::Nospace, "database space exceeded"))));
                }
                // Under NOSPACE the record is refused, and the intent goes all the same.
                let cleared = Settle { record: None, owner: false, intent: settle.intent };
                let refused = self.cluster.nospace() && settle.record.is_some();
                let settle = if refused { &cleared } else { settle };
                self.judge_settle(settle);
                if self.setup.mutant == Some(Mutant::IntentKept) {
                    return Some(Answer::Settled(Ok(())));
                }
                self.cluster.store.settle(settle, now);
                let nospace = Blocked::new(Reason::Nospace, "database space exceeded");
                Some(Answer::Settled(if refused { Err(nospace) } else { Ok(()) }))
            }
            Action::Disarm { members } if available => {
                for member in &mut self.cluster.members {
                    member.nospace &= !members.contains(&member.id);
                }
                self.raise_again_if_full();
                Some(Answer::Disarmed(Ok(())))
            }
            Action::CompactForRescue if available => {
                self.rescue_compacts();
                let detail = "compacted".to_owned();
                let (outcome, kept_for) = (Outcome::Done, Default::default());
                let compaction = Compaction { outcome, detail, revision: None, possible_at: None, kept_for };
                Some(Answer::Compacted(compaction))
            }
            Action::Refresh { .. } if available => Some(Answer::Refreshed(Ok(()))),
            Action::Prove if available => Some(Answer::Proved(match self.cluster.nospace() {
                true => Err(Blocked::new(Reason::Nospace, "database space exceeded")),
                false => Ok(()),
            })),
            _ => None,
        }
    }

    /// Through whichever member serves, another first, and the local one when no other does: of two voters the other
    /// may be the one in its defrag. The leader must answer too, which it does not during its own.
    fn renew(&mut self, request: &Request, lease: i64) -> Option<Answer> {
        let now = self.now;
        let cut = &self.procs[request.janitor].cut;
        if !self.cluster.available(cut, now) || !self.cluster.renews(now) {
            return None;
        }
        if self.setup.mutant == Some(Mutant::LeaseTrusted) {
            return None;
        }
        let Some(known) = self.cluster.store.leases.get_mut(&lease) else {
            return Some(Answer::Renewed(Renewal::Gone));
        };
        if self.setup.mutant != Some(Mutant::LeasesNotRenewed) {
            known.expires = now + known.ttl;
        }
        Some(Answer::Renewed(Renewal::Until(request.sent + Duration::from_micros(known.ttl))))
    }

    /// By how much more than its time a lease is believed to live.
    fn trusted(&self) -> Duration {
        Duration::from_secs(if self.setup.mutant == Some(Mutant::LeaseTrusted) { 3600 } else { 0 })
    }

    /// Works during the member's own defrag, too. None: the call hangs until its deadline.
    fn move_leader(&mut self, janitor: usize, from: usize, to: MemberId) -> Option<Result<(), Blocked>> {
        if self.procs[janitor].cut[from].is_some() || !self.cluster.members[from].runs(self.now) {
            return None;
        }
        if self.cluster.leader != Some(from) {
            return Some(Err(away("etcdserver: not leader")));
        }
        let target = self.cluster.index_of(to)?;
        if !self.cluster.members[target].takes_part(self.now) || !self.cluster.quorum(self.now) {
            return None;
        }
        self.lead(target);
        self.procs[janitor].moved_leader = Some(self.now);
        Some(Ok(()))
    }

    /// The one send that no lock can fence: the permit is asked, and then the bytes leave.
    fn send_defrag(&mut self, request: Request) {
        let Request { janitor, epoch, ticket, .. } = request;
        let Action::Defragment { permit, timeout, remote } = request.action else { return };
        let local = Some(janitor).filter(|_| !remote);
        let Some(target) = local.or_else(|| self.cluster.index_of(permit.member)) else { return };
        self.procs[janitor].pending_defrag = Some(ticket);
        let not_sent = |blocked| Answer::Sent(Sent::NotSent(blocked));
        let mut clock = self.clock(janitor);
        if self.setup.mutant == Some(Mutant::PermitWithoutWall) {
            clock.wall = permit.look_begun.wall;
        }
        if let Err(blocked) = permit.check(clock)
            && self.setup.mutant != Some(Mutant::PermitIgnored)
        {
            return self.answer(&request, MS, not_sent(blocked));
        }
        if self.procs[janitor].cut[target].is_some() || !self.cluster.members[target].up {
            return self.answer(&request, MS, not_sent(away("connection refused")));
        }
        if self.faulty && self.rng.per_mille(15) {
            let reason = self.rng.pick(&[Reason::WrongMember, Reason::DiskSpace]);
            return self.answer(&request, MS, not_sent(Blocked::new(reason, "checked right before the send")));
        }
        if self.faulty && self.rng.per_mille(90) {
            self.fault(Fault::CallRefused);
            let auth = self.rng.per_mille(500);
            return self.answer(&request, MS, Answer::Sent(Sent::Refused { text: "refused".to_owned(), auth }));
        }
        let plan = self.procs[janitor].plan.as_ref();
        let rescue = plan.and_then(|plan| plan.rescue()).filter(|rescue| rescue.phase == "defragmenting");
        let rescue = rescue.map(|rescue| rescue.id);
        self.judge_send(janitor, target, &permit, rescue.is_some());
        let mut flight = self.rng.within(MS / 5, 20 * MS);
        let paused_in_window = self.faulty && self.rng.per_mille(120);
        if paused_in_window {
            self.fault(Fault::PauseInTheWindow);
            // Half of them are within what the protocol has to stand.
            let ttl = self.setup.ttl.as_micros() as Us;
            let longest = self.rng.pick(&[ttl, ttl * 4]);
            flight = self.rng.within(500 * MS, longest);
            self.pause(janitor, flight);
        }
        let deaf = self.procs[janitor].deaf[target];
        let answer_lost = self.setup.lose_answers || deaf || self.faulty && self.rng.per_mille(110);
        let timeout = timeout.as_micros() as Us;
        if answer_lost {
            self.fault(Fault::DefragAnswerLost);
            let lost = self.rng.within(30 * MS, 5 * SEC).min(timeout);
            self.answer(&request, lost, Answer::Sent(Sent::Unclear("the connection was lost".to_owned())));
        }
        self.answer(&request, timeout, Answer::Sent(Sent::Unclear("deadline exceeded".to_owned())));
        let look_begun = self.look_info(janitor, &permit).map_or(self.now, |info| info.began);
        let round = self.procs[janitor].plan.as_ref().and_then(|plan| plan.round()).map(|round| round.id());
        let round = rescue.or(round);
        let call = Call {
            janitor,
            target,
            rescue: rescue.is_some(),
            epoch,
            ticket,
            round: round.unwrap_or_else(|| self.round(janitor, 0)),
            look_begun,
            sent: self.now,
            generation: self.cluster.members[target].generation,
            paused_in_window,
            answer_lost,
        };
        if self.faulty && answer_lost && self.rng.per_mille(300) {
            // The connection broke before the call was through.
            return self.fault(Fault::RequestLost);
        }
        let open = Open { serial: self.now, by: By::Janitor(call), begun: 0 };
        self.judge.in_flight.push(call);
        let generation = self.cluster.members[target].generation;
        self.after(flight, Ev::DefragArrives { member: target, generation, open });
    }

    /// Whoever stands in the queue watches it; now and then a watch misses something.
    pub fn queue_changed(&mut self) {
        for janitor in 0..self.procs.len() {
            let epoch = self.procs[janitor].epoch;
            if self.procs[janitor].plan.as_ref().is_some_and(|plan| plan.round().is_some())
                && !(self.faulty && self.rng.per_mille(100))
            {
                let span = self.rng.within(MS, 50 * MS);
                self.after(span, Ev::Tell { janitor, epoch, event: Event::QueueChanged });
            }
        }
    }

    fn intent_written(&mut self, revision: i64) {
        for janitor in 0..self.procs.len() {
            let epoch = self.procs[janitor].epoch;
            let span = self.rng.within(MS, 80 * MS);
            self.after(span, Ev::IntentWatch { janitor, epoch, revision });
        }
    }

    /// A watch on the intent's key, which catches up when it was cut off.
    pub fn watch_intent(&mut self, janitor: usize, epoch: u32, revision: i64) {
        let standing = self.cluster.store.intent.as_ref().map(|(at, _)| *at) == Some(revision);
        if !standing || self.procs[janitor].epoch != epoch || self.procs[janitor].plan.is_none() {
            return;
        }
        if self.cluster.available(&self.procs[janitor].cut, self.now) {
            self.after(0, Ev::Tell { janitor, epoch, event: Event::IntentSeen });
        } else {
            self.after(2 * SEC, Ev::IntentWatch { janitor, epoch, revision });
        }
    }

    pub fn lease_ends(&mut self, lease: i64) {
        let Some(known) = self.cluster.store.leases.get(&lease).copied() else { return };
        if known.expires > self.now {
            return self.at(known.expires, Ev::LeaseEnds(lease));
        }
        // Only a leader with a quorum expires leases.
        if !self.cluster.commits(self.now) {
            self.cluster.last_unavailable = self.now;
            return self.after(500 * MS, Ev::LeaseEnds(lease));
        }
        self.fault(Fault::LeaseExpired);
        if self.cluster.store.revoke(lease) {
            self.queue_changed();
        }
    }
}
