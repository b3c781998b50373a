//! Requirements F6 to F10 and F13 to F14: responses, timers, REPORTs, and messages that end early (RFC 4976, 6.4.1).

use std::time::Duration;

use msrp_proto::parser::Flag;

use super::{FAR, words};
use testkit_pure::frame::pattern;
use testkit_pure::line::{Shape, line, lines, only};
use testkit_pure::{Frame, Request, World, settings};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

// F6: the response goes to the previous hop alone, from the URI it addressed, under the request's own id.
#[test]
fn final_response_goes_to_the_previous_hop_only() {
    let mut world = World::new(1);
    let (bob, session) = world.client(0, "bob");
    let bob_uri = world.end(bob).uri.clone();
    let conn = world.connect(0);
    let from = "msrps://r9.alder.example:2855/abc;tcp msrps://192.0.2.9:5000/def;tcp";
    let request = Request::send(&format!("{session} {bob_uri}"), from, "mess", b"x");
    world.send(conn, request.bytes());
    let answer = world.take_one(conn);
    assert_eq!((answer.status(), answer.tid()), (200, &*request.tid));
    assert_eq!(answer.to_path(), "msrps://r9.alder.example:2855/abc;tcp");
    assert_eq!(answer.from_path(), session);
    let frame = only(world.take(bob), "SEND");
    assert_eq!(frame.from_path(), format!("{session} {from}"));
}

// F6, I12: whatever else waits for a client, the 200 to its own SEND is written first.
#[test]
fn answer_to_a_send_precedes_everything_queued_to_that_client() {
    for (name, mut line) in lines() {
        let world = &mut line.world;
        // Already bound, where a stranger must have been heard first.
        world.send(line.from, Request::bodiless(&line.path, &line.from_uri, "first").bytes());
        world.run();
        world.take(line.from);
        world.link_mut(line.from).stalled = true;
        for n in 0..3 {
            let id = format!("back{n}");
            world.send(line.to, Request::send(&line.back, &line.to_uri, &id, b"text").bytes());
        }
        world.run();
        let request = Request::bodiless(&line.path, &line.from_uri, "mess");
        world.send(line.from, request.bytes());
        world.run();
        world.link_mut(line.from).stalled = false;
        world.run();
        let frames = world.take(line.from);
        assert_eq!(words(&frames), ["200", "SEND", "SEND", "SEND"], "{name}");
        assert_eq!(frames[0].tid(), request.tid);
    }
}

// F6: 200 says that we have the chunk: it comes after the end-line, not before.
#[test]
fn chunk_is_answered_after_its_end_line() {
    let mut line = line(Shape::Both, 0, 1);
    let world = &mut line.world;
    let request = Request::send(&line.path, &line.from_uri, "mess", &pattern(50_000)).bytes();
    world.send(line.from, &request[..request.len() - 1]);
    world.run();
    assert!(world.take(line.from).is_empty());
    world.send(line.from, &request[request.len() - 1..]);
    assert_eq!(world.take_one(line.from).status(), 200);
}

// F8: the 30 s begin when the last byte has been handed over, not while it waits for a slow receiver.
#[test]
fn time_in_a_queue_is_not_time_without_an_answer() {
    let mut line = line(Shape::Both, 0, 1);
    let world = &mut line.world;
    world.link_mut(line.to).stalled = true;
    world.send(line.from, Request::send(&line.path, &line.from_uri, "mess", b"x").bytes());
    assert_eq!(world.take_one(line.from).status(), 200);
    world.advance(seconds(20));
    world.link_mut(line.to).stalled = false;
    world.advance(seconds(25));
    let frame = only(world.take(line.to), "SEND");
    assert!(world.take(line.from).is_empty());
    world.send(line.to, frame.response(200));
    world.advance(seconds(60));
    assert!(world.take(line.from).is_empty());
}

// F8: under `partial` an error counts for 30 s, silence never.
#[test]
fn error_under_partial_is_reported_within_30_s_only() {
    for (after, reports) in [(29, 1), (31, 0)] {
        let mut line = line(Shape::Both, 0, 1);
        let world = &mut line.world;
        let request =
            Request::send(&line.path, &line.from_uri, "mess", b"x").header("Failure-Report", "partial");
        world.send(line.from, request.bytes());
        world.run();
        let frame = only(world.take(line.to), "SEND");
        world.advance(seconds(after));
        world.send(line.to, frame.response(415));
        world.run();
        let told = world.take(line.from);
        assert_eq!(told.iter().filter(|frame| frame.is("REPORT")).count(), reports, "{after} s");
        assert_eq!(told.len(), reports);
    }
}

// X6, F9: the REPORT of a timeout, byte for byte: no Failure-Report, no Success-Report, no body.
#[test]
fn report_of_a_timeout_is_as_in_the_worked_example() {
    let w = "msrps://198.51.100.23:41502/u4Kd0wR9sQ2mZ7;tcp";
    let mut world = World::new(1);
    let wren = world.connect(0);
    let u1 = world.auth_as(wren, "alice", w);
    let body = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    let request = Request::new("SEND", &format!("{u1} {FAR}"), w)
        .header("Message-ID", "m4b7e90c3f15")
        .header("Success-Report", "yes")
        .header("Byte-Range", "1-*/36")
        .body(body);
    world.send(wren, request.bytes());
    assert_eq!(world.take_one(wren).status(), 200);
    world.advance(seconds(31));
    let report = only(world.take(wren), "REPORT");
    let expected = format!(
        "MSRP r8Df6Tk2Ue9m REPORT\r\nTo-Path: {w}\r\nFrom-Path: {u1}\r\nMessage-ID: m4b7e90c3f15\r\n\
         Byte-Range: 1-36/36\r\nStatus: 000 408 Request Timeout\r\n-------r8Df6Tk2Ue9m$\r\n"
    );
    assert_eq!(report.text_with_tid("r8Df6Tk2Ue9m"), expected);
}

// F10: a client that goes away with requests running through its session: their senders get 481.
#[test]
fn request_running_when_its_session_ends_gets_481() {
    for shape in [Shape::Both, Shape::Receiver] {
        let mut line = line(shape, 0, 1);
        let world = &mut line.world;
        let request = Request::send(&line.path, &line.from_uri, "mess", &pattern(50_000)).bytes();
        world.send(line.from, &request[..20_000]);
        world.run();
        world.lose(line.to);
        world.send(line.from, &request[20_000..]);
        world.run();
        let told = world.take(line.from);
        assert_eq!(told.len(), 1, "{shape:?} {told:?}");
        assert_eq!(told[0].status(), 481);
        world.assert_idle();
    }
}

// F9: no report goes over a lost connection, and none causes a dial.
#[test]
fn report_for_a_connection_that_is_gone_is_not_sent() {
    for (name, mut line) in lines() {
        let world = &mut line.world;
        world.send(line.from, Request::send(&line.path, &line.from_uri, "mess", b"x").bytes());
        world.run();
        let frame = only(world.take(line.to), "SEND");
        let dialled = world.dialled.len();
        world.lose(line.from);
        world.run();
        if !world.is_closed(line.to) {
            world.send(line.to, frame.response(415));
        }
        world.advance(seconds(60));
        assert!(world.take(line.to).is_empty(), "{name}");
        assert_eq!((world.dialled.len(), world.dials.len()), (dialled, 0));
        world.close_all();
    }
}

// F9: a chunk without content that fails is reported as such.
#[test]
fn failure_of_a_bodiless_send_is_reported_with_an_empty_range() {
    for (name, mut line) in lines() {
        let world = &mut line.world;
        world.send(line.from, Request::bodiless(&line.path, &line.from_uri, "mess").bytes());
        world.run();
        world.take(line.from);
        let frame = only(world.take(line.to), "SEND");
        world.send(line.to, frame.response(481));
        let report = world.take_one(line.from);
        assert_eq!((report.reported(), &*report.range_text()), (481, "1-0/0"), "{name}");
    }
}

// F13: queued bytes of a message that its sender aborts are not sent any more.
#[test]
fn queued_bytes_of_an_aborted_message_are_dropped() {
    for (name, mut line) in lines() {
        let world = &mut line.world;
        world.link_mut(line.to).window = 1;
        let request = Request::new("SEND", &line.path, &line.from_uri)
            .header("Message-ID", "mess")
            .header("Byte-Range", "1-*/*")
            .body(&pattern(250_000))
            .flag(Flag::Aborted);
        world.send(line.from, request.bytes());
        world.run();
        world.link_mut(line.to).window = usize::MAX;
        world.run();
        let frame = only(world.take(line.to), "SEND");
        assert_eq!(frame.flag, Flag::Aborted, "{name}");
        let flush = settings(1).limits.flush_bytes_max;
        assert!(frame.body.len() <= flush, "{name}: {}", frame.body.len());
        assert!(frame.body == pattern(250_000)[..frame.body.len()]);
        world.assert_idle();
    }
}

// F14: 413 stops the chunk that is being written, and its sender.
#[test]
fn unwanted_chunk_is_aborted_at_once() {
    for (name, mut line) in lines() {
        let world = &mut line.world;
        let request = Request::send(&line.path, &line.from_uri, "mess", &pattern(50_000)).bytes();
        world.send(line.from, &request[..30_000]);
        world.run();
        let tid = world.end(line.to).arriving().unwrap().tid().to_owned();
        let first = line.back.split(' ').next().unwrap().to_owned();
        world.send(line.to, testkit_pure::frame::response(&tid, 413, &first, &line.to_uri));
        world.run();
        assert_eq!(only(world.take(line.to), "SEND").flag, Flag::Aborted, "{name}");
        assert_eq!(only(world.take(line.from), "413").status(), 413, "{name}");
    }
}

// F14: the refused chunk may have been written long ago, and the next one of its message be on the wire.
#[test]
fn a_413_for_an_earlier_chunk_interrupts_the_running_one_of_its_message() {
    for (running, aborted) in [("unwanted", true), ("another", false)] {
        for (name, mut line) in lines() {
            let world = &mut line.world;
            let earlier = Request::new("SEND", &line.path, &line.from_uri)
                .header("Message-ID", "unwanted")
                .header("Byte-Range", "1-5000/*")
                .body(&pattern(5_000))
                .flag(Flag::More);
            world.send(line.from, earlier.bytes());
            assert_eq!(world.take_one(line.from).status(), 200);
            let answer = world.take(line.to)[0].response(413);
            let later = Request::new("SEND", &line.path, &line.from_uri)
                .header("Message-ID", running)
                .header("Byte-Range", if aborted { "5001-*/*" } else { "1-*/*" })
                .body(&pattern(50_000))
                .bytes();
            world.send(line.from, &later[..later.len() - 20_000]);
            world.run();
            assert!(world.end(line.to).in_frame(), "{name}");
            world.send(line.to, answer);
            world.run();
            assert_eq!(world.end(line.to).in_frame(), !aborted, "{name}");
            world.send(line.from, &later[later.len() - 20_000..]);
            world.run();
            let frame = only(world.take(line.to), "SEND");
            let told = world.take(line.from);
            if aborted {
                assert_eq!(frame.flag, Flag::Aborted, "{name}");
                assert!(told.iter().any(|frame| frame.is("413")), "{name}: {told:?}");
            } else {
                assert_eq!((frame.flag, frame.body.len()), (Flag::Last, 50_000), "{name}");
                assert!(told.iter().any(|frame| frame.is("200")), "{name}: {told:?}");
            }
            let reports = told.iter().filter(|frame| frame.is("REPORT") && frame.reported() == 413);
            assert_eq!(reports.count(), 1, "{name}: {told:?}");
            world.take(line.to);
            world.advance(Duration::from_secs(31));
            world.assert_idle();
        }
    }
}

// F14: the waiting chunks of the refused message are not written, and everything else is; their bytes are credited.
#[test]
fn a_413_takes_the_waiting_chunks_of_its_message_and_no_others() {
    for (name, mut line) in lines() {
        let world = &mut line.world;
        let chunk = |id: &str, start: usize| {
            Request::new("SEND", &line.path, &line.from_uri)
                .header("Message-ID", id)
                .header("Byte-Range", &format!("{start}-{}/*", start + 4_999))
                .body(&pattern(5_000))
                .flag(Flag::More)
                .bytes()
        };
        world.send(line.from, chunk("unwanted", 1));
        assert_eq!(world.take_one(line.from).status(), 200);
        let answer = world.take(line.to)[0].response(413);
        world.link_mut(line.to).window = 0;
        for (id, start) in [("wanted", 1), ("unwanted", 5_001), ("unwanted", 10_001), ("wanted", 5_001)] {
            world.send(line.from, chunk(id, start));
        }
        world.run();
        world.send(line.to, answer);
        world.run();
        world.link_mut(line.to).window = usize::MAX;
        world.run();
        let arrived: Vec<(String, u64)> =
            world.take(line.to).iter().map(|frame| (frame.message_id(), frame.range().start)).collect();
        assert_eq!(arrived, [("wanted".to_owned(), 1), ("wanted".to_owned(), 5_001)], "{name}");
        let told = world.take(line.from);
        let reported = |frame: &&Frame| frame.is("REPORT") && frame.reported() == 413;
        let ranges: Vec<u64> = told.iter().filter(reported).map(|frame| frame.range().start).collect();
        assert_eq!(ranges, [1, 5_001], "{name}: {told:?}");
        world.advance(Duration::from_secs(31));
        world.assert_idle();
    }
}

// F14: after a 413 no further chunk of that message leaves; a sender that continues gets 413 from us.
#[test]
fn message_that_was_stopped_stays_stopped() {
    for (name, mut line) in lines() {
        let world = &mut line.world;
        let chunk = |id: &str, start: usize| {
            Request::new("SEND", &line.path, &line.from_uri)
                .header("Message-ID", id)
                .header("Byte-Range", &format!("{start}-*/*"))
                .body(&pattern(5_000))
                .flag(Flag::More)
        };
        world.send(line.from, chunk("unwanted", 1).bytes());
        assert_eq!(world.take_one(line.from).status(), 200);
        let frames = world.take(line.to);
        world.send(line.to, frames[0].response(413));
        let report = world.take_one(line.from);
        assert_eq!((report.reported(), &*report.message_id()), (413, "unwanted"));
        world.send(line.from, chunk("unwanted", 5_001).bytes());
        world.run();
        let mut told = world.take(line.from);
        // Between two sessions the first hop has the chunk before the second refuses it.
        let notice = told.pop().unwrap();
        let code = if notice.is("REPORT") { notice.reported() } else { notice.status() };
        assert_eq!(code, 413, "{name}");
        assert!(told.len() <= usize::from(notice.is("REPORT")) && told.iter().all(|frame| frame.is("200")));
        assert!(world.take(line.to).is_empty());
        world.send(line.from, chunk("another", 1).bytes());
        assert_eq!(world.take_one(line.from).status(), 200);
        assert_eq!(world.take(line.to)[0].message_id(), "another");
    }
}

// F8, F10: under `partial` silence is no failure, so a receiver that leaves after the last byte was written is none
// either; one that leaves before is.
#[test]
fn receiver_that_leaves_is_no_failure_of_what_it_was_sent_under_partial() {
    for (written, reports) in [(true, 0), (false, 1)] {
        for (name, mut line) in lines() {
            line.bind();
            let world = &mut line.world;
            world.link_mut(line.to).stalled = !written;
            let request =
                Request::send(&line.path, &line.from_uri, "mess", b"x").header("Failure-Report", "partial");
            world.send(line.from, request.bytes());
            world.run();
            world.lose(line.to);
            world.advance(seconds(60));
            let told = world.take(line.from);
            assert_eq!(words(&told), vec!["REPORT"; reports], "{name} {written}");
        }
    }
}
