//! The window between the last look and the arrival of the call, which no lock
//! can close. Here it is held open with a proxy, to show what an overlap is,
//! that the judge sees and explains it, and what it costs.

use std::time::{Duration, Instant};

use super::faults::{assert_all_done, member_of};
use super::rounds::PATIENCE;
use crate::support::consistency::hash_kv_equal;
use crate::support::intents::Intents;
use crate::support::overlaps::{Class, Deeds, Foreign, Pause};
use crate::support::writer::{Pace, Writer};
use crate::support::{Cluster, Janitor, Mode, Proxy, Recorder, Spec, due_in, eventually, records};

const LEASE_TTL: Duration = Duration::from_secs(5);

/// Janitors, and between each and its own member a proxy that holds the first
/// `Defragment` back.
async fn held_back(cluster: &Cluster) -> (Vec<Janitor>, Vec<Proxy>) {
    let yaml = format!(
        "compaction: {{ enabled: false }}\netcd: {{ request_timeout: 2s }}\nturn: {{ lease_ttl: {}s }}\n\
         defrag: {{ schedule: '{}', rule: 'dbSize > 0', pause_between: 1s, leader_wait: 15s }}\n",
        LEASE_TTL.as_secs(),
        due_in(6),
    );
    let (mut janitors, mut proxies) = (Vec::new(), Vec::new());
    for index in 0..3 {
        let proxy = Proxy::start(cluster.member(index).client_address()).await;
        proxy.set(Mode::HoldDefragment).await;
        let mut janitor = Janitor::prepare(cluster, index, &yaml);
        janitor.set_environment("ETCD_JANITOR__ETCD__ENDPOINT", &format!("http://{}", proxy.address()));
        janitor.start_again().await;
        janitors.push(janitor);
        proxies.push(proxy);
    }
    (janitors, proxies)
}

/// Whose call is on its way; the others' will not be held.
async fn on_its_way(proxies: &[Proxy]) -> usize {
    let first =
        eventually("a call is on its way", PATIENCE, || async { proxies.iter().position(|proxy| proxy.held() > 0) })
            .await;
    for (index, proxy) in proxies.iter().enumerate() {
        if index != first {
            proxy.set(Mode::Pass).await;
        }
    }
    first
}

#[tokio::test]
async fn an_operators_defrag_begun_after_the_look_overlaps_and_is_told_apart() {
    let cluster = Cluster::start(Spec { stretch_defrags: Some(Duration::from_secs(4)), ..Spec::default() }).await;
    let recorder = Recorder::start(&cluster).await;
    let writer = Writer::start(&cluster, "written", Pace::default()).await;
    let (_janitors, proxies) = held_back(&cluster).await;
    let first = on_its_way(&proxies).await;
    let leader = cluster.leader().await;
    let foreign = 3 - first - leader;
    let called = Instant::now();
    let operator = async {
        let output = cluster.etcdctl_at(foreign, &["--command-timeout=30s", "defrag"]).await;
        assert!(output.status.success(), "{output:?}");
        Instant::now()
    };
    let release = async {
        recorder.sees_defrag_open(foreign).await;
        proxies[first].set(Mode::Pass).await;
    };
    let (returned, ()) = tokio::join!(operator, release);
    let round = records::round_of(&cluster, leader, 3, PATIENCE).await;
    assert_all_done(&round);
    let written = writer.verify(&cluster).await;
    let history = recorder.finish();
    let foreign = vec![Foreign { member: foreign, called, returned: Some(returned) }];
    let deeds = Deeds { foreign, lease_ttl: LEASE_TTL, ..Deeds::default() };
    let overlaps = deeds.overlaps(&history);
    assert_eq!(overlaps.keys().collect::<Vec<_>>(), [&Class::ForeignAfterLook], "{history}");
    assert_eq!(history.max_open_anywhere(), 2, "{history}");
    assert!(written.lost.is_empty(), "{written:?}");
    hash_kv_equal(&cluster).await.expect("equal data");
    eprintln!("two of three members for a while: longest time without a write {:?}", written.longest_stall);
}

/// A janitor that stands still for longer than a lease and an intent outlive,
/// with its call already on the way. The others find its member idle, settle
/// its intent as unknown and go on; then the call arrives.
#[tokio::test]
async fn a_call_that_arrives_after_its_intent_was_given_up_overlaps_and_is_told_apart() {
    let cluster = Cluster::start(Spec { stretch_defrags: Some(Duration::from_secs(4)), ..Spec::default() }).await;
    let recorder = Recorder::start(&cluster).await;
    let intents = Intents::watch(&cluster).await;
    let writer = Writer::start(&cluster, "written", Pace::default()).await;
    let (mut janitors, proxies) = held_back(&cluster).await;
    let first = on_its_way(&proxies).await;
    janitors[first].process().signal("STOP");
    let from = Instant::now();
    let leader = cluster.leader().await;
    assert_eq!(member_of(&cluster, &records::intent(&cluster, leader).await), Some(first));
    let second = eventually("another one begins", PATIENCE, || async {
        (0..3).find(|index| recorder.now(*index).is_some_and(|metrics| metrics.open_defrags() > 0))
    })
    .await;
    assert_ne!(second, first);
    assert!(from.elapsed() > LEASE_TTL, "the intent was not respected: {:?}", from.elapsed());
    let given_up = records::rounds(&cluster, leader).await.pop_first().expect("a round").1;
    assert_eq!(given_up[&first]["outcome"], "unknown", "{given_up:?}");
    proxies[first].set(Mode::Pass).await;
    janitors[first].process().signal("CONT");
    let pause = Pause { member: first, from, to: Instant::now() };
    // Its own janitor is told of the end and corrects what the others wrote.
    let round = eventually("the round is on record", PATIENCE, || async {
        let (_, round) = records::rounds(&cluster, leader).await.pop_first()?;
        (round.len() == 3 && round.values().all(|record| record["outcome"] == "done")).then_some(round)
    })
    .await;
    assert_all_done(&round);
    let written = writer.verify(&cluster).await;
    let history = recorder.finish();
    let deeds = Deeds { pauses: vec![pause], intents: intents.finish(), lease_ttl: LEASE_TTL, ..Deeds::default() };
    let overlaps = deeds.overlaps(&history);
    assert_eq!(overlaps.keys().collect::<Vec<_>>(), [&Class::PauseInWindow], "{history}");
    // A pause explains nothing where the intent was not given up in it.
    let respected = Deeds { intents: Vec::new(), ..deeds.clone() };
    for unexplaining in [Deeds::default(), respected] {
        assert!(unexplaining.overlaps(&history).contains_key(&Class::Unexplained), "{history}");
    }
    assert!((0..3).all(|member| history.defrag_count(member) == 1), "{history}");
    assert!(written.lost.is_empty(), "{written:?}");
    hash_kv_equal(&cluster).await.expect("equal data");
    eprintln!("two of three members for a while: longest time without a write {:?}", written.longest_stall);
}

/// The last look's question is on its way to a member when the operator's call gets there before it: then the member
/// answers nothing, and nothing is sent. Only where its answer had left already the look is clean, and both overlap.
#[tokio::test]
async fn an_operators_defrag_begun_during_the_look_is_waited_for_or_told_apart() {
    let spec = Spec { client_proxies: true, stretch_defrags: Some(Duration::from_secs(3)), ..Spec::default() };
    let cluster = Cluster::start(spec).await;
    let recorder = Recorder::start(&cluster).await;
    let writer = Writer::start(&cluster, "written", Pace::default()).await;
    let leader = cluster.leader().await;
    let (first, foreign) = ((leader + 1) % 3, (leader + 2) % 3);
    // Half of what a look waits for, and more than what an operator's call takes.
    cluster.proxy(foreign).set(Mode::Delay(Duration::from_millis(300))).await;
    let yaml = format!(
        "compaction: {{ enabled: false }}\netcd: {{ request_timeout: 2s }}\nturn: {{ lease_ttl: {}s }}\n\
         defrag: {{ schedule: '{}', rule: 'dbSize > 0', pause_between: 1s }}\n",
        LEASE_TTL.as_secs(),
        due_in(4),
    );
    let janitor = Janitor::start(&cluster, first, &yaml).await;
    // Read closely: the last look is taken when the intent is written.
    let mut client = cluster.client_to(&cluster.member(leader).client_url).await.expect("the leader is up");
    let intent = format!("{}intent", records::PREFIX);
    let patience = Instant::now() + PATIENCE;
    while client.get(intent.as_str(), None).await.is_ok_and(|answer| answer.kvs().is_empty()) {
        assert!(Instant::now() < patience, "no intent\n{}", janitor.log_tail(30));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let called = Instant::now();
    let output = cluster.etcdctl_at(foreign, &["--command-timeout=30s", "defrag"]).await;
    assert!(output.status.success(), "{output:?}");
    let foreign = vec![Foreign { member: foreign, called, returned: Some(Instant::now()) }];
    let round = records::round_of(&cluster, leader, 1, PATIENCE).await;
    assert_all_done(&round);
    writer.nothing_lost(&cluster).await;
    let history = recorder.finish();
    let deeds = Deeds { foreign, lease_ttl: LEASE_TTL, ..Deeds::default() };
    let overlaps = deeds.overlaps(&history);
    eprintln!("overlaps: {:?}", overlaps.keys());
    assert!(overlaps.keys().all(|class| *class == Class::ForeignAfterLook), "{overlaps:?}\n{history}");
    assert_eq!(history.defrag_count(first), 1, "{history}");
    if overlaps.is_empty() {
        let waited = |event: &serde_json::Value| {
            ["foreign_defrag", "member_down"].iter().any(|reason| event["reason"] == *reason)
        };
        assert!(janitor.events().iter().any(waited), "it saw nothing\n{}", janitor.log_tail(30));
    }
}
