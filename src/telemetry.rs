//! What the outside learns of the relay: log lines (in `line` what they look like, in `gate` how many of them strangers may
//! cause), counters, and in `accounting` a record for each session.
//!
//! Invariants: a log line never blocks the thread that writes it. Lines leave through a bounded queue and a
//! thread of their own; when the queue is full they are dropped and counted. A counter is written by the
//! one core that owns its [`Counters`] and read by anybody, without order between two of them.
//! Must not know: what is logged, or why.

mod accounting;
mod gate;
mod line;

use std::backtrace::Backtrace;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Registry, reload};

use crate::config::{Log, LogFormat, LogLevel};
use crate::relay::Limit;
use crate::text::{self, Form};
use line::{Line, OURS};

pub use accounting::{Accounting, AccountingError, Opened, Record, Records};
pub use gate::{Quota, Site, Source, WINDOW_SECONDS, lines_suppressed, pass};
pub(crate) use gate::{gated, pass_limit};

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
        let (subscriber, telemetry) = Self::to(io::stderr(), log, is_read_by_journal());
        subscriber.try_init()?;
        Ok(telemetry)
    }

    /// What changes the level.
    #[must_use]
    pub fn control(&self) -> LogControl {
        self.level.clone()
    }

    fn to(sink: impl io::Write + Send + 'static, log: Log, journal: bool) -> (Subscriber, Self) {
        let (writer, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(LINES_WAITING_MAX)
            .thread_name("log")
            .finish(sink);
        let dropped = writer.error_counter();
        let (subscriber, level) = subscriber(log, journal, writer);
        (subscriber, Self { dropped, level, _writer: guard })
    }

    /// How many lines were dropped because the writing thread fell behind.
    #[must_use]
    pub fn lines_dropped(&self) -> u64 {
        self.lines_dropped_later()()
    }

    /// The same, to be asked again and again by somebody else.
    pub fn lines_dropped_later(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let dropped = self.dropped.clone();
        move || u64::try_from(dropped.dropped_lines()).unwrap_or(u64::MAX)
    }
}

/// Whether standard error leads to the journal: systemd names the device and the inode that it has given to a service.
/// Then a line may begin with its priority, and needs no time.
#[must_use]
pub fn is_read_by_journal() -> bool {
    let Some(named) = std::env::var_os("JOURNAL_STREAM") else { return false };
    let opened = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    // A service may have sent its standard error elsewhere since.
    opened
        .and_then(|file| file.metadata())
        .is_ok_and(|file| named.to_str() == Some(&format!("{}:{}", file.dev(), file.ino())))
}

/// What a line of standard error begins with where it is not written by the log, and tells of an error.
#[must_use]
pub fn error_prefix() -> &'static str {
    if is_read_by_journal() { "<3>" } else { "" }
}

/// From now on a panic of any thread is a line in the log, with where it happened and the calls that led there, and not
/// a paragraph on standard error that no log reader takes for one. What comes of the panic is not decided here.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("a panic without words");
        let location = panic.location().map(tracing::field::display);
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        // One of its own, whatever RUST_BACKTRACE says: this is rare, and never asked for twice.
        let backtrace = Backtrace::force_capture();
        let source = Source::of(&panic.location().map(|at| (at.file(), at.line())));
        gated!(error, Site::Panicked, source, { thread, reason = message, location, %backtrace }, "A thread panicked");
    }));
}

type Subscriber = Box<dyn tracing::Subscriber + Send + Sync>;

fn targets(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    // The libraries below us are chatty from info down; what they warn of is worth reading, and bounded in `line`.
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_target(OURS, level)
}

fn subscriber(log: Log, journal: bool, writer: NonBlocking) -> (Subscriber, LogControl) {
    let (filter, handle) = reload::Layer::new(targets(log.level));
    let form = match log.format {
        LogFormat::Text => Form::Text,
        LogFormat::Json => Form::Json,
    };
    let lines = fmt::layer()
        .event_format(Line { format: log.format, journal })
        .with_writer(SafeLines { to: writer, form });
    let registry = tracing_subscriber::registry().with(filter).with(lines);
    (Box::new(registry), LogControl { filter: handle, level: Arc::new(Mutex::new(log.level)) })
}

/// Makes every line safe, whatever a peer has put into it: one event is one line, and no terminal obeys it.
struct SafeLines {
    to: NonBlocking,
    form: Form,
}

impl<'a> MakeWriter<'a> for SafeLines {
    type Writer = SafeLine<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        SafeLine(self)
    }
}

struct SafeLine<'a>(&'a SafeLines);

impl io::Write for SafeLine<'_> {
    /// The subscriber writes each event whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.to.clone().write_all(&text::safe_line(line, self.0.form))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
    /// Body octets received.
    body_bytes_in,
    /// Body octets sent on.
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
    /// Parcels sent to other cores.
    parcels_sent,
    /// Times this core has published these numbers: four a second, whatever else it does. One that stands still belongs
    /// to a core that is dead or stuck.
    heartbeats,
    /// Times this core was started again after a panic.
    core_restarts,
    /// 1 while this core's thread runs, 0 while it rests after a panic. Written by the supervisor.
    up,
    /// CPU time of this core's thread, in nanoseconds, over all its lives.
    busy_nanoseconds,
    /// Octets received and not yet written on or dropped.
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

/// What there is to see of a running relay at one moment.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// What each core has counted.
    pub cores: Vec<Snapshot>,
    /// Whether accounts can be asked.
    pub accounts_ready: bool,
    /// Account look-ups that wait for their turn.
    pub look_ups_waiting: usize,
    /// Name look-ups that wait for their turn.
    pub resolves_waiting: usize,
    /// Sessions of the process before this one, while it drains.
    pub predecessor_sessions: u64,
    /// Connects to next hops that wait for their turn.
    pub dials_waiting: usize,
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
    use crate::config::LogFormat;

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
        let (subscriber, telemetry) = Telemetry::to(sink, log, false);
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
        let (subscriber, telemetry) = Telemetry::to(sink, log, false);
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
    fn an_event_is_one_line_of_plain_text_whatever_a_peer_put_into_it() {
        const EVIL: &str =
            "a\u{1b}[2J\u{9b}\u{7f}\u{202e}\u{2028}\n2026-01-01T00:00:00Z ERROR msrprelay: forged";
        for format in [LogFormat::Text, LogFormat::Json] {
            let (sink, seen, release) = sink();
            let (subscriber, telemetry) = Telemetry::to(sink, Log { level: LogLevel::Info, format }, false);
            drop(release);
            tracing::subscriber::with_default(subscriber, || {
                tracing::info!(reason = %EVIL, user = EVIL, "Told: {EVIL}");
            });
            drop(telemetry);
            let lines: Vec<_> = seen.iter().collect();
            let line = lines.first().and_then(|line| line.strip_suffix('\n')).unwrap();
            assert!(lines.len() == 1 && line.chars().all(text::is_plain), "{lines:?}");
            if format == LogFormat::Json {
                let value: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(value["user"], EVIL);
            }
        }
    }

    #[test]
    fn the_level_changes_while_lines_are_written() {
        let (sink, seen, release) = sink();
        let log = Log { level: LogLevel::Info, format: LogFormat::Text };
        let (subscriber, telemetry) = Telemetry::to(sink, log, false);
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
