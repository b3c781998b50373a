//! Wakes from other threads, for tasks of an executor.
//!
//! A waker of the engine in another thread's hands wakes an executor only where the engine sleeps, and its task must not
//! end meanwhile (`docs/dev/engine.md`). So another thread gets a waker of ours: it is left in the executor's
//! mailbox, with a ring if the executor sleeps. The task's own waker never leaves its thread.
//!
//! Invariants: an executor that sleeps is rung for what is left in its mailbox, once; one that is about to sleep looks into
//! its mailbox first, under the lock under which others leave something there; the mailbox of an executor that has ended
//! keeps nothing, for what is in it keeps the mailbox.
//! Must not know: what a task waits for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};

use rustix::event::{EventfdFlags, eventfd};

use crate::look::Looks;

thread_local! {
    /// Who of this thread waits for other threads.
    static WAITING: RefCell<Waiting> = RefCell::default();
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    wakers: HashMap<u64, Waker>,
}

/// Where other threads leave their wakes for an executor.
#[derive(Debug)]
pub(crate) struct Mailbox {
    bell: OwnedFd,
    left: Mutex<Left>,
}

#[derive(Debug, Default)]
struct Left {
    /// Each at most once.
    callers: Vec<Arc<Caller>>,
    /// The executor sleeps, or is about to: it must be rung for.
    is_asleep: bool,
    /// The executor has ended.
    is_closed: bool,
}

impl Mailbox {
    pub(crate) fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { bell, left: Mutex::default() })
    }

    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// The executor is about to sleep. Returns whether it may: nothing has been left.
    pub(crate) fn may_sleep(&self) -> bool {
        let mut left = lock(&self.left);
        left.is_asleep = left.callers.is_empty();
        left.is_asleep
    }

    /// The executor does not sleep any more. Wakes whom others have woken; returns whether there was any.
    pub(crate) fn collect(&self) -> bool {
        let callers = {
            let mut left = lock(&self.left);
            left.is_asleep = false;
            mem::take(&mut left.callers)
        };
        for caller in &callers {
            // Before its task looks: what happens from here on must wake it again.
            caller.has_called.store(false, Ordering::Release);
            let waker = WAITING.with_borrow(|waiting| waiting.wakers.get(&caller.number).cloned());
            waker.into_iter().for_each(Waker::wake);
        }
        !callers.is_empty()
    }

    /// The executor ends: what is left here, now or later, wakes no task any more.
    pub(crate) fn close(&self) {
        let callers = {
            let mut left = lock(&self.left);
            left.is_closed = true;
            mem::take(&mut left.callers)
        };
        drop(callers);
    }

    pub(crate) fn ring(&self) {
        // Fails only if it has been rung 2^64 times and not been heard.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    fn leave(&self, caller: Arc<Caller>) {
        let must_ring = {
            let mut left = lock(&self.left);
            if left.is_closed {
                return;
            }
            left.callers.push(caller);
            mem::replace(&mut left.is_asleep, false)
        };
        if must_ring {
            self.ring();
        }
    }
}

/// Nothing panics while it is held.
fn lock(left: &Mutex<Left>) -> MutexGuard<'_, Left> {
    left.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What other threads get for a waker.
#[derive(Debug)]
struct Caller {
    mailbox: Arc<Mailbox>,
    /// Whose place it is.
    number: u64,
    /// It is in the mailbox.
    has_called: AtomicBool,
}

impl Wake for Caller {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.has_called.swap(true, Ordering::AcqRel) {
            self.mailbox.leave(Arc::clone(self));
        }
    }
}

/// A place among those who wait, until it is dropped.
struct Place(u64);

impl Place {
    fn new() -> Self {
        WAITING.with_borrow_mut(|waiting| {
            waiting.last += 1;
            Self(waiting.last)
        })
    }

    fn keep(&self, waker: &Waker) {
        WAITING.with_borrow_mut(|waiting| match waiting.wakers.get_mut(&self.0) {
            Some(kept) => kept.clone_from(waker),
            None => drop(waiting.wakers.insert(self.0, waker.clone())),
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let waker = WAITING.try_with(|waiting| waiting.borrow_mut().wakers.remove(&self.0));
        drop(waker);
    }
}

/// Awaits what another thread brings about. On a thread without an executor of this crate, simply awaits it.
pub async fn from_outside<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let Some(mailbox) = Looks::mailbox() else { return future.await };
    let place = Place::new();
    let waker =
        Waker::from(Arc::new(Caller { mailbox, number: place.0, has_called: AtomicBool::new(false) }));
    poll_fn(|cx| {
        place.keep(cx.waker());
        future.as_mut().poll(&mut Context::from_waker(&waker))
    })
    .await
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::sync::Condvar;
    use std::task::Poll;
    use std::time::Duration;

    use futures_lite::future;

    use super::*;
    use crate::run_on_executor;

    /// What another thread brings about.
    #[derive(Default)]
    struct Thing {
        has_come: bool,
        waker: Option<Waker>,
    }

    type Shared = Arc<(Mutex<Thing>, Condvar)>;

    async fn comes((thing, is_waited_for): &(Mutex<Thing>, Condvar)) {
        poll_fn(|cx| {
            let mut thing = thing.lock().unwrap();
            thing.waker = Some(cx.waker().clone());
            is_waited_for.notify_one();
            if mem::take(&mut thing.has_come) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Brings it about so many times, each time when it is waited for.
    fn bring((thing, is_waited_for): &(Mutex<Thing>, Condvar), times: usize) {
        for _ in 0..times {
            let thing = thing.lock().unwrap();
            let mut thing = is_waited_for.wait_while(thing, |thing| thing.waker.is_none()).unwrap();
            thing.has_come = true;
            let waker = thing.waker.take().unwrap();
            drop(thing);
            waker.wake();
        }
    }

    #[test]
    fn a_task_is_woken_by_another_thread_each_time() {
        const TIMES: usize = 200;
        let thing = Shared::default();
        let brings = Arc::clone(&thing);
        let bringing = std::thread::spawn(move || bring(&brings, TIMES));
        let ran = run_on_executor(None, async {
            for time in 0..TIMES {
                from_outside(comes(&thing)).await;
                // As it sleeps, and as it is about to.
                if time % 20 == 0 {
                    glommio::timer::sleep(Duration::from_millis(5)).await;
                }
            }
        });
        ran.unwrap();
        bringing.join().unwrap();
    }

    #[test]
    fn a_look_in_between_does_not_keep_later_wakes_from_an_executor_that_sleeps() {
        const TIMES: usize = 20;
        let thing = Shared::default();
        let brings = Arc::clone(&thing);
        let bringing = std::thread::spawn(move || bring(&brings, TIMES));
        let came = run_on_executor(None, async {
            let comes = async {
                for _ in 0..TIMES {
                    // Long enough for the task that looks to leave the waiting to the engine.
                    glommio::timer::sleep(Duration::from_millis(5)).await;
                    crate::look::look();
                    from_outside(comes(&thing)).await;
                }
                true
            };
            let late = async {
                glommio::timer::sleep(Duration::from_secs(120)).await;
                false
            };
            future::or(comes, late).await
        });
        assert!(came.unwrap());
        bringing.join().unwrap();
    }

    #[test]
    fn a_wake_for_a_task_that_waits_no_more_goes_nowhere() {
        let ran = run_on_executor(None, async {
            let thing = Shared::default();
            {
                let mut waits = pin!(from_outside(comes(&thing)));
                assert!(future::poll_once(&mut waits).await.is_none());
                assert_eq!(WAITING.with_borrow(|waiting| waiting.wakers.len()), 1);
            }
            assert!(WAITING.with_borrow(|waiting| waiting.wakers.is_empty()));
            let late = Arc::clone(&thing);
            std::thread::spawn(move || bring(&late, 1)).join().unwrap();
            from_outside(comes(&thing)).await;
        });
        ran.unwrap();
    }

    #[test]
    fn an_executor_that_sleeps_is_rung_for_once_and_one_that_has_mail_does_not_sleep() {
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let caller = |number| {
            let mailbox = Arc::clone(&mailbox);
            Arc::new(Caller { mailbox, number, has_called: AtomicBool::new(false) })
        };
        let (one, other) = (caller(1), caller(2));
        let rings = || {
            let mut count = [0; 8];
            rustix::io::read(mailbox.bell(), &mut count).map_or(0, |_| u64::from_ne_bytes(count))
        };
        assert!(mailbox.may_sleep());
        for _ in 0..3 {
            one.wake_by_ref();
            other.wake_by_ref();
        }
        assert_eq!((rings(), lock(&mailbox.left).callers.len()), (1, 2));
        assert!(!mailbox.may_sleep());
        assert!(mailbox.collect());
        one.wake_by_ref();
        assert_eq!((rings(), mailbox.collect(), mailbox.collect()), (0, true, false));
        assert!(mailbox.may_sleep());
    }

    #[test]
    fn what_is_left_for_an_executor_that_has_ended_does_not_keep_its_mailbox() {
        for is_left_before in [true, false] {
            let mailbox = Arc::new(Mailbox::new().unwrap());
            let caller = Arc::new(Caller {
                mailbox: Arc::clone(&mailbox),
                number: 1,
                has_called: AtomicBool::new(false),
            });
            if is_left_before {
                caller.wake_by_ref();
            }
            mailbox.close();
            caller.wake_by_ref();
            let kept = Arc::downgrade(&mailbox);
            drop((mailbox, caller));
            assert!(kept.upgrade().is_none(), "left before its end: {is_left_before}");
        }
    }

    #[test]
    fn without_an_executor_it_is_simply_awaited() {
        assert_eq!(future::block_on(from_outside(async { 7 })), 7);
    }
}
