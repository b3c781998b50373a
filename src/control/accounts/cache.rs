//! Secrets that were found and proven a short time ago.
//!
//! Invariants: holds only secrets that a backend found and a client has proven to know, each no longer and no more of
//! them than the operator allowed; forgets the oldest first.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::answer::Secret;

/// The user and the realm that were asked for, byte by byte.
pub(super) type Name = (String, String);

#[derive(Debug)]
pub(super) struct Cache {
    time: Duration,
    entries_max: usize,
    found: HashMap<Name, (Instant, Secret)>,
    /// In the order of finding; a name that was found again stands here once more.
    order: VecDeque<(Instant, Name)>,
}

impl Cache {
    pub(super) fn new(time: Duration, entries_max: usize) -> Self {
        Self { time, entries_max, found: HashMap::new(), order: VecDeque::new() }
    }

    pub(super) fn get(&mut self, name: &Name) -> Option<Secret> {
        let (now, time) = (Instant::now(), self.time);
        self.forget(|at, _| now.duration_since(at) >= time);
        self.found.get(name).map(|(_, secret)| secret.clone())
    }

    pub(super) fn insert(&mut self, name: Name, secret: Secret) {
        let now = Instant::now();
        self.found.insert(name.clone(), (now, secret));
        self.order.push_back((now, name));
        let entries_max = self.entries_max;
        self.forget(|_, entries| entries > entries_max);
    }

    /// Forgets from the oldest on, while `is_due` holds for its time and the number of names.
    fn forget(&mut self, is_due: impl Fn(Instant, usize) -> bool) {
        while let Some((at, _)) = self.order.front()
            && is_due(*at, self.order.len())
        {
            if let Some((at, name)) = self.order.pop_front()
                && self.found.get(&name).is_some_and(|(found, _)| *found == at)
            {
                self.found.remove(&name);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn name(n: usize) -> Name {
        (format!("user{n}"), "example.com".to_owned())
    }

    fn secret(text: &str) -> Secret {
        Secret::Password(text.to_owned())
    }

    fn is(found: Option<Secret>, expected: &str) -> bool {
        matches!(found, Some(Secret::Password(password)) if password == expected)
    }

    #[test]
    fn the_oldest_goes_when_there_is_no_room() {
        let mut cache = Cache::new(Duration::from_secs(3600), 3);
        (0..4).for_each(|n| cache.insert(name(n), secret("x")));
        assert!(cache.get(&name(0)).is_none());
        assert!((1..4).all(|n| is(cache.get(&name(n)), "x")));
        assert_eq!((cache.found.len(), cache.order.len()), (3, 3));
    }

    #[test]
    fn what_was_found_again_is_known_in_its_new_form_and_takes_no_more_room_in_the_end() {
        let mut cache = Cache::new(Duration::from_secs(3600), 3);
        (0..100).for_each(|n| cache.insert(name(0), secret(&n.to_string())));
        assert!(is(cache.get(&name(0)), "99"));
        assert_eq!((cache.found.len(), cache.order.len()), (1, 3));
    }

    #[test]
    fn nothing_is_known_longer_than_granted() {
        let mut cache = Cache::new(Duration::ZERO, 3);
        cache.insert(name(0), secret("x"));
        assert!(cache.get(&name(0)).is_none());
        assert!(cache.found.is_empty() && cache.order.is_empty());
    }
}
