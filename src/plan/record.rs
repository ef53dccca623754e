//! What is written under the prefix: keys and values, version 1.
//!
//! Values are JSON of at most 4 KiB with a version `v`. Unknown fields survive a rewrite; an unknown `v` is reported as
//! [`Unreadable`], which blocks starting and never crashes. Other clients can write here too, so everything read is
//! input. Times are for people, never for decisions, except the end of a hold and the ages in a window.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::member::{MemberId, RoundId};
use super::reason::Outcome;

/// The version that this program writes and reads.
pub const VERSION: u32 = 1;

/// Longest value that is read or written, in bytes.
pub const MAX_VALUE: usize = 4096;

/// Where things lie under the configured prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Keys under `prefix`, which ends with a slash.
    pub fn new(prefix: &str) -> Self {
        Keys { prefix: prefix.to_owned() }
    }
    /// Everything of this version.
    pub fn all(&self) -> String {
        format!("{}v1/", self.prefix)
    }
    /// The queue.
    pub fn turns(&self) -> String {
        format!("{}v1/turn/", self.prefix)
    }
    /// One place in the queue.
    pub fn turn(&self, lease: i64) -> String {
        format!("{}v1/turn/{lease:016x}", self.prefix)
    }
    /// The record written before a `Defragment` is sent.
    pub fn intent(&self) -> String {
        format!("{}v1/intent", self.prefix)
    }
    /// The operator's pause.
    pub fn hold(&self) -> String {
        format!("{}v1/hold", self.prefix)
    }
    /// The samples behind the newest compaction.
    pub fn window(&self) -> String {
        format!("{}v1/window", self.prefix)
    }
    /// Written and deleted to prove that etcd takes writes.
    pub fn probe(&self) -> String {
        format!("{}v1/probe", self.prefix)
    }
    /// All recorded rounds.
    pub fn rounds(&self) -> String {
        format!("{}v1/rounds/", self.prefix)
    }
    /// All records of one round.
    pub fn round(&self, round: RoundId) -> String {
        format!("{}v1/rounds/{round}/", self.prefix)
    }
    /// One member's record of one round.
    pub fn round_member(&self, round: RoundId, member: MemberId) -> String {
        format!("{}v1/rounds/{round}/{member}", self.prefix)
    }
}

/// A stored value that this program cannot act on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Written by a newer release.
    #[error("the record has version {0}; this release reads version {VERSION}")]
    Version(u64),
    /// Not one of ours.
    #[error("not a record: {0}")]
    Malformed(String),
    /// Longer than [`MAX_VALUE`].
    #[error("the record is {0} bytes long; at most {MAX_VALUE} are read")]
    TooLong(usize),
}

/// Reads a record.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unreadable> {
    if bytes.len() > MAX_VALUE {
        return Err(Unreadable::TooLong(bytes.len()));
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|error| Unreadable::Malformed(error.to_string()))?;
    match value.get("v").and_then(Value::as_u64) {
        Some(v) if v == u64::from(VERSION) => {}
        Some(v) => return Err(Unreadable::Version(v)),
        None => return Err(Unreadable::Malformed("no version".to_owned())),
    }
    serde_json::from_value(value).map_err(|error| Unreadable::Malformed(error.to_string()))
}

/// The bytes to store.
pub fn write<T: Serialize>(record: &T) -> Result<Vec<u8>, Unreadable> {
    let bytes = serde_json::to_vec(record).map_err(|error| Unreadable::Malformed(error.to_string()))?;
    if bytes.len() > MAX_VALUE { Err(Unreadable::TooLong(bytes.len())) } else { Ok(bytes) }
}

const fn version() -> u32 {
    VERSION
}

/// Fields of newer releases, kept when a record is rewritten.
pub type Extra = Map<String, Value>;

/// A place in the queue; its key's lease makes it vanish with its owner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnRecord {
    /// [`VERSION`].
    #[serde(default = "version")]
    pub v: u32,
    /// Whose member it would be.
    pub member: MemberId,
    /// One start of one janitor.
    pub instance: String,
    /// Name for people: the pod, or `cli@host`.
    pub holder: String,
    /// The round it is for.
    pub round: RoundId,
    /// When it was written.
    pub at: DateTime<Utc>,
    /// Fields of newer releases.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A defrag that is about to be sent, was sent, or may have been sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// [`VERSION`].
    #[serde(default = "version")]
    pub v: u32,
    /// The member that is defragmented.
    pub member: MemberId,
    /// Who wrote it.
    pub instance: String,
    /// Name for people.
    pub holder: String,
    /// For which round.
    pub round: RoundId,
    /// `process_start_time_seconds` of the target just before.
    pub target_start: f64,
    /// `etcd_disk_backend_defrag_duration_seconds_count` of the target just before.
    pub target_count: u64,
    /// Bytes of the target's file just before.
    pub db_size: u64,
    /// Bytes in use in it.
    pub db_size_in_use: u64,
    /// When it was written.
    pub at: DateTime<Utc>,
    /// Fields of newer releases.
    #[serde(flatten)]
    pub extra: Extra,
}

/// An operator's pause of all maintenance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// [`VERSION`].
    #[serde(default = "version")]
    pub v: u32,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// Until when, by the reader's clock.
    pub until: DateTime<Utc>,
    /// Fields of newer releases.
    #[serde(flatten)]
    pub extra: Extra,
}

/// How one member fared in one round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundRecord {
    /// [`VERSION`].
    #[serde(default = "version")]
    pub v: u32,
    /// Which round.
    pub round: RoundId,
    /// Which member.
    pub member: MemberId,
    /// Its name.
    pub name: String,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Numbers and names, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// When the defrag was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When the outcome was known.
    pub ended_at: DateTime<Utc>,
    /// How long the defrag took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Bytes of the file before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_before: Option<u64>,
    /// Bytes in use in it before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_use_before: Option<u64>,
    /// Bytes of the file after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_after: Option<u64>,
    /// Whether leadership was moved away first, and to whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_moved_to: Option<MemberId>,
}

/// Longest text of a record that is kept in memory, in bytes: whoever may write under the prefix chooses it.
pub const MAX_TEXT: usize = 512;

/// Far beyond what a cluster can have.
const MAX_MEMBERS: usize = 64;

/// Most recorded rounds that are kept in memory, whatever `history.limit` is.
const MAX_RECORDS: usize = 2560;

/// At most [`MAX_TEXT`] of a text, cut between characters.
pub fn clipped(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT - '…'.len_utf8()));
        text.push('…');
    }
    // What is kept needs no room to grow.
    text.shrink_to_fit();
    text
}

/// What of the records is believed and kept, newest round first: the newest `limit` rounds, with no more members than a
/// cluster can have, of texts no longer than [`MAX_TEXT`]. None of a round that is due far ahead: it would be the newest
/// for ever.
pub fn kept(records: impl IntoIterator<Item = RoundRecord>, limit: usize, now: DateTime<Utc>) -> Vec<RoundRecord> {
    let mut rounds: BTreeMap<RoundId, Vec<RoundRecord>> = BTreeMap::new();
    for mut record in records.into_iter().filter(|record| !record.round.is_far_ahead(now)) {
        let members = rounds.entry(record.round).or_default();
        if members.len() < MAX_MEMBERS {
            (record.name, record.detail) = (clipped(record.name), clipped(record.detail));
            members.push(record);
        }
        if rounds.len() > limit {
            rounds.pop_first();
        }
    }
    let newest_first = rounds.into_values().rev().flat_map(|mut members| {
        members.sort_by_key(|record| record.member);
        members
    });
    newest_first.take(MAX_RECORDS).collect()
}

/// Revisions seen at instants of cluster time, stored with each compaction that was sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WindowRecord {
    /// [`VERSION`].
    #[serde(default = "version")]
    pub v: u32,
    /// The revision that was compacted to.
    pub compacted: i64,
    /// Who stored it.
    pub member: MemberId,
    /// Oldest first.
    pub samples: Vec<WindowSample>,
    /// Fields of newer releases.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The revision at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSample {
    /// Cluster time: median of the members' Date headers.
    pub at: DateTime<Utc>,
    /// The newest revision then.
    pub revision: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(round: &str, member: u64, text: &str) -> RoundRecord {
        let member = MemberId(member);
        let value = serde_json::json!({ "v": 1, "round": round, "member": member, "name": text, "detail": text,
            "outcome": "done", "ended_at": "2026-01-01T00:01:00Z" });
        read(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_others_may_write_is_kept_within_bounds() {
        let now: DateTime<Utc> = "2026-01-02T12:00:00Z".parse().unwrap();
        let long = "é".repeat(900);
        let mut records: Vec<_> = (0..1000).map(|member| record("cron-20260101T000000Z", member, &long)).collect();
        records.extend((0..60).map(|second| record(&format!("manual-20260101T0001{second:02}Z"), 2, "")));
        records.extend((0..60).map(|second| record(&format!("cron-99990101T0001{second:02}Z"), 1, "")));
        let names = |limit| -> Vec<(String, u64)> {
            let kept = kept(records.clone(), limit, now);
            assert!(kept.iter().all(|record| record.name.len() <= MAX_TEXT && record.detail.len() <= MAX_TEXT));
            kept.into_iter().map(|record| (record.round.to_string(), record.member.0)).collect()
        };
        assert_eq!(names(1), [("manual-20260101T000159Z".to_owned(), 2)]);
        let all = names(1000);
        assert_eq!(all.len(), 60 + MAX_MEMBERS);
        assert_eq!(all[60], ("cron-20260101T000000Z".to_owned(), 0), "newest first, then by member");
        let many = (0..100).flat_map(|second| {
            (0..64).map(move |member| {
                record(&format!("cron-20260101T00{:02}{:02}Z", second / 60, second % 60), member, "")
            })
        });
        assert_eq!(super::kept(many, 1000, now).len(), MAX_RECORDS);
    }

    #[test]
    fn a_day_ahead_is_a_clock_and_more_is_none() {
        let now: DateTime<Utc> = "2026-01-02T12:00:00Z".parse().unwrap();
        let ahead = |round: &str| round.parse::<RoundId>().unwrap().is_far_ahead(now);
        assert!(!ahead("cron-20260103T120000Z"));
        assert!(ahead("cron-20260103T120001Z"));
        assert!(ahead("cron-99991231T235959Z"));
    }
}
