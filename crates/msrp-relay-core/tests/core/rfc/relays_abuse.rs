//! Attacks by relays, their clients and strangers on sessions behind relays (reqs A10, A13 to A16, S2, S14).
//!
//! Long because it is a list: each test stands alone, and all share the fixtures at the top.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use msrp_proto::digest::{Challenge, Ha1, NonceUse};
use msrp_relay_core::{Input, Limits, Settings};

use super::relays::{
    AHEAD, FAR, OTHER, THERE, WREN, attempt, auth, back_to_finch, back_to_wren, relay, said, session,
    wren_and_far,
};
use testkit_pure::endpoint::Answers;
use testkit_pure::frame::pattern;
use testkit_pure::line::only;
use testkit_pure::{Decision, HOST, PORT, Request, World, answer_challenge, relay_uri, settings};

// One connection asks directly and for a client behind it: both count their tickets from 1, and by_ticket() looks among
// the clients behind. The attack takes the accounts' answer about bob for one about alice, whose password the attacker
// does not know.
#[test]
fn answer_about_one_user_opens_no_session_for_another() {
    let mut world = World::new(1);
    let conn = relay(&mut world, 0, OTHER);
    world.look_up_decision = Decision::Hold;
    let direct = "msrps://192.0.2.66:6666/m;tcp";
    world.send(conn, auth(&back_to_wren()));
    let behind = world.take_one(conn);
    world.send(conn, auth(direct));
    let own = world.take_one(conn);
    if own.status() != 401 {
        return; // Refused: the attack fails.
    }
    // Bob, by his own name; then "alice", with the digest of bob's password.
    let bob = answer_challenge(&own, "bob", "5678", &relay_uri(), 1);
    let value = behind.header("WWW-Authenticate").unwrap();
    let challenge = Challenge::parse(value.as_bytes()).unwrap();
    let of_bob = Ha1::new(challenge.algorithm, "bob", &challenge.realm, "5678");
    let alice = challenge
        .answer("alice", &of_bob, relay_uri().as_bytes(), NonceUse { nc: 1, cnonce: "5cdf0a9e71b2" })
        .to_string();
    let mut both = Request::new("AUTH", &relay_uri(), direct).header("Authorization", &bob).bytes();
    both.extend(Request::new("AUTH", &relay_uri(), &back_to_wren()).header("Authorization", &alice).bytes());
    world.send(conn, both);
    world.run();
    for _ in 0..world.look_ups.len() {
        world.finish_look_up(0);
    }
    world.run();
    let opened: Vec<_> =
        world.events.iter().filter(|e| e.starts_with("SessionOpened") && e.contains("alice")).collect();
    assert!(opened.is_empty(), "alice's session without alice's password: {opened:?}");
}

// The same confusion without an attack: the direct AUTH would never be answered, and the connection never read again.
#[test]
fn direct_auth_on_a_connection_with_clients_behind_is_answered() {
    let mut world = World::new(1);
    let conn = relay(&mut world, 0, OTHER);
    world.send(conn, auth(&back_to_wren()));
    assert_eq!(world.take_one(conn).status(), 401);
    let direct = "msrps://192.0.2.66:6666/m;tcp";
    world.send(conn, auth(direct));
    let challenge = world.take_one(conn);
    if challenge.status() != 401 {
        return; // Refused: the attack fails.
    }
    let answer = answer_challenge(&challenge, "bob", "5678", &relay_uri(), 1);
    world.send(conn, Request::new("AUTH", &relay_uri(), direct).header("Authorization", &answer).bytes());
    world.run();
    assert!(!world.link(conn).paused, "paused for a look-up that has been answered");
    assert_eq!(world.take(conn).len(), 1);
}

// A stranger binds wren's session and claims to come through the relay that she is going to ask. Her AUTH, with her
// credentials, must not go to it (S2, A14, RFC 4976 9.2).
#[test]
fn credentials_do_not_go_to_a_stranger_who_has_bound_the_session() {
    let mut world = World::new(1);
    let (wren, session) = world.client(0, "alice");
    let uri = world.end(wren).uri.clone();
    world.end(wren).answers = Answers::Always(200);
    let stranger = world.connect(0);
    world.send(
        stranger,
        Request::bodiless(&format!("{session} {uri}"), &format!("{THERE} {FAR}"), "m1").bytes(),
    );
    world.run();
    world.take(stranger);
    let credentials = "Digest username=\"w\", realm=\"x\", nonce=\"md5\", qop=auth, nc=00000001, cnonce=\"c\", response=\"00000000000000000000000000000000\"";
    let asks = Request::new("AUTH", &format!("{session} {AHEAD}"), &uri).header("Authorization", credentials);
    world.send(wren, asks.bytes());
    world.run();
    let frames = world.take(stranger);
    assert!(frames.iter().all(|frame| !frame.is("AUTH")), "{frames:#?}");
    assert!(world.dialled.iter().any(|(target, _)| target.relay && target.host == "outer.example.org"));
}

// The same for an endpoint that we have dialled with endpoint_tls: encrypt-only, and that has proven nothing.
#[test]
fn credentials_do_not_go_to_an_unverified_next_hop() {
    let mut world = World::new(1);
    let (wren, session) = world.client(0, "alice");
    let uri = world.end(wren).uri.clone();
    world.send(wren, Request::bodiless(&format!("{session} {THERE}"), &uri, "m1").bytes());
    world.run();
    let (target, unverified) = world.dialled[0].clone();
    assert!(!target.relay);
    world.take(unverified);
    world.send(wren, Request::new("AUTH", &format!("{session} {AHEAD}"), &uri).bytes());
    world.run();
    let frames = world.take(unverified);
    assert!(frames.iter().all(|frame| !frame.is("AUTH")), "{frames:#?}");
}

// A second connection of a proven relay, whose every request is forwarded, must not be closed at the end of probation
// (C2: "or a request accepted for forwarding").
#[test]
fn second_connection_of_a_relay_is_vouched_for_by_what_is_forwarded() {
    // The inner side.
    let mut world = World::new(1);
    let (_, wren, far) = wren_and_far(&mut world, [0, 0]);
    world.end(far).answers = Answers::Always(200);
    let another = relay(&mut world, 0, OTHER);
    world.send(another, Request::send(&format!("{wren} {FAR}"), &back_to_wren(), "m", b"Hi").bytes());
    assert_eq!(world.take_one(another).status(), 200);
    world.advance(Duration::from_secs(31));
    assert!(!world.is_closed(another), "inner side: {:?}", world.events.last());
}

#[test]
fn second_connection_of_a_foreign_relay_is_vouched_for_by_what_is_forwarded() {
    let mut world = World::new(1);
    let (bob, session) = world.client(0, "bob");
    let to = format!("{session} {}", world.end(bob).uri.clone());
    world.end(bob).answers = Answers::Always(200);
    let first = relay(&mut world, 0, OTHER);
    world.send(first, Request::send(&to, &back_to_wren(), "m1", b"1").bytes());
    assert_eq!(world.take_one(first).status(), 200);
    let second = relay(&mut world, 0, OTHER);
    world.send(second, Request::send(&to, &back_to_wren(), "m2", b"2").bytes());
    assert_eq!(world.take_one(second).status(), 200);
    world.advance(Duration::from_secs(31));
    assert!(!world.is_closed(second));
}

// S14, whichever of its connections the relay sends by.
#[test]
fn slow_receiver_does_not_stop_the_others_on_any_connection_with_the_relay() {
    let mut world = World::new(1);
    let conn = relay(&mut world, 0, OTHER);
    let wren = session(&mut world, conn, "alice", &back_to_wren());
    let finch = session(&mut world, conn, "bob", &back_to_finch());
    let (slow, quick) = (world.connect(0), world.connect(0));
    let (slow_uri, quick_uri) = ("msrps://203.0.113.40:1/slow;tcp", "msrps://203.0.113.40:1/quick;tcp");
    world.end(conn).answers = Answers::Always(200);
    for (far, uri, to) in [
        (slow, slow_uri, format!("{wren} {}", back_to_wren())),
        (quick, quick_uri, format!("{finch} {}", back_to_finch())),
    ] {
        world.send(far, Request::bodiless(&to, uri, "first").bytes());
        world.run();
        world.take(far);
    }
    world.link_mut(slow).stalled = true;
    world.end(quick).answers = Answers::Always(200);
    // Which sessions a connection serves is known once each of them has used it.
    let second = relay(&mut world, 0, OTHER);
    for (to, back) in
        [(format!("{wren} {slow_uri}"), back_to_wren()), (format!("{finch} {quick_uri}"), back_to_finch())]
    {
        world.send(second, Request::bodiless(&to, &back, "here").bytes());
        world.run();
    }
    world.take(quick);
    let much = pattern(2 << 20);
    world.send(second, Request::send(&format!("{wren} {slow_uri}"), &back_to_wren(), "much", &much).bytes());
    let little = Request::send(&format!("{finch} {quick_uri}"), &back_to_finch(), "little", b"Quick");
    world.send(second, little.bytes());
    world.run();
    for _ in 0..5 {
        world.advance(Duration::from_secs(5));
        world.run();
    }
    let frames = world.take(quick);
    assert!(frames.iter().any(|frame| frame.is("SEND") && said(frame) == "Quick"), "{frames:?}");
}

// Ended sessions must leave their client's list: otherwise it counts as a client with a session, gets further ones
// while the relay drains, and is spared bans.
#[test]
fn client_whose_sessions_are_over_gets_none_while_the_relay_drains() {
    let mut world = World::new(1);
    let conn = relay(&mut world, 0, OTHER);
    session(&mut world, conn, "alice", &back_to_wren());
    world.advance(Duration::from_secs(640));
    assert_eq!(world.sizes().sessions, 0);
    world.input(0, Input::Drain);
    let answer = attempt(&mut world, conn, "alice", "1234", &back_to_wren());
    assert_eq!(answer.status(), 408, "{answer:?}");
    assert_eq!(world.sizes().sessions, 0);
}

// Sessions behind relays that began while no core counted must be counted after a reload.
#[test]
fn sessions_behind_a_relay_that_began_uncounted_count_after_a_reload() {
    let mut world = World::new(2);
    let conn = relay(&mut world, 0, OTHER);
    session(&mut world, conn, "alice", &back_to_wren());
    let limits = Limits { sessions_per_user_max: 1, ..Limits::default() };
    let now = Settings { limits, ..settings(2) };
    for core in 0..2 {
        world.input(core, Input::Reconfigured(Box::new(now.clone())));
    }
    world.run();
    let own = world.connect(1);
    assert_eq!(world.auth_round(own, "alice", "msrps://192.0.2.9:9/a;tcp", "").status(), 403);
}

// During an upgrade, the sessions of the other process are next hops; our own name need not be in outbound.relays for
// that.
#[test]
fn other_process_of_this_relay_is_reached_whatever_outbound_relays_says() {
    let relays = Some(vec!["relay.example.net".to_owned()]);
    let mut world = World::with(Settings { relays, ..settings(1) });
    world.input(0, Input::OtherGenerations([Some(1), None]));
    let (alice, session) = world.client(0, "alice");
    let uri = world.end(alice).uri.clone();
    let mut raw = [7_u8; 21];
    raw[..4].copy_from_slice(&[0, 0, 1, 0]);
    let there = format!("msrps://{HOST}:{PORT}/{};tcp", URL_SAFE_NO_PAD.encode(raw));
    world.send(alice, Request::bodiless(&format!("{session} {there} {FAR}"), &uri, "m").bytes());
    world.run();
    assert!(
        world.dialled.iter().any(|(target, _)| target.other_process.is_some()),
        "{:?}",
        world.take(alice)
    );
}

// "any connection whose peer has proven to be that host leads to the client, on any core; if there is none, one is
// opened": there is one.
#[test]
fn session_whose_connection_is_lost_uses_another_one_that_is_there() {
    let mut world = World::new(1);
    let (conn, wren, far) = wren_and_far(&mut world, [0, 0]);
    let other = relay(&mut world, 0, OTHER);
    session(&mut world, other, "bob", &back_to_finch());
    world.end(other).answers = Answers::Always(200);
    world.hang_up(conn);
    world.run();
    // Like most relays inside a company, it cannot be called.
    world.dial_decision = Decision::Fail;
    world.send(far, Request::send(&format!("{wren} {}", back_to_wren()), FAR, "again", b"Still?").bytes());
    world.run();
    let frames = world.take(other);
    assert!(frames.iter().any(|frame| frame.is("SEND") && said(frame) == "Still?"), "{:?}", world.take(far));
}

// We are calling the relay when it comes by itself: all waiting and later requests should use its connection.
#[test]
fn relay_that_comes_while_it_is_called_gets_what_waits() {
    let mut world = World::new(1);
    let (conn, wren, far) = wren_and_far(&mut world, [0, 0]);
    world.end(far).answers = Answers::Always(200);
    world.hang_up(conn);
    world.run();
    world.dial_decision = Decision::Hold;
    world.send(far, Request::send(&format!("{wren} {}", back_to_wren()), FAR, "one", b"One").bytes());
    world.run();
    let again = relay(&mut world, 0, OTHER);
    world.end(again).answers = Answers::Always(200);
    world.send(again, Request::send(&format!("{wren} {FAR}"), &back_to_wren(), "back", b"Back").bytes());
    world.run();
    world.dial_decision = Decision::Fail;
    world.run();
    world.send(far, Request::send(&format!("{wren} {}", back_to_wren()), FAR, "two", b"Two").bytes());
    world.run();
    let texts: Vec<_> = world.take(again).iter().filter(|f| f.is("SEND")).map(said).collect();
    assert!(texts.contains(&"Two".to_owned()), "{texts:?}");
}

// unproven_relays: refuse: an endpoint that we dialled without verification must not count as a proven relay.
#[test]
fn dialled_endpoint_is_no_proven_relay() {
    let mut world = World::with(Settings { unproven_relays_refused: true, ..settings(1) });
    let (alice, alice_session) = world.client(0, "alice");
    let (bob, bob_session) = world.client(0, "bob");
    let (alice_uri, bob_uri) = (world.end(alice).uri.clone(), world.end(bob).uri.clone());
    world.end(bob).answers = Answers::Always(200);
    world.send(alice, Request::bodiless(&format!("{alice_session} {FAR}"), &alice_uri, "m").bytes());
    world.run();
    let (target, endpoint) = world.dialled[0].clone();
    assert!(!target.relay);
    world.take(endpoint);
    let posing = Request::bodiless(&format!("{bob_session} {bob_uri}"), &back_to_wren(), "m2");
    world.send(endpoint, posing.bytes());
    world.run();
    assert_eq!(only(world.take(endpoint), "403").status(), 403);
}

// S14: a client behind a relay whose far end does not answer NICKNAMEs must not stop all the others, half a minute at a
// time.
#[test]
fn unanswered_requests_of_one_client_do_not_stop_the_others_behind_its_relay() {
    let mut world = World::new(1);
    let (conn, wren, far) = wren_and_far(&mut world, [0, 0]);
    let finch = session(&mut world, conn, "bob", &back_to_finch());
    let quick = world.connect(0);
    let quick_uri = "msrps://203.0.113.40:1/quick;tcp";
    world.send(quick, Request::bodiless(&format!("{finch} {}", back_to_finch()), quick_uri, "f").bytes());
    world.run();
    world.end(quick).answers = Answers::Always(200);
    world.end(far).answers = Answers::None;
    for _ in 0..400 {
        let nickname = Request::new("NICKNAME", &format!("{wren} {FAR}"), &back_to_wren());
        world.send(conn, nickname.header("Use-Nickname", "\"w\"").bytes());
    }
    world.send(
        conn,
        Request::send(&format!("{finch} {quick_uri}"), &back_to_finch(), "little", b"Quick").bytes(),
    );
    world.advance(Duration::from_secs(20));
    let (frames, told) = (world.take(quick), world.take(conn));
    assert!(
        frames.iter().any(|frame| frame.is("SEND") && said(frame) == "Quick"),
        "paused: {}, unanswered: {}, told: {}",
        world.link(conn).paused,
        world.sizes().unanswered,
        told.len()
    );
}

// A13: guesses at another relay's passwords, through this one, by a client that is itself behind a relay.
#[test]
fn failed_auths_through_this_relay_by_a_client_behind_another_are_bounded() {
    let mut world = World::new(1);
    let conn = relay(&mut world, 0, OTHER);
    let wren = session(&mut world, conn, "alice", &back_to_wren());
    let credentials = "Digest username=\"w\", realm=\"x\", nonce=\"md5\", qop=auth, nc=00000001, cnonce=\"c\", response=\"00000000000000000000000000000000\"";
    let mut passed = 0;
    for _ in 0..20 {
        let ask = Request::new("AUTH", &format!("{wren} {AHEAD}"), &back_to_wren());
        world.send(conn, ask.header("Authorization", credentials).bytes());
        world.run();
        let Some((_, outer)) = world.dialled.first().cloned() else { break };
        for request in world.take(outer) {
            passed += 1;
            let (tid, to, from) = (request.tid().to_owned(), request.from_path(), request.to_path());
            let refusal = format!(
                "MSRP {tid} 401 Unauthorized\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n\
                 WWW-Authenticate: Digest realm=\"x\", nonce=\"md5\", qop=\"auth\", algorithm=MD5\r\n-------{tid}$\r\n"
            );
            world.send(outer, refusal);
        }
        world.run();
        world.take(conn);
    }
    assert!(passed <= 3, "{passed} guesses");
}

// The news that bytes are at a third core comes after that core's death: they must still be written off.
#[test]
fn bytes_lent_to_a_core_that_has_died_meanwhile_are_written_off() {
    let mut world = World::new(3);
    // The session is at home on core 1, its far end on core 2, the relay's other connection on core 0.
    let (_, wren, _) = wren_and_far(&mut world, [1, 2]);
    let another = relay(&mut world, 0, OTHER);
    world.hold_messages = true;
    let body = pattern(10_000);
    world.send(another, Request::send(&format!("{wren} {FAR}"), &back_to_wren(), "file", &body).bytes());
    world.run();
    world.deliver((0, 1), usize::MAX);
    assert!(world.lanes().contains(&(1, 0)) && world.lanes().contains(&(1, 2)));
    world.kill_core(2, true);
    world.drop_messages((1, 2));
    world.hold_messages = false;
    world.run();
    world.advance(Duration::from_secs(60));
    assert_eq!(world.sizes().bytes_queued, 0, "held for ever");
}

// A request that waits for an answer of a dead core, on another connection than the session's present one, must not
// wait for ever.
#[test]
fn request_by_another_connection_is_answered_when_the_far_core_dies() {
    let mut world = World::new(3);
    let (_, wren, _) = wren_and_far(&mut world, [1, 2]);
    let another = relay(&mut world, 0, OTHER);
    // So that it stays (see t03).
    session(&mut world, another, "bob", &back_to_finch());
    let nickname = Request::new("NICKNAME", &format!("{wren} {FAR}"), &back_to_wren());
    world.send(another, nickname.header("Use-Nickname", "\"w\"").bytes());
    world.run();
    assert_eq!(world.sizes().unanswered, 1, "{:?}", world.take(another));
    world.kill_core(2, false);
    world.run();
    world.advance(Duration::from_secs(60));
    assert_eq!(world.sizes().unanswered, 0, "waits for ever: {:?}", world.take(another));
}

// A16: an AUTH that does not come from the inner side is not forwarded (it would even bind the outer side).
#[test]
fn auth_from_the_outer_side_is_refused() {
    let mut world = World::new(1);
    let conn = relay(&mut world, 0, OTHER);
    let wren = session(&mut world, conn, "alice", &back_to_wren());
    let stranger = world.connect(0);
    world.send(stranger, Request::new("AUTH", &format!("{wren} {}", back_to_wren()), FAR).bytes());
    world.run();
    let frames = world.take(conn);
    assert!(frames.iter().all(|frame| !frame.is("AUTH")), "{frames:#?}");
}

// A peer bound to a session whose relay cannot be called must not get the session's user banned.
#[test]
fn far_end_does_not_get_a_user_banned_by_writing_to_an_unreachable_relay() {
    let limits = Limits { dial_failures_per_user_max: 5, ..Limits::default() };
    let mut world = World::with(Settings { limits, ..settings(1) });
    let (conn, wren, far) = wren_and_far(&mut world, [0, 0]);
    world.hang_up(conn);
    world.run();
    world.dial_decision = Decision::Fail;
    for n in 0..6 {
        let to = format!("{wren} {}", back_to_wren());
        world.send(far, Request::send(&to, FAR, &format!("m{n}"), b"Hello?").bytes());
        world.run();
    }
    world.dial_decision = Decision::Now;
    let (alice, session) = world.client(0, "alice");
    let uri = world.end(alice).uri.clone();
    world.send(alice, Request::bodiless(&format!("{session} {FAR}"), &uri, "m").bytes());
    world.run();
    assert_eq!(world.dialled.len(), 1, "{:?}", world.take(alice));
}

// A relay taken off outbound.relays, and a reload: "for connections that come from then on".
#[test]
fn relay_taken_off_the_list_is_no_inner_side_on_new_connections() {
    let mut world = World::new(1);
    let (conn, wren, far) = wren_and_far(&mut world, [0, 0]);
    world.hang_up(conn);
    world.run();
    let relays = Some(vec!["relay.example.org".to_owned()]);
    world.input(0, Input::Reconfigured(Box::new(Settings { relays, ..settings(1) })));
    let again = relay(&mut world, 0, OTHER);
    world.send(again, Request::send(&format!("{wren} {FAR}"), &back_to_wren(), "m", b"Hm").bytes());
    world.run();
    assert!(world.take(far).iter().all(|frame| !frame.is("SEND")));
}

// One account, one connection, any number of sessions: only sessions_per_user_max (default: any number) bounds them,
// and forgetting a client ends none of its sessions.
#[test]
fn sessions_on_one_connection_with_a_relay_are_bounded() {
    let mut world = World::new(1);
    let conn = relay(&mut world, 0, OTHER);
    let mut opened = 0;
    for number in 0..9000 {
        let back = format!("msrps://{OTHER}:2855/client{number};tcp {WREN}");
        if attempt(&mut world, conn, "alice", "1234", &back).status() == 200 {
            opened += 1;
        }
    }
    assert!(opened <= 4096 * 2, "{opened} sessions by one connection of one user");
}

// Without tls.client_ca no relay may ask for sessions, not even one that we have called and know by outbound.ca.
#[test]
fn relay_that_was_called_does_not_ask_for_sessions_by_the_certificate_of_outbound_ca() {
    let mut world = World::with(Settings { serves_relays: false, ..settings(1) });
    let (alice, session) = world.client(0, "alice");
    let uri = world.end(alice).uri.clone();
    world.send(alice, Request::bodiless(&format!("{session} {THERE} {FAR}"), &uri, "m").bytes());
    world.run();
    let (target, called) = world.dialled[0].clone();
    assert!(target.relay);
    world.take(called);
    world.send(called, auth(&format!("{THERE} {WREN}")));
    world.run();
    assert_eq!(only(world.take(called), "403").status(), 403);
}

// "It connects, and writes only to a host whose certificate proves the name in that URI": a stranger that claims to be
// the called relay must not get what waits for it.
#[test]
fn messages_that_wait_for_a_relay_to_prove_its_name_are_not_taken_over_by_a_stranger() {
    let mut world = World::new(1);
    let (wren, session) = world.client(0, "alice");
    let uri = world.end(wren).uri.clone();
    world.dial_decision = Decision::Hold;
    world.send(wren, Request::send(&format!("{session} {THERE} {FAR}"), &uri, "m1", b"Secret").bytes());
    world.run();
    let stranger = world.connect(0);
    let to_wren = format!("{session} {uri}");
    world.send(stranger, Request::bodiless(&to_wren, &format!("{THERE} {FAR}"), "m2").bytes());
    world.run();
    let frames = world.take(stranger);
    assert!(frames.iter().all(|frame| !frame.is("SEND")), "{frames:#?}");
}

// A1, A14: AUTH with credentials goes only by TLS, even if plain next hops may be called.
#[test]
fn auth_is_not_forwarded_without_tls() {
    let mut world = World::with(Settings { outbound_plain: true, ..settings(1) });
    let (wren, session) = world.client(0, "alice");
    let uri = world.end(wren).uri.clone();
    let plain = "msrp://outer.example.org:2855;tcp";
    let credentials = "Digest username=\"w\", realm=\"x\", nonce=\"md5\", qop=auth, nc=00000001, cnonce=\"c\", response=\"00000000000000000000000000000000\"";
    let ask = Request::new("AUTH", &format!("{session} {plain}"), &uri).header("Authorization", credentials);
    world.send(wren, ask.bytes());
    world.run();
    assert!(world.dialled.iter().all(|(target, _)| target.secure), "{:?}", world.dialled[0].0);
}

// A place that was granted while sessions were counted, for a session that begins after a reload has ended the
// counting, must be given back.
#[test]
fn place_granted_before_a_reload_is_given_back() {
    let limits = Limits { sessions_per_user_max: 1, ..Limits::default() };
    for core in 0..2 {
        let mut world = World::with(Settings { limits: limits.clone(), ..settings(2) });
        let conn = relay(&mut world, core, OTHER);
        world.send(conn, auth(&back_to_wren()));
        let challenge = world.take_one(conn);
        let answer = answer_challenge(&challenge, "alice", "1234", &relay_uri(), 1);
        world.hold_messages = true;
        let again = Request::new("AUTH", &relay_uri(), &back_to_wren()).header("Authorization", &answer);
        world.send(conn, again.bytes());
        world.run();
        for core in 0..2 {
            world.input(core, Input::Reconfigured(Box::new(settings(2))));
        }
        world.hold_messages = false;
        world.run();
        assert_eq!(only(world.take(conn), "200").status(), 200);
        world.advance(Duration::from_secs(640));
        assert_eq!(world.sizes().sessions, 0);
        world.lose(conn);
        world.run();
        assert_eq!(world.sizes().counted, 0, "core {core}");
    }
}

// The home of a session dies after it has given bytes to a third core, and the news of that dies with it: bytes written
// off as lost must not be credited again.
#[test]
fn bytes_are_not_credited_twice_when_the_core_between_dies() {
    let mut world = World::new(3);
    let (_, wren, far) = wren_and_far(&mut world, [1, 2]);
    let another = relay(&mut world, 0, OTHER);
    world.end(far).answers = Answers::Always(200);
    world.hold_messages = true;
    let body = pattern(10_000);
    world.send(another, Request::send(&format!("{wren} {FAR}"), &back_to_wren(), "file", &body).bytes());
    world.run();
    world.deliver((0, 1), usize::MAX);
    world.deliver((1, 2), usize::MAX);
    world.kill_core(1, true);
    world.hold_messages = false;
    world.run();
    world.advance(Duration::from_secs(60));
    assert_eq!(world.sizes().bytes_queued, 0);
}

// Asking another relay releases the connection with the relay before. If that connection is the way back to the client
// by then, it must stay.
#[test]
fn asking_another_relay_does_not_cut_the_way_back() {
    let mut world = World::new(1);
    let back = format!("{THERE} {WREN}");
    let conn = relay(&mut world, 0, "outer.example.org");
    let wren = session(&mut world, conn, "alice", &back);
    world.send(conn, Request::new("AUTH", &format!("{wren} {AHEAD}"), &back).bytes());
    world.run();
    let (_, ahead) = world.dialled[0].clone();
    world.take(ahead);
    world.hang_up(conn);
    world.run();
    // The relay uses the connection that we have opened: it is the way back from here on.
    world.send(ahead, Request::new("AUTH", &format!("{wren} {AHEAD}"), &back).bytes());
    world.run();
    world.send(
        ahead,
        Request::new("AUTH", &format!("{wren} msrps://third.example.org:2855;tcp"), &back).bytes(),
    );
    world.run();
    let far = world.connect(0);
    world.send(far, Request::send(&format!("{wren} {back}"), FAR, "m1", b"1").bytes());
    world.run();
    world.advance(Duration::from_secs(40));
    world.send(far, Request::send(&format!("{wren} {back}"), FAR, "m2", b"2").bytes());
    world.run();
    let arrived: Vec<_> = world.conns().flat_map(|c| world.take(c)).filter(|f| f.is("SEND")).collect();
    assert!(!arrived.is_empty(), "nothing leads back any more");
}

// A peer with a certificate must not be able to ban any user from the whole relay: a relay's failures count against the
// user behind that relay, and against no other client.
#[test]
fn relay_without_an_account_does_not_ban_users() {
    let mut world = World::new(1);
    let conn = relay(&mut world, 0, OTHER);
    'all: for number in 0..400 {
        for _ in 0..3 {
            let back = format!("msrps://{OTHER}:2855/client{number};tcp {WREN}");
            if attempt(&mut world, conn, "alice", "wrong", &back).status() != 401 {
                break 'all;
            }
        }
    }
    let own = world.try_connect(0, true, "203.0.113.77").unwrap();
    assert_eq!(attempt(&mut world, own, "alice", "1234", "msrps://203.0.113.77:9/a;tcp").status(), 200);
}

// "guess at passwords of other relays through us, three times": a guesser that does not wait for the answers must get
// no more (RFC 4976, 9.1: AUTHs are not pipelined).
#[test]
fn pipelined_guesses_through_this_relay_are_bounded() {
    let mut world = World::new(1);
    let (wren, session) = world.client(0, "alice");
    let uri = world.end(wren).uri.clone();
    let credentials = "Digest username=\"w\", realm=\"x\", nonce=\"md5\", qop=auth, nc=00000001, cnonce=\"c\", response=\"00000000000000000000000000000000\"";
    for _ in 0..50 {
        let ask = Request::new("AUTH", &format!("{session} {AHEAD}"), &uri);
        world.send(wren, ask.header("Authorization", credentials).bytes());
    }
    world.run();
    let (_, outer) = world.dialled[0].clone();
    let guesses = world.take(outer).iter().filter(|frame| frame.is("AUTH")).count();
    assert!(guesses <= 3, "{guesses} guesses");
}

// F5: the outer side is the relay, not one of its connections: the client's requests find another one.
#[test]
fn foreign_relay_is_not_lost_while_another_connection_of_its_is_there() {
    let mut world = World::new(1);
    let (bob, session) = world.client(0, "bob");
    let uri = world.end(bob).uri.clone();
    let (to, from) = (format!("{session} {uri}"), back_to_wren());
    world.end(bob).answers = Answers::Always(200);
    let first = relay(&mut world, 0, OTHER);
    world.send(first, Request::send(&to, &from, "m1", b"1").bytes());
    world.run();
    let second = relay(&mut world, 0, OTHER);
    world.send(second, Request::send(&to, &from, "m2", b"2").bytes());
    world.run();
    world.take(second);
    world.hang_up(first);
    world.run();
    world.send(bob, Request::send(&format!("{session} {from}"), &uri, "m3", b"3").bytes());
    world.run();
    assert_eq!(said(&only(world.take(second), "SEND")), "3");
}

// Sessions of clients behind relays last as long as they are refreshed. One relay with one account may use the memory
// of as many as it asks for, but not the memory that all others need to get in.
#[test]
fn sessions_behind_one_relay_leave_room_for_newcomers() {
    let mut settings = settings(1);
    settings.limits.queue_bytes_total = 1 << 20;
    let mut world = World::with(settings);
    let conn = relay(&mut world, 0, OTHER);
    let mut opened = 0;
    loop {
        let there = format!("msrps://{OTHER}:2855/{opened:028};tcp msrps://192.0.2.51:51344/c;tcp");
        world.send(conn, auth(&there));
        let challenge = world.take_one(conn);
        if challenge.status() != 401 {
            assert_eq!(challenge.status(), 403);
            break;
        }
        let answer = answer_challenge(&challenge, "alice", "1234", &relay_uri(), 1);
        let again = Request::new("AUTH", &relay_uri(), &there).header("Authorization", &answer);
        world.send(conn, again.bytes());
        assert_eq!(world.take_one(conn).status(), 200);
        opened += 1;
        assert!(opened < 10_000, "nothing bounds them");
    }
    assert!(opened > 50, "only {opened} clients behind a relay have room");
    let (client, _) = world.client(0, "bob");
    assert!(!world.is_closed(client));
}

// The far side of a session chooses the length of its URI, and how many messages it stops. For a session of a client
// behind a relay, of which there may be any number, all of that is counted.
#[test]
fn what_a_session_behind_a_relay_remembers_of_its_far_side_counts() {
    let mut world = World::new(1);
    let (conn, [to_alice, _]) = world.relay_with_two_clients(0);
    world.end(conn).answers = Answers::Always(413);
    let far = world.connect(0);
    let before = world.sizes().bytes_kept;
    let from = format!("msrps://a.example:1/x;tcp;p={}", "y".repeat(900));
    for n in 0..8 {
        let message = format!("{}{n}", "m".repeat(100));
        world.send(far, Request::send(&to_alice, &from, &message, b"x").bytes());
        world.run();
    }
    world.take(far);
    let sizes = world.sizes();
    assert_eq!((sizes.transactions, sizes.bytes_kept), (0, sizes.bytes_counted));
    let grown = sizes.bytes_kept - before;
    assert!(grown > 900 + 8 * 100, "{grown} bytes are counted");
    world.advance(Duration::from_secs(700));
    world.close_all();
}
