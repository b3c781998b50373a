//! What the fuzzer runs: for each part of the relay that takes bytes from strangers, a function of bytes that panics
//! when an invariant is broken.
//!
//! The functions are ordinary code, so that `tests/sockets/abuse/fuzz_seeds.rs` runs them on the committed seeds in
//! `fuzz/seeds` and `fuzz/fuzz_targets` needs three lines for each. They use only the public interfaces of
//! [`msrp_proto`] and [`msrp_relay_core`]. `docs/dev/fuzzing.md` says how to run them and what they have found.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a broken promise is to be a panic: that is what the fuzzer looks for"
)]

mod conversation;
mod digest;
mod parser;
mod rewrite;
mod uri;
mod websocket;

use std::sync::LazyLock;

pub use conversation::conversation;
pub use digest::digest;
pub use parser::parser;
pub use rewrite::rewrite;
pub use uri::uri;
pub use websocket::websocket;

/// Prints each step if `FUZZ_TRACE` is set, for a person who replays a finding.
fn trace(what: impl FnOnce() -> String) {
    static WANTED: LazyLock<bool> = LazyLock::new(|| std::env::var_os("FUZZ_TRACE").is_some());
    if *WANTED {
        eprintln!("{}", what());
    }
}

/// Runs one input.
pub type Body = fn(&[u8]);

/// Every target of this crate: the name of its executable and of its seeds' directory, and what it runs.
pub const TARGETS: [(&str, Body); 6] = [
    ("parser", parser),
    ("rewrite", rewrite),
    ("digest", digest),
    ("uri", uri),
    ("websocket", websocket),
    ("conversation", conversation),
];
