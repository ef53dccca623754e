//! A server on a port of its own, and a client that says exactly what it is told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use etcd_janitor::http::{
    Access, AskEtcd, Command, Heartbeat, Limits, Metrics, Options, ProbeAnswer, Server, Transport,
};
use etcd_janitor::plan::snapshot::Snapshot;
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longer than anything here may take; only a hang reaches it.
pub const FOREVER: Duration = Duration::from_secs(10);

pub struct Running {
    pub address: SocketAddr,
    pub snapshot: watch::Sender<Arc<Snapshot>>,
    pub access: watch::Sender<Access>,
    pub transport: watch::Sender<Transport>,
    pub heartbeat: Arc<Heartbeat>,
    pub look_wanted: Arc<Notify>,
    pub commands: mpsc::Receiver<Command>,
    pub stop: CancellationToken,
    pub task: JoinHandle<()>,
}

pub struct Setup {
    pub listen: &'static str,
    pub max_connections: usize,
    pub limits: Limits,
    pub etcd: AskEtcd,
    /// Of the daemon's loop.
    pub silence: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            listen: "127.0.0.1:0",
            max_connections: 64,
            limits: Limits::default(),
            silence: Duration::from_secs(30),
            etcd: Arc::new(|probe| async move { ProbeAnswer { ok: true, text: format!("{probe:?}") } }.boxed()),
        }
    }
}

/// Times short enough to wait for, and long enough for a machine that is busy with something else.
pub fn hasty() -> Limits {
    Limits {
        header: Duration::from_millis(500),
        request: Duration::from_millis(400),
        etcd_probe: Duration::from_millis(100),
        look: Duration::from_millis(200),
        ..Limits::default()
    }
}

impl Setup {
    pub async fn start(self, snapshot: Snapshot) -> Running {
        let (snapshot, snapshot_rx) = watch::channel(Arc::new(snapshot));
        let (access, access_rx) = watch::channel(Access::Open);
        let (transport, transport_rx) = watch::channel(Transport::Plain);
        let (commands_tx, commands) = mpsc::channel(1);
        let heartbeat = Arc::new(Heartbeat::new(self.silence));
        let look_wanted = Arc::new(Notify::new());
        let options = Options {
            max_connections: self.max_connections,
            access: access_rx,
            transport: transport_rx,
            snapshot: snapshot_rx,
            metrics: Arc::new(Metrics::new().expect("metrics")),
            heartbeat: heartbeat.clone(),
            etcd_probe: self.etcd,
            commands: commands_tx,
            look_wanted: look_wanted.clone(),
            limits: self.limits,
        };
        let server = Server::bind(self.listen.parse().expect("address"), options).await.expect("bind");
        let address = server.local_addr();
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.run(stop.clone()));
        Running { address, snapshot, access, transport, heartbeat, look_wanted, commands, stop, task }
    }
}

pub async fn start(snapshot: Snapshot) -> Running {
    Setup::default().start(snapshot).await
}

impl Running {
    pub async fn connect(&self) -> TcpStream {
        timeout(FOREVER, TcpStream::connect(self.address)).await.expect("in time").expect("connect")
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request(&format!("GET {path} HTTP/1.1\r\n"), "").await
    }

    /// `start` is the request line and headers of the caller's.
    pub async fn request(&self, start: &str, body: &str) -> Answer {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let text = format!("{start}Host: x\r\nConnection: close\r\n{length}\r\n{body}");
        Answer::parse(&self.send(text.as_bytes()).await)
    }

    /// What comes back until the server closes.
    pub async fn send(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect().await;
        // The server may close before it has read everything.
        let _ = stream.write_all(bytes).await;
        read_to_close(&mut stream).await
    }
}

pub async fn read_to_close(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    // A reset after the answer is an end too.
    let _ = timeout(FOREVER, stream.read_to_end(&mut answer)).await.expect("the server closes in time");
    answer
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: String,
}

impl Answer {
    pub fn parse(bytes: &[u8]) -> Answer {
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not an answer: {text:?}"));
        let (first, headers) = head.split_once("\r\n").unwrap_or((head, ""));
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("status");
        Answer { status, headers: headers.to_owned(), body: body.to_owned() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().filter_map(|line| line.split_once(": ")).find(|(key, _)| *key == name).map(|(_, v)| v)
    }
}
