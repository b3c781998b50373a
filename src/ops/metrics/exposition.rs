//! The metrics as text, in both formats that Prometheus reads: OpenMetrics, and its older one, made from that.
//!
//! Invariants: a metric has one help text and one type, here and in `docs/operate/metrics.md`, which a test compares;
//! label values come from fixed lists, the config and the number of cores, never from peers. Figures worth comparing
//! between cores have a label for the core; all others are one figure for the process.

use std::collections::HashSet;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text as encoding};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::accept::Form;
use super::process::Process;
use crate::telemetry::{LOOK_UP_SECONDS, LookUpEnd, LookUps, Observed, Snapshot};

/// Facts that change only with a reload.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The certificates in force.
    pub certificates: Vec<Certificate>,
    /// `limits.connections_max`.
    pub connections_max: usize,
    /// `limits.queue_bytes_total`.
    pub queue_bytes_max: usize,
}

/// One certificate.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Where it was read.
    pub path: String,
    /// When the first certificate of its chain expires, in seconds since 1970.
    pub expires: i64,
}

/// Everything that is shown, at one moment.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) observed: Observed,
    pub(super) facts: Facts,
    pub(super) draining: bool,
    pub(super) lines_dropped: u64,
    pub(super) lines_suppressed: u64,
    pub(super) started: SystemTime,
    pub(super) process: Process,
}

/// Writes it.
pub(super) fn text(seen: Seen, form: Form) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(seen));
    let mut text = String::new();
    encoding::encode(&mut text, &registry)?;
    Ok(match form {
        Form::OpenMetrics => text,
        Form::Text => older(&text),
    })
}

/// OpenMetrics as the text format 0.0.4, where a counter has the same name in its description and its samples, and
/// there is no end mark.
fn older(text: &str) -> String {
    let counters = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"));
    let counters: HashSet<&str> = counters.collect();
    let mut page = String::with_capacity(text.len());
    for line in text.lines().filter(|line| *line != "# EOF" && !line.starts_with("# UNIT ")) {
        let described = ["# HELP ", "# TYPE "].into_iter().find_map(|what| {
            let (name, rest) = line.strip_prefix(what)?.split_once(' ')?;
            counters.contains(name).then(|| format!("{what}{name}_total {rest}"))
        });
        page.push_str(described.as_deref().unwrap_or(line));
        page.push('\n');
    }
    page
}

impl Collector for Seen {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.relay(&mut page)?;
        self.cores(&mut page)?;
        let all: Snapshot = self.observed.cores.iter().copied().sum();
        clients(&all, &mut page)?;
        look_ups(&all, &mut page)?;
        let reached = |ordinary| {
            let those = all.limits_reached().filter(move |(limit, _)| limit.is_ordinary() == ordinary);
            those.map(|(limit, times)| (vec![("limit", limit.key().to_owned())], times))
        };
        page.counter(
            "msrprelay_limit_reached",
            "How often each limit was reached; the label is its key in the config.",
            reached(false),
        )?;
        page.counter(
            "msrprelay_back_pressure",
            "How often a sender was not read from for a while, as it is in ordinary use; the label is the key that says when.",
            reached(true),
        )?;
        self.process(&mut page)
    }
}

impl Seen {
    fn relay(&self, page: &mut Page<'_>) -> fmt::Result {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let edition = if cfg!(debug_assertions) { "debug" } else { "release" };
        page.gauge(
            "msrprelay_build_info",
            "Which version runs: always 1.",
            [(vec![("version", version), ("profile", edition.to_owned())], 1)],
        )?;
        page.gauge(
            "msrprelay_accounts_ready",
            "1 while accounts can be asked, 0 while their database cannot be reached.",
            one(u64::from(self.observed.accounts_ready)),
        )?;
        page.gauge(
            "msrprelay_draining",
            "1 once the relay takes no more clients because it is to end.",
            one(u64::from(self.draining)),
        )?;
        page.gauge(
            "msrprelay_predecessor_sessions",
            "Sessions of the predecessor, which drains after an upgrade; 0 when it has ended.",
            one(self.observed.predecessor_sessions),
        )?;
        let certificates = self.facts.certificates.iter();
        page.gauge(
            "msrprelay_certificate_expiry_timestamp_seconds",
            "When a certificate in force, or one of its chain, expires, in seconds since 1970.",
            certificates.map(|certificate| {
                let expires = u64::try_from(certificate.expires).unwrap_or(0);
                (vec![("certificate", certificate.path.clone())], expires)
            }),
        )?;
        page.gauge(
            "msrprelay_connections_max",
            "limits.connections_max, to compare msrprelay_connections with.",
            one(self.facts.connections_max as u64),
        )?;
        page.gauge(
            "msrprelay_queue_bytes_max",
            "limits.queue_bytes_total, to compare msrprelay_queue_bytes with.",
            one(self.facts.queue_bytes_max as u64),
        )?;
        let waiting = [
            ("accounts", self.observed.look_ups_waiting),
            ("names", self.observed.resolves_waiting),
            ("connects", self.observed.dials_waiting),
        ];
        page.gauge(
            "msrprelay_lookups_waiting",
            "Look-ups of accounts and of host names, and connects to next hops, that wait for their turn.",
            waiting.map(|(kind, waiting)| (label("kind", kind), waiting as u64)),
        )?;
        page.counter(
            "msrprelay_log_lines_dropped",
            "Log lines lost because the reader of standard error is too slow.",
            one(self.lines_dropped),
        )?;
        page.counter(
            "msrprelay_log_lines_suppressed",
            "Log lines about strangers that went to debug, because there were too many of their kind.",
            one(self.lines_suppressed),
        )
    }

    /// The figures worth comparing between cores.
    fn cores(&self, page: &mut Page<'_>) -> fmt::Result {
        let cores = || self.observed.cores.iter().enumerate();
        let each = |value: fn(&Snapshot) -> u64| cores().map(move |(core, seen)| (of(core), value(seen)));
        let gauges: [OfCore; 7] = [
            ("core_up", "1 while the core's thread runs, 0 while it rests after a panic.", |core| core.up),
            ("connections", "Connections open now, accepted and dialled.", |core| core.connections_open),
            (
                "websocket_connections",
                "Connections open now on listeners that speak WebSocket; part of msrprelay_connections.",
                |core| core.websocket_open,
            ),
            ("sessions", "Sessions open now.", |core| core.sessions_open),
            (
                "queue_bytes",
                "Bytes that count against limits.queue_bytes_total: received and not yet sent on, and what else peers make the relay keep.",
                |core| core.queue_bytes,
            ),
            ("core_inbox_waiting", "Deliveries of other cores that wait.", |core| core.inbox_waiting),
            ("core_outbox_waiting", "Messages that found another core's inbox full.", |core| {
                core.outbox_waiting
            }),
        ];
        for (name, help, value) in gauges {
            page.gauge(&format!("msrprelay_{name}"), help, each(value))?;
        }
        let counters: [OfCore; 6] = [
            ("core_restarts", "Times the core was started again after a panic.", |core| core.core_restarts),
            (
                "core_heartbeats",
                "Quarters of a second that the core has lived through: four a second.",
                |core| core.heartbeats,
            ),
            ("core_messages_sent", "Messages sent to other cores.", |core| core.messages_sent),
            ("connections_accepted", "Connections accepted.", |core| core.connections_accepted),
            ("sessions_opened", "Sessions opened.", |core| core.sessions_opened),
            (
                "sessions_moved",
                "Sessions that came from another core, to the session that they are bound to.",
                |core| core.sessions_moved,
            ),
        ];
        for (name, help, value) in counters {
            page.counter(&format!("msrprelay_{name}"), help, each(value))?;
        }
        page.counter(
            "msrprelay_core_busy_seconds",
            "CPU time of the core's thread: its rate is the busy share of the core.",
            cores().map(|(core, seen)| (of(core), seconds(seen.busy_nanoseconds, 1e9))),
        )?;
        let both = |values: fn(&Snapshot) -> [u64; 2], name: &'static str, kinds: [&'static str; 2]| {
            cores().flat_map(move |(core, seen)| {
                let [one, two] = values(seen);
                [(kinds[0], one), (kinds[1], two)].map(|(kind, value)| {
                    let mut labels = of(core);
                    labels.push((name, kind.to_owned()));
                    (labels, value)
                })
            })
        };
        page.counter(
            "msrprelay_chunks",
            "Chunks received and sent on, the pieces of one that was cut each for itself, counted at their head.",
            both(|core| [core.chunks_in, core.chunks_out], "direction", ["in", "out"]),
        )?;
        page.counter(
            "msrprelay_body_bytes",
            "Bytes of message bodies received and sent on.",
            both(|core| [core.body_bytes_in, core.body_bytes_out], "direction", ["in", "out"]),
        )?;
        page.counter(
            "msrprelay_read_buffers",
            "Buffers for reads that were needed, and where they came from.",
            both(
                |core| [core.read_buffers_reused, core.read_buffers_allocated],
                "source",
                ["pool", "allocator"],
            ),
        )?;
        page.gauge(
            "msrprelay_buffers_spare",
            "Buffers kept for the next read or write.",
            both(|core| [core.read_buffers_spare, core.write_buffers_spare], "kind", ["read", "write"]),
        )
    }

    fn process(&self, page: &mut Page<'_>) -> fmt::Result {
        let process = &self.process;
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        page.gauge(
            "process_start_time_seconds",
            "When the process was started, in seconds since 1970.",
            one(started.as_secs()),
        )?;
        let cpu = process.cpu.map(|cpu| (Vec::new(), cpu.as_secs_f64()));
        page.counter("process_cpu_seconds", "CPU time of the whole process.", cpu)?;
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Memory in use.", process.resident_bytes),
            ("process_threads", "Threads.", process.threads),
            ("process_open_fds", "Open file descriptors.", process.open_fds),
            ("process_max_fds", "How many descriptors may be open.", process.max_fds),
        ] {
            page.gauge(name, help, value.map(|value| (Vec::new(), value)))?;
        }
        Ok(())
    }
}

/// The figures about clients and peers.
fn clients(all: &Snapshot, page: &mut Page<'_>) -> fmt::Result {
    // Refusals are counted by code; 401 means wrong credentials.
    let refused = all.auth_refused().map(|(code, times)| {
        let outcome = match code {
            Some(400) => "malformed",
            Some(401) => "wrong",
            Some(403) => "forbidden",
            Some(408) => "unavailable",
            Some(481) => "no_session",
            _ => "other",
        };
        (outcome, times)
    });
    let mut outcomes = vec![
        ("ok", all.auth_ok),
        ("challenged", all.auth_challenged),
        ("out_of_bounds", all.auth_out_of_bounds),
        ("other", 0),
    ];
    for (outcome, times) in refused {
        match outcomes.iter_mut().find(|(known, _)| *known == outcome) {
            Some((_, sum)) => *sum += times,
            None => outcomes.push((outcome, times)),
        }
    }
    page.counter(
        "msrprelay_auth",
        "AUTH requests by what came of them.",
        outcomes.into_iter().map(|(outcome, times)| (label("outcome", outcome), times)),
    )?;
    let code = |code: Option<u16>| code.map_or_else(|| "other".to_owned(), |code| code.to_string());
    page.counter(
        "msrprelay_reports_sent",
        "Failure REPORTs of the relay's own, by the code in them.",
        all.reports().map(|(status, times)| (vec![("code", code(status))], times)),
    )?;
    page.counter(
        "msrprelay_links",
        "Sessions bound to their other side, a connection or a session, by whether that is on the same core.",
        [("local", all.links_local), ("split", all.links_split)]
            .map(|(kind, links)| (label("kind", kind), links)),
    )?;
    page.counter(
        "msrprelay_sessions_stayed",
        "Sessions whose other side is a session on another core, and that did not move there; the label says why.",
        all.sessions_stayed().map(|(why, times)| (label("reason", why.as_str()), times)),
    )?;
    page.counter(
        "msrprelay_connections_moved",
        "Connections that went to where the session lives that their first request names: another core, or another process \
         during an upgrade.",
        [("core", all.connections_handed_over), ("process", all.connections_passed_on)]
            .map(|(to, times)| (label("to", to), times)),
    )?;
    page.counter("msrprelay_dials", "Connections to next hops attempted.", one(all.dials))?;
    page.counter("msrprelay_dial_failures", "Connections to next hops that failed.", one(all.dial_failures))?;
    page.counter(
        "msrprelay_tls_handshakes",
        "TLS handshakes completed, inbound and outbound, by version.",
        [("1.2", all.tls12_handshakes), ("1.3", all.tls13_handshakes)]
            .map(|(version, times)| (label("version", version), times)),
    )?;
    page.counter(
        "msrprelay_relays_recognised",
        "Inbound connections of other relays that have proven their names.",
        one(all.relays_recognised),
    )?;
    page.counter(
        "msrprelay_tls_failures",
        "TLS that ended in an error, during the handshake or after it.",
        [("handshake", all.tls_handshake_failures), ("records", all.tls_record_failures)]
            .map(|(phase, times)| (label("phase", phase), times)),
    )?;
    page.counter(
        "msrprelay_websocket_requests",
        "Requests for an upgrade to WebSocket, by what came of them.",
        [("upgraded", all.websocket_upgrades), ("refused", all.websocket_refusals)]
            .map(|(outcome, times)| (label("outcome", outcome), times)),
    )?;
    page.counter(
        "msrprelay_websocket_pings_unanswered",
        "WebSocket clients given up because they answered no ping.",
        one(all.websocket_pings_unanswered),
    )
}

fn look_ups(all: &Snapshot, page: &mut Page<'_>) -> fmt::Result {
    page.counter(
        "msrprelay_credentials",
        "Credentials of auth.shared_secrets that clients showed, by what became of them.",
        all.credentials().map(|(end, times)| (label("outcome", end.as_str()), times)),
    )?;
    let both = [("accounts", all.look_ups()), ("names", all.resolves())];
    page.counter(
        "msrprelay_lookups",
        "Look-ups of accounts and of host names, by how they ended.",
        both.iter().flat_map(|(kind, look_ups)| {
            LookUpEnd::ALL.into_iter().zip(look_ups.ends).map(|(end, times)| {
                let mut labels = label("kind", kind);
                labels.push(("outcome", end.as_str().to_owned()));
                (labels, times)
            })
        }),
    )?;
    page.histograms(
        "msrprelay_lookup_seconds",
        "How long look-ups took, waiting included.",
        both.iter().map(|(kind, look_ups)| (label("kind", kind), *look_ups)),
    )
}

// -- the page --------------------------------------------------------------------------------------

/// A figure of one core: its name, its help text, and its counter.
type OfCore = (&'static str, &'static str, fn(&Snapshot) -> u64);

type Labels = Vec<(&'static str, String)>;

fn label(name: &'static str, value: &str) -> Labels {
    vec![(name, value.to_owned())]
}

fn of(core: usize) -> Labels {
    vec![("core", core.to_string())]
}

/// A metric without labels.
fn one(value: u64) -> [(Labels, u64); 1] {
    [(Vec::new(), value)]
}

/// Exact for a hundred days in nanoseconds; beyond that some precision is lost.
fn seconds(value: u64, per_second: f64) -> f64 {
    value as f64 / per_second
}

/// The page being written.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    /// `name` is without the `_total` that the format adds.
    fn counter<V: prometheus_client::encoding::EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            if labels.is_empty() {
                metric.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
            } else {
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
            }
        }
        Ok(())
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            if labels.is_empty() {
                metric.encode_gauge(&value)?;
            } else {
                metric.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    fn histograms(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, LookUps)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, look_ups) in samples {
            let bounds = LOOK_UP_SECONDS.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(look_ups.times).collect();
            let sum = seconds(look_ups.microseconds, 1e6);
            let count = look_ups.times.iter().sum();
            metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}
