//! The context of a write, and the bounds of chunks.

use crate::core::Core;
use crate::transactions::Room;

/// Chunks up to this many bytes are never interruptible (RFC 4975, 7.1.1), so they are gathered
/// before they are written.
pub(super) const INTERRUPTIBLE_FROM: u64 = 2048;

/// The chunk bound of a peer without one, in body bytes.
pub(super) const UNBOUNDED: u64 = u64::MAX;

/// What writing needs from the core.
pub(crate) struct WriteContext<'c> {
    pub(crate) core: &'c mut Core,
    /// How many transactions may be open.
    pub(crate) room: Room,
    /// A request that still runs is credited in amounts of at least so many bytes.
    pub(crate) credit_batch: usize,
    /// The peer is paused, so its answers are not read either.
    pub(crate) deaf: bool,
    /// Nothing more is read from the peer: what is left is written whether it answers or not.
    pub(crate) closing: bool,
    /// Each frame goes into a message of its own.
    pub(crate) framed: bool,
}
