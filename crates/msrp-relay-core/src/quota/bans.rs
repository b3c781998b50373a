//! The addresses and users that this core refuses for a while, and for which offence.
//!
//! The core that counts ([`counts`](super::counts)) decides a ban and tells every core, which then refuses by itself.
//! Invariant: the table is bounded; the oldest bans are forgotten first.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::REMEMBERED_MAX;
use super::who::{Offence, Who};
use crate::ids::{Entropy, SecretHasher};

/// The bans of this core.
#[derive(Debug)]
pub(crate) struct Bans {
    until: HashMap<(Who, Offence), Instant, SecretHasher>,
    order: VecDeque<((Who, Offence), Instant)>,
}

impl Bans {
    pub(crate) fn new(entropy: &mut Entropy) -> Self {
        Self { until: HashMap::with_hasher(SecretHasher::new(entropy)), order: VecDeque::new() }
    }

    pub(crate) fn add(&mut self, who: Who, offence: Offence, until: Instant, now: Instant) {
        while self.order.front().is_some_and(|(_, at)| *at <= now) || self.order.len() >= REMEMBERED_MAX {
            if let Some((key, at)) = self.order.pop_front()
                && self.until.get(&key) == Some(&at)
            {
                self.until.remove(&key);
            }
        }
        self.until.insert((who, offence), until);
        self.order.push_back(((who, offence), until));
    }

    /// The bans in force, the oldest first.
    pub(crate) fn all(&self, now: Instant) -> Vec<(Who, Offence, Instant)> {
        let holds = |((who, offence), until): &((Who, Offence), Instant)| {
            (*until > now && self.until.get(&(*who, *offence)) == Some(until))
                .then_some((*who, *offence, *until))
        };
        self.order.iter().filter_map(holds).collect()
    }

    pub(crate) fn is_banned(&self, who: Who, offence: Offence, now: Instant) -> bool {
        self.until.get(&(who, offence)).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state what must hold")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::quota::who::AddressKey;

    fn address(text: &str) -> Who {
        Who::Address(AddressKey::new(text.parse().unwrap()))
    }

    #[test]
    fn a_ban_holds_for_its_offence_until_its_window_ends() {
        let (who, start) = (address("192.0.2.1"), Instant::now());
        let until = start + Duration::from_secs(300);
        let mut bans = Bans::new(&mut Entropy::new([6; 32]));
        bans.add(who, Offence::Auth, until, start);
        assert!(bans.is_banned(who, Offence::Auth, start));
        assert!(!bans.is_banned(who, Offence::Dial, start));
        assert!(!bans.is_banned(who, Offence::Auth, until));
    }

    #[test]
    fn bans_that_are_remembered_are_bounded() {
        let (mut bans, now) = (Bans::new(&mut Entropy::new([7; 32])), Instant::now());
        for n in 0..u32::try_from(REMEMBERED_MAX).unwrap() + 1000 {
            bans.add(
                Who::Address(AddressKey(u64::from(n))),
                Offence::Auth,
                now + Duration::from_secs(1),
                now,
            );
        }
        assert!(bans.until.len() <= REMEMBERED_MAX && bans.order.len() <= REMEMBERED_MAX);
        let later = now + Duration::from_secs(1000);
        bans.add(address("192.0.2.1"), Offence::Auth, later + Duration::from_secs(1), later);
        assert_eq!((bans.until.len(), bans.order.len()), (1, 1));
        assert_eq!(bans.all(later).len(), 1);
        bans.add(address("192.0.2.1"), Offence::Auth, later + Duration::from_secs(9), later);
        assert_eq!(bans.all(later).len(), 1, "the later one counts");
        assert_eq!(bans.all(later + Duration::from_secs(9)).len(), 0);
    }
}
