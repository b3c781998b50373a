//! WebSocket between the record layer and the relay, outward (RFC 6455, RFC 7977): each frame of a flush gets the header of a
//! message. Must not know the relay.

use msrp_ws::{Opcode, write_frame_header};

use msrp_relay_core::OutBatch;

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
