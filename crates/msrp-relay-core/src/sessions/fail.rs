//! How requests fail and sessions end, and how the peers hear of it (RFC 4976, 6.3 and 6.4.1; reqs F7, F9, F10, A12).
//!
//! Invariant: a failure is reported once: by the response that the hop before still awaits, or by a REPORT.

use bytes::Bytes;

use msrp_proto::head::{FailureReport, Method};
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::uri::Path;
use msrp_proto::write::FrameWriter;

use super::Sessions;
use super::session::{OuterSide, Running, refuse};
use crate::Relay;
use crate::api::Event;
use crate::core::Core;
use crate::ids::{CoreId, PeerRef, SessionRef, StreamId, Tid};
use crate::limit::Limit;
use crate::message::{PeerStep, SessionStep};
use crate::quota::who::{Tally, Who};
use crate::reason::EndReason;
use crate::request::{Giver, MessageId, Neighbour, Notice};

/// These handlers need the connections, too: the one that leads to a session's client may have to be opened.
impl Relay {
    /// A request failed after it had ended. A SEND has been answered, so a REPORT follows; everything else is answered
    /// at this point (reqs F7, F9).
    pub(crate) fn on_failed(&mut self, notice: &Notice, status: Status) {
        if notice.method != Method::Send {
            let sequence = notice.stream.sequence;
            return self
                .core
                .tell_peer(notice.stream.peer, PeerStep::Answer { sequence, status: Some(status) });
        }
        self.sessions.note_stopped(notice, status, &mut self.core);
        let Some(back) = self.sessions.wants_report(notice) else {
            return;
        };
        let back = match back {
            Back::Inside => self.reach_inside(notice.session).map(Neighbour::Peer),
            Back::Outside(to) => Ok(to),
        };
        if let Ok(back) = back {
            self.sessions.report(notice, status, back, &mut self.core);
        }
    }

    /// A REPORT of this relay's own, from the session that this one is linked to.
    pub(crate) fn on_report(&mut self, to: SessionRef, from: SessionRef, bytes: Bytes) {
        if !self.sessions.is_linked(to, from) {
            return;
        }
        if let Ok(peer) = self.reach_inside(to) {
            self.core.tell_peer(peer, PeerStep::Frame { bytes });
        }
    }
}

/// The direction in which a REPORT goes back.
pub(crate) enum Back {
    Inside,
    Outside(Neighbour),
}

impl Sessions {
    /// The hop after a session refuses a request that is still coming in. The session stops it, and answers the hop
    /// before with the response that hop still awaits (req F7).
    pub(crate) fn on_broken(&mut self, this: SessionRef, stream: StreamId, status: Status, core: &mut Core) {
        if let Some(running) = self.get_mut(this).and_then(|session| session.take_running(stream)) {
            let message = running.transit.head.message_id(&running.transit.bytes).map(MessageId::new);
            if status == Status::STOP
                && let (Some(session), Some(message)) = (self.get_mut(this), message)
            {
                session.stop(running.inward, message);
                self.recount(this, core);
            }
            running.end(Flag::Aborted, core);
            refuse(core, this, &running, status);
        }
    }

    /// A connection with several sessions is held up. If this session's receiver takes nothing, what waits for it from
    /// that connection is refused: one slow receiver must not stop the others (req S14).
    pub(crate) fn on_relieve(
        &mut self,
        this: SessionRef,
        source: PeerRef,
        before: Option<SessionRef>,
        core: &mut Core,
    ) {
        let me = core.me;
        let Some(session) = self.get_mut(this) else {
            return;
        };
        let inner = session.inner(me).map(Neighbour::Peer);
        let origin = before.map_or(Neighbour::Peer(source), Neighbour::Session);
        let sides = [inner, session.outer_side()];
        for side in sides.into_iter().flatten().filter(|side| *side != origin) {
            match side {
                Neighbour::Peer(peer) => core.tell_peer(peer, PeerStep::Shed { source }),
                Neighbour::Session(next) => {
                    core.tell_session(next, SessionStep::Relieve { source, before: Some(this) });
                }
            }
        }
    }

    /// The next hop wants no more of a message: the session refuses the rest of it.
    fn note_stopped(&mut self, notice: &Notice, status: Status, core: &mut Core) {
        if status == Status::STOP
            && let (Some(session), Some(message)) = (self.get_mut(notice.session), &notice.message_id)
        {
            session.stop(notice.inward, message.clone());
            self.recount(notice.session, core);
        }
    }

    /// The way back for a REPORT, if the sender wants one and there is a way (req F9).
    fn wants_report(&self, notice: &Notice) -> Option<Back> {
        let session = self.get(notice.session)?;
        notice.message_id.as_ref().filter(|_| notice.failure_report != FailureReport::No)?;
        match (&session.outer, notice.inward) {
            (_, false) => Some(Back::Inside),
            (OuterSide::Bound { to, .. }, true) => Some(Back::Outside(*to)),
            (OuterSide::Unbound | OuterSide::Lost { .. }, true) => None,
        }
    }

    /// Sends a failure REPORT the way the SEND came (req F9).
    fn report(&self, notice: &Notice, status: Status, back: Neighbour, core: &mut Core) {
        let (Some(session), Some(message_id)) = (self.get(notice.session), &notice.message_id) else {
            return;
        };
        // Through another session of this relay the REPORT makes one more hop, within the process.
        let report_to = Path::new(&notice.report_to);
        let mut from_path = Vec::with_capacity(256);
        let to_path = match (back, report_to.first()) {
            (Neighbour::Session(_), Some(through)) => {
                from_path.extend_from_slice(through);
                from_path.push(b' ');
                report_to.after(1)
            }
            _ => report_to,
        };
        from_path.extend_from_slice(session.own_uri(core.now));
        let tid = Tid::mint(&mut core.entropy);
        let mut frame = Vec::with_capacity(512);
        FrameWriter::request(&mut frame, tid.as_bytes(), "REPORT")
            .header("To-Path", to_path.as_bytes())
            .header("From-Path", &from_path)
            .header("Message-ID", message_id.as_bytes())
            .byte_range(notice.range.within_total())
            .header_fmt("Status", format_args!("000 {} {}", status.code(), status.phrase()))
            .end(Flag::Last);
        core.stats.reports_sent += 1;
        core.effects.event(Event::ReportSent { session: notice.session.id.prefix().to_owned(), status });
        let bytes = Bytes::from(frame);
        match back {
            Neighbour::Peer(peer) => core.tell_peer(peer, PeerStep::Frame { bytes }),
            Neighbour::Session(before) => {
                core.tell_session(before, SessionStep::Report { from: notice.session, bytes });
            }
        }
    }

    /// The client is gone, and its session with it (req A10).
    pub(crate) fn on_inner_lost(&mut self, this: SessionRef, reason: EndReason, core: &mut Core) {
        let Some(session) = self.remove(this) else {
            return;
        };
        core.stats.sessions_closed += 1;
        core.tell_of_end(&session);
        core.keep(session.weight, 0);
        core.effects.event(Event::SessionClosed { session: Box::new(session.view(core.now)), reason });
        for running in &session.running {
            running.end(Flag::Aborted, core);
            refuse(core, this, running, Status::NO_SESSION);
        }
        if let Some(key) = session.client() {
            core.tell_peer(PeerRef { core: core.me, key }, PeerStep::SessionOver { session: this });
        }
        if let Some(user) = session.counted {
            core.tally(Who::User(user), Tally::Released);
        }
        for side in session.bound_to() {
            match side {
                Neighbour::Peer(peer) => core.tell_peer(peer, PeerStep::Unbind { session: this }),
                Neighbour::Session(other) => {
                    let (neighbour, status) = (Neighbour::Session(this), Status::NO_SESSION);
                    core.tell_session(other, SessionStep::NeighbourLost { neighbour, was_up: true, status });
                }
            }
        }
    }

    pub(crate) fn on_neighbour_lost(
        &mut self,
        this: SessionRef,
        (neighbour, was_up): (Neighbour, bool),
        status: Status,
        core: &mut Core,
    ) {
        let Some(session) = self.get_mut(this) else {
            return;
        };
        if !session.lose(neighbour, was_up) {
            return;
        }
        for running in session.running.extract_if(.., |running| running.next == neighbour) {
            running.end(Flag::Aborted, core);
            refuse(core, this, &running, status);
        }
    }

    /// A relay beyond this one refused the credentials of an AUTH that we forwarded for this session's client. A client
    /// that causes this too often is treated like one that guesses here (RFC 4976, 6.3; req A13). Only time clears the
    /// count, because there may be relays that accept everything. Behind another relay the client has to wait: the
    /// connection is not its own.
    pub(crate) fn on_guess(&mut self, this: SessionRef, core: &mut Core) {
        let (now, window) = (core.now, core.settings.limits.failure_window);
        let max_attempts = core.settings.max_attempts;
        let Some(session) = self.get_mut(this) else {
            return;
        };
        let (count, since) = &mut session.guesses;
        if *since + window <= now {
            (*count, *since) = (0, now);
        }
        *count += 1;
        let too_many = *count >= max_attempts;
        if too_many {
            *count = 0;
            session.blocked_until = Some(now + window);
        }
        match session.client() {
            Some(key) => core.tell_peer(PeerRef { core: core.me, key }, PeerStep::Guessed { too_many }),
            None if too_many => core.bite(Limit::AuthAttempts, None),
            None => {}
        }
    }

    /// What sessions do when a core dies.
    pub(crate) fn forget_core(&self, gone: CoreId, core: &mut Core) {
        for (_, session) in self.table.walk() {
            let me = core.me;
            for neighbour in session.bound_to().into_iter().filter(|side| side.core() == gone) {
                let status = Status::NO_SESSION;
                core.tell_session(session.me, SessionStep::NeighbourLost { neighbour, was_up: true, status });
            }
            // What would have answered is gone, too.
            let lost_outside = session.outer_core() == Some(gone);
            let lost_inside = session.inner(me).is_some_and(|peer| peer.core == gone);
            for (inside, lost) in [(true, lost_outside), (false, lost_inside)] {
                let entrances = session.entrances(inside, me).filter(|peer| lost && peer.core != gone);
                for peer in entrances {
                    core.tell_peer(peer, PeerStep::Abandoned { session: session.me });
                }
            }
            let comes_from_there = |running: &&Running| {
                let giver = matches!(running.giver, Giver::Session(before) if before.core == gone);
                giver || running.stream.peer.core == gone
            };
            for running in session.running.iter().filter(comes_from_there) {
                let (stream, flag) = (running.stream, Flag::Aborted);
                core.tell_session(session.me, SessionStep::End { stream, flag });
            }
        }
    }
}
