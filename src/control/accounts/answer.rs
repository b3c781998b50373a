//! The answer of a look-up, and the user's proof.

use std::fmt;

use crate::config::MemorySecret;
use msrp_proto::digest::{Algorithm, Attempt, Ha1};

/// The answer of a look-up.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The user exists.
    Found(Secret),
    /// There is no such user.
    Unknown,
    /// The backend cannot tell at present.
    Unavailable(WhyUnavailable),
}

impl Answer {
    /// The user's secret, if there is one.
    #[must_use]
    pub fn secret(&self) -> Option<&Secret> {
        match self {
            Self::Found(secret) => Some(secret),
            Self::Unknown | Self::Unavailable(_) => None,
        }
    }
}

/// Why the backend cannot tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhyUnavailable {
    /// Too many look-ups wait already, or the control thread has gone.
    Busy,
    /// Too many look-ups of the same address were under way, so that this one got no turn in time.
    Share,
    /// The backend takes too long.
    Late,
    /// The backend fails.
    Failed,
}

/// The secret that proves a user. Never printed.
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
    /// The HA1 of RFC 7616, section 3.4.2; `None` if there is no secret, or only another algorithm's is stored. `user`
    /// and `realm` are used as in the Authorization, byte by byte.
    ///
    /// A password costs one hash more, with or without an account: the time must not show who has one (req S9).
    #[must_use]
    pub fn ha1(secret: Option<&Self>, user: &str, realm: &str, algorithm: Algorithm) -> Option<Ha1> {
        let password = match secret {
            Some(Self::Password(password)) => password,
            Some(Self::Hashed { .. }) | None => "",
        };
        let made = std::hint::black_box(Ha1::new(algorithm, user, realm, password));
        match (secret?, algorithm) {
            (Self::Password(_), _) => Some(made),
            (Self::Hashed { md5, .. }, Algorithm::Md5) => md5.clone(),
            (Self::Hashed { sha256, .. }, Algorithm::Sha256) => sha256.clone(),
        }
    }

    /// Whether the client knows it. Costs the same if there is no secret.
    pub(super) fn is_proven(secret: Option<&Self>, attempt: &Attempt) -> bool {
        let (user, realm, algorithm) = (attempt.user(), attempt.realm(), attempt.algorithm());
        let ha1 = Self::ha1(secret, user, realm, algorithm);
        attempt.proves(&ha1.unwrap_or_else(|| Ha1::dummy(algorithm)))
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
