//! Connections that break, and bytes that are not TLS.

use std::io::{Read, Write};
use std::net::TcpStream;

use msrp_proto::parser::Flag;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::attack::{Attack, CONNECTION_KIB_MAX, TRANSFER_KIB_MAX};
use testkit_net::endpoint::{End, Endpoint};
use testkit_net::frame::{Request, end_line, fresh_id};
use testkit_net::relay::HOST;
use testkit_net::{PATIENCE, assert_same, bounded, contents};

// -- in mid-chunk ----------------------------------------------------------------------------------

/// Bytes that are under way when the connection breaks.
const PART: usize = 300_000;

/// Both ends of a transfer on one core, and on two.
const PLACES: [(usize, usize); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];

/// Begins a chunk of a long message and sends a part of it. Returns its transaction id.
fn begin_chunk(from: &mut Endpoint, peer: &str, data: &[u8]) -> String {
    let request = Request::send(&from.route(peer), &from.uri, &fresh_id(), "1-*/100000000");
    let tid = request.tid();
    from.writer.write(&request.head());
    from.writer.write(data);
    tid
}

/// What the receiver of a message that broke off gets: an abort after its bytes, and its peer is gone.
fn check_broken_off(receiver: &mut Endpoint, peer: &str, data: &[u8], at_least: usize) {
    let frame = receiver.request("SEND");
    assert_eq!(frame.flag, Flag::Aborted, "{frame:?}");
    assert!(frame.body.len() >= at_least, "{frame:?}");
    assert_same(&frame.body, &data[..frame.body.len()]);
    let tid = receiver.say(peer, b"Anybody?");
    assert_eq!(receiver.status(&tid), 481);
}

#[test]
fn a_sender_that_resets_in_mid_chunk_leaves_an_aborted_chunk_and_nothing_else() {
    bounded(|| {
        let attack = Attack::start(TRANSFER_KIB_MAX + 2 * CONNECTION_KIB_MAX);
        let data = contents(3, PART);
        for (here, there) in PLACES {
            let mut culprit = attack.client_on(here, "user0");
            let mut receiver = attack.client_on(there, "user1");
            let path = culprit.path();
            begin_chunk(&mut culprit, &receiver.path(), &data);
            receiver.reader.part_of_chunk(PART / 2);
            culprit.reset();
            check_broken_off(&mut receiver, &path, &data, PART / 2);
            attack.goes_on();
        }
        // The same from a peer without a session, on either core.
        for n in 0..4 {
            let (mut culprit, mut receiver) =
                (attack.relay.stranger("mallory"), attack.client_on(n % 2, "user1"));
            let uri = culprit.uri.clone();
            begin_chunk(&mut culprit, &receiver.path(), &data);
            receiver.reader.part_of_chunk(PART / 2);
            culprit.reset();
            check_broken_off(&mut receiver, &uri, &data, PART / 2);
        }
        attack.end();
    });
}

#[test]
fn a_receiver_that_resets_in_mid_chunk_is_told_of_by_481_and_the_rest_of_the_chunk_is_dropped() {
    bounded(|| {
        let attack = Attack::start(TRANSFER_KIB_MAX + 2 * CONNECTION_KIB_MAX);
        let data = contents(4, PART);
        for (here, there) in PLACES {
            let mut sender = attack.client_on(here, "user0");
            let mut culprit = attack.client_on(there, "user1");
            let peer = culprit.path();
            let tid = begin_chunk(&mut sender, &peer, &data);
            culprit.reader.part_of_chunk(PART / 2);
            culprit.reset();
            assert_eq!(sender.status(&tid), 481);
            // The rest of the chunk belongs to no session; the next request is answered as if the chunk had never been.
            sender.writer.write(&data);
            sender.writer.write(&end_line(&tid, Flag::Last));
            let tid = sender.say(&peer, b"Anybody?");
            assert_eq!(sender.status(&tid), 481);
            attack.goes_on();
        }
        attack.end();
    });
}

// -- TLS -------------------------------------------------------------------------------------------

/// Reads until the relay ends the connection. Returns what it sent, to the end or to a reset.
fn rest_of(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    bytes
}

/// A TLS record: its type, and what is in it.
fn record(kind: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[kind, 3, 3], &length[..], bytes].concat()
}

const ALERT: u8 = 21;
const FATAL: u8 = 2;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// The first flight of a client.
fn client_hello(attack: &Attack) -> Vec<u8> {
    let host = ServerName::try_from(HOST).unwrap();
    let mut tls = ClientConnection::new(attack.relay.client.clone(), host).unwrap();
    let mut flight = Vec::new();
    tls.write_tls(&mut flight).unwrap();
    flight
}

#[test]
fn garbage_instead_of_a_handshake_or_within_it_ends_its_own_connection() {
    bounded(|| {
        let attack = Attack::start(2 * CONNECTION_KIB_MAX);
        let hello = client_hello(&attack);
        let noise = contents(5, 20_000);
        let behind_hello = |bytes: &[u8]| [&hello, bytes].concat();
        let mut bent_hello = hello.clone();
        bent_hello[9..60].copy_from_slice(&noise[..51]);
        let cases = [
            ("noise", noise.clone()),
            ("another protocol", b"MSRP 12345678 AUTH\r\nTo-Path: msrps://x\r\n".to_vec()),
            ("a record longer than may be", record(HANDSHAKE, &[1; 65_535])),
            ("empty records", record(HANDSHAKE, b"").repeat(1000)),
            ("data before keys", record(DATA, &noise[..1000])),
            ("a hello that is none", bent_hello),
            ("noise behind the hello", behind_hello(&noise)),
            ("noise in a record behind the hello", behind_hello(&record(DATA, &noise[..1000]))),
            ("a second hello", hello.repeat(2)),
        ];
        for (name, bytes) in cases {
            let mut culprit = TcpStream::connect(attack.relay.addresses[0]).unwrap();
            // It may be closed before all is written.
            let _ = culprit.write_all(&bytes);
            let told = rest_of(&mut culprit);
            // Without keys, one fatal alert; with keys this test cannot read it.
            let alert = told.len() == 7 && told[0] == ALERT && told[5] == FATAL;
            assert!(alert || told.first() == Some(&HANDSHAKE), "{name}: {told:?}");
        }
        attack.goes_on();
        attack.end();
    });
}

/// A handshake message with the greatest announced length, in as many records as it takes.
#[test]
fn a_handshake_message_without_end_is_not_gathered() {
    bounded(|| {
        let attack = Attack::start(2 * CONNECTION_KIB_MAX);
        let mut culprit = TcpStream::connect(attack.relay.addresses[0]).unwrap();
        let mut begin = vec![1, 255, 255, 255];
        begin.resize(16_000, 0);
        let mut written = culprit.write_all(&record(HANDSHAKE, &begin));
        let mut records = 1;
        while written.is_ok() && records < 1000 {
            written = culprit.write_all(&record(HANDSHAKE, &[0; 16_000]));
            records += 1;
        }
        assert!(written.is_err(), "16 MB of a handshake message were taken");
        drop(culprit);
        attack.end();
    });
}

#[test]
fn a_record_that_was_tampered_with_ends_its_own_session() {
    bounded(|| {
        let attack = Attack::start(TRANSFER_KIB_MAX + 2 * CONNECTION_KIB_MAX);
        let data = contents(6, PART);
        for (here, there) in PLACES {
            let mut culprit = attack.client_on(here, "user0");
            let mut receiver = attack.client_on(there, "user1");
            let path = culprit.path();
            begin_chunk(&mut culprit, &receiver.path(), &data);
            receiver.reader.part_of_chunk(PART / 2);
            culprit.writer.write_raw(&record(DATA, &data[..1000]));
            // An alert, and the end.
            assert_eq!(culprit.end(), End::Broken);
            check_broken_off(&mut receiver, &path, &data, PART / 2);
            attack.goes_on();
        }
        attack.end();
    });
}
