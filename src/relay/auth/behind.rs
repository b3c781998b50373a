//! The clients behind a relay: who asks for sessions of ours through it (RFC 4976, 6.3; norms A10, A13, A15).
//!
//! One connection with a relay may lead to many clients. Each is told from the others by the URI that the relay has put
//! first into From-Path, which it has minted for that client and nobody else; each has its own challenges, failures and
//! sessions, and waits for nobody.
//!
//! Invariants: so many clients are remembered, and no more; the eldest who waits for nothing gives way. What one of them
//! does wrong costs neither the others nor the connection.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::{AuthState, Refusal};
use crate::proto::status::Status;
use crate::proto::uri::MsrpUri;
use crate::relay::ids::{Entropy, SecretHasher, SessionKey};
use crate::relay::message::Transit;
use crate::relay::peer::{Peer, Role};
use crate::relay::{CloseReason, Core};

/// Clients of one relay on one connection that are remembered.
const CLIENTS_MAX: usize = 4096;

/// The clients behind a relay, on one connection with it.
#[derive(Debug)]
pub(crate) struct Behind {
    clients: HashMap<Arc<[u8]>, Client, SecretHasher>,
    /// Eldest first.
    order: VecDeque<Arc<[u8]>>,
    /// Whose answer of the accounts, or whose place among a user's sessions, is still to come.
    tickets: HashMap<u32, Arc<[u8]>>,
    next_ticket: u32,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Client {
    pub(super) auth: AuthState,
    pub(super) sessions: Vec<SessionKey>,
    /// It has failed too often: nothing is tried before that.
    blocked_until: Option<Instant>,
}

impl Behind {
    pub(super) fn new(entropy: &mut Entropy) -> Self {
        Self {
            clients: HashMap::with_hasher(SecretHasher::new(entropy)),
            order: VecDeque::new(),
            tickets: HashMap::new(),
            next_ticket: 0,
        }
    }

    pub(super) fn client(&mut self, uri: &[u8]) -> Option<&mut Client> {
        self.clients.get_mut(uri)
    }

    /// Makes room for a client, unless it is known.
    fn meet(&mut self, uri: &[u8], entropy: &mut Entropy) {
        if self.clients.contains_key(uri) {
            return;
        }
        if self.clients.len() >= CLIENTS_MAX {
            let idle = |uri: &Arc<[u8]>| self.clients.get(uri).is_none_or(|client| !client.auth.is_waiting());
            if let Some(eldest) = self.order.iter().position(idle).and_then(|index| self.order.remove(index))
            {
                self.clients.remove(&eldest);
            }
        }
        let uri: Arc<[u8]> = Arc::from(uri);
        let client = Client { auth: AuthState::new(entropy), sessions: Vec::new(), blocked_until: None };
        self.clients.insert(Arc::clone(&uri), client);
        self.order.push_back(uri);
    }

    pub(super) fn take_ticket(&mut self, uri: &[u8]) -> u32 {
        self.next_ticket = self.next_ticket.wrapping_add(1);
        self.tickets.insert(self.next_ticket, Arc::from(uri));
        self.next_ticket
    }

    /// Whose ticket it is.
    pub(super) fn by_ticket(&mut self, number: u32) -> Option<&mut AuthState> {
        let uri = self.tickets.get(&number)?;
        self.clients.get_mut(uri).map(|client| &mut client.auth)
    }

    pub(super) fn drop_ticket(&mut self, number: u32) {
        self.tickets.remove(&number);
    }

    pub(super) fn states(&self) -> impl Iterator<Item = &AuthState> {
        self.tickets.values().filter_map(|uri| self.clients.get(uri)).map(|client| &client.auth)
    }
}

impl Client {
    pub(super) fn block_until(&mut self, until: Instant) {
        self.blocked_until = Some(until);
        self.auth.failures = 0;
    }
}

/// Whether an AUTH has come through a relay.
pub(super) fn is_through_relay(transit: &Transit) -> bool {
    transit.received_from_path().len() > 1
}

/// Admits an AUTH that has come through a relay to be judged like any other: the relay has proven to be the host of the
/// first URI in From-Path, and its clients are welcome (norms A14, A15). Returns the sessions that this client has.
pub(super) fn meet<'p>(
    peer: &'p mut Peer,
    transit: &Transit,
    core: &mut Core,
) -> Result<&'p [SessionKey], Refusal> {
    let forbidden = |why| Err(Refusal::Respond(Status::FORBIDDEN, why));
    let path = transit.received_from_path();
    let nearest = path.first().unwrap_or_default();
    match &peer.names {
        None => return forbidden("AUTH through a relay that has not proven its name"),
        Some(names) if !names.cover_host_of(nearest) => {
            return Err(Refusal::RespondAndClose(Status::FORBIDDEN, CloseReason::AnotherName));
        }
        Some(_) => {}
    }
    let uri = MsrpUri::parse(nearest)
        .map_err(|_| Refusal::Respond(Status::BAD_REQUEST, "From-Path is not a URI"))?;
    if !core.settings.admits(uri.host_str()) {
        return forbidden("AUTH through a relay that is not in outbound.relays");
    }
    if path.uris().any(|uri| MsrpUri::parse(uri).is_ok_and(|uri| core.is_ours(&uri))) {
        return forbidden("AUTH has come through this relay before");
    }
    if matches!(peer.role, Role::Client { .. }) {
        return forbidden("AUTH on a connection in other use");
    }
    let behind = peer.behind.get_or_insert_with(|| Box::new(Behind::new(&mut core.entropy)));
    behind.meet(nearest, &mut core.entropy);
    let Some(client) = behind.client(nearest) else {
        return forbidden("AUTH through a relay");
    };
    if client.blocked_until.is_some_and(|until| core.now < until) {
        return forbidden("Too many failed attempts, try again later");
    }
    Ok(&client.sessions)
}
