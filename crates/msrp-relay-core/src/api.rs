//! The relay's inputs, effects and events. Plain data; the runtime decides what to do with it.

use bytes::Bytes;

use msrp_proto::digest::{Attempt, Ha1};
use msrp_proto::head::Head;
use msrp_proto::parser::Flag;
use msrp_proto::status::Status;

use crate::identity::ProvenNames;
use crate::ids::{CoreId, LookUpTicket, PeerKey};
use crate::limit::Limit;
use crate::message::Message;
use crate::quota::newcomers::Stage;
use crate::quota::who::Who;
use crate::reason::{CloseReason, EndReason};
use crate::settings::Settings;
use crate::view::{SessionHandle, SessionView};

/// What the caller tells the relay.
#[derive(Debug)]
pub enum Input {
    /// A frame begins: the parser delivered a head.
    Head {
        /// The connection.
        peer: PeerKey,
        /// Offsets into `bytes`.
        head: Head,
        /// The head's bytes.
        bytes: Bytes,
    },
    /// Body bytes of the frame that has begun; never empty.
    Body {
        /// The connection.
        peer: PeerKey,
        /// The bytes.
        bytes: Bytes,
    },
    /// The frame's end-line.
    End {
        /// The connection.
        peer: PeerKey,
        /// Its continuation flag.
        flag: Flag,
    },
    /// So many bytes of a TLS record, or of a part of a frame, have come, and the rest is awaited. Said after each read
    /// that changes the number.
    Unfinished {
        /// The connection.
        peer: PeerKey,
        /// How many.
        bytes: usize,
    },
    /// The bytes that arrive cannot be divided into frames (req C4): the connection must close.
    Unparseable {
        /// The connection.
        peer: PeerKey,
    },
    /// CR and LF have come between frames: a keep-alive.
    Blank {
        /// The connection.
        peer: PeerKey,
        /// How many bytes.
        bytes: usize,
    },
    /// The peer of an accepted connection has proven these names. Comes before every other input about it.
    Identified {
        /// The connection.
        peer: PeerKey,
        /// What its certificate says.
        names: ProvenNames,
    },
    /// An accepted connection has reached this stage, before its first request.
    Advanced {
        /// The connection.
        peer: PeerKey,
        /// How far.
        stage: Stage,
    },
    /// The process has no descriptor left for a connection in the backlog.
    NoDescriptor,
    /// The connection of an [`Effect::Connect`] is up.
    Connected {
        /// The connection.
        peer: PeerKey,
    },
    /// It could not be opened: refused, unreachable, forbidden, no such name, no valid certificate.
    DialFailed {
        /// The connection.
        peer: PeerKey,
    },
    /// The peer will send no more, but may still be listening: its queue can still be written.
    Ended {
        /// The connection.
        peer: PeerKey,
    },
    /// A connection is gone.
    Lost {
        /// The connection.
        peer: PeerKey,
    },
    /// The answer to [`Effect::LookUp`].
    LookedUp {
        /// As in the effect.
        ticket: LookUpTicket,
        /// What the accounts say.
        answer: LookUpAnswer,
    },
    /// A message from another core of this process.
    Message(Message),
    /// A core has died or been started again; `running` is its present life, if any. After this, the caller hands in
    /// nothing that an earlier life sent: this input writes off what that life owed.
    CoreChanged {
        /// The core's position.
        index: u16,
        /// Its present incarnation.
        running: Option<u16>,
    },
    /// The other processes of this relay, by their generations. Sessions of theirs are next hops.
    OtherGenerations([Option<u8>; 2]),
    /// The config has been read again: these settings hold from here on, except the name, the ports and the number of
    /// cores, which stay as they are.
    Reconfigured(Box<Settings>),
    /// Time has passed.
    Tick,
    /// An operator ends a session: its client's connection is closed.
    CloseSession(SessionHandle),
    /// The relay is going to stop: existing sessions live on, and no others are opened. A second one changes nothing.
    Drain,
    /// Requests that were written and await an answer will get none: their senders are told, if a failure report is
    /// due. To be said after [`Input::Quiesce`].
    GiveUp,
    /// The relay is about to stop: it reads nothing more. Requests that it has accepted, and may have answered, are
    /// still delivered, whichever core they leave by.
    Quiesce,
    /// The relay stops: every connection is closed once what is queued for it is written.
    Shutdown,
}

/// What the accounts say about a user.
#[derive(Debug)]
pub enum LookUpAnswer {
    /// The user exists.
    Found(Ha1),
    /// There is no such user.
    Unknown,
    /// The user has proven what opens nothing, for a reason that is for the log alone: to the client, as if unknown.
    Refused(&'static str),
    /// The accounts could not be asked. Never treated as a wrong password.
    Unavailable,
}

/// What the caller does after [`Relay::poll_write`](crate::Relay::poll_write).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteState {
    /// Write the batch if it holds anything, and call again. If the batch is empty, wait for the next wake.
    Open,
    /// Write the batch, then close.
    Finished,
}

/// How a connection came to be and what it runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transport {
    /// It runs on TLS.
    pub secure: bool,
    /// The local port it was accepted on.
    pub port: u16,
    /// One frame goes into one WebSocket message, and its sender is a client of this relay (RFC 7977).
    pub websocket: bool,
}

/// What the caller must do.
#[derive(Debug)]
pub enum Effect {
    /// There is something to write: call [`Relay::poll_write`](crate::Relay::poll_write) when the connection can take bytes.
    Wake(PeerKey),
    /// Stop reading this connection for a while: back-pressure.
    Pause(PeerKey),
    /// Read on.
    Resume(PeerKey),
    /// Stop reading; write what [`Relay::poll_write`](crate::Relay::poll_write) still has; close; say [`Input::Lost`].
    Close {
        /// The connection.
        peer: PeerKey,
        /// Why.
        reason: CloseReason,
    },
    /// End this connection at once, without a last message and without waiting for its peer: another connection needs
    /// its place. The relay has forgotten it already.
    Abort {
        /// The connection.
        peer: PeerKey,
        /// Why.
        reason: CloseReason,
    },
    /// The reader of this connection, which [`Relay::meet`](crate::Relay::meet) has parked, goes on: call
    /// [`Relay::depart`](crate::Relay::depart).
    GoOn(PeerKey),
    /// Open a connection; say [`Input::Connected`] or [`Input::DialFailed`].
    Connect {
        /// The slot that the connection will have.
        peer: PeerKey,
        /// Where to.
        target: Target,
        /// The user in whose turn it is.
        who: Who,
    },
    /// Ask the accounts; say [`Input::LookedUp`].
    LookUp {
        /// To be returned with the answer.
        ticket: LookUpTicket,
        /// In whose turn: that of the address or relay it comes from, because the user is not proven yet.
        who: Who,
        /// The credentials: the account and the wanted hash.
        attempt: Box<Attempt>,
    },
    /// Something worth a log line.
    Event(Event),
}

/// Where a next hop is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// `msrps`: TLS, with no fallback to plain.
    pub secure: bool,
    /// Host name or address literal without brackets.
    pub host: String,
    /// As in the URI. There is no default (RFC 4975, 6), except for an AUTH, see `by_service`.
    pub port: u16,
    /// The URI is an AUTH's and has no port: SRV says where the domain's relay listens (RFC 4976, 8).
    pub by_service: bool,
    /// More URIs follow in To-Path: the next hop is a relay and its certificate must prove its name.
    pub relay: bool,
    /// The target is another process of this relay, not another host: the home core of the session in that process.
    pub other_process: Option<CoreId>,
}

/// Events for the operator's log.
#[derive(Debug)]
pub enum Event {
    /// AUTH succeeded: a session exists.
    SessionOpened {
        /// Prefix of its id.
        session: String,
        /// The user.
        user: String,
        /// The realm.
        realm: String,
        /// Its client's connection, or that of the relay before the client.
        peer: PeerKey,
        /// Host and port of the relay that its client is behind.
        relay: Option<String>,
    },
    /// A session has another URI, beside the present one until that expires.
    SessionRenewed {
        /// Prefix of its id.
        session: String,
    },
    /// A session has come from another core, to the one that it is bound to.
    SessionMoved {
        /// Prefix of its id.
        session: String,
        /// The user.
        user: String,
        /// The realm.
        realm: String,
        /// Its client's connection, as it is called here.
        peer: PeerKey,
        /// Where it was opened.
        from: CoreId,
    },
    /// A session has ended.
    SessionClosed {
        /// Its last figures.
        session: Box<SessionView>,
        /// Why.
        reason: EndReason,
    },
    /// AUTH was refused.
    AuthRefused {
        /// The connection.
        peer: PeerKey,
        /// The code it got.
        status: Status,
        /// Why, for the log only.
        why: &'static str,
        /// The user name in the request, whether or not there is such a user: a stranger's words.
        user: Option<String>,
        /// Host and port of the relay that the client is behind.
        relay: Option<String>,
    },
    /// A connection that serves sessions is closed because of what its peer sent.
    ClosedForRequests {
        /// The connection.
        peer: PeerKey,
        /// Why.
        reason: CloseReason,
    },
    /// A request was refused.
    RequestRefused {
        /// The session it named or came through, if known.
        session: Option<String>,
        /// The code.
        status: Status,
        /// Why, for the log only.
        why: &'static str,
    },
    /// A limit was reached.
    LimitReached {
        /// Which one.
        limit: Limit,
        /// The connection that it affected, if it was one.
        peer: Option<PeerKey>,
        /// The user whom it concerns, if known.
        user: Option<String>,
    },
    /// A failure REPORT was sent.
    ReportSent {
        /// Prefix of the session's id.
        session: String,
        /// The code in it.
        status: Status,
    },
}
