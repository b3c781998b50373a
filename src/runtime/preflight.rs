//! What the machine must provide before a core can start, checked while a clear error is still possible.
//!
//! Owns the process's resource limits: raises those that may be raised, and says what an operator must do about the
//! others. Must not know the cores themselves.

use std::fs;
use std::io;

use engine::run_on_executor;
use rlimit::{INFINITY, Resource};

use super::tasks::panic_message;
use engine::ring;

/// Locked memory that an executor's rings and registered buffers need.
const MEMLOCK_PER_CORE: u64 = 512 << 10;

/// One obstacle to the relay's start.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// The kernel has io_uring, but not for this process.
    #[error(
        "io_uring is switched off (kernel.io_uring_disabled = {0}): run `sysctl -w kernel.io_uring_disabled=0`, \
         or with 1, add the relay's group to kernel.io_uring_group"
    )]
    IoUringDisabled(String),
    /// No ring could be made.
    #[error("{0}")]
    IoUring(String),
    /// The engine reads the list of CPUs, and panics if it cannot.
    #[error("/sys/devices/system/cpu cannot be read ({0}): let the relay's root or container have /sys")]
    Cpus(#[source] io::Error),
    /// The executors would not get their locked memory.
    #[error(
        "RLIMIT_MEMLOCK is {} KiB, but {cores} cores need {} KiB: set LimitMEMLOCK=infinity in the systemd unit, \
         or run `ulimit -l {}` as root first",
        limit >> 10, needed >> 10, needed >> 10
    )]
    MemLock {
        /// The limit, already raised to its maximum, in bytes.
        limit: u64,
        /// What is needed, in bytes.
        needed: u64,
        /// For how many cores.
        cores: usize,
    },
    /// A limit could not be read or set.
    #[error("{name} cannot be raised ({source}): set it in the systemd unit")]
    Limit {
        /// Which limit.
        name: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Raises RLIMIT_NOFILE and RLIMIT_MEMLOCK to their maximum, then checks that `cores` executors can start. Returns the
/// number of descriptors the process may have open.
///
/// # Errors
/// All obstacles, not only the first.
pub fn check(cores: usize) -> Result<u64, Vec<PreflightError>> {
    let mut errors = Vec::new();
    let descriptors = raise(Resource::NOFILE, "RLIMIT_NOFILE").unwrap_or_else(|error| {
        errors.push(error);
        0
    });
    errors.extend(fs::read_dir("/sys/devices/system/cpu").err().map(PreflightError::Cpus));
    let locked = raise(Resource::MEMLOCK, "RLIMIT_MEMLOCK").and_then(|limit| enough_locked(limit, cores));
    let probed = locked.and_then(|()| probe_io_uring());
    errors.extend(probed.err());
    if errors.is_empty() { Ok(descriptors) } else { Err(errors) }
}

/// Sets the soft limit to the hard one and returns it.
fn raise(resource: Resource, name: &'static str) -> Result<u64, PreflightError> {
    let wrapped = |source| PreflightError::Limit { name, source };
    let (soft, hard) = resource.get().map_err(wrapped)?;
    if soft < hard {
        resource.set(hard, hard).map_err(wrapped)?;
    }
    Ok(hard)
}

fn enough_locked(limit: u64, cores: usize) -> Result<(), PreflightError> {
    let needed = MEMLOCK_PER_CORE.saturating_mul(u64::try_from(cores).unwrap_or(u64::MAX));
    if limit == INFINITY || limit >= needed {
        Ok(())
    } else {
        Err(PreflightError::MemLock { limit, needed, cores })
    }
}

/// Makes one executor as the cores will, and drops it.
fn probe_io_uring() -> Result<(), PreflightError> {
    let explain = |reason: String| match disabled_by_sysctl() {
        Some(setting) => PreflightError::IoUringDisabled(setting),
        None => PreflightError::IoUring(ring::why_not(&reason)),
    };
    let probe = std::thread::Builder::new().name("probe".to_owned());
    let probe =
        probe.spawn(|| run_on_executor(None, async {})).map_err(|error| explain(error.to_string()))?;
    match probe.join() {
        Ok(ran) => ran.map_err(|error| explain(error.reason().to_owned())),
        Err(panic) => Err(explain(panic_message(panic.as_ref()))),
    }
}

fn disabled_by_sysctl() -> Option<String> {
    let setting = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?;
    Some(setting.trim().to_owned()).filter(|setting| setting != "0")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn too_little_locked_memory_is_told_with_its_remedy() {
        let error = enough_locked(1 << 20, 3).unwrap_err().to_string();
        assert!(error.contains("1024 KiB, but 3 cores need 1536 KiB"), "{error}");
        assert!(error.contains("LimitMEMLOCK=infinity") && error.contains("ulimit -l 1536"), "{error}");
    }

    #[test]
    fn enough_locked_memory_is_enough() {
        assert!(enough_locked(1 << 20, 2).is_ok());
        assert!(enough_locked(INFINITY, 1000).is_ok());
    }

    #[test]
    fn descriptors_are_raised_to_the_hard_limit() {
        let raised = raise(Resource::NOFILE, "RLIMIT_NOFILE").unwrap();
        assert_eq!(Resource::NOFILE.get().unwrap(), (raised, raised));
    }
}
