//! TLS settings of a client (RFC 4976, 9.2; RFC 4975, 14.2): which peers it trusts, and its own identity when it
//! listens.
//!
//! Invariants: versions 1.3 and 1.2 with AEAD suites only (all that rustls has); the certificate is checked for the
//! name that is sent as SNI; without trust the peer must still hold the key of the certificate it shows.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_rustls::pki_types::pem::{self, PemObject as _};
use futures_rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use futures_rustls::rustls::client::Resumption;
use futures_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use futures_rustls::rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use futures_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use futures_rustls::rustls::server::NoServerSessionStorage;
use futures_rustls::rustls::version::{TLS12, TLS13};
use futures_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme, SupportedProtocolVersion,
};

use super::ClientError;
use msrp_tls::trust::{Authorities, TlsFault};
use untrusted::text;

/// Which peers a TLS client trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The system's certificate authorities.
    System,
    /// The certificates of a PEM file: authorities, or self-signed certificates themselves.
    File(PathBuf),
    /// Any peer: the connection is encrypted, but the peer is unknown.
    Anybody,
}

/// What is offered to the other side of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// All that is safe; sessions may be resumed.
    Everything,
    /// TLS 1.3 with this suite and X25519, and a full handshake each time: measurements compare only if they agreed on
    /// the same.
    Only(Suite),
}

/// A suite of TLS 1.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// `TLS_AES_128_GCM_SHA256`
    Aes128,
    /// `TLS_AES_256_GCM_SHA384`
    Aes256,
    /// `TLS_CHACHA20_POLY1305_SHA256`
    ChaCha20,
}

/// How a connection that we open is protected.
#[derive(Clone, Debug)]
pub enum Security {
    /// Not at all (`msrp:`).
    Plain,
    /// TLS (`msrps:`).
    Tls {
        /// Versions, suites and trust.
        config: Arc<ClientConfig>,
        /// The name to ask for and to check, if it is not the dialled host.
        name: Option<ServerName<'static>>,
    },
}

impl Security {
    /// TLS with this trust, checking the certificate for `name` or else for the dialled host.
    ///
    /// # Errors
    /// Unreadable or empty certificate files, and names that are no names.
    pub fn tls(trust: &Trust, name: Option<&str>) -> Result<Self, ClientError> {
        Self::tls_offering(Offer::Everything, trust, name)
    }

    /// As [`Self::tls`], but offering no more than this.
    ///
    /// # Errors
    /// As [`Self::tls`].
    pub fn tls_offering(offer: Offer, trust: &Trust, name: Option<&str>) -> Result<Self, ClientError> {
        let name = name.map(server_name).transpose()?;
        Ok(Self::Tls { config: client_config(offer, trust)?, name })
    }

    /// TLS of one version that trusts any peer: to see what a server shows and speaks.
    ///
    /// # Errors
    /// Names that are no names.
    pub fn observing(version: TlsVersion, name: &str) -> Result<Self, ClientError> {
        let version = match version {
            TlsVersion::Tls12 => &TLS12,
            TlsVersion::Tls13 => &TLS13,
        };
        let config = client_config_of(Offer::Everything, &Trust::Anybody, &[version])?;
        Ok(Self::Tls { config, name: Some(server_name(name)?) })
    }

    /// Whether this is TLS.
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls { .. })
    }
}

/// The versions of TLS that a relay may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2, with AEAD ciphers.
    Tls12,
    /// 1.3.
    Tls13,
}

/// How connections that we accept are protected.
#[derive(Clone, Debug)]
pub enum ListenSecurity {
    /// Not at all (`msrp:`).
    Plain,
    /// TLS with this identity (`msrps:`).
    Tls(Arc<ServerConfig>),
}

/// A TLS server's settings from a certificate chain and a key in PEM files.
///
/// # Errors
/// Files that cannot be read or hold nothing usable, and a key that does not fit the certificate.
pub fn server_identity(certificate: &Path, key: &Path) -> Result<ListenSecurity, ClientError> {
    server_identity_offering(Offer::Everything, certificate, key)
}

/// As [`server_identity`], but accepting no more than this.
///
/// # Errors
/// As [`server_identity`].
pub fn server_identity_offering(
    offer: Offer,
    certificate: &Path,
    key: &Path,
) -> Result<ListenSecurity, ClientError> {
    let chain = read_certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| tls_setup(key.display(), pem_words(&error, "private key")))?;
    let mut config = ServerConfig::builder_with_provider(provider(offer))
        .with_protocol_versions(versions(offer))
        .map_err(|error| tls_setup("TLS", words(&error)))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| tls_setup(certificate.display(), words(&error)))?;
    if let Offer::Only(_) = offer {
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
    }
    Ok(ListenSecurity::Tls(Arc::new(config)))
}

fn provider(offer: Offer) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    if let Offer::Only(suite) = offer {
        provider.cipher_suites = vec![match suite {
            Suite::Aes128 => cipher_suite::TLS13_AES_128_GCM_SHA256,
            Suite::Aes256 => cipher_suite::TLS13_AES_256_GCM_SHA384,
            Suite::ChaCha20 => cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        }];
        provider.kx_groups = vec![kx_group::X25519];
    }
    // aws-lc spends some 30 ms on gathering entropy before the first random bytes: better here than inside a timed
    // handshake. If it fails, the handshake reports it.
    let _ = provider.secure_random.fill(&mut [0; 1]);
    Arc::new(provider)
}

static TLS13_ALONE: [&SupportedProtocolVersion; 1] = [&TLS13];

fn versions(offer: Offer) -> &'static [&'static SupportedProtocolVersion] {
    match offer {
        Offer::Everything => rustls::DEFAULT_VERSIONS,
        Offer::Only(_) => &TLS13_ALONE,
    }
}

fn tls_setup(what: impl fmt::Display, reason: impl fmt::Display) -> ClientError {
    ClientError::TlsSetup { what: what.to_string(), reason: reason.to_string() }
}

fn pem_words(error: &pem::Error, what: &str) -> String {
    match error {
        pem::Error::Io(error) => text::of_io(error),
        pem::Error::NoItemsFound => format!("no {what} in it (PEM is expected)"),
        _ => format!("its PEM is damaged: {error}"),
    }
}

fn words(error: &rustls::Error) -> TlsFault {
    TlsFault::from(error)
}

pub(super) fn server_name(host: &str) -> Result<ServerName<'static>, ClientError> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| tls_setup(host, "not a host name that a certificate can cover"))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|error| tls_setup(path.display(), pem_words(&error, "certificate")))?
        .collect();
    let certificates =
        certificates.map_err(|error| tls_setup(path.display(), pem_words(&error, "certificate")))?;
    if certificates.is_empty() {
        return Err(tls_setup(path.display(), "no certificate in it (PEM is expected)"));
    }
    Ok(certificates)
}

fn client_config(offer: Offer, trust: &Trust) -> Result<Arc<ClientConfig>, ClientError> {
    client_config_of(offer, trust, versions(offer))
}

fn client_config_of(
    offer: Offer,
    trust: &Trust,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ClientConfig>, ClientError> {
    let builder = ClientConfig::builder_with_provider(provider(offer))
        .with_protocol_versions(versions)
        .map_err(|error| tls_setup("TLS", words(&error)))?;
    let provider = Arc::clone(builder.crypto_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::System => Arc::new(system_authorities(&provider)?),
        Trust::File(path) => {
            let mut authorities = Authorities::none(provider.signature_verification_algorithms);
            for certificate in read_certificates(path)? {
                authorities
                    .add_named(&certificate)
                    .map_err(|error| tls_setup(path.display(), words(&error)))?;
            }
            Arc::new(authorities)
        }
        Trust::Anybody => Arc::new(TrustAnybody(provider)),
    };
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    if let Offer::Only(_) = offer {
        config.resumption = Resumption::disabled();
    }
    Ok(Arc::new(config))
}

fn system_authorities(provider: &CryptoProvider) -> Result<Authorities, ClientError> {
    let mut authorities = Authorities::none(provider.signature_verification_algorithms);
    for certificate in rustls_native_certs::load_native_certs().certs {
        // The system's authorities may include unreadable ones.
        let _ = authorities.add_authority(&certificate);
    }
    if authorities.is_empty() {
        return Err(tls_setup(
            "the system's certificate authorities",
            "none found (install ca-certificates, or use --ca FILE)",
        ));
    }
    Ok(authorities)
}

/// Accepts every certificate, but still checks that the peer holds the key of the one it shows.
#[derive(Debug)]
struct TrustAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]
mod tests {
    use std::fs;

    use futures_rustls::rustls::{ClientConnection, ServerConnection};

    use super::*;
    use testkit_certs as made;

    /// The result of a handshake with a server that shows this chain, if the certificates of a file are trusted.
    fn shaken(
        trusted: &CertificateDer<'_>,
        shown: &made::Shown,
        version: &'static SupportedProtocolVersion,
    ) -> Result<(), rustls::Error> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        fs::write(&path, pem(trusted)).unwrap();
        let config = client_config_of(Offer::Everything, &Trust::File(path), &[version]).unwrap();
        let server = ServerConfig::builder_with_provider(provider(Offer::Everything))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(shown.chain.clone(), shown.key.clone_key())
            .unwrap();
        let mut client = ClientConnection::new(config, server_name(made::HOST).unwrap()).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let (mut there, mut back) = (Vec::new(), Vec::new());
            while client.wants_write() {
                client.write_tls(&mut there).unwrap();
            }
            let mut there = &there[..];
            while !there.is_empty() {
                server.read_tls(&mut there).unwrap();
                server.process_new_packets().unwrap();
            }
            while server.wants_write() {
                server.write_tls(&mut back).unwrap();
            }
            let mut back = &back[..];
            while !back.is_empty() {
                client.read_tls(&mut back).unwrap();
                client.process_new_packets()?;
            }
        }
        Ok(())
    }

    fn pem(certificate: &CertificateDer<'_>) -> String {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(certificate);
        let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    }

    // webpki alone searches for up to 200,000 steps, and says so.
    #[test]
    fn made_up_chain_of_a_server_is_not_searched() {
        let root = made::named("Root").self_signed();
        for version in [&TLS12, &TLS13] {
            for (what, shown) in made::hostile("Root") {
                let error = shaken(&root.certificate, &shown, version).unwrap_err();
                assert!(!format!("{error:?}").contains("Maximum"), "{what}: {error:?}");
            }
            let between = made::named("Between").signed_by(&root);
            let honest = made::shown(&between, [root.certificate.clone(), between.certificate.clone()]);
            assert_eq!(shaken(&root.certificate, &honest, version), Ok(()));
        }
    }
}
