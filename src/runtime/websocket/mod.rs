//! What is known of a WebSocket beside the bytes of its messages. All of it is plain data, and moves with its connection to
//! another core.
//!
//! [`WebSocket`] is what the tasks of its connection share, [`Inward`] what the reader keeps: how far the messages of the peer
//! have come. Outward nothing is kept: each flush is whole messages (see [`conn`](super::conn)).
//!
//! Must not know cores, connections, sockets.

mod inward;
mod shared;

pub(super) use inward::{Came, Inward};
pub(super) use shared::{Life, WebSocket};
