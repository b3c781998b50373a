//! Whole conversations against some cores' [`Relay`](msrp_relay_core::Relay)s: endpoints that authenticate, send in
//! chunks, answer late, twice or never, write garbage, stall and vanish; messages between cores, dials and look-ups that come late;
//! cores that die; pairs that come together on one core; time that jumps.
//!
//! The input is a script. Three bytes choose the number of cores, their limits and settings, and what happens by
//! itself. Then each step is one byte for the event and a few for its target. Templates make the steps valid unless a
//! byte says otherwise, so that most scripts are conversations and not noise. After every step the tables' sizes are
//! checked; at the end everything must drain and nothing may be left.

mod far_end;
mod frames;
mod world;

use std::time::Duration;

use far_end::{Sent, Wish, message_id};
use frames::{Credentials, Part, Traits};
use world::{Accounts, Habits, World, settings};

use super::trace;
use msrp_proto::parser::Flag;
use msrp_proto::write::write_end_line;

/// Steps of one conversation.
const STEPS_MAX: usize = 200;

/// Plays a script.
pub fn conversation(bytes: &[u8]) {
    let Some((&[cores, limits, choices], script)) = bytes.split_first_chunk() else {
        return;
    };
    let is_set = |bit: u8| cores & (1 << bit) != 0;
    let habits = Habits {
        deliver: is_set(2),
        look_up: is_set(3),
        dial: is_set(4),
        answer: is_set(5),
        meet: !is_set(6),
    };
    let mut play = Play {
        world: World::new(settings(1 + u16::from(cores % 4).min(2), limits, choices), habits),
        script: Script(script),
        parts: Vec::new(),
        tids: 0,
        mangled: None,
    };
    for _ in 0..STEPS_MAX {
        let Some(what) = play.script.next() else {
            break;
        };
        play.step(what);
        play.world.run_habits();
        play.world.check();
    }
    for link in play.world.live() {
        play.finish_open_frame(link);
    }
    play.world.settle();
    play.world.check();
    play.world.close_all();
}

/// The rest of a script; after its end it yields zeros.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn byte(&mut self) -> u8 {
        self.next().unwrap_or_default()
    }

    fn number(&mut self) -> usize {
        usize::from(self.byte())
    }

    /// Raw bytes.
    fn raw(&mut self) -> Vec<u8> {
        let len = self.number().min(self.0.len());
        let (raw, rest) = self.0.split_at(len);
        self.0 = rest;
        raw.to_vec()
    }
}

struct Play<'a> {
    world: World,
    script: Script<'a>,
    /// By connection: its open chunk and message.
    parts: Vec<Part>,
    tids: usize,
    /// The connection whose next frame is broken, and how.
    mangled: Option<(usize, u8)>,
}

impl Play<'_> {
    fn step(&mut self, what: u8) {
        trace(|| format!("step {}, then {:?}", what % 32, self.script.0.get(..4)));
        match what % 32 {
            0..=3 => self.client(),
            4..=9 => self.send(),
            10 => drop(self.begin_chunk()),
            11 => self.more(),
            12 => self.end_frame(),
            13 => self.other_request(),
            14 => self.auth_somehow(),
            15 | 16 => self.read(),
            17 | 18 => self.write(),
            19 => {
                let (lane, count) = (self.script.number(), self.script.number());
                self.world.deliver(lane, 1 + count % 16);
            }
            20 | 21 => self.answer(),
            22 => self.answer_early(),
            23 => self.success_report(),
            24 => {
                let (at, up) = (self.script.number(), !self.script.byte().is_multiple_of(4));
                self.world.finish_dial(at % self.world.dials.len().max(1), up);
            }
            25 => self.finish_look_up(),
            26 => self.age(),
            27 => {
                let choice = self.script.byte();
                self.world.connect(usize::from(choice) % self.world.core_count(), choice < 128);
            }
            28 => {
                let Some(link) = self.link() else {
                    return;
                };
                if self.script.byte() & 1 == 0 {
                    self.world.lose(link);
                } else {
                    self.world.end(link);
                }
            }
            29 => self.rarity(),
            30 => self.world.run(),
            _ => self.run_a_little(),
        }
    }

    /// One of the live connections.
    fn link(&mut self) -> Option<usize> {
        let live = self.world.live();
        let choice = self.script.number();
        self.parts.resize_with(self.world.links.len(), Part::default);
        live.get(choice % live.len().max(1)).copied()
    }

    fn tid(&mut self) -> String {
        self.tids += 1;
        format!("t{:07}", self.tids)
    }

    /// Bytes leave the far end of a connection. A request among them must be answered as it wishes.
    fn post(&mut self, link: usize, mut bytes: Vec<u8>, request: Option<(&str, Wish)>) {
        let end = &mut self.world.links[link];
        if let Some((at, byte)) = self.mangled.take().filter(|_| !bytes.is_empty()) {
            let at = at % bytes.len();
            bytes[at] ^= byte;
            end.wild = true;
            self.world.messages.garbled = true;
        }
        let end = &mut self.world.links[link];
        if let Some((tid, wish)) = request {
            end.end.sent.insert(tid.as_bytes().to_vec(), Sent { wish, answered: false });
        }
        trace(|| format!("  {link} sends {}", bytes.escape_ascii()));
        end.wire.extend(bytes);
    }

    // -- clients -------------------------------------------------------------------------------

    /// A client comes and authenticates, all in one step.
    fn client(&mut self) {
        let choice = self.script.byte();
        let core = usize::from(choice) % self.world.core_count();
        let Some(link) = self.world.connect(core, true) else {
            return;
        };
        let expires = choice >> 6;
        self.auth(link, Credentials::default());
        self.world.read(link, usize::MAX);
        self.world.write(link, usize::MAX);
        self.auth(link, Credentials::right(choice >> 4, expires));
        self.world.read(link, usize::MAX);
        let last = self.world.look_up_count().saturating_sub(1);
        self.world.finish_look_up(last, Accounts::Truth);
        self.world.write(link, usize::MAX);
    }

    fn auth_somehow(&mut self) {
        let Some(link) = self.link() else {
            return;
        };
        let (how, who) = (self.script.byte(), self.script.byte());
        self.auth(link, Credentials::chosen(how, who));
    }

    fn auth(&mut self, link: usize, credentials: Credentials) {
        self.finish_open_frame(link);
        let tid = self.tid();
        let bytes = frames::auth(&tid, &mut self.world.links[link].end, &credentials);
        self.post(link, bytes, Some((&tid, Wish::Answer)));
    }

    fn finish_look_up(&mut self) {
        let at = self.script.number() % self.world.look_up_count().max(1);
        let accounts = match self.script.byte() % 8 {
            6 => Accounts::Unknown,
            7 => Accounts::Unavailable,
            _ => Accounts::Truth,
        };
        self.world.finish_look_up(at, accounts);
    }

    // -- requests ------------------------------------------------------------------------------

    /// A chunk, whole.
    fn send(&mut self) {
        if let Some(link) = self.begin_chunk() {
            let flag = self.parts[link].flag();
            self.end_chunk(link, flag);
        }
    }

    /// A chunk begins and does not end yet.
    fn begin_chunk(&mut self) -> Option<usize> {
        let link = self.link()?;
        let (target, size, traits) = (self.script.byte(), self.script.byte(), self.script.byte());
        self.finish_open_frame(link);
        let traits = Traits(traits);
        let path = frames::path(&self.world.links, link, target);
        let new = traits.is_new() || self.parts[link].message.is_none();
        if new {
            let message = self.world.messages.begin();
            self.parts[link].message = Some((message, path));
        }
        let (message, path) = self.parts[link].message.clone()?;
        let start = self.world.messages.sent(message) + 1;
        let body = self.world.messages.send(message, frames::bytes(size));
        let tid = self.tid();
        let from = self.world.links[link].end.uri.clone();
        let range = traits.byte_range(start, body.len() as u64);
        if range.is_none() && start > 1 {
            // It is not known which frame they belong to.
            self.world.messages.garbled = true;
        }
        let head =
            frames::send_head([&tid, &message_id(message)], [&path, &from], range, traits, !body.is_empty());
        self.parts[link].open =
            Some(frames::Open { tid: tid.clone(), has_body: traits.has_body() || !body.is_empty(), traits });
        self.world.links[link].in_frame = true;
        let bytes = [head, body].concat();
        self.post(link, bytes, Some((&tid, traits.wish())));
        Some(link)
    }

    /// More bytes of a chunk that has begun.
    fn more(&mut self) {
        let Some(link) = self.link() else {
            return;
        };
        let size = self.script.byte();
        let Part { open: Some(open), message: Some((message, _)) } = &self.parts[link] else {
            return;
        };
        if open.has_body {
            let bytes = self.world.messages.send(*message, frames::bytes(size));
            self.post(link, bytes, None);
        }
    }

    fn end_frame(&mut self) {
        let Some(link) = self.link() else {
            return;
        };
        let flag = Traits(self.script.byte()).flag();
        self.end_chunk(link, flag);
    }

    /// Nothing can be sent within a frame: an open one ends first, and its message may go on.
    fn finish_open_frame(&mut self, link: usize) {
        self.parts.resize_with(self.world.links.len(), Part::default);
        self.end_chunk(link, Flag::More);
    }

    fn end_chunk(&mut self, link: usize, flag: Flag) {
        let Some(open) = self.parts[link].open.take() else {
            return;
        };
        let mut bytes = Vec::new();
        write_end_line(&mut bytes, open.tid.as_bytes(), flag, open.has_body);
        if flag != Flag::More {
            self.parts[link].message = None;
        }
        self.post(link, bytes, None);
        self.world.links[link].in_frame = false;
    }

    /// NICKNAME, REPORT, an unknown method, or a frame for a path of any kind.
    fn other_request(&mut self) {
        let Some(link) = self.link() else {
            return;
        };
        let (target, kind) = (self.script.byte(), self.script.byte());
        self.finish_open_frame(link);
        let path = frames::path(&self.world.links, link, target);
        let tid = self.tid();
        let from = &self.world.links[link].end.uri;
        let (bytes, wish) = frames::other(&tid, &path, from, kind);
        self.post(link, bytes, Some((&tid, wish)));
    }

    // -- answers -------------------------------------------------------------------------------

    fn answer(&mut self) {
        const CODES: [u16; 8] = [200, 200, 200, 413, 481, 408, 500, 403];
        let Some(link) = self.link() else {
            return;
        };
        let (which, how) = (self.script.number(), self.script.byte());
        self.finish_open_frame(link);
        let code = CODES[usize::from(how % 8)];
        let count = self.world.links[link].end.pending.len();
        let Some(request) = self.world.links[link].end.pending.get(which % count.max(1)).cloned() else {
            return;
        };
        // Some answer a request that wants no answer, or answer twice.
        if how & 16 != 0 {
            self.post(link, request.response(code), None);
        }
        if how & 32 == 0 {
            self.world.answer(link, which, code);
        }
    }

    /// An answer to a chunk that has not arrived whole.
    fn answer_early(&mut self) {
        let Some(link) = self.link() else {
            return;
        };
        let code = if self.script.byte().is_multiple_of(2) { 413 } else { 200 };
        if let Some(arriving) =
            self.world.links[link].end.arriving.clone().filter(|request| request.wants(code))
        {
            self.finish_open_frame(link);
            self.post(link, arriving.response(code), None);
        }
    }

    fn success_report(&mut self) {
        let Some(link) = self.link() else {
            return;
        };
        let Some(message) = self.world.links[link].end.last_message.clone() else {
            return;
        };
        self.finish_open_frame(link);
        let tid = self.tid();
        let bytes = message.success_report(&tid, &self.world.links[link].end.uri);
        self.post(link, bytes, Some((&tid, Wish::Nothing)));
    }

    // -- connections, cores and time -------------------------------------------

    fn read(&mut self) {
        if let Some(link) = self.link() {
            let bytes = frames::bytes(self.script.byte());
            self.world.read(link, 1 + bytes);
        }
    }

    fn write(&mut self) {
        if let Some(link) = self.link() {
            let bytes = frames::bytes(self.script.byte());
            self.world.write(link, 1 + bytes);
        }
    }

    fn run_a_little(&mut self) {
        let bytes = 1 + frames::bytes(self.script.byte());
        for link in self.world.live() {
            self.world.read(link, bytes);
            self.world.write(link, bytes);
        }
        self.world.deliver(bytes, 4);
    }

    fn age(&mut self) {
        const SECONDS: [u64; 8] = [0, 1, 10, 14, 30, 60, 600, 3600];
        let choice = self.script.byte();
        let by = Duration::from_secs(SECONDS[usize::from(choice % 8)])
            + Duration::from_millis(u64::from(choice >> 6));
        match choice & 24 {
            0 => self.world.age_unnoticed(by),
            8 => self.world.age(by, false),
            _ => self.world.age(by, true),
        }
    }

    fn rarity(&mut self) {
        let (what, choice) = (self.script.byte(), self.script.byte());
        let core = usize::from(choice) % self.world.core_count();
        match what % 8 {
            0 => self.world.kill(core, choice & 64 != 0, choice & 128 != 0),
            1 => self.world.shut_down(core, choice & 64 == 0),
            2 | 3 => {
                let Some(link) = self.link() else {
                    return;
                };
                let bytes = self.script.raw();
                self.world.links[link].wild = true;
                self.world.messages.garbled = true;
                self.post(link, bytes, None);
            }
            4..=6 => {
                self.mangled = Some((usize::from(choice) * 3 + self.script.number(), self.script.byte()))
            }
            _ => {
                // A far end that the relay may dial connects by itself.
                if let Some(link) = self.world.connect(core, true) {
                    self.world.links[link].end.uri = frames::far(choice);
                }
            }
        }
    }
}
