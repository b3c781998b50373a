//! Reads certificates and keys from PEM files, and checks for everything that would otherwise fail at the first
//! handshake.
//!
//! Invariant: a [`CertifiedPair`] holds a certificate that parses, a key that belongs to it, and every DNS name the
//! certificate covers. The choice between several is not made here.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use webpki::EndEntityCert;

use super::walk::Problems;

/// A certificate chain with the key of its first certificate.
#[derive(Debug, PartialEq, Eq)]
pub struct CertifiedPair {
    /// The relay's certificate first, then its issuers.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the first certificate.
    pub key: PrivateKeyDer<'static>,
    /// The DNS names the first certificate covers, in its order, in lower case; may hold wildcards.
    pub names: Vec<String>,
    /// Where the chain was read.
    pub certificate_path: PathBuf,
    /// Where the key was read.
    pub key_path: PathBuf,
}

impl CertifiedPair {
    /// True if the certificate is valid for `name`; a wildcard stands for exactly one label.
    #[must_use]
    pub fn covers(&self, name: &ServerName<'_>) -> bool {
        let first = self.chain.first().map(EndEntityCert::try_from);
        matches!(first, Some(Ok(cert)) if cert.verify_is_valid_for_subject_name(name).is_ok())
    }
}

/// Which files, and under which keys of the config they are named.
pub(super) struct PairSource {
    /// The key path of the section that holds `certificate` and `key`.
    pub(super) at: String,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl PairSource {
    /// Reads both files. Errors go to `problems`, and unwise settings to `warnings`.
    pub(super) fn load(self, problems: &mut Problems, warnings: &mut Vec<String>) -> Option<CertifiedPair> {
        let (at_certificate, at_key) = (format!("{}.certificate", self.at), format!("{}.key", self.at));
        let chain = read_chain(&self.certificate).map_err(|message| problems.add(&at_certificate, message));
        let key = read_key(&self.key).map_err(|message| problems.add(&at_key, message));
        let (Ok(chain), Ok(key)) = (chain, key) else {
            return None;
        };

        let certified =
            CertifiedKey::from_der(chain.clone(), key.clone_key(), &aws_lc_rs::default_provider());
        if let Err(error) = certified {
            problems.add(at_key, explain_mismatch(&error, &self.key, &self.certificate));
            return None;
        }
        let names = match chain.first().map(EndEntityCert::try_from) {
            Some(Ok(cert)) => cert.valid_dns_names().map(str::to_ascii_lowercase).collect(),
            _ => Vec::new(),
        };
        if readable_by_others(&self.key) {
            let path = self.key.display();
            warnings.push(format!("{at_key}: {path} can be read by every user: chmod 640 {path}"));
        }
        Some(CertifiedPair { chain, key, names, certificate_path: self.certificate, key_path: self.key })
    }
}

/// The certificates of a PEM file, at least one, the first of which parses.
pub(super) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let text = fs::read(path).map_err(|error| explain_io(path, &error))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{shown}: not a PEM file ({error}): give a file with BEGIN CERTIFICATE"))?;
    let first = chain
        .first()
        .ok_or_else(|| format!("{shown}: holds no certificate: give a PEM file with BEGIN CERTIFICATE"))?;
    EndEntityCert::try_from(first).map_err(|error| {
        format!("{shown}: the first certificate is unusable ({error}): issue an X.509 v3 one")
    })?;
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let shown = path.display();
    let text = fs::read(path).map_err(|error| explain_io(path, &error))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        if memchr::memmem::find(&text, b"ENCRYPTED").is_some() {
            return format!(
                "{shown}: the key is encrypted: store it without a passphrase (openssl pkey -in ... -out ...)"
            );
        }
        match error {
            pem::Error::NoItemsFound => {
                format!("{shown}: holds no private key: give a PEM file with BEGIN PRIVATE KEY")
            }
            error => format!("{shown}: not a PEM file ({error}): give a file with BEGIN PRIVATE KEY"),
        }
    })
}

fn explain_mismatch(error: &rustls::Error, key: &Path, certificate: &Path) -> String {
    let (key, certificate) = (key.display(), certificate.display());
    match error {
        rustls::Error::InconsistentKeys(_) => format!(
            "{key}: does not match the certificate {certificate}: give the key the certificate was issued for"
        ),
        error => {
            format!("{key}: unusable ({error}): use an ECDSA P-256, P-384, Ed25519 or RSA (2048 or more) key")
        }
    }
}

/// Why a file could not be read, with what to do about it.
pub(super) fn explain_io(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => format!("{path}: no such file: create it or correct the path"),
        io::ErrorKind::PermissionDenied => {
            format!("{path}: permission denied: let the user the relay runs as read it")
        }
        io::ErrorKind::IsADirectory => format!("{path}: is a directory: name a file in it"),
        _ => format!("{path}: cannot be read ({error}): correct the path"),
    }
}

/// True if users outside the file's group may read it; a file that cannot be looked at counts as no.
pub(super) fn readable_by_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}
