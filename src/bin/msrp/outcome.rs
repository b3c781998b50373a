//! How the tool ends: the executor it runs on, what it prints, and its exit status.

use std::future::Future;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};
use msrprelay::client::{ClientError, Stage};
use serde_json::{Value, json};

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

/// Why the tool did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The arguments cannot be used together, or a local file they name cannot be used.
    #[error("{0}")]
    Usage(String),
    /// The connection, the relay, or the peer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Files came, but not all of them as they should be.
    #[error("{rejected} of {total} files rejected")]
    Rejected {
        /// How many were not kept.
        rejected: usize,
        /// How many came.
        total: usize,
    },
    /// The engine cannot run here.
    #[error("{0}")]
    Engine(String),
    /// Ctrl-C, or a polite kill.
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Client(error) => match error.stage() {
                Stage::Connecting => 3,
                Stage::Authenticating => 4,
                Stage::Transferring => 1,
            },
            Self::Rejected { .. } | Self::Engine(_) => 1,
            Self::Interrupted => 130,
        }
    }
}

/// What a command found out: lines for people, an object for programs.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Printed without `--json`.
    pub(crate) lines: Vec<String>,
    /// Printed with `--json`, with `ok` and perhaps `error` added. An object.
    pub(crate) json: Value,
}

/// Prints the report and the failure, if any, and turns it into the exit status.
pub(crate) fn conclude(as_json: bool, report: Report, result: Result<(), Failure>) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    // A reader of stdout that has gone away does not change what happened.
    if as_json {
        let mut object = if report.json.is_object() { report.json } else { json!({}) };
        object["ok"] = json!(result.is_ok());
        if let Err(failure) = &result {
            object["error"] = json!(failure.to_string());
        }
        let _ = writeln!(stdout, "{object}");
    } else {
        for line in report.lines {
            let _ = writeln!(stdout, "{line}");
        }
    }
    let _ = stdout.flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("msrp: {failure}");
            ExitCode::from(failure.status())
        }
    }
}

/// Runs a command on an executor of its own until it is done or a signal asks it to stop; whatever it holds is dropped
/// then, temporary files included.
pub(crate) fn run_on_executor(
    cpu: Option<usize>,
    command: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let engine = |error: &dyn std::fmt::Display| {
        Failure::Engine(format!(
            "io_uring cannot be used: {error} (it needs Linux 5.8 or later, not forbidden by a container's seccomp profile, \
             and a limit on locked memory, `ulimit -l`, of at least 512 KiB)"
        ))
    };
    // Blocked here, so that every thread started from now on leaves them to the executor.
    glommio::signal::block(&[SIGINT, SIGTERM]).map_err(|error| engine(&error))?;
    let executor = LocalExecutorBuilder::new(cpu.map_or(Placement::Unbound, Placement::Fixed))
        .io_memory(64 << 10)
        // While a task is busy, this is how often sockets and timers are looked at.
        .preempt_timer(Duration::from_millis(1))
        .name("msrp")
        .make()
        .map_err(|error| engine(&error))?;
    executor.run(async {
        let signals = glommio::signal::Signals::new(&[SIGINT, SIGTERM]).map_err(|error| engine(&error))?;
        let interrupted = async {
            match signals.recv().await {
                Ok(_) => Err(Failure::Interrupted),
                Err(error) => Err(engine(&error)),
            }
        };
        futures_lite::future::or(command, interrupted).await
    })
}
