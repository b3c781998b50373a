//! [`Decoder`] and [`Wanted`]: whatever a peer sends and however reads cut it, the same messages come out, and nothing
//! panics.
//!
//! The input is a byte that says whose side decodes and where reads end, then what the peer sends.

use msrp_ws::upgrade::{Upgrade, Wanted};
use msrp_ws::{Decoded, Decoder, Role};

/// What a stream comes to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    close: Option<Option<u16>>,
    error: Option<String>,
}

/// Decodes a stream whole, and in reads of another length.
pub fn websocket(bytes: &[u8]) {
    let Some((&choice, wire)) = bytes.split_first() else { return };
    let role = if choice & 1 == 0 { Role::Server } else { Role::Client };
    let whole = decode(role, wire, wire.len().max(1));
    let cut = decode(role, wire, usize::from(choice >> 1).max(1));
    // A flood is counted by the read.
    let flood =
        [&whole, &cut].iter().any(|one| one.error.as_ref().is_some_and(|error| error.contains("flood")));
    assert!(flood || whole == cut, "{whole:?} and {cut:?}");
    assert!(whole.bytes.len() <= wire.len(), "more than came");
    judge(wire);
}

fn decode(role: Role, wire: &[u8], read: usize) -> Outcome {
    let (mut decoder, mut found, mut outcome) = (Decoder::new(role), Decoded::default(), Outcome::default());
    for part in wire.chunks(read) {
        let mut part = part.to_vec();
        let kept = decoder.decode(&mut part, &mut found);
        assert!(kept <= part.len() && found.ends.iter().all(|end| *end <= kept));
        assert!(found.ends.is_sorted());
        outcome.ends.extend(found.ends.iter().map(|end| end + outcome.bytes.len()));
        outcome.bytes.extend_from_slice(&part[..kept]);
        if let Some(close) = found.close {
            outcome.close = Some(close.code);
        }
        if let Some(error) = found.error {
            outcome.error = Some(error.to_string());
        }
        assert!(decoder.unfinished() <= 14 + 125);
    }
    outcome
}

/// A request that is judged whole is judged alike when all of it has come, and asks for more before.
fn judge(wire: &[u8]) {
    if let Upgrade::Accepted { consumed, response } = Wanted::default().judge(wire) {
        assert!(consumed <= wire.len());
        assert_eq!(Wanted::default().judge(&wire[..consumed - 1]), Upgrade::Unfinished);
        let head = response.strip_suffix(b"\r\n\r\n").unwrap();
        assert!(!head.windows(4).any(|four| four == b"\r\n\r\n"), "an answer within the answer");
    }
}
