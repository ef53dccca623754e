//! Making a database large, and most of it worth nothing.

use std::time::Duration;

use etcd_client::{Client, CompactionOptions, PutOptions};
use tokio::task::JoinSet;

use super::cluster::Cluster;
use super::eventually;

const VALUE_BYTES: usize = 64 * 1024;
const KEYS: u64 = 8;
const WORKERS: u64 = 8;

/// Writes `mib` MiB of versions of few keys through the leader. After a
/// compaction and a defrag nearly all of it is gone. Returns the revision.
pub async fn garbage(cluster: &Cluster, mib: u64) -> i64 {
    fill(cluster, mib, |version| format!("garbage/{}", version % KEYS)).await
}

/// Writes `mib` MiB that stay in use.
pub async fn ballast(cluster: &Cluster, mib: u64) {
    fill(cluster, mib, |number| format!("ballast/{number}")).await;
}

/// Garbage that is compacted: pages that a defrag gives back, and every member
/// shows them as free.
pub async fn free_pages(cluster: &Cluster, mib: u64) {
    let revision = garbage(cluster, mib).await;
    compact_everywhere(cluster, revision, mib).await;
}

/// Compacts to a revision, and returns when every member shows nine tenths of
/// `mib` MiB as free.
pub async fn compact_everywhere(cluster: &Cluster, revision: i64, mib: u64) {
    compact(cluster, revision).await;
    let client = cluster.client(cluster.leader().await).await;
    // In use is known anew with the next commits only.
    eventually("free pages on every member", Duration::from_secs(60), || {
        let mut client = client.clone();
        async move {
            client.put("free pages", "", None::<PutOptions>).await.expect("a healthy cluster takes writes");
            for index in cluster.voters() {
                let sizes = cluster.member(index).metrics().await?;
                // The two figures are of two instants.
                if sizes.db_size.saturating_sub(sizes.db_in_use) < (mib << 20) * 9 / 10 {
                    return None;
                }
            }
            Some(())
        }
    })
    .await;
}

async fn fill(cluster: &Cluster, mib: u64, key: fn(u64) -> String) -> i64 {
    let client = cluster.client(cluster.leader().await).await;
    let versions = mib * 1024 * 1024 / VALUE_BYTES as u64;
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let mut client = client.clone();
        workers.spawn(async move {
            let mut revision = 0;
            for version in (worker..versions).step_by(WORKERS as usize) {
                let answer = put(&mut client, key(version)).await;
                let answer = answer.unwrap_or_else(|error| panic!("a put is refused: {error}"));
                revision = answer.max(revision);
            }
            revision
        });
    }
    workers.join_all().await.into_iter().max().unwrap_or_default()
}

/// Writes garbage until every member's file has this share of its quota, and
/// not much more. Returns the last revision.
pub async fn fill_to_share(cluster: &Cluster, share: f64) -> i64 {
    let quota = cluster.spec().quota_bytes.expect("a quota to fill");
    for _ in 0..=quota >> 20 {
        let revision = garbage(cluster, 1).await;
        let mut smallest = u64::MAX;
        for index in cluster.voters() {
            smallest = smallest.min(cluster.member(index).metrics().await.expect("an answer").db_size);
        }
        if smallest as f64 >= share * quota as f64 {
            return revision;
        }
    }
    panic!("{share} of the quota of {quota} bytes is never reached");
}

/// Writes until etcd refuses for want of space, which raises NOSPACE. The spec
/// needs a small `quota_bytes`. Returns the last revision that was accepted.
pub async fn fill_to_quota(cluster: &Cluster) -> i64 {
    let quota = cluster.spec().quota_bytes.expect("a quota to fill");
    let mut client = cluster.client(cluster.leader().await).await;
    let mut revision = 0;
    // Twice the quota, because etcd's own file grows by its own steps; a
    // cluster that takes more than that has no quota.
    for version in 0..2 * quota / VALUE_BYTES as u64 + 16 {
        match put(&mut client, format!("garbage/{}", version % KEYS)).await {
            Ok(accepted) => revision = accepted,
            Err(error) if error.to_string().contains("database space exceeded") => return revision,
            Err(error) => panic!("a put fails otherwise than for want of space: {error}"),
        }
    }
    panic!("the quota of {quota} bytes is never reached");
}

async fn put(client: &mut Client, key: String) -> Result<i64, etcd_client::Error> {
    let value = vec![b'x'; VALUE_BYTES];
    let answer = client.put(key, value, None::<PutOptions>).await?;
    Ok(answer.header().map(|header| header.revision()).unwrap_or_default())
}

/// Compacts to a revision; every voter that answers has freed the pages when this
/// returns. The leader's answer alone does not say so: the others go on.
pub async fn compact(cluster: &Cluster, revision: i64) {
    let mut before = Vec::new();
    for index in cluster.voters() {
        if let Some(metrics) = cluster.member(index).metrics().await {
            before.push((index, metrics.compactions));
        }
    }
    let mut client = cluster.client(cluster.leader().await).await;
    let options = CompactionOptions::new().with_physical();
    client
        .compact(revision, Some(options))
        .await
        .unwrap_or_else(|error| panic!("compaction to {revision} fails: {error}"));
    for (index, compactions) in before {
        eventually("the member has compacted", Duration::from_secs(60), || async {
            let metrics = cluster.member(index).metrics().await?;
            (metrics.compactions > compactions).then_some(())
        })
        .await;
    }
}
