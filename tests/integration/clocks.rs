//! Janitors whose wall clocks are an hour off, or jump by one in a round. What
//! lasts is measured by the monotonic clock, which stays as it is.

use std::time::Duration;

use chrono::Utc;

use super::faults::{assert_all_done, busy};
use super::rounds::PATIENCE;
use crate::support::rounds::{assert_in_turns, says};
use crate::support::writer::{Pace, Writer};
use crate::support::{Cluster, Janitor, Recorder, Spec, due_in, eventually, records};

/// Whether the janitor's own words carry the time it is meant to have.
async fn has_clock(janitor: &Janitor, seconds: i64) {
    says(janitor, "its clock is off as told", Duration::from_secs(20), |status| {
        let told = status["at"].as_str().and_then(|text| text.parse::<chrono::DateTime<Utc>>().ok());
        told.is_some_and(|told| ((told - Utc::now()).num_seconds() - seconds).abs() < 60)
    })
    .await;
}

#[tokio::test]
async fn clocks_an_hour_off_start_no_round_late_and_none_twice() {
    let cluster = Cluster::start(Spec { stretch_defrags: Some(Duration::from_secs(3)), ..Spec::default() }).await;
    let recorder = Recorder::start(&cluster).await;
    let writer = Writer::start(&cluster, "written", Pace::default()).await;
    let due = Utc::now() + chrono::TimeDelta::seconds(7);
    let yaml = format!(
        "compaction: {{ enabled: false }}\netcd: {{ request_timeout: 2s }}\nturn: {{ lease_ttl: 5s }}\n\
         defrag: {{ schedule: '{}', rule: 'dbSize > 0', pause_between: 1s, leader_wait: 15s, window: 30m }}\n",
        due_in(7),
    );
    let mut janitors: Vec<Janitor> = (0..3).map(|index| Janitor::prepare(&cluster, index, &yaml)).collect();
    // An hour ahead: for this one the round was due an hour ago, and its window is over.
    janitors[0].set_clock(3600);
    janitors[0].start_again().await;
    has_clock(&janitors[0], 3600).await;
    for janitor in &mut janitors[1..] {
        janitor.set_clock(0);
        janitor.start_again().await;
    }
    // An hour back, and an hour ahead, in the middle of their turns.
    let first = busy(&recorder).await;
    assert_ne!(first, 0, "a round whose window is over was started\n{}", janitors[0].log_tail(20));
    janitors[first].set_clock(-3600);
    janitors[3 - first].set_clock(3600);
    let two = records::round_of(&cluster, 0, 2, PATIENCE).await;
    assert_all_done(&two);
    assert_eq!(recorder.so_far().defrag_count(0), 0, "{}", recorder.so_far());
    for janitor in &janitors[1..] {
        eventually("it is through", PATIENCE, || async { janitor.is_idle().await.then_some(()) }).await;
    }
    // Set back before the due instant and started again, all three are due once more.
    let ended: Vec<usize> = janitors.iter().map(|janitor| janitor.rounds().len()).collect();
    let back = -(Utc::now() - due).num_seconds() - 10;
    for janitor in &mut janitors {
        janitor.kill();
        janitor.set_clock(back);
        janitor.start_again().await;
    }
    let round = records::round_of(&cluster, 1, 3, PATIENCE).await;
    assert_all_done(&round);
    for (janitor, before) in janitors.iter().zip(ended) {
        let again = || async { (janitor.rounds().len() > before).then_some(()) };
        eventually("its round ends", PATIENCE, again).await;
        eventually("it is through", PATIENCE, || async { janitor.is_idle().await.then_some(()) }).await;
    }
    writer.nothing_lost(&cluster).await;
    let history = recorder.finish();
    assert_in_turns(&history);
    assert!((0..3).all(|member| history.defrag_count(member) == 1), "{history}");
    for janitor in &janitors[1..] {
        let (_, outcome, reason) = janitor.rounds().pop().expect("it has ended");
        assert_eq!((outcome.as_str(), reason.as_deref()), ("skipped", Some("not_needed")));
    }
}

/// As in a pod that boots before its time is set.
#[tokio::test]
async fn a_clock_that_was_a_day_ahead_once_silences_no_round() {
    let cluster = Cluster::start(Spec { members: 1, ..Spec::default() }).await;
    let yaml = "compaction: { enabled: false }\n\
                defrag: { schedule: '*/20 * * * * *', rule: 'dbSize < 0', small_cluster: allow }\n";
    let mut janitor = Janitor::prepare(&cluster, 0, yaml);
    janitor.set_clock(24 * 3600);
    janitor.start_again().await;
    a_round_ends(&janitor, true).await;
    janitor.set_clock(0);
    a_round_ends(&janitor, false).await;
}

/// The scheduler rests until the instant is near, by a clock that no jump moves.
#[tokio::test]
async fn a_clock_that_jumps_over_an_instant_two_hours_away_begins_its_round() {
    let cluster = Cluster::start(Spec { members: 1, ..Spec::default() }).await;
    let yaml = format!(
        "compaction: {{ enabled: false, schedule: '0 0 1 1 *' }}\n\
         defrag: {{ schedule: '{}', rule: 'dbSize < 0', small_cluster: allow }}\n",
        due_in(7200)
    );
    let mut janitor = Janitor::prepare(&cluster, 0, &yaml);
    janitor.set_clock(0);
    janitor.start_again().await;
    has_clock(&janitor, 0).await;
    // At its start it looks some times.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(janitor.rounds().is_empty());
    janitor.set_clock(7230);
    a_round_ends(&janitor, true).await;
}

/// One of a time to come, or of today.
async fn a_round_ends(janitor: &Janitor, of_tomorrow: bool) {
    let is_ahead = |round: &str| {
        let due = chrono::NaiveDateTime::parse_from_str(round, "cron-%Y%m%dT%H%M%SZ").expect("a round's name");
        due.and_utc() > Utc::now() + chrono::TimeDelta::hours(1)
    };
    eventually("a round ends", PATIENCE, || async {
        janitor.rounds().iter().any(|(round, ..)| is_ahead(round) == of_tomorrow).then_some(())
    })
    .await;
}
