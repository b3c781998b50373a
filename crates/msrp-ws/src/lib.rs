//! WebSocket as bytes to bytes: the upgrade of a connection, and the frames (RFC 6455; RFC 7977, 4).
//!
//! Owns the state of one direction of a connection ([`Decoder`]), the two ends of the HTTP upgrade ([`upgrade`]), and how
//! a header is written ([`write_frame_header`]).
//!
//! Invariants:
//! - what comes in is unmasked where it lies, and moved together, in one pass; nothing is allocated for a byte of a
//!   message;
//! - between two calls a [`Decoder`] keeps no more than the beginning of one header, or of one control frame;
//! - after an error, or a Close frame, everything else is ignored;
//! - a text message is bytes like a binary one (RFC 7977, 4.2): its UTF-8 is not looked at.
//!
//! It must not know sockets, clocks, TLS, MSRP, or what a message is for.

mod decode;
mod frame;
mod mask;
pub mod upgrade;

pub use decode::{BARE_FRAMES_MAX, Close, Control, Decoded, Decoder, Role, WsError};
pub use frame::{
    CONTROL_BYTES_MAX, FRAME_HEADER_BYTES_MAX, Opcode, close_code, write_close, write_control,
    write_frame_header,
};
pub use mask::unmask_to_front;
