//! MySQL and MariaDB: one connection to the database and the one statement that is run on it.
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

use super::rows::{ROWS_MAX, Shape};
use super::{CLOSE_TIMEOUT, Driver, Failure};
use crate::config::{self, Columns, DatabaseServer};
use crate::control::accounts::answer::Answer;

/// The longest packet either side may send: an account is a few hundred bytes.
const PACKET_BYTES_MAX: usize = 1 << 20;

/// How to connect and what to ask.
pub(in crate::control::accounts) struct MysqlDriver {
    opts: Opts,
    statement: String,
    shape: Shape,
}

/// A connection on which a look-up has worked.
pub(in crate::control::accounts) struct Connection {
    /// There until this is dropped.
    conn: Option<Conn>,
    statement: Statement,
}

/// What the driver, or the server, says.
pub(in crate::control::accounts) struct Fault(Error);

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl MysqlDriver {
    pub(in crate::control::accounts) fn new(settings: &config::Database) -> Self {
        let shape = Shape::new(settings);
        Self {
            opts: opts(&settings.server, settings.query_timeout),
            statement: statement(&settings.columns, &shape),
            shape,
        }
    }

    async fn rows(&self, connection: &mut Connection, user: &str, realm: &str) -> Result<Vec<Row>, Error> {
        let Connection { conn: Some(conn), statement } = connection else {
            return Ok(Vec::new());
        };
        match self.shape.match_domain {
            true => conn.exec(&*statement, (user, realm)).await,
            false => conn.exec(&*statement, (user,)).await,
        }
    }
}

impl Driver for MysqlDriver {
    type Connection = Connection;
    type Error = Fault;

    async fn open(&self) -> Result<Connection, Fault> {
        let mut conn = Conn::new(self.opts.clone()).await?;
        let statement = conn.prep(self.statement.as_str()).await?;
        let mut connection = Connection { conn: Some(conn), statement };
        self.rows(&mut connection, "", "").await?;
        Ok(connection)
    }

    async fn find(
        &self,
        connection: &mut Connection,
        user: &str,
        realm: &str,
    ) -> Result<Answer, Failure<Fault>> {
        match self.rows(connection, user, realm).await {
            Ok(rows) => {
                let rows = rows.into_iter().map(|row| row.unwrap().into_iter().map(text));
                Ok(self.shape.judge(rows, user, realm))
            }
            Err(Error::Server(error)) if is_of_the_name(error.code) => Err(Failure::OfTheName),
            Err(error) => Err(Failure::Driver(Fault(error))),
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

fn statement(columns: &Columns, shape: &Shape) -> String {
    let table = columns.table.iter().map(|part| quoted(part)).collect::<Vec<_>>().join(".");
    let selected = shape.selected(columns).into_iter().map(quoted).collect::<Vec<_>>().join(", ");
    let mut condition = format!("{} = ?", quoted(&columns.username));
    if shape.match_domain {
        condition += &format!(" AND {} = ?", quoted(&columns.domain));
    }
    format!("SELECT {selected} FROM {table} WHERE {condition} LIMIT {ROWS_MAX}")
}

/// As a name in backquotes, which ends nowhere but where we end it.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
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

fn text(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

/// For the operator: what is wrong and what to do about it.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Error::Server(error) => {
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
            Error::Driver(DriverError::NoClientSslFlagFromServer) => f.write_str(
                "it knows no TLS: turn TLS on there, or take require_ssl out of auth.mysql.url if the way is safe",
            ),
            Error::Io(IoError::Tls(error)) => {
                write!(f, "{error}: name the CA of its certificate in auth.mysql.ca, and the host that it is for")
            }
            Error::Io(IoError::Io(error)) => {
                write!(f, "{error}: see whether it runs, or correct host and port in auth.mysql.url")
            }
            error => write!(f, "{error}: see the server's own log"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SecretColumns;

    fn shape(columns: &Columns, match_domain: bool) -> Shape {
        Shape { match_domain, exact_usernames: true, secret: columns.secret.clone() }
    }

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
            statement(&columns, &shape(&columns, true)),
            "SELECT `username`, `password`` FROM mysql.user -- `, `ha1` FROM `opensips`.`sub``scriber` \
             WHERE `username` = ? AND `password`` FROM mysql.user -- ` = ? LIMIT 16"
        );
        let passwords = Columns { secret: SecretColumns::Password("password".to_owned()), ..columns };
        assert!(!statement(&passwords, &shape(&passwords, false)).contains("mysql.user"));
    }
}
