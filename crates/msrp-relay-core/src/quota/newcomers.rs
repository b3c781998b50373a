//! The connections that have proven nothing yet, in the order in which they make room for others.
//!
//! The source (an [`AddressKey`]) with the most of them makes room: a flood comes from few addresses, clients from
//! many. Of its connections, the one at the lowest stage is closed, and of several the oldest, so that a client in the
//! midst of its login comes last. Sources with equal numbers are compared by that connection.
//!
//! One core counts how many a source has on all cores ([`counts`](super::counts)), and tells the others, to within a
//! quarter. The connections of this core are known exactly.
//!
//! Invariants: one entry for each such connection of this core and for nothing else, so memory is bounded by
//! [`Limits::unauthenticated_per_core_max`](crate::Limits); each step costs the logarithm of their number.

use core::cmp::Reverse;
use std::collections::BTreeSet;

use super::who::AddressKey;
use crate::ids::{Entropy, PeerKey};
use crate::spread::Spread;

/// How far a connection that has proven nothing has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// It is being closed.
    Closing,
    /// Nothing has come from it.
    Silent,
    /// Some bytes have: a TLS handshake has begun, or, without TLS, a head.
    Handshake,
    /// TLS is up.
    Up,
    /// It has sent an AUTH, or a request for an existing session.
    Asking,
}

/// A connection's place in the order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Place {
    pub(crate) stage: Stage,
    /// How many came before it.
    number: u64,
}

/// What one source has on this core.
#[derive(Debug, Default)]
struct Source {
    waiting: BTreeSet<(Place, PeerKey)>,
    /// How many it has on all cores, as far as this core was told.
    told: usize,
}

/// The rank of a source: the first one makes room. The last part only breaks ties.
type Rank = (Reverse<usize>, Place, AddressKey);

impl Source {
    fn rank(&self, source: AddressKey) -> Option<Rank> {
        let (place, _) = self.waiting.first()?;
        Some((Reverse(self.waiting.len().max(self.told)), *place, source))
    }
}

/// The newcomers of one core.
#[derive(Debug)]
pub(crate) struct Newcomers {
    sources: Spread<AddressKey, Source>,
    order: BTreeSet<Rank>,
    count: usize,
    /// Bytes of memory that they take.
    bytes: usize,
    arrived: u64,
}

impl Newcomers {
    pub(crate) fn new(entropy: &mut Entropy) -> Self {
        Self { sources: Spread::new(entropy), order: BTreeSet::new(), count: 0, bytes: 0, arrived: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Bytes of memory that they take, beside the queued ones.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// One of them took `before` bytes and takes `now`.
    pub(crate) fn weigh(&mut self, before: usize, now: usize) {
        debug_assert!(self.bytes >= before, "more given back than was kept");
        self.bytes = self.bytes.saturating_sub(before) + now;
    }

    /// Entries of all tables.
    pub(crate) fn entries(&self) -> usize {
        self.count + self.sources.len() + self.order.len()
    }

    /// The place of a new connection; the caller inserts it.
    pub(crate) fn next_place(&mut self) -> Place {
        self.arrived += 1;
        Place { stage: Stage::Silent, number: self.arrived }
    }

    pub(crate) fn insert(&mut self, source: AddressKey, key: PeerKey, place: Place) {
        self.change(source, |waiting| {
            waiting.waiting.insert((place, key));
        });
        self.count += 1;
    }

    pub(crate) fn remove(&mut self, source: AddressKey, key: PeerKey, place: Place) {
        let mut found = false;
        self.change(source, |waiting| found = waiting.waiting.remove(&(place, key)));
        debug_assert!(found, "a newcomer that is not there");
        self.count -= usize::from(found);
    }

    /// A connection reaches another stage. Its age stays.
    pub(crate) fn advance(&mut self, source: AddressKey, key: PeerKey, place: &mut Place, stage: Stage) {
        let before = *place;
        place.stage = stage;
        let after = *place;
        self.change(source, |waiting| {
            if waiting.waiting.remove(&(before, key)) {
                waiting.waiting.insert((after, key));
            }
        });
    }

    /// How many a source has on all cores.
    pub(crate) fn told(&mut self, source: AddressKey, on_all_cores: u32) {
        if self.sources.contains_key(&source) {
            let told = usize::try_from(on_all_cores).unwrap_or(usize::MAX);
            self.change(source, |waiting| waiting.told = told);
        }
    }

    /// The one that makes room.
    pub(crate) fn least(&self) -> Option<PeerKey> {
        let (_, _, source) = self.order.first()?;
        self.sources.get(source)?.waiting.first().map(|(_, key)| *key)
    }

    /// Changes a source, and its rank with it.
    fn change(&mut self, source: AddressKey, change: impl FnOnce(&mut Source)) {
        let sources = self.sources.of_mut(&source);
        let entry = sources.entry(source).or_default();
        if let Some(rank) = entry.rank(source) {
            self.order.remove(&rank);
        }
        change(entry);
        match entry.rank(source) {
            Some(rank) => {
                self.order.insert(rank);
            }
            None => {
                sources.remove(&source);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state what must hold")]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    struct Scene {
        newcomers: Newcomers,
        /// Each connection's source and place, under a name.
        all: SlotMap<PeerKey, (&'static str, AddressKey, Place)>,
    }

    impl Scene {
        fn new() -> Self {
            Self { newcomers: Newcomers::new(&mut Entropy::new([8; 32])), all: SlotMap::with_key() }
        }

        fn comes(&mut self, name: &'static str, address: &str) {
            let source = AddressKey::new(address.parse().unwrap());
            let place = self.newcomers.next_place();
            let key = self.all.insert((name, source, place));
            self.newcomers.insert(source, key, place);
        }

        fn advances(&mut self, name: &str, stage: Stage) {
            let (key, (_, source, place)) = self.all.iter_mut().find(|(_, (of, ..))| *of == name).unwrap();
            self.newcomers.advance(*source, key, place, stage);
        }

        /// Lets all of them make room, one after the other.
        fn order(mut self) -> Vec<&'static str> {
            let mut names = Vec::new();
            while let Some(key) = self.newcomers.least() {
                let (name, source, place) = self.all.remove(key).unwrap();
                self.newcomers.remove(source, key, place);
                names.push(name);
            }
            assert_eq!(self.newcomers.entries(), 0);
            names
        }
    }

    #[test]
    fn the_source_with_the_most_makes_room_then_the_lowest_stage_then_the_oldest() {
        let mut scene = Scene::new();
        scene.comes("client", "192.0.2.1");
        for name in ["asks", "up", "shakes", "silent", "silent too", "leaves"] {
            scene.comes(name, "192.0.2.9");
        }
        scene.advances("asks", Stage::Asking);
        scene.advances("up", Stage::Up);
        scene.advances("shakes", Stage::Handshake);
        scene.advances("leaves", Stage::Closing);
        let order = scene.order();
        assert_eq!(order, ["leaves", "silent", "silent too", "shakes", "up", "client", "asks"]);
    }

    // With one each, the connection at the lowest stage goes, wherever it is from.
    #[test]
    fn sources_with_equally_many_are_compared_by_their_connections() {
        let mut scene = Scene::new();
        for (name, address) in [("first", "192.0.2.1"), ("second", "192.0.2.2"), ("third", "2001:db8::1")] {
            scene.comes(name, address);
        }
        scene.advances("first", Stage::Asking);
        scene.advances("third", Stage::Handshake);
        assert_eq!(scene.order(), ["second", "third", "first"]);
    }

    #[test]
    fn what_a_source_has_on_other_cores_counts() {
        let mut scene = Scene::new();
        scene.comes("twice here", "192.0.2.1");
        scene.comes("twice here, too", "192.0.2.1");
        scene.comes("elsewhere as well", "192.0.2.2");
        let source = AddressKey::new("192.0.2.2".parse().unwrap());
        scene.newcomers.told(source, 7);
        scene.newcomers.told(AddressKey::new("192.0.2.3".parse().unwrap()), 9);
        assert_eq!(scene.order(), ["elsewhere as well", "twice here", "twice here, too"]);
    }
}
