//! Which path answers what, and to whom.

use std::convert::Infallible;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Query, State as Of};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use chrono::{TimeDelta, Utc};
use secrecy::ExposeSecret;
use serde::Serialize;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tower_service::Service;

use super::connection::Patience;
use super::health::{Check, Heartbeat, Probes, report};
use super::{Access, Command, EtcdProbe, Limits, Metrics, Options, ProbeAnswer, Transport, metrics, page};
use crate::plan::record::RoundRecord;
use crate::plan::snapshot::Snapshot;

/// A look that is younger is not asked for again.
const FRESH: TimeDelta = TimeDelta::seconds(5);

/// What handlers read.
pub(super) struct State {
    pub(super) limits: Limits,
    access: watch::Receiver<Access>,
    transport: watch::Receiver<Transport>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    metrics: Arc<Metrics>,
    heartbeat: Arc<Heartbeat>,
    probes: Probes,
    commands: mpsc::Sender<Command>,
    look_wanted: Arc<Notify>,
    /// For requests that wait for etcd: if all connections did, nobody else would be heard meanwhile.
    waiting: Semaphore,
}

impl State {
    pub(super) fn new(options: Options) -> Self {
        State {
            probes: Probes::new(options.etcd_probe, options.limits.etcd_probe),
            limits: options.limits,
            access: options.access,
            transport: options.transport,
            snapshot: options.snapshot,
            metrics: options.metrics,
            heartbeat: options.heartbeat,
            commands: options.commands,
            look_wanted: options.look_wanted,
            waiting: Semaphore::new((options.max_connections / 4).max(1)),
        }
    }

    /// A copy of the pointer: a guard of the channel held across an await would block the daemon's next snapshot.
    fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// A snapshot with a look of a moment ago, if the daemon can have one in time; else the newest there is.
    async fn fresh_snapshot(&self) -> Arc<Snapshot> {
        let known = self.snapshot();
        // Without a member to begin with nobody can be looked at, and why is known.
        if known.local.is_none() && known.problem.is_some() {
            return known;
        }
        let before = known.looked_at;
        #[expect(clippy::disallowed_methods, reason = "for display: how old the look is")]
        let age = before.map(|at| Utc::now() - at);
        if age.is_some_and(|age| age >= TimeDelta::zero() && age < FRESH) {
            return known;
        }
        let Ok(_permit) = self.waiting.try_acquire() else { return self.snapshot() };
        self.look_wanted.notify_one();
        let mut snapshots = self.snapshot.clone();
        let newer = snapshots.wait_for(|snapshot| snapshot.looked_at != before);
        // Late or never: its age is shown beside it.
        let _ = tokio::time::timeout(self.limits.look, newer).await.map(|found| found.map(drop));
        self.snapshot()
    }

    /// What etcd says of itself. Of a crowd that asks while etcd is slow to answer, all but a few may be closed to make
    /// room. None is refused: the kubelet, which may be among them, would take that for etcd's answer.
    async fn ask_etcd(&self, probe: EtcdProbe, patience: &Patience) -> ProbeAnswer {
        let answer = self.probes.ask(probe);
        match self.waiting.try_acquire() {
            Ok(_permit) => answer.await,
            Err(_) => patience.wait_for(answer).await,
        }
    }

    /// What a new connection speaks.
    pub(super) fn transport(&self) -> Transport {
        self.transport.borrow().clone()
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        match &*self.access.borrow() {
            Access::Open => true,
            Access::Closed => false,
            Access::Bearer(token) => {
                let expected = token.expose_secret().as_bytes();
                let sent = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).and_then(bearer);
                !expected.is_empty() && sent.is_some_and(|sent| equal(sent, expected))
            }
        }
    }
}

/// Who sent the request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// All paths.
pub(super) fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/", get(home))
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/etcd/livez", get(etcd_livez))
        .route("/etcd/readyz", get(etcd_readyz))
        .route("/api/v1/status", get(status))
        .route("/api/v1/history", get(history))
        .route("/api/v1/quiesce", post(quiesce))
        .fallback(|| async { plain(StatusCode::NOT_FOUND, "not found\n") })
        .with_state(state)
}

/// Answers one request, within its time, with the headers that every answer has.
pub(super) async fn answer(mut router: Router, state: &State, request: Request<Body>) -> Response {
    let mut response = if is_probe(request.uri().path()) || state.admits(request.headers()) {
        match tokio::time::timeout(state.limits.request, router.call(request)).await {
            Ok(answered) => answered.unwrap_or_else(|never: Infallible| match never {}),
            Err(_) => plain(StatusCode::REQUEST_TIMEOUT, "too slow\n"),
        }
    } else {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        (challenge, plain(StatusCode::UNAUTHORIZED, "a bearer token is needed\n")).into_response()
    };
    for (name, value) in EVERYWHERE {
        // The page brings a policy of its own.
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

const EVERYWHERE: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-store"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
];

/// The kubelet has no token.
fn is_probe(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/healthz" | "/etcd/livez" | "/etcd/readyz")
}

type Pairs = Query<Vec<(String, String)>>;

async fn livez(Of(state): Of<Arc<State>>, Query(query): Pairs) -> Response {
    alive("livez", &state, &query)
}

async fn healthz(Of(state): Of<Arc<State>>, Query(query): Pairs) -> Response {
    alive("healthz", &state, &query)
}

fn alive(probe: &str, state: &State, query: &[(String, String)]) -> Response {
    let checks = [Check::new("ping", None), Check::new("loop", state.heartbeat.problem())];
    reported(report(probe, &checks, query))
}

async fn readyz(Of(state): Of<Arc<State>>, Query(query): Pairs) -> Response {
    let config = &state.snapshot().config;
    let problem = (!config.valid).then(|| match config.problems.as_slice() {
        [] => "no valid configuration".to_owned(),
        problems => problems.join("; ").replace(char::is_control, " "),
    });
    reported(report("readyz", &[Check::new("ping", None), Check::new("config", problem)], &query))
}

async fn etcd_livez(
    Of(state): Of<Arc<State>>,
    Extension(patience): Extension<Patience>,
    Query(query): Pairs,
) -> Response {
    let etcd = Check::of_etcd(state.ask_etcd(EtcdProbe::Livez, &patience).await);
    reported(report("etcd/livez", &[etcd], &query))
}

async fn etcd_readyz(
    Of(state): Of<Arc<State>>,
    Extension(patience): Extension<Patience>,
    Query(query): Pairs,
) -> Response {
    let draining = state.snapshot().draining;
    let problem = draining.then(|| "clients are asked to leave before a defrag".to_owned());
    let etcd = Check::of_etcd(state.ask_etcd(EtcdProbe::Readyz, &patience).await);
    reported(report("etcd/readyz", &[Check::new("drain", problem), etcd], &query))
}

async fn metrics(Of(state): Of<Arc<State>>) -> Response {
    let text = state.metrics.render(&state.snapshot());
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

async fn home(Of(state): Of<Arc<State>>, Query(query): Pairs) -> Response {
    let refreshes = !query.iter().any(|(name, value)| name == "refresh" && value == "off");
    // A nonce instead of 'unsafe-inline': a name that breaks out of its cell still cannot bring a style.
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    // Whoever looks only at the page sees at once who does not answer.
    let snapshot = state.fresh_snapshot().await;
    #[expect(clippy::disallowed_methods, reason = "for display: how long ago something was")]
    let now = Utc::now();
    let html = page::render(&snapshot, now, &nonce, refreshes);
    let headers =
        [(header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()), (header::CONTENT_SECURITY_POLICY, policy)];
    let refresh = refreshes.then(|| [(header::REFRESH, page::REFRESH.to_string())]);
    (headers, refresh, html).into_response()
}

async fn status(Of(state): Of<Arc<State>>, Query(query): Pairs) -> Response {
    if query.iter().any(|(name, _)| name == "fresh") {
        return json(&*state.fresh_snapshot().await);
    }
    json(&*state.snapshot())
}

/// What `/api/v1/history` answers.
#[derive(Serialize)]
struct History<'a> {
    api_version: u32,
    history: &'a [RoundRecord],
}

async fn history(Of(state): Of<Arc<State>>) -> Response {
    let snapshot = state.snapshot();
    json(&History { api_version: snapshot.api_version, history: &snapshot.history })
}

async fn quiesce(
    Of(state): Of<Arc<State>>,
    Extension(Peer(peer)): Extension<Peer>,
    Extension(patience): Extension<Patience>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if !is_local(peer.ip()) {
        return plain(StatusCode::FORBIDDEN, "only from inside the pod\n");
    }
    // Through a port-forward a browser is a local peer too, and any site it visits can make it post here.
    if headers.contains_key(header::ORIGIN) {
        return plain(StatusCode::FORBIDDEN, "not from a browser\n");
    }
    // Somebody else's request that a proxy of the pod brought here is not from inside.
    if FORWARDED.iter().any(|name| headers.contains_key(name)) {
        return plain(StatusCode::FORBIDDEN, "not through a proxy\n");
    }
    // A request without its body is no complete one.
    if patience.wait_for(axum::body::to_bytes(body, state.limits.body_bytes)).await.is_err() {
        return plain(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long or incomplete\n");
    }
    match state.commands.try_send(Command::Quiesce) {
        // A full queue holds nothing but the same command.
        Ok(()) | Err(TrySendError::Full(Command::Quiesce)) => {
            plain(StatusCode::ACCEPTED, "nothing new will be started\n")
        }
        Err(TrySendError::Closed(_)) => plain(StatusCode::SERVICE_UNAVAILABLE, "the janitor is stopping\n"),
    }
}

/// What proxies add to a request.
const FORWARDED: [HeaderName; 3] = [header::VIA, header::FORWARDED, HeaderName::from_static("x-forwarded-for")];

/// Exactly 127.0.0.1 and ::1. Not `is_loopback`: Istio hands traffic from outside the pod over from 127.0.0.6.
fn is_local(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST
}

/// The token in `Bearer <token>`; the scheme's case does not matter (RFC 9110).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Looks at every byte, so that the time tells nothing about where they differ; the length is no secret.
fn equal(sent: &[u8], expected: &[u8]) -> bool {
    let differing = sent.iter().zip(expected).fold(0, |acc, (a, b)| black_box(acc | (a ^ b)));
    sent.len() == expected.len() && black_box(differing) == 0
}

fn reported((status, text): (StatusCode, String)) -> Response {
    plain(status, text)
}

fn plain(status: StatusCode, text: impl Into<String>) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text.into()).into_response()
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(error) => {
            tracing::error!(%error, "a snapshot could not be written as JSON");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "the status cannot be written\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pod_itself_is_local() {
        for local in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(is_local(local.parse().unwrap()), "{local}");
        }
        for other in ["127.0.0.6", "10.0.0.1", "::ffff:10.0.0.1", "::", "0.0.0.0", "fe80::1"] {
            assert!(!is_local(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn a_token_is_compared_whole() {
        assert!(equal(b"secret", b"secret"));
        for wrong in [&b""[..], b"s", b"secreT", b"secret ", b"secretsecret"] {
            assert!(!equal(wrong, b"secret"));
        }
        assert_eq!(bearer(b"bEARER  abc "), Some(&b"abc"[..]));
        for wrong in [&b""[..], b"Bearer", b"Basic abc", b"abc"] {
            assert_eq!(bearer(wrong), None);
        }
    }
}
