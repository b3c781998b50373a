//! The certificates that an operator or a user trusts, and the verifier of a server's certificate that follows from
//! them.

use std::collections::HashSet;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use super::certificate::{Outline, may_sign};
use super::path::{self, Anchors, NoPath};

/// Trusted certificates: authorities, and single certificates that the operator or user named.
///
/// A named certificate is accepted when a peer shows exactly it, whatever usage it states: `openssl req -x509` makes
/// self-signed certificates of servers that call themselves authorities. Its name and its dates still count.
///
/// A certificate that does not state that it is an authority is trusted for itself alone. webpki checks nothing of a
/// trust anchor, so the holder of such a certificate's key could otherwise sign certificates for any name.
#[derive(Clone, Debug)]
pub struct Authorities {
    roots: RootCertStore,
    anchors: Anchors,
    /// The issuers of those that are trusted for themselves alone.
    issuers_of_others: Vec<DistinguishedName>,
    named: HashSet<Vec<u8>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Authorities {
    /// No certificates yet. Signatures are verified with these algorithms.
    #[must_use]
    pub fn none(algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self {
            roots: RootCertStore::empty(),
            anchors: Anchors::default(),
            issuers_of_others: Vec::new(),
            named: HashSet::new(),
            algorithms,
        }
    }

    /// Trusts a certificate that the operator or user named.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn add_named(&mut self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        self.add_authority(certificate)?;
        self.named.insert(certificate.to_vec());
        Ok(())
    }

    /// Trusts what one of the system's authorities has signed, but not a peer that shows the authority's own
    /// certificate. A certificate that is not an authority's is trusted as if it had been named.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn add_authority(&mut self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        if may_sign(certificate) {
            self.roots.add(CertificateDer::from(certificate.as_ref()))?;
            self.anchors.add(certificate);
            return Ok(());
        }
        ParsedCertificate::try_from(certificate)?;
        let bad = Error::InvalidCertificate(CertificateError::BadEncoding);
        let issuer = Outline::of(certificate).ok_or(bad)?.issuer;
        if self.named.insert(certificate.to_vec()) {
            self.issuers_of_others.push(DistinguishedName::in_sequence(issuer));
        }
        Ok(())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.roots.len() + self.issuers_of_others.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The issuers that a peer with several certificates can choose by.
    pub(crate) fn issuers(&self) -> Vec<DistinguishedName> {
        self.roots.subjects().into_iter().chain(self.issuers_of_others.iter().cloned()).collect()
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.roots.roots
    }

    pub(crate) fn algorithms(&self) -> &'static [&'static dyn SignatureVerificationAlgorithm] {
        self.algorithms.all
    }

    /// Whether exactly this certificate was named.
    pub(crate) fn named(&self, certificate: &CertificateDer<'_>) -> bool {
        self.named.contains(certificate.as_ref())
    }

    /// The one path that may be verified: see [`path`].
    pub(crate) fn path<'a>(
        &self,
        own: &'a CertificateDer<'a>,
        others: &'a [CertificateDer<'a>],
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'a>>, NoPath> {
        path::find(own, others, &self.anchors, now)
    }

    /// Whether a server's chain leads to one of these.
    fn verify_server_chain(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.named(own) {
            return in_its_dates(own, now).map_err(Error::InvalidCertificate);
        }
        let path = self.path(own, others, now).map_err(|why| {
            Error::InvalidCertificate(match why {
                NoPath::Unknown => CertificateError::UnknownIssuer,
                NoPath::TooLong => CertificateError::Other(OtherError(std::sync::Arc::new(why))),
            })
        })?;
        let parsed = ParsedCertificate::try_from(own)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, &path, now, self.algorithms.all)
    }
}

/// Whether a certificate states that it is valid at this time.
pub(crate) fn in_its_dates(certificate: &CertificateDer<'_>, time: UnixTime) -> Result<(), CertificateError> {
    let outline = Outline::of(certificate).ok_or(CertificateError::BadEncoding)?;
    let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    if time.as_secs() < outline.not_before {
        return Err(CertificateError::NotValidYetContext { time, not_before: at(outline.not_before) });
    }
    if time.as_secs() > outline.not_after {
        return Err(CertificateError::ExpiredContext { time, not_after: at(outline.not_after) });
    }
    Ok(())
}

/// Verifies the certificate of a server: path, dates, use and name.
impl ServerCertVerifier for Authorities {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify_server_chain(end_entity, intermediates, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
