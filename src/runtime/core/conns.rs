//! The table of a core's connections.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::conn::Conn;
use crate::runtime::tasks::Event;
use msrp_relay_core::PeerKey;

/// The connections, by the relay's names for them.
#[derive(Debug, Default)]
pub(super) struct Conns {
    open: RefCell<HashMap<PeerKey, Rc<Conn>>>,
    emptied: Event,
}

impl Conns {
    pub(super) fn get(&self, peer: PeerKey) -> Option<Rc<Conn>> {
        self.open.borrow().get(&peer).map(Rc::clone)
    }

    pub(super) fn with(&self, peer: PeerKey, act: impl FnOnce(&Conn)) {
        if let Some(conn) = self.open.borrow().get(&peer) {
            act(conn);
        }
    }

    pub(super) fn each(&self, act: impl Fn(&Conn)) {
        self.open.borrow().values().for_each(|conn| act(conn));
    }

    pub(super) fn insert(&self, conn: &Rc<Conn>) {
        self.open.borrow_mut().insert(conn.key, Rc::clone(conn));
    }

    pub(super) fn remove(&self, peer: PeerKey) {
        let mut open = self.open.borrow_mut();
        open.remove(&peer);
        if open.is_empty() {
            self.emptied.notify();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.open.borrow().len()
    }

    pub(super) fn clear(&self) {
        self.open.borrow_mut().clear();
    }

    /// Waits until there is none.
    pub(super) async fn emptied(&self) {
        while self.len() > 0 {
            self.emptied.wait().await;
        }
    }
}
