//! What leaves by one connection: requests queued per source, written as chunks, cut when needed.
//!
//! Invariants, all of RFC 4975, 7.1.1 and RFC 4976, 6.4:
//! - one chunk is open on a connection at a time;
//! - a chunk is written either whole, from bytes all at hand, or as interruptible; above 2048 bytes
//!   its Byte-Range says `start-*` either way;
//! - a response, a REPORT of this relay's own, and another source's request (a forwarded REPORT is one) wait for at
//!   most one flush of a chunk that may be interrupted;
//! - the pieces of a message are gapless and in order, each with a transaction id of its own, and
//!   the last one carries the flag that was received;
//! - the end-line of a chunk does not stand in its body (RFC 4975, 7.1): a peer that reads our transaction
//!   ids cannot make a friend send frames in our name;
//! - towards a peer with a bound for its chunks (`outbound.max_chunk`) no SEND has a longer body;
//! - a source's bytes are credited back once, when they are written or dropped.
//!
//! While a chunk streams, its last byte at hand is held until more comes or it ends. So a cut always leaves a byte for
//! the piece with the final flag.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use msrp_proto::head::Method;
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::write::write_end_line;

use super::batch::OutBatch;
use super::flow::{Flow, Loss, Written};
use super::framing::{Bounds, Framing};
use super::item::{Item, SpareQueues};
use super::write::{UNBOUNDED, WriteContext};
use crate::ids::{CoreId, PeerRef, StreamId, Tid};
use crate::message::{Message, PeerStep, SessionStep};
use crate::orphans::Failure;
use crate::request::{Notice, SessionSide, Transit};
use crate::settings::WebSocket;
use crate::transactions::{RESPONSE_TIMEOUT, Room, Transactions};

/// Bytes of room that an empty buffer for answers keeps.
const CONTROL_ROOM_KEPT: usize = 4 << 10;

/// What one connection will write.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    /// Complete frames of this relay and its answers, first in line.
    control: Vec<u8>,
    /// What is in there is rare: once it is written, the room for it is given back.
    control_is_rare: bool,
    /// A part of the first of them is written: they were more than a flush.
    control_cut: bool,
    /// One queue per connection that requests come from.
    flows: VecDeque<Flow>,
    /// The front flow's chunk is on the wire, its end-line is not.
    chunk_open: bool,
    /// The most body bytes of a SEND that the peer takes in one chunk.
    chunk_max: Option<u32>,
    /// Each frame goes into a message of its own.
    framing: Option<Box<Framing>>,
    pub(crate) transactions: Transactions,
    /// The path of the last REPORT: the next one usually goes there, too.
    report_to: Arc<[u8]>,
}

impl Outbound {
    /// Where to append an answer or a REPORT of ours; it is written before anything else.
    pub(crate) fn control(&mut self) -> &mut Vec<u8> {
        if let Some(framing) = &mut self.framing {
            framing.begin_control(self.control.len());
        }
        &mut self.control
    }

    /// The same for an answer that hardly another follows: most connections authenticate once and then do nothing.
    pub(crate) fn rare_control(&mut self) -> &mut Vec<u8> {
        self.control_is_rare = true;
        self.control()
    }

    /// Each frame goes into a message of its own from now on, and no session has more unanswered than its window; or by
    /// these settings, if that is so already.
    pub(crate) fn frame(&mut self, settings: &WebSocket) {
        match &mut self.framing {
            Some(framing) => framing.reconfigure(settings),
            None => {
                self.framing = Some(Box::new(Framing::new(settings)));
                self.transactions.count_by_session();
            }
        }
    }

    pub(crate) fn is_framed(&self) -> bool {
        self.framing.is_some()
    }

    /// The peer has answered something: what waits behind that is not late.
    pub(crate) fn note_answer(&mut self, now: Instant) {
        if let Some(framing) = &mut self.framing {
            framing.note_answer(now);
        }
    }

    /// When something will have waited too long for an answer.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let deadline = self.transactions.deadline()?;
        let patient_until = self.framing.as_ref().and_then(|framing| framing.patient_until());
        Some(patient_until.map_or(deadline, |until| deadline.max(until)))
    }

    /// Whether the peer is one that takes whatever it is sent and answers when it has stored it, and has not for so long.
    pub(crate) fn has_answered_nothing_for(&self, time: Duration, now: Instant) -> bool {
        self.is_framed() && self.deadline().is_some_and(|at| at + time <= now + RESPONSE_TIMEOUT)
    }

    /// The next request that has waited too long for an answer.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Notice> {
        self.deadline().filter(|at| *at <= now)?;
        self.transactions.expire(now)
    }

    /// The peer takes chunks up to this size.
    pub(crate) fn bound_chunks(&mut self, chunk_max: Option<u32>) {
        self.chunk_max = chunk_max;
    }

    /// The same for one more session: the lower bound holds.
    pub(crate) fn bound_chunks_further(&mut self, chunk_max: Option<u32>) {
        self.chunk_max = [self.chunk_max, chunk_max].into_iter().flatten().min();
    }

    pub(crate) fn control_len(&self) -> usize {
        self.control.len()
    }

    /// Bytes of memory taken beside the queued bytes, which count for their sources.
    pub(crate) fn kept(&self) -> usize {
        let control = match self.control.capacity() {
            room if room > CONTROL_ROOM_KEPT => room,
            _ => self.control.len(),
        };
        control + self.transactions.weight()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.control.is_empty() && self.flows.iter().all(Flow::is_idle)
    }

    pub(crate) fn open(
        &mut self,
        stream: StreamId,
        side: SessionSide,
        transit: Transit,
        spare: &mut SpareQueues,
    ) {
        let flow = self.flow(stream.peer, spare);
        if flow.tail.is_some() {
            // The core that handed over the request before has died, and the source heard that before we did.
            debug_assert_ne!(flow.tail_by, Some(side.session.core), "a request begins within another");
            flow.items.push_back(Item::End(Flag::Aborted));
            flow.ends += 1;
        }
        flow.tail = Some(stream);
        flow.tail_by = Some(side.session.core);
        flow.items.push_back(Item::Head { stream, side, transit });
    }

    /// Queues body bytes; returns how many are not wanted.
    pub(crate) fn piece(&mut self, stream: StreamId, bytes: Bytes) -> Option<usize> {
        let Some(flow) = self.flows.iter_mut().find(|f| f.tail == Some(stream)) else {
            return Some(bytes.len());
        };
        if let Some(failure) = flow.refused(stream) {
            failure.notice.extend(bytes.len() as u64);
            return Some(bytes.len());
        }
        flow.push_body(bytes);
        None
    }

    /// Whether bytes or the end of this request are still to come.
    pub(crate) fn expects(&self, stream: StreamId) -> bool {
        self.flows.iter().any(|f| f.tail == Some(stream))
    }

    /// The end of a request. If the next hop has refused it meanwhile, but the hop before has not stopped it, its
    /// failure is reported here. If it is aborted, its queued bytes are dropped (RFC 4975, 7.1.1): also returns the
    /// bytes to credit.
    pub(crate) fn close(&mut self, stream: StreamId, flag: Flag) -> (usize, Option<Failure>) {
        let Some(flow) = self.flows.iter_mut().find(|f| f.tail == Some(stream)) else {
            return (0, None);
        };
        flow.tail = None;
        if flow.refused(stream).is_some() {
            return (0, flow.end_refused().filter(|_| flag != Flag::Aborted));
        }
        let mut dropped = 0;
        if flag == Flag::Aborted {
            if flow.was_cut(stream) {
                // A sender that aborts a request knows that it failed: its pieces need no verdict.
                self.transactions.take_merged(stream);
            }
            dropped = flow.drop_tail();
        }
        flow.items.push_back(Item::End(flag));
        flow.ends += 1;
        (dropped, None)
    }

    fn flow(&mut self, source: PeerRef, spare: &mut SpareQueues) -> &mut Flow {
        let found = self.flows.iter().position(|f| f.source == source);
        let index = found.unwrap_or_else(|| {
            let items = spare.0.pop().unwrap_or_default();
            self.flows.push_back(Flow::new(source, items, Arc::clone(&self.report_to)));
            self.flows.len() - 1
        });
        &mut self.flows[index]
    }

    /// Whether the next byte to write begins a frame.
    pub(crate) fn is_between_frames(&self) -> bool {
        !self.chunk_open && !self.control_cut
    }

    /// Takes the written bytes that are not yet credited, by the connections they came from.
    pub(crate) fn take_owed(&mut self) -> impl Iterator<Item = (PeerRef, usize)> {
        self.flows.iter_mut().map(Flow::take_owed)
    }

    /// The request that waits for the response with this id: one that is written, or the chunk on the wire (an answer
    /// may come before its end).
    pub(crate) fn answered(&mut self, tid: Tid) -> Option<Notice> {
        self.transactions.end(tid).or_else(|| {
            let flow = self.flows.front_mut().filter(|_| self.chunk_open)?;
            flow.answered_on_wire(tid)
        })
    }

    /// The next hop has refused a request, or has been silent for too long. If the request is still being written, its
    /// chunk is aborted and its queued bytes are dropped. If the next hop wants the whole message stopped (413), its
    /// other queued chunks are dropped, too. Returns the bytes to credit to the source, and the messages to send.
    pub(crate) fn fail(&mut self, mut failure: Failure) -> (usize, Vec<Message>) {
        let stream = failure.notice.stream;
        let stopped = (failure.status == Status::STOP).then(|| failure.notice.clone());
        let (mut dropped, mut messages) = (0, Vec::new());
        match self.flows.iter_mut().find(|f| f.is_writing(stream)) {
            Some(flow) => {
                if flow.was_cut(stream) {
                    failure.notice = self.transactions.absorb(failure.notice);
                }
                let (bytes, message) = flow.refuse(failure);
                dropped += bytes;
                messages.extend(message);
            }
            None => {
                if self.chunk_max.is_some() {
                    // It may have left in many pieces, and the peer refuses each: that counts as one failure.
                    failure.notice = self.transactions.absorb(failure.notice);
                }
                messages.push(failure.into_message());
            }
        }
        if let Some(stopped) = stopped
            && let Some(flow) = self.flows.iter_mut().find(|f| f.source == stream.peer)
        {
            dropped += flow.stop(|side, transit| stopped.is_of(side, transit), &mut messages);
            // The chunk on the wire may be a later one of the same message: it is interrupted at once.
            let current = flow.failure_of_current(Status::STOP);
            if let Some(failure) = current.filter(|failure| failure.notice.is_like(&stopped)) {
                dropped += self.give_up_current(failure, &mut messages);
            }
        }
        (dropped, messages)
    }

    /// Refuses the request that its flow is writing, including the pieces that are on the way.
    fn give_up_current(&mut self, mut failure: Failure, messages: &mut Vec<Message>) -> usize {
        let stream = failure.notice.stream;
        let Some(flow) = self.flows.iter_mut().find(|f| f.is_writing(stream)) else {
            return 0;
        };
        if flow.was_cut(stream) {
            failure.notice = self.transactions.absorb(failure.notice);
        }
        let (bytes, message) = flow.refuse(failure);
        messages.extend(message);
        bytes
    }

    /// Refuses everything that waits from one source, with 413. Returns the bytes to credit to it, and the messages to
    /// send.
    pub(crate) fn shed(&mut self, source: PeerRef) -> (usize, Vec<Message>) {
        let mut messages = Vec::new();
        let Some(flow) = self.flows.iter_mut().find(|f| f.source == source) else {
            return (0, messages);
        };
        let mut dropped = flow.stop(|_, _| true, &mut messages);
        if let Some(failure) = flow.failure_of_current(Status::STOP) {
            dropped += self.give_up_current(failure, &mut messages);
        }
        (dropped, messages)
    }

    /// Moves the bytes that may be written into `out`, up to about `budget` bytes: one flush.
    pub(crate) fn fill(&mut self, out: &mut OutBatch, budget: usize, cx: &mut WriteContext<'_>) {
        self.abort_if_refused(out);
        self.cut_if_others_wait(out, budget, cx);
        // Each turn ends a request, fills a chunk up to its bound, or leaves its flow with nothing to write. `waiting`
        // counts successive flows with nothing to write, so the loop ends after one look at each.
        let mut waiting = 0;
        while out.len() < budget {
            self.write_control(out, budget);
            if self.control_cut {
                break;
            }
            let room_for_transactions = self.has_room(cx);
            let bounds = bounds(self.chunk_max, self.framing.as_deref(), &self.transactions, cx);
            let Some(flow) = self.flows.front_mut() else {
                break;
            };
            let mut ended = false;
            let begins = !self.chunk_open && room_for_transactions && flow.begin(out, budget, bounds, cx);
            if begins {
                // Once for each chunk, not for each flush of one.
                give_up_answers(&mut self.transactions, cx);
            }
            if self.chunk_open || begins {
                self.chunk_open = true;
                match flow.write_pieces(out, budget, &mut self.transactions, cx) {
                    Written::Some => break,
                    Written::End | Written::Full => ended = true,
                    Written::Cut => {}
                }
                self.chunk_open = false;
            }
            waiting = if ended { 0 } else { waiting + 1 };
            if flow.is_idle() {
                if let Some(flow) = self.flows.pop_front() {
                    let (items, report_to) = flow.retire();
                    cx.core.spare.give(items);
                    self.report_to = report_to;
                }
            } else {
                if waiting >= self.flows.len() {
                    break;
                }
                self.flows.rotate_left(1);
            }
        }
        self.write_control(out, budget);
        if self.control.is_empty()
            && (mem::take(&mut self.control_is_rare) || self.control.capacity() > CONTROL_ROOM_KEPT)
        {
            // A burst must not take memory for as long as the connection lives.
            self.control = Vec::new();
        }
    }

    /// Moves answers and REPORTs into the flush, as far as they fit: what is handed over stays in memory until the peer
    /// takes it.
    fn write_control(&mut self, out: &mut OutBatch, budget: usize) {
        if let Some(framing) = &mut self.framing {
            framing.write_control(&mut self.control, out, budget);
        } else if !self.chunk_open && out.push_small(&mut self.control, budget) > 0 {
            self.control_cut = !self.control.is_empty();
        }
    }

    /// Whether a further request may be written. A full table holds writing back until answers come. But while this
    /// connection is paused, we do not read the answers, and two such floods would hold up each other for ever: then
    /// the oldest transactions are given up.
    fn has_room(&self, cx: &WriteContext<'_>) -> bool {
        cx.deaf || !self.transactions.is_full(cx.room)
    }

    /// The next hop does not want the chunk on the wire: it ends with `#` (RFC 4975, 7.3.2).
    fn abort_if_refused(&mut self, out: &mut OutBatch) {
        if !self.chunk_open {
            return;
        }
        let Some(flow) = self.flows.front_mut() else {
            return;
        };
        if let Some(tid) = flow.abort_refused() {
            out.small(|small| write_end_line(small, tid.as_bytes(), Flag::Aborted, true));
            self.chunk_open = false;
        }
    }

    /// Cuts a chunk that has been on the wire for a flush, if a response or a REPORT of ours waits (`control`), or a
    /// request of another source, a forwarded REPORT included.
    fn cut_if_others_wait(&mut self, out: &mut OutBatch, budget: usize, cx: &WriteContext<'_>) {
        if !self.chunk_open {
            return;
        }
        let bounds = bounds(self.chunk_max, self.framing.as_deref(), &self.transactions, cx);
        let others_wait =
            || self.has_room(cx) && self.flows.iter().skip(1).any(|f| f.is_ready(budget, bounds));
        if self.control.is_empty() && !others_wait() {
            return;
        }
        let Some(flow) = self.flows.front_mut() else {
            return;
        };
        // A chunk that is about to end does so at once, with its own flag: no piece of an aborted request may get a
        // verdict.
        if !flow.is_ending() && flow.cut(out, &mut self.transactions, cx) {
            self.chunk_open = false;
            self.flows.rotate_left(1);
        }
    }

    /// Requests coming in from a dead core: their end will never come.
    pub(crate) fn streams_from(&self, gone: CoreId) -> Vec<StreamId> {
        let coming = self.flows.iter().filter_map(|f| f.tail.zip(f.tail_by));
        coming.filter(|(s, by)| s.peer.core == gone || *by == gone).map(|(stream, _)| stream).collect()
    }

    /// The steps that queue everything at another connection. For a connection that was never up: nothing of it is
    /// written.
    pub(crate) fn release(&mut self) -> Vec<PeerStep> {
        mem::take(&mut self.flows).into_iter().flat_map(Flow::release).collect()
    }

    /// The connection is gone. Ends the chunk on the wire, in case there is one more flush.
    pub(crate) fn lose(&mut self) -> Loss {
        let mut control = Vec::new();
        if self.chunk_open
            && let Some(tid) = self.flows.front().and_then(Flow::on_wire)
        {
            write_end_line(&mut control, tid.as_bytes(), Flag::Aborted, true);
        }
        control.append(&mut self.control);
        self.control = control;
        self.chunk_open = false;
        let mut loss = Loss::default();
        let mut flows = mem::take(&mut self.flows);
        // Pieces of requests that still come in belong to those, not to the message so far.
        let pieces: Vec<Option<Notice>> =
            flows.iter().map(|f| self.transactions.take_merged(f.tail?)).collect();
        loss.notices = self.transactions.drain_merged();
        for (flow, pieces) in flows.iter_mut().zip(pieces) {
            flow.drain(pieces, &mut loss);
        }
        loss
    }
}

/// What bounds the next chunk. Two pages that send to each other and are not read from would wait for each other's answers
/// for ever: the window is not looked at while a peer's answers are not read.
fn bounds<'o>(
    chunk_max: Option<u32>,
    framing: Option<&'o Framing>,
    transactions: &'o Transactions,
    cx: &WriteContext<'_>,
) -> Bounds<'o> {
    let unanswered = transactions.unanswered().filter(|_| !cx.deaf && !cx.closing);
    Bounds {
        chunk_max: chunk_max.map_or(UNBOUNDED, u64::from),
        messages: framing.map(|framing| framing.messages(unanswered)),
    }
}

/// Makes room in the table for the request that has begun. The sender of a SEND has had its 200. A request that waits
/// for an answer from the far end gets one from us. While memory is short, one is given up for each that begins, so
/// that their number does not grow.
fn give_up_answers(transactions: &mut Transactions, cx: &mut WriteContext<'_>) {
    let mut too_many = transactions.is_full(cx.room);
    while too_many {
        match transactions.give_up_oldest() {
            Some(notice) if notice.method != Method::Send => {
                let status = Status::TIMEOUT;
                cx.core.tell_session(notice.session, SessionStep::Failed { notice, status });
            }
            Some(_) => {}
            None => break,
        }
        too_many = transactions.is_full(Room::ample(cx.room.max));
    }
}
