//! The daemon by itself: idle, insulted, without its etcd, and as a probe for
//! the container beside it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::support::garbage::fill_to_quota;
use crate::support::rounds::{first_round, knows_all, not_due};
use crate::support::{Cluster, Janitor, Recorder, Spec, due_in, eventually, requests, scrape};

fn one() -> Spec {
    Spec { members: 1, ..Spec::default() }
}

/// A single member's round that pays whatever the sizes are.
fn round(due: &str, more: &str) -> String {
    format!(
        "compaction: {{ enabled: false }}\ndefrag: {{ schedule: '{due}', rule: 'dbSize > 0', small_cluster: allow, \
         pause_between: 1s{more} }}\n"
    )
}

fn idle() -> String {
    let due = not_due();
    format!("compaction: {{ schedule: '{due}' }}\ndefrag: {{ schedule: '{due}' }}\n")
}

async fn code(janitor: &Janitor, path: &str) -> Option<u16> {
    janitor.get(path).await.map(|(code, _)| code)
}

#[tokio::test]
async fn idle_janitors_write_nothing_and_ask_little() {
    let cluster = Cluster::start(Spec::default()).await;
    let mut janitors = Vec::new();
    for index in 0..3 {
        janitors.push(Janitor::start(&cluster, index, &idle()).await);
    }
    for janitor in &janitors {
        knows_all(janitor, 3).await;
    }
    let recorder = Recorder::start_every(&cluster, Duration::from_millis(500)).await;
    let count = || async {
        let mut all = Vec::new();
        for member in cluster.members() {
            all.push(requests::received(member).await);
        }
        all
    };
    // A new cluster has entries of its own to write, a new janitor looks around.
    let started = Instant::now();
    loop {
        let (from, before) = (Instant::now(), count().await);
        tokio::time::sleep(Duration::from_secs(6)).await;
        let mut asked = before.iter().zip(count().await).map(|(before, after)| requests::between(before, &after));
        let polls_only = asked.all(|methods| methods.keys().all(|method| method == "Status"));
        if polls_only && recorder.so_far().raft_entries_between(from, Instant::now()) == 0 {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "they do not come to rest");
    }
    let (from, before) = (Instant::now(), count().await);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (after, minutes) = (count().await, from.elapsed().as_secs_f64() / 60.0);
    let history = recorder.finish();
    assert_eq!(history.raft_entries_between(from, Instant::now()), 0, "{history}");
    for (before, after) in before.iter().zip(&after) {
        let asked: BTreeMap<_, _> = requests::between(before, after);
        let each_minute = asked.values().sum::<u64>() as f64 / minutes;
        assert!((5.0..=12.0).contains(&each_minute), "{each_minute} requests a minute: {asked:?}");
        assert_eq!(asked.keys().collect::<Vec<_>>(), ["Status"], "{asked:?}");
    }
}

/// What a stranger gets for these bytes before the connection is closed.
async fn send(address: SocketAddr, bytes: Vec<u8>) -> String {
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time limit");
        // It may have said no before all was sent.
        let _ = stream.write_all(&bytes);
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "neither answered nor closed");
        }
        String::from_utf8_lossy(&answer).into_owned()
    });
    answer.await.expect("the stranger does not panic")
}

#[tokio::test]
async fn garbage_on_the_port_is_answered_or_closed_and_logged_by_nobody() {
    let cluster = Cluster::start(one()).await;
    let janitor = Janitor::start(&cluster, 0, &idle()).await;
    knows_all(&janitor, 1).await;
    let before = janitor.events().len();
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(100_000));
    let headers = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(5_000));
    let garbage: [&[u8]; 9] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\xff\xfe\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/v1/quiesce HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        long.as_bytes(),
        headers.as_bytes(),
    ];
    for answer in join_all(garbage.map(|bytes| send(janitor.address(), bytes.to_vec()))).await {
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(code(&janitor, "/livez").await, Some(200));
    assert_eq!(code(&janitor, "/readyz").await, Some(200));
    assert_eq!(janitor.status().await["quiesced"], false);
    assert_eq!(janitor.events().len(), before, "{}", janitor.log_tail(10));
}

#[tokio::test]
async fn without_etcd_it_serves_says_so_once_and_catches_the_round_up_when_etcd_comes() {
    let mut cluster = Cluster::start(one()).await;
    cluster.stop(0).await;
    let janitor = Janitor::start(&cluster, 0, &round(&due_in(5), "")).await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(60) {
        assert_eq!(code(&janitor, "/livez").await, Some(200));
        assert_eq!(code(&janitor, "/readyz").await, Some(200));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let status = janitor.status().await;
    assert_eq!((&status["problem"]["reason"], &status["etcd_up"]), (&"etcd_unavailable".into(), &false.into()));
    assert_eq!(janitor.metric("etcd_janitor_etcd_up").await, Some(0.0));
    let said = |task: Option<&str>| {
        let events = janitor.events().into_iter();
        events.filter(|event| event["reason"] == "etcd_unavailable" && event["task"].as_str() == task).count()
    };
    // Of etcd once, and once for the round that was due meanwhile.
    assert_eq!((said(None), said(Some("defrag"))), (1, 1), "{}", janitor.log_tail(20));
    assert!(janitor.events().len() < 8, "{}", janitor.log_tail(20));
    cluster.start_again(0).await;
    let ended = first_round(&janitor, Duration::from_secs(60)).await;
    assert_eq!(ended, ("done".to_owned(), None));
    let metrics = cluster.member(0).metrics().await.expect("the member answers");
    assert_eq!((metrics.started_defrags, metrics.defrag_count), (1, 1));
}

#[tokio::test]
async fn a_round_for_which_etcd_did_not_come_is_counted_when_its_window_is_over() {
    let mut cluster = Cluster::start(one()).await;
    cluster.stop(0).await;
    let janitor = Janitor::start(&cluster, 0, &round(&due_in(4), ", window: 5s")).await;
    let skips = "etcd_janitor_task_skips_total{reason=\"etcd_unavailable\",task=\"defrag\"}";
    let counted = || async { janitor.metric(skips).await.filter(|count| *count > 0.0) };
    assert_eq!(eventually("it is counted", Duration::from_secs(40), counted).await, 1.0);
    let last = janitor.status().await["tasks"][1].clone();
    assert!(last["last_outcome"].to_string().contains("etcd_unavailable"), "{last}");
}

#[tokio::test]
async fn it_survives_a_restart_of_etcd() {
    let mut cluster = Cluster::start(one()).await;
    let janitor = Janitor::start(&cluster, 0, &round(&not_due(), "")).await;
    let up = |wanted: f64| {
        let janitor = &janitor;
        eventually("etcd_up follows etcd", Duration::from_secs(45), move || async move {
            (janitor.metric("etcd_janitor_etcd_up").await == Some(wanted)).then_some(())
        })
    };
    up(1.0).await;
    for _ in 0..2 {
        cluster.stop(0).await;
        up(0.0).await;
        assert_eq!(code(&janitor, "/livez").await, Some(200));
        cluster.start_again(0).await;
        up(1.0).await;
    }
    let said = janitor.events().into_iter().filter(|event| event["reason"] == "etcd_unavailable");
    assert_eq!(said.count(), 2, "once for each time that it was away\n{}", janitor.log_tail(20));
    janitor.write_config(&round(&due_in(8), ""));
    let ended = first_round(&janitor, Duration::from_secs(60)).await;
    assert_eq!(ended, ("done".to_owned(), None), "{}", janitor.log_tail(20));
    let metrics = cluster.member(0).metrics().await.expect("the member answers");
    assert_eq!((metrics.started_defrags, metrics.defrag_count), (1, 1));
}

#[tokio::test]
async fn the_probes_for_etcd_bear_a_defrag_and_tell_when_etcd_is_gone() {
    let mut cluster = Cluster::start(Spec { stretch_defrags: Some(Duration::from_secs(6)), ..one() }).await;
    let janitor = Janitor::start(&cluster, 0, &idle()).await;
    knows_all(&janitor, 1).await;
    for probe in ["/etcd/livez", "/etcd/readyz"] {
        assert_eq!(code(&janitor, probe).await, Some(200), "{probe}");
    }
    let recorder = Recorder::start(&cluster).await;
    let during = async {
        recorder.sees_defrag_open(0).await;
        let hung = tokio::spawn(scrape::get(cluster.member(0).metrics_address(), "/livez"));
        let mut asked = 0;
        while recorder.now(0).is_some_and(|metrics| metrics.open_defrags() > 0) {
            for probe in ["/etcd/livez", "/etcd/readyz"] {
                let answer = janitor.get(probe).await;
                assert_eq!(answer.as_ref().map(|(code, _)| *code), Some(200), "{probe}: {answer:?}");
            }
            asked += 1;
        }
        assert!(
            hung.await.expect("no panic").is_none(),
            "etcd's own probe answers in a defrag: ours would not be needed"
        );
        assert!(asked > 3, "asked {asked} times");
    };
    let (defrag, ()) = tokio::join!(cluster.etcdctl(&["--command-timeout=30s", "defrag"]), during);
    assert!(defrag.status.success(), "{defrag:?}");
    cluster.stop(0).await;
    for probe in ["/etcd/livez", "/etcd/readyz"] {
        assert_eq!(code(&janitor, probe).await, Some(503), "{probe}");
    }
    for probe in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(code(&janitor, probe).await, Some(200), "{probe}");
    }
    cluster.start_again(0).await;
    for probe in ["/etcd/livez", "/etcd/readyz"] {
        eventually(probe, Duration::from_secs(10), || async {
            code(&janitor, probe).await.filter(|code| *code == 200)
        })
        .await;
    }
}

/// Killing a member cures neither a lost quorum nor a full database.
async fn is_alive_in_trouble(release: &str) {
    let spec = Spec { release: release.to_owned(), quota_bytes: Some(16 << 20), ..Spec::default() };
    let mut cluster = Cluster::start(spec).await;
    let janitor = Janitor::start(&cluster, 0, &idle()).await;
    knows_all(&janitor, 3).await;
    for probe in ["/etcd/livez", "/etcd/readyz"] {
        assert_eq!(code(&janitor, probe).await, Some(200), "{probe} on {release}");
    }
    fill_to_quota(&cluster).await;
    assert_eq!(code(&janitor, "/etcd/livez").await, Some(200), "alive with a full database");
    cluster.kill(1);
    cluster.kill(2);
    eventually("it is not ready without a quorum", Duration::from_secs(30), || async {
        // Releases that wait for a leader are later than anybody waits for them.
        (code(&janitor, "/etcd/readyz").await != Some(200)).then_some(())
    })
    .await;
    for _ in 0..5 {
        let answer = janitor.get("/etcd/livez").await;
        assert_eq!(answer.as_ref().map(|(code, _)| *code), Some(200), "alive without a quorum: {answer:?}");
    }
}

#[tokio::test]
async fn etcd_is_alive_without_a_quorum_and_with_a_full_database() {
    is_alive_in_trouble("3.5.30").await;
}

#[tokio::test]
async fn etcd_3_5_1_is_alive_without_a_quorum_and_with_a_full_database() {
    is_alive_in_trouble("3.5.1").await;
}

#[tokio::test]
async fn etcd_3_4_23_is_alive_without_a_quorum_and_with_a_full_database() {
    is_alive_in_trouble("3.4.23").await;
}

#[tokio::test]
async fn readiness_of_etcd_fails_while_clients_are_drained_and_liveness_does_not() {
    let cluster = Cluster::start(Spec { stretch_defrags: Some(Duration::from_secs(1)), ..one() }).await;
    let recorder = Recorder::start(&cluster).await;
    let janitor = Janitor::start(&cluster, 0, &round(&due_in(4), ", drain: 5s")).await;
    let limit = Duration::from_secs(40);
    let ready = |wanted: u16| {
        let janitor = &janitor;
        eventually("readiness changes", limit, move || async move {
            (code(janitor, "/etcd/readyz").await == Some(wanted)).then(Instant::now)
        })
    };
    ready(200).await;
    let drained = ready(503).await;
    assert_eq!(code(&janitor, "/etcd/livez").await, Some(200));
    assert_eq!(code(&janitor, "/readyz").await, Some(200));
    assert_eq!(recorder.now(0).map(|metrics| metrics.started_defrags), Some(0), "nothing is sent yet");
    assert_eq!(first_round(&janitor, limit).await, ("done".to_owned(), None));
    ready(200).await;
    let history = recorder.finish();
    let sent = history.defrags()[0].from;
    let waited = sent.duration_since(drained);
    assert!((Duration::from_secs(4)..Duration::from_secs(8)).contains(&waited), "{waited:?}\n{history}");
}

#[tokio::test]
async fn promtool_has_nothing_to_say_about_a_running_janitors_metrics() {
    let cluster = Cluster::start(one()).await;
    let janitor = Janitor::start(&cluster, 0, &round(&due_in(3), "")).await;
    knows_all(&janitor, 1).await;
    first_round(&janitor, Duration::from_secs(60)).await;
    let text = janitor.metrics().await;
    for name in ["member_info", "member_db_size_bytes", "etcd_requests_total", "defrag_reclaimed_bytes_total"] {
        assert!(text.contains(&format!("\netcd_janitor_{name}")), "{name}\n{text}");
    }
    assert_eq!(janitor.metric("etcd_janitor_task_runs_total{outcome=\"done\",task=\"defrag\"}").await, Some(1.0));
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let promtool = root.join(".cache/tools/bin/promtool");
    assert!(promtool.is_file(), "promtool is not there: run `make tools`");
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{text}");
}
