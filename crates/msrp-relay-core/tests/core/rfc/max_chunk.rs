//! Requirement I14: towards a peer named in `outbound.max_chunk` no SEND has a longer body than its entry, whichever side
//! opened the connection (RFC 4975, 7.1.1; RFC 4976, 6.4.1).

use std::time::Duration;

use msrp_proto::parser::Flag;
use msrp_relay_core::{Input, MaxChunk, Settings};

use testkit_pure::endpoint::Answers;
use testkit_pure::frame::pattern;
use testkit_pure::line::{LAYOUTS, Line, Shape, line, line_in, only};
use testkit_pure::{Frame, Request, World, settings};

/// A peer that is no client of the relay takes so many bytes in a chunk.
fn bounded(bytes: u32) -> Settings {
    let hosts = ["203.0.113.40", "198.51.100.23"].map(|host| (host.to_owned(), bytes));
    Settings { max_chunk: MaxChunk::new(hosts), ..settings(2) }
}

/// From a client of the relay to a peer that it dialled, or that came to it.
fn way_with(settings: Settings, shape: Shape, a: usize, b: usize) -> Line {
    let mut line = line_in(World::with(settings), shape, a, b);
    if !matches!(shape, Shape::Receiver) {
        return line;
    }
    line.bind();
    line.reversed()
}

/// All ways to a peer with a bound.
fn ways(bytes: u32) -> impl Iterator<Item = (String, Line)> {
    [Shape::Sender, Shape::Receiver].into_iter().flat_map(move |shape| {
        LAYOUTS.into_iter().map(move |(a, b)| {
            let way = way_with(bounded(bytes), shape, a, b);
            (format!("{shape:?} {a} {b}, {bytes} bytes"), way)
        })
    })
}

/// The chunks of one message: gapless, their ranges true, each within the bound, the last with the flag.
fn pieces<'f>(frames: &'f [Frame], id: &str, body: &[u8], flag: Flag, max: usize) -> Vec<&'f Frame> {
    let pieces: Vec<&Frame> =
        frames.iter().filter(|frame| frame.is("SEND") && frame.message_id() == id).collect();
    let mut joined = Vec::new();
    for (n, piece) in pieces.iter().enumerate() {
        assert!(piece.body.len() <= max, "{} bytes", piece.body.len());
        assert!(!piece.body.is_empty(), "nothing was left for the last piece");
        assert_eq!(piece.range().start, joined.len() as u64 + 1);
        joined.extend_from_slice(&piece.body);
        assert!(piece.range().end.is_none_or(|end| end == joined.len() as u64), "{}", piece.range_text());
        assert_eq!(piece.flag, if n + 1 == pieces.len() { flag } else { Flag::More });
    }
    assert!(joined == body, "{} bytes instead of {}", joined.len(), body.len());
    pieces
}

/// Responses, and the failure REPORTs with their ranges.
fn verdicts(frames: &[Frame]) -> (usize, Vec<(u16, String)>) {
    let ok = frames.iter().filter(|frame| frame.is("200")).count();
    let reports = frames.iter().filter(|frame| frame.is("REPORT"));
    let reports: Vec<_> = reports.map(|report| (report.reported(), report.range_text())).collect();
    assert_eq!(ok + reports.len(), frames.len(), "{frames:#?}");
    (ok, reports)
}

// I14, F11: whatever the chunk's length and however it comes in, it leaves in as few pieces as the bound allows, and
// its sender gets one answer.
#[test]
fn giant_chunk_leaves_in_pieces_within_the_bound() {
    for max in [1024, 10 << 10, 60 << 10, 150_000] {
        for (name, mut way) in ways(max) {
            let max = max as usize;
            let world = &mut way.world;
            world.end(way.to).answers = Answers::Always(200);
            for (n, bytes) in [300_000, max, max + 1, 2 * max].into_iter().enumerate() {
                let (id, body) = (format!("mess{n}"), pattern(bytes));
                let request = Request::send(&way.path, &way.from_uri, &id, &body);
                let wire = request.bytes();
                for read in wire.chunks([usize::MAX, 700][n % 2]) {
                    world.send(way.from, read);
                    world.run();
                }
                let frames = world.take(way.to);
                let pieces = pieces(&frames, &id, &body, Flag::Last, max);
                assert_eq!(pieces.len(), bytes.div_ceil(max), "{name} {bytes}");
                assert!(pieces.iter().all(|piece| piece.range().total == Some(bytes as u64)));
                assert_eq!(verdicts(&world.take(way.from)), (1, Vec::new()), "{name} {bytes}");
            }
            world.close_all();
        }
    }
}

// G9, F11: a sender that announces less than it sends does not make us write an impossible range.
#[test]
fn no_piece_ends_behind_its_total() {
    for (announced, starts_at) in [(12, 1), (1024, 1), (1500, 1), (4999, 1), (12, 13)] {
        for (name, mut way) in ways(1024) {
            let world = &mut way.world;
            world.end(way.to).answers = Answers::Always(200);
            let body = pattern(5000);
            for range in
                [format!("{starts_at}-*/{announced}"), format!("{starts_at}-{announced}/{announced}")]
            {
                let request = Request::new("SEND", &way.path, &way.from_uri).header("Message-ID", "mess");
                world.send(way.from, request.header("Byte-Range", &range).body(&body).bytes());
                world.run();
                let frames = world.take(way.to);
                let pieces: Vec<&Frame> = frames.iter().filter(|frame| frame.is("SEND")).collect();
                assert_eq!(pieces.len(), 5, "{name}");
                for piece in pieces {
                    let (range, bytes) = (piece.range(), piece.body.len() as u64);
                    assert_eq!(range.end, Some(range.start + bytes - 1), "{name}");
                    assert!(
                        range.total.is_none_or(|total| range.end <= Some(total)),
                        "{}",
                        piece.range_text()
                    );
                }
                world.take(way.from);
            }
        }
    }
}

// I14: such a peer gets the end of each piece, if it is known when the piece begins.
#[test]
fn piece_that_is_at_hand_says_where_it_ends() {
    for (range, expected) in [
        ("1-25000/25000", ["1-10240/25000", "10241-20480/25000", "20481-25000/25000"]),
        ("1-*/*", ["1-10240/*", "10241-20480/*", "20481-25000/*"]),
        ("101-99999/30000", ["101-10340/30000", "10341-20580/30000", "20581-25100/30000"]),
        ("", ["1-10240/*", "10241-20480/*", "20481-25000/*"]),
    ] {
        for (name, mut way) in ways(10 << 10) {
            let world = &mut way.world;
            world.link_mut(way.to).stalled = true;
            let request = Request::new("SEND", &way.path, &way.from_uri).header("Message-ID", "mess");
            let request = if range.is_empty() { request } else { request.header("Byte-Range", range) };
            world.send(way.from, request.body(&pattern(25_000)).bytes());
            world.run();
            world.link_mut(way.to).stalled = false;
            world.run();
            let frames = world.take(way.to);
            let ranges: Vec<String> = frames.iter().map(Frame::range_text).collect();
            assert_eq!(ranges, expected, "{name}");
        }
    }
}

// I14: a chunk within the bound, also an empty one, passes as it would without a bound.
#[test]
fn chunks_within_the_bound_are_left_alone() {
    for (name, mut way) in ways(4096) {
        let world = &mut way.world;
        world.end(way.to).answers = Answers::Always(200);
        for (bytes, range, expected) in [
            (2048, "1-2048/2048", "1-2048/2048"),
            (4096, "1-4096/4096", "1-4096/4096"),
            (10, "11-20/50", "11-20/50"),
            (0, "1-0/0", "1-0/0"),
        ] {
            let request = Request::new("SEND", &way.path, &way.from_uri)
                .header("Message-ID", "mess")
                .header("Byte-Range", range)
                .body(&pattern(bytes));
            world.send(way.from, request.bytes());
            world.run();
            let frame = only(world.take(way.to), "SEND");
            assert_eq!((frame.body.len(), frame.range_text().as_str()), (bytes, expected), "{name}");
        }
        // No other method has pieces.
        let long = Request::new("NICKNAME", &way.path, &way.from_uri).body(&pattern(9000));
        world.send(way.from, long.bytes());
        world.run();
        assert_eq!(only(world.take(way.to), "NICKNAME").body.len(), 9000);
    }
}

// I14, F11: messages stay apart and in order.
#[test]
fn pieces_of_several_messages_stay_in_order() {
    for (name, mut way) in ways(3000) {
        let world = &mut way.world;
        world.end(way.to).answers = Answers::Always(200);
        world.link_mut(way.to).stalled = true;
        let bodies = [10_000, 500, 3000, 40_000].map(pattern);
        for (n, body) in bodies.iter().enumerate() {
            let request = Request::send(&way.path, &way.from_uri, &format!("mess{n}"), body);
            world.send(way.from, request.bytes());
        }
        world.run();
        world.link_mut(way.to).stalled = false;
        world.run();
        let frames = world.take(way.to);
        let ids: Vec<String> = frames.iter().map(Frame::message_id).collect();
        assert!(ids.is_sorted(), "{name}: {ids:?}");
        for (n, body) in bodies.iter().enumerate() {
            pieces(&frames, &format!("mess{n}"), body, Flag::Last, 3000);
        }
        assert_eq!(verdicts(&world.take(way.from)), (4, Vec::new()), "{name}");
    }
}

// I14, F12: a response does not wait for the end of a piece that is still coming in.
#[test]
fn piece_that_is_under_way_still_gives_way_to_a_response() {
    for (name, mut way) in ways(60 << 10) {
        let world = &mut way.world;
        world.end(way.to).answers = Answers::Always(200);
        let body = pattern(200_000);
        let request = Request::send(&way.path, &way.from_uri, "mess", &body);
        world.send(way.from, request.head());
        world.send(way.from, &body[..80_000]);
        world.run();
        assert!(world.end(way.to).in_frame(), "{name}");
        world.send(way.to, Request::bodiless(&way.back, &way.to_uri, "back").bytes());
        world.run();
        let early = world.take(way.to);
        assert!(early.iter().any(|frame| frame.is("200")), "{name}");
        assert!(early.last().unwrap().is("200"), "{name}: it waited");
        world.send(way.from, &body[80_000..]);
        world.send(way.from, request.end_line());
        world.run();
        let frames: Vec<Frame> = early.into_iter().chain(world.take(way.to)).collect();
        let pieces = pieces(&frames, "mess", &body, Flag::Last, 60 << 10);
        // One up to the bound, one cut short, and the later ones.
        assert_eq!(pieces.len(), 2 + 120_000_usize.div_ceil(60 << 10), "{name}");
        let told: Vec<Frame> = world.take(way.from).into_iter().filter(|frame| !frame.is("SEND")).collect();
        assert_eq!(verdicts(&told), (1, Vec::new()), "{name}");
    }
}

// I14, 75 §7.1.1: a chunk that its sender aborts ends with `#`, and no piece of it gets a verdict.
#[test]
fn aborted_chunk_ends_aborted_and_without_verdicts() {
    for (name, mut way) in ways(10 << 10) {
        let world = &mut way.world;
        let body = pattern(100_000);
        let request = Request::send(&way.path, &way.from_uri, "mess", &body).flag(Flag::Aborted);
        world.send(way.from, request.head());
        world.send(way.from, &body[..50_000]);
        world.run();
        world.send(way.from, request.end_line());
        world.run();
        let frames = world.take(way.to);
        assert!(frames.iter().all(|frame| frame.body.len() <= 10 << 10), "{name}");
        let (last, before) = frames.split_last().unwrap();
        assert_eq!(last.flag, Flag::Aborted, "{name}");
        assert!(before.len() >= 4 && before.iter().all(|frame| frame.flag == Flag::More), "{name}");
        world.advance(Duration::from_secs(40));
        world.run();
        let told = world.take(way.from);
        assert!(told.iter().all(|frame| frame.is("200")), "{name}: {told:?}");
        world.close_all();
    }
}

// I14, F10: the chunk fails if a piece of it fails, and its sender hears it once, however many are refused.
#[test]
fn refused_pieces_are_reported_once() {
    for (which, range) in [(0, "1-50000/50000"), (2, "20481-50000/50000"), (4, "40961-50000/50000")] {
        for all in [false, true] {
            for (name, mut way) in ways(10 << 10) {
                let world = &mut way.world;
                let body = pattern(50_000);
                world.send(way.from, Request::send(&way.path, &way.from_uri, "mess", &body).bytes());
                world.run();
                let frames = world.take(way.to);
                assert_eq!(pieces(&frames, "mess", &body, Flag::Last, 10 << 10).len(), 5);
                for (n, frame) in frames.iter().enumerate() {
                    let refused = n == which || (all && n > which);
                    world.send(way.to, frame.response(if refused { 413 } else { 200 }));
                    world.run();
                }
                world.advance(Duration::from_secs(40));
                world.run();
                let (ok, reports) = verdicts(&world.take(way.from));
                assert_eq!((ok, reports), (1, vec![(413, range.to_owned())]), "{name} {which} {all}");
                world.close_all();
            }
        }
    }
}

// I14, F7, F10: refused while it comes in, the chunk is stopped; its sender has a response or a REPORT, not both.
#[test]
fn refusal_of_a_piece_stops_the_rest() {
    for (name, mut way) in ways(10 << 10) {
        let world = &mut way.world;
        let body = pattern(100_000);
        let request = Request::send(&way.path, &way.from_uri, "mess", &body);
        world.send(way.from, request.head());
        world.send(way.from, &body[..60_000]);
        world.run();
        let frames = world.take(way.to);
        assert_eq!(frames.len(), 5, "{name}");
        world.send(way.to, frames[1].response(413));
        world.run();
        assert_eq!(world.take(way.to).last().map(|frame| frame.flag), Some(Flag::Aborted), "{name}");
        world.send(way.from, &body[60_000..]);
        world.send(way.from, request.end_line());
        world.run();
        assert!(world.take(way.to).is_empty(), "{name}");
        let told = world.take(way.from);
        let codes: Vec<_> =
            told.iter().map(|f| if f.is("REPORT") { f.reported() } else { f.status() }).collect();
        assert_eq!(codes, [413], "{name}");
        world.close_all();
    }
}

// I14, F8: silence about all pieces is one REPORT of all bytes.
#[test]
fn silence_about_the_pieces_is_reported_once() {
    for (wish, expected) in [("yes", vec![(408, "1-50000/50000".to_owned())]), ("partial", vec![])] {
        for (name, mut way) in ways(10 << 10) {
            let world = &mut way.world;
            let request = Request::send(&way.path, &way.from_uri, "mess", &pattern(50_000));
            world.send(way.from, request.header("Failure-Report", wish).bytes());
            world.run();
            world.advance(Duration::from_secs(40));
            world.run();
            let (ok, reports) = verdicts(&world.take(way.from));
            assert_eq!((ok, reports), (usize::from(wish == "yes"), expected.clone()), "{name}");
            world.close_all();
        }
    }
}

// I14: other peers are not bounded: neither the relay's own clients nor a peer with another name.
#[test]
fn others_take_chunks_of_any_length() {
    let other = Settings { max_chunk: MaxChunk::new([("kam.example.net".to_owned(), 1024)]), ..settings(2) };
    for (settings, shapes) in
        [(other, [Shape::Sender, Shape::Receiver]), (bounded(1024), [Shape::Both, Shape::Both])]
    {
        for shape in shapes {
            let mut way = way_with(settings.clone(), shape, 0, 1);
            let world = &mut way.world;
            world.send(way.from, Request::send(&way.path, &way.from_uri, "mess", &pattern(70_000)).bytes());
            world.run();
            let frame = only(world.take(way.to), "SEND");
            assert_eq!((frame.body.len(), frame.range_text().as_str()), (70_000, "1-*/70000"), "{shape:?}");
        }
    }
}

// I14: another bound holds for connections dialled or bound after it was read.
#[test]
fn other_bound_holds_for_what_is_bound_later() {
    let mut line = line(Shape::Receiver, 0, 0);
    let world = &mut line.world;
    let mut settings = world.settings.clone();
    settings.max_chunk = bounded(5000).max_chunk;
    for core in 0..2 {
        world.input(core, Input::Reconfigured(Box::new(settings.clone())));
    }
    world.send(line.from, Request::bodiless(&line.path, &line.from_uri, "first1").bytes());
    world.run();
    world.take(line.to);
    world.send(line.to, Request::send(&line.back, &line.to_uri, "mess", &pattern(12_000)).bytes());
    world.run();
    let frames = world.take(line.from);
    assert_eq!(pieces(&frames, "mess", &pattern(12_000), Flag::Last, 5000).len(), 3);
}
