//! One connection: bytes in to the relay, bytes out from it.
//!
//! Two tasks share it. The reader waits without holding a buffer, decrypts, parses, and feeds the relay all that one
//! read brought at once. The writer sleeps until the relay has something, takes one flush at a time and writes it.
//!
//! Invariants: the writer holds at most one flush; what is held for a connection is bounded by that flush and the
//! relay's queues; the relay hears of the end of a connection once, and only after that is its slot free. RFC 4976, 6.2
//! and 6.5.

mod handshake;
mod read;
mod websocket;
mod write;

use std::rc::Rc;
use std::time::Instant;

pub(super) use read::Origin;
use read::Reader;
use write::Writer;

use super::core::{Conn, Link, Phase, Shared};
use msrp_relay_core::PeerKey;

/// Starts a connection's two tasks, which serve it from here on.
pub(super) fn start(core: &Rc<Shared>, key: PeerKey, link: Link, origin: Origin) {
    let until = Instant::now() + core.config().limits.handshake_timeout;
    let phase = match &origin {
        Origin::Accepted(_) => Phase::Accepting { until },
        Origin::Dialled(_) => Phase::Dialling { until },
        Origin::Moved { .. } | Origin::Arrived(_) => Phase::Up { head_until: None },
    };
    let conn = Rc::new(Conn::new(key, link, phase));
    core.enter(&conn);
    if let Some(websocket) = &conn.link.websocket {
        core.watch_websocket(&conn);
        if websocket.owes_control() {
            conn.writing.wake();
        }
    }
    core.tasks.spawn(Writer::new(Rc::clone(core), Rc::clone(&conn)).run());
    core.tasks.spawn(Reader::run(Rc::clone(core), conn, origin));
}
