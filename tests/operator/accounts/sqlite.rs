//! Accounts in a file of our own, managed by other processes while the relay reads them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use msrp_proto::digest::Algorithm;
use tempfile::TempDir;

use super::plain_relay::{Account, PlainRelay};
use testkit_net::process::relay_binary;
use testkit_net::{bounded, until};

/// A look-up may take longer than the four seconds for which a locked file is waited for.
const PATIENT: &str = "limits: {lookup_timeout: 60s}";

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("accounts.db")
    }

    fn keys(&self) -> String {
        format!("backend: sqlite, sqlite: {{path: '{}'}}", self.file().display())
    }

    /// Runs `msrprelay user`, with a standard input that is no terminal.
    fn user(&self, arguments: &[&str], password: &str) -> Output {
        let mut command = Command::new(relay_binary());
        command.arg("user").args(arguments).arg("--database").arg(self.file());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that needs no password does not read it.
        let _ = child.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes());
        child.wait_with_output().unwrap()
    }

    #[track_caller]
    fn manage(&self, arguments: &[&str], password: &str) -> String {
        let output = self.user(arguments, password);
        assert!(output.status.success(), "{arguments:?}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn refuse(&self, arguments: &[&str], password: &str) -> String {
        let output = self.user(arguments, password);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

#[test]
fn users_are_managed_by_another_process_while_the_relay_runs() {
    bounded(|| {
        let place = Place::new();
        place.manage(&["add", "alice@example.com"], "wonderland");
        let relay = PlainRelay::with(&(place.keys() + ", algorithms: [sha-256, md5]"), PATIENT);
        let sha256 = Account { algorithm: Algorithm::Sha256, ..Account::of("alice", "wonderland") };
        assert_eq!(relay.status("alice", "wonderland"), 200);
        assert_eq!(relay.attempt(&sha256).status(), Some(200));
        assert!(relay.server.accounts_ready());
        for (user, password) in [("Alice", "wonderland"), ("alice", "x"), ("bob", "builder")] {
            assert_eq!(relay.status(user, password), 401);
        }
        let elsewhere = Account { domain: "example.org", ..Account::of("alice", "wonderland") };
        assert_eq!(relay.attempt(&elsewhere).status(), Some(401));

        place.manage(&["add", "bob@Example.COM"], "builder");
        assert_eq!(relay.status("bob", "builder"), 200);
        place.manage(&["passwd", "alice@example.com"], "looking-glass");
        assert_eq!(relay.status("alice", "wonderland"), 401);
        assert_eq!(relay.status("alice", "looking-glass"), 200);
        assert_eq!(place.manage(&["list"], ""), "alice@example.com\nbob@example.com\n");
        place.manage(&["remove", "bob@example.com"], "");
        assert_eq!(relay.status("bob", "builder"), 401);
        assert_eq!(place.manage(&["list"], ""), "alice@example.com\n");
    });
}

#[test]
fn passwords_are_nowhere_in_the_file_and_the_file_is_its_owners_alone() {
    bounded(|| {
        let place = Place::new();
        place.manage(&["add", "alice@example.com"], "wonderland-1234");
        place.manage(&["passwd", "alice@example.com"], "looking-glass-5678");
        let bytes = fs::read(place.file()).unwrap();
        for password in ["wonderland", "looking-glass"] {
            assert!(!bytes.windows(password.len()).any(|part| part == password.as_bytes()));
        }
        let mode = fs::metadata(place.file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // Nothing is left beside it.
        assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 1);
    });
}

#[test]
fn what_cannot_be_done_is_refused_with_a_reason() {
    bounded(|| {
        let place = Place::new();
        assert!(place.refuse(&["list"], "").contains("no such file"));
        assert!(place.refuse(&["remove", "alice@example.com"], "").contains("no such file"));
        for (arguments, password, reason) in [
            (&["add", "alice"][..], "x", "has no domain"),
            (&["add", "@example.com"], "x", "is not a user"),
            (&["add", "a:b@example.com"], "x", "is not a user"),
            (&["add", "alice smith@example.com"], "x", "holds ' ', which no user's name has"),
            (&["add", "alice@example com"], "x", "holds ' ', which no user's name has"),
            (&["add", " alice@example.com"], "x", "holds ' '"),
            (&["add", "<alice@example.com>"], "x", "holds '<'"),
            (&["add", "al\u{200b}ice@example.com"], "x", "which no user's name has"),
            (&["add", "alice@example.com"], "", "the password is empty"),
            (&["add", "alice@example.com", "--realm", "example.org"], "x", "is not of the realm example.org"),
        ] {
            let refusal = place.refuse(arguments, password);
            assert!(refusal.contains(reason), "{refusal}");
        }
        assert!(!place.file().exists());
        place.manage(&["add", "alice", "--realm", "example.com"], "x");
        assert_eq!(place.manage(&["list"], ""), "alice@example.com\n");
    });
}

#[test]
fn what_is_done_is_confirmed_with_the_user_that_is_meant() {
    bounded(|| {
        let place = Place::new();
        let added = place.manage(&["add", "alice@Example.COM"], "x");
        assert_eq!(added, format!("alice@example.com is added to {}\n", place.file().display()));
        let changed = place.manage(&["passwd", "alice@example.com"], "y");
        assert_eq!(changed, "alice@example.com has another password\n");
        let removed = place.manage(&["remove", "alice@example.com"], "");
        assert!(removed.starts_with("alice@example.com is removed"), "{removed}");
    });
}

// Whatever a writer does, a look-up finds the account as it was before or as it is after.
#[test]
fn auths_go_on_while_users_come_and_go() {
    bounded(|| {
        let place = Place::new();
        place.manage(&["add", "alice@example.com"], "wonderland");
        let relay = PlainRelay::with(&place.keys(), PATIENT);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (place, done) = (&place, &done);
            for writer in 0..2 {
                scope.spawn(move || {
                    for n in 0..5 {
                        let user = format!("user{writer}-{n}@example.com");
                        place.manage(&["add", &user], "x");
                        place.manage(&["passwd", &user], "y");
                        place.manage(&["remove", &user], "");
                    }
                    done.store(true, std::sync::atomic::Ordering::SeqCst);
                });
            }
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                assert_eq!(relay.status("alice", "wonderland"), 200);
            }
        });
        assert_eq!(place.manage(&["list"], ""), "alice@example.com\n");
    });
}

#[test]
fn a_file_that_cannot_be_read_is_an_outage_and_its_return_is_noticed() {
    bounded(|| {
        let place = Place::new();
        let limits = "limits: {auth_failures_per_address_max: 1, lookup_timeout: 60s}";
        let relay = PlainRelay::with(&place.keys(), limits);
        let aside = place.0.path().join("aside.db");
        let unavailable = |why: &str| {
            assert_eq!(relay.status("alice", "wonderland"), 408, "{why}");
            assert!(!relay.server.accounts_ready());
        };
        let available = || {
            assert_eq!(relay.status("alice", "wonderland"), 200);
            assert!(relay.server.accounts_ready());
        };
        unavailable("not there yet");
        place.manage(&["add", "alice@example.com"], "wonderland");
        available();
        fs::rename(place.file(), &aside).unwrap();
        unavailable("gone");
        fs::write(place.file(), "not a database at all, but long enough to look like one").unwrap();
        unavailable("something else");
        rusqlite::Connection::open(place.file().with_extension("other"))
            .unwrap()
            .execute_batch("CREATE TABLE x (y)")
            .unwrap();
        fs::rename(place.file().with_extension("other"), place.file()).unwrap();
        unavailable("a database, but not ours");
        fs::rename(&aside, place.file()).unwrap();
        available();
        let writer = rusqlite::Connection::open(place.file()).unwrap();
        writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
        unavailable("locked");
        writer.execute_batch("COMMIT").unwrap();
        available();
    });
}

#[test]
fn the_config_names_file_and_realm() {
    bounded(|| {
        let place = Place::new();
        let config = place.0.path().join("config.yaml");
        let with = |arguments: &[&str], password: &str| {
            let mut command = Command::new(relay_binary());
            command.arg("user").args(arguments).arg("--config").arg(&config);
            let mut child =
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let _ = child.stdin.take().unwrap().write_all(password.as_bytes());
            let output = child.wait_with_output().unwrap();
            (output.status.success(), String::from_utf8(output.stdout).unwrap())
        };
        let text = |backend: &str| {
            format!(
                "listen: [{{address: '127.0.0.1:0', tls: false}}]\nhostname: relay.example.test\nrealm: Example.com\n\
                 auth: {{backend: {backend}, insecure_plain: true, sqlite: {{path: accounts.db}}}}\n"
            )
        };
        fs::write(&config, text("memory")).unwrap();
        assert!(!with(&["add", "alice"], "wonderland").0);
        fs::write(&config, text("sqlite")).unwrap();
        assert!(with(&["add", "alice"], "wonderland").0);
        assert!(!with(&["add", "alice@example.com"], "wonderland").0, "the same user");
        assert!(!with(&["add", "bob@example.org"], "builder").0, "another realm");
        assert_eq!(with(&["list"], ""), (true, "alice@Example.com\n".to_owned()));
        let relay = msrprelay::config::Config::load(&config).unwrap();
        let server = msrprelay::runtime::server::Server::start(relay).unwrap();
        let relay = PlainRelay { address: server.addresses()[0].0, server };
        assert_eq!(relay.status("alice", "wonderland"), 200);
        until("the file to be there", || Path::exists(&place.file()).then_some(()));
    });
}

// Req S9: during an outage, a guess at a remembered account must get the answer of an unknown one, or the outage would
// show who exists.
#[test]
fn while_the_file_is_away_guesses_are_answered_alike_and_who_is_remembered_gets_in() {
    bounded(|| {
        let place = Place::new();
        place.manage(&["add", "alice@example.com"], "wonderland");
        place.manage(&["add", "bob@example.com"], "builder");
        let relay = PlainRelay::with(&(place.keys() + ", cache: 1h"), PATIENT);
        assert_eq!(relay.status("alice", "wonderland"), 200);
        let away = place.0.path().join("away");
        fs::rename(place.file(), &away).unwrap();
        for user in ["alice", "bob", "absent"] {
            assert_eq!(relay.status(user, "guess"), 408, "{user}");
        }
        assert_eq!(relay.status("alice", "wonderland"), 200);
        fs::rename(&away, place.file()).unwrap();
        // The new password counts at once, though the old one is remembered.
        place.manage(&["passwd", "alice@example.com"], "looking-glass");
        assert_eq!(relay.status("alice", "looking-glass"), 200);
        assert_eq!(relay.status("alice", "guess"), 401);
    });
}
