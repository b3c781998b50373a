//! What is said over the admin socket: a request, and its answers.

use serde::{Deserialize, Serialize};

/// Where the socket is if the command line names no other; the unit makes the directory.
pub const SOCKET_PATH: &str = "/run/msrprelay/admin.sock";
/// Clients served at a time; one more is told to come again.
pub const CLIENTS_MAX: usize = 8;
/// The longest drain, in seconds: as long as `drain_timeout` may be.
pub const DRAIN_SECONDS_MAX: u64 = 86_400;
/// The longest trace, in seconds.
pub const TRACE_SECONDS_MAX: u64 = 3600;
/// The longest request, in bytes, its line break included.
pub const REQUEST_BYTES_MAX: usize = 4096;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How it is: one [`Answer::Status`], and another one for a process before this one that still drains.
    Status {},
    /// All sessions, or those of one user: an [`Answer::Session`] for each.
    Sessions {
        /// The user, with or without the realm behind an `@`; absent: everybody.
        user: Option<String>,
    },
    /// To end the session whose id begins like that: one [`Answer::Closed`].
    Close {
        /// Prefix of its id.
        session: String,
    },
    /// To stop as SIGTERM does.
    Drain {
        /// How long sessions may go on, in seconds; absent: `drain_timeout` of the config.
        seconds: Option<u64>,
    },
    /// To show what clients send and are sent, heads alone: an [`Answer::Head`] for each, and an [`Answer::Note`] before if
    /// there is nothing to show yet.
    Trace {
        /// A user, with or without the realm behind an `@`, or the beginning of a session's id.
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
    /// How the relay is.
    Status(Status),
    /// A session.
    Session(Session),
    /// A head that was received or sent.
    Head(Head),
    /// A session ends.
    Closed {
        /// Prefix of its id.
        session: String,
        /// Whose it was.
        user: String,
        /// And for which realm.
        realm: String,
    },
    /// Something to know that is no result.
    Note(String),
    /// All has been said.
    Done,
    /// It cannot be done: why, and what to do about it.
    Error(String),
}

/// How the relay is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// `running` or `draining`.
    pub state: String,
    /// Since it was ready.
    pub uptime_seconds: u64,
    /// Where it listens.
    pub listening: Vec<Listening>,
    /// Whether accounts can be asked.
    pub accounts_ready: bool,
    /// The least severe lines that are logged.
    pub log_level: String,
    /// Sessions open now.
    pub sessions: u64,
    /// Connections open now, accepted and dialled.
    pub connections: u64,
    /// The figures of each core; at most a quarter of a second old.
    pub cores: Vec<Core>,
}

/// A head that was received or sent, without its secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Since the trace began.
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
    /// Heads of this core that were dropped before it, because they were not read fast enough.
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
    /// Connections open now.
    pub connections: u64,
    /// Sessions open now.
    pub sessions: u64,
    /// Chunks received so far.
    pub chunks_in: u64,
    /// Chunks sent on so far.
    pub chunks_out: u64,
    /// Body bytes received so far.
    pub body_bytes_in: u64,
    /// Body bytes sent on so far.
    pub body_bytes_out: u64,
    /// How often it was started again.
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
    /// `unbound` (nobody at the other side yet), `bound`, `lost` (the other side is gone), or `expired`.
    pub state: String,
    /// The core it is on.
    pub core: usize,
    /// The process it is in, where that is one that drains while another one has taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining_pid: Option<u32>,
    /// Since it was opened.
    pub age_seconds: u64,
    /// Until it is over, unless it is prolonged; absent: it lives as long as its connection.
    pub expires_in_seconds: Option<u64>,
    /// Where the client comes from.
    pub client: Option<String>,
    /// The other side: an address, a host and port, or `session` and a prefix, if that is one of this relay.
    pub peer: Option<String>,
    /// Body bytes from the client.
    pub bytes_from_client: u64,
    /// Body bytes for the client.
    pub bytes_to_client: u64,
}
