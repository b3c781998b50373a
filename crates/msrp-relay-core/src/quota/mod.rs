//! How much one address, one user, and all peers together may have (norms S3, S10, S13).
//!
//! [`counts`] is a table with handlers of its own: what this core counts for all cores. The rest is this core's own and
//! part of the context, for every handler charges it: [`memory`], the budget and who lent what; [`in_flight`], the bytes
//! that other cores hold of a connection's; [`rates`], what users send; [`bans`]; [`newcomers`], the connections that have
//! proven nothing. [`who`] is the data that crosses cores.

pub(crate) mod bans;
pub(crate) mod counts;
pub(crate) mod in_flight;
pub(crate) mod memory;
pub(crate) mod newcomers;
pub(crate) mod rates;
pub(crate) mod who;

/// Failures, and bans, remembered at a time; beyond that the oldest are forgotten.
const REMEMBERED_MAX: usize = 1 << 16;
