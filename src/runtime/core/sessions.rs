//! The sessions of a core, for the outside: for an operator, in the accounting records, in traces.
//!
//! Must not know what a session is to the relay.

use std::rc::Rc;
use std::time::Instant;

use super::shared::Shared;
use crate::runtime::ask::{SessionLine, TraceOrder};
use crate::runtime::log;
use crate::runtime::trace::Trace;
use crate::telemetry::Record;
use msrp_relay_core::{EndReason, Far, PeerKey, SessionView, Traveller};

/// How many sessions are looked at before other tasks run.
const SLICE: usize = 64;

impl Shared {
    /// Gives `each` slices of the sessions, until it returns false. Other tasks run between two slices.
    pub(crate) async fn each_slice_of_sessions(&self, mut each: impl FnMut(Vec<SessionView>) -> bool) {
        let all = self.with_relay(|relay| relay.sessions());
        for slice in all.chunks(SLICE) {
            let now = Instant::now();
            let views = slice.iter().filter_map(|key| self.with_relay(|relay| relay.session_view(now, *key)));
            if !each(views.collect()) {
                return;
            }
            engine::breathe().await;
        }
    }

    /// A session, with the addresses of its connections.
    pub(crate) fn line(&self, view: SessionView) -> SessionLine {
        let me = self.with_relay(|relay| relay.core());
        let far = match &view.far {
            Some(Far::Connection { peer, .. }) if peer.core == me => self.address_of(peer.key),
            _ => None,
        };
        let conn = view.client.and_then(|client| self.conns.get(client));
        let (client, transport) = conn.map(|conn| (conn.address(), conn.link.transport())).unzip();
        SessionLine { core: usize::from(me.index), client, transport, far, view }
    }

    /// Writes the record of an ended session.
    pub(super) fn account(&self, session: &SessionView, reason: EndReason) {
        let config = self.config();
        if !config.records.are_wanted() {
            return;
        }
        let line = self.line(session.clone());
        config.records.write(&Record {
            session: &session.session,
            user: &session.user,
            realm: &session.realm,
            duration_seconds: session.age.as_secs_f64(),
            bytes_from_client: session.bytes_from_client,
            bytes_to_client: session.bytes_to_client,
            client: line.client(),
            transport: line.transport,
            peer: line.peer(),
            reason: reason.as_str(),
            core: line.core,
        });
    }

    /// A session that was on its way to another core has come to no core, for one of the two has died.
    pub(crate) fn lost_between_cores(&self, traveller: &Traveller) {
        // The name of its connection says nothing any more.
        let view = SessionView { client: None, ..traveller.view(Instant::now()) };
        self.account(&view, EndReason::CoreDied);
        log::session_closed(&view, None, EndReason::CoreDied.as_str());
    }

    /// Begins a trace: of the existing sessions, and of those that open until it ends.
    pub(crate) async fn trace(&self, order: TraceOrder) {
        let core = usize::from(self.with_relay(|relay| relay.core()).index);
        let trace = Rc::new(Trace::new(order, core));
        self.traces.borrow_mut().push(Rc::clone(&trace));
        self.each_slice_of_sessions(|slice| {
            for view in slice.iter().filter(|view| trace.wanted().means(view)) {
                // A connection with a relay also carries other clients' requests: it is not traced.
                if let Some(client) = view.client {
                    self.conns.with(client, |conn| conn.watchers.add(&trace, &view.session, &view.user));
                }
            }
            true
        })
        .await;
    }

    /// A session has been opened, or has come from another core; a trace may wait for it or its user.
    pub(super) fn trace_new_session(&self, client: PeerKey, session: &str, (user, realm): (&str, &str)) {
        let traces = self.traces.borrow();
        for trace in traces.iter().filter(|trace| trace.wanted().means_one(session, (user, realm))) {
            self.conns.with(client, |conn| conn.watchers.add(trace, session, user));
        }
    }

    /// Removes the finished traces.
    pub(crate) fn end_traces(&self) {
        if self.traces.borrow().is_empty() {
            return;
        }
        let now = Instant::now();
        self.traces.borrow_mut().retain(|trace| !trace.is_over(now));
        self.conns.each(|conn| conn.watchers.end_traces(now));
    }
}
