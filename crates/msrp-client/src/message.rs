//! An outgoing message, as one interruptible chunk or many (RFC 4975, 5.1, 7.1 and 7.1.1).
//!
//! Invariants: Byte-Ranges are gapless; a chunk of more than 2048 bytes is open-ended and is cut when a response or a
//! REPORT waits; the end-line of a chunk never occurs in its body, because the body is searched while it is sent and
//! the chunk is cut inside the look-alike; at most [`MessageSpec::window`] chunks await an answer. The message is never
//! held: bytes given to [`MessageStream::write`] go to the transport at once.

use std::rc::Rc;

use memchr::memmem;

use super::endpoint::Outgoing;
use super::ledger::Ledger;
use super::{ClientError, random_token};
use msrp_proto::head::{ByteRange, FailureReport};
use msrp_proto::parser::Flag;
use msrp_proto::write::{FrameWriter, write_end_line};

/// Chunks up to this size announce their exact end and need not be interruptible (RFC 4975, 7.1.1).
const EXACT_CHUNK_BYTES_MAX: u64 = 2048;
/// The body is written in pieces of this size, and urgent frames are looked for between them.
const PIECE_BYTES: usize = 64 << 10;
/// About 71 random bits.
const TID_LENGTH: usize = 12;
/// Every end-line begins with seven of these.
const END_LINE_HYPHENS: usize = 7;

/// What the head of each of a message's chunks says.
#[derive(Clone, Debug)]
pub struct MessageSpec {
    /// The value of To-Path: our relays, then the peer's path.
    pub to_path: String,
    /// The value of From-Path: our URI.
    pub from_path: String,
    /// The Message-ID.
    pub message_id: String,
    /// Which responses and failure REPORTs are wanted.
    pub failure_report: FailureReport,
    /// Whether the receiver is asked to confirm what has arrived.
    pub success_report: bool,
    /// The Content-Disposition, if any.
    pub disposition: Option<String>,
    /// The Content-Type.
    pub content_type: String,
    /// The length of the message in bytes, if known beforehand.
    pub total: Option<u64>,
    /// The longest body of a chunk in bytes; `None` for a single chunk as long as nothing interrupts it.
    pub chunk_bytes: Option<u64>,
    /// How many chunks may wait for their 200 (Failure-Report `yes`); at least 1.
    pub window: usize,
}

impl MessageSpec {
    /// A message with a fresh Message-ID, Failure-Report `yes`, no success report, one chunk, a window of 64.
    pub fn new(to_path: &str, from_path: &str, content_type: &str) -> Self {
        Self {
            to_path: to_path.to_owned(),
            from_path: from_path.to_owned(),
            message_id: random_token(TID_LENGTH),
            failure_report: FailureReport::Yes,
            success_report: false,
            disposition: None,
            content_type: content_type.to_owned(),
            total: None,
            chunk_bytes: None,
            window: 64,
        }
    }

    /// Appends the head of the chunk that begins at `offset` (from 0).
    fn write_head(&self, out: &mut Vec<u8>, tid: &str, offset: u64) {
        let mut writer = FrameWriter::request(out, tid.as_bytes(), "SEND")
            .header("To-Path", self.to_path.as_bytes())
            .header("From-Path", self.from_path.as_bytes())
            .header("Message-ID", self.message_id.as_bytes());
        if self.success_report {
            writer = writer.header("Success-Report", b"yes");
        }
        match self.failure_report {
            FailureReport::Yes => {}
            FailureReport::No => writer = writer.header("Failure-Report", b"no"),
            FailureReport::Partial => writer = writer.header("Failure-Report", b"partial"),
        }
        writer = writer.byte_range(self.byte_range(offset));
        if let Some(disposition) = &self.disposition {
            writer = writer.header("Content-Disposition", disposition.as_bytes());
        }
        writer.header("Content-Type", self.content_type.as_bytes()).body_start();
    }

    fn byte_range(&self, offset: u64) -> ByteRange {
        let rest = self.total.map(|total| total.saturating_sub(offset));
        let end = match (rest, self.chunk_bytes) {
            (Some(rest), chunk_bytes)
                if rest.min(chunk_bytes.unwrap_or(u64::MAX)) <= EXACT_CHUNK_BYTES_MAX =>
            {
                Some(offset + rest.min(chunk_bytes.unwrap_or(u64::MAX)))
            }
            _ => None,
        };
        ByteRange { start: offset + 1, end, total: self.total }
    }
}

/// A message being sent. Dropping it in the middle leaves an open frame: then the connection can only be closed.
#[derive(Debug)]
pub struct MessageStream<'a> {
    outgoing: &'a mut Outgoing,
    spec: &'a MessageSpec,
    ledger: Rc<Ledger>,
    chunk: Option<Chunk>,
    sent: u64,
    chunks: u64,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Chunk {
    tid: String,
    bytes: u64,
    guard: EndLineGuard,
}

impl<'a> MessageStream<'a> {
    /// Nothing is written before the first byte or the end.
    pub fn new(outgoing: &'a mut Outgoing, spec: &'a MessageSpec, ledger: Rc<Ledger>) -> Self {
        Self { outgoing, spec, ledger, chunk: None, sent: 0, chunks: 0, scratch: Vec::with_capacity(1024) }
    }

    /// How many bytes of the message have been handed to the transport.
    pub const fn sent(&self) -> u64 {
        self.sent
    }

    /// How many chunks have been begun.
    pub const fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Sends the next bytes of the message.
    ///
    /// # Errors
    /// Failures of the connection, and any failure of this message that came back meanwhile: the message is then ended
    /// with `#`.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), ClientError> {
        while !bytes.is_empty() {
            self.make_way().await?;
            let room = self.open_chunk().await?;
            let Some(chunk) = &mut self.chunk else {
                continue;
            };
            let limit = usize::try_from(room).unwrap_or(usize::MAX).min(PIECE_BYTES).min(bytes.len());
            let (piece, _) = bytes.split_at(limit);
            let take = chunk.guard.safe_prefix(piece);
            let (piece, rest) = bytes.split_at(take.unwrap_or(limit));
            self.outgoing.write(piece).await?;
            chunk.bytes += piece.len() as u64;
            self.sent += piece.len() as u64;
            bytes = rest;
            if take.is_some() {
                self.close_chunk(Flag::More).await?;
            }
        }
        Ok(())
    }

    /// Ends the message and flushes; an empty message becomes one empty chunk.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn finish(mut self) -> Result<(u64, u64), ClientError> {
        self.stop_on_failure().await?;
        if self.chunk.is_none() {
            self.open_chunk().await?;
        }
        self.close_chunk(Flag::Last).await?;
        self.outgoing.flush().await?;
        Ok((self.sent, self.chunks))
    }

    /// Aborts the message: the open chunk ends with `#`.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub async fn abort(&mut self) -> Result<(), ClientError> {
        self.close_chunk(Flag::Aborted).await?;
        self.outgoing.flush().await
    }

    /// Stops after a failure, closes a full chunk, and cuts the open one if something urgent waits.
    async fn make_way(&mut self) -> Result<(), ClientError> {
        self.stop_on_failure().await?;
        let Some(chunk) = &self.chunk else {
            return self.outgoing.send_urgent().await;
        };
        let full = self.spec.chunk_bytes.is_some_and(|chunk_bytes| chunk.bytes >= chunk_bytes);
        let interruptible = chunk.bytes > EXACT_CHUNK_BYTES_MAX;
        if full || (interruptible && !self.outgoing.urgent().is_empty()) {
            self.close_chunk(Flag::More).await?;
            self.outgoing.send_urgent().await?;
        }
        Ok(())
    }

    async fn stop_on_failure(&mut self) -> Result<(), ClientError> {
        let Some(failure) = self.ledger.take_failure() else {
            return Ok(());
        };
        self.abort().await?;
        Err(failure)
    }

    /// Begins a chunk if none is open. Returns how many bytes it has room for.
    async fn open_chunk(&mut self) -> Result<u64, ClientError> {
        if let Some(chunk) = &self.chunk {
            return Ok(self
                .spec
                .chunk_bytes
                .map_or(u64::MAX, |chunk_bytes| chunk_bytes.saturating_sub(chunk.bytes)));
        }
        self.await_window().await?;
        let tid = random_token(TID_LENGTH);
        self.scratch.clear();
        self.spec.write_head(&mut self.scratch, &tid, self.sent);
        self.outgoing.write(&self.scratch).await?;
        self.ledger.opened(&tid, self.sent);
        self.chunks += 1;
        self.chunk = Some(Chunk { guard: EndLineGuard::new(&tid), tid, bytes: 0 });
        Ok(self.spec.chunk_bytes.unwrap_or(u64::MAX))
    }

    /// Waits for answers if too many are missing. Flushes everything written so far first.
    async fn await_window(&mut self) -> Result<(), ClientError> {
        let ledger = Rc::clone(&self.ledger);
        let free = futures_lite::future::poll_once(ledger.window(self.spec.window)).await;
        if free.is_none() {
            self.outgoing.flush().await?;
            let answered = async {
                ledger.window(self.spec.window).await;
                Ok(())
            };
            let served = async { self.outgoing.serve().await.map(|never| match never {}) };
            futures_lite::future::or(answered, served).await?;
            // The wait may have ended in the middle of an urgent frame.
            self.outgoing.send_urgent().await?;
        }
        self.stop_on_failure().await
    }

    async fn close_chunk(&mut self, flag: Flag) -> Result<(), ClientError> {
        let Some(chunk) = self.chunk.take() else {
            return Ok(());
        };
        self.scratch.clear();
        write_end_line(&mut self.scratch, chunk.tid.as_bytes(), flag, true);
        self.outgoing.write(&self.scratch).await
    }
}

/// Searches a body for the end-line of its own chunk, also across the parts it is written in.
#[derive(Debug)]
struct EndLineGuard {
    finder: memmem::Finder<'static>,
    /// The last bytes of the body so far, fewer than the needle has.
    tail: Vec<u8>,
}

impl EndLineGuard {
    fn new(tid: &str) -> Self {
        let needle = format!("{}{tid}", "-".repeat(END_LINE_HYPHENS));
        Self {
            finder: memmem::Finder::new(needle.as_bytes()).into_owned(),
            tail: Vec::with_capacity(needle.len() * 2),
        }
    }

    /// `None` if all of `piece` may follow in this chunk. Otherwise how many bytes may: then the chunk has to be cut.
    ///
    /// Stricter than the grammar, which wants CRLF before and a flag after it: so it can mislead no receiver.
    fn safe_prefix(&mut self, piece: &[u8]) -> Option<usize> {
        let keep = self.finder.needle().len() - 1;
        let seam = piece.get(..keep.min(piece.len())).unwrap_or_default();
        let before = self.tail.len();
        self.tail.extend_from_slice(seam);
        if self.finder.find(&self.tail).is_some() {
            // It began in bytes that are already sent: they are only a part of it.
            self.tail.truncate(before);
            return Some(0);
        }
        if let Some(at) = self.finder.find(piece) {
            return Some(at + 1);
        }
        if piece.len() >= keep {
            self.tail.clear();
            self.tail.extend_from_slice(piece.get(piece.len() - keep..).unwrap_or_default());
        } else {
            self.tail.drain(..self.tail.len().saturating_sub(keep));
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TID: &str = "d4f8aQ2z";

    fn spec(total: Option<u64>, chunk_bytes: Option<u64>) -> MessageSpec {
        MessageSpec {
            total,
            chunk_bytes,
            ..MessageSpec::new("msrp://b:1/b;tcp", "msrp://a:1/a;tcp", "text/plain")
        }
    }

    /// Sends `body` in these pieces and returns it as the guard cut it into chunks.
    fn chunks_of(body: &[u8], piece_sizes: &[usize]) -> Vec<Vec<u8>> {
        let (mut chunks, mut rest) = (vec![Vec::new()], body);
        let mut guard = EndLineGuard::new(TID);
        let mut sizes = piece_sizes.iter().copied().cycle();
        while !rest.is_empty() {
            let (piece, _) = rest.split_at(sizes.next().unwrap().clamp(1, rest.len()));
            let take = guard.safe_prefix(piece);
            let (sent, behind) = rest.split_at(take.unwrap_or(piece.len()));
            chunks.last_mut().unwrap().extend_from_slice(sent);
            rest = behind;
            if take.is_some() {
                chunks.push(Vec::new());
                guard = EndLineGuard::new(TID);
            }
        }
        chunks
    }

    proptest! {
        /// Bodies made only of fragments of the end-line, written in parts of all sizes.
        #[test]
        fn no_chunk_holds_its_own_end_line(
            parts in prop::collection::vec(prop::sample::select(vec!["-", "--", "-------", "\r\n", TID, "-------d4f8aQ2z", "$", "x", "d4f8"]), 0..40),
            sizes in prop::collection::vec(1_usize..40, 1..8),
        ) {
            let body = parts.concat().into_bytes();
            let chunks = chunks_of(&body, &sizes);
            let needle = format!("-------{TID}");
            prop_assert_eq!(chunks.concat(), body);
            for chunk in chunks {
                prop_assert!(memmem::find(&chunk, needle.as_bytes()).is_none());
            }
        }
    }

    #[test]
    fn an_innocent_body_is_never_cut() {
        let body: Vec<u8> = (0..20_000_u32).map(|index| (index % 251) as u8).collect();
        assert_eq!(chunks_of(&body, &[1, 7, 4096]).len(), 1);
    }

    #[test]
    fn a_body_of_end_lines_is_cut_once_for_each() {
        let body = format!("\r\n-------{TID}$\r\n").repeat(3);
        assert_eq!(chunks_of(body.as_bytes(), &[10_000]).len(), 4);
        assert_eq!(chunks_of(body.as_bytes(), &[1]).len(), 4);
    }

    #[test]
    fn ranges_are_open_where_a_chunk_may_be_interrupted() {
        let range = |total, chunk_bytes, offset| spec(total, chunk_bytes).byte_range(offset).to_string();
        assert_eq!(range(Some(0), None, 0), "1-0/0");
        assert_eq!(range(Some(2048), None, 0), "1-2048/2048");
        assert_eq!(range(Some(2049), None, 0), "1-*/2049");
        assert_eq!(range(Some(5000), Some(1000), 4000), "4001-5000/5000");
        assert_eq!(range(Some(5000), Some(1000), 1000), "1001-2000/5000");
        assert_eq!(range(Some(50_000), Some(4096), 4096), "4097-*/50000");
        assert_eq!(range(None, Some(100), 100), "101-*/*");
    }
}
