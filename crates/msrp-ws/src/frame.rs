//! The header of a frame (RFC 6455, 5.2), as it is written.

/// The longest header: two bytes, eight of the length, four of the mask.
pub const FRAME_HEADER_BYTES_MAX: usize = 14;
/// The longest payload of a control frame (RFC 6455, 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// What a frame is (RFC 6455, 5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opcode {
    /// A further fragment of a message.
    Continuation,
    /// A message, or its first fragment, that says it is text.
    Text,
    /// The same that says it is anything.
    Binary,
    /// The sender sends no more.
    Close,
    /// Asks for a pong.
    Ping,
    /// Answers a ping.
    Pong,
}

impl Opcode {
    pub(crate) fn of(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::Continuation),
            1 => Some(Self::Text),
            2 => Some(Self::Binary),
            8 => Some(Self::Close),
            9 => Some(Self::Ping),
            10 => Some(Self::Pong),
            _ => None,
        }
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    pub(crate) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// Why a connection is closed (RFC 6455, 7.4.1).
pub mod close_code {
    /// What it was opened for is done.
    pub const NORMAL: u16 = 1000;
    /// The side that says it is going away: it stops, or the page is left.
    pub const GOING_AWAY: u16 = 1001;
    /// The other side has broken the protocol.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// A text that must be UTF-8 is not.
    pub const NOT_UTF8: u16 = 1007;
    /// The other side has done what is not wanted here.
    pub const POLICY: u16 = 1008;
}

/// Appends the header of a frame with a payload of `len` bytes. With a mask, what follows must have been masked with it.
pub fn write_frame_header(
    out: &mut Vec<u8>,
    opcode: Opcode,
    is_final: bool,
    len: usize,
    mask: Option<[u8; 4]>,
) {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    out.push(if is_final { 0x80 } else { 0 } | opcode.bits());
    match len {
        0..=125 => out.push(masked | u8::try_from(len).unwrap_or_default()),
        126..=0xffff => {
            out.push(masked | 126);
            out.extend_from_slice(&u16::try_from(len).unwrap_or_default().to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend(mask.into_iter().flatten());
}

/// Appends a whole control frame. Of a payload that is too long its beginning is taken.
pub fn write_control(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) {
    debug_assert!(opcode.is_control(), "a message is no control frame");
    let payload = payload.get(..CONTROL_BYTES_MAX).unwrap_or(payload);
    write_frame_header(out, opcode, true, payload.len(), mask);
    let key = mask.unwrap_or_default();
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// Appends a Close frame with this code.
pub fn write_close(out: &mut Vec<u8>, code: u16, mask: Option<[u8; 4]>) {
    write_control(out, Opcode::Close, &code.to_be_bytes(), mask);
}
