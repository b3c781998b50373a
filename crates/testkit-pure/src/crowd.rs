//! A relay of one core with many clients, without sockets and without the tests' world: what a message, an AUTH and the
//! end of a session cost as the sessions grow more.
//!
//! Each client has a connection and a session of its own, and an address. Either clients that came one after the other
//! are a pair, and the first one writes to the second; or all are written to by one connection, as if their peers were
//! all behind one other relay. The relay is driven as the runtime does it; only its own calls are
//! watched. Used by `benches/relay.rs` and `crates/msrp-relay-core/tests/core/growth.rs`.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use msrp_proto::digest::{Algorithm, Challenge, Ha1, NonceUse};
use msrp_proto::parser::{FramePart, Parser, ParserLimits};
use msrp_relay_core::{
    CoreId, Effect, Input, LookUpAnswer, OutBatch, PeerKey, Relay, Settings, Transport, WriteState,
};

use crate::rig::Watch;
use crate::{HOST, PORT, REALM, settings};

/// How long a session is asked for. So long that the clock can be moved on without ending any.
const LIFE: Duration = Duration::from_secs(100_000_000);
/// The same for sessions that end before all others.
const SHORT_LIFE: Duration = Duration::from_secs(60);
/// The clock moves on by so much from one client to the next: no two sessions end at one moment.
const STEP: Duration = Duration::from_secs(1);
/// Longer than a transaction is open: alarms that were set before are due.
const LATER: Duration = Duration::from_secs(60);
/// The body of each message.
const BODY: [u8; 200] = [b'x'; 200];
/// One core.
const ME: CoreId = CoreId { index: 0, incarnation: 1 };

struct Client {
    number: u32,
    peer: PeerKey,
    /// The URI that the relay has granted.
    session: Box<str>,
}

impl Client {
    /// Where it says it is.
    fn own(number: u32) -> String {
        format!("msrps://c{number}.invalid:9/s;tcp")
    }
}

/// The relay and its clients, the one that came first in front.
pub struct Crowd<W> {
    relay: Relay,
    watch: W,
    now: Instant,
    clients: VecDeque<Client>,
    /// The connection that writes to all of them.
    stranger: Option<PeerKey>,
    users: u32,
    entered: u32,
    spoken: u32,
    parser: Parser,
    out: OutBatch,
    /// To whom the relay is listened to, and what it has sent there.
    hearer: Option<PeerKey>,
    heard: Vec<u8>,
    /// Of the user who is just authenticating.
    ha1: Option<Ha1>,
}

/// No limit is reached, and users are counted, which is more work than if they were not.
fn roomy() -> Settings {
    let mut settings = settings(1);
    settings.sessions.expires_max = LIFE.as_secs();
    let limits = &mut settings.limits;
    limits.connections_per_core_max = usize::MAX;
    limits.unauthenticated_per_core_max = usize::MAX;
    limits.connections_per_address_max = u32::MAX;
    limits.unauthenticated_per_address_max = u32::MAX;
    limits.sessions_per_user_max = u32::MAX;
    limits.bytes_per_second_per_user_max = 1 << 40;
    limits.queue_bytes_total = usize::MAX / 2;
    limits.idle_timeout = LIFE;
    settings
}

impl<W: Watch> Crowd<W> {
    /// No clients yet. Those that enter belong to so many users in turn, each user at one address.
    pub fn new(users: u32, now: Instant, watch: W) -> Self {
        Self {
            relay: Relay::new(ME, roomy(), [7; 32], now),
            watch,
            now,
            clients: VecDeque::new(),
            stranger: None,
            users,
            entered: 0,
            spoken: 0,
            parser: Parser::new(ParserLimits::default()),
            out: OutBatch::new(),
            hearer: None,
            heard: Vec::new(),
            ha1: None,
        }
    }

    /// From here on one connection writes to the clients, instead of their pair.
    pub fn add_stranger(&mut self) {
        let transport = Transport { secure: true, port: PORT, websocket: false };
        let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        self.stranger = Some(self.relay.accept(self.now, transport, address).unwrap());
    }

    pub fn relay(&self) -> &Relay {
        &self.relay
    }

    pub fn watch(&self) -> &W {
        &self.watch
    }

    pub fn len(&self) -> usize {
        self.clients.len()
    }

    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// How many can be written to: those whose time may be over are not among them.
    pub fn hearers(&self) -> usize {
        let (first, end) = self.speakers();
        (end - first) as usize / self.stride() as usize
    }

    /// From one that is written to to the next.
    fn stride(&self) -> u32 {
        if self.stranger.is_some() { 1 } else { 2 }
    }

    /// Bytes that the crowd itself keeps for its clients.
    pub fn own_bytes(&self) -> usize {
        let of_clients = self.clients.capacity() * size_of::<Client>();
        of_clients + self.clients.iter().map(|client| client.session.len()).sum::<usize>()
    }

    /// One more client connects and authenticates: AUTH, challenge, AUTH, look-up, grant.
    pub fn enter(&mut self) {
        self.enter_for(LIFE);
    }

    fn enter_for(&mut self, life: Duration) {
        let number = self.entered;
        self.entered += 1;
        self.now += STEP;
        let user = number % self.users;
        let address = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | user));
        let transport = Transport { secure: true, port: PORT, websocket: false };
        self.watch.begin();
        let accepted = self.relay.accept(self.now, transport, address);
        self.watch.end();
        let peer = accepted.unwrap();
        let name = format!("user{user}");
        self.ha1 = Some(Ha1::new(Algorithm::Md5, &name, REALM, "secret"));
        let to = format!("msrps://{HOST}:{PORT};tcp");
        let (own, seconds) = (Client::own(number), life.as_secs());
        let head = format!("To-Path: {to}\r\nFrom-Path: {own}\r\nExpires: {seconds}\r\n");
        let tid = format!("a{number:07}");
        self.say(peer, format!("MSRP {tid} AUTH\r\n{head}-------{tid}$\r\n").as_bytes(), peer);
        let asked = header(&self.heard, "WWW-Authenticate");
        let challenge = Challenge::parse(asked.as_bytes()).unwrap();
        let nonce = NonceUse { nc: 1, cnonce: "cnonce" };
        let answer = challenge.answer(&name, self.ha1.as_ref().unwrap(), to.as_bytes(), nonce);
        let head = format!("{head}Authorization: {answer}\r\n");
        self.say(peer, format!("MSRP {tid} AUTH\r\n{head}-------{tid}$\r\n").as_bytes(), peer);
        let session = header(&self.heard, "Use-Path").into();
        self.clients.push_back(Client { number, peer, session });
    }

    /// The client that has been there for longest goes, and with it its session.
    pub fn leave(&mut self) {
        let client = self.clients.pop_front().unwrap();
        self.feed(Input::Lost { peer: client.peer });
    }

    /// The client that came last goes.
    pub fn leave_again(&mut self) {
        let client = self.clients.pop_back().unwrap();
        self.entered = client.number;
        self.feed(Input::Lost { peer: client.peer });
    }

    /// The time of the session that was granted first is over: the relay ends it.
    pub fn expire(&mut self) {
        let sessions = self.relay.stats().sessions_closed;
        while self.relay.stats().sessions_closed == sessions {
            self.tick();
        }
        let ended = self.relay.stats().sessions_closed - sessions;
        assert_eq!(ended, 1, "no two end at one moment");
    }

    /// The client whose session has just ended goes. Its connection would stay, for another AUTH.
    pub fn leave_expired(&mut self) {
        self.leave();
    }

    /// So many clients come for a short time, and all go in the end. Before that, `each` lets one of their sessions end.
    pub fn enter_and_expire(&mut self, count: u32, mut each: impl FnMut(&mut Self)) {
        let entered = self.entered;
        for _ in 0..count {
            self.enter_for(SHORT_LIFE);
            self.meet_last();
        }
        for _ in 0..count {
            each(self);
        }
        for _ in 0..count {
            self.leave_again();
        }
        assert_eq!(self.entered, entered);
    }

    /// All alarms that are set for transactions by now are due, and handled one by one. Returns how many those were.
    pub fn pass_alarms(&mut self) -> u32 {
        let (until, mut count) = (self.now + LATER, 0);
        while self.relay.next_deadline().is_some_and(|at| at <= until) {
            self.tick();
            count += 1;
        }
        self.now = until;
        count
    }

    /// Moves the clock on to when the relay wants it, and tells it.
    fn tick(&mut self) {
        let due = self.relay.next_deadline().unwrap();
        self.now = self.now.max(due);
        self.feed(Input::Tick);
    }

    /// Clients that may speak, by their numbers: those that came first may be about to end.
    fn speakers(&self) -> (u32, u32) {
        let count = u32::try_from(self.clients.len()).unwrap();
        let first = self.entered - count + count / 10;
        let stride = self.stride();
        (first.next_multiple_of(stride), self.entered / stride * stride)
    }

    /// One of the [`hearers`](Self::hearers) is written to: 200 bytes, forwarded, and answered on both sides.
    pub fn message(&mut self, hearer: usize) {
        let from = self.speakers().0 + self.stride() * u32::try_from(hearer).unwrap();
        let index = (from + u32::try_from(self.clients.len()).unwrap() - self.entered) as usize;
        self.spoken += 1;
        self.now += Duration::from_micros(1);
        let tid = format!("s{:09}", self.spoken);
        let sender = &self.clients[index];
        let (at, receiver, through) = match self.stranger {
            Some(stranger) => (stranger, sender, String::new()),
            None => (sender.peer, &self.clients[index + 1], format!("{} ", sender.session)),
        };
        let (back, sender_uri, receiver_uri) =
            (receiver.peer, Client::own(from), Client::own(receiver.number));
        let mut send = format!(
            "MSRP {tid} SEND\r\nTo-Path: {through}{} {receiver_uri}\r\nFrom-Path: {sender_uri}\r\n\
             Message-ID: m{tid}\r\nByte-Range: 1-200/200\r\nContent-Type: text/plain\r\n\r\n",
            receiver.session
        )
        .into_bytes();
        send.extend_from_slice(&BODY);
        send.extend_from_slice(format!("\r\n-------{tid}$\r\n").as_bytes());
        self.say(at, &send, back);
        let forwarded = String::from_utf8_lossy(&self.heard);
        let tid = forwarded.split(' ').nth(1).unwrap_or_default();
        let path = header(&self.heard, "From-Path");
        let previous = path.split(' ').next().unwrap_or_default();
        let to_from = format!("To-Path: {previous}\r\nFrom-Path: {receiver_uri}\r\n");
        let answer = format!("MSRP {tid} 200 OK\r\n{to_from}-------{tid}$\r\n");
        self.say(back, answer.as_bytes(), at);
    }

    /// Where one connection writes to all, it does to the client that came last.
    pub fn meet_last(&mut self) {
        if self.stranger.is_some() {
            self.message(self.hearers() - 1);
        }
    }

    /// What a connection sends. What the relay sends to `hearer` is in `heard` after it.
    fn say(&mut self, peer: PeerKey, bytes: &[u8], hearer: PeerKey) {
        self.hearer = Some(hearer);
        self.heard.clear();
        let bytes = Bytes::copy_from_slice(bytes);
        let mut at = 0;
        while let Some(step) = self.parser.step(&bytes[at..]).unwrap() {
            let input = match step.piece {
                FramePart::Head(head) => {
                    Input::Head { peer, head, bytes: bytes.slice(at..at + step.consumed) }
                }
                FramePart::Body(range) => {
                    Input::Body { peer, bytes: bytes.slice(at + range.start..at + range.end) }
                }
                FramePart::End(flag) => Input::End { peer, flag },
                FramePart::Blank => Input::Blank { peer, bytes: step.consumed },
            };
            at += step.consumed;
            self.feed(input);
        }
        assert_eq!(at, bytes.len(), "a frame is whole");
    }

    fn feed(&mut self, input: Input) {
        self.handle(input);
        while let Some(effect) = self.relay.poll_effect() {
            match effect {
                Effect::Wake(peer) => self.write(peer),
                Effect::LookUp { ticket, .. } => {
                    let answer = LookUpAnswer::Found(self.ha1.clone().unwrap());
                    self.handle(Input::LookedUp { ticket, answer });
                }
                Effect::Pause(_) | Effect::Resume(_) | Effect::Event(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn handle(&mut self, input: Input) {
        self.watch.begin();
        self.relay.handle(self.now, input);
        self.watch.end();
    }

    fn write(&mut self, peer: PeerKey) {
        loop {
            self.out.clear();
            self.watch.begin();
            let state = self.relay.poll_write(self.now, peer, &mut self.out);
            self.watch.end();
            if self.hearer == Some(peer) {
                self.out.parts().for_each(|part| self.heard.extend_from_slice(part));
            }
            if self.out.is_empty() || state != WriteState::Open {
                return;
            }
        }
    }
}

/// The value of the first header of this name.
fn header(text: &[u8], name: &str) -> String {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.split("\r\n");
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
}
