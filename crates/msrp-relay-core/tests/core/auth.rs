//! AUTH with the relay as its target: challenge, check, session (RFC 4976, 5.1, 6.3, 9.1).
//!
//! Long because it is a list: each test stands alone, and all share the fixtures at the top.

use std::time::Duration;

use msrp_proto::digest::{Algorithm, AuthenticationInfo, Challenge, Ha1, NonceUse};
use msrp_relay_core::{CloseReason, Input, LookUpAnswer, TableSizes};

use testkit_pure::{
    Conn, Decision, Frame, Request, World, answer_challenge, auth_with, challenged, relay_uri, settings,
    vectors,
};

fn is_stale(challenge: &Frame) -> bool {
    let value = challenge.header("WWW-Authenticate").unwrap();
    Challenge::parse(value.as_bytes()).unwrap().stale
}

fn nonce_of(challenge: &Frame) -> String {
    let value = challenge.header("WWW-Authenticate").unwrap();
    let challenge = Challenge::parse(value.as_bytes()).unwrap();
    challenge.nonce.into_owned()
}

/// The parameter's value, quoted or not.
fn parameter(value: &str, name: &str) -> String {
    let at = value.find(&format!("{name}=\"")).unwrap() + name.len() + 2;
    value[at..].split('"').next().unwrap().to_owned()
}

/// The world of the worked examples.
fn osier() -> World {
    let mut settings = settings(1);
    settings.hostname = "relay.osier.example".to_owned();
    settings.realm = Some("osier.example".to_owned());
    let mut world = World::with(settings);
    world.accounts.insert("wren@osier.example".to_owned(), "Tarn-Quill-77".to_owned());
    world
}

const AU: &str = "msrps://relay.osier.example:2855;tcp";
const W: &str = "msrps://198.51.100.23:41502/u4Kd0wR9sQ2mZ7;tcp";

/// Runs X1; the connection and the nextnonce.
fn x1(world: &mut World) -> (Conn, Frame, Frame, Frame) {
    let conn = world.connect(0);
    world.send(conn, vectors::frame("X1.1"));
    let challenge = world.take_one(conn);
    let authorization = answer_challenge(&challenge, "wren", "Tarn-Quill-77", AU, 1);
    let sent = Request::new("AUTH", AU, W)
        .tid("w2Lf5Vb9Rt4u")
        .header("Authorization", &authorization)
        .header("Expires", "600");
    world.send(conn, sent.bytes());
    let accepted = world.take_one(conn);
    let sent = Request::new("AUTH", AU, W)
        .tid("w3Hs8Nm1Yd6c")
        .header("Authorization", &next_authorization(&accepted))
        .header("Expires", "20");
    world.send(conn, sent.bytes());
    let refused = world.take_one(conn);
    (conn, challenge, accepted, refused)
}

/// Credentials by the nextnonce of a 200, its count at 1 again.
fn next_authorization(accepted: &Frame) -> String {
    let info = accepted.header("Authentication-Info").unwrap();
    let info = AuthenticationInfo::parse(info.as_bytes()).unwrap();
    let challenge = Challenge {
        realm: "osier.example".into(),
        nonce: info.nextnonce.unwrap(),
        opaque: Some("b7d1c0".into()),
        algorithm: Algorithm::Md5,
        stale: false,
    };
    let ha1 = Ha1::new(Algorithm::Md5, "wren", "osier.example", "Tarn-Quill-77");
    let answer = challenge.answer("wren", &ha1, AU.as_bytes(), NonceUse { nc: 1, cnonce: "5cdf0a9e71b2" });
    answer.to_string()
}

// X1, A3, A4, A8, A9: fields, their order, the digests; the random parts are put in.
#[test]
fn auth_round_has_the_shape_of_the_worked_example() {
    let mut world = osier();
    let (_, challenge, accepted, _) = x1(&mut world);

    let www = challenge.header("WWW-Authenticate").unwrap();
    let expected = vectors::frame("X1.2")
        .replace("MTc3NDAwMDAwMDozLkZfc2VhbGVkLW5vbmNlLTAwMDE", &parameter(&www, "nonce"))
        .replace("b7d1c0", &parameter(&www, "opaque"));
    assert_eq!(challenge.text(), expected);

    let info = accepted.header("Authentication-Info").unwrap();
    let use_path = accepted.header("Use-Path").unwrap();
    let expected = vectors::frame("X1.4")
        .replace("MTc3NDAwMDAzMDozLkZfc2VhbGVkLW5vbmNlLTAwMDI", &parameter(&info, "nextnonce"))
        .replace("e1209ddf737e472eec57bc66694107e7", &parameter(&info, "rspauth"))
        .replace("msrps://relay.osier.example:2855/7rG2mXw0QbLs9TzEoVh4Kd;tcp", &use_path);
    assert_eq!(accepted.text(), expected);

    // rspauth is the relay's own proof (A4).
    let value = answer_challenge(&challenge, "wren", "Tarn-Quill-77", AU, 1);
    let authorization = msrp_proto::digest::Authorization::parse(value.as_bytes()).unwrap();
    let ha1 = Ha1::new(Algorithm::Md5, "wren", "osier.example", "Tarn-Quill-77");
    let rspauth = authorization.rspauth(&ha1, AU.as_bytes());
    assert_eq!(parameter(&info, "rspauth"), rspauth.as_str());
}

// X2, A7: credentials by the nextnonce are right, Expires is not.
#[test]
fn expires_out_of_bounds_gets_423_as_in_the_worked_example() {
    let mut world = osier();
    let (conn, _, accepted, refused) = x1(&mut world);
    assert_eq!(refused.text(), vectors::frame("X2.2"));
    let authorization = next_authorization(&accepted).replace("00000001", "00000002");
    // The count is part of the digest: with a recomputed digest it would be accepted.
    assert_eq!(auth_with(&mut world, conn, AU, &authorization).status(), 401);
}

// A7: the other bound; and Expires: 0 is out of bounds too.
#[test]
fn expires_above_the_bound_gets_max_expires() {
    let mut world = World::new(1);
    for (asked, header, bound) in [
        ("3601", "Max-Expires", "3600"),
        ("0", "Min-Expires", "60"),
        ("99999999999999999999", "Max-Expires", "3600"),
    ] {
        let conn = world.connect(0);
        let uri = world.end(conn).uri.clone();
        let answer = world.auth_round(conn, "alice", &uri, &format!("Expires: {asked}\r\n"));
        assert_eq!(answer.status(), 423);
        assert_eq!(answer.header(header).as_deref(), Some(bound));
    }
    assert_eq!(world.sizes().sessions, 0);
}

// A7: without the password, Expires tells nothing.
#[test]
fn expires_is_judged_after_the_credentials() {
    let mut world = World::new(1);
    let conn = world.connect(0);
    let uri = world.end(conn).uri.clone();
    let answer = world.auth_round(conn, "mallory", &uri, "Expires: 5\r\n");
    assert_eq!(answer.status(), 401);
}

// RFC 4976, 6.3: the relay returns the time it grants; 600 is announced where nothing was asked.
#[test]
fn granted_expires_is_returned() {
    let mut world = World::new(1);
    for (asked, granted) in
        [("", "600"), ("Expires: 60\r\n", "60"), ("Expires: 61\r\n", "61"), ("Expires: 3600\r\n", "3600")]
    {
        let conn = world.connect(0);
        let uri = world.end(conn).uri.clone();
        let answer = world.auth_round(conn, "alice", &uri, asked);
        assert_eq!(answer.header("Expires").as_deref(), Some(granted));
    }
}

// A11, RFC 4976, 9.4: the same user gets a replacement URI, but not a third.
#[test]
fn second_auth_of_the_same_user_gives_a_replacement_uri_and_the_third_is_403() {
    let mut world = World::new(1);
    let conn = world.connect(0);
    let first = world.auth(conn, "alice");
    let second = world.auth(conn, "alice");
    assert_ne!(first, second);
    let uri = world.end(conn).uri.clone();
    let third = world.auth_round(conn, "alice", &uri, "");
    assert_eq!(third.status(), 403);
    assert!(third.text().contains("nother connection"), "{third:?}");
    assert_eq!(world.sizes().sessions, 1, "both URIs are one session");
    world.lose(conn);
    assert_eq!(world.sizes().sessions, 0);
}

// RFC 4976, 9.4: a URI is replaced before it expires, again and again: the old ones are forgotten.
#[test]
fn replaced_uris_do_not_pile_up() {
    let mut world = World::new(1);
    let conn = world.connect(0);
    let uri = world.end(conn).uri.clone();
    for _ in 0..20 {
        let answer = world.auth_round(conn, "alice", &uri, "Expires: 60\r\n");
        assert_eq!(answer.status(), 200);
        world.advance(Duration::from_secs(50));
        assert_eq!(world.sizes().sessions, 1, "{:?}", world.sizes());
    }
}

// The same where the client asks for no Expires, so that nothing is enforced: one that renews in time can do so for ever. What
// it was told about the URI before the last is over.
#[test]
fn client_that_asks_for_no_expires_may_replace_its_uri_for_ever() {
    let mut world = World::new(1);
    let conn = world.connect(0);
    let mut uris = vec![world.auth(conn, "alice")];
    for _ in 0..20 {
        world.advance(Duration::from_secs(570));
        uris.push(world.auth(conn, "alice"));
        assert_eq!(world.sizes().sessions, 1, "{:?}", world.sizes());
    }
    uris.sort();
    uris.dedup();
    assert_eq!(uris.len(), 21, "each is another one");
    let own = world.end(conn).uri.clone();
    let at_once = world.auth_round(conn, "alice", &own, "");
    assert_eq!(at_once.status(), 403, "two are in use");
}

// One session per connection: every session gets its own congestion control.
#[test]
fn auth_of_another_user_on_the_same_connection_is_403() {
    let mut world = World::new(1);
    let conn = world.connect(0);
    world.auth(conn, "alice");
    let uri = world.end(conn).uri.clone();
    assert_eq!(world.auth_round(conn, "bob", &uri, "").status(), 403);
}

// A5, S9: one answer for a wrong password and for a user that does not exist.
#[test]
fn wrong_password_and_unknown_user_get_the_same_answer() {
    let mut world = World::new(1);
    let mut answers = Vec::new();
    for (user, password) in [("alice", "wrong"), ("absent", "1234")] {
        let conn = world.connect(0);
        let to = relay_uri();
        let challenge = challenged(&mut world, conn, &to);
        let authorization = answer_challenge(&challenge, user, password, &to, 1);
        let answer = auth_with(&mut world, conn, &to, &authorization);
        assert_eq!(answer.status(), 401);
        assert!(!is_stale(&answer));
        assert_ne!(nonce_of(&answer), nonce_of(&challenge));
        let own = world.end(conn).uri.clone();
        let opaque = parameter(&answer.header("WWW-Authenticate").unwrap(), "opaque");
        let shape = answer
            .text_with_tid("tid0")
            .replace(&nonce_of(&answer), "")
            .replace(&opaque, "")
            .replace(&own, "");
        answers.push(shape);
        // A right answer to the fresh challenge is still welcome.
        if user == "alice" {
            let authorization = answer_challenge(&answer, user, "1234", &to, 1);
            assert_eq!(auth_with(&mut world, conn, &to, &authorization).status(), 200);
        }
    }
    assert_eq!(answers[0], answers[1]);
}

// A13: the answer first, then the end.
#[test]
fn third_failed_auth_is_answered_and_the_connection_closed() {
    let mut world = World::new(1);
    let conn = world.connect(0);
    let to = relay_uri();
    let mut challenge = challenged(&mut world, conn, &to);
    for attempt in 1..=3 {
        assert!(!world.is_closed(conn), "closed before attempt {attempt}");
        let authorization = answer_challenge(&challenge, "alice", "guess", &to, 1);
        challenge = auth_with(&mut world, conn, &to, &authorization);
        assert_eq!(challenge.status(), 401);
    }
    assert!(world.is_closed(conn));
    assert_eq!(world.link(conn).closing, Some(CloseReason::AuthFailures));
    assert_eq!(world.sizes(), TableSizes::default());
}

// A5: wrong realm: 401 without stale, and no look-up.
#[test]
fn wrong_realm_gets_a_fresh_challenge_and_costs_no_look_up() {
    let mut world = World::new(1);
    world.look_up_decision = Decision::Hold;
    let conn = world.connect(0);
    let to = relay_uri();
    let challenge = challenged(&mut world, conn, &to);
    let authorization =
        answer_challenge(&challenge, "alice", "1234", &to, 1).replace("example.com", "elsewhere.org");
    let answer = auth_with(&mut world, conn, &to, &authorization);
    assert_eq!(answer.status(), 401);
    assert!(!is_stale(&answer));
    assert!(world.look_ups.is_empty());
}

// A5: right digest for an old nonce: stale, not counted as a failure.
#[test]
fn old_nonce_gets_stale_and_is_not_counted() {
    let mut world = patient();
    let conn = world.connect(0);
    let to = relay_uri();
    let mut challenge = challenged(&mut world, conn, &to);
    for _ in 0..5 {
        world.advance(Duration::from_secs(16));
        let authorization = answer_challenge(&challenge, "alice", "1234", &to, 1);
        challenge = auth_with(&mut world, conn, &to, &authorization);
        assert_eq!(challenge.status(), 401);
        assert!(is_stale(&challenge));
    }
    let authorization = answer_challenge(&challenge, "alice", "1234", &to, 1);
    assert_eq!(auth_with(&mut world, conn, &to, &authorization).status(), 200);
}

// A5: stale only when the digest is right.
#[test]
fn old_nonce_with_a_wrong_password_is_not_called_stale() {
    let mut world = World::new(1);
    let conn = world.connect(0);
    let to = relay_uri();
    let challenge = challenged(&mut world, conn, &to);
    world.advance(Duration::from_secs(16));
    let authorization = answer_challenge(&challenge, "alice", "guess", &to, 1);
    let answer = auth_with(&mut world, conn, &to, &authorization);
    assert_eq!(answer.status(), 401);
    assert!(!is_stale(&answer));
}

/// A world whose probation is longer than these tests wait.
fn patient() -> World {
    let mut settings = settings(1);
    settings.limits.first_request_timeout = Duration::from_secs(600);
    World::with(settings)
}

// Decision 8: a challenge's age counts when the answer arrives, not after the look-up.
#[test]
fn slow_look_up_does_not_make_a_nonce_stale() {
    let mut world = patient();
    world.look_up_decision = Decision::Hold;
    let conn = world.connect(0);
    let to = relay_uri();
    let uri = world.end(conn).uri.clone();
    let challenge = challenged(&mut world, conn, &to);
    world.advance(Duration::from_secs(14));
    let authorization = answer_challenge(&challenge, "alice", "1234", &to, 1);
    let request = Request::new("AUTH", &to, &uri).header("Authorization", &authorization);
    world.send(conn, request.bytes());
    world.advance(Duration::from_secs(20));
    world.finish_look_up(0);
    assert_eq!(world.take_one(conn).status(), 200);
}

// The accounts answer once. If they answer again, the answer does not concern the AUTH that waits by then.
#[test]
fn second_answer_to_an_earlier_look_up_decides_nothing() {
    let mut world = World::new(1);
    world.look_up_decision = Decision::Hold;
    let conn = world.connect(0);
    let (to, uri) = (relay_uri(), world.end(conn).uri.clone());
    let ask = |world: &mut World, challenge: &Frame, user: &str, password: &str| {
        let authorization = answer_challenge(challenge, user, password, &to, 1);
        let request = Request::new("AUTH", &to, &uri).header("Authorization", &authorization);
        world.send(conn, request.bytes());
        world.run();
    };
    let challenge = challenged(&mut world, conn, &to);
    ask(&mut world, &challenge, "alice", "wrong");
    let earlier = world.look_ups[0].ticket;
    world.finish_look_up(0);
    let challenge = world.take_one(conn);
    ask(&mut world, &challenge, "bob", "5678");
    world.input(0, Input::LookedUp { ticket: earlier, answer: LookUpAnswer::Unknown });
    world.run();
    assert!(world.take(conn).is_empty());
    world.finish_look_up(0);
    assert_eq!(world.take_one(conn).status(), 200);
}

// A6: a count seen before is a replay; a higher one is not.
#[test]
fn replayed_nonce_count_is_refused() {
    let mut world = osier();
    let (conn, _, accepted, _) = x1(&mut world);
    // The 423 of the example has used count 1 of the nextnonce.
    let replayed = auth_with(&mut world, conn, AU, &next_authorization(&accepted));
    assert_eq!(replayed.status(), 401);

    let fresh = world.connect(0);
    let challenge = challenged(&mut world, fresh, AU);
    for nc in [7, 8] {
        let authorization = answer_challenge(&challenge, "wren", "Tarn-Quill-77", AU, nc);
        let request =
            Request::new("AUTH", AU, W).header("Authorization", &authorization).header("Expires", "20");
        world.send(fresh, request.bytes());
        assert_eq!(world.take_one(fresh).status(), 423, "nc {nc}");
    }
}

// A6: a nonce belongs to the connection that asked for it.
#[test]
fn nonce_of_another_connection_is_unknown() {
    let mut world = World::new(1);
    let (one, other) = (world.connect(0), world.connect(0));
    let to = relay_uri();
    let challenge = challenged(&mut world, one, &to);
    let authorization = answer_challenge(&challenge, "alice", "1234", &to, 1);
    assert_eq!(auth_with(&mut world, other, &to, &authorization).status(), 401);
    assert_eq!(auth_with(&mut world, one, &to, &authorization).status(), 200);
}

// G13, I1: what clients really send.
#[test]
fn real_clients_spellings_of_credentials_are_accepted() {
    type Spelling = fn(&str) -> String;
    let spellings: [(&str, Spelling); 4] = [
        ("uri parameter", |value| format!("{value}, uri=\"msrps://example.com:2855;tcp\"")),
        ("all quoted", |value| {
            value
                .replace("algorithm=MD5", "algorithm=\"MD5\"")
                .replace("qop=auth", "qop=\"auth\"")
                .replace("nc=00000001", "nc=\"00000001\"")
        }),
        ("no space after comma", |value| value.replace(", ", ",")),
        ("no opaque", |value| {
            let opaque = parameter(value, "opaque");
            value.replace(&format!(", opaque=\"{opaque}\""), "")
        }),
    ];
    for (name, spelling) in spellings {
        let mut world = World::new(1);
        let conn = world.connect(0);
        let to = relay_uri();
        let challenge = challenged(&mut world, conn, &to);
        let authorization = spelling(&answer_challenge(&challenge, "alice", "1234", &to, 1));
        let answer = auth_with(&mut world, conn, &to, &authorization);
        assert_eq!(answer.status(), 200, "{name}");
    }
}

// A5: not a list of parameters: 400, counted.
#[test]
fn malformed_credentials_get_400() {
    for value in ["Digest", "Digest username", "Digest username=\"alice\""] {
        let mut world = World::new(1);
        let conn = world.connect(0);
        let to = relay_uri();
        challenged(&mut world, conn, &to);
        assert_eq!(auth_with(&mut world, conn, &to, value).status(), 400, "{value}");
    }
}

// A2, I9: addressed to the SIP domain, without a port; From-Path of the answer is exactly as sent.
#[test]
fn auth_to_a_sip_domain_without_port_is_served() {
    let mut settings = settings(1);
    settings.domains = Some(vec!["example.com".to_owned()]);
    let mut world = World::with(settings);
    for to in [
        "msrps://example.com;tcp",
        "msrps://EXAMPLE.com:2855;tcp",
        "msrps://relay.example.com;tcp",
        "msrps://alice@example.com:2855;tcp",
    ] {
        let conn = world.connect(0);
        // The realm follows the URI as written unless it is configured.
        let challenge = challenged(&mut world, conn, to);
        assert_eq!(challenge.from_path(), to);
        let www = challenge.header("WWW-Authenticate").unwrap();
        let realm = parameter(&www, "realm");
        world.accounts.insert(format!("alice@{realm}"), "1234".to_owned());
        let authorization = answer_challenge(&challenge, "alice", "1234", to, 1);
        let answer = auth_with(&mut world, conn, to, &authorization);
        assert_eq!(answer.status(), 200, "{to}");
        assert_eq!(answer.from_path(), to);
        let use_path = answer.header("Use-Path").unwrap();
        assert!(use_path.starts_with("msrps://relay.example.com:2855/"));
    }
}

// C3: for a name that is not ours the connection is dropped at once.
#[test]
fn misaddressed_auth_closes_the_connection() {
    let mut settings = settings(1);
    settings.domains = Some(vec!["example.com".to_owned()]);
    let mut world = World::with(settings);
    for to in ["msrps://example.org:2855;tcp", "msrps://example.com:2856;tcp"] {
        let conn = world.connect(0);
        let uri = world.end(conn).uri.clone();
        world.send(conn, Request::new("AUTH", to, &uri).bytes());
        world.run();
        assert!(world.is_closed(conn), "{to}");
        assert_eq!(world.link(conn).closing, Some(CloseReason::Misaddressed));
    }
}

// An outage of the accounts never looks like a wrong password.
#[test]
fn unavailable_accounts_get_408_and_count_as_nothing() {
    let mut world = World::new(1);
    world.accounts_up = false;
    let conn = world.connect(0);
    let to = relay_uri();
    for _ in 0..5 {
        let challenge = challenged(&mut world, conn, &to);
        let authorization = answer_challenge(&challenge, "alice", "1234", &to, 1);
        let answer = auth_with(&mut world, conn, &to, &authorization);
        assert_eq!(
            answer
                .text()
                .lines()
                .next()
                .map(|line| line.ends_with("408 Accounts unavailable, try again later")),
            Some(true)
        );
    }
    assert_eq!(world.relay(0).stats().auth_failed, 0);
    world.accounts_up = true;
    let challenge = challenged(&mut world, conn, &to);
    let authorization = answer_challenge(&challenge, "alice", "1234", &to, 1);
    assert_eq!(auth_with(&mut world, conn, &to, &authorization).status(), 200);
}

// An answer that comes after the connection has gone changes nothing.
#[test]
fn late_look_up_opens_no_session() {
    let mut world = World::new(1);
    world.look_up_decision = Decision::Hold;
    let conn = world.connect(0);
    let uri = world.end(conn).uri.clone();
    let to = relay_uri();
    let challenge = challenged(&mut world, conn, &to);
    let authorization = answer_challenge(&challenge, "alice", "1234", &to, 1);
    let request = Request::new("AUTH", &to, &uri).header("Authorization", &authorization);
    world.send(conn, request.bytes());
    world.run();
    assert!(world.link(conn).paused, "read on while a look-up is under way");
    world.lose(conn);
    let other = world.connect(0);
    world.finish_look_up(0);
    world.run();
    assert_eq!(world.sizes().sessions, 0);
    assert!(world.take(other).is_empty());
}

// RFC 4976, 9.1: AUTHs are not pipelined. A client that still does it gets an answer to each.
#[test]
fn every_pipelined_auth_is_answered_once() {
    let mut world = World::new(1);
    world.look_up_decision = Decision::Hold;
    let conn = world.connect(0);
    let uri = world.end(conn).uri.clone();
    let to = relay_uri();
    let challenge = challenged(&mut world, conn, &to);
    let mut tids = Vec::new();
    for nc in 1..=2 {
        let authorization = answer_challenge(&challenge, "alice", "1234", &to, nc);
        let request = Request::new("AUTH", &to, &uri).header("Authorization", &authorization);
        tids.push(request.tid.clone());
        world.send(conn, request.bytes());
    }
    world.run();
    while !world.look_ups.is_empty() {
        world.finish_look_up(0);
        world.run();
    }
    let mut answered: Vec<String> = world.take(conn).iter().map(|frame| frame.tid().to_owned()).collect();
    answered.sort();
    assert_eq!(answered, tids);
}

// A1: only over TLS.
#[test]
fn auth_without_tls_is_403_and_the_end() {
    let mut world = World::new(1);
    let conn = world.connect_by(0, false);
    let uri = world.end(conn).uri.clone();
    world.send(conn, Request::new("AUTH", "msrp://example.com:2855;tcp", &uri).bytes());
    assert_eq!(world.take_one(conn).status(), 403);
    assert!(world.is_closed(conn));
}

// A1, for debugging: the URI is as plain as the connection.
#[test]
fn insecure_plain_auth_is_possible_and_gives_a_plain_uri() {
    let mut settings = settings(1);
    settings.insecure_plain = true;
    let mut world = World::with(settings);
    let conn = world.connect_by(0, false);
    let uri = world.end(conn).uri.clone();
    let answer = world.auth_to(conn, "alice", ("msrp://example.com:2855;tcp", &uri), "");
    assert_eq!(answer.status(), 200);
    assert!(answer.header("Use-Path").unwrap().starts_with("msrp://"));
}

// A15: the client must not dictate Use-Path.
#[test]
fn auth_through_a_relay_that_proves_nothing_is_403() {
    let mut world = World::new(1);
    let conn = world.connect(0);
    let from = format!("msrps://r1.osier.example:2855/Lw5t;tcp {W}");
    world.send(conn, Request::new("AUTH", &relay_uri(), &from).bytes());
    let answer = world.take_one(conn);
    assert_eq!(answer.status(), 403);
    assert_eq!(answer.to_path(), from);
}

// Decision 2: a connection that carries other peers' requests is not a client's.
#[test]
fn auth_on_a_connection_in_other_use_is_403() {
    let mut world = World::new(1);
    let (bob, session) = world.client(0, "bob");
    let to = format!("{session} {}", world.end(bob).uri.clone());
    let foreign = world.connect(0);
    let uri = world.end(foreign).uri.clone();
    world.send(foreign, Request::bodiless(&to, &uri, "mess").bytes());
    assert_eq!(world.take_one(foreign).status(), 200);
    world.send(foreign, Request::new("AUTH", &relay_uri(), &uri).bytes());
    assert_eq!(world.take_one(foreign).status(), 403);
    assert_eq!(world.sizes().sessions, 1);
}

// The operator's counters count each once.
#[test]
fn failed_auths_are_counted_one_by_one() {
    let mut world = World::new(1);
    for n in 1..4 {
        let conn = world.connect(0);
        let uri = world.end(conn).uri.clone();
        assert_eq!(world.auth_round(conn, "mallory", &uri, "").status(), 401);
        assert_eq!(world.relay(0).stats().auth_failed, n);
    }
}

// A12, decision 9: the end of a URI binds where the client asked for it, and only there.
#[test]
fn expiry_is_enforced_only_where_the_client_asked() {
    for (asked, much_later) in [("Expires: 60\r\n", 481), ("", 200)] {
        let mut world = World::new(1);
        let bob = world.connect(0);
        let bob_uri = world.end(bob).uri.clone();
        let answer = world.auth_round(bob, "bob", &bob_uri, asked);
        let session = answer.header("Use-Path").unwrap();
        let alice = world.connect(0);
        let alice_uri = world.end(alice).uri.clone();
        let to = format!("{session} {bob_uri}");
        world.send(alice, Request::send(&to, &alice_uri, "mess1", b"a").bytes());
        assert_eq!(world.take_one(alice).status(), 200);
        assert_eq!(world.take(bob).len(), 1);
        world.end(bob).answers = testkit_pure::endpoint::Answers::Always(200);
        world.advance(Duration::from_secs(3000));
        world.take(alice);
        world.send(alice, Request::send(&to, &alice_uri, "mess2", b"b").bytes());
        assert_eq!(world.take_one(alice).status(), much_later, "{asked}");
    }
}

// A11: AUTH to the live URI itself prolongs it; the digest is checked in full.
#[test]
fn auth_to_its_own_live_uri_prolongs_it() {
    let mut world = World::new(1);
    let bob = world.connect(0);
    let bob_uri = world.end(bob).uri.clone();
    let answer = world.auth_round(bob, "bob", &bob_uri, "Expires: 60\r\n");
    let session = answer.header("Use-Path").unwrap();
    for _ in 0..3 {
        world.advance(Duration::from_secs(50));
        let answer = world.auth_to(bob, "bob", (&session, &bob_uri), "Expires: 60\r\n");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.header("Use-Path").as_deref(), Some(&*session));
        assert_eq!(answer.from_path(), session);
    }
    assert_eq!(world.sizes().sessions, 1);
    let wrong = world.auth_to(bob, "mallory", (&session, &bob_uri), "Expires: 60\r\n");
    assert_eq!(wrong.status(), 401);
    // Not on another connection, and not after it has ended.
    let other = world.connect(0);
    let other_uri = world.end(other).uri.clone();
    world.send(other, Request::new("AUTH", &session, &other_uri).bytes());
    assert_eq!(world.take_one(other).status(), 481);
    world.advance(Duration::from_secs(61));
    world.send(bob, Request::new("AUTH", &session, &bob_uri).bytes());
    assert_eq!(world.take_one(bob).status(), 481);
}

// T13, T14: SHA-256 offered before MD5, each answered with what was offered.
#[test]
fn both_algorithms_work_and_only_those_offered() {
    let mut with_both = settings(1);
    with_both.algorithms = vec![Algorithm::Sha256, Algorithm::Md5];
    let mut world = World::with(with_both);
    let to = relay_uri();
    let conn = world.connect(0);
    let challenge = challenged(&mut world, conn, &to);
    let offers: Vec<String> = challenge
        .head
        .headers(&challenge.bytes)
        .filter(|(name, _)| *name == b"WWW-Authenticate")
        .map(|(_, value)| String::from_utf8(value.to_vec()).unwrap())
        .collect();
    assert_eq!(offers.len(), 2);
    assert!(offers[0].contains("SHA-256") && offers[1].contains("MD5"));
    let authorization = answer_challenge(&challenge, "alice", "1234", &to, 1);
    assert!(authorization.contains("SHA-256"));
    assert_eq!(auth_with(&mut world, conn, &to, &authorization).status(), 200);

    let mut world = World::new(1);
    let conn = world.connect(0);
    let challenge = challenged(&mut world, conn, &to);
    let value = challenge.header("WWW-Authenticate").unwrap();
    let offer = Challenge::parse(value.as_bytes()).unwrap();
    let ha1 = Ha1::new(Algorithm::Sha256, "alice", "example.com", "1234");
    let authorization =
        offer.answer("alice", &ha1, to.as_bytes(), NonceUse { nc: 1, cnonce: "c" }).to_string();
    assert_eq!(auth_with(&mut world, conn, &to, &authorization).status(), 401);
}

// RFC 4975, 7.1: no body but that of a SEND exceeds 10240 bytes; AUTH is no exception.
#[test]
fn auth_with_an_endless_body_ends_the_connection() {
    let mut world = World::new(1);
    let conn = world.connect(0);
    let uri = world.end(conn).uri.clone();
    let request = Request::new("AUTH", &relay_uri(), &uri).body(&[b'a'; 20_000]);
    world.send(conn, request.bytes());
    assert_eq!(world.take_one(conn).status(), 400);
    assert!(world.is_closed(conn));
    assert_eq!(world.link(conn).closing, Some(CloseReason::BodyTooLong));
}
