//! The `msrp` tool as its users meet it: two processes, real sockets, real files, exit statuses.
//!
//! Client to client, without a relay: what one end does wrong cannot be made good by a relay in between. Scripted partners
//! (the library's `Endpoint`) play those that misbehave.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

mod chains;
mod foreign;
mod receivers;
mod relays;
mod scene;
mod security;
mod senders;
mod slow;
mod transfers;
#[path = "../support/zone.rs"]
mod zone;
