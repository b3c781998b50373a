//! The table of limits: every bound that the relay enforces on itself or on a peer, in one place.
//!
//! Each has a unit (in its name), a default, a floor below which the protocol would no longer work and a
//! ceiling above which it would no longer protect. RFC 4975 and 4976 leave nearly all of them to us.

use std::time::Duration;

use super::walk::{self, Section};
use msrp_proto::parser::ParserLimits;
use msrp_relay_core::HEAD_OVERHEAD;

/// The `limits:` section: a table, a field for each key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest head of a frame, start line and headers together, in bytes.
    pub head_bytes_max: usize,
    /// The most header lines in a head.
    pub headers_max: usize,
    /// The longest single line of a head, in bytes.
    pub line_bytes_max: usize,
    /// The most URIs in a To-Path or From-Path.
    pub path_uris_max: usize,
    /// The longest URI, in bytes.
    pub uri_bytes_max: usize,
    /// The longest session-id part of a URI, in bytes.
    pub session_id_bytes_max: usize,
    /// The longest comment behind a status code, in bytes.
    pub comment_bytes_max: usize,
    /// The longest Message-ID, in bytes.
    pub message_id_bytes_max: usize,
    /// Bytes queued towards one peer at which its sender is paused.
    pub queue_bytes_high: usize,
    /// Bytes queued towards one peer at which a paused sender goes on; below `queue_bytes_high`.
    pub queue_bytes_low: usize,
    /// Bytes queued towards all peers of the process together, and all else that they make it keep in memory (open
    /// transactions, answers, REPORTs, unfinished input, clients behind relays), at which no more connections are
    /// taken and each of those there are is read only as far as its request needs. Divided among the cores, which
    /// lend each other what they do not need.
    pub queue_bytes_total: usize,
    /// The most bytes handed to the socket in one piece: a waiting frame waits that long at most.
    pub flush_bytes_max: usize,
    /// The most connections the whole process holds at once. One more takes the place of the one that has proven least.
    pub connections_max: usize,
    /// The most connections from one address; a /56 of IPv6 is one address.
    pub connections_per_address_max: usize,
    /// The most of these that have neither authenticated nor had a request forwarded.
    pub unauthenticated_per_address_max: usize,
    /// The most connections that have neither authenticated nor had a request forwarded, in percent of
    /// `connections_max`. One more takes the place of another of them.
    pub unauthenticated_percent_max: usize,
    /// Requests refused to a connection that has neither, after which it is closed.
    pub refused_requests_max: usize,
    /// Failed AUTHs from one address within `failure_window`, after which it is refused for the rest of
    /// it; 0 is any number.
    pub auth_failures_per_address_max: usize,
    /// The same for one user, whether or not there is such a user.
    pub auth_failures_per_user_max: usize,
    /// Next hops that could not be connected to for one user within `failure_window`, after which none is
    /// tried for the rest of it; 0 is any number.
    pub dial_failures_per_user_max: usize,
    /// The most connections with a session of one user; 0 is any number.
    pub sessions_per_user_max: usize,
    /// The most bytes one user may send in a second, over all connections; 0 is any number.
    pub bytes_per_second_per_user_max: usize,
    /// The most transactions that may await an answer from one peer.
    pub transactions_per_peer_max: usize,
    /// The most account look-ups, name look-ups, and connects to next hops, each by itself, that may wait for their turn.
    pub lookups_waiting_max: usize,
    /// Account look-ups under way at once for one address, or for one relay with clients behind it.
    pub lookups_per_address_max: usize,
    /// Name look-ups under way at once for one user.
    pub lookups_per_user_max: usize,
    /// Connects to next hops under way at once for one user.
    pub dials_per_user_max: usize,
    /// The most addresses of one host name that are tried.
    pub addresses_per_name_max: usize,
    /// How long failures are counted together, and so how long a ban can last.
    pub failure_window: Duration,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long a new connection may go without a request that succeeds; includes the handshake.
    pub first_request_timeout: Duration,
    /// How long the rest of a head may take from its first byte on.
    pub head_timeout: Duration,
    /// How long the rest of a TLS record may take from its first byte on, not counting the time in which the
    /// connection is not read from. A record is in memory until it is complete.
    pub record_timeout: Duration,
    /// How long a receiver that takes nothing may hold up the other sessions of a connection, such as
    /// another relay's; then what waits for it from there is refused with 413.
    pub stall_timeout: Duration,
    /// How long a peer may take nothing of what is written to it.
    pub write_timeout: Duration,
    /// How long a connection that no session uses may be silent.
    pub idle_timeout: Duration,
    /// How long an account look-up may wait and take before its answer is "unavailable".
    pub lookup_timeout: Duration,
    /// How long a name look-up may wait and take, all servers and repetitions together.
    pub resolve_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes_max: 16 << 10,
            headers_max: 64,
            line_bytes_max: 8 << 10,
            path_uris_max: 16,
            uri_bytes_max: 1 << 10,
            session_id_bytes_max: 128,
            comment_bytes_max: 256,
            message_id_bytes_max: 128,
            queue_bytes_high: 256 << 10,
            queue_bytes_low: 128 << 10,
            queue_bytes_total: 512 << 20,
            flush_bytes_max: 128 << 10,
            connections_max: 1 << 16,
            connections_per_address_max: 1024,
            unauthenticated_per_address_max: 256,
            unauthenticated_percent_max: 20,
            refused_requests_max: 16,
            auth_failures_per_address_max: 100,
            auth_failures_per_user_max: 1000,
            dial_failures_per_user_max: 100,
            sessions_per_user_max: 0,
            bytes_per_second_per_user_max: 0,
            transactions_per_peer_max: 4096,
            lookups_waiting_max: 1024,
            lookups_per_address_max: 64,
            lookups_per_user_max: 16,
            dials_per_user_max: 32,
            addresses_per_name_max: 16,
            failure_window: Duration::from_secs(300),
            handshake_timeout: Duration::from_secs(10),
            first_request_timeout: Duration::from_secs(30),
            head_timeout: Duration::from_secs(10),
            record_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(3600),
            lookup_timeout: Duration::from_secs(5),
            resolve_timeout: Duration::from_secs(5),
        }
    }
}

/// One row of the table: key, floor, ceiling, and where it is kept.
struct Row<T>(&'static str, T, T, fn(&mut Limits) -> &mut T);

/// Limits in bytes. The floors of the head leave room for two relays' URIs and a digest.
const SIZES: [Row<usize>; 11] = [
    Row("head_bytes_max", 2 << 10, 1 << 20, |limits| &mut limits.head_bytes_max),
    Row("line_bytes_max", 1 << 10, 1 << 20, |limits| &mut limits.line_bytes_max),
    Row("uri_bytes_max", 256, 8 << 10, |limits| &mut limits.uri_bytes_max),
    Row("session_id_bytes_max", 64, 1 << 10, |limits| &mut limits.session_id_bytes_max),
    Row("comment_bytes_max", 64, 8 << 10, |limits| &mut limits.comment_bytes_max),
    Row("message_id_bytes_max", 32, 1 << 10, |limits| &mut limits.message_id_bytes_max),
    Row("queue_bytes_high", 32 << 10, 16 << 20, |limits| &mut limits.queue_bytes_high),
    Row("queue_bytes_low", 16 << 10, 8 << 20, |limits| &mut limits.queue_bytes_low),
    Row("queue_bytes_total", 16 << 20, 1 << 40, |limits| &mut limits.queue_bytes_total),
    Row("bytes_per_second_per_user_max", 0, 1 << 40, |limits| &mut limits.bytes_per_second_per_user_max),
    Row("flush_bytes_max", 16 << 10, 1 << 20, |limits| &mut limits.flush_bytes_max),
];

/// Limits that count things.
const COUNTS: [Row<usize>; 17] = [
    Row("headers_max", 16, 1024, |limits| &mut limits.headers_max),
    Row("path_uris_max", 4, 128, |limits| &mut limits.path_uris_max),
    Row("connections_max", 16, 4 << 20, |limits| &mut limits.connections_max),
    Row("connections_per_address_max", 1, 4 << 20, |limits| &mut limits.connections_per_address_max),
    Row("unauthenticated_per_address_max", 1, 4 << 20, |limits| &mut limits.unauthenticated_per_address_max),
    Row("unauthenticated_percent_max", 1, 100, |limits| &mut limits.unauthenticated_percent_max),
    Row("refused_requests_max", 1, 1024, |limits| &mut limits.refused_requests_max),
    Row("auth_failures_per_address_max", 0, 1 << 20, |limits| &mut limits.auth_failures_per_address_max),
    Row("auth_failures_per_user_max", 0, 1 << 20, |limits| &mut limits.auth_failures_per_user_max),
    Row("dial_failures_per_user_max", 0, 1 << 20, |limits| &mut limits.dial_failures_per_user_max),
    Row("sessions_per_user_max", 0, 1 << 20, |limits| &mut limits.sessions_per_user_max),
    Row("transactions_per_peer_max", 16, 1 << 20, |limits| &mut limits.transactions_per_peer_max),
    Row("lookups_waiting_max", 16, 1 << 16, |limits| &mut limits.lookups_waiting_max),
    Row("lookups_per_address_max", 1, 256, |limits| &mut limits.lookups_per_address_max),
    Row("lookups_per_user_max", 1, 256, |limits| &mut limits.lookups_per_user_max),
    Row("dials_per_user_max", 1, 1 << 20, |limits| &mut limits.dials_per_user_max),
    Row("addresses_per_name_max", 1, 64, |limits| &mut limits.addresses_per_name_max),
];

/// Limits on time.
const TIMES: [Row<Duration>; 10] = [
    Row("handshake_timeout", Duration::from_secs(1), Duration::from_secs(60), |limits| {
        &mut limits.handshake_timeout
    }),
    Row("first_request_timeout", Duration::from_secs(1), Duration::from_secs(600), |limits| {
        &mut limits.first_request_timeout
    }),
    Row("failure_window", Duration::from_secs(1), Duration::from_secs(86_400), |limits| {
        &mut limits.failure_window
    }),
    Row("head_timeout", Duration::from_secs(1), Duration::from_secs(60), |limits| &mut limits.head_timeout),
    Row("record_timeout", Duration::from_secs(1), Duration::from_secs(600), |limits| {
        &mut limits.record_timeout
    }),
    Row("stall_timeout", Duration::from_secs(1), Duration::from_secs(600), |limits| {
        &mut limits.stall_timeout
    }),
    Row("write_timeout", Duration::from_secs(1), Duration::from_secs(3600), |limits| {
        &mut limits.write_timeout
    }),
    Row("idle_timeout", Duration::from_secs(1), Duration::from_secs(86_400), |limits| {
        &mut limits.idle_timeout
    }),
    Row("lookup_timeout", Duration::from_millis(100), Duration::from_secs(60), |limits| {
        &mut limits.lookup_timeout
    }),
    Row("resolve_timeout", Duration::from_millis(100), Duration::from_secs(60), |limits| {
        &mut limits.resolve_timeout
    }),
];

impl Limits {
    /// The limits as the parser of frames wants them.
    #[must_use]
    pub fn parser(&self) -> ParserLimits {
        ParserLimits {
            head_bytes_max: self.head_bytes_max,
            headers_max: self.headers_max,
            line_bytes_max: self.line_bytes_max,
            path_uris_max: self.path_uris_max,
            uri_bytes_max: self.uri_bytes_max,
            session_id_bytes_max: self.session_id_bytes_max,
            comment_bytes_max: self.comment_bytes_max,
            message_id_bytes_max: self.message_id_bytes_max,
        }
    }

    pub(super) fn read(&mut self, section: &mut Section<'_>) {
        for Row(key, floor, ceiling, slot) in SIZES {
            let read = walk::bounded(walk::size, (floor, ceiling), walk::spell_size);
            section.value(key, slot(self), read);
        }
        for Row(key, floor, ceiling, slot) in COUNTS {
            let read = walk::bounded(walk::count, (floor, ceiling), |count| count.to_string());
            section.value(key, slot(self), read);
        }
        for Row(key, floor, ceiling, slot) in TIMES {
            let read = walk::bounded(walk::duration, (floor, ceiling), walk::spell_duration);
            section.value(key, slot(self), read);
        }
        self.compare(section);
    }

    /// The most that a request which must be complete before it is written can cost in a queue: a head, the
    /// longest body of a request other than SEND (RFC 4975, 7.1), and what is kept beside a head.
    #[must_use]
    pub fn request_bytes_max(&self) -> usize {
        self.head_bytes_max + 10_240 + HEAD_OVERHEAD
    }

    /// The limits that must agree with each other.
    fn compare(&self, section: &mut Section<'_>) {
        if self.queue_bytes_low < self.request_bytes_max() {
            let request = walk::spell_size(self.request_bytes_max());
            let other = "head_bytes_max and the longest body of a request other than SEND";
            disagree(section, "queue_bytes_low", "not be below", other, &request);
        }
        if self.unauthenticated_per_address_max > self.connections_per_address_max {
            let all = self.connections_per_address_max.to_string();
            disagree(
                section,
                "unauthenticated_per_address_max",
                "not exceed",
                "connections_per_address_max",
                &all,
            );
        }
        if self.queue_bytes_low >= self.queue_bytes_high {
            let high = walk::spell_size(self.queue_bytes_high);
            disagree(section, "queue_bytes_low", "stay below", "queue_bytes_high", &high);
        }
        if self.line_bytes_max > self.head_bytes_max {
            let head = walk::spell_size(self.head_bytes_max);
            disagree(section, "line_bytes_max", "not exceed", "head_bytes_max", &head);
        }
        if self.uri_bytes_max > self.line_bytes_max {
            let line = walk::spell_size(self.line_bytes_max);
            disagree(section, "uri_bytes_max", "not exceed", "line_bytes_max", &line);
        }
        if self.handshake_timeout > self.first_request_timeout {
            let first = walk::spell_duration(self.first_request_timeout);
            disagree(section, "handshake_timeout", "not exceed", "first_request_timeout", &first);
        }
    }
}

/// Reports that `key` must be less than `other`, unless one of them is wrong by itself.
fn disagree(section: &mut Section<'_>, key: &str, must: &str, other: &str, value: &str) {
    if !section.is_wrong(key) && !section.is_wrong(other) {
        section.problem(key, format!("must {must} {other} ({value}): lower it or raise the other"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line of the sample that sets `key`.
    fn sample_line(key: &str) -> &'static str {
        let mut lines = include_str!("../../config.yaml.sample").lines();
        let is_it =
            |line: &&str| line.trim_start().strip_prefix(key).is_some_and(|rest| rest.starts_with(':'));
        lines.rfind(is_it).unwrap_or_default()
    }

    #[test]
    fn the_sample_names_every_limit_with_its_range() {
        let sizes = SIZES
            .map(|Row(key, floor, ceiling, _)| (key, walk::spell_size(floor), walk::spell_size(ceiling)));
        let counts = COUNTS.map(|Row(key, floor, ceiling, _)| (key, floor.to_string(), ceiling.to_string()));
        let times = TIMES.map(|Row(key, floor, ceiling, _)| {
            (key, walk::spell_duration(floor), walk::spell_duration(ceiling))
        });
        for (key, floor, ceiling) in sizes.into_iter().chain(counts).chain(times) {
            let range = format!("# {floor} to {ceiling}");
            assert!(sample_line(key).contains(&range), "{key}: {range}: {}", sample_line(key));
        }
    }

    #[test]
    fn the_documents_say_of_every_limit_what_the_peer_sees() {
        let page = include_str!("../../docs/operate/configuration.md");
        let keys = SIZES.iter().map(|row| row.0).chain(COUNTS.iter().map(|row| row.0));
        for key in keys.chain(TIMES.iter().map(|row| row.0)) {
            let row = page.lines().find(|line| line.starts_with(&format!("| `{key}` |")));
            let seen = row.and_then(|row| row.split('|').nth(6)).unwrap_or_default();
            assert!(seen.trim().len() > 2, "{key}: {row:?}");
        }
    }

    #[test]
    fn the_limits_that_bite_are_named_as_in_the_config() {
        use msrp_relay_core::Limit;
        let sample = include_str!("../../config.yaml.sample");
        for limit in Limit::ALL {
            let key = limit.key().rsplit('.').next().unwrap_or_default();
            assert!(sample.lines().any(|line| line.trim_start().starts_with(&format!("{key}:"))), "{key}");
        }
    }

    #[test]
    fn defaults_are_within_their_ranges() {
        let mut limits = Limits::default();
        for Row(key, floor, ceiling, slot) in SIZES.into_iter().chain(COUNTS) {
            assert!((floor..=ceiling).contains(slot(&mut limits)), "{key}");
        }
        for Row(key, floor, ceiling, slot) in TIMES {
            assert!((floor..=ceiling).contains(slot(&mut limits)), "{key}");
        }
    }
}
