//! A relay from its start to its end: what signals make of it.
//!
//! Invariant: everything that changes a running relay is done on the main thread, one thing after the other.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use msrprelay::client::{epoch_seconds, validity};
use msrprelay::config::Config;
use msrprelay::files;
use msrprelay::ops::admin::{Admin, Desk, Reloaded};
use msrprelay::ops::metrics::{Certificate, Endpoint, Facts, Place};
use msrprelay::ops::service::{self, DRAINING_SAID_EVERY, Watchdog};
use msrprelay::runtime::preflight;
use msrprelay::runtime::server::Server;
use msrprelay::telemetry::{self, LogControl, Snapshot, Telemetry};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::upgrade::{self, Step, Upgrade};
use crate::{Reported, complain, joined, load, report};

/// Wishes that may wait: whoever has one more waits as well, or, with one for a reload or an upgrade, goes away.
const WISHES_MAX: usize = 16;
/// How long sessions may last once another process has taken over, where `drain_timeout` is 0.
const SUCCEEDED_DRAIN_TIMEOUT: Duration = Duration::from_secs(600);
/// How long an end in order may take, with what it waits for: twice 2 s for the cores to become quiet, 5 s for their
/// connections, 2 s for the control plane, and room for a slow machine. Also how long a wish for it may go unheard.
const END_LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked whether the drain is over.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// What the main thread is to do.
#[derive(Debug)]
enum Wish {
    /// Read the config again, and say what came of it to the one who asked, if it was no signal.
    Reload(Option<mpsc::Sender<Reloaded>>),
    /// Stop, after a drain of so long, or of `drain_timeout`; if one is under way, at once.
    Stop(Option<Duration>),
    /// Start another process, which is to take over.
    Upgrade,
    /// What another process brings.
    Upgraded(Step),
}

/// How the relay came to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Told,
    /// The service goes on in another process.
    Succeeded,
}

/// How a drain ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Drained {
    /// No session is left, or it is too late.
    Over(End),
    /// The process that took over has died: this one serves again.
    TakenBack,
}

/// Runs until told to stop.
pub(crate) fn run(path: &Path, ready_file: Option<&Path>, takes_over: bool) -> Result<(), Reported> {
    let config = load(path).map_err(|_| Reported::Config)?;
    let descriptors = preflight::check(config.cores.len()).map_err(|errors| {
        errors.iter().for_each(|error| complain(&format!("msrprelay: {error}")));
        Reported::Failure
    })?;
    let telemetry = Telemetry::start(config.log)
        .context("msrprelay: logging cannot start")
        .map_err(|error| report(format!("{error:#}")))?;
    telemetry::log_panics();
    for warning in &config.warnings {
        tracing::warn!(warning, "The config deserves attention");
    }
    let wanted = config.limits.connections_max as u64;
    if descriptors < wanted {
        tracing::warn!(
            descriptors,
            connections_max = wanted,
            "The limit on open files is below limits.connections_max; raise LimitNOFILE"
        );
    }
    // From here on a signal stops the relay in order instead of ending the process at once.
    let (wish, wishes) = mpsc::sync_channel(WISHES_MAX);
    let (ending, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let reload_waits = Arc::new(AtomicBool::new(false));
    listen_to_signals(wish.clone(), Arc::clone(&ending), Arc::clone(&heard), Arc::clone(&reload_waits))
        .map_err(|error| report(format!("msrprelay: cannot wait for signals: {error}")))?;
    let (drain_timeout, admin_socket) = (config.drain_timeout, config.admin.clone());
    let (metrics_address, facts) = (config.metrics.map(|metrics| metrics.address), facts(&config));
    // What is before this process still has it.
    let early = if takes_over { None } else { metrics_address };
    let metrics = early.map(metrics_place).transpose()?;
    let upgrade =
        Upgrade::new().map_err(|error| report(format!("msrprelay: where the program is: {error}")))?;
    let handoff = takes_over.then(upgrade::received).transpose();
    let handoff = handoff.map_err(|error| report(format!("msrprelay: nothing to take over: {error:#}")))?;
    let server =
        Server::start_after(config, handoff).map_err(|error| report(format!("msrprelay: {error}")))?;
    for (address, tls) in server.addresses() {
        tracing::info!(%address, tls, "Listening");
    }
    // Whoever was before this process has closed its doors by then.
    upgrade::take_over(&server);
    let metrics = match metrics {
        None => metrics_address.map(metrics_place).transpose()?,
        early => early,
    };
    let metrics = show_metrics(metrics, facts, &server, &telemetry)?;
    let draining = Arc::new(AtomicBool::new(false));
    let desk = Arc::new(desk(&server, telemetry.control(), &draining, &wish));
    let admin = admin_socket.as_deref().map(|socket| Admin::start(socket, &desk)).transpose();
    let admin = admin.map_err(|error| report(format!("msrprelay: {error}")))?;
    if let Some(file) = ready_file {
        announce(&server, metrics.as_ref(), file)
            .map_err(|error| report(format!("msrprelay: {}: {error}", file.display())))?;
    }
    let cores = server.counters().len();
    let addresses = joined(server.addresses().iter().map(|(address, _)| address.to_string()));
    let status = format!("Listening on {addresses}; cores: {cores}");
    service::ready(&status);
    let predecessor = Predecessor::watch(&server, Arc::clone(&desk), status.clone());
    let log = telemetry.control();
    let end = Running {
        server: &server,
        telemetry: &telemetry,
        path,
        log,
        status,
        drain_timeout,
        draining,
        heard,
        reload_waits,
        upgrade,
        wish,
        watchdog: Watchdog::start(server.heartbeats()),
        desk,
        admin_socket,
        admin,
        metrics,
    }
    .until_told(&wishes);
    drop(predecessor);
    // Whoever cannot wait for an end in order need not.
    ending.store(true, Ordering::SeqCst);
    if end == End::Told {
        service::stopping();
    }
    let stopped = Arc::new(AtomicBool::new(false));
    end_unless(Arc::clone(&stopped), "the cores do not stop");
    let counted = server.stop();
    stopped.store(true, Ordering::SeqCst);
    told_by(counted);
    if end == End::Succeeded && has_successor_died(&wishes) {
        // It follows a process that is not its child, and would take the service for ended in order.
        service::followed_again();
        return Err(report(
            "msrprelay: the process that took over has died, and this one had ended its cores",
        ));
    }
    Ok(())
}

fn has_successor_died(wishes: &Receiver<Wish>) -> bool {
    wishes.try_iter().any(|wish| matches!(wish, Wish::Upgraded(Step::TakeBack)))
}

/// Ends the process after [`END_LIMIT`], unless something has happened by then: a core, or the thread that waits for one,
/// may be stuck.
fn end_unless(happened: Arc<AtomicBool>, why: &'static str) {
    let body = move || {
        thread::sleep(END_LIMIT);
        if !happened.load(Ordering::SeqCst) {
            let seconds = END_LIMIT.as_secs();
            complain(&format!("msrprelay: ended without an end in order after {seconds} s: {why}"));
            process::exit(1);
        }
    };
    if let Err(error) = thread::Builder::new().name("end".to_owned()).spawn(body) {
        tracing::warn!(reason = %error, "The time that the end may take cannot be watched");
    }
}

/// SIGTERM, SIGINT, SIGHUP and SIGUSR2 become wishes, on a thread of their own. While the relay is ending already, the first two
/// end the process. `heard` becomes true once the main thread has taken the wish for an end, `reload_waits` false once it has
/// taken that for a reload: one that waits is enough, and leaves room for the others.
fn listen_to_signals(
    wish: SyncSender<Wish>,
    ending: Arc<AtomicBool>,
    heard: Arc<AtomicBool>,
    reload_waits: Arc<AtomicBool>,
) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR2])?;
    let body = move || {
        let mut is_watched = false;
        for signal in signals.forever() {
            match signal {
                SIGHUP if reload_waits.swap(true, Ordering::SeqCst) => {}
                // Full: the main thread is stuck. This one must not wait for it: a signal to end may come.
                SIGHUP => {
                    if wish.try_send(Wish::Reload(None)).is_err() {
                        reload_waits.store(false, Ordering::SeqCst);
                    }
                }
                SIGUSR2 => drop(wish.try_send(Wish::Upgrade)),
                _ if ending.load(Ordering::SeqCst) => {
                    complain("msrprelay: ended at once by a second signal");
                    process::exit(1);
                }
                _ => {
                    if !heard.load(Ordering::SeqCst) && !std::mem::replace(&mut is_watched, true) {
                        end_unless(Arc::clone(&heard), "the relay is stuck in what it was doing");
                    }
                    drop(wish.send(Wish::Stop(None)));
                }
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(body).map(|_| ())
}

/// A relay, and what is needed to change it.
struct Running<'a> {
    server: &'a Server,
    telemetry: &'a Telemetry,
    path: &'a Path,
    log: LogControl,
    /// For the service manager, while all is well.
    status: String,
    drain_timeout: Duration,
    /// For whoever asks.
    draining: Arc<AtomicBool>,
    /// That the relay is to end.
    heard: Arc<AtomicBool>,
    /// That a signal asks for a reload, until it is begun.
    reload_waits: Arc<AtomicBool>,
    upgrade: Upgrade,
    /// For wishes of our own.
    wish: SyncSender<Wish>,
    /// The service manager's; a process that another one has taken over from says nothing to it.
    watchdog: Option<Watchdog>,
    /// What answers operators, at the socket or through the process that took over.
    desk: Arc<Desk>,
    admin_socket: Option<PathBuf>,
    /// What operators ask at.
    admin: Option<Admin>,
    /// Where figures are shown.
    metrics: Option<Endpoint>,
}

impl Running<'_> {
    /// Fulfils wishes; returns when the relay is to end.
    fn until_told(mut self, wishes: &Receiver<Wish>) -> End {
        while let Ok(wish) = wishes.recv() {
            match wish {
                Wish::Reload(asked) => {
                    self.reload_waits.store(false, Ordering::SeqCst);
                    service::reloading();
                    let reloaded = self.reload();
                    service::ready(&self.status);
                    // The one who asked may be gone.
                    asked.into_iter().for_each(|asked| drop(asked.send(reloaded.clone())));
                }
                Wish::Upgrade => {
                    let (wish, desk) = (self.wish.clone(), Arc::clone(&self.desk));
                    let answer = move |question| desk.answer(question);
                    // It waits for its turn: without one of its steps nobody would accept any more.
                    let tell = move |step| drop(wish.send(Wish::Upgraded(step)));
                    self.upgrade.begin(self.server, answer, tell);
                }
                Wish::Upgraded(Step::Close(closed)) => {
                    self.admin = None;
                    self.metrics = None;
                    self.watchdog = None;
                    drop(closed);
                }
                Wish::Upgraded(Step::Drain) => {
                    let timeout = match self.drain_timeout {
                        Duration::ZERO => SUCCEEDED_DRAIN_TIMEOUT,
                        timeout => timeout,
                    };
                    self.heard.store(true, Ordering::SeqCst);
                    match self.drain(timeout, wishes, End::Succeeded) {
                        Drained::Over(end) => return end,
                        Drained::TakenBack => self.take_back(),
                    }
                }
                // Too late: this process serves, or nothing was taken over.
                Wish::Upgraded(Step::TakeBack | Step::Ended) => {}
                Wish::Stop(time) => {
                    self.heard.store(true, Ordering::SeqCst);
                    match time.unwrap_or(self.drain_timeout) {
                        Duration::ZERO => tracing::info!("Stopping"),
                        time => drop(self.drain(time, wishes, End::Told)),
                    }
                    return End::Told;
                }
            }
        }
        End::Told
    }

    /// The process that took over has died, whatever of the service it had opened with it.
    fn take_back(&mut self) {
        self.server.accept_again();
        self.heard.store(false, Ordering::SeqCst);
        self.draining.store(false, Ordering::SeqCst);
        if let Some(socket) = &self.admin_socket {
            match Admin::start(socket, &self.desk) {
                Ok(admin) => self.admin = Some(admin),
                Err(error) => tracing::error!(reason = %error, "The admin socket cannot be opened again"),
            }
        }
        match Config::load(self.path) {
            Ok(config) => {
                let place = config.metrics.map(|metrics| metrics_place(metrics.address)).transpose();
                let shown =
                    place.and_then(|place| show_metrics(place, facts(&config), self.server, self.telemetry));
                // What went wrong is on standard error already.
                self.metrics = shown.unwrap_or(None);
            }
            Err(error) => tracing::error!(reason = %error, "The metrics cannot be served again"),
        }
        service::taken_back(&self.status);
        self.watchdog = Watchdog::start(self.server.heartbeats());
        tracing::info!("Accepting connections again");
    }

    /// Returns when no session is left, it is too late, or somebody cannot wait.
    fn drain(&self, time: Duration, wishes: &Receiver<Wish>, end: End) -> Drained {
        self.draining.store(true, Ordering::SeqCst);
        self.metrics.iter().for_each(Endpoint::draining);
        let sessions = || self.server.counters().iter().map(|counters| counters.sessions_open).sum();
        let seconds = time.as_secs();
        tracing::info!(sessions = sessions(), seconds, "Draining: no connection is accepted any more");
        let drained = self.server.drain(time);
        let began = Instant::now();
        let mut said: Option<Instant> = None;
        let mut end = end;
        loop {
            if end == End::Told && said.is_none_or(|said| said.elapsed() >= DRAINING_SAID_EVERY) {
                service::draining(sessions());
                said = Some(Instant::now());
            }
            match drained.recv_timeout(DRAIN_LOOK) {
                Ok(0) => {
                    tracing::info!("Drained; stopping");
                    return Drained::Over(end);
                }
                Ok(sessions) => {
                    tracing::warn!(sessions, "The time to drain is over; stopping with sessions left");
                    return Drained::Over(end);
                }
                Err(RecvTimeoutError::Timeout) if began.elapsed().saturating_sub(time) > END_LIMIT => {
                    tracing::error!(
                        "The time to drain is over and the cores do not say so: one is stuck; stopping"
                    );
                    return Drained::Over(end);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Drained::Over(end),
            }
            match wishes.try_recv() {
                Ok(Wish::Reload(asked)) => {
                    self.reload_waits.store(false, Ordering::SeqCst);
                    let why = "the relay is about to stop: the config is not read again";
                    tracing::warn!("The relay is about to stop: the config is not read again");
                    asked.into_iter().for_each(|asked| drop(asked.send(Err(vec![why.to_owned()]))));
                }
                Ok(Wish::Upgraded(Step::TakeBack)) if end == End::Succeeded => return Drained::TakenBack,
                // The service manager does not know: it followed a process that is not its child.
                Ok(Wish::Upgraded(Step::Ended)) if end == End::Succeeded => {
                    service::followed_again();
                    end = End::Told;
                }
                Ok(Wish::Upgrade | Wish::Upgraded(_)) => {
                    tracing::warn!("The relay is about to stop: no other process takes over");
                }
                Ok(Wish::Stop(_)) => {
                    tracing::warn!(sessions = sessions(), "Told to stop again: the drain is cut short");
                    return Drained::Over(end);
                }
                Err(_) => {}
            }
        }
    }

    /// Reads the config again. One that is wrong changes nothing.
    fn reload(&mut self) -> Reloaded {
        let config = match Config::load(self.path) {
            Ok(config) => config,
            Err(errors) => {
                let problems: Vec<_> = errors.to_string().lines().map(str::to_owned).collect();
                for problem in &problems {
                    tracing::error!(problem, "The config is wrong and is not taken");
                }
                return Err(problems);
            }
        };
        for warning in &config.warnings {
            tracing::warn!(warning, "The config deserves attention");
        }
        let (level, drain_timeout) = (config.log.level, config.drain_timeout);
        let facts = facts(&config);
        match self.server.reload(config) {
            Ok(differing) => {
                self.log.set(level);
                self.drain_timeout = drain_timeout;
                if let Some(metrics) = &self.metrics {
                    metrics.update(facts);
                }
                for key in &differing {
                    tracing::warn!(key, "The config says something else here, which takes a restart");
                }
                tracing::info!("The config as it is now is in force");
                Ok(differing)
            }
            Err(error) => {
                tracing::error!(reason = %error, "The config was read but is not taken");
                Err(vec![error.to_string()])
            }
        }
    }
}

/// What answers operators.
fn desk(server: &Server, log: LogControl, draining: &Arc<AtomicBool>, wish: &SyncSender<Wish>) -> Desk {
    let (stop, reload) = (wish.clone(), wish.clone());
    let handoff = server.handoff();
    Desk {
        inspector: server.inspector(),
        log,
        draining: Arc::clone(draining),
        drain: Box::new(move |time| drop(stop.send(Wish::Stop(time)))),
        reload: Box::new(move || {
            let (asked, answered) = mpsc::channel();
            // Full: the sender is dropped, and whoever waits is told that the relay is busy.
            let _ = reload.try_send(Wish::Reload(Some(asked)));
            answered
        }),
        predecessor: Box::new(move || handoff.ask_predecessor()),
        started: Instant::now(),
    }
}

/// How long it is between two looks at a process that drains.
const PREDECESSOR_LOOK: Duration = Duration::from_secs(5);

/// Tells the service manager, and the log, how far the process before this one has drained, until that has ended or this
/// is dropped.
struct Predecessor(Option<mpsc::Sender<()>>);

impl Predecessor {
    fn watch(server: &Server, desk: Arc<Desk>, status: String) -> Option<Self> {
        server.generations().predecessor()?;
        let handoff = server.handoff();
        let (stop, stopped) = mpsc::channel();
        let body = move || {
            // One of an earlier version cannot be asked.
            let Some(mut left) = desk.left_to_predecessor() else { return };
            loop {
                handoff.note_predecessor(left);
                service::status(&format!("{status}; sessions of the process before: {left}"));
                tracing::info!(sessions = left, "The process before this one drains");
                let before = left;
                while left == before {
                    if stopped.recv_timeout(PREDECESSOR_LOOK) != Err(RecvTimeoutError::Timeout) {
                        return;
                    }
                    let Some(now) = desk.left_to_predecessor() else {
                        return service::status(&status);
                    };
                    left = now;
                }
            }
        };
        let thread = thread::Builder::new().name("predecessor-watch".to_owned()).spawn(body);
        thread.is_ok().then(|| Self(Some(stop)))
    }
}

impl Drop for Predecessor {
    fn drop(&mut self) {
        drop(self.0.take());
    }
}

/// What there was to count, for the log.
fn told_by(counters: Vec<Snapshot>) {
    for (core, counters) in counters.iter().enumerate() {
        tracing::info!(
            core,
            sessions = counters.sessions_opened,
            bytes = counters.body_bytes_out,
            links_local = counters.links_local,
            links_split = counters.links_split,
            connections_handed_over = counters.connections_handed_over,
            connections_passed_on = counters.connections_passed_on,
            "Core stopped"
        );
    }
    let all: Snapshot = counters.into_iter().sum();
    for (limit, times) in all.limits_reached().filter(|(limit, times)| !limit.is_ordinary() && *times > 0) {
        tracing::info!(limit = limit.key(), times, "Limit was reached while the relay ran");
    }
}

/// Where the metrics will be: a relay whose metrics cannot be had does not start.
fn metrics_place(address: SocketAddr) -> Result<Place, Reported> {
    Place::listen(address).map_err(|error| report(format!("msrprelay: metrics.address: {address}: {error}")))
}

fn show_metrics(
    place: Option<Place>,
    facts: Facts,
    server: &Server,
    telemetry: &Telemetry,
) -> Result<Option<Endpoint>, Reported> {
    let serve = |place: Place| place.serve(facts, server.observer(), telemetry.lines_dropped_later());
    let endpoint = place.map(serve).transpose();
    let endpoint =
        endpoint.map_err(|error| report(format!("msrprelay: metrics cannot be served: {error}")))?;
    if let Some(endpoint) = &endpoint {
        tracing::info!(address = %endpoint.address(), "Metrics are served");
    }
    Ok(endpoint)
}

/// What the metrics tell of a config.
fn facts(config: &Config) -> Facts {
    let expiry = |certificate| validity(certificate).and_then(|(_, until)| epoch_seconds(&until));
    let certificates = config.tls.certificates.iter().filter_map(|pair| {
        let expires = pair.chain.iter().filter_map(expiry).min()?;
        Some(Certificate { path: pair.certificate_path.display().to_string(), expires })
    });
    Facts {
        certificates: certificates.collect(),
        connections_max: config.limits.connections_max,
        queue_bytes_max: config.limits.queue_bytes_total,
    }
}

/// Writes the addresses to a file that appears complete or not at all.
fn announce(server: &Server, metrics: Option<&Endpoint>, file: &Path) -> std::io::Result<()> {
    let addresses = server.addresses().iter().map(|(address, _)| *address);
    let addresses = addresses.chain(metrics.map(Endpoint::address)).map(|address| format!("{address}\n"));
    files::replace(file, files::PUBLIC, addresses.collect::<String>().as_bytes())
}
