//! Accounts: which users exist, and their secrets.
//!
//! Invariant: three answers, never mixed. Only a backend that looked and found no such user answers
//! [`Answer::Unknown`]; every failure is [`Answer::Unavailable`], so that a broken backend never looks like a wrong
//! password. Only the backends know where accounts are stored. RFC 4976, section 5.1.
//!
//! Look-ups of one user from one address at the same time ask a backend once. Other addresses ask for themselves:
//! otherwise the time of an answer would show them that another client logs in as that user.
//!
//! Only an account whose user has just proven the password may be remembered, and only if the config allows it. A
//! remembered account serves to say yes, never no: before a refusal the backend is always asked. So an unknown user, a
//! wrong password, and a wrong password of a remembered user cost the same look-up; and a new user, or a new password,
//! works at once.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::together::Together;
use crate::config::{Auth, Backend};
use msrp_proto::digest::Attempt;
use msrp_relay_core::Who;

mod answer;
mod cache;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod database;
mod health;
mod memory;
mod realms;
#[cfg(feature = "sqlite")]
mod sqlite;

pub use answer::{Answer, Secret, WhyUnavailable};
use cache::{Cache, Name};
#[cfg(any(feature = "mysql", feature = "postgres"))]
use database::Database;
#[cfg(feature = "mysql")]
use database::MysqlDriver;
#[cfg(feature = "postgres")]
use database::PostgresDriver;
pub use health::AccountsReady;
use health::Health;
pub use memory::Memory;
#[cfg(feature = "sqlite")]
use sqlite::Sqlite;
#[cfg(feature = "sqlite")]
pub use sqlite::{User, UserFile, UserFileError};

/// The config's settings of accounts.
#[derive(Clone, Debug)]
pub(super) struct AccountsSettings {
    backend: Backend,
    /// How long, and how many.
    cache: Option<(Duration, usize)>,
}

impl From<&Auth> for AccountsSettings {
    fn from(auth: &Auth) -> Self {
        let cache = auth.cache.map(|time| (time, auth.cache_entries_max));
        Self { backend: auth.backend.clone(), cache }
    }
}

/// The storage of the accounts.
#[derive(Debug)]
enum Store {
    /// For look-ups that were asked before a reload: the cores have these accounts themselves.
    Memory(Memory),
    #[cfg(feature = "sqlite")]
    Sqlite(Sqlite),
    #[cfg(feature = "mysql")]
    Mysql(Database<MysqlDriver>),
    #[cfg(feature = "postgres")]
    Postgres(Database<PostgresDriver>),
    /// A kind that this build lacks; the config refuses it.
    #[cfg(not(all(feature = "mysql", feature = "postgres", feature = "sqlite")))]
    Absent,
    /// Faulty backends, for tests.
    #[cfg(test)]
    Silent(std::sync::Arc<std::sync::atomic::AtomicUsize>),
    /// Silent for one user alone.
    #[cfg(test)]
    SilentFor(&'static str),
    #[cfg(test)]
    Panicking,
    /// Answers when the test says so, and counts.
    #[cfg(test)]
    Counting(Rc<tests::Counting>),
}

impl Store {
    /// May take as long as its storage does; the caller sets the time-out.
    async fn look_up(&self, user: &str, realm: &str) -> Answer {
        match self {
            Self::Memory(memory) => memory.look_up(user, realm),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(sqlite) => sqlite.look_up(user, realm).await,
            #[cfg(feature = "mysql")]
            Self::Mysql(mysql) => mysql.look_up(user, realm).await,
            #[cfg(feature = "postgres")]
            Self::Postgres(postgres) => postgres.look_up(user, realm).await,
            #[cfg(not(all(feature = "mysql", feature = "postgres", feature = "sqlite")))]
            Self::Absent => Answer::Unavailable(WhyUnavailable::Failed),
            #[cfg(test)]
            Self::Silent(asked) => {
                asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                std::future::pending().await
            }
            #[cfg(test)]
            Self::SilentFor(silent) if *silent == user => std::future::pending().await,
            #[cfg(test)]
            Self::SilentFor(_) => Answer::Unknown,
            #[cfg(test)]
            #[allow(clippy::panic, reason = "what the test is about")]
            Self::Panicking => panic!("a backend with a bug"),
            #[cfg(test)]
            Self::Counting(counting) => counting.look_up(user).await,
        }
    }
}

/// The chosen backend. It is asked once for equal look-ups from one address at the same time.
#[derive(Debug)]
pub(super) struct Accounts {
    store: Store,
    health: Rc<Health>,
    under_way: Together<(Who, Name), Answer>,
    cache: Option<RefCell<Cache>>,
}

impl Accounts {
    /// Must be called where the backend's tasks run.
    pub(super) fn new(settings: &AccountsSettings, ready: AccountsReady) -> Self {
        let health = Rc::new(Health::new(ready));
        let store = match &settings.backend {
            Backend::Memory(users) => {
                health.well(&format_args!("{} in the config", users.len()));
                Store::Memory(Memory::new(users))
            }
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(settings) => Store::Sqlite(Sqlite::new(settings, Rc::clone(&health))),
            #[cfg(feature = "mysql")]
            Backend::Mysql(settings) => {
                let driver = MysqlDriver::new(settings);
                Store::Mysql(Database::new(driver, settings, Rc::clone(&health)))
            }
            #[cfg(feature = "postgres")]
            Backend::Postgres(settings) => {
                let driver = PostgresDriver::new(settings);
                Store::Postgres(Database::new(driver, settings, Rc::clone(&health)))
            }
            #[cfg(not(all(feature = "mysql", feature = "postgres", feature = "sqlite")))]
            _ => Store::Absent,
        };
        Self::over(store, health, settings.cache)
    }

    fn over(store: Store, health: Rc<Health>, cache: Option<(Duration, usize)>) -> Self {
        let cache = cache.map(|(time, entries_max)| RefCell::new(Cache::new(time, entries_max)));
        Self { store, health, under_way: Together::new(|_| true), cache }
    }

    /// A backend that never answers.
    #[cfg(test)]
    pub(super) fn silent(ready: AccountsReady) -> Self {
        Self::silent_and_counting(ready, std::sync::Arc::default())
    }

    /// The same, with a count of look-ups.
    #[cfg(test)]
    pub(super) fn silent_and_counting(
        ready: AccountsReady,
        asked: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    ) -> Self {
        Self::over(Store::Silent(asked), Rc::new(Health::new(ready)), None)
    }

    /// A backend that never answers for alice, and knows no other user.
    #[cfg(test)]
    pub(super) fn for_alice_silent(ready: AccountsReady) -> Self {
        Self::over(Store::SilentFor("alice"), Rc::new(Health::new(ready)), None)
    }

    /// A backend with a bug.
    #[cfg(test)]
    pub(super) fn panicking(ready: AccountsReady) -> Self {
        Self::over(Store::Panicking, Rc::new(Health::new(ready)), None)
    }

    /// The account, if it is remembered and the client has proven that it knows the password.
    pub(super) fn remembered(&self, attempt: &Attempt) -> Option<Answer> {
        let secret = self.cache.as_ref()?.borrow_mut().get(&name_of(attempt));
        Secret::is_proven(secret.as_ref(), attempt).then_some(Answer::Found(secret?))
    }

    /// Asks the storage, once for all equal look-ups from there. May take as long as the storage does; the caller sets
    /// the time-out.
    pub(super) async fn look_up(&self, who: Who, attempt: &Attempt) -> Answer {
        let name = name_of(attempt);
        let ask = async || self.store.look_up(attempt.user(), attempt.realm()).await;
        let answer = self.under_way.ask((who, name.clone()), ask).await;
        if let Some(cache) = &self.cache
            && Secret::is_proven(answer.secret(), attempt)
            && let Answer::Found(secret) = &answer
        {
            cache.borrow_mut().insert(name, secret.clone());
        }
        answer
    }

    /// Another backend takes over. Look-ups under way still get their answers from this one.
    pub(super) fn retire(&self) {
        self.health.retire();
    }
}

fn name_of(attempt: &Attempt) -> Name {
    (attempt.user().to_owned(), attempt.realm().to_owned())
}

#[cfg(test)]
mod tests;
