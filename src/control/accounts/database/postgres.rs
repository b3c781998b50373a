//! PostgreSQL: one connection to the database and the one statement that is run on it.
//!
//! Invariants: names in the statement are quoted, whatever the config let pass; values never stand in it; what went
//! wrong is said in words an operator can act on, and never with the password. The password is asked of the
//! database only where the config says that it is in clear there.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{Format, FromSql, IsNull, ToSql, Type};
use tokio_postgres::{Client, Config, Error, Row, Statement};

use super::rows::{ROWS_MAX, Shape};
use super::{CLOSE_TIMEOUT, Driver, Failure};
use crate::config::{self, Columns, DatabaseServer};
use crate::control::accounts::answer::Answer;

mod tls;

use tls::Tls;

/// How much longer than the relay waits the server may be at a query.
const SERVER_GRACE: Duration = Duration::from_secs(1);

/// How to connect and what to ask.
pub(in crate::control::accounts) struct PostgresDriver {
    config: Config,
    tls: Tls,
    setup: String,
    statement: String,
    shape: Shape,
}

/// A connection on which a look-up has worked.
pub(in crate::control::accounts) struct Connection {
    /// Dropped before its task, which ends by that.
    client: Client,
    #[expect(dead_code, reason = "held for what its end does")]
    task: Task,
    statement: Statement,
}

/// What does the reading and writing for a client.
struct Task(Option<JoinHandle<()>>);

/// What the driver, or the server, says.
pub(in crate::control::accounts) struct Fault(Error);

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl PostgresDriver {
    pub(in crate::control::accounts) fn new(settings: &config::Database) -> Self {
        let shape = Shape::new(settings);
        // What the relay has given up waiting for, the server gives up as well: no heap of queries behind a lock.
        let statement_ms = (settings.query_timeout + SERVER_GRACE).as_millis();
        Self {
            config: config_of(&settings.server),
            tls: Tls::new(settings.server.tls.as_ref()),
            setup: format!("SET statement_timeout = {statement_ms}"),
            statement: statement(&settings.columns, &shape),
            shape,
        }
    }

    async fn rows(&self, connection: &Connection, user: &str, realm: &str) -> Result<Vec<Row>, Error> {
        let Connection { client, statement, .. } = connection;
        match self.shape.match_domain {
            true => client.query(statement, &[&Text(user), &Text(realm)]).await,
            false => client.query(statement, &[&Text(user)]).await,
        }
    }
}

impl Driver for PostgresDriver {
    type Connection = Connection;
    type Error = Fault;

    async fn open(&self) -> Result<Connection, Fault> {
        let (client, connection) = self.config.connect(self.tls.clone()).await?;
        let task = Task(Some(tokio::spawn(async move {
            // What goes wrong is told to who asked.
            let _ = connection.await;
        })));
        client.batch_execute(&self.setup).await?;
        let statement = client.prepare(&self.statement).await?;
        let connection = Connection { client, task, statement };
        self.rows(&connection, "", "").await?;
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
                let rows = rows.iter().map(|row| (0..row.len()).map(|at| text(row, at)));
                Ok(self.shape.judge(rows, user, realm))
            }
            Err(error) if error.code().is_some_and(is_of_the_name) => Err(Failure::OfTheName),
            Err(error) => Err(Failure::Driver(Fault(error))),
        }
    }
}

/// Its client has gone, and the server is told so: for a moment at most, for one that is silent, or still at a query.
impl Drop for Task {
    fn drop(&mut self) {
        let Some(mut task) = self.0.take() else { return };
        match Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(async move {
                    if timeout(CLOSE_TIMEOUT, &mut task).await.is_err() {
                        task.abort();
                    }
                });
            }
            Err(_) => task.abort(),
        }
    }
}

fn config_of(server: &DatabaseServer) -> Config {
    let mut config = Config::new();
    match &server.socket {
        Some(directory) => config.host_path(directory),
        None => config.host(&server.host),
    };
    config.port(server.port).dbname(&server.database).application_name("msrprelay");
    // Whether and how the certificate is verified is for `tls` to say: the driver knows no more than this.
    config.ssl_mode(if server.tls.is_some() { SslMode::Require } else { SslMode::Disable });
    config.keepalives_idle(Duration::from_secs(60));
    if let Some(user) = &server.user {
        config.user(user);
    }
    if let Some(password) = &server.password {
        config.password(password);
    }
    config
}

fn statement(columns: &Columns, shape: &Shape) -> String {
    let table = columns.table.iter().map(|part| quoted(part)).collect::<Vec<_>>().join(".");
    // As text, whatever the type of the column: it is read as bytes.
    let selected = shape.selected(columns).into_iter().map(|name| quoted(name) + "::text");
    let selected = selected.collect::<Vec<_>>().join(", ");
    let mut condition = format!("{} = $1", quoted(&columns.username));
    if shape.match_domain {
        // Domains have no case. The index on username and domain is found by the name alone.
        condition +=
            &format!(" AND lower({} COLLATE \"C\") = lower($2 COLLATE \"C\")", quoted(&columns.domain));
    }
    format!("SELECT {selected} FROM {table} WHERE {condition} LIMIT {ROWS_MAX}")
}

/// As a name in quotes, which ends nowhere but where we end it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A parameter that is sent as text, so that the server makes of it what the column is: varchar, char, text, citext.
#[derive(Debug)]
struct Text<'a>(&'a str);

impl ToSql for Text<'_> {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    tokio_postgres::types::to_sql_checked!();
}

/// The bytes of a column of text.
struct Bytes(Vec<u8>);

impl<'a> FromSql<'a> for Bytes {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

fn text(row: &Row, at: usize) -> Option<Vec<u8>> {
    row.try_get::<_, Option<Bytes>>(at).ok().flatten().map(|Bytes(bytes)| bytes)
}

/// The database's encoding lacks a character of the name that was asked for, or the name has a byte that no text holds.
fn is_of_the_name(code: &SqlState) -> bool {
    [
        SqlState::UNTRANSLATABLE_CHARACTER,
        SqlState::CHARACTER_NOT_IN_REPERTOIRE,
        SqlState::STRING_DATA_RIGHT_TRUNCATION,
    ]
    .contains(code)
}

/// For the operator: what is wrong and what to do about it.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(error) = self;
        if let Some(said) = error.as_db_error() {
            let (code, message) = (said.code().code(), said.message());
            return write!(f, "ERROR {code}: {message}: {}", remedy(said.code()));
        }
        let cause = error.source();
        if let Some(error) = cause.and_then(|cause| tls_error(cause)) {
            return write!(
                f,
                "{error}: name the CA of its certificate in auth.postgres.ca, and the host that it is for"
            );
        }
        if let Some(error) = cause.and_then(|cause| cause.downcast_ref::<io::Error>()) {
            return write!(f, "{error}: see whether it runs, or correct host and port in auth.postgres.url");
        }
        match (error.to_string(), cause.map(ToString::to_string)) {
            (_, Some(cause)) if cause.contains("TLS") => f.write_str(
                "it knows no TLS: turn TLS on there, or take sslmode out of auth.postgres.url if the way is safe",
            ),
            (_, Some(cause)) if cause.contains("password missing") => {
                f.write_str("it asks for a password: write it into auth.postgres.url")
            }
            (what, Some(cause)) => write!(f, "{what}: {cause}: see the server's own log"),
            (what, None) => write!(f, "{what}: see the server's own log"),
        }
    }
}

/// What rustls said, however deep it is wrapped.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let io = error.downcast_ref::<io::Error>()?;
    io.get_ref()?.downcast_ref::<rustls::Error>()
}

fn remedy(code: &SqlState) -> &'static str {
    match code.code() {
        "53300" => "give the relay's account more connections there, or lower auth.postgres.connections_max",
        "42501" => {
            "GRANT the relay's account SELECT on the columns it reads, or correct the names under auth.postgres"
        }
        "28P01" => "correct user and password in auth.postgres.url",
        "28000" => {
            "let the relay's account connect from this host (pg_hba.conf); if the server insists on TLS, write \
             ?sslmode=verify-full behind auth.postgres.url"
        }
        "3D000" => "correct the database in auth.postgres.url",
        "42703" => "correct the names of the columns under auth.postgres",
        "42P01" | "3F000" => "correct auth.postgres.table",
        "57P03" => "it starts or stops: wait",
        _ => "see the server's own log",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SecretColumns;

    #[test]
    fn names_end_where_we_end_them() {
        let columns = Columns {
            table: vec!["opensips".to_owned(), "sub\"scriber".to_owned()],
            username: "username".to_owned(),
            domain: "domain\" OR true -- ".to_owned(),
            secret: SecretColumns::Ha1 { md5: Some("ha1".to_owned()), sha256: None },
        };
        let shape =
            |match_domain| Shape { match_domain, exact_usernames: true, secret: columns.secret.clone() };
        assert_eq!(
            statement(&columns, &shape(true)),
            "SELECT \"username\"::text, \"domain\"\" OR true -- \"::text, \"ha1\"::text FROM \
             \"opensips\".\"sub\"\"scriber\" WHERE \"username\" = $1 AND \
             lower(\"domain\"\" OR true -- \" COLLATE \"C\") = lower($2 COLLATE \"C\") LIMIT 16"
        );
        assert!(!statement(&columns, &shape(false)).contains("OR true"));
    }
}
