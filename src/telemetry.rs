//! What the outside learns of the relay: log lines, counters, and in `accounting` a record for each session.
//!
//! Invariants: a log line never blocks the thread that writes it. Lines leave through a bounded queue and a
//! thread of their own; when the queue is full they are dropped and counted. A counter is written by the
//! one core that owns its [`Counters`] and read by anybody, without order between two of them.
//! Must not know: what is logged, or why.

mod accounting;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Registry, reload};

use crate::config::{Log, LogFormat, LogLevel};
use crate::relay::Limit;

pub use accounting::{Accounting, AccountingError, Opened, Record, Records};

/// Lines waiting for the writing thread. Full: the line is dropped and counted, nobody waits.
const LINES_WAITING_MAX: usize = 16 * 1024;

/// The running log. `main` keeps it until the end: dropping it writes what still waits, within about a second.
#[must_use = "dropping it ends the log"]
#[derive(Debug)]
pub struct Telemetry {
    dropped: ErrorCounter,
    level: LogControl,
    _writer: WorkerGuard,
}

/// Changes how much is logged, while it is logged; from any thread.
#[derive(Clone, Debug)]
pub struct LogControl {
    filter: reload::Handle<Targets, Registry>,
    level: Arc<Mutex<LogLevel>>,
}

impl LogControl {
    /// From now on lines of this severity and above are written.
    pub fn set(&self, level: LogLevel) {
        let mut now = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        // It fails only if the log is gone, which nobody would read of.
        let _ = self.filter.reload(targets(level));
        *now = level;
    }

    /// The least severe lines that are written.
    #[must_use]
    pub fn level(&self) -> LogLevel {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The process has a log already.
    #[error("the log is set up already")]
    AlreadySet(#[from] TryInitError),
}

impl Telemetry {
    /// Starts logging to standard error.
    ///
    /// # Errors
    /// If the process logs already.
    pub fn start(log: Log) -> Result<Self, TelemetryError> {
        let (subscriber, telemetry) = Self::to(io::stderr(), log);
        subscriber.try_init()?;
        Ok(telemetry)
    }

    /// What changes the level.
    #[must_use]
    pub fn control(&self) -> LogControl {
        self.level.clone()
    }

    fn to(sink: impl io::Write + Send + 'static, log: Log) -> (Subscriber, Self) {
        let (writer, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(LINES_WAITING_MAX)
            .thread_name("log")
            .finish(sink);
        let dropped = writer.error_counter();
        let (subscriber, level) = subscriber(log, writer);
        (subscriber, Self { dropped, level, _writer: guard })
    }

    /// How many lines were dropped because the writing thread fell behind.
    #[must_use]
    pub fn lines_dropped(&self) -> u64 {
        u64::try_from(self.dropped.dropped_lines()).unwrap_or(u64::MAX)
    }
}

type Subscriber = Box<dyn tracing::Subscriber + Send + Sync>;

fn targets(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    // The libraries below us are chatty from info down; what they warn of is worth reading.
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("msrprelay", level)
}

fn subscriber(log: Log, writer: NonBlocking) -> (Subscriber, LogControl) {
    let (filter, handle) = reload::Layer::new(targets(log.level));
    let registry = tracing_subscriber::registry().with(filter);
    let subscriber: Subscriber = match log.format {
        LogFormat::Text => Box::new(registry.with(fmt::layer().with_ansi(false).with_writer(writer))),
        LogFormat::Json => {
            Box::new(registry.with(fmt::layer().json().flatten_event(true).with_writer(writer)))
        }
    };
    (subscriber, LogControl { filter: handle, level: Arc::new(Mutex::new(log.level)) })
}

// -- counters --------------------------------------------------------------------------------------

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

    /// The number now.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Writes the list of counters once instead of four times, so that none is forgotten in a snapshot or a sum.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What one core counts. Aligned to two cache lines, so that no two cores' counters share one.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
            limits_reached: [Counter; Limit::COUNT],
        }

        /// The values of [`Counters`] at one moment, of one core or summed over several.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot {
            $($(#[$doc])* pub $name: u64,)*
            limits_reached: [u64; Limit::COUNT],
        }

        impl Counters {
            /// All values, each exact, but not all of the very same moment.
            #[must_use]
            pub fn snapshot(&self) -> Snapshot {
                let limits_reached = std::array::from_fn(|at| self.limits_reached[at].value());
                Snapshot { $($name: self.$name.value(),)* limits_reached }
            }
        }

        impl Snapshot {
            /// The names and values, in a fixed order.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }

        impl std::ops::Add for Snapshot {
            type Output = Self;

            fn add(self, other: Self) -> Self {
                let limits_reached = std::array::from_fn(|at| {
                    self.limits_reached[at].saturating_add(other.limits_reached[at])
                });
                Self { $($name: self.$name.saturating_add(other.$name),)* limits_reached }
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
    /// Chunks received, counted at their end.
    chunks_in,
    /// Chunks sent on, counted at their end.
    chunks_out,
    /// Body octets received.
    body_bytes_in,
    /// Body octets sent on.
    body_bytes_out,
    /// REPORTs that this relay made itself.
    reports_sent,
    /// Linked pairs with both ends on this core.
    links_local,
    /// Linked pairs with the other end on another core.
    links_split,
    /// Outbound connections attempted.
    dials,
    /// Outbound connections that failed.
    dial_failures,
    /// TLS handshakes completed, inbound and outbound.
    tls_handshakes,
    /// TLS handshakes, and sessions, that ended in an error.
    tls_failures,
    /// Parcels sent to other cores.
    parcels_sent,
    /// Times this core has published these numbers: four a second, whatever else it does. One that stands still belongs
    /// to a core that is dead or stuck.
    heartbeats,
    /// Times this core was started again after a panic.
    core_restarts,
}

/// How often each core publishes what it has counted, and by that shows that it works.
pub const PUBLISHED_EVERY: Duration = Duration::from_millis(250);

impl Counters {
    /// A limit was reached `times` more.
    pub fn limit_reached(&self, limit: Limit, times: u64) {
        self.limits_reached[limit as usize].add(times);
    }
}

impl Snapshot {
    /// How often each limit was reached.
    pub fn limits_reached(&self) -> impl Iterator<Item = (Limit, u64)> {
        Limit::ALL.iter().copied().zip(self.limits_reached)
    }
}

impl std::iter::Sum for Snapshot {
    fn sum<I: Iterator<Item = Self>>(snapshots: I) -> Self {
        snapshots.fold(Self::default(), std::ops::Add::add)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Hands every write to the test, and waits until it may go on.
    struct Sink {
        lines: mpsc::Sender<String>,
        go_on: mpsc::Receiver<()>,
    }

    impl io::Write for Sink {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.lines.send(String::from_utf8_lossy(line).into_owned()).unwrap();
            // A closed channel means: no more waiting.
            let _ = self.go_on.recv();
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn sink() -> (Sink, mpsc::Receiver<String>, mpsc::Sender<()>) {
        let (lines, seen) = mpsc::channel();
        let (release, go_on) = mpsc::channel();
        (Sink { lines, go_on }, seen, release)
    }

    #[test]
    fn a_stuck_log_never_blocks_and_counts_what_it_drops() {
        let (sink, seen, release) = sink();
        let log = Log { level: LogLevel::Info, format: LogFormat::Text };
        let (subscriber, telemetry) = Telemetry::to(sink, log);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("First");
            seen.recv().unwrap();
            for _ in 0..LINES_WAITING_MAX + 10 {
                tracing::info!("Next");
            }
        });
        assert_eq!(telemetry.lines_dropped(), 10);
        drop(release);
        drop(telemetry);
        assert_eq!(seen.iter().count(), LINES_WAITING_MAX);
    }

    #[test]
    fn json_lines_are_json_and_the_level_holds() {
        let (sink, seen, release) = sink();
        let log = Log { level: LogLevel::Warn, format: LogFormat::Json };
        let (subscriber, telemetry) = Telemetry::to(sink, log);
        drop(release);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("Hidden");
            tracing::warn!(session = "abc", "Shown");
        });
        drop(telemetry);
        let lines: Vec<_> = seen.iter().collect();
        assert_eq!(lines.len(), 1);
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(line["session"], "abc");
    }

    #[test]
    fn the_level_changes_while_lines_are_written() {
        let (sink, seen, release) = sink();
        let log = Log { level: LogLevel::Info, format: LogFormat::Text };
        let (subscriber, telemetry) = Telemetry::to(sink, log);
        drop(release);
        let control = telemetry.control();
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("Hidden");
            control.set(LogLevel::Debug);
            tracing::debug!("Shown");
            control.set(LogLevel::Error);
            tracing::warn!("Hidden");
        });
        drop(telemetry);
        let lines: Vec<_> = seen.iter().collect();
        assert!(lines.len() == 1 && lines[0].contains("Shown"), "{lines:?}");
    }

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
}
