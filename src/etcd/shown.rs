//! The certificate that a listener shows, whoever it is.
//!
//! Its one danger is to be taken for trust: a connection made with [`Shown::any`] must carry nothing secret.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::Uri;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::cluster::Cluster;
use super::error::{Class, Error};
use super::pem::{self, Origin};
use crate::plan::snapshot::Certificate;

/// For a handshake; a busy member's takes a tenth of it.
const DEADLINE: Duration = Duration::from_secs(2);

/// Takes any certificate, or only that of a file; that its key is there too is verified as ever.
#[derive(Debug)]
pub struct Shown {
    expected: Option<(Origin, CertificateDer<'static>)>,
    seen: OnceLock<Vec<CertificateDer<'static>>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Shown {
    /// Whichever.
    pub fn any() -> Shown {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        Shown { expected: None, seen: OnceLock::new(), algorithms }
    }

    /// The first certificate of the file that `origin` names.
    pub fn only(origin: Origin, certificate: CertificateDer<'static>) -> Shown {
        Shown { expected: Some((origin, certificate)), ..Shown::any() }
    }
}

impl ServerCertVerifier for Shown {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let all = std::iter::once(shown).chain(chain).map(|der| der.clone().into_owned());
        // Only the first handshake is looked at.
        let _ = self.seen.set(all.collect());
        match &self.expected {
            Some((origin, expected)) if expected != shown => Err(rustls::Error::General(format!(
                "the certificate that is shown there is not that of {origin}; the daemon takes a new file over within \
                 seconds if it is good, and says why if not"
            ))),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The certificate that is shown at `url`, and of its chain the one that ends first; whether anybody trusts it does not
/// matter: an expired one is what is looked for. Nothing but the handshake is sent.
///
/// # Errors
///
/// When no certificate is shown there.
pub async fn shown_at(cluster: &Cluster, url: &str) -> Result<Certificate, Error> {
    let fail = |class: Class, text: String| Error::new(class, "TLS handshake", url, text);
    let uri: Uri = url.parse().map_err(|error| fail(Class::Local, format!("{error}")))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let verifier = Arc::new(Shown::any());
    let mut config = cluster.material().client_config(url)?;
    config.dangerous().set_certificate_verifier(Arc::clone(&verifier) as _);
    let name = cluster.material().server_name().unwrap_or(&host).to_owned();
    let name = ServerName::try_from(name).map_err(|error| fail(Class::Local, error.to_string()))?;
    let shake = async {
        let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(443))).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    let ended = tokio::time::timeout(DEADLINE, shake).await;
    // A member may refuse ours and has shown its own by then.
    let Some(chain) = verifier.seen.get() else {
        return Err(match ended {
            Ok(Err(error)) => fail(Class::Unavailable, error.to_string()),
            _ => Error::deadline("TLS handshake", url, DEADLINE),
        });
    };
    let ends = chain.iter().filter_map(|der| pem::validity(der)).map(|period| period.not_after).min();
    let not_after = ends.ok_or_else(|| fail(Class::Tls, "the certificate that is shown cannot be read".to_owned()))?;
    Ok(Certificate { usage: "server".to_owned(), not_after })
}
