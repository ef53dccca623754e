//! Guards, each seen to stand in the way and seen to let go, with its numbers.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::rounds::{PATIENCE, rounds_yaml, wasteful};
use crate::support::garbage::{ballast, free_pages};
use crate::support::rounds::{assert_in_turns, first_round, says, waits_for};
use crate::support::{Cluster, Janitor, Recorder, Spec, due_in, records};

/// What the waiting round says of the reason in its way.
async fn what_blocks(janitor: &Janitor, reason: &str) -> String {
    says(janitor, reason, PATIENCE, |status| waits_for(status) == Some(reason)).await;
    let event = janitor.event(reason, PATIENCE, |event| event["reason"] == reason).await;
    event["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_forecast_follows_what_is_known_and_lets_go_when_more_is() {
    // 100 MiB in use make more than 1.1 s by the guess.
    let cluster = Cluster::start(Spec::default()).await;
    ballast(&cluster, 100).await;
    free_pages(&cluster, 40).await;
    let recorder = Recorder::start(&cluster).await;
    let follower = cluster.follower().await;
    let janitor = Janitor::start(&cluster, follower, &rounds_yaml(&due_in(4), "liveness_budget: 1100ms")).await;
    let said = what_blocks(&janitor, "liveness_budget").await;
    assert!(said.contains("by an assumed 12 s per GiB in use") && said.contains("at most 1.1 s"), "{said}");
    assert_eq!(recorder.finish().defrags().len(), 0);

    // What another member needed comes to be known: 1 s per GiB. The round that waits goes on.
    let other = (0..3).find(|index| *index != follower).expect("another member");
    let id = format!("{:016x}", cluster.member(other).id);
    let record = json!({
        "v": 1, "round": "manual-20260101T000000Z", "member": id, "name": "other", "outcome": "done",
        "ended_at": "2026-01-01T00:00:01Z", "seconds": 1.0, "in_use_before": 1_u64 << 30,
    });
    let key = format!("{}rounds/manual-20260101T000000Z/{id}", records::PREFIX);
    cluster.client(other).await.put(key, record.to_string(), None).await.expect("a record is written");
    assert_eq!(first_round(&janitor, PATIENCE).await.0, "done", "{}", janitor.log_tail(20));
}

#[tokio::test]
async fn a_member_that_was_slow_is_not_begun_on_again() {
    let slow = Spec { stretch_defrags: Some(Duration::from_secs(6)), ..Spec::default() };
    let cluster = Cluster::start(slow).await;
    ballast(&cluster, 68).await;
    let follower = cluster.follower().await;
    let defrag = cluster.etcdctl_at(follower, &["defrag", "--command-timeout=2m"]).await;
    assert!(defrag.status.success(), "{defrag:?}");
    free_pages(&cluster, 40).await;
    let recorder = Recorder::start(&cluster).await;
    // By the guess it would be less than 2 s.
    let janitor = Janitor::start(&cluster, follower, &rounds_yaml(&due_in(4), "liveness_budget: 5s")).await;
    let said = what_blocks(&janitor, "liveness_budget").await;
    assert!(said.contains("by etcd's own histogram of its defrags"), "{said}");
    assert_eq!(recorder.finish().defrags().len(), 0);
}

#[tokio::test]
async fn a_full_disk_stands_in_the_way_and_a_roomy_one_does_not() {
    let cluster = wasteful(Spec::default()).await;
    let follower = cluster.follower().await;
    let recorder = Recorder::start(&cluster).await;
    let with_data = |data: &Path| rounds_yaml(&due_in(4), &format!("data_dir: '{}'", data.display()));

    let mut short = Janitor::prepare(&cluster, follower, "");
    let data = short.folder().join("data");
    short.write_config(&with_data(&data));
    // A volume of 8 MiB that only this process sees.
    let mount = format!(
        "mkdir -p {0} && mount -t tmpfs -o size=8m none {0} && mkdir -p {0}/member/snap && exec \"$0\" \"$@\"",
        data.display()
    );
    short.launch("unshare", &["--map-root-user", "--mount", "sh", "-c", &mount]).await;
    let said = what_blocks(&short, "disk_space").await;
    assert!(said.contains("8388608 bytes are free"), "{said}");
    short.stop().await;

    let mut elsewhere = Janitor::prepare(&cluster, follower, "");
    elsewhere.write_config(&with_data(elsewhere.folder()));
    elsewhere.start_again().await;
    let said = what_blocks(&elsewhere, "disk_space").await;
    assert!(said.contains("it is not etcd's data directory"), "{said}");
    elsewhere.stop().await;
    assert_eq!(recorder.finish().defrags().len(), 0);

    let roomy = Janitor::start(&cluster, follower, &with_data(&cluster.member(follower).data_dir)).await;
    assert_eq!(first_round(&roomy, PATIENCE).await.0, "done", "{}", roomy.log_tail(20));
}

#[tokio::test]
async fn nothing_is_sent_within_ten_seconds_after_an_election() {
    let cluster = wasteful(Spec::default()).await;
    let recorder = Recorder::start(&cluster).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let janitor = Janitor::start(&cluster, follower, &rounds_yaml(&due_in(4), "leader_wait: 15s")).await;
    // In the middle of the ten seconds in which the figures are waited for.
    janitor.event("the round begins", PATIENCE, |event| event["message"] == "the round is due").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let bystander = (0..3).find(|index| ![leader, follower].contains(index)).expect("a third member");
    cluster.move_leader(bystander).await;
    let moved = Instant::now();
    let said = what_blocks(&janitor, "leader_changed").await;
    assert!(said.contains("waits for 10 s"), "{said}");
    assert_eq!(first_round(&janitor, PATIENCE).await.0, "done", "{}", janitor.log_tail(20));
    let history = recorder.finish();
    assert_in_turns(&history);
    let sent = history.defrags()[0].from;
    // The move was under way for a moment before its answer came.
    assert!(sent > moved + Duration::from_millis(9500), "{:?} after the move\n{history}", sent - moved);
}
