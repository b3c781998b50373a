//! The reading half of a party: verifies each octet as it comes, answers chunks, reports success.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use msrp_proto::head::{FailureReport, Head};
use msrp_proto::parser::Flag;

use super::content::{first_difference, seed_of};
use super::ledger::Piece;
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
    /// Octets a second; `None`: as they come.
    pub(crate) pace: Option<u64>,
    /// Reads nothing for a while once so many body octets have come.
    pub(crate) rest: Option<(u64, Duration)>,
    /// Neither reads nor answers any more from then on.
    pub(crate) vanish: Option<u64>,
}

pub(crate) struct Ear {
    shared: Arc<Shared>,
    jobs: Sender<Job>,
    manner: Manner,
    current: Option<Current>,
    octets: u64,
}

/// A frame that is arriving.
struct Current {
    head: Head,
    octets: Vec<u8>,
    /// Of a SEND: the Message-ID, its seed, the place of the next octet, the piece's number.
    message: Option<(String, u64, u64, usize)>,
}

impl Ear {
    pub(crate) fn new(shared: Arc<Shared>, jobs: Sender<Job>, manner: Manner) -> Self {
        Self { shared, jobs, manner, current: None, octets: 0 }
    }

    pub(crate) fn run(mut self, mut reader: Reader) {
        loop {
            let room = self.manner.pace.map_or(usize::MAX, |pace| (pace * 20 / 1000) as usize);
            let pumped = reader.pump(room, |arrived| self.take(arrived));
            if let Err(end) = pumped {
                self.lose(end);
                return;
            }
            if self.manner.vanish.is_some_and(|octets| self.octets >= octets) {
                self.shared.enter(|ledger| ledger.vanished = true);
                return;
            }
            if self.manner.pace.is_some() {
                std::thread::sleep(BEAT);
            }
            if let Some((_, time)) = self.manner.rest.take_if(|(octets, _)| self.octets >= *octets) {
                std::thread::sleep(time);
            }
        }
    }

    fn lose(&self, end: End) {
        self.shared.enter(|ledger| ledger.end = Some(end));
    }

    fn take(&mut self, arrived: Arrived<'_>) {
        match arrived {
            Arrived::Head(head, octets) => self.head(head, octets),
            Arrived::Body(octets) => self.body(octets),
            Arrived::End(flag) => self.end(flag),
        }
    }

    fn head(&mut self, head: Head, octets: &[u8]) {
        let mut current = Current { head, octets: octets.to_vec(), message: None };
        if head_is(&current, b"SEND") {
            match self.open(&current) {
                Ok(message) => current.message = Some(message),
                Err(what) => self.shared.enter(|ledger| ledger.blame(what)),
            }
        }
        self.current = Some(current);
    }

    /// Enters a piece of a message: it must follow upon what has come of it.
    fn open(&self, current: &Current) -> Result<(String, u64, u64, usize), String> {
        let head = String::from_utf8_lossy(&current.octets);
        let id = current.head.message_id(&current.octets).unwrap_or_default();
        let id = String::from_utf8_lossy(id).into_owned();
        let seed = seed_of(&id).ok_or_else(|| format!("a message of nobody: {head}"))?;
        let range = current.head.byte_range().ok_or_else(|| format!("no Byte-Range: {head}"))?;
        let answered = current.head.failure_report() == FailureReport::Yes;
        self.shared.enter(|ledger| {
            let received = ledger.received.entry(id.clone()).or_default();
            received.answered = answered;
            received.success = current.head.success_report();
            received.total = range.total;
            let ended = received.pieces.is_empty() || received.ended() == Some(Flag::More);
            if !ended || range.start != received.octets + 1 {
                return Err(format!("after {} octets and {:?}: {head}", received.octets, received.ended()));
            }
            received.pieces.push(Piece { start: range.start, octets: 0, ended: None, answered: false });
            Ok((id, seed, range.start - 1, received.pieces.len() - 1))
        })
    }

    fn body(&mut self, octets: &[u8]) {
        let Some((id, seed, place, _)) = self.current.as_mut().and_then(|current| current.message.as_mut())
        else {
            return;
        };
        let count = octets.len() as u64;
        let wrong = first_difference(*seed, *place, octets);
        *place += count;
        self.octets += count;
        self.shared.enter(|ledger| {
            if let Some(place) = wrong {
                ledger.blame(format!("octet {place} of message {id} is not what was sent"));
            }
            ledger.octets += count;
            if let Some(received) = ledger.received.get_mut(id) {
                received.octets += count;
                received.pieces.last_mut().into_iter().for_each(|piece| piece.octets += count);
            }
        });
        if wrong.is_none() {
            add(&self.shared.stage.tally.octets_verified, count);
        }
    }

    fn end(&mut self, flag: Flag) {
        let Some(Current { head, octets, message }) = self.current.take() else {
            return;
        };
        let frame = Frame { head, octets, body: Vec::new(), flag };
        match message {
            Some(message) => self.end_of_piece(&frame, message),
            None if frame.status().is_some() => self.shared.enter(|ledger| ledger.take_response(frame)),
            None if frame.is_request("REPORT") => self.report(&frame),
            None => self.shared.enter(|ledger| ledger.blame(format!("a strange request: {frame:?}"))),
        }
    }

    fn end_of_piece(&self, frame: &Frame, (id, _, octets, piece): (String, u64, u64, usize)) {
        let flag = frame.flag;
        let mut jobs = Vec::new();
        if frame.head.failure_report() == FailureReport::Yes {
            jobs.push(Job::Answer { frame: frame.response("200 OK"), id: id.clone(), piece });
        }
        if flag == Flag::Last && frame.head.success_report() {
            let report =
                Request::new("REPORT", &frame.header("From-Path").unwrap_or_default(), &self.shared.uri)
                    .header("Message-ID", &id)
                    .header("Byte-Range", &format!("1-{octets}/{octets}"))
                    .header("Status", "000 200 OK");
            jobs.push(Job::Frame(report.bare()));
        }
        // Before the scene sees that the message is complete, and leaves.
        for job in jobs {
            // A writer that has ended says so in the ledger.
            let _ = self.jobs.send(job);
        }
        self.shared.enter(|ledger| {
            let Some(received) = ledger.received.get_mut(&id) else {
                return;
            };
            received.pieces[piece].ended = Some(flag);
            let total = received.total.unwrap_or(octets);
            if received.octets != octets || flag == Flag::Last && total != octets {
                ledger.blame(format!("message {id} ended after {octets} octets of {total}"));
            }
        });
    }

    fn report(&self, frame: &Frame) {
        let success = frame.head.reported_status(&frame.octets).is_some_and(|status| status.code() == 200);
        let tally = &self.shared.stage.tally;
        add(if success { &tally.success_reports } else { &tally.failure_reports }, 1);
        self.shared.enter(|ledger| ledger.take_report(frame));
    }
}

fn head_is(current: &Current, method: &[u8]) -> bool {
    use msrp_proto::head::Kind;
    matches!(current.head.kind(), Kind::Request(_)) && current.head.method_octets(&current.octets) == method
}
