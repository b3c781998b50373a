//! Messages through two, three and four relays, with clients behind none, one and two of them.

use std::thread;

use super::relays::{Relay, Relays, Wish, client_behind, log_in, log_in_with, path_to};
use testkit_net::endpoint::Endpoint;
use testkit_net::frame::{Request, fresh_id};
use testkit_net::transfer::Outgoing;
use testkit_net::zone::srv;
use testkit_net::{assert_same, bounded, contents, until};

const MIB: usize = 1 << 20;

/// A file each way at the same time, which do not disturb each other.
fn exchange(mut one: Endpoint, mut other: Endpoint, bytes: usize) {
    let (to_one, to_other) = (path_to(&one), path_to(&other));
    let (from_one, from_other) = (contents(1, bytes), contents(2, bytes + 1));
    // The side that begins is active; the other side's first request must find the existing path.
    one.say(&to_other, b"first");
    thread::scope(|scope| {
        let at_other = scope.spawn(|| {
            assert_eq!(other.request("SEND").body, b"first");
            other.exchange(Some(&Outgoing::giant(&to_one, &from_other)), 1).remove(0).data
        });
        let answer = one.frame();
        assert_eq!(answer.status(), Some(200), "{answer:?}");
        let at_one = one.exchange(Some(&Outgoing::giant(&to_other, &from_one)), 1).remove(0).data;
        assert_same(&at_one, &from_other);
        assert_same(&at_other.join().unwrap(), &from_one);
    });
}

// Alice on one relay, Bob on another: the ordinary case behind DNS load balancing.
#[test]
fn files_cross_between_clients_of_two_relays() {
    bounded(|| {
        let relays = Relays::new();
        let (a, b) = (relays.relay("a.osier.example"), relays.relay("b.alder.example"));
        exchange(a.client("alice"), b.client("bob"), 16 * MIB);
        until("the relays to know each other", || {
            b.process.log().contains("A relay has proven its name").then_some(())
        });
        b.process.logs("names=\"a.osier.example\"");
    });
}

// Two relays of one client's own, against a client behind none.
#[test]
fn client_behind_two_relays_and_one_behind_none() {
    bounded(|| {
        let relays = Relays::new();
        let (a, b) = (relays.relay("a.osier.example"), relays.relay("b.alder.example"));
        let alice = client_behind(&[&a, &b], "alice");
        let stranger = b.connect("stranger");
        let to_alice = path_to(&alice);
        // It dials the outermost relay of hers; hers cannot dial it.
        let (mut alice, mut stranger) = (alice, stranger);
        let to_stranger = stranger.uri.clone();
        stranger.say(&to_alice, b"Hello");
        let first = alice.request("SEND");
        assert_eq!(first.body, b"Hello");
        assert_eq!(first.required("To-Path"), alice.uri);
        assert_eq!(first.required("From-Path").split(' ').count(), 3);
        assert_eq!(stranger.frame().status(), Some(200));
        let data = contents(3, 4 * MIB);
        thread::scope(|scope| {
            let received = scope.spawn(|| stranger.receive_file().data);
            alice.send_file(&Outgoing::giant(&to_stranger, &data));
            assert_same(&received.join().unwrap(), &data);
        });
    });
}

// Against a client behind one.
#[test]
fn client_behind_two_relays_and_one_behind_a_third() {
    bounded(|| {
        let relays = Relays::new();
        let (a, b) = (relays.relay("a.osier.example"), relays.relay("b.alder.example"));
        let d = relays.relay("d.rowan.example");
        exchange(client_behind(&[&a, &b], "alice"), d.client("bob"), 2 * MIB);
        exchange(d.client("carol"), client_behind(&[&a, &b], "dave"), 2 * MIB);
    });
}

// Against a client behind two; these are four relays on the way, on two cores each.
#[test]
fn two_clients_behind_two_relays_each() {
    bounded(|| {
        let relays = Relays::new();
        let (a, b) = (relays.relay("a.osier.example"), relays.relay("b.alder.example"));
        let (c, d) = (relays.relay("c.alder.example"), relays.relay("d.rowan.example"));
        exchange(client_behind(&[&a, &b], "alice"), client_behind(&[&d, &c], "bob"), 2 * MIB);
        // Both behind the same outermost relay, and then behind the same two.
        exchange(client_behind(&[&a, &b], "carol"), client_behind(&[&d, &b], "dave"), MIB);
        exchange(client_behind(&[&a, &b], "alice"), client_behind(&[&a, &b], "bob"), MIB);
    });
}

// Three relays of her own: To-Path of the last AUTH has three URIs.
#[test]
fn client_behind_three_relays() {
    bounded(|| {
        let relays = Relays::new();
        let (a, b) = (relays.relay("a.osier.example"), relays.relay("b.alder.example"));
        let c = relays.relay("c.alder.example");
        let alice = client_behind(&[&a, &b, &c], "alice");
        assert_eq!(alice.relay.as_ref().unwrap().split(' ').count(), 3);
        exchange(alice, c.client("bob"), MIB);
    });
}

// Loops: AUTH that would come back to a relay that it has passed.
#[test]
fn paths_that_come_back_are_refused() {
    bounded(|| {
        let relays = Relays::new();
        let (a, b) = (relays.relay("a.osier.example"), relays.relay("b.alder.example"));
        let mut alice = client_behind(&[&a, &b], "alice");
        let to = format!("{} {}", alice.relay.as_ref().unwrap(), a.uri());
        let tid = alice.send_bare(Request::new("AUTH", &to, &alice.uri.clone()));
        assert_eq!(alice.status(&tid), 403);
        // The same URI twice.
        let session = alice.relay.as_ref().unwrap().split(' ').next().unwrap().to_owned();
        let to = format!("{session} {session} {}", alice.uri);
        let tid = alice.send(Request::send(&to, &alice.uri.clone(), &fresh_id(), "1-1/1"), b"x");
        assert_eq!(alice.status(&tid), 400);
        // It serves her still.
        exchange(alice, b.client("bob"), 1000);
    });
}

// A16: the target may be a domain, without a port; A13: guesses at the second relay end at the first.
#[test]
fn outer_relay_is_found_by_srv_and_guesses_at_it_close_the_connection() {
    bounded(|| {
        let probe = Relays::new();
        let b: Relay = probe.relay("b.alder.example");
        // Its port is known, so it gets an SRV record, for its own name, which is what its certificate proves.
        let more = vec![(
            "_msrps._tcp.b.alder.example.".to_owned(),
            srv(0, 0, b.address().port(), "b.alder.example."),
        )];
        let relays = Relays { authority: probe.authority, ..Relays::with(more) };
        let a = relays.relay("a.osier.example");
        let mut alice = a.client("alice");
        let session = alice.relay.clone().unwrap();
        let to = format!("{session} msrps://b.alder.example;tcp");
        assert_eq!(log_in(&mut alice, "alice", &to), 200);
        let path = alice.relay.clone().unwrap();
        let (first, last) = path.split_once(' ').unwrap();
        assert_eq!(first, session);
        assert!(last.starts_with(&format!("msrps://b.alder.example:{}/", b.address().port())), "{last}");

        let mut guesser = a.client("bob");
        let to = format!("{} msrps://b.alder.example;tcp", guesser.relay.clone().unwrap());
        for _ in 0..3 {
            assert_eq!(log_in_with(&mut guesser, "bob", "guess", &to), 401);
        }
        guesser.end();
    });
}

// A16: 408 for a relay that cannot be reached; the client's own relay still serves it.
#[test]
fn outer_relay_that_is_not_there_is_408() {
    bounded(|| {
        let relays = Relays::new();
        let (a, b) = (relays.relay("a.osier.example"), relays.relay("b.alder.example"));
        let mut alice = a.client("alice");
        for nowhere in [
            "msrps://absent.example:2855;tcp",
            "msrps://c.alder.example:9;tcp",
            "msrps://c.alder.example;tcp",
        ] {
            let to = format!("{} {nowhere}", alice.relay.as_ref().unwrap());
            let tid = alice.send_bare(Request::new("AUTH", &to, &alice.uri.clone()));
            assert_eq!(alice.status(&tid), 408, "{nowhere}");
        }
        exchange(alice, b.client("bob"), 1000);
    });
}

// A connection that a relay opens may come in on any core; it moves to that of the session, with its proof.
#[test]
fn proof_goes_with_a_connection_to_the_core_of_its_session() {
    bounded(|| {
        let relays = Relays::new();
        let b =
            relays.relay_with("b.alder.example", &Wish { tls: ", unproven_relays: refuse", ..relays.wish() });
        let config = relays.relay_as_client(&relays.authority, "a.osier.example");
        let mut bobs: Vec<Endpoint> = (0..8).map(|_| b.client("bob")).collect();
        for bob in &mut bobs {
            let mut relay = b.connect_as("a", &config);
            let from =
                format!("msrps://a.osier.example:2855/{};tcp msrps://192.0.2.1:2855/alice;tcp", fresh_id());
            let request = Request::send(&bob.path(), &from, &fresh_id(), "1-5/5");
            let tid = relay.send(request, b"Hello");
            assert_eq!(bob.request("SEND").body, b"Hello");
            assert_eq!(relay.status(&tid), 200);
        }
    });
}
