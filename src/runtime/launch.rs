//! Starting the thread of one core.
//!
//! Must not know: what a core does, why it is started.

use std::sync::mpsc;
use std::thread::JoinHandle;

use super::core::{self, CoreEnd, CorePlan};
use crate::engine::Engine;

/// Starts a core's thread and returns when the core runs.
///
/// `farewell` is dropped when the thread has ended, however it ends.
pub(super) fn spawn_core(
    index: usize,
    cpu: usize,
    plan: CorePlan,
    farewell: impl Send + 'static,
) -> Result<JoinHandle<CoreEnd>, String> {
    let (started, has_started) = mpsc::channel();
    let thread = std::thread::Builder::new().name(format!("core-{index}"));
    let body = move || {
        let engine = match Engine::new(Some(cpu)) {
            Ok(engine) => engine,
            Err(error) => {
                // The one who waits reports it.
                let _ = started.send(Err(error.reason().to_owned()));
                return CoreEnd::Stopped;
            }
        };
        let _farewell = farewell;
        engine.run(async {
            let _ = started.send(Ok(()));
            core::run(plan).await
        })
    };
    let thread = thread.spawn(body).map_err(|error| error.to_string())?;
    match has_started.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(reason)) => Err(reason),
        Err(mpsc::RecvError) => Err("its thread died".to_owned()),
    }
}
