//! How requests fail and sessions end, and who hears of it (RFC 4976, 6.3 and 6.4.1; norms F7, F9, F10, A12).

use bytes::Bytes;

use super::{Inner, OuterSide, Running, Session, refuse};
use crate::admission::{Tally, Who};
use crate::ids::{CoreId, PeerRef, SessionId, StreamId, Tid};
use crate::limit::Limit;
use crate::message::{Giver, Message, MessageId, Notice, Outer};
use crate::peer::Peer;
use crate::view::EndReason;
use crate::{CloseReason, Effects, Event, Offence, Relay};
use msrp_proto::head::{FailureReport, Method};
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::uri::Path;
use msrp_proto::write::FrameWriter;

impl Relay {
    /// The hop after a session refuses a request that is still coming in: it is stopped here, and
    /// the hop before is told by the response it still waits for (norm F7).
    pub(crate) fn on_broken(&mut self, id: SessionId, stream: StreamId, status: Status, fx: &mut Effects) {
        if let Some(running) = self.sessions.find(&id).and_then(|session| session.take_running(stream)) {
            let message = running.transit.head.message_id(&running.transit.octets).map(MessageId::new);
            if status == Status::STOP
                && let (Some(session), Some(message)) = (self.sessions.find(&id), message)
            {
                session.stop(running.inward, message);
                self.sessions.recount_by_id(&id, &mut self.core);
            }
            running.end(Flag::Aborted, &mut self.core, fx);
            refuse(&mut self.core, id, &running, status, fx);
        }
    }

    /// A connection that serves several sessions is held up. If it is whoever this session leads to that takes
    /// nothing, what waits for it from there is refused: one slow receiver must not stop the others (norm
    /// S14).
    pub(crate) fn on_relieve(
        &mut self,
        id: SessionId,
        source: PeerRef,
        before: Option<SessionId>,
        fx: &mut Effects,
    ) {
        let me = self.core.me;
        let Some(session) = self.sessions.find(&id) else {
            return;
        };
        let inner = session.inner(me).map(Outer::Peer);
        let origin = before.map_or(Outer::Peer(source), Outer::Session);
        let sides = [inner, session.outer_side()];
        for side in sides.into_iter().flatten().filter(|side| *side != origin) {
            let message = match side {
                Outer::Peer(peer) => Message::Shed { peer, source },
                Outer::Session(session) => Message::Relieve { session, source, before: Some(id) },
            };
            self.core.post(message, fx);
        }
    }

    /// Octets of one connection wait for another, and hold up third ones.
    pub(crate) fn on_shed(&mut self, slow: PeerRef, source: PeerRef, fx: &mut Effects) {
        let inner = slow.key;
        let stall_timeout = self.core.settings.limits.stall_timeout;
        let now = self.core.now;
        // One that is up to date and merely silent is not to blame.
        let stalls =
            |client: &&mut Peer| (client.taking || client.woken) && client.last_taken + stall_timeout <= now;
        let Some(client) = self.peers.get_mut(inner).filter(stalls) else {
            return;
        };
        let (dropped, messages) = client.out.shed(source);
        client.recount(&mut self.core, fx);
        if dropped > 0 {
            client.wake(fx);
            self.core.bite(Limit::StallTimeout, Some(inner), fx);
            self.core.credit(source, dropped, fx);
        }
        for message in messages {
            self.core.post(message, fx);
        }
    }

    /// A request failed after it had ended: a SEND has been answered and is followed by a REPORT,
    /// everything else is answered now (norms F7, F9).
    pub(crate) fn on_hop_failed(&mut self, notice: &Notice, status: Status, fx: &mut Effects) {
        if notice.method == Method::Send {
            if status == Status::STOP
                && let (Some(session), Some(message)) =
                    (self.sessions.find(&notice.session), &notice.message_id)
            {
                session.stop(notice.inward, message.clone());
                self.sessions.recount_by_id(&notice.session, &mut self.core);
            }
            self.report(notice, status, fx);
        } else {
            let stream = notice.stream;
            let status = Some(status);
            self.core.post(Message::Answer { stream, status }, fx);
        }
    }

    /// Sends a failure REPORT the way the SEND came (norm F9).
    fn report(&mut self, notice: &Notice, status: Status, fx: &mut Effects) {
        let Some(session) = self.sessions.find(&notice.session) else {
            return;
        };
        let Some(message_id) =
            notice.message_id.as_ref().filter(|_| notice.failure_report != FailureReport::No)
        else {
            return;
        };
        let back = match (&session.outer, notice.inward) {
            (_, false) => match self.reach_inside(notice.session, fx) {
                Ok(peer) => Outer::Peer(peer),
                Err(_) => return,
            },
            (OuterSide::Bound { to, .. }, true) => *to,
            (OuterSide::Unbound | OuterSide::Lost { .. }, true) => return,
        };
        let Some(session) = self.sessions.find(&notice.session) else {
            return;
        };
        // Through another session of this relay the REPORT makes one hop more, within the process.
        let report_to = Path::new(&notice.report_to);
        let mut from_path = Vec::with_capacity(256);
        let to_path = match (back, report_to.first()) {
            (Outer::Session(_), Some(through)) => {
                from_path.extend_from_slice(through);
                from_path.push(b' ');
                report_to.after(1)
            }
            _ => report_to,
        };
        from_path.extend_from_slice(session.own_uri(self.core.now));
        let tid = Tid::mint(&mut self.core.entropy);
        let mut frame = Vec::with_capacity(512);
        FrameWriter::request(&mut frame, tid.as_bytes(), "REPORT")
            .header("To-Path", to_path.as_bytes())
            .header("From-Path", &from_path)
            .header("Message-ID", message_id.as_bytes())
            .byte_range(notice.range.within_total())
            .header_fmt("Status", format_args!("000 {} {}", status.code(), status.phrase()))
            .end(Flag::Last);
        self.core.stats.reports_sent += 1;
        fx.event(Event::ReportSent { session: notice.session.prefix().to_owned(), status });
        let octets = Bytes::from(frame);
        let message = match back {
            Outer::Peer(peer) => Message::Frame { peer, octets },
            Outer::Session(session) => Message::Report { session, from: notice.session, octets },
        };
        self.core.post(message, fx);
    }

    /// A REPORT of this relay's own, from the session that `id` is linked to.
    pub(crate) fn on_report(&mut self, id: SessionId, from: SessionId, octets: Bytes, fx: &mut Effects) {
        if !self.is_linked(&id, from) {
            return;
        }
        if let Ok(peer) = self.reach_inside(id, fx) {
            self.core.post(Message::Frame { peer, octets }, fx);
        }
    }

    /// The client is gone, and with it the session (norm A10).
    pub(crate) fn on_inner_lost(&mut self, id: SessionId, fx: &mut Effects) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        self.core.stats.sessions_closed += 1;
        self.core.keep(session.weight, 0, fx);
        let reason = session.end.unwrap_or(EndReason::Expired);
        fx.event(Event::SessionClosed { session: Box::new(session.view(self.core.now)), reason });
        for running in &session.running {
            running.end(Flag::Aborted, &mut self.core, fx);
            refuse(&mut self.core, id, running, Status::NO_SESSION, fx);
        }
        if let Some(user) = session.counted {
            self.core.tally(Who::User(user), Tally::Released, fx);
        }
        for side in session.bound_to() {
            let message = match side {
                Outer::Peer(peer) => Message::Unbind { peer, session: id },
                Outer::Session(other) => Message::OuterLost {
                    session: other,
                    outer: Outer::Session(id),
                    was_up: true,
                    status: Status::NO_SESSION,
                },
            };
            self.core.post(message, fx);
        }
    }

    /// Sessions that end with no connection and expired so long ago that nothing of theirs can be under way.
    pub(crate) fn end_expired_sessions(&mut self, fx: &mut Effects) {
        while let Some(session) = self.sessions.take_ended(self.core.now) {
            self.core.post(Message::InnerLost { session }, fx);
        }
    }

    pub(crate) fn on_outer_lost(
        &mut self,
        id: SessionId,
        outer: Outer,
        was_up: bool,
        status: Status,
        fx: &mut Effects,
    ) {
        let Some(session) = self.sessions.find(&id) else {
            return;
        };
        if !session.lose(outer, was_up) {
            return;
        }
        for running in session.running.extract_if(.., |running| running.next == outer) {
            running.end(Flag::Aborted, &mut self.core, fx);
            refuse(&mut self.core, id, &running, status, fx);
        }
    }

    /// A relay further on has refused the credentials of an AUTH that this session's client had us forward. Who does that too
    /// often is as one who guesses at us (RFC 4976, 6.3; norm A13); only time forgives it, for there may be relays that
    /// accept everything. Behind another relay the client has to wait: the connection is not its own.
    pub(crate) fn on_guess(&mut self, id: SessionId, fx: &mut Effects) {
        let (now, window) = (self.core.now, self.core.settings.limits.failure_window);
        let attempts_max = self.core.settings.attempts_max;
        let Some(session) = self.sessions.find(&id) else {
            return;
        };
        let (count, since) = &mut session.guesses;
        if *since + window <= now {
            (*count, *since) = (0, now);
        }
        *count += 1;
        let too_many = *count >= attempts_max;
        if too_many {
            *count = 0;
            session.blocked_until = Some(now + window);
        }
        let client = session.client();
        if let Some(peer) = client.and_then(|client| self.peers.get(client))
            && let Some(source) = peer.source
        {
            let (offence, culprit) = (Offence::Auth, peer.me);
            self.core.tally(Who::Address(source), Tally::Failed { offence, culprit }, fx);
        }
        if too_many {
            self.core.bite(Limit::AuthAttempts, client, fx);
            if let Some(client) = client {
                self.close_peer(client, CloseReason::AuthFailures, fx);
            }
        }
    }

    /// The sessions' part of a core's death.
    pub(crate) fn forget_core_in_sessions(&mut self, gone: CoreId, fx: &mut Effects) {
        let mut messages = Vec::new();
        for session in self.sessions.table.values() {
            let me = self.core.me;
            for outer in session.bound_to().into_iter().filter(|side| side.core() == gone) {
                messages.push(Message::OuterLost {
                    session: session.id,
                    outer,
                    was_up: true,
                    status: Status::NO_SESSION,
                });
            }
            // Whoever would have answered is gone too.
            let lost_outside = session.outer_side().is_some_and(|side| side.core() == gone);
            let lost_inside = session.inner(me).is_some_and(|peer| peer.core == gone);
            for (inside, lost) in [(true, lost_outside), (false, lost_inside)] {
                let entrances = session.entrances(inside, me).filter(|peer| lost && peer.core != gone);
                messages.extend(entrances.map(|peer| Message::Abandoned { peer, session: session.id }));
            }
            let comes_from_there = |running: &&Running| {
                let giver = matches!(running.giver, Giver::Session(before) if before.home() == gone);
                giver || running.stream.peer.core == gone
            };
            for running in session.running.iter().filter(comes_from_there) {
                messages.push(Message::End {
                    session: session.id,
                    stream: running.stream,
                    flag: Flag::Aborted,
                });
            }
        }
        for message in messages {
            self.core.post(message, fx);
        }
    }
}

impl Session {
    /// What its outer side is bound to.
    fn outer_side(&self) -> Option<Outer> {
        match self.outer {
            OuterSide::Bound { to, .. } => Some(to),
            OuterSide::Unbound | OuterSide::Lost { .. } => None,
        }
    }

    /// All that must hear of its end, or whose end it must hear of, but for its client's own connection. Nothing twice.
    fn bound_to(&self) -> Vec<Outer> {
        let by = match self.inner {
            Inner::Client(_) => None,
            Inner::Relay { by } => by.map(Outer::Peer),
        };
        let ahead = self.ahead.as_ref().map(|ahead| Outer::Peer(ahead.peer));
        let ways = self.ways.iter().map(|way| Outer::Peer(way.peer));
        let mut all = Vec::new();
        for side in [by, self.outer_side(), ahead].into_iter().flatten().chain(ways) {
            if !all.contains(&side) {
                all.push(side);
            }
        }
        all
    }

    /// The connections by which requests come from one side.
    fn entrances(&self, inside: bool, me: CoreId) -> impl Iterator<Item = PeerRef> {
        let present = match (inside, self.outer_side()) {
            (true, _) => self.inner(me),
            (false, Some(Outer::Peer(peer))) => Some(peer),
            (false, _) => None,
        };
        let ways = self.ways.iter().filter(move |way| way.inside == inside).map(|way| way.peer);
        present.into_iter().chain(ways)
    }

    pub(super) fn is_bound_to(&self, side: Outer) -> bool {
        self.outer_side() == Some(side)
    }

    /// Something is gone; whether that was bound to it. Where there is another way to the same relay, that is taken; a
    /// dial that never succeeded bound nothing: the other side may still come to us.
    fn lose(&mut self, gone: Outer, was_up: bool) -> bool {
        let ways = self.ways.len();
        self.ways.retain(|way| Outer::Peer(way.peer) != gone);
        let lost_way = self.ways.len() < ways;
        let ahead = self.ahead.take_if(|ahead| Outer::Peer(ahead.peer) == gone).is_some();
        let inner = match &mut self.inner {
            Inner::Client(_) => false,
            Inner::Relay { by } => by.take_if(|by| Outer::Peer(*by) == gone).is_some(),
        };
        if inner {
            let by = self.take_latest_way(true);
            self.inner = Inner::Relay { by };
        }
        let outer = match &self.outer {
            OuterSide::Bound { to, known } if *to == gone => Some(known.clone()),
            _ => None,
        };
        let Some(known) = outer else {
            return ahead || inner || lost_way;
        };
        match self.take_latest_way(false) {
            Some(peer) => self.bind_known(Outer::Peer(peer), known),
            None => self.outer = if was_up { OuterSide::Lost { known } } else { OuterSide::Unbound },
        }
        true
    }

    fn take_latest_way(&mut self, inside: bool) -> Option<PeerRef> {
        let latest = self.ways.iter().rposition(|way| way.inside == inside)?;
        Some(self.ways.remove(latest).peer)
    }
}
