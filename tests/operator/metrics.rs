//! The metrics of the real program after a known conversation; who may ask for them, and how; and that the pages, the
//! dashboard and the alert rules name existing metrics.
//!
//! Long because it is a list: each test stands alone, and all share the fixtures at the top.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use msrprelay::config::{Log, LogFormat, LogLevel};
use msrprelay::ops::metrics::{CONNECTIONS_MAX, Endpoint, Facts, Place};
use msrprelay::telemetry::{self, Observed, Snapshot, Telemetry};
use serde_json::Value;
use testkit_net::account::Login;
use testkit_net::process::{RelayProcess, relay_binary};
use testkit_net::relay::{Setup, TestRelay};
use testkit_net::scrape::{Page, ask, get, openmetrics};
use testkit_net::transfer::Outgoing;
use testkit_net::{PATIENCE, assert_same, bounded, contents, until};

const SETUP: Setup = Setup {
    host: testkit_net::relay::HOST,
    listen: &[("127.0.0.1:0", true), ("127.0.0.1:0", false)],
    cores: "auto",
    rsa: false,
    plain_auth: false,
    outbound: "{plain: allow, allow: [\"127.0.0.0/8\", \"::1/128\"]}",
    websocket: &[],
    more: "metrics: {address: \"127.0.0.1:0\"}",
};

/// A metric, labels that its samples have, and the sum of those.
type Wanted = (&'static str, &'static [(&'static str, &'static str)], f64);

/// The relay's metrics: their address is the last it announces.
fn metrics_of(relay: &RelayProcess) -> SocketAddr {
    assert_eq!(relay.addresses.len(), 3, "{:?}", relay.addresses);
    relay.addresses[2]
}

#[test]
fn what_has_happened_can_be_read_off() {
    bounded(|| {
        // The stranger stays until all is read off, however long that takes.
        let more = "metrics: {address: \"127.0.0.1:0\"}\nlimits: {first_request_timeout: 10m}";
        let relay = RelayProcess::start(&Setup { more, ..SETUP });
        let metrics = metrics_of(&relay);
        let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
        let mut carol = relay.client("user0");
        let mut mallory = relay.stranger("mallory");
        let to = format!("msrps://example.com:{};tcp", relay.addresses[0].port());
        let login = Login::new("bob", "1234", &to);
        assert_eq!(login.attempt(&mut mallory).1.status(), Some(401));
        let tid = alice.say(&bob.path(), b"Hello");
        assert_eq!(alice.status(&tid), 200);
        assert_eq!(bob.request("SEND").body, b"Hello");
        // No endpoint listens there.
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let tid = carol.say(&format!("msrp://{gone}/gone;tcp"), b"Anybody?");
        assert_eq!(carol.status(&tid), 200);
        assert!(carol.request("REPORT").required("Status").starts_with("000 408 "));
        // Not TLS.
        let mut garbage = TcpStream::connect(relay.addresses[0]).unwrap();
        garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();

        let wanted: [Wanted; 24] = [
            ("msrprelay_auth_total", &[("outcome", "ok")], 3.0),
            ("msrprelay_auth_total", &[("outcome", "challenged")], 4.0),
            ("msrprelay_auth_total", &[("outcome", "wrong")], 1.0),
            ("msrprelay_auth_total", &[("outcome", "forbidden")], 0.0),
            ("msrprelay_sessions", &[], 3.0),
            ("msrprelay_sessions_opened_total", &[], 3.0),
            ("msrprelay_connections_accepted_total", &[], 5.0),
            ("msrprelay_connections", &[], 4.0),
            ("msrprelay_chunks_total", &[("direction", "in")], 2.0),
            ("msrprelay_chunks_total", &[("direction", "out")], 1.0),
            ("msrprelay_body_bytes_total", &[("direction", "in")], 13.0),
            ("msrprelay_body_bytes_total", &[("direction", "out")], 5.0),
            ("msrprelay_reports_sent_total", &[("code", "408")], 1.0),
            ("msrprelay_reports_sent_total", &[], 1.0),
            ("msrprelay_dials_total", &[], 1.0),
            ("msrprelay_dial_failures_total", &[], 1.0),
            ("msrprelay_links_total", &[], 2.0),
            ("msrprelay_tls_handshakes_total", &[("version", "1.3")], 4.0),
            ("msrprelay_tls_handshakes_total", &[("version", "1.2")], 0.0),
            ("msrprelay_tls_failures_total", &[("phase", "handshake")], 1.0),
            ("msrprelay_lookups_total", &[("kind", "accounts"), ("outcome", "found")], 4.0),
            ("msrprelay_lookup_seconds_count", &[("kind", "accounts")], 4.0),
            ("msrprelay_lookup_seconds_bucket", &[("kind", "accounts"), ("le", "+Inf")], 4.0),
            ("msrprelay_accounts_ready", &[], 1.0),
        ];
        for (name, labels, value) in wanted {
            // The cores publish four times a second.
            until(&format!("{name} {labels:?} to be {value}"), || {
                (Page::of(metrics).sum(name, labels) == value).then_some(())
            });
        }
        let page = Page::of(metrics);
        let cores = page.0["msrprelay_core_up"].samples.len();
        assert_eq!(page.sum("msrprelay_core_up", &[]), cores as f64);
        for rising in [
            "msrprelay_core_busy_seconds_total",
            "process_cpu_seconds_total",
            "msrprelay_core_heartbeats_total",
        ] {
            let before = page.sum(rising, &[]);
            until(rising, || (Page::of(metrics).sum(rising, &[]) > before).then_some(()));
        }
        // Small reads get no buffer of the pool.
        let (path, file) = (bob.path(), contents(1, 1 << 20));
        std::thread::scope(|scope| {
            scope.spawn(|| alice.send_file(&Outgoing::giant(&path, &file)));
            assert_same(&bob.receive_file().data, &file);
        });
        until("buffers to be counted", || {
            (Page::of(metrics).sum("msrprelay_read_buffers_total", &[]) > 0.0).then_some(())
        });
        assert!(page.sum("process_open_fds", &[]) > 10.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(page.sum("msrprelay_certificate_expiry_timestamp_seconds", &[]) > now);
        // No user is named.
        let text = get(metrics, "/metrics").body;
        assert!(!["alice", "bob", "mallory"].iter().any(|name| text.contains(name)), "{text}");
    });
}

#[test]
fn a_limit_that_bites_is_counted_by_its_key() {
    bounded(|| {
        let more = "metrics: {address: \"127.0.0.1:0\"}\nlimits: {unauthenticated_per_address_max: 1}";
        let relay = RelayProcess::start(&Setup { more, ..SETUP });
        let _first = relay.stranger("first");
        let mut second = TcpStream::connect(relay.addresses[0]).unwrap();
        second.set_read_timeout(Some(PATIENCE)).unwrap();
        let refused = second.read(&mut [0; 1]);
        assert!(matches!(refused, Ok(0) | Err(_)), "{refused:?}");
        let limit = [("limit", "limits.unauthenticated_per_address_max")];
        until("the limit to be counted", || {
            (Page::of(metrics_of(&relay)).sum("msrprelay_limit_reached_total", &limit) == 1.0).then_some(())
        });
        assert_eq!(Page::of(metrics_of(&relay)).sum("msrprelay_limit_reached_total", &[]), 1.0);
    });
}

#[test]
fn without_an_address_nothing_listens_and_one_that_is_taken_is_told() {
    bounded(|| {
        let relay = RelayProcess::start(&Setup { more: "", ..SETUP });
        assert_eq!(relay.addresses.len(), 2);
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = tempfile::tempdir().unwrap();
        let mut text = Setup { more: "", ..SETUP }.write(place.path());
        text.push_str(&format!("metrics: {{address: \"{}\"}}\n", taken.local_addr().unwrap()));
        std::fs::write(place.path().join("config.yaml"), text).unwrap();
        let output = Command::new(relay_binary())
            .arg("--config")
            .arg(place.path().join("config.yaml"))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("metrics.address: 127.0.0.1:") && said.contains("in use"), "{said}");
    });
}

// -- the endpoint alone ----------------------------------------------------------------------------

/// What an endpoint is to show.
#[derive(Default)]
struct Scene {
    accounts_lost: AtomicBool,
    core_dead: AtomicBool,
    beats: AtomicU64,
}

fn endpoint() -> (Arc<Scene>, Endpoint) {
    let scene = Arc::<Scene>::default();
    let seen = Arc::clone(&scene);
    let observe = move || {
        let core = |up| {
            let mut core = Snapshot::default();
            core.up = u64::from(up);
            core.heartbeats = seen.beats.fetch_add(1, Ordering::Relaxed);
            core
        };
        Observed {
            cores: vec![core(true), core(!seen.core_dead.load(Ordering::Relaxed))],
            accounts_ready: !seen.accounts_lost.load(Ordering::Relaxed),
            ..Observed::default()
        }
    };
    let place = Place::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    (scene, place.serve(Facts::default(), observe, || 7).unwrap())
}

#[test]
fn monitor_gets_the_fault_in_one_line() {
    bounded(|| {
        let (scene, endpoint) = endpoint();
        let ask = |path| {
            let answer = get(endpoint.address(), path);
            (answer.status, answer.body)
        };
        assert_eq!(ask("/healthz"), (200, "ok\n".to_owned()));
        assert_eq!(ask("/readyz"), (200, "ok\n".to_owned()));
        scene.core_dead.store(true, Ordering::Relaxed);
        assert_eq!(ask("/healthz"), (503, "core 1 is down\n".to_owned()));
        assert_eq!(ask("/readyz").0, 200, "the other cores serve");
        scene.core_dead.store(false, Ordering::Relaxed);
        assert_eq!(ask("/healthz").0, 200);
        scene.accounts_lost.store(true, Ordering::Relaxed);
        assert_eq!(ask("/readyz"), (503, "accounts cannot be reached\n".to_owned()));
        scene.accounts_lost.store(false, Ordering::Relaxed);
        assert_eq!(ask("/readyz").0, 200);
        endpoint.draining();
        assert_eq!(ask("/readyz"), (503, "draining\n".to_owned()));
        assert_eq!(ask("/healthz").0, 200);
        let page = Page::of(endpoint.address());
        assert_eq!(page.sum("msrprelay_draining", &[]), 1.0);
        assert_eq!(page.sum("msrprelay_log_lines_dropped_total", &[]), 7.0);
    });
}

#[test]
fn a_reload_is_seen() {
    bounded(|| {
        let (_scene, endpoint) = endpoint();
        endpoint.update(Facts { connections_max: 17, ..Facts::default() });
        assert_eq!(Page::of(endpoint.address()).sum("msrprelay_connections_max", &[]), 17.0);
    });
}

#[test]
fn only_get_and_head_are_answered() {
    bounded(|| {
        let (_scene, endpoint) = endpoint();
        let at = endpoint.address();
        let head = ask(at, "HEAD /metrics HTTP/1.1\r\nHost: relay\r\n\r\n");
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        assert!(head.head.contains("content-type: text/plain; version=0.0.4"), "{head:?}");
        let post = ask(at, "POST /metrics HTTP/1.1\r\nHost: relay\r\nContent-Length: 2\r\n\r\nhi");
        assert_eq!(post.status, 405);
        assert!(post.head.contains("allow: get, head"), "{post:?}");
        assert_eq!(get(at, "/").status, 404);
        assert_eq!(ask(at, "nonsense\r\n\r\n").status, 400);
        let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(7 << 10));
        assert_eq!(ask(at, &long).status, 200);
        // Unread bytes make the kernel send a reset, which may overtake the answer.
        let mut stream = TcpStream::connect(at).unwrap();
        let _ = stream
            .write_all(format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(64 << 10)).as_bytes());
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    });
}

/// The samples of a page, in order.
fn samples(page: &str) -> Vec<&str> {
    page.lines().filter(|line| !line.starts_with('#')).collect()
}

/// Prometheus' own tool, as far as it is here; the gate fetches it.
fn promtool(arguments: &[&str], input: &str) -> Option<std::process::Output> {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = spawned else {
        println!("skipped: no promtool here");
        return None;
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    Some(child.wait_with_output().unwrap())
}

#[test]
fn each_reader_gets_the_format_that_it_asks_for() {
    bounded(|| {
        // Two looks at a relay that counts differ; at this endpoint only the heartbeats do.
        let (_scene, endpoint) = endpoint();
        let at = endpoint.address();
        let (text, open) = (get(at, "/metrics"), openmetrics(at));
        assert!(
            text.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"),
            "{}",
            text.head
        );
        assert!(
            open.head.contains("content-type: application/openmetrics-text; version=1.0.0"),
            "{}",
            open.head
        );
        assert!(open.body.ends_with("\n# EOF\n") && !text.body.contains("# EOF"));
        let name = |line: &str| line.rsplit_once(' ').unwrap().0.to_owned();
        let names = |page: &str| samples(page).into_iter().map(name).collect::<Vec<_>>();
        assert_eq!(names(&text.body), names(&open.body));
        // In each of them the description has the name that its format wants.
        assert!(text.body.contains("# TYPE msrprelay_auth_total counter\n"), "{}", text.body);
        assert!(open.body.contains("# TYPE msrprelay_auth counter\n"), "{}", open.body);
        assert!(text.body.contains("# TYPE msrprelay_lookup_seconds histogram\n"), "{}", text.body);
        let types = text.body.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let types: Vec<_> = types.map(|(name, _)| name).collect();
        for sample in samples(&text.body) {
            assert!(types.iter().any(|name| sample.starts_with(name)), "{sample}");
        }
    });
}

#[test]
fn prometheus_tool_has_nothing_to_object_to_in_the_metrics() {
    bounded(|| {
        let relay = RelayProcess::start(&SETUP);
        let text = get(metrics_of(&relay), "/metrics").body;
        // It finds a fault.
        let Some(spoiled) = promtool(&["check", "metrics"], &text.replace("# HELP process_threads", "# H"))
        else {
            return;
        };
        assert!(!spoiled.status.success());
        let checked = promtool(&["check", "metrics"], &text).unwrap();
        let said = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success() && said.trim().is_empty(), "{said}");
    });
}

#[test]
fn ordinary_back_pressure_is_no_limit_that_was_reached() {
    bounded(|| {
        let (_scene, endpoint) = endpoint();
        let page = Page::of(endpoint.address());
        for key in ["limits.queue_bytes_high", "limits.bytes_per_second_per_user_max"] {
            let reached = |(name, labels, _): &&(String, BTreeMap<String, String>, f64)| {
                name == "msrprelay_limit_reached_total" && labels["limit"] == key
            };
            assert_eq!(page.samples().find(reached), None);
            assert_eq!(page.sum("msrprelay_back_pressure_total", &[("limit", key)]), 0.0);
        }
        assert_eq!(page.sum("msrprelay_limit_reached_total", &[("limit", "limits.queue_bytes_total")]), 0.0);
    });
}

#[test]
fn who_says_nothing_keeps_others_away_for_a_while_only() {
    bounded(|| {
        let (_scene, endpoint) = endpoint();
        let at = endpoint.address();
        let connect = || {
            let stream = TcpStream::connect(at).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        };
        let mut silent: Vec<_> = (0..CONNECTIONS_MAX).map(|_| connect()).collect();
        let mut room = [0; 64];
        assert_eq!(connect().read(&mut room).unwrap(), 0, "one too many");
        for stream in &mut silent {
            // An answer that says so, or none.
            let _ = stream.read_to_end(&mut Vec::new()).unwrap();
        }
        until("others to be answered", || {
            let mut stream = connect();
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            answer.starts_with("HTTP/1.1 200 ").then_some(())
        });
    });
}

#[test]
fn it_ends_when_it_is_dropped() {
    bounded(|| {
        let (_scene, endpoint) = endpoint();
        let at = endpoint.address();
        let _silent = TcpStream::connect(at).unwrap();
        drop(endpoint);
        assert!(TcpStream::connect_timeout(&at, Duration::from_secs(1)).is_err());
    });
}

// -- a core that dies ------------------------------------------------------------------------------

/// How often core 0 is made to panic at least.
const DEATHS: usize = 5;
/// At most this often: then it has rested for 6.4 s.
const DEATHS_MAX: usize = 8;

/// In a process of its own, for its log: see the next test.
#[test]
#[ignore = "is run by a_core_that_dies_is_seen_in_the_log_and_in_the_metrics"]
fn a_core_dies_again_and_again() {
    let _telemetry = Telemetry::start(Log { level: LogLevel::Info, format: LogFormat::Json }).unwrap();
    telemetry::log_panics();
    bounded(|| {
        let relay = TestRelay::start();
        let place = Place::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let endpoint = place.serve(Facts::default(), relay.server.observer(), || 0).unwrap();
        let at = endpoint.address();
        let health = |wanted: &str| {
            until(wanted, || (get(at, "/healthz").body.trim_end() == wanted).then_some(()));
        };
        let restarts = || Page::of(at).sum("msrprelay_core_restarts_total", &[("core", "0")]);
        let mut was_seen = false;
        for deaths in 1..=DEATHS_MAX {
            health("ok");
            relay.server.crash_core(0);
            until("the core to be started again", || {
                // Each time it rests twice as long: in the end long enough for that to be seen, also on a busy machine.
                if get(at, "/healthz").body.trim_end() == "core 0 is down" {
                    let up = Page::of(at).sum("msrprelay_core_up", &[("core", "0")]);
                    was_seen |= up == 0.0;
                }
                (restarts() == deaths as f64).then_some(())
            });
            if was_seen && deaths >= DEATHS {
                break;
            }
        }
        assert!(was_seen, "health and metrics do not say that a core is down");
        health("ok");
        assert_eq!(Page::of(at).sum("msrprelay_core_up", &[("core", "0")]), 1.0);
    });
}

#[test]
fn a_core_that_dies_is_seen_in_the_log_and_in_the_metrics() {
    bounded(|| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "metrics::a_core_dies_again_and_again", "--ignored", "--nocapture"]);
        let output = command.env_remove("RUST_BACKTRACE").output().unwrap();
        let (out, log) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success() && out.contains("1 passed"), "{out}{log}");
        let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let said = |words: &str| lines.iter().filter(|line| line["message"] == words).collect::<Vec<_>>();
        let panics = said("A thread panicked");
        let count = panics.len();
        assert!((DEATHS..=DEATHS_MAX).contains(&count), "{log}");
        for panic in panics {
            assert_eq!((&panic["level"], &panic["thread"]), (&"ERROR".into(), &"core-0".into()));
            assert_eq!(panic["reason"], "told to panic");
            assert!(panic["location"].as_str().unwrap().starts_with("src/runtime/run.rs:"), "{panic}");
            assert!(
                panic["backtrace"].as_str().unwrap().contains("msrprelay::runtime::run::crash"),
                "{panic}"
            );
        }
        // Each time it rests twice as long.
        let deaths = said("Core died; starting it again");
        let pauses: Vec<_> = deaths.iter().map(|death| death["pause_ms"].as_u64().unwrap()).collect();
        assert_eq!(pauses.len(), count, "{log}");
        assert!(pauses.windows(2).all(|pair| pair[1] == 2 * pair[0]), "{pauses:?}");
        assert!(deaths.iter().all(|death| death["core"] == 0 && death["reason"] == "told to panic"), "{log}");
    });
}

// -- what is written about them --------------------------------------------------------------------

/// What an expression asks for and a page does not have: metrics by name, and values of their labels.
fn missing(expression: &str, page: &Page) -> Vec<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut missing = Vec::new();
    for (at, _) in expression.match_indices("msrprelay_").chain(expression.match_indices("process_")) {
        if expression[..at].ends_with(is_word) {
            continue;
        }
        let rest = &expression[at..];
        let (name, behind) = rest.split_at(rest.find(|c| !is_word(c)).unwrap_or(rest.len()));
        let samples: Vec<_> = page.samples().filter(|(found, ..)| found == name).collect();
        if samples.is_empty() {
            missing.push(name.to_owned());
        }
        let matchers =
            behind.strip_prefix('{').and_then(|behind| behind.split_once('}')).map_or("", |(all, _)| all);
        for matcher in matchers.split_terminator(',') {
            let (label, value) = matcher.split_once('=').unwrap();
            let (label, regular) = (label.trim().trim_end_matches('!'), value.starts_with('~'));
            let value = value.trim_start_matches('~').trim_matches('"');
            // The user's choices in the dashboard are not known here.
            let found = |labels: &BTreeMap<String, String>| {
                labels.get(label).is_some_and(|found| {
                    value.starts_with('$')
                        || found == value
                        || regular && value.split('|').any(|one| one == found)
                })
            };
            if !["job", "instance"].contains(&label) && !samples.iter().any(|(_, labels, _)| found(labels)) {
                missing.push(format!("{name}{{{matcher}}}"));
            }
        }
    }
    missing
}

/// All texts under a key of a document, however deep.
fn texts<'d>(document: &'d serde_yaml::Value, key: &str, found: &mut Vec<&'d str>) {
    match document {
        serde_yaml::Value::Mapping(entries) => {
            for (name, value) in entries {
                match value.as_str() {
                    Some(text) if name.as_str() == Some(key) => found.push(text),
                    _ => texts(value, key, found),
                }
            }
        }
        serde_yaml::Value::Sequence(all) => all.iter().for_each(|value| texts(value, key, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_metrics_that_there_are() {
    bounded(|| {
        let relay = RelayProcess::start(&SETUP);
        let page = Page::of(metrics_of(&relay));
        // It finds missing ones.
        assert_eq!(missing("rate(msrprelay_nonsense_total[5m]) > 0", &page), ["msrprelay_nonsense_total"]);
        assert_eq!(
            missing("msrprelay_auth_total{outcome=\"odd\"}", &page),
            ["msrprelay_auth_total{outcome=\"odd\"}"]
        );
        assert!(missing("msrprelay_auth_total{outcome=~\"ok|wrong\"}", &page).is_empty());
        for (name, text, least) in [
            ("grafana-dashboard.json", include_str!("../../deploy/grafana-dashboard.json"), 20),
            ("alerts.yaml", include_str!("../../deploy/alerts.yaml"), 10),
        ] {
            // JSON is YAML.
            let document: serde_yaml::Value = serde_yaml::from_str(text).unwrap();
            let mut expressions = Vec::new();
            texts(&document, "expr", &mut expressions);
            assert!(expressions.len() >= least, "{name}: {}", expressions.len());
            for expression in expressions {
                assert_eq!(missing(expression, &page), Vec::<String>::new(), "{name}: {expression}");
            }
        }
    });
}

#[test]
fn every_alert_says_how_bad_it_is_and_what_to_do() {
    let rules: serde_yaml::Value = serde_yaml::from_str(include_str!("../../deploy/alerts.yaml")).unwrap();
    let rules = rules["groups"][0]["rules"].as_sequence().unwrap();
    let mut names = BTreeSet::new();
    for rule in rules {
        let name = rule["alert"].as_str().unwrap();
        assert!(names.insert(name), "{name} is there twice");
        assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{name}");
        for annotation in ["summary", "description"] {
            assert!(rule["annotations"][annotation].as_str().is_some_and(|text| text.len() > 10), "{name}");
        }
        assert!(
            include_str!("../../docs/operate/metrics.md").contains(&format!("| `{name}` |")),
            "{name} is not documented"
        );
    }
}

#[test]
fn every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() {
    let read = |text: &str| serde_yaml::from_str::<serde_yaml::Value>(text).unwrap();
    let (rules, tests) =
        (read(include_str!("../../deploy/alerts.yaml")), read(include_str!("../../deploy/alerts.test.yaml")));
    let named: Vec<_> =
        tests["tests"].as_sequence().unwrap().iter().map(|test| test["name"].as_str().unwrap()).collect();
    let rules = rules["groups"][0]["rules"].as_sequence().unwrap();
    assert_eq!(named.len(), 4 * rules.len());
    for alert in rules.iter().map(|rule| rule["alert"].as_str().unwrap()) {
        for (what, interval) in
            [("fires", "15s"), ("keeps still", "15s"), ("fires", "60s"), ("keeps still", "60s")]
        {
            let name = format!("{alert} {what} at {interval}");
            assert!(named.contains(&name.as_str()), "there is no test {name:?}");
        }
    }
    if let Some(output) = promtool(&["test", "rules", "deploy/alerts.test.yaml"], "") {
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
}

#[test]
fn every_metric_is_documented_and_nothing_else_is() {
    bounded(|| {
        let relay = RelayProcess::start(&SETUP);
        let page = Page::of(metrics_of(&relay));
        let rows = page.0.iter().map(|(name, family)| {
            assert!(!family.samples.is_empty(), "{name} has no sample");
            let labels: BTreeSet<_> =
                family.samples.iter().flat_map(|(_, labels, _)| labels.keys()).collect();
            let labels: Vec<_> =
                labels.into_iter().filter(|label| *label != "le").map(|label| format!("`{label}`")).collect();
            let total = if family.kind == "counter" { "_total" } else { "" };
            format!("| `{name}{total}` | {} | {} | {} |", family.kind, labels.join(", "), family.help)
        });
        let rows: BTreeSet<_> = rows.collect();
        let documented = include_str!("../../docs/operate/metrics.md").lines();
        let documented: BTreeSet<_> = documented
            .filter(|line| line.starts_with("| `msrprelay_") || line.starts_with("| `process_"))
            .map(str::to_owned)
            .collect();
        let missing: Vec<_> = rows.difference(&documented).map(String::as_str).collect();
        let foreign: Vec<_> = documented.difference(&rows).map(String::as_str).collect();
        assert!(
            missing.is_empty() && foreign.is_empty(),
            "to add:\n{}\nto remove:\n{}",
            missing.join("\n"),
            foreign.join("\n")
        );
    });
}
