//! Runs that take minutes: `scripts/soak.sh` and `scripts/farm.sh` build this binary and run its ignored tests; the
//! orders come in the environment.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]
#![allow(clippy::cast_possible_truncation, reason = "bytes of one step fit wherever they go")]

mod driver;
mod farm;
mod soak;
