//! Messages arrive: every arrangement of clients and relay, both directions, many at once.

use std::net::TcpListener;

use testkit_net::endpoint::Endpoint;
use testkit_net::relay::{Setup, TestRelay, self_signed_endpoint};
use testkit_net::transfer::Outgoing;
use testkit_net::{assert_same, bounded, contents};

const MANY: usize = 3 << 20;

/// Alice's file and Bob's cross each other, each of several megabytes, once as one giant SEND and once in chunks of
/// 10 kB.
fn both_ways(alice: &mut Endpoint, bob: &mut Endpoint) {
    for chunk in [None, Some(10_000)] {
        let (from_alice, from_bob) = (contents(1, MANY + 7), contents(2, MANY - 1));
        let (alice_path, bob_path) = (alice.path(), bob.path());
        let to_bob = Outgoing { chunk, ..Outgoing::giant(&bob_path, &from_alice) };
        let to_alice = Outgoing { chunk, ..Outgoing::giant(&alice_path, &from_bob) };
        let (got_alice, got_bob) = std::thread::scope(|scope| {
            let alice = scope.spawn(|| alice.exchange(Some(&to_bob), 1));
            let bob = scope.spawn(|| bob.exchange(Some(&to_alice), 1));
            (alice.join().unwrap(), bob.join().unwrap())
        });
        assert_same(&got_bob[0].data, &from_alice);
        assert_same(&got_alice[0].data, &from_bob);
    }
}

/// A first message each way: the side that dials binds the session (RFC 4975, 5.4).
fn greet(active: &mut Endpoint, passive: &mut Endpoint) {
    let tid = active.say(&passive.path(), b"Hello");
    assert_eq!(active.status(&tid), 200);
    let greeting = passive.request("SEND");
    assert_eq!(greeting.body, b"Hello");
    assert_eq!(greeting.required("To-Path"), passive.uri);
    // The received path leads back: the answerer's own relay stands first.
    assert_eq!(greeting.required("From-Path"), passive.route(&active.path()));
    let tid = passive.say(&active.path(), b"Hello yourself");
    assert_eq!(passive.status(&tid), 200);
    let answer = active.request("SEND");
    assert_eq!(answer.body, b"Hello yourself");
    assert_eq!(answer.required("To-Path"), active.uri);
    assert_eq!(answer.required("From-Path"), active.route(&passive.path()));
}

#[test]
fn files_cross_between_two_clients_of_the_relay() {
    bounded(|| {
        let relay = TestRelay::start();
        let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
        greet(&mut alice, &mut bob);
        both_ways(&mut alice, &mut bob);
    });
}

#[test]
fn files_cross_between_a_client_of_the_relay_and_a_foreign_endpoint_that_calls_it() {
    bounded(|| {
        let relay = TestRelay::start();
        let (mut alice, mut bob) = (relay.stranger("alice"), relay.client("bob"));
        greet(&mut alice, &mut bob);
        both_ways(&mut alice, &mut bob);
    });
}

#[test]
fn files_cross_between_a_client_of_the_relay_and_a_foreign_endpoint_that_calls_it_without_tls() {
    bounded(|| {
        let relay = TestRelay::start();
        let (mut alice, mut bob) = (Endpoint::plain(relay.plain(), "alice"), relay.client("bob"));
        greet(&mut alice, &mut bob);
        both_ways(&mut alice, &mut bob);
    });
}

#[test]
fn files_cross_between_a_client_of_the_relay_and_a_plain_endpoint_that_the_relay_calls() {
    bounded(|| {
        let relay = TestRelay::start();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("msrp://{}/phone;tcp", listener.local_addr().unwrap());
        let mut alice = relay.client("alice");
        let tid = alice.say(&uri, b"First");
        let mut bob = Endpoint::accept_plain(&listener, &uri);
        assert_eq!(alice.status(&tid), 200);
        assert_eq!(bob.request("SEND").body, b"First");
        greet(&mut alice, &mut bob);
        both_ways(&mut alice, &mut bob);
    });
}

// I14: the config's bound reaches the connections that the relay opens and accepts, on every core.
#[test]
fn peers_named_in_max_chunk_get_short_chunks_on_any_connection() {
    bounded(|| {
        let outbound =
            "{plain: allow, allow: [127.0.0.0/8], max_chunk: {127.0.0.1: 10KiB, \"*.example.net\": 3KiB}}";
        let relay = TestRelay::with(&Setup { outbound, ..Setup::default() });
        let file = contents(1, MANY);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("msrp://{}/phone;tcp", listener.local_addr().unwrap());
        let mut alice = relay.client("alice");
        let tid = alice.say(&uri, b"First");
        let mut dialled = Endpoint::accept_plain(&listener, &uri);
        assert_eq!(alice.status(&tid), 200);
        assert_eq!(dialled.receive_file().data, b"First");
        let mut bob = relay.client("bob");
        let mut caller = Endpoint::plain(relay.plain(), "caller");
        caller.uri = "msrp://kam.example.net:2855/caller;tcp".to_owned();
        let tid = caller.say(&bob.path(), b"First");
        assert_eq!(caller.status(&tid), 200);
        assert_eq!(bob.receive_file().data, b"First");
        for (client, peer, bound) in [(&mut alice, &mut dialled, 10 << 10), (&mut bob, &mut caller, 3 << 10)]
        {
            let path = peer.path();
            let received = std::thread::scope(|scope| {
                let received = scope.spawn(|| peer.receive_file());
                client.send_file(&Outgoing::giant(&path, &file));
                received.join().unwrap()
            });
            assert_same(&received.data, &file);
            assert_eq!(received.chunks, MANY.div_ceil(bound));
        }
    });
}

#[test]
fn files_cross_between_a_client_of_the_relay_and_an_endpoint_with_its_own_certificate_that_the_relay_calls() {
    bounded(|| {
        let relay = TestRelay::start();
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let uri = format!("msrps://{}/phone;tcp", listener.local_addr().unwrap());
        let mut alice = relay.client("alice");
        let tid = alice.say(&uri, b"First");
        let mut bob = Endpoint::accept_tls(&listener, &self_signed_endpoint(), &uri);
        assert_eq!(alice.status(&tid), 200);
        assert_eq!(bob.request("SEND").body, b"First");
        greet(&mut alice, &mut bob);
        both_ways(&mut alice, &mut bob);
    });
}
