//! The `subscriber` tables of OpenSIPS and Kamailio, as far as a relay reads them, and their content.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::account::DOMAIN;
use crate::sql::{Lock, SqlServer};

/// Time-outs that no busy machine reaches.
pub const PATIENT: &str = ", connect_timeout: 30s, query_timeout: 30s";

/// The proxy that owns the table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Proxy {
    OpenSips,
    Kamailio,
}

/// A database with an empty table, and an account for the relay with the rights that docs/operate/accounts.md grants.
pub struct Database<'a, S> {
    pub server: &'a S,
    pub name: String,
    proxy: Proxy,
}

/// The password of the relay's own account.
pub const RELAY_PASSWORD: &str = "only-reads";

impl<'a, S: SqlServer> Database<'a, S> {
    pub fn new(server: &'a S, proxy: Proxy) -> Self {
        Self::with_encoding(server, proxy, None)
    }

    pub fn with_encoding(server: &'a S, proxy: Proxy, encoding: Option<&str>) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("site{}", NEXT.fetch_add(1, Ordering::Relaxed));
        server.make_site(&name, proxy, encoding, RELAY_PASSWORD);
        Self { server, name, proxy }
    }

    /// Lets the relay's account read passwords as well.
    pub fn grant_passwords(&self) {
        self.run(&format!("GRANT SELECT (password) ON subscriber TO {}", S::account(&self.name)));
    }

    /// Runs SQL in this database.
    #[track_caller]
    pub fn run(&self, sql: &str) -> String {
        self.server.run_in(Some(&self.name), sql)
    }

    /// Locks the table until the value is dropped.
    pub fn lock(&self) -> Lock {
        self.server.lock(&self.name)
    }

    /// Adds a subscriber with a password in clear and all hashes, as the proxies' tools do.
    pub fn add(&self, user: &str, domain: &str, password: &str) {
        let (user, domain, password) = (S::literal(user), S::literal(domain), S::literal(password));
        let (column, hash) = match self.proxy {
            Proxy::OpenSips => {
                ("ha1_sha256", S::sha256(&format!("CONCAT({user}, ':', {domain}, ':', {password})")))
            }
            Proxy::Kamailio => {
                ("ha1b", format!("MD5(CONCAT({user}, '@', {domain}, ':', {domain}, ':', {password}))"))
            }
        };
        self.run(&format!(
            "INSERT INTO subscriber (username, domain, password, ha1, {column}) VALUES \
             ({user}, {domain}, {password}, MD5(CONCAT({user}, ':', {domain}, ':', {password})), {hash})"
        ));
    }

    /// Adds user1 to user`count`, whose passwords are `secret of user1` and so on, hashes alone.
    pub fn add_many(&self, count: usize) {
        self.run(&format!(
            "INSERT INTO subscriber (username, domain, ha1)
             SELECT CONCAT('user', n), '{DOMAIN}', MD5(CONCAT('user', n, ':{DOMAIN}:secret of user', n))
             FROM ({}) AS numbers",
            S::numbers(count)
        ));
    }

    /// The keys under `auth` that lead here, with more of them for the database. The server has its time, unless the
    /// test is about that.
    pub fn keys(&self, more: &str) -> String {
        let time = if more.contains("_timeout") { "" } else { PATIENT };
        self.keys_as_they_are(&format!("{more}{time}"))
    }

    /// The same, with the default time-outs.
    pub fn keys_as_they_are(&self, more: &str) -> String {
        keys_of::<S>(&self.server.url(&self.name, RELAY_PASSWORD), more)
    }

    /// The keys that lead here by TCP, with options behind the URL.
    pub fn keys_over_tcp(&self, options: &str, more: &str) -> String {
        let (name, port) = (&self.name, self.server.port());
        let url = format!("{}://{name}:{RELAY_PASSWORD}@127.0.0.1:{port}/{name}{options}", S::BACKEND);
        keys_of::<S>(&url, &format!("{PATIENT}{more}"))
    }
}

/// The keys under `auth` that lead to a URL.
pub fn keys_of<S: SqlServer>(url: &str, more: &str) -> String {
    format!("backend: {0}, {0}: {{url: '{url}'{more}}}", S::BACKEND)
}
