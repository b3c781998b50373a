//! Where a request goes: who may use a URI, what the first request from either side binds it to, and the
//! next hop (RFC 4976, 6.4; RFC 4975, 5.4; norms F1, F3 to F5).

use std::sync::Arc;

use bytes::Bytes;
use memchr::memmem;

use super::{OuterSide, Running, direction, refuse, same_uri};
use crate::proto::head::{FailureReport, Method};
use crate::proto::parser::Flag;
use crate::proto::status::Status;
use crate::proto::uri::{Host, MsrpUri, Path, host_matches};
use crate::relay::admission::{Offence, Who};
use crate::relay::ids::{CoreId, PeerRef, SessionId, StreamId};
use crate::relay::limit::Limit;
use crate::relay::message::{Giver, Hop, Message, MessageId, Outer, Transit};
use crate::relay::peer::{Peer, Role, named_session};
use crate::relay::{CloseReason, Core, Effect, Effects, Event, Relay, Target, Transport};
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

    pub(crate) fn on_request_body(
        &mut self,
        id: SessionId,
        stream: StreamId,
        octets: Bytes,
        fx: &mut Effects,
    ) {
        let len = octets.len();
        let next = self.sessions.find(&id).and_then(|session| session.pass_on(stream, len));
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
        // Seldom: most paths need not be looked into for that.
        if memmem::find(to_path.after(1).as_bytes(), id.as_str().as_bytes()).is_some()
            && to_path.after(1).uris().any(|uri| named_session(uri) == Some(id))
        {
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
            let other = uri.session_id().and_then(SessionId::parse);
            let other = other.ok_or((Status::NO_SESSION, "no such session"))?;
            if self.core.is_alive(other.home()) {
                self.core.count_link(other.home());
                Outer::Session(other)
            } else if self.core.kin.contains(&Some(other.home().generation())) {
                let mut target = self.core.target(&uri, beyond)?;
                target.kin = Some(other.home());
                Outer::Peer(self.dial(id, target, fx)?)
            } else {
                return Err((Status::NO_SESSION, "no such session"));
            }
        } else {
            let target = self.core.target(&uri, beyond)?;
            self.core.stats.links_local += 1;
            Outer::Peer(self.dial(id, target, fx)?)
        };
        if let Some(session) = self.sessions.find(&id) {
            session.bind(to, Arc::from(next));
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
                session.bind(from, Arc::from(previous));
                if let Outer::Peer(peer) = from {
                    let chunk_max = self.core.settings.chunk_bounds.of_uri(previous);
                    self.core.count_link(peer.core);
                    self.core.post(Message::Bind { peer, session: id, chunk_max }, fx);
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
        session.far = Some((*to, Arc::clone(uri)));
        let running = session.running[direction(false)].as_mut();
        if let Some(running) = running.filter(|r| r.next == Outer::Peer(dialled)) {
            running.next = Outer::Peer(comer);
        }
        let inner = session.inner;
        let queued = dial.out.release(comer);
        let chunk_max = self.core.settings.chunk_bounds.of_uri(previous);
        dial.bound.clear();
        self.core.count_link(comer.core);
        self.core.post(Message::Bind { peer: comer, session: id, chunk_max }, fx);
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
        let user = self.sessions.user_of(&id);
        let is_banned = |user| self.core.bans.is_banned(Who::User(user), Offence::Dial, self.core.now);
        if user.is_some_and(is_banned) {
            return Err((Status::TIMEOUT, "too many next hops of this user could not be reached"));
        }
        let me = self.core.me;
        let transport = Transport { secure: target.secure, port: target.port };
        let key = self.peers.insert_with_key(|key| {
            let mut peer = Peer::dialling(PeerRef { core: me, key }, transport, self.core.now);
            peer.bound.push(id);
            peer.dialled_for = user;
            peer.out.bound_chunks(self.core.settings.chunk_bounds.of_host(&target.host));
            peer
        });
        self.core.stats.dials += 1;
        fx.push(Effect::Connect { peer: key, target });
        Ok(PeerRef { core: me, key })
    }

    /// Octets received on this core go to wherever a session sends them.
    fn lend(&mut self, stream: StreamId, to: CoreId, octets: usize) {
        if stream.peer.core == self.core.me
            && let Some(peer) = self.peers.get_mut(stream.peer.key)
        {
            peer.lend(to, octets);
        }
    }

    pub(super) fn is_linked(&mut self, id: &SessionId, other: SessionId) -> bool {
        let session = self.sessions.find(id);
        session.is_some_and(|s| matches!(s.outer, OuterSide::Bound { to, .. } if to == Outer::Session(other)))
    }
}

impl Core {
    /// Whether a URI leads to this relay.
    pub(crate) fn is_ours(&self, uri: &MsrpUri<'_>) -> bool {
        let host = match uri.host() {
            Host::Name(name) => host_matches(name, &self.settings.hostname),
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
        Ok(Target { secure: uri.is_secure(), host: uri.host_str().to_owned(), port, relay, kin: None })
    }
}
