//! Accounts in a file of our own, for sites without a database server.
//!
//! Invariants: passwords are never stored, only their hashes for one realm; only the reading thread touches the file,
//! so that a hanging disk holds up these look-ups and nothing else; an operator can manage users beside a running
//! relay; a replaced file is noticed at the next look-up. Must not know who asks, or why.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::answer::{Answer, Secret, WhyUnavailable};
use super::health::Health;
use super::realms::Realms;
use crate::config;
use msrp_proto::digest::{Algorithm, Ha1};
use untrusted::files::{self, Unfinished};
use untrusted::text;

/// Look-ups that may wait for the reading thread; the caller never has more under way.
const WAITING_MAX: usize = 1024;
/// How long a look-up waits for a writer with a slow disk.
const READ_PATIENCE: Duration = Duration::from_secs(4);
/// How long a change waits for other writers.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// Accounts that are read to list the realms: a few milliseconds, once after each change of the file.
const REALMS_OF_ACCOUNTS_MAX: i64 = 10_000;
/// Marks the file as one of ours, in its header.
const APPLICATION_ID: i32 = 0x4d53_5250;
/// The version of [`SCHEMA`].
const VERSION: i32 = 1;

/// Read in place of the hashes of an unknown user.
const NO_MD5: &str = "00000000000000000000000000000000";
const NO_SHA256: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// `md5` and `sha256` are H(user:realm:password); `realm` is the one they were made for.
const SCHEMA: &str = "
    CREATE TABLE accounts (
        user TEXT NOT NULL,
        realm TEXT NOT NULL,
        md5 TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        PRIMARY KEY (user, realm)
    ) STRICT, WITHOUT ROWID;";

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UserFileError {
    /// It is missing.
    #[error("{0}: no such file: `msrprelay user add` makes it, or correct auth.sqlite.path")]
    Missing(PathBuf),
    /// It is not one of ours.
    #[error("{0}: holds no accounts of msrprelay: name another file in auth.sqlite.path")]
    Foreign(PathBuf),
    /// It was made by another version.
    #[error("{path}: was made by another version of msrprelay (format {found}): use that one")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i32,
    },
    /// The operating system refuses something.
    #[error(
        "{path}: {}: let the user that msrprelay runs as read and write it and its directory",
        text::of_io(source)
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// Root would work in another user's directory.
    #[error("{path}: is in a directory of the user with number {uid}: become that user first")]
    OthersDirectory {
        /// The file.
        path: PathBuf,
        /// The directory's owner.
        uid: u32,
    },
    /// SQLite refuses something.
    #[error("{path}: {source}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: rusqlite::Error,
    },
}

// -- the relay's side ------------------------------------------------------------------------------

/// The backend. Its thread ends with it.
#[derive(Debug)]
pub(super) struct Sqlite {
    asker: Rc<Asker>,
    first_look: JoinHandle<()>,
}

/// The side that asks the thread.
#[derive(Debug)]
struct Asker {
    path: Rc<Path>,
    health: Rc<Health>,
    requests: mpsc::SyncSender<Request>,
}

#[derive(Debug)]
struct Request {
    user: String,
    realm: String,
    reply: oneshot::Sender<Result<Option<Secret>, UserFileError>>,
}

impl Sqlite {
    /// Must be called where its tasks run. Looks at the file at once, so that errors show before the first look-up.
    pub(super) fn new(settings: &config::Sqlite, health: Rc<Health>) -> Self {
        let (requests, waiting) = mpsc::sync_channel(WAITING_MAX);
        let path: Rc<Path> = settings.path.as_path().into();
        let reader = Reader { path: settings.path.clone(), open: None, realms: None };
        let thread = std::thread::Builder::new().name("accounts".to_owned());
        if let Err(error) = thread.spawn(move || reader.run(&waiting)) {
            health.ill(&path.display(), &error);
        }
        let asker = Rc::new(Asker { path, health, requests });
        let first = Rc::clone(&asker);
        let first_look = tokio::task::spawn_local(async move {
            first.look_up("", "").await;
        });
        Self { asker, first_look }
    }

    pub(super) async fn look_up(&self, user: &str, realm: &str) -> Answer {
        self.asker.look_up(user, realm).await
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.first_look.abort();
    }
}

impl Asker {
    async fn look_up(&self, user: &str, realm: &str) -> Answer {
        let (reply, answer) = oneshot::channel();
        let request = Request { user: user.to_owned(), realm: realm.to_owned(), reply };
        match self.requests.try_send(request) {
            Ok(()) => {}
            Err(mpsc::TrySendError::Full(_)) => return Answer::Unavailable(WhyUnavailable::Busy),
            Err(mpsc::TrySendError::Disconnected(_)) => return Answer::Unavailable(WhyUnavailable::Failed),
        }
        match answer.await {
            Ok(Ok(found)) => {
                self.health.well(&self.path.display());
                found.map_or(Answer::Unknown, Answer::Found)
            }
            Ok(Err(error)) => {
                self.health.ill(&self.path.display(), &error);
                Answer::Unavailable(WhyUnavailable::Failed)
            }
            Err(_) => Answer::Unavailable(WhyUnavailable::Failed),
        }
    }
}

/// The thread's state: the file, opened when it is first needed and again when it was replaced.
struct Reader {
    path: PathBuf,
    open: Option<(Inode, Connection)>,
    /// The realms that have accounts, and the version of the file they were read from.
    realms: Option<(i64, Option<Realms>)>,
}

/// Which file has a path at present.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Inode(u64, u64);

impl Reader {
    fn run(mut self, requests: &mpsc::Receiver<Request>) {
        while let Ok(Request { user, realm, reply }) = requests.recv() {
            // Skips a look-up whose asker has given up: others may wait.
            if !reply.is_closed() {
                let _ = reply.send(self.look_up(&user, &realm));
            }
        }
    }

    fn look_up(&mut self, user: &str, realm: &str) -> Result<Option<Secret>, UserFileError> {
        let found = self.try_look_up(user, realm);
        if found.is_err() {
            self.open = None;
            self.realms = None;
        }
        found
    }

    fn try_look_up(&mut self, user: &str, realm: &str) -> Result<Option<Secret>, UserFileError> {
        let there = inode(&self.path)?;
        let connection = match self.open.take() {
            Some((opened, connection)) if opened == there => connection,
            _ => {
                self.realms = None;
                open(&self.path, READ_PATIENCE)?
            }
        };
        let (_, connection) = self.open.insert((there, connection));
        let look_up = || -> rusqlite::Result<Option<(String, String)>> {
            const FIND: &str = "SELECT md5, sha256 FROM accounts WHERE user = ?1 AND realm = ?2";
            let mut statement = connection.prepare_cached(FIND)?;
            statement.query_row(params![user, realm], |row| Ok((row.get(0)?, row.get(1)?))).optional()
        };
        let failed = |source| UserFileError::Sqlite { path: self.path.clone(), source };
        let found = look_up().map_err(failed)?;
        let version =
            connection.pragma_query_value(None, "data_version", |row| row.get(0)).map_err(failed)?;
        if self.realms.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.realms = Some((version, realms(connection).map_err(failed)?));
        }
        if let Some((_, Some(realms))) = &self.realms {
            realms.tell(realm);
        }
        // The time must not show whether the user exists (req S9): hashes are read in either case.
        let (md5, sha256) = found.as_ref().map_or((NO_MD5, NO_SHA256), |(md5, sha256)| (md5, sha256));
        let of = |hex: &str, algorithm| Ha1::from_hex(hex).filter(|ha1| ha1.algorithm() == algorithm);
        let secret = Secret::Hashed { md5: of(md5, Algorithm::Md5), sha256: of(sha256, Algorithm::Sha256) };
        let secret = std::hint::black_box(secret);
        Ok(found.is_some().then_some(secret))
    }
}

/// All realms that have accounts; `None`: there are too many accounts to read.
fn realms(connection: &Connection) -> rusqlite::Result<Option<Realms>> {
    const REALMS: &str = "SELECT realm, count(*) FROM (SELECT realm FROM accounts LIMIT ?1) GROUP BY realm";
    let mut statement = connection.prepare_cached(REALMS)?;
    let rows = statement.query_map(params![REALMS_OF_ACCOUNTS_MAX], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let rows = rows.collect::<rusqlite::Result<Vec<(String, i64)>>>()?;
    let accounts: i64 = rows.iter().map(|(_, count)| count).sum();
    let realms = rows.into_iter().map(|(realm, _)| realm).collect();
    Ok((accounts < REALMS_OF_ACCOUNTS_MAX).then(|| Realms::all(realms)))
}

fn inode(path: &Path) -> Result<Inode, UserFileError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Inode(metadata.dev(), metadata.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(UserFileError::Missing(path.to_owned())),
        Err(source) => Err(UserFileError::Io { path: path.to_owned(), source }),
    }
}

/// Opens an existing file. A reader must also be able to write: if a writer died during a change, the next one to open
/// the file repairs it.
fn open(path: &Path, patience: Duration) -> Result<Connection, UserFileError> {
    let failed = |source| UserFileError::Sqlite { path: path.to_owned(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(patience).map_err(failed)?;
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let application = match pragma("application_id") {
        Err(rusqlite::Error::SqliteFailure(error, _)) if error.code == rusqlite::ErrorCode::NotADatabase => 0,
        other => other.map_err(failed)?,
    };
    if application != APPLICATION_ID {
        return Err(UserFileError::Foreign(path.to_owned()));
    }
    match pragma("user_version").map_err(failed)? {
        VERSION => Ok(connection),
        found => Err(UserFileError::Version { path: path.to_owned(), found }),
    }
}

// -- the operator's side ---------------------------------------------------------------------------

/// A user, as an operator names one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct User {
    /// The digest's username.
    pub name: String,
    /// The digest's realm.
    pub realm: String,
}

/// The file, for the commands that add and remove users. A relay may read it meanwhile.
#[derive(Debug)]
pub struct UserFile {
    path: PathBuf,
    connection: Connection,
}

impl UserFile {
    /// Opens an existing file.
    ///
    /// # Errors
    /// If it is missing or cannot be used. Root must become the owner of the file's directory first
    /// ([`files::foreign_owner`]): SQLite obeys journals that lie beside the file.
    pub fn open(path: &Path) -> Result<Self, UserFileError> {
        inode(path)?;
        let foreign = files::foreign_owner(path);
        let foreign = foreign.map_err(|source| UserFileError::Io { path: path.to_owned(), source })?;
        if let Some(owner) = foreign {
            return Err(UserFileError::OthersDirectory { path: path.to_owned(), uid: owner.uid });
        }
        Ok(Self { path: path.to_owned(), connection: open(path, WRITE_PATIENCE)? })
    }

    /// Opens the file; if it is missing, makes it, readable by its owner alone.
    ///
    /// # Errors
    /// If it cannot be made or used. The same condition holds for root as in [`UserFile::open`].
    pub fn open_or_make(path: &Path) -> Result<Self, UserFileError> {
        match inode(path) {
            Err(UserFileError::Missing(_)) => {
                make(path)?;
                Self::open(path)
            }
            _ => Self::open(path),
        }
    }

    /// Adds a user; false if there is one of that name.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn add(&self, user: &User, password: &str) -> Result<bool, UserFileError> {
        let (md5, sha256) = hashes(user, password);
        self.change(
            "INSERT INTO accounts (user, realm, md5, sha256) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
            &[&user.name, &user.realm, &md5, &sha256],
        )
    }

    /// Gives a user another password; false if there is no such user.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn set_password(&self, user: &User, password: &str) -> Result<bool, UserFileError> {
        let (md5, sha256) = hashes(user, password);
        self.change(
            "UPDATE accounts SET md5 = ?3, sha256 = ?4 WHERE user = ?1 AND realm = ?2",
            &[&user.name, &user.realm, &md5, &sha256],
        )
    }

    /// Removes a user; false if there is none of that name.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn remove(&self, user: &User) -> Result<bool, UserFileError> {
        self.change("DELETE FROM accounts WHERE user = ?1 AND realm = ?2", &[&user.name, &user.realm])
    }

    /// All users, in order.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn list(&self) -> Result<Vec<User>, UserFileError> {
        let read = || {
            let mut all = self.connection.prepare("SELECT user, realm FROM accounts ORDER BY realm, user")?;
            let users = all.query_map([], |row| Ok(User { name: row.get(0)?, realm: row.get(1)? }))?;
            users.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|source| UserFileError::Sqlite { path: self.path.clone(), source })
    }

    fn change(&self, statement: &str, values: &[&String]) -> Result<bool, UserFileError> {
        let changed = self.connection.execute(statement, rusqlite::params_from_iter(values));
        let changed = changed.map_err(|source| UserFileError::Sqlite { path: self.path.clone(), source })?;
        Ok(changed > 0)
    }
}

fn hashes(User { name, realm }: &User, password: &str) -> (String, String) {
    let of = |algorithm| Ha1::new(algorithm, name, realm, password).to_hex().as_str().to_owned();
    (of(Algorithm::Md5), of(Algorithm::Sha256))
}

/// Makes an empty user file, which appears complete or not at all.
fn make(path: &Path) -> Result<(), UserFileError> {
    let refused = |source| UserFileError::Io { path: path.to_owned(), source };
    if let Some(owner) = files::foreign_owner(path).map_err(refused)? {
        return Err(UserFileError::OthersDirectory { path: path.to_owned(), uid: owner.uid });
    }
    let unfinished = Unfinished::beside(path, files::SECRET).map_err(refused)?;
    fill(path, &path.with_file_name(unfinished.name()))?;
    let Some(name) = path.file_name() else { return Ok(()) };
    match unfinished.publish(name) {
        // Another command has made it at the same moment.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        published => published.map_err(refused),
    }
}

/// Makes the tables in an empty file. SQLite takes a path; no other user can change where it leads.
fn fill(path: &Path, unfinished: &Path) -> Result<(), UserFileError> {
    let failed = |source| UserFileError::Sqlite { path: path.to_owned(), source };
    let connection = Connection::open_with_flags(unfinished, OpenFlags::SQLITE_OPEN_READ_WRITE);
    let connection = connection.map_err(failed)?;
    connection.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
    connection.pragma_update(None, "user_version", VERSION).map_err(failed)?;
    connection.execute_batch(SCHEMA).map_err(failed)?;
    connection.close().map_err(|(_, source)| failed(source))
}
