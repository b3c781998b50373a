//! The client's side of WebSocket over a byte stream (RFC 6455, RFC 7977): the upgrade, and each MSRP frame as one message.
//!
//! A frame is sent in fragments, as it is written, for its length is not known when it begins. Invariants: what waits to be
//! written are whole WebSocket frames, so a pong fits between any two; a message ends where an MSRP frame does. It must not
//! know what frames mean.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_lite::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use msrp_proto::parser::{FramePart, Parser, ParserLimits};
use msrp_ws::upgrade::{Asked, NotUpgraded};
use msrp_ws::{
    Decoded, Decoder, Opcode, Role, close_code, unmask_to_front, write_close, write_control,
    write_frame_header,
};

/// The most that is masked at a time.
const FRAGMENT_BYTES: usize = 64 << 10;

/// WebSocket on one connection.
#[derive(Debug)]
pub(super) struct WebSocket {
    decoder: Decoder,
    found: Decoded,
    /// Received behind the answer to the upgrade.
    ahead: Vec<u8>,
    is_over: bool,
    /// Finds where the frames end that are sent, and the bytes that it awaits the rest of.
    parser: Parser,
    rest: Vec<u8>,
    in_message: bool,
    /// What is to be written, and how much of it is.
    out: Vec<u8>,
    written: usize,
    close_sent: bool,
}

impl WebSocket {
    /// Asks for the upgrade, and waits for the answer.
    pub(super) async fn upgrade(
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        host: &str,
        path: &str,
    ) -> io::Result<Result<Self, NotUpgraded>> {
        let (asked, request) = Asked::new(host, path, random());
        stream.write_all(&request).await?;
        stream.flush().await?;
        let mut received = Vec::new();
        let ended = loop {
            match asked.judge(&received) {
                Ok(Some(consumed)) => {
                    received.drain(..consumed);
                    return Ok(Ok(Self::new(received)));
                }
                Ok(None) => {}
                Err(refused) => return Ok(Err(refused)),
            }
            let mut bytes = [0; 1024];
            match stream.read(&mut bytes).await? {
                0 => break io::ErrorKind::UnexpectedEof,
                read => received.extend_from_slice(bytes.get(..read).unwrap_or_default()),
            }
        };
        Err(io::Error::new(ended, "it has closed the connection instead of upgrading it to WebSocket"))
    }

    fn new(ahead: Vec<u8>) -> Self {
        Self {
            decoder: Decoder::new(Role::Client),
            found: Decoded::default(),
            ahead,
            is_over: false,
            parser: Parser::new(ParserLimits { head_bytes_max: 1 << 20, ..ParserLimits::default() }),
            rest: Vec::new(),
            in_message: false,
            out: Vec::new(),
            written: 0,
            close_sent: false,
        }
    }

    /// Reads bytes of messages.
    pub(super) fn poll_read(
        &mut self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        while !self.is_over && !buffer.is_empty() {
            let read = if self.ahead.is_empty() {
                ready!(Pin::new(&mut *stream).poll_read(context, buffer))?
            } else {
                let taken = self.ahead.len().min(buffer.len());
                buffer[..taken].copy_from_slice(&self.ahead[..taken]);
                self.ahead.drain(..taken);
                taken
            };
            if read == 0 {
                self.is_over = true;
                break;
            }
            let kept = self.decoder.decode(&mut buffer[..read], &mut self.found);
            if let Some(error) = self.found.error {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
            if let Some(ping) = self.found.ping.take() {
                write_control(&mut self.out, Opcode::Pong, ping.as_bytes(), Some(random()));
                // What does not go at once goes with what is written next.
                let _ = self.poll_drain(stream, context)?;
            }
            self.is_over = self.found.close.is_some();
            if kept > 0 {
                return Poll::Ready(Ok(kept));
            }
        }
        Poll::Ready(Ok(0))
    }

    /// Takes bytes of frames; what is not written at once is when more is, or flushed.
    pub(super) fn poll_write(
        &mut self,
        stream: &mut (impl AsyncWrite + Unpin),
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(stream, context))?;
        let taken = bytes.get(..FRAGMENT_BYTES).unwrap_or(bytes);
        self.stage(taken)?;
        let _ = self.poll_drain(stream, context)?;
        Poll::Ready(Ok(taken.len()))
    }

    /// Turns bytes into fragments of messages.
    fn stage(&mut self, bytes: &[u8]) -> io::Result<()> {
        let before = self.rest.len();
        self.rest.extend_from_slice(bytes);
        let (mut at, mut sent) = (0, 0);
        loop {
            let step = self.parser.step(self.rest.get(at..).unwrap_or_default());
            let Some(step) = step.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))? else {
                break;
            };
            at += step.consumed;
            if matches!(step.piece, FramePart::End(_)) {
                let end = at - before;
                self.fragment(bytes.get(sent..end).unwrap_or_default(), true);
                sent = end;
            }
        }
        self.rest.drain(..at);
        if let Some(left) = bytes.get(sent..).filter(|left| !left.is_empty()) {
            self.fragment(left, false);
        }
        Ok(())
    }

    fn fragment(&mut self, payload: &[u8], is_final: bool) {
        let opcode = if self.in_message { Opcode::Continuation } else { Opcode::Binary };
        self.in_message = !is_final;
        let mask: [u8; 4] = random();
        write_frame_header(&mut self.out, opcode, is_final, payload.len(), Some(mask));
        let start = self.out.len();
        self.out.extend_from_slice(payload);
        // What unmasks also masks.
        unmask_to_front(&mut self.out, (start, start), payload.len(), Some(mask), 0);
    }

    fn poll_drain(
        &mut self,
        stream: &mut (impl AsyncWrite + Unpin),
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(waiting) = self.out.get(self.written..).filter(|waiting| !waiting.is_empty()) {
            match ready!(Pin::new(&mut *stream).poll_write(context, waiting))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        self.out.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_flush(
        &mut self,
        stream: &mut (impl AsyncWrite + Unpin),
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(stream, context))?;
        Pin::new(stream).poll_flush(context)
    }

    /// Says that nothing follows.
    pub(super) fn poll_close(
        &mut self,
        stream: &mut (impl AsyncWrite + Unpin),
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.close_sent {
            self.close_sent = true;
            write_close(&mut self.out, close_code::NORMAL, Some(random()));
        }
        ready!(self.poll_drain(stream, context))?;
        Pin::new(stream).poll_close(context)
    }
}

/// Masks and keys must not be foreseen (RFC 6455, 10.3).
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel's random source is always there");
    bytes
}
