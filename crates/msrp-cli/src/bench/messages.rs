//! `msrp bench messages`: short messages, a window of them at a time in each session, and the time of each.
//!
//! Each message has two times, both from the moment it is given to the kernel, or waits for it: until its receiver,
//! also this process, has it, and until the relay has answered it. Invariant: messages arrive in the order of sending,
//! each once.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use msrp_client::random_token;
use msrp_proto::head::{ByteRange, FailureReport, Head, Kind, Method};
use msrp_proto::parser::Flag;
use msrp_proto::write::{FrameWriter, write_end_line};
use serde_json::{Value, json};

use super::content::Content;
use super::file;
use super::line::{Line, Outlet, Party};
use super::run::{Measure, Tasks, Unit, watch};
use super::scene::{Common, PairArguments, Place, Receiver, Scene, Sender};
use super::transfer::{Answers, Plan, Tally, Until, add, answer_to_send, wrong};
use crate::outcome::{Failure, Report};
use crate::progress::Progress;
use crate::units;
use crate::units::{parse_duration, parse_size};

const EXAMPLES: &str = "\
Examples:
  Eight sessions, eight messages under way in each:
    msrp bench messages --relay localhost:2855 --ca localhost.crt \\
                        --user bench@example.com --password-file pw \\
                        --sessions 8 --window 8
  One message at a time, while another session fills the core with a file:
    msrp bench messages … --window 1 --with-files 1";

/// Characters of a transaction id in front of the message's number.
const TID_PREFIX: usize = 8;
/// Each message begins with its number and time: `m`, or `l` for the last one, and two numbers.
const STAMP_BYTES: usize = 1 + 16 + 16;
/// More than any message can take.
const LATENCY_MAX_NANOS: u64 = 600_000_000_000;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Bytes of each message, at least 33
    #[arg(long, value_name = "SIZE", default_value = "200", value_parser = parse_message_size)]
    size: u64,
    /// How many messages each session sends [default: 10000, or as many as go into --duration]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Stop after this time
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// How many messages of a session may wait for their answers
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u32).range(1..))]
    window: u32,
    /// So many further sessions send one giant file each as fast as they can meanwhile
    #[arg(long, value_name = "N", default_value = "0")]
    with_files: u16,
    #[command(flatten)]
    pairs: PairArguments,
    #[command(flatten)]
    pub(crate) common: Common,
}

fn parse_message_size(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        size if size < STAMP_BYTES as u64 => Err(format!("at least {STAMP_BYTES} bytes are needed")),
        size if size > 64 << 10 => Err("at most 64K; larger ones are files".to_owned()),
        size => Ok(size),
    }
}

/// What all sessions share.
struct Shared {
    began: Instant,
    tally: Tally,
    delivered: RefCell<Histogram<u64>>,
    answered: RefCell<Histogram<u64>>,
}

impl Shared {
    fn nanos(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

pub(crate) async fn run(arguments: &Arguments, report: &mut Report) -> Result<(), Failure> {
    let scene = Rc::new(Scene::new(&arguments.common, Some(&arguments.pairs))?);
    let count = arguments.count.or_else(|| arguments.duration.is_none().then_some(10_000));
    let pairs = scene.pairs(&arguments.pairs).await?;
    let file_arguments = PairArguments { sessions: arguments.with_files, ..arguments.pairs.clone() };
    let files = scene.pairs(&file_arguments).await?;
    let histogram = || Histogram::new_with_bounds(1, LATENCY_MAX_NANOS, 3);
    let impossible = |error: hdrhistogram::CreationError| Failure::Engine(error.to_string());
    let shared = Rc::new(Shared {
        began: Instant::now(),
        tally: Tally::default(),
        delivered: RefCell::new(histogram().map_err(impossible)?),
        answered: RefCell::new(histogram().map_err(impossible)?),
    });
    let total = count.map(|count| count * u64::from(arguments.pairs.sessions));
    let progress = Progress::counting("bench messages", total, arguments.common.output.progress);
    let measure = Measure::begin(&arguments.common.relay_pid)?;
    let mut load = Tasks::default();
    let load_tally = Rc::new(Tally::default());
    let until = Until::default();
    let stop = Rc::clone(&until.told);
    let plan = Plan { until, chunk: None, reports: FailureReport::No, window: 1 };
    file::spawn(&mut load, files, &plan, &scene, &load_tally);
    let until = Until {
        amount: count,
        time: arguments.duration.map(|duration| Instant::now() + duration),
        ..Until::default()
    };
    let mut tasks = Tasks::default();
    for (sender, receiver) in pairs {
        let (window, size) = (arguments.window, arguments.size);
        tasks.spawn(send(sender, until.clone(), window, size, Rc::clone(&shared)));
        tasks.spawn(receive(receiver, Rc::clone(&scene), Rc::clone(&shared)));
    }
    watch(tasks.join(), || shared.tally.count.get(), |count| progress.update(count)).await?;
    let measured = measure.end();
    progress.finish(shared.tally.count.get());
    stop.set(true);
    watch(load.join(), || load_tally.bytes.get(), |_| {}).await?;
    let messages = shared.tally.count.get();
    let seconds = measured.elapsed.as_secs_f64();
    report.lines.push(format!(
        "{messages} messages of {} bytes in {seconds:.2} s ({:.0} a second), {}, window {}; every byte compared",
        arguments.size,
        messages as f64 / seconds.max(1e-9),
        units::counted(arguments.pairs.sessions as usize, "session"),
        arguments.window,
    ));
    report.json = json!({
        "mode": "messages",
        "messages": messages,
        "sessions": arguments.pairs.sessions,
        "window": arguments.window,
        "bytes_each": arguments.size,
        "bytes_of_files": load_tally.bytes.get(),
        "seconds": seconds,
    });
    if arguments.with_files > 0 {
        let rate = units::rate(load_tally.bytes.get(), measured.elapsed);
        let files = units::counted(arguments.with_files as usize, "file");
        report.lines.push(format!("beside {files}, {rate}"));
    }
    for (name, histogram) in [("delivered", &shared.delivered), ("answered", &shared.answered)] {
        let (line, json) = latencies(name, &histogram.borrow());
        report.lines.push(line);
        report.json[format!("{name}_us")] = json;
    }
    measured.tell("per message", messages as f64, Unit::Micros, report);
    load.close().await;
    tasks.close().await;
    Ok(())
}

/// Percentiles in microseconds, for people and for programs.
pub(super) fn latencies(name: &str, histogram: &Histogram<u64>) -> (String, Value) {
    let micros = |nanos: u64| nanos as f64 / 1e3;
    let at = |quantile| micros(histogram.value_at_quantile(quantile));
    let (p50, p90, p99, max) = (at(0.5), at(0.9), at(0.99), micros(histogram.max()));
    let [half, most, nearly_all, longest] = [p50, p90, p99, max].map(units::short_time);
    let line = format!("{name}: median {half}, p90 {most}, p99 {nearly_all}, longest {longest}");
    (line, json!({ "p50": p50, "p90": p90, "p99": p99, "max": max, "mean": histogram.mean() / 1e3 }))
}

async fn send(
    mut sender: Sender,
    until: Until,
    window: u32,
    size: u64,
    shared: Rc<Shared>,
) -> Result<Line, Failure> {
    let mut party = MessageSender {
        to_path: sender.to_path.clone(),
        from_path: sender.from_path.clone(),
        tid_prefix: random_token(TID_PREFIX),
        until,
        window: window as usize,
        filling: size as usize - STAMP_BYTES,
        sent: 0,
        complete: false,
        waiting: VecDeque::new(),
        shared,
        frame: Vec::new(),
    };
    sender.line.drive(&mut party).await?;
    Ok(sender.line)
}

async fn receive(receiver: Receiver, scene: Rc<Scene>, shared: Rc<Shared>) -> Result<Line, Failure> {
    let mut line = match receiver.at {
        Place::Connected(line) => *line,
        Place::Awaiting(listener) => scene.accept(&listener).await?,
    };
    let mut party = MessageReceiver {
        own_uri: receiver.own_uri,
        received: 0,
        request: Vec::new(),
        previous_hop: Vec::new(),
        content: Content::of(b""),
        body: Vec::new(),
        answers: Answers::default(),
        complete: false,
        shared,
    };
    line.drive(&mut party).await?;
    Ok(line)
}

struct MessageSender {
    to_path: String,
    from_path: String,
    tid_prefix: String,
    until: Until,
    window: usize,
    /// Bytes of content after the stamp.
    filling: usize,
    sent: u64,
    complete: bool,
    /// Number and time of each unanswered message.
    waiting: VecDeque<(u64, u64)>,
    shared: Rc<Shared>,
    frame: Vec<u8>,
}

impl MessageSender {
    fn message(&mut self, nanos: u64) {
        let number = self.sent;
        let tid = format!("{}{number:x}", self.tid_prefix);
        let size = (STAMP_BYTES + self.filling) as u64;
        self.frame.clear();
        FrameWriter::request(&mut self.frame, tid.as_bytes(), "SEND")
            .header("To-Path", self.to_path.as_bytes())
            .header("From-Path", self.from_path.as_bytes())
            .header_fmt("Message-ID", format_args!("m{tid}"))
            .byte_range(ByteRange { start: 1, end: Some(size), total: Some(size) })
            .header("Failure-Report", b"yes")
            .header("Content-Type", b"text/plain")
            .body_start();
        let kind = if self.complete { 'l' } else { 'm' };
        self.frame.extend_from_slice(format!("{kind}{number:016x}{nanos:016x}").as_bytes());
        self.frame.extend_from_slice(content_of(tid.as_bytes()).slice(0, self.filling));
        write_end_line(&mut self.frame, tid.as_bytes(), Flag::Last, true);
    }
}

/// The content of a message. Its source is the transaction id, or a Message-ID made of `m` and that id: the relay
/// changes the one and keeps the other.
fn content_of(tid: &[u8]) -> Content {
    Content::of(tid)
}

impl Party for MessageSender {
    fn produce(&mut self, out: &mut Outlet<'_>) -> Result<(), Failure> {
        while !out.is_full() && !self.complete && self.waiting.len() < self.window {
            self.sent += 1;
            self.complete = self.until.is_over(self.sent);
            let nanos = self.shared.nanos();
            self.message(nanos);
            self.waiting.push_back((self.sent, nanos));
            out.send(&self.frame)?;
        }
        Ok(())
    }

    fn head(&mut self, head: &Head, bytes: &[u8]) -> Result<(), Failure> {
        if !answer_to_send(head, bytes)? {
            return Ok(());
        }
        let tid = head.tid(bytes);
        let number = tid
            .strip_prefix(self.tid_prefix.as_bytes())
            .and_then(|digits| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        // Answers usually come in order, but need not.
        let found = self.waiting.iter().position(|&(waiting, _)| Some(waiting) == number);
        let Some((_, nanos)) = found.and_then(|at| self.waiting.remove(at)) else {
            return Err(wrong(format!("an answer to {}, which awaits none", String::from_utf8_lossy(tid))));
        };
        self.shared.answered.borrow_mut().saturating_record(self.shared.nanos().saturating_sub(nanos).max(1));
        add(&self.shared.tally.answers, 1);
        Ok(())
    }

    fn body(&mut self, _: &[u8]) -> Result<(), Failure> {
        Ok(())
    }

    fn end(&mut self, _: Flag) -> Result<(), Failure> {
        Ok(())
    }

    fn done(&self) -> bool {
        self.complete && self.waiting.is_empty()
    }
}

struct MessageReceiver {
    own_uri: String,
    received: u64,
    /// The transaction id of the message that is coming in, and the previous hop.
    request: Vec<u8>,
    previous_hop: Vec<u8>,
    content: Content,
    body: Vec<u8>,
    answers: Answers,
    complete: bool,
    shared: Rc<Shared>,
}

impl MessageReceiver {
    /// Number, time, and whether it is the last one.
    fn stamp(&self) -> Option<(u64, u64, bool)> {
        let stamp = std::str::from_utf8(self.body.get(..STAMP_BYTES)?).ok()?;
        let hex = |range| u64::from_str_radix(stamp.get(range)?, 16).ok();
        let last = match stamp.as_bytes().first()? {
            b'l' => true,
            b'm' => false,
            _ => return None,
        };
        Some((hex(1..17)?, hex(17..33)?, last))
    }
}

impl Party for MessageReceiver {
    fn produce(&mut self, out: &mut Outlet<'_>) -> Result<(), Failure> {
        self.answers.send(out)
    }

    fn head(&mut self, head: &Head, bytes: &[u8]) -> Result<(), Failure> {
        if head.kind() != Kind::Request(Method::Send) || head.defect().is_some() || self.complete {
            return Err(wrong(format!("{} where a SEND was expected", String::from_utf8_lossy(bytes))));
        }
        if head.to_path(bytes).last() != Some(self.own_uri.as_bytes()) {
            return Err(wrong("a SEND for another session".to_owned()));
        }
        self.content =
            content_of(head.message_id(bytes).and_then(|id| id.strip_prefix(b"m")).unwrap_or_default());
        self.request.clear();
        self.request.extend_from_slice(head.tid(bytes));
        self.previous_hop.clear();
        self.previous_hop.extend_from_slice(head.from_path(bytes).first().unwrap_or_default());
        self.body.clear();
        Ok(())
    }

    fn body(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.body.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self, flag: Flag) -> Result<(), Failure> {
        let Some((number, nanos, last)) = self.stamp().filter(|_| flag == Flag::Last) else {
            return Err(wrong("a message without its stamp".to_owned()));
        };
        if number != self.received + 1 {
            return Err(wrong(format!("message {number} behind message {}", self.received)));
        }
        if !self.content.matches(0, self.body.get(STAMP_BYTES..).unwrap_or_default()) {
            return Err(wrong(format!("message {number} is not as it was sent")));
        }
        self.received = number;
        self.complete = last;
        self.shared
            .delivered
            .borrow_mut()
            .saturating_record(self.shared.nanos().saturating_sub(nanos).max(1));
        add(&self.shared.tally.count, 1);
        self.answers.accept(&self.request, &self.previous_hop, self.own_uri.as_bytes());
        Ok(())
    }

    fn done(&self) -> bool {
        self.complete && self.answers.is_empty()
    }
}
