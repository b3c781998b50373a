//! SIGUSR2: a new process, of the program that is on disk at that moment, takes over from this one without a gap.
//!
//! The new process starts with the same arguments, and one end of a socket pair as its standard input (see
//! [`msrprelay::runtime::upgrade`]). Until it reports that it listens, nothing changes: a new program, or a new config,
//! that does not work costs one line in the log. After that it accepts, and this process drains.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use msrprelay::ops::service;
use msrprelay::runtime::server::Server;
use msrprelay::runtime::upgrade::{Generation, Handoff, Line, ReceivedHandoff};

/// The hidden option that a new process is started with.
pub(crate) const OPTION: &str = "take-over";
/// How long the new process may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the predecessor may take to close what the successor has to open: it may be reading its config again, for
/// ten seconds.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a process that has closed the socket pair may take to end, and how often to check.
const END_TIMEOUT: Duration = Duration::from_secs(15);
const END_LOOK: Duration = Duration::from_millis(20);
/// How long the predecessor may take for its answer; longer than [`CLOSE_TIMEOUT`], which is part of it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What the process does for its successor, in this order.
#[derive(Debug)]
pub(crate) enum Step {
    /// Close everything that only one process can have open, then drop the sender.
    Close(mpsc::Sender<()>),
    /// Let the sessions run until they end, then end.
    Drain,
    /// The successor has died: serve again as if there had been none.
    AcceptAgain,
    /// The successor was told to end, and has: the service ends.
    Ended,
}

/// What starting a successor needs.
#[derive(Debug)]
pub(crate) struct Upgrade {
    /// Looked up at the start: once the file is replaced, the system has no name for it any more.
    program: PathBuf,
    under_way: Arc<AtomicBool>,
}

impl Upgrade {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { program: std::env::current_exe()?, under_way: Arc::default() })
    }

    /// Starts a successor. `tell` gets the steps when the successor listens, and when it dies; `answer` gets what its
    /// operator asks of this process.
    pub(crate) fn begin(
        &self,
        server: &Server,
        answer: impl Fn(UnixStream) + Send + 'static,
        tell: impl Fn(Step) + Send + 'static,
    ) {
        if process::id() == 1 {
            tracing::error!(
                "Upgrade refused: this is process 1 of a container, which would end with it; start another container"
            );
            return;
        }
        if server.generations().predecessor().is_some_and(|before| before.is_there()) {
            tracing::error!("The predecessor still drains; upgrade again when it has ended");
            return;
        }
        if self.under_way.swap(true, Ordering::SeqCst) {
            tracing::error!("An upgrade is under way already");
            return;
        }
        let (program, handoff, under_way) =
            (self.program.clone(), server.handoff(), Arc::clone(&self.under_way));
        let body = move || {
            tracing::info!(program = %program.display(), "Starting the successor");
            match start(&program, &handoff) {
                Ok((successor, child)) => {
                    hand_over(&successor, child, &handoff, answer, tell);
                    under_way.store(false, Ordering::SeqCst);
                }
                Err(error) => {
                    tracing::error!(reason = format!("{error:#}"), "Upgrade failed; still serving");
                    under_way.store(false, Ordering::SeqCst);
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("upgrade".to_owned()).spawn(body) {
            tracing::error!(reason = %error, "Upgrade failed: no thread can be started; still serving");
            self.under_way.store(false, Ordering::SeqCst);
        }
    }
}

fn start(program: &PathBuf, handoff: &Handoff) -> anyhow::Result<(Arc<Generation>, Child)> {
    let (line, theirs) = Line::pair()?;
    let option = format!("--{OPTION}");
    let arguments = std::env::args_os().skip(1).filter(|argument| *argument != *option);
    let mut child = Command::new(program)
        .args(arguments)
        .arg(&option)
        .stdin(Stdio::from(theirs))
        // It names this process; the new one gets its own.
        .env_remove("WATCHDOG_PID")
        .spawn()
        .with_context(|| program.display().to_string())?;
    let ready = handoff.hand_listeners(line).and_then(|successor| {
        successor.wait_until_ready(START_TIMEOUT)?;
        Ok(successor)
    });
    match ready {
        Ok(successor) => Ok((Arc::new(successor), child)),
        Err(error) => {
            // It may have ended by itself.
            let _ = child.kill();
            let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            Err(anyhow::Error::new(error).context(format!("the new process ({status}; its log says why)")))
        }
    }
}

/// The successor listens: this process only finishes what it has begun.
fn hand_over(
    successor: &Arc<Generation>,
    mut child: Child,
    handoff: &Handoff,
    answer: impl Fn(UnixStream),
    tell: impl Fn(Step),
) {
    let (closed, is_closed) = mpsc::channel();
    tell(Step::Close(closed));
    // The sender is only dropped. A main thread that is too busy for that is not waited for.
    if is_closed.recv_timeout(CLOSE_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
        tracing::warn!("The admin socket is not closed yet");
    }
    service::succeeded_by(child.id());
    if let Err(error) = successor.let_accept() {
        tracing::warn!(reason = %error, "The successor has ended");
    }
    if !handoff.stop_accepting(successor) {
        tracing::warn!("A core still waits for a connection; it will take the next one");
    }
    tracing::info!(pid = child.id(), "The successor has taken over; this process drains");
    tell(Step::Drain);
    handoff.serve(successor, answer);
    // This process is the parent: only it learns how the successor ended, not even the service manager does.
    match ended(&mut child) {
        Ok(status) if status.success() => {
            tracing::info!("The successor has ended in order");
            tell(Step::Ended);
        }
        // It was told to end, and had closed the sockets of both processes by then.
        how if !handoff.is_listening() => {
            let how = how.map_or_else(|error| error.to_string(), |status| status.to_string());
            tracing::warn!(how, "The successor has ended without an orderly end; the service ends");
            tell(Step::Ended);
        }
        how => {
            let how = how.map_or_else(|error| error.to_string(), |status| status.to_string());
            tracing::error!(how, "The successor has died; this process accepts connections again");
            tell(Step::AcceptAgain);
        }
    }
}

/// Waits for the end of a process that has closed the socket pair; one that does not end is of no use.
fn ended(child: &mut Child) -> io::Result<ExitStatus> {
    let until = Instant::now() + END_TIMEOUT;
    while Instant::now() < until {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(END_LOOK);
    }
    child.kill()?;
    child.wait()
}

/// What the predecessor hands over.
pub(crate) fn received() -> anyhow::Result<ReceivedHandoff> {
    Ok(ReceivedHandoff::receive(Line::inherited()?, ANSWER_TIMEOUT)?)
}

/// Reports that this process listens. On return the service manager follows this process.
pub(crate) fn take_over(server: &Server) {
    let Some(before) = server.generations().predecessor().map(Arc::clone) else { return };
    if let Err(error) = before.take_over(ANSWER_TIMEOUT) {
        return tracing::warn!(reason = %error, "The predecessor has ended");
    }
    tracing::info!(generation = before.number().wrapping_add(1), "Took over from the predecessor");
    let handoff = server.handoff();
    let body = move || {
        // It has no operator of its own any more, so it asks nothing.
        handoff.serve(&before, drop);
        tracing::info!("The predecessor has ended");
    };
    if let Err(error) = std::thread::Builder::new().name("predecessor".to_owned()).spawn(body) {
        tracing::error!(reason = %error, "Sessions of the predecessor cannot reach those of this process");
    }
}
