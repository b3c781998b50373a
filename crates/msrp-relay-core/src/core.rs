//! What every handler works in, beside its table: the time, the settings, the randomness, which cores live, the steps to
//! be taken next, what the caller is to do, and what is counted.
//!
//! Invariants: a step for this core is queued, one for another core leaves as a parcel, in the order in which they were
//! sent; nothing is sent to a core that is known to be dead.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use super::admission::{Bans, Register};
use super::budget::Budget;
use super::effect::{Effects, Event};
use super::forward::SpareQueues;
use super::ids::{CoreId, Entropy, PeerKey, PeerRef, SessionRef};
use super::limit::Limit;
use super::message::{CoreStep, Message, PeerStep, SessionStep};
use super::newcomers::Newcomers;
use super::orphan::Orphans;
use super::rate::Rates;
use super::settings::Settings;
use super::stats::Stats;
use super::transaction::Room;

/// What every step needs beside the tables.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) me: CoreId,
    /// The present life of each core, by position; `None` while it is down.
    pub(super) cores: Vec<Option<u16>>,
    /// The last life of each core that has ended.
    pub(super) ended: Vec<Option<u16>>,
    pub(super) settings: Settings,
    pub(super) entropy: Entropy,
    pub(super) now: Instant,
    /// What the caller is to do and has not been given yet.
    pub(super) effects: Effects,
    /// Steps to be taken on this core before the input is done with.
    pub(super) inbox: VecDeque<Message>,
    pub(super) orphans: Orphans,
    /// When to look at which connection; at most one entry per connection.
    pub(super) alarms: BTreeSet<(Instant, PeerKey)>,
    /// No further sessions are opened.
    pub(super) draining: bool,
    /// Generations of other processes of this relay: what is for their sessions is passed to them.
    pub(super) kin: [Option<u8>; 2],
    /// Nothing more is read.
    pub(super) stopping: bool,
    /// Connections that have proven nothing.
    pub(super) newcomers: Newcomers,
    pub(super) budget: Budget,
    pub(super) register: Register,
    pub(super) bans: Bans,
    pub(super) rates: Rates,
    pub(super) spare: SpareQueues,
    pub(super) stats: Stats,
}

impl Core {
    /// `seed` must come from the operating system's generator.
    pub(super) fn new(me: CoreId, settings: Settings, seed: [u8; 32], now: Instant) -> Self {
        let mut entropy = Entropy::new(seed);
        let mut cores = vec![Some(0); usize::from(settings.cores)];
        if let Some(own) = cores.get_mut(usize::from(me.index)) {
            *own = Some(me.incarnation);
        }
        Self {
            me,
            ended: vec![None; cores.len()],
            budget: Budget::new(settings.limits.queue_octets_total, cores.len()),
            register: Register::new(cores.len(), &mut entropy),
            bans: Bans::new(&mut entropy),
            newcomers: Newcomers::new(&mut entropy),
            rates: Rates::new(settings.limits.octets_per_second_per_user_max, &mut entropy),
            cores,
            settings,
            entropy,
            now,
            effects: Effects::default(),
            inbox: VecDeque::new(),
            orphans: Orphans::default(),
            alarms: BTreeSet::new(),
            draining: false,
            kin: [None; 2],
            stopping: false,
            spare: SpareQueues::default(),
            stats: Stats::default(),
        }
    }

    /// Sends a message to whoever takes the next step, here or elsewhere.
    pub(super) fn post(&mut self, message: Message) {
        let to = message.core();
        if to == self.me {
            self.inbox.push_back(message);
        } else if !self.has_ended(to) {
            self.stats.parcels += 1;
            self.effects.parcel(to, message);
        }
    }

    pub(super) fn tell_session(&mut self, to: SessionRef, step: SessionStep) {
        self.post(Message::ToSession { to, step });
    }

    pub(super) fn tell_peer(&mut self, to: PeerRef, step: PeerStep) {
        self.post(Message::ToPeer { to, step });
    }

    pub(super) fn tell_core(&mut self, to: CoreId, step: CoreStep) {
        self.post(Message::ToCore { to, step });
    }

    /// A limit was reached: counted, and told to the log.
    pub(super) fn bite(&mut self, limit: Limit, peer: Option<PeerKey>) {
        self.count_limit(limit);
        self.effects.event(Event::LimitReached { limit, peer, user: None });
    }

    /// The same for what happens all the time and is nobody's fault.
    pub(super) fn count_limit(&mut self, limit: Limit) {
        if let Some(count) = self.stats.limits_reached.get_mut(limit as usize) {
            *count += 1;
        }
    }

    /// Octets of a request have come in.
    pub(super) fn hold(&mut self, octets: usize) {
        if self.budget.hold(octets) {
            self.bite(Limit::QueueBytesTotal, None);
        }
    }

    /// Something that took `before` bytes of memory beside queued ones takes `now`.
    pub(super) fn keep(&mut self, before: usize, now: usize) {
        if self.budget.keep(before, now) {
            self.bite(Limit::QueueBytesTotal, None);
        }
    }

    /// How many transactions one connection may have open before the next request for it waits: few while memory
    /// is short, for each of them is memory.
    pub(super) fn room(&self) -> Room {
        let max = self.settings.limits.transactions_per_peer_max;
        if self.budget.is_pressed() { Room::short(max) } else { Room::ample(max) }
    }

    /// Gives octets back to the connection they came in by.
    pub(super) fn credit(&mut self, peer: PeerRef, octets: usize) {
        if octets > 0 {
            let from = self.me;
            self.tell_peer(peer, PeerStep::Credit { from, octets });
        }
    }

    pub(super) fn is_alive(&self, core: CoreId) -> bool {
        self.cores.get(usize::from(core.index)).copied().flatten() == Some(core.incarnation)
    }

    /// Whether a core is known to be dead. One that is started again may write before we hear of it.
    pub(super) fn has_ended(&self, core: CoreId) -> bool {
        self.ended.get(usize::from(core.index)).copied().flatten() == Some(core.incarnation)
    }

    /// Whether a message of another core is for us and not from the grave.
    pub(super) fn may_come_in(&self, message: &Message) -> bool {
        message.core() == self.me && !message.origin().is_some_and(|core| self.has_ended(core))
    }
}
