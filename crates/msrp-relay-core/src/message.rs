//! The steps of connections, sessions and cores, in envelopes that say who takes them: plain data, `Send`.
//!
//! Every step of a request is a [`Message`] to what takes the next one: a session, the connection the
//! request leaves by, the connection it came in by. On one core that is a push onto a queue; between
//! cores the same value crosses in a delivery. There is one path, not two.
//!
//! Order is kept between any two cores, which the whole design leans on: an end never overtakes
//! the body before it.

use std::time::Instant;

use bytes::Bytes;

use msrp_proto::parser::Flag;
use msrp_proto::status::Status;

use crate::ids::{CoreId, LookUpTicket, PeerRef, SessionRef, StreamId};
use crate::limit::Limit;
use crate::quota::who::{AddressKey, Offence, Tally, UserKey, Who};
use crate::reason::{CloseReason, EndReason};
use crate::request::{Giver, Neighbour, Notice, SessionSide, Transit};

/// A step, in the envelope that says who takes it. The address is read from the envelope alone.
#[derive(Debug)]
pub enum Message {
    /// To the core that owns a session.
    ToSession {
        /// The session.
        to: SessionRef,
        /// What it does.
        step: SessionStep,
    },
    /// To the core that owns a connection.
    ToPeer {
        /// The connection.
        to: PeerRef,
        /// What it does.
        step: PeerStep,
    },
    /// To a core as such.
    ToCore {
        /// The core.
        to: CoreId,
        /// What it does.
        step: CoreStep,
    },
}

/// A step of a session.
#[derive(Debug)]
pub enum SessionStep {
    /// A request begins whose first To-Path URI names the session.
    Head {
        /// Who hands it over.
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
    /// The hop after the session refuses a request that is still coming in. Without meaning for a request that has
    /// ended: [`SessionStep::Failed`] follows once the hop has seen that.
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
    /// What one of the session's sides was bound to is gone: its outer one as a rule, or the connection with the relay
    /// that its client is behind.
    NeighbourLost {
        /// What is gone; a session bound to something else does not care.
        neighbour: Neighbour,
        /// Whether it had ever been up: if not, nothing was bound, and something else may be.
        was_up: bool,
        /// The code for requests still running.
        status: Status,
    },
    /// A relay further on has refused the credentials of an AUTH that came through the session.
    Guess,
    /// What a connection sent through the session is not taken, and the other sessions of that connection wait for it.
    Relieve {
        /// The session that was told before, whose next hop this one is.
        before: Option<SessionRef>,
        /// The connection that is held up.
        source: PeerRef,
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
    /// Answer a request that came in by the connection, or forget that it waits.
    Answer {
        /// The request's number on the connection.
        sequence: u32,
        /// `None`: no answer is due.
        status: Option<Status>,
    },
    /// The far end's own response to a request that came in by the connection (RFC 4976, 6.4.3).
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
    /// Bytes that came in by the connection have been written or dropped.
    Credit {
        /// The core that held them.
        from: CoreId,
        /// How many.
        bytes: usize,
    },
    /// The core that was to have bytes which came in by the connection has given them to another.
    Lent {
        /// The core that does not hold them any more.
        from: CoreId,
        /// The core that does.
        holder: CoreId,
        /// How many.
        bytes: usize,
    },
    /// A session bound one of its sides to the connection.
    Bind {
        /// The session.
        session: SessionRef,
        /// The most bytes in one chunk towards it; see [`Settings::chunk_bounds`](crate::Settings).
        chunk_max: Option<u32>,
    },
    /// A session is no longer bound to the connection; one we dialled closes once all is written.
    Unbind {
        /// The session.
        session: SessionRef,
    },
    /// What the connection has asked by way of a session will not be answered.
    Abandoned {
        /// The session.
        session: SessionRef,
    },
    /// If the connection does not take what waits for it from another one, that is refused.
    Shed {
        /// The connection whose bytes wait.
        source: PeerRef,
    },
    /// A relay further on has refused the credentials of an AUTH that the connection's client had us forward.
    Guessed {
        /// Once too often.
        too_many: bool,
    },
    /// A session of the connection's client is over.
    SessionOver {
        /// The session.
        session: SessionRef,
    },
    /// It has gone too far: its address or its user is refused for a while.
    Banned {
        /// Who is.
        who: Who,
        /// For what.
        offence: Offence,
    },
    /// It closes, once all that is queued for it is written.
    Close {
        /// Why.
        reason: CloseReason,
    },
    /// The connection's address has too many: this one goes.
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
        /// The core that has counted it, if it was granted and one did.
        counter: Option<CoreId>,
    },
}

/// A step of a core.
#[derive(Debug)]
pub enum CoreStep {
    /// Something has changed that the core counts for an address or a user.
    Tally {
        /// The core that reports it.
        from: CoreId,
        /// Whose count.
        who: Who,
        /// What has changed.
        tally: Tally,
    },
    /// An address or a user is to be refused for a while.
    Ban {
        /// Who.
        who: Who,
        /// What they may not do.
        offence: Offence,
        /// Until when.
        until: Instant,
        /// The connection that went too far.
        culprit: Option<PeerRef>,
    },
    /// About how many connections of a source that have proven nothing there are on all cores; the core has some of them.
    Newcomers {
        /// The source.
        source: AddressKey,
        /// Its connections.
        count: u32,
    },
    /// How many sessions of a user there are on all cores; the core has some of them.
    Share {
        /// The user.
        user: UserKey,
        /// The user's sessions.
        sessions: u32,
    },
    /// The core's memory budget is asked for a loan.
    Borrow {
        /// The core that asks.
        borrower: CoreId,
    },
    /// The loan, which may be nothing, or the return of one.
    Lend {
        /// The core that gives it.
        from: CoreId,
        /// How many bytes.
        bytes: usize,
        /// The core that it is given to had lent it before.
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

    /// The core whose death makes this message void: the one that will send what it promises to follow,
    /// or whose part of a sum it changes.
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

    /// Bytes it holds against its sender's credit.
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
            Self::Ban { .. } | Self::Newcomers { .. } | Self::Share { .. } => None,
        }
    }
}
