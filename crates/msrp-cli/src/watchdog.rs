//! What ends the tool from outside its executor: signals, and time limits that the executor does not keep.
//!
//! Invariant: after a signal, or a time limit that has passed, the process ends within a few seconds, with the message and
//! the exit status that the executor would have given it, and without a temporary file, whatever the executor does.

use std::sync::mpsc;
use std::time::Duration;
use std::{io, process, thread};

use async_channel::Receiver;
use msrp_client as client;
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::outcome::{Failure, Report, conclude};

/// What the command may take to end in order once it is asked to.
const IN_ORDER: Duration = Duration::from_secs(2);
/// How often it is looked whether something is overdue, ...
const LOOK: Duration = Duration::from_millis(500);
/// ... and how many looks in a row must find that: a process that was stopped finds its limits over when it goes on.
const LOOKS: u32 = 10;
/// What it may take to say why: stdout and stderr may be full.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Begins to watch. The receiver hears of the first signal.
pub(crate) fn start(as_json: bool) -> io::Result<Receiver<()>> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let (interrupt, interrupted) = async_channel::bounded(1);
    let waiting = move || {
        if signals.forever().next().is_some() {
            // A command that gets on drops what it holds now. One that does not has had its chance.
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
