//! Every bound that can bite, by its config key.
//!
//! The code that enforces a limit, here or in the runtime, counts and explains it under one of these names, so that log
//! lines, counters and the config use the same name. A limit's value is in [`Limits`](crate::Limits) and in the
//! config's table, not here.

/// Writes the list once instead of three times.
macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident = $key:literal,)*) => {
        /// A bound that can bite.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Limit {
            $($(#[$doc])* $name,)*
        }

        impl Limit {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Whether it bites in ordinary use, and slows only its sender.
            pub fn is_ordinary(self) -> bool {
                matches!(self, Self::QueueBytes | Self::BytesPerSecondPerUser)
            }

            /// Its config key.
            pub fn key(self) -> &'static str {
                match self {
                    $(Self::$name => $key,)*
                }
            }
        }
    };
}

limits! {
    /// A head that does not end.
    HeadBytes = "limits.head_bytes_max",
    /// Too many header lines.
    Headers = "limits.headers_max",
    /// A line too long.
    LineBytes = "limits.line_bytes_max",
    /// Too many URIs in a path.
    PathUris = "limits.path_uris_max",
    /// A URI too long.
    UriBytes = "limits.uri_bytes_max",
    /// A comment too long.
    CommentBytes = "limits.comment_bytes_max",
    /// A Message-ID too long, or none.
    MessageIdBytes = "limits.message_id_bytes_max",
    /// A sender is paused: what it sent is not written on fast enough.
    QueueBytes = "limits.queue_bytes_high",
    /// Queued bytes of all connections.
    QueueBytesTotal = "limits.queue_bytes_total",
    /// All connections.
    Connections = "limits.connections_max",
    /// The share of connections that may be unauthenticated.
    UnauthenticatedShare = "limits.unauthenticated_percent_max",
    /// Connections from one address.
    ConnectionsPerAddress = "limits.connections_per_address_max",
    /// Unauthenticated connections from one address.
    UnauthenticatedPerAddress = "limits.unauthenticated_per_address_max",
    /// Requests without an answer.
    Transactions = "limits.transactions_per_peer_max",
    /// Refused requests of a connection that has proven nothing.
    RefusedRequests = "limits.refused_requests_max",
    /// Failed AUTHs of one connection.
    AuthAttempts = "auth.max_attempts",
    /// Failed AUTHs from one address.
    AuthFailuresPerAddress = "limits.auth_failures_per_address_max",
    /// Failed AUTHs for one user.
    AuthFailuresPerUser = "limits.auth_failures_per_user_max",
    /// Failed connects to next hops on behalf of one user.
    DialFailuresPerUser = "limits.dial_failures_per_user_max",
    /// Connections with a session of one user.
    SessionsPerUser = "limits.sessions_per_user_max",
    /// What one user sends.
    BytesPerSecondPerUser = "limits.bytes_per_second_per_user_max",
    /// Look-ups that wait.
    LookUpsWaiting = "limits.lookups_waiting_max",
    /// Account look-ups of one address.
    LookUpsPerAddress = "limits.lookups_per_address_max",
    /// Name look-ups of one user.
    LookUpsPerUser = "limits.lookups_per_user_max",
    /// Connects for one user.
    DialsPerUser = "limits.dials_per_user_max",
    /// Addresses of a host name.
    AddressesPerName = "limits.addresses_per_name_max",
    /// A TLS handshake too slow.
    HandshakeTimeout = "limits.handshake_timeout",
    /// No request that succeeded.
    FirstRequestTimeout = "limits.first_request_timeout",
    /// A head too slow.
    HeadTimeout = "limits.head_timeout",
    /// A TLS record too slow.
    RecordTimeout = "limits.record_timeout",
    /// A receiver that takes nothing, while other sessions of a shared connection wait for it.
    StallTimeout = "limits.stall_timeout",
    /// A receiver that takes nothing.
    WriteTimeout = "limits.write_timeout",
    /// A connection that is not used.
    IdleTimeout = "limits.idle_timeout",
    /// An account look-up too slow.
    LookUpTimeout = "limits.lookup_timeout",
    /// A name look-up too slow.
    ResolveTimeout = "limits.resolve_timeout",
}
