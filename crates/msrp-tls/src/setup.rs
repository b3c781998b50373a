//! The four TLS configurations of the process, made at boot and at each reload, and shared by all cores.
//!
//! Owns the choice of versions, suites and groups (RFC 9325: TLS 1.3 and 1.2 with forward secrecy and AEAD only, no
//! early data) and the choice of certificate by server name (RFC 6066, 3). Invariant: a finished configuration is never
//! written to, so cores share it without contention; a reload makes another one. It must not know sockets or
//! connections.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoClientAuth, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme, SupportedProtocolVersion};

use super::relays::{AskEverybody, RelayRoots};
use super::verifier::EncryptOnly;
use crate::RecordLayer;
use crate::trust::Authorities;

const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// A certificate chain, its key, and the DNS names it is shown for.
#[derive(Debug)]
pub struct Identity {
    /// The end-entity certificate first, then its issuers.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the first certificate: ECDSA, Ed25519 or RSA.
    pub key: PrivateKeyDer<'static>,
    /// Names as in the certificate, in any case: `relay.example.com`, or `*.example.com` for one label below.
    pub names: Vec<String>,
}

/// The roots for other relays.
#[derive(Debug)]
pub struct Trust {
    /// For relays that this one calls.
    pub called: Roots,
    /// For relays that call this one; `None`: no caller is a relay.
    pub calling: Option<Roots>,
}

/// The certificates that others are verified by.
#[derive(Debug)]
pub enum Roots {
    /// The certificates of the operating system.
    System,
    /// A file of PEM certificates.
    File(PathBuf),
    /// These certificates.
    Certificates(Vec<CertificateDer<'static>>),
}

/// A TLS configuration that cannot be used. The operator must act.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// A chain and key that do not fit together, or a key of an unknown kind.
    #[error("certificate for {names}: {source}")]
    Identity {
        /// The DNS names of the pair, for the operator to find it by.
        names: String,
        /// What is wrong with it.
        #[source]
        source: rustls::Error,
    },
    /// The file of root certificates cannot be read.
    #[error("{}: {source}", path.display())]
    RootsFile {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        #[source]
        source: pem::Error,
    },
    /// None of the root certificates given is usable.
    #[error("no usable root certificate in {0}")]
    NoRoots(String),
    /// The cryptography provider lacks what the configuration asks for.
    #[error("TLS provider: {0}")]
    Provider(#[source] rustls::Error),
}

/// The TLS configurations of the process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TlsSetup {
    /// For accepted connections.
    pub server: Arc<ServerConfig>,
    /// For accepted connections that are to become WebSockets: browsers are not asked for a certificate, which they would
    /// ask their users for, and agree on HTTP/1.1.
    pub websocket: Arc<ServerConfig>,
    /// For connections to peer relays: chain, validity and name are checked.
    pub client_verify: Arc<ClientConfig>,
    /// For connections to endpoints: any certificate will do.
    pub client_encrypt_only: Arc<ClientConfig>,
    /// The roots for relays that call; `None`: no caller is a relay.
    pub relays: Option<Arc<RelayRoots>>,
    /// How many root certificates `client_verify` trusts. Zero (a system without any) means that every peer relay is
    /// refused, which deserves a warning at boot.
    pub roots: usize,
}

impl TlsSetup {
    /// Makes the configurations. The first identity is shown to clients that name no server or an unknown one; without
    /// any identity every inbound handshake is refused. The first one that is for `hostname`, or else the first one, is
    /// shown to relays that this one calls, if they ask.
    pub fn new(
        identities: Vec<Identity>,
        hostname: &str,
        trust: &Trust,
        records: RecordLayer,
    ) -> Result<Self, TlsSetupError> {
        let provider = Arc::new(provider());
        let called = authorities(&trust.called, &provider)?;
        let trusted = called.len();
        let calling = trust.calling.as_ref().map(|roots| authorities(roots, &provider)).transpose()?;
        let relays = calling.map(|authorities| Arc::new(RelayRoots::new(authorities)));
        let certificates = Arc::new(CertificatesByName::new(&provider, identities)?);
        let own = certificates.own(hostname);
        let asking = Arc::new(AskEverybody::new(&provider, relays.as_ref()));
        let mut websocket = server(&provider, Arc::clone(&certificates), Arc::new(NoClientAuth))?;
        websocket.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut server = server(&provider, certificates, asking)?;
        let mut client_verify = client_verify(&provider, called, own)?;
        let mut client_encrypt_only = client_encrypt_only(&provider)?;
        let extract = records == RecordLayer::Direct;
        server.enable_secret_extraction = extract;
        websocket.enable_secret_extraction = extract;
        client_verify.enable_secret_extraction = extract;
        client_encrypt_only.enable_secret_extraction = extract;
        Ok(Self {
            server: Arc::new(server),
            websocket: Arc::new(websocket),
            client_verify: Arc::new(client_verify),
            client_encrypt_only: Arc::new(client_encrypt_only),
            relays,
            roots: trusted,
        })
    }
}

/// X25519 comes first: with the post-quantum hybrid first, a full handshake costs a third more, and peers that insist
/// on the hybrid still get it. AES-128 before AES-256: about a tenth less CPU for bulk. This order rules outbound
/// connections. Inbound, the client's order of suites does, because a telephone without AES in hardware knows best what
/// it can afford.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1, kx_group::X25519MLKEM768],
        ..aws_lc_rs::default_provider()
    }
}

fn server(
    provider: &Arc<CryptoProvider>,
    certificates: Arc<CertificatesByName>,
    verifier: Arc<dyn ClientCertVerifier>,
) -> Result<ServerConfig, TlsSetupError> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(VERSIONS)
        .map_err(TlsSetupError::Provider)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificates);
    // No resumption. It would save the relay a tenth of a handshake (docs/dev/performance.md). But behind DNS load
    // balancing the next connection reaches another relay; there is no ticket key to rotate or to leak, and no lock
    // shared by the cores. Tickets that no client reads have also cost transfers their last bytes (a reset at close).
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // AUTH could be replayed from early data.
    config.max_early_data_size = 0;
    Ok(config)
}

fn client_verify(
    provider: &Arc<CryptoProvider>,
    called: Authorities,
    own: Option<Arc<CertifiedKey>>,
) -> Result<ClientConfig, TlsSetupError> {
    let config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(VERSIONS)
        .map_err(TlsSetupError::Provider)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(called))
        .with_client_cert_resolver(Arc::new(OwnCertificate(own)));
    Ok(without_resumption(config))
}

/// The certificate that this relay shows to relays that it calls (RFC 4976, 9.2). It also shows it to a relay that asks
/// for another authority's: it has no other one, and the certificate tells that relay more clearly than silence what is
/// wrong.
#[derive(Debug)]
struct OwnCertificate(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.as_ref().filter(|own| own.key.choose_scheme(schemes).is_some()).cloned()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

fn client_encrypt_only(provider: &Arc<CryptoProvider>) -> Result<ClientConfig, TlsSetupError> {
    let verifier = EncryptOnly::new(provider.signature_verification_algorithms);
    let config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(VERSIONS)
        .map_err(TlsSetupError::Provider)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(without_resumption(config))
}

/// A resumed handshake shows no certificate: each connection is judged afresh, and no session cache with its lock is
/// shared by the cores. Peers' tickets are read and dropped.
fn without_resumption(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config
}

fn authorities(roots: &Roots, provider: &CryptoProvider) -> Result<Authorities, TlsSetupError> {
    let mut authorities = Authorities::none(provider.signature_verification_algorithms);
    match roots {
        // A system may have no certificates, or some that are broken or unreadable: the others count. Without any,
        // every peer relay is refused.
        Roots::System => {
            for certificate in rustls_native_certs::load_native_certs().certs {
                let _ = authorities.add_authority(&certificate);
            }
        }
        Roots::File(path) => {
            let unreadable = |source| TlsSetupError::RootsFile { path: path.clone(), source };
            let certificates = CertificateDer::pem_file_iter(path)
                .map_err(unreadable)?
                .collect::<Result<Vec<_>, _>>()
                .map_err(unreadable)?;
            add_named(&mut authorities, &certificates, path.display().to_string())?;
        }
        Roots::Certificates(certificates) => {
            add_named(&mut authorities, certificates, "the list given".to_owned())?;
        }
    }
    Ok(authorities)
}

/// Of the certificates that an operator names, the readable ones count, and there must be one.
fn add_named(
    authorities: &mut Authorities,
    certificates: &[CertificateDer<'_>],
    place: String,
) -> Result<(), TlsSetupError> {
    for certificate in certificates {
        let _ = authorities.add_named(certificate);
    }
    if authorities.is_empty() { Err(TlsSetupError::NoRoots(place)) } else { Ok(()) }
}

/// Chooses the certificate by the server name of the ClientHello: the exact name, else the wildcard one label up, else
/// the first identity. Several identities may have one name (an ECDSA and an RSA one): the first one whose key the
/// client can verify is chosen.
#[derive(Debug)]
struct CertificatesByName {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// Keyed by the text after `*.`.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    all: Vec<Arc<CertifiedKey>>,
}

impl CertificatesByName {
    fn new(provider: &CryptoProvider, identities: Vec<Identity>) -> Result<Self, TlsSetupError> {
        let mut this = Self {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            all: Vec::with_capacity(identities.len()),
        };
        for Identity { chain, key, names } in identities {
            let certified = CertifiedKey::from_der(chain, key, provider)
                .map_err(|source| TlsSetupError::Identity { names: names.join(", "), source })?;
            this.add(Arc::new(certified), &names);
        }
        Ok(this)
    }

    fn add(&mut self, certified: Arc<CertifiedKey>, names: &[String]) {
        for name in names {
            let name = name.to_ascii_lowercase();
            let same_name = match name.strip_prefix("*.") {
                Some(parent) => self.wildcard.entry(parent.to_owned()),
                None => self.exact.entry(name),
            };
            same_name.or_default().push(Arc::clone(&certified));
        }
        self.all.push(certified);
    }

    /// The certificate that is for a name, or else the first one.
    fn own(&self, hostname: &str) -> Option<Arc<CertifiedKey>> {
        let named = self.named(hostname).and_then(|named| named.first());
        named.or_else(|| self.all.first()).cloned()
    }

    fn named(&self, server_name: &str) -> Option<&[Arc<CertifiedKey>]> {
        let name = server_name.to_ascii_lowercase();
        let found = self.exact.get(&name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.wildcard.get(parent)
        })?;
        Some(found)
    }
}

impl ResolvesServerCert for CertificatesByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.named(name));
        let candidates = named.unwrap_or(&self.all);
        let usable = candidates
            .iter()
            .find(|certified| certified.key.choose_scheme(hello.signature_schemes()).is_some());
        // If none is usable, the first one makes rustls answer with the alert that says so.
        usable.or_else(|| candidates.first()).cloned()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    fn identity(names: &[&str]) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names.clone()).unwrap();
        Identity {
            chain: vec![made.cert.der().clone()],
            key: PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap(),
            names,
        }
    }

    fn made(identities: Vec<Identity>, called: Roots) -> Result<TlsSetup, TlsSetupError> {
        TlsSetup::new(identities, "relay.example.com", &Trust { called, calling: None }, RecordLayer::Rustls)
    }

    #[test]
    fn key_of_another_certificate_is_refused() {
        let mut wrong = identity(&["relay.example.com"]);
        wrong.key = identity(&["other.example.com"]).key;
        let error = made(vec![wrong], Roots::System).unwrap_err();
        assert!(matches!(error, TlsSetupError::Identity { .. }));
        assert!(error.to_string().contains("relay.example.com"));
    }

    #[test]
    fn identity_without_a_certificate_is_refused() {
        let mut empty = identity(&["relay.example.com"]);
        empty.chain.clear();
        assert!(made(vec![empty], Roots::System).is_err());
    }

    #[test]
    fn name_is_matched_exactly_then_by_wildcard_in_any_case() {
        let chosen = CertificatesByName::new(
            &provider(),
            vec![
                identity(&["default.example.com"]),
                identity(&["*.Example.com"]),
                identity(&["a.example.com"]),
            ],
        )
        .unwrap();
        let found = |name: &str| {
            let found = chosen.named(name)?.first()?;
            chosen.all.iter().position(|any| Arc::ptr_eq(any, found))
        };
        assert_eq!(found("A.example.COM"), Some(2));
        assert_eq!(found("default.example.com"), Some(0));
        assert_eq!(found("b.example.com"), Some(1));
        assert_eq!(found("c.b.example.com"), None, "a wildcard covers one label");
        assert_eq!(found("example.com"), None);
        assert_eq!(found("localhost"), None);
    }

    // RFC 4976, 9.2: the name in the URIs that the relay mints.
    #[test]
    fn own_certificate_is_the_one_for_the_host_name() {
        let chosen = CertificatesByName::new(
            &provider(),
            vec![identity(&["first.example.com"]), identity(&["relay.example.com"])],
        )
        .unwrap();
        let own = |hostname: &str| chosen.own(hostname).unwrap();
        assert!(Arc::ptr_eq(&own("Relay.example.com"), &chosen.all[1]));
        assert!(Arc::ptr_eq(&own("unknown.example.com"), &chosen.all[0]));
    }

    #[test]
    fn roots_file_that_is_missing_or_without_certificates_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing.pem");
        let error = made(Vec::new(), Roots::File(missing)).unwrap_err();
        assert!(error.to_string().contains("missing.pem"), "{error}");

        let empty = directory.path().join("empty.pem");
        std::fs::write(&empty, "nothing of the kind\n").unwrap();
        let error = made(Vec::new(), Roots::File(empty)).unwrap_err();
        assert!(matches!(error, TlsSetupError::NoRoots(_)), "{error}");
    }

    #[test]
    fn roots_file_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roots.pem");
        let root = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).unwrap();
        std::fs::write(&path, root.cert.pem()).unwrap();
        assert_eq!(made(Vec::new(), Roots::File(path)).unwrap().roots, 1);
    }

    #[test]
    fn x25519_is_the_preferred_group_and_resumption_is_off() {
        let setup = made(Vec::new(), Roots::System).unwrap();
        let groups = &setup.client_verify.crypto_provider().kx_groups;
        assert_eq!(groups.first().unwrap().name(), rustls::NamedGroup::X25519);
        assert_eq!(setup.server.send_tls13_tickets, 0);
        assert_eq!(setup.server.max_early_data_size, 0);
        assert!(!setup.server.session_storage.can_cache());
    }
}
