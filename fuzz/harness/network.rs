//! The port, by connections to it.

use std::cell::OnceCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use etcd_janitor::http::{Access, Heartbeat, Limits, Metrics, Options, ProbeAnswer, Server, Transport};
use etcd_janitor::plan::snapshot::Snapshot;
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Longer than any of the server's own limits: who is not answered by then was forgotten.
const FOREVER: Duration = Duration::from_secs(20);

/// Shown by names that want to be more than names.
const SNAPSHOT: &str = r#"{
    "api_version": 1, "at": "2026-11-22T00:00:00Z",
    "janitor": { "version": "0", "instance": "<i>", "started_at": "2026-11-22T00:00:00Z" },
    "config": { "source": "<b>", "valid": true, "last_reload_successful": true, "problems": [], "dry_run": false },
    "etcd_up": true, "problem": null, "cluster_id": null, "local": null, "members": [], "alarms": [], "tasks": [],
    "compact_revision": null, "revision": null, "turn_held": false, "queue": ["\"><script>"], "intent": null, "hold": null,
    "quiesced": false, "draining": false, "forecast_seconds": null, "certificates": [], "decisions": [], "history": []
}"#;

struct Port {
    runtime: Runtime,
    address: SocketAddr,
}

impl Port {
    fn open() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let address = runtime.block_on(async {
            let snapshot: Snapshot = serde_json::from_str(SNAPSHOT).expect("a snapshot");
            let (commands, mut received) = mpsc::channel(1);
            tokio::spawn(async move { while received.recv().await.is_some() {} });
            // Their other ends are never dropped: what they last said stays true.
            let snapshot = Box::leak(Box::new(watch::channel(Arc::new(snapshot)))).1.clone();
            let access = Box::leak(Box::new(watch::channel(Access::Open))).1.clone();
            let transport = Box::leak(Box::new(watch::channel(Transport::Plain))).1.clone();
            let options = Options {
                max_connections: 64,
                access,
                transport,
                snapshot,
                metrics: Arc::new(Metrics::new().expect("metrics")),
                heartbeat: Arc::new(Heartbeat::new(Duration::from_secs(1 << 30))),
                etcd_probe: Arc::new(|_| async { ProbeAnswer { ok: true, text: String::new() } }.boxed()),
                commands,
                look_wanted: Arc::new(Notify::new()),
                limits: Limits { look: Duration::from_millis(1), ..Limits::default() },
            };
            let server = Server::bind(([127, 0, 0, 1], 0).into(), options).await.expect("a port");
            let address = server.local_addr();
            tokio::spawn(server.run(CancellationToken::new()));
            address
        });
        Port { runtime, address }
    }

    fn send(&self, from: Ipv4Addr, data: &[u8]) -> Vec<u8> {
        let exchanged = async {
            let socket = TcpSocket::new_v4().expect("a socket");
            // Another address each time: closed connections keep their ports for a minute.
            socket.bind((from, 0).into()).expect("all of 127/8 is ours");
            let mut stream = socket.connect(self.address).await.expect("the port takes connections");
            // It may be closed before it has read everything.
            let _ = stream.write_all(data).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            answer
        };
        let limited = async { tokio::time::timeout(FOREVER, exchanged).await };
        self.runtime.block_on(limited).expect("a connection that has said everything is closed in time")
    }
}

thread_local! {
    static PORT: OnceCell<Port> = const { OnceCell::new() };
}

/// Whatever is sent: what comes back is HTTP or nothing, not an error of ours, and the connection ends.
pub fn http(data: &[u8]) {
    let chance = data.iter().fold(1u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    let [_, a, b, c] = chance.to_be_bytes();
    let answer = PORT.with(|port| port.get_or_init(Port::open).send(Ipv4Addr::new(127, a, b, c.clamp(1, 254)), data));
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&answer));
    assert!(!answer.starts_with(b"HTTP/1.1 500"), "{}", String::from_utf8_lossy(&answer));
    let text = String::from_utf8_lossy(&answer);
    assert!(!text.contains("<script>"), "{text}");
}
