//! Ends turns from inside: tasks that go on and on wait, now and then, until the executor has looked at sockets, timers and
//! other threads.
//!
//! Invariants: tasks that call [`breathe`] between two pieces of work keep an executor from looking for no longer than a
//! [`STRETCH`] and one piece of each; a task that waits here is woken by the very look that it waits for, and nothing is left
//! to complete in the turn that follows. Costs no system call, and nothing where tasks run out by themselves.
//! Must not know: what the tasks do.
//!
//! The engine has no way to wait for the next look: its timers are precise to 1 ms, and everything else wakes a task at
//! once. So a datagram lies in a socket for good, and a task peeks at it through the ring: the kernel gets that request with
//! the next look, and has completed it by the end of the same.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::net::UnixDatagram;

/// How long tasks may keep an executor from looking.
const STRETCH: Duration = Duration::from_micros(500);

thread_local! {
    static TURNS: RefCell<Option<Rc<Turns>>> = const { RefCell::new(None) };
}

/// The turns of the executor of this thread, until this is dropped.
#[derive(Debug)]
pub(super) struct Watching(());

impl Watching {
    /// From here on. Must be called on the executor.
    pub(super) async fn begin() -> std::io::Result<Self> {
        let (sends, socket) = UnixDatagram::pair().map_err(std::io::Error::from)?;
        sends.send(&[0]).await.map_err(std::io::Error::from)?;
        let (looked, is_fresh, looks) = (Cell::new(Instant::now()), Cell::new(false), Cell::new(0));
        TURNS.set(Some(Rc::new(Turns { socket, looked, is_fresh, looks })));
        Ok(Self(()))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        TURNS.set(None);
    }
}

#[derive(Debug)]
struct Turns {
    /// A datagram waits in it for ever.
    socket: UnixDatagram,
    /// When the executor looked last, as far as is known.
    looked: Cell<Instant>,
    /// It has looked since a task last breathed.
    is_fresh: Cell<bool>,
    /// How often a task has waited for a look.
    looks: Cell<u64>,
}

impl Turns {
    /// Whether tasks have kept the executor from looking for a stretch. Reads the clock once.
    fn is_look_due(&self) -> bool {
        let now = Instant::now();
        if self.is_fresh.take() {
            self.looked.set(now);
        }
        now.saturating_duration_since(self.looked.get()) >= STRETCH
    }

    async fn wait_for_look(&self) {
        // If it fails, for want of memory maybe, the task goes on, and knocks make the executor look.
        let _ = self.socket.peek(&mut [0]).await;
        self.is_fresh.set(true);
        self.looks.set(self.looks.get() + 1);
    }
}

/// For a task that may go on and on, between two pieces of its work: where tasks have kept the executor from its sockets,
/// timers and other threads for a while, waits until it has looked at them. Must be called on an executor.
pub async fn breathe() {
    let due = TURNS.with_borrow(|turns| turns.as_ref().filter(|turns| turns.is_look_due()).map(Rc::clone));
    match due {
        Some(turns) => turns.wait_for_look().await,
        None => glommio::executor().yield_if_needed().await,
    }
}

/// Tells that the task that calls this was woken by a look of its executor.
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
                // The look is known at the first breath behind it.
                breathe().await;
            }
            turns().looks.get()
        });
        assert_eq!(looks.unwrap(), 20);
    }

    #[test]
    fn what_is_due_is_seen_by_the_look_that_a_task_waits_for() {
        let seen = run_on_executor(None, async {
            let (near, far) = UnixDatagram::pair().unwrap();
            let arrived = Rc::new(Cell::new(false));
            let arrives = Rc::clone(&arrived);
            glommio::spawn_local(async move {
                near.recv(&mut [0]).await.unwrap();
                arrives.set(true);
            })
            .detach();
            turns().looked.set(Instant::now() - STRETCH);
            breathe().await;
            far.send(&[0]).await.unwrap();
            assert!(!arrived.get());
            for _ in 0..2 {
                turns().looked.set(Instant::now() - STRETCH);
                turns().is_fresh.set(false);
                breathe().await;
            }
            arrived.get()
        });
        assert!(seen.unwrap());
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
    fn a_task_that_is_dropped_while_it_waits_keeps_no_other_from_going_on() {
        let ran = run_on_executor(None, async {
            for _ in 0..20 {
                turns().looked.set(Instant::now() - STRETCH);
                turns().is_fresh.set(false);
                let others: Vec<_> = (0..3).map(|_| glommio::spawn_local(breathe())).collect();
                futures_lite::future::or(breathe(), async {}).await;
                for other in others {
                    other.await;
                }
            }
        });
        assert!(ran.is_ok());
    }

    #[test]
    fn nothing_is_left_of_it_when_the_executor_ends() {
        let turns = run_on_executor(None, async {
            work_for_a_stretch();
            breathe().await;
            Rc::downgrade(&turns())
        });
        assert!(turns.unwrap().upgrade().is_none());
    }

    #[test]
    fn without_it_a_task_only_yields() {
        let ran = run_on_executor(None, async {
            TURNS.set(None);
            work_for_a_stretch();
            breathe().await;
            has_looked();
        });
        assert!(ran.is_ok());
    }
}
