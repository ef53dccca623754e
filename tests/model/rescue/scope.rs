//! What a run covers: how much may go wrong, what is assumed, what is broken on purpose.

use etcd_janitor::plan::rescue::STILL_FOR;
use etcd_janitor::plan::step::Policy;

use crate::scope::{self, Budget, Ms};

/// A protection taken away, to show that the checker would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// To each janitor the other members look as if they were done.
    OthersLookDone,
    /// Looks show members in their defrag as if nothing were going on.
    DefragsHidden,
    /// Members that do not answer look well.
    SilentLookWell,
    /// Every janitor is told that the next member leads.
    LeaderHidden,
    /// The call leaves without its permit being asked.
    NoPermit,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Janitors that are not there at all.
    pub absent: [bool; 3],
    pub budget: Budget,
    /// The assumption: a call reaches its member within this long of the beginning of its look. None: whenever.
    pub arrives_within: Option<Ms>,
    /// The assumption: nobody else starts a defrag between a janitor's look and the end of its call.
    pub others_stand_back: bool,
    pub mutants: Vec<Mutant>,
}

impl Scope {
    pub fn new(budget: Budget) -> Self {
        Scope {
            absent: [false; 3],
            budget,
            arrives_within: Some(arrives_within()),
            others_stand_back: true,
            mutants: Vec::new(),
        }
    }

    pub fn has(&self, mutant: Mutant) -> bool {
        self.mutants.contains(&mutant)
    }

    /// As for rounds, and with rescues.
    pub fn policy(&self) -> Policy {
        let of_rounds = scope::Scope::new([false; 3], Budget::NONE).policy();
        Policy { rescue: true, ..of_rounds }
    }
}

/// The longest time from the beginning of the look to the call's arrival for which exclusion is claimed: what comes next
/// must have been the same for this long before anybody else sends, less the second that a look may take.
pub fn arrives_within() -> Ms {
    u32::try_from(STILL_FOR.as_millis()).expect("seconds") - 1_000
}
