//! Alarms and hashes.

use etcd_client::{AlarmAction, AlarmOptions, AlarmType};
use futures_util::future::join_all;

use super::cluster::Cluster;
use super::connection::Connection;
use super::error::Error;
use super::rights::try_key;
use crate::plan::member::MemberId;
use crate::plan::reason::{Blocked, Reason};
use crate::plan::step::Hashes;

/// Clears NOSPACE of these members, each by its id: with id 0 etcd answers OK and clears nothing.
///
/// Only NOSPACE: `etcdctl alarm disarm` would clear CORRUPT too.
pub async fn disarm(cluster: &Cluster, members: &[MemberId]) -> Result<(), Blocked> {
    let connection = cluster
        .through_others()
        .await
        .into_iter()
        .next()
        .ok_or_else(|| Blocked::new(Reason::EtcdUnavailable, "no connection"))?;
    for member in members {
        nospace(cluster, &connection, AlarmAction::Deactivate, *member).await?;
    }
    Ok(())
}

async fn nospace(
    cluster: &Cluster,
    connection: &Connection,
    action: AlarmAction,
    member: MemberId,
) -> Result<(), Blocked> {
    let mut options = AlarmOptions::new();
    options.with_member(member.0);
    let called = connection
        .call("Alarm", cluster.etcd().request_timeout, |mut client| {
            let options = options.clone();
            async move { client.alarm(action, AlarmType::Nospace, Some(options)).await }
        })
        .await;
    called.map(|_| ()).map_err(|error| error.blocked())
}

/// Raises NOSPACE, which is up, in the name of one more member: the one write that etcd always takes under NOSPACE. With
/// its next write a member counts the pages that a compaction freed as free (up to 3.5.1 not before: measured, 59 MiB in
/// use of 64 became 0); 3.5.30 was met once where it took two.
pub async fn refresh(cluster: &Cluster, raise: MemberId, clear_first: bool) -> Result<(), Blocked> {
    let connection = cluster.local().await.map_err(|error| error.blocked())?;
    if clear_first {
        nospace(cluster, &connection, AlarmAction::Deactivate, raise).await?;
    }
    nospace(cluster, &connection, AlarmAction::Activate, raise).await
}

/// Writes a key under the prefix and deletes it again: etcd takes writes.
pub async fn prove(cluster: &Cluster) -> Result<(), Blocked> {
    try_key(cluster).await.map_err(|error| error.blocked())
}

/// How often hashes are compared before a difference in what was compacted is given up on.
const HASH_ATTEMPTS: usize = 5;

/// HashKV of all voters at one revision that each of them has. Hashes are comparable only when the members had
/// compacted up to the same revision, so a compaction in between makes it start over.
pub async fn compare_hashes(cluster: &Cluster) -> Result<Hashes, Blocked> {
    let voters: Vec<_> = cluster.listed().into_iter().filter(|member| !member.learner).collect();
    for _ in 0..HASH_ATTEMPTS {
        let deadline = cluster.etcd().request_timeout;
        let revision = cluster
            .local()
            .await
            .map_err(|error| error.blocked())?
            .status(deadline)
            .await
            .map_err(|error| error.blocked())?
            .2
            .revision;
        let hashes = join_all(voters.iter().map(|member| async move {
            let connection = cluster.member(member).await?;
            // Reads the whole keyspace: it may take as long as a defrag.
            let answer = connection
                .call("HashKV", deadline * 12, |mut client| async move { client.hash_kv(revision).await })
                .await?;
            Ok::<_, Error>((member.name.clone(), answer.hash(), answer.compact_version()))
        }))
        .await
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.blocked())?;
        let Some((_, hash, compacted)) = hashes.first() else { break };
        if hashes.iter().any(|(_, _, other)| other != compacted) {
            continue;
        }
        if hashes.iter().all(|(_, other, _)| other == hash) {
            return Ok(Hashes::Equal);
        }
        let shown: Vec<String> = hashes.iter().map(|(name, hash, _)| format!("{name} {hash}")).collect();
        return Ok(Hashes::Differ(format!("at revision {revision}: {}", shown.join(", "))));
    }
    Err(Blocked::new(Reason::EtcdUnavailable, "the members were compacted differently while they were compared"))
}
