//! A queue in which each asker waits behind its own requests, and not behind those of others.
//!
//! An asker is a user, an address or a relay ([`Who`]). The askers take turns, one request each. How many of an
//! asker's requests may run at once is bounded, and so is how many run and wait in all. When the queue is full, the
//! asker with the most requests in it loses its newest one.
//!
//! Invariants: an asker stands in the ring once, if it has a waiting request and may have its turn; a running request
//! counts until [`Turns::end`]; nothing is kept for an asker without requests. Must not know what is asked, how it is
//! answered, or what time it is. Every operation costs the logarithm of the number of waiting requests.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use msrp_relay_core::Who;

/// How many requests may run at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// In all.
    pub(super) running_max: usize,
    /// For one asker.
    pub(super) share_max: usize,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Turns<T> {
    waiting_max: usize,
    /// In the order of arrival, also within one asker.
    waiting: BTreeMap<u64, Waiting<T>>,
    askers: HashMap<Who, Asker>,
    /// The asker with the next turn, and the ones after it.
    ring: BTreeMap<u64, Who>,
    /// Askers with waiting requests, by their number.
    by_length: BTreeSet<(usize, Who)>,
    running: usize,
    next_number: u64,
}

/// A request with its asker.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    pub(super) who: Who,
    pub(super) asked: Instant,
    pub(super) request: T,
}

#[derive(Debug, Default)]
struct Asker {
    /// Numbers of its requests.
    waiting: VecDeque<u64>,
    running: usize,
    /// Its place in the ring. An asker without one has nothing waiting, or has its full share running.
    place: Option<u64>,
}

impl<T> Turns<T> {
    pub(super) fn new(waiting_max: usize) -> Self {
        Self {
            waiting_max,
            waiting: BTreeMap::new(),
            askers: HashMap::new(),
            ring: BTreeMap::new(),
            by_length: BTreeSet::new(),
            running: 0,
            next_number: 0,
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// When the request that has waited longest was asked.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(_, first)| first.asked)
    }

    /// Adds a request. If there are too many, returns the one that is pushed out, which may be the same.
    pub(super) fn push(&mut self, request: Waiting<T>) -> Option<T> {
        let mut lost = None;
        if self.waiting.len() >= self.waiting_max {
            let own = self.askers.get(&request.who).map_or(0, |asker| asker.waiting.len());
            match self.by_length.last().copied() {
                Some((most, who)) if most > own => lost = self.drop_newest(who),
                _ => return Some(request.request),
            }
        }
        let number = self.number();
        let asker = self.askers.entry(request.who).or_default();
        self.by_length.remove(&(asker.waiting.len(), request.who));
        asker.waiting.push_back(number);
        self.by_length.insert((asker.waiting.len(), request.who));
        self.enter_ring(request.who);
        self.waiting.insert(number, request);
        lost
    }

    /// The next request to run, if another one may. The caller calls [`end`](Self::end) when it has run.
    pub(super) fn next(&mut self, bounds: Bounds) -> Option<Waiting<T>> {
        while self.running < bounds.running_max {
            let (_, who) = self.ring.pop_first()?;
            let Some(asker) = self.askers.get_mut(&who) else {
                continue;
            };
            asker.place = None;
            if asker.running >= bounds.share_max {
                // The asker is back when one of its own ends.
                continue;
            }
            let Some(number) = asker.waiting.front().copied() else {
                continue;
            };
            asker.running += 1;
            self.running += 1;
            let next = self.take(number);
            self.enter_ring(who);
            if next.is_some() {
                return next;
            }
        }
        None
    }

    /// One of this asker's requests has ended.
    pub(super) fn end(&mut self, who: Who) {
        if let Some(asker) = self.askers.get_mut(&who) {
            asker.running = asker.running.saturating_sub(1);
            self.running = self.running.saturating_sub(1);
        }
        self.enter_ring(who);
        self.forget_idle(who);
    }

    /// Takes out the request that has waited longest, if it was asked before `time`. True: it waited because its asker
    /// already had its full share running.
    pub(super) fn late(&mut self, time: Instant, bounds: Bounds) -> Option<(T, bool)> {
        let (number, first) = self.waiting.first_key_value()?;
        if first.asked > time {
            return None;
        }
        let who = first.who;
        let Waiting { request, .. } = self.take(*number)?;
        let had_its_share = self.askers.get(&who).is_some_and(|asker| asker.running >= bounds.share_max);
        self.forget_idle(who);
        Some((request, had_its_share))
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn drop_newest(&mut self, who: Who) -> Option<T> {
        let number = self.askers.get(&who)?.waiting.back().copied()?;
        let lost = self.take(number);
        self.forget_idle(who);
        lost.map(|lost| lost.request)
    }

    /// Takes out an asker's oldest or newest request.
    fn take(&mut self, number: u64) -> Option<Waiting<T>> {
        let taken = self.waiting.remove(&number)?;
        if let Some(asker) = self.askers.get_mut(&taken.who) {
            self.by_length.remove(&(asker.waiting.len(), taken.who));
            match asker.waiting.front() {
                Some(front) if *front == number => asker.waiting.pop_front(),
                _ => asker.waiting.pop_back(),
            };
            if !asker.waiting.is_empty() {
                self.by_length.insert((asker.waiting.len(), taken.who));
            }
        }
        Some(taken)
    }

    /// Puts an asker behind all others, unless it is in the ring.
    fn enter_ring(&mut self, who: Who) {
        let place = self.number();
        if let Some(asker) = self.askers.get_mut(&who)
            && asker.place.is_none()
            && !asker.waiting.is_empty()
        {
            asker.place = Some(place);
            self.ring.insert(place, who);
        }
    }

    fn forget_idle(&mut self, who: Who) {
        if let Some(asker) = self.askers.get_mut(&who)
            && asker.waiting.is_empty()
        {
            if let Some(place) = asker.place.take() {
                self.ring.remove(&place);
            }
            if asker.running == 0 {
                self.askers.remove(&who);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use msrp_relay_core::UserKey;

    const NO_BOUNDS: Bounds = Bounds { running_max: usize::MAX, share_max: usize::MAX };

    fn who(name: &str) -> Who {
        Who::User(UserKey::new(name, "example.com"))
    }

    /// A queue, and requests numbered in the order of arrival.
    struct Queue {
        turns: Turns<(String, usize)>,
        began: Instant,
        count: usize,
    }

    impl Queue {
        fn new(waiting_max: usize) -> Self {
            Self { turns: Turns::new(waiting_max), began: Instant::now(), count: 0 }
        }

        /// The asker that lost a request by this one.
        fn ask(&mut self, name: &str) -> Option<String> {
            let asked = self.began + Duration::from_secs(self.count as u64);
            let request = (name.to_owned(), self.count);
            self.count += 1;
            self.turns.push(Waiting { who: who(name), asked, request }).map(|(name, _)| name)
        }

        fn ask_times(&mut self, times: usize, name: &str) {
            (0..times).for_each(|_| assert_eq!(self.ask(name), None));
        }

        fn next(&mut self, running_max: usize, share_max: usize) -> Option<String> {
            self.turns.next(Bounds { running_max, share_max }).map(|next| next.request.0)
        }

        fn order(&mut self, share_max: usize) -> String {
            std::iter::from_fn(|| self.next(usize::MAX, share_max)).collect::<Vec<_>>().join(" ")
        }

        fn is_empty(&self) -> bool {
            let Turns { waiting, askers, ring, by_length, .. } = &self.turns;
            waiting.is_empty() && askers.is_empty() && ring.is_empty() && by_length.is_empty()
        }
    }

    #[test]
    fn askers_take_turns_however_many_requests_one_has() {
        let mut queue = Queue::new(2000);
        queue.ask_times(1400, "crowd");
        queue.ask_times(2, "alice");
        queue.ask_times(1, "bob");
        let order: Vec<_> = (0..6).map(|_| queue.next(usize::MAX, usize::MAX).unwrap()).collect();
        assert_eq!(order, ["crowd", "alice", "bob", "crowd", "alice", "crowd"]);
    }

    #[test]
    fn requests_of_one_asker_run_in_the_order_of_their_coming() {
        let mut queue = Queue::new(100);
        for _ in 0..3 {
            queue.ask_times(1, "alice");
            queue.ask_times(1, "bob");
        }
        let numbers = std::iter::from_fn(|| queue.turns.next(NO_BOUNDS)).map(|next| next.request.1);
        assert_eq!(numbers.collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn one_asker_runs_no_more_than_its_share_and_goes_on_when_one_of_its_own_ends() {
        let mut queue = Queue::new(100);
        queue.ask_times(5, "crowd");
        assert_eq!(queue.order(2), "crowd crowd");
        queue.ask_times(1, "alice");
        assert_eq!(queue.order(2), "alice");
        queue.turns.end(who("alice"));
        assert_eq!(queue.order(2), "");
        queue.turns.end(who("crowd"));
        assert_eq!(queue.order(2), "crowd");
        // A raised share holds from the next end on, a lowered one at once.
        queue.turns.end(who("crowd"));
        assert_eq!(queue.order(1), "");
        queue.turns.end(who("crowd"));
        assert_eq!(queue.order(3), "crowd crowd");
        (0..2).for_each(|_| queue.turns.end(who("crowd")));
        assert!(queue.is_empty());
    }

    #[test]
    fn no_more_run_than_may_in_all() {
        let mut queue = Queue::new(100);
        ["a", "b", "c"].into_iter().for_each(|name| queue.ask_times(1, name));
        assert_eq!(
            (queue.next(2, 9), queue.next(2, 9), queue.next(2, 9)),
            (Some("a".into()), Some("b".into()), None)
        );
        queue.turns.end(who("a"));
        assert_eq!(queue.next(2, 9), Some("c".into()));
    }

    #[test]
    fn full_queue_takes_from_the_one_who_has_most_waiting() {
        let mut queue = Queue::new(10);
        queue.ask_times(7, "crowd");
        queue.ask_times(3, "group");
        assert_eq!(queue.ask("alice").as_deref(), Some("crowd"));
        assert_eq!(queue.ask("crowd").as_deref(), Some("crowd"), "its own newest, which is this one");
        assert_eq!(queue.ask("group").as_deref(), Some("crowd"));
        assert_eq!(queue.turns.len(), 10);
        let numbers = std::iter::from_fn(|| queue.turns.next(NO_BOUNDS));
        let crowd: Vec<_> =
            numbers.filter(|next| next.request.0 == "crowd").map(|next| next.request.1).collect();
        assert_eq!(crowd, [0, 1, 2, 3, 4], "the newest are those that go");
    }

    #[test]
    fn who_has_as_many_as_anybody_does_not_push_others_out() {
        let mut queue = Queue::new(4);
        ["a", "a", "b", "b"].into_iter().for_each(|name| queue.ask_times(1, name));
        assert_eq!(queue.ask("a").as_deref(), Some("a"));
        assert_eq!(queue.ask("b").as_deref(), Some("b"));
        assert!(matches!(queue.ask("c").as_deref(), Some("a" | "b")));
    }

    #[test]
    fn what_has_waited_long_enough_goes_without_a_turn() {
        let mut queue = Queue::new(100);
        queue.ask_times(3, "crowd");
        queue.ask_times(2, "alice");
        assert_eq!(queue.next(usize::MAX, 1), Some("crowd".into()));
        assert_eq!(queue.turns.oldest(), Some(queue.began + Duration::from_secs(1)));
        let bounds = Bounds { running_max: usize::MAX, share_max: 1 };
        let until = queue.began + Duration::from_secs(3);
        let late: Vec<_> = std::iter::from_fn(|| queue.turns.late(until, bounds)).collect();
        let late: Vec<_> =
            late.iter().map(|((_, number), had_its_share)| (*number, *had_its_share)).collect();
        assert_eq!(late, [(1, true), (2, true), (3, false)]);
        assert_eq!(queue.order(1), "alice");
        ["crowd", "alice"].into_iter().for_each(|name| queue.turns.end(who(name)));
        assert!(queue.is_empty());
    }

    proptest! {
        // Whatever happens in whatever order: bounds hold, nothing is lost or served twice, nothing is left behind.
        #[test]
        fn bounds_hold_and_nothing_is_lost_or_kept(
            steps in prop::collection::vec((0..4_u8, 0..5_usize), 1..400),
            running_max in 1..6_usize,
            share_max in 1..4_usize,
        ) {
            const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
            let bounds = Bounds { running_max, share_max };
            let mut queue = Queue::new(12);
            let mut running: Vec<&str> = Vec::new();
            let (mut asked, mut gone) = (0, 0);
            for (step, n) in steps {
                match step {
                    0 | 1 => {
                        asked += 1;
                        gone += usize::from(queue.ask(NAMES[n]).is_some());
                    }
                    2 => while let Some(next) = queue.turns.next(bounds) {
                        running.push(NAMES.into_iter().find(|name| *name == next.request.0).unwrap());
                    },
                    _ if n == 0 => gone += usize::from(queue.turns.late(queue.turns.oldest().unwrap_or(queue.began), bounds).is_some()),
                    _ if !running.is_empty() => {
                        gone += 1;
                        queue.turns.end(who(running.remove(n % running.len())));
                    }
                    _ => {}
                }
                prop_assert!(running.len() <= running_max && queue.turns.len() <= 12);
                prop_assert!(NAMES.iter().all(|name| running.iter().filter(|other| *other == name).count() <= share_max));
                prop_assert_eq!(asked, gone + running.len() + queue.turns.len());
                let Turns { waiting, askers, ring, by_length, .. } = &queue.turns;
                prop_assert!(ring.len() <= askers.len() && by_length.len() <= askers.len());
                prop_assert_eq!(by_length.iter().map(|(length, _)| length).sum::<usize>(), waiting.len());
                prop_assert!(askers.values().all(|asker| asker.running > 0 || !asker.waiting.is_empty()));
            }
            // Every waiting request has its turn in the end.
            while !running.is_empty() || queue.turns.len() > 0 {
                while let Some(next) = queue.turns.next(bounds) {
                    running.push(NAMES.into_iter().find(|name| *name == next.request.0).unwrap());
                }
                queue.turns.end(who(running.pop().unwrap()));
            }
            prop_assert!(queue.is_empty());
        }
    }
}
