//! Accounts in the SIP proxy's MySQL or MariaDB, which is read and never written.
//!
//! While the database works, a look-up takes one of at most `connections_max` connections. When it fails, one task
//! tries again, with growing, random pauses, and look-ups wait for its next attempt. So a look-up is refused only after
//! an attempt that ended later than it began, and the first one after an outage works without help. A database that
//! comes back meets no stampede.
//!
//! Invariants: every connect and every query has a time-out, and a connection whose query was given up is closed, never
//! used again; a connection is ready only after a look-up's own statement has run on it; an account is found only if
//! exactly one row matches; a name that the database cannot hold is unknown, and no such name can make the database
//! seem broken. Must not know who asks, or why. The caller bounds the number of look-ups.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::answer::{Answer, WhyUnavailable};
use super::health::Health;
use super::realms::Realms;
use crate::config;

mod connection;

use connection::{Connection, Failure, Plan};

/// The pause before the first new attempt to connect.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The pause doubles each time up to this. Look-ups wait that long at most before they are refused, and need a rest of
/// `limits.lookup_timeout` for the attempt itself.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A database that worked for this long has a clean record: the next pause is the shortest again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(10);

/// The backend. Its task ends with it.
#[derive(Debug)]
pub(super) struct Mysql {
    shared: Rc<Shared>,
}

#[derive(Debug)]
struct Shared {
    plan: Plan,
    health: Rc<Health>,
    query_timeout: Duration,
    connections_max: usize,
    /// Places for look-ups, one for each possible connection; handed out in the order of asking.
    places: Semaphore,
    idle: RefCell<Vec<Taken>>,
    /// Existing connections, idle or in use.
    open: Cell<usize>,
    /// A connection has become idle, or has gone.
    changed: Notify,
    state: Cell<State>,
    /// Counts the attempts to connect that have ended while the database was down.
    attempts: watch::Sender<u64>,
    /// Makes no further connections before this time: the server refused another one.
    grow_again: Cell<Instant>,
    mending: RefCell<Option<JoinHandle<()>>>,
    /// The realms in which accounts were found; `None` if every realm has all accounts.
    realms: Option<RefCell<Realms>>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Up {
        since: Instant,
        pause: Duration,
    },
    /// The database is down, and the mending task is under way.
    Down,
}

impl Mysql {
    /// Must be called where its task runs. Connects at once, so that errors show before the first look-up.
    pub(super) fn new(settings: &config::Mysql, health: Rc<Health>) -> Self {
        let shared = Rc::new(Shared {
            plan: Plan::new(settings),
            health,
            query_timeout: settings.query_timeout,
            connections_max: settings.connections_max,
            places: Semaphore::new(settings.connections_max),
            idle: RefCell::default(),
            open: Cell::new(0),
            changed: Notify::new(),
            state: Cell::new(State::Down),
            attempts: watch::Sender::new(0),
            grow_again: Cell::new(Instant::now()),
            mending: RefCell::default(),
            realms: settings.match_domain.then(|| RefCell::new(Realms::found_so_far())),
        });
        shared.mend(Duration::ZERO);
        Self { shared }
    }

    pub(super) async fn look_up(&self, user: &str, realm: &str) -> Answer {
        match self.shared.find(user, realm).await {
            Ok(answer) => {
                self.shared.note_realm(realm, &answer);
                answer
            }
            Err(why) => Answer::Unavailable(why),
        }
    }
}

impl Drop for Mysql {
    fn drop(&mut self) {
        if let Some(task) = self.shared.mending.take() {
            task.abort();
        }
    }
}

impl Shared {
    async fn find(self: &Rc<Self>, user: &str, realm: &str) -> Result<Answer, WhyUnavailable> {
        // The second try uses a connection made for it: an idle one may have ended long ago.
        let mut failed_before = false;
        loop {
            self.wait_until_up().await?;
            let Ok(_place) = self.places.acquire().await else {
                return Err(WhyUnavailable::Failed);
            };
            if matches!(self.state.get(), State::Down) {
                continue;
            }
            let Some(mut taken) = self.take().await? else {
                continue;
            };
            let found = timeout(self.query_timeout, taken.connection.find(user, realm)).await;
            match found {
                Ok(Ok(answer)) => {
                    self.give_back(taken);
                    return Ok(answer);
                }
                Ok(Err(Failure::OfTheName)) => {
                    self.give_back(taken);
                    return Ok(Answer::Unknown);
                }
                Ok(Err(failure)) => {
                    drop(taken);
                    // Its idle neighbours have probably gone as well; if not, they are soon made again.
                    self.forget_idle();
                    if failed_before {
                        // The database works, because that connection was tried before it was used: only this look-up
                        // fails. No client may be able to bring the accounts down like this.
                        tracing::debug!(reason = %failure, "An account cannot be looked up");
                        return Err(WhyUnavailable::Failed);
                    }
                    failed_before = true;
                }
                Err(_) => {
                    drop(taken);
                    self.fall(&format_args!("no answer to a query within {:?}", self.query_timeout));
                    return Err(WhyUnavailable::Late);
                }
            }
        }
    }

    /// Does not ask the database for its realms: that could read a whole table.
    fn note_realm(&self, realm: &str, answer: &Answer) {
        let (Some(realms), realm) = (&self.realms, realm.to_ascii_lowercase()) else {
            return;
        };
        match answer {
            Answer::Found(_) => realms.borrow_mut().add(&realm),
            Answer::Unknown => realms.borrow().tell(&realm),
            Answer::Unavailable(_) => {}
        }
    }

    /// Returns at once while the database is up; otherwise waits for the next attempt to connect.
    async fn wait_until_up(&self) -> Result<(), WhyUnavailable> {
        if matches!(self.state.get(), State::Down) {
            let mut attempts = self.attempts.subscribe();
            let ended = attempts.changed().await;
            if ended.is_err() || matches!(self.state.get(), State::Down) {
                return Err(WhyUnavailable::Failed);
            }
        }
        Ok(())
    }

    /// A connection: an idle one, or a new one. `None`: the database has gone down meanwhile.
    async fn take(self: &Rc<Self>) -> Result<Option<Taken>, WhyUnavailable> {
        loop {
            if let Some(idle) = self.idle.borrow_mut().pop() {
                return Ok(Some(idle));
            }
            if matches!(self.state.get(), State::Down) {
                return Ok(None);
            }
            if self.open.get() > 0 && Instant::now() < self.grow_again.get() {
                // Every user of a connection gives it back or loses it before long.
                self.changed.notified().await;
                continue;
            }
            // Counted from here on, so that no other look-up takes its place.
            let counted = Counted::new(self);
            match self.plan.open().await {
                Ok(connection) => return Ok(Some(Taken { counted, connection })),
                Err(failure) if self.open.get() > 1 => {
                    tracing::debug!(reason = %failure, "No further connection to the accounts");
                    self.grow_again.set(Instant::now() + PAUSE_MAX);
                }
                Err(failure) => {
                    drop(counted);
                    self.fall(&failure);
                    return Err(WhyUnavailable::Failed);
                }
            }
        }
    }

    /// While the database was down, one connection too many may have been made, to try it.
    fn give_back(&self, taken: Taken) {
        match self.open.get() > self.connections_max {
            true => drop(taken),
            false => {
                self.idle.borrow_mut().push(taken);
                self.changed.notify_one();
            }
        }
    }

    fn forget_idle(&self) {
        // Taken out of the cell first: each one lowers the count when it is dropped.
        drop(std::mem::take(&mut *self.idle.borrow_mut()));
    }

    /// The database does not work: reports it and begins to mend, unless that is under way.
    fn fall(self: &Rc<Self>, reason: &dyn std::fmt::Display) {
        let State::Up { since, pause } = self.state.replace(State::Down) else {
            return;
        };
        self.health.ill(&self.plan, reason);
        self.forget_idle();
        self.changed.notify_waiters();
        self.mend(if since.elapsed() > FORGIVEN_AFTER { PAUSE_MIN } else { pause });
    }

    fn mend(self: &Rc<Self>, pause: Duration) {
        let shared = Rc::clone(self);
        let task = tokio::task::spawn_local(async move { shared.try_until_up(pause).await });
        self.mending.replace(Some(task));
    }

    async fn try_until_up(self: Rc<Self>, mut pause: Duration) {
        loop {
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
            let opened = self.plan.open().await;
            let is_up = opened.is_ok();
            match opened {
                Ok(connection) => {
                    self.idle.borrow_mut().push(Taken { counted: Counted::new(&self), connection });
                    self.state.set(State::Up { since: Instant::now(), pause });
                    self.health.well(&self.plan);
                    self.changed.notify_one();
                }
                Err(failure) => self.health.ill(&self.plan, &failure),
            }
            self.attempts.send_modify(|ended| *ended += 1);
            if is_up {
                return;
            }
        }
    }
}

/// A connection and its place in the count.
#[derive(Debug)]
struct Taken {
    #[expect(dead_code, reason = "held for what its end does")]
    counted: Counted,
    connection: Connection,
}

/// Counts a connection, or an attempt to make one, for as long as it exists.
#[derive(Debug)]
struct Counted(Weak<Shared>);

impl Counted {
    fn new(shared: &Rc<Shared>) -> Self {
        shared.open.set(shared.open.get() + 1);
        Self(Rc::downgrade(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.open.set(shared.open.get() - 1);
            shared.changed.notify_one();
        }
    }
}

/// Between half of the pause and all of it, so that several relays do not come back at the same moment.
fn jittered(pause: Duration) -> Duration {
    let part = getrandom::u32().unwrap_or(u32::MAX);
    pause.mul_f64(0.5 + f64::from(part) / f64::from(u32::MAX) / 2.0)
}
