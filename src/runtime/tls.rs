//! TLS as octets to octets: one connection's records in, plaintext and records out (RFC 8446; RFC 5246 with AEAD).
//!
//! Owns the state of a connection's TLS. rustls is driven through its unbuffered interface: records are decrypted where
//! they lie, in the caller's buffer, however many one read brought.
//!
//! Invariants:
//! - what [`TlsConn::receive`] leaves over is the unaltered beginning of one record, at most [`RECORD_BYTES_MAX`] octets
//!   less one. Fragments of a handshake message that spans records, which rustls needs to see again as it left them,
//!   are kept in here, at most [`FRAGMENTS_BYTES_MAX`] octets;
//! - an idle connection holds no record-sized buffer;
//! - after an error the connection is finished: the alert, if there is one to send, is in `out`;
//! - no plaintext is accepted before the handshake is complete.
//!
//! It must not know sockets, cores or MSRP. The end of a stream without close_notify is the caller's to judge:
//! [`TlsConn::peer_closed`] tells the two apart.

mod setup;
mod verifier;

use std::fmt;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus,
    WriteTraffic,
};
use rustls::{ClientConfig, CommonState, ServerConfig};

pub use setup::{Identity, Roots, TlsSetup, TlsSetupError};

/// The longest record a peer may send, in octets: header, plaintext, and the expansion that RFC 5246 allows.
pub const RECORD_BYTES_MAX: usize = 5 + PLAINTEXT_BYTES_MAX + 2048;

/// What is kept of an unfinished handshake message, in octets: the longest message rustls accepts.
pub const FRAGMENTS_BYTES_MAX: usize = 64 * 1024;

/// Plaintext octets in one record (RFC 8446, 5.1).
const PLAINTEXT_BYTES_MAX: usize = 16 * 1024;

/// What a record adds to its plaintext: header 5, explicit nonce 8 (TLS 1.2), tag 16, content type 1 (TLS 1.3).
const RECORD_OVERHEAD_MAX: usize = 32;

/// States in a row that neither take nor give an octet, in states. rustls passes through two or three; more would mean
/// that the state machine turns on the spot.
const IDLE_STATES_MAX: u32 = 16;

/// Why a TLS connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The peer broke the protocol, its certificate is refused, or it sent a fatal alert.
    #[error("{0}")]
    Protocol(#[from] rustls::Error),
    /// A handshake message in too many fragments.
    #[error("a handshake message of more than {FRAGMENTS_BYTES_MAX} octets")]
    FragmentsTooLong,
    /// Plaintext was given before the handshake was complete. The connection is unharmed.
    #[error("the handshake is not complete")]
    Handshaking,
    /// Plaintext was given after close_notify or after an error.
    #[error("the connection is closed for sending")]
    Closed,
    /// TLS 1.2 keys have been used for as many records as is safe; TLS 1.3 takes new keys by itself.
    #[error("the keys are used up")]
    KeysExhausted,
    /// rustls did what its documentation excludes.
    #[error("TLS state machine: {0}")]
    Machine(&'static str),
}

/// One connection's TLS, in either role. Plain data: it may move to another thread.
pub struct TlsConn {
    role: Role,
    /// Records that hold the beginning of a handshake message, as rustls left them, and whatever followed.
    fragments: Vec<u8>,
    failed: bool,
    close_sent: bool,
    peer_closed: bool,
}

// Boxed: more than a kilobyte each, and a connection may move to another core.
enum Role {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

impl TlsConn {
    /// The server's side of an accepted connection.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Self::new(Role::Server(Box::new(connection))))
    }

    /// The client's side of a dialled connection to `name`. The name is sent (SNI) unless it is an address, and compared
    /// with the certificate if the configuration verifies. Call [`receive`](Self::receive) with nothing for the first
    /// flight.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, TlsError> {
        let connection = UnbufferedClientConnection::new(config, name)?;
        Ok(Self::new(Role::Client(Box::new(connection))))
    }

    fn new(role: Role) -> Self {
        Self { role, fragments: Vec::new(), failed: false, close_sent: false, peer_closed: false }
    }

    /// Takes octets from the peer, decrypting in place; appends plaintext to `plain` and what must be sent (handshake,
    /// alerts) to `out`. Returns how many octets are used up. The rest is the beginning of a record: it must be
    /// presented again, with what follows it. After close_notify everything is used up and ignored.
    ///
    /// An error ends the connection. What was appended to `plain` before it is genuine; `out` may hold an alert that
    /// should still be sent.
    pub fn receive(
        &mut self,
        incoming: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<usize, TlsError> {
        if self.failed {
            return Err(TlsError::Closed);
        }
        let received = if self.fragments.is_empty() {
            self.receive_in_place(incoming, plain, out)
        } else {
            self.receive_behind_fragments(incoming, plain, out)
        };
        if received.is_err() {
            self.fail(out);
        }
        received
    }

    /// Whether plaintext can be sent and received.
    pub fn handshake_done(&self) -> bool {
        !self.common().is_handshaking()
    }

    /// Whether the peer has said with close_notify that nothing follows. An end of the stream without it is a truncation.
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Appends records that hold the whole of `plain` to `out`, each of at most 16 KiB of plaintext.
    ///
    /// Refused, without harm, before the handshake is complete.
    pub fn encrypt(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        if self.failed || self.close_sent {
            return Err(TlsError::Closed);
        }
        if !self.handshake_done() {
            return Err(TlsError::Handshaking);
        }
        let records = plain.len().div_ceil(PLAINTEXT_BYTES_MAX);
        out.reserve(plain.len() + records * RECORD_OVERHEAD_MAX);
        let written = self.write(Traffic::Plaintext(plain), out);
        if written.is_err() {
            self.fail(out);
        }
        written
    }

    /// Appends close_notify to `out`: nothing more will be sent. Does nothing the second time, after an error, or before
    /// there are keys to send with.
    pub fn close_notify(&mut self, out: &mut Vec<u8>) {
        if self.failed || self.close_sent || !self.handshake_done() {
            return;
        }
        self.close_sent = true;
        if self.write(Traffic::Close, out).is_err() {
            self.fail(out);
        }
    }

    /// What was agreed with the peer, for the log.
    pub fn describe(&self) -> Details {
        let common = self.common();
        Details {
            version: common.protocol_version().and_then(|v| v.as_str()),
            suite: common.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()),
            group: common.negotiated_key_exchange_group().and_then(|group| group.name().as_str()),
        }
    }

    fn common(&self) -> &CommonState {
        match &self.role {
            Role::Server(connection) => connection,
            Role::Client(connection) => connection,
        }
    }

    fn receive_in_place(
        &mut self,
        incoming: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<usize, TlsError> {
        let used = self.process(incoming, plain, out)?;
        let rest = incoming.get(used..).unwrap_or_default();
        if starts_with_whole_record(rest) {
            self.keep_fragments(rest.to_vec())?;
            return Ok(incoming.len());
        }
        Ok(used)
    }

    fn receive_behind_fragments(
        &mut self,
        incoming: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<usize, TlsError> {
        let mut records = std::mem::take(&mut self.fragments);
        records.extend_from_slice(incoming);
        let used = self.process(&mut records, plain, out)?;
        let rest = records.get(used..).unwrap_or_default();
        // A rest longer than what came in now begins in what the caller has already been told is used up.
        if starts_with_whole_record(rest) || rest.len() > incoming.len() {
            records.drain(..used);
            self.keep_fragments(records)?;
            return Ok(incoming.len());
        }
        Ok(incoming.len() - rest.len())
    }

    fn keep_fragments(&mut self, fragments: Vec<u8>) -> Result<(), TlsError> {
        if fragments.len() > FRAGMENTS_BYTES_MAX {
            return Err(TlsError::FragmentsTooLong);
        }
        self.fragments = fragments;
        Ok(())
    }

    /// Runs the state machine over `records` until it wants more of them. Returns how many octets it is done with.
    fn process(
        &mut self,
        records: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<usize, TlsError> {
        let mut used = 0;
        let mut idle = 0;
        while idle < IDLE_STATES_MAX {
            if self.peer_closed {
                // RFC 8446, 6.1: what follows close_notify is ignored. Something may still have to be sent, though.
                self.flush(out)?;
                return Ok(records.len());
            }
            let before = plain.len() + out.len();
            let unused = records.get_mut(used..).unwrap_or_default();
            let (discard, step) = self.step(unused, Traffic::None, plain, out);
            used += discard;
            match step? {
                Step::Again => {}
                Step::PeerClosed => self.peer_closed = true,
                Step::Blocked => return Ok(used),
            }
            let moved = discard > 0 || plain.len() + out.len() > before;
            idle = if moved { 0 } else { idle + 1 };
        }
        Err(TlsError::Machine("no progress"))
    }

    /// Runs the state machine until `traffic` is written to `out`.
    fn write(&mut self, traffic: Traffic<'_>, out: &mut Vec<u8>) -> Result<(), TlsError> {
        // rustls indexes the records it was shown last time with the positions of the fragments it found in them: an
        // empty slice instead would be out of bounds.
        let mut fragments = std::mem::take(&mut self.fragments);
        let mut plain = Vec::new();
        let mut idle = 0;
        let written = loop {
            let before = out.len();
            let (discard, step) = self.step(&mut fragments, traffic, &mut plain, out);
            match step {
                Ok(Step::Blocked) => break Ok(()),
                Ok(Step::Again) => {}
                Ok(Step::PeerClosed) => self.peer_closed = true,
                Err(error) => break Err(error),
            }
            // All that is complete was taken when it was received.
            if discard > 0 || !plain.is_empty() {
                break Err(TlsError::Machine("input while writing"));
            }
            idle = if out.len() > before { 0 } else { idle + 1 };
            if idle >= IDLE_STATES_MAX {
                break Err(TlsError::Machine("no progress"));
            }
        };
        self.fragments = fragments;
        written
    }

    fn step(
        &mut self,
        records: &mut [u8],
        traffic: Traffic<'_>,
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> (usize, Result<Step, TlsError>) {
        match &mut self.role {
            Role::Server(connection) => {
                take_state(connection.process_tls_records(records), traffic, plain, out)
            }
            Role::Client(connection) => {
                take_state(connection.process_tls_records(records), traffic, plain, out)
            }
        }
    }

    /// Moves the records rustls has ready for sending to `out`, without showing it any input: it must not look at the
    /// input again after an error.
    fn flush(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        while self.common().wants_write() {
            let before = out.len();
            self.step(&mut [], Traffic::None, &mut Vec::new(), out).1?;
            if out.len() == before {
                return Err(TlsError::Machine("nothing to send"));
            }
        }
        Ok(())
    }

    /// Ends the connection. rustls leaves the alert that tells the peer why among the records to be sent.
    fn fail(&mut self, out: &mut Vec<u8>) {
        self.failed = true;
        self.fragments = Vec::new();
        // The error that ended the connection is the one to report.
        let _ = self.flush(out);
    }
}

impl fmt::Debug for TlsConn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConn")
            .field("details", &self.describe())
            .field("handshake_done", &self.handshake_done())
            .field("failed", &self.failed)
            .field("close_sent", &self.close_sent)
            .field("peer_closed", &self.peer_closed)
            .finish_non_exhaustive()
    }
}

/// What was agreed in the handshake; what is not yet known is `None`. Displays as `TLSv1_3 TLS13_AES_128_GCM_SHA256 X25519`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Details {
    /// The protocol version.
    pub version: Option<&'static str>,
    /// The cipher suite.
    pub suite: Option<&'static str>,
    /// The key exchange group.
    pub group: Option<&'static str>,
}

impl fmt::Display for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = [self.version, self.suite, self.group];
        for (position, part) in known.into_iter().enumerate() {
            let space = if position == 0 { "" } else { " " };
            write!(f, "{space}{}", part.unwrap_or("-"))?;
        }
        Ok(())
    }
}

/// What to do where application data may be written.
#[derive(Clone, Copy)]
enum Traffic<'a> {
    None,
    Plaintext(&'a [u8]),
    Close,
}

enum Step {
    /// There is more to do with what is at hand.
    Again,
    PeerClosed,
    /// More input is needed, or the traffic is written.
    Blocked,
}

/// Does what a state of rustls asks for. Returns how many octets of the input it is done with.
fn take_state<Side>(
    status: UnbufferedStatus<'_, '_, Side>,
    traffic: Traffic<'_>,
    plain: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> (usize, Result<Step, TlsError>) {
    let mut discard = status.discard;
    let state = match status.state {
        Ok(state) => state,
        Err(error) => return (discard, Err(error.into())),
    };
    let step = match state {
        ConnectionState::ReadTraffic(mut records) => loop {
            match records.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    plain.extend_from_slice(record.payload);
                }
                Some(Err(error)) => break Err(error.into()),
                None => break Ok(Step::Again),
            }
        },
        ConnectionState::EncodeTlsData(mut record) => encode(&mut record, out),
        ConnectionState::TransmitTlsData(records) => {
            records.done();
            Ok(Step::Again)
        }
        ConnectionState::PeerClosed => Ok(Step::PeerClosed),
        ConnectionState::WriteTraffic(mut writer) => match traffic {
            Traffic::None => Ok(Step::Blocked),
            Traffic::Plaintext(plaintext) => seal_all(&mut writer, plaintext, out),
            Traffic::Close => seal(out, RECORD_OVERHEAD_MAX, |to| writer.queue_close_notify(to)),
        },
        ConnectionState::BlockedHandshake | ConnectionState::Closed => match traffic {
            Traffic::None => Ok(Step::Blocked),
            Traffic::Plaintext(_) | Traffic::Close => Err(TlsError::Closed),
        },
        ConnectionState::ReadEarlyData(_) => Err(TlsError::Machine("early data")),
        _ => Err(TlsError::Machine("unknown state")),
    };
    (discard, step)
}

fn encode<Side>(record: &mut EncodeTlsData<'_, Side>, out: &mut Vec<u8>) -> Result<Step, TlsError> {
    let start = out.len();
    // The length is only told in the refusal of a buffer too short.
    let required = match record.encode(&mut []) {
        Err(EncodeError::InsufficientSize(size)) => size.required_size,
        Ok(_) => return Ok(Step::Again),
        Err(EncodeError::AlreadyEncoded) => return Err(TlsError::Machine("encoded twice")),
    };
    out.resize(start + required, 0);
    match record.encode(out.get_mut(start..).unwrap_or_default()) {
        Ok(written) => {
            out.truncate(start + written);
            Ok(Step::Again)
        }
        Err(_) => {
            out.truncate(start);
            Err(TlsError::Machine("length of a record"))
        }
    }
}

// Record by record, so that the part of `out` which is filled with zeros first is still in the nearest cache when the
// record is written over it.
fn seal_all<Side>(
    writer: &mut WriteTraffic<'_, Side>,
    plain: &[u8],
    out: &mut Vec<u8>,
) -> Result<Step, TlsError> {
    for plaintext in plain.chunks(PLAINTEXT_BYTES_MAX) {
        seal(out, plaintext.len() + RECORD_OVERHEAD_MAX, |to| writer.encrypt(plaintext, to))?;
    }
    Ok(Step::Blocked)
}

/// Appends what `write` writes. A second try is needed where something waits to be sent first (an answer to a key
/// update, say), which the guessed length leaves no room for.
fn seal(
    out: &mut Vec<u8>,
    guess: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<Step, TlsError> {
    let start = out.len();
    let mut room = guess;
    for _ in 0..2 {
        out.resize(start + room, 0);
        match write(out.get_mut(start..).unwrap_or_default()) {
            Ok(written) => {
                out.truncate(start + written);
                return Ok(Step::Blocked);
            }
            Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => {
                room = required_size;
            }
            Err(EncryptError::EncryptExhausted) => {
                out.truncate(start);
                return Err(TlsError::KeysExhausted);
            }
        }
    }
    out.truncate(start);
    Err(TlsError::Machine("length of a record"))
}

/// Whether a whole record is in front: rustls leaves one there only if it holds the beginning of a handshake message.
/// The header of the first record is never written over.
fn starts_with_whole_record(records: &[u8]) -> bool {
    match records {
        [_, _, _, high, low, payload @ ..] => payload.len() >= usize::from(u16::from_be_bytes([*high, *low])),
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
mod tests;
