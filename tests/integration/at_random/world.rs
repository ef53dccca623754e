//! The cluster that is tormented, its clients, and its judge.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use etcd_client::{Client, CompactionOptions, PutOptions};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::ills::{Ill, Kind};
use crate::support::intents::Intents;
use crate::support::overlaps::Deeds;
use crate::support::writer::{Pace, Writer};
use crate::support::{Cluster, Janitor, Recorder, Spec, records, within};

pub const LEASE_TTL: Duration = Duration::from_secs(5);
pub const STRETCH: Duration = Duration::from_secs(3);

/// What is left when the faults end may take as long as several rounds in which
/// something was in the way, half a minute each.
const RECOVERY: Duration = Duration::from_secs(300);

pub struct World {
    pub cluster: Cluster,
    pub janitors: Vec<Janitor>,
    pub recorder: Recorder,
    pub writer: Writer,
    pub rng: StdRng,
    pub deeds: Deeds,
    pub intents: Intents,
    pub counts: BTreeMap<Kind, u64>,
    pub ills: Vec<Ill>,
    /// Operators' calls: which of `deeds.foreign`, and when it was back.
    pub operators: JoinSet<(usize, Instant)>,
    garbage: JoinHandle<()>,
}

pub fn yaml() -> String {
    format!(
        "compaction: {{ enabled: false }}\netcd: {{ request_timeout: 2s }}\nturn: {{ lease_ttl: {}s }}\n\
         history: {{ limit: 1000 }}\n\
         defrag: {{ schedule: '*/10 * * * * *', rule: 'dbSizeFree > 4 * MiB', pause_between: 1s, leader_wait: 10s, \
         window: 90s }}\n",
        LEASE_TTL.as_secs()
    )
}

impl World {
    pub async fn start(members: usize, seed: u64) -> Self {
        let stretch_defrags = Some(STRETCH);
        // With etcd's 100 000 an hour of this is a log of more than a gigabyte, and a member that is started again
        // reads all of it first.
        let extra_args = vec!["--snapshot-count=1000".to_owned()];
        let spec = Spec { members, namespaces: true, stretch_defrags, extra_args, ..Spec::default() };
        let cluster = Cluster::start(spec).await;
        let recorder = Recorder::start(&cluster).await;
        let writer = Writer::start(&cluster, "written", Pace::default()).await;
        let intents = Intents::watch(&cluster).await;
        let urls: Vec<String> = cluster.members().iter().map(|member| member.client_url.clone()).collect();
        let mut janitors = Vec::new();
        for index in 0..members {
            janitors.push(Janitor::start(&cluster, index, &yaml()).await);
        }
        Self {
            cluster,
            janitors,
            recorder,
            writer,
            rng: StdRng::seed_from_u64(seed),
            deeds: Deeds { lease_ttl: LEASE_TTL, ..Deeds::default() },
            intents,
            counts: BTreeMap::new(),
            ills: Vec::new(),
            operators: JoinSet::new(),
            garbage: tokio::spawn(make_garbage(urls)),
        }
    }

    pub fn members(&self) -> usize {
        self.janitors.len()
    }

    /// As the members say; none while they do not.
    pub fn leader(&self) -> Option<usize> {
        (0..self.members()).find(|index| self.recorder.now(*index).is_some_and(|metrics| metrics.is_leader))
    }

    /// Notes which operators' calls are back.
    pub fn note_operators(&mut self) {
        while let Some(back) = self.operators.try_join_next() {
            let (call, at) = back.expect("an operator does not panic");
            self.deeds.foreign[call].returned = Some(at);
        }
    }

    /// Nothing is done to it any more: every member is defragmented again, and
    /// nothing of what was left in the records stays. An error says what did not
    /// come about.
    pub async fn comes_right(&mut self) -> Result<(), String> {
        within("every member answers", Duration::from_secs(60), || async {
            (0..self.members()).all(|index| self.recorder.now(index).is_some_and(|now| now.has_leader)).then_some(())
        })
        .await?;
        let leader = self.cluster.leader().await;
        self.intents_are_settled(leader).await?;
        let before: Vec<usize> = self.defrag_counts();
        // Once more, and then the sizes stay as they are.
        self.garbage.abort();
        let url = self.cluster.member(leader).client_url.clone();
        let why = RefCell::new(String::new());
        within("there is something to defragment", RECOVERY, || async {
            waste(&url, Duration::from_secs(30)).await.map_err(|error| why.replace(error)).ok()
        })
        .await
        .map_err(|late| format!("{late}: {}", why.borrow()))?;
        within("every member is defragmented again", RECOVERY, || async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = self.defrag_counts();
            now.iter().zip(&before).all(|(now, before)| now > before).then_some(())
        })
        .await?;
        within("queue and intent are gone", RECOVERY, || async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let all = records::all(&self.cluster, leader).await;
            let open = |key: &String| key.contains("/turn/") || key.ends_with("/intent");
            (!all.keys().any(open)).then_some(())
        })
        .await
    }

    fn defrag_counts(&self) -> Vec<usize> {
        let history = self.recorder.so_far();
        (0..self.members()).map(|index| history.defrags_of(index).iter().filter(|one| one.finished).count()).collect()
    }

    /// An intent that is open when all is well again is settled within one
    /// lease, of somebody alive by its owner.
    async fn intents_are_settled(&self, through: usize) -> Result<(), String> {
        let Some(left) = records::intent(&self.cluster, through).await else { return Ok(()) };
        // A look, a second one after the lease's length, and the record.
        let limit = LEASE_TTL + Duration::from_secs(20);
        within(&format!("the intent left open is settled: {left}"), limit, || async {
            let now = records::intent(&self.cluster, through).await;
            (now.as_ref() != Some(&left)).then_some(())
        })
        .await
    }
}

/// Every twenty seconds or so eight MiB that are worth nothing a moment later. In
/// between the sizes are still, which a round waits for.
async fn make_garbage(urls: Vec<String>) {
    loop {
        for url in &urls {
            if waste(url, Duration::from_secs(5)).await.is_ok() {
                break;
            }
        }
        tokio::time::sleep(Duration::from_secs(22)).await;
    }
}

/// `patience`: with each request. The member may be in its own defrag.
async fn waste(url: &str, patience: Duration) -> Result<(), String> {
    let slow = |_| format!("no answer in {patience:?}");
    let mut client = Client::connect([url], None).await.map_err(|error| error.to_string())?;
    let mut revision = 0;
    for version in 0..128 {
        let put = client.put(format!("garbage/{}", version % 4), vec![b'x'; 64 << 10], None::<PutOptions>);
        let answer = timeout(patience, put).await.map_err(slow)?.map_err(|error| format!("put: {error}"))?;
        revision = answer.header().expect("etcd says where").revision();
    }
    let compact = client.compact(revision, Some(CompactionOptions::new().with_physical()));
    timeout(patience, compact).await.map_err(slow)?.map_err(|error| format!("compact: {error}"))?;
    Ok(())
}
