//! `msrp send`: one file, or standard input, to one path.

use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use msrp_client::{
    ClientError, Delivery, Disposition, Endpoint, MessageSpec, Opening, Security, SendOptions, Sha256Digest,
    Source, Target, hex, open_session, send_message,
};
use msrp_proto::head::FailureReport;
use msrp_proto::uri::MsrpUri;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::options::{ConnectionArguments, Login, OutputArguments, RelayArguments, parse_path};
use crate::outcome::{Failure, Report, conclude};
use crate::progress::Progress;
use crate::units::{self, parse_chunk_size, parse_duration};
use crate::watchdog::run_until_interrupted;

/// How often the progress of the hash is checked.
const HASH_LOOK: Duration = Duration::from_millis(100);

const EXAMPLES: &str = "\
Examples:
  Through your own relay, to the path that `msrp receive` has printed:
    msrp send film.mkv --user alice@example.com --to \"$(cat bob.path)\"
  Without a relay of your own, straight to the first URI of the path:
    msrp send film.mkv --to \"$(cat bob.path)\"
  In chunks of 64 KiB, none of which is answered:
    msrp send film.mkv --to \"…\" --chunk-size 64K --failure-report no
  Whatever comes from standard input:
    tar cz docs | msrp send - --name docs.tar.gz --to \"…\"

\
A success report (the default) comes from the receiver once the file is complete and stored there; only with it does \
status 0 mean that the file has arrived. For the exit status see the help of `msrp` itself.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The file; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The receiver's path: URIs separated by spaces, as it printed them
    #[arg(long, value_name = "PATH", value_parser = parse_path)]
    to: String,
    /// The name offered to the receiver [default: the file's own]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Send chunks of this size [default: the whole file as one chunk, cut only where something has to go in between]
    #[arg(long, value_name = "SIZE", value_parser = parse_chunk_size)]
    chunk_size: Option<u64>,
    /// How many chunks may wait for their answers
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u16).range(1..))]
    window: u16,
    /// Which answers to ask for
    #[arg(long, value_name = "WHICH", default_value = "yes")]
    failure_report: Reports,
    /// Ask the receiver to confirm the file, and wait for that
    #[arg(long, value_name = "yes|no", default_value = "yes", default_missing_value = "yes", num_args = 0..=1,
          require_equals = false, action = clap::ArgAction::Set, value_parser = parse_yes_no)]
    success_report: bool,
    /// What opens the session, before the file
    #[arg(long, value_name = "WHICH", default_value = "empty")]
    first_send: FirstSend,
    /// The Content-Type
    #[arg(long, value_name = "TYPE", default_value = "application/octet-stream", value_parser = parse_header_value)]
    content_type: String,
    /// Give up when nothing has moved on the connection for so long
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    relay: RelayArguments,
    #[command(flatten)]
    connection: ConnectionArguments,
    #[command(flatten)]
    output: OutputArguments,
}

/// Failure-Report.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Reports {
    /// Every chunk is answered
    Yes,
    /// No chunk is answered, and no failure reported
    No,
    /// Only failures are answered
    Partial,
}

/// The first SEND (RFC 4975, 5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FirstSend {
    /// A SEND without a body, which binds the session at once; the file follows without waiting. While the file is read for
    /// its SHA-256, more of them keep the session alive
    Empty,
    /// The same, and its answer is waited for
    Wait,
    /// The file itself, once its SHA-256 is known
    File,
}

impl From<Reports> for FailureReport {
    fn from(reports: Reports) -> Self {
        match reports {
            Reports::Yes => Self::Yes,
            Reports::No => Self::No,
            Reports::Partial => Self::Partial,
        }
    }
}

fn parse_yes_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("expected yes or no".to_owned()),
    }
}

fn parse_header_value(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err("expected a media type such as text/plain".to_owned());
    }
    Ok(text.to_owned())
}

/// The content to send, opened before the first connection.
struct Content {
    label: String,
    input: Input,
}

enum Input {
    /// A file and its size: reading it tells what the head says.
    File(File, u64),
    /// Whatever comes.
    Stream(Box<dyn Read + Send>),
}

/// What is known of it before it is sent.
#[derive(Clone, Copy)]
struct Known {
    size: u64,
    sha256: Sha256Digest,
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let as_json = arguments.output.json;
    let mut report = Report::default();
    let result = prepare(&arguments).and_then(|(login, content)| {
        run_until_interrupted(
            arguments.connection.cpu,
            as_json,
            transfer(&arguments, login, content, &mut report),
        )
    });
    conclude(as_json, report, result)
}

fn prepare(arguments: &Arguments) -> Result<(Option<Login>, Content), Failure> {
    if !arguments.relay.relays.is_empty() && arguments.relay.users.is_empty() {
        return Err(Failure::Usage(
            "--relay needs --user; without a relay of your own leave both away".to_owned(),
        ));
    }
    if arguments.connection.plain && arguments.relay.users.is_empty() && first_uri(&arguments.to)?.is_secure()
    {
        return Err(Failure::Usage("--plain, but the path begins with an msrps: URI".to_owned()));
    }
    let login = arguments.relay.login(&arguments.connection)?;
    Ok((login, open(arguments)?))
}

fn open(arguments: &Arguments) -> Result<Content, Failure> {
    let path = &arguments.file;
    let failed = |source| Failure::Client(ClientError::File { path: path.clone(), source });
    if path.as_os_str() == "-" {
        let label = arguments.name.clone().unwrap_or_else(|| "stdin".to_owned());
        return Ok(Content { label, input: Input::Stream(Box::new(io::stdin())) });
    }
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(Failure::Usage(format!("{}: is a directory", path.display())));
    }
    let label = arguments.name.clone().unwrap_or_else(|| file_name(path));
    if !metadata.is_file() {
        return Ok(Content { label, input: Input::Stream(Box::new(file)) });
    }
    Ok(Content { label, input: Input::File(file, metadata.len()) })
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| "file".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Reads a file for its SHA-256, while everything else goes on. The hash is in the head of the first chunk, where every
/// receiver looks for it. So the file is read once before it is sent.
async fn hashed(file: &File, expected: u64, label: &str, forced: bool) -> io::Result<Known> {
    let progress = Progress::new(&format!("hashing {label}"), Some(expected), forced);
    let (done, read) = (Arc::new(AtomicU64::new(0)), file.try_clone()?);
    let (sender, receiver) = async_channel::bounded(1);
    let count = Arc::clone(&done);
    // It ends with the file, or with the process.
    let body = move || drop(sender.send_blocking(hash(read, &count)));
    std::thread::Builder::new().name("hash".to_owned()).spawn(body)?;
    let finished = async {
        let known = receiver.recv().await;
        known.unwrap_or_else(|_| Err(io::Error::other("it could not be read to its end")))
    };
    let shown = async {
        loop {
            glommio::timer::sleep(HASH_LOOK).await;
            progress.update(done.load(Ordering::Relaxed));
        }
    };
    let known = futures_lite::future::or(finished, shown).await?;
    progress.finish(known.size);
    Ok(known)
}

fn hash(mut file: File, done: &AtomicU64) -> io::Result<Known> {
    let (mut hasher, mut buffer, mut size) = (Sha256::new(), vec![0; 256 << 10], 0);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            file.rewind()?;
            return Ok(Known { size, sha256: hasher.finalize().into() });
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
        size += read as u64;
        done.store(size, Ordering::Relaxed);
    }
}

async fn transfer(
    arguments: &Arguments,
    login: Option<Login>,
    content: Content,
    report: &mut Report,
) -> Result<(), Failure> {
    let (mut endpoint, to_path) = match login {
        Some(login) => {
            let (endpoint, grant) = login.perform(&arguments.connection).await?;
            (endpoint, grant.to_path(&arguments.to))
        }
        None => (connect_directly(arguments).await?, arguments.to.clone()),
    };
    let Content { label, input } = content;
    let known = prepared(arguments, &mut endpoint, &to_path, &label, &input).await?;
    let spec = message(arguments, &label, known, &to_path, endpoint.own_uri());
    let size = known.map(|known| known.size);
    let progress = Progress::new(&label, size, arguments.output.progress);
    let options = SendOptions { idle_limit: arguments.timeout };
    let update = |sent| progress.update(sent);
    let input: Box<dyn Read + Send> = match input {
        Input::File(file, _) => Box::new(file),
        Input::Stream(stream) => stream,
    };
    let mut source = Source::new(arguments.file.clone(), input, size)?;
    let result = send_message(&mut endpoint, &spec, &mut source, options, &update).await;
    if let Ok(delivery) = &result {
        progress.finish(delivery.bytes);
        *report = describe(&label, known.map(|known| known.sha256), &spec, delivery);
    }
    drop(progress);
    // A failed message has been cut in the middle: the connection can carry nothing more.
    let delivery = result?;
    let closed = endpoint.close().await;
    if !delivery.reported && delivery.answers < delivery.chunks {
        // No REPORT will confirm it, so only a clean end of the connection shows success.
        closed?;
    }
    Ok(())
}

/// Opens the session as the options say. Meanwhile collects what the head will say of the file.
async fn prepared(
    arguments: &Arguments,
    endpoint: &mut Endpoint,
    to_path: &str,
    label: &str,
    input: &Input,
) -> Result<Option<Known>, Failure> {
    let work = async {
        match input {
            Input::File(file, size) => hashed(file, *size, label, arguments.output.progress).await.map(Some),
            Input::Stream(_) => Ok(None),
        }
    };
    let known = match arguments.first_send {
        FirstSend::File => work.await,
        first => {
            let await_answer = first == FirstSend::Wait;
            let opening = Opening { to_path, await_answer, idle_limit: arguments.timeout };
            open_session(endpoint, opening, work).await?
        }
    };
    Ok(known.map_err(|source| ClientError::File { path: arguments.file.clone(), source })?)
}

fn message(
    arguments: &Arguments,
    label: &str,
    known: Option<Known>,
    to_path: &str,
    own_uri: &str,
) -> MessageSpec {
    let named = known.is_some() || arguments.name.is_some();
    let disposition = Disposition {
        filename: named.then(|| label.to_owned()),
        size: known.map(|known| known.size),
        sha256: known.map(|known| known.sha256),
    };
    MessageSpec {
        failure_report: arguments.failure_report.into(),
        success_report: arguments.success_report,
        disposition: Some(disposition.to_header()),
        total: known.map(|known| known.size),
        chunk_bytes: arguments.chunk_size,
        window: usize::from(arguments.window),
        ..MessageSpec::new(to_path, own_uri, &arguments.content_type)
    }
}

fn first_uri(path: &str) -> Result<MsrpUri<'_>, Failure> {
    let first = path.split(' ').next().unwrap_or_default();
    MsrpUri::parse(first.as_bytes()).map_err(|error| Failure::Usage(format!("--to {first}: {error}")))
}

async fn connect_directly(arguments: &Arguments) -> Result<Endpoint, Failure> {
    let uri = first_uri(&arguments.to)?;
    let Some(port) = uri.port() else {
        return Err(Failure::Usage("--to: the first URI has no port".to_owned()));
    };
    let target = Target { host: uri.host_str().to_owned(), port, web: None };
    let security = if uri.is_secure() { arguments.connection.tls()? } else { Security::Plain };
    Ok(Endpoint::connect(&target, &security, arguments.connection.connect_timeout).await?)
}

fn describe(label: &str, sha256: Option<Sha256Digest>, spec: &MessageSpec, delivery: &Delivery) -> Report {
    let rate = units::rate(delivery.bytes, delivery.elapsed);
    let seconds = delivery.elapsed.as_secs_f64();
    let confirmed = match (delivery.reported, delivery.answers == delivery.chunks) {
        (true, _) => "confirmed by the receiver",
        (false, true) => "every chunk answered by the next hop",
        (false, false) => "not confirmed by anybody",
    };
    let size = units::size(delivery.bytes);
    Report {
        lines: vec![format!("sent {label}: {size} in {seconds:.2} s ({rate}), {confirmed}")],
        json: json!({
            "file": label,
            "bytes": delivery.bytes,
            "sha256": sha256.map(|digest| hex(&digest)),
            "message_id": spec.message_id,
            "chunks": delivery.chunks,
            "answers": delivery.answers,
            "reported": delivery.reported,
            "seconds": seconds,
            "megabytes_per_second": units::megabytes_per_second(delivery.bytes, delivery.elapsed),
        }),
    }
}
