//! The requests of one source on their way out of one connection, and the one being written.
//!
//! Invariant: items stand in the order in which they came; a request's octets are numbered by
//! counting what was written (RFC 4975, 7.1.1 and 7.3.1), never by what its head claims.
//! Which flow may write when is not known here: that is [`Outbound`](super::Outbound)'s.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};

use super::{Loss, WriteContext};
use crate::proto::head::{ByteRange, FailureReport, Method, Rewrite};
use crate::proto::parser::Flag;
use crate::proto::status::Status;
use crate::proto::write::write_end_line;
use crate::relay::ids::{Entropy, PeerRef, StreamId, Tid};
use crate::relay::message::{Hop, Message, MessageId, Notice, Transit};
use crate::relay::orphan::Failure;
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
    /// Octets written and not yet credited to the source: a credit per piece would wake another core
    /// for each.
    owed: usize,
    /// The From-Path of the last request, shared by the notices of all its successors.
    report_to: Arc<[u8]>,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "heads travel unboxed: a box would be an allocation per chunk")]
pub(super) enum Item {
    Head { stream: StreamId, hop: Hop, transit: Transit },
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
    /// Number of the first octet of the piece that is on the wire, or comes next.
    piece_start: u64,
    tid: Tid,
    interruptible: bool,
    /// Its head has been written, its end-line not yet.
    on_wire: bool,
    has_body: bool,
    /// Held back while the request streams; see the module's notes.
    held: Option<u8>,
    /// It was interrupted: pieces of it have been written and wait for their answers.
    was_cut: bool,
    /// The piece on the wire has been answered already.
    answered: bool,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    Going,
    /// It has failed: what still comes is dropped and counted.
    Refused(Box<Failure>),
    /// ... and its end has come; at most the `#` of its last piece is still to be written.
    Over,
}

/// What can be written of a flow.
enum Next {
    /// A request that has not begun: whole, or as interruptible.
    Begin { whole: bool, body_octets: usize },
    /// A further piece of one that was cut.
    Resume,
}

impl Flow {
    pub(super) fn new(source: PeerRef) -> Self {
        Self {
            source,
            items: VecDeque::new(),
            ends: 0,
            tail: None,
            current: None,
            owed: 0,
            report_to: Arc::from(&b""[..]),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.items.is_empty() && self.current.is_none()
    }

    /// Whether something could be written at the beginning of a flush.
    pub(super) fn is_ready(&self, budget: usize) -> bool {
        self.next(0, budget).is_some()
    }

    /// Whether `stream` is the request being written, or one that failed while it was.
    pub(super) fn is_writing(&self, stream: StreamId) -> bool {
        self.current.as_ref().is_some_and(|c| c.stream == stream)
    }

    pub(super) fn was_cut(&self, stream: StreamId) -> bool {
        self.current.as_ref().is_some_and(|c| c.stream == stream && c.was_cut)
    }

    /// The failure of `stream`, if it failed while it was still coming in.
    pub(super) fn refused(&mut self, stream: StreamId) -> Option<&mut Failure> {
        match self.current.as_mut().filter(|c| c.stream == stream)?.progress {
            Progress::Refused(ref mut failure) => Some(failure),
            Progress::Going | Progress::Over => None,
        }
    }

    /// The end of a refused request has come.
    pub(super) fn end_refused(&mut self) -> Option<Failure> {
        let current = self.current.as_mut()?;
        let progress = mem::replace(&mut current.progress, Progress::Over);
        self.forget_if_over();
        match progress {
            Progress::Refused(failure) => Some(*failure),
            Progress::Going | Progress::Over => None,
        }
    }

    /// A refused request is forgotten once its end has come and its `#` has been written.
    fn forget_if_over(&mut self) {
        self.current.take_if(|c| !c.on_wire && matches!(c.progress, Progress::Over));
    }

    /// The transaction id of the chunk on the wire.
    pub(super) fn on_wire(&self) -> Option<Tid> {
        self.current.as_ref().filter(|c| c.on_wire).map(|c| c.tid)
    }

    /// The chunk on the wire is answered before its end.
    pub(super) fn answered_on_wire(&mut self, tid: Tid) -> Option<Notice> {
        let current = self
            .current
            .as_mut()
            .filter(|c| c.on_wire && c.tid == tid && !c.answered && c.transit.wants_answer())?;
        current.answered = true;
        Some(current.notice())
    }

    /// Takes the chunk on the wire off it if its request has failed; the `#` is the caller's to write.
    pub(super) fn abort_refused(&mut self) -> Option<Tid> {
        let going = |c: &&mut Current| !matches!(c.progress, Progress::Going);
        let current = self.current.as_mut().filter(going)?;
        current.on_wire = false;
        let tid = current.tid;
        self.forget_if_over();
        Some(tid)
    }

    fn next(&self, written: usize, budget: usize) -> Option<Next> {
        if let Some(current) = &self.current {
            let ready = self.ends > 0 || self.resumable_octets(current) > 1;
            let going = matches!(current.progress, Progress::Going);
            return (going && ready).then_some(Next::Resume);
        }
        let Some(Item::Head { transit, .. }) = self.items.front() else {
            return None;
        };
        let body_octets = self.front_body_len();
        let streams = transit.method() == Method::Send && transit.head.has_body();
        let complete = self.ends > 0;
        // What must not be interrupted may exceed the flush.
        let fits = !streams
            || body_octets as u64 <= INTERRUPTIBLE_FROM
            || body_octets.saturating_add(written) <= budget;
        let whole = complete && fits;
        let may_begin = whole || streams && (complete || may_stream(transit, body_octets));
        may_begin.then_some(Next::Begin { whole, body_octets })
    }

    /// Octets at hand of a request that was cut, as far as it matters how many.
    fn resumable_octets(&self, current: &Current) -> usize {
        let bodies = self.items.iter().take(2).map(|item| match item {
            Item::Body(octets) => octets.len(),
            Item::Head { .. } | Item::End(_) => 0,
        });
        usize::from(current.held.is_some()) + bodies.sum::<usize>()
    }

    /// Makes sure that a chunk is on the wire, writing its head if it can be written now.
    pub(super) fn begin(&mut self, out: &mut OutBatch, budget: usize, cx: &mut WriteContext<'_>) -> bool {
        match self.next(out.len(), budget) {
            None => return false,
            Some(Next::Resume) => {
                if let Some(current) = &mut self.current {
                    current.resume(out, cx.entropy);
                }
            }
            Some(Next::Begin { whole, body_octets }) => {
                let Some(Item::Head { stream, hop, transit }) = self.items.pop_front() else {
                    return false;
                };
                self.owed += transit.cost();
                let transit = if whole { transit } else { transit.compact() };
                self.share_report_to(&transit);
                let mut current = Current::unwritten(stream, hop, transit, Arc::clone(&self.report_to));
                current.tid = Tid::mint(cx.entropy);
                current.interruptible = !whole;
                current.on_wire = true;
                let byte_range = current.first_byte_range(whole, body_octets, self.front_flag());
                current.write_head(out, byte_range);
                self.current = Some(current);
            }
        }
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
        // An end is written at once: a cut before it would leave nothing for the last piece.
        while !current.interruptible || out.len() < budget || matches!(self.items.front(), Some(Item::End(_)))
        {
            match self.items.pop_front() {
                Some(Item::Body(mut octets)) => {
                    let room = budget.saturating_sub(out.len());
                    if current.interruptible && octets.len() > room {
                        let rest = octets.split_off(room);
                        self.items.push_front(Item::Body(rest));
                    }
                    self.owed += octets.len();
                    if self.owed >= cx.credit_batch {
                        pay(self.source, &mut self.owed, cx);
                    }
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
                    pay(self.source, &mut self.owed, cx);
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
        cx: &WriteContext<'_>,
    ) -> bool {
        let Some(current) = self.current.as_mut() else {
            return false;
        };
        if !current.interruptible || current.next == current.piece_start {
            return false;
        }
        current.on_wire = false;
        current.was_cut = true;
        out.small(|small| write_end_line(small, current.tid.as_bytes(), Flag::More, true));
        current.expect_answer(transactions, cx);
        current.piece_start = current.next;
        true
    }

    /// The request being written has failed. Returns the octets to credit, and whom to tell: the
    /// sender, if all of it has come in; its session, so that it is stopped, if not.
    pub(super) fn refuse(&mut self, mut failure: Failure) -> (usize, Option<Message>) {
        let Some(current) = self.current.as_mut().filter(|c| matches!(c.progress, Progress::Going)) else {
            return (0, None);
        };
        let bodies = self.items.iter().take_while(|i| matches!(i, Item::Body(_))).count();
        let dropped: usize = self.items.drain(..bodies).map(|item| item.cost()).sum();
        let credit = dropped + mem::take(&mut self.owed);
        let unwritten = u64::from(current.held.take().is_some()).saturating_add(dropped as u64);
        failure.notice.range.end = Some(current.next.saturating_sub(1));
        failure.notice.extend(unwritten);
        let message = if let Some(Item::End(flag)) = self.items.front() {
            let aborted = *flag == Flag::Aborted;
            self.items.pop_front();
            self.ends -= 1;
            current.progress = Progress::Over;
            (!aborted).then(|| failure.into_message())
        } else {
            let message = Message::Broken {
                session: failure.notice.session,
                stream: failure.notice.stream,
                status: failure.status,
            };
            current.progress = Progress::Refused(Box::new(failure));
            Some(message)
        };
        self.forget_if_over();
        (credit, message)
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

    /// The steps that queue all this elsewhere.
    pub(super) fn release(self, to: PeerRef) -> impl Iterator<Item = Message> {
        debug_assert!(self.current.is_none(), "nothing has been written");
        let mut front = None;
        self.items.into_iter().filter_map(move |item| {
            if let Item::Head { stream, .. } = &item {
                front = Some(*stream);
            }
            let stream = front?;
            Some(match item {
                Item::Head { hop, transit, .. } => Message::Open { peer: to, hop, stream, transit },
                Item::Body(octets) => Message::Piece { peer: to, stream, octets },
                Item::End(flag) => Message::Close { peer: to, stream, flag },
            })
        })
    }

    /// Empties the queue of a connection that is gone. `pieces` are those of the request still
    /// coming in that have been written and not answered.
    pub(super) fn drain(&mut self, pieces: Option<Notice>, loss: &mut Loss) {
        let mut credit = mem::take(&mut self.owed);
        let mut current = self.current.take();
        for item in mem::take(&mut self.items) {
            credit += item.cost();
            match item {
                Item::Head { stream, hop, transit } => {
                    self.share_report_to(&transit);
                    let report_to = Arc::clone(&self.report_to);
                    current = Some(Current::unwritten(stream, hop, transit, report_to));
                }
                Item::Body(octets) => {
                    if let Some(current) = current.as_mut() {
                        current.next = current.next.saturating_add(octets.len() as u64);
                    }
                }
                Item::End(flag) => {
                    let failed = current.take().and_then(Current::into_failure);
                    if let Some(failure) = failed.filter(|_| flag != Flag::Aborted) {
                        merge(&mut loss.notices, failure.notice);
                    }
                }
            }
        }
        if let Some(mut failure) = current.and_then(Current::into_failure) {
            if let Some(pieces) = pieces {
                failure.notice.widen(pieces.range);
            }
            loss.orphans.push(failure);
        }
        loss.credits.push((self.source, credit));
    }
}

/// Credits a source with all it is owed.
fn pay(source: PeerRef, owed: &mut usize, cx: &mut WriteContext<'_>) {
    let octets = mem::take(owed);
    if octets > 0 {
        (cx.post)(Message::Credit { peer: source, from: cx.me, octets });
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
    let announced = transit.head.byte_range().and_then(|range| {
        let octets = range.end.or(range.total)?.checked_sub(range.start)?;
        Some(octets.saturating_add(1))
    });
    let small = announced.is_some_and(|octets| octets <= INTERRUPTIBLE_FROM);
    at_hand as u64 > INTERRUPTIBLE_FROM || (at_hand > 1 && !small)
}

/// What is to be told of a request that could not even be queued.
pub(crate) fn unwritten_failure(stream: StreamId, hop: Hop, transit: Transit) -> Option<Failure> {
    let mut flow = Flow::new(stream.peer);
    flow.share_report_to(&transit);
    Current::unwritten(stream, hop, transit, flow.report_to).into_failure()
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
            was_cut: false,
            answered: false,
            progress: Progress::Going,
            on_wire: false,
            transit,
        }
    }

    /// Goes on after a cut, under a new transaction id.
    fn resume(&mut self, out: &mut OutBatch, entropy: &mut Entropy) {
        self.tid = Tid::mint(entropy);
        self.on_wire = true;
        self.answered = false;
        let range = ByteRange { start: self.next, end: None, total: self.total };
        self.write_head(out, Some(range));
    }

    /// What is to be told of a request whose connection is gone, with the octets counted so far.
    fn into_failure(mut self) -> Option<Failure> {
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
    fn first_byte_range(&self, whole: bool, at_hand: usize, flag: Option<Flag>) -> Option<ByteRange> {
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
                Some(ByteRange { start: 1, end: Some(end), total })
            }
            None => Some(ByteRange { start: 1, end: None, total: None }),
        }
    }

    fn write_head(&self, out: &mut OutBatch, byte_range: Option<ByteRange>) {
        let rewrite =
            Rewrite { tid: self.tid.as_bytes(), moves: usize::from(self.transit.moves), byte_range };
        out.small(|small| self.transit.head.rewrite(&self.transit.octets, &rewrite, small));
    }

    fn release_held(&mut self, out: &mut OutBatch, cx: &mut WriteContext<'_>) {
        if let Some(octet) = self.held.take() {
            out.small(|small| small.push(octet));
            self.next = self.next.saturating_add(1);
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
        if flag != Flag::Aborted {
            self.expect_answer(transactions, cx);
        }
    }

    fn expect_answer(&self, transactions: &mut Transactions, cx: &WriteContext<'_>) {
        if self.transit.wants_answer() && !self.answered {
            transactions.begin(self.tid, self.notice(), cx.now, cx.transactions_max);
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
            message_id: self.transit.head.message_id(&self.transit.octets).map(MessageId::new),
            range: ByteRange {
                start: self.piece_start,
                end: Some(self.next.saturating_sub(1)),
                total: self.total,
            },
            moves: self.transit.moves,
        }
    }
}
