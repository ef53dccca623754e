//! Watches the one record that says whose defrag may be under way, with a client of the tests' own.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use etcd_client::Client;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::cluster::Cluster;
use super::overlaps::Stood;
use super::records::PREFIX;

const EVERY: Duration = Duration::from_millis(50);

/// Reads `v1/intent` until it is finished.
pub struct Intents {
    stood: Arc<Mutex<Vec<Stood>>>,
    task: JoinHandle<()>,
}

impl Intents {
    /// Through whichever member answers. Readings that fail leave a gap, which is taken for the intent's.
    pub async fn watch(cluster: &Cluster) -> Self {
        let ids: Vec<u64> = cluster.members().iter().map(|member| member.id).collect();
        let mut clients = Vec::new();
        for member in cluster.members() {
            clients.push(cluster.client_to(&member.client_url).await.expect("the members are up when this starts"));
        }
        let stood = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(read_all_the_time(clients, ids, Arc::clone(&stood)));
        Self { stood, task }
    }

    pub fn finish(self) -> Vec<Stood> {
        self.task.abort();
        self.stood.lock().expect("nobody panics with it").clone()
    }
}

async fn read_all_the_time(mut clients: Vec<Client>, ids: Vec<u64>, stood: Arc<Mutex<Vec<Stood>>>) {
    let (mut through, mut last, mut seen) = (0, Instant::now(), None);
    loop {
        tokio::time::sleep(EVERY).await;
        let asked = Instant::now();
        let reading = timeout(Duration::from_millis(500), clients[through].get(format!("{PREFIX}intent"), None)).await;
        let Ok(Ok(answer)) = reading else {
            through = (through + 1) % clients.len();
            continue;
        };
        let now = answer.kvs().first().and_then(|kv| {
            let intent: Value = serde_json::from_slice(kv.value()).ok()?;
            let id = u64::from_str_radix(intent["member"].as_str()?, 16).ok()?;
            Some((kv.mod_revision(), ids.iter().position(|known| *known == id)?))
        });
        let mut stood = stood.lock().expect("nobody panics with it");
        match now {
            Some((revision, _)) if seen == Some(revision) => {
                if let Some(newest) = stood.last_mut() {
                    newest.to = asked;
                }
            }
            Some((_, member)) => stood.push(Stood { member, from: last, to: asked }),
            None => {}
        }
        seen = now.map(|(revision, _)| revision);
        last = asked;
    }
}
