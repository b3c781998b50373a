//! The relay over real sockets and TLS: what clients, endpoints and other relays see of it, and what attackers do not get.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod abuse;
mod clients;
mod core_death;
mod crowd;
mod delivery;
mod discovery;
mod federation;
mod first_session;
mod hand_over;
mod meet;
mod refusals;
mod resilience;
mod stop;
mod websocket;
