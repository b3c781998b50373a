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
use std::mem;
use std::net::{Shutdown, SocketAddr};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite, future};
use glommio::net::{TcpListener, TcpStream};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, SockRef, TcpKeepalive, Type};

use crate::deadline::Deadline;
use msrp_proto::address::canonical_socket;

/// Bytes the kernel may hold unsent before a socket stops being writable. It bounds what a waiting frame waits for
/// behind a chunk that is already written.
pub const UNSENT_BYTES_MAX: u32 = 128 * 1024;

/// What a peer may still send after we have closed our side: a few windows. Who goes on after that does not read.
const DRAINED_BYTES_MAX: usize = 16 << 20;

/// How often accepting may fail in a row for the sake of one connection before the core rests: what fails each time must
/// not keep it busy. Peers that are gone already do not count, or a flood of them would hold up the others.
const FAILURES_MAX: usize = 64;

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
    pub fn bind(address: SocketAddr, cores: NonZeroUsize, backlog: u16) -> Result<Self, ListenError> {
        listen_on_each(address, cores, backlog).map_err(|source| ListenError { address, source })
    }

    /// The same with sockets that another process has listened on and leaves to this one: at least one, all on `address`.
    /// Where `cores` are more, the others join them.
    pub fn inherit(
        address: SocketAddr,
        mut sockets: Vec<socket2::Socket>,
        cores: NonZeroUsize,
        backlog: u16,
    ) -> Result<Self, ListenError> {
        join(&mut sockets, address, cores, backlog).map_err(|source| ListenError { address, source })?;
        Ok(Self { address, sockets })
    }

    /// The sockets: one for each core, and more only if they were inherited from more cores.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(AsFd::as_fd)
    }

    /// The address listened on, with the port that was chosen if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Duplicates of the sockets of the core with this index, one of so many `cores`, to be given to [`Acceptor::new`] on
    /// that core: one, or more where more were inherited than there are cores.
    ///
    /// Errors: no such core, or no descriptor left.
    pub fn for_core(&self, index: usize, cores: NonZeroUsize) -> io::Result<Vec<socket2::Socket>> {
        if index >= cores.get() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no such core"));
        }
        self.sockets.iter().skip(index).step_by(cores.get()).map(socket2::Socket::try_clone).collect()
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

    let address =
        first.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an internet address"))?;
    let mut sockets = vec![first];
    join(&mut sockets, address, cores, backlog)?;
    Ok(Listeners { address, sockets })
}

/// Listens on an address that is listened on already, until there is a socket for each core.
fn join(
    sockets: &mut Vec<socket2::Socket>,
    address: SocketAddr,
    cores: NonZeroUsize,
    backlog: u16,
) -> io::Result<()> {
    while sockets.len() < cores.get() {
        let sibling = unbound(address)?;
        sibling.set_reuse_port(true)?;
        sibling.bind(&address.into())?;
        sibling.listen(backlog.into())?;
        sockets.push(sibling);
    }
    Ok(())
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
    /// This process has as many files open as it may: close one, or wait, before the next try. There may be a connection
    /// in the backlog or not ([`Acceptor::is_connection_waiting`]).
    #[error("no file descriptor left: {0}")]
    NoDescriptor(#[source] io::Error),
    /// The system has no descriptors or memory left for now, or accepting fails again and again: wait before the next
    /// try.
    #[error("out of resources: {0}")]
    Exhausted(#[source] io::Error),
    /// The listening socket is unusable.
    #[error("{0}")]
    Failed(#[source] io::Error),
}

/// One core's listening socket.
///
/// Drop it only with its executor, or after [`Listeners::stop`]: on an executor that runs on, an accept that was pending
/// stays with the kernel until the next turn, and a connection it takes in the meantime is lost.
#[derive(Debug)]
pub struct Acceptor {
    listener: Listener,
    /// Which descriptor that is: glommio does not lend it.
    number: RawFd,
}

impl Acceptor {
    /// Takes a socket that listens, see [`Listeners::for_core`]. Must be called on the executor that will accept.
    #[expect(unsafe_code, reason = "glommio takes over a listening socket only as a number")]
    pub fn new(socket: socket2::Socket) -> Self {
        let number = socket.into_raw_fd();
        // SAFETY: `into_raw_fd` gave up the ownership of an open descriptor, which the listener takes over and closes.
        let listener = unsafe { TcpListener::from_raw_fd(number) };
        Self { listener: Listener(listener), number }
    }

    /// Waits for a connection; its options are set. One that is gone before it can be accepted is skipped.
    pub async fn accept(&self) -> Result<(Socket, SocketAddr), AcceptError> {
        let mut failures = 0;
        loop {
            match self.listener.0.accept().await {
                // Fails only if the peer is gone already.
                Ok(stream) => {
                    if let (Ok(peer), Ok(socket)) = (stream.peer_addr(), Socket::new(stream)) {
                        return Ok((socket, canonical_socket(peer)));
                    }
                }
                Err(error) => {
                    let error = io::Error::from(error);
                    if let Some(refusal) = refusal(error.raw_os_error()) {
                        return Err(refusal(error));
                    }
                    // What is not gone may fail in the same way again.
                    failures += usize::from(error.kind() != io::ErrorKind::ConnectionAborted);
                    if failures >= FAILURES_MAX {
                        return Err(AcceptError::Exhausted(error));
                    }
                }
            }
            // Those that are gone may be many, and others wait for this core.
            crate::breathe().await;
        }
    }
}

impl Acceptor {
    /// Whether a connection waits now. An accept that found no descriptor does not tell: the kernel asks for that first.
    #[expect(unsafe_code, reason = "glommio's listener lends its descriptor not at all")]
    pub fn is_connection_waiting(&self) -> bool {
        // SAFETY: the listener owns the descriptor and closes it when dropped, which the borrow forbids while it lasts.
        let listener = unsafe { BorrowedFd::borrow_raw(self.number) };
        let mut look = [PollFd::from_borrowed_fd(listener, PollFlags::IN)];
        poll(&mut look, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }
}

struct Listener(TcpListener);

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0.local_addr())
    }
}

/// `None` where the error belongs to the one connection that was to be accepted (accept(2) lists them).
fn refusal(code: Option<i32>) -> Option<fn(io::Error) -> AcceptError> {
    const EBADF: i32 = 9;
    const ENOMEM: i32 = 12;
    const EINVAL: i32 = 22;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOTSOCK: i32 = 88;
    const ENOBUFS: i32 = 105;
    match code {
        Some(EINVAL) => Some(|_| AcceptError::Stopped),
        Some(EMFILE) => Some(AcceptError::NoDescriptor),
        Some(ENFILE | ENOBUFS | ENOMEM) => Some(AcceptError::Exhausted),
        Some(EBADF | ENOTSOCK) | None => Some(AcceptError::Failed),
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
        if options.domain()? == Domain::UNIX {
            // A connection that another process has deciphered.
            return Ok(Self { stream: RefCell::new(stream) });
        }
        options.set_tcp_nodelay(true)?;
        options.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
        options.set_tcp_keepalive(&KEEPALIVE)?;
        Ok(Self { stream: RefCell::new(stream) })
    }

    /// Takes over a connection that another executor gave up; see [`Socket::duplicate`].
    #[expect(unsafe_code, reason = "glommio takes over a stream only as a number")]
    pub fn adopt(descriptor: OwnedFd) -> io::Result<Self> {
        // SAFETY: `into_raw_fd` gives up the ownership of an open descriptor, which the stream takes over and closes.
        let stream = unsafe { TcpStream::from_raw_fd(descriptor.into_raw_fd()) };
        Self::new(stream)
    }

    /// The connection once more, for another executor. Whoever goes on with it must be the only one: drop this socket
    /// without having shut it down, which leaves the connection open.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        descriptor(&self.stream.borrow()).try_clone_to_owned()
    }

    /// Connects to `address`; `timeout` must not be zero. Fails with [`io::ErrorKind::TimedOut`] when it is over.
    pub async fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(address, timeout).await?;
        Self::new(stream)
    }

    /// Waits for bytes from the peer and shows them to `take`, behind those `kept` from before. `take` is called once, may
    /// change the bytes (decrypt them in place), and returns how many from the front are used up; the others become
    /// the new `kept`. `None` is the end of the stream; `kept` is then what was cut off.
    ///
    /// `scratch` is the core's one read buffer: borrowed only while bytes are at hand, never while waiting. What is not
    /// taken up by `kept` bounds one read. `take` must not use `scratch` itself.
    ///
    /// Does not wait while bytes are at hand: who reads in a loop must yield. Dropping the future loses nothing. Errors with [`io::ErrorKind::InvalidInput`] if `kept` leaves no room.
    pub async fn read_with<R>(
        &self,
        scratch: &RefCell<Vec<u8>>,
        kept: &mut Vec<u8>,
        mut take: impl FnMut(&mut [u8]) -> (usize, R),
    ) -> io::Result<Option<R>> {
        let mut was_polled = false;
        poll_fn(|cx| {
            if mem::replace(&mut was_polled, true) {
                crate::has_looked();
            }
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
            let bytes = scratch.get_mut(..filled).unwrap_or_default();
            let (used, result) = take(bytes);
            keep(kept, bytes.get(used..).unwrap_or_default());
            Poll::Ready(Ok(Some(result)))
        })
        .await
    }

    /// Writes what the socket takes at once, waiting until it takes some. Returns how many bytes that were.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, bytes)).await
    }

    /// Writes all `bytes`, waiting as often as needed. A future dropped halfway has written an unknown part of them.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.write(bytes).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = bytes.get(written..).unwrap_or_default();
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

    /// Closing it will reset the connection, so that the kernel does not go on with it either.
    pub fn reset_when_closed(&self) -> io::Result<()> {
        let stream = self.stream.borrow();
        SockRef::from(&descriptor(&stream)).set_linger(Some(Duration::ZERO))
    }

    /// Closes in order: tells the peer, then throws away what it still sends until it closes as well, `deadline` is
    /// over, or it has sent so much that it cannot be listening. Closing a socket with bytes unread makes the kernel send a reset, which can destroy what was written last
    /// before the peer reads it.
    ///
    /// Nobody else may be reading. Returns whether the peer closed; the socket is of no more use either way.
    pub async fn close_gracefully(&self, scratch: &RefCell<Vec<u8>>, deadline: Duration) -> bool {
        let drained = async {
            let mut left = DRAINED_BYTES_MAX;
            loop {
                let mut kept = Vec::new();
                match self.read_with(scratch, &mut kept, |bytes| (bytes.len(), bytes.len())).await {
                    Ok(Some(read)) if read < left => left -= read,
                    Ok(None) => return true,
                    Ok(Some(_)) | Err(_) => return false,
                }
                crate::breathe().await;
            }
        };
        let too_late = async {
            Deadline::after(deadline).await;
            false
        };
        let closed = self.shutdown_write().is_ok() && future::or(drained, too_late).await;
        // Not left to the drop: the ring may hold on to the socket a little longer than we do.
        let _ = self.shutdown_both();
        closed
    }

    /// The peer's address and port.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(canonical_socket(self.stream.borrow().peer_addr()?))
    }

    /// Our address and port.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(canonical_socket(self.stream.borrow().local_addr()?))
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

#[expect(unsafe_code, reason = "glommio's stream lends its descriptor only as a number")]
fn descriptor(stream: &TcpStream) -> BorrowedFd<'_> {
    // SAFETY: the stream owns the descriptor and closes it when dropped, which the borrow forbids while it lasts.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
mod tests {
    use std::cell::Cell;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::rc::Rc;

    use super::*;

    const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    const LONG: Duration = Duration::from_secs(120);

    fn run<T>(test: impl Future<Output = T>) -> T {
        let guarded = async {
            let late = async {
                Deadline::after(LONG * 2).await;
                panic!("the test hangs");
            };
            future::or(test, late).await
        };
        crate::run_on_executor(None, guarded).unwrap()
    }

    fn cores(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    fn scratch() -> RefCell<Vec<u8>> {
        RefCell::new(vec![0; 64 * 1024])
    }

    /// A pair of connected sockets: the accepted one and the dialled one.
    async fn pair() -> (Socket, Socket) {
        let listeners = Listeners::bind(LOOPBACK, cores(1), 16).unwrap();
        let acceptor = Acceptor::new(listeners.for_core(0, cores(1)).unwrap().remove(0));
        let dialled = Socket::connect(listeners.address(), LONG).await.unwrap();
        let (accepted, peer) = acceptor.accept().await.unwrap();
        assert_eq!(peer, dialled.local_addr().unwrap());
        (accepted, dialled)
    }

    /// An accepted socket, and a plain client that is driven from a thread of its own.
    async fn accepted_from_std() -> (Socket, std::net::TcpStream) {
        let listeners = Listeners::bind(LOOPBACK, cores(1), 16).unwrap();
        let acceptor = Acceptor::new(listeners.for_core(0, cores(1)).unwrap().remove(0));
        let client = std::net::TcpStream::connect(listeners.address()).unwrap();
        (acceptor.accept().await.unwrap().0, client)
    }

    async fn read_to_end(socket: &Socket, scratch: &RefCell<Vec<u8>>) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        let mut kept = Vec::new();
        let take = |all: &mut Vec<u8>, bytes: &mut [u8]| {
            all.extend_from_slice(bytes);
            (bytes.len(), ())
        };
        while socket.read_with(scratch, &mut kept, |bytes| take(&mut all, bytes)).await?.is_some() {}
        Ok(all)
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
    }

    #[test]
    fn all_cores_listen_on_the_port_that_was_chosen() {
        let listeners = Listeners::bind(LOOPBACK, cores(3), 16).unwrap();
        assert_ne!(listeners.address().port(), 0);
        for core in 0..3 {
            let socket = listeners.for_core(core, cores(3)).unwrap().remove(0);
            let bound = socket.local_addr().unwrap().as_socket().unwrap();
            assert_eq!(bound, listeners.address());
            assert!(socket.is_listener().unwrap());
        }
        assert!(listeners.for_core(3, cores(3)).is_err());
    }

    #[test]
    fn connections_are_spread_over_all_cores() {
        let listeners = Listeners::bind(LOOPBACK, cores(2), 256).unwrap();
        let clients: Vec<_> =
            (0..128).map(|_| std::net::TcpStream::connect(listeners.address()).unwrap()).collect();
        let mut accepted = [0; 2];
        for (core, count) in accepted.iter_mut().enumerate() {
            let socket = listeners.for_core(core, cores(3)).unwrap().remove(0);
            while socket.accept().is_ok() {
                *count += 1;
            }
        }
        assert_eq!(accepted.iter().sum::<usize>(), clients.len());
        // By chance alone once in 2^127 runs.
        assert!(accepted.iter().all(|count| *count > 0), "{accepted:?}");
    }

    #[test]
    fn occupied_port_is_an_error_that_names_the_address() {
        let ours = Listeners::bind(LOOPBACK, cores(2), 16).unwrap();
        for count in [1, 2] {
            let error = Listeners::bind(ours.address(), cores(count), 16).unwrap_err();
            assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
            assert!(error.to_string().contains(&ours.address().to_string()));
        }
        let foreign = std::net::TcpListener::bind(LOOPBACK).unwrap();
        assert!(Listeners::bind(foreign.local_addr().unwrap(), cores(2), 16).is_err());
    }

    #[test]
    fn port_is_free_again_while_old_connections_linger() {
        let ours = Listeners::bind(LOOPBACK, cores(2), 16).unwrap();
        let mut client = std::net::TcpStream::connect(ours.address()).unwrap();
        // We close first, so TIME_WAIT is at our end.
        ours.stop();
        let address = ours.address();
        drop(ours);
        let _ = client.read(&mut [0]);
        let again = Listeners::bind(address, cores(2), 16).unwrap();
        let mut client = std::net::TcpStream::connect(address).unwrap();
        let accepted =
            (0..2).find_map(|core| again.for_core(core, cores(2)).unwrap()[0].accept().ok()).unwrap().0;
        drop(accepted);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop((client, again));
        Listeners::bind(address, cores(1), 16).unwrap();
    }

    #[test]
    fn both_families_listen_on_one_port() {
        let any_v4 = Listeners::bind((Ipv4Addr::UNSPECIFIED, 0).into(), cores(2), 16).unwrap();
        let port = any_v4.address().port();
        match Listeners::bind((Ipv6Addr::UNSPECIFIED, port).into(), cores(2), 16) {
            Ok(any_v6) => assert_eq!(any_v6.address().port(), port),
            // A host without IPv6.
            Err(error) => assert_ne!(error.source.kind(), io::ErrorKind::AddrInUse),
        }
    }

    #[test]
    fn connections_wait_while_a_core_is_started_again() {
        let listeners = Listeners::bind(LOOPBACK, cores(1), 16).unwrap();
        let core = listeners.for_core(0, cores(1)).unwrap().remove(0);
        run(async {
            let acceptor = Acceptor::new(core);
            let _client = std::net::TcpStream::connect(listeners.address()).unwrap();
            acceptor.accept().await.unwrap();
            // A pending accept, too, must not take the socket down with it.
            assert!(future::poll_once(acceptor.accept()).await.is_none());
        });
        let _client = std::net::TcpStream::connect(listeners.address()).unwrap();
        run(async {
            let acceptor = Acceptor::new(listeners.for_core(0, cores(1)).unwrap().remove(0));
            acceptor.accept().await.unwrap();
        });
    }

    #[test]
    fn stopping_ends_a_pending_accept_and_refuses_newcomers() {
        let listeners = Rc::new(Listeners::bind(LOOPBACK, cores(2), 16).unwrap());
        run(async {
            let acceptor = Acceptor::new(listeners.for_core(1, cores(2)).unwrap().remove(0));
            let stop = Rc::clone(&listeners);
            let stopper = glommio::spawn_local(async move { stop.stop() });
            let error = acceptor.accept().await.unwrap_err();
            assert!(matches!(error, AcceptError::Stopped), "{error}");
            stopper.await;
            let error = Socket::connect(listeners.address(), LONG).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        });
    }

    #[test]
    fn errors_of_accept_are_told_apart() {
        let of = |code| refusal(Some(code)).map(|refusal| refusal(io::Error::from_raw_os_error(code)));
        assert!(matches!(of(24), Some(AcceptError::NoDescriptor(_))), "EMFILE");
        assert!(matches!(of(23), Some(AcceptError::Exhausted(_))), "ENFILE");
        assert!(of(103).is_none(), "ECONNABORTED concerns one connection");
        assert!(matches!(of(9), Some(AcceptError::Failed(_))), "EBADF");
    }

    #[test]
    fn options_are_set_on_both_sides() {
        run(async {
            // Accepted at once, accepted after waiting, dialled: three ways for a descriptor to come to be.
            let listeners = Listeners::bind(LOOPBACK, cores(1), 16).unwrap();
            let acceptor = Acceptor::new(listeners.for_core(0, cores(1)).unwrap().remove(0));
            let address = listeners.address();
            let dialler = glommio::spawn_local(async move { Socket::connect(address, LONG).await });
            let (waited_for, _) = acceptor.accept().await.unwrap();
            let dialled = dialler.await.unwrap();
            let _client = std::net::TcpStream::connect(address).unwrap();
            let (at_once, _) = acceptor.accept().await.unwrap();

            for socket in [waited_for, dialled, at_once] {
                let stream = socket.stream.borrow();
                let descriptor = descriptor(&stream);
                let options = SockRef::from(&descriptor);
                assert!(options.tcp_nodelay().unwrap());
                assert_eq!(options.tcp_notsent_lowat().unwrap(), UNSENT_BYTES_MAX);
                assert!(options.keepalive().unwrap());
                assert_eq!(options.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
                assert!(closes_on_exec(descriptor.as_raw_fd()));
            }
            let listening = listeners.for_core(0, cores(1)).unwrap().remove(0);
            assert!(closes_on_exec(listening.as_raw_fd()));
        });
    }

    fn closes_on_exec(descriptor: i32) -> bool {
        const O_CLOEXEC: u32 = 0o2_000_000;
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).unwrap();
        let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).unwrap();
        u32::from_str_radix(flags.trim(), 8).unwrap() & O_CLOEXEC != 0
    }

    #[test]
    fn bytes_flow_both_ways_at_once() {
        const TOTAL: usize = 5_000_000;
        run(async {
            let (accepted, dialled) = pair().await;
            let data = Rc::new(pattern(TOTAL));
            // One scratch buffer serves both readers, as on a core.
            let scratch = Rc::new(scratch());
            let tasks: Vec<_> = [accepted, dialled]
                .into_iter()
                .map(|socket| {
                    let socket = Rc::new(socket);
                    let (writer, data) = (Rc::clone(&socket), Rc::clone(&data));
                    let writing = glommio::spawn_local(async move {
                        for piece in data.chunks(300_000) {
                            writer.write_all(piece).await.unwrap();
                        }
                        writer.shutdown_write().unwrap();
                    });
                    let scratch = Rc::clone(&scratch);
                    let reading =
                        glommio::spawn_local(async move { read_to_end(&socket, &scratch).await.unwrap() });
                    (writing, reading)
                })
                .collect();
            for (writing, reading) in tasks {
                writing.await;
                assert!(reading.await == *data);
            }
        });
    }

    #[test]
    fn what_is_not_used_up_comes_again_in_front() {
        run(async {
            let (socket, mut client) = accepted_from_std().await;
            let sender = std::thread::spawn(move || {
                for piece in pattern(100_000).chunks(777) {
                    client.write_all(piece).unwrap();
                }
            });
            let scratch = scratch();
            let (mut all, mut kept) = (Vec::new(), Vec::new());
            // Takes multiples of 1000 only.
            while let Some(used) = socket
                .read_with(&scratch, &mut kept, |bytes| {
                    let used = bytes.len() / 1000 * 1000;
                    all.extend_from_slice(&bytes[..used]);
                    // What is behind `used` must come again as it is left here.
                    (used, used)
                })
                .await
                .unwrap()
            {
                assert!(kept.len() < 1000);
                assert!(used % 1000 == 0);
            }
            sender.join().unwrap();
            assert!(kept.is_empty() && kept.capacity() == 0);
            assert!(all == pattern(100_000));
        });
    }

    #[test]
    fn changes_made_in_place_are_kept() {
        run(async {
            let (socket, mut client) = accepted_from_std().await;
            client.write_all(b"ab").unwrap();
            let scratch = scratch();
            let mut kept = b"_".to_vec();
            socket
                .read_with(&scratch, &mut kept, |bytes| {
                    bytes.make_ascii_uppercase();
                    (1, ())
                })
                .await
                .unwrap()
                .unwrap();
            assert!(b"AB".starts_with(&kept));
            assert!(!kept.is_empty());
        });
    }

    #[test]
    fn waiting_reader_does_not_hold_the_scratch_buffer() {
        run(async {
            let (accepted, dialled) = pair().await;
            let scratch = scratch();
            let mut kept = Vec::new();
            {
                let read = accepted.read_with(&scratch, &mut kept, |bytes| (bytes.len(), ()));
                let mut read = Box::pin(read);
                assert!(future::poll_once(&mut read).await.is_none());
                assert!(scratch.try_borrow_mut().is_ok());
            }
            // The read was given up: nothing is lost.
            dialled.write_all(b"after all").await.unwrap();
            dialled.shutdown_both().unwrap();
            assert_eq!(read_to_end(&accepted, &scratch).await.unwrap(), b"after all");
        });
    }

    #[test]
    fn read_without_room_is_an_error_and_not_the_end() {
        run(async {
            let (socket, mut client) = accepted_from_std().await;
            client.write_all(b"x").unwrap();
            let scratch = RefCell::new(vec![0; 4]);
            let mut kept = b"full".to_vec();
            let read = socket.read_with(&scratch, &mut kept, |bytes| (bytes.len(), ()));
            assert_eq!(read.await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
            assert_eq!(kept, b"full");
        });
    }

    #[test]
    fn writer_waits_while_the_peer_does_not_read() {
        run(async {
            let (accepted, dialled) = pair().await;
            let accepted = Rc::new(accepted);
            let written = Rc::new(Cell::new(false));
            let (socket, flag) = (Rc::clone(&accepted), Rc::clone(&written));
            let writing = glommio::spawn_local(async move {
                socket.write_all(&pattern(30_000_000)).await.unwrap();
                flag.set(true);
                socket.shutdown_write().unwrap();
            });
            // The other direction is not held up by the writer that waits.
            dialled.write_all(b"ping").await.unwrap();
            let scratch = scratch();
            let mut kept = Vec::new();
            let got =
                accepted.read_with(&scratch, &mut kept, |bytes| (bytes.len(), bytes.len())).await.unwrap();
            assert!(got.is_some());
            assert!(!written.get());
            let all = read_to_end(&dialled, &scratch).await.unwrap();
            assert!(all == pattern(30_000_000));
            writing.await;
        });
    }

    #[test]
    fn shutdown_ends_a_pending_read_and_a_pending_write() {
        run(async {
            let (accepted, _dialled) = pair().await;
            let accepted = Rc::new(accepted);
            let reader = Rc::clone(&accepted);
            let reading = glommio::spawn_local(async move { read_to_end(&reader, &scratch()).await });
            let writer = Rc::clone(&accepted);
            let writing = glommio::spawn_local(async move { writer.write_all(&pattern(30_000_000)).await });
            // Both are waiting once the other tasks have had their turns.
            for _ in 0..10 {
                glommio::executor().yield_task_queue_now().await;
            }
            accepted.shutdown_both().unwrap();
            assert_eq!(reading.await.unwrap(), b"");
            assert!(writing.await.is_err());
        });
    }

    #[test]
    fn graceful_close_does_not_cut_off_what_was_written_last() {
        run(async {
            let (socket, mut client) = accepted_from_std().await;
            // What the client sends is never read by us: closing at once would reset the connection.
            client.write_all(&pattern(50_000)).unwrap();
            let receiver = std::thread::spawn(move || {
                let mut all = Vec::new();
                client.read_to_end(&mut all).unwrap();
                all
            });
            socket.write_all(&pattern(200_000)).await.unwrap();
            assert!(socket.close_gracefully(&scratch(), LONG).await);
            drop(socket);
            assert!(receiver.join().unwrap() == pattern(200_000));
        });
    }

    #[test]
    fn graceful_close_ends_at_the_deadline() {
        run(async {
            let (accepted, dialled) = pair().await;
            let scratch = scratch();
            assert!(!accepted.close_gracefully(&scratch, Duration::from_millis(10)).await);
            // And the peer knows.
            assert_eq!(read_to_end(&dialled, &scratch).await.unwrap(), b"");
        });
    }

    #[test]
    fn connecting_to_a_closed_port_is_refused() {
        let address = {
            let listener = std::net::TcpListener::bind(LOOPBACK).unwrap();
            listener.local_addr().unwrap()
        };
        let error = run(Socket::connect(address, LONG)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn connecting_gives_up_after_the_timeout() {
        // A backlog that is full: the kernel drops further SYNs.
        let listener = Listeners::bind(LOOPBACK, cores(1), 0).unwrap();
        let address = listener.address();
        run(async {
            let mut fill = Vec::new();
            let error = loop {
                match Socket::connect(address, Duration::from_millis(200)).await {
                    Ok(socket) => fill.push(socket),
                    Err(error) => break error,
                }
                assert!(fill.len() < 100);
            };
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        });
    }
}
