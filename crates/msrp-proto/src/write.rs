//! Frames of our own: responses, REPORTs, and the requests of a client (RFC 4975 §9).
//!
//! Invariant: this module writes only canonical spelling, with one space after each colon and each end-line in one
//! piece. The caller has validated every value; assertions reject CR and LF.

use core::fmt;
use std::io::Write as _;

use super::head::ByteRange;
use super::parser::Flag;
use super::status::Status;

/// Writes one frame, appending to a buffer. Headers go out in the order of the calls: To-Path and From-Path
/// first, Content-Type last.
#[must_use = "a frame needs its end-line"]
#[derive(Debug)]
pub struct FrameWriter<'a> {
    out: &'a mut Vec<u8>,
    tid: &'a [u8],
}

impl<'a> FrameWriter<'a> {
    /// Begins a request.
    pub fn request(out: &'a mut Vec<u8>, tid: &'a [u8], method: &str) -> Self {
        Self { out, tid }.start_line(format_args!("{method}"))
    }

    /// Begins a response. Without a comment of its own it carries the status's phrase.
    pub fn response(out: &'a mut Vec<u8>, tid: &'a [u8], status: Status, comment: Option<&str>) -> Self {
        let comment = comment.unwrap_or_else(|| status.phrase());
        Self { out, tid }.start_line(format_args!("{status} {comment}"))
    }

    /// Adds a header. `value` must not hold CR or LF.
    pub fn header(self, name: &str, value: &[u8]) -> Self {
        debug_assert!(
            !value.contains(&b'\r') && !value.contains(&b'\n'),
            "a line end in the value of {name}"
        );
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        self.out.extend_from_slice(value);
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// Adds a header whose value `value` writes, which must not yield CR or LF.
    pub fn header_fmt(self, name: &str, value: fmt::Arguments<'_>) -> Self {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        self.line(value)
    }

    /// Adds Byte-Range.
    pub fn byte_range(self, range: ByteRange) -> Self {
        self.header_fmt("Byte-Range", format_args!("{range}"))
    }

    /// Ends the headers with the blank line. The caller then appends the body to the buffer, and calls
    /// [`write_end_line`].
    pub fn body_start(self) {
        self.out.extend_from_slice(b"\r\n");
    }

    /// Ends a frame without a body.
    pub fn end(self, flag: Flag) {
        write_end_line(self.out, self.tid, flag, false);
    }

    fn start_line(self, word: fmt::Arguments<'_>) -> Self {
        self.out.extend_from_slice(b"MSRP ");
        self.out.extend_from_slice(self.tid);
        self.out.push(b' ');
        self.line(word)
    }

    fn line(self, text: fmt::Arguments<'_>) -> Self {
        let begin = self.out.len();
        // Writing to a Vec cannot fail.
        let _ = self.out.write_fmt(text);
        debug_assert!(
            !self.out.iter().skip(begin).any(|byte| matches!(byte, b'\r' | b'\n')),
            "a line end within a line"
        );
        self.out.extend_from_slice(b"\r\n");
        self
    }
}

/// Appends an end-line; after a body, with the CRLF that is not part of the body.
pub fn write_end_line(out: &mut Vec<u8>, tid: &[u8], flag: Flag, after_body: bool) {
    if after_body {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"-------");
    out.extend_from_slice(tid);
    out.extend_from_slice(&[flag.byte(), b'\r', b'\n']);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_written_in_order_behind_what_is_there() {
        let mut out = b"before|".to_vec();
        FrameWriter::request(&mut out, b"tid1", "SEND")
            .header("To-Path", b"msrp://h:1/t;tcp")
            .byte_range(ByteRange { start: 1, end: None, total: Some(4) })
            .header_fmt("X-Sum", format_args!("{}", 1 + 1))
            .body_start();
        out.extend_from_slice(b"body");
        write_end_line(&mut out, b"tid1", Flag::More, true);
        let expected = "before|MSRP tid1 SEND\r\nTo-Path: msrp://h:1/t;tcp\r\nByte-Range: 1-*/4\r\nX-Sum: 2\r\n\r\nbody\r\n-------tid1+\r\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    #[test]
    fn a_response_carries_its_phrase_unless_told_otherwise() {
        let mut out = Vec::new();
        FrameWriter::response(&mut out, b"tid1", Status::NO_SESSION, None).end(Flag::Last);
        FrameWriter::response(&mut out, b"tid2", Status::FORBIDDEN, Some("Not here")).end(Flag::Aborted);
        let expected =
            "MSRP tid1 481 No Such Session\r\n-------tid1$\r\nMSRP tid2 403 Not here\r\n-------tid2#\r\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}
