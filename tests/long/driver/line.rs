//! One connection of the driver: blocking, plain or over TLS, read by one thread and written by another.
//!
//! Nothing here panics because of the other side: connections are killed on purpose. Body bytes are passed on as they
//! arrive and are not kept.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use msrp_proto::head::Head;
use msrp_proto::parser::{Flag, FramePart, Parser, ParserLimits};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

/// No answer to a login or handshake takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// In order: over TLS with close_notify, then the end of the stream.
    Clean,
    /// The end of the stream without close_notify.
    Truncated,
    /// A reset; or TLS failed, or what came were no frames.
    Broken,
}

/// How this side ends one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leave {
    /// close_notify, then the end of the stream.
    InOrder,
    /// The end of the stream without close_notify.
    Truncate,
    /// RST.
    Reset,
}

pub(crate) struct Line {
    stream: TcpStream,
    tls: Option<Mutex<Connection>>,
}

/// The reading half.
pub(crate) struct Reader {
    line: Arc<Line>,
    parser: Parser,
    plain: Vec<u8>,
}

/// A step of what arrives.
pub(crate) enum Arrived<'a> {
    Head(Head, &'a [u8]),
    Body(&'a [u8]),
    End(Flag),
}

/// A connection to `relay` from one of this machine's addresses; `window`: the size of the kernel's receive buffer.
pub(crate) fn dial(relay: SocketAddr, from: Ipv4Addr, window: Option<usize>) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    if let Some(bytes) = window {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(&relay.into(), PATIENCE)?;
    Ok(socket.into())
}

impl Line {
    /// The client's part; `host`: the relay's name, in its certificate and its URIs; `tls`: over TLS.
    pub(crate) fn open(
        stream: TcpStream,
        host: &str,
        tls: Option<&Arc<ClientConfig>>,
    ) -> io::Result<(Arc<Self>, Reader)> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let tls = tls.map(|config| ClientConnection::new(Arc::clone(config), name));
        Self::over(stream, tls.transpose().map_err(io::Error::other)?.map(Connection::from))
    }

    /// The side of an endpoint that was dialled.
    pub(crate) fn accept(
        stream: TcpStream,
        tls: Option<&Arc<ServerConfig>>,
    ) -> io::Result<(Arc<Self>, Reader)> {
        let tls = tls.map(|config| ServerConnection::new(Arc::clone(config)));
        Self::over(stream, tls.transpose().map_err(io::Error::other)?.map(Connection::from))
    }

    fn over(mut stream: TcpStream, mut tls: Option<Connection>) -> io::Result<(Arc<Self>, Reader)> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut plain = Vec::new();
        if let Some(tls) = &mut tls {
            while tls.is_handshaking() {
                tls.complete_io(&mut stream)?;
            }
            // What came in one piece with the end of the handshake.
            take_plain(tls, &mut plain).map_err(io::Error::other)?;
        }
        let line = Arc::new(Self { stream, tls: tls.map(Mutex::new) });
        let parser = Parser::new(ParserLimits::default());
        Ok((Arc::clone(&line), Reader { line, parser, plain }))
    }

    /// How long a read may take; `None`: the side that ends the connection wakes the reader.
    pub(crate) fn wait_for(&self, patience: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(patience)
    }

    /// Writes all of it.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &self.tls else {
            return (&self.stream).write_all(bytes);
        };
        for part in bytes.chunks(32 << 10) {
            let mut records = Vec::with_capacity(part.len() + 128);
            {
                let mut tls = tls.lock().map_err(|_| io::Error::other("poisoned"))?;
                tls.writer().write_all(part)?;
                while tls.wants_write() {
                    tls.write_tls(&mut records)?;
                }
            }
            (&self.stream).write_all(&records)?;
        }
        Ok(())
    }

    /// Ends this side. A reset happens when the last owner drops the connection: the reader is woken to do so.
    pub(crate) fn leave(&self, how: Leave) {
        // The other side may have gone first.
        match how {
            Leave::InOrder => {
                let _ = self.close_notify();
                let _ = self.stream.shutdown(Shutdown::Write);
            }
            Leave::Truncate => {
                let _ = self.stream.shutdown(Shutdown::Both);
            }
            Leave::Reset => {
                let socket = socket2::SockRef::from(&self.stream);
                let _ = socket.set_linger(Some(Duration::ZERO));
                let _ = self.stream.shutdown(Shutdown::Read);
            }
        }
    }

    fn close_notify(&self) -> io::Result<()> {
        let Some(tls) = &self.tls else {
            return Ok(());
        };
        let mut records = Vec::new();
        {
            let mut tls = tls.lock().map_err(|_| io::Error::other("poisoned"))?;
            tls.send_close_notify();
            while tls.wants_write() {
                tls.write_tls(&mut records)?;
            }
        }
        (&self.stream).write_all(&records)
    }
}

fn take_plain(tls: &mut Connection, plain: &mut Vec<u8>) -> Result<bool, rustls::Error> {
    let state = tls.process_new_packets()?;
    let (filled, waiting) = (plain.len(), state.plaintext_bytes_to_read());
    plain.resize(filled + waiting, 0);
    let read = tls.reader().read_exact(&mut plain[filled..]);
    read.map_err(|error| rustls::Error::General(error.to_string()))?;
    Ok(state.peer_has_closed())
}

impl Reader {
    /// Receives once, at most `room` bytes, and passes on all that is complete by then.
    pub(crate) fn pump(&mut self, room: usize, mut sink: impl FnMut(Arrived<'_>)) -> Result<(), End> {
        let mut ended = None;
        if self.plain.is_empty() || self.parse(&mut sink)? == 0 {
            ended = self.receive(room).err();
            self.parse(&mut sink)?;
        }
        ended.map_or(Ok(()), Err)
    }

    /// Passes on what is complete; returns how many bytes that was.
    fn parse(&mut self, sink: &mut impl FnMut(Arrived<'_>)) -> Result<usize, End> {
        let mut at = 0;
        while let Some(step) = self.parser.step(&self.plain[at..]).map_err(|_| End::Broken)? {
            let bytes = &self.plain[at..at + step.consumed];
            at += step.consumed;
            match step.piece {
                FramePart::Blank => return Err(End::Broken),
                FramePart::Head(head) => sink(Arrived::Head(head, bytes)),
                FramePart::Body(range) => sink(Arrived::Body(&bytes[range])),
                FramePart::End(flag) => sink(Arrived::End(flag)),
            }
        }
        self.plain.drain(..at);
        Ok(at)
    }

    fn receive(&mut self, room: usize) -> Result<(), End> {
        let mut bytes = [0; 64 << 10];
        let room = room.clamp(1, bytes.len());
        let read = match (&self.line.stream).read(&mut bytes[..room]) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(_) => return Err(End::Broken),
        };
        let Some(tls) = &self.line.tls else {
            self.plain.extend_from_slice(&bytes[..read]);
            return if read == 0 { Err(End::Clean) } else { Ok(()) };
        };
        let mut tls = tls.lock().map_err(|_| End::Broken)?;
        if read == 0 {
            return Err(End::Truncated);
        }
        let mut records = &bytes[..read];
        while !records.is_empty() {
            tls.read_tls(&mut records).map_err(|_| End::Broken)?;
            if take_plain(&mut tls, &mut self.plain).map_err(|_| End::Broken)? {
                return Err(End::Clean);
            }
        }
        Ok(())
    }
}
