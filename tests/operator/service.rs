//! The unit in deploy/ as a service manager would run it: its own command, user, limits and environment, and a real
//! socket for its notifications.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use msrprelay::ops::service::{DRAINING_SAID_EVERY, Finding, Watchdog};
use tempfile::TempDir;
use testkit_net::endpoint::{End, Endpoint};
use testkit_net::process::{is_root, relay_binary};
use testkit_net::relay::{Setup, TestRelay};
use testkit_net::{PATIENCE, bounded, until};

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/msrprelay.service");
/// A user without rights, if the unit's user does not exist; it needs no account.
const UNPRIVILEGED: &str = "64998";

/// The `Key=Value` lines of the unit; the last of several counts.
fn unit() -> BTreeMap<String, String> {
    let text = fs::read_to_string(UNIT).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with(['#', '[']));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// The service, and its notifications.
struct Service {
    child: Child,
    told: UnixDatagram,
    place: TempDir,
    config: PathBuf,
}

impl Service {
    /// Runs the unit's ExecStart, with copies of what it names, as its user.
    fn start(watchdog: Duration) -> Self {
        Self::with(watchdog, "")
    }

    fn with(watchdog: Duration, more: &'static str) -> Self {
        let unit = unit();
        let place = tempfile::tempdir().unwrap();
        let root = place.path();
        let config = root.join("config.yaml");
        fs::write(&config, Setup { more, ..Setup::default() }.write(root)).unwrap();
        let binary = root.join("msrprelay");
        fs::copy(relay_binary(), &binary).unwrap();
        let told = UnixDatagram::bind(root.join("notify")).unwrap();
        told.set_read_timeout(Some(PATIENCE)).unwrap();
        for file in fs::read_dir(root).unwrap() {
            fs::set_permissions(file.unwrap().path(), Permissions::from_mode(0o755)).unwrap();
        }
        fs::set_permissions(root.join("notify"), Permissions::from_mode(0o777)).unwrap();
        fs::set_permissions(root, Permissions::from_mode(0o755)).unwrap();

        let start = unit["ExecStart"].replace("/usr/bin/msrprelay", binary.to_str().unwrap());
        let start = start.replace("/etc/msrprelay/config.yaml", config.to_str().unwrap());
        assert!(start.matches(root.to_str().unwrap()).count() == 2, "{start}");
        let mut words = Vec::new();
        // Not every root may raise them: a limit that cannot be granted stays as it is.
        let limit = |key: &str| unit[key].replace("infinity", "unlimited");
        let raise = format!(
            "ulimit -l {} 2> /dev/null; ulimit -n {} 2> /dev/null; ulimit -c {}; exec \"$@\"",
            limit("LimitMEMLOCK"),
            limit("LimitNOFILE"),
            limit("LimitCORE")
        );
        words.extend(["sh".to_owned(), "-c".to_owned(), raise, "sh".to_owned()]);
        if is_root() {
            let user = format!(
                "--reuid={UNPRIVILEGED} --regid={UNPRIVILEGED} --clear-groups --bounding-set=-all --no-new-privs"
            );
            words.push("setpriv".to_owned());
            words.extend(user.split(' ').map(str::to_owned));
        }
        words.extend(start.split_whitespace().map(str::to_owned));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear();
        command.envs(unit["Environment"].split_whitespace().filter_map(|set| set.split_once('=')));
        command.env("PATH", "/usr/bin:/bin").env("NOTIFY_SOCKET", root.join("notify"));
        command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        let log = fs::File::create(root.join("log")).unwrap();
        let child = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
        Self { child, told, place, config }
    }

    /// Its next notification. A process that was stopped and continues sees its call interrupted.
    fn said(&self) -> String {
        let mut room = [0; 4096];
        loop {
            match self.told.recv(&mut room) {
                Ok(bytes) => return String::from_utf8_lossy(&room[..bytes]).into_owned(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}; {}", self.log()),
            }
        }
    }

    /// Its next notification that holds `what`.
    fn says(&self, what: &str) -> String {
        for _ in 0..1000 {
            let said = self.said();
            if said.lines().any(|line| line == what) {
                return said;
            }
        }
        panic!("{what} is never said; {}", self.log());
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(sent.unwrap().success());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_units_command_runs_without_rights_and_says_what_it_does() {
    bounded(|| {
        let mut service = Service::start(Duration::from_secs(2));
        let ready = service.says("READY=1");
        assert!(ready.contains("STATUS=Listening on 127.0.0.1:"), "{ready}");
        if is_root() {
            let status = fs::read_to_string(format!("/proc/{}/status", service.child.id())).unwrap();
            for right in ["Uid:\t64998\t64998\t64998\t64998", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"] {
                assert!(status.contains(right), "{status}");
            }
        }
        let limits = fs::read_to_string(format!("/proc/{}/limits", service.child.id())).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "keys must not get into a core file: {core}");
        // Fed again and again, not once.
        service.says("WATCHDOG=1");
        service.says("WATCHDOG=1");
        service.signal("HUP");
        let reloading = service.says("RELOADING=1");
        let since = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
        assert!(since.parse::<u64>().unwrap() > 0, "{reloading}");
        service.says("READY=1");
        // A wrong config must not leave the manager waiting.
        fs::write(&service.config, "nonsense: [").unwrap();
        service.signal("HUP");
        service.says("RELOADING=1");
        service.says("READY=1");
        service.says("WATCHDOG=1");
        service.signal("TERM");
        service.says("STOPPING=1");
        let status = until("the relay to end", || service.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "{}", service.log());
    });
}

#[test]
fn the_manager_is_asked_for_the_time_that_a_drain_takes() {
    bounded(|| {
        let mut service = Service::with(Duration::from_secs(2), "drain_timeout: 1h");
        let ready = service.says("READY=1");
        let address =
            ready.split("Listening on ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
        let trusted = Arc::new(testkit_net::relay::trusting(service.place.path()));
        let mut client = Endpoint::tls(address, &trusted, "alice").log_in("alice", address.port());
        service.signal("TERM");
        let stopping = service.says("STOPPING=1");
        assert!(stopping.contains("STATUS=Draining; sessions left: "), "{stopping}");
        let asked = stopping.lines().find_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC=")).unwrap();
        let asked = Duration::from_micros(asked.parse().unwrap());
        assert!(asked > 3 * DRAINING_SAID_EVERY, "{asked:?}");
        // Still fed: a stuck core is as bad as ever during a drain.
        service.says("WATCHDOG=1");
        // Told again, it ends the drain.
        service.signal("TERM");
        service.says("STATUS=Closing connections");
        assert_eq!(client.end(), End::Clean);
        client.close();
        let status = until("the relay to end", || service.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "{}", service.log());
    });
}

// A process that drains after an upgrade is silent: the manager would reject its notifications, or believe them.
#[test]
fn manager_follows_the_successor_and_its_predecessor_is_silent_until_that_has_died() {
    bounded(|| {
        let service = Service::start(Duration::from_secs(2));
        let ready = service.says("READY=1");
        let address =
            ready.split("Listening on ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
        let trusted = Arc::new(testkit_net::relay::trusting(service.place.path()));
        let client = Endpoint::tls(address, &trusted, "alice").log_in("alice", address.port());
        service.signal("USR2");
        let told = until("the successor", || {
            let said = service.said();
            said.lines().find_map(|line| line.strip_prefix("MAINPID=").map(str::to_owned))
        });
        let successor: u32 = told.parse().unwrap();
        assert_ne!(successor, service.child.id());
        until("the drain", || service.log().contains("Draining").then_some(()));
        // A notification does not name its sender, so the successor is stopped: what comes is the predecessor's.
        let to_successor = |name: &str| {
            let sent = Command::new("kill").args([&format!("-{name}"), &successor.to_string()]).status();
            assert!(sent.unwrap().success());
        };
        to_successor("STOP");
        service.told.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        while service.told.recv(&mut [0; 4096]).is_ok() {}
        service.told.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        let heard = service.told.recv(&mut [0; 4096]);
        assert!(heard.is_err(), "the predecessor speaks to the manager");
        service.told.set_read_timeout(Some(PATIENCE)).unwrap();
        to_successor("KILL");
        let back = service.says(&format!("MAINPID={}", service.child.id()));
        assert!(back.contains("READY=1") && back.contains("STATUS=Listening on"), "{back}");
        service.says("WATCHDOG=1");
        client.close();
    });
}

#[test]
fn wrong_config_has_an_exit_status_of_its_own_for_which_the_unit_does_not_restart() {
    let place = tempfile::tempdir().unwrap();
    let config = place.path().join("config.yaml");
    fs::write(&config, "nonsense: 1\n").unwrap();
    let output = Command::new(relay_binary()).arg("--config").arg(&config).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nonsense"));
    assert_eq!(unit()["RestartPreventExitStatus"], "78");
    assert_eq!(unit()["NotifyAccess"], "all");
}

#[test]
fn it_runs_where_no_manager_listens() {
    bounded(|| {
        let mut service = Service::start(Duration::from_secs(2));
        service.says("READY=1");
        fs::remove_file(service.place.path().join("notify")).unwrap();
        service.signal("HUP");
        let told_of = || service.log().contains("cannot be told").then_some(());
        until("the missing socket to be told of", told_of);
        service.signal("TERM");
        let status = until("the relay to end", || service.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "{}", service.log());
    });
}

#[test]
fn a_core_that_keeps_dying_starves_the_watchdog_until_it_works_again() {
    bounded(|| {
        let relay = TestRelay::with(&Setup { cores: "auto", ..Setup::default() });
        let (told, findings) = mpsc::channel();
        let tell = move |finding: &Finding| drop(told.send(finding.clone()));
        let watchdog = Watchdog::start_with(Duration::from_millis(2400), relay.server.heartbeats(), tell);
        assert!(watchdog.is_some());
        let next = || findings.recv_timeout(PATIENCE).unwrap();
        let found = |wanted: &dyn Fn(&Finding) -> bool| (0..100).any(|_| wanted(&next()));
        let alive = |finding: &Finding| *finding == Finding::Alive;
        assert!(found(&alive));
        // Each time it rests twice as long before it is started again.
        for deaths in 1..=7 {
            relay.server.crash_core_loop(0);
            until("the core to be started again", || (relay.counted().core_restarts == deaths).then_some(()));
        }
        // On a busy machine the other core may be silent as well.
        let silent = |finding: &Finding| matches!(finding, Finding::Silent(cores) if cores.contains(&0));
        assert!(found(&silent), "core 0 rested for more than two spans");
        assert!(found(&alive));
    });
}

/// The shell's part of the unit's command for a stop, run for a process.
fn run_the_units_stop(process: &str) -> std::process::ExitStatus {
    let unit = unit();
    let script = unit["ExecStop"].strip_prefix("/bin/sh -c '").and_then(|rest| rest.strip_suffix('\''));
    // A service manager would put variables of its own in; a doubled sign is one for the shell.
    let script = script.expect("the unit stops by a line of shell").replace("$$", "$");
    Command::new("/bin/sh").args(["-c", &script]).env("MAINPID", process).status().unwrap()
}

#[test]
fn the_units_stop_ends_after_the_main_process_and_not_before() {
    bounded(|| {
        let slow = "trap 'sleep 0.7; exit 0' TERM; echo; while :; do sleep 0.05; done";
        let mut child = Command::new("/bin/sh").args(["-c", slow]).stdout(Stdio::piped()).spawn().unwrap();
        // Its first byte says that it hears the signal.
        std::io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut [0]).unwrap();
        let process = child.id();
        // As the service manager does: a process that has ended is there until its parent has asked how.
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        assert!(run_the_units_stop(&process.to_string()).success());
        assert!(!Path::new(&format!("/proc/{process}")).exists(), "it was not waited for");
        assert!(reaper.join().unwrap().success(), "it ended by itself");
    });
}

#[test]
fn the_units_stop_is_no_failure_where_the_main_process_has_died() {
    // The service manager knows no main process then.
    assert!(run_the_units_stop("").success());
}

fn analyze(arguments: &[&str], unit: &Path) -> String {
    let output = Command::new("systemd-analyze").args(arguments).arg(unit).output();
    let output = output.expect("systemd-analyze is part of systemd, which scripts/test.sh installs");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn the_unit_is_well_formed() {
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("msrprelay.service");
    // It must be an executable that is there.
    fs::write(&copy, fs::read_to_string(UNIT).unwrap().replace("/usr/bin/msrprelay", relay_binary()))
        .unwrap();
    let said = analyze(&["verify", "--man=no"], &copy);
    assert!(!said.contains("msrprelay"), "{said}");
    // A fault that it reports in a line, it would report in ours.
    let spoilt = fs::read_to_string(&copy).unwrap().replace("WatchdogSec=", "WatchdogSex=");
    fs::write(&copy, spoilt).unwrap();
    assert!(analyze(&["verify", "--man=no"], &copy).contains("WatchdogSex"));
}

#[test]
fn unit_leaves_little_to_an_intruder() {
    let said = analyze(&["security", "--offline=true", "--no-pager"], Path::new(UNIT));
    let line = said.lines().find(|line| line.contains("Overall exposure level")).unwrap();
    let level: f64 = line.rsplit_once(": ").unwrap().1.split_whitespace().next().unwrap().parse().unwrap();
    assert!(level <= 2.0, "{said}");
}

#[test]
fn the_unit_grants_what_the_relay_needs() {
    let unit = unit();
    assert_eq!(unit["Type"], "notify");
    assert_eq!(unit["LimitMEMLOCK"], "infinity");
    let descriptors: usize = unit["LimitNOFILE"].parse().unwrap();
    assert!(descriptors > msrprelay::config::Limits::default().connections_max);
    // What is granted to the watchdog holds several of the pauses that a core rests after its death.
    assert_eq!(unit["WatchdogSec"], "30s");
    for family in ["AF_INET", "AF_INET6", "AF_UNIX"] {
        assert!(unit["RestrictAddressFamilies"].split(' ').any(|granted| granted == family));
    }
}
