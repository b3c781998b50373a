//! One flush: the bytes to write to a connection, small parts gathered, bodies by reference.

use std::ops::Range;

use bytes::Bytes;

/// A reusable list of bytes to write in order. Heads, end-lines and answers are gathered in one buffer; body bytes stay
/// where they were received.
#[derive(Debug, Default)]
pub struct OutBatch {
    small: Vec<u8>,
    parts: Vec<Part>,
    len: usize,
    /// Where frames end, for a transport that has one message for each. All are whole.
    frame_ends: Vec<usize>,
}

#[derive(Debug)]
enum Part {
    Small(Range<usize>),
    Body(Bytes),
}

/// Bodies below this size are gathered with their heads: a reference costs more than the copy, and would keep the whole
/// read buffer in memory.
const GATHER_BELOW: usize = 512;

impl OutBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes in all parts.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets everything, keeping the memory.
    pub fn clear(&mut self) {
        self.small.clear();
        self.parts.clear();
        self.len = 0;
        self.frame_ends.clear();
    }

    /// The parts, in the order of writing.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(|part| match part {
            Part::Small(range) => &self.small[range.clone()],
            Part::Body(bytes) => bytes,
        })
    }

    /// Where frames end, as offsets into all bytes, where the connection carries each in a message of its own: then the
    /// batch holds whole frames. Empty elsewhere.
    pub fn frame_ends(&self) -> &[usize] {
        &self.frame_ends
    }

    /// What has been written is a whole frame.
    pub(crate) fn end_frame(&mut self) {
        self.frame_ends.push(self.len);
    }

    /// Lets `write` append to the gathered part.
    pub(crate) fn small(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.small.len();
        write(&mut self.small);
        let end = self.small.len();
        self.len += end - start;
        match self.parts.last_mut() {
            Some(Part::Small(range)) => range.end = end,
            _ if end > start => self.parts.push(Part::Small(start..end)),
            _ => {}
        }
    }

    /// Moves the front of a buffer in, as far as the batch stays within `max` bytes. Returns how many bytes it moved.
    pub(crate) fn push_small(&mut self, bytes: &mut Vec<u8>, max: usize) -> usize {
        let moved = bytes.len().min(max.saturating_sub(self.len));
        if moved > 0 {
            self.small(|small| small.extend_from_slice(&bytes[..moved]));
            bytes.drain(..moved);
        }
        moved
    }

    pub(crate) fn body(&mut self, bytes: Bytes) {
        if bytes.len() < GATHER_BELOW {
            self.small(|small| small.extend_from_slice(&bytes));
        } else {
            self.len += bytes.len();
            self.parts.push(Part::Body(bytes));
        }
    }
}
