//! How a connection begins and ends, and what may end it: probation, disuse, a limit, the relay's stop, the
//! death of a core (RFC 4976, 6.1 and 6.5).
//!
//! Invariant: whoever waits for something from a connection that ends is told, once.

use core::cmp::Reverse;
use std::mem;

use super::{Incoming, Peer, Role, Standing};
use crate::identity::ProvenNames;
use crate::ids::{CoreId, PeerKey, PeerRef};
use crate::message::{Message, Outer};
use crate::newcomers::Stage;
use crate::orphan::Failure;
use crate::session::Sessions;
use crate::view::EndReason;
use crate::{CloseReason, Core, Effect, Effects, Event, Limit, Offence, Relay, Tally, Who};
use msrp_proto::head::Method;
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;

/// While memory is short, connections that have proven nothing may have one part in so many of it: many times what an AUTH
/// takes, and little enough that strangers cannot make it short.
const NEWCOMERS_PART: usize = 8;

impl Relay {
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

    /// Its peer is a relay, or says so with a certificate that we trust.
    pub(crate) fn on_identified(&mut self, key: PeerKey, names: ProvenNames) {
        if let Some(peer) = self.peers.get_mut(key) {
            peer.names = Some(names);
        }
    }

    /// It has got further, though it has proven nothing yet.
    pub(crate) fn on_advanced(&mut self, key: PeerKey, stage: Stage) {
        if let Some(peer) = self.peers.get_mut(key) {
            peer.advance(stage, &mut self.core);
        }
    }

    /// The next hop cannot be had. Its user may try so often, and no more: nobody is to find out by us
    /// what listens where (norm S3).
    pub(crate) fn on_dial_failed(&mut self, key: PeerKey, fx: &mut Effects) {
        self.core.stats.dials_failed += 1;
        // Also if the session is over by now.
        if let Some(peer) = self.peers.get(key)
            && let Some(user) = peer.dialled_for
        {
            let me = self.core.me;
            let client = peer.bound.first().and_then(|id| self.sessions.inner_of(id, me));
            let culprit = client.unwrap_or(PeerRef { core: me, key });
            self.core.tally(Who::User(user), Tally::Failed { offence: Offence::Dial, culprit }, fx);
        }
        self.lose_peer(key, fx);
    }

    /// Reads no more from anybody; requests that are coming in break off.
    pub(crate) fn quiesce(&mut self, fx: &mut Effects) {
        self.core.stopping = true;
        for peer in self.peers.values_mut() {
            break_off(peer, &mut self.core, fx);
            peer.update_pause(&mut self.core, fx);
        }
    }

    /// Nobody is listened to any more, so nothing that was sent on will be answered.
    pub(crate) fn give_up_answers(&mut self, fx: &mut Effects) {
        for peer in self.peers.values_mut() {
            for notice in peer.out.transactions.drain_merged() {
                let status = Status::TIMEOUT;
                self.core.post(Message::Failed { notice, status }, fx);
            }
            peer.recount(&mut self.core, fx);
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
        if reason == CloseReason::Ended && peer.owes_answers() {
            // What it sent last is being taken care of, maybe on another core.
            break_off(peer, &mut self.core, fx);
            peer.ended = true;
            return;
        }
        if reason.is_for_requests() && peer.is_in_use() {
            fx.event(Event::ClosedForRequests { peer: key, reason });
        }
        peer.closing = true;
        peer.close_reason = Some(reason);
        peer.advance(Stage::Closing, &mut self.core);
        if reason == CloseReason::Stopping {
            // What others have sent it is still delivered; what it was sending breaks off here.
            break_off(peer, &mut self.core, fx);
        } else if reason != CloseReason::SessionOver {
            sever(peer, &mut self.core, &mut self.sessions, fx);
        } else if peer.role == Role::Dialling && !peer.out.is_empty() {
            // Once it is up, what its client left is still delivered.
            return;
        }
        fx.push(Effect::Close { peer: key, reason });
        peer.wake(fx);
    }

    /// A limit that holds for all cores together is exceeded, and this connection was the one too many.
    pub(crate) fn close_for_limit(&mut self, key: PeerKey, limit: Limit, fx: &mut Effects) {
        if self.peers.contains_key(key) {
            self.core.bite(limit, Some(key), fx);
            self.close_peer(key, CloseReason::Limit(limit), fx);
        }
    }

    /// The same for a limit of its source. What has proven nothing goes at once.
    pub(crate) fn on_excess(&mut self, key: PeerKey, limit: Limit, fx: &mut Effects) {
        match self.peers.get(key).is_some_and(Peer::is_proven) {
            true => self.close_for_limit(key, limit, fx),
            false => self.abort_newcomer(key, CloseReason::Limit(limit), fx),
        }
    }

    /// Room for one more connection, a `newcomer` or one that the relay opens. Who has proven least makes it.
    pub(crate) fn make_room(&mut self, newcomer: bool, fx: &mut Effects) -> Result<(), Limit> {
        let limits = &self.core.settings.limits;
        let (peers_max, unproven_max) = (limits.peers_max, limits.unproven_max);
        if self.peers.len() - self.core.newcomers.len() >= peers_max {
            // All of them together would not be enough.
            return Err(Limit::Connections);
        }
        loop {
            let limit = if self.peers.len() >= peers_max {
                Limit::Connections
            } else if newcomer && self.core.newcomers.len() >= unproven_max {
                Limit::UnauthenticatedShare
            } else {
                return Ok(());
            };
            let least = self.core.newcomers.least().ok_or(limit)?;
            self.abort_newcomer(least, CloseReason::Limit(limit), fx);
        }
    }

    /// While memory is short, those who have proven nothing have no more than a part of it. Whoever has most goes first, as
    /// many as give back half of that part: so each look at all of them has to be paid for with new bytes.
    pub(crate) fn shed_newcomers(&mut self, fx: &mut Effects) {
        let part = self.core.budget.allowance() / NEWCOMERS_PART;
        if !self.core.budget.is_pressed() || self.core.newcomers.bytes() <= part {
            return;
        }
        let newcomers = self.peers.iter().filter(|(_, peer)| !peer.is_proven());
        let mut heaviest: Vec<(usize, PeerKey)> = newcomers.map(|(key, peer)| (peer.counted, key)).collect();
        heaviest.sort_unstable_by_key(|heavy| Reverse(*heavy));
        for (_, key) in heaviest {
            if self.core.newcomers.bytes() <= part / 2 {
                break;
            }
            self.abort_newcomer(key, CloseReason::Limit(Limit::QueueBytesTotal), fx);
        }
    }

    /// A connection cannot be accepted because the process has too many files open.
    pub(crate) fn on_no_descriptor(&mut self, fx: &mut Effects) {
        if let Some(least) = self.core.newcomers.least() {
            self.abort_newcomer(least, CloseReason::NoDescriptor, fx);
        }
    }

    /// A connection that has proven nothing goes, and its place is free at once: a peer that is waited for would hold it
    /// for seconds.
    fn abort_newcomer(&mut self, key: PeerKey, reason: CloseReason, fx: &mut Effects) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        peer.close_reason = Some(reason);
        if let CloseReason::Limit(limit) = reason {
            self.core.bite(limit, Some(key), fx);
        }
        fx.push(Effect::Abort { peer: key, reason });
        self.lose_peer(key, fx);
    }

    /// The connection is gone.
    pub(crate) fn lose_peer(&mut self, key: PeerKey, fx: &mut Effects) {
        let Some(mut peer) = self.peers.remove(key) else {
            return;
        };
        sever(&mut peer, &mut self.core, &mut self.sessions, fx);
        if let Some(at) = peer.alarm {
            self.core.alarms.remove(&(at, key));
        }
        let proven = peer.is_proven();
        peer.leave_newcomers(&mut self.core);
        if let Some(source) = peer.source {
            self.core.tally(Who::Address(source), Tally::Disconnected { proven }, fx);
        }
        if let Some(user) = peer.user {
            self.core.rates.end(user, self.core.now);
            self.core.tally(Who::User(user), Tally::Released, fx);
        }
        peer.leave_behind(&mut self.core);
        self.core.keep(peer.counted, 0, fx);
    }

    /// Something may be due on a connection.
    pub(crate) fn on_alarm(&mut self, key: PeerKey, fx: &mut Effects) {
        let now = self.core.now;
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        if let Some(at) = peer.alarm.take() {
            self.core.alarms.remove(&(at, key));
        }
        if peer.throttled_until.take_if(|until| *until <= now).is_some() {
            peer.update_pause(&mut self.core, fx);
        }
        if matches!(peer.standing, Standing::Probation { until, .. } if until <= now) && !peer.closing {
            return self.close_for_limit(key, Limit::FirstRequestTimeout, fx);
        }
        if !peer.is_in_use()
            && peer.last_used + self.core.settings.limits.idle_timeout <= now
            && !peer.closing
        {
            self.core.bite(Limit::IdleTimeout, Some(key), fx);
            return self.close_peer(key, CloseReason::Idle, fx);
        }
        let stall_timeout = self.core.settings.limits.stall_timeout;
        if peer.held_up_since.is_some_and(|since| since + stall_timeout <= now) {
            peer.held_up_since = Some(now);
            let source = peer.me;
            for session in peer.bound.clone() {
                self.core.post(Message::Relieve { session, source, before: None }, fx);
            }
        }
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        if peer.session_over.is_some_and(|at| at <= now) {
            self.end_sessions(key, fx);
        }
        while let Some(notice) =
            self.peers.get_mut(key).and_then(|p| p.out.transactions.expire(self.core.now))
        {
            let status = Status::TIMEOUT;
            self.fail(key, Failure { notice, status }, fx);
        }
        if let Some(peer) = self.peers.get_mut(key) {
            peer.recount(&mut self.core, fx);
            peer.wake(fx);
            peer.set_alarm(&mut self.core);
        }
    }

    /// A core died with all its connections and sessions: local ones end what they had with it.
    pub(crate) fn forget_core(&mut self, gone: CoreId, fx: &mut Effects) {
        self.core.orphans.forget_core(gone);
        for peer in self.peers.values_mut() {
            let bound = peer.bound.len();
            peer.bound.retain(|session| session.home() != gone);
            if peer.bound.len() < bound {
                peer.last_used = self.core.now;
            }
            let lost = peer.write_off(gone);
            self.core.budget.free(lost);
            peer.answer_all(&mut self.core, fx, |session| session.home() == gone);
            for stream in peer.out.streams_from(gone) {
                self.core.post(Message::Close { peer: peer.me, stream, flag: Flag::Aborted }, fx);
            }
            peer.update_pause(&mut self.core, fx);
            peer.set_alarm(&mut self.core);
        }
        self.core.budget.forget_core(gone);
        for who in self.core.register.forget_core(usize::from(gone.index)) {
            self.tell_share(who, fx);
            self.tell_newcomers(who, None, fx);
        }
        self.grant_claims_of(gone, fx);
        self.forget_core_in_sessions(gone, fx);
    }
}

impl Peer {
    /// Whether a SEND of its waits for its response, which depends on nobody outside.
    fn owes_answers(&self) -> bool {
        self.unanswered.iter().any(|request| request.transit.method() == Method::Send)
    }

    /// What came from it and has not been written yet stays with whoever holds it.
    fn leave_behind(&self, core: &mut Core) {
        core.budget.leave_behind(&self.lent);
    }
}

/// Whoever waits for something from a connection is told that it is gone, in this order: senders of
/// requests that did not get through; receivers of the request that broke off; its sessions.
fn sever(peer: &mut Peer, core: &mut Core, sessions: &mut Sessions, fx: &mut Effects) {
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
    let reason = peer.close_reason.map_or(EndReason::ConnectionLost, EndReason::Closed);
    if let Role::Client { sessions: own } = &mut peer.role {
        own.iter().for_each(|session| sessions.note_end(*session, reason));
        for session in mem::take(own).into_iter().filter_map(|s| sessions.id_of(s)) {
            core.post(Message::InnerLost { session }, fx);
        }
    }
    peer.recount(core, fx);
}

/// No more comes of the request that is coming in: its receivers are told.
pub(super) fn break_off(peer: &mut Peer, core: &mut Core, fx: &mut Effects) {
    if let Incoming::Request { session, stream, .. } = peer.incoming {
        let flag = Flag::Aborted;
        core.post(Message::End { session, stream, flag }, fx);
    }
    peer.incoming = Incoming::Dropped;
    peer.recount(core, fx);
}
