//! What may cross cores: deliveries of plain data, through one bounded queue into each core.
//!
//! Invariants: only owned `Send` values cross; order is kept between any two cores; the task that
//! empties a core's inbox never waits for another core's (two would deadlock): it hands deliveries to the
//! outbox, and one flusher per core does the waiting. An outbox is bounded by what fills it: body
//! bytes by the senders' credit, everything else by the tables of sessions and transactions.
//! The queue wakes the waiting task under the lock under which waiting ends: a task's waker must not be in another
//! thread's hands when the task ends (see `control::reply`).
//! Must not know: what a core does with a delivery.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};

use async_channel::{Receiver, Sender, TrySendError};
use msrp_tls::TlsConn;

use super::ask::Ask;
use super::settings::CoreConfig;
use super::tasks::Event;
use msrp_relay_core::{CoreId, Message, ProvenNames, Transport};

/// Batches an inbox holds before the outboxes of the other cores begin to fill.
const INBOX_BATCHES_MAX: usize = 256;

/// One delivery to a core.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// Steps for the core's relay, from another core.
    Messages(Vec<Message>),
    /// A connection whose first request names a session of the core.
    Adopt(Box<Migrant>),
    /// Another core has started; this is its inbox.
    CoreUp { core: CoreId, inbox: Sender<Self> },
    /// Another core is gone.
    CoreDown { core: CoreId },
    /// Another process accepts connections from now on.
    StopAccepting,
    /// That process has died: accept again, on these sockets.
    AcceptAgain(Vec<(socket2::Socket, Transport)>),
    /// Another process of this relay has come or gone.
    GenerationsChanged,
    /// Go on with another config; the sender is dropped when it is in force.
    Reload(Arc<CoreConfig>, mpsc::Sender<()>),
    /// An operator's question.
    Ask(Ask),
    /// Open no more sessions; say how many there are, and, after `StopAccepting`, newcomers. Said again, it only asks
    /// again.
    Drain(mpsc::Sender<u64>),
    /// Wait for no more answers.
    GiveUp,
    /// Read no more; say so, and whether everything sent to other cores is in their inboxes. Said again, it
    /// only asks again.
    Quiesce(mpsc::Sender<bool>),
    /// Close everything in order and end.
    Stop,
    /// Fail, in a task or in the core's own loop: how a test sees what a panic does.
    Panic { in_task: bool },
}

/// A connection on its way to the core of the session that its first request names.
#[derive(Debug)]
pub(crate) struct Migrant {
    pub(crate) transport: Transport,
    pub(crate) address: SocketAddr,
    pub(crate) descriptor: OwnedFd,
    pub(crate) tls: Option<Box<TlsConn>>,
    /// The names of the relay at the other end, where another process has seen the proof.
    pub(crate) proven: Option<ProvenNames>,
    pub(crate) received: Received,
}

/// What has been received of a connection and not been looked at.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// The beginning of a TLS record.
    pub(crate) records: Vec<u8>,
    /// Bytes of frames.
    pub(crate) plain: Vec<u8>,
}

/// A core's way in.
pub(crate) fn inbox() -> (Sender<Delivery>, Receiver<Delivery>) {
    async_channel::bounded(INBOX_BATCHES_MAX)
}

/// The ways from one core to the others.
#[derive(Debug)]
pub(crate) struct Mesh {
    outboxes: Vec<Outbox>,
}

/// What is under way to one other core.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    inbox: RefCell<Option<(CoreId, Sender<Delivery>)>>,
    waiting: RefCell<Vec<Message>>,
    /// The flusher holds messages that are not yet in the inbox: nothing may overtake them.
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

    /// Messages that found an inbox full.
    pub(crate) fn waiting(&self) -> usize {
        self.outboxes.iter().map(|outbox| outbox.waiting.borrow().len()).sum()
    }

    pub(crate) fn core_up(&self, core: CoreId, inbox: Sender<Delivery>) {
        if let Some(outbox) = self.outboxes.get(usize::from(core.index)) {
            outbox.waiting.borrow_mut().clear();
            *outbox.inbox.borrow_mut() = Some((core, inbox));
        }
    }

    pub(crate) fn core_down(&self, core: CoreId) {
        if let Some(outbox) = self.outboxes.get(usize::from(core.index)) {
            outbox.inbox.borrow_mut().take_if(|(there, _)| *there == core);
            outbox.waiting.borrow_mut().clear();
        }
    }

    /// Sends a connection where it belongs, waiting until there is room. With a core that is gone it is closed: so are
    /// the sessions it was for.
    pub(crate) async fn hand_over(&self, to: CoreId, connection: Box<Migrant>) {
        let inbox = self.outbox(usize::from(to.index)).and_then(|outbox| outbox.inbox.borrow().clone());
        if let Some((there, inbox)) = inbox
            && there == to
        {
            let _ = inbox.send(Delivery::Adopt(connection)).await;
        }
    }

    /// Sends what one turn of the relay produced. What is for a life of a core that is over is dropped:
    /// that core's end has been, or will be, told to the relay.
    pub(crate) fn send(&self, to: CoreId, messages: Vec<Message>) {
        let Some(outbox) = self.outboxes.get(usize::from(to.index)) else { return };
        let Some((there, inbox)) = outbox.inbox.borrow().clone() else { return };
        if there != to {
            return;
        }
        let mut waiting = outbox.waiting.borrow_mut();
        if waiting.is_empty() && !outbox.flushing.get() {
            match inbox.try_send(Delivery::Messages(messages)) {
                Ok(()) | Err(TrySendError::Closed(_)) => return,
                Err(TrySendError::Full(Delivery::Messages(messages))) => *waiting = messages,
                Err(TrySendError::Full(_)) => return,
            }
        } else {
            waiting.extend(messages);
        }
        outbox.ready.notify();
    }
}

impl Outbox {
    /// Sends what found the inbox full; runs as long as the core.
    pub(crate) async fn flush(&self) {
        loop {
            self.ready.wait().await;
            self.flushing.set(true);
            loop {
                let messages = std::mem::take(&mut *self.waiting.borrow_mut());
                let inbox = self.inbox.borrow().as_ref().map(|(_, inbox)| inbox.clone());
                match inbox {
                    Some(inbox) if !messages.is_empty() => {
                        // A core that is gone needs none of it.
                        let _ = inbox.send(Delivery::Messages(messages)).await;
                    }
                    _ => break,
                }
            }
            self.flushing.set(false);
        }
    }
}
