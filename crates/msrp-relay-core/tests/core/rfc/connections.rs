//! Requirements C: how connections begin, what they may do, and how they end (RFC 4976, 6.1, 6.2, 6.5; RFC 4975, 5.4).

use std::time::Duration;

use super::FAR;
use testkit_pure::endpoint::Answers;
use testkit_pure::frame::response;
use testkit_pure::line::{Shape, line, only};
use testkit_pure::{HOST, Request, World, challenged, relay_uri};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

// C2: a peer that requests nothing within 30 s is closed.
#[test]
fn connection_that_asks_for_nothing_is_closed_after_30_s() {
    let mut world = World::new(1);
    let conn = world.connect(0);
    world.advance(seconds(29));
    assert!(!world.is_closed(conn));
    world.advance(seconds(2));
    assert!(world.is_closed(conn));
}

// C2: a challenge is no success, nor is a refusal.
#[test]
fn requests_that_fail_do_not_end_the_probation() {
    let mut world = World::new(1);
    let (asking, lost) = (world.connect(0), world.connect(0));
    let uri = world.end(lost).uri.clone();
    world.advance(seconds(20));
    challenged(&mut world, asking, &relay_uri());
    let nowhere = format!("msrps://{HOST}:2855/absent;tcp {FAR}");
    world.send(lost, Request::bodiless(&nowhere, &uri, "mess").bytes());
    assert_eq!(world.take_one(lost).status(), 481);
    assert!(!world.is_closed(asking) && !world.is_closed(lost));
    world.advance(seconds(11));
    assert!(world.is_closed(asking) && world.is_closed(lost));
}

// C2: an AUTH answered 200 is a success, so is a forwarded request; a peer that we dialled is on no probation.
#[test]
fn who_succeeds_once_is_past_the_probation() {
    for shape in [Shape::Both, Shape::Receiver, Shape::Sender] {
        let mut line = line(shape, 0, 0);
        let world = &mut line.world;
        world.end(line.to).answers = Answers::Always(200);
        world.send(line.from, Request::bodiless(&line.path, &line.from_uri, "mess").bytes());
        assert_eq!(world.take_one(line.from).status(), 200);
        world.advance(seconds(600));
        assert!(!world.is_closed(line.from) && !world.is_closed(line.to), "{shape:?}");
    }
}

// C3: a peer whose first To-Path URI is another host's has lost its way: its connection closes, and only that one.
#[test]
fn request_for_another_host_ends_its_connection() {
    for to in ["msrps://other.example.org:2855/abc;tcp", "msrps://relay.example.com:2856/abc;tcp"] {
        let mut world = World::new(1);
        let pair = world.pair(0, 0);
        let lost = world.connect(0);
        let uri = world.end(lost).uri.clone();
        world.send(lost, Request::send(&format!("{to} {FAR}"), &uri, "mess", b"x").bytes());
        world.run();
        assert!(world.is_closed(lost), "{to}");
        assert!(world.dials.is_empty() && world.dialled.is_empty());
        world.send(pair.alice, Request::bodiless(&pair.to_bob, &pair.alice_uri, "mess").bytes());
        assert_eq!(world.take_one(pair.alice).status(), 200);
    }
}

// C3: but not a client's whose session uses it: one stray frame ends no chat.
#[test]
fn client_with_a_session_survives_requests_and_auths_for_another_host() {
    let mut world = World::new(1);
    let pair = world.pair(0, 0);
    let astray = format!("msrps://other.example.org:2855/abc;tcp {FAR}");
    world.send(pair.alice, Request::send(&astray, &pair.alice_uri, "mess", b"x").bytes());
    assert_eq!(world.take_one(pair.alice).status(), 481);
    world.send(
        pair.alice,
        Request::new("AUTH", "msrps://other.example.org:2856;tcp", &pair.alice_uri).bytes(),
    );
    assert_eq!(world.take_one(pair.alice).status(), 481);
    world.send(pair.alice, Request::bodiless(&pair.to_bob, &pair.alice_uri, "mess").bytes());
    assert_eq!(world.take_one(pair.alice).status(), 200);
}

// C3: a connection that serves sessions is spared for some time: all its sessions would suffer for one frame.
#[test]
fn connection_that_serves_sessions_survives_a_few_misaddressed_requests() {
    let mut line = line(Shape::Receiver, 0, 0);
    line.bind();
    let world = &mut line.world;
    let astray = format!("msrps://other.example.org:2855/abc;tcp {FAR}");
    let most = world.settings.limits.refused_requests_max;
    for n in 1..=most {
        world.send(line.from, Request::send(&astray, &line.from_uri, "mess", b"x").bytes());
        world.run();
        assert_eq!(world.is_closed(line.from), n == most);
        if n < most {
            assert_eq!(only(world.take(line.from), "481").status(), 481);
        }
    }
    assert!(!world.is_closed(line.to));
}

// C4: a head that is wrong is answered only where an answer is due and can be addressed; nothing is closed.
#[test]
fn defective_request_is_answered_only_where_an_answer_is_due() {
    let mut line = line(Shape::Both, 0, 0);
    let world = &mut line.world;
    let (to, from) = (line.path.clone(), line.from_uri.clone());
    let bad =
        |method: &str| Request::new(method, &to, &from).header("Message-ID", "mess").raw("no header\r\n");
    for request in [
        bad("SEND").header("Failure-Report", "no"),
        bad("REPORT").header("Status", "000 200 OK"),
        // No address to answer to.
        Request::new("SEND", &to, "nowhere").header("Message-ID", "mess"),
    ] {
        world.send(line.from, request.bytes());
        world.run();
        assert!(world.take(line.from).is_empty(), "{request:?}");
    }
    for request in
        [bad("SEND"), bad("SEND").header("Failure-Report", "partial"), bad("NICKNAME"), bad("AUTH")]
    {
        world.send(line.from, request.bytes());
        let answer = world.take_one(line.from);
        assert_eq!((answer.status(), answer.tid()), (400, &*request.tid));
    }
    assert!(world.take(line.to).is_empty());
    assert!(!world.is_closed(line.from));
}

// C5, T8: a client may wait for its first message for hours; its connection is in use while its URI lives.
#[test]
fn silent_connection_of_a_live_session_is_kept() {
    let mut world = World::new(1);
    let (bob, session) = world.client(0, "bob");
    let bob_uri = world.end(bob).uri.clone();
    world.advance(seconds(5 * 3600));
    assert!(!world.is_closed(bob));
    let conn = world.connect(0);
    let uri = world.end(conn).uri.clone();
    world.send(conn, Request::bodiless(&format!("{session} {bob_uri}"), &uri, "mess").bytes());
    assert_eq!(world.take_one(conn).status(), 200);
}

// C5: a connection that no session uses any more closes after an hour.
#[test]
fn connection_without_a_session_is_closed_after_an_hour() {
    let mut line = line(Shape::Receiver, 0, 0);
    let world = &mut line.world;
    world.end(line.to).answers = Answers::Always(200);
    world.send(line.from, Request::bodiless(&line.path, &line.from_uri, "mess").bytes());
    assert_eq!(world.take_one(line.from).status(), 200);
    world.advance(seconds(2 * 3600));
    assert!(!world.is_closed(line.from), "closed while a session uses it");
    world.lose(line.to);
    world.advance(seconds(3 * 3600));
    assert!(world.is_closed(line.from));
}

// C6 as narrowed: every session has an outbound connection of its own, though both lead to one host.
#[test]
fn each_session_has_an_outbound_connection_of_its_own() {
    let mut world = World::new(1);
    for user in ["alice", "bob"] {
        let (conn, session) = world.client(0, user);
        let uri = world.end(conn).uri.clone();
        world.send(conn, Request::bodiless(&format!("{session} {FAR}"), &uri, "mess").bytes());
        assert_eq!(world.take_one(conn).status(), 200);
    }
    assert_eq!(world.dialled.len(), 2);
    assert_eq!(world.dialled[0].0, world.dialled[1].0);
}

// C6: a client's connection is no route for others: without its URI the next hop is dialled.
#[test]
fn authenticated_connection_is_no_route_for_others() {
    let mut world = World::new(1);
    let pair = world.pair(0, 0);
    let past_bob = format!("{} {}", pair.alice_session, pair.bob_uri);
    world.send(pair.alice, Request::send(&past_bob, &pair.alice_uri, "mess", b"x").bytes());
    world.run();
    assert_eq!(world.dialled.len(), 1);
    assert!(world.take(pair.bob).is_empty());
}

// C6, Q3: a response goes back by the connection its request came from, or nowhere.
#[test]
fn response_for_a_connection_that_is_gone_is_dropped() {
    for shape in [Shape::Both, Shape::Receiver] {
        let mut line = line(shape, 0, 1);
        let world = &mut line.world;
        world.send(line.from, Request::new("NICKNAME", &line.path, &line.from_uri).bytes());
        world.run();
        let request = only(world.take(line.to), "NICKNAME");
        world.lose(line.from);
        world.run();
        let (to, from) = (request.from_path(), line.to_uri.clone());
        world.send(line.to, response(request.tid(), 200, &to, &from));
        world.run();
        assert!(world.take(line.to).is_empty() && world.dials.is_empty() && world.dialled.is_empty());
        assert!(!world.is_closed(line.to));
        assert_eq!(world.sizes().transactions, 0);
    }
}
