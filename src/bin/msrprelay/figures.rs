//! What the process shows of itself: metrics, the file of addresses, and its cores' counters at the end.

use std::net::SocketAddr;
use std::path::Path;

use msrp_client::{epoch_seconds, validity};
use msrprelay::config::Config;
use msrprelay::ops::metrics::{Certificate, Endpoint, Facts, Place};
use msrprelay::runtime::server::Server;
use msrprelay::telemetry::{Snapshot, Telemetry};
use untrusted::files;

use crate::report::{Reported, report};

/// The address of the metrics: a relay that cannot listen on it does not start.
pub(crate) fn metrics_place(address: SocketAddr) -> Result<Place, Reported> {
    Place::listen(address).map_err(|error| report(format!("msrprelay: metrics.address: {address}: {error}")))
}

pub(crate) fn show_metrics(
    place: Option<Place>,
    facts: Facts,
    server: &Server,
    telemetry: &Telemetry,
) -> Result<Option<Endpoint>, Reported> {
    let serve = |place: Place| place.serve(facts, server.observer(), telemetry.lines_dropped_later());
    let endpoint = place.map(serve).transpose();
    let endpoint =
        endpoint.map_err(|error| report(format!("msrprelay: metrics cannot be served: {error}")))?;
    if let Some(endpoint) = &endpoint {
        tracing::info!(address = %endpoint.address(), "Metrics are served");
    }
    Ok(endpoint)
}

/// The facts of a config that the metrics show.
pub(crate) fn facts(config: &Config) -> Facts {
    let expiry = |certificate| validity(certificate).and_then(|(_, until)| epoch_seconds(&until));
    let certificates = config.tls.certificates.iter().filter_map(|pair| {
        let expires = pair.chain.iter().filter_map(expiry).min()?;
        Some(Certificate { path: pair.certificate_path.display().to_string(), expires })
    });
    Facts {
        certificates: certificates.collect(),
        connections_max: config.limits.connections_max,
        queue_bytes_max: config.limits.queue_bytes_total,
    }
}

/// Writes the addresses to a file that appears complete or not at all.
pub(crate) fn announce(server: &Server, metrics: Option<&Endpoint>, file: &Path) -> std::io::Result<()> {
    let addresses = server.addresses().iter().map(|(address, _)| *address);
    let addresses = addresses.chain(metrics.map(Endpoint::address)).map(|address| format!("{address}\n"));
    files::replace(file, files::PUBLIC, addresses.collect::<String>().as_bytes())
}

/// Logs the counters.
pub(crate) fn tell_counts(counters: Vec<Snapshot>) {
    for (core, counters) in counters.iter().enumerate() {
        tracing::info!(
            core,
            sessions = counters.sessions_opened,
            bytes = counters.body_bytes_out,
            links_local = counters.links_local,
            links_split = counters.links_split,
            sessions_moved = counters.sessions_moved,
            connections_handed_over = counters.connections_handed_over,
            connections_passed_on = counters.connections_passed_on,
            "Core stopped"
        );
    }
    let all: Snapshot = counters.into_iter().sum();
    for (limit, times) in all.limits_reached().filter(|(limit, times)| !limit.is_ordinary() && *times > 0) {
        tracing::info!(limit = limit.key(), times, "Limit was reached while the relay ran");
    }
}
