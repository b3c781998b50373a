//! Relays that meet each other, over real sockets, each in a process of its own: mutual TLS and what is wrong with it,
//! AUTH through one relay at the next, paths of up to four relays (RFC 4976, 4.2, 5.1, 6.3 and 9.2).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

#[path = "../support/authority.rs"]
mod authority;
#[path = "../loopback/support/mod.rs"]
mod support;
#[path = "../support/zone.rs"]
mod zone;

mod certificates;
mod memory;
mod paths;
mod scene;
mod worked_example;
