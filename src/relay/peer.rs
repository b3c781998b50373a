//! One connection: what is being received on it, what it waits for, whom it serves.
//!
//! Owns: the request being received, the requests it still owes an answer to (answered at most
//! once: an answer takes the entry away), the octets received from it that are still in this
//! process, and therefore whether it is read from. RFC 4975, 7.1 and 7.2; RFC 4976, 6.2 and 6.4.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::mem;

use bytes::Bytes;

use super::auth::AuthState;
use super::forward::{Outbound, unwritten_failure};
use super::ids::{CoreId, PeerKey, PeerRef, SessionId, SessionKey, StreamId, Tid};
use super::message::{Giver, Hop, Message, Outer, Transit};
use super::orphan::Failure;
use super::session::Sessions;
use super::{CloseReason, Core, Effect, Effects, Event, Limits, Relay, Transport};
use crate::proto::head::{Head, Kind, Method, Rewrite};
use crate::proto::parser::Flag;
use crate::proto::status::Status;
use crate::proto::uri::MsrpUri;
use crate::proto::write::{FrameWriter, write_end_line};

/// The body of a request other than SEND is no longer than this (RFC 4975, 7.1).
const NON_SEND_BODY_MAX: usize = 10_240;
/// Answers a connection has not taken off our hands, in octets, at which we stop reading its requests.
const CONTROL_OCTETS_MAX: usize = 64 << 10;
/// ... and at which the far end's own responses are dropped: they are as long as it likes.
const REPLY_OCTETS_MAX: usize = 4 * CONTROL_OCTETS_MAX;

/// A connection and everything this core knows about it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) me: PeerRef,
    pub(crate) transport: Transport,
    pub(crate) role: Role,
    pub(crate) auth: Option<Box<AuthState>>,
    incoming: Incoming,
    sequence: u32,
    pub(crate) unanswered: VecDeque<Unanswered>,
    /// Octets of heads kept for the unanswered.
    unanswered_octets: usize,
    /// Octets received and not yet written out or dropped: what its sender has used of its credit.
    pub(crate) outstanding: usize,
    /// How many of those other cores hold; they go with their core.
    lent: Vec<(CoreId, usize)>,
    paused: bool,
    pub(crate) woken: bool,
    pub(crate) closing: bool,
    alarm_set: bool,
    pub(crate) out: Outbound,
    /// Sessions whose outer side this connection is.
    pub(crate) bound: Vec<SessionId>,
}

/// What a connection is to us.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Accepted; it has not authenticated, and may be a foreign endpoint or relay.
    Foreign,
    /// It authenticated: the inner side of these sessions (two while a URI is being replaced).
    Client { sessions: Vec<SessionKey> },
    /// We are connecting; what is queued waits.
    Dialling,
    /// We connected, for one session.
    Dialled,
}

/// The frame being received.
#[derive(Debug)]
enum Incoming {
    Nothing,
    /// A request on its way to a session.
    Request {
        session: SessionId,
        stream: StreamId,
        /// Body octets that may still come.
        room: usize,
    },
    /// An AUTH for us, judged when it is complete.
    Auth {
        transit: Transit,
        room: usize,
    },
    /// Something already dealt with: what is left of it is dropped.
    Dropped,
}

/// A request that will be answered.
#[derive(Debug)]
pub(crate) struct Unanswered {
    sequence: u32,
    session: SessionId,
    transit: Transit,
}

impl Peer {
    pub(crate) fn accepted(me: PeerRef, transport: Transport) -> Self {
        Self::new(me, transport, Role::Foreign)
    }

    pub(crate) fn dialling(me: PeerRef, transport: Transport) -> Self {
        Self::new(me, transport, Role::Dialling)
    }

    fn new(me: PeerRef, transport: Transport, role: Role) -> Self {
        Self {
            me,
            transport,
            role,
            auth: None,
            incoming: Incoming::Nothing,
            sequence: 0,
            unanswered: VecDeque::new(),
            unanswered_octets: 0,
            outstanding: 0,
            lent: Vec::new(),
            paused: false,
            woken: false,
            closing: false,
            alarm_set: false,
            out: Outbound::default(),
            bound: Vec::new(),
        }
    }

    /// Asks for a write, once.
    pub(crate) fn wake(&mut self, fx: &mut Effects) {
        if !self.woken && self.role != Role::Dialling {
            self.woken = true;
            fx.push(Effect::Wake(self.me.key));
        }
    }

    /// Starts or stops reading as the queues demand.
    pub(crate) fn update_pause(&mut self, limits: &Limits, fx: &mut Effects) {
        let busy = self.auth.as_ref().is_some_and(|a| a.is_waiting())
            || self.out.control_len() >= CONTROL_OCTETS_MAX
            || self.unanswered.len() >= limits.transactions_per_peer_max
            || self.unanswered_octets >= limits.queue_octets_high;
        let bound = if self.paused { limits.queue_octets_low } else { limits.queue_octets_high };
        let pause = busy || self.outstanding > bound;
        if pause != self.paused {
            self.paused = pause;
            if pause && self.out.transactions.is_full(limits.transactions_per_peer_max) {
                // Writing does not wait for answers that are not read.
                self.wake(fx);
            }
            fx.push(if pause { Effect::Pause(self.me.key) } else { Effect::Resume(self.me.key) });
        }
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Makes sure that somebody looks when the oldest open transaction has waited too long.
    pub(crate) fn set_alarm(&mut self, core: &mut Core) {
        if !self.alarm_set
            && let Some(at) = self.out.transactions.deadline()
        {
            self.alarm_set = true;
            core.alarms.push(Reverse((at, self.me.key)));
        }
    }

    /// Answers a request received here: hop by hop, To-Path is the previous hop alone, From-Path
    /// the URI it addressed (RFC 4975, 7.2), both exactly as sent.
    pub(crate) fn respond(
        &mut self,
        transit: &Transit,
        status: Status,
        comment: Option<&str>,
        fx: &mut Effects,
    ) {
        let octets = &transit.octets;
        let to = response_to_path(transit);
        let from = transit.head.to_path(octets).first().unwrap_or_default();
        FrameWriter::response(self.out.control(), transit.head.tid(octets), status, comment)
            .header("To-Path", to)
            .header("From-Path", from)
            .end(Flag::Last);
        self.wake(fx);
    }

    fn take_unanswered(&mut self, sequence: u32) -> Option<Transit> {
        let index = self.unanswered.iter().position(|u| u.sequence == sequence)?;
        let transit = self.unanswered.remove(index)?.transit;
        self.unanswered_octets -= transit.cost();
        Some(transit)
    }

    /// Octets received here go to another core.
    pub(crate) fn lend(&mut self, to: CoreId, octets: usize) {
        if to == self.me.core {
            return;
        }
        match self.lent.iter_mut().find(|(core, _)| *core == to) {
            Some((_, lent)) => *lent += octets,
            None => self.lent.push((to, octets)),
        }
    }

    /// Octets have left the process. What a core gives back that has died meanwhile is void.
    fn settle(&mut self, from: CoreId, octets: usize) {
        let settled = if from == self.me.core {
            octets
        } else {
            let Some(index) = self.lent.iter().position(|(core, _)| *core == from) else {
                return;
            };
            let (_, lent) = &mut self.lent[index];
            debug_assert!(*lent >= octets, "more given back than was lent");
            let settled = octets.min(*lent);
            *lent -= settled;
            if *lent == 0 {
                self.lent.swap_remove(index);
            }
            settled
        };
        debug_assert!(self.outstanding >= settled, "credited twice");
        self.outstanding = self.outstanding.saturating_sub(settled);
    }

    /// A core is gone, and with it what it held.
    fn write_off(&mut self, gone: CoreId) {
        if let Some(index) = self.lent.iter().position(|(core, _)| *core == gone) {
            let (_, lent) = self.lent.swap_remove(index);
            self.outstanding = self.outstanding.saturating_sub(lent);
        }
    }

    /// Answers all requests whose session is no longer able to.
    pub(crate) fn answer_all(&self, core: &mut Core, fx: &mut Effects, lost: impl Fn(SessionId) -> bool) {
        let running = match &self.incoming {
            Incoming::Request { session, stream, .. } if lost(*session) => Some(stream.sequence),
            _ => None,
        };
        let waiting = self.unanswered.iter().filter(|u| lost(u.session));
        for sequence in waiting.map(|u| u.sequence).chain(running) {
            let peer = self.me;
            core.post(
                Message::Answer { stream: StreamId { peer, sequence }, status: Some(Status::NO_SESSION) },
                fx,
            );
        }
    }

    /// Drops what is left of a request that has been refused while it comes in.
    fn drop_rest_of(&mut self, sequence: u32) {
        if let Incoming::Request { stream, .. } = &self.incoming
            && stream.sequence == sequence
        {
            self.incoming = Incoming::Dropped;
        }
    }
}

/// Where a response goes: for SEND the previous hop alone, for everything else, which is answered
/// end to end, the whole way back (RFC 4975, 7.2; RFC 4976, 6.4.3).
pub(crate) fn response_to_path(transit: &Transit) -> &[u8] {
    let from_path = transit.received_from_path();
    match transit.method() {
        Method::Send => from_path.first().unwrap_or_default(),
        _ => from_path.as_bytes(),
    }
}

impl Relay {
    pub(crate) fn on_head(&mut self, key: PeerKey, head: Head, octets: Bytes, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let transit = Transit::new(head, octets);
        peer.incoming = Incoming::Dropped;
        if peer.closing {
            return;
        }
        match head.kind() {
            // A response that cannot be read is dropped (RFC 4976, 6.4.3), one with a wrong path not.
            Kind::Response(_) if head.defect().is_some() => self.core.stats.strays_dropped += 1,
            Kind::Response(status) => self.on_response(key, status, transit, fx),
            Kind::Request(_) if head.defect().is_some() => self.on_defect(key, &transit, fx),
            Kind::Request(Method::Auth) if transit.to_path().len() == 1 => {
                peer.incoming = Incoming::Auth { transit: transit.compact(), room: NON_SEND_BODY_MAX };
            }
            Kind::Request(method) => self.on_request_head(key, method, transit, fx),
        }
    }

    /// The frame is delimited but its head is wrong: 400 where a response is due (norm C4).
    fn on_defect(&mut self, key: PeerKey, transit: &Transit, fx: &mut Effects) {
        let readable = !transit.received_from_path().is_empty() && !transit.to_path().is_empty();
        if let Some(peer) = self.peers.get_mut(key).filter(|_| readable && transit.wants_answer()) {
            peer.respond(transit, Status::BAD_REQUEST, None, fx);
            peer.update_pause(&self.core.settings.limits, fx);
        }
        fx.event(Event::RequestRefused { session: None, status: Status::BAD_REQUEST, why: "malformed head" });
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
        if method == Method::Other && !self.core.settings.allow_other_methods {
            peer.respond(&transit, Status::NOT_IMPLEMENTED, None, fx);
            return;
        }
        let session =
            transit.to_path().first().and_then(named_session).filter(|id| self.core.is_alive(id.home()));
        let Some(session) = session else {
            if transit.wants_answer() {
                peer.respond(&transit, Status::NO_SESSION, None, fx);
                peer.update_pause(&self.core.settings.limits, fx);
            }
            fx.event(Event::RequestRefused {
                session: None,
                status: Status::NO_SESSION,
                why: "no such session",
            });
            return;
        };
        peer.incoming = Incoming::Request {
            session,
            stream,
            room: if method == Method::Send { usize::MAX } else { NON_SEND_BODY_MAX },
        };
        if transit.wants_answer() {
            // Requests answered end to end wait long: they must not hold a read buffer meanwhile.
            let kept = if method == Method::Send { transit.clone() } else { transit.clone().compact() };
            peer.unanswered_octets += kept.cost();
            peer.unanswered.push_back(Unanswered { sequence: stream.sequence, session, transit: kept });
        }
        peer.outstanding += transit.cost();
        peer.lend(session.home(), transit.cost());
        peer.update_pause(&self.core.settings.limits, fx);
        self.core.post(Message::Request { session, giver: Giver::Peer, stream, transit }, fx);
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
        peer.update_pause(&self.core.settings.limits, fx);
        self.core.post(Message::Body { session, stream, octets }, fx);
    }

    fn refuse_long_body(&mut self, key: PeerKey, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let refused = match &peer.incoming {
            Incoming::Request { stream, .. } => peer.take_unanswered(stream.sequence),
            Incoming::Auth { transit, .. } => Some(transit.clone()),
            Incoming::Nothing | Incoming::Dropped => None,
        };
        if let Some(transit) = refused {
            peer.respond(&transit, Status::BAD_REQUEST, None, fx);
        }
        self.close_peer(key, CloseReason::BodyTooLong, fx);
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
    }

    /// A response: only the transaction id says what it belongs to (norm Q2).
    fn on_response(&mut self, key: PeerKey, status: Status, mut transit: Transit, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let tid = Tid::from_wire(transit.head.tid(&transit.octets));
        let max = self.core.settings.limits.transactions_per_peer_max;
        let was_full = peer.out.transactions.is_full(max);
        let Some(notice) = tid.and_then(|tid| peer.out.answered(tid)) else {
            self.core.stats.strays_dropped += 1;
            return;
        };
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
    fn fail(&mut self, key: PeerKey, failure: Failure, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let source = failure.notice.stream.peer;
        let (dropped, message) = peer.out.fail(failure);
        peer.wake(fx);
        self.core.credit(source, dropped, fx);
        if let Some(message) = message {
            self.core.post(message, fx);
        }
    }

    /// What becomes of a request received here has been decided.
    pub(crate) fn on_answer(&mut self, stream: StreamId, status: Option<Status>, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(stream.peer.key) else {
            return;
        };
        let transit = peer.take_unanswered(stream.sequence);
        if let Some(status) = status {
            if !status.is_success() {
                peer.drop_rest_of(stream.sequence);
            }
            if let Some(transit) = transit {
                peer.respond(&transit, status, None, fx);
            }
        }
        peer.update_pause(&self.core.settings.limits, fx);
    }

    /// The far end's response goes back under the transaction id the request had here.
    pub(crate) fn on_reply(&mut self, stream: StreamId, reply: &Transit, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(stream.peer.key) else {
            return;
        };
        let Some(request) = peer.take_unanswered(stream.sequence) else {
            return;
        };
        // Somebody who does not read cannot be sent to without end.
        if peer.out.control_len() >= REPLY_OCTETS_MAX {
            return peer.update_pause(&self.core.settings.limits, fx);
        }
        let tid = request.head.tid(&request.octets);
        let rewrite = Rewrite { tid, moves: usize::from(reply.moves), byte_range: None };
        let control = peer.out.control();
        reply.head.rewrite(&reply.octets, &rewrite, control);
        write_end_line(control, tid, Flag::Last, false);
        peer.wake(fx);
        peer.update_pause(&self.core.settings.limits, fx);
    }

    pub(crate) fn on_frame(&mut self, peer: PeerRef, octets: &[u8], fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(peer.key) else {
            return;
        };
        peer.out.control().extend_from_slice(octets);
        peer.wake(fx);
        peer.update_pause(&self.core.settings.limits, fx);
    }

    pub(crate) fn on_credit(&mut self, peer: PeerRef, from: CoreId, octets: usize, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(peer.key) else {
            return;
        };
        peer.settle(from, octets);
        peer.update_pause(&self.core.settings.limits, fx);
    }

    pub(crate) fn on_open(
        &mut self,
        to: PeerRef,
        hop: Hop,
        stream: StreamId,
        transit: Transit,
        fx: &mut Effects,
    ) {
        if let Some(peer) = self.peers.get_mut(to.key).filter(|p| !p.closing) {
            peer.out.open(stream, hop, transit);
            peer.wake(fx);
            return;
        }
        self.core.credit(stream.peer, transit.cost(), fx);
        if let Some(failure) = unwritten_failure(stream, hop, transit) {
            self.core.orphans.adopt(Outer::Peer(to), failure);
        }
    }

    pub(crate) fn on_piece(&mut self, to: PeerRef, stream: StreamId, octets: Bytes, fx: &mut Effects) {
        let len = octets.len();
        let unwanted = match self.peers.get_mut(to.key) {
            Some(peer) => {
                let unwanted = peer.out.piece(stream, octets);
                if unwanted.is_none() {
                    peer.wake(fx);
                }
                unwanted
            }
            None => Some(len),
        };
        if let Some(octets) = unwanted {
            self.core.orphans.count(Outer::Peer(to), stream, octets);
            self.core.credit(stream.peer, octets, fx);
        }
    }

    pub(crate) fn on_close(&mut self, to: PeerRef, stream: StreamId, flag: Flag, fx: &mut Effects) {
        let peer = self.peers.get_mut(to.key);
        let failure = match peer.filter(|p| p.out.expects(stream)) {
            Some(peer) => {
                let failure = peer.out.close(stream, flag);
                peer.wake(fx);
                failure
            }
            None => self.core.orphans.end(Outer::Peer(to), stream, flag),
        };
        if let Some(failure) = failure {
            self.core.post(failure.into_message(), fx);
        }
    }

    pub(crate) fn on_bind(&mut self, to: PeerRef, session: SessionId, fx: &mut Effects) {
        match self.peers.get_mut(to.key).filter(|p| !p.closing) {
            Some(peer) => peer.bound.push(session),
            None => self.core.post(
                Message::OuterLost {
                    session,
                    outer: Outer::Peer(to),
                    was_up: true,
                    status: Status::NO_SESSION,
                },
                fx,
            ),
        }
    }

    pub(crate) fn on_unbind(&mut self, to: PeerRef, session: SessionId, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(to.key) else {
            return;
        };
        peer.bound.retain(|s| *s != session);
        let ours = matches!(peer.role, Role::Dialling | Role::Dialled);
        if ours && peer.bound.is_empty() {
            self.close_peer(to.key, CloseReason::SessionOver, fx);
        }
    }

    pub(crate) fn on_connected(&mut self, key: PeerKey, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        peer.role = Role::Dialled;
        peer.wake(fx);
        if peer.closing {
            fx.push(Effect::Close { peer: key, reason: CloseReason::SessionOver });
        }
    }

    pub(crate) fn close_all_peers(&mut self, fx: &mut Effects) {
        let keys: Vec<PeerKey> = self.peers.keys().collect();
        for key in keys {
            self.close_peer(key, CloseReason::Stopping, fx);
        }
    }

    /// No more is read; what is queued is written; then the connection closes. For everybody else a
    /// connection that is closed for a fault of its peer's is gone at once: others do not wait
    /// until it has taken what it was sent.
    pub(crate) fn close_peer(&mut self, key: PeerKey, reason: CloseReason, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        if peer.closing {
            return;
        }
        peer.closing = true;
        if reason == CloseReason::Stopping {
            // What others have sent it is still delivered; what it was sending breaks off here.
            break_off(peer, &mut self.core, fx);
        } else if reason != CloseReason::SessionOver {
            sever(peer, &mut self.core, &self.sessions, fx);
        } else if peer.role == Role::Dialling && !peer.out.is_empty() {
            // Once it is up, what its client left is still delivered.
            return;
        }
        fx.push(Effect::Close { peer: key, reason });
        peer.wake(fx);
    }

    /// The connection is gone.
    pub(crate) fn lose_peer(&mut self, key: PeerKey, fx: &mut Effects) {
        if let Some(mut peer) = self.peers.remove(key) {
            sever(&mut peer, &mut self.core, &self.sessions, fx);
        }
    }

    /// The oldest open transaction of a connection may have waited too long.
    pub(crate) fn on_alarm(&mut self, key: PeerKey, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        peer.alarm_set = false;
        while let Some(notice) =
            self.peers.get_mut(key).and_then(|p| p.out.transactions.expire(self.core.now))
        {
            let status = Status::TIMEOUT;
            self.fail(key, Failure { notice, status }, fx);
        }
        if let Some(peer) = self.peers.get_mut(key) {
            peer.wake(fx);
            peer.set_alarm(&mut self.core);
        }
    }

    /// A core died with all its connections and sessions: local ones end what they had with it.
    pub(crate) fn forget_core(&mut self, gone: CoreId, fx: &mut Effects) {
        self.core.orphans.forget_core(gone);
        for peer in self.peers.values_mut() {
            peer.bound.retain(|session| session.home() != gone);
            peer.write_off(gone);
            peer.answer_all(&mut self.core, fx, |session| session.home() == gone);
            for stream in peer.out.streams_from(gone) {
                self.core.post(Message::Close { peer: peer.me, stream, flag: Flag::Aborted }, fx);
            }
            peer.update_pause(&self.core.settings.limits, fx);
        }
        self.forget_core_in_sessions(gone, fx);
    }
}

/// Whoever waits for something from a connection is told that it is gone, in this order: senders of
/// requests that did not get through; receivers of the request that broke off; its sessions.
fn sever(peer: &mut Peer, core: &mut Core, sessions: &Sessions, fx: &mut Effects) {
    let loss = peer.out.lose();
    for (source, octets) in loss.credits {
        core.credit(source, octets, fx);
    }
    for failure in loss.orphans {
        core.orphans.adopt(Outer::Peer(peer.me), failure);
    }
    for notice in loss.notices {
        let status = Status::TIMEOUT;
        core.post(Message::Failed { notice, status }, fx);
    }
    break_off(peer, core, fx);
    peer.unanswered.clear();
    peer.unanswered_octets = 0;
    let was_up = peer.role != Role::Dialling;
    for session in mem::take(&mut peer.bound) {
        core.post(
            Message::OuterLost {
                session,
                outer: Outer::Peer(peer.me),
                was_up,
                status: if was_up { Status::NO_SESSION } else { Status::TIMEOUT },
            },
            fx,
        );
    }
    if let Role::Client { sessions: own } = &mut peer.role {
        for session in mem::take(own).into_iter().filter_map(|s| sessions.id_of(s)) {
            core.post(Message::InnerLost { session }, fx);
        }
    }
}

/// No more comes of the request that is coming in: its receivers are told.
fn break_off(peer: &mut Peer, core: &mut Core, fx: &mut Effects) {
    if let Incoming::Request { session, stream, .. } = peer.incoming {
        let flag = Flag::Aborted;
        core.post(Message::End { session, stream, flag }, fx);
    }
    peer.incoming = Incoming::Dropped;
}

/// The session a URI names, if this relay can have minted it.
pub(crate) fn named_session(uri: &[u8]) -> Option<SessionId> {
    MsrpUri::parse(uri).ok()?.session_id().and_then(SessionId::parse)
}
