//! A fresh connection moves to the core of the session that its first request names, whole and once.
//!
//! It is accepted wherever the kernel puts it, and must be deciphered before anybody knows where it belongs. From there
//! on its octets would cross cores, each of them, for as long as it lives; so it crosses instead, before its relay has
//! been told of anything it brought: the descriptor, the state of TLS, the octets received so far.
//!
//! Invariants: nothing received is lost or seen twice; the core that gives it away has counted it out before the other
//! one counts it in; a connection with anything still to be written stays, and so does whatever is not for a session
//! elsewhere. Must not know: what a session is, where it lives (the relay says it).

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::conn::Conn;
use super::core::Shared;
use super::sock::Socket;
use super::tls::TlsConn;
use crate::proto::parser::{Parser, Piece};
use crate::relay::{CoreId, PeerKey, Transport};

/// A connection on its way.
#[derive(Debug)]
pub(crate) struct HandOver {
    pub(super) transport: Transport,
    pub(super) address: SocketAddr,
    descriptor: OwnedFd,
    tls: Option<Box<TlsConn>>,
    received: Received,
}

/// What has been received of a connection and not been looked at.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// The beginning of a TLS record.
    pub(super) records: Vec<u8>,
    /// Octets of frames.
    pub(super) plain: Vec<u8>,
}

impl HandOver {
    /// The connection as it goes on, on the core that calls this.
    pub(super) fn resume(self, key: PeerKey) -> io::Result<(Conn, Received)> {
        let socket = Socket::adopt(self.descriptor)?;
        Ok((Conn::resumed(key, socket, self.address, self.tls), self.received))
    }
}

/// Where a connection belongs as far as its first octets tell.
enum Place {
    /// They do not tell yet.
    Unknown,
    Here,
    Elsewhere(CoreId),
}

impl Conn {
    /// Gives the connection away if it belongs elsewhere; tells what it goes on with if it does not.
    pub(super) async fn hand_over(&self, shared: &Rc<Shared>, mut received: Received) -> Option<Received> {
        let Some(transport) = self.fresh.get() else { return Some(received) };
        let home = match self.place(shared, &received.plain) {
            Place::Unknown => return Some(received),
            Place::Here => {
                self.fresh.set(None);
                return Some(received);
            }
            Place::Elsewhere(home) => home,
        };
        self.fresh.set(None);
        let Ok(descriptor) = self.socket.duplicate() else { return Some(received) };
        let tls =
            self.tls.as_ref().map(|tls| mem::replace(&mut *tls.borrow_mut(), Box::new(TlsConn::spent())));
        let address = self.address();
        let received = mem::take(&mut received);
        let connection = Box::new(HandOver { transport, address, descriptor, tls, received });
        tracing::debug!(peer = ?self.key, %address, to = home.index, "Handing over a connection");
        shared.counters.connections_handed_over.add(1);
        self.leave(shared);
        shared.mesh.hand_over(home, connection).await;
        None
    }

    fn place(&self, shared: &Rc<Shared>, plain: &[u8]) -> Place {
        if !self.is_quiet() {
            return if plain.is_empty() { Place::Unknown } else { Place::Here };
        }
        match Parser::new(shared.limits.parser()).step(plain) {
            Ok(None) => Place::Unknown,
            Ok(Some(step)) => match step.piece {
                Piece::Head(head) => {
                    let octets = plain.get(..step.consumed).unwrap_or_default();
                    shared.home_elsewhere(&head, octets).map_or(Place::Here, Place::Elsewhere)
                }
                Piece::Body(_) | Piece::End(_) => Place::Here,
            },
            Err(_) => Place::Here,
        }
    }
}
