//! Credentials that expire by themselves: made from a secret that the relay shares with a web back end, as TURN servers and
//! Kamailio's `auth_ephemeral` do it.
//!
//! The user name is `EXPIRY:user`, the expiry in Unix seconds; the password is base64(HMAC(secret, user name)). No account is
//! looked up, so a core judges them by itself.
//!
//! Invariants: a name of that shape is judged here and nowhere else, whether it is good or not; what has expired costs the
//! same work as what has not, and as a wrong password; no secret and no password is ever printed by `Debug`.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::config::{SecretAlgorithm, SharedSecret};
use msrp_proto::digest::{Attempt, Ha1, TimedName, TimedNames};

/// How much the clock of who makes credentials may be ahead.
const CLOCK_GRACE: Duration = Duration::from_secs(60);

/// The list of the config, ready for use.
#[derive(Debug, Default)]
pub struct SharedSecrets {
    names: TimedNames,
    secrets: Vec<Secret>,
}

struct Secret {
    key: hmac::Key,
    ttl_max: Duration,
    without_user: bool,
}

/// What became of a credential.
#[derive(Debug)]
pub enum Verdict {
    /// It is good now; what the client has proven to know.
    Good(Ha1),
    /// One of the secrets has signed it, and yet it opens nothing.
    Bad(Objection),
    /// None of the secrets has signed it, or the client does not know the password.
    Wrong,
}

/// Why a credential that is signed opens nothing. For the operator: to the client it is a wrong password.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Objection {
    /// It was good once.
    Expired,
    /// It is good for longer than the secret's `ttl_max`.
    TooLong,
    /// It is an expiry alone, which the config does not allow.
    NoUser,
}

impl Objection {
    /// For the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "the credential has expired",
            Self::TooLong => "the credential is good for longer than ttl_max",
            Self::NoUser => "the credential names no user",
        }
    }
}

/// What a client logs in with.
pub struct Credential {
    /// `EXPIRY:user`.
    pub username: String,
    /// What proves it, until then.
    pub password: String,
    /// Unix seconds.
    pub expires: u64,
}

/// Why there is no credential.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SignError {
    /// The config has no secret.
    #[error("there is no secret to sign with: add one to auth.shared_secrets")]
    NoSecret,
    /// It would be refused.
    #[error("longer than auth.shared_secrets[0].ttl_max ({0:?}) allows")]
    TooLong(Duration),
}

impl SharedSecrets {
    /// As the config has them; the first one signs.
    #[must_use]
    pub fn new(settings: &[SharedSecret]) -> Self {
        let secret = |settings: &SharedSecret| {
            let algorithm = match settings.algorithm {
                SecretAlgorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
                SecretAlgorithm::Sha256 => hmac::HMAC_SHA256,
            };
            Secret {
                key: hmac::Key::new(algorithm, settings.secret.as_bytes()),
                ttl_max: settings.ttl_max,
                without_user: settings.without_user,
            }
        };
        Self { names: SharedSecret::timed_names(settings), secrets: settings.iter().map(secret).collect() }
    }

    /// Whether a name is judged here, and nowhere else.
    #[must_use]
    pub fn take(&self, name: &str) -> bool {
        self.names.parse(name).is_some()
    }

    /// `None`: the name is none of ours.
    #[must_use]
    pub fn judge(&self, attempt: &Attempt, now: SystemTime) -> Option<Verdict> {
        let name = self.names.parse(attempt.user())?;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut verdict = Verdict::Wrong;
        // By all of them, whatever the first says: expired or never right, it takes as long.
        for secret in &self.secrets {
            let password = secret.password(attempt.user());
            let ha1 = Ha1::new(attempt.algorithm(), attempt.user(), attempt.realm(), &password);
            let objection = secret.objection(name, now);
            match (attempt.proves(&ha1), objection) {
                (true, None) => verdict = Verdict::Good(ha1),
                (true, Some(objection)) if !matches!(verdict, Verdict::Good(_)) => {
                    verdict = Verdict::Bad(objection);
                }
                _ => {}
            }
        }
        Some(verdict)
    }

    /// A credential that is good for so long, by the first secret.
    ///
    /// # Errors
    /// If there is no secret, or that one allows no credential of such a length.
    pub fn sign(&self, user: &str, ttl: Duration, now: SystemTime) -> Result<Credential, SignError> {
        let secret = self.secrets.first().ok_or(SignError::NoSecret)?;
        if ttl > secret.ttl_max {
            return Err(SignError::TooLong(secret.ttl_max));
        }
        let expires = (now.duration_since(UNIX_EPOCH).unwrap_or_default() + ttl).as_secs();
        let username = format!("{expires}:{user}");
        let password = secret.password(&username);
        Ok(Credential { username, password, expires })
    }
}

impl Secret {
    fn password(&self, username: &str) -> String {
        STANDARD.encode(hmac::sign(&self.key, username.as_bytes()))
    }

    /// What there is to be said against a name that this secret has signed.
    fn objection(&self, name: TimedName<'_>, now: Duration) -> Option<Objection> {
        let latest = (now + self.ttl_max + CLOCK_GRACE).as_secs();
        if name.expires <= now.as_secs() {
            Some(Objection::Expired)
        } else if name.expires > latest {
            Some(Objection::TooLong)
        } else {
            (name.user.is_empty() && !self.without_user).then_some(Objection::NoUser)
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("username", &self.username).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn secret(algorithm: SecretAlgorithm) -> SharedSecret {
        let ttl_max = Duration::from_secs(3600);
        SharedSecret { secret: SECRET.to_owned(), algorithm, ttl_max, without_user: false }
    }

    fn password(algorithm: SecretAlgorithm, name: &str) -> String {
        SharedSecrets::new(&[secret(algorithm)]).secrets.first().unwrap().password(name)
    }

    // Made by `printf %s NAME | openssl dgst -binary -sha1 -hmac SECRET | base64`, and taken by the auth_ephemeral of
    // Kamailio 5.6.3, as scripts/interop-credentials.sh shows.
    #[test]
    fn passwords_are_those_of_other_implementations() {
        for (algorithm, name, expected) in [
            (SecretAlgorithm::Sha1, "1764400000:alice", "Q7+6XwwR4G0SpcsIzgRHs9waVZk="),
            (SecretAlgorithm::Sha256, "1764400000:alice", "Tp+yxTlh4cFj0O1XBnx6rCk/Bs+/3Xp5KCz0mZjQtE4="),
            (SecretAlgorithm::Sha1, "4102444800:bob", "mMDTi3tAR8fyPeRthMS3WmcIyyA="),
            (SecretAlgorithm::Sha256, "4102444800:bob", "7Lbhz5u+etWqTKo3MNEmdhpM5GLtFzU79LC8FB/1Q4Q="),
            (SecretAlgorithm::Sha1, "4102444800", "Qu8E0spPS1v7zZptAQc/SB8LEN8="),
            (SecretAlgorithm::Sha256, "4102444800", "5zcIwf2iEUqZLloBT5xyFkjDDFbMgzqJg4chkwK0xIQ="),
        ] {
            assert_eq!(password(algorithm, name), expected, "{name}");
        }
    }

    #[test]
    fn credential_is_good_from_now_until_its_expiry_and_no_longer_than_allowed() {
        let secrets = SharedSecrets::new(&[secret(SecretAlgorithm::Sha1)]);
        let secret = secrets.secrets.first().unwrap();
        let now = Duration::from_secs(1_764_400_000);
        let objection = |expires: u64, user| secret.objection(TimedName { expires, user }, now);
        let now = now.as_secs();
        for (expires, of_alice, of_no_user) in [
            (0, Some(Objection::Expired), Some(Objection::Expired)),
            (now - 1, Some(Objection::Expired), Some(Objection::Expired)),
            (now, Some(Objection::Expired), Some(Objection::Expired)),
            (now + 1, None, Some(Objection::NoUser)),
            (now + 3660, None, Some(Objection::NoUser)),
            (now + 3661, Some(Objection::TooLong), Some(Objection::TooLong)),
            (u64::MAX, Some(Objection::TooLong), Some(Objection::TooLong)),
        ] {
            assert_eq!(objection(expires, "alice"), of_alice, "{expires}");
            assert_eq!(objection(expires, ""), of_no_user, "{expires}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let secrets = SharedSecrets::new(&[secret(SecretAlgorithm::Sha1)]);
        let made = secrets.sign("alice", Duration::from_secs(60), SystemTime::now()).unwrap();
        let shown = format!("{secrets:?} {made:?} {:?}", secret(SecretAlgorithm::Sha1));
        assert!(!shown.contains(SECRET) && !shown.contains(&made.password), "{shown}");
    }
}
