//! How much one address, one user, and all peers together may have (reqs S3, S10, S13).
//!
//! [`counts`] is a table with handlers of its own: what this core counts for all cores. The other parts belong to this
//! core and to the context, because every handler charges them: [`memory`], the budget and its loans; [`in_flight`], a
//! connection's bytes that other cores hold; [`rates`], what users send; [`bans`]; [`newcomers`], the connections that
//! have proven nothing. [`who`] is the data that crosses cores.

pub(crate) mod bans;
pub(crate) mod counts;
pub(crate) mod in_flight;
pub(crate) mod memory;
pub(crate) mod newcomers;
pub(crate) mod rates;
pub(crate) mod who;

/// How many failures, and how many bans, are remembered; beyond that the oldest are forgotten.
const REMEMBERED_MAX: usize = 1 << 16;
