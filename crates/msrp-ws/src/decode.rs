//! What comes in: frames become the bytes of messages, moved together where they lie (RFC 6455, 5 and 7).

use super::frame::{CONTROL_BYTES_MAX, FRAME_HEADER_BYTES_MAX, Opcode, close_code};
use super::mask::unmask_to_front;

/// Frames without a byte of a message that one call takes: pings, pongs, empty fragments. A peer that is up to something
/// sends few; a flood of them, six bytes each, would cost much more than the bytes that it is counted by.
pub const BARE_FRAMES_MAX: usize = 256;

/// Whose side decodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Receives masked frames, and no others.
    Server,
    /// Receives frames without a mask, and no others.
    Client,
}

/// Why a connection cannot go on. It is to be closed with [`close_code`](WsError::close_code).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WsError {
    /// A bit that only an extension gives a meaning.
    #[error("a reserved bit is set, and no extension was agreed on")]
    ReservedBit,
    /// A frame of a kind that does not exist.
    #[error("reserved opcode {0}")]
    ReservedOpcode(u8),
    /// A client must mask.
    #[error("a frame of a client without a mask")]
    NotMasked,
    /// A server must not.
    #[error("a masked frame of a server")]
    Masked,
    /// The length could have been said in fewer bytes, or has its highest bit set.
    #[error("a length that is not minimal, or too large")]
    Length,
    /// A control frame in fragments.
    #[error("a control frame in fragments")]
    FragmentedControl,
    /// A control frame of more than 125 bytes.
    #[error("a control frame that is too long")]
    LongControl,
    /// A further fragment of nothing.
    #[error("a fragment of a message that has not begun")]
    NothingToContinue,
    /// A message within another.
    #[error("a message begins before the one before it has ended")]
    Interleaved,
    /// A Close frame of one byte, or with a code that must not be sent.
    #[error("a Close frame that cannot be read")]
    Close,
    /// A reason that is not UTF-8.
    #[error("the reason in a Close frame is not UTF-8")]
    CloseText,
    /// More frames with nothing in them than are taken.
    #[error("a flood of frames with nothing in them")]
    Flood,
}

impl WsError {
    /// What the peer is told.
    #[must_use]
    pub fn close_code(self) -> u16 {
        match self {
            Self::CloseText => close_code::NOT_UTF8,
            Self::Flood => close_code::POLICY,
            _ => close_code::PROTOCOL_ERROR,
        }
    }
}

/// The payload of a control frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Control {
    bytes: [u8; CONTROL_BYTES_MAX],
    len: usize,
}

impl Control {
    const EMPTY: Self = Self { bytes: [0; CONTROL_BYTES_MAX], len: 0 };

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Appends what fits.
    fn push(&mut self, bytes: &[u8]) {
        let to = self.bytes.get_mut(self.len..).unwrap_or_default();
        let taken = bytes.len().min(to.len());
        to[..taken].copy_from_slice(&bytes[..taken]);
        self.len += taken;
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Control({} bytes)", self.len)
    }
}

/// A Close frame of the peer's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Close {
    /// Its code, if it has one.
    pub code: Option<u16>,
}

/// What one call has found. Kept by the caller and used again.
#[derive(Debug, Default)]
pub struct Decoded {
    /// Where messages end, as offsets into the bytes of messages, in order. An empty message ends where the one before it
    /// does.
    pub ends: Vec<usize>,
    /// Of the pings, the last: one answer is enough for all of them (RFC 6455, 5.5.3).
    pub ping: Option<Control>,
    /// How many pongs there were.
    pub pongs: usize,
    /// How many frames there were in all.
    pub frames: usize,
    /// The peer sends no more.
    pub close: Option<Close>,
    /// The peer has broken the protocol. What was found before is right.
    pub error: Option<WsError>,
}

impl Decoded {
    fn clear(&mut self) {
        self.ends.clear();
        let ends = std::mem::take(&mut self.ends);
        *self = Self { ends, ..Self::default() };
    }
}

/// What is received on one connection: plain data, no buffer of messages.
#[derive(Clone, Debug)]
pub struct Decoder {
    role: Role,
    state: State,
    /// A message has begun, and its last fragment not ended.
    in_message: bool,
}

#[derive(Clone, Debug)]
enum State {
    /// Within a header, of which so much is there.
    Header { bytes: [u8; FRAME_HEADER_BYTES_MAX], len: usize },
    /// Within a frame of a message.
    Data { left: u64, mask: Option<[u8; 4]>, phase: usize, is_final: bool },
    /// Within a control frame.
    Control { opcode: Opcode, left: usize, mask: Option<[u8; 4]>, payload: Box<Control> },
    /// After a Close frame or an error.
    Over,
}

const NO_HEADER: State = State::Header { bytes: [0; FRAME_HEADER_BYTES_MAX], len: 0 };

/// What a header says.
struct Header {
    opcode: Opcode,
    is_final: bool,
    len: u64,
    mask: Option<[u8; 4]>,
}

impl Decoder {
    /// Behind the upgrade.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self { role, state: NO_HEADER, in_message: false }
    }

    /// How many bytes of a header or a control frame wait for the rest.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        match &self.state {
            State::Header { len, .. } => *len,
            State::Control { payload, .. } => FRAME_HEADER_BYTES_MAX + payload.len,
            State::Data { .. } | State::Over => 0,
        }
    }

    /// Takes all of `wire`. The bytes of messages are moved to its front; returns how many they are.
    pub fn decode(&mut self, wire: &mut [u8], found: &mut Decoded) -> usize {
        found.clear();
        let (mut at, mut kept, mut bare) = (0, 0, 0);
        while at < wire.len() && !matches!(self.state, State::Over) {
            let begun = match &mut self.state {
                State::Header { bytes, len } => {
                    let taken = take_header(bytes, len, &wire[at..]);
                    at += taken;
                    self.header().transpose()
                }
                State::Data { left, mask, phase, is_final } => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(wire.len() - at);
                    unmask_to_front(wire, (at, kept), here, *mask, *phase);
                    at += here;
                    kept += here;
                    *left -= here as u64;
                    *phase = (*phase + here) % 4;
                    if *left == 0 {
                        let is_final = *is_final;
                        self.end_of_data(is_final, kept, found);
                    }
                    continue;
                }
                State::Control { left, mask, payload, .. } => {
                    let here = (*left).min(wire.len() - at);
                    let phase = payload.len;
                    unmask_to_front(wire, (at, at), here, *mask, phase);
                    payload.push(&wire[at..at + here]);
                    at += here;
                    *left -= here;
                    if *left == 0 {
                        self.end_of_control(found);
                    }
                    continue;
                }
                State::Over => break,
            };
            match begun {
                None => break,
                Some(Err(error)) => self.fail(error, found),
                Some(Ok(header)) => {
                    found.frames += 1;
                    if header.opcode.is_control() || header.len == 0 {
                        bare += 1;
                        if bare > BARE_FRAMES_MAX {
                            self.fail(WsError::Flood, found);
                            break;
                        }
                    }
                    self.begin(&header, kept, found);
                }
            }
        }
        kept
    }

    /// The header, once all of it is there.
    fn header(&self) -> Result<Option<Header>, WsError> {
        let State::Header { bytes, len } = &self.state else { return Ok(None) };
        parse_header(bytes.get(..*len).unwrap_or_default(), self.role)
    }

    fn begin(&mut self, header: &Header, kept: usize, found: &mut Decoded) {
        let Header { opcode, is_final, len, mask } = *header;
        if opcode.is_control() {
            let left = usize::try_from(len).unwrap_or(usize::MAX);
            self.state = State::Control { opcode, left, mask, payload: Box::new(Control::EMPTY) };
            if left == 0 {
                self.end_of_control(found);
            }
            return;
        }
        match (opcode, self.in_message) {
            (Opcode::Continuation, false) => return self.fail(WsError::NothingToContinue, found),
            (Opcode::Text | Opcode::Binary, true) => return self.fail(WsError::Interleaved, found),
            _ => {}
        }
        self.in_message = true;
        self.state = State::Data { left: len, mask, phase: 0, is_final };
        if len == 0 {
            self.end_of_data(is_final, kept, found);
        }
    }

    fn end_of_data(&mut self, is_final: bool, kept: usize, found: &mut Decoded) {
        self.state = NO_HEADER;
        if is_final {
            self.in_message = false;
            found.ends.push(kept);
        }
    }

    fn end_of_control(&mut self, found: &mut Decoded) {
        let State::Control { opcode, payload, .. } = std::mem::replace(&mut self.state, NO_HEADER) else {
            return;
        };
        match opcode {
            Opcode::Ping => found.ping = Some(*payload),
            Opcode::Pong => found.pongs += 1,
            _ => match read_close(payload.as_bytes()) {
                Ok(close) => {
                    found.close = Some(close);
                    self.state = State::Over;
                }
                Err(error) => self.fail(error, found),
            },
        }
    }

    fn fail(&mut self, error: WsError, found: &mut Decoded) {
        self.state = State::Over;
        found.error = Some(error);
    }
}

/// Takes what a header still lacks, as far as it is there. Returns how many bytes that were.
fn take_header(header: &mut [u8; FRAME_HEADER_BYTES_MAX], len: &mut usize, wire: &[u8]) -> usize {
    let mut taken = 0;
    while *len < header_len(header, *len)
        && let Some(byte) = wire.get(taken)
    {
        header[*len] = *byte;
        *len += 1;
        taken += 1;
    }
    taken
}

/// How long a header is, as far as its first bytes tell.
fn header_len(header: &[u8; FRAME_HEADER_BYTES_MAX], len: usize) -> usize {
    if len < 2 {
        return 2;
    }
    let extended = match header[1] & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + extended + if header[1] & 0x80 != 0 { 4 } else { 0 }
}

/// What is wrong with a header is said as soon as the bytes are there that show it.
fn parse_header(bytes: &[u8], role: Role) -> Result<Option<Header>, WsError> {
    let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err(WsError::ReservedBit);
    }
    let opcode = Opcode::of(first & 0x0f).ok_or(WsError::ReservedOpcode(first & 0x0f))?;
    let is_final = first & 0x80 != 0;
    if opcode.is_control() && !is_final {
        return Err(WsError::FragmentedControl);
    }
    let Some((&second, rest)) = rest.split_first() else { return Ok(None) };
    let is_masked = second & 0x80 != 0;
    match role {
        Role::Server if !is_masked => return Err(WsError::NotMasked),
        Role::Client if is_masked => return Err(WsError::Masked),
        Role::Server | Role::Client => {}
    }
    let short = second & 0x7f;
    if opcode.is_control() && short > 125 {
        return Err(WsError::LongControl);
    }
    let (len, rest) = match short {
        126 => {
            let Some((bytes, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
            (u64::from(u16::from_be_bytes(*bytes)), rest)
        }
        127 => {
            let Some((bytes, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
            (u64::from_be_bytes(*bytes), rest)
        }
        short => (u64::from(short), rest),
    };
    let is_minimal = match short {
        126 => len > 125,
        127 => len > 0xffff && len >> 63 == 0,
        _ => true,
    };
    if !is_minimal {
        return Err(WsError::Length);
    }
    let mask = match (is_masked, rest.first_chunk::<4>()) {
        (false, _) => None,
        (true, Some(mask)) => Some(*mask),
        (true, None) => return Ok(None),
    };
    Ok(Some(Header { opcode, is_final, len, mask }))
}

fn read_close(payload: &[u8]) -> Result<Close, WsError> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(Close { code: None }) } else { Err(WsError::Close) };
    };
    let code = u16::from_be_bytes(*code);
    // 1004 to 1006 and 1015 are never sent; below 3000 the rest is for protocols to come (RFC 6455, 7.4).
    if !matches!(code, 1000..=1003 | 1007..=1013 | 3000..=4999) {
        return Err(WsError::Close);
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(Close { code: Some(code) }),
        Err(_) => Err(WsError::CloseText),
    }
}
