//! A client that writes all the time and remembers what etcd acknowledged.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Client, GetOptions, PutOptions};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::cluster::Cluster;
use super::consistency::hash_kv_equal;

/// Every write has a key of its own: a put that timed out may be applied
/// seconds later, and over a newer value of the same key it would look like
/// the loss of that one.
pub struct Writer {
    prefix: String,
    stop: Arc<AtomicBool>,
    started: Instant,
    workers: Vec<JoinHandle<Log>>,
}

#[derive(Clone, Debug)]
pub struct Pace {
    pub workers: usize,
    /// Of each worker; a write that hangs delays the worker's next ones.
    pub interval: Duration,
    /// After which a write counts as failed and the next endpoint is tried.
    pub patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { workers: 2, interval: Duration::from_millis(20), patience: Duration::from_secs(2) }
    }
}

#[derive(Debug, Default)]
struct Log {
    /// Keys and when they were acknowledged.
    acknowledged: Vec<(String, Instant)>,
    failed: u64,
    slowest: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Written {
    pub acknowledged: usize,
    /// Refused or not answered in time; they may be there all the same.
    pub failed: u64,
    /// Acknowledged and not there: etcd broke its word.
    pub lost: Vec<String>,
    /// The longest time in which no worker got an answer.
    pub longest_stall: Duration,
    pub slowest_write: Duration,
}

impl Writer {
    /// Writes through the members' advertised URLs, proxies included.
    pub async fn start(cluster: &Cluster, prefix: &str, pace: Pace) -> Self {
        let urls: Vec<_> = cluster.members().iter().map(|m| m.advertised_url()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let mut workers = Vec::new();
        for number in 0..pace.workers {
            let mut clients = Vec::new();
            for url in &urls {
                let client = cluster.client_to(url).await;
                clients.push(client.expect("the members are up when the writer starts"));
            }
            let keys = format!("{prefix}/{number}/");
            let (pace, stop) = (pace.clone(), Arc::clone(&stop));
            workers.push(tokio::spawn(write(clients, number, keys, pace, stop)));
        }
        Self { prefix: format!("{prefix}/"), stop, started: Instant::now(), workers }
    }

    /// Stops, and fails when an acknowledged write was lost, when hardly any was acknowledged, or when the members do not
    /// hold the same.
    pub async fn nothing_lost(self, cluster: &Cluster) {
        let written = self.verify(cluster).await;
        assert!(written.lost.is_empty() && written.acknowledged > 100, "{written:?}");
        hash_kv_equal(cluster).await.expect("equal data");
    }

    /// Stops, reads everything back through a member that is up, and judges.
    pub async fn verify(self, cluster: &Cluster) -> Written {
        self.stop.store(true, Ordering::SeqCst);
        let stopped = Instant::now();
        let (mut acknowledged, mut failed, mut slowest) = (Vec::new(), 0, Duration::ZERO);
        for worker in self.workers {
            let log = worker.await.expect("a worker does not panic");
            acknowledged.extend(log.acknowledged);
            failed += log.failed;
            slowest = slowest.max(log.slowest);
        }
        let present = read_back(cluster, &self.prefix).await;
        let lost = acknowledged.iter().map(|(key, _)| key);
        let lost = lost.filter(|key| !present.contains(*key)).cloned().collect();
        let mut instants: Vec<_> = acknowledged.iter().map(|(_, at)| *at).collect();
        instants.extend([self.started, stopped]);
        instants.sort();
        let stalls = instants.windows(2).map(|pair| pair[1] - pair[0]);
        Written {
            acknowledged: acknowledged.len(),
            failed,
            lost,
            longest_stall: stalls.max().unwrap_or_default(),
            slowest_write: slowest,
        }
    }
}

async fn write(mut clients: Vec<Client>, first: usize, keys: String, pace: Pace, stop: Arc<AtomicBool>) -> Log {
    let mut log = Log::default();
    let mut ticks = tokio::time::interval(pace.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut through = first % clients.len();
    for sequence in 0_u64.. {
        ticks.tick().await;
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let key = format!("{keys}{sequence:08}");
        let sent = Instant::now();
        let call = clients[through].put(key.clone(), sequence.to_string(), None::<PutOptions>);
        if let Ok(Ok(_)) = timeout(pace.patience, call).await {
            let at = Instant::now();
            log.slowest = log.slowest.max(at - sent);
            log.acknowledged.push((key, at));
        } else {
            log.failed += 1;
            through = (through + 1) % clients.len();
        }
    }
    log
}

/// All keys below a prefix, in pages: one answer would pass gRPC's limit.
async fn read_back(cluster: &Cluster, prefix: &str) -> BTreeSet<String> {
    let mut client = cluster.client(cluster.leader().await).await;
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix ends with a slash") += 1;
    let (mut found, mut from) = (BTreeSet::new(), prefix.as_bytes().to_vec());
    loop {
        let page = GetOptions::new().with_range(end.clone()).with_keys_only().with_limit(10_000);
        let page = client.get(from, Some(page)).await.expect("a healthy cluster reads");
        for entry in page.kvs() {
            found.insert(String::from_utf8_lossy(entry.key()).into_owned());
        }
        match page.kvs().last() {
            // The key after the last one: the same with a zero byte behind it.
            Some(last) if page.more() => from = [last.key(), b"\0"].concat(),
            _ => return found,
        }
    }
}
