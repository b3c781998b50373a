//! What every handler works in, beside its table: the time, the settings, the randomness, the live cores, the next
//! steps, the effects for the caller, the counters, and the books that every handler charges (memory, rates, bans,
//! newcomers, orphans). The documents call it the context.
//!
//! Invariants: a step for this core is queued, a step for another core leaves in a delivery, in the order in which they
//! were sent; a core that is known to be dead gets nothing.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use crate::api::Event;
use crate::cores::Cores;
use crate::effects::Effects;
use crate::ids::{CoreId, Entropy, PeerKey, PeerRef, SessionRef};
use crate::limit::Limit;
use crate::message::{CoreStep, Message, PeerStep, SessionStep};
use crate::orphans::Orphans;
use crate::outbound::item::SpareQueues;
use crate::quota::bans::Bans;
use crate::quota::memory::Memory;
use crate::quota::newcomers::Newcomers;
use crate::quota::rates::Rates;
use crate::quota::who::{Offence, Tally, Who};
use crate::settings::Settings;
use crate::stats::Stats;
use crate::transactions::Room;

/// How far the relay is on its way to stop; it never goes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Stop {
    /// It runs.
    No,
    /// No further sessions are opened.
    Draining,
    /// Nothing more is read.
    Quiet,
}

/// What every step needs beside the tables.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) me: CoreId,
    pub(crate) cores: Cores,
    pub(crate) settings: Settings,
    pub(crate) entropy: Entropy,
    pub(crate) now: Instant,
    /// Effects that the caller has not taken yet.
    pub(crate) effects: Effects,
    /// Steps to take on this core before this input is done.
    pub(crate) inbox: VecDeque<Message>,
    pub(crate) orphans: Orphans,
    /// When to look at which connection; at most one entry per connection.
    pub(crate) alarms: BTreeSet<(Instant, PeerKey)>,
    pub(crate) stop: Stop,
    /// Connections that have proven nothing.
    pub(crate) newcomers: Newcomers,
    pub(crate) memory: Memory,
    pub(crate) bans: Bans,
    pub(crate) rates: Rates,
    pub(crate) spare: SpareQueues,
    pub(crate) stats: Stats,
}

impl Core {
    /// `seed` must come from the operating system's generator.
    pub(crate) fn new(me: CoreId, settings: Settings, seed: [u8; 32], now: Instant) -> Self {
        let mut entropy = Entropy::new(seed);
        let cores = Cores::new(me, usize::from(settings.cores));
        Self {
            me,
            memory: Memory::new(settings.limits.queue_bytes_total, cores.len()),
            bans: Bans::new(&mut entropy),
            newcomers: Newcomers::new(&mut entropy),
            rates: Rates::new(settings.limits.bytes_per_second_per_user_max, &mut entropy),
            cores,
            settings,
            entropy,
            now,
            effects: Effects::default(),
            inbox: VecDeque::new(),
            orphans: Orphans::default(),
            alarms: BTreeSet::new(),
            stop: Stop::No,
            spare: SpareQueues::default(),
            stats: Stats::default(),
        }
    }

    /// Sends a message to the core that takes the step, this one or another.
    pub(crate) fn post(&mut self, message: Message) {
        let to = message.core();
        if to == self.me {
            self.inbox.push_back(message);
        } else if !self.cores.has_ended(to) {
            self.stats.messages_sent += 1;
            self.effects.send(to, message);
        }
    }

    pub(crate) fn tell_session(&mut self, to: SessionRef, step: SessionStep) {
        self.post(Message::ToSession { to, step });
    }

    pub(crate) fn tell_peer(&mut self, to: PeerRef, step: PeerStep) {
        self.post(Message::ToPeer { to, step });
    }

    pub(crate) fn tell_core(&mut self, to: CoreId, step: CoreStep) {
        self.post(Message::ToCore { to, step });
    }

    /// The same to every core that runs, this one included.
    pub(crate) fn tell_all_cores(&mut self, step: impl Fn() -> CoreStep) {
        for index in 0..self.cores.len() {
            if let Some(to) = self.cores.running(index) {
                self.tell_core(to, step());
            }
        }
    }

    /// A limit was reached: counts it, and tells the log.
    pub(crate) fn bite(&mut self, limit: Limit, peer: Option<PeerKey>) {
        self.count_limit(limit);
        self.effects.event(Event::LimitReached { limit, peer, user: None });
    }

    /// The same for a limit that is reached in normal use.
    pub(crate) fn count_limit(&mut self, limit: Limit) {
        if let Some(count) = self.stats.limits_reached.get_mut(limit as usize) {
            *count += 1;
        }
    }

    /// Bytes of a request have come in.
    pub(crate) fn hold(&mut self, bytes: usize) {
        if self.memory.hold(bytes) {
            self.bite(Limit::QueueBytesTotal, None);
        }
    }

    /// Something that took `before` bytes of memory, beside queued ones, takes `now`.
    pub(crate) fn keep(&mut self, before: usize, now: usize) {
        if self.memory.keep(before, now) {
            self.bite(Limit::QueueBytesTotal, None);
        }
    }

    /// How many transactions one connection may have open before the next request for it waits. Few while memory is
    /// short, because each takes memory.
    pub(crate) fn room(&self) -> Room {
        let max = self.settings.limits.transactions_per_peer_max;
        if self.memory.is_pressed() { Room::short(max) } else { Room::ample(max) }
    }

    /// Gives bytes back to the connection that they came from.
    pub(crate) fn credit(&mut self, peer: PeerRef, bytes: usize) {
        if bytes > 0 {
            let from = self.me;
            self.tell_peer(peer, PeerStep::Credit { from, bytes });
        }
    }

    /// Tells the core that counts `who`. While that core is down, tells none: it will hear when it is up.
    pub(crate) fn tally(&mut self, who: Who, tally: Tally) {
        if let Some(counter) = self.cores.running(who.counter(self.cores.len())) {
            let from = self.me;
            self.tell_core(counter, CoreStep::Tally { from, who, tally });
        }
    }

    /// An address or a user is banned. The log line belongs to the connection that caused it.
    pub(crate) fn on_ban(
        &mut self,
        (who, offence): (Who, Offence),
        until: Instant,
        culprit: Option<PeerRef>,
    ) {
        self.bans.add(who, offence, until, self.now);
        if let Some(culprit) = culprit.filter(|culprit| culprit.core == self.me) {
            self.tell_peer(culprit, PeerStep::Banned { who, offence });
        }
    }

    /// Tells a new core all bans. All cores know the same bans; one of them tells.
    pub(crate) fn tell_bans(&mut self, new: CoreId) {
        let others = (0..self.cores.len()).filter(|index| *index != usize::from(new.index));
        let teller = others.into_iter().find(|other| self.cores.running(*other).is_some());
        if teller != Some(usize::from(self.me.index)) {
            return;
        }
        for (who, offence, until) in self.bans.all(self.now) {
            self.tell_core(new, CoreStep::Ban { who, offence, until, culprit: None });
        }
    }

    /// Another core asks for memory.
    pub(crate) fn on_borrow(&mut self, borrower: CoreId) {
        let (from, bytes) = (self.me, self.memory.lend(borrower));
        self.tell_core(borrower, CoreStep::Lend { from, bytes, back: false });
    }

    /// A loan arrives, or returns.
    pub(crate) fn on_lend(&mut self, from: CoreId, bytes: usize, back: bool) {
        let unasked = self.memory.receive(from, bytes, back);
        if unasked > 0 {
            let me = self.me;
            self.tell_core(from, CoreStep::Lend { from: me, bytes: unasked, back: true });
        }
    }

    /// Asks another core for memory when it is getting short here, or returns a loan.
    pub(crate) fn balance_memory(&mut self) {
        if let Some(message) = self.memory.balance(self.me, &self.cores, self.now) {
            self.post(message);
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop == Stop::Quiet
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.stop >= Stop::Draining
    }

    /// Goes further towards the stop.
    pub(crate) fn go_towards(&mut self, stop: Stop) {
        self.stop = self.stop.max(stop);
    }

    /// A message of another core: dropped if it is for an earlier life of this core, or from a dead one.
    pub(crate) fn take_in(&mut self, message: Message) {
        let is_void = message.origin().is_some_and(|core| self.cores.has_ended(core));
        if message.core() == self.me && !is_void {
            self.inbox.push_back(message);
        }
    }
}
