//! A connection that carries each frame in a message of its own, as WebSocket does (RFC 7977, 5.1), and whose peer cannot
//! push back: what it is sent and has not answered is bounded for each session.
//!
//! Invariants: a flush holds whole frames, and says where each ends; a chunk is cut so that its message is no longer than
//! `websocket.max_message`, as far as it may be cut; of one session no more than `websocket.window` body bytes wait for a
//! response, where one is due.

use std::collections::VecDeque;
use std::time::Instant;

use super::batch::OutBatch;
use super::write::INTERRUPTIBLE_FROM;
use crate::ids::SessionRef;
use crate::settings::WebSocket;
use crate::transactions::{RESPONSE_TIMEOUT, Unanswered};

/// What is written of a frame beside its head and its body, at most: the new Byte-Range and transaction id, the end-line.
const AROUND_BODY_BYTES: u64 = 160;

/// What holds for a connection that carries each frame in a message of its own.
#[derive(Debug)]
pub(super) struct Framing {
    max_message: u64,
    window: u64,
    /// Where the frames in the buffer for answers begin.
    starts: VecDeque<usize>,
    /// When the peer last answered something.
    last_answer: Option<Instant>,
}

impl Framing {
    pub(super) fn new(settings: &WebSocket) -> Self {
        let WebSocket { max_message, window, .. } = *settings;
        Self { max_message: max_message.into(), window, starts: VecDeque::new(), last_answer: None }
    }

    pub(super) fn reconfigure(&mut self, settings: &WebSocket) {
        self.max_message = settings.max_message.into();
        self.window = settings.window;
    }

    /// The most body bytes of a chunk with such a head.
    pub(super) fn body_max(&self, head_bytes: usize) -> u64 {
        let around = head_bytes as u64 + AROUND_BODY_BYTES;
        self.max_message.saturating_sub(around).max(INTERRUPTIBLE_FROM)
    }

    /// What holds for the next chunk. Where `unanswered` is not given the window is not looked at.
    pub(super) fn messages<'f>(&'f self, unanswered: Option<&'f Unanswered>) -> Messages<'f> {
        Messages { framing: self, unanswered }
    }

    /// A frame begins in the buffer for answers, which has so many bytes.
    pub(super) fn begin_control(&mut self, len: usize) {
        if self.starts.back() != Some(&len) {
            self.starts.push_back(len);
        }
    }

    /// Moves whole frames into the flush, as far as they fit, but one at least into an empty one.
    pub(super) fn write_control(&mut self, control: &mut Vec<u8>, out: &mut OutBatch, budget: usize) {
        let (mut taken, mut frames) = (0, 0);
        while taken < control.len() {
            let end = self.starts.get(frames + 1).copied().unwrap_or(control.len());
            let frame = control.get(taken..end).unwrap_or_default();
            if !out.is_empty() && out.len() + frame.len() > budget {
                break;
            }
            out.small(|small| small.extend_from_slice(frame));
            out.end_frame();
            taken = end;
            frames += 1;
        }
        control.drain(..taken);
        self.starts.drain(..frames);
        self.starts.iter_mut().for_each(|start| *start -= taken);
    }

    pub(super) fn note_answer(&mut self, now: Instant) {
        self.last_answer = Some(now);
    }

    /// Before that nothing has waited too long: what waits behind a chunk that has just been answered is not late.
    pub(super) fn patient_until(&self) -> Option<Instant> {
        self.last_answer.map(|at| at + RESPONSE_TIMEOUT)
    }
}

/// What bounds the chunks of a connection.
#[derive(Clone, Copy)]
pub(super) struct Bounds<'f> {
    /// The most body bytes of a SEND.
    pub(super) chunk_max: u64,
    /// Each goes into a message of its own.
    pub(super) messages: Option<Messages<'f>>,
}

/// What bounds a message.
#[derive(Clone, Copy)]
pub(super) struct Messages<'f> {
    framing: &'f Framing,
    unanswered: Option<&'f Unanswered>,
}

impl Messages<'_> {
    /// How many of the body bytes at hand go into the next chunk, and whether the request ends with it. `None`: it waits,
    /// for more bytes, an answer, or another flush.
    pub(super) fn next(&self, waiting: &Waiting) -> Option<(u64, bool)> {
        let Waiting { session, head_bytes, at_hand, is_complete, chunk_max, room, budget } = *waiting;
        let body_max = chunk_max.min(self.framing.body_max(head_bytes));
        let is_last = is_complete && at_hand <= body_max;
        // Something must be left for the piece that carries the final flag.
        let mut bytes = if is_last { at_hand } else { body_max.min(at_hand.saturating_sub(1)) };
        if !is_complete && bytes < INTERRUPTIBLE_FROM.min(body_max) {
            return None;
        }
        if let Some(unanswered) = self.unanswered.map(|unanswered| unanswered.of(session)) {
            let left = self.framing.window.saturating_sub(unanswered);
            if bytes > left && unanswered > 0 {
                return None;
            }
            bytes = bytes.min(left);
        }
        if bytes > room {
            if room < budget / 2 {
                return None;
            }
            bytes = room;
        }
        Some((bytes, is_last && bytes == at_hand))
    }
}

/// What waits to go into a message.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    pub(super) session: SessionRef,
    pub(super) head_bytes: usize,
    /// Body bytes.
    pub(super) at_hand: u64,
    /// The end of the request is there, too.
    pub(super) is_complete: bool,
    pub(super) chunk_max: u64,
    /// What is left of the flush, and what it had in the beginning.
    pub(super) room: u64,
    pub(super) budget: u64,
}
