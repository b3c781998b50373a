//! A peer that can send any TLS 1.3 record, over connections that are the same in every run.
//!
//! Randomness, key shares and the certificate are fixed: two handshakes of one kind agree on the same keys, so the
//! output of two record layers for the same bytes can be compared byte for byte. The keys are derived here a second
//! time, as in RFC 8446, 7.1 to 7.3, from the secrets that rustls gives a key log.

use std::sync::{Arc, LazyLock, Mutex};

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, Nonce, UnboundKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::crypto::tls13::OkmBlock;
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret, SupportedKxGroup,
    aws_lc_rs as provider,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, Error, KeyLog, NamedGroup,
    ServerConfig, ServerConnection, SignatureScheme, SupportedCipherSuite,
};

use crate::RecordLayer;
use crate::TlsConn;

/// Content types (RFC 8446, B.1).
pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
pub const DATA: u8 = 23;

/// KeyUpdate messages (RFC 8446, 4.6.3).
pub const UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
pub const UPDATE_AND_ASK: [u8; 5] = [24, 0, 0, 1, 1];

const TAG_BYTES: usize = 16;

/// What the handshake agrees on.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Ours is the server's side.
    pub server: bool,
    pub aes_256: bool,
}

impl Terms {
    #[cfg(test)]
    pub const ALL: [Self; 4] = [
        Self { server: false, aes_256: false },
        Self { server: false, aes_256: true },
        Self { server: true, aes_256: false },
        Self { server: true, aes_256: true },
    ];

    fn suite(self) -> SupportedCipherSuite {
        if self.aes_256 {
            cipher_suite::TLS13_AES_256_GCM_SHA384
        } else {
            cipher_suite::TLS13_AES_128_GCM_SHA256
        }
    }
}

/// Shakes hands. Returns our end, with the wanted record layer, and the other end's keys.
pub fn connect(terms: Terms, layer: RecordLayer) -> (TlsConn, Peer) {
    let (mut ours, mut theirs, log) = begin(terms, layer);
    let (mut plain, mut to_them, mut to_us) = (Vec::new(), Vec::new(), Vec::new());
    ours.receive(&mut [], &mut plain, &mut to_them).unwrap();
    // Two flights in each direction.
    for _ in 0..4 {
        feed(&mut theirs, &std::mem::take(&mut to_them));
        while theirs.wants_write() {
            theirs.write_tls(&mut to_us).unwrap();
        }
        let mut flight = std::mem::take(&mut to_us);
        assert_eq!(ours.receive(&mut flight, &mut plain, &mut to_them).unwrap(), flight.len());
    }
    assert!(ours.handshake_done() && !theirs.is_handshaking() && to_them.is_empty() && plain.is_empty());
    assert_eq!(ours.record_layer(), layer);
    (ours, log.peer(terms))
}

fn feed(connection: &mut Connection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        connection.read_tls(&mut bytes).unwrap();
        connection.process_new_packets().unwrap();
    }
}

/// Both ends before the first byte.
fn begin(terms: Terms, layer: RecordLayer) -> (TlsConn, Connection, Arc<Log>) {
    let log = Arc::new(Log::default());
    let (mut server, mut client) = (server_config(terms), client_config(terms));
    let name = ServerName::try_from("fuzz.invalid").unwrap();
    if terms.server {
        server.enable_secret_extraction = layer == RecordLayer::Direct;
        client.key_log = Arc::clone(&log) as Arc<dyn KeyLog>;
        let theirs = ClientConnection::new(Arc::new(client), name).unwrap();
        (TlsConn::server(Arc::new(server)).unwrap(), theirs.into(), log)
    } else {
        client.enable_secret_extraction = layer == RecordLayer::Direct;
        server.key_log = Arc::clone(&log) as Arc<dyn KeyLog>;
        let theirs = ServerConnection::new(Arc::new(server)).unwrap();
        (TlsConn::client(Arc::new(client), name).unwrap(), theirs.into(), log)
    }
}

fn server_config(terms: Terms) -> ServerConfig {
    let chain = vec![CertificateDer::from(&include_bytes!("certificate.der")[..])];
    let key = PrivateKeyDer::try_from(&include_bytes!("key.der")[..]).unwrap();
    let mut config = ServerConfig::builder_with_provider(fixed_provider(terms))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    // The script sends the tickets.
    config.send_tls13_tickets = 0;
    config
}

fn client_config(terms: Terms) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(fixed_provider(terms))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config
}

fn fixed_provider(terms: Terms) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![terms.suite()],
        kx_groups: vec![&Fixed],
        secure_random: &Fixed,
        ..provider::default_provider()
    })
}

/// Always the same, as a source of randomness and as a key exchange.
#[derive(Debug)]
struct Fixed;

impl SecureRandom for Fixed {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        bytes.fill(0x5a);
        Ok(())
    }
}

impl SupportedKxGroup for Fixed {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        Ok(Box::new(Self))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

impl ActiveKeyExchange for Fixed {
    fn complete(self: Box<Self>, _: &[u8]) -> Result<SharedSecret, Error> {
        Ok(SharedSecret::from(&[0xa5; 32][..]))
    }

    fn pub_key(&self) -> &[u8] {
        &[0x33; 32]
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

/// Accepts any certificate: these tests are not about who is at the other end.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// The first traffic secrets of a connection.
#[derive(Debug, Default)]
struct Log {
    client: Mutex<Vec<u8>>,
    server: Mutex<Vec<u8>>,
}

impl KeyLog for Log {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        match label {
            "CLIENT_TRAFFIC_SECRET_0" => *self.client.lock().unwrap() = secret.to_vec(),
            "SERVER_TRAFFIC_SECRET_0" => *self.server.lock().unwrap() = secret.to_vec(),
            _ => {}
        }
    }
}

impl Log {
    fn peer(&self, terms: Terms) -> Peer {
        let half = |secret: &Mutex<Vec<u8>>| Half::new(terms, secret.lock().unwrap().clone());
        let (client, server) = (half(&self.client), half(&self.server));
        let (write, read) = if terms.server { (client, server) } else { (server, client) };
        Peer { write, read }
    }
}

/// The other end's keys, one direction each.
pub struct Peer {
    pub write: Half,
    pub read: Half,
}

impl Peer {
    /// A record of data.
    pub fn data(&mut self, data: &[u8]) -> Vec<u8> {
        self.write.seal(DATA, data, 0)
    }

    /// A KeyUpdate; what is written after it has new keys.
    pub fn update(&mut self, message: [u8; 5]) -> Vec<u8> {
        let record = self.write.seal(HANDSHAKE, &message, 0);
        self.write.next();
        record
    }

    /// Reads whole records that we wrote, and follows their KeyUpdates. Each must follow RFC 8446.
    pub fn read(&mut self, mut wire: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut records = Vec::new();
        while !wire.is_empty() {
            let (record, behind) =
                wire.split_at(5 + usize::from(u16::from_be_bytes(wire[3..5].try_into().unwrap())));
            let (kind, content) = self.read.open(record);
            assert!(content.len() <= 1 << 14);
            if kind == HANDSHAKE {
                assert_eq!(content, UPDATE, "all that we ever say");
                self.read.next();
            }
            records.push((kind, content));
            wire = behind;
        }
        records
    }
}

/// The keys of one direction.
pub struct Half {
    terms: Terms,
    secret: Vec<u8>,
    key: LessSafeKey,
    iv: [u8; 12],
    pub sequence: u64,
}

impl Half {
    fn new(terms: Terms, secret: Vec<u8>) -> Self {
        static LENGTHS: LazyLock<[(&Algorithm, usize); 2]> =
            LazyLock::new(|| [(&AES_128_GCM, 16), (&AES_256_GCM, 32)]);
        let (algorithm, length) = LENGTHS[usize::from(terms.aes_256)];
        let key = UnboundKey::new(algorithm, &expand(terms, &secret, "key", length)).unwrap();
        let iv = expand(terms, &secret, "iv", 12).try_into().unwrap();
        Self { terms, secret, key: LessSafeKey::new(key), iv, sequence: 0 }
    }

    /// RFC 8446, 7.2.
    pub fn next(&mut self) {
        let secret = expand(self.terms, &self.secret, "traffic upd", self.secret.len());
        *self = Self::new(self.terms, secret);
    }

    /// A record of any kind and content, followed by zeros.
    pub fn seal(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let mut inner = content.to_vec();
        inner.push(kind);
        inner.resize(inner.len() + padding, 0);
        let [high, low] = u16::try_from(inner.len() + TAG_BYTES).unwrap().to_be_bytes();
        let mut record = vec![DATA, 3, 3, high, low];
        self.key
            .seal_in_place_append_tag(self.nonce(), Aad::from([DATA, 3, 3, high, low]), &mut inner)
            .unwrap();
        record.extend(inner);
        self.sequence += 1;
        record
    }

    fn open(&mut self, record: &[u8]) -> (u8, Vec<u8>) {
        let (header, sealed) = record.split_at(5);
        let mut sealed = sealed.to_vec();
        let aad = Aad::from(<[u8; 5]>::try_from(header).unwrap());
        let inner = self.key.open_in_place(self.nonce(), aad, &mut sealed).unwrap();
        self.sequence += 1;
        let (kind, content) = inner.split_last().unwrap();
        assert_ne!(*kind, 0, "we do not pad");
        (*kind, content.to_vec())
    }

    fn nonce(&self) -> Nonce {
        let mut number = [0; 12];
        number[4..].copy_from_slice(&self.sequence.to_be_bytes());
        Nonce::assume_unique_for_key(std::array::from_fn(|i| number[i] ^ self.iv[i]))
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446, 7.1).
fn expand(terms: Terms, secret: &[u8], label: &str, length: usize) -> Vec<u8> {
    let label = [b"tls13 ", label.as_bytes()].concat();
    let mut info = u16::try_from(length).unwrap().to_be_bytes().to_vec();
    info.push(u8::try_from(label.len()).unwrap());
    info.extend(label);
    info.push(0);
    let mut bytes = vec![0; length];
    let hkdf = terms.suite().tls13().unwrap().hkdf_provider;
    hkdf.expander_for_okm(&OkmBlock::new(secret)).expand_slice(&[&info], &mut bytes).unwrap();
    bytes
}
