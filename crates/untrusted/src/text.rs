//! Foreign text on its way to a person: comments of responses, realms, names in certificates, URIs, file names.
//!
//! Invariants: what [`shown`] and [`shown_line`] return is one line without anything that a terminal obeys, that hides
//! text, or that changes the order of the text around it; its length is bounded; shown twice, it stays the same. All
//! other text stays as it was, so that names are readable in every script. Pure.

use std::borrow::Cow;
use std::io;

/// The longest single text that is shown, in characters.
pub const TEXT_CHARS_MAX: usize = 512;
/// The longest line that is shown, in characters: several texts, with words of our own around them.
pub const LINE_CHARS_MAX: usize = 8192;

/// A foreign text, such as a comment or a name, made fit for display.
#[must_use]
pub fn shown(text: &str) -> Cow<'_, str> {
    bounded(text, TEXT_CHARS_MAX)
}

/// The same with another bound, in characters.
#[must_use]
pub fn shown_within(text: &str, chars_max: usize) -> Cow<'_, str> {
    bounded(text, chars_max)
}

/// A whole line, made fit for display. It may hold texts that were [`shown`] already.
#[must_use]
pub fn shown_line(line: &str) -> Cow<'_, str> {
    bounded(line, LINE_CHARS_MAX)
}

fn bounded(text: &str, chars_max: usize) -> Cow<'_, str> {
    if text.len() <= chars_max && text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len().min(4 * chars_max));
    let mut length = 0;
    for character in text.chars() {
        let escaped = escape(character);
        let taken = escaped.as_deref().map_or(1, str::len);
        if length + taken >= chars_max {
            shown.push('…');
            break;
        }
        length += taken;
        match escaped {
            Some(escaped) => shown.push_str(&escaped),
            None => shown.push(character),
        }
    }
    Cow::Owned(shown)
}

/// `
/// `, `\u{1b}` and the like; `None` for a character that can be shown unchanged.
fn escape(character: char) -> Option<String> {
    // A backslash stays one: a text that is shown twice stays the same.
    (!is_plain(character)).then(|| character.escape_unicode().to_string().replace("\\u{a}", "\\n"))
}

/// The system's message for an error, in words for people: without the library's numbers, and with its meaning where
/// that helps.
#[must_use]
pub fn of_io(error: &io::Error) -> String {
    use io::ErrorKind as Kind;
    let words = match error.kind() {
        Kind::NotFound if error.raw_os_error().is_some() => "no such file or directory",
        Kind::PermissionDenied if error.raw_os_error().is_some() => "permission denied",
        Kind::ConnectionRefused => "connection refused: nothing listens there",
        Kind::ConnectionReset => "the other side has reset the connection",
        Kind::HostUnreachable | Kind::NetworkUnreachable => "there is no way to that address from here",
        Kind::AddrNotAvailable => "this machine has no such address",
        Kind::AddrInUse => "something else listens there already",
        Kind::StorageFull => "the disk is full",
        Kind::ReadOnlyFilesystem => "the file system is read-only",
        _ => {
            let all = error.to_string();
            let words = all.split(" (os error ").next().unwrap_or_default();
            return match words.starts_with("failed to lookup address information") {
                true => "no name server knows it, or none answers".to_owned(),
                false => words.to_owned(),
            };
        }
    };
    words.to_owned()
}

/// True for a character that a terminal shows in its place: no control character, and none that reorders, hides or
/// breaks the text around it.
#[must_use]
pub fn is_plain(character: char) -> bool {
    if character.is_ascii() {
        return !character.is_ascii_control();
    }
    !(character.is_control() || is_invisible(character))
}

/// Formatting characters: direction, width zero, breaks, tags and fillers (Unicode 16, categories Cf, Zl, Zp, and
/// default ignorable ones). Variation selectors stay: emoji need them.
const fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}'
        | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Writes JSON whose strings hold only [plain](is_plain) text: all else is `\uXXXX`, which means the same to every
/// reader.
///
/// # Errors
/// If it cannot be written.
pub fn write_json(out: &mut impl io::Write, value: &impl serde::Serialize) -> io::Result<()> {
    let mut serializer = serde_json::Serializer::with_formatter(out, PlainStrings);
    value.serialize(&mut serializer).map_err(io::Error::from)
}

/// [`write_json`] to a string.
#[must_use]
pub fn json(value: &impl serde::Serialize) -> String {
    let mut text = Vec::new();
    // Writing to memory does not fail, and what we serialize always has a form.
    let _ = write_json(&mut text, value);
    String::from_utf8(text).unwrap_or_default()
}

struct PlainStrings;

impl serde_json::ser::Formatter for PlainStrings {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        out.write_all(json_fragment(fragment).as_bytes())
    }
}

/// Part of JSON, with characters that are not plain as `\uXXXX`. Outside of strings JSON has no such character except
/// line breaks, and no other caller has those.
fn json_fragment(fragment: &str) -> Cow<'_, str> {
    use std::fmt::Write as _;
    if fragment.chars().all(is_plain) {
        return Cow::Borrowed(fragment);
    }
    let mut escaped = String::with_capacity(fragment.len() + 16);
    for character in fragment.chars() {
        if is_plain(character) {
            escaped.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    }
    Cow::Owned(escaped)
}

/// The form of a line: how it writes an escape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// For people.
    Text,
    /// A JSON object.
    Json,
}

/// A finished line, with or without its line break, made safe whatever it holds. Its length is not bounded here: its
/// writer bounds it. The line break at its end stays; any other is escaped.
#[must_use]
pub fn safe_line(line: &[u8], form: Form) -> Cow<'_, [u8]> {
    // Nearly all lines: one look at each byte, nothing copied.
    let (content, end) = match line.split_last() {
        Some((b'\n', content)) => (content, "\n"),
        _ => (line, ""),
    };
    if content.iter().all(|byte| matches!(byte, 0x20..=0x7e)) {
        return Cow::Borrowed(line);
    }
    let text = String::from_utf8_lossy(content);
    let safe = match form {
        Form::Text => bounded(&text, usize::MAX / 8),
        Form::Json => json_fragment(&text),
    };
    Cow::Owned(format!("{safe}{end}").into_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped_visibly() {
        for (text, expected) in [
            ("a\u{1b}[2J", "a\\u{1b}[2J"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{7f}", "\\u{7f}"),
            ("a\nb\r\tc\0", "a\\nb\\u{d}\\u{9}c\\u{0}"),
            ("\u{202e}gpj.exe\u{2066}", "\\u{202e}gpj.exe\\u{2066}"),
            ("a\u{200b}b\u{feff}", "a\\u{200b}b\\u{feff}"),
            ("a\u{2028}b\u{2029}", "a\\u{2028}b\\u{2029}"),
            ("\u{e0041}", "\\u{e0041}"),
            ("Grüße 日本 – \\ \"x\"", "Grüße 日本 – \\ \"x\""),
        ] {
            assert_eq!(shown(text), expected);
            assert_eq!(shown(&shown(text)), expected);
        }
    }

    #[test]
    fn what_is_shown_has_a_bounded_length() {
        let shown_text = shown(&"é".repeat(100_000)).into_owned();
        assert_eq!(shown_text.chars().count(), TEXT_CHARS_MAX);
        assert!(shown_text.ends_with("é…"));
        assert!(shown(&"\u{1b}".repeat(100_000)).chars().count() <= TEXT_CHARS_MAX);
        assert_eq!(shown_line(&"x".repeat(LINE_CHARS_MAX)).len(), LINE_CHARS_MAX);
    }

    #[test]
    fn a_line_stays_one_line_in_either_form() {
        let line = "{\"a\":\"x\u{9b}y\u{202e}\u{1f600}\u{e0041}\"}\n";
        let safe = String::from_utf8(safe_line(line.as_bytes(), Form::Json).into_owned()).unwrap();
        assert_eq!(safe, "{\"a\":\"x\\u009by\\u202e\u{1f600}\\udb40\\udc41\"}\n");
        let (safe, line): (serde_json::Value, serde_json::Value) =
            (serde_json::from_str(&safe).unwrap(), serde_json::from_str(line).unwrap());
        assert_eq!(safe, line);
        assert_eq!(&*safe_line(b"a\nb \xff\n", Form::Text), "a\\nb \u{fffd}\n".as_bytes());
        assert!(matches!(safe_line(b"plain\n", Form::Text), Cow::Borrowed(b"plain\n")));
    }

    #[test]
    fn errors_of_the_system_are_told_without_numbers() {
        for (number, words) in [
            (2, "no such file or directory"),
            (111, "connection refused: nothing listens there"),
            (98, "something else listens there already"),
            (7, "Argument list too long"),
        ] {
            assert_eq!(of_io(&io::Error::from_raw_os_error(number)), words);
        }
        assert_eq!(of_io(&io::Error::other("our own words")), "our own words");
        let own = io::Error::new(io::ErrorKind::NotFound, "it has no address");
        assert_eq!(of_io(&own), "it has no address");
    }

    proptest! {
        #[test]
        fn any_text_is_shown_plain_and_twice_the_same(text in "\\PC{0,40}|.{0,2000}|[\\x00-\\x9f\u{2000}-\u{206f}]{0,300}") {
            let once = shown(&text).into_owned();
            prop_assert!(once.chars().all(is_plain));
            prop_assert!(once.chars().count() <= TEXT_CHARS_MAX);
            prop_assert_eq!(shown(&once), once.as_str());
        }

        #[test]
        fn json_means_the_same_and_is_plain(text in "\\PC{0,40}|.{0,200}|[\\x00-\\x9f\u{2000}-\u{206f}\"\\\\]{0,100}") {
            let written = json(&text);
            prop_assert!(written.chars().all(is_plain), "{}", written);
            prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
        }
    }
}
