//! Prometheus metrics. `docs/metrics.md` describes each one; a test keeps the two in step.
//!
//! Counters and histograms live here and the daemon moves them; gauges are read from the [`Snapshot`] at each scrape.
//! There are two registries because the crate's prefix would also be put before `process_*`, which every dashboard
//! expects bare. The crate's global default registry is not used: tests would share it.

mod gauges;
mod process;

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, Result, TextEncoder,
};

use crate::plan::reason::{Failure, Outcome, Reason};
use crate::plan::snapshot::{Snapshot, TaskKind};

/// Before the name of every metric but `process_*`.
pub const PREFIX: &str = "etcd_janitor";

/// Of the text that [`Metrics::render`] makes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// From a compaction's tenth of a second to the half hour of a large, slow disk.
const TASK_BUCKETS: [f64; 12] = [0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0];
/// Up to the default window.
const WAIT_BUCKETS: [f64; 11] = [0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0];
/// Up to the second after which a look is made again.
const LOOK_BUCKETS: [f64; 11] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

/// All metrics of one process.
pub struct Metrics {
    ours: Registry,
    process: Registry,
    runs: IntCounterVec,
    skips: IntCounterVec,
    duration: HistogramVec,
    reclaimed: IntCounter,
    turn_wait: Histogram,
    turn_lost: IntCounter,
    look_to_send: Histogram,
}

impl Metrics {
    /// Everything that can be counted, at 0: `rate()` misses the first increment of a series that appears with it.
    pub fn new() -> Result<Self> {
        let ours = Registry::new_custom(Some(PREFIX.to_owned()), None)?;
        let process = Registry::new();
        process.register(Box::new(process::Process::new()))?;

        let runs = IntCounterVec::new(
            Opts::new("task_runs_total", "Runs of the task that ended, by how they ended."),
            &["task", "outcome"],
        )?;
        let skips = IntCounterVec::new(
            Opts::new("task_skips_total", "Runs of the task that were skipped, by the reason."),
            &["task", "reason"],
        )?;
        let duration = HistogramVec::new(
            HistogramOpts::new("task_duration_seconds", "How long the task's call took, when one was sent.")
                .buckets(TASK_BUCKETS.to_vec()),
            &["task"],
        )?;
        let reclaimed = IntCounter::new(
            "defrag_reclaimed_bytes_total",
            "Bytes by which defrags made the local member's database file smaller.",
        )?;
        let turn_wait = Histogram::with_opts(
            HistogramOpts::new("turn_wait_seconds", "Time in the queue before the turn was reached.")
                .buckets(WAIT_BUCKETS.to_vec()),
        )?;
        let turn_lost = IntCounter::new("turn_lost_total", "Turns that were lost while they were needed.")?;
        let look_to_send = Histogram::with_opts(
            HistogramOpts::new("look_to_send_seconds", "Time between the last look and the sending of Defragment.")
                .buckets(LOOK_BUCKETS.to_vec()),
        )?;

        for task in TaskKind::ALL {
            for outcome in
                [Outcome::Done, Outcome::Skipped(Reason::Disabled), Outcome::Failed(Failure::Refused), Outcome::Unknown]
            {
                runs.get_metric_with_label_values(&[task.name(), outcome.name()])?;
            }
            for reason in Reason::ALL {
                skips.get_metric_with_label_values(&[task.name(), reason.name()])?;
            }
            duration.get_metric_with_label_values(&[task.name()])?;
        }
        let collectors: [Box<dyn Collector>; 7] = [
            Box::new(runs.clone()),
            Box::new(skips.clone()),
            Box::new(duration.clone()),
            Box::new(reclaimed.clone()),
            Box::new(turn_wait.clone()),
            Box::new(turn_lost.clone()),
            Box::new(look_to_send.clone()),
        ];
        for collector in collectors {
            ours.register(collector)?;
        }
        Ok(Metrics { ours, process, runs, skips, duration, reclaimed, turn_wait, turn_lost, look_to_send })
    }

    /// Adds a collector of another layer. Its names are given without the prefix.
    pub fn register(&self, collector: Box<dyn Collector>) -> Result<()> {
        self.ours.register(collector)
    }

    /// A run of `task` ended. `took` is the time of the call itself; none when nothing was sent.
    pub fn run_ended(&self, task: TaskKind, outcome: Outcome, took: Option<Duration>) {
        // The labels are the closed lists that `new` went through, in the same number: these cannot fail.
        if let Ok(runs) = self.runs.get_metric_with_label_values(&[task.name(), outcome.name()]) {
            runs.inc();
        }
        if let Outcome::Skipped(reason) = outcome
            && let Ok(skips) = self.skips.get_metric_with_label_values(&[task.name(), reason.name()])
        {
            skips.inc();
        }
        if let Some(took) = took
            && let Ok(duration) = self.duration.get_metric_with_label_values(&[task.name()])
        {
            duration.observe(took.as_secs_f64());
        }
    }

    /// A defrag made the file smaller by `bytes`.
    pub fn reclaimed(&self, bytes: u64) {
        self.reclaimed.inc_by(bytes);
    }

    /// The turn was reached after `waited`.
    pub fn turn_waited(&self, waited: Duration) {
        self.turn_wait.observe(waited.as_secs_f64());
    }

    /// The turn was lost while it was needed: the lease ran out or the key went away.
    pub fn turn_lost(&self) {
        self.turn_lost.inc();
    }

    /// `Defragment` went out `gap` after the look that allowed it.
    pub fn look_to_send(&self, gap: Duration) {
        self.look_to_send.observe(gap.as_secs_f64());
    }

    /// The text format 0.0.4.
    pub fn render(&self, snapshot: &Snapshot) -> String {
        let mut families = self.ours.gather();
        families.extend(gauges::families(snapshot));
        families.extend(self.process.gather());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        let mut text = String::with_capacity(16 * 1024);
        for family in &families {
            // One family that cannot be written must not take the others with it.
            if let Err(error) = TextEncoder::new().encode_utf8(std::slice::from_ref(family), &mut text) {
                tracing::debug!(metric = family.name(), %error, "left out of a scrape");
            }
        }
        text
    }
}
