//! The sessions of one core: what AUTH made, a URI each that leads to one client, or two while a client replaces the old
//! one before that expires.
//!
//! A session lives on one core, and all its decisions are taken there: in [`route`], who may use the URI, what the first
//! request from either side binds it to, where a request goes next; in [`fail`], what is told of a failure. Here is the
//! table. Handlers touch it and the context; those that also need the connections are [`route`]'s.
//!
//! Its client is at the other end of one connection, or behind a relay that has proven its name: then any connection
//! with that relay leads to the client (norm A10).
//!
//! Invariants: no session without [`Verified`]; a session that has expired is over once no
//! transaction can be open that went through it.

pub(crate) mod fail;
pub(crate) mod next_hop;
pub(crate) mod route;
pub(crate) mod session;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use slotmap::SlotMap;

use msrp_proto::digest::Verified;
use msrp_proto::uri::{MsrpUri, Path};

use crate::core::Core;
use crate::ids::{Entropy, PeerRef, SecretHasher, SessionId, SessionKey, SessionRef, UriId};
use crate::limit::Limit;
use crate::message::{PeerStep, SessionStep};
use crate::quota::who::{Share, UserKey, Who};
use crate::reason::{CloseReason, EndReason};

pub(crate) use session::NewUri;
use session::{EARLIER_MAX, Inner, OuterSide, OwnUri, Session};

/// What a session needs to be opened.
pub(crate) struct NewSession {
    /// The connection that its AUTH came by.
    pub(crate) peer: PeerRef,
    /// Whether that leads to a relay which has proven its name, and only beyond it to the client.
    pub(crate) through_relay: bool,
    pub(crate) verified: Arc<Verified>,
    /// The user among whose sessions it counts, where the connection does not.
    pub(crate) counted: Option<UserKey>,
}

/// The table of sessions. Ids are bearer secrets: how they spread in the table must not be guessable (norm S4).
#[derive(Debug)]
pub(crate) struct Sessions {
    table: SlotMap<SessionKey, Session>,
    by_id: HashMap<SessionId, SessionKey, SecretHasher>,
    /// When sessions that expire are over.
    ending: BTreeSet<(Instant, SessionKey)>,
    /// Bytes of memory that count against the budget.
    kept: usize,
}

impl Sessions {
    pub(crate) fn new(entropy: &mut Entropy) -> Self {
        let by_id = HashMap::with_hasher(SecretHasher::new(entropy));
        Self { table: SlotMap::with_key(), by_id, ending: BTreeSet::new(), kept: 0 }
    }

    // -- getters ---------------------------------------------------------------------------------

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = SessionKey> {
        self.table.keys()
    }

    pub(crate) fn by_key(&self, key: SessionKey) -> Option<&Session> {
        self.table.get(key)
    }

    pub(crate) fn get(&self, session: SessionRef) -> Option<&Session> {
        self.by_id.get(&session.id).and_then(|key| self.table.get(*key))
    }

    fn get_mut(&mut self, session: SessionRef) -> Option<&mut Session> {
        self.by_id.get(&session.id).and_then(|key| self.table.get_mut(*key))
    }

    pub(crate) fn contains(&self, session: SessionRef) -> bool {
        self.by_id.contains_key(&session.id)
    }

    /// Which URI of a session has this session-id, if one that is live has it.
    pub(crate) fn live_uri(&self, session: SessionRef, session_id: &str, now: Instant) -> Option<UriId> {
        let mut uris = self.get(session)?.uris();
        uris.find(|own| own.id.as_str() == session_id && !own.is_expired(now)).map(|own| own.id)
    }

    /// How many live URIs a session has.
    pub(crate) fn live_uris(&self, session: SessionRef, now: Instant) -> usize {
        self.get(session).map_or(0, |session| session.uris().filter(|own| !own.is_expired(now)).count())
    }

    pub(crate) fn is_live(&self, session: SessionRef, now: Instant) -> bool {
        self.get(session).is_some_and(|session| !session.is_expired(now))
    }

    /// Whose session it is.
    fn user_of(&self, session: SessionRef) -> Option<UserKey> {
        self.get(session).map(Session::user_key)
    }

    /// In whose turn names are looked up and next hops dialled for it: the user's, or, behind a relay, the user's there.
    fn in_turn_of(&self, session: SessionRef) -> Option<Who> {
        let session = self.get(session)?;
        let user = session.user_key();
        let nearest =
            session.client().is_none().then(|| Path::new(&session.current.inner_path).first()).flatten();
        let relay = nearest.and_then(|uri| MsrpUri::parse(uri).ok());
        Some(Who::User(relay.map_or(user, |relay| user.behind(relay.host_str()))))
    }

    /// Bytes of memory that the sessions take which are bounded by no number of connections.
    pub(crate) fn kept(&self) -> usize {
        self.kept
    }

    /// What of sessions counts among their users' by itself.
    pub(crate) fn shares(&self) -> impl Iterator<Item = (Who, Share)> {
        let counted = self.table.values().filter_map(|session| session.counted);
        counted.map(|user| (Who::User(user), Share { connections: 0, unproven: 0, sessions: 1 }))
    }

    /// When the first session is over.
    pub(crate) fn next_ending(&self) -> Option<Instant> {
        self.ending.first().map(|(at, _)| *at)
    }

    // -- changes ---------------------------------------------------------------------------------

    /// Opens a session with its first URI.
    pub(crate) fn open(&mut self, new: NewSession, uri: NewUri, core: &mut Core) -> (SessionRef, Arc<[u8]>) {
        let mut id = SessionId::mint(core.me, &mut core.entropy);
        while self.by_id.contains_key(&id) {
            id = SessionId::mint(core.me, &mut core.entropy);
        }
        let me = SessionRef { core: core.me, id };
        let inner = match new.through_relay {
            true => Inner::Relay { by: Some(new.peer) },
            false => Inner::Client(new.peer.key),
        };
        let current = OwnUri::mint(&id, uri, core);
        let granted = Arc::clone(&current.uri);
        let session = Session {
            me,
            current,
            earlier: Vec::new(),
            inner,
            outer: OuterSide::Unbound,
            next_relay: None,
            relay_connections: Vec::new(),
            guesses: (0, core.now),
            blocked_until: None,
            verified: new.verified,
            counted: new.counted,
            opened: core.now,
            running: Vec::new(),
            bytes: [0, 0],
            far: None,
            stopped: VecDeque::new(),
            weight: 0,
        };
        let key = self.table.insert(session);
        self.by_id.insert(id, key);
        self.recount(me, core);
        self.note_ending(key);
        core.stats.sessions_opened += 1;
        (me, granted)
    }

    /// Prolongs the life of a session's URI by an AUTH to it. Returns that URI.
    pub(crate) fn prolong(
        &mut self,
        session: SessionRef,
        uri: UriId,
        expires: Option<Instant>,
    ) -> Option<Arc<[u8]>> {
        let key = *self.by_id.get(&session.id)?;
        self.forget_ending(key);
        let own = self.table.get_mut(key).and_then(|session| session.uris_mut().find(|own| own.id == uri));
        let prolonged = own.map(|own| {
            own.expires = expires;
            Arc::clone(&own.uri)
        });
        self.note_ending(key);
        prolonged
    }

    /// Grants a session another URI, beside the one it has until that expires. Returns the new one.
    pub(crate) fn renew(&mut self, session: SessionRef, new: NewUri, core: &mut Core) -> Option<Arc<[u8]>> {
        let key = *self.by_id.get(&session.id)?;
        self.forget_ending(key);
        let renewed = self.table.get_mut(key).map(|session| {
            let before = std::mem::replace(&mut session.current, OwnUri::mint(&session.me.id, new, core));
            session.earlier.retain(|own| !own.is_over(core.now));
            if session.earlier.len() >= EARLIER_MAX {
                // One that was prolonged may be the oldest, and live.
                let expired = session.earlier.iter().position(|own| own.is_expired(core.now));
                session.earlier.remove(expired.unwrap_or_default());
            }
            session.earlier.push(before);
            Arc::clone(&session.current.uri)
        });
        self.recount(session, core);
        self.note_ending(key);
        renewed
    }

    /// Those that are not counted by a client's connection, and began uncounted, count from now on.
    pub(crate) fn count_all(&mut self) {
        for session in self.table.values_mut().filter(|session| session.client().is_none()) {
            let user = session.user_key();
            session.counted.get_or_insert(user);
        }
    }

    /// Sessions that expired so long ago that nothing of theirs can be under way end (norm A12).
    pub(crate) fn end_expired(&mut self, core: &mut Core) {
        while let Some((_, key)) = self.ending.first().copied().filter(|(at, _)| *at <= core.now) {
            self.forget_ending(key);
            if let Some(session) = self.table.get(key) {
                core.tell_session(session.me, SessionStep::InnerLost { reason: EndReason::Expired });
            }
        }
    }

    /// An operator ends a session, with its client's connection and all that lives by it. A connection with a relay
    /// serves others, too: it stays.
    pub(crate) fn on_operator_closes(&self, key: SessionKey, core: &mut Core) {
        let Some(session) = self.table.get(key) else {
            return;
        };
        let reason = CloseReason::Operator;
        match session.client() {
            Some(key) => core.tell_peer(PeerRef { core: core.me, key }, PeerStep::Close { reason }),
            None => {
                core.tell_session(session.me, SessionStep::InnerLost { reason: EndReason::Closed(reason) })
            }
        }
    }

    fn remove(&mut self, session: SessionRef) -> Option<Session> {
        let key = self.by_id.remove(&session.id)?;
        self.forget_ending(key);
        let session = self.table.remove(key)?;
        self.kept -= session.weight;
        Some(session)
    }

    fn note_ending(&mut self, key: SessionKey) {
        if let Some(at) = self.table.get(key).and_then(Session::over_at) {
            self.ending.insert((at, key));
        }
    }

    fn forget_ending(&mut self, key: SessionKey) {
        if let Some(at) = self.table.get(key).and_then(Session::over_at) {
            self.ending.remove(&(at, key));
        }
    }

    /// Tells the memory budget what a session takes by now, where something has been asked of it or told to it.
    fn recount(&mut self, session: SessionRef, core: &mut Core) {
        let Some(session) = self.get_mut(session) else {
            return;
        };
        let now = session.kept();
        let before = std::mem::replace(&mut session.weight, now);
        if now == before {
            return;
        }
        self.kept = self.kept - before + now;
        if core.memory.keep(before, now) {
            core.count_limit(Limit::QueueBytesTotal);
        }
    }
}
