//! YAML in, [`Config`] out: valid by construction, or a list of *all* its problems.
//!
//! The text becomes a `Raw` (every key read by itself, defaults in one place), and a `Raw` becomes a [`Config`] (files
//! read, names compared, CPUs checked). The user of a `Config` checks nothing again.
//!
//! Invariants: no key is silently ignored, neither an unknown one nor one whose function does not exist;
//! every problem names its key path, what is wrong and what to do; secrets are in neither problems nor `Debug`.
//! Must not know: glommio, sockets, how any of it is used. The reader of YAML is known to this module alone.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_yaml::Value;

mod accept;
mod access;
mod accounts;
mod certificates;
mod database_url;
mod egress;
mod fixed;
mod limits;
mod problems;
mod raw;
mod shared_secrets;
mod values;
mod walk;
mod websocket;

pub use accounts::{Backend, Columns, Database, MemorySecret, MemoryUser, SecretColumns, Sqlite};
pub use certificates::CertifiedPair;
pub use database_url::{Server as DatabaseServer, ServerTls};
pub use fixed::Fixed;
pub use limits::Limits;
pub use msrp_tls::RecordLayer;
pub use problems::{ConfigErrors, Problem};
use raw::Raw;
pub use shared_secrets::{SecretAlgorithm, SharedSecret};
pub use values::{
    Accounting, AccountingFormat, Auth, CaSource, Config, Dns, DnsServers, EndpointTls, Listen, Log,
    LogFormat, LogLevel, Methods, Metrics, Outbound, PlainPolicy, Sessions, Tls, UnprovenRelays,
};
pub use websocket::WebSocket;

/// A length of time as the config's keys have it: a whole number of ms, s, m, h or d.
///
/// # Errors
/// What is wrong with it, and what to write instead.
pub fn length_of_time(text: &str) -> Result<Duration, String> {
    walk::duration(&Value::from(text))
}

impl Config {
    /// Reads the file at `path`. Relative paths in it are taken from the directory it is in.
    ///
    /// # Errors
    /// All problems of the file, or that it cannot be read.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::read(path, false)
    }

    /// The same, with problems that would only show in a running relay: whether this user can open or make the files
    /// that the relay opens or makes. Opens them to find out, and makes nothing.
    ///
    /// # Errors
    /// All problems, of the file and of what it names.
    pub fn check(path: &Path) -> Result<Self, ConfigErrors> {
        Self::read(path, true)
    }

    fn read(path: &Path, opens_later: bool) -> Result<Self, ConfigErrors> {
        let origin = path.display().to_string();
        match fs::read_to_string(path) {
            Ok(text) => Self::try_from(Raw { opens_later, ..Raw::read(&text, &origin)? }),
            Err(error) => {
                let message = certificates::explain_io(path, &error);
                let told_already = format!("{origin}: ");
                let message = message.strip_prefix(&told_already).unwrap_or(&message);
                Err(ConfigErrors::whole(&origin, message.to_owned()))
            }
        }
    }

    /// Reads `text`; `origin` is the name of the file it came from, for messages and relative paths.
    ///
    /// # Errors
    /// All problems of the text and of the files it names.
    pub fn from_yaml(text: &str, origin: &str) -> Result<Self, ConfigErrors> {
        Self::try_from(Raw::read(text, origin)?)
    }
}
