//! Seeded adversarial simulation: several relays as cores, endpoints that split, stall, refuse, fall
//! silent, die; parcels, look-ups and dials that come late or never.
//!
//! After every run: each octet has been delivered once, in order, to the right end, or was told of by
//! exactly one notice; a request was answered at most once; queues kept their bounds; when all
//! connections are closed, no table holds anything. `SIM_SEED=n` replays one seed, `SIM_SEEDS=n`
//! runs that many.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests state what must hold")]

mod support;

use std::collections::HashMap;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use msrprelay::proto::parser::Flag;

use support::{Conn, Decision, Frame, Request, World, answer_challenge, relay_uri, settings};

const SEEDS: u64 = 256;
const STEPS: usize = 500;

#[test]
fn random_conversations_keep_every_promise() {
    if let Ok(seed) = env::var("SIM_SEED") {
        return Simulation::new(seed.parse().unwrap()).run();
    }
    let seeds = env::var("SIM_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let run = AssertUnwindSafe(|| Simulation::new(seed).run());
        if let Err(panic) = catch_unwind(run) {
            eprintln!("failed: replay with SIM_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 .. n.
    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        let at = self.below(of.len());
        of[at]
    }
}

/// The octet at a place of a message: nothing else may arrive there.
fn octet(message: usize, at: u64) -> u8 {
    let mixed = (message as u64).wrapping_mul(0x9e37_79b9) ^ at.wrapping_mul(0x85eb_ca6b);
    (mixed ^ (mixed >> 13)).to_le_bytes()[0]
}

/// One end: a client, a foreign connection, or somebody who is dialled.
#[derive(Default)]
struct Actor {
    conn: Option<Conn>,
    uri: String,
    /// Its connection broke off, or its core died.
    dead: bool,
    /// Messages of which not all has been sent.
    sending: Vec<usize>,
    /// Frames to be answered.
    pending: Vec<Frame>,
    /// Requests answered before their end.
    early: Vec<String>,
    /// Responses that came, by transaction id.
    responses: HashMap<String, u16>,
    /// Requests sent and what they were.
    requests: HashMap<String, Sent>,
}

#[derive(Clone, Debug)]
enum Sent {
    Chunk { message: usize, start: u64, octets: u64, aborted: bool },
    Other,
}

/// Two actors who may talk, and the paths between them.
struct Link {
    ends: [usize; 2],
    /// From the first to the second, and back.
    paths: [String; 2],
    /// Something went wrong on purpose: not everything must arrive.
    faulty: bool,
}

struct Message {
    link: usize,
    from: usize,
    to: usize,
    path: String,
    total: u64,
    sent: u64,
    wish: &'static str,
    success_report: bool,
    told_total: bool,
    over: bool,
    /// Ranges that arrived, in the order of arrival.
    delivered: Vec<(u64, u64)>,
    /// Ranges told of as failed.
    failed: Vec<(u64, u64)>,
    success_reports: usize,
}

struct Simulation {
    seed: u64,
    dice: Dice,
    world: World,
    actors: Vec<Actor>,
    links: Vec<Link>,
    messages: Vec<Message>,
    /// Actors that can be dialled, by host.
    hosts: HashMap<String, usize>,
    by_conn: HashMap<Conn, usize>,
    /// Connections that only try to authenticate, and what they will send next.
    strangers: Vec<(Conn, usize)>,
    faults: bool,
    cores: usize,
    killed: bool,
    aged: u64,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x1234_5678_9abc_def1));
        let cores = 1 + dice.below(3);
        let mut settings = settings(cores);
        let limits = &mut settings.limits;
        limits.queue_octets_high = dice.pick(&[32 << 10, 64 << 10]);
        limits.queue_octets_low = limits.queue_octets_high / 2;
        limits.flush_octets_max = dice.pick(&[3 << 10, 8 << 10, 32 << 10, 128 << 10]);
        limits.transactions_per_peer_max = dice.pick(&[8, 64, 4096]);
        let faults = dice.chance(75);
        Self {
            seed,
            dice,
            world: World::with(settings),
            actors: Vec::new(),
            links: Vec::new(),
            messages: Vec::new(),
            hosts: HashMap::new(),
            by_conn: HashMap::new(),
            strangers: Vec::new(),
            faults,
            cores,
            killed: false,
            aged: 0,
        }
    }

    fn run(mut self) {
        for _ in 0..1 + self.dice.below(4) {
            self.add_link();
        }
        self.world.hold_parcels = true;
        self.world.dial_decision = Decision::Hold;
        self.world.look_up_decision = Decision::Hold;
        for _ in 0..STEPS {
            self.step();
        }
        self.settle();
        self.check();
        self.world.close_all();
    }

    // -- who talks to whom ---------------------------------------------------------------------

    fn client(&mut self) -> (usize, String) {
        let core = self.dice.below(self.cores);
        let (conn, session) = self.world.client(core, "alice");
        let uri = self.world.end(conn).uri.clone();
        (self.add_actor(Some(conn), uri), session)
    }

    fn foreign(&mut self) -> usize {
        let core = self.dice.below(self.cores);
        let conn = self.world.connect(core);
        let uri = self.world.end(conn).uri.clone();
        self.add_actor(Some(conn), uri)
    }

    fn add_actor(&mut self, conn: Option<Conn>, uri: String) -> usize {
        let index = self.actors.len();
        if let Some(conn) = conn {
            self.by_conn.insert(conn, index);
        }
        self.actors.push(Actor { conn, uri, ..Actor::default() });
        index
    }

    fn add_link(&mut self) {
        match self.dice.below(4) {
            0 | 1 => {
                let (a, a_session) = self.client();
                let (b, b_session) = self.client();
                let there = format!("{a_session} {b_session} {}", self.actors[b].uri);
                let back = format!("{b_session} {a_session} {}", self.actors[a].uri);
                self.push_link([a, b], [there, back]);
            }
            2 => {
                // A foreign connection, perhaps shared by several sessions.
                let a = self.foreign();
                for _ in 0..1 + self.dice.below(3) {
                    let (b, session) = self.client();
                    let there = format!("{session} {}", self.actors[b].uri);
                    let back = format!("{session} {}", self.actors[a].uri);
                    self.push_link([a, b], [there, back]);
                }
            }
            _ => {
                let (a, session) = self.client();
                let host = format!("far{}.example", self.actors.len());
                let uri = format!("msrps://{host}:7777/abc;tcp");
                let b = self.add_actor(None, uri.clone());
                self.hosts.insert(host, b);
                let there = format!("{session} {uri}");
                let back = format!("{session} {}", self.actors[a].uri);
                self.push_link([a, b], [there, back]);
            }
        }
    }

    fn push_link(&mut self, ends: [usize; 2], paths: [String; 2]) {
        self.links.push(Link { ends, paths, faulty: false });
    }

    // -- what may happen -----------------------------------------------------------------------

    fn step(&mut self) {
        match self.dice.below(100) {
            0..=9 => self.new_message(),
            10..=29 => self.send_chunk(),
            30..=49 => self.let_read(),
            50..=64 => self.let_write(),
            65..=79 => self.let_deliver(),
            80..=87 => self.let_answer(),
            88..=90 => self.decide(),
            91 => self.other_request(),
            92 => self.stranger(),
            93..=94 => self.age(),
            95 if self.faults => self.come_in(),
            96 if self.faults && self.dice.chance(50) => self.lose_somebody(),
            97 if self.faults && self.dice.chance(20) => self.kill(),
            98 if self.faults => self.stray(),
            99 => self.answer_early(),
            _ => self.let_answer(),
        }
        self.collect();
    }

    fn new_message(&mut self) {
        let link = self.dice.below(self.links.len());
        let direction = self.dice.below(2);
        let Link { ends, paths, .. } = &self.links[link];
        let (from, to) = (ends[direction], ends[1 - direction]);
        // Who has not been spoken to does not know where its peer is: it would have us dial it.
        let spoken = direction == 0
            || self.hosts.values().any(|a| *a == to)
            || self.messages.iter().any(|m| m.link == link && m.to == from && !m.delivered.is_empty());
        if self.actors[from].dead || self.actors[from].conn.is_none() || !spoken {
            return;
        }
        let total = match self.dice.below(6) {
            0 => self.dice.below(3),
            1 | 2 => self.dice.below(600),
            3 => 1500 + self.dice.below(3000),
            _ => self.dice.below(150_000),
        };
        let index = self.messages.len();
        let path = paths[direction].clone();
        self.messages.push(Message {
            link,
            from,
            to,
            path,
            total: total as u64,
            sent: 0,
            wish: self.dice.pick(&["yes", "yes", "yes", "partial", "no"]),
            success_report: self.dice.chance(20),
            told_total: self.dice.chance(70),
            over: false,
            delivered: Vec::new(),
            failed: Vec::new(),
            success_reports: 0,
        });
        self.actors[from].sending.push(index);
    }

    /// Somebody sends the next chunk of one of its messages.
    fn send_chunk(&mut self) {
        let actor = self.dice.below(self.actors.len());
        let Some(conn) = self.actors[actor].conn.filter(|c| !self.world.is_closed(*c)) else {
            return;
        };
        if self.actors[actor].sending.is_empty() || self.world.link(conn).wire.len() > 100_000 {
            return;
        }
        let slot = self.dice.below(self.actors[actor].sending.len());
        let index = self.actors[actor].sending[slot];
        let rest = self.messages[index].total - self.messages[index].sent;
        let octets = if self.dice.chance(60) {
            rest
        } else {
            self.dice.below(usize::try_from(rest).unwrap() + 1) as u64
        };
        let last = octets == rest;
        let aborted = self.dice.chance(3);
        let message = &mut self.messages[index];
        let start = message.sent + 1;
        let end = match self.dice.below(3) {
            0 => "*".to_owned(),
            _ => (message.sent + octets).to_string(),
        };
        let total = if message.told_total { message.total.to_string() } else { "*".to_owned() };
        let body: Vec<u8> = (start..start + octets).map(|at| octet(index, at)).collect();
        let uri = &self.actors[actor].uri;
        let mut request =
            Request::new("SEND", &message.path, uri).header("Message-ID", &format!("mess{index:06}"));
        if start > 1 || self.dice.chance(90) {
            request = request.header("Byte-Range", &format!("{start}-{end}/{total}"));
        }
        if message.wish != "yes" || self.dice.chance(50) {
            request = request.header("Failure-Report", message.wish);
        }
        if message.success_report {
            request = request.header("Success-Report", "yes");
        }
        if !body.is_empty() || self.dice.chance(50) {
            request = request.body(&body);
        }
        let flag = match (aborted, last) {
            (true, _) => Flag::Aborted,
            (false, true) => Flag::Last,
            (false, false) => Flag::More,
        };
        let request = request.flag(flag);
        message.sent += octets;
        message.over = aborted || last;
        let sent = Sent::Chunk { message: index, start, octets, aborted };
        if aborted {
            self.links[message.link].faulty = true;
        }
        if message.over {
            self.actors[actor].sending.swap_remove(slot);
        }
        self.actors[actor].requests.insert(request.tid.clone(), sent);
        self.world.send(conn, request.octets());
    }

    fn other_request(&mut self) {
        let link = self.dice.below(self.links.len());
        let direction = self.dice.below(2);
        let from = self.links[link].ends[direction];
        let Some(conn) = self.actors[from].conn.filter(|c| !self.world.is_closed(*c)) else {
            return;
        };
        if direction == 1 && self.actors[from].requests.is_empty() {
            return;
        }
        let path = &self.links[link].paths[direction];
        let request = Request::new("NICKNAME", path, &self.actors[from].uri);
        self.actors[from].requests.insert(request.tid.clone(), Sent::Other);
        self.world.send(conn, request.octets());
    }

    fn any_conn(&mut self) -> Option<Conn> {
        let conns: Vec<Conn> = self.world.conns().collect();
        if conns.is_empty() {
            return None;
        }
        Some(self.dice.pick(&conns))
    }

    fn let_read(&mut self) {
        self.world.read_max =
            1 + self.dice.below(*[1, 40, 700, 5000, 16_000].get(self.seed as usize % 5).unwrap());
        for _ in 0..1 + self.dice.below(6) {
            if let Some(conn) = self.any_conn() {
                self.world.read(conn);
            }
        }
        if self.dice.chance(30) {
            self.world.read_max = 1 + self.dice.below(16_000);
            if let Some(conn) = self.any_conn() {
                self.world.read(conn);
            }
        }
    }

    fn let_write(&mut self) {
        if let Some(conn) = self.any_conn() {
            self.world.link_mut(conn).window = self.dice.below(20_000);
            self.world.write(conn);
        }
    }

    fn let_deliver(&mut self) {
        let lanes = self.world.lanes();
        if !lanes.is_empty() {
            let lane = self.dice.pick(&lanes);
            let count = 1 + self.dice.below(15);
            self.world.deliver(lane, count);
        }
    }

    /// Somebody answers a request, well or badly or not at all.
    fn let_answer(&mut self) {
        let index = self.dice.below(self.actors.len());
        let bad = self.faults && self.dice.chance(6);
        let actor = &mut self.actors[index];
        if actor.pending.is_empty() {
            return;
        }
        let slot = self.dice.below(actor.pending.len());
        let frame = actor.pending.swap_remove(slot);
        let early = actor.early.iter().any(|tid| tid == frame.tid());
        let Some(conn) = actor.conn.filter(|c| !self.world.is_closed(*c)) else {
            return;
        };
        if bad {
            self.fault_of(index);
        }
        let code = match (bad, self.dice.below(3)) {
            (false, _) => 200,
            (true, 0) => return,
            (true, 1) => 413,
            (true, _) => 500,
        };
        if frame.wants_response(code) && !early {
            let octets = frame.response(code);
            self.world.send(conn, &octets);
            if self.faults && self.dice.chance(3) {
                self.world.send(conn, &octets);
            }
        }
    }

    /// Somebody answers a chunk of which not all has arrived.
    fn answer_early(&mut self) {
        let index = self.dice.below(self.actors.len());
        let Some(conn) = self.actors[index].conn.filter(|c| !self.world.is_closed(*c)) else {
            return;
        };
        let code = if self.faults && self.dice.chance(70) { 413 } else { 200 };
        let Some(arriving) = self.world.end(conn).arriving().cloned() else {
            return;
        };
        let known = self.actors[index].early.iter().any(|tid| tid == arriving.tid());
        if known || !arriving.is("SEND") || !arriving.wants_response(code) {
            return;
        }
        if code != 200 {
            self.fault_of(index);
        }
        self.actors[index].early.push(arriving.tid().to_owned());
        self.world.send(conn, arriving.response(code));
    }

    fn decide(&mut self) {
        if !self.world.look_ups.is_empty() && self.dice.chance(70) {
            let at = self.dice.below(self.world.look_ups.len());
            self.world.finish_look_up(at);
        }
        if self.world.dials.is_empty() {
            return;
        }
        let at = self.dice.below(self.world.dials.len());
        let host = self.world.dials[at].target.host.clone();
        let actor = self.hosts.get(&host).copied();
        let fails = actor.is_none() || self.faults && self.dice.chance(20);
        if fails {
            if let Some(actor) = actor {
                self.fault_of(actor);
            }
            self.world.finish_dial(at, false);
        } else if let (Some(conn), Some(actor)) = (self.world.finish_dial(at, true), actor) {
            // Whoever is dialled twice has lost the first connection or is in the way of itself.
            if self.actors[actor].conn.is_none() {
                self.actors[actor].conn = Some(conn);
                self.by_conn.insert(conn, actor);
            } else {
                self.fault_of(actor);
                self.world.lose(conn);
            }
        }
    }

    /// A far end that may be dialled comes by itself.
    fn come_in(&mut self) {
        let waiting: Vec<usize> = (0..self.actors.len()).filter(|a| self.actors[*a].conn.is_none()).collect();
        if !waiting.is_empty() {
            let actor = self.dice.pick(&waiting);
            let core = self.dice.below(self.cores);
            if self.killed {
                return;
            }
            let conn = self.world.connect(core);
            self.actors[actor].conn = Some(conn);
            self.by_conn.insert(conn, actor);
            // It may be dialled too and find itself refused.
            self.fault_of(actor);
        }
    }

    fn lose_somebody(&mut self) {
        let actor = self.dice.below(self.actors.len());
        if let Some(conn) = self.actors[actor].conn {
            self.fault_of(actor);
            self.actors[actor].dead = true;
            self.world.lose(conn);
        }
    }

    fn kill(&mut self) {
        if self.killed || self.cores == 1 {
            return;
        }
        self.killed = true;
        let core = self.dice.below(self.cores);
        let again = self.dice.chance(50);
        // What it sent arrives before the news of its death, or never; what it was sent may come late.
        for lane in self.world.lanes().into_iter().filter(|(from, _)| *from == core) {
            if self.dice.chance(50) {
                self.world.deliver(lane, usize::MAX);
            } else {
                self.world.drop_parcels(lane);
            }
        }
        self.world.kill_core(core, again);
        for link in &mut self.links {
            link.faulty = true;
        }
        for actor in &mut self.actors {
            if actor.conn.is_some_and(|c| self.world.is_closed(c)) {
                actor.dead = true;
            }
        }
        self.strangers.retain(|(conn, _)| !self.world.is_closed(*conn));
    }

    /// Responses nobody waits for, and requests for nobody.
    fn stray(&mut self) {
        let actor = self.dice.below(self.actors.len());
        let Some(conn) = self.actors[actor].conn.filter(|c| !self.world.is_closed(*c)) else {
            return;
        };
        let uri = self.actors[actor].uri.clone();
        let code = self.dice.pick(&[200, 413, 999]);
        let octets = support::frame::response("astray00", code, &relay_uri(), &uri);
        self.world.send(conn, octets);
        let to = format!("msrps://{}:2855/nobody;tcp {uri}", support::HOST);
        let request = Request::send(&to, &uri, "astray", b"x").header("Failure-Report", "no");
        self.world.send(conn, request.octets());
    }

    /// Connections that authenticate, guess, or go away while they are looked up.
    fn stranger(&mut self) {
        if self.killed {
            return;
        }
        if self.strangers.is_empty() || self.dice.chance(30) {
            let core = self.dice.below(self.cores);
            let conn = self.world.connect(core);
            let uri = self.world.end(conn).uri.clone();
            self.world.send(conn, Request::new("AUTH", &relay_uri(), &uri).octets());
            self.strangers.push((conn, 0));
            return;
        }
        let at = self.dice.below(self.strangers.len());
        let (conn, _) = self.strangers[at];
        if self.world.is_closed(conn) || self.dice.chance(20) {
            self.strangers.swap_remove(at);
            self.world.lose(conn);
            return;
        }
        let uri = self.world.end(conn).uri.clone();
        for frame in self.world.take(conn) {
            if frame.is("401") {
                let password = self.dice.pick(&["1234", "guess"]);
                let value = answer_challenge(&frame, "alice", password, &relay_uri(), 1);
                let request = Request::new("AUTH", &relay_uri(), &uri).header("Authorization", &value);
                self.world.send(conn, request.octets());
            }
        }
    }

    /// A little time passes; never so much that an answer under way would be late.
    fn age(&mut self) {
        if self.aged < 20 {
            let seconds = self.dice.below(3) as u64;
            self.aged += seconds;
            self.world.now += Duration::from_secs(seconds);
        }
    }

    fn fault_of(&mut self, actor: usize) {
        for link in &mut self.links {
            if link.ends.contains(&actor) {
                link.faulty = true;
            }
        }
    }

    // -- what arrives --------------------------------------------------------------------------

    fn collect(&mut self) {
        let conns: Vec<(Conn, usize)> = self.by_conn.iter().map(|(c, a)| (*c, *a)).collect();
        let mut conns = conns;
        conns.sort_unstable();
        for (conn, actor) in conns {
            for frame in self.world.take(conn) {
                self.arrived(actor, frame);
            }
        }
    }

    fn arrived(&mut self, actor: usize, frame: Frame) {
        if frame.is("SEND") {
            self.chunk_arrived(actor, &frame);
            self.actors[actor].pending.push(frame);
        } else if frame.is("REPORT") {
            self.report_arrived(actor, &frame);
        } else if frame.is("NICKNAME") {
            self.actors[actor].pending.push(frame);
        } else {
            self.response_arrived(actor, &frame);
        }
    }

    fn message_of(&self, frame: &Frame) -> usize {
        frame.message_id()[4..].parse().unwrap()
    }

    fn chunk_arrived(&mut self, actor: usize, frame: &Frame) {
        let index = self.message_of(frame);
        let range = frame.range();
        let (start, octets) = (range.start, frame.body.len() as u64);
        for (at, got) in (start..).zip(&frame.body) {
            assert_eq!(*got, octet(index, at), "message {index}, octet {at}");
        }
        let message = &mut self.messages[index];
        assert_eq!(actor, message.to, "message {index} is not for actor {actor}");
        if let Some(end) = range.end.filter(|_| frame.flag != Flag::Aborted) {
            assert_eq!(end + 1, start + octets, "message {index}: {range}");
        }
        let before = message.delivered.last().map_or(0, |(_, end)| *end);
        assert!(start > before, "message {index}: {start} after {before}");
        if !self.links[message.link].faulty {
            assert_eq!(start, before + 1, "a gap in message {index}");
        }
        if frame.flag == Flag::Aborted {
            return;
        }
        if octets > 0 {
            message.delivered.push((start, start + octets - 1));
        }
        if frame.flag == Flag::Last && message.success_report {
            let conn = self.actors[actor].conn.unwrap();
            let report = Request::new("REPORT", &frame.from_path(), &self.actors[actor].uri)
                .header("Message-ID", &frame.message_id())
                .header("Byte-Range", &format!("1-{0}/{0}", message.total))
                .header("Status", "000 200 OK");
            self.world.send(conn, report.octets());
        }
    }

    fn report_arrived(&mut self, actor: usize, frame: &Frame) {
        let index = self.message_of(frame);
        let message = &mut self.messages[index];
        assert_eq!(actor, message.from, "a REPORT for somebody else");
        assert_eq!(frame.to_path(), self.actors[actor].uri);
        if frame.reported() == 200 {
            message.success_reports += 1;
            assert_eq!(message.success_reports, 1, "message {index}");
            return;
        }
        assert_ne!(message.wish, "no", "a REPORT that nobody wanted");
        let range = frame.range();
        let (start, end) = (range.start, range.end.unwrap());
        assert!(end <= message.sent, "message {index}: {range}");
        message.fail(index, start, end);
    }

    fn response_arrived(&mut self, actor: usize, frame: &Frame) {
        let code = frame.status();
        let tid = frame.tid().to_owned();
        let Some(sent) = self.actors[actor].requests.get(&tid).cloned() else {
            panic!("a response to nothing: {frame:?}");
        };
        let earlier = self.actors[actor].responses.insert(tid.clone(), code);
        assert_eq!(earlier, None, "{tid} answered twice");
        if let Sent::Chunk { message: index, start, octets, aborted } = sent {
            let message = &mut self.messages[index];
            match message.wish {
                "no" => panic!("an answer that nobody wanted"),
                "partial" => assert_ne!(code, 200),
                _ => {}
            }
            if code != 200 && !aborted {
                message.fail(index, start, start + octets - 1);
            }
        }
    }

    // -- the end -------------------------------------------------------------------------------

    /// Everything under way arrives, everything is answered, time passes.
    fn settle(&mut self) {
        self.world.hold_parcels = false;
        self.world.read_max = 8192;
        for conn in self.world.conns() {
            self.world.link_mut(conn).window = usize::MAX;
        }
        // What has been begun is sent to its end.
        for _ in 0..20_000 {
            if self.actors.iter().all(|a| a.sending.is_empty() || a.dead) {
                break;
            }
            self.send_chunk();
            if self.dice.chance(5) {
                self.quiet();
            }
        }
        self.faults = false;
        self.quiet();
        // Those who kept silent have had their time, and with them those who waited behind them.
        for _ in 0..50 {
            let sizes = self.world.sizes();
            if (sizes.transactions, sizes.unanswered, sizes.octets_queued) == (0, 0, 0) {
                break;
            }
            self.world.advance(Duration::from_secs(31));
            self.quiet();
        }
        for conn in self.world.conns() {
            let link = self.world.link(conn);
            let stuck = !link.gone && link.closing.is_none() && !link.wire.is_empty();
            assert!(!stuck, "{conn:?} is not read from any more");
        }
        let high = self.world.settings.limits.queue_octets_high;
        let bound = self.by_conn.len() * (high + 16_000 + 2000);
        assert!(self.world.queued_max <= bound, "{}", self.world.queued_max);
        self.world.assert_idle();
        assert_eq!(self.world.sizes().transactions, 0);
    }

    fn quiet(&mut self) {
        loop {
            self.world.run();
            while !self.world.dials.is_empty() || !self.world.look_ups.is_empty() {
                self.decide();
                self.world.run();
            }
            self.collect();
            if self.actors.iter().all(|actor| actor.pending.is_empty()) {
                self.world.run();
                self.collect();
                if self.actors.iter().all(|actor| actor.pending.is_empty()) {
                    return;
                }
            }
            for _ in 0..20 {
                self.let_answer();
            }
        }
    }

    fn check(&self) {
        for (index, message) in self.messages.iter().enumerate() {
            let link = &self.links[message.link];
            if !link.faulty {
                let delivered: u64 = message.delivered.iter().map(|(s, e)| e - s + 1).sum();
                assert_eq!(delivered, message.sent, "message {index} got lost");
                assert!(message.failed.is_empty(), "message {index}: false alarm");
                let expected = usize::from(message.success_report && message.over);
                assert_eq!(message.success_reports, expected, "message {index}");
            }
        }
        for actor in self.actors.iter().filter(|actor| !actor.dead) {
            if actor.conn.is_none_or(|conn| self.world.is_closed(conn)) {
                continue;
            }
            for (tid, sent) in &actor.requests {
                self.check_request(tid, sent, actor.responses.get(tid));
            }
        }
    }

    /// What became of a request whose sender is still there.
    fn check_request(&self, tid: &str, sent: &Sent, response: Option<&u16>) {
        let Sent::Chunk { message: index, start, octets, aborted } = sent else {
            assert!(response.is_some(), "{tid} was never answered");
            return;
        };
        let message = &self.messages[*index];
        if message.wish == "yes" {
            assert!(response.is_some(), "{tid} was never answered");
        }
        if *aborted || message.wish == "no" || self.killed {
            return;
        }
        let mut told: Vec<(u64, u64)> = [&*message.delivered, &*message.failed].concat();
        told.sort_unstable();
        let mut next = *start;
        for (first, last) in told {
            if first <= next {
                next = next.max(last + 1);
            }
        }
        assert!(
            next >= start + octets,
            "octet {next} of message {index} ({}) is unaccounted for: {:?}, failed {:?}",
            message.wish,
            message.delivered,
            message.failed
        );
    }
}

impl Message {
    fn fail(&mut self, index: usize, start: u64, end: u64) {
        let again = self.failed.iter().any(|(s, e)| start <= *e && *s <= end && start <= end);
        assert!(!again, "message {index}: {start}-{end} told of again after {:?}", self.failed);
        self.failed.push((start, end));
    }
}
