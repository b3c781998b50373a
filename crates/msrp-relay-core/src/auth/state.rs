//! What the relay knows of a client's authentication, on its own connection or behind a relay.
//!
//! Invariants: a nonce's count strictly rises; at most one AUTH of a client waits for something.

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use msrp_proto::digest::{Ha1, Verified};

use super::request::AuthRequest;
use crate::ids::{Entropy, SessionRef, UriId};
use crate::quota::who::UserKey;

/// What the relay knows of a client's authentication.
#[derive(Debug)]
pub(crate) struct AuthState {
    /// The challenge that awaits an answer.
    pub(super) challenge: Option<Nonce>,
    /// The next nonce that the last 200 named; lives as long as the session.
    pub(super) next: Option<Nonce>,
    pub(super) opaque: String,
    pub(super) failures: u32,
    pub(super) ticket: u32,
    pub(super) pending: Pending,
    /// The user that this connection belongs to.
    pub(super) user: Option<Arc<Verified>>,
    /// The user whose password was tried in vain: the beginning of the name.
    pub(super) tried: Option<Box<str>>,
}

#[derive(Debug)]
pub(super) struct Nonce {
    pub(super) text: String,
    pub(super) expires: Option<Instant>,
    /// The highest count seen; the next must be higher.
    pub(super) count: u32,
}

/// What a client's AUTH waits for.
#[derive(Debug, Default)]
pub(super) enum Pending {
    #[default]
    Nothing,
    /// The answer of the accounts.
    LookUp(Box<Waiting>),
    /// A place among its user's sessions.
    Place(Box<Claim>),
}

/// An AUTH whose user is being looked up.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) ticket: u32,
    pub(super) request: AuthRequest,
    pub(super) stale: bool,
    /// The URI that it prolongs, and that URI's session; `None`: it asks for a new URI.
    pub(super) refreshes: Option<(SessionRef, UriId)>,
}

/// An AUTH that has been checked and needs a place among its user's sessions.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) waiting: Box<Waiting>,
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
            pending: Pending::Nothing,
            user: None,
            tried: None,
        }
    }

    /// The user who owns these sessions.
    pub(crate) fn verified(&self) -> Option<&Verified> {
        self.user.as_deref()
    }

    /// The user of the connection, proven or claimed, for the log.
    pub(crate) fn user_name(&self) -> Option<&str> {
        self.user.as_ref().map(|user| user.username()).or(self.tried.as_deref())
    }

    /// Bytes of memory that the waiting AUTH takes.
    pub(super) fn kept(&self) -> usize {
        let waiting = match &self.pending {
            Pending::Nothing => return 0,
            Pending::LookUp(waiting) => waiting,
            Pending::Place(claim) => &claim.waiting,
        };
        waiting.request.transit().cost()
    }

    pub(super) fn is_waiting(&self) -> bool {
        !matches!(self.pending, Pending::Nothing)
    }

    /// The AUTH that waits for a place.
    pub(super) fn claim(&self) -> Option<&Claim> {
        match &self.pending {
            Pending::Place(claim) => Some(claim),
            Pending::Nothing | Pending::LookUp(_) => None,
        }
    }

    /// The AUTH that waits for the answer of the accounts with this number.
    pub(super) fn take_look_up(&mut self, ticket: u32) -> Option<Box<Waiting>> {
        match mem::take(&mut self.pending) {
            Pending::LookUp(waiting) if waiting.ticket == ticket => Some(waiting),
            other => {
                self.pending = other;
                None
            }
        }
    }

    /// The same for an AUTH that waits for a place.
    pub(super) fn take_claim(&mut self, ticket: u32) -> Option<Box<Claim>> {
        match mem::take(&mut self.pending) {
            Pending::Place(claim) if claim.waiting.ticket == ticket => Some(claim),
            other => {
                self.pending = other;
                None
            }
        }
    }

    /// Takes a nonce's next use. `None`: not a nonce of ours, or a replay; else whether it is stale.
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
    /// The user who gets the place.
    pub(super) fn user(&self) -> UserKey {
        UserKey::new(self.verified.username(), self.verified.realm())
    }
}

/// For how long a session is granted.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) seconds: u64,
    /// The session ends then; otherwise it lives as long as its connection.
    pub(super) enforced: bool,
}

/// A bound of Expires, in seconds.
pub(super) enum Bound {
    Min(u64),
    Max(u64),
}
