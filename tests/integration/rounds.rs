//! The main job on three members: who is defragmented, when, and what the
//! clients of the cluster notice of it. Judged from outside.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{NaiveDateTime, TimeDelta};
use etcd_janitor::plan::release;

use crate::support::consistency::hash_kv_equal;
use crate::support::garbage::{ballast, free_pages};
use crate::support::lease_holder::LeaseHolder;
use crate::support::rounds::assert_in_turns;
use crate::support::writer::{Pace, Writer};
use crate::support::{Cluster, Janitor, Recorder, Spec, due_in, eventually, records, requests, usual_release};

/// How long anything may take that has no bound of its own. On a busy machine a
/// member that does not answer within a second puts a round off for half a
/// minute, and rightly so.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// Before its guards are of interest, a round must be allowed on the release under test.
fn unsafe_versions() -> &'static str {
    if release::judge(&usual_release(), false).is_ok() { "skip" } else { "allow" }
}

/// Rounds and nothing else, on the 40 MiB that `wasteful` leaves to be had.
pub fn rounds_yaml(schedule: &str, defrag: &str) -> String {
    let unsafe_versions = unsafe_versions();
    format!(
        "compaction: {{ enabled: false }}\n\
         defrag: {{ schedule: '{schedule}', rule: 'dbSizeFree > 30 * MiB', pause_between: 1s, \
         unsafe_versions: {unsafe_versions}, {defrag} }}\n"
    )
}

/// A cluster in which every member has 40 MiB to give back.
pub async fn wasteful(spec: Spec) -> Cluster {
    let cluster = Cluster::start(spec).await;
    free_pages(&cluster, 40).await;
    cluster
}

pub fn stretched(by: Duration) -> Spec {
    Spec { stretch_defrags: Some(by), ..Spec::default() }
}

pub async fn janitors(cluster: &Cluster, yaml: &str) -> Vec<Janitor> {
    let mut janitors = Vec::new();
    for index in 0..cluster.members().len() {
        janitors.push(Janitor::start(cluster, index, yaml).await);
    }
    janitors
}

async fn all_idle(janitors: &[Janitor]) {
    eventually("no round is under way", PATIENCE, || async {
        for janitor in janitors {
            if !janitor.is_idle().await {
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// The names of the rounds in which this janitor defragmented its member.
fn done_in(janitor: &Janitor) -> Vec<String> {
    janitor.rounds().into_iter().filter(|(_, outcome, _)| outcome == "done").map(|(round, _, _)| round).collect()
}

/// When a round was due, by its name.
fn due(round: &str) -> NaiveDateTime {
    NaiveDateTime::parse_from_str(round, "cron-%Y%m%dT%H%M%SZ").expect("the name of a round")
}

#[tokio::test]
async fn one_round_defragments_every_member_one_at_a_time() {
    let cluster = wasteful(stretched(Duration::from_secs(1))).await;
    let recorder = Recorder::start(&cluster).await;
    let mut janitors = janitors(&cluster, &rounds_yaml(&due_in(8), "verify: hash")).await;
    let round = records::round_of(&cluster, 0, 3, PATIENCE).await;
    assert!(round.values().all(|record| record["outcome"] == "done"), "{round:?}");
    let moved = round.values().filter(|record| record.get("leader_moved_to").is_some()).count();
    assert_eq!(moved, 1, "{round:?}");
    all_idle(&janitors).await;
    let history = recorder.finish();
    assert_in_turns(&history);
    assert_eq!(history.defrags().len(), 3, "{history}");
    assert!(history.defrags().iter().all(|defrag| !defrag.led_during), "{history}");
    assert!(records::intent(&cluster, 0).await.is_none());
    assert!(records::queue(&cluster, 0).await.is_empty());
    hash_kv_equal(&cluster).await.expect("equal data");
    for janitor in &mut janitors {
        janitor.stop().await;
    }
}

/// A round on a quiet machine takes about 25 s with this: 10 s of still
/// figures, the followers, and the leader's member when it has waited for them.
/// `make matrix` sets more rounds.
#[tokio::test]
async fn members_take_turns_round_after_round_under_constant_writes() {
    let rounds = std::env::var("JANITOR_ROUNDS").map_or(5, |text| text.parse().expect("a number of rounds"));
    let cluster = Cluster::start(stretched(Duration::from_millis(500))).await;
    ballast(&cluster, 68).await;
    let writer = Writer::start(&cluster, "written", Pace { workers: 1, ..Pace::default() }).await;
    let holder = LeaseHolder::start(&cluster, Duration::from_secs(6)).await;
    let recorder = Recorder::start(&cluster).await;
    let yaml = rounds_yaml("*/30 * * * * *", "leader_wait: 15s") + "history: { limit: 1000 }\n";
    let janitors = janitors(&cluster, &yaml).await;
    for round in 1..=rounds {
        // Garbage in the middle of a round would find a member in it and not another.
        all_idle(&janitors).await;
        free_pages(&cluster, 40).await;
        eventually("every member is defragmented", PATIENCE, || async {
            let count = |index| recorder.now(index).map_or(0, |metrics| metrics.defrag_count);
            (0..3).all(|index| count(index) >= round).then_some(())
        })
        .await;
        hash_kv_equal(&cluster).await.expect("equal data");
    }
    all_idle(&janitors).await;
    let history = recorder.finish();
    assert_in_turns(&history);
    assert!(history.snapshots().is_empty(), "{history}");
    for member in 0..3 {
        let defrags = history.defrags_of(member);
        assert_eq!(defrags.len() as u64, rounds, "{history}");
        for defrag in defrags {
            let mut readings = history.track(member).samples.iter().filter(|sample| sample.sent >= defrag.latest);
            let first = readings.find_map(|sample| sample.metrics.as_ref()).expect("a reading after the defrag");
            assert!(first.db_in_use >= 64 << 20, "{first:?}");
            assert!(first.db_size as f64 <= 1.1 * first.db_in_use as f64, "{first:?}");
        }
    }
    let names = done_in(&janitors[0]);
    assert_eq!(names.len() as u64, rounds, "{names:?}");
    for janitor in &janitors[1..] {
        let theirs = done_in(janitor);
        let apart = names.iter().zip(&theirs).map(|(ours, theirs)| (due(ours) - due(theirs)).abs());
        // Garbage that is written across a firing is seen by some in that round and by the others in the next.
        assert!(apart.max() <= Some(TimeDelta::seconds(30)) && theirs.len() == names.len(), "{names:?}\n{theirs:?}");
    }
    let on_record = records::rounds(&cluster, 0).await;
    let outcomes: Vec<&serde_json::Value> =
        on_record.values().flatten().map(|(_, record)| &record["outcome"]).collect();
    assert_eq!(outcomes, vec!["done"; 3 * rounds as usize], "{on_record:?}");
    let held = holder.finish(&cluster).await;
    assert!(!held.lost, "{held:?}");
    let written = writer.verify(&cluster).await;
    assert!(written.lost.is_empty(), "{:?}", written.lost);
    eprintln!("{} writes, longest stall {:?}", written.acknowledged, written.longest_stall);
}

/// What each member has received, without what only reads or logs in.
async fn orders(cluster: &Cluster) -> Vec<BTreeMap<String, u64>> {
    let mut all = Vec::new();
    for member in cluster.members() {
        let mut received = requests::received(member).await;
        let reading = ["Status", "MemberList", "Range", "Txn", "Watch", "HashKV", "Authenticate"];
        received.retain(|method, _| !reading.contains(&method.as_str()));
        all.push(received);
    }
    all
}

pub async fn revision(cluster: &Cluster) -> u64 {
    cluster.member(0).metrics().await.expect("an answer").revision
}

#[tokio::test]
async fn a_dry_run_decides_everything_and_sends_nothing() {
    let cluster = wasteful(Spec::default()).await;
    let before = (revision(&cluster).await, orders(&cluster).await);
    let yaml = format!(
        "dry_run: true\ncompaction: {{ schedule: '*/2 * * * * *', retention: 1s }}\n\
         defrag: {{ schedule: '{}', rule: 'dbSizeFree > 30 * MiB', leader_wait: 15s, unsafe_versions: {} }}\n",
        due_in(5),
        unsafe_versions()
    );
    let janitors = janitors(&cluster, &yaml).await;
    for janitor in &janitors {
        let ended = eventually("the round ends", PATIENCE, || async { janitor.rounds().pop() }).await;
        assert_eq!((ended.1.as_str(), ended.2.as_deref()), ("skipped", Some("dry_run")));
    }
    let compaction = |event: &serde_json::Value| event["task"] == "compaction" && event["reason"] == "dry_run";
    eventually("a compaction is decided", PATIENCE, || async {
        janitors.iter().flat_map(Janitor::events).any(|event| compaction(&event)).then_some(())
    })
    .await;
    assert_eq!((revision(&cluster).await, orders(&cluster).await), before);
    assert_eq!(records::all(&cluster, 0).await, BTreeMap::new());
}

/// Exit code and everything said.
pub async fn ask(janitor: &Janitor, command: &str) -> (Option<i32>, String) {
    let output = janitor.command(&[command, "--dry-run"]).await;
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test]
async fn a_dry_run_on_the_command_line_says_what_it_would_do() {
    let cluster = wasteful(Spec::default()).await;
    let follower = cluster.follower().await;
    let before = (revision(&cluster).await, orders(&cluster).await);
    let janitor = Janitor::prepare(&cluster, follower, &rounds_yaml("@daily", ""));
    let at_leader = Janitor::prepare(&cluster, cluster.leader().await, &rounds_yaml("@daily", "leader_wait: 1s"));
    let (code, said) = ask(&janitor, "defrag").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("would defragment the local member now"), "{said}");
    let (code, said) = ask(&at_leader, "defrag").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("after moving leadership away"), "{said}");
    // No janitor has watched this cluster, so nothing is known to be old.
    let (code, said) = ask(&at_leader, "compact").await;
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("not_needed"), "{said}");
    assert_eq!((revision(&cluster).await, orders(&cluster).await), before);
    let output = cluster.etcdctl_at(follower, &["defrag"]).await;
    assert!(output.status.success(), "{output:?}");
    let (code, said) = ask(&janitor, "defrag").await;
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("a defrag would not pay"), "{said}");
}

/// Whatever is in the older ones: a release to come may have written them.
#[tokio::test]
async fn only_the_newest_rounds_stay_on_record() {
    let cluster = wasteful(Spec::default()).await;
    let mut client = cluster.client(0).await;
    for day in ["20260101", "20260102", "20260103"] {
        for member in ["0000000000000001", "0000000000000002"] {
            let key = format!("{}rounds/cron-{day}T000000Z/{member}", records::PREFIX);
            client.put(key, "{\"v\":2}", None).await.expect("a record");
        }
    }
    let follower = cluster.follower().await;
    let yaml = rounds_yaml(&due_in(4), "") + "history: { limit: 2 }\n";
    let janitor = Janitor::start(&cluster, follower, &yaml).await;
    let ended = eventually("the round ends", PATIENCE, || async { janitor.rounds().pop() }).await;
    assert_eq!(ended.1, "done", "{}", janitor.log_tail(20));
    let prefix = format!("{}rounds/", records::PREFIX);
    let all = records::all(&cluster, 0).await;
    let rounds: Vec<&str> = all.keys().filter_map(|key| key.strip_prefix(&prefix)).collect();
    let (old, new): (Vec<&str>, Vec<&str>) = rounds.iter().partition(|key| key.starts_with("cron-20260103T000000Z/"));
    assert_eq!((old.len(), new.len(), rounds.len()), (2, 1, 3), "{rounds:?}");
    assert!(new[0].starts_with(&format!("{}/", ended.0)), "{rounds:?}");
}
