//! Changes under existing connections and sessions: other settings, other cores.
//!
//! Invariants: nothing waits for ever for what the old settings promised (written bytes are credited, alarms are set
//! anew, paused connections are looked at again); sessions that began uncounted are counted as soon as a limit needs
//! it. Existing connections may still send heads as long as was allowed when they came, so the room for one request
//! never shrinks. What a dead core owed is written off once; a new core is told what it counts.

use std::mem;

use crate::Relay;
use crate::quota::counts::tell_all;
use crate::quota::who::Who;
use crate::settings::{Limits, Settings};

impl Relay {
    /// A core has died or been started again: each table ends what it has with the old life, or reports again to the
    /// new one.
    pub(crate) fn on_core_changed(&mut self, index: u16, running: Option<u16>) {
        let Self { peers, sessions, quota, core, .. } = self;
        if let Some(gone) = core.cores.change(index, running) {
            core.orphans.forget_core(gone);
            // A session of this core that is over cannot pass the loss on to what still waits in its name.
            let me = core.me;
            peers.forget_core(gone, |session| session.core == me && !sessions.contains(session), core);
            core.memory.forget_core(gone);
            quota.forget_core(gone, core);
            peers.grant_claims_of(gone, core);
            sessions.forget_core(gone, core);
            self.meet_no_more_at(gone);
        }
        let Self { peers, sessions, core, .. } = self;
        let index = usize::from(index);
        if let Some(new) = core.cores.running(index) {
            // It may have started after this core, and missed earlier messages.
            let count = core.cores.len();
            let shares = peers.shares().chain(sessions.shares());
            tell_all(shares, |who| who.counter(count) == index, core);
            peers.claim_again(index, core);
            core.tell_bans(new);
            core.memory.ask_again(new);
        }
    }

    /// Continues with other settings; see [`Input::Reconfigured`](crate::Input::Reconfigured). Each table does its
    /// part.
    pub(crate) fn on_reconfigured(&mut self, settings: Settings) {
        let Self { peers, sessions, quota, core, .. } = self;
        let before = mem::replace(&mut core.settings, settings);
        let now = &mut core.settings;
        now.hostname = before.hostname;
        now.ports = before.ports;
        now.cores = before.cores;
        keep_room(&mut now.limits, before.limits.request_bytes_max);
        core.memory.resize(now.limits.queue_bytes_total, core.cores.len());
        let (counts_users, rate) = (now.limits.counts_users(), now.limits.bytes_per_second_per_user_max);
        let begins_to_limit = rate > 0 && !core.rates.is_limited();
        core.rates.change(rate);
        if begins_to_limit {
            peers.begin_rates(core);
        }
        if counts_users && !before.limits.counts_users() {
            sessions.count_all();
            peers.count_all(core);
            let shares = peers.shares().chain(sessions.shares());
            tell_all(shares, |who| matches!(who, Who::User(_)), core);
        }
        if begins_to_limit {
            quota.tell_all_shares(core);
        }
        peers.on_reconfigured(rate, core);
    }
}

/// Keeps the room for one request of connections that came under older settings.
fn keep_room(limits: &mut Limits, request_bytes_max: usize) {
    limits.request_bytes_max = limits.request_bytes_max.max(request_bytes_max);
    limits.queue_bytes_low = limits.queue_bytes_low.max(limits.request_bytes_max);
    limits.queue_bytes_high = limits.queue_bytes_high.max(limits.queue_bytes_low);
}
