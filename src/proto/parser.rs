//! Cuts a stream of octets into heads, ranges of body and ends of frames (RFC 4975 §7 and §9).
//!
//! Invariants: what the steps consume, joined, is the input, nothing left out and nothing twice; how the input is
//! split between calls changes nothing but the sizes of the body ranges; no octet of a head is searched twice, and
//! of a body only the few withheld as a possible end-line; a head is at most `head_bytes_max`; nothing
//! is allocated and no body octet is copied. Methods, sessions and connections are not known here.

use core::ops::Range;
use std::sync::LazyLock;

use memchr::{memchr, memmem, memrchr};

use super::head::{Ending, Head, HeadBuilder, Tid};

/// Bounds on what a peer may send. Those of a part make a head defective; those of the whole lose the framing.
#[derive(Clone, Debug)]
pub struct ParserLimits {
    /// Octets of a head, its blank line included; 16384. Beyond it the framing is lost.
    pub head_bytes_max: usize,
    /// Headers of a head; 64.
    pub headers_max: usize,
    /// Octets of a line without its CRLF; 8192. A start line beyond it loses the framing.
    pub line_bytes_max: usize,
    /// URIs of a path; 16.
    pub path_uris_max: usize,
    /// Octets of a URI; 1024.
    pub uri_bytes_max: usize,
    /// Octets of a session id; 128.
    pub session_id_bytes_max: usize,
    /// Octets of a response's comment; 256.
    pub comment_bytes_max: usize,
    /// Octets of a Message-ID; 128.
    pub message_id_bytes_max: usize,
}

impl Default for ParserLimits {
    fn default() -> Self {
        Self {
            head_bytes_max: 16_384,
            headers_max: 64,
            line_bytes_max: 8192,
            path_uris_max: 16,
            uri_bytes_max: 1024,
            session_id_bytes_max: 128,
            comment_bytes_max: 256,
            message_id_bytes_max: 128,
        }
    }
}

/// Part of a frame.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Start line and headers, as far as the blank line if there is one.
    Head(Head),
    /// Octets of the body; never an empty range.
    Body(Range<usize>),
    /// The end-line, and the CRLF before it that ends a body.
    End(Flag),
}

/// How an end-line continues the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flag {
    /// `$`: these were the message's last octets.
    Last,
    /// `+`: more chunks will come.
    More,
    /// `#`: the message is aborted.
    Aborted,
}

impl Flag {
    /// As on the wire.
    #[must_use]
    pub fn octet(self) -> u8 {
        match self {
            Self::Last => b'$',
            Self::More => b'+',
            Self::Aborted => b'#',
        }
    }

    fn of(octet: u8) -> Option<Self> {
        match octet {
            b'$' => Some(Self::Last),
            b'+' => Some(Self::More),
            b'#' => Some(Self::Aborted),
            _ => None,
        }
    }
}

/// One piece and how many octets it used up.
#[derive(Clone, Debug)]
pub struct Step {
    /// To be dropped from the front of the input. A body's range begins at 0 and ends here.
    pub consumed: usize,
    /// What they were.
    pub piece: Piece,
}

/// Framing is lost: where the next frame begins cannot be known, so the connection must be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    /// Not `MSRP`, a transaction id, and a method or three digits.
    #[error("not an MSRP start line")]
    StartLine,
    /// A start line longer than `line_bytes_max`.
    #[error("the start line is too long")]
    LineTooLong,
    /// A head that does not end within `head_bytes_max`.
    #[error("the head is too long")]
    HeadTooLong,
}

/// The parser of one direction of one connection: plain data, no buffer of its own.
#[derive(Clone, Debug)]
pub struct Parser {
    limits: ParserLimits,
    state: State,
}

#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the parser allocates nothing, so a head in the making lives in it"
)]
enum State {
    /// Awaits a whole start line; so many octets hold no line end.
    StartLine { scanned: usize },
    /// Awaits the blank line or the end-line.
    Headers {
        builder: HeadBuilder,
        tid: Tid,
        lines: Lines,
    },
    /// Awaits body octets. At the very front even an end-line may stand: its CRLF is the blank line's.
    Body { tid: Tid, at_front: bool },
    /// The end-line is at hand, `bytes` long.
    End { bytes: usize, flag: Flag },
    /// Nothing more can be read.
    Lost(ParseError),
}

/// How far a head has been read.
#[derive(Clone, Copy, Debug)]
struct Lines {
    /// Where the unread line begins.
    line: usize,
    /// Up to here there is no further line end.
    scanned: usize,
}

/// What every end-line begins with, behind the CRLF that belongs to it in a body.
const HYPHENS: &[u8] = b"-------";
/// Hyphens, the longest transaction id, flag, CRLF.
const END_LINE_BYTES_MAX: usize = 7 + 32 + 1 + 2;
/// A head's offsets are 32 bits wide; no limit allows more than this.
const HEAD_BYTES_CEILING: usize = 1 << 30;

static END_LINE: LazyLock<memmem::Finder<'static>> =
    LazyLock::new(|| memmem::Finder::new(b"\r\n-------"));

impl Parser {
    /// A parser at the beginning of a frame.
    #[must_use]
    pub fn new(limits: ParserLimits) -> Self {
        Self {
            limits,
            state: State::StartLine { scanned: 0 },
        }
    }

    /// Whether octets of a frame have been seen whose end-line has not been consumed.
    #[must_use]
    pub fn in_frame(&self) -> bool {
        !matches!(self.state, State::StartLine { scanned: 0 })
    }

    /// The next piece of `input`, which begins at the first octet not yet consumed. The caller drops
    /// [`Step::consumed`] octets and calls again. `Ok(None)` asks for more octets: the caller keeps all of `input`
    /// and calls again with more behind it. Offsets are relative to the beginning of `input`.
    ///
    /// Body octets are handed out at once but for those, at most the length of an end-line with its CRLF, that may
    /// turn out to be one.
    ///
    /// # Errors
    /// Framing is lost; every further call says so again.
    pub fn step(&mut self, input: &[u8]) -> Result<Option<Step>, ParseError> {
        let step = self.advance(input);
        if let Err(error) = step {
            self.state = State::Lost(error);
        }
        step
    }

    fn advance(&mut self, input: &[u8]) -> Result<Option<Step>, ParseError> {
        if let State::StartLine { scanned } = &mut self.state {
            let Some((builder, tid, next)) = read_start_line(input, scanned, &self.limits)? else {
                return Ok(None);
            };
            self.state = State::Headers {
                builder,
                tid,
                lines: Lines {
                    line: next,
                    scanned: next,
                },
            };
        }
        match &mut self.state {
            State::Headers {
                builder,
                tid,
                lines,
            } => {
                let Some((len, ending)) = read_headers(input, builder, tid, lines, &self.limits)?
                else {
                    return Ok(None);
                };
                let head = builder.finish(len, ending);
                self.state = match ending {
                    Ending::Body => State::Body {
                        tid: *tid,
                        at_front: true,
                    },
                    Ending::EndLine(flag) => State::End {
                        bytes: end_line_bytes(tid),
                        flag,
                    },
                };
                Ok(Some(Step {
                    consumed: len,
                    piece: Piece::Head(head),
                }))
            }
            State::Body { tid, at_front } => match read_body(input, tid, *at_front) {
                BodyRead::Octets { len, end } => {
                    *at_front = false;
                    if let Some((bytes, flag)) = end {
                        self.state = State::End { bytes, flag };
                    }
                    Ok(Some(Step {
                        consumed: len,
                        piece: Piece::Body(0..len),
                    }))
                }
                BodyRead::End { bytes, flag } => Ok(Some(self.end(bytes, flag))),
                BodyRead::Nothing => Ok(None),
            },
            &mut State::End { bytes, flag } if bytes <= input.len() => {
                Ok(Some(self.end(bytes, flag)))
            }
            State::StartLine { .. } | State::End { .. } => Ok(None),
            State::Lost(error) => Err(*error),
        }
    }

    fn end(&mut self, bytes: usize, flag: Flag) -> Step {
        self.state = State::StartLine { scanned: 0 };
        Step {
            consumed: bytes,
            piece: Piece::End(flag),
        }
    }
}

/// The head begun by the start line, and where the next line begins.
fn read_start_line(
    input: &[u8],
    scanned: &mut usize,
    limits: &ParserLimits,
) -> Result<Option<(HeadBuilder, Tid, usize)>, ParseError> {
    if input
        .iter()
        .zip(b"MSRP ")
        .any(|(octet, expected)| octet != expected)
    {
        return Err(ParseError::StartLine);
    }
    let Some(end) = line_end(input, scanned) else {
        // The last octet may be the line end's CR.
        return if input.len() > limits.line_bytes_max.saturating_add(1) {
            Err(ParseError::LineTooLong)
        } else {
            Ok(None)
        };
    };
    if end > limits.line_bytes_max {
        return Err(ParseError::LineTooLong);
    }
    let line = input.get(..end).unwrap_or_default();
    let (builder, tid) = HeadBuilder::start(line, limits).ok_or(ParseError::StartLine)?;
    Ok(Some((builder, tid, end + 2)))
}

/// Feeds the builder whole lines; the length of the head and how it ends, once that is at hand.
fn read_headers(
    input: &[u8],
    builder: &mut HeadBuilder,
    tid: &Tid,
    lines: &mut Lines,
    limits: &ParserLimits,
) -> Result<Option<(usize, Ending)>, ParseError> {
    let head_bytes_max = limits.head_bytes_max.min(HEAD_BYTES_CEILING);
    while let Some(end) = line_end(input, &mut lines.scanned) {
        let (begin, next) = (lines.line, end + 2);
        lines.line = next;
        let line = input.get(begin..end).unwrap_or_default();
        if begin > head_bytes_max {
            return Err(ParseError::HeadTooLong);
        }
        if let EndLine::Whole(flag) =
            match_end_line(input.get(begin..next).unwrap_or_default(), tid)
        {
            return Ok(Some((begin, Ending::EndLine(flag))));
        }
        if next > head_bytes_max {
            return Err(ParseError::HeadTooLong);
        }
        if line.is_empty() {
            return Ok(Some((next, Ending::Body)));
        }
        builder.header(input, begin..end, limits);
    }
    // Only an end-line may still follow a head of the greatest length.
    if input.len() > head_bytes_max + END_LINE_BYTES_MAX {
        Err(ParseError::HeadTooLong)
    } else {
        Ok(None)
    }
}

/// Where the next CRLF is. A bare LF ends no line; it stays in it and is found to be a defect.
fn line_end(input: &[u8], scanned: &mut usize) -> Option<usize> {
    while let Some(found) = input.get(*scanned..).and_then(|rest| memchr(b'\n', rest)) {
        let newline = *scanned + found;
        *scanned = newline + 1;
        if let Some(end) = newline
            .checked_sub(1)
            .filter(|&end| input.get(end) == Some(&b'\r'))
        {
            return Some(end);
        }
    }
    *scanned = input.len();
    None
}

enum BodyRead {
    /// So many octets of body, then perhaps an end-line of `bytes` at hand.
    Octets {
        len: usize,
        end: Option<(usize, Flag)>,
    },
    /// An end-line of `bytes`.
    End { bytes: usize, flag: Flag },
    /// What there is may become an end-line.
    Nothing,
}

fn read_body(input: &[u8], tid: &Tid, at_front: bool) -> BodyRead {
    if at_front {
        match match_end_line(input, tid) {
            EndLine::Whole(flag) => {
                return BodyRead::End {
                    bytes: end_line_bytes(tid),
                    flag,
                };
            }
            EndLine::Begun => return BodyRead::Nothing,
            EndLine::No => {}
        }
    }
    let mut searched = 0;
    while let Some(found) = input.get(searched..).and_then(|rest| END_LINE.find(rest)) {
        let at = searched + found;
        match match_end_line(input.get(at + 2..).unwrap_or_default(), tid) {
            EndLine::Whole(flag) => {
                let bytes = 2 + end_line_bytes(tid);
                return if at == 0 {
                    BodyRead::End { bytes, flag }
                } else {
                    BodyRead::Octets {
                        len: at,
                        end: Some((bytes, flag)),
                    }
                };
            }
            EndLine::Begun => return octets(at),
            // CR stands only at the front of what was found, so no other can begin within it.
            EndLine::No => searched = at + 2 + HYPHENS.len(),
        }
    }
    octets(input.len() - begun_at_end(input))
}

fn octets(len: usize) -> BodyRead {
    if len == 0 {
        BodyRead::Nothing
    } else {
        BodyRead::Octets { len, end: None }
    }
}

/// How many octets at the end of `input` are a CRLF and hyphens begun but not finished.
fn begun_at_end(input: &[u8]) -> usize {
    let needle = END_LINE.needle();
    let tail = input
        .get(input.len().saturating_sub(needle.len() - 1)..)
        .unwrap_or_default();
    let begun = memrchr(b'\r', tail)
        .and_then(|at| tail.get(at..))
        .unwrap_or_default();
    if needle.starts_with(begun) {
        begun.len()
    } else {
        0
    }
}

enum EndLine {
    Whole(Flag),
    /// All there is fits, and more must come.
    Begun,
    No,
}

/// Whether `input` begins with the end-line of `tid`.
fn match_end_line(input: &[u8], tid: &Tid) -> EndLine {
    let mut rest = input;
    for part in [HYPHENS, tid.as_bytes()] {
        match rest.strip_prefix(part) {
            Some(behind) => rest = behind,
            None if part.starts_with(rest) => return EndLine::Begun,
            None => return EndLine::No,
        }
    }
    let Some((&octet, behind)) = rest.split_first() else {
        return EndLine::Begun;
    };
    match Flag::of(octet) {
        Some(flag) if behind.starts_with(b"\r\n") => EndLine::Whole(flag),
        Some(_) if b"\r\n".starts_with(behind) => EndLine::Begun,
        _ => EndLine::No,
    }
}

fn end_line_bytes(tid: &Tid) -> usize {
    HYPHENS.len() + tid.as_bytes().len() + 3
}
