//! One connection and the URI of our session on it, as two halves: [`Incoming`] parses, [`Outgoing`] writes.
//!
//! Invariants: the halves share the transport and borrow it only inside a poll; an [`Event`] borrows the read buffer
//! until the next call, so no body byte is copied on its way to the caller; frames given to [`Urgent`] are written
//! whole, never inside another frame. Must not know what the frames mean.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker, ready};
use std::time::{Duration, Instant};

use futures_lite::future::yield_now;
use futures_lite::{AsyncRead as _, AsyncWrite as _};

use super::overdue::Due;
use super::transport::within;
use super::{ClientError, Security, Stage, Target, TlsFacts, Transport, random_token};
use msrp_proto::head::Head;
use msrp_proto::parser::{Flag, FramePart, Parser, ParserLimits};

/// Several TLS records' worth: the parser runs once for all that a wake-up brought.
const READ_BUFFER_BYTES: usize = 256 << 10;
/// While so many bytes wait to be sent, no request that needs an answer is read.
const URGENT_BYTES_HIGH: usize = 64 << 10;
/// A session id of about 130 random bits (RFC 4975, 14.1 asks for 80).
const SESSION_ID_LENGTH: usize = 22;
/// How often to look at an idle connection.
const IDLE_CHECK: Duration = Duration::from_millis(250);
/// How long the other side may take to close after we have.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// One connection and our session's URI on it.
#[derive(Debug)]
pub struct Endpoint {
    /// What the peer sends.
    pub incoming: Incoming,
    /// What we send.
    pub outgoing: Outgoing,
    activity: Activity,
    own_uri: String,
    local: SocketAddr,
    peer: SocketAddr,
    tls: Option<TlsFacts>,
}

impl Endpoint {
    /// Dials a relay or an endpoint; our URI gets the connection's own address and port.
    ///
    /// # Errors
    /// As [`Transport::connect`].
    pub async fn connect(target: &Target, security: &Security, limit: Duration) -> Result<Self, ClientError> {
        let transport = Transport::connect(target, security, limit).await?;
        let own_uri = match transport.is_websocket() {
            true => Self::mint_web_uri(),
            false => Self::mint_uri(transport.local(), transport.is_tls()),
        };
        Ok(Self::new(transport, own_uri))
    }

    /// An endpoint on an established connection, answering to this URI.
    pub fn new(transport: Transport, own_uri: String) -> Self {
        let (local, peer, tls) = (transport.local(), transport.peer(), transport.tls_facts());
        let transport = Rc::new(RefCell::new(transport));
        let activity = Activity::default();
        Self {
            incoming: Incoming::new(Rc::clone(&transport), activity.clone()),
            outgoing: Outgoing { transport, urgent: Urgent::default(), activity: activity.clone() },
            activity,
            own_uri,
            local,
            peer,
            tls,
        }
    }

    /// A fresh URI for a session at this address.
    pub fn mint_uri(address: SocketAddr, tls: bool) -> String {
        let scheme = if tls { "msrps" } else { "msrp" };
        format!("{scheme}://{address}/{};tcp", random_token(SESSION_ID_LENGTH))
    }

    /// The same for a client by WebSocket, which no relay can dial: its host does not exist (RFC 7977, appendix A).
    pub fn mint_web_uri() -> String {
        let (host, session) = (random_token(12).to_ascii_lowercase(), random_token(SESSION_ID_LENGTH));
        format!("msrps://{host}.invalid:2855/{session};ws")
    }

    /// The URI of our session.
    pub fn own_uri(&self) -> &str {
        &self.own_uri
    }

    /// Our address on this connection.
    pub const fn local(&self) -> SocketAddr {
        self.local
    }

    /// The other side's address.
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// What the handshake agreed on; `None` without TLS.
    pub const fn tls(&self) -> Option<&TlsFacts> {
        self.tls.as_ref()
    }

    /// How much has moved on this connection, in both directions.
    pub fn activity(&self) -> Activity {
        self.activity.clone()
    }

    /// Closes so that neither side loses its last bytes: writes everything queued, then close_notify and FIN. Then
    /// reads and drops what the peer still sends, until it closes too or five seconds have passed.
    ///
    /// # Errors
    /// If what was queued could not be written.
    pub async fn close(mut self) -> Result<(), ClientError> {
        self.outgoing.send_urgent().await?;
        self.outgoing.finish().await?;
        let drained = async { while let Ok(Some(_)) = self.incoming.next().await {} };
        within(DRAIN_LIMIT, Stage::Transferring, drained).await;
        Ok(())
    }
}

/// One step of what the peer sends.
#[derive(Debug)]
pub enum Event<'a> {
    /// A frame begins.
    Head {
        /// Its start line and headers, as offsets into `bytes`.
        head: Head,
        /// The bytes of the head.
        bytes: &'a [u8],
    },
    /// The next bytes of its body.
    Body(&'a [u8]),
    /// The frame ends.
    End(Flag),
}

/// A frame that is small enough to hold whole.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its start line and headers, as offsets into `bytes`.
    pub head: Head,
    /// The bytes of the head.
    pub bytes: Vec<u8>,
    /// Its body; empty also where there is none.
    pub body: Vec<u8>,
    /// How it ended.
    pub flag: Flag,
}

/// The receiving half of an [`Endpoint`].
#[derive(Debug)]
pub struct Incoming {
    transport: Rc<RefCell<Transport>>,
    parser: Parser,
    buffer: Box<[u8]>,
    /// `buffer[start..end]` has been read and not yet been handed out.
    start: usize,
    end: usize,
    activity: Activity,
}

impl Incoming {
    fn new(transport: Rc<RefCell<Transport>>, activity: Activity) -> Self {
        let buffer = vec![0; READ_BUFFER_BYTES].into_boxed_slice();
        Self { transport, parser: Parser::new(ParserLimits::default()), buffer, start: 0, end: 0, activity }
    }

    /// The next step; `None` when the peer has closed between frames.
    ///
    /// # Errors
    /// [`ClientError::Framing`], [`ClientError::SpeaksTls`], [`ClientError::Io`], and [`ClientError::ConnectionLost`] for an end
    /// inside a frame.
    pub async fn next(&mut self) -> Result<Option<Event<'_>>, ClientError> {
        loop {
            let step = match self.parser.step(&self.buffer[self.start..self.end]) {
                Ok(Some(step)) => step,
                Ok(None) => {
                    if self.fill().await? == 0 {
                        return match self.parser.in_frame() || self.start < self.end {
                            true if self.begins_with_tls() => Err(ClientError::SpeaksTls),
                            true => Err(ClientError::ConnectionLost("in the middle of a frame".to_owned())),
                            false => Ok(None),
                        };
                    }
                    continue;
                }
                Err(_) if self.begins_with_tls() => return Err(ClientError::SpeaksTls),
                Err(error) => return Err(error.into()),
            };
            let consumed = self.start..self.start + step.consumed;
            self.start = consumed.end;
            return Ok(Some(match step.piece {
                // A keep-alive, which has been noted.
                FramePart::Blank => continue,
                FramePart::Head(head) => Event::Head { head, bytes: &self.buffer[consumed] },
                FramePart::Body(range) => Event::Body(&self.buffer[consumed][range]),
                FramePart::End(flag) => Event::End(flag),
            }));
        }
    }

    /// The next whole frame, for frames that are known to be small; `None` when the peer has closed.
    ///
    /// # Errors
    /// As [`Self::next`], and [`ClientError::TooLarge`] for a body of more than `body_bytes_max` bytes.
    pub async fn next_frame(&mut self, body_bytes_max: usize) -> Result<Option<Frame>, ClientError> {
        let (head, bytes) = match self.next().await? {
            Some(Event::Head { head, bytes }) => (head, bytes.to_vec()),
            _ => return Ok(None),
        };
        let mut body = Vec::new();
        loop {
            match self.next().await? {
                Some(Event::Body(piece)) if body.len() + piece.len() <= body_bytes_max => {
                    body.extend_from_slice(piece)
                }
                Some(Event::Body(_)) => {
                    return Err(ClientError::TooLarge { bytes_max: body_bytes_max });
                }
                Some(Event::End(flag)) => {
                    return Ok(Some(Frame { head, bytes, body, flag }));
                }
                Some(Event::Head { .. }) | None => return Ok(None),
            }
        }
    }

    /// Whether a TLS record stands where a frame should: an alert or a handshake message, of version 3.x (RFC 8446,
    /// 5.1). No unread rest of a body begins like this.
    fn begins_with_tls(&self) -> bool {
        let unread = self.buffer.get(self.start..self.end).unwrap_or_default();
        !self.transport.borrow().is_tls() && matches!(unread, [0x15 | 0x16, 3, 0..=4, ..])
    }

    /// Reads what there is; 0 at the end of the stream.
    async fn fill(&mut self) -> Result<usize, ClientError> {
        // Other futures of the task get their turn first, however readable the socket is: what they write because of
        // the bytes handed out so far goes out together.
        yield_now().await;
        // The rest is a part of a head or of a possible end-line: far less than the buffer, so there is always room.
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let free = &mut self.buffer[self.end..];
        let transport = &self.transport;
        let read = poll_fn(|context| {
            let mut transport = transport.borrow_mut();
            let mut filled = 0;
            // TLS hands out a record at a time: gather all that are here already.
            while filled < free.len() {
                match Pin::new(&mut *transport).poll_read(context, &mut free[filled..]) {
                    Poll::Ready(Ok(0)) => break,
                    Poll::Ready(Ok(bytes)) => filled += bytes,
                    // A peer that closes TCP without close_notify has still ended the stream: frames carry their own
                    // end.
                    Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        break;
                    }
                    Poll::Ready(Err(error)) if filled == 0 => return Poll::Ready(Err(error)),
                    Poll::Pending if filled == 0 => return Poll::Pending,
                    Poll::Ready(Err(_)) | Poll::Pending => break,
                }
            }
            Poll::Ready(Ok(filled))
        })
        .await?;
        self.end += read;
        self.activity.note(read);
        Ok(read)
    }
}

/// The sending half of an [`Endpoint`].
#[derive(Debug)]
pub struct Outgoing {
    transport: Rc<RefCell<Transport>>,
    urgent: Urgent,
    activity: Activity,
}

impl Outgoing {
    /// The queue of frames that must be written as soon as no other frame is open.
    pub fn urgent(&self) -> Urgent {
        self.urgent.clone()
    }

    /// Hands these bytes to the transport, which may hold back some of them until [`Self::flush`].
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), ClientError> {
        while !bytes.is_empty() {
            let transport = &self.transport;
            let written =
                poll_fn(|context| Pin::new(&mut *transport.borrow_mut()).poll_write(context, bytes)).await?;
            if written == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            self.activity.note(written);
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Waits until the kernel has everything.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        let transport = &self.transport;
        Ok(poll_fn(|context| Pin::new(&mut *transport.borrow_mut()).poll_flush(context)).await?)
    }

    /// Writes one whole frame (or several) and flushes.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), ClientError> {
        self.write(frame).await?;
        self.flush().await
    }

    /// Writes and flushes what is urgent at this moment; call it only between frames. If a call is dropped in the
    /// middle of a frame, the next one completes the frame.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub async fn send_urgent(&mut self) -> Result<(), ClientError> {
        let (transport, queue) = (&self.transport, &self.urgent.0);
        while !self.urgent.is_empty() {
            let written = poll_fn(|context| {
                let mut bytes = queue.bytes.borrow_mut();
                let written = ready!(Pin::new(&mut *transport.borrow_mut()).poll_write(context, &bytes))?;
                bytes.drain(..written);
                Poll::Ready(io::Result::Ok(written))
            })
            .await?;
            if written == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            self.activity.note(written);
            queue.drained.wake();
        }
        self.flush().await
    }

    /// Writes urgent frames as they come, for ever: run it beside the receiving half.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub async fn serve(&mut self) -> Result<Infallible, ClientError> {
        loop {
            self.urgent.pending().await;
            self.send_urgent().await?;
        }
    }

    /// Tells the peer that nothing more will come: close_notify where there is TLS, then FIN.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub async fn finish(&mut self) -> Result<(), ClientError> {
        self.flush().await?;
        let transport = &self.transport;
        Ok(poll_fn(|context| Pin::new(&mut *transport.borrow_mut()).poll_close(context)).await?)
    }
}

/// Whole frames (responses, REPORTs) that go before everything else; every clone is the same queue.
#[derive(Clone, Debug, Default)]
pub struct Urgent(Rc<UrgentQueue>);

#[derive(Debug, Default)]
struct UrgentQueue {
    bytes: RefCell<Vec<u8>>,
    wanted: Signal,
    drained: Signal,
}

impl Urgent {
    /// Queues whole frames. The queue is bounded by [`Self::room`], which every reader of the peer's requests awaits.
    pub fn push(&self, frames: &[u8]) {
        self.0.bytes.borrow_mut().extend_from_slice(frames);
        self.0.wanted.wake();
    }

    /// Whether anything waits.
    pub fn is_empty(&self) -> bool {
        self.0.bytes.borrow().is_empty()
    }

    /// Returns once less than 64 KiB wait.
    pub async fn room(&self) {
        self.0.drained.until(|| self.0.bytes.borrow().len() < URGENT_BYTES_HIGH).await;
    }

    /// Returns once something waits.
    pub(super) async fn pending(&self) {
        self.0.wanted.until(|| !self.is_empty()).await;
    }
}

/// How many bytes have moved on a connection. It tells a slow connection from a dead one.
#[derive(Clone, Debug, Default)]
pub struct Activity(Rc<Cell<u64>>);

impl Activity {
    /// Bytes of both directions so far, without what TLS adds.
    pub fn bytes(&self) -> u64 {
        self.0.get()
    }

    /// Returns once nothing has moved for so long.
    pub async fn stops(&self, limit: Duration) {
        let due = Due::within(limit, Stage::Transferring);
        let (mut seen, mut since) = (self.bytes(), Instant::now());
        while since.elapsed() < limit {
            glommio::timer::sleep(IDLE_CHECK.min(limit)).await;
            if self.bytes() != seen {
                (seen, since) = (self.bytes(), Instant::now());
                due.again();
            }
        }
    }

    fn note(&self, bytes: usize) {
        self.0.set(self.0.get() + bytes as u64);
    }
}

/// Wakes the one task whose futures wait for a condition of this executor's state.
#[derive(Debug, Default)]
pub(super) struct Signal(RefCell<Option<Waker>>);

impl Signal {
    /// Returns once the condition holds, and checks it at every [`Self::wake`].
    pub(super) async fn until(&self, condition: impl Fn() -> bool) {
        poll_fn(|context| {
            if condition() {
                return Poll::Ready(());
            }
            *self.0.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// The condition may hold now.
    pub(super) fn wake(&self) {
        let waker = self.0.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
