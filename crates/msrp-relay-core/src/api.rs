//! What the relay is told and what it asks for: inputs, effects, events. Plain data; what is done with it is the runtime's.

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

/// What the relay is told.
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
    /// So many bytes have come of a TLS record, or of a piece of a frame, of which the rest is awaited. Said after each
    /// read that changes it.
    Unfinished {
        /// The connection.
        peer: PeerKey,
        /// How many.
        bytes: usize,
    },
    /// What arrives can no longer be divided into frames (norm C4): the connection must go.
    Unparseable {
        /// The connection.
        peer: PeerKey,
    },
    /// CR and LF have come between frames: a sign of life.
    Blank {
        /// The connection.
        peer: PeerKey,
        /// How many bytes.
        bytes: usize,
    },
    /// The peer of an accepted connection has proven to bear these names, before anything else is said of it.
    Identified {
        /// The connection.
        peer: PeerKey,
        /// What its certificate says.
        names: ProvenNames,
    },
    /// An accepted connection has got so far, before its first request.
    Advanced {
        /// The connection.
        peer: PeerKey,
        /// How far.
        stage: Stage,
    },
    /// The process has no descriptor left for a connection that waits to be accepted.
    NoDescriptor,
    /// A connection that [`Effect::Connect`] asked for is up.
    Connected {
        /// The connection.
        peer: PeerKey,
    },
    /// It could not be had: refused, unreachable, forbidden, no such name, no valid certificate.
    DialFailed {
        /// The connection.
        peer: PeerKey,
    },
    /// The peer will send no more, but may still be listening: what is queued for it can be written.
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
    /// A core has died or been started again; `running` is its present life, if any. Nothing that an
    /// earlier life sent may be handed in after this: what it owed is written off here.
    CoreChanged {
        /// The core's position.
        index: u16,
        /// Its incarnation now.
        running: Option<u16>,
    },
    /// The other processes of this relay, by their generations. Sessions of theirs are next hops.
    OtherGenerations([Option<u8>; 2]),
    /// The config has been read again: other settings hold from now on, but for the name, the ports and the number of
    /// cores, which stay as they are.
    Reconfigured(Box<Settings>),
    /// Time has passed.
    Tick,
    /// An operator ends a session: its client's connection is closed.
    CloseSession(SessionHandle),
    /// The relay is going to stop: sessions that there are live on, no further ones are opened. Said again, it changes
    /// nothing.
    Drain,
    /// What has been written and awaits an answer will get none any more: its sender is told, as far as that is
    /// owed. To be said after [`Input::Quiesce`].
    GiveUp,
    /// The relay is about to stop: nothing more is read. What has been accepted, and maybe answered, still
    /// finds its way, on whatever core that ends.
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
    /// The accounts could not be asked: never to be taken for a wrong password.
    Unavailable,
}

/// What [`Relay::poll_write`](crate::Relay::poll_write) leaves to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteState {
    /// Write the batch, if it holds anything, and call again; with an empty batch: wait to be woken.
    Open,
    /// Write the batch, then close.
    Finished,
}

/// How a connection came to be and what it runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transport {
    /// TLS.
    pub secure: bool,
    /// The local port it was accepted on.
    pub port: u16,
}

/// What the caller must do.
#[derive(Debug)]
pub enum Effect {
    /// There is something to write: call [`Relay::poll_write`](crate::Relay::poll_write) when the connection can take bytes.
    Wake(PeerKey),
    /// Read no more from this connection for now: back-pressure.
    Pause(PeerKey),
    /// Read on.
    Resume(PeerKey),
    /// Read no more; write what [`Relay::poll_write`](crate::Relay::poll_write) still has; close; say [`Input::Lost`].
    Close {
        /// The connection.
        peer: PeerKey,
        /// Why.
        reason: CloseReason,
    },
    /// End this connection at once, without a word and without waiting for its peer: its place is needed. The relay has
    /// forgotten it already.
    Abort {
        /// The connection.
        peer: PeerKey,
        /// Why.
        reason: CloseReason,
    },
    /// Open a connection; say [`Input::Connected`] or [`Input::DialFailed`].
    Connect {
        /// The slot it will have.
        peer: PeerKey,
        /// Where to.
        target: Target,
        /// In whose turn.
        who: Who,
    },
    /// Ask the accounts; say [`Input::LookedUp`].
    LookUp {
        /// To be given back.
        ticket: LookUpTicket,
        /// In whose turn: that of the address or relay where it comes from, for the user is not proven yet.
        who: Who,
        /// The credentials: whose account, and which hash is wanted.
        attempt: Box<Attempt>,
    },
    /// Something worth a log line.
    Event(Event),
}

/// Where a next hop is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// `msrps`: TLS, never fallen back from.
    pub secure: bool,
    /// Host name or address literal without brackets.
    pub host: String,
    /// As in the URI; there is no default (RFC 4975, 6), but for AUTH, see `by_service`.
    pub port: u16,
    /// The URI, an AUTH's, has no port: where the relay of the domain listens is for SRV to say (RFC 4976, 8).
    pub by_service: bool,
    /// More URIs follow in To-Path: the next hop is a relay and its certificate must prove its name.
    pub relay: bool,
    /// It is no other host: another process of this relay, and in it the core where the session lives that is meant.
    pub other_process: Option<CoreId>,
}

/// Things an operator may want to read about.
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
        /// Its client's connection, or that of the relay before it.
        peer: PeerKey,
        /// Host and port of the relay that its client is behind.
        relay: Option<String>,
    },
    /// A session has got another URI, beside the one it has until that expires.
    SessionRenewed {
        /// Prefix of its id.
        session: String,
    },
    /// A session is over.
    SessionClosed {
        /// What there was to say of it in the end.
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
        /// The name that was given, whether or not there is such a user: a stranger's words.
        user: Option<String>,
        /// Host and port of the relay that the client is behind.
        relay: Option<String>,
    },
    /// A connection that sessions live by is closed for what its peer has sent.
    ClosedForRequests {
        /// The connection.
        peer: PeerKey,
        /// What it was.
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
        /// The connection that felt it, if it was one.
        peer: Option<PeerKey>,
        /// The user whom it is about, as far as that is known.
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
