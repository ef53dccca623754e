//! The outside judge. It reads every member's own counters from its own
//! threads, with its own clock and its own HTTP client, and believes nothing
//! that a janitor says.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::cluster::Cluster;
use super::eventually;
use super::history::{History, Sample, Track};
use super::scrape::{Connection, Metrics};

/// While a defrag is open on any member: who overlaps is told to this. Where
/// that matters, each is stretched to half a second and more.
const BUSY_INTERVAL: Duration = Duration::from_millis(80);

/// While none is. A page costs etcd 5 ms of computing: fifty a second from each
/// of three members would take half of a small machine and cause the slow
/// answers and elections that are then recorded. An unstretched defrag of an
/// empty database falls between two readings and is known by its counters.
const INTERVAL: Duration = Duration::from_millis(300);

/// A member that has not answered by then is recorded as silent. Members in
/// mid-defrag on a busy machine have taken half a second.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

pub struct Recorder {
    started: Instant,
    tokens: bool,
    interval: Duration,
    stop: Arc<AtomicBool>,
    /// A bit for each member that was last seen with an open Defragment.
    open: Arc<AtomicU64>,
    watches: Vec<Watch>,
}

struct Watch {
    member: usize,
    samples: Arc<Mutex<Vec<Sample>>>,
    thread: JoinHandle<()>,
}

impl Recorder {
    /// Watches every member; has a first reading of each when it returns.
    pub async fn start(cluster: &Cluster) -> Self {
        Self::start_every(cluster, INTERVAL).await
    }

    /// Long runs on a small machine may prefer a longer interval.
    pub async fn start_every(cluster: &Cluster, interval: Duration) -> Self {
        let tokens = cluster.spec().auth.is_some();
        let mut recorder = Self {
            started: Instant::now(),
            tokens,
            interval,
            stop: Arc::default(),
            open: Arc::default(),
            watches: Vec::new(),
        };
        for index in 0..cluster.members().len() {
            recorder.watch(cluster, index).await;
        }
        recorder
    }

    /// Watches a member that has been added since.
    pub async fn watch(&mut self, cluster: &Cluster, index: usize) {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let (address, interval) = (cluster.member(index).metrics_address(), self.interval);
        let (stop, open, store) = (Arc::clone(&self.stop), Arc::clone(&self.open), Arc::clone(&samples));
        let thread = thread::Builder::new()
            .name(format!("judge-m{index}"))
            .spawn(move || read_on(address, interval, &stop, (&open, 1 << index), &store))
            .expect("a thread can be started");
        let first = Arc::clone(&samples);
        eventually("a first reading", Duration::from_secs(10), || async { (!lock(&first).is_empty()).then_some(()) })
            .await;
        self.watches.push(Watch { member: index, samples, thread });
    }

    /// Everything seen until now.
    pub fn so_far(&self) -> History {
        let tracks =
            self.watches.iter().map(|watch| Track { member: watch.member, samples: lock(&watch.samples).clone() });
        History { started: self.started, tokens: self.tokens, tracks: tracks.collect() }
    }

    /// The newest reading of a member, if it answered.
    pub fn now(&self, member: usize) -> Option<Metrics> {
        let watch = self.watches.iter().find(|watch| watch.member == member)?;
        lock(&watch.samples).last()?.metrics.clone()
    }

    /// Waits until a member is seen with an open Defragment.
    pub async fn sees_defrag_open(&self, member: usize) {
        let limit = Duration::from_secs(30);
        eventually("a defrag is seen open", limit, || async {
            let open = self.now(member).is_some_and(|metrics| metrics.open_defrags() > 0);
            open.then_some(())
        })
        .await;
    }

    /// Waits until no member has one.
    pub async fn sees_all_quiet(&self) {
        let limit = Duration::from_secs(60);
        eventually("no defrag is open anywhere", limit, || async {
            let mut all = self.watches.iter().filter_map(|watch| self.now(watch.member));
            all.all(|metrics| metrics.open_defrags() == 0).then_some(())
        })
        .await;
    }

    /// Stops; the history has a last reading begun after this call, so what
    /// happened before is in it.
    pub fn finish(mut self) -> History {
        self.stop.store(true, Ordering::SeqCst);
        let mut tracks = Vec::new();
        for watch in self.watches.drain(..) {
            watch.thread.join().expect("the judge does not panic");
            tracks.push(Track { member: watch.member, samples: lock(&watch.samples).clone() });
        }
        History { started: self.started, tokens: self.tokens, tracks }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn read_on(
    address: SocketAddr,
    interval: Duration,
    stop: &AtomicBool,
    (open, own): (&AtomicU64, u64),
    store: &Mutex<Vec<Sample>>,
) {
    let mut connection = Connection::new(address, ANSWER_LIMIT);
    loop {
        let last = stop.load(Ordering::SeqCst);
        let sent = Instant::now();
        let metrics = match connection.get("/metrics") {
            Ok((200, text)) => Some(Metrics::parse(&text)),
            _ => None,
        };
        let received = Instant::now();
        match &metrics {
            Some(metrics) if metrics.open_defrags() > 0 => open.fetch_or(own, Ordering::SeqCst),
            Some(_) => open.fetch_and(!own, Ordering::SeqCst),
            // What it does now, nobody knows.
            None => 0,
        };
        lock(store).push(Sample { sent, received, metrics });
        if last {
            return;
        }
        let busy = open.load(Ordering::SeqCst) != 0;
        let interval = if busy { BUSY_INTERVAL.min(interval) } else { interval };
        // A slow answer is of a busy machine, which is left alone for longer.
        let answer = received - sent;
        thread::sleep(interval.saturating_sub(answer).max(answer * 2));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A test that panicked elsewhere still wants to see the history.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
