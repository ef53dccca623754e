//! Virtual time, the janitors' processes, and what is delivered to whom and when.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

use chrono::{DateTime, TimeZone, Utc};
use etcd_janitor::plan::janitor::Janitor;
use etcd_janitor::plan::member::{RoundId, RoundKind};
use etcd_janitor::plan::reason::Outcome;
use etcd_janitor::plan::step::{Action, Answer, Event, Step, Ticket};
use etcd_janitor::plan::time::Mono;

use super::faults::Undo;
use super::judge::Judge;
use super::look::{PendingLook, Question};
use super::model::{Cluster, MS, Open, SEC, Us};
use super::process::Proc;
use super::rng::Rng;
use super::setup::{Mutant, OtherSchedule, Setup};
use super::shown::{brief, verb};
use super::tally::{Fault, Tally};

/// One request on its way.
#[derive(Debug, Clone)]
pub struct Request {
    pub janitor: usize,
    pub epoch: u32,
    pub ticket: Ticket,
    pub action: Action,
    /// The lease that a join asks for.
    pub lease: i64,
    /// The sender's clock just before it was sent.
    pub sent: Mono,
    /// Whether the sender still waits for its answer.
    pub awaited: bool,
}

#[derive(Debug)]
pub enum Ev {
    Wake {
        janitor: usize,
        serial: u64,
    },
    Calendar {
        janitor: usize,
        serial: u64,
        k: u64,
    },
    Execute {
        janitor: usize,
        epoch: u32,
        ticket: Ticket,
        action: Box<Action>,
    },
    Arrive(Box<Request>),
    Ask {
        look: usize,
        question: Question,
    },
    Answer {
        janitor: usize,
        epoch: u32,
        ticket: Ticket,
        answer: Box<Answer>,
    },
    Resume {
        janitor: usize,
        epoch: u32,
    },
    Crash {
        janitor: usize,
        epoch: u32,
        back_after: Option<Us>,
    },
    Restart {
        janitor: usize,
    },
    Tell {
        janitor: usize,
        epoch: u32,
        event: Event,
    },
    IntentWatch {
        janitor: usize,
        epoch: u32,
        revision: i64,
    },
    LeaseEnds(i64),
    DefragArrives {
        member: usize,
        generation: u32,
        open: Open,
    },
    DefragRuns {
        member: usize,
        generation: u32,
    },
    DefragEnds {
        member: usize,
        generation: u32,
        serial: u64,
    },
    MemberResumes {
        member: usize,
    },
    MemberUp {
        member: usize,
    },
    Election,
    Learn {
        member: usize,
    },
    Fault,
    Undo(Undo),
    Heal,
    Audit,
    /// Clients have written and deleted; the next firing is near.
    Grow(u64),
}

struct Scheduled {
    at: Us,
    serial: u64,
    ev: Ev,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

pub struct World {
    pub setup: Setup,
    pub rng: Rng,
    pub now: Us,
    serial: u64,
    heap: BinaryHeap<Reverse<Scheduled>>,
    pub cluster: Cluster,
    pub procs: Vec<Proc>,
    pub looks: Vec<Option<PendingLook>>,
    pub tally: Tally,
    pub judge: Judge,
    pub faulty: bool,
    pub electing: bool,
    pub next_lease: i64,
    pub tracing: bool,
    pub trace: VecDeque<String>,
    pub failure: Option<String>,
    pub healed_at: Us,
    pub ended: Vec<(usize, RoundId, Outcome)>,
    pub base: DateTime<Utc>,
}

/// The `k`-th firing, on a clock that is right.
pub const FIRST_DUE: Us = 60 * SEC;

impl World {
    pub fn new(setup: Setup) -> Self {
        let cluster = Cluster::new(setup.voters, setup.learners, setup.spares);
        let members = cluster.members.len();
        let mut world = World {
            rng: Rng::new(setup.seed),
            now: 0,
            serial: 0,
            heap: BinaryHeap::new(),
            cluster,
            procs: Vec::new(),
            looks: Vec::new(),
            tally: Tally { worlds: 1, ..Tally::default() },
            judge: Judge::default(),
            faulty: setup.rounds_with_faults > 0,
            electing: false,
            next_lease: 0x6a6e_0000,
            tracing: false,
            trace: VecDeque::new(),
            failure: None,
            healed_at: 0,
            ended: Vec::new(),
            base: Utc.with_ymd_and_hms(2026, 11, 22, 0, 0, 0).unwrap(),
            setup,
        };
        for janitor in 0..members {
            let mut proc = Proc::new(members);
            if world.faulty {
                // Clocks are never quite right.
                proc.offset = world.rng.within(0, 4_000) as i64 * MS as i64 - 2 * SEC as i64;
                proc.drift = world.rng.within(0, 400) as i64 - 200;
            }
            world.procs.push(proc);
            if world.cluster.members[janitor].listed {
                world.start(janitor);
            }
        }
        let leader = world.rng.index(world.setup.voters);
        world.cluster.leader = Some(leader);
        for member in &mut world.cluster.members {
            member.leader_seen = Some(leader);
        }
        world.after(30 * SEC, Ev::Audit);
        for k in 0..world.setup.rounds_with_faults + world.setup.rounds_healed {
            let at = world.due_at(k) - 30 * SEC;
            world.at(at, Ev::Grow(k));
        }
        if world.faulty {
            world.after(FIRST_DUE, Ev::Fault);
            // Before a round, or in the middle of one.
            let next = world.due_at(world.setup.rounds_with_faults);
            let last = world.due_at(world.setup.rounds_with_faults - 1);
            let heal = if world.rng.per_mille(500) { next - 300 * SEC } else { last + world.rng.within(60, 900) * SEC };
            world.at(heal, Ev::Heal);
        }
        world
    }

    pub fn due_at(&self, k: u64) -> Us {
        FIRST_DUE + k * self.setup.period * SEC
    }

    pub fn schedule_of(&self, janitor: usize) -> OtherSchedule {
        let other = self.setup.other_schedule.filter(|other| other.janitor == janitor);
        other.unwrap_or(OtherSchedule { janitor, shift: 0, times: 1 })
    }

    /// The `k`-th firing of one janitor.
    pub fn due_for(&self, janitor: usize, k: u64) -> Us {
        let OtherSchedule { shift, times, .. } = self.schedule_of(janitor);
        FIRST_DUE + (shift + k * self.setup.period / times) * SEC
    }

    pub fn round(&self, janitor: usize, k: u64) -> RoundId {
        let due = self.base + chrono::Duration::microseconds(self.due_for(janitor, k) as i64);
        RoundId { kind: RoundKind::Cron, due }
    }

    /// When everything must be over.
    pub fn end(&self) -> Us {
        self.due_at(self.setup.rounds_with_faults + self.setup.rounds_healed) - 10 * SEC
    }

    pub fn at(&mut self, at: Us, ev: Ev) {
        self.serial += 1;
        self.heap.push(Reverse(Scheduled { at: at.max(self.now), serial: self.serial, ev }));
    }

    pub fn after(&mut self, span: Us, ev: Ev) {
        self.at(self.now + span, ev);
    }

    /// Runs to the end of the last round, then judges what must be true of every world.
    pub fn run(&mut self) -> Result<(), String> {
        self.run_until(self.end())?;
        self.judge_the_end();
        self.verdict()
    }

    pub fn run_until(&mut self, end: Us) -> Result<(), String> {
        while self.failure.is_none() {
            match self.heap.peek() {
                Some(Reverse(next)) if next.at <= end => {}
                _ => break,
            }
            let Some(Reverse(next)) = self.heap.pop() else { break };
            self.now = next.at;
            self.handle(next.ev);
        }
        if self.failure.is_none() {
            self.now = self.now.max(end);
        }
        self.tally.virtual_seconds = self.now / SEC;
        self.verdict()
    }

    /// Runs until `condition` holds; an error if it does not within `seconds`.
    pub fn run_while(&mut self, seconds: u64, mut going_on: impl FnMut(&World) -> bool) -> Result<(), String> {
        let end = self.now + seconds * SEC;
        while going_on(self) {
            if self.now >= end {
                return Err(format!("still going on after {seconds} s"));
            }
            self.run_until(self.now + 20 * MS)?;
        }
        Ok(())
    }

    fn verdict(&self) -> Result<(), String> {
        match &self.failure {
            Some(text) => Err(format!("at {:.3} s: {text}", self.now as f64 / SEC as f64)),
            None => Ok(()),
        }
    }

    pub fn fail(&mut self, text: impl Into<String>) {
        if self.failure.is_none() {
            let text = text.into();
            self.note(|| format!("VIOLATION {text}"));
            self.failure = Some(text);
        }
    }

    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if self.tracing {
            if self.trace.len() >= 400 {
                self.trace.pop_front();
            }
            self.trace.push_back(format!("{:>12.4} {}", self.now as f64 / SEC as f64, text()));
        }
    }

    pub fn fault(&mut self, fault: Fault) {
        self.tally.fault(fault);
        self.note(|| format!("fault {fault:?}"));
    }

    fn handle(&mut self, ev: Ev) {
        match ev {
            Ev::Wake { janitor, serial } => {
                let proc = &mut self.procs[janitor];
                if proc.wake_serial == serial && proc.wake.take().is_some() {
                    self.deliver(janitor, Event::Tick);
                }
            }
            Ev::Calendar { janitor, serial, k } => {
                if self.procs[janitor].calendar_serial == serial && self.procs[janitor].plan.is_some() {
                    self.fire(janitor, k);
                    self.set_calendar(janitor, false);
                }
            }
            Ev::Execute { janitor, epoch, ticket, action } => {
                let proc = &self.procs[janitor];
                if proc.plan.is_none() || proc.epoch != epoch {
                    return;
                }
                let until = proc.paused_until;
                if until > self.now {
                    return self.at(until + MS, Ev::Execute { janitor, epoch, ticket, action });
                }
                self.execute(janitor, ticket, *action);
            }
            Ev::Arrive(request) => self.arrive(*request),
            Ev::Ask { look, question } => self.ask(look, question),
            Ev::Answer { janitor, epoch, ticket, answer } => {
                if self.procs[janitor].epoch != epoch {
                    return;
                }
                if matches!(*answer, Answer::Sent(_)) {
                    // A deadline, a broken connection and the end may all be on their way.
                    if self.procs[janitor].pending_defrag != Some(ticket) {
                        return;
                    }
                    self.procs[janitor].pending_defrag = None;
                }
                self.deliver(janitor, Event::Answered { ticket, answer: *answer });
            }
            Ev::Tell { janitor, epoch, event } => {
                if self.procs[janitor].epoch == epoch {
                    self.deliver(janitor, event);
                }
            }
            Ev::Resume { janitor, epoch } => self.resume(janitor, epoch),
            Ev::Crash { janitor, epoch, back_after } => {
                if self.procs[janitor].epoch == epoch {
                    self.fault(Fault::JanitorCrash);
                    self.crash(janitor, back_after);
                }
            }
            Ev::Restart { janitor } => {
                if self.procs[janitor].plan.is_none() {
                    self.start(janitor);
                }
            }
            Ev::IntentWatch { janitor, epoch, revision } => self.watch_intent(janitor, epoch, revision),
            Ev::LeaseEnds(lease) => self.lease_ends(lease),
            Ev::DefragArrives { member, generation, open } => self.defrag_arrives(member, generation, open),
            Ev::DefragRuns { member, generation } => self.defrag_runs(member, generation),
            Ev::DefragEnds { member, generation, serial } => self.defrag_ends(member, generation, serial),
            Ev::MemberResumes { member } => self.member_resumes(member),
            Ev::MemberUp { member } => self.member_up(member),
            Ev::Election => self.election(),
            Ev::Learn { member } => self.learn(member),
            Ev::Fault => self.some_fault(),
            Ev::Undo(undo) => self.undo(undo),
            Ev::Heal => self.heal(),
            Ev::Grow(k) => self.grow(k),
            Ev::Audit => {
                self.audit();
                self.after(5 * SEC, Ev::Audit);
            }
        }
    }

    fn grow(&mut self, k: u64) {
        for member in 0..self.cluster.members.len() {
            if k == 0 || self.rng.per_mille(850) {
                let known = &mut self.cluster.members[member];
                known.db_size = known.db_size.max(1 << 30);
            }
        }
        self.count_needs(k);
    }

    fn deliver(&mut self, janitor: usize, event: Event) {
        if event == Event::Quiesce && self.setup.mutant == Some(Mutant::QuiesceIgnored) {
            return;
        }
        let proc = &mut self.procs[janitor];
        if proc.plan.is_none() {
            return;
        }
        if proc.paused_until > self.now {
            proc.inbox.push(event);
            return;
        }
        self.hand(janitor, event);
        self.rewake(janitor);
    }

    pub fn hand(&mut self, janitor: usize, event: Event) {
        let now = self.clock(janitor);
        let Some(mut plan) = self.procs[janitor].plan.take() else { return };
        self.tally.events += 1;
        let tick = matches!(event, Event::Tick);
        if self.tracing && !tick {
            let shown = brief(&event);
            self.note(|| format!("j{janitor} <- {shown}"));
        }
        let due = match &event {
            Event::Due { round, .. } => Some(*round),
            _ => None,
        };
        let was_busy = plan.round().is_some();
        let steps = plan.on(event, now);
        let round = plan.round().map(|round| round.id());
        self.procs[janitor].plan = Some(plan);
        self.count_step(janitor, tick);
        if let Some(due) = due
            && !was_busy
            && round == Some(due)
        {
            let late = (now.wall - due.due).to_std().unwrap_or_default();
            let left = self.setup.policy.window.saturating_sub(late).as_micros() as u64;
            self.procs[janitor].round_ends = self.now + left;
            self.procs[janitor].round_over = false;
            self.tally.rounds += 1;
        }
        for step in steps {
            self.step(janitor, step);
        }
    }

    fn count_step(&mut self, janitor: usize, tick: bool) {
        let second = self.now / SEC;
        let proc = &mut self.procs[janitor];
        if proc.second != second {
            (proc.second, proc.steps_this_second, proc.ticks_this_second) = (second, 0, 0);
        }
        proc.ticks_this_second += u32::from(tick);
        if proc.ticks_this_second > 60 {
            self.fail(format!("j{janitor} wants to be woken all the time"));
        }
    }

    fn step(&mut self, janitor: usize, step: Step) {
        match step {
            Step::Do { ticket, action } => {
                let proc = &mut self.procs[janitor];
                proc.steps_this_second += 1;
                proc.most_steps = proc.most_steps.max(proc.steps_this_second);
                let (epoch, steps) = (proc.epoch, proc.steps_this_second);
                if steps > 20 {
                    self.fail(format!("j{janitor} spins: {steps} actions within a second"));
                }
                self.note(|| format!("j{janitor} -> {}", verb(&action)));
                self.judge_step(janitor, &action);
                self.trouble_at_step(janitor, &action);
                let span = self.rng.within(50, 2_000);
                self.after(span, Ev::Execute { janitor, epoch, ticket, action: Box::new(action) });
            }
            Step::Say(say) => {
                if let Some(blocked) = &say.blocked {
                    self.tally.reason(blocked.reason);
                }
                self.note(|| format!("j{janitor} says {}", say.text));
            }
            Step::Ended(ended) => {
                self.tally.outcome(ended.outcome);
                self.note(|| format!("j{janitor} ended {} {}: {}", ended.round, ended.outcome, ended.detail));
                self.ended.push((janitor, ended.round, ended.outcome));
                self.judge_ended(janitor, &ended);
            }
            Step::TurnLost => {
                self.tally.turns_lost += 1;
                self.note(|| format!("j{janitor} lost the turn"));
                if self.setup.rounds_with_faults == 0 {
                    self.fail(format!("j{janitor} lost its place in the queue though nothing was wrong"));
                }
            }
            Step::Adopted(_) => self.tally.adopted += 1,
            Step::Drain(on) => self.procs[janitor].draining = on,
            Step::TurnReached(_) | Step::RescueOver => {}
        }
    }

    pub fn rewake(&mut self, janitor: usize) {
        let proc = &mut self.procs[janitor];
        let Some(wake) = proc.plan.as_ref().and_then(Janitor::wake_at) else {
            proc.wake = None;
            return;
        };
        // A wish in the past is granted at once, as a timer would.
        let shown = wake.since_origin().as_micros() as u64;
        let at = (proc.origin + proc.takes(shown)).max(self.now + 100);
        if proc.wake == Some(at) {
            return;
        }
        proc.wake = Some(at);
        proc.wake_serial += 1;
        let serial = proc.wake_serial;
        self.at(at, Ev::Wake { janitor, serial });
    }

    pub fn answer(&mut self, request: &Request, span: Us, answer: Answer) {
        let Request { janitor, epoch, ticket, .. } = *request;
        self.after(span, Ev::Answer { janitor, epoch, ticket, answer: Box::new(answer) });
    }
}
