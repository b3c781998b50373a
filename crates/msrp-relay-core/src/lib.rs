//! The relay itself, as a pure state machine: one [`Relay`] per core, no IO, no clock, no
//! randomness of its own. RFC 4976, 6, over RFC 4975, 5 to 7.
//!
//! # How to drive it
//! - **inputs**: [`Relay::handle`] with everything that happens; [`Relay::accept`] is the only one with an answer;
//! - **effects**: what the caller must do now, and what goes to other cores. They are queued inside: take them all after
//!   each input, by [`Relay::poll_effect`] in their order, and by [`Relay::poll_messages`];
//! - **output**: [`Relay::poll_write`] whenever a connection was woken and can take bytes;
//! - **meeting**: before a client's first request is fed, [`Relay::meet`] says whether its reader waits; then
//!   [`Relay::depart`] and, on the other core, [`Relay::arrive`];
//! - **time**: every call carries `now`; [`Relay::next_deadline`] says when to call with [`Input::Tick`].
//!
//! # How it is built
//! Three tables, each with its handlers: `peers`, the connections; `sessions`; `quota::counts`, what this core counts
//! for all. The rest of `quota` belongs to the context.
//! A handler touches its own table and the context, `core`. A table's methods are called by its own handlers and by the
//! dispatch, and by no other table. What another table must do is a [`Message`] to a session, a
//! connection or a core: on one core through the inbox, between cores in a delivery. Here is the dispatch. What needs two
//! tables at once is `impl Relay` in `sessions::route` and `sessions::fail`, where a connection may have to be found or
//! opened, in `auth`, where a session is made for one, in `meet`, where both move to another core, and in `change`, of
//! which all tables hear.
//!
//! # Invariants
//! Only the relay of the core that owns a connection writes to it; a request is answered at most once; the senders'
//! credit ([`Limits::queue_bytes_high`]) bounds what is queued for a receiver; nothing one peer sends ends another
//! peer's session; an owner is read from a [`SessionRef`], and from an id only where that comes from the wire.
//!
//! What it must not know: sockets, TLS, glommio, logging. It counts in [`Stats`] and explains itself
//! in [`Event`]s; the runtime logs them.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "a unit test may begin with the present moment")
)]

mod api;
mod auth;
mod change;
mod core;
mod cores;
mod effects;
mod identity;
mod ids;
mod inspect;
mod limit;
mod meet;
mod message;
mod orphans;
mod outbound;
mod peers;
mod quota;
mod reason;
mod request;
mod sessions;
mod settings;
mod spread;
mod stats;
mod table;
mod transactions;
mod view;

use std::net::IpAddr;
use std::time::Instant;

pub use api::{Effect, Event, Input, LookUpAnswer, Target, Transport, WriteState};
pub use identity::{ProvenNames, covers};
pub use ids::{CoreId, LookUpTicket, PeerKey, PeerRef, SessionId, SessionRef, StreamId, Tid};
pub use limit::Limit;
pub use meet::{Departure, Meeting, Stay, Traveller};
pub use message::{CoreStep, Message, PeerStep, SessionStep};
pub use outbound::batch::OutBatch;
pub use quota::newcomers::Stage;
pub use quota::who::{AddressKey, Offence, Tally, UserKey, Who};
pub use reason::{CloseReason, EndReason};
pub use request::{Giver, HEAD_OVERHEAD, Neighbour, Notice, SessionSide, Transit};
pub use settings::{Expires, Limits, MaxChunk, Settings, WebSocket};
pub use stats::{Stats, TableSizes};
pub use view::{Far, Found, Holder, SessionHandle, SessionState, SessionView, home_of_prefix};

use self::core::{Core, Stop};
use meet::Arrivals;
use peers::Peers;
use quota::counts::Quota;
use sessions::Sessions;

/// One core's relay. See the crate's documentation for how to drive it.
#[derive(Debug)]
pub struct Relay {
    peers: Peers,
    sessions: Sessions,
    quota: Quota,
    arrivals: Arrivals,
    core: Core,
}

impl Relay {
    /// A relay without connections. `seed` must come from the operating system's generator.
    pub fn new(me: CoreId, settings: Settings, seed: [u8; 32], now: Instant) -> Self {
        let mut core = Core::new(me, settings, seed, now);
        let sessions = Sessions::new(&mut core.entropy);
        let quota = Quota::new(core.cores.len(), &mut core.entropy);
        let arrivals = Arrivals::new(&mut core.entropy);
        Self { peers: Peers::new(), sessions, quota, arrivals, core }
    }

    /// Accepts a connection from `address`. If there is no room, the connection that has proven least makes it.
    ///
    /// # Errors
    /// The limit that forbids it, if no other connection makes room: close it, and tell the log. A limit that only all
    /// cores together exceed is found a little later, and ends with [`Effect::Abort`].
    pub fn accept(&mut self, now: Instant, transport: Transport, address: IpAddr) -> Result<PeerKey, Limit> {
        self.core.now = now;
        let accepted = self.peers.accept(transport, address, &mut self.core);
        self.settle();
        accepted
    }

    /// Something has happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        let Self { peers, sessions, core, .. } = self;
        core.now = now;
        match input {
            Input::Head { peer, head, bytes } => peers.on_head(peer, head, bytes, core),
            Input::Body { peer, bytes } => peers.on_body(peer, bytes, core),
            Input::End { peer, flag } => {
                if let Some(request) = peers.on_end(peer, flag, core) {
                    self.on_auth(peer, request);
                }
            }
            Input::Blank { peer, bytes } => peers.on_blank(peer, bytes, core),
            Input::Unfinished { peer, bytes } => peers.on_unfinished(peer, bytes, core),
            Input::Unparseable { peer } => peers.close(peer, CloseReason::Unparseable, core),
            Input::Identified { peer, names } => peers.on_identified(peer, names),
            Input::Advanced { peer, stage } => peers.on_advanced(peer, stage, core),
            Input::NoDescriptor => peers.on_no_descriptor(core),
            Input::Connected { peer } => peers.on_connected(peer, core),
            Input::DialFailed { peer } => peers.on_dial_failed(peer, core),
            Input::Ended { peer } => peers.close(peer, CloseReason::Ended, core),
            Input::Lost { peer } => peers.lose(peer, core),
            Input::LookedUp { ticket, answer } => self.on_looked_up(ticket, answer),
            Input::Message(message) => core.take_in(message),
            Input::CoreChanged { index, running } => self.on_core_changed(index, running),
            Input::OtherGenerations(generations) => core.cores.other_generations = generations,
            Input::Reconfigured(settings) => self.on_reconfigured(*settings),
            Input::Tick => {
                peers.on_tick(core);
                sessions.end_expired(core);
            }
            Input::CloseSession(SessionHandle(session)) => sessions.on_operator_closes(session, core),
            Input::Drain => core.go_towards(Stop::Draining),
            Input::Quiesce => peers.quiesce(core),
            Input::GiveUp => peers.give_up_answers(core),
            Input::Shutdown => peers.close_all(core),
        }
        self.settle();
    }

    /// The next effect for the caller; `None`: no more.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.core.effects.poll()
    }

    /// Steps for another core, in the order in which that core must get them; `None`: no more.
    pub fn poll_messages(&mut self) -> Option<(CoreId, Vec<Message>)> {
        self.core.effects.poll_messages()
    }

    /// Moves the bytes that `peer` may be sent into `out`, which must be empty: one flush.
    pub fn poll_write(&mut self, now: Instant, peer: PeerKey, out: &mut OutBatch) -> WriteState {
        debug_assert!(out.is_empty(), "a batch is written before the next is asked for");
        self.core.now = now;
        let state = self.peers.poll_write(peer, out, &mut self.core);
        self.settle();
        state
    }

    /// When to say [`Input::Tick`], if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let alarm = self.core.alarms.first().map(|(at, _)| *at);
        [alarm, self.sessions.next_ending()].into_iter().flatten().min()
    }

    /// Takes the due steps of this core, until none is left.
    fn settle(&mut self) {
        loop {
            while let Some(message) = self.core.inbox.pop_front() {
                match message {
                    Message::ToSession { to, step } => self.step_of_session(to, step),
                    Message::ToPeer { to, step } => self.step_of_peer(to, step),
                    Message::ToCore { step, .. } => self.step_of_core(step),
                }
            }
            if self.core.memory.take_pressure() {
                self.peers.forget_askers(&|session| self.sessions.contains(session), &mut self.core);
                self.peers.shed_newcomers(&mut self.core);
            } else if self.core.memory.take_relief() {
                self.peers.resume_all(&mut self.core);
            } else {
                break;
            }
        }
        self.core.balance_memory();
    }

    fn step_of_session(&mut self, to: SessionRef, step: SessionStep) {
        let Self { sessions, arrivals, core, .. } = self;
        let Some(step) = arrivals.hold(to, step) else {
            return;
        };
        match step {
            SessionStep::Head { giver, stream, transit } => self.on_request(to, giver, stream, transit),
            SessionStep::Body { stream, bytes } => self.on_request_body(to, stream, bytes),
            SessionStep::End { stream, flag } => sessions.on_end(to, stream, flag, core),
            SessionStep::Broken { stream, status } => sessions.on_broken(to, stream, status, core),
            SessionStep::Report { from, bytes } => self.on_report(to, from, bytes),
            SessionStep::Failed { notice, status } => self.on_failed(&notice, status),
            SessionStep::InnerLost { reason } => sessions.on_inner_lost(to, reason, core),
            SessionStep::NeighbourLost { neighbour, was_up, status } => {
                sessions.on_neighbour_lost(to, (neighbour, was_up), status, core);
            }
            SessionStep::Guess => sessions.on_guess(to, core),
            SessionStep::Relieve { before, source } => sessions.on_relieve(to, source, before, core),
            SessionStep::Meet { guest } => self.on_meet(to, &guest),
            SessionStep::Met { host, answer } => self.on_met(to, host, answer),
            SessionStep::Stay { guest } => self.on_stay(to, guest),
        }
    }

    fn step_of_peer(&mut self, to: PeerRef, step: PeerStep) {
        let Self { peers, core, .. } = self;
        match step {
            PeerStep::Head { side, stream, transit } => peers.on_request(to, stream, (side, transit), core),
            PeerStep::Body { stream, bytes } => peers.on_request_body(to, stream, bytes, core),
            PeerStep::End { stream, flag } => peers.on_request_end(to, stream, flag, core),
            PeerStep::Answer { sequence, status } => peers.on_answer(to.key, sequence, status, core),
            PeerStep::Reply { sequence, transit } => peers.on_reply(to.key, sequence, &transit, core),
            PeerStep::Frame { bytes } => peers.on_frame(to.key, &bytes, core),
            PeerStep::Credit { from, bytes } => peers.on_credit(to.key, from, bytes, core),
            PeerStep::Lent { from, holder, bytes } => {
                peers.on_lent(to.key, (from, holder), bytes, core);
            }
            PeerStep::Bind { session, chunk_max } => peers.on_bind(to, session, chunk_max, core),
            PeerStep::Unbind { session } => peers.on_unbind(to.key, session, core),
            PeerStep::Abandoned { session } => peers.on_abandoned(to.key, session, core),
            PeerStep::Shed { source } => peers.on_shed(to.key, source, core),
            PeerStep::Guessed { too_many } => peers.on_guessed(to.key, too_many, core),
            PeerStep::SessionOver { session } => peers.on_session_over(to.key, session, core),
            PeerStep::Banned { who, offence } => peers.on_banned(to.key, (who, offence), core),
            PeerStep::Close { reason } => peers.close(to.key, reason, core),
            PeerStep::Excess { limit } => peers.on_excess(to.key, limit, core),
            PeerStep::Claimed { ticket, who, granted, counter } => {
                self.on_claimed(ticket, who, granted, counter);
            }
        }
    }

    fn step_of_core(&mut self, step: CoreStep) {
        let Self { quota, sessions, core, .. } = self;
        match step {
            CoreStep::Gone { session } => sessions.forget_departed(session),
            CoreStep::Renamed { session, uris } => sessions.rename_departed(session, uris),
            CoreStep::Tally { from, who, tally } => quota.on_tally(from, who, tally, core),
            CoreStep::Ban { who, offence, until, culprit } => core.on_ban((who, offence), until, culprit),
            CoreStep::Newcomers { source, count } => core.newcomers.told(source, count),
            CoreStep::Share { user, sessions } => core.rates.share(user, sessions),
            CoreStep::Borrow { borrower } => core.on_borrow(borrower),
            CoreStep::Lend { from, bytes, back } => core.on_lend(from, bytes, back),
        }
    }
}
