//! A running relay, and what wishes change in it.
//!
//! Invariant: the main thread makes all changes of a running relay, one after the other.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use msrprelay::config::Config;
use msrprelay::ops::admin::{Admin, Desk, Reloaded};
use msrprelay::ops::metrics::Endpoint;
use msrprelay::ops::service::{self, DRAINING_SAID_EVERY, Watchdog};
use msrprelay::runtime::server::Server;
use msrprelay::telemetry::Telemetry;

use crate::figures::{facts, metrics_place, show_metrics};
use crate::upgrade::{Step, Upgrade};
use crate::wish::{END_LIMIT, Flags, Wish};

/// How long sessions may last after an upgrade, if `drain_timeout` is 0.
const SUCCEEDED_DRAIN_TIMEOUT: Duration = Duration::from_secs(600);
/// How often to check whether the drain is over.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// How the relay came to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Told,
    /// The service goes on in another process.
    Succeeded,
}

/// How a drain ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Drained {
    /// No session is left, or the time is over.
    Over(End),
    /// The successor has died: this process serves again.
    Undone,
}

/// A relay, and what is needed to change it.
pub(crate) struct Running<'a> {
    pub(crate) server: &'a Server,
    pub(crate) telemetry: &'a Telemetry,
    /// Where the config is.
    pub(crate) path: &'a Path,
    /// For the service manager, while all is well.
    pub(crate) status: String,
    pub(crate) drain_timeout: Duration,
    /// Whether it drains, for operators who ask.
    pub(crate) draining: Arc<AtomicBool>,
    pub(crate) flags: Flags,
    pub(crate) upgrade: Upgrade,
    /// Sends this process's own wishes.
    pub(crate) wish: SyncSender<Wish>,
    /// The service manager's; a process that has a successor sends it nothing.
    pub(crate) watchdog: Option<Watchdog>,
    /// Answers operators, at the socket or through the successor.
    pub(crate) desk: Arc<Desk>,
    pub(crate) admin_socket: Option<PathBuf>,
    /// The admin socket.
    pub(crate) admin: Option<Admin>,
    /// Where figures are shown.
    pub(crate) metrics: Option<Endpoint>,
}

impl Running<'_> {
    /// Grants wishes; returns when the relay is to end.
    pub(crate) fn until_told(mut self, wishes: &Receiver<Wish>) -> End {
        while let Ok(wish) = wishes.recv() {
            match wish {
                Wish::Reload(asked) => {
                    self.flags.reload_waits.store(false, Ordering::SeqCst);
                    service::reloading();
                    let reloaded = self.reload();
                    service::ready(&self.status);
                    // The asking thread may be gone.
                    asked.into_iter().for_each(|asked| drop(asked.send(reloaded.clone())));
                }
                Wish::Upgrade => {
                    let (wish, desk) = (self.wish.clone(), Arc::clone(&self.desk));
                    let answer = move |question| desk.answer(question);
                    // It waits for room: if one of its steps were lost, no process would accept any more.
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
                    self.flags.heard.store(true, Ordering::SeqCst);
                    match self.drain(timeout, wishes, End::Succeeded) {
                        Drained::Over(end) => return end,
                        Drained::Undone => self.accept_again(),
                    }
                }
                // Too late: this process serves, or there was no upgrade.
                Wish::Upgraded(Step::AcceptAgain | Step::Ended) => {}
                Wish::Stop(time) => {
                    self.flags.heard.store(true, Ordering::SeqCst);
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

    /// The successor has died, and everything that it had opened is closed: this process serves again.
    fn accept_again(&mut self) {
        self.server.accept_again();
        self.flags.heard.store(false, Ordering::SeqCst);
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
                // The error is on standard error already.
                self.metrics = shown.unwrap_or(None);
            }
            Err(error) => tracing::error!(reason = %error, "The metrics cannot be served again"),
        }
        service::taken_back(&self.status);
        self.watchdog = Watchdog::start(self.server.heartbeats());
        tracing::info!("Accepting connections again");
    }

    /// Returns when no session is left, the time is over, or another wish ends the drain.
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
                    self.flags.reload_waits.store(false, Ordering::SeqCst);
                    let why = "the relay is about to stop: the config is not read again";
                    tracing::warn!("The relay is about to stop: the config is not read again");
                    asked.into_iter().for_each(|asked| drop(asked.send(Err(vec![why.to_owned()]))));
                }
                Ok(Wish::Upgraded(Step::AcceptAgain)) if end == End::Succeeded => return Drained::Undone,
                // The service manager does not see it: it followed a process that is not its child.
                Ok(Wish::Upgraded(Step::Ended)) if end == End::Succeeded => {
                    service::followed_again();
                    end = End::Told;
                }
                Ok(Wish::Upgrade | Wish::Upgraded(_)) => {
                    tracing::warn!("The relay is about to stop: upgrade refused");
                }
                Ok(Wish::Stop(_)) => {
                    tracing::warn!(sessions = sessions(), "Told to stop again: the drain is cut short");
                    return Drained::Over(end);
                }
                Err(_) => {}
            }
        }
    }

    /// Reads the config again. A wrong one changes nothing.
    fn reload(&mut self) -> Reloaded {
        let config = match Config::load(self.path) {
            Ok(config) => config,
            Err(errors) => {
                let problems: Vec<_> = errors.to_string().lines().map(str::to_owned).collect();
                for problem in &problems {
                    tracing::error!(problem, "The config is wrong; the old one stays in force");
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
                self.telemetry.control().set(level);
                self.drain_timeout = drain_timeout;
                if let Some(metrics) = &self.metrics {
                    metrics.update(facts);
                }
                for key in &differing {
                    tracing::warn!(key, "A changed key of the config needs a restart");
                }
                tracing::info!("The present config is in force");
                Ok(differing)
            }
            Err(error) => {
                tracing::error!(reason = %error, "The config cannot be put into force; the old one stays in force");
                Err(vec![error.to_string()])
            }
        }
    }
}
