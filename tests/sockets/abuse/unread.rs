//! Peers that cause answers and do not read them, and peers that do not answer.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use msrp_proto::parser::Flag;

use super::attack::{Attack, CONNECTION_KIB_MAX, TRANSFER_KIB_MAX, two_cores};
use testkit_net::account::DOMAIN;
use testkit_net::endpoint::Endpoint;
use testkit_net::frame::{Frame, Request, fresh_id};
use testkit_net::{PATIENCE, assert_same, bounded, contents};

/// Answers that may wait for a peer: 64 KiB of the relay's own, four times as much of others', and one flush.
const ANSWERS_KIB_MAX: u64 = 5 * 64 + 128;
/// What a request that awaits its answer may take.
const TRANSACTION_KIB_MAX: u64 = 1;
/// `limits.transactions_per_peer_max`, an eighth of the default.
const TRANSACTIONS_MAX: usize = 512;
const FEW_TRANSACTIONS: &str = "limits: {transactions_per_peer_max: 512}";

/// Writes until the relay reads no more because the client does not read its answers, or until `bytes` are written.
fn stuff(culprit: &mut Endpoint, frames: impl Fn(&Endpoint) -> Vec<u8>, bytes: usize) -> usize {
    culprit.stream().set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut sent = 0;
    while sent < bytes {
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

fn demands(attack: &Attack) -> Vec<Demand> {
    let absent = attack.absent_session();
    let auth = format!("msrps://{DOMAIN}:{};tcp", attack.relay.addresses[0].port());
    let to = absent.clone();
    vec![
        ("SEND", Box::new(move |from| Request::send(&absent, &from.uri, &fresh_id(), "1-0/0").bare())),
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
        let attack = Attack::start(5 * (ANSWERS_KIB_MAX + TRANSFER_KIB_MAX + CONNECTION_KIB_MAX));
        let mut culprits: Vec<_> = demands(&attack)
            .into_iter()
            .map(|demand| (attack.relay.narrow_client("user0"), demand))
            .collect();
        std::thread::scope(|scope| {
            for (culprit, (what, demand)) in &mut culprits {
                scope.spawn(move || {
                    let sent = stuff(culprit, &*demand, MEGABYTES);
                    println!("{what}: {} KiB", sent >> 10);
                    assert!(sent < MEGABYTES, "{what}: the relay takes requests without end");
                });
            }
        });
        attack.goes_on();
        drop(culprits);
        attack.end();
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
        let attack = Attack::with(&two_cores(FEW_TRANSACTIONS), bound);
        let mut pairs = pairs(&attack);
        std::thread::scope(|scope| {
            for (culprit, accomplice) in &mut pairs {
                let (to, absent) = (accomplice.path(), attack.absent_session());
                let sent = scope.spawn(move || {
                    for _ in 0..TRANSACTIONS_MAX + BEYOND {
                        let tid = culprit.say(&to, b"Well?");
                        assert_eq!(culprit.status(&tid), 200);
                    }
                });
                scope.spawn(move || {
                    let owed: Vec<Frame> = (0..TRANSACTIONS_MAX).map(|_| accomplice.frame()).collect();
                    sent.join().unwrap();
                    // All the others are queued and none is sent: the next frame is the answer to this.
                    let tid = accomplice.say(&absent, b"Is that all?");
                    assert_eq!(accomplice.status(&tid), 481);
                    for message in &owed[..BEYOND] {
                        accomplice.writer.write(&message.response("200 OK"));
                        assert!(accomplice.frame().is_request("SEND"));
                    }
                });
            }
        });
        attack.goes_on();
        drop(pairs);
        attack.end();
    });
}

fn pairs(attack: &Attack) -> Vec<(Endpoint, Endpoint)> {
    let user = |n: usize| format!("user{n}");
    let pair = |n| (attack.relay.narrow_client(&user(2 * n)), attack.relay.narrow_client(&user(2 * n + 1)));
    (0..PAIRS).map(pair).collect()
}

/// Messages of no bytes at all, as clients send them to keep their connection alive.
#[test]
fn empty_messages_for_receivers_that_do_not_read_take_no_more_memory_than_others() {
    bounded(|| {
        let attack = Attack::start(PAIRS as u64 * (TRANSFER_KIB_MAX + 2 * CONNECTION_KIB_MAX));
        let mut pairs = pairs(&attack);
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
        attack.goes_on();
        drop(pairs);
        attack.end();
    });
}

// -- a connection that is shared -------------------------------------------------------------------

/// Messages for each of two clients; those for the one who does not read are more than all buffers hold.
const EACH: usize = 200;
const CHUNK: usize = 10_000;

/// What the peer that sends to both hears about one of them.
#[derive(Default)]
struct Told {
    accepted: usize,
    stopped: usize,
}

/// Another relay sends to several of our clients over one connection, and one of them does not read.
#[test]
fn a_client_that_does_not_read_holds_up_the_others_of_a_shared_connection_only_so_long() {
    bounded(|| {
        let bound = 2 * TRANSFER_KIB_MAX + 4 * CONNECTION_KIB_MAX;
        let attack = Attack::with(&two_cores("limits: {stall_timeout: 1s}"), bound);
        let (culprit, mut victim) = (attack.relay.narrow_client("user0"), attack.relay.client("user1"));
        let mut relay = attack.relay.stranger("relay");
        [&relay, &victim].into_iter().for_each(|endpoint| endpoint.wait_for(PATIENCE));
        let (from, id) = (relay.uri.clone(), fresh_id());
        let (stalled, healthy) = (culprit.path(), victim.path());
        let mut told = (Told::default(), Told::default());
        let tids = Mutex::new(HashSet::new());
        std::thread::scope(|scope| {
            let (writer, reader) = (&mut relay.writer, &mut relay.reader);
            let tids = &tids;
            scope.spawn(move || {
                for n in 0..EACH {
                    let range = format!("{}-*/{}", n * CHUNK + 1, EACH * CHUNK);
                    let chunk = Request::send(&stalled, &from, &id, &range);
                    tids.lock().unwrap().insert(chunk.tid());
                    let flag = if n + 1 == EACH { Flag::Last } else { Flag::More };
                    writer.write(&chunk.with_body(&contents(n as u64, CHUNK), flag));
                    let message = Request::send(&healthy, &from, &fresh_id(), "1-*/*");
                    writer.write(&message.with_body(&contents(n as u64, CHUNK), Flag::Last));
                }
            });
            scope.spawn(|| {
                for n in 0..EACH {
                    assert_same(&victim.request("SEND").body, &contents(n as u64, CHUNK));
                }
            });
            let mut answers = 0;
            while answers < 2 * EACH {
                let frame = reader.next_frame().unwrap();
                let Some(status) = frame.status() else {
                    // For the part that had been accepted before.
                    assert!(frame.required("Status").starts_with("000 413"), "{frame:?}");
                    continue;
                };
                answers += 1;
                let is_stalled = tids.lock().unwrap().contains(&frame.tid());
                let told = if is_stalled { &mut told.0 } else { &mut told.1 };
                match status {
                    200 => told.accepted += 1,
                    413 => told.stopped += 1,
                    _ => panic!("{frame:?}"),
                }
            }
        });
        assert_eq!((told.1.accepted, told.1.stopped), (EACH, 0));
        assert!(told.0.accepted > 0 && told.0.stopped > 0);
        drop((culprit, victim, relay));
        attack.end();
    });
}
