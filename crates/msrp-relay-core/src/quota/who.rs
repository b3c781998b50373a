//! The address or user whose share is counted, and what cores say of it to each other. Plain data.
//!
//! An address is a source: one IPv4 address, or the /56 network of an IPv6 one. A user is a hash: names are strangers'
//! words.

use core::net::IpAddr;

use sha2::{Digest as _, Sha256};

use msrp_proto::address::{canonical, embedded};

use crate::ids::{LookUpTicket, PeerRef};
use crate::limit::Limit;
use crate::spread::Scattered;

/// Bits of an IPv6 address that name a subscriber. Providers give out a /56 (RFC 6177), in which the subscriber chooses
/// among 256 networks at will. Where each subscriber has a /64, 256 of them are one source, like users behind one
/// carrier's NAT.
const SUBSCRIBER_BITS: u32 = 56;

/// An address as everything here counts it, a source: one IPv4 address, or the /56 network of an IPv6 one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct AddressKey(pub(super) u64);

impl AddressKey {
    /// An IPv6 address that embeds an IPv4 address counts as that one. Behind a translator, all of IPv4 would be one
    /// source otherwise.
    pub fn new(address: IpAddr) -> Self {
        let v4 = match canonical(address) {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(address) => embedded(address).last(),
        };
        match (v4, address) {
            (Some(v4), _) | (None, IpAddr::V4(v4)) => Self(u64::from(u32::from(v4))),
            (None, IpAddr::V6(address)) => {
                // IPv4 takes ::/32, in which the loopback is the only address.
                let front = u64::try_from(u128::from(address) >> 64).unwrap_or_default();
                Self(front & (u64::MAX << (64 - SUBSCRIBER_BITS)))
            }
        }
    }
}

/// A user of a realm: the first half of a SHA-256, so that no peer can make two of them meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct UserKey(pub(super) u128);

impl UserKey {
    /// The user `name` of `realm`, byte by byte.
    pub fn new(name: &str, realm: &str) -> Self {
        let digest = Sha256::new().chain_update(realm).chain_update([0]).chain_update(name).finalize();
        Self::half(digest.as_slice())
    }

    /// A relay by its host, for its turn in look-ups.
    pub(crate) fn of_relay(host: &str) -> Self {
        Self::half(&of_relay(host).finalize())
    }

    /// A user as a client of a relay: what others do in the user's name behind another relay does not count here.
    pub(crate) fn behind(self, host: &str) -> Self {
        Self::half(&of_relay(host).chain_update([0]).chain_update(self.0.to_be_bytes()).finalize())
    }

    fn half(digest: &[u8]) -> Self {
        Self(u128::from_be_bytes(digest.first_chunk().copied().unwrap_or_default()))
    }
}

/// No realm begins with that byte. Host names are compared without case.
fn of_relay(host: &str) -> Sha256 {
    Sha256::new().chain_update([0]).chain_update(host.to_ascii_lowercase())
}

/// The address or user whose share is counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Who {
    /// All peers at an address.
    Address(AddressKey),
    /// A user.
    User(UserKey),
}

impl Who {
    /// The position of the core that counts it.
    pub(crate) fn counter(self, cores: usize) -> usize {
        let spread = match self {
            Self::Address(AddressKey(bytes)) => bytes.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32,
            Self::User(UserKey(digest)) => u64::try_from(digest >> 64).unwrap_or_default(),
        };
        usize::try_from(spread % cores.max(1) as u64).unwrap_or_default()
    }
}

impl Scattered for AddressKey {
    fn number(&self) -> u64 {
        self.0
    }
}

impl Scattered for UserKey {
    fn number(&self) -> u64 {
        // One half of a digest is as good as the whole.
        u64::try_from(self.0 >> 64).unwrap_or_default()
    }
}

impl Scattered for Who {
    fn number(&self) -> u64 {
        match self {
            Self::Address(address) => address.number(),
            Self::User(user) => user.number(),
        }
    }
}

/// A kind of failure that leads to a ban.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Offence {
    /// Credentials were wrong.
    Auth,
    /// The same in an AUTH that came through another relay. Otherwise the owner of a relay could keep users from their
    /// own connections.
    AuthBehind,
    /// A connect to a next hop failed.
    Dial,
}

/// What a core reports to the core that counts.
#[derive(Clone, Copy, Debug)]
pub enum Tally {
    /// A connection was accepted.
    Connected(PeerRef),
    /// It has authenticated, or had a request forwarded.
    Proven,
    /// The connection is gone.
    Disconnected {
        /// Whether it had been proven.
        proven: bool,
    },
    /// A connection asks for its first session.
    Claim {
        /// The connection.
        peer: PeerRef,
        /// To be returned with the answer.
        ticket: LookUpTicket,
    },
    /// A session's place is free again.
    Released,
    /// A connection goes on at another core, with so much of what is counted. No limit is asked: nothing is more or less,
    /// once that core has told, too.
    Departed(Share),
    /// It is there: told by that core.
    Arrived(Share),
    /// Something went wrong.
    Failed {
        /// The kind.
        offence: Offence,
        /// The connection, for the log.
        culprit: PeerRef,
    },
    /// All that the core has: the counter is new and knows nothing.
    Restore(Share),
}

/// What one address or user has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Share {
    pub(crate) connections: u32,
    pub(crate) unproven: u32,
    pub(crate) sessions: u32,
}

impl Share {
    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }

    pub(super) fn add(&mut self, other: Self) {
        self.connections = self.connections.saturating_add(other.connections);
        self.unproven = self.unproven.saturating_add(other.unproven);
        self.sessions = self.sessions.saturating_add(other.sessions);
    }

    pub(super) fn sub(&mut self, other: Self) {
        self.connections = self.connections.saturating_sub(other.connections);
        self.unproven = self.unproven.saturating_sub(other.unproven);
        self.sessions = self.sessions.saturating_sub(other.sessions);
    }
}

impl Limit {
    /// The limit that a ban enforces.
    pub(crate) fn of_ban(who: Who, offence: Offence) -> Self {
        match (offence, who) {
            (Offence::Auth, Who::Address(_)) => Self::AuthFailuresPerAddress,
            (Offence::Auth, Who::User(_)) | (Offence::AuthBehind, _) => Self::AuthFailuresPerUser,
            (Offence::Dial, _) => Self::DialFailuresPerUser,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state what must hold")]
mod tests {
    use super::*;

    fn address(text: &str) -> Who {
        Who::Address(AddressKey::new(text.parse().unwrap()))
    }

    // S10: a subscriber has a /56, not an address.
    #[test]
    fn addresses_of_one_ipv6_network_are_one_and_mapped_ones_are_ipv4() {
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:2"));
        assert_eq!(address("2001:db8:0:1::1"), address("2001:db8:0:ff::1"));
        assert_ne!(address("2001:db8:0:1::1"), address("2001:db8:0:100::1"));
        assert_ne!(address("2001:db8::1"), address("2001:db9::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
        // All of IPv4 behind a translator is not one source, and a tunnel is not many.
        assert_eq!(address("64:ff9b::192.0.2.1"), address("192.0.2.1"));
        assert_eq!(address("2002:c000:201:9999::1"), address("192.0.2.1"));
        assert_ne!(address("::1"), address("192.0.2.1"));
    }

    #[test]
    fn users_of_one_name_in_two_realms_are_two() {
        assert_ne!(UserKey::new("a", "bc"), UserKey::new("ab", "c"));
        assert_eq!(UserKey::new("alice", "example.com"), UserKey::new("alice", "example.com"));
    }

    // One core must not count for all: it would be a bottleneck.
    #[test]
    fn counting_is_spread_over_all_cores() {
        let mut counts = [[0; 4]; 2];
        for n in 0..=255_u8 {
            counts[0][address(&format!("192.0.2.{n}")).counter(4)] += 1;
            counts[1][Who::User(UserKey::new(&n.to_string(), "example.com")).counter(4)] += 1;
        }
        assert!(counts.iter().flatten().all(|count| (32..=96).contains(count)), "{counts:?}");
    }
}
