//! The form of a log line: as text or JSON, with the journal's prefix before either.
//!
//! Invariants: whatever a field holds, a line is one line, and text from outside cannot look like another field or
//! another line: it stands in quotes, with escapes. A line is in the operator's words: it names no module of the relay.
//! Must not know what is logged.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::gate::{self, Site, Source};
use crate::config::LogFormat;

/// Lines of ours have a target that begins like this.
pub(super) const OURS: &str = "msrprelay";
/// How much of one value is shown; a backtrace is the longest. The journal cuts a line at 48 KiB, and the text after
/// the cut has no priority.
const VALUE_BYTES_MAX: usize = 16 << 10;

/// How lines are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) format: LogFormat,
    /// The journal reads them: it has the time, and needs the priority.
    pub(super) journal: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut said = Said::default();
        event.record(&mut said);
        let metadata = event.metadata();
        if said.library.is_none() && !metadata.target().starts_with(OURS) {
            said.library = Some(metadata.target().to_owned());
        }
        if said.library.is_some() {
            // Anyone may cause the lines of libraries. A line that is not written here is not written at all.
            let Some(suppressed) = gate::pass(Site::Library, Source::ANY) else { return Ok(()) };
            if suppressed > 0 {
                said.fields.push(("suppressed", Value::Bare(suppressed.to_string())));
            }
        }
        let mut time = String::new();
        if self.journal {
            write!(writer, "<{}>", priority(*metadata.level()))?;
        } else {
            SystemTime.format_time(&mut Writer::new(&mut time))?;
        }
        match self.format {
            LogFormat::Text => said.text(&mut writer, &time, metadata.level())?,
            LogFormat::Json => said.json(&mut writer, &time, metadata.level())?,
        }
        writeln!(writer)
    }
}

/// The priority that syslog, and the journal, have for a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// A value, by its kind.
enum Value {
    /// A number or a truth value, which is written as it is.
    Bare(String),
    /// Text that is always quoted.
    Text(String),
    /// Text that is quoted if it must be.
    Word(String),
}

/// The text and fields of an event.
#[derive(Default)]
struct Said {
    library: Option<String>,
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Said {
    fn text(&self, writer: &mut Writer<'_>, time: &str, level: &Level) -> fmt::Result {
        if !time.is_empty() {
            write!(writer, "{time} ")?;
        }
        write!(writer, "{level} ")?;
        if let Some(library) = &self.library {
            write!(writer, "{library}: ")?;
        }
        for character in self.message.chars() {
            // Escapes what breaks a line or controls a terminal; quotes are part of a sentence.
            match character {
                '"' | '\'' => writer.write_char(character)?,
                _ => write!(writer, "{}", character.escape_debug())?,
            }
        }
        for (name, value) in &self.fields {
            match value {
                Value::Bare(value) => write!(writer, " {name}={value}")?,
                Value::Word(value) if is_word(value) => write!(writer, " {name}={value}")?,
                Value::Text(value) | Value::Word(value) => write!(writer, " {name}={value:?}")?,
            }
        }
        Ok(())
    }

    fn json(&self, writer: &mut Writer<'_>, time: &str, level: &Level) -> fmt::Result {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        write!(writer, "{{")?;
        if !time.is_empty() {
            write!(writer, "\"timestamp\":\"{time}\",")?;
        }
        write!(writer, "\"level\":\"{level}\",")?;
        if let Some(library) = &self.library {
            write!(writer, "\"library\":{},", quoted(library))?;
        }
        write!(writer, "\"message\":{}", quoted(&self.message))?;
        for (name, value) in &self.fields {
            match value {
                Value::Bare(value) => write!(writer, ",\"{name}\":{value}")?,
                Value::Text(value) | Value::Word(value) => write!(writer, ",\"{name}\":{}", quoted(value))?,
            }
        }
        write!(writer, "}}")
    }

    fn add(&mut self, field: &Field, value: Value) {
        match field.name() {
            "message" => {
                let (Value::Bare(text) | Value::Text(text) | Value::Word(text)) = value;
                self.message = text;
            }
            // Libraries that do not use `tracing` give their lines' origin in fields.
            "log.target" => {
                let (Value::Bare(text) | Value::Text(text) | Value::Word(text)) = value;
                self.library = Some(text);
            }
            name if name.starts_with("log.") => {}
            name => self.fields.push((name, value)),
        }
    }
}

/// Whether a reader sees the end of a value without quotes.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\=".contains(&byte))
}

/// Its beginning, if it is too long.
fn shortened(mut text: String) -> String {
    if text.len() > VALUE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(VALUE_BYTES_MAX));
        text.push_str("...");
    }
    text
}

impl Visit for Said {
    fn record_f64(&mut self, field: &Field, value: f64) {
        match value.is_finite() {
            true => self.add(field, Value::Bare(value.to_string())),
            false => self.add(field, Value::Word(value.to_string())),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::Bare(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::Bare(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::Bare(value.to_string()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::Text(shortened(value.to_owned())));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, Value::Word(shortened(format!("{value:?}"))));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written of the lines that `act` causes.
    fn written(format: LogFormat, journal: bool, act: impl FnOnce()) -> String {
        let shown = Sink::default();
        let sink = shown.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Line { format, journal })
            .with_writer(move || sink.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), act);
        String::from_utf8(shown.0.lock().unwrap().clone()).unwrap()
    }

    /// Names that a stranger may use.
    const NAMES: [&str; 6] = [
        "alice",
        "x\" address=192.0.2.7:1 status=401 user=\"y",
        "x\n<4>WARN AUTH refused address=192.0.2.7:1",
        "x\r\u{1b}[2J\u{2028}\u{85}",
        "\\",
        "",
    ];

    #[test]
    fn text_from_outside_is_one_quoted_value_of_one_line() {
        for name in NAMES {
            let line = written(LogFormat::Text, true, || {
                tracing::warn!(address = %"192.0.2.1:5000", shown = %name, user = name, seconds = 1.5, "AUTH refused");
            });
            let start = "<4>WARN AUTH refused address=192.0.2.1:5000 shown=";
            assert!(
                line.starts_with(start) && line.ends_with(&format!(" user={name:?} seconds=1.5\n")),
                "{line}"
            );
            let breaks = |c: char| c.is_control() || ['\u{2028}', '\u{2029}'].contains(&c);
            assert!(!line.trim_end_matches('\n').contains(breaks), "{line:?}");
            // Outside the quotes, each name stands once.
            let outside: String =
                line.replace("\\\\", "").replace("\\\"", "").split('"').step_by(2).collect();
            assert_eq!(outside.matches("address=").count(), 1, "{line}");
        }
    }

    #[test]
    fn json_lines_hold_the_same() {
        for (journal, name) in [false, true].into_iter().flat_map(|j| NAMES.map(|name| (j, name))) {
            let line = written(LogFormat::Json, journal, || {
                tracing::info!(user = name, shown = %name, bytes = 7, relay = false, "Session opened");
            });
            let object = line.strip_prefix("<6>").unwrap_or(&line);
            assert_eq!((object.len() < line.len(), line.lines().count()), (journal, 1));
            let object: serde_json::Value = serde_json::from_str(object).unwrap();
            assert_eq!((&object["user"], &object["shown"]), (&name.into(), &name.into()));
            assert_eq!((&object["level"], &object["message"]), (&"INFO".into(), &"Session opened".into()));
            assert_eq!((&object["bytes"], &object["relay"]), (&7.into(), &false.into()));
            assert_eq!(object.get("timestamp").is_none(), journal);
        }
    }

    #[test]
    fn every_level_has_its_priority_and_the_journal_no_second_time() {
        let lines = written(LogFormat::Text, true, || {
            tracing::error!("E");
            tracing::warn!("W");
            tracing::info!("I");
            tracing::debug!("D\nmore");
        });
        assert_eq!(lines, "<3>ERROR E\n<4>WARN W\n<6>INFO I\n<7>DEBUG D\\nmore\n");
    }

    #[test]
    fn elsewhere_a_line_begins_with_the_time_and_names_a_library_but_no_module_of_ours() {
        let lines = written(LogFormat::Text, false, || {
            tracing::info!("Ours");
            tracing::info!(target: "mysql_async::pool", "Theirs");
        });
        let lines: Vec<_> = lines.lines().map(|line| line.split_once("Z ").unwrap()).collect();
        assert!(lines.iter().all(|(time, _)| time.starts_with("20") && time.contains('T')), "{lines:?}");
        assert_eq!([lines[0].1, lines[1].1], ["INFO Ours", "INFO mysql_async::pool: Theirs"]);
        lines_of_libraries_are_bounded_and_those_of_the_relay_are_not();
    }

    /// In one test with the one above: the tests of a process share the count of libraries' lines.
    fn lines_of_libraries_are_bounded_and_those_of_the_relay_are_not() {
        let lines = written(LogFormat::Text, false, || {
            for _ in 0..1000 {
                tracing::warn!(target: "hickory_proto", "Theirs");
                tracing::warn!("Ours");
            }
        });
        let count = |what: &str| lines.lines().filter(|line| line.ends_with(what)).count();
        assert!(count("Theirs") <= Site::Library.quota().all as usize, "{}", count("Theirs"));
        assert_eq!(count("Ours"), 1000);
    }

    #[test]
    fn a_long_value_is_cut() {
        let long = "é".repeat(VALUE_BYTES_MAX);
        let line = written(LogFormat::Text, true, || tracing::info!(long, "Long"));
        assert!(line.len() < VALUE_BYTES_MAX + 100 && line.ends_with("é...\"\n"));
    }
}
