//! A PostgreSQL of a test's own.
//!
//! The system's tables are made once and kept in the target directory; each server gets a copy. Its owner comes in by the
//! socket without a password, every other account by SCRAM.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, Weak};

use tempfile::TempDir;

use crate::sql::{Kept, Lock, SqlServer, fill, found_by_anybody, own, template, unprivileged};
use crate::subscribers::Proxy;
use crate::until;

/// The server's owner.
const OWNER: &str = "postgres";
/// A small server that does not wait for the disk: what it has committed outlives its process, and need not outlive
/// the machine.
const OPTIONS: &[&str] = &[
    "fsync=off",
    "full_page_writes=off",
    "max_connections=200",
    "max_wal_size=128MB",
    "autovacuum=off",
    "shared_buffers=16MB",
    "logging_collector=off",
];

/// OpenSIPS 3: hashes for three algorithms.
const OPENSIPS: &str = "CREATE TABLE subscriber (
    id SERIAL PRIMARY KEY NOT NULL,
    username VARCHAR(64) DEFAULT '' NOT NULL,
    domain VARCHAR(64) DEFAULT '' NOT NULL,
    password VARCHAR(25) DEFAULT '' NOT NULL,
    ha1 VARCHAR(64) DEFAULT '' NOT NULL,
    ha1_sha256 VARCHAR(64) DEFAULT '' NOT NULL,
    ha1_sha512t256 VARCHAR(64) DEFAULT '' NOT NULL,
    CONSTRAINT subscriber_account_idx UNIQUE (username, domain)
)";

/// Kamailio 5: a second MD5, over user@domain.
const KAMAILIO: &str = "CREATE TABLE subscriber (
    id SERIAL PRIMARY KEY NOT NULL,
    username VARCHAR(64) DEFAULT '' NOT NULL,
    domain VARCHAR(64) DEFAULT '' NOT NULL,
    password VARCHAR(64) DEFAULT '' NOT NULL,
    ha1 VARCHAR(128) DEFAULT '' NOT NULL,
    ha1b VARCHAR(128) DEFAULT '' NOT NULL,
    CONSTRAINT subscriber_account_idx UNIQUE (username, domain)
)";

/// A running server.
pub struct Postgres {
    place: TempDir,
    options: Vec<String>,
    process: Option<Kept>,
    /// `None`: no TCP.
    port: Option<u16>,
}

impl Postgres {
    fn by_socket(options: &[&str]) -> Self {
        Self::with(options, "local all all scram-sha-256")
    }

    /// One that only its socket leads to, with a line for `pg_hba.conf`.
    pub fn with_access(line: &str) -> Self {
        Self::with(&[], line)
    }

    fn with(options: &[&str], access: &str) -> Self {
        let mut all: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        all.push("listen_addresses=".to_owned());
        Self::over(tempfile::tempdir().unwrap(), all, (None, access))
    }

    fn over(place: TempDir, options: Vec<String>, (port, access): (Option<u16>, &str)) -> Self {
        let template = template("postgres", |data| {
            let mut command = unprivileged("initdb");
            command.args(["-U", OWNER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "-D"]);
            command.arg(data);
            command
        });
        fill(&place, &template);
        let access = format!("local all {OWNER} trust\n{access}\n");
        fs::write(place.path().join("data/pg_hba.conf"), access).unwrap();
        own(place.path());
        let mut server = Self { place, options, process: None, port };
        server.launch();
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    #[track_caller]
    fn run(&self, sql: &str) -> String {
        self.run_in(None, sql)
    }

    fn client(&self, database: &str, sql: &str) -> Output {
        let mut child = self.client_command(database).spawn().unwrap();
        // One that could not connect does not read it.
        let _ = child.stdin.take().unwrap().write_all(sql.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn client_command(&self, database: &str) -> Command {
        let mut command = found_by_anybody("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", OWNER, "-d", database]);
        command.arg("-h").arg(self.place.path()).arg("-p").arg(self.port.unwrap_or(5432).to_string());
        command.env("PGCLIENTENCODING", "UTF8");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The process and those it has started, one for each connection among them.
    fn processes(&self) -> Vec<String> {
        let pid = self.process.as_ref().unwrap().child.id().to_string();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        std::iter::once(pid).chain(children.split_whitespace().map(str::to_owned)).collect()
    }
}

impl SqlServer for Postgres {
    const BACKEND: &'static str = "postgres";
    const TLS: &'static str = "?sslmode=verify-full";
    const TLS_ANY_NAME: &'static str = "?sslmode=verify-ca";
    const TLS_UNVERIFIED: &'static str = "?sslmode=require";
    const LATIN1: &'static str = "LATIN1";

    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
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
        Self::by_socket(&["shared_buffers=256MB"])
    }

    fn over_tcp(place: TempDir, certificate: Option<(&Path, &Path)>) -> Self {
        // The kernel chooses; another process may take it before the server does.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut options = vec!["listen_addresses=127.0.0.1".to_owned(), format!("port={port}")];
        let kind = if certificate.is_some() { "hostssl" } else { "host" };
        if let Some((certificate, key)) = certificate {
            // The server refuses a key that others can read.
            fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
            options.extend([
                "ssl=on".to_owned(),
                format!("ssl_cert_file={}", certificate.display()),
                format!("ssl_key_file={}", key.display()),
            ]);
        }
        Self::over(place, options, (Some(port), &format!("{kind} all all 127.0.0.1/32 scram-sha-256")))
    }

    fn launch(&mut self) {
        let mut command = unprivileged("postgres");
        command.arg("-D").arg(self.path("data")).arg("-k").arg(self.place.path());
        for option in OPTIONS.iter().map(|option| (*option).to_owned()).chain(self.options.iter().cloned()) {
            command.arg("-c").arg(option);
        }
        self.process = Some(Kept::start(command, &self.path("log")));
        until("PostgreSQL to answer", || {
            let ended = self.process.as_mut().unwrap().child.try_wait().unwrap();
            assert_eq!(ended, None, "{}", fs::read_to_string(self.path("log")).unwrap_or_default());
            self.client(OWNER, "SELECT 1").status.success().then_some(())
        });
    }

    fn kill(&mut self) {
        if self.process.is_none() {
            return;
        }
        // The first of them, so that it starts no other; then those it leaves behind.
        let processes = self.processes();
        let mut process = self.process.take().unwrap();
        let _ = process.child.kill();
        let _ = Command::new("kill").arg("-KILL").args(&processes[1..]).stderr(Stdio::null()).status();
        let _ = process.child.wait();
        until("PostgreSQL's processes to end", || {
            let is_there = |pid: &String| {
                let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                state.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
            };
            (!processes[1..].iter().any(is_there)).then_some(())
        });
    }

    fn signal(&self, name: &str) {
        // One of them may end meanwhile.
        let _ = Command::new("kill")
            .arg(format!("-{name}"))
            .args(self.processes())
            .stderr(Stdio::null())
            .status();
    }

    #[track_caller]
    fn run_in(&self, database: Option<&str>, sql: &str) -> String {
        let Output { status, stdout, stderr } = self.client(database.unwrap_or(OWNER), sql);
        assert!(status.success(), "{sql}\n{}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    fn make_site(&self, name: &str, proxy: Proxy, encoding: Option<&str>, password: &str) {
        let encoding = encoding.map_or(String::new(), |encoding| {
            format!(" TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'")
        });
        let table = match proxy {
            Proxy::OpenSips => OPENSIPS,
            Proxy::Kamailio => KAMAILIO,
        };
        let sha256 = if proxy == Proxy::OpenSips { ", ha1_sha256" } else { "" };
        self.run(&format!(
            "CREATE ROLE {name} LOGIN PASSWORD '{password}'; CREATE DATABASE {name}{encoding};"
        ));
        let grant = format!("GRANT SELECT (username, domain, ha1{sha256}) ON subscriber TO {name}");
        self.run_in(Some(name), &format!("{table}; {grant};"));
    }

    fn lock(&self, site: &str) -> Lock {
        let mut child = self.client_command(site).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "BEGIN; LOCK TABLE subscriber IN ACCESS EXCLUSIVE MODE; SELECT 'locked';").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "locked\n");
        Lock { child, stdin: Some(stdin) }
    }

    fn url(&self, site: &str, password: &str) -> String {
        format!("postgres://{site}:{password}@localhost/{site}?host={}", self.place.path().display())
    }

    fn port(&self) -> u16 {
        self.port.unwrap()
    }

    fn account(site: &str) -> String {
        site.to_owned()
    }

    fn qualifier(_: &str) -> String {
        "public".to_owned()
    }

    fn quoted(name: &str) -> String {
        format!("\"{name}\"")
    }

    fn literal(text: &str) -> String {
        let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        format!("convert_from('\\x{hex}', 'UTF8')")
    }

    fn sha256(text: &str) -> String {
        format!("encode(sha256(convert_to({text}, 'UTF8')), 'hex')")
    }

    fn md5_of_utf8(text: &str) -> String {
        format!("md5(convert_to({text}, 'UTF8'))")
    }

    fn numbers(count: usize) -> String {
        format!("SELECT n FROM generate_series(1, {count}) AS n")
    }

    fn limit_connections(&self, site: &str, count: usize) {
        self.run(&format!("ALTER ROLE {site} CONNECTION LIMIT {count}"));
    }

    fn set_password(&self, site: &str, password: &str) {
        self.run(&format!("ALTER ROLE {site} PASSWORD '{password}'"));
    }

    fn disconnect(&self, site: &str) {
        self.run(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{site}'"));
    }

    fn make_nullable(&self, site: &str, column: &str) {
        self.run_in(Some(site), &format!("ALTER TABLE subscriber ALTER {column} DROP NOT NULL"));
    }

    fn has_come_by_tls(&self, site: &str) -> bool {
        let query = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)";
        self.run(&format!("{query} WHERE ssl AND usename = '{site}'")).trim() != "0"
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}
