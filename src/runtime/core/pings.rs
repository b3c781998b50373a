//! Asking WebSocket clients whether they still live (RFC 7977, 6; RFC 6455, 5.5.2).
//!
//! A phone that has lost its network says nothing: what its page is sent would wait for the system to give up. One task
//! looks at all WebSockets of the core, so that an idle one costs no timer of its own.
//!
//! Invariant: who has sent anything since the last ping is not dead, nor is who is not read from.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use engine::deadline::Deadline;

use super::conn::Conn;
use super::shared::Shared;
use crate::runtime::websocket::Life;

/// Between two looks at all of them: a quarter of the interval, within these bounds.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(250);
const LOOK_EVERY_MAX: Duration = Duration::from_secs(10);

/// The WebSockets of a core.
#[derive(Debug, Default)]
pub(crate) struct Pings {
    conns: RefCell<Vec<Weak<Conn>>>,
    is_running: Cell<bool>,
}

impl Shared {
    /// Asks a WebSocket client now and then, from now on.
    pub(crate) fn watch_websocket(self: &Rc<Self>, conn: &Rc<Conn>) {
        self.pings.conns.borrow_mut().push(Rc::downgrade(conn));
        if !self.pings.is_running.replace(true) {
            let core = Rc::clone(self);
            self.tasks.spawn(async move { core.ping_all().await });
        }
    }

    /// Until there are none left.
    async fn ping_all(self: &Rc<Self>) {
        loop {
            let interval = self.config().websocket.ping_interval;
            Deadline::after((interval / 4).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX)).await;
            let mut open = Vec::new();
            self.pings.conns.borrow_mut().retain(|conn| {
                let conn = conn.upgrade().filter(|conn| !conn.is_over());
                open.extend(conn.iter().cloned());
                conn.is_some()
            });
            for conn in &open {
                self.look_at(conn, interval);
            }
            if open.is_empty() {
                self.pings.is_running.set(false);
                return;
            }
        }
    }

    fn look_at(self: &Rc<Self>, conn: &Conn, interval: Duration) {
        let Some(websocket) = &conn.link.websocket else { return };
        let now = Instant::now();
        match websocket.look(now, now + interval, conn.reading.is_resting()) {
            Life::Fine => {}
            Life::Ask => conn.writing.wake(),
            Life::Dead => {
                tracing::debug!(address = %conn.address(), "The WebSocket client answers no ping");
                self.counters.websocket_pings_unanswered.add(1);
                self.lose(conn);
            }
        }
    }
}
