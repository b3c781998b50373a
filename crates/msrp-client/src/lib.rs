//! An MSRP endpoint for the command-line tool, the tests and the benchmarks: `proto` over glommio and futures-rustls.
//!
//! An [`Endpoint`] is one connection and the URI of one session on it, in two halves that work at the same time:
//! [`Incoming`] yields heads, body pieces and ends as they arrive, [`Outgoing`] writes frames and streams messages of any
//! size ([`MessageStream`]); neither ever holds a whole message. [`authenticate`] fetches a relay's URI,
//! [`authenticate_through`] that of a relay behind it (RFC 4976, 5.1); [`send_message`] and [`Inbox`] carry files with
//! everything RFC 4975 asks around them: responses, success and failure reports, interrupted and re-assembled chunks.
//!
//! Invariants: one task owns a half; the two halves share the transport but never borrow it across an await; files are
//! read on other threads. Must not know the relay's crates: the client that tests a relay shares only the grammar with
//! it, and the check of certificates.

mod answer;
mod auth;
mod disposition;
mod endpoint;
mod error;
mod inbox;
mod incoming_file;
mod ledger;
mod locate;
mod message;
mod opening;
mod overdue;
mod part_file;
mod ranges;
mod sending;
mod source;
mod talk;
mod target;
mod tls;
mod transport;
mod websocket;

pub use auth::{AuthOptions, Credentials, Grant, authenticate, authenticate_through};
pub use disposition::{Disposition, Sha256Digest, hex, numbered_name, safe_name};
pub use endpoint::{Activity, Endpoint, Event, Frame, Incoming, Outgoing, Urgent};
pub use error::{ClientError, Stage};
pub use inbox::{Inbox, InboxEvent, InboxOptions};
pub use incoming_file::{Arrival, Rejection};
pub use ledger::Ledger;
pub use locate::{Located, LocatedRelay, NoAddress, Route, locate};
pub use message::{MessageSpec, MessageStream};
pub use msrp_tls::trust::{covered_names, distinguished_names, epoch_seconds, validity};
pub use opening::{Opening, open_session};
pub use overdue::{Due, Overdue, overdue};
pub use part_file::remove_all as remove_partial_files;
pub use ranges::{RangeSet, TooScattered};
pub use sending::{Delivery, SendOptions, send_message};
pub use source::Source;
pub use talk::Said;
pub use target::Target;
pub use tls::{
    ListenSecurity, Offer, Security, Suite, TlsVersion, Trust, server_identity, server_identity_offering,
};
pub use transport::{Listener, TlsFacts, Transport};

pub use engine::{EngineError, run_on_executor};

/// A fresh random token of `length` characters `A-Za-z0-9`, about 5.95 bits each: 12 make a transaction id or a
/// Message-ID (71 bits; RFC 4975, 7.1 asks for 64), 22 a session id (130 bits; 14.1 asks for 80).
///
/// # Panics
/// If the kernel has no randomness, which does not happen on Linux after boot.
pub fn random_token(length: usize) -> String {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut token = String::with_capacity(length);
    let mut bytes = [0_u8; 32];
    while token.len() < length {
        getrandom::fill(&mut bytes).expect("the kernel's random source is always there");
        // 248 is the largest multiple of 62 in a byte: the rest would favour the front of the alphabet.
        let fair =
            bytes.iter().filter(|byte| **byte < 248).filter_map(|byte| ALPHABET.get(usize::from(byte % 62)));
        token.extend(fair.take(length - token.len()).map(|byte| char::from(*byte)));
    }
    token
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]
mod tests {
    #[test]
    fn tokens_have_their_length_and_never_repeat() {
        let tokens: std::collections::HashSet<String> = (0..1000).map(|_| super::random_token(12)).collect();
        assert_eq!(tokens.len(), 1000);
        assert!(
            tokens
                .iter()
                .all(|token| token.len() == 12 && token.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        );
        assert_eq!(super::random_token(70).len(), 70);
    }
}
