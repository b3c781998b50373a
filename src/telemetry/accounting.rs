//! Accounting: one record for each session, at its end.
//!
//! Invariants: a thread that writes a record waits for nothing: records leave through a bounded queue and a thread of
//! their own, and one that finds the queue full is dropped and counted; a record is one line, whatever a user calls
//! itself. Must not know what a session is.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::config;
use crate::config::AccountingFormat;
use untrusted::files;

/// Records waiting for the writing thread.
const RECORDS_WAITING_MAX: usize = 64 * 1024;
/// Who may read the file: it says who spoke with whom.
const MODE: u32 = 0o640;

/// The file of records cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("accounting.file: {}: {source}: let the relay's user write it, and its directory be there", path.display())]
pub struct AccountingError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The record of an ended session.
#[derive(Debug, Serialize)]
pub struct Record<'a> {
    /// Prefix of its id.
    pub session: &'a str,
    /// The user.
    pub user: &'a str,
    /// The realm.
    pub realm: &'a str,
    /// How long it lasted.
    pub duration_seconds: f64,
    /// Body bytes from the client.
    pub bytes_from_client: u64,
    /// Body bytes for the client.
    pub bytes_to_client: u64,
    /// Where the client came from.
    pub client: Option<String>,
    /// What it came by: `tls`, `tcp`, `wss` or `ws`; `None` behind another relay.
    pub transport: Option<&'a str>,
    /// Who was at the other side, if it was bound.
    pub peer: Option<String>,
    /// Why it ended.
    pub reason: &'a str,
    /// The core it was on.
    pub core: usize,
}

/// The destination of the records; dropped last, because that writes the waiting ones.
#[derive(Debug)]
pub struct Accounting {
    sink: Sink,
    queue: NonBlocking,
    dropped: ErrorCounter,
    records: Records,
    _writer: WorkerGuard,
}

/// Writes records. Cheap to clone; for any thread.
#[derive(Clone, Debug, Default)]
pub struct Records(Option<(AccountingFormat, NonBlocking)>);

/// An opened destination for records that is not in use yet.
#[derive(Debug)]
pub struct Opened(Option<(AccountingFormat, Option<File>)>);

impl Opened {
    /// Opens, or makes, the file that a config names.
    ///
    /// # Errors
    /// If it cannot be opened or made.
    pub fn new(config: Option<&config::Accounting>) -> Result<Self, AccountingError> {
        let Some(config) = config else {
            return Ok(Self(None));
        };
        let file = config.file.as_deref().map(open).transpose()?;
        Ok(Self(Some((config.format, file))))
    }
}

fn open(path: &Path) -> Result<File, AccountingError> {
    files::append(path, MODE).map_err(|source| AccountingError { path: path.to_owned(), source })
}

impl Accounting {
    /// Starts the thread that writes.
    #[must_use]
    pub fn start(opened: Opened) -> Self {
        let sink = Sink::default();
        let (queue, writer) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(RECORDS_WAITING_MAX)
            .thread_name("accounting")
            .finish(sink.clone());
        let dropped = queue.error_counter();
        let mut accounting = Self { sink, queue, dropped, records: Records::default(), _writer: writer };
        accounting.change(opened);
        accounting
    }

    /// Continues with another file or form. Waiting records are written to the new one.
    pub fn change(&mut self, opened: Opened) {
        let file = match opened.0 {
            None => {
                self.records = Records::default();
                None
            }
            Some((format, file)) => {
                self.records = Records(Some((format, self.queue.clone())));
                file
            }
        };
        *self.sink.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
    }

    /// A writer of records, as set up at present.
    #[must_use]
    pub fn records(&self) -> Records {
        self.records.clone()
    }

    /// How many were dropped because the writing thread fell behind.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        u64::try_from(self.dropped.dropped_lines()).unwrap_or(u64::MAX)
    }
}

impl Records {
    /// Whether the config wants them.
    #[must_use]
    pub fn are_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// Writes one.
    pub fn write(&self, record: &Record<'_>) {
        let Some((format, queue)) = &self.0 else {
            return;
        };
        let mut line = match format {
            AccountingFormat::Text => text(record),
            AccountingFormat::Json => json(record),
        };
        line.push('\n');
        // It does not fail: a record that finds no room is counted.
        let _ = queue.clone().write_all(line.as_bytes());
    }
}

/// The time as the log writes it.
fn now() -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

fn json(record: &Record<'_>) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        ended: String,
        #[serde(flatten)]
        record: &'a Record<'a>,
    }
    untrusted::text::json(&Line { ended: now(), record })
}

/// `key=value`, text in quotes, with the escapes of JSON.
fn text(record: &Record<'_>) -> String {
    let quoted = |text: &str| untrusted::text::json(&text);
    let or_dash = |text: Option<&String>| text.map_or_else(|| "-".to_owned(), |text| quoted(text));
    format!(
        "{} session={} user={} realm={} duration_seconds={:.3} bytes_from_client={} bytes_to_client={} client={} transport={} peer={} \
         reason={} core={}",
        now(),
        record.session,
        quoted(record.user),
        quoted(record.realm),
        record.duration_seconds,
        record.bytes_from_client,
        record.bytes_to_client,
        or_dash(record.client.as_ref()),
        record.transport.unwrap_or("-"),
        or_dash(record.peer.as_ref()),
        quoted(record.reason),
        record.core,
    )
}

/// A file that may be exchanged, or standard output.
#[derive(Clone, Debug, Default)]
struct Sink {
    file: Arc<Mutex<Option<File>>>,
    failing: bool,
}

impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match file.as_mut() {
            Some(file) => file.write(line),
            None => io::stdout().write(line),
        };
        // Reported once, and once more when it is over.
        match &written {
            Err(error) if !std::mem::replace(&mut self.failing, true) => {
                tracing::error!(reason = %error, "Accounting records cannot be written, and are lost");
            }
            Ok(_) if std::mem::take(&mut self.failing) => {
                tracing::info!("Accounting records can be written again")
            }
            _ => {}
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        match file.as_mut() {
            Some(file) => file.flush(),
            None => io::stdout().flush(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn record(user: &str) -> Record<'_> {
        Record {
            session: "AAAAAAAAAA",
            user,
            realm: "example.com",
            duration_seconds: 1.5,
            bytes_from_client: 7,
            bytes_to_client: 8,
            client: Some("192.0.2.1:5000".to_owned()),
            transport: Some("wss"),
            peer: None,
            reason: "expired",
            core: 1,
        }
    }

    #[test]
    fn a_record_is_one_line_whatever_the_user_is_called() {
        for user in ["alice", "a \"b\" c", "a\nsession=x", "\u{1b}[2J", "\u{9b}\u{7f}\u{202e}\u{2028}", "\\"]
        {
            let json = json(&record(user));
            assert!(json.chars().all(untrusted::text::is_plain), "{json}");
            let read: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!((&read["user"], &read["client"]), (&user.into(), &"192.0.2.1:5000".into()));
            let text = text(&record(user));
            assert!(text.chars().all(untrusted::text::is_plain), "{text}");
            let quoted = untrusted::text::json(&user);
            assert!(text.contains(&format!(" user={quoted} realm=\"example.com\" duration_seconds=1.500 ")));
            assert!(text.ends_with("peer=- reason=\"expired\" core=1"), "{text}");
        }
    }

    #[test]
    fn records_go_where_they_are_wanted_now() {
        let place = tempfile::tempdir().unwrap();
        let config = |name: &str, format| config::Accounting { format, file: Some(place.path().join(name)) };
        let opened = |name: &str, format| Opened::new(Some(&config(name, format))).unwrap();
        let mut accounting = Accounting::start(opened("one", AccountingFormat::Json));
        accounting.records().write(&record("alice"));
        // It is in the queue, or in the file.
        while std::fs::read(place.path().join("one")).unwrap().is_empty() {
            std::thread::yield_now();
        }
        accounting.change(opened("two", AccountingFormat::Text));
        accounting.records().write(&record("bob"));
        accounting.change(Opened::new(None).unwrap());
        assert!(!accounting.records().are_wanted());
        accounting.change(opened("two", AccountingFormat::Text));
        accounting.records().write(&record("carol"));
        drop(accounting);
        let read = |name: &str| std::fs::read_to_string(place.path().join(name)).unwrap();
        assert!(read("one").lines().count() == 1 && read("one").contains("\"user\":\"alice\""));
        assert!(read("two").contains("user=\"carol\"") && !read("two").contains("alice"));
        let nowhere = Opened::new(Some(&config("no/such/file", AccountingFormat::Json))).unwrap_err();
        assert!(
            nowhere.to_string().contains("accounting.file: ") && nowhere.to_string().contains("relay's user")
        );
    }
}
