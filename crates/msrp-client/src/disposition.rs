//! A file's name, length and hash, as the Content-Disposition header has them.
//!
//! The parameters are those of RFC 2183 and RFC 5547 (`hash=sha-256:AB:CD…`, upper-case hex with colons; plain hex of
//! either case is read as well). [`safe_name`] is the only way from an offered name to a name on this machine's disk:
//! its result is always one visible path component. Must not know sockets or open files.

use std::borrow::Cow;
use std::fmt::Write as _;

use untrusted::text::is_plain;

/// The longest name given to a stored file, in bytes: room is left for the ` (n)` of [`numbered_name`].
const NAME_BYTES_MAX: usize = 200;
/// The longest file extension that survives when a name has to be cut, in bytes.
const EXTENSION_BYTES_MAX: usize = 20;
/// A file's name if the sender offered no usable one.
const NAME_FALLBACK: &str = "file";

/// A SHA-256 digest.
pub type Sha256Digest = [u8; 32];

/// The parts of a Content-Disposition that file transfer uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disposition {
    /// The sender's name for the file: foreign text, never a path of ours.
    pub filename: Option<String>,
    /// Length of the whole file in bytes.
    pub size: Option<u64>,
    /// SHA-256 of the whole file.
    pub sha256: Option<Sha256Digest>,
}

impl Disposition {
    /// Reads a header value. Leaves out what is missing, unknown or malformed, because the header is only advice.
    pub fn parse(value: &[u8]) -> Self {
        let text = String::from_utf8_lossy(value);
        let (mut disposition, mut extended) = (Self::default(), None);
        for (name, value) in parameters(&text) {
            match name.to_ascii_lowercase().as_str() {
                "filename*" if extended.is_none() => extended = parse_extended(&value),
                "filename" if disposition.filename.is_none() => disposition.filename = Some(value),
                "size" if disposition.size.is_none() => disposition.size = value.parse().ok(),
                "hash" if disposition.sha256.is_none() => disposition.sha256 = parse_hash(&value),
                _ => {}
            }
        }
        // A sender that writes both forms made the plain one for receivers that cannot read this one (RFC 6266, 4.3).
        disposition.filename = extended.or(disposition.filename);
        disposition
    }

    /// The header value: `attachment; filename="…"; size=…; hash=sha-256:…`, without the parts that are not known.
    pub fn to_header(&self) -> String {
        let mut header = String::from("attachment");
        if let Some(filename) = &self.filename {
            header.push_str("; filename=\"");
            for character in filename.chars() {
                match character {
                    '"' | '\\' => header.extend(['\\', character]),
                    _ if character.is_control() => header.push('_'),
                    _ => header.push(character),
                }
            }
            header.push('"');
        }
        if let Some(size) = self.size {
            let _ = write!(header, "; size={size}");
        }
        if let Some(digest) = &self.sha256 {
            header.push_str("; hash=sha-256:");
            for (index, byte) in digest.iter().enumerate() {
                let colon = if index == 0 { "" } else { ":" };
                let _ = write!(header, "{colon}{byte:02X}");
            }
        }
        header
    }
}

/// Lower-case hex, as `sha256sum` prints it.
pub fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::with_capacity(digest.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The parameters after the first `;`, with quoted strings unescaped.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.find(';').and_then(|at| text.get(at + 1..)).unwrap_or_default();
    while let Some((name, after_name)) = rest.split_once('=') {
        let (value, after_value) = parameter_value(after_name.trim_start());
        // A parameter without a value, as in `; inline; filename="x"`, leaves its name in front.
        let name = name.rsplit(';').next().unwrap_or_default().trim();
        found.push((name.to_owned(), value));
        rest = after_value;
    }
    found
}

/// One value, quoted or not, and the text after the `;` that ends it.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_once(';').unwrap_or((text, ""));
        return (value.trim().to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => {
                let rest = quoted.get(at + 1..).unwrap_or_default();
                return (value, rest.split_once(';').map_or("", |(_, rest)| rest));
            }
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => value.push(character),
        }
    }
    (value, "")
}

/// `UTF-8'en'na%C3%AFve.txt`: a character set, perhaps a language, and text with `%XX` in it (RFC 8187, 3.2).
fn parse_extended(value: &str) -> Option<String> {
    let mut parts = value.splitn(3, '\'');
    let (charset, _language, text) = (parts.next()?, parts.next()?, parts.next()?);
    let bytes = percent_decoded(text)?;
    match charset.trim().to_ascii_lowercase().as_str() {
        "utf-8" => String::from_utf8(bytes).ok(),
        // Its numbers are those of Unicode; RFC 5987 required it.
        "iso-8859-1" => Some(bytes.into_iter().map(char::from).collect()),
        _ => None,
    }
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.bytes());
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(bytes)
}

/// `sha-256:` and 64 hex digits, with or without colons between the bytes; other algorithms are not checked.
fn parse_hash(value: &str) -> Option<Sha256Digest> {
    let (algorithm, digits) = value.split_once(':')?;
    if !algorithm.trim().eq_ignore_ascii_case("sha-256") {
        return None;
    }
    let digits: Vec<u8> = digits.bytes().filter(|byte| *byte != b':').collect();
    let mut digest = [0; 32];
    let (pairs, odd) = digits.as_chunks::<2>();
    if pairs.len() != digest.len() || !odd.is_empty() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(pairs) {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
        *byte = u8::try_from(high? * 16 + low?).ok()?;
    }
    Some(digest)
}

/// A name for a stored file: exactly one path component, visible, printable and of bounded length, whatever was offered.
///
/// Drops directories in front (of either slash), leading dots and blanks, and trailing blanks and dots. Turns control
/// and direction-changing characters and a leading `-` into `_`. Puts `_` before the name of a Windows device. An
/// overlong name loses its middle but keeps its extension, and an empty one becomes `file`.
pub fn safe_name(offered: &str) -> String {
    let last = offered.rsplit(['/', '\\']).next().unwrap_or_default();
    let printable: String =
        last.chars().map(|character| if is_printable(character) { character } else { '_' }).collect();
    let visible = printable
        .trim_start_matches(|character: char| character == '.' || character.is_whitespace())
        .trim_end_matches(|character: char| character == '.' || character.is_whitespace());
    if visible.is_empty() {
        return NAME_FALLBACK.to_owned();
    }
    shortened(&unmistakable(visible))
}

/// `name.ext`, `name (1).ext`, `name (2).ext`, … for attempt 0, 1, 2, …
pub fn numbered_name(name: &str, attempt: u32) -> String {
    if attempt == 0 {
        return name.to_owned();
    }
    let (stem, extension) = split_extension(name);
    format!("{stem} ({attempt}){extension}")
}

/// Plain, and not the replacement for unreadable text.
fn is_printable(character: char) -> bool {
    is_plain(character) && character != '\u{fffd}'
}

/// A name that no program takes for something else: for an option (`rm *`), or, if the directory is shared with
/// Windows, for a device.
fn unmistakable(name: &str) -> Cow<'_, str> {
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_lowercase();
    let is_device = match stem.as_str() {
        "con" | "prn" | "aux" | "nul" | "conin$" | "conout$" => true,
        other => ["com", "lpt"].iter().filter_map(|port| other.strip_prefix(port)).any(is_one_digit),
    };
    match name.strip_prefix('-') {
        Some(rest) => Cow::Owned(format!("_{rest}")),
        None if is_device => Cow::Owned(format!("_{name}")),
        None => Cow::Borrowed(name),
    }
}

/// One digit; to Windows the superscript ones are digits.
fn is_one_digit(text: &str) -> bool {
    let mut characters = text.chars();
    let first = characters.next().is_some_and(|c| c.is_ascii_digit() || matches!(c, '¹' | '²' | '³'));
    first && characters.next().is_none()
}

fn shortened(name: &str) -> String {
    if name.len() <= NAME_BYTES_MAX {
        return name.to_owned();
    }
    let (stem, extension) = split_extension(name);
    let room = NAME_BYTES_MAX - extension.len();
    let cut = (0..=room).rev().find(|at| stem.is_char_boundary(*at)).unwrap_or(0);
    format!("{}{extension}", stem.get(..cut).unwrap_or_default().trim_end())
}

/// The name up to its last dot, and the rest with the dot. No extension if that would be overlong or the whole name.
fn split_extension(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(at) if at > 0 && name.len() - at <= EXTENSION_BYTES_MAX => name.split_at(at),
        _ => (name, ""),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: Sha256Digest = {
        let mut digest = [0; 32];
        let mut index = 0;
        while index < 32 {
            digest[index] = (index * 7) as u8;
            index += 1;
        }
        digest
    };

    #[test]
    fn the_header_is_written_the_way_rfc_5547_writes_hashes() {
        let header = Disposition {
            filename: Some("a \"b\" \\c.txt".to_owned()),
            size: Some(12),
            sha256: Some(DIGEST),
        }
        .to_header();
        assert!(
            header.starts_with(
                "attachment; filename=\"a \\\"b\\\" \\\\c.txt\"; size=12; hash=sha-256:00:07:0E:15:"
            ),
            "{header}"
        );
    }

    #[test]
    fn what_is_written_is_read_back() {
        for filename in ["plain.bin", "semi; colon=\"x\".txt", "Grüße – 日本.pdf", "back\\slash", "", "a=b"]
        {
            let disposition = Disposition {
                filename: Some(filename.to_owned()),
                size: Some(u64::MAX),
                sha256: Some(DIGEST),
            };
            assert_eq!(Disposition::parse(disposition.to_header().as_bytes()), disposition);
        }
    }

    #[test]
    fn hashes_are_read_in_both_spellings() {
        let colons =
            format!("attachment; hash=sha-256:{}", DIGEST.map(|byte| format!("{byte:02X}")).join(":"));
        let plain = format!("render;HASH=\"SHA-256:{}\"", hex(&DIGEST));
        assert_eq!(Disposition::parse(colons.as_bytes()).sha256, Some(DIGEST));
        assert_eq!(Disposition::parse(plain.as_bytes()).sha256, Some(DIGEST));
        for wrong in ["hash=sha-1:00:11", "hash=sha-256:00", "hash=sha-256:zz", "hash=", "hash"] {
            assert_eq!(Disposition::parse(format!("attachment; {wrong}").as_bytes()).sha256, None);
        }
    }

    #[test]
    fn a_mangled_header_gives_what_can_be_read() {
        let parsed =
            Disposition::parse(b"attachment ;; inline; Filename = unquoted name.txt ; size=x; size=7");
        assert_eq!(parsed.filename.as_deref(), Some("unquoted name.txt"));
        assert_eq!(parsed.size, Some(7));
        assert_eq!(Disposition::parse(b"attachment; filename=\"open").filename.as_deref(), Some("open"));
        assert_eq!(Disposition::parse(b""), Disposition::default());
        assert_eq!(Disposition::parse(b"\xff\xfe;=;\"="), Disposition::default());
    }

    #[test]
    fn extended_name_is_read_and_goes_before_the_plain_one() {
        for (header, name) in [
            ("attachment; filename*=UTF-8''na%C3%AFve%20plan.txt", Some("naïve plan.txt")),
            ("attachment; filename=\"plan.txt\"; filename*=utf-8'en'%E2%82%AC.txt", Some("€.txt")),
            ("attachment; FileName*=UTF-8''%e2%82%ac.txt; filename=plan.txt", Some("€.txt")),
            ("attachment; filename*=\"UTF-8''quoted%21.txt\"", Some("quoted!.txt")),
            ("attachment; filename*=ISO-8859-1''%A3.txt", Some("£.txt")),
            ("attachment; filename*=UTF-8''%ff.txt; filename=plan.txt", Some("plan.txt")),
            ("attachment; filename*=UTF-8''cut%2; filename=plan.txt", Some("plan.txt")),
            ("attachment; filename*=koi8-r''x.txt", None),
            ("attachment; filename*=plain.txt", None),
        ] {
            assert_eq!(Disposition::parse(header.as_bytes()).filename.as_deref(), name, "{header}");
        }
        let hostile = Disposition::parse(b"attachment; filename*=UTF-8''..%2F..%2Fetc%2Fpasswd").filename;
        assert_eq!(safe_name(&hostile.unwrap()), "passwd");
    }

    #[test]
    fn a_line_break_in_a_name_never_reaches_the_wire() {
        let header = Disposition { filename: Some("a\r\nX-Evil: 1\0".to_owned()), ..Disposition::default() }
            .to_header();
        assert_eq!(header, "attachment; filename=\"a__X-Evil: 1_\"");
    }

    #[test]
    fn offered_names_stay_inside_the_directory() {
        for (offered, safe) in [
            ("report.pdf", "report.pdf"),
            ("../../etc/passwd", "passwd"),
            ("/etc/shadow", "shadow"),
            ("..\\..\\boot.ini", "boot.ini"),
            ("C:\\dir\\x.txt", "x.txt"),
            ("..", "file"),
            (".", "file"),
            ("", "file"),
            ("dir/", "file"),
            ("   ", "file"),
            (".bashrc", "bashrc"),
            ("...hidden", "hidden"),
            ("a\0b\nc\u{1b}[31m", "a_b_c_[31m"),
            ("\u{202e}gpj.exe", "_gpj.exe"),
            ("trailing. . ", "trailing"),
            ("Grüße 日本.txt", "Grüße 日本.txt"),
            ("-rf", "_rf"),
            ("--help.txt", "_-help.txt"),
            (".-x", "_x"),
            ("dir/-x", "_x"),
            ("a-b", "a-b"),
            ("CON", "_CON"),
            ("nul.txt", "_nul.txt"),
            ("Com1 .tar.gz", "_Com1 .tar.gz"),
            ("lpt².a", "_lpt².a"),
            ("com10", "com10"),
            ("console.log", "console.log"),
            ("a\u{85}\u{2066}\u{ad}\u{e0041}.txt", "a____.txt"),
        ] {
            assert_eq!(safe_name(offered), safe, "offered {offered:?}");
        }
    }

    #[test]
    fn an_overlong_name_keeps_its_extension() {
        let name = safe_name(&format!("{}.tar.gz", "é".repeat(400)));
        assert!(name.len() <= NAME_BYTES_MAX && name.ends_with("é.gz"), "{name}");
        let no_extension = safe_name(&format!("a.{}", "b".repeat(400)));
        assert_eq!(no_extension.len(), NAME_BYTES_MAX);
    }

    #[test]
    fn a_taken_name_gets_a_number_before_its_extension() {
        assert_eq!(numbered_name("a.txt", 0), "a.txt");
        assert_eq!(numbered_name("a.txt", 1), "a (1).txt");
        assert_eq!(numbered_name("README", 12), "README (12)");
    }

    proptest! {
        #[test]
        fn any_name_becomes_one_plain_component(offered in "\\PC*|[./\\\\ \\x00-\\x20a]{0,40}|.{0,600}") {
            let name = numbered_name(&safe_name(&offered), 4_000_000);
            prop_assert!(!name.is_empty() && name.len() <= 255);
            prop_assert!(!name.starts_with(['.', '-']));
            prop_assert!(!name.contains(['/', '\\', '\0']) && name.chars().all(is_plain));
            let path = std::path::Path::new("dir").join(&name);
            prop_assert_eq!(path.components().count(), 2);
            prop_assert_eq!(path.file_name().unwrap().to_str().unwrap(), name);
        }

        #[test]
        fn parsing_never_fails(value in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Disposition::parse(&value);
        }
    }
}
