//! The writing half of a party: messages in chunks, answers between them.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use msrp_proto::parser::Flag;

use super::content::{fill, seed_of};
use super::ledger::{Chunk, Sent};
use super::line::{Leave, Line};
use super::party::{Fate, Outgoing, Shared};
use super::stage::add;
use testkit_net::frame::{Request, end_line};

/// Bytes handed to the connection between two looks at what else must be written.
const STEP: u64 = 32 << 10;
/// Longer chunks can be interrupted (RFC 4975, 7.1.1).
const UNINTERRUPTED_MAX: u64 = 2048;

/// What a writer is asked to do.
pub(crate) enum Job {
    Message(Box<Outgoing>),
    /// A request without a body, or a REPORT.
    Frame(Vec<u8>),
    /// The response to a piece of a message that came in.
    Answer {
        frame: Vec<u8>,
        id: String,
        piece: usize,
    },
    Leave(Leave),
}

pub(crate) struct Pen {
    shared: Arc<Shared>,
    line: Arc<Line>,
    todo: Receiver<Job>,
    /// Messages, and what comes behind them.
    waiting: VecDeque<Job>,
    buffer: Vec<u8>,
}

/// Why nothing more is written.
enum Over {
    Failed,
    Left(Leave),
}

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Self::Failed
    }
}

impl Pen {
    pub(crate) fn new(shared: Arc<Shared>, line: Arc<Line>, todo: Receiver<Job>) -> Self {
        Self { shared, line, todo, waiting: VecDeque::new(), buffer: vec![0; STEP as usize] }
    }

    pub(crate) fn run(mut self) {
        let over = loop {
            let Some(job) = self.waiting.pop_front().or_else(|| self.todo.recv().ok()) else {
                return;
            };
            let done = match job {
                Job::Message(message) => self.message(&message),
                Job::Leave(how) => Err(Over::Left(how)),
                short => self.short(short),
            };
            if let Err(over) = done {
                break over;
            }
        };
        // Noted first: the other side may answer at once.
        self.shared.enter(|ledger| ledger.broken_off = true);
        if let Over::Left(how) = over {
            self.line.leave(how);
        }
    }

    /// Frames that fit between chunks.
    fn short(&mut self, job: Job) -> Result<(), Over> {
        match job {
            Job::Frame(frame) => self.line.write(&frame)?,
            Job::Answer { frame, id, piece } => {
                self.line.write(&frame)?;
                self.shared.enter(|ledger| {
                    let piece =
                        ledger.received.get_mut(&id).and_then(|message| message.pieces.get_mut(piece));
                    piece.into_iter().for_each(|piece| piece.answered = true);
                });
            }
            other => self.waiting.push_back(other),
        }
        Ok(())
    }

    /// Writes what waits. Returns whether that includes the order to leave.
    fn between_chunks(&mut self) -> Result<(), Over> {
        while let Some(job) = self.next_short() {
            self.short(job)?;
        }
        Ok(())
    }

    fn next_short(&mut self) -> Option<Job> {
        while let Ok(job) = self.todo.try_recv() {
            match job {
                Job::Frame(_) | Job::Answer { .. } => return Some(job),
                other => self.waiting.push_back(other),
            }
        }
        None
    }

    fn message(&mut self, message: &Outgoing) -> Result<(), Over> {
        let (sent, id) = (Sent::new(message.wish, message.total), message.id.clone());
        self.shared.enter(|ledger| ledger.sent.insert(id, sent));
        let result = self.chunks(message);
        self.shared.enter(|ledger| {
            ledger.writing -= 1;
            ledger.sent.get_mut(&message.id).into_iter().for_each(|sent| sent.over = true);
        });
        result
    }

    fn chunks(&mut self, message: &Outgoing) -> Result<(), Over> {
        let mut fate = message.fate;
        let mut sent = 0;
        loop {
            let end = message.chunk.map_or(message.total, |bytes| message.total.min(sent + bytes));
            let (tid, number) = self.begin(message, sent, end)?;
            let mut waiting = None;
            let flag = loop {
                if let Some((at, what)) = fate
                    && at == sent
                {
                    fate = None;
                    match what {
                        Fate::Leave(how) => return Err(Over::Left(how)),
                        Fate::Abort => break Flag::Aborted,
                        Fate::Rest(time) => std::thread::sleep(time),
                    }
                }
                if sent == end {
                    break if sent == message.total { Flag::Last } else { Flag::More };
                }
                if self.is_refused(message) {
                    break Flag::Aborted;
                }
                let stop = fate.map_or(end, |(at, _)| at).min(end);
                sent += self.step(message, number, sent, stop - sent)?;
                waiting = if sent < end { self.next_short() } else { None };
                if waiting.is_some() {
                    break Flag::More;
                }
            };
            self.end(message, number, &tid, flag)?;
            if let Some(job) = waiting {
                self.short(job)?;
            }
            self.between_chunks()?;
            if flag == Flag::Last || flag == Flag::Aborted || self.is_refused(message) {
                return Ok(());
            }
        }
    }

    fn is_refused(&self, message: &Outgoing) -> bool {
        self.shared.ledger().sent.get(&message.id).is_some_and(|sent| sent.refused)
    }

    /// Begins a chunk; returns its transaction id and its number.
    fn begin(&self, message: &Outgoing, sent: u64, end: u64) -> Result<(String, usize), Over> {
        let total = message.total;
        let range = match end - sent > UNINTERRUPTED_MAX {
            true => format!("{}-*/{total}", sent + 1),
            false => format!("{}-{end}/{total}", sent + 1),
        };
        let mut request = Request::send(&message.to, &self.shared.uri, &message.id, &range);
        if let Some(wish) = message.wish.header() {
            request = request.header("Failure-Report", wish);
        }
        if message.success {
            request = request.header("Success-Report", "yes");
        }
        let tid = request.tid();
        let chunk = Chunk { start: sent + 1, bytes: 0, ended: None, status: None };
        let number = self.shared.enter(|ledger| {
            let known = ledger.sent.get_mut(&message.id).map(|sent| {
                sent.unanswered += 1;
                sent.chunks.push(chunk);
                sent.chunks.len() - 1
            });
            let number = known.unwrap_or_default();
            ledger.tids.insert(tid.clone(), (message.id.clone(), number));
            number
        });
        add(&self.shared.stage.tally.chunks, 1);
        self.line.write(&request.head())?;
        Ok((tid, number))
    }

    /// Writes at most so many bytes of the body; returns how many.
    fn step(&mut self, message: &Outgoing, number: usize, sent: u64, most: u64) -> Result<u64, Over> {
        let bytes = most.min(STEP);
        let tally = &self.shared.stage.tally;
        self.shared.stage.pace.take(bytes);
        let part = &mut self.buffer[..bytes as usize];
        fill(seed_of(&message.id).unwrap_or_default(), sent, part);
        // Noted first: reports about them may come at once.
        self.shared.enter(|ledger| {
            let sent = ledger.sent.get_mut(&message.id);
            sent.into_iter().for_each(|sent| sent.chunks[number].bytes += bytes);
        });
        self.line.write(part)?;
        add(&tally.bytes_sent, bytes);
        Ok(bytes)
    }

    fn end(&self, message: &Outgoing, number: usize, tid: &str, flag: Flag) -> Result<(), Over> {
        self.shared.enter(|ledger| {
            let sent = ledger.sent.get_mut(&message.id);
            sent.into_iter().for_each(|sent| {
                sent.chunks[number].ended = Some(flag);
                // The answers to the last chunk may come before a later note.
                sent.over = flag != Flag::More;
            });
        });
        Ok(self.line.write(&end_line(tid, flag))?)
    }
}
