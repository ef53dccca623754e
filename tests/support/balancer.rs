//! A TCP load balancer in front of the members that asks each janitor whether
//! its member takes clients, as a Service asks the readiness of pods.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::scrape;

/// How often each member is asked, and how long an answer may take.
const EVERY: Duration = Duration::from_millis(200);
const WITHIN: Duration = Duration::from_secs(1);

/// Ends with everything that it carries when it is dropped.
pub struct Balancer {
    address: SocketAddr,
    backends: Arc<Vec<Backend>>,
    _tasks: JoinSet<()>,
}

struct Backend {
    client: SocketAddr,
    ready: SocketAddr,
    takes_clients: watch::Sender<bool>,
    /// When it came and went, the first time at the start.
    changes: Mutex<Vec<(Instant, bool)>>,
}

impl Balancer {
    /// In front of these addresses of clients, each with the one that
    /// `/etcd/readyz` is asked of.
    pub async fn start(members: Vec<(SocketAddr, SocketAddr)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let backend = |(client, ready)| Backend {
            client,
            ready,
            takes_clients: watch::Sender::new(false),
            changes: Mutex::new(vec![(Instant::now(), false)]),
        };
        let backends: Arc<Vec<Backend>> = Arc::new(members.into_iter().map(backend).collect());
        let mut tasks = JoinSet::new();
        for index in 0..backends.len() {
            let backends = Arc::clone(&backends);
            tasks.spawn(async move { backends[index].watch().await });
        }
        let carried = Arc::clone(&backends);
        tasks.spawn(async move { accept(listener, carried).await });
        Self { address, backends, _tasks: tasks }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn takes_clients(&self, member: usize) -> bool {
        *self.backends[member].takes_clients.borrow()
    }

    /// The times in which it was given no clients, the first of them before it
    /// was first asked. An end is missing while one lasts.
    pub fn out(&self, member: usize) -> Vec<(Instant, Option<Instant>)> {
        let changes = self.backends[member].changes();
        let mut out: Vec<(Instant, Option<Instant>)> = Vec::new();
        for (at, takes) in changes.iter() {
            match out.last_mut() {
                Some((_, end)) if *takes => *end = Some(*at),
                _ => out.push((*at, None)),
            }
        }
        out
    }
}

impl Backend {
    fn changes(&self) -> MutexGuard<'_, Vec<(Instant, bool)>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn watch(&self) {
        loop {
            let answer = timeout(WITHIN, scrape::get(self.ready, "/etcd/readyz")).await;
            let takes = matches!(answer, Ok(Some((200, _))));
            if self.takes_clients.send_replace(takes) != takes {
                self.changes().push((Instant::now(), takes));
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}

/// Each connection goes to the next member that takes clients, and ends when it
/// does not any more.
async fn accept(listener: TcpListener, backends: Arc<Vec<Backend>>) {
    let mut connections = JoinSet::new();
    for turn in 0.. {
        let Ok((mut from, _)) = listener.accept().await else { continue };
        let ready = |index: &usize| *backends[*index].takes_clients.borrow();
        let order = (0..backends.len()).map(|offset| (turn + offset) % backends.len());
        let Some(index) = order.into_iter().find(ready) else { continue };
        let backends = Arc::clone(&backends);
        connections.spawn(async move {
            let backend = &backends[index];
            let mut takes = backend.takes_clients.subscribe();
            let Ok(mut to) = TcpStream::connect(backend.client).await else { return };
            tokio::select! {
                _ = copy_bidirectional(&mut from, &mut to) => {}
                _ = takes.wait_for(|takes| !takes) => {}
            }
        });
    }
}
