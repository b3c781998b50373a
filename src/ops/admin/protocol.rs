//! The protocol of the admin socket: a request and its answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where the socket is if the command line names no other; the unit makes the directory.
pub const SOCKET_PATH: &str = "/run/msrprelay/admin.sock";
/// Clients served at a time; one more is told to try again.
pub const CLIENTS_MAX: usize = 8;
/// The longest drain, in seconds: as long as `drain_timeout` may be.
pub const DRAIN_SECONDS_MAX: u64 = 86_400;
/// The longest trace, in seconds.
pub const TRACE_SECONDS_MAX: u64 = 3600;
/// The longest request, in bytes, its line break included.
pub const REQUEST_BYTES_MAX: usize = 4096;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The relay's state: one [`Answer::Status`], and another one for a predecessor that still drains.
    Status {},
    /// All sessions, or those of one user: an [`Answer::Session`] for each.
    Sessions {
        /// The user, with or without the realm after an `@`; absent: all users.
        user: Option<String>,
    },
    /// To end the session with this prefix: one [`Answer::Closed`].
    Close {
        /// Prefix of its id.
        session: String,
    },
    /// To stop as SIGTERM does.
    Drain {
        /// How long sessions may go on, in seconds; absent: `drain_timeout` of the config.
        seconds: Option<u64>,
    },
    /// To show the heads that clients send and receive: an [`Answer::Head`] for each, after an [`Answer::Note`] if
    /// there is nothing to show yet.
    Trace {
        /// A user, with or without the realm after an `@`, or the prefix of a session's id.
        of: String,
        /// For how long.
        seconds: u64,
    },
    /// To read the config again, as SIGHUP does: an [`Answer::Note`] for each key that takes a restart.
    Reload {},
    /// To log more, or less, until the next reload or start.
    LogLevel {
        /// As `log.level` in the config.
        level: String,
    },
}

/// A line of the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The state of the relay.
    Status(Status),
    /// A session.
    Session(Session),
    /// A head that was received or sent.
    Head(Head),
    /// A session ends.
    Closed {
        /// Prefix of its id.
        session: String,
        /// The user.
        user: String,
        /// The realm.
        realm: String,
    },
    /// Useful information that is not a result.
    Note(String),
    /// The answer is complete.
    Done,
    /// The request fails: why, and what to do about it.
    Error(String),
}

/// The state of a relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// `running` or `draining`.
    pub state: String,
    /// Seconds since it was ready.
    pub uptime_seconds: u64,
    /// Where it listens.
    pub listening: Vec<Listening>,
    /// Whether accounts can be asked.
    pub accounts_ready: bool,
    /// The least severe lines that are logged.
    pub log_level: String,
    /// Open sessions.
    pub sessions: u64,
    /// Open connections, accepted and dialled.
    pub connections: u64,
    /// Sessions that have come to the core of the session that they are bound to.
    #[serde(default)]
    pub moved: u64,
    /// Those that have not, though they are bound to one on another core, by the reason.
    #[serde(default)]
    pub stayed: BTreeMap<String, u64>,
    /// The figures of each core; at most a quarter of a second old.
    pub cores: Vec<Core>,
}

/// A head that was received or sent, without its secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Seconds since the trace began.
    pub at_seconds: f64,
    /// The core it was on.
    pub core: usize,
    /// Prefix of the session's id.
    pub session: String,
    /// The user.
    pub user: String,
    /// `in`: the relay received it; `out`: the relay sent it.
    pub direction: String,
    /// Its lines.
    pub head: String,
    /// Heads of this core that were dropped before it, because the reader was too slow.
    pub dropped: u64,
}

/// An address that is listened on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// Address and port.
    pub address: String,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// The figures of one core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Core {
    /// Its position, from 0.
    pub core: usize,
    /// Open connections.
    pub connections: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Chunks received so far.
    pub chunks_in: u64,
    /// Chunks sent on so far.
    pub chunks_out: u64,
    /// Body bytes received so far.
    pub body_bytes_in: u64,
    /// Body bytes sent on so far.
    pub body_bytes_out: u64,
    /// How often it was restarted.
    pub restarts: u64,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Prefix of its id: what `close` takes.
    pub session: String,
    /// The user.
    pub user: String,
    /// The realm.
    pub realm: String,
    /// `unbound` (no peer at the other side yet), `bound`, `lost` (the other side is gone), or `expired`.
    pub state: String,
    /// The core it is on.
    pub core: usize,
    /// Its process, if that is a draining predecessor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining_pid: Option<u32>,
    /// Seconds since it was opened.
    pub age_seconds: u64,
    /// Seconds until it ends, unless it is prolonged; absent: it lives as long as its connection.
    pub expires_in_seconds: Option<u64>,
    /// Where the client comes from.
    pub client: Option<String>,
    /// What it came by: `tls`, `tcp`, `wss` or `ws`; absent behind another relay.
    #[serde(default)]
    pub transport: Option<String>,
    /// The other side: an address, a host and port, or `session` and a prefix, for a session of this relay.
    pub peer: Option<String>,
    /// Body bytes from the client.
    pub bytes_from_client: u64,
    /// Body bytes for the client.
    pub bytes_to_client: u64,
}
