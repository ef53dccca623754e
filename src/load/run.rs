//! One stage of a run: a few threads, each with its own connections, clients on them, and somebody who watches.
//!
//! A thread is a runtime of its own and shares nothing with the others but a few counters, so that a second core is of
//! use. Nothing is kept of a request but its latency.

use std::cell::RefCell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::args::Settings;
use super::progress::Progress;
use super::report::{Early, Figures};
use super::screen::Screen;
use super::tally::Tally;
use super::work::{Kind, Stage};
use crate::config::Etcd;
use crate::etcd::{Calls, Class, Connection, Error, Kv, Material};

/// A client rests so long after a failure: what refuses everything is not asked a hundred thousand times a second.
const REST: Duration = Duration::from_millis(100);

/// Why a run cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// etcd cannot be reached, or lets nobody in.
    #[error("{0}")]
    Etcd(#[from] Error),
    /// This program has not what it needs.
    #[error("cannot start: {0}")]
    Local(#[from] std::io::Error),
}

/// What came of a stage.
pub struct Ended {
    /// Its requests.
    pub tally: Tally,
    /// From the first request to the last.
    pub took: Duration,
    /// Why it ended before its end.
    pub early: Option<Early>,
}

/// SIGINT and SIGTERM.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on they do not end the process. Inside a runtime only.
    pub fn catch() -> std::io::Result<Signals> {
        Ok(Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What the threads share.
struct Shared<'a> {
    settings: &'a Settings,
    stage: &'a Stage,
    calls: &'a Calls,
    operations: Option<u64>,
    next: AtomicU64,
    ended: AtomicU64,
    failed: AtomicU64,
    begun: OnceLock<Instant>,
    /// All connections are there.
    go: CancellationToken,
    /// Nothing new is begun.
    stop: CancellationToken,
    /// Nothing is waited for any more.
    abandon: CancellationToken,
}

impl Shared<'_> {
    fn next(&self) -> Option<u64> {
        if self.stop.is_cancelled() {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (self.operations.is_none_or(|all| number < all)).then_some(number)
    }

    /// When an operation is due, with a limit to the rate. It was due then also when nobody was free to begin it: a
    /// stall counts for everything that it kept waiting.
    fn due(&self, number: u64) -> Option<Instant> {
        let rate = self.settings.rate?;
        self.begun.get()?.checked_add(Duration::from_secs_f64(number as f64 / rate as f64))
    }

    fn count(&self, failed: bool) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        if failed && self.failed.fetch_add(1, Ordering::Relaxed) >= self.settings.max_errors {
            self.stop.cancel();
        }
    }
}

/// Connects to an endpoint; what its member says of itself, where the user may ask for it.
pub async fn reach(etcd: &Etcd, calls: &Calls) -> Result<(Connection, Option<Figures>), Error> {
    let material = Material::read(etcd)?;
    let connection = Connection::dial(&etcd.endpoint, &material, calls.clone(), etcd.request_timeout).await?;
    match connection.status(etcd.request_timeout).await {
        Ok((_, _, status)) => Ok((connection, Some(Figures::of(&status)))),
        // Some releases want root for Status, and a load test none.
        Err(error) if matches!(error.class, Class::Auth | Class::Token) => Ok((connection, None)),
        Err(error) => Err(error),
    }
}

/// Runs a stage to its end. `failed` requests failed in earlier ones.
pub fn stage(
    runtime: &Runtime,
    signals: &mut Signals,
    screen: &mut Screen,
    settings: &Settings,
    stage: &Stage,
    calls: &Calls,
    failed: u64,
) -> Result<Ended, Failure> {
    let shared = Shared {
        settings,
        stage,
        calls,
        operations: settings.work.operations(stage),
        next: AtomicU64::new(0),
        ended: AtomicU64::new(0),
        failed: AtomicU64::new(failed),
        begun: OnceLock::new(),
        go: CancellationToken::new(),
        stop: CancellationToken::new(),
        abandon: CancellationToken::new(),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(settings.connections);
    let (tell, mut told) = mpsc::channel(threads);
    std::thread::scope(|scope| {
        let spawn = |number| {
            let (shared, tell) = (&shared, tell.clone());
            scope.spawn(move || drive(shared, number, threads, tell))
        };
        let workers: Vec<_> = (0..threads).map(spawn).collect();
        drop(tell);
        let early = runtime.block_on(watch(&shared, threads, &mut told, signals, screen));
        let took = shared.begun.get().map(Instant::elapsed).unwrap_or_default();
        let mut tally = Tally::default();
        let mut failure = None;
        for worker in workers {
            match worker.join() {
                Ok(Ok(part)) => tally.add(part),
                Ok(Err(error)) => failure = Some(error),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(Ended { tally, took, early }),
        }
    })
}

/// Starts the threads together, shows how far they are and stops them. Returns when they have ended.
async fn watch(
    shared: &Shared<'_>,
    threads: usize,
    told: &mut mpsc::Receiver<()>,
    signals: &mut Signals,
    screen: &mut Screen,
) -> Option<Early> {
    let mut interrupted = false;
    let mut connected = 0;
    let mut progress = Progress::new(shared.stage.name(), shared.operations, shared.stage.duration());
    let mut ticks = tokio::time::interval(screen.interval());
    let mut until: Option<tokio::time::Instant> = None;
    loop {
        tokio::select! {
            message = told.recv() => match message {
                Some(()) => {
                    connected += 1;
                    if connected == threads {
                        let begun = *shared.begun.get_or_init(Instant::now);
                        until = shared.stage.duration().and_then(|long| begun.checked_add(long)).map(Into::into);
                        shared.go.cancel();
                    }
                }
                None => break,
            },
            () = signals.any() => {
                if interrupted {
                    shared.abandon.cancel();
                }
                interrupted = true;
                shared.stop.cancel();
            }
            () = sleep_until(until.unwrap_or_else(tokio::time::Instant::now)), if until.is_some() => {
                until = None;
                shared.stop.cancel();
            }
            _ = ticks.tick() => {
                if let Some(begun) = shared.begun.get() {
                    let (ended, failed) = counts(shared);
                    screen.show(&progress.line(begun.elapsed(), ended, failed));
                }
            }
        }
    }
    if let Some(begun) = shared.begun.get() {
        let (ended, failed) = counts(shared);
        screen.last(&progress.line(begun.elapsed(), ended, failed));
    }
    let too_many = shared.failed.load(Ordering::Relaxed) > shared.settings.max_errors;
    match (interrupted, too_many) {
        (true, _) => Some(Early::Interrupted),
        (false, true) => Some(Early::TooManyErrors),
        (false, false) => None,
    }
}

fn counts(shared: &Shared<'_>) -> (u64, u64) {
    (shared.ended.load(Ordering::Relaxed), shared.failed.load(Ordering::Relaxed))
}

/// One thread: every `threads`-th connection and the clients on it.
fn drive(shared: &Shared<'_>, number: usize, threads: usize, tell: mpsc::Sender<()>) -> Result<Tally, Failure> {
    // Whoever fails ends it for all: the others would wait for ever to begin.
    let ended = drive_until_stopped(shared, number, threads, tell);
    if ended.is_err() {
        shared.stop.cancel();
    }
    ended
}

fn drive_until_stopped(
    shared: &Shared<'_>,
    number: usize,
    threads: usize,
    tell: mpsc::Sender<()>,
) -> Result<Tally, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tally = RefCell::new(Tally::default());
    let result = runtime.block_on(async {
        let settings = shared.settings;
        let mut clients = Vec::new();
        for connection in (number..settings.connections).step_by(threads) {
            let etcd = &settings.endpoints[connection % settings.endpoints.len()];
            // Asked for its Status, it is there before the first request: no latency has a handshake in it.
            let (connected, _) = reach(etcd, shared.calls).await?;
            let here = (connection..settings.clients).step_by(settings.connections);
            clients.extend(here.map(|_| Kv::new(&connected, settings.timeout)));
        }
        // Full never: it has room for a message of each thread.
        let _ = tell.send(()).await;
        tokio::select! {
            () = shared.go.cancelled() => {}
            () = shared.stop.cancelled() => return Ok(()),
        }
        let clients = clients.into_iter().map(|client| work(shared, client, &tally));
        tokio::select! {
            _ = join_all(clients) => {}
            () = shared.abandon.cancelled() => {}
        }
        Ok::<(), Failure>(())
    });
    drop(tell);
    // A name that is being looked up has a thread that nothing can end: it is not waited for.
    runtime.shutdown_background();
    result.map(|()| tally.into_inner())
}

/// One client: one request after the other.
async fn work(shared: &Shared<'_>, mut client: Kv, tally: &RefCell<Tally>) {
    while let Some(number) = shared.next() {
        let due = shared.due(number);
        if let Some(due) = due.filter(|due| *due > Instant::now()) {
            tokio::select! {
                () = sleep_until(due.into()) => {}
                () = shared.stop.cancelled() => return,
            }
        }
        let begun = due.unwrap_or_else(Instant::now);
        let operation = shared.settings.work.operation(shared.stage, number);
        let result = match operation.kind {
            Kind::Write => client.put(operation.key, operation.value).await.map(|()| true),
            Kind::Read => client.get(operation.key).await,
            Kind::Delete => client.delete(operation.key).await,
        };
        shared.count(result.is_err());
        match result {
            Ok(there) => tally.borrow_mut().done(operation.kind, begun.elapsed(), there),
            Err(error) => {
                tally.borrow_mut().failed(&error);
                tokio::select! {
                    () = sleep(REST) => {}
                    () = shared.stop.cancelled() => {}
                }
            }
        }
    }
}
