//! The admin socket: an operator's requests to a running relay, and its answers.
//!
//! A Unix socket; one request for each connection, a line of JSON; lines of JSON in answer, the last of which is
//! [`Answer::Done`] or [`Answer::Error`]. Threads of its own serve it. They ask the cores as an
//! [`Inspector`](crate::runtime::inspect::Inspector) does and may wait for them.
//!
//! Invariants: at most [`CLIENTS_MAX`] are served at a time, a request has at most [`REQUEST_BYTES_MAX`] bytes, a slow
//! client is given up; no secret is ever shown, and of a session's id only the prefix; the file's permissions alone
//! decide who may connect. Must not know how a relay is started or stopped; it passes on that an operator wants it.

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
