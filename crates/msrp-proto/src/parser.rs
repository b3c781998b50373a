//! Cuts a stream of bytes into heads, ranges of body and ends of frames (RFC 4975 §7 and §9).
//!
//! Invariants: the bytes that the steps consume, joined, are the input, with nothing left out and nothing twice;
//! splitting the input differently changes only the sizes of the ranges of body and of blank bytes; no byte of a head
//! is searched twice, and of a body only the few withheld as a possible end-line; a head is at most `head_bytes_max`;
//! nothing is allocated and no body byte is copied. Methods, sessions and connections are not known here.
//!
//! A frame whose end can be found never ends the stream, whatever is wrong with its head: that is a
//! [`Defect`](super::head::Defect). Framing is lost in three cases only: no transaction id says how the frame ends;
//! lines end with a bare LF, so that the end-line looks like a line of the body; a head goes on beyond all that may be
//! kept of one.

use core::ops::Range;
use std::sync::LazyLock;

use memchr::{memchr, memmem, memrchr};

use super::head::{CheckedPath, Ending, Head, HeadBuilder, TID_BYTES_MAX, Tid};

/// Bounds on what a peer may send. A part that is too large makes the head defective; a head that is too large loses
/// the framing.
#[derive(Clone, Debug)]
pub struct ParserLimits {
    /// Bytes of a head, its blank line included; 16384. Beyond it, or 1 GiB, the framing is lost.
    pub head_bytes_max: usize,
    /// Headers of a head; 64.
    pub headers_max: usize,
    /// Bytes of a line without its CRLF; 8192. The To-Path of a returning frame also has room for our own URIs.
    pub line_bytes_max: usize,
    /// URIs of a path; 16. The To-Path of a returning frame also has room for our own.
    pub path_uris_max: usize,
    /// Bytes of a URI; 1024.
    pub uri_bytes_max: usize,
    /// Bytes of a session id; 128.
    pub session_id_bytes_max: usize,
    /// Bytes of a response's comment; 256.
    pub comment_bytes_max: usize,
    /// Bytes of a Message-ID; 128.
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
pub enum FramePart {
    /// CR and LF between frames, a whole run as far as it has come: some peers send them as a keep-alive.
    Blank,
    /// Start line and headers, as far as the blank line if there is one.
    Head(Head),
    /// Bytes of the body; never an empty range.
    Body(Range<usize>),
    /// The end-line, and the CRLF before it that ends a body.
    End(Flag),
}

/// How an end-line continues the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flag {
    /// `$`: these were the message's last bytes.
    Last,
    /// `+`: more chunks will come.
    More,
    /// `#`: the message is aborted.
    Aborted,
}

impl Flag {
    /// As on the wire.
    #[must_use]
    pub fn byte(self) -> u8 {
        match self {
            Self::Last => b'$',
            Self::More => b'+',
            Self::Aborted => b'#',
        }
    }

    fn of(byte: u8) -> Option<Self> {
        match byte {
            b'$' => Some(Self::Last),
            b'+' => Some(Self::More),
            b'#' => Some(Self::Aborted),
            _ => None,
        }
    }
}

/// One part of a frame, and how many bytes it used up.
#[derive(Clone, Debug)]
pub struct Step {
    /// Bytes to drop from the front of the input. A body's range begins at 0 and ends here.
    pub consumed: usize,
    /// What they were.
    pub piece: FramePart,
}

/// Framing is lost: where the next frame begins cannot be known, so the connection must be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    /// Not `MSRP` and a transaction id.
    #[error("not an MSRP start line")]
    StartLine,
    /// A start line that ends with LF alone. So may the end-line, which would look like a line of the body.
    #[error("lines end with LF instead of CRLF")]
    BareLf,
    /// A head that does not end within `head_bytes_max`.
    #[error("the head is too long")]
    HeadTooLong,
}

/// The parser of one direction of one connection: plain data, no buffer of its own.
#[derive(Clone, Debug)]
pub struct Parser {
    limits: ParserLimits,
    state: State,
    /// The last To-Path and the last From-Path that were right.
    paths: [CheckedPath; 2],
}

#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the parser allocates nothing, so a head in the making lives in it"
)]
enum State {
    /// Awaits a whole start line; the first `scanned` bytes hold no line end.
    StartLine { scanned: usize },
    /// Awaits the blank line or the end-line.
    Headers { builder: HeadBuilder, tid: Tid, lines: Lines },
    /// Awaits body bytes, or the end-line with the CRLF in front of it. The blank line's CRLF is not that CRLF: bytes
    /// right after the blank line are data, hyphens included (RFC 4975 §9).
    Body { tid: Tid },
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
    /// No further line end lies before this.
    scanned: usize,
}

/// The begin of every end-line, after the CRLF that precedes it in a body.
const HYPHENS: &[u8] = b"-------";
/// Hyphens, the longest transaction id, flag, CRLF.
const END_LINE_BYTES_MAX: usize = 7 + TID_BYTES_MAX + 1 + 2;
/// A head's offsets are 32 bits wide; no limit allows more than this.
const HEAD_BYTES_CEILING: usize = 1 << 30;

static END_LINE: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(b"\r\n-------"));

impl Parser {
    /// A parser at the beginning of a frame.
    #[must_use]
    pub fn new(limits: ParserLimits) -> Self {
        Self { limits, state: State::StartLine { scanned: 0 }, paths: [CheckedPath::NONE; 2] }
    }

    /// Whether the parser awaits the rest of a head, of which not one byte need have come.
    #[must_use]
    pub fn in_head(&self) -> bool {
        matches!(self.state, State::StartLine { .. } | State::Headers { .. })
    }

    /// Whether the parser has seen bytes of a frame whose end-line is not yet consumed.
    #[must_use]
    pub fn in_frame(&self) -> bool {
        !matches!(self.state, State::StartLine { scanned: 0 })
    }

    /// The next part of the frame in `input`, which begins at the first byte not yet consumed. The caller drops
    /// [`Step::consumed`] bytes and calls again. `Ok(None)` asks for more bytes: the caller keeps all of `input` and
    /// calls again with more after it. Offsets count from the beginning of `input`.
    ///
    /// Hands out body bytes at once, except those that may turn out to be an end-line: at most the length of one with
    /// its CRLF.
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
            let blank = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            if blank > 0 {
                return Ok(Some(Step { consumed: blank, piece: FramePart::Blank }));
            }
            let Some((builder, tid, next)) = read_start_line(input, scanned, &self.limits)? else {
                return Ok(None);
            };
            self.state = State::Headers { builder, tid, lines: Lines { line: next, scanned: next } };
        }
        match &mut self.state {
            State::Headers { builder, tid, lines } => {
                let Some((len, ending)) =
                    read_headers(input, builder, tid, lines, (&self.limits, &mut self.paths))?
                else {
                    return Ok(None);
                };
                let head = builder.finish(len, ending);
                self.state = match ending {
                    Ending::Body => State::Body { tid: *tid },
                    Ending::EndLine(flag) => State::End { bytes: end_line_bytes(tid), flag },
                };
                Ok(Some(Step { consumed: len, piece: FramePart::Head(head) }))
            }
            State::Body { tid } => match read_body(input, tid) {
                BodyRead::Bytes { len, end } => {
                    if let Some((bytes, flag)) = end {
                        self.state = State::End { bytes, flag };
                    }
                    Ok(Some(Step { consumed: len, piece: FramePart::Body(0..len) }))
                }
                BodyRead::End { bytes, flag } => Ok(Some(self.end(bytes, flag))),
                BodyRead::Nothing => Ok(None),
            },
            &mut State::End { bytes, flag } if bytes <= input.len() => Ok(Some(self.end(bytes, flag))),
            State::StartLine { .. } | State::End { .. } => Ok(None),
            State::Lost(error) => Err(*error),
        }
    }

    fn end(&mut self, bytes: usize, flag: Flag) -> Step {
        self.state = State::StartLine { scanned: 0 };
        Step { consumed: bytes, piece: FramePart::End(flag) }
    }
}

/// The head that the start line begins, and where the next line begins.
fn read_start_line(
    input: &[u8],
    scanned: &mut usize,
    limits: &ParserLimits,
) -> Result<Option<(HeadBuilder, Tid, usize)>, ParseError> {
    if input.iter().zip(b"MSRP ").any(|(byte, expected)| byte != expected) {
        return Err(ParseError::StartLine);
    }
    let found = input.get(*scanned..).and_then(|rest| memchr(b'\n', rest)).map(|at| *scanned + at);
    let head_bytes_max = limits.head_bytes_max.min(HEAD_BYTES_CEILING);
    if found.unwrap_or(input.len()) >= head_bytes_max {
        return Err(ParseError::HeadTooLong);
    }
    let Some(newline) = found else {
        *scanned = input.len();
        return Ok(None);
    };
    let line = input.get(..newline).and_then(|line| line.strip_suffix(b"\r")).ok_or(ParseError::BareLf)?;
    let (builder, tid) = HeadBuilder::start(line, limits).ok_or(ParseError::StartLine)?;
    Ok(Some((builder, tid, newline + 1)))
}

/// Feeds the builder whole lines. Returns the head's length and how it ends, once known.
fn read_headers(
    input: &[u8],
    builder: &mut HeadBuilder,
    tid: &Tid,
    lines: &mut Lines,
    (limits, paths): (&ParserLimits, &mut [CheckedPath; 2]),
) -> Result<Option<(usize, Ending)>, ParseError> {
    let head_bytes_max = limits.head_bytes_max.min(HEAD_BYTES_CEILING);
    while let Some(end) = line_end(input, &mut lines.scanned) {
        let (begin, next) = (lines.line, end + 2);
        lines.line = next;
        let line = input.get(begin..end).unwrap_or_default();
        if let EndLine::Whole(flag) = match_end_line(input.get(begin..next).unwrap_or_default(), tid) {
            return Ok(Some((begin, Ending::EndLine(flag))));
        }
        if next > head_bytes_max {
            return Err(ParseError::HeadTooLong);
        }
        if line.is_empty() {
            return Ok(Some((next, Ending::Body)));
        }
        builder.header(input, begin..end, limits, paths);
    }
    // After a head of the greatest length, only an end-line may follow.
    if input.len() > head_bytes_max + END_LINE_BYTES_MAX { Err(ParseError::HeadTooLong) } else { Ok(None) }
}

/// Where the next CRLF is. A bare LF does not end a line; it stays in the line, which is then a defect.
fn line_end(input: &[u8], scanned: &mut usize) -> Option<usize> {
    while let Some(found) = input.get(*scanned..).and_then(|rest| memchr(b'\n', rest)) {
        let newline = *scanned + found;
        *scanned = newline + 1;
        if let Some(end) = newline.checked_sub(1).filter(|&end| input.get(end) == Some(&b'\r')) {
            return Some(end);
        }
    }
    *scanned = input.len();
    None
}

enum BodyRead {
    /// So many bytes of body, then perhaps an end-line of `bytes` at hand.
    Bytes { len: usize, end: Option<(usize, Flag)> },
    /// An end-line of `bytes`.
    End { bytes: usize, flag: Flag },
    /// The bytes at hand may become an end-line.
    Nothing,
}

fn read_body(input: &[u8], tid: &Tid) -> BodyRead {
    let mut searched = 0;
    while let Some(found) = input.get(searched..).and_then(|rest| END_LINE.find(rest)) {
        let at = searched + found;
        match match_end_line(input.get(at + 2..).unwrap_or_default(), tid) {
            EndLine::Whole(flag) => {
                let bytes = 2 + end_line_bytes(tid);
                return if at == 0 {
                    BodyRead::End { bytes, flag }
                } else {
                    BodyRead::Bytes { len: at, end: Some((bytes, flag)) }
                };
            }
            EndLine::Begun => return body_bytes(at),
            // CR stands only at the front of the pattern, so no other match can begin within it.
            EndLine::No => searched = at + 2 + HYPHENS.len(),
        }
    }
    body_bytes(input.len() - begun_at_end(input))
}

fn body_bytes(len: usize) -> BodyRead {
    if len == 0 { BodyRead::Nothing } else { BodyRead::Bytes { len, end: None } }
}

/// How many bytes at the end of `input` are the begin of CRLF and hyphens.
fn begun_at_end(input: &[u8]) -> usize {
    let needle = END_LINE.needle();
    let tail = input.get(input.len().saturating_sub(needle.len() - 1)..).unwrap_or_default();
    let begun = memrchr(b'\r', tail).and_then(|at| tail.get(at..)).unwrap_or_default();
    if needle.starts_with(begun) { begun.len() } else { 0 }
}

enum EndLine {
    Whole(Flag),
    /// The bytes at hand match; more must come.
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
    let Some((&byte, behind)) = rest.split_first() else {
        return EndLine::Begun;
    };
    match Flag::of(byte) {
        Some(flag) if behind.starts_with(b"\r\n") => EndLine::Whole(flag),
        Some(_) if b"\r\n".starts_with(behind) => EndLine::Begun,
        _ => EndLine::No,
    }
}

fn end_line_bytes(tid: &Tid) -> usize {
    HYPHENS.len() + tid.as_bytes().len() + 3
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::head::{Defect, Kind, Method};

    /// A frame put together again from its parts.
    #[derive(Clone, PartialEq, Eq, Debug)]
    struct Frame {
        head: Head,
        head_bytes: Vec<u8>,
        body: Vec<u8>,
        flag: Option<Flag>,
        end_bytes: Vec<u8>,
    }

    /// What the parser made of an input: frames, the last perhaps unfinished, and why it ended.
    #[derive(Clone, PartialEq, Eq, Debug, Default)]
    struct Outcome {
        frames: Vec<Frame>,
        /// Bytes between frames.
        blank: usize,
        error: Option<ParseError>,
    }

    impl Outcome {
        fn take(&mut self, bytes: &[u8], piece: FramePart) {
            match piece {
                FramePart::Blank => {
                    assert!(bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n')));
                    self.blank += bytes.len();
                }
                FramePart::Head(head) => {
                    assert_eq!(head.len(), bytes.len());
                    let head_bytes = bytes.to_vec();
                    self.frames.push(Frame { head, head_bytes, body: vec![], flag: None, end_bytes: vec![] });
                }
                FramePart::Body(range) => {
                    assert!(!range.is_empty() && range == (0..bytes.len()), "{range:?}");
                    self.frames.last_mut().unwrap().body.extend_from_slice(bytes);
                }
                FramePart::End(flag) => {
                    let frame = self.frames.last_mut().unwrap();
                    frame.flag = Some(flag);
                    frame.end_bytes = bytes.to_vec();
                }
            }
        }

        fn joined(&self) -> Vec<u8> {
            let parts = |frame: &Frame| [&frame.head_bytes[..], &frame.body, &frame.end_bytes].concat();
            self.frames.iter().flat_map(parts).collect()
        }
    }

    /// Parses `input` as it would arrive in reads that end at `splits`, checking what holds for every step.
    fn parse_split(limits: &ParserLimits, input: &[u8], splits: &[usize]) -> Outcome {
        let mut parser = Parser::new(limits.clone());
        let mut outcome = Outcome::default();
        let mut at = 0;
        for &end in splits.iter().chain([&input.len()]) {
            loop {
                match parser.step(&input[at..end]) {
                    Ok(Some(step)) => {
                        assert!(step.consumed > 0 && step.consumed <= end - at);
                        outcome.take(&input[at..at + step.consumed], step.piece);
                        at += step.consumed;
                    }
                    Ok(None) => break,
                    Err(error) => {
                        assert_eq!(parser.step(&input[at..end]).unwrap_err(), error, "it stays lost");
                        outcome.error = Some(error);
                        return outcome;
                    }
                }
            }
            assert_withheld_is_little(&parser, end - at);
            assert_eq!(
                parser.in_frame(),
                at < end || outcome.frames.last().is_some_and(|frame| frame.flag.is_none())
            );
        }
        if outcome.blank == 0 {
            assert!(input.starts_with(&outcome.joined()));
        }
        outcome
    }

    fn assert_withheld_is_little(parser: &Parser, withheld: usize) {
        match &parser.state {
            State::Body { tid, .. } => assert!(withheld < tid.as_bytes().len() + 12, "{withheld}"),
            State::Headers { lines, .. } => {
                assert_eq!(lines.scanned, withheld, "no byte is searched twice")
            }
            State::StartLine { scanned } => {
                assert_eq!(*scanned, withheld, "no byte is searched twice")
            }
            State::End { .. } | State::Lost(_) => panic!("{parser:?} asked for more"),
        }
    }

    /// Whole, byte by byte, and split at every index: all must give the same.
    fn parse_with(limits: &ParserLimits, input: &[u8]) -> Outcome {
        let whole = parse_split(limits, input, &[]);
        let every: Vec<usize> = (0..input.len()).collect();
        assert_eq!(parse_split(limits, input, &every), whole, "byte by byte");
        for split in 0..input.len() {
            assert_eq!(parse_split(limits, input, &[split]), whole, "split at {split}");
        }
        whole
    }

    fn parse(input: &[u8]) -> Outcome {
        parse_with(&ParserLimits::default(), input)
    }

    const HEAD: &str =
        "MSRP tid1 SEND\r\nTo-Path: msrp://h:1/t;tcp\r\nFrom-Path: msrp://h:2/f;tcp\r\nMessage-ID: m\r\n";

    fn chunk(body: &[u8], end: &[u8]) -> Vec<u8> {
        [HEAD.as_bytes(), b"\r\n", body, end].concat()
    }

    fn only(outcome: Outcome) -> Frame {
        assert_eq!((outcome.frames.len(), outcome.error), (1, None), "{outcome:?}");
        outcome.frames.into_iter().next().unwrap()
    }

    // What a parser remembers of earlier frames changes nothing: it judges a head as if it were the first.
    #[test]
    fn paths_are_judged_alike_whatever_came_before() {
        let long = format!("msrp://h:1/{};tcp", "x".repeat(120));
        let longer = format!("{long} {long} {long}");
        let paths = [
            "msrp://h:1/t;tcp",
            "msrp://h:1/u;tcp",
            "msrp://h:1/t;tc\u{1}",
            "msrp://h:1/t;tc!",
            "msrp://h:1/t;tcp msrp://h:2/t;tcp",
            "",
            "\u{fc}",
            &long,
            &longer,
        ];
        let mut parser = Parser::new(ParserLimits::default());
        let mut defective = 0;
        for (n, first) in paths.iter().cycle().take(paths.len() * paths.len()).enumerate() {
            let second = paths[n / paths.len()];
            for headers in [
                format!("To-Path: {first}\r\nFrom-Path: {second}\r\n"),
                format!("To-Path: {first}\r\nFrom-Path: {second}\r\nTo-Path: {first}\r\n"),
                format!("From-Path: {first}\r\nTo-Path: {second}\r\n"),
                format!("To-Path: {first}\r\nFrom-Path: {second}\r\n"),
            ] {
                let frame = format!("MSRP tid1 SEND\r\n{headers}Message-ID: m\r\n-------tid1$\r\n");
                let fresh = only(parse_split(&ParserLimits::default(), frame.as_bytes(), &[])).head;
                let step = parser.step(frame.as_bytes()).unwrap().unwrap();
                let FramePart::Head(head) = step.piece else { panic!("no head") };
                assert_eq!(head, fresh, "{headers}");
                defective += usize::from(head.defect().is_some());
                parser.step(&frame.as_bytes()[step.consumed..]).unwrap().unwrap();
            }
        }
        assert!(defective > 100 && defective < 300, "{defective}");
    }

    #[test]
    fn each_flag_ends_a_body() {
        for (byte, flag) in [(b'$', Flag::Last), (b'+', Flag::More), (b'#', Flag::Aborted)] {
            let frame = only(parse(&chunk(b"body", &[b"\r\n-------tid1", &[byte][..], b"\r\n"].concat())));
            assert_eq!((frame.body.as_slice(), frame.flag), (&b"body"[..], Some(flag)));
            assert_eq!(flag.byte(), byte);
        }
    }

    #[test]
    fn an_empty_body_is_not_no_body() {
        let empty = only(parse(&chunk(b"", b"\r\n-------tid1$\r\n")));
        assert!(empty.head.has_body() && empty.body.is_empty() && empty.flag == Some(Flag::Last));
        let none = only(parse(&[HEAD.as_bytes(), b"-------tid1$\r\n"].concat()));
        assert!(!none.head.has_body() && none.flag == Some(Flag::Last));
        assert_eq!(none.end_bytes, b"-------tid1$\r\n");
    }

    // RFC 4975 section 9: `2CRLF data CRLF end-line`; the blank line's CRLF does not serve twice.
    #[test]
    fn an_end_line_right_behind_the_blank_line_is_body() {
        let frame = only(parse(&chunk(b"-------tid1+\r\n", b"\r\n-------tid1$\r\n")));
        assert_eq!((frame.body.as_slice(), frame.flag), (&b"-------tid1+\r\n"[..], Some(Flag::Last)));
    }

    #[test]
    fn look_alike_end_lines_are_body() {
        for body in [
            &b"\r\n"[..],
            b"\r\n\r\n",
            b"-------tid1$",
            b"-------tid1$x\r\n",
            b"x-------tid1$\r\n",
            b"\r\n-------",
            b"\r\n--------tid1$\r\n",
            b"\r\n------tid1$\r\n",
            b"\r\n-------tid2$\r\n",
            b"\r\n-------tid$\r\n",
            b"\r\n-------TID1$\r\n",
            b"\r\n-------tid1\r\n",
            b"\r\n-------tid1*\r\n",
            b"\r\n-------tid1$$\r\n",
            b"\r\n-------tid1$\r",
            b"\r\n-------tid1$\n",
            b"\r-------tid1$\r\n",
            b"\n-------tid1$\r\n",
            b"\r\n-------tid12$\r\n",
            b"\r\r\n-------\r\n-------\r\n-------tid\r\n-------tid1\r\n-------tid1",
        ] {
            let input = chunk(body, b"\r\n-------tid1$\r\n");
            let frame = only(parse(&input));
            assert_eq!(frame.body.escape_ascii().to_string(), body.escape_ascii().to_string());
            assert_eq!(frame.flag, Some(Flag::Last));
        }
    }

    #[test]
    fn a_body_of_all_bytes_is_given_back() {
        let body: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        assert_eq!(only(parse(&chunk(&body, b"\r\n-------tid1$\r\n"))).body, body);
    }

    #[test]
    fn crlf_may_stand_anywhere_in_a_body() {
        for at in 0..=20 {
            let mut body = b"-------tid1$-------x".to_vec();
            body.splice(at..at, *b"\r\n");
            let frame = only(parse(&chunk(&body, b"\r\n-------tid1$\r\n")));
            assert_eq!(frame.body, body, "CRLF at {at}");
        }
    }

    #[test]
    fn a_body_goes_out_in_as_few_ranges_as_there_are_reads() {
        let body = b"\r\n-------".repeat(100_000);
        let input = chunk(&body, b"\r\n-------tid1$\r\n");
        let mut parser = Parser::new(ParserLimits::default());
        let head = parser.step(&input).unwrap().unwrap().consumed;
        let step = parser.step(&input[head..]).unwrap().unwrap();
        assert!(matches!(step.piece, FramePart::Body(range) if range == (0..body.len())));
    }

    #[test]
    fn frames_follow_each_other_without_a_gap() {
        let response = "MSRP tid2 200 OK\r\nTo-Path: msrp://h:1/t;tcp\r\nFrom-Path: msrp://h:2/f;tcp\r\n-------tid2$\r\n";
        let input = [
            &chunk(b"one", b"\r\n-------tid1+\r\n")[..],
            response.as_bytes(),
            &chunk(b"two", b"\r\n-------tid1$\r\n"),
        ]
        .concat();
        let outcome = parse(&input);
        assert_eq!(outcome.joined(), input);
        assert_eq!(
            outcome.frames.iter().map(|frame| frame.body.as_slice()).collect::<Vec<_>>(),
            [&b"one"[..], b"", b"two"]
        );
    }

    #[test]
    fn a_defective_head_is_framed_and_the_next_frame_is_read() {
        let bad = b"MSRP tid1 SEND\r\nno header\r\n\r\nbody\r\n-------tid1$\r\n";
        let input = [&bad[..], &chunk(b"good", b"\r\n-------tid1$\r\n")].concat();
        let outcome = parse(&input);
        assert_eq!(outcome.error, None);
        assert_eq!(outcome.frames[0].head.defect(), Some(Defect::HeaderLine));
        assert_eq!(outcome.frames[0].body, b"body");
        assert_eq!(
            (outcome.frames[1].head.defect(), outcome.frames[1].body.as_slice()),
            (None, &b"good"[..])
        );
    }

    #[test]
    fn what_is_not_msrp_fails_at_the_first_byte_that_differs() {
        for (input, last_good) in
            [("GET / HTTP", 0), (" MSRP", 0), ("msrp tid1", 0), ("MSRP\ttid1", 4), ("MSRPS", 4)]
        {
            for end in 0..=input.len() {
                let step = Parser::new(ParserLimits::default()).step(&input.as_bytes()[..end]);
                assert_eq!(step.is_err(), end > last_good, "{input:?} {end}");
            }
        }
    }

    // Without a transaction id the end of the frame cannot be found. With lines that end in LF it may be anywhere.
    #[test]
    fn start_lines_without_a_transaction_id_lose_the_framing() {
        let long = format!("MSRP {} SEND", "t".repeat(TID_BYTES_MAX + 1));
        for line in
            ["MSRP ", "MSRP    ", "MSRP ti\u{1}d SEND", "MSRP t\u{e9}d SEND", "MSRP tid1\tSEND", &long]
        {
            let outcome = parse(format!("{line}\r\n").as_bytes());
            assert_eq!(outcome.error, Some(ParseError::StartLine), "{line:?}");
        }
        for start in ["MSRP tid1 SEND\n", "MSRP tid1 SE\nND\r\n", "MSRP tid1 200 O\nK\r\n", "MSRP \n"] {
            assert_eq!(parse(start.as_bytes()).error, Some(ParseError::BareLf), "{start:?}");
        }
    }

    #[test]
    fn any_visible_transaction_id_delimits_its_frame() {
        let longest = "t".repeat(TID_BYTES_MAX);
        for (tid, defect) in [
            ("0123456789abcdef0123456789abcdef", None),
            ("a.-+%=", None),
            ("t", None),
            ("abc", None),
            ("-tid1", None),
            ("+tid1", None),
            ("-------", None),
            ("550e8400-e29b-41d4-a716-446655440000-42", None),
            (&longest, None),
            ("ti_d1", None),
            ("tid1$", None),
            ("{tid}", None),
        ] {
            let bodies = [&b"x"[..], b"", b"-------", b"\r\n-------tid$\r\n", b"\r\n--------"];
            for body in bodies {
                let head = HEAD.replace("tid1", tid);
                let end_line = format!("-------{tid}+\r\n");
                let input = [head.as_bytes(), b"\r\n", body, b"\r\n", end_line.as_bytes()].concat().repeat(2);
                let every_split: Vec<usize> = (1..input.len()).collect();
                for splits in [&[][..], &every_split] {
                    let outcome = parse_split(&ParserLimits::default(), &input, splits);
                    assert_eq!((outcome.error, outcome.frames.len()), (None, 2), "{tid}");
                    for frame in outcome.frames {
                        assert_eq!(frame.head.tid(&frame.head_bytes), tid.as_bytes());
                        assert_eq!(frame.head.defect(), defect, "{tid}");
                        assert_eq!((frame.body.as_slice(), frame.flag), (body, Some(Flag::More)), "{tid}");
                    }
                }
            }
        }
    }

    // RFC 4975 section 9 has one or more capital letters; clients in use send an underscore too.
    #[test]
    fn a_method_is_any_token() {
        let longest = "M".repeat(64);
        for name in ["X", "FILE_OFFSET", "send", "X-1.a!", &longest] {
            let frame = only(parse(format!("MSRP tid1 {name}\r\n-------tid1$\r\n").as_bytes()));
            assert_eq!(frame.head.kind(), Kind::Request(Method::Other));
            assert_eq!(frame.head.method_bytes(&frame.head_bytes), name.as_bytes());
            assert_eq!(frame.head.defect(), Some(Defect::PathMissing));
        }
    }

    #[test]
    fn white_space_around_a_method_is_not_part_of_it() {
        for line in ["MSRP tid1 SEND ", "MSRP tid1 SEND \t ", "MSRP  tid1 SEND", "MSRP tid1   SEND"] {
            let frame = only(parse(format!("{line}\r\n-------tid1$\r\n").as_bytes()));
            assert_eq!(frame.head.kind(), Kind::Request(Method::Send), "{line:?}");
            assert_eq!(frame.head.method_bytes(&frame.head_bytes), b"SEND", "{line:?}");
            assert_eq!(frame.head.tid(&frame.head_bytes), b"tid1", "{line:?}");
            assert_eq!(frame.head.defect(), Some(Defect::MessageId), "{line:?}");
        }
    }

    #[test]
    fn a_frame_with_a_bad_start_line_is_delimited() {
        let long = format!("MSRP tid1 {}", "M".repeat(65));
        let request = |method| Kind::Request(method);
        let response = Kind::Response(crate::status::Status::BAD_REQUEST);
        for (line, kind) in [
            ("MSRP tid1", request(Method::Other)),
            ("MSRP tid1 ", request(Method::Other)),
            ("MSRP tid1 SE;ND", request(Method::Other)),
            ("MSRP tid1 SEND\r", request(Method::Other)),
            ("MSRP tid1 SEND x", request(Method::Send)),
            ("MSRP tid1 REPORT x", request(Method::Report)),
            (&long, request(Method::Other)),
            ("MSRP tid1 20", response),
            ("MSRP tid1 2000", response),
            ("MSRP tid1 200OK", response),
            ("MSRP tid1 2x0 OK", response),
        ] {
            let input = format!("{line}\r\n-------tid1$\r\n{HEAD}-------tid1$\r\n");
            let outcome = parse(input.as_bytes());
            assert_eq!((outcome.error, outcome.frames.len()), (None, 2), "{line:?}");
            let head = outcome.frames[0].head;
            assert_eq!((head.kind(), head.defect()), (kind, Some(Defect::StartLine)), "{line:?}");
        }
    }

    // Keep-alives of SIP stacks: they cost nothing and end nothing.
    #[test]
    fn cr_and_lf_between_frames_are_passed_over() {
        let frame = chunk(b"body\r\n", b"\r\n-------tid1$\r\n");
        for blank in ["\r\n", "\r\n\r\n", "\r", "\n", "\n\r\r\n\n", &"\r\n".repeat(100_000)] {
            let input = [blank.as_bytes(), &frame, blank.as_bytes(), &frame, blank.as_bytes()].concat();
            let every_split: Vec<usize> = if blank.len() < 10 { (1..input.len()).collect() } else { vec![] };
            let outcome = parse_split(&ParserLimits::default(), &input, &every_split);
            assert_eq!((outcome.error, outcome.blank), (None, 3 * blank.len()));
            assert_eq!(outcome.frames.len(), 2);
            assert!(
                outcome.frames.iter().all(|frame| frame.body == b"body\r\n" && frame.head.defect().is_none())
            );
        }
        let mut parser = Parser::new(ParserLimits::default());
        let step = parser.step(&[b'\n'; 1 << 20]).unwrap().unwrap();
        assert_eq!(step.consumed, 1 << 20, "all at once");
        assert!(!parser.in_frame());
    }

    #[test]
    fn a_head_may_have_head_bytes_max_bytes_and_no_more() {
        for body in [true, false] {
            let head = format!("{HEAD}X-Pad: 12345678\r\n{}", if body { "\r\n" } else { "" });
            let input = format!("{head}{}-------tid1$\r\n", if body { "\r\n" } else { "" });
            let limits = |head_bytes_max| ParserLimits { head_bytes_max, ..ParserLimits::default() };
            let fits = parse_with(&limits(head.len()), input.as_bytes());
            assert_eq!((fits.error, fits.frames.len()), (None, 1));
            let over = parse_with(&limits(head.len() - 1), input.as_bytes());
            assert_eq!((over.error, over.frames.len()), (Some(ParseError::HeadTooLong), 0));
        }
    }

    // A head of the greatest length still gets its end-line, however slowly that comes. The parser waits for nothing
    // longer.
    #[test]
    fn behind_the_longest_head_an_end_line_is_waited_for_and_no_more() {
        let tid = "0123456789abcdef".repeat(TID_BYTES_MAX / 16);
        let head = HEAD.replace("tid1", &tid);
        let limits = ParserLimits { head_bytes_max: head.len(), ..ParserLimits::default() };
        let end_line = format!("-------{tid}$\r\n");
        let input = format!("{head}{end_line}");
        let every_split: Vec<usize> = (1..input.len()).collect();
        let outcome = parse_split(&limits, input.as_bytes(), &every_split);
        assert_eq!((outcome.error, outcome.frames.len()), (None, 1));
        let junk = |bytes: usize| format!("{head}{}", "j".repeat(bytes));
        assert_eq!(parse_with(&limits, junk(end_line.len()).as_bytes()).error, None);
        let over = parse_with(&limits, junk(end_line.len() + 1).as_bytes());
        assert_eq!(over.error, Some(ParseError::HeadTooLong));
    }

    // A caller may show fewer bytes than it showed before.
    #[test]
    fn an_end_line_that_has_been_seen_is_consumed_once_all_of_it_is_there() {
        let input = format!("{HEAD}-------tid1$\r\n");
        let mut parser = Parser::new(ParserLimits::default());
        let head = parser.step(input.as_bytes()).unwrap().unwrap();
        let end = &input.as_bytes()[head.consumed..];
        assert!(parser.step(&end[..end.len() - 1]).unwrap().is_none());
        assert_eq!(parser.step(end).unwrap().unwrap().consumed, end.len());
    }

    #[test]
    fn an_endless_line_is_given_up() {
        let limits = ParserLimits { head_bytes_max: 200, line_bytes_max: 40, ..ParserLimits::default() };
        let start = format!("MSRP tid1 {}", "A".repeat(300));
        assert_eq!(parse_with(&limits, start.as_bytes()).error, Some(ParseError::HeadTooLong));
        let exact = format!("MSRP tid1 {}\r\n-------tid1$\r\n", "A".repeat(30));
        assert_eq!(only(parse_with(&limits, exact.as_bytes())).head.defect(), Some(Defect::PathMissing));
        let over = exact.replacen('A', "AA", 1);
        assert_eq!(only(parse_with(&limits, over.as_bytes())).head.defect(), Some(Defect::LineTooLong));
        let header = format!("MSRP tid1 SEND\r\nX: {}", "a".repeat(400));
        assert_eq!(parse_with(&limits, header.as_bytes()).error, Some(ParseError::HeadTooLong));
    }

    #[test]
    fn a_long_header_line_within_the_head_is_a_defect_only() {
        let limits = ParserLimits { line_bytes_max: 100, ..ParserLimits::default() };
        let input = format!("{HEAD}X-Pad: {}\r\n-------tid1$\r\n", "a".repeat(500));
        assert_eq!(only(parse_with(&limits, input.as_bytes())).head.defect(), Some(Defect::LineTooLong));
    }

    #[test]
    fn a_method_unknown_here_is_still_a_request() {
        let frame = only(parse(b"MSRP tid1 FUTURE\r\n-------tid1$\r\n"));
        assert_eq!(
            (frame.head.kind(), frame.head.defect()),
            (Kind::Request(Method::Other), Some(Defect::PathMissing))
        );
    }

    /// The body of a frame, found by a search too simple to be wrong: body, flag, length of both.
    fn expected_body(behind_head: &[u8]) -> Option<(&[u8], Flag, usize)> {
        for at in 0..behind_head.len() {
            for (byte, flag) in [(b'$', Flag::Last), (b'+', Flag::More), (b'#', Flag::Aborted)] {
                let line = [b"-------tid1", &[byte][..], b"\r\n"].concat();
                if behind_head[at..].strip_prefix(b"\r\n").is_some_and(|rest| rest.starts_with(&line)) {
                    return Some((&behind_head[..at], flag, at + 2 + line.len()));
                }
            }
        }
        None
    }

    fn hostile_body() -> impl Strategy<Value = Vec<u8>> {
        let fragment = prop_oneof![
            4 => prop::collection::vec(any::<u8>(), 0..40),
            1 => prop::sample::select(vec![
                "\r", "\n", "\r\n", "-", "-------", "\r\n-------", "\r\n-------tid1", "\r\n-------tid1$", "\r\n-------tid1$\r",
                "\r\n-------tid1#\r\n", "\r\n-------tid2$\r\n", "-------tid1$\r\n", "tid1$\r\n", "MSRP tid1 SEND\r\n", "\0",
            ]).prop_map(|text| text.as_bytes().to_vec()),
            1 => (1..30_usize).prop_map(|times| b"\r\n-------".repeat(times)),
        ];
        prop::collection::vec(fragment, 0..12).prop_map(|fragments| fragments.concat())
    }

    fn splits(of: usize, seeds: &[prop::sample::Index]) -> Vec<usize> {
        let mut splits: Vec<usize> = seeds.iter().map(|seed| seed.index(of + 1)).collect();
        splits.sort_unstable();
        splits
    }

    proptest! {
        #[test]
        fn any_body_is_recovered_however_it_is_split(body in hostile_body(), seeds: Vec<prop::sample::Index>) {
            let input = chunk(&body, b"\r\n-------tid1+\r\n");
            let behind = &input[HEAD.len() + 2..];
            let (expected, flag, len) = expected_body(behind).unwrap();
            // An end-line within the body ends the frame; this test does not look at what follows.
            let input = &input[..HEAD.len() + 2 + len];
            let frame = only(parse_split(&ParserLimits::default(), input, &splits(input.len(), &seeds)));
            prop_assert_eq!(frame.body, expected);
            prop_assert_eq!(frame.flag, Some(flag));
            let every: Vec<usize> = (0..input.len()).collect();
            prop_assert_eq!(only(parse_split(&ParserLimits::default(), input, &every)).body, expected);
        }

        #[test]
        fn arbitrary_bytes_neither_panic_nor_loop(bytes: Vec<u8>, seeds: Vec<prop::sample::Index>) {
            let input = [&b"MSRP tid1 SEND\r\n"[..], &bytes].concat();
            for input in [&bytes, &input] {
                let outcome = parse_split(&ParserLimits::default(), input, &[]);
                prop_assert_eq!(parse_split(&ParserLimits::default(), input, &splits(input.len(), &seeds)), outcome);
            }
        }

        #[test]
        fn damaged_frames_parse_alike_however_they_are_split(
            at: prop::sample::Index,
            removed in 0..4_usize,
            inserted in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b':'), Just(b' ')], 0..6),
            seeds: Vec<prop::sample::Index>,
        ) {
            let frame = chunk(b"body\r\n", b"\r\n-------tid1$\r\n");
            let mut input = frame.repeat(2);
            let begin = at.index(frame.len());
            input.splice(begin..begin + removed, inserted);
            let whole = parse_split(&ParserLimits::default(), &input, &[]);
            prop_assert_eq!(&parse_split(&ParserLimits::default(), &input, &splits(input.len(), &seeds)), &whole);
            for frame in &whole.frames {
                let (head, bytes) = (&frame.head, &frame.head_bytes);
                let _ = (head.to_path(bytes).len(), head.message_id(bytes), head.headers(bytes).count());
                if head.defect().is_none() {
                    prop_assert!(!head.to_path(bytes).is_empty() && !head.from_path(bytes).is_empty());
                }
            }
        }
    }
}
