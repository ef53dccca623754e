//! The other members' janitors: whether they are there, and go by the same configuration.
//!
//! What is sent is one GET, with no secret in it: see `Daemon::of_another`.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use hyper::Uri;

use super::{Check, Result};
use crate::cli::talk::{Daemon, Failure, ask};
use crate::cli::token;
use crate::config::Config;
use crate::etcd::{Cluster, Listed};
use crate::plan::hold::instant;
use crate::plan::member::{MemberId, RoundKind};
use crate::plan::record::RoundRecord;
use crate::plan::schedule::Schedule;
use crate::plan::snapshot::{Snapshot, TaskKind};

const SECTION: &str = "other janitors";
/// For a name to be looked up.
const LOOK_UP: Duration = Duration::from_secs(2);

/// What was found where a member's janitor should listen.
#[derive(Debug, Clone)]
pub enum Found {
    /// A janitor, whoever's.
    Janitor(Box<Snapshot>),
    /// Nobody listens there; one line.
    Nobody(String),
    /// That could not be found out; one line.
    Unknown(String),
}

/// Asks the janitor beside each other member, on that member's host and our own port.
pub(super) async fn ask_all(cluster: &Cluster, me: MemberId, config: &Config) -> Vec<(Listed, Found)> {
    let members = cluster.listed();
    let hosts = join_all(members.iter().map(|member| address(cluster, member, config.http.listen.port()))).await;
    let asked = members.iter().zip(&hosts).filter(|(member, _)| member.id != me).map(|(member, host)| async {
        let found = match host {
            Err(why) => Found::Unknown(why.clone()),
            Ok(at) if hosts.iter().flatten().filter(|other| other.ip() == at.ip()).count() > 1 => Found::Unknown(
                format!("several members have the address {}: their janitors cannot be told apart", at.ip()),
            ),
            Ok(at) => ask_at(config, *at).await,
        };
        (member.clone(), found)
    });
    join_all(asked).await
}

/// Where the member's janitor should listen: the host by which the member is reached from here, and our own port.
async fn address(cluster: &Cluster, member: &Listed, port: u16) -> std::result::Result<SocketAddr, String> {
    let reached = cluster.member(member).await.map(|connection| connection.url().to_owned()).ok();
    let Some(url) = reached.or_else(|| member.client_urls.first().cloned()) else {
        return Err("the member advertises no client URL".to_owned());
    };
    let host = url.parse::<Uri>().ok().and_then(|uri| uri.host().map(|host| host.trim_matches(['[', ']']).to_owned()));
    let Some(host) = host else { return Err(format!("{url} names no host")) };
    match tokio::time::timeout(LOOK_UP, tokio::net::lookup_host((host.as_str(), port))).await {
        Ok(Ok(mut all)) => all.next().ok_or_else(|| format!("{host} has no address")),
        Ok(Err(error)) => Err(format!("{host}: {error}")),
        Err(_) => Err(format!("{host} was not looked up within {} s", LOOK_UP.as_secs())),
    }
}

async fn ask_at(config: &Config, at: SocketAddr) -> Found {
    if is_loopback(config.http.listen.ip()) && !is_loopback(at.ip()) {
        return Found::Unknown(format!(
            "http.listen is {}: a janitor that listens like this one is not reached from another pod; run this command \
             in each",
            config.http.listen
        ));
    }
    let janitor = Daemon::of_another(config, at);
    let token = token(config).filter(|_| janitor.may_have_the_token());
    let asked = tokio::task::spawn_blocking(move || ask(&janitor, "GET", "/api/v1/status", token.as_deref())).await;
    match asked {
        Ok(Ok((200, body))) => match serde_json::from_str(&body) {
            Ok(snapshot) => Found::Janitor(snapshot),
            Err(error) => {
                Found::Unknown(format!("the answer of {at} cannot be read, is it of another release? {error}"))
            }
        },
        Ok(Ok((401, _))) => Found::Unknown(format!(
            "{at} asks for a token, which is sent only to a listener that shows the certificate of http.tls.cert_file"
        )),
        Ok(Ok((status, _))) => Found::Unknown(format!("{at} answers HTTP {status}")),
        Ok(Err(Failure::Unreachable(error))) if error.kind() == ErrorKind::ConnectionRefused => {
            Found::Nobody(format!("nobody listens on {at}"))
        }
        Ok(Err(Failure::Unreachable(error) | Failure::Silent(error))) => Found::Unknown(format!("{at}: {error}")),
        Err(error) => Found::Unknown(error.to_string()),
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// What the other janitors say of themselves, and for those that say nothing what their records tell.
pub fn judge(others: &[(Listed, Found)], history: &[RoundRecord], me: MemberId, config: &Config) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut silent = Vec::new();
    for (member, found) in others {
        let name = if member.name.is_empty() { member.id.to_string() } else { member.name.clone() };
        let what = format!("the janitor of {name} is there, with this configuration");
        let warning = |detail: String, hint: &str, anchor: &str| {
            let check = Check::passed(SECTION, what.clone(), detail);
            check.other(Result::Warning, hint, &format!("operating.md#{anchor}"))
        };
        checks.push(match found {
            Found::Janitor(other) if other.local.is_some_and(|local| local != member.id) => {
                let whose = other.local.map_or_else(String::new, |local| local.to_string());
                silent.push(member.id);
                Check::not_tried(SECTION, what, format!("the janitor of the member {whose} answers there"))
            }
            Found::Janitor(other) if !other.config.valid => warning(
                format!("it has no valid configuration: {}", other.config.problems.join("; ")),
                "`etcd-janitor config check` there says what is wrong, all at once",
                "config_invalid",
            ),
            Found::Janitor(other) => match differences(other, config) {
                none if none.is_empty() => Check::passed(SECTION, what, format!("version {}", other.janitor.version)),
                all => {
                    warning(all.join("; "), "give all janitors of a cluster one configuration", "janitors-that-differ")
                }
            },
            Found::Nobody(text) => {
                silent.push(member.id);
                let hint = "is a janitor missing there, or does it listen elsewhere than http.listen says here?";
                warning(text.clone(), hint, "a-janitor-is-missing")
            }
            Found::Unknown(text) => {
                silent.push(member.id);
                Check::not_tried(SECTION, what, text.clone())
            }
        });
    }
    if config.defrag.enabled {
        checks.extend(strange_rounds(history, me, &silent, &config.defrag.schedule));
    }
    checks
}

/// What another janitor has otherwise than this command's configuration has it.
fn differences(other: &Snapshot, config: &Config) -> Vec<String> {
    let schedule = |enabled: bool, text: &str, zone: &str| match enabled {
        true => format!("{text} ({zone})"),
        false => "disabled".to_owned(),
    };
    let mut pairs = vec![
        ("version", other.janitor.version.clone(), env!("CARGO_PKG_VERSION").to_owned()),
        ("dry_run", other.config.dry_run.to_string(), config.dry_run.to_string()),
    ];
    // Before its member is known it shows no rule.
    pairs
        .extend(other.rule.iter().map(|rule| ("defrag.rule", rule.text.clone(), config.defrag.rule.text().to_owned())));
    for task in &other.tasks {
        let (name, enabled, ours) = match task.task {
            TaskKind::Compaction => ("compaction", config.compaction.enabled, &config.compaction.schedule),
            TaskKind::Defrag => ("defrag", config.defrag.enabled, &config.defrag.schedule),
        };
        let theirs = schedule(task.enabled, &task.schedule, &task.time_zone);
        pairs.push((name, theirs, schedule(enabled, ours.text(), ours.zone().name())));
    }
    let differ = pairs.into_iter().filter(|(_, theirs, ours)| theirs != ours);
    differ.map(|(key, theirs, ours)| format!("{key} there: {theirs}, here: {ours}")).collect()
}

/// Members whose newest scheduled round is no firing of our schedule, of those whose janitors say nothing themselves. A
/// round in which we took part was ours, too, at that time.
fn strange_rounds(history: &[RoundRecord], me: MemberId, silent: &[MemberId], schedule: &Schedule) -> Vec<Check> {
    let cron = || history.iter().filter(|record| record.round.kind == RoundKind::Cron);
    let mut newest: BTreeMap<MemberId, &RoundRecord> = BTreeMap::new();
    for record in cron().filter(|record| silent.contains(&record.member)) {
        newest.entry(record.member).or_insert(record);
    }
    let strange = newest.into_values().filter(|record| {
        let due = record.round.due;
        schedule.last_at_or_before(due) != Some(due) && !cron().any(|one| one.member == me && one.round == record.round)
    });
    let judged = strange.map(|record| {
        let what = format!("rounds of {} are firings of defrag.schedule", record.name);
        let detail = format!("its newest was due at {}; here {schedule}", instant(record.round.due));
        let hint =
            "compare `etcd-janitor config show` in both pods; nothing is wrong if the schedule was changed since";
        Check::passed(SECTION, what, detail).other(Result::Warning, hint, "operating.md#janitors-that-differ")
    });
    judged.collect()
}
