//! What a core and the two tasks of a connection share of it.
//!
//! The reader and the writer ([`conn`](crate::runtime::conn)) keep to themselves what the other does not need. This
//! file has the connection's [`Phase`], whether it is read from ([`Reading`]), whether something is being written
//! ([`Writing`]), and how it ends ([`Ending`]).
//!
//! Invariants: a phase and an ending only go forward; the end of a connection is counted once. Must not know the relay
//! or MSRP.

use std::cell::{Cell, RefCell};
use std::mem;
use std::net::SocketAddr;
use std::time::Instant;

use engine::sock::Socket;
use futures_lite::future;
use msrp_tls::{TlsConn, TlsError};

use crate::runtime::tasks::Event;
use crate::runtime::trace::Watchers;
use crate::runtime::websocket::WebSocket;
use msrp_relay_core::PeerKey;

/// A connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) key: PeerKey,
    pub(crate) link: Link,
    pub(crate) phase: Cell<Phase>,
    pub(crate) reading: Reading,
    pub(crate) writing: Writing,
    ending: Cell<Ending>,
    pub(crate) watchers: Watchers,
}

/// The socket, and TLS.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) socket: Socket,
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<RefCell<Box<TlsConn>>>,
    /// TLS's own bytes to send: handshake, alerts, key updates.
    pub(crate) tls_out: RefCell<Vec<u8>>,
    /// Where the connection is a WebSocket, or is to become one.
    pub(crate) websocket: Option<Box<WebSocket>>,
}

impl Link {
    pub(crate) fn new(socket: Socket, address: SocketAddr, tls: Option<Box<TlsConn>>) -> Self {
        Self { socket, address, tls: tls.map(RefCell::new), tls_out: RefCell::default(), websocket: None }
    }

    /// The same for a WebSocket.
    pub(crate) fn with_websocket(self, websocket: Option<WebSocket>) -> Self {
        Self { websocket: websocket.map(Box::new), ..self }
    }

    /// Queues what goes out before any frame. The writer is to be woken.
    pub(crate) fn send_first(&self, bytes: &[u8]) -> Result<(), TlsError> {
        self.encrypt(bytes, &mut self.tls_out.borrow_mut())
    }

    /// Appends bytes as they go out.
    pub(crate) fn encrypt(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        match &self.tls {
            Some(tls) => tls.borrow_mut().encrypt(bytes, out),
            None => {
                out.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// What the peer has come by, in the word of the accounting records.
    pub(crate) fn transport(&self) -> &'static str {
        match (&self.tls, &self.websocket) {
            (Some(_), None) => "tls",
            (None, None) => "tcp",
            (Some(_), Some(_)) => "wss",
            (None, Some(_)) => "ws",
        }
    }

    /// Whether the peer has said that it sends no more.
    pub(crate) fn is_closed_by_peer(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.borrow().peer_closed())
    }

    /// Takes the TLS state, for the core or process that continues with the connection.
    pub(crate) fn take_tls(&self) -> Option<Box<TlsConn>> {
        self.tls.as_ref().map(|tls| mem::replace(&mut *tls.borrow_mut(), Box::new(TlsConn::spent())))
    }
}

/// How far a connection has got.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Phase {
    /// We have opened it; the relay has not yet heard that it is up. TLS must be ready by then.
    Dialling { until: Instant },
    /// The peer has opened it. TLS must be ready by then.
    Accepting { until: Instant },
    /// Frames can be sent and received. A head that has begun must be complete by then.
    Up { head_until: Option<Instant> },
}

impl Phase {
    pub(crate) fn is_up(self) -> bool {
        matches!(self, Self::Up { .. })
    }

    /// The deadline of the present phase.
    pub(crate) fn until(self) -> Option<Instant> {
        match self {
            Self::Dialling { until } | Self::Accepting { until } => Some(until),
            Self::Up { head_until } => head_until,
        }
    }
}

/// Whether a connection is read from.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    paused: Cell<bool>,
    /// The reader waits with a head in hand.
    is_parked: Cell<bool>,
    resumed: Event,
    stopped: Event,
    /// What has been read may be looked at again, here or elsewhere.
    let_go_on: Event,
}

impl Reading {
    pub(crate) fn is_paused(&self) -> bool {
        self.paused.get()
    }

    /// Back-pressure: nothing more is read until [`resume`](Self::resume).
    pub(crate) fn pause(&self) {
        self.paused.set(true);
    }

    pub(crate) fn resume(&self) {
        self.paused.set(false);
        self.resumed.notify();
    }

    pub(crate) async fn resumed(&self) {
        self.resumed.wait().await;
    }

    pub(crate) async fn stopped(&self) {
        self.stopped.wait().await;
    }

    /// Whether what has come may wait unread, for whatever reason.
    pub(crate) fn is_resting(&self) -> bool {
        self.paused.get() || self.is_parked.get()
    }

    /// The reader that waits with a head in hand goes on.
    pub(crate) fn go_on(&self) {
        self.let_go_on.notify();
    }

    /// The reader waits with a head in hand, until it may go on or nothing more is to be read.
    pub(crate) async fn may_go_on(&self) {
        self.is_parked.set(true);
        future::or(self.let_go_on.wait(), self.stopped()).await;
        self.is_parked.set(false);
    }
}

/// The state of the writer.
#[derive(Debug, Default)]
pub(crate) struct Writing {
    in_hand: Cell<bool>,
    wanted: Event,
}

impl Writing {
    /// There may be something to write.
    pub(crate) fn wake(&self) {
        self.wanted.notify();
    }

    /// Waits until there may be something to write.
    pub(crate) async fn wanted(&self) {
        self.wanted.wait().await;
    }

    /// Whether the writer has a flush that the kernel has not taken whole. Not while it only waits for its turn: the
    /// peer's answer may come before that, and its first request would find a connection that seems busy.
    pub(crate) fn has_in_hand(&self, flush: bool) {
        self.in_hand.set(flush);
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// Not yet.
    Open,
    /// It closes once its queue is written.
    Closing { since: Instant },
    /// It has ended, or another core or process continues with it.
    Over,
}

impl Conn {
    pub(crate) fn new(key: PeerKey, link: Link, phase: Phase) -> Self {
        Self {
            key,
            link,
            phase: Cell::new(phase),
            reading: Reading::default(),
            writing: Writing::default(),
            ending: Cell::new(Ending::Open),
            watchers: Watchers::default(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.link.address
    }

    pub(crate) fn is_up(&self) -> bool {
        self.phase.get().is_up()
    }

    /// Reads no more; closes the connection once its queue is written.
    pub(crate) fn close(&self) {
        if let Ending::Open = self.ending.get() {
            self.ending.set(Ending::Closing { since: Instant::now() });
        }
        self.stop();
    }

    /// The connection has ended: its tasks see it. Returns false if it had ended already.
    pub(super) fn end(&self) -> bool {
        if let Ending::Over = self.ending.replace(Ending::Over) {
            return false;
        }
        self.stop();
        true
    }

    fn stop(&self) {
        self.reading.stopped.notify();
        self.writing.wake();
    }

    /// Whether nothing more is to be read.
    pub(crate) fn is_ending(&self) -> bool {
        !matches!(self.ending.get(), Ending::Open)
    }

    /// Since when it is being closed.
    pub(crate) fn closing_since(&self) -> Option<Instant> {
        match self.ending.get() {
            Ending::Closing { since } => Some(since),
            Ending::Open | Ending::Over => None,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.ending.get(), Ending::Over)
    }

    /// Nothing is half written, nothing waits that TLS has encrypted, and the connection does not end.
    pub(crate) fn is_quiet(&self) -> bool {
        let idle = self.link.tls_out.borrow().is_empty() && !self.writing.in_hand.get();
        self.is_up() && idle && !self.is_ending()
    }
}
