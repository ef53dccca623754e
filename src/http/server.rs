//! Accepts connections, keeps them few, and stops.
//!
//! Not `axum::serve`: it has no timeouts and no bound on connections, and its graceful shutdown waits for ever for a
//! half-open one.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::{self, Crowd, Mark};
use super::routes::{self, State};
use super::{Limits, Options};

/// How often a lasting failure to accept is logged.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// A bound port.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    max_connections: usize,
    state: Arc<State>,
}

impl Server {
    /// Takes the port. Connections wait in the kernel until [`Server::run`].
    pub async fn bind(listen: SocketAddr, options: Options) -> io::Result<Server> {
        let listener = match TcpListener::bind(listen).await {
            Err(error) if needs_ipv4(listen, &error) => {
                tracing::debug!(%listen, %error, "no IPv6 here: listening on IPv4 only");
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, listen.port())).await?
            }
            other => other?,
        };
        let address = listener.local_addr()?;
        let max_connections = options.max_connections.max(1);
        Ok(Server { listener, address, max_connections, state: Arc::new(State::new(options)) })
    }

    /// Where it listens: the port that port 0 became, the family that was available.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then lets complete requests finish, for [`Limits::shutdown`] at most.
    pub async fn run(self, stop: CancellationToken) {
        let Server { listener, max_connections, state, .. } = self;
        let limits = state.limits.clone();
        let router = routes::router(state.clone());
        // Its own token: connections are told after the listener is closed, and only by us.
        let told = CancellationToken::new();
        let mut open = Open { tasks: JoinSet::new(), held: HashMap::new(), crowd: Arc::default() };
        let mut warned: Option<Instant> = None;

        loop {
            // Full of requests being answered, which takes no time of others: the kernel's queue waits meanwhile.
            let full =
                open.held.len() >= max_connections && open.held.values().all(|held| held.mark.waiting().is_none());
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = open.tasks.join_next_with_id() => open.forget(ended),
                () = open.crowd.waits.notified(), if full => {}
                accepted = listener.accept(), if !full => match accepted {
                    Ok((stream, peer)) => {
                        while open.held.len() >= max_connections && open.close_one() {}
                        open.start(stream, peer, &router, &state, &told);
                        // Lets the new connection read what has already arrived: otherwise a burst would be accepted,
                        // and evicted, before any of it was looked at.
                        tokio::task::yield_now().await;
                    }
                    Err(error) if concerns_one_connection(&error) => {}
                    Err(error) => {
                        if warned.is_none_or(|at| at.elapsed() > WARN_EVERY) {
                            tracing::warn!(%error, "cannot accept connections");
                            warned = Some(Instant::now());
                        }
                        // Out of descriptors, most likely. The connection stays in the queue and accept fails again
                        // at once: without a pause this would spin. Idle connections are what can be given up, and
                        // while there are some, each turn of this loop makes room.
                        if open.close_one() {
                            tokio::task::yield_now().await;
                            continue;
                        }
                        tokio::select! {
                            () = stop.cancelled() => break,
                            () = tokio::time::sleep(limits.accept_retry) => {}
                        }
                    }
                },
            }
        }
        drop(listener);
        told.cancel();
        open.finish(&limits).await;
    }
}

/// The connections of a server.
struct Open {
    tasks: JoinSet<()>,
    held: HashMap<Id, Held>,
    crowd: Arc<Crowd>,
}

struct Held {
    task: AbortHandle,
    mark: Arc<Mark>,
    from: IpAddr,
}

impl Open {
    fn start(
        &mut self,
        stream: TcpStream,
        peer: SocketAddr,
        router: &axum::Router,
        state: &Arc<State>,
        told: &CancellationToken,
    ) {
        // Answers are small and written whole; a delay would only add to each scrape.
        let _ = stream.set_nodelay(true);
        let mark = Mark::new(self.crowd.clone(), Instant::now() + state.limits.response);
        let serve = connection::serve(stream, peer, router.clone(), state.clone(), mark.clone(), told.clone());
        let task = self.tasks.spawn(serve);
        self.held.insert(task.id(), Held { task, mark, from: origin(peer.ip()) });
    }

    fn forget(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "a connection's task panicked");
                }
                error.id()
            }
        };
        self.held.remove(&id);
    }

    /// The oldest connection without a complete request goes, not the newest: a newcomer is refused for ever by somebody
    /// who holds connections open, while a client that sends its request gets its answer.
    ///
    /// The oldest of the origin that has most of them: over TLS a request takes its client three turns, and a crowd of
    /// two thousand a second put every fourth out before it was through.
    fn first_to_go(&self) -> Option<Id> {
        let waiting = || self.held.iter().filter_map(|(id, held)| Some((held.mark.waiting()?, held.from, *id)));
        let mut of: HashMap<IpAddr, usize> = HashMap::new();
        for (_, from, _) in waiting() {
            *of.entry(from).or_default() += 1;
        }
        let first = waiting().max_by_key(|(since, from, _)| (of.get(from).copied(), Reverse(*since)));
        first.map(|(_, _, id)| id)
    }

    fn close_one(&mut self) -> bool {
        let Some(id) = self.first_to_go() else { return false };
        if let Some(held) = self.held.remove(&id) {
            held.task.abort();
        }
        true
    }

    /// Waits for the requests under way and for nothing else: a half-open connection would never end by itself.
    async fn finish(mut self, limits: &Limits) {
        // A request may lie in the kernel, complete and unread: let everybody read once.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        let finished = async {
            while self.held.values().any(|held| held.mark.waiting().is_none()) {
                tokio::select! {
                    Some(ended) = self.tasks.join_next_with_id() => self.forget(ended),
                    () = self.crowd.waits.notified() => {}
                }
            }
        };
        if tokio::time::timeout(limits.shutdown, finished).await.is_err() {
            tracing::debug!("requests were still under way at shutdown");
        }
        self.tasks.shutdown().await;
    }
}

/// Whose connection it is: an address, or for IPv6 a network of 64 bits, all of which one host may have.
fn origin(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        ipv4 @ IpAddr::V4(_) => ipv4,
    }
}

/// `[::]` covers both families. Where the kernel has no IPv6, the operator who wrote it, or took the default, wants IPv4.
fn needs_ipv4(listen: SocketAddr, error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    let no_ipv6 = error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT);
    listen.is_ipv6() && listen.ip().is_unspecified() && no_ipv6
}

/// The peer went away between its SYN and our accept: nothing is wrong here.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_is_one_origin() {
        let of = |ip: &str| origin(ip.parse().unwrap()).to_string();
        assert_eq!(of("10.0.0.7"), "10.0.0.7");
        assert_eq!(of("::ffff:10.0.0.7"), "10.0.0.7");
        assert_eq!(of("fd00:1:2:3:4:5:6:7"), "fd00:1:2:3::");
        assert_ne!(of("fd00:1:2:3::1"), of("fd00:1:2:4::1"));
    }

    #[test]
    fn only_a_missing_ipv6_makes_it_listen_on_ipv4() {
        let any: SocketAddr = "[::]:8379".parse().unwrap();
        assert!(needs_ipv4(any, &io::Error::from_raw_os_error(97)));
        assert!(needs_ipv4(any, &io::ErrorKind::AddrNotAvailable.into()));
        assert!(!needs_ipv4(any, &io::ErrorKind::AddrInUse.into()));
        assert!(!needs_ipv4("[::1]:8379".parse().unwrap(), &io::Error::from_raw_os_error(97)));
    }
}
