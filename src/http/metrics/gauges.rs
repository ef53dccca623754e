//! Gauges: views of the snapshot, made anew at each scrape.
//!
//! Nothing is kept between two scrapes, so a label set whose subject is gone (a removed member, a certificate no longer
//! used) is gone too, and what is not known has no sample: a 0 that stands for "unknown" is read by an alert as a fact.

use std::collections::BTreeMap;

use prometheus::proto::{Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::PREFIX;
use crate::plan::snapshot::{Member, Role, Snapshot, Task};

/// Alarms that etcd knows. Any other name becomes `OTHER`, so that the label stays a closed list.
const ALARMS: [&str; 2] = ["NOSPACE", "CORRUPT"];

type Sample<'a> = (Vec<(&'static str, &'a str)>, f64);

/// All gauges that have a value.
pub(super) fn families(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let mut out = Families(Vec::new());
    process(&mut out, snapshot);
    tasks(&mut out, snapshot);
    cluster(&mut out, snapshot);
    if let Some(local) = snapshot.members.iter().find(|member| member.local) {
        member(&mut out, local);
    }
    out.0
}

fn process(out: &mut Families, snapshot: &Snapshot) {
    out.add(
        "build_info",
        "Always 1; the label tells the release.",
        [(vec![("version", snapshot.janitor.version.as_str())], 1.0)],
    );
    out.one(
        "config_last_reload_successful",
        "Whether the newest attempt to load the configuration succeeded.",
        Some(flag(snapshot.config.last_reload_successful)),
    );
    // Several files may serve one usage: two samples with equal labels would make the whole scrape invalid, and the one
    // that ends first is the one that matters.
    let mut ends: BTreeMap<&str, f64> = BTreeMap::new();
    for certificate in &snapshot.certificates {
        let end = certificate.not_after.timestamp() as f64;
        ends.entry(certificate.usage.as_str()).and_modify(|seen| *seen = seen.min(end)).or_insert(end);
    }
    out.add(
        "tls_certificate_not_after_timestamp_seconds",
        "End of validity of the TLS material in use, the earliest of each usage.",
        ends.into_iter().map(|(usage, end)| (vec![("usage", usage)], end)),
    );
}

fn tasks(out: &mut Families, snapshot: &Snapshot) {
    let mut each = |name, help, value: &dyn Fn(&Task) -> Option<f64>| {
        let seen: BTreeMap<&str, f64> =
            snapshot.tasks.iter().filter_map(|task| Some((task.task.name(), value(task)?))).collect();
        out.add(name, help, seen.into_iter().map(|(task, value)| (vec![("task", task)], value)));
    };
    each("task_in_progress", "Whether a run of the task is under way.", &|task| Some(flag(task.in_progress)));
    each("task_last_success_timestamp_seconds", "When a run of the task last ended well.", &|task| {
        task.last_success.map(|at| at.timestamp() as f64)
    });
    each("task_next_run_timestamp_seconds", "When the task is due next, before jitter.", &|task| {
        task.next_run.map(|at| at.timestamp() as f64)
    });
    each("task_schedule_interval_seconds", "Time between the next two firings of the task's schedule.", &|task| {
        task.interval_seconds
    });
}

fn cluster(out: &mut Families, snapshot: &Snapshot) {
    out.one(
        "defrag_forecast_seconds",
        "How long a defrag of the local member would take, as far as is known.",
        snapshot.forecast_seconds,
    );
    out.one(
        "quota_reached_timestamp_seconds",
        "When the local member's file reaches its quota, at the growth of the last hours.",
        snapshot.growth.as_ref().map(|growth| growth.reached_at.timestamp() as f64),
    );
    out.one(
        "compaction_revision",
        "The highest revision that is known to be compacted.",
        snapshot.compact_revision.map(|revision| revision as f64),
    );
    out.one("turn_held", "Whether this janitor holds the turn.", Some(flag(snapshot.turn_held)));
    // No hold in the snapshot means "none" only once it was looked for.
    let held = snapshot.hold.is_some() || snapshot.hold_unreadable.is_some();
    let hold = (held || snapshot.hold_read_at.is_some()).then_some(flag(held));
    out.one("hold_active", "Whether an operator holds all maintenance of the cluster.", hold);
    let known = snapshot.etcd_up.map(|_| flag(snapshot.rescue.is_some()));
    out.one("rescue_active", "Whether NOSPACE is up and this janitor takes part in the rescue.", known);
    let blocked = snapshot.rescue.as_ref().and_then(|rescue| rescue.waiting_for.as_ref());
    out.add(
        "rescue_blocked",
        "1 with the reason that is in the way of the rescue, while there is one.",
        blocked.map(|blocked| (vec![("reason", blocked.reason.name())], 1.0)),
    );
    out.one("etcd_up", "Whether the local member answered last time.", snapshot.etcd_up.map(flag));

    let asked = snapshot.etcd_up == Some(true);
    let mut alarms: BTreeMap<&str, f64> = BTreeMap::new();
    if asked {
        alarms.extend(ALARMS.map(|alarm| (alarm, 0.0)));
    }
    for up in &snapshot.alarms {
        let alarm = ALARMS.into_iter().find(|known| *known == up.alarm).unwrap_or("OTHER");
        alarms.insert(alarm, 1.0);
    }
    out.add(
        "alarm_active",
        "Whether the alarm is up on any member.",
        alarms.into_iter().map(|(alarm, value)| (vec![("alarm", alarm)], value)),
    );
}

/// The local member only: with the others' too, N janitors would export N² series that say the same.
fn member(out: &mut Families, member: &Member) {
    let id = member.id.to_string();
    out.add(
        "member_info",
        "Always 1; the labels tell the local member's id and name.",
        [(vec![("member_id", id.as_str()), ("name", member.name.as_str())], 1.0)],
    );
    let bytes = |value: Option<u64>| value.map(|bytes| bytes as f64);
    out.one("member_db_size_bytes", "Size of the local member's database file.", bytes(member.db_size));
    out.one(
        "member_db_size_in_use_bytes",
        "What of the local member's database file is in use.",
        bytes(member.db_size_in_use),
    );
    out.one(
        "member_db_quota_bytes",
        "Size at which the local member raises NOSPACE; 0 when its quota is disabled.",
        bytes(member.quota),
    );
    let leads = (member.role != Role::Unknown).then(|| flag(member.role == Role::Leader));
    out.one("member_is_leader", "Whether the local member leads.", leads);
}

fn flag(value: bool) -> f64 {
    if value { 1.0 } else { 0.0 }
}

struct Families(Vec<MetricFamily>);

impl Families {
    fn one(&mut self, name: &str, help: &str, value: Option<f64>) {
        self.add(name, help, value.map(|value| (Vec::new(), value)));
    }

    fn add<'a>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample<'a>>) {
        let metrics: Vec<Metric> = samples
            .into_iter()
            .filter(|(_, value)| value.is_finite())
            .map(|(labels, value)| {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                let mut metric = Metric::from_label(labels.into_iter().map(pair).collect());
                metric.set_gauge(gauge);
                metric
            })
            .collect();
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(format!("{PREFIX}_{name}"));
        family.set_help(help.to_owned());
        family.set_field_type(MetricType::GAUGE);
        family.set_metric(metrics);
        self.0.push(family);
    }
}

fn pair((name, value): (&str, &str)) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}
