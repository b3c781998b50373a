//! A client replaces its URI before it expires (RFC 4976, 9.4): both URIs are one session, for both sides, in whatever
//! order they speak, until the old one is over.

use std::time::Duration;

use super::relays::{OTHER, WREN, WREN_THERE, back_to_wren, relay, session};
use testkit_pure::line::{LAYOUTS, only};
use testkit_pure::{Conn, Frame, Pair, Request, World, settings};

/// The speaker, and the URI of alice's that is used.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Step {
    AliceOld,
    AliceNew,
    BobOld,
    BobNew,
}

const STEPS: [Step; 4] = [Step::AliceOld, Step::AliceNew, Step::BobOld, Step::BobNew];

/// Alice, who has two URIs, and bob.
struct Renewed {
    pair: Pair,
    new: String,
}

impl Renewed {
    /// The sending connection, the receiving one, the path between them and the sender's own URI.
    fn way(&self, step: Step) -> (Conn, Conn, String, &str) {
        let Pair { alice, bob, alice_session, bob_session, alice_uri, bob_uri, .. } = &self.pair;
        let session = match step {
            Step::AliceOld | Step::BobOld => alice_session,
            Step::AliceNew | Step::BobNew => &self.new,
        };
        match step {
            Step::AliceOld | Step::AliceNew => {
                (*alice, *bob, format!("{session} {bob_session} {bob_uri}"), alice_uri)
            }
            Step::BobOld | Step::BobNew => {
                (*bob, *alice, format!("{bob_session} {session} {alice_uri}"), bob_uri)
            }
        }
    }

    /// One message, its 200, and the REPORT of its arrival, which goes back the way it came.
    fn say(&self, world: &mut World, step: Step) {
        let (from, to, path, own) = self.way(step);
        deliver(world, (from, to), &path, own);
    }
}

/// One message with its 200 and its REPORT.
fn deliver(world: &mut World, (from, to): (Conn, Conn), path: &str, own: &str) {
    let request = Request::send(path, own, "m1", b"hello").header("Success-Report", "yes");
    world.send(from, request.bytes());
    world.run();
    assert_eq!(only(world.take(from), "200").status(), 200);
    let arrived = only(world.take(to), "SEND");
    assert_eq!(arrived.body, b"hello");
    world.send(to, arrived.response(200));
    let report = Request::new("REPORT", &arrived.from_path(), &arrived.to_path())
        .header("Message-ID", "m1")
        .header("Byte-Range", "1-5/5")
        .header("Status", "000 200 OK");
    world.send(to, report.bytes());
    world.run();
    assert_eq!(only(world.take(from), "REPORT").header("Message-ID").as_deref(), Some("m1"));
}

/// Whether a sender learns that its message had no session to go to: by the response, or, if another session of this
/// relay has answered it already, by a REPORT.
fn is_told_481(frames: &[Frame]) -> bool {
    match frames {
        [response] => response.status() == 481,
        [response, report] => {
            let status = report.header("Status").unwrap_or_default();
            response.status() == 200 && report.is("REPORT") && status.starts_with("000 481")
        }
        _ => false,
    }
}

fn renew(world: &mut World, conn: Conn, user: &str) -> String {
    let own = world.end(conn).uri.clone();
    let answer = world.auth_round(conn, user, &own, "Expires: 600\r\n");
    assert_eq!(answer.status(), 200);
    answer.header("Use-Path").unwrap()
}

/// Two clients of this relay; alice's first URI ends after 60 s.
fn two_clients(world: &mut World, a: usize, b: usize) -> Pair {
    let (alice, bob) = (world.connect(a), world.connect(b));
    let (alice_uri, bob_uri) = (world.end(alice).uri.clone(), world.end(bob).uri.clone());
    let answer = world.auth_round(alice, "alice", &alice_uri, "Expires: 60\r\n");
    let alice_session = answer.header("Use-Path").unwrap();
    let bob_session = world.auth(bob, "bob");
    let to_bob = format!("{alice_session} {bob_session} {bob_uri}");
    let to_alice = format!("{bob_session} {alice_session} {alice_uri}");
    Pair { alice, bob, alice_session, bob_session, alice_uri, bob_uri, to_bob, to_alice }
}

/// Every order of two steps, before and after the renewal.
fn orders() -> impl Iterator<Item = (Option<Step>, Step, Step)> {
    let before = [None, Some(Step::AliceOld), Some(Step::BobOld)];
    before.into_iter().flat_map(|before| {
        STEPS.into_iter().flat_map(move |first| STEPS.into_iter().map(move |second| (before, first, second)))
    })
}

// A11, F5: a bound pair, or one that is not bound yet, talks by either URI in any order.
#[test]
fn both_uris_of_a_session_are_one_for_both_sides_in_every_order() {
    for (a, b) in LAYOUTS {
        for (before, first, second) in orders() {
            let mut world = World::new(2);
            let pair = two_clients(&mut world, a, b);
            let mut renewed = Renewed { new: String::new(), pair };
            if let Some(step) = before {
                renewed.say(&mut world, step);
            }
            renewed.new = renew(&mut world, renewed.pair.alice, "alice");
            assert_eq!(world.sizes().sessions, 2, "the renewed session is the same one");
            for step in [first, second, Step::AliceNew, Step::BobNew, Step::AliceOld, Step::BobOld] {
                renewed.say(&mut world, step);
            }
            world.assert_idle();
            world.close_all();
        }
    }
}

// A11: and after the old URI has expired, by the new one alone.
#[test]
fn pair_talks_by_the_new_uri_when_the_old_one_has_expired() {
    for (a, b) in LAYOUTS {
        for (before, first, second) in orders() {
            let mut world = World::new(2);
            let pair = two_clients(&mut world, a, b);
            let mut renewed = Renewed { new: String::new(), pair };
            if let Some(step) = before {
                renewed.say(&mut world, step);
            }
            renewed.new = renew(&mut world, renewed.pair.alice, "alice");
            for step in [first, second] {
                renewed.say(&mut world, step);
            }
            world.advance(Duration::from_secs(61));
            for old in [Step::AliceOld, Step::BobOld] {
                let (from, to, path, own) = renewed.way(old);
                world.send(from, Request::send(&path, own, "m2", b"late").bytes());
                world.run();
                assert!(is_told_481(&world.take(from)), "{old:?}");
                assert!(world.take(to).is_empty(), "{old:?}");
            }
            for step in [Step::AliceNew, Step::BobNew] {
                renewed.say(&mut world, step);
            }
            world.advance(Duration::from_secs(40));
            for step in [Step::BobNew, Step::AliceNew] {
                renewed.say(&mut world, step);
            }
            assert_eq!(world.sizes().sessions, 2);
            world.close_all();
        }
    }
}

// A11: a URI that lives longer than its successors belongs to the session until it expires, however many successors
// there were.
#[test]
fn uri_that_outlives_its_successors_stays_usable() {
    let mut settings = settings(1);
    settings.sessions.expires_min = 1;
    let mut world = World::with(settings);
    let pair = world.pair(0, 0);
    for n in 0..8 {
        let answer = world.auth_round(pair.alice, "alice", &pair.alice_uri, "Expires: 1\r\n");
        assert_eq!(answer.status(), 200, "number {n}");
        world.advance(Duration::from_secs(2));
    }
    deliver(&mut world, (pair.alice, pair.bob), &pair.to_bob, &pair.alice_uri);
    world.close_all();
}

// F5: two first messages that cross, each by another URI of alice's, bind one pair.
#[test]
fn first_messages_that_cross_by_different_uris_bind_one_pair() {
    for (a, b) in LAYOUTS {
        for (alices, bobs) in [(Step::AliceOld, Step::BobNew), (Step::AliceNew, Step::BobOld)] {
            let mut world = World::new(2);
            let pair = two_clients(&mut world, a, b);
            let new = renew(&mut world, pair.alice, "alice");
            let renewed = Renewed { pair, new };
            for step in [alices, bobs] {
                let (from, _, path, own) = renewed.way(step);
                world.send(from, Request::send(&path, own, "m1", b"hello").bytes());
            }
            world.run();
            for conn in [renewed.pair.alice, renewed.pair.bob] {
                let arrived: Vec<_> = world.take(conn).into_iter().filter(|frame| frame.is("SEND")).collect();
                assert_eq!(arrived.len(), 1);
                world.send(conn, arrived[0].response(200));
            }
            world.run();
            for step in STEPS {
                renewed.say(&mut world, step);
            }
            world.close_all();
        }
    }
}

// F5: a third party that learns the new URI gets no further with it than with the old one.
#[test]
fn third_party_with_the_new_uri_gets_506() {
    for (a, b) in LAYOUTS {
        let mut world = World::new(2);
        let pair = two_clients(&mut world, a, b);
        let mut renewed = Renewed { new: String::new(), pair };
        renewed.say(&mut world, Step::AliceOld);
        renewed.new = renew(&mut world, renewed.pair.alice, "alice");
        let thief = world.connect(b);
        let own = world.end(thief).uri.clone();
        let path = format!("{} {}", renewed.new, renewed.pair.alice_uri);
        world.send(thief, Request::send(&path, &own, "m3", b"mine").bytes());
        assert_eq!(world.take_one(thief).status(), 506);
        renewed.say(&mut world, Step::BobNew);
        renewed.say(&mut world, Step::AliceNew);
    }
}

// RFC 4975, 14.1: the session-id of one URI does not open the session by itself: the rest must match, too.
#[test]
fn uri_that_shares_only_the_beginning_with_a_live_one_gets_481() {
    let mut world = World::new(1);
    let (bob, session) = world.client(0, "bob");
    let to = world.end(bob).uri.clone();
    let foreign = world.connect(0);
    let own = world.end(foreign).uri.clone();
    let end = session.rfind(";tcp").unwrap();
    let last = if &session[end - 1..end] == "A" { "B" } else { "A" };
    let forged = format!("{}{last};tcp", &session[..end - 1]);
    world.send(foreign, Request::send(&format!("{forged} {to}"), &own, "m4", b"guess").bytes());
    assert_eq!(world.take_one(foreign).status(), 481);
    assert!(world.take(bob).is_empty());
}

// A11: either URI is prolonged by an AUTH to it, and lives or ends by itself.
#[test]
fn auth_to_one_of_two_uris_prolongs_that_one() {
    let mut world = World::new(1);
    let pair = two_clients(&mut world, 0, 0);
    let new = renew(&mut world, pair.alice, "alice");
    let mut renewed = Renewed { pair, new };
    renewed.say(&mut world, Step::AliceOld);
    let (alice, own) = (renewed.pair.alice, renewed.pair.alice_uri.clone());
    let answer = world.auth_to(alice, "alice", (&renewed.pair.alice_session, &own), "Expires: 3000\r\n");
    assert_eq!(answer.header("Use-Path").as_deref(), Some(&*renewed.pair.alice_session));
    world.advance(Duration::from_secs(601));
    renewed.say(&mut world, Step::AliceOld);
    renewed.say(&mut world, Step::BobOld);
    // The new one has expired by now: there is room for another.
    renewed.new = renew(&mut world, alice, "alice");
    for step in STEPS {
        renewed.say(&mut world, step);
    }
}

// A11, F5: alice is behind this relay; bob, who has none, is dialled or comes himself.
#[test]
fn far_end_without_a_relay_reaches_the_new_uri_by_its_own_connection() {
    for dialled in [true, false] {
        for order in
            [[Step::AliceNew, Step::BobNew], [Step::BobNew, Step::AliceNew], [Step::BobOld, Step::AliceNew]]
        {
            let mut world = World::new(1);
            let (alice, old) = world.client(0, "alice");
            let own = world.end(alice).uri.clone();
            let (bob, bob_uri) = match dialled {
                true => {
                    let far = "msrps://203.0.113.40:49300/p8Yc2nB6vH1xLk;tcp".to_owned();
                    world.send(alice, Request::bodiless(&format!("{old} {far}"), &own, "m0").bytes());
                    world.run();
                    (world.dialled[0].1, far)
                }
                false => {
                    let bob = world.connect(0);
                    let bob_uri = world.end(bob).uri.clone();
                    world.send(bob, Request::bodiless(&format!("{old} {own}"), &bob_uri, "m0").bytes());
                    world.run();
                    (bob, bob_uri)
                }
            };
            for conn in [alice, bob] {
                for frame in world.take(conn).into_iter().filter(|frame| frame.is("SEND")) {
                    world.send(conn, frame.response(200));
                }
            }
            world.run();
            let new = renew(&mut world, alice, "alice");
            for step in order.into_iter().chain([Step::BobOld, Step::AliceOld]) {
                let session = if matches!(step, Step::AliceOld | Step::BobOld) { &old } else { &new };
                match step {
                    Step::AliceOld | Step::AliceNew => {
                        deliver(&mut world, (alice, bob), &format!("{session} {bob_uri}"), &own);
                    }
                    Step::BobOld | Step::BobNew => {
                        deliver(&mut world, (bob, alice), &format!("{session} {own}"), &bob_uri);
                    }
                }
            }
        }
    }
}

// A10, A11, A16: wren is behind another relay, and has replaced her URI there. That relay knows who she is; by the
// bound connection both URIs are the same.
#[test]
fn far_end_behind_another_relay_may_replace_its_uri_there() {
    let renewed_there = "msrps://inner.example.net:2855/another1another2;tcp";
    for outward_first in [true, false] {
        let mut world = World::new(1);
        let (bob, bobs) = world.client(0, "bob");
        let bob_uri = world.end(bob).uri.clone();
        let conn = relay(&mut world, 0, OTHER);
        deliver(&mut world, (conn, bob), &format!("{bobs} {bob_uri}"), &back_to_wren());
        let outward = format!("{bobs} {renewed_there} {WREN}");
        let from = format!("{renewed_there} {WREN}");
        let ways = if outward_first { [true, false] } else { [false, true] };
        for outward_now in ways {
            if outward_now {
                deliver(&mut world, (bob, conn), &outward, &bob_uri);
            } else {
                deliver(&mut world, (conn, bob), &format!("{bobs} {bob_uri}"), &from);
            }
        }
        // The old one is still the same session.
        deliver(&mut world, (bob, conn), &format!("{bobs} {WREN_THERE} {WREN}"), &bob_uri);
        // Another host is not.
        let elsewhere = format!("{bobs} msrps://elsewhere.example.net:2855/x1x2x3x4;tcp {WREN}");
        world.send(bob, Request::send(&elsewhere, &bob_uri, "m5", b"no").bytes());
        assert_eq!(world.take_one(bob).status(), 481);
        // The relay comes by another connection, with the last used URI; what goes back may use either.
        let second = relay(&mut world, 0, OTHER);
        let request = Request::send(&format!("{bobs} {bob_uri}"), &from, "m6", b"hello");
        world.send(second, request.bytes());
        world.run();
        assert_eq!(only(world.take(second), "200").status(), 200);
        assert_eq!(only(world.take(bob), "SEND").body, b"hello");
    }
}

// A10, A11: the client that renews is itself behind a relay that has proven its name.
#[test]
fn client_behind_a_relay_keeps_its_pair_when_it_renews() {
    for (a, b) in LAYOUTS {
        let mut world = World::new(2);
        let conn = relay(&mut world, a, OTHER);
        let old = session(&mut world, conn, "alice", &back_to_wren());
        let (bob, bobs) = world.client(b, "bob");
        let bob_uri = world.end(bob).uri.clone();
        let to_bob = |session: &str| format!("{session} {bobs} {bob_uri}");
        let to_wren = |session: &str| format!("{bobs} {session} {}", back_to_wren());
        deliver(&mut world, (conn, bob), &to_bob(&old), &back_to_wren());
        let new = session(&mut world, conn, "alice", &back_to_wren());
        assert_ne!(old, new);
        for session in [&new, &old, &new] {
            deliver(&mut world, (bob, conn), &to_wren(session), &bob_uri);
            deliver(&mut world, (conn, bob), &to_bob(session), &back_to_wren());
        }
        world.advance(Duration::from_secs(300));
        let third = Request::new("AUTH", &testkit_pure::relay_uri(), &back_to_wren()).bytes();
        world.send(conn, third);
        world.run();
        assert_eq!(world.take(conn).len(), 1);
    }
}
