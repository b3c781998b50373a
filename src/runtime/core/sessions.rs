//! The sessions of a core, as the outside sees them: for an operator, in the accounting records, in traces.
//!
//! Must not know: what a session is to the relay.

use std::rc::Rc;
use std::time::Instant;

use super::shared::Shared;
use crate::runtime::ask::{SessionLine, TraceOrder};
use crate::runtime::trace::Trace;
use crate::telemetry::Record;
use msrp_relay_core::{EndReason, Far, PeerKey, SessionView};

/// How many sessions are looked at before other work is looked for.
const SLICE: usize = 64;

impl Shared {
    /// Shows `each` slice of the sessions, until it returns false. Other tasks run between two slices.
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
        let client = view.client.and_then(|client| self.address_of(client));
        SessionLine { core: usize::from(me.index), client, far, view }
    }

    /// Writes the record of a session that is over.
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
            peer: line.peer(),
            reason: reason.as_str(),
            core: line.core,
        });
    }

    /// Begins a trace: of the sessions that there are, and of those that are opened until it ends.
    pub(crate) async fn trace(&self, order: TraceOrder) {
        let core = usize::from(self.with_relay(|relay| relay.core()).index);
        let trace = Rc::new(Trace::new(order, core));
        self.traces.borrow_mut().push(Rc::clone(&trace));
        self.each_slice_of_sessions(|slice| {
            for view in slice.iter().filter(|view| trace.wanted().means(view)) {
                // A connection with a relay carries what others send, too: it is not traced.
                if let Some(client) = view.client {
                    self.conns.with(client, |conn| conn.watchers.add(&trace, &view.session, &view.user));
                }
            }
            true
        })
        .await;
    }

    /// A session has been opened; a trace may wait for its user.
    pub(super) fn trace_new_session(&self, client: PeerKey, session: &str, (user, realm): (&str, &str)) {
        let traces = self.traces.borrow();
        for trace in traces.iter().filter(|trace| trace.wanted().means_user(user, realm)) {
            self.conns.with(client, |conn| conn.watchers.add(trace, session, user));
        }
    }

    /// Forgets the traces that are over.
    pub(crate) fn end_traces(&self) {
        if self.traces.borrow().is_empty() {
            return;
        }
        let now = Instant::now();
        self.traces.borrow_mut().retain(|trace| !trace.is_over(now));
        self.conns.each(|conn| conn.watchers.end_traces(now));
    }
}
