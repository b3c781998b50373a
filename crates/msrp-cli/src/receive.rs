//! `msrp receive`: waits behind a relay, or listening, and stores what comes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use msrp_client::{
    Arrival, ClientError, Endpoint, Inbox, InboxEvent, InboxOptions, ListenSecurity, Listener, Said, hex,
    server_identity,
};
use serde_json::{Value, json};
use untrusted::say;
use untrusted::{files, text};

use crate::options::{ConnectionArguments, Login, OutputArguments, RelayArguments};
use crate::outcome::{Failure, Report, conclude};
use crate::progress::Progress;
use crate::units::{self, parse_duration, parse_size};
use crate::watchdog::run_until_interrupted;

const EXAMPLES: &str = "\
Examples:
  Behind a relay; give the printed path to the sender:
    msrp receive --user bob@example.com --relay relay.example.com \\
                 --out incoming --path-file bob.path
  The same behind whichever relay the DNS names for example.com:
    msrp receive --user bob@example.com --out incoming --path-file bob.path
  Behind two relays, your own and, further out, that of your provider:
    msrp receive --user bob@example.com --relay edge.example.com \\
                 --relay relay.example.net --path-file bob.path
  Without a relay, on an address the sender can reach:
    msrp receive --listen 192.0.2.9:2855 --cert bob.crt --key bob.key

\
Nothing is ever overwritten: where a name is taken, ` (1)`, ` (2)`, … is put before its extension. Names lose their \
directories, leading dots and unprintable characters; a leading `-` becomes `_`, and the names of Windows' devices get \
one. A file is stored under its name only when it is complete and has the size and SHA-256 its sender announced.

What is no file is not stored and does not count: chat (text of up to 8 KiB without a file name, alone or in a CPIM \
message) is shown on standard error, notices that the sender types or has read a message are dropped. Ask for every message, \
and they are stored, too. For the exit status see the help of `msrp` itself.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(group = clap::ArgGroup::new("where").args(["users", "relays", "listen"]).required(true).multiple(true))]
pub(crate) struct Arguments {
    /// Store files in this directory
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Write the path to give to the sender to this file too, readable by you alone
    #[arg(long, value_name = "FILE")]
    path_file: Option<PathBuf>,
    /// Exit after this many files, kept or rejected
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Store and count every message, also chat and the notices of chat clients
    #[arg(long)]
    every_message: bool,
    /// Refuse files larger than this [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_size: Option<u64>,
    /// Give up when nothing has arrived for so long [default: wait for ever]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Listen on this address instead of using a relay; port 0 lets the kernel choose
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with_all = ["users", "relays"])]
    listen: Option<SocketAddr>,
    /// With --listen: the certificate to show, PEM [without: plain msrp, which needs --plain]
    #[arg(long, value_name = "FILE", requires_all = ["listen", "key"], conflicts_with = "plain")]
    cert: Option<PathBuf>,
    /// With --listen: the certificate's key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    #[command(flatten)]
    relay: RelayArguments,
    #[command(flatten)]
    connection: ConnectionArguments,
    #[command(flatten)]
    output: OutputArguments,
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let as_json = arguments.output.json;
    let mut report = Report { lines: Vec::new(), json: json!({ "files": [] }) };
    let result = prepare(&arguments).and_then(|login| {
        run_until_interrupted(arguments.connection.cpu, as_json, receive(&arguments, login, &mut report))
    });
    conclude(as_json, report, result)
}

fn prepare(arguments: &Arguments) -> Result<Option<Login>, Failure> {
    if !arguments.out.is_dir() {
        return Err(Failure::Usage(format!("--out {}: no such directory", arguments.out.display())));
    }
    match arguments.listen {
        Some(address) if address.ip().is_unspecified() => Err(Failure::Usage(format!(
            "--listen {address}: the path needs an address that senders can reach"
        ))),
        Some(_) if arguments.cert.is_none() && !arguments.connection.plain => {
            Err(Failure::Usage("--listen needs --cert and --key, or --plain".to_owned()))
        }
        Some(_) => Ok(None),
        None if arguments.relay.users.is_empty() => Err(Failure::Usage("--relay needs --user".to_owned())),
        None => arguments.relay.login(&arguments.connection),
    }
}

async fn receive(arguments: &Arguments, login: Option<Login>, report: &mut Report) -> Result<(), Failure> {
    let mut arrivals = Vec::new();
    let result = match (login, arguments.listen) {
        (Some(login), _) => behind_relay(arguments, &login, report, &mut arrivals).await,
        (None, Some(address)) => listening(arguments, address, report, &mut arrivals).await,
        (None, None) => Err(Failure::Usage("--relay or --listen is needed".to_owned())),
    };
    report.json["files"] = arrivals.iter().map(file_json).collect();
    result?;
    let rejected = arrivals.iter().filter(|arrival| arrival.stored.is_err()).count();
    if rejected > 0 {
        return Err(Failure::Rejected { rejected, total: arrivals.len() });
    }
    Ok(())
}

async fn behind_relay(
    arguments: &Arguments,
    login: &Login,
    report: &mut Report,
    arrivals: &mut Vec<Arrival>,
) -> Result<(), Failure> {
    let (mut endpoint, grant) = login.perform(&arguments.connection).await?;
    announce(arguments, &grant.path_for_peers(), report)?;
    if let Some(seconds) = login.ends_after(&grant) {
        say::err(&format!("msrp: the path is good for {seconds} s; --expires asks for another time"));
    }
    serve(arguments, &mut endpoint, arrivals).await?;
    let wanted = arguments.count as usize;
    if arrivals.len() < wanted {
        let when = format!("after {} of {}", arrivals.len(), units::counted(wanted, "file"));
        return Err(ClientError::ConnectionLost(when).into());
    }
    // All is stored and reported: the end of the connection changes nothing.
    let _ = endpoint.close().await;
    Ok(())
}

async fn listening(
    arguments: &Arguments,
    address: SocketAddr,
    report: &mut Report,
    arrivals: &mut Vec<Arrival>,
) -> Result<(), Failure> {
    let security = match (&arguments.cert, &arguments.key) {
        (Some(certificate), Some(key)) => server_identity(certificate, key)?,
        _ => ListenSecurity::Plain,
    };
    let listener = Listener::bind(address, security)?;
    let own_uri = Endpoint::mint_uri(listener.address()?, listener.is_tls());
    announce(arguments, &own_uri, report)?;
    while arrivals.len() < arguments.count as usize {
        let transport = match listener.accept(arguments.connection.connect_timeout).await {
            Ok(transport) => transport,
            Err(error) => {
                say::err(&format!("msrp: a connection was not accepted: {error}"));
                continue;
            }
        };
        let mut endpoint = Endpoint::new(transport, own_uri.clone());
        // One sender's error does not stop the next sender.
        match serve(arguments, &mut endpoint, arrivals).await {
            Ok(()) => drop(endpoint.close().await),
            Err(error @ ClientError::TimedOut { .. }) => return Err(error.into()),
            Err(error) => say::err(&format!("msrp: {error}")),
        }
    }
    Ok(())
}

/// Receives on one connection and shows what happens.
async fn serve(
    arguments: &Arguments,
    endpoint: &mut Endpoint,
    arrivals: &mut Vec<Arrival>,
) -> Result<(), ClientError> {
    let options = InboxOptions {
        directory: arguments.out.clone(),
        messages: Some((arguments.count as usize).saturating_sub(arrivals.len())),
        size_max: arguments.max_size.unwrap_or(u64::MAX),
        idle_limit: arguments.timeout,
        every_message: arguments.every_message,
    };
    let mut progress: Option<Progress> = None;
    let mut observe = |event: InboxEvent<'_>| match event {
        InboxEvent::Began { name, total } => {
            progress = Some(Progress::new(name, total, arguments.output.progress))
        }
        InboxEvent::Progress(bytes) => {
            if let Some(progress) = &progress {
                progress.update(bytes);
            }
        }
        InboxEvent::Arrived(arrival) => {
            if let Some(progress) = progress.take() {
                progress.finish(arrival.bytes);
            }
            show(arguments.output.json, arrival);
        }
        InboxEvent::Said(said) => chat(said),
    };
    Inbox::new(endpoint, options).receive(endpoint, arrivals, &mut observe).await
}

/// Prints the path, in the first line of stdout, or of stderr if stdout is for JSON. Writes the file whole or not at
/// all.
fn announce(arguments: &Arguments, path: &str, report: &mut Report) -> Result<(), Failure> {
    report.json["path"] = json!(path);
    if let Some(file) = &arguments.path_file {
        // A peer that has the path can send to this session: only the user may read it, like a password.
        files::replace(file, files::SECRET, format!("{path}\n").as_bytes()).map_err(|error| {
            Failure::Usage(format!("--path-file {}: {}", file.display(), text::of_io(&error)))
        })?;
    }
    if arguments.output.json {
        say::err(path);
    } else {
        let _ = say::out(path);
    }
    Ok(())
}

fn show(as_json: bool, arrival: &Arrival) {
    let size = units::size(arrival.bytes);
    match &arrival.stored {
        Ok(_) if as_json => {}
        Ok(path) => {
            let (seconds, rate) =
                (arrival.elapsed.as_secs_f64(), units::rate(arrival.bytes, arrival.elapsed));
            let checked = if arrival.hash_announced { "SHA-256 verified" } else { "no SHA-256 announced" };
            let line = format!("received {}: {size} in {seconds:.2} s ({rate}), {checked}", path.display());
            let _ = say::out(&line);
        }
        Err(rejection) => {
            let name = text::shown(arrival.offered_name.as_deref().unwrap_or("a message"));
            say::err(&format!("msrp: rejected {name} after {size}: {rejection}"));
        }
    }
}

/// A line of chat, which is no result.
fn chat(said: &Said) {
    let from = said.from.as_deref().map_or_else(String::new, |from| format!(" from {}", text::shown(from)));
    for line in said.text.lines() {
        say::err(&format!("msrp: message{from}: {line}"));
    }
}

fn file_json(arrival: &Arrival) -> Value {
    json!({
        "offered_name": arrival.offered_name,
        "path": arrival.stored.as_ref().ok(),
        "bytes": arrival.bytes,
        "sha256": arrival.sha256.map(|digest| hex(&digest)),
        "verified": arrival.stored.is_ok() && arrival.hash_announced,
        "seconds": arrival.elapsed.as_secs_f64(),
        "error": arrival.stored.as_ref().err().map(ToString::to_string),
    })
}
