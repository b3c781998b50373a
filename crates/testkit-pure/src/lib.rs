//! What tests of the pure crates share: a simulated world, frames, scripted endpoints; and what the fuzzer runs.
//!
//! No sockets and no sleeps: bytes go through the parser as a runtime would feed them, messages between cores wait in a
//! queue per ordered pair, the test decides the answers to look-ups and dials, and time moves when the test says so.
//! Everything is deterministic. Unit tests of the crates that this one depends on cannot use it.
#![allow(missing_docs, reason = "fixtures of tests; the names say it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "what cannot be set up fails the test")]

mod clients;
pub mod crowd;
pub mod dice;
pub mod endpoint;
pub mod frame;
pub mod fuzz;
pub mod line;
pub mod rig;
pub mod vectors;
mod world;

pub use clients::{Pair, answer_challenge, auth_with, challenged, relay_uri};
pub use endpoint::{Endpoint, Frame};
pub use frame::Request;
pub use world::{
    ADDRESS, Conn, Decision, Dial, HOST, Link, LookUp, PORT, READ_MAX, REALM, Reader, World, settings,
};
