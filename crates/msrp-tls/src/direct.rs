//! The record layer on keys that rustls has agreed on (RFC 8446, sections 4.6, 5 and 6): TLS 1.3 with AES-GCM.
//!
//! Why: rustls copies what it decrypts, and allocates and copies what it encrypts. Here a record is decrypted from the
//! receive buffer to the parser's, and encrypted from the queue to the send buffer.
//!
//! Owns keys, sequence numbers, and what the peer has said since the handshake. Asks rustls' [`KernelConnection`] for
//! the keys after a KeyUpdate, and gives it the tickets. Invariants:
//! - a key encrypts at most `records_per_key` records, and no sequence number twice;
//! - a KeyUpdate that asks for one in return is answered before the next data; one answer serves all that came until
//!   then;
//! - a bound on what a peer can make us do for nothing: empty records, warnings, KeyUpdates without data;
//! - the beginning of a handshake message is kept, at most [`FRAGMENTS_BYTES_MAX`] bytes of it, and nothing else;
//! - keys are wiped when they are dropped, and nothing in here can be printed.
//!
//! It must not know how the handshake went, nor when the connection ends: its caller does.

mod half;

use std::mem;

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{
    AlertDescription, CommonState, ContentType, Error, HandshakeType, InvalidMessage, PeerMisbehaved,
    ProtocolVersion,
};

use self::half::{HEADER_BYTES, Half, OpenError, SEALED_BYTES_MAX};
use super::unbuffered::{Role, Unbuffered};
use super::{Details, FRAGMENTS_BYTES_MAX, PLAINTEXT_BYTES_MAX, Refusal, TlsError};

/// Records encrypted with one key: a quarter of what RFC 8446, 5.5, leaves safe for records of full size (2^24.5), and
/// at least 64 GiB of bulk.
const RECORDS_PER_KEY_MAX: u64 = 1 << 22;

/// Successive records without content.
const EMPTY_RECORDS_MAX: u8 = 32;

/// Successive KeyUpdates without any data between them: each costs us a derivation and a key schedule.
const KEY_UPDATES_MAX: u8 = 32;

/// Alerts without effect (`user_canceled`), over the life of a connection.
const WARNINGS_MAX: u8 = 4;

const MESSAGE_HEADER_BYTES: usize = 4;

/// `KeyUpdateRequest.update_not_requested`.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// A connection whose records are read and written here.
pub(super) struct Direct {
    details: Details,
    schedule: Schedule,
    receiving: Half,
    sending: Half,
    records_per_key: u64,
    /// The beginning of a handshake message.
    message: Vec<u8>,
    /// The peer has asked for new keys of ours.
    update_owed: bool,
    peer_closed: bool,
    empty_records: u8,
    key_updates: u8,
    warnings: u8,
}

/// The rest of rustls' connection. Boxed for its size, which is needed only once in the life of a connection.
enum Schedule {
    Server(Box<KernelConnection<ServerConnectionData>>),
    Client(Box<KernelConnection<ClientConnectionData>>),
}

/// A record as it came.
struct Record<'a> {
    header: [u8; HEADER_BYTES],
    sealed: &'a [u8],
}

impl Direct {
    /// Whether this layer knows the agreed version and cipher.
    pub(super) fn can_take_over(agreed: &CommonState) -> bool {
        let known = |suite: rustls::SupportedCipherSuite| half::knows(suite.suite());
        agreed.protocol_version() == Some(ProtocolVersion::TLSv1_3)
            && agreed.negotiated_cipher_suite().is_some_and(known)
    }

    /// Takes over a connection after its handshake, when it has nothing left to send.
    pub(super) fn take_over(connection: Unbuffered) -> Result<Self, TlsError> {
        let details = Details::of(connection.common());
        let (secrets, schedule) = match connection.into_role() {
            Role::Server(connection) => {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                (secrets, Schedule::Server(Box::new(kernel)))
            }
            Role::Client(connection) => {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                (secrets, Schedule::Client(Box::new(kernel)))
            }
        };
        Ok(Self {
            details,
            schedule,
            receiving: Half::new(secrets.rx)?,
            sending: Half::new(secrets.tx)?,
            records_per_key: RECORDS_PER_KEY_MAX,
            message: Vec::new(),
            update_owed: false,
            peer_closed: false,
            empty_records: 0,
            key_updates: 0,
            warnings: 0,
        })
    }

    pub(super) fn details(&self) -> Details {
        self.details
    }

    pub(super) fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> &Vec<u8> {
        &self.message
    }

    /// Takes bytes from the peer; see [`TlsConn::receive`](super::TlsConn::receive). Does not change `incoming`.
    pub(super) fn receive(&mut self, incoming: &[u8], plain: &mut Vec<u8>) -> Result<usize, Refusal> {
        let mut used = 0;
        while !self.peer_closed {
            let Some(record) = next_record(incoming.get(used..).unwrap_or_default())? else {
                return Ok(used);
            };
            used += HEADER_BYTES + record.sealed.len();
            self.take_record(&record, plain)?;
        }
        Ok(incoming.len())
    }

    /// Appends records that hold the whole of `plain`.
    pub(super) fn encrypt(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        let records = plain.len().div_ceil(PLAINTEXT_BYTES_MAX);
        out.reserve(plain.len() + records * half::OVERHEAD_BYTES);
        for content in plain.chunks(PLAINTEXT_BYTES_MAX) {
            self.renew_if_due(out)?;
            self.sending.seal(ContentType::ApplicationData, content, out)?;
        }
        Ok(())
    }

    /// Appends close_notify.
    pub(super) fn close_notify(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        const WARNING: u8 = 1;
        self.renew_if_due(out)?;
        let alert = [WARNING, AlertDescription::CloseNotify.into()];
        self.sending.seal(ContentType::Alert, &alert, out)
    }

    /// Tells the peer why the connection ends, if there is an alert to say so.
    pub(super) fn fail(&mut self, alert: Option<AlertDescription>, out: &mut Vec<u8>) {
        const FATAL: u8 = 2;
        self.message = Vec::new();
        if let Some(alert) = alert {
            // The error that ended the connection is the one to report.
            let _ = self.sending.seal(ContentType::Alert, &[FATAL, alert.into()], out);
        }
    }

    // -- receiving -----------------------------------------------------------------------------

    fn take_record(&mut self, record: &Record<'_>, plain: &mut Vec<u8>) -> Result<(), Refusal> {
        let begin = plain.len();
        let kind = self.receiving.open(record.header, record.sealed, plain).map_err(refusal_of)?;
        let empty = plain.len() == begin;
        if kind != ContentType::Handshake && !self.message.is_empty() {
            plain.truncate(begin);
            return Err(unexpected(PeerMisbehaved::MessageInterleavedWithHandshakeMessage));
        }
        if empty {
            self.take_empty(kind)
        } else {
            self.empty_records = 0;
            match kind {
                ContentType::ApplicationData => {
                    self.key_updates = 0;
                    Ok(())
                }
                ContentType::Handshake => self.take_handshake(&plain.split_off(begin)),
                ContentType::Alert => self.take_alert(&plain.split_off(begin)),
                ContentType::ChangeCipherSpec => {
                    plain.truncate(begin);
                    Err(unexpected(PeerMisbehaved::IllegalMiddleboxChangeCipherSpec))
                }
                kind => {
                    plain.truncate(begin);
                    Err(unexpected(wrong_kind(kind)))
                }
            }
        }
    }

    /// An empty record of application data is cover traffic; any other one is forbidden (RFC 8446, 5.1 and 5.4).
    fn take_empty(&mut self, kind: ContentType) -> Result<(), Refusal> {
        if kind != ContentType::ApplicationData {
            return Err(unexpected(wrong_kind(kind)));
        }
        if self.empty_records == EMPTY_RECORDS_MAX {
            return Err(unexpected(PeerMisbehaved::TooManyEmptyFragments));
        }
        self.empty_records += 1;
        Ok(())
    }

    fn take_alert(&mut self, alert: &[u8]) -> Result<(), Refusal> {
        // RFC 8446, 6: the description decides; the level has no meaning.
        let &[_, description] = alert else {
            return Err(refusal(AlertDescription::DecodeError, InvalidMessage::TrailingData("alert")));
        };
        match AlertDescription::from(description) {
            AlertDescription::CloseNotify => {
                self.peer_closed = true;
                Ok(())
            }
            AlertDescription::UserCanceled if self.warnings < WARNINGS_MAX => {
                self.warnings += 1;
                Ok(())
            }
            AlertDescription::UserCanceled => Err(unexpected(PeerMisbehaved::TooManyWarningAlertsReceived)),
            // The peer has given up: it gets nothing more.
            description => Err(TlsError::Protocol(Error::AlertReceived(description)).into()),
        }
    }

    /// Takes a part of the stream of handshake messages: several, one, or part of one.
    fn take_handshake(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let mut messages = mem::take(&mut self.message);
        messages.extend_from_slice(bytes);
        let mut rest = &messages[..];
        while let Some(length) = self.message_length(rest)? {
            let Some((message, behind)) = rest.split_at_checked(length) else { break };
            let Some((&[kind, ..], body)) = message.split_first_chunk::<MESSAGE_HEADER_BYTES>() else {
                break;
            };
            match HandshakeType::from(kind) {
                HandshakeType::KeyUpdate if behind.is_empty() => self.take_key_update(body)?,
                // The old keys would have protected what follows.
                HandshakeType::KeyUpdate => {
                    return Err(unexpected(PeerMisbehaved::KeyEpochWithPendingFragment));
                }
                _ => self.take_ticket(body)?,
            }
            rest = behind;
        }
        let used = messages.len() - rest.len();
        if used < messages.len() {
            // Moves nothing while a message grows, which may be byte by byte.
            messages.drain(..used);
            self.message = messages;
        }
        Ok(())
    }

    /// The length of the first message with its header, if the header is complete. Refuses an unwanted or overlong
    /// message as soon as it is seen.
    fn message_length(&self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        let Some(kind) = bytes.first() else {
            return Ok(None);
        };
        let length_max = match (HandshakeType::from(*kind), &self.schedule) {
            (HandshakeType::KeyUpdate, _) => 1,
            (HandshakeType::NewSessionTicket, Schedule::Client(_)) => FRAGMENTS_BYTES_MAX,
            (kind, _) => return Err(unexpected(wrong_message(kind))),
        };
        let Some(&[_, high, middle, low]) = bytes.first_chunk() else {
            return Ok(None);
        };
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if length > length_max {
            return Err(refusal(AlertDescription::DecodeError, InvalidMessage::HandshakePayloadTooLarge));
        }
        if length == 0 {
            return Err(refusal(
                AlertDescription::DecodeError,
                InvalidMessage::MissingData("handshake message"),
            ));
        }
        Ok(Some(MESSAGE_HEADER_BYTES + length))
    }

    fn take_key_update(&mut self, message: &[u8]) -> Result<(), Refusal> {
        let asked = match message {
            [0] => false,
            [1] => true,
            _ => return Err(refusal(AlertDescription::IllegalParameter, InvalidMessage::InvalidKeyUpdate)),
        };
        if self.key_updates == KEY_UPDATES_MAX {
            return Err(unexpected(PeerMisbehaved::TooManyKeyUpdateRequests));
        }
        self.key_updates += 1;
        let secrets = match &mut self.schedule {
            Schedule::Server(kernel) => kernel.update_rx_secret(),
            Schedule::Client(kernel) => kernel.update_rx_secret(),
        };
        self.receiving = Half::new(secrets.map_err(TlsError::from)?)?;
        self.update_owed |= asked;
        Ok(())
    }

    fn take_ticket(&mut self, message: &[u8]) -> Result<(), Refusal> {
        let Schedule::Client(kernel) = &mut self.schedule else {
            return Err(unexpected(wrong_message(HandshakeType::NewSessionTicket)));
        };
        kernel.handle_new_session_ticket(message).map_err(|error| {
            let alert = match error {
                Error::InvalidMessage(_) => AlertDescription::DecodeError,
                _ => AlertDescription::InternalError,
            };
            refusal(alert, error)
        })
    }

    // -- sending -------------------------------------------------------------------------------

    /// Takes new keys for sending, if the peer has asked for them or the present ones are nearly used up. The last
    /// record of the old key says so.
    fn renew_if_due(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        if !self.update_owed && self.sending.records() < self.records_per_key - 1 {
            return Ok(());
        }
        self.sending.seal(ContentType::Handshake, &KEY_UPDATE, out)?;
        let secrets = match &mut self.schedule {
            Schedule::Server(kernel) => kernel.update_tx_secret(),
            Schedule::Client(kernel) => kernel.update_tx_secret(),
        };
        self.sending = Half::new(secrets?)?;
        self.update_owed = false;
        Ok(())
    }
}

/// The first record, if it is complete. Refuses an invalid header without waiting for the rest.
fn next_record(bytes: &[u8]) -> Result<Option<Record<'_>>, Refusal> {
    match bytes.first().map(|kind| ContentType::from(*kind)) {
        None | Some(ContentType::ApplicationData) => {}
        Some(ContentType::ChangeCipherSpec) => {
            return Err(unexpected(PeerMisbehaved::IllegalMiddleboxChangeCipherSpec));
        }
        Some(kind) => return Err(unexpected(wrong_kind(kind))),
    }
    let Some((&header, rest)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    let [_, _, _, high, low] = header;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > SEALED_BYTES_MAX {
        return Err(overflow());
    }
    Ok(rest.get(..length).map(|sealed| Record { header, sealed }))
}

fn refusal_of(error: OpenError) -> Refusal {
    match error {
        OpenError::Forged => refusal(AlertDescription::BadRecordMac, Error::DecryptError),
        OpenError::TooLong => overflow(),
        OpenError::OnlyPadding => unexpected(PeerMisbehaved::IllegalTlsInnerPlaintext),
    }
}

fn overflow() -> Refusal {
    refusal(AlertDescription::RecordOverflow, Error::PeerSentOversizedRecord)
}

fn unexpected(error: impl Into<Error>) -> Refusal {
    refusal(AlertDescription::UnexpectedMessage, error)
}

fn refusal(alert: AlertDescription, error: impl Into<Error>) -> Refusal {
    Refusal { error: TlsError::Protocol(error.into()), alert: Some(alert) }
}

fn wrong_kind(got_type: ContentType) -> Error {
    let expect_types = vec![ContentType::ApplicationData, ContentType::Handshake, ContentType::Alert];
    Error::InappropriateMessage { expect_types, got_type }
}

fn wrong_message(got_type: HandshakeType) -> Error {
    let expect_types = vec![HandshakeType::NewSessionTicket, HandshakeType::KeyUpdate];
    Error::InappropriateHandshakeMessage { expect_types, got_type }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
mod tests;
