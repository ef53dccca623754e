//! The scheduler's storage: keeps its jobs as it wants them, and answers what is due from the dial.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use tokio_cron_scheduler::job::job_data::{JobAndNextTick, JobStoredData, JobType};
use tokio_cron_scheduler::store::{DataStore, InitStore};
use tokio_cron_scheduler::{JobSchedulerError, MetaDataStorage, SimpleMetadataStore};
use uuid::Uuid;

use super::Dial;
use crate::plan::snapshot::TaskKind;

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, JobSchedulerError>> + Send>>;

/// Which job is which task.
#[derive(Clone, Default)]
pub(super) struct Jobs(Arc<Mutex<Vec<(Uuid, TaskKind)>>>);

impl Jobs {
    /// Must come before the job is added: the scheduler deletes a job whose next tick it is told to be none.
    pub(super) fn register(&self, id: Uuid, task: TaskKind) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((id, task));
    }
}

/// The storage.
pub(super) struct Store {
    dial: Arc<Dial>,
    jobs: Jobs,
    inner: SimpleMetadataStore,
}

impl Store {
    pub(super) fn new(dial: Arc<Dial>) -> Store {
        Store { dial, jobs: Jobs::default(), inner: SimpleMetadataStore::default() }
    }

    pub(super) fn jobs(&self) -> Jobs {
        self.jobs.clone()
    }
}

impl DataStore<JobStoredData> for Store {
    fn get(&mut self, id: Uuid) -> Answer<Option<JobStoredData>> {
        self.inner.get(id)
    }

    fn add_or_update(&mut self, data: JobStoredData) -> Answer<()> {
        self.inner.add_or_update(data)
    }

    fn delete(&mut self, id: Uuid) -> Answer<()> {
        self.inner.delete(id)
    }
}

impl InitStore for Store {
    fn init(&mut self) -> Answer<()> {
        self.inner.init()
    }

    fn inited(&mut self) -> Answer<bool> {
        self.inner.inited()
    }
}

impl MetaDataStorage for Store {
    /// Asked at every tick; the scheduler's loop waits for the answer. So does whoever wants this storage meanwhile: once
    /// both jobs are there that is only the note of a firing, below, which nobody waits for.
    ///
    /// A job without a next instant is left out; told 0, the scheduler would delete it. The last tick is never told: the
    /// scheduler compares it with the next one, which goes wrong when the clock was set back.
    fn list_next_ticks(&mut self) -> Answer<Vec<JobAndNextTick>> {
        let (dial, jobs) = (self.dial.clone(), self.jobs.clone());
        Box::pin(async move {
            dial.rest(now()).await;
            let now = now();
            let tick = |(id, task): &(Uuid, TaskKind)| {
                let next_tick = u64::try_from(dial.next(*task, now)?.timestamp()).ok().filter(|tick| *tick > 0)?;
                let id = Some((*id).into());
                Some(JobAndNextTick { id, job_type: JobType::Cron as i32, next_tick, last_tick: None })
            };
            let jobs = jobs.0.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(jobs.iter().filter_map(tick).collect())
        })
    }

    /// What the scheduler computed with its own calendar and offset: of no interest.
    fn set_next_and_last_tick(
        &mut self,
        _id: Uuid,
        _next: Option<DateTime<Utc>>,
        _last: Option<DateTime<Utc>>,
    ) -> Answer<()> {
        Box::pin(ready(Ok(())))
    }

    /// Nobody asks.
    fn time_till_next_job(&mut self) -> Answer<Option<std::time::Duration>> {
        Box::pin(ready(Ok(None)))
    }
}

#[expect(clippy::disallowed_methods, reason = "the clockwork lives by the wall clock")]
fn now() -> DateTime<Utc> {
    Utc::now()
}
