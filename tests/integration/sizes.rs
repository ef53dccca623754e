//! Clusters of other sizes than three, with learners, and with a member that
//! is away.

use std::time::Duration;

use crate::support::rounds::{all_done, assert_one_at_a_time, first_round, says, waits_for};
use crate::support::writer::{Pace, Writer};
use crate::support::{Cluster, Janitor, Recorder, Spec, due_in, eventually, requests};

fn stretched(members: usize) -> Spec {
    Spec { members, stretch_defrags: Some(Duration::from_secs(1)), ..Spec::default() }
}

/// A round that pays whatever the sizes are, with `more` keys of `defrag`.
fn round(due: &str, more: &str) -> String {
    format!(
        "compaction: {{ enabled: false }}\ndefrag: {{ schedule: '{due}', rule: 'dbSize > 0', pause_between: 1s{more} }}\n"
    )
}

async fn janitors(cluster: &Cluster, yaml: &str) -> Vec<Janitor> {
    let mut janitors = Vec::new();
    for index in 0..cluster.members().len() {
        janitors.push(Janitor::start(cluster, index, yaml).await);
    }
    janitors
}

async fn stop(janitors: Vec<Janitor>) {
    for mut janitor in janitors {
        janitor.stop().await;
    }
}

/// Nobody is defragmented, and nothing that prepares it is sent.
async fn is_left_alone(members: usize) {
    let cluster = Cluster::start(stretched(members)).await;
    let recorder = Recorder::start(&cluster).await;
    let janitors = janitors(&cluster, &round(&due_in(4), ", window: 18s")).await;
    for janitor in &janitors {
        let ended = first_round(janitor, Duration::from_secs(40)).await;
        assert_eq!(ended, ("skipped".to_owned(), Some("small_cluster".to_owned())));
    }
    for member in cluster.members() {
        let received = requests::received(member).await;
        for method in ["Defragment", "MoveLeader", "LeaseGrant"] {
            assert_eq!(received.get(method).copied().unwrap_or_default(), 0, "{received:?}");
        }
    }
    assert_one_at_a_time(&recorder.finish(), &[]);
    stop(janitors).await;
}

#[tokio::test]
async fn a_single_member_is_left_alone_unless_allowed() {
    is_left_alone(1).await;
}

#[tokio::test]
async fn two_members_are_left_alone_unless_allowed() {
    is_left_alone(2).await;
}

#[tokio::test]
async fn a_single_member_is_defragmented_without_a_queue_when_allowed() {
    let cluster = Cluster::start(stretched(1)).await;
    let recorder = Recorder::start(&cluster).await;
    let janitors = janitors(&cluster, &round(&due_in(4), ", small_cluster: allow")).await;
    all_done(&janitors, Duration::from_secs(40)).await;
    assert_one_at_a_time(&recorder.finish(), &[0]);
    let received = requests::received(cluster.member(0)).await;
    assert!(!received.contains_key("LeaseGrant") || received["LeaseGrant"] == 0, "{received:?}");
    stop(janitors).await;
}

#[tokio::test]
async fn two_members_are_defragmented_one_at_a_time_when_allowed() {
    let cluster = Cluster::start(stretched(2)).await;
    let recorder = Recorder::start(&cluster).await;
    let janitors = janitors(&cluster, &round(&due_in(4), ", small_cluster: allow")).await;
    all_done(&janitors, Duration::from_secs(90)).await;
    assert_one_at_a_time(&recorder.finish(), &[0, 1]);
    stop(janitors).await;
}

#[tokio::test]
async fn five_members_are_all_defragmented_in_one_round() {
    let cluster = Cluster::start(stretched(5)).await;
    let recorder = Recorder::start(&cluster).await;
    let janitors = janitors(&cluster, &round(&due_in(8), "")).await;
    all_done(&janitors, Duration::from_secs(150)).await;
    assert_one_at_a_time(&recorder.finish(), &[0, 1, 2, 3, 4]);
    let rounds: std::collections::BTreeSet<String> =
        janitors.iter().flat_map(|janitor| janitor.rounds()).map(|(round, _, _)| round).collect();
    assert_eq!(rounds.len(), 1, "{rounds:?}");
    stop(janitors).await;
}

#[tokio::test]
async fn the_round_goes_on_around_a_learner_whose_janitor_stays_well() {
    let mut cluster = Cluster::start(stretched(3)).await;
    let learner = cluster.add_learner().await;
    let recorder = Recorder::start(&cluster).await;
    let mut janitors = janitors(&cluster, &round(&due_in(8), "")).await;
    let beside = janitors.remove(learner);
    says(&beside, "its member is a learner", Duration::from_secs(10), |status| {
        status["problem"]["reason"] == "learner"
    })
    .await;
    all_done(&janitors, Duration::from_secs(90)).await;
    for probe in ["/livez", "/readyz"] {
        assert_eq!(beside.get(probe).await.map(|(code, _)| code), Some(200), "{probe}");
    }
    says(&beside, "still a learner", Duration::from_secs(1), |status| status["problem"]["reason"] == "learner").await;
    // It starts, says what is in the way, and once more when the round is due.
    let events = beside.events();
    assert!(events.len() < 10, "{}", beside.log_tail(30));
    assert!(events.iter().any(|event| event["reason"] == "learner" && event["task"] == "defrag"), "{events:?}");
    let history = recorder.finish();
    assert_one_at_a_time(&history, &[0, 1, 2]);
    let received = requests::received(cluster.member(learner)).await;
    assert_eq!(received.get("Defragment").copied().unwrap_or_default(), 0, "{received:?}");
    janitors.push(beside);
    stop(janitors).await;
}

/// A learner has no vote; the voters' round does not wait for it.
async fn does_not_wait_for_a_learner(go_away: impl FnOnce(&mut Cluster, usize)) {
    let mut cluster = Cluster::start(stretched(3)).await;
    let learner = cluster.add_learner().await;
    let recorder = Recorder::start(&cluster).await;
    let yaml = round(&due_in(10), "");
    let mut janitors = Vec::new();
    for index in 0..3 {
        janitors.push(Janitor::start(&cluster, index, &yaml).await);
    }
    go_away(&mut cluster, learner);
    all_done(&janitors, Duration::from_secs(100)).await;
    assert_one_at_a_time(&recorder.finish(), &[0, 1, 2]);
    stop(janitors).await;
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_learner_that_is_down_does_not_block_the_voters() {
    does_not_wait_for_a_learner(Cluster::kill).await;
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_learner_that_is_frozen_does_not_block_the_voters() {
    does_not_wait_for_a_learner(|cluster, learner| cluster.pause(learner)).await;
}

#[tokio::test]
async fn a_round_waits_for_a_member_that_is_down_and_goes_on_when_it_is_back() {
    let mut cluster = Cluster::start(stretched(3)).await;
    let recorder = Recorder::start(&cluster).await;
    let janitors = janitors(&cluster, &round(&due_in(6), "")).await;
    let down = cluster.follower().await;
    cluster.kill(down);
    for (index, janitor) in janitors.iter().enumerate().filter(|(index, _)| *index != down) {
        says(janitor, "waits for the member that is down", Duration::from_secs(100), |status| {
            waits_for(status) == Some("member_down")
        })
        .await;
        assert_eq!(cluster.member(index).metrics().await.map(|metrics| metrics.started_defrags), Some(0));
    }
    // Both have looked and said so; a second look of each finds the same.
    for (_, janitor) in janitors.iter().enumerate().filter(|(index, _)| *index != down) {
        let looks =
            || async { janitor.metric("etcd_janitor_etcd_requests_total{code=\"ok\",method=\"MemberList\"}").await };
        let before = looks().await.unwrap_or_default();
        eventually("it looks again", Duration::from_secs(40), || async {
            looks().await.filter(|now| *now > before).map(|_| ())
        })
        .await;
    }
    assert!(recorder.so_far().defrags().is_empty(), "{}", recorder.so_far());
    let back = std::time::Instant::now();
    cluster.start_again(down).await;
    all_done(&janitors, Duration::from_secs(120)).await;
    let history = recorder.finish();
    assert_one_at_a_time(&history, &[0, 1, 2]);
    let first = history.defrags()[0].from.duration_since(back);
    assert!(first < Duration::from_secs(40), "the first defrag {first:?} after the member was started\n{history}");
    stop(janitors).await;
}

/// Three of five are a quorum and go on writing; a third one in a defrag would
/// end that, so nobody starts, not when one of the two is back either.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn of_five_members_with_two_down_none_is_defragmented_until_both_are_back() {
    let mut cluster = Cluster::start(stretched(5)).await;
    let recorder = Recorder::start(&cluster).await;
    let writer = Writer::start(&cluster, "written", Pace::default()).await;
    let leader = cluster.leader().await;
    let down: Vec<usize> = (0..5).filter(|index| *index != leader).take(2).collect();
    for index in &down {
        cluster.kill(*index);
    }
    let janitors = janitors(&cluster, &round(&due_in(5), ", leader_wait: 1m")).await;
    let up: Vec<usize> = (0..5).filter(|index| !down.contains(index)).collect();
    for index in &up {
        says(&janitors[*index], "waits for the members that are down", Duration::from_secs(60), |status| {
            waits_for(status) == Some("member_down")
        })
        .await;
    }
    cluster.start_again(down[0]).await;
    says(&janitors[down[0]], "waits as well", Duration::from_secs(100), |status| {
        waits_for(status) == Some("member_down")
    })
    .await;
    assert!(recorder.so_far().defrags().is_empty(), "{}", recorder.so_far());
    cluster.start_again(down[1]).await;
    // All five through a round are seen above.
    eventually("the round goes on", Duration::from_secs(100), || async {
        let through = janitors.iter().filter(|janitor| !janitor.rounds().is_empty()).count();
        (through >= 2).then_some(())
    })
    .await;
    writer.nothing_lost(&cluster).await;
    let history = recorder.finish();
    crate::support::rounds::assert_in_turns(&history);
    assert!(history.defrags().len() >= 2, "{history}");
    assert!((0..5).all(|member| history.defrag_count(member) <= 1), "{history}");
    stop(janitors).await;
}
