//! Somebody who may write under the janitors' prefix, and nothing else: they can stop rounds, and start none.

use std::time::Duration;

use etcd_client::{Client, PutOptions};

use super::rights::{add_users, client, with_auth};
use super::rounds::{PATIENCE, rounds_yaml};
use crate::support::garbage::free_pages;
use crate::support::records::PREFIX;
use crate::support::rounds::{all_done, assert_one_at_a_time, knows_all, says};
use crate::support::{Cluster, Janitor, Recorder, due_in, usual_release};

async fn write(hostile: &mut Client, key: &str, value: impl Into<Vec<u8>>) {
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
