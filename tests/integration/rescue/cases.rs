//! One thing each that can come between NOSPACE and its end.

use std::time::{Duration, Instant};

use etcd_client::{AlarmAction, AlarmOptions, AlarmType};

use super::{alarmed, clients::Clients, judge, rescue_yaml, small, until_alarmed, until_rescued, yaml};
use crate::rounds::{PATIENCE, janitors};
use crate::support::consistency::hash_kv_equal;
use crate::support::garbage::{ballast, compact, fill_to_quota};
use crate::support::{Auth, Cluster, Janitor, Recorder, Spec, Tls, Token, eventually};

/// Long enough to see that nothing is done: several times what a rescue waits before it acts.
const A_WHILE: Duration = Duration::from_secs(30);

/// Of a file that has just been filled up to a seventh is free, which a defrag alone would give back.
pub const BELOW_WHAT_IS_IN_USE: &str = ", disarm_below: 0.7";

/// A full cluster with its clients, a recorder and its janitors, once NOSPACE is up.
async fn full(spec: Spec, config: &str) -> (Cluster, Recorder, Vec<Janitor>, Clients, Instant) {
    let cluster = Cluster::start(spec).await;
    ballast(&cluster, 12).await;
    let recorder = Recorder::start(&cluster).await;
    let janitors = janitors(&cluster, config).await;
    let clients = Clients::start(&cluster, Duration::from_millis(20)).await;
    let since = until_alarmed(&cluster).await;
    (cluster, recorder, janitors, clients, since)
}

/// The member in a defrag.
async fn in_a_defrag(cluster: &Cluster, recorder: &Recorder) -> usize {
    eventually("somebody is in a defrag", PATIENCE, || async {
        cluster.voters().into_iter().find(|index| recorder.now(*index).is_some_and(|m| m.open_defrags() > 0))
    })
    .await
}

/// What every janitor says is in the way.
pub async fn blocked(janitors: &[Janitor], reason: &str) -> String {
    let series = format!("etcd_janitor_rescue_blocked{{reason=\"{reason}\"}}");
    let mut detail = String::new();
    for janitor in janitors {
        detail = eventually(&format!("blocked by {reason}"), PATIENCE, || async {
            let waits_for = janitor.status().await["rescue"]["waiting_for"].clone();
            // The two are read one after the other: a slow answer may be what stands in the way for a moment.
            let both = waits_for["reason"] == reason && janitor.metric(&series).await == Some(1.0);
            both.then(|| waits_for["detail"].as_str().map(str::to_owned)).flatten()
        })
        .await;
    }
    detail
}

/// What is in the way is on every surface: metric, API, page, table, and once in the log.
async fn told_everywhere(janitor: &Janitor, reason: &str, words: &str) {
    let detail = blocked(std::slice::from_ref(janitor), reason).await;
    assert!(detail.contains(words), "{detail}");
    let (_, page) = janitor.get("/").await.expect("a page");
    assert!(page.contains(words), "{page}");
    let table = String::from_utf8_lossy(&janitor.command(&["status"]).await.stdout).into_owned();
    assert!(table.contains("RESCUE rescue-") && table.contains(words), "{table}");
    let said = janitor.events().iter().filter(|event| event["message"].to_string().contains(words)).count();
    assert_eq!(said, 1, "{}", janitor.log_tail(40));
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn behind_mutual_tls_and_with_passwords_it_is_the_same() {
    let token = Token::Simple { ttl: Duration::from_secs(5) };
    let auth = Auth { root_password: "correct horse".to_owned(), token };
    let spec = Spec { tls: Tls::Mutual, auth: Some(auth), ..small() };
    let (cluster, recorder, _janitors, clients, since) = full(spec, &yaml("")).await;
    until_rescued(&cluster, &clients, since).await;
    judge(&cluster, recorder, clients, 3).await;
}

/// Rounds are due every ten seconds and every member has work in each: one is always under way.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_round_under_way_gives_way() {
    let config = yaml("").replace(
        "schedule: '0 0 1 1 *'",
        "schedule: '*/10 * * * * *', window: 9s, rule: 'dbSize > 1', pause_between: 1s, urgent_at: 1",
    );
    let spec = Spec { stretch_defrags: Some(Duration::from_secs(2)), ..small() };
    let (cluster, recorder, janitors, clients, since) = full(spec, &config).await;
    until_rescued(&cluster, &clients, since).await;
    assert!(janitors.iter().any(|janitor| janitor.rounds().iter().any(|(id, ..)| id.starts_with("cron-"))));
    judge(&cluster, recorder, clients, 3).await;
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_member_killed_in_its_defrag_is_defragmented_again() {
    let spec = Spec { stretch_defrags: Some(Duration::from_secs(3)), ..small() };
    let (mut cluster, recorder, _janitors, clients, since) = full(spec, &yaml("")).await;
    let busy = in_a_defrag(&cluster, &recorder).await;
    cluster.kill(busy);
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.start_again(busy).await;
    until_rescued(&cluster, &clients, since).await;
    judge(&cluster, recorder, clients, 3).await;
}

/// Whoever was next may be somebody else now; the member in its defrag may be the one that is elected.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn leadership_that_moves_in_the_middle_changes_nothing() {
    let spec = Spec { stretch_defrags: Some(Duration::from_secs(3)), ..small() };
    let (cluster, recorder, _janitors, clients, since) = full(spec, &yaml("")).await;
    let busy = in_a_defrag(&cluster, &recorder).await;
    let leader = cluster.leader().await;
    let to = cluster.voters().into_iter().find(|index| *index != leader && *index != busy).expect("a third member");
    let moved = cluster.client(leader).await.move_leader(cluster.member(to).id).await;
    moved.expect("a healthy leader hands over");
    until_rescued(&cluster, &clients, since).await;
    judge(&cluster, recorder, clients, 3).await;
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_janitor_that_crashes_in_its_defrag_is_no_hurdle() {
    let spec = Spec { stretch_defrags: Some(Duration::from_secs(3)), ..small() };
    let (cluster, recorder, mut janitors, clients, since) = full(spec, &yaml("")).await;
    let busy = in_a_defrag(&cluster, &recorder).await;
    janitors[busy].kill();
    tokio::time::sleep(Duration::from_secs(1)).await;
    janitors[busy].start_again().await;
    until_rescued(&cluster, &clients, since).await;
    judge(&cluster, recorder, clients, 3).await;
}

/// An operator defragments the leader, which no janitor would: they leave the cluster to the operator, who goes on, and
/// ends it before every member has room.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn an_operator_at_work_is_left_alone() {
    let spec = Spec { stretch_defrags: Some(Duration::from_secs(8)), ..small() };
    let cluster = Cluster::start(spec).await;
    let revision = fill_to_quota(&cluster).await;
    compact(&cluster, revision).await;
    let recorder = Recorder::start(&cluster).await;
    let leader = cluster.leader().await;
    // No janitor sends before it has been calm for ten seconds.
    let janitors = janitors(&cluster, &yaml("")).await;
    // The leader's could not look before the defrag is over, and would know nothing of it.
    for janitor in &janitors {
        eventually("it is at it", PATIENCE, || async {
            (janitor.metric("etcd_janitor_rescue_active").await == Some(1.0)).then_some(())
        })
        .await;
    }
    let by_hand = cluster.etcdctl_at(leader, &["defrag", "--command-timeout=60s"]);
    let (output, detail) = tokio::join!(by_hand, blocked(&janitors, "foreign_defrag"));
    assert!(output.status.success(), "{output:?}");
    assert!(detail.contains("somebody is at it by hand"), "{detail}");
    tokio::time::sleep(A_WHILE).await;
    let detail = blocked(&janitors, "foreign_defrag").await;
    assert!(detail.contains("stands back for another"), "{detail}");
    let history = recorder.so_far();
    for index in cluster.voters() {
        assert_eq!(history.defrag_count(index), usize::from(index == leader), "only the operator's");
    }
    assert!(alarmed(&cluster).await, "the operator clears it, not a janitor");
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn corrupt_stops_everything_and_is_never_cleared() {
    let cluster = Cluster::start(small()).await;
    let revision = fill_to_quota(&cluster).await;
    compact(&cluster, revision).await;
    let recorder = Recorder::start(&cluster).await;
    let mut client = cluster.client(cluster.leader().await).await;
    let member = cluster.member(0).id;
    let mut options = AlarmOptions::new();
    options.with_member(member);
    client.alarm(AlarmAction::Activate, AlarmType::Corrupt, Some(options)).await.expect("an alarm is raised");
    let janitors = janitors(&cluster, &yaml(", compact_to_head: true")).await;
    blocked(&janitors, "corrupt").await;
    tokio::time::sleep(A_WHILE).await;
    for index in cluster.voters() {
        assert_eq!(recorder.now(index).expect("metrics").defrag_count, 0);
    }
    // Its token may be older than etcd keeps one.
    let mut client = cluster.client(cluster.leader().await).await;
    let alarms = client.alarm(AlarmAction::Get, AlarmType::None, None).await.expect("alarms are told");
    let kinds: Vec<AlarmType> = alarms.alarms().iter().map(|alarm| alarm.alarm()).collect();
    assert!(kinds.contains(&AlarmType::Corrupt) && kinds.contains(&AlarmType::Nospace), "{kinds:?}");
}

/// Everything is younger than the retention: it says when that changes, and what would not wait. The operator takes it
/// at its word, and the new configuration counts at once.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn compaction_to_the_head_is_the_operators_word_and_counts_at_once() {
    let cluster = Cluster::start(small()).await;
    let recorder = Recorder::start(&cluster).await;
    let hour = yaml(BELOW_WHAT_IS_IN_USE).replace("rescue_retention: 2s", "rescue_retention: 1h");
    let mut janitors = janitors(&cluster, &hour).await;
    fill_to_quota(&cluster).await;
    let leader = cluster.leader().await;
    let detail = blocked(&janitors[leader..=leader], "not_needed").await;
    assert!(detail.contains("more can be compacted at") && detail.contains("compact_to_head"), "{detail}");
    tokio::time::sleep(A_WHILE).await;
    told_everywhere(&janitors[leader], "not_needed", "more can be compacted at").await;
    assert!(alarmed(&cluster).await);
    let to_head = hour.replace("rescue_retention: 1h", "rescue_retention: 1h, compact_to_head: true");
    for janitor in &mut janitors {
        janitor.reload(&to_head).await;
    }
    eventually("the alarm is gone", PATIENCE, || async { (!alarmed(&cluster).await).then_some(()) }).await;
    let mut client = cluster.client(cluster.leader().await).await;
    client.put("again", "", None).await.expect("writes are taken");
    hash_kv_equal(&cluster).await.unwrap_or_else(|why| panic!("{why}"));
    let history = recorder.finish();
    assert!(history.overlaps().is_empty(), "{:?}", history.overlaps());
}

/// The apiserver's own compaction needs a write, and its watchers and paginated lists need five minutes of history.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_kube_apiservers_keyspace_is_compacted_for_it_and_keeps_five_minutes() {
    let cluster = Cluster::start(small()).await;
    let mut client = cluster.client(cluster.leader().await).await;
    client.put("compact_rev_key", "1", None).await.expect("a put");
    let recorder = Recorder::start(&cluster).await;
    let janitors = janitors(&cluster, &yaml(BELOW_WHAT_IS_IN_USE)).await;
    let revision = fill_to_quota(&cluster).await;
    let filled = Instant::now();
    let leader = cluster.leader().await;
    blocked(&janitors[leader..=leader], "not_needed").await;
    tokio::time::sleep(A_WHILE).await;
    told_everywhere(&janitors[leader], "not_needed", "watchers and lists need five minutes").await;
    let minutes = Duration::from_secs(300);
    eventually("the alarm is gone", minutes + PATIENCE, || async { (!alarmed(&cluster).await).then_some(()) }).await;
    let compacted =
        cluster.voters().into_iter().filter_map(|index| recorder.now(index)).map(|m| m.compact_revision).max();
    let (compacted, revision) = (compacted.expect("metrics"), u64::try_from(revision).expect("a revision"));
    assert!(
        filled.elapsed() >= minutes || compacted < revision,
        "{compacted} of {revision} after {:?}",
        filled.elapsed()
    );
    let history = recorder.finish();
    assert!(history.overlaps().is_empty(), "{:?}", history.overlaps());
    assert!(history.began_on_leaders().is_empty());
}

/// Up to 3.5.6 a Txn may be refused under NOSPACE even if it only deletes; 3.4.23 counts pages late.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn every_release_is_rescued() {
    for release in ["3.4.23", "3.5.1", "3.5.16"] {
        println!("{release}");
        let spec = Spec { release: release.to_owned(), ..small() };
        let (cluster, recorder, _janitors, clients, since) = full(spec, &rescue_yaml("", "allow")).await;
        until_rescued(&cluster, &clients, since).await;
        judge(&cluster, recorder, clients, 3).await;
    }
}
