//! How many octets a user may send in a second, over all connections of that user (norm S10).
//!
//! The user's rate is divided among the user's sessions, wherever they are; the sessions on one core
//! share one bucket. Who has sent too much is not read from until the bucket is out of debt.
//!
//! Invariant: a bucket exists while its user has a session on this core. What a session does not use is
//! not given to sessions on other cores: the rate is a bound, not a promise.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::admission::UserKey;
use super::ids::{Entropy, SecretHasher};

/// The buckets of one core.
#[derive(Debug)]
pub(crate) struct Rates {
    octets_per_second: u64,
    users: HashMap<UserKey, Bucket, SecretHasher>,
}

#[derive(Debug)]
struct Bucket {
    sessions_here: u32,
    sessions: u32,
    /// Octets that may be sent at once; below zero is debt.
    octets: i64,
    filled: Instant,
}

impl Rates {
    /// `octets_per_second` 0: no limit.
    pub(crate) fn new(octets_per_second: u64, entropy: &mut Entropy) -> Self {
        Self { octets_per_second, users: HashMap::with_hasher(SecretHasher::new(entropy)) }
    }

    pub(crate) fn len(&self) -> usize {
        self.users.len()
    }

    /// A session of the user begins here.
    pub(crate) fn begin(&mut self, user: UserKey, now: Instant) {
        if self.octets_per_second == 0 {
            return;
        }
        let full = i64::try_from(self.octets_per_second).unwrap_or(i64::MAX);
        let bucket = self.users.entry(user).or_insert(Bucket {
            sessions_here: 0,
            sessions: 1,
            octets: full,
            filled: now,
        });
        bucket.sessions_here += 1;
        bucket.sessions = bucket.sessions.max(bucket.sessions_here);
    }

    /// One of them ends.
    pub(crate) fn end(&mut self, user: UserKey) {
        if let Some(bucket) = self.users.get_mut(&user) {
            bucket.sessions_here -= 1;
            if bucket.sessions_here == 0 {
                self.users.remove(&user);
            }
        }
    }

    /// How many sessions the user has on all cores.
    pub(crate) fn share(&mut self, user: UserKey, sessions: u32) {
        if let Some(bucket) = self.users.get_mut(&user) {
            bucket.sessions = sessions;
        }
    }

    /// The user has sent `octets`. Until when nothing more may be read, if that was too much.
    pub(crate) fn spend(&mut self, user: UserKey, octets: usize, now: Instant) -> Option<Instant> {
        let bucket = self.users.get_mut(&user)?;
        let here = u64::from(bucket.sessions_here);
        let all = u64::from(bucket.sessions).max(here).max(1);
        let rate = (self.octets_per_second.saturating_mul(here) / all).max(1);
        let passed = now.saturating_duration_since(bucket.filled).as_micros();
        let earned = u128::from(rate).saturating_mul(passed) / 1_000_000;
        // No more than a second's worth is saved up.
        let full = i64::try_from(rate).unwrap_or(i64::MAX);
        let filled = bucket.octets.saturating_add(i64::try_from(earned).unwrap_or(i64::MAX)).min(full);
        bucket.octets = filled.saturating_sub(i64::try_from(octets).unwrap_or(i64::MAX));
        bucket.filled = now;
        let debt = u64::try_from(bucket.octets.saturating_neg()).ok().filter(|debt| *debt > 0)?;
        let micros = u128::from(debt) * 1_000_000 / u128::from(rate) + 1;
        Some(now + Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state what must hold")]
mod tests {
    use super::*;

    fn rates(octets_per_second: u64) -> (Rates, UserKey, Instant) {
        let rates = Rates::new(octets_per_second, &mut Entropy::new([9; 32]));
        (rates, UserKey::new("alice", "example.com"), Instant::now())
    }

    /// What a sender that sends 1000 octets whenever it may gets through in `seconds`.
    fn sent(rates: &mut Rates, user: UserKey, start: Instant, seconds: u64) -> u64 {
        let (mut now, mut sent) = (start, 0);
        while now < start + Duration::from_secs(seconds) {
            sent += 1000;
            now = rates.spend(user, 1000, now).unwrap_or(now);
        }
        sent
    }

    #[test]
    fn a_sender_gets_a_second_at_once_and_then_its_rate() {
        let (mut rates, user, now) = rates(10_000);
        rates.begin(user, now);
        let octets = sent(&mut rates, user, now, 10);
        assert!((100_000..=112_000).contains(&octets), "{octets}");
    }

    #[test]
    fn sessions_on_other_cores_take_their_part_of_the_rate() {
        let (mut rates, user, now) = rates(10_000);
        rates.begin(user, now);
        rates.share(user, 4);
        let octets = sent(&mut rates, user, now, 10);
        assert!((25_000..=37_000).contains(&octets), "{octets}");
    }

    #[test]
    fn what_was_saved_up_is_at_most_a_second() {
        let (mut rates, user, now) = rates(10_000);
        rates.begin(user, now);
        let later = now + Duration::from_secs(3600);
        assert_eq!(rates.spend(user, 10_000, later), None);
        assert!(rates.spend(user, 1, later).is_some());
    }

    #[test]
    fn no_limit_and_no_session_are_no_bucket() {
        let (mut rates, user, now) = rates(0);
        rates.begin(user, now);
        assert_eq!(rates.spend(user, usize::MAX, now), None);
        let (mut rates, user, now) = self::rates(1);
        rates.begin(user, now);
        rates.end(user);
        assert_eq!((rates.len(), rates.spend(user, 10, now)), (0, None));
    }
}
