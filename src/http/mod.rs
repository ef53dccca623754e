//! Serve: metrics, probes, the snapshot as JSON and as a page.
//!
//! It sees a [`Snapshot`] on a watch channel and never the daemon; nothing it offers changes etcd. Everything a stranger
//! can send is bounded: header, body, time and connections (see [`Limits`]).

mod connection;
mod health;
mod hints;
pub mod metrics;
mod page;
mod routes;
mod server;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use secrecy::SecretString;
use tokio::sync::{Notify, mpsc, watch};

use crate::plan::snapshot::Snapshot;

pub use health::Heartbeat;
pub use hints::{Hint, about, hints};
pub use metrics::Metrics;
pub use page::growing;
pub use page::text::{ago, bytes, span};
pub use server::Server;
pub use verdict::{Level, Verdict, doing, verdict};

/// What the server needs of the rest of the program.
pub struct Options {
    /// Bound on open connections; at least 1.
    pub max_connections: usize,
    /// Who may read what is not a probe. A channel, because a mounted token is rotated while we run.
    pub access: watch::Receiver<Access>,
    /// What connections speak. A channel, because certificates are rotated while we run.
    pub transport: watch::Receiver<Transport>,
    /// What there is to say.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Counters and histograms.
    pub metrics: Arc<Metrics>,
    /// Touched by the daemon's loop.
    pub heartbeat: Arc<Heartbeat>,
    /// Answers the probes that are about the etcd container.
    pub etcd_probe: AskEtcd,
    /// To the daemon's loop. Bounded; a full one is no error, since commands repeat nothing.
    pub commands: mpsc::Sender<Command>,
    /// Told when somebody asks for a look at all members. A `Notify`: however many ask, one look answers all.
    pub look_wanted: Arc<Notify>,
    /// Times and sizes.
    pub limits: Limits,
}

/// Who may read what is not a probe (`/livez`, `/readyz`, `/healthz`, `/etcd/*` are always open: the kubelet has no token).
#[derive(Debug, Clone, Default)]
pub enum Access {
    /// No token is configured: everybody.
    #[default]
    Open,
    /// Who sends this token. An empty one lets nobody in.
    Bearer(SecretString),
    /// A token is configured and cannot be read: nobody. Without this case a missing file would open the port.
    Closed,
}

/// What a connection speaks; one that is open keeps what it began with.
#[derive(Debug, Clone, Default)]
pub enum Transport {
    /// HTTP.
    #[default]
    Plain,
    /// HTTP in TLS.
    Tls(Arc<rustls::ServerConfig>),
    /// TLS is configured and there is no certificate to show: nothing is said to anybody. Without this case a missing
    /// file would open the port to clear text.
    Closed,
}

/// Bounds in time and size. Fields of their own so that a test need not wait for seconds.
#[derive(Debug, Clone)]
pub struct Limits {
    /// From the start of a connection, or the end of the last answer on it, to the end of the next request's header. A
    /// TLS handshake has this much for itself.
    pub header: Duration,
    /// From the end of the header to the answer, the reading of a body included.
    pub request: Duration,
    /// From the end of the header to the end of the connection, whether or not the answer was read.
    pub response: Duration,
    /// For [`Options::etcd_probe`]; shorter than `request`, so that the probe's answer can say what happened.
    pub etcd_probe: Duration,
    /// For a look that a request asked for; shorter than `request`, so that what is known already can be answered.
    pub look: Duration,
    /// For requests under way at shutdown.
    pub shutdown: Duration,
    /// Wait after `accept` failed for want of a resource.
    pub accept_retry: Duration,
    /// Bytes of a request's header; hyper takes no less than 8 KiB.
    pub header_bytes: usize,
    /// Bytes of a request's body, where one is taken at all.
    pub body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            header: Duration::from_secs(5),
            request: Duration::from_secs(5),
            response: Duration::from_secs(15),
            etcd_probe: Duration::from_secs(4),
            look: Duration::from_secs(3),
            shutdown: Duration::from_millis(500),
            accept_retry: Duration::from_millis(100),
            header_bytes: 16 * 1024,
            body_bytes: 1024,
        }
    }
}

/// What a request can ask of the daemon. Nothing here changes etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Start nothing new and leave the queue.
    Quiesce,
}

/// A probe of the etcd container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EtcdProbe {
    /// `/etcd/livez`.
    Livez,
    /// `/etcd/readyz`.
    Readyz,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// Whether the container is well.
    pub ok: bool,
    /// One sentence, for people; never a secret: the probe asks for no token.
    pub text: String,
}

/// Answers probes of the etcd container.
pub type AskEtcd = Arc<dyn Fn(EtcdProbe) -> BoxFuture<'static, ProbeAnswer> + Send + Sync>;
