//! The executor that clients run on.
//!
//! Owns its settings, and the remedy for a flaw of the engine (glommio-ng 0.12.0): where the preemption timer has fired
//! before the first runnable task is looked at, which takes no more than the kernel giving the CPU to somebody else for a
//! millisecond at the wrong time, the executor takes that for having nothing to do and sleeps until the next event, its
//! tasks runnable. A timer that keeps ticking makes such a sleep a short one.

use std::future::Future;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};

use crate::ring;

/// While a task is busy, this is how often sockets and timers are looked at.
const PREEMPT_TIMER: Duration = Duration::from_millis(1);
/// The longest sleep with something to do.
const TICK: Duration = Duration::from_millis(20);
/// Nothing here uses registered buffers for file IO.
const IO_MEMORY_BYTES: usize = 64 << 10;

/// The engine cannot run here.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(String);

/// Runs a future to its end on an executor of its own, in this thread; on one CPU only if that is given.
///
/// # Errors
/// If io_uring is missing, forbidden or short of memory.
pub fn run_on_executor<T>(cpu: Option<usize>, future: impl Future<Output = T>) -> Result<T, EngineError> {
    let executor = LocalExecutorBuilder::new(cpu.map_or(Placement::Unbound, Placement::Fixed))
        .io_memory(IO_MEMORY_BYTES)
        .preempt_timer(PREEMPT_TIMER)
        .make()
        .map_err(|error| EngineError(ring::why_not(&error.to_string())))?;
    Ok(executor.run(async {
        let _ticking = glommio::spawn_local(async {
            loop {
                glommio::timer::sleep(TICK).await;
            }
        });
        future.await
    }))
}
