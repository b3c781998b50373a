//! Writes a received head again for the next hop (RFC 4976 §6.4).
//!
//! Invariant: the transaction id changes, URIs move from the front of To-Path to the front of From-Path, Byte-Range
//! is replaced or added if asked for, and every other octet stays as it was: unknown headers, their order, the
//! spelling of names, white space.

use std::io::Write as _;

use super::{ByteRange, Head, Span};
use crate::proto::uri::Path;

/// What changes in a head on its way to the next hop.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite<'a> {
    /// The transaction id on the next hop.
    pub tid: &'a [u8],
    /// How many URIs leave the front of To-Path for the front of From-Path: one for every hop made. Each goes in
    /// turn, so they end up reversed. Less than To-Path has.
    pub moves: usize,
    /// The Byte-Range to write, in place of the one there is or else before the first Content-* or MIME header.
    /// `None` leaves the head's own, or its absence, as it is.
    pub byte_range: Option<ByteRange>,
}

impl Head {
    /// Appends the head as rewritten to `out`: from the start line up to and including the blank line if there is
    /// one, else up to the end-line. `octets` are the head's; a head with a [`Head::defect`] is not to be forwarded.
    pub fn rewrite(&self, octets: &[u8], rewrite: &Rewrite<'_>, out: &mut Vec<u8>) {
        debug_assert!(self.defect.is_none(), "a defective head is never forwarded");
        let octets = octets.get(..self.len()).unwrap_or(octets);
        out.reserve(octets.len() + GROWTH_BYTES);
        let mut copy = Copying {
            octets,
            copied: 0,
            out,
        };

        copy.up_to(self.tid);
        copy.out.extend_from_slice(rewrite.tid);

        let to_path = self.to_path(octets);
        let remaining = to_path.after(rewrite.moves);
        copy.up_to(self.to_path);
        copy.out.extend_from_slice(remaining.as_bytes());

        let moved = to_path
            .as_bytes()
            .get(..to_path.as_bytes().len() - remaining.as_bytes().len());
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

/// What a longer transaction id and a Byte-Range of the largest numbers can add.
const GROWTH_BYTES: usize = 128;

struct Copying<'a> {
    octets: &'a [u8],
    /// All before this offset has been copied or replaced.
    copied: usize,
    out: &'a mut Vec<u8>,
}

impl Copying<'_> {
    /// Copies what stands before `at`.
    fn before(&mut self, at: u32) {
        let at = at as usize;
        self.out
            .extend_from_slice(self.octets.get(self.copied..at).unwrap_or_default());
        self.copied = self.copied.max(at);
    }

    /// Copies what stands before `span` and leaves out the span itself.
    fn up_to(&mut self, span: Span) {
        self.before(span.start);
        self.copied = self.copied.max(span.end as usize);
    }

    fn written(&mut self, text: core::fmt::Arguments<'_>) {
        // Writing to a Vec cannot fail.
        let _ = self.out.write_fmt(text);
    }
}
