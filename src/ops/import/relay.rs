//! The section `[Relay]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use rustls_pki_types::ServerName;

use super::ini::{File, boolean, whole_number};

const SECTION: &str = "Relay";
/// Where the other relay looks for files that are not beside its config.
const DIRECTORY: &str = "/etc/msrprelay";
const PORT: u16 = 2855;
/// Our bounds of a session's times, in seconds.
const EXPIRES_SECONDS: (i64, i64) = (1, 86_400);

/// What the section says, in our terms.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    pub(super) tls: bool,
    pub(super) hostname: Option<String>,
    pub(super) realm: Option<String>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) challenge_seconds: i64,
    pub(super) max_attempts: i64,
    pub(super) log_failures: bool,
    pub(super) expires: Expires,
    pub(super) allow_other: bool,
    pub(super) log_level: LogLevel,
    pub(super) backend: String,
}

/// Seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expires {
    pub(super) min: i64,
    pub(super) default: i64,
    pub(super) max: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogLevel {
    /// As the file says.
    Said(&'static str),
    /// The other relay logs everything by default; ours does not.
    Unsaid,
}

impl Relay {
    pub(super) fn read(file: &mut File, directory: &Path) -> Self {
        let tls = !flag(file, "debug_notls", false);
        let address = address(file);
        let hostname = hostname(file, tls, address);
        let mut path = |key| {
            let path = file.set(SECTION, key);
            if path.is_none() && tls {
                file.note(SECTION, key, "is missing, and without it neither relay starts: write it by hand");
            }
            path.map(|path| resolve(&path, directory))
        };
        let (certificate, key) = (path("certificate"), path("key"));
        Self {
            address,
            tls,
            hostname,
            realm: realm(file),
            certificate,
            key,
            challenge_seconds: number(file, "auth_challenge_expiration_time", 15, (1, 300)),
            max_attempts: number(file, "max_auth_attempts", 3, (1, 100)),
            log_failures: flag(file, "log_failed_auth", false),
            expires: expires(file),
            allow_other: flag(file, "allow_other_methods", true),
            log_level: log_level(file),
            backend: file
                .set(SECTION, "backend")
                .unwrap_or_else(|| "database".to_owned())
                .to_ascii_lowercase(),
        }
    }
}

fn flag(file: &mut File, key: &str, default: bool) -> bool {
    file.read(SECTION, key, "yes or no", boolean).unwrap_or(default)
}

/// A number within our bounds, or the bound, with a note.
fn number(file: &mut File, key: &str, default: i64, (low, high): (i64, i64)) -> i64 {
    let value = file.read(SECTION, key, "a whole number", whole_number).unwrap_or(default);
    let bounded = value.clamp(low, high);
    if bounded != value {
        file.note(
            SECTION,
            key,
            format!("{value} is not between {low} and {high}: {bounded} is written instead"),
        );
    }
    bounded
}

fn address(file: &mut File) -> SocketAddr {
    let anywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    let Some(value) = file.set(SECTION, "address") else { return anywhere };
    if value.eq_ignore_ascii_case("default") || value.eq_ignore_ascii_case("none") {
        file.note(SECTION, "address", format!("{value} names no port: {anywhere} is written instead"));
        return anywhere;
    }
    let (host, port) = match value.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok_and(|port| port > 0) => (host, port.parse().ok()),
        _ => (value.as_str(), None),
    };
    let host = if host.eq_ignore_ascii_case("any") { "0.0.0.0" } else { host.trim_matches(['[', ']']) };
    let Some(ip) = msrp_proto::address::parse(host) else {
        let message = format!(
            "{value} is no address: {anywhere} is written instead; put the address of that name there"
        );
        file.note(SECTION, "address", message);
        return anywhere;
    };
    if port.is_none() {
        let message =
            format!("{value} has no port, for which the other relay took any: {PORT} is written instead");
        file.note(SECTION, "address", message);
    }
    SocketAddr::new(ip, port.unwrap_or(PORT))
}

/// Without a certificate there is none to take the name from.
fn hostname(file: &mut File, tls: bool, address: SocketAddr) -> Option<String> {
    let written = file.set(SECTION, "hostname");
    let usable = written.filter(|name| {
        let usable = ServerName::try_from(name.as_str()).is_ok() && !name.ends_with('.');
        if !usable {
            file.note(
                SECTION,
                "hostname",
                format!("{name} is not a host name: not carried over; write it by hand"),
            );
        }
        usable
    });
    if usable.is_some() || tls {
        return usable;
    }
    if address.ip().is_unspecified() {
        let message = "is missing. The other relay took this machine's own address; write a name that clients can \
                       resolve by hand";
        file.note(SECTION, "hostname", message);
        return None;
    }
    Some(address.ip().to_string())
}

fn realm(file: &mut File) -> Option<String> {
    let realm = file.set(SECTION, "default_domain")?;
    let plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if realm.len() <= 255 && realm.bytes().all(plain) {
        return Some(realm);
    }
    file.note(SECTION, "default_domain", "is not fit for a realm: not carried over; write `realm` by hand");
    None
}

fn expires(file: &mut File) -> Expires {
    let name = |which: &str| format!("session_expiration_time_{which}");
    let mut read = |which: &str, default| number(file, &name(which), default, EXPIRES_SECONDS);
    let (min, default, max) = (read("minimum", 60), read("default", 600), read("maximum", 3600));
    let ordered = Expires { min, default: default.max(min), max: max.max(default).max(min) };
    if ordered.default != default {
        let message = format!("{default} is below the minimum: {} is written instead", ordered.default);
        file.note(SECTION, &name("default"), message);
    }
    if ordered.max != max {
        let message =
            format!("{max} is below the default or the minimum: {} is written instead", ordered.max);
        file.note(SECTION, &name("maximum"), message);
    }
    ordered
}

fn log_level(file: &mut File) -> LogLevel {
    let named = |value: &str| match value.to_ascii_uppercase().as_str() {
        "CRITICAL" | "ERROR" => Some("error"),
        "WARNING" => Some("warn"),
        "INFO" => Some("info"),
        "DEBUG" | "NOTSET" => Some("debug"),
        number => match number.parse::<u32>().ok()? {
            41.. => Some("error"),
            31..=40 => Some("error"),
            21..=30 => Some("warn"),
            11..=20 => Some("info"),
            _ => Some("debug"),
        },
    };
    let written = file.text(SECTION, "log_level").unwrap_or_default();
    let level = file.read(SECTION, "log_level", "a log level", named);
    if written.eq_ignore_ascii_case("critical") {
        file.note(SECTION, "log_level", "there is no level CRITICAL here: error is written instead");
    }
    level.map_or(LogLevel::Unsaid, LogLevel::Said)
}

/// The other relay looks beside its config, then in its system directory.
fn resolve(path: &str, directory: &Path) -> PathBuf {
    let beside = directory.join(path);
    if beside.exists() { beside } else { Path::new(DIRECTORY).join(path) }
}
