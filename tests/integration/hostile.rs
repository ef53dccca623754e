//! Somebody who may write under the janitors' prefix, and nothing else: they can stop rounds, and start none.

use std::time::Duration;

use etcd_client::{Client, PutOptions};

use super::crowd::own_memory;
use super::rights::{add_users, client, started, with_auth};
use super::rounds::{PATIENCE, rounds_yaml};
use crate::support::garbage::free_pages;
use crate::support::records::PREFIX;
use crate::support::rounds::{all_done, assert_one_at_a_time, knows_all, not_due, says};
use crate::support::{Cluster, Janitor, Recorder, due_in, usual_release};

pub async fn write(hostile: &mut Client, key: &str, value: impl Into<Vec<u8>>) {
    let written = hostile.put(format!("{PREFIX}{key}"), value, None::<PutOptions>).await;
    written.unwrap_or_else(|error| panic!("{key}: the role may write it: {error}"));
}

/// What no janitor writes: too long, not JSON, of another shape, with dates and numbers that nothing can hold, with
/// markup, in keys that are no names. Together more than a client of etcd takes as one answer.
async fn write_rubbish(hostile: &mut Client) {
    let huge = vec![b'['; 1_400_000];
    for key in ["window", "probe", "rounds/x", "rounds/y", "rounds/z", "rounds/cron-20260101T000000Z/1"] {
        write(hostile, key, huge.clone()).await;
    }
    write(hostile, "turn/", "\u{0}\u{1}").await;
    write(hostile, "turn/ffffffffffffffff", "{\"v\":1}").await;
    for (number, value) in [
        "{\"v\":99999999999999999999}",
        "{\"v\":1,\"round\":\"cron-99999999T999999Z\",\"member\":\"ffffffffffffffffff\"}",
        "{\"v\":1,\"ended_at\":\"9999-12-31T23:59:59Z\",\"outcome\":\"<script>alert(1)</script>\",\"seconds\":1e999}",
        "null",
        "",
    ]
    .into_iter()
    .enumerate()
    {
        write(hostile, &format!("rounds/../{number}"), value).await;
        write(hostile, &format!("rounds/<script>{number}"), value).await;
    }
    // Dated in the year 9999; a compaction to the newest revision, as of the last century.
    let window = "{\"v\":1,\"compacted\":-1,\"member\":\"0000000000000001\",\"samples\":\
                  [{\"at\":\"9999-01-01T00:00:00Z\",\"revision\":9223372036854775807}]}";
    write(hostile, "window", window).await;
}

#[tokio::test]
async fn whoever_may_write_under_the_prefix_can_stop_rounds_and_start_none() {
    let cluster = Cluster::start(with_auth(&usual_release(), 3)).await;
    add_users(&cluster).await;
    // What they write uses up some of it.
    free_pages(&cluster, 70).await;
    let recorder = Recorder::start(&cluster).await;
    let mut hostile = client(&cluster, Some("keys")).await;
    hostile.put("elsewhere", "", None).await.expect_err("nothing but the prefix is theirs");
    write_rubbish(&mut hostile).await;
    write(&mut hostile, "intent", vec![b'{'; 1_000_000]).await;
    let until = "9999-12-31T23:59:59Z";
    let hold = format!("{{\"v\":1,\"reason\":\"<b>{}</b>\",\"by\":\"root\",\"until\":\"{until}\"}}", "x".repeat(3000));
    write(&mut hostile, "hold", hold).await;

    let yaml = rounds_yaml(&due_in(8), "window: 1h") + "history: { limit: 5 }\n";
    let mut janitors = Vec::new();
    for index in 0..3 {
        janitors.push(Janitor::start(&cluster, index, &yaml).await);
    }
    for janitor in &janitors {
        knows_all(janitor, 3).await;
        says(janitor, "both are seen", PATIENCE, |status| {
            !status["hold"].is_null() && status["intent_unreadable"].as_str().is_some_and(|why| why.contains("bytes"))
        })
        .await;
    }
    // They are due, and start nothing: neither while all of it lies there, nor while any of it that stops them does.
    tokio::time::sleep(Duration::from_secs(20)).await;
    hostile.delete(format!("{PREFIX}hold"), None).await.expect("the role may delete, too");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(recorder.so_far().defrags().is_empty(), "{}", recorder.so_far());
    for janitor in &mut janitors {
        assert!(janitor.running());
        let (page, history) = (janitor.page().await, janitor.command(&["history"]).await);
        assert!(!page.contains("<script") && page.len() < 60_000, "{page}");
        assert!(!String::from_utf8_lossy(&history.stderr).contains("panicked"), "{history:?}");
    }

    // The operator takes away what stands in the way; the rest may lie where it lies.
    let removed = cluster.etcdctl(&["del", &format!("{PREFIX}intent")]).await;
    assert!(removed.status.success(), "{removed:?}");
    all_done(&janitors, PATIENCE).await;
    assert_one_at_a_time(&recorder.finish(), &[0, 1, 2]);
    for janitor in &janitors {
        says(janitor, "the round is found among the rest", PATIENCE, |status| {
            status["history"].as_array().is_some_and(|records| records.len() == 3)
        })
        .await;
        let errors: Vec<_> = janitor.events().into_iter().filter(|event| event["level"] == "ERROR").collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
}

/// As many records as there can be, each as long as it may be and of a round and member that there might be, and a stream
/// of more: it costs the janitor little memory and etcd few requests, and the newest rounds are shown.
#[tokio::test]
async fn a_flood_of_records_costs_little_memory_and_few_readings() {
    const LIMIT: usize = 10;
    let cluster = Cluster::start(with_auth(&usual_release(), 1)).await;
    add_users(&cluster).await;
    let yaml = format!(
        "compaction: {{ enabled: false }}\ndefrag: {{ schedule: '{}' }}\nhistory: {{ limit: {LIMIT} }}\n",
        not_due()
    );
    let mut janitor = Janitor::start(&cluster, 0, &yaml).await;
    knows_all(&janitor, 1).await;
    let (pid, before) = (janitor.process().pid(), own_memory(janitor.process().pid()));

    let ours = cluster.member(0).id;
    let record = move |round: &str, member: u64, ended: &str, text: usize| {
        format!(
            "{{\"v\":1,\"round\":\"{round}\",\"member\":\"{member:016x}\",\"name\":\"{}\",\"outcome\":\"done\",\
             \"detail\":\"{}\",\"ended_at\":\"{ended}\"}}",
            "n".repeat(text),
            "d".repeat(text),
        )
    };
    let hostile = client(&cluster, Some("keys")).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8u64 {
        let mut hostile = hostile.clone();
        writers.spawn(async move {
            for number in 0..320u64 {
                let (round, member) = (format!("cron-20260101T0000{:02}Z", number % 40), writer * 8 + number / 40);
                let value = record(&round, member, "2026-01-01T00:10:00Z", 1900);
                write(&mut hostile, &format!("rounds/{round}/{member:016x}"), value).await;
            }
        });
    }
    while writers.join_next().await.is_some() {}
    // Of rounds in the year 9999, that end then; and one of our own member that might be.
    let mut one = hostile.clone();
    for second in 0..20 {
        let round = format!("cron-99991231T2359{second:02}Z");
        let value = record(&round, ours, "9999-12-31T23:59:59Z", 3);
        write(&mut one, &format!("rounds/{round}/{ours:016x}"), value).await;
    }
    let value = record("cron-20260101T000100Z", ours, "9999-12-31T23:59:59Z", 3);
    write(&mut one, &format!("rounds/cron-20260101T000100Z/{ours:016x}"), value).await;
    // A record that names another round than its key is nobody's; its key takes the place of a round.
    write(&mut one, "rounds/cron-20260101T000101Z/1", record("cron-20260101T000102Z", ours, "2026-01-01T00:00:00Z", 3))
        .await;
    says(&janitor, "the newest rounds are shown", PATIENCE, |status| {
        let history = status["history"].as_array().cloned().unwrap_or_default();
        history.first().is_some_and(|record| record["round"] == "cron-20260101T000100Z")
            && history.len() == 1 + 64 * (LIMIT - 2)
    })
    .await;

    let (read, mut written, mut peak) = (started(&cluster, "Range").await, 0u64, 0);
    let until = tokio::time::Instant::now() + Duration::from_secs(15);
    while tokio::time::Instant::now() < until {
        write(
            &mut one,
            "rounds/cron-20260101T000101Z/1",
            record("cron-20260101T000102Z", 1, "2026-01-01T00:00:00Z", 3),
        )
        .await;
        written += 1;
        peak = own_memory(pid).max(peak);
    }
    let read = started(&cluster, "Range").await - read;
    let (_, status) = janitor.get("/api/v1/status").await.expect("it answers");
    println!(
        "{written} writes, {read} readings; {before} kB before, {peak} kB at most; {} bytes of status",
        status.len()
    );
    // Every two seconds: together, by keys, and each of the rounds that are kept.
    assert!(written > 200 && read <= (15.0 / 2.0 + 2.0) * (2.0 + LIMIT as f64), "{read} readings for {written} writes");
    assert!(peak < 40 << 10, "{peak} kB; {before} kB before");
    assert!(status.len() < 1 << 20, "{}", status.len());
    let status = janitor.status().await;
    let defrag = status["tasks"].as_array().and_then(|tasks| tasks.iter().find(|task| task["task"] == "defrag"));
    assert!(defrag.is_some_and(|task| task["last_success"].is_null()), "the year 9999 is no success: {defrag:?}");
}
