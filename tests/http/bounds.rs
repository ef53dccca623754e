//! What a stranger on the port can do: nothing that lasts.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use etcd_janitor::http::{Limits, ProbeAnswer};
use futures_util::FutureExt;
use futures_util::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use crate::running::*;
use crate::sample;

#[tokio::test]
async fn a_connection_without_a_complete_header_ends() {
    let running = Setup { limits: hasty(), ..Setup::default() }.start(sample::unknown()).await;
    for start in ["", "GET /livez HTTP/1.1\r\nHost: x\r\n"] {
        let began = Instant::now();
        let answer = running.send(start.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}");
        let took = began.elapsed();
        assert!((450..4000).contains(&took.as_millis()), "{start:?} after {took:?}");
    }
}

#[tokio::test]
async fn a_byte_at_a_time_does_not_prolong_it() {
    let running = Setup { limits: hasty(), ..Setup::default() }.start(sample::unknown()).await;
    let mut stream = running.connect().await;
    let began = Instant::now();
    for byte in b"GET /livez HTTP/1.1\r\nHost: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".iter().cycle() {
        if stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        sleep(Duration::from_millis(20)).await;
        assert!(began.elapsed() < FOREVER, "still open");
    }
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_idle_connection_ends_after_its_answer() {
    let running = Setup { limits: hasty(), ..Setup::default() }.start(sample::unknown()).await;
    let mut stream = running.connect().await;
    for _ in 0..2 {
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut chunk = [0; 1024];
        let read = timeout(FOREVER, stream.read(&mut chunk)).await.unwrap().unwrap();
        assert_eq!(Answer::parse(&chunk[..read]).status, 200);
    }
    let began = Instant::now();
    assert!(read_to_close(&mut stream).await.is_empty());
    assert!((450..4000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_answer_that_nobody_reads_ends() {
    // Larger than what the kernel takes off our hands.
    let mut snapshot = sample::known();
    snapshot.queue = vec!["x".repeat(1024); 32 * 1024];
    let limits = Limits { response: Duration::from_millis(400), ..hasty() };
    let running = Setup { limits, ..Setup::default() }.start(snapshot).await;
    let mut stream = running.connect().await;
    stream.write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    sleep(Duration::from_millis(900)).await;
    let began = Instant::now();
    let answer = read_to_close(&mut stream).await;
    assert!(answer.len() < 32 << 20, "all of it came: the connection was still open");
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_body_that_does_not_come_ends() {
    let running = Setup { limits: hasty(), ..Setup::default() }.start(sample::unknown()).await;
    for path in ["POST /api/v1/quiesce", "GET /livez"] {
        let began = Instant::now();
        let answer =
            running.send(format!("{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nab").as_bytes()).await;
        let status = Answer::parse(&answer).status;
        assert!([200, 408].contains(&status), "{status}");
        assert!(began.elapsed() < Duration::from_secs(4), "{path}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn what_is_too_long_is_refused() {
    let mut running = start(sample::unknown()).await;
    let long = "a".repeat(100 * 1024);
    for request in [
        format!("GET /livez HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"),
        format!("GET /livez HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(200)),
    ] {
        let answer = running.send(request.as_bytes()).await;
        // The rest of the request may meet a closed socket, and the reset then overtakes the answer.
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    }
    let answer = running.request("POST /api/v1/quiesce HTTP/1.1\r\n", &"a".repeat(1025)).await;
    assert_eq!(answer.status, 413);
    let chunked = "POST /api/v1/quiesce HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = running.send(format!("{chunked}800\r\n{}\r\n0\r\n\r\n", "a".repeat(0x800)).as_bytes()).await;
    assert_eq!(Answer::parse(&answer).status, 413);
    assert!(running.commands.try_recv().is_err());
}

#[tokio::test]
async fn garbage_is_refused_or_closed() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let running = start(sample::unknown()).await;
    let mut random = StdRng::seed_from_u64(7);
    let mut garbage: Vec<Vec<u8>> = (0..20).map(|i| (0..200 + 40 * i).map(|_| random.random()).collect()).collect();
    garbage.push(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec());
    garbage.push(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on: a TLS hello\r\n\r\n".to_vec());
    garbage.push(b"GET /livez HTTP/9.9\r\n\r\n".to_vec());
    garbage.push(b"GET /livez\r\n\r\n".to_vec());
    garbage.push(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec());
    garbage.push(b"\r\n\r\n\r\n\0\0\0".to_vec());
    garbage.push(b"GET /livez HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n".to_vec());
    for bytes in garbage {
        let mut stream = running.connect().await;
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let answer = read_to_close(&mut stream).await;
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 400") || answer.starts_with(b"HTTP/1.1 431"),
            "{:?} got {:?}",
            String::from_utf8_lossy(&bytes),
            String::from_utf8_lossy(&answer)
        );
    }
    assert_eq!(running.get("/livez").await.status, 200);
    assert_eq!(*log.0.lock().unwrap(), b"", "a port scan fills no log");
}

/// What is logged at info and above.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Valid as messages, and asking for what there is not.
#[tokio::test]
async fn unusual_requests_are_refused() {
    let running = start(sample::unknown()).await;
    for (request, status) in [
        ("CONNECT example.com:80 HTTP/1.1", 404),
        ("OPTIONS * HTTP/1.1", 404),
        ("GET http://example.com/livez HTTP/1.1", 200),
        ("GET /%6civez HTTP/1.1", 404),
        ("GET //livez HTTP/1.1", 404),
        ("GET /../livez HTTP/1.1", 404),
        ("GET /livez HTTP/1.1\r\nUpgrade: h2c\r\nConnection: upgrade", 200),
        ("GET /livez HTTP/1.1\r\nExpect: 100-continue", 200),
    ] {
        let answer = running.request(&format!("{request}\r\n"), "").await;
        assert_eq!(answer.status, status, "{request}");
    }
}

/// 200 connections that say nothing, at a bound of 8: whoever sends a request gets an answer.
#[tokio::test]
async fn a_crowd_does_not_keep_a_probe_out() {
    let running = Setup { max_connections: 8, ..Setup::default() }.start(sample::unknown()).await;
    let crowd: Vec<TcpStream> = join_all((0..200).map(|_| running.connect())).await;
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(running.get("/livez").await.status, 200);
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?} for 20 probes");
    println!("20 probes through a crowd of 200 took {took:?}");

    // The bound holds: all but the newest few were closed.
    let closed =
        join_all(crowd.into_iter().map(|mut stream| async move {
            timeout(Duration::from_millis(100), stream.read(&mut [0; 1])).await.is_ok()
        }))
        .await;
    let closed = closed.into_iter().filter(|closed| *closed).count();
    assert!(closed >= 192, "{closed} of 200 closed");
}

/// Who goes is who has had no complete request for longest; an answer makes a connection young again.
#[tokio::test]
async fn the_oldest_goes() {
    let running = Setup { max_connections: 3, ..Setup::default() }.start(sample::unknown()).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(running.connect().await);
        sleep(Duration::from_millis(50)).await;
    }
    open[0].write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(timeout(FOREVER, open[0].read(&mut [0; 1024])).await.unwrap().unwrap() > 0);
    let _newcomer = running.connect().await;
    let closed = join_all(
        open.iter_mut()
            .map(|stream| async { timeout(Duration::from_millis(200), stream.read(&mut [0; 1])).await.is_ok() }),
    );
    assert_eq!(closed.await, [false, true, false]);
}

/// Who has most goes first, so that a crowd makes room for itself and not for others: a client from elsewhere has its time.
#[tokio::test]
async fn a_crowd_from_one_address_puts_nobody_else_out() {
    let running = Setup { max_connections: 4, ..Setup::default() }.start(sample::unknown()).await;
    let elsewhere = TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut slow = elsewhere.connect(running.address).await.unwrap();
    slow.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    let mut crowd = Vec::new();
    for _ in 0..50 {
        crowd.push(running.connect().await);
        sleep(Duration::from_millis(2)).await;
    }
    slow.write_all(b"Host: x\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(read_to_close(&mut slow).await.starts_with(b"HTTP/1.1 200"));
}

/// A crowd that comes back as fast as it is thrown out, with requests that it does not finish.
#[tokio::test]
async fn a_returning_crowd_does_not_keep_a_probe_out() {
    let running = Setup { max_connections: 8, ..Setup::default() }.start(sample::unknown()).await;
    let address = running.address;
    let returning = |_| async move {
        loop {
            let Ok(mut stream) = TcpStream::connect(address).await else { continue };
            let _ = stream.write_all(b"GET /livez HTTP/1.1\r\n").await;
            let _ = stream.read(&mut [0; 1]).await;
        }
    };
    let crowd: Vec<_> = (0..40).map(|i| tokio::spawn(returning(i))).collect();
    sleep(Duration::from_millis(50)).await;
    let began = Instant::now();
    let mut answered = 0;
    for _ in 0..20 {
        let answer = running.send(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        answered += usize::from(answer.starts_with(b"HTTP/1.1 200"));
    }
    println!("{answered} of 20 probes answered in {:?} through a crowd of 40 that returns", began.elapsed());
    assert!(answered >= 18, "{answered} of 20");
    for task in &crowd {
        task.abort();
    }
}

/// A connection whose request is being answered is not the one that goes, also where the answer takes its time.
#[tokio::test]
async fn a_request_under_way_is_not_thrown_out() {
    let etcd = Arc::new(|_| {
        async {
            sleep(Duration::from_millis(1000)).await;
            ProbeAnswer { ok: true, text: String::new() }
        }
        .boxed()
    });
    let running = Setup { max_connections: 16, etcd, ..Setup::default() }.start(sample::unknown()).await;
    let slow = join_all((0..4).map(|_| running.get("/etcd/livez")));
    let crowd = async {
        sleep(Duration::from_millis(300)).await;
        let crowd = join_all((0..50).map(|_| running.connect())).await;
        (crowd, running.get("/livez").await)
    };
    let (slow, (_crowd, probe)) = tokio::join!(slow, crowd);
    assert!(slow.iter().all(|answer| answer.status == 200));
    assert_eq!(probe.status, 200);
}

/// A full house of requests that wait for others, for a frozen etcd, a look or a body that never comes, keeps no probe out;
/// and each of those that are kept is answered as it would be alone.
#[tokio::test]
async fn a_crowd_of_slow_requests_does_not_keep_a_probe_out() {
    let frozen = || Arc::new(|_| async { std::future::pending().await }.boxed());
    for (request, status) in [
        ("GET /etcd/livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 503),
        ("GET /etcd/readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 503),
        ("GET /api/v1/status?fresh HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200),
        ("POST /api/v1/quiesce HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", 408),
    ] {
        // Nobody answers before the probes must have been.
        let limits = Limits { etcd_probe: FOREVER / 3, look: FOREVER / 3, request: FOREVER / 2, ..Limits::default() };
        let limits = Limits { response: FOREVER, ..limits };
        let running = Setup { limits, etcd: frozen(), ..Setup::default() }.start(sample::unknown()).await;
        let crowd = join_all((0..64).map(|_| running.send(request.as_bytes())));
        let probes = async {
            sleep(Duration::from_millis(500)).await;
            let began = Instant::now();
            for _ in 0..8 {
                assert_eq!(running.get("/livez").await.status, 200);
            }
            began.elapsed()
        };
        let (answers, took) = tokio::join!(crowd, probes);
        println!("8 probes through 64 of {request:.30} took {took:?}");
        assert!(took < FOREVER / 4, "{request:.30}: {took:?}");
        let answered: Vec<_> = answers.iter().filter(|answer| !answer.is_empty()).collect();
        assert!(answered.len() >= 64 - 8, "{} of 64: no more go than have to", answered.len());
        assert!(answered.iter().all(|answer| Answer::parse(answer).status == status), "{request:.30}");
    }
}

#[tokio::test]
async fn many_probes_at_once_ask_etcd_once() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let etcd = Arc::new(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        async {
            sleep(Duration::from_millis(1500)).await;
            ProbeAnswer { ok: true, text: String::new() }
        }
        .boxed()
    });
    let running = Setup { etcd, ..Setup::default() }.start(sample::unknown()).await;
    let answers = join_all((0..30).map(|_| running.get("/etcd/livez"))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    running.get("/etcd/livez").await;
    assert_eq!(asked.load(Ordering::Relaxed), 2, "an old answer is not given again");
}

#[tokio::test]
async fn shutdown_ends_in_spite_of_half_open_connections() {
    let running = start(sample::unknown()).await;
    let mut half = Vec::new();
    for start in
        ["", "GET /livez HTTP/1.1\r\n", "POST /api/v1/quiesce HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"]
    {
        let mut stream = running.connect().await;
        stream.write_all(start.as_bytes()).await.unwrap();
        half.push(stream);
    }
    sleep(Duration::from_millis(20)).await;
    let began = Instant::now();
    running.stop.cancel();
    timeout(FOREVER, running.task).await.expect("it ends").unwrap();
    let took = began.elapsed();
    println!("shutdown took {took:?}");
    assert!(took < Duration::from_millis(1500), "{took:?}");
    assert!(TcpStream::connect(running.address).await.is_err(), "the port is free");
}

#[tokio::test]
async fn shutdown_lets_a_complete_request_finish() {
    let etcd = Arc::new(|_| {
        async {
            sleep(Duration::from_millis(600)).await;
            ProbeAnswer { ok: true, text: "finished".into() }
        }
        .boxed()
    });
    let limits = Limits { shutdown: FOREVER, ..Limits::default() };
    let running = Setup { etcd, limits, ..Setup::default() }.start(sample::unknown()).await;
    let _half = running.connect().await;
    let began = Instant::now();
    let stop = async {
        sleep(Duration::from_millis(200)).await;
        running.stop.cancel();
    };
    let (answer, ()) = tokio::join!(running.get("/etcd/livez?verbose"), stop);
    assert_eq!((answer.status, answer.body.contains("finished")), (200, true));
    timeout(FOREVER, running.task).await.expect("it ends").unwrap();
    assert!(began.elapsed() < Duration::from_secs(4), "it waits for nothing else: {:?}", began.elapsed());
}

/// Out of descriptors, accept fails at once and again: the server must neither end, nor spin, nor keep a probe out.
///
/// The limit is a process's, so the server runs in a child: this same test, told by the environment.
#[tokio::test]
async fn a_lack_of_descriptors_is_survived() {
    const CHILD: &str = "HTTP_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(CHILD).is_some() {
        let running = start(sample::unknown()).await;
        // First nobody can be let in and there is nobody to close; then a crowd has all there is.
        let hoard: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        println!("port {}", running.address.port());
        sleep(Duration::from_millis(1500)).await;
        drop(hoard);
        return running.task.await.unwrap();
    }
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", "ulimit -n 24; exec \"$0\" --exact bounds::a_lack_of_descriptors_is_survived --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, "1")
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let port = loop {
        let line = timeout(FOREVER, lines.next_line()).await.unwrap().unwrap().expect("the child says its port");
        if let Some((_, port)) = line.split_once("port ") {
            break port.parse().unwrap();
        }
    };
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let probe = || async {
        let began = Instant::now();
        let mut probe = TcpStream::connect(address).await.unwrap();
        probe.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        assert_eq!(Answer::parse(&read_to_close(&mut probe).await).status, 200);
        began.elapsed()
    };
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id().unwrap())).unwrap();
        let fields: Vec<i64> = stat.rsplit_once(')').unwrap().1.split(' ').filter_map(|f| f.parse().ok()).collect();
        // After state: ppid is the first number, utime and stime the eleventh and twelfth. Signed: a process without a
        // terminal has -1 among them.
        fields[10] + fields[11]
    };
    let before = ticks();
    let took = probe().await;
    assert!(took > Duration::from_millis(500), "there was a descriptor to be had: {took:?}");
    assert!(ticks() - before < 15, "{} ticks of processor time while waiting: it spins", ticks() - before);

    let _crowd: Vec<_> = join_all((0..60).map(|_| TcpStream::connect(address))).await;
    let took = probe().await;
    println!("a probe was answered in {took:?} for want of descriptors");
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test]
async fn both_families_are_served_on_one_port() {
    let running = Setup { listen: "[::]:0", ..Setup::default() }.start(sample::unknown()).await;
    let port = running.address.port();
    let mut hosts = vec![SocketAddr::from(([127, 0, 0, 1], port))];
    if running.address.is_ipv6() {
        hosts.push(format!("[::1]:{port}").parse().unwrap());
    }
    for host in hosts {
        let socket = if host.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
        let mut stream = timeout(FOREVER, socket.connect(host)).await.unwrap().unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        assert_eq!(Answer::parse(&read_to_close(&mut stream).await).status, 200, "{host}");
    }
}

#[test]
fn the_defaults_are_the_promised_ones() {
    let limits = Limits::default();
    assert_eq!(limits.header, Duration::from_secs(5));
    assert!(limits.etcd_probe < limits.request && limits.request + limits.header < limits.response);
    assert!(limits.shutdown <= Duration::from_millis(500));
    assert_eq!((limits.header_bytes, limits.body_bytes), (16 * 1024, 1024));
}
