//! What sessions and other connections ask of a connection: answers, chunks to be written, credits.

use bytes::Bytes;

use super::{CONTROL_OCTETS_MAX, REPLY_OCTETS_MAX, REPORT_OCTETS_MAX, Role, Unanswered};
use crate::forward::unwritten_failure;
use crate::ids::{CoreId, PeerRef, SessionId, StreamId};
use crate::message::{Hop, Message, Outer, Transit};
use crate::{CloseReason, Effects, Relay};
use msrp_proto::digest::Challenge;
use msrp_proto::head::{Kind, Method, Rewrite};
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::write::write_end_line;

impl Relay {
    /// What becomes of a request received here has been decided.
    pub(crate) fn on_answer(&mut self, stream: StreamId, status: Option<Status>, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(stream.peer.key) else {
            return;
        };
        let transit = peer.take_unanswered(stream.sequence).map(|unanswered| unanswered.transit);
        if status.is_some_and(|status| status.is_success()) {
            peer.prove(&mut self.core, fx);
        }
        if let Some(status) = status {
            if !status.is_success() {
                peer.drop_rest_of(stream.sequence);
            }
            if let Some(transit) = transit {
                peer.respond(&transit, status, None, fx);
            }
        }
        peer.update_pause(&mut self.core, fx);
        if status.is_some_and(|status| !status.is_success()) {
            self.count_refusal(stream.peer.key, fx);
        }
        if self.peers.get(stream.peer.key).is_some_and(|peer| peer.ended) {
            self.close_peer(stream.peer.key, CloseReason::Ended, fx);
        }
    }

    /// The far end's response goes back under the transaction id the request had here.
    pub(crate) fn on_reply(&mut self, stream: StreamId, reply: &Transit, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(stream.peer.key) else {
            return;
        };
        let Some(Unanswered { session, transit: request, .. }) = peer.take_unanswered(stream.sequence) else {
            return;
        };
        if is_failed_auth(&request, reply) {
            self.core.post(Message::Guess { session }, fx);
        }
        // Somebody who does not read cannot be sent to without end.
        let pressed = self.core.budget.is_pressed();
        if peer.out.control_len() >= if pressed { CONTROL_OCTETS_MAX } else { REPLY_OCTETS_MAX } {
            return peer.update_pause(&mut self.core, fx);
        }
        let tid = request.head.tid(&request.octets);
        let rewrite = Rewrite { tid, moves: usize::from(reply.moves), byte_range: None };
        let control = peer.out.control();
        reply.head.rewrite(&reply.octets, &rewrite, control);
        write_end_line(control, tid, Flag::Last, false);
        peer.wake(fx);
        peer.update_pause(&mut self.core, fx);
    }

    /// Nobody will answer what was asked by way of a session.
    pub(crate) fn on_abandoned(&mut self, peer: PeerRef, session: SessionId, fx: &mut Effects) {
        if let Some(peer) = self.peers.get(peer.key) {
            peer.answer_all(&mut self.core, fx, |id| id == session);
        }
    }

    pub(crate) fn on_frame(&mut self, peer: PeerRef, octets: &[u8], fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(peer.key) else {
            return;
        };
        // Whoever takes no answers is not read from, but others' failures go on: beyond that it is told of no more.
        let pressed = self.core.budget.is_pressed();
        if peer.out.control_len() >= if pressed { CONTROL_OCTETS_MAX } else { REPORT_OCTETS_MAX } {
            return peer.update_pause(&mut self.core, fx);
        }
        peer.out.control().extend_from_slice(octets);
        peer.wake(fx);
        peer.update_pause(&mut self.core, fx);
    }

    pub(crate) fn on_credit(&mut self, peer: PeerRef, from: CoreId, octets: usize, fx: &mut Effects) {
        let me = self.core.me;
        // What a core gives back that has died meanwhile is void: it has been written off.
        if from != me && self.core.has_ended(from) {
            return;
        }
        let Some(peer) = self.peers.get_mut(peer.key) else {
            return self.core.budget.free_left_behind(Some(from).filter(|from| *from != me), octets);
        };
        let settled = peer.settle(from, octets);
        self.core.budget.free(settled);
        peer.update_pause(&mut self.core, fx);
    }

    /// What one core was to hold is at another; or was, if that has died before the news came.
    pub(crate) fn on_lent(
        &mut self,
        peer: PeerRef,
        from: CoreId,
        to: CoreId,
        octets: usize,
        fx: &mut Effects,
    ) {
        let me = self.core.me;
        if to != me && self.core.has_ended(to) {
            return self.on_credit(peer, from, octets, fx);
        }
        match self.peers.get_mut(peer.key) {
            Some(peer) => peer.relend(from, to, octets),
            None => self.core.budget.relend_left_behind(from, Some(to).filter(|to| *to != me), octets),
        }
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
            peer.out.open(stream, hop, transit, &mut self.core.spare);
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
                let (dropped, failure) = peer.out.close(stream, flag);
                peer.recount(&mut self.core, fx);
                peer.wake(fx);
                self.core.credit(stream.peer, dropped, fx);
                failure
            }
            None => self.core.orphans.end(Outer::Peer(to), stream, flag),
        };
        if let Some(failure) = failure {
            self.core.post(failure.into_message(), fx);
        }
    }

    pub(crate) fn on_bind(
        &mut self,
        to: PeerRef,
        session: SessionId,
        chunk_max: Option<u32>,
        fx: &mut Effects,
    ) {
        match self.peers.get_mut(to.key).filter(|p| !p.closing) {
            Some(peer) => {
                if peer.bound.is_empty() {
                    peer.out.bound_chunks(chunk_max);
                } else {
                    peer.out.bound_chunks_further(chunk_max);
                }
                peer.bound.push(session);
                peer.prove(&mut self.core, fx);
                peer.update_pause(&mut self.core, fx);
                peer.set_alarm(&mut self.core);
            }
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
        peer.last_used = self.core.now;
        let ours = matches!(peer.role, Role::Dialling | Role::Dialled);
        if ours && peer.bound.is_empty() {
            self.close_peer(to.key, CloseReason::SessionOver, fx);
        } else {
            peer.update_pause(&mut self.core, fx);
            peer.set_alarm(&mut self.core);
        }
    }
}

/// Whether a relay further on has refused credentials, and not merely called them stale (norm A13).
fn is_failed_auth(request: &Transit, reply: &Transit) -> bool {
    let had_credentials =
        request.method() == Method::Auth && request.head.authorization(&request.octets).is_some();
    if !had_credentials || reply.head.kind() != Kind::Response(Status::UNAUTHORIZED) {
        return false;
    }
    let challenge = reply.head.www_authenticate(&reply.octets).map(Challenge::parse);
    !challenge.is_some_and(|challenge| challenge.is_ok_and(|challenge| challenge.stale))
}
