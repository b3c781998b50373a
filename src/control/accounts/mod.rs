//! Accounts: who there is, and what proves them.
//!
//! Invariant: three answers, never mixed. [`Answer::Unknown`] is said only by a backend that looked and found
//! nobody; whatever went wrong is [`Answer::Unavailable`], so that a broken backend never looks like a wrong
//! password. Where accounts are stored is known to the backends below alone. RFC 4976, section 5.1.

use std::fmt;

use crate::config::{Backend, MemorySecret};
use crate::proto::digest::{Algorithm, Ha1};

mod memory;

use memory::Memory;

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

/// The backend that the config chose.
#[derive(Debug)]
pub(super) enum Accounts {
    Memory(Memory),
    /// Backends that go wrong, for the tests of those who ask.
    #[cfg(test)]
    Silent,
    #[cfg(test)]
    Panicking,
}

impl Accounts {
    pub(super) fn new(backend: &Backend) -> Self {
        match backend {
            Backend::Memory(users) => Self::Memory(Memory::new(users)),
        }
    }

    /// May take as long as its storage does; the caller sets the time-out.
    #[cfg_attr(not(test), expect(clippy::unused_async, reason = "a backend that has to wait will"))]
    pub(super) async fn look_up(&self, user: &str, realm: &str) -> Answer {
        match self {
            Self::Memory(memory) => memory.look_up(user, realm),
            #[cfg(test)]
            Self::Silent => std::future::pending().await,
            #[cfg(test)]
            #[allow(clippy::panic, reason = "what the test is about")]
            Self::Panicking => panic!("a backend with a bug"),
        }
    }
}
