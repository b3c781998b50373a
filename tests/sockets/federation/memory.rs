//! What clients behind a relay make the next one keep.

use std::sync::Arc;

use super::relays::{Relays, Wish};
use testkit_net::bounded;
use testkit_net::frame::{Request, fresh_id};

/// Connections that one relay opens to another.
const CONNECTIONS: usize = 100;
/// Clients behind it that each ask by every connection, and never come back with a password.
const CLIENTS: usize = 256;
/// `limits.queue_bytes_total`.
const BUDGET_KIB: u64 = 16 << 10;
/// What a connection of any kind may cost, and what any work takes for a while.
const CONNECTION_KIB_MAX: u64 = 64;
const SLACK_KIB: u64 = 2 << 10;

/// An account is not needed to be one of these clients, only a relay.
#[test]
fn clients_behind_relays_stay_within_the_memory_budget() {
    bounded(|| {
        let relays = Relays::new();
        let more = "limits: {queue_bytes_total: 16MiB, first_request_timeout: 5m}\n";
        let b = relays.relay_with("b.alder.example", &Wish { more, ..relays.wish() });
        let config = relays.relay_as_client(&relays.authority, "a.osier.example");
        let mut relays: Vec<_> = (0..CONNECTIONS).map(|_| b.connect_as("a", &config)).collect();
        let before = b.process.rss_kib();
        // As long as a URI may be, nearly.
        let long: Arc<str> = "x".repeat(900).into();
        std::thread::scope(|scope| {
            for some in relays.chunks_mut(CONNECTIONS / 4) {
                let (to, long) = (b.uri(), Arc::clone(&long));
                scope.spawn(move || {
                    for relay in some {
                        for _ in 0..CLIENTS {
                            let from = format!(
                                "msrps://a.osier.example:2855/{};tcp;p={long} msrps://192.0.2.1:2855/alice;tcp",
                                fresh_id()
                            );
                            let tid = relay.send_bare(Request::new("AUTH", &to, &from));
                            // Challenged if there is room for its nonce, else refused.
                            let status = relay.status(&tid);
                            assert!(matches!(status, 401 | 403), "{status}");
                        }
                    }
                });
            }
        });
        let grown = b.process.rss_kib().saturating_sub(before);
        let bound = BUDGET_KIB + CONNECTIONS as u64 * CONNECTION_KIB_MAX + SLACK_KIB;
        println!("grown by {grown} KiB of at most {bound}");
        assert!(grown <= bound, "grown by {grown} KiB, more than {bound} KiB");
        drop(relays);
        // There is room again.
        let mut relay = b.connect_as("a", &config);
        let from =
            format!("msrps://a.osier.example:2855/{};tcp msrps://192.0.2.1:2855/alice;tcp", fresh_id());
        let tid = relay.send_bare(Request::new("AUTH", &b.uri(), &from));
        assert_eq!(relay.status(&tid), 401);
    });
}
