//! Masking (RFC 6455, 5.3), at memory speed.

/// Bytes that are unmasked in one step: what a vector register holds, or two.
const BLOCK_BYTES: usize = 32;

/// Moves `len` bytes from `from` to `to`, which is not behind it, and unmasks them on the way. `phase` of the message's
/// bytes have been unmasked before. Without a mask they are only moved.
///
/// # Panics
/// If the bytes are not all in `bytes`, or `to` is behind `from`.
pub fn unmask_to_front(
    bytes: &mut [u8],
    (from, to): (usize, usize),
    len: usize,
    mask: Option<[u8; 4]>,
    phase: usize,
) {
    assert!(to <= from, "bytes are moved to the front only");
    let Some(mut mask) = mask else {
        bytes.copy_within(from..from + len, to);
        return;
    };
    mask.rotate_left(phase % 4);
    let mut wide = [0; BLOCK_BYTES];
    for (byte, key) in wide.iter_mut().zip(mask.iter().cycle()) {
        *byte = *key;
    }
    // All of it is within these bounds, so none is looked at again in the loop.
    let window = &mut bytes[to..from + len];
    let gap = from - to;
    let mut at = 0;
    while at + BLOCK_BYTES <= len {
        let mut block = [0; BLOCK_BYTES];
        // A block is read whole before it is written: what it overwrites lies in front of what is read next.
        block.copy_from_slice(&window[at + gap..at + gap + BLOCK_BYTES]);
        for (byte, key) in block.iter_mut().zip(wide) {
            *byte ^= key;
        }
        window[at..at + BLOCK_BYTES].copy_from_slice(&block);
        at += BLOCK_BYTES;
    }
    for (offset, key) in (at..len).zip(wide) {
        window[offset] = window[offset + gap] ^ key;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // RFC 6455, 5.3: byte i is byte i XOR mask[i MOD 4].
        #[test]
        fn each_byte_is_unmasked_with_its_own_byte_of_the_mask(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            front in 0_usize..20,
            gap in 0_usize..20,
            mask in any::<[u8; 4]>(),
            phase in 0_usize..9,
        ) {
            let mut buffer = vec![7; front + gap];
            buffer.extend_from_slice(&bytes);
            unmask_to_front(&mut buffer, (front + gap, front), bytes.len(), Some(mask), phase);
            let expected: Vec<u8> =
                bytes.iter().enumerate().map(|(i, byte)| byte ^ mask[(i + phase) % 4]).collect();
            prop_assert_eq!(&buffer[front..front + bytes.len()], &expected[..]);
            prop_assert!(buffer[..front].iter().all(|byte| *byte == 7));
        }
    }
}
