//! What the tasks of one core share: the relay, the connections, the settings, the channels to the outside.
//!
//! The files beside this one have the functions.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use async_channel::Receiver;

use super::conns::Conns;
use super::dials::Dials;
use super::drive::Drive;
use super::figures::Figures;
use super::pings::Pings;
use crate::control::ControlHandle;
use crate::runtime::mesh::{Delivery, Mesh};
use crate::runtime::settings::CoreConfig;
use crate::runtime::tasks::{Event, Tasks};
use crate::runtime::trace::Trace;
use crate::runtime::upgrade::Generations;
use crate::telemetry::Counters;
use msrp_relay_core::{CoreId, Relay, Transport};

/// One read: large enough that several TLS records come with one system call, small enough to stay in cache.
const READ_BYTES: usize = 64 << 10;
/// An incomplete TLS record that waits before the next read.
const RECORD_BYTES_MAX: usize = (16 << 10) + 512;
/// Write buffers kept for reuse, the last used one first. Each grows to the largest flush it ever held: with sixteen of
/// them the relay's memory grew for as long as large flushes met new ones.
const BUFFERS_KEPT: usize = 4;

/// Everything a core is made from; crosses into its thread.
pub(crate) struct CorePlan {
    pub(crate) id: CoreId,
    pub(crate) listeners: Vec<(socket2::Socket, Transport)>,
    pub(crate) config: Arc<CoreConfig>,
    pub(crate) control: ControlHandle,
    pub(crate) counters: Arc<Counters>,
    pub(crate) inbox: Receiver<Delivery>,
    /// Tasks of all cores that accept connections.
    pub(crate) accepting: Arc<AtomicUsize>,
    /// The other processes of this relay.
    pub(crate) generations: Arc<Generations>,
    /// What all cores listen on: none of that is dialled.
    pub(crate) own: Arc<[SocketAddr]>,
    pub(crate) seed: [u8; 32],
}

/// The config as a core holds it: in an `Rc` of its own, because all cores would write the count of the `Arc`.
pub(crate) type OwnConfig = Rc<Arc<CoreConfig>>;

/// What the tasks of a core share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) drive: Drive,
    /// The relay has been told something.
    pub(crate) fed: Event,
    pub(super) conns: Conns,
    pub(crate) dials: Dials,
    pub(super) figures: Figures,
    pub(super) pings: Pings,
    /// Swapped whole when the config is read again.
    config: RefCell<OwnConfig>,
    pub(super) traces: RefCell<Vec<Rc<Trace>>>,
    pub(crate) scratch: RefCell<Vec<u8>>,
    pub(crate) buffers: Buffers,
    pub(crate) tasks: Rc<Tasks>,
    pub(crate) control: ControlHandle,
    pub(crate) counters: Arc<Counters>,
    pub(crate) mesh: Mesh,
    pub(crate) own: Arc<[SocketAddr]>,
    pub(crate) accepting: Arc<AtomicUsize>,
    /// Another process accepts on the sockets.
    pub(crate) stopped_accepting: Cell<bool>,
    /// The other processes of this relay.
    pub(crate) generations: Arc<Generations>,
    /// Open connections that were passed on to another process.
    pub(crate) passing: Cell<usize>,
}

impl Shared {
    pub(crate) fn new(plan: CorePlan) -> Self {
        let settings = plan.config.relay.clone();
        let cores = usize::from(settings.cores);
        Self {
            drive: Drive::new(Relay::new(plan.id, settings, plan.seed, Instant::now())),
            fed: Event::default(),
            conns: Conns::default(),
            dials: Dials::default(),
            figures: Figures::new(plan.inbox),
            pings: Pings::default(),
            config: RefCell::new(Rc::new(plan.config)),
            traces: RefCell::default(),
            scratch: RefCell::new(vec![0; READ_BYTES + RECORD_BYTES_MAX]),
            buffers: Buffers::default(),
            tasks: Rc::default(),
            control: plan.control,
            counters: plan.counters,
            mesh: Mesh::new(cores),
            own: plan.own,
            accepting: plan.accepting,
            stopped_accepting: Cell::new(false),
            generations: plan.generations,
            passing: Cell::new(0),
        }
    }

    /// The present config. A handshake, a dial or a wait that has begun under another one also ends under it.
    pub(crate) fn config(&self) -> OwnConfig {
        Rc::clone(&self.config.borrow())
    }

    pub(super) fn set_config(&self, config: Arc<CoreConfig>) {
        self.config.replace(Rc::new(config));
    }

    /// Looks at the relay, which must not take long.
    pub(crate) fn with_relay<T>(&self, look: impl FnOnce(&Relay) -> T) -> T {
        self.drive.look(look)
    }
}

/// Write buffers, lent for one write; idle connections hold none.
#[derive(Debug, Default)]
pub(crate) struct Buffers(RefCell<Vec<Vec<u8>>>);

impl Buffers {
    pub(super) fn spare(&self) -> usize {
        self.0.borrow().len()
    }

    pub(crate) fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        let mut kept = self.0.borrow_mut();
        if kept.len() < BUFFERS_KEPT {
            buffer.clear();
            kept.push(buffer);
        }
    }
}
