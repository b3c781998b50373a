//! What is received on a connection: frames, as the parser cut them (RFC 4975, 7; RFC 4976, 6.2 to 6.4).
//!
//! Invariant: of everything that comes in, the connection's count of outstanding octets and the core's
//! budget hear at the same place.

use std::mem;

use bytes::Bytes;

use super::life::break_off;
use super::{Incoming, LastRoute, Standing, Unanswered, named_session};
use crate::ids::{PeerKey, StreamId, Tid};
use crate::message::{Giver, Message, Transit};
use crate::newcomers::Stage;
use crate::orphan::Failure;
use crate::{CloseReason, Effects, Event, Limit, Relay};
use msrp_proto::head::{Defect, Head, Kind, Method};
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::uri::MsrpUri;

/// Requests other than SEND of one session that may wait for an answer, on a connection that serves several.
const WAITING_MAX: usize = 32;
/// The body of a request other than SEND is no longer than this (RFC 4975, 7.1).
const NON_SEND_BODY_MAX: usize = 10_240;

impl Relay {
    pub(crate) fn on_head(&mut self, key: PeerKey, head: Head, octets: Bytes, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let transit = Transit::new(head, octets);
        peer.last_used = self.core.now;
        peer.incoming = Incoming::Dropped;
        // A read that was under way when the relay said that it reads no more is not to be answered.
        if peer.closing || self.core.stopping {
            return;
        }
        match head.kind() {
            // A response that cannot be read is dropped (RFC 4976, 6.4.3), one with a wrong path not.
            Kind::Response(_) if head.defect().is_some() => self.core.stats.strays_dropped += 1,
            Kind::Response(status) => self.on_response(key, status, transit, fx),
            Kind::Request(_) if head.defect().is_some() => self.on_defect(key, &transit, fx),
            Kind::Request(Method::Auth) if transit.to_path().len() == 1 => {
                peer.incoming = Incoming::Auth { transit: transit.compact(), room: NON_SEND_BODY_MAX };
                peer.recount(&mut self.core, fx);
            }
            Kind::Request(method) => self.on_request_head(key, method, transit, fx),
        }
    }

    /// The frame is delimited but its head is wrong: 400 where a response is due (norm C4).
    fn on_defect(&mut self, key: PeerKey, transit: &Transit, fx: &mut Effects) {
        if let Some(limit) = transit.head.defect().and_then(limit_of) {
            self.core.bite(limit, Some(key), fx);
        }
        let readable = transit.head.first_from(&transit.octets).is_some();
        self.turn_away(key, transit, readable, (Status::BAD_REQUEST, "malformed head"), fx);
    }

    /// CR and LF between frames keep a connection from being idle. They prove nothing of whoever sends them.
    pub(crate) fn on_blank(&mut self, key: PeerKey, octets: usize, fx: &mut Effects) {
        if let Some(peer) = self.peers.get_mut(key) {
            peer.spend(octets, &mut self.core);
            peer.update_pause(&mut self.core, fx);
        }
    }

    /// Refuses a request that names no session of ours. Who does that too often before anybody has vouched
    /// for it is not a client that lost its way (norm C2).
    fn turn_away(
        &mut self,
        key: PeerKey,
        transit: &Transit,
        readable: bool,
        (status, why): (Status, &'static str),
        fx: &mut Effects,
    ) {
        fx.event(Event::RequestRefused { session: None, status, why });
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        if readable && transit.wants_answer() {
            peer.refuse(transit, status, &self.core.settings, fx);
            peer.update_pause(&mut self.core, fx);
        }
        self.count_refusal(key, fx);
    }

    /// One more request refused to a connection that nobody vouches for.
    pub(crate) fn count_refusal(&mut self, key: PeerKey, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let Standing::Probation { refusals, .. } = &mut peer.standing else {
            return;
        };
        *refusals += 1;
        if *refusals >= self.core.settings.limits.refusals_max {
            self.core.bite(Limit::RefusedRequests, Some(key), fx);
            self.close_peer(key, CloseReason::Refusals, fx);
        }
    }

    /// A request to be forwarded: its first To-Path URI says which session's home decides.
    fn on_request_head(&mut self, key: PeerKey, method: Method, transit: Transit, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        peer.sequence = peer.sequence.wrapping_add(1);
        let stream = StreamId { peer: peer.me, sequence: peer.sequence };
        if method == Method::Send {
            self.core.stats.chunks_in += 1;
        }
        let giver = peer.giver(&transit, &self.core.settings);
        let first = transit.to_path().first().unwrap_or_default();
        let known = peer.last_route.as_ref().filter(|last| last.uri == first).map(|last| last.session);
        let named = match known {
            Some(session) => Some(session),
            None => {
                if !MsrpUri::parse(first).is_ok_and(|uri| self.core.is_ours(&uri)) {
                    return self.on_misaddressed(key, &transit, fx);
                }
                named_session(first)
            }
        };
        if method == Method::Other && !self.core.settings.allow_other_methods {
            let refusal = (Status::NOT_IMPLEMENTED, "methods.allow_other is false");
            return self.turn_away(key, &transit, true, refusal, fx);
        }
        if giver == Giver::Peer && self.core.settings.relays_must_prove && peer.is_unproven_relay(&transit) {
            let refusal = (Status::FORBIDDEN, "request through a relay that has not proven its name");
            return self.turn_away(key, &transit, true, refusal, fx);
        }
        let Some(session) = named.filter(|id| self.core.is_alive(id.home())) else {
            return self.turn_away(key, &transit, true, (Status::NO_SESSION, "no such session"), fx);
        };
        if method == Method::Auth && peer.waiting_by(session).any(|other| other.method() == Method::Auth) {
            return self.turn_away(key, &transit, true, (Status::BAD_REQUEST, "pipelined AUTH"), fx);
        }
        // One session's requests that nobody answers must not keep those of others from being read (norm S14).
        if method != Method::Send && peer.bound.len() > 1 && peer.waiting_by(session).count() >= WAITING_MAX {
            let refusal = (Status::TIMEOUT, "too many requests of this session wait for an answer");
            return self.turn_away(key, &transit, true, refusal, fx);
        }
        if known.is_none() {
            peer.last_route = Some(Box::new(LastRoute { uri: first.to_vec(), session }));
        }
        peer.incoming = Incoming::Request {
            session,
            stream,
            room: if method == Method::Send { usize::MAX } else { NON_SEND_BODY_MAX },
            kept: transit.cost(),
        };
        if transit.wants_answer() {
            // Requests answered end to end wait long: they must not hold a read buffer meanwhile.
            let kept = if method == Method::Send { transit.clone() } else { transit.clone().compact() };
            peer.unanswered_octets += kept.cost();
            peer.unanswered.push_back(Unanswered { sequence: stream.sequence, session, transit: kept });
        }
        match &mut peer.standing {
            Standing::Proven { strays } => *strays = 0,
            Standing::Probation { .. } => peer.advance(Stage::Asking, &mut self.core),
        }
        peer.outstanding += transit.cost();
        peer.lend(session.home(), transit.cost());
        self.core.hold(transit.cost(), fx);
        peer.spend(transit.octets.len(), &mut self.core);
        peer.update_pause(&mut self.core, fx);
        self.core.post(Message::Request { session, giver, stream, transit }, fx);
    }

    /// A request for another host. Whoever sends one to us does not know whom it is talking to: the
    /// connection goes (norm C3), unless sessions live by it, which would all suffer for one frame.
    fn on_misaddressed(&mut self, key: PeerKey, transit: &Transit, fx: &mut Effects) {
        let refusals_max = self.core.settings.limits.refusals_max;
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let is_in_use = peer.is_in_use();
        let spared = match &mut peer.standing {
            Standing::Proven { strays } if is_in_use => {
                *strays += 1;
                *strays < refusals_max
            }
            Standing::Proven { .. } | Standing::Probation { .. } => false,
        };
        if spared {
            return self.turn_away(key, transit, true, (Status::NO_SESSION, "request for another host"), fx);
        }
        self.close_peer(key, CloseReason::Misaddressed, fx);
    }

    pub(crate) fn on_body(&mut self, key: PeerKey, octets: Bytes, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let room = match &mut peer.incoming {
            Incoming::Request { room, .. } | Incoming::Auth { room, .. } => room,
            Incoming::Nothing | Incoming::Dropped => return,
        };
        let Some(left) = room.checked_sub(octets.len()) else {
            return self.refuse_long_body(key, fx);
        };
        *room = left;
        let Incoming::Request { session, stream, .. } = peer.incoming else {
            return;
        };
        self.core.stats.body_octets_in += octets.len() as u64;
        peer.outstanding += octets.len();
        peer.lend(session.home(), octets.len());
        self.core.hold(octets.len(), fx);
        peer.spend(octets.len(), &mut self.core);
        peer.update_pause(&mut self.core, fx);
        self.core.post(Message::Body { session, stream, octets }, fx);
    }

    fn refuse_long_body(&mut self, key: PeerKey, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let refused = match &peer.incoming {
            Incoming::Request { stream, .. } => {
                peer.take_unanswered(stream.sequence).map(|unanswered| unanswered.transit)
            }
            Incoming::Auth { transit, .. } => Some(transit.clone()),
            Incoming::Nothing | Incoming::Dropped => None,
        };
        if let Some(transit) = refused {
            peer.respond(&transit, Status::BAD_REQUEST, None, fx);
        }
        if !peer.is_in_use() {
            return self.close_peer(key, CloseReason::BodyTooLong, fx);
        }
        // The frame ends like any other, and others live by the connection: the rest of it is passed over.
        break_off(peer, &mut self.core, fx);
        peer.update_pause(&mut self.core, fx);
    }

    pub(crate) fn on_end(&mut self, key: PeerKey, flag: Flag, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        match mem::replace(&mut peer.incoming, Incoming::Nothing) {
            Incoming::Request { session, stream, .. } => {
                self.core.post(Message::End { session, stream, flag }, fx)
            }
            Incoming::Auth { transit, .. } => self.on_auth(key, transit, fx),
            Incoming::Nothing | Incoming::Dropped => {}
        }
        if let Some(peer) = self.peers.get_mut(key) {
            peer.recount(&mut self.core, fx);
        }
    }

    /// A read has left so much of something whose rest is to come.
    pub(crate) fn on_unfinished(&mut self, key: PeerKey, bytes: usize, fx: &mut Effects) {
        if let Some(peer) = self.peers.get_mut(key) {
            peer.unfinished = bytes;
            peer.recount(&mut self.core, fx);
        }
        self.shed_newcomers(fx);
    }

    /// A response: only the transaction id says what it belongs to (norm Q2).
    fn on_response(&mut self, key: PeerKey, status: Status, mut transit: Transit, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let tid = Tid::from_wire(transit.head.tid(&transit.octets));
        let was_full = peer.out.transactions.is_full(self.core.room());
        let Some(notice) = tid.and_then(|tid| peer.out.answered(tid)) else {
            self.core.stats.strays_dropped += 1;
            return;
        };
        peer.recount(&mut self.core, fx);
        if was_full {
            peer.wake(fx);
        }
        if notice.method != Method::Send {
            // Answered end to end: our URIs go the way back that they came (RFC 4976, 6.4.3).
            // A response whose To-Path is too short keeps it: the transaction id is what counts (I5).
            transit.moves =
                if transit.to_path().len() > usize::from(notice.moves) { notice.moves } else { 0 };
            self.core.post(Message::Reply { stream: notice.stream, transit: transit.compact() }, fx);
        } else if !status.is_success() {
            self.fail(key, Failure { notice, status }, fx);
        }
    }

    /// The next hop on this connection has refused a request or not answered it in time.
    pub(super) fn fail(&mut self, key: PeerKey, failure: Failure, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let source = failure.notice.stream.peer;
        let (dropped, messages) = peer.out.fail(failure);
        peer.recount(&mut self.core, fx);
        peer.wake(fx);
        self.core.credit(source, dropped, fx);
        for message in messages {
            self.core.post(message, fx);
        }
    }
}

/// The limit that a head exceeds, if that is what is wrong with it.
fn limit_of(defect: Defect) -> Option<Limit> {
    match defect {
        Defect::LineTooLong => Some(Limit::LineBytes),
        Defect::TooManyHeaders => Some(Limit::Headers),
        Defect::CommentTooLong => Some(Limit::CommentBytes),
        Defect::UriTooLong => Some(Limit::UriBytes),
        Defect::TooManyUris => Some(Limit::PathUris),
        Defect::MessageId => Some(Limit::MessageIdBytes),
        _ => None,
    }
}
