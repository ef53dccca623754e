//! What lies under the janitors' prefix, read by a client of the tests' own.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_client::{GetOptions, SortOrder, SortTarget};
use serde_json::Value;

use super::cluster::Cluster;
use super::eventually;

pub const PREFIX: &str = "/etcd-janitor/v1/";

/// The records of one round, by the index of the member.
pub type Round = BTreeMap<usize, Value>;

/// Keys below the prefix and their values, read through one member; waits for
/// it while it is in mid-defrag or the leader changes.
pub async fn all(cluster: &Cluster, through: usize) -> BTreeMap<String, Value> {
    let client = cluster.client(through).await;
    let answer = eventually("the records can be read", Duration::from_secs(60), || {
        let mut client = client.clone();
        async move { client.get(PREFIX, Some(GetOptions::new().with_prefix())).await.ok() }
    })
    .await;
    let entries = answer.kvs().iter().map(|kv| {
        let key = String::from_utf8_lossy(kv.key()).into_owned();
        let value = serde_json::from_slice(kv.value()).unwrap_or_else(|error| panic!("{key}: {error}"));
        (key, value)
    });
    entries.collect()
}

pub async fn intent(cluster: &Cluster, through: usize) -> Option<Value> {
    all(cluster, through).await.remove(&format!("{PREFIX}intent"))
}

/// The indices of the members whose janitors stand in the queue.
pub async fn queue(cluster: &Cluster, through: usize) -> Vec<usize> {
    let turns = format!("{PREFIX}turn/");
    let all = all(cluster, through).await;
    let turns = all.iter().filter(|(key, _)| key.starts_with(&turns));
    turns.filter_map(|(_, turn)| index(cluster, turn["member"].as_str()?)).collect()
}

/// The same, the holder of the turn first.
pub async fn queue_in_order(cluster: &Cluster, through: usize) -> Vec<usize> {
    let turns = format!("{PREFIX}turn/");
    let mut client = cluster.client(through).await;
    let options = GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Ascend);
    // A member that does not answer now will be asked again.
    let Ok(answer) = client.get(turns, Some(options)).await else { return Vec::new() };
    let turns = answer.kvs().iter().filter_map(|kv| serde_json::from_slice::<Value>(kv.value()).ok());
    turns.filter_map(|turn| index(cluster, turn["member"].as_str()?)).collect()
}

/// Takes a member's place in the queue away, as an operator's `etcdctl lease
/// revoke` would. False when it had none.
pub async fn revoke(cluster: &Cluster, through: usize, member: usize) -> bool {
    let mut client = cluster.client(through).await;
    let options = GetOptions::new().with_prefix();
    let Ok(answer) = client.get(format!("{PREFIX}turn/"), Some(options)).await else { return false };
    for kv in answer.kvs() {
        let turn: Value = serde_json::from_slice(kv.value()).unwrap_or_default();
        if turn["member"].as_str().and_then(|id| index(cluster, id)) == Some(member) {
            return client.lease_revoke(kv.lease()).await.is_ok();
        }
    }
    false
}

/// Recorded rounds by name.
pub async fn rounds(cluster: &Cluster, through: usize) -> BTreeMap<String, Round> {
    let mut rounds: BTreeMap<String, Round> = BTreeMap::new();
    for (key, record) in all(cluster, through).await {
        let Some(rest) = key.strip_prefix(&format!("{PREFIX}rounds/")) else { continue };
        let (round, member) = rest.split_once('/').expect("rounds/<round>/<member>");
        assert_eq!((record["round"].as_str(), record["member"].as_str()), (Some(round), Some(member)), "{record}");
        let member = index(cluster, member).unwrap_or_else(|| panic!("{key} is about no member"));
        rounds.entry(round.to_owned()).or_default().insert(member, record);
    }
    rounds
}

/// Waits until the only round on record has this many members' outcomes.
pub async fn round_of(cluster: &Cluster, through: usize, members: usize, limit: Duration) -> Round {
    eventually("the round is on record", limit, || async {
        let mut rounds = rounds(cluster, through).await;
        assert!(rounds.len() <= 1, "{rounds:?}");
        let (_, round) = rounds.pop_first()?;
        (round.len() == members).then_some(round)
    })
    .await
}

fn index(cluster: &Cluster, member: &str) -> Option<usize> {
    let id = u64::from_str_radix(member, 16).ok()?;
    cluster.members().iter().position(|member| member.id == id)
}
