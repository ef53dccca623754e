//! Writing, reading and removing the operator's pause.

use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions, Txn, TxnOp};

use super::cluster::Cluster;
use super::connection::Connection;
use super::error::{Class, Error};
use super::records::{delete_as_seen, hold_and_intent, local_error, send_txn, stored};
use super::turn::leave;
use crate::plan::cluster::Stored;
use crate::plan::hold::whole_seconds;
use crate::plan::record::{Hold, Intent, Keys, write};

/// The hold as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredHold {
    /// Value and revision.
    pub hold: Stored<Hold>,
    /// The lease that it hangs on; 0: it stays until somebody removes it.
    pub lease: i64,
    /// The value as it lies there; whatever somebody put.
    pub bytes: Vec<u8>,
}

/// What an operator is told of.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pause {
    /// The hold, over or not.
    pub hold: Option<StoredHold>,
    /// The defrag that may be under way.
    pub intent: Option<Stored<Intent>>,
}

/// What became of the writing of a hold.
#[derive(Debug, Clone, PartialEq)]
pub enum Placed {
    /// It is there.
    Written,
    /// Nothing was written: the hold is not the one that was seen.
    Changed,
    /// Nobody knows: no answer, and it could not be undone.
    Unclear(Error),
}

/// Reads both as of one revision, through whichever member answers first.
pub async fn read_pause(cluster: &Cluster) -> Result<Pause, Error> {
    let keys = Keys::new(&cluster.etcd().prefix);
    let mut last = None;
    for connection in cluster.through_others().await {
        match hold_and_intent(&connection, &keys).await {
            Ok((intent, hold)) => {
                let hold =
                    hold.map(|kv| StoredHold { hold: stored(&kv), lease: kv.lease(), bytes: kv.value().to_vec() });
                return Ok(Pause { hold, intent: intent.as_ref().map(stored) });
            }
            Err(error) if error.is_refusal() => return Err(error),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| nobody(cluster, "Range")))
}

/// Writes a hold on a lease of its own that runs for `lasts`, if the hold there now is the one `seen`. The lease is never
/// renewed: what an operator forgets vanishes by itself, whatever the clocks say.
///
/// An error: it was surely not written.
pub async fn place_hold(
    cluster: &Cluster,
    hold: &Hold,
    lasts: Duration,
    seen: Option<&StoredHold>,
) -> Result<Placed, Error> {
    let mut last = None;
    for connection in cluster.through_others().await {
        // Of our own choosing: a grant whose answer is lost can be taken back, and no lease of a month stays behind.
        let lease = (uuid::Uuid::new_v4().as_u128() >> 65) as i64;
        match grant(cluster, &connection, lease, lasts).await {
            Ok(()) => return place_on(cluster, &connection, hold, lease, seen).await,
            Err(error) if error.is_refusal() => return Err(error),
            Err(error) => {
                leave(cluster, lease).await;
                last = Some(error);
            }
        }
    }
    Err(last.unwrap_or_else(|| nobody(cluster, "LeaseGrant")))
}

async fn grant(cluster: &Cluster, connection: &Connection, lease: i64, lasts: Duration) -> Result<(), Error> {
    let seconds = i64::try_from(whole_seconds(lasts)).unwrap_or(i64::MAX);
    connection
        .call("LeaseGrant", cluster.etcd().request_timeout, |mut client: Client| async move {
            client.lease_grant(seconds, Some(LeaseGrantOptions::new().with_id(lease))).await
        })
        .await
        .map(|_| ())
}

async fn place_on(
    cluster: &Cluster,
    connection: &Connection,
    hold: &Hold,
    lease: i64,
    seen: Option<&StoredHold>,
) -> Result<Placed, Error> {
    let key = Keys::new(&cluster.etcd().prefix).hold();
    let value = write(hold).map_err(|unreadable| local_error(connection.url(), &unreadable))?;
    let revision = seen.map_or(0, |seen| seen.hold.mod_revision);
    let txn = Txn::new().when([Compare::mod_revision(key.clone(), CompareOp::Equal, revision)]).and_then([TxnOp::put(
        key,
        value,
        Some(PutOptions::new().with_lease(lease)),
    )]);
    match send_txn(connection, cluster.etcd().request_timeout, &txn).await {
        Ok(answer) if answer.succeeded() => {}
        Ok(_) => {
            leave(cluster, lease).await;
            return Ok(Placed::Changed);
        }
        Err(error) if error.is_refusal() => {
            leave(cluster, lease).await;
            return Err(error);
        }
        Err(error) => {
            // No answer. It may be there, or still come; without its lease it cannot.
            let there = read_pause(cluster).await.is_ok_and(|pause| pause.hold.is_some_and(|hold| hold.lease == lease));
            if !there {
                return if leave(cluster, lease).await { Err(error) } else { Ok(Placed::Unclear(error)) };
            }
        }
    }
    if let Some(seen) = seen {
        drop_lease(cluster, seen.lease).await;
    }
    Ok(Placed::Written)
}

/// Removes the hold that was `seen`, under NOSPACE too; false when it is not there any more, or another one is.
pub async fn remove_hold(cluster: &Cluster, seen: &StoredHold) -> Result<bool, Error> {
    let key = Keys::new(&cluster.etcd().prefix).hold();
    let mut last = None;
    for connection in cluster.through_others().await {
        match delete_as_seen(&connection, &key, seen.hold.mod_revision, cluster.etcd().request_timeout).await {
            Ok(removed) => {
                drop_lease(cluster, seen.lease).await;
                return Ok(removed);
            }
            Err(error) if error.is_refusal() => return Err(error),
            // Once more is harmless: it names a revision.
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| nobody(cluster, "Txn")))
}

/// Revokes the lease that a hold hung on, unless other keys hang on it: then it is not one of ours. Best effort, an empty
/// lease runs out by itself.
async fn drop_lease(cluster: &Cluster, lease: i64) {
    if lease == 0 {
        return;
    }
    for connection in cluster.through_others().await.iter().take(2) {
        let asked = connection
            .call("LeaseTimeToLive", cluster.etcd().request_timeout, |mut client: Client| async move {
                client.lease_time_to_live(lease, Some(LeaseTimeToLiveOptions::new().with_keys())).await
            })
            .await;
        match asked {
            Ok(answer) if answer.keys().is_empty() && answer.ttl() > 0 => {
                leave(cluster, lease).await;
                return;
            }
            Ok(_) => return,
            Err(error) => tracing::debug!(%error, "the lease of the old hold is left to run out"),
        }
    }
}

fn nobody(cluster: &Cluster, method: &'static str) -> Error {
    Error::new(Class::Unavailable, method, &cluster.etcd().endpoint, "no connection")
}
