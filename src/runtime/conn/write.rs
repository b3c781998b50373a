//! The writer of a connection: takes one flush of the relay at a time, encrypts it and writes it.

use std::io;
use std::mem;
use std::rc::Rc;
use std::time::{Duration, Instant};

use engine::deadline::Deadline;
use futures_lite::future;
use msrp_tls::records;

use super::super::core::{Conn, Shared};
use super::websocket::Messages;
use crate::telemetry::{Site, Source, gated};
use msrp_proto::parser::Parser;
use msrp_relay_core::{Limit, OutBatch, WriteState};

/// How long a peer may take to close its side after we have closed ours.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a closing connection may take to accept its remaining queue.
const LAST_FLUSH_TIMEOUT: Duration = Duration::from_secs(30);

/// The writing task of a connection.
pub(super) struct Writer {
    core: Rc<Shared>,
    conn: Rc<Conn>,
}

/// What follows a flush.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The next one, if there is any.
    Flush,
    /// The end: everything is written.
    Finish,
    /// The end: TLS cannot encrypt any more, and the queue cannot be sent.
    Broken,
}

impl Writer {
    pub(super) fn new(core: Rc<Shared>, conn: Rc<Conn>) -> Self {
        Self { core, conn }
    }

    pub(super) async fn run(self) {
        loop {
            self.conn.writing.wanted().await;
            loop {
                if self.conn.is_over() {
                    return;
                }
                let mut out = self.core.buffers.take();
                self.conn.writing.has_in_hand(true);
                let next = self.next_flush(&mut out);
                let empty = out.is_empty();
                let written = self.write_flush(&out).await;
                self.conn.writing.has_in_hand(false);
                self.core.buffers.give(out);
                if let Err(error) = written {
                    tracing::debug!(address = %self.conn.address(), reason = %error, "Connection gone");
                    return self.core.lose(&self.conn);
                }
                match next {
                    Next::Broken => return self.core.lose(&self.conn),
                    Next::Finish => return self.finish().await,
                    Next::Flush if empty => break,
                    Next::Flush => {}
                }
                engine::breathe().await;
            }
        }
    }

    /// Fills `out` with what may be sent: first TLS's own bytes, then one flush of the relay.
    fn next_flush(&self, out: &mut Vec<u8>) -> Next {
        let (core, conn) = (&self.core, &*self.conn);
        // Not emptied but taken: there is hardly ever more than a handshake.
        out.append(&mut mem::take(&mut *conn.link.tls_out.borrow_mut()));
        if let Some(websocket) = conn.link.websocket.as_ref().filter(|_| conn.is_up()) {
            let mut frames = Vec::new();
            websocket.write_control(Instant::now() + core.config().websocket.ping_interval, &mut frames);
            if !frames.is_empty() && conn.link.encrypt(&frames, out).is_err() {
                return Next::Broken;
            }
        }
        let is_traced = !conn.watchers.is_empty();
        let in_between = is_traced && core.with_relay(|relay| relay.is_between_frames(conn.key));
        let trace = |flush: &OutBatch| {
            if is_traced {
                conn.watchers.sent(flush, in_between, || Parser::new(core.config().limits.parser()));
            }
        };
        let comes_up_by_itself = conn.link.tls.is_none() && conn.link.websocket.is_none();
        if !comes_up_by_itself && !conn.is_up() {
            return if conn.is_ending() { Next::Finish } else { Next::Flush };
        }
        let is_framed = conn.link.websocket.is_some();
        let Some(tls) = &conn.link.tls else {
            return next(core.next_flush(conn.key, |flush, _| {
                trace(flush);
                match is_framed {
                    true => {
                        let messages = Messages::of(flush);
                        messages.parts(flush).into_iter().for_each(|part| out.extend_from_slice(part));
                    }
                    false => flush.parts().for_each(|part| out.extend_from_slice(part)),
                }
            }));
        };
        let mut is_broken = false;
        let state = core.next_flush(conn.key, |flush, seam| {
            trace(flush);
            let mut tls = tls.borrow_mut();
            let encrypt = |record: &[u8]| tls.encrypt(record, out);
            let written = match is_framed {
                true => {
                    let messages = Messages::of(flush);
                    records::cut(messages.parts(flush).into_iter(), seam, encrypt)
                }
                false => records::cut(flush.parts(), seam, encrypt),
            };
            if let Err(error) = written {
                let (address, source) = (conn.address(), Source::address(conn.address().ip()));
                gated!(warn, Site::CannotEncrypt, source, { %address, reason = %error }, "Cannot encrypt");
                is_broken = true;
            }
        });
        if is_broken { Next::Broken } else { next(state) }
    }

    /// Writes one flush. Gives up a peer that takes nothing for `limits.write_timeout` (req S14). A closing connection
    /// gets only so long for all that is left.
    async fn write_flush(&self, mut out: &[u8]) -> io::Result<()> {
        while !out.is_empty() {
            let stalled = async {
                Deadline::after(self.core.config().limits.write_timeout).await;
                None
            };
            let written = async { Some(self.conn.link.socket.write(out).await) };
            match future::or(written, stalled).await {
                None => {
                    let felt_by = (self.conn.key, self.conn.address());
                    self.core.limit_reached(Limit::WriteTimeout, Some(felt_by));
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Some(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Some(Ok(written)) => out = out.get(written..).unwrap_or_default(),
                Some(Err(error)) => return Err(error),
            }
            if self.conn.closing_since().is_some_and(|since| since.elapsed() > LAST_FLUSH_TIMEOUT) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Everything is written: closes in order, so that no reset cuts off the last bytes.
    async fn finish(&self) {
        let link = &self.conn.link;
        let mut farewell = Vec::new();
        if let Some(websocket) = &link.websocket {
            let mut close = Vec::new();
            websocket.write_close(&mut close);
            // Without keys the peer cannot be told.
            let _ = link.encrypt(&close, &mut farewell);
        }
        if let Some(tls) = &link.tls {
            tls.borrow_mut().close_notify(&mut farewell);
        }
        let late = async {
            Deadline::after(CLOSE_TIMEOUT).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        if future::or(link.socket.write_all(&farewell), late).await.is_ok() {
            link.socket.close_gracefully(&self.core.scratch, CLOSE_TIMEOUT).await;
        }
        self.core.lose(&self.conn);
    }
}

fn next(state: WriteState) -> Next {
    match state {
        WriteState::Open => Next::Flush,
        WriteState::Finished => Next::Finish,
    }
}
