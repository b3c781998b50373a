//! What the engines have in common, and the one that the relay has today: epoll, edge-triggered.
//!
//! Connections come in pairs, `2n` and `2n + 1`. What a turn has read from one is copied into the output of the other, as
//! a relay does that encrypts, and what a turn owes a connection goes in one send.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::{Epoll, NO_EVENT};

/// The most bytes that one receive brings, in each engine.
pub const RECEIVE_BYTES: usize = 32 * 1024;
/// The most events that one wait brings.
pub const EVENTS_MAX: usize = 64;

/// System calls of the server's thread since its loop began. It alone counts; the load reads.
#[derive(Default)]
pub struct Calls(AtomicU64);

impl Calls {
    pub fn count(&self) {
        self.0.store(self.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a turn owes the connections.
pub struct Outputs {
    bytes: Vec<Vec<u8>>,
    owed: Vec<usize>,
}

impl Outputs {
    pub fn new(connections: usize) -> Self {
        let bytes = (0..connections).map(|_| Vec::with_capacity(2 * RECEIVE_BYTES)).collect();
        Self { bytes, owed: Vec::with_capacity(connections) }
    }

    /// Has the other connection of the pair get what this one has brought.
    pub fn forward(&mut self, from: usize, received: &[u8]) {
        let to = from ^ 1;
        if self.bytes[to].is_empty() {
            self.owed.push(to);
        }
        self.bytes[to].extend_from_slice(received);
    }

    /// The connections that are owed bytes, and the bytes.
    pub fn owed(&self) -> impl Iterator<Item = (usize, &[u8])> {
        self.owed.iter().map(|&to| (to, &*self.bytes[to]))
    }

    /// All that was owed has been sent.
    pub fn clear(&mut self) {
        for to in self.owed.drain(..) {
            self.bytes[to].clear();
        }
    }
}

/// Reads all that a connection has, for another to get; tells whether it has ended. A read that does not fill the buffer is the
/// last, unless the end is known to come behind it: so an edge costs one call.
pub fn drain(
    mut stream: &TcpStream,
    ends: bool,
    buffer: &mut [u8],
    calls: &Calls,
    mut take: impl FnMut(&[u8]),
) -> io::Result<bool> {
    loop {
        calls.count();
        match stream.read(buffer) {
            Ok(0) => return Ok(true),
            Ok(count) => {
                take(&buffer[..count]);
                if count < buffer.len() && !ends {
                    return Ok(false);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// The error of an engine whose send was not taken whole. The load's windows are smaller than any send buffer, so it
/// does not happen here; a relay would keep the rest and wait until it can write.
pub fn send_buffer_full() -> io::Error {
    io::Error::other("a send was not taken whole: the send buffers are smaller than the load's window")
}

/// Serves the connections with epoll until all have ended.
pub fn epoll(streams: &[TcpStream], calls: &Calls) -> io::Result<()> {
    let epoll = Epoll::new()?;
    for (index, stream) in streams.iter().enumerate() {
        stream.set_nonblocking(true)?;
        epoll.add(stream, libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET, index)?;
    }
    let mut outputs = Outputs::new(streams.len());
    let mut buffer = vec![0; RECEIVE_BYTES];
    let mut events = [NO_EVENT; EVENTS_MAX];
    let mut ended = vec![false; streams.len()];
    while ended.contains(&false) {
        calls.count();
        let count = epoll.wait(&mut events, -1)?;
        for event in &events[..count] {
            let (from, ends) = (event.u64 as usize, event.events & libc::EPOLLRDHUP as u32 != 0);
            if !ended[from] {
                let take = |received: &[u8]| outputs.forward(from, received);
                ended[from] = drain(&streams[from], ends, &mut buffer, calls, take)?;
            }
        }
        for (to, bytes) in outputs.owed() {
            calls.count();
            if (&streams[to]).write(bytes)? < bytes.len() {
                return Err(send_buffer_full());
            }
        }
        outputs.clear();
    }
    Ok(())
}
