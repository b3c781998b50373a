//! The line between two processes of a relay, one of which takes over from the other: a Unix socket of packets, each a
//! line of text, some with a descriptor.
//!
//! ```text
//! old -> new   msrprelay 1 GENERATION
//!              listener ADDRESS tls|plain          + a listening socket, once for each
//!              end
//! new -> old   ready
//! old -> new   yours                               the old one accepts no more
//! both ways    connection CORE PEER PORT tls|plain [NAME ...]
//!                                                  + a stream of what the peer sends and is sent, in plain text
//!
//! new -> old   question                            + a stream, by which the old one is asked as at its admin socket
//! ```
//!
//! The names are those that the peer has proven to bear, if it is a relay.
//!
//! Invariants: a packet is bounded; a child process inherits neither end, unless it gets one as its standard input.
//! Must not know what the messages are for.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// The version that both must speak.
pub(super) const GREETING: &str = "msrprelay 1";
/// The longest packet.
pub(super) const PACKET_BYTES_MAX: usize = 8192;
/// Why a process could not take over from another.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The socket pair does not work.
    #[error("the line between the processes: {0}")]
    Line(#[from] io::Error),
    /// The other side has ended too early.
    #[error("the other process has ended")]
    Ended,
    /// The other side has sent something unexpected.
    #[error("not understood: {0:?}")]
    Garbled(String),
}

impl From<rustix::io::Errno> for UpgradeError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Line(error.into())
    }
}

/// One end of the line.
#[derive(Debug)]
pub struct Line(pub(super) OwnedFd);

impl Line {
    /// Both ends. A child process inherits neither, unless it gets one as its standard input.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(ours), theirs))
    }

    /// The end that this process was started with, as its standard input.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn inherited() -> io::Result<Self> {
        Ok(Self(io::stdin().as_fd().try_clone_to_owned()?))
    }

    /// From here on waits for packets no longer than this; for ever if `None`.
    ///
    /// # Errors
    /// If the socket pair does not work.
    pub fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        Ok(set_socket_timeout(&self.0, Timeout::Recv, patience)?)
    }

    /// Sends a packet. Waits for room.
    pub(super) fn say(&self, text: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send(text, descriptor, SendFlags::empty())
    }

    /// The same without waiting: fails if the other side is too far behind.
    pub(super) fn say_at_once(&self, text: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.send(text, Some(descriptor), SendFlags::DONTWAIT)
    }

    fn send(&self, text: &str, descriptor: Option<BorrowedFd<'_>>, flags: SendFlags) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<_> = descriptor.into_iter().collect();
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        sendmsg(&self.0, &[IoSlice::new(text.as_bytes())], &mut ancillary, flags | SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for the next packet, and the descriptor that comes with it.
    pub(super) fn hear(&self) -> Result<(String, Option<OwnedFd>), UpgradeError> {
        let mut packet = [0; PACKET_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut packet)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        let text = packet.get(..received.bytes).unwrap_or_default();
        let mut descriptors = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let descriptor = descriptors.next().and_then(|mut all| all.next());
        if text.is_empty() {
            return Err(UpgradeError::Ended);
        }
        Ok((String::from_utf8_lossy(text).into_owned(), descriptor))
    }
}

pub(super) fn word(secure: bool) -> &'static str {
    if secure { "tls" } else { "plain" }
}

pub(super) fn is_secure(word: &str) -> Option<bool> {
    [true, false].into_iter().find(|secure| self::word(*secure) == word)
}
