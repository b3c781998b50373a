//! Requirements C3, C4, G1 to G9: faulty frames, and their effect: an answer, silence, or the end of the connection. A frame
//! whose end can be found leaves the connection open.

use std::collections::HashSet;

use msrp_proto::head::{Defect, TID_BYTES_MAX};
use msrp_proto::parser::{FramePart, ParseError, Parser, ParserLimits};
use msrp_relay_core::{CloseReason, Input, Settings};

use super::FAR;
use testkit_pure::endpoint::Answers;
use testkit_pure::frame::{Request, pattern};
use testkit_pure::line::{LAYOUTS, Line, Shape, line, lines, only};
use testkit_pure::{Frame, World, settings};

/// The fate of a malformed request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Answered,
    /// Its From-Path begins with no usable address for an answer.
    NoAddress,
    /// RFC 4975, 7.1.2: a REPORT is never answered.
    Report,
    /// RFC 4975, 7.1.4: `Failure-Report: no` asks for silence.
    SilenceAskedFor,
    /// RFC 4976, 6.4.3: a response that cannot be parsed is dropped.
    Response,
}

use Fate::{Answered, NoAddress, Response, SilenceAskedFor};

/// The number of a defect. A new defect does not compile here until it has a number, and then the test requires a case
/// for it.
fn number(defect: Defect) -> usize {
    match defect {
        Defect::StartLine => 0,
        Defect::HeaderLine => 1,
        Defect::ControlByte => 2,
        Defect::NotUtf8 => 3,
        Defect::LineTooLong => 4,
        Defect::TooManyHeaders => 5,
        Defect::CommentTooLong => 6,
        Defect::Repeated => 7,
        Defect::PathMissing => 8,
        Defect::PathOrder => 9,
        Defect::BadUri => 10,
        Defect::UriTooLong => 11,
        Defect::TooManyUris => 12,
        Defect::MessageId => 13,
        Defect::ByteRange => 14,
        Defect::ReportWish => 15,
        Defect::Expires => 16,
        Defect::ResponseShape => 17,
    }
}

const DEFECTS: usize = 18;

/// A frame with one fault.
struct Case {
    defect: Defect,
    fate: Fate,
    bytes: Vec<u8>,
}

fn case(defect: Defect, fate: Fate, bytes: impl AsRef<[u8]>) -> Case {
    Case { defect, fate, bytes: bytes.as_ref().to_vec() }
}

fn start_lines(head: &str) -> Vec<Case> {
    let with = |line: &str| format!("{line}\r\n{head}-------tid1$\r\n");
    vec![
        case(Defect::StartLine, Answered, with("MSRP tid1")),
        case(Defect::StartLine, Answered, with("MSRP tid1 SE;ND")),
        case(Defect::StartLine, Answered, with("MSRP tid1 SEND x")),
        case(Defect::StartLine, Answered, with(&format!("MSRP tid1 {}", "M".repeat(65)))),
        case(Defect::StartLine, SilenceAskedFor, with("MSRP tid1").replace("m1", "m1\r\nFailure-Report: no")),
        case(Defect::StartLine, Fate::Report, with("MSRP tid1 REPORT x")),
        case(Defect::StartLine, Response, with("MSRP tid1 20")),
        case(Defect::LineTooLong, Answered, with(&format!("MSRP tid1 SEND{}", " ".repeat(9000)))),
        case(Defect::CommentTooLong, Response, with(&format!("MSRP tid1 200 {}", "x".repeat(300)))),
    ]
}

/// Faulty paths, in To-Path and in From-Path, and whether an answer can be addressed.
fn paths(to: &str, from: &str) -> Vec<Case> {
    let frame = |method: &str, to: &str, from: &str| {
        format!(
            "MSRP tid1 {method}\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\nMessage-ID: m1\r\n-------tid1$\r\n"
        )
    };
    let hop = "msrps://h.example:1/s;tcp";
    let many = |first: &str| format!("{first} {}", [hop; 16].join(" "));
    let long_id = format!("msrps://h.example:1/{};tcp", "s".repeat(129));
    let long_uri = format!("msrps://{}:1/s;tcp", "h".repeat(1024));
    let long_line = |first: &str| format!("{first} {}", [hop; 400].join(" "));
    let mut cases = Vec::new();
    let mut add = |defect, fate, to: &str, from: &str| {
        for method in ["SEND", "AUTH", "NICKNAME", "FILE_OFFSET"] {
            cases.push(case(defect, fate, frame(method, to, from)));
        }
        cases.push(case(defect, Fate::Report, frame("REPORT", to, from)));
        let partial = frame("SEND", to, from).replace("m1", "m1\r\nFailure-Report: partial");
        cases.push(case(defect, fate, partial));
        let no = frame("SEND", to, from).replace("m1", "m1\r\nFailure-Report: no");
        cases.push(case(defect, if fate == Answered { SilenceAskedFor } else { fate }, no));
    };
    for bad in
        ["sip:bob@example.com", "msrps://h.example:1/s", "msrps://:1/s;tcp", "msrp:/h:1;tcp", "nowhere"]
    {
        add(Defect::BadUri, Answered, &format!("{to} {bad}"), from);
        add(Defect::BadUri, Answered, to, &format!("{from} {bad}"));
        add(Defect::BadUri, Answered, bad, from);
        add(Defect::BadUri, NoAddress, to, bad);
    }
    for long in [&long_id, &long_uri] {
        add(Defect::UriTooLong, Answered, &format!("{to} {long}"), from);
        add(Defect::UriTooLong, Answered, to, &format!("{from} {long}"));
        add(Defect::UriTooLong, Answered, long, from);
        add(Defect::UriTooLong, Answered, to, long);
    }
    add(Defect::BadUri, Answered, "", from);
    add(Defect::BadUri, NoAddress, to, "");
    let too_many = if from.len() * 17 > 8192 { Defect::LineTooLong } else { Defect::TooManyUris };
    for method in ["SEND", "AUTH", "NICKNAME"] {
        cases.push(case(too_many, Answered, frame(method, &many(to), from)));
        cases.push(case(too_many, Answered, frame(method, to, &many(from))));
        cases.push(case(Defect::LineTooLong, Answered, frame(method, &long_line(to), from)));
        cases.push(case(Defect::LineTooLong, Answered, frame(method, to, &long_line(from))));
    }
    cases.push(case(
        Defect::TooManyUris,
        Fate::Report,
        frame("REPORT", &many(&[to, hop, hop].join(" ")), from),
    ));
    cases.push(case(Defect::TooManyUris, Response, frame("200 OK", to, &many(from))));
    cases
}

fn headers(to: &str, from: &str) -> Vec<Case> {
    let (to, from) = (format!("To-Path: {to}\r\n"), format!("From-Path: {from}\r\n"));
    let id = "Message-ID: m1\r\n";
    let frame = |start: &str, headers: &str| format!("MSRP tid1 {start}\r\n{headers}-------tid1$\r\n");
    let send = |rest: &str| frame("SEND", &format!("{to}{from}{rest}"));
    let mut not_utf8 = send(&format!("{id}X: ??\r\n")).into_bytes();
    not_utf8.iter_mut().filter(|byte| **byte == b'?').for_each(|byte| *byte = 0xff);
    vec![
        case(Defect::HeaderLine, Answered, send(&format!("{id}no colon\r\n"))),
        case(Defect::HeaderLine, Answered, send(&format!("{id}X-A : 1\r\n"))),
        case(Defect::HeaderLine, Answered, send(&format!("{id}X-A: 1\r\n folded\r\n"))),
        case(Defect::HeaderLine, Fate::Report, frame("REPORT", &format!("{to}{from}no colon\r\n"))),
        case(Defect::HeaderLine, SilenceAskedFor, send(&format!("{id}no colon\r\nFailure-Report: no\r\n"))),
        case(Defect::ControlByte, Answered, send(&format!("{id}X: a\nb\r\n"))),
        case(Defect::ControlByte, Response, frame("200 O\0K", &format!("{to}{from}"))),
        case(Defect::NotUtf8, Answered, not_utf8),
        case(Defect::LineTooLong, Answered, send(&format!("{id}X: {}\r\n", "x".repeat(9000)))),
        case(Defect::TooManyHeaders, Answered, send(&format!("{id}{}", "X: 1\r\n".repeat(70)))),
        case(Defect::Repeated, Answered, send(&format!("{id}{id}"))),
        case(Defect::Repeated, Answered, send(&format!("{from}{id}"))),
        case(Defect::PathOrder, Answered, frame("SEND", &format!("{from}{id}"))),
        case(Defect::PathMissing, NoAddress, frame("SEND", &format!("{to}{id}"))),
        case(Defect::PathMissing, NoAddress, frame("SEND", id)),
        case(Defect::PathOrder, Answered, frame("SEND", &format!("{from}{to}{id}"))),
        case(Defect::PathOrder, Answered, frame("SEND", &format!("X-First: 1\r\n{to}{from}{id}"))),
        case(Defect::MessageId, Answered, send("")),
        case(Defect::MessageId, Answered, send(&format!("Message-ID: {}\r\n", "m".repeat(129)))),
        case(Defect::ByteRange, Answered, send(&format!("{id}Byte-Range: 0-1/1\r\n"))),
        case(Defect::ByteRange, Answered, send(&format!("{id}Byte-Range: 14-*/12\r\n"))),
        case(Defect::ReportWish, Answered, send(&format!("{id}Failure-Report: perhaps\r\n"))),
        case(Defect::ReportWish, Answered, send(&format!("{id}Success-Report: partial\r\n"))),
        case(Defect::Expires, Answered, frame("AUTH", &format!("{to}{from}Expires: soon\r\n"))),
        case(Defect::ResponseShape, Response, frame("200 OK", &format!("{to}{from}\r\nbody\r\n"))),
    ]
}

fn defect_of(bytes: &[u8]) -> Option<Defect> {
    let step = Parser::new(ParserLimits::default()).step(bytes).unwrap().unwrap();
    let FramePart::Head(head) = step.piece else { panic!("{step:?}") };
    head.defect()
}

fn cases(to: &str, from: &str) -> Vec<Case> {
    let paths_first = format!("To-Path: {to}\r\nFrom-Path: {from}\r\nMessage-ID: m1\r\n");
    let mut all = start_lines(&paths_first);
    all.extend(paths(to.split(' ').next().unwrap(), from));
    all.extend(headers(to, from));
    all
}

fn assert_alive(line: &mut Line) {
    let world = &mut line.world;
    assert!(!world.is_closed(line.from) && !world.is_closed(line.to));
    world.send(line.from, Request::send(&line.path, &line.from_uri, "after", b"x").bytes());
    world.run();
    assert_eq!(only(world.take(line.from), "200").status(), 200);
    let frame = only(world.take(line.to), "SEND");
    world.send(line.to, frame.response(200));
    world.run();
}

// C4: every reason for refusing a head, on a session's connection: an answer wherever one is due and can be addressed,
// and nothing else.
#[test]
fn every_defect_is_answered_where_an_answer_is_owed_and_ends_no_connection() {
    let mut met = HashSet::new();
    for shape in [Shape::Both, Shape::Receiver, Shape::Sender] {
        let mut line = line(shape, 0, 0);
        if matches!(shape, Shape::Receiver) {
            line.bind();
        }
        for Case { defect, fate, bytes } in cases(&line.path, &line.from_uri) {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
            assert_eq!(defect_of(&bytes), Some(defect), "{shown}");
            met.insert(number(defect));
            let world = &mut line.world;
            world.send(line.from, &bytes);
            world.run();
            let answers = world.take(line.from);
            if fate == Answered {
                let answer = only(answers, "400");
                assert_eq!((answer.tid(), answer.to_path().split(' ').count()), ("tid1", 1), "{shown}");
            } else {
                assert!(answers.is_empty(), "{fate:?}: {shown}");
            }
            assert!(world.take(line.to).is_empty(), "forwarded: {shown}");
            assert!(!world.is_closed(line.from), "{shown}");
        }
        assert_alive(&mut line);
    }
    assert_eq!(met.len(), DEFECTS, "a defect without a case");
}

// RFC 4975, 7.2: a refusal comes from the URI that the request was addressed to, or from the relay itself.
#[test]
fn refusal_of_a_malformed_request_comes_from_the_uri_addressed_or_from_the_relay() {
    let mut world = World::new(1);
    let (alice, session) = world.client(0, "alice");
    let uri = world.end(alice).uri.clone();
    let own = "msrps://relay.example.com:2855;tcp".to_owned();
    for (to, from) in [
        (format!("{session} sip:x"), session),
        ("sip:relay.example.com".to_owned(), own.clone()),
        (String::new(), own),
    ] {
        world.send(alice, Request::new("NICKNAME", &to, &format!("{uri} {FAR} nonsense")).bytes());
        let answer = world.take_one(alice);
        assert_eq!((answer.status(), answer.to_path(), answer.from_path()), (400, uri.clone(), from));
    }
}

// C4: if the end of a frame cannot be found, the connection closes, whatever sessions use it.
#[test]
fn framing_that_is_lost_ends_the_connection() {
    // A new reason must be examined here.
    let reasons = |error: ParseError| match error {
        ParseError::StartLine => vec![
            "GET / HTTP/1.1\r\n".to_owned(),
            "MSRP \r\n".to_owned(),
            "MSRP t\u{1}d1 SEND\r\n".to_owned(),
            format!("MSRP {} SEND\r\n", "t".repeat(TID_BYTES_MAX + 1)),
        ],
        // LF alone: `-------tid1$` and LF may end the frame or be body.
        ParseError::BareLf => vec!["MSRP tid1 SEND\nTo-Path: x\n".to_owned()],
        // Only `limits.head_bytes_max` is kept, so its end is not found either.
        ParseError::HeadTooLong => vec![
            format!("MSRP tid1 SEND {}", "x".repeat(17_000)),
            format!("MSRP tid1 SEND\r\nX: {}", "x".repeat(17_000)),
        ],
    };
    for error in [ParseError::StartLine, ParseError::BareLf, ParseError::HeadTooLong] {
        for bytes in reasons(error) {
            assert_eq!(Parser::new(ParserLimits::default()).step(bytes.as_bytes()).unwrap_err(), error);
            let mut line = line(Shape::Both, 0, 0);
            line.world.send(line.from, &bytes);
            line.world.run();
            assert_eq!(line.world.link(line.from).closing, Some(CloseReason::Unparseable), "{bytes:?}");
            assert!(!line.world.is_closed(line.to));
        }
    }
}

// A1, F16: a method is any token. Its answer comes back end to end, with its headers, also before anything was sent.
#[test]
fn answer_to_an_unknown_method_comes_back_with_its_headers() {
    for (name, mut line) in lines() {
        let world = &mut line.world;
        for method in ["FILE_OFFSET", "x-future", "A.B!"] {
            let request = Request::new(method, &line.path, &line.from_uri).header("Message-ID", "transfer");
            world.send(line.from, request.bytes());
            world.run();
            assert!(world.take(line.from).is_empty(), "answered by the relay");
            let frame = only(world.take(line.to), method);
            assert_eq!(frame.message_id(), "transfer");
            let answer = String::from_utf8(frame.response(200)).unwrap();
            let end = answer.find("-------").unwrap();
            world.send(
                line.to,
                format!("{}Offset: 1048576\r\nX-More: a b\r\n{}", &answer[..end], &answer[end..]),
            );
            world.run();
            let answer = only(world.take(line.from), "200");
            assert_eq!(answer.tid(), request.tid, "{name}");
            assert_eq!(answer.header("Offset").as_deref(), Some("1048576"), "{name}");
            assert_eq!(answer.header("X-More").as_deref(), Some("a b"), "{name}");
            assert_eq!(answer.to_path(), line.from_uri);
        }
        world.send(line.from, Request::send(&line.path, &line.from_uri, "after", b"x").bytes());
        world.run();
        assert_eq!(only(world.take(line.from), "200").status(), 200, "{name}");
    }
}

#[test]
fn unknown_method_of_any_spelling_gets_501_where_not_allowed() {
    let mut world = World::with(Settings { methods_allow_other: false, ..settings(1) });
    let pair = world.pair(0, 0);
    for method in ["FILE_OFFSET", "future", "X-1"] {
        let request = Request::new(method, &pair.to_bob, &pair.alice_uri);
        world.send(pair.alice, request.bytes());
        let answer = world.take_one(pair.alice);
        assert_eq!((answer.status(), answer.tid()), (501, &*request.tid));
        assert!(!world.is_closed(pair.alice));
    }
}

fn is_ident(tid: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || ".-+%=".contains(c);
    (4..=32).contains(&tid.len())
        && tid.chars().all(valid)
        && tid.starts_with(|c: char| c.is_ascii_alphanumeric())
}

// A7, G2: peers' transaction ids are echoed unchanged; ours keep to the grammar.
#[test]
fn transaction_ids_outside_the_grammar_are_echoed_and_not_passed_on() {
    let longest = "=".repeat(TID_BYTES_MAX);
    for (name, mut line) in lines() {
        for tid in ["+abcd", "-abcd", "--------", "abc", "a", "ti_d{1}", &"z".repeat(40), &longest] {
            let world = &mut line.world;
            world.send(
                line.from,
                Request::send(&line.path, &line.from_uri, "mess", b"\r\n-------\r\n").tid(tid).bytes(),
            );
            world.run();
            assert_eq!(only(world.take(line.from), "200").tid(), tid, "{name}");
            let frame = only(world.take(line.to), "SEND");
            assert!(is_ident(frame.tid()), "{}", frame.tid());
            assert_eq!(frame.body, b"\r\n-------\r\n");
            world.send(line.to, frame.response(200));
            world.send(line.from, Request::new("NICKNAME", &line.path, &line.from_uri).tid(tid).bytes());
            world.run();
            let frame = only(world.take(line.to), "NICKNAME");
            assert!(is_ident(frame.tid()), "{}", frame.tid());
            world.send(line.to, frame.response(425));
            world.run();
            assert_eq!(only(world.take(line.from), "425").tid(), tid, "{name}");
        }
    }
}

// A4: blank lines between frames, as stacks of SIP send them to keep a connection open.
#[test]
fn blank_lines_between_frames_are_passed_over() {
    for (name, mut line) in lines() {
        let world = &mut line.world;
        for blank in ["\r\n", "\r\n\r\n", "\r", "\n", &"\r\n".repeat(40_000)] {
            let send = Request::send(&line.path, &line.from_uri, "mess", b"x").bytes();
            world.send(line.from, [blank.as_bytes(), &send, blank.as_bytes()].concat());
            world.run();
            assert_eq!(only(world.take(line.from), "200").status(), 200, "{name}");
            let frame = only(world.take(line.to), "SEND");
            world.send(line.to, [blank.as_bytes(), &frame.response(200), blank.as_bytes()].concat());
            world.run();
        }
        assert!(!world.is_closed(line.from) && !world.is_closed(line.to), "{name}");
        assert_eq!(world.sizes().transactions, 0);
    }
}

// C2, C5: they show that the peer lives, and prove nothing.
#[test]
fn blank_lines_keep_a_connection_from_being_idle_and_prove_nothing() {
    let minutes = |n: u64| std::time::Duration::from_secs(60 * n);
    let mut line = line(Shape::Receiver, 0, 0);
    line.bind();
    let world = &mut line.world;
    let newcomer = world.connect(0);
    for _ in 0..3 {
        world.send(newcomer, "\r\n\r\n");
        world.advance(std::time::Duration::from_secs(11));
    }
    assert!(world.is_closed(newcomer), "limits.first_request_timeout");
    // Its session ends; from here on no session uses the foreign connection.
    world.lose(line.to);
    let silent_for = world.settings.limits.idle_timeout / 2 + minutes(1);
    for _ in 0..4 {
        world.send(line.from, "\r\n");
        world.advance(silent_for);
        assert!(!world.is_closed(line.from));
    }
    world.advance(silent_for);
    assert!(world.is_closed(line.from));
}

// F9, limits: a path of the greatest length goes back with our own URIs in front of it.
#[test]
fn report_and_response_come_back_to_the_end_of_the_longest_path() {
    for (a, b) in LAYOUTS {
        let mut line = line(Shape::Receiver, a, b);
        let world = &mut line.world;
        let far: Vec<String> = (1..16).map(|n| format!("msrps://far{n}.example:2855/s;tcp")).collect();
        let from = format!("{} {}", line.from_uri, far.join(" "));
        let most = Request::send(&line.path, &from, "mess", b"x").header("Success-Report", "yes");
        world.send(line.from, most.bytes());
        world.send(line.from, Request::new("NICKNAME", &line.path, &from).bytes());
        world.run();
        assert_eq!(only(world.take(line.from), "200").status(), 200);
        let frames = world.take(line.to);
        assert_eq!(frames.iter().map(Frame::method).collect::<Vec<_>>(), ["SEND", "NICKNAME"]);
        assert_eq!(frames[0].from_path().split(' ').count(), 17);
        let report = Request::new("REPORT", &frames[0].from_path(), &line.to_uri)
            .header("Message-ID", "mess")
            .header("Byte-Range", "1-1/1")
            .header("Status", "000 200 OK");
        world.send(line.to, report.bytes());
        world.send(line.to, frames[1].response(425));
        world.send(line.to, frames[0].response(200));
        world.run();
        let back = world.take(line.from);
        let mut methods: Vec<&str> = back.iter().map(Frame::method).collect();
        methods.sort_unstable();
        assert_eq!(methods, ["425", "REPORT"]);
        assert!(back.iter().all(|frame| frame.to_path() == from));
    }
}

/// The whole message as chunks, each with its Byte-Range.
fn ranges(frames: &[Frame]) -> Vec<(String, usize)> {
    frames
        .iter()
        .filter(|frame| frame.is("SEND"))
        .map(|frame| (frame.range_text(), frame.body.len()))
        .collect()
}

/// Whether a range is possible: with so many bytes from there on, none is after the last of the message.
fn can_be(range: &str, bytes: usize) -> bool {
    let range = msrp_proto::head::ByteRange::parse(range.as_bytes()).unwrap();
    let last = range.start + bytes as u64 - 1;
    // If the end is open, the number of bytes is not known yet.
    let known = if range.end.is_some() { last } else { range.start };
    range.total.is_none_or(|total| known <= total) && range.end.is_none_or(|end| end == last)
}

// A6, G9: a client that counts characters sends more bytes than it announces. Its own range passes, or `*` stands
// there.
#[test]
fn range_that_its_bytes_exceed_is_passed_on_as_it_came() {
    for range in ["1-12/12", "1-*/12", "13-*/12", "13-15/12", "1-15/12", "1-0/0"] {
        let mut line = line(Shape::Both, 0, 1);
        let world = &mut line.world;
        let request = Request::new("SEND", &line.path, &line.from_uri).header("Message-ID", "mess");
        world.send(line.from, request.header("Byte-Range", range).body(&pattern(15)).bytes());
        world.run();
        assert_eq!(ranges(&world.take(line.to)), [(range.to_owned(), 15)]);
        assert_eq!(only(world.take(line.from), "200").status(), 200);
    }
}

// A6, F11: but no piece that we make has an impossible range, nor has a REPORT about one.
#[test]
fn no_piece_has_a_range_that_cannot_be() {
    for range in ["1-100/100", "1-*/100", "101-*/100", "1-3000/3000", "2001-*/3000", "1-100000/100000"] {
        let mut line = line(Shape::Both, 0, 1);
        let world = &mut line.world;
        world.end(line.from).answers = Answers::Always(200);
        world.link_mut(line.to).window = 1;
        let body = pattern(200_000);
        let request = Request::new("SEND", &line.path, &line.from_uri).header("Message-ID", "mess");
        world.send(line.from, request.header("Byte-Range", range).body(&body).bytes());
        world.run();
        world.send(line.to, Request::bodiless(&line.back, &line.to_uri, "back").bytes());
        world.run();
        world.link_mut(line.to).window = usize::MAX;
        world.run();
        let frames = world.take(line.to);
        let pieces = ranges(&frames);
        assert!(pieces.len() > 1, "{range}: {pieces:?}");
        // The first one begins before it is known that more will come than was announced.
        for (piece, bytes) in &pieces[1..] {
            assert!(can_be(piece, *bytes), "{range}: {pieces:?}");
        }
        let bytes: Vec<u8> =
            frames.iter().filter(|frame| frame.is("SEND")).flat_map(|frame| frame.body.clone()).collect();
        assert!(bytes == body);
        world.take(line.from);
        let refused = frames.iter().rfind(|frame| frame.is("SEND")).unwrap().response(415);
        world.send(line.to, refused);
        world.run();
        let report =
            only(world.take(line.from).into_iter().filter(|frame| frame.is("REPORT")).collect(), "REPORT");
        let reported = report.range();
        assert!(
            reported.total.is_none_or(|total| reported.end.is_some_and(|end| end <= total)),
            "{}",
            report.text()
        );
    }
}

// RFC 4975, 7.1: a longer body of another request than SEND is refused; the frame has its end like any other.
#[test]
fn long_body_of_another_request_ends_no_connection_that_serves_a_session() {
    for method in ["NICKNAME", "FUTURE", "REPORT", "AUTH"] {
        let mut line = line(Shape::Both, 0, 0);
        let world = &mut line.world;
        let request = Request::new(method, &line.path, &line.from_uri).header("Message-ID", "mess");
        world.send(line.from, request.body(&pattern(200_000)).bytes());
        world.run();
        let answers = world.take(line.from);
        assert_eq!(answers.len(), usize::from(method != "REPORT"), "{method}");
        assert!(answers.iter().all(|answer| answer.status() == 400 || method == "AUTH"), "{method}");
        for broken in world.take(line.to) {
            assert_eq!(broken.flag, msrp_proto::parser::Flag::Aborted, "{method}");
        }
        assert_alive(&mut line);
    }
}

// The runtime reports only that they came.
#[test]
fn blank_lines_of_a_connection_that_is_gone_are_nothing() {
    let mut world = World::new(1);
    let conn = world.connect(0);
    let peer = world.link(conn).key;
    world.lose(conn);
    world.input(0, Input::Blank { peer, bytes: 2 });
    assert_eq!(world.sizes().peers, 0);
}
