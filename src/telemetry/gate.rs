//! How many lines a stranger may put into the log.
//!
//! A line at `info` or above that an unauthenticated peer can cause belongs to a [`Site`] and is written with
//! [`gated!`]. A site lets through so many lines a minute for each source, and so many for all sources together;
//! further lines go to `debug`. The next line that is let through has in `suppressed` how many lines of its site were
//! not.
//!
//! Invariants: all threads of the process share one count; asking allocates nothing and waits for nothing; the memory
//! is fixed, whatever strangers do. Two sources may share a count (there are [`SLOTS`] of them, found by a keyed hash),
//! which makes them stricter, never looser. Must not know what the lines say.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use msrp_relay_core::Limit;

/// How long lines are counted together, from the first one on.
pub const WINDOW_SECONDS: u32 = 60;
/// Counts for sources at each site. A flood from more sources than that meets the bound for all sources first.
const SLOTS: usize = 1024;

/// How many lines a site lets through within [`WINDOW_SECONDS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    /// From one source.
    pub per_source: u32,
    /// From all of them together.
    pub all: u32,
}

/// Writes the list of sites once instead of three times.
macro_rules! sites {
    ($($(#[$doc:meta])* $name:ident = $per_source:literal of $all:literal,)*) => {
        /// Lines that are counted together.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Site {
            $($(#[$doc])* $name,)*
        }

        impl Site {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// What it lets through.
            #[must_use]
            pub fn quota(self) -> Quota {
                match self {
                    $(Self::$name => Quota { per_source: $per_source, all: $all },)*
                }
            }
        }
    };
}

sites! {
    /// A refused AUTH, with `auth.log_failures`, by address. fail2ban counts these: an address must be able to reach
    /// any sensible `maxretry` within a minute or two.
    AuthRefused = 20 of 600,
    /// A client's certificate is not a relay's, by address.
    NotARelay = 1 of 30,
    /// A page of a host that is not in `websocket.origins`, by address.
    Origin = 1 of 30,
    /// Several frames in one WebSocket message, by address.
    SeveralFrames = 1 of 30,
    /// TLS cannot encrypt, by address.
    CannotEncrypt = 1 of 10,
    /// TLS cannot be begun for an accepted connection: the reason is the same for all of them.
    CannotBeginTls = 1 of 1,
    /// No descriptor is left for a connection.
    CannotAccept = 1 of 1,
    /// A connection cannot be passed on during an upgrade, by address.
    CannotPassOn = 1 of 30,
    /// A next hop cannot be reached, by its host. A client with a session causes it; one client may name many hosts.
    NextHop = 5 of 120,
    /// An account exists twice, by the given user name.
    SeveralAccounts = 1 of 10,
    /// An account was asked for in a realm that has none, by the realm. An unauthenticated client causes it.
    RealmWithoutAccounts = 1 of 5,
    /// A look-up panicked.
    LookUpPanicked = 1 of 10,
    /// A thread panicked, by place. A core that panics repeatedly rests longer each time; a look-up does not.
    Panicked = 10 of 30,
    /// The metrics cannot be served.
    Metrics = 1 of 1,
    /// Warnings of the libraries below us.
    Library = 60 of 60,
}

/// The source of a line, as far as lines are counted.
#[derive(Clone, Copy, Debug)]
pub struct Source(u64);

impl Source {
    /// One for all.
    pub const ANY: Self = Self(0);

    /// A canonical address; a /56 of IPv6 is one, as it is for the limits.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::of(&v4),
            IpAddr::V6(v6) => Self::of(&v6.octets()[..7]),
        }
    }

    /// Anything else that tells sources apart.
    #[must_use]
    pub fn of<T: Hash + ?Sized>(what: &T) -> Self {
        // Keyed: a stranger cannot find sources that share a count.
        static KEY: OnceLock<RandomState> = OnceLock::new();
        Self(KEY.get_or_init(RandomState::new).hash_one(what))
    }
}

/// A count since a moment: the moment and the count in one word, so that they change together.
#[derive(Debug)]
struct Window(AtomicU64);

impl Window {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Takes one of `quota`, if one is left.
    fn take(&self, now: u32, quota: u32) -> bool {
        let next = |word: u64| {
            // Both halves fit by construction.
            let (since, count) = ((word >> 32) as u32, word as u32);
            match count {
                0 => Some(u64::from(now) << 32 | 1),
                _ if now.wrapping_sub(since) >= WINDOW_SECONDS => Some(u64::from(now) << 32 | 1),
                _ if count < quota => Some(word + 1),
                _ => None,
            }
        };
        self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

/// The state of one site.
#[derive(Debug)]
struct Gate {
    all: Window,
    sources: [Window; SLOTS],
    suppressed: AtomicU64,
}

impl Gate {
    const fn new() -> Self {
        Self { all: Window::new(), sources: [const { Window::new() }; SLOTS], suppressed: AtomicU64::new(0) }
    }

    /// Whether a line may be written; if so, how many were not since the last one.
    fn pass(&self, quota: Quota, now: u32, source: Source) -> Option<u64> {
        // The source first: its excess takes nothing from the others.
        let slot = self.sources.get(source.0 as usize % SLOTS)?;
        if slot.take(now, quota.per_source) && self.all.take(now, quota.all) {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

static GATES: [Gate; Site::ALL.len()] = [const { Gate::new() }; Site::ALL.len()];

/// Each limit has its own count: no line about one may hide a line about another.
static LIMITS: [(Window, AtomicU64); Limit::COUNT] =
    [const { (Window::new(), AtomicU64::new(0)) }; Limit::COUNT];

/// Lines that went to `debug` since the process began.
static SUPPRESSED: AtomicU64 = AtomicU64::new(0);

/// How many lines were not written at their own level since the process began.
#[must_use]
pub fn lines_suppressed() -> u64 {
    SUPPRESSED.load(Ordering::Relaxed)
}

/// Whether a line of this site may be written; if so, how many were not since the last one. Use `gated!`.
#[must_use]
pub fn pass(site: Site, source: Source) -> Option<u64> {
    counted(GATES.get(site as usize).and_then(|gate| gate.pass(site.quota(), now(), source)))
}

/// The same for the line about a limit: one within [`WINDOW_SECONDS`] for each of them.
#[must_use]
pub(crate) fn pass_limit(limit: Limit) -> Option<u64> {
    let (window, suppressed) = LIMITS.get(limit as usize)?;
    if window.take(now(), 1) {
        return Some(suppressed.swap(0, Ordering::Relaxed));
    }
    // Not among the suppressed lines: the metrics count each limit by its key.
    suppressed.fetch_add(1, Ordering::Relaxed);
    None
}

fn counted(passed: Option<u64>) -> Option<u64> {
    if passed.is_none() {
        SUPPRESSED.fetch_add(1, Ordering::Relaxed);
    }
    passed
}

/// Seconds since the first question; wraps after a century.
fn now() -> u32 {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    BEGAN.get_or_init(Instant::now).elapsed().as_secs() as u32
}

/// Writes a line at `$level` as far as its site lets it through, at `debug` otherwise.
macro_rules! gated {
    ($level:ident, $site:expr, $source:expr, { $($fields:tt)* }, $message:literal) => {
        match $crate::telemetry::pass($site, $source) {
            Some(suppressed) => {
                let suppressed = (suppressed > 0).then_some(suppressed);
                tracing::$level!({ $($fields)*, suppressed }, $message);
            }
            None => tracing::debug!({ $($fields)* }, $message),
        }
    };
}
pub(crate) use gated;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    /// More than any site lets through.
    const FLOOD: u32 = 5000;

    #[test]
    fn every_site_bounds_the_lines_of_one_source_and_of_all_and_counts_the_rest() {
        for site in Site::ALL {
            let (gate, quota) = (Box::new(Gate::new()), site.quota());
            assert!(0 < quota.per_source && quota.per_source <= quota.all && quota.all < FLOOD, "{site:?}");
            let one = Source::of("one");
            let passed = (0..FLOOD).filter_map(|_| gate.pass(quota, 7, one)).count();
            assert_eq!(passed, quota.per_source as usize, "{site:?}: one source");
            let others = (0..FLOOD).filter_map(|n| gate.pass(quota, 7, Source::of(&n)));
            // The first line of the others reports what the flooding source had too many.
            let told: Vec<u64> = others.collect();
            assert!(told.len() <= (quota.all - quota.per_source) as usize, "{site:?}: all sources");
            let untold = u64::from(2 * FLOOD) - (passed + told.len()) as u64 - told.iter().sum::<u64>();
            let later = 7 + WINDOW_SECONDS;
            assert_eq!(gate.pass(quota, later - 1, one), None, "{site:?}");
            assert_eq!(gate.pass(quota, later, one), Some(untold + 1), "{site:?}: the next minute");
        }
    }

    #[test]
    fn one_source_takes_nothing_from_the_others() {
        let (gate, quota) = (Box::new(Gate::new()), Site::AuthRefused.quota());
        let [flood, other] = ["192.0.2.1", "192.0.2.2"].map(|a| Source::address(a.parse().unwrap()));
        // Two sources may share a count, and then the test sees nothing.
        if flood.0 as usize % SLOTS == other.0 as usize % SLOTS {
            return;
        }
        for _ in 0..FLOOD {
            let _ = gate.pass(quota, 0, flood);
        }
        let passed = (0..FLOOD).filter_map(|_| gate.pass(quota, 0, other)).count();
        assert_eq!(passed, quota.per_source as usize);
    }

    #[test]
    fn addresses_of_one_network_of_ipv6_are_one_source() {
        let source = |address: &str| Source::address(address.parse().unwrap()).0;
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:2"));
        assert_eq!(source("2001:db8::1"), source("2001:db8:0:ff::1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:100::1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    }

    #[test]
    fn threads_share_one_count() {
        let (window, quota) = (Window::new(), 100);
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..FLOOD).filter(|_| window.take(0, quota)).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, quota as usize);
    }
}
