//! Clients by WebSocket (RFC 7977): each frame a message, chunks cut to fit, what is unanswered bounded, a slow page borne.
//!
//! That each flush holds whole frames, and says where each ends, is looked at by [`World`] with each write.

use std::time::Duration;

use msrp_proto::parser::Flag;
use msrp_relay_core::Limit;

use testkit_pure::dice::Dice;
use testkit_pure::endpoint::Answers;
use testkit_pure::frame::pattern;
use testkit_pure::line::joined;
use testkit_pure::{Conn, Frame, Request, World, answer_challenge, auth_with, challenged, relay_uri};

/// A page and a telephone with sessions, and the path from the latter to the page.
fn page_and_phone(world: &mut World, cores: (usize, usize)) -> (Conn, Conn, String) {
    let page = world.connect_web(cores.0);
    let to_page = format!("{} {}", world.auth(page, "alice"), world.link(page).end.uri.clone());
    let (phone, session) = world.client(cores.1, "bob");
    (page, phone, format!("{session} {to_page}"))
}

fn file(world: &World, (phone, path): (Conn, &str), body: &[u8], more: &str) -> Vec<u8> {
    Request::send(path, &world.link(phone).end.uri, "file", body).raw(more).bytes()
}

/// Longest message sent to it.
fn longest(world: &World, page: Conn) -> usize {
    world.link(page).messages.as_ref().unwrap().iter().copied().max().unwrap_or(0)
}

// T3: whatever the sizes and however it comes in, the page gets whole frames no longer than a message may be, gapless, each
// with the end of its range.
#[test]
fn chunks_of_any_size_reach_a_page_in_messages_that_are_short_enough_and_say_their_ends() {
    let mut cut = 0;
    for seed in 0..150 {
        let mut dice = Dice::new(seed);
        let mut settings = testkit_pure::settings(2);
        settings.websocket.max_message = dice.pick(&[16 << 10, 20_000, 64 << 10, 1 << 20]);
        settings.websocket.window = dice.pick(&[64 << 10, 100_000, 1 << 20]);
        settings.limits.flush_bytes_max = dice.pick(&[64 << 10, 128 << 10, 1 << 20]);
        let max = settings.websocket.max_message as usize;
        let mut world = World::with(settings);
        world.read_max = dice.pick(&[700, 4096, 16 << 10, 256 << 10]);
        let (page, phone, path) = page_and_phone(&mut world, (0, dice.below(2)));
        world.end(page).answers = Answers::Always(200);
        let body =
            pattern(dice.pick(&[0, 1, 2047, 2048, 2049, 15_000, 16_384, 65_000, 65_536, 200_001, 700_000]));
        let reports = dice.pick(&["", "Failure-Report: no\r\n", "Failure-Report: partial\r\n"]);
        let bytes = file(&world, (phone, &path), &body, reports);
        // In pieces, with time to write what has come.
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(1 + dice.below(100_000)));
            world.send(phone, now);
            world.run();
            rest = later;
        }
        let frames: Vec<Frame> = world.take(page);
        assert!(joined(&frames) == body, "seed {seed}: not what was sent");
        assert!(frames.len() == 1 || frames.iter().all(|frame| frame.range().end.is_some()), "seed {seed}");
        assert!(longest(&world, page) <= max, "seed {seed}: {} of {max}", longest(&world, page));
        cut += usize::from(frames.len() > 1);
        let is_answered = !reports.contains("partial");
        assert!(!is_answered || world.sizes().transactions == 0, "seed {seed}");
    }
    assert!(cut > 30, "{cut} were cut");
}

// Of one session no more than the window waits for an answer; another session on the same WebSocket has a window of its own.
#[test]
fn page_that_answers_nothing_is_sent_its_window_and_another_session_its_own() {
    let mut settings = testkit_pure::settings(1);
    settings.websocket.window = 128 << 10;
    let mut world = World::with(settings);
    let (page, phone, path) = page_and_phone(&mut world, (0, 0));
    let other = "msrps://other.invalid:2855/other;ws";
    let to_other = format!("{} {other}", world.auth_as(page, "carol", other));
    let far = world.connect(0);
    let far_uri = world.end(far).uri.clone();
    let request = file(&world, (phone, &path), &pattern(700_000), "");
    world.send(phone, request);
    world.run();
    let waiting = world.take(page);
    let unanswered: usize = waiting.iter().map(|frame| frame.body.len()).sum();
    assert!((64 << 10..=128 << 10).contains(&unanswered), "{unanswered}");
    world.send(far, Request::send(&to_other, &far_uri, "mess", b"not held up").bytes());
    world.run();
    let got = world.take(page);
    assert_eq!((got.len(), got[0].body.as_slice()), (1, &b"not held up"[..]));
    // Each answer lets as much through again.
    let mut frames = waiting;
    let mut answered = 0;
    while answered < frames.len() {
        world.send(page, frames[answered].response(200));
        answered += 1;
        world.run();
        frames.extend(world.take(page));
        let unanswered: usize = frames[answered..].iter().map(|frame| frame.body.len()).sum();
        assert!(unanswered <= 128 << 10, "{unanswered}");
    }
    assert!(joined(&frames) == pattern(700_000));
}

// A page that takes its time is not reported as late as long as it answers something; one that answers nothing is.
#[test]
fn what_waits_behind_a_slow_page_is_late_only_when_the_page_answers_nothing_for_30_seconds() {
    let mut settings = testkit_pure::settings(1);
    settings.websocket.window = 64 << 10;
    settings.websocket.max_message = 16 << 10;
    // Its sender delays no other session, and must not be blamed for the time.
    let mut world = World::with(settings);
    let (page, phone, path) = page_and_phone(&mut world, (0, 0));
    let body = pattern(400_000);
    let request = file(&world, (phone, &path), &body, "");
    world.send(phone, request);
    world.run();
    let mut frames = world.take(page);
    let first = frames.len();
    assert!(first >= 3, "{first} messages wait");
    // 20 s for each answer: the last of the first window is answered after more than a minute.
    for answered in 0..first {
        world.advance(Duration::from_secs(20));
        assert!(world.take(phone).is_empty(), "after {} s", 20 * (answered + 1));
        world.send(page, frames[answered].response(200));
        world.run();
        frames.extend(world.take(page));
    }
    // From now on it answers nothing.
    world.advance(Duration::from_secs(29));
    assert!(world.take(phone).is_empty());
    world.advance(Duration::from_secs(2));
    let told = world.take(phone);
    assert!(told.iter().any(|frame| frame.is("408") || frame.is("REPORT")), "{told:#?}");
}

// Of a SEND that asks for no answer nothing waits, so nothing bounds it but the page's own reading.
#[test]
fn window_is_of_what_will_be_answered() {
    let mut settings = testkit_pure::settings(1);
    settings.websocket.window = 64 << 10;
    let mut world = World::with(settings);
    let (page, phone, path) = page_and_phone(&mut world, (0, 0));
    let body = pattern(500_000);
    let request = file(&world, (phone, &path), &body, "Failure-Report: no\r\n");
    world.send(phone, request);
    world.run();
    assert!(joined(&world.take(page)) == body);
}

// What must not be interrupted goes in one message, however long: a request other than SEND.
#[test]
fn request_that_is_no_send_goes_in_one_message() {
    let mut settings = testkit_pure::settings(1);
    settings.websocket.max_message = 16 << 10;
    let mut world = World::with(settings);
    let (page, phone, path) = page_and_phone(&mut world, (0, 0));
    let body = pattern(10_240);
    let from = world.end(phone).uri.clone();
    let long = format!("X-Long: {}\r\n", "x".repeat(2000)).repeat(5);
    let request = Request::new("TEXTING", &path, &from).raw(&long).body(&body);
    world.send(phone, request.bytes());
    world.run();
    let frames = world.take(page);
    assert_eq!(frames.len(), 1, "{:?}", world.take(phone));
    assert_eq!(frames[0].flag, Flag::Last);
    assert!(frames[0].body == body && longest(&world, page) > 16 << 10);
}

// One relay's connection carries what is for many sessions: a page that answers nothing loses what waits for it, and
// what is for others goes on.
#[test]
fn page_that_answers_nothing_holds_up_no_other_behind_the_same_relay_for_long() {
    let mut settings = testkit_pure::settings(1);
    settings.websocket.window = 64 << 10;
    let mut world = World::with(settings);
    let slow = world.connect_web(0);
    let to_slow = format!("{} {}", world.auth(slow, "alice"), world.link(slow).end.uri.clone());
    let quick = world.connect_web(0);
    world.end(quick).answers = Answers::Always(200);
    let to_quick = format!("{} {}", world.auth(quick, "bob"), world.link(quick).end.uri.clone());
    let shared = world.connect(0);
    let from = world.end(shared).uri.clone();
    world.send(shared, Request::send(&to_quick, &from, "first", b"hello").bytes());
    world.run();
    assert_eq!(world.take(quick).len(), 1);
    world.take(shared);
    world.send(shared, Request::send(&to_slow, &from, "slow", &pattern(2_000_000)).bytes());
    world.send(shared, Request::send(&to_quick, &from, "quick", b"for another").bytes());
    world.run();
    assert!(world.take(quick).is_empty(), "it waits behind the other");
    for _ in 0..4 {
        world.advance(Duration::from_secs(5));
    }
    let got = world.take(quick);
    assert_eq!((got.len(), got[0].body.as_slice()), (1, &b"for another"[..]));
    assert!(world.events.iter().any(|event| event.contains("StallTimeout")));
    let told = world.take(shared);
    assert!(
        told.iter().any(|frame| !frame.is("REPORT") && frame.status() == 413 || frame.is("REPORT")),
        "{told:#?}"
    );
}

// RFC 7977, 5.2.1: a page may write the URI that it was given with `ws`, at any port of ours, and so may others.
#[test]
fn session_of_a_page_has_two_forms_of_its_uri() {
    let cases = [((0, 0), false), ((0, 1), false), ((0, 1), true)];
    for ((cores, meets), page_begins) in cases.into_iter().flat_map(|case| [(case, false), (case, true)]) {
        for forms in [["tcp", "tcp"], ["ws", "ws"], ["tcp", "ws"], ["ws", "tcp"]] {
            let case = format!("{cores:?} {meets} {page_begins} {forms:?}");
            let mut world = World::new(2);
            world.meets = meets;
            let (page, phone, path) = page_and_phone(&mut world, cores);
            world.end(page).answers = Answers::Always(200);
            world.end(phone).answers = Answers::Always(200);
            let mut uris = path.split(' ');
            let (phone_session, session) = (uris.next().unwrap(), uris.next().unwrap());
            let (page_uri, phone_uri) = (world.end(page).uri.clone(), world.end(phone).uri.clone());
            for form in forms {
                let form = session.replace(";tcp", &format!(";{form}"));
                for by_page in [page_begins, !page_begins] {
                    let (from, to, path, own) = match by_page {
                        true => (page, phone, format!("{form} {phone_session} {phone_uri}"), &page_uri),
                        false => (phone, page, format!("{phone_session} {form} {page_uri}"), &phone_uri),
                    };
                    world.send(from, Request::send(&path, own, "message", b"x").bytes());
                    world.run();
                    let got = world.take(to);
                    assert_eq!(got.iter().filter(|frame| frame.is("SEND")).count(), 1, "{case}: {got:?}");
                    assert!(world.take(from).iter().all(|frame| frame.status() == 200), "{case}");
                }
            }
            assert_eq!(world.link(page).core == world.link(phone).core, meets || cores == (0, 0), "{case}");
        }
    }
}

// Who was asked before memory became short gets in as any client of a connection of its own does.
#[test]
fn client_of_a_websocket_of_its_own_is_not_forgotten_when_memory_becomes_short() {
    let mut settings = testkit_pure::settings(1);
    settings.limits.queue_bytes_total = 4 << 20;
    let mut world = World::with(settings);
    world.read_max = 4096;
    let page = world.connect_web(0);
    let challenge = challenged(&mut world, page, &relay_uri());
    let body = pattern(400_000);
    for _ in 0..20 {
        let pair = world.pair(0, 0);
        world.link_mut(pair.bob).stalled = true;
        world.send(pair.alice, Request::send(&pair.to_bob, &pair.alice_uri, "mess", &body).bytes());
        world.run();
        if world.relay(0).stats().limits_reached[Limit::QueueBytesTotal as usize] > 0 {
            break;
        }
    }
    assert!(world.try_connect_web(0).is_err(), "memory is short");
    let value = answer_challenge(&challenge, "carol", "9abc", &relay_uri(), 1);
    assert_eq!(auth_with(&mut world, page, &relay_uri(), &value).status(), 200);
}
