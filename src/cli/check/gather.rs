//! Reads and tries what is judged.

use chrono::{DateTime, Utc};

use super::judge::{self, Away};
use super::{Check, Result, janitors};
use crate::cli::talk::{Daemon, Failure, ask};
use crate::cli::token;
use crate::config::{Config, Loaded, Source};
use crate::daemon::once::clients;
use crate::etcd::pem::{self, Origin};
use crate::etcd::{self, Class, Clock, Cluster, Error, Identity};
use crate::plan::member::{RoundId, RoundKind};
use crate::plan::reason::Reason;
use crate::plan::snapshot::{Certificate, Snapshot};

/// What there is to show.
pub(super) struct Gathered {
    /// In the order in which they stand.
    pub(super) checks: Vec<Check>,
    /// Neither daemon nor etcd answered.
    pub(super) nobody: bool,
}

const RIGHTS: &str = "rights";
/// What is asked of etcd once it is known who answers.
const ASKED_OF_ETCD: [(&str, &str); 8] = [
    ("members", "every member answers, and they agree"),
    ("other janitors", "they are there, with this configuration"),
    (RIGHTS, "the credentials allow what is needed"),
    ("clocks", "the members' clocks agree"),
    ("quota", "the quotas are known"),
    ("releases", "all members run releases without known defects"),
    ("forecast", "a defrag of the local member fits"),
    ("compaction", "compaction is nobody else's"),
];

/// Everything.
pub(super) async fn gather(source: &Source, loaded: &Loaded) -> Gathered {
    let config = &loaded.config;
    let clock = Clock::new();
    let now = clock.now().wall;
    let mut checks = vec![Check::passed("configuration", "it is valid", source.name())];
    checks.extend(loaded.warnings.iter().map(|warning| {
        let check = Check::passed("configuration", "it means what it says", warning.to_string());
        check.other(Result::Warning, "", "configuration.md")
    }));
    let daemon = the_daemon(config);
    checks.extend(judge::daemon(&daemon, now));
    let unknown = || ASKED_OF_ETCD.map(|(section, what)| Check::not_tried(section, what, "etcd must answer first"));
    let mut nobody = false;
    match clients(config) {
        Ok(cluster) => {
            let certificates = [cluster.certificates(), of_the_listener(config, daemon.as_deref().ok())].concat();
            checks.extend(judge::certificates(&certificates, &config.etcd.endpoint, now));
            checks.extend(shown(&cluster, "the local member", Some(&config.etcd.endpoint), now).await);
            let what = "the endpoint is one member, and the right one";
            match cluster.identify().await {
                Ok(identity) => {
                    let detail = format!("{} is {} ({})", config.etcd.endpoint, identity.name, identity.member);
                    let found = Check::passed("local member", what, detail);
                    let (tls, others) = asked(&cluster, &clock, &identity, daemon.as_deref().ok(), config).await;
                    checks.extend(tls.into_iter().chain([found]).chain(others));
                }
                Err(error) => {
                    let blocked = error.blocked();
                    let silent = daemon.as_ref().err().is_some_and(|away| away.silent);
                    nobody = silent && blocked.reason == Reason::EtcdUnavailable;
                    checks.push(Check::blocked("local member", what, &blocked));
                    // Logged in and then refused: which rights are there can be asked all the same.
                    let lacks_a_right = error.class == Class::Auth && error.method != "Authenticate";
                    for check in unknown() {
                        if lacks_a_right && check.section == RIGHTS {
                            checks.extend(rights(&cluster, config).await);
                        } else {
                            checks.push(check);
                        }
                    }
                }
            }
        }
        Err(error) => {
            checks.push(Check::blocked("tls", "files of the connection can be read", &error.blocked()));
            checks.extend(unknown());
        }
    }
    if let Some(data_dir) = config.defrag.data_dir.clone() {
        let what = "the free space for a copy is known";
        checks.push(match etcd::disk(data_dir).await {
            Ok(disk) => Check::passed("disk", what, format!("{} free", crate::http::bytes(disk.free))),
            Err(blocked) => Check::blocked("disk", what, &blocked),
        });
    }
    Gathered { checks, nobody }
}

/// What the others' certificates are like, and everything else that etcd and the other janitors are asked.
async fn asked(
    cluster: &Cluster,
    clock: &Clock,
    identity: &Identity,
    daemon: Option<&Snapshot>,
    config: &Config,
) -> (Vec<Check>, Vec<Check>) {
    let (me, now) = (identity.member, clock.now().wall);
    let mut tls = Vec::new();
    for member in cluster.listed().iter().filter(|member| member.id != me) {
        // Who is not reached because its certificate has ended, shows it where it says that it serves.
        let reached = cluster.member(member).await.map(|connection| connection.url().to_owned());
        let url = reached.ok().or_else(|| member.client_urls.first().cloned());
        tls.extend(shown(cluster, &member.name, url.as_deref(), now).await);
    }
    let no_round = RoundId { kind: RoundKind::Manual, due: chrono::DateTime::UNIX_EPOCH };
    let look = etcd::look(cluster, clock, no_round).await;
    let history = etcd::history(cluster, config.history.limit).await.unwrap_or_default();
    let mut checks = judge::members(&look, me);
    checks.extend(janitors::judge(&janitors::ask_all(cluster, me, config).await, &history, me, config));
    checks.extend(rights(cluster, config).await);
    checks.extend(judge::clocks(&etcd::member_clocks(cluster).await));
    checks.extend(judge::quotas(&look, config));
    checks.extend(judge::releases(&look, config));
    checks.extend(judge::budget(&look, me, &history, config));
    match etcd::survey(cluster, clock).await {
        Ok(survey) => checks.extend(judge::compaction(survey.kubernetes, daemon, config)),
        Err(error) => checks.push(Check::blocked("compaction", "compaction is nobody else's", &error.blocked())),
    }
    (tls, checks)
}

async fn shown(cluster: &Cluster, member: &str, url: Option<&str>, now: DateTime<Utc>) -> Option<Check> {
    let url = url.filter(|url| url.starts_with("https://"))?;
    let seen = etcd::shown_at(cluster, url).await.map_err(|error| error.blocked());
    Some(judge::shown(member, &seen, now))
}

/// The certificates of our own port: those in force, or where no daemon tells them those of the file.
fn of_the_listener(config: &Config, daemon: Option<&Snapshot>) -> Vec<Certificate> {
    if let Some(daemon) = daemon {
        return daemon.certificates.iter().filter(|certificate| certificate.usage == "http").cloned().collect();
    }
    let Some(file) = &config.http.tls.cert_file else { return Vec::new() };
    let origin = Origin::new("http.tls.cert_file", file);
    let chain = pem::read(&origin, file).and_then(|text| pem::certificates(&origin, &text)).unwrap_or_default();
    let ends = chain.iter().filter_map(|der| pem::validity(der)).map(|period| period.not_after);
    ends.map(|not_after| Certificate { usage: "http".to_owned(), not_after }).collect()
}

fn the_daemon(config: &Config) -> std::result::Result<Box<Snapshot>, Away> {
    let listen = Daemon::of(config);
    let start = "start `etcd-janitor run`, or run this command in its container with the same http.listen";
    let (text, hint, silent) = match ask(&listen, "GET", "/api/v1/status", token(config).as_deref()) {
        Ok((200, body)) => match serde_json::from_str(&body) {
            Ok(snapshot) => return Ok(snapshot),
            Err(error) => (format!("its answer cannot be read: {error}"), "is it of another release?", false),
        },
        Ok((401, _)) => {
            (format!("{listen} asks for a token"), "set http.bearer_token_file as the daemon has it", false)
        }
        Ok((status, _)) => {
            (format!("{listen} answers HTTP {status}"), "is it the daemon? compare http.listen on both sides", false)
        }
        Err(Failure::Unreachable(error)) => (format!("nobody listens on {listen}: {error}"), start, true),
        Err(Failure::Silent(error)) => {
            let hint = "compare http.listen and http.tls with the daemon's, and look at its log";
            (format!("{listen} does not answer: {error}"), hint, true)
        }
    };
    Err(Away { text, hint, silent })
}

/// What the credentials allow, by trying.
async fn rights(cluster: &Cluster, config: &Config) -> Vec<Check> {
    let judged = |what: String, tried: std::result::Result<(), Error>| match tried {
        Ok(()) => Check::passed(RIGHTS, what, ""),
        Err(error) if error.class == Class::Nospace => {
            let check = Check::passed(RIGHTS, what, error.text);
            check.other(Result::NotTried, "NOSPACE is up: etcd refuses every write", "operating.md#nospace")
        }
        Err(error) => Check::blocked(RIGHTS, what, &error.blocked()),
    };
    let prefix = &config.etcd.prefix;
    vec![
        judged(format!("keys below {prefix} can be read, written and deleted"), etcd::try_key(cluster).await),
        judged("compact_rev_key can be read".to_owned(), etcd::try_kubernetes_key(cluster).await),
        judged("a lease can be granted and revoked".to_owned(), etcd::try_lease(cluster).await),
        judged("the user may defragment".to_owned(), etcd::try_maintenance(cluster).await),
    ]
}
