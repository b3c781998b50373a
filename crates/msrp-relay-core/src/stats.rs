//! What a relay counts: figures that only rise, and how full its tables are.

use core::ops::{Deref, DerefMut};

use crate::limit::Limit;

/// What happened so far on this core; only ever rises.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Sessions opened.
    pub sessions_opened: u64,
    /// Sessions over.
    pub sessions_closed: u64,
    /// AUTHs answered 200.
    pub auth_ok: u64,
    /// AUTHs with credentials that were refused.
    pub auth_failed: u64,
    /// AUTHs without credentials, or for a challenge that is over: answered with a challenge and no reproach.
    pub auth_challenged: u64,
    /// AUTHs in order but for their Expires.
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
    /// Connections asked for.
    pub dials: u64,
    /// Connections that could not be had.
    pub dials_failed: u64,
    /// Messages to other cores.
    pub messages_sent: u64,
    /// How often each limit was reached, in the order of [`Limit::ALL`].
    pub limits_reached: LimitCounts,
}

/// A number for each limit, in the order of [`Limit::ALL`]. An array of so many has no default of its own.
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
    /// Sessions open now.
    pub fn sessions_open(&self) -> u64 {
        self.sessions_opened - self.sessions_closed
    }
}

/// How many entries the tables hold: zero everywhere when all is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TableSizes {
    /// Connections.
    pub peers: usize,
    /// Sessions.
    pub sessions: usize,
    /// Requests sent and not answered.
    pub transactions: usize,
    /// Requests received and not answered, and those that failed and have not ended.
    pub unanswered: usize,
    /// Bytes received and not yet written out or dropped.
    pub bytes_queued: usize,
    /// Bytes kept beside those: what the entries of the tables say, added up.
    pub bytes_kept: usize,
    /// The same as the memory budget has it.
    pub bytes_counted: usize,
    /// Addresses and users that are counted here, and users whose rate is.
    pub counted: usize,
    /// Entries for connections that have proven nothing, and for their sources.
    pub newcomers: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_are_not_over_are_open() {
        let stats = Stats { sessions_opened: 7, sessions_closed: 3, ..Stats::default() };
        assert_eq!(stats.sessions_open(), 4);
    }
}
