//! One incoming message: where its bytes go, when it is complete, whether it matches its announcement.
//!
//! Invariants: bytes are stored at the offset that their chunk claims (RFC 4975, 7.3.1); chunks may come in any order
//! and overlap; the message is complete when its last chunk has ended and no byte is missing; the file gets its name
//! only if size and hash match the announced ones. A peer's numbers are compared, never allocated from. Must not know
//! frames beyond their heads.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::ClientError;
use super::disposition::{Disposition, Sha256Digest, safe_name};
use super::part_file::PartFile;
use super::ranges::RangeSet;
use super::talk::{self, Said, TALK_BYTES_MAX};
use msrp_proto::head::{ByteRange, FailureReport, Head};
use msrp_proto::parser::Flag;

/// Why a file was not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Its bytes do not have the announced hash.
    #[error("its SHA-256 is not the announced one")]
    Hash,
    /// Two sizes are announced, and they differ.
    #[error("its size is not the announced one: Byte-Range and Content-Disposition disagree")]
    Size,
    /// It goes on beyond the last byte announced.
    #[error(
        "it has {bytes} bytes or more, and {announced} were announced: its sender may have counted characters"
    )]
    TooLong {
        /// Where the received bytes end.
        bytes: u64,
        /// Where they should.
        announced: u64,
    },
    /// It ends before the last byte announced.
    #[error("it ends after {bytes} bytes, and {announced} were announced")]
    TooShort {
        /// Where it ends.
        bytes: u64,
        /// Where it should.
        announced: u64,
    },
    /// It is larger than the receiver accepts.
    #[error("it is larger than is accepted here")]
    TooLarge,
    /// Its chunks arrive in more separate places than the receiver keeps track of.
    #[error("its chunks are scattered too widely")]
    Scattered,
    /// The sender aborted it.
    #[error("the sender has aborted it")]
    Aborted,
    /// The connection ended first.
    #[error("the connection ended before its last byte")]
    Lost,
    /// It could not be stored.
    #[error("it cannot be stored: {reason}")]
    Disk {
        /// What is wrong, and where.
        reason: String,
        /// What kind of trouble it is, which the sender may know.
        kind: io::ErrorKind,
    },
}

/// What became of one message.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The name the sender offered: foreign text.
    pub offered_name: Option<String>,
    /// How many bytes arrived.
    pub bytes: u64,
    /// The hash of the received bytes, once all have come.
    pub sha256: Option<Sha256Digest>,
    /// Whether the sender announced that hash.
    pub hash_announced: bool,
    /// Where it is stored, or why it is not.
    pub stored: Result<PathBuf, Rejection>,
    /// From its first chunk to its end.
    pub elapsed: Duration,
}

/// A message that is being received.
#[derive(Debug)]
pub(super) struct IncomingFile {
    directory: PathBuf,
    store: Store,
    kind: String,
    announced: Disposition,
    fallback_name: &'static str,
    ranges: RangeSet,
    total: Option<u64>,
    last_chunk_ended: bool,
    size_max: u64,
    /// The From-Path of its chunks: where REPORTs go.
    pub(super) back: Vec<u8>,
    pub(super) message_id: Vec<u8>,
    pub(super) success_report: bool,
    pub(super) failure_report: FailureReport,
    began: Instant,
}

/// Where the bytes go.
#[derive(Debug)]
enum Store {
    Disk(PartFile),
    /// Content that is shown or dropped, at most [`TALK_BYTES_MAX`] bytes.
    Held(Vec<u8>),
}

/// What is stored, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wishes<'a> {
    pub(super) directory: &'a Path,
    pub(super) size_max: u64,
    /// Also what is not a file.
    pub(super) every_message: bool,
}

impl IncomingFile {
    /// Opens a temporary file for the message whose first chunk has this head, if it is a file.
    pub(super) fn begin(wishes: Wishes<'_>, head: &Head, bytes: &[u8]) -> Result<Self, Rejection> {
        let Wishes { directory, size_max, every_message } = wishes;
        let announced = Disposition::parse(head.content_disposition(bytes).unwrap_or_default());
        let total = head.byte_range().and_then(|range| range.total);
        if total.max(announced.size).is_some_and(|size| size > size_max) {
            return Err(Rejection::TooLarge);
        }
        if total.is_some() && announced.size.is_some() && total != announced.size {
            return Err(Rejection::Size);
        }
        let kind = talk::media_type(head.content_type(bytes).unwrap_or_default());
        let is_short = total.is_none_or(|total| total <= TALK_BYTES_MAX as u64);
        let store = match !every_message && is_short && talk::is_talk(head, bytes, &announced) {
            true => Store::Held(Vec::new()),
            false => Store::Disk(PartFile::create(directory).map_err(|error| Rejection::disk(&error))?),
        };
        let is_text = kind.starts_with("text/");
        Ok(Self {
            directory: directory.to_owned(),
            store,
            kind,
            total: total.or(announced.size),
            announced,
            fallback_name: if is_text { "message.txt" } else { "message.bin" },
            ranges: RangeSet::new(),
            last_chunk_ended: false,
            size_max,
            back: head.from_path(bytes).as_bytes().to_vec(),
            message_id: head.message_id(bytes).unwrap_or_default().to_vec(),
            success_report: head.success_report(),
            failure_report: head.failure_report(),
            began: Instant::now(),
        })
    }

    /// Where the bytes of a chunk with this range go, from 0. Without a range they follow the last ones.
    pub(super) fn offset_of(&self, range: Option<ByteRange>) -> u64 {
        range.map_or_else(|| self.ranges.end(), |range| range.start.saturating_sub(1))
    }

    /// The name shown while it arrives.
    pub(super) fn name(&self) -> String {
        safe_name(self.announced.filename.as_deref().unwrap_or(self.fallback_name))
    }

    /// How long it will be, if that is known.
    pub(super) const fn total(&self) -> Option<u64> {
        self.total
    }

    /// Stores bytes of a chunk.
    pub(super) async fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<u64, Rejection> {
        let end = offset.checked_add(bytes.len() as u64).ok_or(Rejection::TooLarge)?;
        if let Some(announced) = self.total.filter(|total| end > *total) {
            return Err(Rejection::TooLong { bytes: end, announced });
        }
        if end > self.size_max {
            return Err(Rejection::TooLarge);
        }
        self.store(offset, bytes).await.map_err(|error| Rejection::disk(&error))?;
        Ok(end)
    }

    async fn store(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ClientError> {
        if let Store::Held(held) = &mut self.store {
            let (start, end) = (usize::try_from(offset).unwrap_or(usize::MAX), bytes.len());
            let end = start.saturating_add(end);
            if end <= TALK_BYTES_MAX {
                held.resize(held.len().max(end), 0);
                if let Some(place) = held.get_mut(start..end) {
                    place.copy_from_slice(bytes);
                }
                return Ok(());
            }
            // Longer than any chat line: it is a file after all.
            let held = std::mem::take(held);
            let mut part = PartFile::create(&self.directory)?;
            part.write(0, &held).await?;
            self.store = Store::Disk(part);
        }
        match &mut self.store {
            Store::Disk(part) => part.write(offset, bytes).await,
            Store::Held(_) => Ok(()),
        }
    }

    /// Whether it is not a file, as far as is known.
    pub(super) const fn is_talk(&self) -> bool {
        matches!(self.store, Store::Held(_))
    }

    /// The text of a complete message that is not a file; `None` if it holds nothing for people.
    pub(super) fn said(&self) -> Option<Said> {
        match &self.store {
            Store::Held(held) => talk::said(&self.kind, held),
            Store::Disk(_) => None,
        }
    }

    /// A chunk of the bytes `start..end` has ended. Returns whether the message is complete.
    pub(super) fn chunk_ended(&mut self, start: u64, end: u64, flag: Flag) -> Result<bool, Rejection> {
        self.ranges.insert(start, end).map_err(|_| Rejection::Scattered)?;
        match flag {
            Flag::Aborted => return Err(Rejection::Aborted),
            Flag::More => {}
            Flag::Last => {
                let announced = *self.total.get_or_insert(end);
                if announced != end {
                    return Err(Rejection::TooShort { bytes: end, announced });
                }
                self.last_chunk_ended = true;
            }
        }
        Ok(self.last_chunk_ended && self.total.is_some_and(|total| self.ranges.covers(total)))
    }

    /// How many different bytes have arrived in chunks that have ended.
    pub(super) fn bytes(&self) -> u64 {
        self.ranges.bytes()
    }

    /// Checks a complete message and gives it its name.
    pub(super) async fn finish(mut self) -> Arrival {
        let total = self.total.unwrap_or_default();
        // A held message is shown, and never gets here.
        let Store::Disk(mut part) = std::mem::replace(&mut self.store, Store::Held(Vec::new())) else {
            return self.reject(Rejection::Lost);
        };
        let digest = match part.finish(total).await {
            Ok(digest) => digest,
            Err(error) => return self.reject(Rejection::disk(&error)),
        };
        if self.announced.sha256.is_some_and(|announced| announced != digest) {
            return Arrival { sha256: Some(digest), ..self.reject(Rejection::Hash) };
        }
        let name = self.name();
        let (offered_name, elapsed) = (self.announced.filename, self.began.elapsed());
        let stored = part.publish(&name).await.map_err(|error| Rejection::disk(&error));
        let hash_announced = self.announced.sha256.is_some();
        Arrival { offered_name, bytes: total, sha256: Some(digest), hash_announced, stored, elapsed }
    }

    /// Gives the message up; its temporary file goes.
    pub(super) fn reject(self, rejection: Rejection) -> Arrival {
        Arrival {
            bytes: self.ranges.bytes(),
            offered_name: self.announced.filename,
            sha256: None,
            hash_announced: self.announced.sha256.is_some(),
            stored: Err(rejection),
            elapsed: self.began.elapsed(),
        }
    }
}

impl Rejection {
    /// The words for the peer. They say only what the sender may know; paths stay on this machine.
    pub(super) fn words(&self) -> &'static str {
        match self {
            Self::Hash => "Not the announced hash",
            Self::Size | Self::TooLong { .. } | Self::TooShort { .. } => "Not the announced size",
            Self::TooLarge => "Too large",
            Self::Scattered => "Too scattered",
            Self::Aborted | Self::Lost => "Given up",
            Self::Disk { kind, .. } => match kind {
                io::ErrorKind::StorageFull => "The receiver's disk is full",
                io::ErrorKind::QuotaExceeded => "The receiver's quota is used up",
                io::ErrorKind::FileTooLarge => "Too large for the receiver's file system",
                io::ErrorKind::PermissionDenied => "The receiver may not write to its directory",
                io::ErrorKind::ReadOnlyFilesystem => "The receiver's file system is read-only",
                io::ErrorKind::NotFound => "The receiver's directory is gone",
                _ => "The receiver cannot store it",
            },
        }
    }

    pub(super) fn disk(error: &ClientError) -> Self {
        let kind = match error {
            ClientError::File { source, .. } => source.kind(),
            _ => io::ErrorKind::Other,
        };
        Self::Disk { reason: error.to_string(), kind }
    }
}
