//! The other processes of this relay during an upgrade: the predecessor and the successor.
//!
//! A connection is passed on if its first request names a session of the other process, and opened if a session of one
//! process sends to a session of the other. The two are then relays to each other, without TLS between.
//!
//! Invariants: a message from the other process may be malformed; each side sees the other's end; a packet never waits
//! for room on a data core. Must not know what a session is.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use engine::sock::Socket;

use super::line::{GREETING, Line, PACKET_BYTES_MAX, UpgradeError, is_secure, word};
use msrp_proto::address::parse_socket;
use msrp_relay_core::{CoreId, ProvenNames, Transport};

/// A connection for a session of the other process.
#[derive(Debug)]
pub struct Passed {
    /// The position of the session's home core.
    pub core: u16,
    /// The peer's address.
    pub address: SocketAddr,
    /// How the peer is connected.
    pub transport: Transport,
    /// The names of the relay at its other end, if it has proven to be one.
    pub proven: Option<ProvenNames>,
    /// Its plaintext, both ways.
    pub stream: OwnedFd,
}

/// A message from the other process.
#[derive(Debug)]
pub enum Heard {
    /// A connection for a session of this one.
    Connection(Passed),
    /// An operator's question: a request and its answer, as at the admin socket.
    Question(UnixStream),
}

/// The other process: the predecessor or the successor. The first process has number 0.
#[derive(Debug)]
pub struct Generation {
    number: u8,
    line: Line,
    gone: AtomicBool,
    sessions: AtomicU64,
}

impl Generation {
    pub(super) fn new(number: u8, line: Line) -> Self {
        Self { number, line, gone: AtomicBool::new(false), sessions: AtomicU64::new(0) }
    }

    /// The number of its sessions when it was last asked; 0 once it is gone.
    pub fn sessions(&self) -> u64 {
        if self.is_there() { self.sessions.load(Ordering::Relaxed) } else { 0 }
    }

    /// Notes the number that it reports.
    pub fn note_sessions(&self, sessions: u64) {
        self.sessions.store(sessions, Ordering::Relaxed);
    }

    /// The generation in the session ids that it mints.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Whether it, and its sessions, may still be there.
    pub fn is_there(&self) -> bool {
        !self.gone.load(Ordering::Relaxed)
    }

    /// Passes a connection on. Does not wait.
    ///
    /// # Errors
    /// If the other process has ended, or is so far behind that this would have to wait.
    pub fn pass(&self, connection: &Passed) -> io::Result<()> {
        let Passed { core, address, transport, proven, stream } = connection;
        let mut text = format!("connection {core} {address} {} {}", transport.port, word(transport.secure));
        for name in proven.iter().flat_map(ProvenNames::iter) {
            // More names than any relay has; without the rest it is a relay with fewer names.
            if text.len() + 1 + name.len() > PACKET_BYTES_MAX {
                break;
            }
            text.push(' ');
            text.push_str(name);
        }
        let passed = self.line.say_at_once(&text, stream.as_fd());
        if passed.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock) {
            self.gone.store(true, Ordering::Relaxed);
        }
        passed
    }

    /// Opens a stream to ask the other process what an admin socket answers. A process of an earlier version closes it.
    ///
    /// # Errors
    /// If the other process has ended, or is so far behind that this would have to wait.
    pub fn ask(&self) -> io::Result<UnixStream> {
        let (near, far) = UnixStream::pair()?;
        self.line.say_at_once("question", far.as_fd())?;
        Ok(near)
    }

    /// Waits for the next message of the other process. Skips those that it does not understand.
    ///
    /// # Errors
    /// If the other process has ended.
    pub fn next(&self) -> Result<Heard, UpgradeError> {
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

    fn wait_for(&self, word: &str, patience: Duration) -> Result<(), UpgradeError> {
        self.line.set_patience(Some(patience))?;
        let heard = self.line.hear();
        self.line.set_patience(None)?;
        match heard?.0 {
            said if said == word => Ok(()),
            other => Err(UpgradeError::Garbled(other)),
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
    Some((core, address, Transport { secure, port, websocket: false }))
}

// -- what the old process says -------------------------------------------------------------------------

impl Generation {
    /// Hands the listening sockets to the process at the other end. `number` is this process's.
    ///
    /// # Errors
    /// If that process has ended.
    pub fn hand_off<'a>(
        line: Line,
        number: u8,
        listeners: impl Iterator<Item = (SocketAddr, bool, BorrowedFd<'a>)>,
    ) -> Result<Self, UpgradeError> {
        line.say(&format!("{GREETING} {number}"), None)?;
        for (address, secure, socket) in listeners {
            line.say(&format!("listener {address} {}", word(secure)), Some(socket))?;
        }
        line.say("end", None)?;
        Ok(Self::new(number.wrapping_add(1), line))
    }

    /// Waits until the successor listens.
    ///
    /// # Errors
    /// If it ends instead, or takes longer than `patience`.
    pub fn wait_until_ready(&self, patience: Duration) -> Result<(), UpgradeError> {
        self.wait_for("ready", patience)
    }

    /// Tells the successor to accept by itself.
    ///
    /// # Errors
    /// If the successor has ended.
    pub fn let_accept(&self) -> Result<(), UpgradeError> {
        Ok(self.line.say("yours", None)?)
    }
}

// -- what the new process says -------------------------------------------------------------------------

impl Generation {
    /// Reports that this process listens, and waits until the predecessor accepts no more.
    ///
    /// # Errors
    /// If the predecessor has ended, so that this process is alone.
    pub fn take_over(&self, patience: Duration) -> Result<(), UpgradeError> {
        let taken = self
            .line
            .say("ready", None)
            .map_err(UpgradeError::from)
            .and_then(|()| self.wait_for("yours", patience));
        if taken.is_err() {
            self.gone.store(true, Ordering::Relaxed);
        }
        taken
    }
}

// -- all of them -----------------------------------------------------------------------------------

/// The other processes of this relay, as all cores know them.
#[derive(Debug, Default)]
pub struct Generations {
    predecessor: OnceLock<Arc<Generation>>,
    /// Exchanged when a successor takes over, and when it has died: the lock is held only to copy a pointer.
    successor: RwLock<Option<Arc<Generation>>>,
}

impl Generations {
    /// With the predecessor, if there is one.
    pub fn after(predecessor: Option<Generation>) -> Self {
        let generations = Self::default();
        if let Some(other) = predecessor {
            let _ = generations.predecessor.set(Arc::new(other));
        }
        generations
    }

    /// The predecessor, if there ever was one.
    pub fn predecessor(&self) -> Option<&Arc<Generation>> {
        self.predecessor.get()
    }

    /// A successor has taken over. There is one at most; a dead one is replaced.
    pub fn add_successor(&self, other: &Arc<Generation>) {
        *self.successor.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(other));
    }

    fn both(&self) -> [Option<Arc<Generation>>; 2] {
        let successor = self.successor.read().unwrap_or_else(PoisonError::into_inner).clone();
        [self.predecessor.get().cloned(), successor].map(|other| other.filter(|other| other.is_there()))
    }

    /// The generations of the live ones.
    pub fn numbers(&self) -> [Option<u8>; 2] {
        self.both().map(|other| other.map(|other| other.number()))
    }

    /// A connection to a core of another process, in plain text: for a peer at `address`, which uses, or would use,
    /// `transport`, and has proven these names.
    pub(in crate::runtime) fn reach(
        &self,
        home: CoreId,
        address: SocketAddr,
        transport: Transport,
        proven: Option<ProvenNames>,
    ) -> io::Result<Socket> {
        let other = self.of(home.generation()).ok_or(io::ErrorKind::NotFound)?;
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let ours = Socket::adopt(ours.into())?;
        other.pass(&Passed { core: home.index, address, transport, proven, stream: theirs.into() })?;
        Ok(ours)
    }

    /// The process of a generation, if it is live.
    pub fn of(&self, generation: u8) -> Option<Arc<Generation>> {
        self.both().into_iter().flatten().find(|other| other.number() == generation)
    }
}
