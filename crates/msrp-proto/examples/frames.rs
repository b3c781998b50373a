//! Lists the frames of a stream of MSRP: `cargo run -p msrp-proto --example frames < FILE`.
//!
//! Each line has the place of the frame's first byte, what the frame is, its transaction id, the bytes of its body and its
//! continuation flag. The exit status is 1 where framing is lost, or where the last frame has no end.

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use msrp_proto::head::{Head, Kind};
use msrp_proto::parser::{Flag, FramePart, Parser, ParserLimits};

/// A frame that has begun.
struct Frame {
    at: usize,
    words: String,
    body_bytes: usize,
}

fn main() -> io::Result<ExitCode> {
    let mut input = Vec::new();
    io::stdin().lock().read_to_end(&mut input)?;
    let mut out = io::stdout().lock();
    let mut parser = Parser::new(ParserLimits::default());
    let (mut at, mut frame) = (0, None);
    while let Some(rest) = input.get(at..).filter(|rest| !rest.is_empty()) {
        let step = match parser.step(rest) {
            Ok(Some(step)) => step,
            Ok(None) => break,
            Err(error) => {
                writeln!(out, "{at}: framing is lost: {error}")?;
                return Ok(ExitCode::FAILURE);
            }
        };
        match step.piece {
            FramePart::Blank => {}
            FramePart::Head(head) => frame = Some(Frame { at, words: words(&head, rest), body_bytes: 0 }),
            FramePart::Body(range) => frame.iter_mut().for_each(|frame| frame.body_bytes += range.len()),
            FramePart::End(flag) => {
                if let Some(Frame { at, words, body_bytes }) = frame.take() {
                    writeln!(out, "{at}: {words}, {body_bytes} bytes, {}", continuation(flag))?;
                }
            }
        }
        at += step.consumed;
    }
    if parser.in_frame() {
        writeln!(out, "{at}: the last frame has no end")?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn words(head: &Head, bytes: &[u8]) -> String {
    let tid = head.tid(bytes).escape_ascii();
    match head.kind() {
        Kind::Request(_) => format!("{} {tid}", head.method_bytes(bytes).escape_ascii()),
        Kind::Response(status) => format!("{} {tid}", status.code()),
    }
}

fn continuation(flag: Flag) -> &'static str {
    match flag {
        Flag::Last => "complete",
        Flag::More => "more to come",
        Flag::Aborted => "aborted",
    }
}
