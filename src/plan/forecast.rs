//! How long a defrag of the local member will take.
//!
//! Time follows the bytes in use and the number of keys, hardly the size of the file (measured: 4 to 10 s per GiB in
//! use on a quiet machine, two to ten times that on a busy one). So it is forecast by a rate, and the rate is learned:
//! without that a large database would be refused for ever by a guess.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::cluster::{Look, MemberLook};
use super::member::MemberId;
use super::record::RoundRecord;

/// Assumed until something is known, in seconds per GiB in use.
pub const UNKNOWN_RATE: f64 = 12.0;

/// Faster is no disk: a record that says so was made up, or is of something else than a defrag.
const FASTEST_RATE: f64 = 1.0;

/// Smaller databases say more about fixed costs than about the rate.
const MIN_IN_USE: u64 = 64 << 20;

const GIB: f64 = (1u64 << 30) as f64;

/// Rates that one source tells, in seconds per GiB in use.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rates {
    /// Of the local member: its own disk is what matters.
    pub own: Option<f64>,
    /// The slowest of the others.
    pub others: Option<f64>,
}

/// What a forecast rests on, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// Recorded defrags of this member.
    OwnRecords,
    /// etcd's histogram of this member: defrags since its process started, whoever sent them.
    OwnHistogram,
    /// Recorded defrags of other members.
    OtherRecords,
    /// The histograms of other members.
    OtherHistograms,
    /// Nothing: [`UNKNOWN_RATE`].
    Nothing,
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Basis::OwnRecords => "by its recorded defrags",
            Basis::OwnHistogram => "by etcd's own histogram of its defrags",
            Basis::OtherRecords => "by other members' recorded defrags",
            Basis::OtherHistograms => "by etcd's own histograms of other members' defrags",
            Basis::Nothing => "by an assumed 12 s per GiB in use, since no defrag is known",
        })
    }
}

/// How long it will take, and how that is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    /// How long.
    pub duration: Duration,
    /// What it rests on.
    pub basis: Basis,
}

/// What the records tell: the median of each member's recorded defrags, so that one on a busy day neither hides the
/// usual ones nor stands for them. They are of the newest rounds only (`history.limit`), so nothing is held against a
/// member for ever.
pub fn recorded(me: MemberId, records: &[RoundRecord]) -> Rates {
    let mut by_member: BTreeMap<MemberId, Vec<f64>> = BTreeMap::new();
    for record in records {
        if let (Some(seconds), Some(in_use)) = (record.seconds, record.in_use_before)
            && let Some(rate) = rate(seconds, in_use)
        {
            by_member.entry(record.member).or_default().push(rate);
        }
    }
    let of = |mut rates: Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    gather(me, by_member.into_iter().map(|(member, rates)| (member, of(rates))))
}

/// What the members' own histograms tell: their mean duration over what is in use today. One that was measured on a
/// smaller database tells less than the truth, so records are believed first.
pub fn measured_by_etcd(me: MemberId, look: &Look) -> Rates {
    let of = |member: &MemberLook| {
        let (status, scrape) = (member.status.as_ref().ok()?, member.scrape.as_ref().ok()?);
        let count = scrape.defrag_count;
        let mean = (count > 0).then(|| scrape.defrag_seconds / count as f64)?;
        Some((member.id, rate(mean, status.db_size_in_use)?))
    };
    gather(me, look.members.iter().filter_map(of))
}

/// Forecast for `in_use` bytes of the local member.
///
/// Records are believed first, and are others' to write: none makes the forecast shorter than both the member's own
/// histogram and [`UNKNOWN_RATE`] tell. (The histogram alone may be of a database that was much larger.)
pub fn forecast(in_use: u64, recorded: Rates, by_etcd: Rates) -> Forecast {
    let at_least = by_etcd.own.map(|rate| rate.min(UNKNOWN_RATE));
    let doubted = recorded.own < at_least && recorded.own.is_some();
    let known = [
        (at_least.filter(|_| doubted), Basis::OwnHistogram),
        (recorded.own, Basis::OwnRecords),
        (by_etcd.own, Basis::OwnHistogram),
        (recorded.others, Basis::OtherRecords),
        (by_etcd.others, Basis::OtherHistograms),
    ];
    let best = known.into_iter().find_map(|(rate, basis)| Some((rate?, basis)));
    let (rate, basis) = best.unwrap_or((UNKNOWN_RATE, Basis::Nothing));
    let duration = Duration::try_from_secs_f64(in_use as f64 / GIB * rate).unwrap_or(Duration::MAX);
    Forecast { duration, basis }
}

fn rate(seconds: f64, in_use: u64) -> Option<f64> {
    (seconds.is_finite() && seconds > 0.0 && in_use >= MIN_IN_USE)
        .then(|| (seconds / (in_use as f64 / GIB)).max(FASTEST_RATE))
}

fn gather(me: MemberId, rates: impl Iterator<Item = (MemberId, f64)>) -> Rates {
    let mut gathered = Rates::default();
    for (member, rate) in rates {
        let place = if member == me { &mut gathered.own } else { &mut gathered.others };
        *place = Some(place.map_or(rate, |slowest| slowest.max(rate)));
    }
    gathered
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: MemberId = MemberId(1);
    const NONE: Rates = Rates { own: None, others: None };

    fn record(member: u64, seconds: f64, in_use: u64) -> RoundRecord {
        let text = format!(
            r#"{{"v":1,"round":"cron-20260101T000000Z","member":"{member:016x}","name":"m","outcome":"done",
                "ended_at":"2026-01-01T00:01:00Z","seconds":{seconds},"in_use_before":{in_use}}}"#
        );
        super::super::record::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_nearest_knowledge_counts() {
        let gib = 1 << 30;
        let tell = |recorded, by_etcd| forecast(gib, recorded, by_etcd);
        let full = |own, others| Rates { own: Some(own), others: Some(others) };
        let others = |others| Rates { own: None, others: Some(others) };
        for (found, seconds, basis) in [
            (tell(full(5.0, 2.0), full(3.0, 4.0)), 5.0, Basis::OwnRecords),
            (tell(full(1.0, 2.0), full(3.0, 4.0)), 3.0, Basis::OwnHistogram),
            (tell(full(5.0, 2.0), full(40.0, 4.0)), UNKNOWN_RATE, Basis::OwnHistogram),
            (tell(full(1.0, 2.0), others(4.0)), 1.0, Basis::OwnRecords),
            (tell(others(2.0), full(3.0, 4.0)), 3.0, Basis::OwnHistogram),
            (tell(others(2.0), others(4.0)), 2.0, Basis::OtherRecords),
            (tell(NONE, others(4.0)), 4.0, Basis::OtherHistograms),
            (tell(NONE, NONE), UNKNOWN_RATE, Basis::Nothing),
        ] {
            assert_eq!((found.duration.as_secs_f64(), found.basis), (seconds, basis));
        }
    }

    #[test]
    fn one_bad_day_does_not_stand_for_a_member_and_the_slowest_of_the_others_counts() {
        let gib = 1 << 30;
        let mut records = vec![record(1, 5.0, gib), record(1, 90.0, gib), record(1, 6.0, gib)];
        assert_eq!(recorded(ME, &records), Rates { own: Some(6.0), others: None });
        records.extend([record(2, 4.0, gib), record(3, 16.0, 2 * gib)]);
        assert_eq!(recorded(ME, &records), Rates { own: Some(6.0), others: Some(8.0) });
    }

    #[test]
    fn no_record_makes_a_defrag_a_matter_of_no_time() {
        let forged = recorded(ME, &[record(1, 0.001, 1 << 40), record(2, 1e-300, u64::MAX)]);
        assert_eq!(forged, Rates { own: Some(FASTEST_RATE), others: Some(FASTEST_RATE) });
        assert_eq!(forecast(30 << 30, forged, NONE).duration, Duration::from_secs(30));
    }

    #[test]
    fn what_says_nothing_about_the_rate_is_left_out() {
        let records = [record(1, 9.0, MIN_IN_USE - 1), record(1, 0.0, 1 << 30), record(1, -1.0, 1 << 30)];
        assert_eq!(recorded(ME, &records), NONE);
        assert_eq!(forecast(u64::MAX, Rates { own: Some(f64::MAX), others: None }, NONE).duration, Duration::MAX);
    }
}
