//! From the sources to one valid configuration.

use std::collections::{BTreeMap, BTreeSet};

use super::combine;
use super::keys::{self, Key, Mode};
use super::problem::{Invalid, Problem};
use super::source::{self, Fingerprint, Given, Origin, Source};
use super::value::{self, Raw};
use super::{
    Alarms, Auth, Compaction, Config, Defrag, Etcd, History, Http, ListenerTls, Log, MetricsUrls, Retention, Tls, Turn,
};
use crate::plan::schedule::Schedule;

/// A valid configuration and how it came about.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// Every key with its value, in the order of the table.
    pub effective: Vec<Effective>,
    /// What is valid and probably not meant, one sentence each.
    pub warnings: Vec<String>,
    /// Of the file as it was read; none without a file.
    pub fingerprint: Option<Fingerprint>,
}

/// One key as it is in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// Key path.
    pub path: &'static str,
    /// As written by whoever set it last.
    pub raw: Raw,
    /// Who that was.
    pub origin: Origin,
}

/// Reads and checks everything.
///
/// # Errors
///
/// Every problem of every source and combination, at once.
pub fn load(source: &Source) -> Result<Loaded, Invalid> {
    let mut problems = Vec::new();
    let mut given = Vec::new();
    let mut fingerprint = None;
    if let Some(file) = &source.file {
        let (from_file, of_file) = source::from_file(file, &mut problems);
        given.extend(from_file);
        fingerprint = of_file;
    }
    given.extend(source::from_environment(&source.env, &mut problems));
    given.extend(source::from_flags(&source.flags, &mut problems));

    let mut values = Values::defaults();
    let mut broken = BTreeSet::new();
    for Given { path, raw, origin } in given {
        let Some(key) = keys::find(&path) else { continue };
        let path = key.spec().path;
        match key.check(&raw) {
            Ok(()) => {
                broken.remove(path);
                values.0.insert(path, (raw, origin));
            }
            // The default takes its place, so that the other checks can go on; none of them may blame this key.
            Err(wrong) => {
                problems.push(Problem::wrong(&origin, path, raw.shown(), wrong));
                broken.insert(path);
            }
        }
    }

    let mut warnings = Vec::new();
    let config = assemble(&values, &mut problems, &broken);
    if let Some(config) = &config {
        combine::check(config, &mut |combination| match combination {
            combine::Finding::Refused { keys, found, allowed } => {
                if !keys.iter().any(|key| broken.contains(key)) {
                    problems.push(values.refuse(keys, found, allowed));
                }
            }
            combine::Finding::Doubtful(sentence) => warnings.push(sentence),
        });
    }
    match config {
        Some(config) if problems.is_empty() => {
            let effective = values.in_order();
            Ok(Loaded { config, effective, warnings, fingerprint })
        }
        _ => Err(Invalid { problems, fingerprint }),
    }
}

/// The configuration that is in force when nobody sets anything.
pub(super) fn defaults() -> Result<Config, Invalid> {
    load(&Source::default()).map(|loaded| loaded.config)
}

/// The value of every key, each of which its key can read.
struct Values(BTreeMap<&'static str, (Raw, Origin)>);

impl Values {
    fn defaults() -> Values {
        let default = |key: &&dyn keys::AnyKey| (key.spec().path, (key.spec().default_raw(), Origin::Default));
        Values(keys::ALL.iter().map(default).collect())
    }

    fn in_order(&self) -> Vec<Effective> {
        let one = |key: &&dyn keys::AnyKey| {
            let path = key.spec().path;
            let (raw, origin) = self.0.get(path)?.clone();
            Some(Effective { path, raw, origin })
        };
        keys::ALL.iter().filter_map(one).collect()
    }

    fn get<T>(&self, key: &Key<T>, problems: &mut Vec<Problem>) -> Option<T> {
        let (raw, origin) = self.0.get(key.spec.path)?;
        key.read(raw).map_err(|wrong| problems.push(Problem::wrong(origin, key.spec.path, raw.shown(), wrong))).ok()
    }

    fn raw(&self, path: &str) -> Raw {
        self.0.get(path).map_or(Raw::Nothing, |(raw, _)| raw.clone())
    }

    /// A combination is blamed on whoever set any of its keys.
    fn refuse(&self, keys: &[&str], found: String, allowed: &str) -> Problem {
        let mut origins: Vec<String> = Vec::new();
        for (_, origin) in keys.iter().filter_map(|key| self.0.get(key)) {
            let origin = origin.to_string();
            if !origins.contains(&origin) {
                origins.push(origin);
            }
        }
        origins.retain(|origin| *origin != Origin::Default.to_string());
        let origin = if origins.is_empty() { Origin::Default.to_string() } else { origins.join(" and ") };
        Problem { origin, key: keys.join(" and "), found, allowed: allowed.to_owned() }
    }
}

fn assemble(values: &Values, problems: &mut Vec<Problem>, broken: &BTreeSet<&str>) -> Option<Config> {
    let retention = retention(values, problems, broken);
    let schedule = zoned_schedule(values, problems, broken);
    let mut read = Reader { values, problems };
    let r = &mut read;
    Some(Config {
        etcd: Etcd {
            endpoint: r.get(&keys::ENDPOINT)?,
            peers: r.get(&keys::PEERS)?,
            metrics: MetricsUrls { local: r.get(&keys::METRICS_LOCAL)?, peers: r.get(&keys::METRICS_PEERS)? },
            member_name: r.get(&keys::MEMBER_NAME)?,
            prefix: r.get(&keys::PREFIX)?,
            tls: Tls {
                ca_file: r.get(&keys::CA_FILE)?,
                cert_file: r.get(&keys::CERT_FILE)?,
                key_file: r.get(&keys::KEY_FILE)?,
                server_name: r.get(&keys::SERVER_NAME)?,
            },
            auth: Auth { username: r.get(&keys::USERNAME)?, password_file: r.get(&keys::PASSWORD_FILE)? },
            request_timeout: r.get(&keys::REQUEST_TIMEOUT)?,
        },
        dry_run: r.get(&keys::DRY_RUN)?,
        compaction: Compaction {
            enabled: r.get(&keys::COMPACTION_ENABLED)?,
            schedule: r.get(&keys::COMPACTION_SCHEDULE)?,
            retention: retention?,
            physical: r.get(&keys::PHYSICAL)?,
            when_kubernetes: r.get(&keys::WHEN_KUBERNETES)?,
            when_etcd_compacts: r.get(&keys::WHEN_ETCD_COMPACTS)?,
        },
        defrag: Defrag {
            enabled: r.get(&keys::DEFRAG_ENABLED)?,
            schedule: schedule?,
            jitter: r.get(&keys::JITTER)?,
            window: r.get(&keys::WINDOW)?,
            rule: r.get(&keys::RULE)?,
            urgent_at: r.get(&keys::URGENT_AT)?,
            timeout: r.get(&keys::TIMEOUT)?,
            pause_between: r.get(&keys::PAUSE_BETWEEN)?,
            leader_wait: r.get(&keys::LEADER_WAIT)?,
            drain: r.get(&keys::DRAIN)?,
            small_cluster: r.get(&keys::SMALL_CLUSTER)?,
            liveness_budget: r.get(&keys::LIVENESS_BUDGET).map(|budget| (!budget.is_zero()).then_some(budget))?,
            unsafe_versions: r.get(&keys::UNSAFE_VERSIONS)?,
            data_dir: r.get(&keys::DATA_DIR)?,
            verify: r.get(&keys::VERIFY)?,
        },
        turn: Turn { lease_ttl: r.get(&keys::LEASE_TTL)? },
        alarms: Alarms {
            rescue: r.get(&keys::RESCUE)?,
            rescue_retention: r.get(&keys::RESCUE_RETENTION)?,
            disarm_below: r.get(&keys::DISARM_BELOW)?,
            compact_to_head: r.get(&keys::COMPACT_TO_HEAD)?,
            quota: r.get(&keys::QUOTA)?,
        },
        http: Http {
            listen: r.get(&keys::LISTEN)?,
            max_connections: usize::try_from(r.get(&keys::MAX_CONNECTIONS)?).ok()?,
            tls: ListenerTls { cert_file: r.get(&keys::HTTP_CERT_FILE)?, key_file: r.get(&keys::HTTP_KEY_FILE)? },
            bearer_token_file: r.get(&keys::BEARER_TOKEN_FILE)?,
        },
        history: History { limit: usize::try_from(r.get(&keys::HISTORY_LIMIT)?).ok()? },
        log: Log { format: r.get(&keys::LOG_FORMAT)?, level: r.get(&keys::LOG_LEVEL)? },
    })
}

struct Reader<'a> {
    values: &'a Values,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn get<T>(&mut self, key: &Key<T>) -> Option<T> {
        self.values.get(key, self.problems)
    }
}

/// The retention in the unit of its mode. One that fits neither is replaced after it was reported, so that the rest
/// of the configuration is still checked.
fn retention(values: &Values, problems: &mut Vec<Problem>, broken: &BTreeSet<&str>) -> Option<Retention> {
    let written = values.get(&keys::RETENTION, problems)?;
    let raw = values.raw(keys::RETENTION.spec.path);
    let read = match values.get(&keys::MODE, problems)? {
        Mode::Periodic => value::duration(&raw, std::time::Duration::from_secs(1), value::LONGEST)
            .map(Retention::Age)
            .map_err(|wrong| {
                (
                    wrong.found.unwrap_or(format!("periodic and {written:?}")),
                    "mode periodic: a duration from 1s to 3650d, such as 1h30m",
                )
            }),
        Mode::Revision => value::count(&raw, 1, i64::MAX as u64)
            .map(Retention::Revisions)
            .map_err(|_| (format!("revision and {written:?}"), "mode revision: a whole number from 1, such as 10000")),
    };
    match read {
        Ok(retention) => Some(retention),
        Err((found, allowed)) => {
            let keys = [keys::MODE.spec.path, keys::RETENTION.spec.path];
            if !keys.iter().any(|key| broken.contains(key)) {
                problems.push(values.refuse(&keys, found, allowed));
            }
            Some(Retention::Age(value::LONGEST))
        }
    }
}

/// The defrag schedule in its zone. A zone can lack an expression's only occurrences.
fn zoned_schedule(values: &Values, problems: &mut Vec<Problem>, broken: &BTreeSet<&str>) -> Option<Schedule> {
    let schedule = values.get(&keys::DEFRAG_SCHEDULE, problems)?;
    let zone = values.get(&keys::TIME_ZONE, problems)?;
    match Schedule::parse(schedule.text(), zone) {
        Ok(schedule) => Some(schedule),
        Err(error) => {
            let keys = [keys::DEFRAG_SCHEDULE.spec.path, keys::TIME_ZONE.spec.path];
            if !keys.iter().any(|key| broken.contains(key)) {
                problems.push(values.refuse(&keys, error.found, &error.allowed));
            }
            Some(schedule)
        }
    }
}
