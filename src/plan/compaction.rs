//! When to compact, to which revision, and who does it.
//!
//! Every janitor samples its own member's revision. Who leads, compacts to the newest revision that is older than the
//! retention; the others follow one after the other if it stays undone, since a janitor may be missing on the leader.

use std::collections::VecDeque;
use std::time::Duration;

use super::member::MemberId;
use super::reason::{Blocked, Outcome, Reason};
use super::record::{VERSION, WindowRecord};
use super::retention::{ClusterTime, Sample, Samples};
use super::snapshot::OthersCompact;
use super::time::{Mono, Now};
use on_record::OnRecord;
pub use on_record::Trace;

/// How long each further follower waits for those before it.
const PER_RANK: Duration = Duration::from_secs(60);
/// Another janitor stores its window a moment after it compacted; only what stays unexplained this long is foreign.
const EXPLAIN_WITHIN: Duration = Duration::from_secs(30);
/// etcd's own compactor in revision mode runs every five minutes.
const REVISION_MODE_WATCH: Duration = Duration::from_secs(600);
/// etcd's own periodic compactor runs every retention, or every hour where that is shorter.
const FOREIGN_PERIOD: Duration = Duration::from_secs(3600);

/// Own revisions that are remembered; a round of seven members makes some sixty.
const MAX_OWN: usize = 4096;

/// What must not be compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Revisions younger than this.
    Age(Duration),
    /// This many of the newest.
    Newest(u64),
}

/// The part of the configuration that compactions are decided by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What must not be compacted.
    pub keep: Keep,
    /// Decide and say, send nothing.
    pub dry_run: bool,
    /// Compact where somebody else compacts.
    pub force_beside_others: bool,
    /// Compact a kube-apiserver's keyspace.
    pub force_kubernetes: bool,
    /// What a rescue does not compact: revisions younger than this.
    pub rescue_retention: Duration,
    /// Whether a rescue may compact everything.
    pub rescue_to_head: bool,
}

impl Policy {
    fn window(&self) -> Duration {
        match self.keep {
            Keep::Age(age) => age,
            Keep::Newest(_) => REVISION_MODE_WATCH,
        }
    }
}

/// What is read before a compaction.
#[derive(Debug, Clone, PartialEq)]
pub struct Survey {
    /// Who leads, as the local member says.
    pub leader: Option<MemberId>,
    /// Voters, in the order of their ids.
    pub voters: Vec<MemberId>,
    /// Whether the local member is a learner.
    pub learner: bool,
    /// CORRUPT is up: etcd refuses to compact.
    pub corrupt: bool,
    /// Newest revision of the local member.
    pub revision: i64,
    /// Highest compacted revision; none where the metric is missing.
    pub compact_revision: Option<i64>,
    /// A kube-apiserver's `compact_rev_key` is there.
    pub kubernetes: bool,
    /// The stored window.
    pub window: Option<WindowRecord>,
    /// An operator's pause that is in force.
    pub hold: Option<String>,
    /// What the members' clocks say, where enough of them were read.
    pub cluster_time: Option<ClusterTime>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Read a [`Survey`].
    Survey,
    /// Read which windows were on record when the store was at this revision. Answer: [`Compactor::traced`].
    Trace(i64),
    /// Compact to one below this revision, then to it.
    Compact(i64),
    /// Store this beside the compaction.
    Store(WindowRecord),
    /// The run is over.
    Ended {
        /// How.
        outcome: Outcome,
        /// Numbers and names.
        detail: String,
        /// What was compacted to.
        revision: Option<i64>,
    },
}

/// What a follower leaves to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Undone {
    /// To which revision it would compact.
    target: i64,
    /// What was compacted before any janitor was due.
    before: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Idle,
    Surveying { waited: Option<Undone> },
    Waiting { until: Mono, undone: Undone },
    Tracing(OnRecord),
    Compacting { target: i64, at: Option<ClusterTime> },
    Storing { target: i64, said: String },
}

/// The plan of one janitor's compactions.
#[derive(Debug, Clone)]
pub struct Compactor {
    me: MemberId,
    policy: Policy,
    samples: Samples,
    /// Revisions above the compacted one that were made under our own prefix, oldest first.
    own: VecDeque<i64>,
    phase: Phase,
    /// The run under way is for a rescue.
    rescue: bool,
    /// The newest survey found a kube-apiserver's keyspace.
    kubernetes: bool,
    started: Mono,
    /// When this process first sampled: what is older was on record.
    first_sample: Option<Mono>,
    /// What the members' clocks said when the window on record was taken over.
    restored: Option<ClusterTime>,
    /// Since when every movement of the compact revision is explained by janitors.
    watched_since: Mono,
    seen: Option<i64>,
    sent: i64,
    suspect: Option<(i64, Mono)>,
    foreign_at: Option<Mono>,
    /// When the compact revision was last read; none: the newest survey did not.
    surveyed: Option<Mono>,
}

impl Undone {
    /// Whether it was done meanwhile. To which revision does not matter: whoever did it has samples of its own, and the same
    /// retention.
    fn is_done(self, survey: &Survey) -> bool {
        let compacted = survey.compact_revision.unwrap_or(0);
        let by_a_janitor = survey.window.as_ref().is_some_and(|window| window.compacted > self.before);
        compacted >= self.target || compacted > self.before && by_a_janitor
    }
}

impl Compactor {
    /// A plan that knows nothing of the past yet.
    pub fn new(me: MemberId, policy: Policy, now: Mono) -> Self {
        Compactor {
            me,
            policy,
            samples: Samples::default(),
            own: VecDeque::new(),
            phase: Phase::Idle,
            rescue: false,
            kubernetes: false,
            started: now,
            first_sample: None,
            restored: None,
            watched_since: now,
            seen: None,
            sent: 0,
            suspect: None,
            foreign_at: None,
            surveyed: None,
        }
    }

    /// The configuration changed.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// The store was at `revision` just now.
    pub fn sample(&mut self, revision: i64, now: Mono) {
        self.first_sample.get_or_insert(now);
        let sample = Sample { at: now, revision };
        self.samples.add(sample, self.policy.window().max(self.policy.rescue_retention));
    }

    /// These revisions were made under our own prefix, by whichever janitor. Which, not how many: they are told of a
    /// moment later than the sample that already contains them.
    pub fn own_revisions(&mut self, revisions: &[i64]) {
        self.own.extend(revisions);
        while self.own.len() > MAX_OWN {
            self.own.pop_front();
        }
    }

    /// Whether a run is under way.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// Whether the store is being compacted right now: figures move.
    pub fn is_compacting(&self) -> bool {
        matches!(self.phase, Phase::Compacting { .. })
    }

    /// Whether etcd is being told of a compaction, or the window still is to be stored beside one: without it the others take
    /// the compaction for somebody else's.
    pub fn is_writing(&self) -> bool {
        matches!(self.phase, Phase::Compacting { .. } | Phase::Storing { .. })
    }

    /// Where it stands, in words.
    pub fn phase(&self) -> &'static str {
        match self.phase {
            Phase::Idle => "idle",
            Phase::Surveying { .. } => "reading the cluster",
            Phase::Waiting { .. } => "waiting for the leader's janitor",
            Phase::Tracing(_) => "reading earlier records",
            Phase::Compacting { .. } => "compacting",
            Phase::Storing { .. } => "storing the window",
        }
    }

    /// What it would compact to, and until when it gives those before it time to do it.
    pub fn waits(&self) -> Option<(i64, Mono)> {
        match self.phase {
            Phase::Waiting { until, undone } => Some((undone.target, until)),
            _ => None,
        }
    }

    /// When [`Compactor::tick`] has something to do next.
    pub fn wake_at(&self) -> Option<Mono> {
        self.waits().map(|(_, until)| until)
    }

    /// The schedule fired. A run under way goes on.
    pub fn due(&mut self) -> Option<Step> {
        if !self.is_idle() {
            return None;
        }
        self.phase = Phase::Surveying { waited: None };
        Some(Step::Survey)
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Mono) -> Option<Step> {
        match self.phase {
            Phase::Waiting { until, undone } if now >= until => {
                self.phase = Phase::Surveying { waited: Some(undone) };
                Some(Step::Survey)
            }
            _ => None,
        }
    }

    /// Gives up what has not been sent.
    pub fn stop(&mut self, reason: Reason) -> Option<Step> {
        match self.phase {
            Phase::Surveying { .. } | Phase::Waiting { .. } | Phase::Tracing(_) => {
                Some(self.end(Outcome::Skipped(reason), "", None))
            }
            _ => None,
        }
    }

    /// The survey came back.
    pub fn surveyed(&mut self, survey: Result<Survey, Blocked>, now: Now) -> Option<Step> {
        let Phase::Surveying { waited } = self.phase else { return None };
        let survey = match survey {
            Ok(survey) => survey,
            Err(blocked) => {
                self.surveyed = None;
                return Some(self.end(Outcome::Skipped(blocked.reason), &blocked.detail, None));
            }
        };
        let before = self.seen.map(|seen| seen.max(self.sent));
        self.learn(&survey, now.mono);
        if self.rescue {
            return Some(self.judge_for_rescue(&survey, now));
        }
        Some(match self.judge(&survey, now.mono) {
            Err(blocked) => self.end(Outcome::Skipped(blocked.reason), &blocked.detail, None),
            Ok(target) => match waited {
                Some(undone) if undone.is_done(&survey) => {
                    self.end(Outcome::Skipped(Reason::NotNeeded), "another member's janitor compacted", None)
                }
                None if survey.leader != Some(self.me) => {
                    let before = before.or(survey.compact_revision).unwrap_or(0);
                    let until = now.mono + PER_RANK * self.rank(&survey);
                    self.phase = Phase::Waiting { until, undone: Undone { target, before } };
                    return None;
                }
                _ => self.trace_or_compact(target, survey.cluster_time, now.mono),
            },
        })
    }

    fn compact(&mut self, target: i64, at: Option<ClusterTime>) -> Step {
        if self.policy.dry_run {
            let detail = format!("would compact to revision {target}");
            return self.end(Outcome::Skipped(Reason::DryRun), &detail, None);
        }
        self.phase = Phase::Compacting { target, at };
        Step::Compact(target)
    }

    /// The compaction was carried out (or was done already), or not.
    pub fn compacted(&mut self, result: Result<String, Blocked>, now: Mono) -> Option<Step> {
        let Phase::Compacting { target, at } = self.phase else { return None };
        let said = match result {
            Ok(said) => said,
            Err(blocked) => {
                let failure = super::reason::Failure::Unavailable;
                return Some(self.end(Outcome::Failed(failure), &blocked.detail, None));
            }
        };
        self.sent = self.sent.max(target);
        if self.rescue {
            // The window cannot be stored under NOSPACE. The next compaction stores it.
            return Some(self.end(Outcome::Done, &said, Some(target)));
        }
        let Some(at) = at else {
            // Without a cluster clock the samples have no age that another instance could rely on.
            return Some(self.end(Outcome::Done, &said, Some(target)));
        };
        Some(self.store(target, at, said, now))
    }

    fn store(&mut self, target: i64, at: ClusterTime, said: String, now: Mono) -> Step {
        self.phase = Phase::Storing { target, said };
        Step::Store(WindowRecord {
            v: VERSION,
            compacted: target,
            member: self.me,
            samples: self.samples.stored(now, at),
            extra: Default::default(),
        })
    }

    /// The process is about to end: a compaction that was sent is not waited for any more, and explained to the others.
    pub fn hurry(&mut self, now: Mono) -> Option<Step> {
        let Phase::Compacting { target, at: Some(at) } = self.phase else { return None };
        Some(self.store(target, at, format!("stopped while compacting to revision {target}"), now))
    }

    /// The window was stored, or not; the compaction is done either way.
    pub fn stored(&mut self) -> Option<Step> {
        let Phase::Storing { target, said } = self.phase.clone() else { return None };
        Some(self.end(Outcome::Done, &said, Some(target)))
    }

    fn end(&mut self, outcome: Outcome, detail: &str, revision: Option<i64>) -> Step {
        self.phase = Phase::Idle;
        self.rescue = false;
        Step::Ended { outcome, detail: detail.to_owned(), revision }
    }

    /// Followers in the order of their ids, from 1.
    fn rank(&self, survey: &Survey) -> u32 {
        let before = survey.voters.iter().filter(|id| Some(**id) != survey.leader && **id < self.me).count();
        u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// Takes the stored window over once, and notices when the compact revision moves without any janitor.
    fn learn(&mut self, survey: &Survey, now: Mono) {
        self.kubernetes = survey.kubernetes;
        if survey.revision < self.sent || self.seen.is_some_and(|seen| survey.revision < seen) {
            // Restored from a backup: what was compacted and written in the store before says nothing of this one.
            (self.sent, self.seen, self.suspect) = (0, None, None);
            self.own.retain(|revision| *revision <= survey.revision);
        }
        let explained = survey.window.as_ref().map_or(0, |window| window.compacted).max(self.sent);
        let observed = survey.compact_revision;
        self.surveyed = observed.map(|_| now);
        if self.restored.is_none()
            && let Some(cluster_time) = survey.cluster_time
        {
            self.restored = Some(cluster_time);
            if let Some(window) = &survey.window {
                self.samples.restore(window, now, cluster_time, survey.revision);
                if observed == Some(window.compacted) {
                    // Nobody else has compacted since: what was watched before the restart counts.
                    self.watched_since = self.samples.oldest().map_or(now, |oldest| oldest.at);
                }
            }
        }
        let Some(observed) = observed else { return };
        let moved = self.seen.is_some_and(|seen| observed > seen);
        self.seen = Some(observed);
        if observed <= explained {
            self.suspect = None;
            return;
        }
        match self.suspect {
            // The first movement that nobody explains, however often it has moved since.
            Some((revision, since)) if revision > explained && now.since(since) >= EXPLAIN_WITHIN => {
                let at = if moved { now } else { since };
                self.foreign_at = Some(self.foreign_at.map_or(at, |before| before.max(at)));
            }
            Some((revision, _)) if revision > explained => {}
            // At the first survey nobody knows who compacted, and when.
            suspect if moved || suspect.is_some() => self.suspect = Some((observed, now)),
            _ => {}
        }
    }

    /// Why nothing is compacted now, or to which revision.
    fn judge(&self, survey: &Survey, now: Mono) -> Result<i64, Blocked> {
        let skip = |reason: Reason, detail: String| Err(Blocked::new(reason, detail));
        if survey.learner {
            return skip(Reason::Learner, "the local member is a learner".to_owned());
        }
        if survey.leader.is_none() {
            return skip(Reason::NoLeader, "the local member knows no leader".to_owned());
        }
        if survey.corrupt {
            return skip(Reason::Corrupt, "etcd refuses to compact while CORRUPT is up".to_owned());
        }
        if let Some(hold) = &survey.hold {
            return skip(Reason::Hold, hold.clone());
        }
        if survey.kubernetes && !self.policy.force_kubernetes {
            let detail = "a kube-apiserver keeps its data here and compacts it (compaction.when_kubernetes)";
            return skip(Reason::NotNeeded, detail.to_owned());
        }
        if !self.policy.force_beside_others {
            self.nobody_else_compacts(now)?;
        }
        let compacted = survey.compact_revision.unwrap_or(0).max(self.sent);
        let own = |upto: i64| self.own.iter().filter(|revision| (compacted + 1..=upto).contains(*revision)).count();
        let target = match self.policy.keep {
            // Our own windows push nothing out: else each would be a reason for the next compaction, writes or none.
            Keep::Newest(keep) => {
                let keep = i64::try_from(keep.saturating_add(own(survey.revision) as u64)).unwrap_or(i64::MAX);
                survey.revision.saturating_sub(keep)
            }
            Keep::Age(age) => match self.samples.older_than(now, age) {
                Some(sample) => sample.revision,
                None => {
                    let watched = now.since(self.samples.oldest().map_or(self.started, |oldest| oldest.at));
                    let detail = format!(
                        "nothing is known to be older than {} s yet; watched for {} s",
                        age.as_secs(),
                        watched.as_secs()
                    );
                    return skip(Reason::NotNeeded, detail);
                }
            },
        };
        if target <= compacted.max(0) {
            return skip(Reason::NotNeeded, format!("revision {target} is compacted already (up to {compacted})"));
        }
        let foreign = u64::try_from(target - compacted).unwrap_or(0).saturating_sub(own(target) as u64);
        if foreign == 0 {
            return skip(Reason::NotNeeded, format!("only janitors wrote since revision {compacted}"));
        }
        Ok(target)
    }

    /// Whether somebody beside the janitors compacts, as the surveys tell; none: the newest one could not tell.
    pub fn others(&self, now: Mono) -> Option<OthersCompact> {
        let surveyed = self.surveyed?;
        Some(if self.seen_somebody(now).is_some() {
            OthersCompact::Somebody
        } else if self.suspect.is_some() {
            OthersCompact::Suspected
        } else if surveyed.since(self.watched_since) < self.policy.window() {
            OthersCompact::Watching
        } else {
            OthersCompact::Nobody
        })
    }

    /// How long ago somebody else compacted, until that is so long ago that it was the last time.
    fn seen_somebody(&self, now: Mono) -> Option<Duration> {
        let quiet_for = self.policy.window().max(FOREIGN_PERIOD) * 3 / 2;
        self.foreign_at.map(|at| now.since(at)).filter(|ago| *ago < quiet_for)
    }

    fn nobody_else_compacts(&self, now: Mono) -> Result<(), Blocked> {
        let window = self.policy.window();
        if let Some(ago) = self.seen_somebody(now) {
            let detail = format!(
                "somebody else compacts (seen {} s ago): etcd's auto-compaction or a tool (compaction.when_etcd_compacts)",
                ago.as_secs()
            );
            return Err(Blocked::new(Reason::NotNeeded, detail));
        }
        if let Some((revision, _)) = self.suspect {
            let detail = format!("waits to see who compacted to revision {revision}");
            return Err(Blocked::new(Reason::NotNeeded, detail));
        }
        let watched = now.since(self.watched_since);
        if watched < window {
            let detail = format!(
                "watches for {} s whether somebody else compacts; {} s so far",
                window.as_secs(),
                watched.as_secs()
            );
            return Err(Blocked::new(Reason::NotNeeded, detail));
        }
        Ok(())
    }
}

mod for_rescue;
mod on_record;

#[cfg(test)]
mod tests;
