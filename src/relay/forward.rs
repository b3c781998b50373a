//! The way out of one connection: requests queued per source, written as chunks, cut when needed.
//!
//! Invariants, all of RFC 4975, 7.1.1 and RFC 4976, 6.4:
//! - one chunk is open on a connection at a time;
//! - a chunk is written either whole, from octets all at hand, or as interruptible (`start-*`);
//! - a waiting response or REPORT, or another source's request, waits for at most one flush;
//! - the pieces of a message are gapless and in order, each with a transaction id of its own, and
//!   the last one carries the flag that was received;
//! - a source's octets are credited back once, when they are written or dropped.
//!
//! While a chunk streams, its last octet at hand is held back until more comes or it ends: so a cut
//! always leaves something for the piece that carries the final flag.

mod flow;

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::ids::{CoreId, Entropy, PeerRef, StreamId};
use super::message::{Hop, Message, Notice, Transit};
use super::output::OutBatch;
use super::transaction::Transactions;
use crate::proto::parser::Flag;
use crate::proto::write::write_end_line;

use flow::{Flow, Item};

/// What is to be written to one connection.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    /// Complete frames of this relay and its answers, first in line.
    control: Vec<u8>,
    /// One queue per connection that requests come from.
    flows: VecDeque<Flow>,
    /// The front flow's chunk is on the wire, its end-line not yet.
    chunk_open: bool,
    pub(crate) transactions: Transactions,
}

/// What the way out needs from the core while it writes.
pub(crate) struct WriteContext<'c> {
    pub(crate) now: Instant,
    pub(crate) entropy: &'c mut Entropy,
    pub(crate) transactions_max: usize,
    /// Credits to give back.
    pub(crate) post: &'c mut dyn FnMut(Message),
    pub(crate) chunks_out: &'c mut u64,
    pub(crate) body_octets_out: &'c mut u64,
}

impl Outbound {
    /// Where an answer or a REPORT of ours is appended; it is written before anything else.
    pub(crate) fn control(&mut self) -> &mut Vec<u8> {
        &mut self.control
    }

    pub(crate) fn control_len(&self) -> usize {
        self.control.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.control.is_empty()
            && self
                .flows
                .iter()
                .all(|f| f.items.is_empty() && f.current.is_none())
    }

    pub(crate) fn open(&mut self, stream: StreamId, hop: Hop, transit: Transit) {
        let flow = self.flow(stream.peer);
        debug_assert!(
            flow.tail.is_none(),
            "a request begins before the one before it has ended"
        );
        flow.tail = Some(stream);
        flow.items.push_back(Item::Head {
            stream,
            hop,
            transit,
        });
    }

    /// Queues body octets; gives back those that nobody will want.
    pub(crate) fn piece(&mut self, stream: StreamId, octets: Bytes) -> Option<usize> {
        let Some(flow) = self.flows.iter_mut().find(|f| f.tail == Some(stream)) else {
            return Some(octets.len());
        };
        if flow.is_refused(stream) {
            return Some(octets.len());
        }
        flow.items.push_back(Item::Body(octets));
        None
    }

    pub(crate) fn close(&mut self, stream: StreamId, flag: Flag) {
        let Some(flow) = self.flows.iter_mut().find(|f| f.tail == Some(stream)) else {
            return;
        };
        flow.tail = None;
        if flow.is_refused(stream) {
            flow.end_refused();
            return;
        }
        flow.items.push_back(Item::End(flag));
        flow.ends += 1;
    }

    fn flow(&mut self, source: PeerRef) -> &mut Flow {
        let found = self.flows.iter().position(|f| f.source == source);
        let index = found.unwrap_or_else(|| {
            self.flows.push_back(Flow::new(source));
            self.flows.len() - 1
        });
        &mut self.flows[index]
    }

    /// The next hop has refused a request that is still coming in: its chunk is aborted, and what
    /// is queued of it is dropped. Returns the octets to credit to its source.
    pub(crate) fn refuse(&mut self, stream: StreamId) -> usize {
        let Some(flow) = self.flows.iter_mut().find(|f| f.source == stream.peer) else {
            return 0;
        };
        flow.refuse(stream)
    }

    /// Moves what may be written now into `out`, up to about `budget` octets: one flush.
    pub(crate) fn fill(&mut self, out: &mut OutBatch, budget: usize, cx: &mut WriteContext<'_>) {
        self.abort_if_refused(out);
        self.cut_if_somebody_waits(out, cx);
        // Each turn ends a request or leaves its flow with nothing to write; `waiting` counts the
        // flows in a row that had nothing, so the loop ends after one look at each.
        let mut waiting = 0;
        while out.len() < budget {
            if !self.chunk_open {
                out.push_small(&mut self.control);
            }
            let room_for_transactions = self.transactions.len() < cx.transactions_max;
            let Some(flow) = self.flows.front_mut() else {
                break;
            };
            let mut ended = false;
            if self.chunk_open || (room_for_transactions && flow.begin(out, budget, cx)) {
                self.chunk_open = true;
                ended = flow.write_pieces(out, budget, &mut self.transactions, cx);
                self.chunk_open = !ended;
                if !ended {
                    break;
                }
            }
            waiting = if ended { 0 } else { waiting + 1 };
            if flow.is_idle() {
                self.flows.pop_front();
            } else {
                if waiting >= self.flows.len() {
                    break;
                }
                self.flows.rotate_left(1);
            }
        }
        if !self.chunk_open {
            out.push_small(&mut self.control);
        }
    }

    /// The next hop does not want the chunk on the wire: it ends with `#` (RFC 4975, 7.3.2).
    fn abort_if_refused(&mut self, out: &mut OutBatch) {
        if !self.chunk_open {
            return;
        }
        let Some(flow) = self.flows.front_mut() else {
            return;
        };
        if let Some(current) = flow.current.as_mut().filter(|c| c.refused) {
            out.small(|small| write_end_line(small, current.tid.as_bytes(), Flag::Aborted, true));
            current.on_wire = false;
            self.chunk_open = false;
            flow.forget_if_over();
        }
    }

    /// A chunk that has been on the wire for a flush gives way to a waiting frame or source.
    fn cut_if_somebody_waits(&mut self, out: &mut OutBatch, cx: &mut WriteContext<'_>) {
        let others_wait = self.flows.iter().skip(1).any(|f| !f.items.is_empty());
        if !self.chunk_open || (self.control.is_empty() && !others_wait) {
            return;
        }
        let Some(flow) = self.flows.front_mut() else {
            return;
        };
        if flow.cut(out, &mut self.transactions, cx) {
            self.chunk_open = false;
            self.flows.rotate_left(1);
        }
    }

    /// Requests coming in from a core that is gone: their end will never come.
    pub(crate) fn streams_from(&self, gone: CoreId) -> Vec<StreamId> {
        self.flows
            .iter()
            .filter_map(|f| f.tail)
            .filter(|s| s.peer.core == gone)
            .collect()
    }

    /// The connection is gone: one notice per message that was complete and did not arrive, and
    /// the octets to credit to each source. Requests still coming in are their session's business.
    pub(crate) fn lose(&mut self) -> (Vec<Notice>, Vec<(PeerRef, usize)>) {
        let running: Vec<StreamId> = self.flows.iter().filter_map(|f| f.tail).collect();
        let mut notices = self.transactions.drain_merged();
        notices.retain(|n| !running.contains(&n.stream));
        let mut credits = Vec::new();
        for mut flow in std::mem::take(&mut self.flows) {
            credits.push((flow.source, flow.drain(&mut notices)));
        }
        self.control.clear();
        self.chunk_open = false;
        (notices, credits)
    }
}
