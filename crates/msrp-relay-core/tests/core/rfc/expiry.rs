//! Requirement A12: what happens to a session at its Expires, and to the requests that run through it (RFC 4976, 6.3).

use std::time::Duration;

use msrp_proto::parser::Flag;

use testkit_pure::frame::pattern;
use testkit_pure::line::only;
use testkit_pure::{Conn, Request, World};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Bob asked for 60 s and the clock stands just before them; Alice, a stranger, sends to him.
struct Scene {
    world: World,
    alice: Conn,
    bob: Conn,
    to_bob: String,
    to_alice: String,
    alice_uri: String,
    bob_uri: String,
}

fn shortly_before_expiry() -> Scene {
    let mut world = World::new(1);
    let bob = world.connect(0);
    let bob_uri = world.end(bob).uri.clone();
    let session = world.auth_round(bob, "bob", &bob_uri, "Expires: 60\r\n").header("Use-Path").unwrap();
    let alice = world.connect(0);
    let alice_uri = world.end(alice).uri.clone();
    let (to_bob, to_alice) = (format!("{session} {bob_uri}"), format!("{session} {alice_uri}"));
    world.send(alice, Request::bodiless(&to_bob, &alice_uri, "first").bytes());
    assert_eq!(world.take_one(alice).status(), 200);
    let first = only(world.take(bob), "SEND");
    world.send(bob, first.response(200));
    world.advance(seconds(55));
    Scene { world, alice, bob, to_bob, to_alice, alice_uri, bob_uri }
}

// A12: new requests are refused from the second of expiry on, in both directions; silently if no response is due.
#[test]
fn new_requests_are_refused_at_expiry() {
    let Scene { mut world, alice, bob, to_bob, to_alice, alice_uri, bob_uri } = shortly_before_expiry();
    world.advance(seconds(6));
    world.send(alice, Request::send(&to_bob, &alice_uri, "late", b"x").bytes());
    assert_eq!(world.take_one(alice).status(), 481);
    world.send(bob, Request::send(&to_alice, &bob_uri, "late", b"x").bytes());
    assert_eq!(world.take_one(bob).status(), 481);
    let silent = Request::send(&to_bob, &alice_uri, "late", b"x").header("Failure-Report", "no");
    world.send(alice, silent.bytes());
    world.advance(seconds(60));
    assert!(world.take(alice).is_empty() && world.take(bob).is_empty());
}

// A12: a chunk already on its way may finish.
#[test]
fn chunk_that_runs_at_expiry_may_finish() {
    let Scene { mut world, alice, bob, to_bob, alice_uri, .. } = shortly_before_expiry();
    let body = pattern(100_000);
    let request = Request::send(&to_bob, &alice_uri, "mess", &body);
    let bytes = request.bytes();
    world.send(alice, &bytes[..50_000]);
    world.advance(seconds(20));
    world.send(alice, &bytes[50_000..]);
    assert_eq!(world.take_one(alice).status(), 200);
    let frame = only(world.take(bob), "SEND");
    assert!(frame.body == body && frame.flag == Flag::Last);
}

// A12: but not for longer than 30 s: then it ends with `#`, and its sender gets a failure.
#[test]
fn chunk_that_runs_30_s_after_expiry_is_aborted() {
    let Scene { mut world, alice, bob, to_bob, alice_uri, .. } = shortly_before_expiry();
    let body = pattern(100_000);
    let request = Request::send(&to_bob, &alice_uri, "mess", &body);
    let bytes = request.bytes();
    world.send(alice, &bytes[..50_000]);
    world.advance(seconds(40));
    assert_eq!(world.take_one(alice).status(), 481);
    let frame = only(world.take(bob), "SEND");
    assert_eq!(frame.flag, Flag::Aborted);
    world.send(alice, &bytes[50_000..]);
    world.assert_idle();
    assert!(world.take(bob).is_empty());
}

// A12: messages delivered before can still be reported.
#[test]
fn reports_pass_for_30_s_after_expiry() {
    let Scene { mut world, alice, bob, to_bob, to_alice, alice_uri, bob_uri } = shortly_before_expiry();
    world.send(alice, Request::send(&to_bob, &alice_uri, "mess", b"x").bytes());
    world.run();
    world.take(alice);
    let frame = only(world.take(bob), "SEND");
    world.send(bob, frame.response(200));
    world.advance(seconds(20));
    let report = Request::new("REPORT", &to_alice, &bob_uri)
        .header("Message-ID", "mess")
        .header("Byte-Range", "1-1/1")
        .header("Status", "000 200 OK");
    world.send(bob, report.bytes());
    assert_eq!(world.take_one(alice).reported(), 200);
    world.advance(seconds(20));
    world.send(bob, report.bytes());
    world.run();
    assert!(world.take(alice).is_empty() && world.take(bob).is_empty());
}

// A12: a response to a request forwarded before passes, and so does our own notice of a failure.
#[test]
fn transactions_open_at_expiry_are_ended_as_ever() {
    let Scene { mut world, alice, bob, to_bob, alice_uri, .. } = shortly_before_expiry();
    let nickname = Request::new("NICKNAME", &to_bob, &alice_uri);
    world.send(alice, nickname.bytes());
    world.send(alice, Request::send(&to_bob, &alice_uri, "mess", b"x").bytes());
    assert_eq!(world.take_one(alice).status(), 200);
    let asked = world.take(bob);
    world.advance(seconds(10));
    world.send(bob, asked[0].response(425));
    world.send(bob, asked[1].response(415));
    world.run();
    let told = world.take(alice);
    assert_eq!((told[0].status(), told[0].tid()), (425, &*nickname.tid));
    assert_eq!((told[1].reported(), &*told[1].message_id()), (415, "mess"));
}

// A12: 30 s later there is nothing left of it, though its client stays connected.
#[test]
fn session_is_gone_30_s_after_its_expiry() {
    let Scene { mut world, .. } = shortly_before_expiry();
    world.advance(seconds(4));
    assert_eq!(world.sizes().sessions, 1);
    world.advance(seconds(32));
    assert_eq!(world.sizes().sessions, 0);
}

// A12, C5: a client whose session has just expired opens another one on its connection. Both end with the connection.
#[test]
fn both_sessions_of_a_connection_end_with_it() {
    let Scene { mut world, bob, bob_uri, .. } = shortly_before_expiry();
    world.advance(seconds(6));
    assert_eq!(world.auth_round(bob, "bob", &bob_uri, "").status(), 200);
    assert_eq!(world.sizes().sessions, 2);
    world.lose(bob);
    world.run();
    assert_eq!(world.sizes().sessions, 0);
}

// A11: prolonged in time, the same URI goes on, and running requests are not affected.
#[test]
fn session_prolonged_before_its_expiry_goes_on() {
    let Scene { mut world, alice, bob, to_bob, alice_uri, bob_uri, .. } = shortly_before_expiry();
    let session = to_bob.split(' ').next().unwrap().to_owned();
    let answer = world.auth_to(bob, "bob", (&session, &bob_uri), "Expires: 120\r\n");
    assert_eq!(answer.status(), 200);
    world.advance(seconds(60));
    world.send(alice, Request::send(&to_bob, &alice_uri, "mess", b"x").bytes());
    assert_eq!(world.take_one(alice).status(), 200);
}
