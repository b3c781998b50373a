//! What comes in by WebSocket (RFC 6455, RFC 7977): the request for the upgrade is judged, and then what comes is unmasked and
//! moved together where it lies. The parser sees the bytes of messages, and where they end.
//!
//! Invariants: no byte of a message is copied but where it is unmasked; a connection is not up before the 101 is on its
//! way. Must not know the relay.

use msrp_ws::upgrade::{Refusal, Upgrade, Wanted};
use msrp_ws::{Close, Decoded, Decoder, Role, WsError, close_code};

use super::shared::WebSocket;

/// What comes in, as the reader keeps it.
#[derive(Debug)]
pub(crate) struct Inward {
    state: State,
    found: Decoded,
    /// Frames that have begun in the present message.
    pub(crate) frames: usize,
}

#[derive(Debug)]
enum State {
    /// So much has come of the request.
    Opening(Vec<u8>),
    Open(Decoder),
}

/// What has come of a read.
#[derive(Debug)]
pub(crate) enum Came {
    /// More of the request must come.
    Unfinished,
    /// The connection is to be upgraded: this is to be sent. Bytes of messages may follow.
    Upgraded(Vec<u8>),
    /// It is not; this is to be sent.
    Refused(Refusal),
    /// Bytes of messages.
    Messages,
}

impl Inward {
    /// Before the upgrade.
    pub(crate) fn new() -> Self {
        Self { state: State::Opening(Vec::new()), found: Decoded::default(), frames: 0 }
    }

    /// Takes what was received, which stands behind the first `rest` bytes; what is left of `plain` are these and bytes of
    /// messages.
    pub(crate) fn take_in(
        &mut self,
        link: &WebSocket,
        wanted: &Wanted,
        plain: &mut Vec<u8>,
        rest: usize,
    ) -> Came {
        let came = match &mut self.state {
            State::Open(_) => Came::Messages,
            State::Opening(request) => {
                request.append(plain);
                match wanted.judge(request) {
                    Upgrade::Unfinished => return Came::Unfinished,
                    Upgrade::Refused(refusal) => return Came::Refused(refusal),
                    Upgrade::Accepted { response, consumed } => {
                        plain.extend_from_slice(request.get(consumed..).unwrap_or_default());
                        self.state = State::Open(Decoder::new(Role::Server));
                        link.open();
                        Came::Upgraded(response)
                    }
                }
            }
        };
        if let State::Open(decoder) = &mut self.state {
            let wire = plain.get_mut(rest..).unwrap_or_default();
            let has_come = !wire.is_empty();
            let kept = decoder.decode(wire, &mut self.found);
            plain.truncate(rest + kept);
            self.found.ends.iter_mut().for_each(|end| *end += rest);
            if has_come {
                link.received(self.found.ping.take());
            }
            if let Some(close) = self.found.close {
                link.close_with(close.code.unwrap_or(close_code::NORMAL));
            }
            if let Some(error) = self.found.error {
                link.close_with(error.close_code());
            }
        }
        came
    }

    /// Where messages end in what was received last.
    pub(crate) fn ends(&self) -> &[usize] {
        &self.found.ends
    }

    /// The Close frame that was received last.
    pub(crate) fn close(&self) -> Option<Close> {
        self.found.close
    }

    pub(crate) fn error(&self) -> Option<WsError> {
        self.found.error
    }

    /// The connection goes on elsewhere with what was received, from `at` on: messages end so much earlier in that.
    pub(crate) fn move_to(&mut self, at: usize) {
        self.found.ends.retain(|end| *end > at);
        self.found.ends.iter_mut().for_each(|end| *end -= at);
    }

    /// Bytes that wait for their rest.
    pub(crate) fn unfinished(&self) -> usize {
        match &self.state {
            State::Opening(request) => request.len(),
            State::Open(decoder) => decoder.unfinished(),
        }
    }
}
