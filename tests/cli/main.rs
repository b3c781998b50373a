//! The `msrp` tool as its users meet it: two processes, real sockets, real files, exit statuses.
//!
//! Client to client, without a relay: no relay in between can correct what one end does wrong. Scripted partners (the
//! library's `Endpoint`) play the faulty ends. [`probe`] and [`bench`] have real relays.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod bench;
mod chains;
mod foreign;
mod limit;
mod probe;
mod receivers;
mod relays;
mod security;
mod senders;
mod slow;
mod transfers;
mod websocket;
