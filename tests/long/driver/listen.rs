//! The reading half of a party: checks each byte as it comes, answers chunks, reports success.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use msrp_proto::head::{FailureReport, Head};
use msrp_proto::parser::Flag;

use super::content::{first_difference, seed_of};
use super::ledger::Span;
use super::line::{Arrived, End, Reader};
use super::party::Shared;
use super::pen::Job;
use super::stage::add;
use testkit_net::frame::{Frame, Request};

/// How often a slow reader reads.
const BEAT: Duration = Duration::from_millis(20);

/// How a party reads.
#[derive(Clone, Copy, Default)]
pub(crate) struct Manner {
    /// Bytes a second; `None`: as they come.
    pub(crate) pace: Option<u64>,
    /// Reads nothing for a while once so many body bytes have come.
    pub(crate) rest: Option<(u64, Duration)>,
    /// Stops reading and answering after so many body bytes.
    pub(crate) vanish: Option<u64>,
}

pub(crate) struct Ear {
    shared: Arc<Shared>,
    jobs: Sender<Job>,
    manner: Manner,
    current: Option<Current>,
    bytes: u64,
}

/// A frame that is arriving.
struct Current {
    head: Head,
    bytes: Vec<u8>,
    /// Of a SEND: the Message-ID, its seed, the place of the next byte, the piece's number.
    message: Option<(String, u64, u64, usize)>,
}

impl Ear {
    pub(crate) fn new(shared: Arc<Shared>, jobs: Sender<Job>, manner: Manner) -> Self {
        Self { shared, jobs, manner, current: None, bytes: 0 }
    }

    pub(crate) fn run(mut self, mut reader: Reader) {
        loop {
            let room = self.manner.pace.map_or(usize::MAX, |pace| (pace * 20 / 1000) as usize);
            let pumped = reader.pump(room, |arrived| self.take(arrived));
            if let Err(end) = pumped {
                self.lose(end);
                return;
            }
            if self.manner.vanish.is_some_and(|bytes| self.bytes >= bytes) {
                self.shared.enter(|ledger| ledger.vanished = true);
                return;
            }
            if self.manner.pace.is_some() {
                std::thread::sleep(BEAT);
            }
            if let Some((_, time)) = self.manner.rest.take_if(|(bytes, _)| self.bytes >= *bytes) {
                std::thread::sleep(time);
            }
        }
    }

    fn lose(&self, end: End) {
        self.shared.enter(|ledger| ledger.end = Some(end));
    }

    fn take(&mut self, arrived: Arrived<'_>) {
        match arrived {
            Arrived::Head(head, bytes) => self.head(head, bytes),
            Arrived::Body(bytes) => self.body(bytes),
            Arrived::End(flag) => self.end(flag),
        }
    }

    fn head(&mut self, head: Head, bytes: &[u8]) {
        let mut current = Current { head, bytes: bytes.to_vec(), message: None };
        if head_is(&current, b"SEND") {
            match self.open(&current) {
                Ok(message) => current.message = Some(message),
                Err(what) => self.shared.enter(|ledger| ledger.blame(what)),
            }
        }
        self.current = Some(current);
    }

    /// Notes a piece of a message: it must continue the earlier ones.
    fn open(&self, current: &Current) -> Result<(String, u64, u64, usize), String> {
        let head = String::from_utf8_lossy(&current.bytes);
        let id = current.head.message_id(&current.bytes).unwrap_or_default();
        let id = String::from_utf8_lossy(id).into_owned();
        let seed = seed_of(&id).ok_or_else(|| format!("a message of no sender: {head}"))?;
        let range = current.head.byte_range().ok_or_else(|| format!("no Byte-Range: {head}"))?;
        let answered = current.head.failure_report() == FailureReport::Yes;
        self.shared.enter(|ledger| {
            let received = ledger.received.entry(id.clone()).or_default();
            received.answered = answered;
            received.success = current.head.success_report();
            received.total = range.total;
            let ended = received.pieces.is_empty() || received.ended() == Some(Flag::More);
            if !ended || range.start != received.bytes + 1 {
                return Err(format!("after {} bytes and {:?}: {head}", received.bytes, received.ended()));
            }
            received.pieces.push(Span { start: range.start, bytes: 0, ended: None, answered: false });
            Ok((id, seed, range.start - 1, received.pieces.len() - 1))
        })
    }

    fn body(&mut self, bytes: &[u8]) {
        let Some((id, seed, place, _)) = self.current.as_mut().and_then(|current| current.message.as_mut())
        else {
            return;
        };
        let count = bytes.len() as u64;
        let wrong = first_difference(*seed, *place, bytes);
        *place += count;
        self.bytes += count;
        self.shared.enter(|ledger| {
            if let Some(place) = wrong {
                ledger.blame(format!("byte {place} of message {id} is not what was sent"));
            }
            ledger.bytes += count;
            if let Some(received) = ledger.received.get_mut(id) {
                received.bytes += count;
                received.pieces.last_mut().into_iter().for_each(|piece| piece.bytes += count);
            }
        });
        if wrong.is_none() {
            add(&self.shared.stage.tally.bytes_verified, count);
        }
    }

    fn end(&mut self, flag: Flag) {
        let Some(Current { head, bytes, message }) = self.current.take() else {
            return;
        };
        let frame = Frame { head, bytes, body: Vec::new(), flag };
        match message {
            Some(message) => self.end_of_piece(&frame, message),
            None if frame.status().is_some() => self.shared.enter(|ledger| ledger.take_response(frame)),
            None if frame.is_request("REPORT") => self.report(&frame),
            None => self.shared.enter(|ledger| ledger.blame(format!("a strange request: {frame:?}"))),
        }
    }

    fn end_of_piece(&self, frame: &Frame, (id, _, bytes, piece): (String, u64, u64, usize)) {
        let flag = frame.flag;
        let mut jobs = Vec::new();
        if frame.head.failure_report() == FailureReport::Yes {
            jobs.push(Job::Answer { frame: frame.response("200 OK"), id: id.clone(), piece });
        }
        if flag == Flag::Last && frame.head.success_report() {
            let report =
                Request::new("REPORT", &frame.header("From-Path").unwrap_or_default(), &self.shared.uri)
                    .header("Message-ID", &id)
                    .header("Byte-Range", &format!("1-{bytes}/{bytes}"))
                    .header("Status", "000 200 OK");
            jobs.push(Job::Frame(report.bare()));
        }
        // Before the scene sees that the message is complete, and leaves.
        for job in jobs {
            // A writer that has ended notes it in the ledger.
            let _ = self.jobs.send(job);
        }
        self.shared.enter(|ledger| {
            let Some(received) = ledger.received.get_mut(&id) else {
                return;
            };
            received.pieces[piece].ended = Some(flag);
            let total = received.total.unwrap_or(bytes);
            if received.bytes != bytes || flag == Flag::Last && total != bytes {
                ledger.blame(format!("message {id} ended after {bytes} bytes of {total}"));
            }
        });
    }

    fn report(&self, frame: &Frame) {
        let success = frame.head.reported_status(&frame.bytes).is_some_and(|status| status.code() == 200);
        let tally = &self.shared.stage.tally;
        add(if success { &tally.success_reports } else { &tally.failure_reports }, 1);
        self.shared.enter(|ledger| ledger.take_report(frame));
    }
}

fn head_is(current: &Current, method: &[u8]) -> bool {
    use msrp_proto::head::Kind;
    matches!(current.head.kind(), Kind::Request(_)) && current.head.method_bytes(&current.bytes) == method
}
