//! The listener handoff: what a running relay hands to its successor, how it stops accepting, and what the successor
//! receives.
//!
//! The predecessor hands over the listening sockets themselves, so that connections in their backlogs keep waiting, and
//! one end of a socket pair. By that pair the successor reports that it is ready, and passes back what is still for the
//! predecessor: connections whose first request names a session that lives there, deciphered.
//!
//! Invariants: this process serves every connection that it has accepted; none is lost between its last one and the
//! successor's first one. Must not know how the other process is started, or what a session is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use engine::sock::Listeners;

use super::super::mesh::{Migrant, Received};
use super::super::orders::{Order, Orders};
use super::generation::{Generation, Generations, Heard, Passed};
use super::line::{GREETING, Line, UpgradeError, is_secure};
use crate::config::Listen;
use msrp_proto::address::parse_socket;

/// Listening sockets that one process may hand to another.
const LISTENERS_MAX: usize = 4096;
/// Connections that are made to each address so that no core keeps waiting in accept.
const POKES_MAX: u32 = 500;
/// How long each may take, and the pause between them.
const POKE_TIMEOUT: Duration = Duration::from_millis(200);
const POKE_PAUSE: Duration = Duration::from_millis(5);

/// What one process hands to its successor.
#[derive(Clone, Debug)]
pub struct Handoff {
    pub(in crate::runtime) generation: u8,
    pub(in crate::runtime) listeners: Arc<Vec<(Listeners, Listen)>>,
    pub(in crate::runtime) accepting: Arc<AtomicUsize>,
    pub(in crate::runtime) generations: Arc<Generations>,
    pub(in crate::runtime) orders: Orders,
}

impl Handoff {
    /// Hands the listening sockets to the process at the other end of `line`.
    ///
    /// # Errors
    /// If that process has ended.
    pub fn hand_listeners(&self, line: Line) -> Result<Generation, UpgradeError> {
        let all = self.listeners.iter().flat_map(|(listeners, listen)| {
            listeners.sockets().map(|socket| (listeners.address(), listen.tls, socket))
        });
        Generation::hand_off(line, self.generation, all)
    }

    /// Stops accepting, because `successor` does. Each core still takes the one connection that it waits for; this
    /// function makes one for each, so that none waits long. Returns whether every core has stopped.
    pub fn stop_accepting(&self, successor: &Arc<Generation>) -> bool {
        self.generations.add_successor(successor);
        let _ = self.orders.send(Order::GenerationsChanged);
        let _ = self.orders.send(Order::StopAccepting);
        for _ in 0..POKES_MAX {
            if self.accepting.load(Ordering::SeqCst) == 0 {
                return true;
            }
            for (listeners, _) in self.listeners.iter() {
                // The other process may get it, which does no harm.
                let _ = TcpStream::connect_timeout(&reachable(listeners.address()), POKE_TIMEOUT);
            }
            std::thread::sleep(POKE_PAUSE);
        }
        false
    }

    /// Whether the sockets still listen. A successor that ends closes them for both processes.
    pub fn is_listening(&self) -> bool {
        let mut sockets = self.listeners.iter().flat_map(|(listeners, _)| listeners.sockets());
        sockets.all(|socket| rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false))
    }

    /// Notes how many sessions the predecessor has, for the metrics.
    pub fn note_predecessor(&self, sessions: u64) {
        if let Some(before) = self.generations.predecessor() {
            before.note_sessions(sessions);
        }
    }

    /// A stream to ask the predecessor, as at an admin socket, while it lives.
    pub fn ask_predecessor(&self) -> Option<UnixStream> {
        self.generations.predecessor().filter(|before| before.is_there())?.ask().ok()
    }

    /// Serves the messages of another process, until that process has ended. `answer` gets the questions of its
    /// operator; it must not wait.
    pub fn serve(&self, other: &Generation, answer: impl Fn(UnixStream)) {
        while let Ok(heard) = other.next() {
            match heard {
                Heard::Connection(passed) => drop(self.orders.send(adopt(passed))),
                Heard::Question(question) => answer(question),
            }
        }
        let _ = self.orders.send(Order::GenerationsChanged);
    }
}

/// The home core of a connection's session continues with it.
fn adopt(Passed { core, address, transport, proven, stream }: Passed) -> Order {
    let received = Received::default();
    let connection = Migrant { transport, address, descriptor: stream, tls: None, proven, received };
    Order::Adopt { core, connection: Box::new(connection) }
}

/// An address by which a listening socket can be reached from here.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// What a process receives from its predecessor.
#[derive(Debug)]
pub struct ReceivedHandoff {
    /// The number of the new process; the first one is 0.
    pub generation: u8,
    listeners: Vec<(SocketAddr, bool, socket2::Socket)>,
    line: Line,
}

impl ReceivedHandoff {
    /// Receives it from the other end of the socket pair.
    ///
    /// # Errors
    /// If there is no msrprelay at the other end.
    pub fn receive(line: Line, patience: Duration) -> Result<Self, UpgradeError> {
        line.set_patience(Some(patience))?;
        let (text, _) = line.hear()?;
        let before: u8 = text
            .strip_prefix(GREETING)
            .and_then(|rest| rest.trim_start().parse().ok())
            .ok_or(UpgradeError::Garbled(text))?;
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
                _ => return Err(UpgradeError::Garbled(text)),
            }
        }
        line.set_patience(None)?;
        Ok(Self { generation: before.wrapping_add(1), listeners, line })
    }

    /// The listening sockets for the config's `address`, and that address with its port. Port 0 means the first of
    /// those on that host.
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

    /// Closes every socket that is not wanted; returns the predecessor.
    pub fn predecessor(self) -> Generation {
        Generation::new(self.generation.wrapping_sub(1), self.line)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;

    use super::*;
    use msrp_relay_core::{ProvenNames, Transport};

    const PATIENCE: Duration = Duration::from_secs(60);

    fn listening() -> (SocketAddr, socket2::Socket) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        (listener.local_addr().unwrap(), listener.into())
    }

    const TRANSPORT: Transport = Transport { secure: true, port: 2855, websocket: false };

    fn passed(core: u16, address: SocketAddr, proven: Option<ProvenNames>, stream: UnixStream) -> Passed {
        Passed { core, address, transport: TRANSPORT, proven, stream: stream.into() }
    }

    #[test]
    fn sockets_pass_one_way_and_connections_the_other() {
        let (line, theirs) = Line::pair().unwrap();
        let ((one, socket), (two, other)) = (listening(), listening());
        let left = [(one, true, socket.as_fd()), (two, false, other.as_fd()), (one, true, other.as_fd())];
        let old = Generation::hand_off(line, 255, left.into_iter()).unwrap();
        assert_eq!(old.number(), 0);

        let mut received = ReceivedHandoff::receive(Line(theirs), PATIENCE).unwrap();
        assert_eq!(received.generation, 0);
        assert!(received.listeners(one, false).is_none());
        let (address, sockets) = received.listeners("127.0.0.1:0".parse().unwrap(), true).unwrap();
        assert_eq!((address, sockets.len()), (one, 2));
        assert_eq!(sockets[0].local_addr().unwrap().as_socket(), Some(one));
        assert!(received.listeners(one, true).is_none());

        let before = received.predecessor();
        assert_eq!((before.number(), before.is_there()), (255, true));
        let new = std::thread::spawn(move || {
            before.take_over(PATIENCE).unwrap();
            before
        });
        old.wait_until_ready(PATIENCE).unwrap();
        old.let_accept().unwrap();
        let before = new.join().unwrap();

        let (mut near, far) = UnixStream::pair().unwrap();
        let names = ProvenNames::new(["inner.example.net", "*.example.org"]);
        // An older predecessor may still write it like this.
        let mapped: SocketAddr = format!("[::ffff:{}]:{}", two.ip(), two.port()).parse().unwrap();
        before.pass(&passed(7, mapped, names.clone(), far)).unwrap();
        let Heard::Connection(heard) = old.next().unwrap() else { panic!("no connection") };
        assert_eq!((heard.core, heard.address, heard.transport), (7, two, TRANSPORT));
        assert_eq!(heard.proven, names);
        near.write_all(b"a word").unwrap();
        let mut bytes = [0; 6];
        UnixStream::from(heard.stream).read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"a word");

        let (_, far) = UnixStream::pair().unwrap();
        old.pass(&passed(3, one, None, far)).unwrap();
        let Heard::Connection(heard) = before.next().unwrap() else { panic!("no connection") };
        assert_eq!((heard.core, heard.proven), (3, None));

        let mut asking = before.ask().unwrap();
        asking.write_all(b"a word").unwrap();
        let Heard::Question(mut question) = old.next().unwrap() else { panic!("no question") };
        question.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"a word");

        drop(old);
        assert!(before.is_there() && before.next().is_err() && !before.is_there());
        let (_, far) = UnixStream::pair().unwrap();
        assert!(before.pass(&passed(7, two, None, far)).is_err());
        assert!(!before.is_there());
    }

    #[test]
    fn an_end_that_speaks_of_something_else_is_refused() {
        for script in
            [&["hello"][..], &["msrprelay 2 0"], &["msrprelay 1 0", "listener"], &["msrprelay 1 0"], &[]]
        {
            let (line, theirs) = Line::pair().unwrap();
            for text in script {
                line.say(text, None).unwrap();
            }
            drop(line);
            assert!(ReceivedHandoff::receive(Line(theirs), PATIENCE).is_err(), "{script:?}");
        }
    }

    #[test]
    fn a_successor_that_says_nothing_is_not_waited_for_for_ever() {
        let (line, _theirs) = Line::pair().unwrap();
        let old = Generation::hand_off(line, 0, std::iter::empty()).unwrap();
        assert!(old.wait_until_ready(Duration::from_millis(20)).is_err());
    }
}
