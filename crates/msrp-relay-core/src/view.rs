//! What an operator may see of the sessions.
//!
//! Invariants: a session id is a secret, so only its prefix leaves the relay, and of a URI only host and port; nothing
//! here takes longer than a look at one session, except the list of all, which holds only names.

use std::time::Duration;

use msrp_proto::uri::{MsrpUri, Path};

use crate::ids::{CoreId, PeerKey, PeerRef, SessionId, SessionKey};
use crate::request::Neighbour;

/// A session on this core, which may have ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionHandle(pub(crate) SessionKey);

/// What an operator may see of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Prefix of its id.
    pub session: String,
    /// The user.
    pub user: String,
    /// The realm that the user authenticated for.
    pub realm: String,
    /// How long ago it was opened.
    pub age: Duration,
    /// When it ends, unless it is prolonged; `None`: with its connection.
    pub expires_in: Option<Duration>,
    /// The state of its other side.
    pub state: SessionState,
    /// Its client's connection; `None` if the client is behind a relay.
    pub client: Option<PeerKey>,
    /// Host and port of the relay that its client is behind.
    pub relay: Option<String>,
    /// The peer at its other side, also after it is gone.
    pub far: Option<Far>,
    /// Body bytes that came from the client and were sent on.
    pub bytes_from_client: u64,
    /// Body bytes that came for the client and were sent on.
    pub bytes_to_client: u64,
}

/// The state of a session's other side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionState {
    /// Nothing yet.
    Unbound,
    /// A connection or another session.
    Bound,
    /// A connection or session that is gone.
    Lost,
    /// The session has expired; requests under way may still be reported.
    Expired,
}

impl SessionState {
    /// The word for people and programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unbound => "unbound",
            Self::Bound => "bound",
            Self::Lost => "lost",
            Self::Expired => "expired",
        }
    }
}

/// Who is at the other side of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Far {
    /// A connection, and the host and port that its peer's URI names.
    Connection {
        /// The connection.
        peer: PeerRef,
        /// Host and port.
        authority: String,
    },
    /// Another session of this relay: prefix of its id.
    Session(String),
}

/// The session and user that a connection serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// Prefix of a session's id: its own session, or the one that it was dialled for, or whose other side it is.
    pub session: Option<String>,
    /// The user of that session, if it is the client's own connection or was dialled for the client.
    pub user: Option<String>,
}

/// The sessions with a given prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// This one.
    One(SessionHandle),
    /// One that was opened here and has moved to this core.
    Moved(CoreId),
    /// None.
    Nothing,
    /// So many.
    Several(usize),
}

impl Far {
    pub(crate) fn new(to: Neighbour, uri: &[u8]) -> Self {
        match to {
            Neighbour::Session(session) => Self::Session(session.id.prefix().to_owned()),
            Neighbour::Peer(peer) => Self::Connection { peer, authority: authority(uri) },
        }
    }
}

/// Host and port of the first URI of a path.
pub(crate) fn authority_of_first(path: &[u8]) -> String {
    authority(Path::new(path).first().unwrap_or_default())
}

/// Host and port of a URI.
fn authority(uri: &[u8]) -> String {
    let Ok(uri) = MsrpUri::parse(uri) else {
        return String::new();
    };
    let host = uri.host_str();
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    match uri.port() {
        Some(port) => format!("{host}:{port}"),
        None => host,
    }
}

/// The position of the home core of a session with this prefix; `None` if the prefix is too short, or not of a session
/// of this relay.
#[must_use]
pub fn home_of_prefix(prefix: &str) -> Option<u16> {
    SessionId::home_of_prefix(prefix)
}
