//! Two sessions on two cores come together on one when they bind: who moves, what moves along, who is told what, and what
//! happens if something else happens meanwhile. The simulator does all of it at every moment; these say what it comes to.

mod interleavings;

use std::time::Duration;

use msrp_relay_core::{Found, Input, Limits, Stats, Stay, home_of_prefix};

use testkit_pure::frame::pattern;
use testkit_pure::line::{Line, Shape, joined, line_in, only};
use testkit_pure::{Decision, Reader, Request, World, relay_uri, settings};

/// Alice on core 0, bob on core 1, in a world where pairs come together.
fn apart() -> Line {
    apart_in(World::new(2))
}

fn apart_in(world: World) -> Line {
    apart_by(world, [false, false])
}

/// The same, by WebSocket where they are pages.
fn apart_by(mut world: World, are_pages: [bool; 2]) -> Line {
    let mut client = |core: usize, user: &str| match are_pages[core] {
        true => world.web_client(core, user),
        false => world.client(core, user),
    };
    let (alice, bob) = (client(0, "alice"), client(1, "bob"));
    let pair = world.pair_of(alice, bob);
    let mut line = Line::of(world, pair);
    line.world.meets = true;
    line
}

/// Alice, bob or both are pages.
const WITH_PAGES: [[bool; 2]; 3] = [[true, false], [false, true], [true, true]];

fn send(line: &mut Line, id: &str, body: &[u8]) {
    let request = Request::send(&line.path, &line.from_uri, id, body);
    line.world.send(line.from, request.bytes());
}

fn stats(line: &mut Line, core: usize) -> Stats {
    *line.world.relay(core).stats()
}

/// What has arrived at both, which is all that was sent: each was answered.
fn arrived(line: &mut Line) -> Vec<u8> {
    line.world.run();
    let frames = line.world.take(line.to);
    for frame in &frames {
        line.world.send(line.to, frame.response(200));
    }
    line.world.assert_idle();
    joined(&frames)
}

// The first message moves its sender, whole; from then on nothing crosses cores, either way.
#[test]
fn the_sender_of_the_first_message_moves_to_its_receiver() {
    moves_to_its_receiver(apart());
}

// RFC 7977 changes nothing of that. What a page is sent are whole frames, wherever it is: the world looks at each.
#[test]
fn pages_come_together_with_pages_and_telephones() {
    for are_pages in WITH_PAGES {
        let mut settings = settings(2);
        settings.websocket.max_message = 16 << 10;
        moves_to_its_receiver(apart_by(World::with(settings), are_pages));
    }
}

fn moves_to_its_receiver(mut line: Line) {
    send(&mut line, "first", b"hello");
    assert_eq!(arrived(&mut line), b"hello");
    assert_eq!(only(line.world.take(line.from), "200").status(), 200);
    assert_eq!((line.world.link(line.from).core, line.world.link(line.to).core), (1, 1));
    let [left, came] = [0, 1].map(|core| stats(&mut line, core));
    assert_eq!((left.sessions_moved_out, came.sessions_moved_in), (1, 1));
    assert_eq!((left.sessions_open(), came.sessions_open()), (0, 2));
    assert_eq!((came.links_local, came.links_split + left.links_split), (1, 0));
    let before = left.messages_sent + came.messages_sent;
    for (size, back) in [(0, false), (70_000, false), (300, true), (70_000, true)] {
        let body = pattern(size);
        send(&mut line, "mess", &body);
        assert_eq!(arrived(&mut line), body);
        line.world.take(line.from);
        if back {
            line = line.reversed();
        }
    }
    let after = stats(&mut line, 0).messages_sent + stats(&mut line, 1).messages_sent;
    assert_eq!(after, before, "something crossed between the cores");
    assert_eq!(line.world.relay(0).table_sizes().moving, 1, "its home knows where it went");
    line.world.close_all();
}

// What was read behind the first head, and what comes while the connection is between two cores, arrives in order.
#[test]
fn requests_pipelined_behind_the_first_follow_it() {
    let mut line = apart();
    line.world.read_max = 700;
    line.world.hold_messages = true;
    let bodies: Vec<Vec<u8>> = [900, 0, 3000, 1].map(pattern).into();
    send(&mut line, "mess0", &bodies[0]);
    line.world.run();
    assert_eq!(line.world.link(line.from).reader, Reader::Parked);
    send(&mut line, "mess1", &bodies[1]);
    line.world.deliver((0, 1), usize::MAX);
    line.world.run();
    line.world.deliver((1, 0), usize::MAX);
    line.world.run();
    assert!(line.world.link(line.from).travels);
    send(&mut line, "mess2", &bodies[2]);
    line.world.run();
    line.world.hold_messages = false;
    send(&mut line, "mess3", &bodies[3]);
    line.world.run();
    let frames = line.world.take(line.to);
    for (number, body) in bodies.iter().enumerate() {
        let id = format!("mess{number}");
        let of_it: Vec<_> = frames.iter().filter(|frame| frame.message_id() == id).cloned().collect();
        assert_eq!(&joined(&of_it), body);
    }
    line.world.close_all();
}

// Bob answers while alice is on her way: what he says waits for her, and is hers first.
#[test]
fn what_the_host_sends_to_a_guest_on_its_way_waits_for_it() {
    for comes in [true, false] {
        let mut line = apart();
        line.world.hold_messages = true;
        send(&mut line, "first", b"hello");
        line.world.run();
        line.world.deliver((0, 1), usize::MAX);
        let body = pattern(9000);
        let request = Request::send(&line.back, &line.to_uri, "back", &body);
        line.world.send(line.to, request.bytes());
        line.world.run();
        assert!(line.world.take(line.from).is_empty());
        line.world.never_quiet = !comes;
        line.world.hold_messages = false;
        line.world.run();
        let frames: Vec<_> =
            line.world.take(line.from).into_iter().filter(|frame| frame.is("SEND")).collect();
        assert_eq!(joined(&frames), body, "{comes}");
        for frame in frames {
            line.world.send(line.from, frame.response(200));
        }
        assert_eq!(
            only(line.world.take(line.to).into_iter().filter(|f| f.is("SEND")).collect(), "SEND").body,
            b"hello"
        );
        line.world.assert_idle();
        let (split, moved) = (stats(&mut line, 0).links_split, stats(&mut line, 1).sessions_moved_in);
        assert_eq!((split, moved), if comes { (0, 1) } else { (1, 0) });
        line.world.close_all();
    }
}

// Both send first: the smaller id hosts, and only the other one moves.
#[test]
fn of_two_that_ask_for_each_other_one_moves() {
    let mut line = apart();
    line.world.hold_messages = true;
    send(&mut line, "there", b"from alice");
    let back = Request::send(&line.back, &line.to_uri, "back", b"from bob");
    line.world.send(line.to, back.bytes());
    line.world.run();
    let parked = [line.from, line.to].map(|conn| line.world.link(conn).reader);
    assert_eq!(parked, [Reader::Parked; 2]);
    line.world.hold_messages = false;
    line.world.run();
    let frames = |line: &mut Line, conn| -> Vec<_> {
        line.world.take(conn).into_iter().filter(|frame| frame.is("SEND")).collect()
    };
    let (to, from) = (line.to, line.from);
    assert_eq!(only(frames(&mut line, to), "SEND").body, b"from alice");
    assert_eq!(only(frames(&mut line, from), "SEND").body, b"from bob");
    // Core 0's id is the smaller one.
    assert_eq!((line.world.link(line.from).core, line.world.link(line.to).core), (0, 0));
    assert_eq!(stats(&mut line, 0).sessions_moved_in + stats(&mut line, 1).sessions_moved_in, 1);
    line.world.close_all();
}

// RFC 4975, 5.4: it is bound. The home forwards nothing, and knows a URI from its beginning.
#[test]
fn others_are_refused_at_the_home_of_a_session_that_has_moved() {
    for is_page in [false, true] {
        let mut line = apart_by(World::new(2), [is_page, false]);
        line.bind();
        let alice = line.path.split(' ').next().unwrap().to_owned();
        others_are_refused(line, &alice, is_page);
    }
}

fn others_are_refused(mut line: Line, alice: &str, is_page: bool) {
    let as_websocket = alice.replace(";tcp", ";ws");
    for core in [0, 1] {
        let thief = line.world.connect(core);
        let own = line.world.end(thief).uri.clone();
        let cases = [
            (format!("{alice} {}", line.from_uri), 506),
            // RFC 7977, 5.2.1: the other form of a page's URI, and of a telephone's another one.
            (format!("{as_websocket} {}", line.from_uri), if is_page { 506 } else { 481 }),
            (format!("{alice} {own}"), 481),
            (format!("{} {}", alice.replace(";tcp", "x;tcp"), line.from_uri), 481),
        ];
        for (to, code) in cases {
            let request = Request::send(&to, &own, "thief", b"stolen");
            line.world.send(thief, request.bytes());
            assert_eq!(line.world.take_one(thief).status(), code, "{to}");
        }
    }
    assert!(line.world.take(line.from).is_empty() && line.world.take(line.to).is_empty());
    line.world.lose(line.from);
    line.world.run();
    assert_eq!(line.world.relay(0).table_sizes().moving, 0, "its home forgets it with its end");
    line.world.close_all();
}

// The home answers for the URIs that the session has now: it is told of each change.
#[test]
fn the_home_of_a_session_that_has_moved_knows_its_further_uris() {
    let mut line = apart();
    let alice = line.path.split(' ').next().unwrap().to_owned();
    let uri = line.from_uri.clone();
    line.world.auth_to(line.from, "alice", (&alice, &uri), "Expires: 60\r\n");
    line.bind();
    let other = line.world.auth_to(line.from, "alice", (&relay_uri(), &uri), "").header("Use-Path").unwrap();
    let refusal = |line: &mut Line, session: &str| {
        let thief = line.world.connect(0);
        let (to, own) = (format!("{session} {uri}"), line.world.end(thief).uri.clone());
        line.world.send(thief, Request::send(&to, &own, "thief", b"stolen").bytes());
        line.world.take_one(thief).status()
    };
    assert_eq!([&alice, &other].map(|session| refusal(&mut line, session)), [506, 506]);
    // Its whole id, as it stands in the URI that it has now.
    let id = other.rsplit('/').next().unwrap().split(';').next().unwrap();
    assert!(matches!(line.world.relay(0).find_session(id), Found::Moved(core) if core.index == 1));
    // One that is prolonged lives on there, too; one that is not is over.
    line.world.advance(Duration::from_secs(30));
    line.world.auth_to(line.from, "alice", (&other, &line.from_uri.clone()), "Expires: 120\r\n");
    line.world.advance(Duration::from_secs(60));
    assert_eq!([&alice, &other].map(|session| refusal(&mut line, session)), [481, 506]);
    line.world.close_all();
}

// RFC 4976, 9.4: it is the same session, wherever it is.
#[test]
fn a_session_that_has_moved_is_prolonged_and_renewed() {
    for is_page in [false, true] {
        is_prolonged_and_renewed(apart_by(World::new(2), [is_page, false]));
    }
}

fn is_prolonged_and_renewed(mut line: Line) {
    line.bind();
    let alice = line.path.split(' ').next().unwrap().to_owned();
    let uri = line.from_uri.clone();
    let granted = line.world.auth_to(line.from, "alice", (&alice, &uri), "Expires: 120\r\n");
    assert_eq!(granted.header("Use-Path").as_deref(), Some(&*alice));
    let other = line.world.auth_to(line.from, "alice", (&relay_uri(), &uri), "").header("Use-Path").unwrap();
    assert_ne!(other, alice);
    line.path = line.path.replace(&alice, &other);
    send(&mut line, "mess", b"by the other URI");
    assert_eq!(arrived(&mut line), b"by the other URI");
    line.world.take(line.from);
    line.back = line.back.replace(&alice, &other);
    let mut line = line.reversed();
    send(&mut line, "back", b"and back");
    assert_eq!(arrived(&mut line), b"and back");
    line.world.close_all();
}

#[test]
fn an_operator_finds_a_session_where_it_has_moved_to() {
    let mut line = apart();
    line.bind();
    let id = line.path.split(' ').next().unwrap().rsplit('/').next().unwrap()[..10].to_owned();
    assert_eq!(home_of_prefix(&id), Some(0));
    let Found::Moved(core) = line.world.relay(0).find_session(&id) else {
        panic!("its home does not know where it is");
    };
    let Found::One(session) = line.world.relay(usize::from(core.index)).find_session(&id) else {
        panic!("it is not there");
    };
    let now = line.world.now;
    let view = line.world.relay(1).session_view(now, session).unwrap();
    assert_eq!((view.session, view.user), (id, "alice".to_owned()));
    line.world.input(1, Input::CloseSession(session));
    line.world.run();
    assert!(line.world.is_closed(line.from));
    line.world.close_all();
}

/// The path to a client that shares alice's WebSocket, and that client's URI.
fn carol(line: &mut Line) -> (String, String) {
    let own = "msrps://other.invalid:2855/other;ws".to_owned();
    (line.world.auth_as(line.from, "carol", &own), own)
}

/// Carol sends to a client on another core first: that reads it, and carol and alice are still where they were.
fn carol_stays(line: &mut Line, (session, own): (&str, &str), (core, other): (usize, usize)) {
    let (dave, to) = line.world.client(other, "bob");
    let path = format!("{session} {to} {}", line.world.end(dave).uri);
    line.world.send(line.from, Request::send(&path, own, "carol", b"from carol").bytes());
    line.world.run();
    let frame = only(line.world.take(dave), "SEND");
    assert_eq!(frame.body, b"from carol");
    line.world.send(dave, frame.response(200));
    line.world.run();
    line.world.take(line.from);
    assert_eq!([line.from, dave].map(|conn| line.world.link(conn).core), [core, other]);
    assert_eq!(stats(line, other).links_split + stats(line, core).links_split, 1);
}

// T4: several clients may share a WebSocket. Those that come when it has moved are at home where it is, and from then on
// it stays.
#[test]
fn further_clients_may_come_by_a_websocket_that_has_moved() {
    for limit in [0, 2] {
        let mut settings = settings(2);
        settings.limits.sessions_per_user_max = limit;
        let mut line = apart_by(World::with(settings), [true, true]);
        line.bind();
        assert_eq!(line.world.link(line.from).core, 1);
        let (session, own) = carol(&mut line);
        carol_stays(&mut line, (&session, &own), (1, 0));
        send(&mut line, "mess", b"from alice");
        assert_eq!(arrived(&mut line), b"from alice");
        line.world.take(line.from);
        assert_eq!(stats(&mut line, 1).sessions_moved_in, 1);
        // Each renews its own.
        for (user, uri) in [("alice", line.from_uri.clone()), ("carol", own)] {
            let granted = line.world.auth_to(line.from, user, (&relay_uri(), &uri), "");
            assert_eq!(granted.status(), 200, "{granted:?}");
        }
        assert_eq!(line.world.relay(1).stats().sessions_open(), 3);
        line.world.close_all();
    }
}

#[test]
fn a_websocket_with_two_sessions_stays() {
    let mut line = apart_by(World::new(2), [true, true]);
    let (session, own) = carol(&mut line);
    carol_stays(&mut line, (&session, &own), (0, 1));
    send(&mut line, "mess", b"from alice");
    assert_eq!(arrived(&mut line), b"from alice");
    assert_eq!(line.world.link(line.from).core, 0);
    // The other one comes to it.
    let mut phone = apart_by(World::new(2), [true, false]);
    let (session, own) = carol(&mut phone);
    let mut phone = phone.reversed();
    phone.path = format!("{} {session} {own}", phone.path.split(' ').next().unwrap());
    send(&mut phone, "mess", b"to carol");
    assert_eq!(arrived(&mut phone), b"to carol");
    assert_eq!(phone.world.link(phone.from).core, 0);
    line.world.close_all();
    phone.world.close_all();
}

// What the accounts answer finds the connection where it was.
#[test]
fn a_websocket_stays_while_another_client_is_looked_up() {
    let mut line = apart_by(World::new(2), [true, true]);
    let own = "msrps://other.invalid:2855/other;ws";
    line.world.send(line.from, Request::new("AUTH", &relay_uri(), own).bytes());
    let challenge = line.world.take_one(line.from);
    let value = testkit_pure::answer_challenge(&challenge, "carol", "9abc", &relay_uri(), 1);
    line.world.look_up_decision = Decision::Hold;
    let auth = Request::new("AUTH", &relay_uri(), own).header("Authorization", &value);
    line.world.send(line.from, auth.bytes());
    send(&mut line, "mess", b"hello");
    assert_eq!(arrived(&mut line), b"hello");
    assert_eq!(only(line.world.take(line.from), "200").status(), 200);
    assert_eq!(stats(&mut line, 0).sessions_stayed[Stay::Busy as usize], 1);
    line.world.finish_look_up(0);
    let granted = line.world.take_one(line.from);
    assert_eq!((granted.status(), granted.tid()), (200, auth.tid.as_str()));
    line.world.close_all();
}

// One of two is over: where users are counted, the other counts by itself, and stays. Where they are not, it may go.
#[test]
fn the_last_of_several_sessions_on_a_websocket_is_counted_as_before() {
    for limit in [0, 1] {
        let mut settings = settings(2);
        settings.limits.sessions_per_user_max = limit;
        let mut line = apart_by(World::with(settings), [true, false]);
        let (session, own) = carol(&mut line);
        let alice = line.path.split(' ').next().unwrap().to_owned();
        let uri = line.from_uri.clone();
        line.world.auth_to(line.from, "alice", (&alice, &uri), "Expires: 60\r\n");
        line.world.advance(Duration::from_secs(200));
        assert_eq!(stats(&mut line, 0).sessions_open(), 1);
        line.path = line.path.replace(&alice, &session);
        line.back = line.back.replace(&alice, &session).replace(&uri, &own);
        line.from_uri = own;
        send(&mut line, "mess", b"hello");
        assert_eq!(arrived(&mut line), b"hello");
        assert_eq!(line.world.link(line.from).core, if limit == 0 { 1 } else { 0 });
        line.world.close_all();
        // The place among carol's sessions is free again.
        let (again, _) = line.world.client(1, "carol");
        line.world.lose(again);
        line.world.close_all();
    }
}

/// The pair stays split, for one reason, and all the same everything arrives.
fn stays(mut line: Line, why: Stay) {
    send(&mut line, "mess", b"hello");
    line.world.run();
    let stayed = [0, 1].map(|core| stats(&mut line, core).sessions_stayed[why as usize]);
    assert_eq!(stayed, [1, 0], "{why:?}");
    assert_eq!(stats(&mut line, 1).sessions_moved_in, 0);
    assert_eq!(arrived(&mut line), b"hello");
    assert_eq!(stats(&mut line, 0).links_split, 1);
    line.world.close_all();
}

#[test]
fn a_core_without_room_is_not_moved_to() {
    let mut settings = settings(2);
    settings.limits = Limits { connections_per_core_max: 1, ..settings.limits };
    stays(apart_in(World::with(settings)), Stay::Full);
}

#[test]
fn a_connection_that_is_not_at_rest_stays() {
    let mut line = apart();
    line.world.never_quiet = true;
    stays(line, Stay::Busy);
    // Its own answer to an AUTH is still to be written.
    let mut line = apart();
    line.world.link_mut(line.from).stalled = true;
    let uri = line.from_uri.clone();
    line.world.send(line.from, Request::new("AUTH", &relay_uri(), &uri).bytes());
    send(&mut line, "mess", b"hello");
    line.world.run();
    assert_eq!(stats(&mut line, 0).sessions_stayed[Stay::Busy as usize], 1);
    line.world.link_mut(line.from).stalled = false;
    assert_eq!(arrived(&mut line), b"hello");
    line.world.close_all();
}

// A limit that is full admits who was expected; who comes from outside finds the place taken.
#[test]
fn the_place_of_a_guest_is_kept() {
    let mut settings = settings(2);
    settings.limits = Limits { connections_per_core_max: 2, ..settings.limits };
    let mut line = apart_in(World::with(settings));
    line.world.hold_messages = true;
    send(&mut line, "mess", b"hello");
    line.world.run();
    line.world.deliver((0, 1), usize::MAX);
    assert_eq!(line.world.relay(1).arriving(), 1);
    assert!(line.world.try_connect(1, true, "192.0.2.1").is_err(), "there is no room left");
    line.world.hold_messages = false;
    assert_eq!(arrived(&mut line), b"hello");
    assert_eq!(line.world.link(line.from).core, 1);
    line.world.close_all();
}

// Before anything of alice has left: she is where she was, and is refused as by any session of a core that has died.
#[test]
fn the_death_of_the_host_releases_the_reader() {
    for answered in [false, true] {
        let mut line = apart();
        line.world.hold_messages = true;
        send(&mut line, "mess", b"hello");
        line.world.run();
        line.world.deliver((0, 1), usize::MAX);
        if answered {
            line.world.deliver((1, 0), usize::MAX);
        }
        line.world.kill_core(1, true);
        line.world.hold_messages = false;
        line.world.run();
        assert_eq!(only(line.world.take(line.from), "481").status(), 481);
        assert_eq!(line.world.link(line.from).core, 0);
        assert_eq!(stats(&mut line, 0).sessions_stayed[Stay::CoreDied as usize], 1);
        line.world.close_all();
    }
}

// Bob is free again, and what he had for alice is refused.
#[test]
fn the_death_of_the_guests_core_frees_the_place() {
    let mut line = apart();
    line.world.hold_messages = true;
    send(&mut line, "mess", b"hello");
    line.world.run();
    line.world.deliver((0, 1), usize::MAX);
    let request = Request::send(&line.back, &line.to_uri, "back", b"hello");
    line.world.send(line.to, request.bytes());
    line.world.run();
    line.world.take(line.to);
    line.world.drop_messages((0, 1));
    line.world.drop_messages((1, 0));
    line.world.kill_core(0, false);
    line.world.hold_messages = false;
    line.world.run();
    // It was answered 200 before.
    assert_eq!(only(line.world.take(line.to), "REPORT").reported(), 481);
    assert_eq!((line.world.relay(1).arriving(), line.world.relay(1).table_sizes().peers), (0, 1));
    // Another one may bind him.
    let other = line.world.connect(1);
    let own = line.world.end(other).uri.clone();
    let bob = line.path.split_once(' ').unwrap().1.to_owned();
    line.world.send(other, Request::send(&bob, &own, "mess", b"hi").bytes());
    line.world.run();
    assert_eq!(only(line.world.take(line.to), "SEND").body, b"hi");
    line.world.close_all();
}

#[test]
fn the_death_of_the_home_leaves_the_pair_alone() {
    let mut line = apart();
    line.bind();
    line.world.kill_core(0, true);
    for back in [false, true] {
        send(&mut line, "mess", b"hello");
        assert_eq!(arrived(&mut line), b"hello", "{back}");
        line.world.take(line.from);
        line = line.reversed();
    }
    line.world.close_all();
}

// With the core that it has moved to, the note at its home goes.
#[test]
fn the_death_of_the_host_takes_both_along() {
    let mut line = apart();
    line.bind();
    line.world.kill_core(1, true);
    line.world.run();
    assert!(line.world.is_closed(line.from) && line.world.is_closed(line.to));
    assert_eq!(line.world.relay(0).table_sizes().moving, 0);
    line.world.close_all();
}

// A session that expires does so where it is.
#[test]
fn a_session_that_has_moved_ends_when_it_expires() {
    let mut line = apart();
    let uri = line.from_uri.clone();
    let alice = line.path.split(' ').next().unwrap().to_owned();
    line.world.auth_to(line.from, "alice", (&alice, &uri), "Expires: 60\r\n");
    line.bind();
    assert_eq!(line.world.link(line.from).core, 1);
    line.world.advance(Duration::from_secs(61));
    send(&mut line, "late", b"hello");
    line.world.run();
    assert_eq!(only(line.world.take(line.from), "481").status(), 481);
    line.world.advance(Duration::from_secs(31));
    assert_eq!(line.world.sizes().sessions, 1, "bob's");
    line.world.close_all();
}

// The connection outlives it, and is not left unread.
#[test]
fn a_session_that_expires_while_it_waits_lets_its_reader_go_on() {
    let mut line = apart();
    let uri = line.from_uri.clone();
    let alice = line.path.split(' ').next().unwrap().to_owned();
    line.world.auth_to(line.from, "alice", (&alice, &uri), "Expires: 60\r\n");
    line.world.hold_messages = true;
    send(&mut line, "mess", b"hello");
    line.world.run();
    assert_eq!(line.world.link(line.from).reader, Reader::Parked);
    line.world.advance(Duration::from_secs(91));
    assert_eq!(only(line.world.take(line.from), "481").status(), 481);
    line.world.hold_messages = false;
    line.world.run();
    assert_eq!(line.world.relay(1).arriving(), 0);
    line.world.close_all();
}

// S10: what moves is counted once, where it is; a user's rate goes along.
#[test]
fn sessions_that_move_count_among_their_users_as_before() {
    let mut settings = settings(2);
    settings.limits =
        Limits { sessions_per_user_max: 1, bytes_per_second_per_user_max: 1000, ..settings.limits };
    let mut line = apart_in(World::with(settings));
    line.bind();
    assert_eq!(line.world.link(line.from).core, 1);
    for core in [0, 1] {
        let again = line.world.connect(core);
        let own = line.world.end(again).uri.clone();
        assert_eq!(line.world.auth_round(again, "alice", &own, "").status(), 403, "core {core}");
        line.world.lose(again);
    }
    line.world.lose(line.from);
    line.world.run();
    line.world.client(0, "alice");
    line.world.close_all();
}

// S10: of the two cores' parts of what an address has one becomes smaller and the other as much larger.
#[test]
fn connections_that_move_count_for_their_address_as_before() {
    let mut settings = settings(2);
    settings.limits = Limits { connections_per_address_max: 2, ..settings.limits };
    let mut line = apart_in(World::with(settings));
    let comes_in = |line: &mut Line| {
        let third = line.world.connect(0);
        line.world.run();
        let is_in = !line.world.is_closed(third);
        line.world.lose(third);
        line.world.run();
        is_in
    };
    assert!(!comes_in(&mut line), "before");
    line.bind();
    assert_eq!(line.world.link(line.from).core, 1);
    assert!(!comes_in(&mut line), "after it");
    line.world.lose(line.from);
    line.world.run();
    assert!(comes_in(&mut line), "one has gone");
    // A core that dies takes what it has along, that which has moved there included.
    let mut line = apart_in(World::with(line.world.settings.clone()));
    line.bind();
    line.world.kill_core(1, true);
    line.world.run();
    let mut two = || {
        let conn = line.world.connect(0);
        line.world.run();
        !line.world.is_closed(conn)
    };
    assert_eq!([two(), two(), two()], [true, true, false]);
    line.world.close_all();
}

// Nothing more is read: what was held is not fed, here or there, and both connections end in order.
#[test]
fn a_relay_that_stops_lets_no_reader_wait() {
    for delivered in [false, true] {
        let mut line = apart();
        line.world.hold_messages = true;
        send(&mut line, "mess", b"hello");
        line.world.run();
        if delivered {
            line.world.deliver((0, 1), usize::MAX);
            line.world.deliver((1, 0), usize::MAX);
            line.world.run();
            assert!(line.world.link(line.from).travels);
        }
        for input in [|| Input::Drain, || Input::Quiesce, || Input::GiveUp, || Input::Shutdown] {
            for core in [0, 1] {
                line.world.input(core, input());
            }
            line.world.hold_messages = false;
            line.world.run();
        }
        assert!(line.world.is_closed(line.from) && line.world.is_closed(line.to), "{delivered}");
        line.world.close_all();
    }
}

// A stranger may become a client, but what has been forwarded for it lives by its connection.
#[test]
fn connections_from_outside_stay() {
    let mut world = World::new(2);
    world.meets = true;
    let mut foreign = line_in(world, Shape::Receiver, 0, 1);
    foreign.bind();
    assert_eq!(foreign.world.link(foreign.from).core, 0);
    foreign.world.close_all();
}
