//! Carries out one step.

use super::moves::{Move, Rescue};
use super::scope::Mutant;
use super::seen::Seen;
use super::world::{Call, Open, Proc, World};
use crate::moves::Fate;
use crate::plans::{Ask, Reply, Told};
use crate::scope::{Fault, Ms};

/// Beyond this, calls are equally old.
const VERY_OLD: Ms = 60_000;

/// A world in the middle of a step.
pub struct Carried<'a> {
    pub model: &'a Rescue,
    pub world: World,
}

impl Carried<'_> {
    pub fn step(&mut self, step: Move) {
        match step {
            Move::Do { janitor, place, fate } => self.carry_out(janitor, place, fate),
            Move::Deliver(janitor) => {
                self.proc(janitor).answered = false;
                self.sent(janitor, Reply::Done);
            }
            Move::GiveUp(janitor) => self.give_up(janitor),
            Move::Arrive(flight) => {
                let call = self.world.flights.remove(usize::from(flight));
                self.world.members[usize::from(call.to)].open.push(Open::Janitor(call));
            }
            Move::Drop(flight) => {
                self.world.flights.remove(usize::from(flight));
            }
            Move::End(member) => self.end(member),
            Move::Pass => self.pass(),
            Move::Pause(janitor) => {
                self.world.budget.spend(Fault::Pause);
                self.proc(janitor).paused = true;
            }
            Move::Resume(janitor) => self.proc(janitor).paused = false,
            Move::Crash(janitor) => {
                self.world.budget.spend(Fault::Crash);
                let proc = self.proc(janitor);
                *proc = Proc { plan: None, epoch: proc.epoch, cut: proc.cut, ..Proc::new(0) };
            }
            Move::Restart(janitor) => {
                let epoch = self.proc(janitor).epoch + 1;
                let plan = self.model.start(usize::from(janitor), epoch);
                let proc = self.proc(janitor);
                proc.plan = Some(plan);
                proc.epoch = epoch;
            }
            Move::Elect(member) => {
                self.world.budget.spend(Fault::Election);
                self.world.lead(member);
            }
            Move::RestartMember(member) => self.restart_member(member),
            Move::Operator(member) => self.operator(member),
            Move::Cut { janitor, member } => {
                self.world.budget.spend(Fault::Cut);
                self.proc(janitor).cut = Some(member);
            }
        }
    }

    fn proc(&mut self, janitor: u8) -> &mut Proc {
        &mut self.world.procs[usize::from(janitor)]
    }

    fn tell(&mut self, janitor: u8, told: Told) {
        self.model.tell(&mut self.world.procs[usize::from(janitor)], told);
    }

    /// The `Defragment` of a plan is answered.
    fn sent(&mut self, janitor: u8, reply: Reply) {
        let proc = self.proc(janitor);
        proc.waits = false;
        let Some(plan) = proc.plan else { return };
        let asks = &self.model.plans.view(plan).asks;
        if let Some(place) = asks.iter().position(|ask| *ask == Ask::Defragment) {
            self.tell(janitor, Told::Answer(place as u8, reply));
        }
    }

    fn give_up(&mut self, janitor: u8) {
        if !self.world.is_lost(janitor) {
            self.world.budget.spend(Fault::Lost);
        }
        let epoch = self.proc(janitor).epoch;
        let open = self.world.members.iter_mut().flat_map(|member| &mut member.open).filter_map(|open| match open {
            Open::Janitor(call) => Some(call),
            Open::Operator => None,
        });
        for call in self.world.flights.iter_mut().chain(open) {
            call.given_up |= call.by == janitor && call.epoch == epoch;
        }
        self.sent(janitor, Reply::Unclear);
    }

    fn carry_out(&mut self, janitor: u8, place: u8, fate: Fate) {
        let Some(plan) = self.proc(janitor).plan else { return };
        let view = self.model.plans.view(plan);
        if fate != Fate::Done {
            self.world.budget.spend(Fault::Lost);
        }
        let reply = match &view.asks[usize::from(place)] {
            Ask::Look { of_round } => {
                // One that a call may be decided on.
                let decides = *of_round && !view.asks.contains(&Ask::Defragment);
                Reply::LookedInRescue(Box::new(self.look(janitor, decides)))
            }
            Ask::Defragment => return self.check_and_send(janitor, place),
            ask => {
                let done = (fate != Fate::Lost).then(|| self.request(ask));
                done.filter(|_| fate == Fate::Done).unwrap_or_else(|| unanswered(ask))
            }
        };
        self.tell(janitor, Told::Answer(place, reply));
    }

    fn look(&mut self, janitor: u8, decides: bool) -> Seen {
        let leader = self.world.leader;
        let proc = self.proc(janitor);
        if decides {
            proc.saw_leader = leader;
            proc.overtaken = false;
        }
        let index = usize::from(janitor);
        Seen::now(&self.world, index, &self.world.procs[index], &self.model.scope)
    }

    /// What etcd does, and says.
    fn request(&mut self, ask: &Ask) -> Reply {
        let world = &mut self.world;
        match ask {
            Ask::MoveLeader { from, to } if world.leader == *from => {
                world.lead(*to);
                Reply::LeaderMoved(true)
            }
            Ask::MoveLeader { .. } => Reply::LeaderMoved(false),
            Ask::Compact => Reply::Compacted(true),
            Ask::Disarm => {
                world.nospace = false;
                Reply::Disarmed(true)
            }
            Ask::Prove => Reply::Proved(!world.nospace),
            Ask::Settle { .. } => Reply::Settled(!world.nospace),
            _ => unreachable!("{ask:?} in a rescue"),
        }
    }

    /// The one thing that no lock can fence: the permit is asked, and then the bytes leave.
    fn check_and_send(&mut self, janitor: u8, place: u8) {
        let Some(plan) = self.proc(janitor).plan else { return };
        let view = self.model.plans.view(plan);
        let permit = if self.model.scope.has(Mutant::NoPermit) { Some(view.look_age) } else { view.permit };
        let (Some(age), Some(to)) = (permit, view.target) else {
            return self.tell(janitor, Told::Answer(place, Reply::NotSent));
        };
        let proc = self.proc(janitor);
        proc.waits = true;
        let call = Call {
            by: janitor,
            epoch: proc.epoch,
            given_up: false,
            to,
            age: age.min(VERY_OLD),
            led: proc.saw_leader == to,
            overtaken: proc.overtaken,
        };
        self.world.flights.push(call);
    }

    fn end(&mut self, member: u8) {
        let ended = &mut self.world.members[usize::from(member)];
        let open = ended.open.remove(0);
        ended.count = (ended.count + 1).min(100);
        ended.small = true;
        let Open::Janitor(call) = open else { return };
        let proc = self.proc(call.by);
        if call.given_up || proc.epoch != call.epoch || proc.plan.is_none() {
            return;
        }
        if proc.paused {
            proc.answered = true;
        } else {
            self.sent(call.by, Reply::Done);
        }
    }

    /// Whatever was open there is gone; connections to it are broken.
    fn restart_member(&mut self, member: u8) {
        self.world.budget.spend(Fault::MemberRestart);
        let restarted = &mut self.world.members[usize::from(member)];
        restarted.open.clear();
        restarted.count = 0;
        restarted.start += 1;
        self.world.flights.retain(|flight| flight.to != member);
    }

    fn operator(&mut self, member: u8) {
        self.world.budget.spend(Fault::Operator);
        for flight in &mut self.world.flights {
            flight.overtaken = true;
        }
        for proc in &mut self.world.procs {
            proc.overtaken = true;
        }
        for open in self.world.members.iter_mut().flat_map(|member| &mut member.open) {
            if let Open::Janitor(call) = open {
                call.overtaken = true;
            }
        }
        self.world.members[usize::from(member)].open.push(Open::Operator);
    }

    fn pass(&mut self) {
        let Some(span) = self.model.passes(&self.world) else { return };
        for proc in &mut self.world.procs {
            self.model.tell(proc, Told::Passed(span));
        }
        for flight in &mut self.world.flights {
            flight.age = (flight.age + span).min(VERY_OLD);
        }
    }
}

/// What a plan is told when nobody answers.
fn unanswered(ask: &Ask) -> Reply {
    match ask {
        Ask::MoveLeader { .. } => Reply::LeaderMoved(false),
        Ask::Compact => Reply::Compacted(false),
        Ask::Disarm => Reply::Disarmed(false),
        Ask::Prove => Reply::Proved(false),
        _ => Reply::Settled(false),
    }
}
