//! The sessions of one core. An AUTH made each of them. Each has one URI that leads to its client, or two while the
//! client replaces the old one before it expires.
//!
//! A session lives on one core at any time (see `meet` for the one way in which it moves), and all its decisions are
//! taken there: in [`route`], who may use the URI, what the first request from either side binds it to, where a
//! request goes next; in [`fail`], what is told of a failure. Here is the table. Handlers touch it and the context;
//! those that also need the connections are `impl Relay` in [`route`] and [`fail`].
//!
//! Its client is at the other end of one connection, or behind a relay that has proven its name: then any connection
//! with that relay leads to the client (req A10).
//!
//! Invariants: no session without [`Verified`]; an expired session ends once no transaction through it can be open.

pub(crate) mod fail;
pub(crate) mod next_hop;
pub(crate) mod route;
pub(crate) mod session;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use msrp_proto::digest::Verified;
use msrp_proto::status::Status;
use msrp_proto::uri::{MsrpUri, Path};

use crate::core::Core;
use crate::ids::{CoreId, Entropy, PeerRef, SessionId, SessionKey, SessionRef, UriId};
use crate::limit::Limit;
use crate::meet::Progress;
use crate::message::{CoreStep, PeerStep, SessionStep};
use crate::quota::who::{Share, UserKey, Who};
use crate::reason::{CloseReason, EndReason};
use crate::spread::Spread;
use crate::table::Table;

use next_hop::Refusal;
use session::{EARLIER_MAX, Inner, OuterSide, OwnUri, Session};
pub(crate) use session::{NewUri, Validity};

/// What opening a session needs.
pub(crate) struct NewSession {
    /// The connection that its AUTH came by.
    pub(crate) peer: PeerRef,
    /// Whether the peer of that connection is a relay that has proven its name, and the client is beyond it.
    pub(crate) through_relay: bool,
    pub(crate) verified: Arc<Verified>,
    /// The user among whose sessions it counts, if the connection does not count.
    pub(crate) counted: Option<UserKey>,
}

/// The table of sessions. Ids are bearer secrets: their places in the table must not be guessable (req S4).
#[derive(Debug)]
pub(crate) struct Sessions {
    table: Table<SessionKey, Session>,
    by_id: Spread<SessionId, SessionKey>,
    /// When expired sessions end.
    ending: BTreeSet<(Instant, SessionKey)>,
    /// Bytes of memory that count against the budget.
    kept: usize,
    /// Sessions opened here that live on another core: as many as connections there.
    departed: Spread<SessionId, Departed>,
}

/// What the home of a session that has moved knows of it.
#[derive(Debug)]
struct Departed {
    /// Where it is.
    core: CoreId,
    /// Its URIs.
    uris: Vec<OwnUri>,
}

impl Sessions {
    pub(crate) fn new(entropy: &mut Entropy) -> Self {
        let (by_id, departed) = (Spread::new(entropy), Spread::new(entropy));
        Self { table: Table::new(), by_id, ending: BTreeSet::new(), kept: 0, departed }
    }

    // -- getters ---------------------------------------------------------------------------------

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = SessionKey> {
        self.table.walk().map(|(key, _)| key)
    }

    /// How often all of them were walked through.
    pub(crate) fn walks(&self) -> u64 {
        self.table.walks()
    }

    pub(crate) fn by_key(&self, key: SessionKey) -> Option<&Session> {
        self.table.get(key)
    }

    pub(crate) fn get(&self, session: SessionRef) -> Option<&Session> {
        self.by_id.get(&session.id).and_then(|key| self.table.get(*key))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.table.walk_mut()
    }

    pub(crate) fn get_mut(&mut self, session: SessionRef) -> Option<&mut Session> {
        self.by_id.get(&session.id).and_then(|key| self.table.get_mut(*key))
    }

    pub(crate) fn contains(&self, session: SessionRef) -> bool {
        self.by_id.contains_key(&session.id)
    }

    /// The URI of a session that has this session-id, if it is live.
    pub(crate) fn live_uri(&self, session: SessionRef, session_id: &str, now: Instant) -> Option<UriId> {
        let mut uris = self.get(session)?.uris();
        uris.find(|own| own.id.as_str() == session_id && !own.is_expired(now)).map(|own| own.id)
    }

    /// How many URIs a session has that its client may count on.
    pub(crate) fn uris_in_use(&self, session: SessionRef, now: Instant) -> usize {
        self.get(session).map_or(0, |session| session.uris().filter(|own| !own.is_outlived(now)).count())
    }

    pub(crate) fn is_live(&self, session: SessionRef, now: Instant) -> bool {
        self.get(session).is_some_and(|session| !session.is_expired(now))
    }

    /// The user who owns a session.
    fn user_of(&self, session: SessionRef) -> Option<UserKey> {
        self.get(session).map(Session::user_key)
    }

    /// In whose turn its names are looked up and its next hops dialled: the user's, or, behind a relay, the user's
    /// there.
    fn in_turn_of(&self, session: SessionRef) -> Option<Who> {
        let session = self.get(session)?;
        let user = session.user_key();
        let nearest =
            session.client().is_none().then(|| Path::new(&session.current.inner_path).first()).flatten();
        let relay = nearest.and_then(|uri| MsrpUri::parse(uri).ok());
        Some(Who::User(relay.map_or(user, |relay| user.behind(relay.host_str()))))
    }

    /// Bytes of memory of the sessions that no number of connections bounds.
    pub(crate) fn kept(&self) -> usize {
        self.kept
    }

    /// What sessions themselves contribute to their users' counts.
    pub(crate) fn shares(&self) -> impl Iterator<Item = (Who, Share)> {
        let counted = self.table.walk().filter_map(|(_, session)| session.counted);
        counted.map(|user| (Who::User(user), Share { connections: 0, unproven: 0, sessions: 1 }))
    }

    /// When the next session ends.
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
            progress: Progress::None,
            opened: core.now,
            running: Vec::new(),
            bytes: [0, 0],
            far: None,
            stopped: VecDeque::new(),
            weight: 0,
        };
        self.insert(session, core);
        core.stats.sessions_opened += 1;
        (me, granted)
    }

    /// One more, new or from another core.
    pub(crate) fn insert(&mut self, session: Session, core: &mut Core) {
        let me = session.me;
        let key = self.table.insert(session);
        self.by_id.insert(me.id, key);
        self.recount(me, core);
        self.note_ending(key);
    }

    /// A session goes on at another core. Its URIs lead here for as long as it lives.
    pub(crate) fn depart(&mut self, session: SessionRef, to: CoreId) -> Option<Session> {
        let session = self.remove(session)?;
        let uris = session.uris().cloned().collect();
        self.departed.insert(session.me.id, Departed { core: to, uris });
        Some(session)
    }

    /// How many have gone to other cores and are not over.
    pub(crate) fn departed_len(&self) -> usize {
        self.departed.len()
    }

    /// Where a session with such an id went.
    pub(crate) fn find_departed(&self, beginning: &str) -> Option<CoreId> {
        let is_called = |(_, departed): &(&SessionId, &Departed)| {
            departed.uris.iter().any(|own| own.id.as_str().starts_with(beginning))
        };
        self.departed.iter().find(is_called).map(|(_, departed)| departed.core)
    }

    pub(crate) fn forget_departed(&mut self, session: SessionId) {
        self.departed.remove(&session);
    }

    /// A session that has gone tells which URIs it has by now.
    pub(crate) fn rename_departed(&mut self, session: SessionId, uris: Vec<OwnUri>) {
        if let Some(departed) = self.departed.get_mut(&session) {
            departed.uris = uris;
        }
    }

    /// The home of a session that has moved answers for its URIs, and has to know them.
    fn tell_home(&self, session: SessionRef, core: &mut Core) {
        let home = session.id.home();
        if home != core.me
            && let Some(session) = self.get(session)
        {
            let uris = session.uris().cloned().collect();
            core.tell_core(home, CoreStep::Renamed { session: session.me.id, uris });
        }
    }

    pub(crate) fn forget_departed_to(&mut self, gone: CoreId) {
        for part in self.departed.parts_mut() {
            part.retain(|_, departed| departed.core != gone);
        }
    }

    /// Why a request for a session that is not here is refused. One that has moved is bound: it is as if it were asked
    /// (RFC 4975, 5.4).
    pub(super) fn refusal_of_absent(&self, session: SessionRef, to_path: Path<'_>, now: Instant) -> Refusal {
        let absent = (Status::NO_SESSION, "no such session");
        let Some(departed) = self.departed.get(&session.id) else {
            return absent;
        };
        let named = to_path.first().and_then(|uri| departed.uris.iter().find(|own| own.is_named_by(uri)));
        let is_live = named.is_some_and(|own| !own.is_expired(now));
        match is_live && departed.uris.iter().any(|own| own.leads_inside(to_path.after(1))) {
            true => (Status::SESSION_IN_USE, "bound to another session, on another core"),
            false => absent,
        }
    }

    /// Prolongs the life of a session's URI by an AUTH to it. Returns that URI.
    pub(crate) fn prolong(
        &mut self,
        session: SessionRef,
        (uri, valid): (UriId, Validity),
        core: &mut Core,
    ) -> Option<Arc<[u8]>> {
        let key = *self.by_id.get(&session.id)?;
        self.forget_ending(key);
        let own = self.table.get_mut(key).and_then(|session| session.uris_mut().find(|own| own.id == uri));
        let prolonged = own.map(|own| {
            own.valid = valid;
            Arc::clone(&own.uri)
        });
        self.note_ending(key);
        self.tell_home(session, core);
        prolonged
    }

    /// Grants a session another URI, beside the one it has until that expires, or until what its client was told about it is
    /// over and another one comes. Returns the new one.
    pub(crate) fn renew(&mut self, session: SessionRef, new: NewUri, core: &mut Core) -> Option<Arc<[u8]>> {
        let key = *self.by_id.get(&session.id)?;
        self.forget_ending(key);
        let renewed = self.table.get_mut(key).map(|session| {
            let before = std::mem::replace(&mut session.current, OwnUri::mint(&session.me.id, new, core));
            session.earlier.retain(|own| !own.is_over(core.now));
            if session.earlier.len() >= EARLIER_MAX {
                // A prolonged URI may be the oldest and still live.
                let expired = session.earlier.iter().position(|own| own.is_outlived(core.now));
                session.earlier.remove(expired.unwrap_or_default());
            }
            session.earlier.push(before);
            Arc::clone(&session.current.uri)
        });
        self.recount(session, core);
        self.note_ending(key);
        self.tell_home(session, core);
        renewed
    }

    /// Sessions that began uncounted, and whose connection does not count, count from here on.
    pub(crate) fn count_all(&mut self) {
        for session in self.table.walk_mut().filter(|session| session.client().is_none()) {
            let user = session.user_key();
            session.counted.get_or_insert(user);
        }
    }

    /// Ends sessions that expired so long ago that none of their requests can be under way (req A12).
    pub(crate) fn end_expired(&mut self, core: &mut Core) {
        while let Some((_, key)) = self.ending.first().copied().filter(|(at, _)| *at <= core.now) {
            self.forget_ending(key);
            if let Some(session) = self.table.get(key) {
                core.tell_session(session.me, SessionStep::InnerLost { reason: EndReason::Expired });
            }
        }
    }

    /// An operator ends a session, with its client's connection and all that connection's sessions. A connection with a
    /// relay serves others, too: it stays.
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

    /// Tells the memory budget what a session takes, after a request through it or a message to it.
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
