//! Who may connect to our port, and what we show them: the bearer token, the certificate and its key.

use std::path::PathBuf;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::NoServerSessionStorage;
use secrecy::SecretString;
use tokio::sync::watch;

use crate::config::{Config, ListenerTls};
use crate::etcd::pem::{self, Origin, Pair};
use crate::http::{Access, Transport};
use crate::plan::snapshot::Certificate;
use crate::plan::time::Now;

/// The port's own material, taken over as a whole whenever a file of it changed.
pub(super) struct Listener {
    pub(super) access: watch::Sender<Access>,
    pub(super) transport: watch::Sender<Transport>,
    /// When the certificates end that are shown to who connects.
    pub(super) certificates: Vec<Certificate>,
    /// What is wrong with the newest files, while something is.
    pub(super) problem: Option<String>,
    /// The certificate that is shown, and what was last said of its dates.
    token_file: Option<PathBuf>,
    shown: Option<(Origin, CertificateDer<'static>)>,
    dates: Option<String>,
}

impl Listener {
    pub(super) fn new(config: &Config, now: Now) -> Listener {
        let mut listener = Listener {
            access: watch::Sender::new(access(config)),
            transport: watch::Sender::new(Transport::Plain),
            certificates: Vec::new(),
            problem: None,
            token_file: config.http.bearer_token_file.clone(),
            shown: None,
            dates: None,
        };
        listener.show(&config.http.tls, now);
        listener
    }

    /// Takes over what the files say now.
    pub(super) fn renew(&mut self, config: &Config, now: Now) {
        let file = &config.http.bearer_token_file;
        // A file that is rewritten in place is empty for a moment; who has the token of a moment before is not locked out.
        let known = *file == self.token_file && matches!(*self.access.borrow(), Access::Bearer(_));
        match file {
            Some(path) if known && std::fs::metadata(path).is_ok_and(|found| found.len() == 0) => {
                tracing::warn!(path = %path.display(), "http.bearer_token_file is empty: the token read before stays");
            }
            _ => {
                self.access.send_replace(access(config));
            }
        }
        self.token_file.clone_from(file);
        self.show(&config.http.tls, now);
    }

    /// A pair that is no good leaves the old one in force. Where there is none yet nobody is spoken to: clear text is
    /// not what was asked for.
    fn show(&mut self, tls: &ListenerTls, now: Now) {
        match read(tls) {
            Ok(None) => {
                self.certificates = Vec::new();
                (self.problem, self.shown, self.dates) = (None, None, None);
                self.transport.send_replace(Transport::Plain);
            }
            Ok(Some((origin, pair))) => {
                let ends = pair.chain.iter().filter_map(|der| pem::validity(der));
                self.certificates =
                    ends.map(|period| Certificate { usage: "http".to_owned(), not_after: period.not_after }).collect();
                self.problem.clone_from(&self.dates);
                self.shown = pair.chain.first().map(|leaf| (origin.clone(), leaf.clone()));
                self.judge(now);
                match server(pair) {
                    Ok(config) => {
                        self.transport.send_replace(Transport::Tls(config.into()));
                    }
                    Err(error) => self.refuse(&format!("{origin}: {error}")),
                }
            }
            Err(problem) => self.refuse(&problem),
        }
    }

    /// Says what is wrong with the dates of the certificate that is shown: they change without its file.
    pub(super) fn judge(&mut self, now: Now) {
        let Some((origin, leaf)) = &self.shown else { return };
        let dates = pem::dates(origin, std::slice::from_ref(leaf), now.wall);
        if dates == self.dates {
            return;
        }
        if let Some(problem) = &dates {
            tracing::error!(problem, "clients will refuse the certificate of the listener");
        }
        // Newer files that are no good are the greater problem.
        if self.problem == self.dates {
            self.problem.clone_from(&dates);
        }
        self.dates = dates;
    }

    fn refuse(&mut self, problem: &str) {
        let kept = matches!(*self.transport.borrow(), Transport::Tls(_));
        let effect = if kept {
            "the certificate that was read before stays in force"
        } else {
            self.transport.send_replace(Transport::Closed);
            "connections are closed until there is one: clear text was not asked for"
        };
        let told = Some(format!("{problem}; {effect}"));
        if told != self.problem {
            tracing::error!(problem, "the listener has no new certificate; {effect}");
        }
        self.problem = told;
    }
}

fn read(tls: &ListenerTls) -> Result<Option<(Origin, Pair)>, String> {
    let (Some(cert_file), Some(key_file)) = (&tls.cert_file, &tls.key_file) else { return Ok(None) };
    let cert = Origin::new("http.tls.cert_file", cert_file);
    let key = Origin::new("http.tls.key_file", key_file);
    let chain = pem::read(&cert, cert_file)?;
    let secret = pem::read_secret(&key, key_file)?;
    let pair = pem::pair((&cert, &chain), (&key, &secret))?;
    Ok(Some((cert, pair)))
}

fn server(pair: Pair) -> Result<ServerConfig, rustls::Error> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(pair.chain, pair.key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A scraper keeps its connection; for the rest a handshake is cheaper than memory that strangers can fill.
    config.session_storage = std::sync::Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Who may read what is not a probe. A token that is configured and cannot be read lets nobody in.
fn access(config: &Config) -> Access {
    let Some(path) = &config.http.bearer_token_file else { return Access::Open };
    match std::fs::read_to_string(path) {
        Ok(token) if !token.trim().is_empty() => Access::Bearer(SecretString::from(token.trim().to_owned())),
        Ok(_) => {
            tracing::error!(path = %path.display(), "http.bearer_token_file is empty: nobody is let in");
            Access::Closed
        }
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "http.bearer_token_file cannot be read: nobody is let in");
            Access::Closed
        }
    }
}
