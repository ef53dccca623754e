//! A certificate authority of the test's own.

use std::fs;
use std::path::{Path, PathBuf};

use etcd_client::{Certificate, Identity, TlsOptions};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

/// PEM files of one authority, one server and one client certificate.
pub struct Certs {
    pub ca: PathBuf,
    pub server_cert: PathBuf,
    pub server_key: PathBuf,
    pub client_cert: PathBuf,
    pub client_key: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// Certificate and key as PEM text.
pub struct Pair {
    pub cert: String,
    pub key: String,
}

impl Certs {
    pub fn create(folder: &Path) -> Self {
        fs::create_dir_all(folder).expect("a folder for certificates can be made");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().expect("a key can be made");
        let ca = params.self_signed(&key).expect("an authority signs itself");
        let certs = Self {
            ca: folder.join("ca.crt"),
            server_cert: folder.join("server.crt"),
            server_key: folder.join("server.key"),
            client_cert: folder.join("client.crt"),
            client_key: folder.join("client.key"),
            issuer: Issuer::new(params, key),
        };
        write(&certs.ca, &ca.pem());
        let server = certs.issue("test server", 2100);
        write(&certs.server_cert, &server.cert);
        write(&certs.server_key, &server.key);
        let client = certs.issue("test client", 2100);
        write(&certs.client_cert, &client.cert);
        write(&certs.client_key, &client.key);
        certs
    }

    /// A fresh pair of this authority, good until the first day of `until`;
    /// a year gone by makes an expired one. It serves both sides, because
    /// etcd's gateway calls its own server with the server's certificate.
    pub fn issue(&self, common_name: &str, until: i32) -> Pair {
        self.issue_with(common_name, |params| params.not_after = date_time_ymd(until, 1, 1))
    }

    /// The same, good until an instant.
    pub fn issue_until(&self, common_name: &str, until: chrono::DateTime<chrono::Utc>) -> Pair {
        let since_1970 = std::time::Duration::from_secs(until.timestamp().unsigned_abs());
        self.issue_with(common_name, |params| params.not_after = date_time_ymd(1970, 1, 1) + since_1970)
    }

    /// The same with something else in it.
    pub fn issue_with(&self, common_name: &str, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).expect("these are good names");
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2100, 1, 1);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = KeyPair::generate().expect("a key can be made");
        let cert = params.signed_by(&key, &self.issuer).expect("the authority signs");
        Pair { cert: cert.pem(), key: key.serialize_pem() }
    }

    /// What etcd-client needs to trust the servers and to show who it is.
    pub fn client_options(&self, show_certificate: bool) -> TlsOptions {
        let read = |path: &Path| fs::read(path).expect("a certificate just written is readable");
        let options = TlsOptions::new().domain_name("localhost").ca_certificate(Certificate::from_pem(read(&self.ca)));
        if show_certificate {
            let identity = Identity::from_pem(read(&self.client_cert), read(&self.client_key));
            options.identity(identity)
        } else {
            options
        }
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("a certificate can be written");
}
