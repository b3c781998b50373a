//! The operator's side of the admin socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{Answer, Request};

/// How long the relay may take for each part of its answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest accepted line of an answer, in bytes.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Why there is no answer, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no socket.
    #[error(
        "{}: no such socket: start the relay, have admin.socket in its config, or name its socket with --socket",
        .0.display()
    )]
    NoSocket(PathBuf),
    /// No process listens.
    #[error("{}: no process listens there: the relay has been killed; start it again", .0.display())]
    NotRunning(PathBuf),
    /// This user may not connect.
    #[error("{}: permission denied: be root, the relay's user, or in the relay's group", .0.display())]
    Permission(PathBuf),
    /// Something else.
    #[error("{}: {source}", path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The relay ended, or is of another version.
    #[error("the relay broke off its answer: it has ended, or is of another version; see its log")]
    BrokenOff,
    /// The relay says no.
    #[error("{0}")]
    Refused(String),
}

/// Asks the relay whose socket is at `path`. `each` gets the answer, line by line, and returns whether it wants more.
///
/// # Errors
/// [`AskError`] says what an operator must do.
pub fn ask(
    path: &Path,
    request: &Request,
    each: impl FnMut(Answer) -> io::Result<bool>,
) -> Result<(), AskError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => AskError::NoSocket(path.to_owned()),
        io::ErrorKind::ConnectionRefused => AskError::NotRunning(path.to_owned()),
        io::ErrorKind::PermissionDenied => AskError::Permission(path.to_owned()),
        _ => AskError::System { path: path.to_owned(), source },
    };
    ask_at(UnixStream::connect(path).map_err(failed)?, request, each)
        .unwrap_or_else(|error| Err(failed(error)))
}

/// The same with the process at the other end of `relay`. `Err`, outside: the system refuses something.
pub(super) fn ask_at(
    mut relay: UnixStream,
    request: &Request,
    mut each: impl FnMut(Answer) -> io::Result<bool>,
) -> io::Result<Result<(), AskError>> {
    let patience = match request {
        Request::Trace { seconds, .. } => PATIENCE + Duration::from_secs(*seconds),
        _ => PATIENCE,
    };
    relay.set_read_timeout(Some(patience))?;
    relay.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_string(request).map_err(io::Error::other)?;
    line.push('\n');
    // A relay with too many clients answers without having read this.
    let _ = relay.write_all(line.as_bytes());
    let mut answers = BufReader::new(relay);
    loop {
        line.clear();
        (&mut answers).take(LINE_BYTES_MAX).read_line(&mut line)?;
        match serde_json::from_str(&line) {
            Ok(Answer::Done) => return Ok(Ok(())),
            Ok(Answer::Error(words)) => return Ok(Err(AskError::Refused(words))),
            Ok(answer) => {
                if !each(answer)? {
                    return Ok(Ok(()));
                }
            }
            Err(_) => return Ok(Err(AskError::BrokenOff)),
        }
    }
}
