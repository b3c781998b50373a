//! Unauthenticated connections move to the core of the session that they are for, whole and once, wherever the kernel
//! has put them and however their bytes come.

use std::time::Duration;

use msrp_proto::parser::Flag;
use msrprelay::telemetry::Snapshot;
use rustls::version::{TLS12, TLS13};

use testkit_net::endpoint::{End, Endpoint};
use testkit_net::frame::{Request, fresh_id};
use testkit_net::relay::TestRelay;
use testkit_net::transfer::Outgoing;
use testkit_net::{assert_same, bounded, contents, until};

/// Pairs of a client and a stranger of each kind: the kernel puts both on either core, and hardly always on the same.
const PAIRS: usize = 24;

/// A client on each core.
fn clients(relay: &TestRelay) -> [Endpoint; 2] {
    let mut all: Vec<_> = (0..40).map(|n| client(relay, n)).collect();
    [0, 1].map(|core| {
        let at = all.iter().position(|client| client.core() == core).unwrap();
        all.swap_remove(at)
    })
}

/// A client that has not spoken yet: its session is bound to the first peer that it speaks with.
fn client(relay: &TestRelay, n: usize) -> Endpoint {
    relay.client(&format!("user{n}"))
}

/// A short message as it goes over the wire.
fn message(from: &Endpoint, to: &Endpoint, words: &[u8]) -> (String, Vec<u8>) {
    let range = format!("1-{}/{}", words.len(), words.len());
    let request = Request::send(&from.route(&to.path()), &from.uri, &fresh_id(), &range);
    (request.tid(), request.with_body(words, Flag::Last))
}

/// All counters together once so many connections are open and counted as such.
fn counted(relay: &TestRelay, open: u64) -> Snapshot {
    until("all counters are published", || {
        let counted = relay.counted();
        (counted.connections_open == open).then_some(counted)
    })
}

/// The stranger can be answered too, and goes on.
#[track_caller]
fn converse(stranger: &mut Endpoint, client: &mut Endpoint) {
    let tid = client.say(&stranger.uri, b"Who is there?");
    assert_eq!(client.status(&tid), 200);
    assert_eq!(stranger.request("SEND").body, b"Who is there?");
    let tid = stranger.say(&client.path(), b"It is me");
    assert_eq!(stranger.status(&tid), 200);
    assert_eq!(client.request("SEND").body, b"It is me");
}

/// Each way in which the first request may come, from strangers of one kind.
fn arrive_in_every_way(relay: &TestRelay, stranger: &dyn Fn() -> Endpoint) {
    for n in 0..PAIRS {
        let (mut client, mut far) = (client(relay, n), stranger());
        let (tid, bytes) = message(&far, &client, b"Hello");
        match n % 4 {
            // All at once.
            0 => far.writer.write(&bytes),
            // The head in three pieces.
            1 => {
                for piece in [&bytes[..9], &bytes[9..bytes.len() - 30], &bytes[bytes.len() - 30..]] {
                    far.writer.write(piece);
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            // The end of the body later.
            2 => {
                let (now, later) = bytes.split_at(bytes.len() - 25);
                far.writer.write(now);
                std::thread::sleep(Duration::from_millis(20));
                far.writer.write(later);
            }
            // More behind it.
            _ => {
                let (second, more) = message(&far, &client, b"and more");
                far.writer.write(&[bytes, more].concat());
                assert_eq!(client.request("SEND").body, b"Hello");
                assert_eq!(client.request("SEND").body, b"and more");
                assert_eq!((far.status(&tid), far.status(&second)), (200, 200));
                converse(&mut far, &mut client);
                continue;
            }
        }
        assert_eq!(client.request("SEND").body, b"Hello");
        assert_eq!(far.status(&tid), 200);
        converse(&mut far, &mut client);
    }
}

#[test]
fn a_first_request_takes_its_connection_to_the_core_of_its_session() {
    bounded(|| {
        let relay = TestRelay::start();
        for version in [&TLS12, &TLS13] {
            let config = relay.client_of(version);
            arrive_in_every_way(&relay, &|| Endpoint::tls(relay.tls, &config, "far"));
        }
        arrive_in_every_way(&relay, &|| Endpoint::plain(relay.plain(), "far"));
        let counted = counted(&relay, 0);
        println!("{counted:?}");
        assert!(counted.connections_handed_over > 0);
        // With TLS 1.2 the relay may still be writing its part of the handshake, and the connection stays.
        assert!(counted.links_split < counted.connections_handed_over, "{counted:?}");
    });
}

#[test]
fn a_file_arrives_whole_whatever_core_it_was_sent_to() {
    bounded(|| {
        let relay = TestRelay::start();
        let data = contents(5, 3_000_001);
        for n in 0..PAIRS {
            let (mut client, mut far) = (client(&relay, n), relay.stranger("far"));
            let path = client.path();
            let chunk = (n % 2 == 0).then_some(10_000);
            let outgoing = Outgoing { chunk, ..Outgoing::giant(&path, &data) };
            let received = std::thread::scope(|scope| {
                scope.spawn(|| far.send_file(&outgoing));
                client.receive_file()
            });
            assert_same(&received.data, &data);
        }
        let counted = counted(&relay, 0);
        assert!(counted.connections_handed_over > 0);
        assert_eq!(counted.links_split, 0, "{counted:?}");
    });
}

#[test]
fn a_connection_that_is_shared_goes_once_and_serves_sessions_everywhere() {
    bounded(|| {
        let relay = TestRelay::start();
        for _ in 0..PAIRS / 4 {
            let (mut clients, mut far) = (clients(&relay), relay.stranger("far"));
            for client in &mut clients {
                let tid = far.say(&client.path(), b"Hello");
                assert_eq!(client.request("SEND").body, b"Hello");
                assert_eq!(far.status(&tid), 200);
            }
            for client in &mut clients {
                converse(&mut far, client);
            }
        }
        let counted = counted(&relay, 0);
        assert!(counted.connections_handed_over <= PAIRS as u64 / 4);
        assert!(counted.links_split > 0, "{counted:?}");
    });
}

#[test]
fn who_closes_right_behind_a_first_request_has_it_forwarded_and_is_answered() {
    bounded(|| {
        let relay = TestRelay::start();
        for n in 0..PAIRS {
            let (mut client, mut far) = (client(&relay, n), relay.stranger("far"));
            let (tid, bytes) = message(&far, &client, b"Farewell");
            if n % 2 == 0 {
                far.writer.write(&bytes);
                far.stream().shutdown(std::net::Shutdown::Write).unwrap();
            } else {
                far.writer.write_last(&bytes);
            }
            assert_eq!(client.request("SEND").body, b"Farewell");
            assert_eq!(far.status(&tid), 200);
            assert_ne!(far.end(), End::Broken);
        }
    });
}

#[test]
fn what_is_for_no_session_stays_and_is_refused() {
    bounded(|| {
        let relay = TestRelay::start();
        let [zero, one] = clients(&relay);
        let gone = [zero.path(), one.path()];
        zero.close();
        one.close();
        counted(&relay, 0);
        for path in gone {
            for _ in 0..PAIRS / 4 {
                let mut far = relay.stranger("far");
                let tid = far.say(&path, b"Hello");
                assert_eq!(far.status(&tid), 481);
            }
        }
    });
}
