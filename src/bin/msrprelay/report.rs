//! How the command line shows problems, first of all those of the config.

use std::fmt::Display;
use std::path::Path;

use msrprelay::config::Config;
use msrprelay::telemetry;
use untrusted::say;

/// Where the config is if the command line names no other.
pub(crate) const CONFIG_PATH: &str = "/etc/msrprelay/config.yaml";

/// The error is on standard error already, one line for each problem.
pub(crate) enum Reported {
    /// Something failed.
    Failure,
    /// The relay did not start: its config is wrong.
    Config,
}

pub(crate) fn report(problem: impl Display) -> Reported {
    complain(&problem.to_string());
    Reported::Failure
}

/// The same for problems that are a line each.
pub(crate) fn report_lines(problems: &impl Display) -> Reported {
    problems.to_string().lines().for_each(complain);
    Reported::Failure
}

pub(crate) fn load(path: &Path) -> Result<Config, Reported> {
    Config::load(path).map_err(|errors| report_lines(&errors))
}

/// A line on standard error about an error, with its priority if the journal reads it.
pub(crate) fn complain(line: &str) {
    say::err(&format!("{}{line}", telemetry::error_prefix()));
}

/// The items of a summary line.
pub(crate) fn joined(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}
