//! What the relay is told: its inputs, and the answers of its output. What it asks of its runtime is in `effect`.

use bytes::Bytes;

use super::identity::ProvenNames;
use super::ids::{LookUpTicket, PeerKey};
use super::message::Message;
use super::newcomers::Stage;
use super::settings::Settings;
use super::view::SessionHandle;
use msrp_proto::digest::Ha1;
use msrp_proto::head::Head;
use msrp_proto::parser::Flag;

/// What the relay is told.
#[derive(Debug)]
pub enum Input {
    /// A frame begins: the parser delivered a head.
    Head {
        /// The connection.
        peer: PeerKey,
        /// Offsets into `octets`.
        head: Head,
        /// The head's octets.
        octets: Bytes,
    },
    /// Body octets of the frame that has begun; never empty.
    Body {
        /// The connection.
        peer: PeerKey,
        /// The octets.
        octets: Bytes,
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
        /// How many octets.
        octets: usize,
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
    /// A connection that [`Effect::Connect`](super::Effect::Connect) asked for is up.
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
    /// The answer to [`Effect::LookUp`](super::Effect::LookUp).
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
    /// What has been written and awaits an answer will get none any more: whoever sent it is told, as far as that is
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

/// What [`Relay::poll_write`](super::Relay::poll_write) leaves to be done.
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
