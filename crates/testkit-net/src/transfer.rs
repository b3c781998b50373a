//! Files in both directions at once, as a client moves them.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};

use msrp_proto::parser::Flag;

use crate::endpoint::{Endpoint, Writer};
use crate::frame::{Frame, Request, end_line, fresh_id};

/// Bytes handed to the connection before the next look at what else must be written.
const STEP: usize = 32 << 10;

/// A message to be sent.
pub struct Outgoing<'a> {
    /// The other side's path.
    pub peer: &'a str,
    pub data: &'a [u8],
    /// Bytes in a chunk; `None`: one giant SEND, cut only for responses.
    pub chunk: Option<usize>,
    /// Failure-Report; `yes` if the header is absent.
    pub failure_report: Option<&'a str>,
}

impl<'a> Outgoing<'a> {
    /// One giant SEND.
    pub fn giant(peer: &'a str, data: &'a [u8]) -> Self {
        Self { peer, data, chunk: None, failure_report: None }
    }

    pub fn chunks(peer: &'a str, data: &'a [u8], bytes: usize) -> Self {
        Self { chunk: Some(bytes), ..Self::giant(peer, data) }
    }

    /// No answers, no reports.
    pub fn without_reports(self) -> Self {
        Self { failure_report: Some("no"), ..self }
    }
}

/// What the other side sees of a message's chunks.
#[derive(Default)]
pub struct Incoming {
    pub data: Vec<u8>,
    pub chunks: usize,
    complete: bool,
}

/// What the writing and the reading half of an exchange share.
#[derive(Default)]
struct Progress {
    /// Chunks that the other hop will answer.
    sent: AtomicUsize,
    all_sent: AtomicBool,
}

impl Endpoint {
    /// Sends a message and waits until every chunk is answered 200.
    pub fn send_file(&mut self, outgoing: &Outgoing<'_>) {
        let received = self.exchange(Some(outgoing), 0);
        assert!(received.is_empty());
    }

    /// Receives one message.
    pub fn receive_file(&mut self) -> Incoming {
        self.exchange(None, 1).remove(0)
    }

    /// Sends a message, if any, and meanwhile receives so many. Answers each chunk with 200 and expects 200 for each of
    /// its own. Returns the received messages, in the order of completion.
    pub fn exchange(&mut self, outgoing: Option<&Outgoing<'_>>, expected: usize) -> Vec<Incoming> {
        let progress = Progress::default();
        let (answers, waiting) = channel();
        let from = self.uri.clone();
        let to = outgoing.map(|o| self.route(o.peer));
        let (reader, writer) = (&mut self.reader, Mutex::new(&mut self.writer));
        std::thread::scope(|scope| {
            let progress = &progress;
            scope.spawn(move || {
                let writer = writer.into_inner().unwrap();
                if let (Some(outgoing), Some(to)) = (outgoing, to) {
                    write_message(writer, outgoing, (&to, &from), &waiting, progress);
                }
                progress.all_sent.store(true, Ordering::SeqCst);
                for answer in waiting {
                    writer.write(&answer);
                }
            });
            let mut open: HashMap<String, Incoming> = HashMap::new();
            let mut done = Vec::new();
            let mut answered = 0;
            if outgoing.is_none() {
                progress.all_sent.store(true, Ordering::SeqCst);
            }
            let silent = outgoing.is_none_or(|o| o.failure_report.is_some_and(|f| f != "yes"));
            let is_over = |done: &Vec<_>, answered| {
                let answers_in = silent
                    || progress.all_sent.load(Ordering::SeqCst)
                        && answered == progress.sent.load(Ordering::SeqCst);
                done.len() >= expected && answers_in
            };
            while !is_over(&done, answered) {
                let frame = match reader.next_frame() {
                    Ok(frame) => frame,
                    Err(end) => {
                        panic!("{} of {expected} messages and {answered} answers, then {end:?}", done.len())
                    }
                };
                if frame.status().is_some() {
                    assert_eq!(frame.status(), Some(200), "{frame:?}");
                    answered += 1;
                    continue;
                }
                assert!(frame.is_request("SEND"), "{frame:?}");
                if !matches!(frame.header("Failure-Report").as_deref(), Some("no" | "partial")) {
                    answers.send(frame.response("200 OK")).unwrap();
                }
                let id = frame.required("Message-ID");
                let message = open.entry(id.clone()).or_default();
                message.add(&frame);
                if message.complete {
                    done.extend(open.remove(&id));
                }
            }
            drop(answers);
            assert!(open.is_empty(), "messages that have not ended");
            done
        })
    }
}

impl Incoming {
    /// Chunks come in order and without a gap.
    fn add(&mut self, frame: &Frame) {
        assert_eq!(frame.start(), self.data.len() as u64 + 1, "{frame:?}");
        assert_ne!(frame.flag, Flag::Aborted, "{frame:?}");
        self.data.extend_from_slice(&frame.body);
        self.chunks += 1;
        self.complete = frame.flag == Flag::Last;
    }
}

fn write_message(
    writer: &mut Writer,
    outgoing: &Outgoing<'_>,
    (to, from): (&str, &str),
    answers: &Receiver<Vec<u8>>,
    progress: &Progress,
) {
    let id = fresh_id();
    let total = outgoing.data.len();
    let mut sent = 0;
    loop {
        let end = outgoing.chunk.map_or(total, |bytes| total.min(sent + bytes));
        let range = match outgoing.chunk {
            Some(_) if end - sent <= 2048 => format!("{}-{end}/{total}", sent + 1),
            _ => format!("{}-*/{total}", sent + 1),
        };
        let mut request = Request::send(to, from, &id, &range);
        if let Some(failure_report) = outgoing.failure_report {
            request = request.header("Failure-Report", failure_report);
        }
        let tid = request.tid();
        writer.write_part(&request.head(), false);
        let mut waiting = None;
        while sent < end && waiting.is_none() {
            let step = end.min(sent + STEP);
            writer.write_part(&outgoing.data[sent..step], false);
            sent = step;
            waiting = answers.try_recv().ok();
        }
        // Counted before the end-line is written, because the answer may come before anything later here.
        progress.sent.fetch_add(1, Ordering::SeqCst);
        let flag = if sent == total { Flag::Last } else { Flag::More };
        progress.all_sent.store(sent == total, Ordering::SeqCst);
        writer.write_part(&end_line(&tid, flag), true);
        let rest = answers.try_iter();
        for answer in waiting.into_iter().chain(rest) {
            writer.write(&answer);
        }
        if sent == total {
            return;
        }
    }
}
