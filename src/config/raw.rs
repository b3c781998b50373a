//! The config as written: every key read, bounded and defaulted by itself.
//!
//! Invariant: all defaults are in `Raw::default` and what it names. Nothing here looks at another key's value (except
//! the limits that must be in order), at a file or at the machine: `accept` does.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use msrp_tls::RecordLayer;
use rustls_pki_types::{DnsName, ServerName};
use serde_yaml::Value;

use super::accounts::RawAccounts;
use super::limits::Limits;
use super::problems::ConfigErrors;
use super::shared_secrets::RawSharedSecret;
use super::values::{
    AccountingFormat, Dns, DnsServers, EndpointTls, Listen, Log, LogFormat, LogLevel, Methods, Outbound,
    PlainPolicy, Sessions, UnprovenRelays,
};
use super::walk::{self, Problems, Section};
use super::websocket::WebSocket;
use msrp_proto::address;
use msrp_proto::digest::{Algorithm, Ha1};

/// A config before its keys are compared with each other and with the machine.
pub(super) struct Raw {
    /// The file's name, for messages.
    pub(super) origin: String,
    /// The problems of single keys.
    pub(super) problems: Problems,
    pub(super) listen: Vec<Listen>,
    pub(super) websocket: WebSocket,
    pub(super) hostname: Option<String>,
    pub(super) realm: Option<String>,
    pub(super) domains: Option<Vec<String>>,
    pub(super) tls: RawTls,
    /// `None`: all CPUs that the process may use.
    pub(super) cores: Option<Vec<usize>>,
    pub(super) auth: RawAuth,
    pub(super) sessions: Sessions,
    pub(super) methods: Methods,
    pub(super) outbound: RawOutbound,
    pub(super) dns: Dns,
    pub(super) drain_timeout: Duration,
    pub(super) admin: Option<PathBuf>,
    /// Whether to check the files that are opened later.
    pub(super) opens_later: bool,
    pub(super) accounting: RawAccounting,
    pub(super) limits: Limits,
    pub(super) log: Log,
    pub(super) metrics: RawMetrics,
}

/// The `tls:` section, as written.
#[derive(Default)]
pub(super) struct RawTls {
    pub(super) certificates: Vec<RawPair>,
    /// `None`: no caller is a relay; `Some(None)`: the system's.
    pub(super) client_ca: Option<Option<PathBuf>>,
    pub(super) unproven_relays: UnprovenRelays,
    pub(super) record_layer: RecordLayer,
}

/// The `outbound:` section, as written.
#[derive(Default)]
pub(super) struct RawOutbound {
    /// `None`: the system's.
    pub(super) ca: Option<PathBuf>,
    /// All of it but `ca`.
    pub(super) rest: Outbound,
}

/// The `accounting:` section, as written.
#[derive(Default)]
pub(super) struct RawAccounting {
    /// `None`: off.
    pub(super) format: Option<AccountingFormat>,
    pub(super) file: Option<PathBuf>,
}

/// Where figures are shown, as written.
#[derive(Default)]
pub(super) struct RawMetrics {
    pub(super) address: Option<SocketAddr>,
    pub(super) allow_remote: bool,
}

/// A certificate and its key, by path.
pub(super) struct RawPair {
    /// The key path of the section they were named in.
    pub(super) at: String,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

pub(super) struct RawAuth {
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) challenge_lifetime: Duration,
    pub(super) max_attempts: usize,
    pub(super) log_failures: bool,
    pub(super) insecure_plain: bool,
    pub(super) users: Vec<RawUser>,
    pub(super) shared_secrets: Vec<RawSharedSecret>,
    pub(super) accounts: RawAccounts,
}

/// An account as written.
#[derive(Default)]
pub(super) struct RawUser {
    /// The key path of the entry.
    pub(super) at: String,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) ha1: Option<Ha1>,
    pub(super) ha1_sha256: Option<Ha1>,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            origin: String::new(),
            problems: Problems::default(),
            listen: vec![Listen {
                address: SocketAddr::from(([0, 0, 0, 0], 2855)),
                tls: true,
                websocket: false,
            }],
            websocket: WebSocket::default(),
            hostname: None,
            realm: None,
            domains: None,
            tls: RawTls::default(),
            cores: None,
            auth: RawAuth {
                algorithms: vec![Algorithm::Md5],
                challenge_lifetime: Duration::from_secs(15),
                max_attempts: 3,
                log_failures: false,
                insecure_plain: false,
                users: Vec::new(),
                shared_secrets: Vec::new(),
                accounts: RawAccounts::default(),
            },
            sessions: Sessions {
                expires_min: Duration::from_secs(60),
                expires_default: Duration::from_secs(600),
                expires_max: Duration::from_secs(3600),
                enforce_default: false,
            },
            methods: Methods { allow_other: true },
            outbound: RawOutbound::default(),
            dns: Dns { servers: DnsServers::System },
            drain_timeout: Duration::ZERO,
            admin: None,
            opens_later: false,
            accounting: RawAccounting::default(),
            limits: Limits::default(),
            log: Log { level: LogLevel::Info, format: LogFormat::Text },
            metrics: RawMetrics::default(),
        }
    }
}

impl Raw {
    /// Reads the document. A text that is no mapping in YAML is the one problem there is to tell.
    pub(super) fn read(text: &str, origin: &str) -> Result<Self, ConfigErrors> {
        let mut raw = Self { origin: origin.to_owned(), ..Self::default() };
        let document = serde_yaml::from_str::<Value>(text).map_err(|error| {
            ConfigErrors::whole(origin, format!("not valid YAML: {error}: correct the line"))
        })?;
        if !document.is_mapping() && !document.is_null() {
            let message = "is not a config: write `key: value` lines";
            return Err(ConfigErrors::whole(origin, message.to_owned()));
        }
        let mut problems = Problems::default();
        let mut root = Section::root(document, &mut problems);
        raw.read_root(&mut root);
        root.finish();
        raw.problems = problems;
        Ok(raw)
    }

    fn read_root(&mut self, root: &mut Section<'_>) {
        self.read_listen(root);
        root.optional("hostname", &mut self.hostname, host);
        root.optional("realm", &mut self.realm, realm);
        self.read_domains(root);
        root.section("tls", |tls| self.read_tls(tls));
        root.value("cores", &mut self.cores, cores);
        root.section("auth", |auth| self.auth.read(auth));
        root.section("websocket", |websocket| self.websocket.read(websocket));
        root.section("sessions", |sessions| self.read_sessions(sessions));
        root.section("methods", |methods| {
            methods.value("allow_other", &mut self.methods.allow_other, walk::boolean);
        });
        root.section("outbound", |outbound| self.read_outbound(outbound));
        root.section("dns", |dns| dns.value("servers", &mut self.dns.servers, dns_servers));
        let bounds = (Duration::ZERO, Duration::from_secs(86_400));
        let drain_timeout = walk::bounded(walk::duration, bounds, walk::spell_duration);
        root.value("drain_timeout", &mut self.drain_timeout, drain_timeout);
        root.section("limits", |limits| self.limits.read(limits));
        root.section("log", |log| self.read_log(log));
        root.section("accounting", |section| {
            let formats = [
                ("off", None),
                ("text", Some(AccountingFormat::Text)),
                ("json", Some(AccountingFormat::Json)),
            ];
            section.value("format", &mut self.accounting.format, walk::word(&formats));
            let path = |value: &Value| walk::text(value).map(PathBuf::from);
            section.optional("file", &mut self.accounting.file, path);
        });
        root.section("admin", |section| {
            section.optional("socket", &mut self.admin, |value| walk::text(value).map(PathBuf::from));
            if self.admin.is_none() {
                section.missing("socket", "is missing: write it as /run/msrprelay/admin.sock");
            }
        });
        root.section("metrics", |metrics| {
            metrics.optional("address", &mut self.metrics.address, socket_address);
            metrics.value("allow_remote", &mut self.metrics.allow_remote, walk::boolean);
        });
    }

    fn read_listen(&mut self, root: &mut Section<'_>) {
        let mut listen = Vec::new();
        let given = root.sections("listen", |section| {
            let (mut address, mut tls, mut websocket) = (None, true, false);
            section.optional("address", &mut address, socket_address);
            section.value("tls", &mut tls, walk::boolean);
            section.value("websocket", &mut websocket, walk::boolean);
            match address {
                Some(address) => listen.push(Listen { address, tls, websocket }),
                None => section.missing("address", "is missing: write it as \"0.0.0.0:2855\""),
            }
        });
        if given {
            self.listen = listen;
        }
    }

    fn read_domains(&mut self, root: &mut Section<'_>) {
        let mut domains = Vec::new();
        if root.list("domains", &mut domains, host) {
            if domains.is_empty() && !root.is_wrong("domains") {
                root.problem(
                    "domains",
                    "is empty, which would serve no domain: name a domain or remove the line",
                );
            }
            self.domains = Some(domains);
        }
    }

    fn read_tls(&mut self, tls: &mut Section<'_>) {
        let mut single = RawPair { at: tls.path().to_owned(), certificate: None, key: None };
        single.read(tls);
        let mut several = Vec::new();
        let given = tls.sections("certificates", |section| {
            let mut pair = RawPair { at: section.path().to_owned(), certificate: None, key: None };
            pair.read(section);
            several.push(pair);
        });
        match (single.certificate.is_some() || single.key.is_some(), given) {
            (true, true) => {
                tls.problem("certificates", "stands beside certificate and key: keep one of the two forms")
            }
            (false, true) => self.tls.certificates = several,
            (_, false) => self.tls.certificates = vec![single],
        }
        tls.optional("client_ca", &mut self.tls.client_ca, ca);
        let unproven = [("accept", UnprovenRelays::Accept), ("refuse", UnprovenRelays::Refuse)];
        tls.value("unproven_relays", &mut self.tls.unproven_relays, walk::word(&unproven));
        let layers = [("rustls", RecordLayer::Rustls), ("direct", RecordLayer::Direct)];
        tls.value("record_layer", &mut self.tls.record_layer, walk::word(&layers));
    }

    fn read_sessions(&mut self, section: &mut Section<'_>) {
        let expires = || walk::bounded(whole_seconds, EXPIRES_BOUNDS, walk::spell_duration);
        let sessions = &mut self.sessions;
        section.value("expires_min", &mut sessions.expires_min, expires());
        section.value("expires_default", &mut sessions.expires_default, expires());
        section.value("expires_max", &mut sessions.expires_max, expires());
        section.value("enforce_default", &mut sessions.enforce_default, walk::boolean);
    }

    fn read_outbound(&mut self, section: &mut Section<'_>) {
        let RawOutbound { ca: written_ca, rest: outbound } = &mut self.outbound;
        let endpoint_tls = [
            ("encrypt-only", EndpointTls::EncryptOnly),
            ("verify", EndpointTls::Verify),
            ("refuse", EndpointTls::Refuse),
        ];
        section.value("endpoint_tls", &mut outbound.endpoint_tls, walk::word(&endpoint_tls));
        let plain = [("refuse", PlainPolicy::Refuse), ("allow", PlainPolicy::Allow)];
        section.value("plain", &mut outbound.plain, walk::word(&plain));
        section.value("ca", written_ca, ca);
        let bounds = (Duration::from_millis(100), Duration::from_secs(60));
        let timeout = walk::bounded(walk::duration, bounds, walk::spell_duration);
        section.value("connect_timeout", &mut outbound.connect_timeout, timeout);
        section.list("allow", &mut outbound.allow, net);
        section.list("deny", &mut outbound.deny, net);
        section.list("ports", &mut outbound.ports, ports);
        section.list("relays", &mut outbound.relays, relay_name);
        let chunk = walk::bounded(walk::size, MAX_CHUNK_BOUNDS, walk::spell_size);
        section.map("max_chunk", &mut outbound.max_chunk, peer_host, chunk);
    }

    fn read_log(&mut self, section: &mut Section<'_>) {
        section.value("level", &mut self.log.level, walk::word(&LogLevel::WORDS));
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        section.value("format", &mut self.log.format, walk::word(&formats));
    }
}

/// A shorter chunk costs as much head as body. No peer keeps a longer one in a buffer.
const MAX_CHUNK_BOUNDS: (usize, usize) = (1 << 10, 1 << 30);

/// A day is far beyond any session; a second is for tests.
const EXPIRES_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(86_400));

impl RawPair {
    fn read(&mut self, section: &mut Section<'_>) {
        let path = |value: &Value| walk::text(value).map(PathBuf::from);
        section.optional("certificate", &mut self.certificate, path);
        section.optional("key", &mut self.key, path);
    }
}

impl RawAuth {
    fn read(&mut self, section: &mut Section<'_>) {
        self.accounts.read(section);
        let algorithms = [("md5", Algorithm::Md5), ("sha-256", Algorithm::Sha256)];
        if section.list("algorithms", &mut self.algorithms, walk::word(&algorithms)) {
            self.order_algorithms(section);
        }
        let bounds = (Duration::from_secs(1), Duration::from_secs(300));
        let lifetime = walk::bounded(walk::duration, bounds, walk::spell_duration);
        section.value("challenge_lifetime", &mut self.challenge_lifetime, lifetime);
        let attempts = walk::bounded(walk::count, (1, 100), |count| count.to_string());
        section.value("max_attempts", &mut self.max_attempts, attempts);
        section.value("log_failures", &mut self.log_failures, walk::boolean);
        section.value("insecure_plain", &mut self.insecure_plain, walk::boolean);
        section.section("memory", |memory| {
            memory.sections("users", |section| self.users.push(RawUser::read(section)));
        });
        section
            .sections("shared_secrets", |section| self.shared_secrets.push(RawSharedSecret::read(section)));
    }

    /// Strongest first, MD5 last: clients take the first, or the last, that they know.
    fn order_algorithms(&mut self, section: &mut Section<'_>) {
        if self.algorithms.is_empty() && !section.is_wrong("algorithms") {
            section.problem("algorithms", "is empty: write [md5]");
        }
        let offered = |algorithm| self.algorithms.contains(&algorithm);
        let ordered = [Algorithm::Sha256, Algorithm::Md5].into_iter().filter(|algorithm| offered(*algorithm));
        self.algorithms = ordered.collect();
    }
}

impl RawUser {
    fn read(section: &mut Section<'_>) -> Self {
        let mut user = Self { at: section.path().to_owned(), ..Self::default() };
        section.optional("user", &mut user.user, walk::text);
        section.optional("password", &mut user.password, walk::text);
        section.optional("ha1", &mut user.ha1, ha1(Algorithm::Md5, 32));
        section.optional("ha1_sha256", &mut user.ha1_sha256, ha1(Algorithm::Sha256, 64));
        user
    }
}

// -- readers of values with a meaning --------------------------------------------------------------

fn socket_address(value: &Value) -> Result<SocketAddr, String> {
    let text = walk::text(value)?;
    address::parse_socket(&text).ok_or_else(|| {
        format!("\"{text}\" is not an address and port: write it as \"0.0.0.0:2855\" or \"[::]:2855\"")
    })
}

/// A host name or IP literal, in lower case.
fn host(value: &Value) -> Result<String, String> {
    let text = walk::text(value)?;
    match ServerName::try_from(text.as_str()) {
        Ok(_) if !text.ends_with('.') => Ok(text.to_ascii_lowercase()),
        _ => Err(format!(
            "\"{text}\" is not a host name: write it as relay.example.com, without port or scheme"
        )),
    }
}

/// Where roots come from: the system's store (`None`), or a file.
fn ca(value: &Value) -> Result<Option<PathBuf>, String> {
    walk::text(value).map(|ca| (ca != "system").then(|| PathBuf::from(ca)))
}

/// A host name, or one with `*.` in front, which stands for one label.
fn relay_name(value: &Value) -> Result<String, String> {
    let text = walk::text(value)?;
    let name = text.strip_prefix("*.").unwrap_or(&text);
    match ServerName::try_from(name) {
        Ok(ServerName::DnsName(_)) if !name.ends_with('.') && !name.contains('*') => {
            Ok(text.to_ascii_lowercase())
        }
        _ => Err(format!(
            "\"{text}\" is not a relay's host name: write relay.example.net, or *.example.net for all of one domain"
        )),
    }
}

/// The host of a peer as URIs have it: a name, `*.` for one label before a name, or an address with or without its
/// brackets.
fn peer_host(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Some(address) = address::parse(bare) {
        return Ok(address.to_string());
    }
    let name = text.strip_prefix("*.").unwrap_or(text);
    match DnsName::try_from(name) {
        Ok(_) if !name.ends_with('.') => Ok(text.to_ascii_lowercase()),
        _ => Err("is not a host: write relay.example.com, \"*.example.com\" or an address, without port or \
                  scheme"
            .to_owned()),
    }
}

/// Text that can stand in quotes in a digest challenge, unchanged.
fn realm(value: &Value) -> Result<String, String> {
    let text = walk::text(value)?;
    let plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    match text.len() <= 255 && text.bytes().all(plain) {
        true => Ok(text),
        false => Err("is not fit for a realm: write up to 255 ASCII letters, without quotes and backslashes"
            .to_owned()),
    }
}

fn cores(value: &Value) -> Result<Option<Vec<usize>>, String> {
    let refused = || "is neither: write auto, or a list of CPU numbers such as [0, 1]".to_owned();
    match value {
        Value::String(text) if text == "auto" => Ok(None),
        Value::Sequence(cpus) => {
            cpus.iter().map(|cpu| walk::count(cpu).map_err(|_| refused())).collect::<Result<_, _>>().map(Some)
        }
        _ => Err(refused()),
    }
}

fn whole_seconds(value: &Value) -> Result<Duration, String> {
    let duration = walk::duration(value)?;
    match duration.subsec_nanos() {
        0 => Ok(duration),
        _ => Err("has a fraction of a second, which Expires cannot carry: write whole seconds".to_owned()),
    }
}

/// A range, or a single address as a range. A range of IPv4-mapped addresses is an IPv4 range.
fn net(value: &Value) -> Result<IpNet, String> {
    let text = walk::text(value)?;
    let single = || address::parse(&text).map(IpNet::from);
    text.parse::<IpNet>().ok().map(|net| canonical_net(net.trunc())).or_else(single).ok_or_else(|| {
        format!("\"{text}\" is not an address range: write it as \"192.0.2.0/24\" or \"2001:db8::/32\"")
    })
}

fn canonical_net(net: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let bits = net.prefix_len().checked_sub(MAPPED_BITS);
    match (address::canonical(net.network()), bits) {
        (ip @ IpAddr::V4(_), Some(bits)) if net.network().is_ipv6() => IpNet::new(ip, bits).unwrap_or(net),
        _ => net,
    }
}

/// One port, or a range of them.
fn ports(value: &Value) -> Result<RangeInclusive<u16>, String> {
    let single = value.as_u64().map(|port| port.to_string());
    let text = single.map_or_else(|| walk::text(value), Ok)?;
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(first..=last),
        _ => Err(format!("\"{text}\" is no range of ports: write it as \"1024-65535\", or one port as 2855")),
    }
}

fn dns_servers(value: &Value) -> Result<DnsServers, String> {
    const REMEDY: &str = "write system, or a list such as [\"192.0.2.53\"]";
    match value {
        Value::String(text) if text == "system" => Ok(DnsServers::System),
        Value::Sequence(servers) if servers.is_empty() => Err(format!("is empty: {REMEDY}")),
        Value::Sequence(servers) => {
            servers.iter().map(dns_server).collect::<Result<_, _>>().map(DnsServers::List)
        }
        _ => Err(format!("is neither: {REMEDY}")),
    }
}

fn dns_server(value: &Value) -> Result<SocketAddr, String> {
    let text = walk::text(value)?;
    let with_port = || address::parse(&text).map(|address| SocketAddr::new(address, 53));
    address::parse_socket(&text).or_else(with_port).ok_or_else(|| {
        format!(
            "\"{text}\" is not a name server's address: write it as \"192.0.2.53\" or \"192.0.2.53:5353\""
        )
    })
}

/// A hash in hexadecimal. It is as good as a password, so errors do not repeat it.
fn ha1(algorithm: Algorithm, digits: usize) -> impl Fn(&Value) -> Result<Ha1, String> {
    move |value| {
        let read = Ha1::from_hex(&walk::text(value)?).filter(|ha1| ha1.algorithm() == algorithm);
        read.ok_or_else(|| {
            format!("is not {digits} hexadecimal digits: give the hash of user:realm:password")
        })
    }
}
