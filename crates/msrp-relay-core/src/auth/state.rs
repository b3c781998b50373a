//! What a client has to do with authentication, on its own connection or behind a relay.
//!
//! Invariants: a nonce's count strictly rises; at most one AUTH of a client waits for something.

use std::sync::Arc;
use std::time::Instant;

use msrp_proto::digest::{Ha1, Verified};

use super::request::AuthRequest;
use crate::ids::{Entropy, SessionRef, UriId};
use crate::quota::who::UserKey;

/// What a client has to do with authentication.
#[derive(Debug)]
pub(crate) struct AuthState {
    /// The challenge that is out.
    pub(super) challenge: Option<Nonce>,
    /// What the last 200 named as its successor; lives as long as the session.
    pub(super) next: Option<Nonce>,
    pub(super) opaque: String,
    pub(super) failures: u32,
    pub(super) ticket: u32,
    pub(super) waiting: Option<Waiting>,
    /// An AUTH in order, whose user may have too many sessions.
    pub(super) claim: Option<Box<Claim>>,
    /// The user that this connection belongs to.
    pub(super) user: Option<Arc<Verified>>,
    /// Whose password was tried in vain: the beginning of the name.
    pub(super) tried: Option<Box<str>>,
}

#[derive(Debug)]
pub(super) struct Nonce {
    pub(super) text: String,
    pub(super) expires: Option<Instant>,
    /// The highest count seen; the next must be higher.
    pub(super) count: u32,
}

/// An AUTH whose user is being looked up.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) ticket: u32,
    pub(super) request: AuthRequest,
    pub(super) stale: bool,
    /// The URI that it prolongs, and whose session that is; `None`: it asks for a new URI.
    pub(super) refreshes: Option<(SessionRef, UriId)>,
}

/// An AUTH that has been checked and needs a place among its user's sessions.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) waiting: Waiting,
    pub(super) verified: Verified,
    pub(super) ha1: Ha1,
    pub(super) granted: Granted,
}

impl AuthState {
    pub(super) fn new(entropy: &mut Entropy) -> Self {
        Self {
            challenge: None,
            next: None,
            opaque: entropy.nonce(),
            failures: 0,
            ticket: 0,
            waiting: None,
            claim: None,
            user: None,
            tried: None,
        }
    }

    /// Whose sessions these are.
    pub(crate) fn verified(&self) -> Option<&Verified> {
        self.user.as_deref()
    }

    /// Whose connection it is, or claimed to be, for the log.
    pub(crate) fn user_name(&self) -> Option<&str> {
        self.user.as_ref().map(|user| user.username()).or(self.tried.as_deref())
    }

    /// Bytes of memory that the AUTH takes which is being looked up.
    pub(crate) fn kept(&self) -> usize {
        let waiting = self.waiting.as_ref().or_else(|| self.claim.as_deref().map(|claim| &claim.waiting));
        waiting.map_or(0, |waiting| waiting.request.transit().cost())
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.is_some() || self.claim.is_some()
    }

    /// Takes a nonce's next use. `None`: never ours, or a replay; else whether it is stale.
    pub(super) fn use_nonce(&mut self, text: &str, count: u32, now: Instant) -> Option<bool> {
        let nonce = [&mut self.challenge, &mut self.next].into_iter().flatten().find(|n| n.text == text)?;
        if count <= nonce.count {
            return None;
        }
        nonce.count = count;
        Some(nonce.expires.is_some_and(|at| at <= now))
    }
}

impl Nonce {
    pub(super) fn new(entropy: &mut Entropy, expires: Option<Instant>) -> Self {
        Self { text: entropy.nonce(), expires, count: 0 }
    }
}

impl Claim {
    /// Whose place it is to be.
    pub(super) fn user(&self) -> UserKey {
        UserKey::new(self.verified.username(), self.verified.realm())
    }
}

/// For how long a session is granted.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) seconds: u64,
    /// It ends then; otherwise it lives as long as its connection.
    pub(super) enforced: bool,
}

/// A bound of Expires, in seconds.
pub(super) enum Bound {
    Min(u64),
    Max(u64),
}
