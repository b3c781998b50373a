//! Two clients of one relay without sockets: chunks go in at one end and come out at the other.
//!
//! The tests' world sets up the sessions. After that the relay is driven as the runtime does it, with reused buffers,
//! so that only the relay's own work is counted. Used by `benches/relay.rs` and
//! `crates/msrp-relay-core/tests/allocations.rs`.

use std::io::Write as _;
use std::time::Instant;

use bytes::Bytes;
use msrp_proto::head::{FailureReport, Head};
use msrp_proto::parser::{Flag, FramePart, Parser, ParserLimits};
use msrp_relay_core::{CoreId, Effect, Input, Message, OutBatch, PeerKey, WriteState};

use crate::World;
use crate::frame::{Request, pattern};
use crate::line::{Shape, line};

/// So many requests are made in advance, each with its own transaction id; then they repeat.
const REQUESTS: usize = 512;
/// Bytes of one read.
const READ_BYTES: usize = 64 << 10;

/// Called around the relay's own work.
pub trait Watch {
    fn begin(&self) {}
    fn end(&self) {}
}

/// Watches nothing.
#[derive(Debug)]
pub struct Unwatched;

impl Watch for Unwatched {}

/// Which chunks are sent.
#[derive(Clone, Copy, Debug)]
pub struct Chunks {
    pub bytes: usize,
    pub reports: FailureReport,
}

pub struct Rig<W> {
    world: World,
    watch: W,
    now: Instant,
    sender: (usize, PeerKey),
    receiver: (usize, PeerKey),
    requests: Vec<(Head, Bytes)>,
    next: usize,
    body: Bytes,
    reports: FailureReport,
    back: String,
    receiver_uri: String,
    out: OutBatch,
    /// Written to the receiver and not yet looked at, without the bodies.
    forwarded: Vec<u8>,
    answer: Vec<u8>,
    messages: Vec<(usize, Message)>,
    /// Connections that have something to write.
    woken: Vec<(usize, PeerKey)>,
}

impl<W: Watch> Rig<W> {
    /// Both clients behind the relay, on these cores.
    pub fn new(cores: (usize, usize), chunks: Chunks, watch: W) -> Self {
        let line = line(Shape::Both, cores.0, cores.1);
        let (path, back, from, to) = (line.path, line.back, line.from_uri, line.to_uri);
        let world = line.world;
        let at = |conn| (world.link(conn).core, world.link(conn).key);
        let (sender, receiver) = (at(line.from), at(line.to));
        let reports = match chunks.reports {
            FailureReport::Yes => "yes",
            FailureReport::Partial => "partial",
            FailureReport::No => "no",
        };
        let requests = (0..REQUESTS)
            .map(|number| {
                let range = if chunks.bytes > 2048 {
                    format!("1-*/{}", chunks.bytes)
                } else {
                    format!("1-{0}/{0}", chunks.bytes)
                };
                let request = Request::new("SEND", &path, &from)
                    .header("Message-ID", &format!("message{number:04}"))
                    .header("Byte-Range", &range)
                    .header("Failure-Report", reports)
                    .body(b"");
                parsed(&request.head())
            })
            .collect();
        Self {
            now: world.now,
            world,
            watch,
            sender,
            receiver,
            requests,
            next: 0,
            body: Bytes::from(pattern(chunks.bytes.min(READ_BYTES))),
            reports: chunks.reports,
            back,
            receiver_uri: to,
            out: OutBatch::new(),
            forwarded: Vec::new(),
            answer: Vec::new(),
            messages: Vec::new(),
            woken: Vec::new(),
        }
    }

    /// One chunk from one read, to its end: forwarded, and answered on both sides if that was asked for.
    pub fn chunk(&mut self) {
        self.feed_head();
        self.feed_body();
        self.feed_end();
        self.run();
        self.answer();
    }

    /// A chunk begins.
    pub fn begin(&mut self) {
        self.feed_head();
        self.run();
    }

    /// One read's worth of its body.
    pub fn piece(&mut self) {
        self.feed_body();
        self.run();
    }

    fn feed_head(&mut self) {
        let Some((head, bytes)) = self.requests.get(self.next).cloned() else {
            return;
        };
        self.next = (self.next + 1) % self.requests.len();
        self.feed(self.sender.0, Input::Head { peer: self.sender.1, head, bytes });
    }

    fn feed_body(&mut self) {
        self.feed(self.sender.0, Input::Body { peer: self.sender.1, bytes: self.body.clone() });
    }

    fn feed_end(&mut self) {
        self.feed(self.sender.0, Input::End { peer: self.sender.1, flag: Flag::Last });
    }

    /// The receiver answers, if that was asked for.
    fn answer(&mut self) {
        if self.reports == FailureReport::Yes {
            let tid = tid_of(&self.forwarded);
            let previous_hop = self.back.split(' ').next().unwrap_or_default();
            self.answer.clear();
            // Writing to a Vec cannot fail.
            let _ = write!(
                self.answer,
                "MSRP {tid} 200 OK\r\nTo-Path: {previous_hop}\r\nFrom-Path: {}\r\n-------{tid}$\r\n",
                self.receiver_uri
            );
            let (head, bytes) = parsed(&self.answer);
            let peer = self.receiver.1;
            self.feed(self.receiver.0, Input::Head { peer, head, bytes });
            self.feed(self.receiver.0, Input::End { peer, flag: Flag::Last });
            self.run();
        }
        self.forwarded.clear();
    }

    fn feed(&mut self, core: usize, input: Input) {
        let relay = self.world.relay(core);
        self.watch.begin();
        relay.handle(self.now, input);
        self.watch.end();
        self.collect(core);
    }

    /// Runs until nothing more happens.
    fn run(&mut self) {
        loop {
            if let Some((core, message)) = self.messages.pop() {
                self.feed(core, Input::Message(message));
            } else if let Some((core, peer)) = self.woken.pop() {
                self.write(core, peer);
            } else {
                return;
            }
        }
    }

    fn write(&mut self, core: usize, peer: PeerKey) {
        loop {
            self.out.clear();
            let relay = self.world.relay(core);
            self.watch.begin();
            let state = relay.poll_write(self.now, peer, &mut self.out);
            self.watch.end();
            assert!(state == WriteState::Open, "the relay closes a connection");
            if self.out.is_empty() {
                return self.collect(core);
            }
            if (core, peer) == self.receiver
                && self.forwarded.is_empty()
                && let Some(first) = self.out.parts().next()
            {
                self.forwarded.extend_from_slice(first.get(..first.len().min(64)).unwrap_or_default());
            }
            self.collect(core);
        }
    }

    fn collect(&mut self, core: usize) {
        // Backwards, because they are taken from the end.
        let relay = self.world.relay(core);
        while let Some((CoreId { index, .. }, messages)) = relay.poll_messages() {
            for message in messages.into_iter().rev() {
                self.messages.insert(0, (usize::from(index), message));
            }
        }
        while let Some(effect) = relay.poll_effect() {
            match effect {
                Effect::Wake(peer) => self.woken.push((core, peer)),
                Effect::Pause(_) | Effect::Resume(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A head and its bytes.
fn parsed(bytes: &[u8]) -> (Head, Bytes) {
    let mut parser = Parser::new(ParserLimits::default());
    match parser.step(bytes) {
        Ok(Some(step)) => match step.piece {
            FramePart::Head(head) => {
                let bytes = bytes.get(..step.consumed).unwrap_or_default();
                (head, Bytes::copy_from_slice(bytes))
            }
            other => panic!("{other:?} where a head was expected"),
        },
        other => panic!("{other:?} where a head was expected"),
    }
}

/// The transaction id of the frame that begins here.
fn tid_of(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.split(' ').nth(1).unwrap_or_default().to_owned()
}
