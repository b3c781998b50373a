//! The problems of a config, and what to do about them.

use std::fmt;

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key path, such as `listen[1].address`; empty if it concerns the whole file.
    pub key: String,
    /// What is wrong and what to do about it.
    pub message: String,
}

/// All problems of a config; at least one. Displayed one line each.
#[derive(Debug, thiserror::Error)]
pub struct ConfigErrors {
    origin: String,
    problems: Vec<Problem>,
}

impl ConfigErrors {
    /// At least one problem with the file called `origin`.
    pub(super) fn new(origin: String, problems: Vec<Problem>) -> Self {
        Self { origin, problems }
    }

    /// One problem that concerns the file as a whole.
    pub(super) fn whole(origin: &str, message: String) -> Self {
        Self { origin: origin.to_owned(), problems: vec![Problem { key: String::new(), message }] }
    }

    /// The problems, in the order of the sections.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Problem { key, message }) in self.problems.iter().enumerate() {
            let line_break = if index == 0 { "" } else { "\n" };
            let colon = if key.is_empty() { "" } else { ": " };
            write!(f, "{line_break}{}: {key}{colon}{message}", self.origin)?;
        }
        Ok(())
    }
}
