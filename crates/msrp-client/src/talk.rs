//! Messages that are not the awaited file: lines of chat, and notices that people never see as a message.
//!
//! The head alone says what a message is. It is a file if its sender names it or calls it an attachment, or if it is of
//! no kind that chat clients send: so no unknown message is thrown away. Invariant: the shown text of a message is no
//! longer than [`TALK_BYTES_MAX`]; longer text is a file. Pure.

use super::disposition::Disposition;
use msrp_proto::head::Head;

/// The longest message that is shown instead of stored: the longest line that is shown. Some clients send files without
/// a name in their head, so long text counts as one of those.
pub(super) const TALK_BYTES_MAX: usize = 8192;

/// Kinds for programs: "is typing" (RFC 3994), a message was delivered or read (RFC 5438), and the keep-alive of
/// clients in browsers.
const NOTICES: [&str; 3] = ["application/im-iscomposing+xml", "message/imdn+xml", "text/x-msrp-heartbeat"];
/// A message with headers of its own around it (RFC 3862), as chat clients and conferences send it.
const CPIM: &str = "message/cpim";

/// A line of chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The author, as the message itself names it: foreign text, and no proof.
    pub from: Option<String>,
    /// The words: foreign text.
    pub text: String,
}

/// The media type in a Content-Type header, without its parameters.
pub(super) fn media_type(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether the message is not a file.
pub(super) fn is_talk(head: &Head, bytes: &[u8], announced: &Disposition) -> bool {
    let disposition = media_type(head.content_disposition(bytes).unwrap_or_default());
    if disposition == "attachment" || announced.filename.is_some() {
        return false;
    }
    let kind = media_type(head.content_type(bytes).unwrap_or_default());
    kind.starts_with("text/") || kind == CPIM || NOTICES.contains(&kind.as_str())
}

/// The text of a whole message; `None` if it holds nothing for people.
pub(super) fn said(kind: &str, body: &[u8]) -> Option<Said> {
    let body = String::from_utf8_lossy(body);
    if kind != CPIM {
        return words(kind, &body).map(|text| Said { from: None, text });
    }
    // Headers of the message, an empty line, headers of its content, an empty line, its content.
    let (headers, content) = split_headers(&body);
    let (content_headers, content) = split_headers(content);
    let kind = header(content_headers, "Content-Type").map(|value| media_type(value.as_bytes()));
    let text = words(kind.as_deref().unwrap_or("text/plain"), content)?;
    Some(Said { from: header(headers, "From").map(str::to_owned), text })
}

fn words(kind: &str, content: &str) -> Option<String> {
    if NOTICES.contains(&kind) || content.trim().is_empty() {
        return None;
    }
    match kind.starts_with("text/") {
        true => Some(content.trim_end().to_owned()),
        false => Some(format!("({kind}, {} bytes, not kept)", content.len())),
    }
}

/// The lines before the first empty one, and the text after it.
fn split_headers(text: &str) -> (&str, &str) {
    let ends = [text.find("\r\n\r\n").map(|at| (at, 4)), text.find("\n\n").map(|at| (at, 2))];
    match ends.into_iter().flatten().min() {
        Some((at, length)) => (text.get(..at).unwrap_or(text), text.get(at + length..).unwrap_or_default()),
        None => (text, ""),
    }
}

fn header<'a>(headers: &'a str, name: &str) -> Option<&'a str> {
    headers.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_for_people_are_found_in_and_out_of_a_wrapper() {
        let wrapped = |kind: &str, text: &str| {
            format!("From: Alice <im:alice@example.com>\r\nTo: x\r\n\r\nContent-type: {kind}\r\n\r\n{text}")
        };
        for (kind, body, from, text) in [
            ("text/plain", "hello\r\n".to_owned(), None, "hello"),
            (
                CPIM,
                wrapped("text/plain; charset=utf-8", "hello"),
                Some("Alice <im:alice@example.com>"),
                "hello",
            ),
            (
                CPIM,
                "From: <im:a@b>\n\nContent-Type: text/plain\n\nhello".to_owned(),
                Some("<im:a@b>"),
                "hello",
            ),
            (CPIM, "nonsense\r\n\r\nmore\r\n\r\nhello".to_owned(), None, "hello"),
            (
                CPIM,
                wrapped("image/png", "123"),
                Some("Alice <im:alice@example.com>"),
                "(image/png, 3 bytes, not kept)",
            ),
        ] {
            let expected = Said { from: from.map(str::to_owned), text: text.to_owned() };
            assert_eq!(said(kind, body.as_bytes()), Some(expected), "{kind} {body}");
        }
    }

    #[test]
    fn notices_and_emptiness_say_nothing() {
        let typing = "<isComposing><state>active</state></isComposing>";
        for kind in NOTICES {
            assert_eq!(said(kind, typing.as_bytes()), None);
            let wrapped = format!("From: <im:a@b>\r\n\r\nContent-Type: {kind}\r\n\r\n{typing}");
            assert_eq!(said(CPIM, wrapped.as_bytes()), None);
        }
        assert_eq!(said("text/plain", b" \r\n"), None);
        assert_eq!(said(CPIM, b""), None);
    }

    proptest! {
        #[test]
        fn any_body_can_be_looked_at(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = said(CPIM, &body);
            let _ = said("text/plain", &body);
        }
    }
}
