//! A message of any size, sent and received: as one SEND, or in chunks.
//!
//! Invariants: received bytes are compared with the sent ones, byte by byte; their ranges are gapless; a message
//! without its last chunk is an error.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use msrp_client::{ClientError, random_token};
use msrp_proto::head::{ByteRange, FailureReport, Head, Kind, Method};
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::write::{FrameWriter, write_end_line};
use tokio::sync::Notify;

use super::content::Content;
use super::line::{FLUSH_BYTES, Outlet, Party};
use super::scene::Sender;
use crate::outcome::Failure;

/// Chunks up to this size are written in one piece.
const WHOLE_CHUNK_MAX: u64 = 64 << 10;
/// RFC 4975, 7.1.1: longer chunks must be interruptible, and say so by an open end of their range.
const UNINTERRUPTED_MAX: u64 = 2048;

/// What all connections together have done.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Bytes of bodies that have arrived.
    pub(crate) bytes: Cell<u64>,
    /// Chunks, or whatever else is counted.
    pub(crate) count: Cell<u64>,
    /// Answers that have come.
    pub(crate) answers: Cell<u64>,
    /// After so many bytes the load is in its second half; zero: that is not asked.
    pub(crate) half_bytes: Cell<u64>,
    /// Tells once that it is.
    pub(crate) half_passed: Notify,
}

impl Tally {
    /// Bytes of bodies have arrived.
    fn arrived(&self, bytes: u64) {
        let before = self.bytes.get();
        self.bytes.set(before + bytes);
        if before < self.half_bytes.get() && before + bytes >= self.half_bytes.get() {
            self.half_passed.notify_one();
        }
    }
}

pub(crate) fn add(cell: &Cell<u64>, more: u64) {
    cell.set(cell.get() + more);
}

/// When to stop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Until {
    /// After so many bytes, or messages.
    pub(crate) amount: Option<u64>,
    /// At this time.
    pub(crate) time: Option<Instant>,
    /// When another task sets this flag.
    pub(crate) told: Rc<Cell<bool>>,
}

impl Until {
    pub(crate) fn is_over(&self, amount: u64) -> bool {
        self.amount.is_some_and(|bound| amount >= bound)
            || self.time.is_some_and(|time| Instant::now() >= time)
            || self.told.get()
    }
}

/// How a message is sent.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// When the message ends; an amount is its size, which its head announces.
    pub(crate) until: Until,
    /// Chunks of this size; `None` is one chunk.
    pub(crate) chunk: Option<u64>,
    pub(crate) reports: FailureReport,
    /// How many chunks may await their answers.
    pub(crate) window: u32,
}

/// Sends one message.
pub(crate) struct FileSender {
    plan: Plan,
    to_path: String,
    from_path: String,
    message_id: String,
    content: Content,
    tid_prefix: String,
    chunks: u64,
    offset: u64,
    /// The open chunk: its transaction id, and its end if known.
    open: Option<(String, Option<u64>)>,
    complete: bool,
    answered: u64,
    tally: Rc<Tally>,
    frame: Vec<u8>,
}

impl FileSender {
    pub(crate) fn new(sender: &Sender, plan: Plan, tally: Rc<Tally>) -> Self {
        let message_id = random_token(12);
        Self {
            plan,
            to_path: sender.to_path.clone(),
            from_path: sender.from_path.clone(),
            content: Content::of(message_id.as_bytes()),
            message_id,
            tid_prefix: random_token(8),
            chunks: 0,
            offset: 0,
            open: None,
            complete: false,
            answered: 0,
            tally,
            frame: Vec::new(),
        }
    }

    fn may_begin(&self) -> bool {
        self.plan.reports != FailureReport::Yes || self.chunks - self.answered < u64::from(self.plan.window)
    }

    /// Writes the head of the next chunk to the frame, and remembers the chunk.
    fn begin(&mut self) {
        self.chunks += 1;
        let tid = format!("{}{:x}", self.tid_prefix, self.chunks);
        let total = self.plan.until.amount;
        let begin = self.offset;
        let end = match (self.plan.chunk, total) {
            (Some(chunk), Some(total)) => Some(total.min(begin + chunk)),
            (Some(chunk), None) => Some(begin + chunk),
            (None, total) => total,
        };
        let told = end.filter(|end| end - begin <= UNINTERRUPTED_MAX);
        let reports = match self.plan.reports {
            FailureReport::Yes => "yes",
            FailureReport::Partial => "partial",
            FailureReport::No => "no",
        };
        self.frame.clear();
        FrameWriter::request(&mut self.frame, tid.as_bytes(), "SEND")
            .header("To-Path", self.to_path.as_bytes())
            .header("From-Path", self.from_path.as_bytes())
            .header("Message-ID", self.message_id.as_bytes())
            .byte_range(ByteRange { start: begin + 1, end: told, total })
            .header("Failure-Report", reports.as_bytes())
            .header("Content-Type", b"application/octet-stream")
            .body_start();
        self.open = Some((tid, end));
    }

    /// The flag of the chunk that ends here.
    fn flag(&self) -> Flag {
        if self.plan.chunk.is_none() || self.plan.until.is_over(self.offset) {
            Flag::Last
        } else {
            Flag::More
        }
    }

    fn finish(&mut self, tid: &str, out: &mut Outlet<'_>) -> Result<(), Failure> {
        let flag = self.flag();
        write_end_line(&mut self.frame, tid.as_bytes(), flag, true);
        self.complete = flag == Flag::Last;
        out.send(&self.frame)?;
        self.frame.clear();
        Ok(())
    }
}

impl Party for FileSender {
    fn produce(&mut self, out: &mut Outlet<'_>) -> Result<(), Failure> {
        while !out.is_full() && !self.complete {
            let Some((tid, end)) = self.open.take() else {
                if !self.may_begin() {
                    return Ok(());
                }
                self.begin();
                let whole =
                    self.open.take_if(|(_, end)| end.is_some_and(|end| end - self.offset <= WHOLE_CHUNK_MAX));
                if let Some((tid, Some(end))) = whole {
                    let bytes = (end - self.offset) as usize;
                    self.frame.extend_from_slice(self.content.slice(self.offset, bytes));
                    self.offset = end;
                    self.finish(&tid, out)?;
                } else {
                    out.send_part(&self.frame, false)?;
                    self.frame.clear();
                }
                continue;
            };
            let left = end.map_or(u64::MAX, |end| end - self.offset);
            let over = left == 0 || (self.plan.chunk.is_none() && self.plan.until.is_over(self.offset));
            if over {
                self.finish(&tid, out)?;
            } else {
                let piece = self.content.slice(self.offset, left.min(FLUSH_BYTES as u64) as usize);
                out.send_part(piece, false)?;
                self.offset += piece.len() as u64;
                self.open = Some((tid, end));
            }
        }
        Ok(())
    }

    fn head(&mut self, head: &Head, bytes: &[u8]) -> Result<(), Failure> {
        if answer_to_send(head, bytes)? {
            self.answered += 1;
            add(&self.tally.answers, 1);
        }
        Ok(())
    }

    fn body(&mut self, _: &[u8]) -> Result<(), Failure> {
        Ok(())
    }

    fn end(&mut self, _: Flag) -> Result<(), Failure> {
        Ok(())
    }

    fn done(&self) -> bool {
        self.complete && (self.plan.reports != FailureReport::Yes || self.answered >= self.chunks)
    }
}

/// Whether this is a success response to one of our requests. A failure is an error.
pub(crate) fn answer_to_send(head: &Head, bytes: &[u8]) -> Result<bool, Failure> {
    let comment = |status: Status| status.phrase().to_owned();
    match head.kind() {
        Kind::Response(status) if status.is_success() => Ok(true),
        Kind::Response(status) => {
            Err(ClientError::Refused { status, comment: comment(status), byte: 1 }.into())
        }
        Kind::Request(Method::Report) => match head.reported_status(bytes) {
            Some(status) if !status.is_success() => {
                Err(ClientError::Reported { status, comment: comment(status) }.into())
            }
            _ => Ok(false),
        },
        Kind::Request(_) => Ok(false),
    }
}

/// The answers that a receiver owes.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    frames: Vec<u8>,
    ends: Vec<usize>,
}

impl Answers {
    /// Prepares the 200 to a request.
    pub(crate) fn accept(&mut self, tid: &[u8], previous_hop: &[u8], own_uri: &[u8]) {
        FrameWriter::response(&mut self.frames, tid, Status::OK, None)
            .header("To-Path", previous_hop)
            .header("From-Path", own_uri)
            .end(Flag::Last);
        self.ends.push(self.frames.len());
    }

    /// Sends the prepared answers, each in a record of its own.
    pub(crate) fn send(&mut self, out: &mut Outlet<'_>) -> Result<(), Failure> {
        let mut begin = 0;
        for end in self.ends.drain(..) {
            out.send(self.frames.get(begin..end).unwrap_or_default())?;
            begin = end;
        }
        self.frames.clear();
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

/// Receives one message.
pub(crate) struct FileReceiver {
    own_uri: String,
    message: Option<(Vec<u8>, Content)>,
    received: u64,
    total: Option<u64>,
    /// The transaction id and the previous hop of a chunk that is to be answered.
    to_answer: Option<(Vec<u8>, Vec<u8>)>,
    answers: Answers,
    complete: bool,
    tally: Rc<Tally>,
}

impl FileReceiver {
    pub(crate) fn new(own_uri: String, tally: Rc<Tally>) -> Self {
        Self {
            own_uri,
            message: None,
            received: 0,
            total: None,
            to_answer: None,
            answers: Answers::default(),
            complete: false,
            tally,
        }
    }
}

impl Party for FileReceiver {
    fn produce(&mut self, out: &mut Outlet<'_>) -> Result<(), Failure> {
        self.answers.send(out)
    }

    fn head(&mut self, head: &Head, bytes: &[u8]) -> Result<(), Failure> {
        let id = head.message_id(bytes).unwrap_or_default();
        if head.kind() != Kind::Request(Method::Send) || head.defect().is_some() || self.complete {
            return Err(wrong(format!("{} where a SEND was expected", String::from_utf8_lossy(bytes))));
        }
        if head.to_path(bytes).last() != Some(self.own_uri.as_bytes()) {
            return Err(wrong("a SEND for another session".to_owned()));
        }
        let message = self.message.get_or_insert_with(|| (id.to_vec(), Content::of(id)));
        if message.0 != id {
            return Err(wrong("a second message".to_owned()));
        }
        let range = head.byte_range();
        if range.is_none_or(|range| range.start != self.received + 1) {
            return Err(wrong(format!("{range:?} behind byte {}", self.received)));
        }
        self.total = self.total.or_else(|| range?.total);
        if head.failure_report() == FailureReport::Yes {
            let previous_hop = head.from_path(bytes).first().unwrap_or_default();
            self.to_answer = Some((head.tid(bytes).to_vec(), previous_hop.to_vec()));
        }
        Ok(())
    }

    fn body(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let intact = self.message.as_ref().is_some_and(|(_, content)| content.matches(self.received, bytes));
        if !intact {
            let (from, to) = (self.received + 1, self.received + bytes.len() as u64);
            return Err(wrong(format!("bytes {from} to {to} are not those that were sent")));
        }
        self.received += bytes.len() as u64;
        self.tally.arrived(bytes.len() as u64);
        Ok(())
    }

    fn end(&mut self, flag: Flag) -> Result<(), Failure> {
        add(&self.tally.count, 1);
        if let Some((tid, previous_hop)) = self.to_answer.take() {
            self.answers.accept(&tid, &previous_hop, self.own_uri.as_bytes());
        }
        match flag {
            Flag::More => Ok(()),
            Flag::Aborted => Err(wrong("the message is aborted".to_owned())),
            Flag::Last if self.total.is_some_and(|total| total != self.received) => {
                Err(wrong(format!("{} bytes where {:?} were promised", self.received, self.total)))
            }
            Flag::Last => {
                self.complete = true;
                Ok(())
            }
        }
    }

    fn done(&self) -> bool {
        self.complete && self.answers.is_empty()
    }
}

/// The received bytes differ from the sent ones.
pub(crate) fn wrong(what: String) -> Failure {
    Failure::Mismatch(what)
}
