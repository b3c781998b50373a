//! Looks into the relay from outside: what an operator may see, figures, where a connection belongs. Nothing here
//! changes the relay.

use std::time::Instant;

use msrp_proto::head::{Head, Kind, Method};
use msrp_proto::uri::MsrpUri;

use crate::Relay;
use crate::ids::{CoreId, PeerKey, SessionKey, SessionRef};
use crate::peers::peer::{Peer, named_session};
use crate::peers::state::Role;
use crate::stats::{Stats, TableSizes};
use crate::view::{Found, Holder, SessionHandle, SessionView};

impl Relay {
    /// All sessions of this core. Takes as long as copying eight bytes for each.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionHandle> {
        self.sessions.keys().map(SessionHandle).collect()
    }

    /// What an operator may see of a session; `None` if it has ended.
    #[must_use]
    pub fn session_view(&self, now: Instant, session: SessionHandle) -> Option<SessionView> {
        self.sessions.by_key(session.0).map(|session| session.view(now))
    }

    /// The user and session that a connection serves, as far as this core knows.
    #[must_use]
    pub fn holder(&self, peer: PeerKey) -> Holder {
        let Some(peer) = self.peers.get(peer) else { return Holder::default() };
        let id = match &peer.role {
            Role::Client { sessions } => sessions.first().copied(),
            Role::Foreign => peer.bound.first().copied(),
        };
        let Some(id) = id else { return Holder::default() };
        let session =
            self.sessions.get(id).filter(|_| peer.role != Role::Foreign || peer.origin.is_dialled());
        Holder {
            session: Some(id.id.prefix().to_owned()),
            user: session.map(|session| session.user().to_owned()),
        }
    }

    /// The session whose id begins like that.
    #[must_use]
    pub fn find_session(&self, prefix: &str) -> Found {
        let begins =
            |key: &SessionKey| self.sessions.by_key(*key).is_some_and(|session| session.is_called(prefix));
        let mut found = self.sessions.keys().filter(begins);
        match (found.next(), found.count()) {
            (None, _) => self.sessions.find_departed(prefix).map_or(Found::Nothing, Found::Moved),
            (Some(key), 0) => Found::One(SessionHandle(key)),
            (Some(_), more) => Found::Several(more + 1),
        }
    }

    /// Whether what [`poll_write`](Self::poll_write) gives next for a connection begins a frame.
    #[must_use]
    pub fn is_between_frames(&self, peer: PeerKey) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.out.is_between_frames())
    }

    // -- figures ---------------------------------------------------------------------------------

    /// The counters.
    pub fn stats(&self) -> &Stats {
        &self.core.stats
    }

    /// How often all connections, or all sessions, were walked through: never for a message, an AUTH or an end.
    pub fn table_walks(&self) -> u64 {
        self.peers.walks() + self.sessions.walks()
    }

    /// How full the tables are.
    pub fn table_sizes(&self) -> TableSizes {
        TableSizes {
            peers: self.peers.len(),
            sessions: self.sessions.len(),
            transactions: self.peers.for_sizes().map(|p| p.out.transactions.len()).sum(),
            unanswered: self.core.orphans.len()
                + self.peers.for_sizes().map(|p| p.unanswered.len()).sum::<usize>(),
            bytes_queued: self.core.memory.held(),
            bytes_kept: self.sessions.kept() + self.peers.for_sizes().map(Peer::kept).sum::<usize>(),
            bytes_counted: self.core.memory.kept(),
            counted: self.quota.len() + self.core.rates.len(),
            newcomers: self.core.newcomers.entries() + self.quota.told_len(),
            moving: self.arrivals.len() + self.sessions.departed_len(),
            relays: self.peers.relays_len(),
        }
    }

    /// All bytes that count against [`Limits::queue_bytes_total`](crate::Limits), without a walk through every table.
    pub fn bytes_used(&self) -> usize {
        self.core.memory.used()
    }

    /// Connections whose first request is still to come, or that have proven nothing yet.
    pub fn newcomers(&self) -> usize {
        self.core.newcomers.len()
    }

    // -- cores -----------------------------------------------------------------------------------

    /// How many cores there are, this one included.
    pub fn cores(&self) -> usize {
        self.core.cores.len()
    }

    /// Which core this is.
    pub fn core(&self) -> CoreId {
        self.core.me
    }

    /// Whether `core` is a present life of another core of this process.
    pub fn is_other(&self, core: CoreId) -> bool {
        core != self.core.me && self.core.cores.is_alive(core)
    }

    /// Whether the relay is about to end: nothing more is read.
    pub fn is_stopping(&self) -> bool {
        self.core.is_stopping()
    }

    // -- connections -----------------------------------------------------------------------------

    /// Where the session that the first request of a connection names lives, or lived.
    pub fn home_of(&self, head: &Head, bytes: &[u8]) -> Option<CoreId> {
        if self.core.is_stopping() || matches!(head.kind(), Kind::Response(_) | Kind::Request(Method::Auth)) {
            return None;
        }
        let first = head.to_path(bytes).first()?;
        if !MsrpUri::parse(first).is_ok_and(|uri| self.core.settings.is_ours(&uri)) {
            return None;
        }
        Some(SessionRef::of_wire(named_session(first)?).core)
    }

    /// Whether a connection serves a session.
    pub fn serves_session(&self, peer: PeerKey) -> bool {
        self.peers.serves_session(peer)
    }
}
