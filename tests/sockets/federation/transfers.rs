//! Files between users behind no relay, one and two.

use std::fs;
use std::time::Duration;

use msrp_client::{
    Endpoint, MessageSpec, Security, SendOptions, Source, Target, Trust, run_on_executor, send_message,
};
use serde_json::Value;

use super::relays::address_of;
use super::users::{Federation, host};
use testkit_net::{bounded, contents};

#[test]
fn a_client_behind_two_relays_and_one_behind_none() {
    bounded(|| {
        let federation = Federation::start("ab");
        federation.send_a_file(("alice", "ab"), ("bob", ""), 1);
        send_without_a_relay(&federation, "ab", 2);
    });
}

#[test]
fn a_client_behind_two_relays_and_one_behind_one() {
    bounded(|| {
        let federation = Federation::start("abc");
        federation.send_a_file(("alice", "ab"), ("bob", "c"), 1);
        federation.send_a_file(("bob", "c"), ("alice", "ab"), 2);
    });
}

#[test]
fn a_client_behind_two_relays_and_another_behind_two() {
    bounded(|| {
        let federation = Federation::start("abcd");
        federation.send_a_file(("alice", "ab"), ("bob", "cd"), 1);
        federation.send_a_file(("bob", "cd"), ("alice", "ab"), 2);
    });
}

#[test]
fn both_may_be_behind_the_same_relays_the_other_way_round() {
    bounded(|| {
        let federation = Federation::start("ab");
        federation.send_a_file(("alice", "ab"), ("bob", "b"), 1);
        federation.send_a_file(("bob", "b"), ("alice", "ab"), 2);
        federation.send_a_file(("alice", "ab"), ("bob", "ab"), 3);
    });
}

#[test]
fn a_client_may_be_behind_four_relays() {
    bounded(|| {
        let federation = Federation::start("abcd");
        let output = federation.probe("alice", "abcd");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{}", federation.logs());
        let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
        let each = seen["auth_of_each"].as_array().unwrap();
        let proved: Vec<_> = each.iter().map(|auth| auth["relay_proved_itself"] == true).collect();
        assert_eq!(proved, [true; 4]);
        let path: Vec<_> =
            seen["auth"]["use_path"].as_array().unwrap().iter().map(|uri| uri.as_str().unwrap()).collect();
        assert_eq!(path.len(), 4);
        for (uri, name) in path.iter().zip("abcd".chars()) {
            let front = format!("msrps://{}:{}/", host(name), federation.port(name));
            assert!(uri.starts_with(&front), "{uri}");
        }
        federation.send_a_file(("alice", "abcd"), ("bob", "dcba"), 1);
    });
}

/// A user without a relay writes to alice, straight to her outermost relay.
fn send_without_a_relay(federation: &Federation, relays: &str, seed: u64) {
    let outermost = relays.chars().next_back().unwrap();
    let receiver = federation.receiver("alice", &federation.behind("alice", relays));
    let (name, data) = (format!("film{seed}"), contents(seed, 1 << 20));
    let file = federation.file(&name);
    fs::write(&file, &data).unwrap();
    let (path, trust) = (receiver.path.clone(), Trust::File(federation.file("ca.crt")));
    let target = Target { host: address_of(host(outermost)), port: federation.port(outermost), web: None };
    run_on_executor(None, async {
        let limit = Duration::from_secs(60);
        let security = Security::tls(&trust, Some(host(outermost))).unwrap();
        let mut endpoint = Endpoint::connect(&target, &security, limit).await.unwrap();
        let spec = MessageSpec {
            success_report: true,
            disposition: Some(format!("attachment; filename=\"{name}\"")),
            total: Some(data.len() as u64),
            ..MessageSpec::new(&path, endpoint.own_uri(), "application/octet-stream")
        };
        let input = Box::new(fs::File::open(&file).unwrap());
        let mut source = Source::new(file, input, Some(data.len() as u64)).unwrap();
        let options = SendOptions { idle_limit: limit };
        let delivery = send_message(&mut endpoint, &spec, &mut source, options, &|_| ()).await.unwrap();
        assert!(delivery.reported);
        endpoint.close().await.unwrap();
    })
    .unwrap();
    federation.assert_received("alice", receiver, &name, &contents(seed, 1 << 20));
}
