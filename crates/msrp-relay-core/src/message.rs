//! What travels between a connection, a session and another connection: plain data, `Send`.
//!
//! Every step of a request is a [`Message`] to whoever must take the next one: the session's home,
//! the connection the request leaves by, the connection it came in by. On one core that is a push
//! onto a queue; between cores the same value crosses as a parcel. There is one path, not two.
//!
//! Order is kept between any two cores, which the whole design leans on: an end never overtakes
//! the body before it.

use std::time::Instant;

use bytes::Bytes;

use super::admission::{AddressKey, Offence, Tally, UserKey, Who};
use super::ids::{CoreId, LookUpTicket, PeerRef, SessionId, StreamId};
use super::limit::Limit;
use msrp_proto::head::{ByteRange, FailureReport, Head, Kind, Method};
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;
use msrp_proto::uri::Path;

/// What a request costs in a queue beside its octets: its head as it was understood, its end, and what is
/// kept to answer it. In octets.
pub const HEAD_OVERHEAD: usize = 1024;

/// A head on its way through this relay: the octets as they came, and how many of our URIs have
/// left the front of its To-Path so far.
#[derive(Clone, Debug)]
pub struct Transit {
    /// Offsets into `octets`.
    pub head: Head,
    /// The head as it was received; never altered.
    pub octets: Bytes,
    /// How many URIs have moved from To-Path to From-Path (RFC 4976, 6.4.1).
    pub moves: u8,
}

impl Transit {
    pub(crate) fn new(head: Head, octets: Bytes) -> Self {
        Self { head, octets, moves: 0 }
    }

    pub(crate) fn method(&self) -> Method {
        match self.head.kind() {
            Kind::Request(method) => method,
            Kind::Response(_) => Method::Other,
        }
    }

    /// To-Path as the hop that has it now sees it.
    pub(crate) fn to_path(&self) -> Path<'_> {
        self.head.to_path(&self.octets).after(usize::from(self.moves))
    }

    /// From-Path as received: what an answer or the first hop's REPORT goes back to.
    pub(crate) fn received_from_path(&self) -> Path<'_> {
        self.head.from_path(&self.octets)
    }

    /// From-Path as the hop that has it now received it: the URIs already moved, nearest first,
    /// then the path as it came.
    pub(crate) fn append_from_path(&self, out: &mut Vec<u8>) {
        self.append_from_path_after(usize::from(self.moves), out);
    }

    /// The same when only so many URIs had been moved.
    pub(crate) fn append_from_path_after(&self, moves: usize, out: &mut Vec<u8>) {
        for part in self.parts_of_from_path(moves) {
            out.extend_from_slice(part);
        }
    }

    /// Whether that is this path, octet by octet.
    pub(crate) fn is_from_path_after(&self, moves: usize, path: &[u8]) -> bool {
        let rest = self.parts_of_from_path(moves).try_fold(path, |rest, part| rest.strip_prefix(part));
        rest.is_some_and(<[u8]>::is_empty)
    }

    fn parts_of_from_path(&self, moves: usize) -> impl Iterator<Item = &[u8]> {
        let to_path = self.head.to_path(&self.octets);
        let moved = (0..moves).rev().map(move |n| to_path.after(n).first().unwrap_or_default());
        moved.flat_map(|uri| [uri, b" "]).chain([self.received_from_path().as_bytes()])
    }

    /// What the head costs against its sender's credit, in octets: its own, and what we keep
    /// beside it. Without the second part a flood of empty messages would be free.
    pub(crate) fn cost(&self) -> usize {
        self.octets.len() + HEAD_OVERHEAD
    }

    /// A copy that does not hold the read buffer of a busy connection in memory.
    pub(crate) fn compact(self) -> Self {
        Self { octets: Bytes::copy_from_slice(&self.octets), ..self }
    }

    /// Whether somebody waits for a response to this request on this hop (RFC 4975, 7.2).
    pub(crate) fn wants_answer(&self) -> bool {
        match self.method() {
            Method::Report => false,
            Method::Send => self.head.failure_report() != FailureReport::No,
            // Without a method it may be a SEND.
            _ if self.head.method_octets(&self.octets).is_empty() => {
                self.head.failure_report() != FailureReport::No
            }
            _ => true,
        }
    }
}

/// A Message-ID: short ones, which is nearly all of them, need no allocation of their own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum MessageId {
    Short { octets: [u8; 39], len: u8 },
    Long(std::sync::Arc<[u8]>),
}

impl MessageId {
    pub(crate) fn new(text: &[u8]) -> Self {
        let mut octets = [0_u8; 39];
        match octets.get_mut(..text.len()) {
            Some(room) => {
                room.copy_from_slice(text);
                // At most 39.
                Self::Short { octets, len: u8::try_from(text.len()).unwrap_or(39) }
            }
            None => Self::Long(text.into()),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { octets, len } => octets.get(..usize::from(*len)).unwrap_or_default(),
            Self::Long(text) => text,
        }
    }
}

/// All that is needed to tell a request's sender that its octets did not arrive (RFC 4976, 6.4.1),
/// kept until the next hop has answered.
#[derive(Clone, Debug)]
pub struct Notice {
    /// The request as it came in.
    pub(crate) stream: StreamId,
    /// The session whose hop this was.
    pub(crate) session: SessionId,
    /// Whether the request went from the session's outer side to its inner one.
    pub(crate) inward: bool,
    pub(crate) method: Method,
    pub(crate) failure_report: FailureReport,
    /// From-Path as this hop received it: where a REPORT goes.
    pub(crate) report_to: std::sync::Arc<[u8]>,
    pub(crate) message_id: Option<MessageId>,
    /// The octets concerned; the end is computed from what was handed on.
    pub(crate) range: ByteRange,
    /// How many of our URIs the request had moved when it left.
    pub(crate) moves: u8,
}

impl Notice {
    /// Whether two notices speak of the same message, in the same direction.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.message_id.is_some()
            && (self.session, self.inward, &self.message_id)
                == (other.session, other.inward, &other.message_id)
    }

    /// Whether a request on its way out belongs to the same message, in the same direction.
    pub(crate) fn is_of(&self, hop: Hop, transit: &Transit) -> bool {
        let message_id = transit.head.message_id(&transit.octets);
        transit.method() == Method::Send
            && (hop.session, hop.inward) == (self.session, self.inward)
            && message_id.is_some()
            && self.message_id.as_ref().map(MessageId::as_bytes) == message_id
    }

    /// More octets are concerned. The numbers are the peer's: they may be at the edge of 64 bits.
    pub(crate) fn extend(&mut self, octets: u64) {
        let before = self.range.start.saturating_sub(1);
        let end = self.range.end.unwrap_or(before);
        self.range.end = Some(end.saturating_add(octets));
    }

    /// Widens the range to that of another notice of the same message.
    pub(crate) fn widen(&mut self, other: ByteRange) {
        self.range.start = self.range.start.min(other.start);
        self.range.end = self.range.end.max(other.end);
        self.range.total = self.range.total.or(other.total);
    }
}

/// Who hands a request to a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Giver {
    /// The connection the request came in by.
    Peer,
    /// The same, where it leads to a relay that has proven to be the host of the first URI in From-Path.
    Relay,
    /// Another session of this relay, the hop before (both ends behind this relay).
    Session(SessionId),
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

/// What a session's outer side is bound to (RFC 4975, 5.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outer {
    /// A connection, dialled by us or by them.
    Peer(PeerRef),
    /// A session of this relay.
    Session(SessionId),
}

/// Who hands a request to the connection that it leaves by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hop {
    /// The session whose URI was moved last.
    pub(crate) session: SessionId,
    /// Whether the request goes to that session's inner side.
    pub(crate) inward: bool,
}

/// One step, addressed to whoever takes it.
#[derive(Debug)]
pub enum Message {
    /// To a session's home: a request begins whose first To-Path URI names that session.
    Request {
        /// The session named.
        session: SessionId,
        /// Who hands it over.
        giver: Giver,
        /// The request as it came in.
        stream: StreamId,
        /// Its head.
        transit: Transit,
    },
    /// To a session's home: body octets of a request that has begun.
    Body {
        /// As in the request.
        session: SessionId,
        /// As in the request.
        stream: StreamId,
        /// Never empty.
        octets: Bytes,
    },
    /// To a session's home: the request is complete, or its sender is gone (`#`).
    End {
        /// As in the request.
        session: SessionId,
        /// As in the request.
        stream: StreamId,
        /// The continuation flag.
        flag: Flag,
    },
    /// To a session's home: the hop after it refuses a request that is still coming in. Without
    /// meaning for a request that has ended: [`Message::Failed`] follows once the hop has seen that.
    Broken {
        /// The session.
        session: SessionId,
        /// The request.
        stream: StreamId,
        /// The code for the sender.
        status: Status,
    },
    /// To a session's home: a REPORT of this relay's own for its client, complete, from the session
    /// that it is linked to.
    Report {
        /// The session.
        session: SessionId,
        /// The session it comes from.
        from: SessionId,
        /// The whole frame.
        octets: Bytes,
    },
    /// To a session's home: a request failed on the hop towards the next URI after it had ended.
    Failed {
        /// What failed.
        notice: Notice,
        /// The code for the sender.
        status: Status,
    },
    /// To a session's home: its client's connection is gone.
    InnerLost {
        /// The session, which ends.
        session: SessionId,
    },
    /// To a session's home: what one of its sides was bound to is gone, its outer one as a rule, or the connection with
    /// the relay that its client is behind.
    OuterLost {
        /// The session.
        session: SessionId,
        /// What is gone; a session bound to something else does not care.
        outer: Outer,
        /// Whether it had ever been up: if not, nothing was bound, and something else may be.
        was_up: bool,
        /// The code for requests still running.
        status: Status,
    },
    /// To the connection a request leaves by: it begins.
    Open {
        /// Where it leaves.
        peer: PeerRef,
        /// The hop that hands it over.
        hop: Hop,
        /// The request as it came in.
        stream: StreamId,
        /// Its head.
        transit: Transit,
    },
    /// To the connection a request leaves by: body octets.
    Piece {
        /// Where it leaves.
        peer: PeerRef,
        /// As in the open.
        stream: StreamId,
        /// Never empty.
        octets: Bytes,
    },
    /// To the connection a request leaves by: the request is complete or aborted.
    Close {
        /// Where it leaves.
        peer: PeerRef,
        /// As in the open.
        stream: StreamId,
        /// The continuation flag.
        flag: Flag,
    },
    /// To the connection a request came in by: answer it, or forget that it waits.
    Answer {
        /// The request.
        stream: StreamId,
        /// `None`: no answer is due.
        status: Option<Status>,
    },
    /// To the connection a request came in by: the far end's own response (RFC 4976, 6.4.3).
    Reply {
        /// The request.
        stream: StreamId,
        /// The response's head.
        transit: Transit,
    },
    /// To a connection: a complete frame of this relay's own (a REPORT).
    Frame {
        /// Where it goes.
        peer: PeerRef,
        /// The whole frame.
        octets: Bytes,
    },
    /// To the connection octets came in by: they have been written or dropped.
    Credit {
        /// The connection.
        peer: PeerRef,
        /// The core that held them.
        from: CoreId,
        /// How many octets.
        octets: usize,
    },
    /// To the connection octets came in by: the core that was to have them has given them to another.
    Lent {
        /// The connection.
        peer: PeerRef,
        /// The core that does not hold them any more.
        from: CoreId,
        /// The core that does.
        to: CoreId,
        /// How many octets.
        octets: usize,
    },
    /// To a connection: a session bound one of its sides to it.
    Bind {
        /// The connection.
        peer: PeerRef,
        /// The session.
        session: SessionId,
        /// The most octets in one chunk towards it; see [`Settings::chunk_bounds`](super::Settings).
        chunk_max: Option<u32>,
    },
    /// To a connection: nobody will answer what it has asked by way of a session.
    Abandoned {
        /// The connection.
        peer: PeerRef,
        /// The session.
        session: SessionId,
    },
    /// To a session's home: a relay further on has refused the credentials of an AUTH that came through it.
    Guess {
        /// The session.
        session: SessionId,
    },
    /// To a connection: a session is no longer bound to it; one we dialled closes once all is written.
    Unbind {
        /// The connection.
        peer: PeerRef,
        /// The session.
        session: SessionId,
    },
    /// To a connection: if it does not take what waits for it from another one, that is refused.
    Shed {
        /// The connection.
        peer: PeerRef,
        /// The connection whose octets wait.
        source: PeerRef,
    },
    /// To a session's home: what a connection sent through it is not taken, and the other sessions of that
    /// connection wait for it.
    Relieve {
        /// The session that was told before, whose next hop this one is.
        before: Option<SessionId>,
        /// The session.
        session: SessionId,
        /// The connection that is held up.
        source: PeerRef,
    },
    /// To the core that counts an address or a user: something has changed.
    Tally {
        /// The core that counts.
        counter: CoreId,
        /// The core that tells.
        from: CoreId,
        /// Whose count.
        who: Who,
        /// What has changed.
        tally: Tally,
    },
    /// To a connection: its address has too many, this one goes.
    Excess {
        /// The connection.
        peer: PeerRef,
        /// The limit.
        limit: Limit,
    },
    /// To a connection that asked for a session: whether its user may have one more.
    Claimed {
        /// The connection.
        peer: PeerRef,
        /// As in the claim.
        ticket: LookUpTicket,
        /// Whose session.
        who: Who,
        /// The answer.
        granted: bool,
        /// The core that has counted it, if it was granted and one did.
        counter: Option<CoreId>,
    },
    /// To every core: somebody is to be refused for a while.
    Ban {
        /// The core.
        core: CoreId,
        /// Who.
        who: Who,
        /// What they may not do.
        offence: Offence,
        /// Until when.
        until: Instant,
        /// The connection that went too far.
        culprit: Option<PeerRef>,
    },
    /// To a core that has connections of a source which have proven nothing: about how many there are on all cores.
    Newcomers {
        /// The core.
        core: CoreId,
        /// The source.
        source: AddressKey,
        /// Its connections.
        count: u32,
    },
    /// To a core that has sessions of a user: how many there are on all cores.
    Share {
        /// The core.
        core: CoreId,
        /// The user.
        user: UserKey,
        /// The user's sessions.
        sessions: u32,
    },
    /// To a core: its memory budget is asked for a loan.
    Borrow {
        /// The core that is asked.
        lender: CoreId,
        /// The core that asks.
        borrower: CoreId,
    },
    /// To a core: the loan, which may be nothing, or the return of one.
    Lend {
        /// The core that gets it.
        to: CoreId,
        /// The core that gives it.
        from: CoreId,
        /// How many octets.
        octets: usize,
        /// It had been lent by `to` before.
        back: bool,
    },
}

impl Message {
    /// The core that takes the step.
    pub(crate) fn core(&self) -> CoreId {
        match self {
            Self::Request { session, .. }
            | Self::Body { session, .. }
            | Self::End { session, .. }
            | Self::Broken { session, .. }
            | Self::Report { session, .. }
            | Self::InnerLost { session }
            | Self::Guess { session }
            | Self::Relieve { session, .. }
            | Self::OuterLost { session, .. } => session.home(),
            Self::Failed { notice, .. } => notice.session.home(),
            Self::Answer { stream, .. } | Self::Reply { stream, .. } => stream.peer.core,
            Self::Tally { counter: core, .. }
            | Self::Ban { core, .. }
            | Self::Newcomers { core, .. }
            | Self::Share { core, .. }
            | Self::Borrow { lender: core, .. }
            | Self::Lend { to: core, .. } => *core,
            Self::Open { peer, .. }
            | Self::Piece { peer, .. }
            | Self::Close { peer, .. }
            | Self::Frame { peer, .. }
            | Self::Credit { peer, .. }
            | Self::Lent { peer, .. }
            | Self::Shed { peer, .. }
            | Self::Abandoned { peer, .. }
            | Self::Bind { peer, .. }
            | Self::Unbind { peer, .. }
            | Self::Excess { peer, .. }
            | Self::Claimed { peer, .. } => peer.core,
        }
    }

    /// The request that it hands on.
    pub(crate) fn stream(&self) -> Option<StreamId> {
        match self {
            Self::Open { stream, .. } | Self::Piece { stream, .. } | Self::Close { stream, .. } => {
                Some(*stream)
            }
            _ => None,
        }
    }

    /// Octets it holds against its sender's credit.
    pub(crate) fn cost(&self) -> usize {
        match self {
            Self::Open { transit, .. } => transit.cost(),
            Self::Piece { octets, .. } => octets.len(),
            _ => 0,
        }
    }

    /// The core whose death makes this message void: the one that will send what it promises to follow,
    /// or whose part of a sum it changes.
    pub(crate) fn origin(&self) -> Option<CoreId> {
        match self {
            Self::Request { stream, .. } => Some(stream.peer.core),
            Self::Open { hop, .. } => Some(hop.session.home()),
            Self::Bind { session, .. } => Some(session.home()),
            Self::Tally { from, .. }
            | Self::Borrow { borrower: from, .. }
            | Self::Lend { from, .. }
            | Self::Lent { from, .. } => Some(*from),
            _ => None,
        }
    }
}
