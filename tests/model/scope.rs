//! What a run of the checker covers: who has work, how much may go wrong, what is assumed, what is broken on purpose.

use std::time::Duration;

use etcd_janitor::plan::rule::Rule;
use etcd_janitor::plan::step::Policy;

/// Milliseconds.
pub type Ms = u32;

/// Time to live of the lease under a turn, and so how long a resolver waits. The configuration allows 5 s and more.
pub const TTL: Ms = 6_000;

/// What may go wrong, each so many times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A janitor's process ends; it may come back.
    Crash,
    /// A janitor's process stands still.
    Pause,
    /// A request or its answer is lost.
    Lost,
    /// A request is carried out after its sender was told that nobody answers.
    Late,
    /// Another member is elected.
    Election,
    /// A member's process restarts.
    MemberRestart,
    /// Somebody else sends a `Defragment`.
    Operator,
    /// A janitor stops reaching one of the other members.
    Cut,
    /// A lease ends before its time.
    LeaseLost,
}

pub const FAULTS: [Fault; 9] = [
    Fault::Crash,
    Fault::Pause,
    Fault::Lost,
    Fault::Late,
    Fault::Election,
    Fault::MemberRestart,
    Fault::Operator,
    Fault::Cut,
    Fault::LeaseLost,
];

/// How many faults are left, of each kind and in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budget {
    each: [u8; 9],
    total: u8,
}

impl Budget {
    pub const NONE: Budget = Budget { each: [0; 9], total: 0 };

    pub fn new(total: u8, faults: &[(Fault, u8)]) -> Self {
        let mut each = [0; 9];
        for (fault, times) in faults {
            each[*fault as usize] = *times;
        }
        Budget { each, total }
    }

    pub fn allows(&self, fault: Fault) -> bool {
        self.total > 0 && self.each[fault as usize] > 0
    }

    pub fn spend(&mut self, fault: Fault) {
        self.each[fault as usize] -= 1;
        self.total -= 1;
        // What is left of each kind means nothing any more, and would only keep equal worlds apart.
        if self.total == 0 {
            self.each = [0; 9];
        }
    }
}

/// A protection taken away, to show that the checker would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Every look shows the reader's own key at the head of the queue.
    NoTurn,
    /// Looks do not show the intents of others, and the transaction writes over them.
    NoIntent,
    /// The last look says that all is well, without looking.
    NoLastLook,
    /// The call leaves without its permit being asked.
    NoPermit,
    /// An intent without owner counts as settled at once, not after one `lease_ttl`.
    SettledAtOnce,
    /// Looks show members in their defrag as if nothing were going on.
    DefragsHidden,
    /// Members that do not answer look well.
    SilentLookWell,
    /// Every member says that another one leads.
    LeaderHidden,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Which janitors have a round. The others stand by and resolve intents.
    pub working: [bool; 3],
    /// Janitors that are not there at all.
    pub absent: [bool; 3],
    pub budget: Budget,
    /// The assumption: a call reaches its member within this long of the beginning of its last look. None: whenever.
    pub arrives_within: Option<Ms>,
    /// The assumption: nobody else starts a defrag between a janitor's last look and the end of its call.
    pub others_stand_back: bool,
    /// Looks after intents take long: the members are read first, the records some time later.
    pub slow_resolvers: bool,
    pub mutants: Vec<Mutant>,
}

/// m0 leads and its janitor stands by, m1 and m2 have work.
pub const TWO_WORK: [bool; 3] = [false, true, true];
/// Only m1 has work.
pub const ONE_WORKS: [bool; 3] = [false, true, false];
/// The leader has work, too.
pub const ALL_WORK: [bool; 3] = [true, true, true];

impl Scope {
    pub fn new(working: [bool; 3], budget: Budget) -> Self {
        Scope {
            working,
            absent: [false; 3],
            budget,
            arrives_within: Some(ARRIVES_WITHIN),
            others_stand_back: true,
            slow_resolvers: false,
            mutants: Vec::new(),
        }
    }

    /// The two members with work, and nobody to stand by.
    pub fn pair(budget: Budget) -> Self {
        Scope { absent: [true, false, false], ..Scope::new(TWO_WORK, budget) }
    }

    pub fn without(mut self, mutants: &[Mutant]) -> Self {
        self.mutants = mutants.to_vec();
        self
    }

    /// Calls may arrive whenever they like.
    pub fn unbounded(self) -> Self {
        Scope { arrives_within: None, ..self }
    }

    /// Others start defrags whenever they like.
    pub fn reckless(self) -> Self {
        Scope { others_stand_back: false, ..self }
    }

    pub fn has(&self, mutant: Mutant) -> bool {
        self.mutants.contains(&mutant)
    }

    /// What janitors are configured with: everything that only takes time is zero.
    pub fn policy(&self) -> Policy {
        Policy {
            dry_run: false,
            rule: Rule::parse("dbSizeInUse < dbSize / 2").expect("a rule"),
            quota: None,
            window: Duration::from_secs(1_000_000),
            still_for: Duration::ZERO,
            settled_for: Duration::ZERO,
            retry_every: Duration::from_secs(2),
            leader_head_start: Duration::ZERO,
            leader_wait: Duration::ZERO,
            drain: Duration::ZERO,
            pause_between: Duration::ZERO,
            timeout: Duration::from_secs(600),
            request_timeout: Duration::from_secs(2),
            lease_ttl: Duration::from_millis(u64::from(TTL)),
            allow_small_cluster: false,
            allow_unsafe_versions: false,
            liveness_budget: None,
            recorded: Default::default(),
            verify_hash: false,
            disarm_below: 0.9,
            rescue: false,
        }
    }

    /// The same for a janitor that has no round and only resolves.
    pub fn policy_of_resolver(&self) -> Policy {
        let lease_ttl = if self.has(Mutant::SettledAtOnce) { Duration::ZERO } else { self.policy().lease_ttl };
        Policy { lease_ttl, ..self.policy() }
    }
}

/// The longest time from the beginning of the last look to the call's arrival for which exclusion is claimed: one
/// `lease_ttl` without the second that a look may take. Nobody clears an intent earlier after its owner was seen in the
/// queue.
pub const ARRIVES_WITHIN: Ms = TTL - 1_000;
