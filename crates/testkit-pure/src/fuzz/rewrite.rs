//! [`Head::rewrite`] against a model that works on lines: for every head without a defect, the result differs from it
//! only where that was asked for, and is again a head without a defect.
//!
//! Three bytes choose the new transaction id and the new Byte-Range; the rest is a frame.

use msrp_proto::head::{ByteRange, Head, Rewrite};
use msrp_proto::parser::{Flag, FramePart, Parser, ParserLimits};
use msrp_proto::uri::Path;
use msrp_proto::write::write_end_line;

/// Parses a head and rewrites it in every way.
pub fn rewrite(bytes: &[u8]) {
    let Some((&[tid, range, magnitude], input)) = bytes.split_first_chunk() else {
        return;
    };
    let Some((head, bytes)) =
        parse(ParserLimits::default(), input).filter(|(head, _)| head.defect().is_none())
    else {
        return;
    };
    let tid = transaction_id(tid);
    for byte_range in [None, Some(byte_range(range, magnitude))] {
        for moves in 0..head.to_path(bytes).len() {
            check(&head, bytes, &Rewrite { tid: &tid, moves, byte_range });
        }
    }
}

fn parse(limits: ParserLimits, input: &[u8]) -> Option<(Head, &[u8])> {
    let step = Parser::new(limits).step(input).ok()??;
    match step.piece {
        FramePart::Head(head) => Some((head, &input[..step.consumed])),
        FramePart::Blank => None,
        FramePart::Body(_) | FramePart::End(_) => panic!("a frame begins with {step:?}"),
    }
}

/// A valid head stays valid, but it grows, and limits are the receiver's.
fn wide() -> ParserLimits {
    const WIDE: usize = 1 << 24;
    ParserLimits {
        head_bytes_max: WIDE,
        headers_max: WIDE,
        line_bytes_max: WIDE,
        path_uris_max: WIDE,
        uri_bytes_max: WIDE,
        session_id_bytes_max: WIDE,
        comment_bytes_max: WIDE,
        message_id_bytes_max: WIDE,
    }
}

/// Of any permitted length.
fn transaction_id(choice: u8) -> Vec<u8> {
    let len = 4 + usize::from(choice) % 29;
    b"z.Y-x+W%v=0123456789".iter().cycle().take(len).copied().collect()
}

fn byte_range(low: u8, magnitude: u8) -> ByteRange {
    let start = (u64::from(low) << (magnitude % 60)).max(1);
    let last = start.saturating_add(u64::from(low));
    ByteRange {
        start,
        end: (magnitude & 64 == 0).then_some(last),
        total: (magnitude & 128 == 0).then_some(last),
    }
}

fn check(head: &Head, bytes: &[u8], rewrite: &Rewrite<'_>) {
    let written = rewritten(head, bytes, rewrite);
    let shown = String::from_utf8_lossy(&written);
    let expected = expected(bytes, head.has_body(), rewrite);
    assert!(written == expected, "{rewrite:?}\n{shown}\nin place of\n{}", String::from_utf8_lossy(&expected));

    let mut frame = written.clone();
    if !head.has_body() {
        write_end_line(&mut frame, rewrite.tid, Flag::Last, false);
    }
    let (again, again_bytes) = parse(wide(), &frame).unwrap();
    assert_eq!(again.defect(), None, "{rewrite:?}\n{shown}");
    assert_eq!((again.kind(), again_bytes), (head.kind(), &written[..]));
    assert_eq!(again.tid(&written), rewrite.tid);
    let (to, from) = (head.to_path(bytes), head.from_path(bytes));
    assert!(again.to_path(&written).uris().eq(to.uris().skip(rewrite.moves)));
    let moved = to.uris().take(rewrite.moves).collect::<Vec<_>>();
    assert!(again.from_path(&written).uris().eq(moved.into_iter().rev().chain(from.uris())));
    assert_eq!(again.byte_range(), rewrite.byte_range.or_else(|| head.byte_range()));
    assert_eq!(again.message_id(&written), head.message_id(bytes));
    assert_eq!(again.authorization(&written), head.authorization(bytes));

    // Two relays in a row do the same as one with two moves.
    if rewrite.moves > 0 {
        let first = Rewrite { moves: rewrite.moves - 1, ..*rewrite };
        let halfway = rewritten(head, bytes, &first);
        let mut frame = halfway.clone();
        if !head.has_body() {
            write_end_line(&mut frame, rewrite.tid, Flag::Last, false);
        }
        let (head, _) = parse(wide(), &frame).unwrap();
        assert_eq!(rewritten(&head, &halfway, &Rewrite { moves: 1, ..*rewrite }), written, "one by one");
    }
}

fn rewritten(head: &Head, bytes: &[u8], rewrite: &Rewrite<'_>) -> Vec<u8> {
    let mut out = b"before".to_vec();
    head.rewrite(bytes, rewrite, &mut out);
    assert!(out.starts_with(b"before"), "what is there stays");
    out.split_off(b"before".len())
}

/// The same, line by line.
fn expected(bytes: &[u8], has_body: bool, rewrite: &Rewrite<'_>) -> Vec<u8> {
    let text = if has_body { &bytes[..bytes.len() - 2] } else { bytes };
    let mut lines: Vec<&[u8]> = lines(text);
    let start = lines.remove(0);
    let rest = start[b"MSRP ".len()..].trim_ascii_start();
    let word_at = rest.iter().position(|byte| *byte == b' ').unwrap();
    let word = rest[word_at..].trim_ascii_start();
    // A comment keeps its white space; a method has none around it.
    let word = if word[0].is_ascii_digit() { word } else { word.trim_ascii_end() };
    let mut out = [b"MSRP ", rewrite.tid, b" ", word, b"\r\n"].concat();

    let to = lines.iter().find(|line| is_named(line, "To-Path")).map_or(&b""[..], |line| parts(line).1);
    let had_range = lines.iter().any(|line| is_named(line, "Byte-Range"));
    let mut to_add = rewrite.byte_range.filter(|_| !had_range);
    for line in lines {
        let (front, value, back) = parts(line);
        let content = [&b"content-"[..], b"mime-"]
            .iter()
            .any(|name| line.get(..name.len()).is_some_and(|front| front.eq_ignore_ascii_case(name)));
        if let Some(range) = to_add.take_if(|_| content) {
            out.extend(format!("Byte-Range: {range}\r\n").into_bytes());
        }
        out.extend_from_slice(front);
        if is_named(line, "To-Path") {
            out.extend_from_slice(behind(value, rewrite.moves));
        } else if is_named(line, "From-Path") {
            for uri in Path::new(to).uris().take(rewrite.moves).collect::<Vec<_>>().into_iter().rev() {
                out.extend_from_slice(uri);
                out.push(b' ');
            }
            out.extend_from_slice(value);
        } else if let Some(range) = rewrite.byte_range.filter(|_| is_named(line, "Byte-Range")) {
            out.extend(range.to_string().into_bytes());
        } else {
            out.extend_from_slice(value);
        }
        out.extend_from_slice(back);
        out.extend_from_slice(b"\r\n");
    }
    if let Some(range) = to_add {
        out.extend(format!("Byte-Range: {range}\r\n").into_bytes());
    }
    if has_body {
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Without their CRLFs, which each has.
fn lines(mut text: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    while let Some(at) = text.windows(2).position(|pair| pair == b"\r\n") {
        lines.push(&text[..at]);
        text = &text[at + 2..];
    }
    assert!(text.is_empty(), "a head is made of lines");
    lines
}

/// Name, colon and white space; value; white space.
fn parts(line: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let colon = line.iter().position(|byte| *byte == b':').unwrap();
    let end = line.iter().rposition(|byte| !blank(byte)).unwrap() + 1;
    let start = (colon + 1..end).find(|at| !blank(&line[*at])).unwrap_or(end);
    (&line[..start], &line[start..end], &line[end..])
}

fn is_named(line: &[u8], name: &str) -> bool {
    let colon = line.iter().position(|byte| *byte == b':').unwrap();
    line[..colon].eq_ignore_ascii_case(name.as_bytes())
}

/// A path without its first `n` URIs.
fn behind(mut path: &[u8], n: usize) -> &[u8] {
    for _ in 0..n {
        let uri = path.iter().position(|byte| *byte == b' ').unwrap_or(path.len());
        path = &path[uri..];
        let spaces = path.iter().take_while(|byte| **byte == b' ').count();
        path = &path[spaces..];
    }
    path
}
