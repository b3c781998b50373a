//! Writes a received head again for the next hop (RFC 4976 §6.4).
//!
//! Invariant: the transaction id changes, the start line is spelt as in the grammar, URIs move from the front of
//! To-Path to the front of From-Path, and Byte-Range is replaced or added if asked for. Every other byte stays as it
//! was: unknown headers, their order, the spelling of names, white space.

use std::io::Write as _;

use super::{ByteRange, Head, Kind, Span};
use crate::uri::Path;

/// What changes in a head on its way to the next hop.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite<'a> {
    /// The transaction id on the next hop.
    pub tid: &'a [u8],
    /// How many URIs leave the front of To-Path for the front of From-Path: one for each hop made. They move one by
    /// one, so their order is reversed. Less than To-Path has.
    pub moves: usize,
    /// The Byte-Range to write, in place of the head's own, or before the first Content-* or MIME header. `None` leaves
    /// the head's own, or its absence, as it is.
    pub byte_range: Option<ByteRange>,
}

impl Head {
    /// Appends the rewritten head to `out`: from the start line up to and including the blank line if there is one,
    /// else up to the end-line. `bytes` are the head's. Do not forward a head with a [`Head::defect`].
    pub fn rewrite(&self, bytes: &[u8], rewrite: &Rewrite<'_>, out: &mut Vec<u8>) {
        debug_assert!(self.defect.is_none(), "a defective head is never forwarded");
        let bytes = bytes.get(..self.len()).unwrap_or(bytes);
        out.reserve(bytes.len() + GROWTH_BYTES);
        let mut copy = Copying { bytes, copied: 0, out };

        copy.out.extend_from_slice(b"MSRP ");
        copy.out.extend_from_slice(rewrite.tid);
        copy.out.push(b' ');
        copy.skip_to(self.method.start);
        copy.before(self.method.end);
        if matches!(self.kind, Kind::Request(_)) {
            copy.skip_blanks();
        }

        let to_path = self.to_path(bytes);
        let remaining = to_path.after(rewrite.moves);
        copy.up_to(self.to_path);
        copy.out.extend_from_slice(remaining.as_bytes());

        let moved = to_path.as_bytes().get(..to_path.as_bytes().len() - remaining.as_bytes().len());
        copy.before(self.from_path.start);
        for uri in Path::new(moved.unwrap_or_default()).uris().rev() {
            copy.out.extend_from_slice(uri);
            copy.out.push(b' ');
        }

        if let Some(range) = rewrite.byte_range {
            if self.byte_range_text.is_absent() {
                copy.before(self.content_at);
                copy.written(format_args!("Byte-Range: {range}\r\n"));
            } else {
                copy.up_to(self.byte_range_text);
                copy.written(format_args!("{range}"));
            }
        }
        copy.before(self.len);
    }
}

/// How much a longer transaction id and a Byte-Range with the largest numbers can add.
const GROWTH_BYTES: usize = 128;

struct Copying<'a> {
    bytes: &'a [u8],
    /// All before this offset is copied or replaced.
    copied: usize,
    out: &'a mut Vec<u8>,
}

impl Copying<'_> {
    /// Copies the text before `at`.
    fn before(&mut self, at: u32) {
        let at = at as usize;
        self.out.extend_from_slice(self.bytes.get(self.copied..at).unwrap_or_default());
        self.copied = self.copied.max(at);
    }

    /// Leaves out the text before `at`.
    fn skip_to(&mut self, at: u32) {
        self.copied = self.copied.max(at as usize);
    }

    /// Leaves out the white space that comes next.
    fn skip_blanks(&mut self) {
        let rest = self.bytes.get(self.copied..).unwrap_or_default();
        self.copied += rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    }

    /// Copies the text before `span` and leaves out the span.
    fn up_to(&mut self, span: Span) {
        self.before(span.start);
        self.copied = self.copied.max(span.end as usize);
    }

    fn written(&mut self, text: core::fmt::Arguments<'_>) {
        // Writing to a Vec cannot fail.
        let _ = self.out.write_fmt(text);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::parser::{FramePart, Parser, ParserLimits};

    fn rewritten(text: &str, rewrite: &Rewrite<'_>) -> String {
        let step = Parser::new(ParserLimits::default()).step(text.as_bytes()).unwrap().unwrap();
        let FramePart::Head(head) = step.piece else { panic!("{step:?}") };
        assert_eq!(head.defect(), None, "{text}");
        let mut out = b"before ".to_vec();
        head.rewrite(text.get(..step.consumed).unwrap().as_bytes(), rewrite, &mut out);
        String::from_utf8(out).unwrap().strip_prefix("before ").unwrap().to_owned()
    }

    const RANGE: ByteRange = ByteRange { start: 1, end: None, total: Some(9) };

    #[test]
    fn an_absent_byte_range_goes_before_the_content_headers() {
        let head = "MSRP tid1 SEND\r\nTo-Path: msrp://a:1/a;tcp msrp://b:1/b;tcp\r\nFrom-Path: msrp://c:1/c;tcp\r\nMessage-ID: m\r\n";
        let start = "MSRP tid2 SEND\r\nTo-Path: msrp://b:1/b;tcp\r\nFrom-Path: msrp://a:1/a;tcp msrp://c:1/c;tcp\r\nMessage-ID: m\r\n";
        let rewrite = Rewrite { tid: b"tid2", moves: 1, byte_range: Some(RANGE) };
        for (rest, expected) in [
            (
                "X-A: 1\r\nContent-ID: c\r\nContent-Type: t/s\r\n\r\n",
                "X-A: 1\r\nByte-Range: 1-*/9\r\nContent-ID: c\r\nContent-Type: t/s\r\n\r\n",
            ),
            ("mime-version: 1\r\n\r\n", "Byte-Range: 1-*/9\r\nmime-version: 1\r\n\r\n"),
            ("\r\n", "Byte-Range: 1-*/9\r\n\r\n"),
            ("X-A: 1\r\n-------tid1$\r\n", "X-A: 1\r\nByte-Range: 1-*/9\r\n"),
            ("bYTE-rANGE:  4-5/*  \r\nX-A: 1\r\n\r\n", "bYTE-rANGE:  1-*/9  \r\nX-A: 1\r\n\r\n"),
        ] {
            assert_eq!(rewritten(&format!("{head}{rest}"), &rewrite), format!("{start}{expected}"));
        }
    }

    #[test]
    fn without_moves_only_the_transaction_id_changes() {
        let text = "MSRP tid1 200\r\nTO-PATH:  msrp://a:1/a;tcp   msrp://b:1/b;tcp \r\nfrom-path:msrp://c:1/c;tcp\r\n-------tid1$\r\n";
        let rewrite = Rewrite { tid: b"longer-tid", moves: 0, byte_range: None };
        let expected = text.replace("-------tid1$\r\n", "").replace("tid1", "longer-tid");
        assert_eq!(rewritten(text, &rewrite), expected);
    }

    // The next hop may be less tolerant than we are.
    #[test]
    fn start_line_leaves_as_the_grammar_has_it() {
        let paths = "To-Path: msrp://a:1/a;tcp\r\nFrom-Path: msrp://c:1/c;tcp\r\n-------tid1$\r\n";
        let rewrite = Rewrite { tid: b"tid2", moves: 0, byte_range: None };
        for (start, expected) in [
            ("MSRP tid1 FILE_OFFSET", "MSRP tid2 FILE_OFFSET"),
            ("MSRP  tid1   AUTH \t ", "MSRP tid2 AUTH"),
            ("MSRP   tid1  200  fine ", "MSRP tid2 200  fine "),
        ] {
            let rewritten = rewritten(&format!("{start}\r\n{paths}"), &rewrite);
            assert_eq!(rewritten, format!("{expected}\r\n{paths}").replace("-------tid1$\r\n", ""));
        }
    }

    fn value() -> impl Strategy<Value = String> {
        "[ -~\u{e9}\u{2615}]{0,20}".prop_map(|value| value.trim().to_owned())
    }

    fn uris() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec("msrps?://[a-z]{1,5}:[1-9]{1,4}/[A-Za-z0-9+/=]{1,9};(tcp|ws;x=y)", 1..6)
    }

    proptest! {
        #[test]
        fn every_byte_a_rewrite_does_not_own_is_preserved(
            to in uris(),
            from in uris(),
            gap in " {1,3}",
            colon in ":[ \t]{0,2}",
            moves in 0..6_usize,
            front in prop::collection::vec(("X-[a-zA-Z]{1,8}", value()), 0..4),
            range in prop::option::of("[1-9]-[*]/[*]"),
            wanted in prop::option::of(1..100_u64),
            content in prop::collection::vec(("Content-X[a-z]{1,8}", value()), 0..3),
            has_body: bool,
        ) {
            let moves = moves.min(to.len() - 1);
            let new_range = wanted.map(|start| ByteRange { start, end: Some(start), total: None });
            let lines = |headers: &[(String, String)]| -> String {
                headers.iter().map(|(name, value)| format!("{name}{colon}{value} \r\n")).collect()
            };
            let build = |tid: &str, to: String, from: String, range: Option<String>, end: &str| {
                let range = range.map(|range| format!("Byte-Range{range}\r\n")).unwrap_or_default();
                let blank = if has_body { "\r\n" } else { end };
                format!("MSRP {tid} SEND\r\ntO-pATH{colon}{to}\r\nfrom-path{colon}{from}\r\nMessage-ID: m\r\n{}{range}{}{blank}",
                    lines(&front), lines(&content))
            };
            let spelled = range.as_ref().map(|range| format!("{colon}{range}\t"));
            let input = build("tid1", to.join(&gap), from.join(&gap), spelled.clone(), "-------tid1+\r\n");

            let mut expected_from = from.join(&gap);
            for uri in to.iter().take(moves) {
                expected_from = format!("{uri} {expected_from}");
            }
            let expected_to = to.get(moves..).unwrap().join(&gap);
            let expected_range = match (&range, new_range) {
                (Some(_), Some(new)) => Some(format!("{colon}{new}\t")),
                (None, Some(new)) => Some(format!(": {new}")),
                (_, None) => spelled,
            };
            let expected = build("tid-2.%", expected_to, expected_from, expected_range, "");
            let rewrite = Rewrite { tid: b"tid-2.%", moves, byte_range: new_range };
            prop_assert_eq!(rewritten(&input, &rewrite), expected);
        }
    }
}
