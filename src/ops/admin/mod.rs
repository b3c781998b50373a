//! The admin socket: what an operator asks of a running relay, and is told.
//!
//! A Unix socket; one request for each connection, a line of JSON; lines of JSON in answer, the last of which is
//! [`Answer::Done`] or [`Answer::Error`]. It is served by threads of its own, which ask the cores as an
//! [`Inspector`](crate::runtime::inspect::Inspector) does and may wait for them.
//!
//! Invariants: at most [`CLIENTS_MAX`] are served at a time, a request has at most [`REQUEST_BYTES_MAX`] bytes, a slow
//! client is given up; no secret is ever told, a session's id is no more than its prefix; who may connect is up to the
//! file's permissions alone.
//! Must not know: how a relay is started or stopped; it says that an operator wants it.

mod client;
mod protocol;
mod redact;
mod server;

pub use client::{AskError, ask};
pub use protocol::{
    Answer, CLIENTS_MAX, Core, DRAIN_SECONDS_MAX, Head, Listening, REQUEST_BYTES_MAX, Request, SOCKET_PATH,
    Session, Status, TRACE_SECONDS_MAX,
};
pub use server::{Admin, AdminError, Desk, Reloaded};
