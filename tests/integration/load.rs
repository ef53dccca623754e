//! The load test, run as its users run it. What it says it did is held against what etcd counted.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use etcd_client::GetOptions;
use serde_json::Value;

use crate::support::process::Process;
use crate::support::{Auth, Cluster, Spec, Tls, Token, eventually, scrape};

const PROGRAM: &str = env!("CARGO_BIN_EXE_etcd-load");

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn run(words: &[&str], code: i32) -> String {
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let run = tokio::task::spawn_blocking(move || Command::new(PROGRAM).args(words).output().expect("it runs"));
    let output = run.await.expect("it ends");
    assert_eq!(output.status.code(), Some(code), "{}", text(&output));
    text(&output)
}

fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).expect("the report was written");
    serde_json::from_str(&text).expect("JSON")
}

fn done(report: &Value, stage: usize, kind: &str) -> u64 {
    report["stages"][stage]["kinds"][kind]["operations"].as_u64().unwrap_or_default()
}

/// Puts that the first member has carried out since its start.
async fn puts(cluster: &Cluster) -> u64 {
    let page = scrape::get(cluster.member(0).metrics_address(), "/metrics").await.expect("etcd answers").1;
    let mut puts = scrape::samples(&page).filter(|sample| sample.name == "etcd_mvcc_put_total");
    puts.next().and_then(|sample| sample.value()).expect("etcd counts puts") as u64
}

async fn keys(cluster: &Cluster, prefix: &str) -> u64 {
    let options = GetOptions::new().with_prefix().with_count_only();
    let answer = cluster.client(0).await.get(prefix, Some(options)).await.expect("etcd answers");
    answer.count() as u64
}

#[tokio::test]
async fn the_load_test_does_what_it_says_and_says_what_it_did() {
    let cluster = Cluster::start(Spec { members: 1, ..Spec::default() }).await;
    let endpoint = format!("--endpoint={}", cluster.member(0).client_url);
    let file = cluster.folder().join("report.json");
    let report = format!("--report={}", file.display());
    let before = puts(&cluster).await;
    let words =
        [&endpoint, &report, "--keys=600", "--prefix=a", "--value-size=1KiB", "--connections=3", "--clients=16"];
    let shown =
        run(&[&words[..], &["--churn=2", "--mix=read=1,write=1,delete=2", "--operations=400"]].concat(), 0).await;
    let said = read(&file);
    assert_eq!((done(&said, 0, "write"), done(&said, 1, "write")), (600, 1200), "{said}");
    let (reads, writes, deletes) = (done(&said, 2, "read"), done(&said, 2, "write"), done(&said, 2, "delete"));
    assert_eq!(reads + writes + deletes, 400, "{said}");
    assert!(reads > 50 && writes > 50 && deletes > 100, "{said}");
    assert_eq!(puts(&cluster).await - before, 600 + 1200 + writes, "{said}");
    let left = keys(&cluster, "a").await;
    assert!((400..600).contains(&left), "{left} keys are left of 600: {said}");
    let figure = |when: &str, name: &str| said["endpoints"][0][when][name].as_u64().expect("a figure");
    let grown = figure("after", "db_size_in_use_bytes") - figure("before", "db_size_in_use_bytes");
    assert!(grown > 1800 * 1024, "1800 versions of a KiB: {said}");
    assert!(figure("after", "db_size_bytes") > figure("before", "db_size_bytes"), "{said}");
    for heading in ["STAGE", "P99.9", "fill", "churn", "mix delete", "DB SIZE", "IN USE", " -> ", "met no key"] {
        assert!(shown.contains(heading), "{heading}: {shown}");
    }
    let latency = &said["stages"][0]["kinds"]["write"]["latency_seconds"];
    let at = |name: &str| latency[name].as_f64().expect("a latency");
    assert!(0.0 < at("p50") && at("p50") <= at("p99") && at("p99") <= at("max"), "{said}");

    // Ctrl-C in the middle, under a limit.
    let log = fs::File::create(cluster.folder().join("log")).expect("a file");
    let before = puts(&cluster).await;
    let limited = ["--keys=1000000", "--prefix=b", "--rate=100", "--connections=2", "--clients=8"];
    let mut process = Process::start(PROGRAM, |command| {
        command.args([&endpoint, &report]).args(limited).stdout(log);
    })
    .expect("it starts");
    eventually("it writes", Duration::from_secs(30), || async { (keys(&cluster, "b").await > 20).then_some(()) }).await;
    process.signal("INT");
    let status = process.exited(Duration::from_secs(20)).await.expect("it ends");
    assert_eq!(status.code(), Some(130));
    let said = read(&file);
    let (written, seconds) = (done(&said, 0, "write"), said["stages"][0]["seconds"].as_f64().expect("seconds"));
    assert_eq!(written, puts(&cluster).await - before, "what was under way is waited for: {said}");
    assert_eq!(written, keys(&cluster, "b").await, "{said}");
    assert!(written as f64 <= seconds * 100.0 + 1.0, "the limit: {said}");
    assert_eq!(said["ended_early"], "interrupted");
    let shown = fs::read_to_string(cluster.folder().join("log")).expect("what it said");
    assert!(shown.contains("Interrupted"), "{shown}");

    // A time is an end, too.
    let words = [&endpoint, &report, "--no-fill", "--mix=read=1", "--duration=200ms", "--keys=10", "--prefix=none"];
    run(&words, 0).await;
    let said = read(&file);
    assert_eq!(said["stages"][0]["missing"], done(&said, 0, "read"), "{said}");
    assert!(done(&said, 0, "read") > 0, "{said}");
}

#[tokio::test]
async fn the_load_test_speaks_tls_and_logs_in_and_stops_where_nobody_lets_it_in() {
    let auth =
        Auth { root_password: "hunter2-hunter2".to_owned(), token: Token::Simple { ttl: Duration::from_secs(300) } };
    let mut cluster =
        Cluster::start(Spec { members: 1, tls: Tls::Mutual, auth: Some(auth.clone()), ..Spec::default() }).await;
    let (good, bad) = (cluster.folder().join("good"), cluster.folder().join("bad"));
    fs::write(&good, format!("{}\n", auth.root_password)).expect("a file");
    fs::write(&bad, "another-password").expect("a file");
    let certs = cluster.certs();
    let endpoint = format!("--endpoint={}", cluster.member(0).client_url);
    let [ca, cert, key] = [("cacert", &certs.ca), ("cert", &certs.client_cert), ("key", &certs.client_key)]
        .map(|(flag, path)| format!("--{flag}={}", path.display()));
    let common = [endpoint.as_str(), &ca, &cert, &key, "--keys=50", "--connections=2", "--clients=4"];
    let with = |more: &[&str]| [&common[..], more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
    let call = async |all: Vec<String>, code: i32| run(&all.iter().map(String::as_str).collect::<Vec<_>>(), code).await;
    let (good, bad) = (format!("--password-file={}", good.display()), format!("--password-file={}", bad.display()));
    let shown = call(with(&["--user=root", &good, "--prefix=tls"]), 0).await;
    assert!(!shown.contains(&auth.root_password), "{shown}");
    assert_eq!(keys(&cluster, "tls").await, 50);

    let shown = call(with(&["--user=root", &bad]), 3).await;
    assert!(shown.contains("authentication failed") && !shown.contains("another-password"), "{shown}");

    // A user without a role: every write is refused, and that is an end, not a hundred thousand more of them.
    let weak = cluster.folder().join("weak");
    fs::write(&weak, "weak-password").expect("a file");
    cluster.client(0).await.user_add("weak", "weak-password", None).await.expect("a user is added");
    let weak = format!("--password-file={}", weak.display());
    let shown = call(with(&["--user=weak", &weak, "--max-errors=7", "--prefix=weak"]), 1).await;
    assert!(shown.contains("failed, auth") && shown.contains("--max-errors"), "{shown}");
    assert_eq!(keys(&cluster, "weak").await, 0);

    let shown = call(vec![endpoint.clone(), "--keys=5".to_owned()], 3).await;
    assert!(shown.contains("certificate"), "who etcd is, is not known without its authority: {shown}");

    cluster.stop(0).await;
    let shown = call(with(&["--user=root", &good, "--prefix=tls"]), 3).await;
    assert!(shown.contains(&cluster.member(0).client_url), "{shown}");
    let shown = call(with(&["--user=root", &good, "--no-fill"]), 2).await;
    assert!(shown.contains("--no-fill"), "{shown}");
}
