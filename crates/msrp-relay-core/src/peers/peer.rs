//! One connection: what it is receiving, what it waits for, which sessions it serves.
//!
//! Owns: the request being received; the requests it still owes an answer to (answered at most once: an answer takes
//! the entry away); the bytes received from it that are still in this process, and therefore whether it is read from;
//! the time of the next look at it. RFC 4975, 7.1 and 7.2; RFC 4976, 6.1, 6.2 and 6.5.
//!
//! A connection is in one [`Phase`] and has one [`Origin`]: each holds what is valid in it alone. Must not know other
//! connections, or more of sessions than their addresses.

use std::collections::BTreeSet;
use std::mem;
use std::time::Instant;

use msrp_proto::head::Method;
use msrp_proto::parser::Flag;
use msrp_proto::srv::PORT_DEFAULT;
use msrp_proto::status::Status;
use msrp_proto::uri::MsrpUri;
use msrp_proto::write::FrameWriter;

use super::state::{
    Credit, Incoming, Origin, Pause, PauseReason, Phase, Receiving, Role, Standing, Unanswered, Writing,
};
use crate::api::{Effect, Transport};
use crate::auth::applicants::Applicants;
use crate::core::Core;
use crate::identity::ProvenNames;
use crate::ids::{CoreId, PeerRef, SessionId, SessionRef};
use crate::limit::Limit;
use crate::message::PeerStep;
use crate::outbound::queue::Outbound;
use crate::quota::newcomers::{Place, Stage};
use crate::quota::who::{AddressKey, Share, Tally, UserKey, Who};
use crate::request::{Giver, Transit};
use crate::settings::{Limits, Settings};
use crate::transactions::Room;

/// Bytes of answers that the peer has not taken, at which we stop reading its requests.
pub(super) const CONTROL_BYTES_MAX: usize = 64 << 10;
/// The same while memory is short.
const PRESSED_CONTROL_MAX: usize = 16 << 10;
/// The same, at which we drop the far end's own responses: they are as long as it likes.
pub(super) const REPLY_BYTES_MAX: usize = 4 * CONTROL_BYTES_MAX;
/// The same, at which we drop our own REPORTs: a full table of transactions makes as many at once when its connection
/// is lost. While memory is short, both use `CONTROL_BYTES_MAX`.
pub(super) const REPORT_BYTES_MAX: usize = 4 << 20;

/// A connection and everything this core knows about it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) me: PeerRef,
    pub(crate) transport: Transport,
    pub(crate) origin: Origin,
    pub(crate) phase: Phase,
    pub(crate) role: Role,
    pub(super) standing: Standing,
    pub(super) receiving: Receiving,
    pub(crate) unanswered: Unanswered,
    pub(super) credit: Credit,
    pub(super) pause: Pause,
    pub(crate) out: Outbound,
    pub(crate) writing: Writing,
    /// How much of what it makes us keep the memory budget knows of.
    pub(super) counted: usize,
    /// Sessions whose outer side this connection is.
    pub(crate) bound: BTreeSet<SessionRef>,
    /// The names that its peer has proven, if it is a relay.
    pub(crate) names: Option<ProvenNames>,
    /// The clients that ask for sessions of ours by it.
    pub(crate) applicants: Applicants,
    /// The user whose sessions it counts among.
    pub(crate) user: Option<UserKey>,
    /// When something last came from it, or it last served a session.
    pub(crate) last_used: Instant,
    /// The time of the next look at it, as the core's alarms have it.
    pub(super) alarm: Option<Instant>,
}

impl Peer {
    /// A connection on probation until `until`.
    pub(crate) fn accepted(
        me: PeerRef,
        transport: Transport,
        (source, place): (AddressKey, Place),
        (now, until): (Instant, Instant),
    ) -> Self {
        let standing = Standing::Probation { until, refusals: 0, place };
        Self { standing, phase: Phase::Up, ..Self::new(me, transport, Origin::Accepted { source }, now) }
    }

    pub(crate) fn dialling(me: PeerRef, transport: Transport, origin: Origin, now: Instant) -> Self {
        Self::new(me, transport, origin, now)
    }

    fn new(me: PeerRef, transport: Transport, origin: Origin, now: Instant) -> Self {
        Self {
            me,
            transport,
            origin,
            phase: Phase::Dialling,
            role: Role::Foreign,
            standing: Standing::Proven { strays: 0 },
            receiving: Receiving { frame: Incoming::Nothing, last_route: None, sequence: 0, unfinished: 0 },
            unanswered: Unanswered::default(),
            credit: Credit::default(),
            pause: Pause::default(),
            out: Outbound::default(),
            writing: Writing::idle(now),
            counted: 0,
            bound: BTreeSet::new(),
            names: None,
            applicants: Applicants::None,
            user: None,
            last_used: now,
            alarm: None,
        }
    }

    pub(crate) fn is_proven(&self) -> bool {
        matches!(self.standing, Standing::Proven { .. })
    }

    /// It has authenticated, or one of its requests is forwarded.
    pub(crate) fn prove(&mut self, core: &mut Core) {
        if self.is_proven() {
            return;
        }
        self.leave_newcomers(core);
        self.standing = Standing::Proven { strays: 0 };
        if let Some(source) = self.origin.source() {
            core.tally(Who::Address(source), Tally::Proven);
        }
        self.set_alarm(core);
    }

    /// It has reached another stage, or is being closed, which no stage follows.
    pub(crate) fn advance(&mut self, stage: Stage, core: &mut Core) {
        let (Standing::Probation { place, .. }, Some(source)) = (&mut self.standing, self.origin.source())
        else {
            return;
        };
        let is_further = stage == Stage::Closing || stage > place.stage;
        if is_further && place.stage != Stage::Closing {
            core.newcomers.advance(source, self.me.key, place, stage);
        }
    }

    /// It is not among the connections that make room any more.
    pub(super) fn leave_newcomers(&self, core: &mut Core) {
        if let (Standing::Probation { place, .. }, Some(source)) = (self.standing, self.origin.source()) {
            core.newcomers.remove(source, self.me.key, place);
            core.newcomers.weigh(self.counted, 0);
        }
    }

    /// What this connection contributes to the counts by address and by user.
    pub(crate) fn shares(&self) -> impl Iterator<Item = (Who, Share)> {
        let unproven = u32::from(!self.is_proven());
        let address = self.origin.source().map(Who::Address);
        let address = address.map(|who| (who, Share { connections: 1, unproven, sessions: 0 }));
        let user = self.user.map(Who::User);
        let user = user.map(|who| (who, Share { connections: 0, unproven: 0, sessions: 1 }));
        address.into_iter().chain(user)
    }

    /// The user may have a session on this connection: it counts among that user's from here on.
    pub(crate) fn count_among(&mut self, user: UserKey, core: &mut Core) {
        self.user = Some(user);
        core.rates.begin(user, core.now);
    }

    /// The user that its client has proven to be.
    pub(super) fn verified_user(&self) -> Option<UserKey> {
        let user = self.applicants.first_verified();
        user.map(|user| UserKey::new(user.username(), user.realm()))
    }

    /// Whether nothing is under way on it, in either direction, and nothing is owed for what was.
    pub(crate) fn is_at_rest(&self) -> bool {
        let reads = matches!(self.receiving.frame, Incoming::Nothing) && !self.pause.is_on;
        let writes = !self.out.is_empty() || !self.out.is_between_frames() || self.out.transactions.len() > 0;
        let owes = self.unanswered.len() > 0 || self.applicants.is_any_waiting();
        self.phase == Phase::Up
            && reads
            && !writes
            && !owes
            && self.credit.is_clear()
            && self.bound.is_empty()
    }

    /// It is at another core from now on, where its writer has nothing to do and its reader begins.
    pub(super) fn move_to(&mut self, me: PeerRef, session: SessionRef, now: Instant) {
        self.me = me;
        self.role = Role::Client { sessions: vec![session] };
        self.applicants.move_to(session);
        self.receiving.last_route = None;
        self.receiving.unfinished = 0;
        self.writing = Writing::idle(now);
    }

    /// Bytes came from the connection: they count against its user's rate.
    pub(super) fn spend(&mut self, bytes: usize, core: &mut Core) {
        self.last_used = core.now;
        let Some(user) = self.user else {
            return;
        };
        if let Some(until) = core.rates.spend(user, bytes, core.now) {
            self.pause.throttled_until = Some(until);
            self.set_alarm(core);
        }
    }

    /// Rates are not limited any more.
    pub(crate) fn stop_throttling(&mut self) {
        self.pause.throttled_until = None;
    }

    /// Asks for a write, only once until that write.
    pub(crate) fn wake(&mut self, core: &mut Core) {
        if !self.writing.is_woken && self.phase.is_up() {
            self.writing.is_woken = true;
            core.effects.push(Effect::Wake(self.me.key));
        }
    }

    /// Bytes that this connection makes the core keep in memory, beside the queued bytes it has sent.
    pub(crate) fn kept(&self) -> usize {
        let incoming = match &self.receiving.frame {
            Incoming::Request { kept, .. } => *kept,
            Incoming::Auth { transit, .. } => transit.cost(),
            Incoming::Nothing | Incoming::Dropped => 0,
        };
        let sent = self.writing.bytes_in_hand + self.out.kept();
        sent + self.unanswered.bytes + incoming + self.receiving.unfinished + self.applicants.kept()
    }

    /// Tells the memory budget how much [`kept`](Self::kept) has changed.
    pub(crate) fn recount(&mut self, core: &mut Core) {
        let kept = self.kept();
        if kept != self.counted {
            let before = mem::replace(&mut self.counted, kept);
            if !self.is_proven() {
                core.newcomers.weigh(before, kept);
            }
            core.keep(before, kept);
        }
    }

    /// Starts or stops reading as the queues demand.
    pub(crate) fn update_pause(&mut self, core: &mut Core) {
        self.recount(core);
        let reason = self.reason_to_pause(core);
        // Also while it is paused already: the reason may be another one, or a second session may have come.
        let held_up = matches!(reason, Some(PauseReason::Queue)) && self.bound.len() > 1;
        if held_up != self.pause.held_up_since.is_some() {
            self.pause.held_up_since = held_up.then_some(core.now);
            self.set_alarm(core);
        }
        if reason.is_some() == self.pause.is_on {
            return;
        }
        self.pause.is_on = reason.is_some();
        if let Some(reason) = reason {
            if let Some(limit) = reason.limit() {
                core.count_limit(limit);
            }
            if self.out.transactions.is_full(core.room()) || self.out.is_framed() {
                // Writing does not wait for answers that are not read.
                self.wake(core);
            }
        }
        core.effects.push(if self.pause.is_on {
            Effect::Pause(self.me.key)
        } else {
            Effect::Resume(self.me.key)
        });
    }

    fn reason_to_pause(&self, core: &Core) -> Option<PauseReason> {
        let limits = &core.settings.limits;
        let pressed = core.memory.is_pressed();
        let control_max = if pressed { PRESSED_CONTROL_MAX } else { CONTROL_BYTES_MAX };
        let unanswered_max = if pressed { limits.request_bytes_max } else { limits.queue_bytes_high };
        let bound = match self.pause.is_on {
            _ if pressed => limits.request_bytes_max,
            true => limits.queue_bytes_low,
            false => limits.queue_bytes_high,
        };
        if core.is_stopping() {
            Some(PauseReason::Stopping)
        } else if self.applicants.is_own_waiting() {
            Some(PauseReason::LookUp)
        } else if self.out.control_len() >= control_max {
            Some(PauseReason::AnswersNotTaken)
        } else if self.unanswered.len() >= limits.transactions_per_peer_max
            || self.unanswered.bytes >= unanswered_max
        {
            Some(PauseReason::Transactions)
        } else if self.credit.outstanding > bound {
            // The budget has counted the pressure itself.
            Some(PauseReason::Queue)
        } else if self.pause.throttled_until.is_some() {
            Some(PauseReason::Rate)
        } else {
            None
        }
    }

    /// Counts a table of transactions that has filled up; see [`Outbound`].
    pub(crate) fn count_full_table(&mut self, core: &mut Core) {
        let room = Room::ample(core.settings.limits.transactions_per_peer_max);
        let full = self.out.transactions.is_full(room);
        if full && !self.writing.is_table_full {
            core.bite(Limit::Transactions, Some(self.me.key));
        }
        self.writing.is_table_full = full;
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.pause.is_on
    }

    /// Sets the alarm for the next moment at which something is due.
    pub(crate) fn set_alarm(&mut self, core: &mut Core) {
        let at = self.next_deadline(&core.settings.limits);
        if at == self.alarm {
            return;
        }
        if let Some(before) = self.alarm {
            // An early alarm costs less than moving it with each transaction.
            if at.is_some_and(|at| before <= at) {
                return;
            }
            core.alarms.remove(&(before, self.me.key));
        }
        self.alarm = at;
        if let Some(at) = at {
            core.alarms.insert((at, self.me.key));
        }
    }

    fn next_deadline(&self, limits: &Limits) -> Option<Instant> {
        if self.phase.is_closing() {
            // Closing it has settled whatever else was due, which would be due for ever.
            return self.out.deadline();
        }
        let probation = match self.standing {
            Standing::Probation { until, .. } => Some(until),
            Standing::Proven { .. } => None,
        };
        let idle = (!self.is_in_use()).then(|| self.last_used + limits.idle_timeout);
        let held_up = self.pause.held_up_since.map(|since| since + limits.stall_timeout);
        let moments = [self.out.deadline(), probation, idle, held_up, self.pause.throttled_until];
        moments.into_iter().flatten().min()
    }

    /// Whether a session uses this connection: then it may be silent for as long as it likes (RFC 4975, 5.4).
    pub(crate) fn is_in_use(&self) -> bool {
        let has_own = matches!(&self.role, Role::Client { sessions } if !sessions.is_empty());
        has_own || !self.phase.is_up() || !self.bound.is_empty()
    }

    /// Whether a request comes through a relay that has proven nothing. A peer that we called as a relay has proven its
    /// name, and another process of this relay is not another relay.
    pub(super) fn is_unproven_relay(&self, transit: &Transit) -> bool {
        let is_verified = match self.origin {
            Origin::Accepted { .. } => false,
            Origin::Dialled { to_other_process, .. } => to_other_process || self.names.is_some(),
        };
        !is_verified && transit.received_from_path().len() > 1
    }

    /// Whether the peer has proven to be the relay of a URI.
    pub(crate) fn leads_to_relay_of(&self, uri: &[u8]) -> bool {
        let serves_relay = self.role == Role::Foreign && self.phase == Phase::Up;
        serves_relay && self.names.as_ref().is_some_and(|names| names.cover_host_of(uri))
    }

    /// Who hands over a request that has come by this connection.
    pub(super) fn giver(&self, transit: &Transit, settings: &Settings) -> Giver {
        let nearest = transit.received_from_path().first().unwrap_or_default();
        let has_proven = self.names.as_ref().is_some_and(|names| names.cover_host_of(nearest));
        match has_proven && settings.admits_host_of(nearest) {
            true => Giver::Relay,
            false => Giver::Peer,
        }
    }

    /// Answers a request received here: hop by hop, To-Path is the previous hop alone, From-Path
    /// the URI it addressed (RFC 4975, 7.2), both exactly as sent.
    pub(crate) fn respond(
        &mut self,
        transit: &Transit,
        status: Status,
        comment: Option<&str>,
        core: &mut Core,
    ) {
        let from = transit.head.to_path(&transit.bytes).first().unwrap_or_default();
        self.respond_from(from, transit, (status, comment), core);
    }

    /// Answers a request that need not be well-formed: its To-Path may be wrong, or absent.
    pub(super) fn refuse(&mut self, transit: &Transit, status: Status, core: &mut Core) {
        match transit.head.first_to(&transit.bytes) {
            Some(from) => self.respond_from(from, transit, (status, None), core),
            None => {
                let settings = &core.settings;
                let Transport { secure, port, .. } = self.transport;
                let scheme = if secure { "msrps" } else { "msrp" };
                // A connection that we dialled has no port of ours.
                let ours = || settings.tls_port.or_else(|| settings.ports.first().copied());
                let port = Some(port).filter(|port| settings.ports.contains(port)).or_else(ours);
                let port = port.unwrap_or(PORT_DEFAULT);
                let own = format!("{scheme}://{}:{port};tcp", settings.hostname);
                self.respond_from(own.as_bytes(), transit, (status, None), core);
            }
        }
    }

    fn respond_from(
        &mut self,
        from: &[u8],
        transit: &Transit,
        (status, comment): (Status, Option<&str>),
        core: &mut Core,
    ) {
        FrameWriter::response(self.out.control(), transit.head.tid(&transit.bytes), status, comment)
            .header("To-Path", response_to_path(transit))
            .header("From-Path", from)
            .end(Flag::Last);
        self.wake(core);
    }

    /// Requests other than SEND that came through a session and wait for an answer from its far end.
    pub(super) fn waiting_by(&self, session: SessionRef) -> impl Iterator<Item = &Transit> {
        let of_session =
            self.unanswered.requests.iter().filter(move |unanswered| unanswered.session == session);
        of_session.map(|unanswered| &unanswered.transit).filter(|transit| transit.method() != Method::Send)
    }

    /// Bytes received here go to another core.
    pub(crate) fn lend(&mut self, to: CoreId, bytes: usize) {
        if to != self.me.core {
            self.credit.lent.lend(to, bytes);
        }
    }

    /// Bytes received here and lent to one core are at another, possibly this one.
    pub(super) fn relend(&mut self, from: CoreId, to: CoreId, bytes: usize) {
        self.credit.lent.pass_on(from, Some(to).filter(|to| *to != self.me.core), bytes);
    }

    /// Bytes have left the process. Returns how many of them were not written off before: a dying core may have passed
    /// some on without a report.
    pub(super) fn settle(&mut self, from: CoreId, bytes: usize) -> usize {
        if from != self.me.core {
            self.credit.lent.settle(from, bytes);
        }
        debug_assert!(self.credit.outstanding >= bytes || self.credit.lent.is_in_doubt(), "credited twice");
        let settled = bytes.min(self.credit.outstanding);
        self.credit.outstanding -= settled;
        self.credit.lent.settle_here(self.credit.outstanding);
        settled
    }

    /// Bytes from this connection that are not yet written stay with the cores that hold them.
    pub(super) fn leave_behind(&self, core: &mut Core) {
        core.memory.leave_behind(&self.credit.lent);
    }

    /// A core is gone with the bytes that it held. Returns how many those were.
    pub(super) fn write_off(&mut self, gone: CoreId) -> usize {
        let lost = self.credit.lent.write_off(gone, self.credit.outstanding).min(self.credit.outstanding);
        self.credit.outstanding -= lost;
        lost
    }

    /// Answers all requests whose session cannot answer any more.
    pub(crate) fn answer_all(&self, core: &mut Core, lost: impl Fn(SessionRef) -> bool) {
        let running = match &self.receiving.frame {
            Incoming::Request { session, stream, .. } if lost(*session) => Some(stream.sequence),
            _ => None,
        };
        let waiting = self.unanswered.requests.iter().filter(|u| lost(u.session));
        for sequence in waiting.map(|u| u.sequence).chain(running) {
            let peer = self.me;
            core.tell_peer(peer, PeerStep::Answer { sequence, status: Some(Status::NO_SESSION) });
        }
    }

    /// Drops the rest of a request that was refused while it comes in.
    pub(super) fn drop_rest_of(&mut self, sequence: u32) {
        if let Incoming::Request { stream, .. } = &self.receiving.frame
            && stream.sequence == sequence
        {
            self.receiving.frame = Incoming::Dropped;
        }
    }
}

/// Where a response goes. For SEND, to the previous hop alone; for everything else, which is answered end to end, the
/// whole way back (RFC 4975, 7.2; RFC 4976, 6.4.3).
pub(crate) fn response_to_path(transit: &Transit) -> &[u8] {
    let from_path = transit.received_from_path();
    match transit.method() {
        // For a refusal, the begin of an unreadable path is enough.
        _ if from_path.is_empty() => transit.head.first_from(&transit.bytes).unwrap_or_default(),
        // The path has been checked: its first URI is not parsed again for each chunk.
        Method::Send => from_path.first().unwrap_or_default(),
        _ => from_path.as_bytes(),
    }
}

/// The session that a URI names, if this relay can have minted it.
pub(crate) fn named_session(uri: &[u8]) -> Option<SessionId> {
    MsrpUri::parse(uri).ok()?.session_id().and_then(SessionId::parse)
}
