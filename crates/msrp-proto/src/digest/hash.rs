//! The hashes of digest authentication and their hexadecimal form.

use core::str;

use md5::Md5;
use sha2::{Digest as _, Sha256};

use super::algorithm::Algorithm;
use crate::uri::hex_value;

/// A digest in lower-case hexadecimal.
#[derive(Clone, Copy)]
pub struct Hex {
    digits: [u8; 64],
    len: usize,
}

impl Hex {
    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        digits(self.as_bytes())
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.digits.get(..self.len).unwrap_or_default()
    }
}

/// The output of a hash.
#[derive(Clone)]
pub(super) enum Hash {
    Md5([u8; 16]),
    Sha256([u8; 32]),
}

impl Hash {
    pub(super) fn of(algorithm: Algorithm, parts: &[&[u8]]) -> Self {
        match algorithm {
            Algorithm::Md5 => Self::Md5(
                parts.iter().fold(Md5::new(), |hash, part| hash.chain_update(part)).finalize().into(),
            ),
            Algorithm::Sha256 => Self::Sha256(
                parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize().into(),
            ),
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Md5(bytes) => bytes,
            Self::Sha256(bytes) => bytes,
        }
    }

    pub(super) fn to_hex(&self) -> Hex {
        let mut hex = Hex { digits: [0; 64], len: self.as_bytes().len() * 2 };
        for (pair, byte) in hex.digits.as_chunks_mut::<2>().0.iter_mut().zip(self.as_bytes()) {
            *pair = [hex_digit(byte >> 4), hex_digit(byte & 15)];
        }
        hex
    }
}

pub(super) fn hex_digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + value - 10 }
}

/// How many bytes were decoded; `None` if `hex` is not pairs of digits, or too long.
pub(super) fn decode_hex(hex: &str, bytes: &mut [u8; 32]) -> Option<usize> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if !rest.is_empty() || pairs.len() > bytes.len() {
        return None;
    }
    for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = hex_value(high)? * 16 + hex_value(low)?;
    }
    Some(pairs.len())
}

pub(super) fn digits(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap_or_default()
}
