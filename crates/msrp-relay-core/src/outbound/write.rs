//! What a write goes by: the context, and the bounds of chunks.

use crate::core::Core;
use crate::transactions::Room;

/// Chunks up to this many bytes are never interruptible (RFC 4975, 7.1.1), so they are gathered
/// before they are written.
pub(super) const INTERRUPTIBLE_FROM: u64 = 2048;

/// The bound of a peer that has none: how many body bytes go into one chunk.
pub(super) const UNBOUNDED: u64 = u64::MAX;

/// What the way out needs from the core while it writes.
pub(crate) struct WriteContext<'c> {
    pub(crate) core: &'c mut Core,
    /// How many transactions may be open.
    pub(crate) room: Room,
    /// A request still running is credited in amounts of at least so many bytes.
    pub(crate) credit_batch: usize,
    /// The peer is not read from at present, and so neither are its answers.
    pub(crate) deaf: bool,
}
