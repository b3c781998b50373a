//! The states of a connection and its parts: each is a type and holds only what is valid in it.

use std::collections::VecDeque;
use std::time::Instant;

use msrp_proto::head::Method;

use crate::ids::{PeerRef, SessionRef, StreamId};
use crate::limit::Limit;
use crate::quota::in_flight::Loans;
use crate::quota::newcomers::Place;
use crate::quota::who::{AddressKey, UserKey};
use crate::reason::CloseReason;
use crate::request::Transit;

/// Requests that an empty table of unanswered ones keeps room for.
const UNANSWERED_ROOM_KEPT: usize = 64;

/// How a connection came to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    /// Accepted from this source.
    Accepted { source: AddressKey },
    /// We dialled it.
    Dialled {
        /// The user to blame if the connection fails.
        blamed: Option<Blamed>,
        /// It leads to another process of this relay.
        to_other_process: bool,
    },
}

/// The user for whom a connection was dialled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blamed {
    pub(crate) user: UserKey,
    /// The connection of that user's client, for the log.
    pub(crate) client: Option<PeerRef>,
}

impl Origin {
    pub(crate) fn source(self) -> Option<AddressKey> {
        match self {
            Self::Accepted { source } => Some(source),
            Self::Dialled { .. } => None,
        }
    }

    pub(crate) fn is_dialled(self) -> bool {
        matches!(self, Self::Dialled { .. })
    }
}

/// How far the life of a connection has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// We are connecting; what is queued waits.
    Dialling,
    /// Both sides send.
    Up,
    /// Its peer sends no more; it closes once everything is answered.
    Ended,
    /// Nothing more is read; the queue is written, if it is up.
    Closing { reason: CloseReason, is_up: bool },
}

impl Phase {
    pub(crate) fn is_up(self) -> bool {
        match self {
            Self::Dialling => false,
            Self::Up | Self::Ended => true,
            Self::Closing { is_up, .. } => is_up,
        }
    }

    pub(crate) fn is_closing(self) -> bool {
        matches!(self, Self::Closing { .. })
    }

    pub(super) fn close_reason(self) -> Option<CloseReason> {
        match self {
            Self::Closing { reason, .. } => Some(reason),
            Self::Dialling | Self::Up | Self::Ended => None,
        }
    }
}

/// What is being received.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) frame: Incoming,
    /// The session of ours that the last request named: the next one usually goes there, too.
    pub(super) last_route: Option<Box<LastRoute>>,
    /// The number of the last request.
    pub(super) sequence: u32,
    /// Bytes received of a TLS record, or of a part of a frame, whose rest is awaited.
    pub(super) unfinished: usize,
}

/// Requests that will be answered.
#[derive(Debug, Default)]
pub(crate) struct Unanswered {
    pub(super) requests: VecDeque<UnansweredRequest>,
    /// Bytes of heads kept for them.
    pub(super) bytes: usize,
}

/// Bytes received from a connection that are neither written nor dropped.
#[derive(Debug, Default)]
pub(super) struct Credit {
    /// What its sender has used of its credit.
    pub(super) outstanding: usize,
    /// How many of them other cores hold; these are lost with their core.
    pub(super) lent: Loans,
}

/// Why and since when a connection is not read from.
#[derive(Debug, Default)]
pub(super) struct Pause {
    pub(super) is_on: bool,
    /// Its user has sent too much: the time when reading goes on.
    pub(super) throttled_until: Option<Instant>,
    /// Since when it is not read from because its bytes are not written on, while it serves several sessions.
    pub(super) held_up_since: Option<Instant>,
}

/// What the runtime knows and has of the bytes to write.
#[derive(Debug)]
pub(crate) struct Writing {
    /// The runtime has been told that there is something to write.
    pub(crate) is_woken: bool,
    /// Bytes that are being written.
    pub(crate) bytes_in_hand: usize,
    /// When the peer had last taken all its bytes, and whether it was given more then.
    pub(crate) last_taken: Instant,
    pub(crate) is_taking: bool,
    /// No further request may be written until answers come; kept so that it counts once.
    pub(super) is_table_full: bool,
}

impl Writing {
    pub(super) fn idle(now: Instant) -> Self {
        Self { is_woken: false, bytes_in_hand: 0, last_taken: now, is_taking: false, is_table_full: false }
    }
}

impl Credit {
    /// Whether all that came has been written or dropped, and nothing about it is in doubt.
    pub(super) fn is_clear(&self) -> bool {
        self.outstanding == 0 && self.lent.is_clear()
    }
}

/// Whether a connection has proven anything (RFC 4976, 6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// Not yet. It is closed at `until`, or when too many of its requests have been refused.
    Probation { until: Instant, refusals: u32, place: Place },
    /// It has authenticated, or one of its requests was forwarded, or we dialled it. Later refusals count too, but only
    /// successive ones, and only those that no session's peer would earn.
    Proven { strays: u32 },
}

/// The role of a connection's peer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It has not authenticated: it may be a foreign endpoint or relay.
    Foreign,
    /// It authenticated: the inner side of these sessions (two while a URI is being replaced).
    Client { sessions: Vec<SessionRef> },
}

/// Why a connection is not read from.
#[derive(Clone, Copy)]
pub(super) enum PauseReason {
    /// The relay is about to stop.
    Stopping,
    /// The accounts are being asked about its AUTH: AUTHs are not pipelined.
    LookUp,
    /// It does not take its answers.
    AnswersNotTaken,
    /// Too many of its requests await an answer.
    Transactions,
    /// What it sent is not written on fast enough.
    Queue,
    /// Its user sends too fast.
    Rate,
}

impl PauseReason {
    pub(super) fn limit(self) -> Option<Limit> {
        match self {
            Self::Stopping | Self::LookUp | Self::AnswersNotTaken => None,
            Self::Transactions => Some(Limit::Transactions),
            Self::Queue => Some(Limit::QueueBytes),
            Self::Rate => Some(Limit::BytesPerSecondPerUser),
        }
    }
}

/// The frame being received.
#[derive(Debug)]
pub(super) enum Incoming {
    Nothing,
    /// A request that goes to a session.
    Request {
        session: SessionRef,
        stream: StreamId,
        /// Body bytes that may still come.
        room: usize,
        /// Bytes that its head takes while it comes in: its session and the outgoing connection may each have a copy.
        kept: usize,
    },
    /// An AUTH for us, judged when it is complete.
    Auth {
        transit: Transit,
        room: usize,
    },
    /// Something that is settled already: the rest of it is dropped.
    Dropped,
}

/// A URI that is ours, and the session it names.
#[derive(Debug)]
pub(super) struct LastRoute {
    pub(super) uri: Vec<u8>,
    pub(super) session: SessionRef,
}

/// A request that will be answered.
#[derive(Debug)]
pub(super) struct UnansweredRequest {
    pub(super) sequence: u32,
    pub(super) session: SessionRef,
    pub(super) transit: Transit,
}

impl Unanswered {
    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn push(&mut self, sequence: u32, session: SessionRef, transit: Transit) {
        self.bytes += transit.cost();
        self.requests.push_back(UnansweredRequest { sequence, session, transit });
    }

    pub(super) fn take(&mut self, sequence: u32) -> Option<UnansweredRequest> {
        let index = self.requests.iter().position(|u| u.sequence == sequence)?;
        let request = self.requests.remove(index)?;
        self.bytes -= request.transit.cost();
        if self.requests.is_empty() && self.requests.capacity() > UNANSWERED_ROOM_KEPT {
            // A burst must not take memory for as long as the connection lives.
            self.requests = VecDeque::new();
        }
        Some(request)
    }

    pub(super) fn clear(&mut self) {
        self.requests.clear();
        self.bytes = 0;
    }

    /// Whether a SEND awaits its response, which depends on nothing outside.
    pub(super) fn has_send(&self) -> bool {
        self.requests.iter().any(|request| request.transit.method() == Method::Send)
    }
}
