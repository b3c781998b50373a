//! rustls' unbuffered connection, driven over the bytes of one read.
//!
//! Invariants:
//! - [`Unbuffered::receive`] leaves over the unaltered beginning of one record and nothing else: `fragments` holds whole
//!   records only;
//! - input is not shown to rustls again after an error.
//!
//! It must not know what its caller does with an error: [`TlsConn`](super::TlsConn) ends the connection.

use std::mem;

use rustls::CommonState;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus,
    WriteTraffic,
};

use super::{FRAGMENTS_BYTES_MAX, PLAINTEXT_BYTES_MAX, TlsError, record_length};

/// What a record adds to its plaintext: header 5, explicit nonce 8 (TLS 1.2), tag 16, content type 1 (TLS 1.3).
const RECORD_OVERHEAD_MAX: usize = 32;

/// Successive states that neither take nor give a byte. rustls passes through two or three; more would mean that its
/// state machine does not move.
const IDLE_STATES_MAX: u32 = 16;

/// A connection whose records rustls reads and writes.
pub(super) struct Unbuffered {
    role: Role,
    /// Whole records that hold the beginning of a handshake message, as rustls left them.
    fragments: Vec<u8>,
    peer_closed: bool,
}

// Boxed: more than a kilobyte each, and a connection may move to another core.
pub(super) enum Role {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

impl Unbuffered {
    pub(super) fn new(role: Role) -> Self {
        Self { role, fragments: Vec::new(), peer_closed: false }
    }

    pub(super) fn common(&self) -> &CommonState {
        match &self.role {
            Role::Server(connection) => connection,
            Role::Client(connection) => connection,
        }
    }

    pub(super) fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Bytes kept of an unfinished handshake message.
    pub(super) fn held(&self) -> &Vec<u8> {
        &self.fragments
    }

    /// Gives up the connection for its parts.
    pub(super) fn into_role(self) -> Role {
        self.role
    }

    /// Takes bytes from the peer; see [`TlsConn::receive`](super::TlsConn::receive).
    pub(super) fn receive(
        &mut self,
        incoming: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<usize, TlsError> {
        // Must come before rustls sees them: rustls overwrites the headers of fragments.
        let whole = whole_records(incoming);
        if self.fragments.is_empty() {
            let used = self.process(incoming, plain, out)?;
            self.keep_fragments(incoming.get(used..whole).unwrap_or_default().to_vec())?;
            return Ok(used.max(whole));
        }
        let mut records = mem::take(&mut self.fragments);
        let whole_in_all = records.len() + whole;
        records.extend_from_slice(incoming);
        let used = self.process(&mut records, plain, out)?;
        if self.peer_closed {
            return Ok(incoming.len());
        }
        records.truncate(whole_in_all);
        records.drain(..used);
        self.keep_fragments(records)?;
        Ok(whole)
    }

    /// Appends records that hold the whole of `plain`.
    pub(super) fn encrypt(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        let records = plain.len().div_ceil(PLAINTEXT_BYTES_MAX);
        out.reserve(plain.len() + records * RECORD_OVERHEAD_MAX);
        self.write(Traffic::Plaintext(plain), out)
    }

    /// Appends close_notify.
    pub(super) fn close_notify(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        self.write(Traffic::Close, out)
    }

    /// Ends the connection. rustls leaves the alert for the peer among the records to send.
    pub(super) fn fail(&mut self, out: &mut Vec<u8>) {
        self.fragments = Vec::new();
        // The error that ended the connection is the one to report.
        let _ = self.flush(out);
    }

    fn keep_fragments(&mut self, fragments: Vec<u8>) -> Result<(), TlsError> {
        if fragments.len() > FRAGMENTS_BYTES_MAX {
            return Err(TlsError::FragmentsTooLong);
        }
        self.fragments = fragments;
        Ok(())
    }

    /// Runs the state machine over `records` until it needs more. Returns how many bytes it has used.
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
        let mut fragments = mem::take(&mut self.fragments);
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
            // All complete records were taken when they were received.
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
}

/// What to write once application data may be written.
#[derive(Clone, Copy)]
enum Traffic<'a> {
    None,
    Plaintext(&'a [u8]),
    Close,
}

enum Step {
    /// There is more to do with the bytes at hand.
    Again,
    PeerClosed,
    /// More input is needed, or the traffic is written.
    Blocked,
}

/// Does what a state of rustls asks for. Returns how many bytes of the input it has used.
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
    // Only the refusal of a buffer that is too short tells the length.
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

/// Appends what `write` writes. A second try is needed if something else must be sent first (an answer to a key update,
/// say), which the guessed length has no room for.
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

/// How many bytes at the front are whole records.
fn whole_records(bytes: &[u8]) -> usize {
    let mut whole = 0;
    while let Some(length) = record_length(bytes.get(whole..).unwrap_or_default()) {
        whole += length;
    }
    whole
}
