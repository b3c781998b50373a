//! Whether the client of a TLS connection is a relay (RFC 4976, 6.1 and 9.2; norms A14 and C1).
//!
//! Everybody is asked for a certificate and nobody has to show one. [`AskEverybody`] lets every handshake go on in which
//! the client holds the key of the certificate it shows; [`RelayRoots`] says afterwards which names that certificate
//! proves, if any. Endpoints with certificates of their own making are normal, and are endpoints.
//!
//! What a relay's certificate must be: valid now, leading to one of the roots, with a DNS name. Extended key usage: absent,
//! or for TLS servers or for TLS clients. Certificates that are made for servers are what relays have, and the public
//! authorities make no others any more.
//!
//! Invariants: a name comes from here only if the chain was verified and the client has signed the handshake with the key
//! of its first certificate. It must not know what a name is good for.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};

/// The longest chain that is looked at, in certificates.
const CHAIN_MAX: usize = 10;
/// Names of one certificate that are looked at.
const NAMES_MAX: usize = 100;

/// Why a client that has shown a certificate is no relay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotARelay {
    /// Nobody whom the operator trusts vouches for it: the usual case of an endpoint.
    #[error("its certificate is signed by nobody in tls.client_ca")]
    UnknownIssuer,
    /// Somebody does, but it is no good.
    #[error("its certificate, {}, is refused: {why}", .names.join(", "))]
    Invalid {
        /// The names in it, unproven.
        names: Vec<String>,
        /// What is wrong.
        why: webpki::Error,
    },
    /// It is valid, and for no host.
    #[error("its certificate is for no DNS name")]
    Nameless,
    /// It is no X.509 certificate of version 3, or its key is too short for any signature to count.
    #[error("its certificate is unusable")]
    Unusable,
}

/// Who vouches for relays that call.
#[derive(Debug)]
pub struct RelayRoots {
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

impl RelayRoots {
    pub(super) fn new(roots: RootCertStore, provider: &CryptoProvider) -> Self {
        Self { roots, algorithms: provider.signature_verification_algorithms }
    }

    /// How many roots there are.
    pub fn len(&self) -> usize {
        self.roots.len()
    }

    /// Whether nobody can be a relay.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// The names that a chain proves now. That the client holds the key of the first certificate has been seen in the
    /// handshake.
    pub(super) fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Vec<String>, NotARelay> {
        let (first, issuers) = chain.split_first().ok_or(NotARelay::Unusable)?;
        if !can_be_checked(first) {
            return Err(NotARelay::Unusable);
        }
        let certificate = EndEntityCert::try_from(first).map_err(|_| NotARelay::Unusable)?;
        let issuers = issuers.get(..issuers.len().min(CHAIN_MAX)).unwrap_or_default();
        let verified = |usage| {
            let algorithms = self.algorithms.all;
            certificate
                .verify_for_usage(algorithms, &self.roots.roots, issuers, now, usage, None, None)
                .map(drop)
        };
        let names =
            || certificate.valid_dns_names().take(NAMES_MAX).map(str::to_ascii_lowercase).collect::<Vec<_>>();
        verified(KeyUsage::server_auth()).or_else(|_| verified(KeyUsage::client_auth())).map_err(|why| {
            match why {
                webpki::Error::UnknownIssuer | webpki::Error::CaUsedAsEndEntity => NotARelay::UnknownIssuer,
                why => NotARelay::Invalid { names: names(), why },
            }
        })?;
        Some(names()).filter(|names| !names.is_empty()).ok_or(NotARelay::Nameless)
    }
}

/// Asks every client for a certificate and ends no handshake for want of a good one.
#[derive(Debug)]
pub(super) struct AskEverybody {
    algorithms: WebPkiSupportedAlgorithms,
    hints: Vec<DistinguishedName>,
}

impl AskEverybody {
    /// Clients are told whose certificates are of use: with several they choose one of those.
    pub(super) fn new(provider: &CryptoProvider, relays: Option<&Arc<RelayRoots>>) -> Self {
        // The system's roots would make each handshake tens of kilobytes longer.
        let hints = relays.filter(|relays| relays.len() <= HINTS_MAX).map(|relays| relays.roots.subjects());
        Self { algorithms: provider.signature_verification_algorithms, hints: hints.unwrap_or_default() }
    }
}

/// Roots whose names are sent to every client.
const HINTS_MAX: usize = 16;

impl ClientCertVerifier for AskEverybody {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !can_be_checked(cert) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !can_be_checked(cert) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether a signature made with a certificate's key can be verified at all. One that cannot, because it is of an old
/// version or its RSA key is shorter than 2048 bits, ends no handshake, and never proves anything.
fn can_be_checked(certificate: &CertificateDer<'_>) -> bool {
    /// The object identifier of RSA keys, in DER (RFC 8017, appendix C).
    const RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    /// The modulus of 2048 bits alone has 256 octets.
    const RSA_KEY_BYTES_MIN: usize = 256;
    let Ok(certificate) = EndEntityCert::try_from(certificate) else {
        return false;
    };
    let key = certificate.subject_public_key_info();
    memchr::memmem::find(&key, RSA).is_none() || key.len() > RSA_KEY_BYTES_MIN
}
