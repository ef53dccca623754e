//! Values that unit tests of decisions start from.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::cluster::{Listing, Look, MemberLook, QuotaBytes, Records, Scrape, Status};
use super::forecast::Rates;
use super::member::MemberId;
use super::rule::Rule;
use super::step::Policy;
use super::time::{Mono, Now};

/// `seconds` into a world's life, by both clocks.
pub fn at(seconds: u64) -> Now {
    let wall = DateTime::<Utc>::UNIX_EPOCH + chrono::TimeDelta::seconds(seconds as i64);
    Now { mono: Mono::new(Duration::from_secs(seconds)), wall }
}

/// The defaults of the configuration.
pub fn policy() -> Policy {
    Policy {
        dry_run: false,
        rule: Rule::parse("true").unwrap(),
        quota: None,
        window: Duration::from_secs(4 * 3600),
        still_for: Duration::from_secs(10),
        settled_for: Duration::from_secs(10),
        retry_every: Duration::from_secs(30),
        leader_head_start: Duration::from_secs(30),
        leader_wait: Duration::from_secs(1800),
        drain: Duration::ZERO,
        pause_between: Duration::from_secs(10),
        timeout: Duration::from_secs(600),
        request_timeout: Duration::from_secs(5),
        lease_ttl: Duration::from_secs(60),
        allow_small_cluster: false,
        allow_unsafe_versions: false,
        liveness_budget: Some(Duration::from_secs(25)),
        recorded: Rates::default(),
        verify_hash: false,
        disarm_below: 0.9,
        rescue: true,
    }
}

/// Members 1 to `voters`, of which the last one leads, with 1 GiB in use of 2. All is well.
pub fn look(begun: Now, version: &str, voters: u64) -> Look {
    let status = Status {
        version: version.to_owned(),
        db_size: 2 << 30,
        db_size_in_use: 1 << 30,
        quota: None,
        leader: Some(MemberId(voters)),
        term: 2,
        index: 9,
        applied: 9,
        revision: 9,
        alarms: Default::default(),
        learner: false,
    };
    let scrape = Scrape {
        defrags_open: 0,
        snapshots_open: 0,
        defrag_count: 0,
        defrags_failed: 0,
        defrag_seconds: 0.0,
        process_start: 1.0,
        quota: Some(QuotaBytes::Bytes(8 << 30)),
        compact_revision: None,
        active_peers: Default::default(),
    };
    let member = |id| MemberLook {
        id: MemberId(id),
        name: format!("m{id}"),
        learner: false,
        status: Ok(status.clone()),
        scrape: Ok(scrape.clone()),
    };
    Look {
        begun,
        listing: Listing::Agreed,
        members: (1..=voters).map(member).collect(),
        records: Ok(Records::default()),
        disk: None,
        rights: Ok(()),
    }
}
