//! Peers that say nothing, or as little as they can, for as long as they can.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::scene::{CONNECTION_KIB_MAX, DEADLINE, Scene, TRANSFER_KIB_MAX, connect_from, two_cores};
use crate::support::endpoint::{End, Endpoint};
use crate::support::frame::{Request, fresh_id};
use crate::support::relay::USERS;
use crate::support::{bounded, contents};

/// Limits that a test need not wait long for.
const SHORT: &str = "limits: {handshake_timeout: 2s, first_request_timeout: 2s}";

// -- nothing ---------------------------------------------------------------------------------------

/// Connections that never speak.
const MUTES: usize = 2000;
/// Of each address: fewer than `limits.unauthenticated_per_address_max`.
const OF_ONE_ADDRESS: usize = 200;
/// Every so many of them at least shake hands.
const POLITE: usize = 10;

#[test]
fn two_thousand_connections_that_never_speak_are_closed_and_keep_nobody_out() {
    bounded(|| {
        let scene = Scene::with(&two_cores(SHORT), MUTES as u64 * CONNECTION_KIB_MAX / 4);
        let to = scene.relay.addresses[0];
        let mut mutes: Vec<(TcpStream, Option<Endpoint>)> = Vec::new();
        for n in 0..MUTES {
            let stream = connect_from(Ipv4Addr::new(127, 0, 1, (1 + n / OF_ONE_ADDRESS) as u8), to);
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let polite = n % POLITE == 0;
            let endpoint =
                polite.then(|| Endpoint::over(stream.try_clone().unwrap(), &scene.relay.client, "mute"));
            mutes.push((stream, endpoint));
        }
        println!("{} descriptors", scene.relay.descriptors());
        // Others come and are served.
        let mut newcomer = scene.relay.client("user0");
        scene.goes_on();
        for (mut stream, endpoint) in mutes {
            match endpoint {
                // The relay closes, in order where there are keys to say so.
                Some(mut endpoint) => assert_ne!(endpoint.end(), End::Broken),
                None => assert_eq!(stream.read(&mut [0; 100]).unwrap(), 0),
            }
        }
        // Nobody is there, and that is what it is told.
        let tid = newcomer.say(&scene.nobody(), b"Still here");
        assert_eq!(newcomer.status(&tid), 481);
        drop(newcomer);
        scene.end();
    });
}

// -- one octet a second ----------------------------------------------------------------------------

/// Sessions whose clients read so slowly.
const SLOW: usize = 200;
/// Seconds of it.
const ROUNDS: usize = 5;

/// Sends a message that never ends, as far as the relay takes it.
pub(crate) fn send_endlessly(from: &mut Endpoint, peer: &str, sent: &AtomicUsize) {
    let request = Request::send(&from.route(peer), &from.uri, &fresh_id(), "1-*/*");
    from.writer.write(&request.head());
    let part = contents(9, 16 << 10);
    while from.writer.try_write(&part).is_ok() {
        sent.fetch_add(part.len(), Ordering::SeqCst);
    }
}

#[test]
fn two_hundred_clients_that_read_one_octet_a_second_hold_up_nobody_but_who_sends_to_them() {
    bounded(|| {
        let scene = Scene::start(SLOW as u64 * (TRANSFER_KIB_MAX + 2 * CONNECTION_KIB_MAX));
        let user = |n: usize| format!("user{}", n % USERS);
        let mut senders: Vec<Endpoint> = (0..SLOW).map(|n| scene.relay.narrow_client(&user(n))).collect();
        let readers: Vec<Endpoint> = (SLOW..2 * SLOW).map(|n| scene.relay.narrow_client(&user(n))).collect();
        let sockets: Vec<TcpStream> = senders.iter().map(|s| s.stream().try_clone().unwrap()).collect();
        let sent = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for (sender, reader) in senders.iter_mut().zip(&readers) {
                sender.wait_for(DEADLINE);
                let (peer, sent) = (reader.path(), &sent);
                scope.spawn(move || send_endlessly(sender, &peer, sent));
            }
            for _ in 0..ROUNDS {
                let begin = Instant::now();
                for reader in &readers {
                    reader.stream().read_exact(&mut [0]).unwrap();
                }
                scene.goes_on();
                std::thread::sleep(Duration::from_secs(1).saturating_sub(begin.elapsed()));
            }
            println!("{} KiB were sent in each session", (sent.load(Ordering::SeqCst) >> 10) / SLOW);
            sockets.iter().for_each(|socket| socket.shutdown(Shutdown::Both).unwrap());
        });
        drop((sockets, senders, readers));
        scene.end();
    });
}

// -- half-open -------------------------------------------------------------------------------------

/// How far a peer gets before it is never heard of again.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Silence {
    Connected,
    InHello,
    AfterHandshake,
    InFirstLine,
}

/// Connections whose peer has vanished without a word of TCP: as far as the relay can tell they are there.
#[test]
fn connections_whose_peer_has_vanished_before_its_first_request_are_given_up() {
    use Silence::{AfterHandshake, Connected, InFirstLine, InHello};
    bounded(|| {
        let scene = Scene::with(&two_cores(SHORT), 40 * CONNECTION_KIB_MAX);
        let to = scene.relay.addresses[0];
        let mut vanished: Vec<(Silence, TcpStream, Option<Endpoint>)> = Vec::new();
        for silence in [Connected, InHello, AfterHandshake, InFirstLine].repeat(10) {
            let mut stream = TcpStream::connect(to).unwrap();
            if silence == InHello {
                stream.write_all(&[22, 3, 1, 0, 200, 1]).unwrap();
            }
            let shakes = matches!(silence, AfterHandshake | InFirstLine);
            let mut endpoint =
                shakes.then(|| Endpoint::over(stream.try_clone().unwrap(), &scene.relay.client, "vanished"));
            if let Some(endpoint) = endpoint.as_mut().filter(|_| silence == InFirstLine) {
                endpoint.writer.write(b"MSRP 1234");
            }
            vanished.push((silence, stream, endpoint));
        }
        scene.goes_on();
        // Nothing is read or written by them, and nothing closed; all the same they are gone.
        scene.is_alone();
        drop(vanished);
        scene.end();
    });
}

#[test]
fn connections_reset_as_soon_as_they_are_there_leave_nothing() {
    bounded(|| {
        let scene = Scene::start(4 * CONNECTION_KIB_MAX);
        for n in 0..500 {
            let stream = TcpStream::connect(scene.relay.addresses[n % 2]).unwrap();
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        for _ in 0..20 {
            scene.relay.stranger("mallory").reset();
            scene.relay.client("user0").reset();
        }
        scene.goes_on();
        scene.is_alone();
        scene.end();
    });
}
