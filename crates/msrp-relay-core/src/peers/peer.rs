//! One connection: what is being received on it, what it waits for, which sessions it serves.
//!
//! Owns: the request being received, the requests it still owes an answer to (answered at most
//! once: an answer takes the entry away), the bytes received from it that are still in this
//! process, and therefore whether it is read from; when it must be looked at though nothing
//! happened. RFC 4975, 7.1 and 7.2; RFC 4976, 6.1, 6.2 and 6.5.
//!
//! A connection is in one [`Phase`] and has one [`Origin`]: what is valid in one of them alone stands there.
//! Must not know: other connections, and sessions beyond their addresses.

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

/// Answers a connection has not taken off our hands, in bytes, at which we stop reading its requests.
pub(super) const CONTROL_BYTES_MAX: usize = 64 << 10;
/// ... and while memory is short.
const PRESSED_CONTROL_MAX: usize = 16 << 10;
/// ... and at which the far end's own responses are dropped: they are as long as it likes.
pub(super) const REPLY_BYTES_MAX: usize = 4 * CONTROL_BYTES_MAX;
/// ... and at which our own REPORTs are: as many wait at once as a full table of transactions makes when its
/// connection is lost. While memory is short both give way at `CONTROL_BYTES_MAX`.
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
    /// What of all that it makes us keep the memory budget has been told of.
    pub(super) counted: usize,
    /// Sessions whose outer side this connection is.
    pub(crate) bound: Vec<SessionRef>,
    /// What its peer has proven to be, where that is a relay.
    pub(crate) names: Option<ProvenNames>,
    /// What asks for sessions of ours by it.
    pub(crate) applicants: Applicants,
    /// The user whose sessions it counts among.
    pub(crate) user: Option<UserKey>,
    /// When something last came from it, or a session last lived by it.
    pub(crate) last_used: Instant,
    /// The next moment at which it must be looked at, as the core's alarms have it.
    pub(super) alarm: Option<Instant>,
}

impl Peer {
    /// On probation `until`.
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
            writing: Writing {
                is_woken: false,
                bytes_in_hand: 0,
                last_taken: now,
                is_taking: false,
                is_table_full: false,
            },
            counted: 0,
            bound: Vec::new(),
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

    /// It has authenticated, or a request of its is forwarded.
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

    /// It has got further towards a proof, or is being closed, which no stage comes after.
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

    /// It makes room for no other any more.
    pub(super) fn leave_newcomers(&self, core: &mut Core) {
        if let (Standing::Probation { place, .. }, Some(source)) = (self.standing, self.origin.source()) {
            core.newcomers.remove(source, self.me.key, place);
            core.newcomers.weigh(self.counted, 0);
        }
    }

    /// What of this connection is counted by address and by user.
    pub(crate) fn shares(&self) -> impl Iterator<Item = (Who, Share)> {
        let unproven = u32::from(!self.is_proven());
        let address = self.origin.source().map(Who::Address);
        let address = address.map(|who| (who, Share { connections: 1, unproven, sessions: 0 }));
        let user = self.user.map(Who::User);
        let user = user.map(|who| (who, Share { connections: 0, unproven: 0, sessions: 1 }));
        address.into_iter().chain(user)
    }

    /// The user may have a session on this connection: it counts among that user's from now on.
    pub(crate) fn count_among(&mut self, user: UserKey, core: &mut Core) {
        self.user = Some(user);
        core.rates.begin(user, core.now);
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

    /// Asks for a write, once.
    pub(crate) fn wake(&mut self, core: &mut Core) {
        if !self.writing.is_woken && self.phase.is_up() {
            self.writing.is_woken = true;
            core.effects.push(Effect::Wake(self.me.key));
        }
    }

    /// What this connection makes the core keep in memory, beside the queued bytes it has sent.
    pub(crate) fn kept(&self) -> usize {
        let incoming = match &self.receiving.frame {
            Incoming::Request { kept, .. } => *kept,
            Incoming::Auth { transit, .. } => transit.cost(),
            Incoming::Nothing | Incoming::Dropped => 0,
        };
        let sent = self.writing.bytes_in_hand + self.out.kept();
        sent + self.unanswered.bytes + incoming + self.receiving.unfinished + self.applicants.kept()
    }

    /// Tells the memory budget what has changed of [`kept`](Self::kept).
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
        // Also while it is paused already: the reason may be another, or a second session have come.
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
            if self.out.transactions.is_full(core.room()) {
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
            // Pressure as such has been counted by the budget.
            Some(PauseReason::Queue)
        } else if self.pause.throttled_until.is_some() {
            Some(PauseReason::Rate)
        } else {
            None
        }
    }

    /// Counts a table of transactions that has become full; see [`Outbound`].
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

    /// Makes sure that it is looked at at the next moment that matters.
    pub(crate) fn set_alarm(&mut self, core: &mut Core) {
        let at = self.next_deadline(&core.settings.limits);
        if at == self.alarm {
            return;
        }
        if let Some(before) = self.alarm {
            // An alarm that comes early costs less than moving it with each transaction.
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
            // Whatever else was due has been done by closing it, and would be due for ever.
            return self.out.transactions.deadline();
        }
        let probation = match self.standing {
            Standing::Probation { until, .. } => Some(until),
            Standing::Proven { .. } => None,
        };
        let idle = (!self.is_in_use()).then(|| self.last_used + limits.idle_timeout);
        let held_up = self.pause.held_up_since.map(|since| since + limits.stall_timeout);
        let moments =
            [self.out.transactions.deadline(), probation, idle, held_up, self.pause.throttled_until];
        moments.into_iter().flatten().min()
    }

    /// Whether a session lives by this connection: then it may be silent for as long as it likes
    /// (RFC 4975, 5.4).
    pub(crate) fn is_in_use(&self) -> bool {
        let has_own = matches!(&self.role, Role::Client { sessions } if !sessions.is_empty());
        has_own || !self.phase.is_up() || !self.bound.is_empty()
    }

    /// Whether a request comes through a relay that has proven nothing. Who was called as a relay has proven its name, and
    /// another process of this relay is none.
    pub(super) fn is_unproven_relay(&self, transit: &Transit) -> bool {
        let is_verified = match self.origin {
            Origin::Accepted { .. } => false,
            Origin::Dialled { to_other_process, .. } => to_other_process || self.names.is_some(),
        };
        !is_verified && transit.received_from_path().len() > 1
    }

    /// Whether a connection is there whose peer has proven to be the relay of a URI.
    pub(crate) fn leads_to_relay_of(&self, uri: &[u8]) -> bool {
        let serves_relay = self.role == Role::Foreign && self.phase == Phase::Up;
        serves_relay && self.names.as_ref().is_some_and(|names| names.cover_host_of(uri))
    }

    /// Who hands on a request that has come by this connection.
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
                let Transport { secure, port } = self.transport;
                let scheme = if secure { "msrps" } else { "msrp" };
                // What we dialled has no port of ours.
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

    /// Requests other than SEND that came through a session and wait for its far end's answer.
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

    /// Bytes received here, and lent to one core, are at another, maybe this one.
    pub(super) fn relend(&mut self, from: CoreId, to: CoreId, bytes: usize) {
        self.credit.lent.pass_on(from, Some(to).filter(|to| *to != self.me.core), bytes);
    }

    /// Bytes have left the process. Returns how many were not written off before: a core that dies may have passed some
    /// on without having told.
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

    /// What came from it and has not been written yet stays with what holds it.
    pub(super) fn leave_behind(&self, core: &mut Core) {
        core.memory.leave_behind(&self.credit.lent);
    }

    /// A core is gone, and with it what it held. Returns how many bytes that were.
    pub(super) fn write_off(&mut self, gone: CoreId) -> usize {
        let lost = self.credit.lent.write_off(gone, self.credit.outstanding).min(self.credit.outstanding);
        self.credit.outstanding -= lost;
        lost
    }

    /// Answers all requests whose session is no longer able to.
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

    /// Drops what is left of a request that has been refused while it comes in.
    pub(super) fn drop_rest_of(&mut self, sequence: u32) {
        if let Incoming::Request { stream, .. } = &self.receiving.frame
            && stream.sequence == sequence
        {
            self.receiving.frame = Incoming::Dropped;
        }
    }
}

/// Where a response goes: for SEND the previous hop alone, for everything else, which is answered
/// end to end, the whole way back (RFC 4975, 7.2; RFC 4976, 6.4.3).
pub(crate) fn response_to_path(transit: &Transit) -> &[u8] {
    let from_path = transit.received_from_path();
    match transit.method() {
        // Of a path that cannot be read, which is answered with a refusal, its beginning will do.
        _ if from_path.is_empty() => transit.head.first_from(&transit.bytes).unwrap_or_default(),
        // The path has been checked: its first URI is not parsed again for each chunk.
        Method::Send => from_path.first().unwrap_or_default(),
        _ => from_path.as_bytes(),
    }
}

/// The session a URI names, if this relay can have minted it.
pub(crate) fn named_session(uri: &[u8]) -> Option<SessionId> {
    MsrpUri::parse(uri).ok()?.session_id().and_then(SessionId::parse)
}
