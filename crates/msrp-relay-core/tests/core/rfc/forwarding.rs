//! Requirements F1 to F5, F16 and Q: what is forwarded, where to, and how responses find back (RFC 4976, 6.4).

use super::FAR;
use testkit_pure::frame::{pattern, response};
use testkit_pure::line::{Shape, line, lines, only};
use testkit_pure::{Decision, Request, World, settings};

// F1 (b), T4: towards its client a session uses the bound connection; the client's own URI is never looked up.
#[test]
fn uri_of_the_client_is_never_resolved() {
    let hidden = "msrps://df7jal23ls0d.invalid:443/98cjs;ws";
    let mut world = World::new(1);
    let bob = world.connect(0);
    let session = world.auth_as(bob, "bob", hidden);
    let conn = world.connect(0);
    let uri = world.end(conn).uri.clone();
    world.send(conn, Request::send(&format!("{session} {hidden}"), &uri, "mess", b"x").bytes());
    assert_eq!(world.take_one(conn).status(), 200);
    let frame = only(world.take(bob), "SEND");
    assert_eq!((frame.to_path(), frame.from_path()), (hidden.to_owned(), format!("{session} {uri}")));
    assert!(world.dials.is_empty() && world.dialled.is_empty());
}

// F1: URIs are compared as the RFC has it, not as bytes: what the sender wrote is what leaves.
#[test]
fn uris_of_a_path_are_compared_by_meaning_and_forwarded_as_written() {
    let mut world = World::new(1);
    let (bob, session) = world.client(0, "bob");
    let bob_uri = world.end(bob).uri.clone();
    let conn = world.connect(0);
    let uri = world.end(conn).uri.clone();
    let shout = session.replace("relay.example.com", "RELAY.Example.com").replace(";tcp", ";TCP");
    world.send(conn, Request::send(&format!("{shout} {bob_uri}"), &uri, "mess", b"x").bytes());
    assert_eq!(world.take_one(conn).status(), 200);
    assert_eq!(only(world.take(bob), "SEND").from_path(), format!("{shout} {uri}"));
    // The session id itself has case, and a URI without a port is another one.
    for wrong in [session.to_ascii_lowercase(), session.replace(":2855", "")] {
        world.send(conn, Request::send(&format!("{wrong} {bob_uri}"), &uri, "mess", b"x").bytes());
        world.run();
        let refused = world.take(conn);
        assert!(refused.iter().all(|frame| frame.is("481")), "{refused:?}");
        assert!(world.take(bob).is_empty());
    }
}

// F2: one URI moves, the transaction id is new, and the rest of the head stays as it was written.
#[test]
fn nothing_in_a_head_changes_but_what_the_hop_changes() {
    for (name, mut line) in lines() {
        let world = &mut line.world;
        for method in ["SEND", "REPORT", "NICKNAME", "FUTURE"] {
            let extra = "x-first:  two  spaces\r\nMessage-ID: mess\r\nStatus: 000 200 OK\r\nX-Unknown: \u{e9}, \"q\"\r\n\
                         Byte-Range: 1-1/1\r\nx-first: again\r\n";
            let request = Request::new(method, &line.path, &line.from_uri).raw(extra).body(b"x");
            world.send(line.from, request.bytes());
            world.run();
            let frame = only(world.take(line.to), method);
            let mut hops: Vec<&str> = line.path.split(' ').collect();
            hops.pop();
            hops.reverse();
            let expected = format!(
                "MSRP {} {method}\r\nTo-Path: {}\r\nFrom-Path: {} {}\r\n{extra}Content-Type: text/plain\r\n\r\nx\r\n-------{}$\r\n",
                frame.tid(),
                line.to_uri,
                hops.join(" "),
                line.from_uri,
                frame.tid(),
            );
            assert_eq!(frame.text(), expected, "{name}");
            assert_ne!(frame.tid(), request.tid);
            world.take(line.from);
            if frame.wants_response(200) {
                world.send(line.to, frame.response(200));
            }
            world.run();
            world.take(line.from);
        }
    }
}

// F4: a path through three sessions of this relay leads nowhere: after the second session only its client may follow.
#[test]
fn path_through_more_of_our_sessions_than_two_gets_481() {
    let mut world = World::new(1);
    let pair = world.pair(0, 0);
    let (_, third) = world.client(0, "carol");
    let to = format!("{} {} {third} {}", pair.alice_session, pair.bob_session, pair.bob_uri);
    world.send(pair.alice, Request::bodiless(&to, &pair.alice_uri, "mess").bytes());
    world.run();
    let told = world.take(pair.alice).pop().unwrap();
    assert_eq!(told.status(), 481);
    assert!(world.take(pair.bob).is_empty());
}

// F5: a lost outer side is not replaced: a URI is bound once.
#[test]
fn lost_outer_side_is_not_bound_again() {
    for (shape, core) in [(Shape::Receiver, 0), (Shape::Receiver, 1), (Shape::Both, 0), (Shape::Both, 1)] {
        let mut line = line(shape, core, 0);
        let world = &mut line.world;
        world.send(line.from, Request::bodiless(&line.path, &line.from_uri, "mess").bytes());
        assert_eq!(world.take_one(line.from).status(), 200);
        let frame = only(world.take(line.to), "SEND");
        world.send(line.to, frame.response(200));
        world.lose(line.from);
        world.run();
        assert!(!world.is_closed(line.to), "only the session is over, not its client's connection");
        world.send(line.to, Request::bodiless(&line.back, &line.to_uri, "back").bytes());
        assert_eq!(world.take_one(line.to).status(), 481);
        let other = world.connect(core);
        let uri = world.end(other).uri.clone();
        let last_hops: Vec<&str> = line.path.split(' ').rev().take(2).collect();
        let path = format!("{} {}", last_hops[1], last_hops[0]);
        world.send(other, Request::bodiless(&path, &uri, "again").bytes());
        assert_eq!(world.take_one(other).status(), 481, "{shape:?}");
        assert!(world.take(line.to).is_empty());
    }
}

// F5, T8: either side may speak first: a called endpoint answers over the existing connection.
#[test]
fn either_side_may_speak_once_the_session_is_bound() {
    for (name, mut line) in lines() {
        line.bind();
        let world = &mut line.world;
        let dialled = world.dialled.len();
        let ways = [
            (line.to, &line.back, &line.to_uri, line.from),
            (line.from, &line.path, &line.from_uri, line.to),
        ];
        for (conn, path, uri, other) in ways {
            world.send(conn, Request::send(path, uri, "mess", b"x").bytes());
            assert_eq!(world.take_one(conn).status(), 200, "{name}");
            let frame = only(world.take(other), "SEND");
            world.send(other, frame.response(200));
            world.run();
        }
        assert_eq!(world.dialled.len(), dialled);
        assert_eq!(world.sizes().transactions, 0);
    }
}

// F16: any request may have a body of 10240 bytes; one byte more is 400, and the end.
#[test]
fn body_of_another_request_may_have_10240_bytes_and_no_more() {
    for (bytes, passes) in [(10_240, true), (10_241, false)] {
        for method in ["NICKNAME", "REPORT", "FUTURE"] {
            let mut line = line(Shape::Both, 0, 0);
            let body = pattern(bytes);
            line.bind();
            let world = &mut line.world;
            let request =
                Request::new(method, &line.path, &line.from_uri).header("Message-ID", "mess").body(&body);
            world.send(line.from, request.bytes());
            world.run();
            assert!(!world.is_closed(line.from), "{method}");
            if passes {
                assert!(only(world.take(line.to), method).body == body);
            } else {
                let answers = world.take(line.from);
                let due: &[u16] = if method == "REPORT" { &[] } else { &[400] };
                assert_eq!(answers.iter().map(|answer| answer.status()).collect::<Vec<_>>(), due);
            }
        }
    }
}

// F16, S14: unread refusals are bounded: a peer that floods us with unknown methods is not read from any more.
#[test]
fn refused_methods_of_a_peer_that_does_not_read_are_bounded() {
    let mut settings = settings(1);
    settings.methods_allow_other = false;
    let mut world = World::with(settings);
    let pair = world.pair(0, 0);
    world.link_mut(pair.alice).stalled = true;
    let request = Request::new("FUTURE", &pair.to_bob, &pair.alice_uri).bytes();
    for _ in 0..20_000 {
        world.send(pair.alice, &request);
    }
    world.run();
    assert!(world.link(pair.alice).paused);
    let answered = world.take(pair.alice).len();
    assert!(answered < 2_000, "{answered}");
}

// F16: a blocked method and a misrouted one get different codes, and a request that wants no answer gets none.
#[test]
fn requests_on_an_unknown_session_are_refused_alike() {
    let mut world = World::new(1);
    let conn = world.connect(0);
    let uri = world.end(conn).uri.clone();
    let to = format!("msrps://{}:2855/absent;tcp {FAR}", testkit_pure::HOST);
    for method in ["NICKNAME", "FUTURE"] {
        let request = Request::new(method, &to, &uri);
        world.send(conn, request.bytes());
        let answer = world.take_one(conn);
        assert_eq!((answer.status(), answer.tid()), (481, &*request.tid));
        // Answered end to end: the way back is all of From-Path.
        assert_eq!(answer.to_path(), uri);
    }
}

// Q1: a request that is answered end to end gets the full way back in its answer, one that we answer only the previous
// hop.
#[test]
fn refusals_go_back_the_way_that_their_method_is_answered() {
    let mut world = World::new(1);
    let conn = world.connect(0);
    let from = "msrps://r9.alder.example:2855/abc;tcp msrps://192.0.2.9:5000/def;tcp";
    let to = format!("msrps://{}:2855/absent;tcp {FAR}", testkit_pure::HOST);
    for (method, back) in [("SEND", from.split(' ').next().unwrap()), ("NICKNAME", from)] {
        world.send(conn, Request::new(method, &to, from).header("Message-ID", "mess").bytes());
        let answer = world.take_one(conn);
        assert_eq!((answer.status(), &*answer.to_path()), (481, back));
        assert_eq!(answer.from_path(), to.split(' ').next().unwrap());
    }
}

// Q2: a transaction belongs to its connection: another connection cannot answer it.
#[test]
fn response_on_another_connection_ends_nothing() {
    let mut line = line(Shape::Both, 0, 0);
    let world = &mut line.world;
    let stranger = world.connect(0);
    world.send(line.from, Request::send(&line.path, &line.from_uri, "mess", b"x").bytes());
    world.run();
    let frame = only(world.take(line.to), "SEND");
    for conn in [stranger, line.from] {
        world.send(conn, response(frame.tid(), 413, &frame.from_path(), &line.to_uri));
    }
    world.run();
    assert_eq!(world.sizes().transactions, 1);
    assert_eq!(world.take(line.from).len(), 1, "only the 200");
    world.send(line.to, frame.response(200));
    world.run();
    assert_eq!(world.sizes().transactions, 0);
}

// Q4: the response ends a transaction; the second one is a stray, whatever it says.
#[test]
fn second_response_is_a_stray() {
    let mut line = line(Shape::Both, 0, 1);
    let world = &mut line.world;
    world.send(line.from, Request::new("NICKNAME", &line.path, &line.from_uri).bytes());
    world.run();
    let frame = only(world.take(line.to), "NICKNAME");
    world.send(line.to, frame.response(425));
    world.send(line.to, frame.response(200));
    world.run();
    assert_eq!(only(world.take(line.from), "425").status(), 425);
    assert_eq!(world.relay(1).stats().strays_dropped, 1);
}

// F1, S3: while a next hop is being dialled nothing is bound, and the client's URI stays usable afterwards.
#[test]
fn failed_dial_leaves_the_session_free() {
    let mut world = World::new(1);
    world.dial_decision = Decision::Fail;
    let (alice, session) = world.client(0, "alice");
    let uri = world.end(alice).uri.clone();
    world.send(alice, Request::bodiless(&format!("{session} {FAR}"), &uri, "mess").bytes());
    world.run();
    world.take(alice);
    let conn = world.connect(0);
    let peer = world.end(conn).uri.clone();
    world.send(conn, Request::bodiless(&format!("{session} {uri}"), &peer, "mess").bytes());
    assert_eq!(world.take_one(conn).status(), 200);
    only(world.take(alice), "SEND");
}
