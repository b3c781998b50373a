//! The relay's side of the admin socket.

use std::fs;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use socket2::{Domain, SockAddr, Type};

use super::{
    Answer, CLIENTS_MAX, Core, DRAIN_SECONDS_MAX, Head, Listening, REQUEST_OCTETS_MAX, Request, Session,
    Status, TRACE_SECONDS_MAX, redact,
};
use crate::config::LogLevel;
use crate::files;
use crate::runtime::inspect::{Closed, Inspector, SessionLine, Wanted};
use crate::runtime::trace::{Direction, TracedHead};
use crate::telemetry::LogControl;
use crate::text;

/// Its owner and the owner's group.
const MODE: u32 = 0o660;
/// Clients that may wait to be accepted: each is then served or told to come again.
const BACKLOG: i32 = 128;
/// How long a client may take for its request, and for each part of the answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked whether the reader of a trace is still there, and what is ready is sent.
const TRACE_LOOK: Duration = Duration::from_millis(100);
/// How long the rest is after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why there is no admin socket. The operator must act.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Somebody has it.
    #[error("admin.socket: {}: another relay listens there: stop it, or name another path", .0.display())]
    InUse(PathBuf),
    /// Something else is there.
    #[error("admin.socket: {}: is there and no socket: remove it, or name another path", .0.display())]
    NoSocket(PathBuf),
    /// The system refuses.
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

/// What is asked at the socket, and whom.
pub struct Desk {
    /// Asks the cores.
    pub inspector: Inspector,
    /// Changes the level of the log.
    pub log: LogControl,
    /// The relay is draining.
    pub draining: Arc<AtomicBool>,
    /// Somebody wants the relay to drain: for how long, if not as the config says. Must not wait.
    pub drain: Box<dyn Fn(Option<Duration>) + Send + Sync>,
    /// When the relay was ready.
    pub started: Instant,
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
    /// Device and number of the socket's file: one that another relay has put there since is not ours to remove.
    file: (u64, u64),
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Listens at `path`, where a socket that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// [`AdminError`] says what an operator must change.
    pub fn start(path: &Path, desk: Desk) -> Result<Self, AdminError> {
        let (listener, file) = listen(path)?;
        let over = Arc::new(AtomicBool::new(false));
        let (desk, ended) = (Arc::new(desk), Arc::clone(&over));
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
        // The thread waits for a connection.
        let woken = ours && UnixStream::connect(&self.path).is_ok();
        if ours {
            // Gone already, perhaps by another's hand.
            let _ = fs::remove_file(&self.path);
        }
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            // One that panicked has said so.
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

/// Binds to a path that is free: the kernel follows no link there. The file has its mode before anybody can connect.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The kernel makes the file with the mode of the socket. Less than MODE, and then MODE whatever the umask.
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
            // Nobody waits for one who does not listen.
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

/// One of the places for clients, given back when this is dropped.
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
    client.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    client.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let mut line = String::new();
    BufReader::new(client.take(REQUEST_OCTETS_MAX as u64)).read_line(&mut line)?;
    let mut out = BufWriter::new(client);
    let outcome = match serde_json::from_str(&line) {
        Ok(request) => fulfil(request, desk, &mut out)?,
        Err(error) => Err(format!("that is no request ({error}): use the commands of msrprelay")),
    };
    tell(&mut out, &outcome.map_or_else(Answer::Error, |()| Answer::Done))?;
    out.flush()
}

/// `Err`, inside: what to tell the client; outside: the client is gone.
fn fulfil(request: Request, desk: &Desk, out: &mut BufWriter<&UnixStream>) -> io::Result<Result<(), String>> {
    match request {
        Request::Status {} => tell(out, &Answer::Status(status(desk))).map(Ok),
        Request::Sessions { user } => {
            let mut gone = Ok(());
            let user = user.map(Wanted::new);
            let shown = desk.inspector.sessions(|line| {
                let view = &line.view;
                if user.as_ref().is_none_or(|user| user.means_user(&view.user, &view.realm)) {
                    gone = tell(out, &Answer::Session(session(line)));
                }
                gone.is_ok()
            });
            gone.map(|()| shown.map_err(|error| error.to_string()))
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
            Ok(Closed::NoSuchSession) => Ok(Err(format!(
                "no session begins with {session}: it is over, or see `msrprelay sessions` for those there are"
            ))),
            Ok(Closed::Ambiguous(sessions)) => {
                Ok(Err(format!("{sessions} sessions begin with {session}: give more of it")))
            }
            Err(error) => Ok(Err(error.to_string())),
        },
        Request::Drain { seconds: Some(seconds) } if seconds > DRAIN_SECONDS_MAX => {
            Ok(Err(format!("{seconds} seconds are too many: say 0 to {DRAIN_SECONDS_MAX}")))
        }
        // Otherwise it would be the second wish, which ends everything now.
        Request::Drain { .. } if desk.draining.load(Ordering::SeqCst) => {
            Ok(Err("the relay is draining already: to end it now, send it another SIGTERM".to_owned()))
        }
        Request::Drain { seconds } => {
            (desk.drain)(seconds.map(Duration::from_secs));
            Ok(Ok(()))
        }
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

/// Shows heads until it is time, or the client is gone.
fn trace(
    wanted: Wanted,
    time: Duration,
    desk: &Desk,
    out: &mut BufWriter<&UnixStream>,
) -> io::Result<Result<(), String>> {
    let until = Instant::now() + time;
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
    // It has said all that it will: it is only looked whether it is still there.
    out.get_ref().set_read_timeout(Some(Duration::from_millis(1)))?;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Ok(()));
        }
        match heads.recv_timeout(left.min(TRACE_LOOK)) {
            Ok(traced) => tell(out, &Answer::Head(head(&traced)))?,
            Err(RecvTimeoutError::Disconnected) => return Ok(Ok(())),
            Err(RecvTimeoutError::Timeout) => {
                out.flush()?;
                let mut client: &UnixStream = out.get_ref();
                if client.read(&mut [0; 16]).is_ok_and(|octets| octets == 0) {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
        }
    }
}

/// Silence would look like a client that says nothing.
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
        head: redact::head(&traced.octets),
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
        cores,
    }
}

fn session(line: SessionLine) -> Session {
    let (client, peer) = (line.client(), line.peer());
    let SessionLine { core, view, .. } = line;
    Session {
        session: view.session,
        user: view.user,
        realm: view.realm,
        state: view.state.as_str().to_owned(),
        core,
        age_seconds: view.age.as_secs(),
        expires_in_seconds: view.expires_in.map(|left| left.as_secs()),
        client,
        peer,
        bytes_from_client: view.octets_from_client,
        bytes_to_client: view.octets_to_client,
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
