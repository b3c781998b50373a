//! What the relay asks of its runtime, queued until the runtime takes it: effects in the order in which they must
//! happen, and messages for other cores.

use std::collections::VecDeque;

use crate::api::{Effect, Event};
use crate::ids::CoreId;
use crate::message::{Message, PeerStep};

/// What the caller has not taken yet: effects in order, and messages for other cores.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// In the order in which they must happen.
    list: VecDeque<Effect>,
    /// Messages to other cores, each list in order.
    messages: Vec<(CoreId, Vec<Message>)>,
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

    pub(crate) fn poll_messages(&mut self) -> Option<(CoreId, Vec<Message>)> {
        self.messages.pop()
    }

    pub(crate) fn send(&mut self, to: CoreId, message: Message) {
        let found = self.messages.iter().position(|(core, _)| *core == to);
        let index = found.unwrap_or_else(|| {
            self.messages.push((to, Vec::new()));
            self.messages.len() - 1
        });
        let list = &mut self.messages[index].1;
        // Credits of one flush become one message.
        if let Message::ToPeer { to, step: PeerStep::Credit { bytes, .. } } = &message
            && let Some(Message::ToPeer { to: last, step: PeerStep::Credit { bytes: sum, .. } }) =
                list.last_mut()
            && to == last
        {
            *sum += bytes;
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

    fn credit(to: u16, bytes: usize) -> (CoreId, Message) {
        let [me, core] = [0, to].map(|index| CoreId { index, incarnation: 0 });
        let to = PeerRef { core, key: PeerKey::default() };
        (core, Message::ToPeer { to, step: PeerStep::Credit { from: me, bytes } })
    }

    // Each core's list holds only messages for that core, and successive credits to one connection become one.
    #[test]
    fn messages_are_sorted_by_core_and_credits_in_a_row_are_summed() {
        let mut fx = Effects::default();
        for (to, bytes) in [(1, 10), (2, 20), (1, 30), (2, 40), (3, 50)] {
            let (core, message) = credit(to, bytes);
            fx.send(core, message);
        }
        let told: Vec<(u16, Vec<usize>)> = fx
            .messages
            .iter()
            .map(|(core, list)| {
                let bytes = |message: &Message| match message {
                    Message::ToPeer { to, step: PeerStep::Credit { bytes, .. } } if to.core == *core => {
                        *bytes
                    }
                    _ => 0,
                };
                (core.index, list.iter().map(bytes).collect())
            })
            .collect();
        assert_eq!(told, [(1, vec![40]), (2, vec![60]), (3, vec![50])]);
    }
}
