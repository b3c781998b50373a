//! `msrp`: sends and receives files over MSRP, directly or through relays, looks at relays, and puts load on them.
//!
//! Has the flags, the executor and the exit status; the protocol is [`msrp_client`]'s. Results go to stdout, everything
//! else to stderr. Invariant: status 0 means that every byte has arrived, as far as the options let the tool know.
#![deny(clippy::print_stdout, clippy::print_stderr, reason = "what is said goes through `say`")]

mod bench;
mod domain;
mod observed;
mod options;
mod outcome;
mod probe;
mod progress;
mod receive;
mod send;
mod units;
mod watchdog;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use untrusted::say;

const AFTER_HELP: &str = "\
Exit status:
  0    every byte has arrived; send: and was confirmed, if that was asked for
  1    the transfer failed, or a file was rejected
  2    wrong usage
  3    no connection: name resolution, TCP, TLS, or the certificate
  4    a relay refused the user, or did not answer AUTH
  130  interrupted

Passwords come from --password-file, else from the environment variable MSRP_PASSWORD, else from a prompt.";

/// Send and receive files over MSRP (RFC 4975), directly or through relays (RFC 4976).
#[derive(Debug, Parser)]
#[command(name = "msrp", version, after_help = AFTER_HELP, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Receive files, through relays or listening.
    Receive(Box<receive::Arguments>),
    /// Send a file.
    Send(Box<send::Arguments>),
    /// Look at a relay, or at all of a domain: SRV, addresses, TLS, certificate, AUTH and what it grants.
    Probe(Box<probe::Arguments>),
    /// Put load on a relay and tell what it costs.
    Bench(Box<bench::Arguments>),
    /// Writes man pages and shell completions, as they lie under /usr/share, for those who make packages.
    #[command(hide = true)]
    Documents {
        /// Where to write them.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

/// Runs the tool on the arguments of this process. Returns its exit status; `--help` names them all.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Receive(arguments) => receive::run(*arguments),
        Command::Send(arguments) => send::run(*arguments),
        Command::Probe(arguments) => probe::run(*arguments),
        Command::Bench(arguments) => bench::run(*arguments),
        Command::Documents { directory } => {
            match manual::write(&Cli::command(), "msrp", "1", &[], &directory) {
                Ok(_) => ExitCode::SUCCESS,
                Err(error) => {
                    say::err(&format!("msrp: {}: {error}", directory.display()));
                    ExitCode::FAILURE
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
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
        check(&super::Cli::command(), "");
    }
}
