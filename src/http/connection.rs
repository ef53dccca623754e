//! One connection, from accept to close, and the mark that says whether it may be closed to make room.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Transport;
use super::routes::{self, Peer, State};

/// What connections share with the accept loop.
#[derive(Default)]
pub(super) struct Crowd {
    clock: AtomicU64,
    /// Signalled when a connection has answered and waits again.
    pub(super) waits: Notify,
}

impl Crowd {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// What the accept loop may know of a connection.
pub(super) struct Mark {
    crowd: Arc<Crowd>,
    /// 0 while a complete request is being answered; otherwise the tick since which one, or somebody else, is awaited.
    waiting: AtomicU64,
    /// After this the connection is closed, whatever it does.
    deadline: Mutex<Instant>,
}

impl Mark {
    pub(super) fn new(crowd: Arc<Crowd>, deadline: Instant) -> Arc<Self> {
        let waiting = AtomicU64::new(crowd.tick());
        Arc::new(Mark { crowd, waiting, deadline: Mutex::new(deadline) })
    }

    /// Since when it has had no complete request, as a tick; none while it has one.
    pub(super) fn waiting(&self) -> Option<u64> {
        Some(self.waiting.load(Ordering::Relaxed)).filter(|tick| *tick != 0)
    }

    fn deadline(&self) -> Instant {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) {
        self.waiting.store(self.crowd.tick(), Ordering::Relaxed);
        self.crowd.waits.notify_one();
    }

    fn answer(self: &Arc<Self>, deadline: Instant) -> Answering {
        self.waiting.store(0, Ordering::Relaxed);
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
        Answering(self.clone())
    }
}

/// Lives from the end of a request's header until hyper has taken the last byte of the answer.
struct Answering(Arc<Mark>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.wait();
    }
}

/// For a handler that waits for others: as long as it does, its connection may be closed to make room for one that can be
/// answered.
#[derive(Clone)]
pub(super) struct Patience(Arc<Mark>);

impl Patience {
    /// Waits for `others`.
    pub(super) async fn wait_for<T>(&self, others: impl Future<Output = T>) -> T {
        self.0.wait();
        let _answers_again = AnswersAgain(&self.0);
        others.await
    }
}

struct AnswersAgain<'a>(&'a Mark);

impl Drop for AnswersAgain<'_> {
    fn drop(&mut self) {
        self.0.waiting.store(0, Ordering::Relaxed);
    }
}

/// A body that ends the [`Answering`] when it is dropped.
struct Answer {
    body: Body,
    _answering: Answering,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        HttpBody::size_hint(&self.body)
    }
}

/// Serves `stream` until it ends, is too slow, or `stop` fires and the request under way is answered.
///
/// A TLS handshake is no complete request: while it lasts the mark says that the connection may be closed.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    state: Arc<State>,
    mark: Arc<Mark>,
    stop: CancellationToken,
) {
    match state.transport() {
        Transport::Plain => speak(stream, peer, router, state, mark, stop).await,
        Transport::Tls(config) => {
            let handshake = TlsAcceptor::from(config).accept(stream);
            let accepted = tokio::select! {
                accepted = tokio::time::timeout(state.limits.header, handshake) => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok(Ok(stream)) => speak(stream, peer, router, state, mark, stop).await,
                // The sender's business, as is rubbish in a request.
                Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "connection closed: too slow in the TLS handshake"),
            }
        }
        Transport::Closed => tracing::debug!(%peer, "connection closed: no certificate to show"),
    }
}

/// HTTP on a connection that is ready for it.
async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: SocketAddr,
    router: Router,
    state: Arc<State>,
    mark: Arc<Mark>,
    stop: CancellationToken,
) {
    let limits = state.limits.clone();
    let answering = mark.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let answering = answering.answer(Instant::now() + state.limits.response);
        let patience = Patience(answering.0.clone());
        let (router, state) = (router.clone(), state.clone());
        async move {
            // hyper answers sixteen requests of a pipeline before it lets others go on; a crowd of such clients would keep
            // a probe waiting for seconds.
            tokio::task::yield_now().await;
            request.extensions_mut().insert(Peer(peer));
            request.extensions_mut().insert(patience);
            let response = routes::answer(router, &state, request.map(Body::new)).await;
            Ok::<_, Infallible>(response.map(|body| Answer { body, _answering: answering }))
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            // Without a timer hyper's own timeout does nothing at all, and says nothing about it.
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header)
            .max_buf_size(limits.header_bytes.max(8 * 1024))
            .serve_connection(TokioIo::new(stream), service)
    );
    let mut watchdog = pin!(tokio::time::sleep_until(mark.deadline()));
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                // Whatever was sent here is the sender's business: a port scan must not fill the log.
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "connection ended");
                }
                return;
            }
            () = watchdog.as_mut() => {
                // Requests since have moved it.
                let deadline = mark.deadline();
                if deadline <= Instant::now() {
                    tracing::debug!(%peer, "connection closed: too slow");
                    return;
                }
                watchdog.as_mut().reset(deadline);
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
