//! `msrp bench`: load for a relay, and what the relay spends on it.
//!
//! One thread, pinned with `--cpu`, plays all clients. The report has its own CPU time beside the relay's. If it is
//! near 100 % of its core, it is the bottleneck, and only the relay's CPU time can be trusted. Invariant: everything
//! that arrives is compared with what was sent.

mod auth;
mod content;
mod file;
mod idle;
mod line;
mod login;
mod messages;
mod meter;
mod run;
mod scene;
mod transfer;
mod web;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use tokio::task::LocalSet;

use crate::outcome::{Failure, Report, conclude};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Long messages: one giant SEND in each session, or chunks.
    File(Box<file::Arguments>),
    /// Short messages, and how long each takes.
    Messages(Box<messages::Arguments>),
    /// Connections that authenticate and close.
    Auth(Box<auth::Arguments>),
    /// Sessions that do nothing, and the memory they take.
    Idle(Box<idle::Arguments>),
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let common = match &arguments.mode {
        Mode::File(file) => &file.common,
        Mode::Messages(messages) => &messages.common,
        Mode::Auth(auth) => &auth.common,
        Mode::Idle(idle) => &idle.common,
    };
    let mut report = Report::default();
    let result = on_one_thread(common.connection.cpu, async {
        match &arguments.mode {
            Mode::File(file) => file::run(file, &mut report).await,
            Mode::Messages(messages) => messages::run(messages, &mut report).await,
            Mode::Auth(auth) => auth::run(auth, &mut report).await,
            Mode::Idle(idle) => idle::run(idle, &mut report).await,
        }
    });
    conclude(common.output.json, report, result)
}

fn on_one_thread(cpu: Option<usize>, work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    if let Some(cpu) = cpu
        && !core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
    {
        return Err(Failure::Usage(format!("--cpu {cpu}: not a CPU that this process may use")));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Engine(error.to_string()))?;
    runtime.block_on(LocalSet::new().run_until(work))
}
