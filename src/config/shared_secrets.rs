//! What signs credentials that expire by themselves: the list `auth.shared_secrets`.
//!
//! Invariant: no problem and no `Debug` repeats a secret.

use std::fmt;
use std::time::Duration;

use serde_yaml::Value;

use super::walk::{self, Problems, Section};
use msrp_proto::digest::TimedNames;

/// Secrets there may be: the one that signs, and those that are on their way in or out. Each costs an AUTH two hashes.
const SECRETS_MAX: usize = 8;
/// A secret that can be guessed opens every account: the holder of one credential can try guesses offline.
const SECRET_BYTES: (usize, usize) = (16, 1024);
/// What the sample and the documentation have in its place.
const NO_SECRET: &str = "write here what openssl rand -hex 32 prints";
/// How long credentials may be good.
const TTL_BOUNDS: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(30 * 86_400));

/// One of `auth.shared_secrets`.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedSecret {
    /// The secret, as its bytes stand in the file.
    pub secret: String,
    /// The hash of the HMAC.
    pub algorithm: SecretAlgorithm,
    /// The longest time from now that a credential may be good.
    pub ttl_max: Duration,
    /// Whether the user name may be the expiry alone.
    pub without_user: bool,
}

/// The hash that signs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SecretAlgorithm {
    /// As Kamailio's `auth_ephemeral` and coturn have it by default.
    #[default]
    Sha1,
    /// As both can have it.
    Sha256,
}

impl SharedSecret {
    /// Which names are judged by these, and reach no backend.
    #[must_use]
    pub fn timed_names(all: &[Self]) -> TimedNames {
        match all {
            [] => TimedNames::None,
            _ if all.iter().any(|secret| secret.without_user) => TimedNames::Bare,
            _ => TimedNames::WithColon,
        }
    }
}

/// For people: what it takes, and nothing of what it is.
impl fmt::Display for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithm = match self.algorithm {
            SecretAlgorithm::Sha1 => "sha-1",
            SecretAlgorithm::Sha256 => "sha-256",
        };
        write!(f, "{algorithm} up to {}", walk::spell_duration(self.ttl_max))
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSecret")
            .field("algorithm", &self.algorithm)
            .field("ttl_max", &self.ttl_max)
            .field("without_user", &self.without_user)
            .finish_non_exhaustive()
    }
}

/// One as written.
pub(super) struct RawSharedSecret {
    /// The key path of the entry.
    at: String,
    secret: Option<String>,
    algorithm: SecretAlgorithm,
    ttl_max: Duration,
    without_user: bool,
}

impl RawSharedSecret {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let mut read = Self {
            at: section.path().to_owned(),
            secret: None,
            algorithm: SecretAlgorithm::default(),
            ttl_max: Duration::from_secs(86_400),
            without_user: false,
        };
        section.optional("secret", &mut read.secret, secret);
        let algorithms = [("sha-1", SecretAlgorithm::Sha1), ("sha-256", SecretAlgorithm::Sha256)];
        section.value("algorithm", &mut read.algorithm, walk::word(&algorithms));
        let ttl = walk::bounded(walk::duration, TTL_BOUNDS, walk::spell_duration);
        section.value("ttl_max", &mut read.ttl_max, ttl);
        section.value("without_user", &mut read.without_user, walk::boolean);
        read
    }
}

fn secret(value: &Value) -> Result<String, String> {
    const REMEDY: &str = "such as `openssl rand -hex 32` prints";
    let text = walk::text(value)?;
    let (min, max) = SECRET_BYTES;
    if text.trim() == NO_SECRET {
        return Err("is the text of the documentation, which everybody knows: write what `openssl rand -hex 32` prints".to_owned());
    }
    if text.trim() != text {
        return Err("begins or ends with white space, which others may leave out: remove it".to_owned());
    }
    match text.len() {
        bytes if (min..=max).contains(&bytes) => Ok(text),
        bytes => Err(format!("has {bytes} bytes: write {min} to {max}, {REMEDY}")),
    }
}

/// Those that are whole; what is wrong with the others is told.
pub(super) fn accept(written: &mut Vec<RawSharedSecret>, problems: &mut Problems) -> Vec<SharedSecret> {
    const KEY: &str = "auth.shared_secrets";
    if written.len() > SECRETS_MAX {
        problems.add(KEY, format!("has {} entries, {SECRETS_MAX} at most: remove old ones", written.len()));
    }
    let mut accepted: Vec<SharedSecret> = Vec::new();
    for RawSharedSecret { at, secret, algorithm, ttl_max, without_user } in written.drain(..) {
        let key = format!("{at}.secret");
        let Some(secret) = secret else {
            if !problems.under(&key) {
                problems.add(key, "is missing: write what `openssl rand -hex 32` prints");
            }
            continue;
        };
        if accepted.iter().any(|other| other.secret == secret && other.algorithm == algorithm) {
            problems.add(key, "is there twice: remove one");
        }
        accepted.push(SharedSecret { secret, algorithm, ttl_max, without_user });
    }
    accepted
}
