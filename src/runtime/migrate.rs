//! How a connection moves to where it belongs, once: to another core of this process, whole, or to another process of this
//! relay, deciphered (see [`upgrade`](super::upgrade)).
//!
//! A new connection goes to where the session lives that its first request names ([`settle`]).
//! The kernel decides which core accepts it, and it must be deciphered before its place is known. If it stayed, each of
//! its bytes would cross cores as long as it lives. So the connection crosses instead, before the relay has heard of
//! any of its bytes: the descriptor, the TLS state, the bytes received so far.
//!
//! A client's own connection, on which its session lives, goes to the core of the session that its own is to be bound to
//! ([`depart`]). That is for the relay to say, and for the other core's ([`msrp_relay_core::Relay::meet`]); here it is packed, in one step, without
//! an await: the state of the relay, of TLS and WebSocket, the descriptor, what was received and not fed. It goes the same way as the relay's
//! messages, and not before those that were sent earlier.
//!
//! Invariants: no received byte is lost or seen twice; the core that gives it away counts it out before the other one
//! counts it in; a connection with anything left to write stays, and so does one whose session is not elsewhere. Must
//! not know what a session is, or where it lives (the relay says so).

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use engine::sock::Socket;
use msrp_tls::Client;

use super::core::{Conn, Shared};
use super::mesh::{Migrant, Mover, Received};
use super::upgrade::PassOn;
use crate::telemetry::{Site, Source, gated};
use msrp_proto::head::Head;
use msrp_proto::parser::{FramePart, Parser};
use msrp_relay_core::{CoreId, Departure, ProvenNames, Transport};

/// A connection whose place is not known yet.
pub(super) struct Unplaced {
    /// How it was accepted.
    transport: Transport,
    /// Looks for its place in a first head that comes in many parts.
    probe: Option<Box<Parser>>,
}

impl Unplaced {
    pub(super) fn new(transport: Transport) -> Self {
        Self { transport, probe: None }
    }
}

/// The place of a connection, as far as its first bytes tell.
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

/// Gives the connection away if it belongs elsewhere, and returns when the other side has it. If it stays, returns the
/// bytes to continue with.
pub(super) async fn settle(
    core: &Rc<Shared>,
    conn: &Conn,
    unplaced: &mut Option<Unplaced>,
    received: Received,
) -> Option<Received> {
    let Some(looking) = unplaced else { return Some(received) };
    let transport = looking.transport;
    let place = looking.place(core, conn, &received.plain);
    if !matches!(place, Place::Unknown) {
        *unplaced = None;
    }
    match place {
        Place::Unknown | Place::Here => Some(received),
        // Boxed: most connections stay, and their tasks must not reserve its memory.
        Place::Elsewhere(home) => Box::pin(move_to(core, conn, (home, transport), received)).await,
        Place::Away(home) => Box::pin(pass_on(core, conn, (home, transport), received)).await,
    }
}

/// What a reader does that has waited with a head.
pub(super) enum Next {
    /// It waits on.
    Wait,
    /// It feeds the head.
    GoOn,
    /// Its connection is in other hands.
    Left,
}

/// Gives a client's connection to the core that expects it, if it is at rest, with what was received and not fed, from a head
/// on: that is `taken` only then. What stands between the record layer and the parser, as the codec of WebSocket does, is a
/// part of it, and of the [`Mover`].
pub(super) fn depart(core: &Rc<Shared>, conn: &Conn, taken: impl FnOnce() -> Received) -> Next {
    let descriptor = conn.is_quiet().then(|| conn.link.socket.duplicate().ok()).flatten();
    let traveller = match core.depart(conn.key, descriptor.is_some()) {
        Departure::Waits => return Next::Wait,
        Departure::Stays => return Next::GoOn,
        Departure::Leaves(traveller) => traveller,
    };
    let address = conn.address();
    // From here on the writer sees that it is over, and says nothing more.
    core.see_off(conn);
    let Some(descriptor) = descriptor else { return Next::Left };
    let to = traveller.to();
    let (tls, websocket) = (conn.link.take_tls(), conn.link.websocket.as_deref().cloned());
    let (traveller, received) = (*traveller, taken());
    let mover = Box::new(Mover { traveller, address, descriptor, tls, websocket, received });
    if let Err(mover) = core.mesh.send_on(to, mover) {
        core.lost_between_cores(&mover.traveller);
    }
    Next::Left
}

async fn move_to(
    core: &Rc<Shared>,
    conn: &Conn,
    (home, transport): (CoreId, Transport),
    received: Received,
) -> Option<Received> {
    let Ok(descriptor) = conn.link.socket.duplicate() else { return Some(received) };
    let (tls, address) = (conn.link.take_tls(), conn.address());
    let migrant = Box::new(Migrant { transport, address, descriptor, tls, proven: None, received });
    tracing::debug!(%address, to = home.index, "Handing over a connection");
    core.counters.connections_handed_over.add(1);
    core.let_go(conn);
    core.mesh.hand_over(home, migrant).await;
    None
}

/// From here on only the TLS of the connection is here.
async fn pass_on(
    core: &Rc<Shared>,
    conn: &Conn,
    (home, transport): (CoreId, Transport),
    received: Received,
) -> Option<Received> {
    let address = conn.address();
    let (outer, inner) = match reach(core, conn, home, transport) {
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
    core.counters.connections_passed_on.add(1);
    let tls = conn.link.take_tls().map(RefCell::new);
    core.let_go(conn);
    let connection = PassOn { outer, inner, tls, scratch: &core.scratch };
    core.passing.set(core.passing.get() + 1);
    connection.run(received.records, received.plain).await;
    core.passing.set(core.passing.get() - 1);
    None
}

/// Sockets to the peer, and to the process of its session.
fn reach(core: &Shared, conn: &Conn, home: CoreId, transport: Transport) -> io::Result<(Socket, Socket)> {
    if core.passing.get() >= core.config().limits.connections_max {
        return Err(io::Error::other("limits.connections_max are passed on already"));
    }
    let outer = Socket::adopt(conn.link.socket.duplicate()?)?;
    let proven = conn.link.tls.as_ref().and_then(|tls| match tls.borrow().peer() {
        Client::Relay(names) => ProvenNames::new(names.iter().map(String::as_str)),
        Client::Unknown | Client::Other(_) => None,
    });
    Ok((outer, core.generations.reach(home, conn.address(), transport, proven)?))
}

impl Unplaced {
    fn place(&mut self, core: &Shared, conn: &Conn, plain: &[u8]) -> Place {
        if !conn.is_quiet() {
            return if plain.is_empty() { Place::Unknown } else { Place::Here };
        }
        let probe = self.probe.get_or_insert_with(|| Box::new(Parser::new(core.config().limits.parser())));
        let mut plain = plain;
        loop {
            let Ok(step) = probe.step(plain) else { return Place::Here };
            let Some(step) = step else { return Place::Unknown };
            let (bytes, rest) = plain.split_at_checked(step.consumed).unwrap_or_default();
            match step.piece {
                FramePart::Head(head) => return place_of(core, &head, bytes),
                FramePart::Body(_) | FramePart::End(_) => return Place::Here,
                // The connection's own parser skips them, too, and shows neither again.
                FramePart::Blank => plain = rest,
            }
        }
    }
}

fn place_of(core: &Shared, head: &Head, bytes: &[u8]) -> Place {
    core.with_relay(|relay| {
        let Some(home) = relay.home_of(head, bytes) else { return Place::Here };
        if relay.is_other(home) {
            return Place::Elsewhere(home);
        }
        match core.generations.of(home.generation()) {
            Some(_) => Place::Away(home),
            None => Place::Here,
        }
    })
}
