//! What a connection receives: frames, as the parser cut them (RFC 4975, 7; RFC 4976, 6.2 to 6.4).
//!
//! Invariant: everything that comes in is counted at one place, for the connection's outstanding bytes and for the
//! core's budget.

use std::mem;

use bytes::Bytes;

use msrp_proto::head::{Defect, Head, Kind, Method};
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::uri::MsrpUri;

use super::Peers;
use super::lifecycle::break_off;
use super::peer::named_session;
use super::state::{Incoming, LastRoute, Role, Standing};
use crate::api::Event;
use crate::auth::request::AuthRequest;
use crate::core::Core;
use crate::ids::{PeerKey, SessionRef, StreamId, Tid};
use crate::limit::Limit;
use crate::message::{PeerStep, SessionStep};
use crate::orphans::Failure;
use crate::quota::newcomers::Stage;
use crate::reason::CloseReason;
use crate::request::{Giver, Transit};

/// Requests other than SEND of one session that may wait for an answer, on a connection with several sessions.
const WAITING_MAX: usize = 32;
/// The longest body of a request other than SEND (RFC 4975, 7.1).
const NON_SEND_BODY_MAX: usize = 10_240;

impl Peers {
    pub(crate) fn on_head(&mut self, key: PeerKey, head: Head, bytes: Bytes, core: &mut Core) {
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        let transit = Transit::new(head, bytes);
        peer.last_used = core.now;
        peer.receiving.frame = Incoming::Dropped;
        // A read that was under way when the relay stopped reading gets no answer.
        if peer.phase.is_closing() || core.is_stopping() {
            return;
        }
        match head.kind() {
            // A response that cannot be read is dropped (RFC 4976, 6.4.3); one with only a wrong path is not.
            Kind::Response(_) if head.defect().is_some() => core.stats.strays_dropped += 1,
            Kind::Response(status) => self.on_response(key, status, transit, core),
            Kind::Request(_) if head.defect().is_some() => self.on_defect(key, &transit, core),
            Kind::Request(Method::Auth) if transit.to_path().len() == 1 => {
                peer.receiving.frame = Incoming::Auth { transit: transit.compact(), room: NON_SEND_BODY_MAX };
                peer.recount(core);
            }
            Kind::Request(method) => self.on_request_head(key, method, transit, core),
        }
    }

    /// The frame is delimited but its head is wrong: 400 if a response is due (req C4).
    fn on_defect(&mut self, key: PeerKey, transit: &Transit, core: &mut Core) {
        if let Some(limit) = transit.head.defect().and_then(limit_of) {
            core.bite(limit, Some(key));
        }
        self.turn_away(key, transit, (Status::BAD_REQUEST, "malformed head"), core);
    }

    /// CR and LF between frames keep a connection from being idle. They prove nothing about the sender.
    pub(crate) fn on_blank(&mut self, key: PeerKey, bytes: usize, core: &mut Core) {
        if let Some(peer) = self.get_mut(key) {
            peer.spend(bytes, core);
            peer.update_pause(core);
        }
    }

    /// Refuses a request that names no session of ours. A peer that does this too often before it has proven anything
    /// is not a client that lost its way (req C2).
    fn turn_away(
        &mut self,
        key: PeerKey,
        transit: &Transit,
        (status, why): (Status, &'static str),
        core: &mut Core,
    ) {
        core.effects.event(Event::RequestRefused { session: None, status, why });
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        let readable = transit.head.defect().is_none() || transit.head.first_from(&transit.bytes).is_some();
        if readable && transit.wants_answer() {
            peer.refuse(transit, status, core);
            peer.update_pause(core);
        }
        self.count_refusal(key, core);
    }

    /// Counts one more refused request of a connection that has proven nothing.
    pub(crate) fn count_refusal(&mut self, key: PeerKey, core: &mut Core) {
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        let Standing::Probation { refusals, .. } = &mut peer.standing else {
            return;
        };
        *refusals += 1;
        if *refusals >= core.settings.limits.refused_requests_max {
            core.bite(Limit::RefusedRequests, Some(key));
            self.close(key, CloseReason::Refusals, core);
        }
    }

    /// A request to forward: its first To-Path URI says which session decides. That is on the core that minted the id,
    /// unless the session has come here with this connection.
    fn on_request_head(&mut self, key: PeerKey, method: Method, transit: Transit, core: &mut Core) {
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        peer.receiving.sequence = peer.receiving.sequence.wrapping_add(1);
        let stream = StreamId { peer: peer.me, sequence: peer.receiving.sequence };
        if method == Method::Send {
            core.stats.chunks_in += 1;
        }
        if peer.transport.websocket && peer.role == Role::Foreign {
            let refusal = (Status::FORBIDDEN, "request by WebSocket before an AUTH that succeeds");
            return self.turn_away(key, &transit, refusal, core);
        }
        let giver = peer.giver(&transit, &core.settings);
        let first = transit.to_path().first().unwrap_or_default();
        let known =
            peer.receiving.last_route.as_ref().filter(|last| last.uri == first).map(|last| last.session);
        let named = match known {
            Some(session) => Some(session),
            None => {
                if !MsrpUri::parse(first).is_ok_and(|uri| core.settings.is_ours(&uri)) {
                    return self.on_misaddressed(key, &transit, core);
                }
                // One of its own may have come here with it.
                named_session(first).map(|id| peer.find_own(id).unwrap_or_else(|| SessionRef::of_wire(id)))
            }
        };
        if method == Method::Other && !core.settings.methods_allow_other {
            let refusal = (Status::NOT_IMPLEMENTED, "methods.allow_other is false");
            return self.turn_away(key, &transit, refusal, core);
        }
        if giver == Giver::Peer && core.settings.unproven_relays_refused && peer.is_unproven_relay(&transit) {
            let refusal = (Status::FORBIDDEN, "request through a relay that has not proven its name");
            return self.turn_away(key, &transit, refusal, core);
        }
        let Some(session) = named.filter(|session| core.cores.is_alive(session.core)) else {
            return self.turn_away(key, &transit, (Status::NO_SESSION, "no such session"), core);
        };
        if method == Method::Auth && peer.waiting_by(session).any(|other| other.method() == Method::Auth) {
            return self.turn_away(key, &transit, (Status::BAD_REQUEST, "pipelined AUTH"), core);
        }
        // Unanswered requests of one session must not keep those of others from being read (req S14).
        if method != Method::Send && peer.bound.len() > 1 && peer.waiting_by(session).count() >= WAITING_MAX {
            let refusal = (Status::TIMEOUT, "too many requests of this session wait for an answer");
            return self.turn_away(key, &transit, refusal, core);
        }
        if known.is_none() {
            peer.receiving.last_route = Some(Box::new(LastRoute { uri: first.to_vec(), session }));
        }
        peer.receiving.frame = Incoming::Request {
            session,
            stream,
            room: if method == Method::Send { usize::MAX } else { NON_SEND_BODY_MAX },
            kept: transit.cost(),
        };
        if transit.wants_answer() {
            // Requests answered end to end wait long: they must not keep a read buffer in memory meanwhile.
            let kept = if method == Method::Send { transit.clone() } else { transit.clone().compact() };
            peer.unanswered.push(stream.sequence, session, kept);
        }
        match &mut peer.standing {
            Standing::Proven { strays } => *strays = 0,
            Standing::Probation { .. } => peer.advance(Stage::Asking, core),
        }
        peer.credit.outstanding += transit.cost();
        peer.lend(session.core, transit.cost());
        core.hold(transit.cost());
        peer.spend(transit.bytes.len(), core);
        peer.update_pause(core);
        core.tell_session(session, SessionStep::Head { giver, stream, transit });
    }

    /// A request for another host. A peer that sends one to us does not know what it is talking to: the connection ends
    /// (req C3), unless it serves sessions, which would all suffer for one frame.
    fn on_misaddressed(&mut self, key: PeerKey, transit: &Transit, core: &mut Core) {
        let refused_requests_max = core.settings.limits.refused_requests_max;
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        let is_in_use = peer.is_in_use();
        let spared = match &mut peer.standing {
            Standing::Proven { strays } if is_in_use => {
                *strays += 1;
                *strays < refused_requests_max
            }
            Standing::Proven { .. } | Standing::Probation { .. } => false,
        };
        if spared {
            return self.turn_away(key, transit, (Status::NO_SESSION, "request for another host"), core);
        }
        self.close(key, CloseReason::Misaddressed, core);
    }

    pub(crate) fn on_body(&mut self, key: PeerKey, bytes: Bytes, core: &mut Core) {
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        let room = match &mut peer.receiving.frame {
            Incoming::Request { room, .. } | Incoming::Auth { room, .. } => room,
            Incoming::Nothing | Incoming::Dropped => return,
        };
        let Some(left) = room.checked_sub(bytes.len()) else {
            return self.refuse_long_body(key, core);
        };
        *room = left;
        let Incoming::Request { session, stream, .. } = peer.receiving.frame else {
            return;
        };
        core.stats.body_bytes_in += bytes.len() as u64;
        peer.credit.outstanding += bytes.len();
        peer.lend(session.core, bytes.len());
        core.hold(bytes.len());
        peer.spend(bytes.len(), core);
        peer.update_pause(core);
        core.tell_session(session, SessionStep::Body { stream, bytes });
    }

    fn refuse_long_body(&mut self, key: PeerKey, core: &mut Core) {
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        let refused = match &peer.receiving.frame {
            Incoming::Request { stream, .. } => {
                peer.unanswered.take(stream.sequence).map(|unanswered| unanswered.transit)
            }
            Incoming::Auth { transit, .. } => Some(transit.clone()),
            Incoming::Nothing | Incoming::Dropped => None,
        };
        if let Some(transit) = refused {
            peer.respond(&transit, Status::BAD_REQUEST, None, core);
        }
        if !peer.is_in_use() {
            return self.close(key, CloseReason::BodyTooLong, core);
        }
        // The frame ends like any other, and others use the connection: the rest of it is skipped.
        break_off(peer, core);
        peer.update_pause(core);
    }

    /// The frame is complete. Returns the AUTH for this relay, if it was one.
    pub(crate) fn on_end(&mut self, key: PeerKey, flag: Flag, core: &mut Core) -> Option<AuthRequest> {
        let peer = self.get_mut(key)?;
        let request = match mem::replace(&mut peer.receiving.frame, Incoming::Nothing) {
            Incoming::Request { session, stream, .. } => {
                core.tell_session(session, SessionStep::End { stream, flag });
                None
            }
            Incoming::Auth { transit, .. } => Some(AuthRequest::parse(transit, peer.transport.websocket)),
            Incoming::Nothing | Incoming::Dropped => None,
        };
        peer.recount(core);
        request
    }

    /// A read has left this many bytes of something whose rest is still to come.
    pub(crate) fn on_unfinished(&mut self, key: PeerKey, bytes: usize, core: &mut Core) {
        if let Some(peer) = self.get_mut(key) {
            peer.receiving.unfinished = bytes;
            peer.recount(core);
        }
        self.shed_newcomers(core);
    }

    /// A response: only the transaction id says which request it answers (req Q2).
    fn on_response(&mut self, key: PeerKey, status: Status, mut transit: Transit, core: &mut Core) {
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        let tid = Tid::from_wire(transit.head.tid(&transit.bytes));
        let was_full = peer.out.transactions.is_full(core.room());
        let Some(notice) = tid.and_then(|tid| peer.out.answered(tid)) else {
            core.stats.strays_dropped += 1;
            return;
        };
        peer.out.note_answer(core.now);
        peer.recount(core);
        if was_full || peer.out.is_framed() {
            peer.wake(core);
        }
        if notice.method != Method::Send {
            // Answered end to end: our URIs go back the way they came (RFC 4976, 6.4.3). A response whose To-Path is
            // too short keeps it: the transaction id is what counts (I5).
            transit.moves =
                if transit.to_path().len() > usize::from(notice.moves) { notice.moves } else { 0 };
            core.tell_peer(
                notice.stream.peer,
                PeerStep::Reply { sequence: notice.stream.sequence, transit: transit.compact() },
            );
        } else if !status.is_success() {
            self.fail(key, Failure { notice, status }, core);
        }
    }

    /// The next hop on this connection has refused a request, or not answered it in time.
    pub(super) fn fail(&mut self, key: PeerKey, failure: Failure, core: &mut Core) {
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        let source = failure.notice.stream.peer;
        let (dropped, messages) = peer.out.fail(failure);
        peer.recount(core);
        peer.wake(core);
        core.credit(source, dropped);
        for message in messages {
            core.post(message);
        }
    }
}

/// The limit that a head exceeds, if that is its defect.
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
