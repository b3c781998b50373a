//! What the relay did, as log lines and counters. The relay itself knows neither.

use crate::relay::{Event, Stats};
use crate::telemetry::Counters;

/// Writes an event to the log. `failures`: refused AUTHs are worth a line at the normal level.
pub(crate) fn event(event: &Event, failures: bool) {
    match event {
        Event::SessionOpened { session, user, realm, peer } => {
            tracing::info!(session, user, realm, ?peer, "Session opened");
        }
        Event::SessionClosed { session, user, age } => {
            tracing::info!(session, user, age_seconds = age.as_secs(), "Session closed");
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
        Event::ReportSent { session, status } => {
            tracing::debug!(session, status = status.code(), "Failure REPORT sent");
        }
    }
}

/// Adds to the core's counters what happened since the last time.
pub(crate) fn publish(counters: &Counters, before: &Stats, now: &Stats) {
    counters.sessions_opened.add(now.sessions_opened - before.sessions_opened);
    counters.sessions_open.add(now.sessions_opened - before.sessions_opened);
    counters.sessions_open.sub(now.sessions_closed - before.sessions_closed);
    counters.auth_ok.add(now.auth_ok - before.auth_ok);
    counters.auth_failed.add(now.auth_failed - before.auth_failed);
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
}
