//! The control plane: one thread for everything that may wait on something slow.
//!
//! Data cores ask through a [`ControlHandle`] and await the answer; they never block. Account and name
//! look-ups have a queue each, so silent name servers cannot hold up an AUTH.
//!
//! Invariants: every request is answered, within its time-out and whatever happens: a full queue, a backend
//! that panics and a thread that is gone all read as unavailable, never as "no such user". Both queues and
//! the number of look-ups under way are bounded.
//! Must not know: sessions, connections, what an answer is used for.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender, TrySendError};
use core_affinity::CoreId;
use hickory_resolver::net::NetError;
use tokio::runtime::{self, Runtime};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};

use crate::config::{Config, DnsServers, Limits};
use crate::telemetry::{Site, Source, gated};

mod accounts;
mod dns;
mod reply;

use accounts::{Accounts, AccountsSettings};
pub use accounts::{AccountsReady, Answer, Secret, User, UserFile, UserFileError, WhyUnavailable};
pub use dns::ResolveError;
use dns::Resolver;
use reply::{Reply, reply};

/// Look-ups under way at once, of each kind; the others wait in the queue.
const RUNNING_MAX: usize = 256;
/// Reloads that may wait: whoever asks for one waits until it is done.
const RELOADS_WAITING_MAX: usize = 1;

/// The running control plane. Dropping it tells the thread to stop, without waiting.
#[derive(Debug)]
pub struct Control {
    handle: ControlHandle,
    reload: Sender<Reload>,
    ready: AccountsReady,
    /// Dropped to stop the thread.
    stop: oneshot::Sender<()>,
    /// Closed by the thread when it ends.
    ended: mpsc::Receiver<()>,
    thread: thread::JoinHandle<()>,
}

/// Why the control plane did not start, or not stop.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No thread, or no runtime on it.
    #[error("the control thread cannot be started: {0}")]
    Thread(#[source] std::io::Error),
    /// The name servers are not known.
    #[error("dns.servers: the system's resolver configuration cannot be used ({0}): list name servers there")]
    Resolver(#[source] NetError),
    /// The thread died.
    #[error("the control thread died")]
    Died,
    /// The thread is still busy.
    #[error("the control thread did not answer in time")]
    StillRunning,
}

impl Control {
    /// Starts the thread, on a CPU that no data core uses if one is left over. To be called from a thread
    /// that is not pinned: the new one inherits where it may run.
    ///
    /// # Errors
    /// If there is no thread to be had, or no name server known.
    pub fn start(config: &Config) -> Result<Self, ControlError> {
        let settings = AccountsSettings::from(&config.auth);
        Self::start_with(config, move |ready| Accounts::new(&settings, ready))
    }

    /// `accounts` is called on the thread, where tasks may be started.
    fn start_with(
        config: &Config,
        accounts: impl FnOnce(AccountsReady) -> Accounts + Send + 'static,
    ) -> Result<Self, ControlError> {
        let waiting_max = config.limits.lookups_waiting_max;
        let (look_up, look_ups) = async_channel::bounded(waiting_max);
        let (resolve, resolves) = async_channel::bounded(waiting_max);
        let (reload, reloads) = async_channel::bounded(RELOADS_WAITING_MAX);
        let (stop, stopped) = oneshot::channel();
        let ready = AccountsReady::default();
        let shown = ready.clone();
        let (end, ended) = mpsc::channel();
        let (report, started) = mpsc::channel();

        let (servers, limits) = (config.dns.servers.clone(), config.limits.clone());
        let cpu = spare_cpu(&config.cores);
        let queues = Queues { look_ups: Draining(look_ups), resolves: Draining(resolves), reloads };
        let run = move || {
            let _end = end;
            if let Some(cpu) = cpu {
                core_affinity::set_for_current(cpu);
            }
            match prepare(|| Resolver::new(&servers, &limits)) {
                Ok((runtime, resolver)) => {
                    let _ = report.send(Ok(()));
                    let lookup_timeout = Cell::new(limits.lookup_timeout);
                    LocalSet::new().block_on(&runtime, async move {
                        let accounts = RefCell::new(Rc::new(accounts(ready.clone())));
                        let resolver = RefCell::new(Rc::new(resolver));
                        Plane { accounts, ready, resolver, lookup_timeout }.run(queues, stopped).await;
                    });
                }
                Err(error) => {
                    let _ = report.send(Err(error));
                }
            }
        };
        let thread =
            thread::Builder::new().name("control".to_owned()).spawn(run).map_err(ControlError::Thread)?;
        started.recv().map_err(|_| ControlError::Died)??;
        Ok(Self { handle: ControlHandle { look_up, resolve }, reload, ready: shown, stop, ended, thread })
    }

    /// Takes accounts and name servers from where this config says, and their time-outs, from now on. Look-ups under
    /// way end as they began, sessions do not notice.
    ///
    /// # Errors
    /// If the name servers cannot be used, the thread has died, or it does not answer in time; then nothing has changed.
    pub fn reload(&self, config: &Config, patience: Duration) -> Result<(), ControlError> {
        let (done, is_done) = mpsc::channel();
        let accounts = AccountsSettings::from(&config.auth);
        let (servers, limits) = (config.dns.servers.clone(), config.limits.clone());
        let reload = Reload { accounts, servers, limits, done };
        match self.reload.try_send(reload) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(ControlError::StillRunning),
            Err(TrySendError::Closed(_)) => return Err(ControlError::Died),
        }
        is_done.recv_timeout(patience).unwrap_or_else(|error| match error {
            mpsc::RecvTimeoutError::Timeout => Err(ControlError::StillRunning),
            mpsc::RecvTimeoutError::Disconnected => Err(ControlError::Died),
        })
    }

    /// Whether accounts can be asked.
    #[must_use]
    pub fn accounts_ready(&self) -> AccountsReady {
        self.ready.clone()
    }

    /// What data cores ask through.
    #[must_use]
    pub fn handle(&self) -> ControlHandle {
        self.handle.clone()
    }

    /// Stops the thread and waits for it, `patience` at most. Requests still waiting read as unavailable.
    ///
    /// # Errors
    /// If the thread died of a panic or is still busy.
    pub fn stop(self, patience: Duration) -> Result<(), ControlError> {
        drop(self.stop);
        match self.ended.recv_timeout(patience) {
            Err(mpsc::RecvTimeoutError::Timeout) => Err(ControlError::StillRunning),
            _ => self.thread.join().map_err(|_| ControlError::Died),
        }
    }
}

/// A CPU that is open to the process and holds no data core.
fn spare_cpu(cores: &[usize]) -> Option<CoreId> {
    let open = core_affinity::get_core_ids().unwrap_or_default();
    open.into_iter().rev().find(|cpu| !cores.contains(&cpu.id))
}

/// The runtime, and the resolver made inside it.
fn prepare(
    resolver: impl FnOnce() -> Result<Resolver, NetError>,
) -> Result<(Runtime, Resolver), ControlError> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(ControlError::Thread)?;
    let entered = runtime.enter();
    let resolver = resolver().map_err(ControlError::Resolver)?;
    drop(entered);
    Ok((runtime, resolver))
}

// -- the asking side -------------------------------------------------------------------------------

/// Asks the control plane. Cheap to clone; its futures may be awaited on any executor.
#[derive(Clone, Debug)]
pub struct ControlHandle {
    look_up: Sender<LookUp>,
    resolve: Sender<Resolve>,
}

#[derive(Debug)]
struct LookUp {
    user: String,
    realm: String,
    /// What has waited in the queue for as long as a look-up may take is over when its turn comes.
    asked: Instant,
    reply: Reply<Answer>,
}

#[derive(Debug)]
struct Reload {
    accounts: AccountsSettings,
    servers: DnsServers,
    limits: Limits,
    done: mpsc::Sender<Result<(), ControlError>>,
}

#[derive(Debug)]
struct Resolve {
    wanted: Wanted,
    reply: Reply<Result<Vec<SocketAddr>, ResolveError>>,
}

#[derive(Debug)]
enum Wanted {
    /// The addresses of a host; with port 0.
    Host(String),
    /// Where the relay of a domain listens.
    Relay(String),
}

impl ControlHandle {
    /// Account and name look-ups that wait for their turn.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        (self.look_up.len(), self.resolve.len())
    }

    /// Looks up the account that `user` names in `realm`.
    pub async fn look_up(&self, user: String, realm: String) -> Answer {
        let (reply, answer) = reply();
        let asked = Instant::now();
        if self.look_up.try_send(LookUp { user, realm, asked, reply }).is_err() {
            return Answer::Unavailable(WhyUnavailable::Busy);
        }
        answer.await.unwrap_or(Answer::Unavailable(WhyUnavailable::Failed))
    }

    /// The addresses of `host`: at least one, IPv4 first, at most one more than
    /// `limits.addresses_per_name_max`, which tells that there are too many.
    ///
    /// # Errors
    /// If there are none, or nobody says so in time.
    pub async fn resolve(&self, host: String) -> Result<Vec<IpAddr>, ResolveError> {
        let found = self.ask(Wanted::Host(host)).await?;
        Ok(found.into_iter().map(|address| address.ip()).collect())
    }

    /// Where the relay of a domain listens, in the order in which it is to be tried this time: what SRV says, or else
    /// the domain's own addresses at port 2855 (RFC 4976, section 8). As many as with [`resolve`](Self::resolve).
    ///
    /// # Errors
    /// If there is none, or nobody says so in time.
    pub async fn locate(&self, domain: String) -> Result<Vec<SocketAddr>, ResolveError> {
        self.ask(Wanted::Relay(domain)).await
    }

    async fn ask(&self, wanted: Wanted) -> Result<Vec<SocketAddr>, ResolveError> {
        let (reply, answer) = reply();
        if self.resolve.try_send(Resolve { wanted, reply }).is_err() {
            return Err(ResolveError::Busy);
        }
        answer.await.unwrap_or(Err(ResolveError::Busy))
    }
}

// -- the answering side ----------------------------------------------------------------------------

/// The thread's ends of the queues.
struct Queues {
    look_ups: Draining<LookUp>,
    resolves: Draining<Resolve>,
    reloads: Receiver<Reload>,
}

/// A queue that leaves nobody waiting: what is in it when its reader goes is dropped there and then, for
/// the askers hold the other end, and their own requests would stay in it for ever.
struct Draining<T>(Receiver<T>);

impl<T> Drop for Draining<T> {
    fn drop(&mut self) {
        self.0.close();
        while self.0.try_recv().is_ok() {}
    }
}

/// Who answers.
struct Plane {
    /// Those that stand in the config now; look-ups under way may still hold earlier ones.
    accounts: RefCell<Rc<Accounts>>,
    ready: AccountsReady,
    /// As the accounts.
    resolver: RefCell<Rc<Resolver>>,
    lookup_timeout: Cell<Duration>,
}

impl Plane {
    async fn run(self, queues: Queues, stopped: oneshot::Receiver<()>) {
        let plane = Rc::new(self);
        let looking_up = Rc::clone(&plane);
        let look_ups = serve(queues.look_ups, move |request| Rc::clone(&looking_up).look_up(request));
        let resolving = Rc::clone(&plane);
        let resolves = serve(queues.resolves, move |request| Rc::clone(&resolving).resolve(request));
        tokio::select! {
            () = look_ups => {}
            () = resolves => {}
            () = plane.take_reloads(&queues.reloads) => {}
            // The sender is dropped, never used.
            _ = stopped => {}
        }
    }

    async fn take_reloads(&self, reloads: &Receiver<Reload>) {
        while let Ok(Reload { accounts, servers, limits, done }) = reloads.recv().await {
            // What may fail comes first, so that nothing has changed if it does.
            let resolver = match Resolver::new(&servers, &limits) {
                Ok(resolver) => resolver,
                Err(error) => {
                    let _ = done.send(Err(ControlError::Resolver(error)));
                    continue;
                }
            };
            self.resolver.replace(Rc::new(resolver));
            self.lookup_timeout.set(limits.lookup_timeout);
            // What the old backend says of itself from here on is no longer of interest.
            self.accounts.borrow().retire();
            let new = Rc::new(Accounts::new(&accounts, self.ready.clone()));
            self.accounts.replace(new);
            let _ = done.send(Ok(()));
        }
    }

    async fn look_up(self: Rc<Self>, LookUp { user, realm, asked, reply }: LookUp) {
        let accounts = Rc::clone(&self.accounts.borrow());
        let left = self.lookup_timeout.get().saturating_sub(asked.elapsed());
        let answer = tokio::time::timeout(left, accounts.look_up(&user, &realm)).await;
        reply.send(answer.unwrap_or(Answer::Unavailable(WhyUnavailable::Late)));
    }

    async fn resolve(self: Rc<Self>, Resolve { wanted, reply }: Resolve) {
        let resolver = Rc::clone(&self.resolver.borrow());
        reply.send(match wanted {
            Wanted::Host(host) => {
                let found = resolver.resolve(&host).await;
                found.map(|found| found.into_iter().map(|address| SocketAddr::new(address, 0)).collect())
            }
            Wanted::Relay(domain) => resolver.locate(&domain).await,
        });
    }
}

/// Answers each request of a queue in a task of its own, [`RUNNING_MAX`] at a time. A task that panics
/// drops its reply, which the asker reads as unavailable; the others go on.
async fn serve<R, F>(requests: Draining<R>, answer: impl Fn(R) -> F)
where
    F: Future<Output = ()> + 'static,
{
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            Some(ended) = running.join_next() => {
                if let Err(error) = ended {
                    let reason = tracing::field::display(&error);
                    gated!(error, Site::LookUpPanicked, Source::ANY, { reason }, "A look-up panicked");
                }
            }
            request = requests.0.recv(), if running.len() < RUNNING_MAX => match request {
                Ok(request) => {
                    running.spawn_local(answer(request));
                }
                Err(_) => return,
            },
        }
    }
}

#[cfg(test)]
mod tests;
