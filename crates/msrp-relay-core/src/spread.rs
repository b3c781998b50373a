//! A hash table whose growth stops nothing for long.
//!
//! A hash table that is full moves all of its entries into a larger one, in one step: with a million of them that stops
//! the core for a quarter of a second. Here the entries are spread over [`PARTS`] tables, and each grows by itself, at a
//! moment of its own. A few entries are in one table, so that a walk through them is short.
//!
//! Invariant: an entry is in the part of its key. Which one that is need not be a secret: a stranger who gets all keys
//! into one part gets an ordinary table. The order within a part is secret ([`SecretHasher`]).

use std::collections::HashMap;
use std::hash::Hash;
use std::mem;

use crate::ids::{Entropy, SecretHasher};

/// Small enough that a core with few sessions does not notice, many enough that a million entries move within
/// milliseconds.
const PARTS: usize = 256;

/// So many entries that they no longer fit into one part.
const ONE_PART_MAX: usize = 1024;

/// A table of one part.
pub(crate) type Part<K, V> = HashMap<K, V, SecretHasher>;

/// What a key is spread by.
pub(crate) trait Scattered {
    /// Any number that differs between keys.
    fn number(&self) -> u64;
}

#[derive(Debug)]
pub(crate) struct Spread<K, V> {
    /// One, or [`PARTS`].
    parts: Box<[Part<K, V>]>,
    hasher: SecretHasher,
}

impl<K: Scattered + Eq + Hash, V> Spread<K, V> {
    pub(crate) fn new(entropy: &mut Entropy) -> Self {
        let hasher = SecretHasher::new(entropy);
        Self { parts: Box::new([HashMap::with_hasher(hasher)]), hasher }
    }

    /// The part in which a key is, or would be.
    pub(crate) fn of(&self, key: &K) -> &Part<K, V> {
        &self.parts[self.part(key)]
    }

    /// The same, to change it, by one entry at most.
    pub(crate) fn of_mut(&mut self, key: &K) -> &mut Part<K, V> {
        if self.parts.len() == 1 && self.len() >= ONE_PART_MAX {
            let parts = (0..PARTS).map(|_| HashMap::with_hasher(self.hasher)).collect();
            for (key, value) in mem::replace(&mut self.parts, parts).into_iter().flatten() {
                self.parts[self.part(&key)].insert(key, value);
            }
        }
        &mut self.parts[self.part(key)]
    }

    /// The upper bits of a product with an odd number depend on all bits of the key's.
    fn part(&self, key: &K) -> usize {
        if self.parts.len() == 1 {
            return 0;
        }
        (key.number().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - PARTS.ilog2())) as usize
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.of(key).get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.of_mut(key).get_mut(key)
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.of(key).contains_key(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.of_mut(&key).insert(key, value)
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.of_mut(key).remove(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(Part::len).sum()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.parts.iter().flatten()
    }

    /// All parts, for what is done to the whole.
    pub(crate) fn parts_mut(&mut self) -> impl Iterator<Item = &mut Part<K, V>> {
        self.parts.iter_mut()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state what must hold")]
mod tests {
    use super::*;
    use crate::ids::{CoreId, SessionId};
    use crate::quota::who::{AddressKey, UserKey, Who};

    /// The most entries that moved at once while a table took `keys`.
    fn most_moved<K: Scattered + Eq + Hash + Copy>(keys: &[K]) -> usize {
        let mut table = Spread::new(&mut Entropy::new([4; 32]));
        let mut most = 0;
        for key in keys {
            let parts = table.parts.len();
            table.of_mut(key);
            if table.parts.len() > parts {
                most = most.max(table.len());
            }
            let part = table.of_mut(key);
            let (full, held) = (part.capacity(), part.len());
            assert!(part.insert(*key, ()).is_none());
            if part.capacity() > full {
                most = most.max(held);
            }
        }
        assert_eq!(table.len(), keys.len());
        assert!(keys.iter().all(|key| table.contains_key(key)));
        assert_eq!(table.iter().count(), keys.len());
        most
    }

    // One table of 50,000 entries moves 28,672 at once, twice as many as the one before.
    #[test]
    fn a_table_that_grows_moves_few_entries_at_a_time() {
        let mut entropy = Entropy::new([3; 32]);
        let home = CoreId { index: 3, incarnation: 256 };
        let ids: Vec<SessionId> = (0..50_000).map(|_| SessionId::mint(home, &mut entropy)).collect();
        assert!(most_moved(&ids) <= ONE_PART_MAX, "{}", most_moved(&ids));
        let addresses: Vec<AddressKey> = (0..50_000_u32)
            .map(|n| AddressKey::new(std::net::Ipv4Addr::from(0x0a00_0000 | n).into()))
            .collect();
        assert!(most_moved(&addresses) <= ONE_PART_MAX, "{}", most_moved(&addresses));
        let users: Vec<UserKey> =
            (0..50_000).map(|n| UserKey::new(&format!("user{n}"), "example.com")).collect();
        assert!(most_moved(&users) <= ONE_PART_MAX, "{}", most_moved(&users));
        let both: Vec<Who> =
            addresses.into_iter().map(Who::Address).chain(users.into_iter().map(Who::User)).collect();
        assert!(most_moved(&both) <= ONE_PART_MAX, "{}", most_moved(&both));
    }
}
