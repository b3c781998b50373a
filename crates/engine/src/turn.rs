//! Ends turns from inside: long-running tasks wait from time to time, until the executor has looked at sockets, timers
//! and other threads.
//!
//! Invariants: tasks that call [`breathe`] between two pieces of work keep an executor from looking for no longer than
//! a [`STRETCH`] and one piece of each. The look that a task waits for wakes that task, so a lost turn cannot make it
//! wait forever. Costs two system calls a stretch, and nothing where tasks run out by themselves. Must not know what
//! the tasks do.
//!
//! The engine cannot wait for the next look: its timers are precise to 1 ms, and everything else wakes a task at once.
//! So an executor sends itself a datagram and receives it through the ring. A datagram that the kernel has received
//! already ends the turn. Any other is submitted, and complete, with the next look.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::mem;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use glommio::net::UnixDatagram;

/// How long tasks may keep an executor from looking.
const STRETCH: Duration = Duration::from_micros(500);

thread_local! {
    static TURNS: RefCell<Option<Rc<Turns>>> = const { RefCell::new(None) };
}

/// The turns of the executor of this thread.
#[derive(Debug)]
pub(super) struct Turns {
    sends: UnixDatagram,
    receives: UnixDatagram,
    /// When the executor looked last, as far as this thread knows.
    looked: Cell<Instant>,
    /// It has looked since the last task breathed.
    is_fresh: Cell<bool>,
    /// How many looks that were asked for have come.
    looks: Cell<u64>,
    /// A look was asked for, and has not come.
    is_asked: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Turns {
    /// The turns of the calling thread's executor, from here on.
    pub(super) fn begin() -> std::io::Result<Rc<Self>> {
        let (sends, receives) = UnixDatagram::pair().map_err(std::io::Error::from)?;
        let turns = Rc::new(Self {
            sends,
            receives,
            looked: Cell::new(Instant::now()),
            is_fresh: Cell::new(false),
            looks: Cell::new(0),
            is_asked: Cell::new(false),
            waiting: RefCell::default(),
        });
        TURNS.set(Some(Rc::clone(&turns)));
        Ok(turns)
    }

    /// The task that notes each look, until it is cancelled.
    pub(super) fn tell(self: &Rc<Self>) -> impl Future<Output = ()> + 'static {
        let turns = Rc::clone(self);
        async move {
            while turns.receives.recv(&mut [0]).await.is_ok() {
                turns.looked.set(Instant::now());
                turns.is_asked.set(false);
                turns.wake();
            }
            turns.end();
        }
    }

    /// From here on no task waits for a look.
    pub(super) fn end(&self) {
        TURNS.set(None);
        self.wake();
    }

    fn wake(&self) {
        self.looks.set(self.looks.get() + 1);
        let waiting = mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether tasks have kept the executor from looking for a stretch. Reads the clock once.
    fn is_look_due(&self) -> bool {
        let now = Instant::now();
        if self.is_fresh.take() {
            self.looked.set(now);
        }
        now.saturating_duration_since(self.looked.get()) >= STRETCH
    }

    async fn wait_for_look(&self) {
        if !self.is_asked.replace(true) {
            // Tasks that stay runnable without breathing would keep the task that looks from it.
            crate::look::look();
            if self.sends.send(&[0]).await.is_err() {
                return self.is_asked.set(false);
            }
        }
        let before = self.looks.get();
        let mut is_waiting = false;
        poll_fn(|cx| {
            if self.looks.get() != before {
                return Poll::Ready(());
            }
            if !mem::replace(&mut is_waiting, true) {
                self.waiting.borrow_mut().push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

/// For a long-running task, between two pieces of its work. If tasks have kept the executor from its sockets, timers
/// and other threads for a while, waits until it has looked at them. Does nothing on a thread without such an executor.
pub async fn breathe() {
    let due = TURNS.with_borrow(|turns| turns.as_ref().filter(|turns| turns.is_look_due()).map(Rc::clone));
    match due {
        Some(turns) => turns.wait_for_look().await,
        None => glommio::executor().yield_if_needed().await,
    }
}

/// Whether tasks wait for a look of the engine.
pub(crate) fn is_look_wanted() -> bool {
    TURNS.with_borrow(|turns| turns.as_ref().is_some_and(|turns| turns.is_asked.get()))
}

/// Notes that a look of the executor woke the calling task.
pub fn has_looked() {
    TURNS.with_borrow(|turns| turns.iter().for_each(|turns| turns.is_fresh.set(true)));
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use crate::run_on_executor;

    fn turns() -> Rc<Turns> {
        TURNS.with_borrow(|turns| turns.as_ref().map(Rc::clone)).unwrap()
    }

    fn work_for_a_stretch() {
        let began = Instant::now();
        while began.elapsed() < STRETCH {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn a_task_that_goes_on_waits_for_a_look_after_each_stretch() {
        let looks = run_on_executor(None, async {
            for _ in 0..20 {
                work_for_a_stretch();
                breathe().await;
            }
            turns().looks.get()
        });
        assert_eq!(looks.unwrap(), 20);
    }

    #[test]
    fn a_task_that_was_just_woken_by_a_look_does_not_wait_for_another() {
        let looks = run_on_executor(None, async {
            for _ in 0..20 {
                work_for_a_stretch();
                has_looked();
                breathe().await;
            }
            turns().looks.get()
        });
        assert_eq!(looks.unwrap(), 0);
    }

    #[test]
    fn one_look_wakes_all_that_wait_for_it() {
        let looks = run_on_executor(None, async {
            turns().looked.set(Instant::now() - STRETCH);
            let tasks: Vec<_> = (0..3).map(|_| glommio::spawn_local(breathe())).collect();
            for task in tasks {
                task.await;
            }
            turns().looks.get()
        });
        assert_eq!(looks.unwrap(), 1);
    }

    #[test]
    fn nothing_is_left_of_it_when_the_executor_ends() {
        let turns = run_on_executor(None, async {
            turns().looked.set(Instant::now() - STRETCH);
            glommio::spawn_local(breathe()).detach();
            Rc::downgrade(&turns())
        });
        assert!(turns.unwrap().upgrade().is_none());
        assert!(TURNS.with_borrow(Option::is_none));
    }

    #[test]
    fn without_it_a_task_only_yields() {
        let ran = run_on_executor(None, async {
            turns().end();
            work_for_a_stretch();
            breathe().await;
            has_looked();
        });
        assert!(ran.is_ok());
    }
}
