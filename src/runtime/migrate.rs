//! A new connection moves to where the session lives that its first request names, once: whole to another core of
//! this process, deciphered to another process of this relay (see [`upgrade`](super::upgrade)).
//!
//! It is accepted wherever the kernel puts it, and must be deciphered before it is known where it belongs. From there
//! on its bytes would cross cores, each of them, for as long as it lives; so it crosses instead, before its relay has
//! been told of anything it brought: the descriptor, the state of TLS, the bytes received so far.
//!
//! Invariants: nothing received is lost or seen twice; the core that gives it away has counted it out before the other
//! one counts it in; a connection with anything still to be written stays, and so does one that is not for a session
//! elsewhere. Must not know: what a session is, where it lives (the relay says it).

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use engine::sock::Socket;
use msrp_tls::Client;

use super::core::{Conn, Shared};
use super::mesh::{Migrant, Received};
use super::upgrade::PassOn;
use crate::telemetry::{Site, Source, gated};
use msrp_proto::head::Head;
use msrp_proto::parser::{FramePart, Parser};
use msrp_relay_core::{CoreId, ProvenNames, Transport};

/// A connection of which it is not known yet where it belongs.
pub(super) struct Unplaced {
    /// How it was accepted.
    transport: Transport,
    /// What looks for its place in a first head that comes in many pieces.
    probe: Option<Box<Parser>>,
}

impl Unplaced {
    pub(super) fn new(transport: Transport) -> Self {
        Self { transport, probe: None }
    }
}

/// Where a connection belongs as far as its first bytes tell.
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

/// Gives the connection away if it belongs elsewhere, and returns when it is in other hands; tells what it goes on
/// with if it does not.
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
        // Boxed: what it takes must not be kept free in the task of each connection, most of which stay.
        Place::Elsewhere(home) => Box::pin(move_to(core, conn, (home, transport), received)).await,
        Place::Away(home) => Box::pin(pass_on(core, conn, (home, transport), received)).await,
    }
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

/// What is here of the connection from now on is TLS alone.
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

/// Sockets to the peer, and to the process where the session lives.
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
                // The connection's own parser passes over them, too, and shows neither again.
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
