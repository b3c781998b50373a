//! Clients behind several relays (RFC 4976, 5.1): the tool and real relays, which know each other by certificates of one
//! throw-away authority and find each other by name. Paths of two, three and four relays, and what a user is told when a
//! relay further out does not want him.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

#[path = "../support/authority.rs"]
mod authority;
mod refusals;
mod stage;
#[path = "../loopback/support/mod.rs"]
mod support;
mod transfers;
#[allow(dead_code, reason = "the soak uses the rest")]
#[path = "../soak/watch.rs"]
mod watch;
#[path = "../support/zone.rs"]
mod zone;
