//! Waiting for events, with an end for tests in which they never come.

use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// No single read, write or condition takes longer than this in a test that passes, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// No test takes longer than this: it only ends a test that hangs.
const WATCHDOG: Duration = Duration::from_secs(600);

/// Set in the process of a test that [`alone`] has started.
const ALONE: &str = "MSRPRELAY_TEST_ALONE";

/// Runs a test's body, and fails the test if it hangs.
pub fn bounded<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, ended) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let _done = done;
        body()
    });
    if ended.recv_timeout(WATCHDOG) == Err(RecvTimeoutError::Timeout) {
        panic!("the test hangs");
    }
    match thread.join() {
        Ok(value) => value,
        Err(failure) => std::panic::resume_unwind(failure),
    }
}

/// Runs the body of the test with this name (as `--list` prints it) in a process of its own, as [`bounded`] does. For a
/// test about something of its process, such as open descriptors, that other tests would change.
pub fn alone(test: &str, body: impl FnOnce() + Send + 'static) {
    if std::env::var_os(ALONE).is_some() {
        return bounded(body);
    }
    let this = std::env::current_exe().unwrap();
    let arguments = [test, "--exact", "--nocapture", "--test-threads=1"];
    let output = Command::new(this).args(arguments).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(said.contains("test result: ok. 1 passed;"), "there is no test {test}: {said}");
}

/// Looks again and again until there is something to see.
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "in vain waited for {what}");
        // Only so as not to take the processor away from the awaited event.
        std::thread::sleep(Duration::from_millis(5));
    }
}
