//! A relay of one core with many clients, without sockets and without the tests' world: what a message, an AUTH and the
//! end of a session cost as the sessions grow more. Used by `benches/relay.rs`.
//!
//! Every client has a connection and a session of its own, which is asked for for [`LIFE`]. Clients speak in pairs that
//! change: so each message meets sessions that no message has met for long.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use msrp_proto::digest::{Challenge, Ha1, NonceUse};
use msrp_proto::parser::{FramePart, Parser, ParserLimits};
use msrp_relay_core::{
    CoreId, Effect, Input, LookUpAnswer, OutBatch, PeerKey, Relay, Settings, Transport, WriteState,
};

use crate::world::{PORT, REALM, settings};

/// How long a session lives.
const LIFE: Duration = Duration::from_secs(3600);
/// Of each message.
const BODY: &[u8] = &[b'x'; 200];
/// The clock moves by so much with each session: no two end at one moment.
const STEP: Duration = Duration::from_micros(1);

struct Client {
    peer: PeerKey,
    /// Where it says it is.
    own: String,
    /// What the relay has given it.
    session: String,
}

/// The relay and its clients, the one that came first in front.
pub struct Crowd {
    relay: Relay,
    now: Instant,
    clients: VecDeque<Client>,
    entered: u32,
    spoken: usize,
    parser: Parser,
    out: OutBatch,
    /// To whom the relay is listened to, and what it has sent there.
    hearer: Option<PeerKey>,
    heard: Vec<u8>,
    ha1: Ha1,
    /// By the relay's own calls.
    spent: Duration,
}

fn roomy() -> Settings {
    let mut settings = settings(1);
    let limits = &mut settings.limits;
    limits.connections_per_core_max = usize::MAX;
    limits.unauthenticated_per_core_max = usize::MAX;
    limits.connections_per_address_max = u32::MAX;
    limits.unauthenticated_per_address_max = u32::MAX;
    limits.queue_bytes_total = usize::MAX / 2;
    settings
}

impl Crowd {
    /// So many clients, each with a session.
    pub fn new(sessions: usize, now: Instant) -> Self {
        let id = CoreId { index: 0, incarnation: 1 };
        let mut crowd = Self {
            relay: Relay::new(id, roomy(), [7; 32], now),
            now,
            clients: VecDeque::new(),
            entered: 0,
            spoken: 0,
            parser: Parser::new(ParserLimits::default()),
            out: OutBatch::new(),
            hearer: None,
            heard: Vec::new(),
            spent: Duration::ZERO,
            ha1: Ha1::new(msrp_proto::digest::Algorithm::Md5, "alice", REALM, "secret"),
        };
        for _ in 0..sessions {
            crowd.enter();
        }
        crowd
    }

    /// One more client connects and authenticates: AUTH, challenge, AUTH, look-up, grant.
    pub fn enter(&mut self) {
        self.now += STEP;
        let number = self.entered;
        self.entered += 1;
        // Users, addresses and sessions are as many as clients.
        let address = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | number & 0x00ff_ffff));
        let transport = Transport { secure: true, port: PORT };
        let peer = self.relay.accept(self.now, transport, address).unwrap();
        let own = format!("msrps://c{number}.invalid:9/s;tcp");
        let to = format!("msrps://{}:{PORT};tcp", crate::HOST);
        let head = format!("To-Path: {to}\r\nFrom-Path: {own}\r\nExpires: {}\r\n", LIFE.as_secs());
        self.say(peer, format!("MSRP a{number:07} AUTH\r\n{head}-------a{number:07}$\r\n").as_bytes(), peer);
        let asked = header(&self.heard, "WWW-Authenticate");
        let challenge = Challenge::parse(asked.as_bytes()).unwrap();
        let usage = NonceUse { nc: 1, cnonce: "cnonce" };
        let answer = challenge.answer("alice", &self.ha1, to.as_bytes(), usage);
        let head = format!("{head}Authorization: {answer}\r\n");
        self.say(peer, format!("MSRP b{number:07} AUTH\r\n{head}-------b{number:07}$\r\n").as_bytes(), peer);
        let session = header(&self.heard, "Use-Path");
        self.clients.push_back(Client { peer, own, session });
    }

    /// The client that has been there for longest goes, and with it its session.
    pub fn leave(&mut self) {
        let Some(client) = self.clients.pop_front() else { return };
        self.feed(Input::Lost { peer: client.peer });
    }

    /// The time of the oldest session is over: the relay ends it, and closes its connection.
    pub fn expire(&mut self) {
        let Some(client) = self.clients.pop_front() else { return };
        let due = self.relay.next_deadline().unwrap();
        self.now = self.now.max(due);
        self.feed(Input::Tick);
        self.feed(Input::Lost { peer: client.peer });
    }

    /// One client that has not spoken for longest sends to the next but half of the crowd: 200 bytes, forwarded, and
    /// answered on both sides.
    pub fn message(&mut self) {
        let count = self.clients.len();
        let from = self.spoken % (count / 2);
        let to = from + count / 2;
        self.spoken += 1;
        let number = self.spoken;
        let (sender, receiver) = (&self.clients[from], &self.clients[to]);
        let (at, back) = (sender.peer, receiver.peer);
        let send = format!(
            "MSRP s{number:09} SEND\r\nTo-Path: {} {} {}\r\nFrom-Path: {}\r\nMessage-ID: m{number}\r\n\
             Byte-Range: 1-200/200\r\nContent-Type: text/plain\r\n\r\n",
            sender.session, receiver.session, receiver.own, sender.own
        );
        let mut send = send.into_bytes();
        send.extend_from_slice(BODY);
        send.extend_from_slice(format!("\r\n-------s{number:09}$\r\n").as_bytes());
        let own = receiver.own.clone();
        self.say(at, &send, back);
        let forwarded = String::from_utf8_lossy(&self.heard);
        let tid = forwarded.split(' ').nth(1).unwrap_or_default();
        let path = header(&self.heard, "From-Path");
        let previous = path.split(' ').next().unwrap_or_default();
        let answer =
            format!("MSRP {tid} 200 OK\r\nTo-Path: {previous}\r\nFrom-Path: {own}\r\n-------{tid}$\r\n");
        self.say(back, answer.as_bytes(), at);
    }

    /// What the relay itself has taken since this was asked last.
    pub fn take_spent(&mut self) -> Duration {
        std::mem::take(&mut self.spent)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
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
                    let answer = LookUpAnswer::Found(self.ha1.clone());
                    self.handle(Input::LookedUp { ticket, answer });
                }
                Effect::Close { .. } | Effect::Pause(_) | Effect::Resume(_) | Effect::Event(_) => {}
                Effect::Connect { .. } | Effect::Abort { .. } => panic!("{effect:?}"),
            }
        }
    }

    fn handle(&mut self, input: Input) {
        let began = Instant::now();
        self.relay.handle(self.now, input);
        self.spent += began.elapsed();
    }

    fn write(&mut self, peer: PeerKey) {
        loop {
            self.out.clear();
            let began = Instant::now();
            let state = self.relay.poll_write(self.now, peer, &mut self.out);
            self.spent += began.elapsed();
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
