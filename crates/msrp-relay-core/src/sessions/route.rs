//! Where a request goes: who may use a URI, what the first request from either side binds it to, and the
//! next hop (RFC 4976, 6.4; RFC 4975, 5.4; reqs F1, F3 to F5).
//!
//! These handlers need two tables at once, so they are methods of the relay: a session decides, and the outgoing
//! connection may have to be found or opened before the next step can be addressed to it.

use std::sync::Arc;

use bytes::Bytes;
use memchr::memmem;

use msrp_proto::head::{FailureReport, Method};
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::uri::{MsrpUri, Path};

use super::Sessions;
use super::next_hop::Refusal;
use super::session::{Inner, NextRelay, OuterSide, OuterUris, RelayConnection, Running, refuse, same_relay};
use crate::Relay;
use crate::api::{Event, Target};
use crate::core::Core;
use crate::ids::{CoreId, PeerRef, SessionId, SessionRef, StreamId};
use crate::message::{PeerStep, SessionStep};
use crate::peers::peer::named_session;
use crate::peers::state::Blamed;
use crate::quota::who::{Offence, UserKey, Who};
use crate::reason::CloseReason;
use crate::request::{Giver, MessageId, Neighbour, SessionSide, Transit};

impl Relay {
    /// A request whose first To-Path URI names this session.
    pub(crate) fn on_request(
        &mut self,
        this: SessionRef,
        giver: Giver,
        stream: StreamId,
        mut transit: Transit,
    ) {
        let routed = self.route(this, giver, stream, &transit);
        self.sessions.recount(this, &mut self.core);
        match routed {
            Ok((next, inward)) => {
                let running = Running { stream, giver, inward, next, transit: transit.clone(), bytes: 0 };
                if let Some(session) = self.sessions.get_mut(this) {
                    session.running.push(running);
                }
                transit.moves += 1;
                self.lend(stream, next.core(), transit.cost());
                match next {
                    Neighbour::Peer(peer) => {
                        let side = SessionSide { session: this, inward };
                        self.core.tell_peer(peer, PeerStep::Head { side, stream, transit });
                    }
                    Neighbour::Session(next) => {
                        let giver = Giver::Session(this);
                        self.core.tell_session(next, SessionStep::Head { giver, stream, transit });
                    }
                }
            }
            Err((status, why)) => {
                self.core.effects.event(Event::RequestRefused {
                    session: Some(this.id.prefix().to_owned()),
                    status,
                    why,
                });
                self.core.credit(stream.peer, transit.cost());
                if let Giver::Session(before) = giver
                    && !self.sessions.is_linked(this, before)
                {
                    // The other session believes that it is bound to this one: that frees it for another.
                    let neighbour = Neighbour::Session(this);
                    self.core.tell_session(
                        before,
                        SessionStep::NeighbourLost { neighbour, was_up: false, status },
                    );
                }
                let next = Neighbour::Session(this);
                let refused = Running { stream, giver, inward: false, next, transit, bytes: 0 };
                refuse(&mut self.core, this, &refused, status);
            }
        }
    }

    pub(crate) fn on_request_body(&mut self, this: SessionRef, stream: StreamId, bytes: Bytes) {
        let len = bytes.len();
        let next = self.sessions.get_mut(this).and_then(|session| session.pass_on(stream, len));
        if let Some(next) = next {
            self.lend(stream, next.core(), len);
        }
        match next {
            Some(Neighbour::Peer(peer)) => self.core.tell_peer(peer, PeerStep::Body { stream, bytes }),
            Some(Neighbour::Session(session)) => {
                self.core.tell_session(session, SessionStep::Body { stream, bytes })
            }
            None => {
                self.core.orphans.count(Neighbour::Session(this), stream, len);
                self.core.credit(stream.peer, len);
            }
        }
    }

    /// Decides whether a request may pass and where it goes (reqs F1, F3, F4, F5).
    fn route(
        &mut self,
        this: SessionRef,
        giver: Giver,
        stream: StreamId,
        transit: &Transit,
    ) -> Result<(Neighbour, bool), Refusal> {
        let now = self.core.now;
        let to_path = transit.to_path();
        let Some(session) = self.sessions.get_mut(this) else {
            return Err(self.sessions.refusal_of_absent(this, to_path, now));
        };
        let named = to_path.first().and_then(|uri| session.named_by(uri));
        let own = named
            .ok_or((Status::NO_SESSION, "session id under another address, or of a URI that is over"))?;
        // Bytes sent earlier may still be reported (req A12), until the session ends.
        if own.is_expired(now) && transit.method() != Method::Report {
            return Err((Status::NO_SESSION, "session expired"));
        }
        let next = to_path.after(1).first().ok_or((Status::NO_SESSION, "no next hop in the path"))?;
        // Rare: most paths need no closer look.
        if memmem::find(to_path.after(1).as_bytes(), this.id.prefix().as_bytes()).is_some()
            && to_path.after(1).uris().any(|uri| named_session(uri) == Some(this.id))
        {
            return Err((Status::BAD_REQUEST, "the same URI twice in a path"));
        }
        let from_inner = session.comes_from_inside(giver, stream.peer, self.core.me, transit);
        if transit.method() == Method::Send && !session.stopped.is_empty() {
            let message = transit.head.message_id(&transit.bytes).map(MessageId::new);
            if session.is_stopped(!from_inner, message.as_ref()) {
                return Err((Status::STOP, "message stopped by its receiver"));
            }
        }
        if from_inner {
            if session.client().is_none() {
                let entrance = RelayConnection { inside: true, peer: stream.peer };
                session.take_relay_connection(entrance, transit, &mut self.core);
            }
            let next = match transit.method() {
                Method::Auth => self.reach_next_relay(this, next)?,
                _ => self.bind_outward(this, next, to_path.len() > 2)?,
            };
            return Ok((next, false));
        }
        if transit.method() == Method::Auth {
            return Err((Status::NO_SESSION, "AUTH that does not come from the client of this session"));
        }
        if !session.leads_inside(to_path.after(1)) {
            return Err((Status::NO_SESSION, "not the client of this session"));
        }
        self.bind_inward(this, giver, stream, transit)?;
        Ok((Neighbour::Peer(self.reach_inside(this)?), true))
    }

    /// The connection that leads to a session's client. If it leads through a relay that has no connection with us at
    /// present, one is opened: the URI is good for any (req A10).
    pub(super) fn reach_inside(&mut self, this: SessionRef) -> Result<PeerRef, Refusal> {
        let session = self.sessions.get_mut(this).ok_or((Status::NO_SESSION, "no such session"))?;
        if let Some(peer) = session.inner(self.core.me) {
            return Ok(peer);
        }
        let path = Arc::clone(&session.current.inner_path);
        let nearest = Path::new(&path).first().unwrap_or_default();
        let uri = MsrpUri::parse(nearest).map_err(|_| (Status::NO_SESSION, "the way back is no URI"))?;
        let target = self.core.settings.target(&uri, true)?;
        // Any connection with that relay will do (req A10), and many a relay cannot be called.
        let known = self.peers.with_relay_of(nearest).map(|peer| peer.me);
        let peer = match known {
            Some(peer) => {
                let chunk_max = self.core.settings.max_chunk.of_uri(nearest);
                self.core.tell_peer(peer, PeerStep::Bind { session: this, chunk_max });
                peer
            }
            // The session's user is not to blame for what others write to the client.
            None => self.dial(this, target, None)?,
        };
        if let Some(session) = self.sessions.get_mut(this) {
            session.inner = Inner::Relay { by: Some(peer) };
        }
        Ok(peer)
    }

    /// The client asks a relay beyond this one for a session, through this one (req A16). That binds nothing: its
    /// later requests may go by the same connection, or elsewhere.
    fn reach_next_relay(&mut self, this: SessionRef, next: &[u8]) -> Result<Neighbour, Refusal> {
        let session = self.sessions.get_mut(this).ok_or((Status::NO_SESSION, "no such session"))?;
        if session.blocked_until.is_some_and(|until| self.core.now < until) {
            return Err((Status::FORBIDDEN, "too many failed AUTHs at relays further on"));
        }
        // Credentials go only to a peer that has proven to be that relay. The neighbour that bound the session may only
        // claim to be.
        let has_proven = |peer: &PeerRef| {
            peer.core == self.core.me
                && self.peers.get(peer.key).is_some_and(|peer| peer.leads_to_relay_of(next))
        };
        let bound = match &session.outer {
            OuterSide::Bound { to: Neighbour::Peer(peer), known } if has_proven(peer) => {
                Some((*peer, &known.latest))
            }
            _ => None,
        };
        let ahead = session.next_relay.as_ref().map(|ahead| (ahead.peer, &ahead.uri));
        if let Some((peer, _)) = ahead.into_iter().chain(bound).find(|(_, uri)| same_relay(uri, next)) {
            return Ok(Neighbour::Peer(peer));
        }
        let uri = MsrpUri::parse(next).map_err(|_| (Status::BAD_REQUEST, "next hop is not a URI"))?;
        if self.core.settings.is_ours(&uri) {
            return Err((Status::NO_SESSION, "AUTH through this relay to itself"));
        }
        if !uri.is_secure() {
            return Err((Status::FORBIDDEN, "AUTH for a relay without TLS"));
        }
        let target = match uri.port() {
            Some(_) => self.core.settings.target(&uri, true)?,
            None => self.core.settings.target_of_domain(&uri)?,
        };
        let user = self.sessions.user_of(this);
        let peer = self.dial(this, target, user)?;
        let ahead = NextRelay { peer, uri: Arc::from(next) };
        let Some(session) = self.sessions.get_mut(this) else {
            return Ok(Neighbour::Peer(peer));
        };
        if let Some(before) = session.next_relay.replace(ahead)
            && !session.uses(before.peer)
        {
            self.core.tell_peer(before.peer, PeerStep::Unbind { session: this });
        }
        Ok(Neighbour::Peer(peer))
    }

    /// The client sends: to the neighbour that the session is bound to, or, if to none yet, wherever the next URI
    /// leads: another session of this relay, or out.
    fn bind_outward(&mut self, this: SessionRef, next: &[u8], beyond: bool) -> Result<Neighbour, Refusal> {
        let session = self.sessions.get_mut(this).ok_or((Status::NO_SESSION, "no such session"))?;
        let core = &self.core;
        match &mut session.outer {
            OuterSide::Bound { to, known } if known.contain(next) => return Ok(*to),
            // Another URI of the session that it is bound to, if that session agrees.
            OuterSide::Bound { to: Neighbour::Session(other), .. }
                if named_session(next) == Some(other.id) =>
            {
                return Ok(Neighbour::Session(*other));
            }
            // The client behind that relay may have replaced its URI there: only that relay knows.
            OuterSide::Bound { to: Neighbour::Peer(peer), known }
                if beyond
                    && known.are_of_relay_of(next)
                    && core.settings.may_be_renewed(&known.latest, next) =>
            {
                known.add(next);
                return Ok(Neighbour::Peer(*peer));
            }
            OuterSide::Bound { .. } => {
                return Err((Status::NO_SESSION, "bound to another next hop"));
            }
            OuterSide::Lost { .. } => return Err((Status::NO_SESSION, "the other side is gone")),
            OuterSide::Unbound => {}
        }
        if let Some(ahead) =
            session.next_relay.as_ref().filter(|ahead| beyond && same_relay(&ahead.uri, next))
        {
            let to = Neighbour::Peer(ahead.peer);
            session.bind(to, Arc::from(next));
            self.core.stats.links_local += 1;
            return Ok(to);
        }
        let uri = MsrpUri::parse(next).map_err(|_| (Status::BAD_REQUEST, "next hop is not a URI"))?;
        let user = self.sessions.user_of(this);
        let to = if self.core.settings.is_ours(&uri) {
            let other = uri.session_id().and_then(SessionId::parse).map(SessionRef::of_wire);
            let other = other.ok_or((Status::NO_SESSION, "no such session"))?;
            if self.core.cores.is_alive(other.core) {
                self.core.count_link(other.core);
                Neighbour::Session(other)
            } else if self.core.cores.is_of_other_process(other.core) {
                // It is this relay: the operator's list of relays does not matter.
                let target = Target {
                    relay: beyond,
                    other_process: Some(other.core),
                    ..self.core.settings.target(&uri, false)?
                };
                Neighbour::Peer(self.dial(this, target, user)?)
            } else {
                return Err((Status::NO_SESSION, "no such session"));
            }
        } else {
            let target = self.core.settings.target(&uri, beyond)?;
            self.core.stats.links_local += 1;
            Neighbour::Peer(self.dial(this, target, user)?)
        };
        if let Some(session) = self.sessions.get_mut(this) {
            session.bind(to, Arc::from(next));
        }
        Ok(to)
    }

    /// A request for the client: the first peer that sends one is the session's outer side for good.
    fn bind_inward(
        &mut self,
        this: SessionRef,
        giver: Giver,
        stream: StreamId,
        transit: &Transit,
    ) -> Result<(), Refusal> {
        let from = match giver {
            Giver::Peer | Giver::Relay => Neighbour::Peer(stream.peer),
            Giver::Session(other) => Neighbour::Session(other),
        };
        if giver.is_connection() && self.take_over_dial(this, giver, stream.peer, transit) {
            return Ok(());
        }
        let session = self.sessions.get_mut(this).ok_or((Status::NO_SESSION, "no such session"))?;
        // A relay that has proven its name is the same one on any connection.
        let is_relay = |known: &OuterUris| {
            giver == Giver::Relay
                && transit.received_from_path().first().is_some_and(|from| known.contain(from))
        };
        let has_relay_connection =
            session.has_relay_connection(RelayConnection { inside: false, peer: stream.peer });
        match &mut session.outer {
            OuterSide::Bound { to, known } if *to == from => {
                if let Some(uri) = transit.received_from_path().first().filter(|_| giver == Giver::Relay)
                    && known.are_of_relay_of(uri)
                {
                    known.add(uri);
                }
                return Ok(());
            }
            OuterSide::Bound { to: Neighbour::Peer(_), known } if is_relay(known) => {
                session.take_relay_connection(
                    RelayConnection { inside: false, peer: stream.peer },
                    transit,
                    &mut self.core,
                );
                return Ok(());
            }
            OuterSide::Bound { .. } if has_relay_connection => return Ok(()),
            OuterSide::Bound { .. } => return Err((Status::SESSION_IN_USE, "bound to another connection")),
            OuterSide::Lost { known, .. } if is_relay(known) => {}
            OuterSide::Lost { .. } => return Err((Status::NO_SESSION, "the other side is gone")),
            OuterSide::Unbound if transit.method() == Method::Report => {
                return Err((Status::NO_SESSION, "REPORT without a next hop"));
            }
            OuterSide::Unbound => {}
        }
        let mut path = Vec::new();
        transit.append_from_path(&mut path);
        let previous = Path::new(&path).first().unwrap_or_default();
        let is_used = matches!(from, Neighbour::Peer(peer) if session.uses(peer));
        session.bind(from, Arc::from(previous));
        if let Neighbour::Peer(peer) = from {
            let chunk_max = self.core.settings.max_chunk.of_uri(previous);
            self.core.count_link(peer.core);
            if !is_used {
                self.core.tell_peer(peer, PeerStep::Bind { session: this, chunk_max });
            }
        }
        Ok(())
    }

    /// The far end that we are dialling has come to us instead: both ends believe that they are the active one (norm
    /// T9), and two crossing first requests of one pair are one link. Requests that wait for the dial go out over the
    /// new connection. But requests that wait for a relay to prove its name go only to a peer that has proven it; any
    /// other peer that comes is one more connection with the same relay, as far as it is believed.
    fn take_over_dial(&mut self, this: SessionRef, giver: Giver, comer: PeerRef, transit: &Transit) -> bool {
        let Some(session) = self.sessions.get_mut(this) else {
            return false;
        };
        let OuterSide::Bound { to, known } = &mut session.outer else {
            return false;
        };
        let Neighbour::Peer(dialled) = *to else {
            return false;
        };
        let previous = transit.received_from_path().first().unwrap_or_default();
        let Some(dial) = self
            .peers
            .get_mut(dialled.key)
            .filter(|peer| dialled == peer.me && !peer.phase.is_up() && known.contain(previous))
        else {
            return false;
        };
        if dial.names.is_some() && giver != Giver::Relay {
            session.take_relay_connection(
                RelayConnection { inside: false, peer: comer },
                transit,
                &mut self.core,
            );
            return true;
        }
        if session.next_relay.as_ref().is_some_and(|ahead| ahead.peer == dialled) {
            session.next_relay = None;
        }
        *to = Neighbour::Peer(comer);
        session.far = Some((*to, Arc::clone(&known.latest)));
        for running in session.running.iter_mut().filter(|r| r.next == Neighbour::Peer(dialled)) {
            running.next = Neighbour::Peer(comer);
        }
        let queued = dial.out.release();
        let chunk_max = self.core.settings.max_chunk.of_uri(previous);
        dial.bound.clear();
        self.core.count_link(comer.core);
        self.core.tell_peer(comer, PeerStep::Bind { session: this, chunk_max });
        for step in queued {
            if let Some(stream) = step.stream() {
                self.lend(stream, comer.core, step.cost());
            }
            self.core.tell_peer(comer, step);
        }
        self.peers.close(dialled.key, CloseReason::SessionOver, &mut self.core);
        true
    }

    /// Opens a connection for a session. If that fails, `user` is to blame.
    fn dial(
        &mut self,
        session: SessionRef,
        target: Target,
        user: Option<UserKey>,
    ) -> Result<PeerRef, Refusal> {
        let core = &mut self.core;
        let is_banned = |user| core.bans.is_banned(Who::User(user), Offence::Dial, core.now);
        if user.is_some_and(is_banned) {
            return Err((Status::TIMEOUT, "too many next hops of this user could not be reached"));
        }
        let client = self.sessions.get(session).and_then(|session| session.inner(core.me));
        let blamed = user.map(|user| Blamed { user, client });
        // A request to a client behind a relay that has to be called uses no turn of that client's user.
        let who = user.and_then(|_| self.sessions.in_turn_of(session));
        let who = who.unwrap_or_else(|| Who::User(UserKey::of_relay(&target.host)));
        let dialled = self.peers.dial(session, target, (blamed, who), core);
        dialled.map_err(|_| (Status::TIMEOUT, "too many connections"))
    }

    /// Bytes of a request go where a session sends them. The core that received them keeps the books.
    pub(crate) fn lend(&mut self, stream: StreamId, to: CoreId, bytes: usize) {
        let me = self.core.me;
        if stream.peer.core == me {
            if let Some(peer) = self.peers.get_mut(stream.peer.key) {
                peer.lend(to, bytes);
            }
        } else if to != me {
            self.core.tell_peer(stream.peer, PeerStep::Lent { from: me, holder: to, bytes });
        }
    }
}

impl Sessions {
    /// The end of a request: passed on, and a SEND answered to the hop before (req F6).
    pub(crate) fn on_end(&mut self, this: SessionRef, stream: StreamId, flag: Flag, core: &mut Core) {
        let running = self.get_mut(this).and_then(|session| session.take_running(stream));
        let Some(running) = running else {
            if let Some(failure) = core.orphans.end(Neighbour::Session(this), stream, flag) {
                core.post(failure.into_message());
            }
            return;
        };
        running.end(flag, core);
        if !running.giver.is_connection() {
            return;
        }
        if running.transit.method() == Method::Send {
            let answered = running.transit.head.failure_report() == FailureReport::Yes;
            core.tell_peer(
                stream.peer,
                PeerStep::Answer { sequence: stream.sequence, status: answered.then_some(Status::OK) },
            );
        } else if flag == Flag::Aborted {
            // The far end will not answer a request that was never complete.
            core.tell_peer(stream.peer, PeerStep::Answer { sequence: stream.sequence, status: None });
        }
    }

    pub(super) fn is_linked(&self, session: SessionRef, other: SessionRef) -> bool {
        self.get(session).is_some_and(|session| session.is_bound_to(Neighbour::Session(other)))
    }
}

impl Core {
    fn count_link(&mut self, other: CoreId) {
        let counter =
            if other == self.me { &mut self.stats.links_local } else { &mut self.stats.links_split };
        *counter += 1;
    }
}
