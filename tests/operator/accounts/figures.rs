//! The speed of each backend. Not a test: it prints figures, and needs the machine for itself.
//!
//! `cargo test --profile demo --test operator -- --ignored --nocapture --test-threads 1 accounts::figures`

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use msrprelay::config::{SecretAlgorithm, SharedSecret};
use msrprelay::control::SharedSecrets;

use super::plain_relay::{Account, PlainRelay};
use testkit_net::bounded;
use testkit_net::endpoint::Endpoint;
use testkit_net::mariadb::MariaDb;
use testkit_net::postgres::Postgres;
use testkit_net::sql::SqlServer;
use testkit_net::subscribers::{Database, Proxy};

/// How many authenticate at the same time, and for how long.
const CLIENTS: usize = 64;
const TIME: Duration = Duration::from_secs(5);

#[test]
#[ignore = "prints figures; takes the whole machine"]
fn figures_of_each_backend_at_64_clients() {
    bounded(|| {
        let users: Vec<_> = (1..=CLIENTS)
            .map(|n| format!("{{user: 'user{n}@example.com', password: 'secret of user{n}'}}"))
            .collect();
        let memory = format!("memory: {{users: [{}]}}", users.join(", "));
        measure("memory", &memory);

        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("accounts.db");
        let file = msrprelay::control::UserFile::open_or_make(&path).unwrap();
        for n in 1..=CLIENTS {
            let user = msrprelay::control::User { name: format!("user{n}"), realm: "example.com".to_owned() };
            file.add(&user, &format!("secret of user{n}")).unwrap();
        }
        measure("sqlite", &format!("backend: sqlite, sqlite: {{path: '{}'}}", path.display()));

        let secret = "0123456789abcdef0123456789abcdef";
        let keys = format!("shared_secrets: [{{secret: '{secret}'}}]");
        let ttl_max = Duration::from_secs(86_400);
        let settings = SharedSecret {
            secret: secret.to_owned(),
            algorithm: SecretAlgorithm::Sha1,
            ttl_max,
            without_user: false,
        };
        let secrets = SharedSecrets::new(&[settings]);
        measure_with("shared secret", &keys, &|user| {
            let made = secrets.sign(user, Duration::from_secs(3600), SystemTime::now()).unwrap();
            (made.username, made.password)
        });
        measure_database::<MariaDb>();
        measure_database::<Postgres>();
    });
}

fn measure_database<S: SqlServer>() {
    let server = S::start_large();
    let site = Database::<S>::new(&server, Proxy::OpenSips);
    site.add_many(100_000);
    measure(&format!("{}, 100,000 subscribers", S::BACKEND), &site.keys(""));
    measure(&format!("{}, remembered", S::BACKEND), &(site.keys("") + ", cache: 1h"));
}

/// What a data core's thread waits in, sampled a thousand times a second while every look-up hangs.
#[test]
#[ignore = "prints figures; takes the whole machine"]
fn figures_of_what_a_data_core_waits_in() {
    bounded(|| {
        let server = MariaDb::start();
        let site = Database::new(&server, Proxy::OpenSips);
        site.add_many(CLIENTS);
        let relay = PlainRelay::start(&site.keys_as_they_are(""));
        assert_eq!(relay.status("user1", "secret of user1"), 200);
        let lock = site.lock();
        let began = Instant::now();
        let refused = AtomicUsize::new(0);
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        std::thread::scope(|scope| {
            for n in 1..=CLIENTS {
                let (relay, refused) = (&relay, &refused);
                scope.spawn(move || {
                    while began.elapsed() < TIME {
                        assert_eq!(relay.status(&format!("user{n}"), &format!("secret of user{n}")), 408);
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let core = tasks().find(|(name, _)| name == "core-0").unwrap().1;
            while began.elapsed() < TIME {
                let call = fs::read_to_string(core.join("syscall")).unwrap_or_default();
                let number = call.split_whitespace().next().unwrap_or_default().to_owned();
                *seen.entry(number).or_default() += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        drop(lock);
        println!(
            "{} AUTHs refused; the core was seen in (426 is io_uring_enter): {seen:?}",
            refused.into_inner()
        );
    });
}

fn measure(what: &str, accounts: &str) {
    measure_with(what, accounts, &|user| (user.to_owned(), format!("secret of {user}")));
}

/// `login` says what name and password a user logs in with.
fn measure_with(what: &str, accounts: &str, login: &(dyn Fn(&str) -> (String, String) + Sync)) {
    let relay = PlainRelay::start(accounts);
    let done = AtomicUsize::new(0);
    let before = threads();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let (relay, done) = (&relay, &done);
        for n in 1..=CLIENTS {
            scope.spawn(move || {
                let user = format!("user{n}");
                let (name, password) = login(&user);
                let mut connection = Endpoint::plain(relay.address, &user);
                let mut uses = 0;
                while began.elapsed() < TIME {
                    // A connection may have two URIs: then the next connection.
                    if uses == 2 {
                        connection = Endpoint::plain(relay.address, &user);
                        uses = 0;
                    }
                    let answer = Account::of(&name, &password).attempt(&mut connection, relay.address.port());
                    assert_eq!(answer.status(), Some(200), "{answer:?}");
                    uses += 1;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let (seconds, done) = (began.elapsed().as_secs_f64(), done.into_inner());
    let after = threads();
    let spent = |name: &str| {
        let of = |threads: &[(String, f64)]| -> f64 {
            threads.iter().filter(|(thread, _)| thread == name).map(|(_, cpu)| cpu).sum()
        };
        (of(&after) - of(&before)) * 1e6 / done as f64
    };
    println!(
        "{what:28} {:6.0} AUTH/s; CPU of each: core {:.0} us, control {:.0} us, accounts {:.0} us",
        done as f64 / seconds,
        spent("core-0"),
        spent("control"),
        spent("accounts")
    );
}

/// Name and CPU seconds of each thread of this process.
fn threads() -> Vec<(String, f64)> {
    let cpu = |(name, task): (String, PathBuf)| {
        // Nanoseconds on a CPU come first.
        let run = fs::read_to_string(task.join("schedstat")).ok()?;
        let nanoseconds: f64 = run.split(' ').next()?.parse().ok()?;
        Some((name, nanoseconds / 1e9))
    };
    tasks().filter_map(cpu).collect()
}

/// The threads of this process.
fn tasks() -> impl Iterator<Item = (String, PathBuf)> {
    let named = |task: std::io::Result<fs::DirEntry>| {
        let path = task.ok()?.path();
        let name = fs::read_to_string(path.join("comm")).ok()?;
        Some((name.trim().to_owned(), path))
    };
    fs::read_dir("/proc/self/task").unwrap().filter_map(named)
}
