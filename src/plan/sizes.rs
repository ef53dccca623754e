//! The local member's sizes over the last day, for a chart: few samples, bounded, and more of them where something
//! happens.

use std::collections::VecDeque;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::time::{Mono, Now};

/// What is kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// A sample at least this often,
const EVERY: Duration = Duration::from_secs(300);
/// and at most this often when the size has changed much.
const AT_MOST: Duration = Duration::from_secs(30);
/// Samples, whatever happens.
const MOST: usize = 600;
/// Compactions that are marked: one every five minutes for a day, and some.
const MOST_MARKS: usize = 300;

/// Sizes at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizeSample {
    /// When.
    pub at: DateTime<Utc>,
    /// Bytes of the file.
    pub db_size: u64,
    /// Bytes in use in it.
    pub db_size_in_use: u64,
}

/// The last day.
#[derive(Debug, Clone, Default)]
pub struct Sizes {
    samples: VecDeque<(Mono, SizeSample)>,
    compactions: VecDeque<(Mono, DateTime<Utc>)>,
}

impl Sizes {
    /// Takes what the member says now, if that is worth keeping.
    pub fn sample(&mut self, db_size: u64, db_size_in_use: u64, now: Now) {
        let worth = self.samples.back().is_none_or(|(at, last)| {
            let since = now.mono.since(*at);
            let much = |before: u64, after: u64| before.abs_diff(after) > before.max(after) / 16;
            let changed = much(last.db_size, db_size) || much(last.db_size_in_use, db_size_in_use);
            since >= EVERY || changed && since >= AT_MOST
        });
        if worth {
            self.samples.push_back((now.mono, SizeSample { at: now.wall, db_size, db_size_in_use }));
        }
        self.forget(now.mono);
    }

    /// A compaction was carried out.
    pub fn compacted(&mut self, now: Now) {
        self.compactions.push_back((now.mono, now.wall));
        self.forget(now.mono);
    }

    fn forget(&mut self, now: Mono) {
        let old = |at: Mono| now.since(at) > KEPT;
        while self.samples.len() > MOST || self.samples.front().is_some_and(|(at, _)| old(*at)) {
            self.samples.pop_front();
        }
        while self.compactions.len() > MOST_MARKS || self.compactions.front().is_some_and(|(at, _)| old(*at)) {
            self.compactions.pop_front();
        }
    }

    /// Oldest first.
    pub fn samples(&self) -> Vec<SizeSample> {
        self.samples.iter().map(|(_, sample)| *sample).collect()
    }

    /// When compactions were carried out, oldest first.
    pub fn compactions(&self) -> Vec<DateTime<Utc>> {
        self.compactions.iter().map(|(_, at)| *at).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(seconds: u64) -> Now {
        Now {
            mono: Mono::new(Duration::from_secs(seconds)),
            wall: DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(seconds as i64),
        }
    }

    #[test]
    fn a_quiet_day_is_one_sample_every_five_minutes() {
        let mut sizes = Sizes::default();
        for seconds in (0..200_000).step_by(5) {
            sizes.sample(100 * MIB, 50 * MIB, at(seconds));
        }
        let samples = sizes.samples();
        assert_eq!(samples.len(), 288, "24 hours of them");
        assert!(samples.windows(2).all(|pair| pair[1].at - pair[0].at == chrono::TimeDelta::seconds(300)));
    }

    #[test]
    fn what_happens_between_is_seen_and_nothing_grows_without_bound() {
        let mut sizes = Sizes::default();
        sizes.sample(100 * MIB, 50 * MIB, at(0));
        sizes.sample(60 * MIB, 50 * MIB, at(29));
        assert_eq!(sizes.samples().len(), 1, "too soon");
        sizes.sample(60 * MIB, 50 * MIB, at(30));
        assert_eq!(sizes.samples()[1].db_size, 60 * MIB);
        for step in 0..20_000 {
            sizes.sample(if step % 2 == 0 { 100 * MIB } else { MIB }, MIB, at(60 + step * 30));
            sizes.compacted(at(60 + step * 30));
        }
        assert_eq!((sizes.samples().len(), sizes.compactions().len()), (600, 300));
        sizes.sample(MIB, MIB, at(10_000_000));
        assert_eq!((sizes.samples().len(), sizes.compactions().len()), (1, 0), "a day later all of it is old");
    }
}
