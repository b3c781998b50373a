//! Requirements F11 and F12, G6: how chunks are cut into pieces (RFC 4975, 7.1 and 7.1.1; RFC 4976, 6.4.1).

use msrp_proto::parser::Flag;

use testkit_pure::endpoint::Answers;
use testkit_pure::frame::pattern;
use testkit_pure::line::{Shape, line, only};
use testkit_pure::{Frame, Request, World, settings};

/// The headers of a piece that belong to its sender.
fn kept(frame: &Frame) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let headers = frame.head.headers(&frame.bytes).map(|(name, value)| (text(name), text(value)));
    headers.filter(|(name, _)| name != "Byte-Range").collect()
}

// F11: each piece is a chunk of its own: the same head except the transaction id and the range; only the last one
// carries the flag that was received.
#[test]
fn every_piece_repeats_the_head() {
    for flag in [Flag::Last, Flag::More] {
        let mut line = line(Shape::Both, 0, 1);
        let world = &mut line.world;
        world.end(line.from).answers = Answers::Always(200);
        world.link_mut(line.to).window = 1;
        let body = pattern(200_000);
        let request = Request::new("SEND", &line.path, &line.from_uri)
            .header("Message-ID", "mess")
            .header("Success-Report", "yes")
            .header("Failure-Report", "yes")
            .header("X-Unknown", "a b")
            .header("Byte-Range", "1001-201000/500000")
            .header("Content-Disposition", "attachment; filename=\"x\"")
            .body(&body)
            .flag(flag);
        world.send(line.from, request.bytes());
        world.run();
        // A response waits, so the chunk is cut.
        world.send(line.to, Request::bodiless(&line.back, &line.to_uri, "back").bytes());
        world.run();
        world.link_mut(line.to).window = usize::MAX;
        world.run();
        let frames = world.take(line.to);
        let pieces: Vec<&Frame> = frames.iter().filter(|frame| frame.is("SEND")).collect();
        assert!(pieces.len() > 1);
        let (mut start, mut joined) = (1001, Vec::new());
        for (n, piece) in pieces.iter().enumerate() {
            assert_eq!(kept(piece), kept(pieces[0]));
            assert_eq!(piece.range_text(), format!("{start}-*/500000"));
            assert_eq!(piece.flag, if n + 1 == pieces.len() { flag } else { Flag::More });
            start += piece.body.len();
            joined.extend_from_slice(&piece.body);
        }
        assert!(joined == body);
    }
}

// F11: messages are not merged, and neither are the chunks of one.
#[test]
fn chunks_are_never_merged() {
    let mut line = line(Shape::Both, 0, 1);
    let world = &mut line.world;
    world.link_mut(line.to).stalled = true;
    for (id, range, flag) in
        [("one", "1-2/4", Flag::More), ("one", "3-4/4", Flag::Last), ("two", "1-2/2", Flag::Last)]
    {
        let request = Request::new("SEND", &line.path, &line.from_uri)
            .header("Message-ID", id)
            .header("Byte-Range", range)
            .body(b"xy")
            .flag(flag);
        world.send(line.from, request.bytes());
    }
    world.run();
    world.link_mut(line.to).stalled = false;
    world.run();
    let frames = world.take(line.to);
    let got: Vec<_> =
        frames.iter().map(|frame| (frame.message_id(), frame.range_text(), frame.flag)).collect();
    assert_eq!(
        got,
        [
            ("one".to_owned(), "1-2/4".to_owned(), Flag::More),
            ("one".to_owned(), "3-4/4".to_owned(), Flag::Last),
            ("two".to_owned(), "1-2/2".to_owned(), Flag::Last),
        ]
    );
}

// F11: the range that leaves is that of the bytes that leave, whatever the sender announced before it broke off.
#[test]
fn promised_end_that_was_not_kept_is_corrected() {
    for (promised, flag, expected) in
        [("1-100/100", Flag::More, "1-10/100"), ("91-200/*", Flag::Last, "91-100/*")]
    {
        let mut line = line(Shape::Both, 0, 1);
        let world = &mut line.world;
        let request = Request::new("SEND", &line.path, &line.from_uri)
            .header("Message-ID", "mess")
            .header("Byte-Range", promised)
            .body(&pattern(10))
            .flag(flag);
        world.send(line.from, request.bytes());
        world.run();
        assert_eq!(only(world.take(line.to), "SEND").range_text(), expected);
    }
}

// F11, 75 §7.1.1: a chunk of more than 2048 bytes leaves with `*` for its end, even if all of it is at hand; a shorter
// one states its end.
#[test]
fn chunk_of_more_than_2048_bytes_leaves_with_a_star() {
    for (bytes, range, expected) in [
        (2048, "1-2048/2048", "1-2048/2048"),
        (2048, "1-*/2048", "1-*/2048"),
        (2049, "1-2049/2049", "1-*/2049"),
        (70_000, "11-70010/*", "11-*/*"),
        (2048, "", "1-2048/2048"),
        (2049, "", "1-*/2049"),
    ] {
        let mut line = line(Shape::Both, 0, 1);
        let world = &mut line.world;
        let request = Request::new("SEND", &line.path, &line.from_uri).header("Message-ID", "mess");
        let request = if range.is_empty() { request } else { request.header("Byte-Range", range) };
        world.send(line.from, request.body(&pattern(bytes)).bytes());
        world.run();
        assert_eq!(only(world.take(line.to), "SEND").range_text(), expected, "{bytes} {range}");
    }
}

// F12: only SENDs are interrupted. Everything else is written in one piece, whatever waits.
#[test]
fn other_requests_are_never_interrupted() {
    for method in ["REPORT", "NICKNAME", "FUTURE"] {
        let mut settings = settings(2);
        settings.limits.flush_bytes_max = 1024;
        let mut world = World::with(settings);
        let pair = world.pair(0, 1);
        world.end(pair.alice).answers = Answers::Always(200);
        world.link_mut(pair.bob).stalled = true;
        let body = pattern(10_000);
        let request =
            Request::new(method, &pair.to_bob, &pair.alice_uri).header("Message-ID", "mess").body(&body);
        world.send(pair.alice, Request::bodiless(&pair.to_bob, &pair.alice_uri, "first").bytes());
        world.send(pair.alice, request.bytes());
        world.run();
        world.link_mut(pair.bob).stalled = false;
        world.link_mut(pair.bob).window = 700;
        world.run();
        world.send(pair.bob, Request::bodiless(&pair.to_alice, &pair.bob_uri, "back").bytes());
        world.run();
        world.link_mut(pair.bob).window = usize::MAX;
        world.run();
        let frames = world.take(pair.bob);
        let whole: Vec<&Frame> = frames.iter().filter(|frame| frame.is(method)).collect();
        assert_eq!(whole.len(), 1, "{frames:?}");
        assert!(whole[0].body == body && whole[0].flag == Flag::Last);
    }
}

// G6, S7: the receiver knows the id of a chunk that is under way, and may tell the sender: a look-alike of its end-line
// is still body.
#[test]
fn end_line_of_the_outgoing_chunk_in_its_body_is_body() {
    for split in [0, 1, 5, 12, 27] {
        let mut line = line(Shape::Both, 0, 1);
        let world = &mut line.world;
        world.end(line.from).answers = Answers::Always(200);
        let begun = pattern(10_000);
        let request = Request::new("SEND", &line.path, &line.from_uri)
            .header("Message-ID", "mess")
            .header("Byte-Range", "1-*/*")
            .body(b"");
        world.send(line.from, request.head());
        world.send(line.from, &begun);
        world.run();
        let tid = world.end(line.to).arriving().unwrap().tid().to_owned();
        let forged = format!("\r\n-------{tid}$\r\nMSRP forged00 SEND\r\nTo-Path: {0}\r\n", line.to_uri);
        world.send(line.from, &forged[..split]);
        world.run();
        world.send(line.from, &forged[split..]);
        world.send(line.from, &begun);
        world.send(line.from, request.end_line());
        world.run();
        let frames = world.take(line.to);
        let joined: Vec<u8> = frames.iter().flat_map(|frame| frame.body.clone()).collect();
        let expected = [&begun[..], forged.as_bytes(), &begun[..]].concat();
        assert!(joined == expected, "split at {split}");
        assert!(frames.iter().all(|frame| frame.is("SEND") && frame.message_id() == "mess"));
    }
}
