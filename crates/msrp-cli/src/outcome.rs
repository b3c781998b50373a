//! How the tool ends: what it prints, and its exit status.

use std::process::ExitCode;

use msrp_client::{ClientError, EngineError, Overdue, Stage};
use serde_json::{Value, json};
use untrusted::say;

use crate::units::counted;

/// Why the tool did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The arguments cannot be used together, or a local file they name cannot be used.
    #[error("{0}")]
    Usage(String),
    /// The connection, the relay, or the peer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Files came, but not all of them whole.
    #[error("{rejected} of {} rejected", counted(*.total, "file"))]
    Rejected {
        /// How many were not kept.
        rejected: usize,
        /// How many came.
        total: usize,
    },
    /// The received bytes are not the sent ones.
    #[error("received wrongly: {0}")]
    Mismatch(String),
    /// Not everything of a domain is in order.
    #[error("{}{first}", if *.count == 1 { "1 problem: ".to_owned() } else { format!("{count} problems, the first: ") })]
    Domain {
        /// How many there are.
        count: usize,
        /// How far the first one got.
        stage: Stage,
        /// The first, in words.
        first: String,
    },
    /// The engine cannot run here.
    #[error("{0}")]
    Engine(String),
    /// A time limit has passed and the executor does not say so.
    #[error("{0}")]
    Overdue(#[from] Overdue),
    /// Ctrl-C, or a polite kill.
    #[error("interrupted")]
    Interrupted,
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self::Engine(error.to_string())
    }
}

impl Failure {
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Client(error) => stage_status(error.stage()),
            Self::Domain { stage, .. } => stage_status(*stage),
            Self::Overdue(overdue) => stage_status(overdue.stage),
            Self::Rejected { .. } | Self::Mismatch(_) | Self::Engine(_) => 1,
            Self::Interrupted => 130,
        }
    }
}

const fn stage_status(stage: Stage) -> u8 {
    match stage {
        Stage::Connecting => 3,
        Stage::Authenticating => 4,
        Stage::Transferring => 1,
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
    // If the reader of stdout has gone, what happened stays the same.
    if as_json {
        let mut object = if report.json.is_object() { report.json } else { json!({}) };
        object["ok"] = json!(result.is_ok());
        if let Err(failure) = &result {
            object["error"] = json!(failure.to_string());
        }
        let _ = say::out_json(&object);
    } else {
        for line in report.lines {
            let _ = say::out(&line);
        }
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say::err(&format!("msrp: {failure}"));
            ExitCode::from(failure.status())
        }
    }
}
