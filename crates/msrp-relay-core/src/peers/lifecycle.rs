//! How a connection begins and ends, and what may end it: probation, disuse, a limit, the relay's stop, a core's death
//! (RFC 4976, 6.1 and 6.5).
//!
//! Invariant: everything that waits for an ending connection hears of the end, once.

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
use crate::quota::rates::Part;
use crate::quota::who::{AddressKey, Offence, Tally, Who};
use crate::reason::{CloseReason, EndReason};
use crate::request::Neighbour;

/// While memory is short, connections that have proven nothing may take one part in so many of it: many times what an
/// AUTH takes, and too little for strangers to make memory short.
const NEWCOMERS_PART: usize = 8;

impl Peers {
    /// Accepts a connection from `address`. If there is no room, the connection that has proven least makes it.
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
        // The caller logs it, because it knows where the connection came from.
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
            if transport.websocket {
                peer.out.frame(&core.settings.websocket);
            }
            peer.set_alarm(core);
        }
        Ok(key)
    }

    /// Opens a connection for a session. If that fails, `blamed` answers for it; it is dialled in the turn of `who`.
    pub(crate) fn dial(
        &mut self,
        session: SessionRef,
        target: Target,
        (blamed, who): (Option<Blamed>, Who),
        core: &mut Core,
    ) -> Result<PeerRef, Limit> {
        self.make_room(false, core).inspect_err(|limit| core.bite(*limit, None))?;
        let (me, now) = (core.me, core.now);
        let transport = Transport { secure: target.secure, port: target.port, websocket: false };
        let origin = Origin::Dialled { blamed, to_other_process: target.other_process.is_some() };
        let key = self.table.insert_with_key(|key| {
            let mut peer = Peer::dialling(PeerRef { core: me, key }, transport, origin, now);
            peer.bound.insert(session);
            // No bytes go to it, or come from it, before it has proven this name.
            peer.names = ProvenNames::new([target.host.as_str()]).filter(|_| target.relay && target.secure);
            peer.out.bound_chunks(core.settings.max_chunk.of_host(&target.host));
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
        self.note_relay(key);
    }

    /// Other sessions may use a connection with a relay, once it is up.
    fn note_relay(&mut self, key: PeerKey) {
        if let Some(peer) = self.table.get(key).filter(|peer| peer.phase == Phase::Up)
            && let Some(names) = &peer.names
        {
            self.relays.insert(names, key);
        }
    }

    fn forget_relay(&mut self, key: PeerKey) {
        if let Some(names) = self.table.get(key).and_then(|peer| peer.names.as_ref()) {
            self.relays.remove(names, key);
        }
    }

    /// Its peer is a relay: it has shown a certificate that we trust.
    pub(crate) fn on_identified(&mut self, key: PeerKey, names: ProvenNames) {
        self.forget_relay(key);
        if let Some(peer) = self.get_mut(key) {
            peer.names = Some(names);
        }
        self.note_relay(key);
    }

    /// It has reached another stage, though it has proven nothing yet.
    pub(crate) fn on_advanced(&mut self, key: PeerKey, stage: Stage, core: &mut Core) {
        if let Some(peer) = self.get_mut(key) {
            peer.advance(stage, core);
        }
    }

    /// The next hop cannot be connected to. Its user may try only so often: a client must not use us to find out what
    /// listens where (req S3).
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

    /// Stops reading all connections; requests that are coming in break off.
    pub(crate) fn quiesce(&mut self, core: &mut Core) {
        core.go_towards(Stop::Quiet);
        for peer in self.table.walk_mut() {
            break_off(peer, core);
            peer.update_pause(core);
        }
    }

    /// Nothing is read any more, so requests that were forwarded will get no answers.
    pub(crate) fn give_up_answers(&mut self, core: &mut Core) {
        for peer in self.table.walk_mut() {
            for notice in peer.out.transactions.drain_merged() {
                let status = Status::TIMEOUT;
                core.tell_session(notice.session, SessionStep::Failed { notice, status });
            }
            peer.recount(core);
        }
    }

    pub(crate) fn close_all(&mut self, core: &mut Core) {
        let keys: Vec<PeerKey> = self.table.walk().map(|(key, _)| key).collect();
        for key in keys {
            self.close(key, CloseReason::Stopping, core);
        }
    }

    /// Stops reading, writes the queue, then closes the connection. If the reason is a fault of its peer, the
    /// connection is gone at once for all others: they do not wait until the peer has taken its bytes.
    pub(crate) fn close(&mut self, key: PeerKey, reason: CloseReason, core: &mut Core) {
        let Some(peer) = self.table.get_mut(key) else {
            return;
        };
        if peer.phase.is_closing() {
            return;
        }
        if let Some(names) = &peer.names {
            self.relays.remove(names, key);
        }
        if reason == CloseReason::Ended && peer.unanswered.has_send() {
            // Its last requests are being handled, possibly on another core.
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
            // What others sent to it is still delivered; what it was sending breaks off here.
            break_off(peer, core);
        } else if reason != CloseReason::SessionOver {
            sever(peer, core);
        } else if !is_up && !peer.out.is_empty() {
            // Once it is up, its client's last bytes are still delivered.
            return;
        }
        core.effects.push(Effect::Close { peer: key, reason });
        peer.wake(core);
    }

    /// All cores together exceed a limit, and this connection is the one too many.
    pub(crate) fn close_for_limit(&mut self, key: PeerKey, limit: Limit, core: &mut Core) {
        if self.get(key).is_some() {
            core.bite(limit, Some(key));
            self.close(key, CloseReason::Limit(limit), core);
        }
    }

    /// The same for a limit of its source. A connection that has proven nothing ends at once.
    pub(crate) fn on_excess(&mut self, key: PeerKey, limit: Limit, core: &mut Core) {
        match self.get(key).is_some_and(Peer::is_proven) {
            true => self.close_for_limit(key, limit, core),
            false => self.abort_newcomer(key, CloseReason::Limit(limit), core),
        }
    }

    /// Finds room for one more connection: a `newcomer`, or one that the relay opens. The connection that has proven
    /// least makes it.
    pub(crate) fn make_room(&mut self, newcomer: bool, core: &mut Core) -> Result<(), Limit> {
        let limits = &core.settings.limits;
        let (connections_per_core_max, unauthenticated_per_core_max) =
            (limits.connections_per_core_max, limits.unauthenticated_per_core_max);
        let expected = self.expected;
        if self.len() + expected - core.newcomers.len() >= connections_per_core_max {
            // All of them together would not be enough.
            return Err(Limit::Connections);
        }
        loop {
            let limit = if self.len() + expected >= connections_per_core_max {
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

    /// While memory is short, connections that have proven nothing may take only a part of it. Those of the source with
    /// most go first, until half of that part is free: so each walk through all of them costs the peers new bytes.
    pub(crate) fn shed_newcomers(&mut self, core: &mut Core) {
        let part = core.memory.allowance() / NEWCOMERS_PART;
        if !core.memory.is_pressed() || core.newcomers.bytes() <= part {
            return;
        }
        let newcomers = self.table.walk().filter(|(_, peer)| !peer.is_proven());
        let mut heaviest: Vec<(usize, PeerKey)> = newcomers.map(|(key, peer)| (peer.counted, key)).collect();
        heaviest.sort_unstable_by_key(|heavy| Reverse(*heavy));
        for (_, key) in heaviest {
            if core.newcomers.bytes() <= part / 2 {
                break;
            }
            self.abort_newcomer(key, CloseReason::Limit(Limit::QueueBytesTotal), core);
        }
    }

    /// A connection cannot be accepted because the process has too many open files.
    pub(crate) fn on_no_descriptor(&mut self, core: &mut Core) {
        if let Some(least) = core.newcomers.least() {
            self.abort_newcomer(least, CloseReason::NoDescriptor, core);
        }
    }

    /// Ends a connection that has proven nothing, and frees its place at once: waiting for its peer would hold the
    /// place for seconds.
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
        self.forget_relay(key);
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

    /// A connection goes on at another core, with what its user may send there. Nothing is told of it: it has not ended.
    pub(crate) fn depart(&mut self, key: PeerKey, core: &mut Core) -> Option<(Peer, Option<Part>)> {
        let mut peer = self.table.remove(key)?;
        if let Some(at) = peer.alarm.take() {
            core.alarms.remove(&(at, key));
        }
        for (who, share) in peer.shares() {
            core.tally(who, Tally::Departed(share));
        }
        let rate = peer.user.and_then(|user| core.rates.take_part(user, core.now));
        core.keep(mem::take(&mut peer.counted), 0);
        Some((peer, rate))
    }

    /// It is here, with the session of its client. The place for it has been kept: no limit is asked.
    pub(crate) fn arrive(
        &mut self,
        mut peer: Peer,
        session: SessionRef,
        rate: Option<Part>,
        core: &mut Core,
    ) -> PeerKey {
        let me = core.me;
        let key = self.table.insert_with_key(|key| {
            peer.move_to(PeerRef { core: me, key }, session, core.now);
            peer
        });
        let Some(peer) = self.get_mut(key) else {
            return key;
        };
        if peer.transport.websocket {
            // This core may have read another config meanwhile.
            peer.out.frame(&core.settings.websocket);
        }
        if core.settings.limits.counts_users() && peer.user.is_none() {
            // Its user began to be counted while it was on its way.
            peer.user = peer.verified_user();
        }
        if let Some(user) = peer.user {
            core.rates.give_part(user, rate, core.now);
        }
        for (who, share) in peer.shares() {
            core.tally(who, Tally::Arrived(share));
        }
        peer.update_pause(core);
        peer.set_alarm(core);
        key
    }

    /// Time has passed.
    pub(crate) fn on_tick(&mut self, core: &mut Core) {
        // Only what is due at this moment: an alarm that is set for the past again must not hold up the core.
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
        while let Some(notice) = self.get_mut(key).and_then(|p| p.out.expire(core.now)) {
            let status = Status::TIMEOUT;
            self.fail(key, Failure { notice, status }, core);
        }
        if let Some(peer) = self.get_mut(key) {
            peer.recount(core);
            peer.wake(core);
            peer.set_alarm(core);
        }
    }

    /// A core died with all its connections and sessions: the connections here end what they had with it, and what waits
    /// for a session that `is_over`, since the core may have been the one to answer.
    pub(crate) fn forget_core(
        &mut self,
        gone: CoreId,
        is_over: impl Fn(SessionRef) -> bool,
        core: &mut Core,
    ) {
        for peer in self.table.walk_mut() {
            let bound = peer.bound.len();
            peer.bound.retain(|session| session.core != gone);
            if peer.bound.len() < bound {
                peer.last_used = core.now;
            }
            let lost = peer.write_off(gone);
            core.memory.free(lost);
            peer.answer_all(core, |session| session.core == gone || is_over(session));
            for stream in peer.out.streams_from(gone) {
                core.tell_peer(peer.me, PeerStep::End { stream, flag: Flag::Aborted });
            }
            peer.update_pause(core);
            peer.set_alarm(core);
        }
    }
}

/// Tells everything that waits for a connection that it is gone, in this order: senders of requests that did not get
/// through; receivers of the request that broke off; its sessions.
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

/// The request that is coming in breaks off: its receivers are told.
pub(super) fn break_off(peer: &mut Peer, core: &mut Core) {
    if let Incoming::Request { session, stream, .. } = peer.receiving.frame {
        let flag = Flag::Aborted;
        core.tell_session(session, SessionStep::End { stream, flag });
    }
    peer.receiving.frame = Incoming::Dropped;
    peer.recount(core);
}
