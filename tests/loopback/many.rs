//! Many sessions at once, over several cores.

use std::thread;

use crate::support::endpoint::Endpoint;
use crate::support::relay::{Setup, TestRelay};
use crate::support::transfer::Outgoing;
use crate::support::{assert_same, bounded, contents, until};

/// As many pairs at least, and as many more until both kinds are among them.
const PAIRS_MIN: usize = 25;
const PAIRS_MAX: usize = 100;

/// Octets each client sends.
const EACH: usize = 300_000;

#[test]
fn fifty_sessions_on_two_cores_keep_every_octet_whether_a_pair_shares_a_core_or_not() {
    let cpus = thread::available_parallelism().unwrap().get();
    if cpus < 2 {
        eprintln!("skipped: one CPU has no two cores");
        return;
    }
    bounded(|| {
        let relay = TestRelay::with(&Setup { cores: "auto", ..Setup::default() });
        let mut pairs: Vec<(Endpoint, Endpoint)> = Vec::new();
        let has_both = |pairs: &[(Endpoint, Endpoint)]| {
            let split = pairs.iter().filter(|(a, b)| core(a) != core(b)).count();
            split > 0 && split < pairs.len()
        };
        while pairs.len() < PAIRS_MIN || (!has_both(&pairs) && pairs.len() < PAIRS_MAX) {
            let n = 2 * pairs.len();
            pairs.push((relay.client(&format!("user{n}")), relay.client(&format!("user{}", n + 1))));
        }
        thread::scope(|scope| {
            for (n, (a, b)) in pairs.iter_mut().enumerate() {
                let n = n as u64;
                let (a_path, b_path) = (a.path(), b.path());
                // Giant SENDs and chunks, crossing each other.
                scope.spawn(move || {
                    let (data, expected) = (contents(2 * n, EACH), contents(2 * n + 1, EACH));
                    let got = a.exchange(Some(&Outgoing::giant(&b_path, &data)), 1);
                    assert_same(&got[0].data, &expected);
                });
                scope.spawn(move || {
                    let (data, expected) = (contents(2 * n + 1, EACH), contents(2 * n, EACH));
                    let got = b.exchange(Some(&Outgoing::chunks(&a_path, &data, 10_000)), 1);
                    assert_same(&got[0].data, &expected);
                });
            }
        });
        let octets = 2 * (pairs.len() * EACH) as u64;
        let counted = until("the counters to be published", || {
            Some(relay.counted()).filter(|c| c.body_bytes_out >= octets && c.body_bytes_in >= octets)
        });
        assert_eq!((counted.body_bytes_in, counted.body_bytes_out), (octets, octets));
        assert!(counted.links_local > 0 && counted.links_split > 0, "{counted:?}");
        assert_eq!(counted.reports_sent, 0);
    });
}

/// The core that a client's session lives on: it stands in front of the random part of the session id.
fn core(client: &Endpoint) -> String {
    let uri = client.relay.as_ref().unwrap();
    uri.rsplit('/').next().unwrap().chars().take(4).collect()
}
