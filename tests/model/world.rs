//! The state that is explored: three members, three janitors, and what is on its way between them.

use etcd_janitor::plan::reason::Outcome;

use super::plans::PlanId;
use super::scope::{Budget, Ms, TTL};
use super::seen::Seen;

/// A key that a janitor made: one place in the queue, or one intent. Also its revision and its lease, of which the plan
/// asks only whether they are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Made {
    /// Whose janitor, and so whose member.
    pub by: u8,
    /// Which start of it.
    pub epoch: u8,
    /// Which of its keys.
    pub serial: u8,
}

impl Made {
    pub fn number(self) -> i64 {
        1000 * (i64::from(self.by) + 1) + 10 * i64::from(self.epoch) + i64::from(self.serial)
    }

    /// The key with this number.
    pub fn of(number: i64) -> Self {
        let digit = |number: i64| u8::try_from(number).expect("a small number");
        Made { by: digit(number / 1000 - 1), epoch: digit(number % 1000 / 10), serial: digit(number % 10) }
    }
}

/// The whole state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub procs: [Proc; 3],
    pub etcd: Etcd,
    /// Calls that were sent and did not arrive yet.
    pub flights: Vec<Call>,
    /// Transactions that will be carried out though their sender was told that nobody answers.
    pub late: Vec<Late>,
    pub budget: Budget,
}

/// One janitor's process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Proc {
    /// None: it is not running.
    pub plan: Option<PlanId>,
    pub epoch: u8,
    /// Of the next key that it makes. Eight are told apart.
    pub serial: u8,
    pub paused: bool,
    /// The intent under which its `Defragment` left, while the answer is awaited.
    pub sent: Option<Made>,
    /// The answer `done` is there and was not read yet.
    pub answered: bool,
    /// Its member led when its newest look was taken.
    pub led: bool,
    /// Somebody else began a defrag since.
    pub overtaken: bool,
    pub half: Option<Half>,
    /// The member that it does not reach.
    pub cut: Option<u8>,
}

/// A look of which the members were read, and the records were not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Half {
    /// The action's place among those under way.
    pub place: u8,
    pub members: Seen,
    pub age: Ms,
}

/// What the members agree on, and each for itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Etcd {
    /// In the order of creation: the first is the holder.
    pub queue: Vec<Place>,
    pub intent: Option<Intent>,
    pub outcomes: [Option<Recorded>; 3],
    pub leader: u8,
    pub term: u8,
    pub members: [Member; 3],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    pub made: Made,
    /// How long its lease lives from now.
    pub left: Ms,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Intent {
    pub made: Made,
    /// The target's count of finished defrags, and which start of its process.
    pub count: u8,
    pub start: u8,
}

/// An outcome, and who put it on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Recorded {
    pub outcome: Outcome,
    pub by: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    /// The janitor that sent.
    Owner,
    /// A later start of it.
    Adopted,
    /// Another member's janitor.
    Another,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Member {
    /// Open `Defragment` calls, in the order of arrival. The first one runs.
    pub open: Vec<Open>,
    pub count: u8,
    pub start: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Open {
    Janitor(Call),
    Operator,
}

/// A janitor's `Defragment`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Call {
    pub intent: Made,
    /// From the beginning of the last look until now, or until it arrived.
    pub age: Ms,
    /// The member led when the last look was taken.
    pub led: bool,
    /// Somebody else began a defrag after that look.
    pub overtaken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Late {
    Intent { intent: Intent, turn: Option<i64> },
    Settle { made: Option<i64>, record: Option<(u8, Outcome)>, by: u8, epoch: u8, owner: bool },
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
            serial: 0,
            paused: false,
            sent: None,
            answered: false,
            led: false,
            overtaken: false,
            half: None,
            cut: None,
        }
    }

    pub fn runs(&self) -> Option<PlanId> {
        self.plan.filter(|_| !self.paused)
    }

    /// A name for the next key.
    pub fn make(&mut self, by: usize) -> Made {
        let made = Made { by: by as u8, epoch: self.epoch, serial: self.serial };
        self.serial = (self.serial + 1) % 8;
        made
    }
}

impl Etcd {
    pub fn new() -> Self {
        let member = Member { open: Vec::new(), count: 0, start: 0 };
        Etcd {
            queue: Vec::new(),
            intent: None,
            outcomes: [None; 3],
            leader: 0,
            term: 0,
            members: [member.clone(), member.clone(), member],
        }
    }

    /// The leader answers renewals, and does not while it is defragmented.
    pub fn renews(&self) -> bool {
        self.members[self.leader as usize].serves()
    }

    /// A new leader gives every lease its whole time again.
    pub fn lead(&mut self, leader: u8) {
        self.leader = leader;
        self.term += 1;
        for place in &mut self.queue {
            place.left = TTL;
        }
    }

    pub fn write_intent(&mut self, intent: Intent, turn: Option<i64>, over: bool) -> bool {
        let ours = turn.is_none_or(|turn| self.queue.iter().any(|place| place.made.number() == turn));
        let written = ours && (over || self.intent.is_none());
        if written {
            self.intent = Some(intent);
        }
        written
    }

    /// Records an outcome and clears the intent, if it still is the one that was meant.
    pub fn settle(&mut self, made: Option<i64>, record: Option<(u8, Outcome)>, by: u8, epoch: u8, owner: bool) {
        let stands = self.intent.filter(|intent| Some(intent.made.number()) == made);
        if let Some((member, outcome)) = record
            && (owner || stands.is_some())
        {
            let recorded = &mut self.outcomes[member as usize];
            let says_nothing = matches!(outcome, Outcome::Skipped(_) | Outcome::Unknown) && recorded.is_some();
            let whose = match stands.map(|intent| intent.made) {
                _ if owner => By::Owner,
                Some(made) if made.by == by && made.epoch != epoch => By::Adopted,
                _ => By::Another,
            };
            if !says_nothing {
                *recorded = Some(Recorded { outcome, by: whose });
            }
        }
        if stands.is_some() {
            self.intent = None;
        }
    }
}
