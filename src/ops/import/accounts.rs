//! The sections `[Database]` and `[Memory]`: the users of the relay.

use std::collections::HashSet;
use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use rustls_pki_types::ServerName;

use super::ini::{File, boolean};
use super::outcome::Secrets;
use super::relay::Relay;

/// Of libpq's, those that say what becomes of the connection.
const SSL_MODES: [&str; 4] = ["disable", "require", "verify-ca", "verify-full"];
/// All characters that must not stand in a URL unescaped.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Replaces a password.
pub(super) const LEFT_OUT: &str = "LEFT-OUT";

/// The accounts that the file's backend has.
#[derive(Debug)]
pub(super) enum Accounts {
    /// In the file.
    Memory(Vec<User>),
    /// In a table of MySQL or PostgreSQL.
    Database(Box<Database>),
    /// In a place that we cannot read; a note says so.
    Nowhere,
}

/// Not shown with its password.
pub(super) struct User {
    pub(super) name: String,
    password: String,
}

impl User {
    pub(super) fn password(&self, secrets: Secrets) -> &str {
        if secrets == Secrets::Written { &self.password } else { LEFT_OUT }
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(super) struct Database {
    /// The word of `auth.backend`.
    pub(super) backend: &'static str,
    url: Url,
    pub(super) cleartext: bool,
    pub(super) table: String,
    pub(super) username: String,
    pub(super) domain: String,
    pub(super) password: String,
    pub(super) ha1: String,
}

/// The parts of the database's URL, decoded. Not shown.
struct Url {
    scheme: String,
    user: Option<String>,
    password: Option<String>,
    host: String,
    port: Option<u16>,
    database: String,
    options: Vec<(String, String)>,
    socket: Option<String>,
    /// One that both relays know.
    ssl_mode: Option<String>,
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Url").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

impl Accounts {
    pub(super) fn read(file: &mut File, relay: &Relay) -> Self {
        let accounts = match relay.backend.as_str() {
            "memory" => Self::Memory(users(file, relay)),
            "database" => database(file).map_or(Self::Nowhere, |found| Self::Database(Box::new(found))),
            other => {
                let message = format!(
                    "{other} is not a backend of this relay: auth.backend is memory, without users; choose one by hand"
                );
                file.note("Relay", "backend", message);
                Self::Nowhere
            }
        };
        let backend = &relay.backend;
        for (section, name) in [("Memory", "memory"), ("Database", "database")] {
            if backend != name {
                let message =
                    format!("is not carried over: Relay.backend is {backend}, which does not read it");
                file.leave_out(section, message);
            }
        }
        accounts
    }

    pub(super) fn hold_secrets(&self) -> bool {
        match self {
            Self::Memory(users) => !users.is_empty(),
            Self::Database(database) => database.url.password.is_some(),
            Self::Nowhere => false,
        }
    }
}

// -- in the file -----------------------------------------------------------------------------------

/// The users who could log in there, and can here.
fn users(file: &mut File, relay: &Relay) -> Vec<User> {
    let mut seen = HashSet::new();
    let mut users = Vec::new();
    for (name, password) in file.all("Memory") {
        match usable(&name, &password, relay) {
            Err(why) => file.note("Memory", &name, format!("{why}: not carried over")),
            Ok(known_as) if !seen.insert(known_as.clone()) => {
                file.note("Memory", &name, "is there twice: the first is carried over");
            }
            Ok(_) => users.push(User { name, password }),
        }
    }
    users
}

/// The name by which this relay knows the user.
fn usable(name: &str, password: &str, relay: &Relay) -> Result<String, String> {
    let Some((user, domain)) = name.rsplit_once('@').filter(|(user, _)| !user.is_empty()) else {
        return Err("has no domain, so no client could log in by that name".to_owned());
    };
    if password.is_empty() {
        return Err("has no password".to_owned());
    }
    let domain = domain.to_ascii_lowercase();
    match &relay.realm {
        Some(realm) if !realm.eq_ignore_ascii_case(&domain) => {
            Err(format!("is not of the domain {realm}, the only one with Relay.default_domain"))
        }
        None if ServerName::try_from(domain.as_str()).is_err() => {
            Err("has no domain name behind the @, so no client could log in by that name".to_owned())
        }
        _ => Ok(format!("{user}@{domain}")),
    }
}

// -- in a database ---------------------------------------------------------------------------------

const DATABASE: &str = "Database";

fn database(file: &mut File) -> Option<Database> {
    let uri = file.set(DATABASE, "uri");
    let cleartext = file.read(DATABASE, "cleartext_passwords", "yes or no", boolean).unwrap_or(true);
    let mut name = |key, default: &str| file.set(DATABASE, key).unwrap_or_else(|| default.to_owned());
    let (table, username) = (name("subscriber_table", "subscriber"), name("username_col", "username"));
    let (domain, password, ha1) =
        (name("domain_col", "domain"), name("password_col", "password"), name("ha1_col", "ha1"));
    let by_hand = "auth.backend is memory, without users; choose a backend by hand";
    let Some(uri) = uri else {
        file.note(DATABASE, "uri", format!("is missing: {by_hand}"));
        return None;
    };
    let Some(url) = Url::parse(&uri) else {
        file.note(
            DATABASE,
            "uri",
            format!("cannot be understood (and is not shown, for it holds a password): {by_hand}"),
        );
        return None;
    };
    let Some(backend) = backend_of(&url.scheme) else {
        let message = match url.scheme.as_str() {
            "sqlite" => format!(
                "an SQLite database of that relay has other tables than one of this: {by_hand}, for example sqlite with \
                 `msrprelay user add`"
            ),
            scheme => format!("{scheme} is not a database of this relay: {by_hand}"),
        };
        file.note(DATABASE, "uri", message);
        return None;
    };
    for (option, _) in &url.options {
        file.note(DATABASE, "uri", format!("its option {option} has no counterpart: not carried over"));
    }
    if backend == "mysql" && url.host == "localhost" && url.socket.is_none() {
        let message = "localhost meant the database's socket, and is TCP port 3306 here: if the database does not listen \
                       there, write ?socket=/run/mysqld/mysqld.sock behind the url";
        file.note(DATABASE, "uri", message);
    }
    if backend == "postgres" && url.user.is_none() {
        file.note(
            DATABASE,
            "uri",
            "names no user, which that relay took from the system: write one into the url",
        );
    }
    if backend == "postgres" && url.socket.is_none() && url.ssl_mode.is_none() {
        let message = "was encrypted if the server could, and is in clear here: write ?sslmode=verify-full behind the url, \
                       and name the server's CA in auth.postgres.ca";
        file.note(DATABASE, "uri", message);
    }
    Some(Database { backend, url, cleartext, table, username, domain, password, ha1 })
}

/// The backend for the scheme of a URI, as SQLObject knows them.
fn backend_of(scheme: &str) -> Option<&'static str> {
    match scheme {
        "mysql" => Some("mysql"),
        "postgres" | "postgresql" | "psycopg" | "psycopg2" => Some("postgres"),
        _ => None,
    }
}

impl Database {
    pub(super) fn url(&self, secrets: Secrets) -> String {
        self.url.write(self.backend, secrets)
    }
}

impl Url {
    /// Parsed as Python's `urlparse` does. `None` where that finds no host or no database.
    fn parse(uri: &str) -> Option<Self> {
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (scheme, rest) = uri.split_once(':')?;
        let (rest, _fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let scheme = scheme.to_ascii_lowercase();
        let mut url = Self {
            scheme,
            user: None,
            password: None,
            host: String::new(),
            port: None,
            database: String::new(),
            options: Vec::new(),
            socket: None,
            ssl_mode: None,
        };
        let Some(backend) = backend_of(&url.scheme) else {
            return Some(url);
        };
        let (authority, database) = rest.strip_prefix("//")?.split_once('/')?;
        let (login, place) =
            authority.rsplit_once('@').map_or((None, authority), |(login, place)| (Some(login), place));
        if let Some(login) = login {
            let (user, password) =
                login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
            url.user = Some(decode(user));
            url.password = password.filter(|password| !password.is_empty()).map(decode);
        }
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse().ok()?)),
            _ => (place, None),
        };
        url.host = if host.is_empty() { "localhost".to_owned() } else { host.to_owned() };
        url.port = port;
        url.database = decode(database.trim_end_matches('/'));
        for (name, value) in query.split('&').filter_map(|option| option.split_once('=')) {
            if backend == "mysql" && name == "unix_socket" || backend == "postgres" && name == "host" {
                url.socket = Some(decode(value));
            } else if backend == "postgres" && name == "sslmode" && SSL_MODES.contains(&value) {
                url.ssl_mode = Some(value.to_owned());
            } else {
                url.options.push((name.to_owned(), value.to_owned()));
            }
        }
        (!url.database.is_empty()).then_some(url)
    }

    fn write(&self, backend: &str, secrets: Secrets) -> String {
        let encode = |text: &str| utf8_percent_encode(text, RESERVED).to_string();
        let mut text = format!("{backend}://");
        if let Some(user) = &self.user {
            text += &encode(user);
            if let Some(password) = &self.password {
                text.push(':');
                text += &if secrets == Secrets::Written { encode(password) } else { LEFT_OUT.to_owned() };
            }
            text.push('@');
        }
        text += &self.host;
        if let Some(port) = self.port {
            text += &format!(":{port}");
        }
        text.push('/');
        text += &encode(&self.database);
        if let Some(socket) = &self.socket {
            let option = if backend == "mysql" { "socket" } else { "host" };
            text += &format!("?{option}={socket}");
        } else if let Some(mode) = &self.ssl_mode {
            text += &format!("?sslmode={mode}");
        }
        text
    }
}
