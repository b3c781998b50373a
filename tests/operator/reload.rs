//! SIGHUP, as an operator uses it: the config, and the files that it names, are read again while clients work.

use std::fs;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use testkit_net::account::{DOMAIN, Login, password};
use testkit_net::endpoint::Endpoint;
use testkit_net::frame::Request;
use testkit_net::process::RelayProcess;
use testkit_net::relay::{HOST, Setup};
use testkit_net::transfer::Outgoing;
use testkit_net::{PATIENCE, assert_same, bounded, contents, until};

const TAKEN: &str = "The present config is in force";
const REFUSED: &str = "The config is wrong; the old one stays in force";

const RELOADS: usize = 20;
/// Files that are sent at most, until all reloads are over.
const FILES_MAX: u64 = 2000;
/// Bytes in a chunk of the file: large ones, each of which is under way for a while.
const CHUNK: usize = 1 << 20;

/// A config for the listeners, cores and users of every other test, with `more` in it.
fn config(more: &'static str) -> Setup {
    Setup { more, ..Setup::default() }
}

/// Limits that are unlike those before, each time.
const LIMITS: [&str; 3] = [
    "limits: {queue_bytes_high: 64KiB, queue_bytes_low: 32KiB, flush_bytes_max: 16KiB}",
    "limits: {queue_bytes_high: 1MiB, queue_bytes_low: 256KiB, bytes_per_second_per_user_max: 1GiB}",
    "limits: {queue_bytes_total: 16MiB, sessions_per_user_max: 1000, transactions_per_peer_max: 16}",
];

/// Whether a client that trusts `config` gets through the handshake.
fn gets_in(relay: &RelayProcess, config: &Arc<ClientConfig>) -> bool {
    let mut stream = TcpStream::connect(relay.addresses[0]).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let host = ServerName::try_from(HOST).unwrap();
    let mut tls = ClientConnection::new(Arc::clone(config), host).unwrap();
    while tls.is_handshaking() {
        if tls.complete_io(&mut stream).is_err() {
            return false;
        }
    }
    true
}

#[test]
fn twenty_reloads_during_transfers_lose_nothing_and_newcomers_see_the_new_certificate() {
    bounded(|| {
        let relay = RelayProcess::start(&config(""));
        let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
        let path = bob.path();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..RELOADS {
                    let old = relay.trusted();
                    assert!(gets_in(&relay, &old));
                    relay.rewrite(&config(LIMITS[n % LIMITS.len()]));
                    relay.reload(TAKEN);
                    assert!(!gets_in(&relay, &old), "reload {n}: the old certificate is still shown");
                    let user = format!("user{n}");
                    let stranger = Endpoint::tls(relay.addresses[0], &relay.trusted(), &user);
                    stranger.log_in(&user, relay.addresses[0].port()).close();
                }
                done.store(true, Ordering::SeqCst);
            });
            for n in 0..FILES_MAX {
                let data = contents(n, 4 * CHUNK + 7);
                let outgoing = match n % 2 {
                    0 => Outgoing::giant(&path, &data),
                    _ => Outgoing::chunks(&path, &data, CHUNK),
                };
                let received = std::thread::scope(|both| {
                    let received = both.spawn(|| bob.receive_file());
                    alice.send_file(&outgoing);
                    received.join().unwrap()
                });
                assert_same(&received.data, &data);
                if done.load(Ordering::SeqCst) {
                    return;
                }
            }
            panic!("the reloads are never over");
        });
    });
}

#[test]
fn a_config_that_is_wrong_changes_nothing_and_is_told_with_its_remedy() {
    bounded(|| {
        let relay = RelayProcess::start(&config(""));
        let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
        let old = relay.trusted();
        let mut unharmed = || {
            let tid = alice.say(&bob.path(), b"Still there?");
            assert_eq!(alice.status(&tid), 200);
            assert_eq!(bob.request("SEND").body, b"Still there?");
            assert!(gets_in(&relay, &old), "{}", relay.log());
            let log = relay.log();
            assert!(!log.contains(TAKEN) && !log.contains("DEBUG"), "{log}");
        };
        // A mistake in one key, with a new certificate and a new level that would be valid.
        relay.rewrite(&config("log: {level: debug}\nsessions: {expires_min: 60}"));
        relay.reload(REFUSED);
        let told = "config.yaml: sessions.expires_min: 60 has no unit: write it as 60s";
        relay.logs(told);
        unharmed();
        // A torn certificate, and one for another host.
        relay.rewrite(&config("log: {level: debug}"));
        fs::write(relay.certificate(), "-----BEGIN CERTIFICATE-----\nnonsense\n").unwrap();
        relay.reload(REFUSED);
        assert!(relay.log().contains("tls.certificate: ") && relay.log().contains("not a PEM file"));
        unharmed();
        relay.rewrite(&Setup { host: "other.example.test", ..config("log: {level: debug}") });
        relay.reload("The config cannot be put into force; the old one stays in force");
        relay.logs("hostname: relay.example.test stands in the URIs");
        unharmed();
        // Files that are gone.
        fs::remove_file(relay.certificate()).unwrap();
        relay.reload(REFUSED);
        relay.logs("no such file: create it or correct the path");
        unharmed();
    });
}

#[test]
fn limits_methods_and_the_level_of_the_log_change_while_sessions_live_on() {
    bounded(|| {
        let relay = RelayProcess::start(&config(""));
        let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
        let ask = |alice: &mut Endpoint, bob: &Endpoint| {
            let (to, from) = (alice.route(&bob.path()), alice.uri.clone());
            alice.send_bare(Request::new("INFO", &to, &from))
        };
        let tid = ask(&mut alice, &bob);
        let asked = bob.request("INFO");
        assert_eq!(alice.status(&tid), 200, "{asked:?}");
        assert!(!relay.log().contains("DEBUG"));
        relay.rewrite(&config(
            "methods: {allow_other: false}\nlimits: {sessions_per_user_max: 1}\nlog: {level: debug}",
        ));
        relay.reload(TAKEN);
        let tid = ask(&mut alice, &bob);
        assert_eq!(alice.status(&tid), 501);
        let mut second = Endpoint::tls(relay.addresses[0], &relay.trusted(), "alice");
        let to = format!("msrps://{DOMAIN}:{};tcp", relay.addresses[0].port());
        let password = password("alice");
        let login = Login::new("alice", &password, &to);
        assert_eq!(login.attempt(&mut second).1.status(), Some(403));
        relay.logs("DEBUG");
        let tid = alice.say(&bob.path(), b"Still there?");
        assert_eq!(alice.status(&tid), 200);
        assert_eq!(bob.request("SEND").body, b"Still there?");
    });
}

#[test]
fn keys_that_take_a_restart_are_named_and_the_others_hold() {
    bounded(|| {
        let relay = RelayProcess::start(&config(""));
        relay.rewrite(&Setup {
            listen: &[("127.0.0.1:0", true)],
            ..config("log: {level: debug, format: json}\nlimits: {lookups_waiting_max: 16}")
        });
        relay.reload(TAKEN);
        let log = relay.log();
        for key in ["listen", "log.format", "limits.lookups_waiting_max"] {
            let told = format!("needs a restart key=\"{key}\"");
            assert!(log.contains(&told), "{told}: {log}");
        }
        assert!(!log.contains("key=\"hostname\"") && !log.contains("key=\"cores\""), "{log}");
        // Both listeners still listen, and the new level holds.
        Endpoint::plain(relay.addresses[1], "stranger").close();
        Endpoint::tls(relay.addresses[0], &relay.trusted(), "stranger").close();
        until("a line of the new level", || relay.log().contains("DEBUG").then_some(()));
    });
}
