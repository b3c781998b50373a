//! Who takes part: endpoints, the links between them, and what is sent on which.

use std::sync::LazyLock;
use std::time::Duration;

use msrprelay::relay::Limit;

use super::support::frame::pattern;
use super::support::{ADDRESS, Conn, Decision, HOST};
use super::{Actor, Link, Simulation};

/// More than a message has octets.
const OCTETS: usize = 1 << 18;

/// The octets of a message from its `start`th on: nothing else may arrive there.
pub(super) fn body(message: usize, start: u64, octets: usize) -> &'static [u8] {
    static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| pattern(2 * OCTETS));
    // Each message has other octets at the same places.
    let at = usize::try_from(start).unwrap() + message * 4099 % OCTETS;
    &PATTERN[at..at + octets]
}

/// Seconds of a session that asks for as little as it may.
const EXPIRES_SECONDS: u64 = 60;

impl Simulation {
    /// A core that is running.
    pub(super) fn any_core(&mut self) -> usize {
        let running: Vec<usize> = (0..self.cores).filter(|core| self.world.is_up(*core)).collect();
        self.dice.pick(&running)
    }

    /// A new connection; a core that is short of memory takes none.
    pub(super) fn connect(&mut self) -> Option<Conn> {
        let core = self.any_core();
        match self.world.try_connect(core, true, ADDRESS) {
            Ok(conn) => Some(conn),
            Err(limit) => {
                assert_eq!(limit, Limit::QueueBytesTotal);
                self.saw("a newcomer turned away");
                None
            }
        }
    }

    fn client(&mut self) -> Option<(usize, String)> {
        let conn = self.connect()?;
        let uri = self.world.end(conn).uri.clone();
        let expires = self.jumps && self.dice.chance(40);
        let more = if expires { format!("Expires: {EXPIRES_SECONDS}\r\n") } else { String::new() };
        let granted = self.world.auth_round(conn, "alice", &uri, &more);
        let session = granted.header("Use-Path").unwrap();
        let index = self.add_actor(Some(conn), uri);
        self.actors[index].session = Some(session.clone());
        self.actors[index].expires = expires.then(|| self.world.now + Duration::from_secs(EXPIRES_SECONDS));
        Some((index, session))
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
        match if self.crowd { 2 } else { self.dice.below(5) } {
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
        if self.links.len() < 7 {
            // They authenticate at once; all else goes on as slowly as before.
            self.world.look_up_decision = Decision::Now;
            self.world.hold_parcels = false;
            if self.add_link().is_some() {
                self.saw("newcomers");
            }
            self.world.look_up_decision = Decision::Hold;
            self.world.hold_parcels = true;
        }
    }

    /// The connection of an actor, if it can still be used.
    pub(super) fn open_conn(&self, actor: usize) -> Option<Conn> {
        let actor = &self.actors[actor];
        actor.conn.filter(|conn| !actor.dead && !self.world.is_closed(*conn))
    }

    /// Nothing more is promised for what this actor takes part in.
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
