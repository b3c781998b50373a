//! The content of messages: bytes that follow from a seed and a place, so that the receiver can check each of them at
//! once with only the Message-ID. And the dice for the mix.

/// SplitMix64.
pub(crate) struct Dice(u64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(mix(seed.wrapping_add(STEP)))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// `from ..= to`.
    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from + 1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        let at = self.next() % of.len() as u64;
        of[usize::try_from(at).unwrap_or_default()]
    }

    /// A byte count; sizes of all orders of magnitude are equally likely.
    pub(crate) fn size(&mut self, from: u64, to: u64) -> u64 {
        let (low, high) = (from.max(1).ilog2(), to.ilog2());
        let order = self.between(u64::from(low), u64::from(high));
        let smallest = 1_u64 << order;
        self.between(smallest, smallest * 2 - 1).clamp(from, to)
    }
}

fn word(seed: u64, index: u64) -> [u8; 8] {
    mix(seed.wrapping_add(index.wrapping_mul(STEP))).to_le_bytes()
}

/// Writes the bytes of message `seed` from place `at` (the first is 0) on.
pub(crate) fn fill(seed: u64, at: u64, out: &mut [u8]) {
    let skip = (at % 8) as usize;
    let (first, rest) = out.split_at_mut(out.len().min((8 - skip) % 8));
    let mut index = at / 8;
    if !first.is_empty() {
        first.copy_from_slice(&word(seed, index)[skip..skip + first.len()]);
        index += 1;
    }
    for part in rest.chunks_mut(8) {
        part.copy_from_slice(&word(seed, index)[..part.len()]);
        index += 1;
    }
}

/// The place of the first byte that differs from message `seed`.
pub(crate) fn first_difference(seed: u64, at: u64, bytes: &[u8]) -> Option<u64> {
    let mut expected = [0; 4096];
    let mut place = at;
    for part in bytes.chunks(expected.len()) {
        let expected = &mut expected[..part.len()];
        fill(seed, place, expected);
        if expected != part {
            let same = expected.iter().zip(part).take_while(|(a, b)| a == b).count();
            return Some(place + same as u64);
        }
        place += part.len() as u64;
    }
    None
}

/// The Message-ID that names a seed.
pub(crate) fn message_id(seed: u64) -> String {
    format!("m{seed:016x}")
}

/// The seed that a Message-ID names.
pub(crate) fn seed_of(message_id: &str) -> Option<u64> {
    u64::from_str_radix(message_id.strip_prefix('m')?, 16).ok()
}

#[test]
fn content_is_the_same_however_it_is_cut() {
    let mut whole = vec![0; 20_000];
    fill(7, 0, &mut whole);
    for (start, end) in [(0, 20_000), (1, 20_000), (7, 9), (8, 16), (13, 13), (13, 14), (4095, 12_345)] {
        let mut part = vec![0; end - start];
        fill(7, start as u64, &mut part);
        assert_eq!(part, whole[start..end]);
        assert_eq!(first_difference(7, start as u64, &part), None);
    }
    whole[12_345] ^= 1;
    assert_eq!(first_difference(7, 3, &whole[3..]), Some(12_345));
    assert_eq!(seed_of(&message_id(0xfeed)), Some(0xfeed));
}
