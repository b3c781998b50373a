//! A byte stream to the peer: TCP, or TLS over it (RFC 4976, 9.2; RFC 4975, 14.2).
//!
//! Owns dialling, listening, the handshake and closing a connection without losing its last bytes. Invariants:
//! TCP_NODELAY is always set; every step has a time limit. Must not know MSRP.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite};
use futures_rustls::pki_types::CertificateDer;
use futures_rustls::rustls::ProtocolVersion;
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use glommio::net::{TcpListener, TcpStream};

use super::overdue::Due;
use super::tls::{ListenSecurity, Security, server_name};
use super::websocket::WebSocket;
use super::{ClientError, Stage, Target};

/// rustls asks for 4 KiB at a time; one read of this size from the socket serves many of those.
const SOCKET_BUFFER_BYTES: usize = 128 << 10;

/// What the TLS handshake agreed on.
#[derive(Clone, Debug)]
pub struct TlsFacts {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: String,
    /// The suite's IANA name.
    pub suite: String,
    /// The key exchange group.
    pub group: String,
    /// The peer's chain, its own certificate first; empty for clients without one.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// An established byte stream; read and written through [`AsyncRead`] and [`AsyncWrite`].
///
/// `close` sends close_notify where there is TLS, then shuts down the sending side only.
#[derive(Debug)]
pub struct Transport {
    stream: Stream,
    /// Where it is one.
    websocket: Option<Box<WebSocket>>,
    local: SocketAddr,
    peer: SocketAddr,
}

#[derive(Debug)]
enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Transport {
    /// Resolves, dials each address in turn, and shakes hands. The time limit is for each of these steps.
    ///
    /// # Errors
    /// Names without addresses, addresses that do not answer, certificates that are not trusted.
    pub async fn connect(target: &Target, security: &Security, limit: Duration) -> Result<Self, ClientError> {
        let socket = Socket::dial(target, limit).await?;
        let (local, peer) = (socket.stream.local_addr(), socket.stream.peer_addr());
        let (local, peer) = (local.map_err(io::Error::from)?, peer.map_err(io::Error::from)?);
        let stream = match security {
            Security::Plain => Stream::Plain(socket),
            Security::Tls { config, name } => {
                let name = name.clone().map_or_else(|| server_name(&target.host), Ok)?;
                let handshake = TlsConnector::from(Arc::clone(config)).connect(name, socket);
                let tls = shaken_hands(handshake, target.to_string(), limit).await?;
                Stream::Tls(Box::new(TlsStream::Client(tls)))
            }
        };
        let mut transport = Self { stream, websocket: None, local, peer };
        if let Some(path) = &target.web {
            let at = target.to_string();
            let upgrade = WebSocket::upgrade(&mut transport.stream, &at, path);
            let upgraded = within(limit, Stage::Connecting, upgrade).await;
            let upgraded = upgraded.unwrap_or_else(|| Err(timed_out(limit)));
            let upgraded = upgraded.and_then(|upgraded| upgraded.map_err(io::Error::other));
            let failed = |source| ClientError::Upgrade { relay: at, source };
            transport.websocket = Some(Box::new(upgraded.map_err(failed)?));
        }
        Ok(transport)
    }

    /// Whether it carries messages of WebSocket.
    pub const fn is_websocket(&self) -> bool {
        self.websocket.is_some()
    }

    /// Our address on this connection.
    pub const fn local(&self) -> SocketAddr {
        self.local
    }

    /// The other side's address.
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether this is TLS.
    pub const fn is_tls(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// Version, suite and certificates; `None` on a plain connection.
    pub fn tls_facts(&self) -> Option<TlsFacts> {
        let Stream::Tls(tls) = &self.stream else {
            return None;
        };
        let (_, state) = tls.get_ref();
        Some(TlsFacts {
            version: state.protocol_version().map_or_else(String::new, |version| match version {
                ProtocolVersion::TLSv1_2 => "TLSv1.2".to_owned(),
                ProtocolVersion::TLSv1_3 => "TLSv1.3".to_owned(),
                other => format!("{other:?}"),
            }),
            suite: state
                .negotiated_cipher_suite()
                .map_or_else(String::new, |suite| format!("{:?}", suite.suite())),
            group: state
                .negotiated_key_exchange_group()
                .map_or_else(String::new, |group| format!("{:?}", group.name())),
            certificates: state
                .peer_certificates()
                .unwrap_or_default()
                .iter()
                .map(|one| one.clone().into_owned())
                .collect(),
        })
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, websocket, .. } = self.get_mut();
        match websocket {
            Some(websocket) => websocket.poll_read(stream, context, buffer),
            None => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, websocket, .. } = self.get_mut();
        match websocket {
            Some(websocket) => websocket.poll_write(stream, context, bytes),
            None => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, websocket, .. } = self.get_mut();
        match websocket {
            Some(websocket) => websocket.poll_flush(stream, context),
            None => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, websocket, .. } = self.get_mut();
        match websocket {
            Some(websocket) => websocket.poll_close(stream, context),
            None => Pin::new(stream).poll_close(context),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_flush(context),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(context),
        }
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_close(context),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_close(context),
        }
    }
}

/// A listening socket for an endpoint that is dialled directly.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    security: ListenSecurity,
}

impl Listener {
    /// Listens; port 0 lets the kernel choose one.
    ///
    /// # Errors
    /// Addresses that are taken or not ours.
    pub fn bind(address: SocketAddr, security: ListenSecurity) -> Result<Self, ClientError> {
        let socket = TcpListener::bind(address)
            .map_err(|error| ClientError::Listen { address: address.to_string(), source: error.into() })?;
        Ok(Self { socket, security })
    }

    /// The address, with the port the kernel chose.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn address(&self) -> Result<SocketAddr, ClientError> {
        Ok(self.socket.local_addr().map_err(io::Error::from)?)
    }

    /// Whether peers speak TLS to it.
    pub const fn is_tls(&self) -> bool {
        matches!(self.security, ListenSecurity::Tls(_))
    }

    /// The next connection, after a handshake within the limit.
    ///
    /// # Errors
    /// A failed handshake ends that connection only: accept again.
    pub async fn accept(&self, limit: Duration) -> Result<Transport, ClientError> {
        let stream = self.socket.accept().await.map_err(io::Error::from)?;
        let peer = stream.peer_addr().map_err(io::Error::from)?;
        let local = stream.local_addr().map_err(io::Error::from)?;
        let socket = Socket::new(stream)?;
        let stream = match &self.security {
            ListenSecurity::Plain => Stream::Plain(socket),
            ListenSecurity::Tls(config) => {
                let handshake = TlsAcceptor::from(Arc::clone(config)).accept(socket);
                let tls = shaken_hands(handshake, peer.to_string(), limit).await?;
                Stream::Tls(Box::new(TlsStream::Server(tls)))
            }
        };
        Ok(Transport { stream, websocket: None, local, peer })
    }
}

/// The value, or `None` once the time is up. The limit is noted for other threads, as of this stage.
pub(super) async fn within<T>(limit: Duration, stage: Stage, future: impl Future<Output = T>) -> Option<T> {
    let _due = Due::within(limit, stage);
    let value = async { Some(future.await) };
    let alarm = async {
        glommio::timer::sleep(limit).await;
        None
    };
    futures_lite::future::or(value, alarm).await
}

async fn shaken_hands<T>(
    handshake: impl Future<Output = io::Result<T>>,
    peer: String,
    limit: Duration,
) -> Result<T, ClientError> {
    match within(limit, Stage::Connecting, handshake).await {
        Some(result) => result.map_err(|source| ClientError::Handshake { peer, source }),
        None => Err(ClientError::Handshake { peer, source: timed_out(limit) }),
    }
}

fn timed_out(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", limit.as_secs()))
}

/// A TCP stream that reads ahead, so that small reads above it cost no system call each.
#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    ahead: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Socket {
    fn new(stream: TcpStream) -> Result<Self, ClientError> {
        stream.set_nodelay(true).map_err(io::Error::from)?;
        Ok(Self { stream, ahead: vec![0; SOCKET_BUFFER_BYTES].into_boxed_slice(), start: 0, end: 0 })
    }

    async fn dial(target: &Target, limit: Duration) -> Result<Self, ClientError> {
        let mut failure = ClientError::Resolve {
            host: target.host.clone(),
            source: io::Error::new(io::ErrorKind::NotFound, "it has no address"),
        };
        for address in resolve(target, limit).await? {
            let _due = Due::within(limit, Stage::Connecting);
            match TcpStream::connect_timeout(address, limit).await {
                Ok(stream) => return Self::new(stream),
                Err(error) => {
                    let source = io::Error::from(error);
                    let timeout = source.kind() == io::ErrorKind::TimedOut;
                    let source = if timeout { timed_out(limit) } else { source };
                    failure = ClientError::Connect { address: address.to_string(), source };
                }
            }
        }
        Err(failure)
    }
}

/// The addresses of a host, looked up on the blocking thread.
async fn resolve(target: &Target, limit: Duration) -> Result<Vec<SocketAddr>, ClientError> {
    let (host, port) = (target.host.clone(), target.port);
    let looking_up = glommio::executor()
        .spawn_blocking(move || (host.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>));
    let looked_up = within(limit, Stage::Connecting, looking_up).await;
    let looked_up = looked_up.unwrap_or_else(|| Err(timed_out(limit)));
    looked_up.map_err(|source| ClientError::Resolve { host: target.host.clone(), source })
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.start == this.end {
            if buffer.len() >= this.ahead.len() {
                return Pin::new(&mut this.stream).poll_read(context, buffer);
            }
            this.start = 0;
            this.end = 0;
            this.end = ready!(Pin::new(&mut this.stream).poll_read(context, &mut this.ahead))?;
        }
        let length = buffer.len().min(this.end - this.start);
        buffer[..length].copy_from_slice(&this.ahead[this.start..this.start + length]);
        this.start += length;
        Poll::Ready(Ok(length))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}
