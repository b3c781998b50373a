//! One session: the URIs of a client, what its two sides are bound to, what runs through it.
//!
//! Invariants: at most one request of each connection runs through it; once bound, its outer side never becomes
//! another's, except that a relay that has proven its name is the same one on any connection; a failure is reported
//! once. RFC 4976, 6.3 and 6.4; RFC 4975, 5.4.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use msrp_proto::digest::Verified;
use msrp_proto::head::ByteRange;
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::uri::{MsrpUri, Path, host_matches};

use crate::core::Core;
use crate::ids::{CoreId, PeerKey, PeerRef, SessionId, SessionRef, StreamId, UriId};
use crate::meet::Progress;
use crate::message::{PeerStep, SessionStep};
use crate::orphans::Failure;
use crate::quota::who::UserKey;
use crate::request::{Giver, MessageId, Neighbour, Notice, Transit};
use crate::transactions::RESPONSE_TIMEOUT;
use crate::view::{Far, SessionState, SessionView, authority_of_first};

/// What one or two URIs of ours stand for.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) me: SessionRef,
    /// The URI that was granted last.
    pub(super) current: OwnUri,
    /// Earlier URIs: at most one of them is live.
    pub(super) earlier: Vec<OwnUri>,
    pub(super) inner: Inner,
    pub(crate) outer: OuterSide,
    /// The relay that its client asks for a session through this one (req A16).
    pub(super) next_relay: Option<NextRelay>,
    /// Further connections with the relays at either side, latest last.
    pub(super) relay_connections: Vec<RelayConnection>,
    /// Failed AUTHs at relays beyond this one, since this time.
    pub(super) guesses: (u32, Instant),
    /// Its client has failed there too often: no AUTH is forwarded before this time.
    pub(super) blocked_until: Option<Instant>,
    pub(super) verified: Arc<Verified>,
    /// The user among whose sessions it counts, if the connection does not count.
    pub(super) counted: Option<UserKey>,
    /// How far it has got in meeting one on another core.
    pub(crate) progress: Progress,
    pub(super) opened: Instant,
    /// The requests running through: one of each connection at most.
    pub(super) running: Vec<Running>,
    /// Body bytes passed on, outward and inward.
    pub(super) bytes: [u64; 2],
    /// The peer at the outer side, also after it is gone.
    pub(super) far: Option<(Neighbour, Arc<[u8]>)>,
    /// Messages that the next hop asked us to stop, and their direction, latest last (RFC 4975, 10.5).
    pub(super) stopped: VecDeque<(bool, MessageId)>,
    /// Bytes of memory that the budget knows of.
    pub(super) weight: usize,
}

/// Stopped messages that are remembered: a sender has few under way at a time, and stops when it is told.
pub(super) const STOPPED_MAX: usize = 8;

/// What minting a URI of ours needs.
pub(crate) struct NewUri {
    pub(crate) inner_path: Arc<[u8]>,
    pub(crate) valid: Validity,
    pub(crate) secure: bool,
    /// The port of ours that the client, or the relay before us, knows.
    pub(crate) port: u16,
    /// The client has come by WebSocket.
    pub(crate) websocket: bool,
}

/// How long a URI lasts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validity {
    /// As the client was told.
    pub(crate) announced: Instant,
    /// Whether it ends then. Else it lasts as long as the connection, unless its client asks for another URI, and one more:
    /// a client that renews does not count on it any longer.
    pub(crate) is_enforced: bool,
}

impl Validity {
    pub(super) fn expires(self) -> Option<Instant> {
        self.is_enforced.then_some(self.announced)
    }
}

/// One of a session's URIs. A client replaces its URI before that expires (RFC 4976, 9.4). Until then both belong to
/// the session, whichever the client or the other side uses.
#[derive(Clone, Debug)]
pub struct OwnUri {
    pub(super) id: UriId,
    /// As in Use-Path, and so as in every path.
    pub(super) uri: Arc<[u8]>,
    /// The way back to the client, from the From-Path of its AUTH: relays, if any, and its own URI.
    pub(super) inner_path: Arc<[u8]>,
    pub(super) valid: Validity,
    /// Its client has come by WebSocket, and may write it with `ws`.
    pub(super) websocket: bool,
}

/// URIs remembered beside the current one. Expired ones still let REPORTs pass (req A12).
pub(super) const EARLIER_MAX: usize = 4;

/// How the client is reached.
#[derive(Clone, Copy, Debug)]
pub(super) enum Inner {
    /// By its own connection only.
    Client(PeerKey),
    /// By any connection with the relay that is first in the way back; at present by this one.
    Relay { by: Option<PeerRef> },
}

#[derive(Debug)]
pub(crate) enum OuterSide {
    /// The URI has not been used yet.
    Unbound,
    Bound {
        to: Neighbour,
        known: OuterUris,
    },
    /// It was bound, and that side is gone. It is not bound a second time (req F5), except to a relay that proves to
    /// be the one of these URIs.
    Lost {
        known: OuterUris,
        /// The core on which it was: what went there last may not be answered yet.
        at: CoreId,
    },
}

/// The URIs of the outer side. A client behind another relay replaces its URI there, as our own clients do here: then
/// both are known, the last used one first.
#[derive(Clone, Debug)]
pub(crate) struct OuterUris {
    pub(super) latest: Arc<[u8]>,
    pub(super) before: Option<Arc<[u8]>>,
}

impl OuterUris {
    pub(super) fn new(uri: Arc<[u8]>) -> Self {
        Self { latest: uri, before: None }
    }

    pub(super) fn contain(&self, uri: &[u8]) -> bool {
        same_uri(&self.latest, uri) || self.before.as_ref().is_some_and(|before| same_uri(before, uri))
    }

    /// Adds a URI, unless it is known.
    pub(super) fn add(&mut self, uri: &[u8]) {
        if !self.contain(uri) {
            self.before = Some(std::mem::replace(&mut self.latest, Arc::from(uri)));
        }
    }

    /// Whether a URI is another one of the same relay.
    pub(super) fn are_of_relay_of(&self, uri: &[u8]) -> bool {
        let parsed = (MsrpUri::parse(&self.latest), MsrpUri::parse(uri));
        matches!(parsed, (Ok(known), Ok(uri)) if known.same_authority(&uri) && known.is_secure() == uri.is_secure())
    }
}

impl OuterSide {
    pub(crate) fn is_unbound(&self) -> bool {
        matches!(self, Self::Unbound)
    }

    /// Bytes of its known URIs.
    pub(super) fn kept(&self) -> usize {
        match self {
            Self::Unbound => 0,
            Self::Bound { known, .. } | Self::Lost { known, .. } => {
                known.latest.len() + known.before.as_ref().map_or(0, |before| before.len())
            }
        }
    }
}

/// A connection with a relay at one side of a session, beside the one in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RelayConnection {
    pub(super) inside: bool,
    pub(super) peer: PeerRef,
}

/// How many further connections are remembered. A relay with more does without the oldest.
pub(super) const RELAY_CONNECTIONS_MAX: usize = 4;

/// A relay beyond this one, and the connection with it.
#[derive(Debug)]
pub(super) struct NextRelay {
    pub(super) peer: PeerRef,
    /// As the client named it.
    pub(super) uri: Arc<[u8]>,
}

/// A request whose end has not come yet.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) stream: StreamId,
    pub(super) giver: Giver,
    pub(super) inward: bool,
    pub(super) next: Neighbour,
    /// As this session received it; kept to report a failure to a session before this one.
    pub(super) transit: Transit,
    /// Body bytes passed on.
    pub(super) bytes: u64,
}

impl Session {
    /// The connection that leads to its client, or to the relay before it, on whatever core; `None` if that relay has
    /// no connection with us at present.
    pub(crate) fn inner(&self, me: CoreId) -> Option<PeerRef> {
        match self.inner {
            Inner::Client(key) => Some(PeerRef { core: me, key }),
            Inner::Relay { by } => by,
        }
    }

    /// The core that answers what goes out: that of the outer side, or of the last one.
    pub(crate) fn outer_core(&self) -> Option<CoreId> {
        match &self.outer {
            OuterSide::Bound { to, .. } => Some(to.core()),
            OuterSide::Lost { at, .. } => Some(*at),
            OuterSide::Unbound => None,
        }
    }

    /// Bytes that it takes from the memory budget. Clients behind relays may have any number of sessions; all others
    /// have few for each connection.
    pub(super) fn kept(&self) -> usize {
        match self.inner {
            Inner::Client(_) => 0,
            Inner::Relay { .. } => {
                let of_uri = |own: &OwnUri| size_of::<OwnUri>() + own.uri.len() + own.inner_path.len();
                let ahead = self.next_relay.as_ref().map_or(0, |ahead| ahead.uri.len());
                let far = self.far.as_ref().map_or(0, |(_, uri)| uri.len());
                let stopped = self.stopped.iter().map(|(_, id)| size_of_val(id) + id.as_bytes().len());
                let connections = self.relay_connections.capacity() * size_of::<RelayConnection>();
                let beside = ahead + far + self.outer.kept() + stopped.sum::<usize>() + connections;
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

    /// Whether a request comes from its client's side: by the client's own connection (F1), or by any connection with
    /// the relay before the client, from the URI there that the client's AUTH came by.
    pub(super) fn comes_from_inside(
        &self,
        giver: Giver,
        from: PeerRef,
        me: CoreId,
        transit: &Transit,
    ) -> bool {
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
    pub(super) fn uris(&self) -> impl Iterator<Item = &OwnUri> {
        std::iter::once(&self.current).chain(&self.earlier)
    }

    pub(super) fn uris_mut(&mut self) -> impl Iterator<Item = &mut OwnUri> {
        std::iter::once(&mut self.current).chain(&mut self.earlier)
    }

    /// The URI of this session that a To-Path URI names, if any (RFC 4975, 6.1).
    pub(crate) fn named_by(&self, uri: &[u8]) -> Option<&OwnUri> {
        self.uris().find(|own| own.is_named_by(uri))
    }

    /// Whether a path leads to its client and no further.
    pub(crate) fn leads_inside(&self, path: Path<'_>) -> bool {
        self.uris().any(|own| own.leads_inside(path))
    }

    /// When the last of its URIs expires, if that is enforced.
    pub(super) fn expires(&self) -> Option<Instant> {
        self.uris().map(|own| own.valid.expires()).reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).flatten()
    }

    /// The URI that our own requests come from: the current one, or an earlier one that outlives it.
    pub(super) fn own_uri(&self, now: Instant) -> &Arc<[u8]> {
        let live = self.uris().find(|own| !own.is_expired(now));
        &live.unwrap_or(&self.current).uri
    }

    /// When no transaction through it can be open any more, if ever.
    pub(super) fn over_at(&self) -> Option<Instant> {
        self.expires().map(|at| at + RESPONSE_TIMEOUT)
    }

    /// The user who owns it.
    pub(super) fn user_key(&self) -> UserKey {
        UserKey::new(self.verified.username(), self.verified.realm())
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
        let [bytes_from_client, bytes_to_client] = self.bytes;
        SessionView {
            session: self.me.id.prefix().to_owned(),
            user: self.verified.username().to_owned(),
            realm: self.verified.realm().to_owned(),
            age: now.saturating_duration_since(self.opened),
            expires_in: self.expires().map(|at| at.saturating_duration_since(now)),
            state,
            client: self.client(),
            relay: self.client().is_none().then(|| authority_of_first(&self.current.inner_path)),
            far: self.far.as_ref().map(|(to, uri)| Far::new(*to, uri)),
            bytes_from_client,
            bytes_to_client,
        }
    }

    /// Binds its outer side.
    pub(crate) fn bind(&mut self, to: Neighbour, uri: Arc<[u8]>) {
        self.bind_known(to, OuterUris::new(uri));
    }

    pub(super) fn bind_known(&mut self, to: Neighbour, known: OuterUris) {
        self.far = Some((to, Arc::clone(&known.latest)));
        self.outer = OuterSide::Bound { to, known };
    }

    /// Counts body bytes of a running request. Returns where they go.
    pub(super) fn pass_on(&mut self, stream: StreamId, bytes: usize) -> Option<Neighbour> {
        let running = self.running.iter_mut().find(|running| running.stream == stream)?;
        if let Some(sum) = self.bytes.get_mut(usize::from(running.inward)) {
            *sum = sum.saturating_add(bytes as u64);
        }
        running.bytes = running.bytes.saturating_add(bytes as u64);
        Some(running.next)
    }

    /// Ends a running request in this session.
    pub(super) fn take_running(&mut self, stream: StreamId) -> Option<Running> {
        let index = self.running.iter().position(|running| running.stream == stream)?;
        Some(self.running.swap_remove(index))
    }

    pub(crate) fn is_expired(&self, now: Instant) -> bool {
        self.uris().all(|own| own.is_expired(now))
    }

    /// Whether the session-id of one of its URIs begins like this.
    pub(crate) fn is_called(&self, beginning: &str) -> bool {
        self.uris().any(|own| own.id.as_str().starts_with(beginning))
    }

    /// A message must stop: its receiver said so.
    pub(super) fn stop(&mut self, inward: bool, message: MessageId) {
        if !self.is_stopped(inward, Some(&message)) {
            if self.stopped.len() >= STOPPED_MAX {
                self.stopped.pop_front();
            }
            self.stopped.push_back((inward, message));
        }
    }

    pub(super) fn is_stopped(&self, inward: bool, message: Option<&MessageId>) -> bool {
        message.is_some_and(|message| self.stopped.iter().any(|(way, id)| *way == inward && id == message))
    }
}

/// Whether a URI names the relay that was asked under another URI, for whatever session. A relay that was asked by a
/// name without a port may listen on any port.
pub(super) fn same_relay(asked: &[u8], uri: &[u8]) -> bool {
    let (Ok(asked), Ok(uri)) = (MsrpUri::parse(asked), MsrpUri::parse(uri)) else {
        return false;
    };
    let by_name = asked.port().is_none()
        && asked.is_secure() == uri.is_secure()
        && host_matches(asked.host_str(), uri.host_str());
    by_name || asked.same_authority(&uri)
}

/// Compares URIs. Equal bytes, the usual case, need no parsing.
pub(super) fn same_uri(a: &[u8], b: &[u8]) -> bool {
    a == b || matches!((MsrpUri::parse(a), MsrpUri::parse(b)), (Ok(a), Ok(b)) if a.same_as(&b))
}

impl OwnUri {
    /// Mints a URI (req A8): the host that our certificate proves, the port that the client came by.
    pub(super) fn mint(session: &SessionId, new: NewUri, core: &mut Core) -> Self {
        let id = session.mint_uri_id(&mut core.entropy);
        let scheme = if new.secure { "msrps" } else { "msrp" };
        let uri = format!("{scheme}://{}:{}/{};tcp", core.settings.hostname, new.port, id.as_str());
        let NewUri { inner_path, valid, websocket, .. } = new;
        Self { id, uri: Arc::from(uri.into_bytes()), inner_path, valid, websocket }
    }

    /// Whether a URI of a path is this one.
    pub(super) fn is_named_by(&self, uri: &[u8]) -> bool {
        same_uri(&self.uri, uri) || self.is_named_as_websocket(uri)
    }

    /// Whether a URI says `ws` where this says `tcp`, at whatever port of ours: a client by WebSocket may write it so
    /// (RFC 7977, 5.2.1). Elsewhere that is another URI (RFC 4975, 6.1).
    fn is_named_as_websocket(&self, uri: &[u8]) -> bool {
        self.websocket
            && MsrpUri::parse(uri).is_ok_and(|uri| {
                uri.transport().eq_ignore_ascii_case("ws") && uri.session_id() == Some(self.id.as_str())
            })
    }

    pub(crate) fn is_expired(&self, now: Instant) -> bool {
        self.valid.expires().is_some_and(|at| at <= now)
    }

    /// Whether its client may not count on it any longer, enforced or not.
    pub(super) fn is_outlived(&self, now: Instant) -> bool {
        self.valid.announced <= now
    }

    /// Whether that was so long ago that no transaction can be open that its client began by it.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.valid.announced + RESPONSE_TIMEOUT <= now
    }

    /// Whether a path is the way back to its client.
    pub(super) fn leads_inside(&self, path: Path<'_>) -> bool {
        let inside = Path::new(&self.inner_path);
        path.as_bytes() == inside.as_bytes()
            || (path.len() == inside.len() && path.uris().zip(inside.uris()).all(|(a, b)| same_uri(a, b)))
    }
}

impl Running {
    /// Passes the request's end to where the request went.
    pub(super) fn end(&self, flag: Flag, core: &mut Core) {
        let stream = self.stream;
        match self.next {
            Neighbour::Peer(peer) => core.tell_peer(peer, PeerStep::End { stream, flag }),
            Neighbour::Session(session) => core.tell_session(session, SessionStep::End { stream, flag }),
        }
    }
}

/// Tells the one that handed over a request that this session takes no more of it.
pub(super) fn refuse(core: &mut Core, this: SessionRef, running: &Running, status: Status) {
    let stream = running.stream;
    match running.giver {
        Giver::Peer | Giver::Relay => {
            let status = Some(status);
            core.tell_peer(stream.peer, PeerStep::Answer { sequence: stream.sequence, status });
        }
        Giver::Session(before) if running.transit.wants_answer() => {
            // It may have ended there already: see the orphans.
            let mut notice = Notice::for_hop_before(&running.transit, before, stream);
            notice.extend(running.bytes);
            let place = Neighbour::Session(this);
            core.orphans.adopt(place, Failure { notice, status });
            core.tell_session(before, SessionStep::Broken { stream, status });
        }
        Giver::Session(_) => {}
    }
}

impl Notice {
    /// The notice for a session before this one, about a request that it handed over.
    pub(super) fn for_hop_before(transit: &Transit, before: SessionRef, stream: StreamId) -> Self {
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
            message_id: transit.head.message_id(&transit.bytes).map(MessageId::new),
            range: ByteRange {
                start,
                end: Some(start.saturating_sub(1)),
                total: range.and_then(|r| r.total),
            },
            moves: transit.moves,
        }
    }
}

impl Session {
    /// What its outer side is bound to.
    pub(super) fn outer_side(&self) -> Option<Neighbour> {
        match self.outer {
            OuterSide::Bound { to, .. } => Some(to),
            OuterSide::Unbound | OuterSide::Lost { .. } => None,
        }
    }

    /// All neighbours that must hear of its end, or whose end it must hear of, except its client's own connection. Each
    /// once.
    pub(super) fn bound_to(&self) -> Vec<Neighbour> {
        let by = match self.inner {
            Inner::Client(_) => None,
            Inner::Relay { by } => by.map(Neighbour::Peer),
        };
        let ahead = self.next_relay.as_ref().map(|ahead| Neighbour::Peer(ahead.peer));
        let connections = self.relay_connections.iter().map(|connection| Neighbour::Peer(connection.peer));
        let mut all = Vec::new();
        for side in [by, self.outer_side(), ahead].into_iter().flatten().chain(connections) {
            if !all.contains(&side) {
                all.push(side);
            }
        }
        all
    }

    /// The connections that requests of one side come by.
    pub(super) fn entrances(&self, inside: bool, me: CoreId) -> impl Iterator<Item = PeerRef> {
        let present = match (inside, self.outer_side()) {
            (true, _) => self.inner(me),
            (false, Some(Neighbour::Peer(peer))) => Some(peer),
            (false, _) => None,
        };
        let connections = self
            .relay_connections
            .iter()
            .filter(move |connection| connection.inside == inside)
            .map(|connection| connection.peer);
        present.into_iter().chain(connections)
    }

    pub(super) fn is_bound_to(&self, side: Neighbour) -> bool {
        self.outer_side() == Some(side)
    }

    /// A neighbour is gone. Returns whether the session loses a side by it. If another connection leads to the same
    /// relay, the session uses that one. A dial that never succeeded bound nothing: the other side may still come to
    /// us.
    pub(crate) fn lose(&mut self, gone: Neighbour, was_up: bool) -> bool {
        let connections = self.relay_connections.len();
        self.relay_connections.retain(|connection| Neighbour::Peer(connection.peer) != gone);
        let lost_connection = self.relay_connections.len() < connections;
        let ahead = self.next_relay.take_if(|ahead| Neighbour::Peer(ahead.peer) == gone).is_some();
        let inner = match &mut self.inner {
            Inner::Client(_) => false,
            Inner::Relay { by } => by.take_if(|by| Neighbour::Peer(*by) == gone).is_some(),
        };
        if inner {
            let by = self.take_latest_relay_connection(true);
            self.inner = Inner::Relay { by };
        }
        let outer = match &self.outer {
            OuterSide::Bound { to, known } if *to == gone => Some(known.clone()),
            _ => None,
        };
        let Some(known) = outer else {
            return ahead || inner || lost_connection;
        };
        match self.take_latest_relay_connection(false) {
            Some(peer) => self.bind_known(Neighbour::Peer(peer), known),
            None => {
                self.outer =
                    if was_up { OuterSide::Lost { known, at: gone.core() } } else { OuterSide::Unbound }
            }
        }
        true
    }

    /// Whether nothing has gone through it, or been tried, since it was opened: nothing can be under way anywhere that knows
    /// it by its place.
    pub(crate) fn is_fresh(&self) -> bool {
        let unused = self.outer.is_unbound() && self.far.is_none() && self.running.is_empty();
        unused && self.client().is_some() && self.next_relay.is_none() && self.relay_connections.is_empty()
    }

    /// Whether its user is counted with its client's connection, not by itself as of one of several by a WebSocket.
    pub(crate) fn counts_with_its_connection(&self) -> bool {
        self.counted.is_none()
    }

    /// It is at another core from now on, and its client's connection has another name.
    pub(crate) fn arrive(&mut self, me: SessionRef, client: PeerKey) {
        self.me = me;
        self.inner = Inner::Client(client);
    }

    /// What its outer side is bound to is elsewhere.
    pub(crate) fn follow(&mut self, before: Neighbour, now: Neighbour) {
        if let OuterSide::Bound { to, .. } = &mut self.outer
            && *to == before
        {
            *to = now;
        }
        if let Some((far, _)) = &mut self.far
            && *far == before
        {
            *far = now;
        }
        for running in self.running.iter_mut().filter(|running| running.next == before) {
            running.next = now;
        }
    }

    pub(super) fn take_latest_relay_connection(&mut self, inside: bool) -> Option<PeerRef> {
        let latest = self.relay_connections.iter().rposition(|connection| connection.inside == inside)?;
        Some(self.relay_connections.remove(latest).peer)
    }
}

impl Session {
    pub(super) fn has_relay_connection(&self, connection: RelayConnection) -> bool {
        self.relay_connections.contains(&connection)
    }

    /// Whether it uses a connection, for whatever.
    pub(super) fn uses(&self, peer: PeerRef) -> bool {
        self.is_bound_to(Neighbour::Peer(peer))
            || matches!(self.inner, Inner::Relay { by: Some(by) } if by == peer)
            || self.next_relay.as_ref().is_some_and(|ahead| ahead.peer == peer)
            || self.relay_connections.iter().any(|connection| connection.peer == peer)
    }

    /// A request has come by a connection with the relay at one side: requests to that side may use it, if there is no
    /// other connection.
    pub(super) fn take_relay_connection(
        &mut self,
        connection: RelayConnection,
        transit: &Transit,
        core: &mut Core,
    ) {
        let is_known = self.uses(connection.peer);
        let is_there = self.has_relay_connection(connection)
            || (!connection.inside && self.is_bound_to(Neighbour::Peer(connection.peer)));
        match &mut self.inner {
            Inner::Relay { by } if connection.inside && by.is_none() => *by = Some(connection.peer),
            Inner::Relay { by: Some(by) } if connection.inside && *by == connection.peer => return,
            _ if is_there => return,
            _ => self.relay_connections.push(connection),
        }
        let session = self.me;
        if self.relay_connections.len() > RELAY_CONNECTIONS_MAX {
            let eldest = self.relay_connections.remove(0).peer;
            if !self.uses(eldest) {
                core.tell_peer(eldest, PeerStep::Unbind { session });
            }
        }
        if !is_known {
            let nearest = transit.received_from_path().first().unwrap_or_default();
            let chunk_max = core.settings.max_chunk.of_uri(nearest);
            core.tell_peer(connection.peer, PeerStep::Bind { session, chunk_max });
        }
    }
}
