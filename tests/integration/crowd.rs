//! Ten thousand connections that want nothing good, at the port of a real daemon.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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

/// How long a probe on a connection of its own takes.
async fn probe(address: SocketAddr) -> Option<Duration> {
    let begun = Instant::now();
    let asked = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        answer.starts_with(b"HTTP/1.1 200").then_some(())
    };
    // What a kubelet gives a probe by default is a second.
    tokio::time::timeout(Duration::from_secs(1), asked).await.ok()??;
    Some(begun.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute of both processors: `make matrix` runs it"]
async fn ten_thousand_connections_keep_no_probe_out_and_cost_little_memory() {
    let cluster = Cluster::start(Spec { members: 1, ..Spec::default() }).await;
    let yaml = format!("compaction: {{ enabled: false }}\ndefrag: {{ schedule: '{}' }}\n", not_due());
    let mut janitor = Janitor::start(&cluster, 0, &yaml).await;
    knows_all(&janitor, 1).await;
    let (pid, address) = (janitor.process().pid(), janitor.address());
    let (before, said) = (own_memory(pid), janitor.events().len());

    let (come, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let crowd: Vec<_> = (0..AT_ONCE)
        .map(|first| {
            tokio::spawn(async move {
                let mut open = Vec::new();
                for index in (first..CROWD).step_by(AT_ONCE) {
                    let mut stream = TcpStream::connect(address).await.expect("the kernel takes a connection");
                    // Closed by then, perhaps.
                    let _ = stream.write_all(&opening(index)).await;
                    open.push(stream);
                }
                open
            })
        })
        .collect();
    let probes = tokio::spawn({
        let (come, peak) = (Arc::clone(&come), Arc::clone(&peak));
        async move {
            let (mut took, mut lost, mut after) = (Vec::new(), 0usize, 0);
            while after < 20 {
                after += usize::from(come.load(Ordering::Relaxed));
                match probe(address).await {
                    Some(time) => took.push(time),
                    None => lost += 1,
                }
                peak.fetch_max(own_memory(pid), Ordering::Relaxed);
                assert!(descriptors(pid) < SERVED + 40, "{} descriptors", descriptors(pid));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            took.sort_unstable();
            (took, lost)
        }
    });
    let mut open = Vec::new();
    for part in crowd {
        open.extend(part.await.expect("a part of the crowd"));
    }
    assert_eq!(open.len(), CROWD);
    come.store(true, Ordering::Relaxed);
    let (took, lost) = probes.await.expect("the probes");
    let peak = peak.load(Ordering::Relaxed);
    println!(
        "{} probes answered, {lost} not: median {:?}, slowest {:?}; {before} kB before, {peak} kB at most",
        took.len(),
        took[took.len() / 2],
        took[took.len() - 1],
    );
    // What is promised is a tenth of a second; a build for debugging, beside a crowd that has the other
    // processor, has thrice that.
    let (p99, bound) = (took[took.len() * 99 / 100], if cfg!(debug_assertions) { 300 } else { 100 });
    assert!(p99 < Duration::from_millis(bound), "one probe in a hundred takes {p99:?} and more");
    // A kubelet kills after three failures in a row.
    assert!(lost * 20 <= took.len(), "{lost} probes of {} were not answered in a second", took.len() + lost);
    assert!(peak < 16 << 10, "{peak} kB; {before} kB before");
    let poll = janitor.status().await["members"][0]["seen_at"].clone();
    crate::support::rounds::says(&janitor, "it asks etcd on", Duration::from_secs(15), |status| {
        status["members"][0]["seen_at"] != poll
    })
    .await;
    assert_eq!(janitor.events().len(), said, "nothing to log: {}", janitor.log_tail(5));
}
