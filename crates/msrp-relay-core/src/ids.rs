//! The ids of cores, connections, sessions and transactions, as plain data.
//!
//! Everything here is `Copy + Send`: location is data, so any core can route to any other with no shared table. A
//! reference to a connection or a session holds its owner beside its name. An incarnation counts the restarts of a
//! core, and a slot-map key carries a version: together they keep an old id from reaching something new.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use siphasher::sip::SipHasher13;

use crate::spread::Scattered;

slotmap::new_key_type! {
    /// A connection's slot on the core that owns it.
    pub struct PeerKey;
    /// A session's slot on the core that owns it.
    pub(crate) struct SessionKey;
}

/// One pinned executor of this process, in one of its lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct CoreId {
    /// Position in the configured list of cores, from 0.
    pub index: u16,
    /// The process's generation, and how often this core has been started again in it; both wrap.
    pub incarnation: u16,
}

impl CoreId {
    /// A core's first life in the process with this generation.
    pub fn first_life(index: u16, generation: u8) -> Self {
        Self { index, incarnation: u16::from(generation) << 8 }
    }

    /// The life after this one, in the same process.
    pub fn next_life(self) -> Self {
        let [generation, life] = self.incarnation.to_be_bytes();
        Self { index: self.index, incarnation: u16::from_be_bytes([generation, life.wrapping_add(1)]) }
    }

    /// The generation of its process; wraps.
    pub fn generation(self) -> u8 {
        self.incarnation.to_be_bytes()[0]
    }
}

/// A connection on any core.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PeerRef {
    /// The core that owns the connection: the only one that may write to it.
    pub core: CoreId,
    /// Its slot there.
    pub key: PeerKey,
}

/// One request that one connection receives: the unit that is answered at most once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StreamId {
    /// The connection that the request comes from.
    pub peer: PeerRef,
    /// Its number on that connection; wraps.
    pub sequence: u32,
}

/// Which look-up an answer belongs to. Carries the asking connection, so that an answer that comes after the connection
/// has gone finds nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LookUpTicket {
    pub(crate) peer: PeerKey,
    pub(crate) number: u32,
}

/// A session of this relay: its home core, and 56 bits that no other session of that core has.
///
/// Every URI of a session carries it, at the beginning of its session-id (RFC 4975, section 6): 28 characters of
/// base64url over 21 bytes, which are the home core, its incarnation, these 56 bits, and 80 random bits of that URI
/// alone (section 14.1 asks for 80). So any core knows two URIs of one session as such, without asking. Only the whole
/// session-id opens anything: the core that owns the session checks that the URI is one of the session's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId {
    raw: [u8; Self::RAW],
    /// What a log may show, as text.
    prefix: [u8; Self::PREFIX],
}

/// The whole session-id of one URI: a bearer secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct UriId([u8; SessionId::LEN]);

/// A session on any core: the address for its messages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionRef {
    /// The core that owns the session. Messages go by this, never by the core in the id.
    pub core: CoreId,
    /// The key by which the core finds it.
    pub id: SessionId,
}

impl SessionRef {
    /// The session of an id that comes from the wire: its owner is the core that minted the id. The one place that
    /// reads an owner out of an id.
    pub(crate) fn of_wire(id: SessionId) -> Self {
        Self { core: id.home(), id }
    }
}

impl SessionId {
    /// Characters of a session-id in a URI.
    pub const LEN: usize = 28;
    /// Bytes that a session-id encodes.
    const URI_RAW: usize = 21;
    /// How many of them are the same in all URIs of a session.
    const RAW: usize = 11;
    /// Characters of it that a log may show. All URIs of a session have them in common.
    pub const PREFIX: usize = 10;

    pub(crate) fn mint(home: CoreId, entropy: &mut Entropy) -> Self {
        let mut raw = [0_u8; Self::RAW];
        raw[..2].copy_from_slice(&home.index.to_be_bytes());
        raw[2..4].copy_from_slice(&home.incarnation.to_be_bytes());
        entropy.fill(&mut raw[4..]);
        Self::of(raw)
    }

    /// Another URI's session-id for this session.
    pub(crate) fn mint_uri_id(&self, entropy: &mut Entropy) -> UriId {
        let mut raw = [0_u8; Self::URI_RAW];
        raw[..Self::RAW].copy_from_slice(&self.raw);
        entropy.fill(&mut raw[Self::RAW..]);
        UriId(encode(&raw))
    }

    /// Reads the session-id of a URI that may be ours; `None` for anything we cannot have minted.
    pub fn parse(text: &str) -> Option<Self> {
        let text: [u8; Self::LEN] = text.as_bytes().try_into().ok()?;
        let mut whole = [0_u8; Self::URI_RAW];
        if URL_SAFE_NO_PAD.decode_slice(text, &mut whole) != Ok(Self::URI_RAW) {
            return None;
        }
        let mut raw = [0_u8; Self::RAW];
        raw.copy_from_slice(&whole[..Self::RAW]);
        Some(Self::of(raw))
    }

    fn of(raw: [u8; Self::RAW]) -> Self {
        let mut whole = [0_u8; Self::URI_RAW];
        whole[..Self::RAW].copy_from_slice(&raw);
        let mut prefix = [0_u8; Self::PREFIX];
        prefix.copy_from_slice(&encode(&whole)[..Self::PREFIX]);
        Self { raw, prefix }
    }

    /// The position of the core in the first characters of an id.
    pub(super) fn home_of_prefix(prefix: &str) -> Option<u16> {
        // Four characters are three bytes.
        let first = prefix.as_bytes().get(..4)?;
        let mut raw = [0_u8; 3];
        let decoded = URL_SAFE_NO_PAD.decode_slice(first, &mut raw);
        (decoded == Ok(raw.len())).then_some(u16::from_be_bytes([raw[0], raw[1]]))
    }

    /// The core that minted the id. Only for ids from the wire, see [`SessionRef`]; the caller checks that the core
    /// exists.
    pub fn home(&self) -> CoreId {
        CoreId {
            index: u16::from_be_bytes([self.raw[0], self.raw[1]]),
            incarnation: u16::from_be_bytes([self.raw[2], self.raw[3]]),
        }
    }

    /// What a log may show: enough to find the session again, too little to use it.
    pub fn prefix(&self) -> &str {
        core::str::from_utf8(&self.prefix).unwrap_or_default()
    }
}

impl UriId {
    /// The text as it stands in the URI.
    pub(crate) fn as_str(&self) -> &str {
        core::str::from_utf8(&self.0).unwrap_or_default()
    }
}

fn encode(raw: &[u8; SessionId::URI_RAW]) -> [u8; SessionId::LEN] {
    let mut text = [0_u8; SessionId::LEN];
    // 21 bytes are exactly 28 characters, so the encoder cannot run out of room.
    let written = URL_SAFE_NO_PAD.encode_slice(raw, &mut text);
    debug_assert_eq!(written, Ok(SessionId::LEN));
    text
}

impl core::hash::Hash for SessionId {
    /// The prefix follows from the rest.
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        state.write(&self.raw);
    }
}

impl Scattered for SessionId {
    /// Most of it is random.
    fn number(&self) -> u64 {
        let mut last = [0_u8; 8];
        last.copy_from_slice(&self.raw[Self::RAW - 8..]);
        u64::from_be_bytes(last)
    }
}

impl core::fmt::Debug for SessionId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SessionId({}…)", self.prefix())
    }
}

impl core::fmt::Debug for UriId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "UriId({}…)", &self.as_str()[..SessionId::PREFIX])
    }
}

/// A transaction id of our own: 80 random bits in 16 characters (RFC 4975, 7.1 asks for 64).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tid([u8; Self::LEN]);

impl Tid {
    /// Characters of a transaction id.
    pub const LEN: usize = 16;

    /// The id of a request that was never written.
    pub(crate) const NONE: Self = Self([b'0'; Self::LEN]);

    pub(crate) fn mint(entropy: &mut Entropy) -> Self {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let mut bits = [0_u8; Self::LEN];
        entropy.fill(&mut bits);
        Self(bits.map(|b| ALPHABET[usize::from(b & 31)]))
    }

    /// The bytes as on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn from_wire(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl core::hash::Hash for Tid {
    /// Ids are ours and random: their own bytes are the hash.
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        let mut word = [0_u8; 8];
        word.copy_from_slice(&self.0[8..]);
        state.write_u64(u64::from_ne_bytes(word));
    }
}

/// Hashes under a secret key, for tables whose keys strangers choose or must not guess.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SecretHasher(u64, u64);

impl SecretHasher {
    pub(crate) fn new(entropy: &mut Entropy) -> Self {
        Self(entropy.next_u64(), entropy.next_u64())
    }
}

impl core::hash::BuildHasher for SecretHasher {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}

/// The relay's randomness: a ChaCha20 stream seeded from outside, cryptographic and repeatable.
#[derive(Debug)]
pub(crate) struct Entropy(ChaCha20Rng);

impl Entropy {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha20Rng::from_seed(seed))
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A nonce or opaque: 128 random bits, 22 characters of base64url.
    pub(crate) fn nonce(&mut self) -> String {
        let mut raw = [0_u8; 16];
        self.fill(&mut raw);
        URL_SAFE_NO_PAD.encode(raw)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state what must hold")]
mod tests {
    use super::*;

    #[test]
    fn session_id_carries_its_home() {
        let mut entropy = Entropy::new([7; 32]);
        let home = CoreId { index: 513, incarnation: 65_535 };
        let id = SessionId::mint(home, &mut entropy);
        assert_eq!(id.home(), home);
        assert_eq!(SessionId::home_of_prefix(id.prefix()), Some(513));
        assert_eq!(SessionId::home_of_prefix(&id.prefix()[..3]), None);
        assert_eq!(SessionId::home_of_prefix("=%&/ä"), None);
        assert_ne!(id, SessionId::mint(home, &mut entropy));
    }

    #[test]
    fn all_uris_of_a_session_name_it_and_differ_in_80_bits() {
        let mut entropy = Entropy::new([7; 32]);
        let id = SessionId::mint(CoreId { index: 513, incarnation: 65_535 }, &mut entropy);
        let [one, other] = [id.mint_uri_id(&mut entropy), id.mint_uri_id(&mut entropy)];
        assert_ne!(one, other);
        for uri_id in [one, other] {
            assert_eq!(SessionId::parse(uri_id.as_str()), Some(id));
            assert!(uri_id.as_str().starts_with(id.prefix()));
        }
        let shared = 4 + 7;
        assert_eq!((SessionId::URI_RAW - shared) * 8, 80);
    }

    #[test]
    fn foreign_session_ids_are_not_ours() {
        for text in
            ["", "abc", "p8Yc2nB6vH1xLk", "u4Kd0wR9sQ2mZ7u4Kd0wR9sQ2m/7", &"=".repeat(28), &"ä".repeat(14)]
        {
            assert_eq!(SessionId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn session_id_keeps_its_secret_in_debug_output() {
        let mut entropy = Entropy::new([1; 32]);
        let id = SessionId::mint(CoreId { index: 0, incarnation: 0 }, &mut entropy);
        let uri_id = id.mint_uri_id(&mut entropy);
        for shown in [format!("{id:?}"), format!("{uri_id:?}")] {
            assert!(!shown.contains(&uri_id.as_str()[..11]));
            assert!(shown.contains(id.prefix()));
        }
        assert!(id.prefix().len() == 10 && uri_id.as_str().starts_with(id.prefix()));
    }

    #[test]
    fn transaction_ids_start_alphanumeric_and_differ() {
        let mut entropy = Entropy::new([3; 32]);
        let a = Tid::mint(&mut entropy);
        let b = Tid::mint(&mut entropy);
        assert_ne!(a, b);
        assert!(a.as_bytes().iter().all(u8::is_ascii_alphanumeric));
        assert_eq!(Tid::from_wire(a.as_bytes()), Some(a));
    }
}
