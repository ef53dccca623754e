//! Texts that are read from memory.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use etcd_janitor::etcd::exposition as page;
use etcd_janitor::plan::cluster::{Stored, parse_alarm};
use etcd_janitor::plan::compaction;
use etcd_janitor::plan::hold::no_hold;
use etcd_janitor::plan::member::MemberId;
use etcd_janitor::plan::record::{self, Hold, Intent, RoundRecord, TurnRecord, WindowRecord};
use etcd_janitor::plan::retention::ClusterTime;
use etcd_janitor::plan::rule::{Figures, Quota, Rule};
use etcd_janitor::plan::schedule::Schedule;
use etcd_janitor::plan::time::{Mono, Now};
use etcd_janitor::plan::zone::Zone;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A number out of the first bytes, and the rest.
fn number(data: &[u8]) -> (u64, &[u8]) {
    match data.split_first_chunk::<8>() {
        Some((first, rest)) => (u64::from_le_bytes(*first), rest),
        None => (0, data),
    }
}

/// An accepted rule is total: whatever the figures are it says yes, no, or by what it would divide, and it can be told.
pub fn rule(data: &[u8]) {
    let (size, data) = number(data);
    let (in_use, data) = number(data);
    let (quota, data) = number(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let rule = match Rule::parse(text) {
        Ok(rule) => rule,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let quotas = [Quota::Bytes(quota), Quota::Disabled, Quota::Unknown];
    for quota in quotas {
        let figures = Figures { db_size: size, db_size_in_use: in_use, quota };
        let told = rule.explain(&figures);
        match rule.evaluate(&figures) {
            Ok(answer) => assert!(told.contains(if answer { " is true" } else { " is false" }), "{told}"),
            Err(_) => assert!(told.contains("has no answer"), "{told}"),
        }
    }
    assert_eq!(Rule::parse(rule.text()).as_ref(), Ok(&rule), "what it says of itself is read the same");
}

/// An accepted schedule has a next occurrence, always a later one, and finds the last one where the next one led, unless
/// that is longer ago than nine years.
pub fn schedule(data: &[u8]) {
    let (chance, data) = number(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let zones = ["UTC", "Europe/Paris", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu"];
    let zone: Zone = zones[usize::try_from(chance % 5).unwrap_or_default()].parse().expect("a zone");
    let Ok(schedule) = Schedule::parse(text, zone.clone()) else { return };
    // Seconds of this and the next century.
    let at = DateTime::from_timestamp(i64::try_from((chance / 5) % 4_000_000_000).unwrap_or_default(), 0);
    let at: DateTime<Utc> = at.expect("it is in the range");
    let Some(next) = schedule.next_after(at) else { return };
    assert!(next > at, "{text:?} in {zone}: {next} is not after {at}");
    assert_eq!(schedule.last_at_or_before(next), Some(next), "{text:?} in {zone}");
    if let Some(after) = schedule.next_after(next) {
        assert!(after > next, "{text:?} in {zone}");
        // It looks back for nine years; a fifth Friday of a February comes after up to forty.
        let last = schedule.last_at_or_before(after - TimeDelta::seconds(1));
        let too_long_ago = last.is_none() && after - next > TimeDelta::days(9 * 366);
        assert!(last == Some(next) || too_long_ago, "{text:?} in {zone}: {last:?}, not {next}");
    }
}

fn record_of<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) -> bool {
    let Ok(read) = record::read::<T>(data) else { return false };
    // What fits is written as it was read; a record that grows beyond the bound is refused, not cut.
    if let Ok(bytes) = record::write(&read) {
        assert_eq!(record::read::<T>(&bytes).expect("what was written"), read);
    }
    true
}

/// Whatever lies under the prefix: it is read or it is not, and what is not read holds.
pub fn records(data: &[u8]) {
    record_of::<Intent>(data);
    record_of::<RoundRecord>(data);
    record_of::<TurnRecord>(data);
    record_of::<WindowRecord>(data);
    record_of::<Hold>(data);
    let value = record::read::<Hold>(data);
    let now = DateTime::from_timestamp(1_800_000_000, 0).expect("it is in the range");
    let over = value.as_ref().is_ok_and(|hold| hold.until <= now);
    let stored = Stored { mod_revision: 1, value };
    assert_eq!(
        no_hold(Some(&stored), now).is_ok(),
        over,
        "only a hold that can be read and is over lets anything start"
    );
    window_of(data, now);
}

/// A janitor that has just started finds this window on record: it compacts nothing on that word alone.
fn window_of(data: &[u8], now: DateTime<Utc>) {
    let Ok(window) = record::read::<WindowRecord>(data) else { return };
    let at = |seconds| Now { mono: Mono::new(Duration::from_secs(seconds)), wall: now };
    let policy = compaction::Policy {
        keep: compaction::Keep::Age(Duration::from_secs(3600)),
        dry_run: false,
        force_beside_others: true,
        force_kubernetes: false,
        rescue_retention: Duration::from_secs(300),
        rescue_to_head: false,
    };
    let mut compactor = compaction::Compactor::new(MemberId(1), policy, at(1_000_000).mono);
    compactor.sample(900, at(1_000_001).mono);
    compactor.due();
    let survey = compaction::Survey {
        leader: Some(MemberId(1)),
        voters: vec![MemberId(1)],
        learner: false,
        corrupt: false,
        revision: 1000,
        compact_revision: Some(10),
        kubernetes: false,
        window: Some(window),
        hold: None,
        cluster_time: ClusterTime::median(at(1_000_002).mono, vec![now], 1),
    };
    let step = compactor.surveyed(Ok(survey), at(1_000_003));
    assert!(!matches!(step, Some(compaction::Step::Compact(_))), "compacted because somebody wrote so");
    if let Some(compaction::Step::Trace(revision)) = step {
        assert!((11..=900).contains(&revision), "compacted before, or newer than what was seen: {revision}");
        let step = compactor.traced(revision, Ok(compaction::Trace::Broken));
        assert!(matches!(step, Some(compaction::Step::Ended { .. })), "{step:?}");
    }
}

/// A metrics page and an alarm are whatever answers at an address. A page says the same in whatever pieces it comes.
pub fn exposition(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (first, second) = text.as_bytes().split_at(text.len() / 2);
    let mut pieces = page::Reading::default();
    pieces.take(first);
    pieces.take(second);
    // Not a number is not even what it is itself.
    assert_eq!(format!("{:?}", pieces.finish()), format!("{:?}", page::read(&text)));
    let _ = parse_alarm(&text);
}
