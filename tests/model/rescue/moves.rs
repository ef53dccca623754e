//! What can happen next while NOSPACE is up. As in rounds, no time passes while anybody who runs has something to do.

use stateright::{Model, Property};

use super::carry::Carried;
use super::properties;
use super::scope::Scope;
use super::world::{Open, Proc, World};
use crate::moves::Fate;
use crate::plans::{Ask, PlanId, Plans, Told};
use crate::scope::{Fault, Ms};

/// One step of a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// An action of a plan is carried out.
    Do {
        janitor: u8,
        place: u8,
        fate: Fate,
    },
    /// A janitor that stood still reads that its defrag is done.
    Deliver(u8),
    /// A janitor learns that its call has no answer.
    GiveUp(u8),
    /// A call reaches its member.
    Arrive(u8),
    /// A call whose sender is gone never reaches its member.
    Drop(u8),
    /// A member ends the defrag that runs.
    End(u8),
    /// Time passes until something is due.
    Pass,
    Pause(u8),
    Resume(u8),
    Crash(u8),
    Restart(u8),
    Elect(u8),
    RestartMember(u8),
    Operator(u8),
    Cut {
        janitor: u8,
        member: u8,
    },
}

/// The rescue within a scope.
pub struct Rescue {
    pub scope: Scope,
    pub plans: Plans,
}

impl Model for Rescue {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        let procs = [0, 1, 2].map(|by| {
            let proc = Proc::new(self.start(by, 0));
            if self.scope.absent[by] { Proc { plan: None, ..proc } } else { proc }
        });
        vec![World::new(procs, self.scope.budget)]
    }

    fn actions(&self, world: &World, moves: &mut Vec<Move>) {
        // Looks after leadership while its own call is under way: one order of them is as good as any other.
        if let Some((janitor, place, ask)) = self.unseen(world) {
            return self.fates(world, janitor, place, &ask, moves);
        }
        for janitor in 0..3 {
            self.moves_of(world, janitor, moves);
        }
        for (place, flight) in world.flights.iter().enumerate() {
            moves.push(Move::Arrive(place as u8));
            let sender = &world.procs[usize::from(flight.by)];
            if flight.given_up || sender.plan.is_none() || sender.epoch != flight.epoch {
                moves.push(Move::Drop(place as u8));
            }
        }
        for member in 0..3 {
            self.moves_at(world, member, moves);
        }
        if self.passes(world).is_some() {
            moves.push(Move::Pass);
        }
    }

    fn next_state(&self, world: &World, step: Move) -> Option<World> {
        let mut carried = Carried { model: self, world: world.clone() };
        carried.step(step);
        self.tick(&mut carried.world);
        Some(carried.world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

impl Rescue {
    pub fn new(scope: Scope) -> Self {
        Rescue { scope, plans: Plans::default() }
    }

    /// The plan of a process that starts now, and sees NOSPACE.
    pub fn start(&self, by: usize, epoch: u8) -> PlanId {
        self.plans.start_rescue(by, epoch, self.scope.policy())
    }

    fn moves_of(&self, world: &World, janitor: u8, moves: &mut Vec<Move>) {
        let proc = &world.procs[usize::from(janitor)];
        let Some(plan) = proc.plan else {
            if !self.scope.absent[usize::from(janitor)] {
                moves.push(Move::Restart(janitor));
            }
            return;
        };
        if proc.paused {
            moves.push(Move::Resume(janitor));
            return;
        }
        let view = self.plans.view(plan);
        for (place, ask) in view.asks.iter().enumerate() {
            self.fates(world, janitor, place as u8, ask, moves);
        }
        if proc.answered {
            moves.push(Move::Deliver(janitor));
        } else if proc.waits && (world.budget.allows(Fault::Lost) || world.is_lost(janitor)) {
            moves.push(Move::GiveUp(janitor));
        }
        if world.budget.allows(Fault::Pause) {
            moves.push(Move::Pause(janitor));
        }
        if world.budget.allows(Fault::Crash) {
            moves.push(Move::Crash(janitor));
        }
        if proc.cut.is_none() && world.budget.allows(Fault::Cut) {
            moves.extend((0..3).filter(|member| *member != janitor).map(|member| Move::Cut { janitor, member }));
        }
    }

    fn unseen(&self, world: &World) -> Option<(u8, u8, Ask)> {
        let of = |janitor: u8| {
            let proc = &world.procs[usize::from(janitor)];
            let view = self.plans.view(proc.runs().filter(|_| proc.waits)?);
            let place = view.asks.iter().position(|ask| matches!(ask, Ask::Look { .. }))?;
            Some((janitor, place as u8, view.asks[place].clone()))
        };
        (0..3).find_map(of)
    }

    fn fates(&self, world: &World, janitor: u8, place: u8, ask: &Ask, moves: &mut Vec<Move>) {
        let waits = world.procs[usize::from(janitor)].waits;
        if *ask == Ask::Defragment && waits {
            return;
        }
        moves.push(Move::Do { janitor, place, fate: Fate::Done });
        if !matches!(ask, Ask::Look { .. } | Ask::Defragment) && world.budget.allows(Fault::Lost) {
            moves.extend([Fate::AnswerLost, Fate::Lost].map(|fate| Move::Do { janitor, place, fate }));
        }
    }

    fn moves_at(&self, world: &World, member: u8, moves: &mut Vec<Move>) {
        let budget = &world.budget;
        if !world.members[usize::from(member)].open.is_empty() {
            moves.push(Move::End(member));
        }
        if world.leader != member {
            if budget.allows(Fault::Election) {
                moves.push(Move::Elect(member));
            }
            if budget.allows(Fault::MemberRestart) {
                moves.push(Move::RestartMember(member));
            }
        }
        if budget.allows(Fault::Operator) && !(self.scope.others_stand_back && self.about_to_send(world)) {
            moves.push(Move::Operator(member));
        }
    }

    /// Whether a janitor has decided to send and its defrag has not ended.
    fn about_to_send(&self, world: &World) -> bool {
        let sends = |proc: &Proc| proc.plan.is_some_and(|plan| self.plans.view(plan).asks.contains(&Ask::Defragment));
        let runs = |open: &Open| matches!(open, Open::Janitor(_));
        !world.flights.is_empty()
            || world.procs.iter().any(sends)
            || world.members.iter().any(|member| member.open.iter().any(runs))
    }

    /// How long until the next thing is due, if nothing is due now.
    pub fn passes(&self, world: &World) -> Option<Ms> {
        let mut due: Option<Ms> = None;
        let mut at = |span: Ms| due = Some(due.map_or(span, |due| due.min(span)));
        for (janitor, proc) in world.procs.iter().enumerate() {
            let Some(plan) = proc.runs() else { continue };
            let view = self.plans.view(plan);
            let busy = |ask: &Ask| *ask != Ask::Defragment || !proc.waits;
            if proc.answered || view.asks.iter().any(busy) || world.is_lost(janitor as u8) {
                return None;
            }
            if let Some(span) = view.wakes_in {
                at(span);
            }
        }
        for flight in &world.flights {
            match self.scope.arrives_within.map(|bound| bound.saturating_sub(flight.age)) {
                Some(0) => return None,
                Some(left) => at(left),
                None => {}
            }
        }
        due
    }

    /// Plans do what the clock made due.
    pub fn tick(&self, world: &mut World) {
        for proc in &mut world.procs {
            while proc.runs().is_some_and(|plan| self.plans.view(plan).wakes_in == Some(0)) {
                self.tell(proc, Told::Tick);
            }
        }
    }

    pub fn tell(&self, proc: &mut Proc, told: Told) {
        if let Some(plan) = &mut proc.plan {
            *plan = self.plans.tell(*plan, told);
        }
    }
}
