//! What AUTH made: a URI that leads to one client, and what its outer side is bound to.
//!
//! A session lives on its home core, the one that owns its client's connection, and never moves.
//! All its decisions are taken there: in `route`, who may use the URI, what the first request from
//! either side binds it to, where a request goes next; in `end`, who hears of a failure. Here is the
//! table.
//!
//! Invariants: no session without [`Verified`]; at most one request runs through it in each
//! direction; once bound, its outer side never becomes another's; a failure is told once.

mod end;
mod route;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use slotmap::SlotMap;

use super::admission::UserKey;
use super::ids::{CoreId, Entropy, PeerKey, SecretHasher, SessionId, SessionKey, StreamId};
use super::message::{Giver, Message, MessageId, Notice, Outer, Transit};
use super::orphan::Failure;
use super::transaction::RESPONSE_TIMEOUT;
use super::view::{EndReason, Far, SessionState, SessionView};
use super::{Core, Effects, Transport};
use crate::proto::digest::Verified;
use crate::proto::head::ByteRange;
use crate::proto::parser::Flag;
use crate::proto::status::Status;
use crate::proto::uri::MsrpUri;

/// A URI of ours and what it stands for.
#[derive(Debug)]
pub(crate) struct Session {
    id: SessionId,
    /// As in Use-Path, and so as in every path.
    uri: Arc<[u8]>,
    inner: PeerKey,
    /// The client's own URI, from the From-Path of its AUTH.
    inner_uri: Arc<[u8]>,
    outer: OuterSide,
    verified: Arc<Verified>,
    opened: Instant,
    expires: Option<Instant>,
    /// The requests running through, outward and inward.
    running: [Option<Running>; 2],
    /// Body octets passed on, outward and inward.
    octets: [u64; 2],
    /// Who is, or was, at the outer side.
    far: Option<(Outer, Arc<[u8]>)>,
    /// Why its client is gone.
    end: Option<EndReason>,
    /// Messages that the next hop has asked to be stopped, and their direction, latest last (RFC 4975, 10.5).
    stopped: VecDeque<(bool, MessageId)>,
}

/// Stopped messages remembered: a sender has few under way at a time, and stops when it is told.
const STOPPED_MAX: usize = 8;

#[derive(Debug)]
enum OuterSide {
    /// Nobody has used the URI yet.
    Unbound,
    Bound {
        to: Outer,
        uri: Arc<[u8]>,
    },
    /// It was bound, and that side is gone: there is no second time (norm F5).
    Lost,
}

/// A request whose end has not come yet.
#[derive(Debug)]
struct Running {
    stream: StreamId,
    giver: Giver,
    next: Outer,
    /// As this session received it; kept to tell a session before us of a failure.
    transit: Transit,
    /// Body octets passed on.
    octets: u64,
}

/// Direction of a request: index into [`Session::running`].
fn direction(inward: bool) -> usize {
    usize::from(inward)
}

/// What a session needs to be opened.
pub(crate) struct NewSession {
    pub(crate) inner: PeerKey,
    pub(crate) inner_uri: Arc<[u8]>,
    pub(crate) verified: Arc<Verified>,
    pub(crate) expires: Option<Instant>,
    pub(crate) transport: Transport,
}

/// The sessions of one core. Ids are bearer secrets: how they spread in the table must not be
/// guessable (norm S4).
#[derive(Debug)]
pub(crate) struct Sessions {
    table: SlotMap<SessionKey, Session>,
    by_id: HashMap<SessionId, SessionKey, SecretHasher>,
}

impl Sessions {
    pub(crate) fn new(entropy: &mut Entropy) -> Self {
        Self { table: SlotMap::with_key(), by_id: HashMap::with_hasher(SecretHasher::new(entropy)) }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn id_of(&self, key: SessionKey) -> Option<SessionId> {
        self.table.get(key).map(|s| s.id)
    }

    pub(crate) fn uri_of(&self, key: SessionKey) -> Option<Arc<[u8]>> {
        self.table.get(key).map(|s| Arc::clone(&s.uri))
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
        self.table.get(key)?.expires.map(|at| at + RESPONSE_TIMEOUT)
    }

    /// Its client's connection.
    pub(crate) fn inner_of(&self, id: &SessionId) -> Option<PeerKey> {
        self.by_id.get(id).and_then(|key| self.table.get(*key)).map(|session| session.inner)
    }

    /// Whose session it is.
    pub(crate) fn user_of(&self, id: &SessionId) -> Option<UserKey> {
        let session = self.by_id.get(id).and_then(|key| self.table.get(*key))?;
        Some(UserKey::new(session.verified.username(), session.verified.realm()))
    }

    /// Prolongs a session by an AUTH to its own URI.
    pub(crate) fn prolong(&mut self, key: SessionKey, expires: Option<Instant>) {
        if let Some(session) = self.table.get_mut(key) {
            session.expires = expires;
        }
    }

    /// Mints a URI (norm A8): the host our certificate proves, the port the client came in by.
    pub(crate) fn open(&mut self, new: NewSession, core: &mut Core) -> SessionKey {
        let id = SessionId::mint(core.me, &mut core.entropy);
        let scheme = if new.transport.secure { "msrps" } else { "msrp" };
        let uri = format!("{scheme}://{}:{}/{};tcp", core.settings.hostname, new.transport.port, id.as_str());
        let session = Session {
            id,
            uri: Arc::from(uri.into_bytes()),
            inner: new.inner,
            inner_uri: new.inner_uri,
            outer: OuterSide::Unbound,
            verified: new.verified,
            opened: core.now,
            expires: new.expires,
            running: [None, None],
            octets: [0, 0],
            far: None,
            end: None,
            stopped: VecDeque::new(),
        };
        let key = self.table.insert(session);
        self.by_id.insert(id, key);
        core.stats.sessions_opened += 1;
        key
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

    fn find(&mut self, id: &SessionId) -> Option<&mut Session> {
        self.by_id.get(id).and_then(|key| self.table.get_mut(*key))
    }

    fn remove(&mut self, id: &SessionId) -> Option<Session> {
        self.by_id.remove(id).and_then(|key| self.table.remove(key))
    }
}

impl Session {
    /// Its client's connection.
    pub(crate) fn inner(&self) -> PeerKey {
        self.inner
    }

    /// What an operator may see of it.
    pub(crate) fn view(&self, now: Instant) -> SessionView {
        let state = match self.outer {
            _ if self.is_expired(now) => SessionState::Expired,
            OuterSide::Unbound => SessionState::Unbound,
            OuterSide::Bound { .. } => SessionState::Bound,
            OuterSide::Lost => SessionState::Lost,
        };
        let [octets_from_client, octets_to_client] = self.octets;
        SessionView {
            session: self.id.prefix().to_owned(),
            user: self.verified.username().to_owned(),
            realm: self.verified.realm().to_owned(),
            age: now.saturating_duration_since(self.opened),
            expires_in: self.expires.map(|at| at.saturating_duration_since(now)),
            state,
            client: self.inner,
            far: self.far.as_ref().map(|(to, uri)| Far::new(*to, uri)),
            octets_from_client,
            octets_to_client,
        }
    }

    /// Binds its outer side.
    fn bind(&mut self, to: Outer, uri: Arc<[u8]>) {
        self.far = Some((to, Arc::clone(&uri)));
        self.outer = OuterSide::Bound { to, uri };
    }

    /// Body octets of a request that runs through; where they go.
    fn pass_on(&mut self, stream: StreamId, octets: usize) -> Option<Outer> {
        let way = self.running.iter().position(|r| r.as_ref().is_some_and(|r| r.stream == stream))?;
        if let Some(sum) = self.octets.get_mut(way) {
            *sum = sum.saturating_add(octets as u64);
        }
        let running = self.running.get_mut(way)?.as_mut()?;
        running.octets = running.octets.saturating_add(octets as u64);
        Some(running.next)
    }

    fn is_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    /// Whether a To-Path URI that carries our session id is indeed ours (RFC 4975, 6.1).
    fn is_named_by(&self, uri: &[u8]) -> bool {
        same_uri(&self.uri, uri)
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

    fn running_mut(&mut self, stream: StreamId) -> Option<&mut Option<Running>> {
        self.running.iter_mut().find(|r| r.as_ref().is_some_and(|r| r.stream == stream))
    }
}

/// Compares URIs; equal octets, the usual case, need no parsing.
fn same_uri(a: &[u8], b: &[u8]) -> bool {
    a == b || matches!((MsrpUri::parse(a), MsrpUri::parse(b)), (Ok(a), Ok(b)) if a.same_as(&b))
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
        Giver::Peer => {
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
