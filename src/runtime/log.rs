//! What the relay did, as log lines and counters. The relay itself knows neither.

use std::net::SocketAddr;

use tracing::field::{DisplayValue, display};

use crate::telemetry::{Counters, Site, Source, gated, pass_limit};
use msrp_proto::status::Status;
use msrp_relay_core::{Event, Holder, Limit, SessionView, Stats};

/// Characters of a user name that is not proven: what is longer is no name.
const STRANGERS_NAME_CHARS_MAX: usize = 64;

/// The peer that ran into a limit, as far as it is known.
#[derive(Debug, Default)]
pub(crate) struct Felt {
    pub(crate) address: Option<SocketAddr>,
    pub(crate) holder: Holder,
}

/// Says that a limit was reached, now and then only: a peer that runs into one may do so a thousand times a second.
/// `felt` is asked only if there is a line to be written.
pub(crate) fn limit_reached(limit: Limit, felt: impl FnOnce() -> Felt) {
    let Some(suppressed) = pass_limit(limit) else {
        return;
    };
    let suppressed = (suppressed > 0).then_some(suppressed);
    let Felt { address, holder: Holder { session, user } } = felt();
    let (address, limit_key) = (address.map(display), limit.key());
    let user = user.as_deref().map(shortened);
    if concerns_operator(limit) {
        tracing::warn!(
            limit = limit_key,
            address,
            user,
            session,
            suppressed,
            "Limit reached; raise it in the config if this is no abuse"
        );
    } else {
        tracing::info!(limit = limit_key, address, user, session, suppressed, "Limit reached by a peer");
    }
}

/// The beginning of a name that a stranger may have made up.
fn shortened(name: &str) -> &str {
    name.char_indices().nth(STRANGERS_NAME_CHARS_MAX).map_or(name, |(at, _)| name.get(..at).unwrap_or(name))
}

/// Whether a limit holds up others than the peer that ran into it.
fn concerns_operator(limit: Limit) -> bool {
    matches!(
        limit,
        Limit::Connections
            | Limit::UnauthenticatedShare
            | Limit::ConnectionsPerAddress
            | Limit::UnauthenticatedPerAddress
            | Limit::QueueBytesTotal
            | Limit::AuthFailuresPerAddress
            | Limit::AuthFailuresPerUser
            | Limit::DialFailuresPerUser
            | Limit::SessionsPerUser
            | Limit::LookUpsWaiting
            | Limit::LookUpTimeout
            | Limit::ResolveTimeout
    )
}

/// Writes an event to the log. `address` is where the connection that it is about leads to; `failures`: refused AUTHs are
/// worth a line at the normal level, and name the user.
pub(crate) fn event(event: &Event, address: Option<SocketAddr>, failures: bool) {
    match event {
        Event::SessionOpened { session, user, realm, relay, .. } => {
            let address = address.map(display);
            match relay {
                None => tracing::info!(session, user, realm, address, "Session opened"),
                Some(relay) => {
                    tracing::info!(
                        session,
                        user,
                        realm,
                        address,
                        relay,
                        "Session opened through another relay"
                    );
                }
            }
        }
        Event::SessionRenewed { session } => tracing::debug!(session, "Session got another URI"),
        Event::SessionClosed { session, reason } => session_closed(session, address, reason.as_str()),
        Event::AuthRefused { status, why, user, relay, .. } => {
            let user = user.as_deref().filter(|_| failures).map(shortened);
            auth_refused(address, *status, why, (user, relay.as_deref()), failures);
        }
        Event::RequestRefused { session, status, why } => {
            tracing::debug!(session, status = status.code(), reason = why, "Request refused");
        }
        Event::ClosedForRequests { reason, .. } => {
            let (address, reason) = (address.map(display), reason.as_str());
            tracing::info!(address, reason, "Closing a connection for its requests: sessions lose it");
        }
        Event::LimitReached { .. } => {}
        Event::ReportSent { session, status } => {
            tracing::debug!(session, status = status.code(), "Failure REPORT sent");
        }
    }
}

pub(crate) fn session_closed(view: &SessionView, address: Option<SocketAddr>, reason: &str) {
    let SessionView { session, user, realm, relay, age, .. } = view;
    tracing::info!(
        session,
        user,
        realm,
        address = address.map(display),
        relay,
        duration_seconds = age.as_secs_f64(),
        bytes_from_client = view.bytes_from_client,
        bytes_to_client = view.bytes_to_client,
        reason,
        "Session closed"
    );
}

/// What was refused to a client behind a relay must not look as if the relay had guessed.
fn auth_refused(
    address: Option<SocketAddr>,
    status: Status,
    reason: &str,
    (user, relay): (Option<&str>, Option<&str>),
    failures: bool,
) {
    let (status, site) = (status.code(), Site::AuthRefused);
    let source = address.map_or(Source::ANY, |address| Source::address(address.ip()));
    let address: Option<DisplayValue<_>> = address.map(display);
    match (relay, failures) {
        (None, true) => gated!(warn, site, source, { address, status, reason, user }, "AUTH refused"),
        (Some(relay), true) => {
            gated!(warn, site, source, { address, status, reason, relay, user }, "AUTH behind a relay refused");
        }
        (None, false) => tracing::debug!(address, status, reason, "AUTH refused"),
        (Some(relay), false) => {
            tracing::debug!(address, status, reason, relay, "AUTH behind a relay refused");
        }
    }
}

/// Counts what the relay's own figures do not tell apart.
pub(crate) fn count(counters: &Counters, event: &Event) {
    match event {
        Event::AuthRefused { status, .. } => counters.auth_refused(status.code()),
        Event::ReportSent { status, .. } => counters.report_sent(status.code()),
        _ => {}
    }
}

/// Adds to the core's counters what happened since the last time.
pub(crate) fn publish(counters: &Counters, before: &Stats, now: &Stats) {
    counters.heartbeats.add(1);
    counters.sessions_opened.add(now.sessions_opened - before.sessions_opened);
    counters.sessions_open.add(now.sessions_opened - before.sessions_opened);
    counters.sessions_open.sub(now.sessions_closed - before.sessions_closed);
    counters.auth_ok.add(now.auth_ok - before.auth_ok);
    counters.auth_failed.add(now.auth_failed - before.auth_failed);
    counters.auth_challenged.add(now.auth_challenged - before.auth_challenged);
    counters.auth_out_of_bounds.add(now.auth_out_of_bounds - before.auth_out_of_bounds);
    counters.chunks_in.add(now.chunks_in - before.chunks_in);
    counters.chunks_out.add(now.chunks_out - before.chunks_out);
    counters.body_bytes_in.add(now.body_bytes_in - before.body_bytes_in);
    counters.body_bytes_out.add(now.body_bytes_out - before.body_bytes_out);
    counters.reports_sent.add(now.reports_sent - before.reports_sent);
    counters.links_local.add(now.links_local - before.links_local);
    counters.links_split.add(now.links_split - before.links_split);
    counters.dials.add(now.dials - before.dials);
    counters.dial_failures.add(now.dials_failed - before.dials_failed);
    counters.messages_sent.add(now.messages_sent - before.messages_sent);
    let reached = now.limits_reached.iter().zip(before.limits_reached.iter());
    for (limit, (now, before)) in Limit::ALL.iter().zip(reached) {
        counters.limit_reached(*limit, now - before);
    }
}
