//! A relay from its start to its end.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};

use anyhow::Context;
use msrprelay::config::Config;
use msrprelay::ops::admin::Admin;
use msrprelay::ops::service::{self, Watchdog};
use msrprelay::runtime::preflight;
use msrprelay::runtime::server::Server;
use msrprelay::telemetry::{self, Telemetry};

use crate::figures::{announce, facts, metrics_place, show_metrics, tell_counts};
use crate::operator::{Predecessor, desk};
use crate::report::{Reported, complain, joined, load, report};
use crate::running::{End, Running};
use crate::upgrade::{self, Step, Upgrade};
use crate::wish::{self, Flags, Wish, end_unless, listen_to_signals};

/// How a relay is started.
pub(crate) struct Start<'a> {
    pub(crate) config: &'a Path,
    /// Where to write the addresses that are listened on.
    pub(crate) ready_file: Option<&'a Path>,
    /// The predecessor hands over to this relay.
    pub(crate) takes_over: bool,
}

/// Runs until told to stop.
pub(crate) fn run(start: &Start<'_>) -> Result<(), Reported> {
    let config = load(start.config).map_err(|_| Reported::Config)?;
    let telemetry = prepare(&config)?;
    // From here on a signal stops the relay in order instead of ending the process at once.
    let ((wish, wishes), flags) = (wish::channel(), Flags::default());
    listen_to_signals(wish.clone(), flags.clone())
        .map_err(|error| report(format!("msrprelay: cannot wait for signals: {error}")))?;
    let end = serve(start, config, &telemetry, (wish, &wishes), &flags)?;
    if end == End::Succeeded && has_successor_died(&wishes) {
        // The manager follows a process that is not its child, and would otherwise take the service for ended.
        service::followed_again();
        return Err(report("msrprelay: the successor has died, and this process had ended its cores"));
    }
    Ok(())
}

/// Raises the limits of the process, and starts the log.
fn prepare(config: &Config) -> Result<Telemetry, Reported> {
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
    Ok(telemetry)
}

/// Starts the relay, grants wishes until one ends it, and stops it.
fn serve(
    start: &Start<'_>,
    config: Config,
    telemetry: &Telemetry,
    (wish, wishes): (SyncSender<Wish>, &Receiver<Wish>),
    flags: &Flags,
) -> Result<End, Reported> {
    let (drain_timeout, admin_socket) = (config.drain_timeout, config.admin.clone());
    let (metrics_address, facts) = (config.metrics.map(|metrics| metrics.address), facts(&config));
    // The predecessor still has it.
    let early = if start.takes_over { None } else { metrics_address };
    let metrics = early.map(metrics_place).transpose()?;
    let upgrade =
        Upgrade::new().map_err(|error| report(format!("msrprelay: where the program is: {error}")))?;
    let handoff = start.takes_over.then(upgrade::received).transpose();
    let handoff = handoff.map_err(|error| report(format!("msrprelay: nothing to take over: {error:#}")))?;
    let server =
        Server::start_after(config, handoff).map_err(|error| report(format!("msrprelay: {error}")))?;
    for (address, tls) in server.addresses() {
        tracing::info!(%address, tls, "Listening");
    }
    // By then the predecessor has closed everything that only one process can have open.
    upgrade::take_over(&server);
    let metrics = match metrics {
        None => metrics_address.map(metrics_place).transpose()?,
        early => early,
    };
    let metrics = show_metrics(metrics, facts, &server, telemetry)?;
    let draining = Arc::new(AtomicBool::new(false));
    let desk = Arc::new(desk(&server, telemetry.control(), &draining, &wish));
    let admin = admin_socket.as_deref().map(|socket| Admin::start(socket, &desk)).transpose();
    let admin = admin.map_err(|error| report(format!("msrprelay: {error}")))?;
    if let Some(file) = start.ready_file {
        announce(&server, metrics.as_ref(), file)
            .map_err(|error| report(format!("msrprelay: {}: {error}", file.display())))?;
    }
    let cores = server.counters().len();
    let addresses = joined(server.addresses().iter().map(|(address, _)| address.to_string()));
    let status = format!("Listening on {addresses}; cores: {cores}");
    service::ready(&status);
    let predecessor = Predecessor::watch(&server, Arc::clone(&desk), status.clone());
    let end = Running {
        server: &server,
        telemetry,
        path: start.config,
        status,
        drain_timeout,
        draining,
        flags: flags.clone(),
        upgrade,
        wish,
        watchdog: Watchdog::start(server.heartbeats()),
        desk,
        admin_socket,
        admin,
        metrics,
    }
    .until_told(wishes);
    drop(predecessor);
    stop(server, end, flags);
    Ok(end)
}

fn stop(server: Server, end: End, flags: &Flags) {
    // From here on a second signal ends the process at once.
    flags.ending.store(true, Ordering::SeqCst);
    if end == End::Told {
        service::stopping();
    }
    let stopped = Arc::new(AtomicBool::new(false));
    end_unless(Arc::clone(&stopped), "the cores do not stop");
    let counted = server.stop();
    stopped.store(true, Ordering::SeqCst);
    tell_counts(counted);
}

fn has_successor_died(wishes: &Receiver<Wish>) -> bool {
    wishes.try_iter().any(|wish| matches!(wish, Wish::Upgraded(Step::AcceptAgain)))
}
