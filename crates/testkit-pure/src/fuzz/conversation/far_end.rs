//! The far end of a connection: parses what the relay writes, and checks it against what was asked.
//!
//! Whatever the relay writes must parse without a defect; it answers a request at most once, and not at all if that was
//! the request's wish; the bytes of a message are the sent ones, each at most once.

use std::collections::{HashMap, VecDeque};

use msrp_proto::digest::{AuthenticationInfo, Challenge};
use msrp_proto::head::{FailureReport, Head, Kind, Method};
use msrp_proto::parser::{Flag, FramePart, Parser, ParserLimits};

/// Requests remembered for an answer; beyond that, the oldest are never answered.
const PENDING_MAX: usize = 64;

/// One end, as the relay's peer.
pub(super) struct FarEnd {
    pub(super) uri: String,
    parser: Parser,
    buffer: Vec<u8>,
    /// The frame that is arriving.
    pub(super) arriving: Option<Received>,
    /// Requests that have arrived whole and have not been answered.
    pub(super) pending: VecDeque<Received>,
    /// The last message that arrived.
    pub(super) last_message: Option<Received>,
    /// The last challenges, or what the last 200 made of them.
    pub(super) challenges: Vec<Ticket>,
    /// Use-Path of the last 200.
    pub(super) session: Option<String>,
    /// Requests of this end that have a transaction id of their own.
    pub(super) sent: HashMap<Vec<u8>, Sent>,
}

/// A request of the relay.
#[derive(Clone)]
pub(super) struct Received {
    pub(super) tid: Vec<u8>,
    pub(super) method: Method,
    failure_report: FailureReport,
    /// The first To-Path URI.
    pub(super) to: Vec<u8>,
    pub(super) from_path: Vec<u8>,
    pub(super) message_id: Vec<u8>,
    /// The number of its next byte.
    next: u64,
    message: Option<usize>,
}

/// What an answer to a challenge needs.
#[derive(Clone)]
pub(super) struct Ticket {
    pub(super) challenge: Challenge<'static>,
    /// How often the nonce has been used.
    pub(super) count: u32,
}

/// A request of this end.
#[derive(Clone, Copy)]
pub(super) struct Sent {
    pub(super) wish: Wish,
    pub(super) answered: bool,
}

/// Which answers a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    /// Exactly one.
    Answer,
    /// None but an error.
    Errors,
    Nothing,
}

/// What has been sent of each message, by any connection.
#[derive(Default)]
pub(super) struct Messages {
    sent: Vec<u64>,
    /// The last byte that has arrived of each.
    arrived: Vec<u64>,
    /// Bytes that form no frame of ours have been sent: messages cannot be checked any more.
    pub(super) garbled: bool,
}

impl Messages {
    /// A new message.
    pub(super) fn begin(&mut self) -> usize {
        self.sent.push(0);
        self.arrived.push(0);
        self.sent.len() - 1
    }

    /// More of it is sent: these bytes.
    pub(super) fn send(&mut self, message: usize, bytes: usize) -> Vec<u8> {
        let first = self.sent[message] + 1;
        self.sent[message] += bytes as u64;
        pattern(message, first, bytes)
    }

    pub(super) fn sent(&self, message: usize) -> u64 {
        self.sent[message]
    }

    fn named(&self, id: &[u8]) -> Option<usize> {
        let number = std::str::from_utf8(id.strip_prefix(b"mess")?).ok()?.parse().ok()?;
        (!self.garbled && number < self.sent.len()).then_some(number)
    }

    fn arrive(&mut self, message: usize, first: u64, bytes: &[u8]) {
        assert!(
            bytes == pattern(message, first, bytes.len()),
            "other bytes of message {message} from {first} on"
        );
        self.arrived[message] = first - 1 + bytes.len() as u64;
        assert!(self.arrived[message] <= self.sent[message], "more of message {message} than was sent");
    }
}

/// The Message-ID of a message.
pub(super) fn message_id(message: usize) -> String {
    format!("mess{message:04}")
}

/// The bytes of a message from one place on: only they may arrive there.
fn pattern(message: usize, first: u64, bytes: usize) -> Vec<u8> {
    let mut at = (message * 97 + usize::try_from(first).unwrap()) % PATTERN.len();
    let mut pattern = Vec::with_capacity(bytes);
    while pattern.len() < bytes {
        let part = &PATTERN[at..];
        pattern.extend_from_slice(&part[..part.len().min(bytes - pattern.len())]);
        at = 0;
    }
    pattern
}

/// No period shorter than its length, which is a prime number.
static PATTERN: [u8; 4093] = {
    let mut pattern = [0; 4093];
    let (mut at, mut state) = (0, 0x2545_f491_u32);
    while at < pattern.len() {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        pattern[at] = state.to_le_bytes()[1];
        at += 1;
    }
    pattern
};

impl FarEnd {
    pub(super) fn new(uri: String) -> Self {
        // A relay makes paths longer than it received them; their length is not checked here.
        const WIDE: usize = 1 << 20;
        let limits = ParserLimits {
            head_bytes_max: WIDE,
            headers_max: WIDE,
            line_bytes_max: WIDE,
            path_uris_max: WIDE,
            ..ParserLimits::default()
        };
        Self {
            uri,
            parser: Parser::new(limits),
            buffer: Vec::new(),
            arriving: None,
            pending: VecDeque::new(),
            last_message: None,
            challenges: Vec::new(),
            session: None,
            sent: HashMap::new(),
        }
    }

    /// Bytes that the relay has written.
    pub(super) fn receive(&mut self, bytes: &[u8], messages: &mut Messages) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(step) = self.parser.step(&buffer[at..]).unwrap() {
            let piece = &buffer[at..at + step.consumed];
            at += step.consumed;
            match step.piece {
                FramePart::Head(head) => self.on_head(&head, piece, messages),
                FramePart::Body(_) => self.on_body(piece, messages),
                FramePart::End(flag) => self.on_end(flag),
                FramePart::Blank => panic!("the relay writes blank lines"),
            }
        }
        buffer.drain(..at);
        self.buffer = buffer;
    }

    fn on_head(&mut self, head: &Head, bytes: &[u8], messages: &Messages) {
        let shown = String::from_utf8_lossy(bytes);
        assert_eq!(head.defect(), None, "{shown}");
        let Kind::Request(method) = head.kind() else {
            return self.on_response(head, bytes, messages);
        };
        let next = head.byte_range().map_or(1, |range| range.start);
        let message_id = head.message_id(bytes).unwrap_or_default().to_vec();
        let message = messages.named(&message_id).filter(|_| method == Method::Send);
        if let Some(message) = message {
            assert!(next > messages.arrived[message], "a byte of message {message} comes again: {shown}");
        }
        self.arriving = Some(Received {
            tid: head.tid(bytes).to_vec(),
            method,
            failure_report: head.failure_report(),
            to: head.to_path(bytes).first().unwrap_or_default().to_vec(),
            from_path: head.from_path(bytes).as_bytes().to_vec(),
            message_id,
            next,
            message,
        });
    }

    fn on_body(&mut self, bytes: &[u8], messages: &mut Messages) {
        if let Some(request) = &mut self.arriving {
            if let Some(message) = request.message.filter(|_| !messages.garbled) {
                messages.arrive(message, request.next, bytes);
            }
            request.next = request.next.saturating_add(bytes.len() as u64);
        }
    }

    fn on_end(&mut self, flag: Flag) {
        let Some(request) = self.arriving.take() else {
            return;
        };
        if request.method == Method::Send && flag == Flag::Last {
            self.last_message = Some(request.clone());
        }
        if self.pending.len() == PENDING_MAX {
            self.pending.pop_front();
        }
        self.pending.push_back(request);
    }

    fn on_response(&mut self, head: &Head, bytes: &[u8], messages: &Messages) {
        let Kind::Response(status) = head.kind() else {
            return;
        };
        let Some(sent) = self.sent.get_mut(head.tid(bytes)) else {
            assert!(messages.garbled, "a response to nothing: {}", String::from_utf8_lossy(bytes));
            return;
        };
        if !messages.garbled {
            let shown = String::from_utf8_lossy(bytes);
            assert!(!sent.answered, "answered twice: {shown}");
            match sent.wish {
                Wish::Answer => {}
                Wish::Errors => assert!(!status.is_success(), "an unwanted 200: {shown}"),
                Wish::Nothing => panic!("an unwanted answer: {shown}"),
            }
        }
        sent.answered = true;
        let challenges = head.headers(bytes).filter(|(name, _)| *name == b"WWW-Authenticate");
        let tickets: Vec<Ticket> = challenges.map(|(_, value)| Ticket::new(value)).collect();
        if !tickets.is_empty() {
            self.challenges = tickets;
        }
        if let Some(value) = head.authentication_info(bytes) {
            let info = AuthenticationInfo::parse(value).unwrap();
            if let (Some(next), Some(ticket)) = (info.nextnonce, self.challenges.first_mut()) {
                ticket.challenge.nonce = next.into_owned().into();
                ticket.count = 0;
            }
        }
        if let Some(path) = head.use_path(bytes) {
            self.session = Some(String::from_utf8_lossy(path.as_bytes()).into_owned());
        }
    }
}

impl Ticket {
    fn new(value: &[u8]) -> Self {
        let challenge = Challenge::parse(value).unwrap();
        let challenge = Challenge {
            realm: challenge.realm.into_owned().into(),
            nonce: challenge.nonce.into_owned().into(),
            opaque: challenge.opaque.map(|opaque| opaque.into_owned().into()),
            ..challenge
        };
        Self { challenge, count: 0 }
    }
}

impl Received {
    /// Whether an answer of this code is due.
    pub(super) fn wants(&self, code: u16) -> bool {
        match (self.method, self.failure_report) {
            (Method::Report, _) | (Method::Send, FailureReport::No) => false,
            (Method::Send, FailureReport::Partial) => code != 200,
            _ => true,
        }
    }

    /// An answer as an endpoint writes it.
    pub(super) fn response(&self, code: u16) -> Vec<u8> {
        let back = match self.method {
            Method::Send => self.from_path.split(|byte| *byte == b' ').next().unwrap_or_default(),
            _ => &self.from_path,
        };
        let code = format!(" {code} Comment\r\nTo-Path: ").into_bytes();
        let parts: [&[u8]; 9] = [
            b"MSRP ",
            &self.tid,
            &code,
            back,
            b"\r\nFrom-Path: ",
            &self.to,
            b"\r\n-------",
            &self.tid,
            b"$\r\n",
        ];
        parts.concat()
    }

    /// The REPORT that the whole message has arrived.
    pub(super) fn success_report(&self, tid: &str, uri: &str) -> Vec<u8> {
        let bytes = self.next - 1;
        let (to, id) = (String::from_utf8_lossy(&self.from_path), String::from_utf8_lossy(&self.message_id));
        format!(
            "MSRP {tid} REPORT\r\nTo-Path: {to}\r\nFrom-Path: {uri}\r\nMessage-ID: {id}\r\n\
             Byte-Range: 1-{bytes}/{bytes}\r\nStatus: 000 200 OK\r\n-------{tid}$\r\n"
        )
        .into_bytes()
    }
}
