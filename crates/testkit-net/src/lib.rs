//! What the tests over real sockets share: a blocking MSRP endpoint, relays in this process and in processes of their
//! own, certificates, names, databases, the `msrp` tool.
//!
//! The endpoints write their frames as text of their own, so that an error in the library's writer shows; they read
//! with the library's parser. Nothing here waits for a time to pass: everything waits for an event, and [`bounded`]
//! ends a test in which the event never comes.
#![allow(missing_docs, reason = "fixtures of tests; the names say it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "what cannot be set up fails the test")]

pub mod account;
pub mod authority;
pub mod endpoint;
pub mod frame;
pub mod mariadb;
pub mod postgres;
pub mod process;
pub mod relay;
pub mod scrape;
pub mod sql;
pub mod subscribers;
pub mod tool;
pub mod transfer;
mod wait;
pub mod websocket;
pub mod zone;

pub use wait::{PATIENCE, alone, bounded, until};

/// Bytes that look random, the same ones for the same seed.
pub fn contents(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Compares long contents without printing megabytes.
#[track_caller]
pub fn assert_same(received: &[u8], sent: &[u8]) {
    let differ = received.iter().zip(sent).position(|(a, b)| a != b);
    assert_eq!(differ, None, "first byte that differs");
    assert_eq!(received.len(), sent.len(), "bytes received");
}
