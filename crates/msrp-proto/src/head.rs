//! What the parser learnt of a frame's head: its start line and headers (RFC 4975 §9, RFC 4976 §9).
//!
//! A [`Head`] is plain data without a lifetime: offsets into the bytes it was parsed from. The caller keeps those bytes
//! beside it, so both can travel to another core together. Invariants: every offset lies within those bytes; a head
//! without a [`Defect`] has To-Path and From-Path, in this order and before all other headers, and every URI in them is
//! valid. Only [`super::parser`] makes heads. What a status or a method *means* is not known here.

mod build;
mod rewrite;

use core::fmt;
use core::ops::Range;

use memchr::{memchr, memmem};

use super::status::Status;
use super::uri::{MsrpUri, Path};

pub use build::TID_BYTES_MAX;
pub(super) use build::{CheckedPath, Ending, HeadBuilder, Tid};
pub use rewrite::Rewrite;

/// A frame's start line and headers, as a table of offsets into their bytes.
///
/// Methods that return bytes take the bytes the head was parsed from: `input[..consumed]` of the step that
/// yielded it. Given other bytes they return nonsense or nothing, but never panic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    len: u32,
    kind: Kind,
    has_body: bool,
    success_report: bool,
    failure_report: FailureReport,
    defect: Option<Defect>,
    tid: Span,
    method: Span,
    comment: Span,
    to_path: Span,
    from_path: Span,
    /// To-Path is present but not valid.
    bad_to_path: bool,
    bad_from_path: bool,
    use_path: Span,
    message_id: Span,
    status: Span,
    authorization: Span,
    www_authenticate: Span,
    authentication_info: Span,
    content_type: Span,
    content_disposition: Span,
    byte_range_text: Span,
    byte_range: Option<ByteRange>,
    /// Where the first Content-* or MIME header begins, else where the headers end.
    content_at: u32,
    expires: Option<u32>,
    min_expires: Option<u32>,
    max_expires: Option<u32>,
}

/// A request or a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A request and its method.
    Request(Method),
    /// A response and its status.
    Response(Status),
}

/// The methods this program knows. Case matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// RFC 4976: a client asks for a URI.
    Auth,
    /// RFC 4975: a chunk of a message.
    Send,
    /// RFC 4975: what became of a message. Never answered.
    Report,
    /// RFC 7701: a chat nickname.
    Nickname,
    /// Any other; see [`Head::method_bytes`].
    Other,
}

/// Failure-Report: which failures the sender wants to hear of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FailureReport {
    /// The peer answers every chunk and reports its failure or timeout. The default.
    #[default]
    Yes,
    /// No 200; errors are reported.
    Partial,
    /// No response and no failure report, ever.
    No,
}

/// Byte-Range: which bytes of the message a chunk holds. The first byte is 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByteRange {
    /// The first byte of the chunk, at least 1.
    pub start: u64,
    /// The last byte, `start - 1` for none; `None` is `*`: unknown, or the chunk may be interrupted.
    pub end: Option<u64>,
    /// The size of the message; `None` is `*`: unknown.
    pub total: Option<u64>,
}

/// Why a head, though its frame is delimited, gets a 400 or is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Defect {
    /// No method, one that is not a token, or text after it; a response whose code is not three digits.
    #[error("a bad start line")]
    StartLine,
    /// A header line without a name, a colon or of another shape, such as a folded one.
    #[error("a line is not a header")]
    HeaderLine,
    /// A control byte (bare CR or LF, NUL, ...) in a value or comment.
    #[error("a control byte in a value")]
    ControlByte,
    /// A value or comment that is not UTF-8 (RFC 4975 §9).
    #[error("a value is not UTF-8")]
    NotUtf8,
    /// A line longer than `line_bytes_max`.
    #[error("a line is too long")]
    LineTooLong,
    /// More than `headers_max` headers.
    #[error("too many headers")]
    TooManyHeaders,
    /// A response's comment longer than `comment_bytes_max`.
    #[error("the comment is too long")]
    CommentTooLong,
    /// A header that may appear only once appears twice.
    #[error("a header is repeated")]
    Repeated,
    /// To-Path or From-Path is missing.
    #[error("To-Path or From-Path is missing")]
    PathMissing,
    /// To-Path is not the first header or From-Path not the second.
    #[error("To-Path and From-Path do not come first")]
    PathOrder,
    /// A URI in To-Path or From-Path cannot be parsed, or there is none.
    #[error("a bad URI in a path")]
    BadUri,
    /// A URI longer than `uri_bytes_max` or with a session id longer than `session_id_bytes_max`.
    #[error("a URI is too long")]
    UriTooLong,
    /// A path of more than `path_uris_max` URIs.
    #[error("too many URIs in a path")]
    TooManyUris,
    /// Message-ID is missing from a SEND, empty, too long or not visible ASCII.
    #[error("missing or bad Message-ID")]
    MessageId,
    /// Byte-Range is malformed, overflows, starts at 0 or beyond the end of the message.
    #[error("bad Byte-Range")]
    ByteRange,
    /// Failure-Report or Success-Report has a value that it cannot have.
    #[error("bad Failure-Report or Success-Report")]
    ReportWish,
    /// Expires, Min-Expires or Max-Expires is not a number.
    #[error("bad Expires")]
    Expires,
    /// A response with a body, or one that does not end in `$`.
    #[error("a response with a body or a continuation flag")]
    ResponseShape,
}

impl Head {
    /// A request with its method, or a response with its status.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What is wrong with the head: the first defect. Accessors then return what could be read.
    #[must_use]
    pub fn defect(&self) -> Option<Defect> {
        self.defect
    }

    /// How many bytes the head has: up to and including the blank line, or up to the end-line where there is none.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a head is never empty")]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether a blank line followed the headers: the frame has a body, perhaps of no bytes.
    #[must_use]
    pub fn has_body(&self) -> bool {
        self.has_body
    }

    /// The transaction id: 1 to [`TID_BYTES_MAX`] bytes; case matters.
    #[must_use]
    pub fn tid<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        self.tid.of(bytes).unwrap_or_default()
    }

    /// A request's method, or a response's three digits.
    #[must_use]
    pub fn method_bytes<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        self.method.of(bytes).unwrap_or_default()
    }

    /// A response's comment; `None` where there is none.
    #[must_use]
    pub fn comment<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        self.comment.of(bytes)
    }

    /// To-Path; empty if it is absent or not valid.
    #[must_use]
    pub fn to_path<'a>(&self, bytes: &'a [u8]) -> Path<'a> {
        Path::new(self.to_path.of(bytes).filter(|_| !self.bad_to_path).unwrap_or_default())
    }

    /// From-Path; empty if it is absent or not valid.
    #[must_use]
    pub fn from_path<'a>(&self, bytes: &'a [u8]) -> Path<'a> {
        Path::new(self.from_path.of(bytes).filter(|_| !self.bad_from_path).unwrap_or_default())
    }

    /// The first URI of To-Path if it is valid, whatever the rest of the path is. A refusal comes from it.
    #[must_use]
    pub fn first_to<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        first_uri(self.to_path.of(bytes)?)
    }

    /// The first URI of From-Path if it is valid, whatever the rest of the path is. A refusal goes to it.
    #[must_use]
    pub fn first_from<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        first_uri(self.from_path.of(bytes)?)
    }

    /// Use-Path (RFC 4976 §4.2). Its URIs are not checked: the client must understand them.
    #[must_use]
    pub fn use_path<'a>(&self, bytes: &'a [u8]) -> Option<Path<'a>> {
        self.use_path.of(bytes).map(Path::new)
    }

    /// Message-ID: visible ASCII of at most `message_id_bytes_max` bytes, opaque.
    #[must_use]
    pub fn message_id<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        self.message_id.of(bytes)
    }

    /// Byte-Range. Its numbers are the peer's claims: allocate nothing from them.
    #[must_use]
    pub fn byte_range(&self) -> Option<ByteRange> {
        self.byte_range
    }

    /// Failure-Report, `Yes` where absent.
    #[must_use]
    pub fn failure_report(&self) -> FailureReport {
        self.failure_report
    }

    /// Success-Report, `false` where absent.
    #[must_use]
    pub fn success_report(&self) -> bool {
        self.success_report
    }

    /// The value of a REPORT's Status header: `000 200 OK`.
    #[must_use]
    pub fn status_header<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        self.status.of(bytes)
    }

    /// The code in a REPORT's Status header if its namespace is `000`, whose codes mean what they mean in a response.
    #[must_use]
    pub fn reported_status(&self, bytes: &[u8]) -> Option<Status> {
        let rest = self.status.of(bytes)?.strip_prefix(b"000 ")?.trim_ascii_start();
        let (code, comment) = rest.split_at_checked(3)?;
        if !comment.is_empty() && !comment.starts_with(b" ") {
            return None;
        }
        Status::parse(code)
    }

    /// The value of Authorization.
    #[must_use]
    pub fn authorization<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        self.authorization.of(bytes)
    }

    /// The value of the first WWW-Authenticate; [`Head::headers`] finds the others.
    #[must_use]
    pub fn www_authenticate<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        self.www_authenticate.of(bytes)
    }

    /// The value of Authentication-Info.
    #[must_use]
    pub fn authentication_info<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        self.authentication_info.of(bytes)
    }

    /// Expires in seconds, `u32::MAX` for any larger number.
    #[must_use]
    pub fn expires(&self) -> Option<u64> {
        self.expires.map(u64::from)
    }

    /// Min-Expires in seconds, `u32::MAX` for any larger number.
    #[must_use]
    pub fn min_expires(&self) -> Option<u64> {
        self.min_expires.map(u64::from)
    }

    /// Max-Expires in seconds, `u32::MAX` for any larger number.
    #[must_use]
    pub fn max_expires(&self) -> Option<u64> {
        self.max_expires.map(u64::from)
    }

    /// The value of Content-Type.
    #[must_use]
    pub fn content_type<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        self.content_type.of(bytes)
    }

    /// The value of Content-Disposition.
    #[must_use]
    pub fn content_disposition<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        self.content_disposition.of(bytes)
    }

    /// Names and values of all headers in their order, without white space around values. Leaves out lines that are not
    /// headers.
    pub fn headers<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = bytes.get(..self.len()).unwrap_or(bytes);
        let mut first = true;
        core::iter::from_fn(move || {
            loop {
                let end = memmem::find(rest, b"\r\n")?;
                let line = rest.get(..end)?;
                rest = rest.get(end + 2..)?;
                if core::mem::replace(&mut first, false) {
                    continue;
                }
                if let Some(header) = split_header(line) {
                    return Some(header);
                }
            }
        })
    }
}

fn first_uri(path: &[u8]) -> Option<&[u8]> {
    Path::new(path).first().filter(|uri| MsrpUri::parse(uri).is_ok())
}

/// `name: value` without CRLF; `None` unless the name is a token and a colon follows it at once.
fn split_header(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, value) = memchr(b':', line).and_then(|at| line.split_at_checked(at))?;
    if !super::uri::is_token(name) {
        return None;
    }
    Some((name, trim(value.strip_prefix(b":")?)))
}

/// Without the spaces and tabs at both ends. (`trim_ascii` would take CR and LF too.)
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

impl ByteRange {
    /// The value of a Byte-Range header. `None` unless it is well-formed, fits 64 bits, starts at 1 or later and
    /// not beyond the byte after the message's last.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (start, rest) = value.split_at_checked(memchr(b'-', value)?)?;
        let rest = rest.strip_prefix(b"-")?;
        let (end, total) = rest.split_at_checked(memchr(b'/', rest)?)?;
        let total = total.strip_prefix(b"/")?;
        let range = Self { start: number(start)?, end: number_or_star(end)?, total: number_or_star(total)? };
        let within = range.total.is_none_or(|total| range.start <= total.saturating_add(1));
        (range.start > 0 && within).then_some(range)
    }

    /// The same, without a total that it does not fit into. For ranges that we make: a sender may have sent more than
    /// it announced, and no byte lies beyond the last one of a message. `*` as the end stands for one byte or more.
    #[must_use]
    pub fn within_total(self) -> Self {
        let last = self.end.unwrap_or(self.start).max(self.start.saturating_sub(1));
        Self { total: self.total.filter(|total| last <= *total), ..self }
    }
}

impl fmt::Display for ByteRange {
    /// As on the wire: `1-*/36`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.start)?;
        match self.end {
            Some(end) => write!(f, "{end}/")?,
            None => f.write_str("*/")?,
        }
        match self.total {
            Some(total) => write!(f, "{total}"),
            None => f.write_str("*"),
        }
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        if !digit.is_ascii_digit() {
            return None;
        }
        number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })
}

fn number_or_star(value: &[u8]) -> Option<Option<u64>> {
    if value == b"*" { Some(None) } else { number(value).map(Some) }
}

/// A part of a head. Heads are shorter than 4 GiB; [`Span::ABSENT`] lies outside every one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    const ABSENT: Self = Self { start: u32::MAX, end: u32::MAX };

    fn new(range: Range<usize>) -> Self {
        Self { start: offset(range.start), end: offset(range.end) }
    }

    fn is_absent(self) -> bool {
        self == Self::ABSENT
    }

    fn of(self, bytes: &[u8]) -> Option<&[u8]> {
        bytes.get(self.start as usize..self.end as usize)
    }
}

/// The parser lets no head come near 4 GiB.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use crate::parser::{FramePart, Parser, ParserLimits};

    fn parse_with(limits: ParserLimits, bytes: &[u8]) -> Head {
        let step = Parser::new(limits).step(bytes).unwrap().unwrap();
        let FramePart::Head(head) = step.piece else { panic!("{step:?}") };
        assert_eq!(head.len(), step.consumed);
        head
    }

    fn parse(bytes: &[u8]) -> Head {
        parse_with(ParserLimits::default(), bytes)
    }

    /// A frame with the usual paths and `rest`, lines ended by LF here.
    fn frame(start: &str, rest: &str) -> Vec<u8> {
        let text = format!(
            "MSRP tid1 {start}\nTo-Path: msrp://h:1/t;tcp\nFrom-Path: msrp://h:2/f;tcp\n{rest}-------tid1$\n"
        );
        text.replace('\n', "\r\n").into_bytes()
    }

    #[test]
    fn every_known_header_is_read_whatever_its_case() {
        let bytes = frame(
            "SEND",
            "mEsSaGe-Id: m1\nsuccess-report: YES\nFAILURE-REPORT: Partial\nbyte-range: 3-*/9\nuse-path: msrp://u:1/u;tcp\n\
             status: 000 413 Stop\nauthorization: A\nwww-authenticate: W1\nWWW-Authenticate: W2\n\
             authentication-info: I\nexpires: 600\nmin-expires: 60\nmax-expires: 99999999999999999999999\n\
             X-Own:\tvalue \ncontent-disposition: attachment\ncontent-type: text/plain\n\n\n",
        );
        let head = parse(&bytes);
        assert_eq!(head.defect(), None);
        assert_eq!(head.kind(), Kind::Request(Method::Send));
        assert_eq!(head.tid(&bytes), b"tid1");
        assert_eq!(head.method_bytes(&bytes), b"SEND");
        assert_eq!(head.comment(&bytes), None);
        assert_eq!(head.to_path(&bytes).as_bytes(), b"msrp://h:1/t;tcp");
        assert_eq!(head.from_path(&bytes).as_bytes(), b"msrp://h:2/f;tcp");
        assert_eq!(head.use_path(&bytes).unwrap().as_bytes(), b"msrp://u:1/u;tcp");
        assert_eq!(head.message_id(&bytes), Some(&b"m1"[..]));
        assert!(head.success_report());
        assert_eq!(head.failure_report(), FailureReport::Partial);
        assert_eq!(head.byte_range(), Some(ByteRange { start: 3, end: None, total: Some(9) }));
        assert_eq!(head.status_header(&bytes), Some(&b"000 413 Stop"[..]));
        assert_eq!(head.reported_status(&bytes), Some(Status::STOP));
        assert_eq!(head.authorization(&bytes), Some(&b"A"[..]));
        assert_eq!(head.www_authenticate(&bytes), Some(&b"W1"[..]));
        assert_eq!(head.authentication_info(&bytes), Some(&b"I"[..]));
        assert_eq!((head.expires(), head.min_expires()), (Some(600), Some(60)));
        assert_eq!(head.max_expires(), Some(u64::from(u32::MAX)));
        assert_eq!(head.content_type(&bytes), Some(&b"text/plain"[..]));
        assert_eq!(head.content_disposition(&bytes), Some(&b"attachment"[..]));
        assert!(head.has_body());
        assert_eq!(head.headers(&bytes).count(), 18);
        assert!(head.headers(&bytes).any(|header| header == (b"X-Own", b"value")));
    }

    #[test]
    fn absent_headers_have_their_defaults() {
        let bytes = frame("AUTH", "");
        let head = parse(&bytes);
        assert_eq!(head.defect(), None);
        assert_eq!(head.failure_report(), FailureReport::Yes);
        assert!(!head.success_report() && !head.has_body());
        assert_eq!((head.byte_range(), head.expires(), head.message_id(&bytes)), (None, None, None));
        assert!(head.use_path(&bytes).is_none());
    }

    #[test]
    fn a_response_needs_no_comment() {
        for (start, comment) in [("200", None), ("200 ", Some(&b""[..])), ("200 OK then", Some(b"OK then"))] {
            let bytes = frame(start, "");
            let head = parse(&bytes);
            assert_eq!((head.defect(), head.kind()), (None, Kind::Response(Status::OK)), "{start:?}");
            assert_eq!(head.comment(&bytes), comment, "{start:?}");
            assert_eq!(head.method_bytes(&bytes), b"200");
        }
    }

    #[test]
    fn methods_are_told_apart_by_case_and_unknown_ones_accepted() {
        for (start, method) in [
            ("AUTH", Method::Auth),
            ("REPORT", Method::Report),
            ("NICKNAME", Method::Nickname),
            ("SENDX", Method::Other),
        ] {
            let bytes = frame(start, "");
            assert_eq!(parse(&bytes).kind(), Kind::Request(method));
            assert_eq!(parse(&bytes).method_bytes(&bytes), start.as_bytes());
        }
    }

    #[test]
    fn what_receivers_must_tolerate_is_no_defect() {
        for rest in [
            "Message-ID: 550e8400-e29b-41d4-a716-446655440000\n", // longer than an ident
            "Message-ID: m\nX-Same: 1\nX-Same: 2\n",              // unknown headers may repeat
            "Message-ID: m\nX-Text: caf\u{e9} \u{2615}\n",        // UTF-8
            "Message-ID: m\nX-Empty:\nX-Blank:   \n",             // no value
            "Message-ID:m\nByte-Range:  1-0/0\n",                 // white space behind the colon
            "Message-ID: m\nKeep-Alive: yes\nByte-Range: 1-0/0\n", // an empty SEND
            "Message-ID: m\n\nbody of no type\n",                 // a body without Content-Type
            "Message-ID: m\nContent-Type: a/b\nX-Late: 1\n\n\n",  // a header behind Content-Type
        ] {
            assert_eq!(parse(&frame("SEND", rest)).defect(), None, "{rest:?}");
        }
        assert_eq!(parse(&frame("REPORT", "Message-ID: m\nStatus: 000 200 OK\n")).defect(), None);
        assert_eq!(parse(&frame("200 OK", "Message-ID: m\n")).defect(), None);
        assert_eq!(parse(&frame("XYZ", "")).defect(), None);
    }

    #[test]
    fn what_is_wrong_is_noted_and_the_rest_still_read() {
        let id = "Message-ID: m\n";
        for (rest, defect) in [
            (format!("{id}no colon\n"), Defect::HeaderLine),
            (format!("{id}: no name\n"), Defect::HeaderLine),
            (format!("{id}X Y: space in the name\n"), Defect::HeaderLine),
            (format!("{id}X-A : space before the colon\n"), Defect::HeaderLine),
            (format!("{id}X-A: 1\n folded\n"), Defect::HeaderLine),
            (format!("{id}-------tid2$\n"), Defect::HeaderLine),
            (format!("{id}X-A: a\rb\n"), Defect::ControlByte),
            (format!("{id}X-A: a\0b\n"), Defect::ControlByte),
            (format!("{id}X-A: a\u{7f}\n"), Defect::ControlByte),
            (format!("{id}Message-ID: m\n"), Defect::Repeated),
            (format!("{id}To-Path: msrp://h:1/t;tcp\n"), Defect::Repeated),
            (format!("{id}from-path: msrp://h:1/t;tcp\n"), Defect::Repeated),
            (format!("{id}Byte-Range: 1-1/1\nByte-Range: 1-1/1\n"), Defect::Repeated),
            (format!("{id}Authorization: a\nAuthorization: a\n"), Defect::Repeated),
            (format!("{id}Expires: 1\nExpires: 1\n"), Defect::Repeated),
            (format!("{id}Byte-Range: 0-1/1\n"), Defect::ByteRange),
            (format!("{id}Failure-Report: maybe\n"), Defect::ReportWish),
            (format!("{id}Success-Report: partial\n"), Defect::ReportWish),
            (format!("{id}Expires: -1\n"), Defect::Expires),
            (format!("{id}Expires:\n"), Defect::Expires),
            ("Message-ID:\n".to_owned(), Defect::MessageId),
            ("Message-ID: a b\n".to_owned(), Defect::MessageId),
            (format!("Message-ID: {}\n", "m".repeat(129)), Defect::MessageId),
            (String::new(), Defect::MessageId),
        ] {
            let bytes = frame("SEND", &rest);
            let head = parse(&bytes);
            assert_eq!(head.defect(), Some(defect), "{rest:?}");
            assert_eq!(head.tid(&bytes), b"tid1");
            assert_eq!(head.to_path(&bytes).len(), 1);
            assert_eq!(head.from_path(&bytes).len(), 1);
        }
    }

    #[test]
    fn a_bare_lf_ends_no_line() {
        let bytes =
            b"MSRP tid1 SEND\r\nTo-Path: msrp://h:1/t;tcp\nFrom-Path: msrp://h:2/f;tcp\r\n-------tid1$\r\n";
        let head = parse(bytes);
        assert_eq!(head.defect(), Some(Defect::ControlByte));
        assert!(head.to_path(bytes).is_empty() && head.from_path(bytes).is_empty());
    }

    #[test]
    fn paths_must_be_there_first_valid_and_in_order() {
        let (to, from) = ("To-Path: msrp://h:1/t;tcp\r\n", "From-Path: msrp://h:2/f;tcp\r\n");
        for (headers, defect, readable) in [
            (String::new(), Defect::PathMissing, (0, 0)),
            (to.to_owned(), Defect::PathMissing, (1, 0)),
            (format!("{from}{to}"), Defect::PathOrder, (1, 1)),
            (format!("X-A: 1\r\n{to}{from}"), Defect::PathOrder, (1, 1)),
            (format!("{to}X-A: 1\r\n{from}"), Defect::PathOrder, (1, 1)),
            (format!("To-Path: \r\n{from}"), Defect::BadUri, (0, 1)),
            (format!("To-Path: msrp://h:1/t;tcp sip:x\r\n{from}"), Defect::BadUri, (0, 1)),
            (format!("{to}From-Path: msrp://h:2/f;tcp\tmsrp://h:2/f;tcp\r\n"), Defect::BadUri, (1, 0)),
        ] {
            let bytes = format!("MSRP tid1 AUTH\r\n{headers}-------tid1$\r\n").into_bytes();
            let head = parse(&bytes);
            assert_eq!(head.defect(), Some(defect), "{headers:?}");
            assert_eq!((head.to_path(&bytes).len(), head.from_path(&bytes).len()), readable, "{headers:?}");
        }
    }

    // An answer needs no more than where it goes and where it comes from.
    #[test]
    fn first_uri_of_a_path_is_read_whatever_the_rest_is() {
        let limits = ParserLimits { line_bytes_max: 200, uri_bytes_max: 40, ..ParserLimits::default() };
        let uri = "msrp://h:1/t;tcp";
        let long = format!("msrp://h:1/{};tcp", "t".repeat(40));
        let many = [uri; 17].join(" ");
        for (path, defect, is_read) in [
            (format!("{uri} sip:x"), Defect::BadUri, true),
            (format!("{uri} msrp://h:1/t"), Defect::BadUri, true),
            (format!("{uri} {long}"), Defect::UriTooLong, true),
            (many[..].into(), Defect::LineTooLong, true),
            (format!("{uri} {}", "x".repeat(300)), Defect::LineTooLong, true),
            (format!("{uri} \u{e9} \0"), Defect::ControlByte, true),
            (long, Defect::UriTooLong, true),
            (format!("sip:x {uri}"), Defect::BadUri, false),
            (format!("{uri}\n{uri}"), Defect::ControlByte, false),
            (format!("{uri}\t{uri}"), Defect::BadUri, false),
            (String::new(), Defect::BadUri, false),
        ] {
            let parse = |to: &str, from: &str| {
                let bytes =
                    format!("MSRP tid1 AUTH\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n-------tid1$\r\n");
                (parse_with(limits.clone(), bytes.as_bytes()), bytes.into_bytes())
            };
            let first = path.split(' ').next().filter(|_| is_read).map(str::as_bytes);
            let (head, bytes) = parse(&path, uri);
            assert_eq!((head.defect(), head.first_to(&bytes)), (Some(defect), first), "{path:?}");
            assert!(head.to_path(&bytes).is_empty() && head.first_from(&bytes) == Some(uri.as_bytes()));
            let (head, bytes) = parse(uri, &path);
            assert_eq!((head.defect(), head.first_from(&bytes)), (Some(defect), first), "{path:?}");
            assert!(head.from_path(&bytes).is_empty() && head.first_to(&bytes) == Some(uri.as_bytes()));
        }
    }

    // A path that passed this relay with the most URIs allowed comes back with our own URIs in front.
    #[test]
    fn to_path_of_what_comes_back_has_room_for_our_own_uris() {
        let limits = ParserLimits {
            path_uris_max: 2,
            line_bytes_max: 70,
            uri_bytes_max: 20,
            ..ParserLimits::default()
        };
        let uri = "msrp://h:1/t;tcp";
        let parse = |parser: &mut Parser, start: &str, to: usize, from: usize| {
            let (to, from) = (vec![uri; to].join(" "), vec![uri; from].join(" "));
            let bytes = format!(
                "MSRP tid1 {start}\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\nMessage-ID: m\r\n-------tid1$\r\n"
            );
            let step = parser.step(bytes.as_bytes()).unwrap().unwrap();
            let FramePart::Head(head) = step.piece else { panic!("{step:?}") };
            let end = parser.step(bytes.as_bytes().get(step.consumed..).unwrap()).unwrap().unwrap();
            assert!(matches!(end.piece, FramePart::End(_)));
            head.defect()
        };
        let mut parser = Parser::new(limits);
        for start in ["REPORT", "200 OK"] {
            assert_eq!(parse(&mut parser, start, 4, 2), None, "{start}");
            assert_eq!(parse(&mut parser, start, 5, 2), Some(Defect::TooManyUris), "{start}");
            assert_eq!(parse(&mut parser, start, 1, 3), Some(Defect::TooManyUris), "{start}");
        }
        // Also after such a path has been found right.
        for start in ["SEND", "NICKNAME"] {
            assert_eq!(parse(&mut parser, start, 2, 2), None, "{start}");
            assert_eq!(parse(&mut parser, "REPORT", 3, 2), None);
            assert_eq!(parse(&mut parser, start, 3, 1), Some(Defect::TooManyUris), "{start}");
        }
        // The line that holds them is also longer.
        assert!(format!("To-Path: {}", [uri; 4].join(" ")).len() > 70);
    }

    #[test]
    fn total_that_a_range_does_not_fit_into_is_left_out() {
        for (text, within) in [
            ("1-12/12", "1-12/12"),
            ("1-15/12", "1-15/*"),
            ("13-*/12", "13-*/*"),
            ("13-12/12", "13-12/12"),
            ("12-*/12", "12-*/12"),
            ("1-0/0", "1-0/0"),
            ("1-*/0", "1-*/*"),
            ("1-*/*", "1-*/*"),
        ] {
            assert_eq!(ByteRange::parse(text.as_bytes()).unwrap().within_total().to_string(), within);
        }
    }

    #[test]
    fn each_limit_of_a_part_is_exact() {
        let limits = ParserLimits {
            headers_max: 4,
            line_bytes_max: 60,
            path_uris_max: 2,
            uri_bytes_max: 24,
            session_id_bytes_max: 6,
            comment_bytes_max: 5,
            message_id_bytes_max: 8,
            ..ParserLimits::default()
        };
        let request = |to: &str, rest: &str| {
            format!(
                "MSRP tid1 AUTH\r\nTo-Path: {to}\r\nFrom-Path: msrp://h:2/f;tcp\r\n{rest}-------tid1$\r\n"
            )
        };
        let uri = "msrp://h:1/t;tcp";
        let check = |text: String, defect| {
            assert_eq!(parse_with(limits.clone(), text.as_bytes()).defect(), defect, "{text}")
        };
        check(request(uri, "A: 1\r\nA: 1\r\n"), None);
        check(request(uri, "A: 1\r\nA: 1\r\nA: 1\r\n"), Some(Defect::TooManyHeaders));
        check(request(uri, &format!("A: {}\r\n", "x".repeat(57))), None);
        check(request(uri, &format!("A: {}\r\n", "x".repeat(58))), Some(Defect::LineTooLong));
        check(request(&format!("{uri} {uri}"), ""), None);
        check(request(&format!("{uri} {uri} {uri}"), ""), Some(Defect::TooManyUris));
        check(request("msrp://hosthosthos:1;tcp", ""), None);
        check(request("msrp://hosthosthost:1;tcp", ""), Some(Defect::UriTooLong));
        check(request("msrp://h:1/sessio;tcp", ""), None);
        check(request("msrp://h:1/session;tcp", ""), Some(Defect::UriTooLong));
        check(request(uri, "Message-ID: 12345678\r\n"), None);
        check(request(uri, "Message-ID: 123456789\r\n"), Some(Defect::MessageId));
        check(request(uri, "").replace("AUTH", "200 12345"), None);
        check(request(uri, "").replace("AUTH", "200 123456"), Some(Defect::CommentTooLong));
    }

    // RFC 4975 section 7.2: a response has no body and ends the message.
    #[test]
    fn a_response_with_a_body_or_a_flag_is_defective() {
        assert_eq!(parse(&frame("200 OK", "\nbody\n")).defect(), Some(Defect::ResponseShape));
        let text = String::from_utf8(frame("200 OK", "")).unwrap().replace("tid1$", "tid1+");
        assert_eq!(parse(text.as_bytes()).defect(), Some(Defect::ResponseShape));
    }

    #[test]
    fn byte_ranges_are_read_and_written_alike() {
        for text in [
            "1-0/0",
            "1-*/*",
            "21-36/36",
            "37-36/36",
            "1-5/*",
            "18446744073709551615-*/*",
            "5-*/18446744073709551615",
        ] {
            assert_eq!(ByteRange::parse(text.as_bytes()).unwrap().to_string(), text);
        }
        for text in [
            "",
            "1",
            "1-2",
            "1/2",
            "-1/1",
            "1-/1",
            "1-1/",
            "0-1/1",
            "*-1/1",
            "38-38/36",
            "18446744073709551616-*/*",
            "1-18446744073709551616/*",
            "1-*/18446744073709551616",
            "+1-1/1",
            "1 -1/1",
            "1-1/1 x",
            "a-1/1",
        ] {
            assert_eq!(ByteRange::parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn only_namespace_000_reports_a_status() {
        for (value, status) in [
            ("000 200 OK", Some(Status::OK)),
            ("000 408", Some(Status::TIMEOUT)),
            ("001 200 OK", None),
            ("000 2000", None),
            ("000 20", None),
            ("000", None),
        ] {
            let bytes = frame("REPORT", &format!("Status: {value}\n"));
            assert_eq!(parse(&bytes).reported_status(&bytes), status, "{value:?}");
        }
    }

    #[test]
    fn a_head_is_small_enough_to_be_copied_about() {
        assert!(size_of::<Head>() <= 208, "{}", size_of::<Head>());
    }

    #[test]
    fn a_head_given_other_bytes_returns_something_and_does_not_panic() {
        let head = parse(&frame("SEND", "Message-ID: m\nByte-Range: 1-1/1\n\nx\n"));
        for len in 0..40 {
            let other = vec![b' '; len];
            let _ = (head.tid(&other), head.to_path(&other).first(), head.headers(&other).count());
            let mut out = Vec::new();
            head.rewrite(&other, &Rewrite { tid: b"x", moves: 1, byte_range: None }, &mut out);
        }
    }
}
