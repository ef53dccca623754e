//! A watch on everything under the prefix: how an idle janitor notices what others do, without asking.

use std::collections::BTreeSet;

use etcd_client::{Client, WatchOptions};
use tokio::sync::mpsc;

use super::cluster::Cluster;
use super::error::{Class, Error};
use crate::plan::record::Keys;

/// What changed under the prefix.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// A key in the queue.
    pub queue: bool,
    /// The intent.
    pub intent: bool,
    /// Recorded rounds or the window.
    pub records: bool,
    /// The hold.
    pub hold: bool,
    /// The revisions of the store that these changes made: our own writes are no reason to compact.
    pub revisions: Vec<i64>,
}

/// Watches until the watch ends, which it always does with an error sooner or later. Nothing may be concluded from its
/// silence: a member in a defrag says nothing, and a watch through a member that is cut off neither.
pub async fn watch(cluster: &Cluster, changes: &mpsc::Sender<Change>) -> Error {
    match watch_until_error(cluster, changes).await {
        Ok(()) => Error::new(Class::Unavailable, "Watch", &cluster.etcd().endpoint, "the watch ended"),
        Err(error) => error,
    }
}

async fn watch_until_error(cluster: &Cluster, changes: &mpsc::Sender<Change>) -> Result<(), Error> {
    let keys = Keys::new(&cluster.etcd().prefix);
    let connection = cluster.local().await?;
    let url = connection.url().to_owned();
    let token = connection.token();
    let mut stream = connection
        .call("Watch", cluster.etcd().request_timeout, |mut client: Client| {
            let key = keys.all();
            async move { client.watch(key, Some(WatchOptions::new().with_prefix())).await }
        })
        .await?;
    // Nobody saw what became of the hold before the watch began.
    if changes.send(Change { hold: true, ..Change::default() }).await.is_err() {
        return Ok(());
    }
    loop {
        let message = stream.message().await.map_err(|error| Error::from_client("Watch", &url, &error))?;
        let Some(message) = message else { return Ok(()) };
        if message.canceled() {
            // The text is empty for a compacted revision; the stream itself stays open and silent.
            let error = Error::cancelled(&url, message.cancel_reason());
            if error.class == Class::Token {
                // The library renews no token for a watch, and an idle janitor may ask nothing else that takes one.
                connection.renew_token(token, cluster.etcd().request_timeout).await?;
            }
            return Err(error);
        }
        let mut change = Change::default();
        let mut revisions = BTreeSet::new();
        for event in message.events() {
            let Some(kv) = event.kv() else { continue };
            revisions.insert(kv.mod_revision());
            let key = kv.key();
            if key.starts_with(keys.turns().as_bytes()) {
                change.queue = true;
            } else if key == keys.intent().as_bytes() {
                change.intent = true;
                change.queue = true;
            } else if key == keys.hold().as_bytes() {
                change.hold = true;
            } else {
                change.records = true;
            }
        }
        change.revisions = revisions.into_iter().collect();
        if !change.revisions.is_empty() && changes.send(change).await.is_err() {
            return Ok(());
        }
    }
}
