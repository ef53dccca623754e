//! A revision whose age nobody saw but the window on record.
//!
//! Whoever may write under the prefix can write another window, and etcd keeps no time with a revision. What they cannot
//! write is the past: every window that was ever stored can still be read as of its time, back to the compacted revision,
//! and each names instants that had passed by then. So a revision is no older than the newest date in any window that was
//! on record before it. Where that chain has a gap, nothing is believed.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Compactor, Keep, Phase, Step};
use crate::plan::reason::{Blocked, Outcome, Reason};
use crate::plan::retention::ClusterTime;
use crate::plan::time::Mono;

/// Which windows were on record up to a revision, read from the store's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// There was one at every revision since the compacted one, and this is the newest date in any of them.
    Dated(DateTime<Utc>),
    /// There was a revision without one, one that cannot be read, none with a date, or too many.
    Broken,
}

/// A compaction that waits for a [`Trace`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OnRecord {
    target: i64,
    at: Option<ClusterTime>,
    kept: Duration,
    /// What was written later than this, by the members' clocks, is too young.
    not_after: DateTime<Utc>,
}

impl Compactor {
    /// Compacts to what this process itself saw grow old; what only the record says is borne out first.
    pub(super) fn trace_or_compact(&mut self, target: i64, at: Option<ClusterTime>, now: Mono) -> Step {
        let kept = match self.policy.keep {
            _ if self.rescue => self.rescue_keeps(self.kubernetes),
            Keep::Age(age) => age,
            Keep::Newest(_) => Duration::ZERO,
        };
        let seen = |sample: Mono| self.first_sample.is_some_and(|first| sample >= first);
        if kept.is_zero() || self.samples.older_than(now, kept).is_none_or(|old| seen(old.at)) {
            return self.compact(target, at);
        }
        let clocks = self.restored.and_then(|clocks| clocks.earliest_before(now, kept));
        let not_after = clocks.unwrap_or(DateTime::<Utc>::MIN_UTC);
        self.phase = Phase::Tracing(OnRecord { target, at, kept, not_after });
        Step::Trace(target)
    }

    /// What was on record up to `target`.
    pub fn traced(&mut self, target: i64, trace: Result<Trace, Blocked>) -> Option<Step> {
        let Phase::Tracing(claim) = self.phase else { return None };
        if claim.target != target {
            return None;
        }
        let written = match trace {
            Err(blocked) => return Some(self.end(Outcome::Skipped(blocked.reason), &blocked.detail, None)),
            Ok(Trace::Dated(date)) if date <= claim.not_after => return Some(self.compact(target, claim.at)),
            Ok(Trace::Dated(date)) => format!("it was written after {date}"),
            Ok(Trace::Broken) => "no unbroken series of earlier records bears that out".to_owned(),
        };
        self.samples.forget_before(self.first_sample);
        self.watched_since = self.watched_since.max(self.started);
        let detail = format!(
            "the record says that revision {target} is older than {} s, but {written}: what this janitor sees itself counts",
            claim.kept.as_secs()
        );
        Some(self.end(Outcome::Skipped(Reason::NotNeeded), &detail, None))
    }
}
