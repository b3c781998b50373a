//! Peers that cause answers and do not read them, and peers that are asked and do not answer.

use std::time::Duration;

use msrprelay::proto::parser::Flag;

use crate::scene::{CONNECTION_KIB_MAX, Scene, TRANSFER_KIB_MAX, two_cores};
use crate::support::account::DOMAIN;
use crate::support::bounded;
use crate::support::endpoint::Endpoint;
use crate::support::frame::{Frame, Request, fresh_id};

/// Answers that may wait for a peer: 64 KiB of the relay's own and four times that of others', and what may
/// be handed over at a time.
const ANSWERS_KIB_MAX: u64 = 5 * 64 + 128;
/// What a request that awaits its answer may take.
const TRANSACTION_KIB_MAX: u64 = 1;
/// `limits.transactions_per_peer_max`, an eighth of the default.
const TRANSACTIONS_MAX: usize = 512;
const FEW_TRANSACTIONS: &str = "limits: {transactions_per_peer_max: 512}";

/// Writes until the relay takes no more because nobody reads what it has to say to it, or `octets` are
/// written.
fn stuff(culprit: &mut Endpoint, frames: impl Fn(&Endpoint) -> Vec<u8>, octets: usize) -> usize {
    culprit.stream().set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut sent = 0;
    while sent < octets {
        let part: Vec<u8> = (0..50).flat_map(|_| frames(culprit)).collect();
        if culprit.writer.try_write(&part).is_err() {
            break;
        }
        sent += part.len();
    }
    sent
}

/// Far more than all buffers on the way hold.
const MEGABYTES: usize = 32 << 20;

/// A request that demands an answer, and what to call it.
type Demand = (&'static str, Box<dyn Fn(&Endpoint) -> Vec<u8> + Send>);

fn demands(scene: &Scene) -> Vec<Demand> {
    let nobody = scene.nobody();
    let auth = format!("msrps://{DOMAIN}:{};tcp", scene.relay.addresses[0].port());
    let to = nobody.clone();
    vec![
        ("SEND", Box::new(move |from| Request::send(&nobody, &from.uri, &fresh_id(), "1-0/0").bare())),
        ("NICKNAME", Box::new(move |from| Request::new("NICKNAME", &to, &from.uri).bare())),
        ("AUTH", Box::new(move |from| Request::new("AUTH", &auth, &from.uri).bare())),
        (
            "a SEND to itself",
            Box::new(|from| {
                let own = from.path();
                Request::send(&own, &from.uri, &fresh_id(), "1-4/4").with_body(b"Echo", Flag::Last)
            }),
        ),
        (
            "a bad SEND",
            Box::new(|from| {
                let own = from.path();
                Request::send(&own, &from.uri, "not one Message-ID", "0-0/0").bare()
            }),
        ),
    ]
}

#[test]
fn answers_that_are_not_read_stop_the_requests_that_cause_them() {
    bounded(|| {
        let scene = Scene::start(5 * (ANSWERS_KIB_MAX + TRANSFER_KIB_MAX + CONNECTION_KIB_MAX));
        let mut culprits: Vec<_> =
            demands(&scene).into_iter().map(|demand| (scene.relay.narrow_client("user0"), demand)).collect();
        std::thread::scope(|scope| {
            for (culprit, (what, demand)) in &mut culprits {
                scope.spawn(move || {
                    let sent = stuff(culprit, &*demand, MEGABYTES);
                    println!("{what}: {} KiB", sent >> 10);
                    assert!(sent < MEGABYTES, "{what}: the relay takes requests without end");
                });
            }
        });
        scene.goes_on();
        drop(culprits);
        scene.end();
    });
}

/// Pairs of which one sends too much for the other one.
const PAIRS: usize = 8;
/// Messages sent beyond what may await an answer: they wait in the relay.
const BEYOND: usize = 100;

#[test]
fn receivers_that_never_answer_cost_no_more_than_the_transactions_they_may_owe() {
    bounded(|| {
        let table = TRANSACTIONS_MAX as u64 * TRANSACTION_KIB_MAX;
        let bound = PAIRS as u64 * (TRANSFER_KIB_MAX + table);
        let scene = Scene::with(&two_cores(FEW_TRANSACTIONS), bound);
        let mut pairs = pairs(&scene);
        std::thread::scope(|scope| {
            for (culprit, accomplice) in &mut pairs {
                let (to, nobody) = (accomplice.path(), scene.nobody());
                let sent = scope.spawn(move || {
                    for _ in 0..TRANSACTIONS_MAX + BEYOND {
                        let tid = culprit.say(&to, b"Well?");
                        assert_eq!(culprit.status(&tid), 200);
                    }
                });
                scope.spawn(move || {
                    let owed: Vec<Frame> = (0..TRANSACTIONS_MAX).map(|_| accomplice.frame()).collect();
                    sent.join().unwrap();
                    // All the others are there and none is sent: the next frame is the answer to this.
                    let tid = accomplice.say(&nobody, b"Is that all?");
                    assert_eq!(accomplice.status(&tid), 481);
                    for message in &owed[..BEYOND] {
                        accomplice.writer.write(&message.response("200 OK"));
                        assert!(accomplice.frame().is_request("SEND"));
                    }
                });
            }
        });
        scene.goes_on();
        drop(pairs);
        scene.end();
    });
}

fn pairs(scene: &Scene) -> Vec<(Endpoint, Endpoint)> {
    let user = |n: usize| format!("user{n}");
    let pair = |n| (scene.relay.client(&user(2 * n)), scene.relay.narrow_client(&user(2 * n + 1)));
    (0..PAIRS).map(pair).collect()
}

/// Messages of no octets at all, as clients send them to keep their connection alive. What the relay keeps
/// beside the octets of each takes more than it counts for it: about as much again as all that is counted.
#[test]
fn empty_messages_for_receivers_that_do_not_read_take_no_more_than_twice_the_memory_of_others() {
    bounded(|| {
        let scene = Scene::start(PAIRS as u64 * 2 * TRANSFER_KIB_MAX);
        let mut pairs = pairs(&scene);
        std::thread::scope(|scope| {
            for (culprit, accomplice) in &mut pairs {
                let to = culprit.route(&accomplice.path());
                scope.spawn(move || {
                    let message = |from: &Endpoint| {
                        let request = Request::send(&to, &from.uri, &fresh_id(), "1-0/0");
                        request.header("Failure-Report", "no").bare()
                    };
                    let sent = stuff(culprit, message, MEGABYTES);
                    assert!(sent < MEGABYTES, "messages are taken without end");
                });
            }
        });
        scene.goes_on();
        drop(pairs);
        scene.end();
    });
}
