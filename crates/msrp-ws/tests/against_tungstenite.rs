//! Our codec beside another one that is well kept: what one writes the other reads, and both refuse the same.
#![allow(clippy::unwrap_used, reason = "tests state what must hold")]

use std::io::{self, Cursor, Read, Write};

use msrp_ws::{Decoded, Decoder, Opcode, Role, WsError, write_control, write_frame_header};
use proptest::prelude::*;
use tungstenite::protocol::{Role as TheirRole, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};

/// What a stream of frames comes to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    messages: Vec<Vec<u8>>,
    closed: bool,
    failed: bool,
}

/// A stream that was received; what is written to it is kept.
#[derive(Debug)]
struct Wire {
    received: Cursor<Vec<u8>>,
    written: Vec<u8>,
}

impl Wire {
    fn new(received: &[u8]) -> Self {
        Self { received: Cursor::new(received.to_vec()), written: Vec::new() }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.received.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            read => Ok(read),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a stream by ours, in reads of these sizes. Tells why it failed, if it did.
fn ours(role: Role, wire: &[u8], cuts: &[usize]) -> (Outcome, Option<WsError>) {
    let (mut decoder, mut found, mut outcome) = (Decoder::new(role), Decoded::default(), Outcome::default());
    let mut open = Vec::new();
    let mut rest = wire;
    let mut cuts = cuts.iter().copied().chain(std::iter::repeat(usize::MAX));
    while !rest.is_empty() {
        let (read, behind) = rest.split_at(cuts.next().unwrap_or(usize::MAX).clamp(1, rest.len()));
        rest = behind;
        let mut read = read.to_vec();
        let kept = decoder.decode(&mut read, &mut found);
        let mut at = 0;
        for end in &found.ends {
            open.extend_from_slice(&read[at..*end]);
            outcome.messages.push(std::mem::take(&mut open));
            at = *end;
        }
        open.extend_from_slice(&read[at..kept]);
        outcome.closed |= found.close.is_some();
        outcome.failed |= found.error.is_some();
        if outcome.closed || outcome.failed {
            break;
        }
    }
    (outcome, found.error)
}

/// Reads a stream by tungstenite. `None`: it judges what ours does not, the UTF-8 of a text.
fn theirs(role: Role, wire: &[u8]) -> Option<Outcome> {
    let role = match role {
        Role::Server => TheirRole::Server,
        Role::Client => TheirRole::Client,
    };
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let mut socket = WebSocket::from_raw_socket(Wire::new(wire), role, Some(config));
    let mut outcome = Outcome::default();
    loop {
        match socket.read() {
            Ok(Message::Binary(bytes)) => outcome.messages.push(bytes.to_vec()),
            Ok(Message::Text(text)) => outcome.messages.push(text.as_bytes().to_vec()),
            // Its words for a code that must not be sent, which it passes on as another.
            Ok(Message::Close(Some(close))) if close.reason.as_str() == "Protocol violation" => {
                outcome.failed = true;
                return Some(outcome);
            }
            Ok(Message::Close(_)) => {
                outcome.closed = true;
                return Some(outcome);
            }
            Ok(_) => {}
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Some(outcome),
            Err(Error::Utf8(_)) => return None,
            Err(_) => {
                outcome.failed = true;
                return Some(outcome);
            }
        }
    }
}

/// A frame, right or not.
#[derive(Clone, Debug)]
struct Frame {
    first: u8,
    masked: bool,
    payload: Vec<u8>,
    mask: [u8; 4],
}

impl Frame {
    fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let mask = self.masked.then_some(self.mask);
        write_frame_header(out, Opcode::Binary, true, self.payload.len(), mask);
        out[start] = self.first;
        let key = mask.unwrap_or_default();
        out.extend(self.payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    }
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => proptest::collection::vec(0x20_u8..0x7f, 0..140),
        1 => proptest::collection::vec(0x20_u8..0x7f, 65_400..65_700),
        1 => Just(vec![0x03, 0xe8]),
        1 => any::<(u8, u8)>().prop_map(|(a, b)| vec![a, b]),
    ]
}

/// Frames of which most continue as they should: bits of the first byte are chosen freely now and then.
fn frames(role: Role) -> impl Strategy<Value = Vec<Frame>> {
    let first = prop_oneof![
        4 => Just(0x82_u8), 3 => Just(0x81), 2 => Just(0x02), 2 => Just(0x01), 3 => Just(0x00), 4 => Just(0x80),
        2 => Just(0x89), 2 => Just(0x8a), 1 => Just(0x88), 1 => any::<u8>(),
    ];
    let right = role == Role::Server;
    let masked = prop_oneof![30 => Just(right), 1 => Just(!right)];
    let frame = (first, masked, payload(), any::<[u8; 4]>())
        .prop_map(|(first, masked, payload, mask)| Frame { first, masked, payload, mask });
    proptest::collection::vec(frame, 1..12)
}

fn compare(role: Role, wire: &[u8], cuts: &[usize]) -> Result<(), TestCaseError> {
    let (ours, error) = ours(role, wire, cuts);
    let Some(theirs) = theirs(role, wire) else { return Ok(()) };
    match error {
        // It takes lengths that are not minimal.
        Some(WsError::Length | WsError::Flood) => {
            let same = theirs.messages.get(..ours.messages.len());
            prop_assert_eq!(Some(&ours.messages[..]), same);
        }
        // It awaits the whole of a frame before it looks at what is wrong with it.
        Some(_) if !theirs.failed && !theirs.closed => prop_assert_eq!(ours.messages, theirs.messages),
        _ => prop_assert_eq!(ours, theirs),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn both_read_the_same_from_a_client(
        frames in frames(Role::Server),
        cuts in proptest::collection::vec(1_usize..400, 0..60),
    ) {
        let mut wire = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut wire));
        compare(Role::Server, &wire, &cuts)?;
    }

    #[test]
    fn both_read_the_same_from_a_server(
        frames in frames(Role::Client),
        cuts in proptest::collection::vec(1_usize..400, 0..60),
    ) {
        let mut wire = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut wire));
        compare(Role::Client, &wire, &cuts)?;
    }

    #[test]
    fn both_read_the_same_from_bytes_that_were_changed(
        frames in frames(Role::Server),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cuts in proptest::collection::vec(1_usize..400, 0..60),
    ) {
        let mut wire = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut wire));
        let at = at.index(wire.len());
        wire[at] = byte;
        compare(Role::Server, &wire, &cuts)?;
    }

    // What tungstenite writes, ours reads: both roles, with its own masks.
    #[test]
    fn what_they_write_we_read(messages in proptest::collection::vec(payload(), 1..8), to_server in any::<bool>()) {
        let (their_role, our_role) =
            if to_server { (TheirRole::Client, Role::Server) } else { (TheirRole::Server, Role::Client) };
        let mut socket = WebSocket::from_raw_socket(Wire::new(&[]), their_role, None);
        for message in &messages {
            socket.send(Message::Binary(message.clone().into())).unwrap();
            socket.send(Message::Ping(b"life".to_vec().into())).unwrap();
        }
        socket.close(None).unwrap();
        let wire = socket.get_ref().written.clone();
        let (outcome, _) = ours(our_role, &wire, &[]);
        prop_assert_eq!(outcome, Outcome { messages, closed: true, failed: false });
    }

    // ... and what ours writes, tungstenite reads.
    #[test]
    fn what_we_write_they_read(messages in proptest::collection::vec(payload(), 1..8), to_server in any::<bool>()) {
        let mask = to_server.then_some([1, 2, 3, 250]);
        let mut wire = Vec::new();
        for message in &messages {
            write_frame_header(&mut wire, Opcode::Binary, true, message.len(), mask);
            let key = mask.unwrap_or_default();
            wire.extend(message.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
            write_control(&mut wire, Opcode::Ping, b"life", mask);
        }
        let role = if to_server { Role::Server } else { Role::Client };
        let outcome = theirs(role, &wire).unwrap();
        prop_assert_eq!(outcome, Outcome { messages, closed: false, failed: false });
    }
}

fn error_of(role: Role, wire: &[u8]) -> Option<WsError> {
    let mut found = Decoded::default();
    Decoder::new(role).decode(&mut wire.to_vec(), &mut found);
    found.error
}

// RFC 6455, 5.1, 5.2, 5.4, 5.5, 7.4: each of these is refused, and at the first byte that shows it.
#[test]
fn what_breaks_the_protocol_is_refused_by_name() {
    let server = Role::Server;
    for (wire, error) in [
        (&[0xc2][..], WsError::ReservedBit),
        (&[0x83], WsError::ReservedOpcode(3)),
        (&[0x09], WsError::FragmentedControl),
        (&[0x82, 0x01], WsError::NotMasked),
        (&[0x89, 0xfe], WsError::LongControl),
        (&[0x82, 0xfe, 0, 125, 0, 0, 0, 0], WsError::Length),
        (&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0], WsError::Length),
        (&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], WsError::Length),
        (&[0x80, 0x80, 0, 0, 0, 0], WsError::NothingToContinue),
        (&[0x02, 0x80, 0, 0, 0, 0, 0x82, 0x80, 0, 0, 0, 0], WsError::Interleaved),
        (&[0x88, 0x81, 0, 0, 0, 0, 3], WsError::Close),
        (&[0x88, 0x82, 0, 0, 0, 0, 3, 0xed], WsError::Close),
        (&[0x88, 0x83, 0, 0, 0, 0, 3, 0xe8, 0xff], WsError::CloseText),
    ] {
        assert_eq!(error_of(server, wire), Some(error), "{wire:02x?}");
    }
    assert_eq!(error_of(Role::Client, &[0x82, 0x81]), Some(WsError::Masked));
    let ping = [0x89, 0x80, 1, 2, 3, 4];
    assert_eq!(error_of(server, &ping.repeat(msrp_ws::BARE_FRAMES_MAX)), None);
    assert_eq!(error_of(server, &ping.repeat(msrp_ws::BARE_FRAMES_MAX + 1)), Some(WsError::Flood));
    let empty = [&[0x02, 0x80, 1, 2, 3, 4][..], &[0x00, 0x80, 1, 2, 3, 4].repeat(300)].concat();
    assert_eq!(error_of(server, &empty), Some(WsError::Flood));
}
