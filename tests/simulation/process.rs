//! The janitors' processes: their clocks, their calendars, their deaths and pauses.

use std::collections::VecDeque;
use std::time::Duration;

use etcd_janitor::plan::janitor::Janitor;
use etcd_janitor::plan::member::MemberId;
use etcd_janitor::plan::reason::Reason;
use etcd_janitor::plan::step::{Event, Me, Ticket};
use etcd_janitor::plan::time::{Mono, Now};

use super::judge::LookInfo;
use super::model::{MS, SEC, Us};
use super::setup::Mutant;
use super::tally::Fault;
use super::world::{Ev, World};

/// The process beside one member.
pub struct Proc {
    pub plan: Option<Janitor>,
    pub epoch: u32,
    pub origin: Us,
    /// By how much the wall clock is off, in microseconds.
    pub offset: i64,
    /// When it was last set.
    pub clock_set: Us,
    /// By how much the monotonic clock is too fast, in millionths.
    pub drift: i64,
    /// When its machine last went on after it had been suspended, and since when it had been.
    pub suspended: Option<(Us, Us)>,
    pub paused_until: Us,
    pub inbox: Vec<Event>,
    pub wake: Option<Us>,
    pub wake_serial: u64,
    pub calendar_serial: u64,
    pub last_fired: Option<u64>,
    /// Since when it cannot reach each member.
    pub cut: Vec<Option<Us>>,
    pub refusal: Option<Reason>,
    /// Of which members no answer reaches it.
    pub deaf: Vec<bool>,
    /// Since when nothing has been between it and any member.
    pub clear_since: Us,
    pub quiesced: Option<Us>,
    /// Since when it stands in the queue for a member that was removed.
    pub unwelcome: Option<Us>,
    pub died: Us,
    pub resumed: Us,
    /// When it last moved leadership away.
    pub moved_leader: Option<Us>,
    pub pending_defrag: Option<Ticket>,
    pub looks: VecDeque<LookInfo>,
    pub round_ends: Us,
    pub round_over: bool,
    pub second: Us,
    pub steps_this_second: u32,
    pub ticks_this_second: u32,
    pub most_steps: u32,
    pub missing: bool,
    /// Whether `/etcd/readyz` fails on its behalf.
    pub draining: bool,
}

impl Proc {
    pub fn new(members: usize) -> Self {
        Proc {
            plan: None,
            epoch: 0,
            origin: 0,
            offset: 0,
            clock_set: 0,
            drift: 0,
            suspended: None,
            paused_until: 0,
            inbox: Vec::new(),
            wake: None,
            wake_serial: 0,
            calendar_serial: 0,
            last_fired: None,
            cut: vec![None; members],
            refusal: None,
            deaf: vec![false; members],
            clear_since: 0,
            quiesced: None,
            unwelcome: None,
            died: 0,
            resumed: 0,
            moved_leader: None,
            pending_defrag: None,
            looks: VecDeque::new(),
            round_ends: 0,
            round_over: true,
            second: 0,
            steps_this_second: 0,
            ticks_this_second: 0,
            most_steps: 0,
            missing: false,
            draining: false,
        }
    }

    /// What its monotonic clock shows after `span` of the world's time.
    fn shown(&self, span: Us) -> Us {
        (span as i64 + span as i64 * self.drift / 1_000_000) as Us
    }

    /// How long the world takes until it shows `shown`.
    pub fn takes(&self, shown: Us) -> Us {
        (shown as i64 - shown as i64 * self.drift / 1_000_000) as Us
    }

    /// No answer of any member reaches it.
    pub fn is_deaf(&self) -> bool {
        self.deaf.iter().all(|deaf| *deaf)
    }

    /// Nothing is between it and any member.
    pub fn is_clear(&self) -> bool {
        let cut = self.cut.iter().any(Option::is_some);
        !cut && !self.deaf.contains(&true) && self.refusal.is_none()
    }

    pub fn restarted(&mut self, now: Us) {
        self.origin = now;
        self.paused_until = 0;
        self.inbox.clear();
        self.wake = None;
        self.last_fired = None;
        self.quiesced = None;
        self.resumed = now;
        self.pending_defrag = None;
        self.looks.clear();
        self.round_over = true;
        self.missing = false;
        self.draining = false;
    }
}

impl World {
    pub fn clock(&self, janitor: usize) -> Now {
        let proc = &self.procs[janitor];
        let wall = self.base + chrono::Duration::microseconds(self.now as i64 + proc.offset);
        Now { mono: Mono::new(Duration::from_micros(proc.shown(self.now - proc.origin))), wall }
    }

    pub fn instance(janitor: usize, epoch: u32) -> String {
        format!("i{janitor}-{epoch}")
    }

    pub fn member_id(&self, janitor: usize) -> MemberId {
        self.cluster.members[janitor].id
    }

    /// A new process; a firing that was missed is caught up inside its window.
    pub fn start(&mut self, janitor: usize) {
        let (id, name) = (self.member_id(janitor), self.cluster.members[janitor].name.clone());
        let mut policy = self.setup.policy.clone();
        if self.setup.mutant == Some(Mutant::WindowIgnored) {
            policy.window += Duration::from_secs(600);
        }
        let now = self.now;
        let proc = &mut self.procs[janitor];
        proc.epoch += 1;
        proc.restarted(now);
        let instance = Self::instance(janitor, proc.epoch);
        let epoch = proc.epoch;
        let me = Me { member: id, instance, holder: format!("pod-{name}"), name };
        proc.plan = Some(Janitor::new(me, policy));
        self.note(|| format!("j{janitor} starts as instance {epoch}"));
        self.after(5 * MS, Ev::Tell { janitor, epoch, event: Event::Tick });
        if let Some((revision, _)) = self.cluster.store.intent {
            self.after(50 * MS, Ev::IntentWatch { janitor, epoch, revision });
        }
        self.set_calendar(janitor, true);
    }

    /// Finds the next firing by the process's wall clock; `catch_up`: and the last one, if it was missed.
    pub fn set_calendar(&mut self, janitor: usize, catch_up: bool) {
        let shown = self.now as i64 + self.procs[janitor].offset;
        let period = (self.setup.period / self.schedule_of(janitor).times * SEC) as i64;
        let first = self.due_for(janitor, 0) as i64;
        let next = ((shown - first).div_euclid(period) + 1).max(0) as u64;
        let window = self.setup.policy.window.as_micros() as i64;
        if catch_up
            && let Some(last) = next.checked_sub(1)
            && self.procs[janitor].last_fired != Some(last)
            // A firing a few seconds too late may be caught up, too: the plan has to refuse it.
            && shown - (self.due_for(janitor, last) as i64) < window + (20 * SEC) as i64
        {
            self.tally.fault(Fault::MissedFiring);
            self.fire(janitor, last);
        }
        let at = (self.due_for(janitor, next) as i64 - self.procs[janitor].offset).max(self.now as i64) as u64;
        let proc = &mut self.procs[janitor];
        proc.calendar_serial += 1;
        let serial = proc.calendar_serial;
        self.at(at, Ev::Calendar { janitor, serial, k: next });
    }

    pub fn fire(&mut self, janitor: usize, k: u64) {
        let (round, jitter) = (self.round(janitor, k), self.setup.jitter);
        if !jitter.is_zero() {
            self.tally.fault(Fault::Jitter);
        }
        if let Some(other) = self.setup.other_schedule.filter(|other| other.janitor == janitor) {
            self.tally.fault(if other.times == 1 { Fault::OtherSchedule } else { Fault::OtherPeriod });
        }
        if self.cluster.members[janitor].learner {
            self.tally.fault(Fault::Learner);
        }
        let proc = &mut self.procs[janitor];
        proc.last_fired = Some(k);
        let epoch = proc.epoch;
        let skew = self.rng.within(0, 20) * MS;
        self.after(10 * MS + skew, Ev::Tell { janitor, epoch, event: Event::Due { round, jitter } });
    }

    pub fn crash(&mut self, janitor: usize, back_after: Option<Us>) {
        let proc = &mut self.procs[janitor];
        if proc.plan.take().is_none() {
            return;
        }
        proc.died = self.now;
        proc.paused_until = 0;
        proc.inbox.clear();
        proc.wake = None;
        self.note(|| format!("j{janitor} dies"));
        if let Some(span) = back_after {
            self.after(span, Ev::Restart { janitor });
        }
    }

    /// False: there is nothing to pause.
    pub fn pause(&mut self, janitor: usize, span: Us) -> bool {
        let now = self.now;
        let proc = &mut self.procs[janitor];
        if proc.plan.is_none() || proc.paused_until > now {
            return false;
        }
        proc.paused_until = now + span;
        let epoch = proc.epoch;
        self.note(|| format!("j{janitor} is paused for {:.3} s", span as f64 / SEC as f64));
        self.after(span, Ev::Resume { janitor, epoch });
        true
    }

    /// With its machine: for its monotonic clock no time passes.
    pub fn suspend(&mut self, janitor: usize, span: Us) {
        if self.pause(janitor, span) {
            self.fault(Fault::Suspended);
            self.procs[janitor].suspended = Some((self.now, self.now + span));
        }
    }

    pub fn resume(&mut self, janitor: usize, epoch: u32) {
        let proc = &mut self.procs[janitor];
        if proc.epoch != epoch || proc.plan.is_none() || proc.paused_until > self.now {
            return;
        }
        proc.paused_until = 0;
        proc.resumed = self.now;
        if let Some((from, to)) = proc.suspended
            && from >= proc.origin
            && to >= self.now
        {
            proc.suspended = Some((from, self.now));
            // Its round, too, ends that much later: it lasts by the monotonic clock.
            proc.origin += self.now - from;
            proc.round_ends += self.now - from;
        }
        let inbox = std::mem::take(&mut proc.inbox);
        for event in inbox {
            self.hand(janitor, event);
        }
        self.rewake(janitor);
    }
}
