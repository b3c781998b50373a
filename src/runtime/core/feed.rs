//! Feeds the relay of a core, and applies its effects.
//!
//! Must not know why the relay asks.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use super::shared::Shared;
use crate::runtime::log::{self, Felt};
use msrp_relay_core::{
    Departure, Effect, Event, Input, Limit, OutBatch, PeerKey, Relay, Transport, Traveller, WriteState,
};

impl Shared {
    /// Tells the relay what happened and applies its effects.
    pub(crate) fn feed(self: &Rc<Self>, inputs: impl IntoIterator<Item = Input>) {
        self.feed_with(|relay, now| {
            for input in inputs {
                relay.handle(now, input);
            }
        });
    }

    /// The same, for inputs that can only be given one by one.
    pub(crate) fn feed_with(self: &Rc<Self>, feed: impl FnOnce(&mut Relay, Instant)) {
        self.drive.feed(feed);
        self.apply();
    }

    /// Gives `write` one flush for a connection, and a buffer for as long as it needs one.
    pub(crate) fn next_flush(
        self: &Rc<Self>,
        peer: PeerKey,
        write: impl FnOnce(&OutBatch, &mut Vec<u8>),
    ) -> WriteState {
        let state = self.drive.flush(peer, write);
        self.apply();
        state
    }

    /// Makes room for one more connection in the relay, if possible. `begin` returns whether the connection is there.
    pub(crate) fn take_in(
        self: &Rc<Self>,
        transport: Transport,
        address: SocketAddr,
        begin: impl FnOnce(PeerKey) -> bool,
    ) {
        let accepted = self.drive.feed(|relay, now| relay.accept(now, transport, address.ip()));
        let lost = match accepted {
            // Before the effects: they may be about this connection.
            Ok(peer) => Some(peer).filter(|peer| !begin(*peer)),
            // The relay has no name for a connection that it does not accept, so its log line comes from here.
            Err(limit) => {
                log::limit_reached(limit, || Felt { address: Some(address), ..Felt::default() });
                None
            }
        };
        self.apply();
        // After the effects: the counting core must hear of its arrival first.
        if let Some(peer) = lost {
            self.feed([Input::Lost { peer }]);
        }
    }

    /// A reader that was parked goes on. If its connection leaves, everything that was said before is on its way.
    pub(crate) fn depart(self: &Rc<Self>, peer: PeerKey, quiet: bool) -> Departure {
        let departure = self.drive.feed(|relay, now| relay.depart(now, peer, quiet));
        self.apply();
        departure
    }

    /// A connection comes from another core. `begin` says whether it is there.
    pub(crate) fn arrive(self: &Rc<Self>, traveller: Traveller, begin: impl FnOnce(PeerKey) -> bool) {
        let arrived = self.drive.feed(|relay, now| relay.arrive(now, traveller));
        // Before the effects, as above.
        let lost = arrived.filter(|peer| !begin(*peer));
        self.apply();
        if let Some(peer) = lost {
            self.feed([Input::Lost { peer }]);
        }
    }

    /// Tells the relay which other processes of this relay exist.
    pub(crate) fn look_at_generations(self: &Rc<Self>) {
        self.feed([Input::OtherGenerations(self.generations.numbers())]);
    }

    fn apply(self: &Rc<Self>) {
        self.fed.notify();
        self.drive.send_messages(|core, messages| self.mesh.send(core, messages));
        self.drive.apply_effects(|effect| self.apply_one(effect));
    }

    fn apply_one(self: &Rc<Self>, effect: Effect) {
        match effect {
            Effect::Wake(peer) => self.conns.with(peer, |conn| conn.writing.wake()),
            Effect::Pause(peer) => self.conns.with(peer, |conn| conn.reading.pause()),
            Effect::Resume(peer) => self.conns.with(peer, |conn| conn.reading.resume()),
            Effect::GoOn(peer) => self.conns.with(peer, |conn| conn.reading.go_on()),
            Effect::Close { peer, reason } => self.close(peer, reason),
            Effect::Abort { peer, reason } => self.abort(peer, reason),
            Effect::Connect { peer, target, who } => self.dials.begin(peer, target, who),
            Effect::LookUp { ticket, who, attempt } => {
                let core = Rc::clone(self);
                self.tasks.spawn(async move { core.look_up(ticket, who, *attempt).await });
            }
            Effect::Event(Event::LimitReached { limit, peer, user }) => {
                // The relay has counted it already.
                log::limit_reached(limit, || self.felt_by(peer, user));
            }
            Effect::Event(event) => self.tell(&event),
        }
    }

    /// Counts an event, and logs it. If it is the end of a session, also writes an accounting record.
    fn tell(&self, event: &Event) {
        log::count(&self.counters, event);
        let peer = match event {
            Event::SessionClosed { session, reason } => {
                self.account(session, *reason);
                session.client
            }
            Event::SessionOpened { session, user, realm, peer, relay } => {
                if relay.is_none() {
                    self.trace_new_session(*peer, session, (user, realm));
                }
                Some(*peer)
            }
            Event::SessionMoved { session, user, realm, peer, .. } => {
                self.trace_new_session(*peer, session, (user, realm));
                Some(*peer)
            }
            Event::AuthRefused { peer, .. } | Event::ClosedForRequests { peer, .. } => Some(*peer),
            _ => None,
        };
        log::event(event, peer.and_then(|peer| self.address_of(peer)), self.config().log_failures);
    }

    /// A limit of the runtime was reached, which the relay does not know.
    pub(crate) fn limit_reached(&self, limit: Limit, felt_by: Option<(PeerKey, SocketAddr)>) {
        self.counters.limit_reached(limit, 1);
        log::limit_reached(limit, || {
            let felt = self.felt_by(felt_by.map(|(peer, _)| peer), None);
            Felt { address: felt_by.map(|(_, address)| address), ..felt }
        });
    }

    /// What is known of the peer that reached a limit; `user`, if the limit is about one.
    fn felt_by(&self, peer: Option<PeerKey>, user: Option<String>) -> Felt {
        let mut holder = peer.map(|peer| self.with_relay(|relay| relay.holder(peer))).unwrap_or_default();
        holder.user = user.or(holder.user);
        Felt { address: peer.and_then(|peer| self.address_of(peer)), holder }
    }
}
