//! The far end of a connection: parses the relay's frames and may answer by itself.

use std::collections::VecDeque;

use msrp_proto::head::{ByteRange, FailureReport, Head, Kind, Method};
use msrp_proto::parser::{Flag, FramePart, Parser, ParserLimits};

use super::frame::response;

/// What an endpoint does when a request has arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answers {
    /// Nothing: the test answers.
    None,
    /// A response of this code to every request that asks for one.
    Always(u16),
}

pub struct Endpoint {
    /// Its own URI.
    pub uri: String,
    pub answers: Answers,
    /// All bytes ever received.
    pub bytes_received: u64,
    /// Those of them that were bodies.
    pub body_bytes: u64,
    /// The relay's flush that is arriving, counted from 1.
    pub flush: u64,
    parser: Parser,
    buffer: Vec<u8>,
    at: usize,
    current: Option<Frame>,
    frames: VecDeque<Frame>,
    /// Answers to be sent.
    outgoing: Vec<u8>,
}

/// A frame that arrived.
#[derive(Clone)]
pub struct Frame {
    pub head: Head,
    pub bytes: Vec<u8>,
    pub body: Vec<u8>,
    pub flag: Flag,
    /// The relay's flush in which it began.
    pub flush: u64,
}

impl Endpoint {
    pub fn new(number: usize) -> Self {
        Self {
            uri: format!("msrps://198.51.100.23:{}/endpoint{number};tcp", 40_000 + number),
            answers: Answers::None,
            bytes_received: 0,
            body_bytes: 0,
            flush: 0,
            // The longest paths reach it with the relay's URIs in front, and its own URIs as it sent them.
            parser: Parser::new(ParserLimits {
                path_uris_max: 32,
                uri_bytes_max: 4096,
                session_id_bytes_max: 4096,
                ..ParserLimits::default()
            }),
            buffer: Vec::new(),
            at: 0,
            current: None,
            frames: VecDeque::new(),
            outgoing: Vec::new(),
        }
    }

    pub fn receive(&mut self, bytes: &[u8]) {
        self.bytes_received += bytes.len() as u64;
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.extend_from_slice(bytes);
        while let Some(step) = self.parser.step(&self.buffer[self.at..]).unwrap() {
            let piece = &self.buffer[self.at..self.at + step.consumed];
            match step.piece {
                FramePart::Head(head) => {
                    assert_eq!(head.defect(), None, "{}", String::from_utf8_lossy(piece));
                    let (bytes, flush) = (piece.to_vec(), self.flush);
                    self.current = Some(Frame { head, bytes, body: Vec::new(), flag: Flag::Last, flush });
                }
                FramePart::Body(_) => {
                    self.body_bytes += piece.len() as u64;
                    let frame = self.current.as_mut().unwrap();
                    frame.bytes.extend_from_slice(piece);
                    frame.body.extend_from_slice(piece);
                }
                FramePart::Blank => panic!("the relay writes blank lines"),
                FramePart::End(flag) => {
                    let mut frame = self.current.take().unwrap();
                    frame.bytes.extend_from_slice(piece);
                    frame.flag = flag;
                    self.answer(&frame);
                    self.frames.push_back(frame);
                }
            }
            self.at += step.consumed;
        }
    }

    /// Whether a frame has begun to arrive and has not ended.
    pub fn in_frame(&self) -> bool {
        self.parser.in_frame()
    }

    /// The frame that is arriving.
    pub fn arriving(&self) -> Option<&Frame> {
        self.current.as_ref()
    }

    pub fn take(&mut self) -> Vec<Frame> {
        self.frames.drain(..).collect()
    }

    /// Takes the oldest frame.
    pub fn take_first(&mut self) -> Frame {
        self.frames.pop_front().unwrap()
    }

    pub fn answer_now(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.outgoing)
    }

    fn answer(&mut self, frame: &Frame) {
        let Answers::Always(code) = self.answers else {
            return;
        };
        if frame.wants_response(code) {
            self.outgoing.extend(frame.response(code));
        }
    }
}

impl Frame {
    pub fn tid(&self) -> &str {
        std::str::from_utf8(self.head.tid(&self.bytes)).unwrap()
    }

    /// The method, or the three digits.
    pub fn method(&self) -> &str {
        std::str::from_utf8(self.head.method_bytes(&self.bytes)).unwrap()
    }

    pub fn is(&self, method: &str) -> bool {
        self.method() == method
    }

    pub fn status(&self) -> u16 {
        match self.head.kind() {
            Kind::Response(status) => status.code(),
            Kind::Request(_) => panic!("not a response: {self:?}"),
        }
    }

    /// The code in a REPORT.
    pub fn reported(&self) -> u16 {
        self.head.reported_status(&self.bytes).unwrap().code()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.head
            .headers(&self.bytes)
            .find(|(n, _)| *n == name.as_bytes())
            .map(|(_, value)| String::from_utf8(value.to_vec()).unwrap())
    }

    pub fn to_path(&self) -> String {
        self.header("To-Path").unwrap()
    }

    pub fn from_path(&self) -> String {
        self.header("From-Path").unwrap()
    }

    pub fn message_id(&self) -> String {
        self.header("Message-ID").unwrap()
    }

    pub fn range(&self) -> ByteRange {
        self.head.byte_range().unwrap()
    }

    pub fn range_text(&self) -> String {
        self.header("Byte-Range").unwrap()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The bytes with the transaction id replaced.
    pub fn text_with_tid(&self, tid: &str) -> String {
        self.text().replace(self.tid(), tid)
    }

    pub fn wants_response(&self, code: u16) -> bool {
        match self.head.kind() {
            Kind::Response(_) | Kind::Request(Method::Report) => false,
            Kind::Request(Method::Send) => match self.head.failure_report() {
                FailureReport::Yes => true,
                FailureReport::Partial => !(200..300).contains(&code),
                FailureReport::No => false,
            },
            Kind::Request(_) => true,
        }
    }

    /// A response to this request, as an endpoint sends it.
    pub fn response(&self, code: u16) -> Vec<u8> {
        let (to_path, from_path) = (self.to_path(), self.from_path());
        let back = if self.is("SEND") { from_path.split(' ').next().unwrap() } else { &from_path };
        response(self.tid(), code, back, to_path.split(' ').next().unwrap())
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = &self.bytes[..self.bytes.len().min(600)];
        write!(f, "Frame({})", String::from_utf8_lossy(shown))
    }
}
