//! The cores: time, orderly stops, deaths, and initial settings.

use core::time::Duration;
use std::mem;

use super::{Core, DOMAIN, Delivery, HOST, PORT, World};
use msrp_proto::digest::{Algorithm, TimedNames};
use msrp_relay_core::{Expires, Input, Limits, MaxChunk, Relay, Settings, WebSocket};

/// A relay's settings, chosen by two bytes.
pub(in crate::fuzz::conversation) fn settings(cores: u16, limits: u8, choices: u8) -> Settings {
    let is_set = |bit: u8| choices & (1 << bit) != 0;
    Settings {
        hostname: HOST.to_owned(),
        realm: is_set(0).then(|| DOMAIN.to_owned()),
        domains: is_set(1).then(|| vec![DOMAIN.to_owned()]),
        ports: vec![PORT],
        cores,
        algorithms: if is_set(2) { vec![Algorithm::Sha256, Algorithm::Md5] } else { vec![Algorithm::Md5] },
        challenge_lifetime: Duration::from_secs(15),
        max_attempts: 3,
        insecure_plain: is_set(3),
        sessions: Expires {
            expires_min: 60,
            expires_default: 600,
            expires_max: 3600,
            enforce_default: is_set(4),
        },
        methods_allow_other: !is_set(5),
        relays: None,
        serves_relays: true,
        unproven_relays_refused: false,
        tls_port: Some(PORT),
        outbound_plain: !is_set(6),
        timed_names: TimedNames::None,
        max_chunk: if limits / 27 % 3 == 1 { max_chunk() } else { MaxChunk::default() },
        websocket: WebSocket { max_message: 64 << 10, window: 1 << 20, secure: true, port: PORT },
        limits: Limits {
            queue_bytes_high: 54 << 10,
            queue_bytes_low: 27 << 10,
            queue_bytes_total: if is_set(7) { usize::from(cores) * (80 << 10) } else { 1 << 30 },
            flush_bytes_max: [3 << 10, 8 << 10, 128 << 10][usize::from(limits % 3)],
            transactions_per_peer_max: [4, 16, 4096][usize::from(limits / 3 % 3)],
            connections_per_core_max: if limits & 128 != 0 { 4 } else { 64 },
            unauthenticated_per_core_max: if limits & 128 != 0 { 3 } else { 64 },
            sessions_per_user_max: u32::from(limits / 9 % 3),
            bytes_per_second_per_user_max: if limits / 9 % 3 == 2 { 20_000 } else { 0 },
            connections_per_address_max: if limits & 64 != 0 { 3 } else { 1024 },
            unauthenticated_per_address_max: if limits & 64 != 0 { 2 } else { 256 },
            auth_failures_per_user_max: if limits & 32 != 0 { 2 } else { 100 },
            auth_failures_per_address_max: if limits & 32 != 0 { 4 } else { 100 },
            dial_failures_per_user_max: if limits & 32 != 0 { 2 } else { 100 },
            ..Limits::default()
        },
    }
}

/// Some of the far ends, and all connections from outside, take chunks up to a bound.
fn max_chunk() -> MaxChunk {
    let bounds = [("far0.example", 1024), ("far1.example", 5000), ("198.51.100.23", 1024)];
    MaxChunk::new(bounds.map(|(host, bytes)| (host.to_owned(), bytes)))
}

impl World {
    /// Time passes. With `ticks`, the relays hear of each deadline when it comes, else of all of them late.
    pub(in crate::fuzz::conversation) fn age(&mut self, by: Duration, ticks: bool) {
        let until = self.now + by;
        for _ in 0..1000 {
            let deadlines = self.cores.iter().filter_map(|core| core.relay.as_ref()?.next_deadline());
            let Some(at) = deadlines.min().filter(|at| ticks && *at <= until) else {
                break;
            };
            self.now = self.now.max(at);
            self.tick();
            self.run();
        }
        self.now = until;
        self.tick();
    }

    /// Time passes, and the relays do not hear of it yet.
    pub(in crate::fuzz::conversation) fn age_unnoticed(&mut self, by: Duration) {
        self.now += by;
    }

    /// Ticks each relay until nothing is due any more, which must be soon: a deadline may bring about another one that
    /// is due already, but not for ever.
    fn tick(&mut self) {
        for core in 0..self.cores.len() {
            let due = |world: &Self| {
                let relay = world.cores[core].relay.as_ref();
                relay.and_then(Relay::next_deadline).is_some_and(|at| at <= world.now)
            };
            self.input(core, Input::Tick);
            for _ in 0..4 {
                if due(self) {
                    self.input(core, Input::Tick);
                }
            }
            assert!(!due(self), "something is due for ever");
        }
    }

    /// A core stops in order, at once or when it is told again.
    pub(in crate::fuzz::conversation) fn shut_down(&mut self, core: usize, at_once: bool) {
        if !mem::replace(&mut self.cores[core].stopping, true) {
            self.input(core, Input::Quiesce);
            if !at_once {
                return;
            }
        }
        self.input(core, Input::Shutdown);
    }

    /// A core dies with all it owns; its last messages arrive before the news or are lost.
    pub(in crate::fuzz::conversation) fn kill(&mut self, index: usize, again: bool, last_words: bool) {
        let lanes: Vec<_> = self.lanes.keys().copied().filter(|(from, _)| *from == index).collect();
        for lane in lanes {
            for delivery in self.lanes.remove(&lane).into_iter().flatten() {
                match delivery {
                    delivery if last_words => self.hand_over(lane.1, delivery),
                    Delivery::Arrive(number, _) => self.links[number].gone = true,
                    Delivery::Message(_) => {}
                }
            }
        }
        self.links.iter_mut().filter(|link| link.core == index).for_each(|link| link.gone = true);
        self.dials.retain(|dial| dial.core != index);
        self.look_ups.retain(|look_up| look_up.core != index);
        self.cores[index].relay = None;
        let position = u16::try_from(index).unwrap();
        if again && !self.cores[index].stopping {
            let incarnation = self.cores[index].incarnation + 1;
            let relay = Some(self.new_relay(position, incarnation));
            self.cores[index] = Core { relay, incarnation, stopping: false, applying: false };
        }
        for core in (0..self.cores.len()).filter(|core| *core != index) {
            let running = self.running(index);
            self.input(core, Input::CoreChanged { index: position, running });
            // The new core learns which of the others are in a later life than their first.
            let change =
                Input::CoreChanged { index: u16::try_from(core).unwrap(), running: self.running(core) };
            self.input(index, change);
        }
    }

    fn running(&self, core: usize) -> Option<u16> {
        let core = &self.cores[core];
        core.relay.as_ref().map(|_| core.incarnation)
    }
}
