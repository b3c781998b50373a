//! Some cores' relays and their connections, driven as a runtime would drive them, and what must hold all the time.
//!
//! This is the one place that calls [`Relay`].

use core::net::IpAddr;
use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::far_end::{FarEnd, Messages, Sent, Wish};
use crate::fuzz::trace;
use crate::proto::digest::{Algorithm, Ha1};
use crate::proto::parser::{Parser, ParserLimits, Piece};
use crate::relay::{
    CoreId, Effect, Effects, HEAD_OVERHEAD, Input, Limits, LookUpAnswer, LookUpTicket, Message, OutBatch,
    PeerKey, Relay, Settings, TableSizes, Target, Transport, WriteState,
};

/// The name of the relay.
pub(super) const HOST: &str = "relay.example.com";
/// Where it listens.
pub(super) const PORT: u16 = 2855;
/// Whose users it knows.
pub(super) const DOMAIN: &str = "example.com";
/// Octets of one read.
const READ_MAX: usize = 16 << 10;
/// Frames that one read may hold at most, the shortest there are.
const FRAMES_PER_READ: usize = READ_MAX / 40;
/// Connections a conversation may have.
const LINKS_MAX: usize = 24;

/// One connection, with both its ends.
pub(super) struct Link {
    pub(super) core: usize,
    key: PeerKey,
    pub(super) end: FarEnd,
    /// Sent by the far end, not read yet.
    pub(super) wire: Vec<u8>,
    /// Read, not parsed yet.
    unparsed: Vec<u8>,
    parser: Parser,
    /// Written by the relay, not taken by the far end yet.
    unwritten: Vec<u8>,
    paused: bool,
    awake: bool,
    closing: bool,
    /// The far end sends no more.
    ended: bool,
    /// The relay has written its last.
    finished: bool,
    pub(super) gone: bool,
    /// Octets that are no frame of ours have been sent on it.
    pub(super) wild: bool,
    /// The far end is in the midst of a frame, so it answers nobody.
    pub(super) in_frame: bool,
}

struct Core {
    relay: Option<Relay>,
    incarnation: u16,
    stopping: bool,
}

pub(super) struct Dial {
    core: usize,
    key: PeerKey,
    pub(super) target: Target,
}

struct LookUp {
    core: usize,
    ticket: LookUpTicket,
    user: String,
    realm: String,
    algorithm: Algorithm,
}

/// What the accounts say.
#[derive(Clone, Copy)]
pub(super) enum Accounts {
    Truth,
    Unknown,
    Unavailable,
}

/// What happens without being asked for.
#[derive(Clone, Copy)]
pub(super) struct Habits {
    pub(super) deliver: bool,
    pub(super) look_up: bool,
    pub(super) dial: bool,
    pub(super) answer: bool,
}

pub(super) struct World {
    now: Instant,
    cores: Vec<Core>,
    pub(super) links: Vec<Link>,
    lanes: BTreeMap<(usize, usize), VecDeque<Message>>,
    pub(super) dials: Vec<Dial>,
    look_ups: Vec<LookUp>,
    pub(super) messages: Messages,
    pub(super) habits: Habits,
    settings: Settings,
    out: OutBatch,
    seeds: u8,
}

/// A relay's settings, chosen by two octets.
pub(super) fn settings(cores: u16, limits: u8, choices: u8) -> Settings {
    let is_set = |bit: u8| choices & (1 << bit) != 0;
    Settings {
        hostname: HOST.to_owned(),
        realm: is_set(0).then(|| DOMAIN.to_owned()),
        domains: is_set(1).then(|| vec![DOMAIN.to_owned()]),
        ports: vec![PORT],
        cores,
        algorithms: if is_set(2) { vec![Algorithm::Sha256, Algorithm::Md5] } else { vec![Algorithm::Md5] },
        challenge_lifetime: Duration::from_secs(15),
        attempts_max: 3,
        insecure_plain: is_set(3),
        expires_seconds_min: 60,
        expires_seconds_default: 600,
        expires_seconds_max: 3600,
        enforce_default: is_set(4),
        allow_other_methods: !is_set(5),
        dial_plain: !is_set(6),
        limits: Limits {
            queue_octets_high: 54 << 10,
            queue_octets_low: 27 << 10,
            queue_octets_total: if is_set(7) { usize::from(cores) * (80 << 10) } else { 1 << 30 },
            flush_octets_max: [3 << 10, 8 << 10, 128 << 10][usize::from(limits % 3)],
            transactions_per_peer_max: [4, 16, 4096][usize::from(limits / 3 % 3)],
            peers_max: if limits & 128 != 0 { 4 } else { 64 },
            sessions_per_user_max: u32::from(limits / 9 % 3),
            octets_per_second_per_user_max: if limits / 9 % 3 == 2 { 20_000 } else { 0 },
            peers_per_address_max: if limits & 64 != 0 { 3 } else { 1024 },
            unproven_per_address_max: if limits & 64 != 0 { 2 } else { 256 },
            auth_failures_per_user_max: if limits & 32 != 0 { 2 } else { 100 },
            auth_failures_per_address_max: if limits & 32 != 0 { 4 } else { 100 },
            dial_failures_per_user_max: if limits & 32 != 0 { 2 } else { 100 },
            ..Limits::default()
        },
    }
}

/// What a user's account holds.
pub(super) fn password(user: &str) -> String {
    format!("secret of {user}")
}

impl World {
    pub(super) fn new(settings: Settings, habits: Habits) -> Self {
        let mut world = Self {
            now: Instant::now(),
            cores: Vec::new(),
            links: Vec::new(),
            lanes: BTreeMap::new(),
            dials: Vec::new(),
            look_ups: Vec::new(),
            messages: Messages::default(),
            habits,
            settings,
            out: OutBatch::new(),
            seeds: 0,
        };
        for index in 0..world.settings.cores {
            let relay = Some(world.new_relay(index, 0));
            world.cores.push(Core { relay, incarnation: 0, stopping: false });
        }
        world
    }

    fn new_relay(&mut self, index: u16, incarnation: u16) -> Relay {
        self.seeds += 1;
        Relay::new(CoreId { index, incarnation }, self.settings.clone(), [self.seeds; 32], self.now)
    }

    pub(super) fn core_count(&self) -> usize {
        self.cores.len()
    }

    // -- connections ---------------------------------------------------------------------------

    /// Somebody connects, from one of three addresses. `None`: too many, or nobody listens.
    pub(super) fn connect(&mut self, core: usize, secure: bool) -> Option<usize> {
        let number = self.links.len();
        let entry = self.cores.get_mut(core).filter(|core| !core.stopping)?;
        let relay = entry.relay.as_mut().filter(|_| number < LINKS_MAX)?;
        let address = IpAddr::from([198, 51, 100, 1 + (number % 3) as u8]);
        let mut fx = Effects::new();
        let key = relay.accept(self.now, Transport { secure, port: PORT }, address, &mut fx).ok();
        let uri = format!("msrps://198.51.100.23:{}/end{number};tcp", 40_000 + number);
        let link = key.map(|key| self.add_link(core, key, uri));
        self.apply(core, fx);
        link
    }

    fn add_link(&mut self, core: usize, key: PeerKey, uri: String) -> usize {
        self.links.push(Link {
            core,
            key,
            end: FarEnd::new(uri),
            wire: Vec::new(),
            unparsed: Vec::new(),
            parser: Parser::new(ParserLimits::default()),
            unwritten: Vec::new(),
            paused: false,
            awake: false,
            closing: false,
            ended: false,
            finished: false,
            gone: false,
            wild: false,
            in_frame: false,
        });
        self.links.len() - 1
    }

    /// Links that are still there.
    pub(super) fn live(&self) -> Vec<usize> {
        (0..self.links.len()).filter(|link| !self.links[*link].gone).collect()
    }

    /// A connection breaks off.
    pub(super) fn lose(&mut self, link: usize) {
        let link = &mut self.links[link];
        if mem::replace(&mut link.gone, true) {
            return;
        }
        let (core, peer) = (link.core, link.key);
        self.input(core, Input::Lost { peer });
    }

    /// The far end has sent its last; once that is read, the relay hears of it.
    pub(super) fn end(&mut self, number: usize) {
        while self.read(number, READ_MAX) {}
        let link = &mut self.links[number];
        if link.gone || link.closing || !link.wire.is_empty() || mem::replace(&mut link.ended, true) {
            return;
        }
        let (core, peer) = (link.core, link.key);
        self.input(core, Input::Ended { peer });
    }

    /// One read of at most `octets`, and all that follows from it on its core.
    pub(super) fn read(&mut self, number: usize, octets: usize) -> bool {
        let link = &mut self.links[number];
        if link.gone || link.paused || link.closing || link.ended || link.wire.is_empty() {
            return false;
        }
        let octets = octets.min(READ_MAX).min(link.wire.len());
        link.unparsed.extend_from_slice(&link.wire[..octets]);
        link.wire.drain(..octets);
        let (core, peer) = (link.core, link.key);
        let mut unparsed = mem::take(&mut link.unparsed);
        let mut at = 0;
        // Like a runtime, what has been read is fed, though the relay says Pause meanwhile.
        while !self.links[number].gone && !self.links[number].closing {
            let input = match self.links[number].parser.step(&unparsed[at..]) {
                Ok(None) => break,
                Err(_) => Input::Unparseable { peer },
                Ok(Some(step)) => {
                    let octets = Bytes::copy_from_slice(&unparsed[at..at + step.consumed]);
                    at += step.consumed;
                    match step.piece {
                        Piece::Head(head) => Input::Head { peer, head, octets },
                        Piece::Body(_) => Input::Body { peer, octets },
                        Piece::End(flag) => Input::End { peer, flag },
                    }
                }
            };
            self.input(core, input);
        }
        unparsed.drain(..at);
        self.links[number].unparsed = unparsed;
        true
    }

    /// The far end takes at most `octets`; the relay is asked for more when it has taken all.
    pub(super) fn write(&mut self, number: usize, octets: usize) -> bool {
        let mut room = octets;
        let mut progress = false;
        loop {
            let link = &mut self.links[number];
            if link.gone {
                return progress;
            }
            let taken = link.unwritten.len().min(room);
            if taken > 0 {
                progress = true;
                room -= taken;
                trace(|| format!("  {number} receives {}", link.unwritten[..taken].escape_ascii()));
                link.end.receive(&link.unwritten[..taken], &mut self.messages);
                link.unwritten.drain(..taken);
            }
            if !link.unwritten.is_empty() {
                return progress;
            }
            if link.finished {
                self.lose(number);
                return true;
            }
            if !link.awake || room == 0 {
                return progress;
            }
            progress = true;
            self.poll_write(number);
        }
    }

    fn poll_write(&mut self, number: usize) {
        let (core, key) = (self.links[number].core, self.links[number].key);
        let Some(relay) = &mut self.cores[core].relay else {
            return;
        };
        let mut fx = Effects::new();
        self.out.clear();
        let state = relay.poll_write(self.now, key, &mut self.out, &mut fx);
        let link = &mut self.links[number];
        self.out.parts().for_each(|part| link.unwritten.extend_from_slice(part));
        assert_eq!(link.unwritten.len(), self.out.len());
        link.awake = !self.out.is_empty();
        link.finished = state == WriteState::Finished;
        assert!(!link.finished || link.closing, "finished without having been closed");
        self.apply(core, fx);
    }

    // -- cores ---------------------------------------------------------------------------------

    fn input(&mut self, core: usize, input: Input) {
        let Some(relay) = &mut self.cores[core].relay else {
            return;
        };
        let mut fx = Effects::new();
        trace(|| {
            format!("  core {core} hears {}", format!("{input:?}").chars().take(90).collect::<String>())
        });
        relay.handle(self.now, input, &mut fx);
        self.apply(core, fx);
    }

    fn apply(&mut self, core: usize, fx: Effects) {
        for (to, messages) in fx.parcels {
            assert_ne!(usize::from(to.index), core, "a parcel to oneself");
            self.lanes.entry((core, usize::from(to.index))).or_default().extend(messages);
        }
        for effect in fx.list {
            self.apply_one(core, effect);
        }
    }

    fn apply_one(&mut self, core: usize, effect: Effect) {
        trace(|| format!("  core {core}: {effect:?}"));
        match effect {
            Effect::Wake(key) => self.with_link(core, key, |link| link.awake = true),
            Effect::Pause(key) => self.with_link(core, key, |link| {
                assert!(!mem::replace(&mut link.paused, true), "paused twice");
            }),
            Effect::Resume(key) => self.with_link(core, key, |link| {
                assert!(mem::replace(&mut link.paused, false), "resumed twice");
            }),
            Effect::Close { peer, .. } => {
                if let Some(at) = self.dials.iter().position(|dial| dial.core == core && dial.key == peer) {
                    self.dials.remove(at);
                    return self.input(core, Input::Lost { peer });
                }
                self.with_link(core, peer, |link| {
                    link.closing = true;
                    link.awake = true;
                });
            }
            Effect::Connect { peer, target } => self.dials.push(Dial { core, key: peer, target }),
            Effect::LookUp { ticket, user, realm, algorithm } => {
                self.look_ups.push(LookUp { core, ticket, user, realm, algorithm });
            }
            Effect::Event(event) => assert!(!format!("{event:?}").is_empty()),
        }
    }

    fn with_link(&mut self, core: usize, key: PeerKey, act: impl FnOnce(&mut Link)) {
        // An effect may name a connection that broke off in the same turn.
        if let Some(link) =
            self.links.iter_mut().find(|link| link.core == core && link.key == key && !link.gone)
        {
            act(link);
        }
    }

    /// A dial comes to its end.
    pub(super) fn finish_dial(&mut self, at: usize, up: bool) {
        if at >= self.dials.len() {
            return;
        }
        let Dial { core, key: peer, target } = self.dials.remove(at);
        if up && self.links.len() < 2 * LINKS_MAX {
            let scheme = if target.secure { "msrps" } else { "msrp" };
            self.add_link(core, peer, format!("{scheme}://{}:{}/far;tcp", target.host, target.port));
            self.input(core, Input::Connected { peer });
        } else {
            self.input(core, Input::DialFailed { peer });
        }
    }

    /// The accounts answer.
    pub(super) fn finish_look_up(&mut self, at: usize, accounts: Accounts) {
        if at >= self.look_ups.len() {
            return;
        }
        let LookUp { core, ticket, user, realm, algorithm } = self.look_ups.remove(at);
        let known = ["alice", "bob", "carol"].contains(&user.as_str());
        let answer = match accounts {
            Accounts::Truth if known => {
                LookUpAnswer::Found(Ha1::new(algorithm, &user, &realm, &password(&user)))
            }
            Accounts::Truth | Accounts::Unknown => LookUpAnswer::Unknown,
            Accounts::Unavailable => LookUpAnswer::Unavailable,
        };
        self.input(core, Input::LookedUp { ticket, answer });
    }

    pub(super) fn look_up_count(&self) -> usize {
        self.look_ups.len()
    }

    /// Hands over at most `count` messages of one of the lanes that hold any.
    pub(super) fn deliver(&mut self, lane: usize, count: usize) -> bool {
        let lanes: Vec<_> = self.lanes.iter().filter(|(_, queue)| !queue.is_empty()).collect();
        if lanes.is_empty() {
            return false;
        }
        let lane = *lanes[lane % lanes.len()].0;
        for _ in 0..count {
            let Some(message) = self.lanes.get_mut(&lane).and_then(VecDeque::pop_front) else {
                break;
            };
            self.input(lane.1, Input::Message(message));
        }
        true
    }

    /// Time passes; with `ticks`, the relays hear of each deadline when it comes, else of all of them late.
    pub(super) fn age(&mut self, by: Duration, ticks: bool) {
        let until = self.now + by;
        for _ in 0..1000 {
            let deadlines = self.cores.iter().filter_map(|core| core.relay.as_ref()?.next_deadline());
            let Some(at) = deadlines.min().filter(|at| ticks && *at <= until) else {
                break;
            };
            self.now = self.now.max(at);
            self.tick();
            self.run();
        }
        self.now = until;
        self.tick();
    }

    /// Time passes and nobody notices yet.
    pub(super) fn age_unnoticed(&mut self, by: Duration) {
        self.now += by;
    }

    /// Each relay hears of the time until nothing is due any more, which must be soon: what one deadline brings
    /// about may have been due already, but not for ever.
    fn tick(&mut self) {
        for core in 0..self.cores.len() {
            let due = |world: &Self| {
                let relay = world.cores[core].relay.as_ref();
                relay.and_then(Relay::next_deadline).is_some_and(|at| at <= world.now)
            };
            self.input(core, Input::Tick);
            for _ in 0..4 {
                if due(self) {
                    self.input(core, Input::Tick);
                }
            }
            assert!(!due(self), "something is due for ever");
        }
    }

    /// A core stops in order, at once or as soon as it is told again.
    pub(super) fn shut_down(&mut self, core: usize, at_once: bool) {
        if !mem::replace(&mut self.cores[core].stopping, true) {
            self.input(core, Input::Quiesce);
            if !at_once {
                return;
            }
        }
        self.input(core, Input::Shutdown);
    }

    /// A core dies with all it owns; what it sent last arrives before the news or is lost.
    pub(super) fn kill(&mut self, index: usize, again: bool, last_words: bool) {
        let lanes: Vec<_> = self.lanes.keys().copied().filter(|(from, _)| *from == index).collect();
        for lane in lanes {
            for message in self.lanes.remove(&lane).into_iter().flatten() {
                if last_words {
                    self.input(lane.1, Input::Message(message));
                }
            }
        }
        self.links.iter_mut().filter(|link| link.core == index).for_each(|link| link.gone = true);
        self.dials.retain(|dial| dial.core != index);
        self.look_ups.retain(|look_up| look_up.core != index);
        self.cores[index].relay = None;
        let position = u16::try_from(index).unwrap();
        if again && !self.cores[index].stopping {
            let incarnation = self.cores[index].incarnation + 1;
            let relay = Some(self.new_relay(position, incarnation));
            self.cores[index] = Core { relay, incarnation, stopping: false };
        }
        for core in (0..self.cores.len()).filter(|core| *core != index) {
            let running = self.running(index);
            self.input(core, Input::CoreChanged { index: position, running });
            // The newcomer learns which of the others are in a later life than their first.
            let change =
                Input::CoreChanged { index: u16::try_from(core).unwrap(), running: self.running(core) };
            self.input(index, change);
        }
    }

    fn running(&self, core: usize) -> Option<u16> {
        let core = &self.cores[core];
        core.relay.as_ref().map(|_| core.incarnation)
    }

    // -- running -------------------------------------------------------------------------------

    /// What happens by habit.
    pub(super) fn run_habits(&mut self) -> bool {
        let mut progress = false;
        while self.habits.deliver && self.deliver(0, usize::MAX) {
            progress = true;
        }
        while self.habits.look_up && !self.look_ups.is_empty() {
            self.finish_look_up(0, Accounts::Truth);
            progress = true;
        }
        while self.habits.dial && !self.dials.is_empty() {
            self.finish_dial(0, true);
            progress = true;
        }
        for link in 0..self.links.len() {
            while self.habits.answer && self.answer(link, 0, 200) {
                progress = true;
            }
        }
        progress
    }

    /// An end answers one of the requests that it has received.
    pub(super) fn answer(&mut self, link: usize, which: usize, code: u16) -> bool {
        let link = &mut self.links[link];
        if link.in_frame {
            return false;
        }
        let count = link.end.pending.len();
        let Some(request) = link.end.pending.remove(which % count.max(1)) else {
            return false;
        };
        if request.wants(code) {
            trace(|| format!("  {} answers {code} to {}", link.end.uri, request.tid.escape_ascii()));
            link.wire.extend(request.response(code));
        }
        true
    }

    /// Goes on until nothing more happens by itself.
    pub(super) fn run(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "it goes round in circles");
            let mut progress = false;
            for link in 0..self.links.len() {
                progress |= self.read(link, READ_MAX);
            }
            while self.deliver(0, usize::MAX) {
                progress = true;
            }
            for link in 0..self.links.len() {
                progress |= self.write(link, usize::MAX);
            }
            progress |= self.run_habits();
            if !progress {
                return;
            }
        }
    }

    // -- what must hold ------------------------------------------------------------------------

    /// What holds after every step.
    pub(super) fn check(&self) {
        let parcels: usize = self.lanes.values().map(VecDeque::len).sum();
        for (index, core) in self.cores.iter().enumerate() {
            let Some(relay) = &core.relay else { continue };
            let sizes = relay.table_sizes();
            let links = self.links.iter().filter(|link| link.core == index && !link.gone).count();
            let dials = self.dials.iter().filter(|dial| dial.core == index).count();
            assert_eq!(sizes.peers, links + dials, "connections and their entries");
            let Limits { peers_max, transactions_per_peer_max, queue_octets_high, .. } = self.settings.limits;
            assert!(sizes.peers <= peers_max, "{sizes:?}");
            // Two URIs that live, and those that expired of late.
            assert!(sizes.sessions <= 4 * links, "{sizes:?}");
            assert_eq!(relay.stats().sessions_open(), sizes.sessions as u64);
            // Awaited and unlikely ones have a bound each.
            let most = links * (2 * transactions_per_peer_max + 2);
            assert!(sizes.transactions <= most, "{sizes:?}");
            let most = links * (transactions_per_peer_max + FRAMES_PER_READ) + parcels + self.links.len();
            assert!(sizes.unanswered <= most, "{sizes:?}");
            // Octets of connections that are gone may be queued at others.
            let ever = self.links.iter().filter(|link| link.core == index).count();
            let most = ever * (queue_octets_high + READ_MAX + FRAMES_PER_READ * HEAD_OVERHEAD);
            assert!(sizes.octets_queued <= most, "{sizes:?}");
        }
    }

    fn sizes(&self) -> impl Iterator<Item = TableSizes> {
        self.cores.iter().filter_map(|core| core.relay.as_ref()).map(Relay::table_sizes)
    }

    /// Everybody reads and answers, time passes: nothing may be left to wait for. Connections that ended in the
    /// midst of nowhere are broken off first.
    pub(super) fn settle(&mut self) {
        trace(|| "settling".to_owned());
        self.habits = Habits { deliver: true, look_up: true, dial: true, answer: true };
        for link in 0..self.links.len() {
            if self.links[link].wild {
                self.lose(link);
            }
        }
        for core in 0..self.cores.len() {
            if self.cores[core].stopping {
                self.shut_down(core, true);
            }
        }
        for _ in 0..60 {
            self.run();
            self.check();
            if self.waiting().is_none() {
                break;
            }
            self.age(Duration::from_secs(31), true);
        }
        assert_eq!(self.waiting(), None, "something waits for ever");
        for link in self.links.iter().filter(|link| !link.gone && !link.closing && !link.ended) {
            let forgotten = |sent: &&Sent| sent.wish == Wish::Answer && !sent.answered;
            let forgotten = link.end.sent.values().filter(forgotten).count();
            assert!(self.messages.garbled || forgotten == 0, "{forgotten} requests were never answered");
        }
    }

    /// What waits for something: a core's queues and tables, or a connection that is not read.
    fn waiting(&self) -> Option<String> {
        let is_busy = |s: &TableSizes| (s.transactions, s.unanswered, s.octets_queued) != (0, 0, 0);
        if let Some(sizes) = self.sizes().find(is_busy) {
            return Some(format!("{sizes:?}"));
        }
        let unread = |link: &&Link| {
            let is_read = !link.gone && !link.closing && !link.ended;
            is_read && (!link.wire.is_empty() || !link.unparsed.is_empty())
        };
        self.links.iter().find(unread).map(|link| format!("{} is not read", link.end.uri))
    }

    /// Everything ends: nothing may be left.
    pub(super) fn close_all(&mut self) {
        self.habits = Habits { deliver: true, look_up: false, dial: false, answer: false };
        for Dial { core, key: peer, .. } in mem::take(&mut self.dials) {
            self.input(core, Input::Lost { peer });
        }
        for link in 0..self.links.len() {
            self.lose(link);
        }
        while self.deliver(0, usize::MAX) {}
        for sizes in self.sizes() {
            assert_eq!(sizes, TableSizes::default(), "something stays for ever");
        }
    }
}
