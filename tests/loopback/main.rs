//! The relay over real sockets, as clients and operators meet it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod support;

mod clients;
mod crowd;
mod delivery;
mod hand_over;
mod refusals;
mod resilience;
mod stop;
