//! Where a request goes: who may use a URI, what the first request from either side binds it to, and the
//! next hop (RFC 4976, 6.4; RFC 4975, 5.4; norms F1, F3 to F5).

use std::sync::Arc;

use bytes::Bytes;
use memchr::memmem;

use super::{Ahead, Inner, OuterSide, OuterUris, Running, Session, WAYS_MAX, Way, refuse, same_relay};
use crate::admission::{Offence, UserKey, Who};
use crate::identity::ProvenNames;
use crate::ids::{CoreId, PeerRef, SessionId, StreamId};
use crate::message::{Giver, Hop, Message, MessageId, Outer, Transit};
use crate::peer::{Peer, Role, named_session};
use crate::{CloseReason, Core, Effect, Effects, Event, Relay, Target, Transport};
use msrp_proto::head::{FailureReport, Method};
use msrp_proto::parser::Flag;
use msrp_proto::srv::PORT_DEFAULT;
use msrp_proto::status::Status;
use msrp_proto::uri::{Host, MsrpUri, Path, host_matches};

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
        let routed = self.route(id, giver, stream, &transit, fx);
        self.sessions.recount_by_id(&id, &mut self.core);
        match routed {
            Ok((next, inward)) => {
                let running = Running { stream, giver, inward, next, transit: transit.clone(), octets: 0 };
                if let Some(session) = self.sessions.find(&id) {
                    session.running.push(running);
                }
                transit.moves += 1;
                self.lend(stream, next.core(), transit.cost(), fx);
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
                let next = Outer::Session(id);
                let refused = Running { stream, giver, inward: false, next, transit, octets: 0 };
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
            self.lend(stream, next.core(), len, fx);
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
        let running = self.sessions.find(&id).and_then(|session| session.take_running(stream));
        let Some(running) = running else {
            if let Some(failure) = self.core.orphans.end(Outer::Session(id), stream, flag) {
                self.core.post(failure.into_message(), fx);
            }
            return;
        };
        running.end(flag, &mut self.core, fx);
        if !running.giver.is_connection() {
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
        let named = to_path.first().and_then(|uri| session.named_by(uri));
        let own = named
            .ok_or((Status::NO_SESSION, "session id under another address, or of a URI that is over"))?;
        // What was sent before may still be reported (norm A12): until the session is over, that is.
        if own.is_expired(now) && transit.method() != Method::Report {
            return Err((Status::NO_SESSION, "session expired"));
        }
        let next = to_path.after(1).first().ok_or((Status::NO_SESSION, "nobody to forward to"))?;
        // Seldom: most paths need not be looked into for that.
        if memmem::find(to_path.after(1).as_bytes(), id.prefix().as_bytes()).is_some()
            && to_path.after(1).uris().any(|uri| named_session(uri) == Some(id))
        {
            return Err((Status::BAD_REQUEST, "the same URI twice in a path"));
        }
        let from_inner = session.comes_from_inside(giver, stream.peer, self.core.me, transit);
        if transit.method() == Method::Send && !session.stopped.is_empty() {
            let message = transit.head.message_id(&transit.octets).map(MessageId::new);
            if session.is_stopped(!from_inner, message.as_ref()) {
                return Err((Status::STOP, "message stopped by its receiver"));
            }
        }
        if from_inner {
            if session.client().is_none() {
                let way = Way { inside: true, peer: stream.peer };
                session.take_way(way, transit, &mut self.core, fx);
            }
            let next = match transit.method() {
                Method::Auth => self.reach_ahead(id, next, fx)?,
                _ => self.bind_outward(id, next, to_path.len() > 2, fx)?,
            };
            return Ok((next, false));
        }
        if transit.method() == Method::Auth {
            return Err((Status::NO_SESSION, "AUTH that does not come from the client of this session"));
        }
        if !session.leads_inside(to_path.after(1)) {
            return Err((Status::NO_SESSION, "not the client of this session"));
        }
        self.bind_inward(id, giver, stream, transit, fx)?;
        Ok((Outer::Peer(self.reach_inside(id, fx)?), true))
    }

    /// The connection by which a session's client is reached. Where that leads through a relay which has none with us at
    /// present, one is opened: the URI is good for any (norm A10).
    pub(super) fn reach_inside(&mut self, id: SessionId, fx: &mut Effects) -> Result<PeerRef, Refusal> {
        let session = self.sessions.find(&id).ok_or((Status::NO_SESSION, "no such session"))?;
        if let Some(peer) = session.inner(self.core.me) {
            return Ok(peer);
        }
        let path = Arc::clone(&session.current.inner_path);
        let nearest = Path::new(&path).first().unwrap_or_default();
        let uri = MsrpUri::parse(nearest).map_err(|_| (Status::NO_SESSION, "the way back is no URI"))?;
        let target = self.core.target(&uri, true)?;
        // Any connection with that relay will do (norm A10); many a relay cannot be called.
        let known = self.peers.values().find(|peer| peer.leads_to_relay_of(nearest)).map(|peer| peer.me);
        let peer = match known {
            Some(peer) => {
                let chunk_max = self.core.settings.chunk_bounds.of_uri(nearest);
                self.core.post(Message::Bind { peer, session: id, chunk_max }, fx);
                peer
            }
            // Whoever writes to the client is not to be blamed on its user.
            None => self.dial(id, target, None, fx)?,
        };
        if let Some(session) = self.sessions.find(&id) {
            session.inner = Inner::Relay { by: Some(peer) };
        }
        Ok(peer)
    }

    /// The client asks a relay further on for a session, through this one (norm A16). That binds nothing: what it sends
    /// afterwards may go by the same connection, or elsewhere.
    fn reach_ahead(&mut self, id: SessionId, next: &[u8], fx: &mut Effects) -> Result<Outer, Refusal> {
        let session = self.sessions.find(&id).ok_or((Status::NO_SESSION, "no such session"))?;
        if session.blocked_until.is_some_and(|until| self.core.now < until) {
            return Err((Status::FORBIDDEN, "too many failed AUTHs at relays further on"));
        }
        // Credentials are for who has proven to be that relay: whoever has bound the session may only say so.
        let has_proven = |peer: &PeerRef| {
            peer.core == self.core.me
                && self.peers.get(peer.key).is_some_and(|peer| peer.leads_to_relay_of(next))
        };
        let bound = match &session.outer {
            OuterSide::Bound { to: Outer::Peer(peer), known } if has_proven(peer) => {
                Some((*peer, &known.latest))
            }
            _ => None,
        };
        let ahead = session.ahead.as_ref().map(|ahead| (ahead.peer, &ahead.uri));
        if let Some((peer, _)) = ahead.into_iter().chain(bound).find(|(_, uri)| same_relay(uri, next)) {
            return Ok(Outer::Peer(peer));
        }
        let uri = MsrpUri::parse(next).map_err(|_| (Status::BAD_REQUEST, "next hop is not a URI"))?;
        if self.core.is_ours(&uri) {
            return Err((Status::NO_SESSION, "AUTH through this relay to itself"));
        }
        if !uri.is_secure() {
            return Err((Status::FORBIDDEN, "AUTH for a relay without TLS"));
        }
        let target = match uri.port() {
            Some(_) => self.core.target(&uri, true)?,
            None => self.core.target_of_domain(&uri)?,
        };
        let user = self.sessions.user_of(&id);
        let peer = self.dial(id, target, user, fx)?;
        let ahead = Ahead { peer, uri: Arc::from(next) };
        let Some(session) = self.sessions.find(&id) else {
            return Ok(Outer::Peer(peer));
        };
        if let Some(before) = session.ahead.replace(ahead)
            && !session.uses(before.peer)
        {
            self.core.post(Message::Unbind { peer: before.peer, session: id }, fx);
        }
        Ok(Outer::Peer(peer))
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
        let core = &self.core;
        match &mut session.outer {
            OuterSide::Bound { to, known } if known.contain(next) => return Ok(*to),
            // Another URI of the session it is bound to, if that one agrees.
            OuterSide::Bound { to: Outer::Session(other), .. } if named_session(next) == Some(*other) => {
                return Ok(Outer::Session(*other));
            }
            // The client behind that relay may have replaced its URI there: whether it has, that relay knows.
            OuterSide::Bound { to: Outer::Peer(peer), known }
                if beyond && known.are_of_relay_of(next) && core.may_be_renewed(&known.latest, next) =>
            {
                known.add(next);
                return Ok(Outer::Peer(*peer));
            }
            OuterSide::Bound { .. } => {
                return Err((Status::NO_SESSION, "bound to another next hop"));
            }
            OuterSide::Lost { .. } => return Err((Status::NO_SESSION, "the other side is gone")),
            OuterSide::Unbound => {}
        }
        if let Some(ahead) = session.ahead.as_ref().filter(|ahead| beyond && same_relay(&ahead.uri, next)) {
            let to = Outer::Peer(ahead.peer);
            session.bind(to, Arc::from(next));
            self.core.stats.links_local += 1;
            return Ok(to);
        }
        let uri = MsrpUri::parse(next).map_err(|_| (Status::BAD_REQUEST, "next hop is not a URI"))?;
        let user = self.sessions.user_of(&id);
        let to = if self.core.is_ours(&uri) {
            let other = uri.session_id().and_then(SessionId::parse);
            let other = other.ok_or((Status::NO_SESSION, "no such session"))?;
            if self.core.is_alive(other.home()) {
                self.core.count_link(other.home());
                Outer::Session(other)
            } else if self.core.kin.contains(&Some(other.home().generation())) {
                // It is this relay: whom else the operator wants to deal with does not matter.
                let target =
                    Target { relay: beyond, kin: Some(other.home()), ..self.core.target(&uri, false)? };
                Outer::Peer(self.dial(id, target, user, fx)?)
            } else {
                return Err((Status::NO_SESSION, "no such session"));
            }
        } else {
            let target = self.core.target(&uri, beyond)?;
            self.core.stats.links_local += 1;
            Outer::Peer(self.dial(id, target, user, fx)?)
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
            Giver::Peer | Giver::Relay => Outer::Peer(stream.peer),
            Giver::Session(other) => Outer::Session(other),
        };
        if giver.is_connection() && self.take_over_dial(id, giver, stream.peer, transit, fx) {
            return Ok(());
        }
        let session = self.sessions.find(&id).ok_or((Status::NO_SESSION, "no such session"))?;
        // A relay that has proven its name is the same on any connection.
        let is_relay = |known: &OuterUris| {
            giver == Giver::Relay
                && transit.received_from_path().first().is_some_and(|from| known.contain(from))
        };
        let has_way = session.has_way(Way { inside: false, peer: stream.peer });
        match &mut session.outer {
            OuterSide::Bound { to, known } if *to == from => {
                if let Some(uri) = transit.received_from_path().first().filter(|_| giver == Giver::Relay)
                    && known.are_of_relay_of(uri)
                {
                    known.add(uri);
                }
                return Ok(());
            }
            OuterSide::Bound { to: Outer::Peer(_), known } if is_relay(known) => {
                session.take_way(Way { inside: false, peer: stream.peer }, transit, &mut self.core, fx);
                return Ok(());
            }
            OuterSide::Bound { .. } if has_way => return Ok(()),
            OuterSide::Bound { .. } => return Err((Status::SESSION_IN_USE, "bound to another connection")),
            OuterSide::Lost { known } if is_relay(known) => {}
            OuterSide::Lost { .. } => return Err((Status::NO_SESSION, "the other side is gone")),
            OuterSide::Unbound if transit.method() == Method::Report => {
                return Err((Status::NO_SESSION, "REPORT for nobody"));
            }
            OuterSide::Unbound => {}
        }
        let mut path = Vec::new();
        transit.append_from_path(&mut path);
        let previous = Path::new(&path).first().unwrap_or_default();
        let is_used = matches!(from, Outer::Peer(peer) if session.uses(peer));
        session.bind(from, Arc::from(previous));
        if let Outer::Peer(peer) = from {
            let chunk_max = self.core.settings.chunk_bounds.of_uri(previous);
            self.core.count_link(peer.core);
            if !is_used {
                self.core.post(Message::Bind { peer, session: id, chunk_max }, fx);
            }
        }
        Ok(())
    }

    /// The far end that we are dialling has come to us instead: both ends believe that they are the
    /// active one (norm T9), and two crossing first requests of one pair are one link. What waits
    /// for the dial goes out over the connection that is there; but what waits for a relay to prove its name goes to who
    /// has proven it, and a comer who has not is one more way to the same relay, as far as it is believed.
    fn take_over_dial(
        &mut self,
        id: SessionId,
        giver: Giver,
        comer: PeerRef,
        transit: &Transit,
        fx: &mut Effects,
    ) -> bool {
        let Some(session) = self.sessions.find(&id) else {
            return false;
        };
        let OuterSide::Bound { to, known } = &mut session.outer else {
            return false;
        };
        let Outer::Peer(dialled) = *to else {
            return false;
        };
        let previous = transit.received_from_path().first().unwrap_or_default();
        let Some(dial) = self
            .peers
            .get_mut(dialled.key)
            .filter(|peer| dialled == peer.me && peer.role == Role::Dialling && known.contain(previous))
        else {
            return false;
        };
        if dial.names.is_some() && giver != Giver::Relay {
            session.take_way(Way { inside: false, peer: comer }, transit, &mut self.core, fx);
            return true;
        }
        if session.ahead.as_ref().is_some_and(|ahead| ahead.peer == dialled) {
            session.ahead = None;
        }
        *to = Outer::Peer(comer);
        session.far = Some((*to, Arc::clone(&known.latest)));
        for running in session.running.iter_mut().filter(|r| r.next == Outer::Peer(dialled)) {
            running.next = Outer::Peer(comer);
        }
        let queued = dial.out.release(comer);
        let chunk_max = self.core.settings.chunk_bounds.of_uri(previous);
        dial.bound.clear();
        self.core.count_link(comer.core);
        self.core.post(Message::Bind { peer: comer, session: id, chunk_max }, fx);
        for message in queued {
            if let Some(stream) = message.stream() {
                self.lend(stream, comer.core, message.cost(), fx);
            }
            self.core.post(message, fx);
        }
        self.close_peer(dialled.key, CloseReason::SessionOver, fx);
        true
    }

    /// Opens a connection for a session. If it cannot be had, `user` is to blame.
    fn dial(
        &mut self,
        id: SessionId,
        target: Target,
        user: Option<UserKey>,
        fx: &mut Effects,
    ) -> Result<PeerRef, Refusal> {
        let is_banned = |user| self.core.bans.is_banned(Who::User(user), Offence::Dial, self.core.now);
        if user.is_some_and(is_banned) {
            return Err((Status::TIMEOUT, "too many next hops of this user could not be reached"));
        }
        if let Err(limit) = self.make_room(false, fx) {
            self.core.bite(limit, None, fx);
            return Err((Status::TIMEOUT, "too many connections"));
        }
        // Who writes to a client behind a relay that has to be called takes no turn of that client's user.
        let who = user.and_then(|_| self.sessions.in_turn_of(&id));
        let who = who.unwrap_or_else(|| Who::User(UserKey::of_relay(&target.host)));
        let me = self.core.me;
        let transport = Transport { secure: target.secure, port: target.port };
        let key = self.peers.insert_with_key(|key| {
            let mut peer = Peer::dialling(PeerRef { core: me, key }, transport, self.core.now);
            peer.bound.push(id);
            peer.dialled_for = user;
            peer.is_kin = target.kin.is_some();
            // It is given octets, and ours to read, only once it has proven this.
            peer.names = ProvenNames::new([target.host.as_str()]).filter(|_| target.relay && target.secure);
            peer.out.bound_chunks(self.core.settings.chunk_bounds.of_host(&target.host));
            peer
        });
        self.core.stats.dials += 1;
        fx.push(Effect::Connect { peer: key, target, who });
        Ok(PeerRef { core: me, key })
    }

    /// Octets of a request go to wherever a session sends them; the core that received them keeps book.
    fn lend(&mut self, stream: StreamId, to: CoreId, octets: usize, fx: &mut Effects) {
        let me = self.core.me;
        if stream.peer.core == me {
            if let Some(peer) = self.peers.get_mut(stream.peer.key) {
                peer.lend(to, octets);
            }
        } else if to != me {
            self.core.post(Message::Lent { peer: stream.peer, from: me, to, octets }, fx);
        }
    }

    pub(super) fn is_linked(&mut self, id: &SessionId, other: SessionId) -> bool {
        self.sessions.find(id).is_some_and(|session| session.is_bound_to(Outer::Session(other)))
    }
}

impl Session {
    pub(super) fn has_way(&self, way: Way) -> bool {
        self.ways.contains(&way)
    }

    /// Whether a connection serves it, in whatever part.
    pub(super) fn uses(&self, peer: PeerRef) -> bool {
        self.is_bound_to(Outer::Peer(peer))
            || matches!(self.inner, Inner::Relay { by: Some(by) } if by == peer)
            || self.ahead.as_ref().is_some_and(|ahead| ahead.peer == peer)
            || self.ways.iter().any(|way| way.peer == peer)
    }

    /// A request has come by a connection with the relay at one side: what goes there may take it from now on, if it has
    /// no other way.
    fn take_way(&mut self, way: Way, transit: &Transit, core: &mut Core, fx: &mut Effects) {
        let is_known = self.uses(way.peer);
        let is_there = self.has_way(way) || (!way.inside && self.is_bound_to(Outer::Peer(way.peer)));
        match &mut self.inner {
            Inner::Relay { by } if way.inside && by.is_none() => *by = Some(way.peer),
            Inner::Relay { by: Some(by) } if way.inside && *by == way.peer => return,
            _ if is_there => return,
            _ => self.ways.push(way),
        }
        let session = self.id;
        if self.ways.len() > WAYS_MAX {
            let eldest = self.ways.remove(0).peer;
            if !self.uses(eldest) {
                core.post(Message::Unbind { peer: eldest, session }, fx);
            }
        }
        if !is_known {
            let nearest = transit.received_from_path().first().unwrap_or_default();
            let chunk_max = core.settings.chunk_bounds.of_uri(nearest);
            core.post(Message::Bind { peer: way.peer, session, chunk_max }, fx);
        }
    }
}

fn scheme(uri: &MsrpUri<'_>) -> &'static str {
    if uri.is_secure() { "msrps" } else { "msrp" }
}

impl Core {
    /// Whether a URI leads to this relay.
    pub(crate) fn is_ours(&self, uri: &MsrpUri<'_>) -> bool {
        host_matches(uri.host_str(), &self.settings.hostname)
            && uri.port().is_some_and(|port| self.settings.ports.contains(&port))
    }

    /// Whether a URI of the same relay may be of the same session: of this relay's, in whatever process, the ids tell.
    fn may_be_renewed(&self, known: &[u8], uri: &[u8]) -> bool {
        let is_ours = MsrpUri::parse(uri).is_ok_and(|uri| self.is_ours(&uri));
        !is_ours || named_session(known) == named_session(uri)
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
        if relay && !self.settings.admits(uri.host_str()) {
            return Err((Status::TIMEOUT, "relay that is not in outbound.relays"));
        }
        if !uri.is_secure() && !self.settings.dial_plain {
            return Err((Status::TIMEOUT, "plain next hop; outbound.plain is refuse"));
        }
        let (secure, host) = (uri.is_secure(), uri.host_str().to_owned());
        Ok(Target { secure, host, port, by_service: false, relay, kin: None })
    }

    /// Where to dial for an AUTH whose URI has no port: a domain's relay, or a host at the default port.
    fn target_of_domain(&self, uri: &MsrpUri<'_>) -> Result<Target, Refusal> {
        let Host::Name(host) = uri.host() else {
            return Err((Status::TIMEOUT, "next hop without a port"));
        };
        let with_port = format!("{}://{host}:{PORT_DEFAULT};{}", scheme(uri), uri.transport());
        let target =
            MsrpUri::parse(with_port.as_bytes()).map_err(|_| (Status::BAD_REQUEST, "next hop is not a URI"));
        Ok(Target { by_service: true, ..self.target(&target?, true)? })
    }
}
