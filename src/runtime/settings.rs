//! The cores' part of the config: one immutable value, made from a [`Config`] and swapped whole at a reload.
//!
//! Invariants: a finished value never changes; every core has the same one, except during a reload. Each setting has
//! the name of its YAML key; what the relay needs in another form is in `relay`. Must not know what the settings are
//! used for.

use std::sync::Arc;

use msrp_tls::{Identity, Roots, TlsSetup, Trust};

use super::error::StartError;
use crate::config::{
    Backend, CaSource, Config, Limits, Outbound, PlainPolicy, SharedSecret, UnprovenRelays, WebSocket,
};
use crate::control::{Memory, SharedSecrets};
use crate::telemetry::Records;
use msrp_relay_core::{Expires, MaxChunk, Settings, Transport};

/// What a core knows of the config.
#[derive(Debug)]
pub(crate) struct CoreConfig {
    /// What the relay of the core needs.
    pub(crate) relay: Settings,
    pub(crate) limits: Limits,
    pub(crate) outbound: Outbound,
    pub(crate) websocket: WebSocket,
    pub(crate) tls: TlsSetup,
    pub(crate) log_failures: bool,
    pub(crate) shared_secrets: SharedSecrets,
    /// The accounts, if they are the config's own.
    pub(crate) accounts: Option<Memory>,
    /// Where accounting records go.
    pub(crate) records: Records,
}

impl CoreConfig {
    /// `listens`: what is listened on.
    pub(super) fn new(config: Config, listens: &[Transport], tls: TlsSetup, records: Records) -> Arc<Self> {
        Arc::new(Self {
            relay: settings(&config, listens),
            shared_secrets: SharedSecrets::new(&config.auth.shared_secrets),
            accounts: match &config.auth.backend {
                Backend::Memory(users) => Some(Memory::new(users)),
                _ => None,
            },
            limits: config.limits,
            outbound: config.outbound,
            websocket: config.websocket,
            tls,
            log_failures: config.auth.log_failures,
            records,
        })
    }
}

/// The TLS setup, with a log line for what it lacks.
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

/// The relay's part of the config.
fn settings(config: &Config, listens: &[Transport]) -> Settings {
    let limits = &config.limits;
    let connections_per_core_max = limits.connections_max.div_ceil(config.cores.len().max(1));
    let msrp = || listens.iter().filter(|listen| !listen.websocket);
    // The URIs of WebSocket clients lead to a port that speaks MSRP; the config has seen that there is one.
    let outside = msrp().find(|listen| listen.secure).or_else(|| msrp().next());
    let narrow = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Settings {
        hostname: config.hostname.clone(),
        realm: config.realm.clone(),
        domains: config.domains.clone(),
        ports: listens.iter().map(|listen| listen.port).collect(),
        cores: u16::try_from(config.cores.len()).unwrap_or(u16::MAX),
        algorithms: config.auth.algorithms.clone(),
        timed_names: SharedSecret::timed_names(&config.auth.shared_secrets),
        challenge_lifetime: config.auth.challenge_lifetime,
        max_attempts: config.auth.max_attempts,
        insecure_plain: config.auth.insecure_plain,
        sessions: Expires {
            expires_min: config.sessions.expires_min.as_secs(),
            expires_default: config.sessions.expires_default.as_secs(),
            expires_max: config.sessions.expires_max.as_secs(),
            enforce_default: config.sessions.enforce_default,
        },
        methods_allow_other: config.methods.allow_other,
        relays: Some(&config.outbound.relays).filter(|relays| !relays.is_empty()).cloned(),
        serves_relays: config.tls.client_ca.is_some(),
        unproven_relays_refused: config.tls.unproven_relays == UnprovenRelays::Refuse,
        tls_port: msrp().find(|listen| listen.secure).map(|listen| listen.port),
        outbound_plain: config.outbound.plain == PlainPolicy::Allow,
        max_chunk: MaxChunk::new(
            config.outbound.max_chunk.iter().map(|(host, bytes)| (host.clone(), narrow(*bytes))),
        ),
        websocket: msrp_relay_core::WebSocket {
            max_message: narrow(config.websocket.max_message),
            window: config.websocket.window as u64,
            secure: outside.is_some_and(|listen| listen.secure),
            port: outside.map_or(0, |listen| listen.port),
        },
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
