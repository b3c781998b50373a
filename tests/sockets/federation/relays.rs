//! Relays by name, each on an address of its own, and their clients.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;

use hickory_resolver::proto::rr::RData;
use hickory_resolver::proto::rr::rdata::A;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use testkit_net::account::{DOMAIN, Login, password};
use testkit_net::authority::Authority;
use testkit_net::endpoint::Endpoint;
use testkit_net::process::RelayProcess;
use testkit_net::relay::{client_config, record_layer};
use testkit_net::zone::Zone;

/// All possible relays: host names, and the last part of their addresses.
const HOSTS: [(&str, u8); 6] = [
    ("a.osier.example", 2),
    ("b.alder.example", 3),
    ("c.alder.example", 4),
    ("d.rowan.example", 5),
    ("r2.alder.example", 6),
    ("e.rowan.example", 7),
];

/// An authority that all trust, and names for all.
pub(crate) struct Relays {
    pub(crate) authority: Authority,
    pub(crate) zone: Zone,
}

/// The unusual settings of a relay.
#[derive(Clone, Copy)]
pub(crate) struct Wish<'a> {
    /// Signs its certificate.
    pub(crate) authority: &'a Authority,
    /// The host that its certificate is for, if not its own.
    pub(crate) certified_for: Option<&'a str>,
    pub(crate) cores: &'a str,
    /// Whether a peer that proves a name counts as a relay.
    pub(crate) takes_relays: bool,
    /// Further keys of `tls:`, with a comma in front.
    pub(crate) tls: &'a str,
    /// Further keys of `outbound:`, with a comma in front.
    pub(crate) outbound: &'a str,
    /// Further sections.
    pub(crate) more: &'a str,
}

/// A relay in a process of its own.
pub(crate) struct Relay {
    pub(crate) host: &'static str,
    pub(crate) process: RelayProcess,
    trust: Arc<ClientConfig>,
}

impl Relays {
    pub(crate) fn new() -> Self {
        Self::with(Vec::new())
    }

    /// With further records.
    pub(crate) fn with(more: Vec<(String, RData)>) -> Self {
        let address = |last: u8| RData::A(A(Ipv4Addr::new(127, 0, 0, last)));
        let records = HOSTS.iter().map(|(host, last)| (format!("{host}."), address(*last)));
        Self {
            authority: Authority::new("All relays trust this"),
            zone: Zone::of_records("example.", records.chain(more).collect()),
        }
    }

    pub(crate) fn wish(&self) -> Wish<'_> {
        Wish {
            authority: &self.authority,
            certified_for: None,
            cores: "auto",
            takes_relays: true,
            tls: "",
            outbound: "",
            more: "",
        }
    }

    pub(crate) fn relay(&self, host: &'static str) -> Relay {
        self.relay_with(host, &self.wish())
    }

    pub(crate) fn relay_with(&self, host: &'static str, wish: &Wish<'_>) -> Relay {
        let place = tempfile::tempdir().unwrap();
        let certified_for = [wish.certified_for.unwrap_or(host)];
        wish.authority.certify_for(
            &certified_for,
            place.path().join("relay.crt"),
            place.path().join("relay.key"),
        );
        std::fs::write(place.path().join("ca.crt"), self.authority.pem()).unwrap();
        let address = address_of(host);
        let users: String = ["alice", "bob", "carol", "dave"]
            .map(|user| format!("      - {{user: \"{user}@{DOMAIN}\", password: \"{}\"}}\n", password(user)))
            .concat();
        let record_layer = record_layer();
        let (cores, tls, outbound, more) = (wish.cores, wish.tls, wish.outbound, wish.more);
        let client_ca = if wish.takes_relays { ", client_ca: ca.crt" } else { "" };
        let hostname = wish.certified_for.unwrap_or(host);
        let text = format!(
            "listen:\n  - {{address: \"{address}:0\", tls: true}}\nhostname: {hostname}\nrealm: {DOMAIN}\n\
             tls: {{certificate: relay.crt, key: relay.key, record_layer: {record_layer}{client_ca}{tls}}}\n\
             cores: {cores}\nauth:\n  log_failures: true\n  memory:\n    users:\n{users}\
             outbound: {{ca: ca.crt, allow: [\"127.0.0.0/8\"]{outbound}}}\ndns: {{servers: [\"{}\"]}}\n\
             log: {{level: debug}}\n{more}",
            self.zone.address
        );
        let trust = Arc::new(client_config(rustls::ALL_VERSIONS, roots(&[wish.authority])));
        let process = RelayProcess::of(place, &text, Arc::clone(&trust));
        Relay { host: if wish.certified_for.is_some() { leak(hostname) } else { host }, process, trust }
    }

    /// A client's TLS with a certificate, as a relay shows it.
    pub(crate) fn relay_as_client(&self, authority: &Authority, host: &str) -> Arc<ClientConfig> {
        self.client_showing(pair(authority, host))
    }

    /// The same with a certificate and its key, PEM.
    pub(crate) fn client_with(&self, (certificate, key): &(String, String)) -> Arc<ClientConfig> {
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        self.client_showing((vec![certificate], PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()))
    }

    fn client_showing(
        &self,
        (chain, key): (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
    ) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(rustls::ALL_VERSIONS);
        let config = config.unwrap().with_root_certificates(roots(&[&self.authority]));
        Arc::new(config.with_client_auth_cert(chain, key).unwrap())
    }

    /// A relay's TLS that insists on certificates of an authority.
    pub(crate) fn relay_as_server(&self, host: &str, insists_on: Option<&Authority>) -> Arc<ServerConfig> {
        let (chain, key) = pair(&self.authority, host);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let config = config.with_protocol_versions(rustls::ALL_VERSIONS).unwrap();
        let config = match insists_on {
            None => config.with_no_client_auth(),
            Some(authority) => {
                let roots = Arc::new(roots(&[authority]));
                let verifier =
                    rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                config.with_client_cert_verifier(verifier.unwrap())
            }
        };
        Arc::new(config.with_single_cert(chain, key).unwrap())
    }
}

impl Relay {
    pub(crate) fn address(&self) -> SocketAddr {
        self.process.addresses[0]
    }

    /// Where AUTH for it goes.
    pub(crate) fn uri(&self) -> String {
        format!("msrps://{}:{};tcp", self.host, self.address().port())
    }

    /// A connection with it, over which nothing has been sent.
    pub(crate) fn connect(&self, name: &str) -> Endpoint {
        self.connect_as(name, &self.trust)
    }

    pub(crate) fn connect_as(&self, name: &str, config: &Arc<ClientConfig>) -> Endpoint {
        Endpoint::to_host(TcpStream::connect(self.address()).unwrap(), config, name, self.host)
    }

    /// A client with a session here.
    pub(crate) fn client(&self, user: &str) -> Endpoint {
        let mut client = self.connect(user);
        assert_eq!(log_in(&mut client, user, &self.uri()), 200);
        client
    }
}

/// A client behind several relays, the nearest first.
pub(crate) fn client_behind(relays: &[&Relay], user: &str) -> Endpoint {
    let (nearest, further) = relays.split_first().unwrap();
    let mut client = nearest.client(user);
    for relay in further {
        let to = format!("{} {}", client.relay.as_ref().unwrap(), relay.uri());
        assert_eq!(log_in(&mut client, user, &to), 200, "at {}", relay.host);
    }
    client
}

/// AUTH; returns the last status. Use-Path sets the client's path.
pub(crate) fn log_in(client: &mut Endpoint, user: &str, to: &str) -> u16 {
    log_in_with(client, user, &password(user), to)
}

pub(crate) fn log_in_with(client: &mut Endpoint, user: &str, password: &str, to: &str) -> u16 {
    let login = Login::new(user, password, to);
    let (_, last) = login.attempt(client);
    if last.status() == Some(200) {
        client.relay = Some(last.required("Use-Path"));
    }
    last.status().unwrap()
}

/// How others reach a client: its relays from the outermost inwards, then itself.
pub(crate) fn path_to(client: &Endpoint) -> String {
    let own = [client.uri.as_str()];
    let relays = client.relay.iter().flat_map(|path| path.split(' ').rev());
    relays.chain(own).collect::<Vec<_>>().join(" ")
}

pub(crate) fn address_of(host: &str) -> String {
    let last = HOSTS.iter().find(|(name, _)| *name == host).unwrap().1;
    format!("127.0.0.{last}")
}

fn roots(authorities: &[&Authority]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    }
    roots
}

fn pair(authority: &Authority, host: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let place = tempfile::tempdir().unwrap();
    let (certificate, key) = (place.path().join("x.crt"), place.path().join("x.key"));
    authority.certify_for(&[host], &certificate, &key);
    (vec![CertificateDer::from_pem_file(certificate).unwrap()], PrivateKeyDer::from_pem_file(key).unwrap())
}

fn leak(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}
