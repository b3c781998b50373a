//! How a connection comes up: the first TLS flight, the end of the handshake, a proven certificate, and failures.

use std::rc::Rc;

use msrp_tls::{Client, NotARelay, TlsError, Whose};

use super::super::core::{Conn, Link, Phase, Shared};
use super::super::pool;
use crate::telemetry::{Site, Source, gated};
use msrp_relay_core::{Holder, Input, ProvenNames, Target};
use msrp_tls::trust::{Asker, TlsFault, shown_names};

/// Decrypts received bytes, and appends them to the `rest` that was left over. Returns how many were used.
pub(super) fn decrypt(link: &Link, bytes: &mut [u8], rest: &[u8]) -> (usize, Result<Vec<u8>, TlsError>) {
    let mut plain = pool::take(rest.len() + bytes.len());
    plain.extend_from_slice(rest);
    match &link.tls {
        None => {
            plain.extend_from_slice(bytes);
            (bytes.len(), Ok(plain))
        }
        Some(tls) => match tls.borrow_mut().receive(bytes, &mut plain, &mut link.tls_out.borrow_mut()) {
            Ok(used) => (used, Ok(plain)),
            Err(error) => (bytes.len(), Err(error)),
        },
    }
}

/// Sends a client's first flight.
pub(super) fn begin(conn: &Conn) -> Result<(), TlsError> {
    let is_client = matches!(conn.phase.get(), Phase::Dialling { .. });
    match conn.link.tls.is_some() && is_client {
        true => decrypt(&conn.link, &mut [], &[]).1.map(drop),
        false => Ok(()),
    }
}

/// TLS may have something to send, and may just have become ready. A plain connection is up at once.
pub(super) fn go_on(core: &Rc<Shared>, conn: &Conn) {
    if !conn.link.tls_out.borrow().is_empty() {
        conn.writing.wake();
    }
    let before = conn.phase.get();
    let has_keys = conn.link.tls.as_ref().is_none_or(|tls| tls.borrow().handshake_done());
    let is_ready = has_keys && conn.link.websocket.as_ref().is_none_or(|websocket| websocket.is_open());
    if !is_ready || before.is_up() {
        return;
    }
    conn.phase.set(Phase::Up { head_until: None });
    count(core, conn);
    if let Phase::Dialling { .. } = before {
        tracing::debug!(address = %conn.address(), "Connected");
        core.feed([Input::Connected { peer: conn.key }]);
    } else {
        let tls = conn.link.tls.as_ref();
        if tls.is_some_and(|tls| matches!(tls.borrow().peer(), Client::Relay(_))) {
            core.counters.relays_recognised.add(1);
        }
        identify(core, conn, None);
    }
}

fn count(core: &Shared, conn: &Conn) {
    let Some(tls) = &conn.link.tls else { return };
    let tls = tls.borrow();
    let handshakes = match tls.describe().version {
        Some("TLSv1_2") => &core.counters.tls12_handshakes,
        _ => &core.counters.tls13_handshakes,
    };
    handshakes.add(1);
    tracing::debug!(address = %conn.address(), agreed = %tls.describe(), records = ?tls.record_layer(), "TLS is up");
}

/// Tells the relay about a relay at the other end, before anything that has come from there. `proven`: its names, if
/// another process has seen the proof.
pub(super) fn identify(core: &Rc<Shared>, conn: &Conn, proven: Option<ProvenNames>) {
    let (peer, address) = (conn.key, conn.address());
    let names = match conn.link.tls.as_ref().map(|tls| tls.borrow().peer().clone()) {
        None | Some(Client::Unknown) => proven,
        Some(Client::Relay(names)) => ProvenNames::new(names),
        // Usually an endpoint with a self-made certificate.
        Some(Client::Other(why)) if matches!(*why, NotARelay::UnknownIssuer | NotARelay::Unusable) => {
            tracing::debug!(%address, reason = %why, "The client is not taken for a relay");
            None
        }
        Some(Client::Other(why)) => {
            let source = Source::address(address.ip());
            gated!(info, Site::NotARelay, source, { %address, reason = %why }, "The client is not taken for a relay");
            None
        }
    };
    if let Some(names) = names {
        let shown = shown_names(names.iter());
        tracing::debug!(%address, names = shown, "A relay has proven its name");
        core.feed([Input::Identified { peer, names }]);
    }
}

/// Logs that a connection which we opened has ended before TLS began.
pub(super) fn log_silence(target: &Target, Holder { session, user }: Holder, why: &str) {
    let (host, port, is_relay) = (&target.host, target.port, target.relay);
    let fault = TlsFault::Silent(format!("it has closed the connection instead of shaking hands: {why}"));
    let reason = fault.explained(Asker::Relay);
    gated!(
        info,
        Site::NextHop,
        Source::of(host),
        { host, port, is_relay, user, session, reason },
        "TLS with a next hop failed"
    );
}

/// Logs what went wrong with TLS on a connection that we opened, and whose certificate caused it, if one did.
pub(super) fn log_failure(target: &Target, Holder { session, user }: Holder, error: &TlsError) {
    let (host, port, is_relay) = (&target.host, target.port, target.relay);
    let (site, source, reason) = (Site::NextHop, Source::of(host), error.explained());
    match error.whose_certificate() {
        Some(Whose::Theirs) => gated!(
            info,
            site,
            source,
            { host, port, is_relay, user, session, reason },
            "The certificate of a next hop is refused"
        ),
        Some(Whose::Ours) => gated!(
            info,
            site,
            source,
            { host, port, is_relay, user, session, reason },
            "A next hop refuses our certificate"
        ),
        None => gated!(
            info,
            site,
            source,
            { host, port, is_relay, user, session, reason },
            "TLS with a next hop failed"
        ),
    }
}
