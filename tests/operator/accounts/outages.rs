//! The database fails in every way it can, and what clients, with and without sessions, notice of it.
//!
//! The rule for all: 408 with a comment that says try again, no failure counted, no client banned; and when the
//! database works again, so does the next AUTH.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::plain_relay::{Account, PlainRelay, config};
use testkit_net::account::DOMAIN;
use testkit_net::endpoint::Endpoint;
use testkit_net::postgres::Postgres;
use testkit_net::process::{Process, relay_binary};
use testkit_net::sql::SqlServer;
use testkit_net::subscribers::{Database, PATIENT, Proxy, RELAY_PASSWORD, keys_of};
use testkit_net::transfer::Outgoing;
use testkit_net::{bounded, contents, until};

/// One counted failure bans every client. The times suit a busy machine.
const STRICT: &str =
    "limits: {auth_failures_per_address_max: 1, auth_failures_per_user_max: 1, lookup_timeout: 60s}";

on_each_server! {
    a_database_that_is_killed_and_started_again_during_auths_is_told_from_wrong_passwords,
    one_that_keeps_trying_on_its_connection_gets_in_when_the_database_is_there,
    a_relay_that_starts_before_its_database_waits_for_it,
    a_server_that_accepts_and_never_answers_is_given_up_in_time,
    a_server_that_freezes_and_thaws_is_used_again,
    a_table_that_is_locked_for_ten_seconds_is_not_felt_by_a_transfer_and_a_chat,
    an_exhausted_pool_refuses_some_and_recovers,
    a_server_that_refuses_further_connections_is_used_by_those_there_are,
    a_wrong_password_of_the_relays_own_account_is_not_a_wrong_password_of_the_users,
    connections_that_the_server_has_closed_meanwhile_are_made_again,
    tls_is_used_where_the_server_insists_on_it_and_its_certificate_is_checked,
    a_server_without_tls_is_not_talked_to_in_clear_where_tls_is_asked_for,
    a_flood_of_look_ups_while_nothing_moves_is_bounded,
}

/// A refusal that is no verdict on the credentials.
#[track_caller]
fn assert_told_to_try_again(relay: &PlainRelay, login: &Account<'_>) {
    let answer = relay.attempt(login);
    assert_eq!(answer.status(), Some(408), "{answer:?}");
    assert!(answer.head_text().contains("408 Accounts unavailable, try again later"), "{answer:?}");
    assert!(!relay.server.accounts_ready());
}

fn a_database_that_is_killed_and_started_again_during_auths_is_told_from_wrong_passwords<S: SqlServer>() {
    bounded(|| {
        let mut server = S::start();
        let relay = {
            let site = Database::<S>::new(&server, Proxy::OpenSips);
            site.add_many(64);
            PlainRelay::with(&site.keys(""), STRICT)
        };
        let mut alice = relay.client("user1", "secret of user1");
        let mut bob = relay.client("user2", "secret of user2");
        alice.chat(&mut bob, b"before");
        let (stop, accepted, refused) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
        let relay = &relay;
        std::thread::scope(|scope| {
            // Ends the load also if something below fails.
            let _stopping = Stopping(&stop);
            for first in [3, 19, 35, 50] {
                let (stop, accepted, refused) = (&stop, &accepted, &refused);
                scope.spawn(move || {
                    for n in (first..first + 15).cycle() {
                        if stop.load(Ordering::SeqCst) {
                            return;
                        }
                        let user = format!("user{n}");
                        match relay.status(&user, &format!("secret of {user}")) {
                            200 => accepted.fetch_add(1, Ordering::SeqCst),
                            408 => refused.fetch_add(1, Ordering::SeqCst),
                            other => panic!("{other}"),
                        };
                    }
                });
            }
            for _ in 0..2 {
                more(&accepted, 50);
                server.kill();
                more(&refused, 20);
                assert!(!relay.server.accounts_ready());
                // A client with a session does not notice.
                alice.chat(&mut bob, b"while it is down");
                server.launch();
                // Without any help, the first client is served.
                assert_eq!(relay.status("user64", "secret of user64"), 200);
                assert!(relay.server.accounts_ready());
            }
            more(&accepted, 50);
        });
        // Nothing was counted; wrong credentials still are.
        assert_eq!(relay.status("user1", "wrong"), 401);
        assert_eq!(relay.status("user1", "secret of user1"), 403);
        bob.chat(&mut alice, b"after");
    });
}

struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Waits until so many more have been counted.
#[track_caller]
fn more(counter: &AtomicUsize, times: usize) {
    let before = counter.load(Ordering::SeqCst);
    for step in 1..=times {
        until("the next AUTH", || (counter.load(Ordering::SeqCst) >= before + step).then_some(()));
    }
}

// One connection may try as often as it likes, too.
fn one_that_keeps_trying_on_its_connection_gets_in_when_the_database_is_there<S: SqlServer>() {
    bounded(|| {
        let mut server = S::start();
        let relay = {
            let site = Database::<S>::new(&server, Proxy::OpenSips);
            site.add("alice", DOMAIN, "wonderland");
            PlainRelay::with(&(site.keys("") + ", max_attempts: 1"), STRICT)
        };
        server.kill();
        let login = Account::of("alice", "wonderland");
        let mut alice = Endpoint::plain(relay.address, "alice");
        for _ in 0..4 {
            assert_eq!(login.attempt(&mut alice, relay.address.port()).status(), Some(408));
        }
        server.launch();
        assert_eq!(login.attempt(&mut alice, relay.address.port()).status(), Some(200));
    });
}

fn a_relay_that_starts_before_its_database_waits_for_it<S: SqlServer>() {
    bounded(|| {
        let mut server = S::start();
        let keys = {
            let site = Database::<S>::new(&server, Proxy::OpenSips);
            site.add("alice", DOMAIN, "wonderland");
            site.keys("")
        };
        server.kill();
        let relay = PlainRelay::with(&keys, STRICT);
        assert_told_to_try_again(&relay, &Account::of("alice", "wonderland"));
        server.launch();
        // Not even an AUTH is needed for that.
        until("the relay to find its database", || relay.server.accounts_ready().then_some(()));
        assert_eq!(relay.status("alice", "wonderland"), 200);
    });
}

fn a_server_that_accepts_and_never_answers_is_given_up_in_time<S: SqlServer>() {
    bounded(|| {
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = silent.local_addr().unwrap().port();
        let accepting = std::thread::spawn(move || {
            // The relay must not learn it from a closed connection. A connection of the test itself ends it.
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = silent.accept() {
                let mut first = [0; 4];
                if std::io::Read::read(&mut stream, &mut first).is_ok_and(|read| &first[..read] == b"stop") {
                    return held.len();
                }
                held.push(stream);
            }
            0
        });
        let url = format!("{}://relay:pw@127.0.0.1:{port}/site", S::BACKEND);
        let keys = keys_of::<S>(&url, ", connect_timeout: 500ms");
        let relay = PlainRelay::with(&keys, STRICT);
        let login = Account::of("alice", "wonderland");
        for _ in 0..3 {
            assert_told_to_try_again(&relay, &login);
        }
        // Nor does it keep the relay from stopping in order.
        drop(relay);
        let mut stop = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        std::io::Write::write_all(&mut stop, b"stop").unwrap();
        assert!(accepting.join().unwrap() > 0);
    });
}

// The existing connections hang in the middle of their work, and new ones are never greeted.
fn a_server_that_freezes_and_thaws_is_used_again<S: SqlServer>() {
    bounded(|| {
        let server = S::start();
        let site = Database::<S>::new(&server, Proxy::OpenSips);
        site.add("alice", DOMAIN, "wonderland");
        let relay = PlainRelay::with(&site.keys_as_they_are(""), STRICT);
        assert_eq!(relay.status("alice", "wonderland"), 200);
        for _ in 0..2 {
            server.signal("STOP");
            for _ in 0..3 {
                assert_told_to_try_again(&relay, &Account::of("alice", "wonderland"));
            }
            server.signal("CONT");
            until("the relay to find its database", || relay.server.accounts_ready().then_some(()));
            assert_eq!(relay.status("alice", "wonderland"), 200);
        }
    });
}

// The pace is only printed (cargo test -- --nocapture); the test asserts that transfers go on.
fn a_table_that_is_locked_for_ten_seconds_is_not_felt_by_a_transfer_and_a_chat<S: SqlServer>() {
    bounded(|| {
        let server = S::start();
        let site = Database::<S>::new(&server, Proxy::OpenSips);
        site.add_many(8);
        let relay = PlainRelay::with(&site.keys(", query_timeout: 4s"), STRICT);
        let [mut alice, mut bob, mut carol, mut dave] =
            [1, 2, 3, 4].map(|n| relay.client(&format!("user{n}"), &format!("secret of user{n}")));
        let (stop, moved) = (AtomicBool::new(false), AtomicU64::new(0));
        let data = contents(1, 4 << 20);
        std::thread::scope(|scope| {
            let _stopping = Stopping(&stop);
            let (stop, moved, data) = (&stop, &moved, &data);
            let to_bob = bob.path();
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    alice.send_file(&Outgoing::giant(&to_bob, data));
                }
                // The other side waits for one more.
                alice.send_file(&Outgoing::giant(&to_bob, b"the end"));
            });
            scope.spawn(move || {
                loop {
                    let received = bob.receive_file().data;
                    if received == b"the end" {
                        return;
                    }
                    // Not by assert_eq!, which would print it.
                    assert!(received == *data, "a file arrived changed");
                    moved.fetch_add(received.len() as u64, Ordering::SeqCst);
                }
            });
            let before = pace(&mut carol, &mut dave, moved, |spent| spent > Duration::from_secs(3));
            let lock = site.lock();
            let refused = AtomicUsize::new(0);
            let locked_at = Instant::now();
            let over = AtomicBool::new(false);
            let during = std::thread::scope(|scope| {
                let (relay, over, refused) = (&relay, &over, &refused);
                for n in 5..=8 {
                    scope.spawn(move || {
                        let user = format!("user{n}");
                        while !over.load(Ordering::SeqCst) {
                            assert_told_to_try_again(
                                relay,
                                &Account::of(&user, &format!("secret of {user}")),
                            );
                            refused.fetch_add(1, Ordering::SeqCst);
                        }
                    });
                }
                let _stopping = Stopping(over);
                pace(&mut carol, &mut dave, moved, |spent| {
                    spent > Duration::from_secs(10) && refused.load(Ordering::SeqCst) >= 4
                })
            });
            assert!(locked_at.elapsed() >= Duration::from_secs(10));
            drop(lock);
            until("the relay to find its database", || relay.server.accounts_ready().then_some(()));
            assert_eq!(relay.status("user5", "secret of user5"), 200);
            println!("before the lock  {before}");
            println!("during the lock  {during}  {} AUTHs were told to try again", refused.into_inner());
        });
    });
}

/// The pace of a chat and a transfer beside it.
struct Pace {
    rounds: Vec<Duration>,
    bytes: u64,
    seconds: f64,
}

impl std::fmt::Display for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = |percent: usize| self.rounds[(self.rounds.len() - 1) * percent / 100].as_secs_f64() * 1e3;
        let mut line = String::new();
        write!(line, "{:6} rounds of chat, ", self.rounds.len())?;
        write!(line, "p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms; ", at(50), at(99), at(100))?;
        write!(line, "file {:.0} MB/s", self.bytes as f64 / 1e6 / self.seconds)?;
        f.write_str(&line)
    }
}

/// Chats until `is_enough` of the time spent; meanwhile the file must go on, too.
#[track_caller]
fn pace(
    from: &mut Endpoint,
    to: &mut Endpoint,
    moved: &AtomicU64,
    is_enough: impl Fn(Duration) -> bool,
) -> Pace {
    let (began, at_first) = (Instant::now(), moved.load(Ordering::SeqCst));
    let mut rounds = Vec::new();
    while !is_enough(began.elapsed()) || moved.load(Ordering::SeqCst) < at_first + (8 << 20) {
        let round = Instant::now();
        from.chat(to, b"Are you there?");
        rounds.push(round.elapsed());
    }
    rounds.sort_unstable();
    let bytes = moved.load(Ordering::SeqCst) - at_first;
    Pace { rounds, bytes, seconds: began.elapsed().as_secs_f64() }
}

fn an_exhausted_pool_refuses_some_and_recovers<S: SqlServer>() {
    bounded(|| {
        let server = S::start();
        let site = Database::<S>::new(&server, Proxy::OpenSips);
        site.add_many(32);
        let relay = PlainRelay::with(
            &site.keys(", connections_max: 1, connect_timeout: 30s, query_timeout: 30s"),
            &STRICT.replace("60s", "4s"),
        );
        // On a busy machine a look-up may take too long: the claim is that it succeeds in the end.
        let gets_in = |n: usize| {
            let user = format!("user{n}");
            until("the connection to be free", || {
                (relay.status(&user, &format!("secret of {user}")) == 200).then_some(())
            });
        };
        gets_in(1);
        let lock = site.lock();
        // The first has the only connection; the others wait for it until they have waited too long.
        at_once(16, |n| {
            let user = format!("user{}", n + 1);
            assert_eq!(relay.status(&user, &format!("secret of {user}")), 408);
        });
        drop(lock);
        gets_in(1);
        at_once(8, |n| gets_in(n + 1));
    });
}

// The server allows fewer connections than the relay would make: the relay uses those.
fn a_server_that_refuses_further_connections_is_used_by_those_there_are<S: SqlServer>() {
    bounded(|| {
        let server = S::start();
        let site = Database::<S>::new(&server, Proxy::OpenSips);
        site.add_many(64);
        server.limit_connections(&site.name, 2);
        let relay = PlainRelay::with(&site.keys(", connections_max: 16"), STRICT);
        for _ in 0..3 {
            at_once(64, |n| {
                let user = format!("user{}", n + 1);
                assert_eq!(relay.status(&user, &format!("secret of {user}")), 200);
            });
            assert!(relay.server.accounts_ready());
        }
    });
}

/// Does the same many times in parallel.
fn at_once(times: usize, act: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        let act = &act;
        (0..times).for_each(|n| {
            scope.spawn(move || act(n));
        });
    });
}

fn a_wrong_password_of_the_relays_own_account_is_not_a_wrong_password_of_the_users<S: SqlServer>() {
    bounded(|| {
        let server = S::shared();
        let site = Database::<S>::new(&server, Proxy::OpenSips);
        site.add("alice", DOMAIN, "wonderland");
        let name = &site.name;
        server.set_password(name, "another");
        // On a busy machine SCRAM takes its time.
        let patient = site.keys(", connect_timeout: 30s, query_timeout: 30s");
        let relay = PlainRelay::with(&patient, STRICT);
        assert_told_to_try_again(&relay, &Account::of("alice", "wonderland"));
        server.set_password(name, RELAY_PASSWORD);
        assert_eq!(relay.status("alice", "wonderland"), 200);
        // A right is revoked while the relay holds a connection; then the table is dropped.
        for (wrong, right) in [
            (
                format!("REVOKE SELECT (ha1) ON subscriber FROM {}", S::account(name)),
                format!("GRANT SELECT (ha1) ON subscriber TO {}", S::account(name)),
            ),
            (
                "ALTER TABLE subscriber RENAME TO gone".to_owned(),
                "ALTER TABLE gone RENAME TO subscriber".to_owned(),
            ),
        ] {
            site.run(&wrong);
            assert_told_to_try_again(&relay, &Account::of("alice", "wonderland"));
            site.run(&right);
            assert_eq!(relay.status("alice", "wonderland"), 200);
        }
    });
}

// The server closes connections that were idle for long; the next client must not notice.
fn connections_that_the_server_has_closed_meanwhile_are_made_again<S: SqlServer>() {
    bounded(|| {
        let server = S::start();
        let site = Database::<S>::new(&server, Proxy::OpenSips);
        site.add_many(8);
        let relay = PlainRelay::with(&site.keys(""), STRICT);
        at_once(8, |n| {
            let user = format!("user{}", n + 1);
            assert_eq!(relay.status(&user, &format!("secret of {user}")), 200);
        });
        for _ in 0..3 {
            server.disconnect(&site.name);
            assert_eq!(relay.status("user1", "secret of user1"), 200);
            assert!(relay.server.accounts_ready());
        }
    });
}

fn tls_is_used_where_the_server_insists_on_it_and_its_certificate_is_checked<S: SqlServer>() {
    bounded(|| {
        let place = tempfile::tempdir().unwrap();
        let pair = |name: &str, host: &str| {
            let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
            let [certificate, key] = ["crt", "key"].map(|end| place.path().join(format!("{name}.{end}")));
            std::fs::write(&certificate, made.cert.pem()).unwrap();
            std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
            (certificate, key)
        };
        let (own, other) = (pair("own", "127.0.0.1"), pair("other", "127.0.0.1"));
        let server = S::over_tcp(place, Some((&own.0, &own.1)));
        let site = Database::<S>::new(&server, Proxy::OpenSips);
        site.add("alice", DOMAIN, "wonderland");
        let login = Account::of("alice", "wonderland");
        let relay = |options: &str, more: &str| PlainRelay::with(&site.keys_over_tcp(options, more), STRICT);
        let named_by = |path: &std::path::Path| format!(", ca: '{}'", path.display());
        let verified = relay(S::TLS, &named_by(&own.0));
        assert_eq!(verified.attempt(&login).status(), Some(200));
        assert!(server.has_come_by_tls(&site.name));
        assert_told_to_try_again(&relay("", ""), &login);
        for options in [S::TLS, S::TLS_ANY_NAME] {
            assert_told_to_try_again(&relay(options, &named_by(&other.0)), &login);
            assert_told_to_try_again(&relay(options, ""), &login);
        }
        assert_eq!(relay(S::TLS_UNVERIFIED, "").attempt(&login).status(), Some(200));
    });
}

// A certificate that the right authority has given to another host. MySQL's driver checks the name whatever it is told.
#[test]
fn the_name_in_the_servers_certificate_is_checked_unless_the_operator_says_otherwise() {
    type S = Postgres;
    bounded(|| {
        let place = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["db.example.net".to_owned()]).unwrap();
        let [certificate, key] = ["crt", "key"].map(|end| place.path().join(format!("other.{end}")));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let server = S::over_tcp(place, Some((&certificate, &key)));
        let site = Database::<S>::new(&server, Proxy::OpenSips);
        site.add("alice", DOMAIN, "wonderland");
        let ca = format!(", ca: '{}'", certificate.display());
        let relay = |options| PlainRelay::with(&site.keys_over_tcp(options, &ca), STRICT);
        let login = Account::of("alice", "wonderland");
        assert_told_to_try_again(&relay(S::TLS), &login);
        assert_eq!(relay(S::TLS_ANY_NAME).attempt(&login).status(), Some(200));
    });
}

fn a_server_without_tls_is_not_talked_to_in_clear_where_tls_is_asked_for<S: SqlServer>() {
    bounded(|| {
        let plain = S::over_tcp(tempfile::tempdir().unwrap(), None);
        let site = Database::<S>::new(&plain, Proxy::OpenSips);
        site.add("alice", DOMAIN, "wonderland");
        let login = Account::of("alice", "wonderland");
        for options in [S::TLS, S::TLS_ANY_NAME, S::TLS_UNVERIFIED] {
            assert_told_to_try_again(&PlainRelay::with(&site.keys_over_tcp(options, ""), STRICT), &login);
        }
        let relay = PlainRelay::with(&site.keys_over_tcp("", ""), STRICT);
        assert_eq!(relay.attempt(&login).status(), Some(200));
    });
}

// More look-ups than may wait: the rest is refused at once, and the relay's memory stays bounded.
fn a_flood_of_look_ups_while_nothing_moves_is_bounded<S: SqlServer>() {
    bounded(|| {
        let server = S::start();
        let site = Database::<S>::new(&server, Proxy::OpenSips);
        site.add_many(1);
        let relay = Arc::new(PlainRelay::with(
            &site.keys(", connections_max: 1, query_timeout: 2s"),
            "limits: {lookups_waiting_max: 16, unauthenticated_per_address_max: 1000}",
        ));
        assert_eq!(relay.status("user1", "secret of user1"), 200);
        let lock = site.lock();
        at_once(400, |n| assert_eq!(relay.status(&format!("stranger{n}"), "x"), 408));
        let limits: Vec<_> =
            relay.server.counters()[0].limits_reached().filter(|(_, times)| *times > 0).collect();
        drop(lock);
        until("the relay to find its database", || relay.server.accounts_ready().then_some(()));
        assert_eq!(relay.status("user1", "secret of user1"), 200, "{limits:?}");
    });
}

/// What the log says of accounts that cannot be asked.
#[track_caller]
fn said(keys: &str) -> String {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("config.yaml"), config(keys, "")).unwrap();
    let relay = Process::start(relay_binary(), place.path());
    until("the log to say it", || {
        let log = relay.log();
        log.lines().find(|line| line.contains("Accounts are unavailable")).map(str::to_owned)
    })
}

// The table of docs/operate/accounts.md.
#[test]
fn log_says_what_is_wrong_with_a_postgres_and_what_to_do_about_it() {
    type S = Postgres;
    bounded(|| {
        let server = S::start();
        let site = Database::<S>::new(&server, Proxy::OpenSips);
        let name = &site.name;
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let keys = site.keys("");
        for (keys, code, remedy) in [
            (
                keys.replace(RELAY_PASSWORD, "S3cret"),
                "ERROR 28P01: ",
                "correct user and password in auth.postgres.url",
            ),
            (
                keys.replace(&format!(":{RELAY_PASSWORD}@"), "@"),
                "it asks for a password: ",
                "write it into auth.postgres.url",
            ),
            (
                keys.replace(&format!("/{name}?"), "/nowhere?"),
                "ERROR 3D000: ",
                "correct the database in auth.postgres.url",
            ),
            (site.keys(", table: gone"), "ERROR 42P01: ", "correct auth.postgres.table"),
            (site.keys(", table: gone.subscriber"), "ERROR 42P01: ", "correct auth.postgres.table"),
            (
                site.keys(", ha1_column: gone"),
                "ERROR 42703: ",
                "correct the names of the columns under auth.postgres",
            ),
            (
                site.keys(", cleartext_passwords: true"),
                "ERROR 42501: ",
                "GRANT the relay's account SELECT on the columns it reads",
            ),
            (
                keys_of::<S>(&format!("postgres://u:S3cret@127.0.0.1:{closed}/d"), PATIENT),
                "Connection refused",
                "see whether it runs, or correct host and port in auth.postgres.url",
            ),
            (
                keys_of::<S>("postgres://u:S3cret@localhost/d?host=/nowhere", PATIENT),
                "No such file",
                "see whether it runs, or correct host and port in auth.postgres.url",
            ),
        ] {
            let line = said(&keys);
            assert!(line.contains(code) && line.contains(remedy), "{keys}\n{line}");
            assert!(!line.contains("S3cret") && !line.contains(RELAY_PASSWORD), "{line}");
        }
        server.limit_connections(name, 0);
        let line = said(&keys);
        assert!(
            line.contains("ERROR 53300: ") && line.contains("lower auth.postgres.connections_max"),
            "{line}"
        );
    });
}

#[test]
fn log_says_what_is_wrong_with_the_tls_of_a_postgres() {
    type S = Postgres;
    bounded(|| {
        let place = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["db.example.net".to_owned()]).unwrap();
        let [certificate, key] = ["crt", "key"].map(|end| place.path().join(format!("own.{end}")));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let server = S::over_tcp(place, Some((&certificate, &key)));
        let site = Database::<S>::new(&server, Proxy::OpenSips);
        let plain = S::over_tcp(tempfile::tempdir().unwrap(), None);
        let clear = Database::<S>::new(&plain, Proxy::OpenSips);
        let ca = format!(", ca: '{}'", certificate.display());
        for (keys, why, remedy) in [
            (
                site.keys_over_tcp("", ""),
                "ERROR 28000: ",
                "write ?sslmode=verify-full behind auth.postgres.url",
            ),
            (
                site.keys_over_tcp(S::TLS, ""),
                "invalid peer certificate: ",
                "name the CA of its certificate in auth.postgres.ca",
            ),
            (site.keys_over_tcp(S::TLS, &ca), "not valid for name", "and the host that it is for"),
            (clear.keys_over_tcp(S::TLS, ""), "it knows no TLS: ", "turn TLS on there"),
        ] {
            let line = said(&keys);
            assert!(line.contains(why) && line.contains(remedy), "{keys}\n{line}");
        }
    });
}
