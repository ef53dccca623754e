//! A member and its janitor cut off from everybody, in network namespaces of
//! their own. The judge has a wire of its own and sees them all the while.

use std::time::{Duration, Instant};

use super::faults::{assert_all_done, assert_once_each, beside, busy, member_of, whole_round};
use super::rounds::janitors;
use crate::support::consistency::hash_kv_equal;
use crate::support::namespace::Cut;
use crate::support::rounds::{assert_in_turns, says, waits_for};
use crate::support::writer::{Pace, Writer};
use crate::support::{Cluster, Recorder, Spec, due_in, eventually, records, sandbox};

const LEASE_TTL: Duration = Duration::from_secs(5);

fn yaml(seconds: i64) -> String {
    format!(
        "compaction: {{ enabled: false }}\netcd: {{ request_timeout: 2s }}\nturn: {{ lease_ttl: {}s }}\n\
         defrag: {{ schedule: '{}', rule: 'dbSize > 0', pause_between: 1s, leader_wait: 15s }}\n",
        LEASE_TTL.as_secs(),
        due_in(seconds),
    )
}

async fn cluster() -> Cluster {
    let stretch_defrags = Some(Duration::from_secs(3));
    Cluster::start(Spec { namespaces: true, stretch_defrags, ..Spec::default() }).await
}

async fn cut_off_before_the_round(cut: Cut) {
    let cluster = cluster().await;
    let recorder = Recorder::start(&cluster).await;
    let writer = Writer::start(&cluster, "written", Pace::default()).await;
    let alone = cluster.follower().await;
    let janitors = janitors(&cluster, &yaml(6)).await;
    cluster.cut(alone, cut);
    for (_, janitor) in janitors.iter().enumerate().filter(|(index, _)| *index != alone) {
        says(janitor, "waits for the member that is cut off", Duration::from_secs(60), |status| {
            waits_for(status).is_some_and(|reason| ["member_down", "member_lagging"].contains(&reason))
        })
        .await;
    }
    says(&janitors[alone], "does nothing on its own", Duration::from_secs(60), |status| waits_for(status).is_some())
        .await;
    assert!(recorder.so_far().defrags().is_empty(), "{}", recorder.so_far());
    cluster.heal(alone);
    let through = cluster.leader().await;
    let round = whole_round(&cluster, through).await;
    assert_all_done(&round);
    let written = writer.verify(&cluster).await;
    let history = recorder.finish();
    assert_in_turns(&history);
    assert_once_each(&history);
    assert!(written.lost.is_empty(), "{written:?}");
    hash_kv_equal(&cluster).await.expect("equal data");
}

/// Its lease runs out while its call runs or has ended unheard. The intent
/// stays, because nobody can ask the member, and so nobody else starts.
async fn cut_off_in_its_turn(cut: Cut) {
    let cluster = cluster().await;
    let recorder = Recorder::start(&cluster).await;
    let writer = Writer::start(&cluster, "written", Pace::default()).await;
    let _janitors = janitors(&cluster, &yaml(6)).await;
    let alone = busy(&recorder).await;
    cluster.cut(alone, cut);
    let begun = Instant::now();
    let through = beside(alone);
    eventually("its key runs out", Duration::from_secs(30), || async {
        (!records::queue(&cluster, through).await.contains(&alone)).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(14).saturating_sub(begun.elapsed())).await;
    assert_eq!(member_of(&cluster, &records::intent(&cluster, through).await), Some(alone));
    assert_eq!(recorder.so_far().defrags().len(), 1, "{}", recorder.so_far());
    cluster.heal(alone);
    let round = whole_round(&cluster, through).await;
    assert_all_done(&round);
    let written = writer.verify(&cluster).await;
    let history = recorder.finish();
    assert_in_turns(&history);
    assert_once_each(&history);
    assert!(written.lost.is_empty(), "{written:?}");
    hash_kv_equal(&cluster).await.expect("equal data");
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_member_cut_off_before_the_round_is_waited_for() {
    if sandbox::inside("partitions::a_member_cut_off_before_the_round_is_waited_for").await {
        cut_off_before_the_round(Cut::Both).await;
    }
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_member_cut_off_in_its_turn_keeps_the_others_waiting() {
    if sandbox::inside("partitions::a_member_cut_off_in_its_turn_keeps_the_others_waiting").await {
        cut_off_in_its_turn(Cut::Both).await;
    }
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_member_that_hears_and_is_not_heard_before_the_round() {
    if sandbox::inside("partitions::a_member_that_hears_and_is_not_heard_before_the_round").await {
        cut_off_before_the_round(Cut::Out).await;
    }
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_member_that_is_heard_and_does_not_hear_before_the_round() {
    if sandbox::inside("partitions::a_member_that_is_heard_and_does_not_hear_before_the_round").await {
        cut_off_before_the_round(Cut::In).await;
    }
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_member_that_is_not_heard_in_its_turn() {
    if sandbox::inside("partitions::a_member_that_is_not_heard_in_its_turn").await {
        cut_off_in_its_turn(Cut::Out).await;
    }
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_member_that_does_not_hear_in_its_turn() {
    if sandbox::inside("partitions::a_member_that_does_not_hear_in_its_turn").await {
        cut_off_in_its_turn(Cut::In).await;
    }
}
