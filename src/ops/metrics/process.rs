//! The kernel's figures of this process. Unknown ones are left out.

use std::fs;
use std::time::Duration;

/// Figures of the process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    /// CPU time of all threads.
    pub(super) cpu: Option<Duration>,
    /// Memory in use.
    pub(super) resident_bytes: Option<u64>,
    pub(super) threads: Option<u64>,
    pub(super) open_fds: Option<u64>,
    pub(super) max_fds: Option<u64>,
}

/// Reads them.
pub(super) fn read() -> Process {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).ok();
    let nanoseconds = u32::try_from(time.tv_nsec).ok();
    Process {
        cpu: seconds.zip(nanoseconds).map(|(seconds, nanoseconds)| Duration::new(seconds, nanoseconds)),
        resident_bytes: field(&status, "VmRSS:").map(|kib| kib * 1024),
        threads: field(&status, "Threads:"),
        // One of them is the directory's own.
        open_fds: fs::read_dir("/proc/self/fd").ok().map(|all| all.count().saturating_sub(1) as u64),
        max_fds: rlimit::getrlimit(rlimit::Resource::NOFILE).ok().map(|(soft, _)| soft),
    }
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_can_be_read_here() {
        let process = read();
        assert!(process.cpu.unwrap() > Duration::ZERO);
        assert!(process.resident_bytes.unwrap() > 1 << 20);
        assert!(process.threads.unwrap() >= 1);
        assert!(process.open_fds.unwrap() >= 3 && process.max_fds.unwrap() > process.open_fds.unwrap());
    }
}
