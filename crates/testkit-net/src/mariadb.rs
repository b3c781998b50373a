//! A MariaDB of a test's own.
//!
//! The system's tables are made once and kept in the target directory; each server gets a copy in a temporary
//! directory, its own socket, and TCP only where a test is about it. The process ends with the value that stands for
//! it, and with this process if that is killed.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Arc, Mutex, Weak, mpsc};

use tempfile::TempDir;

use crate::process::{is_root, target_directory};
use crate::until;

/// As whom the server runs if the test is root, which it refuses to run as.
const USER: &str = "nobody";
/// A small server that does not wait for the disk: what it has committed outlives its process, and need not outlive
/// the machine.
const OPTIONS: &[&str] = &[
    "--innodb-buffer-pool-size=16M",
    "--innodb-log-file-size=4M",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-use-native-aio=0",
    "--skip-log-bin",
    "--debug-no-sync",
    "--aria-pagecache-buffer-size=1M",
    "--secure-file-priv=",
];

/// A running server.
pub struct MariaDb {
    place: TempDir,
    options: Vec<String>,
    child: Option<Child>,
    /// Ends the thread that started the process; with it the process would be ended, too.
    keeper: Option<mpsc::Sender<()>>,
    /// `None`: no TCP.
    pub port: Option<u16>,
}

impl MariaDb {
    /// One for all tests that run at the same time and do it no harm.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<MariaDb>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let started = Arc::new(Self::start(&[]));
            *shared = Arc::downgrade(&started);
            started
        })
    }

    /// One that only its socket leads to.
    pub fn start(options: &[&str]) -> Self {
        let mut all: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        all.push("--skip-networking".to_owned());
        Self::over(copy_of_template(), all, None)
    }

    /// One that listens on loopback, too. `place` holds what the options name.
    pub fn over_tcp(place: TempDir, options: &[String]) -> Self {
        fill(&place);
        // The kernel chooses; somebody else may take it before the server does.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut all = options.to_vec();
        all.extend(["--bind-address=127.0.0.1".to_owned(), format!("--port={port}")]);
        Self::over(place, all, Some(port))
    }

    fn over(place: TempDir, options: Vec<String>, port: Option<u16>) -> Self {
        let mut server = Self { place, options, child: None, keeper: None, port };
        server.launch();
        server
    }

    /// Starts the process and waits until it answers.
    pub fn launch(&mut self) {
        let mut command = unprivileged("mariadbd");
        command.args(["--no-defaults", "--pid-file=pid"]).args(OPTIONS).args(&self.options);
        command.arg(format!("--datadir={}", self.path("data").display()));
        command.arg(format!("--socket={}", self.socket().display()));
        command.arg(format!("--tmpdir={}", self.place.path().display()));
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // The process dies with the thread that started it: one that lives as long as this value.
        let (keeper, kept) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let _ = tell.send(command.spawn());
            let _ = kept.recv();
        });
        let started = told.recv().unwrap();
        self.child = Some(started.expect("mariadbd and setpriv are there: scripts/test.sh installs them"));
        self.keeper = Some(keeper);
        until("MariaDB to answer", || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert_eq!(ended, None, "{}", fs::read_to_string(self.path("log")).unwrap_or_default());
            self.client("SELECT 1").status.success().then_some(())
        });
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    /// Sends the process a signal.
    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([format!("-{name}"), pid]).status().unwrap().success());
    }

    /// Ends the process at once, and everything that is connected to it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.keeper = None;
    }

    /// Does what `sql` says as the server's root; returns the rows.
    #[track_caller]
    pub fn run(&self, sql: &str) -> String {
        let Output { status, stdout, stderr } = self.client(sql);
        assert!(status.success(), "{sql}\n{}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    fn client(&self, sql: &str) -> Output {
        let mut child = self.client_command().spawn().unwrap();
        // One that could not connect does not read it.
        let _ = child.stdin.take().unwrap().write_all(sql.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn client_command(&self) -> Command {
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "--user=root", "--batch", "--skip-column-names", "--unbuffered"]);
        command.arg("--default-character-set=utf8mb4").arg(format!("--socket={}", self.socket().display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Locks a table until the value is dropped.
    pub fn lock(&self, table: &str) -> Lock {
        let mut child = self.client_command().spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "LOCK TABLES {table} WRITE; SELECT 'locked';").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "locked\n");
        Lock { child, stdin: Some(stdin) }
    }

    /// The URL for the relay's own account, by the socket.
    pub fn url(&self, user: &str, password: &str, database: &str) -> String {
        format!("mysql://{user}:{password}@localhost/{database}?socket={}", self.socket().display())
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A table that nobody else may read.
pub struct Lock {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.wait();
    }
}

/// A program that runs without root's rights and ends with whoever started it.
fn unprivileged(program: &str) -> Command {
    let mut command = found_by_anybody("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if is_root() {
        command.args(["--reuid", USER, "--regid", "nogroup", "--clear-groups"]);
    }
    command.arg("--").arg(program);
    command
}

/// A command that finds what is in `/usr/sbin`, too.
fn found_by_anybody(program: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env("PATH", format!("{path}:/usr/sbin:/usr/bin"));
    command
}

fn copy_of_template() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    fill(&place);
    place
}

fn fill(place: &TempDir) {
    let copied = Command::new("cp").arg("-a").arg(template()).arg(place.path().join("data")).status();
    assert!(copied.unwrap().success());
    own(place.path());
}

/// Gives a directory, and what is in it, to whom the server runs as.
fn own(place: &Path) {
    if is_root() {
        let owned = Command::new("chown").args(["-R", &format!("{USER}:nogroup")]).arg(place).status();
        assert!(owned.unwrap().success());
    }
}

/// The system's tables of a fresh installation, made once for each version there is.
fn template() -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let version = found_by_anybody("mariadbd").arg("--version").output().map(|output| output.stdout);
    let version =
        String::from_utf8(version.expect("mariadbd is there: scripts/test.sh installs it")).unwrap();
    let name: String = version.chars().filter(|c| c.is_alphanumeric() || *c == '.').collect();
    let template = target_directory().join("tmp").join(format!("tables-of-{name}"));
    if template.exists() {
        return template;
    }
    fs::create_dir_all(template.parent().unwrap()).unwrap();
    let place = tempfile::tempdir().unwrap();
    own(place.path());
    let data = place.path().join("data");
    let mut command = unprivileged("mariadb-install-db");
    command.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
    command.args(["--innodb-log-file-size=4M", "--debug-no-sync", "--innodb-use-native-aio=0"]);
    let made = command.arg(format!("--datadir={}", data.display())).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // Another process may do the same: it appears complete, and what is there already is as good.
    let unfinished = template.with_extension(format!("unfinished-{}", std::process::id()));
    assert!(Command::new("cp").arg("-a").arg(&data).arg(&unfinished).status().unwrap().success());
    if fs::rename(&unfinished, &template).is_err() {
        let _ = fs::remove_dir_all(&unfinished);
    }
    template
}
