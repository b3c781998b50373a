//! One connection of the benchmark, driven by readiness, with TLS in large pieces.
//!
//! What is measured is the relay, so a benchmark must not be the slower side: it reads and writes many records a system
//! call and decrypts where they lie, by the same [`TlsConn`] the relay uses. Invariants: the buffers that bytes are
//! received into are the thread's, an idle connection holds none of them; a frame is written whole before the next one
//! is asked for.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use msrp_client::ClientError;
use msrp_proto::head::Head;
use msrp_proto::parser::{Flag, FramePart, Parser, ParserLimits};
use msrp_tls::{Details, TlsConn, TlsError};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream};

use crate::outcome::Failure;

/// What is encrypted and given to the kernel in one piece.
pub(crate) const FLUSH_BYTES: usize = 128 << 10;
/// What is asked of the kernel at once.
const READ_BYTES: usize = 256 << 10;
/// After so many bytes the other connections of this thread have their turn.
const TURN_BYTES: usize = 256 << 10;
/// How long the peer may take to close its side after we have closed ours.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        incoming: vec![0; READ_BYTES].into_boxed_slice(),
        plain: Vec::with_capacity(READ_BYTES),
    });
}

struct Scratch {
    incoming: Box<[u8]>,
    plain: Vec<u8>,
}

/// What happens on a connection.
pub(crate) trait Party {
    /// Everything given so far is written: gives more, or nothing as long as there is nothing to say.
    fn produce(&mut self, out: &mut Outlet<'_>) -> Result<(), Failure>;
    /// A frame begins.
    fn head(&mut self, head: &Head, bytes: &[u8]) -> Result<(), Failure>;
    /// The next bytes of its body.
    fn body(&mut self, bytes: &[u8]) -> Result<(), Failure>;
    /// It ends.
    fn end(&mut self, flag: Flag) -> Result<(), Failure>;
    /// Whether nothing is awaited any more.
    fn done(&self) -> bool;
}

/// Where a [`Party`] says what it has to say.
pub(crate) struct Outlet<'a> {
    tls: Option<&'a mut TlsConn>,
    out: &'a mut Vec<u8>,
}

impl Outlet<'_> {
    /// Sends bytes, in records of their own where there is TLS.
    pub(crate) fn send(&mut self, plain: &[u8]) -> Result<(), Failure> {
        match &mut self.tls {
            Some(tls) => tls.encrypt(plain, self.out).map_err(broken),
            None => {
                self.out.extend_from_slice(plain);
                Ok(())
            }
        }
    }

    /// Whether there is enough for one system call.
    pub(crate) fn is_full(&self) -> bool {
        self.out.len() >= FLUSH_BYTES
    }
}

/// A connection with or without TLS.
pub(crate) struct Line {
    stream: TcpStream,
    tls: Option<Box<TlsConn>>,
    parser: Parser,
    /// The beginning of a record.
    records: Vec<u8>,
    /// Plaintext that no whole step of the parser could be made of.
    rest: Vec<u8>,
    out: Vec<u8>,
    written: usize,
}

/// What reading brought.
enum Received {
    Nothing,
    Bytes(usize),
    End,
}

impl Line {
    /// Dials, from this address if one is given, and shakes hands.
    pub(crate) async fn connect(
        to: SocketAddr,
        from: Option<IpAddr>,
        tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
        limit: Duration,
    ) -> Result<Self, Failure> {
        let dialled = async {
            let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            if let Some(from) = from {
                socket.bind(SocketAddr::new(from, 0))?;
            }
            socket.connect(to).await
        };
        let failed = |source| ClientError::Connect { address: to.to_string(), source };
        let stream = tokio::time::timeout(limit, dialled)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(failed)?;
        let tls = tls.map(|(config, name)| TlsConn::client(config, name)).transpose().map_err(broken)?;
        Self::begin(stream, tls, limit).await
    }

    /// Shakes hands on an accepted connection.
    pub(crate) async fn accepted(
        stream: TcpStream,
        tls: Option<Arc<ServerConfig>>,
        limit: Duration,
    ) -> Result<Self, Failure> {
        let tls = tls.map(TlsConn::server).transpose().map_err(broken)?;
        Self::begin(stream, tls, limit).await
    }

    async fn begin(stream: TcpStream, tls: Option<TlsConn>, limit: Duration) -> Result<Self, Failure> {
        stream.set_nodelay(true).map_err(ClientError::Io)?;
        let mut line = Self {
            stream,
            tls: tls.map(Box::new),
            parser: Parser::new(ParserLimits::default()),
            records: Vec::new(),
            rest: Vec::new(),
            out: Vec::new(),
            written: 0,
        };
        let peer = line.stream.peer_addr().map_err(ClientError::Io)?;
        let shaken = tokio::time::timeout(limit, line.shake_hands()).await;
        let failed = |source| ClientError::Handshake { peer: peer.to_string(), source };
        shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
        Ok(line)
    }

    /// Our address.
    pub(crate) fn local(&self) -> Result<SocketAddr, Failure> {
        Ok(self.stream.local_addr().map_err(ClientError::Io)?)
    }

    /// Whether there is TLS.
    pub(crate) const fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// What the handshake agreed on.
    pub(crate) fn details(&self) -> Option<Details> {
        self.tls.as_ref().map(|tls| tls.describe())
    }

    /// Lets the party have its way until it is done and everything it said is written.
    pub(crate) async fn drive(&mut self, party: &mut impl Party) -> Result<(), Failure> {
        // What came together with the end of the handshake.
        let early = hand_out(&mut self.parser, &self.rest, party)?;
        self.rest.drain(..early);
        let mut turn = 0;
        loop {
            let mut moved = 0;
            if self.unsent().is_empty() {
                self.out.clear();
                self.written = 0;
                party.produce(&mut Outlet { tls: self.tls.as_deref_mut(), out: &mut self.out })?;
            }
            moved += self.write_some()?;
            if self.unsent().is_empty() && party.done() {
                return Ok(());
            }
            match self.receive(|parser, plain| hand_out(parser, plain, party))? {
                Received::Nothing => {}
                Received::Bytes(bytes) => moved += bytes,
                Received::End => {
                    return Err(ClientError::ConnectionLost("before everything had come".to_owned()).into());
                }
            }
            turn += moved;
            if moved == 0 {
                turn = 0;
                let interest = if self.unsent().is_empty() {
                    Interest::READABLE
                } else {
                    Interest::READABLE | Interest::WRITABLE
                };
                self.stream.ready(interest).await.map_err(ClientError::Io)?;
            } else if turn > TURN_BYTES {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    /// Whether the peer has not closed the connection, as far as what it sent can tell.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.receive(ignore), Ok(Received::Nothing | Received::Bytes(_)))
    }

    /// Closes in order: close_notify, end of stream, and what the peer still sends is read.
    pub(crate) async fn close(mut self) -> Result<(), Failure> {
        if let Some(tls) = &mut self.tls {
            tls.close_notify(&mut self.out);
        }
        let closed = async {
            while !self.unsent().is_empty() {
                if self.write_some()? == 0 {
                    self.stream.writable().await.map_err(ClientError::Io)?;
                }
            }
            SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write).map_err(ClientError::Io)?;
            loop {
                match self.receive(ignore) {
                    Ok(Received::Nothing) => self.stream.readable().await.map_err(ClientError::Io)?,
                    Ok(Received::Bytes(_)) => {}
                    // The peer may well have closed first.
                    Ok(Received::End) | Err(_) => return Ok(()),
                }
            }
        };
        tokio::time::timeout(CLOSE_LIMIT, closed).await.unwrap_or(Ok(()))
    }

    async fn shake_hands(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        // A client's first flight.
        tls.receive(&mut [], &mut self.rest, &mut self.out).map_err(io::Error::other)?;
        loop {
            while !self.unsent().is_empty() {
                if self.write_some().map_err(io::Error::other)? == 0 {
                    self.stream.writable().await?;
                }
            }
            if self.tls.as_ref().is_none_or(|tls| tls.handshake_done()) {
                return Ok(());
            }
            match self.receive(keep).map_err(io::Error::other)? {
                Received::Nothing => self.stream.readable().await?,
                Received::Bytes(_) => {}
                Received::End => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    fn unsent(&self) -> &[u8] {
        self.out.get(self.written..).unwrap_or_default()
    }

    fn write_some(&mut self) -> Result<usize, Failure> {
        if self.unsent().is_empty() {
            return Ok(0);
        }
        match self.stream.try_write(self.unsent()) {
            Ok(bytes) => {
                self.written += bytes;
                Ok(bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(ClientError::Io(error).into()),
        }
    }

    /// Receives and decrypts once. What `take` does not use up comes again in front of what is received next.
    fn receive(
        &mut self,
        take: impl FnOnce(&mut Parser, &[u8]) -> Result<usize, Failure>,
    ) -> Result<Received, Failure> {
        SCRATCH.with_borrow_mut(|scratch| {
            let kept = self.records.len();
            let Some((front, room)) = scratch.incoming.split_at_mut_checked(kept) else {
                return Err(broken("a record without an end"));
            };
            front.copy_from_slice(&self.records);
            let bytes = match self.stream.try_read(room) {
                Ok(0) => return Ok(Received::End),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
                Err(error) => return Err(ClientError::Io(error).into()),
            };
            let plain = &mut scratch.plain;
            plain.clear();
            plain.append(&mut self.rest);
            let incoming = scratch.incoming.get_mut(..kept + bytes).unwrap_or_default();
            let used = match &mut self.tls {
                Some(tls) => tls.receive(incoming, plain, &mut self.out).map_err(broken)?,
                None => {
                    plain.extend_from_slice(incoming);
                    incoming.len()
                }
            };
            self.records.clear();
            self.records.extend_from_slice(incoming.get(used..).unwrap_or_default());
            let taken = take(&mut self.parser, plain)?;
            self.rest.extend_from_slice(plain.get(taken..).unwrap_or_default());
            Ok(Received::Bytes(bytes))
        })
    }
}

/// Gives the party all that has come; returns how many bytes that used up.
fn hand_out(parser: &mut Parser, plain: &[u8], party: &mut impl Party) -> Result<usize, Failure> {
    let mut at = 0;
    loop {
        let input = plain.get(at..).unwrap_or_default();
        let Some(step) = parser.step(input).map_err(ClientError::Framing)? else {
            return Ok(at);
        };
        let bytes = input.get(..step.consumed).unwrap_or_default();
        match step.piece {
            FramePart::Head(head) => party.head(&head, bytes)?,
            FramePart::Body(_) => party.body(bytes)?,
            FramePart::End(flag) => party.end(flag)?,
            FramePart::Blank => {}
        }
        at += step.consumed;
    }
}

/// Leaves everything for later.
fn keep(_: &mut Parser, _: &[u8]) -> Result<usize, Failure> {
    Ok(0)
}

/// Takes everything and ignores it.
fn ignore(_: &mut Parser, plain: &[u8]) -> Result<usize, Failure> {
    Ok(plain.len())
}

fn broken(error: impl Into<TlsTrouble>) -> Failure {
    ClientError::Io(io::Error::other(error.into().0)).into()
}

struct TlsTrouble(String);

impl From<TlsError> for TlsTrouble {
    fn from(error: TlsError) -> Self {
        Self(format!("TLS: {error}"))
    }
}

impl From<&'static str> for TlsTrouble {
    fn from(what: &'static str) -> Self {
        Self(format!("TLS: {what}"))
    }
}
