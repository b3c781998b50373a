//! One connection: what is being received on it, what it waits for, whom it serves.
//!
//! Owns: the request being received, the requests it still owes an answer to (answered at most
//! once: an answer takes the entry away), the octets received from it that are still in this
//! process, and therefore whether it is read from; when somebody must look at it though nothing
//! happened. RFC 4975, 7.1 and 7.2; RFC 4976, 6.1, 6.2 and 6.5.
//!
//! Its rooms: `incoming`, what is received on it; `steps`, what other connections and the sessions
//! ask of it; `life`, how it begins and ends.

mod incoming;
mod life;
mod steps;

use std::collections::VecDeque;
use std::mem;
use std::time::Instant;

use super::admission::{AddressKey, Share, UserKey, Who};
use super::auth::{AuthState, Behind};
use super::forward::Outbound;
use super::identity::ProvenNames;
use super::ids::{CoreId, PeerRef, SessionId, SessionKey, StreamId};
use super::ledger::Loans;
use super::limit::Limit;
use super::message::{Giver, Message, Transit};
use super::newcomers::{Place, Stage};
use super::transaction::Room;
use super::{CloseReason, Core, Effect, Effects, Limits, Settings, Tally, Transport};
use msrp_proto::head::Method;
use msrp_proto::parser::Flag;
use msrp_proto::srv::PORT_DEFAULT;
use msrp_proto::status::Status;
use msrp_proto::uri::MsrpUri;
use msrp_proto::write::FrameWriter;

/// Answers a connection has not taken off our hands, in octets, at which we stop reading its requests.
const CONTROL_OCTETS_MAX: usize = 64 << 10;
/// ... and while memory is short.
const PRESSED_CONTROL_MAX: usize = 16 << 10;
/// ... and at which the far end's own responses are dropped: they are as long as it likes.
const REPLY_OCTETS_MAX: usize = 4 * CONTROL_OCTETS_MAX;
/// ... and at which our own REPORTs are: as many wait at once as a full table of transactions makes when its
/// connection is lost. While memory is short both give way at `CONTROL_OCTETS_MAX`.
const REPORT_OCTETS_MAX: usize = 4 << 20;

/// Requests that an empty table of unanswered ones keeps room for.
const UNANSWERED_ROOM_KEPT: usize = 64;

/// A connection and everything this core knows about it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) me: PeerRef,
    pub(crate) transport: Transport,
    pub(crate) role: Role,
    pub(crate) auth: Option<Box<AuthState>>,
    incoming: Incoming,
    /// Where the last request went that named a session of ours: the next one usually goes there, too.
    last_route: Option<Box<LastRoute>>,
    sequence: u32,
    pub(crate) unanswered: VecDeque<Unanswered>,
    /// Octets of heads kept for the unanswered.
    unanswered_octets: usize,
    /// Octets received and not yet written out or dropped: what its sender has used of its credit.
    pub(crate) outstanding: usize,
    /// Which of those other cores hold; they go with their core.
    lent: Loans,
    /// Bytes received of a record, or of a piece of a frame, whose rest is awaited.
    unfinished: usize,
    /// Bytes that are being written.
    pub(crate) in_hand: usize,
    /// What of all that it makes us keep the memory budget has been told of.
    counted: usize,
    paused: bool,
    pub(crate) woken: bool,
    pub(crate) closing: bool,
    /// Why, if it is.
    close_reason: Option<CloseReason>,
    /// It sends no more, and is closed as soon as it has been answered.
    pub(crate) ended: bool,
    pub(crate) out: Outbound,
    /// Sessions whose outer side this connection is.
    pub(crate) bound: Vec<SessionId>,
    /// Where it came from; `None`: we dialled it.
    pub(crate) source: Option<AddressKey>,
    /// Whom its peer has proven to be, where that is a relay.
    pub(crate) names: Option<ProvenNames>,
    /// The clients behind that relay who ask for sessions of ours.
    pub(crate) behind: Option<Box<Behind>>,
    /// It leads to another process of this relay.
    pub(crate) is_kin: bool,
    standing: Standing,
    /// The user whose sessions it counts among.
    pub(crate) user: Option<UserKey>,
    /// The user for whom we dialled it, and who is to blame if nobody answers.
    pub(crate) dialled_for: Option<UserKey>,
    /// Its user has sent too much: when it is read from again.
    throttled_until: Option<Instant>,
    /// It is not read from since, because its octets are not written on, though it serves several sessions.
    held_up_since: Option<Instant>,
    /// When it last had taken all it had been given, and whether it was given more then.
    pub(crate) last_taken: Instant,
    pub(crate) taking: bool,
    /// When something last came from it, or a session last lived by it.
    pub(crate) last_used: Instant,
    /// When the first of its sessions is over for good.
    pub(crate) session_over: Option<Instant>,
    /// The next moment at which somebody must look at it, as the core's alarms have it.
    alarm: Option<Instant>,
    /// No further request may be written until answers come; noted so that it counts once.
    table_full: bool,
}

/// Whether anybody vouches for a connection (RFC 4976, 6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// Not yet. It is closed at `until`, or when too many of its requests have been refused.
    Probation { until: Instant, refusals: u32, place: Place },
    /// It has authenticated, or a request of its was forwarded, or we dialled it. Later refusals
    /// count, too, but only those that no session's peer would earn, and those in a row.
    Proven { strays: u32 },
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

/// Why a connection is not read from.
#[derive(Clone, Copy)]
enum PauseReason {
    /// The relay is about to stop.
    Stopping,
    /// Its AUTH is being looked up: AUTHs are not pipelined.
    LookUp,
    /// It does not take its answers.
    AnswersNotTaken,
    /// Too many of its requests wait for an answer.
    Transactions,
    /// What it sent is not written on fast enough.
    Queue,
    /// Its user sends too fast.
    Rate,
}

impl PauseReason {
    fn limit(self) -> Option<Limit> {
        match self {
            Self::Stopping | Self::LookUp | Self::AnswersNotTaken => None,
            Self::Transactions => Some(Limit::Transactions),
            Self::Queue => Some(Limit::QueueBytes),
            Self::Rate => Some(Limit::BytesPerSecondPerUser),
        }
    }
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
        /// What its head takes while it comes in: its session and the way out may each have a copy.
        kept: usize,
    },
    /// An AUTH for us, judged when it is complete.
    Auth {
        transit: Transit,
        room: usize,
    },
    /// Something already dealt with: what is left of it is dropped.
    Dropped,
}

/// A URI that is ours, and the session it names.
#[derive(Debug)]
struct LastRoute {
    uri: Vec<u8>,
    session: SessionId,
}

/// A request that will be answered.
#[derive(Debug)]
pub(crate) struct Unanswered {
    sequence: u32,
    session: SessionId,
    transit: Transit,
}

impl Peer {
    /// On probation `until`.
    pub(crate) fn accepted(
        me: PeerRef,
        transport: Transport,
        source: AddressKey,
        place: Place,
        (now, until): (Instant, Instant),
    ) -> Self {
        let standing = Standing::Probation { until, refusals: 0, place };
        Self { source: Some(source), standing, ..Self::new(me, transport, Role::Foreign, now) }
    }

    pub(crate) fn dialling(me: PeerRef, transport: Transport, now: Instant) -> Self {
        Self::new(me, transport, Role::Dialling, now)
    }

    fn new(me: PeerRef, transport: Transport, role: Role, now: Instant) -> Self {
        Self {
            me,
            transport,
            role,
            auth: None,
            incoming: Incoming::Nothing,
            last_route: None,
            sequence: 0,
            unanswered: VecDeque::new(),
            unanswered_octets: 0,
            outstanding: 0,
            lent: Loans::default(),
            unfinished: 0,
            in_hand: 0,
            counted: 0,
            paused: false,
            woken: false,
            closing: false,
            close_reason: None,
            ended: false,
            out: Outbound::default(),
            bound: Vec::new(),
            source: None,
            names: None,
            behind: None,
            is_kin: false,
            standing: Standing::Proven { strays: 0 },
            user: None,
            dialled_for: None,
            throttled_until: None,
            held_up_since: None,
            last_taken: now,
            taking: false,
            last_used: now,
            session_over: None,
            alarm: None,
            table_full: false,
        }
    }

    pub(crate) fn is_proven(&self) -> bool {
        matches!(self.standing, Standing::Proven { .. })
    }

    /// It has authenticated, or a request of its is forwarded.
    pub(crate) fn prove(&mut self, core: &mut Core, fx: &mut Effects) {
        if self.is_proven() {
            return;
        }
        self.leave_newcomers(core);
        self.standing = Standing::Proven { strays: 0 };
        if let Some(source) = self.source {
            core.tally(Who::Address(source), Tally::Proven, fx);
        }
        self.set_alarm(core);
    }

    /// It has got further towards a proof, or is being closed, which no stage comes after.
    pub(crate) fn advance(&mut self, stage: Stage, core: &mut Core) {
        let (Standing::Probation { place, .. }, Some(source)) = (&mut self.standing, self.source) else {
            return;
        };
        let is_further = stage == Stage::Closing || stage > place.stage;
        if is_further && place.stage != Stage::Closing {
            core.newcomers.advance(source, self.me.key, place, stage);
        }
    }

    /// It makes room for nobody any more.
    fn leave_newcomers(&self, core: &mut Core) {
        if let (Standing::Probation { place, .. }, Some(source)) = (self.standing, self.source) {
            core.newcomers.remove(source, self.me.key, place);
            core.newcomers.weigh(self.counted, 0);
        }
    }

    /// What of this connection is counted by address and by user.
    pub(crate) fn shares(&self) -> impl Iterator<Item = (Who, Share)> {
        let unproven = u32::from(!self.is_proven());
        let address = self.source.map(Who::Address);
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

    /// Octets came from the connection: they count against its user's rate.
    fn spend(&mut self, octets: usize, core: &mut Core) {
        self.last_used = core.now;
        let Some(user) = self.user else {
            return;
        };
        if let Some(until) = core.rates.spend(user, octets, core.now) {
            self.throttled_until = Some(until);
            self.set_alarm(core);
        }
    }

    /// Nobody's rate is limited any more.
    pub(crate) fn stop_throttling(&mut self) {
        self.throttled_until = None;
    }

    /// Asks for a write, once.
    pub(crate) fn wake(&mut self, fx: &mut Effects) {
        if !self.woken && self.role != Role::Dialling {
            self.woken = true;
            fx.push(Effect::Wake(self.me.key));
        }
    }

    /// What this connection makes the core keep in memory, beside the queued bytes it has sent.
    pub(crate) fn kept(&self) -> usize {
        let incoming = match &self.incoming {
            Incoming::Request { kept, .. } => *kept,
            Incoming::Auth { transit, .. } => transit.cost(),
            Incoming::Nothing | Incoming::Dropped => 0,
        };
        let auth = self.auth.as_ref().map_or(0, |auth| auth.kept());
        let behind = self.behind.as_ref().map_or(0, |behind| behind.kept());
        let sent = self.in_hand + self.out.kept();
        sent + self.unanswered_octets + incoming + self.unfinished + auth + behind
    }

    /// Tells the memory budget what has changed of [`kept`](Self::kept).
    pub(crate) fn recount(&mut self, core: &mut Core, fx: &mut Effects) {
        let kept = self.kept();
        if kept != self.counted {
            let before = mem::replace(&mut self.counted, kept);
            if !self.is_proven() {
                core.newcomers.weigh(before, kept);
            }
            core.keep(before, kept, fx);
        }
    }

    /// Starts or stops reading as the queues demand.
    pub(crate) fn update_pause(&mut self, core: &mut Core, fx: &mut Effects) {
        self.recount(core, fx);
        let reason = self.reason_to_pause(core);
        // Also while it is paused already: the reason may be another, or a second session have come.
        let held_up = matches!(reason, Some(PauseReason::Queue)) && self.bound.len() > 1;
        if held_up != self.held_up_since.is_some() {
            self.held_up_since = held_up.then_some(core.now);
            self.set_alarm(core);
        }
        if reason.is_some() == self.paused {
            return;
        }
        self.paused = reason.is_some();
        if let Some(reason) = reason {
            if let Some(limit) = reason.limit() {
                core.count_limit(limit);
            }
            if self.out.transactions.is_full(core.room()) {
                // Writing does not wait for answers that are not read.
                self.wake(fx);
            }
        }
        fx.push(if self.paused { Effect::Pause(self.me.key) } else { Effect::Resume(self.me.key) });
    }

    fn reason_to_pause(&self, core: &Core) -> Option<PauseReason> {
        let limits = &core.settings.limits;
        let pressed = core.budget.is_pressed();
        let control_max = if pressed { PRESSED_CONTROL_MAX } else { CONTROL_OCTETS_MAX };
        let unanswered_max = if pressed { limits.request_octets_max } else { limits.queue_octets_high };
        let bound = match self.paused {
            _ if pressed => limits.request_octets_max,
            true => limits.queue_octets_low,
            false => limits.queue_octets_high,
        };
        if core.stopping {
            Some(PauseReason::Stopping)
        } else if self.auth.as_ref().is_some_and(|auth| auth.is_waiting()) {
            Some(PauseReason::LookUp)
        } else if self.out.control_len() >= control_max {
            Some(PauseReason::AnswersNotTaken)
        } else if self.unanswered.len() >= limits.transactions_per_peer_max
            || self.unanswered_octets >= unanswered_max
        {
            Some(PauseReason::Transactions)
        } else if self.outstanding > bound {
            // Pressure as such has been counted by the budget.
            Some(PauseReason::Queue)
        } else if self.throttled_until.is_some() {
            Some(PauseReason::Rate)
        } else {
            None
        }
    }

    /// Counts a table of transactions that has become full; see [`Outbound`].
    pub(crate) fn count_full_table(&mut self, core: &mut Core, fx: &mut Effects) {
        let room = Room::ample(core.settings.limits.transactions_per_peer_max);
        let full = self.out.transactions.is_full(room);
        if full && !self.table_full {
            core.bite(Limit::Transactions, Some(self.me.key), fx);
        }
        self.table_full = full;
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Makes sure that somebody looks at the next moment that matters.
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
        if self.closing {
            // Whatever else was due has been done by closing it, and would be due for ever.
            return self.out.transactions.deadline();
        }
        let probation = match self.standing {
            Standing::Probation { until, .. } => Some(until),
            Standing::Proven { .. } => None,
        };
        let idle = (!self.is_in_use()).then(|| self.last_used + limits.idle_timeout);
        let held_up = self.held_up_since.map(|since| since + limits.stall_timeout);
        let moments = [
            self.out.transactions.deadline(),
            probation,
            idle,
            held_up,
            self.throttled_until,
            self.session_over,
        ];
        moments.into_iter().flatten().min()
    }

    /// Whether a session lives by this connection: then it may be silent for as long as it likes
    /// (RFC 4975, 5.4).
    pub(crate) fn is_in_use(&self) -> bool {
        match &self.role {
            Role::Dialling => true,
            Role::Client { sessions } => !sessions.is_empty() || !self.bound.is_empty(),
            Role::Foreign | Role::Dialled => !self.bound.is_empty(),
        }
    }

    /// Whether a request comes through a relay that has proven nothing. Who was called as a relay has proven its name, and
    /// another process of this relay is none.
    fn is_unproven_relay(&self, transit: &Transit) -> bool {
        let is_verified = self.source.is_none() && (self.names.is_some() || self.is_kin);
        !is_verified && transit.received_from_path().len() > 1
    }

    /// Whether a connection is there whose peer has proven to be the relay of a URI.
    pub(crate) fn leads_to_relay_of(&self, uri: &[u8]) -> bool {
        let serves_relay = matches!(self.role, Role::Foreign | Role::Dialled) && !self.closing && !self.ended;
        serves_relay && self.names.as_ref().is_some_and(|names| names.cover_host_of(uri))
    }

    /// Who hands on a request that has come by this connection.
    fn giver(&self, transit: &Transit, settings: &Settings) -> Giver {
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
        fx: &mut Effects,
    ) {
        let from = transit.head.to_path(&transit.octets).first().unwrap_or_default();
        self.respond_from(from, transit, (status, comment), fx);
    }

    /// Answers a request that need not be well-formed: its To-Path may be wrong, or absent.
    fn refuse(&mut self, transit: &Transit, status: Status, settings: &Settings, fx: &mut Effects) {
        match transit.head.first_to(&transit.octets) {
            Some(from) => self.respond_from(from, transit, (status, None), fx),
            None => {
                let Transport { secure, port } = self.transport;
                let scheme = if secure { "msrps" } else { "msrp" };
                // What we dialled has no port of ours.
                let ours = || settings.tls_port.or_else(|| settings.ports.first().copied());
                let port = Some(port).filter(|port| settings.ports.contains(port)).or_else(ours);
                let port = port.unwrap_or(PORT_DEFAULT);
                let own = format!("{scheme}://{}:{port};tcp", settings.hostname);
                self.respond_from(own.as_bytes(), transit, (status, None), fx);
            }
        }
    }

    fn respond_from(
        &mut self,
        from: &[u8],
        transit: &Transit,
        (status, comment): (Status, Option<&str>),
        fx: &mut Effects,
    ) {
        FrameWriter::response(self.out.control(), transit.head.tid(&transit.octets), status, comment)
            .header("To-Path", response_to_path(transit))
            .header("From-Path", from)
            .end(Flag::Last);
        self.wake(fx);
    }

    fn take_unanswered(&mut self, sequence: u32) -> Option<Unanswered> {
        let index = self.unanswered.iter().position(|u| u.sequence == sequence)?;
        let unanswered = self.unanswered.remove(index)?;
        self.unanswered_octets -= unanswered.transit.cost();
        if self.unanswered.is_empty() && self.unanswered.capacity() > UNANSWERED_ROOM_KEPT {
            // A burst must not be remembered in memory for as long as the connection lives.
            self.unanswered = VecDeque::new();
        }
        Some(unanswered)
    }

    /// Requests other than SEND that came through a session and wait for its far end's answer.
    fn waiting_by(&self, session: SessionId) -> impl Iterator<Item = &Transit> {
        let of_session = self.unanswered.iter().filter(move |unanswered| unanswered.session == session);
        of_session.map(|unanswered| &unanswered.transit).filter(|transit| transit.method() != Method::Send)
    }

    /// Octets received here go to another core.
    pub(crate) fn lend(&mut self, to: CoreId, octets: usize) {
        if to != self.me.core {
            self.lent.lend(to, octets);
        }
    }

    /// Octets received here, and lent to one core, are at another, maybe this one.
    fn relend(&mut self, from: CoreId, to: CoreId, octets: usize) {
        self.lent.pass_on(from, Some(to).filter(|to| *to != self.me.core), octets);
    }

    /// Octets have left the process. Returns how many were not written off before: a core that dies may have passed some
    /// on without having told.
    fn settle(&mut self, from: CoreId, octets: usize) -> usize {
        if from != self.me.core {
            self.lent.settle(from, octets);
        }
        debug_assert!(self.outstanding >= octets || self.lent.is_in_doubt(), "credited twice");
        let settled = octets.min(self.outstanding);
        self.outstanding -= settled;
        self.lent.settle_here(self.outstanding);
        settled
    }

    /// A core is gone, and with it what it held. Returns how many octets that were.
    fn write_off(&mut self, gone: CoreId) -> usize {
        let lost = self.lent.write_off(gone, self.outstanding).min(self.outstanding);
        self.outstanding -= lost;
        lost
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
        Method::Send => transit.head.first_from(&transit.octets).unwrap_or_default(),
        // Of a path that cannot be read, which is answered with a refusal, its beginning will do.
        _ if from_path.is_empty() => transit.head.first_from(&transit.octets).unwrap_or_default(),
        _ => from_path.as_bytes(),
    }
}

/// The session a URI names, if this relay can have minted it.
pub(crate) fn named_session(uri: &[u8]) -> Option<SessionId> {
    MsrpUri::parse(uri).ok()?.session_id().and_then(SessionId::parse)
}
