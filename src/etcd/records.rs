//! Reading and writing what lies under the prefix.

use std::collections::BTreeSet;
use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, DeleteOptions, GetOptions, GetResponse, KeyValue, ResponseHeader, SortOrder, SortTarget, Txn,
    TxnOp, TxnResponse,
};

use super::clock::Clock;
use super::cluster::{Cluster, READ_DEADLINE};
use super::connection::Connection;
use super::error::{Class, Error};
use crate::plan::cluster::{Place, Records, Stored};
use crate::plan::member::{MemberId, RoundId};
use crate::plan::reason::{Blocked, Outcome, Reason};
use crate::plan::record::{Keys, RoundRecord, Unreadable, kept, read, write};
use crate::plan::step::{Settle, Turn, Written};

/// Most places and records that are read at once; far beyond what a cluster can have.
const MAX_ENTRIES: i64 = 256;

fn keys(cluster: &Cluster) -> Keys {
    Keys::new(&cluster.etcd().prefix)
}

/// The records, all as of one revision, through whichever member answers first in a list that begins with another one:
/// the local one may be busy.
///
/// By plain reads. A read-only transaction that is given up while it waits for a defrag ends the member on releases
/// before 3.5.7 (etcd-io/etcd#14178 and #14899), whoever started the defrag.
pub(super) async fn read_records(cluster: &Cluster, round: RoundId) -> Result<Records, Error> {
    let mut last = None;
    for connection in cluster.through_others().await {
        match read_through(cluster, &connection, round).await {
            Ok(records) => return Ok(records),
            Err(error) if error.is_refusal() => return Err(error),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::new(Class::Unavailable, "Range", &cluster.etcd().endpoint, "no connection")))
}

async fn read_through(cluster: &Cluster, connection: &Connection, round: RoundId) -> Result<Records, Error> {
    let keys = keys(cluster);
    let (revision, intent) = intent(connection, &keys).await?;
    // This member has that revision: a serializable read of it is as good as a linearizable one.
    let prefix = || {
        let options = at(revision).with_prefix().with_limit(MAX_ENTRIES);
        options.with_sort(SortTarget::Create, SortOrder::Ascend)
    };
    // At once: how old a look is when it can be acted on decides how wide the window is.
    let (hold, turns, outcomes) = tokio::try_join!(
        range(connection, keys.hold(), at(revision)),
        range(connection, keys.turns(), prefix()),
        range(connection, keys.round(round), prefix())
    )?;
    let mut records = Records {
        intent: intent.as_ref().map(stored),
        hold: hold.kvs().first().map(stored),
        // A key without a lease is nobody's place: it would be before everybody for ever.
        turns: turns.kvs().iter().filter(|kv| kv.lease() != 0).map(place).collect(),
        outcomes: outcomes.kvs().iter().filter_map(|kv| outcome(kv.key(), kv.value())).collect(),
    };
    records.turns.sort_by_key(|place| place.create_revision);
    Ok(records)
}

fn at(revision: i64) -> GetOptions {
    GetOptions::new().with_revision(revision).with_serializable()
}

/// The intent and the hold as of one revision.
pub(super) async fn hold_and_intent(
    connection: &Connection,
    keys: &Keys,
) -> Result<(Option<KeyValue>, Option<KeyValue>), Error> {
    let (revision, intent) = intent(connection, keys).await?;
    let mut hold = range(connection, keys.hold(), at(revision)).await?;
    Ok((intent, hold.take_kvs().pop()))
}

/// The intent, and the revision as of which everything else is to be read.
async fn intent(connection: &Connection, keys: &Keys) -> Result<(i64, Option<KeyValue>), Error> {
    let mut answer = range(connection, keys.intent(), GetOptions::new()).await?;
    let revision = answer.header().map(ResponseHeader::revision).unwrap_or_default();
    Ok((revision, answer.take_kvs().pop()))
}

async fn range(connection: &Connection, key: String, options: GetOptions) -> Result<GetResponse, Error> {
    range_within(connection, READ_DEADLINE, key, options).await
}

async fn range_within(
    connection: &Connection,
    deadline: Duration,
    key: String,
    options: GetOptions,
) -> Result<GetResponse, Error> {
    connection
        .call("Range", deadline, |mut client| {
            let (key, options) = (key.clone(), options.clone());
            async move { client.get(key, Some(options)).await }
        })
        .await
}

pub(super) fn stored<T: serde::de::DeserializeOwned>(kv: &KeyValue) -> Stored<T> {
    Stored { mod_revision: kv.mod_revision(), value: read(kv.value()) }
}

fn place(kv: &KeyValue) -> Place {
    Place { lease: kv.lease(), create_revision: kv.create_revision(), value: read(kv.value()) }
}

/// The outcome of the member that the key names. That there is a record is enough to end the round for that member: one
/// that cannot be read (of a newer release, say) is an outcome that is not known here, and is not written over.
fn outcome(key: &[u8], value: &[u8]) -> Option<(MemberId, Outcome)> {
    let member = str::from_utf8(key).ok()?.rsplit('/').next()?.parse().ok()?;
    Some((member, read(value).map_or(Outcome::Unknown, |record: RoundRecord| record.outcome)))
}

pub(super) fn local_error(endpoint: &str, unreadable: &Unreadable) -> Error {
    Error::new(Class::Refused, "Txn", endpoint, unreadable.to_string())
}

/// In one transaction: the turn's key is there as it was made, there is no intent, no hold was written after the one that
/// was seen (0: none was); then the intent is written. Without a lease: it must outlive its writer.
pub async fn write_intent(
    cluster: &Cluster,
    intent: &crate::plan::record::Intent,
    turn: Option<Turn>,
    hold_seen: i64,
) -> Written {
    let keys = keys(cluster);
    let value = match write(intent) {
        Ok(value) => value,
        Err(unreadable) => {
            return Written::Failed(Blocked::new(Reason::EtcdUnavailable, format!("the intent: {unreadable}")));
        }
    };
    let mut compares = vec![
        Compare::create_revision(keys.intent(), CompareOp::Equal, 0),
        // A later one has a higher revision. One that was seen and was over may have vanished since: it has 0.
        Compare::mod_revision(keys.hold(), CompareOp::Less, hold_seen.saturating_add(1)),
    ];
    if let Some(turn) = turn {
        compares.push(Compare::create_revision(keys.turn(turn.lease), CompareOp::Equal, turn.create_revision));
    }
    let txn = Txn::new().when(compares).and_then([TxnOp::put(keys.intent(), value, None)]);
    // One member only: a second try of a lost write would find the first one's intent and call it somebody else's.
    let Some(connection) = cluster.through_others().await.into_iter().next() else {
        return Written::Failed(Blocked::new(Reason::EtcdUnavailable, "no connection for the intent"));
    };
    match send_txn(&connection, cluster.etcd().request_timeout, &txn).await {
        Ok(answer) if answer.succeeded() => match answer.header() {
            Some(header) => Written::At(header.revision()),
            None => Written::Unclear("the answer has no header".to_owned()),
        },
        Ok(_) => Written::Refused("the turn, the intent or the hold changed".to_owned()),
        Err(error) if error.is_refusal() => Written::Failed(error.blocked()),
        Err(error) => Written::Unclear(error.to_string()),
    }
}

/// Writes an outcome and clears the intent it belongs to; keeps the newest `limit` rounds.
///
/// # Errors
///
/// [`Reason::Nospace`]: etcd refused the record. The intent is gone all the same.
pub async fn settle(cluster: &Cluster, settle: &Settle, limit: usize) -> Result<(), Blocked> {
    let mut last = None;
    for connection in cluster.through_others().await {
        match settle_through(cluster, &connection, settle).await {
            Ok(()) => {
                if settle.record.is_some()
                    && let Err(error) = trim(cluster, &connection, limit).await
                {
                    tracing::debug!(%error, "old rounds could not be removed; the next record tries again");
                }
                return Ok(());
            }
            Err(error) if error.is_refusal() => return Err(error.blocked()),
            // Compare and delete again is harmless: it names a revision.
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(|| Blocked::new(Reason::EtcdUnavailable, "no connection"), |error| error.blocked()))
}

async fn settle_through(cluster: &Cluster, connection: &Connection, settle: &Settle) -> Result<(), Error> {
    let keys = keys(cluster);
    let deadline = cluster.etcd().request_timeout;
    let put = match &settle.record {
        None => None,
        Some(record) => {
            let value = write(record).map_err(|unreadable| local_error(connection.url(), &unreadable))?;
            let key = keys.round_member(record.round, record.member);
            let put = TxnOp::put(key.clone(), value, None);
            if matches!(record.outcome, Outcome::Skipped(_) | Outcome::Unknown) {
                // What is on record stays: whoever settled our intent knows more than that we gave up, or lost sight of it.
                let absent = Compare::create_revision(key, CompareOp::Equal, 0);
                Some(TxnOp::txn(Txn::new().when([absent]).and_then([put])))
            } else {
                Some(put)
            }
        }
    };
    let mut txn = Txn::new();
    let mut then: Vec<TxnOp> = put.clone().into_iter().collect();
    if let Some(revision) = settle.intent {
        txn = txn.when([Compare::mod_revision(keys.intent(), CompareOp::Equal, revision)]);
        then.push(TxnOp::delete(keys.intent(), None));
    }
    txn = txn.and_then(then);
    if settle.owner
        && let Some(put) = put
    {
        txn = txn.or_else([put]);
    }
    match send_txn(connection, deadline, &txn).await {
        Ok(_) => Ok(()),
        Err(error) => {
            // Under NOSPACE a transaction with a put is refused. The intent must go all the same.
            if error.class == Class::Nospace
                && let Some(revision) = settle.intent
            {
                delete_as_seen(connection, &keys.intent(), revision, deadline).await?;
                if settle.record.is_none() {
                    return Ok(());
                }
            }
            Err(error)
        }
    }
}

pub(super) async fn send_txn(connection: &Connection, deadline: Duration, txn: &Txn) -> Result<TxnResponse, Error> {
    connection
        .call("Txn", deadline, |mut client| {
            let txn = txn.clone();
            async move { client.txn(txn).await }
        })
        .await
}

/// Deletes a key if it still is at this revision, under NOSPACE too; false when it is not. Up to 3.5.6 even a transaction
/// that only deletes is refused then, so there the revision is compared by reading first; nobody can write another value
/// meanwhile, since that is refused too.
pub(super) async fn delete_as_seen(
    connection: &Connection,
    key: &str,
    revision: i64,
    deadline: Duration,
) -> Result<bool, Error> {
    let txn =
        Txn::new().when([Compare::mod_revision(key, CompareOp::Equal, revision)]).and_then([TxnOp::delete(key, None)]);
    match send_txn(connection, deadline, &txn).await {
        Ok(answer) => return Ok(answer.succeeded()),
        Err(error) if error.class == Class::Nospace => {}
        Err(error) => return Err(error),
    }
    let found = connection.call("Range", deadline, |mut client| async move { client.get(key, None).await }).await?;
    if found.kvs().first().is_none_or(|kv| kv.mod_revision() != revision) {
        return Ok(false);
    }
    connection.call("DeleteRange", deadline, |mut client| async move { client.delete(key, None).await }).await?;
    Ok(true)
}

/// Most rounds that are read one by one, where together they are too much, or are removed at a time.
const MOST_ALONE: usize = 64;

/// The newest `limit` recorded rounds, newest first. What cannot be read or believed is left out ([`kept`]).
pub async fn history(cluster: &Cluster, limit: usize) -> Result<Vec<RoundRecord>, Error> {
    let mut last = None;
    for connection in cluster.through_others().await {
        match history_through(cluster, &connection, limit).await {
            Ok(rounds) => return Ok(rounds),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::new(Class::Unavailable, "Range", &cluster.etcd().endpoint, "no connection")))
}

/// In one answer; where somebody has put so much under the prefix that it is longer than an answer may be, round by round,
/// without those that are too long by themselves. No more than one answer is in memory at a time.
async fn history_through(cluster: &Cluster, connection: &Connection, limit: usize) -> Result<Vec<RoundRecord>, Error> {
    let (keys, deadline, now) = (keys(cluster), cluster.etcd().request_timeout, Clock::new().now().wall);
    let read_all = |found: &GetResponse| -> Vec<RoundRecord> {
        kept(found.kvs().iter().filter_map(|kv| recorded_in(kv, &keys)), limit, now)
    };
    match range_within(connection, deadline, keys.rounds(), newest()).await {
        Ok(found) => return Ok(read_all(&found)),
        Err(error) if error.class == Class::Refused => {}
        Err(error) => return Err(error),
    }
    let mut rounds = Vec::new();
    let recorded = recorded(connection, deadline, &keys).await?;
    let believed = recorded.iter().rev().filter(|round| !round.is_far_ahead(now));
    for round in believed.take(limit.min(MOST_ALONE)) {
        match range_within(connection, deadline, keys.round(*round), newest()).await {
            Ok(found) => rounds.extend(read_all(&found)),
            Err(error) if error.class == Class::Refused => {}
            Err(error) => return Err(error),
        }
    }
    Ok(rounds)
}

/// What was written last: of more than can be read, the oldest is what may be missed.
fn newest() -> GetOptions {
    GetOptions::new().with_prefix().with_limit(10 * MAX_ENTRIES).with_sort(SortTarget::Mod, SortOrder::Descend)
}

/// The record in a key, if it is of the round and the member that the key names.
fn recorded_in(kv: &KeyValue, keys: &Keys) -> Option<RoundRecord> {
    let record: RoundRecord = read(kv.value()).ok()?;
    (kv.key() == keys.round_member(record.round, record.member).as_bytes()).then_some(record)
}

/// The rounds that have a record, whatever is in it.
async fn recorded(connection: &Connection, deadline: Duration, keys: &Keys) -> Result<BTreeSet<RoundId>, Error> {
    let prefix = keys.rounds();
    let found = range_within(connection, deadline, prefix.clone(), newest().with_keys_only()).await?;
    let round = |kv: &KeyValue| kv.key_str().ok()?.strip_prefix(&prefix)?.split('/').next()?.parse().ok();
    Ok(found.kvs().iter().filter_map(round).collect())
}

/// Removes all but the newest `limit` rounds, and those that nobody can have recorded yet: they would crowd out the others.
async fn trim(cluster: &Cluster, connection: &Connection, limit: usize) -> Result<(), Error> {
    let keys = keys(cluster);
    let deadline = cluster.etcd().request_timeout;
    let now = Clock::new().now().wall;
    let rounds = recorded(connection, deadline, &keys).await?;
    let (ahead, rounds): (Vec<_>, Vec<_>) = rounds.into_iter().rev().partition(|round| round.is_far_ahead(now));
    // The next record removes more: who waits for this one is not to wait for all that somebody else has written.
    for round in ahead.into_iter().chain(rounds.into_iter().skip(limit)).take(MOST_ALONE) {
        let key = keys.round(round);
        connection
            .call("DeleteRange", deadline, |mut client| {
                let key = key.clone();
                async move { client.delete(key, Some(DeleteOptions::new().with_prefix())).await }
            })
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::reason::Failure;

    const KEY: &[u8] = b"/etcd-janitor/v1/rounds/cron-20261122T000000Z/000000000000002a";
    const ROUND: &str = "cron-20261122T000000Z";

    fn told(value: &str) -> Option<(MemberId, Outcome)> {
        outcome(KEY, value.as_bytes())
    }

    #[test]
    fn a_record_is_an_outcome_of_the_member_in_its_key_whatever_is_in_it() {
        let of = |v: u32, member: &str, outcome: &str| {
            format!(
                r#"{{"v":{v},"round":"{ROUND}","member":"{member}","name":"m","ended_at":"2026-11-22T00:00:00Z",{outcome}}}"#
            )
        };
        let restarted = r#""outcome":"failed","reason":"restarted""#;
        let failed = Some((MemberId(0x2a), Outcome::Failed(Failure::Restarted)));
        assert_eq!(told(&of(1, "000000000000002a", restarted)), failed);
        assert_eq!(told(&of(1, "0000000000000007", restarted)), failed);
        // Of a newer release, with a reason that it has added, and no record at all.
        let unknown = Some((MemberId(0x2a), Outcome::Unknown));
        assert_eq!(told(&of(2, "000000000000002a", restarted)), unknown);
        assert_eq!(told(&of(1, "000000000000002a", r#""outcome":"skipped","reason":"full_moon""#)), unknown);
        assert_eq!(told("rubbish"), unknown);
        assert_eq!(outcome(b"/etcd-janitor/v1/rounds/cron-20261122T000000Z/elsewhere", b"{}"), None);
    }
}
