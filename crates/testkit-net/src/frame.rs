//! Frames as a client writes and reads them.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use msrp_proto::head::{Head, Kind};
use msrp_proto::parser::Flag;

/// An identifier never used before in this process: a transaction id or a Message-ID, 17 characters long.
pub fn fresh_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("x{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// A request being written.
pub struct Request {
    tid: String,
    text: String,
}

impl Request {
    pub fn new(method: &str, to: &str, from: &str) -> Self {
        let tid = fresh_id();
        let text = format!("MSRP {tid} {method}\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n");
        Self { tid, text }
    }

    /// A SEND with a Message-ID and a Byte-Range.
    pub fn send(to: &str, from: &str, id: &str, range: &str) -> Self {
        Self::new("SEND", to, from).header("Message-ID", id).header("Byte-Range", range)
    }

    pub fn tid(&self) -> String {
        self.tid.clone()
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.text.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// The frame, without a body.
    pub fn bare(self) -> Vec<u8> {
        let end = format!("-------{}$\r\n", self.tid);
        (self.text + &end).into_bytes()
    }

    /// The frame up to where its body begins.
    pub fn head(self) -> Vec<u8> {
        (self.text + "Content-Type: application/octet-stream\r\n\r\n").into_bytes()
    }

    /// The frame with a body.
    pub fn with_body(self, body: &[u8], flag: Flag) -> Vec<u8> {
        let end = end_line(&self.tid, flag);
        let mut frame = self.head();
        frame.extend_from_slice(body);
        frame.extend_from_slice(&end);
        frame
    }
}

/// What ends a chunk with a body.
pub fn end_line(tid: &str, flag: Flag) -> Vec<u8> {
    format!("\r\n-------{tid}{}\r\n", char::from(flag.byte())).into_bytes()
}

/// A frame as received.
pub struct Frame {
    pub head: Head,
    /// Start line and headers.
    pub bytes: Vec<u8>,
    pub body: Vec<u8>,
    pub flag: Flag,
}

impl Frame {
    /// The status, if it is a response.
    pub fn status(&self) -> Option<u16> {
        match self.head.kind() {
            Kind::Response(status) => Some(status.code()),
            Kind::Request(_) => None,
        }
    }

    pub fn is_request(&self, method: &str) -> bool {
        matches!(self.head.kind(), Kind::Request(_))
            && self.head.method_bytes(&self.bytes) == method.as_bytes()
    }

    pub fn tid(&self) -> String {
        text(self.head.tid(&self.bytes))
    }

    /// The value of a header, its name compared letter by letter, as some clients do.
    pub fn header(&self, name: &str) -> Option<String> {
        let mut all = self.head.headers(&self.bytes);
        all.find(|(n, _)| *n == name.as_bytes()).map(|(_, value)| text(value))
    }

    #[track_caller]
    pub fn required(&self, name: &str) -> String {
        match self.header(name) {
            Some(value) => value,
            None => panic!("no {name} in {self:?}"),
        }
    }

    pub fn head_text(&self) -> String {
        text(&self.bytes)
    }

    /// The first byte's number, as in Byte-Range.
    pub fn start(&self) -> u64 {
        self.head.byte_range().map_or(1, |range| range.start)
    }

    /// The response to this request, as an endpoint writes it: to the previous hop alone.
    pub fn response(&self, status: &str) -> Vec<u8> {
        let from = self.required("From-Path");
        let back = from.split(' ').next().unwrap_or_default();
        let to = self.required("To-Path");
        let us = to.split(' ').next().unwrap_or_default();
        let tid = self.tid();
        format!("MSRP {tid} {status}\r\nTo-Path: {back}\r\nFrom-Path: {us}\r\n-------{tid}$\r\n").into_bytes()
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = char::from(self.flag.byte());
        write!(f, "{:?} + {} bytes, {flag}", self.head_text(), self.body.len())
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
