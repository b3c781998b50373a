//! Accounts: who there is, and what proves them.
//!
//! Invariant: three answers, never mixed. [`Answer::Unknown`] is said only by a backend that looked and found
//! nobody; whatever went wrong is [`Answer::Unavailable`], so that a broken backend never looks like a wrong
//! password. Where accounts are stored is known to the backends below alone. RFC 4976, section 5.1.
//!
//! A backend is asked once for all who ask for the same user at the same time. Only what was found may be
//! remembered, and only if the config says so: who is added, or gets another password, need not wait for anything,
//! unless the operator chose that.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::config::{Auth, Backend, MemorySecret};
use crate::proto::digest::{Algorithm, Ha1};

mod cache;
mod health;
mod memory;
mod mysql;
mod sqlite;

use cache::Cache;
pub use health::AccountsReady;
use health::Health;
use memory::Memory;
use mysql::Mysql;
use sqlite::Sqlite;
pub use sqlite::{User, UserFile, UserFileError};

/// What a look-up says.
#[derive(Clone, Debug)]
pub enum Answer {
    /// There is such a user.
    Found(Secret),
    /// There is no such user.
    Unknown,
    /// Nobody can tell now.
    Unavailable(WhyUnavailable),
}

/// Why nobody can tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhyUnavailable {
    /// Too many look-ups wait already, or the control thread has gone.
    Busy,
    /// The backend takes too long.
    Late,
    /// The backend fails.
    Failed,
}

/// What proves a user. Never printed.
#[derive(Clone)]
pub enum Secret {
    /// The password, from which any HA1 can be made.
    Password(String),
    /// The stored H(user:realm:password), for one algorithm or both.
    Hashed {
        /// With MD5.
        md5: Option<Ha1>,
        /// With SHA-256.
        sha256: Option<Ha1>,
    },
}

impl Secret {
    /// The HA1 of RFC 7616, section 3.4.2; `None` if only another algorithm's is stored.
    /// `user` and `realm` are taken octet by octet as they stand in the Authorization.
    #[must_use]
    pub fn ha1(&self, user: &str, realm: &str, algorithm: Algorithm) -> Option<Ha1> {
        match (self, algorithm) {
            (Self::Password(password), _) => Some(Ha1::new(algorithm, user, realm, password)),
            (Self::Hashed { md5, .. }, Algorithm::Md5) => md5.clone(),
            (Self::Hashed { sha256, .. }, Algorithm::Sha256) => sha256.clone(),
        }
    }
}

impl From<&MemorySecret> for Secret {
    fn from(secret: &MemorySecret) -> Self {
        match secret {
            MemorySecret::Password(password) => Self::Password(password.clone()),
            MemorySecret::Ha1 { md5, sha256 } => Self::Hashed { md5: md5.clone(), sha256: sha256.clone() },
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What the config says of accounts.
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

/// Where accounts are stored.
#[derive(Debug)]
enum Store {
    Memory(Memory),
    Sqlite(Sqlite),
    Mysql(Mysql),
    /// Backends that go wrong, for the tests of those who ask.
    #[cfg(test)]
    Silent,
    #[cfg(test)]
    Panicking,
    /// One that answers when it is told to, and counts.
    #[cfg(test)]
    Counting(Rc<tests::Counting>),
}

impl Store {
    /// May take as long as its storage does; the caller sets the time-out.
    async fn look_up(&self, user: &str, realm: &str) -> Answer {
        match self {
            Self::Memory(memory) => memory.look_up(user, realm),
            Self::Sqlite(sqlite) => sqlite.look_up(user, realm).await,
            Self::Mysql(mysql) => mysql.look_up(user, realm).await,
            #[cfg(test)]
            Self::Silent => std::future::pending().await,
            #[cfg(test)]
            #[allow(clippy::panic, reason = "what the test is about")]
            Self::Panicking => panic!("a backend with a bug"),
            #[cfg(test)]
            Self::Counting(counting) => counting.look_up(user).await,
        }
    }
}

/// Who was asked for: the user and the realm, octet by octet.
type Name = (String, String);

/// The backend that the config chose, asked once for whoever asks the same at the same time, and no more often than
/// the cache allows.
#[derive(Debug)]
pub(super) struct Accounts {
    store: Store,
    health: Rc<Health>,
    /// Look-ups under way, and who waits for what they will say.
    under_way: RefCell<HashMap<Name, Vec<oneshot::Sender<Answer>>>>,
    cache: Option<RefCell<Cache>>,
}

impl Accounts {
    /// To be called where the backend's tasks are to run.
    pub(super) fn new(settings: &AccountsSettings, ready: AccountsReady) -> Self {
        let health = Rc::new(Health::new(ready));
        let store = match &settings.backend {
            Backend::Memory(users) => {
                health.well(&format_args!("{} in the config", users.len()));
                Store::Memory(Memory::new(users))
            }
            Backend::Sqlite(settings) => Store::Sqlite(Sqlite::new(settings, Rc::clone(&health))),
            Backend::Mysql(settings) => Store::Mysql(Mysql::new(settings, Rc::clone(&health))),
        };
        Self::over(store, health, settings.cache)
    }

    fn over(store: Store, health: Rc<Health>, cache: Option<(Duration, usize)>) -> Self {
        let cache = cache.map(|(time, entries_max)| RefCell::new(Cache::new(time, entries_max)));
        Self { store, health, under_way: RefCell::default(), cache }
    }

    /// A backend that never answers.
    #[cfg(test)]
    pub(super) fn silent(ready: AccountsReady) -> Self {
        Self::over(Store::Silent, Rc::new(Health::new(ready)), None)
    }

    /// A backend with a bug.
    #[cfg(test)]
    pub(super) fn panicking(ready: AccountsReady) -> Self {
        Self::over(Store::Panicking, Rc::new(Health::new(ready)), None)
    }

    /// May take as long as the storage does; the caller sets the time-out.
    pub(super) async fn look_up(&self, user: &str, realm: &str) -> Answer {
        let name = (user.to_owned(), realm.to_owned());
        if let Some(secret) = self.cached(&name) {
            return Answer::Found(secret);
        }
        loop {
            let waiting = match self.under_way.borrow_mut().entry(name.clone()) {
                Entry::Occupied(mut others) => {
                    let (told, waiting) = oneshot::channel();
                    others.get_mut().push(told);
                    Some(waiting)
                }
                Entry::Vacant(first) => {
                    first.insert(Vec::new());
                    None
                }
            };
            match waiting {
                None => return self.ask(name).await,
                // Whoever asked had less time left, or met a bug: then one of those who waited asks.
                Some(waiting) => match waiting.await {
                    Ok(answer) => return answer,
                    Err(_) => continue,
                },
            }
        }
    }

    /// Asks the storage, on behalf of all who wait.
    async fn ask(&self, name: Name) -> Answer {
        let under_way = UnderWay { accounts: self, name };
        let answer = self.store.look_up(&under_way.name.0, &under_way.name.1).await;
        if let (Answer::Found(secret), Some(cache)) = (&answer, &self.cache) {
            cache.borrow_mut().insert(under_way.name.clone(), secret.clone());
        }
        for told in under_way.end() {
            let _ = told.send(answer.clone());
        }
        answer
    }

    fn cached(&self, name: &Name) -> Option<Secret> {
        self.cache.as_ref()?.borrow_mut().get(name)
    }

    /// Another backend takes over. Look-ups under way still get their answers from this one.
    pub(super) fn retire(&self) {
        self.health.retire();
    }
}

/// A look-up that is over when this is dropped, whatever ended it.
struct UnderWay<'a> {
    accounts: &'a Accounts,
    name: Name,
}

impl UnderWay<'_> {
    /// Those who wait.
    fn end(&self) -> Vec<oneshot::Sender<Answer>> {
        self.accounts.under_way.borrow_mut().remove(&self.name).unwrap_or_default()
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        // If there are any left, nobody has an answer for them: they see that they were dropped.
        drop(self.end());
    }
}

#[cfg(test)]
mod tests;
