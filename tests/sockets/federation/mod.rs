//! Relays among themselves (RFC 4976, 5.1 and 9.2): which peers count as relays, clients behind several relays, and
//! requests between relays. [`relays`] has scripted clients, [`users`] the `msrp` tool.

mod certificates;
mod memory;
mod paths;
mod refusals;
mod relays;
mod transfers;
mod users;
mod worked_example;
