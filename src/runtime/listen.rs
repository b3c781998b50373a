//! How connections come in: accepted on a core's own sockets, or taken over from another core or process.
//!
//! Invariants: a core that stops accepting loses no connection that the kernel has given it. Must not know what a
//! connection is for.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engine::deadline::Deadline;
use engine::sock::{AcceptError, Acceptor, Socket};
use futures_lite::future;
use msrp_tls::{TlsConn, TlsError};

use super::conn::{self, Origin};
use super::core::{Link, Shared};
use super::mesh::{Migrant, Mover};
use super::websocket::WebSocket;
use crate::telemetry::{Site, Source, gated};
use msrp_relay_core::{Input, Transport};

/// How long accepting rests when the process has no descriptor or memory left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// The same when another connection has just made room: long enough that a core which accepts nothing does not spin.
const RECOVERY_PAUSE: Duration = Duration::from_millis(2);

/// Accepts connections on these sockets, until the core stops accepting.
pub(super) fn listen(core: &Rc<Shared>, listeners: Vec<(socket2::Socket, Transport)>) {
    for (socket, transport) in listeners {
        let listener = match Acceptor::new(socket) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(reason = %error, port = transport.port, "Cannot accept connections any more");
                continue;
            }
        };
        let accepting = Rc::clone(core);
        core.tasks.spawn(async move { accept(&accepting, listener, transport).await });
    }
}

async fn accept(core: &Rc<Shared>, listener: Acceptor, transport: Transport) {
    let _counted = Counted::new(&core.accepting);
    // A waiting accept cannot be cancelled without the risk of losing a connection, so a core that stops accepting
    // still takes the one it waits for.
    while !core.stopped_accepting.get() {
        match listener.accept().await {
            Ok((socket, address)) => accepted(core, socket, address, transport),
            Err(AcceptError::Stopped) => return,
            Err(AcceptError::Exhausted(error)) => {
                warn_exhausted(&error);
                Deadline::after(EXHAUSTED_PAUSE).await;
            }
            Err(AcceptError::NoDescriptor(error)) => {
                warn_exhausted(&error);
                let makes_room =
                    listener.is_connection_waiting() && core.with_relay(|relay| relay.newcomers() > 0);
                if makes_room {
                    core.feed([Input::NoDescriptor]);
                }
                // A closed descriptor is free after the next turn.
                Deadline::after(if makes_room { RECOVERY_PAUSE } else { EXHAUSTED_PAUSE }).await;
            }
            Err(AcceptError::Failed(error)) => {
                tracing::error!(reason = %error, port = transport.port, "Cannot accept connections any more");
                return;
            }
        }
        // After each one: other tasks give back what making room for it costs, and they come first.
        future::yield_now().await;
        // Connections may come faster than they are taken.
        engine::breathe().await;
    }
}

fn accepted(core: &Rc<Shared>, socket: Socket, address: SocketAddr, transport: Transport) {
    core.counters.connections_accepted.add(1);
    core.take_in(transport, address, |peer| {
        let tls = transport.secure.then(|| {
            let config = core.config();
            if transport.websocket {
                return TlsConn::server(Arc::clone(&config.tls.websocket)).map(Box::new);
            }
            let tls = TlsConn::server(Arc::clone(&config.tls.server))?;
            Ok::<_, TlsError>(Box::new(tls.recognising(config.tls.relays.clone())))
        });
        match tls.transpose() {
            Ok(tls) => {
                let ping_interval = core.config().websocket.ping_interval;
                let websocket = transport.websocket.then(|| WebSocket::new(Instant::now() + ping_interval));
                let link = Link::new(socket, address, tls).with_websocket(websocket);
                conn::start(core, peer, link, Origin::Accepted(transport));
                true
            }
            Err(error) => {
                let reason = tracing::field::display(&error);
                gated!(error, Site::CannotBeginTls, Source::ANY, { %address, reason }, "Cannot begin TLS");
                false
            }
        }
    });
}

/// Continues with a connection that another core has accepted, from where that core stopped. It is not a WebSocket: by that
/// come clients alone, which stay until they have a session.
pub(super) fn take_over(core: &Rc<Shared>, migrant: Migrant) {
    if core.with_relay(|relay| relay.is_stopping()) {
        return;
    }
    let Migrant { transport, address, descriptor, tls, proven, received } = migrant;
    core.take_in(transport, address, |peer| match Socket::adopt(descriptor) {
        Ok(socket) => {
            tracing::debug!(%address, "Took over a connection");
            let origin = Origin::Moved { proven, received };
            conn::start(core, peer, Link::new(socket, address, tls), origin);
            true
        }
        Err(error) => {
            tracing::debug!(%address, reason = %error, "Connection gone");
            false
        }
    });
}

/// Goes on with a connection that has come here with its session. The relay has agreed to that before; what it has for the
/// client is written even if nothing more is read.
pub(super) fn arrive(core: &Rc<Shared>, mover: Mover) {
    let Mover { traveller, address, descriptor, tls, websocket, received } = mover;
    core.arrive(traveller, |peer| match Socket::adopt(descriptor) {
        Ok(socket) => {
            let link = Link::new(socket, address, tls).with_websocket(websocket);
            conn::start(core, peer, link, Origin::Arrived(received));
            true
        }
        Err(error) => {
            tracing::debug!(%address, reason = %error, "Connection gone");
            false
        }
    });
}

/// Warns from time to time that connections wait because the process, or the system, has no more descriptors or memory.
fn warn_exhausted(error: &std::io::Error) {
    gated!(
        warn,
        Site::CannotAccept,
        Source::ANY,
        { reason = %error },
        "Cannot accept connections for now; raise LimitNOFILE"
    );
}

/// Counts one for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
