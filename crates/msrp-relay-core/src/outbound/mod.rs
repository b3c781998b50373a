//! What leaves by one connection. [`queue`] has one [`flow`] of [`item`]s for each source, and the answers that go
//! first. [`current`] is the request being written, [`end_line`] watches its body, [`batch`] is one flush.

pub(crate) mod batch;
pub(crate) mod current;
pub(crate) mod end_line;
pub(crate) mod flow;
mod framing;
pub(crate) mod item;
pub(crate) mod queue;
pub(crate) mod write;
