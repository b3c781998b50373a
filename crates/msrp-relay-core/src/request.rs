//! What travels of a request: its head, the hop that has it, and what is kept to report a failure to its sender.
//!
//! Plain data, `Send`. Owns nothing; the bytes of a head are shared and never altered (RFC 4976, 6.4.1).

use std::sync::Arc;

use bytes::Bytes;

use msrp_proto::head::{ByteRange, FailureReport, Head, Kind, Method};
use msrp_proto::uri::Path;

use crate::ids::{CoreId, PeerRef, SessionRef, StreamId};

/// What a request costs in a queue beside its bytes: its parsed head, its end, and what is kept to answer it. In bytes.
pub const HEAD_OVERHEAD: usize = 1024;

/// A head that travels through this relay: the bytes as they came, and how many of our URIs have left the front of its
/// To-Path so far.
#[derive(Clone, Debug)]
pub struct Transit {
    /// Offsets into `bytes`.
    pub head: Head,
    /// The head as it was received; never altered.
    pub bytes: Bytes,
    /// How many URIs have moved from To-Path to From-Path (RFC 4976, 6.4.1).
    pub moves: u8,
}

impl Transit {
    pub(crate) fn new(head: Head, bytes: Bytes) -> Self {
        Self { head, bytes, moves: 0 }
    }

    pub(crate) fn method(&self) -> Method {
        match self.head.kind() {
            Kind::Request(method) => method,
            Kind::Response(_) => Method::Other,
        }
    }

    /// To-Path as the present hop sees it.
    pub(crate) fn to_path(&self) -> Path<'_> {
        self.head.to_path(&self.bytes).after(usize::from(self.moves))
    }

    /// From-Path as received: what an answer or the first hop's REPORT goes back to.
    pub(crate) fn received_from_path(&self) -> Path<'_> {
        self.head.from_path(&self.bytes)
    }

    /// From-Path as the present hop received it: the moved URIs, nearest first, then the path as it came.
    pub(crate) fn append_from_path(&self, out: &mut Vec<u8>) {
        self.append_from_path_after(usize::from(self.moves), out);
    }

    /// The same as of an earlier hop, when so many URIs had moved.
    pub(crate) fn append_from_path_after(&self, moves: usize, out: &mut Vec<u8>) {
        for part in self.parts_of_from_path(moves) {
            out.extend_from_slice(part);
        }
    }

    /// Whether `path` is that path, byte by byte.
    pub(crate) fn is_from_path_after(&self, moves: usize, path: &[u8]) -> bool {
        let rest = self.parts_of_from_path(moves).try_fold(path, |rest, part| rest.strip_prefix(part));
        rest.is_some_and(<[u8]>::is_empty)
    }

    fn parts_of_from_path(&self, moves: usize) -> impl Iterator<Item = &[u8]> {
        let to_path = self.head.to_path(&self.bytes);
        let moved = (0..moves).rev().map(move |n| to_path.after(n).first().unwrap_or_default());
        moved.flat_map(|uri| [uri, b" "]).chain([self.received_from_path().as_bytes()])
    }

    /// What the head costs against its sender's credit, in bytes: its own, and what we keep beside it. Without the
    /// second part a flood of empty messages would cost its sender nothing.
    pub(crate) fn cost(&self) -> usize {
        self.bytes.len() + HEAD_OVERHEAD
    }

    /// A copy that does not keep the read buffer of a busy connection in memory.
    pub(crate) fn compact(self) -> Self {
        Self { bytes: Bytes::copy_from_slice(&self.bytes), ..self }
    }

    /// Whether the sender waits for a response to this request on this hop (RFC 4975, 7.2).
    pub(crate) fn wants_answer(&self) -> bool {
        match self.method() {
            Method::Report => false,
            Method::Send => self.head.failure_report() != FailureReport::No,
            // A request without a method may be a SEND.
            _ if self.head.method_bytes(&self.bytes).is_empty() => {
                self.head.failure_report() != FailureReport::No
            }
            _ => true,
        }
    }
}

/// A Message-ID. Short ones, nearly all of them, need no allocation of their own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum MessageId {
    Short { bytes: [u8; 39], len: u8 },
    Long(Arc<[u8]>),
}

impl MessageId {
    pub(crate) fn new(text: &[u8]) -> Self {
        let mut bytes = [0_u8; 39];
        match bytes.get_mut(..text.len()) {
            Some(room) => {
                room.copy_from_slice(text);
                // At most 39.
                Self::Short { bytes, len: u8::try_from(text.len()).unwrap_or(39) }
            }
            None => Self::Long(text.into()),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { bytes, len } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Long(text) => text,
        }
    }
}

/// All that is needed to tell a request's sender that its bytes did not arrive (RFC 4976, 6.4.1), kept until the next
/// hop has answered.
#[derive(Clone, Debug)]
pub struct Notice {
    /// The request as it came in.
    pub(crate) stream: StreamId,
    /// The session whose hop this was.
    pub(crate) session: SessionRef,
    /// Whether the request went from the session's outer side to its inner one.
    pub(crate) inward: bool,
    pub(crate) method: Method,
    pub(crate) failure_report: FailureReport,
    /// From-Path as this hop received it: where a REPORT goes.
    pub(crate) report_to: Arc<[u8]>,
    pub(crate) message_id: Option<MessageId>,
    /// The bytes concerned; the end is computed from the bytes that were forwarded.
    pub(crate) range: ByteRange,
    /// How many of our URIs the request had moved when it left.
    pub(crate) moves: u8,
}

impl Notice {
    /// Whether two notices are about the same message, in the same direction.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.message_id.is_some()
            && (self.session, self.inward, &self.message_id)
                == (other.session, other.inward, &other.message_id)
    }

    /// Whether a request that leaves belongs to the same message, in the same direction.
    pub(crate) fn is_of(&self, side: SessionSide, transit: &Transit) -> bool {
        let message_id = transit.head.message_id(&transit.bytes);
        transit.method() == Method::Send
            && (side.session, side.inward) == (self.session, self.inward)
            && message_id.is_some()
            && self.message_id.as_ref().map(MessageId::as_bytes) == message_id
    }

    /// Adds bytes. The numbers are the peer's: they may be at the edge of 64 bits.
    pub(crate) fn extend(&mut self, bytes: u64) {
        let before = self.range.start.saturating_sub(1);
        let end = self.range.end.unwrap_or(before);
        self.range.end = Some(end.saturating_add(bytes));
    }

    /// Widens the range to that of another notice of the same message.
    pub(crate) fn widen(&mut self, other: ByteRange) {
        self.range.start = self.range.start.min(other.start);
        self.range.end = self.range.end.max(other.end);
        self.range.total = self.range.total.or(other.total);
    }
}

/// What hands a request to a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Giver {
    /// The connection the request came in by.
    Peer,
    /// The same, if its peer is a relay that has proven to be the host of the first URI in From-Path.
    Relay,
    /// Another session of this relay: the hop before, if both ends are behind this relay.
    Session(SessionRef),
}

impl Giver {
    /// Whether it is a connection and no session.
    pub(crate) fn is_connection(self) -> bool {
        match self {
            Self::Peer | Self::Relay => true,
            Self::Session(_) => false,
        }
    }
}

/// What a side of a session is bound to (RFC 4975, 5.4). The inner side is never bound to another session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Neighbour {
    /// A connection, dialled by us or by the peer.
    Peer(PeerRef),
    /// A session of this relay.
    Session(SessionRef),
}

/// The session, and the side of it, that hands a request to the outgoing connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionSide {
    /// The session whose URI moved last.
    pub(crate) session: SessionRef,
    /// Whether the request goes to that session's inner side.
    pub(crate) inward: bool,
}

impl Neighbour {
    /// The core that owns it.
    pub(crate) fn core(self) -> CoreId {
        match self {
            Self::Peer(peer) => peer.core,
            Self::Session(session) => session.core,
        }
    }
}
