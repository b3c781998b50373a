//! TCP sockets: listening on every core, options, and reading and writing without a buffer per connection.
//!
//! Owns every socket option of the process and the order in which listening sockets come to be. Invariants:
//! - every socket that listens belongs to one core ([`Listeners::for_core`]): one that nobody accepts from would swallow
//!   its share of the clients;
//! - a port that somebody else listens on is an error at boot, never a silent sharing;
//! - a waiting [`Socket`] holds no buffer, and none of its borrows outlives a poll;
//! - no descriptor is inherited by a child process.
//!
//! The only file with `unsafe`: glommio takes and lends descriptors as numbers. It must not know TLS or MSRP.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd};
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite, future};
use glommio::net::{TcpListener, TcpStream};
use glommio::timer::Timer;
use socket2::{Domain, Protocol, SockRef, TcpKeepalive, Type};

/// Octets the kernel may hold unsent before a socket stops being writable. It bounds what a waiting frame waits for
/// behind a chunk that is already written.
pub const UNSENT_BYTES_MAX: u32 = 128 * 1024;

/// A dead peer is found after 60 s + 4 * 20 s; a minute also keeps the address bindings of most NATs alive.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(20))
    .with_retries(4);

/// An address that cannot be listened on. The operator must act.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct ListenError {
    /// The address asked for.
    pub address: SocketAddr,
    /// Why not: in use, not allowed, not an address of this host.
    #[source]
    pub source: io::Error,
}

/// The listening sockets of one address, one for each core, all on the same port. The kernel spreads connections over
/// them.
///
/// A core gets a duplicate of its socket, so connections that arrive while a core is being started again wait in the
/// backlog instead of being refused.
#[derive(Debug)]
pub struct Listeners {
    address: SocketAddr,
    sockets: Vec<socket2::Socket>,
}

impl Listeners {
    /// Listens on `address` with one socket for each of `cores`; port 0 lets the system choose a port. Each socket holds
    /// up to `backlog` connections that are not yet accepted (the system may lower it: `net.core.somaxconn`).
    ///
    /// The first socket listens *without* SO_REUSEPORT and thereby alone, atomically: a port on which anybody listens,
    /// with SO_REUSEPORT or without, is refused, even to two processes that start at the same moment. Only then is
    /// it opened to its siblings. Trying the port first with another socket would leave a gap between the two.
    /// SO_REUSEADDR admits the port while old connections linger in TIME_WAIT, and nothing more.
    pub fn bind(
        address: SocketAddr,
        cores: NonZeroUsize,
        backlog: u16,
    ) -> Result<Self, ListenError> {
        listen_on_each(address, cores, backlog).map_err(|source| ListenError { address, source })
    }

    /// The address listened on, with the port that was chosen if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A duplicate of the socket of the core with this index, to be given to [`Acceptor::new`] on that core.
    ///
    /// Errors: no such core, or no descriptor left.
    pub fn for_core(&self, index: usize) -> io::Result<socket2::Socket> {
        self.sockets
            .get(index)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no such core"))?
            .try_clone()
    }

    /// Stops listening on all cores: pending [`Acceptor::accept`]s end with [`AcceptError::Stopped`], and new connections
    /// are refused at once, though duplicates of the sockets live on.
    pub fn stop(&self) {
        for socket in &self.sockets {
            // It can only fail where the socket listens no more.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

fn listen_on_each(address: SocketAddr, cores: NonZeroUsize, backlog: u16) -> io::Result<Listeners> {
    let first = unbound(address)?;
    first.bind(&address.into())?;
    first.listen(backlog.into())?;
    first.set_reuse_port(true)?;

    let address = first
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::other("not an internet address"))?;
    let mut sockets = vec![first];
    while sockets.len() < cores.get() {
        let sibling = unbound(address)?;
        sibling.set_reuse_port(true)?;
        sibling.bind(&address.into())?;
        sibling.listen(backlog.into())?;
        sockets.push(sibling);
    }
    Ok(Listeners { address, sockets })
}

/// A socket that is not inherited by children and does not block.
fn unbound(address: SocketAddr) -> io::Result<socket2::Socket> {
    let kind = Type::STREAM.nonblocking();
    let socket = socket2::Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]:2855` and `0.0.0.0:2855` are two addresses, whatever the system's default says.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Why no connection was accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The listening socket was stopped.
    #[error("no longer listening")]
    Stopped,
    /// Descriptors or memory are used up for now: wait before the next try, the connection is still in the backlog.
    #[error("out of resources: {0}")]
    Exhausted(#[source] io::Error),
    /// The listening socket is unusable.
    #[error("{0}")]
    Failed(#[source] io::Error),
}

/// One core's listening socket.
#[derive(Debug)]
pub struct Acceptor {
    listener: Listener,
}

impl Acceptor {
    /// Takes a socket that listens, see [`Listeners::for_core`]. Must be called on the executor that will accept.
    #[expect(
        unsafe_code,
        reason = "glommio takes over a listening socket only as a number"
    )]
    pub fn new(socket: socket2::Socket) -> Self {
        // SAFETY: `into_raw_fd` gives up the ownership of an open descriptor, which the listener takes over and closes.
        let listener = unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) };
        Self {
            listener: Listener(listener),
        }
    }

    /// Waits for a connection; its options are set. One that is gone before it can be accepted is skipped.
    pub async fn accept(&self) -> Result<(Socket, SocketAddr), AcceptError> {
        loop {
            let stream = match self.listener.0.accept().await {
                Ok(stream) => stream,
                Err(error) => match refusal(error.into()) {
                    Some(error) => return Err(error),
                    None => continue,
                },
            };
            // Fails only if the peer is gone already.
            if let (Ok(peer), Ok(socket)) = (stream.peer_addr(), Socket::new(stream)) {
                return Ok((socket, peer));
            }
        }
    }
}

struct Listener(TcpListener);

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0.local_addr())
    }
}

/// `None` where the error belongs to the one connection that was to be accepted (accept(2) lists them).
fn refusal(error: io::Error) -> Option<AcceptError> {
    const ENOMEM: i32 = 12;
    const EINVAL: i32 = 22;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const EBADF: i32 = 9;
    const ENOTSOCK: i32 = 88;
    const ENOBUFS: i32 = 105;
    match error.raw_os_error() {
        Some(EINVAL) => Some(AcceptError::Stopped),
        Some(EMFILE | ENFILE | ENOBUFS | ENOMEM) => Some(AcceptError::Exhausted(error)),
        Some(EBADF | ENOTSOCK) | None => Some(AcceptError::Failed(error)),
        Some(_) => None,
    }
}

/// A connected TCP socket, shared by one task that reads and one that writes.
///
/// Reading and writing wait each in its own way, so the two tasks do not disturb each other; two tasks must not both
/// read, or both write.
#[derive(Debug)]
pub struct Socket {
    stream: RefCell<TcpStream>,
}

impl Socket {
    /// Takes a connected stream and sets its options: no delay of small frames, a bound on what lies unsent in the kernel,
    /// keepalive, not inherited by children.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        let options = descriptor(&stream);
        let options = SockRef::from(&options);
        // glommio accepts without CLOEXEC where a connection is waiting already.
        options.set_cloexec(true)?;
        options.set_tcp_nodelay(true)?;
        options.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
        options.set_tcp_keepalive(&KEEPALIVE)?;
        Ok(Self {
            stream: RefCell::new(stream),
        })
    }

    /// Connects to `address`; `timeout` must not be zero. Fails with [`io::ErrorKind::TimedOut`] when it is over.
    pub async fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(address, timeout).await?;
        Self::new(stream)
    }

    /// Waits for octets from the peer and shows them to `take`, behind those `kept` from before. `take` is called once, may
    /// change the octets (decrypt them in place), and returns how many from the front are used up; the others become
    /// the new `kept`. `None` is the end of the stream; `kept` is then what was cut off.
    ///
    /// `scratch` is the core's one read buffer: borrowed only while octets are at hand, never while waiting. What is not
    /// taken up by `kept` bounds one read. `take` must not use `scratch` itself.
    ///
    /// Dropping the future loses nothing. Errors with [`io::ErrorKind::InvalidInput`] if `kept` leaves no room.
    pub async fn read_with<R>(
        &self,
        scratch: &RefCell<Vec<u8>>,
        kept: &mut Vec<u8>,
        mut take: impl FnMut(&mut [u8]) -> (usize, R),
    ) -> io::Result<Option<R>> {
        poll_fn(|cx| {
            let mut scratch = scratch.borrow_mut();
            let (front, room) = match scratch.split_at_mut_checked(kept.len()) {
                Some((front, room)) if !room.is_empty() => (front, room),
                // A read into no room would look like the end of the stream.
                _ => return Poll::Ready(Err(io::ErrorKind::InvalidInput.into())),
            };
            let read = {
                let mut stream = self.stream.borrow_mut();
                ready!(Pin::new(&mut *stream).poll_read(cx, room))?
            };
            if read == 0 {
                return Poll::Ready(Ok(None));
            }
            front.copy_from_slice(kept);
            let filled = front.len() + read;
            let octets = scratch.get_mut(..filled).unwrap_or_default();
            let (used, result) = take(octets);
            keep(kept, octets.get(used..).unwrap_or_default());
            Poll::Ready(Ok(Some(result)))
        })
        .await
    }

    /// Writes what the socket takes at once, waiting until it takes some. Returns how many octets that were.
    pub async fn write(&self, octets: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, octets)).await
    }

    /// Writes all `octets`, waiting as often as needed. A future dropped halfway has written an unknown part of them.
    pub async fn write_all(&self, mut octets: &[u8]) -> io::Result<()> {
        while !octets.is_empty() {
            let written = self.write(octets).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            octets = octets.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Tells the peer that nothing more will be written, once what was written is sent.
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    /// Ends both directions. A task that reads sees the end of the stream, one that writes an error.
    pub fn shutdown_both(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Both)
    }

    /// Closes in order: tells the peer, then throws away what it still sends until it closes as well or `deadline` is
    /// over. Closing a socket with octets unread makes the kernel send a reset, which can destroy what was written last
    /// before the peer reads it.
    ///
    /// Nobody else may be reading. Returns whether the peer closed; the socket is of no more use either way.
    pub async fn close_gracefully(&self, scratch: &RefCell<Vec<u8>>, deadline: Duration) -> bool {
        let drained = async {
            loop {
                let mut kept = Vec::new();
                match self
                    .read_with(scratch, &mut kept, |octets| (octets.len(), ()))
                    .await
                {
                    Ok(Some(())) => glommio::executor().yield_if_needed().await,
                    Ok(None) => return true,
                    Err(_) => return false,
                }
            }
        };
        let too_late = async {
            Timer::new(deadline).await;
            false
        };
        let closed = self.shutdown_write().is_ok() && future::or(drained, too_late).await;
        // Not left to the drop: the ring may hold on to the socket a little longer than we do.
        let _ = self.shutdown_both();
        closed
    }

    /// The peer's address and port.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.stream.borrow().peer_addr()?)
    }

    /// Our address and port.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.stream.borrow().local_addr()?)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let stream = self.stream.borrow();
        SockRef::from(&descriptor(&stream)).shutdown(how)
    }
}

/// An empty rest gives its memory back: most connections are idle most of the time.
fn keep(kept: &mut Vec<u8>, rest: &[u8]) {
    if rest.is_empty() {
        *kept = Vec::new();
    } else {
        kept.clear();
        kept.extend_from_slice(rest);
    }
}

#[expect(
    unsafe_code,
    reason = "glommio's stream lends its descriptor only as a number"
)]
fn descriptor(stream: &TcpStream) -> BorrowedFd<'_> {
    // SAFETY: the stream owns the descriptor and closes it when dropped, which the borrow forbids while it lasts.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}
