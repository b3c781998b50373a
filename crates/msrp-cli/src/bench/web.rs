//! WebSocket on a [`Line`](super::line::Line): where it is spoken, and its frames (RFC 6455, RFC 7977).
//!
//! A frame of MSRP is one message, sent in as many fragments as it is given in. Invariant: each fragment is a whole frame of
//! WebSocket, so a pong fits between any two.

use std::io;

use msrp_client::ClientError;
use msrp_ws::upgrade::Asked;
use msrp_ws::{
    Decoded, Decoder, Opcode, Role, close_code, unmask_to_front, write_close, write_control,
    write_frame_header,
};

use crate::outcome::Failure;

/// Where WebSocket is spoken.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    /// Host and port, as in its URL.
    pub(crate) host: String,
    pub(crate) path: String,
}

impl Door {
    /// The request for the upgrade. A nonce that tells answers apart is of no use where each is awaited.
    pub(super) fn ask(&self) -> (Asked, Vec<u8>) {
        Asked::new(&self.host, &self.path, *b"msrp bench nonce")
    }
}

/// One connection behind the upgrade.
pub(super) struct Web {
    decoder: Decoder,
    found: Decoded,
    in_message: bool,
    /// What masks are made from: they hide nothing here, but are different each time.
    masks: u64,
    /// One frame, ready to be sent.
    frame: Vec<u8>,
}

/// What was found among the bytes of messages.
pub(super) struct Came {
    /// Is to be sent.
    pub(super) answer: Vec<u8>,
    /// Nothing follows.
    pub(super) is_over: bool,
}

impl Web {
    pub(super) fn new(seed: &[u8]) -> Self {
        let masks = seed.iter().fold(1, |all: u64, byte| all.rotate_left(7) ^ u64::from(*byte));
        Self {
            decoder: Decoder::new(Role::Client),
            found: Decoded::default(),
            in_message: false,
            masks: masks | 1,
            frame: Vec::new(),
        }
    }

    /// A part of a message, ready to be sent.
    pub(super) fn fragment(&mut self, part: &[u8], is_last: bool) -> &[u8] {
        self.masks ^= self.masks << 13;
        self.masks ^= self.masks >> 7;
        self.masks ^= self.masks << 17;
        let [.., a, b, c, d] = self.masks.to_be_bytes();
        let mask = Some([a, b, c, d]);
        let opcode = if self.in_message { Opcode::Continuation } else { Opcode::Binary };
        self.in_message = !is_last;
        self.frame.clear();
        write_frame_header(&mut self.frame, opcode, is_last, part.len(), mask);
        let start = self.frame.len();
        self.frame.extend_from_slice(part);
        // What unmasks also masks.
        unmask_to_front(&mut self.frame, (start, start), part.len(), mask, 0);
        &self.frame
    }

    /// Of what stands behind the first `rest` bytes, leaves the bytes of messages.
    pub(super) fn take(&mut self, plain: &mut Vec<u8>, rest: usize) -> Result<Came, Failure> {
        let kept = self.decoder.decode(plain.get_mut(rest..).unwrap_or_default(), &mut self.found);
        plain.truncate(rest + kept);
        if let Some(error) = self.found.error {
            return Err(ClientError::Io(io::Error::new(io::ErrorKind::InvalidData, error)).into());
        }
        let mut answer = Vec::new();
        if let Some(ping) = self.found.ping.take() {
            write_control(&mut answer, Opcode::Pong, ping.as_bytes(), Some([0; 4]));
        }
        Ok(Came { answer, is_over: self.found.close.is_some() && kept == 0 })
    }

    /// Says that nothing follows.
    pub(super) fn close() -> Vec<u8> {
        let mut frame = Vec::new();
        write_close(&mut frame, close_code::NORMAL, Some([0; 4]));
        frame
    }
}
