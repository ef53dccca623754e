//! What a run has seen: the report at its end, and the proof that nothing went untried.

use std::collections::BTreeMap;
use std::fmt;

use etcd_janitor::plan::reason::{Outcome, Reason};

/// Everything that goes wrong in a simulated cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    JanitorCrash,
    JanitorPause,
    JanitorPauseBeyondTtl,
    /// The whole machine: its monotonic clock stands still, its wall clock does not.
    Suspended,
    /// Between the permit's check and the arrival of the call: the window that no lock can close.
    PauseInTheWindow,
    JanitorMissing,
    TwoJanitorsMissing,
    Quiesce,
    MemberCrash,
    MemberPause,
    MemberRemoved,
    LeaderRemoved,
    MemberAdded,
    MemberReplaced,
    Learner,
    LearnerPromoted,
    Partition,
    /// Requests arrive, answers do not.
    OneWayPartition,
    /// For longer than a change takes to reach everybody.
    ListsDiffer,
    /// A member that the others do not hear, and that answers its clients.
    MembersCutApart,
    LeaderChange,
    BusyMemberElected,
    SlowDefrag,
    ForeignDefrag,
    /// A second one on the same member, which etcd queues.
    QueuedDefrag,
    SnapshotOpen,
    MemberLagging,
    CallRefused,
    RequestLost,
    AnswerLost,
    AppliedLate,
    RevokeLost,
    DefragAnswerLost,
    LeaseRevoked,
    LeaseExpired,
    HoldSet,
    HoldExpired,
    WallJump,
    Jitter,
    /// One janitor's schedule, or its time zone, is another.
    OtherSchedule,
    /// It fires twice or thrice as often as the others.
    OtherPeriod,
    MissedFiring,
    Nospace,
    Corrupt,
}

impl Fault {
    pub const ALL: &'static [Fault] = &[
        Fault::JanitorCrash,
        Fault::JanitorPause,
        Fault::JanitorPauseBeyondTtl,
        Fault::Suspended,
        Fault::PauseInTheWindow,
        Fault::JanitorMissing,
        Fault::TwoJanitorsMissing,
        Fault::Quiesce,
        Fault::MemberCrash,
        Fault::MemberPause,
        Fault::MemberRemoved,
        Fault::LeaderRemoved,
        Fault::MemberAdded,
        Fault::MemberReplaced,
        Fault::Learner,
        Fault::LearnerPromoted,
        Fault::Partition,
        Fault::OneWayPartition,
        Fault::ListsDiffer,
        Fault::MembersCutApart,
        Fault::LeaderChange,
        Fault::BusyMemberElected,
        Fault::SlowDefrag,
        Fault::ForeignDefrag,
        Fault::QueuedDefrag,
        Fault::SnapshotOpen,
        Fault::MemberLagging,
        Fault::CallRefused,
        Fault::RequestLost,
        Fault::AnswerLost,
        Fault::AppliedLate,
        Fault::RevokeLost,
        Fault::DefragAnswerLost,
        Fault::LeaseRevoked,
        Fault::LeaseExpired,
        Fault::HoldSet,
        Fault::HoldExpired,
        Fault::WallJump,
        Fault::Jitter,
        Fault::OtherSchedule,
        Fault::OtherPeriod,
        Fault::MissedFiring,
        Fault::Nospace,
        Fault::Corrupt,
    ];
}

/// Reasons that no plan gives: they belong to the daemon (`disabled`) or to a rule that cannot be evaluated, which a
/// valid configuration does not let through.
pub const NOT_SIMULATED: &[Reason] = &[Reason::Disabled, Reason::ConfigInvalid];

/// Counts of one run, or of many.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub worlds: u64,
    pub events: u64,
    pub virtual_seconds: u64,
    pub rounds: u64,
    pub defrags: u64,
    pub turns_lost: u64,
    pub adopted: u64,
    pub faults: BTreeMap<Fault, u64>,
    pub reasons: BTreeMap<Reason, u64>,
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Overlaps and other oddities with an explanation that the design accepts.
    pub explained: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub fn fault(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    pub fn reason(&mut self, reason: Reason) {
        *self.reasons.entry(reason).or_default() += 1;
    }

    pub fn outcome(&mut self, outcome: Outcome) {
        *self.outcomes.entry(outcome.name()).or_default() += 1;
        if let Outcome::Skipped(reason) = outcome {
            self.reason(reason);
        }
    }

    pub fn explain(&mut self, what: &'static str) {
        *self.explained.entry(what).or_default() += 1;
    }

    pub fn add(&mut self, other: &Tally) {
        self.worlds += other.worlds;
        self.events += other.events;
        self.virtual_seconds += other.virtual_seconds;
        self.rounds += other.rounds;
        self.defrags += other.defrags;
        self.turns_lost += other.turns_lost;
        self.adopted += other.adopted;
        merge(&mut self.faults, &other.faults);
        merge(&mut self.reasons, &other.reasons);
        merge(&mut self.outcomes, &other.outcomes);
        merge(&mut self.explained, &other.explained);
    }

    /// What was tried less often than `times`, and reasons that never came up.
    pub fn untried(&self, times: u64) -> Vec<String> {
        let rare = Fault::ALL.iter().filter_map(|fault| {
            let count = self.faults.get(fault).copied().unwrap_or(0);
            (count < times).then(|| format!("{fault:?} only {count} times"))
        });
        let unseen = Reason::ALL
            .iter()
            .filter(|reason| !NOT_SIMULATED.contains(reason) && !self.reasons.contains_key(reason))
            .map(|reason| format!("reason {reason} never"));
        rare.chain(unseen).collect()
    }
}

fn merge<K: Ord + Copy>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, count) in from {
        *into.entry(*key).or_default() += count;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} worlds, {} events, {:.1} virtual days, {} rounds, {} defrags, {} turns lost, {} intents adopted",
            self.worlds,
            self.events,
            self.virtual_seconds as f64 / 86_400.0,
            self.rounds,
            self.defrags,
            self.turns_lost,
            self.adopted
        )?;
        line(f, "outcomes", self.outcomes.iter().map(|(name, count)| format!("{name} {count}")))?;
        line(f, "faults", self.faults.iter().map(|(fault, count)| format!("{fault:?} {count}")))?;
        line(f, "reasons", self.reasons.iter().map(|(reason, count)| format!("{reason} {count}")))?;
        line(f, "explained", self.explained.iter().map(|(what, count)| format!("{what}: {count}")))
    }
}

fn line(f: &mut fmt::Formatter<'_>, title: &str, items: impl Iterator<Item = String>) -> fmt::Result {
    writeln!(f, "{title}: {}", items.collect::<Vec<_>>().join(", "))
}
