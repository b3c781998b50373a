//! The queue of what leaves: parts of requests in the order of arrival.

use std::collections::VecDeque;

use bytes::Bytes;

use msrp_proto::parser::Flag;

use crate::ids::StreamId;
use crate::request::{SessionSide, Transit};

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "heads travel unboxed: a box would be an allocation per chunk")]
pub(crate) enum Item {
    Head { stream: StreamId, side: SessionSide, transit: Transit },
    Body(Bytes),
    End(Flag),
}

impl Item {
    pub(super) fn cost(&self) -> usize {
        match self {
            Self::Head { transit, .. } => transit.cost(),
            Self::Body(bytes) => bytes.len(),
            Self::End(_) => 0,
        }
    }
}

pub(super) fn body_len(item: &Item) -> usize {
    match item {
        Item::Body(bytes) => bytes.len(),
        Item::Head { .. } | Item::End(_) => 0,
    }
}

/// Empty queues, for the next flow: most flows hold one chunk, and begin and end with it.
#[derive(Debug, Default)]
pub(crate) struct SpareQueues(pub(super) Vec<VecDeque<Item>>);

impl SpareQueues {
    const MAX: usize = 16;
    const ITEMS_MAX: usize = 16;

    pub(super) fn give(&mut self, queue: VecDeque<Item>) {
        if self.0.len() < Self::MAX && queue.capacity() <= Self::ITEMS_MAX {
            self.0.push(queue);
        }
    }
}
