//! What the credentials allow, by trying: nothing that stays is changed.

use std::time::Duration;

use etcd_client::GetOptions;

use super::cluster::{Cluster, READ_DEADLINE};
use super::compaction::is_kubernetes;
use super::error::{Class, Error};
use super::turn::leave;
use crate::plan::reason::{Blocked, Reason};
use crate::plan::record::Keys;

/// For a lease that is revoked at once; if that fails it is gone after this.
const LEASE: Duration = Duration::from_secs(10);
/// No cluster has had so many changes: asked for its hash there, a member refuses, after it has judged the user.
const FAR_AHEAD: i64 = i64::MAX / 2;

/// Reads the keys under the prefix, writes one and deletes it again. The error tells each of the three that is refused.
pub async fn try_key(cluster: &Cluster) -> Result<(), Error> {
    let connection = cluster.local().await?;
    let keys = Keys::new(&cluster.etcd().prefix);
    let (all, key) = (keys.all(), keys.probe());
    let deadline = cluster.etcd().request_timeout;
    // As the janitor reads: the whole range takes a right to all of it.
    let read = connection.call("Range", deadline, |mut client| {
        let (all, options) = (all.clone(), GetOptions::new().with_prefix().with_keys_only().with_limit(1));
        async move { client.get(all, Some(options)).await }
    });
    let read = read.await.err();
    let put = connection.call("Put", deadline, |mut client| {
        let key = key.clone();
        async move { client.put(key, "{\"v\":1}", None).await }
    });
    let put = put.await.err();
    let delete = connection.call("DeleteRange", deadline, |mut client| {
        let key = key.clone();
        async move { client.delete(key, None).await }
    });
    let delete = delete.await.err();
    let mut refused = [read, put, delete].into_iter().flatten();
    let Some(mut first) = refused.next() else { return Ok(()) };
    for other in refused {
        first.text.push_str(&format!("; {}: {}", other.method, other.text));
    }
    Err(first)
}

/// Reads what tells a kube-apiserver's keyspace.
pub async fn try_kubernetes_key(cluster: &Cluster) -> Result<(), Error> {
    is_kubernetes(&cluster.local().await?, cluster.etcd().request_timeout).await.map(drop)
}

/// Grants a lease and revokes it, as a turn does.
pub async fn try_lease(cluster: &Cluster) -> Result<(), Error> {
    let connection = cluster.local().await?;
    let seconds = i64::try_from(LEASE.as_secs()).unwrap_or(i64::MAX);
    let granted = connection
        .call("LeaseGrant", cluster.etcd().request_timeout, |mut client| async move {
            client.lease_grant(seconds, None).await
        })
        .await?;
    leave(cluster, granted.id()).await;
    Ok(())
}

/// Asks for what needs the same right as Defragment, and costs nothing: the hash at a revision that does not exist.
pub async fn try_maintenance(cluster: &Cluster) -> Result<(), Error> {
    ask_for_hash(cluster, cluster.etcd().request_timeout).await
}

/// An error when etcd refuses our user a defrag, as last answered: a member that is slow to answer says nothing new.
pub(super) async fn may_defragment(cluster: &Cluster) -> Result<(), Blocked> {
    let answered = match ask_for_hash(cluster, READ_DEADLINE).await {
        Ok(()) => Some(Ok(())),
        // That nobody is let in at all is told by every other request.
        Err(error) if error.method == "Authenticate" => None,
        Err(error) if matches!(error.class, Class::Auth | Class::Token) => {
            let whose = match &cluster.etcd().auth.username {
                Some(user) => format!("the user {user} lacks"),
                None if cluster.shows_certificate() => "the user named by our certificate lacks".to_owned(),
                None => "nobody has without a user (etcd.auth)".to_owned(),
            };
            let text = format!("a defrag takes the role root, which {whose}: {error}");
            Some(Err(Blocked::new(Reason::Auth, text)))
        }
        Err(_) => None,
    };
    cluster.rights(answered)
}

async fn ask_for_hash(cluster: &Cluster, deadline: Duration) -> Result<(), Error> {
    let connection = cluster.local().await?;
    let ask = connection.call("HashKV", deadline, |mut client| async move { client.hash_kv(FAR_AHEAD).await });
    match ask.await {
        Err(error) if error.class != Class::FutureRevision => Err(error),
        _ => Ok(()),
    }
}
