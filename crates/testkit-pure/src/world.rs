//! One or several [`Relay`]s as cores, with a stepped clock and scripted endpoints.

mod cores;

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::time::{Duration, Instant};

use bytes::Bytes;
use msrp_proto::digest::{Algorithm, Ha1, TimedNames};
use msrp_proto::parser::{FramePart, Parser, ParserLimits};
use msrp_relay_core::{
    CloseReason, CoreId, Departure, Effect, Event, Expires, Input, Limit, Limits, LookUpAnswer, LookUpTicket,
    MaxChunk, Meeting, Message, OutBatch, PeerKey, Relay, Settings, Stage, TableSizes, Target, Transport,
    Traveller, WebSocket, Who, WriteState,
};

use crate::{Endpoint, Frame};

/// The most bytes that one read brings, unless a test asks for fewer.
pub const READ_MAX: usize = 16 << 10;
pub const HOST: &str = "relay.example.com";
pub const PORT: u16 = 2855;
pub const REALM: &str = "example.com";
/// Where connections come from.
pub const ADDRESS: &str = "198.51.100.7";

/// A connection of the world: an index that is never used again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Conn(pub usize);

/// What the test decides about a dial or a look-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    Now,
    /// Wait for `World::finish_dial` or `World::finish_look_up`.
    Hold,
    Fail,
}

#[derive(Debug)]
pub struct Dial {
    pub core: usize,
    pub key: PeerKey,
    pub target: Target,
    /// The user, address or relay in whose turn it is.
    pub who: Who,
}

#[derive(Debug)]
pub struct LookUp {
    pub core: usize,
    pub ticket: LookUpTicket,
    /// The user, address or relay in whose turn it is.
    pub who: Who,
    pub user: String,
    pub realm: String,
    pub algorithm: Algorithm,
}

/// One connection as the runtime and the far end see it.
pub struct Link {
    pub core: usize,
    pub key: PeerKey,
    pub end: Endpoint,
    /// Sent by the endpoint, not yet read by the relay.
    pub wire: VecDeque<u8>,
    /// All bytes ever sent by the endpoint.
    pub bytes_sent: u64,
    /// Read, not yet parsed.
    unparsed: Vec<u8>,
    parser: Parser,
    pub paused: bool,
    awake: bool,
    /// The endpoint sends nothing more.
    pub ended: bool,
    /// The endpoint reads nothing.
    pub stalled: bool,
    /// Bytes the endpoint still takes before it stalls.
    pub window: usize,
    pub closing: Option<CloseReason>,
    /// The lengths of the messages that the relay has sent, where it is a WebSocket.
    pub messages: Option<Vec<usize>>,
    /// Neither side has the connection any more.
    pub gone: bool,
    pub reader: Reader,
    /// It has left one core and is not at the other one, `core`, yet.
    pub travels: bool,
}

/// What the reader of a connection does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reader {
    /// It reads.
    Reads,
    /// It has a head, which must not be fed yet.
    Parked,
    /// It may look whether it may be fed now.
    Told,
    /// It has something to feed that it has read before: of a connection that has moved, or stays.
    Resumes,
}

/// What is under way from core to core.
#[expect(clippy::large_enum_variant, reason = "nearly all of them are messages, which travel unboxed")]
enum Delivery {
    Message(Message),
    Arrive(Conn, Box<Traveller>),
}

struct Core {
    relay: Option<Relay>,
    incarnation: u16,
    links: HashMap<PeerKey, Conn>,
    out: OutBatch,
    /// An effect is being carried out.
    applying: bool,
}

pub struct World {
    pub now: Instant,
    cores: Vec<Core>,
    links: Vec<Link>,
    deliveries: HashMap<(usize, usize), VecDeque<Delivery>>,
    pub settings: Settings,
    /// Passwords by `user@realm`.
    pub accounts: HashMap<String, String>,
    pub accounts_up: bool,
    pub look_up_decision: Decision,
    pub look_ups: Vec<LookUp>,
    pub dial_decision: Decision,
    pub dials: Vec<Dial>,
    /// Dials that a relay gave up.
    pub dials_given_up: u64,
    /// Connections the relay dialled, in order.
    pub dialled: Vec<(Target, Conn)>,
    /// Messages between cores wait for `deliver`.
    pub hold_messages: bool,
    /// Two sessions on two cores may come together; otherwise they stay where they are.
    pub meets: bool,
    /// Pages that have moved to another core.
    pub pages_moved: u64,
    /// The runtime has something to write wherever a connection could move.
    pub never_quiet: bool,
    /// Bytes per read.
    pub read_max: usize,
    pub events: Vec<String>,
    /// The largest value of `bytes_queued` seen on any core.
    pub queued_max: usize,
    seeds: u8,
}

pub fn settings(cores: usize) -> Settings {
    Settings {
        hostname: HOST.to_owned(),
        realm: None,
        domains: None,
        ports: vec![PORT],
        cores: u16::try_from(cores).unwrap(),
        algorithms: vec![Algorithm::Md5],
        challenge_lifetime: Duration::from_secs(15),
        max_attempts: 3,
        insecure_plain: false,
        sessions: Expires {
            expires_min: 60,
            expires_default: 600,
            expires_max: 3600,
            enforce_default: false,
        },
        methods_allow_other: true,
        relays: None,
        serves_relays: true,
        unproven_relays_refused: false,
        tls_port: Some(PORT),
        outbound_plain: true,
        timed_names: TimedNames::None,
        max_chunk: MaxChunk::default(),
        websocket: WebSocket { max_message: 64 << 10, window: 1 << 20, secure: true, port: PORT },
        limits: Limits::default(),
    }
}

impl World {
    pub fn new(cores: usize) -> Self {
        Self::with(settings(cores))
    }

    pub fn with(settings: Settings) -> Self {
        let now = Instant::now();
        let accounts = [("alice", "1234"), ("bob", "5678"), ("carol", "9abc")]
            .map(|(user, password)| (format!("{user}@{REALM}"), password.to_owned()));
        let mut world = Self {
            now,
            cores: Vec::new(),
            links: Vec::new(),
            deliveries: HashMap::new(),
            settings,
            accounts: accounts.into(),
            accounts_up: true,
            look_up_decision: Decision::Now,
            look_ups: Vec::new(),
            dial_decision: Decision::Now,
            dials: Vec::new(),
            dials_given_up: 0,
            dialled: Vec::new(),
            hold_messages: false,
            meets: false,
            pages_moved: 0,
            never_quiet: false,
            read_max: READ_MAX,
            events: Vec::new(),
            queued_max: 0,
            seeds: 0,
        };
        for index in 0..world.settings.cores {
            let relay = world.new_relay(index, 0);
            world.cores.push(Core {
                relay: Some(relay),
                incarnation: 0,
                links: HashMap::new(),
                out: OutBatch::new(),
                applying: false,
            });
        }
        world
    }

    fn new_relay(&mut self, index: u16, incarnation: u16) -> Relay {
        self.seeds += 1;
        let me = CoreId { index, incarnation };
        Relay::new(me, self.settings.clone(), [self.seeds; 32], self.now)
    }

    // -- connections ---------------------------------------------------------------------------

    /// A TLS connection from outside.
    pub fn connect(&mut self, core: usize) -> Conn {
        self.connect_by(core, true)
    }

    pub fn connect_by(&mut self, core: usize, secure: bool) -> Conn {
        self.try_connect(core, secure, ADDRESS).unwrap()
    }

    /// A connection from an address of the test's choice.
    pub fn try_connect(&mut self, core: usize, secure: bool, address: &str) -> Result<Conn, Limit> {
        self.accept(core, Transport { secure, port: PORT, websocket: false }, address)
    }

    /// A WebSocket from outside: what it is sent are whole frames, each in a message of its own.
    pub fn connect_web(&mut self, core: usize) -> Conn {
        self.try_connect_web(core).unwrap()
    }

    /// The same where a core may be short of memory.
    pub fn try_connect_web(&mut self, core: usize) -> Result<Conn, Limit> {
        let transport = Transport { secure: true, port: 443, websocket: true };
        let conn = self.accept(core, transport, ADDRESS)?;
        let link = &mut self.links[conn.0];
        link.messages = Some(Vec::new());
        link.end.uri = format!("msrps://page{0}.invalid:2855/endpoint{0};ws", conn.0);
        Ok(conn)
    }

    fn accept(&mut self, core: usize, transport: Transport, address: &str) -> Result<Conn, Limit> {
        let now = self.now;
        let accepted = self.relay(core).accept(now, transport, address.parse().unwrap());
        let accepted = accepted.map(|key| self.add_link(core, key));
        if let Err(limit) = accepted {
            // The runtime reports a connection that the relay does not accept.
            self.events.push(format!("{:?}", Event::LimitReached { limit, peer: None, user: None }));
        }
        self.apply(core);
        accepted
    }

    /// A connection from outside has reached a stage that a runtime reports.
    pub fn advance_to(&mut self, conn: Conn, stage: Stage) {
        let Link { core, key, .. } = self.links[conn.0];
        self.input(core, Input::Advanced { peer: key, stage });
    }

    fn add_link(&mut self, core: usize, key: PeerKey) -> Conn {
        let conn = Conn(self.links.len());
        self.links.push(Link {
            core,
            key,
            end: Endpoint::new(conn.0),
            wire: VecDeque::new(),
            bytes_sent: 0,
            unparsed: Vec::new(),
            parser: Parser::new(ParserLimits::default()),
            paused: false,
            awake: false,
            ended: false,
            stalled: false,
            window: usize::MAX,
            closing: None,
            messages: None,
            gone: false,
            reader: Reader::Reads,
            travels: false,
        });
        self.cores[core].links.insert(key, conn);
        conn
    }

    pub fn link(&self, conn: Conn) -> &Link {
        &self.links[conn.0]
    }

    pub fn link_mut(&mut self, conn: Conn) -> &mut Link {
        &mut self.links[conn.0]
    }

    pub fn conns(&self) -> impl Iterator<Item = Conn> + use<> {
        (0..self.links.len()).map(Conn)
    }

    pub fn end(&mut self, conn: Conn) -> &mut Endpoint {
        &mut self.links[conn.0].end
    }

    pub fn is_closed(&self, conn: Conn) -> bool {
        self.links[conn.0].gone
    }

    /// The endpoint sends bytes; `run` lets the relay read them.
    pub fn send(&mut self, conn: Conn, bytes: impl AsRef<[u8]>) {
        let link = &mut self.links[conn.0];
        link.bytes_sent += bytes.as_ref().len() as u64;
        link.wire.extend(bytes.as_ref());
    }

    /// How many of the sent bytes have reached the relay, as whole parts.
    pub fn bytes_taken(&self, conn: Conn) -> u64 {
        let link = &self.links[conn.0];
        link.bytes_sent - (link.wire.len() + link.unparsed.len()) as u64
    }

    /// The connection breaks off.
    pub fn lose(&mut self, conn: Conn) {
        let link = &mut self.links[conn.0];
        if link.gone {
            return;
        }
        link.gone = true;
        link.wire.clear();
        let (core, key) = (link.core, link.key);
        if link.travels {
            // The core that it comes to finds that out.
            return;
        }
        self.cores[core].links.remove(&key);
        self.input(core, Input::Lost { peer: key });
    }

    /// The endpoint ends its side once all that it has sent is read.
    pub fn end_of_stream(&mut self, conn: Conn) {
        while self.read(conn) {}
        let (core, peer) = (self.link(conn).core, self.link(conn).key);
        self.input(core, Input::Ended { peer });
    }

    /// The endpoint ends its side once all it has sent is read; it still takes what comes.
    pub fn hang_up(&mut self, conn: Conn) {
        self.links[conn.0].ended = true;
    }

    /// Takes the frames that arrived whole at the endpoint.
    pub fn take(&mut self, conn: Conn) -> Vec<Frame> {
        self.links[conn.0].end.take()
    }

    /// Runs, then takes the one frame that must have arrived.
    pub fn take_one(&mut self, conn: Conn) -> Frame {
        self.run();
        let mut frames = self.take(conn);
        assert_eq!(frames.len(), 1, "one frame expected, got {frames:#?}");
        frames.remove(0)
    }

    /// The same; `None` if the relay has closed the connection without a word.
    pub fn take_one_unless_closed(&mut self, conn: Conn) -> Option<Frame> {
        self.run();
        let mut frames = self.take(conn);
        if frames.is_empty() && self.is_closed(conn) {
            return None;
        }
        assert_eq!(frames.len(), 1, "one frame expected, got {frames:#?}");
        frames.pop()
    }

    // -- running -------------------------------------------------------------------------------

    pub fn relay(&mut self, core: usize) -> &mut Relay {
        self.cores[core].relay.as_mut().unwrap()
    }

    /// Runs until nothing more happens without time passing or a decision of the test.
    pub fn run(&mut self) {
        while self.step_all() {}
    }

    fn step_all(&mut self) -> bool {
        let mut progress = false;
        for n in 0..self.links.len() {
            progress |= self.read(Conn(n));
        }
        progress |= self.decide();
        if !self.hold_messages {
            progress |= self.deliver_all();
        }
        for n in 0..self.links.len() {
            progress |= self.write(Conn(n));
        }
        for n in 0..self.links.len() {
            let link = &mut self.links[n];
            let answers = link.end.answer_now();
            progress |= !answers.is_empty();
            link.bytes_sent += answers.len() as u64;
            link.wire.extend(answers);
        }
        progress
    }

    /// Answers the look-ups and dials that the test does not hold.
    fn decide(&mut self) -> bool {
        let mut progress = false;
        while self.look_up_decision != Decision::Hold && !self.look_ups.is_empty() {
            self.finish_look_up(0);
            progress = true;
        }
        while self.dial_decision != Decision::Hold && !self.dials.is_empty() {
            self.finish_dial(0, self.dial_decision == Decision::Now);
            progress = true;
        }
        progress
    }

    /// One read of a connection and all that follows from it on its core.
    pub fn read(&mut self, conn: Conn) -> bool {
        let read_max = self.read_max;
        let link = &mut self.links[conn.0];
        if link.gone || link.travels || link.closing.is_some() {
            return false;
        }
        match link.reader {
            Reader::Parked => return false,
            Reader::Told => {
                self.go_on(conn);
                return true;
            }
            Reader::Resumes => {
                link.reader = Reader::Reads;
                self.parse(conn, true);
                return true;
            }
            Reader::Reads => {}
        }
        if link.paused {
            return false;
        }
        if link.wire.is_empty() {
            let (core, peer) = (link.core, link.key);
            let ended = mem::take(&mut link.ended);
            if ended {
                self.input(core, Input::Ended { peer });
            }
            return ended;
        }
        let bytes = link.wire.len().min(read_max);
        let (front, back) = link.wire.as_slices();
        let in_front = front.len().min(bytes);
        link.unparsed.extend_from_slice(&front[..in_front]);
        link.unparsed.extend_from_slice(&back[..bytes - in_front]);
        link.wire.drain(..bytes);
        self.parse(conn, false);
        true
    }

    /// Feeds what has been read. The relay has been asked about the first head, if that `may` be fed.
    fn parse(&mut self, conn: Conn, mut may: bool) {
        let link = &mut self.links[conn.0];
        let (core, peer) = (link.core, link.key);
        let mut unparsed = mem::take(&mut link.unparsed);
        let mut parser = link.parser.clone();
        let mut at = 0;
        // Like a runtime, feeds everything that has been read, even if the relay says Pause meanwhile.
        while !self.links[conn.0].gone && self.links[conn.0].closing.is_none() {
            let before = self.meets.then(|| parser.clone());
            let step = parser.step(&unparsed[at..]);
            if let (Ok(Some(step)), Some(before)) = (&step, before)
                && let FramePart::Head(head) = &step.piece
                && !mem::take(&mut may)
            {
                let (now, bytes) = (self.now, &unparsed[at..at + step.consumed]);
                let meeting = self.relay(core).meet(now, peer, head, bytes);
                // Asked before what follows, which may be the answer.
                if meeting == Meeting::Asked {
                    self.links[conn.0].reader = Reader::Parked;
                    parser = before;
                }
                self.apply(core);
                if meeting == Meeting::Asked {
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
        let link = &mut self.links[conn.0];
        link.unparsed = unparsed;
        link.parser = parser;
        self.input(core, Input::Unfinished { peer, bytes });
    }

    /// A reader that was parked goes on, here or elsewhere.
    fn go_on(&mut self, conn: Conn) {
        let (now, quiet) = (self.now, !self.never_quiet);
        let Link { core, key, .. } = self.links[conn.0];
        let departure = self.relay(core).depart(now, key, quiet);
        self.apply(core);
        let link = &mut self.links[conn.0];
        match departure {
            Departure::Waits => link.reader = Reader::Parked,
            Departure::Stays => link.reader = Reader::Resumes,
            Departure::Leaves(traveller) => {
                assert!(!link.awake || quiet, "it has something to write");
                let to = usize::from(traveller.to().index);
                self.cores[core].links.remove(&key);
                (link.core, link.travels) = (to, true);
                self.deliveries.entry((core, to)).or_default().push_back(Delivery::Arrive(conn, traveller));
            }
        }
    }

    /// A connection comes to a core, as it left the one before.
    fn arrive(&mut self, core: usize, conn: Conn, traveller: Traveller) {
        let now = self.now;
        self.links[conn.0].travels = false;
        let key = self.cores[core].relay.as_mut().and_then(|relay| relay.arrive(now, traveller));
        let link = &mut self.links[conn.0];
        let was_lost = mem::replace(&mut link.gone, key.is_none());
        let Some(key) = key else {
            link.wire.clear();
            if self.is_up(core) {
                self.apply(core);
            }
            return;
        };
        (link.key, link.reader, link.paused, link.awake) = (key, Reader::Resumes, false, false);
        link.parser = Parser::new(ParserLimits::default());
        self.pages_moved += u64::from(link.messages.is_some());
        self.cores[core].links.insert(key, conn);
        self.apply(core);
        if was_lost {
            self.lose(conn);
        }
    }

    /// Lets the relay write to a connection until it has nothing more, as a runtime would.
    pub fn write(&mut self, conn: Conn) -> bool {
        let mut progress = false;
        loop {
            let link = &mut self.links[conn.0];
            if link.gone || link.travels || !link.awake || link.stalled || link.window == 0 {
                return progress;
            }
            progress = true;
            let (core, key) = (link.core, link.key);
            let mut out = mem::take(&mut self.cores[core].out);
            out.clear();
            let now = self.now;
            let state = self.relay(core).poll_write(now, key, &mut out);
            let link = &mut self.links[conn.0];
            link.window = link.window.saturating_sub(out.len());
            assert_eq!(out.len(), out.parts().map(<[u8]>::len).sum::<usize>());
            link.end.flush += u64::from(!out.is_empty());
            for part in out.parts() {
                link.end.receive(part);
            }
            let ends = out.frame_ends();
            match &mut link.messages {
                Some(messages) => {
                    assert_eq!(ends.last().copied().unwrap_or(0), out.len(), "a message within a frame");
                    assert!(!link.end.in_frame(), "half a frame");
                    let starts = [0].iter().chain(ends);
                    messages.extend(ends.iter().zip(starts).map(|(end, start)| end - start));
                }
                None => assert!(ends.is_empty(), "messages where there are none"),
            }
            if out.is_empty() {
                link.awake = false;
            }
            self.cores[core].out = out;
            self.check_budget(core);
            self.apply(core);
            if state == WriteState::Finished {
                assert!(self.links[conn.0].closing.is_some(), "finished without having been closed");
                self.lose(conn);
                return true;
            }
        }
    }

    pub fn input(&mut self, core: usize, input: Input) {
        if self.cores[core].relay.is_none() {
            return;
        }
        let now = self.now;
        let relay = self.relay(core);
        relay.handle(now, input);
        let queued = self.check_budget(core).bytes_queued;
        self.queued_max = self.queued_max.max(queued);
        self.apply(core);
    }

    /// At all times, the memory budget knows of exactly what a core keeps.
    fn check_budget(&mut self, core: usize) -> TableSizes {
        let sizes = self.relay(core).table_sizes();
        assert_eq!(sizes.bytes_kept, sizes.bytes_counted, "kept, and counted against the budget");
        sizes
    }

    /// Does what the relay asks for. An effect may lead to more effects: those come after the ones that are due
    /// already.
    fn apply(&mut self, core: usize) {
        while let Some((to, messages)) = self.relay(core).poll_messages() {
            let to = usize::from(to.index);
            self.deliveries
                .entry((core, to))
                .or_default()
                .extend(messages.into_iter().map(Delivery::Message));
        }
        if mem::replace(&mut self.cores[core].applying, true) {
            return;
        }
        while let Some(effect) = self.relay(core).poll_effect() {
            self.apply_one(core, effect);
        }
        self.cores[core].applying = false;
    }

    fn apply_one(&mut self, core: usize, effect: Effect) {
        match effect {
            Effect::Wake(key) => self.with_link(core, key, |link| link.awake = true),
            Effect::Pause(key) => self.with_link(core, key, |link| {
                assert!(!link.paused, "paused twice");
                link.paused = true;
            }),
            Effect::Resume(key) => self.with_link(core, key, |link| {
                assert!(link.paused, "resumed twice");
                link.paused = false;
            }),
            Effect::GoOn(key) => self.with_link(core, key, |link| {
                assert!(matches!(link.reader, Reader::Parked | Reader::Told), "nothing was parked");
                link.reader = Reader::Told;
            }),
            Effect::Close { peer, reason } => {
                if let Some(at) = self.dials.iter().position(|d| d.core == core && d.key == peer) {
                    self.dials.remove(at);
                    self.dials_given_up += 1;
                    self.input(core, Input::Lost { peer });
                    return;
                }
                self.with_link(core, peer, |link| {
                    link.closing = Some(reason);
                    link.awake = true;
                });
            }
            Effect::Abort { peer, reason } => {
                if let Some(conn) = self.cores[core].links.get(&peer).copied() {
                    self.links[conn.0].closing = Some(reason);
                    // The relay has forgotten it, and ignores the news that it is gone.
                    self.lose(conn);
                }
            }
            Effect::Connect { peer, target, who } => {
                let dial = Dial { core, key: peer, target, who };
                self.dials.push(dial);
            }
            Effect::LookUp { ticket, who, attempt } => {
                let (user, realm) = (attempt.user().to_owned(), attempt.realm().to_owned());
                let algorithm = attempt.algorithm();
                self.look_ups.push(LookUp { core, ticket, who, user, realm, algorithm });
            }
            Effect::Event(event) => {
                if let Event::SessionOpened { session, .. } = &event {
                    assert!(session.len() < 28, "a session id in a log");
                }
                self.events.push(format!("{event:?}"));
            }
        }
    }

    fn with_link(&mut self, core: usize, key: PeerKey, act: impl FnOnce(&mut Link)) {
        // An effect may name a connection that broke off in the same turn.
        if let Some(conn) = self.cores[core].links.get(&key) {
            act(&mut self.links[conn.0]);
        }
    }

    /// Ends a held dial: the connection is up, or failed.
    pub fn finish_dial(&mut self, index: usize, up: bool) -> Option<Conn> {
        let Dial { core, key, target, .. } = self.dials.remove(index);
        if up {
            let conn = self.add_link(core, key);
            self.dialled.push((target, conn));
            self.input(core, Input::Connected { peer: key });
            Some(conn)
        } else {
            self.input(core, Input::DialFailed { peer: key });
            None
        }
    }

    /// Answers a held look-up, from the table of accounts.
    pub fn finish_look_up(&mut self, index: usize) {
        let look_up = self.look_ups.remove(index);
        let (user, realm) = (&look_up.user, &look_up.realm);
        let answer = match self.accounts.get(&format!("{user}@{realm}")) {
            _ if !self.accounts_up || self.look_up_decision == Decision::Fail => LookUpAnswer::Unavailable,
            Some(password) => LookUpAnswer::Found(Ha1::new(look_up.algorithm, user, realm, password)),
            None => LookUpAnswer::Unknown,
        };
        let ticket = look_up.ticket;
        self.input(look_up.core, Input::LookedUp { ticket, answer });
    }
}
