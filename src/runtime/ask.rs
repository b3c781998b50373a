//! An operator's questions to a core, and its answers: plain data that crosses threads.
//!
//! Must not know how a core finds the answer, or who asks.

use std::net::SocketAddr;
use std::sync::mpsc::{self, SyncSender};
use std::time::{Duration, Instant};

use msrp_relay_core::{Far, SessionView};

/// The shortest accepted prefix of a session's id: the log shows two characters more.
pub const PREFIX_CHARS_MIN: usize = 8;

/// A question to a core.
#[derive(Debug)]
pub(crate) enum Ask {
    /// For all its sessions, in slices; the sender is dropped after the last one.
    Sessions(mpsc::Sender<Vec<SessionLine>>),
    /// To show heads.
    Trace(TraceOrder),
    /// To end the session with this prefix.
    Close { prefix: String, reply: mpsc::Sender<Closed> },
}

/// One session, for an operator.
#[derive(Clone, Debug)]
pub struct SessionLine {
    /// The core it lives on.
    pub core: usize,
    /// The relay's view of it.
    pub view: SessionView,
    /// The client's address; `None`: its connection is ending, or the client is behind a relay.
    pub client: Option<SocketAddr>,
    /// What its client has come by: `tls`, `tcp`, `wss` or `ws`; `None` where there is no such connection.
    pub transport: Option<&'static str>,
    /// The other side's address, if that is a connection of the same core.
    pub far: Option<SocketAddr>,
}

impl SessionLine {
    /// Where its client comes from: the client's address, or host and port of the relay before it.
    #[must_use]
    pub fn client(&self) -> Option<String> {
        self.client.map(|address| address.to_string()).or_else(|| self.view.relay.clone())
    }

    /// The other side, also after it is gone: an address, a host and port, or `session` and the prefix of an id.
    #[must_use]
    pub fn peer(&self) -> Option<String> {
        self.view.far.as_ref().map(|far| match far {
            Far::Session(prefix) => format!("session {prefix}"),
            Far::Connection { authority, .. } => {
                self.far.map_or_else(|| authority.clone(), |address| address.to_string())
            }
        })
    }
}

/// The user or session that an operator names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted(String);

impl Wanted {
    /// A user (`alice` or `alice@example.com`), or at least [`PREFIX_CHARS_MIN`] characters of a session's id.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The operator's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this names a session.
    #[must_use]
    pub fn means(&self, view: &SessionView) -> bool {
        self.means_one(&view.session, (&view.user, &view.realm))
    }

    /// The same for the prefix of its id, its user and its realm.
    #[must_use]
    pub fn means_one(&self, session: &str, (user, realm): (&str, &str)) -> bool {
        let prefix =
            self.0.len() >= PREFIX_CHARS_MIN && (session.starts_with(&self.0) || self.0.starts_with(session));
        prefix || self.means_user(user, realm)
    }

    /// Whether this names a user.
    #[must_use]
    pub fn means_user(&self, user: &str, realm: &str) -> bool {
        let behind = || self.0.strip_prefix(user).and_then(|rest| rest.strip_prefix('@'));
        self.0 == user || behind().is_some_and(|behind| behind == realm)
    }
}

/// The result of ending a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The session ends.
    Done {
        /// Prefix of its id.
        session: String,
        /// The user.
        user: String,
        /// The realm.
        realm: String,
    },
    /// It was opened on that core and has moved to this one.
    MovedTo(usize),
    /// No session has this prefix.
    NoSuchSession,
    /// This many sessions have it.
    Ambiguous(usize),
}

/// A trace, as a core gets it.
#[derive(Clone, Debug)]
pub(crate) struct TraceOrder {
    pub(crate) wanted: Wanted,
    pub(crate) heads: SyncSender<TracedHead>,
    pub(crate) began: Instant,
    pub(crate) until: Instant,
}

/// Which way a head went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The relay received it.
    In,
    /// The relay sent it.
    Out,
}

/// A head, as it was on the wire.
#[derive(Clone, Debug)]
pub struct TracedHead {
    /// The core it was on.
    pub core: usize,
    /// The time since the trace began.
    pub at: Duration,
    /// Prefix of the id of the session whose connection it was on.
    pub session: String,
    /// The user.
    pub user: String,
    /// Which way it went.
    pub direction: Direction,
    /// Its bytes, secrets included, up to the first 4096.
    pub bytes: Vec<u8>,
    /// Heads of this core that were dropped before it for lack of room.
    pub dropped: u64,
}
