//! A compaction for a rescue: when etcd refuses every write, keeping history costs more than it is worth.

use std::time::Duration;

use super::{Compactor, Phase, Step, Survey};
use crate::plan::reason::{Blocked, Outcome, Reason};
use crate::plan::rescue::KeptFor;
use crate::plan::time::{Mono, Now};

/// A kube-apiserver itself keeps five minutes for its watchers and paginated lists.
const KUBERNETES_KEEPS: Duration = Duration::from_secs(300);

impl Compactor {
    /// A rescue asks for a compaction. One that waits for others is turned into it; none while one is carried out.
    pub fn due_for_rescue(&mut self) -> Option<Step> {
        if self.is_writing() {
            return None;
        }
        self.rescue = true;
        self.phase = Phase::Surveying { waited: None };
        Some(Step::Survey)
    }

    /// Who else compacts, and for whom, does not matter now: etcd's own compactor was not enough, and a kube-apiserver's
    /// needs a write.
    pub(super) fn judge_for_rescue(&mut self, survey: &Survey, now: Now) -> Step {
        match self.rescue_target(survey, now.mono) {
            Ok(target) => self.trace_or_compact(target, None, now.mono),
            Err(blocked) => self.end(Outcome::Skipped(blocked.reason), &blocked.detail, None),
        }
    }

    fn rescue_target(&self, survey: &Survey, now: Mono) -> Result<i64, Blocked> {
        if survey.corrupt {
            return Err(Blocked::new(Reason::Corrupt, "etcd refuses to compact while CORRUPT is up"));
        }
        if let Some(hold) = &survey.hold {
            return Err(Blocked::new(Reason::Hold, hold.clone()));
        }
        let compacted = survey.compact_revision.unwrap_or(0).max(self.sent);
        let kept = self.rescue_keeps(survey.kubernetes);
        let target = if kept.is_zero() {
            survey.revision
        } else {
            self.samples.older_than(now, kept).map_or(0, |sample| sample.revision)
        };
        if target > compacted.max(0) {
            return Ok(target);
        }
        let detail = if compacted >= survey.revision {
            format!("everything is compacted, up to revision {compacted}")
        } else {
            format!("what is left to compact is younger than {} s", kept.as_secs())
        };
        Err(Blocked::new(Reason::NotNeeded, detail))
    }

    /// Why not everything can be compacted for a rescue at once.
    pub fn rescue_keeps_for(&self) -> KeptFor {
        let to_head = Compactor::keeps(true, self.policy.rescue_retention, self.kubernetes);
        if self.rescue_keeps(self.kubernetes) > to_head {
            KeptFor::Retention
        } else if self.kubernetes {
            KeptFor::Kubernetes
        } else {
            KeptFor::Nobody
        }
    }

    pub(super) fn rescue_keeps(&self, kubernetes: bool) -> Duration {
        Compactor::keeps(self.policy.rescue_to_head, self.policy.rescue_retention, kubernetes)
    }

    fn keeps(to_head: bool, retention: Duration, kubernetes: bool) -> Duration {
        match (to_head, kubernetes) {
            (true, false) => Duration::ZERO,
            (true, true) => KUBERNETES_KEEPS,
            (false, true) => retention.max(KUBERNETES_KEEPS),
            (false, false) => retention,
        }
    }

    /// When more can be compacted for a rescue than was: when the next sample above the compacted revision is old enough.
    /// None when nothing newer is known.
    pub fn rescue_possible_at(&self, now: Now) -> Option<Now> {
        let compacted = self.seen.unwrap_or(0).max(self.sent);
        let kept = self.rescue_keeps(self.kubernetes);
        let at = self.samples.first_above(compacted)?.at + kept;
        Some(crate::plan::step::later(now, at.since(now.mono)))
    }
}
