//! Orders to the supervisor, from the server, from an upgrade, and from ending cores.
//!
//! Must not know what the supervisor does about them.

use std::sync::mpsc::{self, SyncSender};
use std::time::Duration;

use super::error::StartError;
use super::mesh::Migrant;
use crate::config::Config;

/// Orders that may wait for the supervisor.
const ORDERS_MAX: usize = 64;

/// The way to the supervisor.
pub(super) type Orders = SyncSender<Order>;

/// An order to the supervisor.
#[derive(Debug)]
pub(super) enum Order {
    /// A core's thread has ended.
    CoreEnded(usize),
    /// Take everything that may change in a running relay from another config, and return the keys that differ but may
    /// not.
    Reload { config: Box<Config>, done: mpsc::Sender<Result<Vec<&'static str>, StartError>> },
    /// Accept no more connections; when no session is left, or the time is over, return how many there are.
    Drain { timeout: Duration, drained: mpsc::Sender<u64> },
    /// Another process listens on the sockets: accept no more, and do not close them.
    StopAccepting,
    /// The other process has died: accept again, and stop the drain.
    AcceptAgain,
    /// Another process of this relay has come or gone.
    GenerationsChanged,
    /// Another process has a connection for a session of this core.
    Adopt { core: u16, connection: Box<Migrant> },
    /// Stop everything.
    Stop,
    /// Make a core panic.
    Crash { index: usize, in_task: bool },
}

/// The way to the supervisor, and its end there.
pub(super) fn channel() -> (Orders, mpsc::Receiver<Order>) {
    mpsc::sync_channel(ORDERS_MAX)
}
