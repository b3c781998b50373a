//! The driver of soak and farm: an end of a session is a [`party`], its conclusions are in its [`ledger`], and the
//! [`verdict`] is a table.

pub(crate) mod cast;
pub(crate) mod content;
pub(crate) mod ledger;
pub(crate) mod line;
pub(crate) mod listen;
pub(crate) mod party;
mod pen;
pub(crate) mod stage;
pub(crate) mod verdict;
pub(crate) mod visitor;
