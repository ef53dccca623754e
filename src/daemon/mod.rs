//! Serve: one loop that turns the world into events for the plans and carries their steps out.
//!
//! Owns everything that lives as long as the process: the configuration in force, the connections, the plans, what is
//! shown. Decides nothing about etcd. Every request runs in a task of its own and comes back as `News`; the loop
//! itself never waits for etcd, which is what `/livez` says of it.
//!
//! Its one danger is a task that nobody waits for: all of them live in one [`JoinSet`].

pub mod clockwork;
pub mod direct;
mod etcd_side;
mod hands;
mod listener;
mod logging;
pub mod once;
mod paced;
mod policy;
mod prevention;
mod probes;
mod reload;
mod rescue;
mod tasks;
mod view;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config, Loaded, Source};
use crate::etcd::{Calls, Change, Clock, Error};
use crate::http::{self, Command, Heartbeat, Metrics};
use crate::plan::compaction::Compactor;
use crate::plan::firing::Firings;
use crate::plan::janitor::Janitor;
use crate::plan::reason::Blocked;
use crate::plan::record::RoundRecord;
use crate::plan::snapshot::{ConfigState, Janitor as Process, TaskKind};
use crate::plan::step::{Answer, Event, Ticket};
use crate::plan::time::{Mono, Now};

use clockwork::{Clockwork, Firing};
use etcd_side::Link;
use listener::Listener;
use logging::Level;
use prevention::Prevention;
use probes::Probes;
use reload::Reload;
use view::{Doing, View};

pub use logging::init as init_logging;
pub use policy::rounds as round_policy;

/// `/livez` fails when the loop has not turned for this long; it turns at least every [`IDLE`].
const STUCK: Duration = Duration::from_secs(30);
/// Longest sleep of the loop.
const IDLE: Duration = Duration::from_secs(10);
/// What SIGTERM leaves for giving the turn up. The process is gone within two seconds.
const LEAVE_WITHIN: Duration = Duration::from_millis(1400);

/// What a task brings back.
enum News {
    Identified(Arc<crate::etcd::Cluster>, Result<crate::etcd::Identity, crate::etcd::Error>),
    Polled(Result<crate::etcd::LocalStatus, crate::etcd::Error>),
    Answered(Ticket, Answer),
    Surveyed(Result<crate::plan::compaction::Survey, Blocked>),
    Traced(i64, Result<crate::etcd::Trace, Blocked>),
    Compacted(Result<String, Blocked>),
    Stored(Result<(), Blocked>),
    History(Result<Vec<RoundRecord>, Error>),
    WatchEnded(crate::etcd::Error),
    Left,
    Overview(Box<crate::plan::cluster::Look>),
    Held(Now, Result<crate::etcd::Pause, crate::etcd::Error>),
}

/// The process cannot serve at all.
#[derive(Debug, thiserror::Error)]
pub enum NotStarted {
    /// The port cannot be had.
    #[error("cannot listen on {0}: {1}")]
    Listen(std::net::SocketAddr, std::io::Error),
    /// Metrics, scheduler or signal handlers cannot be set up.
    #[error("cannot start: {0}")]
    Setup(String),
}

struct Daemon {
    clock: Clock,
    config: Option<Arc<Config>>,
    reload: Reload,
    /// What the process was started with and serves with until its end.
    served: reload::Fixed,
    level: Level,
    listener: Listener,
    view: View,
    metrics: Arc<Metrics>,
    calls: Calls,
    clockwork: Clockwork,
    link: Link,
    probes: Arc<Probes>,
    janitor: Option<Janitor>,
    compactor: Option<Compactor>,
    firings: Firings,
    prevention: Prevention,
    compaction_began: Option<Mono>,
    /// A rescue waits for this compaction.
    rescue_compaction: Option<Ticket>,
    defrag_began: Option<(crate::plan::member::RoundId, Mono)>,
    instance: String,
    work: JoinSet<(u64, News)>,
    changes: mpsc::Sender<Change>,
    next_overview: Mono,
    /// A look that somebody asked for is under way, or was until a moment ago.
    no_look_before: Mono,
    stop_by: Option<Mono>,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// Only when it cannot serve: a bad configuration or an etcd that is away are shown, not died of.
pub async fn run(source: Source) -> Result<(), NotStarted> {
    let clock = Clock::new();
    let loaded = config::load(&source);
    let fallback = serving_defaults(&source);
    let shown = loaded.as_ref().map_or(&fallback, |loaded| &loaded.config);
    let level = init_logging(shown.log.format, &shown.log.level);
    let served = reload::fixed(shown);
    let setup = |error: &dyn std::fmt::Display| NotStarted::Setup(error.to_string());

    let metrics = Arc::new(Metrics::new().map_err(|error| setup(&error))?);
    let calls = Calls::new().map_err(|error| setup(&error))?;
    for collector in calls.collectors() {
        metrics.register(collector).map_err(|error| setup(&error))?;
    }
    let instance = uuid::Uuid::new_v4().simple().to_string();
    let process = Process {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: instance.clone(),
        started_at: clock.now().wall,
    };
    let config_state = ConfigState {
        source: source.name(),
        valid: false,
        last_reload_successful: false,
        problems: Vec::new(),
        dry_run: shown.dry_run,
    };
    let (view, snapshots) = View::new(process, config_state, clock.now().wall);
    let heartbeat = Arc::new(Heartbeat::new(STUCK));
    let probes = Arc::new(Probes::default());
    let (commands, mut commanded) = mpsc::channel(4);
    let listener = Listener::new(shown, clock.now());
    let asked = Arc::clone(&probes);
    let look_wanted = Arc::new(Notify::new());
    let options = http::Options {
        max_connections: shown.http.max_connections,
        access: listener.access.subscribe(),
        transport: listener.transport.subscribe(),
        snapshot: snapshots,
        metrics: Arc::clone(&metrics),
        heartbeat: Arc::clone(&heartbeat),
        etcd_probe: Arc::new(move |probe| {
            let asked = Arc::clone(&asked);
            Box::pin(async move { asked.ask(probe).await })
        }),
        commands,
        look_wanted: Arc::clone(&look_wanted),
        limits: http::Limits::default(),
    };
    let listen = shown.http.listen;
    let server = http::Server::bind(listen, options).await.map_err(|error| NotStarted::Listen(listen, error))?;
    tracing::info!(
        address = %server.local_addr(),
        version = env!("CARGO_PKG_VERSION"),
        instance,
        config = source.name(),
        "serving"
    );

    let (fired, mut firings) = mpsc::channel::<Firing>(8);
    let clockwork = Clockwork::start(fired).await.map_err(|error| setup(&error))?;
    let (changes, mut changed) = mpsc::channel(64);
    let mut signals = Signals::new().map_err(|error| setup(&error))?;
    let stop = CancellationToken::new();
    let mut serving = JoinSet::new();
    serving.spawn(server.run(stop.clone()));

    let mut daemon = Daemon {
        clock,
        config: None,
        reload: Reload::new(source, clock.mono()),
        served,
        level,
        listener,
        view,
        metrics,
        calls,
        clockwork,
        link: Link::new(clock.mono()),
        probes,
        janitor: None,
        compactor: None,
        firings: Firings::default(),
        prevention: Prevention::new(),
        compaction_began: None,
        rescue_compaction: None,
        defrag_began: None,
        instance,
        work: JoinSet::new(),
        changes,
        next_overview: clock.mono(),
        no_look_before: clock.mono(),
        stop_by: None,
    };
    daemon.adopt_config(loaded);

    while !daemon.may_stop() {
        heartbeat.touch();
        daemon.do_what_is_due();
        daemon.publish();
        let wake = tokio::time::Instant::from_std(clock.instant(daemon.wake_at()));
        tokio::select! {
            Some(firing) = firings.recv() => daemon.fired(firing),
            Some(done) = daemon.work.join_next(), if !daemon.work.is_empty() => daemon.take_news(done),
            Some(change) = changed.recv() => daemon.changed(change),
            Some(Command::Quiesce) = commanded.recv() => daemon.quiesce("asked by quiesce"),
            () = look_wanted.notified() => daemon.asked_to_look(),
            signal = signals.next() => daemon.signalled(signal),
            () = tokio::time::sleep_until(wake) => {}
        }
    }
    daemon.publish();
    stop.cancel();
    let Daemon { clockwork, mut work, .. } = daemon;
    clockwork.shutdown().await;
    work.abort_all();
    while serving.join_next().await.is_some() {}
    tracing::info!("stopped");
    Ok(())
}

/// What to serve with when the file is no good: flags and environment if they are, else the defaults.
pub fn serving_defaults(source: &Source) -> Config {
    let without_file = Source { file: None, ..source.clone() };
    config::load(&without_file).map_or_else(|_| Config::default(), |loaded| loaded.config)
}

impl Daemon {
    fn publish(&self) {
        let round = self.janitor.as_ref().and_then(Janitor::round);
        let now = self.clock.now();
        // Where it is switched off nobody looks.
        let watches = self.config.as_ref().is_some_and(|config| config.compaction.enabled);
        let watching = self.compactor.as_ref().filter(|_| watches);
        let doing = Doing {
            compaction: self.compactor.as_ref().filter(|compactor| !compactor.is_idle()).map(Compactor::phase),
            others_compact: watching.and_then(|compactor| compactor.others(now.mono)),
            round: round.map(|round| (round.id(), round.phase(), round.blocked())),
            turn_held: round.is_some_and(crate::plan::round::Round::has_turn),
            rescue: self.janitor.as_ref().and_then(Janitor::rescue).map(rescue::shown),
        };
        self.view.publish(self.config.as_deref(), &doing, now);
    }

    /// The next instant at which something is due without anything happening.
    fn wake_at(&self) -> Mono {
        let now = self.clock.mono();
        [
            self.janitor.as_ref().and_then(Janitor::wake_at),
            self.compactor.as_ref().and_then(Compactor::wake_at),
            self.link.wake_at(),
            Some(self.reload.next_check()),
            self.stop_by,
        ]
        .into_iter()
        .flatten()
        .fold(now + IDLE, Mono::min)
    }

    fn do_what_is_due(&mut self) {
        let now = self.clock.now();
        if self.reload.is_due(now.mono) {
            self.clockwork.look();
            self.check_files();
        }
        self.keep_link();
        if let Some(round) = self.firings.lapsed(now.mono) {
            self.came_to_nothing(round);
        }
        if self.janitor.as_ref().and_then(Janitor::wake_at).is_some_and(|at| now.mono >= at) {
            self.janitor_event(Event::Tick);
        }
        if let Some(step) = self.compactor.as_mut().and_then(|compactor| compactor.tick(now.mono)) {
            self.compaction_step(step);
        }
    }

    fn take_news(&mut self, done: Result<(u64, News), tokio::task::JoinError>) {
        let (generation, news) = match done {
            Ok(done) => done,
            // The watch on a member that is looked after no longer.
            Err(error) if error.is_cancelled() => return,
            Err(error) => {
                // With panic = abort there is no other kind.
                tracing::error!(%error, "a task was lost");
                return;
            }
        };
        if generation != self.link.generation() {
            return;
        }
        match news {
            News::Identified(cluster, result) => self.identified(cluster, result),
            News::Polled(result) => self.polled(result),
            News::Answered(ticket, answer) => self.answered(ticket, answer),
            News::Surveyed(survey) => {
                let now = self.clock.now();
                self.view.compact_revision =
                    survey.as_ref().ok().and_then(|survey| survey.compact_revision).or(self.view.compact_revision);
                let step = self.compactor.as_mut().and_then(|compactor| compactor.surveyed(survey, now));
                self.compaction_steps(step);
            }
            News::Traced(revision, trace) => {
                let step = self.compactor.as_mut().and_then(|compactor| compactor.traced(revision, trace));
                self.compaction_steps(step);
            }
            News::Compacted(result) => {
                let now = self.clock.mono();
                let step = self.compactor.as_mut().and_then(|compactor| compactor.compacted(result, now));
                self.compaction_steps(step);
            }
            News::Stored(result) => {
                if let Err(blocked) = result {
                    tracing::warn!(task = "compaction", reason = blocked.reason.name(), "{blocked}");
                }
                let step = self.compactor.as_mut().and_then(Compactor::stored);
                self.compaction_steps(step);
            }
            News::History(records) => self.remember(records),
            News::WatchEnded(error) => self.watch_ended(&error),
            News::Overview(look) => self.overviewed(&look),
            News::Held(begun, pause) => self.hold_read(begun, pause),
            News::Left => {}
        }
    }

    fn changed(&mut self, change: Change) {
        self.link.watch_works();
        if let Some(compactor) = &mut self.compactor {
            compactor.own_revisions(&change.revisions);
        }
        if change.intent {
            self.janitor_event(Event::IntentSeen);
        }
        if change.queue {
            self.janitor_event(Event::QueueChanged);
        }
        if change.records {
            self.read_history();
        }
        if change.hold {
            self.read_hold();
        }
    }

    fn quiesce(&mut self, why: &str) {
        if !self.view.quiesced {
            tracing::info!(why, "starts nothing new");
        }
        self.view.quiesced = true;
        self.janitor_event(Event::Quiesce);
        let step = self.compactor.as_mut().and_then(|compactor| compactor.stop(crate::plan::reason::Reason::Quiesced));
        self.compaction_steps(step);
    }

    fn signalled(&mut self, signal: Signal) {
        match signal {
            Signal::Reload => {
                tracing::info!("SIGHUP: reads the configuration again");
                self.reload_now();
            }
            Signal::Stop(_) if self.stop_by.is_some() => self.stop_by = Some(self.clock.mono()),
            Signal::Stop(name) => {
                self.stop_by = Some(self.clock.mono() + LEAVE_WITHIN);
                self.quiesce(name);
                let now = self.clock.mono();
                let step = self.compactor.as_mut().and_then(|compactor| compactor.hurry(now));
                self.compaction_steps(step);
                if self.janitor.as_ref().is_some_and(Janitor::is_sent) {
                    tracing::warn!("stops in mid-defrag: the intent stays, the next start adopts it");
                }
            }
        }
    }

    /// Whether the process may end: it was told to, and nothing is left that another 1.4 s could tidy up.
    fn may_stop(&self) -> bool {
        let Some(by) = self.stop_by else { return false };
        let left = self.janitor.as_ref().is_none_or(|janitor| janitor.is_idle() || janitor.is_unsettled());
        let stored = self.compactor.as_ref().is_none_or(|compactor| !compactor.is_writing());
        (left && stored) || self.clock.mono() >= by
    }

    fn adopt_config(&mut self, loaded: Result<Loaded, config::Invalid>) {
        match loaded {
            Ok(loaded) => self.apply(loaded),
            Err(invalid) => self.refuse(&invalid),
        }
    }

    fn set_schedules(&self, config: &Config) {
        self.clockwork.set(TaskKind::Compaction, Some(config.compaction.schedule.clone()));
        self.clockwork.set(TaskKind::Defrag, Some(config.defrag.schedule.clone()));
    }
}

enum Signal {
    Stop(&'static str),
    Reload,
}

struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    hup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.term.recv() => Signal::Stop("SIGTERM"),
            _ = self.int.recv() => Signal::Stop("SIGINT"),
            _ = self.hup.recv() => Signal::Reload,
        }
    }
}
