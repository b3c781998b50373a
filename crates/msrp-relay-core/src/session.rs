//! What AUTH made: a URI that leads to one client, and what its outer side is bound to.
//!
//! A session lives on its home core, the one that owns its client's connection, and never moves.
//! All its decisions are taken there: in `route`, who may use the URI, what the first request from
//! either side binds it to, where a request goes next; in `end`, who hears of a failure. Here is the
//! table.
//!
//! Its client is at the other end of one connection, or behind a relay that has proven its name: then any connection
//! with that relay leads to the client (norm A10).
//!
//! Invariants: no session without [`Verified`]; at most one request of each connection runs through it; once bound, its
//! outer side never becomes another's, but a relay that has proven its name is the same on whatever connection it
//! comes; a failure is told once.

mod end;
mod route;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use slotmap::SlotMap;

use super::admission::{UserKey, Who};
use super::ids::{CoreId, Entropy, PeerKey, PeerRef, SecretHasher, SessionId, SessionKey, StreamId, UriId};
use super::limit::Limit;
use super::message::{Giver, Message, MessageId, Notice, Outer, Transit};
use super::orphan::Failure;
use super::transaction::RESPONSE_TIMEOUT;
use super::view::{EndReason, Far, SessionState, SessionView, authority_of_first};
use super::{Core, Effects};
use msrp_proto::digest::Verified;
use msrp_proto::head::ByteRange;
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::uri::{MsrpUri, Path, host_matches};

/// What a URI of ours, or two of them, stand for.
#[derive(Debug)]
pub(crate) struct Session {
    id: SessionId,
    /// The URI that was granted last.
    current: OwnUri,
    /// Those before it: at most one of them is live.
    earlier: Vec<OwnUri>,
    inner: Inner,
    outer: OuterSide,
    /// The relay that its client asks for a session through this one (norm A16).
    ahead: Option<Ahead>,
    /// Further connections with the relays at either side, latest last.
    ways: Vec<Way>,
    /// Failed AUTHs at relays further on, since when.
    guesses: (u32, Instant),
    /// It has failed there too often: none is forwarded before that.
    blocked_until: Option<Instant>,
    verified: Arc<Verified>,
    /// The user among whose sessions it counts, where the connection does not.
    counted: Option<UserKey>,
    opened: Instant,
    /// The requests running through: one of each connection at most.
    running: Vec<Running>,
    /// Body octets passed on, outward and inward.
    octets: [u64; 2],
    /// Who is, or was, at the outer side.
    far: Option<(Outer, Arc<[u8]>)>,
    /// Why its client is gone.
    end: Option<EndReason>,
    /// Messages that the next hop has asked to be stopped, and their direction, latest last (RFC 4975, 10.5).
    stopped: VecDeque<(bool, MessageId)>,
    /// Bytes of all that which the memory budget has been told of.
    weight: usize,
}

/// Stopped messages remembered: a sender has few under way at a time, and stops when it is told.
const STOPPED_MAX: usize = 8;

/// One of a session's URIs. A client replaces its URI before that expires (RFC 4976, 9.4); until then both are the
/// session's, whichever the client or the other side uses.
#[derive(Debug)]
struct OwnUri {
    id: UriId,
    /// As in Use-Path, and so as in every path.
    uri: Arc<[u8]>,
    /// The way back to the client, from the From-Path of its AUTH: relays, if any, and its own URI.
    inner_path: Arc<[u8]>,
    expires: Option<Instant>,
}

/// URIs remembered beside the current one. Those that have expired still let REPORTs pass (norm A12).
const EARLIER_MAX: usize = 4;

/// How the client is reached.
#[derive(Clone, Copy, Debug)]
enum Inner {
    /// By its own connection, and that alone.
    Client(PeerKey),
    /// By any connection with the relay that is named first in the way back; by this one at present.
    Relay { by: Option<PeerRef> },
}

#[derive(Debug)]
enum OuterSide {
    /// Nobody has used the URI yet.
    Unbound,
    Bound {
        to: Outer,
        known: OuterUris,
    },
    /// It was bound, and that side is gone: there is no second time (norm F5), but for a relay that proves to be the
    /// one of these URIs.
    Lost {
        known: OuterUris,
    },
}

/// The URIs that the outer side goes by. A client behind another relay replaces its URI there, as our own clients do
/// here: then both are known, the one that was used last before the other.
#[derive(Clone, Debug)]
struct OuterUris {
    latest: Arc<[u8]>,
    before: Option<Arc<[u8]>>,
}

impl OuterUris {
    fn new(uri: Arc<[u8]>) -> Self {
        Self { latest: uri, before: None }
    }

    fn contain(&self, uri: &[u8]) -> bool {
        same_uri(&self.latest, uri) || self.before.as_ref().is_some_and(|before| same_uri(before, uri))
    }

    /// Adds a URI, unless it is known.
    fn add(&mut self, uri: &[u8]) {
        if !self.contain(uri) {
            self.before = Some(std::mem::replace(&mut self.latest, Arc::from(uri)));
        }
    }

    /// Whether a URI is another one of the same relay.
    fn are_of_relay_of(&self, uri: &[u8]) -> bool {
        let parsed = (MsrpUri::parse(&self.latest), MsrpUri::parse(uri));
        matches!(parsed, (Ok(known), Ok(uri)) if known.same_authority(&uri) && known.is_secure() == uri.is_secure())
    }
}

impl OuterSide {
    /// Bytes of the URIs that are known of it.
    fn kept(&self) -> usize {
        match self {
            Self::Unbound => 0,
            Self::Bound { known, .. } | Self::Lost { known } => {
                known.latest.len() + known.before.as_ref().map_or(0, |before| before.len())
            }
        }
    }
}

/// A connection with a relay at one side of a session, beside the one that leads there at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Way {
    inside: bool,
    peer: PeerRef,
}

/// Further connections remembered: with the ones before these a relay can do without the session.
const WAYS_MAX: usize = 4;

/// A relay further on, and the connection with it.
#[derive(Debug)]
struct Ahead {
    peer: PeerRef,
    /// As its client named it.
    uri: Arc<[u8]>,
}

/// A request whose end has not come yet.
#[derive(Debug)]
struct Running {
    stream: StreamId,
    giver: Giver,
    inward: bool,
    next: Outer,
    /// As this session received it; kept to tell a session before us of a failure.
    transit: Transit,
    /// Body octets passed on.
    octets: u64,
}

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

/// What a URI of ours needs to be minted.
pub(crate) struct NewUri {
    pub(crate) inner_path: Arc<[u8]>,
    pub(crate) expires: Option<Instant>,
    pub(crate) secure: bool,
    /// The port of ours that the client, or the relay before us, knows.
    pub(crate) port: u16,
}

/// The sessions of one core. Ids are bearer secrets: how they spread in the table must not be
/// guessable (norm S4).
#[derive(Debug)]
pub(crate) struct Sessions {
    table: SlotMap<SessionKey, Session>,
    by_id: HashMap<SessionId, SessionKey, SecretHasher>,
    /// When sessions are over that end with no connection: those of clients behind relays.
    ending: BTreeSet<(Instant, SessionKey)>,
    /// Bytes of memory that count against the budget.
    kept: usize,
}

impl Sessions {
    pub(crate) fn new(entropy: &mut Entropy) -> Self {
        let by_id = HashMap::with_hasher(SecretHasher::new(entropy));
        Self { table: SlotMap::with_key(), by_id, ending: BTreeSet::new(), kept: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn id_of(&self, key: SessionKey) -> Option<SessionId> {
        self.table.get(key).map(|s| s.id)
    }

    /// Which URI of a session has this session-id, if one that is live has it.
    pub(crate) fn live_uri(&self, key: SessionKey, session_id: &str, now: Instant) -> Option<UriId> {
        let mut uris = self.table.get(key)?.uris();
        uris.find(|own| own.id.as_str() == session_id && !own.is_expired(now)).map(|own| own.id)
    }

    /// How many live URIs a session has.
    pub(crate) fn live_uris(&self, key: SessionKey, now: Instant) -> usize {
        let session = self.table.get(key);
        session.map_or(0, |session| session.uris().filter(|own| !own.is_expired(now)).count())
    }

    pub(crate) fn is_live(&self, key: SessionKey, now: Instant) -> bool {
        self.table.get(key).is_some_and(|s| !s.is_expired(now))
    }

    /// Whether a session expired so long ago that no transaction can be open that went through it.
    pub(crate) fn is_over(&self, key: SessionKey, now: Instant) -> bool {
        self.over_at(key).is_some_and(|at| at <= now)
    }

    /// When that will be the case, if ever.
    pub(crate) fn over_at(&self, key: SessionKey) -> Option<Instant> {
        self.table.get(key)?.expires().map(|at| at + RESPONSE_TIMEOUT)
    }

    /// The connection by which its client, or the relay before it, is reached.
    pub(crate) fn inner_of(&self, id: &SessionId, me: CoreId) -> Option<PeerRef> {
        self.by_id.get(id).and_then(|key| self.table.get(*key))?.inner(me)
    }

    /// Whose session it is.
    pub(crate) fn user_of(&self, id: &SessionId) -> Option<UserKey> {
        let session = self.by_id.get(id).and_then(|key| self.table.get(*key))?;
        Some(UserKey::new(session.verified.username(), session.verified.realm()))
    }

    /// In whose turn names are looked up and next hops dialled for it: the user's, or, behind a relay, the user's there.
    pub(crate) fn in_turn_of(&self, id: &SessionId) -> Option<Who> {
        let session = self.by_id.get(id).and_then(|key| self.table.get(*key))?;
        let user = UserKey::new(session.verified.username(), session.verified.realm());
        let nearest =
            session.client().is_none().then(|| Path::new(&session.current.inner_path).first()).flatten();
        let relay = nearest.and_then(|uri| MsrpUri::parse(uri).ok());
        Some(Who::User(relay.map_or(user, |relay| user.behind(relay.host_str()))))
    }

    /// Prolongs the life of a session's URI by an AUTH to it. Returns that URI.
    pub(crate) fn prolong(
        &mut self,
        key: SessionKey,
        uri: UriId,
        expires: Option<Instant>,
    ) -> Option<Arc<[u8]>> {
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
    pub(crate) fn renew(&mut self, key: SessionKey, new: NewUri, core: &mut Core) -> Option<Arc<[u8]>> {
        self.forget_ending(key);
        let renewed = self.table.get_mut(key).map(|session| {
            let before = std::mem::replace(&mut session.current, OwnUri::mint(&session.id, new, core));
            session.earlier.retain(|own| !own.is_over(core.now));
            if session.earlier.len() >= EARLIER_MAX {
                // One that was prolonged may be the oldest, and live.
                let expired = session.earlier.iter().position(|own| own.is_expired(core.now));
                session.earlier.remove(expired.unwrap_or_default());
            }
            session.earlier.push(before);
            Arc::clone(&session.current.uri)
        });
        self.recount(key, core);
        self.note_ending(key);
        renewed
    }

    /// Opens a session with its first URI.
    pub(crate) fn open(&mut self, new: NewSession, uri: NewUri, core: &mut Core) -> (SessionKey, Arc<[u8]>) {
        let mut id = SessionId::mint(core.me, &mut core.entropy);
        while self.by_id.contains_key(&id) {
            id = SessionId::mint(core.me, &mut core.entropy);
        }
        let inner = match new.through_relay {
            true => Inner::Relay { by: Some(new.peer) },
            false => Inner::Client(new.peer.key),
        };
        let current = OwnUri::mint(&id, uri, core);
        let granted = Arc::clone(&current.uri);
        let session = Session {
            id,
            current,
            earlier: Vec::new(),
            inner,
            outer: OuterSide::Unbound,
            ahead: None,
            ways: Vec::new(),
            guesses: (0, core.now),
            blocked_until: None,
            verified: new.verified,
            counted: new.counted,
            opened: core.now,
            running: Vec::new(),
            octets: [0, 0],
            far: None,
            end: None,
            stopped: VecDeque::new(),
            weight: 0,
        };
        let key = self.table.insert(session);
        self.by_id.insert(id, key);
        self.recount(key, core);
        self.note_ending(key);
        core.stats.sessions_opened += 1;
        (key, granted)
    }

    /// When the first session is over that ends with no connection.
    pub(crate) fn next_ending(&self) -> Option<Instant> {
        self.ending.first().map(|(at, _)| *at)
    }

    /// Takes a session that is over by now and ends with no connection.
    pub(crate) fn take_ended(&mut self, now: Instant) -> Option<SessionId> {
        let (_, key) = self.ending.first().copied().filter(|(at, _)| *at <= now)?;
        self.forget_ending(key);
        self.id_of(key)
    }

    /// The users of sessions that count among theirs by themselves, once for each.
    pub(crate) fn counted(&self) -> impl Iterator<Item = UserKey> {
        self.table.values().filter_map(|session| session.counted)
    }

    /// Those that count by themselves and began uncounted.
    pub(crate) fn count_all(&mut self) {
        for session in self.table.values_mut().filter(|session| session.client().is_none()) {
            let user = UserKey::new(session.verified.username(), session.verified.realm());
            session.counted.get_or_insert(user);
        }
    }

    fn note_ending(&mut self, key: SessionKey) {
        let through_relay = self.table.get(key).is_some_and(|s| matches!(s.inner, Inner::Relay { .. }));
        if let Some(at) = self.over_at(key).filter(|_| through_relay) {
            self.ending.insert((at, key));
        }
    }

    fn forget_ending(&mut self, key: SessionKey) {
        if let Some(at) = self.over_at(key) {
            self.ending.remove(&(at, key));
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = SessionKey> {
        self.table.keys()
    }

    pub(crate) fn get(&self, key: SessionKey) -> Option<&Session> {
        self.table.get(key)
    }

    /// Notes why a session is about to end.
    pub(crate) fn note_end(&mut self, key: SessionKey, reason: EndReason) {
        if let Some(session) = self.table.get_mut(key) {
            session.end = Some(reason);
        }
    }

    pub(crate) fn by_id(&self, id: &SessionId) -> Option<&Session> {
        self.by_id.get(id).and_then(|key| self.table.get(*key))
    }

    fn find(&mut self, id: &SessionId) -> Option<&mut Session> {
        self.by_id.get(id).and_then(|key| self.table.get_mut(*key))
    }

    fn remove(&mut self, id: &SessionId) -> Option<Session> {
        let key = self.by_id.remove(id)?;
        self.forget_ending(key);
        let session = self.table.remove(key)?;
        self.kept -= session.weight;
        Some(session)
    }

    /// Tells the memory budget what a session takes by now.
    fn recount(&mut self, key: SessionKey, core: &mut Core) {
        let Some(session) = self.table.get_mut(key) else {
            return;
        };
        let now = session.kept();
        let before = std::mem::replace(&mut session.weight, now);
        if now == before {
            return;
        }
        self.kept = self.kept - before + now;
        if core.budget.keep(before, now) {
            core.count_limit(Limit::QueueBytesTotal);
        }
    }

    /// The same, where something has been asked of it or told to it.
    fn recount_by_id(&mut self, id: &SessionId, core: &mut Core) {
        if let Some(key) = self.by_id.get(id).copied() {
            self.recount(key, core);
        }
    }

    /// Bytes of memory that the sessions take which are bounded by no number of connections.
    pub(crate) fn kept(&self) -> usize {
        self.kept
    }
}

impl Session {
    /// The connection by which its client, or the relay before it, is reached, on whatever core; `None` where that relay
    /// has none with us at present.
    pub(crate) fn inner(&self, me: CoreId) -> Option<PeerRef> {
        match self.inner {
            Inner::Client(key) => Some(PeerRef { core: me, key }),
            Inner::Relay { by } => by,
        }
    }

    /// What it takes against the memory budget. Clients behind relays may have any number; all others have few for
    /// each connection.
    fn kept(&self) -> usize {
        match self.inner {
            Inner::Client(_) => 0,
            Inner::Relay { .. } => {
                let of_uri = |own: &OwnUri| size_of::<OwnUri>() + own.uri.len() + own.inner_path.len();
                let ahead = self.ahead.as_ref().map_or(0, |ahead| ahead.uri.len());
                let far = self.far.as_ref().map_or(0, |(_, uri)| uri.len());
                let stopped = self.stopped.iter().map(|(_, id)| size_of_val(id) + id.as_bytes().len());
                let ways = self.ways.capacity() * size_of::<Way>();
                let beside = ahead + far + self.outer.kept() + stopped.sum::<usize>() + ways;
                2 * size_of::<Self>() + self.uris().map(of_uri).sum::<usize>() + beside
            }
        }
    }

    /// Its client's own connection; `None` if the client is behind a relay.
    pub(crate) fn client(&self) -> Option<PeerKey> {
        match self.inner {
            Inner::Client(key) => Some(key),
            Inner::Relay { .. } => None,
        }
    }

    /// Whether a request comes from the side of its client: by the client's own connection (F1), or by any connection
    /// with the relay that stands before it, from the URI there that the client's AUTH came by.
    fn comes_from_inside(&self, giver: Giver, from: PeerRef, me: CoreId, transit: &Transit) -> bool {
        match self.inner {
            Inner::Client(key) => giver.is_connection() && from == PeerRef { core: me, key },
            Inner::Relay { .. } => {
                let from = transit.received_from_path().first();
                let is_nearest = |own: &OwnUri| {
                    Path::new(&own.inner_path).first().zip(from).is_some_and(|(a, b)| same_uri(a, b))
                };
                giver == Giver::Relay && self.uris().any(is_nearest)
            }
        }
    }

    /// Its URIs, the current one first.
    fn uris(&self) -> impl Iterator<Item = &OwnUri> {
        std::iter::once(&self.current).chain(&self.earlier)
    }

    fn uris_mut(&mut self) -> impl Iterator<Item = &mut OwnUri> {
        std::iter::once(&mut self.current).chain(&mut self.earlier)
    }

    /// Which of its URIs a To-Path URI with our session-id is, if any (RFC 4975, 6.1).
    fn named_by(&self, uri: &[u8]) -> Option<&OwnUri> {
        self.uris().find(|own| same_uri(&own.uri, uri))
    }

    /// Whether a path leads to its client, and no further.
    fn leads_inside(&self, path: Path<'_>) -> bool {
        self.uris().any(|own| own.leads_inside(path))
    }

    /// When the last of its URIs expires, if that is enforced.
    fn expires(&self) -> Option<Instant> {
        self.uris().map(|own| own.expires).reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).flatten()
    }

    /// The URI that requests of our own come from: the current one, or an earlier one that outlives it.
    fn own_uri(&self, now: Instant) -> &Arc<[u8]> {
        let live = self.uris().find(|own| !own.is_expired(now));
        &live.unwrap_or(&self.current).uri
    }

    /// What an operator may see of it.
    pub(crate) fn user(&self) -> &str {
        self.verified.username()
    }

    pub(crate) fn view(&self, now: Instant) -> SessionView {
        let state = match self.outer {
            _ if self.is_expired(now) => SessionState::Expired,
            OuterSide::Unbound => SessionState::Unbound,
            OuterSide::Bound { .. } => SessionState::Bound,
            OuterSide::Lost { .. } => SessionState::Lost,
        };
        let [octets_from_client, octets_to_client] = self.octets;
        SessionView {
            session: self.id.prefix().to_owned(),
            user: self.verified.username().to_owned(),
            realm: self.verified.realm().to_owned(),
            age: now.saturating_duration_since(self.opened),
            expires_in: self.expires().map(|at| at.saturating_duration_since(now)),
            state,
            client: self.client(),
            relay: self.client().is_none().then(|| authority_of_first(&self.current.inner_path)),
            far: self.far.as_ref().map(|(to, uri)| Far::new(*to, uri)),
            octets_from_client,
            octets_to_client,
        }
    }

    /// Binds its outer side.
    fn bind(&mut self, to: Outer, uri: Arc<[u8]>) {
        self.bind_known(to, OuterUris::new(uri));
    }

    fn bind_known(&mut self, to: Outer, known: OuterUris) {
        self.far = Some((to, Arc::clone(&known.latest)));
        self.outer = OuterSide::Bound { to, known };
    }

    /// Body octets of a request that runs through; where they go.
    fn pass_on(&mut self, stream: StreamId, octets: usize) -> Option<Outer> {
        let running = self.running.iter_mut().find(|running| running.stream == stream)?;
        if let Some(sum) = self.octets.get_mut(usize::from(running.inward)) {
            *sum = sum.saturating_add(octets as u64);
        }
        running.octets = running.octets.saturating_add(octets as u64);
        Some(running.next)
    }

    /// Ends what runs of a request here.
    fn take_running(&mut self, stream: StreamId) -> Option<Running> {
        let index = self.running.iter().position(|running| running.stream == stream)?;
        Some(self.running.swap_remove(index))
    }

    fn is_expired(&self, now: Instant) -> bool {
        self.uris().all(|own| own.is_expired(now))
    }

    /// Whether the session-id of one of its URIs begins like this.
    pub(crate) fn is_called(&self, beginning: &str) -> bool {
        self.uris().any(|own| own.id.as_str().starts_with(beginning))
    }

    /// No more of a message is to be sent: its receiver said so.
    fn stop(&mut self, inward: bool, message: MessageId) {
        if !self.is_stopped(inward, Some(&message)) {
            if self.stopped.len() >= STOPPED_MAX {
                self.stopped.pop_front();
            }
            self.stopped.push_back((inward, message));
        }
    }

    fn is_stopped(&self, inward: bool, message: Option<&MessageId>) -> bool {
        message.is_some_and(|message| self.stopped.iter().any(|(way, id)| *way == inward && id == message))
    }
}

/// Whether a URI names the relay that was asked under another one, whatever sessions of it. Who was asked by a name without
/// a port may listen on any.
fn same_relay(asked: &[u8], uri: &[u8]) -> bool {
    let (Ok(asked), Ok(uri)) = (MsrpUri::parse(asked), MsrpUri::parse(uri)) else {
        return false;
    };
    let by_name = asked.port().is_none()
        && asked.is_secure() == uri.is_secure()
        && host_matches(asked.host_str(), uri.host_str());
    by_name || asked.same_authority(&uri)
}

/// Compares URIs; equal octets, the usual case, need no parsing.
fn same_uri(a: &[u8], b: &[u8]) -> bool {
    a == b || matches!((MsrpUri::parse(a), MsrpUri::parse(b)), (Ok(a), Ok(b)) if a.same_as(&b))
}

impl OwnUri {
    /// Mints a URI (norm A8): the host our certificate proves, the port the client came in by.
    fn mint(session: &SessionId, new: NewUri, core: &mut Core) -> Self {
        let id = session.mint_uri_id(&mut core.entropy);
        let scheme = if new.secure { "msrps" } else { "msrp" };
        let uri = format!("{scheme}://{}:{}/{};tcp", core.settings.hostname, new.port, id.as_str());
        Self { id, uri: Arc::from(uri.into_bytes()), inner_path: new.inner_path, expires: new.expires }
    }

    fn is_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    /// Whether it expired so long ago that no transaction can be open that went by it.
    fn is_over(&self, now: Instant) -> bool {
        self.expires.is_some_and(|at| at + RESPONSE_TIMEOUT <= now)
    }

    /// Whether a path is the way back to the client that it was granted to.
    fn leads_inside(&self, path: Path<'_>) -> bool {
        let inside = Path::new(&self.inner_path);
        path.as_bytes() == inside.as_bytes()
            || (path.len() == inside.len() && path.uris().zip(inside.uris()).all(|(a, b)| same_uri(a, b)))
    }
}

impl Running {
    /// Passes the end of the request on to where it went.
    fn end(&self, flag: Flag, core: &mut Core, fx: &mut Effects) {
        let message = match self.next {
            Outer::Peer(peer) => Message::Close { peer, stream: self.stream, flag },
            Outer::Session(session) => Message::End { session, stream: self.stream, flag },
        };
        core.post(message, fx);
    }
}

/// Tells whoever handed a request to a session that it will not take it, or no more of it.
fn refuse(core: &mut Core, id: SessionId, running: &Running, status: Status, fx: &mut Effects) {
    let stream = running.stream;
    match running.giver {
        Giver::Peer | Giver::Relay => {
            let status = Some(status);
            core.post(Message::Answer { stream, status }, fx);
        }
        Giver::Session(before) if running.transit.wants_answer() => {
            // It may have ended there already: see the orphans.
            let mut notice = Notice::for_hop_before(&running.transit, before, stream);
            notice.extend(running.octets);
            let place = Outer::Session(id);
            core.orphans.adopt(place, Failure { notice, status });
            let broken = Message::Broken { session: before, stream, status };
            core.post(broken, fx);
        }
        Giver::Session(_) => {}
    }
}

impl Outer {
    /// The core that owns it.
    fn core(self) -> CoreId {
        match self {
            Self::Peer(peer) => peer.core,
            Self::Session(session) => session.home(),
        }
    }
}

impl Notice {
    /// What the session before is told of a request it handed to the next one.
    fn for_hop_before(transit: &Transit, before: SessionId, stream: StreamId) -> Self {
        let mut hop = transit.clone();
        hop.moves = hop.moves.saturating_sub(1);
        let mut report_to = Vec::new();
        hop.append_from_path(&mut report_to);
        let range = transit.head.byte_range();
        let start = range.map_or(1, |r| r.start);
        Self {
            stream,
            session: before,
            inward: false,
            method: transit.method(),
            failure_report: transit.head.failure_report(),
            report_to: Arc::from(report_to),
            message_id: transit.head.message_id(&transit.octets).map(MessageId::new),
            range: ByteRange {
                start,
                end: Some(start.saturating_sub(1)),
                total: range.and_then(|r| r.total),
            },
            moves: transit.moves,
        }
    }
}
