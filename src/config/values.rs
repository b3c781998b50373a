//! A valid config: its sections, and the values that their keys may have.
//!
//! Must not know how it is read, or how any of it is used.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use msrp_tls::RecordLayer;
use rustls_pki_types::CertificateDer;

use super::accounts::Backend;
use super::certificates::CertifiedPair;
use super::limits::Limits;
use super::shared_secrets::SharedSecret;
use super::websocket::WebSocket;
use msrp_proto::digest::Algorithm;

/// All settings that the relay starts with.
#[derive(Debug)]
pub struct Config {
    /// Where clients and peers connect; at least one.
    pub listen: Vec<Listen>,
    /// The relay's own host name, in lower case, as in the URIs it hands out (Use-Path).
    pub hostname: String,
    /// The digest realm of single-domain operation, as written or because all accounts are of one domain; `None`: the
    /// To-Path host of each AUTH, in lower case.
    pub realm: Option<String>,
    /// The SIP domains served, in lower case; `None`: any.
    pub domains: Option<Vec<String>>,
    /// The relay's certificates.
    pub tls: Tls,
    /// The CPUs that get a data core each, ascending, all of them open to this process; at least one.
    pub cores: Vec<usize>,
    /// Who may authenticate, and how.
    pub auth: Auth,
    /// What listeners with `websocket: true` accept, and what their clients are sent.
    pub websocket: WebSocket,
    /// How long sessions live.
    pub sessions: Sessions,
    /// Which methods are forwarded.
    pub methods: Methods,
    /// What the relay dials.
    pub outbound: Outbound,
    /// The name servers.
    pub dns: Dns,
    /// How long sessions may go on after the relay has been told to stop; zero: not at all.
    pub drain_timeout: Duration,
    /// The socket for operators; `None`: there is none.
    pub admin: Option<PathBuf>,
    /// The record of each session at its end; `None`: there is none.
    pub accounting: Option<Accounting>,
    /// The table of limits.
    pub limits: Limits,
    /// What is logged.
    pub log: Log,
    /// Where the metrics are served; `None`: nowhere.
    pub metrics: Option<Metrics>,
    /// Settings that work but deserve the operator's attention, one line each; logged at every start.
    pub warnings: Vec<String>,
}

/// One listening address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where to listen; port 0 leaves the choice to the kernel.
    pub address: SocketAddr,
    /// TLS from the first byte; otherwise plain TCP.
    pub tls: bool,
    /// MSRP in WebSocket messages (RFC 7977); otherwise as it is.
    pub websocket: bool,
}

/// The `tls:` section.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Chosen by SNI, the first one if no name fits; empty only if no listener speaks TLS.
    pub certificates: Vec<CertifiedPair>,
    /// The authorities whose signatures make a caller a relay; `None`: no caller is a relay.
    pub client_ca: Option<CaSource>,
    /// Whether the relay accepts requests that come through a relay which has not proven its name.
    pub unproven_relays: UnprovenRelays,
    /// What reads and writes the records.
    pub record_layer: RecordLayer,
}

/// What happens to requests that come through a relay which has not proven its name (RFC 4976, 9.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnprovenRelays {
    /// They are forwarded to clients like those of endpoints; AUTH is not.
    #[default]
    Accept,
    /// They get 403.
    Refuse,
}

/// The `auth:` section.
#[derive(Clone, Debug)]
pub struct Auth {
    /// Where the accounts are.
    pub backend: Backend,
    /// What signs credentials that expire by themselves, beside the backend: the first signs, all verify.
    pub shared_secrets: Vec<SharedSecret>,
    /// How long a found account is remembered without asking again; `None`: never.
    pub cache: Option<Duration>,
    /// How many of them at most.
    pub cache_entries_max: usize,
    /// The digest algorithms offered, at least one, strongest first (RFC 7616, section 3.7).
    pub algorithms: Vec<Algorithm>,
    /// How long a challenge may be answered.
    pub challenge_lifetime: Duration,
    /// Failed attempts after which a connection is closed.
    pub max_attempts: u32,
    /// Whether failed attempts are logged with the user's name.
    pub log_failures: bool,
    /// Whether AUTH is served without TLS; otherwise it is 403 there.
    pub insecure_plain: bool,
}

/// The `sessions:` section. `expires_min <= expires_default <= expires_max`, all in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sessions {
    /// The shortest Expires granted.
    pub expires_min: Duration,
    /// The Expires announced to a client that sent none.
    pub expires_default: Duration,
    /// The longest Expires granted.
    pub expires_max: Duration,
    /// Whether `expires_default` ends a session whose client sent no Expires.
    pub enforce_default: bool,
}

/// The `methods:` section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Methods {
    /// Whether methods other than SEND, REPORT, NICKNAME and AUTH are forwarded; otherwise they get 501.
    pub allow_other: bool,
}

/// The `outbound:` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// How the certificate of an endpoint (the last hop) is judged; a relay's is always verified.
    pub endpoint_tls: EndpointTls,
    /// Whether next hops may be plain `msrp`.
    pub plain: PlainPolicy,
    /// The authorities whose signatures make a certificate valid.
    pub ca: CaSource,
    /// The relays that may be called and whose clients may come through them; empty: any that prove their name.
    pub relays: Vec<String>,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// Ranges that may be dialled although they are not public.
    pub allow: Vec<IpNet>,
    /// Ranges that are never dialled; wins over `allow`.
    pub deny: Vec<IpNet>,
    /// Ports that may be dialled.
    pub ports: Vec<RangeInclusive<u16>>,
    /// The most bytes in one chunk towards some peers: a host name, `*.` and a name, or an address, each once.
    pub max_chunk: Vec<(String, usize)>,
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            endpoint_tls: EndpointTls::EncryptOnly,
            plain: PlainPolicy::Refuse,
            ca: CaSource::System,
            relays: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            allow: Vec::new(),
            deny: Vec::new(),
            ports: vec![1024..=u16::MAX],
            max_chunk: Vec::new(),
        }
    }
}

/// How an endpoint's certificate is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointTls {
    /// Encrypt, accept any certificate: endpoints sign their own, and only SDP carries the fingerprint.
    EncryptOnly,
    /// Verify chain and name, as with a relay.
    Verify,
    /// Dial no endpoints over TLS at all.
    Refuse,
}

/// Whether plain `msrp` next hops are dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainPolicy {
    /// They are.
    Allow,
    /// They are not.
    Refuse,
}

/// Where trusted roots come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaSource {
    /// The operating system's store.
    System,
    /// A PEM file, already read; at least one certificate.
    File {
        /// Where it was read.
        path: PathBuf,
        /// The roots in it.
        certificates: Vec<CertificateDer<'static>>,
    },
}

/// The `dns:` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// The servers to ask.
    pub servers: DnsServers,
}

/// The name servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsServers {
    /// Those of the system's `resolv.conf`.
    System,
    /// These, at least one; port 53 where the config gave none.
    List(Vec<SocketAddr>),
}

/// The `accounting:` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accounting {
    /// The form of the records.
    pub format: AccountingFormat,
    /// The file; `None`: standard output.
    pub file: Option<PathBuf>,
}

/// The shape of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountingFormat {
    /// For people, and for tools that read lines.
    Text,
    /// One JSON object a line.
    Json,
}

/// The `log:` section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least severe lines that are written.
    pub level: LogLevel,
    /// How they are written.
    pub format: LogFormat,
}

/// Severity, most severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// An operator must act.
    Error,
    /// Degraded, recovered.
    Warn,
    /// Start, stop, sessions opened and closed.
    Info,
    /// Refused peers and the like.
    Debug,
}

impl LogLevel {
    pub(super) const WORDS: [(&str, Self); 4] =
        [("error", Self::Error), ("warn", Self::Warn), ("info", Self::Info), ("debug", Self::Debug)];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::WORDS.iter().find(|(_, level)| *level == self).map_or("", |(word, _)| word)
    }

    /// The level that a word names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(known, _)| *known == word).map(|(_, level)| *level)
    }
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The `metrics:` section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// The address, without TLS and open to every reader: loopback, unless the config explicitly allows more. Port 0
    /// leaves the choice to the kernel.
    pub address: SocketAddr,
}
