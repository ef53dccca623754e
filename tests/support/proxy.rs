//! A TCP proxy whose network fails on demand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::ports::Port;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Every piece of data arrives this much later, in both directions.
    Delay(Duration),
    /// Connections are made and stay open, and nothing arrives. What was sent
    /// arrives when the mode changes: a partition that heals in time.
    Stall(Direction),
    /// The same silence, but what was caught in it is lost for good: the
    /// connections it touched are reset when the mode changes.
    Blackhole(Direction),
    /// Existing connections and new ones are reset.
    Reset,
    /// Nothing listens. Existing connections are reset.
    Refuse,
    /// Everything passes until a client sends `Defragment`: that call, and what
    /// follows it on its connection, arrives when the mode changes. This is the
    /// time between the send and the arrival, made as long as a test needs it.
    HoldDefragment,
    /// Everything passes, but the `Date` of the server's answers is so many
    /// seconds off: all that others see of a member's clock. No library gives
    /// etcd another clock, since a program in Go does not ask libc for it.
    ClockOff(i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
    Both,
}

impl Mode {
    fn silent(self, toward: Direction) -> bool {
        match self {
            Self::Stall(direction) | Self::Blackhole(direction) => direction == Direction::Both || direction == toward,
            _ => false,
        }
    }

    fn delay(self) -> Duration {
        match self {
            Self::Delay(delay) => delay,
            _ => Duration::ZERO,
        }
    }
}

/// What went through, all connections together.
#[derive(Default)]
struct Counters {
    connections: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
    held: AtomicU64,
}

pub struct Proxy {
    port: Port,
    servers: watch::Sender<Vec<SocketAddr>>,
    mode: watch::Sender<Mode>,
    in_force: watch::Receiver<Mode>,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(server: SocketAddr) -> Self {
        Self::balanced(vec![server]).await
    }

    /// A load balancer: each new connection goes to the next server.
    pub async fn balanced(servers: Vec<SocketAddr>) -> Self {
        let port = Port::reserve();
        let (servers, targets) = watch::channel(servers);
        let (mode, wanted) = watch::channel(Mode::Pass);
        let (applied, in_force) = watch::channel(Mode::Pass);
        let counters = Arc::new(Counters::default());
        let listener = listen(port.address());
        let acceptor = Acceptor { address: port.address(), targets, wanted, applied, counters: Arc::clone(&counters) };
        let task = tokio::spawn(acceptor.run(listener));
        Self { port, servers, mode, in_force, counters, task }
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// In force for new connections and new data when this returns; resets of
    /// existing connections follow at once.
    pub async fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
        let mut in_force = self.in_force.clone();
        in_force.wait_for(|applied| *applied == mode).await.expect("the acceptor runs as long as the proxy");
    }

    /// Another server behind the same address: new connections go there, and
    /// existing ones are reset.
    pub fn point_to(&self, server: SocketAddr) {
        self.servers.send_replace(vec![server]);
    }

    /// Connections accepted since the start.
    pub fn connections(&self) -> u64 {
        self.counters.connections.load(Ordering::SeqCst)
    }

    pub fn bytes_to_server(&self) -> u64 {
        self.counters.to_server.load(Ordering::SeqCst)
    }

    pub fn bytes_to_client(&self) -> u64 {
        self.counters.to_client.load(Ordering::SeqCst)
    }

    /// Calls caught by `HoldDefragment` since the start.
    pub fn held(&self) -> u64 {
        self.counters.held.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        // The tasks of the connections end when this value is gone, too: each
        // watches the mode, and its sender goes with it.
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket can be made");
    // Ports of connections that were just reset would stand in the way.
    socket
        .set_reuseaddr(true)
        .and_then(|()| socket.bind(address))
        .and_then(|()| socket.listen(128))
        .unwrap_or_else(|error| panic!("the proxy cannot listen on {address}: {error}"))
}

struct Acceptor {
    address: SocketAddr,
    targets: watch::Receiver<Vec<SocketAddr>>,
    wanted: watch::Receiver<Mode>,
    applied: watch::Sender<Mode>,
    counters: Arc<Counters>,
}

impl Acceptor {
    async fn run(mut self, listener: TcpListener) {
        let mut listener = Some(listener);
        loop {
            let mode = *self.wanted.borrow_and_update();
            if mode == Mode::Refuse {
                listener = None;
            } else if listener.is_none() {
                listener = Some(listen(self.address));
            }
            self.applied.send_replace(mode);
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { return },
                client = accept(listener.as_ref()) => self.serve(client),
            }
        }
    }

    fn serve(&self, client: TcpStream) {
        let number = self.counters.connections.fetch_add(1, Ordering::SeqCst);
        let mode = self.wanted.clone();
        let counters = Arc::clone(&self.counters);
        let mut targets = self.targets.clone();
        let server = {
            let servers = targets.borrow_and_update();
            servers[number as usize % servers.len()]
        };
        tokio::spawn(async move {
            let mut client = client;
            let _ = client.set_nodelay(true);
            let ended = tokio::select! {
                () = cut(mode.clone()) => Ended::Cut,
                _ = targets.changed() => Ended::Cut,
                ended = carry(&mut client, server, mode, &counters) => ended,
            };
            if ended == Ended::Cut {
                // Closed like this it is a reset. An orderly end would look
                // like the server's own word, and could not lose data.
                let _ = client.set_zero_linger();
            }
        });
    }
}

#[derive(PartialEq, Eq)]
enum Ended {
    Orderly,
    Cut,
}

async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    if let Some(listener) = listener
        && let Ok((client, _)) = listener.accept().await
    {
        return client;
    }
    std::future::pending().await
}

/// Returns when a connection that exists now has to be reset.
async fn cut(mut mode: watch::Receiver<Mode>) {
    let mut before = *mode.borrow_and_update();
    loop {
        if matches!(before, Mode::Reset | Mode::Refuse) || mode.changed().await.is_err() {
            return;
        }
        let now = *mode.borrow_and_update();
        if matches!(before, Mode::Blackhole(_)) && now != before {
            return;
        }
        before = now;
    }
}

async fn carry(client: &mut TcpStream, server: SocketAddr, mode: watch::Receiver<Mode>, counters: &Counters) -> Ended {
    let Ok(mut upstream) = TcpStream::connect(server).await else {
        return Ended::Cut;
    };
    let _ = upstream.set_nodelay(true);
    // Borrowed halves: owned ones say goodbye when they are dropped, and a
    // reset would arrive as an orderly end.
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = upstream.split();
    let held = &counters.held;
    let up = Pump { toward: Direction::ToServer, mode: mode.clone(), count: &counters.to_server, held };
    let down = Pump { toward: Direction::ToClient, mode, count: &counters.to_client, held };
    tokio::join!(up.run(client_read, server_write), down.run(server_read, client_write));
    Ended::Orderly
}

/// One direction of one connection.
struct Pump<'a> {
    toward: Direction,
    mode: watch::Receiver<Mode>,
    count: &'a AtomicU64,
    held: &'a AtomicU64,
}

impl Pump<'_> {
    /// Reading and writing are apart, so that a delay does not slow the flow.
    async fn run(self, from: ReadHalf<'_>, to: WriteHalf<'_>) {
        let (queue, pieces) = mpsc::channel(64);
        let reader = read(from, self.mode.clone(), queue);
        tokio::join!(reader, self.write(pieces, to));
    }

    async fn write(mut self, mut pieces: mpsc::Receiver<(Instant, Vec<u8>)>, mut to: WriteHalf<'_>) {
        while let Some((due, mut piece)) = pieces.recv().await {
            tokio::time::sleep_until(due).await;
            let toward = self.toward;
            if toward == Direction::ToServer && *self.mode.borrow() == Mode::HoldDefragment && is_defragment(&piece) {
                self.held.fetch_add(1, Ordering::SeqCst);
                if self.mode.wait_for(|mode| *mode != Mode::HoldDefragment).await.is_err() {
                    return;
                }
            }
            if let (Direction::ToClient, Mode::ClockOff(seconds)) = (toward, *self.mode.borrow()) {
                set_date(&mut piece, seconds);
            }
            // Looked at per piece and before it goes: silence also holds back
            // what was read before it fell.
            if self.mode.wait_for(|mode| !mode.silent(toward)).await.is_err() || to.write_all(&piece).await.is_err() {
                return;
            }
            self.count.fetch_add(piece.len() as u64, Ordering::SeqCst);
        }
        let _ = to.shutdown().await;
    }
}

async fn read(mut from: ReadHalf<'_>, mode: watch::Receiver<Mode>, queue: mpsc::Sender<(Instant, Vec<u8>)>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let due = Instant::now() + mode.borrow().delay();
        if queue.send((due, buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

/// Moves the `Date` header in this piece, if there is one. It is as long as
/// before, and etcd writes an answer's header in one piece.
fn set_date(piece: &mut [u8], seconds: i64) {
    const HEADER: &[u8] = b"\r\nDate: ";
    const LENGTH: usize = "Sun, 22 Nov 2026 19:44:44 GMT".len();
    let Some(at) = piece.windows(HEADER.len()).position(|window| window == HEADER) else { return };
    let Some(date) = piece.get_mut(at + HEADER.len()..at + HEADER.len() + LENGTH) else { return };
    let told = std::str::from_utf8(date).ok().and_then(|text| DateTime::parse_from_rfc2822(text).ok());
    let told = told.expect("etcd's dates can be read") + TimeDelta::seconds(seconds);
    date.copy_from_slice(told.format("%a, %d %b %Y %H:%M:%S GMT").to_string().as_bytes());
}

/// Whether this piece carries the header of a `Defragment` call: its path, as
/// HPACK writes a text that it has not written before on a connection.
fn is_defragment(piece: &[u8]) -> bool {
    let path = huffman("/etcdserverpb.Maintenance/Defragment");
    piece.windows(path.len()).any(|window| window == path)
}

/// RFC 7541, appendix B, as far as the path above needs it: bits from the
/// highest on, and ones to the end of the last byte.
fn huffman(text: &str) -> Vec<u8> {
    let code = |letter| match letter {
        '/' => "011000",
        '.' => "010111",
        'D' => "1011111",
        'M' => "1101000",
        'a' => "00011",
        'b' => "100011",
        'c' => "00100",
        'd' => "100100",
        'e' => "00101",
        'f' => "100101",
        'g' => "100110",
        'i' => "00110",
        'm' => "101001",
        'n' => "101010",
        'p' => "101011",
        'r' => "101100",
        's' => "01000",
        't' => "01001",
        'v' => "1110111",
        other => panic!("no code for {other:?}"),
    };
    let mut bits: String = text.chars().map(code).collect();
    while !bits.len().is_multiple_of(8) {
        bits.push('1');
    }
    let bytes = (0..bits.len() / 8).map(|at| u8::from_str_radix(&bits[at * 8..at * 8 + 8], 2));
    bytes.map(|byte| byte.expect("eight bits")).collect()
}
