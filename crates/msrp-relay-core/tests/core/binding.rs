//! Two ends and the relay between them: binding, forwarding, streaming (RFC 4976, 6.4).
//!
//! Long because it is a list: each test stands alone, and all share the fixtures at the top.

use std::time::Duration;

use msrp_proto::head::ByteRange;
use msrp_proto::parser::Flag;
use msrp_relay_core::Target;

use testkit_pure::endpoint::Answers;
use testkit_pure::frame::{pattern, response};
use testkit_pure::line::{LAYOUTS, Shape, joined, line, lines, only};
use testkit_pure::{Decision, Frame, Request, World, settings, vectors};

const W: &str = "msrps://198.51.100.23:41502/u4Kd0wR9sQ2mZ7;tcp";
const F2: &str = "msrps://192.0.2.77:50120/c3Vt9gD5eR7wQz;tcp";
const U1: &str = "msrps://relay.osier.example:2855/7rG2mXw0QbLs9TzEoVh4Kd;tcp";
const U2: &str = "msrps://relay.osier.example:2855/Zq81nTfKp3yWcA0uJm6xEv;tcp";

fn osier(cores: usize) -> World {
    let mut settings = settings(cores);
    settings.hostname = "relay.osier.example".to_owned();
    World::with(settings)
}

// X3: byte for byte, except transaction ids and the minted URI.
#[test]
fn send_and_success_report_through_one_relay_match_the_worked_example() {
    let mut world = osier(1);
    let wren = world.connect(0);
    let u1 = world.auth_as(wren, "alice", W);
    let put = |text: String| text.replace(U1, &u1);

    world.send(wren, put(vectors::frame("X3.1")));
    world.run();
    let (target, finch) = world.dialled[0].clone();
    assert_eq!(
        target,
        Target {
            secure: true,
            host: "203.0.113.40".to_owned(),
            port: 49300,
            by_service: false,
            relay: false,
            other_process: None
        }
    );
    let answer = only(world.take(wren), "200");
    assert_eq!(answer.text(), put(vectors::frame("X3.2")));
    let forwarded = only(world.take(finch), "SEND");
    assert_eq!(forwarded.text_with_tid("r9Tb3Uy6Pe0n"), put(vectors::frame("X3.3")));

    let ok = put(vectors::frame("X3.4")).replace("r9Tb3Uy6Pe0n", forwarded.tid());
    world.send(finch, ok);
    world.send(finch, put(vectors::frame("X3.5")));
    world.run();
    let report = only(world.take(wren), "REPORT");
    assert_eq!(report.text_with_tid("r2Ma6Qh4Sk7j"), put(vectors::frame("X3.6")));
    assert!(world.take(finch).is_empty(), "a REPORT was answered");
    world.assert_idle();
    assert_eq!(world.sizes().transactions, 0);
    world.close_all();
}

// X4, F4: both ends on this relay: as if there had been two hops, one 200 to the sender.
#[test]
fn send_between_two_sessions_of_this_relay_matches_the_worked_example() {
    for (a, b) in LAYOUTS {
        let mut world = osier(2);
        let (wren, finch) = (world.connect(a), world.connect(b));
        let u1 = world.auth_as(wren, "alice", W);
        let u2 = world.auth_as(finch, "bob", F2);
        let put = |text: String| text.replace(U1, &u1).replace(U2, &u2);

        world.send(wren, put(vectors::frame("X4.1")));
        world.run();
        let answer = only(world.take(wren), "200");
        assert_eq!(answer.text(), put(vectors::frame("X4.2")));
        let forwarded = only(world.take(finch), "SEND");
        assert_eq!(forwarded.text_with_tid("r4Xn7Lz1Fu6q"), put(vectors::frame("X4.3")));
        world.send(finch, put(vectors::frame("X4.4")).replace("r4Xn7Lz1Fu6q", forwarded.tid()));
        world.assert_idle();
        assert_eq!(world.sizes().transactions, 0);
        let links = world.relay(a).stats().links_local + world.relay(a).stats().links_split;
        assert_eq!(links, 1);
        assert_eq!(world.relay(a).stats().links_split, u64::from(a != b));
        world.close_all();
    }
}

// F2, F6: whole messages of every size around the limits, each with one 200, in every layout.
#[test]
fn whole_messages_of_any_size_arrive_unchanged() {
    for (name, mut line) in lines() {
        let world = &mut line.world;
        for bytes in [0, 1, 2, 511, 512, 2047, 2048, 2049, 5000, 70_000] {
            let body = pattern(bytes);
            let request = Request::send(&line.path, &line.from_uri, "mess", &body);
            world.send(line.from, request.bytes());
            world.run();
            let answer = only(world.take(line.from), "200");
            assert_eq!(answer.tid(), request.tid, "{name} {bytes}");
            let frames = world.take(line.to);
            assert_eq!(joined(&frames), body, "{name} {bytes}");
            for frame in &frames {
                assert_ne!(frame.tid(), request.tid);
                assert_eq!(frame.to_path(), line.to_uri);
                assert_eq!(frame.from_path().split(' ').next_back(), Some(&*line.from_uri));
                world.send(line.to, frame.response(200));
            }
            world.assert_idle();
            assert_eq!(world.sizes().transactions, 0);
        }
        world.close_all();
    }
}

// I12: the bodiless SEND that real clients begin with, and use to keep the connection alive.
#[test]
fn bodiless_send_is_forwarded_and_answered() {
    for (name, mut line) in lines() {
        let world = &mut line.world;
        let request = Request::bodiless(&line.path, &line.from_uri, "mess").header("Keep-Alive", "yes");
        world.send(line.from, request.bytes());
        world.run();
        assert_eq!(only(world.take(line.from), "200").tid(), request.tid);
        let frame = only(world.take(line.to), "SEND");
        assert!(!frame.head.has_body(), "{name}");
        assert_eq!(frame.range_text(), "1-0/0");
        assert_eq!(frame.header("Keep-Alive").as_deref(), Some("yes"));
    }
}

// F4, F5: the link carries requests both ways at once, whichever side spoke first.
#[test]
fn both_directions_work_at_once() {
    for (name, mut line) in lines() {
        let world = &mut line.world;
        world.end(line.from).answers = Answers::Always(200);
        world.end(line.to).answers = Answers::Always(200);
        let (there, back) = (pattern(300_000), pattern(200_001));
        let hello = Request::send(&line.path, &line.from_uri, "hello", b"hi");
        world.send(line.from, hello.bytes());
        world.run();
        world.take(line.from);
        world.take(line.to);
        world.send(line.from, Request::send(&line.path, &line.from_uri, "there", &there).bytes());
        world.send(line.to, Request::send(&line.back, &line.to_uri, "back", &back).bytes());
        world.run();
        assert_eq!(joined(&world.take(line.to)), there, "{name}");
        assert_eq!(joined(&world.take(line.from)), back, "{name}");
        world.assert_idle();
        assert_eq!(world.sizes().transactions, 0, "{name}");
        world.close_all();
    }
}

// F5: crossing first requests of one pair are one link.
#[test]
fn crossing_first_requests_are_one_link() {
    for (a, b) in LAYOUTS {
        let mut world = World::new(2);
        world.hold_messages = true;
        let pair = world.pair(a, b);
        world.send(pair.alice, Request::send(&pair.to_bob, &pair.alice_uri, "mess1", b"from alice").bytes());
        world.send(pair.bob, Request::send(&pair.to_alice, &pair.bob_uri, "mess2", b"from bob").bytes());
        world.run();
        world.hold_messages = false;
        world.run();
        for (conn, body) in [(pair.alice, "from bob"), (pair.bob, "from alice")] {
            let frames = world.take(conn);
            assert_eq!(frames.len(), 2, "{frames:#?}");
            assert!(frames.iter().any(|f| f.is("200")));
            assert!(frames.iter().any(|f| f.is("SEND") && f.body == body.as_bytes()));
        }
    }
}

// T9, F5: both ends believe that they are active, and the far end's request comes while we still dial.
#[test]
fn far_end_that_comes_to_us_takes_over_from_the_dial() {
    for (a, b) in LAYOUTS {
        for body in [10, 100_000] {
            let mut world = World::new(2);
            world.dial_decision = Decision::Hold;
            let (alice, session) = world.client(a, "alice");
            let alice_uri = world.end(alice).uri.clone();
            let finch = world.connect(b);
            let finch_uri = world.end(finch).uri.clone();
            let body = pattern(body);
            let to = format!("{session} {finch_uri}");
            let request = Request::send(&to, &alice_uri, "mess1", &body);
            let bytes = request.bytes();
            // The second half is still on its way when the far end comes.
            let (first, second) = bytes.split_at(bytes.len() - 5);
            world.send(alice, first);
            world.run();
            assert_eq!(world.dials.len(), 1);

            let hello = Request::bodiless(&format!("{session} {alice_uri}"), &finch_uri, "mess2");
            world.send(finch, hello.bytes());
            world.run();
            world.send(alice, second);
            world.run();
            assert!(world.dials.is_empty(), "the dial goes on");

            let frames = world.take(finch);
            assert!(frames.iter().any(|f| f.is("200") && f.tid() == hello.tid));
            assert_eq!(joined(&frames), body);
            for frame in frames.iter().filter(|f| f.is("SEND")) {
                world.send(finch, frame.response(200));
            }
            let frames = world.take(alice);
            assert_eq!(frames.len(), 2);
            assert!(frames.iter().any(|f| f.is("SEND") && f.message_id() == "mess2"));
            assert!(frames.iter().any(|f| f.is("200") && f.tid() == request.tid));
            // The way back works over the same connection.
            world.send(alice, Request::send(&to, &alice_uri, "mess3", b"x").bytes());
            world.run();
            assert_eq!(only(world.take(finch), "SEND").message_id(), "mess3");
            world.assert_idle();
            world.close_all();
        }
    }
}

// F5: once the dial is up there is no second connection for the same URI.
#[test]
fn far_end_on_a_second_connection_gets_506_once_the_dial_is_up() {
    let mut line = line(Shape::Sender, 0, 0);
    let world = &mut line.world;
    let other = world.connect(0);
    let request = Request::bodiless(&line.back, &line.to_uri, "mess2");
    world.send(other, request.bytes());
    assert_eq!(world.take_one(other).status(), 506);
}

// F5: another peer's URI does not displace the dial.
#[test]
fn stranger_cannot_take_over_a_dial() {
    let mut world = World::new(1);
    world.dial_decision = Decision::Hold;
    let (alice, session) = world.client(0, "alice");
    let alice_uri = world.end(alice).uri.clone();
    let to = format!("{session} msrps://203.0.113.40:49300/p8Yc2nB6vH1xLk;tcp");
    world.send(alice, Request::bodiless(&to, &alice_uri, "mess1").bytes());
    world.run();
    let mallory = world.connect(0);
    let uri = world.end(mallory).uri.clone();
    let request = Request::bodiless(&format!("{session} {alice_uri}"), &uri, "mess2");
    world.send(mallory, request.bytes());
    assert_eq!(world.take_one(mallory).status(), 506);
    let conn = world.finish_dial(0, true).unwrap();
    world.run();
    assert_eq!(only(world.take(conn), "SEND").message_id(), "mess1");
}

// F11, G9: Byte-Range is added where it is missing, with the numbers of the bytes at hand.
#[test]
fn byte_range_is_added_where_it_is_missing() {
    for (body, flag, expected) in [
        (Some(5), Flag::Last, "1-5/5"),
        (Some(5), Flag::More, "1-5/*"),
        (Some(0), Flag::Last, "1-0/0"),
        (None, Flag::Last, "1-0/0"),
    ] {
        let mut line = line(Shape::Both, 0, 0);
        let mut request =
            Request::new("SEND", &line.path, &line.from_uri).header("Message-ID", "mess").flag(flag);
        if let Some(bytes) = body {
            request = request.body(&pattern(bytes));
        }
        line.world.send(line.from, request.bytes());
        line.world.run();
        let frame = only(line.world.take(line.to), "SEND");
        assert_eq!(frame.range_text(), expected);
        assert_eq!(frame.flag, flag);
    }
}

// F13: a chunk goes out while it still comes in, open-ended and interruptible.
#[test]
fn chunk_is_forwarded_before_its_end_has_arrived() {
    for (name, mut line) in lines() {
        let world = &mut line.world;
        let body = pattern(50_000);
        let request = Request::send(&line.path, &line.from_uri, "mess", &body);
        world.send(line.from, request.head());
        world.send(line.from, &body[..40_000]);
        world.run();
        let arriving = world.end(line.to).arriving().unwrap();
        assert_eq!(arriving.range(), ByteRange { start: 1, end: None, total: Some(50_000) });
        assert!(arriving.body.len() > 39_000, "{name}");
        assert!(world.take(line.from).is_empty());
        world.send(line.from, &body[40_000..]);
        world.send(line.from, request.end_line());
        world.run();
        assert_eq!(joined(&world.take(line.to)), body);
        assert_eq!(only(world.take(line.from), "200").tid(), request.tid);
    }
}

// C4, G5: a body holds anything, look-alike end-lines too, however it is split.
#[test]
fn look_alike_end_lines_pass_through_at_any_read_size() {
    let mut body = b"\r\n-------\r\n-------tid0000$\r\nMSRP x SEND\r\n\r\n".to_vec();
    body.extend(0..=255);
    body.extend_from_slice(b"-------");
    for read_max in [1, 2, 3, 7, 64, 4096] {
        let mut line = line(Shape::Both, 0, 1);
        let world = &mut line.world;
        world.read_max = read_max;
        let request = Request::send(&line.path, &line.from_uri, "mess", &body);
        world.send(line.from, request.bytes());
        world.run();
        assert_eq!(joined(&world.take(line.to)), body, "{read_max}");
    }
}

// S14: a stalled receiver stops its sender, bounded memory, and everything arrives in the end.
#[test]
fn stalled_receiver_pauses_only_its_sender() {
    for (name, mut line) in lines() {
        let world = &mut line.world;
        let high = world.settings.limits.queue_bytes_high;
        let low = world.settings.limits.queue_bytes_low;
        let other = world.pair(0, 1);
        world.end(line.to).answers = Answers::Always(200);
        let body = pattern(3_000_000);
        world.link_mut(line.to).stalled = true;
        world.queued_max = 0;
        world.send(line.from, Request::send(&line.path, &line.from_uri, "mess", &body).bytes());
        world.run();
        assert!(world.link(line.from).paused, "{name}");
        let bound = high + world.read_max + 1024;
        assert!(world.queued_max <= bound, "{name} {}", world.queued_max);
        assert!(world.sizes().bytes_queued > high);

        // Another sender's message is not affected.
        let hello = Request::send(&other.to_bob, &other.alice_uri, "hello", b"hi");
        world.send(other.alice, hello.bytes());
        world.run();
        assert_eq!(world.take(other.bob).len(), 1);

        // Reading goes on only at the low mark, and stops again at the high one.
        world.link_mut(line.to).stalled = false;
        while world.link(line.from).paused {
            assert!(world.sizes().bytes_queued > low, "{name}");
            world.link_mut(line.to).window = 1;
            world.write(line.to);
            world.deliver_all();
        }
        assert!(world.sizes().bytes_queued <= low);
        world.link_mut(line.to).window = usize::MAX;
        world.run();
        assert!(world.queued_max <= bound, "{name} {}", world.queued_max);
        assert_eq!(joined(&world.take(line.to)), body, "{name}");
        world.assert_idle();
        world.close_all();
    }
}

// S14: many small messages cost what they hold in memory, not only their bodies.
#[test]
fn flood_of_small_messages_is_bounded_too() {
    for (name, mut line) in lines() {
        let world = &mut line.world;
        world.link_mut(line.to).stalled = true;
        for n in 0..4000 {
            let id = format!("m{n:06}");
            let request =
                Request::send(&line.path, &line.from_uri, &id, &[b'x'; 200]).header("Failure-Report", "no");
            world.send(line.from, request.bytes());
        }
        world.run();
        assert!(world.link(line.from).paused, "{name}");
        let bound = world.settings.limits.queue_bytes_high + 4 * world.read_max;
        assert!(world.queued_max <= bound, "{name} {}", world.queued_max);
        world.link_mut(line.to).stalled = false;
        world.run();
        let frames = world.take(line.to);
        assert_eq!(frames.len(), 4000, "{name}");
        for (n, frame) in frames.iter().enumerate() {
            assert_eq!(frame.message_id(), format!("m{n:06}"));
        }
        world.assert_idle();
    }
}

// F12: a REPORT or an answer waits for no more than one flush of a running chunk.
#[test]
fn waiting_frame_cuts_a_running_chunk_and_leaves_no_gap() {
    for (name, mut line) in lines() {
        let world = &mut line.world;
        let flush = world.settings.limits.flush_bytes_max;
        let body = pattern(1_000_000);
        world.end(line.from).answers = Answers::Always(200);
        world.end(line.to).answers = Answers::Always(200);
        world.link_mut(line.to).window = 1;
        world.send(line.from, Request::send(&line.path, &line.from_uri, "mess", &body).bytes());
        world.run();
        assert!(world.end(line.to).in_frame());
        let before = world.link(line.to).end.bytes_received;
        // The receiver sends something itself and waits for the answer.
        let back = Request::bodiless(&line.back, &line.to_uri, "back");
        world.send(line.to, back.bytes());
        world.run();
        world.link_mut(line.to).window = 1;
        world.run();
        let frames = world.take(line.to);
        assert!(frames[0].is("SEND") && frames[0].flag == Flag::More, "{name}");
        assert!(frames[1].is("200") && frames[1].tid() == back.tid, "{name}");
        let waited = world.link(line.to).end.bytes_received - before;
        assert!(waited as usize <= flush + 1000, "{name} {waited}");

        let mut frames: Vec<Frame> = frames;
        // Again and again, at different places.
        for window in [1, 100_000, 1, 1, 300_000, 1] {
            world.link_mut(line.to).window = window;
            world.run();
            let back = Request::bodiless(&line.back, &line.to_uri, "back");
            world.send(line.to, back.bytes());
            world.run();
        }
        world.link_mut(line.to).window = usize::MAX;
        world.run();
        frames.extend(world.take(line.to));
        assert_eq!(joined(&frames), body, "{name}");
        let sends: Vec<&Frame> = frames.iter().filter(|f| f.is("SEND")).collect();
        assert!(sends.len() > 3, "{name}");
        for send in &sends {
            assert_eq!(send.message_id(), "mess");
            assert_eq!(send.range().end, None, "an interruptible piece has no end");
            assert_eq!(send.range().total, Some(1_000_000));
            assert!(!send.body.is_empty());
        }
        assert_eq!(frames.iter().filter(|f| f.is("200")).count(), 7, "{name}");
        world.assert_idle();
        assert_eq!(world.sizes().transactions, 0, "{name}");
    }
}

// F12: wherever the flush ends, a cut leaves something for the piece that carries the final flag.
#[test]
fn no_piece_of_a_cut_chunk_is_empty() {
    let mut settings = settings(1);
    settings.limits.flush_bytes_max = 4096;
    for bytes in (7100..7250).chain(4090..4100) {
        let mut world = World::with(settings.clone());
        let pair = world.pair(0, 0);
        let body = pattern(bytes);
        world.link_mut(pair.bob).window = 0;
        let request = Request::send(&pair.to_bob, &pair.alice_uri, "mess", &body);
        world.send(pair.alice, request.bytes());
        for _ in 0..3 {
            world.run();
            let back = Request::bodiless(&pair.to_alice, &pair.bob_uri, "back");
            world.send(pair.bob, back.bytes());
            world.run();
            world.link_mut(pair.bob).window = 1;
        }
        world.link_mut(pair.bob).window = usize::MAX;
        world.run();
        let frames = world.take(pair.bob);
        assert_eq!(joined(&frames), body);
        let mut sends = frames.iter().filter(|f| f.is("SEND"));
        assert!(sends.all(|f| !f.body.is_empty()), "{bytes}");
    }
}

// F12: a chunk is cut only for a request that can be written at once.
#[test]
fn incomplete_small_request_does_not_cut_a_running_chunk() {
    let mut world = World::new(1);
    let (bob, [first, second]) = world.relay_with_two_clients(0);
    let (file, chat) = (world.connect(0), world.connect(0));
    let chat_uri = world.end(chat).uri.clone();
    let small = Request::send(&second, &chat_uri, "chat", b"hello");
    let bytes = small.bytes();
    world.send(chat, &bytes[..bytes.len() - 9]);
    world.link_mut(bob).window = 1;
    let file_uri = world.end(file).uri.clone();
    let body = pattern(600_000);
    let request = Request::send(&first, &file_uri, "file", &body);
    world.send(file, request.bytes());
    for _ in 0..3 {
        world.run();
        world.link_mut(bob).window = 1;
    }
    assert!(world.take(bob).is_empty(), "cut for nothing");
    world.send(chat, &bytes[bytes.len() - 9..]);
    world.run();
    world.link_mut(bob).window = 1;
    world.run();
    let frames = world.take(bob);
    assert_eq!(frames[0].flag, Flag::More);
    assert_eq!(frames[1].message_id(), "chat");
}

// G5: a chunk whose message is known to be small is never streamed, and so never cut.
#[test]
fn chunk_of_a_small_message_is_not_streamed() {
    let mut line = line(Shape::Both, 0, 0);
    let world = &mut line.world;
    let request = Request::new("SEND", &line.path, &line.from_uri)
        .header("Message-ID", "mess")
        .header("Byte-Range", "1-*/2048")
        .body(&pattern(2048));
    let bytes = request.bytes();
    world.send(line.from, &bytes[..bytes.len() - 20]);
    world.run();
    assert!(!world.end(line.to).in_frame());
    world.send(line.from, &bytes[bytes.len() - 20..]);
    world.run();
    assert_eq!(world.take(line.to).len(), 1);
}

// F12, G6: each piece has a transaction id of its own.
#[test]
fn pieces_of_a_cut_chunk_have_different_transaction_ids() {
    let mut line = line(Shape::Both, 0, 0);
    let world = &mut line.world;
    let body = pattern(600_000);
    world.end(line.to).answers = Answers::Always(200);
    world.link_mut(line.to).window = 1;
    let request = Request::send(&line.path, &line.from_uri, "mess", &body);
    world.send(line.from, request.bytes());
    for _ in 0..4 {
        world.run();
        let back = Request::bodiless(&line.back, &line.to_uri, "back");
        world.send(line.to, back.bytes());
        world.link_mut(line.to).window = 1;
    }
    world.link_mut(line.to).window = usize::MAX;
    world.run();
    let mut tids: Vec<String> =
        world.take(line.to).iter().filter(|f| f.is("SEND")).map(|f| f.tid().to_owned()).collect();
    let pieces = tids.len();
    assert!(pieces > 2);
    tids.sort();
    tids.dedup();
    assert_eq!(tids.len(), pieces);
}

// F12: two sources share one connection fairly, and neither's pieces mix with the other's.
#[test]
fn two_sources_on_one_connection_take_turns() {
    for (a, b) in LAYOUTS {
        let mut world = World::new(2);
        let (bob, paths) = world.relay_with_two_clients(b);
        world.end(bob).answers = Answers::Always(200);
        let mut sources = Vec::new();
        let bodies = [pattern(2_000_000), pattern(1_900_000)];
        world.link_mut(bob).window = 0;
        for (n, to) in paths.iter().enumerate() {
            let conn = world.connect(a);
            let uri = world.end(conn).uri.clone();
            let request = Request::send(to, &uri, &format!("mess{n}"), &bodies[n]);
            world.send(conn, request.bytes());
            sources.push(conn);
        }
        let mut frames = Vec::new();
        let mut got = [0_usize; 2];
        for _ in 0..12 {
            world.link_mut(bob).window = 1;
            world.run();
            frames.extend(world.take(bob));
            got = [0, 1].map(|n| {
                let id = format!("mess{n}");
                let mine = |f: &&Frame| f.is("SEND") && f.message_id() == id;
                frames.iter().filter(mine).map(|f| f.body.len()).sum()
            });
        }
        let flush = world.settings.limits.flush_bytes_max;
        assert!(got[0].abs_diff(got[1]) <= 2 * flush, "{got:?}");
        assert!(got[0] > 3 * flush, "{got:?}");
        world.link_mut(bob).window = usize::MAX;
        world.run();
        frames.extend(world.take(bob));
        for n in [0, 1] {
            let id = format!("mess{n}");
            let mine: Vec<Frame> =
                frames.iter().filter(|f| f.is("SEND") && f.message_id() == id).cloned().collect();
            assert_eq!(joined(&mine), bodies[n]);
        }
        for conn in sources {
            assert_eq!(world.take(conn).len(), 1);
        }
        world.assert_idle();
    }
}

// Small messages must not wait behind another sender's file.
#[test]
fn small_message_does_not_wait_behind_a_file() {
    let mut world = World::new(1);
    let (bob, [first, second]) = world.relay_with_two_clients(0);
    world.link_mut(bob).window = 1;
    let file = world.connect(0);
    let uri = world.end(file).uri.clone();
    let body = pattern(1_000_000);
    world.send(file, Request::send(&first, &uri, "file", &body).bytes());
    world.run();
    let chat = world.connect(0);
    let uri = world.end(chat).uri.clone();
    world.send(chat, Request::send(&second, &uri, "chat", b"hello").bytes());
    world.run();
    world.link_mut(bob).window = 1;
    world.run();
    let frames = world.take(bob);
    assert!(frames.iter().any(|f| f.is("SEND") && f.message_id() == "chat"));
}

// F16, Q1, Q3: NICKNAME and unknown methods go end to end, their responses back the whole way.
#[test]
fn other_requests_are_answered_end_to_end() {
    for (name, mut line) in lines() {
        let world = &mut line.world;
        for method in ["NICKNAME", "FUTURE"] {
            let request = Request::new(method, &line.path, &line.from_uri)
                .header("Use-Nickname", "\"Al\"")
                .body(b"anything");
            world.send(line.from, request.bytes());
            world.run();
            assert!(world.take(line.from).is_empty(), "answered by the relay");
            let frame = only(world.take(line.to), method);
            assert_eq!(frame.header("Use-Nickname").as_deref(), Some("\"Al\""));
            assert_eq!(frame.header("Byte-Range"), None);
            assert_eq!(frame.body, b"anything");
            world.send(line.to, frame.response(425));
            world.run();
            let answer = only(world.take(line.from), "425");
            assert_eq!(answer.tid(), request.tid, "{name}");
            assert_eq!(answer.to_path(), line.from_uri);
            let way: Vec<String> = answer.from_path().split(' ').map(str::to_owned).collect();
            let there: Vec<&str> = line.path.split(' ').collect();
            assert_eq!(way, there, "{name}");
        }
        world.assert_idle();
        assert_eq!(world.sizes().transactions, 0);
    }
}

// F16: blocked methods get 501, REPORT and SEND are never among them.
#[test]
fn unknown_method_gets_501_where_not_allowed() {
    let mut settings = settings(1);
    settings.methods_allow_other = false;
    let mut world = World::with(settings);
    let pair = world.pair(0, 0);
    let request = Request::new("FUTURE", &pair.to_bob, &pair.alice_uri);
    world.send(pair.alice, request.bytes());
    assert_eq!(world.take_one(pair.alice).status(), 501);
    assert!(world.take(pair.bob).is_empty());
    let request = Request::new("NICKNAME", &pair.to_bob, &pair.alice_uri);
    world.send(pair.alice, request.bytes());
    world.run();
    assert_eq!(world.take(pair.bob).len(), 1);
}

// RFC 4975, 7.1: 10240 bytes at most in any other request.
#[test]
fn long_body_of_another_method_gets_400_and_sessions_keep_their_connection() {
    let mut line = line(Shape::Both, 0, 1);
    let world = &mut line.world;
    let request = Request::new("NICKNAME", &line.path, &line.from_uri).body(&pattern(20_000));
    world.send(line.from, request.bytes());
    assert_eq!(world.take_one(line.from).status(), 400);
    assert!(!world.is_closed(line.from) && !world.is_closed(line.to));
}

// F3, G6.3, A12: no next hop, an unknown or foreign session, a session under another name.
#[test]
fn request_for_no_session_gets_481() {
    let mut world = World::new(2);
    let pair = world.pair(0, 1);
    let bob_id = pair.bob_session.clone();
    let last = bob_id.find(";tcp").unwrap();
    let mut forged = bob_id;
    forged.replace_range(last - 3..last, "AAA");
    for (why, to) in [
        ("no next hop", pair.bob_session.clone()),
        ("forged", format!("{forged} {}", pair.bob_uri)),
        ("not ours", format!("msrps://{}:2855/abc;tcp {}", testkit_pure::HOST, pair.bob_uri)),
        ("no session", format!("msrps://{}:2855;tcp {}", testkit_pure::HOST, pair.bob_uri)),
        ("not its client", format!("{} {}", pair.bob_session, pair.alice_uri)),
        ("more behind", format!("{} {} {}", pair.bob_session, pair.bob_uri, pair.alice_uri)),
    ] {
        for core in [0, 1] {
            let conn = world.connect(core);
            let uri = world.end(conn).uri.clone();
            world.send(conn, Request::send(&to, &uri, "mess", b"x").bytes());
            assert_eq!(world.take_one(conn).status(), 481, "{why}");
            world.lose(conn);
        }
    }
    assert!(world.take(pair.bob).is_empty());
    world.assert_idle();
}

// 75§7.2: without Failure-Report nothing is answered, not even an error; REPORT never.
#[test]
fn unwanted_answers_are_not_sent() {
    let mut world = World::new(1);
    let to = format!("msrps://{}:2855/abc;tcp msrps://a.example:1/b;tcp", testkit_pure::HOST);
    let conn = world.connect(0);
    let uri = world.end(conn).uri.clone();
    let silent = Request::send(&to, &uri, "mess", b"x").header("Failure-Report", "no");
    let report =
        Request::new("REPORT", &to, &uri).header("Message-ID", "mess").header("Status", "000 200 OK");
    world.send(conn, silent.bytes());
    world.send(conn, report.bytes());
    world.run();
    assert!(world.take(conn).is_empty());
    let partial = Request::send(&to, &uri, "mess", b"x").header("Failure-Report", "partial");
    world.send(conn, partial.bytes());
    assert_eq!(world.take_one(conn).status(), 481);
}

// F6: 200 at once for `yes`, for `partial` and `no` none.
#[test]
fn failure_report_decides_who_gets_200() {
    for (name, mut line) in lines() {
        for (wish, answers) in [("yes", 1), ("partial", 0), ("no", 0)] {
            let world = &mut line.world;
            let request =
                Request::send(&line.path, &line.from_uri, "mess", b"x").header("Failure-Report", wish);
            world.send(line.from, request.bytes());
            world.run();
            assert_eq!(world.take(line.from).len(), answers, "{name} {wish}");
            let frame = only(world.take(line.to), "SEND");
            assert_eq!(frame.header("Failure-Report").as_deref(), Some(wish));
            world.assert_idle();
        }
    }
}

// A10: a stolen URI is worth nothing on another connection.
#[test]
fn stolen_session_uri_on_another_connection_gets_481() {
    for core in [0, 1] {
        let mut world = World::new(2);
        let pair = world.pair(0, 1);
        let thief = world.connect(core);
        for to in [pair.to_bob.clone(), format!("{} msrps://203.0.113.40:1/x;tcp", pair.alice_session)] {
            world.send(thief, Request::send(&to, &pair.alice_uri, "mess", b"x").bytes());
            assert_eq!(world.take_one(thief).status(), 481);
        }
        assert!(world.dialled.is_empty() && world.dials.is_empty());
        assert!(world.take(pair.bob).is_empty());
    }
}

// F5: the URI belongs to the first connection that used it.
#[test]
fn second_connection_for_a_bound_session_gets_506() {
    for (a, b) in LAYOUTS {
        let mut line = line(Shape::Receiver, a, b);
        let world = &mut line.world;
        let first = Request::bodiless(&line.path, &line.from_uri, "mess1");
        world.send(line.from, first.bytes());
        assert_eq!(world.take_one(line.from).status(), 200);
        let second = world.connect(a);
        let request = Request::bodiless(&line.path, &line.from_uri, "mess2");
        world.send(second, request.bytes());
        assert_eq!(world.take_one(second).status(), 506);
        assert_eq!(only(world.take(line.to), "SEND").message_id(), "mess1");
    }
}

// F5 for sessions of this relay: a third one cannot join.
#[test]
fn third_session_gets_506_and_may_still_go_elsewhere() {
    for (a, b) in LAYOUTS {
        let mut world = World::new(2);
        let pair = world.pair(a, b);
        world.send(pair.alice, Request::bodiless(&pair.to_bob, &pair.alice_uri, "mess").bytes());
        assert_eq!(world.take_one(pair.alice).status(), 200);
        let (carol, session) = world.client(a, "carol");
        let uri = world.end(carol).uri.clone();
        let to = format!("{session} {} {}", pair.bob_session, pair.bob_uri);
        world.send(carol, Request::bodiless(&to, &uri, "mess2").bytes());
        world.run();
        // Across cores it may have been answered before it is refused.
        let told = world.take(carol).pop().unwrap();
        let code = if told.is("REPORT") { told.reported() } else { told.status() };
        assert_eq!(code, 506);
        // A link that never came up binds nothing.
        let (dave, dave_session) = world.client(b, "bob");
        let dave_uri = world.end(dave).uri.clone();
        let to = format!("{session} {dave_session} {dave_uri}");
        world.send(carol, Request::bodiless(&to, &uri, "mess3").bytes());
        assert_eq!(world.take_one(carol).status(), 200);
        assert_eq!(only(world.take(dave), "SEND").message_id(), "mess3");
        assert_eq!(only(world.take(pair.bob), "SEND").message_id(), "mess");
    }
}

// Decision 2: once bound, another next hop is 481.
#[test]
fn bound_session_does_not_go_elsewhere() {
    let mut line = line(Shape::Sender, 0, 0);
    let world = &mut line.world;
    let session = line.path.split(' ').next().unwrap();
    let to = format!("{session} msrps://203.0.113.41:49300/other;tcp");
    world.send(line.from, Request::bodiless(&to, &line.from_uri, "mess").bytes());
    assert_eq!(world.take_one(line.from).status(), 481);
    assert_eq!(world.dialled.len(), 1);
}

// F4: the same URI twice in a path.
#[test]
fn same_uri_twice_in_a_path_gets_400() {
    let mut world = World::new(1);
    let pair = world.pair(0, 0);
    let to = format!("{0} {0} {1}", pair.alice_session, pair.bob_uri);
    world.send(pair.alice, Request::bodiless(&to, &pair.alice_uri, "mess").bytes());
    assert_eq!(world.take_one(pair.alice).status(), 400);
}

// F1, S3, T5: a next hop that cannot be dialled is a 408, the same for all reasons.
#[test]
fn next_hop_that_cannot_be_dialled_gets_408() {
    let mut settings = settings(1);
    settings.outbound_plain = false;
    let mut world = World::with(settings);
    let (alice, session) = world.client(0, "alice");
    let uri = world.end(alice).uri.clone();
    for next in
        ["msrp://203.0.113.40:49300/x;tcp", "msrps://203.0.113.40:49300/x;ws", "msrps://peer.example/x;tcp"]
    {
        let to = format!("{session} {next}");
        world.send(alice, Request::bodiless(&to, &uri, "mess").bytes());
        assert_eq!(world.take_one(alice).status(), 408, "{next}");
    }
    assert!(world.dials.is_empty());
    // Nothing was bound by that.
    let to = format!("{session} msrps://203.0.113.40:49300/x;tcp");
    world.send(alice, Request::bodiless(&to, &uri, "mess").bytes());
    assert_eq!(world.take_one(alice).status(), 200);
}

// S2: with more URIs after it the next hop is a relay.
#[test]
fn next_hop_with_more_behind_it_is_dialled_as_a_relay() {
    let mut world = World::new(1);
    let (alice, session) = world.client(0, "alice");
    let uri = world.end(alice).uri.clone();
    let to = format!("{session} msrps://r2.alder.example:2855/Gm4y;tcp msrps://192.0.2.1:5/b;tcp");
    world.send(alice, Request::bodiless(&to, &uri, "mess").bytes());
    world.run();
    let (target, conn) = world.dialled[0].clone();
    assert!(target.relay && target.secure);
    assert_eq!((&*target.host, target.port), ("r2.alder.example", 2855));
    let frame = only(world.take(conn), "SEND");
    assert_eq!(frame.to_path(), "msrps://r2.alder.example:2855/Gm4y;tcp msrps://192.0.2.1:5/b;tcp");
}

// Q2: a response that no request awaits, or a second one, is dropped.
#[test]
fn stray_responses_are_dropped_silently() {
    let mut line = line(Shape::Both, 0, 1);
    let world = &mut line.world;
    let request = Request::send(&line.path, &line.from_uri, "mess", b"x");
    world.send(line.from, request.bytes());
    world.run();
    world.take(line.from);
    let frame = only(world.take(line.to), "SEND");
    let first = line.path.split(' ').nth(1).unwrap();
    world.send(line.to, response("absent00", 413, first, &line.to_uri));
    world.send(line.to, frame.response(200));
    world.send(line.to, frame.response(413));
    world.send(line.from, response(frame.tid(), 413, first, &line.from_uri));
    world.run();
    assert!(world.take(line.from).is_empty());
    assert!(world.take(line.to).is_empty());
    assert!(!world.is_closed(line.to) && !world.is_closed(line.from));
    assert_eq!(world.relay(1).stats().strays_dropped, 2);
}

// I5: a response whose To-Path is wrong is known by its transaction id.
#[test]
fn response_with_a_wrong_path_still_ends_its_transaction() {
    let mut line = line(Shape::Both, 0, 0);
    let world = &mut line.world;
    let request = Request::send(&line.path, &line.from_uri, "mess", b"x");
    world.send(line.from, request.bytes());
    world.run();
    world.take(line.from);
    let frame = only(world.take(line.to), "SEND");
    world.send(line.to, response(frame.tid(), 200, &line.from_uri, &line.to_uri));
    world.run();
    assert_eq!(world.sizes().transactions, 0);
    world.advance(Duration::from_secs(40));
    assert!(world.take(line.from).is_empty());
}

// Q2, S7: a response with a defective head is dropped, whatever its transaction id.
#[test]
fn defective_response_is_not_forwarded() {
    let mut line = line(Shape::Both, 0, 1);
    let world = &mut line.world;
    let request = Request::new("NICKNAME", &line.path, &line.from_uri);
    world.send(line.from, request.bytes());
    world.run();
    let frame = only(world.take(line.to), "NICKNAME");
    let good = String::from_utf8(frame.response(200)).unwrap();
    world.send(line.to, good.replace("From-Path", "X: a\0b\r\nFrom-Path"));
    world.send(line.to, good.replace("To-Path", "No-Path"));
    world.run();
    assert!(world.take(line.from).is_empty());
    world.send(line.to, good);
    world.run();
    assert_eq!(only(world.take(line.from), "200").tid(), request.tid);
}

// C4: delimited but wrong: 400 where a response is due; the connection lives on.
#[test]
fn defective_request_gets_400_and_its_connection_lives_on() {
    let mut line = line(Shape::Both, 0, 1);
    let world = &mut line.world;
    let bad = Request::new("SEND", &line.path, &line.from_uri)
        .header("Message-ID", "mess")
        .header("Byte-Range", "0-5/5")
        .body(b"hello");
    world.send(line.from, bad.bytes());
    assert_eq!(world.take_one(line.from).status(), 400);
    world.send(line.from, Request::send(&line.path, &line.from_uri, "mess", b"x").bytes());
    assert_eq!(world.take_one(line.from).status(), 200);
}

// C4: if the end of the frame cannot be found, the connection closes, and only that one.
#[test]
fn unparseable_input_ends_its_own_connection_only() {
    let mut world = World::new(2);
    let pair = world.pair(0, 1);
    let stranger = world.connect(0);
    world.send(stranger, "GET / HTTP/1.1\r\n\r\n");
    world.run();
    assert!(world.is_closed(stranger));
    world.send(pair.alice, Request::send(&pair.to_bob, &pair.alice_uri, "m001", b"x").bytes());
    assert_eq!(world.take_one(pair.alice).status(), 200);
    assert_eq!(world.take(pair.bob).len(), 1);
}

// G9: numbers at the edge of 64 bits neither panic nor wrap.
#[test]
fn byte_range_at_the_edge_of_64_bits_is_harmless() {
    for start in [u64::MAX, u64::MAX - 1, u64::MAX - 5000] {
        for bytes in [1, 10, 5000, 200_000] {
            for wish in ["yes", "partial"] {
                let mut line = line(Shape::Both, 0, 1);
                let world = &mut line.world;
                let body = pattern(bytes);
                let request = Request::new("SEND", &line.path, &line.from_uri)
                    .header("Message-ID", "mess")
                    .header("Byte-Range", &format!("{start}-*/*"))
                    .header("Failure-Report", wish)
                    .body(&body);
                let bytes = request.bytes();
                world.link_mut(line.to).window = 1;
                world.send(line.from, &bytes[..bytes.len() - 3]);
                world.run();
                let back = Request::bodiless(&line.back, &line.to_uri, "back");
                world.send(line.to, back.bytes());
                world.link_mut(line.to).window = usize::MAX;
                world.send(line.from, &bytes[bytes.len() - 3..]);
                world.run();
                let frames = world.take(line.to);
                let got: usize = frames.iter().map(|f| f.body.len()).sum();
                assert_eq!(got, body.len());
                world.lose(line.to);
                world.run();
            }
        }
    }
}
