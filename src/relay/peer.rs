//! One connection: what is being received on it, what it waits for, whom it serves.
//!
//! Owns: the request being received, the requests it still owes an answer to (answered at most
//! once: an answer takes the entry away), the octets received from it that are still in this
//! process, and therefore whether it is read from. RFC 4975, 7.1 and 7.2; RFC 4976, 6.2 and 6.4.

use std::cmp::Reverse;
use std::collections::VecDeque;

use bytes::Bytes;

use super::auth::AuthState;
use super::forward::Outbound;
use super::ids::{CoreId, PeerKey, PeerRef, SessionId, SessionKey, StreamId, Tid};
use super::message::{Giver, Hop, Message, Outer, Transit};
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
    /// Octets received and not yet written out or dropped: what its sender has used of its credit.
    pub(crate) outstanding: usize,
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
        body_octets: usize,
        is_send: bool,
    },
    /// An AUTH for us, judged when it is complete.
    Auth {
        transit: Transit,
        body_octets: usize,
    },
    /// Something already dealt with: what is left of it is dropped.
    Dropped,
}

/// A request that will be answered.
#[derive(Debug)]
pub(crate) struct Unanswered {
    sequence: u32,
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
            outstanding: 0,
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
            || self.unanswered.len() >= limits.transactions_per_peer_max;
        let bound = if self.paused {
            limits.queue_octets_low
        } else {
            limits.queue_octets_high
        };
        let pause = busy || self.outstanding > bound;
        if pause != self.paused {
            self.paused = pause;
            fx.push(if pause {
                Effect::Pause(self.me.key)
            } else {
                Effect::Resume(self.me.key)
            });
        }
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
        FrameWriter::response(
            self.out.control(),
            transit.head.tid(octets),
            status,
            comment,
        )
        .header("To-Path", to)
        .header("From-Path", from)
        .end(Flag::Last);
        self.wake(fx);
    }

    fn take_unanswered(&mut self, sequence: u32) -> Option<Transit> {
        let index = self
            .unanswered
            .iter()
            .position(|u| u.sequence == sequence)?;
        self.unanswered.remove(index).map(|u| u.transit)
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
            Kind::Response(status) => self.on_response(key, status, transit, fx),
            Kind::Request(_) if head.defect().is_some() => self.on_defect(key, &transit, fx),
            Kind::Request(Method::Auth) if transit.to_path().len() == 1 => {
                peer.incoming = Incoming::Auth {
                    transit: transit.compact(),
                    body_octets: 0,
                };
            }
            Kind::Request(method) => self.on_request_head(key, method, transit, fx),
        }
    }

    /// The frame is delimited but its head is wrong: 400 where a response is due (norm C4).
    fn on_defect(&mut self, key: PeerKey, transit: &Transit, fx: &mut Effects) {
        let readable = !transit.received_from_path().is_empty() && !transit.to_path().is_empty();
        if let Some(peer) = self
            .peers
            .get_mut(key)
            .filter(|_| readable && transit.wants_answer())
        {
            peer.respond(transit, Status::BAD_REQUEST, None, fx);
            peer.update_pause(&self.core.settings.limits, fx);
        }
        fx.event(Event::RequestRefused {
            session: None,
            status: Status::BAD_REQUEST,
            why: "malformed head",
        });
    }

    /// A request to be forwarded: its first To-Path URI says which session's home decides.
    fn on_request_head(
        &mut self,
        key: PeerKey,
        method: Method,
        transit: Transit,
        fx: &mut Effects,
    ) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        peer.sequence = peer.sequence.wrapping_add(1);
        let stream = StreamId {
            peer: peer.me,
            sequence: peer.sequence,
        };
        if method == Method::Send {
            self.core.stats.chunks_in += 1;
        }
        if method == Method::Other && !self.core.settings.allow_other_methods {
            peer.respond(&transit, Status::NOT_IMPLEMENTED, None, fx);
            return;
        }
        let session = transit
            .to_path()
            .first()
            .and_then(named_session)
            .filter(|id| self.core.is_alive(id.home()));
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
            body_octets: 0,
            is_send: method == Method::Send,
        };
        if transit.wants_answer() {
            // Requests answered end to end wait long: they must not hold a read buffer meanwhile.
            let kept = if method == Method::Send {
                transit.clone()
            } else {
                transit.clone().compact()
            };
            peer.unanswered.push_back(Unanswered {
                sequence: stream.sequence,
                transit: kept,
            });
        }
        peer.outstanding += transit.cost();
        peer.update_pause(&self.core.settings.limits, fx);
        self.core.post(
            Message::Request {
                session,
                giver: Giver::Peer,
                stream,
                transit,
            },
            fx,
        );
    }

    pub(crate) fn on_body(&mut self, key: PeerKey, octets: Bytes, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        if let Incoming::Auth { body_octets, .. } = &mut peer.incoming {
            *body_octets = body_octets.saturating_add(octets.len());
            if *body_octets > NON_SEND_BODY_MAX {
                let incoming = std::mem::replace(&mut peer.incoming, Incoming::Dropped);
                if let Incoming::Auth { transit, .. } = incoming {
                    peer.respond(&transit, Status::BAD_REQUEST, None, fx);
                }
                self.close_peer(key, CloseReason::BodyTooLong, fx);
            }
            return;
        }
        let Incoming::Request {
            session,
            stream,
            body_octets,
            is_send,
        } = &mut peer.incoming
        else {
            return;
        };
        *body_octets = body_octets.saturating_add(octets.len());
        let (session, stream) = (*session, *stream);
        if *is_send {
            self.core.stats.body_octets_in += octets.len() as u64;
        } else if *body_octets > NON_SEND_BODY_MAX {
            peer.incoming = Incoming::Dropped;
            self.core.post(
                Message::End {
                    session,
                    stream,
                    flag: Flag::Aborted,
                },
                fx,
            );
            self.core.post(
                Message::Answer {
                    stream,
                    status: Some(Status::BAD_REQUEST),
                },
                fx,
            );
            self.close_peer(key, CloseReason::BodyTooLong, fx);
            return;
        }
        peer.outstanding += octets.len();
        peer.update_pause(&self.core.settings.limits, fx);
        self.core.post(
            Message::Body {
                session,
                stream,
                octets,
            },
            fx,
        );
    }

    pub(crate) fn on_end(&mut self, key: PeerKey, flag: Flag, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        match std::mem::replace(&mut peer.incoming, Incoming::Nothing) {
            Incoming::Request {
                session, stream, ..
            } => self.core.post(
                Message::End {
                    session,
                    stream,
                    flag,
                },
                fx,
            ),
            Incoming::Auth { transit, .. } => self.on_auth(key, transit, fx),
            Incoming::Nothing | Incoming::Dropped => {}
        }
    }

    /// A response: only the transaction id says what it belongs to (norm Q2).
    fn on_response(
        &mut self,
        key: PeerKey,
        status: Status,
        mut transit: Transit,
        fx: &mut Effects,
    ) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let tid = Tid::from_wire(transit.head.tid(&transit.octets));
        let Some(notice) = tid.and_then(|tid| peer.out.transactions.end(tid)) else {
            self.core.stats.strays_dropped += 1;
            return;
        };
        if peer.out.transactions.len() + 1 == self.core.settings.limits.transactions_per_peer_max {
            peer.wake(fx);
        }
        if notice.method != Method::Send {
            // Answered end to end: our URIs go the way back that they came (RFC 4976, 6.4.3).
            // A response whose To-Path is too short keeps it: the transaction id is what counts (I5).
            transit.moves = if transit.to_path().len() > usize::from(notice.moves) {
                notice.moves
            } else {
                0
            };
            self.core.post(
                Message::Reply {
                    stream: notice.stream,
                    transit: transit.compact(),
                },
                fx,
            );
        } else if !status.is_success() {
            let dropped = peer.out.refuse(notice.stream);
            peer.wake(fx);
            self.core.post(
                Message::Credit {
                    peer: notice.stream.peer,
                    octets: dropped,
                },
                fx,
            );
            self.core.post(Message::Failed { notice, status }, fx);
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
        let tid = request.head.tid(&request.octets);
        let rewrite = Rewrite {
            tid,
            moves: usize::from(reply.moves),
            byte_range: None,
        };
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

    pub(crate) fn on_credit(&mut self, peer: PeerRef, octets: usize, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(peer.key) else {
            return;
        };
        peer.outstanding = peer.outstanding.saturating_sub(octets);
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
        let Some(peer) = self.peers.get_mut(to.key).filter(|p| !p.closing) else {
            // The session will hear that this connection is gone; the octets are dropped here.
            self.core.post(
                Message::Credit {
                    peer: stream.peer,
                    octets: transit.cost(),
                },
                fx,
            );
            return;
        };
        peer.out.open(stream, hop, transit);
        peer.wake(fx);
    }

    pub(crate) fn on_piece(
        &mut self,
        to: PeerRef,
        stream: StreamId,
        octets: Bytes,
        fx: &mut Effects,
    ) {
        let unwanted = match self.peers.get_mut(to.key) {
            Some(peer) => {
                let unwanted = peer.out.piece(stream, octets);
                if unwanted.is_none() {
                    peer.wake(fx);
                }
                unwanted
            }
            None => Some(octets.len()),
        };
        if let Some(octets) = unwanted {
            self.core.post(
                Message::Credit {
                    peer: stream.peer,
                    octets,
                },
                fx,
            );
        }
    }

    pub(crate) fn on_close(&mut self, to: PeerRef, stream: StreamId, flag: Flag, fx: &mut Effects) {
        if let Some(peer) = self.peers.get_mut(to.key) {
            peer.out.close(stream, flag);
            peer.wake(fx);
        }
    }

    pub(crate) fn on_bind(&mut self, to: PeerRef, session: SessionId, fx: &mut Effects) {
        match self.peers.get_mut(to.key) {
            Some(peer) => peer.bound.push(session),
            None => self.core.post(
                Message::OuterLost {
                    session,
                    outer: Outer::Peer(to),
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
            fx.push(Effect::Close {
                peer: key,
                reason: CloseReason::SessionOver,
            });
        }
    }

    /// No more is read; what is queued is written; then the connection closes.
    pub(crate) fn close_peer(&mut self, key: PeerKey, reason: CloseReason, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        if peer.closing {
            return;
        }
        peer.closing = true;
        if peer.role == Role::Dialling {
            if peer.out.is_empty() {
                fx.push(Effect::Close { peer: key, reason });
            }
            return;
        }
        fx.push(Effect::Close { peer: key, reason });
        peer.wake(fx);
    }

    /// The connection is gone: whoever waits for something from it is told, in this order: senders
    /// of requests that did not get through; receivers of the request that broke off; its sessions.
    pub(crate) fn lose_peer(&mut self, key: PeerKey, status: Status, fx: &mut Effects) {
        let Some(mut peer) = self.peers.remove(key) else {
            return;
        };
        let (notices, credits) = peer.out.lose();
        for (source, octets) in credits {
            self.core.post(
                Message::Credit {
                    peer: source,
                    octets,
                },
                fx,
            );
        }
        for notice in notices {
            self.core.post(
                Message::Failed {
                    notice,
                    status: Status::TIMEOUT,
                },
                fx,
            );
        }
        if let Incoming::Request {
            session, stream, ..
        } = peer.incoming
        {
            self.core.post(
                Message::End {
                    session,
                    stream,
                    flag: Flag::Aborted,
                },
                fx,
            );
        }
        for session in peer.bound {
            self.core.post(
                Message::OuterLost {
                    session,
                    outer: Outer::Peer(peer.me),
                    status,
                },
                fx,
            );
        }
        if let Role::Client { sessions } = peer.role {
            for session in sessions
                .into_iter()
                .filter_map(|key| self.sessions.id_of(key))
            {
                self.core.post(Message::InnerLost { session }, fx);
            }
        }
    }

    /// The oldest open transaction of a connection may have waited too long.
    pub(crate) fn on_alarm(&mut self, key: PeerKey, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        peer.alarm_set = false;
        while let Some(notice) = peer.out.transactions.expire(self.core.now) {
            // `partial` is owed a REPORT for a bad response only, not for silence (norm F8).
            let silent_is_fine =
                notice.failure_report == crate::proto::head::FailureReport::Partial;
            if !(notice.method == Method::Send && silent_is_fine) {
                self.core.post(
                    Message::Failed {
                        notice,
                        status: Status::TIMEOUT,
                    },
                    fx,
                );
            }
            peer.wake(fx);
        }
        peer.set_alarm(&mut self.core);
    }

    /// A core died with all its connections and sessions: local ones end what they had with it.
    pub(crate) fn forget_core(&mut self, gone: CoreId, fx: &mut Effects) {
        for peer in self.peers.values_mut() {
            peer.bound.retain(|session| session.home() != gone);
            if let Incoming::Request {
                session, stream, ..
            } = peer.incoming
                && session.home() == gone
            {
                self.core.post(
                    Message::Answer {
                        stream,
                        status: Some(Status::NO_SESSION),
                    },
                    fx,
                );
                // What was under way to that core will never be credited.
                peer.outstanding = 0;
            }
            for stream in peer.out.streams_from(gone) {
                self.core.post(
                    Message::Close {
                        peer: peer.me,
                        stream,
                        flag: Flag::Aborted,
                    },
                    fx,
                );
            }
        }
        for peer in self.peers.values_mut() {
            peer.update_pause(&self.core.settings.limits, fx);
        }
        self.forget_core_in_sessions(gone, fx);
    }
}

/// The session a URI names, if this relay can have minted it.
pub(crate) fn named_session(uri: &[u8]) -> Option<SessionId> {
    MsrpUri::parse(uri)
        .ok()?
        .session_id()
        .and_then(SessionId::parse)
}
