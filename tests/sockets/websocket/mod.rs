//! Clients by WebSocket (RFC 7977): what they do like any client, and what is theirs alone.

mod hostile;
mod moves;
mod sessions;

use testkit_net::endpoint::Endpoint;
use testkit_net::relay::{Setup, TestRelay};
use testkit_net::until;

/// A relay that serves WebSocket beside MSRP, on so many cores as there are.
fn relay() -> TestRelay {
    TestRelay::with(&setup(""))
}

fn setup(more: &'static str) -> Setup {
    Setup { websocket: &[("127.0.0.1:0", true)], more, ..Setup::default() }
}

/// Another client, on another core than that.
fn apart(relay: &TestRelay, core: usize, client: impl Fn(&TestRelay) -> Endpoint) -> Endpoint {
    until("a client on another core", || Some(client(relay)).filter(|client| client.core() != core))
}
