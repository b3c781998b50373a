//! Clients as they are: how the most used library talks, old and new TLS, connections that end badly or well.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use msrp_proto::parser::Flag;
use rustls::ProtocolVersion::{TLSv1_2, TLSv1_3};
use rustls::version::{TLS12, TLS13};

use testkit_net::account::{DOMAIN, Login, Style, password};
use testkit_net::endpoint::{End, Endpoint};
use testkit_net::frame::{Frame, Request, fresh_id};
use testkit_net::relay::{Setup, TestRelay};
use testkit_net::{PATIENCE, assert_same, bounded, contents};

/// Bytes in a chunk of the library.
const CHUNK: usize = 2048;

// -- the library's conversation --------------------------------------------------------------------

/// A client that logs in as the library does: every parameter in quotes, AUTH sent to the SIP domain.
fn library_client(relay: &TestRelay, user: &str) -> Endpoint {
    let mut endpoint = relay.stranger(user);
    let to = format!("msrps://{DOMAIN}:{};tcp", relay.tls.port());
    let style = Style { all_quoted: true, no_space: true, uri: true };
    let password = password(user);
    let login = Login { style, ..Login::new(user, &password, &to) };
    let (challenge, last) = login.attempt(&mut endpoint);
    for answer in [&challenge, &last] {
        assert_eq!(answer.required("From-Path"), to);
        assert_eq!(answer.required("To-Path"), endpoint.uri);
        assert_acceptable(answer);
    }
    let parameters = challenge.required("WWW-Authenticate");
    for name in ["realm=\"", "nonce=\"", "opaque=\"", "qop=\"auth\""] {
        assert!(parameters.contains(name), "{name} in {parameters}");
    }
    assert_eq!(last.status(), Some(200), "{last:?}");
    endpoint.relay = Some(last.required("Use-Path"));
    endpoint
}

/// What the library requires in every frame: 4 to 32 characters, the first a letter or a digit.
#[track_caller]
fn assert_acceptable(frame: &Frame) {
    let tid = frame.tid();
    assert!((4..=32).contains(&tid.len()), "{frame:?}");
    assert!(tid.starts_with(|first: char| first.is_ascii_alphanumeric()), "{frame:?}");
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-+%=".contains(c);
    assert!(tid.chars().all(allowed), "{frame:?}");
}

/// The library opens a session with a SEND without anything in it.
fn empty_send(from: &Endpoint, to: &Endpoint) -> Request {
    Request::send(&from.route(&to.path()), &from.uri, &fresh_id(), "1-0/0")
}

/// The called client hears the opening, answers it, and at once sends something itself.
fn hear_opening(callee: &mut Endpoint, caller: &Endpoint) {
    let opening = callee.request("SEND");
    assert_acceptable(&opening);
    assert_eq!(opening.required("Byte-Range"), "1-0/0");
    assert_eq!(opening.header("Content-Type"), None, "{opening:?}");
    assert!(!opening.head.has_body(), "{opening:?}");
    // Compared letter by letter with what was negotiated.
    assert_eq!(opening.required("To-Path"), callee.uri);
    assert_eq!(opening.required("From-Path"), callee.route(&caller.path()));
}

/// A session as the library opens it.
fn opened(relay: &TestRelay, users: (&str, &str)) -> (Endpoint, Endpoint) {
    let (mut alice, mut bob) = (library_client(relay, users.0), library_client(relay, users.1));
    let opening = empty_send(&alice, &bob);
    let tid = alice.send_bare(opening);
    hear_opening(&mut bob, &alice);
    let eager = bob.say(&alice.path(), b"Already here");
    // Anything but the answer would be fatal to the library at this point.
    let answer = alice.response(&tid);
    assert_eq!(answer.status(), Some(200));
    assert_eq!(answer.required("To-Path"), alice.uri);
    assert_eq!(Some(answer.required("From-Path")), alice.relay);
    assert_eq!(alice.request("SEND").body, b"Already here");
    assert_eq!(bob.status(&eager), 200);
    (alice, bob)
}

#[test]
fn the_answer_to_an_empty_first_send_comes_before_anything_else() {
    bounded(|| {
        let relay = TestRelay::start();
        for n in 0..12 {
            opened(&relay, (&format!("user{}", 2 * n), &format!("user{}", 2 * n + 1)));
        }
    });
}

#[test]
fn a_message_in_open_ended_chunks_arrives_and_is_reported_end_to_end() {
    bounded(|| {
        let relay = TestRelay::start();
        let (mut alice, mut bob) = opened(&relay, ("alice", "bob"));
        let (id, data) = (fresh_id(), contents(3, 10 * CHUNK + 5));
        let count = data.chunks(CHUNK).len();
        let mut tids = HashMap::new();
        for (n, body) in data.chunks(CHUNK).enumerate() {
            let range = format!("{}-*/{}", n * CHUNK + 1, data.len());
            let request = Request::send(&alice.route(&bob.path()), &alice.uri, &id, &range);
            let request = request.header("Success-Report", "yes").header("Failure-Report", "yes");
            tids.insert(request.tid(), n);
            let flag = if n + 1 == count { Flag::Last } else { Flag::More };
            alice.writer.write(&request.with_body(body, flag));
        }
        let mut received = Vec::new();
        loop {
            let chunk = bob.request("SEND");
            assert_acceptable(&chunk);
            assert_eq!(chunk.required("Message-ID"), id);
            assert_eq!(chunk.required("Success-Report"), "yes");
            assert_eq!(chunk.required("From-Path"), bob.route(&alice.path()));
            assert_eq!(chunk.start(), received.len() as u64 + 1);
            received.extend_from_slice(&chunk.body);
            if chunk.flag == Flag::Last {
                break;
            }
            assert_eq!(chunk.flag, Flag::More);
        }
        assert_same(&received, &data);
        let range = format!("1-{0}/{0}", data.len());
        let report = Request::new("REPORT", &bob.route(&alice.path()), &bob.uri)
            .header("Message-ID", &id)
            .header("Byte-Range", &range)
            .header("Status", "000 200 OK");
        bob.send_bare(report);
        let mut last = alice.frame();
        while last.status().is_some() {
            assert_eq!(last.status(), Some(200), "{last:?}");
            assert!(tids.remove(&last.tid()).is_some(), "{last:?}");
            last = alice.frame();
        }
        assert!(tids.is_empty(), "chunks without an answer: {tids:?}");
        assert!(last.is_request("REPORT"), "{last:?}");
        assert_acceptable(&last);
        assert_eq!(last.required("To-Path"), alice.uri);
        assert_eq!(last.required("From-Path"), alice.route(&bob.path()));
        assert_eq!(last.required("Message-ID"), id);
        assert_eq!(last.required("Byte-Range"), range);
        assert_eq!(last.required("Status"), "000 200 OK");
    });
}

#[test]
fn a_keep_alive_without_a_body_is_passed_on_and_answered() {
    bounded(|| {
        let relay = TestRelay::start();
        let (mut alice, mut bob) = opened(&relay, ("alice", "bob"));
        for _ in 0..3 {
            let request = empty_send(&alice, &bob).header("Keep-Alive", "yes");
            let tid = alice.send_bare(request);
            let heard = bob.request("SEND");
            assert_eq!(heard.required("Keep-Alive"), "yes");
            assert!(!heard.head.has_body(), "{heard:?}");
            assert_eq!(alice.status(&tid), 200);
        }
    });
}

// -- TLS and addresses -----------------------------------------------------------------------------

/// A word each way between two users.
fn talk(alice: &mut Endpoint, bob: &mut Endpoint) {
    for _ in 0..2 {
        let tid = alice.say(&bob.path(), b"word");
        assert_eq!(bob.request("SEND").body, b"word");
        assert_eq!(alice.status(&tid), 200);
        let tid = bob.say(&alice.path(), b"answer");
        assert_eq!(alice.request("SEND").body, b"answer");
        assert_eq!(bob.status(&tid), 200);
    }
}

/// A client of the old TLS and one of the new talk by way of this relay.
fn talk_across_versions(relay: &TestRelay) {
    let port = relay.tls.port();
    let old = Endpoint::tls(relay.tls, &relay.client_of(&TLS12), "alice");
    let new = Endpoint::tls(relay.tls, &relay.client_of(&TLS13), "bob");
    assert_eq!(old.tls_version(), Some(TLSv1_2));
    assert_eq!(new.tls_version(), Some(TLSv1_3));
    talk(&mut old.log_in("alice", port), &mut new.log_in("bob", port));
}

#[test]
fn clients_of_tls_1_2_and_1_3_talk_to_each_other() {
    bounded(|| talk_across_versions(&TestRelay::start()));
}

#[test]
fn an_rsa_certificate_serves_both_versions_of_tls() {
    bounded(|| talk_across_versions(&TestRelay::with(&Setup { rsa: true, ..Setup::default() })));
}

#[test]
fn an_ipv6_listener_serves_like_any_other() {
    bounded(|| {
        let relay = TestRelay::with(&Setup { listen: &[("[::1]:0", true)], ..Setup::default() });
        assert!(relay.tls.is_ipv6());
        talk(&mut relay.client("alice"), &mut relay.client("bob"));
    });
}

// -- how connections end ---------------------------------------------------------------------------

#[test]
fn garbage_instead_of_tls_closes_that_connection_alone() {
    bounded(|| {
        let relay = TestRelay::start();
        let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
        talk(&mut alice, &mut bob);
        let noise = contents(9, 5000);
        let attempts: [&[u8]; 4] =
            [b"GET / HTTP/1.1\r\n\r\n", b"MSRP a786hjs2 AUTH\r\n", &noise, &[0x16, 3, 3, 0xff, 0xff, 1, 2]];
        for garbage in attempts {
            let mut stream = TcpStream::connect(relay.tls).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(garbage).unwrap();
            let mut alert = Vec::new();
            match stream.read_to_end(&mut alert) {
                Ok(_) => assert!(alert.is_empty() || alert[0] == 0x15, "{alert:?}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            }
            talk(&mut alice, &mut bob);
        }
        talk(&mut relay.client("user0"), &mut relay.client("user1"));
    });
}

#[test]
fn who_ends_without_close_notify_in_mid_chunk_leaves_an_aborted_chunk_and_no_session() {
    bounded(|| {
        let relay = TestRelay::start();
        let (mut alice, mut bob) = opened(&relay, ("alice", "bob"));
        let request = Request::send(&alice.route(&bob.path()), &alice.uri, &fresh_id(), "1-*/100000");
        alice.writer.write(&request.head());
        alice.writer.write(&contents(4, 5000));
        bob.reader.part_of_chunk(5000 - 64);
        alice.truncate();
        let broken = bob.request("SEND");
        assert_eq!(broken.flag, Flag::Aborted, "{broken:?}");
        assert!(contents(4, 5000).starts_with(&broken.body));
        let tid = bob.say(&alice.path(), b"Still there?");
        assert_eq!(bob.status(&tid), 481);
    });
}

/// A client whose kernel takes in little at a time.
fn narrow(relay: &TestRelay, user: &str) -> Endpoint {
    let socket =
        socket2::Socket::new(socket2::Domain::for_address(relay.tls), socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.set_tcp_mss(1400).unwrap();
    socket.connect(&relay.tls.into()).unwrap();
    Endpoint::over(socket.into(), &relay.client, user).log_in(user, relay.tls.port())
}

#[test]
fn a_stop_lets_everything_queued_arrive_and_then_ends_in_order() {
    bounded(|| {
        let relay = TestRelay::start();
        let (mut alice, mut bob) = (relay.client("alice"), narrow(&relay, "bob"));
        talk(&mut alice, &mut bob);
        let words = Arc::new(contents(5, 10_000));
        // Fewer bytes than the relay takes in for a receiver that reads nothing.
        for _ in 0..20 {
            let tid = alice.say(&bob.path(), &words);
            assert_eq!(alice.status(&tid), 200);
        }
        std::thread::scope(|scope| {
            let stopping = scope.spawn(|| relay.server.stop());
            // Bob sends nothing from here on: it would come too late.
            for _ in 0..20 {
                let message = bob.frame();
                assert!(message.is_request("SEND"), "{message:?}");
                assert_same(&message.body, &words);
            }
            assert_eq!(bob.end(), End::Clean);
            assert_eq!(alice.reader.until_end(), End::Clean);
            bob.close();
            alice.close();
            stopping.join().unwrap();
        });
    });
}
