//! Names of things: members, instances, rounds.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An etcd member id. Shown and stored as 16 lower-case hex digits, as etcdctl and etcd's logs do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for MemberId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        u64::from_str_radix(text, 16).map(MemberId).map_err(|_| format!("not a member id: {text:?}"))
    }
}

impl Serialize for MemberId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MemberId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What started a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RoundKind {
    /// `defrag.schedule` fired.
    Cron,
    /// `defrag.urgent_at` was reached.
    Urgent,
    /// An operator asked for it.
    Manual,
    /// The NOSPACE alarm is up.
    Rescue,
}

impl RoundKind {
    /// The first word of the round's name.
    pub const fn name(self) -> &'static str {
        match self {
            RoundKind::Cron => "cron",
            RoundKind::Urgent => "urgent",
            RoundKind::Manual => "manual",
            RoundKind::Rescue => "rescue",
        }
    }
}

/// The name of a round: what started it and the UTC instant at which it was due, before jitter.
///
/// Every janitor computes the same name from the same schedule, which is how they know that they take part in the
/// same round without talking to each other. Shown as `cron-20261122T000000Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoundId {
    /// When it was due, to the second.
    pub due: DateTime<Utc>,
    /// What started it.
    pub kind: RoundKind,
}

impl RoundId {
    /// The delay after the due instant: less than `bound`, equal on all janitors of a cluster, spread over clusters.
    ///
    /// FNV-1a over the cluster's id and the round's name; only its evenness matters.
    pub fn jitter(self, cluster: u64, bound: Duration) -> Duration {
        let Ok(bound) = u64::try_from(bound.as_millis()) else { return Duration::ZERO };
        if bound == 0 {
            return Duration::ZERO;
        }
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in cluster.to_be_bytes().into_iter().chain(self.to_string().into_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Duration::from_millis(hash % bound)
    }

    /// Whether it is due so much later than `now` that no janitor can have recorded it: clocks are minutes apart, not days.
    pub fn is_far_ahead(self, now: DateTime<Utc>) -> bool {
        self.due - now > TimeDelta::days(1)
    }
}

const DUE_FORMAT: &str = "%Y%m%dT%H%M%SZ";

impl fmt::Display for RoundId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.kind.name(), self.due.format(DUE_FORMAT))
    }
}

impl FromStr for RoundId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("not a round name: {text:?}");
        let (kind, due) = text.split_once('-').ok_or_else(wrong)?;
        let kind = match kind {
            "cron" => RoundKind::Cron,
            "urgent" => RoundKind::Urgent,
            "manual" => RoundKind::Manual,
            "rescue" => RoundKind::Rescue,
            _ => return Err(wrong()),
        };
        let due = NaiveDateTime::parse_from_str(due, DUE_FORMAT).map_err(|_| wrong())?;
        Ok(RoundId { kind, due: due.and_utc() })
    }
}

impl Serialize for RoundId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RoundId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_name_reads_back() {
        for text in ["cron-20261122T000000Z", "manual-20240229T235959Z"] {
            let round: RoundId = text.parse().unwrap();
            assert_eq!(round.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_round_name_is_refused() {
        for text in ["", "cron", "cron-", "cron-20261322T000000Z", "other-20261122T000000Z", "cron-20261122T000000"] {
            assert!(text.parse::<RoundId>().is_err(), "{text}");
        }
    }

    #[test]
    fn jitter_is_the_same_on_all_below_its_bound_and_spreads_clusters() {
        let round: RoundId = "cron-20261122T000000Z".parse().unwrap();
        let next: RoundId = "cron-20261123T000000Z".parse().unwrap();
        let bound = Duration::from_secs(600);
        // Of each janitor's program, whatever its build: a release that computes another one splits rounds.
        assert_eq!(round.jitter(0x448b_a8dc_5787_1f95, bound), Duration::from_millis(101_395));
        let mut tenths = [0; 10];
        for cluster in 0..1000 {
            let jitter = round.jitter(cluster, bound);
            assert!(jitter < bound, "{jitter:?}");
            tenths[jitter.as_secs() as usize / 60] += 1;
        }
        assert!(tenths.iter().all(|count| (60..=140).contains(count)), "{tenths:?}");
        let moved = (0..1000).filter(|cluster| round.jitter(*cluster, bound) != next.jitter(*cluster, bound)).count();
        assert!(moved > 990, "a cluster does not have the same place every night");
        assert_eq!(round.jitter(1, Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_member_id_is_shown_as_sixteen_digits() {
        assert_eq!(MemberId(0xab).to_string(), "00000000000000ab");
        assert_eq!("00000000000000ab".parse(), Ok(MemberId(0xab)));
    }
}
