//! A failure is reported once, to the peer that asked for it (RFC 4976, 6.4.1 and 6.4.3).
//!
//! Long because it is a list: each test stands alone, and all share the fixtures at the top.

use std::time::Duration;

use msrp_proto::parser::Flag;

use testkit_pure::endpoint::Answers;
use testkit_pure::frame::pattern;
use testkit_pure::line::{LAYOUTS, Line, Shape, joined, line, lines, only};
use testkit_pure::{Conn, Decision, Frame, Request, World, relay_uri};

const FAR: &str = "msrps://203.0.113.40:49300/p8Yc2nB6vH1xLk;tcp";

/// What the sender heard: codes of error responses, and of failure REPORTs with their ranges.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    errors: Vec<u16>,
    reports: Vec<(String, u16, String)>,
    ok: usize,
}

fn told(frames: &[Frame]) -> Told {
    let mut told = Told::default();
    for frame in frames {
        if frame.is("REPORT") {
            let id = frame.message_id();
            told.reports.push((id, frame.reported(), frame.range_text()));
        } else if frame.is("200") {
            told.ok += 1;
        } else if !frame.is("SEND") {
            told.errors.push(frame.status());
        }
    }
    told
}

fn send(world: &mut World, line: &Ends, id: &str, body: &[u8], wish: &str) -> Request {
    let request = Request::send(&line.path, &line.from_uri, id, body).header("Failure-Report", wish);
    world.send(line.from, request.bytes());
    world.run();
    request
}

/// A line without its world.
struct Ends {
    from: Conn,
    to: Conn,
    path: String,
    from_uri: String,
    back: String,
    to_uri: String,
}

fn split(line: Line) -> (World, Ends) {
    let ends = Ends {
        from: line.from,
        to: line.to,
        path: line.path,
        from_uri: line.from_uri,
        back: line.back,
        to_uri: line.to_uri,
    };
    (line.world, ends)
}

fn all_lines() -> impl Iterator<Item = (String, World, Ends)> {
    lines().map(|(name, line)| {
        let (world, ends) = split(line);
        (name, world, ends)
    })
}

/// The sender's request as far as `bytes` of its body.
fn begin(world: &mut World, ends: &Ends, id: &str, body: &[u8], bytes: usize) -> Request {
    let request = Request::send(&ends.path, &ends.from_uri, id, body);
    world.send(ends.from, request.head());
    world.send(ends.from, &body[..bytes]);
    world.run();
    request
}

// F10: no connection: Failure-Report decides what is reported; the sender has its 200 already.
#[test]
fn dial_that_fails_is_told_by_a_report_408() {
    for (wish, reports) in [("yes", 1), ("partial", 1), ("no", 0)] {
        let mut world = World::new(1);
        world.dial_decision = Decision::Hold;
        let (alice, session) = world.client(0, "alice");
        let uri = world.end(alice).uri.clone();
        let to = format!("{session} {FAR}");
        let request = Request::send(&to, &uri, "mess1", b"hello").header("Failure-Report", wish);
        world.send(alice, request.bytes());
        world.run();
        world.finish_dial(0, false);
        world.run();
        let told = told(&world.take(alice));
        assert_eq!(told.ok, usize::from(wish == "yes"));
        let expected = vec![("mess1".to_owned(), 408, "1-5/5".to_owned()); reports];
        assert_eq!(told.reports, expected, "{wish}");
        assert!(told.errors.is_empty());
        world.assert_idle();

        // Nothing was bound: another attempt dials again.
        world.send(alice, Request::bodiless(&to, &uri, "mess2").bytes());
        world.run();
        assert_eq!(world.dials.len(), 1);
        world.close_all();
    }
}

// F7: as long as the request is not answered, its response is the notice.
#[test]
fn dial_that_fails_under_a_running_chunk_is_told_by_its_response() {
    let mut world = World::new(1);
    world.dial_decision = Decision::Hold;
    let (alice, session) = world.client(0, "alice");
    let uri = world.end(alice).uri.clone();
    let body = pattern(100_000);
    let request = Request::send(&format!("{session} {FAR}"), &uri, "mess1", &body);
    let bytes = request.bytes();
    world.send(alice, &bytes[..60_000]);
    world.run();
    world.finish_dial(0, false);
    world.send(alice, &bytes[60_000..]);
    world.run();
    let told = told(&world.take(alice));
    assert_eq!((told.errors, told.ok), (vec![408], 0));
    assert!(told.reports.is_empty());
    world.assert_idle();
    world.close_all();
}

// X6, F9: the form of a REPORT, whichever hop sends it and however far it goes.
#[test]
fn error_response_becomes_a_report_with_its_code_and_a_computed_range() {
    for (name, mut world, ends) in all_lines() {
        for (wish, reports) in [("yes", 1), ("partial", 1), ("no", 0)] {
            let request = Request::new("SEND", &ends.path, &ends.from_uri)
                .header("Message-ID", "m4b7e90c3f15")
                .header("Byte-Range", "21-*/36")
                .header("Failure-Report", wish)
                .body(b"UVWXYZ0123456789");
            world.send(ends.from, request.bytes());
            world.run();
            world.take(ends.from);
            let frame = only(world.take(ends.to), "SEND");
            world.send(ends.to, frame.response(415));
            world.run();
            let frames = world.take(ends.from);
            assert_eq!(frames.len(), reports, "{name} {wish} {frames:#?}");
            if let Some(report) = frames.first() {
                let own: Vec<&str> = ends.path.split(' ').collect();
                let hops = &own[..own.len() - 1];
                let expected = format!(
                    "MSRP r8Df6Tk2Ue9m REPORT\r\nTo-Path: {}\r\nFrom-Path: {}\r\n\
                     Message-ID: m4b7e90c3f15\r\nByte-Range: 21-36/36\r\n\
                     Status: 000 415 Unsupported Media Type\r\n-------r8Df6Tk2Ue9m$\r\n",
                    ends.from_uri,
                    hops.join(" "),
                );
                assert_eq!(report.text_with_tid("r8Df6Tk2Ue9m"), expected, "{name}");
            }
            world.assert_idle();
            assert_eq!(world.sizes().transactions, 0);
        }
        world.close_all();
    }
}

// A REPORT is never answered, and no REPORT is made of what becomes of it.
#[test]
fn report_is_never_answered_nor_reported() {
    for (name, mut world, ends) in all_lines() {
        send(&mut world, &ends, "hello", b"hi", "yes");
        let frame = world.take(ends.to).pop().unwrap();
        world.send(ends.to, frame.response(200));
        world.take(ends.from);
        let report = Request::new("REPORT", &ends.back, &ends.to_uri)
            .header("Message-ID", "mess1")
            .header("Byte-Range", "1-*/*")
            .header("Status", "000 413 No");
        world.send(ends.to, report.bytes());
        world.run();
        let got = only(world.take(ends.from), "REPORT");
        assert_eq!(world.sizes().transactions, 0, "{name}");
        world.send(ends.from, got.response(481));
        world.run();
        world.lose(ends.from);
        world.send(ends.to, report.bytes());
        world.run();
        let frames = world.take(ends.to);
        assert!(frames.is_empty(), "{name} {frames:#?}");
    }
}

// F14, 75§7.3.2: refused while it is on the wire: `#`, the rest dropped, one response upstream.
#[test]
fn chunk_refused_in_the_middle_is_aborted_and_its_sender_stopped() {
    for (name, mut world, ends) in all_lines() {
        let body = pattern(200_000);
        let request = begin(&mut world, &ends, "mess1", &body, 100_000);
        let arriving = world.end(ends.to).arriving().unwrap().clone();
        world.send(ends.to, arriving.response(413));
        world.run();
        let answer = only(world.take(ends.from), "413");
        assert_eq!(answer.tid(), request.tid, "{name}");
        let frame = only(world.take(ends.to), "SEND");
        assert_eq!(frame.flag, Flag::Aborted, "{name}");
        assert!(body.starts_with(&frame.body));

        world.send(ends.from, &body[100_000..]);
        world.send(ends.from, request.end_line());
        world.run();
        assert!(world.take(ends.from).is_empty(), "told twice");
        assert!(world.take(ends.to).is_empty());
        send(&mut world, &ends, "mess2", b"next", "no");
        assert_eq!(only(world.take(ends.to), "SEND").body, b"next");
        world.assert_idle();
        assert_eq!(world.sizes().transactions, 0);
        world.close_all();
    }
}

// F7: the whole of a request that has been answered and is refused is reported, once.
#[test]
fn complete_request_refused_while_it_is_written_is_reported_as_a_whole() {
    for (name, mut world, ends) in all_lines() {
        let body = pattern(200_000);
        world.link_mut(ends.to).window = 1;
        send(&mut world, &ends, "mess1", &body, "yes");
        let arriving = world.end(ends.to).arriving().unwrap().clone();
        world.send(ends.to, arriving.response(413));
        world.run();
        world.link_mut(ends.to).window = usize::MAX;
        world.run();
        let frame = only(world.take(ends.to), "SEND");
        assert_eq!(frame.flag, Flag::Aborted, "{name}");
        let told = told(&world.take(ends.from));
        assert_eq!(told.ok, 1);
        let expected = ("mess1".to_owned(), 413, "1-200000/200000".to_owned());
        assert_eq!(told.reports, [expected], "{name}");
        assert!(told.errors.is_empty());
        world.advance(Duration::from_secs(60));
        assert!(world.take(ends.from).is_empty(), "{name}");
        world.assert_idle();
        world.close_all();
    }
}

// F10: the receiver goes in the middle of a file: one notice, whatever had been answered by then.
#[test]
fn receiver_lost_in_the_middle_of_a_file_is_told_exactly_once() {
    for complete in [false, true] {
        for (name, mut world, ends) in all_lines() {
            let body = pattern(200_000);
            world.link_mut(ends.to).window = 50_000;
            let request = begin(&mut world, &ends, "mess1", &body, 150_000);
            if complete {
                world.send(ends.from, &body[150_000..]);
                world.send(ends.from, request.end_line());
                world.run();
            }
            world.lose(ends.to);
            world.run();
            if !complete {
                world.send(ends.from, &body[150_000..]);
                world.send(ends.from, request.end_line());
                world.run();
            }
            let told = told(&world.take(ends.from));
            assert_eq!(told.errors.len() + told.reports.len(), 1, "{name} {told:?}");
            assert_eq!(told.ok, usize::from(complete), "{name}");
            if complete {
                let expected = ("mess1".to_owned(), 408, "1-200000/200000".to_owned());
                assert_eq!(told.reports, [expected]);
            } else {
                assert_eq!(told.errors, [481]);
            }
            // From then on the receiver is gone.
            let late = send(&mut world, &ends, "mess2", b"x", "yes");
            let answer = only(world.take(ends.from), "481");
            assert_eq!(answer.tid(), late.tid);
            world.assert_idle();
            world.close_all();
        }
    }
}

// F10 across cores: the connection is gone, and its session's home has not heard of it yet. However much of the request
// is under way by then, one notice covers all of it.
#[test]
fn bytes_under_way_to_a_lost_connection_are_told_of_once() {
    for shape in [Shape::Both, Shape::Receiver] {
        for (a, b) in LAYOUTS {
            // How much has been delivered, how much sent; `None`: not even the head has been.
            for (delivered, sent) in [
                (None, 30_000),
                (Some(0), 30_000),
                (Some(10_000), 30_000),
                (Some(30_000), 30_000),
                (None, 20_000),
                (Some(0), 20_000),
                (Some(10_000), 20_000),
            ] {
                let (mut world, ends) = split(line(shape, a, b));
                send(&mut world, &ends, "hello", b"hi", "no");
                world.take(ends.to);
                let body = pattern(30_000);
                // From the client to the other side, whose core may be another than the session's.
                let request =
                    Request::new("SEND", &ends.back, &ends.to_uri).header("Message-ID", "mess1").body(&body);
                world.hold_messages = delivered.is_none();
                let before = delivered.unwrap_or(0);
                world.send(ends.to, request.head());
                world.send(ends.to, &body[..before]);
                world.run();
                world.hold_messages = true;
                world.send(ends.to, &body[before..sent]);
                if sent == body.len() {
                    world.send(ends.to, request.end_line());
                }
                world.run();
                world.lose(ends.from);
                world.hold_messages = false;
                world.run();
                world.send(ends.to, &body[sent..]);
                if sent < body.len() {
                    world.send(ends.to, request.end_line());
                }
                world.run();
                let told = told(&world.take(ends.to));
                let name = format!("{shape:?} {a} {b} {delivered:?} {sent} {told:?}");
                assert_eq!(told.errors.len() + told.reports.len(), 1, "{name}");
                assert_eq!(told.ok, told.reports.len(), "{name}");
                for (_, _, range) in &told.reports {
                    assert!(range.starts_with("1-30000/"), "{name}");
                }
                world.assert_idle();
                world.close_all();
            }
        }
    }
}

// S15: one REPORT per message, though it was sent in many chunks.
#[test]
fn unanswered_chunks_of_a_message_are_merged_into_one_report_on_disconnect() {
    for (name, mut world, ends) in all_lines() {
        for id in ["mess1", "mess2"] {
            for n in 0..5 {
                let (start, flag) = (n * 10 + 1, if n < 4 { Flag::More } else { Flag::Last });
                let request = Request::new("SEND", &ends.path, &ends.from_uri)
                    .header("Message-ID", id)
                    .header("Byte-Range", &format!("{start}-{}/50", start + 9))
                    .body(&[b'x'; 10])
                    .flag(flag);
                world.send(ends.from, request.bytes());
            }
        }
        world.run();
        assert_eq!(world.take(ends.to).len(), 10);
        assert_eq!(told(&world.take(ends.from)).ok, 10);
        world.lose(ends.to);
        world.run();
        let told = told(&world.take(ends.from));
        let expected = ["mess1", "mess2"].map(|id| (id.to_owned(), 408, "1-50/50".to_owned()));
        assert_eq!(told.reports, expected, "{name}");
    }
}

// F9, S15: bytes between two failures have arrived: no REPORT covers them.
#[test]
fn answered_chunks_are_not_in_the_range_of_a_report() {
    let (mut world, ends) = split(line(Shape::Both, 0, 1));
    for n in 0..5 {
        let (start, flag) = (n * 10 + 1, if n < 4 { Flag::More } else { Flag::Last });
        let request = Request::new("SEND", &ends.path, &ends.from_uri)
            .header("Message-ID", "mess1")
            .header("Byte-Range", &format!("{start}-{}/50", start + 9))
            .body(&[b'x'; 10])
            .flag(flag);
        world.send(ends.from, request.bytes());
    }
    world.run();
    let frames = world.take(ends.to);
    world.send(ends.to, frames[1].response(200));
    world.send(ends.to, frames[4].response(200));
    world.run();
    world.lose(ends.to);
    world.run();
    let told = told(&world.take(ends.from));
    let ranges: Vec<&str> = told.reports.iter().map(|(_, _, range)| &**range).collect();
    assert_eq!(ranges, ["1-10/50", "21-40/50"]);
}

/// Sends a message of 600,000 bytes, possibly without its end. The receiver gets it in pieces, because it asks for
/// answers meanwhile.
fn send_in_pieces(world: &mut World, ends: &Ends, complete: bool) -> (Request, Vec<u8>) {
    let body = pattern(600_000);
    world.end(ends.from).answers = Answers::Always(200);
    world.link_mut(ends.to).window = 1;
    let request = Request::send(&ends.path, &ends.from_uri, "mess1", &body);
    world.send(ends.from, request.head());
    world.send(ends.from, &body[..599_000]);
    if complete {
        world.send(ends.from, &body[599_000..]);
        world.send(ends.from, request.end_line());
    }
    for _ in 0..3 {
        world.run();
        let back = Request::bodiless(&ends.back, &ends.to_uri, "back");
        world.send(ends.to, back.bytes());
        world.link_mut(ends.to).window = 1;
    }
    world.run();
    world.link_mut(ends.to).window = usize::MAX;
    world.run();
    world.take(ends.from);
    (request, body)
}

// F7, F14: each piece of a cut chunk may be refused; it is one failure.
#[test]
fn refusal_of_every_piece_of_a_cut_chunk_is_told_once() {
    for (name, mut world, ends) in all_lines() {
        let (request, body) = send_in_pieces(&mut world, &ends, false);
        let pieces = world.take(ends.to);
        let pieces: Vec<&Frame> = pieces.iter().filter(|f| f.is("SEND")).collect();
        assert!(pieces.len() > 2);
        for piece in &pieces {
            world.send(ends.to, piece.response(413));
            world.run();
        }
        world.send(ends.from, &body[599_000..]);
        world.send(ends.from, request.end_line());
        world.advance(Duration::from_secs(60));
        let frames = world.take(ends.from);
        let told = told(&frames);
        assert_eq!((told.errors, told.ok), (vec![413], 0), "{name}");
        assert!(told.reports.is_empty());
        world.assert_idle();
        world.close_all();
    }
}

// 75§7.1: a sender that aborts a message knows that it failed; silence about its pieces is no news.
#[test]
fn silence_about_pieces_of_an_aborted_chunk_is_not_told() {
    for (name, mut world, ends) in all_lines() {
        let (request, _) = send_in_pieces(&mut world, &ends, false);
        world.send(ends.from, request.flag(Flag::Aborted).end_line());
        world.run();
        let frame = world.take(ends.to).pop().unwrap();
        assert!(frame.is("SEND") && frame.flag == Flag::Aborted);
        world.take(ends.from);
        world.advance(Duration::from_secs(60));
        let told = told(&world.take(ends.from));
        assert_eq!(told, Told::default(), "{name}");
        assert_eq!(world.sizes().transactions, 0);
        world.assert_idle();
    }
}

// Q2: an answer may come before the end of its chunk, and counts.
#[test]
fn early_200_ends_the_matter() {
    let (mut world, ends) = split(line(Shape::Both, 0, 1));
    let body = pattern(100_000);
    let request = begin(&mut world, &ends, "mess1", &body, 50_000);
    let arriving = world.end(ends.to).arriving().unwrap().clone();
    world.send(ends.to, arriving.response(200));
    world.run();
    world.send(ends.from, &body[50_000..]);
    world.send(ends.from, request.end_line());
    world.run();
    assert_eq!(world.sizes().transactions, 0);
    world.advance(Duration::from_secs(60));
    let told = told(&world.take(ends.from));
    assert_eq!((told.ok, told.reports.len()), (1, 0));
}

// F13: the source dies in the middle of a chunk: the receiver gets `#`, and no peer hangs.
#[test]
fn source_lost_in_the_middle_of_a_chunk_ends_it_with_a_hash() {
    for (name, mut world, ends) in all_lines() {
        let body = pattern(100_000);
        begin(&mut world, &ends, "mess1", &body, 50_000);
        world.lose(ends.from);
        world.run();
        let frame = only(world.take(ends.to), "SEND");
        assert_eq!(frame.flag, Flag::Aborted, "{name}");
        assert_eq!(frame.body, &body[..50_000]);
        if !world.is_closed(ends.to) {
            world.send(ends.to, Request::send(&ends.back, &ends.to_uri, "back", b"x").bytes());
            assert_eq!(world.take_one(ends.to).status(), 481, "{name}");
        }
        world.advance(Duration::from_secs(60));
        world.assert_idle();
        world.close_all();
    }
}

// F13: `#` of the sender is passed on; it gets its response and no notice.
#[test]
fn abort_by_the_sender_is_passed_on() {
    for (name, mut world, ends) in all_lines() {
        let body = pattern(5_000);
        let request = Request::send(&ends.path, &ends.from_uri, "mess1", &body).flag(Flag::Aborted);
        world.send(ends.from, request.bytes());
        world.run();
        let frame = only(world.take(ends.to), "SEND");
        assert_eq!(frame.flag, Flag::Aborted);
        assert_eq!(told(&world.take(ends.from)).ok, 1);
        world.advance(Duration::from_secs(60));
        assert!(world.take(ends.from).is_empty(), "{name}");
        world.assert_idle();
    }
}

// F8: 30 s from the last byte, REPORT 408 for `yes`; for `partial` and `no` silence is fine.
#[test]
fn silence_of_the_receiver_is_reported_for_yes_only() {
    for (name, mut world, ends) in all_lines() {
        for (wish, reports) in [("yes", 1), ("partial", 0), ("no", 0)] {
            send(&mut world, &ends, "mess1", b"hello", wish);
            let frame = only(world.take(ends.to), "SEND");
            world.take(ends.from);
            world.advance(Duration::from_secs(29));
            assert!(world.take(ends.from).is_empty());
            world.advance(Duration::from_secs(2));
            let told = told(&world.take(ends.from));
            let expected = vec![("mess1".to_owned(), 408, "1-5/5".to_owned()); reports];
            assert_eq!(told.reports, expected, "{name} {wish}");
            // A later response is a stray.
            world.send(ends.to, frame.response(500));
            world.run();
            assert!(world.take(ends.from).is_empty());
            assert_eq!(world.sizes().transactions, 0);
            world.assert_idle();
        }
    }
}

// F8: after an answer in time, no report follows.
#[test]
fn answer_in_time_ends_the_matter() {
    let (mut world, ends) = split(line(Shape::Both, 0, 1));
    for n in 0..100 {
        send(&mut world, &ends, &format!("m{n:04}"), b"hello", "yes");
        world.advance(Duration::from_secs(1));
        if n >= 20 {
            // The answers lag by twenty seconds.
            let frame = world.end(ends.to).take_first();
            world.send(ends.to, frame.response(200));
        }
    }
    let told = told(&world.take(ends.from));
    assert_eq!(told.ok, 100);
    assert!(told.reports.is_empty());
}

// F8, F12: pieces of a cut chunk are one request: its silence is told once.
#[test]
fn silence_about_a_cut_chunk_is_told_once() {
    for complete in [false, true] {
        for (name, mut world, ends) in all_lines() {
            let body = pattern(600_000);
            world.end(ends.from).answers = Answers::Always(200);
            world.link_mut(ends.to).window = 1;
            let request = Request::send(&ends.path, &ends.from_uri, "mess1", &body);
            world.send(ends.from, request.head());
            let bytes = if complete { body.len() } else { 599_000 };
            world.send(ends.from, &body[..bytes]);
            if complete {
                world.send(ends.from, request.end_line());
            }
            for _ in 0..3 {
                world.run();
                let back = Request::bodiless(&ends.back, &ends.to_uri, "back");
                world.send(ends.to, back.bytes());
                world.link_mut(ends.to).window = 1;
            }
            world.run();
            if complete {
                world.link_mut(ends.to).window = usize::MAX;
            }
            // Later the rest of it, then silence.
            world.advance(Duration::from_secs(10));
            world.advance(Duration::from_secs(60));
            world.link_mut(ends.to).window = usize::MAX;
            world.advance(Duration::from_secs(60));
            let told = told(&world.take(ends.from));
            let covered: Vec<&str> = told.reports.iter().map(|(_, _, range)| &**range).collect();
            if complete {
                assert!(told.errors.is_empty() && told.ok == 1, "{name} {told:?}");
                assert_eq!(bytes_of(&covered), 600_000, "{name} {covered:?}");
            } else {
                assert_eq!((told.errors, told.ok), (vec![408], 0), "{name}");
                assert!(covered.is_empty(), "{name}");
            }
            world.close_all();
        }
    }
}

/// How many bytes are covered by ranges that follow each other.
fn bytes_of(ranges: &[&str]) -> u64 {
    let mut next = 1;
    for range in ranges {
        let (start, end) = range.split('/').next().unwrap().split_once('-').unwrap();
        assert_eq!(start.parse::<u64>().unwrap(), next, "{ranges:?}");
        next = end.parse::<u64>().unwrap() + 1;
    }
    next - 1
}

// F16: other requests get a response whatever happens to them.
#[test]
fn other_requests_get_408_without_an_answer() {
    for (name, mut world, ends) in all_lines() {
        for lose in [false, true] {
            let request = Request::new("NICKNAME", &ends.path, &ends.from_uri);
            world.send(ends.from, request.bytes());
            world.run();
            only(world.take(ends.to), "NICKNAME");
            if lose {
                world.lose(ends.to);
                world.run();
            } else {
                world.advance(Duration::from_secs(31));
            }
            let answer = only(world.take(ends.from), "408");
            assert_eq!(answer.tid(), request.tid, "{name}");
            world.assert_idle();
        }
    }
}

// The session is over when the core dies that would have answered, so that core's loss is not the session's any more.
#[test]
fn request_whose_session_is_over_is_answered_when_the_far_core_dies() {
    let mut world = World::new(3);
    let (bob, to_bob) = world.client(1, "bob");
    let bob_uri = world.end(bob).uri.clone();
    let alice = world.connect(0);
    let alice_uri = world.end(alice).uri.clone();
    let granted = world.auth_to(alice, "alice", (&relay_uri(), &alice_uri), "Expires: 60\r\n");
    let session = granted.header("Use-Path").unwrap();
    world.advance(Duration::from_secs(50));
    let request = Request::new("NICKNAME", &format!("{session} {to_bob} {bob_uri}"), &alice_uri);
    world.send(alice, request.bytes());
    world.run();
    only(world.take(bob), "NICKNAME");
    // That core hangs: neither an answer nor the 408 for want of one leaves it.
    world.hold_messages = true;
    world.advance(Duration::from_secs(45));
    assert_eq!((world.sizes().sessions, world.take(alice).len()), (1, 0), "over, and the request waits");
    world.drop_messages((1, 0));
    world.kill_core(1, false);
    world.hold_messages = false;
    world.run();
    assert_eq!(only(world.take(alice), "481").tid(), request.tid);
    world.assert_idle();
}

// The far client left while the request was on the way, and its core died before it could say so: the session here is
// bound to nothing by then.
#[test]
fn request_to_a_side_that_was_lost_is_answered_when_its_core_dies() {
    let mut world = World::new(3);
    let pair = world.pair(0, 1);
    let send =
        Request::new("SEND", &pair.to_bob, &pair.alice_uri).header("Message-ID", "mess1").body(b"hello");
    world.send(pair.alice, send.bytes());
    world.run();
    only(world.take(pair.alice), "200");
    world.take(pair.bob);

    world.hold_messages = true;
    let request = Request::new("NICKNAME", &pair.to_bob, &pair.alice_uri);
    world.send(pair.alice, request.bytes());
    world.run();
    world.lose(pair.bob);
    world.run();
    world.deliver((1, 0), usize::MAX);
    world.drop_messages((0, 1));
    world.kill_core(1, false);
    world.hold_messages = false;
    world.run();
    let got = world.take(pair.alice);
    let [report, answer] = &got[..] else { panic!("{got:#?}") };
    assert_eq!((report.method(), answer.method()), ("REPORT", "481"));
    assert_eq!(answer.tid(), request.tid);
    world.assert_idle();
}

// A REPORT of ours on the way to a client does not touch the file that runs the same way.
#[test]
fn report_between_two_sessions_does_not_break_a_running_file() {
    for (a, b) in LAYOUTS {
        let (mut world, ends) = split(line(Shape::Both, a, b));
        world.end(ends.from).answers = Answers::Always(200);
        // Something of alice's that bob will refuse.
        send(&mut world, &ends, "mess1", b"hello", "yes");
        let hello = only(world.take(ends.to), "SEND");
        world.take(ends.from);
        // Half of bob's file has come to alice when bob refuses her message.
        let body = pattern(200_000);
        let file = Request::send(&ends.back, &ends.to_uri, "file", &body);
        world.send(ends.to, file.head());
        world.send(ends.to, &body[..100_000]);
        world.run();
        let bytes = file.end_line();
        world.send(ends.to, &body[100_000..]);
        world.send(ends.to, &bytes);
        world.send(ends.to, hello.response(413));
        world.run();
        let frames = world.take(ends.from);
        assert_eq!(joined(&frames), body);
        assert_eq!(told(&frames).reports.len(), 1);
    }
    // Once more with the REPORT in the very middle of the file: a time-out causes it.
    for (a, b) in LAYOUTS {
        let (mut world, ends) = split(line(Shape::Both, a, b));
        world.end(ends.from).answers = Answers::Always(200);
        send(&mut world, &ends, "mess1", b"hello", "yes");
        let body = pattern(200_000);
        let file = Request::send(&ends.back, &ends.to_uri, "file", &body);
        world.send(ends.to, file.head());
        world.send(ends.to, &body[..100_000]);
        world.run();
        world.advance(Duration::from_secs(31));
        world.send(ends.to, &body[100_000..]);
        world.send(ends.to, file.end_line());
        world.run();
        let frames = world.take(ends.from);
        assert_eq!(joined(&frames), body);
        assert_eq!(told(&frames).reports.len(), 1);
    }
}

// The other sessions are not affected.
#[test]
fn lost_receiver_harms_no_other_session() {
    let mut world = World::new(2);
    let mut pairs = Vec::new();
    for n in 0..6 {
        pairs.push(world.pair(n % 2, (n / 2) % 2));
    }
    let body = pattern(400_000);
    for pair in &pairs {
        world.end(pair.bob).answers = Answers::Always(200);
        world.send(pair.alice, Request::send(&pair.to_bob, &pair.alice_uri, "mess1", &body).bytes());
        world.link_mut(pair.bob).window = 100_000;
    }
    world.run();
    world.lose(pairs[2].bob);
    world.lose(pairs[3].alice);
    for pair in &pairs {
        world.link_mut(pair.bob).window = usize::MAX;
    }
    world.run();
    for n in [0, 1, 4, 5] {
        assert_eq!(joined(&world.take(pairs[n].bob)), body);
        assert_eq!(told(&world.take(pairs[n].alice)).ok, 1);
    }
    world.assert_idle();
    world.close_all();
}

// A core dies: its connections and sessions are gone, the others end what they had with it.
#[test]
fn death_of_a_core_ends_its_links_and_no_others() {
    for again in [false, true] {
        let mut world = World::new(3);
        let split = world.pair(0, 1);
        let local = world.pair(0, 0);
        let foreign = world.connect(0);
        let foreign_uri = world.end(foreign).uri.clone();
        let (carol, carol_session) = world.client(1, "carol");
        let carol_uri = world.end(carol).uri.clone();
        let to_carol = format!("{carol_session} {carol_uri}");
        let body = pattern(600_000);
        for (conn, to, uri) in [
            (split.alice, &split.to_bob, &split.alice_uri),
            (local.alice, &local.to_bob, &local.alice_uri),
            (foreign, &to_carol, &foreign_uri),
        ] {
            world.send(conn, Request::new("NICKNAME", to, uri).bytes());
            world.run();
            // Stalled, so that the dead core holds bytes of theirs.
            for conn in [split.bob, carol, local.bob] {
                world.link_mut(conn).stalled = true;
            }
            let request = Request::send(to, uri, "mess1", &body);
            world.send(conn, &request.bytes()[..500_000]);
        }
        world.run();
        assert!(world.link(split.alice).paused && world.link(foreign).paused);
        world.kill_core(1, again);
        world.run();
        for conn in [split.alice, foreign] {
            assert!(!world.link(conn).paused, "waits for a dead core");
            let told = told(&world.take(conn));
            assert_eq!(told.errors, [481, 481], "the NICKNAME and the SEND");
        }
        world.link_mut(local.bob).stalled = false;
        world.run();
        let nickname = world.take(local.bob).remove(0);
        world.send(local.bob, nickname.response(200));
        world.run();
        assert!(world.end(local.bob).in_frame());
        assert!(!world.is_closed(local.alice));

        let (dave, dave_session) = if again { world.client(1, "carol") } else { world.client(2, "carol") };
        let dave_uri = world.end(dave).uri.clone();
        let other = world.connect(0);
        let other_uri = world.end(other).uri.clone();
        let to = format!("{dave_session} {dave_uri}");
        world.send(other, Request::bodiless(&to, &other_uri, "mess9").bytes());
        assert_eq!(world.take_one(other).status(), 200);
        assert_eq!(only(world.take(dave), "SEND").message_id(), "mess9");
        // The old session belongs to no client any more.
        world.send(other, Request::bodiless(&to_carol, &other_uri, "mess8").bytes());
        assert_eq!(world.take_one(other).status(), 481);
        let sizes = world.relay(0).table_sizes();
        assert!(sizes.bytes_queued < 400_000, "{sizes:?}");
        world.close_all();
    }
}

// The sender's core dies: the receiver's chunk ends with `#`.
#[test]
fn death_of_the_senders_core_ends_the_chunk_with_a_hash() {
    for shape in [Shape::Both, Shape::Receiver] {
        let (mut world, ends) = split(line(shape, 0, 1));
        let body = pattern(100_000);
        begin(&mut world, &ends, "mess1", &body, 50_000);
        world.kill_core(0, true);
        world.run();
        let frame = only(world.take(ends.to), "SEND");
        assert_eq!(frame.flag, Flag::Aborted, "{shape:?}");
        assert_eq!(frame.body, &body[..50_000]);
        world.send(ends.to, Request::send(&ends.back, &ends.to_uri, "back", b"x").bytes());
        assert_eq!(world.take_one(ends.to).status(), 481);
        world.advance(Duration::from_secs(60));
        assert!(world.take(ends.to).is_empty());
        world.close_all();
    }
}

// Nothing of an earlier life reaches the new core, and what a dead core began has no effect.
#[test]
fn messages_from_and_to_a_dead_core_do_no_harm() {
    for shape in [Shape::Both, Shape::Receiver] {
        for dying in [0, 1] {
            let (mut world, ends) = split(line(shape, 0, 1));
            let body = pattern(30_000);
            send(&mut world, &ends, "hello", b"hi", "yes");
            world.take(ends.from);
            world.hold_messages = true;
            let hello = world.take(ends.to).remove(0);
            world.send(ends.to, hello.response(413));
            begin(&mut world, &ends, "mess1", &body, 20_000);
            let request = Request::new("NICKNAME", &ends.back, &ends.to_uri);
            world.send(ends.to, request.bytes());
            world.run();
            world.kill_core(dying, true);
            // The new core has a client in every slot that an old message may name.
            let (one, one_session) = world.client(dying, "carol");
            let (two, _) = world.client(dying, "carol");
            let uri = world.end(one).uri.clone();
            world.hold_messages = false;
            world.run();
            for conn in [one, two] {
                let frames = world.take(conn);
                assert!(frames.is_empty(), "{shape:?} {dying}: {frames:#?}");
            }
            let stranger = world.connect(1 - dying);
            let from = world.end(stranger).uri.clone();
            let to = format!("{one_session} {uri}");
            world.send(stranger, Request::send(&to, &from, "mess9", b"x").bytes());
            assert_eq!(world.take_one(stranger).status(), 200);
            assert_eq!(only(world.take(one), "SEND").message_id(), "mess9");
            world.close_all();
        }
    }
}

// What waits for an end that a dead core would have sent is forgotten.
#[test]
fn orphans_of_a_dead_core_are_forgotten() {
    for shape in [Shape::Both, Shape::Receiver] {
        let (mut world, ends) = split(line(shape, 1, 0));
        send(&mut world, &ends, "hello", b"hi", "no");
        // From the client on core 0 to the other side on core 1.
        let request = Request::send(&ends.back, &ends.to_uri, "mess1", &[b'x'; 5000]);
        world.hold_messages = true;
        world.send(ends.to, &request.bytes()[..3000]);
        world.run();
        world.lose(ends.from);
        for lane in world.lanes() {
            if lane.1 == 1 {
                world.deliver(lane, usize::MAX);
            }
        }
        assert_eq!(world.relay(1).table_sizes().unanswered, 1, "{shape:?}");
        world.kill_core(0, false);
        assert_eq!(world.relay(1).table_sizes().unanswered, 0);
        world.run();
        world.close_all();
    }
}

// S13, S14: two floods that meet do not hold up each other, although answers stand behind requests that are not read.
#[test]
fn two_floods_that_meet_both_get_through() {
    let mut settings = testkit_pure::settings(2);
    settings.limits.transactions_per_peer_max = 8;
    for (a, b) in LAYOUTS {
        let mut world = World::with(settings.clone());
        let pair = world.pair(a, b);
        for conn in [pair.alice, pair.bob] {
            world.end(conn).answers = Answers::Always(200);
            world.link_mut(conn).stalled = true;
        }
        for n in 0..2000 {
            for (conn, to, uri) in
                [(pair.alice, &pair.to_bob, &pair.alice_uri), (pair.bob, &pair.to_alice, &pair.bob_uri)]
            {
                let request = Request::send(to, uri, &format!("m{n:05}"), &[b'x'; 100]);
                world.send(conn, request.bytes());
            }
        }
        world.run();
        for conn in [pair.alice, pair.bob] {
            assert!(world.link(conn).paused);
            world.link_mut(conn).stalled = false;
        }
        // Without time passing.
        world.run();
        for conn in [pair.alice, pair.bob] {
            let frames = world.take(conn);
            assert_eq!(frames.iter().filter(|f| f.is("SEND")).count(), 2000);
            let told = told(&frames.into_iter().filter(|f| !f.is("SEND")).collect::<Vec<_>>());
            assert_eq!((told.ok, told.reports.len()), (2000, 0));
        }
        world.assert_idle();
    }
}

// S13: `partial` is not answered, so missing answers do not hold it up.
#[test]
fn partial_is_not_held_up_by_the_cap() {
    let mut settings = testkit_pure::settings(1);
    settings.limits.transactions_per_peer_max = 8;
    let mut world = World::with(settings);
    let pair = world.pair(0, 0);
    for n in 0..100 {
        let request = Request::send(&pair.to_bob, &pair.alice_uri, &format!("m{n:04}"), b"x")
            .header("Failure-Report", "partial");
        world.send(pair.alice, request.bytes());
    }
    world.run();
    let frames = world.take(pair.bob);
    assert_eq!(frames.len(), 100);
    assert_eq!(world.sizes().transactions, 8);
    world.send(pair.bob, frames[99].response(413));
    world.run();
    assert_eq!(told(&world.take(pair.alice)).reports.len(), 1);
    // Written and not refused: the loss of the connection says nothing about them.
    world.lose(pair.bob);
    world.run();
    assert!(world.take(pair.alice).is_empty());
}

// S13: at the cap no new request is written until one is answered or given up.
#[test]
fn transactions_are_bounded_and_the_table_drains() {
    let mut settings = testkit_pure::settings(1);
    settings.limits.transactions_per_peer_max = 8;
    let mut world = World::with(settings);
    let pair = world.pair(0, 0);
    for n in 0..50 {
        let request = Request::send(&pair.to_bob, &pair.alice_uri, &format!("m{n:04}"), b"hello");
        world.send(pair.alice, request.bytes());
    }
    world.run();
    let frames = world.take(pair.bob);
    assert_eq!(frames.len(), 8);
    assert_eq!(world.sizes().transactions, 8);
    world.send(pair.bob, frames[0].response(200));
    world.run();
    assert_eq!(world.take(pair.bob).len(), 1);
    world.end(pair.bob).answers = Answers::Always(200);
    world.advance(Duration::from_secs(31));
    assert_eq!(world.take(pair.bob).len(), 41);
    let told = told(&world.take(pair.alice));
    assert_eq!(told.ok, 50);
    assert_eq!(told.reports.len(), 8);
    assert_eq!(world.sizes().transactions, 0);
    world.assert_idle();
}

// S13, S14: when memory becomes short while a file is under way, the sender still hears of another message's failure.
#[test]
fn failures_are_told_though_memory_becomes_short_while_a_chunk_is_under_way() {
    let mut settings = testkit_pure::settings(1);
    settings.limits.queue_bytes_total = 1 << 20;
    let mut world = World::with(settings);
    let pair = world.pair(0, 0);
    let slow: Vec<_> = (0..5).map(|_| world.pair(0, 0)).collect();
    for n in 0..40 {
        let request = Request::send(&pair.to_bob, &pair.alice_uri, &format!("m{n:04}"), b"hello");
        world.send(pair.alice, request.bytes());
    }
    let file = Request::send(&pair.to_bob, &pair.alice_uri, "file", &pattern(400_000)).bytes();
    let (first, rest) = file.split_at(100_000);
    world.send(pair.alice, first);
    world.run();
    let written = world.take(pair.bob);
    assert_eq!((written.len(), world.end(pair.bob).in_frame()), (40, true));
    for slow in &slow {
        world.link_mut(slow.bob).stalled = true;
        let body = vec![b'y'; 400_000];
        world.send(slow.alice, Request::send(&slow.to_bob, &slow.alice_uri, "slow", &body).bytes());
        world.run();
    }
    assert!(world.events.iter().any(|event| event.contains("QueueBytesTotal")), "memory is not short");
    world.send(pair.alice, rest);
    world.run();
    assert_eq!(world.take(pair.bob).len(), 1, "the file");
    for frame in &written {
        world.send(pair.bob, frame.response(413));
    }
    world.run();
    assert_eq!(told(&world.take(pair.alice)).reports.len(), 40);
}

// S13: what a peer makes us keep is bounded in bytes, not only in number: paths may be long.
#[test]
fn long_paths_fill_the_table_of_transactions_earlier() {
    let mut settings = testkit_pure::settings(1);
    settings.limits.transactions_per_peer_max = 64;
    for (uris, least, most) in [(1, 64, 64), (15, 4, 16)] {
        let mut world = World::with(settings.clone());
        let (bob, session) = world.client(0, "bob");
        let to = format!("{session} {}", world.end(bob).uri);
        let far = world.connect(0);
        for n in 0..100 {
            // Another path each time, so that nothing can be shared.
            let uri = format!("msrps://a.example:1/{}{n:03};tcp", "x".repeat(100));
            let long = format!("msrps://a.example:1/{}{n:03};tcp;p={}", "x".repeat(100), "y".repeat(380));
            let from = [&[uri][..], &vec![long; uris - 1]].concat().join(" ");
            world.send(far, Request::send(&to, &from, "mess1", b"x").bytes());
        }
        world.run();
        let written = world.take(bob).len();
        assert!((least..=most).contains(&written), "{uris}: {written}");
        world.end(bob).answers = Answers::Always(200);
        world.advance(Duration::from_secs(31));
        assert_eq!(written + world.take(bob).len(), 100);
        world.advance(Duration::from_secs(31));
        assert_eq!(world.sizes().transactions, 0);
        world.assert_idle();
    }
}

// S13: the requests that await an answer from the far end are bounded, too; reading stops at the cap.
#[test]
fn requests_that_wait_are_bounded() {
    let mut settings = testkit_pure::settings(2);
    settings.limits.transactions_per_peer_max = 8;
    let mut world = World::with(settings);
    let pair = world.pair(0, 1);
    world.read_max = 512;
    for _ in 0..50 {
        let request = Request::new("NICKNAME", &pair.to_bob, &pair.alice_uri);
        world.send(pair.alice, request.bytes());
    }
    world.run();
    assert!(world.link(pair.alice).paused);
    assert!(world.relay(0).table_sizes().unanswered < 12);
    world.advance(Duration::from_secs(300));
    let told = told(&world.take(pair.alice));
    assert_eq!(told.errors, [408; 50]);
    world.assert_idle();
}
