//! The one constructor of executors, and what keeps them from sleeping over tasks that are due.
//!
//! Owns the settings of every executor (in the relay, the client, tests and tools) and the remedy for a flaw of
//! glommio. Must not know what runs on an executor.
//!
//! # The flaw
//!
//! A turn of glommio-ng 0.12.0 arms its preemption timer, then runs tasks until the timer fires. If the timer has fired
//! *before the first task runs*, the turn runs no task. The engine then believes that no task is due, and sleeps until
//! the next event. The due tasks wait for that event. If the event is one of the executor's own timers, whose tasks
//! wait too, it never comes. A thread that gets no CPU for the length of the timer, between two lines of code, is
//! enough to cause this.
//!
//! # The remedy
//!
//! * The timer is so long (`NEVER`) that it does not fire, so work that comes back in every turn cannot spoil a turn,
//!   on however slow a machine. Everything else that ends a turn early either wakes a task, or is the engine's eventfd,
//!   without which the engine refuses to sleep.
//! * The timer's purpose was to let the executor look at sockets, timers and other threads while tasks stay runnable.
//!   Here the tasks do that (`turn`): between two pieces of work they call [`breathe`], which waits for the next look
//!   from time to time.
//! * One thread for the whole process (`watch`) knocks at executors that are at work and do not look.
//! * The same thread knocks at an executor that has used CPU since its last answer. If an executor falls asleep over
//!   due tasks for a reason not known here, it wakes within `watch::REST` and a moment.
//!
//! `docs/dev/engine.md` has the details, and the engine's other sharp edges.

#![allow(clippy::disallowed_types, reason = "this crate is the one place that makes executors")]

pub mod deadline;
mod look;
mod outside;
pub mod ring;
pub mod sock;
mod turn;
mod watch;

pub use outside::from_outside;
pub use turn::{breathe, has_looked};

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use glommio::{Latency, LocalExecutor, LocalExecutorBuilder, Placement, Shares, Task};

use look::Looks;
use turn::Turns;
use watch::{Tone, Watched};

/// The length of the engine's preemption timer: longer than any turn.
const NEVER: Duration = Duration::from_secs(86_400);
/// Memory that the engine registers with the kernel; nothing here reads files through it.
const IO_MEMORY_BYTES: usize = 64 << 10;

/// This process cannot have an executor.
#[derive(Debug, thiserror::Error)]
#[error("{}", crate::ring::why_not(reason))]
pub struct EngineError {
    /// What the engine or the system said.
    reason: String,
}

impl EngineError {
    /// What the engine or the system said, without the remedy.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// An executor of the calling thread.
#[derive(Debug)]
pub struct Engine {
    /// Dropped first: knocks go on as long as this exists.
    watched: Watched,
    looks: Rc<Looks>,
    executor: LocalExecutor,
}

impl Engine {
    /// Makes one. With a CPU, the thread is pinned to it from here on.
    ///
    /// # Errors
    /// If io_uring is missing, forbidden or short of memory, or there can be no thread.
    pub fn new(cpu: Option<usize>) -> Result<Self, EngineError> {
        let executor = LocalExecutorBuilder::new(cpu.map_or(Placement::Unbound, Placement::Fixed))
            .io_memory(IO_MEMORY_BYTES)
            .preempt_timer(NEVER)
            .make()
            .map_err(|error| EngineError { reason: error.to_string() })?;
        let because = |error: io::Error| EngineError { reason: error.to_string() };
        let looks = Rc::new(Looks::new().map_err(because)?);
        let watched = Watched::begin().map_err(because)?;
        // Outside `run` the executor polls a new task at once, so knocks have a waker before the first turn.
        drop(executor.spawn(watched.answer(Tone::Soft)).detach());
        Ok(Self { watched, looks, executor })
    }

    /// Runs a future to its end.
    pub fn run<T>(self, future: impl Future<Output = T>) -> T {
        // The last one is dropped first, also where the future panics.
        let Self { executor, watched, looks } = self;
        executor.run(async {
            // A wake of a task of this queue from another thread ends the turn that is under way.
            let urgent =
                glommio::executor().create_task_queue(Shares::default(), Latency::Matters(NEVER), "knock");
            if let Ok(task) = glommio::spawn_local_into(watched.answer(Tone::Hard), urgent) {
                drop(task.detach());
                // Must come before any task that never lets this future run.
                while !watched.can_be_interrupted() {
                    glommio::executor().yield_task_queue_now().await;
                }
            }
            // Without a descriptor for it, only knocks end turns.
            let turns = Turns::begin().ok();
            let tells = turns.as_ref().map(|turns| glommio::spawn_local(turns.tell()));
            let begun = looks.begin();
            let looking = spawn_last(Looks::go_on(Rc::downgrade(&looks), watched.answers()));
            let output = future.await;
            drop(begun);
            if let Some(looking) = looking {
                looking.cancel().await;
            }
            if let Some(turns) = turns {
                turns.end();
            }
            if let Some(tells) = tells {
                tells.cancel().await;
            }
            output
        })
    }
}

/// The share of the CPU of a queue that is to wait for all others, whose share is 1000.
const LAST: usize = 10;

/// Spawns a task that runs when no other task is due.
fn spawn_last(task: impl Future<Output = ()> + 'static) -> Option<Task<()>> {
    let last = glommio::executor().create_task_queue(Shares::Static(LAST), Latency::NotImportant, "look");
    // It was just made.
    glommio::spawn_local_into(task, last).ok()
}

/// Runs a future to its end on an executor of its own, in this thread; on one CPU only if that is given.
///
/// # Errors
/// Those of [`Engine::new`].
pub fn run_on_executor<T>(cpu: Option<usize>, future: impl Future<Output = T>) -> Result<T, EngineError> {
    Ok(Engine::new(cpu)?.run(future))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    /// Longer than any of this takes, on a machine that is busy with other things.
    const LONG: Duration = Duration::from_secs(120);

    /// Whether a thread that runs `body` ends within `limit`.
    fn ends(limit: Duration, body: impl FnOnce() + Send + 'static) -> bool {
        let (done, is_done) = mpsc::channel();
        std::thread::spawn(move || {
            body();
            let _ = done.send(());
        });
        is_done.recv_timeout(limit).is_ok()
    }

    async fn some_work() {
        for _ in 0..20 {
            glommio::timer::sleep(Duration::from_millis(1)).await;
            glommio::spawn_local(async {}).await;
        }
    }

    #[test]
    fn the_flaw_is_still_in_the_engine() {
        // With a timer that has always fired, no task ever runs. Once this test fails, the remedy may go.
        let ended = ends(Duration::from_secs(2), || {
            let builder = LocalExecutorBuilder::default().io_memory(IO_MEMORY_BYTES);
            builder.preempt_timer(Duration::from_nanos(1)).make().unwrap().run(some_work());
        });
        assert!(!ended);
    }

    #[test]
    fn what_runs_on_an_engine_ends() {
        assert!(ends(LONG, || run_on_executor(None, some_work()).unwrap()));
    }

    #[test]
    fn timers_fire_while_a_task_stays_runnable() {
        let ended = ends(LONG, || {
            let fired = run_on_executor(None, async {
                let fired = Rc::new(Cell::new(false));
                let fires = Rc::clone(&fired);
                let timer = glommio::spawn_local(async move {
                    glommio::timer::sleep(Duration::from_millis(5)).await;
                    fires.set(true);
                });
                // Without preemption this would go on until the loop's own limit.
                let began = Instant::now();
                while !fired.get() && began.elapsed() < LONG / 2 {
                    glommio::executor().yield_now().await;
                }
                drop(timer);
                fired.get()
            });
            assert!(fired.unwrap());
        });
        assert!(ended);
    }

    #[test]
    fn a_task_that_asks_whether_to_yield_is_told_so() {
        let ended = ends(LONG, || {
            let told = run_on_executor(None, async {
                let began = Instant::now();
                while !glommio::executor().need_preempt() && began.elapsed() < LONG / 2 {
                    std::hint::spin_loop();
                }
                glommio::executor().need_preempt()
            });
            assert!(told.unwrap());
        });
        assert!(ended);
    }
}
