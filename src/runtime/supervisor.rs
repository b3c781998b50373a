//! Watches over the cores: starts, restarts, notifies and stops them.
//!
//! Invariants: the cores know each other's present life and none before; a dying core takes no other with it; a config
//! is put into force in one place. Must not know what a core does.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_channel::Sender;
use engine::sock::Listeners;
use msrp_tls::TlsSetup;
use rustls_pki_types::ServerName;

use super::core::{CoreEnd, CorePlan};
use super::error::StartError;
use super::inspect::Inboxes;
use super::mesh::{Delivery, inbox};
use super::orders::{Order, Orders};
use super::run::spawn_core;
use super::settings::{CoreConfig, tls_setup};
use super::tasks::panic_message;
use super::upgrade::Generations;
use crate::config::{Config, Fixed, Listen};
use crate::control::Control;
use crate::telemetry::{Accounting, Counters, Opened};
use msrp_relay_core::{CoreId, Transport};

/// A core that has died rests this long at first, then twice as long each time.
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest rest.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(10);
/// A core that lived this long starts with a clean record.
const RESTART_FORGIVEN_AFTER: Duration = Duration::from_secs(60);
/// Rounds in which every core has reported that it is quiet, before the cores are stopped; see `Supervisor::quiesce`.
const QUIET_ROUNDS: u32 = 3;
/// Rounds in all: after these, the cores are stopped even if they are not quiet.
const QUIESCE_ROUNDS_MAX: u32 = 100;
/// How often a draining relay checks for remaining sessions.
const DRAIN_LOOK: Duration = Duration::from_millis(100);
/// The longest drain.
const DRAIN_MAX: Duration = Duration::from_secs(86_400);
/// How long a core may take to answer.
const QUIESCE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the control plane may take to end.
const CONTROL_STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it may take to exchange the accounts.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Owns the cores' threads; runs on a thread of its own.
pub(super) struct Supervisor {
    cores: Vec<RunningCore>,
    inboxes: Inboxes,
    fixed: Fixed,
    config: Arc<CoreConfig>,
    control: Control,
    accounting: Accounting,
    listeners: Arc<Vec<(Listeners, Listen)>>,
    accepting: Arc<AtomicUsize>,
    generations: Arc<Generations>,
    /// The sockets belong to another process.
    stopped_accepting: bool,
    draining: Option<Draining>,
    orders: Orders,
    ordered: mpsc::Receiver<Order>,
}

/// What a supervisor needs, beside the config.
pub(super) struct Parts {
    pub(super) control: Control,
    pub(super) tls: TlsSetup,
    pub(super) accounting: Accounting,
    pub(super) listeners: Arc<Vec<(Listeners, Listen)>>,
    /// This process's number in a chain of upgrades.
    pub(super) generation: u8,
}

/// The relay waits for its sessions to end.
struct Draining {
    until: Instant,
    drained: mpsc::Sender<u64>,
}

/// One core's present life.
struct RunningCore {
    id: CoreId,
    cpu: usize,
    counters: Arc<Counters>,
    inbox: Option<Sender<Delivery>>,
    thread: Option<JoinHandle<CoreEnd>>,
    started: Instant,
    pause: Duration,
}

impl RunningCore {
    /// One that is yet to start.
    fn new(id: CoreId, cpu: usize) -> Self {
        let (counters, started) = (Arc::default(), Instant::now());
        Self { id, cpu, counters, inbox: None, thread: None, started, pause: RESTART_PAUSE_MIN }
    }

    /// It has died. Returns why, and how long it rests before its next life, whose id it takes.
    fn bury(&mut self) -> (String, Duration) {
        self.inbox = None;
        self.counters.up.set(0);
        let why = match self.thread.take().map(JoinHandle::join) {
            Some(Ok(CoreEnd::Panicked(message))) => message,
            Some(Err(panic)) => panic_message(panic.as_ref()),
            Some(Ok(CoreEnd::Stopped)) | None => "stopped".to_owned(),
        };
        if self.started.elapsed() > RESTART_FORGIVEN_AFTER {
            self.pause = RESTART_PAUSE_MIN;
        }
        // A failed attempt to start does not count as a life.
        self.started = Instant::now();
        let pause = self.pause;
        self.pause = (pause * 2).min(RESTART_PAUSE_MAX);
        self.id = self.id.next_life();
        (why, pause)
    }
}

impl Supervisor {
    pub(super) fn new(
        config: Config,
        parts: Parts,
        generations: Arc<Generations>,
        (orders, ordered): (Orders, mpsc::Receiver<Order>),
    ) -> Self {
        let Parts { control, tls, accounting, listeners, generation } = parts;
        let core =
            |(index, cpu): (u16, &usize)| RunningCore::new(CoreId::first_life(index, generation), *cpu);
        Self {
            cores: (0..u16::MAX).zip(&config.cores).map(core).collect(),
            inboxes: Inboxes::new(config.cores.len()),
            fixed: Fixed::from(&config),
            config: CoreConfig::new(config, &transports(&listeners), tls, accounting.records()),
            control,
            accounting,
            listeners,
            accepting: Arc::default(),
            generations,
            stopped_accepting: false,
            draining: None,
            orders,
            ordered,
        }
    }

    /// How many tasks of the cores accept connections.
    pub(super) fn accepting(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.accepting)
    }

    /// What each core counts.
    pub(super) fn counters(&self) -> Vec<Arc<Counters>> {
        self.cores.iter().map(|core| Arc::clone(&core.counters)).collect()
    }

    /// The inboxes of the cores.
    pub(super) fn inboxes(&self) -> Inboxes {
        self.inboxes.clone()
    }

    /// Starts every core, or stops at the first one that fails.
    pub(super) fn start_cores(&mut self) -> Result<(), StartError> {
        (0..self.cores.len()).try_for_each(|index| self.start_core(index))
    }

    /// Starts a core in its present incarnation and introduces it and the others to each other.
    fn start_core(&mut self, index: usize) -> Result<(), StartError> {
        let Some(core) = self.cores.get(index) else { return Ok(()) };
        let (cpu, counters) = (core.cpu, Arc::clone(&core.counters));
        let (sender, receiver) = inbox();
        let plan = CorePlan {
            id: core.id,
            listeners: self.listeners_of(index)?,
            config: Arc::clone(&self.config),
            control: self.control.handle(),
            counters: Arc::clone(&counters),
            inbox: receiver,
            accepting: Arc::clone(&self.accepting),
            generations: Arc::clone(&self.generations),
            own: self.listeners.iter().map(|(listeners, _)| listeners.address()).collect(),
            seed: seed()?,
        };
        // Before it runs: the cores that it sends to must know it already.
        self.introduce(index, &sender);
        let thread = spawn_core(index, cpu, plan, Farewell(index, self.orders.clone()))
            .map_err(|reason| StartError::Core { index, cpu, reason })?;
        if let Some(core) = self.cores.get_mut(index) {
            self.inboxes.set(index, Some(sender.clone()));
            core.inbox = Some(sender);
            core.thread = Some(thread);
            core.started = Instant::now();
        }
        counters.up.set(1);
        Ok(())
    }

    fn id(&self, index: usize) -> CoreId {
        let other = || CoreId::first_life(u16::try_from(index).unwrap_or(u16::MAX), 0);
        self.cores.get(index).map_or_else(other, |core| core.id)
    }

    fn listeners_of(&self, index: usize) -> Result<Vec<(socket2::Socket, Transport)>, StartError> {
        if self.stopped_accepting {
            return Ok(Vec::new());
        }
        let cores = NonZeroUsize::new(self.cores.len()).unwrap_or(NonZeroUsize::MIN);
        let mut all = Vec::new();
        for (listeners, listen) in self.listeners.iter() {
            let transport = transport(listeners, listen);
            let sockets = listeners
                .for_core(index, cores)
                .map_err(|source| StartError::System { what: "duplicating a listening socket", source })?;
            all.extend(sockets.into_iter().map(|socket| (socket, transport)));
        }
        Ok(all)
    }

    /// Introduces a new core and all others to each other.
    fn introduce(&self, newcomer: usize, inbox: &Sender<Delivery>) {
        for (index, other) in self.cores.iter().enumerate() {
            if let Some(theirs) = other.inbox.as_ref().filter(|_| index != newcomer) {
                let _ = inbox.send_blocking(Delivery::CoreUp { core: self.id(index), inbox: theirs.clone() });
                let _ =
                    theirs.send_blocking(Delivery::CoreUp { core: self.id(newcomer), inbox: inbox.clone() });
            }
        }
    }

    /// Watches over the cores until told to stop.
    pub(super) fn run(mut self) {
        loop {
            let order = match self.draining {
                None => self.ordered.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(_) => self.ordered.recv_timeout(DRAIN_LOOK),
            };
            let order = match order {
                Ok(order) => order,
                Err(RecvTimeoutError::Timeout) => {
                    self.look_at_drain();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            match order {
                Order::CoreEnded(index) => self.restart(index),
                Order::Reload { config, done } => {
                    // The asking thread may have stopped waiting.
                    let _ = done.send(self.reload(*config));
                }
                Order::StopAccepting => self.stop_accepting(),
                Order::AcceptAgain => self.accept_again(),
                Order::GenerationsChanged => self.tell_all(|| Delivery::GenerationsChanged),
                Order::Adopt { core, connection } => self.tell(core.into(), Delivery::Adopt(connection)),
                Order::Drain { timeout, drained } => {
                    // The cores first: after the sockets are closed, no connection gets a session any more.
                    let until = Instant::now() + timeout.min(DRAIN_MAX);
                    self.draining = Some(Draining { until, drained });
                    self.look_at_drain();
                    self.stop_listening();
                }
                Order::Crash { index, in_task } => self.tell(index, Delivery::Panic { in_task }),
                Order::Stop => break,
            }
        }
        self.stop();
    }

    /// The one place where a config is put into force while the relay runs. First everything that may fail, the control
    /// plane last, because what it has exchanged stays exchanged; then what cannot fail.
    fn reload(&mut self, mut config: Config) -> Result<Vec<&'static str>, StartError> {
        let differing = self.fixed.differing(&config);
        config.hostname.clone_from(&self.config.relay.hostname);
        config.cores = self.cores.iter().map(|core| core.cpu).collect();
        let named = ServerName::try_from(config.hostname.as_str());
        let certificates = &config.tls.certificates;
        if !certificates.is_empty()
            && !named.is_ok_and(|name| certificates.iter().any(|pair| pair.covers(&name)))
        {
            return Err(StartError::Hostname(config.hostname));
        }
        let tls = tls_setup(&config)?;
        let records = Opened::new(config.accounting.as_ref())?;
        self.control.reload(&config, RELOAD_TIMEOUT)?;

        self.accounting.change(records);
        // Also for cores that restart.
        self.config = CoreConfig::new(config, &transports(&self.listeners), tls, self.accounting.records());
        let (in_force, heard) = mpsc::channel::<()>();
        self.tell_all(|| Delivery::Reload(Arc::clone(&self.config), in_force.clone()));
        drop(in_force);
        // Nothing is ever sent: this returns when every core has continued, or died, or takes too long.
        if heard.recv_timeout(RELOAD_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("A core is busy; it takes the new config a little later");
        }
        Ok(differing)
    }

    fn stop_listening(&self) {
        if !self.stopped_accepting {
            self.listeners.iter().for_each(|(listeners, _)| listeners.stop());
        }
    }

    /// Checks whether the sessions have ended, or have had their time.
    fn look_at_drain(&mut self) {
        let (answer, answers) = mpsc::channel();
        // Also cores that restarted since.
        self.tell_all(|| Delivery::Drain(answer.clone()));
        drop(answer);
        let deadline = Instant::now() + QUIESCE_TIMEOUT;
        let mut left = 0;
        let mut all_known = true;
        // A dead core has dropped its sender with its inbox.
        for _ in 0..self.cores.len() {
            match answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(sessions) => left += sessions,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => all_known = false,
            }
        }
        let over = |draining: &mut Draining| (all_known && left == 0) || draining.until <= Instant::now();
        if let Some(draining) = self.draining.take_if(over) {
            // The asking thread may have decided otherwise.
            let _ = draining.drained.send(left);
        }
    }

    fn stop_accepting(&mut self) {
        self.stopped_accepting = true;
        self.tell_all(|| Delivery::StopAccepting);
    }

    /// The listening sockets are still open here, and connections made meanwhile wait in their queues.
    fn accept_again(&mut self) {
        self.stopped_accepting = false;
        // The report at the end of the drain is not needed any more.
        self.draining = None;
        for index in 0..self.cores.len() {
            match self.listeners_of(index) {
                Ok(listeners) => self.tell(index, Delivery::AcceptAgain(listeners)),
                Err(error) => {
                    tracing::error!(core = index, reason = %error, "A core cannot accept connections again");
                }
            }
        }
    }

    fn tell(&self, index: usize, delivery: Delivery) {
        if let Some(inbox) = self.cores.get(index).and_then(|core| core.inbox.as_ref()) {
            let _ = inbox.send_blocking(delivery);
        }
    }

    fn tell_all(&self, delivery: impl Fn() -> Delivery) {
        (0..self.cores.len()).for_each(|index| self.tell(index, delivery()));
    }

    /// A core has died: the others end what they had with it, then it begins a new life.
    fn restart(&mut self, index: usize) {
        let Some(core) = self.cores.get_mut(index) else { return };
        let gone = core.id;
        self.inboxes.set(index, None);
        let (why, pause) = core.bury();
        tracing::error!(
            core = index,
            reason = why,
            pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            "Core died; starting it again"
        );
        for other in (0..self.cores.len()).filter(|other| *other != index) {
            self.tell(other, Delivery::CoreDown { core: gone });
        }
        std::thread::sleep(pause);
        match self.start_core(index) {
            Ok(()) => {
                if self.stopped_accepting {
                    self.tell(index, Delivery::StopAccepting);
                }
                self.cores.get(index).iter().for_each(|core| core.counters.core_restarts.add(1));
            }
            Err(error) => {
                tracing::error!(core = index, reason = %error, "Core cannot be started again; trying once more");
                let _ = self.orders.try_send(Order::CoreEnded(index));
            }
        }
    }

    /// Lets the requests that the cores have accepted reach the core that writes them: when two cores end, no answered
    /// message may be on its way between them. A request takes at most two deliveries from the core that reads it to
    /// the one that writes it, and inboxes keep their order, so each round brings everything one step further.
    fn quiesce(&self) {
        let mut quiet_rounds = 0;
        for _ in 0..QUIESCE_ROUNDS_MAX {
            let (quiet, heard) = mpsc::channel();
            self.tell_all(|| Delivery::Quiesce(quiet.clone()));
            drop(quiet);
            let mut all_quiet = true;
            // A dead core has dropped its sender with its inbox.
            for _ in 0..self.cores.len() {
                match heard.recv_timeout(QUIESCE_TIMEOUT) {
                    Ok(flushed) => all_quiet &= flushed,
                    Err(RecvTimeoutError::Disconnected) => break,
                    Err(RecvTimeoutError::Timeout) => return,
                }
            }
            quiet_rounds = if all_quiet { quiet_rounds + 1 } else { 0 };
            if quiet_rounds >= QUIET_ROUNDS {
                return;
            }
        }
    }

    pub(super) fn stop(mut self) {
        self.stop_listening();
        self.quiesce();
        self.tell_all(|| Delivery::GiveUp);
        // The effects on other cores must reach them as well.
        self.quiesce();
        self.tell_all(|| Delivery::Stop);
        (0..self.cores.len()).for_each(|index| self.inboxes.set(index, None));
        for thread in self.cores.iter_mut().filter_map(|core| core.thread.take()) {
            if let Err(panic) = thread.join() {
                tracing::error!(reason = panic_message(panic.as_ref()), "A core died while stopping");
            }
        }
        let dropped = self.accounting.dropped();
        if dropped > 0 {
            tracing::warn!(dropped, "Accounting records were lost: they could not be written fast enough");
        }
        if let Err(error) = self.control.stop(CONTROL_STOP_TIMEOUT) {
            tracing::warn!(reason = %error, "The control plane did not stop in order");
        }
    }
}

/// Reports that a core's thread has ended, for whatever reason.
struct Farewell(usize, Orders);

impl Drop for Farewell {
    fn drop(&mut self) {
        // The supervisor may be gone already, or stopping, and then needs no report.
        let _ = self.1.try_send(Order::CoreEnded(self.0));
    }
}

fn seed() -> Result<[u8; 32], StartError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| StartError::System {
        what: "asking the system for randomness",
        source: io::Error::other(error.to_string()),
    })?;
    Ok(seed)
}

/// What is listened on.
fn transports(listeners: &[(Listeners, Listen)]) -> Vec<Transport> {
    listeners.iter().map(|(listeners, listen)| transport(listeners, listen)).collect()
}

fn transport(listeners: &Listeners, listen: &Listen) -> Transport {
    Transport { secure: listen.tls, port: listeners.address().port(), websocket: listen.websocket }
}
