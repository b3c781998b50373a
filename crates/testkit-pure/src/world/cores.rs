//! Messages between cores, time, deaths of cores, and the invariants of all of them.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use msrp_relay_core::{Input, TableSizes};

use super::{Conn, Delivery, World};

impl World {
    // -- messages between cores --------------------------------------------------------------

    /// Ordered pairs of cores with messages under way.
    pub fn lanes(&self) -> Vec<(usize, usize)> {
        let mut lanes: Vec<_> =
            self.deliveries.iter().filter(|(_, queue)| !queue.is_empty()).map(|(lane, _)| *lane).collect();
        lanes.sort_unstable();
        lanes
    }

    /// Connections between two cores, and those.
    pub fn travellers(&self) -> Vec<((usize, usize), Conn)> {
        let of_lane = |lane: (usize, usize)| {
            let deliveries = self.deliveries.get(&lane).into_iter().flatten();
            deliveries.filter_map(move |delivery| match delivery {
                Delivery::Arrive(conn, _) => Some((lane, *conn)),
                Delivery::Message(_) => None,
            })
        };
        self.lanes().into_iter().flat_map(of_lane).collect()
    }

    /// Hands over at most `count` messages or connections of one lane, in order.
    pub fn deliver(&mut self, lane: (usize, usize), count: usize) -> usize {
        let mut delivered = 0;
        while delivered < count {
            let Some(delivery) = self.deliveries.get_mut(&lane).and_then(VecDeque::pop_front) else {
                break;
            };
            delivered += 1;
            match delivery {
                Delivery::Message(message) => self.input(lane.1, Input::Message(message)),
                Delivery::Arrive(conn, traveller) => self.arrive(lane.1, conn, *traveller),
            }
        }
        delivered
    }

    /// Loses what is under way. Returns the connections that were.
    pub fn drop_messages(&mut self, lane: (usize, usize)) -> Vec<Conn> {
        let mut lost = Vec::new();
        for delivery in self.deliveries.remove(&lane).unwrap_or_default() {
            if let Delivery::Arrive(conn, _) = delivery {
                let link = &mut self.links[conn.0];
                link.gone = true;
                link.wire.clear();
                lost.push(conn);
            }
        }
        lost
    }

    pub fn deliver_all(&mut self) -> bool {
        let lanes = self.lanes();
        for lane in &lanes {
            self.deliver(*lane, usize::MAX);
        }
        !lanes.is_empty()
    }

    // -- time ----------------------------------------------------------------------------------

    /// Lets time pass, ticking whenever a relay asked for it.
    pub fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        self.run();
        loop {
            let due = self
                .cores
                .iter()
                .filter_map(|core| core.relay.as_ref()?.next_deadline())
                .min()
                .filter(|at| *at <= until);
            let Some(at) = due else { break };
            self.now = self.now.max(at);
            for core in 0..self.cores.len() {
                self.input(core, Input::Tick);
            }
            self.run();
        }
        self.now = until;
    }

    // -- cores ---------------------------------------------------------------------------------

    pub fn is_up(&self, core: usize) -> bool {
        self.cores[core].relay.is_some()
    }

    /// A core dies with all it owns; the others are told, and it is started again if asked. Messages from it and to it
    /// stay under way: the relays must recognise them.
    pub fn kill_core(&mut self, index: usize, again: bool) {
        self.cores[index].relay = None;
        for (_, conn) in mem::take(&mut self.cores[index].links) {
            let link = &mut self.links[conn.0];
            link.gone = true;
            link.wire.clear();
        }
        self.dials.retain(|dial| dial.core != index);
        self.look_ups.retain(|look_up| look_up.core != index);
        let position = u16::try_from(index).unwrap();
        let mut running = None;
        if again {
            let incarnation = self.cores[index].incarnation + 1;
            let relay = self.new_relay(position, incarnation);
            self.cores[index].relay = Some(relay);
            self.cores[index].incarnation = incarnation;
            running = Some(incarnation);
        }
        for core in 0..self.cores.len() {
            let change = Input::CoreChanged { index: position, running };
            if core != index {
                self.input(core, change);
            }
        }
        // The new core learns which of the others are in a later life than their first.
        for core in (0..self.cores.len()).filter(|core| *core != index) {
            let running = self.cores[core].relay.as_ref().map(|_| self.cores[core].incarnation);
            let change = Input::CoreChanged { index: u16::try_from(core).unwrap(), running };
            self.input(index, change);
        }
    }

    // -- invariants ------------------------------------------------------------------------

    pub fn sizes(&self) -> TableSizes {
        let mut sum = TableSizes::default();
        for core in &self.cores {
            let Some(relay) = &core.relay else { continue };
            let sizes = relay.table_sizes();
            sum.peers += sizes.peers;
            sum.sessions += sizes.sessions;
            sum.transactions += sizes.transactions;
            sum.unanswered += sizes.unanswered;
            sum.bytes_queued += sizes.bytes_queued;
            sum.bytes_kept += sizes.bytes_kept;
            sum.bytes_counted += sizes.bytes_counted;
            sum.counted += sizes.counted;
            sum.newcomers += sizes.newcomers;
            sum.moving += sizes.moving;
            sum.relays += sizes.relays;
        }
        sum
    }

    /// Everything received is written or dropped, and all requests are answered.
    pub fn assert_idle(&mut self) {
        self.run();
        let sizes = self.sizes();
        assert_eq!(sizes.bytes_queued, 0, "bytes are still queued: {sizes:?}");
        assert_eq!(sizes.unanswered, 0, "requests are unanswered: {sizes:?}");
    }

    /// Breaks off all remaining connections.
    pub fn break_off_all(&mut self) {
        for dial in mem::take(&mut self.dials) {
            self.input(dial.core, Input::Lost { peer: dial.key });
        }
        for conn in self.conns() {
            self.lose(conn);
        }
        self.deliver_all();
        self.run();
    }

    /// Breaks off all remaining connections; then nothing may be left.
    pub fn close_all(&mut self) {
        self.break_off_all();
        assert_eq!(self.sizes(), TableSizes::default());
    }
}
