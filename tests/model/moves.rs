//! What can happen next in a world.
//!
//! No time passes while anybody who runs has something to do: being slow is a fault ([`Fault::Pause`]), and every order
//! of what happens at one instant is tried.

use stateright::{Model, Property};

use super::carry::Carried;
use super::plans::{Ask, PlanId, Plans, Told};
use super::properties;
use super::scope::{Fault, Ms, Mutant, Scope};
use super::world::{Etcd, Open, Proc, World};

/// One step of a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// An action of a plan is carried out.
    Do {
        janitor: u8,
        place: u8,
        fate: Fate,
    },
    /// The members are read for a look.
    Half {
        janitor: u8,
        place: u8,
    },
    /// The records are read, and the plan is given the look.
    Finish(u8),
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
    /// A lease at its end is gone.
    Expire(u8),
    /// The same, before its end.
    LoseLease(u8),
    /// A transaction that nobody waits for is carried out.
    Land(u8),
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

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Done,
    /// Carried out, and the answer is lost.
    AnswerLost,
    /// Not carried out, and nobody says so.
    Lost,
    /// Carried out some time after its sender has given it up.
    Late,
}

/// The protocol within a scope.
pub struct Protocol {
    pub scope: Scope,
    pub plans: Plans,
}

impl Model for Protocol {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        let procs = [0, 1, 2].map(|by| {
            let proc = Proc::new(self.start(by, 0));
            if self.scope.absent[by] { Proc { plan: None, ..proc } } else { proc }
        });
        let budget = self.scope.budget;
        let world = World { procs, etcd: Etcd::new(), flights: Vec::new(), late: Vec::new(), budget };
        let mut carried = Carried { protocol: self, world };
        // Every janitor looks for an intent when it starts. There is none.
        (0..3).for_each(|janitor| carried.first_look(janitor));
        vec![carried.world]
    }

    fn actions(&self, world: &World, moves: &mut Vec<Move>) {
        // Seen by nobody: one order of it is as good as any other.
        if let Some((janitor, place, ask)) = self.unseen(world) {
            return self.fates(world, janitor, place, &ask, moves);
        }
        for janitor in 0..3 {
            self.moves_of(world, janitor, moves);
        }
        for (call, flight) in world.flights.iter().enumerate() {
            moves.push(Move::Arrive(call as u8));
            if world.procs[usize::from(flight.intent.by)].sent != Some(flight.intent) {
                moves.push(Move::Drop(call as u8));
            }
        }
        for (place, held) in world.etcd.queue.iter().enumerate() {
            if held.left == 0 {
                moves.push(Move::Expire(place as u8));
            } else if world.budget.allows(Fault::LeaseLost) {
                moves.push(Move::LoseLease(place as u8));
            }
        }
        moves.extend((0..world.late.len()).map(|late| Move::Land(late as u8)));
        for member in 0..3 {
            self.moves_at(world, member, moves);
        }
        if self.passes(world).is_some() {
            moves.push(Move::Pass);
        }
    }

    fn next_state(&self, world: &World, step: Move) -> Option<World> {
        let mut carried = Carried { protocol: self, world: world.clone() };
        carried.step(step);
        self.tick(&mut carried.world);
        Some(carried.world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

impl Protocol {
    pub fn new(scope: Scope) -> Self {
        Protocol { scope, plans: Plans::default() }
    }

    /// The plan of a process that starts now.
    pub fn start(&self, by: usize, epoch: u8) -> PlanId {
        let works = self.scope.working[by];
        let policy = if works { self.scope.policy() } else { self.scope.policy_of_resolver() };
        self.plans.start(by, epoch, policy, works)
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
        if proc.half.is_some() {
            moves.push(Move::Finish(janitor));
        }
        if proc.answered {
            moves.push(Move::Deliver(janitor));
        } else if proc.sent.is_some() && (world.budget.allows(Fault::Lost) || world.is_lost(proc)) {
            moves.push(Move::GiveUp(janitor));
        }
        // Elsewhere a crash or a pause costs nobody anything but time.
        if (view.at_stake || proc.half.is_some()) && world.budget.allows(Fault::Pause) {
            moves.push(Move::Pause(janitor));
        }
        if view.at_stake && world.budget.allows(Fault::Crash) {
            moves.push(Move::Crash(janitor));
        }
        if proc.cut.is_none() && world.budget.allows(Fault::Cut) {
            moves.extend((0..3).filter(|member| *member != janitor).map(|member| Move::Cut { janitor, member }));
        }
    }

    /// A renewal, or a look that only watches over a defrag of its own that runs.
    fn unseen(&self, world: &World) -> Option<(u8, u8, Ask)> {
        let of = |janitor: u8| {
            let proc = &world.procs[usize::from(janitor)];
            let view = self.plans.view(proc.runs()?);
            let unseen = |ask: &Ask| match ask {
                Ask::Renew(_) => true,
                Ask::Look { of_round } => *of_round && proc.sent.is_some(),
                _ => false,
            };
            let place = view.asks.iter().position(unseen)?;
            Some((janitor, place as u8, view.asks[place].clone()))
        };
        (0..3).find_map(of)
    }

    fn fates(&self, world: &World, janitor: u8, place: u8, ask: &Ask, moves: &mut Vec<Move>) {
        let proc = &world.procs[usize::from(janitor)];
        let done = Move::Do { janitor, place, fate: Fate::Done };
        match ask {
            Ask::Defragment if proc.sent.is_some() => {}
            Ask::Look { of_round: false } if self.scope.slow_resolvers => {
                if proc.half.is_none() {
                    moves.push(Move::Half { janitor, place });
                }
            }
            Ask::Figures | Ask::Look { .. } | Ask::Defragment => moves.push(done),
            ask => {
                moves.push(done);
                if world.budget.allows(Fault::Lost) {
                    moves.extend([Fate::AnswerLost, Fate::Lost].map(|fate| Move::Do { janitor, place, fate }));
                }
                let transaction = matches!(ask, Ask::WriteIntent { .. } | Ask::Settle { .. });
                if transaction && world.budget.allows(Fault::Late) {
                    moves.push(Move::Do { janitor, place, fate: Fate::Late });
                }
            }
        }
    }

    fn moves_at(&self, world: &World, member: u8, moves: &mut Vec<Move>) {
        let budget = &world.budget;
        if !world.etcd.members[usize::from(member)].open.is_empty() {
            moves.push(Move::End(member));
        }
        if world.etcd.leader != member {
            if budget.allows(Fault::Election) {
                moves.push(Move::Elect(member));
            }
            if budget.allows(Fault::MemberRestart) && !self.is_sent_to(world, member) {
                moves.push(Move::RestartMember(member));
            }
        }
        if budget.allows(Fault::Operator) && !(self.scope.others_stand_back && self.about_to_send(world)) {
            moves.push(Move::Operator(member));
        }
    }

    /// Whether a call was decided on by a last look and did not arrive. That its member does not restart then is part
    /// of the assumption: connected anew, the call would be taken for one that ended with the old process.
    fn is_sent_to(&self, world: &World, member: u8) -> bool {
        let proc = &world.procs[usize::from(member)];
        let unsent = |plan| self.plans.view(plan).asks.contains(&Ask::Defragment);
        let flies = world.flights.iter().any(|flight| flight.intent.by == member);
        flies || proc.sent.is_none() && proc.plan.is_some_and(unsent)
    }

    /// Whether a janitor's last look may have begun and its defrag has not ended.
    fn about_to_send(&self, world: &World) -> bool {
        let sends = |proc: &Proc| {
            let unsent = |plan| self.plans.view(plan).asks.contains(&Ask::Defragment);
            proc.half.is_some() || proc.plan.is_some_and(unsent)
        };
        let runs = |open: &Open| matches!(open, Open::Janitor(_));
        !world.flights.is_empty()
            || world.procs.iter().any(sends)
            || world.etcd.members.iter().any(|member| member.open.iter().any(runs))
    }

    /// How long until the next thing is due, if nothing is due now.
    pub fn passes(&self, world: &World) -> Option<Ms> {
        let mut due: Option<Ms> = None;
        let mut at = |span: Ms| due = Some(due.map_or(span, |due| due.min(span)));
        for proc in &world.procs {
            let Some(plan) = proc.runs() else { continue };
            let view = self.plans.view(plan);
            let busy = |ask: &Ask| *ask != Ask::Defragment || proc.sent.is_none();
            if proc.answered || view.asks.iter().any(busy) || proc.sent.is_some() && world.is_lost(proc) {
                return None;
            }
            if let Some(span) = view.wakes_in {
                at(span);
            }
        }
        for place in &world.etcd.queue {
            match place.left {
                0 => return None,
                left => at(left),
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

    pub fn has(&self, mutant: Mutant) -> bool {
        self.scope.has(mutant)
    }

    pub fn tell(&self, proc: &mut Proc, told: Told) {
        if let Some(plan) = &mut proc.plan {
            *plan = self.plans.tell(*plan, told);
        }
    }
}

impl World {
    /// Whether its call is neither on its way nor open: nobody will answer it.
    pub fn is_lost(&self, proc: &Proc) -> bool {
        let Some(sent) = proc.sent else { return false };
        let open = &self.etcd.members[usize::from(sent.by)].open;
        let runs = open.iter().any(|open| matches!(open, Open::Janitor(call) if call.intent == sent));
        !runs && !proc.answered && self.flights.iter().all(|flight| flight.intent != sent)
    }
}
