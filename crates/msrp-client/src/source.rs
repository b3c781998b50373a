//! The bytes of a file or a pipe, read ahead on a thread of their own.
//!
//! Invariants: at most three buffers of 256 KiB are in use; a source of known length yields exactly that many bytes or
//! an error. The thread ends with its input or when the [`Source`] is dropped, whichever it notices first; a thread
//! that waits for a terminal or a pipe ends with the process. Must not know MSRP.

use std::io::{self, Read};
use std::path::PathBuf;

use async_channel::{Receiver, Sender, bounded};

use super::ClientError;

const PIECE_BYTES: usize = 256 << 10;
/// Full buffers that may wait for the network; the thread then waits too.
const PIECES_AHEAD: usize = 2;

/// A stream of bytes to be sent.
#[derive(Debug)]
pub struct Source {
    label: PathBuf,
    pieces: Receiver<io::Result<Vec<u8>>>,
    spare: Sender<Vec<u8>>,
}

impl Source {
    /// Starts reading. With a `size`, exactly so many bytes are read and fewer are an error. `label` is for messages.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn new(
        label: PathBuf,
        input: impl Read + Send + 'static,
        size: Option<u64>,
    ) -> Result<Self, ClientError> {
        let (piece_sender, pieces) = bounded(PIECES_AHEAD);
        let (spare, spare_receiver) = bounded(PIECES_AHEAD + 1);
        std::thread::Builder::new()
            .name("source".to_owned())
            .spawn(move || read_all(input, size, &piece_sender, &spare_receiver))
            .map_err(|source| ClientError::File { path: label.clone(), source })?;
        Ok(Self { label, pieces, spare })
    }

    /// The next bytes, at most 256 KiB and never none; `None` at the end.
    ///
    /// # Errors
    /// [`ClientError::File`].
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        match self.pieces.recv().await {
            Ok(Ok(piece)) => Ok(Some(piece)),
            Ok(Err(source)) => Err(ClientError::File { path: self.label.clone(), source }),
            Err(_) => Ok(None),
        }
    }

    /// Gives a buffer back to be filled again.
    pub fn recycle(&self, piece: Vec<u8>) {
        // A full queue means that there are enough spare buffers: this one is freed.
        let _ = self.spare.try_send(piece);
    }
}

fn read_all(
    mut input: impl Read,
    size: Option<u64>,
    pieces: &Sender<io::Result<Vec<u8>>>,
    spare: &Receiver<Vec<u8>>,
) {
    let mut left = size;
    while left != Some(0) {
        let mut piece = spare.try_recv().unwrap_or_default();
        let limit =
            left.map_or(PIECE_BYTES, |left| usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES));
        let piece = match fill(&mut input, &mut piece, limit) {
            Ok(0) if left.is_none() => return,
            Ok(0) => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has become shorter while it was read"))
            }
            Ok(bytes) => {
                left = left.map(|left| left - bytes as u64);
                Ok(piece)
            }
            Err(error) => Err(error),
        };
        let last = piece.is_err();
        if pieces.send_blocking(piece).is_err() || last {
            return;
        }
    }
}

/// One read: a pipe's few bytes go out at once rather than wait for more.
fn fill(input: &mut impl Read, piece: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
    piece.resize(limit, 0);
    loop {
        match input.read(piece) {
            Ok(bytes) => {
                piece.truncate(bytes);
                return Ok(bytes);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    fn read(input: &'static [u8], size: Option<u64>) -> Result<Vec<u8>, ClientError> {
        let mut source = Source::new(PathBuf::from("input"), input, size)?;
        futures_lite::future::block_on(async {
            let mut bytes = Vec::new();
            while let Some(piece) = source.next().await? {
                bytes.extend_from_slice(&piece);
                source.recycle(piece);
            }
            Ok(bytes)
        })
    }

    #[test]
    fn everything_is_read_in_order() {
        static LARGE: [u8; 3 * PIECE_BYTES + 17] = {
            let mut bytes = [0; 3 * PIECE_BYTES + 17];
            bytes[PIECE_BYTES] = 1;
            bytes[3 * PIECE_BYTES + 16] = 2;
            bytes
        };
        assert_eq!(read(&LARGE, None).unwrap(), LARGE);
        assert_eq!(read(&LARGE, Some(LARGE.len() as u64)).unwrap(), LARGE);
        assert_eq!(read(b"", None).unwrap(), b"");
    }

    #[test]
    fn a_file_that_grew_gives_what_was_announced() {
        assert_eq!(read(b"0123456789", Some(4)).unwrap(), b"0123");
        assert_eq!(read(b"0123456789", Some(0)).unwrap(), b"");
    }

    #[test]
    fn a_file_that_shrank_is_an_error() {
        assert!(matches!(read(b"0123", Some(5)), Err(ClientError::File { .. })));
    }
}
