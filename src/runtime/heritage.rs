//! What a running relay leaves to the process that takes over, and how it gives way.
//!
//! Invariants: a connection that this process has accepted is served by it; none is lost between the last one here and the
//! first one there. Must not know: how the other process is started, what is said over the line between the two (see
//! [`succession`](super::succession)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use super::boot::BootEvent;
use super::sock::Listeners;
use super::succession::{Family, Heard, Kin, Line, SuccessionError};

/// Connections that are made for each address so that no core waits for one any more.
const POKES_MAX: u32 = 500;
/// How long each may take, and how long it is waited between them.
const POKE_TIMEOUT: Duration = Duration::from_millis(200);
const POKE_PAUSE: Duration = Duration::from_millis(5);

/// What one process leaves another; see [`succession`](super::succession).
#[derive(Clone, Debug)]
pub struct Heritage {
    pub(super) generation: u8,
    pub(super) listeners: Arc<Vec<(Listeners, bool)>>,
    pub(super) accepting: Arc<AtomicUsize>,
    pub(super) family: Arc<Family>,
    pub(super) events: SyncSender<BootEvent>,
}

impl Heritage {
    /// Leaves the listening sockets to the process at the other end of `line`.
    ///
    /// # Errors
    /// If that has ended.
    pub fn bequeath(&self, line: Line) -> Result<Kin, SuccessionError> {
        let all = self.listeners.iter().flat_map(|(listeners, secure)| {
            listeners.sockets().map(|socket| (listeners.address(), *secure, socket))
        });
        Kin::bequeath(line, self.generation, all)
    }

    /// Accepts no more: `successor` does. Each core still takes the one connection that it is waiting for, and so that it
    /// need not wait long, gets one from here. Returns whether no core accepts any more.
    pub fn give_way(&self, successor: &Arc<Kin>) -> bool {
        self.family.add_successor(successor);
        let _ = self.events.send(BootEvent::FamilyChanged);
        let _ = self.events.send(BootEvent::GiveWay);
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

    /// Notes how many sessions the process before this one has, for the metrics.
    pub fn note_predecessor(&self, sessions: u64) {
        if let Some(before) = self.family.predecessor() {
            before.note_sessions(sessions);
        }
    }

    /// A way to ask the process before this one, as at an admin socket, while it is there.
    pub fn ask_predecessor(&self) -> Option<UnixStream> {
        self.family.predecessor().filter(|before| before.is_there())?.ask().ok()
    }

    /// Serves what another process has for this one, until that one has ended. `answer` is given the questions of its
    /// operator; it must not wait.
    pub fn serve(&self, kin: &Kin, answer: impl Fn(UnixStream)) {
        while let Ok(heard) = kin.next() {
            match heard {
                Heard::Connection(passed) => drop(self.events.send(BootEvent::Passed(passed))),
                Heard::Question(question) => answer(question),
            }
        }
        let _ = self.events.send(BootEvent::FamilyChanged);
    }
}

/// Where an address that is listened on can be connected to from here.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
