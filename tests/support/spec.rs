//! What a test asks of a cluster.

use std::path::PathBuf;
use std::time::Duration;

/// The release on which everything is tested.
pub const MAIN_RELEASE: &str = "3.5.30";

/// Every release that `scripts/fetch-etcd.py` gets.
pub const RELEASES: [&str; 4] = [MAIN_RELEASE, "3.5.16", "3.5.1", "3.4.23"];

#[derive(Clone, Debug)]
pub struct Spec {
    pub release: String,
    pub members: usize,
    pub tls: Tls,
    pub auth: Option<Auth>,
    pub quota_bytes: Option<u64>,
    pub extra_args: Vec<String>,
    pub heartbeat: Duration,
    pub election: Duration,
    /// Spares the disk. Off only where a test is about what survives a crash
    /// of the machine, which killing a process is not.
    pub unsafe_no_fsync: bool,
    /// Every defrag of every member takes at least this long, from the first
    /// start on and across restarts. The member runs under strace, filtered in
    /// the kernel, so everything else keeps its speed; `Strace::attach` cannot
    /// be used beside it.
    pub stretch_defrags: Option<Duration>,
    /// Puts a `Proxy` before every member's client port and advertises the
    /// proxy, so that a test can cut clients off from a member.
    pub client_proxies: bool,
    /// Every member, and its janitor with it, in a network namespace of its
    /// own. Inside a `sandbox` only.
    pub namespaces: bool,
    /// Every member's data on a disk of its own of this size, in memory. Inside
    /// a `sandbox` only.
    pub disk_mib: Option<u64>,
    /// The etcd program itself, where it is not the cached `release`.
    pub etcd: Option<PathBuf>,
}

/// The release of a test that asks for none: `make matrix` sets another.
pub fn usual_release() -> String {
    std::env::var("ETCD_RELEASE").unwrap_or_else(|_| MAIN_RELEASE.to_owned())
}

/// Whether a test that asks for nothing else gets mutual TLS with certificates that are replaced every few seconds, and
/// passwords with tokens that live for five: `make matrix` wants it so.
pub fn usually_secured() -> bool {
    std::env::var("ETCD_SECURED").is_ok_and(|wanted| wanted == "1")
}

impl Default for Spec {
    fn default() -> Self {
        let secured = usually_secured();
        Self {
            release: usual_release(),
            members: 3,
            tls: if secured { Tls::Mutual } else { Tls::Off },
            auth: secured.then(|| Auth {
                root_password: "correct horse".to_owned(),
                token: Token::Simple { ttl: Duration::from_secs(5) },
            }),
            quota_bytes: None,
            extra_args: Vec::new(),
            heartbeat: Duration::from_millis(100),
            election: Duration::from_secs(1),
            unsafe_no_fsync: true,
            stretch_defrags: None,
            client_proxies: false,
            namespaces: false,
            disk_mib: None,
            etcd: None,
        }
    }
}

impl Spec {
    /// Elections are rare even on a machine that is busy; for tests in which
    /// one would only be in the way.
    pub fn calm() -> Self {
        Self { heartbeat: Duration::from_millis(300), election: Duration::from_secs(4), ..Self::default() }
    }
}

/// TLS on the client port; peers and /metrics on the extra port stay plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    Off,
    /// The server shows a certificate.
    Server,
    /// Both sides do.
    Mutual,
}

/// Authentication, switched on before the cluster is handed out.
#[derive(Clone, Debug)]
pub struct Auth {
    pub root_password: String,
    pub token: Token,
}

#[derive(Clone, Copy, Debug)]
pub enum Token {
    Simple { ttl: Duration },
    Jwt { ttl: Duration },
}
