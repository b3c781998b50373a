//! One core: what its tasks share, and what they do with it.
//!
//! `shared` holds the tables: `drive` (the relay, and what it has asked for), `conns`, `dials`, `figures`. On them work
//! `feed` (the relay hears what happened, and what it asks for is done), `coming_and_going` (of connections), `look_up`,
//! `pings` (what WebSocket clients are asked),
//! `sessions` (what the outside sees of them), `whole` (what concerns the core as a whole). What uses a core stands
//! above it: [`conn`](super::conn), [`listen`](super::listen), [`dial`](super::dial), [`migrate`](super::migrate),
//! [`inspect`](super::inspect), [`run`](super::run).
//!
//! Invariants: only `drive` borrows the relay, and never across an await; everything that may wait for something slow
//! is asked of the control plane; [`Tasks`](super::tasks::Tasks) holds every task.

mod coming_and_going;
mod conn;
mod conns;
mod dials;
mod drive;
mod feed;
mod figures;
mod look_up;
mod pings;
mod sessions;
mod shared;
mod whole;

pub(super) use conn::{Conn, Link, Phase};
pub(super) use dials::Dial;
pub(super) use shared::{CorePlan, Shared};
pub(super) use whole::CoreEnd;
