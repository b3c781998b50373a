//! The relay of one core.
//!
//! Invariants: the relay is borrowed in this file alone, for one step, and never across an await; what the relay asks
//! for is applied in the order in which it was asked. The functions here are all the ways in to the relay.
//! Must not know: how an effect is applied.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use msrp_relay_core::{CoreId, Effect, Message, OutBatch, PeerKey, Relay, WriteState};

/// The relay, and the buffers that it is polled with.
#[derive(Debug)]
pub(super) struct Drive {
    relay: RefCell<Relay>,
    applying: Cell<bool>,
    batch: RefCell<OutBatch>,
    /// For records that are made of several parts.
    seam: RefCell<Vec<u8>>,
}

impl Drive {
    pub(super) fn new(relay: Relay) -> Self {
        Self {
            relay: RefCell::new(relay),
            applying: Cell::new(false),
            batch: RefCell::default(),
            seam: RefCell::default(),
        }
    }

    /// A look at the relay.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Relay) -> T) -> T {
        look(&self.relay.borrow())
    }

    /// Tells the relay what happened.
    pub(super) fn feed<T>(&self, feed: impl FnOnce(&mut Relay, Instant) -> T) -> T {
        feed(&mut self.relay.borrow_mut(), Instant::now())
    }

    /// Hands one flush of what a connection may be sent to `write`, and a buffer for as long as it needs one.
    pub(super) fn flush(&self, peer: PeerKey, write: impl FnOnce(&OutBatch, &mut Vec<u8>)) -> WriteState {
        let mut batch = self.batch.borrow_mut();
        let state = self.relay.borrow_mut().poll_write(Instant::now(), peer, &mut batch);
        if !batch.is_empty() {
            write(&batch, &mut self.seam.borrow_mut());
        }
        batch.clear();
        state
    }

    /// Takes what is for other cores and hands it to `send`.
    pub(super) fn send_messages(&self, send: impl Fn(CoreId, Vec<Message>)) {
        while let Some((core, messages)) = self.next_messages() {
            send(core, messages);
        }
    }

    /// Applies what the relay asks for, unless that is under way. An effect may feed the relay again before it returns,
    /// for a task runs as soon as it is spawned. What comes of that waits behind the effects that are due already: a
    /// resume must not overtake the pause before it.
    pub(super) fn apply_effects(&self, mut apply: impl FnMut(Effect)) {
        if self.applying.replace(true) {
            return;
        }
        while let Some(effect) = self.next_effect() {
            apply(effect);
        }
        self.applying.set(false);
    }

    // The relay must not be borrowed while what it asked for is applied, so these end the borrow.

    fn next_messages(&self) -> Option<(CoreId, Vec<Message>)> {
        self.relay.borrow_mut().poll_messages()
    }

    fn next_effect(&self) -> Option<Effect> {
        self.relay.borrow_mut().poll_effect()
    }
}
