//! The relay itself, as a pure state machine: one [`Relay`] per core, no IO, no clock, no
//! randomness of its own. RFC 4976, 6, over RFC 4975, 5 to 7.
//!
//! How to drive it:
//! - **inputs**: [`Relay::accept`] for a new connection, then [`Relay::handle`] with everything that
//!   happens: octets parsed into heads, bodies and ends; answers to look-ups; messages of other cores;
//! - **effects**: what the caller must now do, appended to [`Effects`];
//! - **output**: [`Relay::poll_write`] whenever a connection was woken and can take octets;
//! - **time**: every call carries `now`; [`Relay::next_deadline`] says when to call with
//!   [`Input::Tick`] though nothing happened.
//!
//! Invariants: only the relay of the core that owns a connection writes to it; a request is answered
//! at most once; what is queued for a receiver is bounded by its senders' credit
//! ([`Limits::queue_octets_high`]); nothing one peer sends ends another peer's session.
//!
//! What it must not know: sockets, TLS, glommio, logging. It counts in [`Stats`] and explains itself
//! in [`Event`]s; the runtime logs them.

mod auth;
mod forward;
mod ids;
mod message;
mod orphan;
mod output;
mod peer;
mod session;
mod transaction;

use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};
use std::{cmp::Reverse, mem};

use bytes::Bytes;
use slotmap::SlotMap;

use crate::proto::digest::{Algorithm, Ha1};
use crate::proto::head::Head;
use crate::proto::parser::Flag;
use crate::proto::status::Status;

pub use ids::{CoreId, LookUpTicket, PeerKey, PeerRef, SessionId, StreamId, Tid};
pub use message::{Giver, Hop, Message, Notice, Outer, Transit};
pub use output::OutBatch;

use forward::WriteContext;
use ids::Entropy;
use orphan::Orphans;
use peer::Peer;
use session::Sessions;

/// What the relay is told.
#[derive(Debug)]
pub enum Input {
    /// A frame begins: the parser delivered a head.
    Head {
        /// The connection.
        peer: PeerKey,
        /// Offsets into `octets`.
        head: Head,
        /// The head's octets.
        octets: Bytes,
    },
    /// Body octets of the frame that has begun; never empty.
    Body {
        /// The connection.
        peer: PeerKey,
        /// The octets.
        octets: Bytes,
    },
    /// The frame's end-line.
    End {
        /// The connection.
        peer: PeerKey,
        /// Its continuation flag.
        flag: Flag,
    },
    /// What arrives can no longer be divided into frames (norm C4): the connection must go.
    Unparseable {
        /// The connection.
        peer: PeerKey,
    },
    /// A connection that [`Effect::Connect`] asked for is up.
    Connected {
        /// The connection.
        peer: PeerKey,
    },
    /// It could not be had: refused, unreachable, forbidden, no such name, no valid certificate.
    DialFailed {
        /// The connection.
        peer: PeerKey,
    },
    /// A connection is gone.
    Lost {
        /// The connection.
        peer: PeerKey,
    },
    /// The answer to [`Effect::LookUp`].
    LookedUp {
        /// As in the effect.
        ticket: LookUpTicket,
        /// What the accounts say.
        answer: LookUpAnswer,
    },
    /// A message from another core of this process.
    Message(Message),
    /// A core has died or been started again; `running` is its present life, if any. Nothing that an
    /// earlier life sent may be handed in after this: what it owed is written off here.
    CoreChanged {
        /// The core's position.
        index: u16,
        /// Its incarnation now.
        running: Option<u16>,
    },
    /// Time has passed.
    Tick,
    /// The relay stops: every connection is closed once what is queued for it is written.
    Shutdown,
}

/// What the accounts say about a user.
#[derive(Debug)]
pub enum LookUpAnswer {
    /// The user exists.
    Found(Ha1),
    /// There is no such user.
    Unknown,
    /// The accounts could not be asked: never to be taken for a wrong password.
    Unavailable,
}

/// What the caller must do.
#[derive(Debug)]
pub enum Effect {
    /// There is something to write: call [`Relay::poll_write`] when the connection can take octets.
    Wake(PeerKey),
    /// Read no more from this connection for now: back-pressure.
    Pause(PeerKey),
    /// Read on.
    Resume(PeerKey),
    /// Read no more; write what [`Relay::poll_write`] still has; close; say [`Input::Lost`].
    Close {
        /// The connection.
        peer: PeerKey,
        /// Why.
        reason: CloseReason,
    },
    /// Open a connection; say [`Input::Connected`] or [`Input::DialFailed`].
    Connect {
        /// The slot it will have.
        peer: PeerKey,
        /// Where to.
        target: Target,
    },
    /// Ask the accounts; say [`Input::LookedUp`].
    LookUp {
        /// To be given back.
        ticket: LookUpTicket,
        /// User name as the client gave it.
        user: String,
        /// The realm of the challenge.
        realm: String,
        /// Which hash is wanted.
        algorithm: Algorithm,
    },
    /// Something worth a log line.
    Event(Event),
}

/// Where a next hop is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// `msrps`: TLS, never fallen back from.
    pub secure: bool,
    /// Host name or address literal without brackets.
    pub host: String,
    /// As in the URI; there is no default (RFC 4975, 6).
    pub port: u16,
    /// More URIs follow in To-Path: the next hop is a relay and its certificate must prove its name.
    pub relay: bool,
}

/// Why the relay closes a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// Frames cannot be told apart any more (C4).
    Unparseable,
    /// AUTH for a name that is not ours (C3).
    Misaddressed,
    /// AUTH on a connection without TLS (A1).
    AuthWithoutTls,
    /// Too many failed AUTHs (A13).
    AuthFailures,
    /// The body of a request other than SEND exceeded 10240 octets (RFC 4975, 7.1).
    BodyTooLong,
    /// The session it was dialled for is over.
    SessionOver,
    /// The relay stops.
    Stopping,
}

impl CloseReason {
    /// The word for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unparseable => "unparseable input",
            Self::Misaddressed => "request for another host",
            Self::AuthWithoutTls => "AUTH without TLS",
            Self::AuthFailures => "too many failed AUTHs",
            Self::BodyTooLong => "body of a non-SEND request too long",
            Self::SessionOver => "session over",
            Self::Stopping => "the relay stops",
        }
    }
}

/// Things an operator may want to read about.
#[derive(Debug)]
pub enum Event {
    /// AUTH succeeded: a session exists.
    SessionOpened {
        /// Prefix of its id.
        session: String,
        /// The user.
        user: String,
        /// The realm.
        realm: String,
        /// Its client's connection.
        peer: PeerKey,
    },
    /// A session is over.
    SessionClosed {
        /// Prefix of its id.
        session: String,
        /// The user.
        user: String,
        /// How long it lived.
        age: Duration,
    },
    /// AUTH was refused.
    AuthRefused {
        /// The connection.
        peer: PeerKey,
        /// The code it got.
        status: Status,
        /// Why, for the log only.
        why: &'static str,
    },
    /// A request was refused.
    RequestRefused {
        /// The session it named or came through, if known.
        session: Option<String>,
        /// The code.
        status: Status,
        /// Why, for the log only.
        why: &'static str,
    },
    /// A failure REPORT was sent.
    ReportSent {
        /// Prefix of the session's id.
        session: String,
        /// The code in it.
        status: Status,
    },
}

/// What the caller must do, in order, and what must go to other cores.
#[derive(Debug, Default)]
pub struct Effects {
    /// In the order in which they must happen.
    pub list: Vec<Effect>,
    /// Messages to other cores, each list in order, by the core's position.
    pub parcels: Vec<(CoreId, Vec<Message>)>,
}

impl Effects {
    /// Nothing to do.
    pub fn new() -> Self {
        Self::default()
    }

    fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    fn event(&mut self, event: Event) {
        self.list.push(Effect::Event(event));
    }

    fn parcel(&mut self, to: CoreId, message: Message) {
        let found = self.parcels.iter().position(|(core, _)| *core == to);
        let index = found.unwrap_or_else(|| {
            self.parcels.push((to, Vec::new()));
            self.parcels.len() - 1
        });
        let list = &mut self.parcels[index].1;
        // Credits of one flush become one message.
        if let (Message::Credit { peer, octets, .. }, Some(Message::Credit { peer: last, octets: sum, .. })) =
            (&message, list.last_mut())
            && peer == last
        {
            *sum += octets;
            return;
        }
        list.push(message);
    }
}

/// What the relay needs to know of its configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The host of the URIs it mints; what its certificate proves.
    pub hostname: String,
    /// The realm of every challenge; absent: the To-Path host of the AUTH.
    pub realm: Option<String>,
    /// SIP domains served beside the host name; absent: any.
    pub domains: Option<Vec<String>>,
    /// The ports it listens on.
    pub ports: Vec<u16>,
    /// How many cores there are.
    pub cores: u16,
    /// Digest algorithms offered, strongest first.
    pub algorithms: Vec<Algorithm>,
    /// How long a challenge may be answered.
    pub challenge_lifetime: Duration,
    /// Failed AUTHs after which a connection is closed.
    pub attempts_max: u32,
    /// AUTH accepted without TLS: for debugging only.
    pub insecure_plain: bool,
    /// Bounds of Expires, in seconds.
    pub expires_seconds_min: u64,
    /// Announced where the client asked for nothing.
    pub expires_seconds_default: u64,
    /// Bounds of Expires, in seconds.
    pub expires_seconds_max: u64,
    /// Whether the announced default ends the session too.
    pub enforce_default: bool,
    /// Methods beyond AUTH, SEND, REPORT and NICKNAME are forwarded.
    pub allow_other_methods: bool,
    /// `msrp` next hops may be dialled.
    pub dial_plain: bool,
    /// Bounds.
    pub limits: Limits,
}

/// Bounds of one core's relay.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Octets received from a connection and not yet written out at which reading stops.
    pub queue_octets_high: usize,
    /// ... and at which it goes on. More than a head, 10240 octets of body and 256 together: a
    /// request that must be complete before it is written has to come in whole.
    pub queue_octets_low: usize,
    /// Octets handed over at a time.
    pub flush_octets_max: usize,
    /// Connections of this core.
    pub peers_max: usize,
    /// Requests sent on one connection and not answered, and requests received and not answered.
    pub transactions_per_peer_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_octets_high: 256 << 10,
            queue_octets_low: 128 << 10,
            flush_octets_max: 128 << 10,
            peers_max: 65_536,
            transactions_per_peer_max: 4096,
        }
    }
}

/// What happened so far on this core; only ever rises.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Sessions opened.
    pub sessions_opened: u64,
    /// Sessions over.
    pub sessions_closed: u64,
    /// AUTHs answered 200.
    pub auth_ok: u64,
    /// AUTHs with credentials that were refused.
    pub auth_failed: u64,
    /// Chunks received (SEND requests).
    pub chunks_in: u64,
    /// Chunks written, pieces counted.
    pub chunks_out: u64,
    /// Body octets received.
    pub body_octets_in: u64,
    /// Body octets written.
    pub body_octets_out: u64,
    /// Failure REPORTs of our own.
    pub reports_sent: u64,
    /// Responses nobody waited for.
    pub strays_dropped: u64,
    /// Sessions bound to an outer side on the same core.
    pub links_local: u64,
    /// Sessions bound to an outer side on another core.
    pub links_split: u64,
    /// Connections asked for.
    pub dials: u64,
    /// Connections that could not be had.
    pub dials_failed: u64,
    /// Messages to other cores.
    pub parcels: u64,
}

impl Stats {
    /// Sessions open now.
    pub fn sessions_open(&self) -> u64 {
        self.sessions_opened - self.sessions_closed
    }
}

/// How many entries the tables hold: zero everywhere when all is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TableSizes {
    /// Connections.
    pub peers: usize,
    /// Sessions.
    pub sessions: usize,
    /// Requests sent and not answered.
    pub transactions: usize,
    /// Requests received and not answered, and those that failed and have not ended.
    pub unanswered: usize,
    /// Octets received and not yet written out or dropped.
    pub octets_queued: usize,
}

/// What [`Relay::poll_write`] leaves to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteState {
    /// Write the batch, if it holds anything, and call again; with an empty batch: wait to be woken.
    Open,
    /// Write the batch, then close.
    Finished,
}

/// How a connection came to be and what it runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transport {
    /// TLS.
    pub secure: bool,
    /// The local port it was accepted on.
    pub port: u16,
}

/// One core's relay. See the module's documentation for how to drive it.
#[derive(Debug)]
pub struct Relay {
    peers: SlotMap<PeerKey, Peer>,
    sessions: Sessions,
    core: Core,
}

/// What every step needs beside the tables.
#[derive(Debug)]
struct Core {
    me: CoreId,
    /// The present life of each core, by position; `None` while it is down.
    cores: Vec<Option<u16>>,
    /// The last life of each core that has ended.
    ended: Vec<Option<u16>>,
    settings: Settings,
    entropy: Entropy,
    now: Instant,
    /// Steps to be taken on this core before the input is done with.
    inbox: VecDeque<Message>,
    orphans: Orphans,
    /// When to look at which connection; at most one entry per connection.
    alarms: BinaryHeap<Reverse<(Instant, PeerKey)>>,
    stats: Stats,
}

impl Core {
    /// Sends a message to whoever takes the next step, here or elsewhere.
    fn post(&mut self, message: Message, fx: &mut Effects) {
        let to = message.core();
        if to == self.me {
            self.inbox.push_back(message);
        } else if !self.has_ended(to) {
            self.stats.parcels += 1;
            fx.parcel(to, message);
        }
    }

    /// Gives octets back to the connection they came in by.
    fn credit(&mut self, peer: PeerRef, octets: usize, fx: &mut Effects) {
        if octets > 0 {
            let from = self.me;
            self.post(Message::Credit { peer, from, octets }, fx);
        }
    }

    fn is_alive(&self, core: CoreId) -> bool {
        self.cores.get(usize::from(core.index)).copied().flatten() == Some(core.incarnation)
    }

    /// Whether a core is known to be dead. One that is started again may write before we hear of it.
    fn has_ended(&self, core: CoreId) -> bool {
        has_ended(&self.ended, core)
    }

    /// Whether a message of another core is for us and not from the grave.
    fn may_come_in(&self, message: &Message) -> bool {
        message.core() == self.me && !message.origin().is_some_and(|core| self.has_ended(core))
    }
}

fn has_ended(ended: &[Option<u16>], core: CoreId) -> bool {
    ended.get(usize::from(core.index)).copied().flatten() == Some(core.incarnation)
}

impl Relay {
    /// A relay without connections. `seed` must come from the operating system's generator.
    pub fn new(me: CoreId, settings: Settings, seed: [u8; 32], now: Instant) -> Self {
        let mut entropy = Entropy::new(seed);
        let sessions = Sessions::new(&mut entropy);
        let mut cores = vec![Some(0); usize::from(settings.cores)];
        if let Some(own) = cores.get_mut(usize::from(me.index)) {
            *own = Some(me.incarnation);
        }
        let core = Core {
            me,
            ended: vec![None; cores.len()],
            cores,
            settings,
            entropy,
            now,
            inbox: VecDeque::new(),
            orphans: Orphans::default(),
            alarms: BinaryHeap::new(),
            stats: Stats::default(),
        };
        Self { peers: SlotMap::with_key(), sessions, core }
    }

    /// A connection has been accepted. `None`: there are too many, close it.
    pub fn accept(&mut self, transport: Transport) -> Option<PeerKey> {
        if self.peers.len() >= self.core.settings.limits.peers_max {
            return None;
        }
        let me = self.core.me;
        Some(self.peers.insert_with_key(|key| Peer::accepted(PeerRef { core: me, key }, transport)))
    }

    /// Something has happened.
    pub fn handle(&mut self, now: Instant, input: Input, fx: &mut Effects) {
        self.core.now = now;
        match input {
            Input::Head { peer, head, octets } => self.on_head(peer, head, octets, fx),
            Input::Body { peer, octets } => self.on_body(peer, octets, fx),
            Input::End { peer, flag } => self.on_end(peer, flag, fx),
            Input::Unparseable { peer } => self.close_peer(peer, CloseReason::Unparseable, fx),
            Input::Connected { peer } => self.on_connected(peer, fx),
            Input::DialFailed { peer } => {
                self.core.stats.dials_failed += 1;
                self.lose_peer(peer, fx);
            }
            Input::Lost { peer } => self.lose_peer(peer, fx),
            Input::LookedUp { ticket, answer } => self.on_looked_up(ticket, answer, fx),
            Input::Message(message) if self.core.may_come_in(&message) => {
                self.core.inbox.push_back(message);
            }
            Input::Message(_) => {}
            Input::CoreChanged { index, running } => self.on_core_changed(index, running, fx),
            Input::Tick => self.on_tick(fx),
            Input::Shutdown => self.close_all_peers(fx),
        }
        self.settle(fx);
    }

    /// Moves what `peer` may be sent now into `out`, which must be empty: one flush.
    pub fn poll_write(
        &mut self,
        now: Instant,
        peer: PeerKey,
        out: &mut OutBatch,
        fx: &mut Effects,
    ) -> WriteState {
        debug_assert!(out.is_empty(), "a batch is written before the next is asked for");
        self.core.now = now;
        let Some(entry) = self.peers.get_mut(peer) else {
            return WriteState::Finished;
        };
        entry.woken = false;
        let limits = &self.core.settings.limits;
        let (budget, transactions_max) = (limits.flush_octets_max, limits.transactions_per_peer_max);
        // What is not yet credited must not keep its source from being read again.
        let credit_batch = limits.queue_octets_low / 2;
        let Core { entropy, stats, inbox, me, ended, .. } = &mut self.core;
        let Stats { chunks_out, body_octets_out, parcels, .. } = stats;
        let mut post = |message: Message| {
            let to = message.core();
            if to == *me {
                inbox.push_back(message);
            } else if !has_ended(ended, to) {
                *parcels += 1;
                fx.parcel(to, message);
            }
        };
        let mut cx = WriteContext {
            me: *me,
            now,
            entropy,
            transactions_max,
            credit_batch,
            deaf: entry.is_paused(),
            post: &mut post,
            chunks_out,
            body_octets_out,
        };
        entry.out.fill(out, budget, &mut cx);
        entry.set_alarm(&mut self.core);
        entry.update_pause(&self.core.settings.limits, fx);
        let finished = entry.closing && entry.out.is_empty();
        self.settle(fx);
        if finished { WriteState::Finished } else { WriteState::Open }
    }

    /// When to say [`Input::Tick`], if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.core.alarms.peek().map(|Reverse((at, _))| *at)
    }

    /// What happened so far.
    pub fn stats(&self) -> &Stats {
        &self.core.stats
    }

    /// How full the tables are.
    pub fn table_sizes(&self) -> TableSizes {
        TableSizes {
            peers: self.peers.len(),
            sessions: self.sessions.len(),
            transactions: self.peers.values().map(|p| p.out.transactions.len()).sum(),
            unanswered: self.core.orphans.len()
                + self.peers.values().map(|p| p.unanswered.len()).sum::<usize>(),
            octets_queued: self.peers.values().map(|p| p.outstanding).sum(),
        }
    }

    /// How many cores there are, this one included.
    pub fn cores(&self) -> usize {
        self.core.cores.len()
    }

    /// Which core this is.
    pub fn core(&self) -> CoreId {
        self.core.me
    }

    /// Takes the steps that are due on this core, until none is left.
    fn settle(&mut self, fx: &mut Effects) {
        while let Some(message) = self.core.inbox.pop_front() {
            self.step(message, fx);
        }
    }

    fn step(&mut self, message: Message, fx: &mut Effects) {
        match message {
            Message::Request { session, giver, stream, transit } => {
                self.on_request(session, giver, stream, transit, fx)
            }
            Message::Body { session, stream, octets } => self.on_request_body(session, stream, octets, fx),
            Message::End { session, stream, flag } => self.on_request_end(session, stream, flag, fx),
            Message::Broken { session, stream, status } => self.on_broken(session, stream, status, fx),
            Message::Report { session, from, octets } => self.on_report(session, from, octets, fx),
            Message::Failed { notice, status } => self.on_hop_failed(&notice, status, fx),
            Message::InnerLost { session } => self.on_inner_lost(session, fx),
            Message::OuterLost { session, outer, was_up, status } => {
                self.on_outer_lost(session, outer, was_up, status, fx)
            }
            Message::Open { peer, hop, stream, transit } => self.on_open(peer, hop, stream, transit, fx),
            Message::Piece { peer, stream, octets } => self.on_piece(peer, stream, octets, fx),
            Message::Close { peer, stream, flag } => self.on_close(peer, stream, flag, fx),
            Message::Answer { stream, status } => self.on_answer(stream, status, fx),
            Message::Reply { stream, transit } => self.on_reply(stream, &transit, fx),
            Message::Frame { peer, octets } => self.on_frame(peer, &octets, fx),
            Message::Credit { peer, from, octets } => self.on_credit(peer, from, octets, fx),
            Message::Bind { peer, session } => self.on_bind(peer, session, fx),
            Message::Unbind { peer, session } => self.on_unbind(peer, session, fx),
        }
    }

    fn on_core_changed(&mut self, index: u16, running: Option<u16>, fx: &mut Effects) {
        let Some(entry) = self.core.cores.get_mut(usize::from(index)) else {
            return;
        };
        let before = mem::replace(entry, running);
        if let Some(incarnation) = before.filter(|_| before != running) {
            self.core.ended[usize::from(index)] = Some(incarnation);
            self.forget_core(CoreId { index, incarnation }, fx);
        }
    }

    fn on_tick(&mut self, fx: &mut Effects) {
        while let Some(Reverse((at, key))) = self.core.alarms.peek().copied() {
            if at > self.core.now {
                break;
            }
            self.core.alarms.pop();
            self.on_alarm(key, fx);
        }
    }
}
