//! The requests of one source that leave by one connection, and the one being written.
//!
//! Invariant: items stand in the order of arrival; a request's bytes are numbered by counting what was written (RFC
//! 4975, 7.1.1 and 7.3.1), never by what its head claims. Which flow may write when is not known here:
//! [`Outbound`](super::queue::Outbound) decides.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use msrp_proto::head::Method;
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::write::write_end_line;

use super::batch::OutBatch;
use super::current::{Current, NextChunk, Progress, may_stream, share_report_to, unwritten_failure};
use super::end_line::EndLineWatch;
use super::framing::{Bounds, Waiting};
use super::item::{Item, body_len};
use super::write::{INTERRUPTIBLE_FROM, UNBOUNDED, WriteContext};
use crate::ids::{CoreId, PeerRef, StreamId, Tid};
use crate::message::{Message, PeerStep, SessionStep};
use crate::orphans::Failure;
use crate::request::{Notice, SessionSide, Transit};
use crate::transactions::{Transactions, merge};

/// Small parts of a body are gathered up to so many bytes.
const GATHERED_MAX: usize = 4096;

#[derive(Debug)]
pub(super) struct Flow {
    pub(super) source: PeerRef,
    pub(super) items: VecDeque<Item>,
    /// How many `End`s are among the items: if at least one, the front request is complete.
    pub(super) ends: usize,
    /// The request whose end has not come yet.
    pub(super) tail: Option<StreamId>,
    /// The core of the session that hands it over.
    pub(super) tail_by: Option<CoreId>,
    current: Option<Current>,
    /// Bytes written and not yet credited to the source: a credit for each part would wake another core each time.
    owed: usize,
    /// The From-Path of the last request, shared with the notices of all later requests.
    report_to: Arc<[u8]>,
}

/// The result of an attempt to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Written {
    /// All that was there; the chunk stays open.
    Some,
    /// The request has ended.
    End,
    /// The chunk was ended early, because its body would have held its end-line; the request continues.
    Cut,
    /// The chunk has as many bytes as the next hop takes in one; the request continues.
    Full,
}

/// What a flow can write next.
enum Next {
    /// A request that has not begun.
    Begin(NextChunk),
    /// A further piece of a request that was cut.
    Resume(NextChunk),
}

/// The flush to fill.
#[derive(Clone, Copy)]
struct Flush {
    written: usize,
    budget: usize,
}

impl Flow {
    /// `items` is empty; `report_to` is the path of the last notice of this connection.
    pub(super) fn new(source: PeerRef, items: VecDeque<Item>, report_to: Arc<[u8]>) -> Self {
        debug_assert!(items.is_empty(), "another flow's queue");
        Self { source, items, ends: 0, tail: None, tail_by: None, current: None, owed: 0, report_to }
    }

    /// Takes the bytes owed to its source, and leaves none.
    pub(super) fn take_owed(&mut self) -> (PeerRef, usize) {
        (self.source, mem::take(&mut self.owed))
    }

    /// The parts that the next flow can use again.
    pub(super) fn retire(self) -> (VecDeque<Item>, Arc<[u8]>) {
        debug_assert!(self.is_idle() && self.owed == 0, "retired with work to do");
        (self.items, self.report_to)
    }

    /// Queues body bytes. Successive small parts become one: each costs several hundred bytes of memory, and only its
    /// length is counted.
    pub(super) fn push_body(&mut self, bytes: Bytes) {
        if let Some(Item::Body(last)) = self.items.back_mut()
            && last.len() + bytes.len() <= GATHERED_MAX
        {
            *last = match mem::take(last).try_into_mut() {
                Ok(mut gathered) => {
                    gathered.extend_from_slice(&bytes);
                    gathered.freeze()
                }
                Err(last) => {
                    let mut gathered = BytesMut::with_capacity(GATHERED_MAX);
                    gathered.extend_from_slice(&last);
                    gathered.extend_from_slice(&bytes);
                    gathered.freeze()
                }
            };
            return;
        }
        self.items.push_back(Item::Body(bytes));
    }

    pub(super) fn is_idle(&self) -> bool {
        self.items.is_empty() && self.current.is_none()
    }

    /// Whether something could be written at the beginning of a flush.
    pub(super) fn is_ready(&self, budget: usize, bounds: Bounds<'_>) -> bool {
        self.next(Flush { written: 0, budget }, bounds).is_some()
    }

    /// Whether `stream` is the request being written, or one that failed while it was.
    pub(super) fn is_writing(&self, stream: StreamId) -> bool {
        self.current.as_ref().is_some_and(|c| c.stream == stream)
    }

    pub(super) fn was_cut(&self, stream: StreamId) -> bool {
        self.current.as_ref().is_some_and(|c| c.stream == stream && c.was_cut)
    }

    /// The failure of `stream`, if it failed before its end came.
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

    /// Forgets a refused request once its end has come and its `#` is written.
    fn forget_if_over(&mut self) {
        self.current.take_if(|c| !c.on_wire && matches!(c.progress, Progress::Over));
    }

    /// The transaction id of the chunk on the wire.
    pub(super) fn on_wire(&self) -> Option<Tid> {
        self.current.as_ref().filter(|c| c.on_wire).map(|c| c.tid)
    }

    /// The peer answers the chunk on the wire before its end.
    pub(super) fn answered_on_wire(&mut self, tid: Tid) -> Option<Notice> {
        let current = self
            .current
            .as_mut()
            .filter(|c| c.on_wire && c.tid == tid && !c.answered && c.transit.wants_answer())?;
        current.answered = true;
        Some(current.notice())
    }

    /// Takes the chunk on the wire away if its request has failed. The caller writes the `#`.
    pub(super) fn abort_refused(&mut self) -> Option<Tid> {
        let going = |c: &&mut Current| !matches!(c.progress, Progress::Going);
        let current = self.current.as_mut().filter(going)?;
        current.on_wire = false;
        let tid = current.tid;
        self.forget_if_over();
        Some(tid)
    }

    fn next(&self, flush: Flush, bounds: Bounds<'_>) -> Option<Next> {
        let chunk_max = bounds.chunk_max;
        if let Some(current) = &self.current {
            let ready = self.ends > 0 || self.resumable_bytes(current) > 1;
            let going = matches!(current.progress, Progress::Going);
            if !going || !ready {
                return None;
            }
            let at_hand = self.front_body_len(0) + usize::from(current.held.is_some());
            if bounds.messages.is_some() {
                let message = self.message((current.side, &current.transit), at_hand, flush, bounds);
                return message.map(Next::Resume);
            }
            if chunk_max == UNBOUNDED {
                return Some(Next::Resume(NextChunk { whole: false, last: false, bytes: 0, bounded: false }));
            }
            return self.piece(at_hand, flush, chunk_max).map(Next::Resume);
        }
        let Some(Item::Head { side, transit, .. }) = self.items.front() else {
            return None;
        };
        let at_hand = self.front_body_len(1);
        let streams = transit.method() == Method::Send && transit.head.has_body();
        if !streams {
            // A chunk that must not be interrupted may exceed the flush.
            let piece = NextChunk { whole: true, last: true, bytes: at_hand as u64, bounded: false };
            return (self.ends > 0).then_some(Next::Begin(piece));
        }
        if bounds.messages.is_some() {
            return self.message((*side, transit), at_hand, flush, bounds).map(Next::Begin);
        }
        let piece = self.piece(at_hand, flush, chunk_max)?;
        let may_begin = piece.whole || self.ends > 0 || may_stream(transit, at_hand);
        may_begin.then_some(Next::Begin(piece))
    }

    /// The next chunk of a SEND with so many body bytes at hand.
    fn piece(&self, at_hand: usize, flush: Flush, chunk_max: u64) -> Option<NextChunk> {
        let bounded = chunk_max != UNBOUNDED;
        let last = self.ends > 0 && at_hand as u64 <= chunk_max;
        let bytes = chunk_max.min(at_hand as u64);
        // After a full piece, some bytes must be left for the piece with the final flag.
        let is_at_hand = last || at_hand as u64 > chunk_max;
        let fits =
            bytes <= INTERRUPTIBLE_FROM || bytes.saturating_add(flush.written as u64) <= flush.budget as u64;
        if bounded && is_at_hand && !fits && bytes <= flush.budget as u64 {
            // It fits the next flush, and need not be interruptible then.
            return None;
        }
        Some(NextChunk { whole: is_at_hand && fits, last, bytes, bounded })
    }

    /// The same where each goes into a message of its own: whole, and so not interruptible.
    fn message(
        &self,
        (side, transit): (SessionSide, &Transit),
        at_hand: usize,
        Flush { written, budget }: Flush,
        bounds: Bounds<'_>,
    ) -> Option<NextChunk> {
        let (bytes, last) = bounds.messages?.next(&Waiting {
            session: side.session,
            head_bytes: transit.bytes.len(),
            at_hand: at_hand as u64,
            is_complete: self.ends > 0,
            chunk_max: bounds.chunk_max,
            room: budget.saturating_sub(written) as u64,
            budget: budget as u64,
        })?;
        Some(NextChunk { whole: true, last, bytes, bounded: true })
    }

    /// Bytes at hand of a request that was cut, counted as far as the number matters.
    fn resumable_bytes(&self, current: &Current) -> usize {
        let bodies = self.items.iter().take(2).map(body_len);
        usize::from(current.held.is_some()) + bodies.sum::<usize>()
    }

    /// Makes sure that a chunk is on the wire, writing its head if it can be written now.
    pub(super) fn begin(
        &mut self,
        out: &mut OutBatch,
        budget: usize,
        bounds: Bounds<'_>,
        cx: &mut WriteContext<'_>,
    ) -> bool {
        match self.next(Flush { written: out.len(), budget }, bounds) {
            None => return false,
            Some(Next::Resume(piece)) => {
                if let Some(current) = &mut self.current {
                    current.piece_max = piece.body_max(bounds.chunk_max);
                    current.resume(piece, out, &mut cx.core.entropy);
                }
            }
            Some(Next::Begin(piece)) => {
                let Some(Item::Head { stream, side, transit }) = self.items.pop_front() else {
                    return false;
                };
                self.owed += transit.cost();
                let transit = if piece.whole && piece.last { transit } else { transit.compact() };
                share_report_to(&mut self.report_to, &transit);
                let mut current = Current::unwritten(stream, side, transit, Arc::clone(&self.report_to));
                current.tid = Tid::mint(&mut cx.core.entropy);
                current.wire = EndLineWatch::new(current.tid);
                current.interruptible = !piece.whole;
                current.piece_max = piece.body_max(bounds.chunk_max);
                current.on_wire = true;
                let byte_range = current.first_byte_range(piece, self.front_flag());
                current.write_head(out, byte_range);
                self.current = Some(current);
            }
        }
        cx.core.stats.chunks_out += 1;
        true
    }

    /// Writes body bytes, and the end-line if it is there.
    pub(super) fn write_pieces(
        &mut self,
        out: &mut OutBatch,
        budget: usize,
        transactions: &mut Transactions,
        cx: &mut WriteContext<'_>,
    ) -> Written {
        let Some(current) = self.current.as_mut() else {
            return Written::End;
        };
        // Writes an end at once: a cut before it would leave nothing for the last piece.
        while !current.interruptible || out.len() < budget || matches!(self.items.front(), Some(Item::End(_)))
        {
            match self.items.pop_front() {
                Some(Item::Body(mut bytes)) => {
                    let room = current.room();
                    if bytes.len() > room {
                        let rest = bytes.split_off(room);
                        self.items.push_front(Item::Body(rest));
                    }
                    if bytes.is_empty() {
                        current.release_held(out, cx);
                        self.end_piece(out, transactions, cx);
                        return Written::Full;
                    }
                    let room = budget.saturating_sub(out.len());
                    if current.interruptible && bytes.len() > room {
                        let rest = bytes.split_off(room);
                        self.items.push_front(Item::Body(rest));
                    }
                    current.release_held(out, cx);
                    let forged = current.interruptible.then(|| current.wire.end_line_in(&bytes)).flatten();
                    if let Some(forged) = forged {
                        let rest = bytes.split_off(forged);
                        self.items.push_front(Item::Body(rest));
                    }
                    self.owed += bytes.len();
                    if self.owed >= cx.credit_batch {
                        pay(self.source, &mut self.owed, cx);
                    }
                    if forged.is_some() {
                        current.write_body(bytes, out, cx);
                        if self.cut(out, transactions, cx) {
                            return Written::Cut;
                        }
                        return Written::Some;
                    }
                    if current.interruptible && self.items.is_empty() {
                        let last = bytes.len() - 1;
                        current.held = bytes.get(last).copied();
                        bytes.truncate(last);
                    }
                    current.write_body(bytes, out, cx);
                }
                Some(Item::End(flag)) => {
                    self.ends -= 1;
                    if let Some(current) = self.current.take() {
                        current.finish(flag, out, transactions, cx);
                    }
                    pay(self.source, &mut self.owed, cx);
                    return Written::End;
                }
                // A head cannot follow before the end. Put it back rather than lose it.
                Some(head) => {
                    debug_assert!(false, "a request begins before the one before it has ended");
                    self.items.push_front(head);
                    return Written::End;
                }
                None => break,
            }
        }
        Written::Some
    }

    /// Whether only the end of the request being written is left.
    pub(super) fn is_ending(&self) -> bool {
        matches!(self.items.front(), Some(Item::End(_)))
    }

    /// Ends the piece on the wire with `+`, so that another frame can be written.
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
        self.end_piece(out, transactions, cx);
        true
    }

    fn end_piece(&mut self, out: &mut OutBatch, transactions: &mut Transactions, cx: &WriteContext<'_>) {
        let Some(current) = self.current.as_mut() else {
            return;
        };
        current.on_wire = false;
        current.was_cut = true;
        out.small(|small| write_end_line(small, current.tid.as_bytes(), Flag::More, true));
        if cx.framed {
            out.end_frame();
        }
        current.expect_answer(transactions, cx);
        current.piece_start = current.next;
    }

    /// The request being written has failed. Returns the bytes to credit, and the message to send: to its sender if all
    /// of it has come in, else to its session, which stops it.
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
            let message = Message::ToSession {
                to: failure.notice.session,
                step: SessionStep::Broken { stream: failure.notice.stream, status: failure.status },
            };
            current.progress = Progress::Refused(Box::new(failure));
            Some(message)
        };
        self.forget_if_over();
        (credit, message)
    }

    /// Drops the queued body of the last request, which will not be completed. If its head is not written either, that
    /// head still tells the next hop. Returns the bytes dropped.
    pub(super) fn drop_tail(&mut self) -> usize {
        let mut dropped = 0;
        while let Some(item) = self.items.pop_back_if(|item| matches!(item, Item::Body(_))) {
            dropped += item.cost();
        }
        dropped
    }

    /// The failure to report if the request being written fails at this point.
    pub(super) fn failure_of_current(&self, status: Status) -> Option<Failure> {
        let going = |c: &&Current| matches!(c.progress, Progress::Going);
        let current = self.current.as_ref().filter(going)?;
        Some(Failure { notice: current.notice(), status })
    }

    /// The next hop wants no more of a message, or can get no more: its queued parts are not written. Whole chunks have
    /// been answered already, so each failure is reported; a chunk that still comes in is stopped at its session.
    /// Returns the bytes to credit.
    pub(super) fn stop(
        &mut self,
        is_stopped: impl Fn(SessionSide, &Transit) -> bool,
        messages: &mut Vec<Message>,
    ) -> usize {
        let mut dropped = 0;
        let mut notices = Vec::new();
        let mut kept = VecDeque::with_capacity(self.items.len());
        let mut items = mem::take(&mut self.items).into_iter().peekable();
        // Items before the first head belong to the request being written.
        while let Some(item) = items.next_if(|item| !matches!(item, Item::Head { .. })) {
            kept.push_back(item);
        }
        while let Some(head) = items.next() {
            let mut request = vec![head];
            while let Some(item) = items.next_if(|item| !matches!(item, Item::Head { .. })) {
                request.push(item);
            }
            let complete = matches!(request.last(), Some(Item::End(_)));
            match request.first() {
                Some(Item::Head { stream, side, transit }) if is_stopped(*side, transit) => {
                    let status = Status::STOP;
                    if !complete {
                        let (session, stream) = (side.session, *stream);
                        messages.push(Message::ToSession {
                            to: session,
                            step: SessionStep::Broken { stream, status },
                        });
                        kept.extend(request);
                        continue;
                    }
                    let bytes: usize = request.iter().map(body_len).sum();
                    dropped += request.iter().map(Item::cost).sum::<usize>();
                    self.ends -= 1;
                    let aborted = matches!(request.last(), Some(Item::End(Flag::Aborted)));
                    let mut failure = unwritten_failure(*stream, *side, transit.clone());
                    if let Some(failure) = failure.as_mut().filter(|_| !aborted) {
                        failure.notice.extend(bytes as u64);
                        merge(&mut notices, failure.notice.clone());
                    }
                }
                _ => kept.extend(request),
            }
        }
        self.items = kept;
        let status = Status::STOP;
        messages.extend(notices.into_iter().map(|notice| Message::ToSession {
            to: notice.session,
            step: SessionStep::Failed { notice, status },
        }));
        dropped
    }

    /// The length of successive body items after so many items.
    fn front_body_len(&self, behind: usize) -> usize {
        let bodies = self.items.iter().skip(behind).take_while(|item| matches!(item, Item::Body(_)));
        bodies.map(body_len).sum()
    }

    fn front_flag(&self) -> Option<Flag> {
        self.items.iter().find_map(|item| match item {
            Item::End(flag) => Some(*flag),
            Item::Head { .. } | Item::Body(_) => None,
        })
    }

    /// The steps that queue all of it at another connection.
    pub(super) fn release(self) -> impl Iterator<Item = PeerStep> {
        debug_assert!(self.current.is_none(), "nothing has been written");
        let mut front = None;
        self.items.into_iter().filter_map(move |item| {
            if let Item::Head { stream, .. } = &item {
                front = Some(*stream);
            }
            let stream = front?;
            Some(match item {
                Item::Head { side, transit, .. } => PeerStep::Head { side, stream, transit },
                Item::Body(bytes) => PeerStep::Body { stream, bytes },
                Item::End(flag) => PeerStep::End { stream, flag },
            })
        })
    }

    /// Empties the queue of a connection that is gone. `pieces` are the written and unanswered pieces of the request
    /// that still comes in.
    pub(super) fn drain(&mut self, pieces: Option<Notice>, loss: &mut Loss) {
        let mut credit = mem::take(&mut self.owed);
        let mut current = self.current.take();
        for item in mem::take(&mut self.items) {
            credit += item.cost();
            match item {
                Item::Head { stream, side, transit } => {
                    share_report_to(&mut self.report_to, &transit);
                    let report_to = Arc::clone(&self.report_to);
                    current = Some(Current::unwritten(stream, side, transit, report_to));
                }
                Item::Body(bytes) => {
                    if let Some(current) = current.as_mut() {
                        current.next = current.next.saturating_add(bytes.len() as u64);
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
    let bytes = mem::take(owed);
    if bytes > 0 {
        cx.core.tell_peer(source, PeerStep::Credit { from: cx.core.me, bytes });
    }
}

/// What to do after a connection is gone.
#[derive(Debug, Default)]
pub(crate) struct Loss {
    /// For each complete message that did not arrive.
    pub(crate) notices: Vec<Notice>,
    /// Requests that still come in.
    pub(crate) orphans: Vec<Failure>,
    /// Bytes to give back.
    pub(crate) credits: Vec<(PeerRef, usize)>,
}
