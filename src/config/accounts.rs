//! Where accounts are: the keys of `auth.backend`, `auth.memory`, `auth.sqlite`, `auth.mysql` and `auth.postgres`.
//!
//! Invariant: names of tables and columns hold nothing but letters, digits, `_`, `$` and `-`.
//! Must not know: how accounts are looked up.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_yaml::Value;

use super::certificates::{self, readable_by_others};
use super::database_url::{Server, ServerTls, mysql_server, postgres_server};
use super::shared_secrets::SharedSecret;
use super::walk::{self, Problems, Section};
use msrp_proto::address;
use msrp_proto::digest::{Algorithm, Ha1};

/// Where accounts are looked up.
#[derive(Clone, Debug)]
pub enum Backend {
    /// In the config itself; no two of the same user and domain.
    Memory(Vec<MemoryUser>),
    /// In a file of our own.
    Sqlite(Sqlite),
    /// In the SIP proxy's MySQL or MariaDB.
    Mysql(Box<Database>),
    /// In its PostgreSQL.
    Postgres(Box<Database>),
}

/// One account of the memory backend.
#[derive(Clone, Debug)]
pub struct MemoryUser {
    /// The user part: the digest's `username`.
    pub user: String,
    /// The SIP domain, in lower case; the `realm` where the config gave none.
    pub domain: String,
    /// The user's proof; it covers every algorithm of [`Auth::algorithms`](crate::config::Auth::algorithms).
    pub secret: MemorySecret,
}

/// What the config knows of a user's password.
#[derive(Clone)]
pub enum MemorySecret {
    /// The password itself.
    Password(String),
    /// H(user:realm:password), at least one of the two.
    Ha1 {
        /// With MD5.
        md5: Option<Ha1>,
        /// With SHA-256.
        sha256: Option<Ha1>,
    },
}

impl fmt::Debug for MemorySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password(..)",
            Self::Ha1 { .. } => "Ha1(..)",
        })
    }
}

/// The `auth.sqlite:` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sqlite {
    /// The database.
    pub path: PathBuf,
}

/// The section `auth.mysql:` or `auth.postgres:`.
#[derive(Clone, Debug)]
pub struct Database {
    /// The server, and the relay's own account there.
    pub server: Server,
    /// What to read there.
    pub columns: Columns,
    /// Whether the domain must be the realm; otherwise it is not compared.
    pub match_domain: bool,
    /// Whether the user's name must be spelt as it is stored; otherwise the database's comparison counts.
    pub exact_usernames: bool,
    /// The most connections to the database.
    pub connections_max: usize,
    /// How long a connection may take until it is ready for look-ups.
    pub connect_timeout: Duration,
    /// How long one query may take.
    pub query_timeout: Duration,
}

/// Names in the database that can be quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// The table, perhaps with its database, or its schema, in front.
    pub table: Vec<String>,
    /// The user part.
    pub username: String,
    /// The domain.
    pub domain: String,
    /// The user's proof.
    pub secret: SecretColumns,
}

/// The columns that prove a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretColumns {
    /// The password as it is.
    Password(String),
    /// H(user:realm:password), at least one of the two, and one for every offered algorithm.
    Ha1 {
        /// With MD5.
        md5: Option<String>,
        /// With SHA-256.
        sha256: Option<String>,
    },
}

// -- as written ------------------------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Memory,
    Sqlite,
    Mysql,
    Postgres,
}

/// The sections as written, whichever of them is chosen.
pub(super) struct RawAccounts {
    pub(super) kind: Kind,
    pub(super) cache: Option<Duration>,
    pub(super) cache_entries_max: usize,
    sqlite_path: PathBuf,
    mysql: RawDatabase,
    postgres: RawDatabase,
}

struct RawDatabase {
    server: Option<Server>,
    ca: Option<PathBuf>,
    table: Vec<String>,
    username: String,
    domain: String,
    password: String,
    ha1: String,
    ha1_sha256: Option<String>,
    cleartext: bool,
    match_domain: bool,
    exact_usernames: bool,
    connections_max: usize,
    connect_timeout: Duration,
    query_timeout: Duration,
}

impl Default for RawAccounts {
    fn default() -> Self {
        Self {
            kind: Kind::Memory,
            cache: None,
            cache_entries_max: 10_000,
            sqlite_path: PathBuf::from("/var/lib/msrprelay/accounts.db"),
            mysql: RawDatabase::default(),
            postgres: RawDatabase::default(),
        }
    }
}

impl Default for RawDatabase {
    fn default() -> Self {
        Self {
            server: None,
            ca: None,
            table: vec!["subscriber".to_owned()],
            username: "username".to_owned(),
            domain: "domain".to_owned(),
            password: "password".to_owned(),
            ha1: "ha1".to_owned(),
            ha1_sha256: None,
            cleartext: false,
            match_domain: true,
            exact_usernames: true,
            connections_max: 8,
            connect_timeout: Duration::from_secs(2),
            query_timeout: Duration::from_secs(2),
        }
    }
}

/// What a database is called in the config, and what its URL says there.
struct Dialect {
    /// The word of `auth.backend` and the section under `auth`.
    name: &'static str,
    /// How the URL is written.
    example: &'static str,
    /// What in the URL turns TLS on.
    tls: &'static str,
    /// What turns it on and verifies nothing.
    unverified: &'static str,
    /// What in the URL is to leave the name in the certificate unchecked, where that does not work.
    checks_the_name: Option<&'static str>,
    read: fn(&Value) -> Result<Server, String>,
}

const MYSQL: Dialect = Dialect {
    name: "mysql",
    example: "mysql://user:password@host/database",
    tls: "?require_ssl=true",
    unverified: "verify_ca=false",
    checks_the_name: Some("verify_identity=false"),
    read: mysql_server,
};

const POSTGRES: Dialect = Dialect {
    name: "postgres",
    example: "postgres://user:password@host/database",
    tls: "?sslmode=verify-full",
    unverified: "sslmode=require",
    checks_the_name: None,
    read: postgres_server,
};

impl Dialect {
    /// The path of a key in the section.
    fn key(&self, key: &str) -> String {
        format!("auth.{}.{key}", self.name)
    }
}

impl RawAccounts {
    pub(super) fn read(&mut self, auth: &mut Section<'_>) {
        let kinds = [
            ("memory", Kind::Memory),
            ("sqlite", Kind::Sqlite),
            ("mysql", Kind::Mysql),
            ("postgres", Kind::Postgres),
        ];
        auth.value("backend", &mut self.kind, walk::word(&kinds));
        auth.value("cache", &mut self.cache, |value| match value.as_str() {
            Some("off") => Ok(None),
            _ => {
                let bounds = (Duration::from_secs(1), Duration::from_secs(3600));
                walk::bounded(walk::duration, bounds, walk::spell_duration)(value).map(Some)
            }
        });
        let entries = walk::bounded(walk::count, (16, 1 << 20), |count| count.to_string());
        auth.value("cache_entries_max", &mut self.cache_entries_max, entries);
        auth.section("sqlite", |sqlite| {
            sqlite.value("path", &mut self.sqlite_path, |value| walk::text(value).map(PathBuf::from));
        });
        auth.section(MYSQL.name, |section| self.mysql.read(&MYSQL, section));
        auth.section(POSTGRES.name, |section| self.postgres.read(&POSTGRES, section));
    }

    /// The chosen backend; `None` if it has problems.
    pub(super) fn accept(
        self,
        users: Vec<MemoryUser>,
        algorithms: &[Algorithm],
        resolve: impl Fn(&Path) -> PathBuf,
        problems: &mut Problems,
    ) -> Option<Backend> {
        let absent = match self.kind {
            Kind::Sqlite if cfg!(not(feature = "sqlite")) => Some("sqlite"),
            Kind::Mysql if cfg!(not(feature = "mysql")) => Some("mysql"),
            Kind::Postgres if cfg!(not(feature = "postgres")) => Some("postgres"),
            _ => None,
        };
        if let Some(name) = absent {
            problems.add(
                "auth.backend",
                format!("{name} is not part of this build: build it with `cargo build --features {name}`"),
            );
            return None;
        }
        match self.kind {
            Kind::Memory => Some(Backend::Memory(users)),
            Kind::Sqlite => Some(Backend::Sqlite(Sqlite { path: resolve(&self.sqlite_path) })),
            Kind::Mysql => {
                let database = self.mysql.accept(&MYSQL, algorithms, resolve, problems);
                database.map(|database| Backend::Mysql(Box::new(database)))
            }
            Kind::Postgres => {
                let database = self.postgres.accept(&POSTGRES, algorithms, resolve, problems);
                database.map(|database| Backend::Postgres(Box::new(database)))
            }
        }
    }
}

impl RawDatabase {
    fn read(&mut self, dialect: &Dialect, section: &mut Section<'_>) {
        section.optional("url", &mut self.server, dialect.read);
        section.optional("ca", &mut self.ca, |value| walk::text(value).map(PathBuf::from));
        section.value("table", &mut self.table, table);
        section.value("username_column", &mut self.username, identifier);
        section.value("domain_column", &mut self.domain, identifier);
        section.value("password_column", &mut self.password, identifier);
        section.value("ha1_column", &mut self.ha1, identifier);
        section.optional("ha1_sha256_column", &mut self.ha1_sha256, identifier);
        section.value("cleartext_passwords", &mut self.cleartext, walk::boolean);
        section.value("match_domain", &mut self.match_domain, walk::boolean);
        section.value("exact_usernames", &mut self.exact_usernames, walk::boolean);
        let connections = walk::bounded(walk::count, (1, 256), |count| count.to_string());
        section.value("connections_max", &mut self.connections_max, connections);
        let bounds = (Duration::from_millis(100), Duration::from_secs(60));
        let time = || walk::bounded(walk::duration, bounds, walk::spell_duration);
        section.value("connect_timeout", &mut self.connect_timeout, time());
        section.value("query_timeout", &mut self.query_timeout, time());
    }

    fn accept(
        self,
        dialect: &Dialect,
        algorithms: &[Algorithm],
        resolve: impl Fn(&Path) -> PathBuf,
        problems: &mut Problems,
    ) -> Option<Database> {
        let (url, ca) = (dialect.key("url"), dialect.key("ca"));
        if self.server.is_none() && !problems.under(&url) {
            let Dialect { name, example, .. } = dialect;
            problems
                .add(url.as_str(), format!("is missing, but auth.backend is {name}: write it as {example}"));
        }
        let sha256_offered = algorithms.contains(&Algorithm::Sha256);
        if sha256_offered && !self.cleartext && self.ha1_sha256.is_none() {
            problems.add(
                dialect.key("ha1_sha256_column"),
                "is missing, but auth.algorithms offers sha-256: name the column (OpenSIPS has ha1_sha256), or take \
                 sha-256 out",
            );
        }
        let mut server = self.server?;
        match (self.ca, &mut server.tls) {
            (Some(_), Some(ServerTls { verify_chain: false, .. })) => problems.add(
                ca.as_str(),
                format!("does nothing with {}: write {} behind {url}", dialect.unverified, dialect.tls),
            ),
            (Some(path), Some(tls)) => match certificates::read_chain(&resolve(&path)) {
                Ok(roots) => tls.roots = Some(roots),
                Err(message) => problems.add(ca.as_str(), message),
            },
            (Some(_), None) => problems.add(
                ca.as_str(),
                format!("does nothing without TLS: write {} behind {url}, or remove it", dialect.tls),
            ),
            (None, _) => {}
        }
        let md5 = algorithms.contains(&Algorithm::Md5).then_some(self.ha1);
        let secret = match self.cleartext {
            true => SecretColumns::Password(self.password),
            false => SecretColumns::Ha1 { md5, sha256: self.ha1_sha256.filter(|_| sha256_offered) },
        };
        let columns = Columns { table: self.table, username: self.username, domain: self.domain, secret };
        Some(Database {
            server,
            columns,
            match_domain: self.match_domain,
            exact_usernames: self.exact_usernames,
            connections_max: self.connections_max,
            connect_timeout: self.connect_timeout,
            query_timeout: self.query_timeout,
        })
    }
}

/// Warnings about the chosen backend.
pub(super) fn warn(
    backend: &Backend,
    (users_written, shared_secrets): (usize, &[SharedSecret]),
    lookup_timeout: Duration,
    origin: &str,
    warnings: &mut Vec<String>,
) {
    let mut holds_secrets = users_written > 0 || !shared_secrets.is_empty();
    match backend {
        Backend::Memory(users) if users.is_empty() && shared_secrets.is_empty() => {
            warnings.push("auth.memory.users: is empty, so no client can authenticate: add a user".to_owned())
        }
        Backend::Memory(users) => {
            let names = SharedSecret::timed_names(shared_secrets);
            if let Some(MemoryUser { user, domain, .. }) =
                users.iter().find(|user| names.parse(&user.user).is_some())
            {
                warnings.push(format!(
                    "auth.memory.users: {user}@{domain} is taken for a credential of auth.shared_secrets, and cannot log in: \
                     give that user another name, or take without_user out"
                ));
            }
        }
        _ if users_written > 0 => warnings.push(
            "auth.memory.users: is not used, because auth.backend is another: remove the users".to_owned(),
        ),
        _ => {}
    }
    match backend {
        Backend::Memory(_) => {}
        Backend::Sqlite(Sqlite { path }) if !path.exists() => warnings.push(format!(
            "auth.sqlite.path: {}: no such file, so no client can authenticate: msrprelay user add makes it",
            path.display()
        )),
        Backend::Sqlite(Sqlite { path }) if readable_by_others(path) => {
            let path = path.display();
            warnings.push(format!("auth.sqlite.path: {path} can be read by every user: chmod 600 {path}"));
        }
        Backend::Sqlite(_) => {}
        Backend::Mysql(database) | Backend::Postgres(database) => {
            let dialect = if matches!(backend, Backend::Mysql(_)) { MYSQL } else { POSTGRES };
            holds_secrets |= database.server.password.is_some();
            warnings.extend(database.server.warning(&dialect));
            if database.query_timeout >= lookup_timeout {
                let (key, limit) = (dialect.key("query_timeout"), walk::spell_duration(lookup_timeout));
                warnings.push(format!(
                    "{key}: is not below limits.lookup_timeout ({limit}), so a database that hangs \
                     is not noticed: lower it"
                ));
            }
        }
    }
    // An HA1 opens the account as well as the password does.
    if holds_secrets && readable_by_others(Path::new(origin)) {
        warnings.push(format!("{origin}: holds secrets and can be read by every user: chmod 640 {origin}"));
    }
}

impl Server {
    fn warning(&self, dialect: &Dialect) -> Option<String> {
        let url = dialect.key("url");
        let address = address::parse(&self.host);
        let stays_here = self.socket.is_some()
            || self.host == "localhost"
            || address.is_some_and(|address| address.is_loopback());
        match &self.tls {
            None if !stays_here => Some(format!(
                "{url}: what proves the users crosses the network from {} in clear: write {} behind it",
                self.host, dialect.tls
            )),
            Some(ServerTls { verify_chain: false, .. }) => Some(format!(
                "{url}: {} takes anybody for the database: name its CA in {}",
                dialect.unverified,
                dialect.key("ca")
            )),
            Some(ServerTls { verify_name: false, .. }) => dialect.checks_the_name.map(|option| {
                format!(
                    "{url}: {option} has no effect: the driver checks the name in the certificate wherever it checks who \
                     vouches for it: take that out, and name the server as its certificate does"
                )
            }),
            _ => None,
        }
    }
}

// -- readers ---------------------------------------------------------------------------------------

/// The name of a column. Errors do not repeat it, because it may be anything.
fn identifier(value: &Value) -> Result<String, String> {
    let text = walk::text(value)?;
    let plain = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '$' | '-');
    match text.chars().count() <= 64 && text.chars().all(plain) {
        true => Ok(text),
        false => Err("is not a name in a database: write up to 64 letters, digits, _ , $ and -".to_owned()),
    }
}

/// A table, perhaps with its database, or its schema.
fn table(value: &Value) -> Result<Vec<String>, String> {
    let text = walk::text(value)?;
    let parts: Vec<_> = text.split('.').map(|part| identifier(&Value::from(part))).collect();
    match parts.len() {
        1 | 2 => parts.into_iter().collect(),
        _ => Err("is not the name of a table: write subscriber, or opensips.subscriber".to_owned()),
    }
}
