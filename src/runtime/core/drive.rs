//! The relay of one core.
//!
//! Invariants: only this file borrows the relay, for one step, and never across an await; effects are applied in the
//! order in which the relay asked for them. Every access to the relay goes through the functions here. Must not know
//! how an effect is applied.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use msrp_relay_core::{CoreId, Effect, Message, OutBatch, PeerKey, Relay, WriteState};

/// The relay, and the buffers to poll it with.
#[derive(Debug)]
pub(super) struct Drive {
    relay: RefCell<Relay>,
    applying: Cell<bool>,
    batch: RefCell<OutBatch>,
    /// For records with several parts.
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

    /// Gives `write` one flush for a connection, and a buffer for as long as it needs one.
    pub(super) fn flush(&self, peer: PeerKey, write: impl FnOnce(&OutBatch, &mut Vec<u8>)) -> WriteState {
        let mut batch = self.batch.borrow_mut();
        let state = self.relay.borrow_mut().poll_write(Instant::now(), peer, &mut batch);
        if !batch.is_empty() {
            write(&batch, &mut self.seam.borrow_mut());
        }
        batch.clear();
        state
    }

    /// Takes the messages for other cores and gives them to `send`.
    pub(super) fn send_messages(&self, send: impl Fn(CoreId, Vec<Message>)) {
        while let Some((core, messages)) = self.next_messages() {
            send(core, messages);
        }
    }

    /// Applies the relay's effects, unless that is under way. An effect may feed the relay again before it returns,
    /// because a task runs as soon as it is spawned. The effects of that wait behind those that are due already: a
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

    // The relay must not be borrowed while its effects are applied, so these end the borrow.

    fn next_messages(&self) -> Option<(CoreId, Vec<Message>)> {
        self.relay.borrow_mut().poll_messages()
    }

    fn next_effect(&self) -> Option<Effect> {
        self.relay.borrow_mut().poll_effect()
    }
}
