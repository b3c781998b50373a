//! The keys of one direction: TLS 1.3's record protection with AES-GCM (RFC 8446, sections 5.2 to 5.4).
//!
//! Invariants: the sequence number rises with every record and never repeats, so no nonce does; only authenticated
//! bytes leave [`Half::open`]; the key and the IV are wiped when they are dropped (the key by aws-lc). It must not know
//! what a record means.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::{CipherSuite, ConnectionTrafficSecrets, ContentType};
use zeroize::Zeroizing;

use crate::{PLAINTEXT_BYTES_MAX, TlsError};

/// The header of a record.
pub(super) const HEADER_BYTES: usize = 5;

const TAG_BYTES: usize = 16;

/// What a record of ours adds to its content: header, content type, tag.
pub(super) const OVERHEAD_BYTES: usize = HEADER_BYTES + 1 + TAG_BYTES;

/// What may follow a header: `TLSCiphertext.encrypted_record` (RFC 8446, 5.2).
pub(super) const SEALED_BYTES_MAX: usize = PLAINTEXT_BYTES_MAX + 256;

/// `TLSInnerPlaintext`: content, content type, padding (RFC 8446, 5.4).
const INNER_BYTES_MAX: usize = PLAINTEXT_BYTES_MAX + 1;

/// A key in use.
pub(super) struct Half {
    key: LessSafeKey,
    iv: Zeroizing<[u8; NONCE_LEN]>,
    sequence: u64,
}

/// Why a record cannot be opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum OpenError {
    /// Not from the peer, or altered on the way.
    Forged,
    /// More inside than RFC 8446 allows.
    TooLong,
    /// No content type, only zeros.
    OnlyPadding,
}

/// Whether a suite's records can be protected here.
pub(super) fn knows(suite: CipherSuite) -> bool {
    matches!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256 | CipherSuite::TLS13_AES_256_GCM_SHA384)
}

impl Half {
    /// Begins at the sequence number that rustls has reached.
    pub(super) fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, TlsError> {
        let (algorithm, key, iv): (_, AeadKey, Iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            _ => return Err(TlsError::Machine("keys of another cipher")),
        };
        let key =
            UnboundKey::new(algorithm, key.as_ref()).map_err(|_| TlsError::Machine("length of a key"))?;
        let mut own = Zeroizing::new([0; NONCE_LEN]);
        if iv.as_ref().len() != NONCE_LEN {
            return Err(TlsError::Machine("length of an IV"));
        }
        own.copy_from_slice(iv.as_ref());
        Ok(Self { key: LessSafeKey::new(key), iv: own, sequence })
    }

    #[cfg(test)]
    pub(super) fn of(
        algorithm: &'static aws_lc_rs::aead::Algorithm,
        key: &[u8],
        iv: [u8; NONCE_LEN],
    ) -> Self {
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key).expect("a key of the right length"));
        Self { key, iv: Zeroizing::new(iv), sequence: 0 }
    }

    #[cfg(test)]
    pub(super) fn skip_to(&mut self, sequence: u64) {
        self.sequence = sequence;
    }

    /// How many records this key has protected, by rustls or by us.
    pub(super) fn records(&self) -> u64 {
        self.sequence
    }

    /// Appends a record's content to `plain`, and returns its type. Appends nothing if that fails.
    pub(super) fn open(
        &mut self,
        header: [u8; HEADER_BYTES],
        sealed: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<ContentType, OpenError> {
        let (ciphertext, tag) =
            sealed.len().checked_sub(TAG_BYTES).map(|at| sealed.split_at(at)).ok_or(OpenError::Forged)?;
        let nonce = self.next_nonce().ok_or(OpenError::Forged)?;
        let begin = plain.len();
        plain.resize(begin + ciphertext.len(), 0);
        let inner = plain.get_mut(begin..).unwrap_or_default();
        let opened = self.key.open_separate_gather(nonce, Aad::from(header), ciphertext, tag, inner);
        let content = match opened {
            Ok(()) if inner.len() > INNER_BYTES_MAX => Err(OpenError::TooLong),
            Ok(()) => content_of(inner).ok_or(OpenError::OnlyPadding),
            Err(_) => Err(OpenError::Forged),
        };
        plain.truncate(begin + content.as_ref().map_or(0, |(length, _)| *length));
        content.map(|(_, kind)| kind)
    }

    /// Appends a record that holds `content`, which must fit one record.
    pub(super) fn seal(
        &mut self,
        kind: ContentType,
        content: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), TlsError> {
        debug_assert!(content.len() <= PLAINTEXT_BYTES_MAX, "cut by the caller");
        let length = content.len() + 1 + TAG_BYTES;
        let [high, low] =
            u16::try_from(length).map_err(|_| TlsError::Machine("length of a record"))?.to_be_bytes();
        let header = [ContentType::ApplicationData.into(), 3, 3, high, low];
        let nonce = self.next_nonce().ok_or(TlsError::KeysExhausted)?;
        let begin = out.len();
        out.extend_from_slice(&header);
        out.resize(begin + HEADER_BYTES + length, 0);
        let (_, sealed) = out.split_at_mut(begin + HEADER_BYTES);
        let (ciphertext, kind_and_tag) = sealed.split_at_mut(content.len());
        let kind = [kind.into()];
        let done = self.key.seal_out_of_place_scatter(
            nonce,
            Aad::from(header),
            content,
            ciphertext,
            &kind,
            kind_and_tag,
        );
        done.map_err(|_| {
            out.truncate(begin);
            TlsError::Machine("a record that cannot be encrypted")
        })
    }

    /// RFC 8446, 5.3. `None` once the numbers are used up: there is no second round.
    fn next_nonce(&mut self) -> Option<Nonce> {
        let sequence = self.sequence;
        self.sequence = sequence.checked_add(1)?;
        let mut nonce = *self.iv;
        for (byte, of_sequence) in nonce.iter_mut().skip(NONCE_LEN - 8).zip(sequence.to_be_bytes()) {
            *byte ^= of_sequence;
        }
        Some(Nonce::assume_unique_for_key(nonce))
    }
}

/// The length of the content, and its type: the last byte that is not padding.
fn content_of(inner: &[u8]) -> Option<(usize, ContentType)> {
    let at = inner.iter().rposition(|byte| *byte != 0)?;
    Some((at, ContentType::from(*inner.get(at)?)))
}
