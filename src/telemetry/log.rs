//! Writes log lines: from any thread, in a safe form, at a level that can change while the relay runs.
//!
//! Invariant: a log line never blocks the thread that writes it. Lines leave through a bounded queue and a thread of
//! their own; when the queue is full they are dropped and counted. Must not know what is logged, or why.

use std::backtrace::Backtrace;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Registry, reload};

use super::gate::{Site, Source, gated};
use super::line::{Line, OURS};
use crate::config::{Log, LogFormat, LogLevel};
use untrusted::text::{self, Form};

/// Lines waiting for the writing thread. Full: the line is dropped and counted, no thread waits.
const LINES_WAITING_MAX: usize = 16 * 1024;

/// The running log. `main` keeps it until the end: dropping it writes what still waits, within about a second.
#[must_use = "dropping it ends the log"]
#[derive(Debug)]
pub struct Telemetry {
    dropped: ErrorCounter,
    level: LogControl,
    _writer: WorkerGuard,
}

/// Changes the log's level while it runs; from any thread.
#[derive(Clone, Debug)]
pub struct LogControl {
    filter: reload::Handle<Targets, Registry>,
    level: Arc<Mutex<LogLevel>>,
}

impl LogControl {
    /// From here on, lines of this severity and above are written.
    pub fn set(&self, level: LogLevel) {
        let mut now = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        // Fails only if the log is gone.
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

    /// The handle that changes the level.
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

    /// The same, for repeated use from any thread.
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
    // A service may have redirected its standard error since.
    opened
        .and_then(|file| file.metadata())
        .is_ok_and(|file| named.to_str() == Some(&format!("{}:{}", file.dev(), file.ino())))
}

/// The prefix of an error line on standard error that the log does not write.
#[must_use]
pub fn error_prefix() -> &'static str {
    if is_read_by_journal() { "<3>" } else { "" }
}

/// From here on, a panic of any thread is a line in the log, with its place and its backtrace, instead of a paragraph
/// on standard error that no log reader understands. Does not decide what follows from the panic.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("a panic without words");
        let location = panic.location().map(tracing::field::display);
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        // Captured whatever RUST_BACKTRACE says: a panic is rare, and the chance does not come twice.
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
    // The libraries below us log much at info and below; their warnings are worth reading, and bounded in `line`.
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
}
