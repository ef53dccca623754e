//! What a simulated world is made of before anything happens in it.

use std::time::Duration;

use etcd_janitor::plan::rule::{Figures, Quota, Rule};
use etcd_janitor::plan::step::Policy;

use super::rng::Rng;

/// The one place where a rule is made.
pub fn rule() -> Rule {
    Rule::parse("dbSizeInUse < dbSize / 2").expect("a rule")
}

/// Whether a member of these sizes has work by [`rule`].
pub fn needs(db_size: u64, db_size_in_use: u64) -> bool {
    rule().evaluate(&Figures { db_size, db_size_in_use, quota: Quota::Bytes(QUOTA) }).unwrap()
}

/// Quota of every member.
pub const QUOTA: u64 = 8 << 30;

/// An error planted in the executor or in the model, to prove that the judge would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The call is sent without asking the permit.
    PermitIgnored,
    /// Looks show members in mid-defrag as if nothing were going on.
    OpenDefragsHidden,
    /// Looks do not show intents of others.
    ForeignIntentsHidden,
    /// An intent is written over another, and looks do not show those of others.
    IntentOverwritten,
    /// Renewals are answered and not carried out.
    LeasesNotRenewed,
    /// Leaving is answered and not carried out.
    LeaveIgnored,
    /// An intent without owner counts as settled after a second instead of one `lease_ttl`.
    SettledAtOnce,
    /// A look claims to have begun when it ended.
    LookPostdated,
    /// The queue is shown with the reader's own key first.
    QueueJumped,
    /// A settled intent stays where it is.
    IntentKept,
    /// Looks do not show recorded outcomes.
    OutcomesHidden,
    /// Every member says that another one leads.
    LeaderHidden,
    /// Members that do not answer look well.
    DeadLookWell,
    /// Holds are not shown.
    HoldHidden,
    /// Nobody waits after an election or a change of membership.
    Unsettled,
    /// The permit is asked by the monotonic clock alone.
    PermitWithoutWall,
    /// Renewals get no answer, and a lease is believed to live for an hour.
    LeaseTrusted,
    /// The transaction that writes an intent does not compare the turn.
    TurnNotCompared,
    /// The transaction that writes an intent does not compare the hold.
    HoldNotCompared,
    /// The local member always looks as its intent says.
    TargetUnchanged,
    /// Looks do not show an intent that was written without its writer being told.
    LateIntentsHidden,
    /// Member lists are taken for agreed on.
    ListsTrusted,
    /// Rounds go on after their window.
    WindowIgnored,
    /// Nobody is told to stop.
    QuiesceIgnored,
    /// Looks show no open Snapshot.
    SnapshotsHidden,
    /// Looks do not show CORRUPT.
    CorruptHidden,
    /// Looks do not show NOSPACE.
    NospaceHidden,
    /// Every member keeps up.
    LagHidden,
    /// Everybody votes.
    LearnersHidden,
    /// All members know who leads.
    DisagreementHidden,
    /// Looks show every other member as one that a rescue has nothing to do on: each janitor takes its own for the next.
    OthersLookDone,
}

impl Mutant {
    pub const ALL: &'static [Mutant] = &[
        Mutant::PermitIgnored,
        Mutant::OpenDefragsHidden,
        Mutant::ForeignIntentsHidden,
        Mutant::IntentOverwritten,
        Mutant::LeasesNotRenewed,
        Mutant::LeaveIgnored,
        Mutant::SettledAtOnce,
        Mutant::LookPostdated,
        Mutant::QueueJumped,
        Mutant::IntentKept,
        Mutant::OutcomesHidden,
        Mutant::LeaderHidden,
        Mutant::DeadLookWell,
        Mutant::HoldHidden,
        Mutant::Unsettled,
        Mutant::OthersLookDone,
        Mutant::PermitWithoutWall,
        Mutant::LeaseTrusted,
        Mutant::TurnNotCompared,
        Mutant::HoldNotCompared,
        Mutant::TargetUnchanged,
        Mutant::LateIntentsHidden,
        Mutant::ListsTrusted,
        Mutant::WindowIgnored,
        Mutant::QuiesceIgnored,
        Mutant::SnapshotsHidden,
        Mutant::CorruptHidden,
        Mutant::NospaceHidden,
        Mutant::LagHidden,
        Mutant::LearnersHidden,
        Mutant::DisagreementHidden,
    ];
}

/// Why nothing may be sent in a world at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forbidden {
    DryRun,
    SmallCluster,
    UnsafeVersion,
    LivenessBudget,
    DiskFull,
}

/// One janitor's schedule, or its time zone, is not the others'.
#[derive(Debug, Clone, Copy)]
pub struct OtherSchedule {
    pub janitor: usize,
    /// Seconds after the others.
    pub shift: u64,
    /// So many firings while the others have one.
    pub times: u64,
}

/// One world.
#[derive(Debug, Clone)]
pub struct Setup {
    pub seed: u64,
    pub voters: usize,
    pub learners: usize,
    /// Members that may be added.
    pub spares: usize,
    pub other_schedule: Option<OtherSchedule>,
    pub policy: Policy,
    /// What etcd grants, whatever the policy says.
    pub ttl: Duration,
    pub version: &'static str,
    pub jitter: Duration,
    /// Seconds between two firings.
    pub period: u64,
    /// How many firings happen under faults.
    pub rounds_with_faults: u64,
    /// How many happen after everything was healed.
    pub rounds_healed: u64,
    /// How long a defrag takes, in milliseconds.
    pub defrag_ms: (u64, u64),
    /// Files are as big after a defrag as before: writes go on, and the rule always says yes.
    pub churning: bool,
    pub forbidden: Option<Forbidden>,
    /// The window is so short that not everybody can be done in it.
    pub tight: bool,
    /// Every answer to a `Defragment` is lost.
    pub lose_answers: bool,
    /// So many writes of intents are applied after their sender was told nothing.
    pub late_intents: u32,
    pub mutant: Option<Mutant>,
}

impl Setup {
    /// No faults, `voters` members, one firing after a minute.
    pub fn calm(voters: usize) -> Self {
        let policy = Policy {
            dry_run: false,
            rule: rule(),
            quota: None,
            window: Duration::from_secs(3600),
            still_for: Duration::from_secs(10),
            settled_for: Duration::from_secs(10),
            retry_every: Duration::from_secs(30),
            leader_head_start: Duration::from_secs(30),
            leader_wait: Duration::from_secs(1200),
            drain: Duration::ZERO,
            pause_between: Duration::from_secs(10),
            timeout: Duration::from_secs(600),
            request_timeout: Duration::from_secs(5),
            lease_ttl: Duration::from_secs(60),
            allow_small_cluster: true,
            allow_unsafe_versions: false,
            liveness_budget: None,
            recorded: Default::default(),
            verify_hash: false,
            disarm_below: 0.9,
            rescue: false,
        };
        Setup {
            seed: 1,
            voters,
            learners: 0,
            spares: 0,
            other_schedule: None,
            ttl: policy.lease_ttl,
            policy,
            version: "3.5.30",
            jitter: Duration::ZERO,
            period: 5400,
            rounds_with_faults: 0,
            rounds_healed: 1,
            defrag_ms: (2_000, 20_000),
            churning: false,
            forbidden: None,
            tight: false,
            lose_answers: false,
            late_intents: 0,
            mutant: None,
        }
    }

    /// The world of a seed.
    pub fn random(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5E7);
        let voters = rng.pick(&[1, 2, 2, 3, 3, 3, 3, 3, 3, 4, 5, 5, 5, 6, 7]);
        let mut setup = Setup::calm(voters);
        setup.seed = seed;
        // Every eighth world has no faults: there, turns must not be lost and rounds must leave nothing behind.
        setup.rounds_with_faults = if seed.is_multiple_of(8) { 0 } else { rng.within(3, 4) };
        setup.rounds_healed = 2;
        setup.ttl = Duration::from_secs(rng.pick(&[10, 15, 20, 30, 60]));
        setup.learners = usize::from(voters > 2 && rng.per_mille(200));
        setup.spares = if voters > 1 { rng.within(0, 2) as usize } else { 0 };
        if rng.per_mille(200) {
            let times = rng.pick(&[1, 1, 2, 3]);
            // Its rounds must end before the next one, and leave time for everybody.
            let shifts: &[u64] = if times == 1 { &[1, 7, 30, 300, 1_200, 1_800, 3_600] } else { &[0, 1, 7, 30] };
            setup.other_schedule = Some(OtherSchedule { janitor: rng.index(voters), shift: rng.pick(shifts), times });
        }
        setup.churning = rng.per_mille(500);
        setup.jitter = Duration::from_secs(rng.pick(&[0, 0, 5, 40]));
        setup.defrag_ms = rng.pick(&[(200, 900), (1_000, 8_000), (3_000, 40_000)]);
        let policy = &mut setup.policy;
        policy.lease_ttl = setup.ttl;
        policy.still_for = Duration::from_secs(rng.pick(&[2, 10]));
        policy.retry_every = Duration::from_secs(rng.pick(&[10, 30]));
        policy.leader_head_start = Duration::from_secs(rng.pick(&[10, 30]));
        policy.leader_wait = Duration::from_secs(rng.pick(&[120, 600, 1500]));
        policy.drain = Duration::from_secs(rng.pick(&[0, 0, 3]));
        policy.pause_between = Duration::from_secs(rng.pick(&[0, 2, 10]));
        policy.timeout = Duration::from_secs(rng.pick(&[5, 60, 600]));
        policy.request_timeout = Duration::from_secs(rng.pick(&[1, 2, 3]));
        policy.verify_hash = rng.per_mille(300);
        if rng.per_mille(250) {
            setup.tight = true;
            policy.window = Duration::from_millis(rng.within(20_000, 240_000));
        }
        if rng.per_mille(80) {
            setup.forbid(rng.pick(&[
                Forbidden::DryRun,
                Forbidden::SmallCluster,
                Forbidden::UnsafeVersion,
                Forbidden::LivenessBudget,
                Forbidden::DiskFull,
            ]));
        }
        if voters < 3 && setup.forbidden.is_none() && rng.per_mille(100) {
            setup.forbid(Forbidden::SmallCluster);
        }
        // Everybody's round ends before the next one is due.
        let (shift, times) = setup.other_schedule.map_or((0, 1), |other| (other.shift, other.times));
        setup.policy.window = setup.policy.window.min(Duration::from_secs(setup.period / times - shift - 120));
        // Files that are always full are never rescued.
        setup.policy.rescue = !setup.churning && rng.per_mille(400);
        setup
    }

    fn forbid(&mut self, forbidden: Forbidden) {
        match forbidden {
            Forbidden::DryRun => self.policy.dry_run = true,
            Forbidden::SmallCluster if self.voters > 2 => return,
            Forbidden::SmallCluster => {
                self.policy.allow_small_cluster = false;
                // Nor may it grow into a large one.
                self.spares = 0;
            }
            Forbidden::UnsafeVersion => self.version = "3.5.4",
            // Shown by every look.
            Forbidden::DiskFull => {}
            Forbidden::LivenessBudget => self.policy.liveness_budget = Some(Duration::from_millis(1)),
        }
        self.forbidden = Some(forbidden);
    }

    /// The same world with an error in it.
    pub fn with(mut self, mutant: Mutant) -> Self {
        if mutant == Mutant::SettledAtOnce {
            self.policy.lease_ttl = Duration::from_secs(1);
        }
        if mutant == Mutant::LateIntentsHidden {
            self.late_intents = 2;
        }
        if mutant == Mutant::Unsettled {
            self.policy.settled_for = Duration::ZERO;
        }
        self.mutant = Some(mutant);
        self
    }
}
