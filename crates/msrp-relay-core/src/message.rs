//! The steps of connections, sessions and cores, in envelopes that say who takes them: plain data, `Send`.
//!
//! Every step of a request is a [`Message`] to the one that takes the next step: a session, the connection the request
//! leaves by, the connection it came from. On one core, sending is a push onto a queue; between cores the same value
//! crosses in a delivery. There is one path, not two.
//!
//! Order is kept between any two cores, and the whole design depends on it: an end never overtakes the body before it.

use std::time::Instant;

use bytes::Bytes;

use msrp_proto::parser::Flag;
use msrp_proto::status::Status;

use crate::ids::{CoreId, LookUpTicket, PeerRef, SessionId, SessionRef, StreamId};
use crate::limit::Limit;
use crate::meet::{Answer, Guest};
use crate::quota::who::{AddressKey, Offence, Tally, UserKey, Who};
use crate::reason::{CloseReason, EndReason};
use crate::request::{Giver, Neighbour, Notice, SessionSide, Transit};
use crate::sessions::session::OwnUri;

/// A step, in the envelope that names its taker. The address is read from the envelope alone.
#[derive(Debug)]
pub enum Message {
    /// To the core that owns a session.
    ToSession {
        /// The session.
        to: SessionRef,
        /// The step.
        step: SessionStep,
    },
    /// To the core that owns a connection.
    ToPeer {
        /// The connection.
        to: PeerRef,
        /// The step.
        step: PeerStep,
    },
    /// To a core itself.
    ToCore {
        /// The core.
        to: CoreId,
        /// The step.
        step: CoreStep,
    },
}

/// A step of a session.
#[derive(Debug)]
pub enum SessionStep {
    /// A request begins whose first To-Path URI names the session.
    Head {
        /// The connection or session that hands it over.
        giver: Giver,
        /// The request as it came in.
        stream: StreamId,
        /// Its head.
        transit: Transit,
    },
    /// Body bytes of a request that has begun.
    Body {
        /// As in the request.
        stream: StreamId,
        /// Never empty.
        bytes: Bytes,
    },
    /// The request is complete, or its sender is gone (`#`).
    End {
        /// As in the request.
        stream: StreamId,
        /// The continuation flag.
        flag: Flag,
    },
    /// The hop after the session refuses a request that is still coming in. Means nothing for a request that has ended:
    /// [`SessionStep::Failed`] follows once that hop has seen the end.
    Broken {
        /// The request.
        stream: StreamId,
        /// The code for the sender.
        status: Status,
    },
    /// A REPORT of this relay's own for the session's client, complete, from the session that it is linked to.
    Report {
        /// The session it comes from.
        from: SessionRef,
        /// The whole frame.
        bytes: Bytes,
    },
    /// A request failed on the hop towards the next URI after it had ended.
    Failed {
        /// What failed.
        notice: Notice,
        /// The code for the sender.
        status: Status,
    },
    /// The client's connection is gone, or the session has expired: it ends.
    InnerLost {
        /// Why.
        reason: EndReason,
    },
    /// The neighbour of one of the session's sides is gone: usually the outer one, or the connection with the relay
    /// that its client is behind.
    NeighbourLost {
        /// The lost neighbour; a session with another one ignores the step.
        neighbour: Neighbour,
        /// Whether it had ever been up. If not, nothing was bound, and another neighbour may be.
        was_up: bool,
        /// The code for requests that still run.
        status: Status,
    },
    /// A relay beyond this one refused the credentials of an AUTH that came through the session.
    Guess,
    /// The session's receiver does not take what a connection sends, and other sessions of that connection wait for it.
    Relieve {
        /// The session that got this step before, whose next hop is this one.
        before: Option<SessionRef>,
        /// The connection that is held up.
        source: PeerRef,
    },
    /// A session of another core wants to be bound to this one, and to come here.
    Meet {
        /// That one.
        guest: Guest,
    },
    /// The session that it wants to be bound to has answered.
    Met {
        /// The session that was asked.
        host: SessionRef,
        /// What it says.
        answer: Answer,
    },
    /// A guest that the session expects stays where it is.
    Stay {
        /// The guest.
        guest: SessionRef,
    },
}

/// A step of a connection.
#[derive(Debug)]
pub enum PeerStep {
    /// A request begins that leaves by the connection.
    Head {
        /// The session side that hands it over.
        side: SessionSide,
        /// The request as it came in.
        stream: StreamId,
        /// Its head.
        transit: Transit,
    },
    /// Body bytes of that request.
    Body {
        /// As in the request.
        stream: StreamId,
        /// Never empty.
        bytes: Bytes,
    },
    /// That request is complete or aborted.
    End {
        /// As in the request.
        stream: StreamId,
        /// The continuation flag.
        flag: Flag,
    },
    /// Answer a request that came from the connection, or forget that it waits.
    Answer {
        /// The request's number on the connection.
        sequence: u32,
        /// `None`: no answer is due.
        status: Option<Status>,
    },
    /// The far end's own response to a request that came from the connection (RFC 4976, 6.4.3).
    Reply {
        /// The request's number on the connection.
        sequence: u32,
        /// The response's head.
        transit: Transit,
    },
    /// A complete frame of this relay's own (a REPORT) leaves by the connection.
    Frame {
        /// The whole frame.
        bytes: Bytes,
    },
    /// Bytes that came from the connection have been written or dropped.
    Credit {
        /// The core that held them.
        from: CoreId,
        /// How many.
        bytes: usize,
    },
    /// A core that held bytes from the connection has passed them to another core.
    Lent {
        /// The core that held them.
        from: CoreId,
        /// The core that holds them.
        holder: CoreId,
        /// How many.
        bytes: usize,
    },
    /// A session bound one of its sides to the connection.
    Bind {
        /// The session.
        session: SessionRef,
        /// The most bytes in one chunk towards it; see [`Settings::max_chunk`](crate::Settings).
        chunk_max: Option<u32>,
    },
    /// A session is not bound to the connection any more; a dialled connection closes once all is written.
    Unbind {
        /// The session.
        session: SessionRef,
    },
    /// A request that the connection sent through a session will not be answered.
    Abandoned {
        /// The session.
        session: SessionRef,
    },
    /// If the connection does not take what waits for it from another one, that is refused.
    Shed {
        /// The connection whose bytes wait.
        source: PeerRef,
    },
    /// A relay beyond this one refused the credentials of an AUTH that we forwarded for the connection's client.
    Guessed {
        /// This was one failure too many.
        too_many: bool,
    },
    /// A session of the connection's client is over.
    SessionOver {
        /// The session.
        session: SessionRef,
    },
    /// The connection has gone too far: its address or its user is refused for a while.
    Banned {
        /// The banned address or user.
        who: Who,
        /// The offence.
        offence: Offence,
    },
    /// The connection closes, once its queue is written.
    Close {
        /// Why.
        reason: CloseReason,
    },
    /// The connection's address has too many connections: this one goes.
    Excess {
        /// The limit.
        limit: Limit,
    },
    /// Whether the user of the connection that asked for a session may have one more.
    Claimed {
        /// As in the claim.
        ticket: LookUpTicket,
        /// Whose session.
        who: Who,
        /// The answer.
        granted: bool,
        /// The core that counted it, if it was granted and a core did.
        counter: Option<CoreId>,
    },
}

/// A step of a core.
#[derive(Debug)]
pub enum CoreStep {
    /// A change of what the core counts for an address or a user.
    Tally {
        /// The reporting core.
        from: CoreId,
        /// The address or user.
        who: Who,
        /// The change.
        tally: Tally,
    },
    /// An address or a user is refused for a while.
    Ban {
        /// Who.
        who: Who,
        /// What they may not do.
        offence: Offence,
        /// Until when.
        until: Instant,
        /// The connection that caused it.
        culprit: Option<PeerRef>,
    },
    /// About how many unproven connections a source has on all cores. The receiving core has some of them.
    Newcomers {
        /// The source.
        source: AddressKey,
        /// Its connections.
        count: u32,
    },
    /// A session that the core has minted, and that went elsewhere, is over.
    Gone {
        /// The session.
        session: SessionId,
    },
    /// The same is called otherwise, or lives longer.
    Renamed {
        /// The session.
        session: SessionId,
        /// Its URIs.
        uris: Vec<OwnUri>,
    },
    /// How many sessions a user has on all cores. The receiving core has some of them.
    Share {
        /// The user.
        user: UserKey,
        /// The user's sessions.
        sessions: u32,
    },
    /// A core asks for a loan from the core's memory budget.
    Borrow {
        /// The core that asks.
        borrower: CoreId,
    },
    /// The loan, which may be 0, or the return of one.
    Lend {
        /// The core that gives it.
        from: CoreId,
        /// How many bytes.
        bytes: usize,
        /// The receiving core had lent it before.
        back: bool,
    },
}

impl Message {
    /// The core that takes the step.
    pub(crate) fn core(&self) -> CoreId {
        match self {
            Self::ToSession { to, .. } => to.core,
            Self::ToPeer { to, .. } => to.core,
            Self::ToCore { to, .. } => *to,
        }
    }

    /// The core whose death makes this message void: the core that will send its continuation, or whose part of a sum
    /// it changes.
    pub(crate) fn origin(&self) -> Option<CoreId> {
        match self {
            Self::ToSession { step, .. } => step.origin(),
            Self::ToPeer { step, .. } => step.origin(),
            Self::ToCore { step, .. } => step.origin(),
        }
    }
}

impl SessionStep {
    fn origin(&self) -> Option<CoreId> {
        match self {
            Self::Head { stream, .. } => Some(stream.peer.core),
            Self::Meet { guest: Guest { session, .. } } | Self::Stay { guest: session } => Some(session.core),
            Self::Met { host, .. } => Some(host.core),
            _ => None,
        }
    }

    /// The request that it hands on, and the bytes that it holds against its sender's credit.
    pub(crate) fn load(&self) -> Option<(StreamId, usize)> {
        match self {
            Self::Head { stream, transit, .. } => Some((*stream, transit.cost())),
            Self::Body { stream, bytes } => Some((*stream, bytes.len())),
            _ => None,
        }
    }
}

impl PeerStep {
    /// The request that it hands on.
    pub(crate) fn stream(&self) -> Option<StreamId> {
        match self {
            Self::Head { stream, .. } | Self::Body { stream, .. } | Self::End { stream, .. } => Some(*stream),
            _ => None,
        }
    }

    /// Bytes that it holds against its sender's credit.
    pub(crate) fn cost(&self) -> usize {
        match self {
            Self::Head { transit, .. } => transit.cost(),
            Self::Body { bytes, .. } => bytes.len(),
            _ => 0,
        }
    }

    fn origin(&self) -> Option<CoreId> {
        match self {
            Self::Head { side, .. } => Some(side.session.core),
            Self::Bind { session, .. } => Some(session.core),
            Self::Lent { from, .. } => Some(*from),
            _ => None,
        }
    }
}

impl CoreStep {
    fn origin(&self) -> Option<CoreId> {
        match self {
            Self::Tally { from, .. } | Self::Borrow { borrower: from } | Self::Lend { from, .. } => {
                Some(*from)
            }
            Self::Ban { .. }
            | Self::Newcomers { .. }
            | Self::Share { .. }
            | Self::Gone { .. }
            | Self::Renamed { .. } => None,
        }
    }
}
