//! Answers operators, and reports the draining predecessor.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use msrprelay::ops::admin::Desk;
use msrprelay::ops::service;
use msrprelay::runtime::server::Server;
use msrprelay::telemetry::LogControl;

use crate::wish::Wish;

/// The desk that answers operators.
pub(crate) fn desk(
    server: &Server,
    log: LogControl,
    draining: &Arc<AtomicBool>,
    wish: &SyncSender<Wish>,
) -> Desk {
    let (stop, reload) = (wish.clone(), wish.clone());
    let handoff = server.handoff();
    Desk {
        inspector: server.inspector(),
        log,
        draining: Arc::clone(draining),
        drain: Box::new(move |time| drop(stop.send(Wish::Stop(time)))),
        reload: Box::new(move || {
            let (asked, answered) = mpsc::channel();
            // Full: the sender is dropped, and the operator is told that the relay is busy.
            let _ = reload.try_send(Wish::Reload(Some(asked)));
            answered
        }),
        predecessor: Box::new(move || handoff.ask_predecessor()),
        started: Instant::now(),
    }
}

/// The time between two looks at a draining predecessor.
const PREDECESSOR_LOOK: Duration = Duration::from_secs(5);

/// Tells the service manager, and the log, how far the predecessor has drained, until it has ended or this is dropped.
pub(crate) struct Predecessor(Option<mpsc::Sender<()>>);

impl Predecessor {
    pub(crate) fn watch(server: &Server, desk: Arc<Desk>, status: String) -> Option<Self> {
        server.generations().predecessor()?;
        let handoff = server.handoff();
        let (stop, stopped) = mpsc::channel();
        let body = move || {
            // A predecessor of an earlier version cannot be asked.
            let Some(mut left) = desk.left_to_predecessor() else { return };
            loop {
                handoff.note_predecessor(left);
                service::status(&format!("{status}; sessions of the process before: {left}"));
                tracing::info!(sessions = left, "The predecessor drains");
                let before = left;
                while left == before {
                    if stopped.recv_timeout(PREDECESSOR_LOOK) != Err(RecvTimeoutError::Timeout) {
                        return;
                    }
                    let Some(now) = desk.left_to_predecessor() else {
                        return service::status(&status);
                    };
                    left = now;
                }
            }
        };
        let thread = thread::Builder::new().name("predecessor-watch".to_owned()).spawn(body);
        thread.is_ok().then(|| Self(Some(stop)))
    }
}

impl Drop for Predecessor {
    fn drop(&mut self) {
        drop(self.0.take());
    }
}
