//! The connections of one core.
//!
//! Owns every connection of the core, each in a slot whose key is never used again. This file has the table and what is
//! done to all of it; [`receive`], what comes in; [`deliver`], the steps that sessions and other connections ask for;
//! [`lifecycle`], how a connection begins and ends. Handlers touch this table and the context, nothing else: a session
//! gets a message.
//!
//! Invariant: only the core that owns a connection writes to it.

pub(crate) mod deliver;
pub(crate) mod lifecycle;
pub(crate) mod peer;
pub(crate) mod receive;
mod relays;
pub(crate) mod state;

use msrp_proto::uri::MsrpUri;

use crate::api::WriteState;
use crate::auth::through_relay::Behind;
use crate::core::Core;
use crate::ids::{PeerKey, SessionRef};
use crate::outbound::batch::OutBatch;
use crate::outbound::write::WriteContext;
use crate::quota::who::{Share, Who};
use crate::table::Table;
use crate::transactions::Room;

use peer::Peer;
use relays::Relays;
use state::Role;

/// The largest flush while memory is short: the floor of `limits.flush_bytes_max`.
const PRESSED_FLUSH_MAX: usize = 16 << 10;

/// The table of connections.
#[derive(Debug)]
pub(crate) struct Peers {
    table: Table<PeerKey, Peer>,
    relays: Relays,
    /// Places that are kept for connections on their way here from other cores.
    pub(crate) expected: usize,
}

impl Peers {
    pub(crate) fn new() -> Self {
        Self { table: Table::new(), relays: Relays::default(), expected: 0 }
    }

    // -- getters ---------------------------------------------------------------------------------

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn get(&self, key: PeerKey) -> Option<&Peer> {
        self.table.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: PeerKey) -> Option<&mut Peer> {
        self.table.get_mut(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.table.walk().map(|(_, peer)| peer)
    }

    /// All of them, for [`TableSizes`](crate::TableSizes).
    pub(crate) fn for_sizes(&self) -> impl Iterator<Item = &Peer> {
        self.table.walk_uncounted()
    }

    /// How often all of them were walked through.
    pub(crate) fn walks(&self) -> u64 {
        self.table.walks()
    }

    /// Entries of connections with relays.
    pub(crate) fn relays_len(&self) -> usize {
        self.relays.len()
    }

    /// Whether a connection serves a session.
    pub(crate) fn serves_session(&self, key: PeerKey) -> bool {
        self.get(key).is_some_and(Peer::is_in_use)
    }

    /// A connection with the relay of a URI, if there is one.
    pub(crate) fn with_relay_of(&self, uri: &[u8]) -> Option<&Peer> {
        let uri_parsed = MsrpUri::parse(uri).ok()?;
        let all = self.relays.of_host(uri_parsed.host_str()).filter_map(|key| self.get(key));
        all.into_iter().find(|peer| peer.leads_to_relay_of(uri))
    }

    /// What all connections contribute to the counts by address and by user.
    pub(crate) fn shares(&self) -> impl Iterator<Item = (Who, Share)> {
        self.iter().flat_map(Peer::shares)
    }

    // -- output ----------------------------------------------------------------------------------

    /// Moves the bytes that a connection may be sent into `out`: one flush.
    pub(crate) fn poll_write(&mut self, key: PeerKey, out: &mut OutBatch, core: &mut Core) -> WriteState {
        let Some(peer) = self.table.get_mut(key) else {
            return WriteState::Finished;
        };
        peer.writing.is_woken = false;
        peer.writing.last_taken = core.now;
        let limits = &core.settings.limits;
        let pressed = core.memory.is_pressed();
        let budget = limits.flush_bytes_max.min(if pressed { PRESSED_FLUSH_MAX } else { usize::MAX });
        let room = core.room();
        // Bytes that are not yet credited must not keep their source paused, whatever the pressure on its core.
        let credit_batch = limits.request_bytes_max / 2;
        let (deaf, closing, framed) = (peer.is_paused(), peer.phase.is_closing(), peer.out.is_framed());
        peer.out.fill(out, budget, &mut WriteContext { core, room, credit_batch, deaf, closing, framed });
        peer.writing.is_taking = !out.is_empty();
        peer.writing.bytes_in_hand = out.len();
        peer.set_alarm(core);
        peer.count_full_table(core);
        peer.update_pause(core);
        match peer.phase.is_closing() && peer.out.is_empty() {
            true => WriteState::Finished,
            false => WriteState::Open,
        }
    }

    // -- all of them -----------------------------------------------------------------------------

    /// Memory is ample again: the connections that waited for it go on.
    pub(crate) fn resume_all(&mut self, core: &mut Core) {
        let room = Room::short(core.settings.limits.transactions_per_peer_max);
        for peer in self.table.walk_mut() {
            peer.update_pause(core);
            if peer.out.transactions.is_full(room) {
                peer.wake(core);
            }
        }
    }

    /// Memory is short: forgets clients behind relays, or of a shared WebSocket, that have no session and wait for nothing;
    /// they ask again. Otherwise they could fill the budget for as long as they are connected. The one client of a connection
    /// of its own is not forgotten before that connection.
    pub(crate) fn forget_askers(&mut self, is_open: &impl Fn(SessionRef) -> bool, core: &mut Core) {
        for peer in self.table.walk_mut() {
            let is_shared = |behind: &&mut Behind| !peer.transport.websocket || behind.is_several();
            if let Some(behind) = peer.applicants.behind_mut().filter(is_shared) {
                behind.forget_idle(is_open);
                peer.recount(core);
            }
        }
    }

    /// Other settings hold; `rate` is the bytes that a user may send in a second from here on.
    pub(crate) fn on_reconfigured(&mut self, rate: u64, core: &mut Core) {
        for peer in self.table.walk_mut() {
            if rate == 0 {
                peer.stop_throttling();
            }
            for (source, bytes) in peer.out.take_owed() {
                core.credit(source, bytes);
            }
            if peer.out.is_framed() {
                peer.out.frame(&core.settings.websocket);
            }
            peer.count_full_table(core);
            peer.update_pause(core);
            peer.set_alarm(core);
            // More may be written at a time, or await an answer.
            peer.wake(core);
        }
    }

    /// The connections of counted users get their buckets.
    pub(crate) fn begin_rates(&self, core: &mut Core) {
        for user in self.iter().filter_map(|peer| peer.user) {
            core.rates.begin(user, core.now);
        }
    }

    /// Connections with a session that opened while nothing was counted count among their users' from here on.
    pub(crate) fn count_all(&mut self, core: &mut Core) {
        for peer in self.table.walk_mut() {
            let has_session = matches!(&peer.role, Role::Client { sessions } if !sessions.is_empty());
            let user = peer.verified_user();
            if let Some(user) = user.filter(|_| has_session && peer.user.is_none()) {
                peer.count_among(user, core);
            }
        }
    }
}
