//! Other settings while connections and sessions live on.
//!
//! Invariants: nobody waits for ever for what the old settings promised (what is written is credited, alarms are set
//! anew, who is held up is looked at again); sessions that began uncounted are counted as soon as it matters. Connections
//! that exist may still send heads as long as was allowed when they came, so the room for one request never shrinks.

use std::mem;

use super::message::Message;
use super::peer::Role;
use super::{Effects, Limits, Relay, Settings, UserKey, Who};

impl Relay {
    /// Goes on with other settings; see [`Input::Reconfigured`](super::Input::Reconfigured).
    pub(super) fn on_reconfigured(&mut self, settings: Settings, fx: &mut Effects) {
        let core = &mut self.core;
        let cores = core.cores.len();
        let before = mem::replace(&mut core.settings, settings);
        let now = &mut core.settings;
        now.hostname = before.hostname;
        now.ports = before.ports;
        now.cores = before.cores;
        keep_room(&mut now.limits, before.limits.request_octets_max);
        core.budget.resize(now.limits.queue_octets_total, cores);
        let (counts_users, rate) = (now.limits.counts_users(), now.limits.octets_per_second_per_user_max);
        let begins_to_limit = rate > 0 && !core.rates.is_limited();
        core.rates.change(rate);
        let begins_to_count = counts_users && !before.limits.counts_users();
        if begins_to_limit {
            self.limit_everybody();
        }
        if begins_to_count {
            self.count_everybody();
            self.tell_all(|who| matches!(who, Who::User(_)), fx);
        }
        if begins_to_limit {
            for who in self.core.register.users() {
                self.tell_share(who, fx);
            }
        }
        for peer in self.peers.values_mut() {
            if rate == 0 {
                peer.stop_throttling();
            }
            for (source, octets) in peer.out.take_owed().filter(|(_, octets)| *octets > 0) {
                let from = self.core.me;
                self.core.post(Message::Credit { peer: source, from, octets }, fx);
            }
            peer.count_full_table(&mut self.core, fx);
            peer.update_pause(&mut self.core, fx);
            peer.set_alarm(&mut self.core);
            // More may be written at a time, or await an answer.
            peer.wake(fx);
        }
    }

    /// The sessions of users that are counted get their buckets.
    fn limit_everybody(&mut self) {
        for user in self.peers.values().filter_map(|peer| peer.user) {
            self.core.rates.begin(user, self.core.now);
        }
    }

    /// Connections with a session, opened while nobody counted, count among their users' from now on.
    fn count_everybody(&mut self) {
        self.sessions.count_all();
        for peer in self.peers.values_mut() {
            let has_session = matches!(&peer.role, Role::Client { sessions } if !sessions.is_empty());
            let user = peer.auth.as_ref().and_then(|auth| auth.verified());
            let user = user.map(|user| UserKey::new(user.username(), user.realm()));
            if let Some(user) = user.filter(|_| has_session && peer.user.is_none()) {
                peer.count_among(user, &mut self.core);
            }
        }
    }
}

/// Room for one request of connections that came under older settings.
fn keep_room(limits: &mut Limits, request_octets_max: usize) {
    limits.request_octets_max = limits.request_octets_max.max(request_octets_max);
    limits.queue_octets_low = limits.queue_octets_low.max(limits.request_octets_max);
    limits.queue_octets_high = limits.queue_octets_high.max(limits.queue_octets_low);
}
