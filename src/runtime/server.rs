//! A running relay, as the program holds it: started, asked, changed, stopped.
//!
//! Invariants: every listening socket outlives the cores, so that connections that arrive while a core restarts wait
//! instead of being refused. Must not know what a core does.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use engine::sock::Listeners;

use super::error::StartError;
use super::inspect::{Inboxes, Inspector};
use super::orders::{self, Order, Orders};
use super::settings::tls_setup;
use super::supervisor::{Parts, Supervisor};
use super::upgrade::{Generations, Handoff, ReceivedHandoff};
use crate::config::{Config, Listen};
use crate::control::{AccountsReady, Control, ControlError, ControlHandle};
use crate::telemetry::{Accounting, Counters, Observed, Opened, Snapshot};

/// Connections that may wait to be accepted, per core and address.
const BACKLOG: u16 = 4096;

/// A running relay: its cores, its control plane, its supervisor.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<(SocketAddr, bool)>,
    counters: Vec<Arc<Counters>>,
    accounts: AccountsReady,
    control: ControlHandle,
    inboxes: Inboxes,
    orders: Orders,
    generation: u8,
    listeners: Arc<Vec<(Listeners, Listen)>>,
    accepting: Arc<AtomicUsize>,
    generations: Arc<Generations>,
    supervisor: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a relay. On return it listens and every core is up.
    ///
    /// # Errors
    /// [`StartError`] says what an operator must change.
    pub fn start(config: Config) -> Result<Self, StartError> {
        Self::start_after(config, None)
    }

    /// The same after another process has listened; the caller must then notify the predecessor
    /// ([`Server::generations`]).
    ///
    /// # Errors
    /// [`StartError`] says what an operator must change.
    pub fn start_after(config: Config, mut handoff: Option<ReceivedHandoff>) -> Result<Self, StartError> {
        let control = Control::start(&config)?;
        let tls = tls_setup(&config)?;
        let accounting = Accounting::start(Opened::new(config.accounting.as_ref())?);
        let count = NonZeroUsize::new(config.cores.len()).unwrap_or(NonZeroUsize::MIN);
        let generation = handoff.as_ref().map_or(0, |handoff| handoff.generation);
        let listeners = Arc::new(listen(&config, count, handoff.as_mut())?);
        let generations = Arc::new(Generations::after(handoff.map(ReceivedHandoff::predecessor)));
        let addresses = listeners.iter().map(|(l, listen)| (l.address(), listen.tls)).collect();
        let (accounts, handle) = (control.accounts_ready(), control.handle());
        let (orders, ordered) = orders::channel();
        let mut supervisor = Supervisor::new(
            config,
            Parts { control, tls, accounting, listeners: Arc::clone(&listeners), generation },
            Arc::clone(&generations),
            (orders.clone(), ordered),
        );
        let accepting = supervisor.accepting();
        let (counters, inboxes) = (supervisor.counters(), supervisor.inboxes());
        if let Err(error) = supervisor.start_cores() {
            // The running cores know each other already, and would continue.
            supervisor.stop();
            return Err(error);
        }
        let thread = std::thread::Builder::new()
            .name("supervisor".to_owned())
            .spawn(move || supervisor.run())
            .map_err(|source| StartError::System { what: "starting the supervisor", source })?;
        Ok(Self {
            addresses,
            counters,
            accounts,
            control: handle,
            inboxes,
            orders,
            generation,
            listeners,
            accepting,
            generations,
            supervisor: Some(thread),
        })
    }

    /// The other processes of this relay.
    pub fn generations(&self) -> &Generations {
        &self.generations
    }

    /// What a successor needs.
    pub fn handoff(&self) -> Handoff {
        Handoff {
            generation: self.generation,
            listeners: Arc::clone(&self.listeners),
            accepting: Arc::clone(&self.accepting),
            generations: Arc::clone(&self.generations),
            orders: self.orders.clone(),
        }
    }

    /// The listening addresses, with the kernel's ports in place of 0, and whether they speak TLS.
    pub fn addresses(&self) -> &[(SocketAddr, bool)] {
        &self.addresses
    }

    /// The counters of each core; at most a quarter of a second old.
    pub fn counters(&self) -> Vec<Snapshot> {
        self.counters.iter().map(|c| c.snapshot()).collect()
    }

    /// Whether accounts can be asked: false while their database cannot be reached.
    pub fn accounts_ready(&self) -> bool {
        self.accounts.is_ready()
    }

    /// For an operator's questions.
    pub fn inspector(&self) -> Inspector {
        Inspector {
            addresses: self.addresses.clone(),
            counters: self.counters.clone(),
            accounts: self.accounts.clone(),
            inboxes: self.inboxes.clone(),
        }
    }

    /// Continues with another config, as far as that is possible without a restart. Connections and sessions stay.
    /// Returns the keys that differ and need a restart; see [`Fixed`](crate::config::Fixed). The caller changes the
    /// log.
    ///
    /// # Errors
    /// If certificates, CAs or name servers cannot be used, or the control plane is gone or stuck; then nothing has
    /// changed.
    pub fn reload(&self, config: Config) -> Result<Vec<&'static str>, StartError> {
        let (done, is_done) = mpsc::channel();
        let _ = self.orders.send(Order::Reload { config: Box::new(config), done });
        is_done.recv().unwrap_or(Err(StartError::Control(ControlError::Died)))
    }

    /// Accepts no more connections, and lets the existing sessions run. The receiver gets the number of remaining
    /// sessions as soon as there are none, or after `timeout`; then the caller must [`stop`](Self::stop). A client
    /// without a session gets none: its AUTH gets 408, and the connection closes.
    ///
    /// If called twice, the second call counts, and the first receiver only sees its channel end. `timeout` is a day at
    /// most; a longer one is cut.
    pub fn drain(&self, timeout: Duration) -> mpsc::Receiver<u64> {
        let (drained, left) = mpsc::channel();
        let _ = self.orders.send(Order::Drain { timeout, drained });
        left
    }

    /// Accepts again, and stops the drain: the successor has died.
    pub fn accept_again(&self) {
        let _ = self.orders.send(Order::AcceptAgain);
    }

    /// Returns the figures of this relay, for the metrics.
    pub fn observer(&self) -> impl Fn() -> Observed + Send + Sync + use<> {
        let (counters, accounts, control) =
            (self.counters.clone(), self.accounts.clone(), self.control.clone());
        let generations = Arc::clone(&self.generations);
        move || {
            let [look_ups_waiting, resolves_waiting, dials_waiting] = control.waiting();
            Observed {
                cores: counters.iter().map(|counters| counters.snapshot()).collect(),
                accounts_ready: accounts.is_ready(),
                look_ups_waiting,
                resolves_waiting,
                predecessor_sessions: generations.predecessor().map_or(0, |before| before.sessions()),
                dials_waiting,
            }
        }
    }

    /// Returns how often each core has shown that it works, for a watchdog.
    pub fn heartbeats(&self) -> impl Fn() -> Vec<u64> + Send + use<> {
        let counters = self.counters.clone();
        move || counters.iter().map(|counters| counters.heartbeats.value()).collect()
    }

    /// Makes a task of a core panic, for tests.
    #[doc(hidden)]
    pub fn crash_core(&self, index: usize) {
        let _ = self.orders.send(Order::Crash { index, in_task: true });
    }

    /// Makes a core panic outside its tasks, as an error in the relay on a message from another core would.
    #[doc(hidden)]
    pub fn crash_core_loop(&self, index: usize) {
        let _ = self.orders.send(Order::Crash { index, in_task: false });
    }

    /// Stops accepting, closes every connection in order, ends the cores. Returns their counters.
    pub fn stop(mut self) -> Vec<Snapshot> {
        self.end();
        self.counters()
    }

    fn end(&mut self) {
        let _ = self.orders.send(Order::Stop);
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

/// Takes the sockets that the predecessor handed over, and opens the missing ones.
fn listen(
    config: &Config,
    cores: NonZeroUsize,
    mut handoff: Option<&mut ReceivedHandoff>,
) -> Result<Vec<(Listeners, Listen)>, StartError> {
    let bind = |listen: &Listen| {
        let received = handoff.as_mut().and_then(|handoff| handoff.listeners(listen.address, listen.tls));
        let listeners = match received {
            Some((address, sockets)) => Listeners::inherit(address, sockets, cores, BACKLOG)?,
            None => Listeners::bind(listen.address, cores, BACKLOG)?,
        };
        Ok((listeners, *listen))
    };
    config.listen.iter().map(bind).collect()
}
