//! What is done before NOSPACE is up, by the outside judge.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::Utc;

use super::rounds::{PATIENCE, janitors};
use crate::support::garbage::{ballast, compact_everywhere, fill_to_share};
use crate::support::rounds::{assert_one_at_a_time, knows_all, not_due};
use crate::support::{Cluster, Janitor, Recorder, Spec, eventually, records};

const QUOTA: u64 = 64 << 20;

/// Nothing is due in half a year; the rule is the usual one.
fn yaml(urgent_at: &str) -> String {
    format!(
        "compaction: {{ enabled: false }}\n\
         defrag: {{ schedule: '{}', urgent_at: {urgent_at}, pause_between: 1s }}\n",
        not_due()
    )
}

/// A file of more than nine tenths of the quota, most of it free pages.
async fn nearly_full(cluster: &Cluster) {
    let revision = fill_to_share(cluster, 0.92).await;
    compact_everywhere(cluster, revision, 40).await;
}

/// Waits until each janitor has asked its member three times more, and was told
/// of a file that is nearly as large as its quota.
async fn each_sees_it(janitors: &[Janitor]) {
    for janitor in janitors {
        let seen = std::sync::Mutex::new(BTreeSet::new());
        eventually("the janitor has seen its member three times", PATIENCE, || async {
            let status = janitor.status().await;
            let local = status["members"].as_array()?.iter().find(|member| member["local"] == true)?.clone();
            if local["db_size"].as_u64()? as f64 >= 0.9 * local["quota"].as_u64()? as f64 {
                seen.lock().unwrap().insert(local["seen_at"].to_string());
            }
            (seen.lock().unwrap().len() > 3).then_some(())
        })
        .await;
    }
}

/// How many rounds this janitor has begun, in all its starts.
fn begun(janitor: &Janitor) -> usize {
    janitor.events().iter().filter(|event| event["message"] == "the round is due").count()
}

/// Names of urgent rounds change every five minutes, and the janitors do not
/// look in the same instant.
async fn away_from_the_grid() {
    let into = Utc::now().timestamp() % 300;
    if into > 280 {
        tokio::time::sleep(Duration::from_secs(300 - into as u64 + 1)).await;
    }
}

/// Minutes by nature: the names of urgent rounds change every five.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_file_close_to_its_quota_starts_one_round_of_all_members_outside_the_schedule() {
    let spec = Spec {
        release: "3.5.30".to_owned(),
        quota_bytes: Some(QUOTA),
        stretch_defrags: Some(Duration::from_secs(1)),
        ..Spec::calm()
    };
    let cluster = Cluster::start(spec).await;
    ballast(&cluster, 8).await;
    nearly_full(&cluster).await;
    let recorder = Recorder::start(&cluster).await;

    // Switched off, and below the mark.
    let mut janitors = janitors(&cluster, &yaml("1")).await;
    for janitor in &janitors {
        knows_all(janitor, 3).await;
    }
    each_sees_it(&janitors).await;
    for janitor in &mut janitors {
        janitor.reload(&yaml("0.99")).await;
    }
    each_sees_it(&janitors).await;
    assert_eq!(janitors.iter().map(begun).collect::<Vec<_>>(), [0, 0, 0]);

    away_from_the_grid().await;
    for janitor in &mut janitors {
        janitor.reload(&yaml("0.9")).await;
    }
    let round = records::round_of(&cluster, 0, 3, PATIENCE).await;
    assert!(round.values().all(|record| record["outcome"] == "done"), "{round:?}");
    let name = round[&0]["round"].as_str().expect("a name").to_owned();
    assert!(name.starts_with("urgent-"), "{name}");
    eventually("no round is under way", PATIENCE, || async {
        for janitor in &janitors {
            if !janitor.is_idle().await {
                return None;
            }
        }
        Some(())
    })
    .await;
    for index in 0..3 {
        let sizes = cluster.member(index).metrics().await.expect("an answer");
        assert!(sizes.db_size < QUOTA / 2, "{sizes:?}");
    }

    // As full again within the hour: it is not done again, not even by a janitor that was started anew.
    nearly_full(&cluster).await;
    each_sees_it(&janitors).await;
    janitors[1].stop().await;
    janitors[1].start_again().await;
    each_sees_it(&janitors).await;
    assert_eq!(janitors.iter().map(begun).collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(records::rounds(&cluster, 0).await.into_keys().collect::<Vec<_>>(), [name]);
    assert_one_at_a_time(&recorder.finish(), &[0, 1, 2]);
}
