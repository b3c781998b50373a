//! The checks: after each step, when everything has settled, and at the end.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use super::{Dial, FRAMES_PER_READ, Habits, Link, READ_MAX, World};
use crate::Reader;
use crate::fuzz::conversation::far_end::{Sent, Wish};
use crate::fuzz::trace;
use msrp_relay_core::{HEAD_OVERHEAD, Input, Limits, Relay, TableSizes};

impl World {
    /// What holds after every step.
    pub(in crate::fuzz::conversation) fn check(&self) {
        let messages: usize = self.lanes.values().map(VecDeque::len).sum();
        for (index, core) in self.cores.iter().enumerate() {
            let Some(relay) = &core.relay else { continue };
            let sizes = relay.table_sizes();
            let is_here = |link: &&Link| link.core == index && !link.gone && !link.travels;
            let links = self.links.iter().filter(is_here).count();
            let dials = self.dials.iter().filter(|dial| dial.core == index).count();
            assert_eq!(sizes.peers, links + dials, "connections and their entries");
            let Limits {
                connections_per_core_max,
                unauthenticated_per_core_max,
                transactions_per_peer_max,
                queue_bytes_high,
                ..
            } = self.settings.limits;
            assert!(sizes.peers <= connections_per_core_max, "{sizes:?}");
            assert!(relay.newcomers() <= unauthenticated_per_core_max, "{sizes:?}");
            // Each connection once, its source once, that source's rank once, and the news of three sources.
            assert!(sizes.newcomers <= 3 * relay.newcomers() + 3, "{sizes:?}");
            // Two live URIs, and recently expired ones.
            assert!(sizes.sessions <= 4 * links, "{sizes:?}");
            assert_eq!(relay.stats().sessions_open(), sizes.sessions as u64);
            // Awaited and unlikely ones have a bound each.
            let most = links * (2 * transactions_per_peer_max + 2);
            assert!(sizes.transactions <= most, "{sizes:?}");
            let most = links * (transactions_per_peer_max + FRAMES_PER_READ) + messages + self.links.len();
            assert!(sizes.unanswered <= most, "{sizes:?}");
            // Other connections may still have bytes of lost connections queued.
            let ever = self.links.iter().filter(|link| link.core == index).count();
            let most = ever * (queue_bytes_high + READ_MAX + FRAMES_PER_READ * HEAD_OVERHEAD);
            assert!(sizes.bytes_queued <= most, "{sizes:?}");
            assert_eq!(sizes.bytes_kept, sizes.bytes_counted, "kept, and counted against the budget");
        }
    }

    fn sizes(&self) -> impl Iterator<Item = TableSizes> {
        self.cores.iter().filter_map(|core| core.relay.as_ref()).map(Relay::table_sizes)
    }

    /// All far ends read and answer, and time passes: nothing may be left to wait for. First breaks off connections
    /// that ended within a frame.
    pub(in crate::fuzz::conversation) fn settle(&mut self) {
        trace(|| "settling".to_owned());
        self.habits =
            Habits { deliver: true, look_up: true, dial: true, answer: true, meet: self.habits.meet };
        for link in 0..self.links.len() {
            if self.links[link].wild {
                self.lose(link);
            }
        }
        for core in 0..self.cores.len() {
            if self.cores[core].stopping {
                self.shut_down(core, true);
            }
        }
        for _ in 0..60 {
            self.run();
            self.check();
            if self.waiting().is_none() {
                break;
            }
            self.age(Duration::from_secs(31), true);
        }
        assert_eq!(self.waiting(), None, "something waits for ever");
        for link in self.links.iter().filter(|link| !link.gone && !link.closing && !link.ended) {
            let forgotten = |sent: &&Sent| sent.wish == Wish::Answer && !sent.answered;
            let forgotten = link.end.sent.values().filter(forgotten).count();
            assert!(self.messages.garbled || forgotten == 0, "{forgotten} requests were never answered");
        }
    }

    /// What still waits: a core's queues and tables, or a paused connection.
    fn waiting(&self) -> Option<String> {
        let is_busy = |s: &TableSizes| (s.transactions, s.unanswered, s.bytes_queued) != (0, 0, 0);
        if let Some(sizes) = self.sizes().find(is_busy) {
            return Some(format!("{sizes:?}"));
        }
        let unread = |link: &&Link| {
            let is_read = !link.gone && !link.closing && !link.ended;
            is_read && (!link.wire.is_empty() || !link.unparsed.is_empty())
        };
        let waits = |link: &&Link| !link.gone && (link.travels || link.reader != Reader::Reads);
        if let Some(link) = self.links.iter().find(waits) {
            return Some(format!("{} waits for another core", link.end.uri));
        }
        self.links.iter().find(unread).map(|link| format!("{} is not read", link.end.uri))
    }

    /// Everything ends: nothing may be left.
    pub(in crate::fuzz::conversation) fn close_all(&mut self) {
        self.habits = Habits { deliver: true, look_up: false, dial: false, answer: false, meet: false };
        for Dial { core, key: peer, .. } in mem::take(&mut self.dials) {
            self.input(core, Input::Lost { peer });
        }
        for link in 0..self.links.len() {
            self.lose(link);
        }
        while self.deliver(0, usize::MAX) {}
        for sizes in self.sizes() {
            assert_eq!(sizes, TableSizes::default(), "something stays for ever");
        }
    }
}
