//! MSRP on bytes: parsing, writing, comparing, authenticating (RFC 4975, RFC 4976).
//!
//! Everything here is a pure function of its arguments. This layer knows no socket, clock, source of randomness, log or
//! executor. It allocates nothing per chunk: the parser hands out ranges of the caller's buffer, and a head is a table
//! of offsets into it.
//!
//! * [`parser`] cuts a stream of bytes into heads, body ranges and ends of frames.
//! * [`head`] holds a start line and its headers, and writes a head again for the next hop.
//! * [`mod@write`] makes frames of our own.
//! * [`address`] holds the one form of addresses, for every layer.
//! * [`uri`] holds MSRP URIs, paths of them and their comparison.
//! * [`digest`] is digest authentication, the only maker of [`digest::Verified`].
//! * [`status`] names the status codes.
//! * [`srv`] is the order in which to try the hosts that the DNS names.
//!
//! No byte from a peer can make this layer panic: slices are never indexed, only asked for.

#![deny(clippy::indexing_slicing)]

/// The README's examples are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod address;
pub mod digest;
pub mod head;
pub mod parser;
pub mod srv;
pub mod status;
pub mod uri;
pub mod write;
