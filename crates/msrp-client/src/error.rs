//! Everything that can end a client's work, in words for the user at the terminal.
//!
//! Owns [`ClientError`] and the [`Stage`] it happened at, which becomes the tool's exit status. Errors say what was tried
//! and with whom; they never hold a password, a nonce or a whole session id.

use std::io;
use std::path::PathBuf;

use msrp_proto::parser::ParseError;
use msrp_proto::status::Status;
use msrp_tls::trust::{Asker, TlsFault, io_words};
use untrusted::text;

/// How far the work had come: decides the exit status of the tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Name resolution, TCP or TLS failed, or the local files for them could not be read.
    Connecting,
    /// A relay did not accept the user, or did not answer.
    Authenticating,
    /// The connection was up, and the transfer failed.
    Transferring,
}

/// What ended the client's work.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The host name gave no address.
    #[error("cannot resolve {host}: {}", text::of_io(source))]
    Resolve {
        /// The name asked for.
        host: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// No address of the host accepted the connection.
    #[error("cannot connect to {address}: {}", text::of_io(source))]
    Connect {
        /// The last address tried.
        address: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("TLS with {peer}: {}", TlsFault::of_handshake(.source).explained(Asker::Msrp))]
    Handshake {
        /// The other side.
        peer: String,
        /// What rustls or the kernel said.
        #[source]
        source: io::Error,
    },
    /// It does not speak WebSocket.
    #[error("WebSocket with {relay}: {}", text::of_io(source))]
    Upgrade {
        /// The relay.
        relay: String,
        /// What it said, or the kernel.
        #[source]
        source: io::Error,
    },
    /// Certificates or keys for TLS cannot be used.
    #[error("{what}: {reason}")]
    TlsSetup {
        /// The file or setting.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The listening address cannot be used.
    #[error("cannot listen on {address}: {}", text::of_io(source))]
    Listen {
        /// The address asked for.
        address: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A relay refused the credentials or the request.
    #[error("{} refused AUTH{}: {code} {comment}{hint}", by.as_ref().unwrap_or(relay),
            by.as_ref().map_or_else(String::new, |_| format!(" to {relay}")), code = .status.code())]
    AuthRefused {
        /// The relay that was asked.
        relay: String,
        /// The relay that answered, if it is another one, on the way.
        by: Option<String>,
        /// The answer.
        status: Status,
        /// Its words, or the usual ones for the code.
        comment: String,
        /// The realm of its challenge, if it has one: foreign text.
        realm: Option<Box<str>>,
        /// What the user can do, with a separator in front; may be empty.
        hint: String,
    },
    /// A relay's answer to AUTH makes no sense.
    #[error("the answer of {relay} to AUTH cannot be used: {reason}")]
    AuthAnswer {
        /// The relay that was asked.
        relay: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// No answer to AUTH came.
    #[error("no answer to AUTH from {relay} for {seconds} s")]
    NoAuthAnswer {
        /// The relay that was asked.
        relay: String,
        /// How long was waited.
        seconds: u64,
    },
    /// Nothing happened for the permitted time.
    #[error("{what} for {seconds} s")]
    TimedOut {
        /// What did not happen, as the start of a sentence.
        what: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// The peer closed or lost the connection before the work was done.
    #[error("the connection ended {0}")]
    ConnectionLost(String),
    /// The peer speaks TLS on a connection that must be plain.
    #[error("the other side speaks TLS (leave out --plain; to listen, give --cert and --key)")]
    SpeaksTls,
    /// What the peer sent is not MSRP.
    #[error("the peer sent what is not MSRP: {0}")]
    Framing(#[from] ParseError),
    /// The other side has no session, or none for us.
    #[error("the session was refused: {code} {comment}", code = .status.code())]
    SessionRefused {
        /// The answer.
        status: Status,
        /// Its words, or the usual ones for the code.
        comment: String,
    },
    /// The next hop answered a chunk with an error.
    #[error("the chunk from byte {byte} was refused: {code} {comment}", code = .status.code())]
    Refused {
        /// The answer.
        status: Status,
        /// Its words, or the usual ones for the code.
        comment: String,
        /// Where the refused chunk began, counted from 1.
        byte: u64,
    },
    /// A failure REPORT came back.
    #[error("a report of failure came back: {code} {comment}", code = .status.code())]
    Reported {
        /// The status it carries.
        status: Status,
        /// Its words, or the usual ones for the code.
        comment: String,
    },
    /// A chunk was too large for a caller that wanted it whole.
    #[error("the chunk is larger than {bytes_max} bytes")]
    TooLarge {
        /// The caller's bound.
        bytes_max: usize,
    },
    /// A path given by the user is no path.
    #[error("{path:?} is not a path of MSRP URIs: {reason}")]
    BadPath {
        /// What was given.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A local file failed.
    #[error("{}: {}", path.display(), text::of_io(source))]
    File {
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The socket failed.
    #[error("the connection failed: {}", io_words(.0, Asker::Msrp))]
    Io(#[from] io::Error),
}

impl ClientError {
    /// Nothing moved on the connection for so long.
    pub fn stalled(limit: std::time::Duration) -> Self {
        Self::TimedOut { what: "nothing moved on the connection", seconds: limit.as_secs() }
    }

    /// The stage this error belongs to.
    pub fn stage(&self) -> Stage {
        match self {
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::Handshake { .. }
            | Self::Upgrade { .. }
            | Self::SpeaksTls
            | Self::TlsSetup { .. }
            | Self::Listen { .. }
            | Self::BadPath { .. } => Stage::Connecting,
            Self::AuthRefused { .. } | Self::AuthAnswer { .. } | Self::NoAuthAnswer { .. } => {
                Stage::Authenticating
            }
            _ => Stage::Transferring,
        }
    }
}
