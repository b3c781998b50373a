//! What each core counts.
//!
//! Invariant: a counter is written by the one core that owns its [`Counters`] and read by any thread, without order between
//! two of them. Must not know: what is counted, or why.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use msrp_relay_core::Limit;

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

    /// Makes it this number: for what is measured now and then, not counted.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Writes the list of counters once instead of four times, so that none is forgotten in a snapshot or a sum: single
/// ones, then those that are counted by kind.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)* ; by kind: $($(#[$kinds_doc:meta])* $kinds:ident[$count:expr],)*) => {
        /// What one core counts. Aligned to two cache lines, so that no two cores' counters share one.
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
    /// Connections open now, both accepted and dialled.
    connections_open,
    /// Sessions opened by a successful AUTH.
    sessions_opened,
    /// Sessions open now.
    sessions_open,
    /// AUTH requests answered 200.
    auth_ok,
    /// AUTH requests refused after a digest was checked.
    auth_failed,
    /// AUTH requests without credentials, or with a challenge that is over, that were challenged.
    auth_challenged,
    /// AUTH requests whose Expires is out of bounds.
    auth_out_of_bounds,
    /// Chunks received, counted at their end.
    chunks_in,
    /// Chunks sent on, counted at their end.
    chunks_out,
    /// Body bytes received.
    body_bytes_in,
    /// Body bytes sent on.
    body_bytes_out,
    /// REPORTs that this relay made itself.
    reports_sent,
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
    /// Connections passed to the core of the session that their first request names.
    connections_handed_over,
    /// Connections passed on to another process of this relay.
    connections_passed_on,
    /// Messages sent to other cores.
    messages_sent,
    /// Times this core has published these numbers: four a second, whatever else it does. One that stands still belongs
    /// to a core that is dead or stuck.
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
    /// Buffers for reads that were there when they were needed.
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
    /// AUTH requests refused, by [`STATUSES`], then all others.
    auth_refused[STATUSES.len() + 1],
    /// REPORTs of this relay's own, likewise.
    reports[STATUSES.len() + 1],
    /// How account look-ups ended, by [`LookUpEnd::ALL`].
    look_ups[LookUpEnd::ALL.len()],
    /// How name look-ups ended, likewise.
    resolves[LookUpEnd::ALL.len()],
    /// Account look-ups by the time they took: up to each of [`LOOK_UP_SECONDS`], then longer.
    look_up_times[LOOK_UP_SECONDS.len() + 1],
    /// Name look-ups, likewise.
    resolve_times[LOOK_UP_SECONDS.len() + 1],
}

/// The status codes that are counted one by one: those that the relay itself has a use for.
pub const STATUSES: [u16; 10] = [400, 401, 403, 408, 413, 415, 423, 481, 501, 506];

/// The upper bounds, in seconds, by which look-ups are sorted. The last is that of `limits.lookup_timeout` as a rule.
pub const LOOK_UP_SECONDS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// How a look-up on the control plane ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LookUpEnd {
    /// There is what was asked for.
    Found,
    /// There is not.
    Unknown,
    /// Too many wait already.
    Busy,
    /// It took too long.
    Late,
    /// Who was asked fails.
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

/// How often each core publishes what it has counted, and by that shows that it works.
pub const PUBLISHED_EVERY: Duration = Duration::from_millis(250);

impl Counters {
    /// A limit was reached `times` more.
    pub fn limit_reached(&self, limit: Limit, times: u64) {
        self.limits_reached[limit as usize].add(times);
    }

    /// An AUTH was refused with this code.
    pub fn auth_refused(&self, code: u16) {
        self.auth_refused[status_index(code)].add(1);
    }

    /// A REPORT of our own was sent with this code.
    pub fn report_sent(&self, code: u16) {
        self.reports[status_index(code)].add(1);
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

    /// How many AUTHs were refused with each code; `None` stands for all codes not in [`STATUSES`].
    pub fn auth_refused(&self) -> impl Iterator<Item = (Option<u16>, u64)> {
        STATUSES.into_iter().map(Some).chain([None]).zip(self.auth_refused)
    }

    /// How many REPORTs of our own had each code, likewise.
    pub fn reports(&self) -> impl Iterator<Item = (Option<u16>, u64)> {
        STATUSES.into_iter().map(Some).chain([None]).zip(self.reports)
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
        assert!(LOOK_UP_SECONDS.is_sorted() && STATUSES.is_sorted());
    }
}
