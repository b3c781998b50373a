//! A real Prometheus beside a relay under load: every query of the dashboard finds something, every alert rule can be
//! evaluated, and none of them fires for a healthy relay.
//!
//! Needs `prometheus`, which the gate unpacks; without it the test reports that it was skipped.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use testkit_net::process::RelayProcess;
use testkit_net::relay::Setup;
use testkit_net::scrape::{Answer, ask};
use testkit_net::transfer::Outgoing;
use testkit_net::{assert_same, bounded, contents, until};

/// What `$__rate_interval` stands for: with a scrape each second there are samples enough, also on a busy machine.
const RATE_INTERVAL: &str = "20s";

/// A Prometheus that ends with the test.
struct Prometheus {
    process: Child,
    address: SocketAddr,
    place: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Prometheus {
    /// One that scrapes a relay and evaluates the rules of the package; `None` if there is no Prometheus here.
    fn start(relay: SocketAddr) -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/alerts.yaml");
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{:?}]\nscrape_configs:\n  - job_name: \
             msrprelay\n    static_configs: [{{targets: [\"{relay}\"]}}]\n",
            rules.display().to_string()
        );
        fs::write(place.path().join("prometheus.yml"), config).unwrap();
        // It names no port that the kernel has chosen, so a free one is chosen for it.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let log = fs::File::create(place.path().join("log")).unwrap();
        let spawned = Command::new("prometheus")
            .arg(format!("--config.file={}", place.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", place.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let Ok(process) = spawned else {
            println!("skipped: no prometheus here");
            return None;
        };
        let mut this = Self { process, address, place };
        until("Prometheus to be ready", || {
            let ended = this.process.try_wait().unwrap();
            assert!(ended.is_none(), "{}", fs::read_to_string(this.place.path().join("log")).unwrap());
            TcpStream::connect(address).ok()?;
            (this.get("/-/ready").status == 200).then_some(())
        });
        Some(this)
    }

    fn get(&self, path: &str) -> Answer {
        // An answer to HTTP/1.0 is not in pieces, and the connection ends with it.
        ask(self.address, &format!("GET {path} HTTP/1.0\r\n\r\n"))
    }

    /// What an API of it says.
    fn api(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let said: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(said["status"], "success", "{path}: {said}");
        said["data"].clone()
    }

    /// The values of a query now, without those that are no number.
    fn values(&self, query: &str) -> Vec<f64> {
        let escaped: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let data = self.api(&format!("/api/v1/query?query={escaped}"));
        let values =
            data["result"].as_array().unwrap().iter().map(|series| series["value"][1].as_str().unwrap());
        values.map(|value| value.parse::<f64>().unwrap()).filter(|value| !value.is_nan()).collect()
    }
}

/// The queries of the dashboard's panels, as Grafana would send them for all relays.
fn queries() -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(entries) => entries.iter().for_each(|(name, value)| match value.as_str() {
                Some(text) if name == "expr" => found.push(text.to_owned()),
                _ => collect(value, found),
            }),
            Value::Array(all) => all.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let dashboard = serde_json::from_str(include_str!("../../deploy/grafana-dashboard.json")).unwrap();
    let mut found = Vec::new();
    collect(&dashboard, &mut found);
    let known = |query: String| query.replace("$instance", ".*").replace("$__rate_interval", RATE_INTERVAL);
    found.into_iter().map(known).collect()
}

/// Stops the load, even if the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Files, logins, messages to a next hop that is gone, and strangers beyond their limit, until it is told to stop.
fn load(relay: &RelayProcess, stop: &AtomicBool) {
    let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
    let mut carol = relay.client("user0");
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (path, file) = (bob.path(), contents(1, 1 << 20));
    while !stop.load(Ordering::Relaxed) {
        std::thread::scope(|scope| {
            scope.spawn(|| alice.send_file(&Outgoing::giant(&path, &file)));
            assert_same(&bob.receive_file().data, &file);
        });
        // The strangers of the round before are gone by then; the look-up takes its time.
        drop(relay.client("user1"));
        let tid = carol.say(&format!("msrp://{gone}/gone;tcp"), b"Anybody?");
        assert_eq!(carol.status(&tid), 200);
        assert!(carol.request("REPORT").required("Status").starts_with("000 408 "));
        let strangers: Vec<_> = (0..4).map(|_| TcpStream::connect(relay.addresses[0])).collect();
        std::thread::sleep(Duration::from_millis(100));
        drop(strangers);
    }
}

#[test]
fn every_query_of_the_dashboard_finds_something_and_no_alert_fires_at_a_relay_under_load() {
    bounded(|| {
        // A file takes longer than its sender may need for it, so that there is back-pressure.
        let more = "metrics: {address: \"127.0.0.1:0\"}\n\
                    limits: {unauthenticated_per_address_max: 2, bytes_per_second_per_user_max: 512KiB}";
        let relay = RelayProcess::start(&Setup { more, ..Setup::default() });
        let Some(prometheus) = Prometheus::start(relay.addresses[2]) else { return };
        let queries = queries();
        assert!(queries.len() > 30, "{queries:?}");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _stop = Stop(&stop);
            scope.spawn(|| load(&relay, &stop));
            for query in &queries {
                until(query, || (!prometheus.values(query).is_empty()).then_some(()));
            }
            // The dashboard's list of relays.
            let known = prometheus.api("/api/v1/label/instance/values?match[]=msrprelay_build_info");
            assert_eq!(known, serde_json::json!([relay.addresses[2].to_string()]));
            until("every rule to be evaluated", || {
                let groups = prometheus.api("/api/v1/rules");
                let rules: Vec<_> = groups["groups"]
                    .as_array()?
                    .iter()
                    .flat_map(|group| group["rules"].as_array())
                    .flatten()
                    .collect();
                assert!(rules.iter().all(|rule| rule["health"] != "err"), "{rules:#?}");
                (rules.len() > 15 && rules.iter().all(|rule| rule["health"] == "ok")).then_some(())
            });
            let firing = prometheus.api("/api/v1/alerts");
            let firing =
                firing["alerts"].as_array().unwrap().iter().filter(|alert| alert["state"] == "firing");
            let firing: BTreeSet<_> = firing.map(|alert| alert["labels"]["alertname"].to_string()).collect();
            assert!(firing.is_empty(), "{firing:?}");
        });
        assert!(prometheus.values("msrprelay_no_such_metric").is_empty());
    });
}
