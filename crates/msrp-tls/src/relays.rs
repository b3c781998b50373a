//! Whether the client of a TLS connection is a relay (RFC 4976, 6.1 and 9.2; reqs A14 and C1).
//!
//! Every client is asked for a certificate, and none has to show one. [`AskEverybody`] lets every handshake continue in
//! which the client holds the key of the certificate it shows. [`RelayRoots`] then says which names that certificate
//! proves, if any. Endpoints with self-made certificates are normal, and remain endpoints.
//!
//! A relay's certificate must be valid at the time, lead to one of the roots, and have a DNS name. Its extended key
//! usage must be absent, or for TLS servers, or for TLS clients: relays have certificates for servers, and the public
//! authorities issue no others. A certificate in `tls.client_ca` itself may have any usage.
//!
//! Whether a trusted authority vouches for a certificate is judged apart from whether it is valid: a fault in a relay's
//! certificate is the operator's business, a fault in a self-made one is not.
//!
//! Invariants: the cost of a stranger's certificates is bounded ([`crate::trust`]); a name comes from here only if the
//! chain was verified and the client has signed the handshake with the key of its first certificate. It must not know
//! what a name is used for.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage};

use crate::trust::{Authorities, Outline, TlsFault, in_its_dates, shown_names};

/// Names of one certificate that are looked at.
const NAMES_MAX: usize = 100;

/// Why a client that has shown a certificate is no relay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotARelay {
    /// No authority that the operator trusts vouches for it: usual for an endpoint.
    #[error("no authority in tls.client_ca vouches for its certificate")]
    UnknownIssuer,
    /// A trusted authority vouches for it, or it is trusted itself, but it is not valid.
    #[error("its certificate is refused, for {names}: {why}")]
    Invalid {
        /// The first names in it, as they are shown.
        names: String,
        /// What is wrong.
        why: TlsFault,
    },
    /// It is valid, but for no host.
    #[error("its certificate is for no DNS name")]
    Nameless,
    /// It is not an X.509 certificate of version 3, or its key is too short for any signature to count.
    #[error("its certificate is unusable")]
    Unusable,
}

/// The roots for relays that call.
#[derive(Debug)]
pub struct RelayRoots {
    authorities: Authorities,
}

impl RelayRoots {
    pub(super) fn new(authorities: Authorities) -> Self {
        Self { authorities }
    }

    /// How many roots there are.
    pub fn len(&self) -> usize {
        self.authorities.len()
    }

    /// Whether no client can be a relay.
    pub fn is_empty(&self) -> bool {
        self.authorities.is_empty()
    }

    /// The names that a chain proves at this time. The handshake has shown that the client holds the key of the first
    /// certificate.
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
        self.verify(first, issuers, now).map_err(|why| {
            why.map_or(NotARelay::UnknownIssuer, |why| {
                let names = certificate.valid_dns_names().take(NAMES_MAX);
                NotARelay::Invalid { names: shown_names(names), why }
            })
        })?;
        let names: Vec<_> =
            certificate.valid_dns_names().take(NAMES_MAX).map(str::to_ascii_lowercase).collect();
        Some(names).filter(|names| !names.is_empty()).ok_or(NotARelay::Nameless)
    }

    /// Whether a chain is valid. If not, what is wrong, or nothing if no trusted authority vouches for it.
    fn verify(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Option<TlsFault>> {
        if self.authorities.named(own) {
            return in_its_dates(own, now).map_err(|why| Some(TlsFault::from(&why)));
        }
        let path = self.authorities.path(own, others, now).map_err(|_| None)?;
        let chain = Chain { own, path: &path, authorities: &self.authorities };
        let verified = match chain.verify(now, KeyUsage::server_auth()) {
            Err(webpki::Error::RequiredEkuNotFoundContext(_)) => chain.verify(now, KeyUsage::client_auth()),
            verified => verified,
        };
        verified.map_err(|why| chain.vouched().then(|| TlsFault::from(&why)))
    }
}

/// The one path from a certificate to an authority.
struct Chain<'a> {
    own: &'a CertificateDer<'a>,
    path: &'a [CertificateDer<'a>],
    authorities: &'a Authorities,
}

impl Chain<'_> {
    fn verify(&self, now: UnixTime, usage: impl ExtendedKeyUsageValidator) -> Result<(), webpki::Error> {
        let (algorithms, anchors) = (self.authorities.algorithms(), self.authorities.anchors());
        EndEntityCert::try_from(self.own)?
            .verify_for_usage(algorithms, anchors, self.path, now, usage, None, None)
            .map(drop)
    }

    /// Whether each has signed the next one, at a time when all of them were valid, for any usage.
    fn vouched(&self) -> bool {
        let outlines = self.path.iter().chain([self.own]).map(Outline::of);
        let common = outlines.collect::<Option<Vec<_>>>().and_then(|outlines| {
            let begins = outlines.iter().map(|outline| outline.not_before).max()?;
            let ends = outlines.iter().map(|outline| outline.not_after).min()?;
            (begins <= ends).then_some(begins)
        });
        common.is_some_and(|begins| {
            self.verify(UnixTime::since_unix_epoch(Duration::from_secs(begins)), AnyUsage).is_ok()
        })
    }
}

/// Accepts any extended key usage, and none.
struct AnyUsage;

impl ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

/// Asks every client for a certificate. Ends no handshake because a good one is missing.
#[derive(Debug)]
pub(super) struct AskEverybody {
    algorithms: WebPkiSupportedAlgorithms,
    hints: Vec<DistinguishedName>,
}

impl AskEverybody {
    /// Tells clients whose certificates are useful: a client with several chooses one of those.
    pub(super) fn new(provider: &CryptoProvider, relays: Option<&Arc<RelayRoots>>) -> Self {
        // The system's roots would make each handshake tens of kilobytes longer.
        let hints =
            relays.filter(|relays| relays.len() <= HINTS_MAX).map(|relays| relays.authorities.issuers());
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

/// Whether a signature with a certificate's key can be verified at all. One that cannot, because of an old version or
/// an RSA key shorter than 2048 bits, ends no handshake and proves nothing.
fn can_be_checked(certificate: &CertificateDer<'_>) -> bool {
    /// The object identifier of RSA keys, in DER (RFC 8017, appendix C).
    const RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    /// The modulus of 2048 bits alone has 256 bytes.
    const RSA_KEY_BYTES_MIN: usize = 256;
    let Ok(certificate) = EndEntityCert::try_from(certificate) else {
        return false;
    };
    let key = certificate.subject_public_key_info();
    memchr::memmem::find(&key, RSA).is_none() || key.len() > RSA_KEY_BYTES_MIN
}
