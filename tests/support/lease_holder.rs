//! Some application's lease: whatever the janitors do, it must live.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Client, LeaseGrantOptions, LeaseKeepAliveStream, LeaseKeeper, PutOptions};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::cluster::Cluster;

const KEY: &str = "application/lock";

/// Renews one lease through every member at a third of its time to live.
pub struct LeaseHolder {
    stop: Arc<AtomicBool>,
    ttl: Duration,
    renewers: Vec<JoinHandle<Renewals>>,
}

#[derive(Debug, Default)]
struct Renewals {
    at: Vec<Instant>,
    gone: Option<Instant>,
}

#[derive(Debug)]
pub struct Held {
    /// A member said that the lease is gone, or its key is not there any more.
    pub lost: bool,
    pub renewals: usize,
    /// The longest time without a renewal through any member.
    pub longest_silence: Duration,
}

impl LeaseHolder {
    pub async fn start(cluster: &Cluster, ttl: Duration) -> Self {
        let mut client = cluster.client(cluster.leader().await).await;
        let seconds = i64::try_from(ttl.as_secs()).expect("a short time");
        let lease =
            client.lease_grant(seconds, None::<LeaseGrantOptions>).await.expect("a healthy cluster grants leases").id();
        client.put(KEY, "", Some(PutOptions::new().with_lease(lease))).await.expect("a healthy cluster takes writes");
        let stop = Arc::new(AtomicBool::new(false));
        let mut renewers = Vec::new();
        for member in cluster.members() {
            let client = cluster.client_to(&member.advertised_url()).await;
            let client = client.expect("the members are up when the holder starts");
            renewers.push(tokio::spawn(renew(client, lease, ttl, Arc::clone(&stop))));
        }
        Self { stop, ttl, renewers }
    }

    pub async fn finish(self, cluster: &Cluster) -> Held {
        self.stop.store(true, Ordering::SeqCst);
        let mut client = cluster.client(cluster.leader().await).await;
        let key = client.get(KEY, None).await.expect("a healthy cluster reads");
        let mut lost = key.kvs().is_empty();
        let mut instants = Vec::new();
        for renewer in self.renewers {
            let renewals = renewer.await.expect("a renewer does not panic");
            lost |= renewals.gone.is_some();
            instants.extend(renewals.at);
        }
        instants.sort();
        let silences = instants.windows(2).map(|pair| pair[1] - pair[0]);
        Held { lost, renewals: instants.len(), longest_silence: silences.max().unwrap_or(self.ttl) }
    }
}

async fn renew(mut client: Client, lease: i64, ttl: Duration, stop: Arc<AtomicBool>) -> Renewals {
    let mut renewals = Renewals::default();
    let mut stream = None;
    let mut ticks = tokio::time::interval(ttl / 3);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !stop.load(Ordering::SeqCst) {
        ticks.tick().await;
        let answer = timeout(ttl / 3, renew_once(&mut client, &mut stream, lease)).await;
        match answer {
            Ok(Ok(true)) => renewals.at.push(Instant::now()),
            Ok(Ok(false)) => {
                renewals.gone = Some(Instant::now());
                return renewals;
            }
            // A member in trouble; the others renew. The old stream may still
            // bring a late answer, which would be taken for the next one's.
            Ok(Err(_)) | Err(_) => stream = None,
        }
    }
    renewals
}

async fn renew_once(
    client: &mut Client,
    stream: &mut Option<(LeaseKeeper, LeaseKeepAliveStream)>,
    lease: i64,
) -> Result<bool, etcd_client::Error> {
    let Some((keeper, answers)) = stream else {
        return match client.lease_keep_alive(lease).await {
            Ok(new) => {
                *stream = Some(new);
                Ok(true)
            }
            Err(error) if error.to_string().contains("lease not found") => Ok(false),
            Err(error) => Err(error),
        };
    };
    keeper.keep_alive().await?;
    match answers.message().await? {
        Some(answer) => Ok(answer.ttl() > 0),
        None => {
            *stream = None;
            Ok(true)
        }
    }
}
