//! Certificates and keys as files hold them: read, understood, and said by key and file what is wrong with them.
//!
//! Its one danger is to repeat what a file holds: no error does, whatever the library says of the content.

use std::path::Path;

use chrono::{DateTime, Utc};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::{ExposeSecret, SecretString};
use x509_cert::der::Decode;

/// Longest file that is read: a bundle of authorities stays well below.
pub const MAX_FILE: usize = 1 << 20;

/// Where a file's content came from: the configuration key and the path, as errors name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// The file that the configuration key `key` names.
    pub fn new(key: &str, path: &Path) -> Origin {
        Origin(format!("{key}: {}", path.display()))
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// When a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From.
    pub not_before: DateTime<Utc>,
    /// Until.
    pub not_after: DateTime<Utc>,
}

/// A certificate with its chain, and the key that belongs to it. Not printable: it holds a secret.
pub struct Pair {
    /// The certificate first, then those that lead to the authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

/// Reads a file, up to a bound. The error names key and file.
pub fn read(origin: &Origin, path: &Path) -> Result<Vec<u8>, String> {
    let size = std::fs::metadata(path).map_err(|error| format!("{origin}: {error}"))?.len();
    if size > MAX_FILE as u64 {
        return Err(format!("{origin} is {size} bytes long; at most {MAX_FILE} are read"));
    }
    std::fs::read(path).map_err(|error| format!("{origin}: {error}"))
}

/// Reads a file that holds a secret in text.
pub fn read_secret(origin: &Origin, path: &Path) -> Result<SecretString, String> {
    let bytes = read(origin, path)?;
    String::from_utf8(bytes).map(SecretString::from).map_err(|_| format!("{origin} is no text in UTF-8"))
}

/// The certificates of a file, at least one.
pub fn certificates(origin: &Origin, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|_| format!("{origin} is no PEM file: a certificate in it is cut short or garbled"))?;
    if all.is_empty() {
        return Err(format!("{origin} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"));
    }
    // What is in them is the TLS library's to judge, which takes old authorities that a stricter reader would refuse.
    Ok(all)
}

/// The one key of a file. An encrypted one is refused: nobody is there to type its passphrase.
pub fn private_key(origin: &Origin, pem: &SecretString) -> Result<PrivateKeyDer<'static>, String> {
    let text = pem.expose_secret();
    // PKCS#8 says it in the label, OpenSSL's older form in a header line.
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(format!(
            "{origin} is encrypted with a passphrase, which nobody can type here; store it decrypted \
             (openssl pkey -in KEY -out KEY.plain) in a file or Secret that only this container can read"
        ));
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|_| format!("{origin} holds no private key in PEM (PKCS#8, PKCS#1 or SEC1)"))
}

/// Certificate and key, if the one belongs to the other.
pub fn pair(cert: (&Origin, &[u8]), key: (&Origin, &SecretString)) -> Result<Pair, String> {
    let chain = certificates(cert.0, cert.1)?;
    let secret = private_key(key.0, key.1)?;
    let signer = rustls::crypto::ring::sign::any_supported_type(&secret).map_err(|_| {
        format!("{} is of a kind that is not supported; RSA, ECDSA P-256, P-384 and Ed25519 are", key.0)
    })?;
    match rustls::sign::CertifiedKey::new(chain.clone(), signer).keys_match() {
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            Err(format!("{} is not the key of the certificate in {}", key.0, cert.0))
        }
        // Unknown: a kind of key that cannot tell. The handshake will.
        Ok(()) | Err(rustls::Error::InconsistentKeys(_)) => Ok(Pair { chain, key: secret }),
        Err(_) => Err(format!("{}: the certificate cannot be used by a TLS library", cert.0)),
    }
}

/// When a certificate is good; none if it cannot be read.
pub fn validity(der: &[u8]) -> Option<Validity> {
    let certificate = x509_cert::Certificate::from_der(der).ok()?;
    let validity = certificate.tbs_certificate.validity;
    let instant = |time: x509_cert::time::Time| {
        DateTime::from_timestamp(i64::try_from(time.to_unix_duration().as_secs()).ok()?, 0)
    };
    Some(Validity { not_before: instant(validity.not_before)?, not_after: instant(validity.not_after)? })
}

/// How dates are told.
const DATE: &str = "%Y-%m-%dT%H:%M:%SZ";

/// What is wrong with the dates of a file's certificates at `now`. The clock that is wrong may be ours, so this is for
/// people: nothing is refused by it.
pub fn dates(origin: &Origin, chain: &[CertificateDer<'_>], now: DateTime<Utc>) -> Option<String> {
    let date = |at: DateTime<Utc>| at.format(DATE);
    let periods = || chain.iter().filter_map(|der| validity(der));
    // Of a bundle of authorities, one that has ended is usual while they are being replaced; all of them are not.
    let ended = periods().map(|period| period.not_after).filter(|end| *end < now).max();
    let begins = periods().map(|period| period.not_before).filter(|begin| *begin > now).min();
    if periods().any(|period| period.not_before <= now && now <= period.not_after) {
        return None;
    }
    match (ended, begins) {
        (_, Some(begin)) => Some(format!("{origin} is not valid before {}", date(begin))),
        (Some(end), None) => Some(format!("{origin} expired on {}", date(end))),
        (None, None) => None,
    }
}

/// The instants that rustls tells as seconds since 1970, as dates.
pub(super) fn dated(text: &str) -> String {
    let mut told: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let instant = told.last().is_some_and(|last| matches!(last.as_str(), "time" | "after" | "before"));
        let seconds = word.parse().ok().filter(|seconds| instant && *seconds > 100_000_000);
        let date = seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        told.push(date.map_or_else(|| word.to_owned(), |date| date.format(DATE).to_string()));
    }
    told.join(" ").replace(" (UNIX)", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(from: i32, until: i32) -> (String, String) {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn origin(key: &str) -> Origin {
        Origin::new(key, Path::new("/certs/file.pem"))
    }

    fn refusal(cert: &str, key: &str) -> String {
        let key = SecretString::from(key.to_owned());
        pair((&origin("cert_file"), cert.as_bytes()), (&origin("key_file"), &key)).err().expect("refused")
    }

    #[test]
    fn seconds_since_1970_are_told_as_dates() {
        let ended = rustls::CertificateError::ExpiredContext {
            time: rustls::pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000)),
            not_after: rustls::pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_700_000_000)),
        };
        let told = dated(&rustls::Error::InvalidCertificate(ended).to_string());
        assert!(
            told.contains("verification time 2027-01-15T08:00:00Z, ")
                && told.contains("not valid after 2023-11-14T22:13:20Z"),
            "{told}"
        );
        assert_eq!(dated("no answer after 3 tries"), "no answer after 3 tries");
    }

    #[test]
    fn each_defect_of_a_pair_is_said_with_its_file_and_without_its_content() {
        let (cert, key) = made(2000, 2100);
        let fine = SecretString::from(key.clone());
        assert!(pair((&origin("cert_file"), cert.as_bytes()), (&origin("key_file"), &fine)).is_ok());

        let (_, other) = made(2000, 2100);
        assert_eq!(
            refusal(&cert, &other),
            "key_file: /certs/file.pem is not the key of the certificate in cert_file: /certs/file.pem"
        );
        let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let older = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\naGVs\n-----END RSA PRIVATE KEY-----\n";
        for encrypted in [encrypted.as_str(), older] {
            let said = refusal(&cert, encrypted);
            assert!(said.starts_with("key_file: /certs/file.pem is encrypted with a passphrase"), "{said}");
        }
        assert!(refusal(&cert, "hunter2").contains("holds no private key"));
        assert!(refusal("hunter2", &key).contains("holds no certificate"));
        assert!(refusal(&cert[..cert.len() / 2], &key).contains("cert_file: /certs/file.pem"));
        let rubbish = "-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----\n";
        assert!(refusal(rubbish, &key).contains("cert_file: /certs/file.pem: the certificate cannot be used"));
        for said in [refusal("hunter2", &key), refusal(&cert, "hunter2"), refusal(rubbish, &key)] {
            assert!(!said.contains("hunter2") && !said.contains("aHVud"), "{said}");
        }
    }

    #[test]
    fn dates_are_said_when_none_of_the_certificates_is_good() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let of =
            |text: &str| dates(&origin("ca_file"), &certificates(&origin("ca_file"), text.as_bytes()).unwrap(), now);
        let (past, good, future) = (made(2000, 2001).0, made(2000, 2100).0, made(2090, 2100).0);
        assert_eq!(of(&good), None);
        assert_eq!(of(&format!("{past}{good}")), None, "while authorities are being replaced");
        assert_eq!(of(&past).as_deref(), Some("ca_file: /certs/file.pem expired on 2001-01-01T00:00:00Z"));
        assert_eq!(of(&future).as_deref(), Some("ca_file: /certs/file.pem is not valid before 2090-01-01T00:00:00Z"));
    }
}
