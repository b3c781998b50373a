//! What the tasks of a WebSocket share of it, and what asks it whether it lives (RFC 6455, 5.5 and 7).
//!
//! Invariants: what waits of control frames is one pong and one ping, whatever the peer sends; who has sent anything since
//! the last ping is not dead. Must not know: what messages are for.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use msrp_ws::{Control, Opcode, close_code, write_close, write_control};

use msrp_relay_core::CloseReason;

/// What the tasks of a connection, and what pings it, share.
#[derive(Clone, Debug)]
pub(crate) struct WebSocket {
    is_open: Cell<bool>,
    /// The ping to be answered.
    pong: RefCell<Option<Control>>,
    ping: Cell<Ping>,
    /// Something has come since the last ping was due.
    heard: Cell<bool>,
    close_code: Cell<Option<u16>>,
    /// More than one frame has come in one message.
    has_several: Cell<bool>,
}

/// How far the present ping has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ping {
    /// The next one is due then.
    Due(Instant),
    /// It waits to be written.
    Waiting,
    /// It was written, and must have been answered then.
    Sent(Instant),
}

/// What is to be done with a connection now and then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Life {
    /// Nothing.
    Fine,
    /// A ping is to be written.
    Ask,
    /// It has answered nothing.
    Dead,
}

impl WebSocket {
    /// Before the upgrade.
    pub(crate) fn new(ping_at: Instant) -> Self {
        Self {
            is_open: Cell::new(false),
            pong: RefCell::default(),
            ping: Cell::new(Ping::Due(ping_at)),
            heard: Cell::new(true),
            close_code: Cell::default(),
            has_several: Cell::default(),
        }
    }

    /// Whether messages can be sent and received.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open.get()
    }

    /// The request has been accepted.
    pub(crate) fn open(&self) {
        self.is_open.set(true);
    }

    /// Something has come, perhaps a ping that is to be answered.
    pub(crate) fn received(&self, ping: Option<Control>) {
        self.heard.set(true);
        if ping.is_some() {
            self.pong.replace(ping);
        }
    }

    /// Whether a control frame waits to be written.
    pub(crate) fn owes_control(&self) -> bool {
        self.pong.borrow().is_some() || self.ping.get() == Ping::Waiting
    }

    /// Notes that a message had several frames. Returns whether that is the first time.
    pub(crate) fn note_several(&self) -> bool {
        !self.has_several.replace(true)
    }

    /// Why it is closed, for the peer. The first reason counts.
    pub(crate) fn close_with(&self, code: u16) {
        if self.close_code.get().is_none() {
            self.close_code.set(Some(code));
        }
    }

    /// The same in the relay's words.
    pub(crate) fn close_because(&self, reason: CloseReason) {
        self.close_with(match reason {
            CloseReason::Stopping => close_code::GOING_AWAY,
            CloseReason::Unparseable => close_code::PROTOCOL_ERROR,
            CloseReason::Ended | CloseReason::Idle | CloseReason::Operator | CloseReason::SessionOver => {
                close_code::NORMAL
            }
            _ => close_code::POLICY,
        });
    }

    /// Looks whether the peer lives. `next` is when that is to be done again. `is_paused`: it is not read from.
    pub(crate) fn look(&self, now: Instant, next: Instant, is_paused: bool) -> Life {
        if !self.is_open.get() {
            return Life::Fine;
        }
        match self.ping.get() {
            Ping::Due(at) if at > now => Life::Fine,
            Ping::Due(_) => {
                self.heard.set(false);
                self.ping.set(Ping::Waiting);
                Life::Ask
            }
            // What cannot be written is the writer's to judge.
            Ping::Waiting => Life::Fine,
            Ping::Sent(at) if at > now => Life::Fine,
            // What has come may not have been read.
            Ping::Sent(_) if self.heard.get() || is_paused => {
                self.ping.set(Ping::Due(next));
                Life::Fine
            }
            Ping::Sent(_) => Life::Dead,
        }
    }

    /// Appends the control frames that wait.
    pub(crate) fn write_control(&self, next: Instant, out: &mut Vec<u8>) {
        if let Some(pong) = self.pong.take() {
            write_control(out, Opcode::Pong, pong.as_bytes(), None);
        }
        if self.ping.get() == Ping::Waiting {
            write_control(out, Opcode::Ping, b"", None);
            self.ping.set(Ping::Sent(next));
        }
    }

    /// Appends the last frame.
    pub(crate) fn write_close(&self, out: &mut Vec<u8>) {
        if self.is_open.get() {
            write_close(out, self.close_code.get().unwrap_or(close_code::NORMAL), None);
        }
    }
}
