//! Why connections are closed and sessions end: the words for logs and records.

use crate::limit::Limit;

/// Why the relay closes a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// The end of a frame cannot be found (C4).
    Unparseable,
    /// A request for another host (C3).
    Misaddressed,
    /// AUTH on a connection without TLS (A1).
    AuthWithoutTls,
    /// AUTH through a relay whose certificate is another's (A14).
    AnotherName,
    /// Too many failed AUTHs (A13).
    AuthFailures,
    /// The body of a request other than SEND exceeded 10240 bytes (RFC 4975, 7.1).
    BodyTooLong,
    /// Too many of its requests were refused, and it has proven nothing.
    Refusals,
    /// A limit, which the log names, was reached.
    Limit(Limit),
    /// The process has no descriptor left, and this connection has proven least.
    NoDescriptor,
    /// It has not been used for too long.
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
    /// Whether the peer's own frames end the connection.
    pub(crate) fn is_for_requests(self) -> bool {
        match self {
            Self::Misaddressed
            | Self::AuthWithoutTls
            | Self::AnotherName
            | Self::AuthFailures
            | Self::BodyTooLong
            | Self::Refusals => true,
            // Logged already, where it was found.
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

/// Why a session is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndReason {
    /// It was not prolonged.
    Expired,
    /// Its client's connection broke.
    ConnectionLost,
    /// Its client's connection was closed.
    Closed(CloseReason),
    /// Its core died.
    CoreDied,
}

impl EndReason {
    /// The words for the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::ConnectionLost => "connection lost",
            Self::CoreDied => "core died",
            Self::Closed(CloseReason::Ended) => "closed by the client",
            Self::Closed(reason) => reason.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
