//! Who waits for a response on one connection: the requests this relay sent there.
//!
//! Invariants: a transaction ends once, by its response, its deadline or the loss of the
//! connection; at most `transactions_per_peer_max` are open, fewer if they hold long paths, and the
//! connection takes no new request beyond that; the table drains and gives its memory back.
//! RFC 4976, 6.4.1 (the 30 s) and 6.4.3.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use super::ids::{StreamId, Tid};
use super::message::Notice;
use crate::proto::head::FailureReport;

/// How long a response may take, from the last octet handed over (RFC 4976, 6.4.1).
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Octets that a transaction may hold on average when the table is full. An ordinary one holds
/// half of that; paths are shared by successors, but a peer may send a long one and another in turn.
const WEIGHT_MAX: usize = 1024;
/// Entries that an empty table keeps room for.
const ROOM_KEPT: usize = 64;

/// The transaction ids are this relay's own random octets: they need no further hashing, and
/// nobody else can choose what is put into the table.
#[derive(Default, Debug)]
pub(crate) struct TidHasher(u64);

impl Hasher for TidHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, octets: &[u8]) {
        for octet in octets {
            self.0 = self.0.rotate_left(8) ^ u64::from(*octet);
        }
    }
    fn write_u64(&mut self, word: u64) {
        // Letters and digits leave the low bits uneven; the multiplication spreads them.
        self.0 = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// The open transactions of one connection.
#[derive(Debug, Default)]
pub(crate) struct Transactions {
    open: HashMap<Tid, Transaction, BuildHasherDefault<TidHasher>>,
    /// Oldest first; ids whose transaction has ended stay until they reach the front.
    order: VecDeque<Tid>,
    /// Octets held by the open ones.
    weight: usize,
}

#[derive(Debug)]
struct Transaction {
    notice: Notice,
    deadline: Instant,
}

impl Transactions {
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether another request must wait; `max` bounds how many are open.
    pub(crate) fn is_full(&self, max: usize) -> bool {
        self.open.len() >= max || self.weight >= max.saturating_mul(WEIGHT_MAX)
    }

    /// The last octet of a request has been handed over.
    pub(crate) fn begin(&mut self, tid: Tid, notice: Notice, now: Instant) {
        self.weight += weight(&notice);
        self.open.insert(
            tid,
            Transaction {
                notice,
                deadline: now + RESPONSE_TIMEOUT,
            },
        );
        self.order.push_back(tid);
    }

    /// A response has come. `None`: nobody waits for it (a stray, or the second of two).
    pub(crate) fn end(&mut self, tid: Tid) -> Option<Notice> {
        let ended = self.open.remove(&tid)?;
        self.weight -= weight(&ended.notice);
        self.forget_ended();
        Some(ended.notice)
    }

    /// One piece of a request has failed, and the request with it: its other pieces are no longer
    /// waited for. Returns the failed piece's notice, widened to cover them.
    pub(crate) fn absorb(&mut self, mut notice: Notice) -> Notice {
        self.take_all_of(notice.stream, |other| notice.widen(other.range));
        notice
    }

    /// Ends the transactions of all pieces of a request, into one notice.
    pub(crate) fn take_merged(&mut self, stream: StreamId) -> Option<Notice> {
        let mut merged: Option<Notice> = None;
        self.take_all_of(stream, |piece| match &mut merged {
            Some(merged) => merged.widen(piece.range),
            None => merged = Some(piece),
        });
        merged
    }

    /// Ends the transactions of all pieces of a request.
    pub(crate) fn take_all_of(&mut self, stream: StreamId, mut take: impl FnMut(Notice)) {
        for (_, ended) in self.open.extract_if(|_, t| t.notice.stream == stream) {
            self.weight -= weight(&ended.notice);
            take(ended.notice);
        }
        self.forget_ended();
    }

    /// The next transaction that has waited too long; `None` when there is none left.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Notice> {
        let tid = *self.order.front()?;
        let oldest = self.open.get(&tid)?;
        if oldest.deadline > now {
            return None;
        }
        self.end(tid)
    }

    /// When [`expire`](Self::expire) will next find something.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.open.get(self.order.front()?).map(|t| t.deadline)
    }

    /// The connection is gone: everything still open, oldest first, the pieces of one message
    /// merged into one notice (one REPORT per Message-ID, not a storm).
    pub(crate) fn drain_merged(&mut self) -> Vec<Notice> {
        let mut merged: Vec<Notice> = Vec::new();
        self.weight = 0;
        for tid in std::mem::take(&mut self.order) {
            if let Some(transaction) = self.open.remove(&tid) {
                merge(&mut merged, transaction.notice);
            }
        }
        merged
    }

    fn forget_ended(&mut self) {
        while self
            .order
            .front()
            .is_some_and(|tid| !self.open.contains_key(tid))
        {
            self.order.pop_front();
        }
        // One unanswered request at the front must not keep thousands of answered ones behind it.
        if self.order.len() > 2 * self.open.len() + ROOM_KEPT {
            self.order.retain(|tid| self.open.contains_key(tid));
        }
        // A burst must not be remembered in memory for as long as the connection lives.
        if self.open.is_empty() && self.open.capacity() > 4 * ROOM_KEPT {
            self.open.shrink_to(ROOM_KEPT);
            self.order.shrink_to(ROOM_KEPT);
        }
    }
}

fn weight(notice: &Notice) -> usize {
    let id = notice
        .message_id
        .as_ref()
        .map_or(0, |id| id.as_bytes().len());
    size_of::<Transaction>() + notice.report_to.len() + id
}

/// How far back pieces of the same message are looked for: messages rarely interleave deeper, and
/// thousands of different ones must not cost their square.
const MERGE_WINDOW: usize = 64;

/// Adds a failure to a list, widening the range of an earlier one of the same message that it
/// continues: octets between two failures may have arrived, or have been told of already.
pub(crate) fn merge(merged: &mut Vec<Notice>, notice: Notice) {
    let continues = |n: &&mut Notice| {
        n.session == notice.session
            && n.inward == notice.inward
            && n.method == notice.method
            && n.failure_report != FailureReport::No
            && n.message_id.is_some()
            && n.message_id == notice.message_id
            && n.report_to == notice.report_to
            && n.range.end.and_then(|end| end.checked_add(1)) == Some(notice.range.start)
    };
    match merged.iter_mut().rev().take(MERGE_WINDOW).find(continues) {
        Some(earlier) => earlier.widen(notice.range),
        None => merged.push(notice),
    }
}
