//! What crosses cores: deliveries of plain data, through one bounded queue into each core.
//!
//! Invariants: only owned `Send` values cross; order is kept between any two cores; the task that empties a core's
//! inbox never waits for another core's (two such tasks would deadlock): it gives deliveries to the outbox, and one
//! flusher per core waits. An outbox is bounded by its sources: body bytes by the senders' credit, everything else by
//! the tables of sessions and transactions. The queue wakes the waiting task under the lock under which waiting ends:
//! no other thread may hold a task's waker when the task ends (see `control::reply`). Must not know what a core does
//! with a delivery.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};

use async_channel::{Receiver, SendError, Sender, TrySendError};
use msrp_tls::TlsConn;

use super::ask::Ask;
use super::settings::CoreConfig;
use super::tasks::Event;
use super::websocket::{Inward, WebSocket};
use msrp_relay_core::{CoreId, Message, ProvenNames, Transport, Traveller};

/// Batches that an inbox holds before the outboxes of other cores begin to fill.
const INBOX_BATCHES_MAX: usize = 256;

/// One delivery to a core.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// Steps for the core's relay, from another core.
    Messages(Vec<Message>),
    /// A connection whose first request names a session of the core.
    Adopt(Box<Migrant>),
    /// A client's connection and its session, for one that is at home here.
    Arrive(Box<Mover>),
    /// Another core has started; this is its inbox.
    CoreUp { core: CoreId, inbox: Sender<Self> },
    /// Another core has ended.
    CoreDown { core: CoreId },
    /// Another process accepts connections from here on.
    StopAccepting,
    /// That process has died: accept again, on these sockets.
    AcceptAgain(Vec<(socket2::Socket, Transport)>),
    /// Another process of this relay has come or gone.
    GenerationsChanged,
    /// Continue with another config; the sender is dropped when it is in force.
    Reload(Arc<CoreConfig>, mpsc::Sender<()>),
    /// An operator's question.
    Ask(Ask),
    /// Open no more sessions; return how many there are, plus, after `StopAccepting`, the newcomers. A second one only
    /// asks again.
    Drain(mpsc::Sender<u64>),
    /// Do not wait for answers any more.
    GiveUp,
    /// Read no more; report that, and whether everything sent to other cores is in their inboxes. A second one only
    /// asks again.
    Quiesce(mpsc::Sender<bool>),
    /// Close everything in order and end.
    Stop,
    /// Fail, in a task or in the core's own loop: shows a test the effect of a panic.
    Panic { in_task: bool },
}

/// A connection on its way to the core of the session that its first request names.
#[derive(Debug)]
pub(crate) struct Migrant {
    pub(crate) transport: Transport,
    pub(crate) address: SocketAddr,
    pub(crate) descriptor: OwnedFd,
    pub(crate) tls: Option<Box<TlsConn>>,
    /// The names of the relay at the other end, if another process has seen the proof.
    pub(crate) proven: Option<ProvenNames>,
    pub(crate) received: Received,
}

/// A client's connection on its way to the core of the session that its own is bound to, with all that is known of it.
#[derive(Debug)]
pub(crate) struct Mover {
    pub(crate) traveller: Traveller,
    pub(crate) address: SocketAddr,
    pub(crate) descriptor: OwnedFd,
    pub(crate) tls: Option<Box<TlsConn>>,
    /// Where it is one.
    pub(crate) websocket: Option<WebSocket>,
    pub(crate) received: Received,
}

/// Bytes received from a connection and not yet looked at.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// The beginning of a TLS record.
    pub(crate) records: Vec<u8>,
    /// Bytes of frames.
    pub(crate) plain: Vec<u8>,
    /// What took them out of a WebSocket.
    pub(crate) inward: Option<Box<Inward>>,
}

/// A core's inbox.
pub(crate) fn inbox() -> (Sender<Delivery>, Receiver<Delivery>) {
    async_channel::bounded(INBOX_BATCHES_MAX)
}

/// The outboxes of one core, one for each other core.
#[derive(Debug)]
pub(crate) struct Mesh {
    outboxes: Vec<Outbox>,
}

/// What is under way to one other core.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    inbox: RefCell<Option<(CoreId, Sender<Delivery>)>>,
    waiting: RefCell<VecDeque<Delivery>>,
    /// The flusher holds messages that are not yet in the inbox: no other message may overtake them.
    flushing: Cell<bool>,
    ready: Event,
}

impl Mesh {
    pub(crate) fn new(cores: usize) -> Self {
        Self { outboxes: (0..cores).map(|_| Outbox::default()).collect() }
    }

    pub(crate) fn outbox(&self, index: usize) -> Option<&Outbox> {
        self.outboxes.get(index)
    }

    /// Whether everything sent is in the inboxes of the other cores.
    pub(crate) fn is_flushed(&self) -> bool {
        self.outboxes.iter().all(|outbox| outbox.waiting.borrow().is_empty() && !outbox.flushing.get())
    }

    /// Messages and connections that found an inbox full.
    pub(crate) fn waiting(&self) -> usize {
        let len = |delivery: &Delivery| match delivery {
            Delivery::Messages(messages) => messages.len(),
            _ => 1,
        };
        self.outboxes.iter().map(|outbox| outbox.waiting.borrow().iter().map(len).sum::<usize>()).sum()
    }

    /// Returns the connections that were under way to the core's life before.
    pub(crate) fn core_up(&self, core: CoreId, inbox: Sender<Delivery>) -> Vec<Mover> {
        let Some(outbox) = self.outboxes.get(usize::from(core.index)) else { return Vec::new() };
        *outbox.inbox.borrow_mut() = Some((core, inbox));
        outbox.lose()
    }

    /// Returns the connections that were under way to it.
    pub(crate) fn core_down(&self, core: CoreId) -> Vec<Mover> {
        let Some(outbox) = self.outboxes.get(usize::from(core.index)) else { return Vec::new() };
        outbox.inbox.borrow_mut().take_if(|(there, _)| *there == core);
        outbox.lose()
    }

    /// This core is over: the connections that have not left it.
    pub(crate) fn lost(&self) -> Vec<Mover> {
        self.outboxes.iter().flat_map(Outbox::lose).collect()
    }

    /// Sends a connection to its core, waiting until there is room. If that core is gone, closes it: its session has
    /// ended, too.
    pub(crate) async fn hand_over(&self, to: CoreId, connection: Box<Migrant>) {
        let inbox = self.outbox(usize::from(to.index)).and_then(|outbox| outbox.inbox.borrow().clone());
        if let Some((there, inbox)) = inbox
            && there == to
        {
            let _ = engine::from_outside(inbox.send(Delivery::Adopt(connection))).await;
        }
    }

    /// Sends the messages of one turn of the relay. Drops those for a life of a core that has ended: the relay has
    /// heard, or will hear, of that end.
    pub(crate) fn send(&self, to: CoreId, messages: Vec<Message>) {
        let _ = self.deliver(to, Delivery::Messages(messages));
    }

    /// Sends a connection and its session, behind every message that was sent there before. Gives it back if the core is
    /// over.
    pub(crate) fn send_on(&self, to: CoreId, mover: Box<Mover>) -> Result<(), Box<Mover>> {
        match self.deliver(to, Delivery::Arrive(mover)) {
            Err(Delivery::Arrive(mover)) => Err(mover),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn deliver(&self, to: CoreId, delivery: Delivery) -> Result<(), Delivery> {
        let Some(outbox) = self.outboxes.get(usize::from(to.index)) else { return Err(delivery) };
        let inbox = outbox.inbox.borrow().clone().filter(|(there, _)| *there == to);
        let Some((_, inbox)) = inbox else { return Err(delivery) };
        let mut waiting = outbox.waiting.borrow_mut();
        if waiting.is_empty() && !outbox.flushing.get() {
            match inbox.try_send(delivery) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Closed(delivery)) => return Err(delivery),
                Err(TrySendError::Full(delivery)) => waiting.push_back(delivery),
            }
        } else {
            match (waiting.back_mut(), delivery) {
                (Some(Delivery::Messages(last)), Delivery::Messages(more)) => last.extend(more),
                (_, delivery) => waiting.push_back(delivery),
            }
        }
        outbox.ready.notify();
        Ok(())
    }
}

impl Outbox {
    /// Nothing of what waits is sent any more. Returns the connections among it.
    fn lose(&self) -> Vec<Mover> {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        let connections = waiting.into_iter().filter_map(|delivery| match delivery {
            Delivery::Arrive(mover) => Some(*mover),
            _ => None,
        });
        connections.collect()
    }

    /// Sends what found the inbox full; runs as long as the core. `lost` hears of connections for a core that is gone.
    pub(crate) async fn flush(&self, lost: impl Fn(Box<Mover>)) {
        loop {
            self.ready.wait().await;
            self.flushing.set(true);
            loop {
                let inbox = self.inbox.borrow().as_ref().map(|(_, inbox)| inbox.clone());
                let Some(inbox) = inbox else { break };
                let Some(delivery) = self.waiting.borrow_mut().pop_front() else { break };
                // A core that is gone needs none of it.
                if let Err(SendError(Delivery::Arrive(mover))) =
                    engine::from_outside(inbox.send(delivery)).await
                {
                    lost(mover);
                }
            }
            self.flushing.set(false);
        }
    }
}
