//! Accounts in the SIP proxy's database, which is read and never written: MySQL, MariaDB or PostgreSQL.
//!
//! What is here is the same for each of them; what differs is a [`Driver`], in a file of its own. [`rows`] says what the
//! rows mean.
//!
//! While the database works, a look-up takes one of at most `connections_max` connections. When it fails, one task
//! tries again, with growing, random pauses, and look-ups wait for its next attempt. So a look-up is refused only after
//! an attempt that ended later than it began, and the first one after an outage works without help. A database that
//! comes back meets no stampede.
//!
//! Invariants: every connect and every query has a time-out, and a connection that a query was given up on is
//! closed, never used again; a connection counts as good once the very statement of a look-up has been run on it; an
//! account is found only if exactly one row is meant; a name that the database cannot hold is unknown, and no such
//! name can make the database seem broken.
//! Must not know: who asks, and what for; which database it is. The caller bounds how many look-ups there are.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::answer::{Answer, WhyUnavailable};
use super::health::Health;
use super::realms::Realms;
use crate::config;

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
mod rows;

#[cfg(feature = "mysql")]
pub(super) use mysql::MysqlDriver;
#[cfg(feature = "postgres")]
pub(super) use postgres::PostgresDriver;

/// The pause before the first new attempt to connect.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The pause doubles each time up to this. Look-ups wait that long at most before they are refused, and need a rest of
/// `limits.lookup_timeout` for the attempt itself.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A database that worked for this long has a clean record: the next pause is the shortest again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(10);

/// How long the farewell of a connection may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How to get at one kind of database, and what to ask there.
pub(super) trait Driver: 'static {
    /// Good for look-ups. What is dropped is closed, and costs no other connection any time.
    type Connection;
    /// What this driver, or its server, says went wrong; to be shown with a remedy.
    type Error: fmt::Display;

    /// Connects, prepares the statement, and runs it once for no user: what the relay's account may not do, or a column
    /// that is not there, shows now.
    async fn open(&self) -> Result<Self::Connection, Self::Error>;

    /// Runs the statement.
    async fn find(
        &self,
        connection: &mut Self::Connection,
        user: &str,
        realm: &str,
    ) -> Result<Answer, Failure<Self::Error>>;
}

/// Why a connection or a query failed.
pub(super) enum Failure<E> {
    /// The name that was asked for cannot be in such a table.
    OfTheName,
    /// The driver, or the server, says so.
    Driver(E),
    /// A connection was not good for look-ups in time.
    Late(Duration),
}

impl<E> From<E> for Failure<E> {
    fn from(error: E) -> Self {
        Self::Driver(error)
    }
}

/// For the operator: what is wrong and what to do about it.
impl<E: fmt::Display> fmt::Display for Failure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfTheName => f.write_str("the name cannot be in such a table"),
            Self::Driver(error) => error.fmt(f),
            Self::Late(time) => write!(
                f,
                "it does not get a connection ready for look-ups within {time:?}: see what keeps it busy, whether the \
                 table is locked, whether a firewall swallows the connection"
            ),
        }
    }
}

/// The backend. Its task ends with it.
pub(super) struct Database<D: Driver> {
    shared: Rc<Shared<D>>,
}

struct Shared<D: Driver> {
    driver: D,
    /// Where the database is, for people.
    at: String,
    health: Rc<Health>,
    connect_timeout: Duration,
    query_timeout: Duration,
    connections_max: usize,
    /// Places for look-ups, one for each possible connection; handed out in the order of asking.
    places: Semaphore,
    idle: RefCell<Vec<Taken<D>>>,
    /// Connections there are, idle or in use.
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

impl<D: Driver> Database<D> {
    /// To be called where its task is to run; connects at once, so that what is wrong shows before anybody asks.
    pub(super) fn new(driver: D, settings: &config::Database, health: Rc<Health>) -> Self {
        let shared = Rc::new(Shared {
            driver,
            at: settings.server.to_string(),
            health,
            connect_timeout: settings.connect_timeout,
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

impl<D: Driver> Drop for Database<D> {
    fn drop(&mut self) {
        if let Some(task) = self.shared.mending.take() {
            task.abort();
        }
    }
}

impl<D: Driver> Shared<D> {
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
            let asked = self.driver.find(&mut taken.connection, user, realm);
            let found = timeout(self.query_timeout, asked).await;
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

    /// A connection that is good for look-ups.
    async fn open(&self) -> Result<D::Connection, Failure<D::Error>> {
        match timeout(self.connect_timeout, self.driver.open()).await {
            Ok(opened) => opened.map_err(Failure::Driver),
            Err(_) => Err(Failure::Late(self.connect_timeout)),
        }
    }

    /// A connection: an idle one, or a new one. `None`: the database has gone down meanwhile.
    async fn take(self: &Rc<Self>) -> Result<Option<Taken<D>>, WhyUnavailable> {
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
            match self.open().await {
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

    /// While the database was down one more connection than there may be can have been made, to try it.
    fn give_back(&self, taken: Taken<D>) {
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

    /// The database does not work: tells so and begins to mend, unless that is under way.
    fn fall(self: &Rc<Self>, reason: &dyn fmt::Display) {
        let State::Up { since, pause } = self.state.replace(State::Down) else {
            return;
        };
        self.health.ill(&self.at, reason);
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
            let opened = self.open().await;
            let is_up = opened.is_ok();
            match opened {
                Ok(connection) => {
                    self.idle.borrow_mut().push(Taken { counted: Counted::new(&self), connection });
                    self.state.set(State::Up { since: Instant::now(), pause });
                    self.health.well(&self.at);
                    self.changed.notify_one();
                }
                Err(failure) => self.health.ill(&self.at, &failure),
            }
            self.attempts.send_modify(|ended| *ended += 1);
            if is_up {
                return;
            }
        }
    }
}

/// A connection and its place in the count.
struct Taken<D: Driver> {
    #[expect(dead_code, reason = "held for what its end does")]
    counted: Counted<D>,
    connection: D::Connection,
}

/// Counts a connection for as long as there is one, or an attempt to make one.
struct Counted<D: Driver>(Weak<Shared<D>>);

impl<D: Driver> Counted<D> {
    fn new(shared: &Rc<Shared<D>>) -> Self {
        shared.open.set(shared.open.get() + 1);
        Self(Rc::downgrade(shared))
    }
}

impl<D: Driver> Drop for Counted<D> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.open.set(shared.open.get() - 1);
            shared.changed.notify_one();
        }
    }
}

impl<D: Driver> fmt::Debug for Database<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({})", self.shared.at)
    }
}

/// Between a half of the pause and all of it, so that several relays do not come back at the same moment.
fn jittered(pause: Duration) -> Duration {
    let part = getrandom::u32().unwrap_or(u32::MAX);
    pause.mul_f64(0.5 + f64::from(part) / f64::from(u32::MAX) / 2.0)
}
