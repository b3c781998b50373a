//! Starting, supervising and stopping the cores.
//!
//! Invariants: every listening socket belongs to a core and outlives it, so that connections that
//! arrive while a core is started again wait instead of being refused; the cores know each other's
//! present life and nothing older; a core that dies takes nobody with it.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_channel::Sender;
use rustls_pki_types::ServerName;

use super::core::{CoreEnd, CorePlan, CoreReload};
use super::hand_over::HandOver;
pub use super::heritage::Heritage;
use super::inspect::{Inboxes, Inspector};
use super::launch::spawn_core;
use super::mesh::{Parcel, inbox};
use super::sock::{ListenError, Listeners};
use super::succession::{Estate, Family, Passed};
use super::tasks::panic_message;
use super::tls::{Identity, Roots, TlsSetup, TlsSetupError, Trust};
use crate::config::{CaSource, Config, Fixed, Limits, Outbound, PlainPolicy, UnprovenRelays};
use crate::control::{AccountsReady, Control, ControlError, ControlHandle};
use crate::relay::{self, ChunkBounds, CoreId, Expires, Settings, Transport};
use crate::telemetry::{Accounting, AccountingError, Counters, Observed, Opened, Snapshot};

/// Connections that may wait to be accepted, per core and address.
const BACKLOG: u16 = 4096;
/// A core that has died rests this long at first, then twice as long each time, ...
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(50);
/// ... but never longer than this.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(10);
/// A core that lived this long starts with a clean record.
const RESTART_FORGIVEN_AFTER: Duration = Duration::from_secs(60);
/// Rounds in which every core has said that it is quiet before the cores are stopped; see `Supervisor::quiesce`.
const QUIET_ROUNDS: u32 = 3;
/// Rounds in all: cores that never become quiet are stopped all the same.
const QUIESCE_ROUNDS_MAX: u32 = 100;
/// How often it is looked whether there are sessions left while the relay drains.
const DRAIN_LOOK: Duration = Duration::from_millis(100);
/// The longest drain.
const DRAIN_MAX: Duration = Duration::from_secs(86_400);
/// Events that may wait for the supervisor.
const EVENTS_MAX: usize = 64;
/// How long a core may take to answer.
const QUIESCE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the control plane may take to end.
const CONTROL_STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it may take to exchange the accounts.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the relay could not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    /// The file of accounting records cannot be opened.
    #[error(transparent)]
    Accounting(#[from] AccountingError),
    /// The control plane cannot start.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The new certificates are not for the name that the relay goes by until it ends.
    #[error(
        "hostname: {0} stands in the URIs of a relay that runs, and no certificate of the new config is for it: name one \
         that is, or restart the relay"
    )]
    Hostname(String),
    /// An executor cannot start.
    #[error("core {index} on CPU {cpu}: {reason}")]
    Core {
        /// Position of the core.
        index: usize,
        /// The CPU it was to be pinned to.
        cpu: usize,
        /// What the engine said.
        reason: String,
    },
    /// The operating system refuses something.
    #[error("{what}: {source}")]
    System {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// What the supervisor is told.
#[derive(Debug)]
pub(super) enum BootEvent {
    /// A core's thread has ended.
    CoreEnded(usize),
    /// Take what may change while the relay runs from another config, and say what differs and may not.
    Reload { config: Box<Config>, done: mpsc::Sender<Result<Vec<&'static str>, BootError>> },
    /// Accept nobody any more; when no session is left, or it is too late, say how many there are.
    Drain { timeout: Duration, drained: mpsc::Sender<u64> },
    /// Another process listens on the sockets: accept no more, and do not close them for it.
    GiveWay,
    /// The other process has died: accept again, and drain no more.
    TakeBack,
    /// One of the other processes of this relay has come or gone.
    FamilyChanged,
    /// One has a connection for a session of ours.
    Passed(Passed),
    /// Stop everything.
    Stop,
    /// Make a core panic.
    Crash { index: usize, in_task: bool },
}

/// A running relay: its cores, its control plane, its supervisor.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<(SocketAddr, bool)>,
    counters: Vec<Arc<Counters>>,
    accounts: AccountsReady,
    control: ControlHandle,
    inboxes: Inboxes,
    events: SyncSender<BootEvent>,
    generation: u8,
    listeners: Arc<Vec<(Listeners, bool)>>,
    accepting: Arc<AtomicUsize>,
    family: Arc<Family>,
    supervisor: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a relay. On return it listens and every core is up.
    ///
    /// # Errors
    /// [`BootError`] says what an operator must change.
    pub fn start(config: Config) -> Result<Self, BootError> {
        Self::start_after(config, None)
    }

    /// The same where another process has listened until now; whoever is before this process ([`Server::family`]) must be told next.
    ///
    /// # Errors
    /// [`BootError`] says what an operator must change.
    pub fn start_after(config: Config, mut estate: Option<Estate>) -> Result<Self, BootError> {
        let control = Control::start(&config)?;
        let tls = tls_setup(&config)?;
        let accounting = Accounting::start(Opened::new(config.accounting.as_ref())?);
        let count = NonZeroUsize::new(config.cores.len()).unwrap_or(NonZeroUsize::MIN);
        let generation = estate.as_ref().map_or(0, |estate| estate.generation);
        let listeners = Arc::new(listen(&config, count, estate.as_mut())?);
        let family = Arc::new(Family::after(estate.map(Estate::predecessor)));
        let addresses = listeners.iter().map(|(l, secure)| (l.address(), *secure)).collect();
        let (accounts, handle) = (control.accounts_ready(), control.handle());
        let (events, inbox) = mpsc::sync_channel(EVENTS_MAX);
        let kin = (generation, Arc::clone(&family));
        let mut supervisor = Supervisor::new(
            config,
            (control, tls, accounting),
            Arc::clone(&listeners),
            kin,
            (events.clone(), inbox),
        );
        let accepting = Arc::clone(&supervisor.accepting);
        let (counters, inboxes) = (supervisor.counters.clone(), supervisor.inboxes.clone());
        for index in 0..count.get() {
            if let Err(error) = supervisor.start_core(index) {
                // The cores that run already know each other, and would go on.
                supervisor.stop();
                return Err(error);
            }
        }
        let thread = std::thread::Builder::new()
            .name("supervisor".to_owned())
            .spawn(move || supervisor.run())
            .map_err(|source| BootError::System { what: "starting the supervisor", source })?;
        let supervisor = Some(thread);
        Ok(Self {
            addresses,
            counters,
            accounts,
            control: handle,
            inboxes,
            events,
            generation,
            listeners,
            accepting,
            family,
            supervisor,
        })
    }

    /// The other processes of this relay.
    pub fn family(&self) -> &Family {
        &self.family
    }

    /// What the process needs that shall take over from this one.
    pub fn heritage(&self) -> Heritage {
        Heritage {
            generation: self.generation,
            listeners: Arc::clone(&self.listeners),
            accepting: Arc::clone(&self.accepting),
            family: Arc::clone(&self.family),
            events: self.events.clone(),
        }
    }

    /// The addresses listened on, with the ports the kernel chose where 0 was asked for, and whether
    /// they speak TLS.
    pub fn addresses(&self) -> &[(SocketAddr, bool)] {
        &self.addresses
    }

    /// What each core has counted; at most a quarter of a second old.
    pub fn counters(&self) -> Vec<Snapshot> {
        self.counters.iter().map(|c| c.snapshot()).collect()
    }

    /// Whether accounts can be asked: false while their database cannot be reached.
    pub fn accounts_ready(&self) -> bool {
        self.accounts.is_ready()
    }

    /// For an operator who wants to look inside.
    pub fn inspector(&self) -> Inspector {
        Inspector {
            addresses: self.addresses.clone(),
            counters: self.counters.clone(),
            accounts: self.accounts.clone(),
            inboxes: self.inboxes.clone(),
        }
    }

    /// Goes on with another config, as far as that is possible without a restart. Whoever has a connection or a session
    /// keeps it. Returns the keys that differ and take a restart; see [`Fixed`]. The log is the caller's to change.
    ///
    /// # Errors
    /// If certificates, CAs or name servers cannot be used, or the control plane is gone or stuck; then nothing has
    /// changed.
    pub fn reload(&self, config: Config) -> Result<Vec<&'static str>, BootError> {
        let (done, is_done) = mpsc::channel();
        let _ = self.events.send(BootEvent::Reload { config: Box::new(config), done });
        is_done.recv().unwrap_or(Err(BootError::Control(ControlError::Died)))
    }

    /// Accepts nobody any more, and leaves alone whoever has a session. The receiver gets the number of sessions that
    /// are left as soon as there are none, or after `timeout`; then it is for the caller to [`stop`](Self::stop). Who
    /// has no session by now gets none: AUTH is 408, and the connection closed.
    ///
    /// Asked for twice, the second one counts, and the first receiver hears nothing but its end. `timeout` is a day at
    /// most; a longer one is cut.
    pub fn drain(&self, timeout: Duration) -> mpsc::Receiver<u64> {
        let (drained, left) = mpsc::channel();
        let _ = self.events.send(BootEvent::Drain { timeout, drained });
        left
    }

    /// Accepts again, and drains no more: the process that took over has died.
    pub fn take_back(&self) {
        let _ = self.events.send(BootEvent::TakeBack);
    }

    /// Tells all there is to see of this relay, for whoever shows it to others.
    pub fn observer(&self) -> impl Fn() -> Observed + Send + Sync + use<> {
        let (counters, accounts, control) =
            (self.counters.clone(), self.accounts.clone(), self.control.clone());
        let family = Arc::clone(&self.family);
        move || {
            let [look_ups_waiting, resolves_waiting, dials_waiting] = control.waiting();
            Observed {
                cores: counters.iter().map(|counters| counters.snapshot()).collect(),
                accounts_ready: accounts.is_ready(),
                look_ups_waiting,
                resolves_waiting,
                predecessor_sessions: family.predecessor().map_or(0, |before| before.sessions()),
                dials_waiting,
            }
        }
    }

    /// Reads how often each core has shown that it works, for whoever watches over them.
    pub fn heartbeats(&self) -> impl Fn() -> Vec<u64> + Send + use<> {
        let counters = self.counters.clone();
        move || counters.iter().map(|counters| counters.heartbeats.value()).collect()
    }

    /// Makes a task of a core panic, for tests of what happens then.
    #[doc(hidden)]
    pub fn crash_core(&self, index: usize) {
        let _ = self.events.send(BootEvent::Crash { index, in_task: true });
    }

    /// Makes a core panic outside its tasks, as an error in the relay on a message from another core would.
    #[doc(hidden)]
    pub fn crash_core_loop(&self, index: usize) {
        let _ = self.events.send(BootEvent::Crash { index, in_task: false });
    }

    /// Stops accepting, closes every connection in order, ends the cores. Returns what they counted.
    pub fn stop(mut self) -> Vec<Snapshot> {
        self.end();
        self.counters()
    }

    fn end(&mut self) {
        let _ = self.events.send(BootEvent::Stop);
        if let Some(thread) = self.supervisor.take()
            && thread.join().is_err()
        {
            tracing::error!("The supervisor died");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn tls_setup(config: &Config) -> Result<TlsSetup, BootError> {
    let identities = config.tls.certificates.iter().map(|pair| Identity {
        chain: pair.chain.clone(),
        key: pair.key.clone_key(),
        names: pair.names.clone(),
    });
    let roots = |ca: &CaSource| match ca {
        CaSource::System => Roots::System,
        CaSource::File { certificates, .. } => Roots::Certificates(certificates.clone()),
    };
    let trust =
        Trust { called: roots(&config.outbound.ca), calling: config.tls.client_ca.as_ref().map(roots) };
    let tls = TlsSetup::new(identities.collect(), &config.hostname, &trust, config.tls.record_layer)?;
    if tls.relays.as_ref().is_some_and(|relays| relays.is_empty()) {
        tracing::warn!("No trusted CA found: no caller can be a relay; see tls.client_ca");
    }
    if tls.roots == 0 {
        tracing::warn!(
            "No trusted CA found: every next hop that is a relay will be refused; see outbound.ca"
        );
    }
    Ok(tls)
}

fn listen(
    config: &Config,
    cores: NonZeroUsize,
    mut estate: Option<&mut Estate>,
) -> Result<Vec<(Listeners, bool)>, BootError> {
    let bind = |listen: &crate::config::Listen| {
        let left = estate.as_mut().and_then(|estate| estate.listeners(listen.address, listen.tls));
        let listeners = match left {
            Some((address, sockets)) => Listeners::inherit(address, sockets, cores, BACKLOG)?,
            None => Listeners::bind(listen.address, cores, BACKLOG)?,
        };
        Ok((listeners, listen.tls))
    };
    config.listen.iter().map(bind).collect()
}

/// Owns the cores' threads; runs on a thread of its own.
struct Supervisor {
    cores: Vec<RunningCore>,
    inboxes: Inboxes,
    cpus: Vec<usize>,
    fixed: Fixed,
    settings: Settings,
    limits: Limits,
    outbound: Arc<Outbound>,
    tls: TlsSetup,
    control: Control,
    counters: Vec<Arc<Counters>>,
    listeners: Arc<Vec<(Listeners, bool)>>,
    accepting: Arc<AtomicUsize>,
    family: Arc<Family>,
    /// The sockets belong to another process now.
    gave_way: bool,
    log_failures: bool,
    accounting: Accounting,
    draining: Option<Draining>,
    events: SyncSender<BootEvent>,
    inbox: mpsc::Receiver<BootEvent>,
}

/// The relay waits for its sessions to end.
struct Draining {
    until: Instant,
    drained: mpsc::Sender<u64>,
}

/// One core's present life.
struct RunningCore {
    id: CoreId,
    inbox: Option<Sender<Parcel>>,
    thread: Option<JoinHandle<CoreEnd>>,
    started: Instant,
    pause: Duration,
}

impl Supervisor {
    fn new(
        config: Config,
        (control, tls, accounting): (Control, TlsSetup, Accounting),
        listeners: Arc<Vec<(Listeners, bool)>>,
        (generation, family): (u8, Arc<Family>),
        (events, inbox): (SyncSender<BootEvent>, mpsc::Receiver<BootEvent>),
    ) -> Self {
        let ports = ports(&listeners);
        let dead = |index| RunningCore {
            id: CoreId::first_life(index, generation),
            inbox: None,
            thread: None,
            started: Instant::now(),
            pause: RESTART_PAUSE_MIN,
        };
        Self {
            cores: (0..u16::MAX).zip(&config.cores).map(|(index, _)| dead(index)).collect(),
            inboxes: Inboxes::new(config.cores.len()),
            counters: config.cores.iter().map(|_| Arc::default()).collect(),
            settings: settings(&config, &ports),
            fixed: Fixed::from(&config),
            cpus: config.cores,
            limits: config.limits,
            outbound: Arc::new(config.outbound),
            log_failures: config.auth.log_failures,
            tls,
            control,
            accounting,
            listeners,
            accepting: Arc::default(),
            family,
            gave_way: false,
            draining: None,
            events,
            inbox,
        }
    }

    /// Starts a core in its present incarnation and introduces it and the others to each other.
    fn start_core(&mut self, index: usize) -> Result<(), BootError> {
        let (Some(&cpu), Some(counters)) = (self.cpus.get(index), self.counters.get(index)) else {
            return Ok(());
        };
        let (sender, receiver) = inbox();
        let id = self.id(index);
        let plan = CorePlan {
            id,
            listeners: self.listeners_of(index)?,
            settings: self.settings.clone(),
            limits: self.limits.clone(),
            outbound: Arc::clone(&self.outbound),
            tls: self.tls.clone(),
            control: self.control.handle(),
            counters: Arc::clone(counters),
            inbox: receiver,
            accepting: Arc::clone(&self.accepting),
            family: Arc::clone(&self.family),
            log_failures: self.log_failures,
            records: self.accounting.records(),
            own: self.listeners.iter().map(|(listeners, _)| listeners.address()).collect(),
            seed: seed()?,
        };
        // Before it runs: whoever it speaks to must know it already.
        self.introduce(index, &sender);
        let thread = spawn_core(index, cpu, plan, Farewell(index, self.events.clone()))
            .map_err(|reason| BootError::Core { index, cpu, reason })?;
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

    fn listeners_of(&self, index: usize) -> Result<Vec<(socket2::Socket, Transport)>, BootError> {
        if self.gave_way {
            return Ok(Vec::new());
        }
        let cores = NonZeroUsize::new(self.cores.len()).unwrap_or(NonZeroUsize::MIN);
        let mut all = Vec::new();
        for (listeners, secure) in self.listeners.iter() {
            let transport = Transport { secure: *secure, port: listeners.address().port() };
            let sockets = listeners
                .for_core(index, cores)
                .map_err(|source| BootError::System { what: "duplicating a listening socket", source })?;
            all.extend(sockets.into_iter().map(|socket| (socket, transport)));
        }
        Ok(all)
    }

    /// Tells the newcomer of all others, and all others of the newcomer.
    fn introduce(&self, newcomer: usize, inbox: &Sender<Parcel>) {
        for (index, other) in self.cores.iter().enumerate() {
            if let Some(theirs) = other.inbox.as_ref().filter(|_| index != newcomer) {
                let _ = inbox.send_blocking(Parcel::CoreUp { core: self.id(index), inbox: theirs.clone() });
                let _ =
                    theirs.send_blocking(Parcel::CoreUp { core: self.id(newcomer), inbox: inbox.clone() });
            }
        }
    }

    /// Watches over the cores until told to stop.
    fn run(mut self) {
        loop {
            let event = match self.draining {
                None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(_) => self.inbox.recv_timeout(DRAIN_LOOK),
            };
            let event = match event {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => {
                    self.look_at_drain();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            match event {
                BootEvent::CoreEnded(index) => self.restart(index),
                BootEvent::Reload { config, done } => {
                    // Whoever asked may have stopped waiting.
                    let _ = done.send(self.reload(*config));
                }
                BootEvent::GiveWay => self.give_way(),
                BootEvent::TakeBack => self.take_back(),
                BootEvent::FamilyChanged => {
                    (0..self.cores.len()).for_each(|index| self.tell(index, Parcel::FamilyChanged));
                }
                BootEvent::Passed(passed) => {
                    self.tell(passed.core.into(), Parcel::Adopt(Box::new(HandOver::passed(passed))));
                }
                BootEvent::Drain { timeout, drained } => {
                    // The cores first: whoever finds the door closed can rely on nobody inside being let in any more.
                    let until = Instant::now() + timeout.min(DRAIN_MAX);
                    self.draining = Some(Draining { until, drained });
                    self.look_at_drain();
                    self.stop_listening();
                }
                BootEvent::Crash { index, in_task } => self.tell(index, Parcel::Panic { in_task }),
                BootEvent::Stop => break,
            }
        }
        self.stop();
    }

    /// The one place where a config is put into force while the relay runs. First everything that may fail, the
    /// control plane last, for what it has exchanged stays exchanged; then what cannot.
    fn reload(&mut self, mut config: Config) -> Result<Vec<&'static str>, BootError> {
        let differing = self.fixed.differing(&config);
        config.hostname.clone_from(&self.settings.hostname);
        config.cores.clone_from(&self.cpus);
        let named = ServerName::try_from(config.hostname.as_str());
        let certificates = &config.tls.certificates;
        if !certificates.is_empty()
            && !named.is_ok_and(|name| certificates.iter().any(|pair| pair.covers(&name)))
        {
            return Err(BootError::Hostname(config.hostname));
        }
        let tls = tls_setup(&config)?;
        let records = Opened::new(config.accounting.as_ref())?;
        self.control.reload(&config, RELOAD_TIMEOUT)?;

        // Also for cores that are started again.
        self.settings = settings(&config, &ports(&self.listeners));
        self.limits = config.limits;
        self.outbound = Arc::new(config.outbound);
        self.log_failures = config.auth.log_failures;
        self.tls = tls;
        self.accounting.change(records);
        let (in_force, heard) = mpsc::channel::<()>();
        for index in 0..self.cores.len() {
            let reload = CoreReload {
                settings: self.settings.clone(),
                limits: self.limits.clone(),
                outbound: Arc::clone(&self.outbound),
                tls: self.tls.clone(),
                log_failures: self.log_failures,
                records: self.accounting.records(),
            };
            self.tell(index, Parcel::Reload(Box::new(reload), in_force.clone()));
        }
        drop(in_force);
        // Nothing is ever sent: this returns when every core has gone on, or died, or takes too long for a word.
        if heard.recv_timeout(RELOAD_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("A core is busy; it takes the new config a little later");
        }
        Ok(differing)
    }

    fn stop_listening(&self) {
        if !self.gave_way {
            self.listeners.iter().for_each(|(listeners, _)| listeners.stop());
        }
    }

    /// Whether the sessions are over, or have had their time.
    fn look_at_drain(&mut self) {
        let (answer, answers) = mpsc::channel();
        for index in 0..self.cores.len() {
            // Also cores that were started again since.
            self.tell(index, Parcel::Drain(answer.clone()));
        }
        drop(answer);
        let deadline = Instant::now() + QUIESCE_TIMEOUT;
        let mut left = 0;
        let mut all_known = true;
        // A core that is dead has dropped its sender with its inbox.
        for _ in 0..self.cores.len() {
            match answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(sessions) => left += sessions,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => all_known = false,
            }
        }
        let over = |draining: &mut Draining| (all_known && left == 0) || draining.until <= Instant::now();
        if let Some(draining) = self.draining.take_if(over) {
            // Whoever asked may have decided otherwise.
            let _ = draining.drained.send(left);
        }
    }

    fn give_way(&mut self) {
        self.gave_way = true;
        for index in 0..self.cores.len() {
            self.tell(index, Parcel::GiveWay);
        }
    }

    /// The listening sockets are still open here, and whoever has connected meanwhile waits in their queues.
    fn take_back(&mut self) {
        self.gave_way = false;
        // What was to be said when the sessions are over is of no use any more.
        self.draining = None;
        for index in 0..self.cores.len() {
            match self.listeners_of(index) {
                Ok(listeners) => self.tell(index, Parcel::TakeBack(listeners)),
                Err(error) => {
                    tracing::error!(core = index, reason = %error, "A core cannot accept connections again");
                }
            }
        }
    }

    fn tell(&self, index: usize, parcel: Parcel) {
        if let Some(inbox) = self.cores.get(index).and_then(|core| core.inbox.as_ref()) {
            let _ = inbox.send_blocking(parcel);
        }
    }

    /// A core has died: the others end what they had with it, then it begins a new life.
    fn restart(&mut self, index: usize) {
        let gone = self.id(index);
        let Some(core) = self.cores.get_mut(index) else {
            return;
        };
        core.inbox = None;
        self.inboxes.set(index, None);
        self.counters.iter().skip(index).take(1).for_each(|counters| counters.up.set(0));
        let why = match core.thread.take().map(JoinHandle::join) {
            Some(Ok(CoreEnd::Panicked(message))) => message,
            Some(Err(panic)) => panic_message(panic.as_ref()),
            Some(Ok(CoreEnd::Stopped)) | None => "stopped".to_owned(),
        };
        if core.started.elapsed() > RESTART_FORGIVEN_AFTER {
            core.pause = RESTART_PAUSE_MIN;
        }
        // An attempt that fails is no life to be forgiven for.
        core.started = Instant::now();
        let pause = core.pause;
        core.pause = (pause * 2).min(RESTART_PAUSE_MAX);
        core.id = core.id.next_life();
        tracing::error!(
            core = index,
            reason = why,
            pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            "Core died; starting it again"
        );
        for other in (0..self.cores.len()).filter(|other| *other != index) {
            self.tell(other, Parcel::CoreDown { core: gone });
        }
        std::thread::sleep(pause);
        match self.start_core(index) {
            Ok(()) => {
                if self.gave_way {
                    self.tell(index, Parcel::GiveWay);
                }
                self.counters.iter().skip(index).take(1).for_each(|c| c.core_restarts.add(1));
            }
            Err(error) => {
                tracing::error!(core = index, reason = %error, "Core cannot be started again; trying once more");
                let _ = self.events.try_send(BootEvent::CoreEnded(index));
            }
        }
    }

    /// Lets what the cores have accepted reach the core that writes it: a message that has been answered must
    /// not be on its way between two of them when they end. A request takes at most two parcels from the
    /// core that reads it to the one that writes it, and inboxes keep their order, so each round brings
    /// everything one step further.
    fn quiesce(&self) {
        let mut quiet_rounds = 0;
        for _ in 0..QUIESCE_ROUNDS_MAX {
            let (quiet, heard) = mpsc::channel();
            for index in 0..self.cores.len() {
                self.tell(index, Parcel::Quiesce(quiet.clone()));
            }
            drop(quiet);
            let mut all_quiet = true;
            // A core that is dead has dropped its sender with its inbox.
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

    fn stop(mut self) {
        self.stop_listening();
        self.quiesce();
        for index in 0..self.cores.len() {
            self.tell(index, Parcel::GiveUp);
        }
        // What that means to other cores must reach them as well.
        self.quiesce();
        for index in 0..self.cores.len() {
            self.tell(index, Parcel::Stop);
        }
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

/// Says that a core's thread has ended, however it ends.
struct Farewell(usize, SyncSender<BootEvent>);

impl Drop for Farewell {
    fn drop(&mut self) {
        // The supervisor may be gone already, or stopping, which needs no word.
        let _ = self.1.try_send(BootEvent::CoreEnded(self.0));
    }
}

fn seed() -> Result<[u8; 32], BootError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| BootError::System {
        what: "asking the system for randomness",
        source: io::Error::other(error.to_string()),
    })?;
    Ok(seed)
}

/// The ports that are listened on, and whether by TLS.
fn ports(listeners: &[(Listeners, bool)]) -> Vec<(u16, bool)> {
    listeners.iter().map(|(listeners, secure)| (listeners.address().port(), *secure)).collect()
}

/// What the relay needs of the config.
fn settings(config: &Config, listens: &[(u16, bool)]) -> Settings {
    let limits = &config.limits;
    let peers_max = limits.connections_max.div_ceil(config.cores.len().max(1));
    let narrow = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Settings {
        hostname: config.hostname.clone(),
        realm: config.realm.clone(),
        domains: config.domains.clone(),
        ports: listens.iter().map(|(port, _)| *port).collect(),
        cores: u16::try_from(config.cores.len()).unwrap_or(u16::MAX),
        algorithms: config.auth.algorithms.clone(),
        challenge_lifetime: config.auth.challenge_lifetime,
        attempts_max: config.auth.max_attempts,
        insecure_plain: config.auth.insecure_plain,
        expires: Expires {
            seconds_min: config.sessions.expires_min.as_secs(),
            seconds_default: config.sessions.expires_default.as_secs(),
            seconds_max: config.sessions.expires_max.as_secs(),
            enforce_default: config.sessions.enforce_default,
        },
        allow_other_methods: config.methods.allow_other,
        relays: Some(&config.outbound.relays).filter(|relays| !relays.is_empty()).cloned(),
        serves_relays: config.tls.client_ca.is_some(),
        relays_must_prove: config.tls.unproven_relays == UnprovenRelays::Refuse,
        tls_port: listens.iter().find(|(_, secure)| *secure).map(|(port, _)| *port),
        dial_plain: config.outbound.plain == PlainPolicy::Allow,
        chunk_bounds: ChunkBounds::new(
            config.outbound.max_chunk.iter().map(|(host, octets)| (host.clone(), narrow(*octets))),
        ),
        limits: relay::Limits {
            queue_octets_high: limits.queue_bytes_high,
            queue_octets_low: limits.queue_bytes_low,
            flush_octets_max: limits.flush_bytes_max,
            request_octets_max: limits.request_bytes_max(),
            queue_octets_total: limits.queue_bytes_total,
            peers_max,
            unproven_max: (peers_max * limits.unauthenticated_percent_max / 100).max(1),
            peers_per_address_max: narrow(limits.connections_per_address_max),
            unproven_per_address_max: narrow(limits.unauthenticated_per_address_max),
            refusals_max: narrow(limits.refused_requests_max),
            auth_failures_per_address_max: narrow(limits.auth_failures_per_address_max),
            auth_failures_per_user_max: narrow(limits.auth_failures_per_user_max),
            dial_failures_per_user_max: narrow(limits.dial_failures_per_user_max),
            failure_window: limits.failure_window,
            sessions_per_user_max: narrow(limits.sessions_per_user_max),
            octets_per_second_per_user_max: limits.bytes_per_second_per_user_max as u64,
            first_request_timeout: limits.first_request_timeout,
            stall_timeout: limits.stall_timeout,
            idle_timeout: limits.idle_timeout,
            transactions_per_peer_max: limits.transactions_per_peer_max,
        },
    }
}
