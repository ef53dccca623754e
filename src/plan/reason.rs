//! Why something was not done: the closed list, which is also a metric label, and how a run ended.

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($variant:ident $name:literal $meaning:literal $remedy:literal;)*) => {
        /// Why a run, or one step of it, did not happen.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Reason {
            $(#[doc = $meaning] $variant,)*
        }

        impl Reason {
            /// Every reason, in the order of the design.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant),*];

            /// The name used in metrics, records, logs and documents.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)* }
            }

            /// One sentence for people.
            pub const fn meaning(self) -> &'static str {
                match self { $(Reason::$variant => $meaning,)* }
            }

            /// What to do about it, as one sentence.
            pub const fn remedy(self) -> &'static str {
                match self { $(Reason::$variant => $remedy,)* }
            }
        }
    };
}

reasons! {
    Disabled "disabled" "The task is switched off in the configuration."
        "Set `compaction.enabled` or `defrag.enabled` to true if that was not meant.";
    DryRun "dry_run" "`dry_run` is on: everything was decided and nothing was sent."
        "Set `dry_run: false` to have it sent.";
    NotNeeded "not_needed" "The rule says that a defrag would not pay, or there was nothing to compact."
        "Nothing; `etcd-janitor explain` shows the rule with its numbers.";
    Hold "hold" "An operator holds all maintenance of the cluster."
        "`etcd-janitor release` ends the hold, or it ends by itself.";
    Quiesced "quiesced" "This janitor was told to start nothing new, or is stopping."
        "Restart this janitor to have it take part again.";
    WindowOver "window_over" "The round's window ended before it could start."
        "See the reason before it; a longer `defrag.window` gives more time.";
    NoLeader "no_leader" "The members know no leader."
        "Restore the quorum: look at the members' logs and at the network between them.";
    LeaderDisagreement "leader_disagreement" "The members do not agree on leader and term."
        "Wait for the election to end; if it does not, look at the network between the members.";
    LeaderNotMoved "leader_not_moved" "The local member leads and leadership could not be moved away."
        "Look at the other voters: leadership needs a healthy one to go to; or move it with `etcdctl move-leader`.";
    MemberDown "member_down" "A member does not answer, or its metrics cannot be read."
        "Bring the member back; if only its address or /metrics is not reached from here, set `etcd.peers` or `etcd.metrics`.";
    MemberLagging "member_lagging" "A member is behind in applying what was committed."
        "Wait; if it stays behind, look at the member's disk and network.";
    MemberChanged "member_changed" "The member list changed, or members do not agree on it."
        "Wait until the change of membership is over.";
    LeaderChanged "leader_changed" "Leadership or term changed a moment ago."
        "Wait: ten seconds of calm are asked for after an election.";
    Learner "learner" "The local member is a learner, which refuses a defrag."
        "Promote the learner when it has caught up.";
    SmallCluster "small_cluster" "The cluster has one or two voters: a defrag can cost the quorum."
        "Set `defrag.small_cluster: allow` if a pause of all writes is acceptable.";
    Corrupt "corrupt" "The CORRUPT alarm is up."
        "Find the member whose data differ and replace it; nothing is maintained until then.";
    Nospace "nospace" "The NOSPACE alarm is up: etcd refuses the lease that a turn needs."
        "The rescue works on it, and RESCUE in `etcd-janitor status` says what it waits for; with `alarms.rescue: false` or in a dry run nobody does.";
    UnsafeVersion "unsafe_version" "The member's etcd release has a known defect that a defrag can trigger."
        "Upgrade etcd, or set `defrag.unsafe_versions: allow`.";
    DiskSpace "disk_space" "The volume has not enough free space for the copy that a defrag writes."
        "Make room on the volume, or mend `defrag.data_dir`.";
    LivenessBudget "liveness_budget" "The defrag is forecast to outlast etcd's liveness probe."
        "Give etcd's liveness probe more time and raise `defrag.liveness_budget`, or point the probe at `/etcd/livez` and set 0s.";
    SnapshotOpen "snapshot_open" "A snapshot is being streamed from a member; a defrag would block behind it."
        "Wait until the snapshot (a backup, or a member that joins) has ended.";
    ForeignDefrag "foreign_defrag" "A member is being defragmented by somebody else."
        "Wait; find out who else defragments this cluster and switch it off.";
    IntentOpen "intent_open" "An earlier defrag's outcome is not resolved yet."
        "Wait: any janitor settles it within `turn.lease_ttl` once the member answers.";
    TurnTimeout "turn_timeout" "The turn was not reached, or was lost."
        "See who has the turn; a longer `defrag.window` or shorter `defrag.pause_between` lets more members in.";
    WrongMember "wrong_member" "An address answers for another member than the one expected."
        "Set `etcd.endpoint` to the local member's own address, and `etcd.member_name` to its name.";
    EtcdUnavailable "etcd_unavailable" "etcd does not answer."
        "Look at etcd's own log; check `etcd.endpoint`.";
    Auth "auth" "etcd refuses the credentials, or the user lacks a right."
        "Check `etcd.auth`: the password file, and that the user has the role root (a defrag needs it).";
    Tls "tls" "The TLS connection to etcd cannot be made."
        "Check `etcd.tls` and the dates of the certificates: `etcd-janitor check` shows them.";
    ConfigInvalid "config_invalid" "The configuration is not valid."
        "`etcd-janitor config check` says what is wrong, all at once.";
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A reason together with the numbers and names that make it checkable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// The metric label.
    pub reason: Reason,
    /// What was seen, to whom, for people; never a secret.
    pub detail: String,
}

impl Blocked {
    /// `reason`, explained by `detail`.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Blocked { reason, detail: detail.into() }
    }
}

impl std::fmt::Display for Blocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.detail.is_empty() {
            f.write_str(self.reason.name())
        } else {
            write!(f, "{}: {}", self.reason, self.detail)
        }
    }
}

/// How a run of a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome", content = "reason")]
pub enum Outcome {
    /// The work was done.
    Done,
    /// It was not needed or not allowed; nothing was sent.
    Skipped(Reason),
    /// It was tried, and etcd said or showed that it did not happen.
    Failed(Failure),
    /// It was sent and nobody knows how it ended.
    Unknown,
}

impl Outcome {
    /// The metric label: `done`, `skipped`, `failed` or `unknown`.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Skipped(_) => "skipped",
            Outcome::Failed(_) => "failed",
            Outcome::Unknown => "unknown",
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Skipped(reason) => write!(f, "skipped({reason})"),
            Outcome::Failed(failure) => write!(f, "failed({})", failure.name()),
            other => f.write_str(other.name()),
        }
    }
}

/// What made a run that was started fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The member's process restarted while it was being defragmented.
    Restarted,
    /// etcd refused the call.
    Refused,
    /// The credentials were refused.
    Auth,
    /// The members' HashKV differ after the defrag.
    HashMismatch,
    /// etcd was not reachable before anything was sent.
    Unavailable,
}

impl Failure {
    /// The name used in records and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Failure::Restarted => "restarted",
            Failure::Refused => "refused",
            Failure::Auth => "auth",
            Failure::HashMismatch => "hash_mismatch",
            Failure::Unavailable => "unavailable",
        }
    }
}
