//! Which revision is older than the retention.
//!
//! A sample says: at this instant the store was at this revision, so everything up to it was written before. The member
//! that was asked may have been behind; then the sample names too low a revision, which errs on the safe side.

use std::collections::VecDeque;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::record::{WindowRecord, WindowSample};
use super::time::Mono;

/// Most samples in memory: ten minutes apart they would reach back seven days.
const MAX_SAMPLES: usize = 1024;
/// Most samples in a record: with dates and revisions they stay below the size that is read back.
const MAX_STORED: usize = 48;
/// `Date` headers are cut to the second, on both ends of an age.
const DATE_RESOLUTION: Duration = Duration::from_secs(2);

/// How far back the samples reach at least: a follower that waits for the others looks again after minutes only, and must
/// still know then which of the revisions since the compaction were ours.
const MIN_REACH: Duration = Duration::from_secs(600);

/// What the members' clocks say, of which some may be wrong.
///
/// With an even number of answers the median lies between two. Which of them errs on the safe side depends on the use: an
/// age that is read must not come out too great, a date that is written must not lie too far back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterTime {
    /// Before the clocks were asked, on our own monotonic clock.
    pub asked: Mono,
    /// The median is not before this.
    pub earliest: DateTime<Utc>,
    /// The median is not after this.
    pub latest: DateTime<Utc>,
}

impl ClusterTime {
    /// The median of `dates`, read after `asked` from members of which `voters` vote.
    ///
    /// None when not more than half of them answered: what is left may be nothing but the clock that is wrong.
    pub fn median(asked: Mono, mut dates: Vec<DateTime<Utc>>, voters: usize) -> Option<ClusterTime> {
        dates.sort_unstable();
        let last = dates.len().checked_sub(1).filter(|_| dates.len() * 2 > voters)?;
        Some(ClusterTime { asked, earliest: dates[last / 2], latest: dates[dates.len() / 2] })
    }

    /// What the clocks showed `span` before `now`, at the earliest.
    pub fn earliest_before(&self, now: Mono, span: Duration) -> Option<DateTime<Utc>> {
        let since = chrono::Duration::from_std(now.since(self.asked)).ok()?;
        self.earliest.checked_add_signed(since)?.checked_sub_signed(chrono::Duration::from_std(span).ok()?)
    }

    /// What the clocks show at `now`, at the latest.
    fn latest_at(&self, now: Mono) -> Option<DateTime<Utc>> {
        self.latest.checked_add_signed(chrono::Duration::from_std(now.since(self.asked)).ok()?)
    }
}

/// The store at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When, on our own monotonic clock.
    pub at: Mono,
    /// The newest revision then.
    pub revision: i64,
}

/// Samples of the last retention and a little more, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Samples {
    list: VecDeque<Sample>,
}

impl Samples {
    /// Adds what was just seen and forgets what is older than any compaction to `retention` could need.
    pub fn add(&mut self, sample: Sample, retention: Duration) {
        if self.list.back().is_some_and(|last| sample.at < last.at) {
            return;
        }
        // A store that was restored from a backup gives the same revisions again, to younger writes.
        while self.list.back().is_some_and(|last| sample.revision < last.revision) {
            self.list.pop_back();
        }
        // Samples a MAX_SAMPLES-th of the retention apart are as good as all of them, within that precision.
        let apart = retention / (MAX_SAMPLES as u32 / 2);
        let len = self.list.len();
        if len >= 2 && sample.at.since(self.list[len - 2].at) < apart {
            self.list.pop_back();
        }
        self.list.push_back(sample);
        // The newest sample that is old enough must stay; those before it are of no use.
        let reach = (retention * 2).max(MIN_REACH);
        while self.list.len() > 1 && sample.at.since(self.list[1].at) > reach {
            self.list.pop_front();
        }
        while self.list.len() > MAX_SAMPLES {
            self.list.pop_front();
        }
    }

    /// The newest sample that is at least `retention` old.
    pub fn older_than(&self, now: Mono, retention: Duration) -> Option<Sample> {
        self.list.iter().rev().find(|sample| now.since_origin() >= (sample.at + retention).since_origin()).copied()
    }

    /// Forgets what was seen before this; all of it without an instant.
    pub fn forget_before(&mut self, first: Option<Mono>) {
        self.list.retain(|sample| first.is_some_and(|first| sample.at >= first));
    }

    /// The newest sample.
    pub fn newest(&self) -> Option<Sample> {
        self.list.back().copied()
    }

    /// The oldest sample of a revision above `compacted`.
    pub fn first_above(&self, compacted: i64) -> Option<Sample> {
        self.list.iter().find(|sample| sample.revision > compacted).copied()
    }

    /// The oldest sample.
    pub fn oldest(&self) -> Option<Sample> {
        self.list.front().copied()
    }

    /// The samples as they are stored: thinned out evenly, aged in cluster time. That was read a while ago: a compaction
    /// that takes minutes must not make them minutes older.
    pub fn stored(&self, now: Mono, cluster_time: ClusterTime) -> Vec<WindowSample> {
        let Some(cluster_time) = cluster_time.latest_at(now) else { return Vec::new() };
        let step = self.list.len().div_ceil(MAX_STORED).max(1);
        self.list
            .iter()
            .step_by(step)
            .filter_map(|sample| {
                let age = chrono::Duration::from_std(now.since(sample.at)).ok()?;
                Some(WindowSample { at: cluster_time.checked_sub_signed(age)?, revision: sample.revision })
            })
            .collect()
    }

    /// Takes over what an earlier instance, here or on another member, had stored. Samples from the future, out of
    /// order or beyond the newest revision are left out: a clock was set, or somebody else wrote them.
    pub fn restore(&mut self, record: &WindowRecord, now: Mono, cluster_time: ClusterTime, newest: i64) {
        let first = self.list.front().copied();
        let mut restored: Vec<Sample> = Vec::new();
        for sample in &record.samples {
            let Ok(age) = (cluster_time.earliest - sample.at).to_std() else { continue };
            let Some(age) = age.checked_sub(DATE_RESOLUTION) else { continue };
            // An instant before the origin cannot be told from the origin, which lies far before the process's start.
            if age > now.since_origin() || sample.revision > newest || sample.revision < 1 {
                continue;
            }
            let sample = Sample { at: now.back(age), revision: sample.revision };
            let in_order = restored.last().is_none_or(|last| last.at <= sample.at && last.revision <= sample.revision);
            let before_ours = first.is_none_or(|first| sample.at <= first.at && sample.revision <= first.revision);
            if in_order && before_ours {
                restored.push(sample);
            }
        }
        for sample in restored.into_iter().rev() {
            self.list.push_front(sample);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::member::MemberId;
    use crate::plan::record::VERSION;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(seconds: u64) -> Mono {
        Mono::new(Duration::from_secs(seconds))
    }

    fn date(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    /// Clocks asked at `asked`, which show these.
    fn clocks(asked: u64, shown: &[i64]) -> ClusterTime {
        ClusterTime::median(at(asked), shown.iter().map(|seconds| date(*seconds)).collect(), shown.len()).unwrap()
    }

    #[test]
    fn one_clock_of_three_that_is_wrong_counts_for_nothing_even_when_one_more_does_not_answer() {
        const NOW: u64 = 100_000;
        let mut samples = Samples::default();
        for age in (0..3 * 3600).rev().step_by(60) {
            samples.add(Sample { at: at(NOW - age), revision: 1 + 3 * 3600 - age as i64 }, 3 * HOUR);
        }
        for off in [-3600, 3600] {
            let some: [&[i64]; 4] = [&[0, 0, 0], &[0, 0, off], &[0, off], &[off, 0]];
            for (written, read) in some.iter().flat_map(|written| some.map(|read| (written, read))) {
                let record = WindowRecord {
                    v: VERSION,
                    compacted: 1,
                    member: MemberId(1),
                    samples: samples.stored(at(NOW), clocks(NOW, written)),
                    extra: Default::default(),
                };
                let mut restored = Samples::default();
                restored.restore(&record, at(NOW), clocks(NOW, read), i64::MAX);
                let named = restored.older_than(at(NOW), HOUR).map(|sample| sample.revision);
                let allowed = 1 + 3 * 3600 - 3600;
                assert!(named.is_none_or(|named| named <= allowed), "{off} {written:?} {read:?}: {named:?}");
                // With all three there is no loss but that of thinning out.
                if written.len() == 3 && read.len() == 3 {
                    assert!(named.is_some_and(|named| named > allowed - 600), "{off} {written:?} {read:?}: {named:?}");
                }
            }
        }
        assert_eq!(
            ClusterTime::median(at(NOW), vec![date(-3600)], 3),
            None,
            "nobody knows whether it is the wrong one"
        );
        assert_eq!(ClusterTime::median(at(NOW), Vec::new(), 0), None);
    }

    #[test]
    fn nothing_younger_than_the_retention_is_named() {
        let mut samples = Samples::default();
        for minute in 0..180 {
            samples.add(Sample { at: at(minute * 60), revision: minute as i64 * 10 }, HOUR);
            if let Some(old) = samples.older_than(at(minute * 60), HOUR) {
                assert_eq!(old.revision, (minute as i64 - 60) * 10);
            } else {
                assert!(minute < 60);
            }
        }
    }

    #[test]
    fn after_a_restore_from_a_backup_no_revision_is_older_than_its_write() {
        let mut samples = Samples::default();
        for minute in 0..120 {
            samples.add(Sample { at: at(minute * 60), revision: 1000 + minute as i64 * 10 }, HOUR);
        }
        // The backup was made at minute 90; the store goes on from there, with a write a second.
        let written_at = |revision: i64| match revision as u64 {
            backed_up @ ..=1900 => (backed_up - 1000) * 6,
            later => later - 1900 + 7200,
        };
        for second in 7200..14_400 {
            samples.add(Sample { at: at(second), revision: 1900 + (second as i64 - 7200) }, HOUR);
            if let Some(old) = samples.older_than(at(second), HOUR) {
                let age = second.saturating_sub(written_at(old.revision));
                assert!(age >= 3600, "{} was written {age} s ago", old.revision);
            }
        }
        assert!(samples.older_than(at(14_399), HOUR).is_some_and(|old| old.revision > 5000), "it goes on");
    }

    #[test]
    fn many_samples_do_not_pile_up() {
        let mut samples = Samples::default();
        for second in 0..200_000 {
            samples.add(Sample { at: at(second), revision: second as i64 }, HOUR);
        }
        assert!(samples.list.len() <= MAX_SAMPLES, "{}", samples.list.len());
        let old = samples.older_than(at(199_999), HOUR).unwrap();
        assert!((196_380..=196_399).contains(&old.revision), "{}", old.revision);
        assert!(samples.stored(at(199_999), clocks(199_999, &[0])).len() <= MAX_STORED);
    }

    #[test]
    fn a_stored_window_is_aged_in_cluster_time_and_never_made_older() {
        let record = |samples: &[(i64, i64)]| WindowRecord {
            v: VERSION,
            compacted: 1,
            member: MemberId(1),
            samples: samples.iter().map(|(s, revision)| WindowSample { at: date(*s), revision: *revision }).collect(),
            extra: Default::default(),
        };
        let now = at(100_000);
        let restore = |samples: &[(i64, i64)]| {
            let mut restored = Samples::default();
            restored.restore(&record(samples), now, clocks(100_000, &[0]), 1000);
            restored
        };
        let restored = restore(&[(-7200, 10), (-3600, 20), (-3500, 30), (50, 40)]);
        // 3600 s old by dates cut to the second may be younger than an hour: not used.
        assert_eq!(restored.older_than(now, HOUR).map(|sample| sample.revision), Some(10));
        assert_eq!(restored.list.len(), 3, "the sample from the future is left out");
        assert!(restore(&[(-7200, 2000)]).list.is_empty(), "a revision that is not there yet");
        assert_eq!(restore(&[(-7200, 20), (-7100, 10)]).list.len(), 1, "revisions never fall");
    }
}
