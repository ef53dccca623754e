//! What others do to a round: operators, other tools, a second janitor beside
//! the same member, a member that is replaced.

use std::time::Duration;

use etcd_client::Client;
use serde_json::Value;

use super::faults::{assert_all_done, assert_once_each, beside, busy, member_of, whole_round};
use super::rounds::{PATIENCE, janitors};
use crate::support::garbage::ballast;
use crate::support::rounds::{assert_in_turns, says, waits_for};
use crate::support::writer::{Pace, Writer};
use crate::support::{Cluster, Janitor, Mode, Proxy, Recorder, Spec, due_in, eventually, records};

fn stretched(seconds: u64) -> Spec {
    Spec { stretch_defrags: Some(Duration::from_secs(seconds)), ..Spec::default() }
}

fn yaml(seconds: i64, more: &str) -> String {
    format!(
        "compaction: {{ enabled: false }}\netcd: {{ request_timeout: 2s }}\nturn: {{ lease_ttl: 5s }}\n\
         defrag: {{ schedule: '{}', rule: 'dbSize > 0', pause_between: 1s, leader_wait: 15s{more} }}\n",
        due_in(seconds),
    )
}

fn lost_turn(event: &Value) -> bool {
    event["message"].to_string().contains("the place in the queue was lost")
}

/// The first time before anything was sent under it, the second time in the
/// middle of a defrag.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_lease_revoked_from_outside_ends_the_turn_and_nothing_is_sent_on_it() {
    let cluster = Cluster::start(stretched(5)).await;
    let recorder = Recorder::start(&cluster).await;
    let writer = Writer::start(&cluster, "written", Pace::default()).await;
    let janitors = janitors(&cluster, &yaml(5, ", drain: 3s")).await;
    let through = cluster.leader().await;
    let first = eventually("somebody has the turn", PATIENCE, || async {
        records::queue_in_order(&cluster, through).await.first().copied()
    })
    .await;
    assert!(records::revoke(&cluster, through, first).await, "no lease to revoke");
    janitors[first].event("the loss is noticed", Duration::from_secs(10), lost_turn).await;
    let working = busy(&recorder).await;
    assert_ne!(working, first, "sent without a turn\n{}", janitors[first].log_tail(20));
    assert!(records::revoke(&cluster, through, working).await, "no lease to revoke");
    assert_eq!(member_of(&cluster, &records::intent(&cluster, through).await), Some(working));
    janitors[working].event("the loss is noticed", Duration::from_secs(10), lost_turn).await;
    for janitor in [&janitors[first], &janitors[working]] {
        assert_eq!(janitor.metric("etcd_janitor_turn_lost_total").await, Some(1.0), "{}", janitor.log_tail(20));
    }
    let round = whole_round(&cluster, through).await;
    assert_all_done(&round);
    writer.nothing_lost(&cluster).await;
    let history = recorder.finish();
    assert_in_turns(&history);
    assert_once_each(&history);
}

#[tokio::test]
async fn a_second_janitor_for_the_same_member_changes_nothing() {
    let cluster = Cluster::start(stretched(2)).await;
    let recorder = Recorder::start(&cluster).await;
    let writer = Writer::start(&cluster, "written", Pace::default()).await;
    let yaml = yaml(8, "");
    let mut twice = janitors(&cluster, &yaml).await;
    for index in 0..3 {
        twice.push(Janitor::start(&cluster, index, &yaml).await);
    }
    let through = cluster.leader().await;
    for janitor in &twice {
        eventually("its round ends", PATIENCE, || async { janitor.rounds().pop() }).await;
    }
    assert_all_done(&whole_round(&cluster, through).await);
    let ends: Vec<_> = twice.iter().flat_map(Janitor::rounds).collect();
    let done = ends.iter().filter(|(_, outcome, _)| outcome == "done").count();
    let left = ends.iter().filter(|(_, _, reason)| reason.as_deref() == Some("not_needed")).count();
    assert_eq!((done, left), (3, 3), "{ends:?}");
    writer.nothing_lost(&cluster).await;
    let history = recorder.finish();
    assert_in_turns(&history);
    assert_once_each(&history);
}

/// A client that has asked for a snapshot and does not read it: etcd keeps the
/// stream open, and a defrag would wait for it and stop the member meanwhile.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn an_open_snapshot_is_waited_for() {
    let cluster = Cluster::start(stretched(1)).await;
    // More than etcd and both ends of the connection hold in their buffers.
    ballast(&cluster, 48).await;
    let recorder = Recorder::start(&cluster).await;
    let writer = Writer::start(&cluster, "written", Pace::default()).await;
    let leader = cluster.leader().await;
    let read_from = beside(leader);
    let proxy = Proxy::start(cluster.member(read_from).client_address()).await;
    let options = cluster.connect_options();
    let mut client = Client::connect([format!("http://{}", proxy.address())], Some(options)).await.expect("a client");
    let stream = client.snapshot().await.expect("a snapshot begins");
    proxy.set(Mode::Stall(crate::support::Direction::ToClient)).await;
    let janitors = janitors(&cluster, &yaml(3, "")).await;
    for janitor in &janitors {
        says(janitor, "waits for the snapshot", Duration::from_secs(60), |status| {
            waits_for(status) == Some("snapshot_open")
        })
        .await;
    }
    assert!(recorder.now(read_from).is_some_and(|metrics| metrics.open_snapshots == 1));
    assert!(recorder.so_far().defrags().is_empty(), "{}", recorder.so_far());
    drop(stream);
    drop(proxy);
    let round = whole_round(&cluster, leader).await;
    assert_all_done(&round);
    writer.nothing_lost(&cluster).await;
    let history = recorder.finish();
    assert_in_turns(&history);
    assert_once_each(&history);
    let snapshot = &history.snapshots()[0];
    assert!(history.defrags().iter().all(|defrag| defrag.from > snapshot.to), "{history}");
}

/// Before 3.5.23 the gauge that everybody reads falls to 0 when the first of
/// two queued calls ends although the second one runs.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn queued_defrags_are_waited_for_to_the_last_on_a_release_whose_gauge_hides_them() {
    let cluster = Cluster::start(Spec { release: "3.5.16".to_owned(), ..stretched(10) }).await;
    let recorder = Recorder::start(&cluster).await;
    let writer = Writer::start(&cluster, "written", Pace::default()).await;
    let member = cluster.follower().await;
    let janitors = janitors(&cluster, &yaml(4, "")).await;
    let operator = || cluster.etcdctl_at(member, &["--command-timeout=60s", "defrag"]);
    let (one, other) = tokio::join!(operator(), operator());
    assert!(one.status.success() && other.status.success(), "{one:?} {other:?}");
    let others = (0..3).filter(|index| *index != member);
    for index in others {
        let foreign = |event: &Value| event["task"] == "defrag" && event["reason"] == "foreign_defrag";
        let events = janitors[index].events();
        assert!(events.iter().any(foreign), "{}", janitors[index].log_tail(20));
    }
    let round = whole_round(&cluster, member).await;
    assert_all_done(&round);
    writer.nothing_lost(&cluster).await;
    let history = recorder.finish();
    assert!(history.overlaps().is_empty(), "{history}");
    let order: Vec<_> = history.defrags().iter().map(|defrag| defrag.member).collect();
    assert_eq!(order.len(), 5, "{history}");
    assert_eq!(order[..2], [member, member], "{history}");
    assert_eq!(history.max_open_anywhere(), 2, "the operator's own two\n{history}");
    let hidden = history.intervals(|sample| {
        sample.metrics.as_ref().is_some_and(|metrics| metrics.open_defrags() > 0 && metrics.defrag_inflight == 0)
    });
    assert!(hidden.iter().any(|gap| gap.to - gap.from > Duration::from_secs(2)), "nothing was hidden {hidden:?}");
}

/// The member that a call is under way to is taken off the list and another one
/// put in its place. What its janitor has left becomes void, and the others,
/// the new one too, go on.
#[tokio::test]
async fn a_member_replaced_between_look_and_send_leaves_nothing_behind() {
    let mut cluster = Cluster::start(stretched(2)).await;
    let mut recorder = Recorder::start(&cluster).await;
    let writer = Writer::start(&cluster, "written", Pace::default()).await;
    let yaml = yaml(6, "");
    let (mut janitors, mut proxies) = (Vec::new(), Vec::new());
    for index in 0..3 {
        let proxy = Proxy::start(cluster.member(index).client_address()).await;
        proxy.set(Mode::HoldDefragment).await;
        let mut janitor = Janitor::prepare(&cluster, index, &yaml);
        janitor.set_environment("ETCD_JANITOR__ETCD__ENDPOINT", &format!("http://{}", proxy.address()));
        janitor.start_again().await;
        janitors.push(janitor);
        proxies.push(proxy);
    }
    let old =
        eventually("a call is on its way", PATIENCE, || async { proxies.iter().position(|proxy| proxy.held() > 0) })
            .await;
    for (_, proxy) in proxies.iter().enumerate().filter(|(index, _)| *index != old) {
        proxy.set(Mode::Pass).await;
    }
    let through = beside(old);
    assert_eq!(member_of(&cluster, &records::intent(&cluster, through).await), Some(old));
    cluster.remove_member(old).await;
    let new = cluster.add_learner().await;
    cluster.promote(new).await;
    recorder.watch(&cluster, new).await;
    proxies[old].point_to(cluster.member(new).client_address());
    proxies[old].set(Mode::Pass).await;
    eventually("the intent is void", Duration::from_secs(60), || async {
        records::intent(&cluster, through).await.is_none().then_some(())
    })
    .await;
    let staying: Vec<_> = (0..3).filter(|index| *index != old).collect();
    eventually("the others are done", PATIENCE, || async {
        let (_, round) = records::rounds(&cluster, through).await.pop_first()?;
        staying.iter().all(|index| round.get(index).is_some_and(|record| record["outcome"] == "done")).then_some(())
    })
    .await;
    assert!(records::queue(&cluster, through).await.iter().all(|member| *member != old));
    writer.nothing_lost(&cluster).await;
    let history = recorder.finish();
    assert_in_turns(&history);
    assert_eq!(history.defrag_count(old), 0, "{history}");
    // The round was the old member's; its call must not reach the new one.
    assert_eq!(history.defrag_count(new), 0, "{history}\n{}", janitors[old].log_tail(30));
}
