//! One core: a pinned executor, the connections it owns, its relay.
//!
//! Invariants: the [`Relay`] is borrowed for change in [`Shared::feed_with`] and [`Shared::next_flush`] alone,
//! and never across an await; everything that may wait on something slow is asked of the control plane;
//! every task is held by [`Tasks`]; a core whose task panics ends in order, its connections closed and
//! its listeners free for the next life.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_channel::Receiver;
use futures_lite::{FutureExt as _, future};

use super::conn::Conn;
use super::deadline::Deadline;
use super::hand_over::{HandOver, Received};
use super::log::{self, Felt};
use super::mesh::{Mesh, Parcel};
use super::pool::{self, Taken};
use super::sock::{AcceptError, Acceptor, Socket};
use super::succession::Family;
use super::tasks::{Event, Tasks, panic_message};
use super::tls::{TlsConn, TlsSetup};
use super::trace::Trace;
use crate::config::{Limits, Outbound};
use crate::control::{Answer, ControlHandle, Secret, WhyUnavailable};
use crate::proto::digest::Attempt;
use crate::relay::{
    CloseReason, CoreId, Effect, Effects, EndReason, Event as RelayEvent, Input, Limit, LookUpAnswer,
    LookUpTicket, OutBatch, PeerKey, Relay, SessionView, Settings, Stats, Transport, Who, WriteState,
};
use crate::telemetry::{Counters, LookUpEnd, PUBLISHED_EVERY, Record, Records, Site, Source, gated};

/// One read: large enough that several TLS records come with one system call, small enough to stay
/// in cache.
const READ_OCTETS: usize = 64 << 10;
/// An incomplete TLS record that waits in front of the next read.
const RECORD_OCTETS_MAX: usize = (16 << 10) + 512;
/// Write buffers kept for reuse, the one used last first. Each grows to the largest flush it ever held: with sixteen of
/// them the relay's memory crept up for as long as large flushes met new ones.
const BUFFERS_KEPT: usize = 4;
/// How long a core that stops waits for its connections to take what is queued for them.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long accepting rests when the process has no descriptor or memory left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// The same where another connection has just made room: long enough that a core which accepts nothing does not spin.
const RECOVERY_PAUSE: Duration = Duration::from_millis(2);

/// Everything a core is made from; crosses into its thread.
pub(crate) struct CorePlan {
    pub(crate) id: CoreId,
    pub(crate) listeners: Vec<(socket2::Socket, Transport)>,
    pub(crate) settings: Settings,
    pub(crate) limits: Limits,
    pub(crate) outbound: Arc<Outbound>,
    pub(crate) tls: TlsSetup,
    pub(crate) control: ControlHandle,
    pub(crate) counters: Arc<Counters>,
    pub(crate) inbox: Receiver<Parcel>,
    /// Tasks of all cores that accept connections.
    pub(crate) accepting: Arc<AtomicUsize>,
    /// The other processes of this relay.
    pub(crate) family: Arc<Family>,
    pub(crate) log_failures: bool,
    pub(crate) records: Records,
    /// What all cores listen on: nothing of that is dialled.
    pub(crate) own: Arc<[SocketAddr]>,
    pub(crate) seed: [u8; 32],
}

/// What a core is told when the config is read again. Its relay keeps its name, its ports and its number of cores.
#[derive(Debug)]
pub(crate) struct CoreReload {
    pub(crate) settings: Settings,
    pub(crate) limits: Limits,
    pub(crate) outbound: Arc<Outbound>,
    pub(crate) tls: TlsSetup,
    pub(crate) log_failures: bool,
    pub(crate) records: Records,
}

/// How a core ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CoreEnd {
    /// It was told to stop.
    Stopped,
    /// One of its tasks panicked.
    Panicked(String),
}

/// What the tasks of a core share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) relay: RefCell<Relay>,
    effects: RefCell<Effects>,
    /// Effects not applied yet, in the order in which the relay asked for them.
    due: RefCell<VecDeque<Effect>>,
    applying: Cell<bool>,
    batch: RefCell<OutBatch>,
    /// For records that are made of several parts.
    seam: RefCell<Vec<u8>>,
    conns: RefCell<HashMap<PeerKey, Rc<Conn>>>,
    /// Dials under way, and how to end them: their slots are taken until they do.
    pub(crate) dialling: RefCell<HashMap<PeerKey, Rc<Event>>>,
    published: RefCell<Stats>,
    /// What the thread itself had used when that was published.
    used: Cell<Used>,
    /// This core's own, to be measured: it is emptied by `read_inbox`.
    inbox: Receiver<Parcel>,
    pub(crate) scratch: RefCell<Vec<u8>>,
    pub(crate) buffers: Buffers,
    pub(crate) tasks: Rc<Tasks>,
    /// These five are exchanged when the config is read again.
    limits: RefCell<Rc<Limits>>,
    outbound: RefCell<Arc<Outbound>>,
    tls: RefCell<TlsSetup>,
    log_failures: Cell<bool>,
    records: RefCell<Records>,
    pub(super) traces: RefCell<Vec<Rc<Trace>>>,
    pub(crate) control: ControlHandle,
    pub(crate) counters: Arc<Counters>,
    pub(crate) mesh: Mesh,
    pub(crate) own: Arc<[SocketAddr]>,
    accepting: Arc<AtomicUsize>,
    /// Somebody else accepts on the sockets now.
    gives_way: Cell<bool>,
    /// The other processes of this relay.
    pub(super) family: Arc<Family>,
    /// Connections passed on to them and still open.
    pub(super) passing: Cell<usize>,
    emptied: Event,
}

/// Write buffers, lent for as long as a write takes; idle connections hold none.
#[derive(Debug, Default)]
pub(crate) struct Buffers(RefCell<Vec<Vec<u8>>>);

impl Buffers {
    fn spare(&self) -> usize {
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

/// What a core's thread has used since it began.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    cpu: Duration,
    buffers: Taken,
}

/// CPU time of the calling thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Runs a core until it is told to stop or one of its tasks panics.
pub(crate) async fn run(mut plan: CorePlan) -> CoreEnd {
    let (inbox, listeners) = (plan.inbox.clone(), std::mem::take(&mut plan.listeners));
    let shared = Rc::new(Shared::new(plan));
    // aws-lc's first random draw on a thread takes tens of milliseconds: not at a client's expense.
    let _ = shared.tls().server.crypto_provider().secure_random.fill(&mut [0]);
    shared.listen(listeners);
    for index in 0..shared.cores() {
        let core = Rc::clone(&shared);
        shared.tasks.spawn(async move {
            if let Some(outbox) = core.mesh.outbox(index) {
                outbox.flush().await;
            }
        });
    }
    let core = Rc::clone(&shared);
    shared.tasks.spawn(async move { core.tick().await });

    shared.look_at_family();
    let panicked = async { CoreEnd::Panicked(shared.tasks.failed().await) };
    let served = AssertUnwindSafe(async {
        shared.read_inbox(&inbox).await;
        shared.close_all().await;
    });
    let stopped = async {
        match served.catch_unwind().await {
            Ok(()) => CoreEnd::Stopped,
            Err(panic) => CoreEnd::Panicked(panic_message(panic.as_ref())),
        }
    };
    let end = future::or(panicked, stopped).await;
    shared.tasks.cancel_all().await;
    shared.end(&end);
    end
}

impl Shared {
    fn new(plan: CorePlan) -> Self {
        let cores = usize::from(plan.settings.cores);
        Self {
            relay: RefCell::new(Relay::new(plan.id, plan.settings, plan.seed, Instant::now())),
            effects: RefCell::default(),
            due: RefCell::default(),
            applying: Cell::new(false),
            batch: RefCell::default(),
            seam: RefCell::default(),
            conns: RefCell::default(),
            dialling: RefCell::default(),
            published: RefCell::default(),
            used: Cell::default(),
            inbox: plan.inbox,
            scratch: RefCell::new(vec![0; READ_OCTETS + RECORD_OCTETS_MAX]),
            buffers: Buffers::default(),
            tasks: Rc::default(),
            limits: RefCell::new(Rc::new(plan.limits)),
            outbound: RefCell::new(plan.outbound),
            tls: RefCell::new(plan.tls),
            log_failures: Cell::new(plan.log_failures),
            records: RefCell::new(plan.records),
            traces: RefCell::default(),
            control: plan.control,
            counters: plan.counters,
            mesh: Mesh::new(cores),
            own: plan.own,
            accepting: plan.accepting,
            gives_way: Cell::new(false),
            family: plan.family,
            passing: Cell::new(0),
            emptied: Event::default(),
        }
    }

    fn cores(&self) -> usize {
        self.relay.borrow().cores()
    }

    // -- what the config says, now ---------------------------------------------------------------

    pub(crate) fn limits(&self) -> Rc<Limits> {
        Rc::clone(&self.limits.borrow())
    }

    pub(crate) fn outbound(&self) -> Arc<Outbound> {
        Arc::clone(&self.outbound.borrow())
    }

    pub(crate) fn tls(&self) -> TlsSetup {
        self.tls.borrow().clone()
    }

    /// Goes on with another config. What has begun under the old one, a handshake, a dial, a wait, ends under it.
    fn reload(self: &Rc<Self>, reload: CoreReload) {
        self.limits.replace(Rc::new(reload.limits));
        self.outbound.replace(reload.outbound);
        self.tls.replace(reload.tls);
        self.log_failures.set(reload.log_failures);
        self.records.replace(reload.records);
        self.feed([Input::Reconfigured(Box::new(reload.settings))]);
    }

    // -- feeding the relay -----------------------------------------------------------------------

    /// Tells the relay what happened and does what it asks for.
    pub(crate) fn feed(self: &Rc<Self>, inputs: impl IntoIterator<Item = Input>) {
        self.feed_with(|relay, now, fx| {
            for input in inputs {
                relay.handle(now, input, fx);
            }
        });
    }

    /// The same, for what can only be said piece by piece.
    pub(crate) fn feed_with(self: &Rc<Self>, feed: impl FnOnce(&mut Relay, Instant, &mut Effects)) {
        let mut fx = self.effects.take();
        feed(&mut self.relay.borrow_mut(), Instant::now(), &mut fx);
        self.apply(fx);
    }

    /// Has a look at the relay, which must not take long.
    pub(crate) fn with_relay<T>(&self, look: impl FnOnce(&Relay) -> T) -> T {
        look(&self.relay.borrow())
    }

    /// Where a connection leads to.
    pub(crate) fn address_of(&self, peer: PeerKey) -> Option<SocketAddr> {
        self.conns.borrow().get(&peer).map(|conn| conn.address())
    }

    /// Hands one flush of what a connection may be sent to `write`, and a buffer for as long as it needs one.
    pub(crate) fn next_flush(
        self: &Rc<Self>,
        peer: PeerKey,
        write: impl FnOnce(&OutBatch, &mut Vec<u8>),
    ) -> WriteState {
        let mut fx = self.effects.take();
        let mut batch = self.batch.borrow_mut();
        let state = self.relay.borrow_mut().poll_write(Instant::now(), peer, &mut batch, &mut fx);
        if !batch.is_empty() {
            write(&batch, &mut self.seam.borrow_mut());
        }
        batch.clear();
        drop(batch);
        self.apply(fx);
        state
    }

    /// An effect may feed the relay again before it returns, for a task runs as soon as it is spawned. What comes of
    /// that waits behind the effects that are due already: a resume must not overtake the pause before it.
    fn apply(self: &Rc<Self>, mut fx: Effects) {
        for (core, messages) in fx.parcels.drain(..) {
            self.mesh.send(core, messages);
        }
        self.due.borrow_mut().extend(fx.list.drain(..));
        // Kept for its memory.
        *self.effects.borrow_mut() = fx;
        if self.applying.replace(true) {
            return;
        }
        while let Some(effect) = self.next_due() {
            self.apply_one(effect);
        }
        self.applying.set(false);
    }

    fn next_due(&self) -> Option<Effect> {
        self.due.borrow_mut().pop_front()
    }

    fn apply_one(self: &Rc<Self>, effect: Effect) {
        match effect {
            Effect::Wake(peer) => self.with_conn(peer, |conn| conn.writable.notify()),
            Effect::Pause(peer) => self.with_conn(peer, |conn| conn.set_paused(true)),
            Effect::Resume(peer) => self.with_conn(peer, |conn| conn.set_paused(false)),
            Effect::Close { peer, reason } => self.close(peer, reason),
            Effect::Abort { peer, reason } => {
                tracing::debug!(?peer, reason = reason.as_str(), "Aborting connection");
                let conn = self.conns.borrow().get(&peer).map(Rc::clone);
                conn.iter().for_each(|conn| conn.abort(self));
            }
            Effect::Connect { peer, target, who } => {
                let given_up = Rc::new(Event::default());
                self.dialling.borrow_mut().insert(peer, Rc::clone(&given_up));
                let core = Rc::clone(self);
                self.tasks.spawn(async move { core.dial(peer, (target, who), &given_up).await });
            }
            Effect::LookUp { ticket, who, attempt } => {
                let core = Rc::clone(self);
                self.tasks.spawn(async move { core.look_up(ticket, who, *attempt).await });
            }
            Effect::Event(RelayEvent::LimitReached { limit, peer, user }) => {
                // Counted by the relay already.
                log::limit_reached(limit, || self.felt_by(peer, user));
            }
            Effect::Event(event) => {
                log::count(&self.counters, &event);
                let peer = match &event {
                    RelayEvent::SessionClosed { session, reason } => {
                        self.account(session, *reason);
                        session.client
                    }
                    RelayEvent::SessionOpened { session, user, realm, peer, relay } => {
                        if relay.is_none() {
                            self.trace_newcomer(*peer, session, user, realm);
                        }
                        Some(*peer)
                    }
                    RelayEvent::AuthRefused { peer, .. } | RelayEvent::ClosedForRequests { peer, .. } => {
                        Some(*peer)
                    }
                    _ => None,
                };
                log::event(&event, peer.and_then(|peer| self.address_of(peer)), self.log_failures.get());
            }
        }
    }

    /// A limit that the relay knows nothing of was reached.
    pub(crate) fn limit_reached(&self, limit: Limit, felt_by: Option<(PeerKey, SocketAddr)>) {
        self.counters.limit_reached(limit, 1);
        log::limit_reached(limit, || {
            let felt = self.felt_by(felt_by.map(|(peer, _)| peer), None);
            Felt { address: felt_by.map(|(_, address)| address), ..felt }
        });
    }

    /// What is known of a peer that ran into a limit; `user`, if the limit is about one.
    fn felt_by(&self, peer: Option<PeerKey>, user: Option<String>) -> Felt {
        let mut holder = peer.map(|peer| self.with_relay(|relay| relay.holder(peer))).unwrap_or_default();
        holder.user = user.or(holder.user);
        Felt { address: peer.and_then(|peer| self.address_of(peer)), holder }
    }

    // -- connections -----------------------------------------------------------------------------

    pub(super) fn each_conn(&self, act: impl Fn(&Conn)) {
        self.conns.borrow().values().for_each(|conn| act(conn));
    }

    pub(super) fn with_conn(&self, peer: PeerKey, act: impl FnOnce(&Conn)) {
        if let Some(conn) = self.conns.borrow().get(&peer) {
            act(conn);
        }
    }

    fn close(self: &Rc<Self>, peer: PeerKey, reason: CloseReason) {
        let address = self.address_of(peer).map(tracing::field::display);
        tracing::debug!(address, reason = reason.as_str(), "Closing connection");
        if let Some(given_up) = self.dialling.borrow().get(&peer) {
            given_up.notify();
        }
        let conn = self.conns.borrow().get(&peer).map(Rc::clone);
        if let Some(conn) = conn {
            conn.close();
        }
    }

    /// Takes charge of a connection.
    pub(crate) fn adopt(self: &Rc<Self>, conn: Conn) {
        self.adopt_with(conn, Received::default());
    }

    /// The same for one that has been received from already.
    fn adopt_with(self: &Rc<Self>, conn: Conn, received: Received) {
        let conn = Rc::new(conn);
        self.conns.borrow_mut().insert(conn.key, Rc::clone(&conn));
        conn.start(self, received);
    }

    /// The connection is over; its tasks hold it for as long as they need it.
    pub(crate) fn forget(&self, peer: PeerKey) {
        self.conns.borrow_mut().remove(&peer);
        if self.conns.borrow().is_empty() {
            self.emptied.notify();
        }
    }

    fn listen(self: &Rc<Self>, listeners: Vec<(socket2::Socket, Transport)>) {
        for (socket, transport) in listeners {
            let listener = Acceptor::new(socket);
            let core = Rc::clone(self);
            self.tasks.spawn(async move { core.accept(listener, transport).await });
        }
    }

    async fn accept(self: &Rc<Self>, listener: Acceptor, transport: Transport) {
        let _counted = Counted::new(&self.accepting);
        // An accept that waits cannot be called off without the chance of losing a connection, so whoever gives way takes
        // the one that it waits for.
        while !self.gives_way.get() {
            match listener.accept().await {
                Ok((socket, address)) => self.accepted(socket, address, transport),
                Err(AcceptError::Stopped) => return,
                Err(AcceptError::Exhausted(error)) => {
                    warn_exhausted(&error);
                    Deadline::after(EXHAUSTED_PAUSE).await;
                }
                Err(AcceptError::NoDescriptor(error)) => {
                    warn_exhausted(&error);
                    let makes_room = listener.is_connection_waiting() && self.relay.borrow().newcomers() > 0;
                    if makes_room {
                        self.feed([Input::NoDescriptor]);
                    }
                    // What was closed is closed after the next turn.
                    Deadline::after(if makes_room { RECOVERY_PAUSE } else { EXHAUSTED_PAUSE }).await;
                }
                Err(AcceptError::Failed(error)) => {
                    tracing::error!(reason = %error, port = transport.port, "Cannot accept connections any more");
                    return;
                }
            }
            // After each: what it costs to make room for a newcomer is given back by others' tasks, and they come first.
            future::yield_now().await;
        }
    }

    fn accepted(self: &Rc<Self>, socket: Socket, address: SocketAddr, transport: Transport) {
        self.counters.connections_accepted.add(1);
        self.take_in(transport, address, |peer| {
            let tls = transport.secure.then(|| {
                let TlsSetup { server, relays, .. } = self.tls();
                TlsConn::server(server).map(|tls| tls.recognising(relays))
            });
            match tls.transpose() {
                Ok(tls) => {
                    self.adopt(Conn::accepted(peer, socket, address, tls, transport));
                    true
                }
                Err(error) => {
                    let reason = tracing::field::display(&error);
                    gated!(error, Site::CannotBeginTls, Source::ANY, { %address, reason }, "Cannot begin TLS");
                    false
                }
            }
        });
    }

    /// Goes on with a connection that another core has accepted, from where that left off.
    fn take_over(self: &Rc<Self>, connection: HandOver) {
        if self.relay.borrow().is_stopping() {
            return;
        }
        let (transport, address) = (connection.transport, connection.address);
        self.take_in(transport, address, |peer| match connection.resume(peer) {
            Ok((conn, received)) => {
                tracing::debug!(%address, "Took over a connection");
                self.adopt_with(conn, received);
                true
            }
            Err(error) => {
                tracing::debug!(%address, reason = %error, "Connection gone");
                false
            }
        });
    }

    /// Makes room for one more connection in the relay, if there is any. `begin` says whether it is there.
    fn take_in(
        self: &Rc<Self>,
        transport: Transport,
        address: SocketAddr,
        begin: impl FnOnce(PeerKey) -> bool,
    ) {
        let mut fx = self.effects.take();
        let accepted = self.relay.borrow_mut().accept(Instant::now(), transport, address.ip(), &mut fx);
        let lost = match accepted {
            // Before the effects: they may speak of this connection.
            Ok(peer) => Some(peer).filter(|peer| !begin(*peer)),
            // The relay has no name for one that it does not take, so its line has its address from here.
            Err(limit) => {
                fx.list.retain(|effect| {
                    !matches!(effect, Effect::Event(RelayEvent::LimitReached { peer: None, .. }))
                });
                log::limit_reached(limit, || Felt { address: Some(address), ..Felt::default() });
                None
            }
        };
        self.apply(fx);
        // After the effects: whoever counts must hear of its coming first.
        if let Some(peer) = lost {
            self.feed([Input::Lost { peer }]);
        }
    }

    // -- what waits ------------------------------------------------------------------------------

    async fn look_up(self: &Rc<Self>, ticket: LookUpTicket, who: Who, attempt: Attempt) {
        let asked = Instant::now();
        let found = self.control.look_up(who, attempt.clone()).await;
        self.counters.looked_up(end_of(&found), asked.elapsed());
        let ha1 = Secret::ha1(found.secret(), attempt.user(), attempt.realm(), attempt.algorithm());
        let answer = match found {
            Answer::Found(_) | Answer::Unknown => ha1.map_or(LookUpAnswer::Unknown, LookUpAnswer::Found),
            Answer::Unavailable(why) => {
                match why {
                    WhyUnavailable::Busy => self.limit_reached(Limit::LookUpsWaiting, None),
                    WhyUnavailable::Share => self.limit_reached(Limit::LookUpsPerAddress, None),
                    WhyUnavailable::Late => self.limit_reached(Limit::LookUpTimeout, None),
                    WhyUnavailable::Failed => {}
                }
                LookUpAnswer::Unavailable
            }
        };
        self.feed([Input::LookedUp { ticket, answer }]);
    }

    async fn tick(self: &Rc<Self>) {
        loop {
            Deadline::after(PUBLISHED_EVERY).await;
            let due = self.relay.borrow().next_deadline().is_some_and(|at| at <= Instant::now());
            if due {
                self.feed([Input::Tick]);
            }
            self.publish();
            self.end_traces();
        }
    }

    /// Empties the inbox until the core is told to stop.
    async fn read_inbox(self: &Rc<Self>, inbox: &Receiver<Parcel>) {
        while let Ok(parcel) = inbox.recv().await {
            match parcel {
                Parcel::Messages(messages) => self.feed(messages.into_iter().map(Input::Message)),
                Parcel::Adopt(connection) => self.take_over(*connection),
                Parcel::CoreUp { core, inbox } => {
                    self.mesh.core_up(core, inbox);
                    self.feed([Input::CoreChanged { index: core.index, running: Some(core.incarnation) }]);
                }
                Parcel::CoreDown { core } => {
                    self.mesh.core_down(core);
                    self.feed([Input::CoreChanged { index: core.index, running: None }]);
                }
                Parcel::GiveWay => self.gives_way.set(true),
                Parcel::TakeBack(listeners) => {
                    self.gives_way.set(false);
                    self.listen(listeners);
                }
                Parcel::FamilyChanged => self.look_at_family(),
                Parcel::Reload(reload, in_force) => {
                    self.reload(*reload);
                    drop(in_force);
                }
                Parcel::Ask(ask) => self.asked(ask),
                Parcel::Drain(left) => {
                    // The supervisor may no longer be waiting.
                    let _ = left.send(self.drain());
                }
                Parcel::GiveUp => self.feed([Input::GiveUp]),
                Parcel::Quiesce(quiet) => {
                    self.feed([Input::Quiesce]);
                    // The supervisor may no longer be waiting.
                    let _ = quiet.send(self.mesh.is_flushed());
                }
                Parcel::Stop => return,
                Parcel::Panic { in_task: true } => self.tasks.spawn(async { crash() }),
                Parcel::Panic { in_task: false } => crash(),
            }
            engine::breathe().await;
        }
    }

    /// Opens no more sessions, and tells how many there are. Where another process accepts connections, those that came
    /// here before that are served to their end, whatever they want.
    fn drain(self: &Rc<Self>) -> u64 {
        if self.gives_way.get() {
            let relay = self.relay.borrow();
            return relay.stats().sessions_open() + relay.newcomers() as u64;
        }
        self.feed([Input::Drain]);
        self.relay.borrow().stats().sessions_open()
    }

    fn look_at_family(&self) {
        self.relay.borrow_mut().set_kin(self.family.generations());
    }

    /// Closes every connection in order, as far as the peers let us in time.
    async fn close_all(self: &Rc<Self>) {
        self.feed([Input::Shutdown]);
        let emptied = async {
            while !self.conns.borrow().is_empty() {
                self.emptied.wait().await;
            }
        };
        let late = async {
            Deadline::after(STOP_TIMEOUT).await;
        };
        future::or(emptied, late).await;
        self.publish();
    }

    /// The core is over: whatever it still counts as open is not.
    fn end(&self, end: &CoreEnd) {
        self.publish();
        self.counters.connections_open.sub(self.conns.borrow().len() as u64);
        let sessions = self.published.borrow().sessions_open();
        self.counters.sessions_open.sub(sessions);
        let counters = &self.counters;
        for gauge in [
            &counters.queue_bytes,
            &counters.inbox_waiting,
            &counters.outbox_waiting,
            &counters.read_buffers_spare,
            &counters.write_buffers_spare,
        ] {
            gauge.set(0);
        }
        // Those whose clients did not close their side in time, or that a panic has cut off.
        let reason = match end {
            CoreEnd::Stopped => EndReason::Closed(CloseReason::Stopping),
            CoreEnd::Panicked(_) => EndReason::CoreDied,
        };
        let now = Instant::now();
        let left = self.with_relay(|relay| relay.sessions());
        for session in left {
            if let Some(view) = self.with_relay(|relay| relay.session_view(now, session)) {
                self.account(&view, reason);
                let address = view.client.and_then(|client| self.address_of(client));
                log::session_closed(&view, address, reason.as_str());
            }
        }
        self.conns.borrow_mut().clear();
    }

    /// Writes the record of a session that is over.
    fn account(&self, session: &SessionView, reason: EndReason) {
        let records = self.records.borrow();
        if !records.are_wanted() {
            return;
        }
        let line = self.line(session.clone());
        records.write(&Record {
            session: &session.session,
            user: &session.user,
            realm: &session.realm,
            duration_seconds: session.age.as_secs_f64(),
            bytes_from_client: session.octets_from_client,
            bytes_to_client: session.octets_to_client,
            client: line.client(),
            peer: line.peer(),
            reason: reason.as_str(),
            core: line.core,
        });
    }

    fn publish(&self) {
        let stats = *self.relay.borrow().stats();
        let before = self.published.replace(stats);
        log::publish(&self.counters, &before, &stats);
        self.publish_usage();
    }

    /// What is not the relay's own: the thread's time, its queues and buffers.
    fn publish_usage(&self) {
        let (buffers, read_buffers_spare) = pool::usage();
        let now = Used { cpu: cpu_time(), buffers };
        let before = self.used.replace(now);
        let counters = &self.counters;
        let busy = now.cpu.saturating_sub(before.cpu).as_nanos();
        counters.busy_nanoseconds.add(u64::try_from(busy).unwrap_or(u64::MAX));
        counters.read_buffers_reused.add(buffers.reused - before.buffers.reused);
        counters.read_buffers_allocated.add(buffers.allocated - before.buffers.allocated);
        counters.read_buffers_spare.set(read_buffers_spare as u64);
        counters.write_buffers_spare.set(self.buffers.spare() as u64);
        counters.queue_bytes.set(self.relay.borrow().bytes_used() as u64);
        counters.inbox_waiting.set(self.inbox.len() as u64);
        counters.outbox_waiting.set(self.mesh.waiting() as u64);
    }
}

/// Tells now and then that connections wait because the process, or the system, has no more to give.
fn warn_exhausted(error: &std::io::Error) {
    gated!(
        warn,
        Site::CannotAccept,
        Source::ANY,
        { reason = %error },
        "Cannot accept connections for now; raise LimitNOFILE"
    );
}

fn end_of(answer: &Answer) -> LookUpEnd {
    match answer {
        Answer::Found(_) => LookUpEnd::Found,
        Answer::Unknown => LookUpEnd::Unknown,
        Answer::Unavailable(WhyUnavailable::Busy | WhyUnavailable::Share) => LookUpEnd::Busy,
        Answer::Unavailable(WhyUnavailable::Late) => LookUpEnd::Late,
        Answer::Unavailable(WhyUnavailable::Failed) => LookUpEnd::Failed,
    }
}

/// One of those that are counted, for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A panic on purpose: what a test sends to see a core die.
#[expect(clippy::panic, reason = "the point of it")]
fn crash() {
    panic!("told to panic");
}
