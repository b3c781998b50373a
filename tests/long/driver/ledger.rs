//! What one end of a session has sent, heard and received, and whether that adds up.
//!
//! The rule, RFC 4975, 7.1.4 and RFC 4976, 6.4.1: while a message's sender is connected, each byte of its complete
//! chunks has arrived, or exactly one notice reported it: the chunk's response or a REPORT.

use std::collections::{HashMap, HashSet};

use msrp_proto::parser::Flag;

use super::line::End;
use testkit_net::frame::Frame;

/// Failure-Report of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wish {
    /// No header, which means `yes`.
    Implied,
    Yes,
    Partial,
    No,
}

impl Wish {
    pub(crate) fn header(self) -> Option<&'static str> {
        match self {
            Self::Implied => None,
            Self::Yes => Some("yes"),
            Self::Partial => Some("partial"),
            Self::No => Some("no"),
        }
    }

    /// Whether each chunk gets an answer when all goes well.
    pub(crate) fn is_answered(self) -> bool {
        matches!(self, Self::Implied | Self::Yes)
    }
}

/// Bytes that may be on their way between the relay's kernel and the receiver.
const KERNEL_HOLDS_MAX: u64 = 6 << 20;

/// Bytes of a message, numbered from 1, both ends included.
pub(crate) type Range = (u64, u64);

/// A chunk that was sent.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) start: u64,
    pub(crate) bytes: u64,
    /// `None`: it was broken off with the connection.
    pub(crate) ended: Option<Flag>,
    pub(crate) status: Option<u16>,
}

impl Chunk {
    pub(crate) fn range(&self) -> Range {
        (self.start, self.start + self.bytes - 1)
    }
}

/// A message being sent, or sent.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) wish: Wish,
    pub(crate) total: u64,
    pub(crate) chunks: Vec<Chunk>,
    /// Chunks without a response.
    pub(crate) unanswered: usize,
    /// Nothing more of it will be sent.
    pub(crate) over: bool,
    /// A hop refused it: the rest need not be sent.
    pub(crate) refused: bool,
    /// Failures reported by REPORT.
    pub(crate) reports: Vec<(Range, u16)>,
    /// Success REPORTs: what each covers.
    pub(crate) successes: Vec<Range>,
}

impl Sent {
    pub(crate) fn new(wish: Wish, total: u64) -> Self {
        Self {
            wish,
            total,
            chunks: Vec::new(),
            unanswered: 0,
            over: false,
            refused: false,
            reports: Vec::new(),
            successes: Vec::new(),
        }
    }

    /// Bytes handed to the connection.
    pub(crate) fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.bytes).sum()
    }

    /// Whether every response that is due has come.
    pub(crate) fn is_answered(&self) -> bool {
        self.over && (self.unanswered == 0 || !self.wish.is_answered())
    }

    /// All went well, and no failure was reported.
    pub(crate) fn check_clean(&self) -> Result<(), String> {
        if let Some(chunk) = self.chunks.iter().find(|chunk| chunk.status.is_some_and(|status| status != 200))
        {
            return Err(format!("a chunk was refused: {chunk:?}"));
        }
        let unwanted = self.chunks.iter().any(|chunk| chunk.status.is_some());
        if unwanted && !self.wish.is_answered() {
            return Err(format!("an unwanted response: {:?}", self.wish));
        }
        match self.reports.first() {
            Some(report) => Err(format!("a failure was reported: {report:?} of {}", self.total)),
            None => Ok(()),
        }
    }

    /// Whether each byte of the complete chunks is among those that `arrived`, or was reported once. `closed`: the
    /// relay has closed the sender's connection, which covers all unanswered chunks.
    pub(crate) fn settle(&self, arrived: &[Range], closed: bool) -> Result<(), String> {
        let told_by_end = closed && self.wish.is_answered();
        let is_refused = |chunk: &&Chunk| chunk.status.map_or(told_by_end, |status| status != 200);
        let refused = self.chunks.iter().filter(is_refused).filter(|chunk| chunk.bytes > 0);
        let told: Vec<Range> =
            refused.map(Chunk::range).chain(self.reports.iter().map(|(range, _)| *range)).collect();
        if self.wish == Wish::No {
            return if closed || told.is_empty() {
                Ok(())
            } else {
                Err(format!("told without being asked: {told:?}"))
            };
        }
        if let Some(twice) = overlap(&told) {
            return Err(format!("told of twice: {twice:?} in {told:?}"));
        }
        let mut known = union(arrived.iter().chain(&told));
        if self.wish == Wish::Partial {
            bridge(&mut known, arrived);
            if closed {
                // Bytes that the relay had not read by then cannot be reported.
                let end = known.last().map_or(0, |range| range.1);
                known.push((end + 1, u64::MAX));
                known = union(known.iter());
            }
        }
        let complete = self.chunks.iter().filter(|c| matches!(c.ended, Some(Flag::Last | Flag::More)));
        for chunk in complete {
            if self.wish.is_answered() && chunk.status.is_none() && !closed {
                return Err(format!("never answered: {chunk:?}"));
            }
            if chunk.bytes > 0 && !known.iter().any(|k| k.0 <= chunk.start && chunk.range().1 <= k.1) {
                return Err(format!("unaccounted for: {chunk:?} in {:?}", brief(&known)));
            }
        }
        Ok(())
    }
}

/// The first of two ranges that have bytes in common, and the other.
fn overlap(ranges: &[Range]) -> Option<[Range; 2]> {
    let mut sorted: Vec<Range> = ranges.iter().copied().filter(|range| range.0 <= range.1).collect();
    sorted.sort_unstable();
    sorted.windows(2).find(|pair| pair[1].0 <= pair[0].1).map(|pair| [pair[0], pair[1]])
}

/// The same bytes in as few ranges as there can be.
fn union<'a>(ranges: impl Iterator<Item = &'a Range>) -> Vec<Range> {
    let mut sorted: Vec<Range> = ranges.copied().filter(|range| range.0 <= range.1).collect();
    sorted.sort_unstable();
    let mut joined: Vec<Range> = Vec::new();
    for range in sorted {
        match joined.last_mut() {
            Some(last) if range.0 <= last.1.saturating_add(1) => last.1 = last.1.max(range.1),
            _ => joined.push(range),
        }
    }
    joined
}

/// Without responses the sender cannot know what happened to bytes in a broken connection's kernel: a gap after the
/// arrived bytes, no longer than buffers can be.
fn bridge(known: &mut Vec<Range>, arrived: &[Range]) {
    let end = arrived.iter().map(|range| range.1).max().unwrap_or_default();
    let next = known.iter().map(|range| range.0).filter(|start| *start > end).min();
    let gap = (end + 1, next.map_or(end + KERNEL_HOLDS_MAX, |next| next - 1));
    if gap.1 - end <= KERNEL_HOLDS_MAX {
        known.push(gap);
        *known = union(known.iter());
    }
}

fn brief(ranges: &[Range]) -> &[Range] {
    &ranges[..ranges.len().min(8)]
}

/// A chunk as it arrived.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) bytes: u64,
    pub(crate) ended: Option<Flag>,
    /// Its answer has been written.
    pub(crate) answered: bool,
}

/// A message as it arrives.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) pieces: Vec<Span>,
    pub(crate) bytes: u64,
    pub(crate) total: Option<u64>,
    /// Its sender wants responses.
    pub(crate) answered: bool,
    /// Its sender wants success REPORTs.
    pub(crate) success: bool,
}

impl Received {
    pub(crate) fn ended(&self) -> Option<Flag> {
        self.pieces.last().and_then(|piece| piece.ended)
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.ended() == Some(Flag::Last)
    }

    /// Bytes that need no notice: with responses the answered ones, without them messages that arrived whole.
    pub(crate) fn settled(&self) -> Vec<Range> {
        let sure = |piece: &&Span| match self.answered {
            true => piece.answered,
            false => piece.ended.is_some_and(|flag| flag != Flag::Aborted),
        };
        let settled = self.pieces.iter().filter(sure).filter(|piece| piece.bytes > 0);
        settled.map(|piece| (piece.start, piece.start + piece.bytes - 1)).collect()
    }
}

/// All of one end.
#[derive(Default)]
pub(crate) struct Ledger {
    /// By Message-ID.
    pub(crate) sent: HashMap<String, Sent>,
    /// The chunk of each transaction id.
    pub(crate) tids: HashMap<String, (String, usize)>,
    pub(crate) received: HashMap<String, Received>,
    /// Requests other than SENDs of messages, until they are answered.
    pub(crate) asked: HashSet<String>,
    pub(crate) answers: HashMap<String, Frame>,
    /// Body bytes that have arrived.
    pub(crate) bytes: u64,
    /// The other side ended the connection.
    pub(crate) end: Option<End>,
    /// This side has stopped reading, as it was told to.
    pub(crate) vanished: bool,
    /// Writing failed, or the writer has ended the connection as it was told to.
    pub(crate) broken_off: bool,
    /// Messages given to the writer that are not finished.
    pub(crate) writing: usize,
    /// The first event that must never happen.
    pub(crate) fault: Option<String>,
}

impl Ledger {
    pub(crate) fn blame(&mut self, what: String) {
        self.fault.get_or_insert(what);
    }

    /// What was sent of a message.
    pub(crate) fn sent(&self, id: &str) -> Result<&Sent, String> {
        self.sent.get(id).ok_or_else(|| format!("{id} was never sent"))
    }

    /// A response to a chunk, or to something that was asked.
    pub(crate) fn take_response(&mut self, frame: Frame) {
        let tid = frame.tid();
        if self.asked.remove(&tid) {
            self.answers.insert(tid, frame);
            return;
        }
        let status = frame.status();
        let known = self.tids.remove(&tid).and_then(|(id, n)| Some((self.sent.get_mut(&id)?, n)));
        let Some((sent, n)) = known else {
            return self.blame(format!("a response to nothing: {frame:?}"));
        };
        sent.chunks[n].status = status;
        sent.unanswered -= 1;
        sent.refused |= status != Some(200);
    }

    /// A REPORT on a message of this end.
    pub(crate) fn take_report(&mut self, frame: &Frame) {
        let id = frame.header("Message-ID").unwrap_or_default();
        let range = frame.head.byte_range().and_then(|range| Some((range.start, range.end?)));
        let status = frame.head.reported_status(&frame.bytes).map(|status| status.code());
        let (Some(sent), Some(range), Some(status)) = (self.sent.get_mut(&id), range, status) else {
            return self.blame(format!("a REPORT on nothing: {frame:?}"));
        };
        if status == 200 {
            sent.successes.push(range);
        } else {
            sent.reports.push((range, status));
            sent.refused = true;
        }
    }

    /// Forgets the message on both sides: a long session does not grow.
    pub(crate) fn forget(&mut self, id: &str) {
        self.sent.remove(id);
        self.received.remove(id);
        self.tids.retain(|_, (of, _)| of != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(wish: Wish, chunks: &[(Range, Option<u16>)], reports: &[Range]) -> Sent {
        let chunk = |(range, status): &(Range, Option<u16>)| Chunk {
            start: range.0,
            bytes: range.1 - range.0 + 1,
            ended: Some(Flag::More),
            status: *status,
        };
        let mut sent = Sent::new(wish, 100);
        sent.chunks = chunks.iter().map(chunk).collect();
        sent.reports = reports.iter().map(|range| (*range, 408)).collect();
        sent
    }

    #[test]
    fn what_arrived_and_what_was_told_must_cover_what_was_sent() {
        let half = [((1, 50), Some(200)), ((51, 100), Some(200))];
        assert!(sent(Wish::Yes, &half, &[]).settle(&[(1, 100)], false).is_ok());
        assert!(sent(Wish::Yes, &half, &[]).settle(&[(1, 99)], false).is_err());
        assert!(sent(Wish::Yes, &half, &[(60, 100)]).settle(&[(1, 20), (21, 59)], false).is_ok());
        assert!(sent(Wish::Yes, &half, &[(61, 100)]).settle(&[(1, 59)], false).is_err());
        assert!(sent(Wish::Yes, &half, &[(40, 100)]).settle(&[(1, 59)], false).is_ok());
        assert!(sent(Wish::No, &half, &[]).settle(&[], false).is_ok());
    }

    #[test]
    fn a_closed_connection_tells_of_what_was_not_answered_and_of_nothing_else() {
        let chunks = [((1, 50), Some(200)), ((51, 100), None)];
        assert!(sent(Wish::Yes, &chunks, &[]).settle(&[(1, 50)], true).is_ok());
        assert!(sent(Wish::Yes, &chunks, &[]).settle(&[(1, 49)], true).is_err());
        assert!(sent(Wish::Yes, &chunks, &[(30, 50)]).settle(&[(1, 29)], true).is_ok());
        let silent = [((1, 50), None), ((51, 100), None)];
        assert!(sent(Wish::Partial, &silent, &[(1, 60)]).settle(&[], true).is_ok());
        assert!(sent(Wish::Partial, &silent, &[(1, 60), (60, 70)]).settle(&[], true).is_err());
    }

    #[test]
    fn what_is_told_twice_or_unasked_or_not_answered_is_found() {
        let half = [((1, 50), Some(200)), ((51, 100), Some(481))];
        assert!(sent(Wish::Yes, &half, &[]).settle(&[(1, 50)], false).is_ok());
        assert!(sent(Wish::Yes, &half, &[(40, 60)]).settle(&[(1, 50)], false).is_err());
        assert!(sent(Wish::Yes, &half, &[(1, 20), (20, 50)]).settle(&[], false).is_err());
        assert!(sent(Wish::No, &half, &[]).settle(&[(1, 100)], false).is_err());
        let silent = [((1, 100), None)];
        assert!(sent(Wish::Yes, &silent, &[]).settle(&[(1, 100)], false).is_err());
        assert!(sent(Wish::Partial, &silent, &[]).settle(&[(1, 100)], false).is_ok());
        assert!(sent(Wish::Partial, &silent, &[(1, 100)]).settle(&[], false).is_ok());
        assert!(sent(Wish::Partial, &silent, &[(41, 60)]).settle(&[(1, 20), (70, 100)], false).is_err());
        assert!(sent(Wish::Partial, &silent, &[(41, 100)]).settle(&[(1, 20)], false).is_ok());
        assert!(sent(Wish::Yes, &[((1, 100), Some(200))], &[(41, 100)]).settle(&[(1, 20)], false).is_err());
    }
}
