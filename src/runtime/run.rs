//! One core from its start to its end: a thread, a pinned executor, and the core's tasks.
//!
//! Invariants: a core whose task panics ends in order, with its connections closed and its listeners free for the next
//! life. Must not know why a core is started, or who sends it deliveries.

use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use async_channel::Receiver;
use engine::Engine;
use engine::deadline::Deadline;
use futures_lite::{FutureExt as _, future};

use super::core::{CoreEnd, CorePlan, Shared};
use super::mesh::Delivery;
use super::tasks::panic_message;
use super::{dial, inspect, listen};
use crate::telemetry::PUBLISHED_EVERY;
use msrp_relay_core::Input;

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
                // The waiting thread reports it.
                let _ = started.send(Err(error.reason().to_owned()));
                return CoreEnd::Stopped;
            }
        };
        let _farewell = farewell;
        engine.run(async {
            let _ = started.send(Ok(()));
            run(plan).await
        })
    };
    let thread = thread.spawn(body).map_err(|error| error.to_string())?;
    match has_started.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(reason)) => Err(reason),
        Err(mpsc::RecvError) => Err("its thread died".to_owned()),
    }
}

/// Runs a core until it is told to stop or one of its tasks panics.
async fn run(mut plan: CorePlan) -> CoreEnd {
    let (inbox, listeners) = (plan.inbox.clone(), std::mem::take(&mut plan.listeners));
    let shared = Rc::new(Shared::new(plan));
    // aws-lc's first random draw on a thread takes tens of milliseconds: no client should wait for it.
    let _ = shared.config().tls.server.crypto_provider().secure_random.fill(&mut [0]);
    listen::listen(&shared, listeners);
    for index in 0..shared.with_relay(|relay| relay.cores()) {
        let core = Rc::clone(&shared);
        shared.tasks.spawn(async move {
            if let Some(outbox) = core.mesh.outbox(index) {
                outbox.flush(|mover| core.lost_between_cores(&mover.traveller)).await;
            }
        });
    }
    shared.tasks.spawn(tick(Rc::clone(&shared)));
    shared.tasks.spawn(dial::serve(Rc::clone(&shared)));
    shared.look_at_generations();
    let panicked = async { CoreEnd::Panicked(shared.tasks.failed().await) };
    let served = AssertUnwindSafe(async {
        read_inbox(&shared, &inbox).await;
        shared.close_all().await;
    });
    let stopped = async {
        match served.catch_unwind().await {
            Ok(()) => CoreEnd::Stopped,
            Err(panic) => CoreEnd::Panicked(panic_message(panic.as_ref())),
        }
    };
    let end = future::or(panicked, stopped).await;
    shared.tasks.cancel_all().await;
    shared.end(&end);
    // Deliveries of other cores find no inbox from here on, and those cores report that.
    inbox.close();
    while let Ok(delivery) = inbox.try_recv() {
        if let Delivery::Arrive(mover) = delivery {
            shared.lost_between_cores(&mover.traveller);
        }
    }
    end
}

/// Beats of a core while its relay is fed. One that is idle sleeps through so many of them, and makes up for them: what it
/// costs is waking up.
const BEATS_ASLEEP_MAX: u32 = 4;

async fn tick(core: Rc<Shared>) {
    loop {
        let began = Instant::now();
        let due = core.with_relay(|relay| relay.next_deadline()).map(|at| at.max(began + PUBLISHED_EVERY));
        let idle_until = began + PUBLISHED_EVERY * BEATS_ASLEEP_MAX;
        let fed = async {
            core.fed.wait().await;
            Deadline::at(began + PUBLISHED_EVERY).await;
        };
        future::or(fed, Deadline::at(due.map_or(idle_until, |due| due.min(idle_until)))).await;
        let due = core.with_relay(|relay| relay.next_deadline().is_some_and(|at| at <= Instant::now()));
        if due {
            core.feed([Input::Tick]);
        }
        let beats = began.elapsed().as_millis() / PUBLISHED_EVERY.as_millis();
        // One that was kept from it for longer has not been at work.
        core.publish(u64::try_from(beats).unwrap_or(u64::MAX).clamp(1, BEATS_ASLEEP_MAX.into()));
        core.end_traces();
    }
}

/// Empties the inbox until the core is told to stop.
async fn read_inbox(core: &Rc<Shared>, inbox: &Receiver<Delivery>) {
    while let Ok(delivery) = engine::from_outside(inbox.recv()).await {
        match delivery {
            Delivery::Messages(messages) => core.feed(messages.into_iter().map(Input::Message)),
            Delivery::Adopt(migrant) => listen::take_over(core, *migrant),
            Delivery::Arrive(mover) => listen::arrive(core, *mover),
            Delivery::CoreUp { core: other, inbox } => {
                let lost = core.mesh.core_up(other, inbox);
                lost.iter().for_each(|mover| core.lost_between_cores(&mover.traveller));
                core.feed([Input::CoreChanged { index: other.index, running: Some(other.incarnation) }]);
            }
            Delivery::CoreDown { core: other } => {
                let lost = core.mesh.core_down(other);
                lost.iter().for_each(|mover| core.lost_between_cores(&mover.traveller));
                core.feed([Input::CoreChanged { index: other.index, running: None }]);
            }
            Delivery::StopAccepting => core.stopped_accepting.set(true),
            Delivery::AcceptAgain(listeners) => {
                core.stopped_accepting.set(false);
                listen::listen(core, listeners);
            }
            Delivery::GenerationsChanged => core.look_at_generations(),
            Delivery::Reload(config, in_force) => {
                core.reload(config);
                drop(in_force);
            }
            Delivery::Ask(ask) => inspect::answer(core, ask),
            Delivery::Drain(left) => {
                // The supervisor may have stopped waiting.
                let _ = left.send(core.drain());
            }
            Delivery::GiveUp => core.feed([Input::GiveUp]),
            Delivery::Quiesce(quiet) => {
                core.feed([Input::Quiesce]);
                // The supervisor may have stopped waiting.
                let _ = quiet.send(core.mesh.is_flushed());
            }
            Delivery::Stop => return,
            Delivery::Panic { in_task: true } => core.tasks.spawn(async { crash() }),
            Delivery::Panic { in_task: false } => crash(),
        }
        engine::breathe().await;
    }
}

/// Panics, as a test asks, to show a core's death.
#[expect(clippy::panic, reason = "the point of it")]
fn crash() {
    panic!("told to panic");
}
