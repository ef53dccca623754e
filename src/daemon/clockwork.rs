//! Tells when a task is due. The scheduler crate is the clockwork, [`Schedule`] the calendar.
//!
//! The scheduler folds a zone to a fixed offset, reads no five-field expressions and computes with an older calendar.
//! It asks its storage twice a second what is due, though, and the storage is ours: it answers from the real
//! schedules, so none of this matters. What a job then sends is the exact due instant, the same on every janitor.
//! And it answers no sooner than something is nearly due: asking twice a second all year cost more than all else that an
//! idle janitor does.
//!
//! Must not decide anything about a round: missed firings from before the start are the daemon's to catch up.
//!
//! Its one danger: the wall clock. When it jumps ahead, only the newest missed instant fires; when it is set back,
//! nothing fires twice, yet a clock that was wrong by a year does not silence the schedule for a year. A jump is noticed
//! when somebody calls [`Clockwork::look`].
//!
//! Logs of the scheduler come from the target `tokio_cron_scheduler`; at `info` and below they say nothing useful.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::{Notify, mpsc};
use tokio_cron_scheduler::{
    Job, JobScheduler, JobSchedulerError, SimpleJobCode, SimpleNotificationCode, SimpleNotificationStore,
};

use crate::plan::schedule::Schedule;
use crate::plan::snapshot::TaskKind;

mod hand;
mod store;

use hand::Hand;
use store::Store;

/// Between the parts of the scheduler; two jobs never fill it.
const CHANNEL: usize = 64;

/// Six fields, as the scheduler wants them; never looked at again.
const PLACEHOLDER: &str = "0 0 0 1 1 *";

/// No instant.
const NOTHING: i64 = i64::MIN;

/// A task is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Firing {
    /// Which one.
    pub task: TaskKind,
    /// When it was due, to the second: the instant the schedule names, not the one at which this was noticed.
    pub due: DateTime<Utc>,
}

/// The clockwork could not be started.
#[derive(Debug, thiserror::Error)]
#[error("the scheduler cannot be started: {0}")]
pub struct NotStarted(#[from] JobSchedulerError);

/// One hand of the clock.
struct Task {
    hand: Mutex<Hand>,
    /// The due instant that waits to be sent, in seconds since 1970. Kept until the receiver has room for it, so a
    /// firing is late rather than lost; a newer one takes its place.
    pending: AtomicI64,
}

/// Both hands, shared with the scheduler's storage and jobs.
struct Dial {
    compaction: Task,
    defrag: Task,
    stopped: AtomicBool,
    /// The clock or a schedule may have changed.
    look: Notify,
}

impl Dial {
    fn task(&self, task: TaskKind) -> &Task {
        match task {
            TaskKind::Compaction => &self.compaction,
            TaskKind::Defrag => &self.defrag,
        }
    }

    /// What the scheduler is to compare with its clock: the waiting instant, or the next one.
    fn next(&self, task: TaskKind, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if self.stopped.load(Ordering::Acquire) {
            return None;
        }
        let task = self.task(task);
        let mut hand = task.hand();
        if let Some(due) = hand.due(now) {
            task.pending.store(due.timestamp(), Ordering::Release);
        }
        task.awaited(&hand)
    }

    /// Returns when something is nearly due, or when somebody wants the clock looked at.
    async fn rest(&self, now: DateTime<Utc>) {
        let awaited = |task| {
            let task = self.task(task);
            task.awaited(&task.hand())
        };
        let rest = match TaskKind::ALL.into_iter().filter_map(awaited).min() {
            Some(next) => (next - NEAR - now).to_std().unwrap_or_default(),
            None => Duration::MAX,
        };
        if !rest.is_zero() {
            let _looked_or_near = tokio::time::timeout(rest, self.look.notified()).await;
        }
    }

    /// Sends what waits. Runs inside the scheduler, where a panic would silence the job for good.
    fn fire(&self, task: TaskKind, tx: &mpsc::Sender<Firing>) {
        let pending = &self.task(task).pending;
        let seconds = pending.swap(NOTHING, Ordering::AcqRel);
        if seconds == NOTHING || self.stopped.load(Ordering::Acquire) {
            return;
        }
        let Some(due) = DateTime::from_timestamp(seconds, 0) else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = tx.try_send(Firing { task, due }) {
            // Tried again at the next tick, unless a newer instant came due meanwhile.
            let _newer = pending.compare_exchange(NOTHING, seconds, Ordering::AcqRel, Ordering::Acquire);
        }
    }
}

impl Task {
    fn new() -> Task {
        Task { hand: Mutex::new(Hand::default()), pending: AtomicI64::new(NOTHING) }
    }

    fn hand(&self) -> MutexGuard<'_, Hand> {
        // A hand is whole after every step, so a poisoned lock means nothing.
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The waiting instant, or the next one.
    fn awaited(&self, hand: &Hand) -> Option<DateTime<Utc>> {
        match self.pending.load(Ordering::Acquire) {
            NOTHING => hand.next(),
            pending => DateTime::from_timestamp(pending, 0),
        }
    }
}

/// The running clock. Once it is dropped nothing is sent any more; only [`Clockwork::shutdown`] also ends its ticking.
pub struct Clockwork {
    dial: Arc<Dial>,
    scheduler: JobScheduler,
}

impl std::fmt::Debug for Clockwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clockwork").finish_non_exhaustive()
    }
}

impl Clockwork {
    /// Starts with no schedule. Firings go to `tx`, each once, at most half a second late while there is room. Give it
    /// room for two: in a single place a busy compaction schedule could keep the defrag waiting.
    ///
    /// # Errors
    ///
    /// The scheduler does not start; nothing can ever be due then.
    pub async fn start(tx: mpsc::Sender<Firing>) -> Result<Clockwork, NotStarted> {
        let dial = Arc::new(Dial {
            compaction: Task::new(),
            defrag: Task::new(),
            stopped: AtomicBool::new(false),
            look: Notify::new(),
        });
        let store = Store::new(dial.clone());
        let jobs = store.jobs();
        let scheduler = JobScheduler::new_with_storage_and_code(
            Box::new(store),
            Box::new(SimpleNotificationStore::default()),
            Box::new(SimpleJobCode::default()),
            Box::new(SimpleNotificationCode::default()),
            CHANNEL,
        )
        .await?;
        // Both jobs stay for good: changing a schedule moves the hand only, which no message to an actor can lose.
        for task in TaskKind::ALL {
            let (dial, tx) = (dial.clone(), tx.clone());
            let job = Job::new(PLACEHOLDER, move |_, _| dial.fire(task, &tx))?;
            jobs.register(job.guid(), task);
            scheduler.add(job).await?;
        }
        scheduler.start().await?;
        Ok(Clockwork { dial, scheduler })
    }

    /// Gives a task its schedule, or none. The same schedule again changes nothing; another one counts from now on,
    /// and an instant that is due but not sent yet is dropped with the schedule that named it.
    pub fn set(&self, task: TaskKind, schedule: Option<Schedule>) {
        let task = self.dial.task(task);
        let mut hand = task.hand();
        #[expect(clippy::disallowed_methods, reason = "the clockwork lives by the wall clock")]
        let now = Utc::now();
        if hand.set(schedule, now) {
            task.pending.store(NOTHING, Ordering::Release);
            self.look();
        }
    }

    /// Looks at the wall clock within half a second. To be called every few seconds: in between a jump is not noticed, and
    /// over weeks the two clocks drift apart.
    pub fn look(&self) {
        self.dial.look.notify_one();
    }

    /// When the task is due next; none without a schedule.
    pub fn next(&self, task: TaskKind) -> Option<DateTime<Utc>> {
        self.dial.task(task).hand().next()
    }

    /// Stops. Nothing is sent after this has been called, whatever the scheduler still has under way.
    pub async fn shutdown(mut self) {
        self.dial.stopped.store(true, Ordering::Release);
        if let Err(error) = self.scheduler.shutdown().await {
            tracing::debug!(%error, "the scheduler did not stop in order");
        }
        // Only then does it see that it is to end.
        self.look();
    }
}

impl Drop for Clockwork {
    fn drop(&mut self) {
        self.dial.stopped.store(true, Ordering::Release);
    }
}

/// So long before an instant the scheduler asks twice a second: more than two of its ticks, for it compares what it is
/// told with the clock as it was when it asked.
const NEAR: TimeDelta = TimeDelta::milliseconds(1500);

/// The tick at which the clock counts as set back: smaller corrections happen all the time and change nothing.
const SLACK: TimeDelta = TimeDelta::seconds(1);

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn dial(expression: &str, now: DateTime<Utc>) -> Dial {
        let (compaction, defrag) = (Task::new(), Task::new());
        let schedule = Schedule::parse(expression, crate::plan::zone::Zone::UTC).unwrap();
        assert!(defrag.hand().set(Some(schedule), now));
        Dial { compaction, defrag, stopped: AtomicBool::new(false), look: Notify::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn rests_until_an_instant_is_near_and_not_with_one_that_waits() {
        let now = utc("2026-11-29T10:30:00Z");
        let dial = dial("0 * * * *", now);
        let began = Instant::now();
        dial.rest(now).await;
        assert_eq!(began.elapsed().as_secs(), 30 * 60 - 2, "{:?}", began.elapsed());
        let near = utc("2026-11-29T10:59:58.500Z");
        let began = Instant::now();
        dial.rest(near).await;
        assert_eq!(
            (began.elapsed(), dial.next(TaskKind::Defrag, near)),
            (Duration::ZERO, Some(utc("2026-11-29T11:00:00Z")))
        );
        // Due, and no room for it in the channel.
        let due = utc("2026-11-29T11:00:00.200Z");
        let waiting = dial.next(TaskKind::Defrag, due);
        dial.rest(due).await;
        assert_eq!((began.elapsed(), waiting), (Duration::ZERO, Some(utc("2026-11-29T11:00:00Z"))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_ends_the_rest_also_one_that_came_before_it() {
        let now = utc("2026-11-29T10:30:00Z");
        let dial = dial("0 0 1 1 *", now);
        let began = Instant::now();
        dial.look.notify_one();
        dial.rest(now).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        let look = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            dial.look.notify_one();
        };
        tokio::join!(dial.rest(now), look);
        assert_eq!(began.elapsed().as_secs(), 5);
        dial.defrag.hand().set(None, now);
        let nothing_due = tokio::time::timeout(Duration::from_secs(9 * 365 * 86400), dial.rest(now)).await;
        assert!(nothing_due.is_err());
    }
}
