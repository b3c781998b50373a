//! How a connection begins and ends, and what may end it: probation, disuse, a limit, the relay's stop, the
//! death of a core (RFC 4976, 6.1 and 6.5).
//!
//! Invariant: what waits for something from a connection that ends is told, once.

use core::cmp::Reverse;
use std::mem;
use std::net::IpAddr;
use std::time::Duration;

use msrp_proto::parser::Flag;
use msrp_proto::status::Status;

use super::Peers;
use super::peer::Peer;
use super::state::{Blamed, Incoming, Origin, Phase, Role, Standing};
use crate::api::{Effect, Event, Target, Transport};
use crate::core::{Core, Stop};
use crate::identity::ProvenNames;
use crate::ids::{CoreId, PeerKey, PeerRef, SessionRef};
use crate::limit::Limit;
use crate::message::{PeerStep, SessionStep};
use crate::orphans::Failure;
use crate::quota::newcomers::Stage;
use crate::quota::who::{AddressKey, Offence, Tally, Who};
use crate::reason::{CloseReason, EndReason};
use crate::request::Neighbour;

/// While memory is short, connections that have proven nothing may have one part in so many of it: many times what an AUTH
/// takes, and little enough that strangers cannot make it short.
const NEWCOMERS_PART: usize = 8;

impl Peers {
    /// A connection from `address` has been accepted. If there is no room for it, the one goes that has proven least.
    pub(crate) fn accept(
        &mut self,
        transport: Transport,
        address: IpAddr,
        core: &mut Core,
    ) -> Result<PeerKey, Limit> {
        self.shed_newcomers(core);
        let room = match core.memory.is_pressed() {
            true => Err(Limit::QueueBytesTotal),
            false => self.make_room(true, core),
        };
        // Told by the caller, who knows where it came from.
        room.inspect_err(|limit| core.count_limit(*limit))?;
        let (now, me) = (core.now, core.me);
        let until = now + core.settings.limits.first_request_timeout;
        let source = AddressKey::new(address);
        let place = core.newcomers.next_place();
        let key = self.table.insert_with_key(|key| {
            Peer::accepted(PeerRef { core: me, key }, transport, (source, place), (now, until))
        });
        core.newcomers.insert(source, key, place);
        core.tally(Who::Address(source), Tally::Connected(PeerRef { core: me, key }));
        if let Some(peer) = self.get_mut(key) {
            peer.set_alarm(core);
        }
        Ok(key)
    }

    /// Opens a connection for a session. If it cannot be had, `blamed` answers for it; in whose turn it is dialled, `who`
    /// says.
    pub(crate) fn dial(
        &mut self,
        session: SessionRef,
        target: Target,
        (blamed, who): (Option<Blamed>, Who),
        core: &mut Core,
    ) -> Result<PeerRef, Limit> {
        self.make_room(false, core).inspect_err(|limit| core.bite(*limit, None))?;
        let (me, now) = (core.me, core.now);
        let transport = Transport { secure: target.secure, port: target.port };
        let origin = Origin::Dialled { blamed, to_other_process: target.other_process.is_some() };
        let key = self.table.insert_with_key(|key| {
            let mut peer = Peer::dialling(PeerRef { core: me, key }, transport, origin, now);
            peer.bound.push(session);
            // It is given bytes, and ours to read, only once it has proven this.
            peer.names = ProvenNames::new([target.host.as_str()]).filter(|_| target.relay && target.secure);
            peer.out.bound_chunks(core.settings.chunk_bounds.of_host(&target.host));
            peer
        });
        core.stats.dials += 1;
        core.effects.push(Effect::Connect { peer: key, target, who });
        Ok(PeerRef { core: me, key })
    }

    pub(crate) fn on_connected(&mut self, key: PeerKey, core: &mut Core) {
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        match &mut peer.phase {
            Phase::Closing { is_up, .. } => *is_up = true,
            phase => *phase = Phase::Up,
        }
        peer.wake(core);
        if peer.phase.is_closing() {
            core.effects.push(Effect::Close { peer: key, reason: CloseReason::SessionOver });
        }
    }

    /// Its peer is a relay, or says so with a certificate that we trust.
    pub(crate) fn on_identified(&mut self, key: PeerKey, names: ProvenNames) {
        if let Some(peer) = self.get_mut(key) {
            peer.names = Some(names);
        }
    }

    /// It has got further, though it has proven nothing yet.
    pub(crate) fn on_advanced(&mut self, key: PeerKey, stage: Stage, core: &mut Core) {
        if let Some(peer) = self.get_mut(key) {
            peer.advance(stage, core);
        }
    }

    /// The next hop cannot be had. Its user may try so often, and no more: no client is to find out by us
    /// what listens where (norm S3).
    pub(crate) fn on_dial_failed(&mut self, key: PeerKey, core: &mut Core) {
        core.stats.dials_failed += 1;
        if let Some(Origin::Dialled { blamed: Some(Blamed { user, client }), .. }) =
            self.get(key).map(|peer| peer.origin)
        {
            let culprit = client.unwrap_or(PeerRef { core: core.me, key });
            core.tally(Who::User(user), Tally::Failed { offence: Offence::Dial, culprit });
        }
        self.lose(key, core);
    }

    /// Reads no more from anybody; requests that are coming in break off.
    pub(crate) fn quiesce(&mut self, core: &mut Core) {
        core.go_towards(Stop::Quiet);
        for peer in self.table.values_mut() {
            break_off(peer, core);
            peer.update_pause(core);
        }
    }

    /// Nothing is read any more, so nothing that was sent on will be answered.
    pub(crate) fn give_up_answers(&mut self, core: &mut Core) {
        for peer in self.table.values_mut() {
            for notice in peer.out.transactions.drain_merged() {
                let status = Status::TIMEOUT;
                core.tell_session(notice.session, SessionStep::Failed { notice, status });
            }
            peer.recount(core);
        }
    }

    pub(crate) fn close_all(&mut self, core: &mut Core) {
        let keys: Vec<PeerKey> = self.table.keys().collect();
        for key in keys {
            self.close(key, CloseReason::Stopping, core);
        }
    }

    /// No more is read; what is queued is written; then the connection closes. For all others a
    /// connection that is closed for a fault of its peer's is gone at once: others do not wait
    /// until it has taken what it was sent.
    pub(crate) fn close(&mut self, key: PeerKey, reason: CloseReason, core: &mut Core) {
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        if peer.phase.is_closing() {
            return;
        }
        if reason == CloseReason::Ended && peer.unanswered.has_send() {
            // What it sent last is being taken care of, maybe on another core.
            break_off(peer, core);
            peer.phase = Phase::Ended;
            return;
        }
        if reason.is_for_requests() && peer.is_in_use() {
            core.effects.event(Event::ClosedForRequests { peer: key, reason });
        }
        let is_up = peer.phase.is_up();
        peer.phase = Phase::Closing { reason, is_up };
        peer.advance(Stage::Closing, core);
        if reason == CloseReason::Stopping {
            // What others have sent it is still delivered; what it was sending breaks off here.
            break_off(peer, core);
        } else if reason != CloseReason::SessionOver {
            sever(peer, core);
        } else if !is_up && !peer.out.is_empty() {
            // Once it is up, what its client left is still delivered.
            return;
        }
        core.effects.push(Effect::Close { peer: key, reason });
        peer.wake(core);
    }

    /// A limit that holds for all cores together is exceeded, and this connection was the one too many.
    pub(crate) fn close_for_limit(&mut self, key: PeerKey, limit: Limit, core: &mut Core) {
        if self.get(key).is_some() {
            core.bite(limit, Some(key));
            self.close(key, CloseReason::Limit(limit), core);
        }
    }

    /// The same for a limit of its source. What has proven nothing goes at once.
    pub(crate) fn on_excess(&mut self, key: PeerKey, limit: Limit, core: &mut Core) {
        match self.get(key).is_some_and(Peer::is_proven) {
            true => self.close_for_limit(key, limit, core),
            false => self.abort_newcomer(key, CloseReason::Limit(limit), core),
        }
    }

    /// Room for one more connection, a `newcomer` or one that the relay opens. Who has proven least makes it.
    pub(crate) fn make_room(&mut self, newcomer: bool, core: &mut Core) -> Result<(), Limit> {
        let limits = &core.settings.limits;
        let (connections_per_core_max, unauthenticated_per_core_max) =
            (limits.connections_per_core_max, limits.unauthenticated_per_core_max);
        if self.len() - core.newcomers.len() >= connections_per_core_max {
            // All of them together would not be enough.
            return Err(Limit::Connections);
        }
        loop {
            let limit = if self.len() >= connections_per_core_max {
                Limit::Connections
            } else if newcomer && core.newcomers.len() >= unauthenticated_per_core_max {
                Limit::UnauthenticatedShare
            } else {
                return Ok(());
            };
            let least = core.newcomers.least().ok_or(limit)?;
            self.abort_newcomer(least, CloseReason::Limit(limit), core);
        }
    }

    /// While memory is short, those who have proven nothing have no more than a part of it. The one with most goes first, as
    /// many as give back half of that part: so each look at all of them has to be paid for with new bytes.
    pub(crate) fn shed_newcomers(&mut self, core: &mut Core) {
        let part = core.memory.allowance() / NEWCOMERS_PART;
        if !core.memory.is_pressed() || core.newcomers.bytes() <= part {
            return;
        }
        let newcomers = self.table.iter().filter(|(_, peer)| !peer.is_proven());
        let mut heaviest: Vec<(usize, PeerKey)> = newcomers.map(|(key, peer)| (peer.counted, key)).collect();
        heaviest.sort_unstable_by_key(|heavy| Reverse(*heavy));
        for (_, key) in heaviest {
            if core.newcomers.bytes() <= part / 2 {
                break;
            }
            self.abort_newcomer(key, CloseReason::Limit(Limit::QueueBytesTotal), core);
        }
    }

    /// A connection cannot be accepted because the process has too many files open.
    pub(crate) fn on_no_descriptor(&mut self, core: &mut Core) {
        if let Some(least) = core.newcomers.least() {
            self.abort_newcomer(least, CloseReason::NoDescriptor, core);
        }
    }

    /// A connection that has proven nothing goes, and its place is free at once: a peer that is waited for would hold it
    /// for seconds.
    fn abort_newcomer(&mut self, key: PeerKey, reason: CloseReason, core: &mut Core) {
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        peer.phase = Phase::Closing { reason, is_up: peer.phase.is_up() };
        if let CloseReason::Limit(limit) = reason {
            core.bite(limit, Some(key));
        }
        core.effects.push(Effect::Abort { peer: key, reason });
        self.lose(key, core);
    }

    /// The connection is gone.
    pub(crate) fn lose(&mut self, key: PeerKey, core: &mut Core) {
        let Some(mut peer) = self.table.remove(key) else {
            return;
        };
        sever(&mut peer, core);
        if let Some(at) = peer.alarm {
            core.alarms.remove(&(at, key));
        }
        let proven = peer.is_proven();
        peer.leave_newcomers(core);
        if let Some(source) = peer.origin.source() {
            core.tally(Who::Address(source), Tally::Disconnected { proven });
        }
        if let Some(user) = peer.user {
            core.rates.end(user, core.now);
            core.tally(Who::User(user), Tally::Released);
        }
        peer.leave_behind(core);
        core.keep(peer.counted, 0);
    }

    /// Time has passed.
    pub(crate) fn on_tick(&mut self, core: &mut Core) {
        // Only what is due now: should an alarm be set for the past again, it must not hold up the core.
        let after = core.now + Duration::from_nanos(1);
        let later = core.alarms.split_off(&(after, PeerKey::default()));
        let due = mem::replace(&mut core.alarms, later);
        for (_, key) in due {
            self.on_alarm(key, core);
        }
    }

    /// Something may be due on a connection.
    fn on_alarm(&mut self, key: PeerKey, core: &mut Core) {
        let now = core.now;
        let Some(peer) = self.get_mut(key) else {
            return;
        };
        if let Some(at) = peer.alarm.take() {
            core.alarms.remove(&(at, key));
        }
        if peer.pause.throttled_until.take_if(|until| *until <= now).is_some() {
            peer.update_pause(core);
        }
        if matches!(peer.standing, Standing::Probation { until, .. } if until <= now)
            && !peer.phase.is_closing()
        {
            return self.close_for_limit(key, Limit::FirstRequestTimeout, core);
        }
        if !peer.is_in_use()
            && peer.last_used + core.settings.limits.idle_timeout <= now
            && !peer.phase.is_closing()
        {
            core.bite(Limit::IdleTimeout, Some(key));
            return self.close(key, CloseReason::Idle, core);
        }
        let stall_timeout = core.settings.limits.stall_timeout;
        if peer.pause.held_up_since.is_some_and(|since| since + stall_timeout <= now) {
            peer.pause.held_up_since = Some(now);
            let source = peer.me;
            for session in peer.bound.clone() {
                core.tell_session(session, SessionStep::Relieve { source, before: None });
            }
        }
        while let Some(notice) = self.get_mut(key).and_then(|p| p.out.transactions.expire(core.now)) {
            let status = Status::TIMEOUT;
            self.fail(key, Failure { notice, status }, core);
        }
        if let Some(peer) = self.get_mut(key) {
            peer.recount(core);
            peer.wake(core);
            peer.set_alarm(core);
        }
    }

    /// A core died with all its connections and sessions: local ones end what they had with it.
    pub(crate) fn forget_core(&mut self, gone: CoreId, core: &mut Core) {
        for peer in self.table.values_mut() {
            let bound = peer.bound.len();
            peer.bound.retain(|session| session.core != gone);
            if peer.bound.len() < bound {
                peer.last_used = core.now;
            }
            let lost = peer.write_off(gone);
            core.memory.free(lost);
            peer.answer_all(core, |session| session.core == gone);
            for stream in peer.out.streams_from(gone) {
                core.tell_peer(peer.me, PeerStep::End { stream, flag: Flag::Aborted });
            }
            peer.update_pause(core);
            peer.set_alarm(core);
        }
    }
}

/// What waits for something from a connection is told that it is gone, in this order: senders of
/// requests that did not get through; receivers of the request that broke off; its sessions.
fn sever(peer: &mut Peer, core: &mut Core) {
    let loss = peer.out.lose();
    for (source, bytes) in loss.credits {
        core.credit(source, bytes);
    }
    for failure in loss.orphans {
        core.orphans.adopt(Neighbour::Peer(peer.me), failure);
    }
    for notice in loss.notices {
        let status = Status::TIMEOUT;
        core.tell_session(notice.session, SessionStep::Failed { notice, status });
    }
    break_off(peer, core);
    peer.unanswered.clear();
    let was_up = peer.phase.is_up();
    for session in mem::take(&mut peer.bound) {
        core.tell_session(
            session,
            SessionStep::NeighbourLost {
                neighbour: Neighbour::Peer(peer.me),
                was_up,
                status: if was_up { Status::NO_SESSION } else { Status::TIMEOUT },
            },
        );
    }
    let reason = peer.phase.close_reason().map_or(EndReason::ConnectionLost, EndReason::Closed);
    if let Role::Client { sessions } = &mut peer.role {
        for session in mem::take(sessions) {
            core.tell_session(session, SessionStep::InnerLost { reason });
        }
    }
    peer.recount(core);
}

/// No more comes of the request that is coming in: its receivers are told.
pub(super) fn break_off(peer: &mut Peer, core: &mut Core) {
    if let Incoming::Request { session, stream, .. } = peer.receiving.frame {
        let flag = Flag::Aborted;
        core.tell_session(session, SessionStep::End { stream, flag });
    }
    peer.receiving.frame = Incoming::Dropped;
    peer.recount(core);
}
