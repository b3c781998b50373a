//! Clients of a [`World`]: AUTH, sessions, pairs.

use msrp_proto::digest::{Challenge, Ha1, NonceUse};
use msrp_relay_core::{Input, ProvenNames};

use crate::world::{Conn, PORT, REALM, World};
use crate::{Frame, Request};

impl World {
    // -- conversations -------------------------------------------------------------------------

    /// AUTH with both rounds; the session's URI.
    pub fn auth(&mut self, conn: Conn, user: &str) -> String {
        let uri = self.link(conn).end.uri.clone();
        self.auth_as(conn, user, &uri)
    }

    pub fn auth_as(&mut self, conn: Conn, user: &str, own_uri: &str) -> String {
        let answer = self.auth_round(conn, user, own_uri, "");
        assert_eq!(answer.status(), 200, "{answer:?}");
        answer.header("Use-Path").unwrap()
    }

    /// AUTH with both rounds and further headers in the second; the answer to the second.
    pub fn auth_round(&mut self, conn: Conn, user: &str, own_uri: &str, more: &str) -> Frame {
        self.auth_to(conn, user, (&relay_uri(), own_uri), more)
    }

    pub fn auth_to(&mut self, conn: Conn, user: &str, (to, own_uri): (&str, &str), more: &str) -> Frame {
        self.try_auth_to(conn, user, (to, own_uri), more).unwrap()
    }

    /// The same, where memory may be short: `None` if the connection has made room for others meanwhile.
    pub fn try_auth_to(
        &mut self,
        conn: Conn,
        user: &str,
        (to, own_uri): (&str, &str),
        more: &str,
    ) -> Option<Frame> {
        let first = Request::new("AUTH", to, own_uri).bytes();
        self.send(conn, first);
        let challenge = self.take_one_unless_closed(conn)?;
        if challenge.status() == 403 {
            // Of clients behind relays.
            return Some(challenge);
        }
        assert_eq!(challenge.status(), 401, "{challenge:?}");
        let password = self.accounts.get(&format!("{user}@{REALM}")).cloned().unwrap_or_default();
        let authorization = answer_challenge(&challenge, user, &password, to, 1);
        let second =
            Request::new("AUTH", to, own_uri).header("Authorization", &authorization).raw(more).bytes();
        self.send(conn, second);
        self.take_one_unless_closed(conn)
    }

    /// A client with a session on a core.
    pub fn client(&mut self, core: usize, user: &str) -> (Conn, String) {
        let conn = self.connect(core);
        let uri = self.auth(conn, user);
        (conn, uri)
    }

    /// The same by WebSocket.
    pub fn web_client(&mut self, core: usize, user: &str) -> (Conn, String) {
        let conn = self.connect_web(core);
        let uri = self.auth(conn, user);
        (conn, uri)
    }

    /// A connection with a relay that has proven its name, with two clients behind it that have sessions here. Returns
    /// the path to each.
    pub fn relay_with_two_clients(&mut self, core: usize) -> (Conn, [String; 2]) {
        let conn = self.connect(core);
        let (core, peer) = (self.link(conn).core, self.link(conn).key);
        let names = ProvenNames::new(["inner.example.net"]).unwrap();
        self.input(core, Input::Identified { peer, names });
        let paths = [("alice", "wren"), ("bob", "finch")].map(|(user, own)| {
            let there = format!("msrps://inner.example.net:2855/{own}{own}{own}{own};tcp");
            let back = format!("{there} msrps://192.0.2.51:51344/{own};tcp");
            let use_path = self.auth_as(conn, user, &back);
            let session = use_path.split(' ').next_back().unwrap();
            format!("{session} {back}")
        });
        (conn, paths)
    }

    /// Two clients, each with a session, and the path from the first to the second.
    pub fn pair(&mut self, alice_core: usize, bob_core: usize) -> Pair {
        let alice = self.client(alice_core, "alice");
        let bob = self.client(bob_core, "bob");
        self.pair_of(alice, bob)
    }

    /// Two that have their sessions already.
    pub fn pair_of(
        &mut self,
        (alice, alice_session): (Conn, String),
        (bob, bob_session): (Conn, String),
    ) -> Pair {
        let alice_uri = self.link(alice).end.uri.clone();
        let bob_uri = self.link(bob).end.uri.clone();
        Pair {
            to_bob: format!("{alice_session} {bob_session} {bob_uri}"),
            to_alice: format!("{bob_session} {alice_session} {alice_uri}"),
            alice,
            bob,
            alice_session,
            bob_session,
            alice_uri,
            bob_uri,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Pair {
    pub alice: Conn,
    pub bob: Conn,
    pub alice_session: String,
    pub bob_session: String,
    pub alice_uri: String,
    pub bob_uri: String,
    pub to_bob: String,
    pub to_alice: String,
}

/// Where clients send AUTH: their SIP domain, which leads to the relay (req A2).
pub fn relay_uri() -> String {
    format!("msrps://{REALM}:{PORT};tcp")
}

/// The value of Authorization that answers a 401.
pub fn answer_challenge(challenge: &Frame, user: &str, password: &str, uri: &str, nc: u32) -> String {
    let value = challenge.header("WWW-Authenticate").unwrap();
    let challenge = Challenge::parse(value.as_bytes()).unwrap();
    let ha1 = Ha1::new(challenge.algorithm, user, &challenge.realm, password);
    challenge.answer(user, &ha1, uri.as_bytes(), NonceUse { nc, cnonce: "5cdf0a9e71b2" }).to_string()
}

/// The first round of AUTH: the 401.
pub fn challenged(world: &mut World, conn: Conn, to: &str) -> Frame {
    let uri = world.end(conn).uri.clone();
    world.send(conn, Request::new("AUTH", to, &uri).bytes());
    let frame = world.take_one(conn);
    assert_eq!(frame.status(), 401);
    frame
}

/// The second round of AUTH.
pub fn auth_with(world: &mut World, conn: Conn, to: &str, authorization: &str) -> Frame {
    let uri = world.end(conn).uri.clone();
    let request = Request::new("AUTH", to, &uri).header("Authorization", authorization);
    world.send(conn, request.bytes());
    world.take_one(conn)
}
