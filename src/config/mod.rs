//! What the operator wrote, as validated values. After this module no string means anything but itself.
//!
//! [`load`] reads file, environment and flags ([`Source`]), checks every value against the one table of keys
//! ([`keys`]) and every combination of them, and returns either a whole [`Config`] or everything that is
//! wrong at once. It opens the configuration file and nothing else: secrets stay behind their paths.
//!
//! Its one danger: repeating a secret that was written in the wrong place. Values of unknown keys, broken YAML and
//! anything that may be a password are never shown.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

mod combine;
pub mod keys;
mod load;
mod problem;
pub mod show;
mod source;
pub mod value;

pub use load::{Effective, Loaded, load};
pub use problem::{Invalid, Problem};
pub use source::{Fingerprint, MAX_FILE, Origin, Source, read_fingerprint, read_fingerprint_within};

use crate::plan::rule::Rule;
use crate::plan::schedule::Schedule;

/// The whole configuration, valid as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// How to reach etcd.
    pub etcd: Etcd,
    /// Decide and say everything, send nothing.
    pub dry_run: bool,
    /// When and what to compact.
    pub compaction: Compaction,
    /// When and whether to defragment.
    pub defrag: Defrag,
    /// How turns are taken.
    pub turn: Turn,
    /// What to do about alarms.
    pub alarms: Alarms,
    /// Where to serve.
    pub http: Http,
    /// What to remember.
    pub history: History,
    /// How to log.
    pub log: Log,
}

/// How to reach etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etcd {
    /// Client URL of the local member.
    pub endpoint: String,
    /// Client URLs of the other members; empty: what the member list advertises.
    pub peers: Vec<String>,
    /// Where members serve /metrics when not on the client URL.
    pub metrics: MetricsUrls,
    /// When set, the local member must carry this name.
    pub member_name: Option<String>,
    /// Every key we write starts with this; ends with a slash.
    pub prefix: String,
    /// TLS material, by path.
    pub tls: Tls,
    /// User and password, by path.
    pub auth: Auth,
    /// Deadline of one small request.
    pub request_timeout: Duration,
}

/// Base URLs (without /metrics).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MetricsUrls {
    /// Of the local member.
    pub local: Option<String>,
    /// Of the others.
    pub peers: Vec<String>,
}

/// TLS material for the connection to etcd.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// PEM bundle of the authorities to trust; none: the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM client certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM key of the client certificate.
    pub key_file: Option<PathBuf>,
    /// Name to verify instead of the URL's host.
    pub server_name: Option<String>,
}

/// Password authentication.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Auth {
    /// User name; none: no authentication.
    pub username: Option<String>,
    /// File that holds the password.
    pub password_file: Option<PathBuf>,
}

/// When and what to compact.
#[derive(Debug, Clone, PartialEq)]
pub struct Compaction {
    /// Whether to compact at all.
    pub enabled: bool,
    /// When, in UTC.
    pub schedule: Schedule,
    /// What must never be compacted.
    pub retention: Retention,
    /// Wait until the local member has freed the pages.
    pub physical: bool,
    /// What to do in a kube-apiserver's keyspace.
    pub when_kubernetes: Foreign,
    /// What to do when somebody else compacts.
    pub when_etcd_compacts: Foreign,
}

/// What must never be compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// `mode: periodic`: revisions younger than this.
    Age(Duration),
    /// `mode: revision`: this many of the newest revisions.
    Revisions(u64),
}

/// What to do where another compactor is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// Leave compaction to it.
    Skip,
    /// Compact all the same.
    Force,
}

/// When and whether to defragment.
#[derive(Debug, Clone, PartialEq)]
pub struct Defrag {
    /// Whether to defragment at all.
    pub enabled: bool,
    /// When, in the schedule's own time zone.
    pub schedule: Schedule,
    /// Upper bound of the delay after the due instant.
    pub jitter: Duration,
    /// A round ends this long after it was due.
    pub window: Duration,
    /// Whether a defrag pays.
    pub rule: Rule,
    /// Share of the quota that starts a round outside the schedule; 1: nothing does.
    pub urgent_at: f64,
    /// How long to wait for one defrag before its outcome is unknown.
    pub timeout: Duration,
    /// Rest after a defrag, with the turn still held.
    pub pause_between: Duration,
    /// How long the leader's janitor waits for the others.
    pub leader_wait: Duration,
    /// How long `/etcd/readyz` fails before a defrag.
    pub drain: Duration,
    /// Whether one and two voters are defragmented.
    pub small_cluster: Guard,
    /// Longest forecast that is accepted; none: not checked.
    pub liveness_budget: Option<Duration>,
    /// Whether known-bad releases are defragmented.
    pub unsafe_versions: Guard,
    /// etcd's data directory, when mounted here.
    pub data_dir: Option<PathBuf>,
    /// What is compared after a defrag.
    pub verify: Verify,
}

/// Whether a guard holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// It holds.
    Skip,
    /// The operator overrode it.
    Allow,
}

/// What is compared after a defrag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Nothing.
    None,
    /// HashKV of every voter.
    Hash,
}

/// How turns are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Time to live of the lease under a turn.
    pub lease_ttl: Duration,
}

/// What to do about alarms.
#[derive(Debug, Clone, PartialEq)]
pub struct Alarms {
    /// Whether NOSPACE is worked on outside rounds.
    pub rescue: bool,
    /// Retention under NOSPACE.
    pub rescue_retention: Duration,
    /// NOSPACE is cleared when every member is below this share of its quota.
    pub disarm_below: f64,
    /// Whether a rescue may compact everything.
    pub compact_to_head: bool,
    /// Quota in bytes, where neither Status nor metrics tell it.
    pub quota: Option<u64>,
}

/// Where to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Address and port.
    pub listen: SocketAddr,
    /// Bound on open connections.
    pub max_connections: usize,
    /// What the listener shows; without it HTTP is spoken.
    pub tls: ListenerTls,
    /// Token that everything but the probes asks for.
    pub bearer_token_file: Option<PathBuf>,
}

/// PEM files of the listener: both or neither.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListenerTls {
    /// Certificate and chain.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
}

/// What to remember.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Rounds kept in etcd.
    pub limit: usize,
}

/// How to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// JSON or text.
    pub format: LogFormat,
    /// A level, or tracing-subscriber directives.
    pub level: String,
}

/// JSON or text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl Default for Config {
    /// What is in force when nobody sets anything; from the table of keys.
    fn default() -> Self {
        // A test reads every default; nothing from outside can come here.
        load::defaults().unwrap_or_else(|invalid| unreachable!("a default is not valid: {invalid}"))
    }
}
