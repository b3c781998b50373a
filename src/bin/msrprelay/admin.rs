//! The commands by which an operator asks a running relay: `status`, `sessions`, `close`, `drain`, `trace`, `reload`,
//! `log-level`.
//!
//! Shows people a table; with `--json` the relay's own lines, one object each.

use std::fmt::Write as _;
use std::io;
use std::mem;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use msrprelay::ops::admin::{Answer, Head, Request, SOCKET_PATH, Session, Status, ask};
use untrusted::say;
use untrusted::text::shown;

use crate::report::{Reported, joined, report, report_lines};

#[derive(Args)]
pub(crate) struct Options {
    /// The relay's socket: admin.socket in its config.
    #[arg(long, value_name = "FILE", default_value = SOCKET_PATH)]
    socket: PathBuf,
    /// Print JSON, one object a line, for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Tells how a running relay is: its addresses, sessions, and the figures of each core.
    Status {
        #[command(flatten)]
        options: Options,
    },
    /// Lists the sessions of a running relay.
    ///
    /// IN is what came from the client, OUT what came for it, in bytes of message bodies. The state is unbound (no peer
    /// at the other side yet), bound, lost (the other side is gone) or expired.
    Sessions {
        /// Those of one user only: alice, or alice@example.com.
        #[arg(long, value_name = "USER")]
        user: Option<String>,
        #[command(flatten)]
        options: Options,
    },
    /// Ends a session: its client's connection is closed.
    Close {
        /// The beginning of the session's id, as `sessions` and the log show it.
        #[arg(value_name = "ID")]
        session: String,
        #[command(flatten)]
        options: Options,
    },
    /// Shows the heads of what a user's clients send and are sent, while it happens.
    ///
    /// Heads alone, without credentials; of a session's id the beginning. Sessions that the user opens meanwhile are shown
    /// from their first frame after the AUTH on. Ends by itself, or with Ctrl-C.
    Trace {
        /// A user, alice or alice@example.com, or the beginning of a session's id.
        #[arg(value_name = "USER|ID")]
        of: String,
        /// For how long.
        #[arg(long, value_name = "N", default_value_t = 60)]
        seconds: u64,
        #[command(flatten)]
        options: Options,
    },
    /// Stops a running relay as SIGTERM does: no new connection is accepted, sessions may end by themselves for a while.
    Drain {
        /// How long they may; otherwise drain_timeout of the config.
        #[arg(long, value_name = "N")]
        seconds: Option<u64>,
        #[command(flatten)]
        options: Options,
    },
    /// Has a running relay read its config again, as SIGHUP does, and says what came of it.
    ///
    /// A config that is wrong changes nothing: every problem is printed, and the exit status is 1.
    Reload {
        /// Where there is no admin socket, send SIGHUP to this process; only the log then says what came of it.
        // 0 and below mean groups of processes, or all, to the kernel.
        #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
        pid: Option<i32>,
        #[command(flatten)]
        options: Options,
    },
    /// Has a running relay log more, or less, until its next reload or start.
    LogLevel {
        /// The least severe lines that are written.
        #[arg(value_name = "LEVEL")]
        level: Level,
        #[command(flatten)]
        options: Options,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

pub(crate) fn run(command: &Command) -> Result<(), Reported> {
    match command {
        Command::Status { options } => put(options, &Request::Status {}),
        Command::Sessions { user, options } => put(options, &Request::Sessions { user: user.clone() }),
        Command::Close { session, options } => put(options, &Request::Close { session: session.clone() }),
        Command::Trace { of, seconds, options } => {
            put(options, &Request::Trace { of: of.clone(), seconds: *seconds })
        }
        Command::Drain { seconds, options } => put(options, &Request::Drain { seconds: *seconds }),
        Command::Reload { pid: Some(pid), options } if !options.socket.exists() => {
            let sent = rustix::process::Pid::from_raw(*pid)
                .ok_or(rustix::io::Errno::SRCH)
                .and_then(|pid| rustix::process::kill_process(pid, rustix::process::Signal::HUP));
            sent.map_err(|error| report(format!("msrprelay: process {pid}: {error}")))?;
            say::err(&format!(
                "msrprelay: {}: no such socket, so SIGHUP was sent to process {pid}: the log says what came of it",
                options.socket.display()
            ));
            Ok(())
        }
        Command::Reload { options, .. } => put(options, &Request::Reload {}),
        Command::LogLevel { level, options } => {
            let level = match level {
                Level::Error => "error",
                Level::Warn => "warn",
                Level::Info => "info",
                Level::Debug => "debug",
            };
            put(options, &Request::LogLevel { level: level.to_owned() })
        }
    }
}

/// Puts the question and prints the answer.
fn put(options: &Options, request: &Request) -> Result<(), Reported> {
    let mut sessions = Vec::new();
    let mut several = false;
    let outcome = ask(&options.socket, request, |answer| {
        let written = match answer {
            Answer::Status(status) if options.json => say::out_json(&status),
            Answer::Session(session) if options.json => say::out_json(&session),
            Answer::Session(session) => {
                sessions.push(session);
                Ok(())
            }
            Answer::Head(head) if options.json => say::out_json(&head),
            Answer::Head(head) => say::out_lines(&sketched(&head)),
            Answer::Status(status) => {
                let apart = if mem::replace(&mut several, true) { "\n" } else { "" };
                say::out_lines(&format!("{apart}{}", described(&status)))
            }
            closed @ Answer::Closed { .. } if options.json => say::out_json(&closed),
            Answer::Closed { session, user, realm } => {
                say::out(&format!("{} of {}@{} ends", shown(&session), shown(&user), shown(&realm)))
            }
            Answer::Note(note) => {
                say::err(&format!("msrprelay: {}", shown(&note)));
                Ok(())
            }
            Answer::Done | Answer::Error(_) => Ok(()),
        };
        // A reader that stops early, such as `head`, has seen enough.
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            written => written.map(|()| true),
        }
    });
    let outcome = outcome.map_err(|error| report_lines(&format!("msrprelay: {error}")));
    if !sessions.is_empty() || outcome.is_ok() && !options.json && matches!(request, Request::Sessions { .. })
    {
        // As above.
        let _ = say::out_lines(&listed(sessions));
    }
    outcome
}

/// A head behind an arrow that says which way it went.
fn sketched(head: &Head) -> String {
    let Head { at_seconds, core, session, user, dropped, .. } = head;
    let way = if head.direction == "in" { "from" } else { "to" };
    let mut text = String::new();
    // Writing to a String cannot fail.
    if *dropped > 0 {
        let _ = writeln!(text, "... {dropped} dropped: more heads than can be read\n");
    }
    let _ = writeln!(text, "+{at_seconds:.3}s {way} {} ({}), core {core}", shown(user), shown(session));
    for line in head.head.lines() {
        let _ = writeln!(text, "  {}", shown(line));
    }
    text.push('\n');
    text
}

/// A process that drains after an upgrade comes second.
fn described(status: &Status) -> String {
    let Status { version, pid, state, uptime_seconds, log_level, sessions, connections, .. } = status;
    let listening = status
        .listening
        .iter()
        .map(|l| format!("{} ({})", shown(&l.address), if l.tls { "TLS" } else { "plain" }));
    let accounts = if status.accounts_ready { "available" } else { "NOT AVAILABLE: see the log" };
    let mut text = String::new();
    for (what, value) in [
        (
            "msrprelay",
            format!("{}, {} for {}, process {pid}", shown(version), shown(state), age(*uptime_seconds)),
        ),
        ("listening", joined(listening)),
        ("accounts", accounts.to_owned()),
        ("log level", shown(log_level).into_owned()),
        ("sessions", sessions.to_string()),
        ("connections", connections.to_string()),
        ("moved", moved(status)),
    ] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{what:<12} {value}");
    }
    let head = ["CORE", "CONNECTIONS", "SESSIONS", "CHUNKS IN", "CHUNKS OUT", "IN", "OUT", "RESTARTS"];
    let rows = status.cores.iter().map(|core| {
        [
            core.core.to_string(),
            core.connections.to_string(),
            core.sessions.to_string(),
            core.chunks_in.to_string(),
            core.chunks_out.to_string(),
            size(core.body_bytes_in),
            size(core.body_bytes_out),
            core.restarts.to_string(),
        ]
    });
    text.push('\n');
    text + &table(head, rows.collect())
}

/// How many sessions have come to the core of their other side, and why others have not.
fn moved(status: &Status) -> String {
    let stayed = status.stayed.iter().filter(|(_, times)| **times > 0);
    let stayed: Vec<_> = stayed.map(|(why, times)| format!("{} {times}", shown(why))).collect();
    match stayed.is_empty() {
        true => status.moved.to_string(),
        false => format!("{}; stayed: {}", status.moved, stayed.join(", ")),
    }
}

fn listed(mut sessions: Vec<Session>) -> String {
    if sessions.is_empty() {
        return "no sessions\n".to_owned();
    }
    sessions.sort_by(|a, b| (&a.user, &a.realm, b.age_seconds).cmp(&(&b.user, &b.realm, a.age_seconds)));
    let or_dash =
        |text: Option<&String>| text.map_or_else(|| "-".to_owned(), |text| shown(text).into_owned());
    let rows = sessions.iter().map(|session| {
        [
            shown(&session.session).into_owned(),
            format!("{}@{}", shown(&session.user), shown(&session.realm)),
            shown(&session.state).into_owned(),
            age(session.age_seconds),
            match session.draining_pid {
                Some(pid) => format!("{} of process {pid}", session.core),
                None => session.core.to_string(),
            },
            or_dash(session.client.as_ref()),
            or_dash(session.peer.as_ref()),
            size(session.bytes_from_client),
            size(session.bytes_to_client),
        ]
    });
    table(["SESSION", "USER", "STATE", "AGE", "CORE", "CLIENT", "PEER", "IN", "OUT"], rows.collect())
}

/// Columns as wide as they must be, two spaces between them.
fn table<const N: usize>(head: [&str; N], rows: Vec<[String; N]>) -> String {
    let head = head.map(str::to_owned);
    let all = || std::iter::once(&head).chain(&rows);
    let widths: [usize; N] =
        std::array::from_fn(|at| all().map(|row| row[at].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in all() {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn age(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, ..) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0);
    format!("{value:.digits$} {}", UNITS.get(unit).unwrap_or(&"B"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Arguments;
    use clap::Parser as _;

    #[test]
    fn a_signal_is_sent_to_one_process() {
        let parsed = |pid: &str| Arguments::try_parse_from(["msrprelay", "reload", pid]);
        assert!(parsed("--pid=1").is_ok());
        for pid in ["--pid=0", "--pid=-1", "--pid=-300"] {
            assert!(parsed(pid).is_err(), "{pid}");
        }
    }

    #[test]
    fn ages_and_sizes_are_short() {
        let ages = [0, 59, 60, 3599, 3600, 90_000].map(age);
        assert_eq!(ages, ["0s", "59s", "1m00s", "59m59s", "1h00m", "1d01h"]);
        let sizes = [0, 1023, 1024, 1536, 1 << 20, u64::MAX].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "16777216.0 TiB"]);
    }

    #[test]
    fn columns_are_aligned() {
        let rows = vec![["ä".to_owned(), "b".to_owned()], ["long".to_owned(), String::new()]];
        assert_eq!(table(["X", "Y"], rows), "X     Y\nä     b\nlong\n");
    }
}
