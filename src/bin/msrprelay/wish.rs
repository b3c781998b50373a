//! The wishes that the main thread grants, and the signals that express them.
//!
//! Invariant: the thread that hears signals waits for the main thread in one case only: a signal to end.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use msrprelay::ops::admin::Reloaded;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::report::complain;
use crate::upgrade::Step;

/// Wishes that may wait. While the queue is full, a wish to end waits, and one for a reload or an upgrade is dropped.
const WISHES_MAX: usize = 16;
/// How long an orderly end may take: twice 2 s for the cores to become quiet, 5 s for their connections, 2 s for the
/// control plane, and room for a slow machine. Also how long a wish for it may go unheard.
pub(crate) const END_LIMIT: Duration = Duration::from_secs(30);

/// What the main thread must do.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Read the config again, and tell the asking thread the result, unless a signal asked.
    Reload(Option<mpsc::Sender<Reloaded>>),
    /// Stop, after a drain of this time, or of `drain_timeout`. During a drain, stop at once.
    Stop(Option<Duration>),
    /// Start a successor.
    Upgrade,
    /// A step of an upgrade.
    Upgraded(Step),
}

/// What the threads that hear wishes, and the one that grants them, share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    /// The relay is ending: another signal ends the process at once.
    pub(crate) ending: Arc<AtomicBool>,
    /// The main thread has taken the wish to end.
    pub(crate) heard: Arc<AtomicBool>,
    /// A signal asks for a reload that the main thread has not begun: one waiting reload is enough, and leaves room for
    /// other wishes.
    pub(crate) reload_waits: Arc<AtomicBool>,
}

/// The way to the main thread, and its end there.
pub(crate) fn channel() -> (SyncSender<Wish>, Receiver<Wish>) {
    mpsc::sync_channel(WISHES_MAX)
}

/// Ends the process after [`END_LIMIT`], unless `happened` is set by then: a core, or the thread that waits for one,
/// may be stuck.
pub(crate) fn end_unless(happened: Arc<AtomicBool>, why: &'static str) {
    let body = move || {
        thread::sleep(END_LIMIT);
        if !happened.load(Ordering::SeqCst) {
            let seconds = END_LIMIT.as_secs();
            complain(&format!("msrprelay: ended without an end in order after {seconds} s: {why}"));
            process::exit(1);
        }
    };
    if let Err(error) = thread::Builder::new().name("end".to_owned()).spawn(body) {
        tracing::warn!(reason = %error, "The time that the end may take cannot be watched");
    }
}

/// Turns SIGTERM, SIGINT, SIGHUP and SIGUSR2 into wishes, on a thread of its own. While the relay is ending already,
/// the first two end the process.
pub(crate) fn listen_to_signals(wish: SyncSender<Wish>, flags: Flags) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR2])?;
    let Flags { ending, heard, reload_waits } = flags;
    let body = move || {
        let mut is_watched = false;
        for signal in signals.forever() {
            match signal {
                SIGHUP if reload_waits.swap(true, Ordering::SeqCst) => {}
                // Full: the main thread is stuck. This thread must not wait for it, because a signal to end may come.
                SIGHUP => {
                    if wish.try_send(Wish::Reload(None)).is_err() {
                        reload_waits.store(false, Ordering::SeqCst);
                    }
                }
                SIGUSR2 => drop(wish.try_send(Wish::Upgrade)),
                _ if ending.load(Ordering::SeqCst) => {
                    complain("msrprelay: ended at once by a second signal");
                    process::exit(1);
                }
                _ => {
                    if !heard.load(Ordering::SeqCst) && !std::mem::replace(&mut is_watched, true) {
                        end_unless(Arc::clone(&heard), "the relay is stuck in what it was doing");
                    }
                    drop(wish.send(Wish::Stop(None)));
                }
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(body).map(|_| ())
}
