//! The server's command line: flags in, library called, exit code out.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory as _, Parser, Subcommand};
use msrprelay::client::{epoch_seconds, validity};
use msrprelay::config::{Backend, CaSource, Config, Listen};
use msrprelay::ops::documents::{self, Chapter};
use msrprelay::ops::metrics::{self, Certificate, Endpoint, Facts};
use msrprelay::ops::service::{self, Watchdog};
use msrprelay::runtime::boot::Server;
use msrprelay::runtime::preflight;
use msrprelay::telemetry::{self, Snapshot, Telemetry};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

mod import_config;
mod user;

/// Where the config is if nobody says otherwise.
const CONFIG_PATH: &str = "/etc/msrprelay/config.yaml";

const EXAMPLES: &str = "\
Examples:
  msrprelay                                  run with /etc/msrprelay/config.yaml
  msrprelay --config ./relay.yaml            run with another config
  msrprelay check-config ./relay.yaml        report everything that is wrong with it
  msrprelay user add alice@example.com       add a user to the file of auth.sqlite.path
  msrprelay import-config config.ini         see the Python relay's config as one of this relay

config.yaml.sample explains every key; scripts/gen-cert.sh makes a certificate to start with.
Exit status: 0 if all is well, 1 if not, 2 for a wrong command line.";

/// What the man page has beside the options.
const CHAPTERS: [Chapter<'_>; 3] = [
    (
        "FILES",
        &[
            "/etc/msrprelay/config.yaml: the config; config.yaml.sample in the documentation explains every key.",
            "/var/lib/msrprelay/accounts.db: the accounts of auth.backend: sqlite.",
        ],
    ),
    (
        "SIGNALS",
        &[
            "SIGTERM, SIGINT: no more connections are accepted, what was answered is delivered, the others end.",
            "SIGHUP: accounts are taken from the config as it is now. A config that is wrong changes nothing.",
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            "NOTIFY_SOCKET, WATCHDOG_USEC: set by systemd, which is told when the relay is ready, reloads and stops, and \
             whose watchdog is fed while every core works.",
        ],
    ),
];

/// An MSRP relay (RFC 4976) for file transfer and chat between SIP clients behind NAT.
#[derive(Parser)]
#[command(name = "msrprelay", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// The config to run with.
    #[arg(short, long, value_name = "FILE", default_value = CONFIG_PATH)]
    config: PathBuf,
    /// Once ready, write the addresses listened on to FILE, one per line, that of the metrics last.
    ///
    /// For scripts that let the kernel choose the port (`address: "127.0.0.1:0"`).
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Checks a config, and the files it names, without starting anything.
    ///
    /// Prints OK and a summary, or every problem on a line of its own.
    CheckConfig {
        /// The config to check.
        #[arg(value_name = "FILE", default_value = CONFIG_PATH)]
        file: PathBuf,
    },
    /// Manages the users of `auth.backend: sqlite`, while the relay runs or not.
    User(user::Arguments),
    /// Turns the config.ini of the Python relay into a config for this one.
    ///
    /// Says on standard error, and in comments, what could not be carried over and why.
    ImportConfig(import_config::Arguments),
    /// Writes man pages and shell completions, as they lie under /usr/share, for those who make packages.
    #[command(hide = true)]
    Documents {
        /// Where to write them.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.command {
        Some(Command::CheckConfig { file }) => check_config(file),
        Some(Command::User(arguments)) => user::run(arguments),
        Some(Command::ImportConfig(arguments)) => import_config::run(arguments),
        Some(Command::Documents { directory }) => {
            documents::write(&Arguments::command(), "msrprelay", "8", &CHAPTERS, directory)
                .map(|_| ())
                .map_err(|error| report(format!("{}: {error}", directory.display())))
        }
        None => run_relay(&arguments.config, arguments.ready_file.as_deref()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Reported) => ExitCode::FAILURE,
    }
}

/// What went wrong is on standard error already, one line for each problem.
struct Reported;

fn report(problem: impl Display) -> Reported {
    eprintln!("{problem}");
    Reported
}

fn load(path: &Path) -> Result<Config, Reported> {
    Config::load(path).map_err(report)
}

/// Runs until told to stop.
fn run_relay(path: &Path, ready_file: Option<&Path>) -> Result<(), Reported> {
    let config = load(path)?;
    let descriptors = preflight::check(config.cores.len()).map_err(|errors| {
        errors.iter().for_each(|error| eprintln!("msrprelay: {error}"));
        Reported
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
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| report(format!("msrprelay: cannot wait for signals: {error}")))?;
    let (metrics, facts) = (metrics_place(&config)?, facts(&config));
    let server = Server::start(config).map_err(|error| report(format!("msrprelay: {error}")))?;
    for (address, tls) in server.addresses() {
        tracing::info!(%address, tls, "Listening");
    }
    let metrics = show_metrics(metrics, facts, &server, &telemetry)?;
    if let Some(file) = ready_file {
        announce(&server, metrics.as_ref(), file)
            .map_err(|error| report(format!("msrprelay: {}: {error}", file.display())))?;
    }
    let cores = server.counters().len();
    let addresses = joined(server.addresses().iter().map(|(address, _)| address.to_string()));
    service::ready(&format!("Listening on {addresses}; cores: {cores}"));
    let watchdog = Watchdog::start(server.heartbeats());
    for signal in signals.forever() {
        if signal == SIGHUP {
            service::reloading();
            reload(&server, path);
            service::ready(&format!("Listening on {addresses}; cores: {cores}"));
        } else {
            tracing::info!(signal, "Stopping");
            break;
        }
    }
    drop(watchdog);
    service::stopping();
    metrics.iter().for_each(Endpoint::draining);
    let counters = server.stop();
    drop(metrics);
    for (core, counters) in counters.iter().enumerate() {
        tracing::info!(
            core,
            sessions = counters.sessions_opened,
            bytes = counters.body_bytes_out,
            links_local = counters.links_local,
            links_split = counters.links_split,
            "Core stopped"
        );
    }
    let all: Snapshot = counters.into_iter().sum();
    for (limit, times) in all.limits_reached().filter(|(_, times)| *times > 0) {
        tracing::info!(limit = limit.key(), times, "Limit was reached while the relay ran");
    }
    Ok(())
}

/// Reads the config again. One that is wrong changes nothing.
fn reload(server: &Server, path: &Path) {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(errors) => {
            for problem in errors.to_string().lines() {
                tracing::error!(problem, "The config is wrong and is not taken");
            }
            return;
        }
    };
    for warning in &config.warnings {
        tracing::warn!(warning, "The config deserves attention");
    }
    match server.reload(config) {
        Ok(()) => {
            tracing::info!("Accounts are taken from the config as it is now; the rest of it takes a restart")
        }
        Err(error) => tracing::error!(reason = %error, "The config was read but is not taken"),
    }
}

/// Where the metrics will be: a relay whose metrics cannot be had does not start.
fn metrics_place(config: &Config) -> Result<Option<metrics::Place>, Reported> {
    let Some(address) = config.metrics.map(|metrics| metrics.address) else {
        return Ok(None);
    };
    let place = metrics::Place::listen(address);
    place.map(Some).map_err(|error| report(format!("msrprelay: metrics.address: {address}: {error}")))
}

fn show_metrics(
    place: Option<metrics::Place>,
    facts: Facts,
    server: &Server,
    telemetry: &Telemetry,
) -> Result<Option<Endpoint>, Reported> {
    let serve =
        |place: metrics::Place| place.serve(facts, server.observer(), telemetry.lines_dropped_later());
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
    let unfinished = file.with_extension("unfinished");
    std::fs::write(&unfinished, addresses.collect::<String>())?;
    std::fs::rename(&unfinished, file)
}

fn check_config(path: &Path) -> Result<(), Reported> {
    let config = load(path)?;
    println!("OK: {}", path.display());
    for (what, value) in summary(&config) {
        println!("  {what:<12} {value}");
    }
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

/// What an operator would want to see before a restart.
fn summary(config: &Config) -> Vec<(&'static str, String)> {
    let accounts = match &config.auth.backend {
        Backend::Memory(users) => format!("{} in memory", users.len()),
        Backend::Sqlite(sqlite) => format!("in {}", sqlite.path.display()),
        Backend::Mysql(mysql) => {
            format!("in MySQL, {}, table {}", mysql.server, mysql.columns.table.join("."))
        }
    };
    let listen = |listen: &Listen| match listen.tls {
        true => format!("{} (TLS)", listen.address),
        false => format!("{} (plain)", listen.address),
    };
    let certificates = config.tls.certificates.iter().map(|pair| {
        let path = pair.certificate_path.display();
        format!("{path} for {}", pair.names.join(", "))
    });
    let realm = config.realm.as_deref();
    let domains = config.domains.as_ref().map(|domains| domains.join(", "));
    let ca = match &config.outbound.ca {
        CaSource::System => "the system's".to_owned(),
        CaSource::File { path, .. } => path.display().to_string(),
    };
    vec![
        ("listen", joined(config.listen.iter().map(listen))),
        ("hostname", config.hostname.clone()),
        ("realm", realm.unwrap_or("the domain a client names").to_owned()),
        ("domains", domains.unwrap_or_else(|| "any".to_owned())),
        ("certificates", joined(certificates)),
        ("cores", joined(config.cores.iter().map(usize::to_string))),
        ("accounts", accounts),
        ("trusted CAs", ca),
        ("metrics", config.metrics.map_or_else(|| "none".to_owned(), |metrics| metrics.address.to_string())),
    ]
}

/// The items of a summary line.
fn joined(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}
