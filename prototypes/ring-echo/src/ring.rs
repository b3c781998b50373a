//! The same work on a ring of our own.
//!
//! Sends are submitted with the wait for what comes next, in one call. A send is `MSG_DONTWAIT | MSG_WAITALL` and makes no
//! completion if it was taken whole: so it never waits in the kernel, its bytes are free as soon as the call is back, and
//! its completion does not end the wait.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, SubmissionQueue, Submitter, cqueue, opcode, squeue};

use crate::server::{Calls, Outputs, RECEIVE_BYTES, drain, send_buffer_full};
use crate::sys::Pages;

/// Entries of the submission queue: more than a turn submits, which is one send and one receive a connection.
const ENTRIES: u32 = 256;
/// The most connections that this leaves room for.
pub const CONNECTIONS_MAX: usize = ENTRIES as usize / 2;

/// Buffers that the kernel may receive into, a power of two.
const BUFFERS: u16 = 64;
const BUFFER_GROUP: u16 = 0;

/// How the ring tells what has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Receive {
    /// A multishot receive into provided buffers: the completion has the bytes.
    Multishot,
    /// A multishot poll: the completion has the readiness, and a plain `recv` brings the bytes.
    Poll,
}

/// What a completion is of: bit 32 of its user data. The connection is below.
const OF_SEND: u64 = 1 << 32;

/// Serves the connections with a ring until all have ended.
pub fn serve(streams: &[TcpStream], receive: Receive, calls: &Calls) -> io::Result<()> {
    // Before the ring, and so unmapped after its end.
    let mut buffers = Buffers::new()?;
    let (mut ring, _) = make()?;
    let (mut submitter, mut queue, mut completions) = ring.split();
    submitter.register_ring_fd()?;
    if receive == Receive::Multishot {
        buffers.register(&submitter)?;
    }
    for (index, stream) in streams.iter().enumerate() {
        stream.set_nonblocking(receive == Receive::Poll)?;
        push(&mut queue, &arm(stream, index, receive))?;
    }
    let mut outputs = Outputs::new(streams.len());
    let mut buffer = vec![0; RECEIVE_BYTES];
    let mut ended = vec![false; streams.len()];
    while ended.contains(&false) {
        for (to, bytes) in outputs.owed() {
            push(&mut queue, &send(&streams[to], to, bytes))?;
        }
        submit_and_wait(&submitter, &mut queue, calls)?;
        outputs.clear();
        completions.sync();
        for completion in &mut completions {
            if completion.user_data() & OF_SEND != 0 {
                return Err(failure(completion.result()).unwrap_or_else(send_buffer_full));
            }
            let from = completion.user_data() as usize;
            if ended[from] {
                continue;
            }
            ended[from] = match receive {
                Receive::Multishot => {
                    buffers.take(&completion, |received| outputs.forward(from, received))?
                }
                Receive::Poll => {
                    let ends = completion.result() & libc::POLLRDHUP as i32 != 0;
                    let take = |received: &[u8]| outputs.forward(from, received);
                    drain(&streams[from], ends, &mut buffer, calls, take)?
                }
            };
            if !ended[from] && !cqueue::more(completion.flags()) {
                push(&mut queue, &arm(&streams[from], from, receive))?;
            }
        }
        buffers.publish();
        // The kernel must know that they are taken, or the next wait ends with them.
        completions.sync();
    }
    Ok(())
}

/// A ring for the calling thread alone, with the newest flags that the kernel has, and their names.
pub fn make() -> io::Result<(IoUring, &'static str)> {
    let newest = IoUring::builder()
        .setup_submit_all()
        .setup_coop_taskrun()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(ENTRIES);
    match newest {
        Ok(ring) => return Ok((ring, "SUBMIT_ALL COOP_TASKRUN SINGLE_ISSUER DEFER_TASKRUN")),
        Err(error) if error.raw_os_error() != Some(libc::EINVAL) => return Err(error),
        Err(_) => {}
    }
    match IoUring::builder().setup_submit_all().setup_coop_taskrun().build(ENTRIES) {
        Ok(ring) => Ok((ring, "SUBMIT_ALL COOP_TASKRUN (the kernel has no DEFER_TASKRUN)")),
        Err(error) if error.raw_os_error() != Some(libc::EINVAL) => Err(error),
        Err(_) => Ok((IoUring::new(ENTRIES)?, "none (the kernel has no COOP_TASKRUN)")),
    }
}

fn arm(stream: &TcpStream, index: usize, receive: Receive) -> squeue::Entry {
    let fd = Fd(stream.as_raw_fd());
    let entry = match receive {
        Receive::Multishot => opcode::RecvMulti::new(fd, BUFFER_GROUP).build(),
        Receive::Poll => {
            opcode::PollAdd::new(fd, (libc::POLLIN | libc::POLLRDHUP) as u32).multi(true).build()
        }
    };
    entry.user_data(index as u64)
}

fn send(stream: &TcpStream, index: usize, bytes: &[u8]) -> squeue::Entry {
    opcode::Send::new(Fd(stream.as_raw_fd()), bytes.as_ptr(), bytes.len() as u32)
        .flags(libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS)
        .user_data(OF_SEND | index as u64)
}

fn push(queue: &mut SubmissionQueue<'_>, entry: &squeue::Entry) -> io::Result<()> {
    // SAFETY: the streams outlive the ring, so the descriptors are good. What an entry of `send` points to is not touched before
    // `submit_and_wait` is back, and then the kernel is done with it: `MSG_DONTWAIT` keeps it from waiting or from leaving
    // the send to another thread. What a receive writes to are the registered buffers, which outlive the ring.
    unsafe { queue.push(entry) }.map_err(io::Error::other)
}

/// Submits all that is queued and waits for a completion: one call, unless a signal interrupts it.
fn submit_and_wait(
    submitter: &Submitter<'_>,
    queue: &mut SubmissionQueue<'_>,
    calls: &Calls,
) -> io::Result<()> {
    loop {
        queue.sync();
        calls.count();
        match submitter.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        queue.sync();
        if queue.is_empty() {
            return Ok(());
        }
    }
}

fn failure(result: i32) -> Option<io::Error> {
    (result < 0).then(|| io::Error::from_raw_os_error(-result))
}

/// The buffers that the kernel receives into: its ring of those that are free in the first page, the buffers behind it.
struct Buffers {
    pages: Pages,
    tail: u16,
}

impl Buffers {
    const RING_BYTES: usize = 4096;

    fn new() -> io::Result<Self> {
        const { assert!(BUFFERS.is_power_of_two()) };
        const { assert!(BUFFERS as usize * size_of::<BufRingEntry>() <= Self::RING_BYTES) };
        let pages = Pages::new(Self::RING_BYTES + usize::from(BUFFERS) * RECEIVE_BYTES)?;
        let mut buffers = Self { pages, tail: 0 };
        for id in 0..BUFFERS {
            buffers.give_back(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    fn register(&self, submitter: &Submitter<'_>) -> io::Result<()> {
        let address = self.pages.start() as u64;
        // SAFETY: the pages hold the ring's entries, and are unmapped after the ring has ended: see `serve`.
        unsafe { submitter.register_buf_ring_with_flags(address, BUFFERS, BUFFER_GROUP, 0) }
    }

    /// Passes on what a receive has brought, and gives its buffer back; tells whether the connection has ended.
    fn take(&mut self, completion: &cqueue::Entry, take: impl FnOnce(&[u8])) -> io::Result<bool> {
        match (completion.result(), cqueue::buffer_select(completion.flags())) {
            // All buffers are taken. Those of this turn are given back before the receive is armed again.
            (result, _) if result == -libc::ENOBUFS => Ok(false),
            (result, _) if result < 0 => Err(io::Error::from_raw_os_error(-result)),
            (result, Some(id)) => {
                take(self.received(id, result as usize));
                self.give_back(id);
                Ok(result == 0)
            }
            (0, None) => Ok(true),
            (_, None) => Err(io::Error::other("a receive has brought bytes in no buffer")),
        }
    }

    fn received(&self, id: u16, len: usize) -> &[u8] {
        assert!(id < BUFFERS && len <= RECEIVE_BYTES);
        // SAFETY: the range is within the pages, which were zeroed. The kernel has handed the buffer over with the completion, and
        // does not write to it until it is given back, which takes `&mut self`.
        unsafe { std::slice::from_raw_parts(self.buffer(id), len) }
    }

    fn buffer(&self, id: u16) -> *mut u8 {
        let offset = Self::RING_BYTES + usize::from(id) * RECEIVE_BYTES;
        assert!(offset + RECEIVE_BYTES <= self.pages.len());
        self.pages.start().wrapping_add(offset)
    }

    /// Leaves a buffer for the kernel, which sees it with the next `publish`.
    fn give_back(&mut self, id: u16) {
        let address = self.buffer(id) as u64;
        let slot = usize::from(self.tail % BUFFERS);
        // SAFETY: the slot is within the first page, which is aligned and zeroed, a valid entry. The kernel does not read it before
        // the tail is beyond it.
        let entry = unsafe { &mut *self.pages.start().cast::<BufRingEntry>().add(slot) };
        entry.set_addr(address);
        entry.set_len(RECEIVE_BYTES as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: the first page begins with the first entry, initialised, whose reserved field is the tail.
        let tail = unsafe { BufRingEntry::tail(self.pages.start().cast::<BufRingEntry>()) };
        // SAFETY: the field is aligned, lives as long as the pages, and is touched by nothing but atomics here and in the kernel.
        unsafe { AtomicU16::from_ptr(tail.cast_mut()) }.store(self.tail, Ordering::Release);
    }
}
