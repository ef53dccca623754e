//! A real Prometheus scrapes three janitors beside a real cluster, with the rules that are delivered, and tells a real
//! Alertmanager: what is well is silent, what is not is told, and told to be over.

#![allow(clippy::disallowed_methods, reason = "tests connect, spawn and read the clock as they like")]

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use support::garbage::fill_to_quota;
use support::ports::Port;
use support::process::Process;
use support::rounds::not_due;
use support::{Cluster, Janitor, Spec, eventually, scrape};

const LIMIT: Duration = Duration::from_secs(120);
/// A rescue on a machine that is busy.
const RESCUE_LIMIT: Duration = Duration::from_secs(300);

/// Prometheus and Alertmanager.
struct Monitoring {
    prometheus: SocketAddr,
    alertmanager: SocketAddr,
    folder: TempDir,
    _ports: [Port; 2],
    _processes: [Process; 2],
}

impl Monitoring {
    fn start(janitors: &[Janitor]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
        let ports = [Port::reserve(), Port::reserve()];
        let [prometheus, alertmanager] = [ports[0].address(), ports[1].address()];

        // The delivered rules, but for the patience: nobody here waits ten minutes.
        let rules = fs::read_to_string(deploy.join("rules.yaml")).expect("the rules");
        let impatient: Vec<&str> = rules
            .lines()
            .map(|line| if line.starts_with("        for: ") { "        for: 5s" } else { line })
            .collect();
        fs::write(at("rules.yaml"), impatient.join("\n")).expect("a file");
        fs::copy(deploy.join("alertmanager.yaml"), at("alertmanager.yaml")).expect("a file");

        let targets = janitors.iter().enumerate().map(|(i, janitor)| {
            json!({ "targets": [janitor.address().to_string()], "labels": { "namespace": "n", "pod": format!("etcd-{i}") } })
        });
        // JSON is YAML.
        let configuration = json!({
            "global": { "scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s" },
            "rule_files": [at("rules.yaml")],
            "alerting": { "alertmanagers": [{ "static_configs": [{ "targets": [alertmanager.to_string()] }] }] },
            "scrape_configs": [{ "job_name": "janitor", "static_configs": targets.collect::<Vec<_>>() }],
        });
        fs::write(at("prometheus.yaml"), configuration.to_string()).expect("a file");

        // Debian's Alertmanager wants its templates in /usr/share; it was unpacked, not installed.
        let in_place = "mount --bind \"$0\" /usr/share && exec \"$@\"";
        let run = |program: &str, arguments: Vec<String>| {
            let log = File::create(at(&format!("{program}.log"))).expect("a file");
            Process::start("unshare", |command| {
                command.args(["--mount", "--map-root-user", "sh", "-c", in_place]).arg(tool("share"));
                command.arg(tool("bin").join(program)).args(arguments);
                command.stdout(log.try_clone().expect("a handle")).stderr(log);
            })
            .unwrap_or_else(|error| panic!("{program} does not start: {error}"))
        };
        let processes = [
            run(
                "prometheus",
                vec![
                    format!("--config.file={}", at("prometheus.yaml").display()),
                    format!("--storage.tsdb.path={}", at("data").display()),
                    format!("--web.listen-address={prometheus}"),
                ],
            ),
            run(
                "prometheus-alertmanager",
                vec![
                    format!("--config.file={}", at("alertmanager.yaml").display()),
                    format!("--storage.path={}", at("alerts").display()),
                    format!("--web.listen-address={alertmanager}"),
                    "--cluster.listen-address=".to_owned(),
                ],
            ),
        ];
        Self { prometheus, alertmanager, folder, _ports: ports, _processes: processes }
    }

    /// The answer to an instant query: none until Prometheus serves.
    async fn query(&self, expression: &str) -> Option<Vec<Value>> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = ask(self.prometheus, &format!("/api/v1/query?query={encoded}"), None).await?;
        Some(answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{expression}: {answer}")).clone())
    }

    /// Names and pods of what fires, as Prometheus says.
    async fn firing(&self) -> Option<BTreeSet<(String, String)>> {
        let all = self.query("ALERTS{alertstate=\"firing\"}").await?;
        Some(all.iter().map(|alert| named(&alert["metric"])).collect())
    }

    /// Names and pods of the alerts that Alertmanager holds in this state: `active` or `suppressed`.
    async fn told(&self, state: &str) -> Option<BTreeSet<(String, String)>> {
        let all = ask(self.alertmanager, "/api/v2/alerts", None).await?;
        let all = all.as_array().unwrap_or_else(|| panic!("{all}"));
        Some(
            all.iter().filter(|alert| alert["status"]["state"] == state).map(|alert| named(&alert["labels"])).collect(),
        )
    }

    /// Waits until this fires, in Prometheus and at Alertmanager; then nothing else does.
    async fn fires(&self, name: &str, pod: &str, limit: Duration) {
        let wanted = (name.to_owned(), pod.to_owned());
        eventually(&format!("{name} fires"), limit, || async {
            (self.firing().await?.contains(&wanted) && self.told("active").await?.contains(&wanted)).then_some(())
        })
        .await;
    }

    async fn is_over(&self, name: &str, pod: &str, limit: Duration) {
        let gone = (name.to_owned(), pod.to_owned());
        eventually(&format!("{name} is over"), limit, || async {
            (!self.firing().await?.contains(&gone) && !self.told("active").await?.contains(&gone)).then_some(())
        })
        .await;
    }
}

impl Drop for Monitoring {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for program in ["prometheus", "prometheus-alertmanager"] {
                let log = fs::read_to_string(self.folder.path().join(format!("{program}.log"))).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("--- {program}\n{}", lines[lines.len().saturating_sub(15)..].join("\n"));
            }
        }
    }
}

fn named(labels: &Value) -> (String, String) {
    let text = |key: &str| labels[key].as_str().unwrap_or_default().to_owned();
    (text("alertname"), text("pod"))
}

/// A folder of what `make deploy-test` brings.
fn tool(name: &str) -> PathBuf {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/tools/deploy").join(name);
    assert!(ours.is_dir(), "{} is missing: scripts/deploy-tools.sh", ours.display());
    ours
}

/// None when nobody answers, or not with what was asked for: Prometheus answers 503 until it has read its storage.
async fn ask(address: SocketAddr, path: &str, body: Option<Value>) -> Option<Value> {
    let method = if body.is_some() { "POST" } else { "GET" };
    let (status, answer) = scrape::ask(address, (method, path), body, Duration::from_secs(10)).await?;
    (status == 200).then_some(answer)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus and Alertmanager, which `make deploy-test` brings"]
async fn an_alert_fires_and_is_over() {
    let cluster = Cluster::start(Spec { quota_bytes: Some(64 << 20), ..Spec::calm() }).await;
    let due = not_due();
    let idle = format!(
        "compaction: {{ schedule: '{due}' }}\ndefrag: {{ schedule: '{due}', urgent_at: 1 }}\nalarms: {{ rescue_retention: 1s }}\n"
    );
    let mut janitors = Vec::new();
    for index in 0..3 {
        janitors.push(Janitor::start(&cluster, index, &idle).await);
    }
    let monitoring = Monitoring::start(&janitors);
    eventually("three janitors are scraped", LIMIT, || async {
        (monitoring.query("up{job=\"janitor\"} == 1").await?.len() == 3).then_some(())
    })
    .await;
    eventually("Prometheus has judged for twenty seconds", LIMIT, || async {
        let judged = monitoring
            .query("min_over_time(etcd_janitor_etcd_up[20s]) == 1 and etcd_janitor_etcd_up offset 20s")
            .await?;
        (judged.len() == 3).then_some(())
    })
    .await;
    // With a patience of five seconds: nothing about a cluster that is well is near to an alert.
    assert_eq!(monitoring.firing().await, Some(BTreeSet::new()), "what is well is silent");

    janitors[2].kill();
    monitoring.fires("EtcdJanitorDown", "etcd-2", LIMIT).await;
    let down = BTreeSet::from([("EtcdJanitorDown".to_owned(), "etcd-2".to_owned())]);
    assert_eq!(monitoring.told("active").await, Some(down), "and nothing else is told");
    janitors[2].start_again().await;
    monitoring.is_over("EtcdJanitorDown", "etcd-2", LIMIT).await;

    // What etcd's mixin would say of two members while the first is being defragmented.
    let slow =
        |pod: &str| json!({ "labels": { "alertname": "etcdHighCommitDurations", "namespace": "n", "pod": pod } });
    let turn = json!({ "labels": { "alertname": "EtcdJanitorDefragInProgress", "namespace": "n", "pod": "etcd-0" } });
    let posted = json!([turn, slow("etcd-0"), slow("etcd-1")]);
    ask(monitoring.alertmanager, "/api/v2/alerts", Some(posted)).await.expect("Alertmanager takes alerts");
    let alert = |pod: &str| ("etcdHighCommitDurations".to_owned(), pod.to_owned());
    eventually("only the member that is being defragmented is excused", LIMIT, || async {
        let (active, suppressed) = (monitoring.told("active").await?, monitoring.told("suppressed").await?);
        let right = active.contains(&alert("etcd-1")) && suppressed.contains(&alert("etcd-0"));
        (right && suppressed.len() == 1).then_some(())
    })
    .await;

    // The real thing: clients fill the quota, and the janitors bring the cluster back.
    fill_to_quota(&cluster).await;
    monitoring.fires("EtcdJanitorNoSpace", "", LIMIT).await;
    monitoring.is_over("EtcdJanitorNoSpace", "", RESCUE_LIMIT).await;
    eventually("the dashboards have what the defrags gave back", LIMIT, || async {
        let given = monitoring.query("sum(etcd_janitor_defrag_reclaimed_bytes_total) > 0").await?;
        (given.len() == 1).then_some(())
    })
    .await;
}
