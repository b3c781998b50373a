//! What sessions and other connections ask of a connection: answers, chunks to write, credits.

use bytes::Bytes;

use msrp_proto::digest::Challenge;
use msrp_proto::head::{Kind, Method, Rewrite};
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::write::write_end_line;

use super::Peers;
use super::peer::{CONTROL_BYTES_MAX, Peer, REPLY_BYTES_MAX, REPORT_BYTES_MAX};
use super::state::{Phase, Role};
use crate::api::Event;
use crate::core::Core;
use crate::ids::{CoreId, PeerKey, PeerRef, SessionRef, StreamId};
use crate::limit::Limit;
use crate::message::SessionStep;
use crate::outbound::current::unwritten_failure;
use crate::quota::who::{Offence, Tally, Who};
use crate::reason::CloseReason;
use crate::request::{Neighbour, SessionSide, Transit};

impl Peers {
    /// The fate of a request received here is decided.
    pub(crate) fn on_answer(&mut self, key: PeerKey, sequence: u32, status: Option<Status>, core: &mut Core) {
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        let transit = peer.unanswered.take(sequence).map(|unanswered| unanswered.transit);
        if status.is_some_and(|status| status.is_success()) {
            peer.prove(core);
        }
        if let Some(status) = status {
            if !status.is_success() {
                peer.drop_rest_of(sequence);
            }
            if let Some(transit) = transit {
                peer.respond(&transit, status, None, core);
            }
        }
        peer.update_pause(core);
        if status.is_some_and(|status| !status.is_success()) {
            self.count_refusal(key, core);
        }
        if self.get(key).is_some_and(|peer| peer.phase == Phase::Ended) {
            self.close(key, CloseReason::Ended, core);
        }
    }

    /// The far end's response goes back under the transaction id that the request had here.
    pub(crate) fn on_reply(&mut self, key: PeerKey, sequence: u32, reply: &Transit, core: &mut Core) {
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        let Some(waited) = peer.unanswered.take(sequence) else {
            return;
        };
        let (session, request) = (waited.session, waited.transit);
        if is_failed_auth(&request, reply) {
            core.tell_session(session, SessionStep::Guess);
        }
        // A peer that does not read must not fill the memory.
        let pressed = core.memory.is_pressed();
        if peer.out.control_len() >= if pressed { CONTROL_BYTES_MAX } else { REPLY_BYTES_MAX } {
            return peer.update_pause(core);
        }
        let tid = request.head.tid(&request.bytes);
        let rewrite = Rewrite { tid, moves: usize::from(reply.moves), byte_range: None };
        let control = peer.out.control();
        reply.head.rewrite(&reply.bytes, &rewrite, control);
        write_end_line(control, tid, Flag::Last, false);
        peer.wake(core);
        peer.update_pause(core);
    }

    /// A request that was sent through a session will not be answered.
    pub(crate) fn on_abandoned(&self, key: PeerKey, session: SessionRef, core: &mut Core) {
        if let Some(peer) = self.get(key) {
            peer.answer_all(core, |id| id == session);
        }
    }

    pub(crate) fn on_frame(&mut self, key: PeerKey, bytes: &[u8], core: &mut Core) {
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        // A peer that takes no answers is not read from, but failures of other hops go on. Above this bound it gets no
        // more reports.
        let pressed = core.memory.is_pressed();
        if peer.out.control_len() >= if pressed { CONTROL_BYTES_MAX } else { REPORT_BYTES_MAX } {
            return peer.update_pause(core);
        }
        peer.out.control().extend_from_slice(bytes);
        peer.wake(core);
        peer.update_pause(core);
    }

    pub(crate) fn on_credit(&mut self, key: PeerKey, from: CoreId, bytes: usize, core: &mut Core) {
        let me = core.me;
        // A credit from a core that has died meanwhile is void: those bytes have been written off.
        if from != me && core.cores.has_ended(from) {
            return;
        }
        let Some(peer) = self.get_mut(key) else {
            return core.memory.free_left_behind(Some(from).filter(|from| *from != me), bytes);
        };
        let settled = peer.settle(from, bytes);
        core.memory.free(settled);
        peer.update_pause(core);
    }

    /// Bytes that one core held are at another; or were, if that one died before the news came.
    pub(crate) fn on_lent(
        &mut self,
        key: PeerKey,
        (from, to): (CoreId, CoreId),
        bytes: usize,
        core: &mut Core,
    ) {
        let me = core.me;
        if to != me && core.cores.has_ended(to) {
            return self.on_credit(key, from, bytes, core);
        }
        match self.get_mut(key) {
            Some(peer) => peer.relend(from, to, bytes),
            None => core.memory.relend_left_behind(from, Some(to).filter(|to| *to != me), bytes),
        }
    }

    pub(crate) fn on_request(
        &mut self,
        to: PeerRef,
        stream: StreamId,
        (side, transit): (SessionSide, Transit),
        core: &mut Core,
    ) {
        if let Some(peer) = self.get_mut(to.key).filter(|p| !p.phase.is_closing()) {
            peer.out.open(stream, side, transit, &mut core.spare);
            peer.wake(core);
            return;
        }
        core.credit(stream.peer, transit.cost());
        if let Some(failure) = unwritten_failure(stream, side, transit) {
            core.orphans.adopt(Neighbour::Peer(to), failure);
        }
    }

    pub(crate) fn on_request_body(&mut self, to: PeerRef, stream: StreamId, bytes: Bytes, core: &mut Core) {
        let len = bytes.len();
        let unwanted = match self.get_mut(to.key) {
            Some(peer) => {
                let unwanted = peer.out.piece(stream, bytes);
                if unwanted.is_none() {
                    peer.wake(core);
                }
                unwanted
            }
            None => Some(len),
        };
        if let Some(bytes) = unwanted {
            core.orphans.count(Neighbour::Peer(to), stream, bytes);
            core.credit(stream.peer, bytes);
        }
    }

    pub(crate) fn on_request_end(&mut self, to: PeerRef, stream: StreamId, flag: Flag, core: &mut Core) {
        let peer = self.get_mut(to.key);
        let failure = match peer.filter(|p| p.out.expects(stream)) {
            Some(peer) => {
                let (dropped, failure) = peer.out.close(stream, flag);
                peer.recount(core);
                peer.wake(core);
                core.credit(stream.peer, dropped);
                failure
            }
            None => core.orphans.end(Neighbour::Peer(to), stream, flag),
        };
        if let Some(failure) = failure {
            core.post(failure.into_message());
        }
    }

    pub(crate) fn on_bind(
        &mut self,
        to: PeerRef,
        session: SessionRef,
        chunk_max: Option<u32>,
        core: &mut Core,
    ) {
        match self.get_mut(to.key).filter(|p| !p.phase.is_closing()) {
            Some(peer) => {
                if peer.bound.is_empty() {
                    peer.out.bound_chunks(chunk_max);
                } else {
                    peer.out.bound_chunks_further(chunk_max);
                }
                peer.bound.insert(session);
                peer.prove(core);
                peer.update_pause(core);
                peer.set_alarm(core);
            }
            None => core.tell_session(
                session,
                SessionStep::NeighbourLost {
                    neighbour: Neighbour::Peer(to),
                    was_up: true,
                    status: Status::NO_SESSION,
                },
            ),
        }
    }

    pub(crate) fn on_unbind(&mut self, key: PeerKey, session: SessionRef, core: &mut Core) {
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        peer.bound.remove(&session);
        peer.last_used = core.now;
        if peer.origin.is_dialled() && peer.bound.is_empty() {
            self.close(key, CloseReason::SessionOver, core);
        } else {
            peer.update_pause(core);
            peer.set_alarm(core);
        }
    }

    /// Bytes of one connection wait for another one, and hold up third ones.
    pub(crate) fn on_shed(&mut self, slow: PeerKey, source: PeerRef, core: &mut Core) {
        let stall_timeout = core.settings.limits.stall_timeout;
        let now = core.now;
        // A peer that is up to date and merely silent is not to blame.
        let stalls = |client: &&mut Peer| {
            let takes_nothing = (client.writing.is_taking || client.writing.is_woken)
                && client.writing.last_taken + stall_timeout <= now;
            takes_nothing || client.out.has_answered_nothing_for(stall_timeout, now)
        };
        let Some(client) = self.get_mut(slow).filter(stalls) else {
            return;
        };
        let (dropped, messages) = client.out.shed(source);
        client.recount(core);
        if dropped > 0 {
            client.wake(core);
            core.bite(Limit::StallTimeout, Some(slow));
            core.credit(source, dropped);
        }
        for message in messages {
            core.post(message);
        }
    }

    /// A relay beyond this one refused the credentials of an AUTH that we forwarded for the connection's client.
    pub(crate) fn on_guessed(&mut self, key: PeerKey, too_many: bool, core: &mut Core) {
        let Some(peer) = self.get(key) else {
            return;
        };
        if let Some(source) = peer.origin.source() {
            let (offence, culprit) = (Offence::Auth, peer.me);
            core.tally(Who::Address(source), Tally::Failed { offence, culprit });
        }
        if too_many {
            core.bite(Limit::AuthAttempts, Some(key));
            self.close(key, CloseReason::AuthFailures, core);
        }
    }

    /// A session of the connection's client has ended. The connection stays: its client may ask for another session
    /// (req A12).
    pub(crate) fn on_session_over(&mut self, key: PeerKey, session: SessionRef, core: &mut Core) {
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        let Role::Client { sessions } = &mut peer.role else {
            return;
        };
        let before = sessions.len();
        sessions.retain(|own| *own != session);
        if sessions.len() < before && sessions.is_empty() {
            peer.last_used = core.now;
            if let Some(user) = peer.user.take() {
                // The user's other sessions may use its share.
                core.rates.end(user, core.now);
                core.tally(Who::User(user), Tally::Released);
            }
            peer.set_alarm(core);
        }
    }

    /// A connection has gone too far: its address or user is banned. Only the connection knows the user name that was
    /// tried.
    pub(crate) fn on_banned(&self, key: PeerKey, (who, offence): (Who, Offence), core: &mut Core) {
        let auth = self.get(key).and_then(|peer| peer.applicants.own());
        let user = match who {
            Who::Address(_) => None,
            Who::User(_) => auth.and_then(|auth| auth.user_name()).map(str::to_owned),
        };
        let (limit, peer) = (Limit::of_ban(who, offence), Some(key));
        core.effects.event(Event::LimitReached { limit, peer, user });
    }
}

/// Whether a relay beyond this one refused credentials, and did not merely call them stale (req A13).
fn is_failed_auth(request: &Transit, reply: &Transit) -> bool {
    let had_credentials =
        request.method() == Method::Auth && request.head.authorization(&request.bytes).is_some();
    if !had_credentials || reply.head.kind() != Kind::Response(Status::UNAUTHORIZED) {
        return false;
    }
    let challenge = reply.head.www_authenticate(&reply.bytes).map(Challenge::parse);
    !challenge.is_some_and(|challenge| challenge.is_ok_and(|challenge| challenge.stale))
}
