//! What a server shows before it is trusted: versions, and certificates in words.

use std::time::Duration;

use msrp_client::{
    Security, Target, TlsFacts, TlsVersion, Transport, covered_names, distinguished_names, validity,
};
use msrp_tls::trust::shown_names;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use untrusted::text;

/// What any server shows and speaks, in the best version that it has.
pub(crate) async fn observe_any(at: &Target, name: &str, limit: Duration) -> Option<TlsFacts> {
    for version in [TlsVersion::Tls13, TlsVersion::Tls12] {
        let facts = observe(at, name, version, limit).await;
        if facts.is_some() {
            return facts;
        }
    }
    None
}

/// The same in one version.
pub(crate) async fn observe(
    at: &Target,
    name: &str,
    version: TlsVersion,
    limit: Duration,
) -> Option<TlsFacts> {
    let security = Security::observing(version, name).ok()?;
    Transport::connect(at, &security, limit).await.ok()?.tls_facts()
}

/// A certificate's content, for people.
pub(crate) struct Described {
    names: Vec<String>,
    pub(crate) covered: String,
    subject: String,
    issuer: String,
    pub(crate) validity: Option<(String, String)>,
    fingerprint: String,
}

impl Described {
    pub(crate) fn of(certificate: &CertificateDer<'static>) -> Self {
        let names = covered_names(certificate);
        let unreadable = || ("unreadable".to_owned(), "unreadable".to_owned());
        let (subject, issuer) = distinguished_names(certificate).unwrap_or_else(unreadable);
        let digest = Sha256::digest(certificate);
        let fingerprint: Vec<_> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        Self {
            covered: listed(&names),
            names,
            subject,
            issuer,
            validity: validity(certificate),
            fingerprint: fingerprint.join(":"),
        }
    }

    /// Its subject, its issuer, and how to tell it from another one, as openssl shows it.
    pub(crate) fn lines(&self) -> [String; 3] {
        let named =
            |name: &str| if name.is_empty() { "no name".to_owned() } else { text::shown(name).into_owned() };
        let issuer = match self.issuer == self.subject {
            true => "itself".to_owned(),
            false => named(&self.issuer),
        };
        [
            format!("subject    {}", named(&self.subject)),
            format!("issued by  {issuer}"),
            format!("SHA-256    {}", self.fingerprint),
        ]
    }

    pub(crate) fn json(&self) -> Value {
        let (not_before, not_after) = self.validity.clone().unzip();
        json!({
            "names": self.names, "subject": self.subject, "issuer": self.issuer, "sha256": self.fingerprint,
            "not_before": not_before, "not_after": not_after,
        })
    }
}

/// The names of a certificate.
pub(crate) fn listed(names: &[String]) -> String {
    match names.is_empty() {
        true => "no names".to_owned(),
        false => shown_names(names),
    }
}

pub(crate) fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}
