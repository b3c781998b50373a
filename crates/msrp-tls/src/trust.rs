//! Certificates: which authority a peer's certificates lead to, at a bounded cost, and what is wrong with TLS, in
//! words.
//!
//! The relay and its client use it, in both roles. Owns the bound on the cost of a stranger's certificates (`path`),
//! the trusted certificates ([`Authorities`]), and the words for a person ([`TlsFault`]). Invariants: webpki judges one
//! path and searches for none; no message holds more than [`NAMES_SHOWN_MAX`] names of a certificate, nor a control
//! character. It must not know sockets, MSRP or the config.

mod authorities;
mod certificate;
mod path;
mod words;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
mod tests;

pub use authorities::Authorities;
pub(crate) use authorities::in_its_dates;
pub(crate) use certificate::Outline;
pub use certificate::{covered_names, distinguished_names, epoch_seconds, validity};
pub use words::{Asker, NAMES_SHOWN_MAX, TlsFault, io_words, shown_names};
