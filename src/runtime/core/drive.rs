//! The relay of one core, and what it has asked for.
//!
//! Invariants: the relay is borrowed in this file alone, for one step, and never across an await; what the relay asks
//! for is due in the order in which it was asked. The functions here are all the ways in to the relay.
//! Must not know: how an effect is applied.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use crate::relay::{
    CoreId, Effect, Effects, Event, Limit, Message, OutBatch, PeerKey, Relay, Transport, WriteState,
};

/// The relay, and what it has asked for.
#[derive(Debug)]
pub(super) struct Drive {
    relay: RefCell<Relay>,
    effects: RefCell<Effects>,
    /// Effects not applied yet, in the order in which the relay asked for them.
    due: RefCell<VecDeque<Effect>>,
    applying: Cell<bool>,
    batch: RefCell<OutBatch>,
    /// For records that are made of several parts.
    seam: RefCell<Vec<u8>>,
}

impl Drive {
    pub(super) fn new(relay: Relay) -> Self {
        Self {
            relay: RefCell::new(relay),
            effects: RefCell::default(),
            due: RefCell::default(),
            applying: Cell::new(false),
            batch: RefCell::default(),
            seam: RefCell::default(),
        }
    }

    /// A look at the relay.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Relay) -> T) -> T {
        look(&self.relay.borrow())
    }

    /// Tells the relay which other processes of this relay exist, by their generations.
    pub(super) fn set_generations(&self, generations: [Option<u8>; 2]) {
        self.relay.borrow_mut().set_kin(generations);
    }

    /// Tells the relay what happened.
    pub(super) fn feed(&self, feed: impl FnOnce(&mut Relay, Instant, &mut Effects)) -> Effects {
        let mut fx = self.effects.take();
        feed(&mut self.relay.borrow_mut(), Instant::now(), &mut fx);
        fx
    }

    /// Hands one flush of what a connection may be sent to `write`, and a buffer for as long as it needs one.
    pub(super) fn flush(
        &self,
        peer: PeerKey,
        write: impl FnOnce(&OutBatch, &mut Vec<u8>),
    ) -> (WriteState, Effects) {
        let mut fx = self.effects.take();
        let mut batch = self.batch.borrow_mut();
        let state = self.relay.borrow_mut().poll_write(Instant::now(), peer, &mut batch, &mut fx);
        if !batch.is_empty() {
            write(&batch, &mut self.seam.borrow_mut());
        }
        batch.clear();
        (state, fx)
    }

    /// Asks the relay for a slot for one more connection. It has no name for one that it does not take, so what it says
    /// of that is for the caller to say.
    pub(super) fn accept(&self, transport: Transport, ip: IpAddr) -> (Result<PeerKey, Limit>, Effects) {
        let mut fx = self.effects.take();
        let accepted = self.relay.borrow_mut().accept(Instant::now(), transport, ip, &mut fx);
        if accepted.is_err() {
            let is_its_own =
                |effect: &Effect| matches!(effect, Effect::Event(Event::LimitReached { peer: None, .. }));
            fx.list.retain(|effect| !is_its_own(effect));
        }
        (accepted, fx)
    }

    /// Takes what the relay has asked for: `send` gets what is for other cores, the rest is due.
    pub(super) fn take(&self, mut fx: Effects, send: impl Fn(CoreId, Vec<Message>)) {
        for (core, messages) in fx.parcels.drain(..) {
            send(core, messages);
        }
        self.due.borrow_mut().extend(fx.list.drain(..));
        // Kept for its memory.
        *self.effects.borrow_mut() = fx;
    }

    /// Applies what is due, unless that is under way. An effect may feed the relay again before it returns, for a task
    /// runs as soon as it is spawned. What comes of that waits behind the effects that are due already: a resume must
    /// not overtake the pause before it.
    pub(super) fn apply_due(&self, mut apply: impl FnMut(Effect)) {
        if self.applying.replace(true) {
            return;
        }
        while let Some(effect) = self.next_due() {
            apply(effect);
        }
        self.applying.set(false);
    }

    fn next_due(&self) -> Option<Effect> {
        self.due.borrow_mut().pop_front()
    }
}
