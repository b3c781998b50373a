//! The clients that ask for sessions of ours through a relay (RFC 4976, 6.3; reqs A10, A13, A15).
//!
//! One connection with a relay may lead to many clients. The first URI in From-Path tells them apart: the relay has
//! minted it for one client alone. Each client has its own challenges, failures and sessions, and waits for no other.
//!
//! Invariants: the number of remembered clients is bounded; the oldest one with no session and no open question makes
//! room. A client's fault costs neither the others nor the connection. A connection has a client at its other end, or
//! clients behind it, never both.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::state::AuthState;
use crate::ids::{Entropy, SecretHasher, SessionRef};
use msrp_proto::digest::Verified;

/// Clients behind one relay that have sessions of ours by one connection.
const CLIENTS_MAX: usize = 4096;
/// Clients without a session so far: it takes no account to be one of them.
const ASKING_MAX: usize = 256;

/// Sessions of clients behind relays may take one part in so many of the memory. They last as long as they are
/// refreshed, and the clients without sessions take less: memory that is short must be able to become ample again.
pub(super) const SESSIONS_PART: usize = 3;

/// The clients behind a relay, on one connection with it.
#[derive(Debug)]
pub(crate) struct Behind {
    clients: HashMap<Arc<[u8]>, Client, SecretHasher>,
    /// How many clients there may be before the next search for some to forget.
    room: usize,
    /// How many clients have come so far.
    met: u64,
    /// The clients that wait for an answer of the accounts, or for a place among a user's sessions.
    tickets: HashMap<u32, Ticket>,
    next_ticket: u32,
    /// Bytes of the URIs, and of the AUTHs that wait.
    bytes: usize,
}

/// An AUTH that waits for something.
#[derive(Debug)]
struct Ticket {
    uri: Arc<[u8]>,
    /// Bytes of memory that it takes.
    bytes: usize,
}

/// The memory of a client beside its URI: its entry, in a table that may be half empty, and its nonces.
const CLIENT_BYTES: usize = 2 * size_of::<Client>() + 256;

/// One of them.
#[derive(Debug)]
pub(crate) struct Client {
    pub(super) auth: AuthState,
    /// Its number in the order of arrival.
    met: u64,
    pub(super) sessions: Vec<SessionRef>,
    /// It has failed too often: no AUTH is tried before that time.
    pub(super) blocked_until: Option<Instant>,
}

impl Behind {
    pub(super) fn new(entropy: &mut Entropy) -> Self {
        Self {
            clients: HashMap::with_hasher(SecretHasher::new(entropy)),
            room: ASKING_MAX,
            met: 0,
            tickets: HashMap::new(),
            next_ticket: 0,
            bytes: 0,
        }
    }

    pub(crate) fn is_several(&self) -> bool {
        self.clients.len() > 1
    }

    pub(super) fn client(&mut self, uri: &[u8]) -> Option<&mut Client> {
        self.clients.get_mut(uri)
    }

    /// Makes room for a client, unless it is known, or all others have sessions or wait for something.
    pub(super) fn meet(
        &mut self,
        uri: &[u8],
        is_open: &impl Fn(SessionRef) -> bool,
        entropy: &mut Entropy,
    ) -> Option<&mut Client> {
        if !self.clients.contains_key(uri) {
            if self.clients.len() >= self.room {
                self.forget_some(is_open);
            }
            if self.clients.len() >= CLIENTS_MAX {
                return None;
            }
            self.met += 1;
            let auth = AuthState::new(entropy);
            let client = Client { auth, met: self.met, sessions: Vec::new(), blocked_until: None };
            self.clients.insert(Arc::from(uri), client);
            self.bytes += uri.len();
        }
        let client = self.clients.get_mut(uri)?;
        client.sessions.retain(|session| is_open(*session));
        Some(client)
    }

    /// Forgets the clients that have no session and wait for nothing, except the latest. The next search comes after as
    /// many more clients.
    fn forget_some(&mut self, is_open: &impl Fn(SessionRef) -> bool) {
        let mut idle = Vec::new();
        for client in self.clients.values_mut() {
            client.sessions.retain(|session| is_open(*session));
            if client.is_idle() {
                idle.push(client.met);
            }
        }
        idle.sort_unstable();
        let kept_from = idle.len().checked_sub(ASKING_MAX / 2).and_then(|first| idle.get(first)).copied();
        self.retain(|client| !client.is_idle() || Some(client.met) >= kept_from);
    }

    /// Forgets all clients that have no session and wait for nothing. Their next AUTH gets a new challenge.
    pub(crate) fn forget_idle(&mut self, is_open: &impl Fn(SessionRef) -> bool) {
        for client in self.clients.values_mut() {
            client.sessions.retain(|session| is_open(*session));
        }
        self.retain(|client| !client.is_idle());
        self.clients.shrink_to_fit();
    }

    fn retain(&mut self, stays: impl Fn(&Client) -> bool) {
        let bytes = &mut self.bytes;
        self.clients.retain(|uri, client| {
            let stays = stays(client);
            *bytes -= if stays { 0 } else { uri.len() };
            stays
        });
        self.room = self.clients.len() + ASKING_MAX / 2;
    }

    /// One of those who have sessions.
    pub(super) fn first_verified(&self) -> Option<&Verified> {
        let with_sessions = self.clients.values().filter(|client| !client.sessions.is_empty());
        with_sessions.filter_map(|client| client.auth.verified()).next()
    }

    /// Bytes of memory that the clients and their AUTHs take.
    pub(crate) fn kept(&self) -> usize {
        self.bytes + self.clients.len() * CLIENT_BYTES
    }

    /// A number for an AUTH that takes so many bytes while it waits.
    pub(super) fn take_ticket(&mut self, uri: &[u8], bytes: usize) -> u32 {
        self.next_ticket = self.next_ticket.wrapping_add(1);
        let bytes = bytes + uri.len();
        self.bytes += bytes;
        self.tickets.insert(self.next_ticket, Ticket { uri: Arc::from(uri), bytes });
        self.next_ticket
    }

    /// The client with this ticket.
    pub(super) fn by_ticket(&mut self, number: u32) -> Option<&mut AuthState> {
        let ticket = self.tickets.get(&number)?;
        self.clients.get_mut(&ticket.uri).map(|client| &mut client.auth)
    }

    pub(super) fn drop_ticket(&mut self, number: u32) {
        if let Some(ticket) = self.tickets.remove(&number) {
            self.bytes -= ticket.bytes;
        }
    }

    pub(super) fn is_any_waiting(&self) -> bool {
        self.states().any(AuthState::is_waiting)
    }

    /// A session has another owner from now on.
    pub(super) fn move_to(&mut self, session: SessionRef) {
        let all = self.clients.values_mut().flat_map(|client| &mut client.sessions);
        all.filter(|own| own.id == session.id).for_each(|own| *own = session);
    }

    pub(super) fn states(&self) -> impl Iterator<Item = &AuthState> {
        self.tickets.values().filter_map(|ticket| self.clients.get(&ticket.uri)).map(|client| &client.auth)
    }
}

impl Client {
    fn is_idle(&self) -> bool {
        self.sessions.is_empty() && !self.auth.is_waiting()
    }

    pub(super) fn block_until(&mut self, until: Instant) {
        self.blocked_until = Some(until);
        self.auth.failures = 0;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state what must hold")]
mod tests {
    use super::*;
    use crate::ids::{CoreId, SessionId};

    // A client that comes again after its sessions have ended, and gets none, must be forgotten like the others: else a
    // long-lived connection fills up in the end.
    #[test]
    fn who_comes_again_without_a_session_can_be_forgotten() {
        let mut entropy = Entropy::new([1; 32]);
        let mut behind = Behind::new(&mut entropy);
        for number in 0..2 * CLIENTS_MAX {
            let uri = number.to_be_bytes();
            let client = behind.meet(&uri, &|_| false, &mut entropy).unwrap();
            let id = SessionId::mint(CoreId { index: 0, incarnation: 0 }, &mut Entropy::new([2; 32]));
            client.sessions.push(SessionRef { core: id.home(), id });
            // The session has ended.
            behind.meet(&uri, &|_| false, &mut entropy).unwrap();
        }
        assert!(behind.clients.len() <= ASKING_MAX, "{} are remembered", behind.clients.len());
        let latest = (2 * CLIENTS_MAX - 1).to_be_bytes();
        assert!(behind.clients.contains_key(&latest[..]), "the latest is among them");
    }
}
