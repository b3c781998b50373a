//! What the relay did, as log lines and counters. The relay itself knows neither.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::relay::{Event, Limit, PeerKey, SessionView, Stats};
use crate::telemetry::Counters;

/// A limit that bites again and again is told of this often.
const LIMIT_REPEATED: Duration = Duration::from_secs(60);

/// Tells of limits that were reached, each of them now and then only: whoever runs into one may do so a
/// thousand times a second.
#[derive(Debug)]
pub(crate) struct LimitLog(RefCell<[Told; Limit::COUNT]>);

#[derive(Clone, Copy, Debug, Default)]
struct Told {
    last: Option<Instant>,
    /// How often it was reached since, and not told.
    since: u64,
}

impl Default for LimitLog {
    fn default() -> Self {
        Self(RefCell::new([Told::default(); Limit::COUNT]))
    }
}

impl LimitLog {
    pub(crate) fn reached(
        &self,
        limit: Limit,
        peer: Option<PeerKey>,
        address: Option<SocketAddr>,
        user: Option<&str>,
    ) {
        let now = Instant::now();
        let mut all = self.0.borrow_mut();
        let Some(told) = all.get_mut(limit as usize) else {
            return;
        };
        if told.last.is_some_and(|last| now.duration_since(last) < LIMIT_REPEATED) {
            told.since += 1;
            return;
        }
        let untold = std::mem::take(&mut told.since);
        told.last = Some(now);
        let key = limit.key();
        let address = address.map(tracing::field::display);
        if concerns_operator(limit) {
            tracing::warn!(
                limit = key,
                ?peer,
                address,
                user,
                untold,
                "Limit reached; raise it in the config if this is no abuse"
            );
        } else {
            tracing::info!(limit = key, ?peer, address, user, untold, "Limit reached by a peer");
        }
    }
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

/// Writes an event to the log. `failures`: refused AUTHs are worth a line at the normal level.
pub(crate) fn event(event: &Event, failures: bool) {
    match event {
        Event::SessionOpened { session, user, realm, peer, relay } => match relay {
            None => tracing::info!(session, user, realm, ?peer, "Session opened"),
            Some(relay) => {
                tracing::info!(session, user, realm, ?peer, relay, "Session opened through another relay");
            }
        },
        Event::SessionClosed { session, reason } => {
            let SessionView { session, user, age, .. } = session.as_ref();
            let reason = reason.as_str();
            tracing::info!(session, user, age_seconds = age.as_secs(), reason, "Session closed");
        }
        Event::AuthRefused { peer, status, why } if failures => {
            tracing::warn!(?peer, status = status.code(), reason = why, "AUTH refused");
        }
        Event::AuthRefused { peer, status, why } => {
            tracing::debug!(?peer, status = status.code(), reason = why, "AUTH refused");
        }
        Event::RequestRefused { session, status, why } => {
            tracing::debug!(session, status = status.code(), reason = why, "Request refused");
        }
        Event::ClosedForRequests { peer, reason } => {
            let reason = reason.as_str();
            tracing::info!(?peer, reason, "Closing a connection for its requests: sessions lose it");
        }
        Event::LimitReached { .. } => {}
        Event::ReportSent { session, status } => {
            tracing::debug!(session, status = status.code(), "Failure REPORT sent");
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
    counters.body_bytes_in.add(now.body_octets_in - before.body_octets_in);
    counters.body_bytes_out.add(now.body_octets_out - before.body_octets_out);
    counters.reports_sent.add(now.reports_sent - before.reports_sent);
    counters.links_local.add(now.links_local - before.links_local);
    counters.links_split.add(now.links_split - before.links_split);
    counters.dials.add(now.dials - before.dials);
    counters.dial_failures.add(now.dials_failed - before.dials_failed);
    counters.parcels_sent.add(now.parcels - before.parcels);
    for (limit, (now, before)) in Limit::ALL.iter().zip(now.limits_reached.iter().zip(before.limits_reached))
    {
        counters.limit_reached(*limit, now - before);
    }
}
