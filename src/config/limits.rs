//! The table of limits: every bound of the section `limits:`, in one place.
//!
//! Each has a unit, what it holds for (a connection, an address, the process), a default, a floor below which the protocol
//! would not work, and a ceiling above which it would not protect. RFC 4975 and 4976 leave nearly all of them to
//! us. The sample and the table in `docs/operate/configuration.md` are compared with this one; what is counted and logged
//! when a limit is reached is [`msrp_relay_core::Limit`], which goes by the same key.

use std::time::Duration;

use super::walk::{self, Section};
use msrp_proto::parser::ParserLimits;
use msrp_relay_core::HEAD_OVERHEAD;

/// What a limit is counted in, with its floor and ceiling, both of which are accepted.
#[derive(Clone, Copy)]
enum Value {
    Size(Bounds<usize>),
    Count(Bounds<usize>),
    Time(Bounds<Duration>),
}

#[derive(Clone, Copy)]
struct Bounds<T> {
    floor: T,
    ceiling: T,
    /// Where it is kept.
    slot: fn(&mut Limits) -> &mut T,
}

impl<T: PartialOrd + Copy> Bounds<T> {
    fn read(
        self,
        limits: &mut Limits,
        (section, key): (&mut Section<'_>, &'static str),
        read: impl Fn(&serde_yaml::Value) -> Result<T, String>,
        spell: impl Fn(T) -> String,
    ) {
        section.value(key, (self.slot)(limits), walk::bounded(read, (self.floor, self.ceiling), spell));
    }
}

/// One row of the table.
#[derive(Clone, Copy)]
struct Row {
    key: &'static str,
    value: Value,
    // For the documents, which are compared with these.
    #[cfg(test)]
    unit: &'static str,
    #[cfg(test)]
    per: &'static str,
}

/// The type of a limit's field.
macro_rules! type_of {
    (Size) => {
        usize
    };
    (Count) => {
        usize
    };
    (Time) => {
        Duration
    };
}

/// Writes each limit once: `key: Kind(default, floor => ceiling), "unit" per "what";` makes the field, its default, and the
/// row that bounds it and that the sample and the documents are compared with.
macro_rules! limits {
    ($($(#[$doc:meta])* $key:ident: $kind:ident($default:expr, $floor:expr => $ceiling:expr), $unit:literal per $per:literal;)*) => {
        /// The `limits:` section: a table, a field for each key.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits {
            $($(#[$doc])* pub $key: type_of!($kind),)*
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }

        const ROWS: &[Row] = &[$(Row {
            key: stringify!($key),
            value: Value::$kind(Bounds {
                floor: $floor,
                ceiling: $ceiling,
                slot: |limits| &mut limits.$key,
            }),
            #[cfg(test)]
            unit: $unit,
            #[cfg(test)]
            per: $per,
        },)*];
    };
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

// The floors of the head leave room for two relays' URIs and a digest.
limits! {
    /// The longest head of a frame, start line and headers together, in bytes.
    head_bytes_max: Size(16 << 10, 2 << 10 => 1 << 20), "bytes" per "frame";
    /// The most header lines in a head.
    headers_max: Count(64, 16 => 1024), "lines" per "frame";
    /// The longest single line of a head, in bytes.
    line_bytes_max: Size(8 << 10, 1 << 10 => 1 << 20), "bytes" per "line";
    /// The most URIs in a To-Path or From-Path.
    path_uris_max: Count(16, 4 => 128), "URIs" per "path";
    /// The longest URI, in bytes.
    uri_bytes_max: Size(1 << 10, 256 => 8 << 10), "bytes" per "URI";
    /// The longest session-id part of a URI, in bytes.
    session_id_bytes_max: Size(128, 64 => 1 << 10), "bytes" per "URI";
    /// The longest comment behind a status code, in bytes.
    comment_bytes_max: Size(256, 64 => 8 << 10), "bytes" per "response";
    /// The longest Message-ID, in bytes.
    message_id_bytes_max: Size(128, 32 => 1 << 10), "bytes" per "frame";
    /// Bytes that came by one connection and are not written on yet: at so many it is not read from any more.
    queue_bytes_high: Size(256 << 10, 32 << 10 => 16 << 20), "bytes" per "connection";
    /// The same: down at so many it is read from again; below `queue_bytes_high`.
    queue_bytes_low: Size(128 << 10, 16 << 10 => 8 << 20), "bytes" per "connection";
    /// Bytes queued towards all peers of the process, plus all else that peers make it keep in memory (open
    /// transactions, answers, REPORTs, unfinished input, clients behind relays). At this limit the relay takes no more
    /// connections, and reads from each existing one only as far as its request needs. It is divided among the cores,
    /// which lend each other what they do not need.
    queue_bytes_total: Size(512 << 20, 16 << 20 => 1 << 40), "bytes" per "process";
    /// The most bytes handed to the socket at once: a waiting frame waits no longer than they take.
    flush_bytes_max: Size(128 << 10, 16 << 10 => 1 << 20), "bytes" per "write";
    /// The most connections the whole process holds at once. One more takes the place of the one that has proven least.
    connections_max: Count(1 << 16, 16 => 4 << 20), "connections" per "process";
    /// The most connections from one address; a /56 of IPv6 is one address.
    connections_per_address_max: Count(1024, 1 => 4 << 20), "connections" per "address";
    /// The most of these that have neither authenticated nor had a request forwarded.
    unauthenticated_per_address_max: Count(256, 1 => 4 << 20), "connections" per "address";
    /// The most connections that have neither authenticated nor had a request forwarded, in percent of
    /// `connections_max`. One more takes the place of another of them.
    unauthenticated_percent_max: Count(20, 1 => 100), "% of `connections_max`" per "process";
    /// Requests refused to a connection that has done neither, after which it is closed.
    refused_requests_max: Count(16, 1 => 1024), "requests" per "connection";
    /// Failed AUTHs from one address within `failure_window`, after which it is refused for the rest of the window; 0
    /// is any number.
    auth_failures_per_address_max: Count(100, 0 => 1 << 20), "AUTHs in a window" per "address";
    /// The same for one user, whether or not there is such a user.
    auth_failures_per_user_max: Count(1000, 0 => 1 << 20), "AUTHs in a window" per "user";
    /// Failed connects to next hops for one user within `failure_window`, after which none is tried for the rest of the
    /// window; 0 is any number.
    dial_failures_per_user_max: Count(100, 0 => 1 << 20), "connects in a window" per "user";
    /// The most connections with a session of one user; 0 is any number.
    sessions_per_user_max: Count(0, 0 => 1 << 20), "connections" per "user";
    /// The most bytes one user may send in a second, over all connections; 0 is any number.
    bytes_per_second_per_user_max: Size(0, 0 => 1 << 40), "bytes in a second" per "user";
    /// The most transactions that may await an answer from one peer.
    transactions_per_peer_max: Count(4096, 16 => 1 << 20), "requests" per "connection";
    /// The most account look-ups, name look-ups, and connects to next hops, each by itself, that may wait for their turn.
    lookups_waiting_max: Count(1024, 16 => 1 << 16), "look-ups" per "kind of look-up";
    /// Account look-ups under way at once for one address, or for one relay with clients behind it.
    lookups_per_address_max: Count(64, 1 => 256), "look-ups" per "address";
    /// Name look-ups under way at once for one user.
    lookups_per_user_max: Count(16, 1 => 256), "look-ups" per "user";
    /// Connects to next hops under way at once for one user.
    dials_per_user_max: Count(32, 1 => 1 << 20), "connects" per "user";
    /// The most addresses of one host name that are tried.
    addresses_per_name_max: Count(16, 1 => 64), "addresses" per "host name";
    /// How long failures are counted together, and so the longest ban.
    failure_window: Time(seconds(300), seconds(1) => seconds(86_400)), "time" per "window";
    /// How long a TLS handshake may take.
    handshake_timeout: Time(seconds(10), seconds(1) => seconds(60)), "time" per "connection";
    /// How long a new connection may go without a request that succeeds; includes the handshake.
    first_request_timeout: Time(seconds(30), seconds(1) => seconds(600)), "time" per "connection";
    /// How long the rest of a head may take after its first byte.
    head_timeout: Time(seconds(10), seconds(1) => seconds(60)), "time" per "frame";
    /// How long the rest of a TLS record may take after its first byte, without the time in which the connection is
    /// paused. A record is in memory until it is complete.
    record_timeout: Time(seconds(60), seconds(1) => seconds(600)), "time" per "TLS record";
    /// How long a receiver that takes nothing may hold up the other sessions of a connection, such as another relay's.
    /// After that, what waits for it from that connection is refused with 413.
    stall_timeout: Time(seconds(5), seconds(1) => seconds(600)), "time" per "receiver";
    /// How long a peer may take nothing of what is written to it.
    write_timeout: Time(seconds(30), seconds(1) => seconds(3600)), "time" per "connection";
    /// How long a connection that no session uses may be silent.
    idle_timeout: Time(seconds(3600), seconds(1) => seconds(86_400)), "time" per "connection";
    /// How long an account look-up may wait and take before its answer is "unavailable".
    lookup_timeout: Time(seconds(5), millis(100) => seconds(60)), "time" per "look-up";
    /// How long a name look-up may wait and take, all servers and repetitions together.
    resolve_timeout: Time(seconds(5), millis(100) => seconds(60)), "time" per "look-up";
}

impl Limits {
    /// The limits that the parser needs.
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
        for Row { key, value, .. } in ROWS {
            match value {
                Value::Size(limit) => limit.read(self, (section, key), walk::size, walk::spell_size),
                Value::Count(limit) => {
                    limit.read(self, (section, key), walk::count, |count| count.to_string())
                }
                Value::Time(limit) => limit.read(self, (section, key), walk::duration, walk::spell_duration),
            }
        }
        self.compare(section);
    }

    /// The most that a request which must be complete before it is written can cost in a queue: a head, the longest
    /// body of a request other than SEND (RFC 4975, 7.1), and what is kept beside a head.
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

    /// Limits that are not counted by themselves, and why.
    const UNCOUNTED: [(&str, &str); 4] = [
        ("session_id_bytes_max", "counted as uri_bytes_max"),
        ("queue_bytes_low", "where queue_bytes_high lets go again"),
        ("flush_bytes_max", "how much is written at a time: nothing is refused"),
        ("failure_window", "the time that the failures beside it are counted in"),
    ];

    impl Row {
        /// Default, floor and ceiling as the config spells them, and whether the default lies between them.
        fn spelled(&self) -> (String, String, String, bool) {
            fn all<T: PartialOrd + Copy>(
                Bounds { floor, ceiling, slot }: Bounds<T>,
                spell: impl Fn(T) -> String,
            ) -> (String, String, String, bool) {
                let default = *slot(&mut Limits::default());
                (spell(default), spell(floor), spell(ceiling), floor <= default && default <= ceiling)
            }
            match self.value {
                Value::Size(bounds) => all(bounds, walk::spell_size),
                Value::Count(bounds) => all(bounds, |count| count.to_string()),
                Value::Time(bounds) => all(bounds, walk::spell_duration),
            }
        }
    }

    /// The line of the sample that sets `key`.
    fn sample_line(key: &str) -> &'static str {
        let mut lines = include_str!("../../config.yaml.sample").lines();
        let is_it =
            |line: &&str| line.trim_start().strip_prefix(key).is_some_and(|rest| rest.starts_with(':'));
        lines.rfind(is_it).unwrap_or_default()
    }

    #[test]
    fn the_sample_names_every_limit_with_its_range() {
        for row in ROWS {
            let (_, floor, ceiling, _) = row.spelled();
            let (key, range) = (row.key, format!("# {floor} to {ceiling}"));
            assert!(sample_line(key).contains(&range), "{key}: {range}: {}", sample_line(key));
        }
    }

    #[test]
    fn limits_of_the_documents_are_those_of_the_table() {
        let page = include_str!("../../docs/operate/configuration.md");
        let (_, chapter) = page.split_once("\n## Limits\n").unwrap_or_default();
        let chapter = chapter.split("\n## ").next().unwrap_or_default();
        let rows: Vec<_> = chapter.lines().filter(|line| line.starts_with("| `")).collect();
        for (documented, row) in rows.iter().zip(ROWS) {
            let (default, floor, ceiling, _) = row.spelled();
            let Row { key, unit, per, .. } = row;
            let begin = format!("| `{key}` | {unit} | {per} | {default} | {floor} | {ceiling} | ");
            // What the peer sees.
            let seen = documented.strip_prefix(&begin);
            assert!(
                seen.is_some_and(|seen| seen.len() > 4),
                "to write: {begin}... |\nnot:      {documented}"
            );
        }
        assert_eq!(
            rows.len(),
            ROWS.len(),
            "the chapter must have each limit once, in the order of the table"
        );
    }

    #[test]
    fn every_limit_is_counted_by_its_key_or_says_why_not() {
        use msrp_relay_core::Limit;
        for Row { key, .. } in ROWS {
            let is_counted = Limit::ALL.iter().any(|limit| limit.key() == format!("limits.{key}"));
            let is_excused = UNCOUNTED.iter().any(|(uncounted, _)| uncounted == key);
            assert!(
                is_counted != is_excused,
                "limits.{key}: add it to msrp_relay_core::Limit, or to UNCOUNTED"
            );
        }
        for limit in Limit::ALL {
            let key = limit.key().strip_prefix("limits.");
            let is_known = key.is_none_or(|key| ROWS.iter().any(|row| row.key == key));
            assert!(
                is_known && !sample_line(limit.key().rsplit('.').next().unwrap_or_default()).is_empty(),
                "{limit:?}"
            );
        }
    }

    #[test]
    fn defaults_are_within_their_ranges() {
        for row in ROWS {
            assert!(row.spelled().3, "{}", row.key);
        }
    }
}
