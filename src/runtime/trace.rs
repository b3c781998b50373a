//! Showing an operator the heads of what one user's connections receive and send.
//!
//! Invariants: who is not traced pays for one look at a flag with each head and each flush; no body leaves a core; a reader
//! that is slow loses heads, and is told how many, and holds up nobody; a trace ends at its time, or when its reader is
//! gone, whichever comes first.
//!
//! Heads leave as they are on the wire, with everything that is secret in them: whoever shows them takes that out.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use super::conn::Conn;
use super::core::Shared;
use super::inspect::Wanted;
use crate::proto::parser::{Parser, Piece};
use crate::relay::{PeerKey, SessionView};

/// The most octets of a head that are shown.
const HEAD_OCTETS_MAX: usize = 4096;
/// Sessions looked at, to find those that are meant, before other work is looked for.
const SLICE: usize = 64;

/// Which way a head went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The relay received it.
    In,
    /// The relay sent it.
    Out,
}

/// A head, as it was on the wire.
#[derive(Clone, Debug)]
pub struct TracedHead {
    /// The core it was on.
    pub core: usize,
    /// Since the trace began.
    pub at: Duration,
    /// Prefix of the id of the session whose connection it was on.
    pub session: String,
    /// The user.
    pub user: String,
    /// Which way it went.
    pub direction: Direction,
    /// Its octets, secrets included, up to the first 4096.
    pub octets: Vec<u8>,
    /// Heads of this core that found no room before it.
    pub dropped: u64,
}

/// What a core is told of a trace.
#[derive(Clone, Debug)]
pub(crate) struct TraceOrder {
    pub(crate) wanted: Wanted,
    pub(crate) heads: SyncSender<TracedHead>,
    pub(crate) began: Instant,
    pub(crate) until: Instant,
}

/// A trace, on one core.
#[derive(Debug)]
pub(super) struct Trace {
    order: TraceOrder,
    core: usize,
    dropped: Cell<u64>,
    over: Cell<bool>,
}

/// A connection that is traced.
#[derive(Debug)]
pub(super) struct Traced {
    trace: Rc<Trace>,
    session: String,
    user: String,
    sent: RefCell<Sent>,
}

/// What is sent, as far as it must be known to find the next head.
#[derive(Debug, Default)]
struct Sent {
    /// From the first frame on that began after the trace did.
    parser: Option<Parser>,
    rest: Vec<u8>,
}

impl Trace {
    fn is_over(&self, now: Instant) -> bool {
        self.over.get() || now >= self.order.until
    }

    fn show(&self, traced: &Traced, direction: Direction, octets: &[u8]) {
        if self.over.get() {
            return;
        }
        let head = TracedHead {
            core: self.core,
            at: self.order.began.elapsed(),
            session: traced.session.clone(),
            user: traced.user.clone(),
            direction,
            octets: octets.get(..octets.len().min(HEAD_OCTETS_MAX)).unwrap_or_default().to_vec(),
            dropped: self.dropped.take(),
        };
        match self.order.heads.try_send(head) {
            Ok(()) => {}
            Err(TrySendError::Full(head)) => self.dropped.set(head.dropped + 1),
            Err(TrySendError::Disconnected(_)) => self.over.set(true),
        }
    }
}

impl Traced {
    pub(super) fn received(&self, head: &[u8]) {
        self.trace.show(self, Direction::In, head);
    }

    /// The next octets sent; `in_between`: the first of them begins a frame.
    pub(super) fn sent<'a>(
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
                    if let Piece::Head(_) = step.piece {
                        let head = rest.get(at..at + step.consumed).unwrap_or_default();
                        self.trace.show(self, Direction::Out, head);
                    }
                    at += step.consumed;
                }
                Ok(None) => break,
                // What another peer sent is longer than this one may send: it is found again later.
                Err(_) => {
                    *known = None;
                    at = rest.len();
                }
            }
        }
        rest.drain(..at);
    }
}

impl Shared {
    /// Begins a trace: of the sessions that there are, and of those that are opened until it ends.
    pub(super) async fn trace(self: &Rc<Self>, order: TraceOrder) {
        let core = usize::from(self.with_relay(|relay| relay.core()).index);
        let trace = Rc::new(Trace { order, core, dropped: Cell::new(0), over: Cell::new(false) });
        self.traces.borrow_mut().push(Rc::clone(&trace));
        let all = self.with_relay(|relay| relay.sessions());
        for slice in all.chunks(SLICE) {
            let now = Instant::now();
            for session in slice {
                let view = self.with_relay(|relay| relay.session_view(now, *session));
                if let Some(view) = view.filter(|view| trace.order.wanted.means(view)) {
                    self.attach(&trace, &view);
                }
            }
            engine::breathe().await;
        }
    }

    /// A session has been opened; somebody may wait for it.
    pub(super) fn trace_newcomer(&self, client: PeerKey, session: &str, user: &str, realm: &str) {
        let traces = self.traces.borrow().clone();
        for trace in traces.iter().filter(|trace| trace.order.wanted.means_user(user, realm)) {
            self.with_conn(client, |conn| attach_to(conn, trace, session, user));
        }
    }

    /// Forgets the traces that are over.
    pub(super) fn end_traces(&self) {
        if self.traces.borrow().is_empty() {
            return;
        }
        let now = Instant::now();
        self.traces.borrow_mut().retain(|trace| !trace.is_over(now));
        self.each_conn(|conn| conn.traced.borrow_mut().retain(|traced| !traced.trace.is_over(now)));
    }

    fn attach(&self, trace: &Rc<Trace>, view: &SessionView) {
        // A connection with a relay carries what others send, too.
        if let Some(client) = view.client {
            self.with_conn(client, |conn| attach_to(conn, trace, &view.session, &view.user));
        }
    }
}

fn attach_to(conn: &Conn, trace: &Rc<Trace>, session: &str, user: &str) {
    let mut traced = conn.traced.borrow_mut();
    // A connection may have two sessions.
    if !traced.iter().any(|traced| Rc::ptr_eq(&traced.trace, trace)) {
        traced.push(Traced {
            trace: Rc::clone(trace),
            session: session.to_owned(),
            user: user.to_owned(),
            sent: RefCell::default(),
        });
    }
}
