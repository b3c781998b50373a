//! How many bytes a user may send in a second, over all connections of that user (req S10).
//!
//! The user's rate is divided among the user's sessions on all cores; the sessions on one core share one bucket. A user
//! that has sent too much is not read from until the bucket is out of debt.
//!
//! Invariant: a bucket exists while its user has a session on this core, and after that until it would be full again: a
//! user that comes back at once finds its old debt. A session's unused rate does not go to sessions on other cores: the
//! rate is a bound, not a promise.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::who::UserKey;
use crate::ids::Entropy;
use crate::spread::{self, Spread};

/// The buckets of one core.
#[derive(Debug)]
pub(crate) struct Rates {
    bytes_per_second: u64,
    users: Spread<UserKey, Bucket>,
    /// Users who have left, each once. Some may be back.
    left: VecDeque<UserKey>,
}

/// What one session of a user takes along to another core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    bytes: i64,
    /// How many sessions the user has on all cores.
    sessions: u32,
}

#[derive(Debug)]
struct Bucket {
    sessions_here: u32,
    sessions: u32,
    /// The user is in the list of those who have left.
    listed: bool,
    /// Bytes that may be sent at once; below zero is debt.
    bytes: i64,
    filled: Instant,
}

impl Rates {
    /// `bytes_per_second` 0: no limit.
    pub(crate) fn new(bytes_per_second: u64, entropy: &mut Entropy) -> Self {
        Self { bytes_per_second, users: Spread::new(entropy), left: VecDeque::new() }
    }

    /// Users that have sessions here.
    pub(crate) fn len(&self) -> usize {
        self.users.iter().filter(|(_, bucket)| bucket.sessions_here > 0).count()
    }

    /// Another rate holds from here on. If there was a limit before, debts stay debts; if not, the caller begins for
    /// each existing session.
    pub(crate) fn change(&mut self, bytes_per_second: u64) {
        if bytes_per_second == 0 {
            self.users.parts_mut().for_each(spread::Part::clear);
            self.left.clear();
        }
        self.bytes_per_second = bytes_per_second;
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.bytes_per_second > 0
    }

    /// A session of the user begins here.
    pub(crate) fn begin(&mut self, user: UserKey, now: Instant) {
        if self.bytes_per_second == 0 {
            return;
        }
        self.forget_the_full(now);
        let bucket = self.users.of_mut(&user).entry(user).or_insert_with(|| Bucket {
            sessions_here: 0,
            sessions: 1,
            listed: false,
            bytes: saturate(self.bytes_per_second),
            filled: now,
        });
        bucket.earn(self.bytes_per_second, now);
        bucket.sessions_here += 1;
        bucket.sessions = bucket.sessions.max(bucket.sessions_here);
    }

    /// One of them ends.
    pub(crate) fn end(&mut self, user: UserKey, now: Instant) {
        let Some(bucket) = self.users.get_mut(&user) else {
            return;
        };
        bucket.earn(self.bytes_per_second, now);
        bucket.sessions_here -= 1;
        if bucket.sessions_here == 0 {
            bucket.sessions = 1;
            if !std::mem::replace(&mut bucket.listed, true) {
                self.left.push_back(user);
            }
            self.forget_the_full(now);
        }
    }

    /// One of the user's sessions goes on at another core: it takes its part of what may be sent, or of the debt, along.
    pub(crate) fn take_part(&mut self, user: UserKey, now: Instant) -> Option<Part> {
        let bucket = self.users.get_mut(&user)?;
        bucket.earn(self.bytes_per_second, now);
        let bytes = bucket.bytes / i64::from(bucket.sessions_here.max(1));
        bucket.bytes -= bytes;
        let part = Part { bytes, sessions: bucket.sessions };
        self.end(user, now);
        Some(part)
    }

    /// It is here. One that was not limited where it comes from begins as any other.
    pub(crate) fn give_part(&mut self, user: UserKey, part: Option<Part>, now: Instant) {
        let is_known = self.users.contains_key(&user);
        self.begin(user, now);
        if let (Some(part), Some(bucket)) = (part, self.users.get_mut(&user)) {
            // A bucket that begins is full.
            let before = if is_known { bucket.bytes } else { 0 };
            bucket.bytes = before.saturating_add(part.bytes);
            bucket.sessions = bucket.sessions.max(part.sessions);
        }
    }

    /// Looks at a few users who have left: more than can leave meanwhile, so that the list holds only users whose
    /// bucket is not full.
    fn forget_the_full(&mut self, now: Instant) {
        for _ in 0..self.left.len().min(4) {
            let Some(user) = self.left.pop_front() else {
                return;
            };
            let Some(bucket) = self.users.get_mut(&user) else {
                continue;
            };
            if bucket.sessions_here > 0 {
                bucket.listed = false;
                continue;
            }
            bucket.earn(self.bytes_per_second, now);
            if bucket.bytes >= saturate(self.bytes_per_second) {
                self.users.remove(&user);
            } else {
                self.left.push_back(user);
            }
        }
    }

    /// How many sessions the user has on all cores.
    pub(crate) fn share(&mut self, user: UserKey, sessions: u32) {
        if let Some(bucket) = self.users.get_mut(&user) {
            bucket.sessions = sessions;
        }
    }

    /// The user has sent `bytes`. If that was too much, returns until when nothing more may be read.
    pub(crate) fn spend(&mut self, user: UserKey, bytes: usize, now: Instant) -> Option<Instant> {
        let bucket = self.users.get_mut(&user)?;
        let rate = bucket.earn(self.bytes_per_second, now);
        bucket.bytes = bucket.bytes.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        let debt = u64::try_from(bucket.bytes.saturating_neg()).ok().filter(|debt| *debt > 0)?;
        let micros = u128::from(debt) * 1_000_000 / u128::from(rate) + 1;
        Some(now + Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
    }
}

impl Bucket {
    /// Adds what was earned since the last time, at this core's part of the rate, and returns that part. At most a
    /// second's worth is saved up.
    fn earn(&mut self, bytes_per_second: u64, now: Instant) -> u64 {
        let here = u64::from(self.sessions_here).max(1);
        let all = u64::from(self.sessions).max(here);
        let rate = (bytes_per_second.saturating_mul(here) / all).max(1);
        let passed = now.saturating_duration_since(self.filled).as_micros();
        let earned = u128::from(rate).saturating_mul(passed) / 1_000_000;
        let earned = i64::try_from(earned).unwrap_or(i64::MAX);
        self.bytes = self.bytes.saturating_add(earned).min(saturate(rate));
        self.filled = now;
        rate
    }
}

fn saturate(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state what must hold")]
mod tests {
    use super::*;

    fn rates(bytes_per_second: u64) -> (Rates, UserKey, Instant) {
        let rates = Rates::new(bytes_per_second, &mut Entropy::new([9; 32]));
        (rates, UserKey::new("alice", "example.com"), Instant::now())
    }

    /// How much a sender gets through in `seconds` that sends 1000 bytes whenever it may.
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
        let bytes = sent(&mut rates, user, now, 10);
        assert!((100_000..=112_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn sessions_on_other_cores_take_their_part_of_the_rate() {
        let (mut rates, user, now) = rates(10_000);
        rates.begin(user, now);
        rates.share(user, 4);
        let bytes = sent(&mut rates, user, now, 10);
        assert!((25_000..=37_000).contains(&bytes), "{bytes}");
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
        assert_eq!(rates.len(), 1);
        rates.end(user, now);
        assert_eq!((rates.len(), rates.users.len(), rates.left.len()), (0, 0, 0));
        assert_eq!(rates.spend(user, 10, now), None);
    }

    // S10: a new connection is no way around the rate.
    #[test]
    fn who_leaves_and_comes_back_has_what_it_had() {
        let (mut rates, user, now) = rates(10_000);
        rates.begin(user, now);
        assert!(rates.spend(user, 40_000, now).is_some());
        rates.end(user, now);
        assert_eq!(rates.len(), 0);
        rates.begin(user, now);
        let until = rates.spend(user, 0, now).unwrap();
        assert!(until > now + Duration::from_secs(2), "a debt of three seconds");
        rates.end(user, now);
        assert_eq!(rates.left.len(), 1);
        let later = now + Duration::from_secs(4);
        rates.begin(user, later);
        assert_eq!(rates.spend(user, 10_000, later), None, "it is full again");
        assert!(rates.spend(user, 1, later).is_some());
    }

    // S10: moving to another core is no way around the rate either.
    #[test]
    fn a_session_that_moves_takes_its_part_of_the_debt_along() {
        let (mut here, user, now) = rates(10_000);
        let (mut there, ..) = rates(10_000);
        here.begin(user, now);
        here.begin(user, now);
        here.share(user, 2);
        assert!(here.spend(user, 50_000, now).is_some());
        let part = here.take_part(user, now);
        assert_eq!(part, Some(Part { bytes: -20_000, sessions: 2 }));
        there.give_part(user, part, now);
        let until = [&mut here, &mut there].map(|rates| rates.spend(user, 0, now).unwrap());
        assert!(
            until.iter().all(|until| *until > now + Duration::from_secs(3)),
            "half the rate, half the debt"
        );
        // The last one leaves nothing, and who comes back finds nothing.
        there.give_part(user, here.take_part(user, now), now);
        assert_eq!((here.len(), there.len()), (0, 1));
        assert_eq!(there.users.get(&user).unwrap().bytes, -40_000);
    }

    #[test]
    fn who_has_left_is_forgotten_when_nothing_is_left_to_earn() {
        let (mut rates, _, now) = rates(1000);
        let user = |n: u32| UserKey::new(&n.to_string(), "example.com");
        for n in 0..100 {
            rates.begin(user(n), now);
            rates.spend(user(n), 500, now);
            rates.end(user(n), now);
        }
        assert_eq!((rates.len(), rates.users.len(), rates.left.len()), (0, 100, 100));
        let later = now + Duration::from_secs(1);
        for n in 100..150 {
            rates.begin(user(n), later);
            rates.end(user(n), later);
        }
        assert_eq!((rates.users.len(), rates.left.len()), (0, 0));
    }
}
