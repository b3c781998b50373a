//! `msrp probe DOMAIN` against relays on loopback, with a real name server there too.

use std::fs;
use std::process::Command;

use hickory_resolver::proto::rr::RData;
use hickory_resolver::proto::rr::rdata::{A, AAAA};
use serde_json::Value;
use tempfile::TempDir;
use testkit_net::account::password;
use testkit_net::bounded;
use testkit_net::relay::{HOST, Setup, TestRelay};
use testkit_net::zone::{Zone, srv};

/// A name server for `test.`
fn serve(records: Vec<(&'static str, RData)>) -> Zone {
    Zone::of_records("test.", records.into_iter().map(|(name, data)| (name.to_owned(), data)).collect())
}

const SERVICE: &str = "_msrps._tcp.example.test.";
const RELAY: &str = "relay.example.test.";

/// A relay, and the certificate that clients should trust.
struct Probe {
    relay: TestRelay,
    place: TempDir,
}

struct Seen {
    status: i32,
    out: String,
    errors: String,
}

impl Probe {
    fn new() -> Self {
        let relay = TestRelay::with(&Setup::default());
        let place = tempfile::tempdir().unwrap();
        fs::copy(relay.file("relay.crt"), place.path().join("ca")).unwrap();
        fs::write(place.path().join("right"), password("alice")).unwrap();
        fs::write(place.path().join("wrong"), "not it").unwrap();
        Self { relay, place }
    }

    fn port(&self) -> u16 {
        self.relay.tls.port()
    }

    fn probe(&self, zone: &Zone, arguments: &[&str]) -> Seen {
        self.probe_within("30s", zone, arguments)
    }

    fn probe_within(&self, limit: &str, zone: &Zone, arguments: &[&str]) -> Seen {
        let output = Command::new(env!("CARGO_BIN_EXE_msrp"))
            .args([
                "probe",
                "example.test",
                "--ca",
                "ca",
                "--connect-timeout",
                limit,
                "--dns",
                &zone.address.to_string(),
            ])
            .args(arguments)
            .current_dir(self.place.path())
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let seen = Seen {
            status: output.status.code().unwrap(),
            out: text(output.stdout),
            errors: text(output.stderr),
        };
        println!("{}{}", seen.out, seen.errors);
        seen
    }
}

#[test]
fn a_domain_in_order_is_told_from_the_record_to_the_auth() {
    bounded(|| {
        let probe = Probe::new();
        let zone =
            serve(vec![(SERVICE, srv(10, 5, probe.port(), RELAY)), (RELAY, RData::A(A::new(127, 0, 0, 1)))]);
        // Like a client, addresses AUTH to the domain; here the accounts are of another one.
        let user = [
            "--user",
            "alice@example.com",
            "--password-file",
            "right",
            "--auth-uri",
            "msrps://example.com;tcp",
        ];
        let seen = probe.probe(&zone, &user);
        assert_eq!(seen.status, 0, "{}", seen.errors);
        for words in [
            "_msrps._tcp.example.test names a relay",
            "priority 10, weight 5",
            "127.0.0.1; no IPv6",
            "connected  to 127.0.0.1:",
            "TLS        TLSv1.3",
            "versions   TLS 1.3, 1.2",
            "names      relay.example.test;",
            "days left",
            "chain and name are good for relay.example.test",
            "AUTH       accepted",
            "realm example.com",
        ] {
            assert!(seen.out.contains(words), "{words}: {}", seen.out);
        }
        let json: Value = serde_json::from_str(&probe.probe(&zone, &["--json"]).out).unwrap();
        let address = &json["relays"][0]["addresses"][0];
        assert_eq!((&json["ok"], &json["srv"]), (&Value::Bool(true), &Value::Bool(true)));
        assert_eq!(address["tls"]["names"][0], HOST);
        assert_eq!(address["tls"]["versions"], serde_json::json!(["1.3", "1.2"]));
        assert!(address["tls"]["days_left"].as_i64().unwrap() > 300);
    });
}

#[test]
fn every_address_is_visited_whatever_is_wrong_with_the_one_before() {
    bounded(|| {
        let probe = Probe::new();
        let zone = serve(vec![
            (SERVICE, srv(20, 0, probe.port(), RELAY)),
            (SERVICE, srv(10, 0, probe.port(), "gone.example.test.")),
            // No relay listens on this address of the relay's port.
            (RELAY, RData::A(A::new(127, 0, 0, 1))),
            (RELAY, RData::AAAA(AAAA::new(0, 0, 0, 0, 0, 0, 0, 1))),
        ]);
        let seen = probe.probe(&zone, &[]);
        assert_eq!(seen.status, 3);
        assert!(
            seen.errors.contains("2 problems, the first: gone.example.test has no address"),
            "{}",
            seen.errors
        );
        let at = |words: &str| seen.out.find(words).unwrap_or_else(|| panic!("{words}: {}", seen.out));
        assert!(at("relay        gone.example.test") < at("relay        relay.example.test"), "by priority");
        assert!(seen.out.contains("FAILED     cannot connect to [::1]:"), "{}", seen.out);
        assert!(seen.out.contains("chain and name are good"), "{}", seen.out);
    });
}

#[test]
fn a_certificate_for_another_name_is_told_with_the_names_it_has() {
    bounded(|| {
        let probe = Probe::new();
        let zone = serve(vec![
            (SERVICE, srv(0, 0, probe.port(), "other.example.test.")),
            ("other.example.test.", RData::A(A::new(127, 0, 0, 1))),
        ]);
        let seen = probe.probe(&zone, &[]);
        assert_eq!(seen.status, 3);
        assert!(seen.out.contains("FAILED     TLS with"), "{}", seen.out);
        assert!(seen.out.contains("names      relay.example.test"), "{}", seen.out);
        assert!(seen.out.contains("SHA-256    ") && seen.out.contains("issued by  "), "{}", seen.out);
        assert!(seen.errors.contains("msrp: 1 problem: other.example.test at"), "{}", seen.errors);
        let insecure = Command::new(env!("CARGO_BIN_EXE_msrp"))
            .args(["probe", "example.test", "--insecure", "--dns", &zone.address.to_string()])
            .output()
            .unwrap();
        assert!(insecure.status.success());
    });
}

#[test]
fn a_refused_user_has_its_own_status() {
    bounded(|| {
        let probe = Probe::new();
        let zone =
            serve(vec![(SERVICE, srv(0, 0, probe.port(), RELAY)), (RELAY, RData::A(A::new(127, 0, 0, 1)))]);
        let user = [
            "--user",
            "alice@example.com",
            "--password-file",
            "wrong",
            "--auth-uri",
            "msrps://example.com;tcp",
        ];
        let seen = probe.probe(&zone, &user);
        assert_eq!(seen.status, 4, "{}", seen.errors);
        assert!(seen.errors.contains("401"), "{}", seen.errors);
    });
}

#[test]
fn without_a_record_the_domain_stands_for_its_relay_and_a_dot_for_none() {
    bounded(|| {
        let probe = Probe::new();
        // No host has this address.
        let zone = serve(vec![("example.test.", RData::A(A::new(127, 77, 77, 77)))]);
        let seen = probe.probe(&zone, &[]);
        assert_eq!(seen.status, 3);
        assert!(seen.out.contains("does not exist: the domain itself stands for its relay"), "{}", seen.out);
        assert!(seen.out.contains("cannot connect to 127.77.77.77:2855"), "{}", seen.out);
        let zone = serve(vec![(SERVICE, srv(0, 0, 0, "."))]);
        let seen = probe.probe(&zone, &[]);
        assert_eq!(seen.status, 3);
        assert!(seen.errors.contains("says that there is no relay"), "{}", seen.errors);
    });
}

#[test]
fn a_name_server_that_is_not_there_is_a_failure_and_not_an_answer() {
    bounded(|| {
        let probe = Probe::new();
        let mut zone = serve(Vec::new());
        zone.stop();
        let seen = probe.probe_within("2s", &zone, &[]);
        assert_eq!(seen.status, 3);
        assert!(seen.errors.contains("cannot resolve example.test"), "{}", seen.errors);
    });
}

#[test]
fn what_to_look_at_must_be_said_once() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_msrp")).arg("probe").args(arguments).output().unwrap();
        output.status.code()
    };
    assert_eq!(run(&[]), Some(2));
    assert_eq!(run(&["example.test", "--relay", "127.0.0.1:1"]), Some(2));
    assert_eq!(run(&["--relay", "127.0.0.1:1", "--dns", "127.0.0.1:1"]), Some(2));
}
