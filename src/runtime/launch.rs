//! Starting the thread of one core, and keeping its executor awake.
//!
//! Invariant: a core that has work to do is woken within [`PULSE`], whatever its engine makes of its own timers.
//! Must not know: what a core does, why it is started.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};

use super::core::{self, CoreEnd, CorePlan};

/// IO, timers and wakes from other threads are looked at this often while a task stays runnable; the
/// engine's own default is 100 ms.
const PREEMPT: Duration = Duration::from_millis(1);
/// How often a core that starts is woken until it runs.
const START_LOOK: Duration = Duration::from_millis(20);
/// How often a core is woken from outside, in case it sleeps with work to do.
const PULSE: Duration = Duration::from_millis(50);
/// Memory the engine registers with the kernel per executor; nothing here uses it.
const IO_MEMORY: usize = 64 << 10;

/// What a core's thread says of itself while it starts.
enum Progress {
    /// There is an executor; this wakes it.
    Made(Waker),
    /// Its first task runs.
    Running,
}

/// Starts a core's thread and returns when the core runs.
///
/// The engine may go to sleep over a task that is due: where the preemption timer fires just before it looks at its
/// queue, it takes the timer for an event that came to nothing. Any later event wakes it up again, and a running core
/// has a timer of its own, but before its first task has run there is none. So it is woken from here until it has.
///
/// `farewell` is dropped when the thread has ended, however it ends.
pub(super) fn spawn_core(
    index: usize,
    cpu: usize,
    plan: CorePlan,
    farewell: impl Send + 'static,
) -> Result<JoinHandle<CoreEnd>, String> {
    let (progress, reached) = mpsc::channel();
    let thread = std::thread::Builder::new().name(format!("core-{index}"));
    let body = move || {
        let executor = LocalExecutorBuilder::new(Placement::Fixed(cpu))
            .io_memory(IO_MEMORY)
            .preempt_timer(PREEMPT)
            .make();
        let executor = match executor {
            Ok(executor) => executor,
            Err(error) => {
                // The one who waits reports it.
                let _ = progress.send(Err(error.to_string()));
                return CoreEnd::Stopped;
            }
        };
        let _farewell = farewell;
        // Polled here and now, before the executor runs: that is how its waker can be had.
        let woken = executor.spawn(poll_fn(|cx| {
            // Kept for good: a task that others hold wakers of must not be freed; see `control::reply`.
            mem::forget(cx.waker().clone());
            let _ = progress.send(Ok(Progress::Made(cx.waker().clone())));
            Poll::<()>::Pending
        }));
        executor.run(async {
            drop(woken);
            let _ = progress.send(Ok(Progress::Running));
            core::run(plan).await
        })
    };
    let thread = thread.spawn(body).map_err(|error| error.to_string())?;
    let mut waker = None;
    loop {
        match reached.recv_timeout(START_LOOK) {
            Ok(Ok(Progress::Made(made))) => waker = Some(made),
            Ok(Ok(Progress::Running)) => break,
            Ok(Err(reason)) => return Err(reason),
            Err(RecvTimeoutError::Timeout) => waker.iter().for_each(Waker::wake_by_ref),
            Err(RecvTimeoutError::Disconnected) => return Err("its thread died".to_owned()),
        }
    }
    if let Some(waker) = waker {
        pulse(waker, reached).map_err(|error| error.to_string())?;
    }
    Ok(thread)
}

/// Wakes a core from outside, again and again, until its thread has ended.
///
/// An executor that parks with work to do (see `core::Shared::heartbeat`) may do so twice in a row, the tasks of
/// its own timers among the work: then nothing inside wakes it again.
fn pulse(waker: Waker, reached: mpsc::Receiver<Result<Progress, String>>) -> io::Result<()> {
    let body = move || {
        while let Ok(_) | Err(RecvTimeoutError::Timeout) = reached.recv_timeout(PULSE) {
            waker.wake_by_ref();
        }
    };
    std::thread::Builder::new().name("pulse".to_owned()).spawn(body).map(|_| ())
}
