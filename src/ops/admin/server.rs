//! The relay's side of the admin socket.

use std::fs;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use socket2::{Domain, SockAddr, Type};

use super::client::{AskError, ask_at};
use super::protocol::{
    Answer, CLIENTS_MAX, Core, DRAIN_SECONDS_MAX, Head, Listening, REQUEST_BYTES_MAX, Request, Session,
    Status, TRACE_SECONDS_MAX,
};
use super::redact;
use crate::config::LogLevel;
use crate::runtime::ask::{Closed, Direction, SessionLine, TracedHead, Wanted};
use crate::runtime::inspect::{HEADS_WAITING_MAX, Inspector};
use crate::telemetry::{LogControl, Snapshot};
use untrusted::files;
use untrusted::text;

/// For its owner and the owner's group.
const MODE: u32 = 0o660;
/// Clients that may wait for accept: each is then served or told to try again.
const BACKLOG: i32 = 128;
/// How long a client may take for its request, and for each part of the answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long reading the config again may take.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(25);
/// How often to check that the reader of a trace is still there, and to send what is ready.
const TRACE_LOOK: Duration = Duration::from_millis(100);
/// How long to rest after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why there is no admin socket. The operator must act.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Another process listens on it.
    #[error("admin.socket: {}: another relay listens there: stop it, or name another path", .0.display())]
    InUse(PathBuf),
    /// The path has something else than a socket.
    #[error("admin.socket: {}: is there and no socket: remove it, or name another path", .0.display())]
    NoSocket(PathBuf),
    /// The system refuses something.
    #[error(
        "admin.socket: {}: {source}: its directory must be there and the relay's user must be able to write it (the \
         unit's RuntimeDirectory=msrprelay makes /run/msrprelay)",
        path.display()
    )]
    System {
        /// The socket.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// What the socket gives access to.
pub struct Desk {
    /// Asks the cores.
    pub inspector: Inspector,
    /// Changes the level of the log.
    pub log: LogControl,
    /// The relay is draining.
    pub draining: Arc<AtomicBool>,
    /// An operator wants the relay to drain, for this time or for the config's. Waits while the relay is busy.
    pub drain: Box<dyn Fn(Option<Duration>) + Send + Sync>,
    /// Reads the config again. The channel gets the keys that need a restart, or the problems. Must not wait.
    pub reload: Box<dyn Fn() -> mpsc::Receiver<Reloaded> + Send + Sync>,
    /// A stream to ask the predecessor, while that drains.
    pub predecessor: Box<dyn Fn() -> Option<UnixStream> + Send + Sync>,
    /// When the relay was ready.
    pub started: Instant,
}

/// The result of reading the config again: the keys that need a restart, or all problems.
pub type Reloaded = Result<Vec<&'static str>, Vec<String>>;

impl Desk {
    /// Answers one question, on a thread of its own.
    pub fn answer(self: &Arc<Self>, client: UnixStream) {
        let desk = Arc::clone(self);
        let body = move || {
            if let Err(error) = answer(&client, &desk) {
                tracing::debug!(reason = %error, "A client of the admin socket is gone");
            }
        };
        if let Err(error) = thread::Builder::new().name("admin-client".to_owned()).spawn(body) {
            tracing::warn!(reason = %error, "Cannot serve a client of the admin socket");
        }
    }

    /// The sessions of the predecessor, while it drains.
    #[must_use]
    pub fn left_to_predecessor(&self) -> Option<u64> {
        let mut left = None;
        let each = |answer| {
            if let Answer::Status(status) = answer {
                left = Some(status.sessions);
            }
            Ok(())
        };
        self.ask_predecessor(&Request::Status {}, each).ok()??.ok()?;
        left
    }

    /// Puts a request to the predecessor, if there is one that can be asked, and passes on its answers.
    fn ask_predecessor(
        &self,
        request: &Request,
        mut each: impl FnMut(Answer) -> io::Result<()>,
    ) -> io::Result<Option<Result<(), AskError>>> {
        let Some(predecessor) = (self.predecessor)() else {
            return Ok(None);
        };
        let mut gone = Ok(());
        let asked = ask_at(predecessor, request, |answer| {
            gone = each(answer);
            Ok(gone.is_ok())
        });
        gone?;
        // It may have ended meanwhile, or be of a version that cannot be asked: then there is nothing to show.
        Ok(asked.ok().filter(|asked| !matches!(asked, Err(AskError::BrokenOff))))
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("draining", &self.draining).finish_non_exhaustive()
    }
}

/// The socket, served until this is dropped.
#[derive(Debug)]
#[must_use = "dropping it closes the socket"]
pub struct Admin {
    path: PathBuf,
    /// Device and number of the socket's file: a file that another relay has put there since is not ours to remove.
    file: (u64, u64),
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Listens at `path`. Replaces a socket that no process listens on.
    ///
    /// # Errors
    /// [`AdminError`] says what an operator must change.
    pub fn start(path: &Path, desk: &Arc<Desk>) -> Result<Self, AdminError> {
        let (listener, file) = listen(path)?;
        let over = Arc::new(AtomicBool::new(false));
        let (desk, ended) = (Arc::clone(desk), Arc::clone(&over));
        let thread = thread::Builder::new().name("admin".to_owned());
        let thread = thread.spawn(move || serve(&listener, &desk, &ended));
        let thread = thread.map_err(|source| AdminError::System { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), file, over, thread: Some(thread) })
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|there| number(&there) == self.file);
        // Wakes the thread, which waits for a connection.
        let woken = ours && UnixStream::connect(&self.path).is_ok();
        if ours {
            // Another process may have removed it already.
            let _ = fs::remove_file(&self.path);
        }
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            // A thread that panicked has logged it.
            let _ = thread.join();
        }
    }
}

fn number(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// The socket, and device and number of its file.
fn listen(path: &Path) -> Result<(UnixListener, (u64, u64)), AdminError> {
    let failed = |source| AdminError::System { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => return Err(AdminError::NoSocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(AdminError::InUse(path.to_owned())),
        // Left behind by a relay that was killed.
        Ok(_) => fs::remove_file(path).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = bind(path).map_err(failed)?;
    Ok((listener, number(&fs::symlink_metadata(path).map_err(failed)?)))
}

/// Binds to a free path: the kernel follows no link there. The file has its mode before any client can connect.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The kernel makes the file with the mode of the socket: at first less than MODE, and then MODE whatever the umask.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    files::set_socket_mode(path, MODE)?;
    socket.listen(BACKLOG)?;
    Ok(OwnedFd::from(socket).into())
}

fn serve(listener: &UnixListener, desk: &Arc<Desk>, over: &AtomicBool) {
    let served = Arc::new(AtomicUsize::new(0));
    loop {
        let client = listener.accept();
        if over.load(Ordering::SeqCst) {
            return;
        }
        let client = match client {
            Ok((client, _)) => client,
            Err(error) => {
                tracing::warn!(reason = %error, "Cannot accept at the admin socket for now");
                thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        let place = Place(Arc::clone(&served));
        if served.fetch_add(1, Ordering::SeqCst) >= CLIENTS_MAX {
            let words = format!("{CLIENTS_MAX} others are being served: try again");
            // The thread must not wait for a client that does not read.
            let _ = client.set_nonblocking(true);
            let _ = tell(&mut &client, &Answer::Error(words));
            drop(place);
            continue;
        }
        let desk = Arc::clone(desk);
        let body = move || {
            let _place = place;
            if let Err(error) = answer(&client, &desk) {
                tracing::debug!(reason = %error, "A client of the admin socket is gone");
            }
        };
        if let Err(error) = thread::Builder::new().name("admin-client".to_owned()).spawn(body) {
            tracing::warn!(reason = %error, "Cannot serve a client of the admin socket");
        }
    }
}

/// A client's place, given back when this is dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn tell(to: &mut impl Write, answer: &Answer) -> io::Result<()> {
    to.write_all(format!("{}\n", text::json(answer)).as_bytes())
}

fn answer(client: &UnixStream, desk: &Desk) -> io::Result<()> {
    client.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let line = asked(client, CLIENT_TIMEOUT)?;
    let mut out = BufWriter::new(client);
    let outcome = match serde_json::from_str(&line) {
        Ok(request) => fulfil(request, desk, &mut out)?,
        Err(error) => Err(format!("that is no request ({error}): use the commands of msrprelay")),
    };
    tell(&mut out, &outcome.map_or_else(Answer::Error, |()| Answer::Done))?;
    out.flush()
}

/// The line that a client sends, which must arrive whole within this time.
fn asked(mut client: &UnixStream, time: Duration) -> io::Result<String> {
    let until = Instant::now() + time;
    let (mut line, mut part) = (Vec::new(), [0; 512]);
    while line.len() < REQUEST_BYTES_MAX && !line.contains(&b'\n') {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        client.set_read_timeout(Some(left))?;
        match client.read(&mut part) {
            Ok(0) => break,
            Ok(bytes) => line.extend_from_slice(part.get(..bytes).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let end = line.iter().position(|byte| *byte == b'\n').map_or(line.len(), |at| at + 1);
    line.truncate(end.min(REQUEST_BYTES_MAX));
    String::from_utf8(line).map_err(io::Error::other)
}

/// `Err`, inside: what to tell the client; outside: the client is gone.
fn fulfil(request: Request, desk: &Desk, out: &mut BufWriter<&UnixStream>) -> io::Result<Result<(), String>> {
    match request {
        Request::Status {} => {
            tell(out, &Answer::Status(status(desk)))?;
            desk.ask_predecessor(&request, |answer| tell(out, &answer)).map(|_| Ok(()))
        }
        Request::Sessions { user } => {
            let mut gone = Ok(());
            let request = Request::Sessions { user: user.clone() };
            let user = user.map(Wanted::new);
            let draining = desk.draining.load(Ordering::SeqCst);
            let shown = desk.inspector.sessions(|line| {
                let view = &line.view;
                if user.as_ref().is_none_or(|user| user.means_user(&view.user, &view.realm)) {
                    let draining_pid = draining.then(std::process::id);
                    gone = tell(out, &Answer::Session(Session { draining_pid, ..session(line) }));
                }
                gone.is_ok()
            });
            gone?;
            desk.ask_predecessor(&request, |answer| tell(out, &answer))?;
            Ok(shown.map_err(|error| error.to_string()))
        }
        Request::Trace { seconds, .. } if !(1..=TRACE_SECONDS_MAX).contains(&seconds) => {
            Ok(Err(format!("{seconds} seconds are too few or too many: say 1 to {TRACE_SECONDS_MAX}")))
        }
        Request::Trace { of, seconds } => {
            tracing::info!(of, seconds, "An operator traces the heads of a user or session");
            trace(Wanted::new(of), Duration::from_secs(seconds), desk, out)
        }
        Request::Close { session } => match desk.inspector.close(&session) {
            Ok(Closed::Done { session, user, realm }) => {
                tracing::info!(session, user, realm, "Session closed by an operator");
                tell(out, &Answer::Closed { session, user, realm }).map(Ok)
            }
            Ok(Closed::NoSuchSession | Closed::MovedTo(_)) => {
                let request = Request::Close { session: session.clone() };
                let asked = desk.ask_predecessor(&request, |answer| tell(out, &answer))?;
                Ok(asked.map_or_else(
                    || {
                        Err(format!(
                            "no session begins with {session}: it is over, or see `msrprelay sessions` for those \
                             there are"
                        ))
                    },
                    |asked| asked.map_err(|error| error.to_string()),
                ))
            }
            Ok(Closed::Ambiguous(sessions)) => {
                Ok(Err(format!("{sessions} sessions begin with {session}: give more of it")))
            }
            Err(error) => Ok(Err(error.to_string())),
        },
        Request::Drain { seconds: Some(seconds) } if seconds > DRAIN_SECONDS_MAX => {
            Ok(Err(format!("{seconds} seconds are too many: say 0 to {DRAIN_SECONDS_MAX}")))
        }
        // Otherwise it would count as the second wish, which ends everything at once.
        Request::Drain { .. } if desk.draining.load(Ordering::SeqCst) => {
            Ok(Err("the relay is draining already: to end it now, send it another SIGTERM".to_owned()))
        }
        Request::Drain { seconds } => {
            (desk.drain)(seconds.map(Duration::from_secs));
            Ok(Ok(()))
        }
        Request::Reload {} => match (desk.reload)().recv_timeout(RELOAD_TIMEOUT) {
            Ok(Ok(keys)) => {
                for key in keys {
                    let words = format!("{key}: the config says something else here, which takes a restart");
                    tell(out, &Answer::Note(words))?;
                }
                Ok(Ok(()))
            }
            Ok(Err(problems)) => Ok(Err(problems.join("\n"))),
            Err(_) => {
                Ok(Err("the relay is busy, or about to stop: its log says what became of it".to_owned()))
            }
        },
        Request::LogLevel { level } => Ok(match LogLevel::from_word(&level) {
            Some(level) => {
                desk.log.set(level);
                tracing::info!(to = level.as_str(), "Log level changed by an operator");
                Ok(())
            }
            None => Err(format!("there is no level {level}: say error, warn, info or debug")),
        }),
    }
}

/// Shows heads until the time is over, or the client is gone.
fn trace(
    wanted: Wanted,
    time: Duration,
    desk: &Desk,
    out: &mut BufWriter<&UnixStream>,
) -> io::Result<Result<(), String>> {
    let until = Instant::now() + time;
    let there = trace_predecessor(&wanted, time, desk);
    let heads = match desk.inspector.trace(wanted.clone(), time) {
        Ok(heads) => heads,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let mut is_there = false;
    let asked = desk.inspector.sessions(|line| {
        is_there = wanted.means(&line.view);
        !is_there
    });
    if !is_there && asked.is_ok() {
        tell(out, &Answer::Note(nothing_to_show(&wanted, time)))?;
        out.flush()?;
    }
    // The client sends nothing more: reading only shows whether it is still there.
    out.get_ref().set_read_timeout(Some(Duration::from_millis(1)))?;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Ok(()));
        }
        for answer in there.try_iter() {
            tell(out, &answer)?;
        }
        match heads.recv_timeout(left.min(TRACE_LOOK)) {
            Ok(traced) => tell(out, &Answer::Head(head(&traced)))?,
            Err(RecvTimeoutError::Disconnected) => return Ok(Ok(())),
            Err(RecvTimeoutError::Timeout) => {
                out.flush()?;
                let mut client: &UnixStream = out.get_ref();
                if client.read(&mut [0; 16]).is_ok_and(|bytes| bytes == 0) {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
        }
    }
}

/// The predecessor's heads of the same user or session, if there is a predecessor. Ends when the receiver is dropped.
fn trace_predecessor(wanted: &Wanted, time: Duration, desk: &Desk) -> mpsc::Receiver<Answer> {
    let (shown, there) = mpsc::sync_channel(HEADS_WAITING_MAX);
    if let Some(predecessor) = (desk.predecessor)() {
        let request = Request::Trace { of: wanted.as_str().to_owned(), seconds: time.as_secs() };
        let body = move || {
            // The predecessor ends, or this trace does: in both cases all was shown.
            let _ = ask_at(predecessor, &request, |answer| Ok(shown.send(answer).is_ok()));
        };
        if let Err(error) = thread::Builder::new().name("admin-trace".to_owned()).spawn(body) {
            tracing::warn!(reason = %error, "Sessions of the predecessor are not traced");
        }
    }
    there
}

/// Silence would look like a client that sends nothing.
fn nothing_to_show(wanted: &Wanted, time: Duration) -> String {
    let (wanted, seconds) = (wanted.as_str(), time.as_secs());
    format!(
        "no session of a user {wanted} is open, nor one whose id begins like that (`msrprelay sessions` shows those \
         there are): waiting {seconds} s for one that this user opens"
    )
}

fn head(traced: &TracedHead) -> Head {
    Head {
        at_seconds: traced.at.as_secs_f64(),
        core: traced.core,
        session: traced.session.clone(),
        user: traced.user.clone(),
        direction: match traced.direction {
            Direction::In => "in",
            Direction::Out => "out",
        }
        .to_owned(),
        head: redact::head(&traced.bytes),
        dropped: traced.dropped,
    }
}

fn status(desk: &Desk) -> Status {
    let counters = desk.inspector.counters();
    let cores: Vec<_> = counters
        .iter()
        .enumerate()
        .map(|(core, counters)| Core {
            core,
            connections: counters.connections_open,
            sessions: counters.sessions_open,
            chunks_in: counters.chunks_in,
            chunks_out: counters.chunks_out,
            body_bytes_in: counters.body_bytes_in,
            body_bytes_out: counters.body_bytes_out,
            restarts: counters.core_restarts,
        })
        .collect();
    let all: Snapshot = counters.iter().copied().sum();
    let stayed = all.sessions_stayed().map(|(why, times)| (why.as_str().to_owned(), times));
    let listening = desk.inspector.addresses().iter();
    let draining = desk.draining.load(Ordering::SeqCst);
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        state: if draining { "draining" } else { "running" }.to_owned(),
        uptime_seconds: desk.started.elapsed().as_secs(),
        listening: listening
            .map(|(address, tls)| Listening { address: address.to_string(), tls: *tls })
            .collect(),
        accounts_ready: desk.inspector.accounts_ready(),
        log_level: desk.log.level().as_str().to_owned(),
        sessions: cores.iter().map(|core| core.sessions).sum(),
        connections: cores.iter().map(|core| core.connections).sum(),
        moved: all.sessions_moved,
        stayed: stayed.collect(),
        cores,
    }
}

fn session(line: SessionLine) -> Session {
    let (client, peer) = (line.client(), line.peer());
    let SessionLine { core, transport, view, .. } = line;
    Session {
        session: view.session,
        user: view.user,
        realm: view.realm,
        state: view.state.as_str().to_owned(),
        core,
        draining_pid: None,
        age_seconds: view.age.as_secs(),
        expires_in_seconds: view.expires_in.map(|left| left.as_secs()),
        client,
        transport: transport.map(str::to_owned),
        peer,
        bytes_from_client: view.bytes_from_client,
        bytes_to_client: view.bytes_to_client,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn socket_has_its_mode_before_a_client_can_connect() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("admin.sock");
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut wider = None;
                while !over.load(Ordering::SeqCst) {
                    if let Ok(found) = fs::symlink_metadata(&path) {
                        let mode = found.permissions().mode() & 0o777;
                        if mode & !MODE != 0 {
                            wider = Some(mode);
                        }
                    }
                }
                wider
            });
            for _ in 0..2000 {
                drop(listen(&path).unwrap());
                assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
                fs::remove_file(&path).unwrap();
            }
            over.store(true, Ordering::SeqCst);
            assert_eq!(watcher.join().unwrap(), None, "a mode that lets others in, for a moment");
        });
    }

    // A time-out for each byte would never end.
    #[test]
    fn client_that_drips_its_request_has_no_more_time_than_another() {
        let (near, far) = UnixStream::pair().unwrap();
        let dripping = thread::spawn(move || {
            while (&far).write_all(b" ").is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
        });
        let time = Duration::from_millis(100);
        let error = asked(&near, time).unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock), "{error:?}");
        drop(near);
        dripping.join().unwrap();

        let (near, far) = UnixStream::pair().unwrap();
        (&far).write_all(b"one\nmore").unwrap();
        assert_eq!(asked(&near, CLIENT_TIMEOUT).unwrap(), "one\n");
        (&far).write_all(&[b'x'; REQUEST_BYTES_MAX + 1]).unwrap();
        assert_eq!(asked(&near, CLIENT_TIMEOUT).unwrap().len(), REQUEST_BYTES_MAX);
    }

    #[test]
    fn only_a_socket_that_was_left_behind_is_replaced() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("admin.sock");
        drop(listen(&path).unwrap());
        let (listener, _) = listen(&path).unwrap();
        assert!(matches!(listen(&path), Err(AdminError::InUse(_))));
        drop(listener);
        for target in ["admin.sock.old", "nowhere"] {
            let _ = fs::rename(&path, place.path().join("admin.sock.old"));
            symlink(place.path().join(target), &path).unwrap();
            assert!(matches!(listen(&path), Err(AdminError::NoSocket(_))), "{target}");
            fs::remove_file(&path).unwrap();
        }
    }
}
