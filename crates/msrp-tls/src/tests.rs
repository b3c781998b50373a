//! Both ends in memory: ours against ours, and each of ours against rustls' buffered connections.
//!
//! Long because it is a list: each test stands alone, and all share the fixtures at the top.

use std::io::{Read, Write};
use std::sync::OnceLock;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, CertificateError, ClientConnection, Connection, ServerConnection};

use super::*;

mod chains;
mod relays;

impl TlsConn {
    /// What is kept of an unfinished handshake message.
    fn held(&self) -> &Vec<u8> {
        match &self.layer {
            Layer::Unbuffered(unbuffered) => unbuffered.held(),
            Layer::Direct(direct) => direct.held(),
            Layer::Lost => panic!("lost"),
        }
    }
}

const NAME: &str = "relay.example.com";

#[derive(Clone, Copy, Debug)]
enum Key {
    Ecdsa,
    Rsa,
}

/// A certification authority and what it signed.
struct Pki {
    root: CertificateDer<'static>,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    rsa: Identity,
}

fn pki() -> &'static Pki {
    static PKI: OnceLock<Pki> = OnceLock::new();
    PKI.get_or_init(|| {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "Test root");
        let key = rcgen::KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().clone();
        let issuer = rcgen::Issuer::new(params, key);
        let rsa_key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let rsa = signed(&issuer, &rsa_key, &[NAME]);
        Pki { root, issuer, rsa }
    })
}

fn signed(issuer: &rcgen::Issuer<'_, rcgen::KeyPair>, key: &rcgen::KeyPair, names: &[&str]) -> Identity {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let params = rcgen::CertificateParams::new(names.clone()).unwrap();
    let certificate = params.signed_by(key, issuer).unwrap();
    Identity {
        chain: vec![certificate.der().clone()],
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        names,
    }
}

fn identity(names: &[&str]) -> Identity {
    let key = rcgen::KeyPair::generate().unwrap();
    signed(&pki().issuer, &key, names)
}

fn self_signed(names: &[&str]) -> Identity {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names.clone()).unwrap();
    Identity {
        chain: vec![made.cert.der().clone()],
        key: PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap(),
        names,
    }
}

fn identity_with(key: Key) -> Identity {
    let rsa = &pki().rsa;
    match key {
        Key::Ecdsa => identity(&[NAME]),
        Key::Rsa => Identity { chain: rsa.chain.clone(), key: rsa.key.clone_key(), names: rsa.names.clone() },
    }
}

fn setup(layer: RecordLayer, identities: Vec<Identity>) -> TlsSetup {
    let roots = || Roots::Certificates(vec![pki().root.clone()]);
    let trust = Trust { called: roots(), calling: Some(roots()) };
    TlsSetup::new(identities, NAME, &trust, layer).unwrap()
}

fn client_of(layer: RecordLayer, version: &'static rustls::SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki().root.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(setup::provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.enable_secret_extraction = layer == RecordLayer::Direct;
    Arc::new(config)
}

fn name(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).unwrap()
}

/// One end of a connection, ours or rustls', driven alike.
struct End {
    make: Make,
    plain: Vec<u8>,
    out: Vec<u8>,
}

enum Make {
    Ours { tls: TlsConn, tail: Vec<u8> },
    Theirs(Box<Connection>),
}

impl End {
    fn new(make: Make) -> Self {
        Self { make, plain: Vec::new(), out: Vec::new() }
    }

    fn ours(tls: TlsConn) -> Self {
        let tail = Vec::new();
        Self::new(Make::Ours { tls, tail })
    }

    fn our_server(config: &Arc<ServerConfig>) -> Self {
        Self::ours(TlsConn::server(Arc::clone(config)).unwrap())
    }

    fn our_client(config: &Arc<ClientConfig>, to: &str) -> Self {
        let mut end = Self::ours(TlsConn::client(Arc::clone(config), name(to)).unwrap());
        end.feed(&[]).unwrap();
        end
    }

    fn their_server(config: &Arc<ServerConfig>) -> Self {
        let connection = ServerConnection::new(Arc::clone(config)).unwrap();
        Self::new(Make::Theirs(Box::new(connection.into())))
    }

    fn their_client(config: &Arc<ClientConfig>, to: &str) -> Self {
        let connection = ClientConnection::new(Arc::clone(config), name(to)).unwrap();
        Self::new(Make::Theirs(Box::new(connection.into())))
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), TlsError> {
        match &mut self.make {
            Make::Ours { tls, tail } => {
                tail.extend_from_slice(bytes);
                let used = tls.receive(tail, &mut self.plain, &mut self.out)?;
                tail.drain(..used);
                assert!(tail.len() < RECORD_BYTES_MAX);
                assert!(tls.held().len() <= FRAGMENTS_BYTES_MAX);
            }
            Make::Theirs(connection) => {
                let mut bytes = bytes;
                while !bytes.is_empty() && connection.read_tls(&mut bytes).unwrap() > 0 {
                    let state = connection.process_new_packets()?;
                    let mut plain = vec![0; state.plaintext_bytes_to_read()];
                    connection.reader().read_exact(&mut plain).unwrap();
                    self.plain.extend_from_slice(&plain);
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, plain: &[u8]) {
        match &mut self.make {
            Make::Ours { tls, .. } => tls.encrypt(plain, &mut self.out).unwrap(),
            Make::Theirs(connection) => {
                connection.set_buffer_limit(None);
                connection.writer().write_all(plain).unwrap();
            }
        }
    }

    fn close(&mut self) {
        match &mut self.make {
            Make::Ours { tls, .. } => tls.close_notify(&mut self.out),
            Make::Theirs(connection) => connection.send_close_notify(),
        }
    }

    fn take_out(&mut self) -> Vec<u8> {
        if let Make::Theirs(connection) = &mut self.make {
            while connection.wants_write() {
                connection.write_tls(&mut self.out).unwrap();
            }
        }
        mem::take(&mut self.out)
    }

    fn take_plain(&mut self) -> Vec<u8> {
        mem::take(&mut self.plain)
    }

    fn tls(&mut self) -> &mut TlsConn {
        match &mut self.make {
            Make::Ours { tls, .. } => tls,
            Make::Theirs(_) => panic!("not ours"),
        }
    }

    fn theirs(&mut self) -> &mut Connection {
        match &mut self.make {
            Make::Ours { .. } => panic!("not theirs"),
            Make::Theirs(connection) => connection,
        }
    }

    fn done(&self) -> bool {
        match &self.make {
            Make::Ours { tls, .. } => tls.handshake_done(),
            Make::Theirs(connection) => !connection.is_handshaking(),
        }
    }
}

/// Carries bytes both ways in pieces of `size` until neither end has more to say.
fn exchange(a: &mut End, b: &mut End, size: usize) -> Result<(), TlsError> {
    loop {
        let (from_a, from_b) = (a.take_out(), b.take_out());
        if from_a.is_empty() && from_b.is_empty() {
            return Ok(());
        }
        for piece in from_a.chunks(size) {
            b.feed(piece)?;
        }
        for piece in from_b.chunks(size) {
            a.feed(piece)?;
        }
    }
}

/// Every pairing with at least one end of ours: (client, server).
fn pairs(config: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Vec<(End, End)> {
    vec![
        (End::our_client(config, NAME), End::our_server(server)),
        (End::our_client(config, NAME), End::their_server(server)),
        (End::their_client(config, NAME), End::our_server(server)),
    ]
}

fn connected(setup: &TlsSetup) -> (End, End) {
    let mut client = End::our_client(&setup.client_verify, NAME);
    let mut server = End::our_server(&setup.server);
    exchange(&mut client, &mut server, usize::MAX).unwrap();
    assert!(client.done() && server.done());
    (client, server)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// A sequence of numbers without pattern, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

/// Makes two tests of each claim: it holds with either record layer.
macro_rules! with_either_layer {
    ($($claim:ident,)*) => {
        mod with_rustls {
            $(#[test] fn $claim() { super::$claim(super::RecordLayer::Rustls); })*
        }
        mod with_direct {
            $(#[test] fn $claim() { super::$claim(super::RecordLayer::Direct); })*
        }
    };
}

with_either_layer! {
    handshake_succeeds_however_the_stream_is_cut,
    handshake_succeeds_with_each_flight_cut_in_two_at_every_byte,
    bulk_arrives_whole_however_it_is_cut,
    records_are_full_and_nothing_is_sent_for_nothing,
    encrypt_appends_to_what_is_there,
    plaintext_before_the_end_of_the_handshake_is_refused_without_harm,
    data_in_one_flight_with_finished_is_delivered,
    close_notify_is_told_apart_from_silence_and_the_other_direction_goes_on,
    nothing_is_sent_after_close_notify,
    what_follows_close_notify_is_ignored,
    tampered_record_ends_the_connection_with_an_alert,
    garbage_in_place_of_a_client_hello_is_an_error_with_an_alert,
    keys_are_updated_when_the_peer_asks,
    answer_to_a_key_update_precedes_close_notify,
    key_update_right_behind_finished_is_followed_and_answered,
    handshake_messages_over_many_records_are_put_together,
    sending_goes_on_while_a_handshake_message_is_incomplete,
    endless_handshake_message_is_refused,
    error_amid_fragments_is_reported_and_nothing_panics,
    idle_connection_holds_no_buffers_and_may_move_to_another_thread,
    receiving_nothing_changes_nothing,
    flipping_any_byte_of_the_first_flight_does_no_harm,
}

fn handshake_succeeds_however_the_stream_is_cut(layer: RecordLayer) {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for key in [Key::Ecdsa, Key::Rsa] {
            let setup = setup(layer, vec![identity_with(key)]);
            for size in [1, 2, 3, 5, 7, 64, 1000, usize::MAX] {
                for (mut client, mut server) in pairs(&client_of(layer, version), &setup.server) {
                    exchange(&mut client, &mut server, size).unwrap();
                    assert!(client.done() && server.done(), "{version:?} {key:?} {size}");
                    client.send(b"to the server");
                    server.send(b"to the client");
                    exchange(&mut client, &mut server, size).unwrap();
                    assert_eq!(server.plain, b"to the server");
                    assert_eq!(client.plain, b"to the client");
                }
            }
        }
    }
}

fn handshake_succeeds_with_each_flight_cut_in_two_at_every_byte(layer: RecordLayer) {
    let setup = setup(layer, vec![identity(&[NAME])]);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = client_of(layer, version);
        for cut in 1..1600 {
            let mut client = End::our_client(&config, NAME);
            let mut server = End::our_server(&setup.server);
            for _ in 0..4 {
                for turn in 0..2 {
                    let (from, to) = match turn {
                        0 => (&mut client, &mut server),
                        _ => (&mut server, &mut client),
                    };
                    let flight = from.take_out();
                    let (first, second) = flight.split_at(cut.min(flight.len()));
                    to.feed(first).unwrap();
                    to.feed(second).unwrap();
                }
            }
            assert!(client.done() && server.done(), "{version:?} {cut}");
        }
    }
}

/// We send no tickets. A server that does has used sequence numbers before the keys are handed over.
#[test]
fn sequence_numbers_go_on_where_the_handshake_left_them() {
    let mut config = ServerConfig::clone(&fragmenting_server());
    config.enable_secret_extraction = true;
    let mut client = End::their_client(&client_of(RecordLayer::Rustls, &rustls::version::TLS13), NAME);
    let mut server = End::our_server(&Arc::new(config));
    exchange(&mut client, &mut server, usize::MAX).unwrap();
    assert_eq!(server.tls().record_layer(), RecordLayer::Direct);
    server.send(b"behind the tickets");
    exchange(&mut client, &mut server, usize::MAX).unwrap();
    assert_eq!(client.take_plain(), b"behind the tickets");
}

#[test]
fn versions_suites_and_group_are_the_modern_ones() {
    let setup = setup(RecordLayer::Rustls, vec![identity(&[NAME])]);
    let (mut client, mut server) = connected(&setup);
    assert_eq!(client.tls().describe(), server.tls().describe());
    assert_eq!(client.tls().describe().to_string(), "TLSv1_3 TLS13_AES_128_GCM_SHA256 X25519");

    let mut client = End::our_client(&client_of(RecordLayer::Rustls, &rustls::version::TLS12), NAME);
    let mut server = End::our_server(&setup.server);
    assert_eq!(server.tls().describe().to_string(), "- - -");
    exchange(&mut client, &mut server, usize::MAX).unwrap();
    assert_eq!(server.tls().describe().to_string(), "TLSv1_2 TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 X25519");
}

fn bulk_arrives_whole_however_it_is_cut(layer: RecordLayer) {
    const TOTAL: usize = 3_000_000;
    let setup = setup(layer, vec![identity(&[NAME])]);
    let data = pattern(TOTAL);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for (mut client, mut server) in pairs(&client_of(layer, version), &setup.server) {
            exchange(&mut client, &mut server, usize::MAX).unwrap();
            let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
            for (from, to) in [(true, false), (false, true)] {
                let (sender, receiver) = match (from, to) {
                    (true, _) => (&mut client, &mut server),
                    _ => (&mut server, &mut client),
                };
                let mut wire = Vec::new();
                let mut rest = &data[..];
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(rest.len().min(numbers.below(200_000)));
                    sender.send(now);
                    wire.extend(sender.take_out());
                    rest = later;
                }
                let mut rest = &wire[..];
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(rest.len().min(numbers.below(100_000)));
                    receiver.feed(now).unwrap();
                    rest = later;
                }
                assert!(receiver.take_plain() == data);
            }
        }
    }
}

fn records_are_full_and_nothing_is_sent_for_nothing(layer: RecordLayer) {
    let (mut client, mut server) = connected(&setup(layer, vec![identity(&[NAME])]));
    client.send(b"");
    assert!(client.take_out().is_empty());
    client.send(&pattern(64 * 1024));
    let wire = client.take_out();
    assert_eq!(wire.len(), 64 * 1024 + 4 * 22);
    server.feed(&wire).unwrap();
    assert_eq!(server.plain, pattern(64 * 1024));
}

fn encrypt_appends_to_what_is_there(layer: RecordLayer) {
    let (mut client, mut server) = connected(&setup(layer, vec![identity(&[NAME])]));
    for part in ["one ", "two ", "three"] {
        client.send(part.as_bytes());
    }
    exchange(&mut client, &mut server, usize::MAX).unwrap();
    assert_eq!(server.plain, b"one two three");
}

fn plaintext_before_the_end_of_the_handshake_is_refused_without_harm(layer: RecordLayer) {
    let setup = setup(layer, vec![identity(&[NAME])]);
    let mut client = End::our_client(&setup.client_verify, NAME);
    let mut server = End::our_server(&setup.server);
    let refused = |end: &mut End| {
        let mut out = Vec::new();
        let error = end.tls().encrypt(b"early", &mut out).unwrap_err();
        assert!(matches!(error, TlsError::Handshaking));
        assert!(out.is_empty());
    };
    refused(&mut client);
    refused(&mut server);
    server.feed(&client.take_out()).unwrap();
    // TLS 1.3 would let the server write here, to a client whose Finished it has not seen.
    refused(&mut server);
    exchange(&mut client, &mut server, usize::MAX).unwrap();
    client.send(b"in time");
    exchange(&mut client, &mut server, usize::MAX).unwrap();
    assert_eq!(server.plain, b"in time");
}

fn data_in_one_flight_with_finished_is_delivered(layer: RecordLayer) {
    let setup = setup(layer, vec![identity(&[NAME])]);
    let mut client = End::our_client(&setup.client_verify, NAME);
    let mut server = End::our_server(&setup.server);
    server.feed(&client.take_out()).unwrap();
    client.feed(&server.take_out()).unwrap();
    assert!(client.done() && !server.done());
    client.send(&pattern(40_000));
    client.close();
    server.feed(&client.take_out()).unwrap();
    assert!(server.done() && server.tls().peer_closed());
    assert_eq!(server.plain, pattern(40_000));
}

fn close_notify_is_told_apart_from_silence_and_the_other_direction_goes_on(layer: RecordLayer) {
    let setup = setup(layer, vec![identity(&[NAME])]);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for (mut client, mut server) in pairs(&client_of(layer, version), &setup.server) {
            exchange(&mut client, &mut server, usize::MAX).unwrap();
            client.send(b"last words");
            client.close();
            exchange(&mut client, &mut server, 1).unwrap();
            assert_eq!(server.plain, b"last words");
            if let Make::Ours { tls, tail } = &mut server.make {
                assert!(tls.peer_closed() && tail.is_empty());
            }
            server.send(b"and mine");
            server.close();
            exchange(&mut client, &mut server, 1).unwrap();
            assert_eq!(client.plain, b"and mine");
            if let Make::Ours { tls, .. } = &mut client.make {
                assert!(tls.peer_closed());
            }
        }
    }
}

fn nothing_is_sent_after_close_notify(layer: RecordLayer) {
    let (mut client, _server) = connected(&setup(layer, vec![identity(&[NAME])]));
    assert!(!client.tls().peer_closed());
    client.close();
    assert!(!client.take_out().is_empty());
    client.close();
    assert!(client.take_out().is_empty());
    let mut out = Vec::new();
    let error = client.tls().encrypt(b"more", &mut out).unwrap_err();
    assert!(matches!(error, TlsError::Closed));
    assert!(out.is_empty());
}

fn what_follows_close_notify_is_ignored(layer: RecordLayer) {
    let (mut client, mut server) = connected(&setup(layer, vec![identity(&[NAME])]));
    client.close();
    let mut wire = client.take_out();
    wire.extend_from_slice(b"\x17\x03\x03\x00\x04junk, and not even a record");
    server.feed(&wire).unwrap();
    server.feed(b"more junk").unwrap();
    assert!(server.tls().peer_closed());
    assert!(server.plain.is_empty() && server.take_out().is_empty());
}

fn tampered_record_ends_the_connection_with_an_alert(layer: RecordLayer) {
    let setup = setup(layer, vec![identity(&[NAME])]);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for (mut client, mut server) in pairs(&client_of(layer, version), &setup.server) {
            exchange(&mut client, &mut server, usize::MAX).unwrap();
            client.send(b"genuine");
            client.send(b"forged");
            let mut wire = client.take_out();
            *wire.last_mut().unwrap() ^= 1;
            let error = server.feed(&wire).unwrap_err();
            assert!(matches!(error, TlsError::Protocol(Error::DecryptError)));
            if let Make::Ours { tls, .. } = &mut server.make {
                assert_eq!(server.plain, b"genuine");
                let again = tls.receive(&mut [], &mut Vec::new(), &mut Vec::new());
                assert!(matches!(again, Err(TlsError::Closed)));
                let mut nothing = Vec::new();
                assert!(tls.encrypt(b"more", &mut nothing).is_err());
                tls.close_notify(&mut nothing);
                assert!(nothing.is_empty());
            }
            let error = client.feed(&server.take_out()).unwrap_err();
            assert!(matches!(
                error,
                TlsError::Protocol(Error::AlertReceived(AlertDescription::BadRecordMac))
            ));
        }
    }
}

fn garbage_in_place_of_a_client_hello_is_an_error_with_an_alert(layer: RecordLayer) {
    let setup = setup(layer, vec![identity(&[NAME])]);
    for garbage in [
        &b"MSRP d93kswow SEND\r\nTo-Path: msrp://relay.example.com"[..],
        b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00",
        b"\x17\x03\x03\x00\x01\x00",
        b"\x16\x03\x01\xff\xff\x01",
        b"\x16\x03\x01\x00\x00",
    ] {
        for size in [1, usize::MAX] {
            let mut server = End::our_server(&setup.server);
            let failed = garbage.chunks(size).any(|piece| server.feed(piece).is_err());
            assert!(failed, "{garbage:?}");
            // A fatal alert, in the clear.
            assert!(matches!(server.out[..], [21, 3, _, 0, 2, 2, _]));
        }
    }
}

#[test]
fn fatal_and_unknown_alerts_of_the_peer_are_errors() {
    let setup = setup(RecordLayer::Rustls, vec![identity(&[NAME])]);
    let mut client = End::our_client(&setup.client_verify, NAME);
    let error = client.feed(b"\x15\x03\x03\x00\x02\x02\x28").unwrap_err();
    assert!(matches!(error, TlsError::Protocol(Error::AlertReceived(AlertDescription::HandshakeFailure))));
}

#[test]
fn tls_1_1_is_refused() {
    let setup = setup(RecordLayer::Rustls, vec![identity(&[NAME])]);
    let mut hello = vec![0x03, 0x02];
    hello.extend([7; 32]);
    // No session, two CBC suites, no compression, two extensions: a curve and a signature scheme.
    hello.extend([0, 0, 4, 0xc0, 0x13, 0xc0, 0x14, 1, 0]);
    hello.extend([0, 16, 0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3]);
    let length = u8::try_from(hello.len()).unwrap();
    let mut wire = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    wire.extend(hello);
    let mut server = End::our_server(&setup.server);
    let error = server.feed(&wire).unwrap_err();
    assert!(matches!(server.out[..], [21, 3, _, 0, 2, 2, 70]), "{error:?} {:?}", server.out);
}

#[test]
fn certificate_of_another_name_or_issuer_is_refused_when_verifying() {
    let other_name = setup(RecordLayer::Rustls, vec![identity(&["other.example.com"])]);
    let other_issuer = setup(RecordLayer::Rustls, vec![self_signed(&[NAME])]);
    for setup in [other_name, other_issuer] {
        let mut client = End::our_client(&setup.client_verify, NAME);
        let mut server = End::our_server(&setup.server);
        server.feed(&client.take_out()).unwrap();
        let error = client.feed(&server.take_out()).unwrap_err();
        assert!(matches!(
            error,
            TlsError::Protocol(Error::InvalidCertificate(
                CertificateError::NotValidForNameContext { .. } | CertificateError::UnknownIssuer
            ))
        ));
        let error = server.feed(&client.take_out()).unwrap_err();
        assert!(matches!(error, TlsError::Protocol(Error::AlertReceived(_))));
    }
}

#[test]
fn without_roots_every_relay_is_refused() {
    let setup = setup(RecordLayer::Rustls, vec![identity(&[NAME])]);
    let config = ClientConfig::builder_with_provider(Arc::new(setup::provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut client = End::our_client(&Arc::new(config), NAME);
    let mut server = End::our_server(&setup.server);
    server.feed(&client.take_out()).unwrap();
    assert!(client.feed(&server.take_out()).is_err());
}

#[test]
fn any_certificate_will_do_when_only_encrypting() {
    for (identity, to) in [
        (self_signed(&["another.invalid"]), NAME),
        (self_signed(&["another.invalid"]), "192.0.2.7"),
        (identity_with(Key::Rsa), "other.example.com"),
    ] {
        let setup = setup(RecordLayer::Rustls, vec![identity]);
        let mut client = End::our_client(&setup.client_encrypt_only, to);
        let mut server = End::our_server(&setup.server);
        exchange(&mut client, &mut server, 100).unwrap();
        client.send(b"hello");
        exchange(&mut client, &mut server, 100).unwrap();
        assert_eq!(server.plain, b"hello");
    }
}

#[test]
fn key_must_be_held_even_when_only_encrypting() {
    // A server that shows a certificate without having its key. rustls refuses to load such a pair, so the test
    // combines the two itself.
    #[derive(Debug)]
    struct Impostor(Arc<rustls::sign::CertifiedKey>);
    impl rustls::server::ResolvesServerCert for Impostor {
        fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let provider = setup::provider();
        let own = identity(&[NAME]);
        let key = provider.key_provider.load_private_key(own.key).unwrap();
        let stolen = rustls::sign::CertifiedKey::new(identity(&[NAME]).chain, key);
        let server = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Impostor(Arc::new(stolen))));
        let setup = setup(RecordLayer::Rustls, Vec::new());
        let mut client = End::our_client(&setup.client_encrypt_only, NAME);
        let mut server = End::our_server(&Arc::new(server));
        let error = exchange(&mut client, &mut server, usize::MAX).unwrap_err();
        assert!(matches!(
            error,
            TlsError::Protocol(Error::InvalidCertificate(CertificateError::BadSignature))
        ));
    }
}

#[test]
fn certificate_is_chosen_by_server_name() {
    let identities = ["default.example.com", "*.example.org", "chat.example.net"];
    let setup = setup(RecordLayer::Rustls, identities.iter().map(|name| identity(&[name])).collect());
    for good in ["default.example.com", "any.example.org", "chat.example.net"] {
        let mut client = End::our_client(&setup.client_verify, good);
        let mut server = End::our_server(&setup.server);
        exchange(&mut client, &mut server, usize::MAX).unwrap();
        assert!(client.done() && server.done(), "{good}");
    }
    for (to, shown) in [("unknown.example.com", 0), ("192.0.2.7", 0), ("b.example.org", 1)] {
        let mut client = End::their_client(&setup.client_encrypt_only, to);
        let mut server = End::our_server(&setup.server);
        exchange(&mut client, &mut server, usize::MAX).unwrap();
        let certificates = client.theirs().peer_certificates().unwrap();
        let params = rustls::server::ParsedCertificate::try_from(&certificates[0]).unwrap();
        let expected = name(&identities[shown].replace('*', "x"));
        rustls::client::verify_server_name(&params, &expected).unwrap();
    }
}

#[test]
fn server_without_certificates_refuses_everybody() {
    let setup = setup(RecordLayer::Rustls, Vec::new());
    let mut client = End::our_client(&setup.client_encrypt_only, NAME);
    let mut server = End::our_server(&setup.server);
    assert!(server.feed(&client.take_out()).is_err());
    assert!(client.feed(&server.take_out()).is_err());
}

fn keys_are_updated_when_the_peer_asks(layer: RecordLayer) {
    let setup = setup(layer, vec![identity(&[NAME])]);
    for (mut client, mut server) in pairs(&setup.client_verify, &setup.server).drain(1..) {
        exchange(&mut client, &mut server, usize::MAX).unwrap();
        let (ours, theirs) = match client.make {
            Make::Ours { .. } => (&mut client, &mut server),
            Make::Theirs(_) => (&mut server, &mut client),
        };
        for round in 0..10_u8 {
            theirs.theirs().refresh_traffic_keys().unwrap();
            theirs.send(&[round; 20_000]);
            exchange(ours, theirs, 1000).unwrap();
            assert_eq!(ours.take_plain(), [round; 20_000]);
            ours.send(&[round; 50_000]);
            exchange(ours, theirs, 1000).unwrap();
            assert_eq!(theirs.take_plain(), [round; 50_000]);
        }
    }
}

fn answer_to_a_key_update_precedes_close_notify(layer: RecordLayer) {
    let setup = setup(layer, vec![identity(&[NAME])]);
    let mut client = End::their_client(&setup.client_verify, NAME);
    let mut server = End::our_server(&setup.server);
    exchange(&mut client, &mut server, usize::MAX).unwrap();
    client.theirs().refresh_traffic_keys().unwrap();
    exchange(&mut client, &mut server, usize::MAX).unwrap();
    server.close();
    exchange(&mut client, &mut server, usize::MAX).unwrap();
    assert_eq!(client.theirs().reader().read(&mut [0]).unwrap(), 0);
}

fn key_update_right_behind_finished_is_followed_and_answered(layer: RecordLayer) {
    let setup = setup(layer, vec![identity(&[NAME])]);
    for size in [1, 100, usize::MAX] {
        let mut client = End::their_client(&setup.client_verify, NAME);
        let mut server = End::our_server(&setup.server);
        server.feed(&client.take_out()).unwrap();
        client.feed(&server.take_out()).unwrap();
        client.send(b"first, ");
        client.theirs().refresh_traffic_keys().unwrap();
        client.send(b"second");
        for piece in client.take_out().chunks(size) {
            server.feed(piece).unwrap();
        }
        assert_eq!(server.take_plain(), b"first, second");
        server.send(b"with new keys");
        exchange(&mut client, &mut server, size).unwrap();
        assert_eq!(client.take_plain(), b"with new keys");
    }
}

/// A server that sends tickets in many small records, as other servers do and ours does not.
fn fragmenting_server() -> Arc<ServerConfig> {
    let Identity { chain, key, .. } = identity(&[NAME]);
    let mut config = ServerConfig::builder_with_provider(Arc::new(setup::provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.send_tls13_tickets = 4;
    config.max_fragment_size = Some(40);
    Arc::new(config)
}

fn handshake_messages_over_many_records_are_put_together(layer: RecordLayer) {
    let setup = setup(layer, Vec::new());
    let server_config = fragmenting_server();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for config in [client_of(layer, version), Arc::clone(&setup.client_verify)] {
            for size in [1, 30, 50, 100, usize::MAX] {
                let mut client = End::our_client(&config, NAME);
                let mut server = End::their_server(&server_config);
                exchange(&mut client, &mut server, size).unwrap();
                server.send(&pattern(5_000));
                exchange(&mut client, &mut server, size).unwrap();
                assert_eq!(client.take_plain(), pattern(5_000));
                assert!(client.tls().held().is_empty());
            }
        }
    }
}

fn sending_goes_on_while_a_handshake_message_is_incomplete(layer: RecordLayer) {
    for size in [1, 10, 61, 62, 63] {
        let mut client = End::our_client(&client_of(layer, &rustls::version::TLS13), NAME);
        let mut server = End::their_server(&fragmenting_server());
        server.feed(&client.take_out()).unwrap();
        client.feed(&server.take_out()).unwrap();
        assert!(client.done());
        server.feed(&client.take_out()).unwrap();
        let tickets = server.take_out();
        assert!(tickets.len() > 500);
        let mut held_back = false;
        let mut sent = 0;
        for piece in tickets.chunks(size) {
            client.feed(piece).unwrap();
            held_back |= !client.tls().held().is_empty();
            client.send(b"x");
            sent += 1;
        }
        assert!(held_back);
        client.close();
        exchange(&mut client, &mut server, usize::MAX).unwrap();
        assert_eq!(server.plain, vec![b'x'; sent]);
    }
}

fn endless_handshake_message_is_refused(layer: RecordLayer) {
    let setup = setup(layer, vec![identity(&[NAME])]);
    let mut server = End::our_server(&setup.server);
    // The beginning of a ClientHello of 65,000 bytes, then the rest of it, one byte in a record.
    server.feed(b"\x16\x03\x01\x00\x04\x01\x00\xfd\xe8").unwrap();
    let mut fed = 0;
    let error = loop {
        match server.feed(b"\x16\x03\x01\x00\x01\x00") {
            Ok(()) => fed += 1,
            Err(error) => break error,
        }
        assert!(fed < FRAGMENTS_BYTES_MAX);
    };
    assert!(matches!(error, TlsError::FragmentsTooLong));
}

fn error_amid_fragments_is_reported_and_nothing_panics(layer: RecordLayer) {
    let mut client = End::our_client(&client_of(layer, &rustls::version::TLS13), NAME);
    let mut server = End::their_server(&fragmenting_server());
    server.feed(&client.take_out()).unwrap();
    client.feed(&server.take_out()).unwrap();
    server.feed(&client.take_out()).unwrap();
    let mut tickets = server.take_out();
    tickets[62 + 20] ^= 1;
    assert!(client.feed(&tickets[..62]).is_ok());
    assert!(client.feed(&tickets[62..]).is_err());
    assert!(!client.out.is_empty());
    assert!(client.feed(b"more").is_err());
}

fn idle_connection_holds_no_buffers_and_may_move_to_another_thread(layer: RecordLayer) {
    let (mut client, mut server) = connected(&setup(layer, vec![identity(&[NAME])]));
    client.send(&pattern(100_000));
    exchange(&mut client, &mut server, 1000).unwrap();
    assert_eq!(server.tls().held().capacity(), 0);
    let Make::Ours { tls, .. } = server.make else {
        panic!("ours");
    };
    let moved = std::thread::spawn(move || tls.handshake_done());
    assert!(moved.join().unwrap());
}

fn receiving_nothing_changes_nothing(layer: RecordLayer) {
    let (mut client, mut server) = connected(&setup(layer, vec![identity(&[NAME])]));
    for _ in 0..100 {
        client.feed(&[]).unwrap();
        server.feed(&[]).unwrap();
    }
    client.send(b"still here");
    exchange(&mut client, &mut server, 3).unwrap();
    assert_eq!(server.plain, b"still here");
}

/// Flips one byte of the client's side at a time: each handshake ends well or in an error.
fn flipping_any_byte_of_the_first_flight_does_no_harm(layer: RecordLayer) {
    let setup = setup(layer, vec![identity(&[NAME])]);
    let flight = End::our_client(&setup.client_verify, NAME).take_out();
    for position in 0..flight.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut wire = flight.clone();
            wire[position] ^= flip;
            let mut server = End::our_server(&setup.server);
            if server.feed(&wire).is_err() {
                assert!(!server.tls().handshake_done());
            }
        }
    }
}

/// `cargo test --release --lib tls_pump -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, not a check"]
fn tls_pump() {
    for layer in [RecordLayer::Rustls, RecordLayer::Direct, RecordLayer::Rustls, RecordLayer::Direct] {
        pump(layer);
    }
}

fn pump(layer: RecordLayer) {
    const BATCH: usize = 64 * 1024;
    const TOTAL: usize = 8_000_000_000;
    let setup = setup(layer, vec![identity(&[NAME])]);
    let (mut sender, mut relay_in) = connected(&setup);
    let (mut relay_out, _receiver) = connected(&setup);
    let data = pattern(BATCH);
    let cpu = || {
        let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        let nanos: f64 = times.split(' ').next().unwrap().parse().unwrap();
        nanos / 1e9
    };
    let (mut wire, mut plain, mut out) = (Vec::new(), Vec::new(), Vec::new());
    let (mut receive, mut encrypt) = (0.0, 0.0);
    for _ in 0..TOTAL / BATCH {
        wire.clear();
        plain.clear();
        out.clear();
        sender.tls().encrypt(&data, &mut wire).unwrap();
        let start = std::time::Instant::now();
        let tls = relay_in.tls();
        let used = tls.receive(&mut wire, &mut plain, &mut out).unwrap();
        let between = std::time::Instant::now();
        relay_out.tls().encrypt(&plain, &mut out).unwrap();
        receive += (between - start).as_secs_f64();
        encrypt += between.elapsed().as_secs_f64();
        assert_eq!(used, wire.len());
    }
    let gigabytes = TOTAL as f64 / 1e9;
    println!(
        "{layer:?}: receive {:.3} s/GB, encrypt {:.3} s/GB (both wall clock), thread CPU with the sender {:.3} s/GB",
        receive / gigabytes,
        encrypt / gigabytes,
        cpu() / gigabytes,
    );
}
