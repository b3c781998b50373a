//! CPU time and memory of processes, as the kernel accounts for them.
//!
//! `schedstat` counts nanoseconds for each thread; a kernel without it has `stat`, which counts ticks, usually
//! hundredths of a second. Threads that have ended are only in `stat`.

use std::fs;
use std::time::Duration;

use crate::outcome::Failure;

/// Positions in `stat`.
const MINOR_FAULTS: usize = 7;
const USER_TICKS: usize = 11;
const SYSTEM_TICKS: usize = 12;

/// The processes to measure.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    pids: Vec<u32>,
}

impl Meter {
    /// Other processes; an error if one cannot be measured.
    pub(crate) fn of(pids: &[u32]) -> Result<Self, Failure> {
        let meter = Self { pids: pids.to_vec() };
        for &pid in pids {
            if cpu_of(pid).is_none() {
                return Err(Failure::Usage(format!(
                    "--relay-pid {pid}: no such process, or not ours to look at"
                )));
            }
        }
        Ok(meter)
    }

    /// This process.
    pub(crate) fn own() -> Self {
        Self { pids: vec![std::process::id()] }
    }

    /// User and system time of all of them; `None` if there are none, or one has ended.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        if self.pids.is_empty() {
            return None;
        }
        self.pids.iter().map(|&pid| cpu_of(pid)).sum()
    }

    /// Page faults of all of them that needed no disk. Many while files pass show that the allocator returns memory to
    /// the kernel and fetches it again.
    pub(crate) fn page_faults(&self) -> Option<u64> {
        if self.pids.is_empty() {
            return None;
        }
        self.pids.iter().map(|&pid| stat_field(pid, MINOR_FAULTS)).sum()
    }

    /// Resident memory of all of them, in bytes.
    pub(crate) fn resident(&self) -> Option<u64> {
        if self.pids.is_empty() {
            return None;
        }
        self.pids.iter().map(|&pid| resident_of(pid)).sum()
    }
}

fn cpu_of(pid: u32) -> Option<Duration> {
    cpu_by_threads(pid).or_else(|| cpu_by_ticks(pid))
}

/// `None` if the kernel does not count so. A thread that ends takes its time with it.
fn cpu_by_threads(pid: u32) -> Option<Duration> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let counts: Vec<u64> = threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("schedstat")).ok())
        .map(|counts| counts.split_whitespace().next()?.parse().ok())
        .collect::<Option<_>>()?;
    (!counts.is_empty()).then(|| Duration::from_nanos(counts.iter().sum()))
}

fn cpu_by_ticks(pid: u32) -> Option<Duration> {
    // USER_HZ is 100 on every Linux.
    Some(Duration::from_millis((stat_field(pid, USER_TICKS)? + stat_field(pid, SYSTEM_TICKS)?) * 10))
}

/// A field of `stat`, counted from the one after the command's name, which may hold anything, parentheses too.
fn stat_field(pid: u32, position: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split_whitespace().nth(position)?.parse().ok()
}

fn resident_of(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?
        .trim()
        .strip_suffix("kB")?
        .trim()
        .parse()
        .ok()?;
    Some(kib << 10)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_counting_cpu_agree() {
        let pid = std::process::id();
        let mut sum = 0_u64;
        // Threads that have ended are only in the other file.
        while cpu_by_threads(pid).unwrap() < Duration::from_millis(200) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu_by_ticks(pid).unwrap() > Duration::from_millis(150));
        assert!(Meter::own().resident().unwrap() > 1 << 20);
    }

    #[test]
    fn an_empty_list_of_processes_has_no_cpu_time() {
        assert!(Meter::of(&[u32::MAX]).is_err());
        assert_eq!(Meter::of(&[]).unwrap().cpu(), None);
    }
}
