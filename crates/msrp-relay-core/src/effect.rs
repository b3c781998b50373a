//! What the relay asks of its runtime: the effects, in the order in which they must happen, and the
//! parcels for other cores. Plain data; what is done with them is the runtime's.

use super::admission::Who;
use super::ids::{CoreId, LookUpTicket, PeerKey};
use super::limit::Limit;
use super::message::Message;
use super::view::{EndReason, SessionView};
use msrp_proto::digest::Attempt;
use msrp_proto::status::Status;

/// What the caller must do.
#[derive(Debug)]
pub enum Effect {
    /// There is something to write: call [`Relay::poll_write`](super::Relay::poll_write) when the connection can take octets.
    Wake(PeerKey),
    /// Read no more from this connection for now: back-pressure.
    Pause(PeerKey),
    /// Read on.
    Resume(PeerKey),
    /// Read no more; write what [`Relay::poll_write`](super::Relay::poll_write) still has; close; say [`Input::Lost`](super::Input::Lost).
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
    /// Open a connection; say [`Input::Connected`](super::Input::Connected) or [`Input::DialFailed`](super::Input::DialFailed).
    Connect {
        /// The slot it will have.
        peer: PeerKey,
        /// Where to.
        target: Target,
        /// In whose turn.
        who: Who,
    },
    /// Ask the accounts; say [`Input::LookedUp`](super::Input::LookedUp).
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
    pub kin: Option<CoreId>,
}

/// Why the relay closes a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// Frames cannot be told apart any more (C4).
    Unparseable,
    /// AUTH for a name that is not ours (C3).
    Misaddressed,
    /// AUTH on a connection without TLS (A1).
    AuthWithoutTls,
    /// AUTH through a relay whose certificate is another's (A14).
    AnotherName,
    /// Too many failed AUTHs (A13).
    AuthFailures,
    /// The body of a request other than SEND exceeded 10240 octets (RFC 4975, 7.1).
    BodyTooLong,
    /// It has had too many requests refused, and nobody vouches for it.
    Refusals,
    /// A limit, which the log names, was reached.
    Limit(Limit),
    /// The process has no descriptor left, and this connection has proven least.
    NoDescriptor,
    /// It has no use any more.
    Idle,
    /// The peer sends no more.
    Ended,
    /// The session it was dialled for is over.
    SessionOver,
    /// The relay stops.
    Stopping,
    /// An operator closes it.
    Operator,
}

impl CloseReason {
    /// Whether it is what the peer sent, in frames of its own, that ends the connection.
    pub(super) fn is_for_requests(self) -> bool {
        match self {
            Self::Misaddressed
            | Self::AuthWithoutTls
            | Self::AnotherName
            | Self::AuthFailures
            | Self::BodyTooLong
            | Self::Refusals => true,
            // Whoever found that has told of it.
            Self::Unparseable | Self::Limit(_) | Self::NoDescriptor => false,
            Self::Idle | Self::Ended | Self::SessionOver | Self::Stopping | Self::Operator => false,
        }
    }

    /// The word for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unparseable => "unparseable input",
            Self::Misaddressed => "request for another host",
            Self::AuthWithoutTls => "AUTH without TLS",
            Self::AnotherName => "AUTH through a relay whose certificate is for another name",
            Self::AuthFailures => "too many failed AUTHs",
            Self::BodyTooLong => "body of a non-SEND request too long",
            Self::Refusals => "too many refused requests",
            Self::Limit(limit) => limit.key(),
            Self::NoDescriptor => "no file descriptor left",
            Self::Idle => "unused for limits.idle_timeout",
            Self::Ended => "the peer sends no more",
            Self::SessionOver => "session over",
            Self::Stopping => "the relay stops",
            Self::Operator => "closed by an operator",
        }
    }
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

/// What the caller must do, in order, and what must go to other cores.
#[derive(Debug, Default)]
pub struct Effects {
    /// In the order in which they must happen.
    pub list: Vec<Effect>,
    /// Messages to other cores, each list in order, by the core's position.
    pub parcels: Vec<(CoreId, Vec<Message>)>,
}

impl Effects {
    /// Nothing to do.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    pub(super) fn event(&mut self, event: Event) {
        self.list.push(Effect::Event(event));
    }

    pub(super) fn parcel(&mut self, to: CoreId, message: Message) {
        let found = self.parcels.iter().position(|(core, _)| *core == to);
        let index = found.unwrap_or_else(|| {
            self.parcels.push((to, Vec::new()));
            self.parcels.len() - 1
        });
        let list = &mut self.parcels[index].1;
        // Credits of one flush become one message.
        if let (Message::Credit { peer, octets, .. }, Some(Message::Credit { peer: last, octets: sum, .. })) =
            (&message, list.last_mut())
            && peer == last
        {
            *sum += octets;
            return;
        }
        list.push(message);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state what must hold")]
mod tests {
    use super::*;
    use crate::ids::{PeerKey, PeerRef};

    fn credit(to: u16, octets: usize) -> (CoreId, Message) {
        let [me, core] = [0, to].map(|index| CoreId { index, incarnation: 0 });
        (core, Message::Credit { peer: PeerRef { core, key: PeerKey::default() }, from: me, octets })
    }

    // Each core's list holds what is for that core, and credits to one connection are one.
    #[test]
    fn parcels_are_sorted_by_core_and_credits_in_a_row_are_summed() {
        let mut fx = Effects::new();
        for (to, octets) in [(1, 10), (2, 20), (1, 30), (2, 40), (3, 50)] {
            let (core, message) = credit(to, octets);
            fx.parcel(core, message);
        }
        let told: Vec<(u16, Vec<usize>)> = fx
            .parcels
            .iter()
            .map(|(core, list)| {
                let octets = |message: &Message| match message {
                    Message::Credit { peer, octets, .. } if peer.core == *core => *octets,
                    _ => 0,
                };
                (core.index, list.iter().map(octets).collect())
            })
            .collect();
        assert_eq!(told, [(1, vec![40]), (2, vec![60]), (3, vec![50])]);
    }

    #[test]
    fn reasons_are_told_apart_and_name_the_key_to_change() {
        use CloseReason as R;
        let all = [
            R::Unparseable,
            R::Misaddressed,
            R::AuthWithoutTls,
            R::AnotherName,
            R::AuthFailures,
            R::BodyTooLong,
            R::Refusals,
            R::Limit(Limit::Connections),
            R::Limit(Limit::FirstRequestTimeout),
            R::NoDescriptor,
            R::Idle,
            R::Ended,
            R::SessionOver,
            R::Stopping,
            R::Operator,
        ];
        let words: std::collections::HashSet<&str> = all.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), all.len());
        assert_eq!(R::Limit(Limit::Connections).as_str(), Limit::Connections.key());
    }
}
