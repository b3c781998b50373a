//! A core's published figures: the relay's counters, the thread's time, its queues and buffers.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use async_channel::Receiver;

use crate::runtime::log;
use crate::runtime::mesh::Delivery;
use crate::runtime::pool::{self, Taken};
use crate::telemetry::Counters;
use msrp_relay_core::Stats;

/// The figures published so far.
#[derive(Debug)]
pub(super) struct Figures {
    stats: RefCell<Stats>,
    used: Cell<Used>,
    /// The core's own inbox, to measure it.
    inbox: Receiver<Delivery>,
}

/// The thread's use so far.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    cpu: Duration,
    buffers: Taken,
}

impl Figures {
    pub(super) fn new(inbox: Receiver<Delivery>) -> Self {
        Self { stats: RefCell::default(), used: Cell::default(), inbox }
    }

    /// Adds to the counters what the relay has counted since the last time.
    pub(super) fn publish(&self, counters: &Counters, stats: Stats) {
        let before = self.stats.replace(stats);
        log::publish(counters, &before, &stats);
    }

    /// The same for the thread's time, and for buffers and queues.
    pub(super) fn publish_usage(&self, counters: &Counters) {
        let (buffers, read_buffers_spare) = pool::usage();
        let now = Used { cpu: cpu_time(), buffers };
        let before = self.used.replace(now);
        let busy = now.cpu.saturating_sub(before.cpu).as_nanos();
        counters.busy_nanoseconds.add(u64::try_from(busy).unwrap_or(u64::MAX));
        counters.read_buffers_reused.add(buffers.reused - before.buffers.reused);
        counters.read_buffers_allocated.add(buffers.allocated - before.buffers.allocated);
        counters.read_buffers_spare.set(read_buffers_spare as u64);
        counters.inbox_waiting.set(self.inbox.len() as u64);
    }

    /// The core has ended: it has nothing open any more, and nothing waits.
    pub(super) fn end(&self, counters: &Counters) {
        counters.sessions_open.sub(self.stats.borrow().sessions_open());
        for gauge in [
            &counters.queue_bytes,
            &counters.inbox_waiting,
            &counters.outbox_waiting,
            &counters.read_buffers_spare,
            &counters.write_buffers_spare,
        ] {
            gauge.set(0);
        }
    }
}

/// CPU time of the calling thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
