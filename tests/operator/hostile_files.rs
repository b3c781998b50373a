//! Other users plant links, FIFOs and directories where the programs write: nothing is written through them, and root
//! gives nothing away in another user's directory.
use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;
use testkit_net::process::is_root;

const MSRPRELAY: &str = env!("CARGO_BIN_EXE_msrprelay");
const MSRP: &str = env!("CARGO_BIN_EXE_msrp");
/// The relay's user, without an account.
const RELAY: u32 = 64998;

/// A directory that every user may enter, with a directory of the relay's user in it, and a file of root's that no
/// other user may change.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::set_permissions(place.0.path(), Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(place.at("state")).unwrap();
        fs::set_permissions(place.at("state"), Permissions::from_mode(0o700)).unwrap();
        fs::write(place.at("victim"), "mine").unwrap();
        fs::set_permissions(place.at("victim"), Permissions::from_mode(0o640)).unwrap();
        place
    }

    /// The same, where the relay's files belong to its user.
    fn of_the_relay() -> Self {
        let place = Self::new();
        chown(place.at("state"), Some(RELAY), Some(RELAY)).unwrap();
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn user(&self, arguments: &[&str], file: &str) -> Output {
        let mut command = Command::new(MSRPRELAY);
        command.arg("user").args(arguments).arg("--database").arg(self.at(file));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(b"secret\n");
        child.wait_with_output().unwrap()
    }

    #[track_caller]
    fn is_unharmed(&self) {
        let victim = fs::symlink_metadata(self.at("victim")).unwrap();
        assert_eq!((victim.uid(), victim.mode() & 0o7777), (if is_root() { 0 } else { victim.uid() }, 0o640));
        assert_eq!(fs::read_to_string(self.at("victim")).unwrap(), "mine");
    }
}

/// Plants something in the place of a file; `at` is its path.
fn plant(what: &str, place: &Place, at: &Path) {
    match what {
        "link" => symlink(place.at("victim"), at).unwrap(),
        "dangling link" => symlink(place.at("elsewhere"), at).unwrap(),
        "hard link" => fs::hard_link(place.at("victim"), at).unwrap(),
        "FIFO" => assert!(Command::new("mkfifo").arg(at).status().unwrap().success()),
        _ => fs::create_dir(at).unwrap(),
    }
}

const PLANTS: [&str; 5] = ["link", "dangling link", "hard link", "FIFO", "directory"];

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn root_adding_a_user_becomes_the_owner_of_the_directory() {
    if !is_root() {
        return println!("skipped: not root");
    }
    let place = Place::of_the_relay();
    let added = place.user(&["add", "alice@example.com"], "state/accounts.db");
    assert!(added.status.success(), "{}", told(&added));
    let made = fs::metadata(place.at("state/accounts.db")).unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o777), (RELAY, RELAY, 0o600));
    assert_eq!(fs::read_dir(place.at("state")).unwrap().count(), 1);
    // A database of root's: root would write to it, the relay's user may not.
    let added = place.user(&["add", "root@example.com"], "roots.db");
    assert!(added.status.success(), "{}", told(&added));
    let before = fs::read(place.at("roots.db")).unwrap();
    symlink(place.at("roots.db"), place.at("state/planted.db")).unwrap();
    for arguments in [&["add", "eve@example.com"][..], &["passwd", "root@example.com"], &["list"]] {
        let output = place.user(arguments, "state/planted.db");
        assert!(!output.status.success(), "{arguments:?}");
    }
    assert_eq!(fs::read(place.at("roots.db")).unwrap(), before);
    assert_eq!(fs::metadata(place.at("roots.db")).unwrap().uid(), 0);
}

/// The relay's user watches its directory, and puts a link in the place of every file that appears.
#[test]
fn a_link_planted_while_root_makes_the_accounts_gives_nothing_away() {
    if !is_root() {
        return println!("skipped: not root");
    }
    for _ in 0..20 {
        let place = Place::of_the_relay();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    for found in fs::read_dir(place.at("state")).unwrap().flatten() {
                        if !found.file_name().to_string_lossy().contains("journal") {
                            let _ = symlink(place.at("victim"), place.at("state/link"));
                            let _ = fs::rename(place.at("state/link"), found.path());
                        }
                    }
                }
            });
            let _ = place.user(&["add", "alice@example.com"], "state/accounts.db");
            over.store(true, Ordering::SeqCst);
        });
        place.is_unharmed();
    }
}

#[test]
fn root_does_not_keep_accounts_where_anybody_plants_files() {
    if !is_root() {
        return println!("skipped: not root");
    }
    let place = Place::new();
    fs::set_permissions(place.at("state"), Permissions::from_mode(0o1777)).unwrap();
    let output = place.user(&["add", "alice@example.com"], "state/accounts.db");
    assert!(!output.status.success() && told(&output).contains("chown the directory"), "{}", told(&output));
    assert_eq!(fs::read_dir(place.at("state")).unwrap().count(), 0);
}

/// `msrp receive` announces its path, in a file too, and is stopped.
fn announce(place: &Place, file: &Path) -> String {
    let mut command = Command::new(MSRP);
    command.args(["receive", "--listen", "127.0.0.1:0", "--plain", "--path-file"]).arg(file);
    command.arg("--out").arg(place.0.path()).args(["--timeout", "20s"]);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut path = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut path).unwrap();
    // It may have ended: then the path is empty.
    let _ = child.kill();
    let _ = child.wait();
    path
}

#[test]
fn path_file_is_its_owners_alone_and_written_through_nothing_that_was_planted() {
    let place = Place::new();
    for what in PLANTS {
        for at in ["path", "path.partial"] {
            plant(what, &place, &place.at(at));
            let path = announce(&place, &place.at("path"));
            place.is_unharmed();
            assert!(!place.at("elsewhere").exists(), "{what} at {at}");
            if what == "directory" && at == "path" {
                assert_eq!(path, "");
                fs::remove_dir(place.at("path")).unwrap();
                continue;
            }
            let file = fs::symlink_metadata(place.at("path")).unwrap();
            assert!(file.is_file() && file.mode() & 0o777 == 0o600, "{what} at {at}");
            assert_eq!(fs::read_to_string(place.at("path")).unwrap(), path);
            fs::remove_file(place.at("path")).unwrap();
            let _ = fs::remove_file(place.at(at));
            let _ = fs::remove_dir(place.at(at));
        }
    }
}

#[test]
fn man_pages_are_written_through_nothing_that_was_planted() {
    for (binary, page) in [(MSRP, "man/man1/msrp.1"), (MSRPRELAY, "man/man8/msrprelay.8")] {
        for what in ["link", "dangling link", "hard link", "FIFO"] {
            let place = Place::new();
            let page = place.at("state").join(page);
            fs::create_dir_all(page.parent().unwrap()).unwrap();
            plant(what, &place, &page);
            let mut child = Command::new(binary).arg("documents").arg(place.at("state")).spawn().unwrap();
            assert!(ended(&mut child), "{what}");
            place.is_unharmed();
            assert!(!place.at("elsewhere").exists());
            assert!(fs::symlink_metadata(&page).unwrap().is_file(), "{what}");
        }
    }
}

/// Whether the child ends well within a generous time.
fn ended(child: &mut std::process::Child) -> bool {
    for _ in 0..6000 {
        if let Some(status) = child.try_wait().unwrap() {
            return status.success();
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

#[test]
fn an_imported_config_replaces_nothing() {
    for what in PLANTS {
        let place = Place::new();
        fs::write(place.at("config.ini"), "[Relay]\nhostname = relay.example.com\n").unwrap();
        plant(what, &place, &place.at("config.yaml"));
        let output = Command::new(MSRPRELAY)
            .arg("import-config")
            .arg(place.at("config.ini"))
            .arg("--out")
            .arg(place.at("config.yaml"))
            .output()
            .unwrap();
        assert!(told(&output).contains("is there already"), "{what}: {}", told(&output));
        place.is_unharmed();
        assert!(!place.at("elsewhere").exists());
    }
}

/// Slow versions of `chmod` and `cat`, and a user who exploits them: when they run, the file is another one.
#[test]
fn gen_cert_changes_the_mode_of_no_file_by_its_name() {
    if Command::new("openssl").arg("version").output().is_err() {
        return println!("skipped: no openssl here");
    }
    let place = Place::new();
    fs::create_dir(place.at("bin")).unwrap();
    let shim = format!(
        "#!/bin/sh\nfor last; do :; done\ncase $last in */state/*.crt | */state/*.key) rm -f \"$last\"; \
         ln -s '{}' \"$last\" ;; esac\nexec /bin/chmod \"$@\"\n",
        place.at("victim").display()
    );
    fs::write(place.at("bin/chmod"), shim).unwrap();
    fs::set_permissions(place.at("bin/chmod"), Permissions::from_mode(0o755)).unwrap();
    let run = |host: &str, more: &[&str]| {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/gen-cert.sh"));
        let path = format!("{}:{}", place.at("bin").display(), std::env::var("PATH").unwrap());
        command.arg(host).arg("--out").arg(place.at("state")).args(more).env("PATH", path).output().unwrap()
    };
    let ca = place.at("state/ca");
    let output = run("relay.example.com", &["--ca", ca.to_str().unwrap()]);
    assert!(output.status.success(), "{}", told(&output));
    place.is_unharmed();
    for (name, mode) in
        [("relay.example.com.crt", 0o644), ("relay.example.com.key", 0o600), ("ca/ca.key", 0o600)]
    {
        let made = fs::symlink_metadata(place.at("state").join(name)).unwrap();
        assert!(made.is_file() && made.mode() & 0o777 == mode && made.nlink() == 1, "{name}");
    }
    assert_eq!(fs::metadata(&ca).unwrap().mode() & 0o777, 0o700, "the CA's directory");
    assert_eq!(fs::read_dir(place.at("state")).unwrap().count(), 3, "nothing is left behind");
    for what in PLANTS {
        for name in ["a.example.com.key", "a.example.com.crt"] {
            let path = place.at("state").join(name);
            plant(what, &place, &path);
            let output = run("a.example.com", &[]);
            assert!(!output.status.success(), "{what} at {name}");
            place.is_unharmed();
            assert!(!place.at("elsewhere").exists());
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir(&path);
            let _ = fs::remove_file(place.at("state/a.example.com.key"));
        }
    }
}
