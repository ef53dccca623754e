//! Compaction: what is never touched, who does it, and when it is left to
//! others. NOSPACE outside of rounds, which compaction and defrags lead to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use etcd_client::PutOptions;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::faults::beside;
use super::rounds::{PATIENCE, ask, janitors, revision};
use crate::support::garbage::{compact, fill_to_quota, free_pages, garbage};
use crate::support::{Cluster, History, Janitor, Mode, Recorder, Spec, due_in, eventually, records, requests, within};

const RETENTION: Duration = Duration::from_secs(10);

/// Compactions and no rounds.
fn yaml(more: &str) -> String {
    keeping(RETENTION, more)
}

fn keeping(retention: Duration, more: &str) -> String {
    format!(
        "compaction: {{ schedule: '*/5 * * * * *', retention: {}s{more} }}\ndefrag: {{ enabled: false }}\n",
        retention.as_secs()
    )
}

/// Writes versions of one key and remembers when each was sent. None is older
/// than that, so who is accused by it is accused rightly.
struct Dated {
    stop: Arc<AtomicBool>,
    revisions: Arc<Mutex<Vec<(u64, Instant)>>>,
    task: JoinHandle<()>,
}

impl Dated {
    async fn start(cluster: &Cluster) -> Self {
        let mut clients = Vec::new();
        for index in 0..cluster.members().len() {
            clients.push(cluster.client(index).await);
        }
        let (stop, revisions) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, store) = (Arc::clone(&stop), Arc::clone(&revisions));
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(50));
            let mut through = 0;
            while !stopped.load(Ordering::SeqCst) {
                ticks.tick().await;
                let sent = Instant::now();
                let call = clients[through].put("dated", "", None::<PutOptions>);
                if let Ok(Ok(answer)) = timeout(Duration::from_secs(2), call).await {
                    let revision = answer.header().map_or(0, |header| header.revision());
                    store.lock().expect("no panic").push((u64::try_from(revision).expect("a revision"), sent));
                } else {
                    through = (through + 1) % clients.len();
                }
            }
        });
        Self { stop, revisions, task }
    }

    /// The newest revision of which an acknowledgement is known.
    fn newest(&self) -> u64 {
        self.revisions.lock().expect("no panic").last().map_or(0, |(revision, _)| *revision)
    }

    async fn finish(self) -> Vec<(u64, Instant)> {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.expect("the writer does not panic");
        self.revisions.lock().expect("no panic").clone()
    }
}

/// Every compaction that any member showed: to which revision, and the instant
/// by which it had happened.
fn compactions(history: &History) -> Vec<(u64, Instant)> {
    let mut all = Vec::new();
    for track in &history.tracks {
        let mut before = None;
        for sample in &track.samples {
            let Some(metrics) = &sample.metrics else { continue };
            let now = (metrics.process_start.to_bits(), metrics.compact_revision);
            if before.is_some_and(|(process, revision)| process == now.0 && revision < now.1) {
                all.push((now.1, sample.received));
            }
            before = Some(now);
        }
    }
    all.sort_by_key(|(_, at)| *at);
    all
}

fn compacted_to(recorder: &Recorder) -> u64 {
    (0..3).filter_map(|index| recorder.now(index)).map(|metrics| metrics.compact_revision).max().unwrap_or(0)
}

/// Waits until what was the newest revision a moment ago is compacted: the
/// janitors have resumed their work.
async fn compacted_past(recorder: &Recorder, dated: &Dated) {
    let goal = dated.newest();
    eventually("compaction goes on", PATIENCE, || async { (compacted_to(recorder) > goal).then_some(()) }).await;
}

/// How many Compact requests the members have had from clients; etcd's own
/// compactor sends none.
async fn compact_requests(cluster: &Cluster) -> u64 {
    let mut sum = 0;
    for member in cluster.members() {
        sum += requests::received(member).await.get("Compact").copied().unwrap_or_default();
    }
    sum
}

/// Runs of the compaction task that came to nothing.
async fn skips(janitor: &Janitor, reason: &str) -> f64 {
    let series = format!("etcd_janitor_task_skips_total{{reason=\"{reason}\",task=\"compaction\"}}");
    let turned = format!("etcd_janitor_task_skips_total{{task=\"compaction\",reason=\"{reason}\"}}");
    let value = janitor.metric(&series).await;
    value.or(janitor.metric(&turned).await).unwrap_or_default()
}

/// Waits until a janitor has decided so many more times to compact nothing.
async fn decides_again(janitor: &Janitor, reason: &str, times: f64) {
    let before = skips(janitor, reason).await;
    eventually("the schedule fires on", PATIENCE, || async {
        (skips(janitor, reason).await >= before + times).then_some(())
    })
    .await;
}

fn decided(words: &'static str) -> impl Fn(&Value) -> bool {
    move |event| event["task"] == "compaction" && event["message"].to_string().contains(words)
}

#[tokio::test]
async fn nothing_younger_than_the_retention_is_ever_compacted() {
    let cluster = Cluster::start(Spec::calm()).await;
    let recorder = Recorder::start(&cluster).await;
    let dated = Dated::start(&cluster).await;
    let mut janitors = janitors(&cluster, &yaml("")).await;
    compacted_past(&recorder, &dated).await;
    compacted_past(&recorder, &dated).await;
    // What was sampled before is known to the next start from the record only.
    let leader = cluster.leader().await;
    janitors[leader].kill();
    janitors[leader].start_again().await;
    compacted_past(&recorder, &dated).await;
    assert!(old_enough(recorder.finish(), dated, RETENTION).await >= 5);
}

/// The new leader's janitor has compacted nothing yet, and has just begun to wait for the old one's: a minute, or two.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn compaction_goes_on_under_every_leader_and_keeps_what_is_young() {
    let cluster = Cluster::start(Spec::calm()).await;
    let recorder = Recorder::start(&cluster).await;
    let dated = Dated::start(&cluster).await;
    let _janitors = janitors(&cluster, &yaml("")).await;
    compacted_past(&recorder, &dated).await;
    for _ in 0..2 {
        cluster.move_leader(cluster.follower().await).await;
        compacted_past(&recorder, &dated).await;
    }
    assert!(old_enough(recorder.finish(), dated, RETENTION).await >= 4);
}

/// How many compactions there were; none of them to a revision that was younger than the retention.
async fn old_enough(history: History, dated: Dated, retention: Duration) -> usize {
    let revisions = dated.finish().await;
    let compactions = compactions(&history);
    for (revision, by) in &compactions {
        let upto = revisions.partition_point(|(written, _)| written <= revision);
        // None: what was there before them.
        let Some((_, sent)) = revisions[..upto].last() else { continue };
        assert!(*by - *sent >= retention, "revision {revision} was compacted {:?} after its write", *by - *sent);
    }
    compactions.len()
}

/// Its revisions are given again, to younger writes: neither what a janitor remembers nor what is on record names their age.
#[tokio::test]
async fn after_a_restore_from_a_backup_what_is_young_is_kept() {
    const KEPT: Duration = Duration::from_secs(12);
    let mut cluster = Cluster::start(Spec::calm()).await;
    let (recorder, dated) = (Recorder::start(&cluster).await, Dated::start(&cluster).await);
    let mut janitors = janitors(&cluster, &keeping(KEPT, "")).await;
    compacted_past(&recorder, &dated).await;
    let backup = cluster.folder().join("backup.db");
    let saved = cluster.etcdctl_at(0, &["snapshot", "save", backup.to_str().expect("a path in UTF-8")]).await;
    assert!(saved.status.success(), "{saved:?}");
    compacted_past(&recorder, &dated).await;
    let last = dated.newest();
    old_enough(recorder.finish(), dated, KEPT).await;

    cluster.restore(&backup).await;
    // One that remembers, one that only reads the record.
    janitors[0].kill();
    janitors[0].start_again().await;
    let recorder = Recorder::start(&cluster).await;
    // Each asks its member every 5.5 s: it sees that the store is another one before the revisions are the same again.
    tokio::time::sleep(Duration::from_secs(7)).await;
    let again = written_up_to(&cluster, last).await;
    assert!(again.len() > 100, "hardly a revision was given again: {}", again.len());
    let dated = Dated::start(&cluster).await;
    dated.revisions.lock().expect("no panic").splice(0..0, again);
    for _ in 0..2 {
        compacted_past(&recorder, &dated).await;
    }
    assert!(old_enough(recorder.finish(), dated, KEPT).await >= 2);
}

/// Writes quickly until this revision is given; which were given, and when they were sent.
async fn written_up_to(cluster: &Cluster, revision: u64) -> Vec<(u64, Instant)> {
    let mut client = cluster.client(0).await;
    let mut written: Vec<(u64, Instant)> = Vec::new();
    while written.last().is_none_or(|(newest, _)| *newest < revision) {
        let sent = Instant::now();
        let answer = client.put("dated", "", None).await.expect("a put");
        let given = answer.header().map_or(0, |header| header.revision());
        written.push((u64::try_from(given).expect("a revision"), sent));
    }
    written
}

/// Longer than a restart takes: a window that is taken for too old names revisions from right before it.
const LONG: Duration = Duration::from_secs(40);

/// Stops the janitors when their window is on record. The newest revision then, and the one compacted to.
async fn stopped(cluster: &Cluster, janitors: &mut [Janitor], recorder: &Recorder, dated: &Dated) -> (u64, u64) {
    let off = keeping(LONG, ", enabled: false");
    for janitor in janitors.iter_mut() {
        janitor.reload(&off).await;
    }
    let window = format!("{}window", records::PREFIX);
    // The others' may wait for minutes, and have sent nothing.
    let leads = &janitors[cluster.leader().await];
    eventually("the compaction is over and on record", PATIENCE, || async {
        let recorded = records::all(cluster, 0).await.remove(&window)?["compacted"].as_u64()?;
        (recorded == compacted_to(recorder) && leads.is_idle().await).then_some(())
    })
    .await;
    for janitor in janitors.iter_mut() {
        janitor.kill();
        janitor.write_config(&keeping(LONG, ""));
    }
    (dated.newest(), compacted_to(recorder))
}

/// Starts them again. The first compaction is to a revision from before the stop: only the record tells how old it is.
async fn started(janitors: &mut [Janitor], recorder: &Recorder, (newest, compacted): (u64, u64)) {
    for janitor in janitors {
        janitor.start_again().await;
    }
    let first = eventually("compaction goes on", PATIENCE, || async {
        Some(compacted_to(recorder)).filter(|revision| *revision > compacted)
    })
    .await;
    assert!(first <= newest, "{first} was written after the stop at {newest}: the window on record was of no use");
}

/// Waits until there was a window on record at every revision that is left: only then is one believed after a start.
async fn windows_all_along(cluster: &Cluster, recorder: &Recorder, dated: &Dated) {
    let window = format!("{}window", records::PREFIX);
    eventually("the first window", PATIENCE, || async { records::all(cluster, 0).await.remove(&window) }).await;
    compacted_past(recorder, dated).await;
}

/// Whoever may write under the prefix stores a window that makes everything old. What was on record before it tells how
/// old it can be at most; a janitor that starts anew waits until it has seen enough itself.
#[tokio::test]
async fn another_window_on_record_makes_no_revision_older() {
    // Longer than the janitors are away: what was written after the last window may be taken for as old as that one.
    const KEPT: Duration = Duration::from_secs(20);
    let cluster = Cluster::start(Spec::calm()).await;
    let recorder = Recorder::start(&cluster).await;
    let dated = Dated::start(&cluster).await;
    let mut janitors = janitors(&cluster, &keeping(KEPT, "")).await;
    windows_all_along(&cluster, &recorder, &dated).await;
    for janitor in &mut janitors {
        janitor.kill();
    }
    let window = format!("{}window", records::PREFIX);
    let mut hostile = cluster.client(0).await;
    let mut forged = records::all(&cluster, 0).await.remove(&window).expect("a window is on record");
    // As if no other compactor had to be watched for.
    forged["compacted"] = compacted_to(&recorder).into();
    let long_ago = chrono::Utc::now() - chrono::TimeDelta::hours(1);
    forged["samples"] = serde_json::json!([{ "at": long_ago.to_rfc3339(), "revision": dated.newest() }]);
    hostile.put(window, forged.to_string(), None).await.expect("a put");
    for janitor in &mut janitors {
        janitor.start_again().await;
    }
    for _ in 0..2 {
        compacted_past(&recorder, &dated).await;
    }
    assert!(old_enough(recorder.finish(), dated, KEPT).await >= 3);
    let said: Vec<Value> =
        janitors.iter().flat_map(Janitor::events).filter(decided("but it was written after")).collect();
    assert_eq!(said.len(), 1, "the leader's janitor says why it waits: {said:?}");
}

/// Ages across a restart are counted by the members' clocks, of which one may be wrong: an hour back at the one that
/// leads when the window is written, an hour ahead at the one that leads when it is read.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_member_whose_clock_is_an_hour_off_makes_no_revision_older() {
    let cluster = Cluster::start(Spec { client_proxies: true, ..Spec::calm() }).await;
    let recorder = Recorder::start(&cluster).await;
    let dated = Dated::start(&cluster).await;
    let writer = cluster.leader().await;
    cluster.proxy(writer).set(Mode::ClockOff(-3600)).await;
    let mut janitors = Vec::new();
    for index in 0..3 {
        let mut janitor = Janitor::prepare(&cluster, index, &keeping(LONG, ""));
        janitor.set_environment("ETCD_JANITOR__ETCD__ENDPOINT", &cluster.member(index).advertised_url());
        janitor.start_again().await;
        janitors.push(janitor);
    }
    windows_all_along(&cluster, &recorder, &dated).await;
    let stop = stopped(&cluster, &mut janitors, &recorder, &dated).await;
    cluster.proxy(writer).set(Mode::Pass).await;
    let reader = beside(writer);
    cluster.move_leader(reader).await;
    started(&mut janitors, &recorder, stop).await;
    let stop = stopped(&cluster, &mut janitors, &recorder, &dated).await;
    cluster.proxy(reader).set(Mode::ClockOff(3600)).await;
    started(&mut janitors, &recorder, stop).await;
    assert!(old_enough(recorder.finish(), dated, LONG).await >= 5);
}

#[tokio::test]
async fn beside_etcds_own_compactor_ours_stays_off_unless_forced() {
    let args = ["--auto-compaction-mode=periodic", "--auto-compaction-retention=5s"].map(str::to_owned);
    let cluster = Cluster::start(Spec { extra_args: args.to_vec(), ..Spec::calm() }).await;
    let dated = Dated::start(&cluster).await;
    let recorder = Recorder::start(&cluster).await;
    eventually("etcd compacts", PATIENCE, || async { (compacted_to(&recorder) > 0).then_some(()) }).await;
    let mut janitors = janitors(&cluster, &yaml("")).await;
    let leader = cluster.leader().await;
    janitors[leader].event("the other compactor is seen", PATIENCE, decided("somebody else compacts (seen")).await;
    decides_again(&janitors[leader], "not_needed", 3.0).await;
    assert_eq!(compact_requests(&cluster).await, 0);
    // etcd keeps more than this, so there is something left to do.
    let forced = "compaction: { schedule: '*/2 * * * * *', retention: 1s, when_etcd_compacts: force }\n\
                  defrag: { enabled: false }\n";
    janitors[leader].reload(forced).await;
    eventually("ours compacts, too", PATIENCE, || async { (compact_requests(&cluster).await > 0).then_some(()) }).await;
    dated.finish().await;
}

#[tokio::test]
async fn beside_an_operators_compaction_ours_stays_off() {
    let cluster = Cluster::start(Spec::calm()).await;
    let recorder = Recorder::start(&cluster).await;
    let dated = Dated::start(&cluster).await;
    let janitors = janitors(&cluster, &yaml("")).await;
    compacted_past(&recorder, &dated).await;
    let leader = cluster.leader().await;
    let output = cluster.etcdctl_at(leader, &["compact", &dated.newest().to_string()]).await;
    assert!(output.status.success(), "{output:?}");
    janitors[leader].event("the other compactor is seen", PATIENCE, decided("somebody else compacts (seen")).await;
    let (sent, revision) = (compact_requests(&cluster).await, compacted_to(&recorder));
    decides_again(&janitors[leader], "not_needed", 4.0).await;
    assert_eq!((compact_requests(&cluster).await, compacted_to(&recorder)), (sent, revision));
    dated.finish().await;
}

#[tokio::test]
async fn a_kube_apiservers_keyspace_is_left_alone() {
    let cluster = Cluster::start(Spec::calm()).await;
    let mut client = cluster.client(0).await;
    client.put("compact_rev_key", "0", None).await.expect("a key is written");
    let recorder = Recorder::start(&cluster).await;
    let dated = Dated::start(&cluster).await;
    let mut janitors = janitors(&cluster, &yaml("")).await;
    let leader = cluster.leader().await;
    janitors[leader].event("it is left alone", PATIENCE, decided("kube-apiserver")).await;
    decides_again(&janitors[leader], "not_needed", 4.0).await;
    assert_eq!((compact_requests(&cluster).await, compacted_to(&recorder)), (0, 0));
    janitors[leader].reload(&yaml(", when_kubernetes: force")).await;
    compacted_past(&recorder, &dated).await;
    dated.finish().await;
}

/// Without a put, but for one member at most: under load, one in a few runs, a
/// member that has carried out both steps and the record's commit goes on with
/// the old figure until it commits once more.
#[tokio::test]
async fn a_compaction_frees_pages_on_the_members_without_a_put_and_is_not_repeated() {
    let cluster = Cluster::start(Spec::calm()).await;
    let recorder = Recorder::start(&cluster).await;
    let mut newest = garbage(&cluster, 40).await as u64;
    let yaml =
        |defrag: &str| format!("compaction: {{ schedule: '*/3 * * * * *', retention: 10s }}\ndefrag: {{ {defrag} }}\n");
    let mut janitors = janitors(&cluster, &yaml("enabled: false")).await;
    let now = || [0, 1, 2].map(|index| recorder.now(index));
    let freed = || now().iter().flatten().filter(|metrics| metrics.db_in_use < 8 << 20).count();
    eventually("free pages on two members", PATIENCE, || async { (freed() >= 2).then_some(()) }).await;
    if within("on the third", Duration::from_secs(30), || async { (freed() == 3).then_some(()) }).await.is_err() {
        println!("one member does not count what it freed: {:#?}", now());
        let client = cluster.client(0).await;
        newest = eventually("it does after a put or two", PATIENCE, || async {
            let written = client.clone().put("settle", "", None).await.expect("a put");
            tokio::time::sleep(Duration::from_secs(1)).await;
            (freed() == 3).then_some(written.header()?.revision() as u64)
        })
        .await;
    }
    // In one compaction or in two: what was written last may have been too young for the first.
    eventually("all of it is compacted", PATIENCE, || async { (compacted_to(&recorder) >= newest).then_some(()) })
        .await;
    decides_again(&janitors[cluster.leader().await], "not_needed", 1.0).await;
    let compacted = compacted_to(&recorder);
    // A round makes revisions, which are ours and count for nothing.
    let schedule = due_in(20);
    let round = format!("schedule: '{schedule}', rule: 'dbSizeFree > 30 * MiB', pause_between: 0s, leader_wait: 15s");
    for janitor in &mut janitors {
        janitor.reload(&yaml(&round)).await;
    }
    let round = records::round_of(&cluster, 0, 3, PATIENCE).await;
    assert!(round.values().all(|record| record["outcome"] == "done"), "{round:?}");
    let leader = cluster.leader().await;
    eventually("the queue is empty", PATIENCE, || async { records::queue(&cluster, 0).await.is_empty().then_some(()) })
        .await;
    decides_again(&janitors[leader], "not_needed", 1.0).await;
    let before = revision(&cluster).await;
    decides_again(&janitors[leader], "not_needed", 4.0).await;
    assert_eq!(compacted_to(&recorder), compacted);
    assert_eq!(revision(&cluster).await, before, "an idle janitor writes nothing");
}

/// Without the window the others would take it for somebody else's.
#[tokio::test]
async fn a_compaction_in_the_middle_of_which_a_janitor_is_stopped_is_explained() {
    let cluster = Cluster::start(Spec { members: 1, ..Spec::calm() }).await;
    let dated = Dated::start(&cluster).await;
    let mut janitor = Janitor::start(&cluster, 0, &yaml("")).await;
    let sent = |janitor: &Janitor| -> Vec<Value> {
        let events = janitor.events().into_iter().filter(|event| event["message"] == "compacts");
        events.map(|event| event["revision"].clone()).collect()
    };
    // A second and a half is little on a busy machine; a compaction to its end takes longer on any.
    let mut explained = false;
    for _ in 0..4 {
        let before = sent(&janitor).len();
        eventually("it compacts", PATIENCE, || async { (sent(&janitor).len() > before).then_some(()) }).await;
        janitor.stop().await;
        let window = records::all(&cluster, 0).await.remove(&format!("{}window", records::PREFIX));
        explained = window.is_some_and(|window| Some(&window["compacted"]) == sent(&janitor).last());
        if explained {
            break;
        }
        janitor.start_again().await;
    }
    assert!(explained, "{}", janitor.log_tail(5));
    dated.finish().await;
}

#[tokio::test]
async fn in_revision_mode_so_many_of_the_newest_revisions_are_kept() {
    const KEPT: u64 = 200;
    // Windows among the newest push none of the others out.
    const OURS: u64 = 20;
    let cluster = Cluster::start(Spec { members: 1, ..Spec::calm() }).await;
    let recorder = Recorder::start(&cluster).await;
    let dated = Dated::start(&cluster).await;
    let yaml = format!(
        "compaction: {{ schedule: '*/2 * * * * *', mode: revision, retention: {KEPT}, when_etcd_compacts: force }}\n\
         defrag: {{ enabled: false }}\n"
    );
    let janitor = Janitor::start(&cluster, 0, &yaml).await;
    compacted_past(&recorder, &dated).await;
    let written = dated.finish().await;
    let last = written.last().expect("a write").0;
    // The newest are kept, and no more of others' writes than that.
    let compacted = eventually("what is left to compact is compacted", PATIENCE, || async {
        Some(compacted_to(&recorder)).filter(|compacted| *compacted + KEPT + OURS >= last)
    })
    .await;
    decides_again(&janitor, "not_needed", 2.0).await;
    let head = revision(&cluster).await;
    assert!(compacted_to(&recorder) + KEPT <= head, "{compacted} of {head}");
    let mut client = cluster.client(0).await;
    let mut read = async |revision: u64| {
        let at = etcd_client::GetOptions::new().with_revision(i64::try_from(revision).expect("a revision"));
        client.get("dated", Some(at)).await.map(drop)
    };
    read(head - KEPT).await.expect("the newest are there");
    read(compacted - 1).await.expect_err("the others are not");
}

#[tokio::test]
async fn a_dry_run_of_a_compaction_says_to_which_revision() {
    let cluster = Cluster::start(Spec::calm()).await;
    let recorder = Recorder::start(&cluster).await;
    let dated = Dated::start(&cluster).await;
    let leader = cluster.leader().await;
    let mut janitor = Janitor::start(&cluster, leader, &yaml("")).await;
    windows_all_along(&cluster, &recorder, &dated).await;
    // One that is stopped between a compaction and its record leaves nothing to go by.
    janitor.reload("compaction: { enabled: false, retention: 10s }\ndefrag: { enabled: false }\n").await;
    let window = format!("{}window", records::PREFIX);
    eventually("the compaction is over and on record", PATIENCE, || async {
        let recorded = records::all(&cluster, leader).await.remove(&window)?["compacted"].as_u64()?;
        (recorded == compacted_to(&recorder) && janitor.is_idle().await).then_some(())
    })
    .await;
    janitor.stop().await;
    let compacted = compacted_to(&recorder);
    // Until the samples on record have grown old enough, it says no.
    let said = eventually("there is something to compact", PATIENCE, || async {
        let (code, said) = ask(&janitor, "compact").await;
        assert!(matches!(code, Some(0 | 4)), "{said}");
        (code == Some(0)).then_some(said)
    })
    .await;
    assert!(said.contains("would compact to revision"), "{said}");
    assert_eq!(compacted_to(&recorder), compacted);
    dated.finish().await;
}

async fn alarms(cluster: &Cluster) -> String {
    let mut client = cluster.client(0).await;
    client.status().await.expect("a status").errors().concat()
}

#[tokio::test]
async fn nospace_is_cleared_outside_a_round_once_every_member_has_space() {
    let quota = Some(32 << 20);
    let cluster = Cluster::start(Spec { quota_bytes: quota, ..Spec::calm() }).await;
    let revision = fill_to_quota(&cluster).await;
    compact(&cluster, revision).await;
    let yaml = "compaction: { enabled: false }\ndefrag: { enabled: false }\nalarms: { rescue: false }\n";
    let janitors = janitors(&cluster, yaml).await;
    let leader = cluster.leader().await;
    let last = (leader + 1) % 3;
    for index in (0..3).filter(|index| *index != last) {
        let output = cluster.etcdctl_at(index, &["defrag"]).await;
        assert!(output.status.success(), "{output:?}");
    }
    let name = cluster.member(last).name.clone();
    let stays = |event: &Value| {
        let message = event["message"].to_string();
        message.contains("NOSPACE stays") && message.contains(&format!("{name} ("))
    };
    janitors[leader].event("it says who is above", PATIENCE, stays).await;
    // Two more looks at it, of three reads each.
    let asked = async || {
        let text = janitors[leader].metrics().await;
        let of_range = text.lines().filter(|line| {
            line.starts_with("etcd_janitor_etcd_requests_total")
                && line.contains("\"Range\"")
                && line.contains("\"ok\"")
        });
        of_range.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    let before = asked().await;
    eventually("it looks again", PATIENCE, || async { (asked().await >= before + 6.0).then_some(()) }).await;
    assert!(alarms(&cluster).await.contains("NOSPACE"));
    let output = cluster.etcdctl_at(last, &["defrag"]).await;
    assert!(output.status.success(), "{output:?}");
    assert!(alarms(&cluster).await.contains("NOSPACE"));
    let cleared = Instant::now();
    eventually("the alarm is cleared", Duration::from_secs(30), || async {
        (!alarms(&cluster).await.contains("NOSPACE")).then_some(())
    })
    .await;
    eprintln!("cleared after {:?}", cleared.elapsed());
    let mut client = cluster.client(last).await;
    client.put("key", "value", None).await.expect("writes are taken again");
    free_pages(&cluster, 8).await;
    assert!(!alarms(&cluster).await.contains("NOSPACE"));
}
