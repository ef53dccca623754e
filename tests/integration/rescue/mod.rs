//! Back from NOSPACE, with clients that never stop. Judged from outside: whether etcd takes writes again and how soon,
//! whether two members were ever in a defrag at once, whether their data are the same, whether anything acknowledged is
//! lost.

mod cases;
mod clients;
mod people;
mod soak;

use std::time::{Duration, Instant};

use crate::rounds::{PATIENCE, janitors};
use crate::support::consistency::hash_kv_equal;
use crate::support::garbage::{ballast, compact, fill_to_quota};
use crate::support::{Cluster, Janitor, Recorder, Spec, eventually, records, usual_release, within};
use clients::Clients;
use etcd_janitor::plan::release;

const QUOTA: u64 = 64 << 20;

/// A rescue may take this long for each member beside the defrags and the compaction.
const PER_MEMBER: Duration = Duration::from_secs(25);
/// Until the alarm is seen, a sample is old enough and the compaction has its two steps.
const BEFORE: Duration = Duration::from_secs(6 + 6 + 6);

/// The alarm is seen within six seconds; and asked of each janitor after the other.
const SEEN: Duration = Duration::from_secs(7);

/// More wants to run than there are processors: what is promised in seconds is kept then, but later.
fn busy() -> bool {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().and_then(|number| number.parse::<f64>().ok());
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    load.is_none_or(|load| load > processors as f64)
}

/// Nothing but the rescue, on whichever release.
fn yaml(alarms: &str) -> String {
    let unsafe_versions = if release::judge(&usual_release(), false).is_ok() { "skip" } else { "allow" };
    rescue_yaml(alarms, unsafe_versions)
}

fn rescue_yaml(alarms: &str, unsafe_versions: &str) -> String {
    format!(
        "compaction: {{ enabled: false }}\n\
         defrag: {{ schedule: '0 0 1 1 *', unsafe_versions: {unsafe_versions}, liveness_budget: 0s }}\n\
         alarms: {{ rescue_retention: 2s{alarms} }}\n"
    )
}

/// Long enough for the judge to see two at once.
const STRETCHED: Duration = Duration::from_millis(700);

fn small() -> Spec {
    Spec { quota_bytes: Some(QUOTA), stretch_defrags: Some(STRETCHED), ..Spec::default() }
}

async fn alarmed(cluster: &Cluster) -> bool {
    for index in cluster.voters() {
        let Ok(mut client) = cluster.client_to(&cluster.member(index).client_url).await else { continue };
        let status = tokio::time::timeout(Duration::from_secs(2), client.status()).await;
        if let Ok(Ok(status)) = status {
            return status.errors().concat().contains("NOSPACE");
        }
    }
    true
}

async fn until_alarmed(cluster: &Cluster) -> Instant {
    eventually("NOSPACE is up", PATIENCE, || async { alarmed(cluster).await.then(Instant::now) }).await
}

/// Clients' writes are acknowledged again, and the alarm is gone.
async fn until_rescued(cluster: &Cluster, clients: &Clients, since: Instant) -> Duration {
    let before = clients.acknowledged();
    eventually("clients write again", PATIENCE, || async {
        let newest = clients.newest().filter(|newest| *newest > since)?;
        (clients.acknowledged() > before + 3).then_some(newest)
    })
    .await;
    eventually("the alarm is gone", PATIENCE, || async { (!alarmed(cluster).await).then_some(()) }).await;
    since.elapsed()
}

/// Everything that must hold whatever happened. Answers the seconds that defrags took.
async fn judge(cluster: &Cluster, recorder: Recorder, clients: Clients, defragmented: usize) -> f64 {
    let lost = clients.verify(cluster).await;
    hash_kv_equal(cluster).await.unwrap_or_else(|why| panic!("{why}"));
    let history = recorder.finish();
    let overlaps = history.overlaps();
    assert!(overlaps.is_empty(), "{overlaps:?}");
    let led = history.began_on_leaders();
    assert!(led.is_empty(), "{led:?}");
    let done: usize = cluster.voters().into_iter().filter(|index| history.defrag_count(*index) > 0).count();
    assert!(done >= defragmented, "{done} members were defragmented");
    assert!(lost.is_empty(), "{lost:?}");
    history.defrags().iter().map(|defrag| defrag.to.duration_since(defrag.from).as_secs_f64()).sum()
}

fn in_time(took: Duration, members: u32, defrags: f64) {
    let most = BEFORE + PER_MEMBER * members + Duration::from_secs_f64(defrags);
    println!("rescued in {took:?}, at most {most:?}");
    assert!(took <= most, "rescued in {took:?}, at most {most:?}");
}

#[tokio::test]
async fn a_full_cluster_takes_writes_again_while_clients_never_stop() {
    let cluster = Cluster::start(small()).await;
    ballast(&cluster, 12).await;
    let recorder = Recorder::start(&cluster).await;
    let janitors = janitors(&cluster, &yaml("")).await;
    let clients = Clients::start(&cluster, Duration::from_millis(20)).await;
    let since = until_alarmed(&cluster).await;
    for janitor in &janitors {
        // Six, and what a busy machine adds.
        within("it says so within six seconds", Duration::from_secs(20), || async {
            (janitor.metric("etcd_janitor_rescue_active").await == Some(1.0)).then_some(())
        })
        .await
        .unwrap();
    }
    let seen = since.elapsed();
    println!("all say so after {seen:?}");
    assert!(busy() || seen <= SEEN, "{seen:?}");
    let took = until_rescued(&cluster, &clients, since).await;
    assert!(clients.refused() > 0);
    let rescued = |event: &serde_json::Value| event["message"].to_string().contains("etcd takes writes again after");
    eventually("one tells the story", PATIENCE, || async {
        janitors.iter().any(|janitor| janitor.events().iter().any(rescued)).then_some(())
    })
    .await;
    for janitor in &janitors {
        eventually("it is over on all", PATIENCE, || async {
            (janitor.metric("etcd_janitor_rescue_active").await == Some(0.0)).then_some(())
        })
        .await;
    }
    let kept = records::all(&cluster, 0).await;
    let of_rescue: Vec<_> = kept.iter().filter(|(key, _)| key.contains("/rounds/rescue-")).collect();
    assert_eq!(of_rescue.len(), 3, "{kept:?}");
    assert!(!kept.keys().any(|key| key.ends_with("/probe")), "{kept:?}");
    let defrags = judge(&cluster, recorder, clients, 3).await;
    in_time(took, 3, defrags);
}

/// Up to 3.5.1 a member whose revisions were compacted says that all of its file is in use until it writes again, which
/// it never does under NOSPACE. The janitors come after all that.
#[tokio::test]
async fn janitors_that_come_after_the_alarm_find_what_stale_figures_hide() {
    let spec = Spec { release: "3.4.23".to_owned(), ..small() };
    let cluster = Cluster::start(spec).await;
    let revision = fill_to_quota(&cluster).await;
    compact(&cluster, revision).await;
    let recorder = Recorder::start(&cluster).await;
    let clients = Clients::start(&cluster, Duration::from_millis(200)).await;
    let since = Instant::now();
    let _janitors = janitors(&cluster, &rescue_yaml("", "skip")).await;
    let took = until_rescued(&cluster, &clients, since).await;
    let defrags = judge(&cluster, recorder, clients, 3).await;
    println!("rescued in {took:?}, {defrags} s of it defrags");
}

/// Of five members one is down, and the janitor of another one is missing: its neighbour acts for it.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn of_five_with_one_down_and_a_janitor_missing_the_others_are_brought_back() {
    let spec = Spec { members: 5, ..small() };
    let mut cluster = Cluster::start(spec).await;
    fill_to_quota(&cluster).await;
    let leader = cluster.leader().await;
    let followers: Vec<usize> = cluster.voters().into_iter().filter(|index| *index != leader).collect();
    let down = followers[0];
    cluster.kill(down);
    let recorder = Recorder::start(&cluster).await;
    let mut kept = Vec::new();
    let missing = *followers[1..].iter().min_by_key(|index| cluster.member(**index).id).expect("followers");
    for index in cluster.voters() {
        if index != missing && index != down {
            kept.push(Janitor::start(&cluster, index, &yaml(", compact_to_head: true")).await);
        }
    }
    eventually("the alarm is gone", Duration::from_secs(400), || async { (!alarmed(&cluster).await).then_some(()) })
        .await;
    let history = recorder.so_far();
    assert_eq!(history.defrag_count(missing), 1, "by another janitor");
    assert!(cluster.voters().into_iter().filter(|i| *i != down).all(|i| history.defrag_count(i) == 1));
    // It comes back with its file as large as it was. Either it raises the alarm again and is rescued alone, or what the
    // others have compacted meanwhile is free in it, too, and it is urgent.
    cluster.start_again(down).await;
    kept.push(Janitor::start(&cluster, down, &yaml("")).await);
    eventually("it is defragmented", Duration::from_secs(200), || async {
        let defragmented = recorder.so_far().defrag_count(down) > 0;
        (defragmented && !alarmed(&cluster).await).then_some(())
    })
    .await;
    let mut client = cluster.client(cluster.leader().await).await;
    client.put("again", "", None).await.expect("writes are taken");
    hash_kv_equal(&cluster).await.unwrap_or_else(|why| panic!("{why}"));
    let history = recorder.finish();
    assert!(history.overlaps().is_empty(), "{:?}", history.overlaps());
    assert!(history.began_on_leaders().is_empty());
}

#[tokio::test]
async fn live_data_above_the_quota_is_said_once_and_left_alone() {
    let cluster = Cluster::start(Spec { quota_bytes: Some(32 << 20), ..Spec::default() }).await;
    let recorder = Recorder::start(&cluster).await;
    // Every version is live: nothing that a compaction could free.
    let mut client = cluster.client(cluster.leader().await).await;
    for number in 0.. {
        if client.put(format!("live/{number}"), vec![b'x'; 64 << 10], None).await.is_err() {
            break;
        }
    }
    // Of a file that has just been filled up to a seventh is free: below nine tenths there would be a way out.
    let janitors = janitors(&cluster, &yaml(", disarm_below: 0.7")).await;
    let leader = cluster.leader().await;
    let janitor = &janitors[leader];
    eventually("it says that it is live data", PATIENCE, || async {
        let blocked = janitor.metric("etcd_janitor_rescue_blocked{reason=\"nospace\"}").await == Some(1.0);
        let told = janitor.status().await["rescue"]["waiting_for"]["detail"].to_string();
        (blocked && told.contains("--quota-backend-bytes")).then_some(())
    })
    .await;
    let page = janitor.page().await;
    assert!(page.contains("--quota-backend-bytes"), "{page}");
    let table = janitor.command(&["status"]).await;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("RESCUE rescue-") && table.contains("--quota-backend-bytes"), "{table}");
    tokio::time::sleep(Duration::from_secs(35)).await;
    let said = janitor.events().iter().filter(|e| e["message"].to_string().contains("--quota-backend-bytes")).count();
    assert_eq!(said, 1, "{}", janitor.log_tail(40));
    assert!(alarmed(&cluster).await);
    for index in cluster.voters() {
        assert_eq!(recorder.now(index).expect("metrics").defrag_count, 0, "no defrag would help");
    }
    // Somebody deletes: the rest is the janitors' work.
    client.delete("live/", Some(etcd_client::DeleteOptions::new().with_prefix())).await.expect("a delete");
    eventually("the alarm is gone", PATIENCE, || async { (!alarmed(&cluster).await).then_some(()) }).await;
    let history = recorder.finish();
    assert!(history.overlaps().is_empty(), "{:?}", history.overlaps());
    client.put("again", "", None).await.expect("writes are taken");
}
