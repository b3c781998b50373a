//! How requests fail and sessions end, and who hears of it (RFC 4976, 6.3 and 6.4.1; norms F7, F9, F10, A12).

use bytes::Bytes;

use super::{OuterSide, direction, refuse};
use crate::proto::head::{FailureReport, Method};
use crate::proto::parser::Flag;
use crate::proto::status::Status;
use crate::proto::uri::Path;
use crate::proto::write::FrameWriter;
use crate::relay::ids::{CoreId, PeerRef, SessionId, StreamId, Tid};
use crate::relay::limit::Limit;
use crate::relay::message::{Message, MessageId, Notice, Outer};
use crate::relay::peer::Peer;
use crate::relay::view::EndReason;
use crate::relay::{Effects, Event, Relay};
impl Relay {
    /// The hop after a session refuses a request that is still coming in: it is stopped here, and
    /// the hop before is told by the response it still waits for (norm F7).
    pub(crate) fn on_broken(&mut self, id: SessionId, stream: StreamId, status: Status, fx: &mut Effects) {
        let running = self.sessions.find(&id).and_then(|s| s.running_mut(stream)).and_then(Option::take);
        if let Some(running) = running {
            let message = running.transit.head.message_id(&running.transit.octets).map(MessageId::new);
            if status == Status::STOP
                && let (Some(session), Some(message)) = (self.sessions.find(&id), message)
            {
                let inner = PeerRef { core: self.core.me, key: session.inner };
                session.stop(running.next == Outer::Peer(inner), message);
            }
            running.end(Flag::Aborted, &mut self.core, fx);
            refuse(&mut self.core, id, &running, status, fx);
        }
    }

    /// A connection that serves several sessions is held up. If it is this session's client that takes
    /// nothing, what waits for it from there is refused: one slow receiver must not stop the others (norm
    /// S14).
    pub(crate) fn on_relieve(&mut self, id: SessionId, source: PeerRef, fx: &mut Effects) {
        let Some(inner) = self.sessions.find(&id).map(|session| session.inner) else {
            return;
        };
        let stall_timeout = self.core.settings.limits.stall_timeout;
        let now = self.core.now;
        // One that is up to date and merely silent is not to blame.
        let stalls =
            |client: &&mut Peer| (client.taking || client.woken) && client.last_taken + stall_timeout <= now;
        let Some(client) = self.peers.get_mut(inner).filter(stalls) else {
            return;
        };
        let (dropped, messages) = client.out.shed(source);
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
            (_, false) => Outer::Peer(PeerRef { core: self.core.me, key: session.inner }),
            (OuterSide::Bound { to, .. }, true) => *to,
            (OuterSide::Unbound | OuterSide::Lost, true) => return,
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
        from_path.extend_from_slice(&session.uri);
        let tid = Tid::mint(&mut self.core.entropy);
        let mut frame = Vec::with_capacity(512);
        FrameWriter::request(&mut frame, tid.as_bytes(), "REPORT")
            .header("To-Path", to_path.as_bytes())
            .header("From-Path", &from_path)
            .header("Message-ID", message_id.as_bytes())
            .byte_range(notice.range)
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
        if let Some(session) = self.sessions.find(&id) {
            let peer = PeerRef { core: self.core.me, key: session.inner };
            self.core.post(Message::Frame { peer, octets }, fx);
        }
    }

    /// The client is gone, and with it the session (norm A10).
    pub(crate) fn on_inner_lost(&mut self, id: SessionId, fx: &mut Effects) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        self.core.stats.sessions_closed += 1;
        let reason = session.end.unwrap_or(EndReason::Expired);
        fx.event(Event::SessionClosed { session: Box::new(session.view(self.core.now)), reason });
        for running in session.running.iter().flatten() {
            running.end(Flag::Aborted, &mut self.core, fx);
            refuse(&mut self.core, id, running, Status::NO_SESSION, fx);
        }
        if let OuterSide::Bound { to, .. } = session.outer {
            let message = match to {
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
        if !matches!(session.outer, OuterSide::Bound { to, .. } if to == outer) {
            return;
        }
        // A dial that never succeeded bound nothing: the other side may still come to us.
        session.outer = if was_up { OuterSide::Lost } else { OuterSide::Unbound };
        if let Some(running) = session.running[direction(false)].take() {
            running.end(Flag::Aborted, &mut self.core, fx);
            refuse(&mut self.core, id, &running, status, fx);
        }
    }

    /// The sessions' part of a core's death.
    pub(crate) fn forget_core_in_sessions(&mut self, gone: CoreId, fx: &mut Effects) {
        let mut messages = Vec::new();
        for session in self.sessions.table.values() {
            if let OuterSide::Bound { to, .. } = session.outer
                && to.core() == gone
            {
                messages.push(Message::OuterLost {
                    session: session.id,
                    outer: to,
                    was_up: true,
                    status: Status::NO_SESSION,
                });
                // Whoever would have answered its client is gone too.
                if let Some(client) = self.peers.get(session.inner) {
                    client.answer_all(&mut self.core, fx, |id| id == session.id);
                }
            }
            for running in session.running.iter().flatten().filter(|r| r.stream.peer.core == gone) {
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
