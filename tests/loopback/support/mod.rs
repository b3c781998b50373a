//! What the tests over real sockets stand on: a blocking MSRP endpoint, a relay in this process or in one of its own.
//!
//! The endpoints write their frames as text of their own, so that a slip in the library's writer shows; they read
//! with the library's parser. Nothing here waits for a time to pass: everything waits for something to happen, and
//! [`bounded`] ends a test in which it never does.
#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

pub(crate) mod account;
pub(crate) mod endpoint;
pub(crate) mod frame;
pub(crate) mod process;
pub(crate) mod relay;
pub(crate) mod scrape;
pub(crate) mod transfer;

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// No single read, write or condition takes longer than this in a test that passes, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// No test takes longer than this: it only ends one that hangs.
const WATCHDOG: Duration = Duration::from_secs(600);

/// Runs a test's body, and fails the test if it hangs.
pub(crate) fn bounded<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
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

/// Looks again and again until there is something to see.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "in vain waited for {what}");
        // Only so as not to take the processor away from what is waited for.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Octets that look random, the same ones for the same seed.
pub(crate) fn contents(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
    let mut octets = Vec::with_capacity(len + 8);
    while octets.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        octets.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    octets.truncate(len);
    octets
}

/// Compares long contents without printing megabytes.
#[track_caller]
pub(crate) fn assert_same(received: &[u8], sent: &[u8]) {
    let differ = received.iter().zip(sent).position(|(a, b)| a != b);
    assert_eq!(differ, None, "first octet that differs");
    assert_eq!(received.len(), sent.len(), "octets received");
}
