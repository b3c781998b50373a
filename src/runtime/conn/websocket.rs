//! WebSocket between the record layer and the parser (RFC 6455, RFC 7977).
//!
//! Inward, the request for the upgrade is judged, and then what comes is unmasked and moved together where it lies: the
//! parser sees the bytes of messages, and where they end. Outward, each frame of a flush gets the header of a message.
//! What both tasks of a connection need stands in [`WebSocket`].
//!
//! Invariants: no byte of a message is copied but where it is unmasked; a connection is not up before the 101 is on its
//! way. Must not know: the relay.

use msrp_ws::upgrade::{Refusal, Upgrade, Wanted};
use msrp_ws::{Close, Decoded, Decoder, Opcode, Role, WsError, close_code, write_frame_header};

use super::super::core::WebSocket;
use msrp_relay_core::OutBatch;

/// What comes in, as the reader keeps it.
#[derive(Debug)]
pub(super) struct Inward {
    state: State,
    found: Decoded,
    /// Frames that have begun in the present message.
    pub(super) frames: usize,
}

#[derive(Debug)]
enum State {
    /// So much has come of the request.
    Opening(Vec<u8>),
    Open(Decoder),
}

/// What has come of a read.
#[derive(Debug)]
pub(super) enum Came {
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
    pub(super) fn new(is_open: bool) -> Self {
        let state =
            if is_open { State::Open(Decoder::new(Role::Server)) } else { State::Opening(Vec::new()) };
        Self { state, found: Decoded::default(), frames: 0 }
    }

    /// Takes what was received, which stands behind the first `rest` bytes; what is left of `plain` are these and bytes of
    /// messages.
    pub(super) fn take_in(
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
                link.received(decoder.is_between_messages(), self.found.ping.take());
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
    pub(super) fn ends(&self) -> &[usize] {
        &self.found.ends
    }

    /// The Close frame that was received last.
    pub(super) fn close(&self) -> Option<Close> {
        self.found.close
    }

    pub(super) fn error(&self) -> Option<WsError> {
        self.found.error
    }

    /// Bytes that wait for their rest.
    pub(super) fn unfinished(&self) -> usize {
        match &self.state {
            State::Opening(request) => request.len(),
            State::Open(decoder) => decoder.unfinished(),
        }
    }
}

/// The frames of a flush, each behind the header of a message.
pub(super) struct Messages {
    headers: Vec<u8>,
    /// Where each header ends, and each message, as offsets into the headers and the flush.
    ends: Vec<(usize, usize)>,
}

impl Messages {
    pub(super) fn of(flush: &OutBatch) -> Self {
        let frames = flush.frame_ends();
        debug_assert_eq!(frames.last().copied().unwrap_or(0), flush.len(), "a flush holds whole frames");
        let (mut headers, mut ends) =
            (Vec::with_capacity(4 * frames.len()), Vec::with_capacity(frames.len()));
        let mut start = 0;
        for end in frames {
            write_frame_header(&mut headers, Opcode::Binary, true, end - start, None);
            ends.push((headers.len(), *end));
            start = *end;
        }
        Self { headers, ends }
    }

    /// Headers and parts of the flush, in the order in which they are to be written.
    pub(super) fn parts<'a>(&'a self, flush: &'a OutBatch) -> Vec<&'a [u8]> {
        let mut all = Vec::with_capacity(4 * self.ends.len());
        let mut messages = self.ends.iter().copied();
        let (mut at, mut header_from, mut message_end) = (0, 0, 0);
        for mut part in flush.parts() {
            while !part.is_empty() {
                if at == message_end
                    && let Some((header_end, end)) = messages.next()
                {
                    all.push(self.headers.get(header_from..header_end).unwrap_or_default());
                    (header_from, message_end) = (header_end, end);
                }
                // What stands behind the last frame, of which there is nothing, would go as it is.
                let here = message_end.checked_sub(at).filter(|left| *left > 0).unwrap_or(part.len());
                let (taken, left) = part.split_at(here.min(part.len()));
                all.push(taken);
                at += taken.len();
                part = left;
            }
        }
        all
    }
}
