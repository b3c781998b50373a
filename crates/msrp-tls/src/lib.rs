//! TLS as bytes to bytes: one connection's records in, plaintext and records out (RFC 8446; RFC 5246 with AEAD).
//!
//! Owns the state of a connection's TLS. rustls shakes hands, through its unbuffered interface. After that rustls
//! continues with the records ([`RecordLayer::Rustls`]), or hands over the keys ([`RecordLayer::Direct`]) if TLS 1.3
//! with AES-GCM was agreed on; the caller cannot tell which.
//!
//! Invariants:
//! - what [`TlsConn::receive`] leaves over is the unaltered beginning of one record, at most [`RECORD_BYTES_MAX`] bytes
//!   less one. Fragments of a handshake message that spans records are kept in here, at most [`FRAGMENTS_BYTES_MAX`]
//!   bytes;
//! - an idle connection holds no record-sized buffer;
//! - after an error the connection is finished: the alert, if there is one to send, is in `out`;
//! - no plaintext is accepted before the handshake is complete.
//!
//! It must not know sockets, cores or MSRP. The caller judges the end of a stream without close_notify:
//! [`TlsConn::peer_closed`] tells the two ends apart.

#[cfg(any(test, feature = "by-hand"))]
pub mod by_hand;
mod direct;
pub mod records;
mod relays;
mod setup;
pub mod trust;
mod unbuffered;
mod verifier;

use std::sync::Arc;
use std::{fmt, mem};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::UnbufferedServerConnection;
use rustls::{AlertDescription, ClientConfig, CommonState, Error, ServerConfig};

use self::direct::Direct;
use self::unbuffered::{Role, Unbuffered};
use crate::trust::{Asker, TlsFault};

pub use relays::{NotARelay, RelayRoots};
pub use setup::{Identity, Roots, TlsSetup, TlsSetupError, Trust};

/// The longest record a peer may send, in bytes: header, plaintext, and the expansion that RFC 5246 allows.
pub const RECORD_BYTES_MAX: usize = 5 + PLAINTEXT_BYTES_MAX + 2048;

/// Bytes kept of an unfinished handshake message: the longest message that rustls accepts.
pub const FRAGMENTS_BYTES_MAX: usize = 64 * 1024;

/// Plaintext bytes in one record (RFC 8446, 5.1).
const PLAINTEXT_BYTES_MAX: usize = 16 * 1024;

/// What reads and writes the records of a TLS connection after the handshake, which is always rustls'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecordLayer {
    /// rustls.
    Rustls,
    /// The relay itself, if TLS 1.3 with AES-GCM was agreed on; otherwise rustls. Costs less CPU.
    #[default]
    Direct,
}

/// Why a TLS connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The peer broke the protocol, its certificate is refused, or it sent a fatal alert.
    #[error("{}", TlsFault::from(.0))]
    Protocol(#[from] Error),
    /// A handshake message in too many fragments.
    #[error("a handshake message of more than {FRAGMENTS_BYTES_MAX} bytes")]
    FragmentsTooLong,
    /// Plaintext was given before the handshake was complete. The connection is unharmed.
    #[error("the handshake is not complete")]
    Handshaking,
    /// Plaintext was given after close_notify or after an error.
    #[error("the connection is closed for sending")]
    Closed,
    /// TLS 1.2 keys have protected as many records as is safe; TLS 1.3 takes new keys by itself.
    #[error("the keys are used up")]
    KeysExhausted,
    /// rustls did what its documentation excludes.
    #[error("TLS state machine: {0}")]
    Machine(&'static str),
}

/// The owner of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// This side's.
    Ours,
    /// The peer's.
    Theirs,
}

impl TlsError {
    /// What went wrong, and what an operator can do about it.
    #[must_use]
    pub fn explained(&self) -> String {
        match self {
            Self::Protocol(error) => TlsFault::from(error).explained(Asker::Relay),
            other => other.to_string(),
        }
    }

    /// Whose certificate was refused, if that is what went wrong.
    #[must_use]
    pub fn whose_certificate(&self) -> Option<Whose> {
        match self {
            Self::Protocol(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => {
                Some(Whose::Theirs)
            }
            Self::Protocol(Error::AlertReceived(
                AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRequired
                | AlertDescription::UnknownCA
                | AlertDescription::NoCertificate
                | AlertDescription::AccessDenied,
            )) => Some(Whose::Ours),
            _ => None,
        }
    }
}

/// One connection's TLS, in either role. It may move to another thread.
pub struct TlsConn {
    layer: Layer,
    /// The roots for relays, until it is known whether the client is a relay.
    relays: Option<Arc<RelayRoots>>,
    client: Client,
    /// rustls hands over the keys once there are any.
    extract: bool,
    failed: bool,
    close_sent: bool,
}

/// What the client of a connection has shown, apart from credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Client {
    /// Nothing, or nothing yet.
    #[default]
    Unknown,
    /// A certificate that proves no relay.
    Other(Box<NotARelay>),
    /// It is a relay: the DNS names that it has proven, in lower case, at least one.
    Relay(Vec<String>),
}

enum Layer {
    Unbuffered(Unbuffered),
    Direct(Box<Direct>),
    /// The keys could not be handed over: the connection has failed.
    Lost,
}

impl TlsConn {
    /// The server's side of an accepted connection. If `config` lets secrets be extracted, the record layer is our own
    /// where possible.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        let extract = config.enable_secret_extraction;
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Self::new(Role::Server(Box::new(connection)), extract))
    }

    /// The same for a client that is a relay if it shows a certificate that leads to one of these roots.
    pub fn recognising(self, relays: Option<Arc<RelayRoots>>) -> Self {
        Self { relays, ..self }
    }

    /// The client's side of a dialled connection to `name`. The name is sent (SNI) unless it is an address, and compared
    /// with the certificate if the configuration verifies. Call [`receive`](Self::receive) with nothing for the first
    /// flight. The record layer is chosen as in [`server`](Self::server).
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, TlsError> {
        let extract = config.enable_secret_extraction;
        let connection = UnbufferedClientConnection::new(config, name)?;
        Ok(Self::new(Role::Client(Box::new(connection)), extract))
    }

    /// A placeholder for a connection that was taken away: it can do nothing.
    pub fn spent() -> Self {
        Self {
            layer: Layer::Lost,
            relays: None,
            client: Client::Unknown,
            extract: false,
            failed: true,
            close_sent: false,
        }
    }

    fn new(role: Role, extract: bool) -> Self {
        let layer = Layer::Unbuffered(Unbuffered::new(role));
        Self { layer, relays: None, client: Client::Unknown, extract, failed: false, close_sent: false }
    }

    /// Takes bytes from the peer and decrypts them. Appends plaintext to `plain`, and what must be sent (handshake,
    /// alerts) to `out`. Returns how many bytes it used. The rest is the beginning of a record: the caller must present
    /// it again, with the bytes that follow it. After close_notify, all bytes are used and ignored.
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
        let received = if self.extract {
            self.receive_until_extracted(incoming, plain, out)
        } else {
            self.receive_records(incoming, plain, out)
        };
        self.look_at_client();
        received.map_err(|refusal| {
            self.fail(refusal.alert, out);
            refusal.error
        })
    }

    /// What is known of the client after the handshake.
    pub fn peer(&self) -> &Client {
        &self.client
    }

    /// Whether plaintext can be sent and received.
    pub fn handshake_done(&self) -> bool {
        match &self.layer {
            Layer::Unbuffered(unbuffered) => !unbuffered.common().is_handshaking(),
            Layer::Direct(_) | Layer::Lost => true,
        }
    }

    /// Whether the peer has said with close_notify that nothing follows. An end of the stream without it is a truncation.
    pub fn peer_closed(&self) -> bool {
        match &self.layer {
            Layer::Unbuffered(unbuffered) => unbuffered.peer_closed(),
            Layer::Direct(direct) => direct.peer_closed(),
            Layer::Lost => false,
        }
    }

    /// Appends records that hold the whole of `plain` to `out`, each of at most 16 KiB of plaintext.
    ///
    /// Returns an error, without harm, before the handshake is complete.
    pub fn encrypt(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        if self.failed || self.close_sent {
            return Err(TlsError::Closed);
        }
        if !self.handshake_done() {
            return Err(TlsError::Handshaking);
        }
        let written = match &mut self.layer {
            Layer::Unbuffered(unbuffered) => unbuffered.encrypt(plain, out),
            Layer::Direct(direct) => direct.encrypt(plain, out),
            Layer::Lost => Err(TlsError::Closed),
        };
        if written.is_err() {
            self.fail(None, out);
        }
        written
    }

    /// Appends close_notify to `out`: nothing more will be sent. Does nothing the second time, after an error, or
    /// before there are keys to send with.
    pub fn close_notify(&mut self, out: &mut Vec<u8>) {
        if self.failed || self.close_sent || !self.handshake_done() {
            return;
        }
        let written = match &mut self.layer {
            Layer::Unbuffered(unbuffered) => unbuffered.close_notify(out),
            Layer::Direct(direct) => direct.close_notify(out),
            Layer::Lost => Err(TlsError::Closed),
        };
        self.close_sent = true;
        if written.is_err() {
            self.fail(None, out);
        }
    }

    /// What the handshake agreed on, for the log.
    pub fn describe(&self) -> Details {
        match &self.layer {
            Layer::Unbuffered(unbuffered) => Details::of(unbuffered.common()),
            Layer::Direct(direct) => direct.details(),
            Layer::Lost => Details::default(),
        }
    }

    /// The present record layer of this connection.
    pub fn record_layer(&self) -> RecordLayer {
        match &self.layer {
            Layer::Direct(_) => RecordLayer::Direct,
            Layer::Unbuffered(_) | Layer::Lost => RecordLayer::Rustls,
        }
    }

    fn receive_records(
        &mut self,
        incoming: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<usize, Refusal> {
        match &mut self.layer {
            Layer::Unbuffered(unbuffered) => Ok(unbuffered.receive(incoming, plain, out)?),
            Layer::Direct(direct) => direct.receive(incoming, plain),
            Layer::Lost => Err(TlsError::Closed.into()),
        }
    }

    /// Shows rustls one record at a time until there are traffic keys, so that it touches nothing that these protect.
    /// Bytes that a peer sends right after its Finished, even a KeyUpdate, are for the later holder of the keys.
    fn receive_until_extracted(
        &mut self,
        incoming: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<usize, Refusal> {
        let mut used = 0;
        loop {
            let rest = incoming.get_mut(used..).unwrap_or_default();
            let next = record_length(rest);
            let shown = if self.extract { next.unwrap_or(rest.len()) } else { rest.len() };
            used += self.receive_records(rest.get_mut(..shown).unwrap_or_default(), plain, out)?;
            let waited = self.extract;
            self.extract_keys()?;
            if next.is_none() || !waited {
                return Ok(used);
            }
        }
    }

    /// Judges the certificate that a client has shown, once the client has proven to hold its key.
    fn look_at_client(&mut self) {
        let Layer::Unbuffered(unbuffered) = &self.layer else {
            return;
        };
        if self.relays.is_none() || unbuffered.common().is_handshaking() {
            return;
        }
        let (Some(relays), Some(chain)) = (self.relays.take(), unbuffered.common().peer_certificates())
        else {
            return;
        };
        self.client = match relays.judge(chain, UnixTime::now()) {
            Ok(names) => Client::Relay(names),
            Err(why) => Client::Other(Box::new(why)),
        };
    }

    /// Takes the keys from rustls, if there are any yet and [`Direct`] can use them.
    fn extract_keys(&mut self) -> Result<(), TlsError> {
        let Layer::Unbuffered(unbuffered) = &self.layer else {
            return Ok(());
        };
        if !self.handshake_done() || !unbuffered.held().is_empty() {
            return Ok(());
        }
        self.extract = false;
        self.look_at_client();
        let Layer::Unbuffered(unbuffered) = &self.layer else {
            return Ok(());
        };
        if unbuffered.peer_closed() || !Direct::can_take_over(unbuffered.common()) {
            return Ok(());
        }
        if let Layer::Unbuffered(unbuffered) = mem::replace(&mut self.layer, Layer::Lost) {
            self.layer = Layer::Direct(Box::new(Direct::take_over(unbuffered)?));
        }
        Ok(())
    }

    /// Ends the connection; our own record layer must be told which alert to send.
    fn fail(&mut self, alert: Option<AlertDescription>, out: &mut Vec<u8>) {
        self.failed = true;
        match &mut self.layer {
            Layer::Unbuffered(unbuffered) => unbuffered.fail(out),
            Layer::Direct(direct) => direct.fail(alert.filter(|_| !self.close_sent), out),
            Layer::Lost => {}
        }
    }
}

impl fmt::Debug for TlsConn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConn")
            .field("details", &self.describe())
            .field("record_layer", &self.record_layer())
            .field("handshake_done", &self.handshake_done())
            .field("failed", &self.failed)
            .field("close_sent", &self.close_sent)
            .field("peer_closed", &self.peer_closed())
            .finish_non_exhaustive()
    }
}

/// Why the peer's bytes are refused, and the alert for it; rustls has its alert ready by itself.
struct Refusal {
    error: TlsError,
    alert: Option<AlertDescription>,
}

impl From<TlsError> for Refusal {
    fn from(error: TlsError) -> Self {
        Self { error, alert: None }
    }
}

/// The length of the first record, if it is complete.
fn record_length(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [_, _, _, high, low, payload @ ..] => {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            (payload.len() >= length).then_some(5 + length)
        }
        _ => None,
    }
}

/// What the handshake agreed on; unknown parts are `None`. Displays as `TLSv1_3 TLS13_AES_128_GCM_SHA256 X25519`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The protocol version.
    pub version: Option<&'static str>,
    /// The cipher suite.
    pub suite: Option<&'static str>,
    /// The key exchange group.
    pub group: Option<&'static str>,
}

impl Details {
    fn of(common: &CommonState) -> Self {
        Self {
            version: common.protocol_version().and_then(|v| v.as_str()),
            suite: common.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()),
            group: common.negotiated_key_exchange_group().and_then(|group| group.name().as_str()),
        }
    }
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
mod tests;
