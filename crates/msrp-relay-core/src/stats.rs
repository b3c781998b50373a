//! The relay's counters, which only rise, and how full its tables are.

use core::ops::{Deref, DerefMut};

use crate::limit::Limit;
use crate::meet::Stay;

/// What happened on this core; only ever rises.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Sessions opened.
    pub sessions_opened: u64,
    /// Sessions over.
    pub sessions_closed: u64,
    /// Sessions that came from another core, to the one that they are bound to.
    pub sessions_moved_in: u64,
    /// Sessions that went to another core for that.
    pub sessions_moved_out: u64,
    /// Sessions that stayed though they are for one on another core, in the order of [`Stay::ALL`].
    pub sessions_stayed: [u64; Stay::COUNT],
    /// AUTHs answered 200.
    pub auth_ok: u64,
    /// AUTHs with credentials that were refused.
    pub auth_failed: u64,
    /// AUTHs without credentials, or for an expired challenge: answered with a challenge, not counted as failures.
    pub auth_challenged: u64,
    /// AUTHs that were right except for their Expires.
    pub auth_out_of_bounds: u64,
    /// Chunks received (SEND requests).
    pub chunks_in: u64,
    /// Chunks written, pieces counted.
    pub chunks_out: u64,
    /// Body bytes received.
    pub body_bytes_in: u64,
    /// Body bytes written.
    pub body_bytes_out: u64,
    /// Failure REPORTs of our own.
    pub reports_sent: u64,
    /// Responses that no request waited for.
    pub strays_dropped: u64,
    /// Sessions bound to an outer side on the same core.
    pub links_local: u64,
    /// Sessions bound to an outer side on another core.
    pub links_split: u64,
    /// Connects begun.
    pub dials: u64,
    /// Connects that failed.
    pub dials_failed: u64,
    /// Messages to other cores.
    pub messages_sent: u64,
    /// How often each limit was reached, in the order of [`Limit::ALL`].
    pub limits_reached: LimitCounts,
}

/// A number for each limit, in the order of [`Limit::ALL`]. An array of this size has no `Default` of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LimitCounts([u64; Limit::COUNT]);

impl Default for LimitCounts {
    fn default() -> Self {
        Self([0; Limit::COUNT])
    }
}

impl Deref for LimitCounts {
    type Target = [u64; Limit::COUNT];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for LimitCounts {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Stats {
    /// Sessions open now: those that were opened or came here, but for those that are over or went elsewhere. One that came
    /// here ends here, so that the sums are compared and not the pairs.
    pub fn sessions_open(&self) -> u64 {
        (self.sessions_opened + self.sessions_moved_in) - (self.sessions_closed + self.sessions_moved_out)
    }

    pub(crate) fn stayed(&mut self, why: Stay) {
        if let Some(count) = self.sessions_stayed.get_mut(why as usize) {
            *count += 1;
        }
    }
}

/// How many entries the tables hold: zero everywhere when all has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TableSizes {
    /// Connections.
    pub peers: usize,
    /// Sessions.
    pub sessions: usize,
    /// Requests sent and not answered.
    pub transactions: usize,
    /// Requests received and not answered, and failed ones that have not ended.
    pub unanswered: usize,
    /// Bytes received and not yet written out or dropped.
    pub bytes_queued: usize,
    /// Bytes kept beside those: the sum over the entries of the tables.
    pub bytes_kept: usize,
    /// The same as the memory budget counts it.
    pub bytes_counted: usize,
    /// Addresses and users that are counted here, and users whose rate is.
    pub counted: usize,
    /// Entries for connections that have proven nothing, and for their sources.
    pub newcomers: usize,
    /// Sessions that are expected from other cores, and notes of those that have gone there.
    pub moving: usize,
    /// Names of relays, each for each connection with that relay.
    pub relays: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_are_not_over_are_open() {
        let stats = Stats { sessions_opened: 7, sessions_closed: 3, ..Stats::default() };
        assert_eq!(stats.sessions_open(), 4);
    }

    // A core may close more sessions than it has opened.
    #[test]
    fn sessions_that_move_are_open_on_one_core() {
        let left = Stats { sessions_opened: 1, sessions_moved_out: 1, ..Stats::default() };
        let came = Stats { sessions_moved_in: 2, sessions_closed: 1, ..Stats::default() };
        assert_eq!((left.sessions_open(), came.sessions_open()), (0, 1));
    }
}
