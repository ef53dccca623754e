//! A place in the queue: a key on a lease, kept alive through other members.
//!
//! A lease that is renewed through the member being defragmented is not renewed at all: the call blocks until the
//! defrag ends, and the lease has expired by then (etcd#13313).

use std::time::Duration;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use futures_util::future::select_ok;

use super::clock::Clock;
use super::cluster::Cluster;
use super::connection::Connection;
use super::error::{Class, Error};
use crate::plan::member::RoundId;
use crate::plan::reason::{Blocked, Reason};
use crate::plan::record::{Keys, TurnRecord, VERSION, write};
use crate::plan::step::{Joined, Me, Renewal};

/// Leaving is best effort: the lease runs out anyway, and a stopping process has two seconds in all.
const LEAVE_DEADLINE: Duration = Duration::from_millis(700);

/// Grants a lease and puts a key on it. When anything is unclear the lease is revoked, so that no key of a place that
/// nobody holds stands in the queue.
pub async fn join(cluster: &Cluster, clock: &Clock, me: &Me, round: RoundId, ttl: Duration) -> Result<Joined, Blocked> {
    let mut last = None;
    for connection in cluster.through_others().await {
        match join_through(cluster, clock, &connection, me, round, ttl).await {
            Ok(joined) => return Ok(joined),
            Err(error) if error.is_refusal() => return Err(error.blocked()),
            Err(error) => last = Some(error),
        }
    }
    Err(last
        .map_or_else(|| Blocked::new(Reason::EtcdUnavailable, "no connection for a lease"), |error| error.blocked()))
}

async fn join_through(
    cluster: &Cluster,
    clock: &Clock,
    connection: &Connection,
    me: &Me,
    round: RoundId,
    ttl: Duration,
) -> Result<Joined, Error> {
    let deadline = cluster.etcd().request_timeout;
    let begun = clock.now();
    let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    let granted = connection
        .call("LeaseGrant", deadline, |mut client| async move { client.lease_grant(seconds, None).await })
        .await?;
    let lease = granted.id();
    let granted_ttl = Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or(0));
    let record = TurnRecord {
        v: VERSION,
        member: me.member,
        instance: me.instance.clone(),
        holder: me.holder.clone(),
        round,
        at: begun.wall,
        extra: Default::default(),
    };
    let keys = Keys::new(&cluster.etcd().prefix);
    let value =
        write(&record).map_err(|error| Error::new(Class::Refused, "Txn", connection.url(), error.to_string()))?;
    let txn = Txn::new()
        .when([Compare::create_revision(keys.turn(lease), CompareOp::Equal, 0)])
        .and_then([TxnOp::put(keys.turn(lease), value, Some(PutOptions::new().with_lease(lease)))]);
    let put = connection
        .call("Txn", deadline, |mut client| {
            let txn = txn.clone();
            async move { client.txn(txn).await }
        })
        .await;
    match put {
        Ok(answer) if answer.succeeded() && answer.header().is_some() => Ok(Joined {
            lease,
            create_revision: answer.header().map_or(0, etcd_client::ResponseHeader::revision),
            // Counted from before the grant was sent: etcd's clock for it started later.
            valid_until: begun.mono + granted_ttl.min(ttl),
        }),
        other => {
            leave(cluster, lease).await;
            Err(match other {
                Err(error) => error,
                Ok(_) => Error::new(Class::Unavailable, "Txn", connection.url(), "the place in the queue was taken"),
            })
        }
    }
}

/// Renews the lease through two other members at once: one of them may be in its own defrag, where a renewal hangs, and a
/// second try after its deadline could come too late for a short lease.
pub async fn renew(cluster: &Cluster, clock: &Clock, lease: i64, ttl: Duration) -> Renewal {
    let deadline = (ttl / 6).min(cluster.etcd().request_timeout);
    let connections = cluster.through_others().await;
    let begun = clock.mono();
    let renewals = connections.iter().take(2).map(|connection| {
        Box::pin(async move {
            let result = connection
                .call("LeaseKeepAlive", deadline, |mut client| async move {
                    // Opening the stream sends one renewal and waits for its answer. It is closed again at once: a
                    // stream would tie the lease to one member.
                    client.lease_keep_alive(lease).await.map(|_| ())
                })
                .await;
            match result {
                Ok(()) => Ok(Renewal::Until(begun + ttl)),
                Err(error) if error.class == Class::NoLease => Ok(Renewal::Gone),
                Err(error) => Err(error),
            }
        })
    });
    let renewals: Vec<_> = renewals.collect();
    if renewals.is_empty() {
        return Renewal::Unclear;
    }
    match select_ok(renewals).await {
        Ok((renewal, _)) => renewal,
        Err(error) => {
            tracing::debug!(%error, "a renewal failed");
            Renewal::Unclear
        }
    }
}

/// Revokes the lease, and its key with it, through another member. True when it is surely gone.
pub async fn leave(cluster: &Cluster, lease: i64) -> bool {
    for connection in cluster.through_others().await.iter().take(2) {
        let result = connection
            .call("LeaseRevoke", LEAVE_DEADLINE, |mut client| async move { client.lease_revoke(lease).await })
            .await;
        match result {
            Ok(_) => return true,
            Err(error) if error.class == Class::NoLease => return true,
            Err(error) => tracing::debug!(%error, "the lease could not be revoked; it runs out"),
        }
    }
    false
}
