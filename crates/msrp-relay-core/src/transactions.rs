//! The open transactions of one connection: requests that this relay sent there and that await a response.
//!
//! Invariants: a transaction ends once, by its response, its deadline or the loss of the connection; at most
//! `transactions_per_peer_max` are open, fewer if they hold long paths or memory is short, and the connection takes no
//! new request beyond that; the table empties and gives its memory back. Its bytes count against the memory budget. RFC
//! 4976, 6.4.1 (the 30 s) and 6.4.3.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use crate::ids::{SessionRef, StreamId, Tid};
use crate::request::Notice;
use msrp_proto::head::FailureReport;

/// How long a response may take, from the last byte handed over (RFC 4976, 6.4.1).
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes that a transaction may hold on average when the table is full. An ordinary one holds half of that. Later
/// requests share paths, but a peer may alternate long ones.
const WEIGHT_MAX: usize = 1024;
/// Entries that an empty table keeps room for.
const ROOM_KEPT: usize = 64;

/// The transaction ids are this relay's own random bytes: they need no further hashing, and no peer can choose a key of
/// the table.
#[derive(Default, Debug)]
pub(crate) struct TidHasher(u64);

impl Hasher for TidHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u64(&mut self, word: u64) {
        // Letters and digits leave the low bits uneven; the multiplication spreads them.
        self.0 = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// How many transactions one connection may have open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// How many before the next request waits: fewer than `max` while memory is short.
    pub(crate) now: usize,
    /// At most.
    pub(crate) max: usize,
}

impl Room {
    /// While there is memory.
    pub(crate) fn ample(max: usize) -> Self {
        Self { now: max, max }
    }

    /// While memory is short.
    pub(crate) fn short(max: usize) -> Self {
        Self { now: max.min(PRESSED_MAX), max }
    }
}

/// How many transactions of one connection hold back further requests while memory is short: the floor of
/// `limits.transactions_per_peer_max`, so that a peer that answers still gets requests.
const PRESSED_MAX: usize = 16;

/// The open transactions of one connection.
#[derive(Debug, Default)]
pub(crate) struct Transactions {
    open: HashMap<Tid, Transaction, BuildHasherDefault<TidHasher>>,
    /// Transactions that will be answered.
    awaited: Order,
    /// Requests with Failure-Report `partial`: a peer answers them only to refuse them.
    unlikely: Order,
    /// Bytes held by the open ones.
    weight: usize,
    /// Body bytes of those that will be answered, where that is counted.
    unanswered: Option<Unanswered>,
}

/// Body bytes that wait for a response, by session: few at a time on one connection.
#[derive(Debug, Default)]
pub(crate) struct Unanswered(Vec<(SessionRef, u64)>);

impl Unanswered {
    pub(crate) fn of(&self, session: SessionRef) -> u64 {
        self.0.iter().find(|(one, _)| *one == session).map_or(0, |(_, bytes)| *bytes)
    }

    fn add(&mut self, notice: &Notice) {
        let bytes = body_bytes(notice);
        match self.0.iter_mut().find(|(one, _)| *one == notice.session) {
            Some((_, sum)) => *sum += bytes,
            None if bytes > 0 => self.0.push((notice.session, bytes)),
            None => {}
        }
    }

    fn subtract(&mut self, notice: &Notice) {
        let found = self.0.iter().position(|(one, _)| *one == notice.session);
        if let Some((index, (_, sum))) = found.and_then(|index| Some((index, self.0.get_mut(index)?))) {
            *sum = sum.saturating_sub(body_bytes(notice));
            if *sum == 0 {
                self.0.swap_remove(index);
            }
        }
    }
}

fn body_bytes(notice: &Notice) -> u64 {
    let end = notice.range.end.unwrap_or(0);
    (end + 1).saturating_sub(notice.range.start)
}

/// Oldest first; ids whose transaction has ended stay until they reach the front.
#[derive(Debug, Default)]
struct Order {
    tids: VecDeque<Tid>,
    open: usize,
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

    /// Bytes of memory that the open ones take.
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    /// Counts body bytes by session from now on.
    pub(crate) fn count_by_session(&mut self) {
        self.unanswered = Some(Unanswered::default());
    }

    /// Body bytes that will be answered, where they are counted.
    pub(crate) fn unanswered(&self) -> Option<&Unanswered> {
        self.unanswered.as_ref()
    }

    /// Whether another request must wait.
    pub(crate) fn is_full(&self, room: Room) -> bool {
        self.awaited.open >= room.now || self.is_heavy(room)
    }

    fn is_heavy(&self, room: Room) -> bool {
        self.weight >= room.max.saturating_mul(WEIGHT_MAX)
    }

    /// The last byte of a request has been handed over. Unlikely answers hold up nothing: if there are too many, the
    /// oldest are given up.
    pub(crate) fn begin(&mut self, tid: Tid, notice: Notice, now: Instant, room: Room) {
        self.weight += weight(&notice);
        let order = self.order_of(&notice);
        order.tids.push_back(tid);
        order.open += 1;
        if let Some(unanswered) = self.unanswered.as_mut().filter(|_| is_counted(&notice)) {
            unanswered.add(&notice);
        }
        let deadline = now + RESPONSE_TIMEOUT;
        self.open.insert(tid, Transaction { notice, deadline });
        while self.unlikely.open > room.max || self.is_heavy(room) {
            let Some(oldest) = self.unlikely.tids.front().copied() else {
                break;
            };
            self.end(oldest);
        }
        if self.unlikely.open > room.now
            && let Some(oldest) = self.unlikely.tids.front().copied()
        {
            // With little room, their number stays as it is.
            self.end(oldest);
        }
    }

    /// A response has come. `None`: no request awaits it (a stray, or the second of two).
    pub(crate) fn end(&mut self, tid: Tid) -> Option<Notice> {
        let ended = self.open.remove(&tid)?;
        self.weight -= weight(&ended.notice);
        self.order_of(&ended.notice).open -= 1;
        self.note_ended(&ended.notice);
        self.forget_ended();
        Some(ended.notice)
    }

    /// Gives up the request that has waited longest, so that another can begin.
    pub(crate) fn give_up_oldest(&mut self) -> Option<Notice> {
        let oldest = *self.awaited.tids.front()?;
        self.end(oldest)
    }

    /// One piece of a request has failed, and the request with it: its other pieces do not wait any longer. Returns the
    /// failed piece's notice, widened to cover them.
    pub(crate) fn absorb(&mut self, mut notice: Notice) -> Notice {
        if let Some(pieces) = self.take_merged(notice.stream) {
            notice.widen(pieces.range);
        }
        notice
    }

    /// Ends the transactions of all pieces of a request, into one notice of the awaited ones.
    pub(crate) fn take_merged(&mut self, stream: StreamId) -> Option<Notice> {
        let mut merged: Option<Notice> = None;
        for (_, ended) in self.open.extract_if(|_, t| t.notice.stream == stream) {
            self.weight -= weight(&ended.notice);
            if ended.notice.failure_report == FailureReport::Partial {
                self.unlikely.open -= 1;
                continue;
            }
            self.awaited.open -= 1;
            if let Some(unanswered) = &mut self.unanswered {
                unanswered.subtract(&ended.notice);
            }
            match &mut merged {
                Some(merged) => merged.widen(ended.notice.range),
                None => merged = Some(ended.notice),
            }
        }
        self.forget_ended();
        merged
    }

    /// The next transaction that has waited too long; `None` when there is none left. Silence instead of an unlikely
    /// answer is fine (req F8).
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Notice> {
        while let Some(tid) = self.overdue(&self.unlikely, now) {
            self.end(tid);
        }
        let tid = self.overdue(&self.awaited, now)?;
        self.end(tid)
    }

    fn overdue(&self, order: &Order, now: Instant) -> Option<Tid> {
        let tid = *order.tids.front()?;
        let oldest = self.open.get(&tid)?;
        (oldest.deadline <= now).then_some(tid)
    }

    /// When [`expire`](Self::expire) will next find something.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let fronts = [&self.awaited, &self.unlikely].map(|order| order.tids.front());
        fronts.into_iter().flatten().filter_map(|tid| self.open.get(tid)).map(|t| t.deadline).min()
    }

    /// The connection is gone. Returns every awaited request, oldest first, with the pieces of one message merged into
    /// one notice (one REPORT per Message-ID, not a storm).
    pub(crate) fn drain_merged(&mut self) -> Vec<Notice> {
        let mut merged: Vec<Notice> = Vec::new();
        let counts = self.unanswered.is_some();
        let Self { mut open, awaited, .. } = std::mem::take(self);
        if counts {
            self.count_by_session();
        }
        for tid in awaited.tids {
            if let Some(transaction) = open.remove(&tid) {
                merge(&mut merged, transaction.notice);
            }
        }
        merged
    }

    fn note_ended(&mut self, notice: &Notice) {
        if let Some(unanswered) = self.unanswered.as_mut().filter(|_| is_counted(notice)) {
            unanswered.subtract(notice);
        }
    }

    fn order_of(&mut self, notice: &Notice) -> &mut Order {
        if notice.failure_report == FailureReport::Partial { &mut self.unlikely } else { &mut self.awaited }
    }

    fn forget_ended(&mut self) {
        for order in [&mut self.awaited, &mut self.unlikely] {
            let ended = |tid: &Tid| !self.open.contains_key(tid);
            while order.tids.front().is_some_and(ended) {
                order.tids.pop_front();
            }
            // One unanswered request at the front must not keep thousands of answered ones behind it.
            if order.tids.len() > 2 * order.open + ROOM_KEPT {
                order.tids.retain(|tid| self.open.contains_key(tid));
            }
            if order.open == 0 && order.tids.capacity() > 4 * ROOM_KEPT {
                order.tids.shrink_to(ROOM_KEPT);
            }
        }
        // A burst must not take memory for as long as the connection lives.
        if self.open.is_empty() && self.open.capacity() > 4 * ROOM_KEPT {
            self.open.shrink_to(ROOM_KEPT);
        }
    }
}

/// Whether an answer is sure to come.
fn is_counted(notice: &Notice) -> bool {
    notice.failure_report != FailureReport::Partial
}

/// The most bytes that a transaction takes: its tables may be half empty, and its path may be its own.
fn weight(notice: &Notice) -> usize {
    const ENTRY: usize = size_of::<Transaction>() + 2 * size_of::<Tid>() + 1;
    let id = notice.message_id.as_ref().map_or(0, |id| id.as_bytes().len());
    2 * ENTRY + notice.report_to.len() + id
}

/// How far back to look for pieces of the same message: messages rarely interleave deeper, and thousands of different
/// ones must not cost quadratic time.
const MERGE_WINDOW: usize = 64;

/// Adds a failure to a list, widening the range of an earlier one of the same message that it continues: bytes between
/// two failures may have arrived, or been reported already.
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state what must hold")]
mod tests {
    use super::*;
    use crate::ids::{CoreId, Entropy, PeerKey, PeerRef, SessionId, SessionRef};
    use crate::request::MessageId;
    use msrp_proto::head::{ByteRange, Method};

    fn notice(entropy: &mut Entropy, sequence: u32, path_bytes: usize) -> Notice {
        let core = CoreId { index: 0, incarnation: 0 };
        let peer = PeerRef { core, key: PeerKey::default() };
        Notice {
            stream: StreamId { peer, sequence },
            session: SessionRef { core, id: SessionId::mint(core, entropy) },
            inward: false,
            method: Method::Send,
            failure_report: FailureReport::Yes,
            report_to: vec![b'x'; path_bytes].into(),
            message_id: None,
            range: ByteRange { start: 1, end: Some(1), total: Some(1) },
            moves: 1,
        }
    }

    // S13: what a peer makes us keep is bounded in bytes, not only in number.
    #[test]
    fn long_paths_fill_the_table_earlier() {
        let (mut entropy, now) = (Entropy::new([1; 32]), Instant::now());
        for (path_bytes, least, most) in [(100, 64, 64), (8000, 4, 16)] {
            let mut table = Transactions::default();
            while !table.is_full(Room::ample(64)) {
                let notice = notice(&mut entropy, 0, path_bytes);
                table.begin(Tid::mint(&mut entropy), notice, now, Room::ample(64));
            }
            assert!((least..=most).contains(&table.len()), "{path_bytes}: {}", table.len());
            table.drain_merged();
            assert_eq!((table.len(), table.weight), (0, 0));
        }
    }

    // With little room, no more are kept than exist, and none is given up for that alone.
    #[test]
    fn unlikely_answers_beyond_the_room_take_the_place_of_the_oldest() {
        let (mut entropy, now) = (Entropy::new([6; 32]), Instant::now());
        let mut table = Transactions::default();
        let mut begin = |table: &mut Transactions, sequence, room| {
            let failure_report = FailureReport::Partial;
            let notice = Notice { failure_report, ..notice(&mut entropy, sequence, 10) };
            table.begin(Tid::mint(&mut entropy), notice, now, Room { now: room, max: 64 });
        };
        (0..10).for_each(|sequence| begin(&mut table, sequence, 64));
        let weight = table.weight();
        (10..15).for_each(|sequence| begin(&mut table, sequence, 4));
        assert_eq!((table.len(), table.weight()), (10, weight));
        let kept: Vec<u32> = table.open.values().map(|t| t.notice.stream.sequence).collect();
        assert!(kept.iter().all(|sequence| (5..15).contains(sequence)), "{kept:?}");
    }

    // An unanswered request keeps neither its answered successors nor their memory.
    #[test]
    fn ended_transactions_are_forgotten_behind_an_open_one() {
        let (mut entropy, now) = (Entropy::new([2; 32]), Instant::now());
        let mut table = Transactions::default();
        let first = Tid::mint(&mut entropy);
        table.begin(first, notice(&mut entropy, 0, 10), now, Room::ample(4096));
        for round in 0..10 {
            let tids: Vec<Tid> = (0..1000).map(|_| Tid::mint(&mut entropy)).collect();
            for tid in &tids {
                table.begin(*tid, notice(&mut entropy, round, 10), now, Room::ample(4096));
            }
            for tid in tids {
                assert!(table.end(tid).is_some());
                assert!(table.end(tid).is_none(), "ended twice");
            }
            assert!(table.awaited.tids.len() <= 2 + ROOM_KEPT);
        }
        assert!(table.end(first).is_some());
        assert!(table.open.capacity() <= 4 * ROOM_KEPT);
        assert!(table.awaited.tids.capacity() <= 4 * ROOM_KEPT);
        assert_eq!(table.weight, 0);
    }

    // F10: the pieces of one request end together; the rest of the table, and its weight, stay.
    #[test]
    fn pieces_of_a_request_are_taken_out_into_one_notice() {
        let (mut entropy, now) = (Entropy::new([3; 32]), Instant::now());
        let mut table = Transactions::default();
        let mut piece = |sequence, start: u64, failure_report| Notice {
            range: ByteRange { start, end: Some(start + 9), total: None },
            failure_report,
            ..notice(&mut entropy, sequence, 10)
        };
        let tids: Vec<Tid> = {
            let mut entropy = Entropy::new([4; 32]);
            (0..8).map(|_| Tid::mint(&mut entropy)).collect()
        };
        let wishes = [FailureReport::Yes, FailureReport::Partial];
        for (n, tid) in tids.iter().enumerate() {
            // Two requests, each with two awaited pieces and two whose answers are unlikely.
            let number = u32::try_from(n).unwrap();
            table.begin(
                *tid,
                piece(number % 2, u64::from(number) * 10 + 1, wishes[n / 2 % 2]),
                now,
                Room::ample(64),
            );
        }
        let weight_of_all = table.weight;
        let stream = piece(0, 1, FailureReport::Yes).stream;
        let taken = table.take_merged(stream).unwrap();
        assert_eq!((taken.range.start, taken.range.end), (1, Some(50)), "the first and the fifth");
        assert_eq!((table.len(), table.awaited.open, table.unlikely.open), (4, 2, 2));
        assert_eq!(table.weight, weight_of_all / 2);
        assert!(table.take_merged(stream).is_none());
        let other = piece(1, 1, FailureReport::Yes);
        let absorbed =
            table.absorb(Notice { range: ByteRange { start: 90, end: Some(99), total: None }, ..other });
        assert_eq!((absorbed.range.start, absorbed.range.end), (11, Some(99)));
        assert_eq!((table.len(), table.awaited.open, table.unlikely.open, table.weight), (0, 0, 0, 0));
    }

    // F8: an awaited request comes out when it is due, oldest first; an unlikely one goes in silence. Only awaited ones
    // hold up others.
    #[test]
    fn what_was_awaited_for_too_long_comes_out_and_what_was_unlikely_does_not() {
        let (mut entropy, now) = (Entropy::new([5; 32]), Instant::now());
        let mut table = Transactions::default();
        let second = Duration::from_secs(1);
        for n in 0..3 {
            let mut awaited = notice(&mut entropy, n, 10);
            table.begin(Tid::mint(&mut entropy), awaited.clone(), now + second * n, Room::ample(3));
            awaited.failure_report = FailureReport::Partial;
            table.begin(Tid::mint(&mut entropy), awaited, now + second * n, Room::ample(3));
            assert_eq!(table.is_full(Room::ample(3)), n == 2);
        }
        assert_eq!(table.deadline(), Some(now + RESPONSE_TIMEOUT));
        assert!(table.expire(now + RESPONSE_TIMEOUT - second).is_none());
        let due = now + RESPONSE_TIMEOUT + second;
        let expired: Vec<u32> =
            std::iter::from_fn(|| table.expire(due)).map(|notice| notice.stream.sequence).collect();
        assert_eq!(expired, [0, 1]);
        assert_eq!((table.len(), table.deadline()), (2, Some(now + RESPONSE_TIMEOUT + 2 * second)));
        assert_eq!(table.give_up_oldest().map(|notice| notice.stream.sequence), Some(2));
        assert!(table.give_up_oldest().is_none(), "the unlikely one is not awaited");
        // A fourth unlikely one drives out the oldest.
        for n in 0..4 {
            let unlikely = Notice { failure_report: FailureReport::Partial, ..notice(&mut entropy, n, 10) };
            table.begin(Tid::mint(&mut entropy), unlikely, now, Room::ample(3));
        }
        assert_eq!((table.unlikely.open, table.is_full(Room::ample(3))), (3, false));
    }

    #[test]
    fn weight_counts_what_the_sender_chose_the_length_of() {
        let mut entropy = Entropy::new([6; 32]);
        let short = notice(&mut entropy, 0, 10);
        let named = Notice { message_id: Some(MessageId::new(&[b'm'; 30])), ..short.clone() };
        assert_eq!(weight(&notice(&mut entropy, 0, 110)), weight(&short) + 100);
        assert_eq!(weight(&named), weight(&short) + 30);
    }
}
