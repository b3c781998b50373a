//! Relays that have proven their names, and the clients behind them (RFC 4976, 5.1, 6.1, 6.3 and 9.2; reqs A9, A10, A13
//! to A16, S14). This relay is the outer one in the first half, the inner one in the second.
//!
//! Long because it is a list: each test stands alone, and all share the fixtures at the top.

use std::collections::HashSet;
use std::time::Duration;

use msrp_relay_core::{Input, ProvenNames, Settings, TableSizes};

use testkit_pure::endpoint::Answers;
use testkit_pure::frame::pattern;
use testkit_pure::line::{joined, only};
use testkit_pure::{
    Conn, Decision, Frame, PORT, REALM, Request, World, answer_challenge, relay_uri, settings,
};

/// The relay before or after this one.
pub(super) const OTHER: &str = "inner.example.net";
/// A URI of that relay, minted for Wren.
pub(super) const WREN_THERE: &str = "msrps://inner.example.net:2855/p8Yc2nB6vH1xLk;tcp";
/// Wren's own.
pub(super) const WREN: &str = "msrps://192.0.2.51:51344/wr3n;tcp";
const FINCH_THERE: &str = "msrps://inner.example.net:2855/Zx0Qm4Rt7Lw2Ks;tcp";
const FINCH: &str = "msrps://192.0.2.52:51345/f1nch;tcp";
pub(super) const FAR: &str = "msrps://203.0.113.40:49300/far;tcp";

pub(super) fn back_to_wren() -> String {
    format!("{WREN_THERE} {WREN}")
}

pub(super) fn back_to_finch() -> String {
    format!("{FINCH_THERE} {FINCH}")
}

/// A connection from a relay that has proven a name.
pub(super) fn relay(world: &mut World, core: usize, name: &str) -> Conn {
    let conn = world.connect(core);
    prove(world, conn, name);
    conn
}

fn prove(world: &mut World, conn: Conn, name: &str) {
    let (core, peer) = (world.link(conn).core, world.link(conn).key);
    let names = ProvenNames::new([name]).unwrap();
    world.input(core, Input::Identified { peer, names });
}

/// A session for a client behind a relay: its URI here.
pub(super) fn session(world: &mut World, conn: Conn, user: &str, back: &str) -> String {
    let answer = world.auth_round(conn, user, back, "");
    assert_eq!(answer.status(), 200, "{answer:?}");
    let use_path = answer.header("Use-Path").unwrap();
    let there = back.split(' ').next().unwrap();
    assert_eq!(use_path.split(' ').count(), 2);
    assert!(use_path.starts_with(there), "{use_path}");
    use_path.split(' ').next_back().unwrap().to_owned()
}

/// Nothing is left once all connections are closed and the sessions have expired.
fn end(world: &mut World) {
    for _ in 0..2 {
        for conn in world.conns() {
            world.lose(conn);
        }
        world.run();
        world.advance(Duration::from_secs(640));
    }
    world.assert_idle();
    assert_eq!(world.sizes(), TableSizes::default());
}

pub(super) fn said(frame: &Frame) -> String {
    String::from_utf8(frame.body.clone()).unwrap()
}

pub(super) fn auth(from: &str) -> Vec<u8> {
    Request::new("AUTH", &relay_uri(), from).bytes()
}

/// From the first round to the second, with a password of the test's choice.
pub(super) fn attempt(world: &mut World, conn: Conn, user: &str, password: &str, back: &str) -> Frame {
    world.send(conn, auth(back));
    let challenge = world.take_one(conn);
    if challenge.status() != 401 {
        return challenge;
    }
    let answer = answer_challenge(&challenge, user, password, &relay_uri(), 1);
    let again = Request::new("AUTH", &relay_uri(), back).header("Authorization", &answer);
    world.send(conn, again.bytes());
    world.take_one(conn)
}

// -- the outer relay: AUTH that comes through another one ---------------------------------------

// A9, A10, A15: the way back is From-Path; Use-Path is in the order in which the client uses it; the answer goes the whole
// way back.
#[test]
fn client_behind_a_relay_gets_a_session_with_the_whole_path() {
    let mut world = World::new(1);
    let conn = relay(&mut world, 0, OTHER);
    let second = "msrps://middle.example.net:2855/aaaaaaaaaaaa;tcp";
    prove(&mut world, conn, "middle.example.net");
    let back = format!("{second} {WREN_THERE} {WREN}");
    let answer = world.auth_round(conn, "alice", &back, "");
    assert_eq!((answer.status(), answer.to_path()), (200, back));
    assert_eq!(answer.from_path(), relay_uri());
    let use_path = answer.header("Use-Path").unwrap();
    assert!(use_path.starts_with(&format!("{WREN_THERE} {second} msrps://")), "{use_path}");
    assert_eq!(answer.header("Expires").unwrap(), "600");
    assert!(answer.header("Authentication-Info").unwrap().contains("rspauth"));
}

// A14: a certificate of another name than the host of the first From-Path URI.
#[test]
fn relay_of_another_name_gets_403_and_is_closed() {
    let mut world = World::new(1);
    let conn = relay(&mut world, 0, "another.example.org");
    world.send(conn, auth(&back_to_wren()));
    assert_eq!(world.take_one(conn).status(), 403);
    world.run();
    assert!(world.is_closed(conn));
}

// C3, A14: but not if the connection serves sessions of others.
#[test]
fn relay_of_another_name_is_not_closed_over_the_heads_of_its_sessions() {
    let mut world = World::new(1);
    let conn = relay(&mut world, 0, OTHER);
    session(&mut world, conn, "alice", &back_to_wren());
    world.send(conn, auth(&format!("msrps://another.example.org:2855/x;tcp {WREN}")));
    assert_eq!(world.take_one(conn).status(), 403);
    world.send(conn, Request::new("AUTH", "msrps://elsewhere.example.org;tcp", &back_to_finch()).bytes());
    world.run();
    assert!(!world.is_closed(conn));
    assert_eq!(world.sizes().sessions, 1);
}

// A14: the operator's list.
#[test]
fn relay_that_is_not_in_the_list_gets_403() {
    let admitted = |names: &[&str]| {
        let relays = Some(names.iter().map(|name| (*name).to_owned()).collect());
        let mut world = World::with(Settings { relays, ..settings(1) });
        let conn = relay(&mut world, 0, OTHER);
        attempt(&mut world, conn, "alice", "1234", &back_to_wren()).status()
    };
    assert_eq!(admitted(&["other.example.net"]), 403);
    assert_eq!(admitted(&["other.example.net", "Inner.Example.Net"]), 200);
    assert_eq!(admitted(&["*.example.net"]), 200);
    assert_eq!(admitted(&[]), 403);
}

// A path that returns to this relay is refused.
#[test]
fn auth_that_has_come_through_this_relay_before_gets_403() {
    let mut world = World::new(1);
    let conn = relay(&mut world, 0, OTHER);
    let (_, ours) = world.client(0, "alice");
    world.send(conn, auth(&format!("{WREN_THERE} {ours} {WREN}")));
    assert_eq!(world.take_one(conn).status(), 403);
}

// A13, S14: on one connection, no client waits for another's look-up and none pays for another's failures.
#[test]
fn clients_behind_one_relay_do_not_hold_up_each_other() {
    let mut world = World::new(1);
    let conn = relay(&mut world, 0, OTHER);
    world.look_up_decision = Decision::Hold;
    for (user, password, back) in [("alice", "1234", back_to_wren()), ("bob", "5678", back_to_finch())] {
        world.send(conn, auth(&back));
        let challenge = world.take_one(conn);
        let answer = answer_challenge(&challenge, user, password, &relay_uri(), 1);
        let again = Request::new("AUTH", &relay_uri(), &back).header("Authorization", &answer);
        world.send(conn, again.bytes());
        world.run();
    }
    assert_eq!(world.look_ups.len(), 2, "the second is asked for while the first waits");
    // The second to ask is the first to be answered.
    world.finish_look_up(1);
    world.run();
    let answer = world.take_one(conn);
    assert_eq!((answer.status(), answer.to_path()), (200, back_to_finch()));
    world.finish_look_up(0);
    world.run();
    let answer = world.take_one(conn);
    assert_eq!((answer.status(), answer.to_path()), (200, back_to_wren()));
}

#[test]
fn guesses_behind_a_relay_cost_the_guesser_alone() {
    let mut world = World::new(1);
    let conn = relay(&mut world, 0, OTHER);
    for _ in 0..3 {
        assert_eq!(attempt(&mut world, conn, "alice", "wrong", &back_to_wren()).status(), 401);
    }
    assert_eq!(attempt(&mut world, conn, "alice", "1234", &back_to_wren()).status(), 403, "it has to wait");
    assert_eq!(attempt(&mut world, conn, "bob", "5678", &back_to_finch()).status(), 200);
    world.advance(Duration::from_secs(301));
    assert_eq!(attempt(&mut world, conn, "alice", "1234", &back_to_wren()).status(), 200);
    assert!(!world.is_closed(conn));
}

// S14: before the password is proven, the turn is that of the address, or of the relay that has proven its name; never
// that of the named user.
#[test]
fn accounts_are_looked_up_in_the_turn_of_the_address_or_relay_that_asks() {
    let mut world = World::new(2);
    world.look_up_decision = Decision::Hold;
    let here = [0, 1].map(|core| world.connect(core));
    let there = world.try_connect(0, true, "192.0.2.9").unwrap();
    let behind = [0, 1].map(|core| relay(&mut world, core, OTHER));
    let elsewhere = relay(&mut world, 0, "other.example.net");
    let other_back = format!("msrps://other.example.net:2855/p8Yc2nB6vH1xLk;tcp {WREN}");
    let asked = [
        (here[0], "alice", WREN.to_owned()),
        (here[1], "bob", FINCH.to_owned()),
        (there, "alice", WREN.to_owned()),
        (behind[0], "alice", back_to_wren()),
        (behind[1], "bob", back_to_finch()),
        (elsewhere, "alice", other_back),
    ];
    let turns = asked.map(|(conn, user, from)| {
        world.send(conn, auth(&from));
        let challenge = world.take_one(conn);
        assert!(world.look_ups.is_empty(), "no look-up before the challenge is answered");
        let answer = answer_challenge(&challenge, user, "guess", &relay_uri(), 1);
        let again = Request::new("AUTH", &relay_uri(), &from).header("Authorization", &answer);
        world.send(conn, again.bytes());
        world.run();
        world.look_ups.pop().unwrap().who
    });
    assert_eq!((turns[0], turns[3]), (turns[1], turns[4]), "whichever user is named, on whatever core");
    let different = HashSet::from([turns[0], turns[2], turns[3], turns[5]]);
    assert_eq!(different.len(), 4, "{turns:?}");
}

// S3: a user's next hops wait in that user's turn; those of the same user behind a relay in the turn of the user there.
#[test]
fn next_hops_are_dialled_in_the_turn_of_the_user_behind_the_relay_if_there_is_one() {
    let mut world = World::new(2);
    world.dial_decision = Decision::Hold;
    let mut turns = Vec::new();
    for (core, user) in [(0, "alice"), (1, "alice"), (0, "bob")] {
        let (conn, session) = world.client(core, user);
        world.send(conn, Request::send(&format!("{session} {FAR}"), WREN, "hello", b"Hello").bytes());
        world.run();
        turns.push(world.dials.last().unwrap().who);
    }
    for (name, user, there) in
        [(OTHER, "alice", WREN_THERE), (OTHER, "bob", FINCH_THERE), ("o.example.net", "alice", "")]
    {
        let conn = relay(&mut world, 0, name);
        let there = if there.is_empty() { format!("msrps://{name}:2855/x1;tcp") } else { there.to_owned() };
        let back = format!("{there} {WREN}");
        let session = session(&mut world, conn, user, &back);
        world.send(conn, Request::send(&format!("{session} {FAR}"), &back, "hello", b"Hello").bytes());
        world.run();
        turns.push(world.dials.last().unwrap().who);
    }
    assert_eq!(world.dials.len(), 6);
    assert_eq!(turns[0], turns[1], "on whatever core");
    assert_eq!(turns.iter().collect::<HashSet<_>>().len(), 5, "{turns:?}");
}

// Many logins at once through a relay that has just connected are no reason to close it.
#[test]
fn challenges_for_many_clients_do_not_count_against_their_relay() {
    let mut world = World::new(1);
    let conn = relay(&mut world, 0, OTHER);
    for number in 0..40 {
        world.send(conn, auth(&format!("msrps://{OTHER}:2855/client{number};tcp {WREN}")));
        assert_eq!(world.take_one(conn).status(), 401);
    }
    assert!(!world.is_closed(conn));
}

/// A session of Wren's, behind a relay, and a stranger to whom she has written already.
pub(super) fn wren_and_far(world: &mut World, cores: [usize; 2]) -> (Conn, String, Conn) {
    let conn = relay(world, cores[0], OTHER);
    let wren = session(world, conn, "alice", &back_to_wren());
    let far = world.connect(cores[1]);
    world.end(conn).answers = Answers::Always(200);
    world.send(far, Request::send(&format!("{wren} {}", back_to_wren()), FAR, "hello", b"Hello").bytes());
    world.run();
    assert_eq!(only(world.take(far), "200").status(), 200);
    let frame = only(world.take(conn), "SEND");
    assert_eq!((frame.to_path(), said(&frame)), (back_to_wren(), "Hello".to_owned()));
    assert_eq!(frame.from_path(), format!("{wren} {FAR}"));
    (conn, wren, far)
}

// A10: both ways through the relay before this one.
#[test]
fn messages_pass_both_ways_through_the_relay_before() {
    for cores in [[0, 0], [0, 1], [1, 0]] {
        let mut world = World::new(2);
        let (conn, wren, far) = wren_and_far(&mut world, cores);
        world.send(conn, Request::send(&format!("{wren} {FAR}"), &back_to_wren(), "answer", b"Oh").bytes());
        world.run();
        assert_eq!(only(world.take(conn), "200").status(), 200);
        let frame = only(world.take(far), "SEND");
        assert_eq!(frame.from_path(), format!("{wren} {}", back_to_wren()));
        world.send(far, frame.response(200));
        end(&mut world);
    }
}

// A10: "valid to route across any connection the relay has to the previous hop relay".
#[test]
fn any_connection_with_the_relay_will_do_on_any_core() {
    for core in [0, 1, 2] {
        let mut world = World::new(3);
        let (_, wren, far) = wren_and_far(&mut world, [0, 2]);
        let another = relay(&mut world, core, OTHER);
        let body = pattern(100_000);
        world.send(another, Request::send(&format!("{wren} {FAR}"), &back_to_wren(), "file", &body).bytes());
        world.end(far).answers = Answers::Always(200);
        world.run();
        assert_eq!(only(world.take(another), "200").status(), 200, "core {core}");
        assert!(joined(&world.take(far)) == body);
        assert_eq!(world.sizes().bytes_queued, 0, "every byte is accounted for");
        end(&mut world);
    }
}

// A10, S4: the URI works for one client behind one relay.
#[test]
fn session_behind_a_relay_is_out_of_reach_for_everybody_else() {
    let mut world = World::new(1);
    let (conn, wren, _) = wren_and_far(&mut world, [0, 0]);
    let to = format!("{wren} {FAR}");
    // Another client of the same relay, who knows the URI.
    world.send(conn, Request::bodiless(&to, &back_to_finch(), "m1").bytes());
    assert_eq!(world.take_one(conn).status(), 481);
    // Another relay, which claims to be Wren's.
    let another = relay(&mut world, 0, "other.example.net");
    world.send(another, Request::bodiless(&to, &back_to_wren(), "m2").bytes());
    assert_eq!(world.take_one(another).status(), 481);
    // A peer without any proof, which claims the same.
    let unproven = world.connect(0);
    world.send(unproven, Request::bodiless(&to, &back_to_wren(), "m3").bytes());
    assert_eq!(world.take_one(unproven).status(), 481);
    // A path that does not come from her relay.
    world.send(unproven, Request::bodiless(&format!("{wren} {}", back_to_finch()), FAR, "m4").bytes());
    assert_eq!(world.take_one(unproven).status(), 481);
    assert!(world.dialled.is_empty());
}

// A10: without a connection to the relay, one is opened, to a host that must prove its name.
#[test]
fn lost_connection_with_the_relay_ends_no_session() {
    let mut world = World::new(2);
    let (conn, wren, far) = wren_and_far(&mut world, [0, 1]);
    world.hang_up(conn);
    world.run();
    assert_eq!(world.sizes().sessions, 1);
    world.send(
        far,
        Request::send(&format!("{wren} {}", back_to_wren()), FAR, "again", b"Still there?").bytes(),
    );
    world.run();
    let (target, back) = world.dialled[0].clone();
    assert!(target.relay && target.secure);
    assert_eq!((&*target.host, target.port), (OTHER, 2855));
    let frame = only(world.take(back), "SEND");
    assert_eq!((frame.to_path(), said(&frame)), (back_to_wren(), "Still there?".to_owned()));
    world.send(back, frame.response(200));
    // Wren answers by the connection that we opened: it leads to her relay.
    world.take(far);
    world.send(back, Request::send(&format!("{wren} {FAR}"), &back_to_wren(), "yes", b"Yes").bytes());
    world.run();
    assert_eq!(said(&only(world.take(far), "SEND")), "Yes");
    world.end(far).answers = Answers::Always(200);
    end(&mut world);
}

// ... or the relay comes again by itself.
#[test]
fn relay_that_comes_again_goes_on_with_its_sessions() {
    let mut world = World::new(2);
    let (conn, wren, far) = wren_and_far(&mut world, [0, 0]);
    world.hang_up(conn);
    world.run();
    let again = relay(&mut world, 1, OTHER);
    world.send(again, Request::send(&format!("{wren} {FAR}"), &back_to_wren(), "back", b"Back").bytes());
    world.run();
    assert_eq!(said(&only(world.take(far), "SEND")), "Back");
    // From here on, requests reach her by this one.
    world.send(far, Request::send(&format!("{wren} {}", back_to_wren()), FAR, "good", b"Good").bytes());
    world.run();
    assert!(world.dialled.is_empty());
    let frames = world.take(again);
    assert!(frames.iter().any(|frame| frame.is("SEND") && said(frame) == "Good"), "{frames:?}");
    assert_eq!(world.sizes().bytes_queued, 0);
}

// A10: ... or it has another connection already. That one is found among all connections without a walk through them:
// when a relay goes, its sessions do this one after the other.
#[test]
fn another_connection_with_the_relay_is_found_without_a_look_at_every_connection() {
    let mut world = World::new(1);
    let others: Vec<Conn> = (0..100).map(|_| world.connect(0)).collect();
    let (conn, wren, far) = wren_and_far(&mut world, [0, 0]);
    let another = relay(&mut world, 0, "*.Example.NET");
    let of_a_third = relay(&mut world, 0, "inner.example.org");
    world.hang_up(conn);
    world.run();
    let before = world.relay(0).table_walks();
    let path = format!("{wren} {}", back_to_wren());
    world.send(far, Request::send(&path, FAR, "again", b"Still there?").bytes());
    world.run();
    let frame = only(world.take(another), "SEND");
    assert_eq!((frame.to_path(), said(&frame)), (back_to_wren(), "Still there?".to_owned()));
    assert!(world.dialled.is_empty());
    assert_eq!(world.relay(0).table_walks(), before);
    // One that is going does not count as one that is there.
    world.send(another, frame.response(200));
    world.hang_up(another);
    world.run();
    world.send(far, Request::send(&path, FAR, "once-more", b"And now?").bytes());
    world.run();
    assert_eq!(world.dialled.len(), 1, "the third relay is another one");
    assert_eq!(world.sizes().relays, 2, "the third one, and the one that was called");
    assert_eq!(world.relay(0).table_walks(), before);
    for conn in others.into_iter().chain([of_a_third]) {
        world.hang_up(conn);
    }
    let (_, back) = world.dialled[0].clone();
    world.end(back).answers = Answers::Always(200);
    end(&mut world);
}

// A10: a client behind a relay has no connection with us that could end: its Expires counts.
#[test]
fn session_behind_a_relay_ends_when_it_was_said_to() {
    let mut world = World::new(1);
    let (conn, wren, far) = wren_and_far(&mut world, [0, 0]);
    world.advance(Duration::from_secs(601));
    let to = format!("{wren} {}", back_to_wren());
    world.send(far, Request::bodiless(&to, FAR, "late").bytes());
    assert_eq!(world.take_one(far).status(), 481);
    assert_eq!(world.sizes().sessions, 1, "what is under way may be reported");
    world.advance(Duration::from_secs(31));
    assert_eq!(world.sizes().sessions, 0);
    assert!(!world.is_closed(conn));
}

// A11: a second URI for the same client; a third is one too many.
#[test]
fn client_behind_a_relay_may_replace_its_uri() {
    let mut world = World::new(1);
    let conn = relay(&mut world, 0, OTHER);
    let first = session(&mut world, conn, "alice", &back_to_wren());
    assert_ne!(first, session(&mut world, conn, "alice", &back_to_wren()));
    assert_eq!(attempt(&mut world, conn, "alice", "1234", &back_to_wren()).status(), 403);
    assert_eq!(attempt(&mut world, conn, "bob", "5678", &back_to_wren()).status(), 403, "of another user");
    // AUTH to the live URI prolongs it.
    world.advance(Duration::from_secs(500));
    assert_eq!(world.auth_to(conn, "alice", (&first, &back_to_wren()), "").status(), 200);
    world.advance(Duration::from_secs(500));
    assert_eq!(world.sizes().sessions, 1);
}

// S10: sessions behind a relay count among their user's, and their places come back.
#[test]
fn sessions_behind_a_relay_count_among_their_users() {
    let mut settings = settings(2);
    settings.limits.sessions_per_user_max = 1;
    let mut world = World::with(settings);
    let conn = relay(&mut world, 0, OTHER);
    session(&mut world, conn, "alice", &back_to_wren());
    assert_eq!(attempt(&mut world, conn, "alice", "1234", &back_to_finch()).status(), 403);
    let own = world.connect(1);
    assert_eq!(world.auth_round(own, "alice", "msrps://192.0.2.9:9/a;tcp", "").status(), 403);
    world.advance(Duration::from_secs(631));
    assert_eq!(attempt(&mut world, conn, "alice", "1234", &back_to_finch()).status(), 200);
}

// S14: one client's receiver that takes nothing does not stop the others behind the same relay.
#[test]
fn slow_receiver_of_one_client_does_not_stop_the_others_behind_its_relay() {
    for far_core in [0, 1] {
        let mut world = World::new(2);
        let conn = relay(&mut world, 0, OTHER);
        let wren = session(&mut world, conn, "alice", &back_to_wren());
        let finch = session(&mut world, conn, "bob", &back_to_finch());
        let (slow, quick) = (world.connect(far_core), world.connect(far_core));
        let (slow_uri, quick_uri) = ("msrps://203.0.113.40:1/slow;tcp", "msrps://203.0.113.40:1/quick;tcp");
        for (far, uri, to) in [
            (slow, slow_uri, format!("{wren} {}", back_to_wren())),
            (quick, quick_uri, format!("{finch} {}", back_to_finch())),
        ] {
            world.send(far, Request::bodiless(&to, uri, "first").bytes());
            world.run();
            let frame = only(world.take(conn), "SEND");
            world.send(conn, frame.response(200));
            world.take(far);
        }
        world.link_mut(slow).stalled = true;
        world.end(quick).answers = Answers::Always(200);
        let much = pattern(2 << 20);
        world
            .send(conn, Request::send(&format!("{wren} {slow_uri}"), &back_to_wren(), "much", &much).bytes());
        let little = Request::send(&format!("{finch} {quick_uri}"), &back_to_finch(), "little", b"Quick");
        world.send(conn, little.bytes());
        world.run();
        assert!(world.take(quick).is_empty(), "it stands behind what is not taken");
        for _ in 0..4 {
            world.advance(Duration::from_secs(5));
            world.run();
        }
        let frames = world.take(quick);
        assert!(frames.iter().any(|frame| frame.is("SEND") && said(frame) == "Quick"), "{frames:?}");
        let told = world.take(conn);
        assert!(told.iter().any(|frame| frame.status() == 413), "the sender of too much is told: {told:?}");
    }
}

// -- the inner relay: AUTH for another one -------------------------------------------------------

pub(super) const AHEAD: &str = "msrps://outer.example.org:2855;tcp";
pub(super) const THERE: &str = "msrps://outer.example.org:2855/Gm4yTq81nZc0;tcp";

/// A client of ours that asks for a session at another relay: its connection, its URI here, and the connection with the
/// other relay.
fn ask_outer_relay(world: &mut World) -> (Conn, String, Conn, Frame) {
    let (wren, session) = world.client(0, "alice");
    let uri = world.end(wren).uri.clone();
    world.send(wren, Request::new("AUTH", &format!("{session} {AHEAD}"), &uri).bytes());
    world.run();
    let (target, outer) = world.dialled[0].clone();
    assert!(target.relay && target.secure, "credentials are for a host that proves its name");
    assert_eq!((&*target.host, target.port), ("outer.example.org", 2855));
    let frame = only(world.take(outer), "AUTH");
    assert_eq!((frame.to_path(), frame.from_path()), (AHEAD.to_owned(), format!("{session} {uri}")));
    (wren, session, outer, frame)
}

fn challenge_from_outer_relay(request: &Frame, more: &str) -> Vec<u8> {
    let tid = request.tid();
    let (to, from) = (request.from_path(), request.to_path());
    format!(
        "MSRP {tid} 401 Unauthorized\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n\
         WWW-Authenticate: Digest realm=\"x\", nonce=\"sha\", qop=\"auth\", algorithm=SHA-256{more}\r\n\
         WWW-Authenticate: Digest realm=\"x\", nonce=\"md5\", qop=\"auth\", algorithm=MD5{more}\r\n-------{tid}$\r\n"
    )
    .into_bytes()
}

fn granted_ahead(request: &Frame, session: &str) -> Vec<u8> {
    let tid = request.tid();
    let (to, from) = (request.from_path(), request.to_path());
    format!(
        "MSRP {tid} 200 OK\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\nUse-Path: {session} {THERE}\r\nExpires: 1200\r\n\
         Authentication-Info: nextnonce=\"n\", rspauth=\"r\"\r\n-------{tid}$\r\n"
    )
    .into_bytes()
}

// A16: the answer goes back end to end, every header of it; the next round goes the same way.
#[test]
fn auth_for_a_relay_further_on_and_its_answers_pass_untouched() {
    let mut world = World::new(1);
    let (wren, session, outer, request) = ask_outer_relay(&mut world);
    let uri = world.end(wren).uri.clone();
    world.send(outer, challenge_from_outer_relay(&request, ""));
    world.run();
    let answer = only(world.take(wren), "401");
    assert_eq!((answer.to_path(), answer.from_path()), (uri.clone(), format!("{session} {AHEAD}")));
    let text = String::from_utf8(answer.bytes).unwrap();
    let challenges: Vec<&str> = text.lines().filter(|line| line.starts_with("WWW-Authenticate: ")).collect();
    assert_eq!(challenges.len(), 2, "{text}");
    assert!(challenges[0].contains("SHA-256") && challenges[1].contains("algorithm=MD5"), "{text}");

    let credentials = "Digest username=\"w\", realm=\"x\", nonce=\"md5\", qop=auth, nc=00000001, cnonce=\"c\", response=\"00000000000000000000000000000000\"";
    let again = Request::new("AUTH", &format!("{session} {AHEAD}"), &uri)
        .header("Authorization", credentials)
        .header("Expires", "1200");
    world.send(wren, again.bytes());
    world.run();
    let request = only(world.take(outer), "AUTH");
    assert_eq!(request.header("Authorization").unwrap(), credentials);
    assert_eq!(request.header("Expires").unwrap(), "1200");
    world.send(outer, granted_ahead(&request, &session));
    world.run();
    let answer = only(world.take(wren), "200");
    assert_eq!(answer.header("Use-Path").unwrap(), format!("{session} {THERE}"));
    assert_eq!(answer.header("Authentication-Info").unwrap(), "nextnonce=\"n\", rspauth=\"r\"");
    assert_eq!(answer.header("Expires").unwrap(), "1200");
    assert_eq!(world.dialled.len(), 1, "one connection for both rounds");
}

// C6, A16: requests through the asked relay use the same connection, and so do those from there.
#[test]
fn messages_through_the_relay_that_was_asked_go_by_the_same_connection() {
    for she_begins in [true, false] {
        let mut world = World::new(1);
        let (wren, session, outer, request) = ask_outer_relay(&mut world);
        let uri = world.end(wren).uri.clone();
        world.send(outer, granted_ahead(&request, &session));
        world.run();
        world.take(wren);
        world.end(outer).answers = Answers::Always(200);
        world.end(wren).answers = Answers::Always(200);
        let outward = Request::send(&format!("{session} {THERE} {FAR}"), &uri, "m1", b"There").bytes();
        let inward =
            Request::send(&format!("{session} {uri}"), &format!("{THERE} {FAR}"), "m2", b"Here").bytes();
        for outward_now in [she_begins, !she_begins] {
            match outward_now {
                true => world.send(wren, &outward),
                false => world.send(outer, &inward),
            }
            world.run();
        }
        let text = |frames: Vec<Frame>| frames.iter().find(|f| f.is("SEND")).map(said);
        assert_eq!(text(world.take(outer)).as_deref(), Some("There"));
        assert_eq!(text(world.take(wren)).as_deref(), Some("Here"));
        assert_eq!(world.dialled.len(), 1);
        world.hang_up(wren);
        world.run();
        assert!(world.is_closed(outer), "it has no use any more");
        world.assert_idle();
    }
}

// A16: an outer relay that cannot be connected to, or does not answer, is a 408 to the AUTH; then another may be asked.
#[test]
fn outer_relay_that_cannot_be_had_is_408_and_another_may_be_asked() {
    let mut world = World::new(1);
    let (wren, session) = world.client(0, "alice");
    let uri = world.end(wren).uri.clone();
    world.dial_decision = Decision::Fail;
    world.send(wren, Request::new("AUTH", &format!("{session} {AHEAD}"), &uri).bytes());
    assert_eq!(world.take_one(wren).status(), 408);
    world.dial_decision = Decision::Now;
    let other = "msrps://second.example.org:2855;tcp";
    world.send(wren, Request::new("AUTH", &format!("{session} {other}"), &uri).bytes());
    world.run();
    assert_eq!(world.dialled[0].0.host, "second.example.org");
    world.advance(Duration::from_secs(31));
    world.run();
    assert_eq!(world.take_one(wren).status(), 408);
    // A third one, though the second is still connected: the second is released.
    world.send(wren, Request::new("AUTH", &format!("{session} {AHEAD}"), &uri).bytes());
    world.run();
    let (second, third) = (world.dialled[0].1, world.dialled[1].1);
    assert!(world.is_closed(second) && !world.is_closed(third));
    assert_eq!(only(world.take(third), "AUTH").to_path(), AHEAD);
}

// A14: an outer relay that the operator's list excludes is never called.
#[test]
fn outer_relay_that_is_not_in_the_list_is_408_and_not_called() {
    let relays = Some(vec!["trusted.example.org".to_owned()]);
    let mut world = World::with(Settings { relays, ..settings(1) });
    let (wren, session) = world.client(0, "alice");
    let uri = world.end(wren).uri.clone();
    world.send(wren, Request::new("AUTH", &format!("{session} {AHEAD}"), &uri).bytes());
    assert_eq!(world.take_one(wren).status(), 408);
    world.send(wren, Request::bodiless(&format!("{session} {THERE} {FAR}"), &uri, "m").bytes());
    assert_eq!(world.take_one(wren).status(), 408);
    assert!(world.dialled.is_empty() && world.dials.is_empty());
    // The last hop is an endpoint: the list does not concern endpoints.
    world.send(wren, Request::bodiless(&format!("{session} {FAR}"), &uri, "m").bytes());
    world.run();
    assert_eq!(world.dialled.len(), 1);
}

// A13: guesses at another relay's passwords, through this one.
#[test]
fn failed_auths_through_this_relay_close_the_guesser() {
    let credentials = "Digest username=\"w\", realm=\"x\", nonce=\"md5\", qop=auth, nc=00000001, cnonce=\"c\", response=\"00000000000000000000000000000000\"";
    let guesses = |stale: &str| {
        let mut world = World::new(1);
        let (wren, session, outer, request) = ask_outer_relay(&mut world);
        let uri = world.end(wren).uri.clone();
        // The first AUTH has no credentials, so it is no guess.
        world.send(outer, challenge_from_outer_relay(&request, ""));
        world.run();
        world.take(wren);
        for guess in 1..=5 {
            let again = Request::new("AUTH", &format!("{session} {AHEAD}"), &uri)
                .header("Authorization", credentials);
            world.send(wren, again.bytes());
            world.run();
            let request = only(world.take(outer), "AUTH");
            world.send(outer, challenge_from_outer_relay(&request, stale));
            world.run();
            assert_eq!(only(world.take(wren), "401").status(), 401, "the last one is answered, too");
            if world.is_closed(wren) {
                return guess;
            }
        }
        0
    };
    assert_eq!(guesses(""), 3);
    assert_eq!(guesses(", stale=TRUE"), 0);
}

// Credentials that wait for a relay's proof of its name never go to a peer that only claims to be that relay.
#[test]
fn waiting_credentials_are_not_taken_over_by_a_stranger() {
    let mut world = World::new(1);
    let (wren, session) = world.client(0, "alice");
    let uri = world.end(wren).uri.clone();
    world.dial_decision = Decision::Hold;
    world.send(wren, Request::new("AUTH", &format!("{session} {AHEAD}"), &uri).bytes());
    world.send(wren, Request::bodiless(&format!("{session} {THERE} {FAR}"), &uri, "m1").bytes());
    world.run();
    let stranger = world.connect(0);
    world.send(
        stranger,
        Request::bodiless(&format!("{session} {uri}"), &format!("{THERE} {FAR}"), "m2").bytes(),
    );
    world.run();
    // It may be that relay nevertheless: its requests are heard, and what waits for proof stays.
    let codes: Vec<String> = world.take(stranger).iter().map(|frame| frame.method().to_owned()).collect();
    assert_eq!(codes, ["200"]);
}

// A path that leads back through the same session.
#[test]
fn auth_to_this_relay_through_itself_is_refused() {
    // By our own name; a domain's name may lead anywhere, which the runtime finds out.
    for (to, code) in [(format!("msrps://relay.example.com:{PORT};tcp"), Some(481)), (relay_uri(), None)] {
        let mut world = World::new(1);
        let (wren, session) = world.client(0, "alice");
        let uri = world.end(wren).uri.clone();
        world.send(wren, Request::new("AUTH", &format!("{session} {to}"), &uri).bytes());
        world.run();
        let codes: Vec<u16> = world.take(wren).iter().map(Frame::status).collect();
        assert_eq!(codes.first().copied(), code, "{to}");
        assert!(world.dialled.iter().all(|(target, _)| target.host == REALM), "{:?}", world.dialled);
    }
}

// -- foreign relays ------------------------------------------------------------------------------

// F5: "bind U's outer side to the verified peer-relay identity".
#[test]
fn foreign_relay_that_has_proven_its_name_is_the_same_on_another_connection() {
    let mut world = World::new(2);
    let (bob, session) = world.client(0, "bob");
    let uri = world.end(bob).uri.clone();
    let to = format!("{session} {uri}");
    let from = format!("{WREN_THERE} {WREN}");
    world.end(bob).answers = Answers::Always(200);
    let first = relay(&mut world, 0, OTHER);
    world.send(first, Request::send(&to, &from, "m1", b"1").bytes());
    world.run();
    // By a second connection while the first is up; on another core.
    let second = relay(&mut world, 1, OTHER);
    world.send(second, Request::send(&to, &from, "m2", b"2").bytes());
    world.run();
    assert_eq!(only(world.take(second), "200").status(), 200);
    // A third one, without proof.
    let third = world.connect(0);
    world.send(third, Request::send(&to, &from, "m3", b"3").bytes());
    world.run();
    assert_eq!(only(world.take(third), "506").status(), 506);
    // When the first is gone, bob's messages go by the second.
    world.hang_up(first);
    world.run();
    world.send(bob, Request::send(&format!("{session} {from}"), &uri, "m7", b"7").bytes());
    world.run();
    assert_eq!(said(&only(world.take(second), "SEND")), "7");
    world.hang_up(second);
    world.run();
    let fourth = world.connect(1);
    world.send(fourth, Request::send(&to, &from, "m4", b"4").bytes());
    assert_eq!(world.take_one(fourth).status(), 481);
    let fifth = relay(&mut world, 1, OTHER);
    world.send(fifth, Request::send(&to, &from, "m5", b"5").bytes());
    world.run();
    assert_eq!(only(world.take(fifth), "200").status(), 200);
    let texts: Vec<String> = world.take(bob).iter().filter(|f| f.is("SEND")).map(said).collect();
    assert_eq!(texts, ["1", "2", "5"]);
    // Bob's messages go by the existing one.
    world.send(bob, Request::send(&format!("{session} {from}"), &uri, "m6", b"6").bytes());
    world.run();
    assert_eq!(said(&only(world.take(fifth), "SEND")), "6");
    assert_eq!(world.sizes().bytes_queued, 0);
}

// A14, C1: an operator may insist that relays prove their names; endpoints are endpoints.
#[test]
fn requests_through_a_relay_without_proof_are_403_where_the_operator_insists() {
    let sent = |must_prove: bool, name: Option<&str>, from: &str| {
        let mut world = World::with(Settings { unproven_relays_refused: must_prove, ..settings(1) });
        let (bob, session) = world.client(0, "bob");
        let uri = world.end(bob).uri.clone();
        let conn = world.connect(0);
        if let Some(name) = name {
            prove(&mut world, conn, name);
        }
        world.send(conn, Request::bodiless(&format!("{session} {uri}"), from, "m").bytes());
        world.take_one(conn).status()
    };
    assert_eq!(sent(false, None, &back_to_wren()), 200);
    assert_eq!(sent(true, None, &back_to_wren()), 403);
    assert_eq!(sent(true, Some("another.example.org"), &back_to_wren()), 403);
    assert_eq!(sent(true, Some(OTHER), &back_to_wren()), 200);
    assert_eq!(sent(true, None, FAR), 200);
}
