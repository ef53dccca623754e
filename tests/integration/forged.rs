//! Somebody who may write under the janitors' prefix and writes what a janitor might: what SECURITY.md says comes of it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use etcd_client::{Client, DeleteOptions, PutOptions};
use serde_json::json;

use super::faults::{assert_once_each, beside};
use super::hostile::write;
use super::rights::{add_users, client_at, with_auth};
use super::rounds::{PATIENCE, janitors, rounds_yaml, wasteful};
use crate::support::records::{self, PREFIX};
use crate::support::rounds::{all_done, assert_in_turns, assert_one_at_a_time, first_round, says, waits_for};
use crate::support::{Cluster, Recorder, Spec, due_in, eventually, usual_release};

/// Three members with authentication on and something to do on each.
async fn with_work(stretched: Duration) -> Cluster {
    let cluster = wasteful(Spec { stretch_defrags: Some(stretched), ..with_auth(&usual_release(), 3) }).await;
    add_users(&cluster).await;
    cluster
}

/// Their client through this member.
async fn hostile(cluster: &Cluster, through: usize) -> Client {
    let mut client = client_at(cluster, through, Some("keys")).await;
    client.put("elsewhere", "", None).await.expect_err("nothing but the prefix is theirs");
    client
}

fn id(cluster: &Cluster, member: usize) -> String {
    format!("{:016x}", cluster.member(member).id)
}

/// In every defrag the queue is emptied, and the intent is deleted, or replaced by one of another member, or by rubbish.
#[tokio::test]
async fn what_is_taken_away_in_mid_defrag_lets_no_second_one_begin() {
    let cluster = with_work(Duration::from_secs(8)).await;
    let recorder = Recorder::start(&cluster).await;
    let yaml = rounds_yaml(&due_in(8), "window: 1h") + "etcd: { request_timeout: 2s }\nturn: { lease_ttl: 5s }\n";
    let janitors = janitors(&cluster, &yaml).await;
    let mut before = Vec::new();
    for done in 0..3 {
        let busy = eventually("the next defrag begins", PATIENCE, || async {
            let open = |index: &usize| recorder.now(*index).is_some_and(|metrics| metrics.open_defrags() > 0);
            (0..3).filter(|index| !before.contains(index)).find(open)
        })
        .await;
        before.push(busy);
        let mut hostile = hostile(&cluster, beside(busy)).await;
        let below = Some(DeleteOptions::new().with_prefix());
        let places = hostile.delete(format!("{PREFIX}turn/"), below).await.expect("the role may delete, too");
        assert!(places.deleted() > 0, "whoever defragments has a place");
        let deleted = hostile.delete(format!("{PREFIX}intent"), None).await.expect("the role may delete, too");
        assert_eq!(deleted.deleted(), 1, "whoever defragments has an intent");
        let other = json!({ "v": 1, "member": id(&cluster, beside(busy)), "instance": "x", "holder": "x",
            "round": "cron-20200101T000000Z", "target_start": 0.0, "target_count": 0, "db_size": 1,
            "db_size_in_use": 1, "at": "2020-01-01T00:00:00Z" });
        match done {
            0 => {}
            1 => write(&mut hostile, "intent", other.to_string()).await,
            _ => write(&mut hostile, "intent", "rubbish").await,
        }
    }
    all_done(&janitors, PATIENCE).await;
    let history = recorder.finish();
    assert_in_turns(&history);
    assert_once_each(&history);
}

/// A lease of one's own makes a place in the queue that nobody takes away: rounds wait behind it, and end.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_place_on_somebodys_lease_delays_rounds_until_they_end() {
    let cluster = with_work(Duration::from_millis(500)).await;
    let recorder = Recorder::start(&cluster).await;
    let mut hostile = hostile(&cluster, 0).await;
    let lease = hostile.lease_grant(3600, None).await.expect("a lease is anybody's").id();
    let options = PutOptions::new().with_lease(lease);
    hostile.put(format!("{PREFIX}turn/{lease:016x}"), "mine", Some(options)).await.expect("the role may write it");

    let mut janitors = janitors(&cluster, &rounds_yaml(&due_in(8), "window: 40s")).await;
    for janitor in &janitors {
        let ended = first_round(janitor, PATIENCE).await;
        assert_eq!(ended, ("skipped".to_owned(), Some("turn_timeout".to_owned())), "{}", janitor.log_tail(20));
    }
    assert!(recorder.so_far().defrags().is_empty(), "{}", recorder.so_far());

    // The operator finds it in the queue, and revokes its lease as any other.
    let queue = janitors[0].status().await["queue"].to_string();
    assert!(queue.contains(&format!("{lease:016x}")), "{queue}");
    let revoked = cluster.etcdctl(&["lease", "revoke", &format!("{lease:016x}")]).await;
    assert!(revoked.status.success(), "{revoked:?}");
    let again = rounds_yaml(&due_in(10), "window: 1h");
    for janitor in &mut janitors {
        janitor.reload(&again).await;
    }
    for janitor in &janitors {
        eventually("the next round is done", PATIENCE, || async {
            janitor.rounds().get(1).map(|(_, outcome, _)| assert_eq!(outcome, "done", "{}", janitor.log_tail(20)))
        })
        .await;
    }
    assert_one_at_a_time(&recorder.finish(), &[0, 1, 2]);
}

/// Who writes that a member is through before the round has begun spares that member, and none else. Who deletes the
/// operator's hold ends it.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn an_outcome_before_its_time_spares_that_member_and_a_deleted_hold_is_over() {
    let cluster = with_work(Duration::from_millis(500)).await;
    let recorder = Recorder::start(&cluster).await;
    let due: DateTime<Utc> = Utc::now() + TimeDelta::seconds(12);
    let (schedule, round) =
        (due.format("%-S %-M %-H * * *").to_string(), due.format("cron-%Y%m%dT%H%M%SZ").to_string());
    let (spared, mut hostile) = (cluster.follower().await, hostile(&cluster, 0).await);
    let member = id(&cluster, spared);
    let outcome = json!({ "v": 1, "round": round, "member": member, "name": "x", "outcome": "done",
        "ended_at": due.to_rfc3339() });
    write(&mut hostile, &format!("rounds/{round}/{member}"), outcome.to_string()).await;
    let janitors = janitors(&cluster, &rounds_yaml(&schedule, "window: 1h")).await;
    let held = janitors[0].command(&["hold", "--for", "1h", "--reason", "disk swap"]).await;
    assert!(held.status.success(), "{held:?}");
    let others: Vec<usize> = (0..3).filter(|index| *index != spared).collect();
    for index in &others {
        says(&janitors[*index], "waits for the hold", PATIENCE, |status| waits_for(status) == Some("hold")).await;
    }
    assert!(recorder.so_far().defrags().is_empty(), "{}", recorder.so_far());

    hostile.delete(format!("{PREFIX}hold"), None).await.expect("the role may delete, too");
    let rounds = eventually("the others are through", PATIENCE, || async {
        let rounds = records::rounds(&cluster, 0).await.remove(&round)?;
        (rounds.len() == 3).then_some(rounds)
    })
    .await;
    for index in &others {
        let ended = first_round(&janitors[*index], PATIENCE).await;
        assert_eq!(ended.0, "done", "{}", janitors[*index].log_tail(20));
    }
    assert_eq!(rounds[&spared]["name"], "x", "nobody has replaced it: {rounds:?}");
    assert_one_at_a_time(&recorder.finish(), &others);
}
