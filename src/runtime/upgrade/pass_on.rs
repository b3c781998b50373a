//! A connection whose session lives in the predecessor: its TLS ends here, the rest is there.
//!
//! Invariants: bytes go through unchanged and in order, each direction at the pace of its receiver, at most one read at
//! a time in each; the end of either direction is passed on, and the end of both ends the connection. Must not know
//! MSRP. The process of the session decides what such a connection may do, and how long it may be idle.

use std::cell::RefCell;
use std::io;
use std::time::Duration;

use engine::deadline::Deadline;
use engine::sock::Socket;
use futures_lite::future;
use msrp_tls::TlsConn;

use super::super::tasks::Event;

/// How long a peer may take to close its side after we have closed ours.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection in two halves.
pub(in crate::runtime) struct PassOn<'a> {
    /// To the peer.
    pub(in crate::runtime) outer: Socket,
    /// To the other process.
    pub(in crate::runtime) inner: Socket,
    pub(in crate::runtime) tls: Option<RefCell<Box<TlsConn>>>,
    /// The core's read buffer.
    pub(in crate::runtime) scratch: &'a RefCell<Vec<u8>>,
}

impl PassOn<'_> {
    /// Passes bytes on until both directions have ended. `records` is the beginning of a TLS record, `plain` the bytes
    /// deciphered before.
    pub(in crate::runtime) async fn run(&self, records: Vec<u8>, plain: Vec<u8>) {
        // TLS's own bytes for the peer: only one direction may write.
        let (said, speak) = (RefCell::new(Vec::new()), Event::default());
        let over = Event::default();
        let up = async {
            let ended = self.up(records, plain, (&said, &speak)).await;
            self.end_on_error(ended);
        };
        let down = async {
            let ended = self.down((&said, &speak)).await;
            self.end_on_error(ended);
            over.notify();
        };
        // Does not wait for a peer that does not close in answer.
        let late = async {
            over.wait().await;
            Deadline::after(CLOSE_TIMEOUT).await;
        };
        future::zip(future::or(up, late), down).await;
        let _ = self.outer.shutdown_both();
    }

    fn end_on_error(&self, ended: io::Result<()>) {
        if let Err(error) = ended {
            tracing::debug!(reason = %error, "A connection that is passed on has ended");
            let _ = self.outer.shutdown_both();
            let _ = self.inner.shutdown_both();
        }
    }

    async fn up(
        &self,
        mut records: Vec<u8>,
        plain: Vec<u8>,
        (said, speak): (&RefCell<Vec<u8>>, &Event),
    ) -> io::Result<()> {
        self.inner.write_all(&plain).await?;
        while !self.peer_closed() {
            let read = self.outer.read_with(self.scratch, &mut records, |bytes| {
                let mut plain = Vec::with_capacity(bytes.len());
                match &self.tls {
                    None => {
                        plain.extend_from_slice(bytes);
                        (bytes.len(), Ok(plain))
                    }
                    Some(tls) => match tls.borrow_mut().receive(bytes, &mut plain, &mut said.borrow_mut()) {
                        Ok(used) => (used, Ok(plain)),
                        Err(error) => (bytes.len(), Err(io::Error::other(error.to_string()))),
                    },
                }
            });
            let Some(plain) = read.await? else { break };
            if !said.borrow().is_empty() {
                speak.notify();
            }
            self.inner.write_all(&plain?).await?;
            engine::breathe().await;
        }
        self.inner.shutdown_write()
    }

    async fn down(&self, (said, speak): (&RefCell<Vec<u8>>, &Event)) -> io::Result<()> {
        loop {
            let mut kept = Vec::new();
            let read = self.inner.read_with(self.scratch, &mut kept, |bytes| {
                let mut out = Vec::with_capacity(bytes.len() + 64);
                let done = match &self.tls {
                    None => {
                        out.extend_from_slice(bytes);
                        Ok(())
                    }
                    Some(tls) => tls.borrow_mut().encrypt(bytes, &mut out),
                };
                (bytes.len(), done.map(|()| out).map_err(|error| io::Error::other(error.to_string())))
            });
            let read = async { read.await.map(|read| read.map(Some)) };
            let asked = async {
                speak.wait().await;
                Ok(Some(None))
            };
            let out = match future::or(read, asked).await? {
                None => break,
                Some(out) => out.transpose()?.unwrap_or_default(),
            };
            let first = std::mem::take(&mut *said.borrow_mut());
            self.outer.write_all(&first).await?;
            self.outer.write_all(&out).await?;
            engine::breathe().await;
        }
        let mut farewell = std::mem::take(&mut *said.borrow_mut());
        if let Some(tls) = &self.tls {
            tls.borrow_mut().close_notify(&mut farewell);
        }
        self.outer.write_all(&farewell).await?;
        self.outer.shutdown_write()
    }

    fn peer_closed(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.borrow().peer_closed())
    }
}
