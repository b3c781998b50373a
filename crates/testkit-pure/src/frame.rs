//! Frames as text: requests of a scripted endpoint.

use msrp_proto::parser::Flag;

use std::sync::atomic::{AtomicU32, Ordering};

/// A request under construction, written by hand so that it can be wrong.
#[derive(Clone, Debug)]
pub struct Request {
    pub tid: String,
    method: String,
    to: String,
    from: String,
    headers: String,
    body: Option<(String, Vec<u8>)>,
    flag: Flag,
}

static TIDS: AtomicU32 = AtomicU32::new(0);

pub fn fresh_tid() -> String {
    format!("t{:07}", TIDS.fetch_add(1, Ordering::Relaxed))
}

impl Request {
    pub fn new(method: &str, to: &str, from: &str) -> Self {
        Self {
            tid: fresh_tid(),
            method: method.to_owned(),
            to: to.to_owned(),
            from: from.to_owned(),
            headers: String::new(),
            body: None,
            flag: Flag::Last,
        }
    }

    /// A SEND of a whole message.
    pub fn send(to: &str, from: &str, message_id: &str, body: &[u8]) -> Self {
        let bytes = body.len();
        Self::new("SEND", to, from)
            .header("Message-ID", message_id)
            .header("Byte-Range", &format!("1-{bytes}/{bytes}"))
            .body(body)
    }

    /// A SEND without a body.
    pub fn bodiless(to: &str, from: &str, message_id: &str) -> Self {
        Self::new("SEND", to, from).header("Message-ID", message_id).header("Byte-Range", "1-0/0")
    }

    pub fn tid(mut self, tid: &str) -> Self {
        tid.clone_into(&mut self.tid);
        self
    }

    pub fn header(self, name: &str, value: &str) -> Self {
        self.raw(&format!("{name}: {value}\r\n"))
    }

    /// Header lines, unchanged.
    pub fn raw(mut self, lines: &str) -> Self {
        self.headers.push_str(lines);
        self
    }

    pub fn body(mut self, bytes: &[u8]) -> Self {
        self.body = Some(("text/plain".to_owned(), bytes.to_vec()));
        self
    }

    pub fn flag(mut self, flag: Flag) -> Self {
        self.flag = flag;
        self
    }

    pub fn head(&self) -> Vec<u8> {
        let Self { tid, method, to, from, headers, .. } = self;
        let mut text = format!("MSRP {tid} {method}\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n{headers}");
        if let Some((content_type, _)) = &self.body {
            text.push_str(&format!("Content-Type: {content_type}\r\n\r\n"));
        }
        text.into_bytes()
    }

    pub fn end_line(&self) -> Vec<u8> {
        let crlf = if self.body.is_some() { "\r\n" } else { "" };
        let flag = char::from(self.flag.byte());
        format!("{crlf}-------{}{flag}\r\n", self.tid).into_bytes()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head();
        if let Some((_, body)) = &self.body {
            bytes.extend_from_slice(body);
        }
        bytes.extend(self.end_line());
        bytes
    }
}

/// A response as text.
pub fn response(tid: &str, code: u16, to: &str, from: &str) -> Vec<u8> {
    format!("MSRP {tid} {code} Comment\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n-------{tid}$\r\n")
        .into_bytes()
}

/// Bytes that differ at every place.
pub fn pattern(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[1]
        })
        .collect()
}
