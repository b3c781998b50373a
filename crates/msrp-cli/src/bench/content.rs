//! What the benchmark sends, and the check that it arrived as it was sent.
//!
//! Random bytes that repeat with a period that is no multiple of any record, chunk or buffer, from a start that depends
//! on the message: lost, repeated, moved or misdelivered bytes do not compare equal. The comparison is a memcmp against
//! memory that stays in the cache. Invariant: no end-line can occur in it.

use std::sync::LazyLock;

use super::line::FLUSH_BYTES;

/// A prime.
const PERIOD: usize = 65_521;

/// One period and a flush more, so that every slice of a flush is contiguous.
static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let period: Vec<u8> = (0..PERIOD)
        .map(|_| {
            // xorshift: the bytes need only be incompressible. Without hyphens there is no end-line.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            match state.to_be_bytes()[0] {
                b'-' => b'_',
                byte => byte,
            }
        })
        .collect();
    period.iter().copied().cycle().take(PERIOD + FLUSH_BYTES).collect()
});

/// The content of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    phase: u64,
}

impl Content {
    /// The content that belongs to a Message-ID.
    pub(crate) fn of(message_id: &[u8]) -> Self {
        // FNV-1a.
        let hash = message_id.iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3)
        });
        Self { phase: hash % PERIOD as u64 }
    }

    /// The bytes from `offset` on, at most [`FLUSH_BYTES`] of them.
    pub(crate) fn slice(self, offset: u64, bytes: usize) -> &'static [u8] {
        let begin = ((self.phase + offset) % PERIOD as u64) as usize;
        BYTES.get(begin..begin + bytes.min(FLUSH_BYTES)).unwrap_or_default()
    }

    /// Whether these are the bytes from `offset` on.
    pub(crate) fn matches(self, offset: u64, bytes: &[u8]) -> bool {
        bytes
            .chunks(FLUSH_BYTES)
            .zip((offset..).step_by(FLUSH_BYTES))
            .all(|(piece, at)| piece == self.slice(at, piece.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_as_it_was_sent_does_not_match() {
        let content = Content::of(b"one");
        let mut bytes = Vec::new();
        while bytes.len() < 1_000_000 {
            bytes.extend_from_slice(content.slice(bytes.len() as u64, 100_000));
        }
        assert!(content.matches(0, &bytes));
        assert!(content.matches(777, bytes.get(777..).unwrap_or_default()));
        assert!(!content.matches(1, &bytes));
        assert!(!content.matches(FLUSH_BYTES as u64, &bytes));
        assert!(!Content::of(b"two").matches(0, &bytes));
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert!(!content.matches(0, &bytes));
    }

    #[test]
    fn content_holds_no_end_line_at_any_place() {
        let content = Content::of(b"any");
        assert!(!content.slice(0, FLUSH_BYTES).contains(&b'-'));
        assert_eq!(content.slice(PERIOD as u64 - 1, FLUSH_BYTES).len(), FLUSH_BYTES);
    }
}
