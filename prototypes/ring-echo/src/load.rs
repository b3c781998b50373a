//! The load: both ends of each pair, in one thread. Each byte that arrives is compared.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use crate::sys::{Epoll, NO_EVENT};

/// An answer, as a relay forwards it: about a TLS record of a 200 OK.
pub const ANSWER_BYTES: usize = 300;

/// What is sent.
pub struct Shape {
    pub pairs: usize,
    /// Messages of a pair that wait for their answer.
    pub window: usize,
    pub message_bytes: usize,
    /// Messages of a pair, a tenth of them to warm up.
    pub messages: usize,
}

/// The server's account so far.
#[derive(Clone, Copy)]
pub struct Account {
    pub cpu_ns: u64,
    pub calls: u64,
}

pub struct Measured {
    pub cpu_us: f64,
    pub calls: f64,
    pub p50_us: f64,
}

const SILENCE_MAX_MS: i32 = 10_000;
const PERIOD: usize = 251;
const READ_BYTES: usize = 64 * 1024;

/// The bytes that are sent: a place in a stream has always the same. The period is no divisor of a message's size, so that
/// bytes that are lost, doubled or swapped are seen.
struct Pattern(Vec<u8>);

impl Pattern {
    fn new(longest: usize) -> Self {
        Self((0..PERIOD).cycle().take(PERIOD + longest).map(|n| n as u8).collect())
    }

    fn at(&self, place: usize, len: usize) -> &[u8] {
        &self.0[place % PERIOD..][..len]
    }
}

/// One direction of one pair.
#[derive(Default)]
struct Stream {
    written: usize,
    read: usize,
}

/// The ends of a pair.
#[derive(Default)]
struct Pair {
    messages: Stream,
    answers: Stream,
    sent: usize,
    answered: usize,
    sent_at: VecDeque<Instant>,
}

struct Load<'a> {
    shape: &'a Shape,
    streams: &'a [TcpStream],
    pattern: Pattern,
    buffer: Vec<u8>,
    pairs: Vec<Pair>,
    /// Times from a message to its answer, in nanoseconds.
    times: Vec<u64>,
}

/// Sends all messages of the shape and waits for their answers. `account` is asked after the warm-up and at the end. A load that
/// spins never sleeps, so that the server never pays for waking it.
pub fn run(
    streams: &[TcpStream],
    shape: &Shape,
    spins: bool,
    account: impl Fn() -> io::Result<Account>,
) -> io::Result<Measured> {
    let epoll = Epoll::new()?;
    for (index, stream) in streams.iter().enumerate() {
        stream.set_nonblocking(true)?;
        epoll.add(stream, libc::EPOLLIN, index)?;
    }
    let longest = READ_BYTES.max(shape.window * shape.message_bytes.max(ANSWER_BYTES));
    let mut load = Load {
        shape,
        streams,
        pattern: Pattern::new(longest),
        buffer: vec![0; READ_BYTES],
        pairs: (0..shape.pairs).map(|_| Pair::default()).collect(),
        times: Vec::with_capacity(shape.pairs * shape.messages),
    };
    for pair in 0..shape.pairs {
        load.send_messages(pair)?;
    }
    let all = shape.pairs * shape.messages;
    let (mut answered, mut begun) = (0, None);
    let mut events = [NO_EVENT; crate::server::EVENTS_MAX];
    let mut heard = Instant::now();
    while answered < all {
        let count = epoll.wait(&mut events, if spins { 0 } else { SILENCE_MAX_MS })?;
        if count > 0 {
            heard = Instant::now();
        } else if heard.elapsed().as_millis() >= SILENCE_MAX_MS as u128 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing comes from the server"));
        }
        for event in &events[..count] {
            answered += load.receive(event.u64 as usize)?;
        }
        if begun.is_none() && answered >= all / 10 {
            load.times.clear();
            begun = Some((answered, account()?));
        }
    }
    let end = account()?;
    let Some((warm, begin)) = begun else {
        return Err(io::Error::other("no message was sent"));
    };
    let messages = (all - warm).max(1) as f64;
    load.times.sort_unstable();
    Ok(Measured {
        cpu_us: (end.cpu_ns - begin.cpu_ns) as f64 / 1e3 / messages,
        calls: (end.calls - begin.calls) as f64 / messages,
        p50_us: load.times.get(load.times.len() / 2).map_or(0.0, |&ns| ns as f64 / 1e3),
    })
}

impl Load<'_> {
    /// Sends as many messages of a pair as the window leaves room for, in one call.
    fn send_messages(&mut self, pair: usize) -> io::Result<()> {
        let state = &mut self.pairs[pair];
        let room = self.shape.window - (state.sent - state.answered);
        let count = room.min(self.shape.messages - state.sent);
        let now = Instant::now();
        state.sent_at.extend((0..count).map(|_| now));
        state.sent += count;
        let bytes = self.pattern.at(state.messages.written, count * self.shape.message_bytes);
        state.messages.written += bytes.len();
        write(&self.streams[2 * pair], bytes)
    }

    /// Takes what has come to one end of a pair, and sends what that calls for; tells how many messages it has answered.
    fn receive(&mut self, index: usize) -> io::Result<usize> {
        let count = match (&self.streams[index]).read(&mut self.buffer) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server has closed")),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error),
        };
        let (pair, is_answers) = (index / 2, index.is_multiple_of(2));
        let state = &mut self.pairs[pair];
        let (stream, size) = match is_answers {
            true => (&mut state.answers, ANSWER_BYTES),
            false => (&mut state.messages, self.shape.message_bytes),
        };
        if self.buffer[..count] != *self.pattern.at(stream.read, count) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "other bytes came than were sent"));
        }
        let whole = (stream.read + count) / size - stream.read / size;
        stream.read += count;
        if !is_answers {
            let bytes = self.pattern.at(state.answers.written, whole * ANSWER_BYTES);
            state.answers.written += bytes.len();
            write(&self.streams[index], bytes)?;
            return Ok(0);
        }
        let now = Instant::now();
        let answered = state.sent_at.drain(..whole);
        self.times.extend(answered.map(|at| (now - at).as_nanos() as u64));
        state.answered += whole;
        self.send_messages(pair)?;
        Ok(whole)
    }
}

fn write(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    stream.write_all(bytes)
}
