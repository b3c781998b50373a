//! The response codes: the effect of each when the next hop sends it (RFC 4975, 10; RFC 4976, 6.4.3; RFC 7701, 7).

use testkit_pure::Request;
use testkit_pure::line::{Shape, line, lines, only};

/// Every code that an RFC of this protocol knows as a failure, and some that none does.
const FAILURES: [u16; 19] =
    [100, 300, 400, 401, 403, 404, 408, 413, 415, 423, 424, 425, 428, 481, 500, 501, 506, 599, 999];

// F10, Q4: a failure of a chunk becomes one REPORT with the very code, for `yes` and `partial`; for `no` nothing.
#[test]
fn every_failure_of_a_chunk_becomes_a_report_with_its_code() {
    for code in FAILURES {
        for (wish, reports) in [("yes", 1), ("partial", 1), ("no", 0)] {
            let mut line = line(Shape::Both, 0, 1);
            let world = &mut line.world;
            let request =
                Request::send(&line.path, &line.from_uri, "mess", b"x").header("Failure-Report", wish);
            world.send(line.from, request.bytes());
            world.run();
            world.take(line.from);
            let frame = only(world.take(line.to), "SEND");
            world.send(line.to, frame.response(code));
            world.run();
            let told = world.take(line.from);
            assert_eq!(told.len(), reports, "{code} {wish}");
            for report in told {
                assert_eq!((report.reported(), &*report.range_text()), (code, "1-1/1"));
            }
            assert_eq!(world.sizes().transactions, 0);
        }
    }
}

// RFC 4976, 6.4.1: the whole 200 class says that the chunk has arrived.
#[test]
fn every_code_of_the_200_class_is_success() {
    for code in [200, 202, 299] {
        let mut line = line(Shape::Both, 0, 1);
        let world = &mut line.world;
        world.send(line.from, Request::send(&line.path, &line.from_uri, "mess", b"x").bytes());
        world.run();
        assert_eq!(only(world.take(line.from), "200").status(), 200);
        let frame = only(world.take(line.to), "SEND");
        world.send(line.to, frame.response(code));
        world.advance(std::time::Duration::from_secs(60));
        assert!(world.take(line.from).is_empty(), "{code}");
    }
}

// Q3: what is answered end to end gets the far end's own code, header for header.
#[test]
fn every_code_passes_back_end_to_end() {
    for code in FAILURES.into_iter().chain([200]) {
        let mut line = line(Shape::Both, 0, 1);
        let world = &mut line.world;
        let request = Request::new("NICKNAME", &line.path, &line.from_uri).header("Use-Nickname", "\"Al\"");
        world.send(line.from, request.bytes());
        world.run();
        let frame = only(world.take(line.to), "NICKNAME");
        let response = String::from_utf8(frame.response(code)).unwrap();
        world.send(line.to, response.replace("-------", "X-Detail: because\r\n-------"));
        let answer = world.take_one(line.from);
        assert_eq!((answer.status(), answer.tid()), (code, &*request.tid));
        assert_eq!(answer.header("X-Detail").as_deref(), Some("because"));
    }
}

// 481 from the next hop: reported like any failure; the session stays bound to it (a URI is bound once, F5).
#[test]
fn session_stays_bound_to_a_next_hop_that_answers_481() {
    for (name, mut line) in lines() {
        let world = &mut line.world;
        for id in ["one", "two"] {
            world.send(line.from, Request::send(&line.path, &line.from_uri, id, b"x").bytes());
            world.run();
            world.take(line.from);
            let frame = only(world.take(line.to), "SEND");
            assert_eq!(frame.message_id(), id, "{name}");
            world.send(line.to, frame.response(481));
            assert_eq!(world.take_one(line.from).reported(), 481);
        }
    }
}
