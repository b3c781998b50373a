//! The bytes of a message that are here: a bounded set of half-open ranges.
//!
//! Keeps the books on Byte-Range (RFC 4975, 7.1.1 and 7.3.1) for both directions: a receiver notes the bytes it has
//! stored, a sender those that success REPORTs have confirmed. Offsets count from 0 here; the wire counts from 1.
//! Invariants: the ranges are sorted, non-empty, and neither overlap nor touch. Must not know files or frames.

/// A peer with more islands than this is hostile: no client sends a file in so many separate places.
const ISLANDS_MAX: usize = 4096;

/// A set of bytes, kept as the fewest possible ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// `(start, end)` with `start < end`, ascending, with a gap before each next one.
    islands: Vec<(u64, u64)>,
}

/// The set would fall into more than the permitted number of separate ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the chunks arrive in too many separate places")]
pub struct TooScattered;

impl RangeSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self { islands: Vec::new() }
    }

    /// Adds the bytes `start..end`; an empty range changes nothing.
    ///
    /// # Errors
    /// [`TooScattered`] when the number of separate ranges would pass its bound; the set is then unchanged.
    pub fn insert(&mut self, start: u64, end: u64) -> Result<(), TooScattered> {
        if start >= end {
            return Ok(());
        }
        let first = self.islands.partition_point(|&(_, island_end)| island_end < start);
        let after = self.islands.partition_point(|&(island_start, _)| island_start <= end);
        let mut merged = (start, end);
        for &(island_start, island_end) in self.islands.get(first..after).unwrap_or_default() {
            merged = (merged.0.min(island_start), merged.1.max(island_end));
        }
        if first == after && self.islands.len() == ISLANDS_MAX {
            return Err(TooScattered);
        }
        self.islands.splice(first..after, [merged]);
        Ok(())
    }

    /// Whether every byte of `0..total` is in the set; true of the empty message.
    pub fn covers(&self, total: u64) -> bool {
        total == 0 || self.islands.first().is_some_and(|&(start, end)| start == 0 && end >= total)
    }

    /// One past the highest byte in the set; 0 when empty.
    pub fn end(&self) -> u64 {
        self.islands.last().map_or(0, |&(_, end)| end)
    }

    /// How many bytes the set holds.
    pub fn bytes(&self) -> u64 {
        self.islands.iter().map(|(start, end)| end - start).sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set_of(ranges: &[(u64, u64)]) -> RangeSet {
        let mut set = RangeSet::new();
        for &(start, end) in ranges {
            set.insert(start, end).unwrap();
        }
        set
    }

    #[test]
    fn neighbours_grow_together() {
        assert_eq!(set_of(&[(0, 10), (10, 20)]).islands, [(0, 20)]);
        assert_eq!(set_of(&[(10, 20), (0, 10)]).islands, [(0, 20)]);
    }

    #[test]
    fn a_gap_keeps_the_message_incomplete() {
        let mut set = set_of(&[(0, 10), (11, 20)]);
        assert!(!set.covers(20));
        set.insert(10, 11).unwrap();
        assert!(set.covers(20));
        assert!(!set.covers(21));
    }

    #[test]
    fn overlaps_count_once() {
        assert_eq!(set_of(&[(5, 15), (0, 10), (3, 4), (14, 30)]).bytes(), 30);
    }

    #[test]
    fn an_empty_message_is_complete_from_the_start() {
        assert!(RangeSet::new().covers(0));
        assert!(!RangeSet::new().covers(1));
    }

    #[test]
    fn islands_are_bounded() {
        let mut set = RangeSet::new();
        for index in 0..ISLANDS_MAX as u64 {
            set.insert(index * 2, index * 2 + 1).unwrap();
        }
        assert_eq!(set.insert(u64::MAX - 1, u64::MAX), Err(TooScattered));
        assert_eq!(set.insert(1, 2), Ok(()), "closing a gap needs no new island");
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_set_of_bytes(ranges in prop::collection::vec((0_u64..64, 0_u64..64), 0..24)) {
            let mut set = RangeSet::new();
            let mut plain = std::collections::BTreeSet::new();
            for (start, end) in ranges {
                set.insert(start, end).unwrap();
                plain.extend(start..end);
            }
            prop_assert_eq!(set.bytes(), plain.len() as u64);
            prop_assert_eq!(set.end(), plain.last().map_or(0, |last| last + 1));
            for total in 0..64 {
                prop_assert_eq!(set.covers(total), (0..total).all(|byte| plain.contains(&byte)));
            }
        }
    }
}
