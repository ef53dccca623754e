//! A janitor, or its etcd, that stands still or is killed at each step of its
//! turn, for longer than its lease lives. Nobody overlaps, nobody waits for it longer
//! than a lease, what it leaves is settled, and each member is defragmented
//! once and recorded once.

use std::time::{Duration, Instant};

use super::faults::{intent_gone, member_of, whole_round};
use super::rounds::{PATIENCE, janitors};
use crate::support::rounds::assert_in_turns;
use crate::support::writer::{Pace, Writer};
use crate::support::{Cluster, Recorder, Spec, due_in, eventually, records, within};

const LEASE_TTL: Duration = Duration::from_secs(5);
/// Looks that come every two seconds and take one at most, and a transaction.
const LOOKS: Duration = Duration::from_secs(5);
const AWAY: Duration = Duration::from_secs(9);

/// Where the janitor is when it happens, as seen from outside.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    /// Its key is in the queue, behind another one.
    Queued,
    /// Its key is the first, and nothing was written under it yet.
    HasTurn,
    /// Its intent is written.
    Intent,
    /// It leads, has the turn, and leadership has moved.
    LeaderMoved,
    /// Its member is in the defrag.
    Open,
    /// The outcome is on record and the key still there.
    Recorded,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// SIGSTOP, and SIGCONT when the lease has run out.
    Stop,
    /// SIGKILL, and another start when the lease has run out.
    Kill,
    /// The same two for the janitor's etcd. Its lease is renewed meanwhile,
    /// through the others.
    StopEtcd,
    KillEtcd,
}

/// Waits until some janitor is at this step and says which one.
async fn reached(step: Step, cluster: &Cluster, recorder: &Recorder) -> usize {
    let leader = cluster.leader().await;
    eventually(&format!("a janitor is at {step:?}"), PATIENCE, || async {
        let through = if step == Step::LeaderMoved { cluster.leader().await } else { leader };
        let queue = records::queue_in_order(cluster, through).await;
        let first = queue.first().copied();
        match step {
            Step::Queued => queue.get(1).copied(),
            Step::HasTurn => first,
            Step::Intent => member_of(cluster, &records::intent(cluster, through).await),
            Step::LeaderMoved => (first == Some(leader) && through != leader).then_some(leader),
            Step::Open => (0..3).find(|index| recorder.now(*index).is_some_and(|metrics| metrics.open_defrags() > 0)),
            Step::Recorded => {
                let (_, round) = records::rounds(cluster, through).await.pop_first()?;
                first.filter(|first| round.contains_key(first))
            }
        }
    })
    .await
}

async fn survived(step: Step, fault: Fault) {
    // In mid-defrag the lease runs out while it is open.
    let stretch = Duration::from_secs(if step == Step::Open { 12 } else { 3 });
    let mut cluster = Cluster::start(Spec { stretch_defrags: Some(stretch), ..Spec::default() }).await;
    let recorder = Recorder::start(&cluster).await;
    let writer = Writer::start(&cluster, "written", Pace::default()).await;
    // The drain keeps a janitor at the step between its turn and its intent.
    let yaml = format!(
        "compaction: {{ enabled: false }}\netcd: {{ request_timeout: 2s }}\nturn: {{ lease_ttl: {}s }}\n\
         defrag: {{ schedule: '{}', rule: 'dbSize > 0', drain: 2s, pause_between: 2s, leader_wait: 15s }}\n",
        LEASE_TTL.as_secs(),
        due_in(5),
    );
    let mut janitors = janitors(&cluster, &yaml).await;
    let victim = reached(step, &cluster, &recorder).await;
    // Its key is the first before it has been told so, on a busy machine for long. Who never knew of a turn loses none.
    let drain = Duration::from_millis(1500);
    let knew = step == Step::HasTurn
        && within("it knows of its turn", drain, || async {
            (janitors[victim].status().await["turn_held"] == true).then_some(())
        })
        .await
        .is_ok();
    let begun = Instant::now();
    match fault {
        Fault::Stop => janitors[victim].process().signal("STOP"),
        Fault::Kill => janitors[victim].kill(),
        Fault::StopEtcd => cluster.pause(victim),
        Fault::KillEtcd => cluster.kill(victim),
    }
    let through = (victim + 1) % 3;
    let mut outlived = Duration::ZERO;
    if matches!(fault, Fault::Stop | Fault::Kill) {
        eventually("its key runs out", Duration::from_secs(60), || async {
            (!records::queue(&cluster, through).await.contains(&victim)).then_some(())
        })
        .await;
        outlived = begun.elapsed();
        if step == Step::Intent && matches!(fault, Fault::Kill) {
            // Its owner's key is gone and its member answers: one lease, a look before and one after it, and the record.
            let left = begun + outlived;
            let settled = intent_gone(&cluster, through, victim).await - left;
            assert!(settled < LEASE_TTL + LOOKS, "the intent stood for {settled:?} after its owner's key");
        }
    }
    tokio::time::sleep(AWAY.saturating_sub(begun.elapsed())).await;
    match fault {
        Fault::Stop => janitors[victim].process().signal("CONT"),
        Fault::Kill => janitors[victim].start_again().await,
        Fault::StopEtcd => cluster.resume(victim),
        Fault::KillEtcd => cluster.start_again(victim).await,
    }
    let round = whole_round(&cluster, through).await;
    eventually("the queue is left and no intent is open", PATIENCE, || async {
        let left = records::queue(&cluster, through).await.is_empty();
        (left && records::intent(&cluster, through).await.is_none()).then_some(())
    })
    .await;
    writer.nothing_lost(&cluster).await;
    let history = recorder.finish();
    let what = format!("{step:?} {fault:?}\n{round:#?}\n{history}\n{}", janitors[victim].log_tail(30));
    assert_in_turns(&history);
    // Half a second for a lease that nobody renews, on top of etcd's own checks
    // twice a second, and a renewal that was on its way.
    assert!(outlived < LEASE_TTL + Duration::from_secs(4), "the key was there for {outlived:?} {what}");
    if knew && matches!(fault, Fault::Stop) {
        // Whatever it sent was sent under another turn.
        let lost = janitors[victim].metric("etcd_janitor_turn_lost_total").await;
        assert!(lost.is_some_and(|lost| lost >= 1.0), "it did not notice that its turn was lost {what}");
    }
    for (member, record) in &round {
        let finished = history.defrags_of(*member).iter().any(|defrag| defrag.finished);
        let outcome = record["outcome"].as_str().unwrap_or_default();
        let expected = match fault {
            // On record, it was killed before the judge looked again.
            _ if finished || (step == Step::Recorded && *member == victim) => outcome == "done",
            // Its process is another one than the intent names.
            Fault::KillEtcd => *member == victim && outcome == "failed",
            // An intent whose call never left is settled as unknown.
            _ => *member == victim && outcome == "unknown",
        };
        assert!(expected && history.defrag_count(*member) <= 1, "{what}");
    }
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_janitor_stopped_with_the_turn_loses_it_and_sends_nothing_on_it() {
    survived(Step::HasTurn, Fault::Stop).await;
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_janitor_stopped_in_mid_defrag_finds_its_defrag_done() {
    survived(Step::Open, Fault::Stop).await;
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn every_step_stopped() {
    for step in [Step::Queued, Step::Intent, Step::LeaderMoved, Step::Recorded] {
        eprintln!("stopped at {step:?}");
        survived(step, Fault::Stop).await;
    }
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn every_step_killed() {
    for step in [Step::Queued, Step::HasTurn, Step::Intent, Step::LeaderMoved, Step::Open, Step::Recorded] {
        eprintln!("killed at {step:?}");
        survived(step, Fault::Kill).await;
    }
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn every_step_with_its_etcd_stopped() {
    for step in [Step::Queued, Step::HasTurn, Step::Intent, Step::LeaderMoved, Step::Open, Step::Recorded] {
        eprintln!("etcd stopped at {step:?}");
        survived(step, Fault::StopEtcd).await;
    }
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn every_step_with_its_etcd_killed() {
    for step in [Step::Queued, Step::HasTurn, Step::Intent, Step::LeaderMoved, Step::Open, Step::Recorded] {
        eprintln!("etcd killed at {step:?}");
        survived(step, Fault::KillEtcd).await;
    }
}

/// Frozen for longer than the lease lives, in its own defrag: its connections
/// stay open and nobody can tell it from one that is busy.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_member_stopped_in_mid_defrag_is_waited_for() {
    let cluster = Cluster::start(Spec { stretch_defrags: Some(Duration::from_secs(3)), ..Spec::default() }).await;
    let recorder = Recorder::start(&cluster).await;
    let writer = Writer::start(&cluster, "written", Pace::default()).await;
    let yaml = format!(
        "compaction: {{ enabled: false }}\netcd: {{ request_timeout: 2s }}\nturn: {{ lease_ttl: 5s }}\n\
         defrag: {{ schedule: '{}', rule: 'dbSize > 0', pause_between: 1s, leader_wait: 15s }}\n",
        due_in(5),
    );
    let _janitors = janitors(&cluster, &yaml).await;
    let victim = reached(Step::Open, &cluster, &recorder).await;
    cluster.pause(victim);
    tokio::time::sleep(Duration::from_secs(15)).await;
    let through = (victim + 1) % 3;
    let others = (0..3).filter(|index| *index != victim).map(|index| recorder.so_far().defrag_count(index));
    assert_eq!(others.sum::<usize>(), 0, "{}", recorder.so_far());
    assert_eq!(member_of(&cluster, &records::intent(&cluster, through).await), Some(victim));
    cluster.resume(victim);
    let round = whole_round(&cluster, through).await;
    writer.nothing_lost(&cluster).await;
    let history = recorder.finish();
    assert!(round.values().all(|record| record["outcome"] == "done"), "{round:#?}\n{history}");
    assert_in_turns(&history);
    assert!((0..3).all(|member| history.defrag_count(member) == 1), "{history}");
}
