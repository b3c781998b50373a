//! SIGHUP: the accounts of the present config take effect; clients with sessions do not notice.

use std::fs;
use std::net::SocketAddr;

use tempfile::TempDir;

use super::plain_relay::{Account, config, log_in};
use testkit_net::account::DOMAIN;
use testkit_net::endpoint::Endpoint;
use testkit_net::mariadb::MariaDb;
use testkit_net::postgres::Postgres;
use testkit_net::process::{Process, relay_binary};
use testkit_net::sql::SqlServer as _;
use testkit_net::subscribers::{Database, Proxy};
use testkit_net::{bounded, until};

/// A relay's process with a config that changes.
struct Reloaded {
    process: Process,
    place: TempDir,
}

impl Reloaded {
    fn start(accounts: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("config.yaml"), config(accounts, "")).unwrap();
        Self { process: Process::start(relay_binary(), place.path()), place }
    }

    fn address(&self) -> SocketAddr {
        self.process.addresses[0]
    }

    /// Changes the config and waits for the relay's verdict.
    #[track_caller]
    fn reload(&self, accounts: &str, verdict: &str) {
        fs::write(self.place.path().join("config.yaml"), config(accounts, "")).unwrap();
        self.process.reload(verdict);
    }

    fn log(&self) -> String {
        self.process.log()
    }

    fn status(&self, user: &str, password: &str) -> u16 {
        let mut endpoint = Endpoint::plain(self.address(), "client");
        Account::of(user, password).attempt(&mut endpoint, self.address().port()).status().unwrap()
    }
}

const TAKEN: &str = "The present config is in force";
const REFUSED: &str = "The config is wrong; the old one stays in force";

fn memory(user: &str, password: &str) -> String {
    format!("memory: {{users: [{{user: '{user}@{DOMAIN}', password: '{password}'}}]}}")
}

#[test]
fn sighup_exchanges_the_accounts_and_leaves_sessions_alone() {
    bounded(|| {
        let server = MariaDb::shared();
        let site = Database::<MariaDb>::new(&server, Proxy::OpenSips);
        site.add("carol", DOMAIN, "painter");
        let relay = Reloaded::start(&memory("alice", "wonderland"));
        let mut one = log_in(relay.address(), "alice", "wonderland");
        let mut two = log_in(relay.address(), "alice", "wonderland");
        let mut live = |words: &[u8]| one.chat(&mut two, words);
        live(b"as at the start");

        relay.reload(&memory("bob", "builder"), TAKEN);
        assert_eq!((relay.status("alice", "wonderland"), relay.status("bob", "builder")), (401, 200));
        live(b"without an account");

        // A wrong file changes nothing, and the log says why.
        relay.reload(&(memory("alice", "wonderland") + ", bakend: sqlite"), REFUSED);
        assert!(relay.log().contains("auth.bakend: unknown key: did you mean `backend`?"), "{}", relay.log());
        assert_eq!((relay.status("alice", "wonderland"), relay.status("bob", "builder")), (401, 200));
        live(b"after a slip");

        relay.reload(&site.keys(""), TAKEN);
        assert_eq!((relay.status("bob", "builder"), relay.status("carol", "painter")), (401, 200));
        live(b"from a database");

        // Wrong settings in the right form are accepted: clients are told to try again, until the settings are right.
        relay.reload(&site.keys(", table: no_such_table"), TAKEN);
        assert_eq!(relay.status("carol", "painter"), 408);
        relay.reload(&site.keys(""), TAKEN);
        assert_eq!(relay.status("carol", "painter"), 200);
        live(b"to the end");
        assert!(!relay.log().contains("only-reads") && !relay.log().contains("painter"), "{}", relay.log());
    });
}

// An account that a look-up finds must not become the user whose credential it is called like.
#[test]
fn name_that_a_reload_makes_a_credential_is_not_found_by_a_look_up_under_way() {
    bounded(|| {
        let server = Postgres::start();
        let site = Database::<Postgres>::new(&server, Proxy::OpenSips);
        site.add("5:bob", DOMAIN, "a trap");
        let relay = Reloaded::start(&site.keys(""));
        assert_eq!(relay.status("5:bob", "a trap"), 200);
        let lock = site.lock();
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| relay.status("5:bob", "a trap"));
            let waiting = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE usename = '{}' AND wait_event_type = 'Lock'",
                site.name
            );
            until("the look-up to wait", || (site.run(&waiting).trim() == "1").then_some(()));
            let secrets = ", shared_secrets: [{secret: '0123456789abcdef0123456789abcdef'}]";
            relay.reload(&(site.keys("") + secrets), TAKEN);
            drop(lock);
            assert_eq!(asking.join().unwrap(), 401);
        });
        assert!(!relay.log().contains("Session opened\" user=\"bob\""));
    });
}
