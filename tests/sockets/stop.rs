//! A relay that stops while messages are under way: every message that it has answered has arrived.

use std::sync::atomic::{AtomicUsize, Ordering};

use msrp_proto::parser::Flag;

use testkit_net::endpoint::Endpoint;
use testkit_net::frame::{Request, fresh_id};
use testkit_net::relay::{Setup, TestRelay};
use testkit_net::{bounded, until};

const PAIRS: usize = 6;
/// Clients, among which the kernel has surely given that many to either core.
const MANY: usize = 100;
/// Messages that wait for their answer at a time.
const WINDOW: usize = 16;

/// Sends messages until the connection ends. Returns how many were answered 200.
fn send_until_the_end(mut alice: Endpoint, peer: &str, answered: &AtomicUsize) -> usize {
    let mut open = 0;
    loop {
        while open < WINDOW {
            let request = Request::send(&alice.route(peer), &alice.uri.clone(), &fresh_id(), "1-5/5");
            let bytes = request.with_body(b"hello", Flag::Last);
            if alice.writer.try_write(&bytes).is_err() {
                break;
            }
            open += 1;
        }
        match alice.reader.next_frame() {
            Ok(frame) if frame.status() == Some(200) => {
                open -= 1;
                answered.fetch_add(1, Ordering::SeqCst);
            }
            Ok(_) => {}
            Err(_) => return answered.load(Ordering::SeqCst),
        }
    }
}

/// Receives until the connection ends. Returns how many messages came.
fn receive_until_the_end(mut bob: Endpoint) -> usize {
    let mut messages = 0;
    while let Ok(frame) = bob.reader.next_frame() {
        if frame.is_request("SEND") {
            messages += 1;
            // The relay may have stopped reading.
            let _ = bob.writer.try_write(&frame.response("200 OK"));
        }
    }
    messages
}

/// Pairs of clients whose sessions are at home on different cores: the session id begins with the core.
fn split_pairs(relay: &TestRelay) -> Vec<(Endpoint, Endpoint)> {
    let (mut zero, mut one) = (Vec::new(), Vec::new());
    for n in 0..MANY {
        let client = relay.client(&format!("user{n}"));
        let path = client.path();
        let session = path.split('/').nth(3).unwrap();
        if session.starts_with("AAAA") {
            zero.push(client)
        } else {
            one.push(client)
        }
        if zero.len() >= PAIRS && one.len() >= PAIRS {
            break;
        }
    }
    assert!(zero.len() >= PAIRS && one.len() >= PAIRS, "{} and {}", zero.len(), one.len());
    zero.into_iter().zip(one).take(PAIRS).collect()
}

#[test]
fn what_was_answered_before_a_stop_has_arrived_even_between_two_cores() {
    bounded(|| {
        let relay = TestRelay::with(&Setup::default());
        let pairs = split_pairs(&relay);
        let answered: Vec<AtomicUsize> = (0..PAIRS).map(|_| AtomicUsize::new(0)).collect();
        std::thread::scope(|scope| {
            let mut ends = Vec::new();
            for ((alice, bob), answered) in pairs.into_iter().zip(&answered) {
                let peer = bob.path();
                let sent = scope.spawn(move || send_until_the_end(alice, &peer, answered));
                ends.push((sent, scope.spawn(|| receive_until_the_end(bob))));
            }
            until("every pair has exchanged some messages", || {
                answered.iter().all(|a| a.load(Ordering::SeqCst) > 50).then_some(())
            });
            relay.server.stop();
            for (sent, received) in ends {
                let (answered, arrived) = (sent.join().unwrap(), received.join().unwrap());
                assert!(arrived >= answered, "{answered} were answered, {arrived} arrived");
            }
        });
    });
}
