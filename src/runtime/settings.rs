//! What the cores know of the config: one immutable value, made from a [`Config`] and swapped whole when that is read again.
//!
//! Invariants: nothing of it changes once it is made; every core has the same one, but for the moment of a reload. Each
//! setting bears the name of its YAML key; what the relay needs in another form stands in `relay`.
//! Must not know: what the settings are used for.

use std::sync::Arc;

use msrp_tls::{Identity, Roots, TlsSetup, Trust};

use super::error::StartError;
use crate::config::{CaSource, Config, Limits, Outbound, PlainPolicy, UnprovenRelays};
use crate::telemetry::Records;
use msrp_relay_core::{ChunkBounds, Expires, Settings};

/// What a core knows of the config.
#[derive(Debug)]
pub(crate) struct CoreConfig {
    /// What the relay of the core needs.
    pub(crate) relay: Settings,
    pub(crate) limits: Limits,
    pub(crate) outbound: Outbound,
    pub(crate) tls: TlsSetup,
    pub(crate) log_failures: bool,
    /// Where accounting records go.
    pub(crate) records: Records,
}

impl CoreConfig {
    /// `listens`: the ports that are listened on, and whether by TLS.
    pub(super) fn new(config: Config, listens: &[(u16, bool)], tls: TlsSetup, records: Records) -> Arc<Self> {
        Arc::new(Self {
            relay: settings(&config, listens),
            limits: config.limits,
            outbound: config.outbound,
            tls,
            log_failures: config.auth.log_failures,
            records,
        })
    }
}

/// What TLS needs, with a line in the log for what it lacks.
pub(super) fn tls_setup(config: &Config) -> Result<TlsSetup, StartError> {
    let identities = config.tls.certificates.iter().map(|pair| Identity {
        chain: pair.chain.clone(),
        key: pair.key.clone_key(),
        names: pair.names.clone(),
    });
    let roots = |ca: &CaSource| match ca {
        CaSource::System => Roots::System,
        CaSource::File { certificates, .. } => Roots::Certificates(certificates.clone()),
    };
    let trust =
        Trust { called: roots(&config.outbound.ca), calling: config.tls.client_ca.as_ref().map(roots) };
    let tls = TlsSetup::new(identities.collect(), &config.hostname, &trust, config.tls.record_layer)?;
    if tls.relays.as_ref().is_some_and(|relays| relays.is_empty()) {
        tracing::warn!("No trusted CA found: no caller can be a relay; see tls.client_ca");
    }
    if tls.roots == 0 {
        tracing::warn!(
            "No trusted CA found: every next hop that is a relay will be refused; see outbound.ca"
        );
    }
    Ok(tls)
}

/// What the relay needs of the config.
fn settings(config: &Config, listens: &[(u16, bool)]) -> Settings {
    let limits = &config.limits;
    let connections_per_core_max = limits.connections_max.div_ceil(config.cores.len().max(1));
    let narrow = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Settings {
        hostname: config.hostname.clone(),
        realm: config.realm.clone(),
        domains: config.domains.clone(),
        ports: listens.iter().map(|(port, _)| *port).collect(),
        cores: u16::try_from(config.cores.len()).unwrap_or(u16::MAX),
        algorithms: config.auth.algorithms.clone(),
        challenge_lifetime: config.auth.challenge_lifetime,
        max_attempts: config.auth.max_attempts,
        insecure_plain: config.auth.insecure_plain,
        expires: Expires {
            seconds_min: config.sessions.expires_min.as_secs(),
            seconds_default: config.sessions.expires_default.as_secs(),
            seconds_max: config.sessions.expires_max.as_secs(),
            enforce_default: config.sessions.enforce_default,
        },
        allow_other_methods: config.methods.allow_other,
        relays: Some(&config.outbound.relays).filter(|relays| !relays.is_empty()).cloned(),
        serves_relays: config.tls.client_ca.is_some(),
        relays_must_prove: config.tls.unproven_relays == UnprovenRelays::Refuse,
        tls_port: listens.iter().find(|(_, secure)| *secure).map(|(port, _)| *port),
        dial_plain: config.outbound.plain == PlainPolicy::Allow,
        chunk_bounds: ChunkBounds::new(
            config.outbound.max_chunk.iter().map(|(host, bytes)| (host.clone(), narrow(*bytes))),
        ),
        limits: msrp_relay_core::Limits {
            queue_bytes_high: limits.queue_bytes_high,
            queue_bytes_low: limits.queue_bytes_low,
            flush_bytes_max: limits.flush_bytes_max,
            request_bytes_max: limits.request_bytes_max(),
            queue_bytes_total: limits.queue_bytes_total,
            connections_per_core_max,
            unauthenticated_per_core_max: (connections_per_core_max * limits.unauthenticated_percent_max
                / 100)
                .max(1),
            connections_per_address_max: narrow(limits.connections_per_address_max),
            unauthenticated_per_address_max: narrow(limits.unauthenticated_per_address_max),
            refused_requests_max: narrow(limits.refused_requests_max),
            auth_failures_per_address_max: narrow(limits.auth_failures_per_address_max),
            auth_failures_per_user_max: narrow(limits.auth_failures_per_user_max),
            dial_failures_per_user_max: narrow(limits.dial_failures_per_user_max),
            failure_window: limits.failure_window,
            sessions_per_user_max: narrow(limits.sessions_per_user_max),
            bytes_per_second_per_user_max: limits.bytes_per_second_per_user_max as u64,
            first_request_timeout: limits.first_request_timeout,
            stall_timeout: limits.stall_timeout,
            idle_timeout: limits.idle_timeout,
            transactions_per_peer_max: limits.transactions_per_peer_max,
        },
    }
}
