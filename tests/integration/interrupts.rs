//! Commands that somebody interrupts: what they leave behind is what they say.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::rounds::PATIENCE;
use crate::support::garbage::garbage;
use crate::support::process::Process;
use crate::support::rounds::not_due;
use crate::support::{Cluster, Janitor, Spec, eventually, records};

fn said(path: &Path) -> String {
    fs::read_to_string(path).expect("what was said")
}

async fn has_said(path: &Path, text: &str) {
    eventually(&format!("it says {text:?}"), PATIENCE, || async { said(path).contains(text).then_some(()) }).await;
}

/// It ends at once, with the code of an interrupted command; gives what it said.
async fn interrupted((mut process, path): (Process, PathBuf), signal: &str) -> String {
    process.signal(signal);
    let status = process.exited(Duration::from_secs(10)).await;
    let code = status.unwrap_or_else(|| panic!("still there\n{}", said(&path))).code();
    let said = said(&path);
    assert_eq!(code, Some(130), "{said}");
    said
}

#[tokio::test]
async fn a_defrag_that_is_interrupted() {
    let stretch = Duration::from_secs(8);
    let cluster = Cluster::start(Spec { stretch_defrags: Some(stretch), ..Spec::calm() }).await;
    let leader = cluster.leader().await;
    let followers: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    // Whoever is first rests for so long with the turn that the other waits.
    let yaml = format!(
        "compaction: {{ enabled: false }}\n\
         defrag: {{ schedule: '{}', rule: 'dbSize > 0', pause_between: 10m }}\n",
        not_due()
    );
    let prepared = |index: usize| Janitor::prepare(&cluster, index, &yaml);
    let (first, second) = (prepared(followers[0]), prepared(followers[1]));
    let defragmented = async |index: usize| cluster.member(index).metrics().await.map(|metrics| metrics.defrag_count);
    let queue = async |length: usize| {
        eventually("the queue has this length", PATIENCE, || async {
            (records::queue(&cluster, leader).await.len() == length).then_some(())
        })
        .await;
    };

    let resting = first.begin(&["defrag"], "resting");
    eventually("the first is done", PATIENCE, || async { (defragmented(followers[0]).await? == 1).then_some(()) })
        .await;
    let waiting = second.begin(&["defrag"], "waiting");
    queue(2).await;
    has_said(&waiting.1, "in the queue").await;
    let words = interrupted(waiting, "INT").await;
    assert!(words.contains("interrupted; nothing was sent, and no place in the queue is left behind"), "{words}");
    queue(1).await;
    assert_eq!(defragmented(followers[1]).await, Some(0));
    // Its defrag is over, and that is what it says.
    let (mut process, path) = resting;
    process.signal("TERM");
    let status = process.exited(Duration::from_secs(10)).await;
    assert_eq!(status.and_then(|status| status.code()), Some(0), "{}", said(&path));
    queue(0).await;

    let open = second.begin(&["defrag"], "open");
    eventually("it is in its defrag", PATIENCE, || async {
        (cluster.member(followers[1]).metrics().await?.open_defrags() > 0).then_some(())
    })
    .await;
    let begun = Instant::now();
    let words = interrupted(open, "INT").await;
    assert!(words.contains("interrupted, and the defrag goes on"), "{words}");
    assert!(begun.elapsed() < stretch && defragmented(followers[1]).await == Some(0), "it is not waited for");
    eventually("the defrag ends", PATIENCE, || async { (defragmented(followers[1]).await? == 1).then_some(()) }).await;
}

#[tokio::test]
async fn a_compaction_that_is_interrupted_and_one_that_is_tried_dry() {
    let cluster = Cluster::start(Spec::calm()).await;
    garbage(&cluster, 4).await;
    let yaml = "compaction: { mode: revision, retention: 10, when_etcd_compacts: force }\n";
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let (at_leader, beside) = (Janitor::prepare(&cluster, leader, yaml), Janitor::prepare(&cluster, follower, yaml));

    let begun = Instant::now();
    let output = beside.command(&["compact", "--dry-run"]).await;
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{words}");
    for wanted in ["PLAN", "DRY RUN", "another member leads: if its janitor has not compacted in ", "to revision "] {
        assert!(words.contains(wanted), "{wanted}: {words}");
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "a dry run waits for nobody");

    let waiting = beside.begin(&["compact"], "waiting");
    has_said(&waiting.1, "waits for it").await;
    let words = interrupted(waiting, "TERM").await;
    assert!(words.contains("interrupted; nothing was sent"), "{words}");

    // Between its two steps it takes two seconds at least.
    let compacting = at_leader.begin(&["compact"], "compacting");
    has_said(&compacting.1, "compacts to revision ").await;
    let words = interrupted(compacting, "INT").await;
    assert!(words.contains("interrupted, and the compaction goes on in etcd"), "{words}");
    assert!(!words.contains("done"), "{words}");
}
