//! SIGHUP: the accounts are taken from the config as it is now; nobody who has a session notices.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::mariadb::{MariaDb, patiently};
use crate::schemas::{DOMAIN, Database, Proxy};
use crate::stage::{Login, config, converse, log_in};
use crate::support::bounded;
use crate::support::endpoint::Endpoint;
use crate::support::process::BINARY;

/// The real binary with a config that changes; ends with the test.
struct Process {
    child: Child,
    address: SocketAddr,
    place: TempDir,
}

impl Process {
    fn start(accounts: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::write(path("config.yaml"), config(accounts, "")).unwrap();
        let mut command = Command::new(BINARY);
        command.arg("--config").arg(path("config.yaml")).arg("--ready-file").arg(path("ready"));
        let mut child =
            command.stdin(Stdio::null()).stderr(File::create(path("log")).unwrap()).spawn().unwrap();
        let ready = patiently("the relay to be ready", || {
            assert_eq!(child.try_wait().unwrap(), None, "{}", fs::read_to_string(path("log")).unwrap());
            fs::read_to_string(path("ready")).ok()
        });
        Self { child, address: ready.trim().parse().unwrap(), place }
    }

    /// Exchanges the config and waits until the relay has said what it makes of it.
    #[track_caller]
    fn reload(&self, accounts: &str, verdict: &str) {
        let said = self.log().matches(verdict).count();
        fs::write(self.place.path().join("config.yaml"), config(accounts, "")).unwrap();
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
        patiently(verdict, || (self.log().matches(verdict).count() > said).then_some(()));
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.path().join("log")).unwrap()
    }

    fn status(&self, user: &str, password: &str) -> u16 {
        let mut endpoint = Endpoint::plain(self.address, "client");
        Login::of(user, password).attempt(&mut endpoint, self.address.port()).status().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const TAKEN: &str = "The config as it is now is in force";
const REFUSED: &str = "The config is wrong and is not taken";

fn memory(user: &str, password: &str) -> String {
    format!("memory: {{users: [{{user: '{user}@{DOMAIN}', password: '{password}'}}]}}")
}

#[test]
fn sighup_exchanges_the_accounts_and_leaves_sessions_alone() {
    bounded(|| {
        let server = MariaDb::shared();
        let site = Database::new(&server, Proxy::OpenSips);
        site.add("carol", DOMAIN, "painter");
        let relay = Process::start(&memory("alice", "wonderland"));
        let mut one = log_in(relay.address, "alice", "wonderland");
        let mut two = log_in(relay.address, "alice", "wonderland");
        let mut live = |words: &[u8]| converse(&mut one, &mut two, words);
        live(b"as at the start");

        relay.reload(&memory("bob", "builder"), TAKEN);
        assert_eq!((relay.status("alice", "wonderland"), relay.status("bob", "builder")), (401, 200));
        live(b"without an account");

        // A file that is wrong changes nothing, and the log says why.
        relay.reload(&(memory("alice", "wonderland") + ", bakend: sqlite"), REFUSED);
        assert!(relay.log().contains("auth.bakend: unknown key: did you mean `backend`?"), "{}", relay.log());
        assert_eq!((relay.status("alice", "wonderland"), relay.status("bob", "builder")), (401, 200));
        live(b"after a slip");

        relay.reload(&site.keys(""), TAKEN);
        assert_eq!((relay.status("bob", "builder"), relay.status("carol", "painter")), (401, 200));
        live(b"from a database");

        // Wrong settings that are well written are taken: clients are told to try again, until they are right.
        relay.reload(&site.keys(", table: no_such_table"), TAKEN);
        assert_eq!(relay.status("carol", "painter"), 408);
        relay.reload(&site.keys(""), TAKEN);
        assert_eq!(relay.status("carol", "painter"), 200);
        live(b"to the end");
        assert!(!relay.log().contains("only-reads") && !relay.log().contains("painter"), "{}", relay.log());
    });
}
