//! Limits that hold for the whole process: how much one address, or one user, may have (norms S3, S10).
//!
//! Each address and each user is counted by one core, which its name alone decides, so that all cores
//! agree without a shared table. The core that owns a connection tells that core what happens, by
//! [`Message::Tally`]; the answer, if there is one, comes as a message too. None of it is on the path of
//! a chunk.
//!
//! What is counted twice over: what there is now (connections, sessions) in the [`Register`], and what
//! went wrong in a window of time. Who goes wrong too often is banned for the rest of the window; a ban
//! is told to every core, which then refuses by itself ([`Bans`]).
//!
//! Invariants: what a core has told is taken back when it dies, and told again to a core that is
//! started again; every table is bounded. The tables' order is under a secret key: addresses and user
//! names are chosen by strangers.
//!
//! [`Message::Tally`]: super::Message::Tally

use core::net::IpAddr;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Instant;

use sha2::{Digest as _, Sha256};

use super::ids::{CoreId, Entropy, LookUpTicket, PeerRef, SecretHasher};
use super::limit::Limit;
use super::message::Message;
use super::settings::Limits;
use super::{Core, Effects, Event, Peer, Relay};
use msrp_proto::address::{canonical, embedded};

/// Failures, and bans, remembered at a time; beyond that the oldest are forgotten.
const REMEMBERED_MAX: usize = 1 << 16;

/// Bits of an IPv6 address that name a subscriber: providers give out a /56 (RFC 6177), in which the subscriber chooses
/// among 256 networks at will. Where each has a /64, 256 of them are one source, like users behind one carrier's NAT.
const SUBSCRIBER_BITS: u32 = 56;

/// An address as everything here counts it, a source: one of IPv4, or the /56 network of one of IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct AddressKey(u64);

impl AddressKey {
    /// Addresses in IPv6 clothing are what is inside, also those of a translator, behind which all of IPv4 would be one
    /// source.
    pub fn new(address: IpAddr) -> Self {
        let v4 = match canonical(address) {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(address) => embedded(address).last(),
        };
        match (v4, address) {
            (Some(v4), _) | (None, IpAddr::V4(v4)) => Self(u64::from(u32::from(v4))),
            (None, IpAddr::V6(address)) => {
                // IPv4 takes ::/32, in which nobody has an address but the loopback.
                let front = u64::try_from(u128::from(address) >> 64).unwrap_or_default();
                Self(front & (u64::MAX << (64 - SUBSCRIBER_BITS)))
            }
        }
    }
}

/// A user of a realm: the first half of a SHA-256, so that nobody can make two of them meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct UserKey(u128);

impl UserKey {
    /// The user `name` of `realm`, octet by octet.
    pub fn new(name: &str, realm: &str) -> Self {
        let digest = Sha256::new().chain_update(realm).chain_update([0]).chain_update(name).finalize();
        Self::half(digest.as_slice())
    }

    /// A relay by its host, to share look-ups among those who ask for them.
    pub(crate) fn of_relay(host: &str) -> Self {
        Self::half(&of_relay(host).finalize())
    }

    /// A user as clients of a relay: what others do in the user's name behind another relay does not count.
    pub(crate) fn behind(self, host: &str) -> Self {
        Self::half(&of_relay(host).chain_update([0]).chain_update(self.0.to_be_bytes()).finalize())
    }

    fn half(digest: &[u8]) -> Self {
        Self(u128::from_be_bytes(digest.first_chunk().copied().unwrap_or_default()))
    }
}

/// No realm begins with that octet. Host names have no case.
fn of_relay(host: &str) -> Sha256 {
    Sha256::new().chain_update([0]).chain_update(host.to_ascii_lowercase())
}

/// Whose share is counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Who {
    /// Everybody at an address.
    Address(AddressKey),
    /// A user.
    User(UserKey),
}

impl Who {
    /// The position of the core that counts it.
    pub(crate) fn counter(self, cores: usize) -> usize {
        let spread = match self {
            Self::Address(AddressKey(octets)) => octets.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32,
            Self::User(UserKey(digest)) => u64::try_from(digest >> 64).unwrap_or_default(),
        };
        usize::try_from(spread % cores.max(1) as u64).unwrap_or_default()
    }
}

/// What can go wrong too often.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Offence {
    /// Credentials were wrong.
    Auth,
    /// The same in an AUTH that came through another relay: whoever has a relay could keep users from their own
    /// connections otherwise.
    AuthBehind,
    /// A next hop could not be connected to.
    Dial,
}

/// What a core tells the one that counts.
#[derive(Clone, Copy, Debug)]
pub enum Tally {
    /// A connection was accepted.
    Connected(PeerRef),
    /// It has authenticated, or had a request forwarded.
    Proven,
    /// It is gone.
    Disconnected {
        /// Whether it had been proven.
        proven: bool,
    },
    /// A connection asks for the first session of its own.
    Claim {
        /// The connection.
        peer: PeerRef,
        /// To be given back.
        ticket: LookUpTicket,
    },
    /// It has no session any more.
    Released,
    /// Something went wrong.
    Failed {
        /// What.
        offence: Offence,
        /// On whose connection, for the log.
        culprit: PeerRef,
    },
    /// All that the core has: the counter is new and knows nothing.
    Restore(Share),
}

/// What one address or user has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Share {
    pub(crate) connections: u32,
    pub(crate) unproven: u32,
    pub(crate) sessions: u32,
}

impl Share {
    fn is_empty(self) -> bool {
        self == Self::default()
    }

    fn add(&mut self, other: Self) {
        self.connections = self.connections.saturating_add(other.connections);
        self.unproven = self.unproven.saturating_add(other.unproven);
        self.sessions = self.sessions.saturating_add(other.sessions);
    }

    fn sub(&mut self, other: Self) {
        self.connections = self.connections.saturating_sub(other.connections);
        self.unproven = self.unproven.saturating_sub(other.unproven);
        self.sessions = self.sessions.saturating_sub(other.sessions);
    }
}

type Table<K, V> = HashMap<K, V, SecretHasher>;

/// The counting side: what all cores have of those that are counted here.
#[derive(Debug)]
pub(crate) struct Register {
    totals: Table<Who, Share>,
    /// How many unproven connections the cores believe an address to have; one, where nothing is noted.
    told: Table<Who, u32>,
    /// The part of each core in them, by position.
    parts: Vec<Table<Who, Share>>,
    failures: Table<(Who, Offence), Window>,
    /// When each window ends, oldest first; all are equally long.
    ends: VecDeque<((Who, Offence), Instant)>,
}

#[derive(Debug)]
struct Window {
    failures: u32,
    ends: Instant,
}

impl Register {
    pub(crate) fn new(cores: usize, entropy: &mut Entropy) -> Self {
        Self {
            totals: HashMap::with_hasher(SecretHasher::new(entropy)),
            told: HashMap::with_hasher(SecretHasher::new(entropy)),
            parts: (0..cores).map(|_| HashMap::with_hasher(SecretHasher::new(entropy))).collect(),
            failures: HashMap::with_hasher(SecretHasher::new(entropy)),
            ends: VecDeque::new(),
        }
    }

    /// How many addresses and users have something now.
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

    /// The same, if the cores believe something else: if it is off by more than a quarter, so that few words are needed
    /// for many connections.
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

    /// The cores with unproven connections of an address.
    fn cores_with_newcomers(&self, who: Who) -> Vec<usize> {
        let has = |part: &Table<Who, Share>| part.get(&who).is_some_and(|share| share.unproven > 0);
        self.parts.iter().enumerate().filter(|(_, part)| has(part)).map(|(index, _)| index).collect()
    }

    /// Whether all that a core knows of an address' unproven connections is one that has just come, and there are others.
    fn knows_one_of_many(&self, core: CoreId, who: Who) -> bool {
        let part = self.parts.get(usize::from(core.index)).and_then(|part| part.get(&who));
        part.is_some_and(|share| share.unproven == 1) && self.unproven(who) > 1
    }

    /// The users that have something now.
    pub(crate) fn users(&self) -> Vec<Who> {
        self.totals.keys().copied().filter(|who| matches!(who, Who::User(_))).collect()
    }

    /// How many cores have sessions of `who`, and how many sessions there are.
    pub(crate) fn sessions(&self, who: Who) -> (Vec<usize>, u32) {
        let has = |part: &Table<Who, Share>| part.get(&who).is_some_and(|share| share.sessions > 0);
        let cores = self.parts.iter().enumerate().filter(|(_, part)| has(part)).map(|(index, _)| index);
        (cores.collect(), self.totals.get(&who).map_or(0, |share| share.sessions))
    }

    /// One connection more; says which limit that exceeds.
    pub(crate) fn connected(&mut self, from: CoreId, who: Who, limits: &Limits) -> Option<Limit> {
        let total = self.change(from, who, |share| {
            share.connections = share.connections.saturating_add(1);
            share.unproven = share.unproven.saturating_add(1);
        });
        if total.connections > limits.peers_per_address_max {
            Some(Limit::ConnectionsPerAddress)
        } else if total.unproven > limits.unproven_per_address_max {
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

    /// One session more, unless there are `max` already; 0 is any number.
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

    /// What a core says it has takes the place of what it said before.
    pub(crate) fn restore(&mut self, from: CoreId, who: Who, all: Share) {
        self.change(from, who, |share| *share = all);
    }

    /// A core is gone with all it had. Returns those of whom something is less now.
    pub(crate) fn forget_core(&mut self, index: usize) -> Vec<Who> {
        let Some(part) = self.parts.get_mut(index).map(|part| part.drain().collect::<Vec<_>>()) else {
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
        let entry = part.entry(who).or_default();
        let before = *entry;
        change(entry);
        let now = *entry;
        if now.is_empty() {
            part.remove(&who);
        }
        let total = self.totals.entry(who).or_default();
        total.sub(before);
        total.add(now);
        let total = *total;
        if total.is_empty() {
            self.totals.remove(&who);
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

    /// One failure more. Until when its author is banned, if it is the one too many; told once a window.
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

/// Who is refused by this core for a while.
#[derive(Debug)]
pub(crate) struct Bans {
    until: Table<(Who, Offence), Instant>,
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

    /// Those that hold, the oldest first.
    fn all(&self, now: Instant) -> Vec<(Who, Offence, Instant)> {
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

impl Core {
    /// Tells the core that counts `who`; nobody, while that core is down: it will be told when it is up.
    pub(super) fn tally(&mut self, who: Who, tally: Tally, fx: &mut Effects) {
        if let Some(counter) = self.running(who.counter(self.cores.len())) {
            let from = self.me;
            self.post(Message::Tally { counter, from, who, tally }, fx);
        }
    }

    /// The present life of the core at a position.
    pub(super) fn running(&self, index: usize) -> Option<CoreId> {
        let incarnation = self.cores.get(index).copied().flatten()?;
        Some(CoreId { index: u16::try_from(index).ok()?, incarnation })
    }

    fn all_running(&self) -> Vec<CoreId> {
        (0..self.cores.len()).filter_map(|index| self.running(index)).collect()
    }
}

impl Relay {
    pub(super) fn on_tally(&mut self, from: CoreId, who: Who, tally: Tally, fx: &mut Effects) {
        let core = &mut self.core;
        match tally {
            Tally::Connected(peer) => {
                if let Some(limit) = core.register.connected(from, who, &core.settings.limits) {
                    core.post(Message::Excess { peer, limit }, fx);
                }
                let is_first = core.register.knows_one_of_many(from, who);
                self.tell_newcomers(who, is_first.then_some(from), fx);
            }
            Tally::Proven => {
                core.register.proven(from, who);
                self.tell_newcomers(who, None, fx);
            }
            Tally::Disconnected { proven } => {
                core.register.disconnected(from, who, proven);
                self.tell_newcomers(who, None, fx);
            }
            Tally::Claim { peer, ticket } => {
                let granted = core.register.claim(from, who, core.settings.limits.sessions_per_user_max);
                let counter = granted.then_some(self.core.me);
                self.core.post(Message::Claimed { peer, ticket, who, granted, counter }, fx);
                // After that: the core that asked has a bucket for the user only now.
                self.tell_share(who, fx);
            }
            Tally::Released => {
                core.register.released(from, who);
                self.tell_share(who, fx);
            }
            Tally::Failed { offence, culprit } => {
                let failed = core.register.failed(who, offence, &core.settings.limits, core.now);
                if let Some(until) = failed {
                    core.count_limit(limit_of(who, offence));
                    for to in core.all_running() {
                        let culprit = Some(culprit);
                        core.post(Message::Ban { core: to, who, offence, until, culprit }, fx);
                    }
                }
            }
            Tally::Restore(share) => {
                core.register.restore(from, who, share);
                self.tell_share(who, fx);
                // What it was told by the counter before this one may be out of date.
                self.tell_newcomers(who, Some(from).filter(|_| share.unproven > 0), fx);
            }
        }
    }

    /// About how many connections an address has that have proven nothing, to the cores that have some: it decides who
    /// makes room there. To all of them if that is news, else to `asker` alone.
    pub(super) fn tell_newcomers(&mut self, who: Who, asker: Option<CoreId>, fx: &mut Effects) {
        let core = &mut self.core;
        let Who::Address(source) = who else {
            return;
        };
        // A core that is alone knows it all.
        if core.cores.len() == 1 {
            return;
        }
        let cores = match core.register.news(who) {
            Some(_) => core.register.cores_with_newcomers(who),
            None => asker.map(|core| usize::from(core.index)).into_iter().collect(),
        };
        let count = core.register.unproven(who);
        for index in cores {
            if let Some(to) = core.running(index) {
                core.post(Message::Newcomers { core: to, source, count }, fx);
            }
        }
    }

    /// How many sessions a user has, to the cores that have some: they divide the user's rate.
    pub(super) fn tell_share(&mut self, who: Who, fx: &mut Effects) {
        let Who::User(user) = who else {
            return;
        };
        if self.core.settings.limits.octets_per_second_per_user_max == 0 {
            return;
        }
        let (cores, sessions) = self.core.register.sessions(who);
        for index in cores {
            if let Some(core) = self.core.running(index) {
                self.core.post(Message::Share { core, user, sessions }, fx);
            }
        }
    }

    /// A core is new. If it counts, it is told what this core has, and asked again what it was asked
    /// before it could hear; and it is told who is banned.
    pub(super) fn restore(&mut self, core: CoreId, fx: &mut Effects) {
        let index = usize::from(core.index);
        let cores = self.core.cores.len();
        self.tell_all(|who| who.counter(cores) == index, fx);
        self.claim_again(index, fx);
        // All know the same bans; one of them tells.
        let teller = (0..cores).find(|other| *other != index && self.core.running(*other).is_some());
        if teller != Some(usize::from(self.core.me.index)) {
            return;
        }
        for (who, offence, until) in self.core.bans.all(self.core.now) {
            let culprit = None;
            self.core.post(Message::Ban { core, who, offence, until, culprit }, fx);
        }
    }

    /// Tells whoever counts them all that this core has of those who are meant.
    pub(super) fn tell_all(&mut self, is_meant: impl Fn(&Who) -> bool, fx: &mut Effects) {
        let of_session = |user| (Who::User(user), Share { connections: 0, unproven: 0, sessions: 1 });
        let of_sessions = self.sessions.counted().map(of_session);
        let mut shares: Vec<(Who, Share)> =
            self.peers.values().flat_map(Peer::shares).chain(of_sessions).collect();
        shares.retain(|(who, _)| is_meant(who));
        shares.sort_unstable_by_key(|(who, _)| match who {
            Who::Address(AddressKey(octets)) => (0, u128::from(*octets)),
            Who::User(UserKey(digest)) => (1, *digest),
        });
        for same in shares.chunk_by(|(a, _), (b, _)| a == b) {
            let Some((who, _)) = same.first() else { continue };
            let mut all = Share::default();
            same.iter().for_each(|(_, share)| all.add(*share));
            self.core.tally(*who, Tally::Restore(all), fx);
        }
    }

    /// Somebody is banned. The core that has the connection which went too far says so in the log: it
    /// alone knows its address, and the name that was tried there.
    pub(super) fn on_ban(
        &mut self,
        (who, offence): (Who, Offence),
        until: Instant,
        culprit: Option<PeerRef>,
        fx: &mut Effects,
    ) {
        self.core.bans.add(who, offence, until, self.core.now);
        let Some(culprit) = culprit.filter(|culprit| culprit.core == self.core.me) else {
            return;
        };
        let auth = self.peers.get(culprit.key).and_then(|peer| peer.auth.as_ref());
        let user = match who {
            Who::Address(_) => None,
            Who::User(_) => auth.and_then(|auth| auth.user_name()).map(str::to_owned),
        };
        let (limit, peer) = (limit_of(who, offence), Some(culprit.key));
        fx.event(Event::LimitReached { limit, peer, user });
    }
}

fn limit_of(who: Who, offence: Offence) -> Limit {
    match (offence, who) {
        (Offence::Auth, Who::Address(_)) => Limit::AuthFailuresPerAddress,
        (Offence::Auth, Who::User(_)) | (Offence::AuthBehind, _) => Limit::AuthFailuresPerUser,
        (Offence::Dial, _) => Limit::DialFailuresPerUser,
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

    fn register() -> Register {
        Register::new(3, &mut Entropy::new([5; 32]))
    }

    // S10: a subscriber has a /56, not an address.
    #[test]
    fn addresses_of_one_ipv6_network_are_one_and_mapped_ones_are_ipv4() {
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:2"));
        assert_eq!(address("2001:db8:0:1::1"), address("2001:db8:0:ff::1"));
        assert_ne!(address("2001:db8:0:1::1"), address("2001:db8:0:100::1"));
        assert_ne!(address("2001:db8::1"), address("2001:db9::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
        // All of IPv4 behind a translator is not one source, nor is a tunnel many.
        assert_eq!(address("64:ff9b::192.0.2.1"), address("192.0.2.1"));
        assert_eq!(address("2002:c000:201:9999::1"), address("192.0.2.1"));
        assert_ne!(address("::1"), address("192.0.2.1"));
    }

    // A core is told of what others have: to within a quarter, and every time while that is one or two.
    #[test]
    fn news_of_newcomers_are_few_and_never_far_from_the_truth() {
        let limits =
            Limits { unproven_per_address_max: 10_000, peers_per_address_max: 10_000, ..Limits::default() };
        let (mut register, who) = (register(), address("192.0.2.1"));
        let (mut believed, mut words) = (1, 0);
        let mut look = |register: &mut Register| {
            if let Some(news) = register.news(who) {
                (believed, words) = (news, words + 1);
            }
            let truth = register.unproven(who);
            assert!(truth <= 1 || truth.abs_diff(believed) <= truth / 3 + 1, "{believed} for {truth}");
        };
        for n in 0..1000 {
            register.connected(core(n % 2), who, &limits);
            look(&mut register);
        }
        assert_eq!(register.cores_with_newcomers(who), [0, 1]);
        assert_eq!(register.connected(core(2), who, &limits), None);
        assert!(register.knows_one_of_many(core(2), who));
        register.proven(core(2), who);
        for n in 0..1000 {
            register.disconnected(core(n % 2), who, false);
            look(&mut register);
        }
        assert!((10..100).contains(&words), "{words}");
        register.disconnected(core(2), who, true);
        assert_eq!((register.len(), register.told_len()), (0, 0));
    }

    #[test]
    fn users_of_one_name_in_two_realms_are_two() {
        assert_ne!(UserKey::new("a", "bc"), UserKey::new("ab", "c"));
        assert_eq!(UserKey::new("alice", "example.com"), UserKey::new("alice", "example.com"));
    }

    // S10: connections of all cores together.
    #[test]
    fn connections_are_counted_over_all_cores_and_given_back() {
        let limits = Limits { peers_per_address_max: 3, unproven_per_address_max: 2, ..Limits::default() };
        let (mut register, who) = (register(), address("192.0.2.1"));
        assert_eq!(register.connected(core(0), who, &limits), None);
        assert_eq!(register.connected(core(1), who, &limits), None);
        assert_eq!(register.connected(core(2), who, &limits), Some(Limit::UnauthenticatedPerAddress));
        register.proven(core(0), who);
        register.proven(core(1), who);
        assert_eq!(register.connected(core(2), who, &limits), Some(Limit::ConnectionsPerAddress));
        assert_eq!(register.connected(core(2), address("192.0.2.2"), &limits), None);
        register.disconnected(core(2), address("192.0.2.2"), false);
        register.forget_core(2);
        assert_eq!(register.connected(core(1), who, &limits), None);
        register.disconnected(core(1), who, false);
        register.disconnected(core(1), who, true);
        register.disconnected(core(0), who, true);
        assert_eq!(register.len(), 0);
    }

    #[test]
    fn what_a_core_restores_replaces_what_it_said_before() {
        let (mut register, who) = (register(), address("192.0.2.1"));
        let share = Share { connections: 2, unproven: 1, sessions: 0 };
        register.restore(core(0), who, share);
        register.restore(core(0), who, share);
        register.disconnected(core(0), who, true);
        register.disconnected(core(0), who, false);
        assert_eq!(register.len(), 0);
    }

    #[test]
    fn sessions_of_a_user_are_granted_up_to_the_limit() {
        let (mut register, who) = (register(), Who::User(UserKey::new("alice", "example.com")));
        assert!(register.claim(core(0), who, 2));
        assert!(register.claim(core(1), who, 2));
        assert!(!register.claim(core(2), who, 2));
        assert_eq!(register.sessions(who), (vec![0, 1], 2));
        assert!(register.claim(core(2), who, 0), "0 is any number");
        register.released(core(2), who);
        register.released(core(0), who);
        assert!(register.claim(core(2), who, 2));
        assert_eq!(register.forget_core(2), [who]);
    }

    // A ban is told once, holds to the end of its window, and another window begins with the next failure.
    #[test]
    fn the_failure_that_is_one_too_many_bans_until_the_window_ends() {
        let limits = Limits { auth_failures_per_address_max: 3, ..Limits::default() };
        let (mut register, who, start) = (register(), address("192.0.2.1"), Instant::now());
        let mut fail =
            |seconds| register.failed(who, Offence::Auth, &limits, start + Duration::from_secs(seconds));
        assert_eq!([fail(0), fail(10)], [None, None]);
        let until = fail(20).unwrap();
        assert_eq!(until, start + limits.failure_window);
        assert_eq!(fail(30), None);
        assert_eq!([fail(300), fail(301)], [None, None]);
        assert_eq!(fail(302), Some(start + 2 * limits.failure_window));

        let mut bans = Bans::new(&mut Entropy::new([6; 32]));
        bans.add(who, Offence::Auth, until, start);
        assert!(bans.is_banned(who, Offence::Auth, start));
        assert!(!bans.is_banned(who, Offence::Dial, start));
        assert!(!bans.is_banned(who, Offence::Auth, until));
    }

    #[test]
    fn failures_and_bans_that_are_remembered_are_bounded() {
        let limits = Limits::default();
        let (mut register, now) = (register(), Instant::now());
        let mut bans = Bans::new(&mut Entropy::new([7; 32]));
        for n in 0..u32::try_from(REMEMBERED_MAX).unwrap() + 1000 {
            let who = Who::Address(AddressKey(u64::from(n)));
            register.failed(who, Offence::Auth, &limits, now);
            bans.add(who, Offence::Auth, now + Duration::from_secs(1), now);
        }
        assert!(register.failures.len() <= REMEMBERED_MAX && register.ends.len() <= REMEMBERED_MAX);
        assert!(bans.until.len() <= REMEMBERED_MAX && bans.order.len() <= REMEMBERED_MAX);
        let later = now + Duration::from_secs(1000);
        register.failed(address("192.0.2.1"), Offence::Auth, &limits, later);
        assert_eq!((register.failures.len(), register.ends.len()), (1, 1));
        bans.add(address("192.0.2.1"), Offence::Auth, later + Duration::from_secs(1), later);
        assert_eq!((bans.until.len(), bans.order.len()), (1, 1));
        assert_eq!(bans.all(later).len(), 1);
        bans.add(address("192.0.2.1"), Offence::Auth, later + Duration::from_secs(9), later);
        assert_eq!(bans.all(later).len(), 1, "the later one counts");
        assert_eq!(bans.all(later + Duration::from_secs(9)).len(), 0);
    }

    // Neither all at one core, nor elsewhere for others: who counts must not be everybody's bottleneck.
    #[test]
    fn counting_is_spread_over_all_cores() {
        let mut counts = [[0; 4]; 2];
        for n in 0..=255_u8 {
            counts[0][address(&format!("192.0.2.{n}")).counter(4)] += 1;
            counts[1][Who::User(UserKey::new(&n.to_string(), "example.com")).counter(4)] += 1;
        }
        assert!(counts.iter().flatten().all(|count| (32..=96).contains(count)), "{counts:?}");
    }
}
