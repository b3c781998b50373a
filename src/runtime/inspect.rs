//! Looks into the cores from outside, on behalf of an operator.
//!
//! A thread of its own asks, and may wait. A core answers between two other tasks, in small slices, and waits for no
//! reader.
//!
//! Invariants: only the content of a [`SessionView`](msrp_relay_core::SessionView), and addresses, leave a core; a core
//! that is dead, stuck or full is reported, not waited for; an inbox is kept here no longer than its core lives.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_channel::Sender;

use super::ask::{Ask, Closed, PREFIX_CHARS_MIN, SessionLine, TraceOrder, TracedHead, Wanted};
use super::core::Shared;
use super::mesh::Delivery;
use crate::control::AccountsReady;
use crate::telemetry::{Counters, Snapshot};
use msrp_relay_core::{Found, Input, home_of_prefix};

/// How long a core may take for one answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a session that moves is given to arrive before it is looked for again.
const ON_ITS_WAY: Duration = Duration::from_millis(10);
/// Heads that may wait for their reader: some megabytes at most.
pub const HEADS_WAITING_MAX: usize = 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The core is dead, or about to be restarted.
    #[error("core {0} is not running; it is started again by itself: try again, and see the log")]
    Down(usize),
    /// The core does not answer in time.
    #[error("core {0} does not answer: it is overloaded or stuck; see the log")]
    Silent(usize),
    /// A shorter prefix may mean many sessions.
    #[error(
        "give at least the first {PREFIX_CHARS_MIN} characters of the session's id, as `sessions` shows them"
    )]
    PrefixTooShort,
}

/// The inboxes of all cores, for threads that may wait.
#[derive(Clone, Debug)]
pub(crate) struct Inboxes(Arc<Mutex<Vec<Option<Sender<Delivery>>>>>);

impl Inboxes {
    pub(crate) fn new(cores: usize) -> Self {
        Self(Arc::new(Mutex::new(vec![None; cores])))
    }

    pub(crate) fn set(&self, index: usize, inbox: Option<Sender<Delivery>>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = all.get_mut(index) {
            *place = inbox;
        }
    }

    fn ask(&self, index: usize, ask: Ask) -> Result<(), InspectError> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let inbox = all.get(index).and_then(Option::as_ref).ok_or(InspectError::Down(index))?;
        inbox.try_send(Delivery::Ask(ask)).map_err(|_| InspectError::Silent(index))
    }
}

/// An operator's questions to a running relay. The methods wait: not for use on a core.
#[derive(Clone, Debug)]
pub struct Inspector {
    pub(crate) addresses: Vec<(SocketAddr, bool)>,
    pub(crate) counters: Vec<Arc<Counters>>,
    pub(crate) accounts: AccountsReady,
    pub(crate) inboxes: Inboxes,
}

impl Inspector {
    /// The addresses listened on, and whether they speak TLS.
    #[must_use]
    pub fn addresses(&self) -> &[(SocketAddr, bool)] {
        &self.addresses
    }

    /// The counters of each core; at most a quarter of a second old.
    #[must_use]
    pub fn counters(&self) -> Vec<Snapshot> {
        self.counters.iter().map(|counters| counters.snapshot()).collect()
    }

    /// Whether accounts can be asked.
    #[must_use]
    pub fn accounts_ready(&self) -> bool {
        self.accounts.is_ready()
    }

    /// Gives `each` session, core by core, in no order, while sessions come and go. One that moves to another core meanwhile may
    /// be missing or come twice. Ends early if `each` returns false.
    ///
    /// # Errors
    /// The first core that does not answer. The sessions of those before it were given to `each`.
    pub fn sessions(&self, mut each: impl FnMut(SessionLine) -> bool) -> Result<(), InspectError> {
        for core in 0..self.counters.len() {
            let (reply, slices) = mpsc::channel();
            self.inboxes.ask(core, Ask::Sessions(reply))?;
            loop {
                match slices.recv_timeout(PATIENCE) {
                    Ok(slice) => {
                        for line in slice {
                            if !each(line) {
                                return Ok(());
                            }
                        }
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                    Err(RecvTimeoutError::Timeout) => return Err(InspectError::Silent(core)),
                }
            }
        }
        Ok(())
    }

    /// Shows the heads that the clients of some sessions send and receive, for some time: of existing sessions, and of
    /// those that their users open meanwhile. A head that finds [`HEADS_WAITING_MAX`] waiting is dropped. Dropping the
    /// receiver ends the trace.
    ///
    /// # Errors
    /// If a core cannot be asked; the others have begun.
    pub fn trace(&self, wanted: Wanted, time: Duration) -> Result<mpsc::Receiver<TracedHead>, InspectError> {
        let (heads, shown) = mpsc::sync_channel(HEADS_WAITING_MAX);
        let began = Instant::now();
        let order = TraceOrder { wanted, heads, began, until: began + time };
        for core in 0..self.counters.len() {
            self.inboxes.ask(core, Ask::Trace(order.clone()))?;
        }
        Ok(shown)
    }

    /// Ends the session whose id begins with `prefix`: its client's connection is closed.
    ///
    /// # Errors
    /// If the prefix is too short, or its core does not answer.
    pub fn close(&self, prefix: &str) -> Result<Closed, InspectError> {
        if prefix.len() < PREFIX_CHARS_MIN {
            return Err(InspectError::PrefixTooShort);
        }
        let home = home_of_prefix(prefix).map(usize::from);
        let Some(core) = home.filter(|core| *core < self.counters.len()) else {
            return Ok(Closed::NoSuchSession);
        };
        // Its home knows where it has moved to. It may be on its way there still, which takes no time; or its end on the way
        // back.
        let until = Instant::now() + PATIENCE;
        loop {
            let closed = match self.close_on(core, prefix)? {
                Closed::MovedTo(other) => self.close_on(other, prefix)?,
                other => return Ok(other),
            };
            if !matches!(closed, Closed::NoSuchSession | Closed::MovedTo(_)) || Instant::now() >= until {
                return Ok(closed);
            }
            std::thread::sleep(ON_ITS_WAY);
        }
    }

    fn close_on(&self, core: usize, prefix: &str) -> Result<Closed, InspectError> {
        let (reply, answer) = mpsc::channel();
        self.inboxes.ask(core, Ask::Close { prefix: prefix.to_owned(), reply })?;
        answer.recv_timeout(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => InspectError::Silent(core),
            RecvTimeoutError::Disconnected => InspectError::Down(core),
        })
    }
}

/// Answers an operator's question, in a task of its own if that takes more than a moment.
pub(super) fn answer(core: &Rc<Shared>, ask: Ask) {
    match ask {
        Ask::Sessions(reply) => {
            let listing = Rc::clone(core);
            core.tasks.spawn(async move { list_sessions(&listing, &reply).await });
        }
        Ask::Trace(order) => {
            let tracing = Rc::clone(core);
            core.tasks.spawn(async move { tracing.trace(order).await });
        }
        Ask::Close { prefix, reply } => {
            // The operator may have stopped waiting.
            let _ = reply.send(close_session(core, &prefix));
        }
    }
}

async fn list_sessions(core: &Shared, reply: &mpsc::Sender<Vec<SessionLine>>) {
    core.each_slice_of_sessions(|slice| {
        let lines = slice.into_iter().map(|view| core.line(view)).collect();
        reply.send(lines).is_ok()
    })
    .await;
}

fn close_session(core: &Rc<Shared>, prefix: &str) -> Closed {
    let handle = match core.with_relay(|relay| relay.find_session(prefix)) {
        Found::One(handle) => handle,
        Found::Moved(core) => return Closed::MovedTo(usize::from(core.index)),
        Found::Nothing => return Closed::NoSuchSession,
        Found::Several(sessions) => return Closed::Ambiguous(sessions),
    };
    let Some(view) = core.with_relay(|relay| relay.session_view(Instant::now(), handle)) else {
        return Closed::NoSuchSession;
    };
    core.feed([Input::CloseSession(handle)]);
    Closed::Done { session: view.session, user: view.user, realm: view.realm }
}
