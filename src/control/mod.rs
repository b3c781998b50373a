//! The control plane: one thread for everything that may wait for something slow.
//!
//! Data cores ask through a [`ControlHandle`] and await the answer; they never block. They have the accounts of the config
//! ([`Memory`]) and its shared secrets themselves. Account look-ups, name look-ups
//! and connects to next hops have a queue each, so silent name servers cannot hold up an AUTH. In each queue the askers
//! take turns (`turns`): users, or for an AUTH, which has no user yet, addresses. Slow answers for one asker hold up
//! only its own requests.
//!
//! Invariants: every request is answered within its time-out, the time in the queue included, whatever happens: a full
//! queue, a panicking backend and a dead thread all read as unavailable, never as "no such user". The waiting requests
//! and those under way are bounded in all and for each asker; a request counts as under way until it is answered or its
//! time is over, even if its asker has gone. Must not know sessions, connections, or what an answer is used for.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
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
use msrp_proto::digest::Attempt;
use msrp_relay_core::Who;

mod accounts;
mod dns;
mod reply;
mod shared_secrets;
mod together;
mod turns;

use accounts::{Accounts, AccountsSettings};
pub use accounts::{AccountsReady, Answer, Memory, Secret, WhyUnavailable};
#[cfg(feature = "sqlite")]
pub use accounts::{User, UserFile, UserFileError};
pub use dns::ResolveError;
use dns::Resolver;
use reply::{Reply, reply};
pub use shared_secrets::{Credential, Objection, SharedSecrets, SignError, Verdict};
use turns::{Bounds, Turns, Waiting};

/// Look-ups under way at once, of each kind; the others wait in the queue.
const RUNNING_MAX: usize = 256;
/// Requests of one kind that may arrive while the thread has no CPU; more are refused. The thread sorts them into its
/// queue at once, whatever it waits for, so that only the arrivals of a moment wait here.
const ARRIVING_MAX: usize = 1 << 14;
/// Reloads that may wait: their asker waits until they are done.
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
    /// The name servers cannot be used.
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
    /// Starts the thread, on a CPU without a data core if one is left. Call it from a thread that is not pinned: the
    /// new thread inherits its CPUs.
    ///
    /// # Errors
    /// If no thread can be started, or no name server is known.
    pub fn start(config: &Config) -> Result<Self, ControlError> {
        let settings = AccountsSettings::from(&config.auth);
        Self::start_with(config, move |ready| Accounts::new(&settings, ready))
    }

    /// `accounts` is called on the thread, where it may start tasks.
    fn start_with(
        config: &Config,
        accounts: impl FnOnce(AccountsReady) -> Accounts + Send + 'static,
    ) -> Result<Self, ControlError> {
        let waiting_max = config.limits.lookups_waiting_max;
        let (look_up, look_ups) = queue(waiting_max);
        let (resolve, resolves) = queue(waiting_max);
        let (dial, dials) = queue(waiting_max);
        let (reload, reloads) = async_channel::bounded(RELOADS_WAITING_MAX);
        let (stop, stopped) = oneshot::channel();
        let ready = AccountsReady::default();
        let shown = ready.clone();
        let (end, ended) = mpsc::channel();
        let (report, started) = mpsc::channel();

        let (servers, limits) = (config.dns.servers.clone(), config.limits.clone());
        let connect_timeout = config.outbound.connect_timeout;
        let cpu = spare_cpu(&config.cores);
        let queues = Queues { look_ups, resolves, dials, reloads };
        let run = move || {
            let _end = end;
            if let Some(cpu) = cpu {
                core_affinity::set_for_current(cpu);
            }
            match prepare(|| Resolver::new(&servers, &limits)) {
                Ok((runtime, resolver)) => {
                    let _ = report.send(Ok(()));
                    LocalSet::new().block_on(&runtime, async move {
                        let accounts = RefCell::new(Rc::new(accounts(ready.clone())));
                        let resolver = RefCell::new(Rc::new(resolver));
                        let limits = RefCell::new(Rc::new(limits));
                        let connect_timeout = Cell::new(connect_timeout);
                        let plane = Plane { accounts, ready, resolver, limits, connect_timeout };
                        plane.run(queues, stopped).await;
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
        Ok(Self {
            handle: ControlHandle { look_up, resolve, dial },
            reload,
            ready: shown,
            stop,
            ended,
            thread,
        })
    }

    /// Uses this config's accounts, name servers, time-outs and bounds from here on. Look-ups under way end as they
    /// began, waiting ones follow the new config, and sessions are not affected.
    ///
    /// # Errors
    /// If the name servers cannot be used, the thread has died, or it does not answer in time; then nothing has changed.
    pub fn reload(&self, config: &Config, patience: Duration) -> Result<(), ControlError> {
        let (done, is_done) = mpsc::channel();
        let accounts = AccountsSettings::from(&config.auth);
        let (servers, limits) = (config.dns.servers.clone(), config.limits.clone());
        let connect_timeout = config.outbound.connect_timeout;
        let reload = Reload { accounts, servers, limits, connect_timeout, done };
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

    /// The data cores' handle.
    #[must_use]
    pub fn handle(&self) -> ControlHandle {
        self.handle.clone()
    }

    /// Stops the thread and waits for it, `patience` at most. Waiting requests read as unavailable.
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
    look_up: Asking<Attempt, Answer>,
    resolve: Asking<Wanted, Result<Vec<SocketAddr>, ResolveError>>,
    dial: Asking<(), Turn>,
}

/// A question on its way to the thread.
#[derive(Debug)]
struct Ask<Q, A> {
    who: Who,
    /// The time in the queue is part of a look-up's time.
    asked: Instant,
    question: Q,
    reply: Reply<Result<A, NoTurn>>,
}

/// Why a request got no turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoTurn {
    /// Too many wait, and this asker has the most.
    Full,
    /// It has waited as long as it may.
    Late,
    /// The same, because its asker already had as many under way as one may have.
    Share,
    /// The control thread is gone.
    Gone,
}

/// Permission to connect to a next hop; counted until it is dropped.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held for what its end does")] oneshot::Sender<()>);

/// The asker's end of a queue.
#[derive(Debug)]
struct Asking<Q, A> {
    arrivals: Sender<Box<Ask<Q, A>>>,
    waiting: Arc<AtomicUsize>,
}

impl<Q, A> Clone for Asking<Q, A> {
    fn clone(&self) -> Self {
        Self { arrivals: self.arrivals.clone(), waiting: Arc::clone(&self.waiting) }
    }
}

impl<Q, A> Asking<Q, A> {
    async fn ask(&self, who: Who, question: Q) -> Result<A, NoTurn> {
        let (reply, answer) = reply();
        let ask = Ask { who, asked: Instant::now(), question, reply };
        match self.arrivals.try_send(Box::new(ask)) {
            Ok(()) => answer.await.unwrap_or(Err(NoTurn::Gone)),
            Err(TrySendError::Full(_)) => Err(NoTurn::Full),
            Err(TrySendError::Closed(_)) => Err(NoTurn::Gone),
        }
    }

    fn waiting(&self) -> usize {
        self.arrivals.len() + self.waiting.load(Ordering::Relaxed)
    }
}

/// Both ends of a queue.
fn queue<Q, A>(waiting_max: usize) -> (Asking<Q, A>, Queue<Q, A>) {
    let (sender, arrivals) = async_channel::bounded(ARRIVING_MAX);
    let waiting = Arc::<AtomicUsize>::default();
    let asking = Asking { arrivals: sender, waiting: Arc::clone(&waiting) };
    (asking, Queue { arrivals: Draining(arrivals), turns: Turns::new(waiting_max), waiting })
}

#[derive(Debug)]
struct Reload {
    accounts: AccountsSettings,
    servers: DnsServers,
    limits: Limits,
    connect_timeout: Duration,
    done: mpsc::Sender<Result<(), ControlError>>,
}

#[derive(Debug)]
enum Wanted {
    /// The addresses of a host; with port 0.
    Host(String),
    /// Where the relay of a domain listens.
    Relay(String),
}

impl ControlHandle {
    /// Account look-ups, name look-ups and connects that wait for their turn.
    #[must_use]
    pub fn waiting(&self) -> [usize; 3] {
        [self.look_up.waiting(), self.resolve.waiting(), self.dial.waiting()]
    }

    /// Looks up the account that these credentials name, in the turn of `who`.
    pub async fn look_up(&self, who: Who, attempt: Attempt) -> Answer {
        self.look_up.ask(who, attempt).await.unwrap_or_else(|why| {
            Answer::Unavailable(match why {
                NoTurn::Full => WhyUnavailable::Busy,
                NoTurn::Late => WhyUnavailable::Late,
                NoTurn::Share => WhyUnavailable::Share,
                NoTurn::Gone => WhyUnavailable::Failed,
            })
        })
    }

    /// The addresses of `host`: at least one, IPv4 first, at most one more than `limits.addresses_per_name_max`, which
    /// shows that there are too many. In the turn of `who`.
    ///
    /// # Errors
    /// If there are none, or none is found in time.
    pub async fn resolve(&self, who: Who, host: String) -> Result<Vec<IpAddr>, ResolveError> {
        let found = self.ask(who, Wanted::Host(host)).await?;
        Ok(found.into_iter().map(|address| address.ip()).collect())
    }

    /// Where the relay of a domain listens, in the order to try this time: its SRV records, or else the domain's own
    /// addresses at port 2855 (RFC 4976, section 8). As many as [`resolve`](Self::resolve) gives.
    ///
    /// # Errors
    /// If there is none, or none is found in time.
    pub async fn locate(&self, who: Who, domain: String) -> Result<Vec<SocketAddr>, ResolveError> {
        self.ask(who, Wanted::Relay(domain)).await
    }

    /// Waits until `who` may have one more connect under way.
    ///
    /// # Errors
    /// If that takes longer than a connect may.
    pub async fn turn_to_dial(&self, who: Who) -> Result<Turn, NoTurn> {
        self.dial.ask(who, ()).await
    }

    async fn ask(&self, who: Who, wanted: Wanted) -> Result<Vec<SocketAddr>, ResolveError> {
        self.resolve.ask(who, wanted).await.unwrap_or_else(|why| {
            Err(match why {
                NoTurn::Full | NoTurn::Gone => ResolveError::Busy,
                NoTurn::Late => ResolveError::TimedOut,
                NoTurn::Share => ResolveError::Share,
            })
        })
    }
}

// -- the answering side ----------------------------------------------------------------------------

/// The thread's ends of the queues.
struct Queues {
    look_ups: Queue<Attempt, Answer>,
    resolves: Queue<Wanted, Result<Vec<SocketAddr>, ResolveError>>,
    dials: Queue<(), Turn>,
    reloads: Receiver<Reload>,
}

/// The requests that wait for their turn.
struct Queue<Q, A> {
    arrivals: Draining<Box<Ask<Q, A>>>,
    turns: Turns<Ask<Q, A>>,
    /// How many wait in `turns`, for other threads.
    waiting: Arc<AtomicUsize>,
}

/// The present settings of a queue.
struct Terms {
    bounds: Bounds,
    /// How long a request may wait and run.
    timeout: Duration,
}

/// Drops what is left in a queue when its reader goes. The askers hold the other end, so their own requests would
/// otherwise stay in the queue for ever.
struct Draining<T>(Receiver<T>);

impl<T> Drop for Draining<T> {
    fn drop(&mut self) {
        self.0.close();
        while self.0.try_recv().is_ok() {}
    }
}

/// The answering side.
struct Plane {
    /// The present accounts; look-ups under way may still hold earlier ones.
    accounts: RefCell<Rc<Accounts>>,
    ready: AccountsReady,
    /// As the accounts.
    resolver: RefCell<Rc<Resolver>>,
    limits: RefCell<Rc<Limits>>,
    connect_timeout: Cell<Duration>,
}

impl Plane {
    async fn run(self, queues: Queues, stopped: oneshot::Receiver<()>) {
        let plane = &Rc::new(self);
        let limits = || Rc::clone(&plane.limits.borrow());
        let terms = || {
            let Limits { lookups_per_address_max, lookup_timeout, .. } = *limits();
            let bounds = Bounds { running_max: RUNNING_MAX, share_max: lookups_per_address_max };
            Terms { bounds, timeout: lookup_timeout }
        };
        let remembered = |attempt: &Attempt| plane.accounts.borrow().remembered(attempt);
        let look_ups = queues.look_ups.serve(terms, remembered, |due| Rc::clone(plane).look_up(due));
        let terms = || {
            let Limits { lookups_per_user_max, resolve_timeout, .. } = *limits();
            let bounds = Bounds { running_max: RUNNING_MAX, share_max: lookups_per_user_max };
            Terms { bounds, timeout: resolve_timeout }
        };
        let resolves = queues.resolves.serve(terms, |_| None, |due| Rc::clone(plane).resolve(due));
        // Connects of one user take nothing from others: each connection has its place in `connections_max` already.
        let terms = || {
            let bounds = Bounds { running_max: usize::MAX, share_max: limits().dials_per_user_max };
            Terms { bounds, timeout: plane.connect_timeout.get() }
        };
        let dials = queues.dials.serve(terms, |()| None, give_turn);
        tokio::select! {
            () = look_ups => {}
            () = resolves => {}
            () = dials => {}
            () = plane.take_reloads(&queues.reloads) => {}
            // The sender is dropped, never used.
            _ = stopped => {}
        }
    }

    async fn take_reloads(&self, reloads: &Receiver<Reload>) {
        while let Ok(Reload { accounts, servers, limits, connect_timeout, done }) = reloads.recv().await {
            // The steps that may fail come first, so that a failure changes nothing.
            let resolver = match Resolver::new(&servers, &limits) {
                Ok(resolver) => resolver,
                Err(error) => {
                    let _ = done.send(Err(ControlError::Resolver(error)));
                    continue;
                }
            };
            self.resolver.replace(Rc::new(resolver));
            self.limits.replace(Rc::new(limits));
            self.connect_timeout.set(connect_timeout);
            // Later reports of the old backend do not matter.
            self.accounts.borrow().retire();
            let new = Rc::new(Accounts::new(&accounts, self.ready.clone()));
            self.accounts.replace(new);
            let _ = done.send(Ok(()));
        }
    }

    async fn look_up(self: Rc<Self>, Due { ask, left }: Due<Attempt, Answer>) {
        let accounts = Rc::clone(&self.accounts.borrow());
        let answer = tokio::time::timeout(left, accounts.look_up(ask.who, &ask.question)).await;
        ask.reply.send(Ok(answer.unwrap_or(Answer::Unavailable(WhyUnavailable::Late))));
    }

    async fn resolve(self: Rc<Self>, Due { ask, left }: Due<Wanted, Result<Vec<SocketAddr>, ResolveError>>) {
        let resolver = Rc::clone(&self.resolver.borrow());
        let found = tokio::time::timeout(left, async {
            match ask.question {
                Wanted::Host(host) => {
                    let found = resolver.resolve(&host).await?;
                    Ok(found.into_iter().map(|address| SocketAddr::new(address, 0)).collect())
                }
                Wanted::Relay(domain) => resolver.locate(&domain).await,
            }
        });
        ask.reply.send(Ok(found.await.unwrap_or(Err(ResolveError::TimedOut))));
    }
}

/// Lets a core connect, and waits until it has.
async fn give_turn(Due { ask, .. }: Due<(), Turn>) {
    let (turn, over) = oneshot::channel();
    ask.reply.send(Ok(Turn(turn)));
    // The sender is dropped, never used.
    let _ = over.await;
}

/// A request whose turn it is, and the time that is left for it.
struct Due<Q, A> {
    ask: Ask<Q, A>,
    left: Duration,
}

impl<Q: 'static, A: 'static> Queue<Q, A> {
    /// Answers each request in a task of its own when its turn comes, unless `at_once` can answer it. A task that
    /// panics drops its reply, which the asker reads as unavailable; the others go on.
    async fn serve<F: Future<Output = ()> + 'static>(
        mut self,
        terms: impl Fn() -> Terms,
        at_once: impl Fn(&Q) -> Option<A>,
        answer: impl Fn(Due<Q, A>) -> F,
    ) {
        let mut running = JoinSet::new();
        let mut askers = HashMap::new();
        loop {
            let Terms { bounds, timeout } = terms();
            while let Some(Waiting { who, request: ask, .. }) = self.turns.next(bounds) {
                let left = timeout.saturating_sub(ask.asked.elapsed());
                if left.is_zero() || !ask.reply.is_wanted() {
                    ask.reply.send(Err(NoTurn::Late));
                    self.turns.end(who);
                    continue;
                }
                askers.insert(running.spawn_local(answer(Due { ask, left })).id(), who);
            }
            self.waiting.store(self.turns.len(), Ordering::Relaxed);
            let next_late = self.turns.oldest().map(|asked| asked + timeout);
            tokio::select! {
                Some(ended) = running.join_next_with_id() => {
                    let id = ended.as_ref().map_or_else(tokio::task::JoinError::id, |(id, ())| *id);
                    if let Some(who) = askers.remove(&id) {
                        self.turns.end(who);
                    }
                    if let Err(error) = ended {
                        let reason = tracing::field::display(&error);
                        gated!(error, Site::LookUpPanicked, Source::ANY, { reason }, "A look-up panicked");
                    }
                }
                arrived = self.arrivals.0.recv() => match arrived {
                    Ok(ask) => self.arrived(*ask, &at_once),
                    Err(_) => return,
                },
                () = until(next_late) => self.give_up_late(bounds, timeout),
            }
        }
    }

    fn arrived(&mut self, ask: Ask<Q, A>, at_once: impl Fn(&Q) -> Option<A>) {
        if let Some(answer) = at_once(&ask.question) {
            return ask.reply.send(Ok(answer));
        }
        let (who, asked) = (ask.who, ask.asked);
        if let Some(lost) = self.turns.push(Waiting { who, asked, request: ask }) {
            lost.reply.send(Err(NoTurn::Full));
        }
    }

    /// A request whose time is over gets its answer, and no turn.
    fn give_up_late(&mut self, bounds: Bounds, timeout: Duration) {
        let Some(asked_before) = Instant::now().checked_sub(timeout) else {
            return;
        };
        while let Some((ask, had_its_share)) = self.turns.late(asked_before, bounds) {
            ask.reply.send(Err(if had_its_share { NoTurn::Share } else { NoTurn::Late }));
        }
    }
}

/// Waits until this time; without one, for ever.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
