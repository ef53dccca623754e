//! From the configuration to what the plans decide by.

use std::time::Duration;

use crate::config::{Config, Foreign, Guard, Retention, Verify};
use crate::plan::forecast::Rates;
use crate::plan::{compaction, step};

/// Figures must have been still for this long before the rule is evaluated.
const STILL_FOR: Duration = Duration::from_secs(10);
/// For how long leader and members must have been the same. What follows an election, reconnecting clients and
/// extended leases, is over by then; figures are waited for as long, so a round is not longer for it.
const SETTLED_FOR: Duration = Duration::from_secs(10);
/// How often a reason in the way is looked at afresh.
const RETRY_EVERY: Duration = Duration::from_secs(30);
/// How long the leader's janitor gives the others to queue.
const LEADER_HEAD_START: Duration = Duration::from_secs(30);

/// For rounds.
pub fn rounds(config: &Config, recorded: Rates) -> step::Policy {
    let defrag = &config.defrag;
    step::Policy {
        dry_run: config.dry_run,
        rule: defrag.rule.clone(),
        quota: config.alarms.quota,
        window: defrag.window,
        still_for: STILL_FOR,
        settled_for: SETTLED_FOR,
        retry_every: RETRY_EVERY,
        leader_head_start: LEADER_HEAD_START,
        leader_wait: defrag.leader_wait,
        drain: defrag.drain,
        pause_between: defrag.pause_between,
        timeout: defrag.timeout,
        request_timeout: config.etcd.request_timeout,
        lease_ttl: config.turn.lease_ttl,
        allow_small_cluster: defrag.small_cluster == Guard::Allow,
        allow_unsafe_versions: defrag.unsafe_versions == Guard::Allow,
        liveness_budget: defrag.liveness_budget,
        recorded,
        verify_hash: defrag.verify == Verify::Hash,
        disarm_below: config.alarms.disarm_below,
        rescue: config.alarms.rescue,
    }
}

/// For compactions.
pub fn compactions(config: &Config) -> compaction::Policy {
    let compaction = &config.compaction;
    compaction::Policy {
        keep: match compaction.retention {
            Retention::Age(age) => compaction::Keep::Age(age),
            Retention::Revisions(count) => compaction::Keep::Newest(count),
        },
        dry_run: config.dry_run,
        force_beside_others: compaction.when_etcd_compacts == Foreign::Force,
        force_kubernetes: compaction.when_kubernetes == Foreign::Force,
        rescue_retention: config.alarms.rescue_retention,
        rescue_to_head: config.alarms.compact_to_head,
    }
}
