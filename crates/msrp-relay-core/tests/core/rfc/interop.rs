//! Requirements I, and G where clients rely on more than the grammar: the spelling of our own frames, and what we tolerate.

use msrp_relay_core::Settings;

use super::FAR;
use testkit_pure::endpoint::Answers;
use testkit_pure::line::{Shape, line, only};
use testkit_pure::{Decision, Frame, HOST, Request, World, auth_with, challenged, relay_uri, settings};

/// Every kind of frame that this relay makes itself.
fn own_frames() -> Vec<Frame> {
    let settings = Settings { methods_allow_other: false, ..settings(1) };
    let mut world = World::with(settings);
    let mut frames = Vec::new();

    let conn = world.connect(0);
    let uri = world.end(conn).uri.clone();
    frames.push(challenged(&mut world, conn, &relay_uri()));
    frames.push(auth_with(&mut world, conn, &relay_uri(), "Digest"));
    frames.push(world.auth_round(conn, "alice", &uri, "Expires: 5\r\n"));
    frames.push(world.auth_round(conn, "alice", &uri, "Expires: 5000\r\n"));
    let accepted = world.auth_round(conn, "alice", &uri, "");
    let to = format!("{} {FAR}", accepted.header("Use-Path").unwrap());
    frames.push(accepted);
    frames.push(world.auth_round(conn, "bob", &uri, ""));

    world.dial_decision = Decision::Fail;
    world.send(conn, Request::send(&to, &uri, "mess", b"x").bytes());
    world.send(conn, Request::new("FUTURE", &to, &uri).bytes());
    world.send(conn, Request::new("SEND", &to, &uri).bytes());
    let nowhere = format!("msrps://{HOST}:2855/absent;tcp {FAR}");
    world.send(conn, Request::bodiless(&nowhere, &uri, "mess").bytes());
    world.run();
    frames.extend(world.take(conn));

    let plain = world.connect_by(0, false);
    let uri = world.end(plain).uri.clone();
    world.send(plain, Request::new("AUTH", &relay_uri(), &uri).bytes());
    frames.push(world.take_one(plain));
    frames
}

// I3, I4, G3, G4: our own frames: canonical names, one space behind each colon, an ASCII comment behind each code.
#[test]
fn own_frames_are_written_canonically() {
    const NAMES: [&str; 11] = [
        "To-Path",
        "From-Path",
        "WWW-Authenticate",
        "Use-Path",
        "Expires",
        "Min-Expires",
        "Max-Expires",
        "Authentication-Info",
        "Message-ID",
        "Byte-Range",
        "Status",
    ];
    let frames = own_frames();
    let mut met: Vec<String> = frames.iter().map(|frame| frame.method().to_owned()).collect();
    met.sort();
    met.dedup();
    assert_eq!(met, ["200", "400", "401", "403", "423", "481", "501", "REPORT"]);
    for frame in frames {
        let text = frame.text();
        assert!(text.is_ascii(), "{text}");
        let mut lines = text.split("\r\n");
        let mut start = lines.next().unwrap().splitn(4, ' ');
        assert_eq!(start.next(), Some("MSRP"));
        let tid = start.next().unwrap();
        if start.next() != Some("REPORT") {
            assert!(start.next().is_some_and(|comment| !comment.is_empty()), "{text}");
        }
        let headers: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("-------")).collect();
        assert!(headers[0].starts_with("To-Path: ") && headers[1].starts_with("From-Path: "));
        for header in headers {
            let (name, value) = header.split_once(": ").unwrap();
            assert!(NAMES.contains(&name) && !value.starts_with(' ') && !value.ends_with(' '), "{header:?}");
            // Some readers drop a header whose value looks like another one.
            assert!(!value.contains(": "), "{header:?}");
        }
        assert!(text.ends_with(&format!("\r\n-------{tid}$\r\n")), "{text}");
    }
}

// G12, I1: our digest parameters: which are quoted, in which order, and always with a space after the comma.
#[test]
fn digest_parameters_are_quoted_as_the_rfc_has_it() {
    let frames = own_frames();
    let header = |name: &str| frames.iter().find_map(|frame| frame.header(name)).unwrap();
    let names = |value: &str| -> Vec<String> {
        let unquoted: String = value.split('"').step_by(2).collect();
        unquoted.split(", ").map(|part| part.trim_start_matches("Digest ").to_owned()).collect()
    };
    let challenge = header("WWW-Authenticate");
    assert_eq!(names(&challenge), ["realm=", "nonce=", "opaque=", "algorithm=MD5", "qop="]);
    assert!(challenge.contains("qop=\"auth\""));
    let info = header("Authentication-Info");
    assert_eq!(names(&info), ["nextnonce=", "rspauth=", "cnonce=", "nc=00000001", "qop=auth"]);
}

// G11: the bounds stand in 423 and nowhere else, and only the one that was missed.
#[test]
fn bounds_of_expires_stand_in_423_alone() {
    for frame in own_frames() {
        let bounds = [frame.header("Min-Expires"), frame.header("Max-Expires")];
        assert_eq!(bounds.iter().flatten().count(), usize::from(frame.is("423")), "{frame:?}");
    }
}

// I11: a SEND without Byte-Range is a message from its first byte; the next hop is told so.
#[test]
fn send_without_a_byte_range_is_accepted_and_gets_one() {
    let mut line = line(Shape::Both, 0, 0);
    let world = &mut line.world;
    let request =
        Request::new("SEND", &line.path, &line.from_uri).header("Message-ID", "mess").body(b"hello");
    world.send(line.from, request.bytes());
    assert_eq!(world.take_one(line.from).status(), 200);
    assert_eq!(only(world.take(line.to), "SEND").range_text(), "1-5/5");
}

// I11: REPORTs pass unchanged, with `*` in their range, without a range, and with a status of any namespace (G10).
#[test]
fn reports_are_forwarded_whatever_they_hold() {
    let mut line = line(Shape::Both, 0, 1);
    line.bind();
    let world = &mut line.world;
    for headers in [
        "Message-ID: mess\r\nByte-Range: 1-*/*\r\nStatus: 000 200 OK\r\n",
        "Message-ID: mess\r\nStatus: 000 413\r\n",
        "Message-ID: mess\r\nStatus: 123 999 not ours\r\n",
        "Message-ID: mess\r\nFailure-Report: yes\r\nStatus: 000 200 OK\r\n",
        "X-Only: this\r\n",
    ] {
        world.send(line.from, Request::new("REPORT", &line.path, &line.from_uri).raw(headers).bytes());
        world.run();
        assert!(only(world.take(line.to), "REPORT").text().contains(headers));
        assert!(world.take(line.from).is_empty());
    }
    assert_eq!(world.sizes().transactions, 0);
}

// I6: answers to requests that want none are ignored: 200 to `partial`, 200 to `no`, anything to a REPORT.
#[test]
fn unrequested_answers_are_ignored() {
    let mut line = line(Shape::Both, 0, 1);
    let world = &mut line.world;
    for wish in ["partial", "no"] {
        let request = Request::send(&line.path, &line.from_uri, "mess", b"x").header("Failure-Report", wish);
        world.send(line.from, request.bytes());
        world.run();
        let frame = only(world.take(line.to), "SEND");
        world.send(line.to, frame.response(200));
    }
    world.send(line.from, Request::new("REPORT", &line.path, &line.from_uri).bytes());
    world.run();
    let report = only(world.take(line.to), "REPORT");
    world.send(line.to, report.response(400));
    world.advance(std::time::Duration::from_secs(60));
    assert!(world.take(line.from).is_empty() && world.take(line.to).is_empty());
    assert!(!world.is_closed(line.to));
    assert_eq!(world.sizes().transactions, 0);
}

// I5: some peers answer with only the last URI of each path; what goes back end to end then stays as it came.
#[test]
fn response_without_our_uris_is_passed_back_by_its_transaction_id() {
    let mut line = line(Shape::Both, 0, 1);
    let world = &mut line.world;
    let request = Request::new("NICKNAME", &line.path, &line.from_uri);
    world.send(line.from, request.bytes());
    world.run();
    let frame = only(world.take(line.to), "NICKNAME");
    let short = testkit_pure::frame::response(frame.tid(), 200, &line.from_uri, &line.to_uri);
    world.send(line.to, short);
    let answer = world.take_one(line.from);
    assert_eq!((answer.status(), answer.tid()), (200, &*request.tid));
    assert_eq!((answer.to_path(), answer.from_path()), (line.from_uri.clone(), line.to_uri.clone()));
}

// I12: a client that keeps alive with empty SENDs once a minute gets its 200 every time, for as long as it likes.
#[test]
fn keep_alives_are_answered_for_hours() {
    let mut line = line(Shape::Both, 0, 1);
    let world = &mut line.world;
    world.end(line.to).answers = Answers::Always(200);
    for n in 0..180 {
        let id = format!("alive{n}");
        let request = Request::bodiless(&line.path, &line.from_uri, &id).header("Keep-Alive", "yes");
        world.send(line.from, request.bytes());
        assert_eq!(world.take_one(line.from).status(), 200);
        let frame = only(world.take(line.to), "SEND");
        assert!(!frame.head.has_body() && frame.header("Keep-Alive").as_deref() == Some("yes"));
        world.advance(std::time::Duration::from_secs(60));
    }
    assert_eq!(world.sizes().transactions, 0);
}

// I15: session ids of other relays hold `/`, `+` and `=`.
#[test]
fn session_ids_of_other_relays_pass() {
    let mut world = World::new(1);
    let (alice, session) = world.client(0, "alice");
    let uri = world.end(alice).uri.clone();
    let next = "msrps://relay.alder.example:2855/aGk/+x==;tcp msrps://192.0.2.9:5000/y/z=;tcp";
    world.send(alice, Request::send(&format!("{session} {next}"), &uri, "mess", b"x").bytes());
    assert_eq!(world.take_one(alice).status(), 200);
    let (target, conn) = world.dialled[0].clone();
    assert!(target.relay && target.host == "relay.alder.example");
    assert_eq!(only(world.take(conn), "SEND").to_path(), next);
}
