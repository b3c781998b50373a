//! Requirements T about paths and about which side speaks first (RFC 7977, RFC 6135, RFC 6714).

use super::FAR;
use testkit_pure::line::{Shape, line, only};
use testkit_pure::{Decision, Request, World};

// T5: a transport that we do not speak may stand further down the path, or behind us.
#[test]
fn unknown_transports_pass_in_the_rest_of_a_path() {
    let mut world = World::new(1);
    let (alice, session) = world.client(0, "alice");
    let uri = world.end(alice).uri.clone();
    let next =
        "msrps://relay.alder.example:2855/abc;tcp msrps://x7.invalid:443/def;ws msrps://a.example:1/b;future";
    world.send(alice, Request::send(&format!("{session} {next}"), &uri, "mess", b"x").bytes());
    assert_eq!(world.take_one(alice).status(), 200);
    let (_, conn) = world.dialled[0].clone();
    assert_eq!(only(world.take(conn), "SEND").to_path(), next);
    // The way back names them in From-Path.
    let (bob, bob_session) = world.client(0, "bob");
    let bob_uri = world.end(bob).uri.clone();
    let stranger = world.connect(0);
    let from = "msrps://relay.alder.example:2855/abc;tcp msrps://x7.invalid:443/def;ws";
    world.send(stranger, Request::send(&format!("{bob_session} {bob_uri}"), from, "mess", b"x").bytes());
    assert_eq!(world.take_one(stranger).status(), 200);
    assert_eq!(only(world.take(bob), "SEND").from_path(), format!("{bob_session} {from}"));
}

// T5: but the next hop must be reachable: an unknown transport there gets 408, like every unreachable hop.
#[test]
fn next_hop_by_an_unknown_transport_is_refused() {
    for transport in ["ws", "future"] {
        let mut world = World::new(1);
        let (alice, session) = world.client(0, "alice");
        let uri = world.end(alice).uri.clone();
        let to = format!("{session} msrps://x7.invalid:443/def;{transport}");
        world.send(alice, Request::bodiless(&to, &uri, "mess").bytes());
        assert_eq!(world.take_one(alice).status(), 408);
        assert!(world.dials.is_empty() && world.dialled.is_empty());
    }
}

// T9: both ends may believe that they begin: each empty SEND is forwarded and answered.
#[test]
fn two_first_sends_that_cross_are_both_answered() {
    for (a, b) in [(0, 0), (0, 1), (1, 0)] {
        let mut line = line(Shape::Both, a, b);
        let world = &mut line.world;
        world.send(line.from, Request::bodiless(&line.path, &line.from_uri, "there").bytes());
        world.send(line.to, Request::bodiless(&line.back, &line.to_uri, "back").bytes());
        world.run();
        for (conn, id) in [(line.from, "back"), (line.to, "there")] {
            let frames = world.take(conn);
            assert_eq!(frames.len(), 2, "{frames:?}");
            assert!(frames.iter().any(|frame| frame.is("200")));
            assert!(frames.iter().any(|frame| frame.is("SEND") && frame.message_id() == id));
        }
    }
}

// T10: an active endpoint is never dialled, whatever port its URI has. Once it has connected, that is its connection,
// and the URI is only compared.
#[test]
fn endpoint_that_came_by_itself_is_not_dialled() {
    let active = "msrps://192.0.2.77:9/c3Vt9gD5eR7wQz;tcp";
    let mut world = World::new(1);
    let (alice, session) = world.client(0, "alice");
    let uri = world.end(alice).uri.clone();
    let conn = world.connect(0);
    world.send(conn, Request::bodiless(&format!("{session} {uri}"), active, "mess").bytes());
    assert_eq!(world.take_one(conn).status(), 200);
    world.take(alice);
    world.send(alice, Request::send(&format!("{session} {active}"), &uri, "back", b"x").bytes());
    assert_eq!(world.take_one(alice).status(), 200);
    assert_eq!(only(world.take(conn), "SEND").message_id(), "back");
    assert!(world.dials.is_empty() && world.dialled.is_empty());
}

// T10: a client that speaks too early gets 408, and the active end can still come and bind the session.
#[test]
fn endpoint_that_cannot_be_dialled_yet_may_still_come() {
    let active = "msrps://192.0.2.77:9/c3Vt9gD5eR7wQz;tcp";
    let mut world = World::new(1);
    world.dial_decision = Decision::Fail;
    let (alice, session) = world.client(0, "alice");
    let uri = world.end(alice).uri.clone();
    world.send(alice, Request::bodiless(&format!("{session} {active}"), &uri, "early").bytes());
    world.run();
    let told = world.take(alice).pop().unwrap();
    assert_eq!(if told.is("REPORT") { told.reported() } else { told.status() }, 408);
    let conn = world.connect(0);
    world.send(conn, Request::bodiless(&format!("{session} {uri}"), active, "mess").bytes());
    assert_eq!(world.take_one(conn).status(), 200);
    only(world.take(alice), "SEND");
}

// T11: behind a middlebox no path matches its connection, and many connections belong to one user.
#[test]
fn paths_need_not_fit_the_connection_they_come_by() {
    let mut world = World::new(1);
    for n in 0..20 {
        let conn = world.connect(0);
        let own = format!("msrps://10.0.0.{n}:2855/behind{n};tcp");
        let session = world.auth_as(conn, "alice", &own);
        world.send(conn, Request::bodiless(&format!("{session} {FAR}"), &own, "mess").bytes());
        assert_eq!(world.take_one(conn).status(), 200);
        assert_eq!(world.dialled.len(), n + 1);
    }
}
