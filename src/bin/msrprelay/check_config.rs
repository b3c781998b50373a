//! `msrprelay check-config`: everything that is wrong with a config, as the relay would find it.
//!
//! Invariant: root first becomes the user that the relay runs as, and only then looks at files: what root may read says
//! nothing about what the relay may.

use std::io;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use msrprelay::config::{Backend, CaSource, Config, Listen};
#[cfg(feature = "sqlite")]
use msrprelay::control::UserFile;
use untrusted::files::{self, User};
use untrusted::say;

use crate::report::{CONFIG_PATH, Reported, joined, report, report_lines};

/// The user of deploy/msrprelay.service.
const SERVICE_USER: &str = "msrprelay";

#[derive(Args)]
pub(crate) struct Arguments {
    /// The config to check.
    #[arg(value_name = "FILE", default_value = CONFIG_PATH)]
    file: PathBuf,
    /// Check as the user that the relay runs as: a name, or numbers such as 998 or 998:997.
    ///
    /// For root; by default msrprelay, if there is such a user. Any other user checks with the rights that user has.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Reported> {
    let path = &arguments.file;
    let checked_as = become_service_user(arguments.user.as_deref())?;
    let config = Config::check(path).map_err(|errors| report_lines(&errors))?;
    #[cfg(feature = "sqlite")]
    check_accounts(&config)
        .map_err(|error| report(format!("{}: auth.sqlite.path: {error}", path.display())))?;
    // A closed standard output does not change what was found.
    let _ = say::out(&format!("OK: {}", path.display()));
    for (what, value) in summary(&config).into_iter().chain([("checked as", checked_as)]) {
        let _ = say::out(&format!("  {what:<12} {value}"));
    }
    for warning in &config.warnings {
        say::err(&format!("warning: {warning}"));
    }
    Ok(())
}

/// Returns that user, in words.
fn become_service_user(named: Option<&str>) -> Result<String, Reported> {
    let (uid, name) = (rustix::process::geteuid(), named.unwrap_or(SERVICE_USER));
    let refused = |why: &dyn std::fmt::Display| report(format!("msrprelay: --user {name}: {why}"));
    if !uid.is_root() && named.is_none() {
        return Ok(format!("the user who asks, number {}", uid.as_raw()));
    }
    let found = user(name).map_err(|error| refused(&error))?;
    match (found, named) {
        (Some(user), _) if user.uid == uid.as_raw() => Ok(format!("{name}, who asks")),
        (Some(_), _) if !uid.is_root() => Err(refused(&"only root can check as another user")),
        (Some(user), _) => {
            files::become_user(&user).map_err(|error| refused(&error))?;
            Ok(format!("{name}, number {}", user.uid))
        }
        (None, Some(_)) => Err(refused(&"there is no such user: give another name, or a number")),
        (None, None) => {
            say::err(&format!(
                "warning: checked as root, for there is no user {SERVICE_USER}: name the user the relay runs as with --user"
            ));
            Ok("root".to_owned())
        }
    }
}

/// A user by number, or by name as the system knows it; `None` if it does not.
fn user(name: &str) -> io::Result<Option<User>> {
    let (uid, gid) = name.split_once(':').unwrap_or((name, name));
    if let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) {
        return Ok(Some(User { uid, groups: vec![gid] }));
    }
    // Asks NSS, which may know users that are not in /etc/passwd.
    let ids = |option: &str| -> io::Result<Option<Vec<u32>>> {
        let output = Command::new("id").args([option, "--", name]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let ids: Option<Vec<_>> = text.split_whitespace().map(|id| id.parse().ok()).collect();
        Ok(ids.filter(|ids| output.status.success() && !ids.is_empty()))
    };
    let (uid, groups) = (ids("-u")?, ids("-G")?);
    let found = uid.and_then(|uid| uid.first().copied()).zip(groups);
    Ok(found.map(|(uid, groups)| User { uid, groups }))
}

#[cfg(feature = "sqlite")]
/// Opens the accounts as the relay does: this finds another program's file, or one of another version.
fn check_accounts(config: &Config) -> Result<(), msrprelay::control::UserFileError> {
    match &config.auth.backend {
        // Root opens nothing in another user's directory.
        Backend::Sqlite(sqlite) if matches!(files::foreign_owner(&sqlite.path), Ok(None)) => {
            match UserFile::open(&sqlite.path) {
                // The config has a warning for it.
                Err(msrprelay::control::UserFileError::Missing(_)) => Ok(()),
                opened => opened.map(|_| ()),
            }
        }
        _ => Ok(()),
    }
}

/// What an operator would want to see before a restart.
fn summary(config: &Config) -> Vec<(&'static str, String)> {
    let accounts = match &config.auth.backend {
        Backend::Memory(users) => format!("{} in memory", users.len()),
        Backend::Sqlite(sqlite) => format!("in {}", sqlite.path.display()),
        Backend::Mysql(mysql) => {
            format!("in MySQL, {}, table {}", mysql.server, mysql.columns.table.join("."))
        }
        Backend::Postgres(postgres) => {
            format!("in PostgreSQL, {}, table {}", postgres.server, postgres.columns.table.join("."))
        }
    };
    let secrets = config.auth.shared_secrets.iter().enumerate();
    let secrets = secrets.map(|(at, secret)| format!("{secret}{}", if at == 0 { " (signs)" } else { "" }));
    let credentials = match config.auth.shared_secrets.is_empty() {
        true => "none".to_owned(),
        false => joined(secrets),
    };
    let listen = |listen: &Listen| {
        let security = if listen.tls { "TLS" } else { "plain" };
        let transport = if listen.websocket { ", WebSocket" } else { "" };
        format!("{} ({security}{transport})", listen.address)
    };
    let certificates = config.tls.certificates.iter().map(|pair| {
        let path = pair.certificate_path.display();
        format!("{path} for {}", pair.names.join(", "))
    });
    let realm = config.realm.as_deref();
    let domains = config.domains.as_ref().map(|domains| domains.join(", "));
    let ca = match &config.outbound.ca {
        CaSource::System => "the system's".to_owned(),
        CaSource::File { path, .. } => path.display().to_string(),
    };
    vec![
        ("listen", joined(config.listen.iter().map(listen))),
        ("hostname", config.hostname.clone()),
        ("realm", realm.unwrap_or("the domain a client names").to_owned()),
        ("domains", domains.unwrap_or_else(|| "any".to_owned())),
        ("certificates", joined(certificates)),
        ("cores", joined(config.cores.iter().map(usize::to_string))),
        ("accounts", accounts),
        ("credentials", credentials),
        ("trusted CAs", ca),
        ("metrics", config.metrics.map_or_else(|| "none".to_owned(), |metrics| metrics.address.to_string())),
    ]
}
