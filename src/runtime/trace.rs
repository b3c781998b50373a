//! Shows an operator the heads that one user's connections receive and send.
//!
//! Invariants: a connection that is not traced pays for one look at a flag with each head and each flush; no body
//! leaves a core; a slow reader of a trace loses heads, learns how many, and holds up no connection; a trace ends at
//! its time, or when its reader is gone, whichever comes first.
//!
//! Heads leave as they are on the wire, with every secret in them: the code that shows them takes the secrets out. Must
//! not know which connections a core has, or which sessions use them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::mpsc::TrySendError;
use std::time::Instant;

use super::ask::{Direction, TraceOrder, TracedHead, Wanted};
use msrp_proto::parser::{FramePart, Parser};
use msrp_relay_core::OutBatch;

/// The most bytes of a head that are shown.
const HEAD_BYTES_MAX: usize = 4096;

/// A trace, on one core.
#[derive(Debug)]
pub(super) struct Trace {
    order: TraceOrder,
    core: usize,
    dropped: Cell<u64>,
    over: Cell<bool>,
}

/// The traces that show one connection: usually none.
#[derive(Debug, Default)]
pub(super) struct Watchers(RefCell<Vec<Watcher>>);

/// One trace of a connection.
#[derive(Debug)]
struct Watcher {
    trace: Rc<Trace>,
    session: String,
    user: String,
    sent: RefCell<Sent>,
}

/// Finds the next head in the sent bytes.
#[derive(Debug, Default)]
struct Sent {
    /// From the first frame that began after the trace did.
    parser: Option<Parser>,
    rest: Vec<u8>,
}

impl Trace {
    pub(super) fn new(order: TraceOrder, core: usize) -> Self {
        Self { order, core, dropped: Cell::new(0), over: Cell::new(false) }
    }

    /// The traced user or session.
    pub(super) fn wanted(&self) -> &Wanted {
        &self.order.wanted
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.over.get() || now >= self.order.until
    }

    fn show(&self, watcher: &Watcher, direction: Direction, bytes: &[u8]) {
        if self.over.get() {
            return;
        }
        let head = TracedHead {
            core: self.core,
            at: self.order.began.elapsed(),
            session: watcher.session.clone(),
            user: watcher.user.clone(),
            direction,
            bytes: bytes.get(..bytes.len().min(HEAD_BYTES_MAX)).unwrap_or_default().to_vec(),
            dropped: self.dropped.take(),
        };
        match self.order.heads.try_send(head) {
            Ok(()) => {}
            Err(TrySendError::Full(head)) => self.dropped.set(head.dropped + 1),
            Err(TrySendError::Disconnected(_)) => self.over.set(true),
        }
    }
}

impl Watchers {
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Shows the connection in one more trace.
    pub(super) fn add(&self, trace: &Rc<Trace>, session: &str, user: &str) {
        let mut all = self.0.borrow_mut();
        // A connection may have two sessions.
        if !all.iter().any(|watcher| Rc::ptr_eq(&watcher.trace, trace)) {
            all.push(Watcher {
                trace: Rc::clone(trace),
                session: session.to_owned(),
                user: user.to_owned(),
                sent: RefCell::default(),
            });
        }
    }

    /// Removes the finished traces.
    pub(super) fn end_traces(&self, now: Instant) {
        self.0.borrow_mut().retain(|watcher| !watcher.trace.is_over(now));
    }

    /// Shows a received head.
    pub(super) fn received(&self, head: &[u8]) {
        for watcher in self.0.borrow().iter() {
            watcher.trace.show(watcher, Direction::In, head);
        }
    }

    /// Shows the heads in the next sent bytes; `in_between`: the first of these bytes begins a frame.
    pub(super) fn sent(&self, flush: &OutBatch, in_between: bool, parser: impl Fn() -> Parser) {
        for watcher in self.0.borrow().iter() {
            watcher.sent(flush.parts(), in_between, &parser);
        }
    }
}

impl Watcher {
    fn sent<'a>(
        &self,
        parts: impl Iterator<Item = &'a [u8]>,
        in_between: bool,
        parser: impl FnOnce() -> Parser,
    ) {
        let mut sent = self.sent.borrow_mut();
        let Sent { parser: known, rest } = &mut *sent;
        if known.is_none() {
            if !in_between {
                return;
            }
            *known = Some(parser());
        }
        parts.for_each(|part| rest.extend_from_slice(part));
        let mut at = 0;
        while let Some(parser) = known {
            match parser.step(rest.get(at..).unwrap_or_default()) {
                Ok(Some(step)) => {
                    if let FramePart::Head(_) = step.piece {
                        let head = rest.get(at..at + step.consumed).unwrap_or_default();
                        self.trace.show(self, Direction::Out, head);
                    }
                    at += step.consumed;
                }
                Ok(None) => break,
                // Another peer's head may be longer than this peer may send: the parser starts again at a later frame.
                Err(_) => {
                    *known = None;
                    at = rest.len();
                }
            }
        }
        rest.drain(..at);
    }
}
