//! One answer to one question, from another thread.
//!
//! Invariant: the answering thread has finished with the asker's waker before the asker can see the answer, or can
//! cease to wait. Waker and answer are behind one lock, and the waker is woken and dropped while the lock is held.
//!
//! The invariant makes it safe to wait on an executor of glommio-ng 0.12.0. Its tasks are freed by their own thread,
//! for example when the handle is dropped. If another thread has just counted a reference down to zero, in order to
//! count it up again and send the task home, the executor takes the reference for gone, and frees the task twice. An
//! asker that does not move until no other thread holds its waker never gets there. A usual oneshot channel does not
//! guarantee this; the queues of `async-channel` wake their listeners under the lock under which a listener leaves.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The two ends of a question.
pub(super) fn reply<T>() -> (Reply<T>, Asked<T>) {
    let state = Arc::new(Mutex::new(State::Open(None)));
    (Reply(Arc::clone(&state)), Asked(state))
}

#[derive(Debug)]
enum State<T> {
    /// Not answered; with the waker of the asker.
    Open(Option<Waker>),
    Answered(T),
    /// Taken, given up, or without an answer for good.
    Over,
}

type Shared<T> = Arc<Mutex<State<T>>>;

/// The answering end. Dropping it without an answer tells the asker that there will be none.
#[derive(Debug)]
pub(super) struct Reply<T>(Shared<T>);

impl<T> Reply<T> {
    /// Whether the asker still waits.
    pub(super) fn is_wanted(&self) -> bool {
        matches!(*lock(&self.0), State::Open(_))
    }

    /// Answers. If the asker has stopped waiting, the answer is dropped.
    pub(super) fn send(self, answer: T) {
        settle(&self.0, State::Answered(answer));
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        settle(&self.0, State::Over);
    }
}

/// The asking end: ready with `None` if there will be no answer.
#[derive(Debug)]
pub(super) struct Asked<T>(Shared<T>);

impl<T> Future for Asked<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = lock(&self.0);
        match &mut *state {
            State::Open(waker) => {
                if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            State::Answered(_) | State::Over => match std::mem::replace(&mut *state, State::Over) {
                State::Answered(answer) => Poll::Ready(Some(answer)),
                State::Open(_) | State::Over => Poll::Ready(None),
            },
        }
    }
}

impl<T> Drop for Asked<T> {
    fn drop(&mut self) {
        // Drops the waker too, on the asker's own thread. But not under the lock: dropping an answer may have effects.
        let over = std::mem::replace(&mut *lock(&self.0), State::Over);
        drop(over);
    }
}

/// Ends an open question; holds the lock until the waker is gone.
fn settle<T>(shared: &Shared<T>, end: State<T>) {
    let mut state = lock(shared);
    if let State::Open(waker) = &mut *state {
        let waker = waker.take();
        *state = end;
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Only a waker can panic while the lock is held, and then the state is whole.
fn lock<T>(shared: &Shared<T>) -> MutexGuard<'_, State<T>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::sync::mpsc;
    use std::task::Wake;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// A slow waker, as if the kernel gave the CPU to another thread in the middle of it.
    struct Slow {
        woken: mpsc::SyncSender<()>,
    }

    impl Wake for Slow {
        fn wake(self: Arc<Self>) {
            self.woken.send(()).unwrap();
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn slow() -> (Arc<Slow>, Waker, mpsc::Receiver<()>) {
        let (woken, is_woken) = mpsc::sync_channel(1);
        let slow = Arc::new(Slow { woken });
        (Arc::clone(&slow), Waker::from(slow), is_woken)
    }

    #[test]
    fn an_answer_is_seen_once_the_waker_is_in_no_other_hands() {
        let (reply, mut asked) = reply();
        let (counted, waker, is_woken) = slow();
        assert!(Pin::new(&mut asked).poll(&mut Context::from_waker(&waker)).is_pending());
        let answering = thread::spawn(move || reply.send(7));
        is_woken.recv().unwrap();
        let answer = Pin::new(&mut asked).poll(&mut Context::from_waker(&waker));
        assert_eq!((answer, Arc::strong_count(&counted)), (Poll::Ready(Some(7)), 2));
        answering.join().unwrap();
    }

    #[test]
    fn asker_that_gives_up_has_its_waker_to_itself_again() {
        let (reply, mut asked) = reply::<()>();
        let (counted, waker, is_woken) = slow();
        assert!(Pin::new(&mut asked).poll(&mut Context::from_waker(&waker)).is_pending());
        let answering = thread::spawn(move || drop(reply));
        is_woken.recv().unwrap();
        drop(asked);
        assert_eq!(Arc::strong_count(&counted), 2);
        answering.join().unwrap();
    }

    #[test]
    fn question_without_an_answer_ends_and_unawaited_answer_is_dropped() {
        let (reply, asked) = reply::<()>();
        drop(reply);
        assert_eq!(futures_lite::future::block_on(asked), None);
        let (reply, asked) = super::reply();
        drop(asked);
        let answer = Arc::new(());
        reply.send(Arc::clone(&answer));
        assert_eq!(Arc::strong_count(&answer), 1);
    }
}
