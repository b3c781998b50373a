//! A fresh connection moves to where the session lives that its first request names, once: whole to another core of
//! this process, deciphered to another process of this relay (see [`succession`](super::succession)).
//!
//! It is accepted wherever the kernel puts it, and must be deciphered before anybody knows where it belongs. From there
//! on its octets would cross cores, each of them, for as long as it lives; so it crosses instead, before its relay has
//! been told of anything it brought: the descriptor, the state of TLS, the octets received so far.
//!
//! Invariants: nothing received is lost or seen twice; the core that gives it away has counted it out before the other
//! one counts it in; a connection with anything still to be written stays, and so does whatever is not for a session
//! elsewhere. Must not know: what a session is, where it lives (the relay says it).

use std::cell::RefCell;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use super::conn::Conn;
use super::core::Shared;
use super::pass_on::PassOn;
use super::sock::Socket;
use super::succession::Passed;
use super::tls::{Client, TlsConn};
use crate::proto::head::Head;
use crate::proto::parser::{Parser, Piece};
use crate::relay::{CoreId, PeerKey, ProvenNames, Transport};
use crate::telemetry::{Site, Source, gated};

/// A connection on its way.
#[derive(Debug)]
pub(crate) struct HandOver {
    pub(super) transport: Transport,
    pub(super) address: SocketAddr,
    descriptor: OwnedFd,
    tls: Option<Box<TlsConn>>,
    /// The names of the relay at the other end, where another process has seen the proof.
    proven: Option<ProvenNames>,
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
    /// One that another process has accepted and deciphers.
    pub(super) fn passed(Passed { address, transport, proven, stream, .. }: Passed) -> Self {
        Self { transport, address, descriptor: stream, tls: None, proven, received: Received::default() }
    }

    /// The connection as it goes on, on the core that calls this.
    pub(super) fn resume(self, key: PeerKey) -> io::Result<(Conn, Received)> {
        let socket = Socket::adopt(self.descriptor)?;
        Ok((Conn::resumed(key, socket, self.address, self.tls, self.proven), self.received))
    }
}

/// Where a connection belongs as far as its first octets tell.
#[derive(Clone, Copy)]
enum Place {
    /// They do not tell yet.
    Unknown,
    Here,
    /// On another core.
    Elsewhere(CoreId),
    /// On a core of another process.
    Away(CoreId),
}

impl Conn {
    /// Gives the connection away if it belongs elsewhere, and returns when it is in other hands; tells what it goes on
    /// with if it does not.
    pub(super) async fn hand_over(&self, shared: &Rc<Shared>, received: Received) -> Option<Received> {
        let Some(transport) = self.fresh.get() else { return Some(received) };
        let place = self.place(shared, &received.plain);
        if !matches!(place, Place::Unknown) {
            self.fresh.set(None);
            self.probe.take();
        }
        match place {
            Place::Unknown | Place::Here => Some(received),
            // Boxed: what it takes must not be kept free in the task of each connection, most of which stay.
            Place::Elsewhere(home) => Box::pin(self.move_to(shared, home, transport, received)).await,
            Place::Away(home) => Box::pin(self.pass_on(shared, home, transport, received)).await,
        }
    }

    async fn move_to(
        &self,
        shared: &Rc<Shared>,
        home: CoreId,
        transport: Transport,
        received: Received,
    ) -> Option<Received> {
        let Ok(descriptor) = self.socket.duplicate() else { return Some(received) };
        let (tls, address) = (self.take_tls(), self.address());
        let connection = Box::new(HandOver { transport, address, descriptor, tls, proven: None, received });
        tracing::debug!(%address, to = home.index, "Handing over a connection");
        shared.counters.connections_handed_over.add(1);
        self.leave(shared);
        shared.mesh.hand_over(home, connection).await;
        None
    }

    /// What is here of the connection from now on is TLS alone.
    async fn pass_on(
        &self,
        shared: &Rc<Shared>,
        home: CoreId,
        transport: Transport,
        received: Received,
    ) -> Option<Received> {
        let address = self.address();
        let (outer, inner) = match self.pass_to_kin(shared, home, transport) {
            Ok(sockets) => sockets,
            Err(error) => {
                let source = Source::address(address.ip());
                gated!(
                    info,
                    Site::CannotPassOn,
                    source,
                    { %address, reason = %error },
                    "Cannot pass a connection on to another process"
                );
                return Some(received);
            }
        };
        tracing::debug!(%address, "Passing a connection on to another process");
        shared.counters.connections_passed_on.add(1);
        let tls = self.take_tls().map(RefCell::new);
        self.leave(shared);
        let connection = PassOn { outer, inner, tls, scratch: &shared.scratch };
        shared.passing.set(shared.passing.get() + 1);
        connection.run(received.records, received.plain).await;
        shared.passing.set(shared.passing.get() - 1);
        None
    }

    fn pass_to_kin(
        &self,
        shared: &Shared,
        home: CoreId,
        transport: Transport,
    ) -> io::Result<(Socket, Socket)> {
        if shared.passing.get() >= shared.limits().connections_max {
            return Err(io::Error::other("limits.connections_max are passed on already"));
        }
        let outer = Socket::adopt(self.socket.duplicate()?)?;
        let proven = self.tls.as_ref().and_then(|tls| match tls.borrow().peer() {
            Client::Relay(names) => ProvenNames::new(names.iter().map(String::as_str)),
            Client::Unknown | Client::Other(_) => None,
        });
        Ok((outer, shared.reach_kin(home, self.address(), transport, proven.as_ref())?))
    }

    fn take_tls(&self) -> Option<Box<TlsConn>> {
        self.tls.as_ref().map(|tls| mem::replace(&mut *tls.borrow_mut(), Box::new(TlsConn::spent())))
    }

    fn place(&self, shared: &Rc<Shared>, plain: &[u8]) -> Place {
        if !self.is_quiet() {
            return if plain.is_empty() { Place::Unknown } else { Place::Here };
        }
        let mut probe = self.probe.borrow_mut();
        let probe = probe.get_or_insert_with(|| Box::new(Parser::new(shared.limits().parser())));
        let mut plain = plain;
        loop {
            let Ok(step) = probe.step(plain) else { return Place::Here };
            let Some(step) = step else { return Place::Unknown };
            let (octets, rest) = plain.split_at_checked(step.consumed).unwrap_or_default();
            match step.piece {
                Piece::Head(head) => return place_of(shared, &head, octets),
                Piece::Body(_) | Piece::End(_) => return Place::Here,
                // The connection's own parser passes over them, too, and shows neither again.
                Piece::Blank => plain = rest,
            }
        }
    }
}

fn place_of(shared: &Shared, head: &Head, octets: &[u8]) -> Place {
    let relay = shared.relay.borrow();
    let Some(home) = relay.home_of(head, octets) else { return Place::Here };
    if relay.is_other(home) {
        return Place::Elsewhere(home);
    }
    match shared.family.of(home.generation()) {
        Some(_) => Place::Away(home),
        None => Place::Here,
    }
}

impl Shared {
    /// A connection to a core of another process of this relay, in plain text: for a peer at `address`, which uses, or
    /// would use, `transport`, and has proven to bear these names.
    pub(super) fn reach_kin(
        &self,
        home: CoreId,
        address: SocketAddr,
        transport: Transport,
        proven: Option<&ProvenNames>,
    ) -> io::Result<Socket> {
        let kin = self.family.of(home.generation()).ok_or(io::ErrorKind::NotFound)?;
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let ours = Socket::adopt(ours.into())?;
        kin.pass(home.index, address, transport, proven, &theirs.into())?;
        Ok(ours)
    }
}
