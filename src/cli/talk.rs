//! Talking to the daemon in the same pod: one small HTTP request, blocking, with a deadline for everything together.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::config::Config;
use crate::etcd::Shown;
use crate::etcd::pem::{self, Origin};

/// For everything together.
const DEADLINE: Duration = Duration::from_secs(2);
/// The same for an answer that may wait for a look at all members.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);

/// More than any answer of ours; a stranger on the port cannot make us read for ever.
const LONGEST: usize = 4 << 20;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// No connection.
    Unreachable(io::Error),
    /// A connection and no answer in time, or none that is HTTP.
    Silent(io::Error),
}

/// Where the daemon is, and how it proves to be it.
pub(super) struct Daemon {
    listen: SocketAddr,
    trust: Trust,
}

enum Trust {
    /// It speaks HTTP.
    Plain,
    /// It shows the certificate of this file.
    Shows(PathBuf),
    /// It may show any.
    Any,
}

impl Daemon {
    /// As the configuration says. Over TLS the daemon must show the very certificate of `http.tls.cert_file`, whatever
    /// name is in it: that names the pod, and we talk to a loopback address. So no other process that has taken the
    /// port gets the token.
    pub(super) fn of(config: &Config) -> Daemon {
        let trust = config.http.tls.cert_file.clone().map_or(Trust::Plain, Trust::Shows);
        Daemon { listen: config.http.listen, trust }
    }

    /// For health checks, which send nothing secret: any certificate will do. The daemon keeps the old one when the
    /// new files are no good, and is not to be killed for that.
    pub(super) fn whatever_it_shows(config: &Config) -> Daemon {
        let trust = config.http.tls.cert_file.as_ref().map_or(Trust::Plain, |_| Trust::Any);
        Daemon { listen: config.http.listen, trust }
    }

    /// Another member's, at `listen`. It may have a certificate of its own, and gets the token only where it shows ours:
    /// in clear text, or to whoever has taken the address, a token would be given away.
    pub(super) fn of_another(config: &Config, listen: SocketAddr) -> Daemon {
        let file = config.http.tls.cert_file.as_ref();
        let trust = file.map_or(Trust::Plain, |file| match config.http.bearer_token_file {
            Some(_) => Trust::Shows(file.clone()),
            None => Trust::Any,
        });
        Daemon { listen, trust }
    }

    /// Whether nobody else can have taken its place.
    pub(super) fn may_have_the_token(&self) -> bool {
        matches!(self.trust, Trust::Shows(_))
    }
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.listen.fmt(f)
    }
}

/// Sends `method path` to the daemon (the wildcard address stands for this host) and gives status and body.
pub(super) fn ask(daemon: &Daemon, method: &str, path: &str, token: Option<&str>) -> Result<(u16, String), Failure> {
    let deadline = Instant::now() + if path.ends_with("?fresh") { LOOK_DEADLINE } else { DEADLINE };
    let stream = connect(daemon.listen, deadline).map_err(Failure::Unreachable)?;
    let mut stream = Timed { stream, deadline };
    let answer = match &daemon.trust {
        Trust::Plain => exchange(&mut stream, method, path, token),
        Trust::Any => in_tls(stream, None).and_then(|mut stream| exchange(&mut stream, method, path, token)),
        Trust::Shows(file) => {
            in_tls(stream, Some(file)).and_then(|mut stream| exchange(&mut stream, method, path, token))
        }
    };
    answer.map_err(Failure::Silent)
}

/// A connection whose every read and write ends at one deadline. A timeout of the socket is for one call, and a byte a
/// second would go on for ever.
struct Timed {
    stream: TcpStream,
    deadline: Instant,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.deadline)?))?;
        self.stream.read(buffer).map_err(timed_out)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(left(self.deadline)?))?;
        self.stream.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

/// The connection, once the daemon has shown that it holds the key of the certificate.
fn in_tls(stream: Timed, file: Option<&Path>) -> io::Result<StreamOwned<ClientConnection, Timed>> {
    let verifier = match file {
        None => Shown::any(),
        Some(file) => {
            let origin = Origin::new("http.tls.cert_file", file);
            let chain = pem::read(&origin, file).and_then(|text| pem::certificates(&origin, &text));
            let first = chain.map_err(io::Error::other)?.into_iter().next();
            Shown::only(origin, first.ok_or_else(|| io::Error::other("no certificate"))?)
        }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    // No name is verified, so none is sent.
    let name = ServerName::from(IpAddr::from(Ipv4Addr::LOCALHOST));
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    Ok(StreamOwned::new(connection, stream))
}

fn connect(listen: SocketAddr, deadline: Instant) -> io::Result<TcpStream> {
    let hosts: &[IpAddr] = match listen.ip() {
        // The daemon falls back to IPv4 where there is no IPv6.
        ip if ip.is_unspecified() && ip.is_ipv6() => &[Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()],
        ip if ip.is_unspecified() => &[Ipv4Addr::LOCALHOST.into()],
        ip => &[ip],
    };
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for host in hosts {
        match TcpStream::connect_timeout(&SocketAddr::new(*host, listen.port()), left(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn exchange(
    stream: &mut (impl Read + Write),
    method: &str,
    path: &str,
    token: Option<&str>,
) -> io::Result<(u16, String)> {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{token}Content-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut answer = Vec::new();
    let mut chunk = [0; 8192];
    while answer.len() < LONGEST {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    parse(&String::from_utf8_lossy(&answer)).ok_or_else(|| io::Error::other("that is not HTTP"))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    Some((status, body.to_owned()))
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_is_an_answer() {
        assert_eq!(parse("HTTP/1.1 200 OK\r\nA: b\r\n\r\nok\n"), Some((200, "ok\n".to_owned())));
        for wrong in ["", "HTTP/1.1 200 OK", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 é00\r\n\r\n", "HTTP/1.\r\n\r\n"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
