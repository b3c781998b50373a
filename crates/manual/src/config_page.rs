//! msrprelay.yaml(5), made from config.yaml.sample, with the sample's words.
//!
//! In the sample a comment is text if a space follows its `#`, and a key otherwise. Indented text within a comment
//! keeps its lines.

use std::io;
use std::path::{Path, PathBuf};

use super::{SOURCE, escaped, write_page};

const SAMPLE: &str = include_str!("../../../config.yaml.sample");

/// Writes the page of the config under `directory`. Returns the file.
///
/// # Errors
/// If it cannot be written.
pub fn write_config_page(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    write_page(directory, ("msrprelay.yaml", "5"), &page(), &mut files)?;
    Ok(files)
}

fn page() -> String {
    let mut page = format!(
        ".TH MSRPRELAY.YAML 5 \"\" \"{SOURCE}\"\n.SH NAME\nmsrprelay.yaml \\- the config of msrprelay(8)\n\
         .SH SYNOPSIS\n/etc/msrprelay/config.yaml\n.SH DESCRIPTION\n"
    );
    let mut blocks = blocks();
    let first = if blocks.is_empty() { Vec::new() } else { blocks.remove(0) };
    // The first line is a title.
    render(first.get(1..).unwrap_or_default(), &mut page);
    page += ".SH KEYS\n";
    for block in blocks {
        if let Some(key) = block.iter().find_map(|line| key(line)) {
            page += &format!(".SS {}\n", escaped(key));
        }
        render(&block, &mut page);
    }
    page += ".SH \"SEE ALSO\"\nmsrprelay(8), msrprelay\\-check\\-config(8), config.yaml.sample\n";
    page
}

/// The text between two empty lines. Indented text after an empty line belongs to the key before it.
fn blocks() -> Vec<Vec<&'static str>> {
    let mut blocks = vec![Vec::new()];
    let mut begins = false;
    for line in SAMPLE.lines() {
        if line.is_empty() {
            begins = true;
            continue;
        }
        if begins && !line.starts_with(' ') {
            blocks.push(Vec::new());
        }
        begins = false;
        if let Some(block) = blocks.last_mut() {
            block.push(line);
        }
    }
    blocks
}

/// The key at the left margin of a line, also if it is commented out.
fn key(line: &str) -> Option<&str> {
    let line = line.strip_prefix('#').unwrap_or(line);
    let (key, _) = line.split_once(':')?;
    let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    is_key.then_some(key)
}

/// A line of the sample.
enum Line<'a> {
    /// Of a comment: its indentation and its words.
    Text(usize, &'a str),
    /// As it is.
    Literal(&'a str),
}

fn line_of(line: &str) -> Line<'_> {
    let rest = line.trim_start();
    match rest.strip_prefix('#') {
        Some("") => Line::Text(line.len() - rest.len(), ""),
        Some(text) => match text.strip_prefix(' ') {
            Some(words) if !words.starts_with(' ') => Line::Text(line.len() - rest.len(), words),
            // An item of a list that is commented out.
            Some(words) if words.trim_start().starts_with("- ") => Line::Literal(line),
            Some(_) => Line::Literal(text),
            None => Line::Literal(line),
        },
        None => Line::Literal(line),
    }
}

fn render(lines: &[&str], page: &mut String) {
    let mut within = None;
    for line in lines {
        match line_of(line) {
            Line::Text(_, "") => close(&mut within, page),
            Line::Text(indent, words) => {
                if within != Some(Within::Text(indent)) {
                    close(&mut within, page);
                    *page += &format!(".RS {indent}\n.PP\n");
                    within = Some(Within::Text(indent));
                }
                *page += &format!("{}\n", escaped(words));
            }
            Line::Literal(line) => {
                if within != Some(Within::Literal) {
                    close(&mut within, page);
                    *page += ".PP\n.EX\n";
                    within = Some(Within::Literal);
                }
                *page += &format!("{}\n", escaped(line));
            }
        }
    }
    close(&mut within, page);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Text(usize),
    Literal,
}

fn close(within: &mut Option<Within>, page: &mut String) {
    *page += match within.take() {
        Some(Within::Text(_)) => ".RE\n",
        Some(Within::Literal) => ".EE\n",
        None => "",
    };
}
