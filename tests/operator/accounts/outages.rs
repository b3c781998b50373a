//! The database goes wrong in every way it can, and what clients, and those who have a session, notice of it.
//!
//! The rule for all: 408 with a comment that says try again, nothing counted, nobody banned; and when the database is
//! well again, the next AUTH works.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::plain_relay::{Account, PlainRelay};
use testkit_net::account::DOMAIN;
use testkit_net::endpoint::Endpoint;
use testkit_net::mariadb::MariaDb;
use testkit_net::subscribers::{Database, PATIENT, Proxy};
use testkit_net::transfer::Outgoing;
use testkit_net::{bounded, contents, until};

/// One failure that counts, and everybody is banned. Time enough for a busy machine.
const STRICT: &str =
    "limits: {auth_failures_per_address_max: 1, auth_failures_per_user_max: 1, lookup_timeout: 60s}";

/// A refusal that is no verdict.
#[track_caller]
fn assert_told_to_try_again(relay: &PlainRelay, login: &Account<'_>) {
    let answer = relay.attempt(login);
    assert_eq!(answer.status(), Some(408), "{answer:?}");
    assert!(answer.head_text().contains("408 Accounts unavailable, try again later"), "{answer:?}");
    assert!(!relay.server.accounts_ready());
}

#[test]
fn a_database_that_is_killed_and_started_again_during_auths_is_told_from_wrong_passwords() {
    bounded(|| {
        let mut server = MariaDb::start(&[]);
        let relay = {
            let site = Database::new(&server, Proxy::OpenSips);
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
                // Who has a session does not notice.
                alice.chat(&mut bob, b"while it is down");
                server.launch();
                // Nobody helps, and nobody is refused once more first.
                assert_eq!(relay.status("user64", "secret of user64"), 200);
                assert!(relay.server.accounts_ready());
            }
            more(&accepted, 50);
        });
        // Nothing was counted; what is wrong still is.
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

/// Waits until something has been counted so many times more.
#[track_caller]
fn more(counter: &AtomicUsize, times: usize) {
    let before = counter.load(Ordering::SeqCst);
    for step in 1..=times {
        until("the next AUTH", || (counter.load(Ordering::SeqCst) >= before + step).then_some(()));
    }
}

// One connection may try as often as it likes, too.
#[test]
fn one_that_keeps_trying_on_its_connection_gets_in_when_the_database_is_there() {
    bounded(|| {
        let mut server = MariaDb::start(&[]);
        let relay = {
            let site = Database::new(&server, Proxy::OpenSips);
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

#[test]
fn a_relay_that_starts_before_its_database_waits_for_it() {
    bounded(|| {
        let mut server = MariaDb::start(&[]);
        let keys = {
            let site = Database::new(&server, Proxy::OpenSips);
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

#[test]
fn a_server_that_accepts_and_never_answers_is_given_up_in_time() {
    bounded(|| {
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = silent.local_addr().unwrap().port();
        let accepting = std::thread::spawn(move || {
            // Nobody must be told by a closed connection. A connection from the test itself ends it.
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
        let keys = format!(
            "backend: mysql, mysql: {{url: 'mysql://relay:pw@127.0.0.1:{port}/site', connect_timeout: 500ms}}"
        );
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

// The connections there are hang in the middle of their work, and new ones are never greeted.
#[test]
fn a_server_that_freezes_and_thaws_is_used_again() {
    bounded(|| {
        let server = MariaDb::start(&[]);
        let site = Database::new(&server, Proxy::OpenSips);
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

// What the pace was is printed (cargo test -- --nocapture); what is asserted is that it goes on.
#[test]
fn a_table_that_is_locked_for_ten_seconds_is_not_felt_by_a_transfer_and_a_chat() {
    bounded(|| {
        let server = MariaDb::start(&[]);
        let site = Database::new(&server, Proxy::OpenSips);
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
            let lock = server.lock(&format!("{}.subscriber", site.name));
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

/// How a chat and a transfer beside it went.
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

/// Converses until `is_enough` of the time spent; meanwhile the file must go on, too.
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

#[test]
fn an_exhausted_pool_refuses_some_and_recovers() {
    bounded(|| {
        let server = MariaDb::start(&[]);
        let site = Database::new(&server, Proxy::OpenSips);
        site.add_many(32);
        let relay = PlainRelay::with(
            &site.keys(", connections_max: 1, connect_timeout: 30s, query_timeout: 30s"),
            &STRICT.replace("60s", "4s"),
        );
        // On a busy machine a look-up may take longer than it may here: what is looked up in the end is the claim.
        let gets_in = |n: usize| {
            let user = format!("user{n}");
            until("the connection to be free", || {
                (relay.status(&user, &format!("secret of {user}")) == 200).then_some(())
            });
        };
        gets_in(1);
        let lock = server.lock(&format!("{}.subscriber", site.name));
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

// The relay is allowed fewer connections than it would take: it does with those.
#[test]
fn a_server_that_refuses_further_connections_is_used_by_those_there_are() {
    bounded(|| {
        let server = MariaDb::start(&[]);
        let site = Database::new(&server, Proxy::OpenSips);
        site.add_many(64);
        server.run(&format!("ALTER USER '{}'@'%' WITH MAX_USER_CONNECTIONS 2", site.name));
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

#[test]
fn a_wrong_password_of_the_relays_own_account_is_not_a_wrong_password_of_the_users() {
    bounded(|| {
        let server = MariaDb::shared();
        let site = Database::new(&server, Proxy::OpenSips);
        site.add("alice", DOMAIN, "wonderland");
        let name = &site.name;
        server.run(&format!("SET PASSWORD FOR '{name}'@'%' = PASSWORD('another')"));
        let relay = PlainRelay::with(&site.keys(""), STRICT);
        assert_told_to_try_again(&relay, &Account::of("alice", "wonderland"));
        server.run(&format!("SET PASSWORD FOR '{name}'@'%' = PASSWORD('only-reads')"));
        assert_eq!(relay.status("alice", "wonderland"), 200);
        // What was granted is taken back while the relay holds a connection; then the table goes.
        for (wrong, right) in [
            (
                format!("REVOKE SELECT (ha1) ON {name}.subscriber FROM '{name}'@'%'"),
                format!("GRANT SELECT (ha1) ON {name}.subscriber TO '{name}'@'%'"),
            ),
            (
                format!("RENAME TABLE {name}.subscriber TO {name}.gone"),
                format!("RENAME TABLE {name}.gone TO {name}.subscriber"),
            ),
        ] {
            server.run(&wrong);
            assert_told_to_try_again(&relay, &Account::of("alice", "wonderland"));
            server.run(&right);
            assert_eq!(relay.status("alice", "wonderland"), 200);
        }
    });
}

// Connections that were idle for long are closed by the server; whoever comes next must not notice.
#[test]
fn connections_that_the_server_has_closed_meanwhile_are_made_again() {
    bounded(|| {
        let server = MariaDb::start(&[]);
        let site = Database::new(&server, Proxy::OpenSips);
        site.add_many(8);
        let relay = PlainRelay::with(&site.keys(""), STRICT);
        at_once(8, |n| {
            let user = format!("user{}", n + 1);
            assert_eq!(relay.status(&user, &format!("secret of {user}")), 200);
        });
        for _ in 0..3 {
            server.run(&format!("KILL USER '{}'@'%'", site.name));
            assert_eq!(relay.status("user1", "secret of user1"), 200);
            assert!(relay.server.accounts_ready());
        }
    });
}

#[test]
fn tls_is_used_where_the_server_insists_on_it_and_its_certificate_is_checked() {
    bounded(|| {
        let place = tempfile::tempdir().unwrap();
        let pair = |name: &str, host: &str| {
            let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
            std::fs::write(place.path().join(format!("{name}.crt")), made.cert.pem()).unwrap();
            std::fs::write(place.path().join(format!("{name}.key")), made.signing_key.serialize_pem())
                .unwrap();
            place.path().join(name).display().to_string()
        };
        let (own, other) = (pair("own", "127.0.0.1"), pair("other", "127.0.0.1"));
        let options = [
            format!("--ssl-cert={own}.crt"),
            format!("--ssl-key={own}.key"),
            "--require-secure-transport=ON".to_owned(),
        ];
        let server = MariaDb::over_tcp(place, &options);
        let site = Database::new(&server, Proxy::OpenSips);
        site.add("alice", DOMAIN, "wonderland");
        let login = Account::of("alice", "wonderland");
        let relay = |options: &str, more: &str| {
            let url = site.url_over_tcp(options);
            PlainRelay::with(&format!("backend: mysql, mysql: {{url: '{url}'{PATIENT}{more}}}"), STRICT)
        };
        let verified = relay("?require_ssl=true", &format!(", ca: '{own}.crt'"));
        assert_eq!(verified.attempt(&login).status(), Some(200));
        assert!(site.run("SHOW STATUS LIKE 'Ssl_accepts'").trim_end().ends_with(char::is_numeric));
        assert_told_to_try_again(&relay("", ""), &login);
        assert_told_to_try_again(&relay("?require_ssl=true", &format!(", ca: '{other}.crt'")), &login);
        assert_told_to_try_again(&relay("?require_ssl=true", ""), &login);
        let trusting = relay("?require_ssl=true&verify_ca=false&verify_identity=false", "");
        assert_eq!(trusting.attempt(&login).status(), Some(200));
        // A server without TLS is not talked to in clear.
        let plain = MariaDb::over_tcp(tempfile::tempdir().unwrap(), &["--skip-ssl".to_owned()]);
        let site = Database::new(&plain, Proxy::OpenSips);
        site.add("alice", DOMAIN, "wonderland");
        let url = site.url_over_tcp("?require_ssl=true");
        let relay = PlainRelay::with(&format!("backend: mysql, mysql: {{url: '{url}'{PATIENT}}}"), STRICT);
        assert_told_to_try_again(&relay, &login);
        let url = site.url_over_tcp("");
        let relay = PlainRelay::with(&format!("backend: mysql, mysql: {{url: '{url}'{PATIENT}}}"), STRICT);
        assert_eq!(relay.attempt(&login).status(), Some(200));
    });
}

// More who ask than may wait: the rest is refused at once, and the relay holds no more than it may.
#[test]
fn a_flood_of_look_ups_while_nothing_moves_is_bounded() {
    bounded(|| {
        let server = MariaDb::start(&[]);
        let site = Database::new(&server, Proxy::OpenSips);
        site.add_many(1);
        let relay = Arc::new(PlainRelay::with(
            &site.keys(", connections_max: 1, query_timeout: 2s"),
            "limits: {lookups_waiting_max: 16, unauthenticated_per_address_max: 1000}",
        ));
        assert_eq!(relay.status("user1", "secret of user1"), 200);
        let lock = server.lock(&format!("{}.subscriber", site.name));
        at_once(400, |n| assert_eq!(relay.status(&format!("stranger{n}"), "x"), 408));
        let limits: Vec<_> =
            relay.server.counters()[0].limits_reached().filter(|(_, times)| *times > 0).collect();
        drop(lock);
        until("the relay to find its database", || relay.server.accounts_ready().then_some(()));
        assert_eq!(relay.status("user1", "secret of user1"), 200, "{limits:?}");
    });
}
