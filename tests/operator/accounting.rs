//! Accounting: one record for each session, whatever ends it.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use testkit_net::endpoint::{End, Endpoint};
use testkit_net::process::RelayProcess;
use testkit_net::relay::{Setup, TestRelay};
use testkit_net::{bounded, until};

const JSON: &str = "accounting: {format: json, file: sessions.json}\nlog: {level: error}";

fn start(more: &'static str) -> RelayProcess {
    RelayProcess::start(&Setup { more, ..Setup::default() })
}

fn file(relay: &RelayProcess, name: &str) -> PathBuf {
    relay.certificate().with_file_name(name)
}

/// The records in a file as soon as there are so many.
fn records(file: &PathBuf, count: usize) -> Vec<Value> {
    until("the records", || {
        let text = fs::read_to_string(file).unwrap_or_default();
        let lines: Vec<_> = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect();
        (lines.len() >= count)
            .then(|| lines.into_iter().map(|line| serde_json::from_str(line).unwrap()).collect())
    })
}

fn of<'a>(records: &'a [Value], user: &str) -> &'a Value {
    let mut found = records.iter().filter(|record| record["user"] == user);
    let record = found.next().unwrap_or_else(|| panic!("{user}: {records:?}"));
    assert!(found.next().is_none(), "{user} twice: {records:?}");
    record
}

#[test]
fn each_end_of_a_session_is_recorded_once_with_its_figures_and_its_reason() {
    bounded(|| {
        let mut relay = start(JSON);
        let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
        let (one, two) = (relay.client("user1"), relay.client("user2"));
        let stays = relay.client("user3");
        alice.chat(&mut bob, b"Hello");
        bob.chat(&mut alice, b"Hello yourself");
        let path = file(&relay, "sessions.json");
        let ids = [&alice, &bob].map(|client| client.relay.clone().unwrap());
        let addresses = [&alice, &bob].map(|client| client.stream().local_addr().unwrap().to_string());
        alice.close();
        let first = records(&path, 1);
        assert_eq!(first.len(), 1, "{first:?}");
        one.reset();
        two.truncate();
        records(&path, 3);
        relay.signal("TERM");
        for client in [bob, stays] {
            let mut client = client;
            assert_eq!(client.end(), End::Clean);
            client.close();
        }
        assert_eq!(relay.wait().code(), Some(0), "{}", relay.log());
        let records = records(&path, 5);
        assert_eq!(records.len(), 5, "{records:?}");
        for (user, reason) in [
            ("alice", "closed by the client"),
            ("user1", "connection lost"),
            ("bob", "the relay stops"),
            ("user3", "the relay stops"),
        ] {
            let record = of(&records, user);
            assert_eq!((&record["realm"], &record["reason"]), (&json!("example.com"), &json!(reason)));
            assert!(record["duration_seconds"].as_f64().unwrap() > 0.0 && record["core"].is_u64());
            assert!(record["ended"].as_str().unwrap().ends_with('Z'), "{record}");
        }
        let figures = |user: &str| {
            let record = of(&records, user);
            (record["bytes_from_client"].clone(), record["bytes_to_client"].clone())
        };
        assert_eq!(figures("alice"), (json!(5), json!(14)));
        assert_eq!(figures("bob"), (json!(14), json!(5)));
        assert_eq!(figures("user1"), (json!(0), json!(0)));
        assert_eq!(of(&records, "user1")["peer"], Value::Null);
        for (n, user) in ["alice", "bob"].into_iter().enumerate() {
            let record = of(&records, user);
            assert_eq!(record["client"], addresses[n], "{record}");
            let other = of(&records, ["bob", "alice"][n]);
            assert_eq!(record["peer"], format!("session {}", other["session"].as_str().unwrap()));
            let prefix = record["session"].as_str().unwrap();
            assert!(prefix.len() == 10 && ids[n].contains(prefix), "{record}");
        }
    });
}

#[test]
fn records_name_the_transport_that_the_client_came_by() {
    bounded(|| {
        let relay = RelayProcess::start(&Setup {
            websocket: &[("127.0.0.1:0", true), ("127.0.0.1:0", false)],
            plain_auth: true,
            more: JSON,
            ..Setup::default()
        });
        let path = file(&relay, "sessions.json");
        let [tls, tcp, wss, ws] = relay.addresses[..4] else { panic!("four listeners") };
        let clients = [
            ("tls", Endpoint::tls(tls, &relay.client, "user0")),
            ("tcp", Endpoint::plain(tcp, "user1")),
            ("wss", Endpoint::wss(wss, &relay.client, "user2")),
            ("ws", Endpoint::ws(ws, "user3")),
        ];
        for (n, (transport, client)) in clients.into_iter().enumerate() {
            let user = format!("user{n}");
            let client = client.log_in(&user, tls.port());
            let address = client.stream().local_addr().unwrap().to_string();
            client.close();
            let records = records(&path, n + 1);
            let record = of(&records, &user);
            assert_eq!((&record["transport"], &record["client"]), (&json!(transport), &json!(address)));
            assert_eq!(record["reason"], "closed by the client", "{record}");
        }
    });
}

#[test]
fn a_file_that_was_moved_away_is_made_anew_at_a_reload_and_so_is_another_form() {
    bounded(|| {
        let relay = start("accounting: {format: json, file: sessions.json}");
        let path = file(&relay, "sessions.json");
        relay.client("alice").close();
        records(&path, 1);
        let moved = file(&relay, "sessions.json.1");
        fs::rename(&path, &moved).unwrap();
        relay.reload("The present config is in force");
        relay.client("bob").close();
        of(&records(&path, 1), "bob");
        assert_eq!(records(&moved, 1).len(), 1);

        let more = "accounting: {format: text, file: sessions.log}";
        relay.rewrite(&Setup { more, ..Setup::default() });
        relay.reload("The present config is in force");
        relay.client("user1").close();
        let text = until("the record", || {
            fs::read_to_string(file(&relay, "sessions.log")).ok().filter(|text| text.ends_with('\n'))
        });
        assert!(text.contains(" user=\"user1\" realm=\"example.com\" "), "{text}");
        assert!(text.contains(" reason=\"closed by the client\" "), "{text}");

        // A file that cannot be opened changes nothing.
        let more = "accounting: {format: text, file: no/such/directory}";
        relay.rewrite(&Setup { more, ..Setup::default() });
        relay.reload("The config cannot be put into force; the old one stays in force");
        let log = relay.log();
        assert!(log.contains("accounting.file: ") && log.contains("let the relay's user write it"), "{log}");
    });
}

#[test]
fn sessions_of_a_core_that_dies_are_recorded_as_well() {
    bounded(|| {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("sessions.json");
        let more = format!("accounting: {{format: json, file: {}}}", path.display()).leak();
        let relay = TestRelay::with(&Setup { more, ..Setup::default() });
        let client = relay.client("alice");
        relay.server.crash_core(client.core());
        let records = records(&path, 1);
        let record = of(&records, "alice");
        assert_eq!(record["reason"], "core died");
        assert_eq!(record["client"], client.stream().local_addr().unwrap().to_string());
    });
}
