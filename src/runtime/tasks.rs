//! The tasks of one core: every one is held, none detached.
//!
//! Invariants: a task ends with the core that spawned it; a panic in any of them is caught, told once
//! through [`Tasks::failed`], and ends the core in order. A detached task would survive that and keep
//! its listener in the SO_REUSEPORT group, swallowing its share of the clients.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use glommio::Task;
use pin_project_lite::pin_project;
use slotmap::{SlotMap, new_key_type};

new_key_type! {
    /// A task's slot.
    struct TaskKey;
}

/// An event that one task waits for. It is not lost if it happens before the task waits.
#[derive(Debug, Default)]
pub(crate) struct Event {
    happened: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Event {
    /// It happens.
    pub(crate) fn notify(&self) {
        self.happened.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Waits until it has happened since the last time this returned.
    pub(crate) async fn wait(&self) {
        poll_fn(|cx| {
            if self.happened.take() {
                return Poll::Ready(());
            }
            let mut waker = self.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

pin_project! {
    /// The body of a task, and what is done at its end. An `async` block would have room for the body twice, as what it was
    /// given and as what it awaits, and a connection has two tasks for all its life.
    struct Running<F> {
        #[pin]
        body: F,
        tasks: Rc<Tasks>,
        key: TaskKey,
        has_begun: bool,
    }
}

impl<F: Future<Output = ()>> Future for Running<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        // The engine polls a new task inside the call that spawns it. Ours are spawned while the relay's effects are applied.
        // One that fed the relay at once would have its own effects applied before the rest of those.
        if !mem::replace(this.has_begun, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match catch_unwind(AssertUnwindSafe(|| this.body.poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(())) => {}
            Err(panic) => this.tasks.fail(panic_message(panic.as_ref())),
        }
        this.tasks.ended.borrow_mut().push(*this.key);
        Poll::Ready(())
    }
}

/// All tasks of a core.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    running: RefCell<SlotMap<TaskKey, Option<Task<()>>>>,
    /// Ended ones: a task cannot drop its own handle, so the next spawn does it.
    ended: RefCell<Vec<TaskKey>>,
    failure: RefCell<Option<String>>,
    failed: Event,
    /// The core is ending: nothing new begins.
    closed: Cell<bool>,
}

impl Tasks {
    /// Starts a task on this core.
    pub(crate) fn spawn(self: &Rc<Self>, body: impl Future<Output = ()> + 'static) {
        if self.closed.get() {
            return;
        }
        self.reap();
        let key = self.running.borrow_mut().insert(None);
        let task = glommio::spawn_local(Running { body, tasks: Rc::clone(self), key, has_begun: false });
        if let Some(slot) = self.running.borrow_mut().get_mut(key) {
            *slot = Some(task);
        }
    }

    /// Waits for the first panic; returns its message.
    pub(crate) async fn failed(&self) -> String {
        self.failed.wait().await;
        self.failure.take().unwrap_or_default()
    }

    /// Cancels all tasks and waits until they are gone.
    pub(crate) async fn cancel_all(&self) {
        self.closed.set(true);
        let tasks: Vec<_> = self.running.borrow_mut().drain().filter_map(|(_, task)| task).collect();
        for task in tasks {
            task.cancel().await;
        }
    }

    fn fail(&self, message: String) {
        *self.failure.borrow_mut() = Some(message);
        self.failed.notify();
    }

    fn reap(&self) {
        for key in self.ended.borrow_mut().drain(..) {
            self.running.borrow_mut().remove(key);
        }
    }
}

/// The message of a panic.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".to_owned())
}
