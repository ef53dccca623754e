//! About 300 MiB of versions of keys that are mostly overwritten: what a busy
//! cluster looks like before its first compaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcd_client::{Client, GetOptions, PutOptions};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tokio::task::JoinSet;

use super::screen::Screen;
use super::support::Cluster;

const PREFIX: &str = "demo/";
const VALUE_BYTES: usize = 128 * 1024;
const MIB: usize = 300;
/// Their last versions stay, a tenth of the whole: a defrag has something to copy.
const KEYS: u64 = 256;
const WORKERS: u64 = 8;

/// Every key with the revision and number of its last version.
pub type Data = Vec<(Vec<u8>, i64, i64)>;

/// Writes it and gives the revision at the end.
pub async fn write(screen: &Screen, cluster: &Cluster) -> i64 {
    let client = cluster.client(cluster.leader().await).await;
    let versions = (MIB * 1024 * 1024 / VALUE_BYTES) as u64;
    let written = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        workers.spawn(put(client.clone(), worker, versions, Arc::clone(&written)));
    }
    let mut progress = screen.progress(&format!("writing {MIB} MiB: {versions} versions of {KEYS} keys"));
    let mut revision = 0;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            joined = workers.join_next() => match joined {
                None => break,
                Some(last) => revision = revision.max(last.unwrap_or_else(|error| panic!("a writer is lost: {error}"))),
            },
            _ = ticks.tick() => progress.at(written.load(Ordering::Relaxed), versions),
        }
    }
    progress.at(versions, versions);
    revision
}

async fn put(mut client: Client, worker: u64, versions: u64, written: Arc<AtomicU64>) -> i64 {
    let mut revision = 0;
    // Not one letter over and over: no file system should make it small.
    let mut value = vec![0; VALUE_BYTES];
    StdRng::seed_from_u64(worker).fill_bytes(&mut value);
    for version in (worker..versions).step_by(WORKERS as usize) {
        let key = format!("{PREFIX}{:03}", version % KEYS);
        value[..8].copy_from_slice(&version.to_le_bytes());
        let answer = client.put(key, value.clone(), None::<PutOptions>).await;
        let answer = answer.unwrap_or_else(|error| panic!("etcd refuses a write: {error}"));
        revision = answer.header().map_or(revision, |header| header.revision());
        written.fetch_add(1, Ordering::Relaxed);
    }
    revision
}

/// What is there now, values left out: a version's bytes never change.
pub async fn data(cluster: &Cluster) -> Result<Data, etcd_client::Error> {
    let mut client = cluster.client(cluster.leader().await).await;
    let answer = client.get(PREFIX, Some(GetOptions::new().with_prefix().with_keys_only())).await?;
    Ok(answer.kvs().iter().map(|kv| (kv.key().to_vec(), kv.mod_revision(), kv.version())).collect())
}

/// Up to which revision etcd itself says that it is compacted.
pub async fn compacted_to(cluster: &Cluster) -> Result<i64, etcd_client::Error> {
    let mut client = cluster.client(0).await;
    Ok(client.hash_kv(0).await?.compact_version())
}

/// Keys of the janitors that should be there only while a round runs.
pub async fn left_behind(cluster: &Cluster) -> Result<Vec<String>, etcd_client::Error> {
    let mut client = cluster.client(cluster.leader().await).await;
    let mut left = Vec::new();
    for key in ["/etcd-janitor/v1/turn/", "/etcd-janitor/v1/intent"] {
        let answer = client.get(key, Some(GetOptions::new().with_prefix().with_keys_only())).await?;
        left.extend(answer.kvs().iter().map(|kv| String::from_utf8_lossy(kv.key()).into_owned()));
    }
    Ok(left)
}
