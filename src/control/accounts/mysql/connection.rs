//! One connection to the database and the one statement that is run on it.
//!
//! Invariants: names in the statement are quoted, whatever the config let pass; values never stand in it; what went
//! wrong is said in words an operator can act on, and never with the password. The password is asked of the
//! database only where the config says that it is in clear there.

use std::fmt;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, DriverError, Error, IoError, Opts, OptsBuilder, Row, SslOpts, Statement, Value};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::config::{self, Columns, DatabaseServer, SecretColumns};
use crate::control::accounts::answer::{Answer, Secret};
use crate::telemetry::{Site, Source, gated};
use msrp_proto::digest::{Algorithm, Ha1};

/// How long the farewell of a connection may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest packet either side may send: an account is a few hundred bytes.
const PACKET_BYTES_MAX: usize = 1 << 20;
/// Rows asked for: enough to see that there is not exactly one.
const ROWS_MAX: usize = 16;

/// How to connect and what to ask.
pub(super) struct Plan {
    opts: Opts,
    statement: String,
    shape: Shape,
    connect_timeout: Duration,
    /// Where it is, for people.
    at: String,
}

/// What the columns of a row are, and which rows count.
#[derive(Clone)]
struct Shape {
    match_domain: bool,
    exact_usernames: bool,
    secret: SecretColumns,
}

/// A connection on which a look-up has worked.
pub(super) struct Connection {
    /// There until this is dropped.
    conn: Option<Conn>,
    statement: Statement,
    shape: Shape,
}

/// Why a connection or a query failed.
pub(super) enum Failure {
    /// The name that was asked for cannot be in such a table.
    OfTheName,
    /// The driver, or the server, says so.
    Driver(Error),
    /// A connection was not good for look-ups in time.
    Late(Duration),
}

impl Plan {
    pub(super) fn new(settings: &config::Mysql) -> Self {
        let config::Mysql { server, columns, match_domain, exact_usernames, connect_timeout, .. } = settings;
        Self {
            opts: opts(server, settings.query_timeout),
            statement: statement(columns, *match_domain),
            shape: Shape {
                match_domain: *match_domain,
                exact_usernames: *exact_usernames,
                secret: columns.secret.clone(),
            },
            connect_timeout: *connect_timeout,
            at: server.to_string(),
        }
    }

    /// Connects, prepares the statement, and runs it once for nobody: what the relay's account may not do, or a
    /// column that is not there, shows now.
    pub(super) async fn open(&self) -> Result<Connection, Failure> {
        let opening = async {
            let mut conn = Conn::new(self.opts.clone()).await?;
            let statement = conn.prep(self.statement.as_str()).await?;
            let mut connection = Connection { conn: Some(conn), statement, shape: self.shape.clone() };
            connection.rows("", "").await?;
            Ok(connection)
        };
        match timeout(self.connect_timeout, opening).await {
            Ok(opened) => opened.map_err(Failure::Driver),
            Err(_) => Err(Failure::Late(self.connect_timeout)),
        }
    }
}

fn opts(server: &DatabaseServer, query_timeout: Duration) -> Opts {
    let tls = server.tls.as_ref().map(|tls| {
        let roots = tls.roots.iter().flatten().map(|root| root.to_vec().into()).collect();
        SslOpts::default()
            .with_root_certs(roots)
            .with_disable_built_in_roots(tls.roots.is_some())
            .with_danger_accept_invalid_certs(!tls.verify_chain)
            .with_danger_skip_domain_validation(!tls.verify_name)
    });
    // What the relay has given up waiting for, the server gives up as well: no heap of queries behind a lock.
    let lock_wait = query_timeout.as_secs().max(1);
    OptsBuilder::default()
        // Not the URL: the driver would resolve its host on the calling thread, with everybody waiting.
        .ip_or_hostname(server.host.as_str())
        .tcp_port(server.port)
        .socket(server.socket.as_deref())
        // Otherwise it would move to a socket that the server names, and leave TLS behind.
        .prefer_socket(false)
        .user(server.user.as_deref())
        .pass(server.password.as_deref())
        .db_name(Some(server.database.as_str()))
        .ssl_opts(tls)
        .tcp_keepalive(Some(Duration::from_secs(60)))
        // Said here, so that it need not be asked at every connect.
        .max_allowed_packet(Some(PACKET_BYTES_MAX))
        .wait_timeout(Some(0))
        .setup(vec![format!("SET SESSION lock_wait_timeout = {lock_wait}")])
        .into()
}

fn statement(columns: &Columns, match_domain: bool) -> String {
    let table = columns.table.iter().map(|part| quoted(part)).collect::<Vec<_>>().join(".");
    let mut selected = vec![quoted(&columns.username)];
    let mut condition = format!("{} = ?", quoted(&columns.username));
    if match_domain {
        selected.push(quoted(&columns.domain));
        condition += &format!(" AND {} = ?", quoted(&columns.domain));
    }
    match &columns.secret {
        SecretColumns::Password(password) => selected.push(quoted(password)),
        SecretColumns::Ha1 { md5, sha256 } => {
            selected.extend([md5, sha256].into_iter().flatten().map(|column| quoted(column)));
        }
    }
    format!("SELECT {} FROM {table} WHERE {condition} LIMIT {ROWS_MAX}", selected.join(", "))
}

/// As a name in backquotes, which ends nowhere but where we end it.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

impl Connection {
    pub(super) async fn find(&mut self, user: &str, realm: &str) -> Result<Answer, Failure> {
        match self.rows(user, realm).await {
            Ok(rows) => Ok(self.shape.judge(rows, user, realm)),
            Err(Error::Server(error)) if is_of_the_name(error.code) => Err(Failure::OfTheName),
            Err(error) => Err(Failure::Driver(error)),
        }
    }

    async fn rows(&mut self, user: &str, realm: &str) -> Result<Vec<Row>, Error> {
        let Some(conn) = &mut self.conn else {
            return Ok(Vec::new());
        };
        match self.shape.match_domain {
            true => conn.exec(&self.statement, (user, realm)).await,
            false => conn.exec(&self.statement, (user,)).await,
        }
    }
}

/// Takes leave, for a moment at most. Left to itself the driver would first read what is still to come, from a
/// server that perhaps never sends it.
impl Drop for Connection {
    fn drop(&mut self) {
        if let (Some(conn), Ok(runtime)) = (self.conn.take(), Handle::try_current()) {
            runtime.spawn(async move {
                let _ = timeout(CLOSE_TIMEOUT, conn.disconnect()).await;
            });
        }
    }
}

/// The server cannot bring the name that was asked for together with the column's character set: two, three or
/// more collations that do not go together; bytes that are no text there; a conversion that would lose something.
fn is_of_the_name(code: u16) -> bool {
    matches!(code, 1267 | 1270 | 1271 | 1300 | 1366 | 3854 | 3988)
}

impl Shape {
    /// What the rows say. The database compares as its collation does: without regard to case, to accents, to spaces
    /// at the end. A digest knows none of that, and neither do the limits that are counted by user.
    fn judge(&self, rows: Vec<Row>, user: &str, realm: &str) -> Answer {
        let accounts: Vec<_> = rows.into_iter().filter_map(|row| self.account(row, realm)).collect();
        let exact = |account: &&Account| account.username == user.as_bytes();
        let mut meant: Vec<_> = accounts.iter().filter(exact).collect();
        if meant.is_empty() && !self.exact_usernames {
            meant = accounts.iter().collect();
        }
        match meant.as_slice() {
            [account] => account.secret.clone().map_or(Answer::Unknown, Answer::Found),
            [] => Answer::Unknown,
            _ => {
                let (source, accounts) = (Source::of(&(user, realm)), meant.len());
                gated!(
                    warn,
                    Site::SeveralAccounts,
                    source,
                    { user, realm, accounts },
                    "Several accounts of one name: none is taken"
                );
                Answer::Unknown
            }
        }
    }

    /// `None` for a row of another domain.
    fn account(&self, row: Row, realm: &str) -> Option<Account> {
        let mut values = row.unwrap().into_iter().map(text);
        let username = values.next().flatten()?;
        if self.match_domain && !values.next().flatten()?.eq_ignore_ascii_case(realm.as_bytes()) {
            return None;
        }
        let mut next = || values.next().flatten().and_then(|bytes| String::from_utf8(bytes).ok());
        let secret = match &self.secret {
            // An empty one is none: nobody is to get in without a password.
            SecretColumns::Password(_) => next().filter(|text| !text.is_empty()).map(Secret::Password),
            SecretColumns::Ha1 { md5, sha256 } => {
                let mut hash = |column: &Option<String>, algorithm| {
                    let text = column.as_ref().and_then(|_| next())?;
                    Ha1::from_hex(text.trim()).filter(|ha1| ha1.algorithm() == algorithm)
                };
                let (md5, sha256) = (hash(md5, Algorithm::Md5), hash(sha256, Algorithm::Sha256));
                (md5.is_some() || sha256.is_some()).then_some(Secret::Hashed { md5, sha256 })
            }
        };
        Some(Account { username, secret })
    }
}

/// One row.
struct Account {
    username: Vec<u8>,
    secret: Option<Secret>,
}

fn text(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plan({})", self.at)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection(..)")
    }
}

/// For people: where it is.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.at)
    }
}

/// For the operator: what is wrong and what to do about it.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfTheName => f.write_str("the name cannot be in such a table"),
            Self::Late(time) => write!(
                f,
                "it does not get a connection ready for look-ups within {time:?}: see what keeps it busy, whether the \
                 table is locked, whether a firewall swallows the connection"
            ),
            Self::Driver(Error::Server(error)) => {
                let remedy = match error.code {
                    1040 | 1203 | 1226 => {
                        "give the relay's account more connections there, or lower auth.mysql.connections_max"
                    }
                    1044 | 1142 | 1143 => "GRANT the relay's account SELECT on the columns it reads, or correct the \
                                           names under auth.mysql",
                    1045 | 1698 => "correct user and password in auth.mysql.url; if the server insists on TLS, add \
                                    ?require_ssl=true",
                    1049 => "correct the database in auth.mysql.url",
                    1054 => "correct the names of the columns under auth.mysql",
                    1130 => "let the relay's account connect from this host",
                    1146 => "correct auth.mysql.table",
                    3159 | 4151 => "it insists on TLS: write ?require_ssl=true behind auth.mysql.url",
                    _ => "see the server's own log",
                };
                write!(f, "{error}: {remedy}")
            }
            Self::Driver(Error::Driver(DriverError::NoClientSslFlagFromServer)) => f.write_str(
                "it knows no TLS: turn TLS on there, or take require_ssl out of auth.mysql.url if the way is safe",
            ),
            Self::Driver(Error::Io(IoError::Tls(error))) => {
                write!(f, "{error}: name the CA of its certificate in auth.mysql.ca, and the host that it is for")
            }
            Self::Driver(Error::Io(IoError::Io(error))) => {
                write!(f, "{error}: see whether it runs, or correct host and port in auth.mysql.url")
            }
            Self::Driver(error) => write!(f, "{error}: see the server's own log"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_where_we_end_them() {
        let hostile = "password` FROM mysql.user -- ";
        let columns = Columns {
            table: vec!["opensips".to_owned(), "sub`scriber".to_owned()],
            username: "username".to_owned(),
            domain: hostile.to_owned(),
            secret: SecretColumns::Ha1 { md5: Some("ha1".to_owned()), sha256: None },
        };
        assert_eq!(
            statement(&columns, true),
            "SELECT `username`, `password`` FROM mysql.user -- `, `ha1` FROM `opensips`.`sub``scriber` \
             WHERE `username` = ? AND `password`` FROM mysql.user -- ` = ? LIMIT 16"
        );
        let passwords = Columns { secret: SecretColumns::Password("password".to_owned()), ..columns };
        assert!(!statement(&passwords, false).contains("mysql.user"));
    }
}
