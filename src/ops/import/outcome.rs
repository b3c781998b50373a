//! The result of an import beside the config: notes, or an error.

use std::fmt;

/// One key or section that was not carried over unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Section and key, or only a section.
    pub key: String,
    /// What happened to it, and why.
    pub message: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// Whether passwords are in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// As they are: for a file that only its owner can read.
    Written,
    /// Replaced by a word that says so: for terminals and logs.
    LeftOut,
}

/// Why a file cannot be imported at all.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It is not an INI file.
    #[error(
        "line {line}: {message}: correct the line; the file must be one that the other relay starts with"
    )]
    NotIni {
        /// The line, counted from 1.
        line: usize,
        /// What the parser expected there.
        message: String,
    },
    /// It has no section of the other relay.
    #[error("has no section [Relay]: it is not the config.ini of that relay")]
    NotThatRelay,
}
