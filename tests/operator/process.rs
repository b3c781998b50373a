//! The server as an operator starts and stops it: exit status, one clear line, an orderly end.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use testkit_net::endpoint::{End, Endpoint};
use testkit_net::process::{RelayProcess, relay_binary};
use testkit_net::relay::Setup;
use testkit_net::{bounded, until};

/// These tests are not about log lines.
const QUIET: &str = "log: {level: error}";

fn quiet() -> Setup {
    Setup { more: QUIET, ..Setup::default() }
}

/// A config in a directory of its own; `change` may spoil it.
fn written(setup: &Setup, change: impl FnOnce(String) -> String) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let text = change(setup.write(place.path()));
    fs::write(place.path().join("config.yaml"), text).unwrap();
    place
}

/// The exit status for a wrong config, after which a service manager need not try again.
const CONFIG: i32 = 78;

/// Runs a command that must fail with this status; returns the one line with the reason.
fn refusal(command: &mut Command, wanted: i32) -> String {
    let place = tempfile::tempdir().unwrap();
    let words = place.path().join("stderr");
    let output = fs::File::create(&words).unwrap();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).spawn().unwrap();
    let status = until("the relay to give up", || child.try_wait().unwrap());
    let words = fs::read_to_string(words).unwrap();
    assert_eq!(status.code(), Some(wanted), "{words}");
    assert_eq!(words.lines().count(), 1, "{words}");
    words
}

fn refused_with(config: &Path, wanted: i32) -> String {
    refusal(Command::new(relay_binary()).arg("--config").arg(config), wanted)
}

#[test]
fn a_missing_config_is_named() {
    bounded(|| {
        let place = tempfile::tempdir().unwrap();
        let words = refused_with(&place.path().join("nowhere.yaml"), CONFIG);
        assert!(words.contains("nowhere.yaml") && words.contains("no such file"), "{words}");
    });
}

#[test]
fn an_occupied_port_is_named() {
    bounded(|| {
        let occupant = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = occupant.local_addr().unwrap().to_string();
        let setup = Setup { listen: &[("127.0.0.1:0", true)], ..quiet() };
        let place = written(&setup, |text| text.replace("127.0.0.1:0", &address));
        let words = refused_with(&place.path().join("config.yaml"), 1);
        assert!(words.contains(&address) && words.contains("in use"), "{words}");
    });
}

#[test]
fn a_key_that_does_not_match_its_certificate_is_named() {
    bounded(|| {
        let place = written(&quiet(), |text| text);
        let other = rcgen::KeyPair::generate().unwrap();
        fs::write(place.path().join("relay.key"), other.serialize_pem()).unwrap();
        let words = refused_with(&place.path().join("config.yaml"), CONFIG);
        assert!(words.contains("relay.key"), "{words}");
    });
}

#[test]
fn too_little_locked_memory_is_told_with_its_remedy() {
    bounded(|| {
        let place = written(&quiet(), |text| text);
        let script = "ulimit -l 64 || exit 3; exec \"$0\" --config \"$1\"";
        let can = Command::new("sh").args(["-c", "ulimit -l 64"]).stderr(Stdio::null()).status();
        if !can.unwrap().success() {
            return println!("skipped: the limit cannot be lowered here");
        }
        let mut command = Command::new("sh");
        command.args(["-c", script, relay_binary()]).arg(place.path().join("config.yaml"));
        let words = refusal(&mut command, 1);
        assert!(words.contains("RLIMIT_MEMLOCK is 64 KiB") && words.contains("LimitMEMLOCK"), "{words}");
    });
}

#[test]
fn a_root_without_sys_is_told_and_does_not_panic() {
    bounded(|| {
        let place = written(&quiet(), |text| text);
        let hidden = ["--mount", "--map-root-user", "sh", "-c"];
        let hide = "mount -t tmpfs none /sys";
        let can = Command::new("unshare").args(hidden).arg(hide).stderr(Stdio::null()).status();
        if !can.is_ok_and(|status| status.success()) {
            return println!("skipped: /sys cannot be hidden here");
        }
        let script = format!("{hide} && exec \"$0\" --config \"$1\"");
        let mut command = Command::new("unshare");
        command.args(hidden).args([&script, relay_binary()]).arg(place.path().join("config.yaml"));
        let words = refusal(&mut command, 1);
        assert!(words.contains("/sys/devices/system/cpu cannot be read"), "{words}");
    });
}

/// A signal comes while clients are connected, one of them in a conversation.
fn ends_in_order_on(signal: &str) {
    let mut relay = RelayProcess::start(&Setup::default());
    let (mut alice, mut bob) = (relay.client("alice"), relay.client("bob"));
    let tid = alice.say(&bob.path(), b"Last words");
    assert_eq!(alice.status(&tid), 200);
    assert_eq!(bob.request("SEND").body, b"Last words");
    relay.signal(signal);
    for mut client in [alice, bob] {
        let end = client.reader.until_end();
        assert_eq!(end, End::Clean);
        Endpoint::close(client);
    }
    let status = relay.wait();
    assert_eq!(status.code(), Some(0), "{}", relay.log());
}

#[test]
fn sigterm_ends_it_in_order() {
    bounded(|| ends_in_order_on("TERM"));
}

#[test]
fn sigint_ends_it_in_order() {
    bounded(|| ends_in_order_on("INT"));
}
