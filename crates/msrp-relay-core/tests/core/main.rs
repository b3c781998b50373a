//! The pure core from outside: no socket, a stepped clock, everything deterministic.
//!
//! One binary, with modules named by their subject. `rfc` has one test for each requirement that no other module tests;
//! `sim` is the seeded simulator; `vectors` are worked examples.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests state what must hold")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::disallowed_macros,
    reason = "the crate is pure, its tests need not be"
)]

mod auth;
mod binding;
mod failure;
mod growth;
mod limits;
mod meet;
mod rfc;
mod sim;
mod vectors;
mod websocket;
