//! The cast: endpoints, the links between them, and the messages on each.

use std::sync::LazyLock;
use std::time::Duration;

use msrp_relay_core::{CloseReason, Input, Limit, ProvenNames};

use super::{Actor, Link, Simulation};
use testkit_pure::frame::pattern;
use testkit_pure::{ADDRESS, Conn, Decision, Frame, HOST, relay_uri};

/// More than a message has bytes.
const BYTES: usize = 1 << 18;

/// The bytes of a message from its `start`th on: only they may arrive there.
pub(super) fn body(message: usize, start: u64, bytes: usize) -> &'static [u8] {
    static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| pattern(2 * BYTES));
    // Each message has other bytes at the same places.
    let at = usize::try_from(start).unwrap() + message * 4099 % BYTES;
    &PATTERN[at..at + bytes]
}

/// Seconds of a session that asks for the shortest time.
const EXPIRES_SECONDS: u64 = 60;

impl Simulation {
    /// A core that is running.
    pub(super) fn any_core(&mut self) -> usize {
        let running: Vec<usize> = (0..self.cores).filter(|core| self.world.is_up(*core)).collect();
        self.dice.pick(&running)
    }

    /// A new connection; a core that is short of memory takes none.
    pub(super) fn connect(&mut self) -> Option<Conn> {
        self.connect_by(false)
    }

    fn connect_by(&mut self, websocket: bool) -> Option<Conn> {
        let core = self.any_core();
        let connected = match websocket {
            true => self.world.try_connect_web(core),
            false => self.world.try_connect(core, true, ADDRESS),
        };
        match connected {
            Ok(conn) => Some(conn),
            Err(limit) => {
                assert_eq!(limit, Limit::QueueBytesTotal);
                self.saw("a newcomer turned away");
                None
            }
        }
    }

    /// The answer to an AUTH. A newcomer makes room where memory is short.
    fn log_in(&mut self, conn: Conn, uri: &str, more: &str) -> Option<Frame> {
        let answer = self.world.try_auth_to(conn, "alice", (&relay_uri(), uri), more);
        if answer.is_none() {
            let made_room = CloseReason::Limit(Limit::QueueBytesTotal);
            assert_eq!(self.world.link(conn).closing, Some(made_room), "closed without a word");
            self.saw("a newcomer turned away");
        }
        answer
    }

    /// The session of a client behind a relay: where memory is short our relay refuses the client, or forgets the challenge
    /// and sends another.
    fn use_path_of(&mut self, conn: Conn, granted: &Frame) -> Option<String> {
        let use_path = granted.header("Use-Path");
        if use_path.is_none() {
            assert!([401, 403].contains(&granted.status()), "{granted:?}");
            let core = self.world.link(conn).core;
            let pressed = self.world.relay(core).stats().limits_reached[Limit::QueueBytesTotal as usize];
            assert!(granted.status() == 403 || pressed > 0, "asked twice for nothing: {granted:?}");
            self.saw("a newcomer turned away");
            self.world.lose(conn);
        }
        use_path
    }

    fn client(&mut self) -> Option<(usize, String)> {
        let is_page = self.has_pages && self.actors.len() % 2 == 1;
        let conn = self.connect_by(is_page)?;
        if is_page {
            self.saw("a page");
        }
        let uri = self.world.end(conn).uri.clone();
        let expires = self.jumps && self.dice.chance(40);
        let more = if expires { format!("Expires: {EXPIRES_SECONDS}\r\n") } else { String::new() };
        let granted = self.log_in(conn, &uri, &more)?;
        let session = granted.header("Use-Path").unwrap_or_else(|| panic!("{granted:?}"));
        let index = self.add_actor(Some(conn), uri);
        self.actors[index].session = Some(session.clone());
        self.actors[index].expires = expires.then(|| self.world.now + Duration::from_secs(EXPIRES_SECONDS));
        Some((index, session))
    }

    /// A client behind another relay, which may have one connection with ours or two, on any cores.
    fn client_behind_a_relay(&mut self) -> Option<(usize, String)> {
        let host = format!("relay{}.example", self.actors.len());
        let conn = self.relay(&host)?;
        let own = self.world.end(conn).uri.clone();
        let back = format!("msrps://{host}:2855/s1;tcp {own}");
        let granted = self.log_in(conn, &back, "")?;
        let use_path = self.use_path_of(conn, &granted)?;
        let session = use_path.split(' ').next_back().unwrap().to_owned();
        let index = self.add_actor(Some(conn), back);
        self.actors[index].session = Some(session.clone());
        self.actors[index].expires = Some(self.world.now + Duration::from_secs(600));
        self.actors[index].inlet = Some(conn);
        if self.dice.chance(70) {
            let outlet = self.relay(&host)?;
            self.by_conn.insert(outlet, index);
            self.actors[index].conn = Some(outlet);
        }
        self.hosts.insert(host, index);
        Some((index, session))
    }

    fn relay(&mut self, host: &str) -> Option<Conn> {
        let conn = self.connect()?;
        let (core, peer) = (self.world.link(conn).core, self.world.link(conn).key);
        let names = ProvenNames::new([host]).unwrap();
        self.world.input(core, Input::Identified { peer, names });
        Some(conn)
    }

    /// Where an actor receives, if that can still be used.
    pub(super) fn open_inlet(&self, actor: usize) -> Option<Conn> {
        let open = |conn: &Conn| !self.actors[actor].dead && !self.world.is_closed(*conn);
        match self.actors[actor].inlet {
            Some(inlet) => Some(inlet).filter(open),
            None => self.open_conn(actor),
        }
    }

    fn foreign(&mut self) -> Option<usize> {
        let conn = self.connect()?;
        let uri = self.world.end(conn).uri.clone();
        Some(self.add_actor(Some(conn), uri))
    }

    fn add_actor(&mut self, conn: Option<Conn>, uri: String) -> usize {
        let index = self.actors.len();
        if let Some(conn) = conn {
            self.by_conn.insert(conn, index);
        }
        self.actors.push(Actor { conn, uri, ..Actor::default() });
        index
    }

    pub(super) fn add_link(&mut self) -> Option<()> {
        let shape = if self.crowd { 2 } else { self.dice.below(7) };
        match if self.pairs { 0 } else { shape } {
            0 | 1 => {
                let (a, a_session) = self.client()?;
                let (b, b_session) = self.client()?;
                let there = format!("{a_session} {b_session} {}", self.actors[b].uri);
                let back = format!("{b_session} {a_session} {}", self.actors[a].uri);
                self.push_link([a, b], [there, back]);
            }
            2 | 3 => {
                // A foreign connection, perhaps shared by several sessions.
                let a = self.foreign()?;
                let served = if self.crowd { 3 } else { 1 + self.dice.below(3) };
                for _ in 0..served {
                    let (b, session) = self.client()?;
                    let there = format!("{session} {}", self.actors[b].uri);
                    let back = format!("{session} {}", self.actors[a].uri);
                    self.push_link([a, b], [there, back]);
                }
            }
            5 | 6 => {
                let (a, a_session) = self.client_behind_a_relay()?;
                let (b, b_session) = match self.dice.below(3) {
                    0 => self.client_behind_a_relay()?,
                    1 => self.client()?,
                    // A peer that comes from outside and begins.
                    _ => {
                        let b = self.foreign()?;
                        let there = format!("{a_session} {}", self.actors[a].uri);
                        let back = format!("{a_session} {}", self.actors[b].uri);
                        self.push_link([b, a], [there, back]);
                        return Some(());
                    }
                };
                let there = format!("{a_session} {b_session} {}", self.actors[b].uri);
                let back = format!("{b_session} {a_session} {}", self.actors[a].uri);
                self.push_link([a, b], [there, back]);
            }
            _ => {
                let (a, session) = self.client()?;
                let host = format!("far{}.example", self.actors.len());
                let uri = format!("msrps://{host}:7777/abc;tcp");
                let b = self.add_actor(None, uri.clone());
                self.hosts.insert(host, b);
                let there = format!("{session} {uri}");
                let back = format!("{session} {}", self.actors[a].uri);
                self.push_link([a, b], [there, back]);
            }
        }
        Some(())
    }

    fn push_link(&mut self, ends: [usize; 2], paths: [String; 2]) {
        let (faulty, core_died, dangling, bound) = (false, false, false, false);
        self.links.push(Link { ends, paths, faulty, core_died, dangling, bound });
    }

    /// Others begin to talk while everything is under way.
    pub(super) fn newcomers(&mut self) {
        if self.links.len() < 7 && !self.drains {
            // They authenticate at once; all else goes on as slowly as before.
            self.world.look_up_decision = Decision::Now;
            self.world.hold_messages = false;
            if self.add_link().is_some() {
                self.saw("newcomers");
            }
            self.world.look_up_decision = Decision::Hold;
            self.world.hold_messages = true;
        }
    }

    /// The connection of an actor, if it can still be used.
    pub(super) fn open_conn(&self, actor: usize) -> Option<Conn> {
        let actor = &self.actors[actor];
        actor.conn.filter(|conn| !actor.dead && !self.world.is_closed(*conn))
    }

    /// From here on nothing is checked that involves this actor.
    pub(super) fn fault_of(&mut self, actor: usize) {
        for link in self.links.iter_mut().filter(|link| link.ends.contains(&actor)) {
            link.faulty = true;
        }
    }

    pub(super) fn is_disturbed(&self, message: usize) -> bool {
        let message = &self.messages[message];
        message.faulty || self.links[message.link].faulty
    }

    /// A URI of ours with another session id.
    pub(super) fn our_uri(id: &str) -> String {
        format!("msrps://{HOST}:2855/{id};tcp")
    }
}
