//! Requirements S and G8 to G16 on the wire: what a hostile sender may write, and which peers it can harm.

use std::time::Duration;

use msrp_proto::parser::Flag;

use testkit_pure::endpoint::Answers;
use testkit_pure::frame::pattern;
use testkit_pure::line::{Shape, joined, line, only};
use testkit_pure::{Frame, Request, World};

// S8: a repeated header gets 400: two readers must not read two different things.
#[test]
fn every_repeated_header_gets_400() {
    for header in [
        "To-Path: msrp://a.example:1/b;tcp",
        "From-Path: msrp://a.example:1/b;tcp",
        "Message-ID: mess",
        "Byte-Range: 1-1/1",
        "Failure-Report: yes",
        "Success-Report: no",
        "Expires: 600",
        "Authorization: Digest x=y",
        "Content-Type: text/plain",
        "Status: 000 200 OK",
        "message-id: mess",
    ] {
        let mut line = line(Shape::Both, 0, 0);
        let world = &mut line.world;
        let request = Request::send(&line.path, &line.from_uri, "mess", b"x");
        let present = String::from_utf8(request.bytes()).unwrap().to_ascii_lowercase();
        let name = header.split(':').next().unwrap().to_ascii_lowercase();
        let copies = if present.contains(&format!("\r\n{name}:")) { 1 } else { 2 };
        let request = request.raw(&format!("{header}\r\n").repeat(copies));
        world.send(line.from, request.bytes());
        assert_eq!(world.take_one(line.from).status(), 400, "{header}");
        assert!(world.take(line.to).is_empty());
    }
}

// RFC 4975, 6.1: a session id alone names no session; the whole URI must be the one that was granted.
#[test]
fn session_id_under_another_uri_of_this_relay_names_no_session() {
    let mut world = World::new(1);
    let (client, session) = world.client(0, "alice");
    let uri = world.end(client).uri.clone();
    let stranger = world.connect(0);
    let from = world.end(stranger).uri.clone();
    let plain = session.replace("msrps://", "msrp://");
    let websocket = session.replace(";tcp", ";ws");
    for (to, code) in [(&plain, 481), (&websocket, 481), (&session, 200)] {
        let request = Request::send(&format!("{to} {uri}"), &from, "mess", b"x");
        world.send(stranger, request.bytes());
        assert_eq!(world.take_one(stranger).status(), code, "{to}");
    }
    assert_eq!(world.take(client).len(), 1);
}

// S7: no byte that another program reads as the end of a line may stand in a value: bare CR, bare LF, NUL and others
// get 400.
#[test]
fn control_bytes_in_a_head_are_refused() {
    for byte in ["\r", "\n", "\0", "\u{b}", "\u{1b}", "\u{7f}"] {
        for header in ["X-Unknown: a{}b", "Message-ID: me{}ss", "X-{}: a"] {
            let mut line = line(Shape::Both, 0, 0);
            let world = &mut line.world;
            let bad = format!("{}\r\n", header.replace("{}", byte));
            let request = Request::new("SEND", &line.path, &line.from_uri);
            let request =
                if header.starts_with('M') { request } else { request.header("Message-ID", "mess") };
            world.send(line.from, request.raw(&bad).bytes());
            assert_eq!(world.take_one(line.from).status(), 400, "{bad:?}");
            assert!(world.take(line.to).is_empty());
            assert!(!world.is_closed(line.from));
        }
    }
}

// G7: text is UTF-8. Another program's decoder must not stumble over text that we forward.
#[test]
fn text_that_is_not_utf_8_is_refused() {
    for bytes in [&b"\xff"[..], b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf"] {
        let mut line = line(Shape::Both, 0, 0);
        let world = &mut line.world;
        let request = Request::new("SEND", &line.path, &line.from_uri).header("Message-ID", "mess");
        let text = request.header("X-Unknown", "a?b").bytes();
        let at = text.iter().position(|byte| *byte == b'?').unwrap();
        world.send(line.from, [&text[..at], bytes, &text[at + 1..]].concat());
        assert_eq!(world.take_one(line.from).status(), 400, "{bytes:?}");
        // The same in the comment of a response: it is dropped.
        world.send(line.from, Request::new("NICKNAME", &line.path, &line.from_uri).bytes());
        world.run();
        let response = only(world.take(line.to), "NICKNAME").response(200);
        let at = response.windows(7).position(|word| word == b"Comment").unwrap();
        world.send(line.to, [&response[..at], bytes, &response[at + 7..]].concat());
        world.run();
        assert!(world.take(line.from).is_empty());
        world.send(line.to, response);
        assert_eq!(world.take_one(line.from).status(), 200);
    }
}

// G9: numbers that no message can have are refused, and nothing is ever allocated from them.
#[test]
fn impossible_ranges_get_400() {
    for range in
        ["0-1/1", "3-3/1", "1-18446744073709551616/*", "99999999999999999999-*/*", "-1-1/1", "1/1", "1-1", ""]
    {
        let mut line = line(Shape::Both, 0, 0);
        let world = &mut line.world;
        let request = Request::new("SEND", &line.path, &line.from_uri)
            .header("Message-ID", "mess")
            .header("Byte-Range", range)
            .body(b"x");
        world.send(line.from, request.bytes());
        assert_eq!(world.take_one(line.from).status(), 400, "{range}");
        assert!(world.take(line.to).is_empty());
    }
}

// S16: bodies pass unseen and unaltered, whatever they look like.
#[test]
fn bodies_are_never_altered() {
    let mut line = line(Shape::Both, 0, 1);
    let world = &mut line.world;
    world.end(line.to).answers = Answers::Always(200);
    let every: Vec<u8> = (0..=255).collect();
    for body in [
        &every[..],
        b"\r\n",
        b"\r\n\r\n-------",
        b"\r\n-------tidtidti$\r\n",
        b"-------t0000000$\r\nMSRP t0000000 SEND\r\n",
        b"",
    ] {
        world.send(line.from, Request::send(&line.path, &line.from_uri, "mess", body).bytes());
        world.run();
        assert!(only(world.take(line.to), "SEND").body == body);
        world.take(line.from);
    }
}

// S15: a flood without answers is reported once per request, and a lost connection once per message.
#[test]
fn reports_do_not_multiply() {
    for lost in [false, true] {
        let mut line = line(Shape::Both, 0, 1);
        let world = &mut line.world;
        for n in 0..200 {
            let request = Request::new("SEND", &line.path, &line.from_uri)
                .header("Message-ID", "mess")
                .header("Byte-Range", &format!("{}-{}/*", n + 1, n + 1))
                .body(b"x")
                .flag(Flag::More);
            world.send(line.from, request.bytes());
        }
        world.run();
        world.take(line.from);
        if lost {
            world.lose(line.to);
        }
        world.advance(Duration::from_secs(120));
        let reports = world.take(line.from);
        assert_eq!(reports.len(), if lost { 1 } else { 200 });
        if lost {
            assert_eq!(reports[0].range_text(), "1-200/*");
        }
    }
}

// S14: on a connection with many sessions, one client that does not read must not stop the others.
#[test]
fn stalled_session_does_not_stop_the_others_of_a_shared_connection() {
    let mut world = World::new(1);
    let shared = world.connect(0);
    let uri = |n: usize| format!("msrps://r9.alder.example:2855/peer{n};tcp msrps://192.0.2.9:500{n}/x;tcp");
    let clients: Vec<_> = ["alice", "bob"].map(|user| world.client(0, user)).into();
    let paths: Vec<String> =
        clients.iter().map(|(conn, session)| format!("{session} {}", world.link(*conn).end.uri)).collect();
    let (stalled, lively) = (clients[0].0, clients[1].0);
    world.end(lively).answers = Answers::Always(200);
    for n in 0..2 {
        world.send(shared, Request::bodiless(&paths[n], &uri(n), "first").bytes());
        assert_eq!(world.take_one(shared).status(), 200);
        world.take(clients[n].0);
    }
    world.link_mut(stalled).stalled = true;
    let file = pattern(2_000_000);
    let request = Request::send(&paths[0], &uri(0), "file", &file).bytes();
    world.send(shared, request);
    world.advance(Duration::from_secs(10));
    // The stalled receiver loses this message; the other session's comes through.
    world.send(shared, Request::send(&paths[1], &uri(1), "chat", b"hello").bytes());
    world.advance(Duration::from_secs(1));
    let told = world.take(shared);
    assert!(
        told.iter().any(|frame| frame.is("413") || frame.is("REPORT") && frame.reported() == 413),
        "{told:?}"
    );
    assert_eq!(only(world.take(lively), "SEND").message_id(), "chat");
}

// S14: only a receiver that takes nothing is refused. The relief is for one that is up to date and waits for more,
// because another one holds up its connection.
#[test]
fn a_session_that_is_up_to_date_is_not_refused_for_a_stalled_one() {
    // So much that a little of the other message is enough to hold up the connection.
    for (window, bytes) in [(0, 256_000), (30_000, 290_000)] {
        let mut world = World::new(1);
        let shared = world.connect(0);
        let uri =
            |n: usize| format!("msrps://r9.alder.example:2855/peer{n};tcp msrps://192.0.2.9:500{n}/x;tcp");
        let clients: Vec<_> = ["alice", "bob"].map(|user| world.client(0, user)).into();
        let paths: Vec<String> = clients
            .iter()
            .map(|(conn, session)| format!("{session} {}", world.link(*conn).end.uri))
            .collect();
        let (stalled, lively) = (clients[0].0, clients[1].0);
        for (conn, _) in &clients {
            world.end(*conn).answers = Answers::Always(200);
        }
        for n in 0..2 {
            world.send(shared, Request::bodiless(&paths[n], &uri(n), "first").bytes());
            assert_eq!(world.take_one(shared).status(), 200);
            world.take(clients[n].0);
        }
        // It begins to take its message, or does not even begin.
        world.link_mut(stalled).window = window;
        world.send(shared, Request::send(&paths[0], &uri(0), "stalled", &pattern(bytes)).bytes());
        world.run();
        world.send(shared, Request::send(&paths[1], &uri(1), "lively", &pattern(1_000_000)).bytes());
        world.run();
        let before = world.end(lively).body_bytes;
        assert!(before > 0 && before < 1_000_000, "held up in the middle: {before}");
        world.advance(Duration::from_secs(11));
        world.link_mut(stalled).window = usize::MAX;
        world.run();
        let told = world.take(shared);
        let refused = |frame: &&Frame| frame.is("413") || frame.is("REPORT") && frame.reported() == 413;
        let about: Vec<String> = told.iter().filter(refused).map(Frame::message_id).collect();
        assert_eq!(about, ["stalled"], "{told:?}");
        let frames = world.take(lively);
        assert!(frames.iter().all(|frame| frame.flag != Flag::Aborted), "{frames:?}");
        assert!(joined(&frames) == pattern(1_000_000));
        world.close_all();
    }
}

// S14: the second session of a connection may join when it is held up already.
#[test]
fn a_session_that_joins_a_connection_which_is_held_up_is_relieved_as_well() {
    let mut world = World::new(2);
    let shared = world.connect(0);
    let uri = |n: usize| format!("msrps://r9.alder.example:2855/peer{n};tcp msrps://192.0.2.9:500{n}/x;tcp");
    let (stalled, session) = world.client(0, "alice");
    let to_stalled = format!("{session} {}", world.link(stalled).end.uri);
    let (lively, session) = world.client(1, "bob");
    let to_lively = format!("{session} {}", world.link(lively).end.uri);
    world.link_mut(stalled).stalled = true;
    world.hold_messages = true;
    world.send(shared, Request::bodiless(&to_lively, &uri(1), "first").bytes());
    world.send(shared, Request::send(&to_stalled, &uri(0), "stalled", &pattern(1_000_000)).bytes());
    world.run();
    assert!(world.link(shared).paused);
    world.hold_messages = false;
    world.run();
    world.take(shared);
    world.advance(Duration::from_secs(11));
    world.send(shared, Request::send(&to_lively, &uri(1), "lively", b"hello").bytes());
    world.run();
    let told = world.take(shared);
    assert!(told.iter().any(|frame| frame.is("413")), "{told:?}");
    assert_eq!(world.take(lively).last().map(Frame::message_id), Some("lively".to_owned()));
}

// S4: what an operator reads never holds a whole session URI.
#[test]
fn events_hold_no_session_secret() {
    let mut world = World::new(1);
    let pair = world.pair(0, 0);
    world.send(pair.alice, Request::bodiless(&pair.to_bob, &pair.alice_uri, "mess").bytes());
    world.run();
    let stranger = world.connect(0);
    let uri = world.end(stranger).uri.clone();
    let stolen = format!("{} {}", pair.bob_session, pair.bob_uri);
    world.send(stranger, Request::bodiless(&stolen, &uri, "mess").bytes());
    world.advance(Duration::from_secs(60));
    world.lose(pair.bob);
    world.run();
    let events = world.events.join("\n");
    for name in ["SessionOpened", "SessionClosed", "RequestRefused", "ReportSent"] {
        assert!(events.contains(name), "{events}");
    }
    for session in [&pair.alice_session, &pair.bob_session] {
        let id = session.split('/').next_back().unwrap().split(';').next().unwrap();
        assert!(!events.contains(id), "{events}");
    }
}
