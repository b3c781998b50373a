//! Looking into the cores from outside, on behalf of an operator.
//!
//! Whoever asks does so on a thread of its own, which may wait; a core answers between two other things, in small slices,
//! and waits for nobody.
//!
//! Invariants: what leaves a core is what [`SessionView`] has, and addresses; a core that is dead, stuck or full is told
//! of, not waited for; an inbox is kept here no longer than its core lives.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_channel::Sender;

use super::core::Shared;
use super::mesh::Parcel;
use super::trace::{TraceOrder, TracedHead};
use crate::control::AccountsReady;
use crate::relay::{Far, Found, Input, SessionView, home_of_prefix};
use crate::telemetry::{Counters, Snapshot};

/// How many sessions a core looks at before it looks for other work.
const SLICE: usize = 64;
/// How long a core may take for one answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Heads that wait for whoever reads them: some megabytes at most.
pub const HEADS_WAITING_MAX: usize = 1024;
/// The least that must be given of a session's id: the rest of what the log shows may be left out.
pub const PREFIX_CHARS_MIN: usize = 8;

/// What a core is asked.
#[derive(Debug)]
pub(crate) enum Ask {
    /// All its sessions, in slices; the sender is dropped behind the last of them.
    Sessions(mpsc::Sender<Vec<SessionLine>>),
    /// To show heads.
    Trace(TraceOrder),
    /// To end the session whose id begins like that.
    Close { prefix: String, reply: mpsc::Sender<Closed> },
}

/// One session, for an operator.
#[derive(Clone, Debug)]
pub struct SessionLine {
    /// The core it is at home on.
    pub core: usize,
    /// What the relay says of it.
    pub view: SessionView,
    /// Where its client comes from; `None`: its connection is ending, or it is behind a relay.
    pub client: Option<SocketAddr>,
    /// Where its other side is, if that is a connection of the same core.
    pub far: Option<SocketAddr>,
}

/// Whose sessions are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted(String);

impl Wanted {
    /// A user (`alice` or `alice@example.com`), or at least [`PREFIX_CHARS_MIN`] characters of a session's id.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// As it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a session is meant.
    #[must_use]
    pub fn means(&self, view: &SessionView) -> bool {
        let prefix = self.0.len() >= PREFIX_CHARS_MIN
            && (view.session.starts_with(&self.0) || self.0.starts_with(&view.session));
        prefix || self.means_user(&view.user, &view.realm)
    }

    /// Whether a user is meant.
    #[must_use]
    pub fn means_user(&self, user: &str, realm: &str) -> bool {
        let behind = || self.0.strip_prefix(user).and_then(|rest| rest.strip_prefix('@'));
        self.0 == user || behind().is_some_and(|behind| behind == realm)
    }
}

impl SessionLine {
    /// Where its client comes from: the client's address, or host and port of the relay before it.
    #[must_use]
    pub fn client(&self) -> Option<String> {
        self.client.map(|address| address.to_string()).or_else(|| self.view.relay.clone())
    }

    /// Who is, or was, at the other side: an address, a host and port, or `session` and the prefix of an id.
    #[must_use]
    pub fn peer(&self) -> Option<String> {
        self.view.far.as_ref().map(|far| match far {
            Far::Session(prefix) => format!("session {prefix}"),
            Far::Connection { authority, .. } => {
                self.far.map_or_else(|| authority.clone(), |address| address.to_string())
            }
        })
    }
}

/// What came of ending a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It ends.
    Done {
        /// Prefix of its id.
        session: String,
        /// The user.
        user: String,
        /// The realm.
        realm: String,
    },
    /// There is none that begins like that.
    NoSuchSession,
    /// There are so many.
    Ambiguous(usize),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It is dead, or about to be started again.
    #[error("core {0} is not running; it is started again by itself: try again, and see the log")]
    Down(usize),
    /// It does not answer in time.
    #[error("core {0} does not answer: it is overloaded or stuck; see the log")]
    Silent(usize),
    /// So few characters may mean many.
    #[error(
        "give at least the first {PREFIX_CHARS_MIN} characters of the session's id, as `sessions` shows them"
    )]
    PrefixTooShort,
}

/// The ways into all cores, for threads that may wait.
#[derive(Clone, Debug)]
pub(crate) struct Inboxes(Arc<Mutex<Vec<Option<Sender<Parcel>>>>>);

impl Inboxes {
    pub(crate) fn new(cores: usize) -> Self {
        Self(Arc::new(Mutex::new(vec![None; cores])))
    }

    pub(crate) fn set(&self, index: usize, inbox: Option<Sender<Parcel>>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = all.get_mut(index) {
            *place = inbox;
        }
    }

    fn ask(&self, index: usize, ask: Ask) -> Result<(), InspectError> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let inbox = all.get(index).and_then(Option::as_ref).ok_or(InspectError::Down(index))?;
        inbox.try_send(Parcel::Ask(ask)).map_err(|_| InspectError::Silent(index))
    }
}

/// What an operator may ask of a running relay. Its methods wait: not for use on a core.
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

    /// What each core has counted; at most a quarter of a second old.
    #[must_use]
    pub fn counters(&self) -> Vec<Snapshot> {
        self.counters.iter().map(|counters| counters.snapshot()).collect()
    }

    /// Whether accounts can be asked.
    #[must_use]
    pub fn accounts_ready(&self) -> bool {
        self.accounts.is_ready()
    }

    /// Shows `each` session, core by core, in no order, while they come and go. It ends early if `each` returns false.
    ///
    /// # Errors
    /// The first core that does not answer; those before it have been shown.
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

    /// Has the heads of what the clients of some sessions send and are sent shown, for some time: of those that there are,
    /// and of those that their users open meanwhile. What finds [`HEADS_WAITING_MAX`] heads waiting is dropped. Dropping
    /// the receiver ends it.
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
    /// If the prefix is too short, or the core that it names does not answer.
    pub fn close(&self, prefix: &str) -> Result<Closed, InspectError> {
        if prefix.len() < PREFIX_CHARS_MIN {
            return Err(InspectError::PrefixTooShort);
        }
        let home = home_of_prefix(prefix).map(usize::from);
        let Some(core) = home.filter(|core| *core < self.counters.len()) else {
            return Ok(Closed::NoSuchSession);
        };
        let (reply, answer) = mpsc::channel();
        self.inboxes.ask(core, Ask::Close { prefix: prefix.to_owned(), reply })?;
        answer.recv_timeout(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => InspectError::Silent(core),
            RecvTimeoutError::Disconnected => InspectError::Down(core),
        })
    }
}

impl Shared {
    pub(super) fn asked(self: &Rc<Self>, ask: Ask) {
        match ask {
            Ask::Sessions(reply) => {
                let core = Rc::clone(self);
                self.tasks.spawn(async move { core.list_sessions(&reply).await });
            }
            Ask::Trace(order) => {
                let core = Rc::clone(self);
                self.tasks.spawn(async move { core.trace(order).await });
            }
            Ask::Close { prefix, reply } => {
                // Whoever asked may no longer be waiting.
                let _ = reply.send(self.close_session(&prefix));
            }
        }
    }

    async fn list_sessions(&self, reply: &mpsc::Sender<Vec<SessionLine>>) {
        let all = self.with_relay(|relay| relay.sessions());
        for slice in all.chunks(SLICE) {
            let now = Instant::now();
            let views = slice.iter().filter_map(|key| self.with_relay(|relay| relay.session_view(now, *key)));
            let lines: Vec<_> = views.map(|view| self.line(view)).collect();
            if reply.send(lines).is_err() {
                return;
            }
            engine::breathe().await;
        }
    }

    pub(super) fn line(&self, view: SessionView) -> SessionLine {
        let me = self.with_relay(|relay| relay.core());
        let far = match &view.far {
            Some(Far::Connection { peer, .. }) if peer.core == me => self.address_of(peer.key),
            _ => None,
        };
        let client = view.client.and_then(|client| self.address_of(client));
        SessionLine { core: usize::from(me.index), client, far, view }
    }

    fn close_session(self: &Rc<Self>, prefix: &str) -> Closed {
        let handle = match self.with_relay(|relay| relay.find_session(prefix)) {
            Found::One(handle) => handle,
            Found::Nothing => return Closed::NoSuchSession,
            Found::Several(sessions) => return Closed::Ambiguous(sessions),
        };
        let Some(view) = self.with_relay(|relay| relay.session_view(Instant::now(), handle)) else {
            return Closed::NoSuchSession;
        };
        self.feed([Input::CloseSession(handle)]);
        Closed::Done { session: view.session, user: view.user, realm: view.realm }
    }
}
