//! What AUTH made: a URI that leads to one client, and what its outer side is bound to.
//!
//! A session lives on its home core, the one that owns its client's connection, and never moves.
//! All its decisions are taken here: who may use the URI (RFC 4976, 6.4; norm F1), what the first
//! request from either side binds it to (RFC 4975, 5.4; norm F5), where a request goes next, who
//! hears of a failure (RFC 4976, 6.4.1; norms F7, F9).
//!
//! Invariants: no session without [`Verified`]; at most one request runs through it in each
//! direction; once bound, its outer side never becomes another's; a failure is told once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use slotmap::SlotMap;

use super::admission::{Offence, UserKey, Who};
use super::ids::{CoreId, Entropy, PeerKey, PeerRef, SecretHasher, SessionId, SessionKey, StreamId, Tid};
use super::limit::Limit;
use super::message::{Giver, Hop, Message, MessageId, Notice, Outer, Transit};
use super::orphan::Failure;
use super::peer::{Peer, Role, named_session};
use super::transaction::RESPONSE_TIMEOUT;
use super::{CloseReason, Core, Effect, Effects, Event, Relay, Target, Transport};
use crate::proto::digest::Verified;
use crate::proto::head::{ByteRange, FailureReport, Method};
use crate::proto::parser::Flag;
use crate::proto::status::Status;
use crate::proto::uri::{Host, MsrpUri, Path};
use crate::proto::write::FrameWriter;

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
            stopped: VecDeque::new(),
        };
        let key = self.table.insert(session);
        self.by_id.insert(id, key);
        core.stats.sessions_opened += 1;
        key
    }

    fn find(&mut self, id: &SessionId) -> Option<&mut Session> {
        self.by_id.get(id).and_then(|key| self.table.get_mut(*key))
    }

    fn remove(&mut self, id: &SessionId) -> Option<Session> {
        self.by_id.remove(id).and_then(|key| self.table.remove(key))
    }
}

impl Session {
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

/// A refusal: the code, and why, for the log.
type Refusal = (Status, &'static str);

impl Relay {
    /// A request whose first To-Path URI names `id`.
    pub(crate) fn on_request(
        &mut self,
        id: SessionId,
        giver: Giver,
        stream: StreamId,
        mut transit: Transit,
        fx: &mut Effects,
    ) {
        match self.route(id, giver, stream, &transit, fx) {
            Ok((next, inward)) => {
                let running = Running { stream, giver, next, transit: transit.clone(), octets: 0 };
                if let Some(session) = self.sessions.find(&id) {
                    session.running[direction(inward)] = Some(running);
                }
                transit.moves += 1;
                self.lend(stream, next.core(), transit.cost());
                let message = match next {
                    Outer::Peer(peer) => {
                        Message::Open { peer, hop: Hop { session: id, inward }, stream, transit }
                    }
                    Outer::Session(session) => {
                        Message::Request { session, giver: Giver::Session(id), stream, transit }
                    }
                };
                self.core.post(message, fx);
            }
            Err((status, why)) => {
                fx.event(Event::RequestRefused { session: Some(id.prefix().to_owned()), status, why });
                self.core.credit(stream.peer, transit.cost(), fx);
                if let Giver::Session(before) = giver
                    && !self.is_linked(&id, before)
                {
                    // It believes to be bound to us: it is free to be bound elsewhere.
                    let message = Message::OuterLost {
                        session: before,
                        outer: Outer::Session(id),
                        was_up: false,
                        status,
                    };
                    self.core.post(message, fx);
                }
                let refused = Running { stream, giver, next: Outer::Session(id), transit, octets: 0 };
                refuse(&mut self.core, id, &refused, status, fx);
            }
        }
    }

    /// Octets received on this core go to wherever a session sends them.
    fn lend(&mut self, stream: StreamId, to: CoreId, octets: usize) {
        if stream.peer.core == self.core.me
            && let Some(peer) = self.peers.get_mut(stream.peer.key)
        {
            peer.lend(to, octets);
        }
    }

    fn is_linked(&mut self, id: &SessionId, other: SessionId) -> bool {
        let session = self.sessions.find(id);
        session.is_some_and(|s| matches!(s.outer, OuterSide::Bound { to, .. } if to == Outer::Session(other)))
    }

    pub(crate) fn on_request_body(
        &mut self,
        id: SessionId,
        stream: StreamId,
        octets: Bytes,
        fx: &mut Effects,
    ) {
        let running = self.sessions.find(&id).and_then(|s| s.running_mut(stream)).and_then(|r| r.as_mut());
        let len = octets.len();
        let next = running.map(|running| {
            running.octets = running.octets.saturating_add(len as u64);
            running.next
        });
        if let Some(next) = next {
            self.lend(stream, next.core(), len);
        }
        match next {
            Some(Outer::Peer(peer)) => self.core.post(Message::Piece { peer, stream, octets }, fx),
            Some(Outer::Session(session)) => self.core.post(Message::Body { session, stream, octets }, fx),
            None => {
                self.core.orphans.count(Outer::Session(id), stream, len);
                self.core.credit(stream.peer, len, fx);
            }
        }
    }

    /// The end of a request: passed on, and a SEND answered to the hop before (norm F6).
    pub(crate) fn on_request_end(&mut self, id: SessionId, stream: StreamId, flag: Flag, fx: &mut Effects) {
        let running = self.sessions.find(&id).and_then(|s| s.running_mut(stream)).and_then(Option::take);
        let Some(running) = running else {
            if let Some(failure) = self.core.orphans.end(Outer::Session(id), stream, flag) {
                self.core.post(failure.into_message(), fx);
            }
            return;
        };
        running.end(flag, &mut self.core, fx);
        if running.giver != Giver::Peer {
            return;
        }
        if running.transit.method() == Method::Send {
            let answered = running.transit.head.failure_report() == FailureReport::Yes;
            self.core.post(Message::Answer { stream, status: answered.then_some(Status::OK) }, fx);
        } else if flag == Flag::Aborted {
            // Nobody at the far end will answer what was never complete.
            self.core.post(Message::Answer { stream, status: None }, fx);
        }
    }

    /// Decides whether a request may pass and where it goes (norms F1, F3, F4, F5).
    fn route(
        &mut self,
        id: SessionId,
        giver: Giver,
        stream: StreamId,
        transit: &Transit,
        fx: &mut Effects,
    ) -> Result<(Outer, bool), Refusal> {
        let now = self.core.now;
        let session = self.sessions.find(&id).ok_or((Status::NO_SESSION, "no such session"))?;
        let to_path = transit.to_path();
        if !to_path.first().is_some_and(|uri| session.is_named_by(uri)) {
            return Err((Status::NO_SESSION, "session id under another address"));
        }
        // What was sent before may still be reported (norm A12): until the session is over, that is.
        if session.is_expired(now) && transit.method() != Method::Report {
            return Err((Status::NO_SESSION, "session expired"));
        }
        let next = to_path.after(1).first().ok_or((Status::NO_SESSION, "nobody to forward to"))?;
        if to_path.after(1).uris().any(|uri| named_session(uri) == Some(id)) {
            return Err((Status::BAD_REQUEST, "the same URI twice in a path"));
        }
        let from_inner =
            giver == Giver::Peer && stream.peer.core == self.core.me && stream.peer.key == session.inner;
        if transit.method() == Method::Send && !session.stopped.is_empty() {
            let message = transit.head.message_id(&transit.octets).map(MessageId::new);
            if session.is_stopped(!from_inner, message.as_ref()) {
                return Err((Status::STOP, "message stopped by its receiver"));
            }
        }
        if from_inner {
            let beyond = to_path.len() > 2;
            return self.bind_outward(id, next, beyond, fx).map(|outer| (outer, false));
        }
        if !same_uri(&session.inner_uri, next) || to_path.len() != 2 {
            return Err((Status::NO_SESSION, "not the client of this session"));
        }
        let inner = PeerRef { core: self.core.me, key: session.inner };
        self.bind_inward(id, giver, stream, transit, fx)?;
        Ok((Outer::Peer(inner), true))
    }

    /// The client sends: to what the session is bound to, or, if to nothing yet, wherever the next
    /// URI leads: another session of this relay, or out.
    fn bind_outward(
        &mut self,
        id: SessionId,
        next: &[u8],
        beyond: bool,
        fx: &mut Effects,
    ) -> Result<Outer, Refusal> {
        let session = self.sessions.find(&id).ok_or((Status::NO_SESSION, "no such session"))?;
        match &session.outer {
            OuterSide::Bound { to, uri } if same_uri(uri, next) => return Ok(*to),
            OuterSide::Bound { .. } => {
                return Err((Status::NO_SESSION, "bound to another next hop"));
            }
            OuterSide::Lost => return Err((Status::NO_SESSION, "the other side is gone")),
            OuterSide::Unbound => {}
        }
        let uri = MsrpUri::parse(next).map_err(|_| (Status::BAD_REQUEST, "next hop is not a URI"))?;
        let to = if self.core.is_ours(&uri) {
            let other =
                uri.session_id().and_then(SessionId::parse).filter(|id| self.core.is_alive(id.home()));
            let other = other.ok_or((Status::NO_SESSION, "no such session"))?;
            self.core.count_link(other.home());
            Outer::Session(other)
        } else {
            let target = self.core.target(&uri, beyond)?;
            self.core.stats.links_local += 1;
            Outer::Peer(self.dial(id, target, fx)?)
        };
        if let Some(session) = self.sessions.find(&id) {
            session.outer = OuterSide::Bound { to, uri: Arc::from(next) };
        }
        Ok(to)
    }

    /// Somebody sends to the client: the first one to do so is the session's outer side for good.
    fn bind_inward(
        &mut self,
        id: SessionId,
        giver: Giver,
        stream: StreamId,
        transit: &Transit,
        fx: &mut Effects,
    ) -> Result<(), Refusal> {
        let from = match giver {
            Giver::Peer => Outer::Peer(stream.peer),
            Giver::Session(other) => Outer::Session(other),
        };
        if giver == Giver::Peer && self.take_over_dial(id, stream.peer, transit, fx) {
            return Ok(());
        }
        let session = self.sessions.find(&id).ok_or((Status::NO_SESSION, "no such session"))?;
        match &session.outer {
            OuterSide::Bound { to, .. } if *to == from => Ok(()),
            OuterSide::Bound { .. } => Err((Status::SESSION_IN_USE, "bound to another connection")),
            OuterSide::Lost => Err((Status::NO_SESSION, "the other side is gone")),
            OuterSide::Unbound if transit.method() == Method::Report => {
                Err((Status::NO_SESSION, "REPORT for nobody"))
            }
            OuterSide::Unbound => {
                let mut path = Vec::new();
                transit.append_from_path(&mut path);
                let previous = Path::new(&path).first().unwrap_or_default();
                session.outer = OuterSide::Bound { to: from, uri: Arc::from(previous) };
                if let Outer::Peer(peer) = from {
                    self.core.count_link(peer.core);
                    self.core.post(Message::Bind { peer, session: id }, fx);
                }
                Ok(())
            }
        }
    }

    /// The far end that we are dialling has come to us instead: both ends believe that they are the
    /// active one (norm T9), and two crossing first requests of one pair are one link. What waits
    /// for the dial goes out over the connection that is there.
    fn take_over_dial(&mut self, id: SessionId, comer: PeerRef, transit: &Transit, fx: &mut Effects) -> bool {
        let Some(session) = self.sessions.find(&id) else {
            return false;
        };
        let OuterSide::Bound { to, uri } = &mut session.outer else {
            return false;
        };
        let Outer::Peer(dialled) = *to else {
            return false;
        };
        let previous = transit.received_from_path().first().unwrap_or_default();
        let Some(dial) = self
            .peers
            .get_mut(dialled.key)
            .filter(|peer| dialled == peer.me && peer.role == Role::Dialling && same_uri(uri, previous))
        else {
            return false;
        };
        *to = Outer::Peer(comer);
        let running = session.running[direction(false)].as_mut();
        if let Some(running) = running.filter(|r| r.next == Outer::Peer(dialled)) {
            running.next = Outer::Peer(comer);
        }
        let inner = session.inner;
        let queued = dial.out.release(comer);
        dial.bound.clear();
        self.core.count_link(comer.core);
        self.core.post(Message::Bind { peer: comer, session: id }, fx);
        for message in queued {
            if let Some(client) = self.peers.get_mut(inner) {
                client.lend(comer.core, message.cost());
            }
            self.core.post(message, fx);
        }
        self.close_peer(dialled.key, CloseReason::SessionOver, fx);
        true
    }

    fn dial(&mut self, id: SessionId, target: Target, fx: &mut Effects) -> Result<PeerRef, Refusal> {
        if self.peers.len() >= self.core.settings.limits.peers_max {
            self.core.bite(Limit::Connections, None, fx);
            return Err((Status::TIMEOUT, "too many connections"));
        }
        let user = self.sessions.user_of(&id).map(Who::User);
        if user.is_some_and(|user| self.core.bans.is_banned(user, Offence::Dial, self.core.now)) {
            return Err((Status::TIMEOUT, "too many next hops of this user could not be reached"));
        }
        let me = self.core.me;
        let transport = Transport { secure: target.secure, port: target.port };
        let key = self.peers.insert_with_key(|key| {
            let mut peer = Peer::dialling(PeerRef { core: me, key }, transport, self.core.now);
            peer.bound.push(id);
            peer
        });
        self.core.stats.dials += 1;
        fx.push(Effect::Connect { peer: key, target });
        Ok(PeerRef { core: me, key })
    }

    /// The hop after a session refuses a request that is still coming in: it is stopped here, and
    /// the hop before is told by the response it still waits for (norm F7).
    pub(crate) fn on_broken(&mut self, id: SessionId, stream: StreamId, status: Status, fx: &mut Effects) {
        let running = self.sessions.find(&id).and_then(|s| s.running_mut(stream)).and_then(Option::take);
        if let Some(running) = running {
            let message = running.transit.head.message_id(&running.transit.octets).map(MessageId::new);
            if status == Status::STOP
                && let (Some(session), Some(message)) = (self.sessions.find(&id), message)
            {
                let inner = PeerRef { core: self.core.me, key: session.inner };
                session.stop(running.next == Outer::Peer(inner), message);
            }
            running.end(Flag::Aborted, &mut self.core, fx);
            refuse(&mut self.core, id, &running, status, fx);
        }
    }

    /// A connection that serves several sessions is held up. If it is this session's client that takes
    /// nothing, what waits for it from there is refused: one slow receiver must not stop the others (norm
    /// S14).
    pub(crate) fn on_relieve(&mut self, id: SessionId, source: PeerRef, fx: &mut Effects) {
        let Some(inner) = self.sessions.find(&id).map(|session| session.inner) else {
            return;
        };
        let stall_timeout = self.core.settings.limits.stall_timeout;
        let now = self.core.now;
        let Some(client) = self.peers.get_mut(inner).filter(|c| c.last_taken + stall_timeout <= now) else {
            return;
        };
        let (dropped, messages) = client.out.shed(source);
        if dropped > 0 {
            client.wake(fx);
            self.core.bite(Limit::StallTimeout, Some(inner), fx);
            self.core.credit(source, dropped, fx);
        }
        for message in messages {
            self.core.post(message, fx);
        }
    }

    /// A request failed after it had ended: a SEND has been answered and is followed by a REPORT,
    /// everything else is answered now (norms F7, F9).
    pub(crate) fn on_hop_failed(&mut self, notice: &Notice, status: Status, fx: &mut Effects) {
        if notice.method == Method::Send {
            if status == Status::STOP
                && let (Some(session), Some(message)) =
                    (self.sessions.find(&notice.session), &notice.message_id)
            {
                session.stop(notice.inward, message.clone());
            }
            self.report(notice, status, fx);
        } else {
            let stream = notice.stream;
            let status = Some(status);
            self.core.post(Message::Answer { stream, status }, fx);
        }
    }

    /// Sends a failure REPORT the way the SEND came (norm F9).
    fn report(&mut self, notice: &Notice, status: Status, fx: &mut Effects) {
        let Some(session) = self.sessions.find(&notice.session) else {
            return;
        };
        let Some(message_id) =
            notice.message_id.as_ref().filter(|_| notice.failure_report != FailureReport::No)
        else {
            return;
        };
        let back = match (&session.outer, notice.inward) {
            (_, false) => Outer::Peer(PeerRef { core: self.core.me, key: session.inner }),
            (OuterSide::Bound { to, .. }, true) => *to,
            (OuterSide::Unbound | OuterSide::Lost, true) => return,
        };
        // Through another session of this relay the REPORT makes one hop more, within the process.
        let report_to = Path::new(&notice.report_to);
        let mut from_path = Vec::with_capacity(256);
        let to_path = match (back, report_to.first()) {
            (Outer::Session(_), Some(through)) => {
                from_path.extend_from_slice(through);
                from_path.push(b' ');
                report_to.after(1)
            }
            _ => report_to,
        };
        from_path.extend_from_slice(&session.uri);
        let tid = Tid::mint(&mut self.core.entropy);
        let mut frame = Vec::with_capacity(512);
        FrameWriter::request(&mut frame, tid.as_bytes(), "REPORT")
            .header("To-Path", to_path.as_bytes())
            .header("From-Path", &from_path)
            .header("Message-ID", message_id.as_bytes())
            .byte_range(notice.range)
            .header_fmt("Status", format_args!("000 {} {}", status.code(), status.phrase()))
            .end(Flag::Last);
        self.core.stats.reports_sent += 1;
        fx.event(Event::ReportSent { session: notice.session.prefix().to_owned(), status });
        let octets = Bytes::from(frame);
        let message = match back {
            Outer::Peer(peer) => Message::Frame { peer, octets },
            Outer::Session(session) => Message::Report { session, from: notice.session, octets },
        };
        self.core.post(message, fx);
    }

    /// A REPORT of this relay's own, from the session that `id` is linked to.
    pub(crate) fn on_report(&mut self, id: SessionId, from: SessionId, octets: Bytes, fx: &mut Effects) {
        if !self.is_linked(&id, from) {
            return;
        }
        if let Some(session) = self.sessions.find(&id) {
            let peer = PeerRef { core: self.core.me, key: session.inner };
            self.core.post(Message::Frame { peer, octets }, fx);
        }
    }

    /// The client is gone, and with it the session (norm A10).
    pub(crate) fn on_inner_lost(&mut self, id: SessionId, fx: &mut Effects) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        self.core.stats.sessions_closed += 1;
        fx.event(Event::SessionClosed {
            session: id.prefix().to_owned(),
            user: session.verified.username().to_owned(),
            age: self.core.now.saturating_duration_since(session.opened),
        });
        for running in session.running.iter().flatten() {
            running.end(Flag::Aborted, &mut self.core, fx);
            refuse(&mut self.core, id, running, Status::NO_SESSION, fx);
        }
        if let OuterSide::Bound { to, .. } = session.outer {
            let message = match to {
                Outer::Peer(peer) => Message::Unbind { peer, session: id },
                Outer::Session(other) => Message::OuterLost {
                    session: other,
                    outer: Outer::Session(id),
                    was_up: true,
                    status: Status::NO_SESSION,
                },
            };
            self.core.post(message, fx);
        }
    }

    pub(crate) fn on_outer_lost(
        &mut self,
        id: SessionId,
        outer: Outer,
        was_up: bool,
        status: Status,
        fx: &mut Effects,
    ) {
        let Some(session) = self.sessions.find(&id) else {
            return;
        };
        if !matches!(session.outer, OuterSide::Bound { to, .. } if to == outer) {
            return;
        }
        // A dial that never succeeded bound nothing: the other side may still come to us.
        session.outer = if was_up { OuterSide::Lost } else { OuterSide::Unbound };
        if let Some(running) = session.running[direction(false)].take() {
            running.end(Flag::Aborted, &mut self.core, fx);
            refuse(&mut self.core, id, &running, status, fx);
        }
    }

    /// The sessions' part of a core's death.
    pub(crate) fn forget_core_in_sessions(&mut self, gone: CoreId, fx: &mut Effects) {
        let mut messages = Vec::new();
        for session in self.sessions.table.values() {
            if let OuterSide::Bound { to, .. } = session.outer
                && to.core() == gone
            {
                messages.push(Message::OuterLost {
                    session: session.id,
                    outer: to,
                    was_up: true,
                    status: Status::NO_SESSION,
                });
                // Whoever would have answered its client is gone too.
                if let Some(client) = self.peers.get(session.inner) {
                    client.answer_all(&mut self.core, fx, |id| id == session.id);
                }
            }
            for running in session.running.iter().flatten().filter(|r| r.stream.peer.core == gone) {
                messages.push(Message::End {
                    session: session.id,
                    stream: running.stream,
                    flag: Flag::Aborted,
                });
            }
        }
        for message in messages {
            self.core.post(message, fx);
        }
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

impl Core {
    /// Whether a URI leads to this relay.
    pub(super) fn is_ours(&self, uri: &MsrpUri<'_>) -> bool {
        let host = match uri.host() {
            Host::Name(name) => crate::proto::uri::host_matches(name, &self.settings.hostname),
            Host::V4(_) | Host::V6(_) => uri.host_str() == self.settings.hostname,
        };
        host && uri.port().is_some_and(|port| self.settings.ports.contains(&port))
    }

    fn count_link(&mut self, other: CoreId) {
        let counter =
            if other == self.me { &mut self.stats.links_local } else { &mut self.stats.links_split };
        *counter += 1;
    }

    /// Where to dial for a next hop; a hop that cannot be dialled is like one that does not answer:
    /// the client learns nothing about the network from the difference.
    fn target(&self, uri: &MsrpUri<'_>, relay: bool) -> Result<Target, Refusal> {
        let port = uri.port().ok_or((Status::TIMEOUT, "next hop without a port"))?;
        if !uri.transport().eq_ignore_ascii_case("tcp") {
            return Err((Status::TIMEOUT, "next hop with a transport that cannot be dialled"));
        }
        if !uri.is_secure() && !self.settings.dial_plain {
            return Err((Status::TIMEOUT, "plain next hop; outbound.plain is refuse"));
        }
        Ok(Target { secure: uri.is_secure(), host: uri.host_str().to_owned(), port, relay })
    }
}
