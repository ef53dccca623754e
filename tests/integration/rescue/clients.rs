//! Clients that fill the database and never stop: what etcd refuses they try again, as applications do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use etcd_client::Client;
use tokio::task::JoinSet;

use crate::support::Cluster;

/// Of one version of one key.
const VALUE_BYTES: usize = 64 << 10;
/// Keys of each client: what is live is this many values.
const KEYS: u64 = 8;
/// Pause after a refusal.
const AGAIN: Duration = Duration::from_millis(100);

/// Acknowledged versions, by key.
type Acknowledged = BTreeMap<String, u64>;

/// One client at each voter.
pub struct Clients {
    state: Arc<State>,
    tasks: JoinSet<Acknowledged>,
}

struct State {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    newest: Mutex<Option<Instant>>,
}

impl Clients {
    /// Each writes as fast as it may, or a version every `pace`.
    pub async fn start(cluster: &Cluster, pace: Duration) -> Clients {
        let state = Arc::new(State {
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            newest: Mutex::new(None),
        });
        let mut tasks = JoinSet::new();
        for index in cluster.voters() {
            let url = cluster.member(index).advertised_url();
            let client = cluster.client_to(&url).await.expect("the members are up when clients start");
            tasks.spawn(write(client, index, pace, Arc::clone(&state)));
        }
        Clients { state, tasks }
    }

    pub fn refused(&self) -> u64 {
        self.state.refused.load(Ordering::Relaxed)
    }

    pub fn acknowledged(&self) -> u64 {
        self.state.acknowledged.load(Ordering::Relaxed)
    }

    /// When a write was last acknowledged.
    pub fn newest(&self) -> Option<Instant> {
        *self.state.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops them; every key must hold the version that was acknowledged last, or a later one.
    pub async fn verify(self, cluster: &Cluster) -> Vec<String> {
        self.state.stop.store(true, Ordering::Relaxed);
        let mut client = cluster.client(cluster.leader().await).await;
        let mut lost = Vec::new();
        for acknowledged in self.tasks.join_all().await {
            for (key, version) in acknowledged {
                let found = client.get(key.as_str(), None).await.expect("a read");
                let value = found.kvs().first().map(|kv| kv.value());
                let stored = value.and_then(|value| value.get(..8)?.try_into().ok()).map_or(0, u64::from_be_bytes);
                if stored < version {
                    lost.push(format!("{key}: {version} was acknowledged, {stored} is there"));
                }
            }
        }
        lost
    }
}

async fn write(mut client: Client, index: usize, pace: Duration, state: Arc<State>) -> Acknowledged {
    let mut acknowledged = BTreeMap::new();
    let mut version = 0u64;
    while !state.stop.load(Ordering::Relaxed) {
        version += 1;
        let key = format!("app/{index}/{}", version % KEYS);
        let mut value = vec![b'x'; VALUE_BYTES];
        value[..8].copy_from_slice(&version.to_be_bytes());
        let put = tokio::time::timeout(Duration::from_secs(8), client.put(key.as_str(), value, None)).await;
        if matches!(put, Ok(Ok(_))) {
            acknowledged.insert(key, version);
            state.acknowledged.fetch_add(1, Ordering::Relaxed);
            *state.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            tokio::time::sleep(pace).await;
        } else {
            state.refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(AGAIN).await;
        }
    }
    acknowledged
}
