//! The next hops that the relay wants a connection to.
//!
//! Invariants: a dial ends once; its slot is taken until then. Must not know how dialling works (see
//! [`dial`](crate::runtime::dial)).

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use crate::runtime::tasks::Event;
use msrp_relay_core::{PeerKey, Target, Who};

/// A next hop to connect to.
#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) peer: PeerKey,
    pub(crate) target: Target,
    /// The user in whose turn it is.
    pub(crate) who: Who,
    /// Notified when the relay gives it up.
    pub(crate) given_up: Rc<Event>,
}

/// The dials of a core. As many as the relay has slots for connections.
#[derive(Debug, Default)]
pub(crate) struct Dials {
    waiting: RefCell<VecDeque<Dial>>,
    asked: Event,
    /// The dials under way, and how to end them.
    under_way: RefCell<HashMap<PeerKey, Rc<Event>>>,
}

impl Dials {
    pub(super) fn begin(&self, peer: PeerKey, target: Target, who: Who) {
        let given_up = Rc::new(Event::default());
        self.under_way.borrow_mut().insert(peer, Rc::clone(&given_up));
        self.waiting.borrow_mut().push_back(Dial { peer, target, who, given_up });
        self.asked.notify();
    }

    pub(super) fn give_up(&self, peer: PeerKey) {
        if let Some(given_up) = self.under_way.borrow().get(&peer) {
            given_up.notify();
        }
    }

    /// Waits for the next one.
    pub(crate) async fn next(&self) -> Dial {
        loop {
            let next = self.waiting.borrow_mut().pop_front();
            if let Some(dial) = next {
                return dial;
            }
            self.asked.wait().await;
        }
    }

    pub(crate) fn ended(&self, peer: PeerKey) {
        self.under_way.borrow_mut().remove(&peer);
    }
}
