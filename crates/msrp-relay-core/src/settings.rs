//! The part of the configuration that one core's relay needs: plain data, valid by construction (the config checks it),
//! the same on every core.

use std::time::Duration;

use crate::identity::covers;
use crate::request::HEAD_OVERHEAD;
use msrp_proto::digest::{Algorithm, TimedNames};
use msrp_proto::uri::{MsrpUri, host_matches};

/// What the relay needs of its configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The host of the URIs it mints, which its certificate proves.
    pub hostname: String,
    /// The realm of every challenge; absent: the To-Path host of the AUTH.
    pub realm: Option<String>,
    /// SIP domains served beside the host name; absent: any.
    pub domains: Option<Vec<String>>,
    /// The ports it listens on.
    pub ports: Vec<u16>,
    /// How many cores there are.
    pub cores: u16,
    /// Digest algorithms offered, strongest first.
    pub algorithms: Vec<Algorithm>,
    /// Which user names say until when they are good: everything is counted for the user that they mean.
    pub timed_names: TimedNames,
    /// How long a challenge may be answered.
    pub challenge_lifetime: Duration,
    /// Failed AUTHs after which a connection is closed.
    pub max_attempts: u32,
    /// Accepts AUTH without TLS: for debugging only.
    pub insecure_plain: bool,
    /// How long a session may last.
    pub sessions: Expires,
    /// Methods beyond AUTH, SEND, REPORT and NICKNAME are forwarded.
    pub methods_allow_other: bool,
    /// Relays that may be next hops, and whose clients may ask for sessions through them: host names, `*.` for one label;
    /// absent: any that prove their name.
    pub relays: Option<Vec<String>>,
    /// Other relays may ask for sessions on behalf of their clients.
    pub serves_relays: bool,
    /// Refuses requests that come through a relay which has not proven its name.
    pub unproven_relays_refused: bool,
    /// The port in the URIs of clients whose relay asked by a connection that we opened.
    pub tls_port: Option<u16>,
    /// `msrp` next hops may be dialled.
    pub outbound_plain: bool,
    /// The chunk sizes that some peers take.
    pub max_chunk: MaxChunk,
    /// What clients by WebSocket are sent, and where others reach them.
    pub websocket: WebSocket,
    /// Bounds.
    pub limits: Limits,
}

/// What clients by WebSocket are sent, and where others reach them (RFC 7977).
#[derive(Clone, Copy, Debug)]
pub struct WebSocket {
    /// The longest message, in bytes.
    pub max_message: u32,
    /// Body bytes that may be unanswered in one session.
    pub window: u64,
    /// The scheme of their URIs, ...
    pub secure: bool,
    /// ... and the port: one that speaks MSRP over TCP, whatever port they came in by.
    pub port: u16,
}

/// The bounds of Expires, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Expires {
    /// The shortest time granted.
    pub expires_min: u64,
    /// The time announced if the client asked for none.
    pub expires_default: u64,
    /// The longest time granted.
    pub expires_max: u64,
    /// Whether the announced default ends the session too.
    pub enforce_default: bool,
}

impl Settings {
    /// Whether a URI leads to this relay.
    pub(crate) fn is_ours(&self, uri: &MsrpUri<'_>) -> bool {
        host_matches(uri.host_str(), &self.hostname)
            && uri.port().is_some_and(|port| self.ports.contains(&port))
    }

    /// The same for the host of a URI.
    pub(crate) fn admits_host_of(&self, uri: &[u8]) -> bool {
        self.relays.is_none() || MsrpUri::parse(uri).is_ok_and(|uri| self.admits(uri.host_str()))
    }

    /// Whether a relay of this name may be called, and may ask for sessions for its clients.
    pub(crate) fn admits(&self, host: &str) -> bool {
        self.relays.as_ref().is_none_or(|relays| relays.iter().any(|name| covers(name, host)))
    }
}

/// The most body bytes of one SEND towards some peers, by the hosts in their URIs. Any other peer takes chunks of any
/// length. Asked when a connection is dialled or a session bound to one, never for a chunk.
#[derive(Clone, Debug, Default)]
pub struct MaxChunk(Vec<(String, u32)>);

impl MaxChunk {
    /// Each host is a name, an address without brackets, or `*.` and a name, for any host with one more label.
    pub fn new(bounds: impl IntoIterator<Item = (String, u32)>) -> Self {
        Self(bounds.into_iter().collect())
    }

    /// The bound of a host as a URI has it: an entry with the whole name decides before one with `*`.
    pub(crate) fn of_host(&self, host: &str) -> Option<u32> {
        let bound_of = |is_named: &dyn Fn(&str) -> bool| {
            self.0.iter().find(|(name, _)| is_named(name)).map(|(_, bound)| *bound)
        };
        bound_of(&|name| host_matches(name, host)).or_else(|| bound_of(&|name| covers(name, host)))
    }

    /// The bound of the host in a URI.
    pub(crate) fn of_uri(&self, uri: &[u8]) -> Option<u32> {
        if self.0.is_empty() {
            return None;
        }
        MsrpUri::parse(uri).ok().and_then(|uri| self.of_host(uri.host_str()))
    }
}

/// Bounds of one core's relay. Those per address and per user hold for all cores together.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes received from a connection and not yet written out, at which reading stops.
    pub queue_bytes_high: usize,
    /// The same, at which reading goes on. At least `request_bytes_max`.
    pub queue_bytes_low: usize,
    /// The most that a request which must be complete before it is written can cost: a head, 10240 bytes of body, and
    /// what is kept beside it. So much is always read, whatever the pressure.
    pub request_bytes_max: usize,
    /// Bytes queued on all cores together.
    pub queue_bytes_total: usize,
    /// Bytes of one flush.
    pub flush_bytes_max: usize,
    /// Connections of this core.
    pub connections_per_core_max: usize,
    /// How many of those may have neither authenticated nor had a request forwarded.
    pub unauthenticated_per_core_max: usize,
    /// Connections from one address.
    pub connections_per_address_max: u32,
    /// How many of those may have neither authenticated nor had a request forwarded.
    pub unauthenticated_per_address_max: u32,
    /// Requests sent on one connection and not answered, and requests received and not answered.
    pub transactions_per_peer_max: usize,
    /// Requests refused to a connection that has proven nothing, before it is closed.
    pub refused_requests_max: u32,
    /// Failed AUTHs from one address in a window; 0: any number.
    pub auth_failures_per_address_max: u32,
    /// Failed AUTHs for one user in a window; 0: any number.
    pub auth_failures_per_user_max: u32,
    /// Connects to next hops that failed for one user in a window; 0: any number.
    pub dial_failures_per_user_max: u32,
    /// How long a window of failures is.
    pub failure_window: Duration,
    /// Connections with a session of one user; 0: any number.
    pub sessions_per_user_max: u32,
    /// Bytes one user may send in a second; 0: any number.
    pub bytes_per_second_per_user_max: u64,
    /// How long an accepted connection may go without a request that succeeds.
    pub first_request_timeout: Duration,
    /// How long one session may hold up the others on a connection with several.
    pub stall_timeout: Duration,
    /// How long a connection that serves no session may be silent.
    pub idle_timeout: Duration,
}

impl Limits {
    /// Whether it matters how many sessions a user has.
    pub(crate) fn counts_users(&self) -> bool {
        self.sessions_per_user_max > 0 || self.bytes_per_second_per_user_max > 0
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_bytes_high: 256 << 10,
            queue_bytes_low: 128 << 10,
            request_bytes_max: (16 << 10) + 10_240 + HEAD_OVERHEAD,
            queue_bytes_total: 512 << 20,
            flush_bytes_max: 128 << 10,
            connections_per_core_max: 65_536,
            unauthenticated_per_core_max: 13_107,
            connections_per_address_max: 1024,
            unauthenticated_per_address_max: 256,
            transactions_per_peer_max: 4096,
            refused_requests_max: 16,
            auth_failures_per_address_max: 100,
            auth_failures_per_user_max: 1000,
            dial_failures_per_user_max: 100,
            failure_window: Duration::from_secs(300),
            sessions_per_user_max: 0,
            bytes_per_second_per_user_max: 0,
            first_request_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(3600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::MaxChunk;

    // I14: hosts are compared as URIs are; `*` is one label.
    #[test]
    fn the_whole_name_decides_before_the_wildcard() {
        let bounds = [("*.example.org", 1), ("kam.example.org", 2), ("192.0.2.7", 3), ("2001:db8::7", 4)];
        let bounds = MaxChunk::new(bounds.map(|(host, bytes)| (host.to_owned(), bytes)));
        for (host, bound) in [
            ("a.example.org", Some(1)),
            ("KAM.Example.Org", Some(2)),
            ("192.0.2.7", Some(3)),
            ("2001:DB8:0::7", Some(4)),
            ("example.org", None),
            ("b.a.example.org", None),
            ("192.0.2.8", None),
            ("", None),
        ] {
            assert_eq!(bounds.of_host(host), bound, "{host}");
        }
        assert_eq!(bounds.of_uri(b"msrps://[2001:db8::7]:2855/x;tcp"), Some(4));
        assert_eq!(bounds.of_uri(b"msrps://alice@kam.example.org:2855/x;tcp"), Some(2));
        assert_eq!(bounds.of_uri(b"no URI"), None);
        assert_eq!(MaxChunk::default().of_host("kam.example.org"), None);
    }
}
