//! What the programs say to a person, or to another program: the only way to standard output and standard error.
//!
//! Invariant: every line passes through [`text`], wherever its words came from. A layering test and a lint in the
//! programs guard it.

use std::io::{self, Write};

use crate::text;

/// A line of results.
///
/// # Errors
/// If standard output is closed; a caller may ignore that.
pub fn out(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", text::shown_line(line)).and_then(|()| stdout.flush())
}

/// Lines of results in our own layout. Foreign text in them must have passed through [`text::shown`], or it could add
/// lines of its own.
///
/// # Errors
/// As [`out`].
pub fn out_lines(lines: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    for line in lines.lines() {
        writeln!(stdout, "{}", text::shown_line(line))?;
    }
    stdout.flush()
}

/// An object, on a line of its own.
///
/// # Errors
/// As [`out`].
pub fn out_json(value: &impl serde::Serialize) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    text::write_json(&mut stdout, value)?;
    writeln!(stdout).and_then(|()| stdout.flush())
}

/// A text for a machine, byte for byte, without foreign text.
///
/// # Errors
/// As [`out`].
pub fn out_verbatim(own: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(own.as_bytes()).and_then(|()| stdout.flush())
}

/// A line about an event: a complaint, a warning, progress.
pub fn err(line: &str) {
    // There is no place left to report that this fails.
    let _ = writeln!(io::stderr().lock(), "{}", text::shown_line(line));
}
