//! Why io_uring may be missing: the kernel, or the surroundings of this process.
//!
//! Says what is wrong and what to do, for the relay and its client alike. Pure, except that it looks at `/proc` and at
//! the marks of containers. Must not know the engine.

use std::fs;

/// What is wrong and what to do, from a library's words about an executor that it cannot make.
#[must_use]
pub fn why_not(reason: &str) -> String {
    // The library gives the error's number only as text.
    let number = reason.split("(os error ").nth(1).and_then(|rest| rest.split(')').next());
    let errno = number.and_then(|number| number.parse().ok());
    // After the first sentence the library says what it believes to be the cause, without having looked.
    let short = reason.split(". ").next().unwrap_or_default();
    format!("io_uring does not work here ({short}): {}", Surroundings::found().remedy(errno))
}

/// What explains a missing ring.
#[derive(Debug)]
struct Surroundings {
    /// As `uname -r` says it.
    release: String,
    /// Calls of this process are filtered.
    filtered: bool,
    /// It runs in a container.
    contained: bool,
}

impl Surroundings {
    fn found() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let seccomp = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            release: release.trim().to_owned(),
            filtered: seccomp.is_some_and(|mode| mode.trim() != "0"),
            // Under `--read-only`, Podman's mark is missing, but its variable is set.
            contained: std::env::var_os("container").is_some()
                || ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| fs::exists(mark).unwrap_or(false)),
        }
    }

    /// Filters answer EPERM. Some answer ENOSYS, which otherwise comes from a kernel without io_uring.
    fn remedy(&self, errno: Option<i32>) -> String {
        const FILTER: &str = "let it allow io_uring_setup, io_uring_enter and io_uring_register (docker, podman: \
                              --security-opt seccomp=PROFILE; systemd: name them in SystemCallFilter)";
        let Self { release, .. } = self;
        if self.is_too_old() {
            return format!("Linux {release} is too old, run 5.8 or later");
        }
        let by = if self.contained { "the container's seccomp profile" } else { "a seccomp filter" };
        match errno {
            Some(EPERM | EACCES) if self.filtered || self.contained => format!("{by} forbids it: {FILTER}"),
            Some(ENOSYS) if self.filtered || self.contained => format!(
                "{by} forbids it, or, less likely, this kernel ({release}) is built without it. If it is the filter: {FILTER}; \
                 if it is the kernel: run one with CONFIG_IO_URING"
            ),
            Some(ENOMEM) => "too little memory may be locked: raise `ulimit -l`, or LimitMEMLOCK".to_owned(),
            Some(ENOSYS) => {
                format!("this kernel ({release}) is built without it: run one with CONFIG_IO_URING")
            }
            Some(EPERM | EACCES) => {
                "the system forbids it: see kernel.io_uring_disabled, and the rules of SELinux or AppArmor"
                    .to_owned()
            }
            _ => {
                format!("run on Linux 5.8 or later (this is {release}), and if calls are filtered, {FILTER}")
            }
        }
    }

    fn is_too_old(&self) -> bool {
        let mut numbers = self.release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
        (numbers.next()).is_some_and(|major| (major, numbers.next().unwrap_or(0)) < (5, 8))
    }
}

/// Operation not permitted; cannot allocate memory; permission denied; function not implemented.
const EPERM: i32 = 1;
const ENOMEM: i32 = 12;
const EACCES: i32 = 13;
const ENOSYS: i32 = 38;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_io_uring_is_told_by_what_forbids_it() {
        let told = |release: &str, filtered, contained, errno| {
            Surroundings { release: release.to_owned(), filtered, contained }.remedy(errno)
        };
        let old = told("4.19.0-27-amd64", false, false, Some(ENOSYS));
        assert_eq!(old, "Linux 4.19.0-27-amd64 is too old, run 5.8 or later");
        assert!(told("5.7", true, true, None).contains("too old"));
        let forbidden = told("6.1.0-18-amd64", true, true, Some(EPERM));
        assert!(
            forbidden.starts_with("the container's seccomp profile forbids it: let it allow io_uring_setup")
        );
        assert!(told("6.1.0", true, false, Some(EPERM)).starts_with("a seccomp filter forbids it"));
        // Some runtimes report a forbidden call as one that does not exist.
        let either = told("6.1.0", true, true, Some(ENOSYS));
        assert!(
            either.contains("seccomp profile forbids it, or") && either.contains("CONFIG_IO_URING"),
            "{either}"
        );
        let built_without = told("6.1.0", false, false, Some(ENOSYS));
        assert!(built_without.starts_with("this kernel (6.1.0) is built without it"), "{built_without}");
        assert!(told("6.1.0", false, false, Some(EPERM)).contains("SELinux"));
        assert!(told("", false, false, None).contains("5.8"));
    }

    #[test]
    fn words_of_the_library_are_cut_to_what_is_wrong() {
        let told = why_not(
            "failed to create an io_uring: Nope (os error 38). The kernel does not implement io_uring at all",
        );
        assert!(
            told.starts_with(
                "io_uring does not work here (failed to create an io_uring: Nope (os error 38)): "
            ),
            "{told}"
        );
        assert!(!told.contains("at all"), "{told}");
    }
}
