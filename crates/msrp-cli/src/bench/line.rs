//! One connection of the benchmark, driven by readiness, with TLS in large pieces.
//!
//! The relay is what is measured, so a benchmark must not be the slower side: it reads and writes many records per
//! system call and decrypts in place, with the same [`TlsConn`] as the relay. Invariants: receive buffers belong to the
//! thread, and an idle connection holds none of them; a frame is written whole before the next one is asked for.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use msrp_client::{ClientError, Endpoint, random_token};
use msrp_proto::head::Head;
use msrp_proto::parser::{Flag, FramePart, Parser, ParserLimits};
use msrp_tls::{Details, TlsConn, TlsError};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream};

use super::web::{Door, Web};
use crate::outcome::Failure;

/// Bytes that are encrypted and given to the kernel at once.
pub(crate) const FLUSH_BYTES: usize = 128 << 10;
/// Bytes asked of the kernel at once.
const READ_BYTES: usize = 256 << 10;
/// After so many bytes the other connections of this thread get their turn.
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

/// One end of the conversation on a connection.
pub(crate) trait Party {
    /// Everything produced so far is written: produces more, or nothing as long as there is nothing to send.
    fn produce(&mut self, out: &mut Outlet<'_>) -> Result<(), Failure>;
    /// A frame begins.
    fn head(&mut self, head: &Head, bytes: &[u8]) -> Result<(), Failure>;
    /// The next bytes of its body.
    fn body(&mut self, bytes: &[u8]) -> Result<(), Failure>;
    /// It ends.
    fn end(&mut self, flag: Flag) -> Result<(), Failure>;
    /// Whether it awaits nothing more.
    fn done(&self) -> bool;
}

/// Where a [`Party`] writes.
pub(crate) struct Outlet<'a> {
    tls: Option<&'a mut TlsConn>,
    web: Option<&'a mut Web>,
    out: &'a mut Vec<u8>,
}

impl Outlet<'_> {
    /// Sends a frame, in records of its own where there is TLS, and in a message where there is WebSocket.
    pub(crate) fn send(&mut self, frame: &[u8]) -> Result<(), Failure> {
        self.send_part(frame, true)
    }

    /// Sends a part of a frame; what follows goes on with it unless it is the last.
    pub(crate) fn send_part(&mut self, part: &[u8], is_last: bool) -> Result<(), Failure> {
        let bytes = match &mut self.web {
            Some(web) => web.fragment(part, is_last),
            None => part,
        };
        encrypt(self.tls.as_deref_mut(), bytes, self.out)
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
    /// Behind the upgrade, where it is a WebSocket.
    web: Option<Box<Web>>,
    parser: Parser,
    /// The beginning of a record.
    records: Vec<u8>,
    /// Plaintext that is too short for a whole step of the parser.
    rest: Vec<u8>,
    out: Vec<u8>,
    written: usize,
}

/// The result of a read.
enum Received {
    Nothing,
    Bytes(usize),
    End,
}

impl Line {
    /// Dials, from this address if one is given, shakes hands, and goes through the door, if there is one.
    pub(crate) async fn connect(
        to: SocketAddr,
        from: Option<IpAddr>,
        tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
        door: Option<&Door>,
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
        let mut line = Self::begin(stream, tls, limit).await?;
        if let Some(door) = door {
            let opened = tokio::time::timeout(limit, line.upgrade(door)).await;
            let failed = |source| ClientError::Upgrade { relay: door.host.clone(), source };
            opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
        }
        Ok(line)
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
            web: None,
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
    fn local(&self) -> Result<SocketAddr, Failure> {
        Ok(self.stream.local_addr().map_err(ClientError::Io)?)
    }

    /// A URI of our own.
    pub(crate) fn mint_uri(&self) -> Result<String, Failure> {
        match self.web {
            Some(_) => Ok(Endpoint::mint_web_uri()),
            None => Ok(Endpoint::mint_uri(self.local()?, self.tls.is_some())),
        }
    }

    /// What the handshake agreed on.
    pub(crate) fn details(&self) -> Option<Details> {
        self.tls.as_ref().map(|tls| tls.describe())
    }

    /// Runs the party until it is done and all it produced is written.
    pub(crate) async fn drive(&mut self, party: &mut impl Party) -> Result<(), Failure> {
        // Bytes that came together with the end of the handshake.
        let early = hand_out(&mut self.parser, &self.rest, party)?;
        self.rest.drain(..early);
        let mut turn = 0;
        loop {
            let mut moved = 0;
            if self.unsent().is_empty() {
                self.out.clear();
                self.written = 0;
                party.produce(&mut Outlet {
                    tls: self.tls.as_deref_mut(),
                    web: self.web.as_deref_mut(),
                    out: &mut self.out,
                })?;
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

    /// Whether the peer has not closed the connection, as far as its bytes show.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.receive(ignore), Ok(Received::Nothing | Received::Bytes(_)))
    }

    /// Closes in order: close_notify, end of stream, and reading what the peer still sends.
    pub(crate) async fn close(mut self) -> Result<(), Failure> {
        if self.web.is_some() {
            encrypt(self.tls.as_deref_mut(), &Web::close(), &mut self.out)?;
        }
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
                    // The peer may have closed first.
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
            self.write_all().await?;
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

    /// Asks for the upgrade to WebSocket, and waits for the answer.
    async fn upgrade(&mut self, door: &Door) -> io::Result<()> {
        let (asked, request) = door.ask();
        encrypt(self.tls.as_deref_mut(), &request, &mut self.out).map_err(io::Error::other)?;
        self.write_all().await?;
        loop {
            if let Some(head) = asked.judge(&self.rest).map_err(io::Error::other)? {
                let mut web = Box::new(Web::new(random_token(8).as_bytes()));
                let mut ahead = self.rest.split_off(head);
                web.take(&mut ahead, 0).map_err(io::Error::other)?;
                self.rest = ahead;
                self.web = Some(web);
                return Ok(());
            }
            match self.receive(keep).map_err(io::Error::other)? {
                Received::Nothing => self.stream.readable().await?,
                Received::Bytes(_) => {}
                Received::End => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    async fn write_all(&mut self) -> io::Result<()> {
        while !self.unsent().is_empty() {
            if self.write_some().map_err(io::Error::other)? == 0 {
                self.stream.writable().await?;
            }
        }
        Ok(())
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

    /// Receives and decrypts once. Bytes that `take` does not use come again, before the next ones.
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
            let rest = plain.len();
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
            if let Some(web) = &mut self.web {
                let came = web.take(plain, rest)?;
                encrypt(self.tls.as_deref_mut(), &came.answer, &mut self.out)?;
                if came.is_over {
                    return Ok(Received::End);
                }
            }
            let taken = take(&mut self.parser, plain)?;
            self.rest.extend_from_slice(plain.get(taken..).unwrap_or_default());
            Ok(Received::Bytes(bytes))
        })
    }
}

/// Appends what goes to the kernel.
fn encrypt(tls: Option<&mut TlsConn>, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
    match tls {
        _ if plain.is_empty() => Ok(()),
        Some(tls) => tls.encrypt(plain, out).map_err(broken),
        None => {
            out.extend_from_slice(plain);
            Ok(())
        }
    }
}

/// Gives the party all that has come; returns how many bytes it used.
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
