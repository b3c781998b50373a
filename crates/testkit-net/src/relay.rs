//! A relay with throw-away certificates, in this process.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Once};

use msrprelay::config::Config;
use msrprelay::runtime::server::Server;
use msrprelay::telemetry::Snapshot;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;

use crate::account::password;
use crate::endpoint::Endpoint;

pub use crate::endpoint::HOST;

/// The accounts beside alice and bob: user0, user1, ...
pub const USERS: usize = 256;

/// The setup of a test's relay.
pub struct Setup {
    /// The TLS listener comes first.
    pub listen: &'static [(&'static str, bool)],
    /// Listeners that speak WebSocket, behind those.
    pub websocket: &'static [(&'static str, bool)],
    pub cores: &'static str,
    pub rsa: bool,
    /// Whether clients may authenticate without TLS.
    pub plain_auth: bool,
    /// The host that the certificate is for: the name of the relay.
    pub host: &'static str,
    /// What may be dialled: the section `outbound`.
    pub outbound: &'static str,
    /// Further sections of the config.
    pub more: &'static str,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            listen: &[("127.0.0.1:0", true), ("127.0.0.1:0", false)],
            websocket: &[],
            cores: "auto",
            rsa: false,
            plain_auth: false,
            host: HOST,
            outbound: "{plain: allow, allow: [\"127.0.0.0/8\", \"::1/128\"]}",
            more: "",
        }
    }
}

impl Setup {
    /// Writes certificate and key into `place` and returns the config.
    pub fn write(&self, place: &Path) -> String {
        let key = match self.rsa {
            true => rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap(),
            false => rcgen::KeyPair::generate().unwrap(),
        };
        let parameters = rcgen::CertificateParams::new(vec![self.host.to_owned()]).unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        fs::write(place.join("relay.crt"), certificate.pem()).unwrap();
        fs::write(place.join("relay.key"), key.serialize_pem()).unwrap();
        self.text(&place.join("relay.crt"), &place.join("relay.key"))
    }

    fn text(&self, certificate: &Path, key: &Path) -> String {
        let entry = |(address, tls): &(&str, bool), websocket: bool| {
            format!("  - {{address: \"{address}\", tls: {tls}, websocket: {websocket}}}\n")
        };
        let listen = self.listen.iter().map(|one| entry(one, false));
        let listen: String = listen.chain(self.websocket.iter().map(|one| entry(one, true))).collect();
        let numbered = (0..USERS).map(|n| format!("user{n}"));
        let users: String = numbered
            .chain(["alice".to_owned(), "bob".to_owned()])
            .map(|user| {
                format!("      - {{user: \"{user}@example.com\", password: \"{}\"}}\n", password(&user))
            })
            .collect();
        format!(
            "listen:\n{listen}tls: {{certificate: {}, key: {}, record_layer: {}}}\ncores: {}\n\
             auth:\n{}  memory:\n    users:\n{users}\
             outbound: {}\n{}\n",
            certificate.display(),
            key.display(),
            record_layer(),
            self.cores,
            if self.plain_auth { "  insecure_plain: true\n" } else { "" },
            self.outbound,
            self.more
        )
    }
}

/// Which record layer the relay uses: with `MSRPRELAY_TEST_RECORD_LAYER=rustls` every test over sockets runs with that
/// of rustls instead of the relay's own.
pub fn record_layer() -> String {
    std::env::var("MSRPRELAY_TEST_RECORD_LAYER").unwrap_or_else(|_| "direct".to_owned())
}

/// What a client needs to trust the certificate in `place`.
pub fn trusting(place: &Path) -> ClientConfig {
    client_config(rustls::ALL_VERSIONS, roots(place))
}

fn roots(place: &Path) -> RootCertStore {
    roots_of(&place.join("relay.crt"))
}

/// Trusts the certificate in this file alone.
fn roots_of(certificate: &Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    roots
}

/// What clients of TLS 1.3 and of 1.2 need to trust the certificate in this file.
pub fn clients_of_each_version(certificate: &Path) -> [Arc<ClientConfig>; 2] {
    [&rustls::version::TLS13, &rustls::version::TLS12]
        .map(|version| Arc::new(client_config(&[version], roots_of(certificate))))
}

/// The same, for clients that speak certain versions of TLS only.
pub fn client_config(
    versions: &[&'static rustls::SupportedProtocolVersion],
    roots: RootCertStore,
) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions);
    config.unwrap().with_root_certificates(roots).with_no_client_auth()
}

/// TLS of an endpoint that signs its own certificate.
pub fn self_signed_endpoint() -> Arc<ServerConfig> {
    let made = rcgen::generate_simple_self_signed(vec!["phone.invalid".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(rustls::ALL_VERSIONS);
    let config = config.unwrap().with_no_client_auth();
    Arc::new(config.with_single_cert(vec![made.cert.der().clone()], key).unwrap())
}

/// A running relay of this process; ends with the test.
pub struct TestRelay {
    pub server: Server,
    pub tls: SocketAddr,
    pub client: Arc<ClientConfig>,
    /// The first WebSocket listener, if there is one.
    websocket: usize,
    place: TempDir,
}

impl TestRelay {
    pub fn start() -> Self {
        Self::with(&Setup::default())
    }

    pub fn with(setup: &Setup) -> Self {
        raise_descriptors();
        let place = tempfile::tempdir().unwrap();
        let text = setup.write(place.path());
        let config = match Config::from_yaml(&text, "test.yaml") {
            Ok(config) => config,
            Err(errors) => panic!("{errors}"),
        };
        let server = Server::start(config).unwrap();
        let (tls, _) = server.addresses()[0];
        let client = Arc::new(trusting(place.path()));
        Self { server, tls, client, websocket: setup.listen.len(), place }
    }

    /// For clients that speak one version of TLS only.
    pub fn client_of(&self, version: &'static rustls::SupportedProtocolVersion) -> Arc<ClientConfig> {
        Arc::new(client_config(&[version], roots(self.place.path())))
    }

    /// A file that the config names.
    pub fn file(&self, name: &str) -> std::path::PathBuf {
        self.place.path().join(name)
    }

    /// The listener without TLS.
    pub fn plain(&self) -> SocketAddr {
        let mut all = self.server.addresses().iter();
        all.find(|(_, tls)| !tls).unwrap().0
    }

    /// The first listener that speaks WebSocket.
    pub fn websocket(&self) -> SocketAddr {
        self.server.addresses()[self.websocket].0
    }

    /// A client with a session by WebSocket.
    #[track_caller]
    pub fn web_client(&self, user: &str) -> Endpoint {
        Endpoint::wss(self.websocket(), &self.client, user).log_in(user, 443)
    }

    /// A client with a session.
    pub fn client(&self, user: &str) -> Endpoint {
        self.stranger(user).log_in(user, self.tls.port())
    }

    /// A connection that has not authenticated.
    pub fn stranger(&self, name: &str) -> Endpoint {
        Endpoint::tls(self.tls, &self.client, name)
    }

    /// The counters of all cores.
    pub fn counted(&self) -> Snapshot {
        self.server.counters().into_iter().sum()
    }
}

/// The tests hold both ends of many connections.
pub fn raise_descriptors() {
    static RAISE: Once = Once::new();
    RAISE.call_once(|| {
        let _ = rlimit::increase_nofile_limit(u64::MAX);
    });
}
