//! Peers that send nothing, or as little as they can, for as long as they can.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::attack::{Attack, CONNECTION_KIB_MAX, TRANSFER_KIB_MAX, connect_from, two_cores};
use testkit_net::account::DOMAIN;
use testkit_net::endpoint::{End, Endpoint};
use testkit_net::frame::{Request, fresh_id};
use testkit_net::relay::USERS;
use testkit_net::{PATIENCE, bounded, contents};

/// Limits that a test need not wait long for, and that a client on a busy machine keeps.
const SHORT: &str = "limits: {handshake_timeout: 5s, first_request_timeout: 5s}";
/// A limit that slow requests do not reach.
const LONG: &str = "limits: {handshake_timeout: 60s, first_request_timeout: 10m}";
/// `limits.refused_requests_max`.
const REFUSED_MAX: usize = 16;

// -- nothing ---------------------------------------------------------------------------------------

/// Connections that never speak.
const MUTES: usize = 2000;
/// Of each address: fewer than `limits.unauthenticated_per_address_max`.
const OF_ONE_ADDRESS: usize = 200;
/// One in so many completes its handshake.
const POLITE: usize = 10;

#[test]
fn two_thousand_silent_connections_are_closed_and_keep_no_client_out() {
    bounded(|| {
        let attack = Attack::with(&two_cores(SHORT), MUTES as u64 * CONNECTION_KIB_MAX / 4);
        let to = attack.relay.addresses[0];
        let mut mutes: Vec<(TcpStream, Option<Endpoint>)> = Vec::new();
        for n in 0..MUTES {
            let stream = connect_from(Ipv4Addr::new(127, 0, 1, (1 + n / OF_ONE_ADDRESS) as u8), to);
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let polite = n % POLITE == 0;
            let endpoint =
                polite.then(|| Endpoint::over(stream.try_clone().unwrap(), &attack.relay.client, "mute"));
            mutes.push((stream, endpoint));
        }
        println!("{} descriptors", attack.relay.descriptors());
        // Others come and are served.
        let mut newcomer = attack.relay.client("user0");
        attack.goes_on();
        for (mut stream, endpoint) in mutes {
            match endpoint {
                // The relay closes, in order if there are keys to say so.
                Some(mut endpoint) => assert_ne!(endpoint.end(), End::Broken),
                None => assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 0),
            }
        }
        // No session is there, and the client hears it.
        let tid = newcomer.say(&attack.absent_session(), b"Still here");
        assert_eq!(newcomer.status(&tid), 481);
        drop(newcomer);
        attack.end();
    });
}

// -- one byte a second ----------------------------------------------------------------------------

/// Sessions whose clients read so slowly.
const SLOW: usize = 200;
/// Seconds of it.
const ROUNDS: usize = 3;

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
fn two_hundred_clients_that_read_one_byte_a_second_hold_up_only_their_senders() {
    bounded(|| {
        let attack = Attack::start(SLOW as u64 * (TRANSFER_KIB_MAX + 2 * CONNECTION_KIB_MAX));
        let user = |n: usize| format!("user{}", n % USERS);
        let mut senders: Vec<Endpoint> = (0..SLOW).map(|n| attack.relay.narrow_client(&user(n))).collect();
        let readers: Vec<Endpoint> = (SLOW..2 * SLOW).map(|n| attack.relay.narrow_client(&user(n))).collect();
        let sockets: Vec<TcpStream> = senders.iter().map(|s| s.stream().try_clone().unwrap()).collect();
        let sent = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for (sender, reader) in senders.iter_mut().zip(&readers) {
                sender.wait_for(PATIENCE);
                let (peer, sent) = (reader.path(), &sent);
                scope.spawn(move || send_endlessly(sender, &peer, sent));
            }
            for _ in 0..ROUNDS {
                let begin = Instant::now();
                for reader in &readers {
                    reader.stream().read_exact(&mut [0]).unwrap();
                }
                attack.goes_on();
                std::thread::sleep(Duration::from_secs(1).saturating_sub(begin.elapsed()));
            }
            println!("{} KiB were sent in each session", (sent.load(Ordering::SeqCst) >> 10) / SLOW);
            sockets.iter().for_each(|socket| socket.shutdown(Shutdown::Both).unwrap());
        });
        drop((sockets, senders, readers));
        attack.end();
    });
}

// -- one byte at a time ---------------------------------------------------------------------------

/// Limits that a test need not wait long for; the other limits are long.
const SHORT_HEAD: &str = "limits: {head_timeout: 2s, handshake_timeout: 60s, first_request_timeout: 10m}";
const SHORT_HANDSHAKE: &str = "limits: {handshake_timeout: 5s, first_request_timeout: 10m}";
/// Bytes of a head that are there at once, nearly as many as may be.
const HEAD: usize = 15 << 10;

/// Sends one byte a second until the relay ends the connection.
fn drip(stream: &mut TcpStream, mut byte: impl FnMut(&mut TcpStream) -> io::Result<()>) {
    let begin = Instant::now();
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    loop {
        assert!(begin.elapsed() < PATIENCE, "the relay is as patient as its slowest peer");
        if byte(stream).is_err() {
            return;
        }
        // Bytes from TLS or the relay are not what the test waits for.
        match stream.read(&mut [0; 4096]) {
            Ok(0) => return,
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return,
            Ok(_) | Err(_) => {}
        }
    }
}

#[test]
fn a_head_that_comes_byte_by_byte_ends_its_connection_however_long_it_was_there_before() {
    bounded(|| {
        let attack = Attack::with(&two_cores(SHORT_HEAD), 40 * CONNECTION_KIB_MAX);
        let mut culprits: Vec<Endpoint> = (0..20)
            .map(|n| attack.relay.client(&format!("user{n}")))
            .chain((0..20).map(|_| attack.relay.stranger("mallory")))
            .collect();
        for (n, culprit) in culprits.iter_mut().enumerate() {
            if n % 2 == 0 {
                let tid = culprit.say(&attack.absent_session(), b"In good time");
                assert_eq!(culprit.status(&tid), 481);
            }
            let filler = "x".repeat(1000);
            let lines: String = (0..HEAD / 1016).map(|n| format!("X-Filler-{n}: {filler}\r\n")).collect();
            culprit.writer.write(format!("MSRP slowhead SEND\r\n{lines}").as_bytes());
        }
        std::thread::scope(|scope| {
            for culprit in &mut culprits {
                scope.spawn(move || {
                    let mut stream = culprit.stream().try_clone().unwrap();
                    drip(&mut stream, |_| culprit.writer.try_write(b"X"))
                });
            }
            attack.goes_on();
        });
        attack.is_alone();
        drop(culprits);
        attack.end();
    });
}

#[test]
fn a_handshake_that_comes_byte_by_byte_ends_its_connection() {
    bounded(|| {
        let attack = Attack::with(&two_cores(SHORT_HANDSHAKE), 10 * CONNECTION_KIB_MAX);
        std::thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    let mut stream = TcpStream::connect(attack.relay.addresses[0]).unwrap();
                    stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]).unwrap();
                    drip(&mut stream, |stream| stream.write_all(&[7]));
                });
            }
            attack.goes_on();
        });
        attack.is_alone();
        attack.end();
    });
}

/// A refusal is no success: a peer that gets only refusals has only so long, and so many requests.
#[test]
fn a_stranger_whose_requests_are_all_refused_is_closed() {
    bounded(|| {
        let attack = Attack::with(&two_cores(LONG), 4 * CONNECTION_KIB_MAX);
        let mut culprit = attack.relay.stranger("mallory");
        let mut refused = 0;
        let end = loop {
            let request = Request::send(&attack.absent_session(), &culprit.uri, &fresh_id(), "1-0/0");
            if culprit.writer.try_write(&request.bare()).is_err() {
                break culprit.reader.until_end();
            }
            match culprit.reader.next_frame() {
                Ok(frame) => assert_eq!(frame.status(), Some(481)),
                Err(end) => break end,
            }
            refused += 1;
        };
        assert_eq!((end, refused), (End::Clean, REFUSED_MAX));
        drop(culprit);
        attack.end();
    });
}

/// Nor is a challenge a success.
#[test]
fn stranger_that_only_ever_asks_for_challenges_is_closed() {
    bounded(|| {
        let attack = Attack::with(&two_cores(SHORT), 4 * CONNECTION_KIB_MAX);
        let auth = format!("msrps://{DOMAIN}:{};tcp", attack.relay.addresses[0].port());
        let mut culprit = attack.relay.stranger("mallory");
        let begin = Instant::now();
        while culprit.writer.try_write(&Request::new("AUTH", &auth, &culprit.uri).bare()).is_ok() {
            assert!(begin.elapsed() < PATIENCE, "challenges without end");
            match culprit.reader.next_frame() {
                Ok(frame) => assert_eq!(frame.status(), Some(401)),
                Err(end) => {
                    assert_eq!(end, End::Clean);
                    break;
                }
            }
        }
        drop(culprit);
        attack.end();
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

/// Connections whose peer has vanished without a FIN or RST: as far as the relay can tell, they are up.
#[test]
fn connections_whose_peer_has_vanished_before_its_first_request_are_given_up() {
    use Silence::{AfterHandshake, Connected, InFirstLine, InHello};
    bounded(|| {
        let attack = Attack::with(&two_cores(SHORT), 40 * CONNECTION_KIB_MAX);
        let to = attack.relay.addresses[0];
        let mut vanished: Vec<(Silence, TcpStream, Option<Endpoint>)> = Vec::new();
        for silence in [Connected, InHello, AfterHandshake, InFirstLine].repeat(10) {
            let mut stream = TcpStream::connect(to).unwrap();
            if silence == InHello {
                stream.write_all(&[22, 3, 1, 0, 200, 1]).unwrap();
            }
            let shakes = matches!(silence, AfterHandshake | InFirstLine);
            let mut endpoint =
                shakes.then(|| Endpoint::over(stream.try_clone().unwrap(), &attack.relay.client, "vanished"));
            if let Some(endpoint) = endpoint.as_mut().filter(|_| silence == InFirstLine) {
                endpoint.writer.write(b"MSRP 1234");
            }
            vanished.push((silence, stream, endpoint));
        }
        attack.goes_on();
        // They read, write and close nothing; the relay still gives them up.
        attack.is_alone();
        drop(vanished);
        attack.end();
    });
}

#[test]
fn connections_reset_as_soon_as_they_are_there_leave_nothing() {
    bounded(|| {
        let attack = Attack::start(4 * CONNECTION_KIB_MAX);
        for n in 0..500 {
            let stream = TcpStream::connect(attack.relay.addresses[n % 2]).unwrap();
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        for _ in 0..20 {
            attack.relay.stranger("mallory").reset();
            attack.relay.client("user0").reset();
        }
        attack.goes_on();
        attack.is_alone();
        attack.end();
    });
}

// -- receivers -------------------------------------------------------------------------------------

/// Receivers that have vanished, and as many that take one byte a second.
const RECEIVERS: usize = 10;

/// A receiver that takes nothing is given up (req S14), and so are the senders that it holds up and that may have gone
/// too.
#[test]
fn receivers_that_take_next_to_nothing_are_given_up_and_their_senders_told() {
    bounded(|| {
        let bound = 2 * RECEIVERS as u64 * (TRANSFER_KIB_MAX + 2 * CONNECTION_KIB_MAX);
        let attack = Attack::with(&two_cores("limits: {write_timeout: 2s}"), bound);
        let mut senders: Vec<Endpoint> =
            (0..2 * RECEIVERS).map(|n| attack.relay.narrow_client(&format!("user{n}"))).collect();
        let receivers: Vec<Endpoint> =
            (0..2 * RECEIVERS).map(|n| attack.relay.narrow_client(&format!("user{}", 100 + n))).collect();
        std::thread::scope(|scope| {
            for (n, (sender, receiver)) in senders.iter_mut().zip(&receivers).enumerate() {
                let peer = receiver.path();
                if n < RECEIVERS {
                    scope.spawn(move || drip_from(receiver));
                }
                scope.spawn(move || {
                    sender.wait_for(PATIENCE);
                    let request = Request::send(&sender.route(&peer), &sender.uri, &fresh_id(), "1-*/*");
                    let tid = request.tid();
                    sender.writer.write(&request.head());
                    // More than all buffers hold: written only when the relay drops it.
                    for _ in 0..64 {
                        sender.writer.write(&[b'x'; 64 << 10]);
                    }
                    assert_eq!(sender.status(&tid), 481);
                });
            }
            attack.goes_on();
        });
        drop(senders);
        // The receivers have closed nothing.
        attack.is_alone();
        drop(receivers);
        attack.end();
    });
}

/// Takes one byte a second until the connection ends.
fn drip_from(receiver: &Endpoint) {
    let begin = Instant::now();
    while matches!(receiver.stream().read(&mut [0]), Ok(1)) && begin.elapsed() < Duration::from_secs(8) {
        std::thread::sleep(Duration::from_secs(1));
    }
}
