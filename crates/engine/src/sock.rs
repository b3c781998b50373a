//! TCP sockets: listening on every core, options, and reading and writing without a buffer per connection.
//!
//! Owns every socket option of the process and the order in which listening sockets are made. Invariants:
//! - every listening socket belongs to one core ([`Listeners::for_core`]): a socket that no core accepts from would
//!   swallow its share of the clients;
//! - a port that another process listens on is an error at boot, never a silent sharing;
//! - a waiting [`Socket`] holds no buffer, and none of its borrows outlives a poll;
//! - no descriptor is inherited by a child process.
//!
//! Whether a socket is ready is seen by `look`. Must not know TLS or MSRP.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::net::{Shutdown, SocketAddr};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Poll, ready};
use std::time::Duration;

use futures_lite::future;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_error;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, acceptfrom_with, getpeername, recv, send};
use socket2::{Domain, Protocol, SockRef, TcpKeepalive, Type};

use crate::deadline::Deadline;
use crate::look::{Descriptor, Sharing};
use msrp_proto::address::canonical_socket;

/// How many unsent bytes the kernel may hold before a socket stops being writable. It bounds how long a waiting frame
/// waits behind a chunk that is already written.
pub const UNSENT_BYTES_MAX: u32 = 128 * 1024;

/// What a peer may still send after we have closed our side: a few windows. A peer that sends more does not read.
const DRAINED_BYTES_MAX: usize = 16 << 20;

/// How often accepting may fail in a row because of single connections before the core rests: an error that comes each
/// time must not keep the core busy. Connections that their peers have already closed do not count, or a flood of them
/// would hold up the others.
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
    /// Listens on `address` with one socket for each of `cores`. With port 0 the system chooses a port. Each socket
    /// holds up to `backlog` connections that are not yet accepted (the system may lower it: `net.core.somaxconn`).
    ///
    /// The first socket listens *without* SO_REUSEPORT, and so it alone holds the port, atomically. Another process on
    /// the port, with SO_REUSEPORT or without, makes this fail, even if two processes start at the same moment. Only
    /// then may the sibling sockets join. Trying the port first with another socket would leave a gap between the two.
    /// SO_REUSEADDR only admits the port while old connections linger in TIME_WAIT.
    pub fn bind(address: SocketAddr, cores: NonZeroUsize, backlog: u16) -> Result<Self, ListenError> {
        listen_on_each(address, cores, backlog).map_err(|source| ListenError { address, source })
    }

    /// The same with sockets that another process has listened on and leaves to this one: at least one, all on
    /// `address`. If there are more `cores` than sockets, new sockets join them.
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

    /// Duplicates of the sockets of core `index` of `cores`, for [`Acceptor::new`] on that core: one, or more if this
    /// process inherited more sockets than it has cores.
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
            // Fails only if the socket does not listen.
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

/// Adds sockets to an address that already has some, until each core has one.
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
        // `[::]:2855` and `0.0.0.0:2855` are two addresses, whatever the system's default is.
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
    /// This process has as many files open as it may: close one, or wait, before the next try. A connection may be in
    /// the backlog or not ([`Acceptor::is_connection_waiting`]).
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
#[derive(Debug)]
pub struct Acceptor {
    listener: Descriptor,
}

impl Acceptor {
    /// Takes a socket that listens, see [`Listeners::for_core`]. Must be called on the executor that will accept.
    ///
    /// # Errors
    /// No memory for it in the kernel.
    pub fn new(socket: socket2::Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // What is accepted inherits them.
        set_options(&socket)?;
        // Others of it are with [`Listeners`], and perhaps in another process.
        Ok(Self { listener: Descriptor::new(socket.into(), Sharing::Shared)? })
    }

    /// Waits for a connection and sets its options. Skips a connection that its peer closes before it is accepted.
    ///
    /// Dropping the future loses nothing.
    pub async fn accept(&self) -> Result<(Socket, SocketAddr), AcceptError> {
        const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);
        let mut failures = 0;
        loop {
            let accepted = poll_fn(|cx| {
                self.listener.poll_read(cx, |listener| acceptfrom_with(listener, FLAGS), |_| false)
            });
            match accepted.await {
                Ok((descriptor, peer)) => {
                    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                    if let (Some(peer), Ok(socket)) = (peer, Socket::with_options(descriptor, Sharing::Sole))
                    {
                        return Ok((socket, canonical_socket(peer)));
                    }
                }
                Err(error) => {
                    if let Some(refusal) = refusal(error.raw_os_error()) {
                        return Err(refusal(error));
                    }
                    // Any other error may come again in the same way.
                    failures += usize::from(error.kind() != io::ErrorKind::ConnectionAborted);
                    if failures >= FAILURES_MAX {
                        return Err(AcceptError::Exhausted(error));
                    }
                }
            }
            // Closed connections may be many, and other tasks wait for this core.
            crate::breathe().await;
        }
    }

    /// Whether a connection waits. An accept that found no descriptor does not say so: the kernel asks for the
    /// descriptor first.
    pub fn is_connection_waiting(&self) -> bool {
        let mut look = [PollFd::new(&self.listener, PollFlags::IN)];
        poll(&mut look, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
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
/// Reading and writing do not disturb each other, because each has its own waker. Two tasks must not both read, or both
/// write.
#[derive(Debug)]
pub struct Socket {
    descriptor: Descriptor,
}

impl Socket {
    /// Takes over a connection that another executor gave up (see [`Socket::duplicate`]), or another process, and sets its
    /// options: no delay of small frames, a bound on what lies unsent in the kernel, keepalive, not inherited by children.
    pub fn adopt(descriptor: OwnedFd) -> io::Result<Self> {
        let options = SockRef::from(&descriptor);
        options.set_cloexec(true)?;
        // The other kind is a connection that another process deciphers.
        if options.domain()? != Domain::UNIX {
            set_options(&options)?;
        }
        Self::with_options(descriptor, Sharing::Shared)
    }

    /// Takes a connection whose options are set.
    fn with_options(descriptor: OwnedFd, sharing: Sharing) -> io::Result<Self> {
        Ok(Self { descriptor: Descriptor::new(descriptor, sharing)? })
    }

    /// A second descriptor of the connection, for another executor. Only one socket may be in use: drop this one
    /// without shutting it down, which leaves the connection open.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.descriptor.duplicate()
    }

    /// Connects to `address`. Fails with [`io::ErrorKind::TimedOut`] when `timeout` is over.
    pub async fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let kind = Type::STREAM.nonblocking();
        let socket = socket2::Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
        set_options(&socket)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            Ok(()) | Err(_) => {}
        }
        let connecting = Self::with_options(socket.into(), Sharing::Sole)?;
        let connected = poll_fn(|cx| connecting.descriptor.poll_write(cx, is_connected));
        let too_late = async {
            Deadline::after(timeout).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        future::or(connected, too_late).await?;
        Ok(connecting)
    }

    /// Waits for bytes from the peer and shows them to `take`, after the bytes `kept` from before. `take` is called
    /// once, may change the bytes (decrypt them in place), and returns how many it used up from the front. The rest
    /// becomes the new `kept`. `None` is the end of the stream; `kept` then holds what was cut off.
    ///
    /// `scratch` is the core's one read buffer. It is borrowed only while bytes are at hand, never while waiting. Its
    /// room after `kept` bounds one read. `take` must not use `scratch` itself.
    ///
    /// Does not wait while bytes are at hand: a task that reads in a loop must yield. Dropping the future loses
    /// nothing. Errors with [`io::ErrorKind::InvalidInput`] if `kept` leaves no room.
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
            let wanted = room.len();
            let receive =
                |socket: BorrowedFd<'_>| recv(socket, &mut *room, RecvFlags::DONTWAIT).map(|(_, read)| read);
            // What does not fill the buffer is all there is.
            let read = ready!(self.descriptor.poll_read(cx, receive, |read| *read < wanted))?;
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
        const FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
        poll_fn(|cx| self.descriptor.poll_write(cx, |socket| send(socket, bytes, FLAGS))).await
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

    /// Tells the peer, after all written bytes, that nothing more will be written.
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    /// Ends both directions. A task that reads sees the end of the stream, and a task that writes sees an error.
    pub fn shutdown_both(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Both)
    }

    /// Makes closing reset the connection, so that the kernel does not keep it either.
    pub fn reset_when_closed(&self) -> io::Result<()> {
        SockRef::from(&self.descriptor).set_linger(Some(Duration::ZERO))
    }

    /// Closes in order: tells the peer, then throws away what the peer still sends, until it closes too, `deadline` is
    /// over, or it has sent so much that it cannot be listening. If a socket is closed with unread bytes, the kernel
    /// sends a reset, which can destroy the last written bytes before the peer reads them.
    ///
    /// No other task may be reading. Returns whether the peer closed; the socket cannot be used afterwards.
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
        let _ = self.shutdown_both();
        closed
    }

    /// The peer's address and port.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        address(SockRef::from(&self.descriptor).peer_addr()?)
    }

    /// Our address and port.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        address(SockRef::from(&self.descriptor).local_addr()?)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        SockRef::from(&self.descriptor).shutdown(how)
    }
}

/// No delay of small frames, a bound on what lies unsent in the kernel, keepalive.
fn set_options(socket: &socket2::Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    socket.set_tcp_keepalive(&KEEPALIVE)
}

/// What has come of a connect; [`Errno::AGAIN`]: nothing yet.
fn is_connected(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    socket_error(socket)??;
    match getpeername(socket) {
        Ok(_) => Ok(()),
        Err(Errno::NOTCONN) => Err(Errno::AGAIN),
        Err(error) => Err(error),
    }
}

fn address(address: socket2::SockAddr) -> io::Result<SocketAddr> {
    let address = address.as_socket().ok_or_else(|| io::Error::other("not an internet address"))?;
    Ok(canonical_socket(address))
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
mod tests {
    use std::cell::Cell;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::os::fd::AsRawFd;
    use std::pin::pin;
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
        let acceptor = Acceptor::new(listeners.for_core(0, cores(1)).unwrap().remove(0)).unwrap();
        let dialled = Socket::connect(listeners.address(), LONG).await.unwrap();
        let (accepted, peer) = acceptor.accept().await.unwrap();
        assert_eq!(peer, dialled.local_addr().unwrap());
        (accepted, dialled)
    }

    /// An accepted socket, and a plain client that is driven from a thread of its own.
    async fn accepted_from_std() -> (Socket, std::net::TcpStream) {
        let listeners = Listeners::bind(LOOPBACK, cores(1), 16).unwrap();
        let acceptor = Acceptor::new(listeners.for_core(0, cores(1)).unwrap().remove(0)).unwrap();
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
            let acceptor = Acceptor::new(core).unwrap();
            let _client = std::net::TcpStream::connect(listeners.address()).unwrap();
            acceptor.accept().await.unwrap();
            // A pending accept must not hold the socket open either.
            assert!(future::poll_once(acceptor.accept()).await.is_none());
        });
        let _client = std::net::TcpStream::connect(listeners.address()).unwrap();
        run(async {
            let acceptor = Acceptor::new(listeners.for_core(0, cores(1)).unwrap().remove(0)).unwrap();
            acceptor.accept().await.unwrap();
        });
    }

    #[test]
    fn a_core_that_stops_accepting_accepts_again_on_the_same_socket() {
        let listeners = Listeners::bind(LOOPBACK, cores(1), 16).unwrap();
        run(async {
            for _ in 0..16 {
                // Its descriptor has, as a rule, the number of the one before, and the socket is the same.
                let acceptor = Acceptor::new(listeners.for_core(0, cores(1)).unwrap().remove(0)).unwrap();
                assert!(future::poll_once(acceptor.accept()).await.is_none());
                let _client = std::net::TcpStream::connect(listeners.address()).unwrap();
                acceptor.accept().await.unwrap();
            }
        });
    }

    #[test]
    fn stopping_ends_a_pending_accept_and_refuses_newcomers() {
        let listeners = Rc::new(Listeners::bind(LOOPBACK, cores(2), 16).unwrap());
        run(async {
            let acceptor = Acceptor::new(listeners.for_core(1, cores(2)).unwrap().remove(0)).unwrap();
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
            // A descriptor is made in three ways: accepted at once, accepted after waiting, dialled.
            let listeners = Listeners::bind(LOOPBACK, cores(1), 16).unwrap();
            let acceptor = Acceptor::new(listeners.for_core(0, cores(1)).unwrap().remove(0)).unwrap();
            let address = listeners.address();
            let dialler = glommio::spawn_local(async move { Socket::connect(address, LONG).await });
            let (waited_for, _) = acceptor.accept().await.unwrap();
            let dialled = dialler.await.unwrap();
            let _client = std::net::TcpStream::connect(address).unwrap();
            let (at_once, _) = acceptor.accept().await.unwrap();

            for socket in [waited_for, dialled, at_once] {
                let options = SockRef::from(&socket.descriptor);
                assert!(options.tcp_nodelay().unwrap());
                assert_eq!(options.tcp_notsent_lowat().unwrap(), UNSENT_BYTES_MAX);
                assert!(options.keepalive().unwrap());
                assert_eq!(options.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
                assert!(closes_on_exec(socket.descriptor.as_fd().as_raw_fd()));
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
    fn socket_that_moves_belongs_to_the_new_executor_alone() {
        const TOTAL: usize = 5_000_000;
        let listeners = Listeners::bind(LOOPBACK, cores(1), 16).unwrap();
        let address = listeners.address();
        let (gives, given) = std::sync::mpsc::channel();
        let (ends, has_ended) = std::sync::mpsc::channel::<()>();
        let old = std::thread::spawn(move || {
            run(async {
                let acceptor = Acceptor::new(listeners.for_core(0, cores(1)).unwrap().remove(0)).unwrap();
                let (socket, _) = acceptor.accept().await.unwrap();
                let (scratch, mut kept) = (scratch(), Vec::new());
                let read = |bytes: &mut [u8]| (bytes.len(), bytes.to_vec());
                assert_eq!(
                    socket.read_with(&scratch, &mut kept, read).await.unwrap().unwrap(),
                    b"for the old one"
                );
                // A task waits for it as it moves.
                let mut waits = Box::pin(socket.read_with(&scratch, &mut kept, read));
                assert!(future::poll_once(&mut waits).await.is_none());
                drop(waits);
                let duplicate = socket.duplicate().unwrap();
                drop(socket);
                // Has the place of the one that has left.
                let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
                let successor = Socket::adopt(ours.into()).unwrap();
                let polls = Rc::new(Cell::new(0));
                let counted = Rc::clone(&polls);
                let waiting = glommio::spawn_local(async move {
                    let mut waits = pin!(successor.read_with(&scratch, &mut kept, read));
                    poll_fn(|cx| {
                        counted.set(counted.get() + 1);
                        waits.as_mut().poll(cx)
                    })
                    .await
                });
                gives.send(duplicate).unwrap();
                while let Err(std::sync::mpsc::TryRecvError::Empty) = has_ended.try_recv() {
                    Deadline::after(Duration::from_millis(1)).await;
                }
                waiting.cancel().await;
                polls.get()
            })
        });
        let new = std::thread::spawn(move || {
            run(async {
                let socket = Socket::adopt(given.recv().unwrap()).unwrap();
                // More than the kernel takes at once: it waits for room, too.
                socket.write_all(&pattern(TOTAL)).await.unwrap();
                let all = read_to_end(&socket, &scratch()).await.unwrap();
                drop(ends);
                all
            })
        });
        let mut client = std::net::TcpStream::connect(address).unwrap();
        client.write_all(b"for the old one").unwrap();
        let mut received = vec![0; TOTAL];
        client.read_exact(&mut received).unwrap();
        assert!(received == pattern(TOTAL));
        for piece in pattern(TOTAL).chunks(300_000) {
            client.write_all(piece).unwrap();
        }
        client.shutdown(Shutdown::Write).unwrap();
        assert!(new.join().unwrap() == pattern(TOTAL));
        assert_eq!(old.join().unwrap(), 1, "how often the task of the successor was polled");
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
                    // The bytes after `used` must come again as they are left here.
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
            // The waiting writer does not hold up the other direction.
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
            // We never read what the client sends: closing at once would reset the connection.
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
