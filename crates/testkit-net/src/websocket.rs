//! The client's side of WebSocket, written out by hand so that a slip in the library's codec shows (RFC 6455, RFC 7977).

use msrp_proto::parser::{FramePart, Parser, ParserLimits};

/// What asks for the upgrade.
pub fn upgrade_request(more: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: relay.example.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: msrp\r\n{more}\r\n"
    )
}

/// The answer to that which upgrades: RFC 6455, 1.3, has the key and what becomes of it.
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const MASK: [u8; 4] = [0x5a, 0x13, 0xfe, 0x01];

/// A frame as a client sends it. `first`: the bits of its first byte.
pub fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// A whole binary message.
pub const BINARY: u8 = 0x82;
/// A whole text message.
pub const TEXT: u8 = 0x81;
/// A ping, a pong, a close.
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;
pub const CLOSE: u8 = 0x88;

/// What a relay sends.
#[derive(Default)]
pub struct Incoming {
    raw: Vec<u8>,
    /// The length of each message received.
    pub messages: Vec<usize>,
    /// Control frames received: first byte and payload.
    pub controls: Vec<(u8, Vec<u8>)>,
}

impl Incoming {
    /// Takes bytes; appends those of whole messages to `plain`. Each message must hold exactly one MSRP frame.
    pub fn take(&mut self, bytes: &[u8], plain: &mut Vec<u8>) {
        self.raw.extend_from_slice(bytes);
        while let Some((first, payload)) = self.next() {
            if first & 0x08 != 0 {
                self.controls.push((first, payload));
                continue;
            }
            assert_eq!(first, BINARY, "whole binary messages");
            assert_eq!(frames_in(&payload), 1, "frames in {:?}", String::from_utf8_lossy(&payload));
            self.messages.push(payload.len());
            plain.extend_from_slice(&payload);
        }
    }

    fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let (first, second) = (*self.raw.first()?, *self.raw.get(1)?);
        assert_eq!(second & 0x80, 0, "a server does not mask");
        let (start, len) = match second {
            126 => (4, usize::from(u16::from_be_bytes(self.raw.get(2..4)?.try_into().unwrap()))),
            127 => (10, u64::from_be_bytes(self.raw.get(2..10)?.try_into().unwrap()) as usize),
            short => (2, usize::from(short)),
        };
        let payload = self.raw.get(start..start + len)?.to_vec();
        self.raw.drain(..start + len);
        Some((first, payload))
    }

    /// The code of the Close frame that has come.
    pub fn close_code(&self) -> Option<u16> {
        let (_, payload) = self.controls.iter().find(|(first, _)| *first == CLOSE)?;
        Some(u16::from_be_bytes(payload.get(..2)?.try_into().unwrap()))
    }
}

fn frames_in(mut bytes: &[u8]) -> usize {
    let mut parser = Parser::new(ParserLimits::default());
    let mut frames = 0;
    while let Some(step) = parser.step(bytes).unwrap() {
        bytes = &bytes[step.consumed..];
        frames += usize::from(matches!(step.piece, FramePart::End(_)));
    }
    assert!(bytes.is_empty() && !parser.in_frame(), "half a frame");
    frames
}
