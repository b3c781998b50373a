//! [`Parser`] under any cutting of its input: whole, byte by byte and at places that the input chooses. It must find
//! the same frames, consume every byte once, and agree with a plain search for end-lines.
//!
//! The first byte chooses the limits (odd: narrow ones), the second where reads end; the rest is the stream.

use std::ops::Range;

use memchr::memmem;

use msrp_proto::head::{ByteRange, Head, Kind, Method, TID_BYTES_MAX};
use msrp_proto::parser::{Flag, FramePart, ParseError, Parser, ParserLimits};
use msrp_proto::uri::MsrpUri;

/// Parses a stream in three cuttings and compares the results.
pub fn parser(bytes: &[u8]) {
    let Some((&[limits, stride], input)) = bytes.split_first_chunk() else {
        return;
    };
    let limits = if limits % 2 == 0 { ParserLimits::default() } else { narrow() };
    let whole = parse(&limits, input, std::iter::empty());
    for frame in &whole.frames {
        check_frame(&limits, input, frame);
    }
    assert_eq!(parse(&limits, input, 1..input.len()), whole, "byte by byte");
    assert_eq!(parse(&limits, input, cuts(stride, input.len())), whole, "cut with stride {stride}");
}

/// Limits that short inputs reach.
fn narrow() -> ParserLimits {
    ParserLimits {
        head_bytes_max: 400,
        headers_max: 6,
        line_bytes_max: 120,
        path_uris_max: 2,
        uri_bytes_max: 48,
        session_id_bytes_max: 12,
        comment_bytes_max: 8,
        message_id_bytes_max: 12,
    }
}

/// Where reads end: steps of 1 to `stride` + 1 bytes.
fn cuts(stride: u8, len: usize) -> impl Iterator<Item = usize> {
    let (mut state, mut at) = (u32::from(stride), 0);
    std::iter::from_fn(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        at += 1 + (state >> 16) as usize % (usize::from(stride) + 1);
        (at < len).then_some(at)
    })
}

/// The result of parsing a stream. Ranges are of the whole input.
#[derive(PartialEq, Eq, Debug, Default)]
struct Outcome {
    /// The last may be unfinished.
    frames: Vec<Frame>,
    error: Option<ParseError>,
}

#[derive(PartialEq, Eq, Debug)]
struct Frame {
    head: Head,
    head_at: Range<usize>,
    body_at: Range<usize>,
    end: Option<(Flag, Range<usize>)>,
}

fn parse(limits: &ParserLimits, input: &[u8], cuts: impl Iterator<Item = usize>) -> Outcome {
    let mut parser = Parser::new(limits.clone());
    let mut outcome = Outcome::default();
    let mut at = 0;
    for end in cuts.chain([input.len()]) {
        loop {
            let rest = &input[at..end];
            let step = match parser.step(rest) {
                Ok(Some(step)) => step,
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(parser.step(rest).unwrap_err(), error, "lost framing stays lost");
                    outcome.error = Some(error);
                    return outcome;
                }
            };
            assert!(step.consumed > 0 && step.consumed <= rest.len(), "{step:?} of {} bytes", rest.len());
            outcome.take(step.piece, at..at + step.consumed, input);
            at += step.consumed;
        }
        outcome.check_withheld(limits, end - at);
        assert_eq!(parser.in_frame(), at < end || outcome.unfinished().is_some());
    }
    outcome
}

impl Outcome {
    fn take(&mut self, piece: FramePart, at: Range<usize>, input: &[u8]) {
        match piece {
            FramePart::Blank => {
                assert!(self.unfinished().is_none(), "blank lines within a frame");
                assert!(input[at].iter().all(|byte| matches!(byte, b'\r' | b'\n')));
            }
            FramePart::Head(head) => {
                assert!(self.unfinished().is_none(), "a head within a frame");
                assert_eq!(head.len(), at.len());
                self.frames.push(Frame { head, body_at: at.end..at.end, head_at: at, end: None });
            }
            FramePart::Body(range) => {
                assert!(!range.is_empty() && range == (0..at.len()), "{range:?} of {} bytes", at.len());
                let frame = self.frames.last_mut().filter(|frame| frame.end.is_none()).unwrap();
                assert!(frame.head.has_body(), "a body without a blank line");
                frame.body_at.end = at.end;
            }
            FramePart::End(flag) => {
                let frame = self.frames.last_mut().filter(|frame| frame.end.is_none()).unwrap();
                frame.end = Some((flag, at));
            }
        }
    }

    fn unfinished(&self) -> Option<&Frame> {
        self.frames.last().filter(|frame| frame.end.is_none())
    }

    /// Bytes that the parser withholds are at most an unfinished head or end-line.
    fn check_withheld(&self, limits: &ParserLimits, withheld: usize) {
        // Hyphens, the longest transaction id, flag, CRLF, and the CRLF before them.
        const END_LINE: usize = 7 + TID_BYTES_MAX + 1 + 2 + 2;
        let most = match self.unfinished() {
            Some(_) => END_LINE - 1,
            None => limits.head_bytes_max + END_LINE,
        };
        assert!(withheld <= most, "{withheld} bytes withheld");
    }
}

fn check_frame(limits: &ParserLimits, input: &[u8], frame: &Frame) {
    let head_bytes = &input[frame.head_at.clone()];
    let tid = frame.head.tid(head_bytes);
    assert!((1..=TID_BYTES_MAX).contains(&tid.len()));
    assert!(head_bytes.len() <= limits.head_bytes_max);
    assert!(head_bytes.starts_with(b"MSRP "));
    assert_eq!(frame.head.has_body(), head_bytes.ends_with(b"\r\n\r\n"));
    check_accessors(&frame.head, head_bytes);
    if frame.head.defect().is_none() {
        check_sound_head(limits, &frame.head, head_bytes);
    }
    // With the bytes of something else, a head returns anything, but does not panic.
    check_accessors(&frame.head, &head_bytes[..head_bytes.len() / 2]);

    let end_line = [b"-------", tid].concat();
    if let Some((flag, end_at)) = &frame.end {
        let crlf = if frame.head.has_body() { &b"\r\n"[..] } else { b"" };
        assert_eq!(input[end_at.clone()], *[crlf, &end_line, &[flag.byte()], b"\r\n"].concat());
    }
    // No end-line was skipped.
    let looked_at =
        &input[frame.body_at.start..frame.end.as_ref().map_or(frame.body_at.end, |(_, at)| at.end)];
    let found = memmem::find_iter(looked_at, &[b"\r\n", &end_line[..]].concat()).find(|at| {
        matches!(looked_at.get(at + 2 + end_line.len()..), Some([b'$' | b'+' | b'#', b'\r', b'\n', ..]))
    });
    let expected = (frame.end.is_some() && frame.head.has_body()).then_some(frame.body_at.len());
    assert_eq!(found, expected, "where the body ends");
}

/// Every accessor returns bytes it was given, whatever they are.
fn check_accessors(head: &Head, bytes: &[u8]) {
    let given = bytes.as_ptr_range();
    let within = |part: &[u8]| {
        let part = part.as_ptr_range();
        assert!(part.is_empty() || given.start <= part.start && part.end <= given.end);
    };
    within(head.tid(bytes));
    within(head.method_bytes(bytes));
    within(head.to_path(bytes).as_bytes());
    within(head.from_path(bytes).as_bytes());
    let parts = [
        head.comment(bytes),
        head.use_path(bytes).map(|path| path.as_bytes()),
        head.message_id(bytes),
        head.status_header(bytes),
        head.authorization(bytes),
        head.www_authenticate(bytes),
        head.authentication_info(bytes),
        head.content_type(bytes),
        head.content_disposition(bytes),
    ];
    parts.into_iter().flatten().for_each(within);
    let _ = head.reported_status(bytes);
    for (name, value) in head.headers(bytes) {
        within(name);
        within(value);
    }
}

/// What a head without a defect guarantees, read a second time from its header lines.
fn check_sound_head(limits: &ParserLimits, head: &Head, bytes: &[u8]) {
    let first = |name: &str| {
        head.headers(bytes).find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    };
    let number = |name: &str| {
        let digits = std::str::from_utf8(first(name)?).unwrap();
        Some(digits.parse::<u64>().unwrap_or(u64::MAX).min(u64::from(u32::MAX)))
    };
    let lines = memmem::find_iter(bytes, b"\r\n").count() - 1 - usize::from(head.has_body());
    assert_eq!(head.headers(bytes).count(), lines, "every line is a header");
    assert!(lines <= limits.headers_max);
    for (path, name) in [(head.to_path(bytes), "To-Path"), (head.from_path(bytes), "From-Path")] {
        assert_eq!(Some(path.as_bytes()), first(name));
        let comes_back = matches!(head.kind(), Kind::Response(_) | Kind::Request(Method::Report));
        let own = if comes_back && name == "To-Path" { 2 } else { 0 };
        assert!((1..=limits.path_uris_max + own).contains(&path.len()));
        for uri in path.uris() {
            assert!(uri.len() <= limits.uri_bytes_max);
            let uri = MsrpUri::parse(uri).unwrap();
            assert!(uri.session_id().is_none_or(|id| id.len() <= limits.session_id_bytes_max));
        }
    }
    assert_eq!(head.message_id(bytes), first("Message-ID"));
    assert_eq!(head.use_path(bytes).map(|path| path.as_bytes()), first("Use-Path"));
    assert_eq!(head.status_header(bytes), first("Status"));
    assert_eq!(head.authorization(bytes), first("Authorization"));
    assert_eq!(head.www_authenticate(bytes), first("WWW-Authenticate"));
    assert_eq!(head.authentication_info(bytes), first("Authentication-Info"));
    assert_eq!(head.content_type(bytes), first("Content-Type"));
    assert_eq!(head.content_disposition(bytes), first("Content-Disposition"));
    assert_eq!(head.byte_range(), first("Byte-Range").and_then(ByteRange::parse));
    assert_eq!(head.byte_range().is_some(), first("Byte-Range").is_some());
    assert_eq!(head.expires(), number("Expires"));
    assert_eq!(head.min_expires(), number("Min-Expires"));
    assert_eq!(head.max_expires(), number("Max-Expires"));
    match head.kind() {
        Kind::Request(Method::Send) => assert!(head.message_id(bytes).is_some()),
        Kind::Request(_) => {}
        Kind::Response(_) => assert!(!head.has_body()),
    }
    if let Some(range) = head.byte_range() {
        assert!(range.start > 0);
        assert_eq!(ByteRange::parse(range.to_string().as_bytes()), Some(range));
    }
}
