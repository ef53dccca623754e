//! Compaction, and what is read before one.

use std::time::Duration;

use chrono::{DateTime, Utc};
use etcd_client::{CompactionOptions, GetOptions};
use futures_util::future::join_all;

use super::clock::Clock;
use super::cluster::{Cluster, Listed, READ_DEADLINE};
use super::connection::Connection;
use super::error::{Class, Error};
use super::records::stored;
use crate::plan::cluster::{AlarmKind, Stored};
use crate::plan::hold::no_hold;
use crate::plan::record::{Hold, Keys, WindowRecord, read, write};
use crate::plan::retention::ClusterTime;

pub use crate::plan::compaction::{Survey, Trace};

/// A kube-apiserver writes this key with every compaction of its own.
const KUBERNETES_KEY: &str = "compact_rev_key";
/// A physical compaction takes about twelve seconds per million revisions.
const PHYSICAL_DEADLINE: Duration = Duration::from_secs(600);
/// Between the two steps: the members carry the first one out meanwhile, busy ones too.
const BETWEEN_STEPS: Duration = Duration::from_secs(2);

/// Between a compaction and the record of it: five of etcd's usual batch intervals, so that the record is in a commit of
/// its own.
const BEFORE_WINDOW: Duration = Duration::from_millis(500);

/// Most windows that are read to bear one out. Between the compacted revision and the next one to compact to there is
/// one for each compaction of that time: a few, and as many as were missed when no janitor ran. These are three days of
/// one in five minutes, and some seconds of reading.
const TRACED: usize = 1024;

/// How a compaction went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compacted {
    /// Carried out.
    Done,
    /// Somebody had done it: the goal is met.
    Already,
    /// Accepted; the member still frees pages.
    StillFreeing,
}

impl Compacted {
    /// How the compaction to `revision` went, in words.
    pub fn told(self, revision: i64) -> String {
        match self {
            Compacted::Done => format!("compacted to revision {revision}"),
            Compacted::Already => format!("revision {revision} had been compacted by somebody else"),
            Compacted::StillFreeing => format!("compacted to revision {revision}; pages are still being freed"),
        }
    }
}

/// Reads what a compaction is decided by.
pub async fn survey(cluster: &Cluster, clock: &Clock) -> Result<Survey, Error> {
    let connection = cluster.local().await?;
    let (member, _, status) = connection.status(cluster.etcd().request_timeout).await?;
    if cluster.local_id() != Some(member) {
        let text = format!("answers for {member}, not for the member found at start");
        return Err(Error::new(Class::WrongMember, "Status", connection.url(), text));
    }
    let keys = Keys::new(&cluster.etcd().prefix);
    // Never as one read-only transaction: see records::read_records.
    let get = |key: String, options: GetOptions| {
        connection.call("Range", cluster.etcd().request_timeout, move |mut client| {
            let (key, options) = (key.clone(), options.clone());
            async move { client.get(key, Some(options)).await }
        })
    };
    let (window, hold, kubernetes) = tokio::try_join!(
        get(keys.window(), GetOptions::new()),
        get(keys.hold(), GetOptions::new()),
        is_kubernetes(&connection, cluster.etcd().request_timeout)
    )?;
    let window = window.kvs().first().and_then(|kv| read::<WindowRecord>(kv.value()).ok());
    let hold: Option<Stored<Hold>> = hold.kvs().first().map(stored);
    let hold = no_hold(hold.as_ref(), clock.now().wall).err().map(|blocked| blocked.detail);
    let base = cluster.etcd().metrics.local.clone().unwrap_or_else(|| cluster.etcd().endpoint.clone());
    let page = cluster.pages().metrics(&base, cluster.etcd().request_timeout).await.ok();
    let mut voters: Vec<_> = cluster.listed().iter().filter(|member| !member.learner).map(|member| member.id).collect();
    voters.sort_unstable();
    Ok(Survey {
        leader: status.leader,
        voters,
        learner: status.learner,
        corrupt: status.alarms.iter().any(|alarm| alarm.kind == AlarmKind::Corrupt),
        revision: status.revision,
        compact_revision: page.and_then(|(page, _)| page.scrape.compact_revision),
        kubernetes,
        window,
        hold,
        cluster_time: cluster_time(cluster, clock).await,
    })
}

/// Whether a kube-apiserver keeps its keys here.
pub(super) async fn is_kubernetes(connection: &Connection, deadline: Duration) -> Result<bool, Error> {
    let get = |mut client: etcd_client::Client| async move {
        client.get(KUBERNETES_KEY, Some(GetOptions::new().with_keys_only())).await
    };
    let found = connection.call("Range", deadline, get).await.map_err(|mut error| {
        if error.class == Class::Auth {
            error.text.push_str("; the user's role needs to read compact_rev_key, which a kube-apiserver has here");
        }
        error
    })?;
    Ok(!found.kvs().is_empty())
}

async fn cluster_time(cluster: &Cluster, clock: &Clock) -> Option<ClusterTime> {
    let asked = clock.mono();
    let clocks = member_clocks(cluster).await;
    let voters = cluster.listed().iter().filter(|member| !member.learner).count();
    let dates = clocks.into_iter().filter(|(member, _)| !member.learner).map(|(_, date)| date).collect();
    ClusterTime::median(asked, dates, voters)
}

/// The clocks of the members that answer, in whole seconds, from the `Date` header of a page that needs no credentials.
pub async fn member_clocks(cluster: &Cluster) -> Vec<(Listed, DateTime<Utc>)> {
    let dates = join_all(cluster.listed().into_iter().map(|member| async move {
        let connection = cluster.member(&member).await.ok()?;
        let date = cluster.pages().get(connection.url(), "/version", READ_DEADLINE).await.ok()?.date?;
        Some((member, date))
    }))
    .await;
    dates.into_iter().flatten().collect()
}

/// Median of the members' clocks, for the end of a hold; with an even number the earlier of the middle two.
pub fn median(clocks: &[(Listed, DateTime<Utc>)]) -> Option<DateTime<Utc>> {
    let mut dates: Vec<DateTime<Utc>> = clocks.iter().map(|(_, date)| *date).collect();
    dates.sort_unstable();
    dates.get(dates.len().saturating_sub(1) / 2).copied()
}

/// Which windows were on record up to `revision`: read from the store's history, which nobody changes.
pub async fn trace(cluster: &Cluster, revision: i64) -> Result<Trace, Error> {
    let connection = cluster.local().await?;
    let key = Keys::new(&cluster.etcd().prefix).window();
    let (mut at, mut newest) = (revision, None);
    for _ in 0..TRACED {
        let found = connection
            .call("Range", cluster.etcd().request_timeout, |mut client| {
                let key = key.clone();
                async move { client.get(key, Some(GetOptions::new().with_revision(at))).await }
            })
            .await;
        let found = match found {
            Err(error) if error.class == Class::Compacted => return Ok(newest.map_or(Trace::Broken, Trace::Dated)),
            found => found?,
        };
        let Some(kv) = found.kvs().first() else { break };
        let Ok(window) = read::<WindowRecord>(kv.value()) else { break };
        newest = newest.max(window.samples.iter().map(|sample| sample.at).max());
        at = kv.mod_revision() - 1;
        if at < 1 {
            // To etcd that would be the newest revision.
            break;
        }
    }
    Ok(Trace::Broken)
}

/// Compacts to `revision - 1`, then to `revision`: the second step makes every member commit, which refreshes its
/// dbSizeInUse without a put.
pub async fn compact(cluster: &Cluster, revision: i64, physical: bool) -> Result<Compacted, Error> {
    if revision > 1 {
        step(cluster, revision - 1, physical).await?;
        tokio::time::sleep(BETWEEN_STEPS).await;
    }
    step(cluster, revision, physical).await
}

async fn step(cluster: &Cluster, revision: i64, physical: bool) -> Result<Compacted, Error> {
    let connection = cluster.local().await?;
    let deadline = if physical { PHYSICAL_DEADLINE } else { cluster.etcd().request_timeout };
    let result = connection
        .call("Compact", deadline, |mut client| async move {
            let options = CompactionOptions::new();
            let options = if physical { options.with_physical() } else { options };
            client.compact(revision, Some(options)).await
        })
        .await;
    match result {
        Ok(_) => Ok(Compacted::Done),
        // Another member's janitor, or anybody, got here first: the goal is met.
        Err(error) if error.class == Class::Compacted => Ok(Compacted::Already),
        Err(error) if error.class == Class::DeadlinePassed && physical => Ok(Compacted::StillFreeing),
        Err(error) => Err(error),
    }
}

/// Stores the samples beside a compaction that was sent, for instances that start later.
///
/// It is also one more of the commits that dbSizeInUse wants: a member counts freed pages at a commit at which no reader is
/// left that began before they were freed, and a busy one ends its readers late.
pub async fn store_window(cluster: &Cluster, window: &WindowRecord) -> Result<(), Error> {
    tokio::time::sleep(BEFORE_WINDOW).await;
    let connection = cluster.local().await?;
    let key = Keys::new(&cluster.etcd().prefix).window();
    let value =
        write(window).map_err(|error| Error::new(Class::Refused, "Put", connection.url(), error.to_string()))?;
    connection
        .call("Put", cluster.etcd().request_timeout, |mut client| {
            let (key, value) = (key.clone(), value.clone());
            async move { client.put(key, value, None).await }
        })
        .await?;
    Ok(())
}
