//! Ten thousand connections that want nothing good, at the port of a real daemon.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::support::certs::Certs;
use crate::support::rounds::{knows_all, not_due};
use crate::support::{Cluster, Janitor, Spec};

const CROWD: usize = 10_000;
/// How many connect at the same time.
const AT_ONCE: usize = 50;
/// `http.max_connections`, by default.
const SERVED: usize = 64;

/// What they send: nothing, half a request, the beginning of HTTP/2 and of TLS, rubbish without an end of line, requests
/// whose answers nobody reads.
fn opening(index: usize) -> Vec<u8> {
    match index % 6 {
        0 => Vec::new(),
        1 => b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: ".to_vec(),
        2 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        3 => b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(),
        4 => b"\xff\xfe{}/".repeat(800),
        _ => b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n".repeat(50),
    }
}

/// Kilobytes that a process has of its own, files that it maps apart.
pub fn own_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("Linux tells it");
    line.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse().ok()).expect("a number")
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the daemon runs").count()
}

/// The daemon's port as it is reached from outside.
#[derive(Clone)]
struct Door {
    address: SocketAddr,
    /// None: in clear text.
    tls: Option<Arc<ClientConfig>>,
}

impl Door {
    fn localhost() -> ServerName<'static> {
        ServerName::try_from("localhost").expect("a name")
    }

    /// How long a probe on a connection of its own takes. A kubelet has the node's address, and no crowd has.
    async fn probe(&self) -> io::Result<Duration> {
        let begun = Instant::now();
        let socket = TcpSocket::new_v4()?;
        socket.bind(([127, 0, 0, 2], 0).into())?;
        let mut tcp = socket.connect(self.address).await?;
        let answer = match &self.tls {
            Some(tls) => {
                let mut stream = TlsConnector::from(Arc::clone(tls)).connect(Self::localhost(), tcp).await?;
                Self::ask(&mut stream).await?
            }
            None => Self::ask(&mut tcp).await?,
        };
        if answer.starts_with(b"HTTP/1.1 200") { Ok(begun.elapsed()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<Vec<u8>> {
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    }

    /// Probe after probe on a thread of its own, which waits for none of the crowd, until twenty came after all of it.
    fn probes(&self, pid: u32, come: &AtomicBool, peak: &AtomicU64) -> (Vec<Duration>, Vec<String>) {
        // What a kubelet gives a probe by default is a second.
        let limit = Duration::from_secs(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (mut took, mut lost, mut after) = (Vec::new(), Vec::new(), 0);
        while after < 20 {
            after += usize::from(come.load(Ordering::Relaxed));
            match runtime.block_on(async { tokio::time::timeout(limit, self.probe()).await }) {
                Ok(Ok(time)) => took.push(time),
                Ok(Err(error)) => lost.push(error.to_string()),
                Err(_) => lost.push("not within a second".to_owned()),
            }
            peak.fetch_max(own_memory(pid), Ordering::Relaxed);
            assert!(descriptors(pid) < SERVED + 40, "{} descriptors", descriptors(pid));
            std::thread::sleep(Duration::from_millis(20));
        }
        took.sort_unstable();
        (took, lost)
    }

    /// One of the crowd, whatever becomes of it. Over TLS every second one ends its handshake before it sends anything.
    async fn besiege(&self, index: usize) -> Box<dyn Send> {
        let mut tcp = TcpStream::connect(self.address).await.expect("the kernel takes a connection");
        let opening = opening(index);
        if let Some(tls) = self.tls.as_ref().filter(|_| (index / 6).is_multiple_of(2)) {
            let Ok(mut stream) = TlsConnector::from(Arc::clone(tls)).connect(Self::localhost(), tcp).await else {
                // To make room.
                return Box::new(());
            };
            let _ = stream.write_all(&opening).await;
            return Box::new(stream);
        }
        let _ = tcp.write_all(&opening).await;
        Box::new(tcp)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute of both processors: `make matrix` runs it"]
async fn ten_thousand_connections_keep_no_probe_out_and_cost_little_memory() {
    besieged(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute of both processors: `make matrix` runs it"]
async fn ten_thousand_connections_over_tls_neither() {
    besieged(true).await;
}

async fn besieged(tls: bool) {
    let cluster = Cluster::start(Spec { members: 1, ..Spec::default() }).await;
    let yaml = format!("compaction: {{ enabled: false }}\ndefrag: {{ schedule: '{}' }}\n", not_due());
    let mut janitor = Janitor::start(&cluster, 0, &yaml).await;
    knows_all(&janitor, 1).await;
    let mut door = Door { address: janitor.address(), tls: None };
    if tls {
        let certs = Certs::create(&janitor.folder().join("certs"));
        let (cert, key) = (certs.server_cert.display(), certs.server_key.display());
        janitor.reload(&format!("{yaml}http: {{ tls: {{ cert_file: {cert}, key_file: {key} }} }}\n")).await;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&certs.ca).expect("a certificate")).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let client = builder.expect("its defaults").with_root_certificates(roots).with_no_client_auth();
        door.tls = Some(Arc::new(client));
    }
    let pid = janitor.process().pid();
    let (before, said) = (own_memory(pid), janitor.events().len());

    let (come, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let crowd: Vec<_> = (0..AT_ONCE)
        .map(|first| {
            let door = door.clone();
            tokio::spawn(async move {
                let mut open = Vec::new();
                for index in (first..CROWD).step_by(AT_ONCE) {
                    open.push(door.besiege(index).await);
                }
                open
            })
        })
        .collect();
    let probes = std::thread::spawn({
        let (come, peak) = (Arc::clone(&come), Arc::clone(&peak));
        move || door.probes(pid, &come, &peak)
    });
    let begun = Instant::now();
    let mut open = Vec::new();
    for part in crowd {
        open.extend(part.await.expect("a part of the crowd"));
    }
    assert_eq!(open.len(), CROWD);
    let came_in = begun.elapsed();
    come.store(true, Ordering::Relaxed);
    let probes = tokio::task::spawn_blocking(|| probes.join()).await.expect("a thread");
    let (took, lost) = probes.expect("the probes");
    let peak = peak.load(Ordering::Relaxed);
    println!(
        "{CROWD} connections in {came_in:?}; {} probes answered, {} not {lost:?}: median {:?}, slowest {:?}; {before} kB before, {peak} kB at most",
        took.len(),
        lost.len(),
        took[took.len() / 2],
        took[took.len() - 1],
    );
    // What is promised is a tenth of a second; a build for debugging, beside a crowd that has the other
    // processor, has thrice that.
    let (p99, bound) = (took[took.len() * 99 / 100], if cfg!(debug_assertions) { 300 } else { 100 });
    assert!(p99 < Duration::from_millis(bound), "one probe in a hundred takes {p99:?} and more");
    // A kubelet kills after three failures in a row.
    assert!(lost.len() * 20 <= took.len(), "{} probes of {} were not answered: {lost:?}", lost.len(), took.len());
    assert!(peak < 16 << 10, "{peak} kB; {before} kB before");
    assert_eq!(janitor.events().len(), said, "nothing to log: {}", janitor.log_tail(5));
    if tls {
        janitor.reload(&yaml).await;
    }
    let poll = janitor.status().await["members"][0]["seen_at"].clone();
    crate::support::rounds::says(&janitor, "it asks etcd on", Duration::from_secs(15), |status| {
        status["members"][0]["seen_at"] != poll
    })
    .await;
}
