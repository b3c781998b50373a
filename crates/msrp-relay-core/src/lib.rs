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

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "a unit test may begin with the present moment")
)]

mod admission;
mod auth;
mod budget;
mod effect;
mod forward;
mod identity;
mod ids;
mod ledger;
mod limit;
mod message;
mod newcomers;
mod orphan;
mod output;
mod peer;
mod rate;
mod reconfigure;
mod session;
mod settings;
mod stats;
mod transaction;
mod view;

use core::net::IpAddr;
use std::collections::{BTreeSet, VecDeque};
use std::mem;
use std::time::{Duration, Instant};

use bytes::Bytes;
use slotmap::SlotMap;

use msrp_proto::digest::Ha1;
use msrp_proto::head::{Head, Kind, Method};
use msrp_proto::parser::Flag;
use msrp_proto::uri::MsrpUri;

pub use admission::{AddressKey, Offence, Tally, UserKey, Who};
pub use effect::{CloseReason, Effect, Effects, Event, Target};
pub use identity::{ProvenNames, covers};
pub use ids::{CoreId, LookUpTicket, PeerKey, PeerRef, SessionId, StreamId, Tid};
pub use limit::Limit;
pub use message::{Giver, HEAD_OVERHEAD, Hop, Message, Notice, Outer, Transit};
pub use newcomers::Stage;
pub use output::OutBatch;
pub use settings::{ChunkBounds, Limits, Settings};
pub use stats::{Stats, TableSizes};
pub use view::{EndReason, Far, Found, Holder, SessionHandle, SessionState, SessionView, home_of_prefix};

use admission::{Bans, Register};
use budget::Budget;
use forward::{SpareQueues, WriteContext};
use ids::Entropy;
use newcomers::Newcomers;
use orphan::Orphans;
use peer::Peer;
use rate::Rates;
use session::Sessions;
use transaction::Room;

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
    /// So many bytes have come of a TLS record, or of a piece of a frame, of which the rest is awaited. Said after each
    /// read that changes it.
    Unfinished {
        /// The connection.
        peer: PeerKey,
        /// How many.
        bytes: usize,
    },
    /// What arrives can no longer be divided into frames (norm C4): the connection must go.
    Unparseable {
        /// The connection.
        peer: PeerKey,
    },
    /// CR and LF have come between frames: a sign of life.
    Blank {
        /// The connection.
        peer: PeerKey,
        /// How many octets.
        octets: usize,
    },
    /// The peer of an accepted connection has proven to bear these names, before anything else is said of it.
    Identified {
        /// The connection.
        peer: PeerKey,
        /// What its certificate says.
        names: ProvenNames,
    },
    /// An accepted connection has got so far, before its first request.
    Advanced {
        /// The connection.
        peer: PeerKey,
        /// How far.
        stage: Stage,
    },
    /// The process has no descriptor left for a connection that waits to be accepted.
    NoDescriptor,
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
    /// The peer will send no more, but may still be listening: what is queued for it can be written.
    Ended {
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
    /// The config has been read again: other settings hold from now on, but for the name, the ports and the number of
    /// cores, which stay as they are.
    Reconfigured(Box<Settings>),
    /// Time has passed.
    Tick,
    /// An operator ends a session: its client's connection is closed.
    CloseSession(SessionHandle),
    /// The relay is going to stop: sessions that there are live on, no further ones are opened. Said again, it changes
    /// nothing.
    Drain,
    /// What has been written and awaits an answer will get none any more: whoever sent it is told, as far as that is
    /// owed. To be said after [`Input::Quiesce`].
    GiveUp,
    /// The relay is about to stop: nothing more is read. What has been accepted, and maybe answered, still
    /// finds its way, on whatever core that ends.
    Quiesce,
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
    alarms: BTreeSet<(Instant, PeerKey)>,
    /// No further sessions are opened.
    draining: bool,
    /// Generations of other processes of this relay: what is for their sessions is passed to them.
    kin: [Option<u8>; 2],
    /// Nothing more is read.
    stopping: bool,
    /// Connections that have proven nothing.
    newcomers: Newcomers,
    budget: Budget,
    register: Register,
    bans: Bans,
    rates: Rates,
    spare: SpareQueues,
    stats: Stats,
}

/// The most handed over at a time while memory is short: the floor of `limits.flush_bytes_max`.
const PRESSED_FLUSH_MAX: usize = 16 << 10;

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

    /// A limit was reached: counted, and told to the log.
    fn bite(&mut self, limit: Limit, peer: Option<PeerKey>, fx: &mut Effects) {
        self.count_limit(limit);
        fx.event(Event::LimitReached { limit, peer, user: None });
    }

    /// The same for what happens all the time and is nobody's fault.
    fn count_limit(&mut self, limit: Limit) {
        if let Some(count) = self.stats.limits_reached.get_mut(limit as usize) {
            *count += 1;
        }
    }

    /// Octets of a request have come in.
    fn hold(&mut self, octets: usize, fx: &mut Effects) {
        if self.budget.hold(octets) {
            self.bite(Limit::QueueBytesTotal, None, fx);
        }
    }

    /// Something that took `before` bytes of memory beside queued ones takes `now`.
    fn keep(&mut self, before: usize, now: usize, fx: &mut Effects) {
        if self.budget.keep(before, now) {
            self.bite(Limit::QueueBytesTotal, None, fx);
        }
    }

    /// How many transactions one connection may have open before the next request for it waits: few while memory
    /// is short, for each of them is memory.
    fn room(&self) -> Room {
        let max = self.settings.limits.transactions_per_peer_max;
        if self.budget.is_pressed() { Room::short(max) } else { Room::ample(max) }
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
            budget: Budget::new(settings.limits.queue_octets_total, cores.len()),
            register: Register::new(cores.len(), &mut entropy),
            bans: Bans::new(&mut entropy),
            newcomers: Newcomers::new(&mut entropy),
            rates: Rates::new(settings.limits.octets_per_second_per_user_max, &mut entropy),
            cores,
            settings,
            entropy,
            now,
            inbox: VecDeque::new(),
            orphans: Orphans::default(),
            alarms: BTreeSet::new(),
            draining: false,
            kin: [None; 2],
            stopping: false,
            spare: SpareQueues::default(),
            stats: Stats::default(),
        };
        Self { peers: SlotMap::with_key(), sessions, core }
    }

    /// A connection from `address` has been accepted. If there is no room for it, the one goes that has proven least
    /// ([`Effect::Abort`]).
    ///
    /// # Errors
    /// The limit that forbids it, where no other connection makes room: close it. A limit that only all cores together
    /// exceed is found a little later, and ends with [`Effect::Abort`], too.
    pub fn accept(
        &mut self,
        now: Instant,
        transport: Transport,
        address: IpAddr,
        fx: &mut Effects,
    ) -> Result<PeerKey, Limit> {
        self.core.now = now;
        self.shed_newcomers(fx);
        let room = match self.core.budget.is_pressed() {
            true => Err(Limit::QueueBytesTotal),
            false => self.make_room(true, fx),
        };
        if let Err(limit) = room {
            self.core.bite(limit, None, fx);
            return Err(limit);
        }
        let until = now + self.core.settings.limits.first_request_timeout;
        let source = AddressKey::new(address);
        let me = self.core.me;
        let place = self.core.newcomers.next_place();
        let key = self.peers.insert_with_key(|key| {
            Peer::accepted(PeerRef { core: me, key }, transport, source, place, (now, until))
        });
        self.core.newcomers.insert(source, key, place);
        let peer = PeerRef { core: me, key };
        self.core.tally(Who::Address(source), Tally::Connected(peer), fx);
        if let Some(peer) = self.peers.get_mut(key) {
            peer.set_alarm(&mut self.core);
        }
        self.settle(fx);
        Ok(key)
    }

    /// Where the session lives, or lived, that the first request of a connection names.
    pub fn home_of(&self, head: &Head, octets: &[u8]) -> Option<CoreId> {
        if self.core.stopping || matches!(head.kind(), Kind::Response(_) | Kind::Request(Method::Auth)) {
            return None;
        }
        let first = head.to_path(octets).first()?;
        if !MsrpUri::parse(first).is_ok_and(|uri| self.core.is_ours(&uri)) {
            return None;
        }
        Some(peer::named_session(first)?.home())
    }

    /// Whether a session lives by a connection.
    pub fn serves_session(&self, peer: PeerKey) -> bool {
        self.peers.get(peer).is_some_and(Peer::is_in_use)
    }

    /// Names the other processes of this relay that there are, by their generations. Sessions of theirs are next hops.
    pub fn set_kin(&mut self, generations: [Option<u8>; 2]) {
        self.core.kin = generations;
    }

    /// Whether that is a core, in its present life, of this process and not this one.
    pub fn is_other(&self, core: CoreId) -> bool {
        core != self.core.me && self.core.is_alive(core)
    }

    /// Connections whose first request is still to come, or has been vouched for by nobody yet.
    pub fn newcomers(&self) -> usize {
        self.core.newcomers.len()
    }

    /// Whether the relay is about to end: nothing more is read.
    pub fn is_stopping(&self) -> bool {
        self.core.stopping
    }

    /// Something has happened.
    pub fn handle(&mut self, now: Instant, input: Input, fx: &mut Effects) {
        self.core.now = now;
        match input {
            Input::Head { peer, head, octets } => self.on_head(peer, head, octets, fx),
            Input::Body { peer, octets } => self.on_body(peer, octets, fx),
            Input::End { peer, flag } => self.on_end(peer, flag, fx),
            Input::Blank { peer, octets } => self.on_blank(peer, octets, fx),
            Input::Unfinished { peer, bytes } => self.on_unfinished(peer, bytes, fx),
            Input::Unparseable { peer } => self.close_peer(peer, CloseReason::Unparseable, fx),
            Input::Identified { peer, names } => self.on_identified(peer, names),
            Input::Advanced { peer, stage } => self.on_advanced(peer, stage),
            Input::NoDescriptor => self.on_no_descriptor(fx),
            Input::Connected { peer } => self.on_connected(peer, fx),
            Input::DialFailed { peer } => {
                self.on_dial_failed(peer, fx);
            }
            Input::Ended { peer } => self.close_peer(peer, CloseReason::Ended, fx),
            Input::Lost { peer } => self.lose_peer(peer, fx),
            Input::LookedUp { ticket, answer } => self.on_looked_up(ticket, answer, fx),
            Input::Message(message) if self.core.may_come_in(&message) => {
                self.core.inbox.push_back(message);
            }
            Input::Message(_) => {}
            Input::CoreChanged { index, running } => self.on_core_changed(index, running, fx),
            Input::Reconfigured(settings) => self.on_reconfigured(*settings, fx),
            Input::Tick => self.on_tick(fx),
            Input::CloseSession(session) => self.on_operator_closes(session, fx),
            Input::Drain => self.core.draining = true,
            Input::Quiesce => self.quiesce(fx),
            Input::GiveUp => self.give_up_answers(fx),
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
        entry.last_taken = now;
        let limits = &self.core.settings.limits;
        let pressed = self.core.budget.is_pressed();
        let budget = limits.flush_octets_max.min(if pressed { PRESSED_FLUSH_MAX } else { usize::MAX });
        let room = self.core.room();
        // What is not yet credited must not keep its source from being read again, whatever the pressure on its core.
        let credit_batch = limits.request_octets_max / 2;
        let Core { entropy, stats, inbox, me, ended, spare, .. } = &mut self.core;
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
            room,
            credit_batch,
            deaf: entry.is_paused(),
            post: &mut post,
            chunks_out,
            body_octets_out,
            spare,
        };
        entry.out.fill(out, budget, &mut cx);
        entry.taking = !out.is_empty();
        entry.in_hand = out.len();
        entry.set_alarm(&mut self.core);
        entry.count_full_table(&mut self.core, fx);
        entry.update_pause(&mut self.core, fx);
        let finished = entry.closing && entry.out.is_empty();
        self.settle(fx);
        if finished { WriteState::Finished } else { WriteState::Open }
    }

    /// When to say [`Input::Tick`], if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let alarm = self.core.alarms.first().map(|(at, _)| *at);
        [alarm, self.sessions.next_ending()].into_iter().flatten().min()
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
            octets_queued: self.core.budget.held(),
            bytes_kept: self.sessions.kept() + self.peers.values().map(Peer::kept).sum::<usize>(),
            bytes_counted: self.core.budget.kept(),
            counted: self.core.register.len() + self.core.rates.len(),
            newcomers: self.core.newcomers.entries() + self.core.register.told_len(),
        }
    }

    /// All that counts against [`Limits::queue_octets_total`], without looking at every table.
    pub fn bytes_used(&self) -> usize {
        self.core.budget.used()
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
        loop {
            while let Some(message) = self.core.inbox.pop_front() {
                self.step(message, fx);
            }
            if self.core.budget.take_pressure() {
                self.forget_askers(fx);
                self.shed_newcomers(fx);
            } else if self.core.budget.take_relief() {
                self.resume_all(fx);
            } else {
                break;
            }
        }
        self.balance_budget(fx);
    }

    /// Memory is short no more: whoever waited for that goes on.
    fn resume_all(&mut self, fx: &mut Effects) {
        let room = Room::short(self.core.settings.limits.transactions_per_peer_max);
        for peer in self.peers.values_mut() {
            peer.update_pause(&mut self.core, fx);
            if peer.out.transactions.is_full(room) {
                peer.wake(fx);
            }
        }
    }

    /// Memory is short: clients behind relays that have nothing and wait for nothing ask again. Without this what they
    /// take could fill the budget for as long as their relays are connected.
    fn forget_askers(&mut self, fx: &mut Effects) {
        for peer in self.peers.values_mut() {
            if let Some(behind) = &mut peer.behind {
                behind.forget_idle(&self.sessions);
                peer.recount(&mut self.core, fx);
            }
        }
    }

    /// Asks another core for memory when it is getting tight here, or gives back what it lent.
    fn balance_budget(&mut self, fx: &mut Effects) {
        let core = &mut self.core;
        let said = core.budget.balance(core.me, &core.cores, core.now);
        if let Some(message) = said {
            core.post(message, fx);
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
            Message::Bind { peer, session, chunk_max } => self.on_bind(peer, session, chunk_max, fx),
            Message::Unbind { peer, session } => self.on_unbind(peer, session, fx),
            Message::Relieve { session, source, before } => self.on_relieve(session, source, before, fx),
            Message::Abandoned { peer, session } => self.on_abandoned(peer, session, fx),
            Message::Guess { session } => self.on_guess(session, fx),
            Message::Shed { peer, source } => self.on_shed(peer, source, fx),
            Message::Lent { peer, from, to, octets } => self.on_lent(peer, from, to, octets, fx),
            Message::Tally { from, who, tally, .. } => self.on_tally(from, who, tally, fx),
            Message::Excess { peer, limit } => self.on_excess(peer.key, limit, fx),
            Message::Newcomers { source, count, .. } => self.core.newcomers.told(source, count),
            Message::Claimed { ticket, who, granted, counter, .. } => {
                self.on_claimed(ticket, who, granted, counter, fx);
            }
            Message::Ban { who, offence, until, culprit, .. } => {
                self.on_ban((who, offence), until, culprit, fx);
            }
            Message::Share { user, sessions, .. } => self.core.rates.share(user, sessions),
            Message::Borrow { borrower, .. } => {
                let (from, octets) = (self.core.me, self.core.budget.lend(borrower));
                self.core.post(Message::Lend { to: borrower, from, octets, back: false }, fx);
            }
            Message::Lend { from, octets, back, .. } => {
                let unasked = self.core.budget.receive(from, octets, back);
                if unasked > 0 {
                    let (to, from) = (from, self.core.me);
                    self.core.post(Message::Lend { to, from, octets: unasked, back: true }, fx);
                }
            }
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
        if let Some(incarnation) = running {
            // It may have started after this core, and missed what was said to it before.
            let core = CoreId { index, incarnation };
            self.restore(core, fx);
            self.core.budget.ask_again(core);
        }
    }

    fn on_tick(&mut self, fx: &mut Effects) {
        // Only what is due now: should an alarm be set for the past again, it must not hold up the core.
        let after = self.core.now + Duration::from_nanos(1);
        let later = self.core.alarms.split_off(&(after, PeerKey::default()));
        let due = mem::replace(&mut self.core.alarms, later);
        for (_, key) in due {
            self.on_alarm(key, fx);
        }
        self.end_expired_sessions(fx);
    }
}
