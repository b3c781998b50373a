//! A byte stream to the peer: TCP, or TLS over it (RFC 4976, 9.2; RFC 4975, 14.2).
//!
//! Owns dialling, listening, the TLS settings of a client and how a connection is closed without losing its tail.
//! Invariants: TCP_NODELAY is always set; TLS is 1.3 or 1.2 with AEAD suites (all that rustls has); the name sent as SNI
//! is the name the certificate is checked against. It must not know MSRP.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite};
use futures_rustls::pki_types::pem::PemObject as _;
use futures_rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use futures_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use futures_rustls::rustls::crypto::{
    CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use futures_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use glommio::net::{TcpListener, TcpStream};

use super::ClientError;

/// rustls asks for 4 KiB at a time; one read this large from the socket feeds many of those.
const SOCKET_BUFFER_BYTES: usize = 128 << 10;
/// The port RFC 4975 recommends.
const PORT_DEFAULT: u16 = 2855;

/// A host and port to dial, as the user writes them: `host`, `host:port`, `192.0.2.1:2855`, `[2001:db8::1]:2855`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// A name or an address without brackets.
    pub host: String,
    /// The port; 2855 where none was given.
    pub port: u16,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = match text.strip_prefix('[') {
            Some(bracketed) => {
                let (host, rest) = bracketed.split_once(']').ok_or("the `]` is missing")?;
                match rest.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if rest.is_empty() => (host, None),
                    None => return Err("after `]` only `:PORT` may follow".to_owned()),
                }
            }
            None => match text.split_once(':') {
                Some((_, port)) if port.contains(':') => {
                    return Err("write IPv6 addresses in brackets".to_owned());
                }
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        if host.is_empty()
            || host.contains(|character: char| character.is_whitespace() || character == '/')
        {
            return Err("expected HOST:PORT".to_owned());
        }
        let port = match port {
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or("the port must be 1 to 65535")?,
            None => PORT_DEFAULT,
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(formatter, "[{}]:{}", self.host, self.port),
            false => write!(formatter, "{}:{}", self.host, self.port),
        }
    }
}

/// Whom a TLS client believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The system's certificate authorities.
    System,
    /// The certificates of a PEM file: authorities, or self-signed certificates themselves.
    File(PathBuf),
    /// Anybody: the connection is encrypted, but who is at the other end is not known.
    Anybody,
}

/// How a connection that we open is protected.
#[derive(Clone, Debug)]
pub enum Security {
    /// Not at all (`msrp:`).
    Plain,
    /// TLS (`msrps:`).
    Tls {
        /// Versions, suites and trust.
        config: Arc<ClientConfig>,
        /// The name to ask for and to check, where it differs from the host that is dialled.
        name: Option<ServerName<'static>>,
    },
}

impl Security {
    /// TLS with this trust, checking the certificate for `name` or else for the dialled host.
    ///
    /// # Errors
    /// Unreadable or empty certificate files, and names that are no names.
    pub fn tls(trust: &Trust, name: Option<&str>) -> Result<Self, ClientError> {
        let name = name.map(server_name).transpose()?;
        Ok(Self::Tls {
            config: client_config(trust)?,
            name,
        })
    }

    /// Whether this is TLS.
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls { .. })
    }
}

/// How connections that we accept are protected.
#[derive(Clone, Debug)]
pub enum ListenSecurity {
    /// Not at all (`msrp:`).
    Plain,
    /// TLS with this identity (`msrps:`).
    Tls(Arc<ServerConfig>),
}

/// A TLS server's settings from a certificate chain and a key in PEM files.
///
/// # Errors
/// Files that cannot be read or hold nothing usable, and a key that does not fit the certificate.
pub fn server_identity(certificate: &Path, key: &Path) -> Result<ListenSecurity, ClientError> {
    let chain = read_certificates(certificate)?;
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|error| tls_setup(key.display(), error))?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| tls_setup("TLS", error))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| tls_setup(certificate.display(), error))?;
    Ok(ListenSecurity::Tls(Arc::new(config)))
}

/// What a TLS connection turned out to be.
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
    pub async fn connect(
        target: &Target,
        security: &Security,
        limit: Duration,
    ) -> Result<Self, ClientError> {
        let socket = Socket::dial(target, limit).await?;
        let (local, peer) = (socket.stream.local_addr(), socket.stream.peer_addr());
        let (local, peer) = (
            local.map_err(io::Error::from)?,
            peer.map_err(io::Error::from)?,
        );
        let stream = match security {
            Security::Plain => Stream::Plain(socket),
            Security::Tls { config, name } => {
                let name = name.clone().map_or_else(|| server_name(&target.host), Ok)?;
                let handshake = TlsConnector::from(Arc::clone(config)).connect(name, socket);
                let tls = shaken_hands(handshake, target.to_string(), limit).await?;
                Stream::Tls(Box::new(TlsStream::Client(tls)))
            }
        };
        Ok(Self {
            stream,
            local,
            peer,
        })
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
            version: state
                .protocol_version()
                .map_or_else(String::new, |version| match version {
                    rustls::ProtocolVersion::TLSv1_2 => "TLSv1.2".to_owned(),
                    rustls::ProtocolVersion::TLSv1_3 => "TLSv1.3".to_owned(),
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
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Stream::Tls(tls) => Pin::new(tls.as_mut()).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(socket) => Pin::new(socket).poll_write(context, octets),
            Stream::Tls(tls) => Pin::new(tls.as_mut()).poll_write(context, octets),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(socket) => Pin::new(socket).poll_flush(context),
            Stream::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(context),
        }
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(socket) => Pin::new(socket).poll_close(context),
            Stream::Tls(tls) => Pin::new(tls.as_mut()).poll_close(context),
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
        let socket = TcpListener::bind(address).map_err(|error| ClientError::Listen {
            address: address.to_string(),
            source: error.into(),
        })?;
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

    /// The next connection, hands shaken within the limit.
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
        Ok(Transport {
            stream,
            local,
            peer,
        })
    }
}

/// The value, or `None` once the time is up.
pub(super) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
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
    match within(limit, handshake).await {
        Some(result) => result.map_err(|source| ClientError::Handshake { peer, source }),
        None => Err(ClientError::Handshake {
            peer,
            source: timed_out(limit),
        }),
    }
}

fn timed_out(limit: Duration) -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("no answer within {} s", limit.as_secs()),
    )
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
        Ok(Self {
            stream,
            ahead: vec![0; SOCKET_BUFFER_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
        })
    }

    async fn dial(target: &Target, limit: Duration) -> Result<Self, ClientError> {
        let mut failure = ClientError::Resolve {
            host: target.host.clone(),
            source: io::Error::new(io::ErrorKind::NotFound, "it has no address"),
        };
        for address in resolve(target).await? {
            match TcpStream::connect_timeout(address, limit).await {
                Ok(stream) => return Self::new(stream),
                Err(error) => {
                    let source = io::Error::from(error);
                    let timeout = source.kind() == io::ErrorKind::TimedOut;
                    let source = if timeout { timed_out(limit) } else { source };
                    failure = ClientError::Connect {
                        address: address.to_string(),
                        source,
                    };
                }
            }
        }
        Err(failure)
    }
}

/// The addresses of a host, looked up on the blocking thread.
async fn resolve(target: &Target) -> Result<Vec<SocketAddr>, ClientError> {
    let (host, port) = (target.host.clone(), target.port);
    let looked_up = glommio::executor()
        .spawn_blocking(move || {
            (host.as_str(), port)
                .to_socket_addrs()
                .map(Iterator::collect::<Vec<_>>)
        })
        .await;
    looked_up.map_err(|source| ClientError::Resolve {
        host: target.host.clone(),
        source,
    })
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
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, octets)
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

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn tls_setup(what: impl fmt::Display, reason: impl fmt::Display) -> ClientError {
    ClientError::TlsSetup {
        what: what.to_string(),
        reason: reason.to_string(),
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, ClientError> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| tls_setup(host, "not a host name that a certificate can cover"))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|error| tls_setup(path.display(), error))?
        .collect();
    let certificates = certificates.map_err(|error| tls_setup(path.display(), error))?;
    if certificates.is_empty() {
        return Err(tls_setup(
            path.display(),
            "no certificate in it (PEM is expected)",
        ));
    }
    Ok(certificates)
}

fn client_config(trust: &Trust) -> Result<Arc<ClientConfig>, ClientError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| tls_setup("TLS", error))?;
    let config = match trust {
        Trust::System => builder
            .with_root_certificates(system_roots()?)
            .with_no_client_auth(),
        Trust::File(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in read_certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|error| tls_setup(path.display(), error))?;
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        Trust::Anybody => {
            let verifier = Arc::new(TrustAnybody(provider()));
            builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth()
        }
    };
    Ok(Arc::new(config))
}

fn system_roots() -> Result<RootCertStore, ClientError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(tls_setup(
            "the system's certificate authorities",
            "none found (install ca-certificates, or use --ca FILE)",
        ));
    }
    Ok(roots)
}

/// Accepts every certificate, but still checks that the peer holds the key of the one it shows.
#[derive(Debug)]
struct TrustAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_written_alike() {
        for (text, host, port) in [
            ("relay.example:2856", "relay.example", 2856),
            ("relay.example", "relay.example", 2855),
            ("192.0.2.1:1", "192.0.2.1", 1),
            ("[2001:db8::1]:2855", "2001:db8::1", 2855),
            ("[::1]", "::1", 2855),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!((target.host.as_str(), target.port), (host, port));
            assert_eq!(target.to_string().parse::<Target>().unwrap(), target);
        }
    }

    #[test]
    fn nonsense_is_no_target() {
        for text in [
            "",
            ":1",
            "host:",
            "host:0",
            "host:65536",
            "2001:db8::1",
            "[::1",
            "[::1]x",
            "a b:1",
            "msrps://x:1",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
    }
}
