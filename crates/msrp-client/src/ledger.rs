//! What a sender still awaits for one message: responses to its chunks, and success REPORTs.
//!
//! The half that streams the message and the half that reads the answers share it. Invariants: a transaction id is
//! noted when its chunk begins, because errors may come before its end (RFC 4975, 7.1.4); a response with any other id
//! is a stray and changes nothing; the first failure stays. Bounded: under Failure-Report `yes` by the sender's window,
//! under `partial` (where success is silent) by forgetting the oldest. Must not know sockets.

use std::cell::RefCell;
use std::collections::VecDeque;

use super::ClientError;
use super::endpoint::Signal;
use super::ranges::RangeSet;
use msrp_proto::head::{ByteRange, FailureReport};
use msrp_proto::status::Status;

/// Under `partial`, how many of the latest chunks can still be matched with an error.
const SILENT_CHUNKS_MAX: usize = 1024;

/// The state of one message on its way.
#[derive(Debug)]
pub struct Ledger {
    failure_report: FailureReport,
    inner: RefCell<Inner>,
    changed: Signal,
}

#[derive(Debug, Default)]
struct Inner {
    /// Transaction id and first byte (from 0) of chunks that may still be answered, oldest first.
    open: VecDeque<(String, u64)>,
    confirmed: RangeSet,
    whole_confirmed: bool,
    answers: u64,
    failure: Option<ClientError>,
}

impl Ledger {
    /// For a message sent under this Failure-Report.
    pub fn new(failure_report: FailureReport) -> Self {
        Self { failure_report, inner: RefCell::default(), changed: Signal::default() }
    }

    /// A chunk begins at this byte, counted from 0.
    pub fn opened(&self, tid: &str, byte: u64) {
        if self.failure_report == FailureReport::No {
            return;
        }
        let mut inner = self.inner.borrow_mut();
        if self.failure_report == FailureReport::Partial && inner.open.len() == SILENT_CHUNKS_MAX {
            inner.open.pop_front();
        }
        inner.open.push_back((tid.to_owned(), byte));
    }

    /// A response came in. Returns whether it belonged to this message.
    pub fn answered(&self, tid: &[u8], status: Status, comment: &str) -> bool {
        let mut inner = self.inner.borrow_mut();
        let Some(at) = inner.open.iter().position(|(open, _)| open.as_bytes() == tid) else {
            return false;
        };
        let Some((_, byte)) = inner.open.remove(at) else {
            return false;
        };
        inner.answers += 1;
        if !status.is_success() {
            let comment = words(status, comment);
            inner.failure.get_or_insert(ClientError::Refused { status, comment, byte: byte + 1 });
        }
        self.changed.wake();
        true
    }

    /// A REPORT for this message came in. Without a range it covers the whole message.
    pub fn reported(&self, status: Status, comment: &str, range: Option<ByteRange>) {
        let mut inner = self.inner.borrow_mut();
        if !status.is_success() {
            let comment = words(status, comment);
            inner.failure.get_or_insert(ClientError::Reported { status, comment });
        } else if let Some(ByteRange { start, end: Some(end), .. }) = range {
            // If a receiver's reports have more gaps than the bound, the rest is ignored, and the sender waits for the
            // time limit.
            let _ = inner.confirmed.insert(start.saturating_sub(1), end);
            inner.whole_confirmed |= end == 0;
        } else {
            inner.whole_confirmed = true;
        }
        self.changed.wake();
    }

    /// Whether something has gone wrong.
    pub fn has_failed(&self) -> bool {
        self.inner.borrow().failure.is_some()
    }

    /// Takes the failure, if there is one.
    pub fn take_failure(&self) -> Option<ClientError> {
        self.inner.borrow_mut().failure.take()
    }

    /// How many chunks have been answered.
    pub fn answers(&self) -> u64 {
        self.inner.borrow().answers
    }

    /// Returns once something has failed.
    pub async fn failed(&self) {
        self.changed.until(|| self.has_failed()).await;
    }

    /// Returns once fewer than `window` chunks wait for their answer, or something has failed.
    pub async fn window(&self, window: usize) {
        self.changed.until(|| self.has_failed() || self.unanswered() < window).await;
    }

    /// Returns once every chunk is answered and, where asked for, all `bytes` are reported as arrived, or something
    /// has failed.
    pub async fn settled(&self, bytes: u64, report_wanted: bool) {
        self.changed
            .until(|| {
                self.has_failed() || (self.unanswered() == 0 && (!report_wanted || self.arrived(bytes)))
            })
            .await;
    }

    fn unanswered(&self) -> usize {
        match self.failure_report {
            FailureReport::Yes => self.inner.borrow().open.len(),
            FailureReport::No | FailureReport::Partial => 0,
        }
    }

    /// Whether success REPORTs cover all `bytes` of the message.
    pub fn arrived(&self, bytes: u64) -> bool {
        let inner = self.inner.borrow();
        inner.whole_confirmed || (bytes > 0 && inner.confirmed.covers(bytes))
    }
}

/// The peer's words, or the usual ones for the code.
pub(super) fn words(status: Status, comment: &str) -> String {
    if comment.is_empty() { status.phrase().to_owned() } else { comment.to_owned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> Option<ByteRange> {
        Some(ByteRange { start, end: Some(end), total: None })
    }

    fn is_settled(ledger: &Ledger, bytes: u64, report_wanted: bool) -> bool {
        futures_lite::future::block_on(futures_lite::future::poll_once(ledger.settled(bytes, report_wanted)))
            .is_some()
    }

    #[test]
    fn a_message_is_settled_when_every_chunk_is_answered() {
        let ledger = Ledger::new(FailureReport::Yes);
        ledger.opened("tid1", 0);
        ledger.opened("tid2", 10);
        assert!(ledger.answered(b"tid2", Status::OK, ""));
        assert!(!is_settled(&ledger, 20, false));
        assert!(ledger.answered(b"tid1", Status::OK, "OK"));
        assert!(is_settled(&ledger, 20, false));
        assert!(!is_settled(&ledger, 20, true));
    }

    #[test]
    fn strays_change_nothing() {
        let ledger = Ledger::new(FailureReport::Yes);
        ledger.opened("tid1", 0);
        assert!(!ledger.answered(b"other", Status::BAD_REQUEST, ""));
        assert!(!ledger.has_failed());
        assert!(ledger.answered(b"tid1", Status::OK, ""));
        assert!(!ledger.answered(b"tid1", Status::BAD_REQUEST, ""), "a transaction has one answer");
    }

    #[test]
    fn reports_add_up() {
        let ledger = Ledger::new(FailureReport::No);
        ledger.reported(Status::OK, "", range(11, 20));
        assert!(!is_settled(&ledger, 20, true));
        ledger.reported(Status::OK, "", range(1, 10));
        assert!(is_settled(&ledger, 20, true));
        assert!(!is_settled(&ledger, 21, true));
    }

    #[test]
    fn an_empty_message_needs_its_report_too() {
        let ledger = Ledger::new(FailureReport::No);
        assert!(!is_settled(&ledger, 0, true));
        ledger.reported(Status::OK, "", range(1, 0));
        assert!(is_settled(&ledger, 0, true));
    }

    #[test]
    fn the_first_failure_stands() {
        let ledger = Ledger::new(FailureReport::Partial);
        ledger.opened("tid1", 4096);
        assert!(ledger.answered(b"tid1", Status::STOP, "Enough"));
        ledger.reported(Status::TIMEOUT, "", None);
        assert_eq!(
            ledger.take_failure().unwrap().to_string(),
            "the chunk from byte 4097 was refused: 413 Enough"
        );
    }

    #[test]
    fn silence_under_partial_is_bounded() {
        let ledger = Ledger::new(FailureReport::Partial);
        for index in 0..SILENT_CHUNKS_MAX as u64 * 2 {
            ledger.opened(&format!("tid{index}"), index);
        }
        assert_eq!(ledger.inner.borrow().open.len(), SILENT_CHUNKS_MAX);
        assert!(is_settled(&ledger, 0, false));
    }
}
