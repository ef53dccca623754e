//! One run of a task for the command line, with the plans and hands of the daemon.

use std::sync::Arc;
use std::time::Duration;

use chrono::SubsecRound;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use super::hands::Hands;
use super::policy;
use crate::config::Config;
use crate::etcd::{self, Calls, Class, Clock, Cluster, Error, Identity};
use crate::http::Metrics;
use crate::plan::cluster::{Look, Place};
use crate::plan::compaction::{Compactor, Step as CompactionStep, Survey, Trace};
use crate::plan::forecast::{forecast, measured_by_etcd, recorded};
use crate::plan::janitor::Janitor;
use crate::plan::member::{MemberId, RoundId, RoundKind};
use crate::plan::reason::{Blocked, Outcome, Reason};
use crate::plan::record::RoundRecord;
use crate::plan::step::{Answer, Event, Me, Step, Ticket};
use crate::plan::time::Mono;

/// Why a run gave no outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// Nobody was reached; one sentence.
    Unreachable(String),
    /// etcd answers and does not let us, or it is the wrong one; one sentence.
    Refused(String),
    /// Ctrl-C or SIGTERM.
    Interrupted(Left),
}

/// What an interrupted command leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Nothing: nothing was sent, and the queue was left.
    Nothing,
    /// Nothing is under way; a place in the queue may be there until its lease ends.
    Place,
    /// A `Defragment`, which cannot be cancelled.
    Defrag,
    /// A compaction to this revision, which cannot be cancelled.
    Compaction(i64),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        let reason = error.blocked().reason;
        let text = format!("{reason}: {error}. {}", reason.remedy());
        match reason {
            Reason::EtcdUnavailable => Stopped::Unreachable(text),
            // A handshake that fails reaches nobody either, but etcd is there and says no.
            _ => Stopped::Refused(text),
        }
    }
}

/// What there is to tell while it runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// One sentence.
    Said(String),
    /// How far it is; told again and again.
    At(Progress),
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Progress {
    /// What it is doing, in words.
    pub phase: &'static str,
    /// What it waits for, as one line.
    pub waiting_for: Option<String>,
    /// Who has the turn and who waits for it, by name.
    pub queue: Vec<String>,
    /// What is compacted to; none: it is no compaction.
    pub revision: Option<i64>,
    /// Since when `Defragment`, or the compaction, has been under way; none: it is not sent.
    pub sent_for: Option<Duration>,
    /// How long it is expected to take.
    pub forecast: Option<Duration>,
}

/// Where that goes.
pub type Tell<'a> = Box<dyn FnMut(Told) + 'a>;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// What Ctrl-C leaves for giving the turn up.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// Ctrl-C and SIGTERM, from when it is made: before that they end the process without a word.
struct Interrupts {
    int: Signal,
    term: Signal,
}

impl Interrupts {
    fn listen() -> Result<Interrupts, Stopped> {
        let listen =
            |kind| signal(kind).map_err(|error| Stopped::Refused(format!("cannot listen for signals: {error}")));
        Ok(Interrupts { int: listen(SignalKind::interrupt())?, term: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }

    /// What comes of `work`, which leaves nothing behind when it is given up.
    async fn or<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Stopped> {
        tokio::select! {
            done = work => Ok(done),
            () = self.next() => Err(Stopped::Interrupted(Left::Nothing)),
        }
    }
}

/// Connects and finds out who answers at the local address, for a command that ends soon.
///
/// # Errors
///
/// When etcd cannot be used.
pub async fn connect(config: &Config) -> Result<(Arc<Cluster>, Identity), Stopped> {
    let cluster = Arc::new(clients(config)?);
    let identity = cluster.identify().await?;
    Ok((cluster, identity))
}

/// The connections of one command. Nobody is connected to yet.
///
/// # Errors
///
/// When files of the connection cannot be read.
pub fn clients(config: &Config) -> Result<Cluster, Error> {
    let calls =
        Calls::new().map_err(|error| Error::new(Class::Local, "start", &config.etcd.endpoint, error.to_string()))?;
    Cluster::new(&config.etcd, calls)
}

/// A round of kind `manual`, due now.
///
/// # Errors
///
/// When etcd cannot be used, or on Ctrl-C or SIGTERM.
pub async fn defrag(config: &Config, mut tell: Tell<'_>) -> Result<(Outcome, String), Stopped> {
    let clock = Clock::new();
    let mut interrupts = Interrupts::listen()?;
    let (cluster, identity) = interrupts.or(connect(config)).await??;
    let history = interrupts.or(etcd::history(&cluster, config.history.limit)).await?.unwrap_or_default();
    let rounds = policy::rounds(config, recorded(identity.member, &history));
    let me = Me {
        member: identity.member,
        name: identity.name.clone(),
        instance: uuid::Uuid::new_v4().simple().to_string(),
        holder: format!("cli@{}", std::env::var("HOSTNAME").unwrap_or_else(|_| identity.name.clone())),
    };
    let metrics = Metrics::new().map_err(|error| Stopped::Unreachable(error.to_string()))?;
    let hands = Hands {
        cluster,
        clock,
        me: me.clone(),
        history_limit: config.history.limit,
        quota: config.alarms.quota,
        data_dir: config.defrag.data_dir.clone(),
        metrics: Arc::new(metrics),
    };
    let mut janitor = Janitor::new(me, rounds);
    let round = RoundId { kind: RoundKind::Manual, due: clock.now().wall.trunc_subsecs(0) };
    let mut work: JoinSet<(Ticket, Answer)> = JoinSet::new();
    let mut event = Event::Due { round, jitter: Duration::ZERO };
    let mut leave_by = None;
    let mut progress = Progress::default();
    let mut sent_at = None;
    loop {
        if let Event::Answered { answer: Answer::Looked(look), .. } = &event {
            look_at(&mut progress, look, identity.member, &history);
        }
        for step in janitor.on(event, clock.now()) {
            match step {
                Step::Do { ticket, action } => {
                    let hands = hands.clone();
                    work.spawn(async move { (ticket, hands.carry_out(action).await) });
                }
                Step::Say(say) => tell(Told::Said(say.text)),
                // Who was interrupted while it rested after its defrag has its outcome.
                Step::Ended(ended) if leave_by.is_none() || !matches!(ended.outcome, Outcome::Skipped(_)) => {
                    tell(Told::Said(format!("{} {}", ended.outcome, ended.detail).trim_end().to_owned()));
                    return Ok((ended.outcome, ended.detail));
                }
                Step::Ended(_) => return Err(Stopped::Interrupted(Left::Nothing)),
                Step::Adopted(record) => tell(Told::Said(format!("settled an open intent: {}", record.detail))),
                Step::TurnLost => tell(Told::Said("the turn was lost".to_owned())),
                Step::Drain(_) | Step::TurnReached(_) | Step::RescueOver => {}
            }
        }
        if let Some(round) = janitor.round() {
            progress.phase = round.phase();
            progress.waiting_for = round.blocked().map(ToString::to_string);
        }
        if janitor.is_sent() {
            let sent_at = *sent_at.get_or_insert_with(|| clock.mono());
            progress.sent_for = Some(clock.mono().since(sent_at));
        } else {
            (sent_at, progress.sent_for) = (None, None);
        }
        tell(Told::At(progress.clone()));
        let at = janitor.wake_at().unwrap_or_else(|| clock.mono() + Duration::from_secs(1));
        let due = leave_by.map_or(at, |by| at.min(by));
        let tick = tokio::time::Instant::from_std(clock.instant(due.min(clock.mono() + TELL_EVERY)));
        event = tokio::select! {
            Some(Ok((ticket, answer))) = work.join_next(), if !work.is_empty() => Event::Answered { ticket, answer },
            () = interrupts.next() => {
                if janitor.is_sent() {
                    return Err(Stopped::Interrupted(Left::Defrag));
                }
                leave_by.get_or_insert(clock.mono() + LEAVE_WITHIN);
                Event::Quiesce
            }
            () = tokio::time::sleep_until(tick) => Event::Tick,
        };
        if leave_by.is_some_and(|by| clock.mono() >= by) {
            return Err(Stopped::Interrupted(if janitor.is_sent() { Left::Defrag } else { Left::Place }));
        }
    }
}

/// What a look tells of the queue and of how long it will take.
fn look_at(progress: &mut Progress, look: &Look, me: MemberId, history: &[RoundRecord]) {
    if let Ok(records) = &look.records {
        let holder = |place: &Place| place.value.as_ref().map(|turn| turn.holder.clone()).unwrap_or_default();
        progress.queue = records.turns.iter().map(holder).collect();
    }
    if let Some(Ok(status)) = look.member(me).map(|member| &member.status) {
        let expected = forecast(status.db_size_in_use, recorded(me, history), measured_by_etcd(me, look));
        progress.forecast = Some(expected.duration);
    }
}

/// A compaction, due now. What is older than the retention is known only from the window that a daemon stored.
///
/// # Errors
///
/// When etcd cannot be used, or on Ctrl-C or SIGTERM.
pub async fn compact(config: &Config, mut tell: Tell<'_>) -> Result<(Outcome, String), Stopped> {
    let clock = Clock::new();
    let mut interrupts = Interrupts::listen()?;
    let (cluster, identity) = interrupts.or(connect(config)).await??;
    let mut compactor = Compactor::new(identity.member, policy::compactions(config), clock.mono());
    let mut step = compactor.due();
    let mut sent: Option<(i64, Mono)> = None;
    loop {
        let now = clock.mono();
        let wanted = match step.take() {
            Some(CompactionStep::Ended { outcome, detail, .. }) => {
                tell(Told::Said(format!("{outcome} {detail}").trim_end().to_owned()));
                return Ok((outcome, detail));
            }
            None if config.dry_run => {
                let detail = would_wait(&compactor, now);
                let outcome = Outcome::Skipped(Reason::DryRun);
                tell(Told::Said(format!("{outcome} {detail}")));
                return Ok((outcome, detail));
            }
            wanted => wanted,
        };
        if let Some(CompactionStep::Compact(revision)) = wanted {
            tell(Told::Said(format!("compacts to revision {revision}")));
            sent = Some((revision, now));
        }
        let mut work = std::pin::pin!(carry_out(config, &cluster, &clock, wanted, compactor.wake_at()));
        let done = loop {
            let now = clock.mono();
            tell(Told::At(compacting(&compactor, sent, now)));
            let tick = tokio::time::Instant::from_std(clock.instant(now + TELL_EVERY));
            tokio::select! {
                done = &mut work => break done,
                () = interrupts.next() => {
                    let left = sent.map_or(Left::Nothing, |(revision, _)| Left::Compaction(revision));
                    return Err(Stopped::Interrupted(left));
                }
                () = tokio::time::sleep_until(tick) => {}
            }
        };
        step = match done {
            Did::Surveyed(survey) => {
                let step = compactor.surveyed(survey, clock.now());
                if step.is_none() && !config.dry_run {
                    tell(Told::Said("another member leads: its janitor compacts first; waits for it".to_owned()));
                }
                step
            }
            Did::Traced(revision, trace) => compactor.traced(revision, trace),
            Did::Compacted(result) => compactor.compacted(result, clock.mono()),
            Did::Stored(result) => {
                if let Err(error) = result {
                    tell(Told::Said(format!("the window could not be stored: {error}")));
                }
                compactor.stored()
            }
            Did::Waited => compactor.tick(clock.mono()),
        };
    }
}

/// What came of one step of a compaction.
enum Did {
    Surveyed(Result<Survey, Blocked>),
    Traced(i64, Result<Trace, Blocked>),
    Compacted(Result<String, Blocked>),
    Stored(Result<(), Error>),
    Waited,
}

/// Carries one step out; none: waits until `wake_at`.
async fn carry_out(
    config: &Config,
    cluster: &Cluster,
    clock: &Clock,
    step: Option<CompactionStep>,
    wake_at: Option<Mono>,
) -> Did {
    match step {
        Some(CompactionStep::Survey) => {
            Did::Surveyed(etcd::survey(cluster, clock).await.map_err(|error| error.blocked()))
        }
        Some(CompactionStep::Trace(revision)) => {
            Did::Traced(revision, etcd::trace(cluster, revision).await.map_err(|error| error.blocked()))
        }
        Some(CompactionStep::Compact(revision)) => {
            let result = etcd::compact(cluster, revision, config.compaction.physical).await;
            let told = result.map(|compacted| compacted.told(revision));
            Did::Compacted(told.map_err(|error| error.blocked()))
        }
        Some(CompactionStep::Store(window)) => Did::Stored(etcd::store_window(cluster, &window).await),
        Some(CompactionStep::Ended { .. }) | None => {
            let at = wake_at.unwrap_or_else(|| clock.mono());
            tokio::time::sleep_until(tokio::time::Instant::from_std(clock.instant(at))).await;
            Did::Waited
        }
    }
}

/// A follower's turn comes after the leader's, which a dry run does not wait for.
fn would_wait(compactor: &Compactor, now: Mono) -> String {
    let Some((target, until)) = compactor.waits() else { return String::new() };
    let seconds = until.since(now).as_secs_f64();
    format!(
        "another member leads: if its janitor has not compacted in {seconds:.0} s, would compact to revision {target}"
    )
}

fn compacting(compactor: &Compactor, sent: Option<(i64, Mono)>, now: Mono) -> Progress {
    Progress {
        phase: compactor.phase(),
        waiting_for: compactor.wake_at().map(|at| format!("{:.0} s more", at.since(now).as_secs_f64())),
        revision: sent.map(|(revision, _)| revision),
        sent_for: sent.map(|(_, since)| now.since(since)),
        ..Progress::default()
    }
}
