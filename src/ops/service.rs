//! Notifies the service manager, through the socket that NOTIFY_SOCKET names.
//!
//! Invariants: without a service manager, everything here does nothing; its watchdog is fed only after a span of time
//! in which every core has worked, so a core that is stuck, dead, or dies repeatedly, starves it. Must not know what a
//! core does; it sees counts that rise.

use std::fmt::Write as _;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::telemetry::PUBLISHED_EVERY;

/// Feedings within the time that the service manager grants: two may fail.
const FEEDINGS: u32 = 3;
/// A core is alive if it has beaten this part of the expected number: a machine may be slow, but a core that restarts
/// repeatedly beats once in each of its lives.
const BEATS_DUE: u32 = 4;

/// The relay listens and every core is up, also after a reload. `status` is for people.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The config is read again; [`ready`] follows.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(reason = %error, "The service manager cannot be told the time"),
    }
}

/// The successor has died and this process serves again: the service manager follows it as before.
pub fn taken_back(status: &str) {
    tell(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready, NotifyState::Status(status)]);
}

/// The successor has ended in order while this process still drains: this is the last process of the service.
pub fn followed_again() {
    tell(&[NotifyState::MainPid(std::process::id())]);
}

/// Sets the status line for people, and nothing else.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// A successor takes over; the service manager follows it from here on.
pub fn succeeded_by(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// How long the service manager waits after each [`draining`]: three of them may get lost. Also enough for the orderly
/// end after the last one.
const DRAINING_GRANTED: Duration = Duration::from_secs(40);
/// How often to call [`draining`].
pub const DRAINING_SAID_EVERY: Duration = Duration::from_secs(10);

/// The relay ends once its sessions have ended, or have had their time. Prolongs the manager's own time-out.
pub fn draining(sessions: u64) {
    let status = format!("Draining; sessions left: {sessions}");
    let granted = u32::try_from(DRAINING_GRANTED.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(granted), NotifyState::Status(&status)]);
}

/// The relay is ending.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("Closing connections")]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(reason = %error, "The service manager cannot be told");
    }
}

/// Feeds the service manager's watchdog from a thread of its own, until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the feeding"]
pub struct Watchdog {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A [`Watchdog`]'s verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Every core has worked.
    Alive,
    /// These have not; the watchdog is not fed.
    Silent(Vec<usize>),
}

impl Watchdog {
    /// Begins, if the service manager asked for it. `beats` returns how often each core has beaten so far.
    pub fn start(beats: impl Fn() -> Vec<u64> + Send + 'static) -> Option<Self> {
        let granted = sd_notify::watchdog_enabled()?;
        let mut silent = false;
        let tell = move |finding: &Finding| match finding {
            Finding::Alive => {
                if std::mem::take(&mut silent) {
                    tell(&[NotifyState::Status("Every core works again")]);
                }
                tell(&[NotifyState::Watchdog]);
            }
            Finding::Silent(cores) => {
                silent = true;
                let mut status = "The watchdog is not fed: no work done by core".to_owned();
                for core in cores {
                    // Writing to a String cannot fail.
                    let _ = write!(status, " {core}");
                }
                tracing::error!(?cores, "Cores do not work; the watchdog is not fed");
                tell(&[NotifyState::Status(&status)]);
            }
        };
        Self::start_with(granted, beats, tell)
    }

    /// The same with this time, and another receiver of the verdicts. `None` if no thread can be started, which the
    /// service manager will notice.
    #[doc(hidden)]
    pub fn start_with(
        granted: Duration,
        beats: impl Fn() -> Vec<u64> + Send + 'static,
        mut tell: impl FnMut(&Finding) + Send + 'static,
    ) -> Option<Self> {
        let (stop, stopped) = mpsc::channel();
        let span = granted / FEEDINGS;
        let body = move || {
            let mut before = beats();
            while stopped.recv_timeout(span) == Err(RecvTimeoutError::Timeout) {
                let now = beats();
                tell(&judge(&before, &now, span));
                before = now;
            }
        };
        match thread::Builder::new().name("watchdog".to_owned()).spawn(body) {
            Ok(thread) => Some(Self { stop: Some(stop), thread: Some(thread) }),
            Err(error) => {
                tracing::error!(reason = %error, "The watchdog cannot be fed");
                None
            }
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A feeder that panicked has logged it, and the watchdog was not fed.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The verdict on the cores between two looks.
fn judge(before: &[u64], now: &[u64], span: Duration) -> Finding {
    let beats = u64::try_from(span.as_millis() / PUBLISHED_EVERY.as_millis()).unwrap_or(u64::MAX);
    let due = (beats / u64::from(BEATS_DUE)).max(1);
    let worked = |core: &usize| {
        now.get(*core).copied().unwrap_or(0).saturating_sub(before.get(*core).copied().unwrap_or(0))
    };
    let silent: Vec<_> = (0..now.len()).filter(|core| worked(core) < due).collect();
    if silent.is_empty() { Finding::Alive } else { Finding::Silent(silent) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    const TEN_SECONDS: Duration = Duration::from_secs(10);

    #[test]
    fn one_core_that_stands_still_is_enough_to_starve_the_watchdog() {
        assert_eq!(judge(&[7, 9], &[47, 49], TEN_SECONDS), Finding::Alive);
        assert_eq!(judge(&[7, 9], &[47, 9], TEN_SECONDS), Finding::Silent(vec![1]));
        assert_eq!(judge(&[7, 9], &[7, 9], TEN_SECONDS), Finding::Silent(vec![0, 1]));
    }

    #[test]
    fn slow_is_alive_and_dying_again_and_again_is_not() {
        // Ten seconds hold forty beats.
        assert_eq!(judge(&[0], &[10], TEN_SECONDS), Finding::Alive);
        assert_eq!(judge(&[0], &[9], TEN_SECONDS), Finding::Silent(vec![0]));
        // A span shorter than a few beats needs one.
        assert_eq!(judge(&[0], &[1], Duration::from_millis(300)), Finding::Alive);
        assert_eq!(judge(&[1], &[1], Duration::from_millis(300)), Finding::Silent(vec![0]));
    }

    #[test]
    fn it_ends_when_it_is_dropped() {
        let (told, findings) = mpsc::channel();
        let tell = move |finding: &Finding| drop(told.send(finding.clone()));
        let watchdog = Watchdog::start_with(Duration::from_millis(3), || vec![0], tell).unwrap();
        assert_eq!(findings.recv().unwrap(), Finding::Silent(vec![0]));
        drop(watchdog);
        // Its thread, which held the sender, is gone.
        assert!(findings.iter().all(|finding| finding == Finding::Silent(vec![0])));
    }

    #[test]
    fn without_a_service_manager_there_is_no_watchdog() {
        assert!(sd_notify::watchdog_enabled().is_some() || Watchdog::start(Vec::new).is_none());
    }
}
