//! Certificates, keys and passwords, read from files when a connection is made.

use chrono::{DateTime, Utc};
use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::{ExposeSecret, SecretString};

use super::error::{Class, Error};
use super::gate::Gate;
use super::pem::{self, Origin};
use crate::config::Etcd;
use crate::plan::snapshot;

/// What a connection needs besides its address. Not printable: it holds secrets.
#[derive(Clone)]
pub struct Material {
    ca: Option<(Origin, Vec<u8>)>,
    client: Option<(Origin, Vec<u8>, SecretString)>,
    server_name: Option<String>,
    user: Option<(String, SecretString)>,
    /// Where every login with them goes through.
    pub(super) gate: Gate,
}

impl Material {
    /// Reads the files that the configuration names.
    pub fn read(etcd: &Etcd) -> Result<Material, Error> {
        let fail = |class: Class, text: String| Error::new(class, "connect", &etcd.endpoint, text);
        let tls = |text: String| fail(Class::Tls, text);
        let ca = match &etcd.tls.ca_file {
            Some(path) => {
                let origin = Origin::new("etcd.tls.ca_file", path);
                let text = pem::read(&origin, path).map_err(tls)?;
                pem::certificates(&origin, &text).map_err(tls)?;
                Some((origin, text))
            }
            None => None,
        };
        let client = match (&etcd.tls.cert_file, &etcd.tls.key_file) {
            (Some(cert_file), Some(key_file)) => {
                let origin = Origin::new("etcd.tls.cert_file", cert_file);
                let key_origin = Origin::new("etcd.tls.key_file", key_file);
                let cert = pem::read(&origin, cert_file).map_err(tls)?;
                let key = pem::read_secret(&key_origin, key_file).map_err(tls)?;
                // Of two files that are rewritten one after the other the first look may see halves of two pairs: the
                // next one is seconds away, and the connections that are open go on.
                pem::pair((&origin, &cert), (&key_origin, &key)).map_err(tls)?;
                Some((origin, cert, key))
            }
            _ => None,
        };
        let user = match (&etcd.auth.username, &etcd.auth.password_file) {
            (Some(user), Some(path)) => {
                let origin = Origin::new("etcd.auth.password_file", path);
                let password = pem::read_secret(&origin, path).map_err(|text| fail(Class::Auth, text))?;
                // Editors and `kubectl create secret --from-file` leave a newline behind; passwords have none.
                Some((
                    user.clone(),
                    SecretString::from(password.expose_secret().trim_end_matches(['\r', '\n']).to_owned()),
                ))
            }
            _ => None,
        };
        Ok(Material { ca, client, server_name: etcd.tls.server_name.clone(), user, gate: Gate::default() })
    }

    fn files(&self) -> impl Iterator<Item = (&'static str, &Origin, &[u8])> {
        let ca = self.ca.as_ref().map(|(origin, text)| ("ca", origin, text.as_slice()));
        let client = self.client.as_ref().map(|(origin, cert, _)| ("client", origin, cert.as_slice()));
        ca.into_iter().chain(client)
    }

    /// When each certificate of the files ends.
    pub(super) fn certificates(&self) -> Vec<snapshot::Certificate> {
        let ends = |(usage, _, file)| {
            let all = CertificateDer::pem_slice_iter(file).filter_map(Result::ok);
            let all = all.filter_map(|der| pem::validity(&der)).map(|period| period.not_after);
            all.map(move |not_after| snapshot::Certificate { usage: str::to_owned(usage), not_after })
        };
        self.files().flat_map(ends).collect()
    }

    /// What the dates of the files say at `now`, one sentence for each that is not good. Connections are tried all the
    /// same: the clock that is wrong may be ours.
    pub(super) fn out_of_date(&self, now: DateTime<Utc>) -> Vec<String> {
        let dates = |(usage, origin, file): (&str, &Origin, &[u8])| {
            let chain = pem::certificates(origin, file).ok()?;
            // Of a client's chain its own certificate counts, of authorities any.
            let chain = if usage == "client" { chain.get(..1)? } else { chain.as_slice() };
            pem::dates(origin, chain, now)
        };
        self.files().filter_map(dates).collect()
    }

    /// Whether there is a client certificate.
    pub(super) fn shows_certificate(&self) -> bool {
        self.client.is_some()
    }

    /// Which of the files may be to blame for a TLS connection that failed with `text`.
    pub(super) fn suspects(&self, text: &str) -> Option<String> {
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        if says(&["UnknownIssuer", "BadSignature"]) {
            return Some(match &self.ca {
                Some((origin, _)) => format!("{origin} does not hold the authority of the certificate that etcd shows"),
                None => "etcd.tls.ca_file is empty, and the system does not trust the certificate that etcd shows"
                    .to_owned(),
            });
        }
        if says(&["NotValidForName", "not valid for name"]) {
            return Some(match &self.server_name {
                Some(name) => format!("etcd's certificate is not for etcd.tls.server_name, {name}"),
                None => "etcd's certificate is not for the host in etcd.endpoint; a name that it is for can be set as \
                         etcd.tls.server_name"
                    .to_owned(),
            });
        }
        let refused =
            ["CertificateRequired", "BadCertificate", "UnknownCA", "CertificateExpired", "CertificateUnknown"];
        (says(&["received fatal alert"]) && says(&refused)).then(|| match &self.client {
            Some((origin, ..)) => format!("etcd does not accept the client certificate of {origin}"),
            None => "etcd wants a client certificate: set etcd.tls.cert_file and key_file".to_owned(),
        })
    }

    /// Whether requests carry a token.
    pub fn has_user(&self) -> bool {
        self.user.is_some()
    }

    /// Name and password.
    pub(super) fn user(&self) -> Option<(String, SecretString)> {
        self.user.clone()
    }

    /// For the etcd client library, without the user.
    pub(super) fn options(&self, url: &str) -> ConnectOptions {
        // With its own refresh the library would send a request again that etcd refused for its token: `Defragment`, too,
        // without a new permit. `Connection::call` does it for those that may be sent again.
        let mut options = ConnectOptions::new().with_auto_token_refresh(false);
        if url.starts_with("https://") {
            let mut tls = TlsOptions::new();
            tls = match &self.ca {
                Some((_, ca)) => tls.ca_certificate(Certificate::from_pem(ca)),
                // Without this the library trusts nobody at all.
                None => tls.with_enabled_roots(),
            };
            if let Some((_, cert, key)) = &self.client {
                tls = tls.identity(Identity::from_pem(cert, key.expose_secret()));
            }
            if let Some(name) = &self.server_name {
                tls = tls.domain_name(name);
            }
            options = options.with_tls(tls);
        }
        options
    }

    /// For plain HTTPS (metrics and version), the same trust and client certificate.
    pub(super) fn client_config(&self, endpoint: &str) -> Result<rustls::ClientConfig, Error> {
        let fail = |text: String| Error::new(Class::Tls, "metrics", endpoint, text);
        let mut roots = rustls::RootCertStore::empty();
        match &self.ca {
            Some((_, ca)) => {
                for certificate in CertificateDer::pem_slice_iter(ca) {
                    let certificate = certificate.map_err(|error| fail(format!("etcd.tls.ca_file: {error}")))?;
                    roots.add(certificate).map_err(|error| fail(format!("etcd.tls.ca_file: {error}")))?;
                }
            }
            None => {
                let (_, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| fail(error.to_string()))?
            .with_root_certificates(roots);
        match &self.client {
            None => Ok(builder.with_no_client_auth()),
            Some((_, cert, key)) => {
                let chain: Vec<_> = CertificateDer::pem_slice_iter(cert)
                    .collect::<Result<_, _>>()
                    .map_err(|error| fail(format!("etcd.tls.cert_file: {error}")))?;
                let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes())
                    .map_err(|error| fail(format!("etcd.tls.key_file: {error}")))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| fail(error.to_string()))
            }
        }
    }

    /// The name to verify instead of the URL's host.
    pub(super) fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn etcd(folder: &std::path::Path) -> Etcd {
        let mut etcd = crate::config::Config::default().etcd;
        etcd.tls.ca_file = Some(folder.join("ca.crt"));
        etcd.tls.cert_file = Some(folder.join("tls.crt"));
        etcd.tls.key_file = Some(folder.join("tls.key"));
        etcd
    }

    #[test]
    fn each_file_is_blamed_for_what_is_wrong_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let made = |until: i32| {
            let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
        };
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let refused = || Material::read(&etcd(folder.path())).err().expect("refused");
        let ((cert, key), (other, _)) = (made(2001), made(2100));
        write("ca.crt", &other);
        write("tls.crt", &cert);
        write("tls.key", &key);
        let material = Material::read(&etcd(folder.path())).expect("well but for the date");
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let old = material.out_of_date(now);
        assert_eq!(old.len(), 1, "{old:?}");
        assert!(
            old[0].contains("etcd.tls.cert_file: /") && old[0].contains("expired on 2001-01-01T00:00:00Z"),
            "{old:?}"
        );
        let unknown = material.suspects("invalid peer certificate: UnknownIssuer").unwrap();
        assert!(unknown.contains("ca.crt does not hold the authority"), "{unknown}");
        let alert = material.suspects("received fatal alert: BadCertificate").unwrap();
        assert!(alert.contains("does not accept the client certificate of etcd.tls.cert_file: /"), "{alert}");
        assert_eq!(material.suspects("connection refused"), None);

        write("tls.crt", &other);
        let error = refused();
        assert!(
            error.class == Class::Tls && error.text.contains("tls.key is not the key of the certificate"),
            "{error}"
        );
        write("tls.key", &key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"));
        assert!(refused().text.contains("tls.key is encrypted with a passphrase"), "{}", refused());
        write("ca.crt", "no certificate at all");
        assert!(refused().text.contains("ca.crt holds no certificate"), "{}", refused());
    }
}
