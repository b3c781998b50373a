//! The end of a run: everything under way arrives, all answer, time passes; then the results are checked.

use std::time::Duration;

use msrp_proto::parser::Flag;
use msrp_relay_core::CloseReason;

use super::{Link, Sent, Simulation};
use testkit_pure::Reader;

/// How long an expired session still reports on what it accepted before (req A12).
const GRACE: Duration = Duration::from_secs(30);

impl Simulation {
    /// Nothing is held any more, and no actor misbehaves, until nothing happens.
    pub(super) fn calm(&mut self) {
        let faults = std::mem::replace(&mut self.faults, false);
        self.world.hold_messages = false;
        self.world.never_quiet = false;
        self.world.read_max = 8192;
        for conn in self.world.conns() {
            let link = self.world.link_mut(conn);
            link.window = usize::MAX;
            link.stalled = false;
        }
        self.quiet();
        for _ in 0..200 {
            let waits = |conn| !self.world.is_closed(conn) && !self.world.link(conn).wire.is_empty();
            if !self.world.conns().any(waits) {
                break;
            }
            self.wait_for_rates();
        }
        self.faults = faults;
    }

    pub(super) fn settle(&mut self) {
        // What has been begun is sent to its end.
        self.world.hold_messages = false;
        self.world.read_max = 8192;
        for conn in self.world.conns() {
            let link = self.world.link_mut(conn);
            link.window = usize::MAX;
            link.stalled = false;
        }
        for _ in 0..20_000 {
            if (0..self.actors.len())
                .all(|a| self.actors[a].sending.is_empty() || self.open_conn(a).is_none())
            {
                break;
            }
            self.send_chunk();
            if self.dice.chance(5) {
                self.quiet();
                self.wait_for_rates();
            }
        }
        self.calm();
        self.faults = false;
        self.let_time_pass();
        for actor in 0..self.actors.len() {
            while let (Some(conn), Some(bytes)) = (self.open_inlet(actor), self.actors[actor].withheld.pop())
            {
                self.world.send(conn, bytes);
                self.saw("an answer sent too late");
            }
        }
        self.quiet();
        self.end_dials();
        for conn in self.world.conns() {
            let link = self.world.link(conn);
            let stuck = !link.gone && link.closing.is_none() && !link.wire.is_empty();
            assert!(!stuck || self.may_wait(conn), "{conn:?} is not read from any more");
            let waits = !link.gone && (link.travels || link.reader != Reader::Reads);
            assert!(!waits, "{conn:?} waits for another core: {:?}", link.reader);
        }
        if !self.links.iter().any(|link| link.dangling) {
            self.world.assert_idle();
            assert_eq!(self.world.sizes().transactions, 0);
        }
    }

    /// A user that has sent too much too fast is read from again after a while.
    fn wait_for_rates(&mut self) {
        if self.world.settings.limits.bytes_per_second_per_user_max > 0 {
            self.world.advance(Duration::from_secs(1));
            self.quiet();
        }
    }

    /// Lets the time of silent peers run out, and of the peers that waited behind them.
    fn let_time_pass(&mut self) {
        for _ in 0..50 {
            let sizes = self.world.sizes();
            if (sizes.transactions, sizes.unanswered, sizes.bytes_queued) == (0, 0, 0) {
                break;
            }
            self.world.advance(Duration::from_secs(31));
            self.quiet();
        }
    }

    /// Dials that were held fail at last, or are still under way when all leave.
    fn end_dials(&mut self) {
        if self.world.dials.is_empty() || self.dice.chance(50) {
            return;
        }
        while !self.world.dials.is_empty() {
            self.world.finish_dial(0, false);
            self.quiet();
        }
        self.let_time_pass();
        for link in &mut self.links {
            link.dangling = false;
        }
    }

    /// Whether a connection may stay unread: its AUTH is looked up for ever, or it sends to a place that never answers.
    fn may_wait(&self, conn: super::Conn) -> bool {
        let dangles = |actor: &usize| self.links.iter().any(|l| l.dangling && l.ends.contains(actor));
        self.by_conn.get(&conn).is_some_and(dangles)
            || self.strangers.iter().any(|stranger| stranger.conn == conn && stranger.stuck)
    }

    pub(super) fn quiet(&mut self) {
        loop {
            self.world.run();
            while !self.world.look_ups.is_empty() || (0..self.world.dials.len()).any(|at| !self.is_never(at))
            {
                self.decide();
                self.world.run();
            }
            self.collect();
            let silent = |s: &Self| s.actors.iter().all(|actor| actor.pending.is_empty());
            if silent(self) {
                self.world.run();
                self.collect();
                if silent(self) && self.world.look_ups.is_empty() {
                    return;
                }
            }
            for _ in 0..20 {
                self.let_answer();
            }
            // Dead actors do not answer.
            for actor in 0..self.actors.len() {
                if self.open_inlet(actor).is_none() {
                    self.actors[actor].pending.clear();
                }
            }
        }
    }

    pub(super) fn check(&self) {
        for index in 0..self.messages.len() {
            self.check_message(index);
        }
        for actor in 0..self.actors.len() {
            if self.open_conn(actor).is_some() {
                for (tid, sent) in &self.actors[actor].requests {
                    self.check_request(tid, sent, self.actors[actor].responses.get(tid));
                }
            }
        }
        for actor in self.actors.iter().filter(|actor| actor.leaving) {
            // It may have been closed for another reason before that one was read.
            let ended = actor.conn.is_some_and(|c| self.world.link(c).closing == Some(CloseReason::Ended));
            assert!(!ended || actor.waits.is_empty(), "an actor left, and was not answered before");
        }
        for stranger in self.strangers.iter().filter(|s| !self.world.is_closed(s.conn) && !s.stuck) {
            for (tid, expected) in &stranger.expected {
                let answered = stranger.answered.contains(tid);
                assert!(answered || expected.codes.is_empty(), "{tid} of a stranger was never answered");
            }
        }
    }

    /// Undisturbed messages have arrived whole, and no failure of theirs was reported.
    fn check_message(&self, index: usize) {
        if self.is_disturbed(index) {
            return;
        }
        let message = &self.messages[index];
        assert_eq!(message.bytes_delivered(), message.sent, "message {index} got lost");
        assert!(message.failed.is_empty(), "message {index}: false alarm");
        assert_eq!(message.flag == Some(Flag::Last), message.over, "message {index} has lost its flag");
        let expected = usize::from(message.success_report && message.over);
        assert_eq!(message.success_reports, expected, "message {index}");
    }

    /// What happened to a request whose sender is still connected.
    fn check_request(&self, tid: &str, sent: &Sent, response: Option<&u16>) {
        let (message, start, bytes, aborted) = match sent {
            Sent::Chunk { message, start, bytes, aborted } => (*message, *start, *bytes, *aborted),
            Sent::Lie([]) => return,
            Sent::Nickname | Sent::Auth | Sent::Lie(_) => {
                assert!(response.is_some() || self.dangles_at(tid), "{tid} was never answered");
                return;
            }
        };
        let (index, message) = (message, &self.messages[message]);
        let link = &self.links[message.link];
        if link.dangling {
            return;
        }
        if message.wish == "yes" {
            assert!(response.is_some(), "{tid} was never answered");
        }
        if aborted || message.wish == "no" || link.core_died || self.is_over(link) {
            return;
        }
        let mut told: Vec<(u64, u64)> = [&*message.delivered, &*message.failed].concat();
        told.sort_unstable();
        let mut next = start;
        for (first, last) in told {
            if first <= next {
                next = next.max(last + 1);
            }
        }
        assert!(
            next >= start + bytes,
            "byte {next} of message {index} ({}) is unaccounted for: {:?}, failed {:?}",
            message.wish,
            message.delivered,
            message.failed
        );
    }

    /// Whether a session of the link has ended because it expired: nothing is reported through it.
    fn is_over(&self, link: &Link) -> bool {
        let over = |end: &usize| self.actors[*end].expires.is_some_and(|at| at + GRACE <= self.world.now);
        link.ends.iter().any(over)
    }

    fn dangles_at(&self, tid: &str) -> bool {
        let sends = |actor: &usize| self.actors[*actor].requests.contains_key(tid);
        self.links.iter().any(|link| link.dangling && link.ends.iter().any(sends))
    }
}
