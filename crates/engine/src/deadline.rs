//! A moment after which waiting ends.
//!
//! glommio's own timer registers anew on each poll while it is pending, and each registration stays until it fires. A
//! future that waits for bytes *or* a timer may be polled thousands of times and would leave as many registrations.
//! This timer registers once.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use glommio::timer::Timer;

/// Ready from a moment on. Only one task may await it: the first waker is the one that is woken.
#[derive(Debug)]
pub struct Deadline {
    at: Instant,
    timer: Option<Timer>,
}

impl Deadline {
    /// Ready at `at`.
    #[must_use]
    pub fn at(at: Instant) -> Self {
        Self { at, timer: None }
    }

    /// Ready when `time` has passed from now.
    #[must_use]
    pub fn after(time: Duration) -> Self {
        Self::at(Instant::now() + time)
    }
}

impl Future for Deadline {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        if self.at <= now {
            return Poll::Ready(());
        }
        if self.timer.is_none() {
            // A little late rather than a little early: an early wake would find no waker registered.
            let mut timer = Timer::new(self.at - now + Duration::from_millis(1));
            let polled = Pin::new(&mut timer).poll(cx);
            self.timer = Some(timer);
            if polled.is_ready() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::run_on_executor;

    #[test]
    fn it_is_ready_from_its_moment_on_however_often_it_is_polled() {
        let ran = run_on_executor(None, async {
            let start = Instant::now();
            let mut polls = 0;
            // On a busy machine a short time may be over before the first poll.
            for time in [30, 300, 3000, 30_000].map(Duration::from_millis) {
                let start = Instant::now();
                let mut deadline = Deadline::after(time);
                while futures_lite::future::poll_once(&mut deadline).await.is_none() {
                    polls += 1;
                    glommio::executor().yield_task_queue_now().await;
                }
                assert!(start.elapsed() >= time);
                if polls > 0 {
                    break;
                }
            }
            assert!(polls > 0);
            Deadline::after(Duration::from_millis(20)).await;
            let mut past = Deadline::at(start);
            assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut past).poll(cx).is_ready())).await);
        });
        assert!(ran.is_ok());
    }
}
