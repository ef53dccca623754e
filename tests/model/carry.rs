//! Carries out one step.

use super::moves::{Fate, Move, Protocol};
use super::plans::{Ask, Reply, Told};
use super::scope::{Fault, Ms, Mutant, TTL};
use super::seen::{self, Seen};
use super::world::{Call, Half, Late, Made, Open, Place, Proc, World};

/// Beyond this, calls are equally old.
const VERY_OLD: Ms = 60_000;

/// A world in the middle of a step.
pub struct Carried<'a> {
    pub protocol: &'a Protocol,
    pub world: World,
}

impl Carried<'_> {
    pub fn step(&mut self, step: Move) {
        match step {
            Move::Do { janitor, place, fate } => self.carry_out(janitor, place, fate),
            Move::Half { janitor, place } => self.half(janitor, place),
            Move::Finish(janitor) => self.finish(janitor),
            Move::Deliver(janitor) => {
                self.proc(janitor).answered = false;
                self.sent(janitor, Reply::Done);
            }
            Move::GiveUp(janitor) => {
                if !self.world.is_lost(&self.world.procs[usize::from(janitor)]) {
                    self.world.budget.spend(Fault::Lost);
                }
                self.sent(janitor, Reply::Unclear);
            }
            Move::Arrive(flight) => {
                let call = self.world.flights.remove(usize::from(flight));
                self.world.etcd.members[usize::from(call.intent.by)].open.push(Open::Janitor(call));
            }
            Move::Drop(flight) => {
                self.world.flights.remove(usize::from(flight));
            }
            Move::End(member) => self.end(member),
            Move::Expire(place) => {
                self.world.etcd.queue.remove(usize::from(place));
                self.queue_changed();
            }
            Move::LoseLease(place) => {
                self.world.budget.spend(Fault::LeaseLost);
                self.world.etcd.queue.remove(usize::from(place));
                self.queue_changed();
            }
            Move::Land(late) => self.land(late),
            Move::Pass => self.pass(),
            Move::Pause(janitor) => {
                self.world.budget.spend(Fault::Pause);
                self.proc(janitor).paused = true;
            }
            Move::Resume(janitor) => {
                self.proc(janitor).paused = false;
                self.watched(janitor);
            }
            Move::Crash(janitor) => self.crash(janitor),
            Move::Restart(janitor) => self.restart(janitor),
            Move::Elect(member) => {
                self.world.budget.spend(Fault::Election);
                self.world.etcd.lead(member);
            }
            Move::RestartMember(member) => self.restart_member(member),
            Move::Operator(member) => self.operator(member),
            Move::Cut { janitor, member } => {
                self.world.budget.spend(Fault::Cut);
                self.proc(janitor).cut = Some(member);
            }
        }
    }

    /// The look that asks, outside of rounds, whether there is an intent.
    pub fn first_look(&mut self, janitor: u8) {
        let Some(plan) = self.proc(janitor).plan else { return };
        let asks = &self.protocol.plans.view(plan).asks;
        if let Some(place) = asks.iter().position(|ask| *ask == (Ask::Look { of_round: false })) {
            self.carry_out(janitor, place as u8, Fate::Done);
        }
    }

    fn proc(&mut self, janitor: u8) -> &mut Proc {
        &mut self.world.procs[usize::from(janitor)]
    }

    fn tell(&mut self, janitor: u8, told: Told) {
        self.protocol.tell(&mut self.world.procs[usize::from(janitor)], told);
    }

    fn answer(&mut self, janitor: u8, place: u8, reply: Reply) {
        if let Some(half) = &mut self.proc(janitor).half
            && half.place > place
        {
            half.place -= 1;
        }
        self.tell(janitor, Told::Answer(place, reply));
    }

    /// The `Defragment` of a plan is answered.
    fn sent(&mut self, janitor: u8, reply: Reply) {
        let proc = self.proc(janitor);
        proc.sent = None;
        let Some(plan) = proc.plan else { return };
        let asks = &self.protocol.plans.view(plan).asks;
        if let Some(place) = asks.iter().position(|ask| *ask == Ask::Defragment) {
            self.answer(janitor, place as u8, reply);
        }
    }

    fn carry_out(&mut self, janitor: u8, place: u8, fate: Fate) {
        let Some(plan) = self.proc(janitor).plan else { return };
        let view = self.protocol.plans.view(plan);
        match fate {
            Fate::Done => {}
            Fate::AnswerLost | Fate::Lost => self.world.budget.spend(Fault::Lost),
            Fate::Late => self.world.budget.spend(Fault::Late),
        }
        let ask = &view.asks[usize::from(place)];
        let reply = match ask {
            Ask::Figures => Reply::Figures,
            Ask::Look { of_round } => {
                let seen = self.look(janitor, *of_round, view.last_look);
                Reply::Looked(Box::new(seen), 0)
            }
            Ask::Defragment => return self.check_and_send(janitor, place),
            ask => {
                let done = match fate {
                    Fate::Done | Fate::AnswerLost => Some(self.request(janitor, ask)),
                    Fate::Lost => None,
                    Fate::Late => {
                        let late = self.late(janitor, ask);
                        self.world.late.extend(late);
                        None
                    }
                };
                match done {
                    Some(reply) if fate == Fate::Done => reply,
                    _ => unanswered(ask),
                }
            }
        };
        self.answer(janitor, place, reply);
        match ask {
            Ask::Join | Ask::Leave(_) => self.queue_changed(),
            Ask::WriteIntent { .. } => self.intent_changed(),
            _ => {}
        }
    }

    /// What etcd does, and says.
    fn request(&mut self, janitor: u8, ask: &Ask) -> Reply {
        let over = self.protocol.has(Mutant::NoIntent);
        let renews = self.world.etcd.renews();
        let etcd = &mut self.world.etcd;
        let proc = &mut self.world.procs[usize::from(janitor)];
        match ask {
            Ask::Join => {
                let made = proc.make(usize::from(janitor));
                etcd.queue.push(Place { made, left: TTL });
                Reply::Joined(Some(made.number()))
            }
            Ask::Renew(lease) => match etcd.queue.iter_mut().find(|place| place.made.number() == *lease) {
                None => Reply::RenewGone,
                Some(_) if !renews => Reply::RenewUnclear,
                Some(place) => {
                    place.left = TTL;
                    Reply::Renewed
                }
            },
            Ask::Leave(lease) => {
                etcd.queue.retain(|place| place.made.number() != *lease);
                Reply::Left
            }
            Ask::MoveLeader { from, to } if etcd.leader == *from => {
                etcd.lead(*to);
                Reply::LeaderMoved(true)
            }
            Ask::MoveLeader { .. } => Reply::LeaderMoved(false),
            Ask::WriteIntent { intent, turn } => {
                let made = proc.make(usize::from(janitor));
                match etcd.write_intent(seen::kept(intent, made), *turn, over) {
                    true => Reply::Written(made.number()),
                    false => Reply::WriteRefused,
                }
            }
            Ask::Settle { made, record, owner } => {
                etcd.settle(*made, *record, janitor, proc.epoch, *owner);
                Reply::Settled(true)
            }
            _ => unreachable!("{ask:?} is no request to the store"),
        }
    }

    fn late(&mut self, janitor: u8, ask: &Ask) -> Option<Late> {
        let proc = self.proc(janitor);
        match ask {
            Ask::WriteIntent { intent, turn } => {
                Some(Late::Intent { intent: seen::kept(intent, proc.make(usize::from(janitor))), turn: *turn })
            }
            Ask::Settle { made, record, owner } => {
                Some(Late::Settle { made: *made, record: *record, by: janitor, epoch: proc.epoch, owner: *owner })
            }
            _ => None,
        }
    }

    fn land(&mut self, late: u8) {
        match self.world.late.remove(usize::from(late)) {
            Late::Intent { intent, turn } => {
                let over = self.protocol.has(Mutant::NoIntent);
                if self.world.etcd.write_intent(intent, turn, over) {
                    self.intent_changed();
                }
            }
            Late::Settle { made, record, by, epoch, owner } => {
                self.world.etcd.settle(made, record, by, epoch, owner);
            }
        }
    }

    fn look(&mut self, janitor: u8, of_round: bool, last: bool) -> Seen {
        let led = self.world.etcd.leader == janitor;
        let proc = self.proc(janitor);
        if of_round {
            proc.led = led;
            proc.overtaken = false;
        }
        let proc = &self.world.procs[usize::from(janitor)];
        Seen::now(&self.world.etcd, usize::from(janitor), proc, &self.protocol.scope, last && of_round)
    }

    fn half(&mut self, janitor: u8, place: u8) {
        let members = self.look(janitor, false, false);
        self.proc(janitor).half = Some(Half { place, members, age: 0 });
    }

    fn finish(&mut self, janitor: u8) {
        let Some(Half { place, members, age }) = self.proc(janitor).half.take() else { return };
        let records = self.look(janitor, false, false);
        self.answer(janitor, place, Reply::Looked(Box::new(Seen::join(&members, records)), age));
    }

    /// The one thing that no lock can fence: the permit is asked, and then the bytes leave.
    fn check_and_send(&mut self, janitor: u8, place: u8) {
        let Some(plan) = self.proc(janitor).plan else { return };
        let view = self.protocol.plans.view(plan);
        let permit = if self.protocol.has(Mutant::NoPermit) { Some(view.look_age) } else { view.permit };
        let (Some(age), Some(intent)) = (permit, view.own_intent.map(Made::of)) else {
            return self.answer(janitor, place, Reply::NotSent);
        };
        let proc = self.proc(janitor);
        proc.sent = Some(intent);
        let call = Call { intent, age: age.min(VERY_OLD), led: proc.led, overtaken: proc.overtaken };
        self.world.flights.push(call);
    }

    fn end(&mut self, member: u8) {
        let ended = &mut self.world.etcd.members[usize::from(member)];
        let open = ended.open.remove(0);
        ended.count = (ended.count + 1).min(100);
        let Open::Janitor(call) = open else { return };
        let proc = self.proc(call.intent.by);
        if proc.sent != Some(call.intent) {
            return;
        }
        if proc.paused {
            proc.answered = true;
        } else {
            self.sent(call.intent.by, Reply::Done);
        }
    }

    fn crash(&mut self, janitor: u8) {
        self.world.budget.spend(Fault::Crash);
        let proc = self.proc(janitor);
        *proc = Proc { plan: None, epoch: proc.epoch, cut: proc.cut, ..Proc::new(0) };
    }

    fn restart(&mut self, janitor: u8) {
        let epoch = self.proc(janitor).epoch + 1;
        let plan = self.protocol.start(usize::from(janitor), epoch);
        let proc = self.proc(janitor);
        proc.plan = Some(plan);
        proc.epoch = epoch;
    }

    /// Whatever was open there is gone; connections to it are broken.
    fn restart_member(&mut self, member: u8) {
        self.world.budget.spend(Fault::MemberRestart);
        let restarted = &mut self.world.etcd.members[usize::from(member)];
        restarted.open.clear();
        restarted.count = 0;
        restarted.start += 1;
        self.world.flights.retain(|flight| flight.intent.by != member);
    }

    fn operator(&mut self, member: u8) {
        self.world.budget.spend(Fault::Operator);
        for flight in &mut self.world.flights {
            flight.overtaken = true;
        }
        for proc in &mut self.world.procs {
            proc.overtaken = true;
        }
        for open in self.world.etcd.members.iter_mut().flat_map(|member| &mut member.open) {
            if let Open::Janitor(call) = open {
                call.overtaken = true;
            }
        }
        self.world.etcd.members[usize::from(member)].open.push(Open::Operator);
    }

    fn pass(&mut self) {
        let Some(span) = self.protocol.passes(&self.world) else { return };
        for proc in &mut self.world.procs {
            self.protocol.tell(proc, Told::Passed(span));
            if let Some(half) = &mut proc.half {
                half.age += span;
            }
        }
        for place in &mut self.world.etcd.queue {
            place.left = place.left.saturating_sub(span);
        }
        for flight in &mut self.world.flights {
            flight.age = (flight.age + span).min(VERY_OLD);
        }
    }

    fn queue_changed(&mut self) {
        for janitor in 0..3 {
            if self.world.procs[usize::from(janitor)].runs().is_some() {
                self.watched(janitor);
            }
        }
    }

    fn intent_changed(&mut self) {
        for janitor in 0..3 {
            if self.world.procs[usize::from(janitor)].runs().is_some() {
                self.intent_seen(janitor);
            }
        }
    }

    /// What a watch under the prefix tells.
    fn watched(&mut self, janitor: u8) {
        self.tell(janitor, Told::QueueChanged);
        self.intent_seen(janitor);
    }

    /// That there is an intent is told when nobody in the queue answers for it. Told earlier, a plan only looks in vain
    /// until then, which matters where a look can take long.
    fn intent_seen(&mut self, janitor: u8) {
        let etcd = &self.world.etcd;
        let owned =
            |made: Made| etcd.queue.iter().any(|place| place.made.by == made.by && place.made.epoch == made.epoch);
        if etcd.intent.is_some_and(|intent| self.protocol.scope.slow_resolvers || !owned(intent.made)) {
            self.tell(janitor, Told::IntentSeen);
        }
    }
}

/// What a plan is told when nobody answers.
fn unanswered(ask: &Ask) -> Reply {
    match ask {
        Ask::Join => Reply::Joined(None),
        Ask::Renew(_) => Reply::RenewUnclear,
        Ask::MoveLeader { .. } => Reply::LeaderMoved(false),
        Ask::WriteIntent { .. } => Reply::WriteUnclear,
        Ask::Settle { .. } => Reply::Settled(false),
        _ => Reply::Left,
    }
}
