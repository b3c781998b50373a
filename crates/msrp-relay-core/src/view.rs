//! What an operator may see of the sessions, and do to one of them.
//!
//! Invariants: a session id is a secret, so no more of it leaves the relay than its prefix, and of a URI nothing but host
//! and port; nothing here takes longer than a look at one session, but for the list of all, which is names alone.

use std::time::{Duration, Instant};

use super::ids::{PeerKey, PeerRef, SessionId, SessionKey};
use super::message::{Message, Outer};
use super::peer::Role;
use super::session::Session;
use super::{CloseReason, Effects, Relay};
use msrp_proto::uri::{MsrpUri, Path};

/// A session on this core, whether or not it is still there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionHandle(SessionKey);

/// What there is to say of one session.
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
    /// When it is over, unless it is prolonged; `None`: with its connection.
    pub expires_in: Option<Duration>,
    /// Whether somebody is at its other side.
    pub state: SessionState,
    /// Its client's connection; `None` if the client is behind a relay.
    pub client: Option<PeerKey>,
    /// Host and port of the relay that its client is behind.
    pub relay: Option<String>,
    /// Who is, or was, at its other side.
    pub far: Option<Far>,
    /// Body octets that came from the client and were sent on.
    pub octets_from_client: u64,
    /// Body octets that came for the client and were sent on.
    pub octets_to_client: u64,
}

/// What a session's other side is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionState {
    /// Nobody yet.
    Unbound,
    /// Somebody.
    Bound,
    /// Somebody who is gone.
    Lost,
    /// The session has expired; what is under way may still be reported.
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

/// Why a session is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndReason {
    /// Nobody prolonged it.
    Expired,
    /// Its client's connection broke.
    ConnectionLost,
    /// Its client's connection was closed.
    Closed(CloseReason),
    /// Its core died.
    CoreDied,
}

impl EndReason {
    /// The words for the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::ConnectionLost => "connection lost",
            Self::CoreDied => "core died",
            Self::Closed(CloseReason::Ended) => "closed by the client",
            Self::Closed(reason) => reason.as_str(),
        }
    }
}

/// On whose behalf a connection is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// Prefix of the id of its session: its own, or the one that it was dialled for or is the other side of.
    pub session: Option<String>,
    /// The user of that session, if it is the client's own connection or was dialled for the client.
    pub user: Option<String>,
}

/// Which sessions a prefix means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// This one.
    One(SessionHandle),
    /// None.
    Nothing,
    /// So many.
    Several(usize),
}

impl Relay {
    /// All sessions of this core. Takes as long as copying eight octets for each.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionHandle> {
        self.sessions.keys().map(SessionHandle).collect()
    }

    /// What there is to say of a session; `None` if it is over.
    #[must_use]
    pub fn session_view(&self, now: Instant, session: SessionHandle) -> Option<SessionView> {
        self.sessions.get(session.0).map(|session| session.view(now))
    }

    /// On whose behalf a connection is there, as far as this core knows.
    #[must_use]
    pub fn holder(&self, peer: PeerKey) -> Holder {
        let Some(peer) = self.peers.get(peer) else { return Holder::default() };
        let id = match &peer.role {
            Role::Client { sessions } => sessions.first().and_then(|key| self.sessions.id_of(*key)),
            Role::Foreign | Role::Dialling | Role::Dialled => peer.bound.first().copied(),
        };
        let Some(id) = id else { return Holder::default() };
        let session = self.sessions.by_id(&id).filter(|_| peer.role != Role::Foreign);
        Holder {
            session: Some(id.prefix().to_owned()),
            user: session.map(|session| session.user().to_owned()),
        }
    }

    /// The session whose id begins like that.
    #[must_use]
    pub fn find_session(&self, prefix: &str) -> Found {
        let begins =
            |key: &SessionKey| self.sessions.get(*key).is_some_and(|session| session.is_called(prefix));
        let mut found = self.sessions.keys().filter(begins);
        match (found.next(), found.count()) {
            (None, _) => Found::Nothing,
            (Some(key), 0) => Found::One(SessionHandle(key)),
            (Some(_), more) => Found::Several(more + 1),
        }
    }

    /// Whether what [`poll_write`](Self::poll_write) gives next for a connection begins a frame.
    #[must_use]
    pub fn is_between_frames(&self, peer: PeerKey) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.out.is_between_frames())
    }

    /// An operator ends a session, with its client's connection and all that lives by it. A connection with a relay
    /// serves others, too: it stays.
    pub(super) fn on_operator_closes(&mut self, session: SessionHandle, fx: &mut Effects) {
        let Some(client) = self.sessions.get(session.0).map(Session::client) else {
            return;
        };
        match client {
            Some(client) => self.close_peer(client, CloseReason::Operator, fx),
            None => {
                self.sessions.note_end(session.0, EndReason::Closed(CloseReason::Operator));
                if let Some(session) = self.sessions.id_of(session.0) {
                    self.core.post(Message::InnerLost { session }, fx);
                }
            }
        }
    }
}

impl Far {
    pub(super) fn new(to: Outer, uri: &[u8]) -> Self {
        match to {
            Outer::Session(session) => Self::Session(session.prefix().to_owned()),
            Outer::Peer(peer) => Self::Connection { peer, authority: authority(uri) },
        }
    }
}

/// Host and port of the first URI of a path.
pub(super) fn authority_of_first(path: &[u8]) -> String {
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

/// The position of the core that a session with this prefix is at home on; `None` if it is too short to tell, or of no
/// session of this relay.
#[must_use]
pub fn home_of_prefix(prefix: &str) -> Option<u16> {
    SessionId::home_of_prefix(prefix)
}
