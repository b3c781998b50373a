//! Ends the tool from outside its executor: on signals, and on time limits that the executor does not keep.
//!
//! Invariant: after a signal, or a time limit that has passed, the process ends within a few seconds, with the message and
//! the exit status that the executor would have given it, and without a temporary file, whatever the executor does.

use std::future::Future;
use std::sync::mpsc;
use std::time::Duration;
use std::{io, process, thread};

use async_channel::Receiver;
use msrp_client::{self as client, Due, run_on_executor};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::outcome::{Failure, Report, conclude};

/// How long the engine may take to make an executor and run its first task.
const BEGIN_LIMIT: Duration = Duration::from_secs(10);
/// How long the command may take to end in order once it is asked to.
const IN_ORDER: Duration = Duration::from_secs(2);
/// How often to look for something overdue.
const LOOK: Duration = Duration::from_millis(500);
/// How many looks in a row must find it: a process that was stopped finds its limits over when it goes on.
const LOOKS: u32 = 10;
/// How long saying why may take: stdout and stderr may be full.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs a command until it is done or a signal asks it to stop. Then everything it holds is dropped, temporary files
/// included. If the executor does not get that far, the watchdog ends the process.
pub(crate) fn run_until_interrupted(
    cpu: Option<usize>,
    as_json: bool,
    command: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let signals =
        start(as_json).map_err(|error| Failure::Engine(format!("signals cannot be awaited: {error}")))?;
    // The watchdog's threads take the signals: no call of the executor is interrupted.
    glommio::signal::block(&[SIGINT, SIGTERM])
        .map_err(|error| Failure::Engine(format!("signals cannot be left to a thread: {error}")))?;
    let beginning = Due::beginning_within(BEGIN_LIMIT);
    let interrupted = async {
        match signals.recv().await {
            Ok(()) => Err(Failure::Interrupted),
            // The watchdog's thread has died; the command goes on.
            Err(async_channel::RecvError) => std::future::pending().await,
        }
    };
    let work = async {
        drop(beginning);
        futures_lite::future::or(command, interrupted).await
    };
    run_on_executor(cpu, work).unwrap_or_else(|error| Err(error.into()))
}

/// Begins to watch. The receiver gets the first signal.
fn start(as_json: bool) -> io::Result<Receiver<()>> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let (interrupt, interrupted) = async_channel::bounded(1);
    let waiting = move || {
        if signals.forever().next().is_some() {
            // A command that runs drops what it holds. One that does not run has had its chance.
            let _ = interrupt.try_send(());
            thread::sleep(IN_ORDER);
            end(as_json, Failure::Interrupted);
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(waiting)?;
    let looking = move || {
        let mut looks = 0;
        loop {
            thread::sleep(LOOK);
            match client::overdue() {
                Some(overdue) if looks == LOOKS => end(as_json, overdue.into()),
                Some(_) => looks += 1,
                None => looks = 0,
            }
        }
    };
    thread::Builder::new().name("overdue".to_owned()).spawn(looking)?;
    Ok(interrupted)
}

fn end(as_json: bool, failure: Failure) -> ! {
    client::remove_partial_files();
    let status = failure.status();
    let (said, is_said) = mpsc::channel();
    let words = move || {
        conclude(as_json, Report { lines: Vec::new(), json: json!({}) }, Err(failure));
        let _ = said.send(());
    };
    if thread::Builder::new().spawn(words).is_ok() {
        let _ = is_said.recv_timeout(LAST_WORDS);
    }
    process::exit(status.into())
}
