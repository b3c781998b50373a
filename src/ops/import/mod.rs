//! The INI file of the Python relay, turned into a config of ours.
//!
//! The other relay's rules apply as in that relay: a value that it ignores, or replaces by its default, is not carried
//! over. Its defaults are written out where ours differ.
//!
//! Invariants: every key of the file is either in the config or named in [`Imported::notes`]; no note and no `Debug`
//! holds a password, or any part of the database's URL; the config passes `check-config` once the certificate files
//! exist, unless a note says what must be written by hand. Must not know how our config is read. The command's tests
//! compare the two.

use std::path::Path;

mod accounts;
mod ini;
mod outcome;
mod relay;
mod yaml;

use accounts::Accounts;
use ini::File;
pub use outcome::{ImportError, Note, Secrets};
use relay::Relay;

/// A config made from another relay's file.
#[derive(Debug)]
pub struct Imported {
    relay: Relay,
    accounts: Accounts,
    /// What was not carried over unchanged, in the order of the file's sections.
    pub notes: Vec<Note>,
}

/// Reads the other relay's config. `directory` is where the file is: relative paths in it begin there.
///
/// # Errors
/// If the text is not an INI file, or another program's.
pub fn import(text: &str, directory: &Path) -> Result<Imported, ImportError> {
    let mut file = File::parse(text)?;
    if !file.has("Relay") {
        return Err(ImportError::NotThatRelay);
    }
    let relay = Relay::read(&mut file, directory);
    let accounts = Accounts::read(&mut file, &relay);
    Ok(Imported { relay, accounts, notes: file.into_notes() })
}

impl Imported {
    /// The config, with comments; `origin` is the name of the file it came from.
    #[must_use]
    pub fn yaml(&self, origin: &str, secrets: Secrets) -> String {
        yaml::write(&self.relay, &self.accounts, &self.notes, origin, secrets)
    }

    /// Whether [`Secrets::Written`] makes a difference.
    #[must_use]
    pub fn holds_secrets(&self) -> bool {
        self.accounts.hold_secrets()
    }
}

#[cfg(test)]
mod tests;
