//! Reads and tries what is judged.

use super::judge;
use super::{Check, Result};
use crate::cli::talk::{Daemon, Failure, ask};
use crate::cli::token;
use crate::config::{Config, Loaded, Source};
use crate::daemon::once::clients;
use crate::etcd::{self, Class, Clock, Cluster, Error};
use crate::plan::member::{RoundId, RoundKind};
use crate::plan::snapshot::Snapshot;

/// Everything, in the order in which it stands.
pub(super) async fn gather(source: &Source, loaded: &Loaded) -> Vec<Check> {
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
    let cluster = match clients(config) {
        Ok(cluster) => cluster,
        Err(error) => {
            checks.push(Check::blocked("tls", "files of the connection can be read", &error.blocked()));
            return checks;
        }
    };
    checks.extend(judge::certificates(&cluster.certificates(), &config.etcd.endpoint, now));
    let identity = match cluster.identify().await {
        Ok(identity) => {
            let detail = format!("{} is {} ({})", config.etcd.endpoint, identity.name, identity.member);
            checks.push(Check::passed("local member", "the endpoint is one member, and the right one", detail));
            identity
        }
        Err(error) => {
            checks.push(Check::blocked(
                "local member",
                "the endpoint is one member, and the right one",
                &error.blocked(),
            ));
            return checks;
        }
    };
    let no_round = RoundId { kind: RoundKind::Manual, due: chrono::DateTime::UNIX_EPOCH };
    let look = etcd::look(&cluster, &clock, no_round).await;
    let history = etcd::history(&cluster).await;
    checks.extend(judge::members(&look, identity.member));
    checks.extend(rights(&cluster, config).await);
    checks.extend(judge::clocks(&etcd::member_clocks(&cluster).await));
    checks.extend(judge::quotas(&look, config));
    checks.extend(judge::releases(&look, config));
    checks.extend(judge::budget(&look, identity.member, &history.unwrap_or_default(), config));
    match etcd::survey(&cluster, &clock).await {
        Ok(survey) => {
            let daemon = daemon.as_ref().ok().map(AsRef::as_ref);
            checks.extend(judge::compaction(survey.kubernetes, daemon, config));
        }
        Err(error) => checks.push(Check::blocked("compaction", "compaction is nobody else's", &error.blocked())),
    }
    if let Some(data_dir) = config.defrag.data_dir.clone() {
        let what = "the free space for a copy is known";
        checks.push(match etcd::disk(data_dir).await {
            Ok(disk) => Check::passed("disk", what, format!("{} free", crate::http::bytes(disk.free))),
            Err(blocked) => Check::blocked("disk", what, &blocked),
        });
    }
    checks
}

fn the_daemon(config: &Config) -> std::result::Result<Box<Snapshot>, String> {
    let listen = Daemon::of(config);
    match ask(&listen, "GET", "/api/v1/status", token(config).as_deref()) {
        Ok((200, body)) => serde_json::from_str(&body).map_err(|error| format!("its answer cannot be read: {error}")),
        Ok((status, _)) => Err(format!("{listen} answers HTTP {status}")),
        Err(Failure::Unreachable(error)) => Err(format!("nobody listens on {listen}: {error}")),
        Err(Failure::Silent(error)) => Err(format!("{listen} does not answer: {error}")),
    }
}

/// What the credentials allow, by trying.
async fn rights(cluster: &Cluster, config: &Config) -> Vec<Check> {
    const SECTION: &str = "rights";
    let judged = |what: String, tried: std::result::Result<(), Error>| match tried {
        Ok(()) => Check::passed(SECTION, what, ""),
        Err(error) if error.class == Class::Nospace => {
            let check = Check::passed(SECTION, what, error.text);
            check.other(Result::NotTried, "NOSPACE is up: etcd refuses every write", "operating.md#nospace")
        }
        Err(error) => Check::blocked(SECTION, what, &error.blocked()),
    };
    let prefix = &config.etcd.prefix;
    vec![
        judged(format!("keys below {prefix} can be read, written and deleted"), etcd::try_key(cluster).await),
        judged("compact_rev_key can be read".to_owned(), etcd::try_kubernetes_key(cluster).await),
        judged("a lease can be granted and revoked".to_owned(), etcd::try_lease(cluster).await),
        judged("the user may defragment".to_owned(), etcd::try_maintenance(cluster).await),
    ]
}
