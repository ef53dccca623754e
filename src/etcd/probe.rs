//! What the local member says of its own health.

use std::time::Duration;

use super::cluster::Cluster;
use super::error::{Class, Error};
use crate::plan::cluster::Scrape;

/// The local member's metrics, and what it answers at `path`. Where it has no such page (before 3.5.11) what it answers
/// at `older`, and without that whether it serves its metrics.
pub async fn local_health(
    cluster: &Cluster,
    path: &str,
    older: Option<&str>,
    deadline: Duration,
) -> (Option<Scrape>, Result<String, Error>) {
    let base = cluster.etcd().metrics.local.clone().unwrap_or_else(|| cluster.etcd().endpoint.clone());
    let scrape = cluster.pages().metrics(&base, deadline).await.ok().map(|(page, _)| page.scrape);
    let refused = |text: String| Error::new(Class::Refused, "GET", &base, text);
    if scrape.as_ref().is_some_and(|scrape| scrape.defrags_open > 0) {
        // Everything else hangs until the defrag ends.
        return (scrape, Err(refused("a defrag is open".to_owned())));
    }
    let answer = match (get(cluster, &base, path, deadline).await, older) {
        (Ok((404, _)), Some(older)) => get(cluster, &base, older, deadline).await,
        (Ok((404, _)), None) if scrape.is_some() => Ok((200, format!("it has no {path} and serves its metrics"))),
        (other, _) => other,
    };
    let verdict = answer.and_then(|(status, body)| match status {
        200 => Ok(body),
        _ => Err(refused(format!("HTTP {status}: {}", body.chars().take(200).collect::<String>()))),
    });
    (scrape, verdict)
}

async fn get(cluster: &Cluster, base: &str, path: &str, deadline: Duration) -> Result<(u16, String), Error> {
    let fetched = cluster.pages().get(base, path, deadline).await.map_err(|error| cluster.blamed(&error))?;
    Ok((fetched.status, fetched.body))
}
