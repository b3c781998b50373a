//! One test for each requirement on a relay that no other test covers; the requirement's id stands before it.
//!
//! The ids are those of `docs/dev/conformance.md`, which says what each requires and names its tests. Everything here
//! runs in the world of `testkit-pure`: no sockets, a stepped clock.

mod auth;
mod codes;
mod connections;
mod expiry;
mod extensions;
mod forwarding;
mod hygiene;
mod interop;
mod malformed;
mod max_chunk;
mod pieces;
mod relays;
mod relays_abuse;
mod renewal;
mod sending;

use testkit_pure::Frame;

/// An endpoint that no relay of this world serves.
const FAR: &str = "msrps://203.0.113.40:49300/p8Yc2nB6vH1xLk;tcp";

/// Methods and codes, in the order in which they arrived.
fn words(frames: &[Frame]) -> Vec<&str> {
    frames.iter().map(Frame::method).collect()
}
