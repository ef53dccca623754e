//! Whether all voters hold the same data.

use std::time::{Duration, Instant};

use etcd_client::GetOptions;

use super::cluster::Cluster;

/// Compares HashKV of all voters at one revision. Followers may be behind, and
/// two members that have not compacted to the same revision hash different
/// ranges, so both are waited for; only a difference at one revision and one
/// compaction is a difference.
pub async fn hash_kv_equal(cluster: &Cluster) -> Result<(), String> {
    let voters = cluster.voters();
    let mut first = cluster.client(voters[0]).await;
    let options = GetOptions::new().with_count_only();
    let answer =
        first.get("no such key", Some(options)).await.map_err(|error| format!("no linearizable read: {error}"))?;
    let revision = answer.header().map(|header| header.revision()).unwrap_or_default();
    let started = Instant::now();
    loop {
        let why = match compare(cluster, &voters, revision).await {
            Verdict::Same => return Ok(()),
            Verdict::Different(what) => return Err(what),
            Verdict::Unclear(why) => why,
        };
        if started.elapsed() > Duration::from_secs(30) {
            return Err(why);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

enum Verdict {
    Same,
    Different(String),
    Unclear(String),
}

async fn compare(cluster: &Cluster, voters: &[usize], revision: i64) -> Verdict {
    let mut answers = Vec::new();
    for index in voters {
        let mut client = match cluster.client_to(&cluster.member(*index).client_url).await {
            Ok(client) => client,
            Err(error) => return Verdict::Unclear(format!("m{index}: {error}")),
        };
        match client.hash_kv(revision).await {
            Ok(answer) => answers.push((*index, answer.hash(), answer.compact_version())),
            Err(error) => return Verdict::Unclear(format!("m{index}: {error}")),
        }
    }
    let (_, hash, compacted) = answers[0];
    let what = format!("HashKV at revision {revision} as (member, hash, compacted): {answers:?}");
    if answers.iter().any(|(_, _, other)| *other != compacted) {
        Verdict::Unclear(what)
    } else if answers.iter().any(|(_, other, _)| *other != hash) {
        Verdict::Different(what)
    } else {
        Verdict::Same
    }
}
