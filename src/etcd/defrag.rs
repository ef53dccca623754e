//! The one call that this program exists for, and the transfer of leadership before it.

use std::time::{Duration, Instant};

use super::clock::Clock;
use super::cluster::Cluster;
use super::connection::Connection;
use super::error::{Class, Error};
use crate::plan::member::MemberId;
use crate::plan::reason::{Blocked, Reason};
use crate::plan::round::Permit;
use crate::plan::step::Sent;

/// Sends `Defragment` to the permit's member, if the permit still holds at that instant. `observed` is told the time from
/// the beginning of the last look to the send. Unless `remote`, that member must be the local one.
///
/// Never retried: the server carries a call out whose client has gone, and queues a second one behind it.
pub async fn defragment(
    cluster: &Cluster,
    clock: &Clock,
    permit: Permit,
    remote: bool,
    timeout: Duration,
    observed: impl FnOnce(Duration),
) -> Sent {
    if !remote && cluster.local_id() != Some(permit.member) {
        return Sent::NotSent(Blocked::new(Reason::WrongMember, "the local address is another member's now"));
    }
    let connection = if remote {
        through(cluster, permit.member).await
    } else {
        cluster.local().await.map_err(|error| error.blocked())
    };
    let connection = match connection {
        Ok(connection) => connection,
        Err(blocked) => return Sent::NotSent(blocked),
    };
    let token = connection.token();
    let begun = Instant::now();
    match permit.check(clock.now()) {
        Err(blocked) => return Sent::NotSent(blocked),
        Ok(age) => observed(age),
    }
    // Nothing may come between the check and the call: no log line, no await.
    let call = |mut client: etcd_client::Client| async move { client.defragment().await };
    match connection.call_once("Defragment", timeout, &call).await {
        Ok(_) => Sent::Done { seconds: begun.elapsed().as_secs_f64() },
        // A stale token: refused before anything was done. The round starts over with a new one.
        Err(error) if error.class == Class::Token && cluster.has_user() => {
            match connection.renew_token(token, cluster.etcd().request_timeout).await {
                Ok(()) => Sent::NotSent(Blocked::new(Reason::TurnTimeout, "the token had expired; logged in again")),
                Err(error) => Sent::NotSent(error.blocked()),
            }
        }
        Err(error) if error.is_refusal() => {
            Sent::Refused { auth: matches!(error.class, Class::Auth | Class::Token), text: error.to_string() }
        }
        Err(error) => Sent::Unclear(error.to_string()),
    }
}

/// A connection that is pinned to this member.
async fn through(cluster: &Cluster, member: MemberId) -> Result<Connection, Blocked> {
    let Some(listed) = cluster.listed().into_iter().find(|listed| listed.id == member) else {
        return Err(Blocked::new(Reason::MemberChanged, format!("{member} is not in the member list")));
    };
    cluster.member(&listed).await.map_err(|error| error.blocked())
}

/// Asks `from`, which leads, to hand leadership to `to`. Without a deadline of ours it would wait for ever for
/// a target that is dead.
pub async fn move_leader(cluster: &Cluster, from: MemberId, to: MemberId, deadline: Duration) -> Result<(), Blocked> {
    let connection = if cluster.local_id() == Some(from) {
        cluster.local().await.map_err(|error| error.blocked())?
    } else {
        through(cluster, from).await?
    };
    let moved =
        connection.call("MoveLeader", deadline, |mut client| async move { client.move_leader(to.0).await }).await;
    moved.map(|_| ()).map_err(|error: Error| error.blocked())
}

#[cfg(test)]
mod tests;
