//! The `subscriber` tables of OpenSIPS and Kamailio, as far as a relay looks at them, and what fills them.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::account::DOMAIN;
use crate::mariadb::MariaDb;

/// Time-outs that no busy machine reaches.
pub const PATIENT: &str = ", connect_timeout: 30s, query_timeout: 30s";

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

/// Whose table it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Proxy {
    OpenSips,
    Kamailio,
}

/// A database with an empty table, and an account for the relay that may do what docs/operate/accounts.md grants it.
pub struct Database<'a> {
    pub server: &'a MariaDb,
    pub name: String,
    proxy: Proxy,
}

/// The password of the relay's own account.
const RELAY_PASSWORD: &str = "only-reads";

impl<'a> Database<'a> {
    pub fn new(server: &'a MariaDb, proxy: Proxy) -> Self {
        Self::with_charset(server, proxy, "utf8mb4")
    }

    pub fn with_charset(server: &'a MariaDb, proxy: Proxy, charset: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("site{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let table = match proxy {
            Proxy::OpenSips => OPENSIPS,
            Proxy::Kamailio => KAMAILIO,
        };
        let sha256 = if proxy == Proxy::OpenSips { ", ha1_sha256" } else { "" };
        server.run(&format!(
            "CREATE DATABASE {name} CHARACTER SET {charset};
             USE {name}; {table};
             CREATE USER '{name}'@'%' IDENTIFIED BY '{RELAY_PASSWORD}';
             GRANT SELECT (username, domain, ha1{sha256}) ON {name}.subscriber TO '{name}'@'%';"
        ));
        Self { server, name, proxy }
    }

    /// Lets the relay's account read passwords as well.
    pub fn grant_passwords(&self) {
        let name = &self.name;
        self.server.run(&format!("GRANT SELECT (password) ON {name}.subscriber TO '{name}'@'%'"));
    }

    /// Does something with this database.
    #[track_caller]
    pub fn run(&self, sql: &str) -> String {
        self.server.run(&format!("USE {}; {sql}", self.name))
    }

    /// Adds a subscriber with a password in clear and all hashes, as the proxies' tools do.
    pub fn add(&self, user: &str, domain: &str, password: &str) {
        let (user, domain, password) = (literal(user), literal(domain), literal(password));
        let more = match self.proxy {
            Proxy::OpenSips => {
                format!(", ha1_sha256 = SHA2(CONCAT({user}, ':', {domain}, ':', {password}), 256)")
            }
            Proxy::Kamailio => {
                format!(", ha1b = MD5(CONCAT({user}, '@', {domain}, ':', {domain}, ':', {password}))")
            }
        };
        self.run(&format!(
            "INSERT INTO subscriber SET username = {user}, domain = {domain}, password = {password}, \
             ha1 = MD5(CONCAT({user}, ':', {domain}, ':', {password})){more}"
        ));
    }

    /// Adds user1 to user`count`, whose passwords are `secret of user1` and so on, hashes alone.
    pub fn add_many(&self, count: usize) {
        self.run(&format!(
            "INSERT INTO subscriber (username, domain, ha1)
             SELECT CONCAT('user', seq), '{DOMAIN}', MD5(CONCAT('user', seq, ':{DOMAIN}:secret of user', seq))
             FROM seq_1_to_{count}"
        ));
    }

    /// The keys under `auth` that lead here, with more of them for `auth.mysql`. The server has its time, unless the
    /// test is about that.
    pub fn keys(&self, more: &str) -> String {
        let time = if more.contains("_timeout") { "" } else { PATIENT };
        self.keys_as_they_are(&format!("{more}{time}"))
    }

    /// The same, with the time-outs that an operator has who names none.
    pub fn keys_as_they_are(&self, more: &str) -> String {
        format!("backend: mysql, mysql: {{url: '{}'{more}}}", self.url())
    }

    pub fn url(&self) -> String {
        self.server.url(&self.name, RELAY_PASSWORD, &self.name)
    }

    /// The URL by TCP.
    pub fn url_over_tcp(&self, options: &str) -> String {
        let (name, port) = (&self.name, self.server.port.unwrap());
        format!("mysql://{name}:{RELAY_PASSWORD}@127.0.0.1:{port}/{name}{options}")
    }
}

/// Text as SQL writes it, whatever is in it.
fn literal(text: &str) -> String {
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("CONVERT(X'{hex}' USING utf8mb4)")
}
