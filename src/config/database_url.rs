//! The server that accounts are asked of: what `auth.mysql.url` and `auth.postgres.url` say.
//!
//! Invariant: no problem and no `Debug` repeats a URL or any part of one, for it holds a password, and a badly written one
//! holds it anywhere.
//! Must not know: how accounts are looked up; of a database driver only its grammar of URLs.

use std::fmt;

use rustls_pki_types::CertificateDer;
#[cfg(any(feature = "mysql", feature = "postgres"))]
use rustls_pki_types::ServerName;
use serde_yaml::Value;

#[cfg(any(feature = "mysql", feature = "postgres"))]
use super::walk;
#[cfg(any(feature = "mysql", feature = "postgres"))]
use msrp_proto::address;

/// What the database's `url` says.
#[derive(Clone)]
pub struct Server {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// A socket of this machine, instead of the host; of PostgreSQL the directory that it is in.
    pub socket: Option<String>,
    /// The relay's own account.
    pub user: Option<String>,
    /// Its password. Not in `Debug`.
    pub password: Option<String>,
    /// The database.
    pub database: String,
    /// `None`: without TLS.
    pub tls: Option<ServerTls>,
}

/// How the database's certificate is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// Whether a CA must vouch for it.
    pub verify_chain: bool,
    /// Whether it must be for the host.
    pub verify_name: bool,
    /// The roots that verify it; `None`: the public authorities.
    pub roots: Option<Vec<CertificateDer<'static>>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("at", &self.to_string())
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// For people: the server's place, without secrets.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            Some(socket) => write!(f, "{} at {socket}", self.database),
            None if self.host.contains(':') => {
                write!(f, "{} at [{}]:{}", self.database, self.host, self.port)
            }
            None => write!(f, "{} at {}:{}", self.database, self.host, self.port),
        }
    }
}

/// All options that the URL may have. The driver's other options are set here, not in the URL.
#[cfg(feature = "mysql")]
const URL_OPTIONS: [&str; 4] = ["socket", "require_ssl", "verify_ca", "verify_identity"];

#[cfg(not(feature = "mysql"))]
pub(super) fn mysql_server(_: &Value) -> Result<Server, String> {
    Err("is of no use: MySQL is not part of this build (`cargo build --features mysql`)".to_owned())
}

#[cfg(feature = "mysql")]
pub(super) fn mysql_server(value: &Value) -> Result<Server, String> {
    const REMEDY: &str = "write it as mysql://user:password@host:3306/database, in user and password %XX for whatever \
                          is not a letter, a digit or one of - . _ ~";
    let text = walk::text(value)?;
    let malformed = || format!("is not the URL of a database: {REMEDY}");
    let (_, options) = text.split_once('?').unwrap_or((&text, ""));
    if text.contains('#') || options.contains(['@', '?', '/']) && !options.contains("socket=/") {
        return Err(malformed());
    }
    let known = |option: &str| URL_OPTIONS.iter().any(|known| option.split('=').next() == Some(known));
    if !options.split('&').filter(|option| !option.is_empty()).all(known) {
        return Err(format!("has an option that is not known here: write {}", URL_OPTIONS.join(", ")));
    }
    let parsed = mysql_async::Opts::from_url(&text).map_err(|error| match error {
        mysql_async::UrlError::InvalidParamValue { .. } => {
            "has an option that is neither true nor false: write ?require_ssl=true".to_owned()
        }
        _ => malformed(),
    })?;
    let database = parsed.db_name().ok_or_else(|| format!("names no database: {REMEDY}"))?;
    let tls = parsed.ssl_opts().map(|tls| ServerTls {
        verify_chain: !tls.accept_invalid_certs(),
        verify_name: !tls.skip_domain_validation(),
        roots: None,
    });
    if tls.is_none() && (options.contains("verify_")) {
        return Err("verifies nothing without TLS: write ?require_ssl=true as well".to_owned());
    }
    let socket = parsed.socket().map(str::to_owned);
    if tls.is_some() && socket.is_some() {
        return Err("has a socket of this machine, which knows no TLS: take require_ssl out".to_owned());
    }
    let host = parsed.ip_or_hostname().trim_matches(['[', ']']).to_owned();
    if socket.is_none() {
        check_host(&host, REMEDY)?;
    }
    Ok(Server {
        host,
        port: parsed.tcp_port(),
        socket,
        user: parsed.user().map(str::to_owned),
        password: parsed.pass().map(str::to_owned),
        database: database.to_owned(),
        tls,
    })
}

/// Each driver would find out when it connects, and say less.
#[cfg(any(feature = "mysql", feature = "postgres"))]
fn check_host(host: &str, remedy: &str) -> Result<(), String> {
    if host.contains(',') {
        return Err(
            "names several hosts: write one, such as a name or an address that leads to the server in charge"
                .to_owned(),
        );
    }
    match address::parse(host).is_some() || ServerName::try_from(host).is_ok() {
        true => Ok(()),
        false => Err(format!("is not the URL of a database: {remedy}")),
    }
}

#[cfg(not(feature = "postgres"))]
pub(super) fn postgres_server(_: &Value) -> Result<Server, String> {
    Err("is of no use: PostgreSQL is not part of this build (`cargo build --features postgres`)".to_owned())
}

/// As libpq reads it, as far as it is of use here. The driver's own reader does not know `verify-full`.
#[cfg(feature = "postgres")]
pub(super) fn postgres_server(value: &Value) -> Result<Server, String> {
    const REMEDY: &str = "write it as postgres://user:password@host:5432/database, in user and password %XX for whatever \
                          is not a letter, a digit or one of - . _ ~";
    let malformed = || format!("is not the URL of a database: {REMEDY}");
    let text = walk::text(value)?;
    let (text, options) = text.split_once('?').unwrap_or((&text, ""));
    let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let rest = rest.filter(|rest| !rest.contains('#')).ok_or_else(malformed)?;
    // What stands behind the `?` of a password that is badly written.
    if options.contains(['@', '?', '#']) {
        return Err(malformed());
    }
    let (authority, database) = rest.split_once('/').ok_or_else(|| format!("names no database: {REMEDY}"))?;
    let (login, place) = authority.rsplit_once('@').ok_or_else(|| format!("names no user: {REMEDY}"))?;
    let (user, password) =
        login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
    if login.contains('@')
        || password.is_some_and(|password| password.contains(':'))
        || database.contains('/')
    {
        return Err(malformed());
    }
    let decode = |text: &str| {
        let decoded = percent_encoding::percent_decode_str(text).decode_utf8().ok();
        decoded.filter(|text| !text.contains('\0')).map(String::from).ok_or_else(malformed)
    };
    let (user, database) = (decode(user)?, decode(database)?);
    if user.is_empty() {
        return Err(format!("names no user: {REMEDY}"));
    }
    if database.is_empty() {
        return Err(format!("names no database: {REMEDY}"));
    }
    if place.contains(',') {
        check_host(place, REMEDY)?;
    }
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port_number(port).ok_or_else(malformed)?),
        _ => (place, 5432),
    };
    let host = match (host.strip_prefix('['), host.contains([':', '[', ']'])) {
        (None, false) => decode(host)?,
        (Some(rest), _) => {
            let address = rest.strip_suffix(']').and_then(address::parse).ok_or_else(malformed)?;
            address.to_string()
        }
        (None, true) => return Err(malformed()),
    };
    let mut server = Server {
        socket: host.starts_with('/').then(|| host.clone()),
        host,
        port,
        user: Some(user),
        password: password.map(decode).transpose()?,
        database,
        tls: None,
    };
    for option in options.split('&').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("host", directory)) if directory.starts_with('/') => {
                server.socket = Some(decode(directory)?)
            }
            Some(("sslmode", mode)) => server.tls = ssl_mode(mode)?,
            Some(("sslrootcert", _)) => {
                return Err("has sslrootcert: name the CA in auth.postgres.ca, or leave it to the system's authorities"
                    .to_owned());
            }
            _ => {
                return Err("has an option that is not known here: write sslmode, host=/directory".to_owned());
            }
        }
    }
    if server.tls.is_some() && server.socket.is_some() {
        return Err("has a socket of this machine, which knows no TLS: take sslmode out".to_owned());
    }
    if server.socket.is_none() {
        if server.host.is_empty() {
            return Err(format!("names no host: {REMEDY}"));
        }
        check_host(&server.host, REMEDY)?;
    }
    Ok(server)
}

#[cfg(feature = "postgres")]
fn port_number(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| is_number && *port != 0)
}

/// `None`: in clear. Two that libpq has leave it to the server whether anything is encrypted.
#[cfg(feature = "postgres")]
fn ssl_mode(mode: &str) -> Result<Option<ServerTls>, String> {
    let tls = |verify_chain, verify_name| Ok(Some(ServerTls { verify_chain, verify_name, roots: None }));
    match mode {
        "disable" => Ok(None),
        "require" => tls(false, false),
        "verify-ca" => tls(true, false),
        "verify-full" => tls(true, true),
        "allow" | "prefer" => {
            Err("would go on in clear if the server has no TLS: write sslmode=verify-full, or disable"
                .to_owned())
        }
        _ => Err("has an sslmode that is not known here: write disable, require, verify-ca or verify-full"
            .to_owned()),
    }
}
