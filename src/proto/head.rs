//! What was learnt of the head of a frame: its start line and headers (RFC 4975 §9, RFC 4976 §9).
//!
//! A [`Head`] is plain data without a lifetime: offsets into the octets it was parsed from, which the caller
//! keeps beside it, so both can travel to another core together. Invariants: every offset lies within those
//! octets; a head without a [`Defect`] has To-Path and From-Path, in this order and before all other headers,
//! and every URI in them is valid. Only [`super::parser`] makes heads. What a status or a method *means* is not
//! known here.

mod build;
mod rewrite;

use core::fmt;
use core::ops::Range;

use memchr::{memchr, memmem};

use super::status::Status;
use super::uri::Path;

pub(super) use build::{Ending, HeadBuilder, Tid};
pub use rewrite::Rewrite;

/// A frame's start line and headers, as offsets into their octets.
///
/// Methods that return octets take the octets the head was parsed from: `input[..consumed]` of the step that
/// yielded it. Given other octets they return nonsense or nothing, but never panic.
#[derive(Clone, Copy, Debug)]
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

/// What a start line begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A request and its method.
    Request(Method),
    /// A response and its status.
    Response(Status),
}

/// The methods this program knows. Methods are told apart by case.
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
    /// Any other; see [`Head::method_octets`].
    Other,
}

/// Failure-Report: which failures the sender wants to hear of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FailureReport {
    /// Every chunk is answered, its failure or timeout reported. The default.
    #[default]
    Yes,
    /// No 200; errors are told.
    Partial,
    /// No response and no failure report, ever.
    No,
}

/// Byte-Range: which octets of the message a chunk holds. The first octet is 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByteRange {
    /// The first octet of the chunk, at least 1.
    pub start: u64,
    /// The last octet, `start - 1` for none; `None` is `*`: unknown, or the chunk may be interrupted.
    pub end: Option<u64>,
    /// The size of the message; `None` is `*`: unknown.
    pub total: Option<u64>,
}

/// Why a head, though its frame is delimited, is answered with 400 or dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Defect {
    /// A header line without a name, a colon or of another shape, such as a folded one.
    #[error("a line is not a header")]
    HeaderLine,
    /// A control octet (bare CR or LF, NUL, ...) in a value or comment.
    #[error("a control octet in a value")]
    ControlOctet,
    /// A line longer than `line_bytes_max`.
    #[error("a line is too long")]
    LineTooLong,
    /// More than `headers_max` headers.
    #[error("too many headers")]
    TooManyHeaders,
    /// A response's comment longer than `comment_bytes_max`.
    #[error("the comment is too long")]
    CommentTooLong,
    /// A header that may stand once stands twice.
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
    /// Failure-Report or Success-Report has a value it cannot have.
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

    /// What is wrong with the head; the first defect found. Accessors then return what could be read.
    #[must_use]
    pub fn defect(&self) -> Option<Defect> {
        self.defect
    }

    /// How many octets the head has: up to and including the blank line, or up to the end-line where there is none.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a head is never empty")]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether a blank line followed the headers: the frame has a body, perhaps of no octets.
    #[must_use]
    pub fn has_body(&self) -> bool {
        self.has_body
    }

    /// The transaction id: 4 to 32 octets, compared by case.
    #[must_use]
    pub fn tid<'a>(&self, octets: &'a [u8]) -> &'a [u8] {
        self.tid.of(octets).unwrap_or_default()
    }

    /// A request's method, or a response's three digits.
    #[must_use]
    pub fn method_octets<'a>(&self, octets: &'a [u8]) -> &'a [u8] {
        self.method.of(octets).unwrap_or_default()
    }

    /// A response's comment; `None` where there is none.
    #[must_use]
    pub fn comment<'a>(&self, octets: &'a [u8]) -> Option<&'a [u8]> {
        self.comment.of(octets)
    }

    /// To-Path; empty where it is absent or no valid path.
    #[must_use]
    pub fn to_path<'a>(&self, octets: &'a [u8]) -> Path<'a> {
        Path::new(self.to_path.of(octets).unwrap_or_default())
    }

    /// From-Path; empty where it is absent or no valid path.
    #[must_use]
    pub fn from_path<'a>(&self, octets: &'a [u8]) -> Path<'a> {
        Path::new(self.from_path.of(octets).unwrap_or_default())
    }

    /// Use-Path (RFC 4976 §4.2). Its URIs have not been looked at: it is the client who must understand them.
    #[must_use]
    pub fn use_path<'a>(&self, octets: &'a [u8]) -> Option<Path<'a>> {
        self.use_path.of(octets).map(Path::new)
    }

    /// Message-ID: visible ASCII of at most `message_id_bytes_max` octets, opaque.
    #[must_use]
    pub fn message_id<'a>(&self, octets: &'a [u8]) -> Option<&'a [u8]> {
        self.message_id.of(octets)
    }

    /// Byte-Range. Its numbers are the peer's claims: nothing is to be allocated from them.
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
    pub fn status_header<'a>(&self, octets: &'a [u8]) -> Option<&'a [u8]> {
        self.status.of(octets)
    }

    /// The code in a REPORT's Status header if its namespace is `000`, whose codes mean what they mean in a response.
    #[must_use]
    pub fn reported_status(&self, octets: &[u8]) -> Option<Status> {
        let rest = self
            .status
            .of(octets)?
            .strip_prefix(b"000 ")?
            .trim_ascii_start();
        let (code, comment) = rest.split_at_checked(3)?;
        if !comment.is_empty() && !comment.starts_with(b" ") {
            return None;
        }
        Status::parse(code)
    }

    /// The value of Authorization.
    #[must_use]
    pub fn authorization<'a>(&self, octets: &'a [u8]) -> Option<&'a [u8]> {
        self.authorization.of(octets)
    }

    /// The value of the first WWW-Authenticate; [`Head::headers`] finds the others.
    #[must_use]
    pub fn www_authenticate<'a>(&self, octets: &'a [u8]) -> Option<&'a [u8]> {
        self.www_authenticate.of(octets)
    }

    /// The value of Authentication-Info.
    #[must_use]
    pub fn authentication_info<'a>(&self, octets: &'a [u8]) -> Option<&'a [u8]> {
        self.authentication_info.of(octets)
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
    pub fn content_type<'a>(&self, octets: &'a [u8]) -> Option<&'a [u8]> {
        self.content_type.of(octets)
    }

    /// The value of Content-Disposition.
    #[must_use]
    pub fn content_disposition<'a>(&self, octets: &'a [u8]) -> Option<&'a [u8]> {
        self.content_disposition.of(octets)
    }

    /// Names and values of all headers in their order, white space around values removed. Lines that are no header
    /// are left out.
    pub fn headers<'a>(
        &self,
        octets: &'a [u8],
    ) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = octets.get(..self.len()).unwrap_or(octets);
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

/// `name: value` without CRLF; `None` unless the name is a token with a colon right behind it.
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
    /// not beyond the octet after the message's last.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (start, rest) = value.split_at_checked(memchr(b'-', value)?)?;
        let rest = rest.strip_prefix(b"-")?;
        let (end, total) = rest.split_at_checked(memchr(b'/', rest)?)?;
        let total = total.strip_prefix(b"/")?;
        let range = Self {
            start: number(start)?,
            end: number_or_star(end)?,
            total: number_or_star(total)?,
        };
        let within = range
            .total
            .is_none_or(|total| range.start <= total.saturating_add(1));
        (range.start > 0 && within).then_some(range)
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
    if value == b"*" {
        Some(None)
    } else {
        number(value).map(Some)
    }
}

/// A part of a head. Heads are shorter than 4 GiB; [`Span::ABSENT`] lies outside every one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    const ABSENT: Self = Self {
        start: u32::MAX,
        end: u32::MAX,
    };

    fn new(range: Range<usize>) -> Self {
        Self {
            start: offset(range.start),
            end: offset(range.end),
        }
    }

    fn is_absent(self) -> bool {
        self == Self::ABSENT
    }

    fn of(self, octets: &[u8]) -> Option<&[u8]> {
        octets.get(self.start as usize..self.end as usize)
    }
}

/// The parser lets no head come near 4 GiB.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
