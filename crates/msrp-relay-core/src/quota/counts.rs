//! What the addresses and users counted here have on all cores, and their failures in a window of time.
//!
//! One core counts each address and each user. The name alone decides which, so that all cores agree without a shared
//! table. The core that owns a connection tells the counting core what happens, by [`CoreStep::Tally`]; an answer, if
//! there is one, comes as a message too. None of it is on the path of a chunk. Too many failures lead to a ban for the
//! rest of the window, on every core ([`bans`](super::bans)).
//!
//! Invariants: a dead core's counts are taken back, and every core counts again for a restarted one; every table is
//! bounded. A secret key orders the tables, because strangers choose addresses and user names.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::REMEMBERED_MAX;
use super::who::{AddressKey, Offence, Share, Tally, UserKey, Who};
use crate::core::Core;
use crate::ids::{CoreId, Entropy, SecretHasher};
use crate::limit::Limit;
use crate::message::{CoreStep, PeerStep};
use crate::settings::Limits;
use crate::spread::Spread;

/// The counts of this core.
#[derive(Debug)]
pub(crate) struct Quota {
    totals: Spread<Who, Share>,
    /// How many unproven connections the cores believe an address to have; one, if nothing is noted.
    told: Spread<Who, u32>,
    /// Each core's part of the counts, by position.
    parts: Vec<Spread<Who, Share>>,
    failures: HashMap<(Who, Offence), Window, SecretHasher>,
    /// When each window ends, oldest first; all are equally long.
    ends: VecDeque<((Who, Offence), Instant)>,
}

#[derive(Debug)]
struct Window {
    failures: u32,
    ends: Instant,
}

impl Quota {
    pub(crate) fn new(cores: usize, entropy: &mut Entropy) -> Self {
        Self {
            totals: Spread::new(entropy),
            told: Spread::new(entropy),
            parts: (0..cores).map(|_| Spread::new(entropy)).collect(),
            failures: HashMap::with_hasher(SecretHasher::new(entropy)),
            ends: VecDeque::new(),
        }
    }

    /// How many addresses and users are counted here.
    pub(crate) fn len(&self) -> usize {
        self.totals.len()
    }

    /// Notes of what the cores have been told.
    pub(crate) fn told_len(&self) -> usize {
        self.told.len()
    }

    /// How many unproven connections an address has on all cores.
    fn unproven(&self, who: Who) -> u32 {
        self.totals.get(&who).map_or(0, |share| share.unproven)
    }

    /// The same, if the cores believe a number that is off by more than a quarter: so few messages are enough for many
    /// connections.
    fn news(&mut self, who: Who) -> Option<u32> {
        let now = self.unproven(who);
        let before = self.told.get(&who).copied().unwrap_or(1);
        if now.abs_diff(before) <= before / 4 {
            return None;
        }
        match now {
            0 | 1 => self.told.remove(&who),
            _ => self.told.insert(who, now),
        };
        (now > 0).then_some(now)
    }

    /// The cores that have unproven connections of an address.
    fn cores_with_newcomers(&self, who: Who) -> Vec<usize> {
        let has = |part: &Spread<Who, Share>| part.get(&who).is_some_and(|share| share.unproven > 0);
        self.parts.iter().enumerate().filter(|(_, part)| has(part)).map(|(index, _)| index).collect()
    }

    /// Whether a core knows only one new unproven connection of an address that has others elsewhere.
    fn knows_one_of_many(&self, core: CoreId, who: Who) -> bool {
        let part = self.parts.get(usize::from(core.index)).and_then(|part| part.get(&who));
        part.is_some_and(|share| share.unproven == 1) && self.unproven(who) > 1
    }

    /// The users that have something at present.
    pub(crate) fn users(&self) -> Vec<Who> {
        self.totals.iter().map(|(who, _)| *who).filter(|who| matches!(who, Who::User(_))).collect()
    }

    /// How many cores have sessions of `who`, and how many sessions there are.
    pub(crate) fn sessions(&self, who: Who) -> (Vec<usize>, u32) {
        let has = |part: &Spread<Who, Share>| part.get(&who).is_some_and(|share| share.sessions > 0);
        let cores = self.parts.iter().enumerate().filter(|(_, part)| has(part)).map(|(index, _)| index);
        (cores.collect(), self.totals.get(&who).map_or(0, |share| share.sessions))
    }

    /// Counts one more connection; returns the limit that this exceeds.
    pub(crate) fn connected(&mut self, from: CoreId, who: Who, limits: &Limits) -> Option<Limit> {
        let total = self.change(from, who, |share| {
            share.connections = share.connections.saturating_add(1);
            share.unproven = share.unproven.saturating_add(1);
        });
        if total.connections > limits.connections_per_address_max {
            Some(Limit::ConnectionsPerAddress)
        } else if total.unproven > limits.unauthenticated_per_address_max {
            Some(Limit::UnauthenticatedPerAddress)
        } else {
            None
        }
    }

    pub(crate) fn proven(&mut self, from: CoreId, who: Who) {
        self.change(from, who, |share| share.unproven = share.unproven.saturating_sub(1));
    }

    pub(crate) fn disconnected(&mut self, from: CoreId, who: Who, proven: bool) {
        self.change(from, who, |share| {
            share.connections = share.connections.saturating_sub(1);
            share.unproven = share.unproven.saturating_sub(u32::from(!proven));
        });
    }

    /// Counts one more session, unless there are `max` already; 0 is any number.
    pub(crate) fn claim(&mut self, from: CoreId, who: Who, max: u32) -> bool {
        let have = self.totals.get(&who).map_or(0, |share| share.sessions);
        let granted = max == 0 || have < max;
        if granted {
            self.change(from, who, |share| share.sessions = share.sessions.saturating_add(1));
        }
        granted
    }

    pub(crate) fn released(&mut self, from: CoreId, who: Who) {
        self.change(from, who, |share| share.sessions = share.sessions.saturating_sub(1));
    }

    pub(crate) fn departed(&mut self, from: CoreId, who: Who, share: Share) {
        self.change(from, who, |all| all.sub(share));
    }

    pub(crate) fn arrived(&mut self, from: CoreId, who: Who, share: Share) {
        self.change(from, who, |all| all.add(share));
    }

    /// A core's full report replaces its earlier ones.
    pub(crate) fn restore(&mut self, from: CoreId, who: Who, all: Share) {
        self.change(from, who, |share| *share = all);
    }

    /// A core is gone with all it had. Returns the addresses and users that have less after it.
    fn take_part(&mut self, index: usize) -> Vec<Who> {
        let Some(part) = self
            .parts
            .get_mut(index)
            .map(|part| part.parts_mut().flat_map(|part| part.drain()).collect::<Vec<_>>())
        else {
            return Vec::new();
        };
        for (who, share) in &part {
            self.subtract(*who, *share);
        }
        part.into_iter().map(|(who, _)| who).collect()
    }

    fn change(&mut self, from: CoreId, who: Who, change: impl FnOnce(&mut Share)) -> Share {
        let Some(part) = self.parts.get_mut(usize::from(from.index)) else {
            return Share::default();
        };
        let part = part.of_mut(&who);
        let entry = part.entry(who).or_default();
        let before = *entry;
        change(entry);
        let now = *entry;
        if now.is_empty() {
            part.remove(&who);
        }
        let totals = self.totals.of_mut(&who);
        let total = totals.entry(who).or_default();
        total.sub(before);
        total.add(now);
        let total = *total;
        if total.is_empty() {
            totals.remove(&who);
        }
        total
    }

    fn subtract(&mut self, who: Who, share: Share) {
        if let Some(total) = self.totals.get_mut(&who) {
            total.sub(share);
            if total.is_empty() {
                self.totals.remove(&who);
            }
        }
    }

    /// Counts one more failure. Returns until when a ban holds, if this failure is the one too many; once in a window.
    pub(crate) fn failed(
        &mut self,
        who: Who,
        offence: Offence,
        limits: &Limits,
        now: Instant,
    ) -> Option<Instant> {
        let max = match (offence, who) {
            (Offence::Auth, Who::Address(_)) => limits.auth_failures_per_address_max,
            (Offence::Auth, Who::User(_)) | (Offence::AuthBehind, _) => limits.auth_failures_per_user_max,
            (Offence::Dial, _) => limits.dial_failures_per_user_max,
        };
        if max == 0 {
            return None;
        }
        while self.ends.front().is_some_and(|(_, at)| *at <= now) || self.ends.len() >= REMEMBERED_MAX {
            if let Some((key, _)) = self.ends.pop_front() {
                self.failures.remove(&key);
            }
        }
        let key = (who, offence);
        let window = self.failures.entry(key).or_insert_with(|| {
            let ends = now + limits.failure_window;
            self.ends.push_back((key, ends));
            Window { failures: 0, ends }
        });
        window.failures = window.failures.saturating_add(1);
        (window.failures == max).then_some(window.ends)
    }
}

impl Quota {
    /// A core reports a change.
    pub(crate) fn on_tally(&mut self, from: CoreId, who: Who, tally: Tally, core: &mut Core) {
        match tally {
            Tally::Connected(peer) => {
                if let Some(limit) = self.connected(from, who, &core.settings.limits) {
                    core.tell_peer(peer, PeerStep::Excess { limit });
                }
                let is_first = self.knows_one_of_many(from, who);
                self.tell_newcomers(who, is_first.then_some(from), core);
            }
            Tally::Proven => {
                self.proven(from, who);
                self.tell_newcomers(who, None, core);
            }
            Tally::Disconnected { proven } => {
                self.disconnected(from, who, proven);
                self.tell_newcomers(who, None, core);
            }
            Tally::Claim { peer, ticket } => {
                let granted = self.claim(from, who, core.settings.limits.sessions_per_user_max);
                let counter = granted.then_some(core.me);
                core.tell_peer(peer, PeerStep::Claimed { ticket, who, granted, counter });
                // After the answer: the asking core makes the user's bucket only when it gets it.
                self.tell_share(who, core);
            }
            Tally::Released => {
                self.released(from, who);
                self.tell_share(who, core);
            }
            Tally::Departed(share) => {
                self.departed(from, who, share);
                self.tell_share(who, core);
            }
            Tally::Arrived(share) => {
                self.arrived(from, who, share);
                self.tell_share(who, core);
            }
            Tally::Failed { offence, culprit } => {
                let failed = self.failed(who, offence, &core.settings.limits, core.now);
                if let Some(until) = failed {
                    core.count_limit(Limit::of_ban(who, offence));
                    let culprit = Some(culprit);
                    core.tell_all_cores(|| CoreStep::Ban { who, offence, until, culprit });
                }
            }
            Tally::Restore(share) => {
                self.restore(from, who, share);
                self.tell_share(who, core);
                // The core may have older news from the counter before this one.
                self.tell_newcomers(who, Some(from).filter(|_| share.unproven > 0), core);
            }
        }
    }

    /// A core is gone: the other cores hear which counts fell.
    pub(crate) fn forget_core(&mut self, gone: CoreId, core: &mut Core) {
        for who in self.take_part(usize::from(gone.index)) {
            self.tell_share(who, core);
            self.tell_newcomers(who, None, core);
        }
    }

    /// A rate per user holds from here on: every core hears how many sessions each user has.
    pub(crate) fn tell_all_shares(&self, core: &mut Core) {
        for who in self.users() {
            self.tell_share(who, core);
        }
    }

    /// Tells the cores that have unproven connections of an address about how many it has in all: that decides which
    /// one makes room there. Tells all of them if the number is news, else `asker` alone.
    fn tell_newcomers(&mut self, who: Who, asker: Option<CoreId>, core: &mut Core) {
        let Who::Address(source) = who else {
            return;
        };
        // A single core knows everything itself.
        if core.cores.len() == 1 {
            return;
        }
        let cores = match self.news(who) {
            Some(_) => self.cores_with_newcomers(who),
            None => asker.map(|core| usize::from(core.index)).into_iter().collect(),
        };
        let count = self.unproven(who);
        for index in cores {
            if let Some(to) = core.cores.running(index) {
                core.tell_core(to, CoreStep::Newcomers { source, count });
            }
        }
    }

    /// Tells the cores that have sessions of a user how many there are: they divide the user's rate.
    fn tell_share(&self, who: Who, core: &mut Core) {
        let Who::User(user) = who else {
            return;
        };
        if core.settings.limits.bytes_per_second_per_user_max == 0 {
            return;
        }
        let (cores, sessions) = self.sessions(who);
        for index in cores {
            if let Some(to) = core.cores.running(index) {
                core.tell_core(to, CoreStep::Share { user, sessions });
            }
        }
    }
}

/// Tells each counting core all that this core has of what it counts.
pub(crate) fn tell_all(
    shares: impl Iterator<Item = (Who, Share)>,
    is_meant: impl Fn(&Who) -> bool,
    core: &mut Core,
) {
    let mut shares: Vec<(Who, Share)> = shares.filter(|(who, _)| is_meant(who)).collect();
    shares.sort_unstable_by_key(|(who, _)| match who {
        Who::Address(AddressKey(bytes)) => (0, u128::from(*bytes)),
        Who::User(UserKey(digest)) => (1, *digest),
    });
    for same in shares.chunk_by(|(a, _), (b, _)| a == b) {
        let Some((who, _)) = same.first() else { continue };
        let mut all = Share::default();
        same.iter().for_each(|(_, share)| all.add(*share));
        core.tally(*who, Tally::Restore(all));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state what must hold")]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(text: &str) -> Who {
        Who::Address(AddressKey::new(text.parse().unwrap()))
    }

    fn core(index: u16) -> CoreId {
        CoreId { index, incarnation: 0 }
    }

    fn quota() -> Quota {
        Quota::new(3, &mut Entropy::new([5; 32]))
    }

    // A core hears what others have: to within a quarter, and every change while it is one or two.
    #[test]
    fn news_of_newcomers_are_few_and_never_far_from_the_truth() {
        let limits = Limits {
            unauthenticated_per_address_max: 10_000,
            connections_per_address_max: 10_000,
            ..Limits::default()
        };
        let (mut quota, who) = (quota(), address("192.0.2.1"));
        let (mut believed, mut words) = (1, 0);
        let mut look = |quota: &mut Quota| {
            if let Some(news) = quota.news(who) {
                (believed, words) = (news, words + 1);
            }
            let truth = quota.unproven(who);
            assert!(truth <= 1 || truth.abs_diff(believed) <= truth / 3 + 1, "{believed} for {truth}");
        };
        for n in 0..1000 {
            quota.connected(core(n % 2), who, &limits);
            look(&mut quota);
        }
        assert_eq!(quota.cores_with_newcomers(who), [0, 1]);
        assert_eq!(quota.connected(core(2), who, &limits), None);
        assert!(quota.knows_one_of_many(core(2), who));
        quota.proven(core(2), who);
        for n in 0..1000 {
            quota.disconnected(core(n % 2), who, false);
            look(&mut quota);
        }
        assert!((10..100).contains(&words), "{words}");
        quota.disconnected(core(2), who, true);
        assert_eq!((quota.len(), quota.told_len()), (0, 0));
    }

    // S10: connections of all cores together.
    #[test]
    fn connections_are_counted_over_all_cores_and_given_back() {
        let limits = Limits {
            connections_per_address_max: 3,
            unauthenticated_per_address_max: 2,
            ..Limits::default()
        };
        let (mut quota, who) = (quota(), address("192.0.2.1"));
        assert_eq!(quota.connected(core(0), who, &limits), None);
        assert_eq!(quota.connected(core(1), who, &limits), None);
        assert_eq!(quota.connected(core(2), who, &limits), Some(Limit::UnauthenticatedPerAddress));
        quota.proven(core(0), who);
        quota.proven(core(1), who);
        assert_eq!(quota.connected(core(2), who, &limits), Some(Limit::ConnectionsPerAddress));
        assert_eq!(quota.connected(core(2), address("192.0.2.2"), &limits), None);
        quota.disconnected(core(2), address("192.0.2.2"), false);
        quota.take_part(2);
        assert_eq!(quota.connected(core(1), who, &limits), None);
        quota.disconnected(core(1), who, false);
        quota.disconnected(core(1), who, true);
        quota.disconnected(core(0), who, true);
        assert_eq!(quota.len(), 0);
    }

    #[test]
    fn what_a_core_restores_replaces_what_it_said_before() {
        let (mut quota, who) = (quota(), address("192.0.2.1"));
        let share = Share { connections: 2, unproven: 1, sessions: 0 };
        quota.restore(core(0), who, share);
        quota.restore(core(0), who, share);
        quota.disconnected(core(0), who, true);
        quota.disconnected(core(0), who, false);
        assert_eq!(quota.len(), 0);
    }

    // Whichever core is heard first, and if one of them dies: what it has is its own part.
    #[test]
    fn what_moves_is_counted_by_the_core_that_has_it() {
        let share = Share { connections: 1, unproven: 0, sessions: 1 };
        for arrives_first in [false, true] {
            let (mut quota, who) = (quota(), address("192.0.2.1"));
            quota.restore(core(0), who, share);
            if arrives_first {
                quota.arrived(core(1), who, share);
                quota.departed(core(0), who, share);
            } else {
                quota.departed(core(0), who, share);
                quota.arrived(core(1), who, share);
            }
            quota.take_part(0);
            assert_eq!(quota.sessions(who), (vec![1], 1));
            quota.take_part(1);
            assert_eq!(quota.len(), 0);
        }
    }

    #[test]
    fn sessions_of_a_user_are_granted_up_to_the_limit() {
        let (mut quota, who) = (quota(), Who::User(UserKey::new("alice", "example.com")));
        assert!(quota.claim(core(0), who, 2));
        assert!(quota.claim(core(1), who, 2));
        assert!(!quota.claim(core(2), who, 2));
        assert_eq!(quota.sessions(who), (vec![0, 1], 2));
        assert!(quota.claim(core(2), who, 0), "0 is any number");
        quota.released(core(2), who);
        quota.released(core(0), who);
        assert!(quota.claim(core(2), who, 2));
        assert_eq!(quota.take_part(2), [who]);
    }

    // A ban is told once and holds to the end of its window. Another window begins with the next failure.
    #[test]
    fn the_failure_that_is_one_too_many_bans_until_the_window_ends() {
        let limits = Limits { auth_failures_per_address_max: 3, ..Limits::default() };
        let (mut quota, who, start) = (quota(), address("192.0.2.1"), Instant::now());
        let mut fail =
            |seconds| quota.failed(who, Offence::Auth, &limits, start + Duration::from_secs(seconds));
        assert_eq!([fail(0), fail(10)], [None, None]);
        let until = fail(20).unwrap();
        assert_eq!(until, start + limits.failure_window);
        assert_eq!(fail(30), None);
        assert_eq!([fail(300), fail(301)], [None, None]);
        assert_eq!(fail(302), Some(start + 2 * limits.failure_window));
    }

    #[test]
    fn failures_that_are_remembered_are_bounded() {
        let limits = Limits::default();
        let (mut quota, now) = (quota(), Instant::now());
        for n in 0..u32::try_from(REMEMBERED_MAX).unwrap() + 1000 {
            quota.failed(Who::Address(AddressKey(u64::from(n))), Offence::Auth, &limits, now);
        }
        assert!(quota.failures.len() <= REMEMBERED_MAX && quota.ends.len() <= REMEMBERED_MAX);
        let later = now + Duration::from_secs(1000);
        quota.failed(address("192.0.2.1"), Offence::Auth, &limits, later);
        assert_eq!((quota.failures.len(), quota.ends.len()), (1, 1));
    }
}
