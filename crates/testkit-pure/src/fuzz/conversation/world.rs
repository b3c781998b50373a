//! Some cores' relays and their connections, driven as a runtime would drive them, and the invariants of each step.
//!
//! Only this module and its parts call [`Relay`].

mod checks;
mod cores;

use core::net::IpAddr;
use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::time::Instant;

use bytes::Bytes;

pub(super) use cores::settings;

use super::far_end::{FarEnd, Messages};
use crate::Reader;
use crate::fuzz::trace;
use msrp_proto::digest::{Algorithm, Ha1};
use msrp_proto::parser::{FramePart, Parser, ParserLimits};
use msrp_relay_core::{
    CoreId, Departure, Effect, Input, LookUpAnswer, LookUpTicket, Meeting, Message, OutBatch, PeerKey, Relay,
    Settings, Target, Transport, Traveller, WriteState,
};

/// The name of the relay.
pub(super) const HOST: &str = "relay.example.com";
/// The port it listens on.
pub(super) const PORT: u16 = 2855;
/// The domain whose users it knows.
pub(super) const DOMAIN: &str = "example.com";
/// Bytes of one read.
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
    /// Sent by the far end, not yet read.
    pub(super) wire: Vec<u8>,
    /// Read, not yet parsed.
    unparsed: Vec<u8>,
    parser: Parser,
    /// Written by the relay, not yet taken by the far end.
    unwritten: Vec<u8>,
    paused: bool,
    awake: bool,
    closing: bool,
    /// The far end sends no more.
    ended: bool,
    /// The relay has written its last bytes.
    finished: bool,
    pub(super) gone: bool,
    /// Bytes that form no frame of ours have been sent on it.
    pub(super) wild: bool,
    /// The far end is within a frame, so it can answer no request.
    pub(super) in_frame: bool,
    reader: Reader,
    /// It has left one core and is not at the other one, `core`, yet.
    travels: bool,
}

/// What is under way from core to core.
#[expect(clippy::large_enum_variant, reason = "nearly all of them are messages, which travel unboxed")]
enum Delivery {
    Message(Message),
    /// The connection of this number, and what the relay knows of it.
    Arrive(usize, Box<Traveller>),
}

struct Core {
    relay: Option<Relay>,
    incarnation: u16,
    stopping: bool,
    /// An effect is being carried out.
    applying: bool,
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

/// What happens by itself.
#[derive(Clone, Copy)]
pub(super) struct Habits {
    pub(super) deliver: bool,
    pub(super) look_up: bool,
    pub(super) dial: bool,
    pub(super) answer: bool,
    /// Two sessions on two cores come together if they can.
    pub(super) meet: bool,
}

pub(super) struct World {
    now: Instant,
    cores: Vec<Core>,
    pub(super) links: Vec<Link>,
    lanes: BTreeMap<(usize, usize), VecDeque<Delivery>>,
    pub(super) dials: Vec<Dial>,
    look_ups: Vec<LookUp>,
    pub(super) messages: Messages,
    pub(super) habits: Habits,
    settings: Settings,
    out: OutBatch,
    seeds: u8,
}

/// What a user's account holds.
pub(super) fn password(user: &str) -> String {
    format!("secret of {user}")
}

impl Link {
    /// Whether it is the one that a core calls so.
    fn is(&self, core: usize, key: PeerKey) -> bool {
        self.core == core && self.key == key && !self.gone && !self.travels
    }
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
            world.cores.push(Core { relay, incarnation: 0, stopping: false, applying: false });
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

    /// A client connects, from one of three addresses. `None`: too many connections, or no core listens.
    pub(super) fn connect(&mut self, core: usize, secure: bool) -> Option<usize> {
        let number = self.links.len();
        let entry = self.cores.get_mut(core).filter(|core| !core.stopping)?;
        let relay = entry.relay.as_mut().filter(|_| number < LINKS_MAX)?;
        let address = IpAddr::from([198, 51, 100, 1 + (number % 3) as u8]);
        let key = relay.accept(self.now, Transport { secure, port: PORT, websocket: false }, address).ok();
        let uri = format!("msrps://198.51.100.23:{}/end{number};tcp", 40_000 + number);
        let link = key.map(|key| self.add_link(core, key, uri));
        self.apply(core);
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
            reader: Reader::Reads,
            travels: false,
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
        // Of one between two cores the core where it arrives finds that out.
        if mem::replace(&mut link.gone, true) || link.travels {
            return;
        }
        let (core, peer) = (link.core, link.key);
        self.input(core, Input::Lost { peer });
    }

    /// The far end has sent its last; once that is read, the relay hears of it. If its reader waits, it has not done so yet.
    pub(super) fn end(&mut self, number: usize) {
        while self.read(number, READ_MAX) {}
        let link = &mut self.links[number];
        if link.travels || link.reader != Reader::Reads {
            return;
        }
        if link.gone || link.closing || !link.wire.is_empty() || mem::replace(&mut link.ended, true) {
            return;
        }
        let (core, peer) = (link.core, link.key);
        self.input(core, Input::Ended { peer });
    }

    /// One read of at most `bytes`, and all that follows from it on its core.
    pub(super) fn read(&mut self, number: usize, bytes: usize) -> bool {
        let link = &mut self.links[number];
        if link.gone || link.travels || link.closing || link.ended {
            return false;
        }
        match link.reader {
            Reader::Parked => return false,
            Reader::Told => {
                self.go_on(number);
                return true;
            }
            Reader::Resumes => {
                link.reader = Reader::Reads;
                self.parse(number, true);
                return true;
            }
            Reader::Reads => {}
        }
        if link.paused || link.wire.is_empty() {
            return false;
        }
        let bytes = bytes.min(READ_MAX).min(link.wire.len());
        link.unparsed.extend_from_slice(&link.wire[..bytes]);
        link.wire.drain(..bytes);
        self.parse(number, false);
        true
    }

    /// Feeds what has been read. The relay has been asked about the first head, if that `may` be fed.
    fn parse(&mut self, number: usize, mut may: bool) {
        let link = &mut self.links[number];
        let (core, peer) = (link.core, link.key);
        let mut unparsed = mem::take(&mut link.unparsed);
        let mut at = 0;
        // Like a runtime, feeds everything that has been read, even if the relay says Pause meanwhile.
        while !self.links[number].gone && !self.links[number].closing {
            let before = self.habits.meet.then(|| self.links[number].parser.clone());
            let step = self.links[number].parser.step(&unparsed[at..]);
            if let (Ok(Some(step)), Some(before)) = (&step, before)
                && let FramePart::Head(head) = &step.piece
                && !mem::take(&mut may)
            {
                let (now, bytes) = (self.now, &unparsed[at..at + step.consumed]);
                let relay = self.cores[core].relay.as_mut();
                let meeting = relay.map(|relay| relay.meet(now, peer, head, bytes));
                // Asked before what follows, which may be the answer.
                let is_asked = meeting == Some(Meeting::Asked);
                if is_asked {
                    trace(|| format!("  {number} waits"));
                    self.links[number].reader = Reader::Parked;
                    self.links[number].parser = before;
                }
                self.apply(core);
                if is_asked {
                    break;
                }
            }
            let input = match step {
                Ok(None) => break,
                Err(_) => Input::Unparseable { peer },
                Ok(Some(step)) => {
                    let bytes = Bytes::copy_from_slice(&unparsed[at..at + step.consumed]);
                    at += step.consumed;
                    match step.piece {
                        FramePart::Head(head) => Input::Head { peer, head, bytes },
                        FramePart::Body(_) => Input::Body { peer, bytes },
                        FramePart::End(flag) => Input::End { peer, flag },
                        FramePart::Blank => Input::Blank { peer, bytes: bytes.len() },
                    }
                }
            };
            self.input(core, input);
        }
        unparsed.drain(..at);
        let bytes = unparsed.len();
        self.links[number].unparsed = unparsed;
        self.input(core, Input::Unfinished { peer, bytes });
    }

    /// A reader that waited goes on, here or elsewhere.
    fn go_on(&mut self, number: usize) {
        let Link { core, key, awake, ref unwritten, .. } = self.links[number];
        let (now, quiet) = (self.now, !awake && unwritten.is_empty());
        let Some(relay) = &mut self.cores[core].relay else {
            return;
        };
        let departure = relay.depart(now, key, quiet);
        self.apply(core);
        let link = &mut self.links[number];
        match departure {
            Departure::Waits => link.reader = Reader::Parked,
            Departure::Stays => link.reader = Reader::Resumes,
            Departure::Leaves(traveller) => {
                trace(|| format!("  {number} leaves core {core}"));
                let to = usize::from(traveller.to().index);
                (link.core, link.travels) = (to, true);
                self.lanes.entry((core, to)).or_default().push_back(Delivery::Arrive(number, traveller));
            }
        }
    }

    /// A connection comes to a core, as it left the one before.
    fn arrive(&mut self, core: usize, number: usize, traveller: Traveller) {
        let now = self.now;
        let key = self.cores[core].relay.as_mut().and_then(|relay| relay.arrive(now, traveller));
        let link = &mut self.links[number];
        link.travels = false;
        let was_lost = mem::replace(&mut link.gone, key.is_none());
        if let Some(key) = key {
            trace(|| format!("  {number} comes to core {core}"));
            (link.key, link.reader, link.paused) = (key, Reader::Resumes, false);
            link.parser = Parser::new(ParserLimits::default());
        }
        self.apply(core);
        if key.is_some() && was_lost {
            self.lose(number);
        }
    }

    /// The far end takes at most `bytes`; the relay is asked for more when all is taken.
    pub(super) fn write(&mut self, number: usize, bytes: usize) -> bool {
        let mut room = bytes;
        let mut progress = false;
        loop {
            let link = &mut self.links[number];
            if link.gone || link.travels {
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
        self.out.clear();
        let state = relay.poll_write(self.now, key, &mut self.out);
        let link = &mut self.links[number];
        self.out.parts().for_each(|part| link.unwritten.extend_from_slice(part));
        assert_eq!(link.unwritten.len(), self.out.len());
        link.awake = !self.out.is_empty();
        link.finished = state == WriteState::Finished;
        assert!(!link.finished || link.closing, "finished without having been closed");
        self.apply(core);
    }

    // -- cores ---------------------------------------------------------------------------------

    fn input(&mut self, core: usize, input: Input) {
        let Some(relay) = &mut self.cores[core].relay else {
            return;
        };
        trace(|| {
            format!("  core {core} hears {}", format!("{input:?}").chars().take(90).collect::<String>())
        });
        relay.handle(self.now, input);
        self.apply(core);
    }

    /// Does what a relay asks for. An effect may lead to more effects: those come after the ones that are due already.
    fn apply(&mut self, core: usize) {
        while let Some((to, messages)) = self.cores[core].relay.as_mut().and_then(Relay::poll_messages) {
            assert_ne!(usize::from(to.index), core, "a message to oneself");
            let lane = self.lanes.entry((core, usize::from(to.index))).or_default();
            lane.extend(messages.into_iter().map(Delivery::Message));
        }
        if mem::replace(&mut self.cores[core].applying, true) {
            return;
        }
        while let Some(effect) = self.cores[core].relay.as_mut().and_then(Relay::poll_effect) {
            self.apply_one(core, effect);
        }
        self.cores[core].applying = false;
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
            Effect::GoOn(key) => self.with_link(core, key, |link| {
                assert!(matches!(link.reader, Reader::Parked | Reader::Told), "no reader waited");
                link.reader = Reader::Told;
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
            Effect::Abort { peer, .. } => {
                let is_it = |link: &Link| link.is(core, peer);
                // The relay has forgotten it, and ignores the news that it is gone.
                if let Some(number) = self.links.iter().position(is_it) {
                    self.lose(number);
                }
            }
            Effect::Connect { peer, target, .. } => self.dials.push(Dial { core, key: peer, target }),
            Effect::LookUp { ticket, attempt, .. } => {
                let (user, realm) = (attempt.user().to_owned(), attempt.realm().to_owned());
                self.look_ups.push(LookUp { core, ticket, user, realm, algorithm: attempt.algorithm() });
            }
            Effect::Event(event) => assert!(!format!("{event:?}").is_empty()),
        }
    }

    fn with_link(&mut self, core: usize, key: PeerKey, act: impl FnOnce(&mut Link)) {
        // An effect may name a connection that broke off in the same turn.
        if let Some(link) = self.links.iter_mut().find(|link| link.is(core, key)) {
            act(link);
        }
    }

    /// A dial ends.
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
            let Some(delivery) = self.lanes.get_mut(&lane).and_then(VecDeque::pop_front) else {
                break;
            };
            self.hand_over(lane.1, delivery);
        }
        true
    }

    fn hand_over(&mut self, core: usize, delivery: Delivery) {
        match delivery {
            Delivery::Message(message) => self.input(core, Input::Message(message)),
            Delivery::Arrive(number, traveller) => self.arrive(core, number, *traveller),
        }
    }

    // -- running -------------------------------------------------------------------------------

    /// Does what happens by itself.
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
}
