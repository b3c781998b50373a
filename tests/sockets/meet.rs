//! Two clients of one relay whom the kernel has put on two cores: with their first message they are on one, whole, and
//! nothing of it is lost, twice, or left behind.

use std::collections::BTreeSet;
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use msrprelay::telemetry::Snapshot;
use rustls::version::{TLS12, TLS13};

use testkit_net::endpoint::Endpoint;
use testkit_net::relay::{Setup, TestRelay};
use testkit_net::transfer::Outgoing;
use testkit_net::{alone, assert_same, bounded, contents, until};

const PAIRS: usize = 64;
const FILE_BYTES: usize = 300_001;
const SESSIONS: usize = 1000;

fn relay() -> TestRelay {
    let websocket = &[("127.0.0.1:0", true)];
    TestRelay::with(&Setup { cores: "[0, 1]", plain_auth: true, websocket, ..Setup::default() })
}

/// A client of one of four kinds, on the core with this index.
fn client_on(relay: &TestRelay, kind: usize, core: usize) -> Endpoint {
    let port = relay.tls.port();
    loop {
        let user = format!("user{}", kind + 4 * core);
        let client = match kind {
            0 => Endpoint::tls(relay.tls, &relay.client_of(&TLS13), &user).log_in(&user, port),
            1 => Endpoint::tls(relay.tls, &relay.client_of(&TLS12), &user).log_in(&user, port),
            2 => relay.web_client(&user),
            _ => Endpoint::plain(relay.plain(), &user).log_in(&user, relay.plain().port()),
        };
        if client.core() == core {
            return client;
        }
        client.close();
    }
}

/// What has been counted up to now: each core has published it since.
fn published(relay: &TestRelay) -> Snapshot {
    let heartbeats = || relay.server.counters().iter().map(|core| core.heartbeats).collect::<Vec<_>>();
    let before = heartbeats();
    until("all cores to publish", || {
        let beat = heartbeats().iter().zip(&before).all(|(now, before)| *now >= before + 2);
        beat.then(|| relay.counted())
    })
}

/// Both send a file at the same time, cut or not, and receive the other's.
fn exchange(alice: &mut Endpoint, bob: &mut Endpoint, n: u64) {
    let [there, back] = [2 * n, 2 * n + 1].map(|seed| contents(seed, FILE_BYTES));
    let (to_alice, to_bob) = (alice.path(), bob.path());
    let chunk = n.is_multiple_of(2).then_some(10_000);
    thread::scope(|scope| {
        let outgoing = Outgoing { chunk, ..Outgoing::giant(&to_bob, &there) };
        let alice = scope.spawn(move || alice.exchange(Some(&outgoing), 1).remove(0));
        let outgoing = Outgoing { chunk, ..Outgoing::giant(&to_alice, &back) };
        let received = bob.exchange(Some(&outgoing), 1).remove(0);
        assert_same(&received.data, &there);
        assert_same(&alice.join().unwrap().data, &back);
    });
}

// Whichever side begins, with a file or a word, and if both do at once.
#[test]
fn pairs_on_two_cores_are_on_one_after_their_first_message() {
    bounded(|| {
        let relay = relay();
        let mut pairs = Vec::new();
        for n in 0..PAIRS {
            // With the four ways to begin below, every kind with every other one.
            let core = (n / 8 + n) % 2;
            let mut alice = client_on(&relay, (n / 4) % 4, core);
            let mut bob = client_on(&relay, (n / 16) % 4, 1 - core);
            match n % 4 {
                0 => alice.chat(&mut bob, b"Hello"),
                1 => bob.chat(&mut alice, b"Hello"),
                2 => exchange(&mut alice, &mut bob, n as u64),
                _ => {
                    // Many at once, behind each other.
                    let path = bob.path();
                    let words: Vec<String> = (0..20).map(|n| format!("word {n}")).collect();
                    let tids: Vec<_> = words.iter().map(|word| alice.say(&path, word.as_bytes())).collect();
                    for word in &words {
                        assert_eq!(bob.request("SEND").body, word.as_bytes());
                    }
                    for tid in tids {
                        assert_eq!(alice.status(&tid), 200);
                    }
                }
            }
            pairs.push((alice, bob));
        }
        let all = until("all to be where they belong", || {
            let all = relay.counted();
            (all.links_local + all.links_split >= PAIRS as u64).then_some(all)
        });
        assert_eq!(
            (all.sessions_moved, all.links_local, all.links_split),
            (PAIRS as u64, PAIRS as u64, 0),
            "{all:?}"
        );
        let messages = published(&relay).messages_sent;
        for (n, (alice, bob)) in pairs.iter_mut().enumerate() {
            exchange(alice, bob, n as u64);
            bob.chat(alice, b"and back");
        }
        let all = published(&relay);
        assert_eq!(all.messages_sent, messages, "something crossed between the cores: {all:?}");
        assert_eq!((all.sessions_open, all.connections_open), (2 * PAIRS as u64, 2 * PAIRS as u64));
        assert_eq!(all.websocket_open, PAIRS as u64 / 2);
        drop(pairs);
        until("all to be forgotten", || (relay.counted().sessions_open == 0).then_some(()));
    });
}

// A user who talks to many: each talks on a core of its own, and where those are is left to the kernel.
#[test]
fn the_sessions_of_one_user_who_talks_to_many_are_where_those_are() {
    bounded(|| {
        let relay = relay();
        let mut talks = Vec::new();
        for n in 0..PAIRS {
            let mut many = relay.client(&format!("user{n}"));
            let mut alice = relay.client("alice");
            alice.chat(&mut many, b"Hello");
            talks.push((alice, many));
        }
        let spread = until("all to be published", || {
            let open: Vec<u64> = relay.server.counters().iter().map(|core| core.sessions_open).collect();
            (open.iter().sum::<u64>() == 2 * PAIRS as u64).then_some(open)
        });
        println!("sessions by core: {spread:?}");
        assert_eq!(relay.counted().links_split, 0);
        // A coin thrown as many times.
        assert!(spread.iter().all(|open| *open >= PAIRS as u64 / 4), "{spread:?}");
    });
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A client by TCP or WebSocket.
fn client(relay: &TestRelay, user: usize, is_page: bool) -> Endpoint {
    let user = format!("user{user}");
    if is_page { relay.web_client(&user) } else { relay.client(&user) }
}

/// One session of a random load: it comes, says something or nothing, and goes in one of many ways.
fn short_session(relay: &TestRelay, n: usize) {
    let mut alice = client(relay, n % 100, n % 7 < 3);
    let mut bob = client(relay, 100 + n % 100, n % 11 < 5);
    match n % 5 {
        0 => alice.chat(&mut bob, b"Hello"),
        // No test waits for its result.
        1 => drop(alice.say(&bob.path(), b"Hello")),
        2 => {
            alice.say(&bob.path(), b"Hello");
            bob.say(&alice.path(), b"Hello");
        }
        3 => {
            alice.say(&bob.path(), b"Hello");
            alice.stream().shutdown(Shutdown::Write).unwrap();
        }
        _ => {}
    }
    match n % 3 {
        0 => alice.close(),
        1 => alice.reset(),
        _ => bob.reset(),
    }
}

#[test]
fn short_sessions_leave_every_count_table_and_descriptor_as_it_was() {
    alone("meet::short_sessions_leave_every_count_table_and_descriptor_as_it_was", || {
        let relay = relay();
        // What is made once, by the first clients, is no leak.
        for n in 0..20 {
            short_session(&relay, n);
        }
        let idle = || {
            let cores = relay.server.counters();
            let is_idle = cores.iter().all(|core| {
                let open = core.connections_open + core.websocket_open + core.sessions_open;
                open + core.queue_bytes + core.outbox_waiting == 0
            });
            is_idle.then(|| cores.iter().map(|core| core.sessions_moved).collect::<Vec<_>>())
        };
        until("the first to be forgotten", idle);
        let before = descriptors();
        thread::scope(|scope| {
            for first in 0..10 {
                let relay = &relay;
                scope.spawn(move || (first..SESSIONS / 2).step_by(10).for_each(|n| short_session(relay, n)));
            }
        });
        let moved = until("all to be forgotten", idle);
        until("all descriptors to be closed", || (descriptors() <= before).then_some(()));
        println!("moved, by core: {moved:?}");
        assert!(moved.iter().all(|moved| *moved > 20), "{moved:?}");
        // Where there is nothing to remember, there is room for all of it again: no client is refused.
        let users: BTreeSet<_> = (0..100).map(|n| format!("user{n}")).collect();
        users.iter().for_each(|user| relay.client(user).close());
    });
}

/// Both send, or alice alone. Each is answered, or sees the end of its connection.
fn say_at_once(alice: &mut Endpoint, bob: &mut Endpoint, both: bool) {
    let crossing = both.then(|| bob.say(&alice.path(), b"Hello"));
    let tid = alice.say(&bob.path(), b"Hello");
    for (client, tid) in [(alice, Some(tid)), (bob, crossing)] {
        while let Some(tid) = &tid
            && let Ok(frame) = client.reader.next_frame()
            && frame.tid() != *tid
        {}
    }
}

// Sessions may be anywhere when their core dies: parked, agreed upon, in an inbox, in an outbox. No client connects meanwhile: this
// is about those who have.
#[test]
fn a_core_that_dies_while_pairs_come_together_leaves_nothing_behind() {
    alone("meet::a_core_that_dies_while_pairs_come_together_leaves_nothing_behind", || {
        let relay = relay();
        for n in 0..20 {
            short_session(&relay, n);
        }
        let is_idle = || {
            let cores = relay.server.counters();
            let is_idle = cores.iter().all(|core| {
                let open = core.connections_open + core.websocket_open + core.sessions_open;
                open + core.queue_bytes + core.outbox_waiting == 0
            });
            is_idle.then_some(())
        };
        until("the first to be forgotten", is_idle);
        let before = descriptors();
        for death in 1..=3 {
            let user = |n: usize| client(&relay, n, n.is_multiple_of(3));
            let mut pairs: Vec<_> = (0..PAIRS).map(|n| (user(2 * n), user(2 * n + 1))).collect();
            thread::scope(|scope| {
                for (n, (alice, bob)) in pairs.iter_mut().enumerate() {
                    // A client whose core is gone may find that out by writing: what it cannot do is wait for ever.
                    scope.spawn(move || {
                        let end =
                            catch_unwind(AssertUnwindSafe(|| say_at_once(alice, bob, n.is_multiple_of(2))));
                        let text = end.err().and_then(|panic| panic.downcast::<String>().ok());
                        assert!(!text.is_some_and(|text| text.contains("nothing came")), "pair {n} waits");
                    });
                }
                relay.server.crash_core((death % 2) as usize);
            });
            until("the core to be started again", || (relay.counted().core_restarts == death).then_some(()));
            drop(pairs);
            until("all to be forgotten", is_idle);
            until("all descriptors to be closed", || (descriptors() <= before).then_some(()));
        }
        let moved = relay.counted().sessions_moved;
        let (mut alice, mut bob) = (client_on(&relay, 0, 0), client_on(&relay, 0, 1));
        alice.chat(&mut bob, b"Hello");
        until("the last to have moved", || (relay.counted().sessions_moved > moved).then_some(()));
    });
}

#[test]
fn an_operator_ends_a_session_that_has_moved() {
    bounded(|| {
        let relay = relay();
        for core in [0, 1] {
            let mut alice = client_on(&relay, 0, core);
            let mut bob = client_on(&relay, 0, 1 - core);
            let id = alice.relay.clone().unwrap().rsplit('/').next().unwrap()[..10].to_owned();
            alice.chat(&mut bob, b"Hello");
            let inspector = relay.server.inspector();
            let mut cores = Vec::new();
            inspector
                .sessions(|line| {
                    if line.view.session == id {
                        cores.push(line.core);
                    }
                    true
                })
                .unwrap();
            assert_eq!(cores, [1 - core], "it is listed once, where it is");
            let closed = inspector.close(&id).unwrap();
            assert!(matches!(closed, msrprelay::runtime::ask::Closed::Done { .. }), "{closed:?}");
            alice.end();
        }
    });
}
