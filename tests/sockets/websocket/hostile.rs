//! WebSocket peers that are up to no good: what they break ends their connection alone, and what they flood is bounded.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use testkit_net::endpoint::{End, Endpoint};
use testkit_net::frame::{Request, fresh_id};
use testkit_net::relay::{Setup, TestRelay};
use testkit_net::websocket::{BINARY, PING, PONG, TEXT, client_frame, upgrade_request};
use testkit_net::{bounded, until};

use super::{relay, setup};

/// What the relay answers to a request of HTTP, all of it, and that it closes.
fn answer(relay: &TestRelay, request: &str) -> String {
    let mut stranger = Endpoint::tls(relay.websocket(), &relay.client, "stranger");
    let mut answer = stranger.ask_http(request);
    assert_ne!(stranger.reader.until_close(), End::Broken);
    answer.push_str(&String::from_utf8_lossy(&stranger.reader.take_plain()));
    answer
}

// T1: only an upgrade to msrp gets in, and what else is asked gets a status that says why.
#[test]
fn what_is_no_upgrade_is_refused_in_http_and_closed() {
    bounded(|| {
        let relay = relay();
        let good = upgrade_request("");
        for (request, status) in [
            (good.replace("Sec-WebSocket-Protocol: msrp\r\n", ""), 400),
            (good.replace("GET / ", "GET /other "), 404),
            (good.replace("GET / ", "POST / "), 405),
            (good.replace("Version: 13", "Version: 12"), 426),
            ("GET / HTTP/1.1\r\nHost: relay.example.test\r\n\r\n".to_owned(), 426),
            (upgrade_request(&format!("Cookie: {}\r\n", "x".repeat(10_000))), 431),
            (upgrade_request(&"X-A: b\r\n".repeat(100)), 431),
            ("MSRP 1234 SEND\r\n\r\n".to_owned(), 400),
        ] {
            let answer = answer(&relay, &request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        }
        assert_eq!(relay.web_client("alice").incoming().messages.len(), 2);
        until("counted", || (relay.counted().websocket_refusals == 8).then_some(()));
        assert_eq!(relay.counted().websocket_upgrades, 1);
    });
}

// T1: RFC 7977, 7.
#[test]
fn page_of_another_origin_is_refused_and_one_that_is_listed_may_read_the_answer() {
    bounded(|| {
        let relay = TestRelay::with(&setup("websocket: {origins: [\"https://chat.example.com\"]}"));
        let refused = answer(&relay, &upgrade_request("Origin: https://evil.example\r\n"));
        assert!(refused.starts_with("HTTP/1.1 403 ") && refused.contains("websocket.origins"), "{refused}");
        let mut page = Endpoint::tls(relay.websocket(), &relay.client, "page");
        let upgraded = page.ask_http(&upgrade_request("Origin: https://chat.example.com\r\n"));
        assert!(upgraded.starts_with("HTTP/1.1 101 "), "{upgraded}");
        assert!(upgraded.contains("Access-Control-Allow-Origin: https://chat.example.com\r\n"), "{upgraded}");
    });
}

#[test]
fn request_for_an_upgrade_must_come_in_time() {
    bounded(|| {
        let relay = TestRelay::with(&setup("limits: {handshake_timeout: 1s}"));
        let mut slow = Endpoint::tls(relay.websocket(), &relay.client, "slow");
        slow.writer.write(b"GET / HTTP/1.1\r\nHost: relay");
        assert_ne!(slow.reader.until_close(), End::Broken);
    });
}

// RFC 6455, 5.1 to 5.5: the connection ends with 1002, and the chunk it was sending is aborted.
#[test]
fn peer_that_breaks_the_protocol_is_told_so_and_others_live_on() {
    bounded(|| {
        let relay = relay();
        let mut unmasked = client_frame(BINARY, b"\r\n");
        unmasked[1] &= 0x7f;
        for wrong in [
            unmasked,
            client_frame(0xc2, b"\r\n"),
            client_frame(0x83, b"\r\n"),
            client_frame(0x09, b""),
            client_frame(0x80, b"\r\n"),
            vec![BINARY, 0x80 | 126, 0, 5, 0, 0, 0, 0],
            vec![PING, 0x80 | 126, 1, 0, 0, 0, 0, 0],
            client_frame(0x88, &[3]),
        ] {
            let (mut alice, mut bob) = (relay.web_client("alice"), relay.client("bob"));
            let request = Request::send(&alice.route(&bob.path()), &alice.uri.clone(), &fresh_id(), "1-*/*");
            let message = [&request.head()[..], &[b'x'; 5000]].concat();
            alice.writer.write_below(&client_frame(0x02, &message));
            bob.reader.part_of_chunk(4000);
            alice.writer.write_below(&wrong);
            assert_eq!(alice.reader.until_end(), End::Clean, "{wrong:02x?}");
            assert_eq!(alice.incoming().close_code(), Some(1002), "{wrong:02x?}");
            assert_eq!(bob.frame().flag, msrp_proto::parser::Flag::Aborted);
        }
        let (mut carol, mut dave) = (relay.web_client("user0"), relay.client("user1"));
        carol.chat(&mut dave, b"still here");
    });
}

// T2: never half a frame. The receiver of the chunk learns that no more comes.
#[test]
fn message_that_ends_within_a_frame_aborts_the_chunk() {
    bounded(|| {
        let relay = relay();
        let (mut alice, mut bob) = (relay.web_client("alice"), relay.client("bob"));
        let request = Request::send(&alice.route(&bob.path()), &alice.uri.clone(), &fresh_id(), "1-*/*");
        let half = [&request.head()[..], &[b'x'; 5000]].concat();
        alice.writer.write_below(&client_frame(BINARY, &half));
        let frame = bob.frame();
        assert_eq!(frame.flag, msrp_proto::parser::Flag::Aborted);
        assert_eq!(alice.reader.until_end(), End::Clean);
        assert_eq!(alice.incoming().close_code(), Some(1002));
    });
}

// T2, T7: text and binary, in fragments with control frames between them, several frames in one message, CRLF alone.
#[test]
fn message_may_be_text_in_fragments_with_pings_between_them() {
    bounded(|| {
        let relay = relay();
        let (mut alice, mut bob) = (relay.web_client("alice"), relay.web_client("bob"));
        let request = |alice: &Endpoint, bob: &Endpoint| {
            Request::send(&alice.route(&bob.path()), &alice.uri, &fresh_id(), "1-5/5")
        };
        let one = request(&alice, &bob).with_body(b"hello", msrp_proto::parser::Flag::Last);
        let (front, back) = one.split_at(one.len() / 2);
        alice.writer.write_below(&client_frame(BINARY, b"\r\n"));
        alice.writer.write_below(&client_frame(BINARY, b""));
        alice.writer.write_below(&client_frame(0x01, front));
        alice.writer.write_below(&client_frame(PING, b"between"));
        alice.writer.write_below(&client_frame(0x00, b""));
        alice.writer.write_below(&client_frame(0x80, back));
        assert_eq!(bob.request("SEND").body, b"hello");
        assert_eq!(alice.frame().status(), Some(200));
        assert!(alice.incoming().controls.contains(&(PONG, b"between".to_vec())));
        let two = [request(&alice, &bob), request(&alice, &bob)]
            .map(|request| request.with_body(b"again", msrp_proto::parser::Flag::Last))
            .concat();
        alice.writer.write_below(&client_frame(TEXT, &two));
        for _ in 0..2 {
            assert_eq!(bob.request("SEND").body, b"again");
            assert_eq!(alice.frame().status(), Some(200));
        }
        // T7.
        let keep_alive = request(&alice, &bob).bare();
        alice.writer.write(&keep_alive);
        assert!(bob.request("SEND").body.is_empty());
    });
}

// A length of 2^62 promises what never comes: what has come is forwarded, nothing is kept for it, and the end aborts the chunk.
#[test]
fn message_of_an_enormous_length_costs_nothing_until_it_comes() {
    bounded(|| {
        let relay = relay();
        let (mut alice, mut bob) = (relay.web_client("alice"), relay.client("bob"));
        let request = Request::send(&alice.route(&bob.path()), &alice.uri.clone(), &fresh_id(), "1-*/*");
        let part = [&request.head()[..], &[b'x'; 9000]].concat();
        let mut frame = vec![BINARY, 0x80 | 127];
        frame.extend_from_slice(&(1_u64 << 62).to_be_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(&part);
        alice.writer.write_below(&frame);
        bob.reader.part_of_chunk(8000);
        assert!(relay.counted().queue_bytes < 1 << 20);
        alice.close();
        assert_eq!(bob.frame().flag, msrp_proto::parser::Flag::Aborted);
    });
}

// What has begun must end in time, be it the header of a WebSocket frame or a head of MSRP in fragments of one byte.
#[test]
fn header_and_head_that_never_end_are_given_up() {
    bounded(|| {
        let relay = TestRelay::with(&setup("limits: {head_timeout: 1s}"));
        for begun in [vec![BINARY], vec![BINARY, 0x80 | 126, 9], vec![PING, 0x80 | 3, 1, 2, 3, 4, 0]] {
            let mut page = relay.web_client("alice");
            page.writer.write_below(&begun);
            page.reader.until_end();
        }
        let mut page = relay.web_client("alice");
        page.writer.write_below(&client_frame(0x02, b"M"));
        for _ in 0..200 {
            let written = page.writer.try_write_below(&client_frame(0x00, b"S"));
            if written.is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        page.reader.until_end();
        let (mut carol, mut dave) = (relay.web_client("user0"), relay.client("user1"));
        carol.chat(&mut dave, b"still here");
    });
}

// RFC 6455, 5.5.1: nothing counts that comes behind a Close frame; and one behind the request for the upgrade counts.
#[test]
fn what_comes_behind_a_close_frame_is_ignored_and_what_comes_behind_the_upgrade_is_not() {
    bounded(|| {
        let relay = relay();
        let (mut alice, mut bob) = (relay.web_client("alice"), relay.client("bob"));
        bob.chat(&mut alice, b"hello");
        let late = Request::send(&alice.route(&bob.path()), &alice.uri.clone(), &fresh_id(), "1-4/4");
        let late = late.with_body(b"late", msrp_proto::parser::Flag::Last);
        let close = client_frame(0x88, &1000_u16.to_be_bytes());
        alice.writer.write_below(&[close, client_frame(BINARY, &late)].concat());
        assert_eq!(alice.reader.until_end(), End::Clean);
        assert_eq!(alice.incoming().close_code(), Some(1000));
        let mut page = Endpoint::tls(relay.websocket(), &relay.client, "page");
        let uri = "msrps://page.invalid:2855/own;ws";
        let auth = Request::new("AUTH", "msrps://example.com;ws", uri);
        let tid = auth.tid();
        let first = [upgrade_request("").into_bytes(), client_frame(BINARY, &auth.bare())].concat();
        page.writer.write_below(&first);
        let answer = page.ask_http("");
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        page.go_on_as_websocket("page");
        assert_eq!(page.status(&tid), 401);
        // Bob hears of the end of Alice's session by asking for it, and nothing else.
        let tid = bob.say(&alice.path(), b"anybody?");
        assert_eq!(bob.status(&tid), 481);
    });
}

#[test]
fn floods_of_pings_and_of_empty_fragments_end_the_connection() {
    bounded(|| {
        let relay = relay();
        for flood in [
            client_frame(PING, b"").repeat(20_000),
            [client_frame(0x02, b""), client_frame(0x00, b"").repeat(20_000)].concat(),
        ] {
            let mut page = relay.web_client("alice");
            // It closes while this is still being written.
            let _ = page.writer.try_write_below(&flood);
            page.reader.until_end();
            // A reset may overtake the Close frame.
            assert!(page.incoming().close_code().is_none_or(|code| code == 1008));
        }
        let (mut carol, mut dave) = (relay.web_client("user0"), relay.client("user1"));
        carol.chat(&mut dave, b"still here");
    });
}

// Pings that are not read as pongs cost one pong's memory, however many there were.
#[test]
fn peer_that_pings_and_reads_nothing_is_owed_one_pong() {
    bounded(|| {
        let relay = relay();
        let mut page = relay.web_client("alice");
        for n in 0..200_u32 {
            page.writer.write_below(&client_frame(PING, &n.to_be_bytes()));
        }
        let (mut carol, mut dave) = (relay.web_client("user0"), relay.client("user1"));
        carol.chat(&mut dave, b"meanwhile");
        let last = (PONG, 199_u32.to_be_bytes().to_vec());
        while page.incoming().controls.last() != Some(&last) {
            page.reader.receive();
            assert_eq!(page.reader.end, None);
        }
        assert!(page.incoming().controls.len() <= 200);
    });
}

// T7: who answers no ping is given up, and who sends anything is not.
#[test]
fn client_that_answers_no_ping_loses_its_session() {
    bounded(|| {
        let relay = TestRelay::with(&setup("websocket: {ping_interval: 1s}"));
        let mut phone = relay.client("bob");
        let (mut dead, mut lively) = (relay.web_client("alice"), relay.web_client("user0"));
        let stop = std::thread::spawn(move || {
            assert_ne!(dead.reader.until_end(), End::Broken);
            dead
        });
        let mut answered = 0;
        while relay.counted().websocket_pings_unanswered == 0 {
            lively.reader.receive();
            let pings = lively.incoming().controls.iter().filter(|(first, _)| *first == PING).count();
            while answered < pings {
                lively.writer.write_below(&client_frame(PONG, b""));
                answered += 1;
            }
        }
        stop.join().unwrap();
        until("two sessions", || (relay.counted().sessions_open == 2).then_some(()));
        lively.chat(&mut phone, b"I am here");
        assert_eq!(relay.counted().websocket_pings_unanswered, 1);
    });
}

// RFC 7977, 5.3.1: nothing but AUTH before an AUTH that succeeds.
#[test]
fn request_before_an_auth_is_refused_and_too_many_end_the_connection() {
    bounded(|| {
        let relay = relay();
        let bob = relay.client("bob");
        let mut page = Endpoint::wss(relay.websocket(), &relay.client, "page");
        let mut statuses = Vec::new();
        while let Ok(()) = page.writer.try_write(
            &Request::send(&bob.path(), &page.uri.clone(), &fresh_id(), "1-2/2")
                .with_body(b"hi", msrp_proto::parser::Flag::Last),
        ) {
            match page.reader.next_frame() {
                Ok(frame) => statuses.push(frame.status().unwrap()),
                Err(_) => break,
            }
        }
        assert!(!statuses.is_empty() && statuses.iter().all(|status| *status == 403), "{statuses:?}");
        assert!(statuses.len() <= 16, "{}", statuses.len());
    });
}

#[test]
fn plain_websocket_serves_where_insecure_plain_allows_it_alone() {
    bounded(|| {
        let plain = Setup { websocket: &[("127.0.0.1:0", false)], plain_auth: true, ..Setup::default() };
        let relay = TestRelay::with(&plain);
        let mut page = Endpoint::ws(relay.websocket(), "alice").log_in("alice", 80);
        assert!(page.relay.as_ref().unwrap().starts_with("msrps://"), "{:?}", page.relay);
        let mut phone = relay.client("bob");
        page.chat(&mut phone, b"in clear");
        phone.chat(&mut page, b"and back");
    });
}

#[test]
fn listener_for_tls_without_http_is_not_confused() {
    bounded(|| {
        let relay = relay();
        let mut stream = TcpStream::connect(relay.websocket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP"), "TLS comes first");
    });
}
