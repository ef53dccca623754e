//! What came of the requests. Its size does not depend on how many there were.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::work::Kind;
use crate::etcd::Error;

/// Longest latency that is told apart, in microseconds: an hour. Longer ones count as that.
const LONGEST: u64 = 3_600_000_000;
/// Three significant figures: 180 KiB a histogram.
const FIGURES: u8 = 3;
/// Longest text of a failure that is kept.
const LONGEST_TEXT: usize = 300;

/// Requests of one thread, or of all.
#[derive(Debug, Default)]
pub struct Tally {
    /// Latencies in microseconds of what etcd did.
    latencies: BTreeMap<Kind, Histogram<u64>>,
    /// Failures by kind.
    failures: BTreeMap<&'static str, Failures>,
    /// Reads and deletes of keys that were not there. They count as done.
    missing: u64,
}

/// Failures of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failures {
    /// How many.
    pub count: u64,
    /// What the first one said.
    pub first: String,
}

impl Tally {
    /// etcd did it; `there`: the key was there.
    pub fn done(&mut self, kind: Kind, took: Duration, there: bool) {
        let latencies = self.latencies.entry(kind).or_insert_with(empty);
        // A latency is never 0, and the library's lowest figure is 1.
        let micros = u64::try_from(took.as_micros()).unwrap_or(LONGEST).max(1);
        latencies.saturating_record(micros);
        self.missing += u64::from(!there);
    }

    /// It failed, or nobody knows.
    pub fn failed(&mut self, error: &Error) {
        let first = || Failures { count: 0, first: error.to_string().chars().take(LONGEST_TEXT).collect() };
        self.failures.entry(error.code()).or_insert_with(first).count += 1;
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: Tally) {
        for (kind, latencies) in other.latencies {
            match self.latencies.get_mut(&kind) {
                // All have the same bounds, which is the only way in which this can fail.
                Some(own) => own.add(&latencies).unwrap_or_default(),
                None => {
                    self.latencies.insert(kind, latencies);
                }
            }
        }
        for (kind, failures) in other.failures {
            match self.failures.get_mut(kind) {
                Some(own) => own.count += failures.count,
                None => {
                    self.failures.insert(kind, failures);
                }
            }
        }
        self.missing += other.missing;
    }

    /// What etcd did, of each kind that there was.
    pub fn latencies(&self) -> impl Iterator<Item = (Kind, Latencies)> {
        self.latencies.iter().map(|(kind, histogram)| (*kind, Latencies::of(histogram)))
    }

    /// How many etcd did.
    pub fn count(&self) -> u64 {
        self.latencies.values().map(Histogram::len).sum()
    }

    /// Failures by kind: the codes of `etcd_janitor_etcd_requests_total`.
    pub fn failures(&self) -> &BTreeMap<&'static str, Failures> {
        &self.failures
    }

    /// Reads and deletes of keys that were not there.
    pub fn missing(&self) -> u64 {
        self.missing
    }
}

fn empty() -> Histogram<u64> {
    #[expect(clippy::expect_used, reason = "constants, which a test tries")]
    Histogram::new_with_bounds(1, LONGEST, FIGURES).expect("bounds that the library takes")
}

/// How long requests of a kind took, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Latencies {
    /// How many.
    #[serde(skip)]
    pub count: u64,
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// Nine of ten are at most this.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1000.
    #[serde(rename = "p99.9")]
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

impl Latencies {
    fn of(histogram: &Histogram<u64>) -> Latencies {
        let at = |share| histogram.value_at_quantile(share) as f64 / 1e6;
        Latencies {
            count: histogram.len(),
            mean: histogram.mean() / 1e6,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1e6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::Class;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn near(seen: f64, expected: f64) {
        assert!((seen / expected - 1.0).abs() < 0.002, "{seen} is not {expected}");
    }

    #[test]
    fn percentiles_are_right_to_three_figures_also_when_threads_are_added() {
        let mut all = Tally::default();
        for thread in 0..4 {
            let mut one = Tally::default();
            for number in 1..=1000 {
                if number % 4 == thread {
                    one.done(Kind::Write, millis(number), true);
                }
            }
            all.add(one);
        }
        let (kind, latencies) = all.latencies().next().expect("writes");
        assert_eq!((kind, latencies.count, all.count()), (Kind::Write, 1000, 1000));
        near(latencies.p50, 0.5);
        near(latencies.p90, 0.9);
        near(latencies.p99, 0.99);
        near(latencies.p999, 0.999);
        near(latencies.max, 1.0);
        near(latencies.mean, 0.5005);
    }

    #[test]
    fn what_no_clock_should_say_is_counted_all_the_same() {
        let mut tally = Tally::default();
        tally.done(Kind::Read, Duration::ZERO, true);
        tally.done(Kind::Read, Duration::MAX, true);
        let (_, latencies) = tally.latencies().next().expect("reads");
        assert_eq!(latencies.count, 2);
        near(latencies.max, 3600.0);
    }

    #[test]
    fn failures_are_counted_by_kind_with_what_the_first_one_said() {
        let refused = |text: &str| Error::new(Class::Nospace, "Put", "http://m0:2379", text);
        let mut all = Tally::default();
        all.failed(&refused("etcdserver: mvcc: database space exceeded"));
        let mut other = Tally::default();
        other.failed(&refused("another text"));
        other.failed(&Error::deadline("Put", "http://m0:2379", millis(5000)));
        other.done(Kind::Delete, millis(1), false);
        all.add(other);
        let kinds: Vec<_> = all.failures().iter().map(|(kind, failures)| (*kind, failures.count)).collect();
        assert_eq!(kinds, [("deadline", 1), ("nospace", 2)]);
        let said = &all.failures()["nospace"].first;
        assert_eq!(said, "Put to http://m0:2379: etcdserver: mvcc: database space exceeded");
        assert_eq!((all.missing(), all.count()), (1, 1));
    }

    /// Ten million of them take what ten take.
    #[test]
    fn nothing_grows_with_the_number_of_requests() {
        let mut tally = Tally::default();
        let buckets = |tally: &Tally| tally.latencies[&Kind::Write].distinct_values();
        tally.done(Kind::Write, millis(1), true);
        let before = buckets(&tally);
        for number in 0..100_000_u64 {
            tally.done(Kind::Write, Duration::from_micros(number * 37 % 9_000_000), true);
            tally.failed(&Error::new(Class::Refused, "Put", "http://m0:2379", format!("text {number}")));
        }
        assert_eq!(buckets(&tally), before);
        assert!(before * 8 < 256 << 10, "{before} figures");
        assert_eq!(tally.failures().len(), 1);
    }
}
