//! What goes wrong, when, and how it is healed.

use etcd_janitor::plan::reason::Reason;
use etcd_janitor::plan::record::{Hold, VERSION};
use etcd_janitor::plan::step::{Action, Event};

use super::model::{By, MS, Open, SEC, Us};
use super::setup::QUOTA;
use super::tally::Fault;
use super::world::{Ev, World};

/// What ends a fault.
#[derive(Debug)]
pub enum Undo {
    Cut {
        janitor: usize,
    },
    Refusal {
        janitor: usize,
    },
    Hold {
        revision: i64,
    },
    Snapshot {
        member: usize,
        generation: u32,
    },
    Lag {
        member: usize,
    },
    Learning {
        member: usize,
    },
    Deaf {
        janitor: usize,
    },
    Isolation {
        member: usize,
    },
    /// No end: a member that is cut off notices.
    Heard {
        member: usize,
    },
    /// The process of a member that was removed ends.
    Removed {
        member: usize,
    },
    Nospace,
    /// No end either: the next poll of everybody.
    PollNospace,
    /// A compaction is carried out here.
    Freed {
        member: usize,
    },
    Corrupt,
    Clock {
        janitor: usize,
    },
    /// No end but a beginning: something between the intent and the call that it announces.
    BeforeTheSend {
        janitor: usize,
        epoch: u32,
    },
}

impl World {
    fn ttl(&self) -> Us {
        self.setup.ttl.as_micros() as Us
    }

    /// Right at a step, where a crash hurts most.
    pub fn trouble_at_step(&mut self, janitor: usize, action: &Action) {
        if !self.faulty {
            return;
        }
        let chance = match action {
            Action::Defragment { .. } => 25,
            Action::WriteIntent { .. } | Action::Settle(_) | Action::Join { .. } | Action::MoveLeader { .. } => 20,
            Action::Leave { .. } => 10,
            _ => 1,
        };
        let (epoch, ttl) = (self.procs[janitor].epoch, self.ttl());
        if self.rng.per_mille(chance) {
            // Before the request leaves, or while it is under way.
            let span = self.rng.within(0, 30 * MS);
            let back_after = Some(self.rng.within(SEC, ttl * 2));
            self.after(span, Ev::Crash { janitor, epoch, back_after });
        } else if self.rng.per_mille(chance) {
            let span = self.rng.within(ttl, ttl * 4);
            self.pause_and_count(janitor, span, Fault::JanitorPauseBeyondTtl);
        } else if matches!(action, Action::Defragment { .. }) && self.rng.per_mille(100) {
            // About as long as a permit lasts.
            let span = self.rng.within(100 * MS, 1_200 * MS);
            self.pause_and_count(janitor, span, Fault::JanitorPause);
        } else if matches!(action, Action::Defragment { .. }) && self.rng.per_mille(40) {
            let span = self.rng.within(SEC, ttl);
            self.suspend(janitor, span);
        }
        if matches!(action, Action::WriteIntent { .. }) && self.rng.per_mille(180) {
            let span = self.rng.within(0, 40 * MS);
            self.after(span, Ev::Undo(Undo::BeforeTheSend { janitor, epoch }));
        }
        // Any member at the instant of a send: its socket takes the call, and answers when it runs again.
        if matches!(action, Action::Defragment { .. }) && self.rng.per_mille(25) {
            let span = self.rng.within(SEC, ttl * 3);
            self.member_pause(janitor, span);
            if self.rng.per_mille(500) {
                // The whole node: its janitor does not come back before the call has been read.
                self.after(30 * MS, Ev::Crash { janitor, epoch, back_after: Some(ttl) });
            }
        }
    }

    /// The guards of the last look are what stands between these and a call that must not be sent.
    fn trouble_before_the_send(&mut self, janitor: usize, epoch: u32) {
        if !self.faulty || self.procs[janitor].epoch != epoch {
            return;
        }
        match self.rng.below(10) {
            0 | 1 if self.cluster.commits(self.now) && self.cluster.members[janitor].takes_part(self.now) => {
                self.fault(Fault::LeaderChange);
                self.lead(janitor);
            }
            2 | 3 => self.revoke_lease(),
            4 => self.hold(),
            5 => self.foreign_defrag(),
            6 => self.wall_jump(janitor),
            7 => self.quiesce(janitor),
            8 => {
                let (member, span) = (self.some_voter(), self.rng.within(SEC, 60 * SEC));
                self.crash_member(member, span);
            }
            _ => self.partition(),
        }
    }

    fn pause_and_count(&mut self, janitor: usize, span: Us, fault: Fault) {
        if self.pause(janitor, span) {
            self.fault(fault);
        }
    }

    fn crash_member(&mut self, member: usize, down: Us) {
        if self.member_crash(member, Some(down)) {
            self.fault(Fault::MemberCrash);
        }
    }

    fn revoke_lease(&mut self) {
        let Some(lease) = self.cluster.store.turns.first().map(|key| key.lease) else { return };
        self.fault(Fault::LeaseRevoked);
        self.cluster.store.revoke(lease);
        self.queue_changed();
    }

    fn wall_jump(&mut self, janitor: usize) {
        self.fault(Fault::WallJump);
        self.procs[janitor].clock_set = self.now;
        let hour = 3600 * SEC as i64;
        self.procs[janitor].offset = self.rng.pick(&[-hour, hour]);
        if self.procs[janitor].plan.is_some() {
            self.set_calendar(janitor, true);
        }
        let span = self.rng.within(SEC, 1800 * SEC);
        self.after(span, Ev::Undo(Undo::Clock { janitor }));
    }

    fn someone(&mut self) -> usize {
        self.rng.index(self.procs.len())
    }

    pub fn some_voter(&mut self) -> usize {
        let voters: Vec<usize> = self.cluster.voters().collect();
        self.rng.pick(&voters)
    }

    pub fn some_fault(&mut self) {
        if !self.faulty {
            return;
        }
        // Nothing happens most of the day: faults come when there is something to hit.
        let busy = self.cluster.store.intent.is_some()
            || self.procs.iter().any(|proc| proc.plan.as_ref().is_some_and(|plan| plan.round().is_some()));
        let mean = if busy { 20 } else { 400 };
        let next = self.rng.within(SEC, 2 * mean * SEC);
        self.after(next, Ev::Fault);
        match self.rng.below(47) {
            0..=2 => {
                let (janitor, back) = (self.someone(), self.rng.within(SEC / 2, self.setup.ttl.as_micros() as Us * 2));
                if self.procs[janitor].plan.is_some() {
                    self.fault(Fault::JanitorCrash);
                    self.crash(janitor, Some(back));
                }
            }
            3 | 4 => {
                let (janitor, span) = (self.someone(), self.rng.within(SEC / 5, self.ttl() / 2));
                self.pause_and_count(janitor, span, Fault::JanitorPause);
            }
            5 => {
                let (janitor, span) = (self.someone(), self.rng.within(self.ttl(), self.ttl() * 4));
                self.pause_and_count(janitor, span, Fault::JanitorPauseBeyondTtl);
            }
            6 | 7 => {
                let (member, span) = (self.busy_or_any(), self.rng.within(SEC, 60 * SEC));
                self.crash_member(member, span);
            }
            8 | 9 => {
                let (member, span) = (self.busy_or_any(), self.rng.within(SEC / 2, 60 * SEC));
                self.member_pause(member, span);
            }
            10..=12 => self.partition(),
            13..=15 => {
                let winner = self.busy_or_any();
                if self.cluster.commits(self.now) && self.cluster.members[winner].takes_part(self.now) {
                    self.fault(Fault::LeaderChange);
                    self.lead(winner);
                }
            }
            16..=18 => self.foreign_defrag(),
            19 | 42 => self.revoke_lease(),
            20 | 21 => self.hold(),
            22 => {
                let janitor = self.someone();
                self.wall_jump(janitor);
            }
            23 => {
                let janitor = self.someone();
                self.quiesce(janitor);
            }
            24 | 25 => {
                self.fault(Fault::SnapshotOpen);
                let member = self.some_voter();
                self.cluster.members[member].snapshots += 1;
                let (span, generation) = (self.rng.within(SEC, 40 * SEC), self.cluster.members[member].generation);
                self.after(span, Ev::Undo(Undo::Snapshot { member, generation }));
            }
            26 => self.raise_nospace(),
            27 => {
                self.fault(Fault::Corrupt);
                let member = self.some_voter();
                self.cluster.members[member].corrupt = true;
                self.judge.worsened = self.now;
                let span = self.rng.within(SEC, 30 * SEC);
                self.after(span, Ev::Undo(Undo::Corrupt));
            }
            28 | 29 => {
                self.fault(Fault::MemberLagging);
                let member = self.some_voter();
                self.cluster.members[member].lag = 5_000;
                self.cluster.store.index += 5_000;
                let span = self.rng.within(SEC, 30 * SEC);
                self.after(span, Ev::Undo(Undo::Lag { member }));
            }
            30 => {
                let janitor = self.someone();
                self.procs[janitor].refusal = Some(self.rng.pick(&[Reason::Auth, Reason::Tls, Reason::WrongMember]));
                let span = self.rng.within(SEC, 40 * SEC);
                self.after(span, Ev::Undo(Undo::Refusal { janitor }));
            }
            31..=34 | 41 => self.membership_changes(),
            35 | 36 => self.one_way_partition(),
            37 | 38 => {
                let (member, span) = (self.busy_or_any(), self.rng.within(2 * SEC, 60 * SEC));
                self.isolate(member, span);
            }
            40 if self.cluster.voters().count() > 1 => {
                self.fault(Fault::ListsDiffer);
                self.cluster.lists_differ_until = self.now + self.rng.within(5, 60) * SEC;
            }
            39 => {
                let (janitor, span) = (self.someone(), self.rng.within(SEC, self.ttl() * 2));
                self.suspend(janitor, span);
            }
            _ => {
                let janitor = self.someone();
                let missing = self.procs.iter().filter(|proc| proc.missing).count();
                if missing < 2 && self.procs[janitor].plan.is_some() {
                    self.fault(if missing == 0 { Fault::JanitorMissing } else { Fault::TwoJanitorsMissing });
                    self.crash(janitor, None);
                    self.procs[janitor].missing = true;
                }
            }
        }
    }

    fn busy_or_any(&mut self) -> usize {
        let busy = self.cluster.voters().find(|voter| self.cluster.members[*voter].running.is_some());
        match busy {
            Some(member) if self.rng.per_mille(650) => member,
            _ => self.some_voter(),
        }
    }

    fn partition(&mut self) {
        self.fault(Fault::Partition);
        let janitor = self.someone();
        let all = self.rng.per_mille(400);
        for member in 0..self.cluster.members.len() {
            if (all && member != janitor) || self.rng.per_mille(350) {
                self.procs[janitor].cut[member].get_or_insert(self.now);
            }
        }
        let span = self.rng.within(2 * SEC, 90 * SEC);
        self.after(span, Ev::Undo(Undo::Cut { janitor }));
    }

    /// What it sends arrives; what is answered does not.
    fn one_way_partition(&mut self) {
        self.fault(Fault::OneWayPartition);
        let (janitor, span) = (self.someone(), self.rng.within(2 * SEC, 90 * SEC));
        let all = self.rng.per_mille(500);
        for member in 0..self.cluster.members.len() {
            if all || self.rng.per_mille(400) {
                self.procs[janitor].deaf[member] = true;
            }
        }
        self.after(span, Ev::Undo(Undo::Deaf { janitor }));
    }

    fn foreign_defrag(&mut self) {
        let member = self.busy_or_any();
        self.operator_defrags(member);
        // Now and then by hand in a loop: one on each, or two on one member, of which etcd queues the second.
        match self.rng.below(6) {
            0 => {
                let other = self.busy_or_any();
                self.operator_defrags(other);
            }
            1 => self.operator_defrags(member),
            _ => {}
        }
    }

    pub fn operator_defrags(&mut self, member: usize) {
        self.judge.serial += 1;
        let generation = self.cluster.members[member].generation;
        let open = Open { serial: u64::MAX - self.judge.serial, by: By::Operator, begun: 0 };
        self.after(MS, Ev::DefragArrives { member, generation, open });
    }

    fn hold(&mut self) {
        self.fault(Fault::HoldSet);
        let span = self.rng.within(5, 120);
        self.set_hold(span);
        let revision = self.cluster.store.hold.as_ref().map_or(0, |(revision, _)| *revision);
        // Some are released early, some stay behind when they have expired.
        let left = if self.rng.per_mille(500) { span / 2 } else { span + 60 };
        if left > span {
            self.fault(Fault::HoldExpired);
        }
        self.after(left * SEC, Ev::Undo(Undo::Hold { revision }));
    }

    pub fn set_hold(&mut self, seconds: u64) {
        let wall = self.clock(0).wall - chrono::Duration::microseconds(self.procs[0].offset);
        let until = wall + chrono::Duration::seconds(seconds as i64);
        let store = &mut self.cluster.store;
        store.revision += 1;
        let hold = Hold { v: VERSION, reason: "test".into(), by: "op".into(), until, extra: Default::default() };
        store.hold = Some((store.revision, hold));
        store.hold_since = self.now;
    }

    fn quiesce(&mut self, janitor: usize) {
        let proc = &mut self.procs[janitor];
        if proc.plan.is_none() || proc.paused_until > self.now {
            return;
        }
        let epoch = proc.epoch;
        self.fault(Fault::Quiesce);
        self.after(0, Ev::Tell { janitor, epoch, event: Event::Quiesce });
        self.procs[janitor].quiesced = Some(self.now);
        let (span, ttl) = (self.rng.within(5 * SEC, 120 * SEC), self.ttl());
        self.after(span, Ev::Crash { janitor, epoch, back_after: Some(ttl) });
    }

    pub fn raise_nospace(&mut self) {
        self.fault(Fault::Nospace);
        self.judge.worsened = self.now;
        let member = self.some_voter();
        self.cluster.members[member].nospace = true;
        if self.setup.policy.rescue {
            for member in &mut self.cluster.members {
                (member.db_size, member.db_size_in_use) = (QUOTA, QUOTA / 100 * 97);
            }
            return self.poll_nospace();
        }
        if let Some(janitor) = self.cluster.leader {
            let epoch = self.procs[janitor].epoch;
            self.after(6 * SEC, Ev::Tell { janitor, epoch, event: Event::NospaceSeen });
        }
        let span = self.rng.within(10 * SEC, 60 * SEC);
        self.after(span, Ev::Undo(Undo::Nospace));
    }

    /// Every janitor that reaches its member is told of the alarm again and again, as by its polls.
    fn poll_nospace(&mut self) {
        if !self.cluster.nospace() {
            return;
        }
        for janitor in 0..self.procs.len() {
            let proc = &self.procs[janitor];
            let reached = proc.cut[janitor].is_none() && !proc.deaf[janitor] && proc.refusal.is_none();
            if reached && self.cluster.members[janitor].serves(self.now) {
                let (epoch, span) = (proc.epoch, self.rng.within(MS, 5 * SEC));
                self.after(span, Ev::Tell { janitor, epoch, event: Event::NospaceSeen });
            }
        }
        self.after(5_500 * MS, Ev::Undo(Undo::PollNospace));
    }

    /// Pages become free when each member has carried the compaction out.
    pub fn rescue_compacts(&mut self) {
        for member in 0..self.cluster.members.len() {
            let span = self.rng.within(0, 4 * SEC);
            self.after(span, Ev::Undo(Undo::Freed { member }));
        }
    }

    /// Clients write on: a member whose file is full raises the alarm again with the next write.
    pub fn raise_again_if_full(&mut self) {
        for member in self.cluster.members.iter_mut().filter(|member| member.listed && member.up) {
            member.nospace |= member.db_size >= QUOTA;
        }
        self.poll_nospace();
    }

    pub fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::PollNospace => self.poll_nospace(),
            Undo::Freed { member } => {
                let member = &mut self.cluster.members[member];
                member.db_size_in_use = member.db_size_in_use.min(200 << 20);
            }
            Undo::BeforeTheSend { janitor, epoch } => self.trouble_before_the_send(janitor, epoch),
            Undo::Cut { janitor } => {
                self.procs[janitor].cut.fill(None);
                self.procs[janitor].clear_since = self.now;
            }
            Undo::Refusal { janitor } => {
                self.procs[janitor].refusal = None;
                self.procs[janitor].clear_since = self.now;
            }
            Undo::Isolation { member } => self.rejoin(member),
            Undo::Heard { member } => self.misses_the_leader(member),
            Undo::Removed { member } => {
                self.member_crash(member, None);
            }
            Undo::Hold { revision } => {
                if self.cluster.store.hold.as_ref().map(|(at, _)| *at) == Some(revision) {
                    self.cluster.store.hold = None;
                }
            }
            Undo::Snapshot { member, generation } => {
                let member = &mut self.cluster.members[member];
                if member.generation == generation {
                    member.snapshots = member.snapshots.saturating_sub(1);
                }
            }
            Undo::Learning { member } => self.promote_member(member),
            Undo::Deaf { janitor } => {
                self.procs[janitor].deaf.fill(false);
                self.procs[janitor].clear_since = self.now;
            }
            Undo::Lag { member } => self.cluster.members[member].lag = 0,
            Undo::Nospace => self.cluster.members.iter_mut().for_each(|member| member.nospace = false),
            Undo::Corrupt => self.cluster.members.iter_mut().for_each(|member| member.corrupt = false),
            Undo::Clock { janitor } => {
                self.procs[janitor].offset = self.rng.within(0, 4_000) as i64 * MS as i64 - 2 * SEC as i64;
                self.procs[janitor].clock_set = self.now;
                if self.procs[janitor].plan.is_some() {
                    self.set_calendar(janitor, true);
                }
            }
        }
    }

    /// Everything is well from here on; what faults left behind must be cleared up by the janitors.
    pub fn heal(&mut self) {
        self.note(|| "everything is healed".to_owned());
        self.faulty = false;
        self.healed_at = self.now;
        for member in 0..self.cluster.members.len() {
            // What a rescue is there for must be left to it.
            let rescued = self.setup.policy.rescue && self.setup.forbidden.is_none();
            let known = &mut self.cluster.members[member];
            (known.corrupt, known.lag, known.snapshots) = (false, 0, 0);
            known.nospace &= rescued;
            if known.learner {
                // The operator removed it and added it again, as the dead end says.
                known.db_size = known.db_size.min(1 << 30);
            }
            if known.paused_until > self.now {
                known.paused_until = self.now;
                self.member_resumes(member);
            }
            self.member_up(member);
            self.rejoin(member);
        }
        self.cluster.store.hold = None;
        self.cluster.lists_differ_until = 0;
        for janitor in 0..self.procs.len() {
            let proc = &mut self.procs[janitor];
            proc.cut.fill(None);
            proc.refusal = None;
            proc.deaf.fill(false);
            proc.clear_since = self.now;
            let away = proc.offset.unsigned_abs() > 10 * SEC;
            if away {
                proc.offset = 0;
                proc.clock_set = self.now;
            }
            if proc.paused_until > self.now {
                proc.paused_until = self.now;
                let epoch = proc.epoch;
                self.after(0, Ev::Resume { janitor, epoch });
            }
            if self.procs[janitor].plan.is_none() {
                if self.cluster.members[janitor].listed {
                    let span = self.rng.within(SEC, 10 * SEC);
                    self.after(span, Ev::Restart { janitor });
                }
            } else if self.procs[janitor].quiesced.is_some() {
                let epoch = self.procs[janitor].epoch;
                self.after(SEC, Ev::Crash { janitor, epoch, back_after: Some(SEC) });
            } else if away {
                self.set_calendar(janitor, true);
            }
        }
        self.leader_may_be_lost();
    }
}
