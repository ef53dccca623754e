//! The operator's pause: what it stops, how it ends, and what is in its way.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use etcd_janitor::config::Etcd;
use etcd_janitor::etcd::{Calls, Cluster as Connections, write_intent};
use etcd_janitor::plan::member::{MemberId, RoundId, RoundKind};
use etcd_janitor::plan::record::{Intent, VERSION};
use etcd_janitor::plan::step::Written;
use serde_json::{Value, json};

use super::rounds::{PATIENCE, janitors, rounds_yaml, wasteful};
use crate::support::garbage::fill_to_quota;
use crate::support::rounds::{assert_in_turns, knows_all, says};
use crate::support::{Cluster, Janitor, Recorder, Spec, Tls, due_in, eventually, records};

fn hold_key() -> String {
    format!("{}hold", records::PREFIX)
}

fn intent_key() -> String {
    format!("{}intent", records::PREFIX)
}

/// A hold as a person may write it by hand, over or in force for so many minutes.
fn by_hand(minutes: i64) -> String {
    let until = Utc::now() + TimeDelta::minutes(minutes);
    json!({ "v": 1, "reason": "the data centre moves", "by": "an operator", "until": until }).to_string()
}

fn intent(member: u64) -> Intent {
    Intent {
        v: VERSION,
        member: MemberId(member),
        instance: "gone".to_owned(),
        holder: "janitor-9".to_owned(),
        round: RoundId { kind: RoundKind::Manual, due: "2026-11-22T00:00:00Z".parse().expect("an instant") },
        target_start: 0.0,
        target_count: 0,
        db_size: 0,
        db_size_in_use: 0,
        at: "2026-11-22T00:00:07Z".parse().expect("an instant"),
        extra: Default::default(),
    }
}

#[tokio::test]
async fn no_intent_is_written_over_a_hold_that_came_after_the_look() {
    // It connects with nothing but the address.
    let cluster = Cluster::start(Spec { members: 1, tls: Tls::Off, auth: None, ..Spec::default() }).await;
    let endpoint = cluster.member(0).client_url.clone();
    let etcd = Etcd { endpoint, ..etcd_janitor::config::Config::default().etcd };
    let connections = Connections::new(&etcd, Calls::new().expect("metrics")).expect("no files to read");
    connections.identify().await.expect("a member");
    let mut client = cluster.client(0).await;
    let revision = |header: Option<&etcd_client::ResponseHeader>| header.expect("a header").revision();
    let wanted = intent(cluster.member(0).id);
    let written = async |seen| write_intent(&connections, &wanted, None, seen).await;

    // None when the look was taken, in force by now.
    client.put(hold_key(), by_hand(60), None).await.expect("a hold is written");
    assert!(matches!(written(0).await, Written::Refused(_)));
    assert!(records::intent(&cluster, 0).await.is_none());

    // One that is over is in nobody's way, whether it is still there or not.
    let over = client.put(hold_key(), by_hand(-1), None).await.expect("a hold is written");
    let over = revision(over.header());
    assert!(matches!(written(over).await, Written::At(_)));
    client.delete(intent_key(), None).await.expect("the intent is cleared");
    client.delete(hold_key(), None).await.expect("the hold is cleared");
    assert!(matches!(written(over).await, Written::At(_)), "it vanished between look and intent");
    client.delete(intent_key(), None).await.expect("the intent is cleared");

    // One that is over when the look was taken, another in its place by now.
    client.put(hold_key(), by_hand(60), None).await.expect("a hold is written");
    assert!(matches!(written(over).await, Written::Refused(_)));
    assert!(records::intent(&cluster, 0).await.is_none());
}

/// Runs a command and expects an exit code; gives what was written.
async fn run(janitor: &Janitor, words: &[&str], code: i32) -> String {
    let output = janitor.command(words).await;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
    said
}

/// The lease that the hold hangs on.
async fn lease(cluster: &Cluster) -> Option<i64> {
    let found = cluster.client(0).await.get(hold_key(), None).await.expect("it can be read");
    found.kvs().first().map(etcd_client::KeyValue::lease)
}

/// Leases that etcd has, of whomever.
async fn leases(cluster: &Cluster) -> Vec<i64> {
    let all = cluster.client(0).await.leases().await.expect("leases can be listed");
    all.leases().iter().map(|lease| lease.id()).collect()
}

async fn held_by(janitor: &Janitor, by: &str) {
    let what = format!("it shows the hold by {by}");
    says(janitor, &what, Duration::from_secs(10), |status| status["hold"]["by"] == by).await;
    assert_eq!(janitor.metric("etcd_janitor_hold_active").await, Some(1.0));
}

async fn shows_no_hold(janitor: &Janitor) {
    eventually("it shows that nothing is held", Duration::from_secs(15), || async {
        (janitor.metric("etcd_janitor_hold_active").await == Some(0.0)).then_some(())
    })
    .await;
    let status = janitor.status().await;
    assert!(status["hold"].is_null() && status["hold_unreadable"].is_null(), "{status}");
}

#[tokio::test]
async fn a_hold_stops_every_janitor_and_release_lets_them_go_on_inside_the_window() {
    let cluster = wasteful(Spec::default()).await;
    let recorder = Recorder::start(&cluster).await;
    let defrag =
        format!("schedule: '{}', rule: 'dbSizeFree > 30 * MiB', pause_between: 1s, leader_wait: 15s", due_in(12));
    let yaml = format!("compaction: {{ schedule: '*/3 * * * * *', retention: 3s }}\ndefrag: {{ {defrag} }}\n");
    let beside = Janitor::prepare(&cluster, 0, &yaml);
    assert_eq!(run(&beside, &["release"], 0).await, "nothing is held\n");

    let words = ["hold", "--for", "90m", "--reason", "disk swap on node 3", "--by", "ann"];
    let said = run(&beside, &words, 0).await;
    assert!(said.starts_with("held by ann until 20") && said.contains("Z: disk swap on node 3 ("), "{said}");
    assert!(!said.contains("announced") && !said.contains("warning"), "{said}");
    let record = records::all(&cluster, 0).await.remove(&hold_key()).expect("a hold");
    assert_eq!(
        (&record["v"], &record["by"], &record["reason"]),
        (&json!(1), &json!("ann"), &json!("disk swap on node 3"))
    );
    let until: DateTime<Utc> = record["until"].as_str().expect("an end").parse().expect("an instant");
    let left = until - Utc::now();
    assert!(left > TimeDelta::minutes(89) && left < TimeDelta::minutes(91), "{left}");
    let first = lease(&cluster).await.expect("a hold");
    let ttl = cluster.client(0).await.lease_time_to_live(first, None).await.expect("a lease");
    assert_eq!(ttl.granted_ttl(), 90 * 60);

    // Janitors that start under it, and one who wants another.
    let janitors = janitors(&cluster, &yaml).await;
    for janitor in &janitors {
        held_by(janitor, "ann").await;
    }
    let table = run(&janitors[1], &["status"], 1).await;
    // The end is in whole seconds of the members' clocks: the first second may still show the full time.
    let left = |time: &str| table.contains(&format!("Held by ann for another {time}: disk swap on node 3"));
    assert!(left("1h 29m") || left("1h 30m"), "{table}");
    assert!(table.contains("HOLD held by ann until"), "{table}");
    let page = janitors[1].page().await;
    assert!(page.contains("disk swap on node 3"), "{page}");
    let words = ["hold", "--for", "2h", "--reason", "an upgrade"];
    let said = run(&janitors[1], &words, 4).await;
    assert!(said.contains("nothing was written: held by ann until") && said.contains("--replace"), "{said}");
    assert_eq!(lease(&cluster).await, Some(first));
    let said = run(&janitors[1], &[&words[..], &["--replace", "--by", "bob"]].concat(), 0).await;
    assert!(said.contains("held by bob") && said.contains("in the place of: held by ann"), "{said}");
    let second = lease(&cluster).await.expect("a hold");
    assert_eq!(leases(&cluster).await, [second], "the first one's lease is gone");
    for janitor in &janitors {
        held_by(janitor, "bob").await;
    }

    let leader = cluster.leader().await;
    for janitor in &janitors {
        let held = |event: &Value| event["task"] == "defrag" && event["reason"] == "hold";
        let event = janitor.event("the hold is in the round's way", PATIENCE, held).await;
        assert!(event["message"].to_string().contains("held by bob"), "{event}");
    }
    let held = |event: &Value| event["task"] == "compaction" && event["reason"] == "hold";
    janitors[leader].event("the hold is in the compaction's way", PATIENCE, held).await;
    assert_eq!(recorder.so_far().defrags().len(), 0);
    assert!(recorder.now(leader).is_some_and(|metrics| metrics.compact_revision == compacted(&recorder, leader)));

    let said = run(&janitors[2], &["release"], 0).await;
    assert!(said.starts_with("released: held by bob until"), "{said}");
    assert!(leases(&cluster).await.iter().all(|lease| *lease != second), "its lease is gone");
    for janitor in &janitors {
        shows_no_hold(janitor).await;
    }
    let round = records::round_of(&cluster, 0, 3, PATIENCE).await;
    assert!(round.values().all(|record| record["outcome"] == "done"), "{round:?}");
    let history = recorder.finish();
    assert_in_turns(&history);
    assert_eq!(history.defrags().len(), 3, "{history}");
}

/// The compact revision at the first reading.
fn compacted(recorder: &Recorder, member: usize) -> u64 {
    let history = recorder.so_far();
    let first = history.track(member).samples.iter().find_map(|sample| sample.metrics.as_ref());
    first.map_or(0, |metrics| metrics.compact_revision)
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_hold_ends_by_itself_and_leaves_nothing_behind() {
    let cluster = wasteful(Spec::default()).await;
    let janitors = janitors(&cluster, &rounds_yaml(&due_in(10), "leader_wait: 15s")).await;
    for janitor in &janitors {
        shows_no_hold(janitor).await;
    }
    let ends = Instant::now() + Duration::from_secs(30);
    run(&janitors[0], &["hold", "--for", "30s", "--reason", "a short look"], 0).await;
    for janitor in &janitors {
        let held = |event: &Value| event["task"] == "defrag" && event["reason"] == "hold";
        janitor.event("the hold is in the way", PATIENCE, held).await;
    }
    assert!(Instant::now() < ends, "the machine is too busy for this test");
    eventually("the key is gone without anybody's doing", Duration::from_secs(45), || async {
        lease(&cluster).await.is_none().then_some(())
    })
    .await;
    assert!(Instant::now() >= ends, "not before its end");
    for janitor in &janitors {
        shows_no_hold(janitor).await;
    }
    let round = records::round_of(&cluster, 0, 3, PATIENCE).await;
    assert!(round.values().all(|record| record["outcome"] == "done"), "{round:?}");
}

#[tokio::test]
async fn wrong_clocks_neither_shorten_a_hold_nor_keep_it() {
    let cluster = Cluster::start(Spec { members: 1, ..Spec::default() }).await;
    let mut janitor = Janitor::prepare(&cluster, 0, "compaction: { enabled: false }\ndefrag: { enabled: false }\n");
    // The operator's clock is three hours behind: the members' counts.
    let words = ["hold", "--for", "1h", "--reason", "disk swap"];
    let output = janitor.command_after(&["faketime", "-f", "-3h"], &words).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let record = records::all(&cluster, 0).await.remove(&hold_key()).expect("a hold");
    let until: DateTime<Utc> = record["until"].as_str().expect("an end").parse().expect("an instant");
    let left = until - Utc::now();
    assert!(left > TimeDelta::minutes(59) && left < TimeDelta::minutes(61), "{left}");
    run(&janitor, &["release"], 0).await;
    // The janitor's clock is an hour behind: for it the lease ends what the clock would keep.
    janitor.set_clock(-3600);
    janitor.start_again().await;
    shows_no_hold(&janitor).await;
    run(&janitor, &["hold", "--for", "8s", "--reason", "disk swap", "--by", "ann"], 0).await;
    held_by(&janitor, "ann").await;
    shows_no_hold(&janitor).await;
    assert_eq!(lease(&cluster).await, None);
}

#[tokio::test]
async fn under_nospace_a_hold_quiesces_the_local_janitor_and_says_how_to_reach_the_others() {
    let cluster = Cluster::start(Spec { quota_bytes: Some(32 << 20), ..Spec::calm() }).await;
    let yaml = "compaction: { enabled: false }\ndefrag: { enabled: false }\nalarms: { rescue: false }\n";
    let mut janitor = Janitor::start(&cluster, 1, yaml).await;
    knows_all(&janitor, 3).await;
    let held = run(&janitor, &["hold", "--for", "1h", "--reason", "a look at the quota"], 0).await;
    assert!(held.contains("held by"), "{held}");
    fill_to_quota(&cluster).await;
    let said = run(&janitor, &["release"], 0).await;
    assert!(said.starts_with("released: held by"), "it can be ended all the same: {said}");

    let before = janitor.status().await;
    assert_eq!(before["quiesced"], false, "{before}");
    let words = ["hold", "--for", "1h", "--reason", "a look at the quota"];
    let said = run(&janitor, &words, 1).await;
    assert!(said.contains("NOSPACE is up"), "{said}");
    assert!(said.contains("m1: the janitor starts nothing new and leaves the queue"), "{said}");
    let commands: Vec<&str> = said.lines().filter(|line| line.contains("kubectl exec")).map(str::trim).collect();
    let mut expected: Vec<(u64, String)> = [0, 2]
        .map(|index| cluster.member(index))
        .map(|member| (member.id, format!("kubectl exec {} -c etcd-janitor -- etcd-janitor quiesce", member.name)))
        .to_vec();
    expected.sort();
    assert_eq!(commands, expected.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>());
    says(&janitor, "it is quiesced", Duration::from_secs(5), |status| status["quiesced"] == true).await;
    assert_eq!(lease(&cluster).await, None);
    assert_eq!(leases(&cluster).await, [] as [i64; 0], "nothing is left of the attempt");
    // Without a daemon in the pod it says that, too.
    janitor.stop().await;
    let said = run(&janitor, &words, 1).await;
    assert!(said.contains("m1: no janitor listens on"), "{said}");
}

/// A transaction that only deletes is refused there, too.
#[tokio::test]
async fn under_nospace_an_old_release_ends_a_hold_too() {
    let spec = Spec { members: 1, release: "3.5.1".to_owned(), quota_bytes: Some(16 << 20), ..Spec::default() };
    let cluster = Cluster::start(spec).await;
    let janitor = Janitor::prepare(&cluster, 0, "");
    run(&janitor, &["hold", "--for", "1h", "--reason", "a look at the quota"], 0).await;
    fill_to_quota(&cluster).await;
    run(&janitor, &["release"], 0).await;
    assert_eq!(lease(&cluster).await, None);
}

#[tokio::test]
async fn what_a_hold_cannot_stop_is_named_and_what_cannot_be_read_holds() {
    let cluster = Cluster::start(Spec { members: 1, ..Spec::default() }).await;
    let mut client = cluster.client(0).await;
    let mut janitor = Janitor::prepare(&cluster, 0, "compaction: { enabled: false }\ndefrag: { enabled: false }\n");
    janitor.set_environment("USER", "ann");
    janitor.set_environment("HOSTNAME", "bastion");
    let words = ["hold", "--for", "1h", "--reason", "disk swap"];

    // Nothing is written in a dry run; one that is over is nobody's.
    let said = run(&janitor, &[&words[..], &["--dry-run"]].concat(), 0).await;
    assert!(said.contains("nothing was written; it would be held by ann@bastion until"), "{said}");
    assert!(lease(&cluster).await.is_none());
    client.put(hold_key(), by_hand(-1), None).await.expect("a hold is written");
    let intent = serde_json::to_vec(&intent(cluster.member(0).id)).expect("JSON");
    client.put(intent_key(), intent, None).await.expect("an intent is written");
    let said = run(&janitor, &words, 0).await;
    assert!(said.starts_with("held by ann@bastion until"), "{said}");
    assert!(!said.contains("in the place of"), "{said}");
    let name = format!("not stopped: a defrag of m0 ({:016x})", cluster.member(0).id);
    let rest = "that janitor-9 announced at 2026-11-22T00:00:07Z in manual-20261122T000000Z";
    assert!(said.contains(&format!("{name} {rest}")), "{said}");
    client.delete(intent_key(), None).await.expect("the intent is cleared");
    run(&janitor, &["release", "--dry-run"], 0).await;
    assert!(lease(&cluster).await.is_some());
    run(&janitor, &["release"], 0).await;

    // A hold of a newer release, put while the daemon watches.
    janitor.start_again().await;
    shows_no_hold(&janitor).await;
    client.put(hold_key(), r#"{"v":9,"paused":"all"}"#, None).await.expect("a hold is written");
    says(&janitor, "it shows a hold that cannot be read", Duration::from_secs(10), |status| {
        status["hold_unreadable"].as_str().is_some_and(|why| why.contains("version 9"))
    })
    .await;
    assert_eq!(janitor.metric("etcd_janitor_hold_active").await, Some(1.0));
    let table = run(&janitor, &["status"], 1).await;
    assert!(table.contains("HOLD cannot be read"), "{table}");
    let said = run(&janitor, &words, 4).await;
    assert!(said.contains("the hold cannot be read: the record has version 9"), "{said}");
    let said = run(&janitor, &["release"], 0).await;
    assert!(said.contains(r#": {"v":9,"paused":"all"}"#), "{said}");
    shows_no_hold(&janitor).await;

    // Somebody's own lease, which other keys hang on, is not ours to revoke.
    let lent = client.lease_grant(600, None).await.expect("a lease").id();
    let on = || Some(etcd_client::PutOptions::new().with_lease(lent));
    client.put("theirs", "", on()).await.expect("a key");
    client.put(hold_key(), by_hand(60), on()).await.expect("a hold is written");
    run(&janitor, &["release"], 0).await;
    assert_eq!(client.get("theirs", None).await.expect("it can be read").kvs().len(), 1);
}
