//! Hostile next hops that the relay connects to because a client asks for them.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

use super::attack::{Attack, CONNECTION_KIB_MAX, TRANSFER_KIB_MAX, two_cores};
use testkit_net::endpoint::Endpoint;
use testkit_net::frame::{Request, fresh_id};
use testkit_net::relay::{HOST, self_signed_endpoint};
use testkit_net::{PATIENCE, bounded, contents};

/// A listener that a client takes for an endpoint, and how to reach it.
fn trap(scheme: &str) -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, format!("{scheme}://127.0.0.1:{port}/trap;tcp"))
}

/// What a next hop does that never completes TLS; some leave the connection open.
type Trick = fn(TcpStream) -> Option<TcpStream>;

const TRICKS: [(&str, Trick); 6] = [
    ("closes", |_| None),
    ("resets", |stream| {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        None
    }),
    ("speaks no TLS", |stream| says(stream, b"HTTP/1.1 400 Bad Request\r\n\r\n")),
    ("sends noise", |stream| says(stream, &contents(1, 10_000))),
    ("says nothing", Some),
    ("begins a record and stops", |stream| says(stream, &[22, 3, 3, 64, 0, 2])),
];

fn says(mut stream: TcpStream, bytes: &[u8]) -> Option<TcpStream> {
    stream.write_all(bytes).unwrap();
    Some(stream)
}

/// A limit that a test need not wait long for, and that a client on a busy machine keeps.
const SHORT: &str = "limits: {handshake_timeout: 5s}";

#[test]
fn a_next_hop_that_never_gets_as_far_as_tls_is_told_of_by_408_whatever_it_does() {
    bounded(|| {
        let attack = Attack::with(&two_cores(SHORT), 12 * CONNECTION_KIB_MAX);
        let mut all = Vec::new();
        for (n, (what, trick)) in TRICKS.into_iter().enumerate() {
            let (listener, hop) = trap("msrps");
            let mut client = attack.relay.client(&format!("user{n}"));
            client.wait_for(PATIENCE);
            let tid = client.say(&hop, b"Hello");
            assert_eq!(client.status(&tid), 200, "{what}");
            let (stream, _) = listener.accept().unwrap();
            all.push((what, client, trick(stream)));
        }
        for (what, client, _) in &mut all {
            let report = client.request("REPORT");
            assert_eq!(report.required("Status"), "000 408 Request Timeout", "{what}");
        }
        attack.goes_on();
        drop(all);
        attack.end();
    });
}

/// A client and the endpoint that the relay has dialled for it.
fn dialled(attack: &Attack, tls: &Arc<ServerConfig>, core: usize, user: &str) -> (Endpoint, Endpoint) {
    let (listener, hop) = trap("msrps");
    let mut client = attack.client_on(core, user);
    let tid = client.say(&hop, b"Hello");
    assert_eq!(client.status(&tid), 200);
    let mut endpoint = Endpoint::accept_tls(&listener, tls, &hop);
    assert_eq!(endpoint.request("SEND").body, b"Hello");
    (client, endpoint)
}

/// What a client hears when the connection to its next hop is gone.
fn is_told(client: &mut Endpoint, hop: &str) {
    let tid = client.say(hop, b"Anybody?");
    assert_eq!(client.status(&tid), 481);
}

#[test]
fn a_next_hop_that_stops_speaking_msrp_loses_its_own_session_and_no_other() {
    bounded(|| {
        let tls = self_signed_endpoint();
        let attack = Attack::start(12 * CONNECTION_KIB_MAX);
        let (mut steady, mut far) = dialled(&attack, &tls, 0, "user0");
        let long_head = format!("MSRP endlesshead SEND\r\nX: {}", "x".repeat(40_000));
        for (core, bytes) in [&b"HTTP/1.1 200 OK\r\n\r\n"[..], long_head.as_bytes()].into_iter().enumerate() {
            let (mut client, mut culprit) = dialled(&attack, &tls, core, "user1");
            culprit.writer.write(bytes);
            culprit.reader.until_end();
            is_told(&mut client, &culprit.uri);
        }
        let tid = steady.say(&far.uri, b"Still there?");
        assert_eq!(steady.status(&tid), 200);
        assert_eq!(far.request("SEND").body, b"Still there?");
        drop((steady, far));
        attack.end();
    });
}

/// It was dialled for one session; that gives it no more than that session's outer side.
#[test]
fn a_next_hop_has_no_more_rights_than_any_stranger() {
    bounded(|| {
        let tls = self_signed_endpoint();
        let attack = Attack::start(12 * CONNECTION_KIB_MAX);
        for core in 0..2 {
            let (mut client, mut culprit) = dialled(&attack, &tls, core, "user0");
            let (mut victim, far) = dialled(&attack, &tls, 0, "user1");
            let own = client.relay.clone().unwrap();
            let other = victim.relay.clone().unwrap();
            let cases = [
                (format!("{other} {}", victim.uri), 506),
                (format!("{other} {}", far.uri), 481),
                (format!("{other} {}", client.uri), 481),
                // Nor can it make its client's session send on to another user.
                (format!("{own} {}", victim.path()), 481),
                (format!("{own} msrps://192.0.2.1:2855/elsewhere;tcp"), 481),
                (own.clone(), 481),
            ];
            for (to, status) in cases {
                let request = Request::send(&to, &culprit.uri, &fresh_id(), "1-0/0");
                let tid = culprit.send_bare(request);
                assert_eq!(culprit.status(&tid), status, "{to}");
            }
            // It cannot become a client either.
            let to = format!("msrps://{HOST}:{};tcp", attack.relay.addresses[0].port());
            let tid = culprit.send_bare(Request::new("AUTH", &to, &culprit.uri));
            assert_eq!(culprit.status(&tid), 403);
            // What it may do, it can still do.
            let tid = culprit.say(&client.path(), b"At last");
            assert_eq!(culprit.status(&tid), 200);
            assert_eq!(client.request("SEND").body, b"At last");
            let tid = victim.say(&attack.absent_session(), b"Nothing came");
            assert_eq!(victim.status(&tid), 481);
        }
        attack.end();
    });
}

/// The relay holds no more for a next hop that does not read than for a client.
#[test]
fn next_hop_that_does_not_read_holds_up_only_its_own_client() {
    bounded(|| {
        let tls = self_signed_endpoint();
        let attack = Attack::start(TRANSFER_KIB_MAX + 4 * CONNECTION_KIB_MAX);
        let (mut client, culprit) = dialled(&attack, &tls, 0, "user0");
        client.stream().set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        let request = Request::send(&client.route(&culprit.uri), &client.uri, &fresh_id(), "1-*/*");
        client.writer.write(&request.head());
        let mut sent = 0;
        while sent < 64 << 20 && client.writer.try_write(&[b'x'; 32 << 10]).is_ok() {
            sent += 32 << 10;
        }
        assert!(sent < 64 << 20, "the client was never held up");
        attack.goes_on();
        drop((client, culprit));
        attack.end();
    });
}

/// A paused sender is not read from, and may have gone meanwhile: the relay notices when it gives up the receiver.
#[test]
fn a_sender_that_is_held_up_and_resets_is_gone_once_its_receiver_is_given_up() {
    bounded(|| {
        let bound = TRANSFER_KIB_MAX + 4 * CONNECTION_KIB_MAX;
        let attack = Attack::with(&two_cores("limits: {write_timeout: 8s}"), bound);
        let receiver = attack.relay.narrow_client("user1");
        let mut culprit = attack.relay.narrow_client("user0");
        // Long before its receiver is given up, also on a slow machine.
        culprit.stream().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let request = Request::send(&culprit.route(&receiver.path()), &culprit.uri, &fresh_id(), "1-*/*");
        culprit.writer.write(&request.head());
        let mut parts = 0..(64 << 20) / (32 << 10);
        assert!(parts.any(|_| culprit.writer.try_write(&[b'x'; 32 << 10]).is_err()), "never held up");
        culprit.reset();
        attack.is_alone();
        drop(receiver);
        attack.end();
    });
}
