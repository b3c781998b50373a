//! What AUTH made: a URI that leads to one client, and what its outer side is bound to.
//!
//! A session lives on its home core, the one that owns its client's connection, and never moves.
//! All its decisions are taken here: who may use the URI (RFC 4976, 6.4; norm F1), what the first
//! request from either side binds it to (RFC 4975, 5.4; norm F5), where a request goes next, who
//! hears of a failure (RFC 4976, 6.4.1; norms F7, F9).
//!
//! Invariants: no session without [`Verified`]; at most one request runs through it in each
//! direction; once bound, its outer side never becomes another's; a failure is told once.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use siphasher::sip::SipHasher13;
use slotmap::SlotMap;

use super::ids::{CoreId, Entropy, PeerKey, PeerRef, SessionId, SessionKey, StreamId, Tid};
use super::message::{Giver, Hop, Message, MessageId, Notice, Outer, Transit};
use super::peer::{Peer, named_session};
use super::transaction::RESPONSE_TIMEOUT;
use super::{Core, Effect, Effects, Event, Relay, Target, Transport};
use crate::proto::digest::Verified;
use crate::proto::head::{ByteRange, FailureReport, Method};
use crate::proto::parser::{Flag, Parser, ParserLimits, Piece};
use crate::proto::status::Status;
use crate::proto::uri::{Host, MsrpUri};
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
}

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
    /// As this session passed it on; kept to tell a session before us of a failure.
    transit: Transit,
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

/// The sessions of one core, by id under a secret key.
#[derive(Debug)]
pub(crate) struct Sessions {
    table: SlotMap<SessionKey, Session>,
    by_id: HashMap<SessionId, SessionKey, SecretHasher>,
}

/// Ids are bearer secrets: how they spread in the table must not be guessable (norm S4).
#[derive(Debug)]
struct SecretHasher(u64, u64);

impl BuildHasher for SecretHasher {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}

impl Sessions {
    pub(crate) fn new(entropy: &mut Entropy) -> Self {
        let hasher = SecretHasher(entropy.next_u64(), entropy.next_u64());
        Self {
            table: SlotMap::with_key(),
            by_id: HashMap::with_hasher(hasher),
        }
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
        let expires = self.table.get(key).and_then(|s| s.expires);
        expires.is_some_and(|at| at + RESPONSE_TIMEOUT <= now)
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
        let scheme = if new.transport.secure {
            "msrps"
        } else {
            "msrp"
        };
        let uri = format!(
            "{scheme}://{}:{}/{};tcp",
            core.settings.hostname,
            new.transport.port,
            id.as_str()
        );
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

    fn running_mut(&mut self, stream: StreamId) -> Option<&mut Option<Running>> {
        self.running
            .iter_mut()
            .find(|r| r.as_ref().is_some_and(|r| r.stream == stream))
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
                transit.moves += 1;
                let running = Running {
                    stream,
                    giver,
                    next,
                    transit: transit.clone(),
                };
                if let Some(session) = self.sessions.find(&id) {
                    session.running[direction(inward)] = Some(running);
                }
                let message = match next {
                    Outer::Peer(peer) => Message::Open {
                        peer,
                        hop: Hop {
                            session: id,
                            inward,
                        },
                        stream,
                        transit,
                    },
                    Outer::Session(session) => Message::Request {
                        session,
                        giver: Giver::Session(id),
                        stream,
                        transit,
                    },
                };
                self.core.post(message, fx);
            }
            Err((status, why)) => {
                fx.event(Event::RequestRefused {
                    session: Some(id.prefix().to_owned()),
                    status,
                    why,
                });
                self.core.post(
                    Message::Credit {
                        peer: stream.peer,
                        octets: transit.cost(),
                    },
                    fx,
                );
                refuse(&mut self.core, giver, stream, &transit, status, fx);
            }
        }
    }

    pub(crate) fn on_request_body(
        &mut self,
        id: SessionId,
        stream: StreamId,
        octets: Bytes,
        fx: &mut Effects,
    ) {
        let running = self
            .sessions
            .find(&id)
            .and_then(|s| s.running_mut(stream))
            .and_then(|r| r.as_ref());
        let message = match running.map(|r| r.next) {
            Some(Outer::Peer(peer)) => Message::Piece {
                peer,
                stream,
                octets,
            },
            Some(Outer::Session(session)) => Message::Body {
                session,
                stream,
                octets,
            },
            None => Message::Credit {
                peer: stream.peer,
                octets: octets.len(),
            },
        };
        self.core.post(message, fx);
    }

    /// The end of a request: passed on, and a SEND answered to the hop before (norm F6).
    pub(crate) fn on_request_end(
        &mut self,
        id: SessionId,
        stream: StreamId,
        flag: Flag,
        fx: &mut Effects,
    ) {
        let running = self
            .sessions
            .find(&id)
            .and_then(|s| s.running_mut(stream))
            .and_then(Option::take);
        let Some(running) = running else { return };
        running.end(flag, &mut self.core, fx);
        if running.giver == Giver::Peer && running.transit.method() == Method::Send {
            let answered = running.transit.head.failure_report() == FailureReport::Yes;
            self.core.post(
                Message::Answer {
                    stream,
                    status: answered.then_some(Status::OK),
                },
                fx,
            );
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
        let session = self
            .sessions
            .find(&id)
            .ok_or((Status::NO_SESSION, "no such session"))?;
        let to_path = transit.to_path();
        if !to_path.first().is_some_and(|uri| session.is_named_by(uri)) {
            return Err((Status::NO_SESSION, "session id under another address"));
        }
        if session.is_expired(now) {
            return Err((Status::NO_SESSION, "session expired"));
        }
        let next = to_path
            .after(1)
            .first()
            .ok_or((Status::NO_SESSION, "nobody to forward to"))?;
        if to_path
            .after(1)
            .uris()
            .any(|uri| named_session(uri) == Some(id))
        {
            return Err((Status::BAD_REQUEST, "the same URI twice in a path"));
        }
        let from_inner = giver == Giver::Peer
            && stream.peer.core == self.core.me
            && stream.peer.key == session.inner;
        if from_inner {
            let beyond = to_path.len() > 2;
            return self
                .bind_outward(id, next, beyond, fx)
                .map(|outer| (outer, false));
        }
        if !same_uri(&session.inner_uri, next) || to_path.len() != 2 {
            return Err((Status::NO_SESSION, "not the client of this session"));
        }
        let inner = PeerRef {
            core: self.core.me,
            key: session.inner,
        };
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
        let session = self
            .sessions
            .find(&id)
            .ok_or((Status::NO_SESSION, "no such session"))?;
        match &session.outer {
            OuterSide::Bound { to, uri } if same_uri(uri, next) => return Ok(*to),
            OuterSide::Bound { .. } => {
                return Err((Status::NO_SESSION, "bound to another next hop"));
            }
            OuterSide::Lost => return Err((Status::NO_SESSION, "the other side is gone")),
            OuterSide::Unbound => {}
        }
        let uri =
            MsrpUri::parse(next).map_err(|_| (Status::BAD_REQUEST, "next hop is not a URI"))?;
        let to = if self.core.is_ours(&uri) {
            let other = uri
                .session_id()
                .and_then(SessionId::parse)
                .filter(|id| self.core.is_alive(id.home()));
            let other = other.ok_or((Status::NO_SESSION, "no such session"))?;
            self.core.count_link(other.home());
            Outer::Session(other)
        } else {
            let target = self.core.target(&uri, beyond)?;
            self.core.stats.links_local += 1;
            Outer::Peer(self.dial(id, target, fx)?)
        };
        if let Some(session) = self.sessions.find(&id) {
            session.outer = OuterSide::Bound {
                to,
                uri: Arc::from(next),
            };
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
        let session = self
            .sessions
            .find(&id)
            .ok_or((Status::NO_SESSION, "no such session"))?;
        let from = match giver {
            Giver::Peer => Outer::Peer(stream.peer),
            Giver::Session(other) => Outer::Session(other),
        };
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
                let previous = crate::proto::uri::Path::new(&path)
                    .first()
                    .unwrap_or_default();
                session.outer = OuterSide::Bound {
                    to: from,
                    uri: Arc::from(previous),
                };
                if let Outer::Peer(peer) = from {
                    self.core.count_link(peer.core);
                    self.core.post(Message::Bind { peer, session: id }, fx);
                }
                Ok(())
            }
        }
    }

    fn dial(
        &mut self,
        id: SessionId,
        target: Target,
        fx: &mut Effects,
    ) -> Result<PeerRef, Refusal> {
        if self.peers.len() >= self.core.settings.limits.peers_max {
            return Err((Status::TIMEOUT, "too many connections"));
        }
        let me = self.core.me;
        let transport = Transport {
            secure: target.secure,
            port: target.port,
        };
        let key = self.peers.insert_with_key(|key| {
            let mut peer = Peer::dialling(PeerRef { core: me, key }, transport);
            peer.bound.push(id);
            peer
        });
        self.core.stats.dials += 1;
        fx.push(Effect::Connect { peer: key, target });
        Ok(PeerRef { core: me, key })
    }

    /// The hop after a session failed: the sender is told by the response it still waits for, or by
    /// a REPORT if it has been answered already (norms F7, F9).
    pub(crate) fn on_hop_failed(&mut self, notice: Notice, status: Status, fx: &mut Effects) {
        let Some(session) = self.sessions.find(&notice.session) else {
            return;
        };
        let running =
            session.running[direction(notice.inward)].take_if(|r| r.stream == notice.stream);
        if let Some(running) = running {
            running.end(Flag::Aborted, &mut self.core, fx);
            refuse_running(&mut self.core, &running, status, fx);
        } else if notice.method == Method::Send {
            self.report(&notice, status, fx);
        } else {
            self.core.post(
                Message::Answer {
                    stream: notice.stream,
                    status: Some(status),
                },
                fx,
            );
        }
    }

    /// Sends a failure REPORT the way the SEND came (norm F9).
    fn report(&mut self, notice: &Notice, status: Status, fx: &mut Effects) {
        let Some(session) = self.sessions.find(&notice.session) else {
            return;
        };
        let Some(message_id) = notice
            .message_id
            .as_ref()
            .filter(|_| notice.failure_report != FailureReport::No)
        else {
            return;
        };
        let tid = Tid::mint(&mut self.core.entropy);
        let mut frame = Vec::with_capacity(512);
        FrameWriter::request(&mut frame, tid.as_bytes(), "REPORT")
            .header("To-Path", &notice.report_to)
            .header("From-Path", &session.uri)
            .header("Message-ID", message_id.as_bytes())
            .byte_range(notice.range)
            .header_fmt(
                "Status",
                format_args!("000 {} {}", status.code(), status.phrase()),
            )
            .end(Flag::Last);
        let back = match (&session.outer, notice.inward) {
            (_, false) => Outer::Peer(PeerRef {
                core: self.core.me,
                key: session.inner,
            }),
            (OuterSide::Bound { to, .. }, true) => *to,
            (OuterSide::Unbound | OuterSide::Lost, true) => return,
        };
        self.core.stats.reports_sent += 1;
        fx.event(Event::ReportSent {
            session: notice.session.prefix().to_owned(),
            status,
        });
        match back {
            Outer::Peer(peer) => self.core.post(
                Message::Frame {
                    peer,
                    octets: Bytes::from(frame),
                },
                fx,
            ),
            Outer::Session(other) => self.report_through(notice.session, other, frame, fx),
        }
    }

    /// Hands a REPORT of ours to a session of this relay, as if it had come in by a connection.
    fn report_through(&mut self, from: SessionId, to: SessionId, frame: Vec<u8>, fx: &mut Effects) {
        let Ok(Some(step)) = Parser::new(ParserLimits::default()).step(&frame) else {
            return;
        };
        let Piece::Head(head) = step.piece else {
            return;
        };
        let mut octets = Bytes::from(frame);
        octets.truncate(step.consumed);
        // Nobody's connection: credits for it find nobody, which is right.
        let nobody = PeerRef {
            core: self.core.me,
            key: PeerKey::default(),
        };
        let stream = StreamId {
            peer: nobody,
            sequence: 0,
        };
        let transit = Transit::new(head, octets);
        self.core.post(
            Message::Request {
                session: to,
                giver: Giver::Session(from),
                stream,
                transit,
            },
            fx,
        );
        self.core.post(
            Message::End {
                session: to,
                stream,
                flag: Flag::Last,
            },
            fx,
        );
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
            refuse_running(&mut self.core, running, Status::NO_SESSION, fx);
        }
        if let OuterSide::Bound { to, .. } = session.outer {
            let message = match to {
                Outer::Peer(peer) => Message::Unbind { peer, session: id },
                Outer::Session(other) => Message::OuterLost {
                    session: other,
                    outer: Outer::Session(id),
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
        session.outer = if status == Status::TIMEOUT {
            OuterSide::Unbound
        } else {
            OuterSide::Lost
        };
        if let Some(running) = session.running[direction(false)].take() {
            running.end(Flag::Aborted, &mut self.core, fx);
            refuse_running(&mut self.core, &running, status, fx);
        }
    }

    /// The sessions' part of a core's death.
    pub(crate) fn forget_core_in_sessions(&mut self, gone: CoreId, fx: &mut Effects) {
        let mut messages = Vec::new();
        for session in self.sessions.table.values() {
            if let OuterSide::Bound { to, .. } = session.outer {
                let core = match to {
                    Outer::Peer(peer) => peer.core,
                    Outer::Session(other) => other.home(),
                };
                if core == gone {
                    messages.push(Message::OuterLost {
                        session: session.id,
                        outer: to,
                        status: Status::NO_SESSION,
                    });
                    let inner = PeerRef {
                        core: self.core.me,
                        key: session.inner,
                    };
                    messages.push(Message::Credit {
                        peer: inner,
                        octets: usize::MAX,
                    });
                }
            }
            for running in session
                .running
                .iter()
                .flatten()
                .filter(|r| r.stream.peer.core == gone)
            {
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
            Outer::Peer(peer) => Message::Close {
                peer,
                stream: self.stream,
                flag,
            },
            Outer::Session(session) => Message::End {
                session,
                stream: self.stream,
                flag,
            },
        };
        core.post(message, fx);
    }
}

/// Tells whoever handed a request to a session that it will not take it.
fn refuse(
    core: &mut Core,
    giver: Giver,
    stream: StreamId,
    transit: &Transit,
    status: Status,
    fx: &mut Effects,
) {
    match giver {
        Giver::Peer => core.post(
            Message::Answer {
                stream,
                status: Some(status),
            },
            fx,
        ),
        Giver::Session(before) if transit.wants_answer() => {
            let notice = Notice::for_hop_before(transit, before, stream);
            core.post(Message::Failed { notice, status }, fx);
        }
        Giver::Session(_) => {}
    }
}

fn refuse_running(core: &mut Core, running: &Running, status: Status, fx: &mut Effects) {
    let mut transit = running.transit.clone();
    transit.moves = transit.moves.saturating_sub(1);
    refuse(core, running.giver, running.stream, &transit, status, fx);
}

impl Notice {
    /// What the session before is told of a request it handed to the next one.
    fn for_hop_before(transit: &Transit, before: SessionId, stream: StreamId) -> Self {
        let mut hop = transit.clone();
        hop.moves = hop.moves.saturating_sub(1);
        let mut report_to = Vec::new();
        hop.append_from_path(&mut report_to);
        let range = transit.head.byte_range();
        Self {
            stream,
            session: before,
            inward: false,
            method: transit.method(),
            failure_report: transit.head.failure_report(),
            report_to: Arc::from(report_to),
            message_id: transit.head.message_id(&transit.octets).map(MessageId::new),
            range: range.unwrap_or(ByteRange {
                start: 1,
                end: None,
                total: None,
            }),
            moves: transit.moves,
        }
    }
}

impl Core {
    /// Whether a URI leads to this relay.
    fn is_ours(&self, uri: &MsrpUri<'_>) -> bool {
        let host = match uri.host() {
            Host::Name(name) => crate::proto::uri::host_matches(name, &self.settings.hostname),
            Host::V4(_) | Host::V6(_) => uri.host_str() == self.settings.hostname,
        };
        host && uri
            .port()
            .is_some_and(|port| self.settings.ports.contains(&port))
    }

    fn count_link(&mut self, other: CoreId) {
        let counter = if other == self.me {
            &mut self.stats.links_local
        } else {
            &mut self.stats.links_split
        };
        *counter += 1;
    }

    /// Where to dial for a next hop; a hop that cannot be dialled is like one that does not answer:
    /// the client learns nothing about the network from the difference.
    fn target(&self, uri: &MsrpUri<'_>, relay: bool) -> Result<Target, Refusal> {
        let port = uri
            .port()
            .ok_or((Status::TIMEOUT, "next hop without a port"))?;
        if !uri.transport().eq_ignore_ascii_case("tcp") {
            return Err((
                Status::TIMEOUT,
                "next hop with a transport that cannot be dialled",
            ));
        }
        if !uri.is_secure() && !self.settings.dial_plain {
            return Err((Status::TIMEOUT, "plain next hop; outbound.plain is refuse"));
        }
        Ok(Target {
            secure: uri.is_secure(),
            host: uri.host_str().to_owned(),
            port,
            relay,
        })
    }
}
