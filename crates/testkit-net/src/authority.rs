//! A throw-away certification authority, for relays that verify each other.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Signs certificates; tests trust its own.
pub struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    certificate: rcgen::Certificate,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: rcgen::Issuer::new(params, key), certificate }
    }

    /// What to trust, PEM.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Writes `NAME.crt` and `NAME.key` into a directory: a certificate for this host, and its key.
    pub fn certify(&self, host: &str, place: &Path) {
        self.certify_for(&[host], place.join(format!("{host}.crt")), place.join(format!("{host}.key")));
    }

    /// A certificate for these hosts, and its key.
    pub fn certify_for(&self, hosts: &[&str], certificate: impl AsRef<Path>, key: impl AsRef<Path>) {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let pair = rcgen::KeyPair::generate().unwrap();
        let signed = rcgen::CertificateParams::new(hosts).unwrap().signed_by(&pair, &self.issuer).unwrap();
        fs::write(certificate, signed.pem()).unwrap();
        write_secret(key, &pair.serialize_pem());
    }
}

/// Writes a file that only its owner may read.
pub fn write_secret(path: impl AsRef<Path>, text: &str) {
    let mut options = fs::File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}
