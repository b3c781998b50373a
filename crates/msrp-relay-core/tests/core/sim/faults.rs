//! What breaks: connections, cores, dials, look-ups, patience.

use std::time::Duration;

use msrp_relay_core::Input;

use super::Simulation;
use testkit_pure::Reader;

impl Simulation {
    pub(super) fn fault(&mut self) {
        match self.dice.below(100) {
            0..=29 => self.come_in(),
            30..=41 => self.lose_an_actor(),
            42..=45 => self.kill(),
            46..=51 => self.babble(),
            52..=55 => self.leave(),
            56..=61 if self.jumps => self.jump(),
            62..=74 => self.answer_late(),
            75..=77 => self.close_session(),
            78..=79 => self.drain(),
            _ => self.decide(),
        }
    }

    /// Dials and look-ups end: well, badly, or never.
    pub(super) fn decide(&mut self) {
        if !self.world.look_ups.is_empty() && self.dice.chance(70) {
            let at = self.dice.below(self.world.look_ups.len());
            // Some of those that only guess never get an answer.
            if self.faults && self.world.look_ups[at].user == "carol" && self.dice.chance(10) {
                let core = self.world.look_ups.remove(at).core;
                self.mark_stuck(core);
                self.saw("an AUTH that was never looked up");
            } else {
                self.world.accounts_up = !self.faults || self.dice.chance(90);
                self.world.finish_look_up(at);
                self.world.accounts_up = true;
            }
        }
        let decidable: Vec<usize> = (0..self.world.dials.len()).filter(|at| !self.is_never(*at)).collect();
        if decidable.is_empty() {
            return;
        }
        let at = self.dice.pick(&decidable);
        let dial = &self.world.dials[at];
        let (place, actor) = ((dial.core, dial.key), self.hosts[&dial.target.host]);
        match self.dice.below(100) {
            0..=19 if self.faults => {
                self.fault_of(actor);
                self.world.finish_dial(at, false);
                self.saw("a dial failed");
            }
            20..=23 if self.faults => {
                self.fault_of(actor);
                self.never.insert(place);
                self.saw("a dial without an end");
                for link in self.links.iter_mut().filter(|link| link.ends.contains(&actor)) {
                    link.dangling = true;
                }
            }
            _ => self.connect_dialled(at, actor),
        }
    }

    fn connect_dialled(&mut self, at: usize, actor: usize) {
        let Some(conn) = self.world.finish_dial(at, true) else {
            return;
        };
        // An actor that is dialled twice has lost the first connection, or is in its own way.
        if self.actors[actor].conn.is_none() {
            self.actors[actor].conn = Some(conn);
            self.by_conn.insert(conn, actor);
        } else {
            if self.actors[actor].inlet.is_some() {
                self.saw("a connection with a relay opened anew");
            }
            self.fault_of(actor);
            self.world.lose(conn);
        }
    }

    pub(super) fn is_never(&self, dial: usize) -> bool {
        let dial = &self.world.dials[dial];
        self.never.contains(&(dial.core, dial.key))
    }

    /// A far end that may be dialled comes by itself.
    fn come_in(&mut self) {
        let waiting: Vec<usize> = (0..self.actors.len()).filter(|a| self.actors[*a].conn.is_none()).collect();
        if waiting.is_empty() {
            return;
        }
        let actor = self.dice.pick(&waiting);
        let Some(conn) = self.connect() else {
            return;
        };
        self.actors[actor].conn = Some(conn);
        self.actors[actor].came = true;
        self.by_conn.insert(conn, actor);
        // It may be dialled as well and find itself refused.
        self.fault_of(actor);
    }

    fn lose_an_actor(&mut self) {
        let actor = self.dice.below(self.actors.len());
        let either = [self.actors[actor].conn, self.actors[actor].inlet];
        if let Some(conn) = self.dice.pick(&either).or(either[0]) {
            self.fault_of(actor);
            self.actors[actor].dead = true;
            self.actors[actor].leaving = false;
            self.world.lose(conn);
        }
    }

    /// An actor sends something that is not MSRP: its connection will be closed.
    fn babble(&mut self) {
        let actor = self.dice.below(self.actors.len());
        if let Some(conn) = self.open_conn(actor) {
            self.fault_of(actor);
            self.actors[actor].dead = true;
            let bytes =
                self.dice.pick(&["GET / HTTP/1.1\r\n\r\n", "\r\n\r\n", "MSRP x SEND\r\n", "MSRP\r\n"]);
            self.world.send(conn, bytes);
        }
    }

    /// An actor closes its side right after its last request: it still gets the answers it is owed.
    fn leave(&mut self) {
        let actor = self.dice.below(self.actors.len());
        if let Some(conn) = self.open_conn(actor) {
            self.fault_of(actor);
            self.actors[actor].dead = true;
            self.actors[actor].leaving = true;
            self.world.hang_up(conn);
            self.saw("a connection ended behind its last request");
        }
    }

    /// A core dies, and may restart. Links that do not need it must not be affected.
    fn kill(&mut self) {
        let running = (0..self.cores).filter(|core| self.world.is_up(*core)).count();
        if running < 2 {
            return;
        }
        let core = self.any_core();
        self.kill_core(core);
    }

    /// The same for a core of two that are about to come together.
    pub(super) fn kill_a_meeting(&mut self) {
        let travellers = self.world.travellers();
        let is_parked = |conn: &testkit_pure::Conn| self.world.link(*conn).reader == Reader::Parked;
        let parked: Vec<_> = self.world.conns().filter(is_parked).collect();
        let running = (0..self.cores).filter(|core| self.world.is_up(*core)).count();
        if travellers.is_empty() && parked.is_empty() || running < 2 || self.dice.chance(40) {
            return;
        }
        let core = match travellers.first() {
            Some((lane, _)) => self.dice.pick(&[lane.0, lane.0, lane.1]),
            None if self.dice.chance(50) => self.any_core(),
            None => self.world.link(parked[0]).core,
        };
        if self.world.is_up(core) {
            self.kill_core(core);
        }
    }

    fn kill_core(&mut self, core: usize) {
        let again = self.dice.chance(60);
        let mut travellers = Vec::new();
        // What it sent arrives before the news of its death, or never; what was sent to it may come late.
        for lane in self.world.lanes().into_iter().filter(|(from, _)| *from == core) {
            if self.dice.chance(50) {
                self.world.deliver(lane, usize::MAX);
            } else {
                travellers.extend(self.world.drop_messages(lane));
            }
        }
        let conns = |actor: &super::Actor| [actor.conn, actor.inlet].into_iter().flatten();
        let lives_there = |actor: &super::Actor| {
            conns(actor).any(|conn| self.world.link(conn).core == core && !self.world.is_closed(conn))
        };
        let travelled = |actor: &super::Actor| conns(actor).any(|conn| travellers.contains(&conn));
        let lost = |actor: &super::Actor| lives_there(actor) || travelled(actor);
        let lost: Vec<usize> = (0..self.actors.len()).filter(|a| lost(&self.actors[*a])).collect();
        if !travellers.is_empty() {
            self.saw("connection between two cores lost");
        }
        self.world.kill_core(core, again);
        self.saw(if again { "a core came again" } else { "a core died" });
        // An actor that has left before may have left something there, also the news of undelivered bytes.
        for (index, actor) in self.actors.iter().enumerate() {
            if conns(actor).any(|conn| self.world.link(conn).core == core) {
                for link in self.links.iter_mut().filter(|link| link.ends.contains(&index)) {
                    link.core_died = true;
                }
            }
        }
        for actor in lost {
            self.actors[actor].dead = true;
            self.actors[actor].leaving = false;
            self.fault_of(actor);
        }
        self.strangers.retain(|stranger| !self.world.is_closed(stranger.conn));
    }

    /// An operator closes a session, in the midst of whatever it does.
    fn close_session(&mut self) {
        let core = self.any_core();
        let sessions = self.world.relay(core).sessions();
        if sessions.is_empty() {
            return;
        }
        let (session, now) = (self.dice.pick(&sessions), self.world.now);
        let Some(view) = self.world.relay(core).session_view(now, session) else {
            return;
        };
        let is_it =
            |actor: &super::Actor| actor.session.as_ref().is_some_and(|uri| uri.contains(&view.session));
        let owner = (0..self.actors.len()).find(|actor| is_it(&self.actors[*actor]));
        // Of a stranger, who is no part of any link, nothing is known; of one behind a relay the connection stays.
        let Some(owner) = owner.filter(|owner| self.actors[*owner].inlet.is_none()) else {
            return;
        };
        self.fault_of(owner);
        self.actors[owner].dead = true;
        self.actors[owner].leaving = false;
        self.world.input(core, Input::CloseSession(session));
        self.saw("a session closed by its operator");
    }

    /// The relays accept no new client; the connected ones go on.
    fn drain(&mut self) {
        self.drains = true;
        for core in 0..self.cores {
            self.world.input(core, Input::Drain);
        }
        self.saw("a drain");
    }

    /// Nothing happens for so long that all waits end: in the middle of everything, or when all is said, so that no one
    /// may notice.
    fn jump(&mut self) {
        let seconds = 31 + self.dice.below(60) as u64;
        if self.dice.chance(50) {
            self.calm();
            self.world.advance(Duration::from_secs(seconds));
            self.collect();
            self.world.hold_messages = true;
            self.saw("a calm jump of the clock");
        } else {
            self.world.now += Duration::from_secs(seconds);
            for core in 0..self.cores {
                self.world.input(core, Input::Tick);
            }
            for link in &mut self.links {
                link.faulty = true;
            }
        }
        self.fault_the_expired();
    }

    /// Requests through an expired session may have been read too late.
    pub(super) fn fault_the_expired(&mut self) {
        let expired = |actor: &super::Actor| actor.expires.is_some_and(|at| at <= self.world.now);
        let expired: Vec<usize> = (0..self.actors.len()).filter(|a| expired(&self.actors[*a])).collect();
        for actor in expired {
            self.fault_of(actor);
        }
    }

    /// Answers that no request awaits any more, or not for long.
    fn answer_late(&mut self) {
        let actor = self.dice.below(self.actors.len());
        if let (Some(conn), Some(bytes)) = (self.open_inlet(actor), self.actors[actor].withheld.pop()) {
            self.world.send(conn, bytes);
            self.saw("an answer sent late");
        }
    }
}
