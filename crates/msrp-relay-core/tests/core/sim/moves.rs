//! What honest endpoints do, and the slow world between them and the relays.

use std::time::Duration;

use msrp_proto::parser::Flag;
use msrp_relay_core::Input;

use super::cast;
use super::{Actor, Message, Sent, Simulation, Turn, Wait};
use testkit_pure::{Conn, Request, relay_uri};

impl Simulation {
    pub(super) fn new_message(&mut self) {
        let link = self.dice.below(self.links.len());
        let back = self.crowd && self.may_speak(link, 1) && self.dice.chance(50);
        let way = if back { 1 } else { self.dice.below(2) };
        let ends = self.links[link].ends;
        let (from, to) = (ends[way], ends[1 - way]);
        if self.open_conn(from).is_none() || !self.may_speak(link, way) {
            return;
        }
        let total = match self.dice.below(6) {
            0 => self.dice.below(3),
            1 | 2 => 1 + self.dice.below(600),
            3 => 1500 + self.dice.below(3000),
            _ => self.dice.below(120_000),
        };
        let index = self.messages.len();
        self.messages.push(Message {
            link,
            way,
            from,
            to,
            total: total as u64,
            base: self.dice.pick(&[0, 0, 0, 1 << 40, u64::MAX - 200_000]),
            sent: 0,
            wish: self.dice.pick(&["yes", "yes", "yes", "partial", "no"]),
            success_report: self.dice.chance(20),
            told_total: self.dice.chance(70),
            lies: self.lies && self.dice.chance(20),
            over: false,
            sent_in_one: false,
            aborted: None,
            faulty: false,
            too_late: None,
            delivered: Vec::new(),
            flag: None,
            failed: Vec::new(),
            success_reports: 0,
            turn: None,
        });
        self.actors[from].sending.push(index);
    }

    /// All cores get other limits, one after the other; none is above the checked ones.
    pub(super) fn reconfigure(&mut self) {
        let mut settings = self.world.settings.clone();
        let limits = &mut settings.limits;
        *limits = self.bounds.clone();
        // If a peer is not read from while the clock jumps, its answers are read too late, which small queues make
        // likely.
        if !self.jumps && self.dice.chance(70) {
            limits.queue_bytes_high = limits.request_bytes_max + self.dice.below(4096);
            limits.queue_bytes_low = limits.request_bytes_max;
        }
        limits.queue_bytes_total = self.dice.pick(&[limits.queue_bytes_total, 192 << 10]);
        limits.flush_bytes_max = self.dice.pick(&[limits.flush_bytes_max, 3 << 10]);
        limits.sessions_per_user_max = self.dice.pick(&[0, 1000]);
        self.flush_bytes_min = self.flush_bytes_min.min(settings.limits.flush_bytes_max);
        self.world.settings = settings.clone();
        let cores = self.cores;
        let first = self.dice.below(cores);
        for core in (0..cores).map(|n| (first + n) % cores) {
            self.world.input(core, Input::Reconfigured(Box::new(settings.clone())));
            if self.dice.chance(50) {
                self.let_deliver();
                self.let_write();
            }
        }
        self.saw("a config read again");
    }

    /// An actor that has not been spoken to does not know where its peer is: it would make us dial it.
    fn may_speak(&self, link: usize, way: usize) -> bool {
        let second = self.links[link].ends[1];
        let spoken_to = |m: &Message| m.link == link && m.to == second && !m.delivered.is_empty();
        // Clients of ours know each other's URIs before either has spoken.
        let is_client = |end: usize| self.actors[end].session.is_some();
        let are_clients = self.links[link].ends.into_iter().all(is_client);
        let is_dialled = self.actors[second].inlet.is_none() && self.hosts.values().any(|a| *a == second);
        way == 0 || is_dialled || are_clients || self.messages.iter().any(spoken_to)
    }

    /// An actor sends the next chunk of one of its messages.
    pub(super) fn send_chunk(&mut self) {
        let actor = self.dice.below(self.actors.len());
        let Some(conn) = self.open_conn(actor) else {
            return;
        };
        if self.actors[actor].sending.is_empty() || self.world.link(conn).wire.len() > 100_000 {
            return;
        }
        let slot = self.dice.below(self.actors[actor].sending.len());
        let index = self.actors[actor].sending[slot];
        let rest = self.messages[index].total - self.messages[index].sent;
        let bytes = if self.dice.chance(60) {
            rest
        } else {
            self.dice.below(usize::try_from(rest).unwrap() + 1) as u64
        };
        let last = bytes == rest;
        let aborted = self.dice.chance(3);
        let flag = match (aborted, last) {
            (true, _) => Flag::Aborted,
            (false, true) => Flag::Last,
            (false, false) => Flag::More,
        };
        let request = self.chunk(index, bytes, flag);
        let expired = self.has_expired(self.messages[index].link);
        let message = &mut self.messages[index];
        let start = message.sent + 1;
        message.sent += bytes;
        message.over = aborted || last;
        message.sent_in_one = start == 1 && last;
        message.aborted = aborted.then_some(start);
        message.faulty |= aborted;
        if expired {
            message.faulty = true;
            message.too_late.get_or_insert(start);
        }
        if message.over {
            self.actors[actor].sending.swap_remove(slot);
        }
        let answered = message.wish == "yes";
        self.world.send(conn, request.bytes());
        let until = self.world.link(conn).bytes_sent;
        if bytes > 0 && bytes <= 2048 && flag == Flag::Last {
            self.take_turn(index, start, until);
        }
        let actor = &mut self.actors[actor];
        actor.requests.insert(request.tid.clone(), Sent::Chunk { message: index, start, bytes, aborted });
        if answered {
            actor.waits.push(Wait { tid: request.tid, until, due: None });
        }
    }

    fn chunk(&mut self, index: usize, bytes: u64, flag: Flag) -> Request {
        let lie = self.messages[index].lies;
        let [claim, unknown, own, named] = [50, 33, 50, 90].map(|percent| self.dice.chance(percent));
        let message = &self.messages[index];
        let start = message.sent + 1;
        let wire = message.base + start;
        let end = match (lie, unknown) {
            (true, _) if claim => "3".to_owned(),
            (_, true) => "*".to_owned(),
            _ => (message.base + message.sent + bytes).to_string(),
        };
        let total = match lie {
            // Not less than was sent before, and not true.
            true if claim => (wire - 1).to_string(),
            true => u64::MAX.to_string(),
            false if message.told_total => (message.base + message.total).to_string(),
            false => "*".to_owned(),
        };
        let body = cast::body(index, start, usize::try_from(bytes).unwrap());
        let path = &self.links[message.link].paths[message.way];
        let mut request = Request::new("SEND", path, &self.actors[message.from].uri)
            .header("Message-ID", &format!("mess{index:06}"))
            .header("X-Trace", &format!("trace {index}"));
        if wire > 1 || named {
            request = request.header("Byte-Range", &format!("{wire}-{end}/{total}"));
        }
        if message.wish != "yes" || own {
            request = request.header("Failure-Report", message.wish);
        }
        if message.success_report {
            request = request.header("Success-Report", "yes");
        }
        if !body.is_empty() || claim {
            request = request.body(body);
        }
        request.flag(flag)
    }

    /// A short message to a connection that others send to as well, from an actor with nothing else under way.
    fn take_turn(&mut self, index: usize, start: u64, until: u64) {
        let (from, to, link) =
            (self.messages[index].from, self.messages[index].to, self.messages[index].link);
        let others = self.links.iter().filter(|l| l.ends.contains(&to)).count() as u64 - 1;
        // A full table of transactions, or one with little room because memory is short, holds up all of them.
        let limits = &self.world.settings.limits;
        let roomy = limits.transactions_per_peer_max == 4096 && limits.queue_bytes_total == 512 << 20;
        let idle = self.messages.iter().enumerate().all(|(other, m)| {
            let arrived = m.bytes_delivered() == m.sent && (!m.over || m.flag == Some(Flag::Last));
            other == index || m.from != from || arrived
        });
        if others > 0 && roomy && idle && start == 1 && !self.links[link].faulty {
            self.messages[index].turn = Some(Turn { until, due: None, others });
        }
    }

    pub(super) fn nickname(&mut self) {
        let link = self.dice.below(self.links.len());
        let way = self.dice.below(2);
        let from = self.links[link].ends[way];
        let Some(conn) = self.open_conn(from) else {
            return;
        };
        if !self.may_speak(link, way) {
            return;
        }
        let path = &self.links[link].paths[way];
        let request = Request::new("NICKNAME", path, &self.actors[from].uri);
        self.actors[from].requests.insert(request.tid.clone(), Sent::Nickname);
        self.world.send(conn, request.bytes());
    }

    /// A client prolongs its session, or asks for another URI, in the middle of everything: nothing is read from it
    /// meanwhile.
    pub(super) fn refresh(&mut self) {
        let actor = self.dice.below(self.actors.len());
        let Some(conn) = self.open_conn(actor) else {
            return;
        };
        let renews = self.dice.chance(60);
        let Actor { session: Some(session), refresh: None, expires: None, uri, other, .. } =
            &self.actors[actor]
        else {
            return;
        };
        let to = match other {
            None if renews => relay_uri(),
            Some(other) if renews => other.clone(),
            _ => session.clone(),
        };
        let request = Request::new("AUTH", &to, uri);
        self.world.send(conn, request.bytes());
        self.actors[actor].refresh = Some(to);
        self.actors[actor].requests.insert(request.tid, Sent::Auth);
        self.change_uris(actor);
    }

    /// From here on, each path through a session with two URIs uses the one or the other.
    pub(super) fn change_uris(&mut self, actor: usize) {
        let Actor { session: Some(session), other: Some(other), .. } = &self.actors[actor] else {
            return;
        };
        let (session, other) = (session.clone(), other.clone());
        for link in 0..self.links.len() {
            for way in 0..2 {
                let [from, to] = if self.dice.chance(50) { [&session, &other] } else { [&other, &session] };
                let path = self.links[link].paths[way].replace(from.as_str(), to);
                if path != self.links[link].paths[way] {
                    self.links[link].paths[way] = path;
                    self.saw("a path that takes the other URI of a session");
                }
            }
        }
    }

    fn any_conn(&mut self) -> Option<Conn> {
        let conns: Vec<Conn> = self.world.conns().collect();
        if conns.is_empty() {
            return None;
        }
        Some(self.dice.pick(&conns))
    }

    pub(super) fn let_read(&mut self) {
        let most = [1, 40, 700, 5000, 16_000][usize::try_from(self.seed % 5).unwrap()];
        self.world.read_max = 1 + self.dice.below(most);
        self.world.never_quiet = self.dice.chance(4);
        for _ in 0..1 + self.dice.below(6) {
            if let Some(conn) = self.any_conn() {
                self.world.read(conn);
            }
        }
        if self.dice.chance(30) {
            self.world.read_max = 1 + self.dice.below(16_000);
            if let Some(conn) = self.any_conn() {
                self.world.read(conn);
            }
        }
    }

    pub(super) fn let_write(&mut self) {
        if let Some(conn) = self.any_conn() {
            self.world.link_mut(conn).window = self.dice.below(20_000);
            self.world.write(conn);
        }
    }

    /// An actor stops reading, or starts again.
    pub(super) fn stall(&mut self) {
        if let Some(conn) = self.any_conn() {
            let link = self.world.link_mut(conn);
            link.stalled = !link.stalled;
        }
    }

    pub(super) fn let_deliver(&mut self) {
        let lanes = self.world.lanes();
        if !lanes.is_empty() {
            let lane = self.dice.pick(&lanes);
            let count = 1 + self.dice.below(15);
            self.world.deliver(lane, count);
        }
    }

    /// An actor answers a request, well or badly or not at all.
    pub(super) fn let_answer(&mut self) {
        let index = self.dice.below(self.actors.len());
        let bad = self.faults && self.dice.chance(6);
        if self.actors[index].pending.is_empty() {
            return;
        }
        let slot = self.dice.below(self.actors[index].pending.len());
        let frame = self.actors[index].pending.swap_remove(slot);
        let early = self.actors[index].early.iter().any(|tid| tid == frame.tid());
        let Some(conn) = self.open_inlet(index) else {
            return;
        };
        if bad && frame.is("SEND") {
            let message = self.message_of(&frame);
            self.messages[message].faulty = true;
        }
        let code = match (bad, self.dice.below(3)) {
            (false, _) => 200,
            (true, 0 | 1) => self.dice.pick(&[413, 500, 481]),
            (true, _) => {
                if frame.wants_response(200) && !early {
                    self.actors[index].withheld.push(frame.response(200));
                }
                return;
            }
        };
        if frame.wants_response(code) && !early {
            let bytes = frame.response(code);
            self.world.send(conn, &bytes);
            if self.faults && self.dice.chance(3) {
                self.world.send(conn, &bytes);
                self.saw("an answer sent twice");
            }
        }
    }

    /// An actor answers a chunk that has not arrived whole.
    pub(super) fn answer_early(&mut self) {
        let index = self.dice.below(self.actors.len());
        let Some(conn) = self.open_inlet(index) else {
            return;
        };
        let code = if self.faults && self.dice.chance(70) { 413 } else { 200 };
        let Some(arriving) = self.world.end(conn).arriving().cloned() else {
            return;
        };
        let known = self.actors[index].early.iter().any(|tid| tid == arriving.tid());
        if known || !arriving.is("SEND") || !arriving.wants_response(code) {
            return;
        }
        if code != 200 {
            let message = self.message_of(&arriving);
            self.messages[message].faulty = true;
            self.saw("an early 413");
        }
        self.actors[index].early.push(arriving.tid().to_owned());
        self.world.send(conn, arriving.response(code));
    }

    /// A little time passes; never so much that an answer under way would be late.
    pub(super) fn age(&mut self) {
        if self.aged < 20 {
            let seconds = self.dice.below(3) as u64;
            self.aged += seconds;
            self.world.now += Duration::from_secs(seconds);
            if self.faults {
                self.expect_relief();
            }
            self.fault_the_expired();
            for core in 0..self.cores {
                self.world.input(core, Input::Tick);
            }
        }
    }

    /// A connection with several sessions may be relieved of one that does not take its messages (413).
    fn expect_relief(&mut self) {
        for index in 0..self.messages.len() {
            let is_shared = |end| self.links.iter().filter(|link| link.ends.contains(&end)).count() > 1;
            let (from, to) = (self.messages[index].from, self.messages[index].to);
            let (shared, reports_shared) = (is_shared(from), is_shared(to));
            let message = &mut self.messages[index];
            // A REPORT that waits for the same receiver goes with it.
            if reports_shared && message.success_report && message.success_reports == 0 {
                message.faulty = true;
            }
            // An empty message has no byte that could be missing.
            if shared && (message.bytes_delivered() < message.total || message.flag.is_none()) {
                message.faulty = true;
            }
        }
    }

    /// Whether one of a link's sessions has ended.
    pub(super) fn has_expired(&self, link: usize) -> bool {
        let ends = self.links[link].ends;
        ends.iter().any(|end| self.actors[*end].expires.is_some_and(|at| at <= self.world.now))
    }
}
