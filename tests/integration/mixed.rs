//! Two releases in one cluster: of etcd, of the janitor, of its records.

use std::time::{Duration, Instant};

use etcd_client::PutOptions;
use serde_json::{Value, json};

use super::rounds::{PATIENCE, janitors, rounds_yaml, stretched, wasteful};
use crate::support::consistency::hash_kv_equal;
use crate::support::garbage::free_pages;
use crate::support::rounds::{all_done, assert_in_turns, first_round, says};
use crate::support::spec::MAIN_RELEASE;
use crate::support::writer::{Pace, Writer};
use crate::support::{Cluster, Janitor, Recorder, Spec, due_in, eventually, records, within};

/// Waits until every member was defragmented once more than now.
async fn all_again(recorder: &Recorder) {
    let counts = || (0..3).map(|index| recorder.now(index).map_or(0, |metrics| metrics.defrag_count));
    let before: Vec<u64> = counts().collect();
    eventually("every member is defragmented again", PATIENCE, || async {
        counts().zip(&before).all(|(now, before)| now > *before).then_some(())
    })
    .await;
}

/// As operators upgrade: one member after the other, rounds or not.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn rounds_go_on_through_a_rolling_upgrade_of_the_members() {
    let old = Spec { release: "3.4.23".to_owned(), ..stretched(Duration::from_millis(500)) };
    let mut cluster = Cluster::start(old).await;
    let writer = Writer::start(&cluster, "written", Pace { workers: 1, ..Pace::default() }).await;
    let recorder = Recorder::start(&cluster).await;
    let yaml = "compaction: { enabled: false }\n\
        defrag: { schedule: '*/30 * * * * *', rule: 'dbSize > 0', pause_between: 1s, leader_wait: 5s, window: 29s }\n";
    let janitors = janitors(&cluster, yaml).await;
    all_again(&recorder).await;
    let mut under_way = 0;
    for (index, janitor) in janitors.iter().enumerate() {
        // In the middle of a round of its own member, as far as one comes about.
        let busy = || async { (!janitor.is_idle().await).then_some(()) };
        under_way += usize::from(within("its round is under way", Duration::from_secs(60), busy).await.is_ok());
        cluster.upgrade(index, MAIN_RELEASE).await;
    }
    assert!(under_way > 0, "no round was under way in any of the upgrades");
    // Counters begin anew with the processes.
    all_again(&recorder).await;
    let history = recorder.finish();
    assert_in_turns(&history);
    hash_kv_equal(&cluster).await.expect("equal data");
    let written = writer.verify(&cluster).await;
    assert!(written.lost.is_empty(), "{:?}", written.lost);
    for janitor in &janitors {
        let outcomes: Vec<_> = janitor.rounds().into_iter().map(|(_, outcome, reason)| (outcome, reason)).collect();
        assert!(outcomes.iter().any(|(outcome, _)| outcome == "done"), "{outcomes:?}");
        // A defrag that was under way when its member was stopped is the one failure that may be.
        let failed = outcomes.iter().filter(|(outcome, _)| outcome == "failed");
        assert!(failed.clone().all(|(_, reason)| reason.as_deref() == Some("restarted")), "{outcomes:?}");
    }
}

/// What a janitor of a newer release wrote stands until somebody who can read it takes it away.
#[tokio::test]
async fn an_intent_of_a_newer_release_blocks_and_is_not_died_of() {
    let cluster = wasteful(Spec::default()).await;
    let recorder = Recorder::start(&cluster).await;
    let mut client = cluster.client(0).await;
    let intent = format!("{}intent", records::PREFIX);
    client.put(intent.as_str(), json!({ "v": 2, "member": "new" }).to_string(), None).await.expect("an intent");
    let newer = json!({ "v": 2, "round": { "new": true } }).to_string();
    let record = format!("{}rounds/cron-20260101T000000Z/0000000000000001", records::PREFIX);
    client.put(record, newer, None).await.expect("a record");
    let janitors = janitors(&cluster, &rounds_yaml(&due_in(4), "leader_wait: 15s")).await;
    for janitor in &janitors {
        let open = |event: &Value| event["task"] == "defrag" && event["reason"] == "intent_open";
        let event = janitor.event("the intent is in the way", PATIENCE, open).await;
        assert!(event["message"].to_string().contains("version 2"), "{event}");
        let status = janitor.status().await;
        assert!(status["intent_unreadable"].as_str().is_some_and(|why| why.contains("version 2")), "{status}");
        assert!(status["intent"].is_null(), "{status}");
        let output = janitor.command(&["status"]).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("INTENT cannot be read: the record has version 2"), "{said}");
        assert_eq!(output.status.code(), Some(1), "{said}");
    }
    assert_eq!(recorder.finish().defrags().len(), 0);
    client.delete(intent, None).await.expect("the intent is taken away");
    all_done(&janitors, PATIENCE).await;
    for janitor in &janitors {
        says(janitor, "it is shown no longer", PATIENCE, |status| status["intent_unreadable"].is_null()).await;
    }
}

/// A key in the queue that cannot be read holds its place like any other, until its lease ends. A window that cannot be
/// read is none.
#[tokio::test]
async fn a_turn_and_a_window_of_a_newer_release_are_respected_and_not_died_of() {
    let cluster = wasteful(Spec::default()).await;
    let recorder = Recorder::start(&cluster).await;
    let mut client = cluster.client(0).await;
    let lease = client.lease_grant(25, None).await.expect("a lease").id();
    let key = format!("{}turn/{lease:016x}", records::PREFIX);
    let options = PutOptions::new().with_lease(lease);
    client.put(key, json!({ "v": 2, "place": "first" }).to_string(), Some(options)).await.expect("a turn");
    let began = Instant::now();
    let window = json!({ "v": 2, "marks": [] }).to_string();
    client.put(format!("{}window", records::PREFIX), window, None).await.expect("a window");
    let yaml = rounds_yaml(&due_in(4), "leader_wait: 15s").replace("{ enabled: false }", "{ schedule: '@hourly' }");
    let janitors = janitors(&cluster, &yaml).await;
    let waits = |event: &Value| event["message"].to_string().contains("that cannot be read: the record has version 2");
    let follower = cluster.follower().await;
    janitors[follower].event("it waits behind the other", PATIENCE, waits).await;
    assert!(recorder.so_far().defrags().is_empty(), "{}", recorder.so_far());
    all_done(&janitors, PATIENCE).await;
    let history = recorder.finish();
    assert_in_turns(&history);
    let first = history.defrags().iter().map(|defrag| defrag.from).min().expect("three defrags");
    assert!(first - began > Duration::from_secs(24), "{:?} after the key\n{history}", first - began);
    assert!(janitors.iter().all(Janitor::running));
}

/// What an instance that is gone has left, with fields that only a newer release knows of, is settled all the same.
#[tokio::test]
async fn an_intent_and_a_record_with_more_fields_are_read_as_what_is_known_of_them() {
    let cluster = wasteful(Spec::default()).await;
    let member = cluster.follower().await;
    let (mut client, id) = (cluster.client(0).await, format!("{:016x}", cluster.member(member).id));
    let metrics = cluster.member(member).metrics().await.expect("an answer");
    let intent = json!({
        "v": 1, "member": id, "instance": "gone", "holder": "newer", "round": "cron-20260101T000000Z",
        "target_start": metrics.process_start, "target_count": metrics.defrag_count, "db_size": 1, "db_size_in_use": 1,
        "at": chrono::Utc::now(), "colour": { "of": "money" },
    });
    client.put(format!("{}intent", records::PREFIX), intent.to_string(), None).await.expect("an intent");
    let yaml = rounds_yaml(&due_in(4), "leader_wait: 15s") + "turn: { lease_ttl: 5s }\netcd: { request_timeout: 2s }\n";
    let janitor = Janitor::start(&cluster, member, &yaml).await;
    assert_eq!(first_round(&janitor, PATIENCE).await.0, "done", "{}", janitor.log_tail(20));
    let rounds = records::rounds(&cluster, 0).await;
    let settled = rounds.values().flatten().find(|(_, record)| record["round"] == "cron-20260101T000000Z");
    assert_eq!(settled.map(|(of, record)| (*of, record["outcome"].as_str())), Some((member, Some("unknown"))));
}

/// An operator's or a newer release's words are neither lost nor a reason to stop.
#[tokio::test]
async fn fields_that_are_not_known_yet_are_read_over() {
    let cluster = wasteful(Spec::default()).await;
    let mut client = cluster.client(0).await;
    let until = chrono::Utc::now() - chrono::TimeDelta::hours(1);
    let hold = json!({ "v": 1, "reason": "r", "by": "b", "until": until, "colour": "blue" });
    client.put(format!("{}hold", records::PREFIX), hold.to_string(), None).await.expect("a hold");
    let follower = cluster.follower().await;
    let janitor = Janitor::start(&cluster, follower, &rounds_yaml(&due_in(4), "")).await;
    assert_eq!(first_round(&janitor, PATIENCE).await.0, "done", "{}", janitor.log_tail(20));
}

/// `make mixed PREVIOUS=<commit>` builds the other one.
#[tokio::test]
#[ignore = "needs an earlier build: make mixed"]
async fn an_earlier_janitor_takes_turns_with_todays() {
    let earlier = std::env::var("ETCD_JANITOR_PREVIOUS").expect("`make mixed` sets it");
    let cluster = Cluster::start(stretched(Duration::from_secs(1))).await;
    let recorder = Recorder::start(&cluster).await;
    let yaml = rounds_yaml("*/30 * * * * *", "leader_wait: 15s");
    let mut janitors = Vec::new();
    for index in 0..3 {
        let mut janitor = Janitor::prepare(&cluster, index, &yaml);
        // The earlier one meets the leader and a follower.
        if index < 2 {
            janitor.set_program(&earlier);
        }
        janitor.start_again().await;
        janitors.push(janitor);
    }
    for leader in [2, 0] {
        cluster.move_leader(leader).await;
        free_pages(&cluster, 40).await;
        all_again(&recorder).await;
    }
    assert_in_turns(&recorder.finish());
    hash_kv_equal(&cluster).await.expect("equal data");
}
