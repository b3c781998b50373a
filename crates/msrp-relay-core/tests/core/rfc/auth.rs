//! Requirements A with this relay as the target: challenge, credentials, the URI (RFC 4976, 5.1, 6.3, 9.1).

use std::time::Duration;

use msrp_proto::digest::{Algorithm, AuthenticationInfo, Challenge, Ha1, NonceUse};
use msrp_proto::uri::{Host, MsrpUri};

use testkit_pure::line::only;
use testkit_pure::{
    Frame, HOST, PORT, REALM, Request, World, answer_challenge, auth_with, challenged, relay_uri,
};

fn stale(challenge: &Frame) -> bool {
    Challenge::parse(challenge.header("WWW-Authenticate").unwrap().as_bytes()).unwrap().stale
}

/// Alice's credentials by the nextnonce of a 200.
fn by_nextnonce(accepted: &Frame, nc: u32) -> String {
    let info = accepted.header("Authentication-Info").unwrap();
    let info = AuthenticationInfo::parse(info.as_bytes()).unwrap();
    let challenge = Challenge {
        realm: REALM.into(),
        nonce: info.nextnonce.unwrap(),
        opaque: None,
        algorithm: Algorithm::Md5,
        stale: false,
    };
    let ha1 = Ha1::new(Algorithm::Md5, "alice", REALM, "1234");
    challenge.answer("alice", &ha1, relay_uri().as_bytes(), NonceUse { nc, cnonce: "c" }).to_string()
}

// A3: Digest with `auth` alone, an opaque, and no `domain`; one challenge where one algorithm is configured.
#[test]
fn challenge_offers_auth_alone_and_carries_an_opaque() {
    let mut world = World::new(1);
    let conn = world.connect(0);
    let challenge = challenged(&mut world, conn, &relay_uri());
    let offers: Vec<_> =
        challenge.head.headers(&challenge.bytes).filter(|(name, _)| *name == b"WWW-Authenticate").collect();
    assert_eq!(offers.len(), 1);
    let value = challenge.header("WWW-Authenticate").unwrap();
    assert!(value.starts_with("Digest realm=\"example.com\", nonce=\""), "{value}");
    assert!(value.contains(", qop=\"auth\"") && value.contains(", opaque=\""), "{value}");
    for never in ["auth-int", "-sess", "domain=", "userhash", "Basic"] {
        assert!(!value.contains(never), "{value}");
    }
}

// A3, A5: Basic, auth-int and the -sess variants are not accepted, even if everything else is right.
#[test]
fn other_schemes_and_qualities_get_a_fresh_challenge() {
    let spellings: [fn(&str) -> String; 4] = [
        |_| "Basic YWxpY2U6MTIzNA==".to_owned(),
        |good| good.replace("qop=auth", "qop=auth-int"),
        |good| good.replace("algorithm=MD5", "algorithm=MD5-sess"),
        |good| good.replace("algorithm=MD5", "algorithm=SHA-512-256"),
    ];
    for spelling in spellings {
        let mut world = World::new(1);
        let conn = world.connect(0);
        let challenge = challenged(&mut world, conn, &relay_uri());
        let value = spelling(&answer_challenge(&challenge, "alice", "1234", &relay_uri(), 1));
        let answer = auth_with(&mut world, conn, &relay_uri(), &value);
        assert_eq!(answer.status(), 401, "{value}");
        assert!(!stale(&answer));
        assert!(world.look_ups.is_empty() && world.sizes().sessions == 0);
    }
}

// A4: the digest covers the rightmost To-Path URI as it was sent, not what it means.
#[test]
fn digest_covers_the_uri_exactly_as_sent() {
    let sent = "MSRPS://alice@EXAMPLE.com:2855;TCP;x=y";
    for (hashed, status) in [(sent, 200), ("msrps://example.com:2855;tcp", 401)] {
        let mut world = World::new(1);
        let conn = world.connect(0);
        let challenge = challenged(&mut world, conn, sent);
        let value = answer_challenge(&challenge, "alice", "1234", hashed, 1);
        let answer = auth_with(&mut world, conn, sent, &value);
        assert_eq!(answer.status(), status, "{hashed}");
        assert_eq!(answer.from_path(), sent);
    }
}

// A6: counts begin at 1.
#[test]
fn nonce_count_of_zero_is_refused() {
    let mut world = World::new(1);
    let conn = world.connect(0);
    let challenge = challenged(&mut world, conn, &relay_uri());
    let value = answer_challenge(&challenge, "alice", "1234", &relay_uri(), 0);
    assert_eq!(auth_with(&mut world, conn, &relay_uri(), &value).status(), 401);
}

// A6: a nextnonce is good for as long as the session, and for one use of each count.
#[test]
fn nextnonce_lives_as_long_as_the_session() {
    let mut world = World::new(1);
    let conn = world.connect(0);
    let uri = world.end(conn).uri.clone();
    let accepted = world.auth_round(conn, "alice", &uri, "");
    world.advance(Duration::from_secs(2 * 3600));
    let again = auth_with(&mut world, conn, &relay_uri(), &by_nextnonce(&accepted, 1));
    assert_eq!(again.status(), 200);
    // The 200 named another one.
    let replayed = auth_with(&mut world, conn, &relay_uri(), &by_nextnonce(&accepted, 2));
    assert_eq!(replayed.status(), 401);
    assert!(!stale(&replayed));
}

// A8: msrps, our name, an explicit port, 136 random bits in plain letters and digits, one URI per AUTH.
#[test]
fn minted_uri_is_complete_and_new_every_time() {
    let mut world = World::new(2);
    let mut ids: Vec<String> = Vec::new();
    for n in 0..50 {
        let (_, text) = world.client(n % 2, "alice");
        let uri = MsrpUri::parse(text.as_bytes()).unwrap();
        assert!(uri.is_secure());
        assert_eq!((uri.host(), uri.port(), uri.transport()), (Host::Name(HOST), Some(PORT), "tcp"));
        let id = uri.session_id().unwrap();
        assert_eq!(id.len(), 28);
        assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')));
        ids.push(id.to_owned());
    }
    // Nothing counts up: between any two, many of the characters after the core's differ.
    for (n, id) in ids.iter().enumerate() {
        for other in &ids[..n] {
            let differing = id.bytes().zip(other.bytes()).skip(6).filter(|(a, b)| a != b).count();
            assert!(differing >= 10, "{id} {other}");
        }
    }
}

// A10: the URI works with the connection that asked for it and ends with it, even if its client comes back.
#[test]
fn session_ends_with_its_connection_though_the_client_returns() {
    let mut world = World::new(1);
    let (bob, session) = world.client(0, "bob");
    let bob_uri = world.end(bob).uri.clone();
    world.lose(bob);
    let again = world.connect(0);
    let new = world.auth_as(again, "bob", &bob_uri);
    assert_ne!(new, session);
    let conn = world.connect(0);
    let uri = world.end(conn).uri.clone();
    for (path, status) in [(&session, 481), (&new, 200)] {
        world.send(conn, Request::bodiless(&format!("{path} {bob_uri}"), &uri, "mess").bytes());
        assert_eq!(world.take_one(conn).status(), status);
    }
    only(world.take(again), "SEND");
}

// A9: the URIs of Use-Path are in the client's order for To-Path: with one relay, only ours.
#[test]
fn use_path_is_what_the_client_puts_first_into_to_path() {
    let mut world = World::new(1);
    let conn = world.connect(0);
    let uri = world.end(conn).uri.clone();
    let accepted = world.auth_round(conn, "alice", &uri, "");
    let use_path = accepted.header("Use-Path").unwrap();
    assert_eq!(use_path.split(' ').count(), 1);
    world.send(conn, Request::bodiless(&format!("{use_path} {}", super::FAR), &uri, "mess").bytes());
    assert_eq!(world.take_one(conn).status(), 200);
    assert_eq!(world.dialled.len(), 1);
}

// A14, A16: AUTH for a further relay is forwarded only with one of our URIs in front of it.
#[test]
fn auth_for_another_relay_needs_a_uri_of_ours() {
    let mut world = World::new(1);
    let conn = world.connect(0);
    let uri = world.end(conn).uri.clone();
    let beyond = format!("msrps://{HOST}:{PORT};tcp msrps://r2.alder.example:2855;tcp");
    world.send(conn, Request::new("AUTH", &beyond, &uri).bytes());
    assert_eq!(world.take_one(conn).status(), 481);
    assert!(world.dials.is_empty() && world.dialled.is_empty());
}
