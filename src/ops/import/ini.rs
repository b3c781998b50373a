//! Reads the file as its own reader does: Python's `configparser`, with the other relay's habits.
//!
//! Keys are compared with `-` read as `_` and are case-sensitive; `%%` stands for `%`; a section `[DEFAULT]` gives the
//! values that another section lacks; there are no comments after a value. A value of the wrong type counts as absent.
//! Invariant: every key that is never asked for becomes a note.

use std::collections::HashSet;

use ini::{Ini, ParseOption};

use super::outcome::{ImportError, Note};

/// Sections that the other relay reads for a backend of its own, which asks a network of servers for accounts.
const NO_COUNTERPART: [&str; 2] = ["SIPThor", "ThorNetwork"];
/// The section whose values all others inherit.
const INHERITED: &str = "DEFAULT";

/// A file, the keys that were asked for, and the notes about it.
#[derive(Debug)]
pub(super) struct File {
    sections: Vec<Section>,
    asked: HashSet<(String, String)>,
    notes: Vec<Note>,
}

struct Section {
    name: String,
    values: Vec<(String, String)>,
}

/// Only names: any value may be a password.
impl std::fmt::Debug for Section {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.values.iter().map(|(key, _)| key).collect();
        f.debug_struct("Section").field("name", &self.name).field("keys", &names).finish()
    }
}

impl File {
    pub(super) fn parse(text: &str) -> Result<Self, ImportError> {
        let options = ParseOption {
            enabled_quote: false,
            enabled_escape: false,
            enabled_indented_mutiline_value: true,
            enabled_preserve_key_leading_whitespace: false,
        };
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let parsed = Ini::load_from_str_opt(text, options)
            .map_err(|error| ImportError::NotIni { line: error.line, message: words(&error.msg) })?;
        let sections = parsed.iter().map(|(name, values)| Section {
            name: name.unwrap_or_default().to_owned(),
            values: values
                .iter()
                .map(|(key, value)| (key.replace('-', "_"), value.replace("%%", "%")))
                .collect(),
        });
        // The parser begins with the part before the first section, which is empty in every valid file.
        let sections = sections.filter(|section| !section.name.is_empty() || !section.values.is_empty());
        Ok(Self { sections: sections.collect(), asked: HashSet::new(), notes: Vec::new() })
    }

    pub(super) fn has(&self, section: &str) -> bool {
        self.sections.iter().any(|there| there.name == section)
    }

    /// The value of `key`, empty or not.
    pub(super) fn text(&mut self, section: &str, key: &str) -> Option<String> {
        let home = [section, INHERITED].into_iter().find(|name| self.value(name, key).is_some())?;
        self.asked.insert((home.to_owned(), key.to_owned()));
        self.value(home, key).map(str::to_owned)
    }

    /// The value of `key`, unless it is empty: the other relay writes "not set" as an empty text.
    pub(super) fn set(&mut self, section: &str, key: &str) -> Option<String> {
        self.text(section, key).filter(|value| !value.is_empty())
    }

    /// The value of `key`, parsed by `read`. A value that fails counts as absent, as in the other relay, and becomes a
    /// note.
    pub(super) fn read<T>(
        &mut self,
        section: &str,
        key: &str,
        what: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let value = self.text(section, key)?;
        let read = read(&value);
        if read.is_none() {
            let message = format!(
                "is not {what}; the other relay ignored it and used its default, which is carried over"
            );
            self.note(section, key, message);
        }
        read
    }

    /// All keys of a section, which is asked for as a whole.
    pub(super) fn all(&mut self, section: &str) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for there in self.sections.iter().filter(|there| there.name == section) {
            for (key, value) in &there.values {
                self.asked.insert((section.to_owned(), key.clone()));
                all.push((key.clone(), value.clone()));
            }
        }
        all
    }

    /// Marks a whole section as done, with one note about it.
    pub(super) fn leave_out(&mut self, section: &str, message: String) {
        if !self.all(section).is_empty() {
            self.notes.push(Note { key: section.to_owned(), message });
        }
    }

    pub(super) fn note(&mut self, section: &str, key: &str, message: impl Into<String>) {
        self.notes.push(Note { key: format!("{section}.{key}"), message: message.into() });
    }

    /// All notes, including those about keys that were never asked for.
    pub(super) fn into_notes(self) -> Vec<Note> {
        let mut notes = self.notes;
        for section in &self.sections {
            for (key, _) in &section.values {
                if !self.asked.contains(&(section.name.clone(), key.clone())) {
                    let key =
                        if section.name.is_empty() { key.clone() } else { format!("{}.{key}", section.name) };
                    let message = if NO_COUNTERPART.contains(&section.name.as_str()) {
                        "belongs to the other relay's backend sipthor, which has no counterpart here: not carried over"
                    } else {
                        "is not a key that the other relay reads: not carried over"
                    };
                    let message = message.to_owned();
                    notes.push(Note { key, message });
                }
            }
        }
        notes
    }

    /// Of several values of one key the last one counts.
    fn value(&self, section: &str, key: &str) -> Option<&str> {
        let values =
            self.sections.iter().filter(|there| there.name == section).flat_map(|there| &there.values);
        values.filter(|(name, _)| name == key).map(|(_, value)| value.as_str()).next_back()
    }
}

// -- readers ---------------------------------------------------------------------------------------

pub(super) fn boolean(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "yes" | "true" | "on" => Some(true),
        "0" | "no" | "false" | "off" => Some(false),
        _ => None,
    }
}

pub(super) fn whole_number(value: &str) -> Option<i64> {
    value.parse().ok()
}

/// The parser's message in words for an operator.
fn words(message: &str) -> String {
    match message.starts_with("expecting") {
        true => "the line before is neither `[Section]` nor `key = value`".to_owned(),
        false => message.to_owned(),
    }
}
