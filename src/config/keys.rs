//! The one table of keys. Defaults, validation, unknown keys, `config show` and the tests of the documents come from it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::value::{self, LONGEST, Raw, Read, Wrong};
use super::{Foreign, Guard, LogFormat, Verify};
use crate::plan::rule::Rule;
use crate::plan::schedule::Schedule;
use crate::plan::zone::Zone;

/// What is said about a key.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Where it stands in the file: `defrag.schedule`.
    pub path: &'static str,
    /// What it is when nobody sets it, as written; lists are empty.
    pub default: &'static str,
    /// What kind of value it takes.
    pub kind: &'static str,
    /// Which values of that kind.
    pub allowed: &'static str,
    /// What it does, in one line.
    pub doc: &'static str,
    /// The command line flag that sets it, without dashes.
    pub flag: Option<&'static str>,
}

impl Spec {
    /// The environment variable that sets it.
    pub fn environment(&self) -> String {
        environment_name(self.path)
    }

    /// What kind of value it takes, and which of that kind.
    pub fn takes(&self) -> String {
        if self.kind == self.allowed { self.kind.to_owned() } else { format!("{}: {}", self.kind, self.allowed) }
    }

    /// Whether it takes a list. In the environment and in flags its items are separated by commas.
    pub fn is_list(&self) -> bool {
        self.kind == "list of URLs"
    }

    /// Whether its values stand in YAML without quotes.
    pub fn is_plain(&self) -> bool {
        ["true or false", "duration", "ratio", "number", "word"].contains(&self.kind)
    }

    /// The default, as the readers take it.
    pub fn default_raw(&self) -> Raw {
        if self.is_list() { Raw::List(Vec::new()) } else { Raw::Text(self.default.to_owned()) }
    }
}

/// The environment variable for a key path.
pub fn environment_name(path: &str) -> String {
    format!("ETCD_JANITOR__{}", path.to_uppercase().replace('.', "__"))
}

/// A key and how its value is read.
#[derive(Debug, Clone, Copy)]
pub struct Key<T: 'static> {
    /// What is said about it.
    pub spec: Spec,
    read: fn(&Raw) -> Read<T>,
}

impl<T> Key<T> {
    /// Reads a value for this key.
    pub fn read(&self, raw: &Raw) -> Read<T> {
        (self.read)(raw)
    }
}

/// A key whose type does not matter.
pub trait AnyKey: Sync {
    /// What is said about it.
    fn spec(&self) -> &Spec;
    /// Whether the value can be read.
    fn check(&self, raw: &Raw) -> Result<(), Wrong>;
}

impl<T> AnyKey for Key<T> {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn check(&self, raw: &Raw) -> Result<(), Wrong> {
        self.read(raw).map(drop)
    }
}

/// The key at a path.
pub fn find(path: &str) -> Option<&'static dyn AnyKey> {
    ALL.iter().copied().find(|key| key.spec().path == path)
}

/// Whether keys stand below a path.
pub fn is_section(path: &str) -> bool {
    !path.is_empty() && !children(path).is_empty()
}

/// The names directly below a path; the top level for the empty one.
pub fn children(path: &str) -> Vec<&'static str> {
    let mut names = Vec::new();
    for key in ALL {
        let below = match path {
            "" => Some(key.spec().path),
            path => key.spec().path.strip_prefix(path).and_then(|rest| rest.strip_prefix('.')),
        };
        if let Some(name) = below.and_then(|below| below.split('.').next())
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

/// How `compaction.retention` is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A duration.
    Periodic,
    /// A number of revisions.
    Revision,
}

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const NONE: Duration = Duration::ZERO;

fn guard(raw: &Raw) -> Read<Guard> {
    value::choice(raw, &[("skip", Guard::Skip), ("allow", Guard::Allow)])
}

fn foreign(raw: &Raw) -> Read<Foreign> {
    value::choice(raw, &[("skip", Foreign::Skip), ("force", Foreign::Force)])
}

const fn flag_name(name: &'static str) -> Option<&'static str> {
    if name.is_empty() { None } else { Some(name) }
}

macro_rules! keys {
    ($($name:ident: $type:ty = $path:literal $default:literal, $kind:literal, $allowed:literal, $read:expr,
       $doc:literal $(, flag $flag:literal)?;)*) => {
        $(
            #[doc = $doc]
            pub const $name: Key<$type> = Key {
                spec: Spec {
                    path: $path, default: $default, kind: $kind, allowed: $allowed, doc: $doc,
                    flag: flag_name(concat!($($flag)?)),
                },
                read: $read,
            };
        )*
        /// Every key, in the order of the documents.
        pub static ALL: &[&dyn AnyKey] = &[$(&$name),*];
    };
}

keys! {
    ENDPOINT: String = "etcd.endpoint" "http://127.0.0.1:2379", "URL", "http or https, host and port, nothing else",
        value::url, "Client URL of the local member, the only one this janitor ever defragments.", flag "endpoint";
    PEERS: Vec<String> = "etcd.peers" "", "list of URLs", "http or https, host and port; none twice",
        value::urls, "Client URLs of the other members; empty: those in the member list that answer for their member.";
    METRICS_LOCAL: Option<String> = "etcd.metrics.local" "", "URL", "empty, or http or https, host and port",
        value::optional_url, "Where the local member serves /metrics; empty: on its client URL. Set it for --listen-metrics-urls.";
    METRICS_PEERS: Vec<String> = "etcd.metrics.peers" "", "list of URLs", "http or https, host and port; none twice",
        value::urls, "Where the other members serve /metrics; empty: on their client URLs.";
    MEMBER_NAME: Option<String> = "etcd.member_name" "", "text", "a member's --name, or empty",
        value::optional_text, "When set, no maintenance unless the local member has this name.";
    PREFIX: String = "etcd.prefix" "/etcd-janitor/", "text", "begins and ends with a slash, at most 256 characters",
        value::prefix, "Every key that is written to etcd starts with it; the same on every janitor of a cluster.";
    CA_FILE: Option<PathBuf> = "etcd.tls.ca_file" "", "path", "a PEM file, or empty",
        value::path, "Authorities that etcd's certificates are verified with; empty: the system's. Read again when it changes.", flag "cacert";
    CERT_FILE: Option<PathBuf> = "etcd.tls.cert_file" "", "path", "a PEM file, or empty",
        value::path, "Client certificate. Read again when it changes.", flag "cert";
    KEY_FILE: Option<PathBuf> = "etcd.tls.key_file" "", "path", "a PEM file, or empty",
        value::path, "Key of the client certificate. Read again when it changes.", flag "key";
    SERVER_NAME: Option<String> = "etcd.tls.server_name" "", "text", "a host name, or empty",
        value::optional_text, "Name that etcd's certificates must carry instead of the URL's host.";
    USERNAME: Option<String> = "etcd.auth.username" "", "text", "a user name without colon, or empty; the password goes into a file",
        value::username, "etcd user; empty: no authentication.", flag "user";
    PASSWORD_FILE: Option<PathBuf> = "etcd.auth.password_file" "", "path", "an absolute path, or empty",
        value::secret_path, "File that holds the user's password. Read again when it changes.", flag "password-file";
    REQUEST_TIMEOUT: Duration = "etcd.request_timeout" "5s", "duration", "100ms to 1m",
        |raw| value::duration(raw, MS * 100, MINUTE), "Deadline of one small request; never of a defrag.";
    DRY_RUN: bool = "dry_run" "false", "true or false", "true or false",
        value::boolean, "Decide and say everything, send nothing that changes etcd.", flag "dry-run";

    COMPACTION_ENABLED: bool = "compaction.enabled" "true", "true or false", "true or false",
        value::boolean, "Whether to compact the keyspace.";
    COMPACTION_SCHEDULE: Schedule = "compaction.schedule" "*/5 * * * *", "schedule", "crontab's five fields, six with seconds, or @daily and the like; in UTC",
        value::schedule, "When to compact.";
    MODE: Mode = "compaction.mode" "periodic", "word", "periodic or revision",
        |raw| value::choice(raw, &[("periodic", Mode::Periodic), ("revision", Mode::Revision)]),
        "Whether the retention is an age or a number of revisions.";
    RETENTION: String = "compaction.retention" "1h", "text", "mode periodic: a duration from 1s; mode revision: a number from 1",
        value::later, "What is never compacted: everything younger than this, or this many of the newest revisions.";
    PHYSICAL: bool = "compaction.physical" "true", "true or false", "true or false",
        value::boolean, "Wait until the member has freed the pages.";
    WHEN_KUBERNETES: Foreign = "compaction.when_kubernetes" "skip", "word", "skip or force",
        foreign, "In the keyspace of a kube-apiserver, which compacts itself.";
    WHEN_ETCD_COMPACTS: Foreign = "compaction.when_etcd_compacts" "skip", "word", "skip or force",
        foreign, "When the compact revision moves without us, as with etcd's own auto-compaction.";

    DEFRAG_ENABLED: bool = "defrag.enabled" "true", "true or false", "true or false",
        value::boolean, "Whether to defragment the local member.";
    DEFRAG_SCHEDULE: Schedule = "defrag.schedule" "0 0 * * *", "schedule", "crontab's five fields, six with seconds, or @daily and the like; in defrag.time_zone",
        value::schedule, "When a round is due. The same on every janitor of a cluster.";
    TIME_ZONE: Zone = "defrag.time_zone" "UTC", "text", "an IANA name such as UTC or Europe/Paris",
        value::zone, "Whose clock defrag.schedule means. The same on every janitor of a cluster.";
    JITTER: Duration = "defrag.jitter" "0s", "duration", "0s to 1d, less than defrag.window",
        |raw| value::duration(raw, NONE, DAY), "Upper bound of a delay after the due instant; equal on all janitors of a cluster, it spreads clusters.";
    WINDOW: Duration = "defrag.window" "4h", "duration", "1s to 1w, more than jitter, pause_between and drain",
        |raw| value::duration(raw, SECOND, DAY * 7), "How long after its due instant a round may still send a defrag.";
    RULE: Rule = "defrag.rule" "dbQuotaUsage > 0.8 && dbSizeFree > 32 * MiB || dbSizeFree > 100 * MiB && dbFreeRatio > 0.4",
        "rule", "a condition such as dbFreeRatio > 0.4",
        value::rule, "Whether a defrag of the local member pays.";
    URGENT_AT: f64 = "defrag.urgent_at" "0.9", "ratio", "above 0, up to 1",
        value::ratio, "Share of the quota (dbQuotaUsage) at which a round starts outside the schedule, at most once an hour; 1: never.";
    TIMEOUT: Duration = "defrag.timeout" "10m", "duration", "1s to 1d",
        |raw| value::duration(raw, SECOND, DAY), "How long to wait for one defrag before its outcome counts as unknown.";
    PAUSE_BETWEEN: Duration = "defrag.pause_between" "10s", "duration", "0s to 1d, less than defrag.window",
        |raw| value::duration(raw, NONE, DAY), "Rest after a defrag, with the turn still held.";
    LEADER_WAIT: Duration = "defrag.leader_wait" "30m", "duration", "0s to 1w",
        |raw| value::duration(raw, NONE, DAY * 7), "How long the leader's janitor lets the others go first.";
    DRAIN: Duration = "defrag.drain" "0s", "duration", "0s to 1h, less than defrag.window",
        |raw| value::duration(raw, NONE, HOUR), "How long /etcd/readyz fails before a defrag, so that clients go elsewhere.";
    SMALL_CLUSTER: Guard = "defrag.small_cluster" "skip", "word", "skip or allow",
        guard, "With one or two voters, where a defrag can cost the quorum.";
    LIVENESS_BUDGET: Duration = "defrag.liveness_budget" "25s", "duration", "0s (not checked) to 1d",
        |raw| value::duration(raw, NONE, DAY), "A defrag that is forecast to take longer is skipped, lest etcd's liveness probe kills it.";
    UNSAFE_VERSIONS: Guard = "defrag.unsafe_versions" "skip", "word", "skip or allow",
        guard, "On etcd releases with a known defect that a defrag can trigger.";
    DATA_DIR: Option<PathBuf> = "defrag.data_dir" "", "path", "a directory, or empty",
        value::path, "etcd's data directory when it is mounted here: without free space for the copy nothing is defragmented.";
    VERIFY: Verify = "defrag.verify" "none", "word", "none or hash",
        |raw| value::choice(raw, &[("none", Verify::None), ("hash", Verify::Hash)]),
        "What is compared between the voters after a defrag: nothing, or HashKV.";

    LEASE_TTL: Duration = "turn.lease_ttl" "60s", "duration", "whole seconds, 5s to 10m",
        |raw| value::whole_seconds(raw, SECOND * 5, MINUTE * 10), "Time to live of the lease under a turn.";

    RESCUE: bool = "alarms.rescue" "true", "true or false", "true or false",
        value::boolean, "Whether the cluster is brought back from NOSPACE: compaction, one defrag after the other, the alarm cleared.";
    RESCUE_RETENTION: Duration = "alarms.rescue_retention" "5m", "duration", "1s to 3650d",
        |raw| value::duration(raw, SECOND, LONGEST), "What a rescue does not compact: everything younger than this.";
    DISARM_BELOW: f64 = "alarms.disarm_below" "0.9", "ratio", "above 0, up to 1",
        value::ratio, "The alarm is cleared when every member is below this share of its quota.";
    COMPACT_TO_HEAD: bool = "alarms.compact_to_head" "false", "true or false", "true or false",
        value::boolean, "Whether a rescue may compact the whole history when that is what it takes.";
    QUOTA: Option<u64> = "alarms.quota" "", "size", "empty, or a size up to 1PiB: 8GiB, 8000000000, 2147MB",
        value::size, "etcd's quota, for when neither Status nor metrics tell it.";

    LISTEN: SocketAddr = "http.listen" "[::]:8379", "address", "an IP address and a port",
        value::listen, "Where metrics, health, API and page are served; without IPv6, `[::]` falls back to 0.0.0.0.", flag "listen";
    MAX_CONNECTIONS: u64 = "http.max_connections" "64", "number", "4 to 4096",
        |raw| value::count(raw, 4, 4096), "Bound on open connections.";
    HTTP_CERT_FILE: Option<PathBuf> = "http.tls.cert_file" "", "path", "a PEM file, or empty",
        value::path, "Certificate of the listener, which then speaks HTTPS only; empty: HTTP. Read again when it changes.";
    HTTP_KEY_FILE: Option<PathBuf> = "http.tls.key_file" "", "path", "a PEM file, or empty",
        value::path, "Key of the listener's certificate. Read again when it changes.";
    BEARER_TOKEN_FILE: Option<PathBuf> = "http.bearer_token_file" "", "path", "an absolute path, or empty",
        value::secret_path, "File that holds the token which everything but the probes then asks for.";

    HISTORY_LIMIT: u64 = "history.limit" "10", "number", "1 to 1000",
        |raw| value::count(raw, 1, 1000), "Rounds whose outcome is kept in etcd.";
    LOG_FORMAT: LogFormat = "log.format" "json", "word", "json or text",
        |raw| value::choice(raw, &[("json", LogFormat::Json), ("text", LogFormat::Text)]),
        "One JSON object a line, or text for people.", flag "log-format";
    LOG_LEVEL: String = "log.level" "info", "text", "off, error, warn, info, debug, trace, or directives such as info,etcd_janitor=debug",
        value::log_level, "What is logged.", flag "log-level";
}
