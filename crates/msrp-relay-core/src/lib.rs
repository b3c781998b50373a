//! The relay itself, as a pure state machine: one [`Relay`] per core, no IO, no clock, no
//! randomness of its own. RFC 4976, 6, over RFC 4975, 5 to 7.
//!
//! How to drive it:
//! - **inputs**: [`Relay::accept`] for a new connection, then [`Relay::handle`] with everything that
//!   happens: bytes parsed into heads, bodies and ends; answers to look-ups; messages of other cores;
//! - **effects**: what the caller must now do, one after the other from [`Relay::poll_effect`], and what
//!   goes to other cores from [`Relay::poll_parcel`];
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
mod api;
mod auth;
mod budget;
mod core;
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

use std::mem;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use slotmap::SlotMap;

use msrp_proto::head::{Head, Kind, Method};
use msrp_proto::uri::MsrpUri;

pub use admission::{AddressKey, Offence, Tally, UserKey, Who};
pub use api::{Input, LookUpAnswer, Transport, WriteState};
pub use effect::{CloseReason, Effect, Event, Target};
pub use identity::{ProvenNames, covers};
pub use ids::{CoreId, LookUpTicket, PeerKey, PeerRef, SessionId, SessionRef, StreamId, Tid};
pub use limit::Limit;
pub use message::{
    CoreStep, Giver, HEAD_OVERHEAD, Hop, Message, Notice, Outer, PeerStep, SessionStep, Transit,
};
pub use newcomers::Stage;
pub use output::OutBatch;
pub use settings::{ChunkBounds, Limits, Settings};
pub use stats::{Stats, TableSizes};
pub use view::{EndReason, Far, Found, Holder, SessionHandle, SessionState, SessionView, home_of_prefix};

use self::core::Core;
use forward::WriteContext;
use peer::Peer;
use session::Sessions;
use transaction::Room;

/// One core's relay. See the module's documentation for how to drive it.
#[derive(Debug)]
pub struct Relay {
    peers: SlotMap<PeerKey, Peer>,
    sessions: Sessions,
    core: Core,
}

/// The most handed over at a time while memory is short: the floor of `limits.flush_bytes_max`.
const PRESSED_FLUSH_MAX: usize = 16 << 10;

impl Relay {
    /// A relay without connections. `seed` must come from the operating system's generator.
    pub fn new(me: CoreId, settings: Settings, seed: [u8; 32], now: Instant) -> Self {
        let mut core = Core::new(me, settings, seed, now);
        let sessions = Sessions::new(&mut core.entropy);
        Self { peers: SlotMap::with_key(), sessions, core }
    }

    /// A connection from `address` has been accepted. If there is no room for it, the one goes that has proven least
    /// ([`Effect::Abort`]).
    ///
    /// # Errors
    /// The limit that forbids it, where no other connection makes room: close it. A limit that only all cores together
    /// exceed is found a little later, and ends with [`Effect::Abort`], too.
    pub fn accept(&mut self, now: Instant, transport: Transport, address: IpAddr) -> Result<PeerKey, Limit> {
        self.core.now = now;
        self.shed_newcomers();
        let room = match self.core.budget.is_pressed() {
            true => Err(Limit::QueueBytesTotal),
            false => self.make_room(true),
        };
        if let Err(limit) = room {
            self.core.count_limit(limit);
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
        self.core.tally(Who::Address(source), Tally::Connected(peer));
        if let Some(peer) = self.peers.get_mut(key) {
            peer.set_alarm(&mut self.core);
        }
        self.settle();
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
        Some(SessionRef::of_wire(peer::named_session(first)?).core)
    }

    /// Whether a session lives by a connection.
    pub fn serves_session(&self, peer: PeerKey) -> bool {
        self.peers.get(peer).is_some_and(Peer::is_in_use)
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
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.core.now = now;
        match input {
            Input::Head { peer, head, octets } => self.on_head(peer, head, octets),
            Input::Body { peer, octets } => self.on_body(peer, octets),
            Input::End { peer, flag } => self.on_end(peer, flag),
            Input::Blank { peer, octets } => self.on_blank(peer, octets),
            Input::Unfinished { peer, bytes } => self.on_unfinished(peer, bytes),
            Input::Unparseable { peer } => self.close_peer(peer, CloseReason::Unparseable),
            Input::Identified { peer, names } => self.on_identified(peer, names),
            Input::Advanced { peer, stage } => self.on_advanced(peer, stage),
            Input::NoDescriptor => self.on_no_descriptor(),
            Input::Connected { peer } => self.on_connected(peer),
            Input::DialFailed { peer } => {
                self.on_dial_failed(peer);
            }
            Input::Ended { peer } => self.close_peer(peer, CloseReason::Ended),
            Input::Lost { peer } => self.lose_peer(peer),
            Input::LookedUp { ticket, answer } => self.on_looked_up(ticket, answer),
            Input::Message(message) if self.core.may_come_in(&message) => {
                self.core.inbox.push_back(message);
            }
            Input::Message(_) => {}
            Input::CoreChanged { index, running } => self.on_core_changed(index, running),
            Input::OtherGenerations(generations) => self.core.kin = generations,
            Input::Reconfigured(settings) => self.on_reconfigured(*settings),
            Input::Tick => self.on_tick(),
            Input::CloseSession(session) => self.on_operator_closes(session),
            Input::Drain => self.core.draining = true,
            Input::Quiesce => self.quiesce(),
            Input::GiveUp => self.give_up_answers(),
            Input::Shutdown => self.close_all_peers(),
        }
        self.settle();
    }

    /// Moves what `peer` may be sent now into `out`, which must be empty: one flush.
    pub fn poll_write(&mut self, now: Instant, peer: PeerKey, out: &mut OutBatch) -> WriteState {
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
        let deaf = entry.is_paused();
        let mut cx = WriteContext { core: &mut self.core, room, credit_batch, deaf };
        entry.out.fill(out, budget, &mut cx);
        entry.taking = !out.is_empty();
        entry.in_hand = out.len();
        entry.set_alarm(&mut self.core);
        entry.count_full_table(&mut self.core);
        entry.update_pause(&mut self.core);
        let finished = entry.closing && entry.out.is_empty();
        self.settle();
        if finished { WriteState::Finished } else { WriteState::Open }
    }

    /// What the caller must do next; `None`: nothing more.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.core.effects.poll()
    }

    /// Steps for another core, in the order in which it must be given them; `None`: no more.
    pub fn poll_parcel(&mut self) -> Option<(CoreId, Vec<Message>)> {
        self.core.effects.poll_parcel()
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
    fn settle(&mut self) {
        loop {
            while let Some(message) = self.core.inbox.pop_front() {
                self.step(message);
            }
            if self.core.budget.take_pressure() {
                self.forget_askers();
                self.shed_newcomers();
            } else if self.core.budget.take_relief() {
                self.resume_all();
            } else {
                break;
            }
        }
        self.balance_budget();
    }

    /// Memory is short no more: whoever waited for that goes on.
    fn resume_all(&mut self) {
        let room = Room::short(self.core.settings.limits.transactions_per_peer_max);
        for peer in self.peers.values_mut() {
            peer.update_pause(&mut self.core);
            if peer.out.transactions.is_full(room) {
                peer.wake(&mut self.core);
            }
        }
    }

    /// Memory is short: clients behind relays that have nothing and wait for nothing ask again. Without this what they
    /// take could fill the budget for as long as their relays are connected.
    fn forget_askers(&mut self) {
        for peer in self.peers.values_mut() {
            if let Some(behind) = &mut peer.behind {
                behind.forget_idle(&self.sessions);
                peer.recount(&mut self.core);
            }
        }
    }

    /// Asks another core for memory when it is getting tight here, or gives back what it lent.
    fn balance_budget(&mut self) {
        let core = &mut self.core;
        let said = core.budget.balance(core.me, &core.cores, core.now);
        if let Some(message) = said {
            core.post(message);
        }
    }

    fn step(&mut self, message: Message) {
        match message {
            Message::ToSession { to, step } => self.step_of_session(to, step),
            Message::ToPeer { to, step } => self.step_of_peer(to, step),
            Message::ToCore { step, .. } => self.step_of_core(step),
        }
    }

    fn step_of_session(&mut self, to: SessionRef, step: SessionStep) {
        match step {
            SessionStep::Request { giver, stream, transit } => self.on_request(to, giver, stream, transit),
            SessionStep::Body { stream, octets } => self.on_request_body(to, stream, octets),
            SessionStep::End { stream, flag } => self.on_request_end(to, stream, flag),
            SessionStep::Broken { stream, status } => self.on_broken(to, stream, status),
            SessionStep::Report { from, octets } => self.on_report(to, from, octets),
            SessionStep::Failed { notice, status } => self.on_hop_failed(&notice, status),
            SessionStep::InnerLost => self.on_inner_lost(to),
            SessionStep::OuterLost { outer, was_up, status } => self.on_outer_lost(to, outer, was_up, status),
            SessionStep::Guess => self.on_guess(to),
            SessionStep::Relieve { before, source } => self.on_relieve(to, source, before),
        }
    }

    fn step_of_peer(&mut self, to: PeerRef, step: PeerStep) {
        match step {
            PeerStep::Request { hop, stream, transit } => self.on_open(to, hop, stream, transit),
            PeerStep::Body { stream, octets } => self.on_piece(to, stream, octets),
            PeerStep::End { stream, flag } => self.on_close(to, stream, flag),
            PeerStep::Answer { sequence, status } => self.on_answer(to, sequence, status),
            PeerStep::Reply { sequence, transit } => self.on_reply(to, sequence, &transit),
            PeerStep::Frame { octets } => self.on_frame(to, &octets),
            PeerStep::Credit { from, octets } => self.on_credit(to, from, octets),
            PeerStep::Lent { from, to: holder, octets } => self.on_lent(to, from, holder, octets),
            PeerStep::Bind { session, chunk_max } => self.on_bind(to, session, chunk_max),
            PeerStep::Unbind { session } => self.on_unbind(to, session),
            PeerStep::Abandoned { session } => self.on_abandoned(to, session),
            PeerStep::Shed { source } => self.on_shed(to, source),
            PeerStep::Excess { limit } => self.on_excess(to.key, limit),
            PeerStep::Claimed { ticket, who, granted, counter } => {
                self.on_claimed(ticket, who, granted, counter);
            }
        }
    }

    fn step_of_core(&mut self, step: CoreStep) {
        match step {
            CoreStep::Tally { from, who, tally } => self.on_tally(from, who, tally),
            CoreStep::Ban { who, offence, until, culprit } => self.on_ban((who, offence), until, culprit),
            CoreStep::Newcomers { source, count } => self.core.newcomers.told(source, count),
            CoreStep::Share { user, sessions } => self.core.rates.share(user, sessions),
            CoreStep::Borrow { borrower } => {
                let (from, octets) = (self.core.me, self.core.budget.lend(borrower));
                self.core.tell_core(borrower, CoreStep::Lend { from, octets, back: false });
            }
            CoreStep::Lend { from, octets, back } => {
                let unasked = self.core.budget.receive(from, octets, back);
                if unasked > 0 {
                    let me = self.core.me;
                    self.core.tell_core(from, CoreStep::Lend { from: me, octets: unasked, back: true });
                }
            }
        }
    }

    fn on_core_changed(&mut self, index: u16, running: Option<u16>) {
        let Some(entry) = self.core.cores.get_mut(usize::from(index)) else {
            return;
        };
        let before = mem::replace(entry, running);
        if let Some(incarnation) = before.filter(|_| before != running) {
            self.core.ended[usize::from(index)] = Some(incarnation);
            self.forget_core(CoreId { index, incarnation });
        }
        if let Some(incarnation) = running {
            // It may have started after this core, and missed what was said to it before.
            let core = CoreId { index, incarnation };
            self.restore(core);
            self.core.budget.ask_again(core);
        }
    }

    fn on_tick(&mut self) {
        // Only what is due now: should an alarm be set for the past again, it must not hold up the core.
        let after = self.core.now + Duration::from_nanos(1);
        let later = self.core.alarms.split_off(&(after, PeerKey::default()));
        let due = mem::replace(&mut self.core.alarms, later);
        for (_, key) in due {
            self.on_alarm(key);
        }
        self.end_expired_sessions();
    }
}
