//! The request being written: one chunk, or one piece after another.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};

use msrp_proto::head::{ByteRange, FailureReport, Method, Rewrite};
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::write::write_end_line;

use super::batch::OutBatch;
use super::end_line::EndLineWatch;
use super::write::{INTERRUPTIBLE_FROM, UNBOUNDED, WriteContext};
use crate::ids::{Entropy, StreamId, Tid};
use crate::orphans::Failure;
use crate::request::{MessageId, Notice, SessionSide, Transit};
use crate::transactions::Transactions;

/// A request whose writing has begun and not ended.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) stream: StreamId,
    pub(super) side: SessionSide,
    pub(super) transit: Transit,
    pub(super) report_to: Arc<[u8]>,
    pub(super) total: Option<u64>,
    /// Number of the next byte to write.
    pub(super) next: u64,
    /// Number of the first byte of the piece that is on the wire, or of the next piece.
    pub(super) piece_start: u64,
    pub(super) tid: Tid,
    pub(super) interruptible: bool,
    /// The most body bytes of the piece on the wire.
    pub(super) piece_max: u64,
    /// The bytes of the piece on the wire, watched for its own end-line.
    pub(super) wire: EndLineWatch,
    /// Its head is written, its end-line is not.
    pub(super) on_wire: bool,
    pub(super) has_body: bool,
    /// Held back while the request streams, so that a cut leaves a byte for the last piece: see
    /// [`queue`](super::queue).
    pub(super) held: Option<u8>,
    /// It was interrupted: some of its pieces are written and await their answers.
    pub(super) was_cut: bool,
    /// The peer has answered the piece on the wire already.
    pub(super) answered: bool,
    pub(super) progress: Progress,
}

#[derive(Debug)]
pub(super) enum Progress {
    Going,
    /// It has failed: the bytes that still come are dropped and counted.
    Refused(Box<Failure>),
    /// It has failed and its end has come; at most the `#` of its last piece is still to be written.
    Over,
}

/// Whether an incomplete chunk may go out as interruptible. Not while it may still turn out to be one that must not be
/// interrupted.
pub(super) fn may_stream(transit: &Transit, at_hand: usize) -> bool {
    let announced = transit.head.byte_range().and_then(|range| {
        let bytes = range.end.or(range.total)?.checked_sub(range.start)?;
        Some(bytes.saturating_add(1))
    });
    let small = announced.is_some_and(|bytes| bytes <= INTERRUPTIBLE_FROM);
    at_hand as u64 > INTERRUPTIBLE_FROM || (at_hand > 1 && !small)
}

/// The failure to report of a request that could not even be queued.
pub(crate) fn unwritten_failure(stream: StreamId, side: SessionSide, transit: Transit) -> Option<Failure> {
    let mut report_to = Arc::default();
    share_report_to(&mut report_to, &transit);
    Current::unwritten(stream, side, transit, report_to).into_failure()
}

impl Current {
    pub(super) fn unwritten(
        stream: StreamId,
        side: SessionSide,
        transit: Transit,
        report_to: Arc<[u8]>,
    ) -> Self {
        let range = transit.head.byte_range();
        let start = range.map_or(1, |r| r.start);
        Self {
            stream,
            side,
            report_to,
            total: range.and_then(|r| r.total),
            next: start,
            piece_start: start,
            tid: Tid::NONE,
            interruptible: false,
            piece_max: UNBOUNDED,
            wire: EndLineWatch::new(Tid::NONE),
            has_body: transit.head.has_body(),
            held: None,
            was_cut: false,
            answered: false,
            progress: Progress::Going,
            on_wire: false,
            transit,
        }
    }

    /// Continues after a cut, under a new transaction id.
    pub(super) fn resume(&mut self, piece: NextChunk, out: &mut OutBatch, entropy: &mut Entropy) {
        self.tid = Tid::mint(entropy);
        self.wire = EndLineWatch::new(self.tid);
        self.on_wire = true;
        self.answered = false;
        self.interruptible = !piece.whole;
        // A whole piece states its end only for a bounded next hop, and does not state it for no bytes.
        let last_byte = self.next.saturating_add(piece.bytes).saturating_sub(1);
        let end = (piece.whole && piece.bytes > 0).then_some(last_byte);
        let range = ByteRange { start: self.next, end, total: self.total };
        self.write_head(out, Some(range.within_total()));
    }

    /// The failure to report of a request whose connection is gone, with the bytes counted so far.
    pub(super) fn into_failure(mut self) -> Option<Failure> {
        self.next = self.next.saturating_add(u64::from(self.held.take().is_some()));
        match self.progress {
            Progress::Refused(failure) => Some(*failure),
            Progress::Going if self.transit.wants_answer() => {
                Some(Failure { notice: self.notice(), status: Status::TIMEOUT })
            }
            Progress::Going | Progress::Over => None,
        }
    }

    /// The Byte-Range of the first piece; `None` leaves the header as it came.
    pub(super) fn first_byte_range(&self, piece: NextChunk, flag: Option<Flag>) -> Option<ByteRange> {
        if self.transit.method() != Method::Send {
            return None;
        }
        let NextChunk { whole, last, bytes, bounded } = piece;
        let says_end = whole && (bounded || bytes <= INTERRUPTIBLE_FROM);
        let received = self.transit.head.byte_range();
        match received {
            // What the sender announced and what it sent may differ: it was interrupted, or it lied.
            Some(range) if says_end => {
                let counted = range.start.saturating_add(bytes).saturating_sub(1);
                let wrong = range.end.map_or(bounded && bytes > 0, |end| end != counted);
                // More bytes than the whole message was to have: the receiver sees the sender's own claim.
                let is_beyond = range.total.is_some_and(|total| counted > total);
                let rewritten = wrong && (bounded || !is_beyond);
                rewritten.then_some(ByteRange { end: Some(counted), ..range }.within_total())
            }
            Some(ByteRange { end: None, .. }) => None,
            Some(range) => Some(ByteRange { end: None, ..range }.within_total()),
            None if whole => {
                let total = (last && flag == Some(Flag::Last)).then_some(bytes);
                Some(ByteRange { start: 1, end: says_end.then_some(bytes), total })
            }
            None => Some(ByteRange { start: 1, end: None, total: None }),
        }
    }

    /// How many bytes the piece on the wire may take, besides the held one.
    pub(super) fn room(&self) -> usize {
        if self.piece_max == UNBOUNDED || self.transit.method() != Method::Send {
            return usize::MAX;
        }
        let written = self.next.saturating_sub(self.piece_start);
        let room = self.piece_max.saturating_sub(written).saturating_sub(u64::from(self.held.is_some()));
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    pub(super) fn write_head(&self, out: &mut OutBatch, byte_range: Option<ByteRange>) {
        let rewrite =
            Rewrite { tid: self.tid.as_bytes(), moves: usize::from(self.transit.moves), byte_range };
        out.small(|small| self.transit.head.rewrite(&self.transit.bytes, &rewrite, small));
    }

    pub(super) fn release_held(&mut self, out: &mut OutBatch, cx: &mut WriteContext<'_>) {
        if let Some(byte) = self.held.take() {
            out.small(|small| small.push(byte));
            self.wire.wrote(&[byte]);
            self.next = self.next.saturating_add(1);
            cx.core.stats.body_bytes_out += 1;
        }
    }

    pub(super) fn write_body(&mut self, bytes: Bytes, out: &mut OutBatch, cx: &mut WriteContext<'_>) {
        let written = bytes.remaining() as u64;
        if self.interruptible {
            self.wire.wrote(&bytes);
        }
        self.next = self.next.saturating_add(written);
        cx.core.stats.body_bytes_out += written;
        out.body(bytes);
    }

    pub(super) fn finish(
        mut self,
        flag: Flag,
        out: &mut OutBatch,
        transactions: &mut Transactions,
        cx: &mut WriteContext<'_>,
    ) {
        self.release_held(out, cx);
        out.small(|small| write_end_line(small, self.tid.as_bytes(), flag, self.has_body));
        if cx.framed {
            out.end_frame();
        }
        if flag != Flag::Aborted {
            self.expect_answer(transactions, cx);
        }
    }

    pub(super) fn expect_answer(&self, transactions: &mut Transactions, cx: &WriteContext<'_>) {
        if self.transit.wants_answer() && !self.answered {
            transactions.begin(self.tid, self.notice(), cx.core.now, cx.room);
        }
    }

    /// The notice for the piece on the wire, in case it fails.
    pub(super) fn notice(&self) -> Notice {
        Notice {
            stream: self.stream,
            session: self.side.session,
            inward: self.side.inward,
            method: self.transit.method(),
            failure_report: if self.transit.method() == Method::Send {
                self.transit.head.failure_report()
            } else {
                FailureReport::No
            },
            report_to: Arc::clone(&self.report_to),
            message_id: self.transit.head.message_id(&self.transit.bytes).map(MessageId::new),
            range: ByteRange {
                start: self.piece_start,
                end: Some(self.next.saturating_sub(1)),
                total: self.total,
            },
            moves: self.transit.moves,
        }
    }
}

/// A chunk that can be written: a request or a part of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct NextChunk {
    /// All of it is at hand and goes out in one piece; otherwise it is interruptible.
    pub(super) whole: bool,
    /// The request ends with it. Has no meaning for a chunk that is not whole.
    pub(super) last: bool,
    /// Body bytes at hand for it.
    pub(super) bytes: u64,
    /// The next hop takes chunks up to a bound, and every chunk states its end.
    pub(super) bounded: bool,
}

impl NextChunk {
    /// The most body bytes it takes: all that was counted for it, where it is whole and does not end the request.
    pub(super) fn body_max(&self, chunk_max: u64) -> u64 {
        if self.bounded && self.whole && !self.last { self.bytes } else { chunk_max }
    }
}

/// Makes `report_to` the From-Path as this hop received it, sharing the bytes if they are equal.
pub(super) fn share_report_to(report_to: &mut Arc<[u8]>, transit: &Transit) {
    let moves = usize::from(transit.moves).saturating_sub(1);
    if !transit.is_from_path_after(moves, report_to) {
        let mut path = Vec::with_capacity(256);
        transit.append_from_path_after(moves, &mut path);
        *report_to = Arc::from(path);
    }
}
