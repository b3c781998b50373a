//! The requests of one source on their way out of one connection, and the one being written.
//!
//! Invariant: items stand in the order in which they came; a request's octets are numbered by
//! counting what was written (RFC 4975, 7.1.1 and 7.3.1), never by what its head claims.
//! Which flow may write when is not known here: that is [`Outbound`](super::Outbound)'s.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};

use super::WriteContext;
use crate::proto::head::{ByteRange, FailureReport, Method, Rewrite};
use crate::proto::parser::Flag;
use crate::proto::write::write_end_line;
use crate::relay::ids::{PeerRef, StreamId, Tid};
use crate::relay::message::{Hop, Message, MessageId, Notice, Transit};
use crate::relay::output::OutBatch;
use crate::relay::transaction::{Transactions, merge};

/// Chunks up to this many octets are never interruptible (RFC 4975, 7.1.1), so they are gathered
/// before they are written.
const INTERRUPTIBLE_FROM: u64 = 2048;

#[derive(Debug)]
pub(super) struct Flow {
    pub(super) source: PeerRef,
    pub(super) items: VecDeque<Item>,
    /// How many `End`s are among the items: at least one means that the front request is complete.
    pub(super) ends: usize,
    /// The request whose end has not come yet.
    pub(super) tail: Option<StreamId>,
    pub(super) current: Option<Current>,
    /// The From-Path of the last request, shared by the notices of all its successors.
    report_to: Arc<[u8]>,
}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "heads travel unboxed: a box would be an allocation per chunk"
)]
pub(super) enum Item {
    Head {
        stream: StreamId,
        hop: Hop,
        transit: Transit,
    },
    Body(Bytes),
    End(Flag),
}

/// A request that has begun to be written and has not ended.
#[derive(Debug)]
pub(super) struct Current {
    stream: StreamId,
    hop: Hop,
    transit: Transit,
    report_to: Arc<[u8]>,
    total: Option<u64>,
    /// Number of the next octet to be written.
    next: u64,
    /// Number of the first octet of the piece that is, or was last, on the wire.
    piece_start: u64,
    pub(super) tid: Tid,
    interruptible: bool,
    /// Its head has been written, its end-line not yet.
    pub(super) on_wire: bool,
    has_body: bool,
    /// Held back while the request streams; see the module's notes.
    held: Option<u8>,
    /// The next hop has refused it: what still comes is dropped.
    pub(super) refused: bool,
    /// Its end has come; said only of a refused one.
    ended: bool,
}

impl Flow {
    pub(super) fn new(source: PeerRef) -> Self {
        Self {
            source,
            items: VecDeque::new(),
            ends: 0,
            tail: None,
            current: None,
            report_to: Arc::from(&b""[..]),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.items.is_empty() && self.current.is_none()
    }

    /// Whether `stream` has been refused while it was still coming in.
    pub(super) fn is_refused(&self, stream: StreamId) -> bool {
        self.current
            .as_ref()
            .is_some_and(|c| c.stream == stream && c.refused)
    }

    pub(super) fn end_refused(&mut self) {
        if let Some(current) = self.current.as_mut() {
            current.ended = true;
        }
        self.forget_if_over();
    }

    /// A refused request is forgotten once its end has come and its `#` has been written.
    pub(super) fn forget_if_over(&mut self) {
        if self
            .current
            .as_ref()
            .is_some_and(|c| c.refused && c.ended && !c.on_wire)
        {
            self.current = None;
        }
    }

    /// Makes sure that a chunk is on the wire, writing its head if it can be written now.
    pub(super) fn begin(
        &mut self,
        out: &mut OutBatch,
        budget: usize,
        cx: &mut WriteContext<'_>,
    ) -> bool {
        if self.current.is_some() {
            return self.resume(out, cx);
        }
        let Some(Item::Head { transit, .. }) = self.items.front() else {
            return false;
        };
        let at_hand = self.front_body_len();
        let streams = transit.method() == Method::Send && transit.head.has_body();
        let complete = self.ends > 0;
        let whole = complete && (at_hand + out.len() <= budget || !streams);
        // A flush that is nearly full must not turn a small request into an interruptible one.
        let next_flush = complete && !whole && !out.is_empty() && at_hand <= budget;
        if next_flush || !(whole || streams && (complete || may_stream(transit, at_hand))) {
            return false;
        }
        let Some(Item::Head {
            stream,
            hop,
            transit,
        }) = self.items.pop_front()
        else {
            return false;
        };
        (cx.post)(Message::Credit {
            peer: self.source,
            octets: transit.cost(),
        });
        let transit = if whole { transit } else { transit.compact() };
        self.share_report_to(&transit);
        let range = transit.head.byte_range();
        let start = range.map_or(1, |r| r.start);
        let current = Current {
            stream,
            hop,
            report_to: Arc::clone(&self.report_to),
            total: range.and_then(|r| r.total),
            next: start,
            piece_start: start,
            tid: Tid::mint(cx.entropy),
            interruptible: !whole,
            has_body: transit.head.has_body(),
            held: None,
            refused: false,
            ended: false,
            on_wire: true,
            transit,
        };
        let byte_range = current.first_byte_range(whole, at_hand, self.front_flag());
        current.write_head(out, byte_range);
        *cx.chunks_out += 1;
        self.current = Some(current);
        true
    }

    /// Goes on with a message that was cut, under a new transaction id.
    fn resume(&mut self, out: &mut OutBatch, cx: &mut WriteContext<'_>) -> bool {
        let Some(current) = self.current.as_mut().filter(|c| !c.refused) else {
            return false;
        };
        let octets_at_hand = usize::from(current.held.is_some())
            + self
                .items
                .iter()
                .take(2)
                .map(|i| if let Item::Body(b) = i { b.len() } else { 0 })
                .sum::<usize>();
        if self.ends == 0 && octets_at_hand < 2 {
            return false;
        }
        current.tid = Tid::mint(cx.entropy);
        current.piece_start = current.next;
        current.on_wire = true;
        let range = ByteRange {
            start: current.next,
            end: None,
            total: current.total,
        };
        current.write_head(out, Some(range));
        *cx.chunks_out += 1;
        true
    }

    /// Writes body octets and, when it is there, the end-line. Returns whether the request ended.
    pub(super) fn write_pieces(
        &mut self,
        out: &mut OutBatch,
        budget: usize,
        transactions: &mut Transactions,
        cx: &mut WriteContext<'_>,
    ) -> bool {
        let Some(current) = self.current.as_mut() else {
            return true;
        };
        while !current.interruptible || out.len() < budget {
            match self.items.pop_front() {
                Some(Item::Body(mut octets)) => {
                    (cx.post)(Message::Credit {
                        peer: self.source,
                        octets: octets.len(),
                    });
                    current.release_held(out, cx);
                    if current.interruptible && self.items.is_empty() {
                        let last = octets.len() - 1;
                        current.held = octets.get(last).copied();
                        octets.truncate(last);
                    }
                    current.write_body(octets, out, cx);
                }
                Some(Item::End(flag)) => {
                    self.ends -= 1;
                    if let Some(current) = self.current.take() {
                        current.finish(flag, out, transactions, cx);
                    }
                    return true;
                }
                // A head cannot follow before the end; put it back rather than lose it.
                Some(head) => {
                    debug_assert!(false, "a request begins before the one before it has ended");
                    self.items.push_front(head);
                    return true;
                }
                None => break,
            }
        }
        false
    }

    /// Ends the piece on the wire with `+` so that something else can be written.
    pub(super) fn cut(
        &mut self,
        out: &mut OutBatch,
        transactions: &mut Transactions,
        cx: &mut WriteContext<'_>,
    ) -> bool {
        let Some(current) = self.current.as_mut() else {
            return false;
        };
        if !current.interruptible || current.next == current.piece_start {
            return false;
        }
        current.on_wire = false;
        out.small(|small| write_end_line(small, current.tid.as_bytes(), Flag::More, true));
        current.expect_answer(transactions, cx);
        true
    }

    pub(super) fn refuse(&mut self, stream: StreamId) -> usize {
        let mut dropped = 0;
        if let Some(current) = self.current.as_mut().filter(|c| c.stream == stream) {
            current.refused = true;
            current.held = None;
            // Only this request's body stands before its end, or before the end of the queue.
            let body = self
                .items
                .iter()
                .take_while(|i| matches!(i, Item::Body(_)))
                .count();
            for item in self.items.drain(..body) {
                dropped += item.cost();
            }
            if matches!(self.items.front(), Some(Item::End(_))) {
                self.items.pop_front();
                self.ends -= 1;
                self.end_refused();
            } else {
                self.forget_if_over();
            }
        }
        dropped
    }

    fn front_body_len(&self) -> usize {
        let bodies = self.items.iter().skip(1).map_while(|item| match item {
            Item::Body(octets) => Some(octets.len()),
            Item::Head { .. } | Item::End(_) => None,
        });
        bodies.sum()
    }

    fn front_flag(&self) -> Option<Flag> {
        self.items.iter().find_map(|item| match item {
            Item::End(flag) => Some(*flag),
            Item::Head { .. } | Item::Body(_) => None,
        })
    }

    fn share_report_to(&mut self, transit: &Transit) {
        if transit.moves == 1 {
            let received = transit.received_from_path();
            if *self.report_to != *received.as_bytes() {
                self.report_to = Arc::from(received.as_bytes());
            }
            return;
        }
        let mut hop = transit.clone();
        hop.moves = hop.moves.saturating_sub(1);
        let mut path = Vec::new();
        hop.append_from_path(&mut path);
        if *self.report_to != *path {
            self.report_to = Arc::from(path);
        }
    }

    /// Empties the queue: adds a notice for each complete request, returns the octets to credit.
    pub(super) fn drain(&mut self, notices: &mut Vec<Notice>) -> usize {
        let mut credit = 0;
        let mut current = self.current.take().filter(|c| !c.refused);
        for item in std::mem::take(&mut self.items) {
            credit += item.cost();
            match item {
                Item::Head {
                    stream,
                    hop,
                    transit,
                } => {
                    self.share_report_to(&transit);
                    current = Some(Current::unwritten(
                        stream,
                        hop,
                        transit,
                        Arc::clone(&self.report_to),
                    ));
                }
                Item::Body(octets) => {
                    if let Some(current) = current.as_mut() {
                        current.next = current.next.saturating_add(octets.len() as u64);
                    }
                }
                Item::End(_) => {
                    if let Some(mut current) = current.take().filter(|c| c.transit.wants_answer()) {
                        current.next += u64::from(current.held.take().is_some());
                        merge(notices, current.notice());
                    }
                }
            }
        }
        credit
    }
}

impl Item {
    pub(super) fn cost(&self) -> usize {
        match self {
            Self::Head { transit, .. } => transit.cost(),
            Self::Body(octets) => octets.len(),
            Self::End(_) => 0,
        }
    }
}

/// Whether a chunk that is not complete yet may go out as interruptible: not while it may still
/// turn out to be one of those that must not be interrupted.
fn may_stream(transit: &Transit, at_hand: usize) -> bool {
    let announced = transit
        .head
        .byte_range()
        .and_then(|r| Some(r.end?.checked_sub(r.start)?.saturating_add(1)));
    let small = announced.is_some_and(|octets| octets <= INTERRUPTIBLE_FROM);
    at_hand as u64 > INTERRUPTIBLE_FROM || (at_hand > 1 && !small)
}

impl Current {
    fn unwritten(stream: StreamId, hop: Hop, transit: Transit, report_to: Arc<[u8]>) -> Self {
        let range = transit.head.byte_range();
        let start = range.map_or(1, |r| r.start);
        Self {
            stream,
            hop,
            report_to,
            total: range.and_then(|r| r.total),
            next: start,
            piece_start: start,
            tid: Tid::NONE,
            interruptible: false,
            has_body: transit.head.has_body(),
            held: None,
            refused: false,
            ended: false,
            on_wire: false,
            transit,
        }
    }

    /// The Byte-Range of the first piece; `None` leaves the header as it came.
    fn first_byte_range(
        &self,
        whole: bool,
        at_hand: usize,
        flag: Option<Flag>,
    ) -> Option<ByteRange> {
        if self.transit.method() != Method::Send {
            return None;
        }
        let received = self.transit.head.byte_range();
        match received {
            Some(_) if whole => None,
            Some(range) => Some(ByteRange { end: None, ..range }),
            None if whole => {
                let end = at_hand as u64;
                let total = (flag == Some(Flag::Last)).then_some(end);
                Some(ByteRange {
                    start: 1,
                    end: Some(end),
                    total,
                })
            }
            None => Some(ByteRange {
                start: 1,
                end: None,
                total: None,
            }),
        }
    }

    fn write_head(&self, out: &mut OutBatch, byte_range: Option<ByteRange>) {
        let rewrite = Rewrite {
            tid: self.tid.as_bytes(),
            moves: usize::from(self.transit.moves),
            byte_range,
        };
        out.small(|small| {
            self.transit
                .head
                .rewrite(&self.transit.octets, &rewrite, small)
        });
    }

    fn release_held(&mut self, out: &mut OutBatch, cx: &mut WriteContext<'_>) {
        if let Some(octet) = self.held.take() {
            out.small(|small| small.push(octet));
            self.next += 1;
            *cx.body_octets_out += 1;
        }
    }

    fn write_body(&mut self, octets: Bytes, out: &mut OutBatch, cx: &mut WriteContext<'_>) {
        let written = octets.remaining() as u64;
        self.next = self.next.saturating_add(written);
        *cx.body_octets_out += written;
        out.body(octets);
    }

    fn finish(
        mut self,
        flag: Flag,
        out: &mut OutBatch,
        transactions: &mut Transactions,
        cx: &mut WriteContext<'_>,
    ) {
        self.release_held(out, cx);
        out.small(|small| write_end_line(small, self.tid.as_bytes(), flag, self.has_body));
        self.expect_answer(transactions, cx);
    }

    fn expect_answer(&self, transactions: &mut Transactions, cx: &WriteContext<'_>) {
        if self.transit.wants_answer() {
            transactions.begin(self.tid, self.notice(), cx.now);
        }
    }

    /// What to say of the piece on the wire should it fail.
    fn notice(&self) -> Notice {
        Notice {
            stream: self.stream,
            session: self.hop.session,
            inward: self.hop.inward,
            method: self.transit.method(),
            failure_report: if self.transit.method() == Method::Send {
                self.transit.head.failure_report()
            } else {
                FailureReport::No
            },
            report_to: Arc::clone(&self.report_to),
            message_id: self
                .transit
                .head
                .message_id(&self.transit.octets)
                .map(MessageId::new),
            range: ByteRange {
                start: self.piece_start,
                end: Some(self.next.saturating_sub(1)),
                total: self.total,
            },
            moves: self.transit.moves,
        }
    }
}
