//! What must hold at every moment: the bounds of queues and tables, and of waiting times.

use msrp_relay_core::HEAD_OVERHEAD;

use super::Simulation;
use testkit_pure::{Conn, READ_MAX, Reader};

/// What a connection may make the relay keep beside queued bytes, whatever the budget is: unfinished input, one flush,
/// some answers and REPORTs, some transactions.
const KEPT_MAX: usize = 192 << 10;
/// A request to a session takes up at least so much of a read.
const REQUEST_MIN: usize = 150;

impl Simulation {
    pub(super) fn check_bounds(&mut self) {
        self.check_tables();
        self.check_senders();
        self.see_crossing();
        self.note_what_is_due();
    }

    /// Two that wait for each other's cores, and must not do so for ever.
    fn see_crossing(&mut self) {
        let is_parked = |actor: &usize| {
            self.open_conn(*actor).is_some_and(|conn| self.world.link(conn).reader == Reader::Parked)
        };
        if self.links.iter().any(|link| link.ends.iter().all(is_parked)) {
            self.saw("two that asked for each other");
        }
    }

    /// No core holds more than its connections may make it hold, and all together hold what the budget allows.
    fn check_tables(&mut self) {
        let limits = self.bounds.clone();
        let (mut conns, mut ever) = (vec![0; self.cores], vec![0; self.cores]);
        for conn in self.world.conns() {
            let link = self.world.link(conn);
            ever[link.core] += 1;
            conns[link.core] += usize::from(!link.gone);
            if link.paused && !link.gone {
                *self.seen.entry("a sender paused").or_default() += 1;
            }
        }
        for dial in &self.world.dials {
            conns[dial.core] += 1;
            ever[dial.core] += 1;
        }
        // Whatever the limits are, the bytes of one read are held, and each head costs a little more than its bytes.
        let read = READ_MAX + READ_MAX / REQUEST_MIN * HEAD_OVERHEAD;
        let everybody: usize = ever.iter().sum();
        let mut sum = 0;
        for core in (0..self.cores).filter(|core| self.world.is_up(*core)).collect::<Vec<_>>() {
            let sizes = self.world.relay(core).table_sizes();
            let (conns, ever) = (conns[core], ever[core]);
            sum += sizes.bytes_queued + sizes.bytes_kept;
            assert!(sizes.peers <= conns, "core {core}: {sizes:?}");
            // The bytes of a lost connection are held as before, until they are written.
            assert!(sizes.bytes_queued <= ever * (limits.queue_bytes_high + read), "core {core}: {sizes:?}");
            let most = limits.transactions_per_peer_max;
            // Awaited ones, and unlikely ones.
            assert!(sizes.transactions <= conns * 2 * (most + 1), "core {core}: {sizes:?}");
            // Requests that failed here may still be coming in anywhere.
            let unanswered = conns * (most + 2 * READ_MAX / REQUEST_MIN) + everybody;
            assert!(sizes.unanswered <= unanswered, "core {core}: {sizes:?}");
            assert_eq!(self.world.relay(core).stats().sessions_open(), sizes.sessions as u64, "core {core}");
            // Each has proven one name at most.
            assert!(sizes.relays <= conns, "core {core}: {sizes:?}");
            // An address, and two users.
            assert!(sizes.counted <= 6, "core {core}: {sizes:?}");
        }
        let most = limits.queue_bytes_total + everybody * (limits.request_bytes_max + read + KEPT_MAX);
        assert!(sum <= most, "{sum} bytes are held and kept, {most} may be");
    }

    /// The bytes that a sender has sent and its receivers have not got are on the wire, or within the bound.
    fn check_senders(&self) {
        let high = self.bounds.queue_bytes_high + READ_MAX;
        for actor in 0..self.actors.len() {
            let (Some(conn), false) = (self.actors[actor].conn, self.actors[actor].dead) else {
                continue;
            };
            let mut held = 0;
            for index in 0..self.messages.len() {
                if self.messages[index].from == actor && !self.is_disturbed(index) {
                    held += self.messages[index].sent - self.messages[index].bytes_delivered();
                }
            }
            held -= self.arriving_from(actor);
            let link = self.world.link(conn);
            let wire = link.bytes_sent - self.world.bytes_taken(conn);
            assert!(held.saturating_sub(wire) <= high as u64, "{held} bytes of actor {actor} are held");
        }
    }

    /// The bytes that have arrived of unfinished chunks, of undisturbed messages.
    fn arriving_from(&self, actor: usize) -> u64 {
        let mut bytes = 0;
        for conn in self.by_conn.keys() {
            let Some(frame) = self.world.link(*conn).end.arriving().filter(|frame| frame.is("SEND")) else {
                continue;
            };
            let index = self.message_of(frame);
            if self.messages[index].from == actor && !self.is_disturbed(index) {
                bytes += frame.body.len() as u64;
            }
        }
        bytes
    }

    /// Once no message is under way, everything that was sent and read has reached its receivers.
    fn note_what_is_due(&mut self) {
        if !self.world.lanes().is_empty() {
            return;
        }
        for actor in 0..self.actors.len() {
            let Some(conn) = self.open_conn(actor) else {
                continue;
            };
            let taken = self.world.bytes_taken(conn);
            let flushes = self.world.end(conn).flush;
            for wait in &mut self.actors[actor].waits {
                if wait.due.is_none() && wait.until <= taken {
                    wait.due = Some(flushes);
                }
            }
        }
        for index in 0..self.messages.len() {
            let message = &self.messages[index];
            let (from, to) = (self.open_conn(message.from), self.open_conn(message.to));
            if let (Some(turn), Some(from), Some(to)) = (&message.turn, from, to)
                && turn.due.is_none()
                && turn.until <= self.world.bytes_taken(from)
            {
                let flushes = self.flushes(to);
                self.messages[index].turn.as_mut().unwrap().due = Some(flushes);
            }
        }
    }

    fn flushes(&mut self, conn: Conn) -> u64 {
        self.world.end(conn).flush
    }
}
