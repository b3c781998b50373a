//! What the relay asks of its runtime, queued until it is taken: effects in the order in which they must happen, and
//! parcels for other cores. What is done with them is the runtime's.

use std::collections::VecDeque;

use crate::api::{Effect, Event};
use crate::ids::CoreId;
use crate::message::{Message, PeerStep};

/// What the caller has not been given yet: what it must do, in order, and what must go to other cores.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// In the order in which they must happen.
    list: VecDeque<Effect>,
    /// Messages to other cores, each list in order.
    parcels: Vec<(CoreId, Vec<Message>)>,
}

impl Effects {
    pub(crate) fn push(&mut self, effect: Effect) {
        self.list.push_back(effect);
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.list.push_back(Effect::Event(event));
    }

    pub(crate) fn poll(&mut self) -> Option<Effect> {
        self.list.pop_front()
    }

    pub(crate) fn poll_parcel(&mut self) -> Option<(CoreId, Vec<Message>)> {
        self.parcels.pop()
    }

    pub(crate) fn parcel(&mut self, to: CoreId, message: Message) {
        let found = self.parcels.iter().position(|(core, _)| *core == to);
        let index = found.unwrap_or_else(|| {
            self.parcels.push((to, Vec::new()));
            self.parcels.len() - 1
        });
        let list = &mut self.parcels[index].1;
        // Credits of one flush become one message.
        if let Message::ToPeer { to, step: PeerStep::Credit { octets, .. } } = &message
            && let Some(Message::ToPeer { to: last, step: PeerStep::Credit { octets: sum, .. } }) =
                list.last_mut()
            && to == last
        {
            *sum += octets;
            return;
        }
        list.push(message);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state what must hold")]
mod tests {
    use super::*;
    use crate::ids::{PeerKey, PeerRef};

    fn credit(to: u16, octets: usize) -> (CoreId, Message) {
        let [me, core] = [0, to].map(|index| CoreId { index, incarnation: 0 });
        let to = PeerRef { core, key: PeerKey::default() };
        (core, Message::ToPeer { to, step: PeerStep::Credit { from: me, octets } })
    }

    // Each core's list holds what is for that core, and credits to one connection are one.
    #[test]
    fn parcels_are_sorted_by_core_and_credits_in_a_row_are_summed() {
        let mut fx = Effects::default();
        for (to, octets) in [(1, 10), (2, 20), (1, 30), (2, 40), (3, 50)] {
            let (core, message) = credit(to, octets);
            fx.parcel(core, message);
        }
        let told: Vec<(u16, Vec<usize>)> = fx
            .parcels
            .iter()
            .map(|(core, list)| {
                let octets = |message: &Message| match message {
                    Message::ToPeer { to, step: PeerStep::Credit { octets, .. } } if to.core == *core => {
                        *octets
                    }
                    _ => 0,
                };
                (core.index, list.iter().map(octets).collect())
            })
            .collect();
        assert_eq!(told, [(1, vec![40]), (2, vec![60]), (3, vec![50])]);
    }
}
