//! Disks that fail, fill up or are slow in the middle of a defrag.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use super::faults::{assert_once_each, whole_round};
use super::rounds::janitors;
use crate::support::consistency::hash_kv_equal;
use crate::support::garbage::ballast;
use crate::support::rounds::assert_in_turns;
use crate::support::strace::{Injection, Strace};
use crate::support::writer::{Pace, Writer};
use crate::support::{Cluster, Recorder, Spec, due_in, records, sandbox};

fn yaml() -> String {
    format!(
        "compaction: {{ enabled: false }}\netcd: {{ request_timeout: 2s }}\nturn: {{ lease_ttl: 5s }}\n\
         defrag: {{ schedule: '{}', rule: 'dbSize > 0', pause_between: 1s, leader_wait: 15s, verify: hash }}\n",
        due_in(5),
    )
}

/// One member's defrag has failed, and nobody tried it again.
fn assert_failed_alone(round: &records::Round, member: usize, reasons: &[&str]) {
    for (index, record) in round {
        let (outcome, reason) = (record["outcome"].as_str(), record["reason"].as_str());
        if *index == member {
            assert_eq!(outcome, Some("failed"), "{round:#?}");
            assert!(reason.is_some_and(|reason| reasons.contains(&reason)), "{round:#?}");
        } else {
            assert_eq!(outcome, Some("done"), "{round:#?}");
        }
    }
}

/// etcd ends when it cannot put the new file in the old one's place.
#[tokio::test]
async fn a_rename_that_fails_ends_the_member_and_is_not_tried_again() {
    let mut cluster = Cluster::start(Spec::default()).await;
    // Long enough for a judge that looks 25 times a second.
    ballast(&cluster, 32).await;
    let broken = cluster.follower().await;
    let strace = Strace::attach(cluster.member(broken), Injection::Eio).await;
    let recorder = Recorder::start(&cluster).await;
    let _janitors = janitors(&cluster, &yaml()).await;
    cluster.wait_ended(broken, Duration::from_secs(90)).await;
    drop(strace);
    cluster.start_again(broken).await;
    let through = cluster.leader().await;
    let round = whole_round(&cluster, through).await;
    let history = recorder.finish();
    assert_failed_alone(&round, broken, &["restarted", "refused"]);
    assert!(history.overlaps().is_empty() && history.max_open_anywhere() <= 1, "{history}");
    assert!((0..3).all(|member| history.defrag_count(member) <= 1), "{history}");
    assert!(left_copies(&cluster, broken).is_empty());
    hash_kv_equal(&cluster).await.expect("equal data");
}

/// What defrags have left beside a member's file.
fn left_copies(cluster: &Cluster, member: usize) -> Vec<String> {
    let files = fs::read_dir(cluster.member(member).db_path().with_file_name("")).expect("a folder");
    let names = files.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains(".tmp")).collect()
}

/// Fills a disk up and leaves so much.
fn fill(disk: &Path, leave_mib: u64) -> std::path::PathBuf {
    let path = disk.join("balloon");
    let mut file = File::create(&path).expect("a file can be made");
    let piece = vec![0; 1 << 20];
    while file.write_all(&piece).is_ok() {}
    let length = file.metadata().expect("a length").len();
    file.set_len(length.saturating_sub(leave_mib << 20)).expect("a file can be shortened");
    path
}

/// etcd writes the copy beside the old file, fails, says so and leaves the
/// copy: the disk stays full until the next start, and etcd ends when its file
/// has to grow. The error has no code of its own, so it counts as unknown.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_disk_too_full_for_the_copy_fails_one_member_and_costs_no_data() {
    if !sandbox::inside("storage::a_disk_too_full_for_the_copy_fails_one_member_and_costs_no_data").await {
        return;
    }
    let mut cluster = Cluster::start(Spec { disk_mib: Some(420), ..Spec::default() }).await;
    ballast(&cluster, 64).await;
    let full = cluster.follower().await;
    let balloon = fill(&cluster.member(full).data_dir, 24);
    let writer = Writer::start(&cluster, "written", Pace { workers: 1, ..Pace::default() }).await;
    let recorder = Recorder::start(&cluster).await;
    let _janitors = janitors(&cluster, &yaml()).await;
    let through = cluster.leader().await;
    let round = whole_round(&cluster, through).await;
    let copies = |cluster: &Cluster| left_copies(cluster, full).len();
    assert_eq!(copies(&cluster), 1, "the disk was not too full for it");
    fs::remove_file(balloon).expect("a file can be removed");
    cluster.kill(full);
    cluster.start_again(full).await;
    assert_eq!(copies(&cluster), 0);
    let written = writer.verify(&cluster).await;
    let history = recorder.finish();
    for (index, record) in &round {
        let said = record["detail"].as_str().unwrap_or_default();
        match record["outcome"].as_str() {
            Some("unknown") => assert!(*index == full && said.contains("no space left on device"), "{round:#?}"),
            outcome => assert!(*index != full && outcome == Some("done"), "{round:#?}"),
        }
    }
    assert!(history.overlaps().is_empty() && history.max_open_anywhere() <= 1, "{history}");
    assert_once_each(&history);
    assert!(written.lost.is_empty(), "{written:?}");
    hash_kv_equal(&cluster).await.expect("equal data");
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_disk_that_is_slow_to_sync_slows_the_round_and_nothing_else() {
    let cluster = Cluster::start(Spec { unsafe_no_fsync: false, ..Spec::default() }).await;
    ballast(&cluster, 16).await;
    let slow = cluster.follower().await;
    let strace = Strace::attach(cluster.member(slow), Injection::SlowSync(Duration::from_millis(250))).await;
    let writer = Writer::start(&cluster, "written", Pace { workers: 1, ..Pace::default() }).await;
    let recorder = Recorder::start(&cluster).await;
    let _janitors = janitors(&cluster, &yaml()).await;
    let through = cluster.leader().await;
    let round = whole_round(&cluster, through).await;
    drop(strace);
    let written = writer.verify(&cluster).await;
    let history = recorder.finish();
    assert!(round.values().all(|record| record["outcome"] == "done"), "{round:#?}");
    assert_in_turns(&history);
    assert_once_each(&history);
    let longest = history.defrags_of(slow)[0].clone();
    assert!(longest.latest - longest.earliest > Duration::from_millis(500), "it was not slow\n{history}");
    assert!(written.lost.is_empty(), "{written:?}");
    hash_kv_equal(&cluster).await.expect("equal data");
}
