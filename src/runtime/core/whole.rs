//! What concerns a core as a whole: another config, a drain, its figures, its end.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::deadline::Deadline;
use futures_lite::future;

use super::shared::Shared;
use crate::runtime::log;
use crate::runtime::settings::CoreConfig;
use msrp_relay_core::{CloseReason, EndReason, Input, Relay};

/// How long a stopping core waits for its connections to take their queued bytes.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How a core ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CoreEnd {
    /// It was told to stop.
    Stopped,
    /// One of its tasks panicked.
    Panicked(String),
}

/// The sessions of a core. One that moves is on neither while it does: it counts where it is expected.
fn sessions(relay: &Relay) -> u64 {
    relay.stats().sessions_open() + relay.arriving() as u64
}

impl Shared {
    /// Continues with another config. The relay keeps its name, its ports and its number of cores.
    pub(crate) fn reload(self: &Rc<Self>, config: Arc<CoreConfig>) {
        let settings = Box::new(config.relay.clone());
        self.set_config(config);
        self.feed([Input::Reconfigured(settings)]);
    }

    /// Opens no more sessions, and returns how many there are. If another process accepts connections, those that came
    /// here before are served to their end, whatever they want.
    pub(crate) fn drain(self: &Rc<Self>) -> u64 {
        if self.stopped_accepting.get() {
            return self.with_relay(|relay| sessions(relay) + relay.newcomers() as u64);
        }
        self.feed([Input::Drain]);
        self.with_relay(sessions)
    }

    /// Closes every connection in order, if its peer takes its bytes in time.
    pub(crate) async fn close_all(self: &Rc<Self>) {
        self.feed([Input::Shutdown]);
        future::or(self.conns.emptied(), Deadline::after(STOP_TIMEOUT)).await;
        self.publish(1);
    }

    /// Adds to the counters what happened since the last time.
    pub(crate) fn publish(&self, beats: u64) {
        let (stats, bytes_used) = self.with_relay(|relay| (*relay.stats(), relay.bytes_used()));
        let counters = &self.counters;
        counters.heartbeats.add(beats);
        self.figures.publish(counters, stats);
        self.figures.publish_usage(counters);
        counters.queue_bytes.set(bytes_used as u64);
        counters.write_buffers_spare.set(self.buffers.spare() as u64);
        counters.outbox_waiting.set(self.mesh.waiting() as u64);
    }

    /// The core has ended: nothing of it counts as open any more.
    pub(crate) fn end(&self, end: &CoreEnd) {
        self.publish(1);
        self.counters.connections_open.sub(self.conns.len() as u64);
        self.conns.each(|conn| self.counters.websocket_open.sub(u64::from(conn.link.websocket.is_some())));
        self.figures.end(&self.counters);
        // Sessions whose clients did not close their side in time, or that a panic has cut off.
        let reason = match end {
            CoreEnd::Stopped => EndReason::Closed(CloseReason::Stopping),
            CoreEnd::Panicked(_) => EndReason::CoreDied,
        };
        let now = Instant::now();
        for session in self.with_relay(|relay| relay.sessions()) {
            if let Some(view) = self.with_relay(|relay| relay.session_view(now, session)) {
                self.account(&view, reason);
                let address = view.client.and_then(|client| self.address_of(client));
                log::session_closed(&view, address, reason.as_str());
            }
        }
        self.mesh.lost().iter().for_each(|mover| self.lost_between_cores(&mover.traveller));
        self.conns.clear();
    }
}
