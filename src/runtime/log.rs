//! The relay's events as log lines and counters. The relay itself knows neither.

use std::net::SocketAddr;

use tracing::field::{DisplayValue, display};

use crate::telemetry::{Counters, Site, Source, gated, pass_limit};
use msrp_proto::status::Status;
use msrp_relay_core::{Event, Holder, Limit, SessionView, Stats, Stay};

/// Characters shown of an unproven user name: a longer text is no name.
const STRANGERS_NAME_CHARS_MAX: usize = 64;

/// The peer that reached a limit, as far as it is known.
#[derive(Debug, Default)]
pub(crate) struct Felt {
    pub(crate) address: Option<SocketAddr>,
    pub(crate) holder: Holder,
}

/// Logs that a limit was reached, but not every time: a peer may reach one a thousand times a second. `felt` is called
/// only if a line is written.
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

/// Whether a limit holds up others than the peer that reached it.
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

/// Logs an event. `address` is that of the event's connection. `failures`: refused AUTHs get a line at the normal
/// level, with the user's name.
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
        Event::SessionMoved { session, from, .. } => {
            let address = address.map(display);
            tracing::debug!(
                session,
                address,
                from = from.index,
                "Session moved to the core of its other side"
            );
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

/// A refusal of a client behind a relay must not look as if the relay had guessed.
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

/// Counts what the relay's own counters do not distinguish.
pub(crate) fn count(counters: &Counters, event: &Event) {
    match event {
        Event::AuthRefused { status, .. } => counters.auth_refused(status.code()),
        Event::ReportSent { status, .. } => counters.report_sent(status.code()),
        _ => {}
    }
}

/// Adds to the core's counters what happened since the last time.
pub(crate) fn publish(counters: &Counters, before: &Stats, now: &Stats) {
    counters.sessions_opened.add(now.sessions_opened - before.sessions_opened);
    let moved = now.sessions_moved_in - before.sessions_moved_in;
    counters.sessions_moved.add(moved);
    counters.sessions_open.add(now.sessions_opened - before.sessions_opened + moved);
    counters.sessions_open.sub(now.sessions_closed - before.sessions_closed);
    counters.sessions_open.sub(now.sessions_moved_out - before.sessions_moved_out);
    let stayed = now.sessions_stayed.iter().zip(before.sessions_stayed);
    for (why, (now, before)) in Stay::ALL.into_iter().zip(stayed) {
        counters.session_stayed(why, now - before);
    }
    counters.auth_ok.add(now.auth_ok - before.auth_ok);
    counters.auth_challenged.add(now.auth_challenged - before.auth_challenged);
    counters.auth_out_of_bounds.add(now.auth_out_of_bounds - before.auth_out_of_bounds);
    counters.chunks_in.add(now.chunks_in - before.chunks_in);
    counters.chunks_out.add(now.chunks_out - before.chunks_out);
    counters.body_bytes_in.add(now.body_bytes_in - before.body_bytes_in);
    counters.body_bytes_out.add(now.body_bytes_out - before.body_bytes_out);
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
