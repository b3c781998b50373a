//! What the tests ask of a database server, whichever it is, and what all of them need to run one.
//!
//! A server runs in a temporary directory, without root's rights, and ends with the value that stands for it, and with this
//! process if that is killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};

use tempfile::TempDir;

use crate::process::{is_root, target_directory};
use crate::subscribers::Proxy;

/// As whom a server runs if the test is root, which they refuse to run as.
const USER: &str = "nobody";

/// A running database server that only its socket leads to, or loopback as well.
pub trait SqlServer: Sized + Send + Sync + 'static {
    /// The word of `auth.backend`, the section under `auth`, and the scheme of the URL.
    const BACKEND: &'static str;
    /// Behind the URL: TLS, everything verified.
    const TLS: &'static str;
    /// The same, but for the name in the certificate.
    const TLS_ANY_NAME: &'static str;
    /// The same, and nothing verified.
    const TLS_UNVERIFIED: &'static str;
    /// An encoding that has not every character.
    const LATIN1: &'static str;

    /// One for all tests that run at the same time and do it no harm.
    fn shared() -> Arc<Self>;
    /// One that only its socket leads to.
    fn start() -> Self;
    /// One that can hold a large table in memory.
    fn start_large() -> Self;
    /// One that listens on loopback, too: with this certificate and key, by TLS alone; otherwise in clear alone. The files
    /// are in `place`.
    fn over_tcp(place: TempDir, certificate: Option<(&Path, &Path)>) -> Self;

    /// Starts the process and waits until it answers.
    fn launch(&mut self);
    /// Ends the process at once, and everything that is connected to it.
    fn kill(&mut self);
    /// Sends everything that is part of the server a signal.
    fn signal(&self, name: &str);

    /// Does what `sql` says as the server's owner; returns the rows.
    fn run_in(&self, database: Option<&str>, sql: &str) -> String;
    /// Makes a database with an empty `subscriber` table, and an account of the same name that may read what proves users.
    fn make_site(&self, name: &str, proxy: Proxy, encoding: Option<&str>, password: &str);
    /// Locks the table of a site until the value is dropped.
    fn lock(&self, site: &str) -> Lock;
    /// The URL for a site's account, by the socket.
    fn url(&self, site: &str, password: &str) -> String;
    /// The port on loopback.
    fn port(&self) -> u16;

    /// The site's account, as GRANT and REVOKE name it.
    fn account(site: &str) -> String;
    /// What a table's name has in front of it.
    fn qualifier(site: &str) -> String;
    /// A name that ends nowhere but where we end it.
    fn quoted(name: &str) -> String;
    /// Text as SQL writes it, whatever is in it.
    fn literal(text: &str) -> String;
    /// SHA-256 of text, in hexadecimal.
    fn sha256(text: &str) -> String;
    /// MD5 of text in UTF-8, whatever the encoding of the database.
    fn md5_of_utf8(text: &str) -> String;
    /// A query of the numbers from 1, as `n`.
    fn numbers(count: usize) -> String;
    /// Lets the account have no more connections than that.
    fn limit_connections(&self, site: &str, count: usize);
    /// Gives the account another password.
    fn set_password(&self, site: &str, password: &str);
    /// Closes the connections that the account has.
    fn disconnect(&self, site: &str);
    /// Lets a column of the table be NULL.
    fn make_nullable(&self, site: &str, column: &str);
    /// Whether the account has come by TLS.
    fn has_come_by_tls(&self, site: &str) -> bool;
}

/// A table that no other connection may read.
pub struct Lock {
    pub(crate) child: Child,
    pub(crate) stdin: Option<ChildStdin>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.wait();
    }
}

/// A process, and the thread that started it: the process dies with that.
pub(crate) struct Kept {
    pub(crate) child: Child,
    #[expect(dead_code, reason = "ends the thread when it is dropped")]
    keeper: mpsc::Sender<()>,
}

impl Kept {
    /// Starts what [`unprivileged`] has made; its messages go to the log.
    pub(crate) fn start(mut command: Command, log: &Path) -> Self {
        let program = format!("{:?}", command.get_args().last());
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let (keeper, kept) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let _ = tell.send(command.spawn());
            let _ = kept.recv();
        });
        let started = told.recv().unwrap();
        let child = started
            .unwrap_or_else(|error| panic!("{program}: {error}: scripts/test.sh installs what it needs"));
        Self { child, keeper }
    }
}

/// A program that runs without root's rights and ends with the thread that started it.
pub(crate) fn unprivileged(program: &str) -> Command {
    let mut command = found_by_anybody("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if is_root() {
        command.args(["--reuid", USER, "--regid", "nogroup", "--clear-groups"]);
    }
    command.arg("--").arg(program);
    command
}

/// A command that finds what is in `/usr/sbin`, and PostgreSQL's programs where Debian has them.
pub(crate) fn found_by_anybody(program: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env("PATH", format!("{path}:/usr/sbin:/usr/bin:{}", postgres_programs().display()));
    command
}

/// Those of the newest version.
fn postgres_programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    versions.map(|version| version.path()).max_by_key(number).unwrap_or_default().join("bin")
}

/// Gives a directory, and what is in it, to whom the server runs as.
pub(crate) fn own(place: &Path) {
    if is_root() {
        let owned = Command::new("chown").args(["-R", &format!("{USER}:nogroup")]).arg(place).status();
        assert!(owned.unwrap().success());
    }
}

/// Fills `data` in a place with the tables of a fresh installation.
pub(crate) fn fill(place: &TempDir, template: &Path) {
    let copied = Command::new("cp").arg("-a").arg(template).arg(place.path().join("data")).status();
    assert!(copied.unwrap().success());
    own(place.path());
}

/// The tables of a fresh installation, made once for each version of a server: `make` says what makes them where.
pub(crate) fn template(server: &str, make: impl FnOnce(&Path) -> Command) -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let version = found_by_anybody(server).arg("--version").output().map(|output| output.stdout);
    let version = version.unwrap_or_else(|_| panic!("no {server}: scripts/test.sh installs it"));
    let version = String::from_utf8(version).unwrap();
    let name: String = version.chars().filter(|c| c.is_alphanumeric() || *c == '.').collect();
    let template = target_directory().join("tmp").join(format!("tables-of-{name}"));
    if template.exists() {
        return template;
    }
    fs::create_dir_all(template.parent().unwrap()).unwrap();
    let place = tempfile::tempdir().unwrap();
    own(place.path());
    let data = place.path().join("data");
    let made = make(&data).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // Another process may do the same: it appears complete, and what is there already is as good.
    let unfinished = template.with_extension(format!("unfinished-{}", std::process::id()));
    assert!(Command::new("cp").arg("-a").arg(&data).arg(&unfinished).status().unwrap().success());
    if fs::rename(&unfinished, &template).is_err() {
        let _ = fs::remove_dir_all(&unfinished);
    }
    template
}
