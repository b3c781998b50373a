//! The counters of each core.
//!
//! Invariants: the core that owns a [`Counters`] writes to it, and the supervisor, where a dead core cannot: `up` and
//! `core_restarts`. Any thread reads it, without order between two counters. Which metric shows which counter is in
//! `ops::metrics`; a test finds a counter that none shows, and one that nothing counts.
//! Must not know: when anything is counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use msrp_relay_core::{Limit, Stay};

/// A number that only counts. Relaxed throughout: readers want a figure, not an order.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts `n` fewer: for what opens and closes. Never more than was added.
    pub fn sub(&self, n: u64) {
        let before = self.0.fetch_sub(n, Ordering::Relaxed);
        debug_assert!(before >= n, "a gauge went below zero");
    }

    /// Sets it to this number: for figures that are measured from time to time, not counted.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The present number.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Writes the list of counters once instead of four times, so that none is forgotten in a snapshot or a sum: first the
/// single ones, then those counted by kind.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)* ; by kind: $($(#[$kinds_doc:meta])* $kinds:ident[$count:expr],)*) => {
        /// The counters of one core. Aligned to two cache lines, so that no two cores' counters share one.
        #[derive(Debug)]
        #[repr(align(128))]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
            $($(#[$kinds_doc])* $kinds: [Counter; $count],)*
        }

        // Not derived: arrays of more than 32 have no default.
        impl Default for Counters {
            fn default() -> Self {
                Self {
                    $($name: Counter::default(),)*
                    $($kinds: std::array::from_fn(|_| Counter::default()),)*
                }
            }
        }

        /// The values of [`Counters`] at one moment, of one core or summed over several.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Snapshot {
            $($(#[$doc])* pub $name: u64,)*
            $($(#[$kinds_doc])* $kinds: [u64; $count],)*
        }

        impl Default for Snapshot {
            fn default() -> Self {
                Self { $($name: 0,)* $($kinds: [0; $count],)* }
            }
        }

        impl Counters {
            /// All values, each exact, but not all of the very same moment.
            #[must_use]
            pub fn snapshot(&self) -> Snapshot {
                Snapshot {
                    $($name: self.$name.value(),)*
                    $($kinds: std::array::from_fn(|at| self.$kinds[at].value()),)*
                }
            }
        }

        impl Snapshot {
            /// Every number by the name of its counter, all kinds of one in a row, so that a test can try each alone.
            pub fn each_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut u64)> {
                let single = [$((stringify!($name), &mut self.$name),)*].into_iter();
                single$(.chain(self.$kinds.iter_mut().map(|number| (stringify!($kinds), number))))*
            }

            /// The names and values of the single ones, in a fixed order.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }

        impl std::ops::Add for Snapshot {
            type Output = Self;

            fn add(self, other: Self) -> Self {
                Self {
                    $($name: self.$name.saturating_add(other.$name),)*
                    $($kinds: std::array::from_fn(|at| self.$kinds[at].saturating_add(other.$kinds[at])),)*
                }
            }
        }
    };
}

counters! {
    /// Connections accepted, handed-over ones on the core that accepted them.
    connections_accepted,
    /// Open connections, both accepted and dialled.
    connections_open,
    /// Sessions opened by a successful AUTH.
    sessions_opened,
    /// Open sessions.
    sessions_open,
    /// Sessions that came from another core, to the one that they are bound to.
    sessions_moved,
    /// AUTH requests answered 200.
    auth_ok,
    /// AUTH requests that were challenged: without credentials, or with an expired challenge.
    auth_challenged,
    /// AUTH requests whose Expires is out of bounds.
    auth_out_of_bounds,
    /// Chunks received, counted at their head.
    chunks_in,
    /// Chunks sent on, the pieces of one that was cut each for itself, counted at their head.
    chunks_out,
    /// Body bytes received.
    body_bytes_in,
    /// Body bytes sent on.
    body_bytes_out,
    /// Sessions bound to another side, a connection or a session, on this core.
    links_local,
    /// Sessions bound to another side on another core.
    links_split,
    /// Outbound connections attempted.
    dials,
    /// Outbound connections that failed.
    dial_failures,
    /// Handshakes of TLS 1.2 completed, inbound and outbound.
    tls12_handshakes,
    /// Handshakes of TLS 1.3 completed, inbound and outbound.
    tls13_handshakes,
    /// Inbound connections from relays that have proven their names.
    relays_recognised,
    /// TLS handshakes that ended in an error.
    tls_handshake_failures,
    /// TLS connections that ended in an error after their handshake.
    tls_record_failures,
    /// Connections upgraded to WebSocket.
    websocket_upgrades,
    /// Requests to a WebSocket listener that were refused.
    websocket_refusals,
    /// WebSocket clients given up because they answered no ping.
    websocket_pings_unanswered,
    /// WebSocket connections open now.
    websocket_open,
    /// Connections passed to the core of the session that their first request names.
    connections_handed_over,
    /// Connections passed on to another process of this relay.
    connections_passed_on,
    /// Messages sent to other cores.
    messages_sent,
    /// Quarters of a second that this core has lived through, told as it publishes. A core whose number stands still is
    /// dead or stuck.
    heartbeats,
    /// Times this core was started again after a panic.
    core_restarts,
    /// 1 while this core's thread runs, 0 while it rests after a panic. Written by the supervisor.
    up,
    /// CPU time of this core's thread, in nanoseconds, over all its lives.
    busy_nanoseconds,
    /// Bytes received and not yet written on or dropped.
    queue_bytes,
    /// Deliveries of other cores that wait in this core's inbox.
    inbox_waiting,
    /// Messages for other cores that found an inbox full.
    outbox_waiting,
    /// Buffers for reads that are free.
    read_buffers_spare,
    /// Buffers for reads that were found ready.
    read_buffers_reused,
    /// Buffers for reads that had to be allocated.
    read_buffers_allocated,
    /// Buffers for writes that are free.
    write_buffers_spare,
    /// Microseconds that account look-ups took, all together.
    look_up_microseconds,
    /// Microseconds that name look-ups took, all together.
    resolve_microseconds,
    ;

    by kind:

    /// How often each limit was reached, by [`Limit::ALL`].
    limits_reached[Limit::COUNT],
    /// Sessions that stayed though they are for one on another core, by [`Stay::ALL`].
    sessions_stayed[Stay::COUNT],
    /// AUTH requests refused, by [`STATUSES`], then all others.
    auth_refused[STATUSES.len() + 1],
    /// REPORTs of this relay's own, likewise.
    reports[STATUSES.len() + 1],
    /// What became of credentials that expire by themselves, by [`CredentialEnd::ALL`].
    credentials[CredentialEnd::ALL.len()],
    /// How account look-ups ended, by [`LookUpEnd::ALL`].
    look_ups[LookUpEnd::ALL.len()],
    /// How name look-ups ended, likewise.
    resolves[LookUpEnd::ALL.len()],
    /// Account look-ups by the time they took: up to each of [`LOOK_UP_SECONDS`], then longer.
    look_up_times[LOOK_UP_SECONDS.len() + 1],
    /// Name look-ups, likewise.
    resolve_times[LOOK_UP_SECONDS.len() + 1],
}

/// The status codes that are counted one by one: those that the relay itself uses.
pub const STATUSES: [u16; 10] = [400, 401, 403, 408, 413, 415, 423, 481, 501, 506];

/// The upper bounds, in seconds, by which look-ups are sorted. The last one is the usual `limits.lookup_timeout`.
pub const LOOK_UP_SECONDS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// How a look-up on the control plane ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LookUpEnd {
    /// The account or name exists.
    Found,
    /// It does not.
    Unknown,
    /// Too many wait already.
    Busy,
    /// It took too long.
    Late,
    /// The backend or name server failed.
    Failed,
}

impl LookUpEnd {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 5] = [Self::Found, Self::Unknown, Self::Busy, Self::Late, Self::Failed];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Unknown => "unknown",
            Self::Busy => "busy",
            Self::Late => "late",
            Self::Failed => "failed",
        }
    }
}

/// What became of a credential that expires by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CredentialEnd {
    /// It was good.
    Good,
    /// It was good once.
    Expired,
    /// It is good for longer than it may be.
    TooLong,
    /// It names no user, and must.
    NoUser,
    /// No secret has signed it.
    Wrong,
}

impl CredentialEnd {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 5] = [Self::Good, Self::Expired, Self::TooLong, Self::NoUser, Self::Wrong];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Expired => "expired",
            Self::TooLong => "too_long",
            Self::NoUser => "no_user",
            Self::Wrong => "wrong",
        }
    }
}

/// How often each core publishes its counters, which also shows that it works.
pub const PUBLISHED_EVERY: Duration = Duration::from_millis(250);

impl Counters {
    /// A limit was reached `times` more.
    pub fn limit_reached(&self, limit: Limit, times: u64) {
        self.limits_reached[limit as usize].add(times);
    }

    /// So many sessions more have stayed where they are.
    pub fn session_stayed(&self, why: Stay, times: u64) {
        self.sessions_stayed[why as usize].add(times);
    }

    /// An AUTH was refused with this code.
    pub fn auth_refused(&self, code: u16) {
        self.auth_refused[status_index(code)].add(1);
    }

    /// A REPORT of our own was sent with this code.
    pub fn report_sent(&self, code: u16) {
        self.reports[status_index(code)].add(1);
    }

    /// A credential that expires by itself was judged.
    pub fn credential_judged(&self, end: CredentialEnd) {
        self.credentials[end as usize].add(1);
    }

    /// An account was looked up.
    pub fn looked_up(&self, end: LookUpEnd, took: Duration) {
        self.look_ups[end as usize].add(1);
        self.look_up_times[bucket(took)].add(1);
        self.look_up_microseconds.add(microseconds(took));
    }

    /// A host name was looked up.
    pub fn resolved(&self, end: LookUpEnd, took: Duration) {
        self.resolves[end as usize].add(1);
        self.resolve_times[bucket(took)].add(1);
        self.resolve_microseconds.add(microseconds(took));
    }
}

fn status_index(code: u16) -> usize {
    STATUSES.iter().position(|known| *known == code).unwrap_or(STATUSES.len())
}

fn bucket(took: Duration) -> usize {
    let seconds = took.as_secs_f64();
    LOOK_UP_SECONDS.iter().position(|bound| seconds <= *bound).unwrap_or(LOOK_UP_SECONDS.len())
}

fn microseconds(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

/// Look-ups of one kind: how they ended, and how long they took.
#[derive(Clone, Copy, Debug)]
pub struct LookUps {
    /// By [`LookUpEnd::ALL`].
    pub ends: [u64; LookUpEnd::ALL.len()],
    /// Up to each of [`LOOK_UP_SECONDS`] but longer than the one before, then longer than all of them.
    pub times: [u64; LOOK_UP_SECONDS.len() + 1],
    /// All together, in microseconds.
    pub microseconds: u64,
}

impl Snapshot {
    /// How often each limit was reached.
    pub fn limits_reached(&self) -> impl Iterator<Item = (Limit, u64)> {
        Limit::ALL.iter().copied().zip(self.limits_reached)
    }

    /// How many sessions stayed though they are for one on another core, by why.
    pub fn sessions_stayed(&self) -> impl Iterator<Item = (Stay, u64)> {
        Stay::ALL.into_iter().zip(self.sessions_stayed)
    }

    /// How many AUTHs were refused with each code; `None` stands for all codes not in [`STATUSES`].
    pub fn auth_refused(&self) -> impl Iterator<Item = (Option<u16>, u64)> {
        STATUSES.into_iter().map(Some).chain([None]).zip(self.auth_refused)
    }

    /// How many REPORTs of our own had each code, likewise.
    pub fn reports(&self) -> impl Iterator<Item = (Option<u16>, u64)> {
        STATUSES.into_iter().map(Some).chain([None]).zip(self.reports)
    }

    /// What became of credentials that expire by themselves.
    pub fn credentials(&self) -> impl Iterator<Item = (CredentialEnd, u64)> {
        CredentialEnd::ALL.into_iter().zip(self.credentials)
    }

    /// Account look-ups.
    #[must_use]
    pub fn look_ups(&self) -> LookUps {
        LookUps { ends: self.look_ups, times: self.look_up_times, microseconds: self.look_up_microseconds }
    }

    /// Name look-ups.
    #[must_use]
    pub fn resolves(&self) -> LookUps {
        LookUps { ends: self.resolves, times: self.resolve_times, microseconds: self.resolve_microseconds }
    }
}

impl std::iter::Sum for Snapshot {
    fn sum<I: Iterator<Item = Self>>(snapshots: I) -> Self {
        snapshots.fold(Self::default(), std::ops::Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_add_up() {
        let (one, two) = (Counters::default(), Counters::default());
        one.chunks_in.add(3);
        one.connections_open.add(2);
        one.connections_open.sub(1);
        two.chunks_in.add(4);
        let sum: Snapshot = [one.snapshot(), two.snapshot()].into_iter().sum();
        assert_eq!((sum.chunks_in, sum.connections_open, sum.core_restarts), (7, 1, 0));
        assert_eq!(sum.iter().find(|(name, _)| *name == "chunks_in"), Some(("chunks_in", 7)));
    }

    #[test]
    fn what_is_counted_by_kind_finds_its_place() {
        let (one, two) = (Counters::default(), Counters::default());
        one.auth_refused(403);
        two.auth_refused(403);
        one.report_sent(777);
        one.looked_up(LookUpEnd::Found, Duration::from_micros(500));
        two.looked_up(LookUpEnd::Late, Duration::from_secs(6));
        two.resolved(LookUpEnd::Unknown, Duration::from_micros(501));
        let sum: Snapshot = [one.snapshot(), two.snapshot()].into_iter().sum();
        assert_eq!(sum.auth_refused().filter(|(_, n)| *n > 0).collect::<Vec<_>>(), [(Some(403), 2)]);
        assert_eq!(sum.reports().filter(|(_, n)| *n > 0).collect::<Vec<_>>(), [(None, 1)]);
        let look_ups = sum.look_ups();
        assert_eq!(look_ups.ends, [1, 0, 0, 1, 0]);
        assert_eq!((look_ups.times[0], look_ups.times[LOOK_UP_SECONDS.len()]), (1, 1));
        assert_eq!(look_ups.microseconds, 6_000_500);
        assert_eq!((sum.resolves().ends[1], sum.resolves().times[1]), (1, 1));
    }

    #[test]
    fn kinds_are_listed_in_the_order_of_their_counters() {
        for (at, end) in LookUpEnd::ALL.into_iter().enumerate() {
            assert_eq!(end as usize, at);
        }
        for (at, end) in CredentialEnd::ALL.into_iter().enumerate() {
            assert_eq!(end as usize, at);
        }
        assert!(LOOK_UP_SECONDS.is_sorted() && STATUSES.is_sorted());
    }
}
