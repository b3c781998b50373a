//! Shows a thread outside the executor what should have ended.
//!
//! Timers of the executor keep the time limits. If an executor does not run at all, its timers do not run either. So
//! each limit is also noted here, where another thread can see that it is over. Invariant: a limit is noted for as long
//! as a task waits for what it limits.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Stage;

static WAITING: Mutex<Vec<Noted>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Noted {
    key: u64,
    at: Instant,
    what: Overdue,
}

/// Something that is over its time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} for {seconds} s")]
pub struct Overdue {
    /// How far things had come.
    pub stage: Stage,
    what: &'static str,
    seconds: u64,
}

/// A time limit that is noted until this is dropped.
#[derive(Debug)]
#[must_use = "dropped, the limit is noted no more"]
pub struct Due {
    key: u64,
    limit: Duration,
}

impl Due {
    /// For a step that belongs to this stage.
    pub(super) fn within(limit: Duration, stage: Stage) -> Self {
        let what = match stage {
            Stage::Connecting => "no answer",
            Stage::Authenticating => "no answer to AUTH",
            Stage::Transferring => "nothing moved on the connection",
        };
        Self::note(limit, stage, what)
    }

    /// For the engine to begin.
    pub fn beginning_within(limit: Duration) -> Self {
        Self::note(limit, Stage::Transferring, "the engine has not begun")
    }

    fn note(limit: Duration, stage: Stage, what: &'static str) -> Self {
        let mut waiting = waiting();
        let key = waiting.last().map_or(0, |last| last.key + 1);
        let what = Overdue { stage, what, seconds: limit.as_secs() };
        waiting.push(Noted { key, at: Instant::now() + limit, what });
        Self { key, limit }
    }

    /// The time begins anew.
    pub(super) fn again(&self) {
        let at = Instant::now() + self.limit;
        waiting().iter_mut().filter(|noted| noted.key == self.key).for_each(|noted| noted.at = at);
    }
}

impl Drop for Due {
    fn drop(&mut self) {
        waiting().retain(|noted| noted.key != self.key);
    }
}

/// What is over its time, if anything.
pub fn overdue() -> Option<Overdue> {
    let now = Instant::now();
    waiting().iter().find(|noted| noted.at < now).map(|noted| noted.what.clone())
}

fn waiting() -> MutexGuard<'static, Vec<Noted>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}
