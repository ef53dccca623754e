//! What the probes that are about the etcd container are answered with.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::etcd::{Class, Cluster, local_health};
use crate::http::{EtcdProbe, ProbeAnswer};

/// A kubelet's probe has a second by default; etcd's own answer comes in milliseconds.
const DEADLINE: Duration = Duration::from_secs(3);

/// What stands for `/readyz` on releases without it. Nothing stands for `/livez`: their `/health` fails without a leader
/// and with NOSPACE on two members, whatever is excluded, and killing members cures neither.
const OLDER_READYZ: &str = "/health?exclude=NOSPACE";

/// Shared between the daemon's loop, which knows the cluster, and the server, which is asked.
#[derive(Default)]
pub struct Probes {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cluster: Option<Arc<Cluster>>,
    timeout: Duration,
    open_since: Option<Instant>,
}

impl Probes {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster to ask, and how old an open defrag may be.
    pub fn set(&self, cluster: Option<Arc<Cluster>>, timeout: Duration) {
        let mut state = self.state();
        state.cluster = cluster;
        state.timeout = timeout;
    }

    /// How old an open defrag may be.
    pub fn set_timeout(&self, timeout: Duration) {
        self.state().timeout = timeout;
    }

    /// Well while a defrag is open that is younger than `defrag.timeout`, whoever sent it: etcd's own probes hang then,
    /// and the kubelet would kill the container in the middle. Otherwise what the member says.
    pub async fn ask(&self, probe: EtcdProbe) -> ProbeAnswer {
        let (cluster, timeout) = {
            let state = self.state();
            (state.cluster.clone(), state.timeout)
        };
        let alive = matches!(probe, EtcdProbe::Livez);
        let Some(cluster) = cluster else {
            // Liveness is asked in order to kill: a typo in our file must not end an etcd that is well.
            let text = "how to reach etcd is not known; it is not asked".to_owned();
            return ProbeAnswer { ok: alive, text };
        };
        let (path, older) = if alive { ("/livez", None) } else { ("/readyz", Some(OLDER_READYZ)) };
        let (scrape, verdict) = local_health(&cluster, path, older, DEADLINE).await;
        let open = scrape.is_some_and(|scrape| scrape.defrags_open > 0);
        let since = {
            let mut state = self.state();
            state.open_since = if open { state.open_since.or_else(|| Some(Instant::now())) } else { None };
            state.open_since
        };
        match (since, verdict) {
            (Some(since), _) if since.elapsed() < timeout => {
                let text = format!("a defrag has been open for at least {} s", since.elapsed().as_secs());
                ProbeAnswer { ok: true, text }
            }
            (Some(_), _) => {
                ProbeAnswer { ok: false, text: "a defrag is open for longer than defrag.timeout".to_owned() }
            }
            (None, Ok(_)) => ProbeAnswer { ok: true, text: "etcd says that it is well".to_owned() },
            // Somebody there speaks TLS. Certificates that are wrong on our side are nothing to kill it for.
            (None, Err(error)) if alive && error.class == Class::Tls => {
                ProbeAnswer { ok: true, text: format!("a TLS server answers and cannot be asked: {error}") }
            }
            (None, Err(error)) => ProbeAnswer { ok: false, text: error.to_string() },
        }
    }
}
