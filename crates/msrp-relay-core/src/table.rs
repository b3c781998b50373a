//! A table of connections or sessions, each in a slot whose key is never used again.
//!
//! Invariant: each walk through all of it is counted. What happens once for each message, AUTH or end of a session must
//! not walk: with a million entries a walk stops the core for tenths of a second
//! (`tests/core/growth.rs` holds that). Walks are for what is rare: other settings, another core's death, memory that is
//! short, an operator's question.

use std::cell::Cell;

use slotmap::{Key, SlotMap};

/// Entries by keys that are never used again.
#[derive(Debug)]
pub(crate) struct Table<K: Key, V> {
    /// Each in a box of its own: a table that grows moves pointers, not kilobytes of each connection.
    entries: SlotMap<K, Box<V>>,
    walks: Cell<u64>,
}

impl<K: Key, V> Table<K, V> {
    pub(crate) fn new() -> Self {
        Self { entries: SlotMap::with_key(), walks: Cell::new(0) }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, key: K) -> Option<&V> {
        self.entries.get(key).map(|entry| &**entry)
    }

    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|entry| &mut **entry)
    }

    pub(crate) fn insert(&mut self, entry: V) -> K {
        self.entries.insert(Box::new(entry))
    }

    pub(crate) fn insert_with_key(&mut self, entry: impl FnOnce(K) -> V) -> K {
        self.entries.insert_with_key(|key| Box::new(entry(key)))
    }

    pub(crate) fn remove(&mut self, key: K) -> Option<V> {
        self.entries.remove(key).map(|entry| *entry)
    }

    /// How often all of it was walked through.
    pub(crate) fn walks(&self) -> u64 {
        self.walks.get()
    }

    pub(crate) fn walk(&self) -> impl Iterator<Item = (K, &V)> {
        self.count_walk();
        self.entries.iter().map(|(key, entry)| (key, &**entry))
    }

    /// The same for figures that only tests ask for, after each step.
    pub(crate) fn walk_uncounted(&self) -> impl Iterator<Item = &V> {
        self.entries.values().map(|entry| &**entry)
    }

    pub(crate) fn walk_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.count_walk();
        self.entries.values_mut().map(|entry| &mut **entry)
    }

    fn count_walk(&self) {
        self.walks.set(self.walks.get() + 1);
    }
}
