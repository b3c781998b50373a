//! The server's command line: flags in, library called, exit code out.
#![deny(clippy::print_stdout, clippy::print_stderr, reason = "what is said goes through `say`")]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use manual::{self as documents, Chapter};
use report::{CONFIG_PATH, Reported, report};
use run::Start;

mod admin;
mod check_config;
mod credential;
mod figures;
mod import_config;
mod named;
mod operator;
mod report;
mod run;
mod running;
mod upgrade;
#[cfg(feature = "sqlite")]
mod user;
mod wish;

const EXAMPLES: &str = "\
Examples:
  msrprelay                              run with /etc/msrprelay/config.yaml
  msrprelay --config ./relay.yaml        run with another config
  msrprelay check-config ./relay.yaml    report everything that is wrong with it
  msrprelay user add alice@example.com   add a user to auth.sqlite.path
  msrprelay credential alice@example.com make a password that expires (an hour)
  msrprelay sessions                     see who is connected to a running relay
  msrprelay import-config config.ini     see the Python relay's config as ours

msrprelay.yaml(5) explains every key of the config, and config.yaml.sample in the sources does.

/usr/share/msrprelay/gen-cert.sh makes a certificate to start with.

Exit status: 0 if all is well, 1 if not, 2 for a wrong command line, 78 where the config of a relay that is to start is wrong.";

/// What the man page has besides the options.
const CHAPTERS: [Chapter<'_>; 4] = [
    (
        "FILES",
        &[
            "/etc/msrprelay/config.yaml: the config, see msrprelay.yaml(5).",
            "/etc/msrprelay/tls/relay.crt, relay.key: the certificate and its key.",
            "/var/lib/msrprelay/accounts.db: the accounts of auth.backend: sqlite.",
            "/run/msrprelay/admin.sock: the socket that status, sessions, close, drain, trace, reload and log-level speak to.",
        ],
    ),
    (
        "SIGNALS",
        &[
            "SIGTERM, SIGINT: no more connections are accepted. Sessions are left alone for drain_timeout, until none is \
             left; then what was answered is delivered, and the connections are closed. A second signal cuts the first \
             part short, or, where there is none, the other: then the exit status is 1.",
            "SIGHUP: the config and the files that it names are read again. What is wrong changes nothing, and the log says \
             what and why; what takes a restart is named there, too.",
            "SIGUSR2: another process of the program as it lies on disk now takes over the listening sockets; no connection \
             is refused or reset. This one leaves its sessions alone for drain_timeout, or ten minutes where that is 0, then \
             ends; until then, connections for its sessions are passed on to it. A new program that does not start \
             changes nothing, and the log says why.",
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            "NOTIFY_SOCKET, WATCHDOG_USEC: set by systemd, which is told when the relay is ready, reloads and stops, and \
             whose watchdog is fed while every core works.",
        ],
    ),
    (
        "SEE ALSO",
        &[
            "msrprelay.yaml(5), msrp(1), docs/operate/install.md, docs/operate/logging.md, docs/operate/metrics.md",
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
    /// Take over from the relay at the other end of standard input, which starts this one at SIGUSR2.
    #[arg(long, hide = true)]
    take_over: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Checks a config, and the files it names, without starting anything.
    ///
    /// Prints OK and a summary, or every problem on a line of its own.
    /// Run by root, it checks as the user that the relay runs as.
    CheckConfig(check_config::Arguments),
    #[cfg(feature = "sqlite")]
    /// Manages the users of `auth.backend: sqlite`, while the relay runs or not.
    User(user::Arguments),
    /// Makes a user name and a password that expire by themselves, with the first of `auth.shared_secrets`.
    ///
    /// For tests and scripts: a web back end makes them by itself, see docs/operate/accounts.md.
    Credential(credential::Arguments),
    /// Turns the config.ini of the Python relay into a config for this one.
    ///
    /// Says on standard error, and in comments, what could not be carried over and why.
    ImportConfig(import_config::Arguments),
    #[command(flatten)]
    Admin(admin::Command),
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
        Some(Command::CheckConfig(arguments)) => check_config::run(arguments),
        #[cfg(feature = "sqlite")]
        Some(Command::User(arguments)) => user::run(arguments),
        Some(Command::Credential(arguments)) => credential::run(arguments),
        Some(Command::ImportConfig(arguments)) => import_config::run(arguments),
        Some(Command::Admin(command)) => admin::run(command),
        Some(Command::Documents { directory }) => {
            documents::write(&Arguments::command(), "msrprelay", "8", &CHAPTERS, directory)
                .and_then(|_| documents::write_config_page(directory))
                .map(|_| ())
                .map_err(|error| report(format!("{}: {error}", directory.display())))
        }
        None => run::run(&Start {
            config: &arguments.config,
            ready_file: arguments.ready_file.as_deref(),
            takes_over: arguments.take_over,
        }),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Reported::Failure) => ExitCode::FAILURE,
        Err(Reported::Config) => ExitCode::from(CONFIG_STATUS),
    }
}

/// The exit status of a relay that does not start because its config is wrong: EX_CONFIG of sysexits.h. The unit has it
/// in RestartPreventExitStatus, because a restart would not help.
const CONFIG_STATUS: u8 = 78;

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }

    /// Other programs wrap long lines. Examples are for copying, so only the terminal wraps paragraphs.
    #[test]
    fn help_is_not_broken_at_80_columns() {
        fn check(command: &clap::Command, path: &str) {
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            for (at, line) in lines.iter().enumerate() {
                let is_own_line = line.starts_with(' ') || line.is_empty() || line.ends_with(':');
                assert!(
                    !line.starts_with(' ') || line.chars().count() <= 80,
                    "{path}: an example of more than 80 columns: {line}"
                );
                let next = lines.get(at + 1).copied().unwrap_or_default();
                assert!(
                    is_own_line || next.is_empty(),
                    "{path}: a paragraph with line breaks of its own: {line}"
                );
            }
            command.get_subcommands().for_each(|below| check(below, &format!("{path} {}", below.get_name())));
        }
        check(&super::Arguments::command(), "");
    }
}
