//! Makes a [`Head`] from its lines, one after the other, as they arrive.
//!
//! Invariant: whatever the lines hold, the head stays usable as far as it can be read. The first fault is noted as its
//! [`Defect`]. Only a start line without a transaction id ends it all, because then the frame's end cannot be
//! recognised. Each line is read once. The text of an invalid path is kept: an answer needs only its first URI.

use core::ops::Range;

use memchr::memchr;

use super::{ByteRange, Defect, FailureReport, Head, Kind, Method, Span, offset, split_header, trim};
use crate::parser::{Flag, ParserLimits};
use crate::status::Status;
use crate::uri::{MsrpUri, Path, is_token};

/// The most bytes of a peer's transaction id. RFC 4975 §9 has 4 to 32. Some peers send one more character, a hash, or
/// an id that begins with a sign, and mean no harm. A Message-ID, an `ident` too, may have as many by default: each
/// connection keeps room for one while a frame lasts. Our own ids keep to the grammar.
pub const TID_BYTES_MAX: usize = 128;
/// The most bytes of a method, which is logged and forwarded. The names in use have four to eleven.
const METHOD_BYTES_MAX: usize = 64;
/// How many URIs of this relay the To-Path of a returning frame may have more than the From-Path that it answers: both
/// ends may be sessions of ours, and no third one can be on the way.
const OWN_URIS_MAX: usize = 2;

/// A transaction id, kept while the frame lasts, because the bytes of its head are gone by then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tid {
    bytes: [u8; TID_BYTES_MAX],
    len: u8,
}

impl Tid {
    /// `None` unless `tid` is 1 to [`TID_BYTES_MAX`] visible bytes. With any of these, the end-line can be found.
    fn new(tid: &[u8]) -> Option<Self> {
        let mut bytes = [0; TID_BYTES_MAX];
        if tid.is_empty() || !tid.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        bytes.get_mut(..tid.len())?.copy_from_slice(tid);
        Some(Self { bytes, len: u8::try_from(tid.len()).ok()? })
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// What follows the headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// A blank line and a body.
    Body,
    /// The end-line.
    EndLine(Flag),
}

/// A header's path in the head before. Most frames of a connection have the same paths, which need not be checked byte
/// by byte again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CheckedPath {
    bytes: [u8; Self::BYTES_MAX],
    len: u8,
}

impl CheckedPath {
    /// A longer path is checked each time.
    const BYTES_MAX: usize = 240;
    pub(crate) const NONE: Self = Self { bytes: [0; Self::BYTES_MAX], len: 0 };

    fn holds(&self, text: &[u8]) -> bool {
        !text.is_empty() && self.bytes.get(..usize::from(self.len)) == Some(text)
    }

    fn keep(&mut self, text: &[u8]) {
        if let (Some(room), Ok(len)) = (self.bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            room.copy_from_slice(text);
            self.len = len;
        }
    }
}

/// A head of which some lines have been read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadBuilder {
    head: Head,
    /// How many header lines there were, good or bad.
    headers: u32,
    /// One bit for each [`Known`] header met.
    seen: u32,
}

/// The headers that this program reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    ToPath,
    FromPath,
    MessageId,
    ByteRange,
    FailureReport,
    SuccessReport,
    UsePath,
    Status,
    Authorization,
    WwwAuthenticate,
    AuthenticationInfo,
    Expires,
    MinExpires,
    MaxExpires,
    ContentType,
    ContentDisposition,
}

impl HeadBuilder {
    /// Reads a start line, given without its CRLF. `None` if it has no transaction id.
    pub(crate) fn start(line: &[u8], limits: &ParserLimits) -> Option<(Self, Tid)> {
        let rest = trim_start(line.strip_prefix(b"MSRP ")?);
        let tid_at = line.len() - rest.len();
        let (text, behind) = rest.split_at_checked(memchr(b' ', rest).unwrap_or(rest.len()))?;
        let tid = Tid::new(text)?;
        let mut head = Head::blank();
        head.tid = Span::new(tid_at..tid_at + text.len());
        let word = trim_start(behind);
        let word_at = line.len() - word.len();
        if word.first().is_some_and(u8::is_ascii_digit) {
            head.take_status(word, word_at, limits);
        } else {
            head.take_method(trim(word), word_at);
        }
        if line.len() > limits.line_bytes_max {
            head.note(Defect::LineTooLong);
        }
        Some((Self { head, headers: 0, seen: 0 }, tid))
    }

    /// Reads the header line `bytes[line]`, without its CRLF. `paths` are the last To-Path and From-Path that were
    /// right under the same limits.
    pub(crate) fn header(
        &mut self,
        bytes: &[u8],
        line: Range<usize>,
        limits: &ParserLimits,
        paths: &mut [CheckedPath; 2],
    ) {
        self.headers = self.headers.saturating_add(1);
        if self.headers as usize > limits.headers_max {
            self.head.note(Defect::TooManyHeaders);
        }
        let (at, line_bytes) = (line.start, line.len());
        let Some((name, value)) = bytes.get(line).and_then(locate) else {
            self.head.note(if line_bytes > limits.line_bytes_max {
                Defect::LineTooLong
            } else {
                Defect::HeaderLine
            });
            return;
        };
        let (name, value) = (at + name.start..at + name.end, at + value.start..at + value.end);
        if self.head.content_at == u32::MAX && bytes.get(name.clone()).is_some_and(is_content) {
            self.head.content_at = offset(at);
        }
        let text = bytes.get(value.clone()).unwrap_or_default();
        let known = bytes.get(name).and_then(Known::of);
        let [to_path, from_path] = paths;
        let path = match known {
            Some(Known::ToPath) => Some(to_path),
            Some(Known::FromPath) => Some(from_path),
            _ => None,
        };
        let checked = path.as_ref().is_some_and(|path| path.holds(text));
        let wrong = if line_bytes > limits.line_bytes_max + self.own_bytes(known, limits) {
            Some(Defect::LineTooLong)
        } else if checked {
            None
        } else {
            defect_of_text(text)
        };
        let Some(known) = known else {
            return wrong.into_iter().for_each(|defect| self.head.note(defect));
        };
        let span = Span::new(value);
        if let Some(defect) = wrong {
            self.head.note(defect);
            if path.is_some() && self.is_first(known) {
                self.head.take_bad_path(known, span);
            }
        } else if self.is_first(known) {
            self.known((known, span), text, limits, path.filter(|_| !checked));
        }
    }

    /// Whether a header appears for the first time. A second one is a defect, except a challenge for another algorithm.
    fn is_first(&mut self, known: Known) -> bool {
        let bit = 1 << known as u32;
        let is_first = self.seen & bit == 0;
        if !is_first && known != Known::WwwAuthenticate {
            self.head.note(Defect::Repeated);
        }
        self.seen |= bit;
        is_first
    }

    /// Whether the frame goes back the way that another frame came through this relay: its To-Path is that frame's
    /// From-Path with our own URIs in front.
    fn comes_back(&self) -> bool {
        matches!(self.head.kind, Kind::Response(_) | Kind::Request(Method::Report))
    }

    /// How many bytes our own URIs may add to a line.
    fn own_bytes(&self, known: Option<Known>, limits: &ParserLimits) -> usize {
        if known == Some(Known::ToPath) && self.comes_back() {
            OWN_URIS_MAX * (limits.uri_bytes_max + 1)
        } else {
            0
        }
    }

    /// `path` keeps the value if it is a valid path. `None` if it is not a path, or known to be valid.
    fn known(
        &mut self,
        (known, span): (Known, Span),
        text: &[u8],
        limits: &ParserLimits,
        path: Option<&mut CheckedPath>,
    ) {
        if matches!((known, self.headers), (Known::ToPath, 2..) | (Known::FromPath, 1 | 3..)) {
            self.head.note(Defect::PathOrder);
        }
        if let Some(path) = path {
            let own = if known == Known::ToPath && self.comes_back() { OWN_URIS_MAX } else { 0 };
            match check_path(text, own, limits) {
                // A path with more URIs than most frames may have is not right for every other frame.
                Ok(uris) if uris <= limits.path_uris_max => path.keep(text),
                Ok(_) => {}
                Err(defect) => {
                    self.head.note(defect);
                    return self.head.take_bad_path(known, span);
                }
            }
        }
        self.head.take(known, text, span, limits);
    }

    /// The head of `len` bytes, all lines read.
    pub(crate) fn finish(mut self, len: usize, ending: Ending) -> Head {
        let head = &mut self.head;
        head.len = offset(len);
        head.has_body = ending == Ending::Body;
        if head.content_at == u32::MAX {
            head.content_at = offset(if head.has_body { len.saturating_sub(2) } else { len });
        }
        match head.kind {
            Kind::Response(_) if ending != Ending::EndLine(Flag::Last) => head.note(Defect::ResponseShape),
            Kind::Request(Method::Send) if head.message_id.is_absent() => head.note(Defect::MessageId),
            _ => {}
        }
        if head.to_path.is_absent() || head.from_path.is_absent() {
            head.note(Defect::PathMissing);
        }
        self.head
    }
}

impl Known {
    fn of(name: &[u8]) -> Option<Self> {
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        // The length first: it separates most names.
        match name.len() {
            6 if is(b"Status") => Some(Self::Status),
            7 if is(b"To-Path") => Some(Self::ToPath),
            7 if is(b"Expires") => Some(Self::Expires),
            8 if is(b"Use-Path") => Some(Self::UsePath),
            9 if is(b"From-Path") => Some(Self::FromPath),
            10 if is(b"Message-ID") => Some(Self::MessageId),
            10 if is(b"Byte-Range") => Some(Self::ByteRange),
            11 if is(b"Min-Expires") => Some(Self::MinExpires),
            11 if is(b"Max-Expires") => Some(Self::MaxExpires),
            12 if is(b"Content-Type") => Some(Self::ContentType),
            13 if is(b"Authorization") => Some(Self::Authorization),
            14 if is(b"Failure-Report") => Some(Self::FailureReport),
            14 if is(b"Success-Report") => Some(Self::SuccessReport),
            16 if is(b"WWW-Authenticate") => Some(Self::WwwAuthenticate),
            19 if is(b"Authentication-Info") => Some(Self::AuthenticationInfo),
            19 if is(b"Content-Disposition") => Some(Self::ContentDisposition),
            _ => None,
        }
    }
}

impl Head {
    fn blank() -> Self {
        Self {
            len: 0,
            kind: Kind::Request(Method::Other),
            has_body: false,
            success_report: false,
            failure_report: FailureReport::Yes,
            defect: None,
            tid: Span::ABSENT,
            method: Span::ABSENT,
            comment: Span::ABSENT,
            to_path: Span::ABSENT,
            from_path: Span::ABSENT,
            bad_to_path: false,
            bad_from_path: false,
            use_path: Span::ABSENT,
            message_id: Span::ABSENT,
            status: Span::ABSENT,
            authorization: Span::ABSENT,
            www_authenticate: Span::ABSENT,
            authentication_info: Span::ABSENT,
            content_type: Span::ABSENT,
            content_disposition: Span::ABSENT,
            byte_range_text: Span::ABSENT,
            byte_range: None,
            content_at: u32::MAX,
            expires: None,
            min_expires: None,
            max_expires: None,
        }
    }

    /// A response's code and comment. A word that begins with a digit is never answered, even if it is not a response.
    fn take_status(&mut self, word: &[u8], at: usize, limits: &ParserLimits) {
        let (code, behind) = word.split_at_checked(3).unwrap_or((word, b""));
        let status = Status::parse(code).filter(|_| behind.is_empty() || behind.starts_with(b" "));
        self.kind = Kind::Response(status.unwrap_or(Status::BAD_REQUEST));
        if status.is_none() {
            return self.note(Defect::StartLine);
        }
        self.method = Span::new(at..at + code.len());
        if let Some(comment) = behind.strip_prefix(b" ") {
            self.comment = Span::new(at + code.len() + 1..at + word.len());
            self.check_comment(comment, limits);
        }
    }

    /// A request's method. If a known method stands first, the request has that method, whatever follows it.
    fn take_method(&mut self, word: &[u8], at: usize) {
        let (name, behind) =
            word.split_at_checked(memchr(b' ', word).unwrap_or(word.len())).unwrap_or_default();
        self.kind = Kind::Request(method(name));
        if !is_token(name) || name.len() > METHOD_BYTES_MAX || !behind.is_empty() {
            return self.note(Defect::StartLine);
        }
        self.method = Span::new(at..at + name.len());
    }

    /// Keeps an invalid path because its first URI is needed.
    fn take_bad_path(&mut self, known: Known, span: Span) {
        match known {
            Known::ToPath => (self.to_path, self.bad_to_path) = (span, true),
            Known::FromPath => (self.from_path, self.bad_from_path) = (span, true),
            _ => {}
        }
    }

    /// Keeps what a known header says, or notes what is wrong with it.
    fn take(&mut self, known: Known, text: &[u8], span: Span, limits: &ParserLimits) {
        match known {
            Known::ToPath => self.to_path = span,
            Known::FromPath => self.from_path = span,
            Known::MessageId => match check_message_id(text, limits) {
                Ok(()) => self.message_id = span,
                Err(defect) => self.note(defect),
            },
            Known::ByteRange => {
                self.byte_range = self.or_note(ByteRange::parse(text), Defect::ByteRange);
                self.byte_range_text = span;
            }
            Known::FailureReport => {
                self.failure_report =
                    self.or_note(failure_report(text), Defect::ReportWish).unwrap_or_default();
            }
            Known::SuccessReport => {
                self.success_report = self.or_note(yes_or_no(text), Defect::ReportWish).unwrap_or_default();
            }
            Known::UsePath => self.use_path = span,
            Known::Status => self.status = span,
            Known::Authorization => self.authorization = span,
            Known::WwwAuthenticate => self.www_authenticate = span,
            Known::AuthenticationInfo => self.authentication_info = span,
            Known::Expires => self.expires = self.or_note(seconds(text), Defect::Expires),
            Known::MinExpires => self.min_expires = self.or_note(seconds(text), Defect::Expires),
            Known::MaxExpires => self.max_expires = self.or_note(seconds(text), Defect::Expires),
            Known::ContentType => self.content_type = span,
            Known::ContentDisposition => self.content_disposition = span,
        }
    }

    fn check_comment(&mut self, comment: &[u8], limits: &ParserLimits) {
        if comment.len() > limits.comment_bytes_max {
            self.note(Defect::CommentTooLong);
        }
        if let Some(defect) = defect_of_text(comment) {
            self.note(defect);
        }
    }

    fn or_note<T>(&mut self, value: Option<T>, defect: Defect) -> Option<T> {
        if value.is_none() {
            self.note(defect);
        }
        value
    }

    /// Only the first defect counts.
    fn note(&mut self, defect: Defect) {
        self.defect.get_or_insert(defect);
    }
}

/// Methods are told apart by case.
fn method(name: &[u8]) -> Method {
    match name {
        b"SEND" => Method::Send,
        b"REPORT" => Method::Report,
        b"AUTH" => Method::Auth,
        b"NICKNAME" => Method::Nickname,
        _ => Method::Other,
    }
}

fn trim_start(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

/// Where in a header line its name and its value are.
fn locate(line: &[u8]) -> Option<(Range<usize>, Range<usize>)> {
    let (name, value) = split_header(line)?;
    let behind = line.get(name.len() + 1..)?;
    let start = name.len() + 1 + behind.iter().take_while(|&&byte| byte == b' ' || byte == b'\t').count();
    // A value of only white space ends where the line does.
    let start = start.min(line.len() - value.len());
    Some((0..name.len(), start..start + value.len()))
}

/// Content-* and MIME headers come last: nothing may be put behind them.
fn is_content(name: &[u8]) -> bool {
    let begins =
        |prefix: &[u8]| name.get(..prefix.len()).is_some_and(|front| front.eq_ignore_ascii_case(prefix));
    begins(b"Content-") || begins(b"MIME-")
}

/// No value may hold control bytes except the tab: CR, LF or NUL would smuggle headers into the next hop. Nor anything
/// but UTF-8: some clients decode it, and end their connection if that fails.
fn defect_of_text(text: &[u8]) -> Option<Defect> {
    // Looks at every byte, whatever it finds: so the compiler can check many bytes at a time.
    let is_control = |byte: u8| (byte < b' ' && byte != b'\t') | (byte == 0x7f);
    if text.iter().fold(false, |found, &byte| found | is_control(byte)) {
        return Some(Defect::ControlByte);
    }
    core::str::from_utf8(text).is_err().then_some(Defect::NotUtf8)
}

/// How many URIs there are, if all are valid. `own` of them may be ours, beyond what a peer may send.
fn check_path(text: &[u8], own: usize, limits: &ParserLimits) -> Result<usize, Defect> {
    let mut count = 0;
    for bytes in Path::new(text).uris() {
        count += 1;
        if count > limits.path_uris_max + own {
            return Err(Defect::TooManyUris);
        }
        if bytes.len() > limits.uri_bytes_max {
            return Err(Defect::UriTooLong);
        }
        let uri = MsrpUri::parse(bytes).map_err(|_| Defect::BadUri)?;
        if uri.session_id().is_some_and(|id| id.len() > limits.session_id_bytes_max) {
            return Err(Defect::UriTooLong);
        }
    }
    if count == 0 { Err(Defect::BadUri) } else { Ok(count) }
}

fn check_message_id(text: &[u8], limits: &ParserLimits) -> Result<(), Defect> {
    let valid = !text.is_empty()
        && text.len() <= limits.message_id_bytes_max
        && text.iter().all(u8::is_ascii_graphic);
    if valid { Ok(()) } else { Err(Defect::MessageId) }
}

fn failure_report(text: &[u8]) -> Option<FailureReport> {
    if text.eq_ignore_ascii_case(b"partial") {
        return Some(FailureReport::Partial);
    }
    yes_or_no(text).map(|yes| if yes { FailureReport::Yes } else { FailureReport::No })
}

fn yes_or_no(text: &[u8]) -> Option<bool> {
    if text.eq_ignore_ascii_case(b"yes") {
        Some(true)
    } else if text.eq_ignore_ascii_case(b"no") {
        Some(false)
    } else {
        None
    }
}

/// Digits. A number too large to keep is outside every bound anyway, so the largest stands for it.
fn seconds(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(
        text.iter()
            .fold(0_u32, |number, digit| number.saturating_mul(10).saturating_add(u32::from(digit - b'0'))),
    )
}
