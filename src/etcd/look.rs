//! One fresh reading of all members, of the member list and of the records.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::join;

use super::clock::Clock;
use super::cluster::{Cluster, Listed, READ_DEADLINE};
use super::connection::Connection;
use super::error::{Class, Error};
use super::records::read_records;
use super::rights::may_defragment;
use crate::plan::cluster::{Listing, Look, MemberLook, QuotaBytes, Scrape, Status};
use crate::plan::member::{MemberId, RoundId};
use crate::plan::reason::{Blocked, Reason};
use crate::plan::rule::{Figures, Quota};

/// For all that a learner is asked. It has no vote and blocks nobody, so waiting for one that is away must not make the
/// look too old to send on ([`crate::plan::round::Permit`]).
const LEARNER_DEADLINE: Duration = Duration::from_millis(500);

/// What one member answered.
struct Asked {
    status: Result<Status, Error>,
    list: Option<Vec<Listed>>,
    scrape: Result<Scrape, Error>,
}

/// Asks every member and reads the records, all at once; each answer has a second.
///
/// The member list that is asked by is the one known before; when the answers name another one, everything is asked
/// again by that, so a look never misses a member that its own answers list.
pub async fn look(cluster: &Cluster, clock: &Clock, round: RoundId) -> Look {
    let mut by = cluster.listed();
    if by.is_empty() {
        by = cluster.refresh_list().await.unwrap_or_default();
    }
    loop {
        let begun = clock.now();
        let (asked, records, rights) = join!(
            join_all(by.iter().map(|member| ask(cluster, member))),
            read_records(cluster, round),
            may_defragment(cluster)
        );
        let lists: Vec<&Vec<Listed>> = asked.iter().filter_map(|asked| asked.list.as_ref()).collect();
        let newest = lists.first().map(|list| (*list).clone());
        let voters = by.iter().filter(|member| !member.learner).count();
        let listing = compare_lists(&lists, voters);
        if let Some(newest) = newest
            && listing == Listing::Agreed
            && newest != by
            && newest.len() <= MAX_MEMBERS
        {
            cluster.set_listed(newest.clone());
            let same_members = same_ids(&newest, &by);
            by = newest;
            if !same_members {
                continue;
            }
        }
        let members = by
            .iter()
            .zip(asked)
            .map(|(member, asked)| MemberLook {
                id: member.id,
                name: member.name.clone(),
                learner: member.learner,
                status: asked.status.map_err(|error| error.blocked()),
                scrape: asked.scrape.map_err(|error| error.blocked()),
            })
            .collect();
        let records = records.map_err(|error| error.blocked());
        return Look { begun, listing, members, records, disk: None, rights };
    }
}

/// etcd advises seven; a list beyond this is not a cluster that this program was made for.
const MAX_MEMBERS: usize = 64;

fn same_ids(one: &[Listed], other: &[Listed]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| a.id == b.id && a.learner == b.learner)
}

/// A list is agreed on when all that answered gave the same, and at least two did where there are two voters to ask.
///
/// The client library asks for a list that need not be linearizable: one member alone may be behind.
fn compare_lists(lists: &[&Vec<Listed>], voters: usize) -> Listing {
    let Some(first) = lists.first() else { return Listing::Unknown("no voter gave a member list".to_owned()) };
    if let Some(other) = lists.iter().find(|list| !same_ids(list, first)) {
        return Listing::Disagreed(format!("one member lists {} members, another {}", first.len(), other.len()));
    }
    if lists.len() < 2 && voters > 1 {
        return Listing::Unknown("only one voter gave a member list".to_owned());
    }
    Listing::Agreed
}

async fn ask(cluster: &Cluster, member: &Listed) -> Asked {
    if !member.learner {
        return ask_fully(cluster, member).await;
    }
    match tokio::time::timeout(LEARNER_DEADLINE, ask_fully(cluster, member)).await {
        Ok(asked) => asked,
        Err(_) => {
            let late = |method| Error::deadline(method, &member.name, LEARNER_DEADLINE);
            Asked { status: Err(late("Status")), list: None, scrape: Err(late("GET")) }
        }
    }
}

async fn ask_fully(cluster: &Cluster, member: &Listed) -> Asked {
    let connection = match tokio::time::timeout(READ_DEADLINE, cluster.member(member)).await {
        Ok(connection) => connection,
        Err(_) => Err(Error::deadline("Status", &member.name, READ_DEADLINE)),
    };
    match connection {
        Ok(connection) => {
            let list = async {
                // A learner refuses; its answer is not needed.
                if member.learner { None } else { cluster.list_through(&connection).await.ok() }
            };
            let (status, list, scrape) = join!(
                read_status(cluster, &connection, member.id),
                list,
                read_metrics(cluster, member.id, Some(&connection), &[])
            );
            Asked { status, list, scrape }
        }
        Err(error) => {
            // In mid-defrag it answers no Status that would tell its address from another's, but its metrics name it.
            let scrape = read_metrics(cluster, member.id, None, &member.client_urls).await;
            Asked { status: Err(error), list: None, scrape }
        }
    }
}

async fn read_status(cluster: &Cluster, connection: &Connection, expected: MemberId) -> Result<Status, Error> {
    let (answered, _, status) = connection.status(READ_DEADLINE).await?;
    if answered == expected {
        return Ok(status);
    }
    cluster.forget(expected);
    let text = format!("answers for {answered}, not for {expected}");
    Err(Error::new(Class::WrongMember, "Status", connection.url(), text))
}

async fn read_metrics(
    cluster: &Cluster,
    member: MemberId,
    connection: Option<&Connection>,
    advertised: &[String],
) -> Result<Scrape, Error> {
    let bases = cluster.metrics_bases(member, connection, advertised);
    let mut last = None;
    for base in &bases {
        match cluster.pages().metrics(base, READ_DEADLINE).await {
            Ok((page, _)) if page.server == member => {
                cluster.metrics_found(member, base);
                return Ok(page.scrape);
            }
            Ok((page, _)) => {
                let text = format!("these are the metrics of {}, not of {member}", page.server);
                last = Some(Error::new(Class::WrongMember, "GET", base, text));
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::new(Class::Unavailable, "GET", "metrics", "no address for its metrics is known")))
}

/// What the local member says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalStatus {
    /// Who answered.
    pub member: MemberId,
    /// Of which cluster.
    pub cluster: u64,
    /// Its status.
    pub status: Status,
}

/// Status of the local address, whoever answers there.
pub async fn local_status(cluster: &Cluster, deadline: Duration) -> Result<LocalStatus, Error> {
    let (member, id, status) = cluster.local().await?.status(deadline).await?;
    Ok(LocalStatus { member, cluster: id, status })
}

/// Sizes and quota of the local member. The quota is scraped where Status does not have it (before 3.6).
pub async fn local_figures(cluster: &Cluster, configured: Option<u64>) -> Result<Figures, Blocked> {
    let expected = cluster
        .local_id()
        .ok_or_else(|| Blocked::new(Reason::EtcdUnavailable, "the local member is not identified yet"))?;
    let connection = cluster.local().await.map_err(|error| error.blocked())?;
    let status = read_status(cluster, &connection, expected).await.map_err(|error| error.blocked())?;
    let told = match status.quota {
        Some(quota) => Some(quota),
        // A page that could not be read says nothing about the quota: judged by an assumed one, a round would end there.
        None => match read_metrics(cluster, expected, Some(&connection), &[]).await {
            Ok(scrape) => scrape.quota,
            Err(_) if configured.is_some() => None,
            Err(error) => return Err(error.blocked()),
        },
    };
    let quota = match told.or(configured.map(QuotaBytes::Bytes)) {
        Some(QuotaBytes::Bytes(bytes)) => Quota::Bytes(bytes),
        Some(QuotaBytes::Disabled) => Quota::Disabled,
        None => Quota::Unknown,
    };
    Ok(Figures { db_size: status.db_size, db_size_in_use: status.db_size_in_use, quota })
}
