//! A MariaDB of a test's own.
//!
//! The system's tables are made once and kept in the target directory; each server gets a copy.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, Weak};

use tempfile::TempDir;

use crate::sql::{Kept, Lock, SqlServer, fill, template, unprivileged};
use crate::subscribers::Proxy;
use crate::until;

/// A small server that does not wait for the disk: what it has committed outlives its process, and need not survive a
/// crash of the machine.
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

/// OpenSIPS 3: hashes for three algorithms.
const OPENSIPS: &str = "CREATE TABLE subscriber (
    id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY NOT NULL,
    username CHAR(64) DEFAULT '' NOT NULL,
    domain CHAR(64) DEFAULT '' NOT NULL,
    password CHAR(25) DEFAULT '' NOT NULL,
    ha1 CHAR(64) DEFAULT '' NOT NULL,
    ha1_sha256 CHAR(64) DEFAULT '' NOT NULL,
    ha1_sha512t256 CHAR(64) DEFAULT '' NOT NULL,
    CONSTRAINT account_idx UNIQUE (username, domain)
) ENGINE=InnoDB";

/// Kamailio 5: a second MD5, over user@domain.
const KAMAILIO: &str = "CREATE TABLE subscriber (
    id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY NOT NULL,
    username VARCHAR(64) DEFAULT '' NOT NULL,
    domain VARCHAR(64) DEFAULT '' NOT NULL,
    password VARCHAR(64) DEFAULT '' NOT NULL,
    ha1 VARCHAR(128) DEFAULT '' NOT NULL,
    ha1b VARCHAR(128) DEFAULT '' NOT NULL,
    CONSTRAINT account_idx UNIQUE (username, domain)
) ENGINE=InnoDB";

/// A running server.
pub struct MariaDb {
    place: TempDir,
    options: Vec<String>,
    process: Option<Kept>,
    /// `None`: no TCP.
    port: Option<u16>,
}

impl MariaDb {
    fn by_socket(options: &[&str]) -> Self {
        let mut all: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        all.push("--skip-networking".to_owned());
        Self::over(tempfile::tempdir().unwrap(), all, None)
    }

    fn over(place: TempDir, options: Vec<String>, port: Option<u16>) -> Self {
        let template = template("mariadbd", |data| {
            let mut command = unprivileged("mariadb-install-db");
            command.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
            command.args(["--innodb-log-file-size=4M", "--debug-no-sync", "--innodb-use-native-aio=0"]);
            command.arg(format!("--datadir={}", data.display()));
            command
        });
        fill(&place, &template);
        let mut server = Self { place, options, process: None, port };
        server.launch();
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    #[track_caller]
    fn run(&self, sql: &str) -> String {
        let Output { status, stdout, stderr } = self.client(sql);
        assert!(status.success(), "{sql}\n{}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    fn client(&self, sql: &str) -> Output {
        let mut child = self.client_command().spawn().unwrap();
        // A client that could not connect does not read it.
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
}

impl SqlServer for MariaDb {
    const BACKEND: &'static str = "mysql";
    const TLS: &'static str = "?require_ssl=true";
    const TLS_ANY_NAME: &'static str = "?require_ssl=true&verify_identity=false";
    const TLS_UNVERIFIED: &'static str = "?require_ssl=true&verify_ca=false&verify_identity=false";
    const LATIN1: &'static str = "latin1";

    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<MariaDb>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let started = Arc::new(Self::start());
            *shared = Arc::downgrade(&started);
            started
        })
    }

    fn start() -> Self {
        Self::by_socket(&[])
    }

    fn start_large() -> Self {
        Self::by_socket(&["--innodb-buffer-pool-size=256M"])
    }

    fn over_tcp(place: TempDir, certificate: Option<(&Path, &Path)>) -> Self {
        // The kernel chooses; another process may take it before the server does.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut options = match certificate {
            Some((certificate, key)) => vec![
                format!("--ssl-cert={}", certificate.display()),
                format!("--ssl-key={}", key.display()),
                "--require-secure-transport=ON".to_owned(),
            ],
            None => vec!["--skip-ssl".to_owned()],
        };
        options.extend(["--bind-address=127.0.0.1".to_owned(), format!("--port={port}")]);
        Self::over(place, options, Some(port))
    }

    fn launch(&mut self) {
        let mut command = unprivileged("mariadbd");
        command.args(["--no-defaults", "--pid-file=pid"]).args(OPTIONS).args(&self.options);
        command.arg(format!("--datadir={}", self.path("data").display()));
        command.arg(format!("--socket={}", self.socket().display()));
        command.arg(format!("--tmpdir={}", self.place.path().display()));
        self.process = Some(Kept::start(command, &self.path("log")));
        until("MariaDB to answer", || {
            let ended = self.process.as_mut().unwrap().child.try_wait().unwrap();
            assert_eq!(ended, None, "{}", fs::read_to_string(self.path("log")).unwrap_or_default());
            self.client("SELECT 1").status.success().then_some(())
        });
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.process.as_ref().unwrap().child.id().to_string();
        assert!(Command::new("kill").args([format!("-{name}"), pid]).status().unwrap().success());
    }

    #[track_caller]
    fn run_in(&self, database: Option<&str>, sql: &str) -> String {
        match database {
            Some(database) => self.run(&format!("USE {database}; {sql}")),
            None => self.run(sql),
        }
    }

    fn make_site(&self, name: &str, proxy: Proxy, encoding: Option<&str>, password: &str) {
        let encoding = encoding.unwrap_or("utf8mb4");
        let table = match proxy {
            Proxy::OpenSips => OPENSIPS,
            Proxy::Kamailio => KAMAILIO,
        };
        let sha256 = if proxy == Proxy::OpenSips { ", ha1_sha256" } else { "" };
        self.run(&format!(
            "CREATE DATABASE {name} CHARACTER SET {encoding};
             USE {name}; {table};
             CREATE USER '{name}'@'%' IDENTIFIED BY '{password}';
             GRANT SELECT (username, domain, ha1{sha256}) ON {name}.subscriber TO '{name}'@'%';"
        ));
    }

    fn lock(&self, site: &str) -> Lock {
        let mut child = self.client_command().spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "LOCK TABLES {site}.subscriber WRITE; SELECT 'locked';").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "locked\n");
        Lock { child, stdin: Some(stdin) }
    }

    fn url(&self, site: &str, password: &str) -> String {
        format!("mysql://{site}:{password}@localhost/{site}?socket={}", self.socket().display())
    }

    fn port(&self) -> u16 {
        self.port.unwrap()
    }

    fn account(site: &str) -> String {
        format!("'{site}'@'%'")
    }

    fn qualifier(site: &str) -> String {
        site.to_owned()
    }

    fn quoted(name: &str) -> String {
        format!("`{name}`")
    }

    fn literal(text: &str) -> String {
        let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        format!("CONVERT(X'{hex}' USING utf8mb4)")
    }

    fn sha256(text: &str) -> String {
        format!("SHA2({text}, 256)")
    }

    fn md5_of_utf8(text: &str) -> String {
        format!("MD5(CONVERT({text} USING utf8mb4))")
    }

    fn numbers(count: usize) -> String {
        format!("SELECT seq AS n FROM seq_1_to_{count}")
    }

    fn limit_connections(&self, site: &str, count: usize) {
        self.run(&format!("ALTER USER '{site}'@'%' WITH MAX_USER_CONNECTIONS {count}"));
    }

    fn set_password(&self, site: &str, password: &str) {
        self.run(&format!("SET PASSWORD FOR '{site}'@'%' = PASSWORD('{password}')"));
    }

    fn disconnect(&self, site: &str) {
        self.run(&format!("KILL USER '{site}'@'%'"));
    }

    fn make_nullable(&self, site: &str, column: &str) {
        self.run(&format!("ALTER TABLE {site}.subscriber MODIFY {column} VARCHAR(128) NULL"));
    }

    fn has_come_by_tls(&self, _: &str) -> bool {
        let shown = self.run("SHOW STATUS LIKE 'Ssl_accepts'");
        shown.split_whitespace().last().is_some_and(|count| count.parse::<u32>().is_ok_and(|count| count > 0))
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.kill();
    }
}
