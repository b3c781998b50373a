//! Which connections are with which relay, by the names that their peers have proven: a session whose connection with
//! its relay is gone goes on by another one (req A10), and must find it without a look at every connection.
//!
//! Invariant: a connection stands here under each of its names, from when it has both proven them and come up, until it
//! is being closed.

use std::collections::{BTreeMap, BTreeSet};

use crate::identity::ProvenNames;
use crate::ids::PeerKey;

/// Connections with relays, by name. Names in a certificate may be patterns: they stand here as they are.
#[derive(Debug, Default)]
pub(super) struct Relays(BTreeMap<String, BTreeSet<PeerKey>>);

impl Relays {
    pub(super) fn insert(&mut self, names: &ProvenNames, key: PeerKey) {
        for name in names.iter() {
            self.0.entry(spelled(name)).or_default().insert(key);
        }
    }

    pub(super) fn remove(&mut self, names: &ProvenNames, key: PeerKey) {
        for name in names.iter().map(spelled) {
            if let Some(keys) = self.0.get_mut(&name) {
                keys.remove(&key);
                if keys.is_empty() {
                    self.0.remove(&name);
                }
            }
        }
    }

    /// The connections whose names may cover a host.
    pub(super) fn of_host(&self, host: &str) -> impl Iterator<Item = PeerKey> {
        let host = spelled(host);
        let pattern = host.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        let names = [Some(host), pattern].into_iter().flatten();
        names.filter_map(|name| self.0.get(&name)).flatten().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }
}

/// Names are equal in any case, and with or without the dot of the root.
fn spelled(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state what must hold")]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    #[test]
    fn a_relay_is_found_by_each_of_its_names_and_not_after_its_end() {
        let mut table: SlotMap<PeerKey, ()> = SlotMap::with_key();
        let mut relays = Relays::default();
        let [one, two] = [(), ()].map(|()| table.insert(()));
        let [names_of_one, names_of_two] =
            [vec!["Relay.example.net", "*.example.org"], vec!["relay.example.net."]]
                .map(|names| ProvenNames::new(names).unwrap());
        relays.insert(&names_of_one, one);
        relays.insert(&names_of_two, two);
        let of = |relays: &Relays, host: &str| relays.of_host(host).collect::<Vec<_>>();
        assert_eq!(of(&relays, "relay.example.NET"), [one, two]);
        assert_eq!(of(&relays, "any.example.org."), [one]);
        for host in ["example.org", "a.any.example.org", "example.net", "net"] {
            assert_eq!(of(&relays, host), [], "{host}");
        }
        relays.remove(&names_of_one, one);
        relays.remove(&names_of_one, one);
        assert_eq!((of(&relays, "relay.example.net"), relays.len()), (vec![two], 1));
        relays.remove(&names_of_two, two);
        assert_eq!(relays.len(), 0);
    }
}
