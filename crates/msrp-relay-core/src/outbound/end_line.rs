//! Makes sure that the end-line of a chunk does not stand in its own body (RFC 4975, 7.1; req S7).
//!
//! A streaming chunk shows its transaction id before its body is known. A receiver that works with the sender could
//! pass it that id. The sender could then put an end-line into the body, end the chunk where it likes, and go on with
//! frames that seem to be ours.

use memchr::memmem;

use crate::ids::Tid;

const HYPHENS: &[u8; 7] = b"-------";
const NEEDLE: usize = HYPHENS.len() + Tid::LEN;
const BEFORE: usize = NEEDLE - 1;

/// The end of the written part of a chunk, and the end-line that must not follow it.
#[derive(Clone, Copy, Debug)]
pub(super) struct EndLineWatch {
    needle: [u8; NEEDLE],
    last: [u8; BEFORE],
    len: usize,
}

impl EndLineWatch {
    pub(super) fn new(tid: Tid) -> Self {
        let mut needle = [b'-'; NEEDLE];
        needle[HYPHENS.len()..].copy_from_slice(tid.as_bytes());
        Self { needle, last: [0; BEFORE], len: 0 }
    }

    /// How many of `bytes`, which are written next, come before the end-line, if they contain or complete one.
    pub(super) fn end_line_in(&self, bytes: &[u8]) -> Option<usize> {
        let mut seam = [0; 2 * BEFORE];
        let next = &bytes[..bytes.len().min(BEFORE)];
        seam[..self.len].copy_from_slice(&self.last[..self.len]);
        seam[self.len..self.len + next.len()].copy_from_slice(next);
        let at_seam = memmem::find(&seam[..self.len + next.len()], &self.needle);
        match at_seam {
            Some(at) => Some(at.saturating_sub(self.len)),
            None => memmem::find(bytes, &self.needle),
        }
    }

    /// These bytes have been written.
    pub(super) fn wrote(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last_chunk() {
            self.last = *last;
            self.len = BEFORE;
            return;
        }
        let kept = self.len.min(BEFORE - bytes.len());
        self.last.copy_within(self.len - kept..self.len, 0);
        self.last[kept..kept + bytes.len()].copy_from_slice(bytes);
        self.len = kept + bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Entropy;

    // S7: wherever the bytes are split, the watch sees the end-line before it is complete, and nothing else.
    #[test]
    fn an_end_line_is_seen_however_it_is_split() {
        let tid = Tid::mint(&mut Entropy::new([1; 32]));
        let mut body = b"some bytes, ------- and more\r\n-------".to_vec();
        body.extend_from_slice(tid.as_bytes());
        body.extend_from_slice(b"$\r\nMSRP forged SEND\r\n");
        let begins = body.windows(NEEDLE).position(|w| w.ends_with(tid.as_bytes()));
        for size in 1..=body.len() {
            let mut watch = EndLineWatch::new(tid);
            let (mut written, mut seen) = (0, false);
            for piece in body.chunks(size) {
                if let Some(before) = watch.end_line_in(piece) {
                    written += before;
                    seen = true;
                    break;
                }
                watch.wrote(piece);
                written += piece.len();
            }
            assert!(seen, "split at {size}");
            let begins = begins.unwrap_or_default();
            assert!((begins..begins + NEEDLE).contains(&written), "split at {size}: {written}");
        }
        let other = EndLineWatch::new(Tid::mint(&mut Entropy::new([2; 32])));
        assert_eq!(other.end_line_in(&body), None);
    }
}
