//! What an operator may ask of a core, and what the core answers: plain data that crosses threads.
//!
//! Must not know: how a core finds the answer, who asks.

use std::net::SocketAddr;
use std::sync::mpsc::{self, SyncSender};
use std::time::{Duration, Instant};

use msrp_relay_core::{Far, SessionView};

/// The least that must be given of a session's id: the rest of what the log shows may be left out.
pub const PREFIX_CHARS_MIN: usize = 8;

/// What a core is asked.
#[derive(Debug)]
pub(crate) enum Ask {
    /// All its sessions, in slices; the sender is dropped behind the last of them.
    Sessions(mpsc::Sender<Vec<SessionLine>>),
    /// To show heads.
    Trace(TraceOrder),
    /// To end the session whose id begins like that.
    Close { prefix: String, reply: mpsc::Sender<Closed> },
}

/// One session, for an operator.
#[derive(Clone, Debug)]
pub struct SessionLine {
    /// The core it is at home on.
    pub core: usize,
    /// What the relay says of it.
    pub view: SessionView,
    /// Where its client comes from; `None`: its connection is ending, or it is behind a relay.
    pub client: Option<SocketAddr>,
    /// Where its other side is, if that is a connection of the same core.
    pub far: Option<SocketAddr>,
}

impl SessionLine {
    /// Where its client comes from: the client's address, or host and port of the relay before it.
    #[must_use]
    pub fn client(&self) -> Option<String> {
        self.client.map(|address| address.to_string()).or_else(|| self.view.relay.clone())
    }

    /// Who is, or was, at the other side: an address, a host and port, or `session` and the prefix of an id.
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

/// Whose sessions are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted(String);

impl Wanted {
    /// A user (`alice` or `alice@example.com`), or at least [`PREFIX_CHARS_MIN`] characters of a session's id.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// As it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a session is meant.
    #[must_use]
    pub fn means(&self, view: &SessionView) -> bool {
        let prefix = self.0.len() >= PREFIX_CHARS_MIN
            && (view.session.starts_with(&self.0) || self.0.starts_with(&view.session));
        prefix || self.means_user(&view.user, &view.realm)
    }

    /// Whether a user is meant.
    #[must_use]
    pub fn means_user(&self, user: &str, realm: &str) -> bool {
        let behind = || self.0.strip_prefix(user).and_then(|rest| rest.strip_prefix('@'));
        self.0 == user || behind().is_some_and(|behind| behind == realm)
    }
}

/// What came of ending a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It ends.
    Done {
        /// Prefix of its id.
        session: String,
        /// The user.
        user: String,
        /// The realm.
        realm: String,
    },
    /// There is none that begins like that.
    NoSuchSession,
    /// There are so many.
    Ambiguous(usize),
}

/// What a core is told of a trace.
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
    /// Since the trace began.
    pub at: Duration,
    /// Prefix of the id of the session whose connection it was on.
    pub session: String,
    /// The user.
    pub user: String,
    /// Which way it went.
    pub direction: Direction,
    /// Its bytes, secrets included, up to the first 4096.
    pub bytes: Vec<u8>,
    /// Heads of this core that found no room before it.
    pub dropped: u64,
}
