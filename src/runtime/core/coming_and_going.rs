//! How connections come to a core and leave it.
//!
//! Invariants: the relay hears of the end of a connection once, and only after that is its slot free; a connection that
//! moves to another core is counted out here before it is counted in there.

use std::net::SocketAddr;
use std::rc::Rc;

use super::conn::{Conn, Phase};
use super::shared::Shared;
use msrp_relay_core::{CloseReason, Input, PeerKey};

impl Shared {
    /// The address of a connection's peer.
    pub(crate) fn address_of(&self, peer: PeerKey) -> Option<SocketAddr> {
        self.conns.get(peer).map(|conn| conn.address())
    }

    /// Counts a connection in.
    pub(crate) fn enter(&self, conn: &Rc<Conn>) {
        self.conns.insert(conn);
        self.counters.connections_open.add(1);
        self.counters.websocket_open.add(u64::from(conn.link.websocket.is_some()));
    }

    pub(super) fn close(&self, peer: PeerKey, reason: CloseReason) {
        let address = self.address_of(peer).map(tracing::field::display);
        tracing::debug!(address, reason = reason.as_str(), "Closing connection");
        self.dials.give_up(peer);
        if let Some(conn) = self.conns.get(peer) {
            if let Some(websocket) = &conn.link.websocket {
                websocket.close_because(reason);
            }
            conn.close();
        }
    }

    /// Ends a connection at once: writes nothing more, and does not wait for the peer.
    pub(super) fn abort(self: &Rc<Self>, peer: PeerKey, reason: CloseReason) {
        tracing::debug!(?peer, reason = reason.as_str(), "Aborting connection");
        if let Some(conn) = self.conns.get(peer) {
            // Fails only if the peer is gone already.
            let _ = conn.link.socket.reset_when_closed();
            self.lose(&conn);
        }
    }

    /// A connection has ended; its tasks hold it for as long as they need it.
    pub(crate) fn lose(self: &Rc<Self>, conn: &Conn) {
        if conn.end() {
            // A task that is still waiting sees the end.
            let _ = conn.link.socket.shutdown_both();
            self.leave(conn);
        }
    }

    /// The same for a connection that another core or process continues with.
    pub(crate) fn let_go(self: &Rc<Self>, conn: &Conn) {
        if conn.end() {
            self.leave(conn);
        }
    }

    /// The same for one that the relay has given away itself, and that has no end.
    pub(crate) fn see_off(&self, conn: &Conn) {
        if conn.end() {
            self.count_out(conn);
            self.conns.remove(conn.key);
        }
    }

    fn count_out(&self, conn: &Conn) {
        self.counters.connections_open.sub(1);
        self.counters.websocket_open.sub(u64::from(conn.link.websocket.is_some()));
    }

    /// A connection has left in whatever way: the relay hears that, too.
    fn leave(self: &Rc<Self>, conn: &Conn) {
        self.count_out(conn);
        let peer = conn.key;
        let input = match conn.phase.get() {
            Phase::Dialling { .. } => Input::DialFailed { peer },
            Phase::Accepting { .. } | Phase::Up { .. } => Input::Lost { peer },
        };
        // The relay's events about its end still find its address.
        self.feed([input]);
        self.conns.remove(peer);
    }
}
