//! The listener over TLS: what it shows, what it does not say in clear text, and what half a handshake can do.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_janitor::http::Transport;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::ports::Port;
use crate::running::*;
use crate::sample;

/// Certificate and key as PEM, good from 2000 until the first day of `until`.
struct Pem {
    cert: String,
    key: String,
}

fn pem(until: i32) -> Pem {
    pem_with(|params| params.not_after = date_time_ymd(until, 1, 1))
}

fn pem_with(change: impl FnOnce(&mut CertificateParams)) -> Pem {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2000, 1, 1);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    Pem { cert: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

fn server(pem: &Pem) -> Transport {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = vec![CertificateDer::from_pem_slice(pem.cert.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Transport::Tls(Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap()))
}

/// Asks as a scraper does that trusts this certificate alone.
async fn get(address: std::net::SocketAddr, trusted: &Pem, path: &str) -> std::io::Result<Answer> {
    get_with(address, trusted, path, "X: none").await
}

async fn get_with(address: std::net::SocketAddr, trusted: &Pem, path: &str, header: &str) -> std::io::Result<Answer> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.cert.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let connector = TlsConnector::from(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()));
    let stream = TcpStream::connect(address).await?;
    let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{header}\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(Answer::parse(&answer))
}

async fn over_tls(setup: Setup, pem: &Pem) -> Running {
    let running = setup.start(sample::unknown()).await;
    running.transport.send_replace(server(pem));
    running
}

#[tokio::test]
async fn it_answers_over_tls_and_says_nothing_in_clear_text() {
    let shown = pem(2100);
    let running = over_tls(Setup::default(), &shown).await;
    assert_eq!(get(running.address, &shown, "/livez").await.unwrap().status, 200);
    let clear = running.send(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(!clear.windows(5).any(|five| five == b"HTTP/"), "{}", String::from_utf8_lossy(&clear));
    assert!(get(running.address, &pem(2100), "/livez").await.is_err(), "who trusts another certificate");
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_the_next_connection() {
    let (first, second) = (pem(2100), pem(2100));
    let running = over_tls(Setup::default(), &first).await;
    assert_eq!(get(running.address, &first, "/livez").await.unwrap().status, 200);
    running.transport.send_replace(server(&second));
    assert_eq!(get(running.address, &second, "/livez").await.unwrap().status, 200);
    assert!(get(running.address, &first, "/livez").await.is_err());
}

#[tokio::test]
async fn without_a_certificate_nobody_is_spoken_to() {
    let running = start(sample::unknown()).await;
    running.transport.send_replace(Transport::Closed);
    assert!(running.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.is_empty());
}

#[tokio::test]
async fn half_a_handshake_ends() {
    let running = over_tls(Setup { limits: hasty(), ..Setup::default() }, &pem(2100)).await;
    // A record that announces 512 bytes and does not bring them.
    for start in [b"".as_slice(), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let began = Instant::now();
        assert!(running.send(start).await.is_empty());
        let took = began.elapsed();
        assert!((450..4000).contains(&took.as_millis()), "{start:?} after {took:?}");
    }
}

/// They have nothing that would keep them: the oldest makes room.
#[tokio::test]
async fn a_crowd_of_half_handshakes_does_not_keep_a_probe_out() {
    let shown = pem(2100);
    let running = over_tls(Setup { max_connections: 8, ..Setup::default() }, &shown).await;
    let mut crowd = Vec::new();
    for _ in 0..100 {
        let mut stream = running.connect().await;
        stream.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
        crowd.push(stream);
    }
    let answer = tokio::time::timeout(Duration::from_secs(3), get(running.address, &shown, "/livez")).await;
    assert_eq!(answer.expect("before any of them is too slow").unwrap().status, 200);
}

/// The program with its files in a folder, and no etcd anywhere.
struct Daemon {
    folder: tempfile::TempDir,
    port: Port,
    child: Option<Child>,
}

impl Daemon {
    fn prepare(pem: &Pem) -> Daemon {
        let daemon = Daemon { folder: tempfile::tempdir().unwrap(), port: Port::reserve(), child: None };
        daemon.write(pem);
        fs::write(daemon.folder.path().join("token"), "hunter2").unwrap();
        daemon
    }

    fn write(&self, pem: &Pem) {
        fs::write(self.folder.path().join("tls.crt"), &pem.cert).unwrap();
        fs::write(self.folder.path().join("tls.key"), &pem.key).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-janitor"));
        let path = |name: &str| self.folder.path().join(name);
        command
            .args(words)
            .env("ETCD_JANITOR__ETCD__ENDPOINT", "http://127.0.0.1:1")
            .env("ETCD_JANITOR__HTTP__LISTEN", format!("127.0.0.1:{}", self.port.number()))
            .env("ETCD_JANITOR__HTTP__TLS__CERT_FILE", path("tls.crt"))
            .env("ETCD_JANITOR__HTTP__TLS__KEY_FILE", path("tls.key"))
            .env("ETCD_JANITOR__HTTP__BEARER_TOKEN_FILE", path("token"));
        command
    }

    fn start(&mut self) {
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let errors = log.try_clone().unwrap();
        self.child = Some(self.command(&["run"]).stdout(log).stderr(errors).stdin(Stdio::null()).spawn().unwrap());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn run(&self, words: &[&str]) -> (Option<i32>, String) {
        let Output { status, stdout, stderr } = self.command(words).output().unwrap();
        (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
    }

    async fn until(&self, what: &str, mut well: impl AsyncFnMut() -> bool) {
        let began = Instant::now();
        while !well().await {
            assert!(began.elapsed() < Duration::from_secs(30), "{what}:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[tokio::test]
async fn the_daemon_rotates_its_certificate_and_the_command_line_finds_it() {
    let first = pem(2100);
    let mut daemon = Daemon::prepare(&first);
    daemon.start();
    daemon.until("it serves", async || daemon.run(&["probe", "readyz"]).0 == Some(0)).await;
    let (code, said) = daemon.run(&["status", "-o", "json"]);
    assert!(said.contains("\"usage\":\"http\"") && code == Some(1), "etcd is away: {said}");

    // A pair that does not belong together: said with its file, and the old one is shown on.
    let (second, stranger) = (pem(2090), pem(2100));
    daemon.write(&Pem { cert: second.cert.clone(), key: stranger.key });
    let key_file = daemon.folder.path().join("tls.key").display().to_string();
    daemon.until("the wrong key is said", async || daemon.log().contains("is not the key of the certificate")).await;
    assert!(daemon.log().contains(&format!("http.tls.key_file: {key_file}")), "{}", daemon.log());
    assert_eq!(get(daemon.port.address(), &first, "/livez").await.unwrap().status, 200);
    assert_eq!(daemon.run(&["probe", "livez"]).0, Some(0), "a health check does not kill it for that");
    let (code, said) = daemon.run(&["quiesce"]);
    assert!(code == Some(3) && said.contains("is not that of http.tls.cert_file"), "no token to a stranger: {said}");

    daemon.write(&second);
    let address = daemon.port.address();
    daemon.until("the new one is shown", async || get(address, &second, "/livez").await.is_ok()).await;
    let (code, said) = daemon.run(&["status", "-o", "json"]);
    assert!(said.contains("2090-01-01T00:00:00Z") && code == Some(1), "{said}");
    let (code, said) = daemon.run(&["quiesce"]);
    assert_eq!(code, Some(0), "{said}");
    let log = daemon.log();
    for secret in ["hunter2", second.key.lines().nth(1).unwrap()] {
        assert!(!log.contains(secret), "{log}");
    }
    assert!(log.contains("certificate or the token of the port changed"), "{log}");
    assert!(!log.contains("connects anew"), "what is the port's is no news to etcd: {log}");
}

#[tokio::test]
async fn a_daemon_without_a_usable_certificate_talks_to_nobody_until_there_is_one() {
    let good = pem(2100);
    let mut daemon = Daemon::prepare(&good);
    let key = daemon.folder.path().join("tls.key");
    fs::write(&key, good.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY")).unwrap();
    daemon.start();
    daemon.until("it says so", async || daemon.log().contains("is encrypted with a passphrase")).await;
    assert!(in_clear_text(&daemon).await.is_empty());
    assert_ne!(daemon.run(&["probe", "livez"]).0, Some(0));
    swap(&key, &good.key);
    daemon.until("it serves", async || daemon.run(&["probe", "livez"]).0 == Some(0)).await;
    assert!(!in_clear_text(&daemon).await.starts_with(b"HTTP/"));
    let complaints = daemon.log().matches("is encrypted with a passphrase").count();
    assert_eq!(complaints, 1, "{}", daemon.log());
}

/// No file changes when a certificate ends.
#[tokio::test]
async fn a_certificate_that_ends_while_it_is_shown_is_said() {
    let ends = chrono::Utc::now() + chrono::TimeDelta::seconds(12);
    let since_1970 = Duration::from_secs(ends.timestamp().unsigned_abs());
    let soon = pem_with(|params| params.not_after = date_time_ymd(1970, 1, 1) + since_1970);
    let mut daemon = Daemon::prepare(&soon);
    daemon.start();
    daemon.until("it serves", async || daemon.run(&["probe", "readyz"]).0 == Some(0)).await;
    let told = format!("tls.crt expired on {}", ends.format("%Y-%m-%dT%H:%M:%SZ"));
    assert!(chrono::Utc::now() > ends || !daemon.log().contains("expired on"), "{}", daemon.log());
    daemon.until("its end is said", async || daemon.log().contains(&told)).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(daemon.log().matches(&told).count(), 1, "{}", daemon.log());
    // A good one ends that, too.
    let good = pem(2100);
    daemon.write(&good);
    daemon.until("the new one is shown", async || get(daemon.port.address(), &good, "/livez").await.is_ok()).await;
    let status =
        get_with(daemon.port.address(), &good, "/api/v1/status", "Authorization: Bearer hunter2").await.unwrap();
    assert!(status.status == 200 && !status.body.contains("expired on"), "{}", status.body);
}

/// A token's file that is rewritten in place is empty for a moment, and that moment locks nobody out. Without a file nobody
/// is let in.
#[tokio::test]
async fn a_token_stays_while_its_file_is_rewritten() {
    let shown = pem(2100);
    let mut daemon = Daemon::prepare(&shown);
    let token = daemon.folder.path().join("token");
    daemon.start();
    daemon.until("it serves", async || daemon.run(&["probe", "readyz"]).0 == Some(0)).await;
    let address = daemon.port.address();
    let metrics = async |token: &str| {
        get_with(address, &shown, "/metrics", &format!("Authorization: Bearer {token}")).await.unwrap().status
    };
    assert_eq!((metrics("hunter2").await, metrics("").await), (200, 401));
    fs::write(&token, "").unwrap();
    daemon.until("it is noticed", async || daemon.log().contains("the token read before stays")).await;
    assert_eq!((metrics("hunter2").await, metrics("").await), (200, 401));
    fs::write(&token, "*******").unwrap();
    daemon.until("the new one counts", async || metrics("*******").await == 200).await;
    assert_eq!(metrics("hunter2").await, 401);
    fs::remove_file(&token).unwrap();
    daemon.until("nobody is let in", async || metrics("*******").await == 401).await;
}

async fn in_clear_text(daemon: &Daemon) -> Vec<u8> {
    let mut stream = TcpStream::connect(daemon.port.address()).await.unwrap();
    let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    read_to_close(&mut stream).await
}

/// By a rename, as a mounted Secret changes.
fn swap(file: &Path, text: &str) {
    let fresh = file.with_extension("fresh");
    fs::write(&fresh, text).unwrap();
    fs::rename(&fresh, file).unwrap();
}
