//! What is exported, when, and that it is documented.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use etcd_janitor::http::Metrics;
use etcd_janitor::plan::member::MemberId;
use etcd_janitor::plan::reason::{Blocked, Failure, Outcome, Reason};
use etcd_janitor::plan::snapshot::{Alarm, Rescue, Role, Snapshot, TaskKind};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts};

use crate::running::*;
use crate::sample;

/// Samples by their full name with labels.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut samples = BTreeMap::new();
    for line in lines {
        let (name, value) = line.rsplit_once(' ').expect("name and value");
        let before = samples.insert(name.to_owned(), value.parse().expect("a number"));
        assert_eq!(before, None, "twice: {name}");
    }
    samples
}

/// With everything that other layers register.
fn complete() -> Metrics {
    let metrics = Metrics::new().unwrap();
    let requests = IntCounterVec::new(Opts::new("etcd_requests_total", "x"), &["method", "code"]).unwrap();
    requests.with_label_values(&["Status", "OK"]).inc();
    let took = HistogramVec::new(HistogramOpts::new("etcd_request_duration_seconds", "x"), &["method"]).unwrap();
    took.with_label_values(&["Status"]).observe(0.1);
    metrics.register(Box::new(requests)).unwrap();
    metrics.register(Box::new(took)).unwrap();
    metrics
}

#[test]
fn nothing_is_exported_before_it_is_known() {
    let text = Metrics::new().unwrap().render(&sample::unknown());
    let gauges: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE etcd_janitor_")?.strip_suffix(" gauge")).collect();
    assert_eq!(gauges, BTreeSet::from(["build_info", "config_last_reload_successful", "turn_held"]));

    // It did not answer: whether a hold or an alarm is up is still not known.
    let mut snapshot = sample::unknown();
    snapshot.etcd_up = Some(false);
    let text = Metrics::new().unwrap().render(&snapshot);
    assert_eq!(samples(&text)["etcd_janitor_etcd_up"], 0.0);
    assert!(!text.contains("hold_active") && !text.contains("alarm_active"));

    // It answered, and nobody has looked for a hold yet.
    snapshot.etcd_up = Some(true);
    assert!(!Metrics::new().unwrap().render(&snapshot).contains("hold_active"));
}

#[test]
fn a_hold_that_cannot_be_read_is_one() {
    let mut snapshot = sample::known();
    snapshot.hold_unreadable = Some("the record has version 9".into());
    assert_eq!(samples(&Metrics::new().unwrap().render(&snapshot))["etcd_janitor_hold_active"], 1.0);
}

/// With everything in it that is only there under NOSPACE.
fn alarmed() -> Snapshot {
    let rescue = Rescue {
        round: "rescue-20261122T000000Z".parse().unwrap(),
        phase: "watching".into(),
        waiting_for: Some(Blocked::new(Reason::Learner, "m3 is too large")),
    };
    Snapshot { rescue: Some(rescue), ..sample::known() }
}

#[test]
fn what_is_known_is_exported() {
    let mut snapshot = alarmed();
    snapshot.alarms = vec![Alarm { alarm: "NOSPACE".into(), member: MemberId(3) }];
    let all = samples(&Metrics::new().unwrap().render(&snapshot));
    for (name, value) in [
        ("build_info{version=\"1.2.3\"}", 1.0),
        ("etcd_up", 1.0),
        ("hold_active", 0.0),
        ("turn_held", 1.0),
        ("member_info{member_id=\"0000000000000001\",name=\"etcd-0\"}", 1.0),
        ("member_db_size_bytes", (412 << 20) as f64),
        ("member_db_size_in_use_bytes", (180 << 20) as f64),
        ("member_db_quota_bytes", 8.0 * 1024.0 * 1024.0 * 1024.0),
        ("member_is_leader", 0.0),
        ("alarm_active{alarm=\"NOSPACE\"}", 1.0),
        ("rescue_active", 1.0),
        ("rescue_blocked{reason=\"learner\"}", 1.0),
        ("alarm_active{alarm=\"CORRUPT\"}", 0.0),
        ("compaction_revision", 91_204_133.0),
        ("defrag_forecast_seconds", 4.8),
        ("task_schedule_interval_seconds{task=\"defrag\"}", 86_400.0),
        ("task_in_progress{task=\"compaction\"}", 0.0),
    ] {
        assert_eq!(all.get(&format!("etcd_janitor_{name}")), Some(&value), "{name}");
    }
    let reached = snapshot.growth.as_ref().expect("growth").reached_at.timestamp() as f64;
    assert_eq!(all["etcd_janitor_quota_reached_timestamp_seconds"], reached);
    let ca = all["etcd_janitor_tls_certificate_not_after_timestamp_seconds{usage=\"ca\"}"];
    assert_eq!(ca, snapshot.certificates[2].not_after.timestamp() as f64, "the earliest of the usage");
}

#[tokio::test]
async fn label_sets_vanish_with_their_subject() {
    let running = start(sample::known()).await;
    assert!(running.get("/metrics").await.body.contains("name=\"etcd-0\""));

    // Replaced by a member of another id and name, which has not answered yet.
    running.snapshot.send_modify(|snapshot| {
        let snapshot = Arc::make_mut(snapshot);
        snapshot.certificates.clear();
        snapshot.members.remove(0);
        let new = &mut snapshot.members[0];
        (new.local, new.name, new.role) = (true, "etcd-9".into(), Role::Unknown);
        (new.db_size, new.db_size_in_use, new.quota) = (None, None, None);
    });
    let answer = running.get("/metrics").await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = answer.body;
    assert!(text.contains("member_info{member_id=\"0000000000000002\",name=\"etcd-9\"} 1"), "{text}");
    for gone in ["etcd-0", "member_db_", "member_is_leader", "tls_certificate"] {
        assert!(!text.contains(gone), "{gone} is still there");
    }
}

#[test]
fn every_closed_label_set_starts_at_zero() {
    let all = samples(&Metrics::new().unwrap().render(&sample::unknown()));
    for task in TaskKind::ALL.map(TaskKind::name) {
        for outcome in ["done", "skipped", "failed", "unknown"] {
            let name = format!("etcd_janitor_task_runs_total{{outcome=\"{outcome}\",task=\"{task}\"}}");
            assert_eq!(all.get(&name), Some(&0.0), "{name}");
        }
        for reason in Reason::ALL {
            let name = format!("etcd_janitor_task_skips_total{{reason=\"{reason}\",task=\"{task}\"}}");
            assert_eq!(all.get(&name), Some(&0.0), "{name}");
        }
        assert_eq!(all[&format!("etcd_janitor_task_duration_seconds_count{{task=\"{task}\"}}")], 0.0);
    }
    for name in
        ["defrag_reclaimed_bytes_total", "turn_lost_total", "turn_wait_seconds_count", "look_to_send_seconds_count"]
    {
        assert_eq!(all[&format!("etcd_janitor_{name}")], 0.0, "{name}");
    }
    println!("{} series before anything is known", all.len());
}

#[test]
fn the_daemon_moves_the_counters() {
    let metrics = Metrics::new().unwrap();
    metrics.run_ended(TaskKind::Defrag, Outcome::Done, Some(Duration::from_secs(3)));
    metrics.run_ended(TaskKind::Defrag, Outcome::Skipped(Reason::Hold), None);
    metrics.run_ended(TaskKind::Compaction, Outcome::Failed(Failure::Auth), None);
    metrics.reclaimed(1000);
    metrics.turn_waited(Duration::from_secs(2));
    metrics.turn_lost();
    metrics.look_to_send(Duration::from_millis(2));
    let all = samples(&metrics.render(&sample::unknown()));
    for (name, value) in [
        ("task_runs_total{outcome=\"done\",task=\"defrag\"}", 1.0),
        ("task_runs_total{outcome=\"skipped\",task=\"defrag\"}", 1.0),
        ("task_runs_total{outcome=\"failed\",task=\"compaction\"}", 1.0),
        ("task_skips_total{reason=\"hold\",task=\"defrag\"}", 1.0),
        ("task_duration_seconds_sum{task=\"defrag\"}", 3.0),
        ("task_duration_seconds_count{task=\"compaction\"}", 0.0),
        ("defrag_reclaimed_bytes_total", 1000.0),
        ("turn_wait_seconds_count", 1.0),
        ("turn_lost_total", 1.0),
        ("look_to_send_seconds_bucket{le=\"0.0025\"}", 1.0),
        ("look_to_send_seconds_bucket{le=\"0.001\"}", 0.0),
    ] {
        assert_eq!(all.get(&format!("etcd_janitor_{name}")), Some(&value), "{name}");
    }
}

#[test]
fn a_hostile_name_cannot_forge_a_sample() {
    let name = "x\"} 1\netcd_janitor_forged 1\n\\";
    let all = samples(&Metrics::new().unwrap().render(&sample::hostile(name)));
    assert!(!all.contains_key("etcd_janitor_forged"));
    assert_eq!(all["etcd_janitor_alarm_active{alarm=\"OTHER\"}"], 1.0);
    check_with_promtool(&Metrics::new().unwrap().render(&sample::hostile(name)));
}

#[test]
fn promtool_finds_nothing_to_say() {
    check_with_promtool(&complete().render(&alarmed()));
    check_with_promtool(&complete().render(&sample::unknown()));
}

#[test]
fn the_examples_are_valid_promql() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let blocks = page.split("```promql\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut rules = "groups:\n- name: examples\n  rules:\n".to_owned();
    for (i, example) in blocks.flat_map(|block| block.split("\n\n")).enumerate() {
        rules += &format!("  - alert: Example{i}\n    expr: |\n      {}\n", example.trim().replace('\n', "\n      "));
    }
    assert!(rules.contains("Example9"), "the examples were not found");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &rules).unwrap();
    let output = Command::new(promtool()).args(["check", "rules"]).arg(file.path()).output().unwrap();
    assert!(output.status.success(), "{}{rules}", String::from_utf8_lossy(&output.stderr));
}

fn check_with_promtool(text: &str) {
    let mut promtool = Command::new(promtool())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "promtool says: {said}");
}

fn promtool() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/tools")])
        .map(|folder| folder.join("promtool"))
        .find(|file| file.is_file())
        .expect("promtool is neither in PATH nor in .cache/tools: run `make tools`")
}

/// (type, label names) of each metric.
type Catalogue = BTreeMap<String, (String, BTreeSet<String>)>;

fn exported(text: &str) -> Catalogue {
    let mut catalogue = Catalogue::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            current = name.to_owned();
            catalogue.insert(current.clone(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((labels, _)) = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')) {
            let names = labels.split(',').map(|pair| pair.split('=').next().unwrap().to_owned());
            catalogue.get_mut(&current).unwrap().1.extend(names.filter(|name| name != "le"));
        }
    }
    catalogue
}

fn documented(page: &str) -> Catalogue {
    let mut catalogue = Catalogue::new();
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, meaning, _] = cells[..] else { panic!("five cells: {line}") };
        assert!(meaning.ends_with('.'), "{line}");
        let labels = labels.split_whitespace().map(|label| label.trim_matches('`').to_owned()).collect();
        let before = catalogue.insert(name.trim_matches('`').to_owned(), (kind.to_owned(), labels));
        assert!(before.is_none(), "twice: {name}");
    }
    catalogue
}

#[test]
fn every_metric_is_documented_and_every_documented_one_exists() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let exported = exported(&complete().render(&alarmed()));
    assert_eq!(exported, documented(&page));

    // Names in the example alerts, too.
    let names = page.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    for name in names.filter(|name| name.starts_with("etcd_janitor_")) {
        assert!(exported.contains_key(name), "{name} is in the text and is not exported");
    }
}

#[test]
fn every_reason_is_documented() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let (_, table) = page.split_once("|---|---|\n| disabled").expect("the table of reasons");
    let expected: String = Reason::ALL.iter().map(|r| format!("| {} | {} |\n", r.name(), r.meaning())).collect();
    assert_eq!(format!("| disabled{table}"), expected);
}

/// The crate's own collector counts whole seconds.
#[test]
fn processor_time_has_a_fraction() {
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_millis(50) {
        std::hint::black_box(began);
    }
    let all = samples(&Metrics::new().unwrap().render(&sample::unknown()));
    let cpu = all["process_cpu_seconds_total"];
    assert!(cpu > 0.0 && cpu < 600.0, "{cpu}");
    assert!(all["process_start_time_seconds"] > 1e9);
}
