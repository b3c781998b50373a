//! One process takes over from another without a gap: what passes between the two.
//!
//! The process that goes on gives its successor the listening sockets themselves, so that connections that wait to be
//! accepted wait on, and a line. Over that line the successor says that it is ready, and passes back what is still for the
//! old one: connections whose first request names a session that lives there, deciphered.
//!
//! The line is a Unix socket of packets, each a line of text, some with a descriptor:
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
//! A connection is passed on where its first request names a session of the other process, and made where a session of
//! the one is to reach a session of the other: each is a relay to the other then, but for TLS.
//!
//! Invariants: nothing that comes over the line is trusted to be well formed; either side sees the other's end; a packet
//! never waits for room on a data core. Must not know: what a session is.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::proto::address::parse_socket;
use crate::relay::{ProvenNames, Transport};

/// What both must speak.
const GREETING: &str = "msrprelay 1";
/// The longest packet, in octets.
const PACKET_BYTES_MAX: usize = 8192;
/// Listening sockets that one process may leave another.
const LISTENERS_MAX: usize = 4096;

/// Why a process could not take over from another.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    /// The line does not work.
    #[error("the line between the processes: {0}")]
    Line(#[from] io::Error),
    /// The other side has ended before everything was said.
    #[error("the other process has ended")]
    Ended,
    /// The other side says something else than it should.
    #[error("not understood: {0:?}")]
    Garbled(String),
}

impl From<rustix::io::Errno> for SuccessionError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Line(error.into())
    }
}

/// One end of the line.
#[derive(Debug)]
pub struct Line(OwnedFd);

impl Line {
    /// Both ends. Neither is inherited by a child unless it is made its standard input.
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

    /// Waits for packets so long at most from here on; for ever if `None`.
    ///
    /// # Errors
    /// If the line does not work.
    pub fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        Ok(set_socket_timeout(&self.0, Timeout::Recv, patience)?)
    }

    fn say(&self, text: &str, descriptor: Option<BorrowedFd<'_>>, flags: SendFlags) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<_> = descriptor.into_iter().collect();
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        sendmsg(&self.0, &[IoSlice::new(text.as_bytes())], &mut ancillary, flags | SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn hear(&self) -> Result<(String, Option<OwnedFd>), SuccessionError> {
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
            return Err(SuccessionError::Ended);
        }
        Ok((String::from_utf8_lossy(text).into_owned(), descriptor))
    }
}

fn word(secure: bool) -> &'static str {
    if secure { "tls" } else { "plain" }
}

fn is_secure(word: &str) -> Option<bool> {
    [true, false].into_iter().find(|secure| self::word(*secure) == word)
}

/// What the other process has for this one.
#[derive(Debug)]
pub struct Passed {
    /// The core, by position, on which the session lives that it is for.
    pub core: u16,
    /// Where it came from.
    pub address: SocketAddr,
    /// What it came by.
    pub transport: Transport,
    /// Which relay it comes from, if it has proven to be one.
    pub proven: Option<ProvenNames>,
    /// Its plaintext, both ways.
    pub stream: OwnedFd,
}

/// What is heard from the other process.
#[derive(Debug)]
pub enum Heard {
    /// A connection for a session of this one.
    Connection(Passed),
    /// An operator's question: a request and its answer, as at the admin socket.
    Question(UnixStream),
}

/// The other process: the one before this one, or the one after it.
#[derive(Debug)]
pub struct Kin {
    generation: u8,
    line: Line,
    gone: AtomicBool,
    sessions: AtomicU64,
}

impl Kin {
    fn new(generation: u8, line: Line) -> Self {
        Self { generation, line, gone: AtomicBool::new(false), sessions: AtomicU64::new(0) }
    }

    /// The sessions that it had when it was asked last; none once it is gone.
    pub fn sessions(&self) -> u64 {
        if self.is_there() { self.sessions.load(Ordering::Relaxed) } else { 0 }
    }

    /// Notes what it has said of itself.
    pub fn note_sessions(&self, sessions: u64) {
        self.sessions.store(sessions, Ordering::Relaxed);
    }

    /// Its generation: what the session ids that it mints begin with.
    pub fn generation(&self) -> u8 {
        self.generation
    }

    /// Whether it may still be there, and its sessions.
    pub fn is_there(&self) -> bool {
        !self.gone.load(Ordering::Relaxed)
    }

    /// Passes a connection on. Does not wait.
    ///
    /// # Errors
    /// If the other process has ended, or is so far behind that it would have to be waited for.
    pub fn pass(
        &self,
        core: u16,
        address: SocketAddr,
        transport: Transport,
        proven: Option<&ProvenNames>,
        stream: &OwnedFd,
    ) -> io::Result<()> {
        let mut text = format!("connection {core} {address} {} {}", transport.port, word(transport.secure));
        for name in proven.into_iter().flat_map(ProvenNames::iter) {
            // More names than anybody has; without the rest it is a relay of fewer names.
            if text.len() + 1 + name.len() > PACKET_BYTES_MAX {
                break;
            }
            text.push(' ');
            text.push_str(name);
        }
        let passed = self.line.say(&text, Some(stream.as_fd()), SendFlags::DONTWAIT);
        if passed.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock) {
            self.gone.store(true, Ordering::Relaxed);
        }
        passed
    }

    /// Opens a way to ask the other process what is asked at an admin socket. One of an earlier version closes it.
    ///
    /// # Errors
    /// If the other process has ended, or is so far behind that it would have to be waited for.
    pub fn ask(&self) -> io::Result<UnixStream> {
        let (near, far) = UnixStream::pair()?;
        self.line.say("question", Some(far.as_fd()), SendFlags::DONTWAIT)?;
        Ok(near)
    }

    /// Waits for the next word of the other process. What cannot be understood is skipped.
    ///
    /// # Errors
    /// If the other process has ended.
    pub fn next(&self) -> Result<Heard, SuccessionError> {
        loop {
            let heard = self.line.hear();
            if heard.is_err() {
                self.gone.store(true, Ordering::Relaxed);
            }
            let (text, stream) = heard?;
            match (parse_connection(&text), stream) {
                (Some((core, address, transport)), Some(stream)) => {
                    let proven = ProvenNames::new(text.split(' ').skip(CONNECTION_WORDS));
                    return Ok(Heard::Connection(Passed { core, address, transport, proven, stream }));
                }
                (None, Some(stream)) if text == "question" => return Ok(Heard::Question(stream.into())),
                _ => tracing::warn!(text, "Not understood of what another process of this relay says"),
            }
        }
    }

    fn wait_for(&self, word: &str, patience: Duration) -> Result<(), SuccessionError> {
        self.line.set_patience(Some(patience))?;
        let heard = self.line.hear();
        self.line.set_patience(None)?;
        match heard?.0 {
            said if said == word => Ok(()),
            other => Err(SuccessionError::Garbled(other)),
        }
    }
}

/// Words before the names.
const CONNECTION_WORDS: usize = 5;

fn parse_connection(text: &str) -> Option<(u16, SocketAddr, Transport)> {
    let mut words = text.split(' ');
    if words.next()? != "connection" {
        return None;
    }
    let (core, address, port) =
        (words.next()?.parse().ok()?, parse_socket(words.next()?)?, words.next()?.parse().ok()?);
    let secure = is_secure(words.next()?)?;
    Some((core, address, Transport { secure, port }))
}

// -- the old process -------------------------------------------------------------------------------

impl Kin {
    /// Leaves the listening sockets to the process at the other end of the line. `generation` is this process's.
    ///
    /// # Errors
    /// If the other one has ended.
    pub fn bequeath<'a>(
        line: Line,
        generation: u8,
        listeners: impl Iterator<Item = (SocketAddr, bool, BorrowedFd<'a>)>,
    ) -> Result<Self, SuccessionError> {
        line.say(&format!("{GREETING} {generation}"), None, SendFlags::empty())?;
        for (address, secure, socket) in listeners {
            line.say(&format!("listener {address} {}", word(secure)), Some(socket), SendFlags::empty())?;
        }
        line.say("end", None, SendFlags::empty())?;
        Ok(Self::new(generation.wrapping_add(1), line))
    }

    /// Waits until the successor listens.
    ///
    /// # Errors
    /// If it ends instead, or takes longer than `patience`.
    pub fn wait_until_ready(&self, patience: Duration) -> Result<(), SuccessionError> {
        self.wait_for("ready", patience)
    }

    /// Tells the successor that it is on its own.
    ///
    /// # Errors
    /// If it has ended.
    pub fn give_way(&self) -> Result<(), SuccessionError> {
        Ok(self.line.say("yours", None, SendFlags::empty())?)
    }
}

// -- the new process -------------------------------------------------------------------------------

/// What the old process leaves to the new one.
#[derive(Debug)]
pub struct Estate {
    /// Of the new process: the first one is 0.
    pub generation: u8,
    listeners: Vec<(SocketAddr, bool, socket2::Socket)>,
    line: Line,
}

impl Estate {
    /// Takes it from the other end of the line.
    ///
    /// # Errors
    /// If there is no msrprelay at the other end.
    pub fn take(line: Line, patience: Duration) -> Result<Self, SuccessionError> {
        line.set_patience(Some(patience))?;
        let (text, _) = line.hear()?;
        let before: u8 = text
            .strip_prefix(GREETING)
            .and_then(|rest| rest.trim_start().parse().ok())
            .ok_or(SuccessionError::Garbled(text))?;
        let mut listeners = Vec::new();
        loop {
            let (text, socket) = line.hear()?;
            let words: Vec<_> = text.split(' ').collect();
            let listener = match (words.as_slice(), socket) {
                (["end"], None) => break,
                (["listener", address, secure], Some(socket)) => {
                    let understood = parse_socket(address).zip(is_secure(secure));
                    understood.map(|(address, secure)| (address, secure, socket))
                }
                _ => None,
            };
            match listener {
                Some((address, secure, socket)) if listeners.len() < LISTENERS_MAX => {
                    listeners.push((address, secure, socket.into()));
                }
                _ => return Err(SuccessionError::Garbled(text)),
            }
        }
        line.set_patience(None)?;
        Ok(Self { generation: before.wrapping_add(1), listeners, line })
    }

    /// The sockets that listen on what a config calls `address`, and the address with its port. One with port 0 is
    /// whichever comes first of those on that host.
    pub fn listeners(
        &mut self,
        address: SocketAddr,
        secure: bool,
    ) -> Option<(SocketAddr, Vec<socket2::Socket>)> {
        let fits = |(there, tls, _): &&(SocketAddr, bool, socket2::Socket)| {
            let same = *there == address || address.port() == 0 && there.ip() == address.ip();
            same && *tls == secure
        };
        let there = self.listeners.iter().find(fits)?.0;
        let taken = self.listeners.extract_if(.., |(address, tls, _)| *address == there && *tls == secure);
        Some((there, taken.map(|(_, _, socket)| socket).collect()))
    }

    /// Everything that is not wanted is let go of; what remains is the other process.
    pub fn predecessor(self) -> Kin {
        Kin::new(self.generation.wrapping_sub(1), self.line)
    }
}

impl Kin {
    /// Says that this process listens, and waits until the old one has given way.
    ///
    /// # Errors
    /// If it has ended, which leaves this process on its own.
    pub fn take_over(&self, patience: Duration) -> Result<(), SuccessionError> {
        let taken = self
            .line
            .say("ready", None, SendFlags::empty())
            .map_err(SuccessionError::from)
            .and_then(|()| self.wait_for("yours", patience));
        if taken.is_err() {
            self.gone.store(true, Ordering::Relaxed);
        }
        taken
    }
}

// -- both ------------------------------------------------------------------------------------------

/// The other processes of this relay that there are, as all cores know them.
#[derive(Debug, Default)]
pub struct Family {
    predecessor: OnceLock<Arc<Kin>>,
    /// Exchanged when another process takes over, and when that has died: a lock for as long as a pointer takes.
    successor: RwLock<Option<Arc<Kin>>>,
}

impl Family {
    /// With the process before this one, if there is one.
    pub fn after(predecessor: Option<Kin>) -> Self {
        let family = Self::default();
        if let Some(kin) = predecessor {
            let _ = family.predecessor.set(Arc::new(kin));
        }
        family
    }

    /// The process before this one, if there ever was one.
    pub fn predecessor(&self) -> Option<&Arc<Kin>> {
        self.predecessor.get()
    }

    /// Another process has taken over. There is one at most; one that has died is replaced.
    pub fn add_successor(&self, kin: &Arc<Kin>) {
        *self.successor.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(kin));
    }

    fn both(&self) -> [Option<Arc<Kin>>; 2] {
        let successor = self.successor.read().unwrap_or_else(PoisonError::into_inner).clone();
        [self.predecessor.get().cloned(), successor].map(|kin| kin.filter(|kin| kin.is_there()))
    }

    /// The generations of those that are there.
    pub fn generations(&self) -> [Option<u8>; 2] {
        self.both().map(|kin| kin.map(|kin| kin.generation()))
    }

    /// The process of a generation, if it is there.
    pub fn of(&self, generation: u8) -> Option<Arc<Kin>> {
        self.both().into_iter().flatten().find(|kin| kin.generation() == generation)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

    use std::io::{Read as _, Write as _};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn listening() -> (SocketAddr, socket2::Socket) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        (listener.local_addr().unwrap(), listener.into())
    }

    #[test]
    fn sockets_pass_one_way_and_connections_the_other() {
        let (line, theirs) = Line::pair().unwrap();
        let ((one, socket), (two, other)) = (listening(), listening());
        let left = [(one, true, socket.as_fd()), (two, false, other.as_fd()), (one, true, other.as_fd())];
        let old = Kin::bequeath(line, 255, left.into_iter()).unwrap();
        assert_eq!(old.generation(), 0);

        let mut estate = Estate::take(Line(theirs), PATIENCE).unwrap();
        assert_eq!(estate.generation, 0);
        assert!(estate.listeners(one, false).is_none());
        let (address, sockets) = estate.listeners("127.0.0.1:0".parse().unwrap(), true).unwrap();
        assert_eq!((address, sockets.len()), (one, 2));
        assert_eq!(sockets[0].local_addr().unwrap().as_socket(), Some(one));
        assert!(estate.listeners(one, true).is_none());

        let before = estate.predecessor();
        assert_eq!((before.generation(), before.is_there()), (255, true));
        let new = std::thread::spawn(move || {
            before.take_over(PATIENCE).unwrap();
            before
        });
        old.wait_until_ready(PATIENCE).unwrap();
        old.give_way().unwrap();
        let before = new.join().unwrap();

        let (mut near, far) = UnixStream::pair().unwrap();
        let transport = Transport { secure: true, port: 2855 };
        let names = ProvenNames::new(["inner.example.net", "*.example.org"]);
        // A process of before may still write it so.
        let mapped: SocketAddr = format!("[::ffff:{}]:{}", two.ip(), two.port()).parse().unwrap();
        before.pass(7, mapped, transport, names.as_ref(), &far.into()).unwrap();
        let Heard::Connection(passed) = old.next().unwrap() else { panic!("no connection") };
        assert_eq!((passed.core, passed.address, passed.transport), (7, two, transport));
        assert_eq!(passed.proven, names);
        near.write_all(b"octets").unwrap();
        let mut octets = [0; 6];
        UnixStream::from(passed.stream).read_exact(&mut octets).unwrap();
        assert_eq!(&octets, b"octets");

        let (_, far) = UnixStream::pair().unwrap();
        old.pass(3, one, transport, None, &far.into()).unwrap();
        let Heard::Connection(passed) = before.next().unwrap() else { panic!("no connection") };
        assert_eq!((passed.core, passed.proven), (3, None));

        let mut asking = before.ask().unwrap();
        asking.write_all(b"octets").unwrap();
        let Heard::Question(mut question) = old.next().unwrap() else { panic!("no question") };
        question.read_exact(&mut octets).unwrap();
        assert_eq!(&octets, b"octets");

        drop(old);
        assert!(before.is_there() && before.next().is_err() && !before.is_there());
        let (_, far) = UnixStream::pair().unwrap();
        assert!(before.pass(7, two, transport, None, &far.into()).is_err());
        assert!(!before.is_there());
    }

    #[test]
    fn an_end_that_speaks_of_something_else_is_refused() {
        for script in
            [&["hello"][..], &["msrprelay 2 0"], &["msrprelay 1 0", "listener"], &["msrprelay 1 0"], &[]]
        {
            let (line, theirs) = Line::pair().unwrap();
            for text in script {
                line.say(text, None, SendFlags::empty()).unwrap();
            }
            drop(line);
            assert!(Estate::take(Line(theirs), PATIENCE).is_err(), "{script:?}");
        }
    }

    #[test]
    fn a_successor_that_says_nothing_is_not_waited_for_for_ever() {
        let (line, _theirs) = Line::pair().unwrap();
        let old = Kin::bequeath(line, 0, std::iter::empty()).unwrap();
        assert!(old.wait_until_ready(Duration::from_millis(20)).is_err());
    }
}
