//! [`TlsConn`] with its own record layer against [`TlsConn`] with rustls': for the same bytes, cut in the same way,
//! both answer the same, byte for byte. Ours may refuse earlier or more, never less.
//!
//! The first byte chooses the role, the cipher and how the stream is cut. The rest is a script of what the peer sends
//! and what we send: data, padding, KeyUpdates, tickets, alerts, any content of any type, fragments, forgeries and
//! garbage.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a broken promise is to be a panic: that is what the fuzzer looks for"
)]
#![allow(missing_docs, reason = "a fixture: its names say what it makes")]

mod peer;

use std::sync::LazyLock;

use rustls::{Error, InvalidMessage, PeerMisbehaved};

pub use self::peer::{ALERT, DATA, HANDSHAKE, Peer, Terms, UPDATE, UPDATE_AND_ASK, connect};
use crate::{RECORD_BYTES_MAX, RecordLayer, TlsConn, TlsError};

/// Steps of a script: enough to reach every counter.
const STEPS_MAX: usize = 200;

/// Prints each step if `FUZZ_TRACE` is set, for a person who replays a finding.
fn trace(what: impl FnOnce() -> String) {
    static WANTED: LazyLock<bool> = LazyLock::new(|| std::env::var_os("FUZZ_TRACE").is_some());
    if *WANTED {
        eprintln!("{}", what());
    }
}

/// Runs a script against both record layers.
pub fn records(bytes: &[u8]) {
    let mut script = Script(bytes);
    let settings = script.byte();
    let terms = Terms { server: settings & 1 != 0, aes_256: settings & 2 != 0 };
    let mut stage = Stage::new(terms, usize::from(settings >> 2));
    for _ in 0..STEPS_MAX {
        if script.0.is_empty() || stage.over() {
            break;
        }
        stage.step(&mut script);
    }
    stage.deliver();
    stage.end();
}

/// The rest of the input; zeros beyond its end.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn bytes(&mut self, count: u8) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(self.0.len().min(usize::from(count)));
        self.0 = rest;
        taken
    }

    /// A length of data, short ones more often than long ones: up to `max`.
    fn length(&mut self, max: usize) -> usize {
        let byte = usize::from(self.byte());
        (byte * byte * byte / 100).min(max)
    }
}

/// One of our two ends.
struct End {
    tls: TlsConn,
    tail: Vec<u8>,
    plain: Vec<u8>,
    out: Vec<u8>,
    error: Option<TlsError>,
}

impl End {
    fn new(tls: TlsConn) -> Self {
        Self { tls, tail: Vec::new(), plain: Vec::new(), out: Vec::new(), error: None }
    }

    fn feed(&mut self, bytes: &[u8]) {
        if self.error.is_some() {
            return;
        }
        self.tail.extend_from_slice(bytes);
        match self.tls.receive(&mut self.tail, &mut self.plain, &mut self.out) {
            Ok(used) => drop(self.tail.drain(..used)),
            Err(error) => self.error = Some(error),
        }
        assert!(self.error.is_some() || self.tail.len() < RECORD_BYTES_MAX);
    }
}

struct Stage {
    direct: End,
    rustls: End,
    peer: Peer,
    /// Bytes in one read; all at once if zero.
    stride: usize,
    wire: Vec<u8>,
    /// Bytes that were altered on the way must not pass, though rustls may not look at them.
    altered: bool,
    closed: bool,
}

impl Stage {
    fn new(terms: Terms, stride: usize) -> Self {
        let (direct, peer) = connect(terms, RecordLayer::Direct);
        let (rustls, _) = connect(terms, RecordLayer::Rustls);
        let (direct, rustls) = (End::new(direct), End::new(rustls));
        let stride = stride * stride * 8;
        Self { direct, rustls, peer, stride, wire: Vec::new(), altered: false, closed: false }
    }

    /// After an error nothing can be compared. Nor after close_notify, because rustls does not expect to refuse
    /// anything then (a debug assertion).
    fn over(&self) -> bool {
        self.direct.error.is_some() || self.rustls.error.is_some() || self.closed
    }

    fn step(&mut self, script: &mut Script<'_>) {
        let step = script.byte() % 14;
        trace(|| format!("step {step}, {} bytes of script left", script.0.len()));
        match step {
            0..=2 => {
                let data = pattern(script.length(1 << 14));
                let padding = script.length(2300);
                let record = self.peer.write.seal(DATA, &data, padding);
                self.wire.extend(record);
            }
            3 => self.update(UPDATE, script),
            4 => self.update(UPDATE_AND_ASK, script),
            5 => {
                let (kind, count, padding) = (script.byte(), script.byte(), script.length(100));
                self.anything(kind, script.bytes(count), padding);
            }
            6 => self.send(&pattern(script.length(50_000))),
            7 => {
                self.deliver();
                if !self.over() {
                    self.close();
                }
            }
            8 => self.deliver(),
            9 => {
                let mut record = self.peer.data(&pattern(script.length(1000)));
                let at = usize::from(u16::from_be_bytes([script.byte(), script.byte()])) % record.len();
                record[at] ^= script.byte().max(1);
                self.wire.extend(record);
                self.altered = true;
            }
            10 => self.anything(HANDSHAKE, &ticket(script.byte()), 0),
            11 => {
                let ticket = ticket(script.byte());
                let size = usize::from(script.byte()) + 1;
                ticket.chunks(size).for_each(|part| self.anything(HANDSHAKE, part, 0));
            }
            12 => {
                let alert = [1 + script.byte() % 2, script.byte()];
                self.anything(ALERT, &alert, script.length(100));
            }
            _ => {
                let count = script.byte();
                let garbage = script.bytes(count);
                let length = garbage.len() + usize::from(script.byte() / 64);
                self.wire.extend([DATA, 3, 3, 0, u8::try_from(length.min(255)).unwrap()]);
                self.wire.extend(garbage);
            }
        }
        if self.stride > 0 {
            self.deliver();
        }
    }

    /// A KeyUpdate, whole or in two parts, with data in between if the script wants that.
    fn update(&mut self, message: [u8; 5], script: &mut Script<'_>) {
        let how = script.byte();
        let (first, second) = message.split_at(usize::from(how % 5));
        if first.is_empty() {
            let record = self.peer.update(message);
            self.wire.extend(record);
            return;
        }
        self.anything(HANDSHAKE, first, 0);
        if how >= 250 {
            self.anything(DATA, b"between", 0);
        }
        let record = self.peer.write.seal(HANDSHAKE, second, 0);
        self.wire.extend(record);
        self.peer.write.next();
    }

    /// A record of any type and content, except where we and rustls read differently: the level of an alert, which may
    /// be ignored (RFC 8446, 6).
    fn anything(&mut self, kind: u8, content: &[u8], padding: usize) {
        let level_counts = kind == ALERT
            && (matches!(content, [level, _] if !(1..=2).contains(level)) || content == [2, 90]);
        if !level_counts {
            let record = self.peer.write.seal(kind, content, padding);
            self.wire.extend(record);
        }
    }

    fn send(&mut self, data: &[u8]) {
        for end in [&mut self.direct, &mut self.rustls] {
            let sent = end.tls.encrypt(data, &mut end.out);
            assert_eq!(sent.is_err(), self.closed || end.error.is_some());
        }
        self.compare();
    }

    fn close(&mut self) {
        for end in [&mut self.direct, &mut self.rustls] {
            end.tls.close_notify(&mut end.out);
        }
        self.closed = true;
        self.compare();
    }

    fn deliver(&mut self) {
        if self.closed {
            return;
        }
        let wire = std::mem::take(&mut self.wire);
        let size = if self.stride == 0 { wire.len() } else { self.stride };
        for piece in wire.chunks(size.max(1)) {
            self.direct.feed(piece);
            self.rustls.feed(piece);
            self.compare();
        }
    }

    fn compare(&self) {
        let (direct, rustls) = (&self.direct, &self.rustls);
        match (&direct.error, &rustls.error) {
            (None, None) => {
                assert!(direct.plain == rustls.plain, "plaintext");
                assert!(direct.out == rustls.out, "what is sent");
                assert_eq!(direct.tls.peer_closed(), rustls.tls.peer_closed());
                assert_eq!(direct.tail, rustls.tail);
            }
            // In one read, rustls may have gone on for a while after our refusal.
            (Some(error), Some(_)) if self.altered || may_be_stricter(error) => {
                assert!(rustls.plain.starts_with(&direct.plain));
            }
            (Some(_), Some(_)) => assert!(direct.plain == rustls.plain, "plaintext before an error"),
            (Some(error), None) => {
                assert!(self.altered || may_be_stricter(error), "only we refuse: {error}");
                assert!(rustls.plain.starts_with(&direct.plain));
            }
            // A header of another version, which we find forged once its record is complete.
            (
                None,
                Some(TlsError::Protocol(Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion))),
            ) if self.altered => {}
            (None, Some(error)) => panic!("only rustls refuses: {error}"),
        }
    }

    /// Everything that was sent can be read. An error sends at most one fatal alert.
    fn end(mut self) {
        trace(|| format!("direct {:?}, rustls {:?}", self.direct.error, self.rustls.error));
        let records = self.peer.read(&self.direct.out);
        let (alerts, others): (Vec<_>, Vec<_>) = records.into_iter().partition(|(kind, _)| *kind == ALERT);
        assert!(others.iter().all(|(kind, _)| matches!(*kind, DATA | HANDSHAKE)));
        let received = matches!(self.direct.error, Some(TlsError::Protocol(Error::AlertReceived(_))));
        match &alerts[..] {
            [] => assert!(!self.closed && (self.direct.error.is_none() || received)),
            [(_, close)] if close == &[1, 0] => assert!(self.closed),
            [(_, fatal)] => {
                assert_eq!(fatal[0], 2);
                assert!(self.direct.error.is_some() && !received && !self.closed);
            }
            alerts => panic!("{alerts:?}"),
        }
    }
}

/// Refusals that we make earlier, or that the RFC demands and rustls omits.
fn may_be_stricter(error: &TlsError) -> bool {
    matches!(
        error,
        TlsError::Protocol(
            // An empty record of another type than data; a message of a type that is not for us, before its end.
            Error::InappropriateMessage { .. }
                | Error::InappropriateHandshakeMessage { .. }
                | Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge)
                | Error::PeerMisbehaved(
                    PeerMisbehaved::IllegalMiddleboxChangeCipherSpec
                    // rustls restarts its count after an empty record too.
                    | PeerMisbehaved::TooManyKeyUpdateRequests
                )
                | Error::PeerSentOversizedRecord
        )
    )
}

/// A NewSessionTicket with a ticket of some length.
pub fn ticket(length: u8) -> Vec<u8> {
    let mut body = vec![0, 0, 14, 16, 1, 2, 3, 4, 2, 8, 8, 0, length];
    body.extend(pattern(usize::from(length)));
    body.extend([0, 0]);
    let mut message = vec![4, 0, 0, 0];
    message[2..].copy_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
    message.extend(body);
    message
}

/// Data without zeros at its end, where padding would be.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from(i * 7 % 251).unwrap() + 1).collect()
}
