//! The state that is explored while NOSPACE is up: no queue, no intent, no lease. Only members and calls.

use crate::plans::PlanId;
use crate::scope::{Budget, Ms};

/// The whole state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub procs: [Proc; 3],
    pub members: [Member; 3],
    pub leader: u8,
    pub term: u8,
    pub nospace: bool,
    /// Calls that were sent and did not arrive yet.
    pub flights: Vec<Call>,
    pub budget: Budget,
}

/// One janitor's process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Proc {
    /// None: it is not running.
    pub plan: Option<PlanId>,
    pub epoch: u8,
    pub paused: bool,
    /// Its `Defragment` left, and the answer is awaited.
    pub waits: bool,
    /// The answer `done` is there and was not read yet.
    pub answered: bool,
    /// Who led when its newest look was taken.
    pub saw_leader: u8,
    /// Somebody else began a defrag since.
    pub overtaken: bool,
    /// The member that it does not reach.
    pub cut: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Member {
    /// Open `Defragment` calls, in the order of arrival. The first one runs.
    pub open: Vec<Open>,
    pub count: u8,
    pub start: u8,
    /// It was defragmented.
    pub small: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Open {
    Janitor(Call),
    Operator,
}

/// A janitor's `Defragment`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Call {
    pub by: u8,
    /// Which start of it.
    pub epoch: u8,
    /// Its sender has given it up.
    pub given_up: bool,
    pub to: u8,
    /// From the beginning of the look until now, or until it arrived.
    pub age: Ms,
    /// The member led when that look was taken.
    pub led: bool,
    /// Somebody else began a defrag after it.
    pub overtaken: bool,
}

impl Member {
    /// Answers requests. Its metrics it answers all the time.
    pub fn serves(&self) -> bool {
        self.open.is_empty()
    }
}

impl Proc {
    pub fn new(plan: PlanId) -> Self {
        Proc {
            plan: Some(plan),
            epoch: 0,
            paused: false,
            waits: false,
            answered: false,
            saw_leader: 0,
            overtaken: false,
            cut: None,
        }
    }

    pub fn runs(&self) -> Option<PlanId> {
        self.plan.filter(|_| !self.paused)
    }
}

impl World {
    pub fn new(procs: [Proc; 3], budget: Budget) -> Self {
        let member = Member { open: Vec::new(), count: 0, start: 0, small: false };
        World {
            procs,
            members: [member.clone(), member.clone(), member],
            leader: 0,
            term: 0,
            nospace: true,
            flights: Vec::new(),
            budget,
        }
    }

    pub fn lead(&mut self, leader: u8) {
        self.leader = leader;
        self.term += 1;
    }

    /// The calls of janitors that are open.
    pub fn open_calls(&self) -> impl Iterator<Item = &Call> + '_ {
        self.members.iter().flat_map(|member| &member.open).filter_map(|open| match open {
            Open::Janitor(call) => Some(call),
            Open::Operator => None,
        })
    }

    /// Whether its call is neither on its way nor open: nobody will answer it.
    pub fn is_lost(&self, janitor: u8) -> bool {
        let proc = &self.procs[usize::from(janitor)];
        let its = |call: &Call| call.by == janitor && call.epoch == proc.epoch && !call.given_up;
        proc.waits && !proc.answered && !self.flights.iter().any(its) && !self.open_calls().any(its)
    }

    /// The janitors' calls that are open while two members have open calls.
    pub fn overlap(&self) -> Option<Vec<Call>> {
        let busy = self.members.iter().filter(|member| !member.open.is_empty()).count();
        let calls: Vec<Call> = self.open_calls().copied().collect();
        (busy > 1 && !calls.is_empty()).then_some(calls)
    }
}
