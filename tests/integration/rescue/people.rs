//! Who is there and who is not: an operator who clears the alarm, janitors that are missing, a learner.

use std::time::Duration;

use etcd_client::{AlarmAction, AlarmOptions, AlarmType};

use super::cases::{BELOW_WHAT_IS_IN_USE, blocked};
use super::{alarmed, small, yaml};
use crate::rounds::{PATIENCE, janitors};
use crate::support::consistency::hash_kv_equal;
use crate::support::garbage::{compact, fill_to_quota};
use crate::support::{Cluster, Janitor, Recorder, eventually};

/// A deputy waits up to two minutes and ten seconds, for each of five things.
const BY_DEPUTIES: Duration = Duration::from_secs(900);

async fn raise(cluster: &Cluster, index: usize) {
    let mut client = cluster.client(cluster.leader().await).await;
    let mut options = AlarmOptions::new();
    options.with_member(cluster.member(index).id);
    client.alarm(AlarmAction::Activate, AlarmType::Nospace, Some(options)).await.expect("an alarm is raised");
}

/// A client that never stops raises the alarm of its own member again within milliseconds, before anybody has looked.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn an_alarm_cleared_by_hand_and_raised_again_at_once_is_noticed() {
    let cluster = Cluster::start(small()).await;
    let revision = fill_to_quota(&cluster).await;
    compact(&cluster, revision).await;
    for index in cluster.voters() {
        raise(&cluster, index).await;
    }
    let recorder = Recorder::start(&cluster).await;
    let janitors = janitors(&cluster, &yaml("")).await;
    for janitor in &janitors {
        eventually("it is at it", PATIENCE, || async {
            (janitor.metric("etcd_janitor_rescue_active").await == Some(1.0)).then_some(())
        })
        .await;
    }
    let mut client = cluster.client(cluster.leader().await).await;
    let writing = tokio::spawn(async move {
        loop {
            let _ = client.put("app", vec![b'x'; 1 << 10], None).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let output = cluster.etcdctl(&["alarm", "disarm"]).await;
    assert!(output.status.success(), "{output:?}");
    let idle: Vec<usize> =
        cluster.voters().into_iter().filter(|index| recorder.so_far().defrag_count(*index) == 0).collect();
    for index in idle {
        let detail = blocked(&janitors[index..=index], "foreign_defrag").await;
        assert!(detail.contains("NOSPACE was cleared before every member had room"), "{detail}");
    }
    assert!(alarmed(&cluster).await);
    writing.abort();
    let history = recorder.finish();
    assert!(history.overlaps().is_empty(), "{:?}", history.overlaps());
}

/// Only one janitor of three is there. It compacts, defragments, moves leadership and clears the alarm for the others.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn one_janitor_of_three_brings_all_of_them_back() {
    let cluster = Cluster::start(small()).await;
    let recorder = Recorder::start(&cluster).await;
    fill_to_quota(&cluster).await;
    let leader = cluster.leader().await;
    let followers = cluster.voters().into_iter().filter(|index| *index != leader);
    // Leadership goes to the other one, whose janitor is missing as well.
    let kept = followers.max_by_key(|index| cluster.member(*index).id).expect("followers");
    let alarms = format!("{BELOW_WHAT_IS_IN_USE}, compact_to_head: true");
    let janitor = Janitor::start(&cluster, kept, &yaml(&alarms)).await;
    eventually("the alarm is gone", BY_DEPUTIES, || async { (!alarmed(&cluster).await).then_some(()) }).await;
    let history = recorder.so_far();
    assert!(cluster.voters().into_iter().all(|index| history.defrag_count(index) == 1));
    assert!(cluster.leader().await != leader && cluster.leader().await != kept);
    let mut client = cluster.client(cluster.leader().await).await;
    client.put("again", "", None).await.expect("writes are taken");
    hash_kv_equal(&cluster).await.unwrap_or_else(|why| panic!("{why}"));
    assert!(janitor.running());
    let history = recorder.finish();
    assert!(history.overlaps().is_empty(), "{:?}", history.overlaps());
    assert!(history.began_on_leaders().is_empty());
}

/// etcd refuses to defragment a learner, and it would raise the alarm again. Promoted, it is one of the others.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_learner_above_the_threshold_keeps_the_alarm_up_until_it_is_promoted() {
    let mut cluster = Cluster::start(small()).await;
    let learner = cluster.add_learner().await;
    let recorder = Recorder::start(&cluster).await;
    let revision = fill_to_quota(&cluster).await;
    compact(&cluster, revision).await;
    let janitors = janitors(&cluster, &yaml(", compact_to_head: true")).await;
    let voters = cluster.voters();
    eventually("the voters are done", BY_DEPUTIES, || async {
        let history = recorder.so_far();
        voters.iter().all(|index| history.defrag_count(*index) == 1).then_some(())
    })
    .await;
    let leader = cluster.leader().await;
    let detail = blocked(&janitors[leader..=leader], "learner").await;
    assert!(detail.contains("promote it"), "{detail}");
    assert!(alarmed(&cluster).await);
    cluster.promote(learner).await;
    eventually("the alarm is gone", PATIENCE, || async { (!alarmed(&cluster).await).then_some(()) }).await;
    let mut client = cluster.client(cluster.leader().await).await;
    client.put("again", "", None).await.expect("writes are taken");
    let history = recorder.finish();
    assert_eq!(history.defrag_count(learner), 1);
    assert!(history.overlaps().is_empty(), "{:?}", history.overlaps());
}
